"""The network against transformers, and its own promises: cached equals uncached, batched equals alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import MT5Config, MT5ForConditionalGeneration

from mt5.checkpoint import open_checkpoint
from mt5.config import LOWEST_FLOAT32, ModelConfig, StackConfig
from mt5.errors import CheckpointError
from mt5.model import MT5, gelu_tanh
from mt5.network import Network
from mt5.relative import bucket

CPU = torch.device("cpu")
SHAPES = [
    {"d_model": 48, "d_kv": 16, "num_heads": 4, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 3},
    {"d_model": 64, "d_kv": 8, "num_heads": 6, "d_ff": 100, "num_layers": 3, "num_decoder_layers": 1},
    {"d_model": 32, "d_kv": 32, "num_heads": 2, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 2,
     "relative_attention_num_buckets": 16, "relative_attention_max_distance": 40},
]  # fmt: skip


def saved(tmp_path, shape, spiece):
    """A random mT5 of transformers', and the same in our network, by way of a folder."""
    torch.manual_seed(0)
    reference = MT5ForConditionalGeneration(MT5Config(vocab_size=1024, dropout_rate=0.0, **shape)).eval()
    # untied, as every published mT5 is, and with biases that are not the same in all buckets
    reference.lm_head.weight = torch.nn.Parameter(torch.randn_like(reference.lm_head.weight))
    reference.save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spiece)
    return reference, open_checkpoint(tmp_path).load(dtype=torch.float32, device=CPU)


@pytest.fixture
def spiece(request):
    return (request.path.parent / "data" / "hf_tiny_mt5" / "spiece.model").read_bytes()


def difference(reference, model, vocab_size):
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, vocab_size, (3, 30), generator=generator)
    target = torch.randint(3, vocab_size, (3, 70), generator=generator)
    mask = torch.ones_like(source, dtype=torch.bool)
    mask[0, 12:] = mask[1, 25:] = False
    with torch.inference_mode():
        expected = reference(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
        memory = model.encode(source, mask)
        found = model.logits(model.decode(target, model.start(memory, mask)))
    return (expected - found).abs().max().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_transformers(tmp_path, shape, spiece):
    reference, model = saved(tmp_path, shape, spiece)
    # float32 sums in another order; the logits here reach 30
    assert difference(reference, model, 1024) < 1e-4


def test_logits_of_the_embedded_model_are_those_of_transformers(request):
    folder = request.config.rootpath / "assets" / "model"
    reference = MT5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    model = open_checkpoint(folder).load(dtype=torch.float32, device=CPU)
    # float32 sums in another order; the logits here reach 14
    assert difference(reference, model, 16_384) < 1e-4


def test_cross_attention_is_that_of_transformers(request):
    folder = request.config.rootpath / "tests" / "data" / "hf_tiny_mt5"
    reference = MT5ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    network = Network(open_checkpoint(folder).load(dtype=torch.float32, device=CPU), CPU)
    source, target = [5, 300, 41, 7, 99, 1], [999, 17, 400, 998, 3]
    with torch.inference_mode():
        expected = reference(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([[0, *target[:-1]]]),
            output_attentions=True,
        ).cross_attentions
    found = torch.tensor(network.attention(source, target))
    assert found.shape == (len(expected), len(target), len(source))
    for layer, weights in zip(found, expected, strict=True):
        # float32 sums in another order
        assert torch.allclose(layer, weights[0].mean(0), atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "nemo"])
def test_rows_of_cross_attention_sum_to_one(name):
    model = built(VARIANTS[name])
    weights = torch.tensor(Network(model, CPU).attention(ids(7).tolist(), ids(5, seed=1).tolist()))
    assert weights.shape == (len(model.decoder.layers), 5, 7)
    assert torch.allclose(weights.sum(-1), torch.ones(len(weights), 5), atol=1e-5)


def stack(**changes):
    facts = StackConfig(
        num_layers=2,
        num_heads=4,
        d_kv=8,
        d_ff=48,
        norm="rms",
        norm_eps=1e-6,
        positions="relative",
        activation="gelu_tanh",
        gated=True,
        linear_bias=False,
        score_scale=1.0,
    )
    return replace(facts, **changes)


def config(*, encoder=None, decoder=None, **changes):
    facts = ModelConfig(
        d_model=32,
        vocab_size=90,
        padded_vocab_size=96,
        encoder=encoder or stack(),
        decoder=decoder or stack(),
        tied_head=True,
        head_bias=False,
        masked_score=LOWEST_FLOAT32,
        pad_masks_target=False,
        max_positions=None,
        start_id=0,
        pad_id=0,
        eos_id=1,
        source_eos=True,
    )
    return replace(facts, **changes)


def nemo_like():
    own = {
        "norm": "layer",
        "linear_bias": True,
        "score_scale": 8**-0.5,
        "activation": "gelu",
        "positions": "absolute",
    }
    return config(
        encoder=stack(**own),
        decoder=stack(**own, num_layers=3),
        head_bias=True,
        masked_score=-10_000.0,
        pad_masks_target=True,
        max_positions=64,
    )


VARIANTS = {
    "t5": config(),
    "nemo": nemo_like(),
    "umt5": config(encoder=stack(relative_bias_per_layer=True), decoder=stack(relative_bias_per_layer=True)),
    "layer scaling": config(decoder=stack(relative_bias_times_layer=True)),
    "untied, not gated": config(
        encoder=stack(gated=False, activation="relu"),
        decoder=stack(gated=False, activation="relu"),
        tied_head=False,
        shared_embeddings=False,
    ),
}


def built(facts, dtype=torch.float32):
    model = MT5(facts)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.to(dtype).eval()


def ids(*shape, seed=0):
    return torch.randint(3, 90, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_cached_decoding_equals_uncached(name):
    model, source, target = built(VARIANTS[name]), ids(2, 9), ids(2, 40, seed=1)
    target[0, 3] = 0  # a pad id inside, which NeMo masks
    memory = model.encode(source)
    whole = model.decode(target, model.start(memory))
    cache = model.start(memory)
    parts = [model.decode(target[:, :5], cache)]
    parts += [model.decode(target[:, place : place + 1], cache) for place in range(5, 33)]
    parts.append(model.decode(target[:, 33:], cache))
    # a masked pad attends to all there is: more when the target comes at once; nothing sees its result
    real = target != 0
    # the sums are of other lengths, so float32 rounds them otherwise
    assert torch.allclose(torch.cat(parts, 1)[real], whole[real], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_padding_changes_nothing(name):
    model, source, target = built(VARIANTS[name]), ids(3, 12), ids(3, 6, seed=1)
    lengths = [12, 7, 1]
    mask = torch.arange(12) < torch.tensor(lengths).unsqueeze(1)
    padded = source.masked_fill(~mask, 0)
    together = model.decode(target, model.start(model.encode(padded, mask), mask))
    for row, length in enumerate(lengths):
        alone = model.decode(target[row : row + 1], model.start(model.encode(source[row : row + 1, :length])))
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.inference_mode()
def test_selected_rows_go_on_as_if_they_had_been_alone():
    model, source, target = built(VARIANTS["nemo"]), ids(3, 8), ids(3, 5, seed=1)
    cache = model.start(model.encode(source))
    model.decode(target[:, :3], cache)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    found = model.decode(target[rows, 3:], cache)
    for place, row in enumerate(rows.tolist()):
        one = slice(row, row + 1)
        alone = model.decode(target[one], model.start(model.encode(source[one])))[0, 3:]
        assert torch.allclose(found[place], alone, atol=1e-5)


@torch.inference_mode()
def test_padding_of_the_vocabulary_has_probability_zero():
    model = built(VARIANTS["t5"])
    log_probs = model.log_probs(model.decode(ids(1, 2), model.start(model.encode(ids(1, 4)))))
    probabilities = (log_probs.logits - log_probs.normaliser).exp()
    assert probabilities.sum(-1).flatten().tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (probabilities[..., 90:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_stays_near_float32(dtype):
    model, half = built(VARIANTS["t5"]), built(VARIANTS["t5"], dtype)
    for module in half.modules():
        if isinstance(module, torch.nn.RMSNorm) and dtype == torch.float16:
            module.float()
    source, target = ids(2, 9), ids(2, 5, seed=1)
    values = []
    for net in (model, half):
        log_probs = net.log_probs(net.decode(target, net.start(net.encode(source))))
        values.append(log_probs.at(target))
    # bfloat16 keeps 8 bits of a number, float16 weights 11
    assert torch.allclose(*values, atol=0.3 if dtype == torch.bfloat16 else 0.02)


def test_distances_fall_into_the_buckets_of_t5():
    distance = torch.tensor([[0, -1, -7, -8, -127, -500, 1, 7, 8, 127, 500]])
    both = bucket(distance, bidirectional=True, num_buckets=32, max_distance=128)
    assert both.tolist() == [[0, 1, 7, 8, 15, 15, 17, 23, 24, 31, 31]]
    back = bucket(distance, bidirectional=False, num_buckets=32, max_distance=128)
    assert back.tolist() == [[0, 1, 7, 8, 31, 31, 0, 0, 0, 0, 0]]


def test_every_fault_of_a_configuration_is_named():
    broken = config(encoder=stack(num_layers=10**6, num_heads=-1), d_model=0)
    with pytest.raises(CheckpointError, match=r"d_model is 0.*num_layers is 1000000.*num_heads is -1"):
        broken.check()


@pytest.mark.parametrize("grad", [False, True])
def test_gelu_is_that_of_pytorch_also_at_its_ends(grad):
    ends = [1e30, -1e30, math.inf, math.nan, 0.0]
    x = torch.cat([torch.linspace(-12, 12, 4_001), torch.tensor(ends)]).requires_grad_(grad)
    expected = F.gelu(x.double(), approximate="tanh").float()
    assert torch.allclose(gelu_tanh(x), expected, atol=1e-6, equal_nan=True)
