"""Hugging Face folders: T5, mT5 and umT5 in every form of weights, with transformers' own logits."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mt5.checkpoint import open_checkpoint
from mt5.checkpoint.huggingface import feed_forward
from mt5.errors import CheckpointError

DATA = Path(__file__).parent / "data"
HF = DATA / "hf_tiny_mt5"
CPU = torch.device("cpu")
TOLERANCE = 1e-4  # another order of summation in float32
SIZES = {
    "vocab_size": 1100,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}


def folder_of(tmp_path, kind, *, own_head, **options):
    """A random network saved by transformers; the folder and the network as transformers reads it again."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **options)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(SIZES["vocab_size"], SIZES["d_model"]))
    weights = {
        name: tensor.clone() for name, tensor in model.state_dict().items() if "embed_tokens" not in name
    }
    if not own_head:
        del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = config.to_dict() | {"tie_word_embeddings": options.get("tie_word_embeddings", True)}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    shutil.copy(HF / "spiece.model", tmp_path)
    reference = getattr(transformers, f"{kind}ForConditionalGeneration").from_pretrained(
        tmp_path, dtype=torch.float32
    )
    return reference.eval()


@pytest.mark.parametrize(
    "kind, own_head, options",
    [
        ("T5", False, {"feed_forward_proj": "relu"}),
        ("T5", True, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        ("T5", False, {"feed_forward_proj": "gated-silu"}),
        ("MT5", True, {"tie_word_embeddings": False}),
        ("MT5", False, {"feed_forward_proj": "gelu"}),
        ("UMT5", False, {}),
        ("UMT5", True, {}),
    ],
    ids=["t5 1.0", "t5 1.1", "t5 silu", "mt5", "mt5 tied", "umt5 tied", "umt5"],
)
@torch.inference_mode()
def test_logits_are_those_of_transformers(tmp_path, kind, own_head, options):
    with torch.inference_mode(False):
        reference = folder_of(tmp_path, kind, own_head=own_head, **options)
    source = torch.randint(3, 1000, (2, 30))
    target = torch.randint(3, 1000, (2, 25))
    expected = reference(input_ids=source, decoder_input_ids=target).logits
    model = open_checkpoint(tmp_path).load(dtype=torch.float32, device=CPU)
    found = model.logits(model.decode(target, model.start(model.encode(source))))
    scale = max(1.0, expected.abs().max().item())
    assert (found - expected).abs().max().item() <= TOLERANCE * scale


def weights(path):
    return open_checkpoint(path).load(dtype=torch.float32, device=CPU).state_dict()


@pytest.fixture
def bare(tmp_path):
    """The tiny folder without its weights, and the weights."""
    for name in ("config.json", "spiece.model"):
        shutil.copyfile(HF / name, tmp_path / name)
    return tmp_path, load_file(HF / "model.safetensors")


def assert_equal(folder):
    found, expected = weights(folder), weights(HF)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_weights_in_several_safetensors_open_by_their_index(bare):
    folder, tensors = bare
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(folder)
    assert len(open_checkpoint(folder).files) == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("outside", ["../x.safetensors", "/etc/passwd"])
def test_an_index_that_points_elsewhere_is_refused(bare, outside):
    (bare[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": outside}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        open_checkpoint(bare[0])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_pytorch_bin_opens_with_its_copies_of_the_embedding(bare, zipped):
    folder, tensors = bare
    copies = {f"{side}.embed_tokens.weight": tensors["shared.weight"] for side in ("encoder", "decoder")}
    torch.save(tensors | copies, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_equal(folder)


def test_transposed_tensors_and_parameters_open_from_a_pytorch_bin(bare):
    folder, tensors = bare
    odd = {name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
    odd["shared.weight"] = torch.nn.Parameter(odd["shared.weight"])
    torch.save(odd, folder / "pytorch_model.bin")
    assert_equal(folder)


def test_a_head_equal_to_the_embedding_is_kept_once(bare):
    folder, tensors = bare
    tensors["lm_head.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.tied_head
    assert checkpoint.parameters == open_checkpoint(HF).parameters - tensors["shared.weight"].numel()


def test_every_faulty_weight_is_named_at_once(bare):
    folder, tensors = bare
    del tensors["encoder.final_layer_norm.weight"]
    tensors["extra.weight"] = torch.zeros(2)
    tensors["decoder.final_layer_norm.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).check()
    for part in (
        "encoder.final_norm.weight",
        "extra.weight",
        "decoder.final_norm.weight is [3], expected [48]",
    ):
        assert part in str(caught.value)


def test_other_embeddings_in_the_decoder_are_refused(bare):
    folder, tensors = bare
    tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not supported: decoder.embed_tokens.weight"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"feed_forward_proj": "gated-gelu"}, ("gelu_tanh", True)),
        ({"feed_forward_proj": "gelu"}, ("gelu", False)),
        ({"feed_forward_proj": "relu"}, ("relu", False)),
        ({"feed_forward_proj": "gated-silu"}, ("silu", True)),
        ({}, ("gelu_tanh", True)),
        ({"model_type": "t5"}, ("relu", False)),
    ],
)
def test_the_activation_is_read_as_transformers_reads_it(settings, expected):
    assert feed_forward({"model_type": "mt5"} | settings, "x") == expected


def test_an_unknown_activation_is_refused():
    with pytest.raises(CheckpointError, match="'gated-tanh'"):
        feed_forward({"model_type": "mt5", "feed_forward_proj": "gated-tanh"}, "x")


def test_a_missing_vocabulary_or_missing_weights_are_named(bare):
    folder, _ = bare
    with pytest.raises(CheckpointError, match=r"no weights; expected one of model.safetensors"):
        open_checkpoint(folder)
    (folder / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"no spiece.model"):
        open_checkpoint(folder)


def test_a_path_that_is_nothing_says_what_could_be_given():
    with pytest.raises(CheckpointError, match=r"no such file or folder.*google/mt5-small"):
        open_checkpoint("no/such/place/at/all")


def test_a_folder_is_named_after_where_the_model_came_from(bare):
    folder, weights = bare
    save_file(weights, folder / "model.safetensors")
    assert open_checkpoint(folder).name == folder.name
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_name_or_path": "/home/me/mt5-small/"}))
    assert open_checkpoint(folder).name == "mt5-small"
