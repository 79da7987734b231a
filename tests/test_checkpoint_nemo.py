"""NeMo archives: every tensor in its place, at any number of shards, and what cannot be opened is named."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from nemo_writer import VOCABULARY, archive_members, members_of, spiece, tar_of, whole_tensors

from mt5.checkpoint import open_checkpoint
from mt5.checkpoint.file import File
from mt5.checkpoint.nemo import join, rename
from mt5.checkpoint.nemo_config import model_config, padded_rows, read_config, stack_settings
from mt5.checkpoint.weights import FileTensor, check
from mt5.errors import CheckpointError
from mt5.model import MT5
from mt5.parallel import Shard

DATA = Path(__file__).parent / "data"
TINY = DATA / "nemo_tiny_tp2.nemo"
CPU = torch.device("cpu")

STACK = {
    "arch": "transformer",
    "hidden_size": 16,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 6,
    "ffn_hidden_size": 24,
    "activation": "geglu",
    "normalization": "rmsnorm",
    "bias": False,
    "position_embedding_type": "relative",
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "apply_query_key_layer_scaling": True,
    "layernorm_epsilon": "1e-06",
    "bias_activation_fusion": False,
}
DECODER = STACK | {"num_layers": 1, "num_attention_heads": 2, "ffn_hidden_size": 40, "activation": "swiglu"}
NESTED = {"make_vocab_size_divisible_by": 8, "encoder": STACK, "decoder": DECODER}
ROWS = 144  # 26 pieces, <cls>, <sep>, <mask>, <pad>, 100 sentinels: 130, rounded up to a multiple of 16


@pytest.fixture(scope="module")
def proto():
    return spiece()


@pytest.fixture
def nested(tmp_path, proto):
    """An archive with nested blocks, relative positions, RMSNorm, no biases, no sentinels in its spm."""
    tensors = whole_tensors(STACK, DECODER, ROWS)

    def write(ranks=2, layout="mp", mode="w", settings=NESTED):
        return tar_of(
            tmp_path / f"{layout}{ranks}.nemo", archive_members(settings, tensors, proto, ranks, layout), mode
        )

    return tensors, write


def loaded(path, shard=Shard()):
    """The weights by their own names: in place, none is fused."""
    checkpoint = open_checkpoint(path)
    return checkpoint.load(dtype=torch.float32, device=CPU, shard=shard, in_place=True).state_dict()


@dataclass(frozen=True)
class Shape:
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.bfloat16


@pytest.mark.parametrize("ranks, rows", [(1, 250_112), (2, 250_112), (4, 250_368), (8, 250_880)])
def test_the_published_3b_configuration_accounts_for_all_873_keys(ranks, rows):
    settings = read_config((DATA / "nemo_3b_config.yaml").read_bytes(), "3B")
    tokenizer = SimpleNamespace(vocab_size=250_104, bos_id=250_103, eos_id=1, pad_id=0)
    assert padded_rows(settings, tokenizer.vocab_size, ranks) == rows
    config = model_config(settings, tokenizer, rows, tied_head=True, label="3B")
    parts = []
    keys = json.loads((DATA / "nemo_3b_keys.json").read_text())
    assert len(keys) == 873
    for key, at_two, full, dim, _ in keys:
        shape = [rows if size == 250_112 else size for size in full]
        if dim is not None:
            shape[dim] //= ranks
        assert ranks != 2 or shape == at_two
        parts.append((key, Shape(tuple(shape))))
    weights = rename(join([dict(parts)] * ranks, "3B"), config)
    for rank in range(ranks):
        with torch.device("meta"):
            model = MT5(config, Shard(rank, ranks))
        check(weights, model, "3B")
    unique = sum(torch.Size(tensor.shape).numel() for tensor in weights.values())
    assert unique == 3_233_116_416 + (rows - 250_112) * 2049


def test_a_fused_projection_is_taken_apart_by_head(nested):
    tensors, write = nested
    fused = tensors["enc_dec_model.encoder.model.layers.1.self_attention.query_key_value.weight"][0]
    cross = tensors["enc_dec_model.decoder.model.layers.0.inter_attention.key_value.weight"][0]
    weights = loaded(write())
    by_head = [fused[6 * n : 6 * n + 6] for n in range(12)]
    for place, name in enumerate(("query", "key", "value")):
        found = weights[f"encoder.layers.1.self_attention.{name}.weight"]
        assert torch.equal(found, torch.cat(by_head[place::3]))
    by_head = [cross[6 * n : 6 * n + 6] for n in range(4)]
    for place, name in enumerate(("key", "value")):
        found = weights[f"decoder.layers.0.cross_attention.{name}.weight"]
        assert torch.equal(found, torch.cat(by_head[place::2]))


def test_every_other_tensor_keeps_its_numbers_under_its_new_name(nested):
    tensors, write = nested
    weights = loaded(write())
    encoder, top = (f"enc_dec_model.{side}.model.layers.0" for side in ("encoder", "decoder"))
    names = {
        VOCABULARY: "embedding.weight",
        "tokens_head.bias": "head.bias",
        "enc_dec_model.encoder.model.final_layernorm.weight": "encoder.final_norm.weight",
        f"{top}.input_layernorm.weight": "decoder.layers.0.self_attention_norm.weight",
        f"{top}.post_attention_layernorm.weight": "decoder.layers.0.cross_attention_norm.weight",
        f"{top}.post_inter_attention_layernorm.weight": "decoder.layers.0.feed_forward_norm.weight",
        f"{top}.self_attention.dense.weight": "decoder.layers.0.self_attention.output.weight",
        f"{top}.inter_attention.query.weight": "decoder.layers.0.cross_attention.query.weight",
        f"{top}.inter_attention.dense.weight": "decoder.layers.0.cross_attention.output.weight",
        f"{top}.mlp.dense_h_to_4h.weight": "decoder.layers.0.feed_forward.gate.weight",
        f"{top}.mlp.dense_h_to_4h_2.weight": "decoder.layers.0.feed_forward.up.weight",
        f"{top}.mlp.dense_4h_to_h.weight": "decoder.layers.0.feed_forward.down.weight",
        f"{encoder}.post_attention_layernorm.weight": "encoder.layers.0.feed_forward_norm.weight",
    }
    for side in ("encoder", "decoder"):
        table = f"{side}_relative_position_embedding.relative_position_embedding.weight"
        names[table] = f"{side}.relative_bias.weight"
    for theirs, own in names.items():
        assert torch.equal(weights[own], tensors[theirs][0]), own


def test_the_facts_of_nested_blocks_are_each_stacks_own(nested):
    config = open_checkpoint(nested[1]()).config
    assert (config.encoder.num_layers, config.decoder.num_layers) == (2, 1)
    assert (config.encoder.num_heads, config.decoder.num_heads) == (4, 2)
    assert (config.encoder.activation, config.decoder.activation) == ("gelu", "silu")
    assert config.encoder.norm == "rms" and config.encoder.norm_eps == 1e-6
    assert not config.encoder.linear_bias
    assert config.encoder.positions == "relative" and config.max_positions is None
    assert (config.encoder.num_buckets, config.encoder.max_distance) == (8, 20)
    assert config.encoder.relative_bias_times_layer
    assert config.encoder.score_scale == 6**-0.5
    assert (config.vocab_size, config.padded_vocab_size) == (130, 144)
    assert config.masked_score == -10_000 and config.pad_masks_target and not config.source_eos


@pytest.mark.parametrize("layout, ranks, mode", [("mp", 2, "w:gz"), ("tp_pp", 2, "w"), ("top", 1, "w")])
def test_every_layout_opens_alike(nested, layout, ranks, mode):
    _, write = nested
    settings = NESTED | {"make_vocab_size_divisible_by": 8 * 2 // ranks}
    found, expected = loaded(write(ranks, layout, mode, settings)), loaded(write())
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_an_unpacked_archive_opens_as_a_folder(nested, tmp_path):
    path = nested[1]()
    for name, data in members_of(path).items():
        target = tmp_path / "unpacked" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    found, expected = loaded(tmp_path / "unpacked"), loaded(path)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_two_stored_shards_load_into_any_number_of_ranks(size):
    whole = loaded(TINY)
    checkpoint = open_checkpoint(TINY)
    models = [
        checkpoint.load(dtype=torch.float32, device=CPU, shard=Shard(rank, size), in_place=True)
        for rank in range(size)
    ]
    for name, dim in models[0].partition().items():
        parts = [model.state_dict()[name] for model in models]
        joined = parts[0] if dim is None else torch.cat(parts, dim)
        assert torch.equal(joined, whole[name]), name


def test_ranks_that_do_not_divide_the_heads_are_named():
    with pytest.raises(CheckpointError, match="cannot be cut over 3 ranks"):
        open_checkpoint(TINY).load(dtype=torch.float32, device=CPU, shard=Shard(0, 3))


FLAT = {"bias": True}


@pytest.mark.parametrize(
    "settings, fused",
    [
        ({}, True),
        ({"bias": False}, False),
        ({"bias_activation_fusion": False}, False),
        ({"bias_gelu_fusion": False}, False),
        ({"bias_gelu_fusion": True, "bias_activation_fusion": False}, True),
        ({"bias_gelu_fusion": False, "bias_activation_fusion": True}, False),
        ({"encoder": {}}, True),
        ({"encoder": {"bias_activation_fusion": False}}, False),
        ({"encoder": {"bias_gelu_fusion": False}}, True),
    ],
)
def test_the_flag_that_chooses_exact_gelu_is_read_as_nemo_reads_it(settings, fused):
    assert stack_settings(settings, "encoder")["fused"] is fused


def test_a_decoder_with_embeddings_and_positions_of_its_own_keeps_them(tmp_path, proto):
    stack = STACK | {"position_embedding_type": "learned_absolute", "normalization": "layernorm"}
    tensors = whole_tensors(stack, stack, ROWS, positions=20)
    words, positions = (f"decoder_embedding.{kind}_embeddings.weight" for kind in ("word", "position"))
    tensors[words] = (torch.randn(ROWS, 16), 0)
    tensors[positions] = (torch.randn(20, 16), None)
    settings = NESTED | {"encoder": stack, "decoder": dict(stack), "share_token_embeddings": False}
    settings["max_position_embeddings"] = 20
    path = tar_of(tmp_path / "x.nemo", archive_members(settings, tensors, proto, 2))
    weights = loaded(path)
    assert torch.equal(weights["decoder_embedding.weight"], tensors[words][0])
    assert torch.equal(weights["decoder_positions.weight"], tensors[positions][0])
    assert torch.equal(weights["embedding.weight"], tensors[VOCABULARY][0])


def edited(tmp_path, change, source=TINY):
    """The tiny archive with a changed configuration."""
    members = members_of(source)
    settings = yaml.safe_load(members["model_config.yaml"])
    change(settings)
    members["model_config.yaml"] = yaml.safe_dump(settings, sort_keys=False).encode()
    return tar_of(tmp_path / "edited.nemo", members)


@pytest.mark.parametrize(
    "name, value",
    [
        ("transformer_block_type", "post_ln"),
        ("transformer_block_type", "normformer"),
        ("headscale", True),
        ("encoder_arch", "perceiver"),
        ("pipeline_model_parallel_size", 2),
        ("normalization", "layernorm1p"),
        ("megatron_legacy", True),
        ("openai_gelu", True),
        ("activation", "squared-relu"),
        ("position_embedding_type", "rope"),
        ("num_moe_experts", 4),
        ("onnx_safe", True),
        ("target", "nemo.collections.nlp.models.MegatronGPTModel"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, name, value):
    path = edited(tmp_path, lambda settings: settings.update({name: value}))
    with pytest.raises(CheckpointError, match=f"not supported.*{name.removeprefix('encoder_')}: {value}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_layers": 10**6}, "num_layers"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "${oc.env:HOME}"}, r"hidden_size is '\$\{oc.env:HOME\}'"),
        ({"layernorm_epsilon": "small"}, "layernorm_epsilon"),
        ({"ffn_hidden_size": 2**31}, "d_ff"),
        ({"make_vocab_size_divisible_by": 100}, "need 1,200"),
        ({"tensor_model_parallel_size": 4}, "rank 2, 3 missing"),
        ({"tensor_model_parallel_size": 1}, "rank 1 too many"),
        ({"tokenizer": {"library": "megatron"}}, "tokenizer library: megatron"),
        ({"tokenizer": None}, "tokenizer library"),
        ({"tokenizer": {"library": "sentencepiece", "model": "nemo:gone.model"}}, "'gone.model'"),
    ],
)
def test_an_impossible_configuration_is_named(tmp_path, change, message):
    path = edited(tmp_path, lambda settings: settings.update(change))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_all_wrong_weights_are_named_at_once(tmp_path):
    def change(settings):
        settings["num_layers"], settings["ffn_hidden_size"] = 1, 80

    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(edited(tmp_path, change)).check()
    assert "unexpected" in str(caught.value) and "wrong shape" in str(caught.value)
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(edited(tmp_path, lambda settings: settings.update(num_layers=3))).check()


def test_ranks_that_disagree_are_named(tmp_path):
    members = members_of(TINY)
    other = torch.load(tar_rank(members, tmp_path), weights_only=True)
    name = "enc_dec_model.enc_dec_model.encoder.model.final_layernorm.weight"
    other[name][0] += 1
    torch.save(other, tmp_path / "rank.ckpt")
    members["mp_rank_01/model_weights.ckpt"] = (tmp_path / "rank.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"final_layernorm.weight should be the same .* rank 1"):
        open_checkpoint(tar_of(tmp_path / "odd.nemo", members))
    del other[name]
    torch.save(other, tmp_path / "rank.ckpt")
    members["mp_rank_01/model_weights.ckpt"] = (tmp_path / "rank.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"rank 1 differs from rank 0 in .*final_layernorm.weight"):
        open_checkpoint(tar_of(tmp_path / "odd.nemo", members))


def tar_rank(members, tmp_path):
    path = tmp_path / "one.ckpt"
    path.write_bytes(members["mp_rank_01/model_weights.ckpt"])
    # the stored tensors say that they were on a GPU
    torch.save(torch.load(path, map_location="cpu", weights_only=True), path)
    return path


def test_half_precision_is_read_from_the_tensors_not_from_the_configuration(tmp_path):
    path = edited(tmp_path, lambda settings: settings.update(precision=32))
    assert open_checkpoint(path).dtype == torch.bfloat16


def test_stacks_that_share_their_settings_by_an_alias_are_read():
    config = read_config(b"encoder: &s {num_layers: 2}\ndecoder: *s\n", "x")
    assert config["encoder"] == config["decoder"] == {"num_layers": 2}


@pytest.mark.parametrize("most", [None, 7, 1_000])
def test_rows_are_read_to_their_places_also_where_a_call_reads_less_than_asked(tmp_path, monkeypatch, most):
    numbers = torch.arange(1_500 * 3, dtype=torch.float32).view(1_500, 3)
    path = tmp_path / "numbers"
    path.write_bytes(b"head" + numbers.numpy().tobytes())
    read = os.preadv

    def short(descriptor, views, offset):
        if most is None:
            return read(descriptor, views, offset)
        done = 0
        for view in views:
            part = view[: most - done]
            done += read(descriptor, [part], offset + done) if len(part) else 0
        return done

    monkeypatch.setattr(os, "preadv", short)
    out = torch.full((1_500, 5), -1.0)
    FileTensor((1_500, 3), torch.float32, File.open(path), 4).read_into(out[:, 1:4], 0, 0)
    assert torch.equal(out[:, 1:4], numbers)
    assert (out[:, [0, 4]] == -1).all()
