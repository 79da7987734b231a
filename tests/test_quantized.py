"""Weights in 8 and 16 bits: how near their products are, and what it costs the embedded model."""

from functools import cache
from pathlib import Path

import pytest
import torch

import mt5
from mt5 import infill
from mt5.checkpoint import loading, open_checkpoint
from mt5.checkpoint.weights import Cast
from mt5.codec import Codec
from mt5.languages import examples
from mt5.model import MT5
from mt5.network import Network
from mt5.quantized import Half, Int8, halved, packing, quantize

MODEL = Path(__file__).parent.parent / "assets" / "model"
CPU = torch.device("cpu")


def matrix(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / columns**0.5


def test_quantised_numbers_are_the_nearest_of_each_row():
    weight = torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0], [-2.54, 1.0, 0.01]])
    numbers, scales = quantize(weight)
    assert numbers.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 50, 0]]
    assert scales[[0, 2]].tolist() == pytest.approx([1.0, 0.02])


@pytest.mark.parametrize("kind, tolerance", [(Int8, 0.1), (Half, 1e-3)])
@torch.inference_mode()
def test_products_and_rows_are_near_those_of_float32(kind, tolerance):
    weight, x = matrix(300, 128), torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(1))
    packed = kind.of(weight, table=True)
    packed.pack()
    # 7 to 8 bits of an activation whose largest is near 4, or 11 bits of a weight
    assert torch.allclose(packed(x), x @ weight.T, atol=tolerance)
    assert torch.allclose(packed.rows(torch.tensor([[7, 0]])), weight[[7, 0]], atol=2e-3)


@torch.inference_mode()
def test_an_int8_product_of_a_row_does_not_depend_on_the_others():
    packed = Int8.of(matrix(300, 128))
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 2, 9)[:, None]
    assert torch.equal(packed(x), torch.cat([packed(row[None]) for row in x]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_batch_gives_what_each_prompt_gives_alone(dtype):
    assert max(apart(dtype, [example.prompt for example in examples()][:24])) <= 1e-4


@pytest.mark.slow
def test_in_int8_a_batch_differs_from_each_prompt_alone_by_roundings():
    # sums end in another last bit, and an activation between two of the 127 steps goes to the other one
    off = apart("int8", [example.prompt for example in examples()][:48])
    assert sum(off) / len(off) <= 0.003 and max(off) <= 0.3


def apart(dtype, prompts):
    """How far the log-probability of every token is off when its prompt is alone; the texts are the same."""
    with mt5.open(MODEL, dtype=dtype) as engine:
        together = engine.fill(prompts, num_alternatives=0)
        # another question than those remembered
        alone = [engine.fill(prompt, num_alternatives=1) for prompt in prompts]
    assert [one.text for one in alone] == [one.text for one in together]
    return [
        abs(a.log_prob - b.log_prob)
        for one, other in zip(alone, together, strict=True)
        for a, b in zip(one.tokens, other.tokens, strict=True)
    ]


@torch.inference_mode()
def test_a_number_that_float16_cannot_hold_stays_float32():
    weight = matrix(8, 8)
    weight[0, 0] = 70_000
    assert torch.equal(Half.of(weight), weight)


def test_an_int8_network_keeps_in_16_bits_what_has_outliers():
    kinds = {
        "encoder.layers.0.self_attention.query_key_value.weight": Int8,
        "encoder.layers.0.feed_forward.down.weight": Half,
        "decoder.layers.0.cross_attention.key_value.weight": Int8,
        "decoder.layers.0.feed_forward.down.weight": Half,
        "decoder.layers.0.cross_attention.query.weight": Int8,
        "decoder.layers.0.feed_forward.gate_up.weight": Int8,
        "embedding.weight": Int8,
        "head.weight": Int8,
    }
    assert {name: packing(name, torch.int8) for name in kinds} == kinds
    assert {packing(name, torch.bfloat16) for name in kinds} == {Half}


@cache
def asked():
    """The examples as ids, with what the float32 model writes for them: sources and targets."""
    with mt5.open(MODEL, dtype="float32") as engine:
        codec = Codec(engine.tokenizer, engine.config)
        fills = engine.fill([example.prompt for example in examples()])
    return [codec.source(infill.parse(fill.prompt)) for fill in fills], [codec.target_of(f) for f in fills]


@cache
def scored(dtype):
    """The log-probability of every token after the first sentinel, and the likeliest token there."""
    network = Network(open_checkpoint(MODEL).load(dtype=dtype, device=CPU), CPU)
    found = [network.score([s], [t], candidates=1)[0] for s, t in zip(*asked(), strict=True)]
    log_probs = torch.tensor([value for one in found for value in one.log_probs[1:]])
    return log_probs, torch.tensor([best[0][0] for one in found for best in one.candidates[1:]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, error, agreement",
    # what a token's log-probability may be off by on average; the stored weights are bfloat16
    [(torch.bfloat16, 1e-4, 1), (torch.float16, 1e-4, 1), (torch.int8, 0.03, 0.98)],
)
def test_the_embedded_model_errs_little_in_few_bits(dtype, error, agreement):
    log_probs, best = scored(torch.float32)
    found, choices = scored(dtype)
    assert len(found) > 300
    assert (found - log_probs).abs().mean() <= error
    assert (choices == best).float().mean() >= agreement


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_the_embedded_model_fills_alike_in_every_dtype(dtype):
    prompt = "La capitale de la France est <mask>."
    with mt5.open(MODEL, dtype=dtype) as engine:
        assert engine.info.dtype == dtype
        assert engine.fill(prompt).text == "La capitale de la France est Paris."


@torch.inference_mode()
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_networks_of_16_bits_become_plain_float16(dtype, monkeypatch):
    monkeypatch.setattr("mt5.checkpoint.loading.LARGEST_PACKED", 0)
    model = open_checkpoint(MODEL).load(dtype=dtype, device=CPU)
    assert {p.dtype for p in model.parameters() if p.dim() > 1} == {torch.float16}
    log_probs, best = scored(torch.float32)  # which the bound does not concern
    found, choices = scored.__wrapped__(dtype)
    # activations of a single row are rounded to 11 bits
    assert (found - log_probs).abs().mean() <= 0.005
    assert (choices == best).float().mean() >= 0.98


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_a_large_network_is_read_in_the_precision_it_is_stored_in(stored, monkeypatch):
    monkeypatch.setattr("mt5.checkpoint.loading.LARGEST_PACKED", 0)
    monkeypatch.setattr(
        loading, "empty", lambda shape, dtype: made.append(dtype) or torch.empty(shape, dtype=dtype)
    )
    made = []
    checkpoint = open_checkpoint(MODEL)
    with torch.device("meta"):
        model = MT5(checkpoint.config)
    weights = {name: Cast(weight, stored) for name, weight in checkpoint.weights.items()}
    model = loading.load(weights, model, dtype=torch.float16, device=CPU)
    assert {p.dtype for p in model.parameters() if p.dim() > 1} == {torch.float16}
    # joined matrices are read straight to their places
    assert set(made) == {stored}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_numbers_that_float16_cannot_hold_stay_what_they_are(dtype):
    weight = torch.tensor([[1.0, 70_000.0]], dtype=dtype)
    assert halved(weight.clone()).dtype == dtype
    assert halved(weight[:, :1].clone()).tolist() == [[1.0]]
    assert halved(weight[:, :1].clone()).dtype == torch.float16
