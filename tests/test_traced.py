"""A recorded network computes what the plain one does, whatever the sizes, once it is called often enough."""

import pytest
import torch
from test_model import VARIANTS, built, ids

from mt5.parallel import Shard
from mt5.traced import CALL, WARM, Recorded, Traced, alike

RECORDABLE = sorted(set(VARIANTS) - {"nemo"})


def compared(model, traced, batch, length, news, *, padded):
    """The largest difference of a logit or a normaliser, over steps of so many new ids each."""
    source, target = ids(batch, length), ids(batch, sum(news), seed=1)
    mask = None
    if padded:
        mask = torch.ones_like(source, dtype=torch.bool)
        mask[0, length // 2 :] = False
    cache, state = model.start(model.encode(source, mask), mask), traced.start(source, mask)
    real, off, place = slice(0, model.config.vocab_size), [], 0
    for new in news:
        taken = target[:, place : place + new]
        plain, found = model.log_probs(model.decode(taken, cache)[:, -1]), traced.step(taken, state)
        off += [(plain.logits - found.logits)[:, real].abs().max()]
        off += [(plain.normaliser - found.normaliser).abs().max()]
        place += new
    assert cache.length == state.length == place
    return max(off).item()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "t5" else pytest.mark.slow) for name in RECORDABLE]
)
@torch.inference_mode()
def test_a_recorded_network_gives_the_same_numbers(name):
    model = built(VARIANTS[name])
    traced, news = Traced(model), (2, *[1] * (WARM + 12), 3)
    for batch, length, padded in ((1, 9, False), (3, 12, True), (2, 5, False), (4, 7, True), (1, 3, False)):
        # sums of as many numbers, which lie among as many zeros more, may be taken in another order
        assert compared(model, traced, batch, length, news, padded=padded) <= 1e-5
    assert len(traced.steps[False].records) == 2


@pytest.mark.parametrize(
    "lengths, stops",
    [
        ([7], [1]),
        ([9, 9, 9], [3]),
        ([5, 5 + CALL, 5 + CALL], [3]),  # one more call costs as much
        ([4, 5 + CALL, 5 + CALL], [1, 3]),
        ([10, 11, 60, 61, 200], [2, 4, 5]),
        ([200, 10, 60], [1, 2, 3]),  # in any order, though only neighbours go together
    ],
)
def test_prompts_of_like_length_are_encoded_together(lengths, stops):
    found = alike(lengths)
    assert [rows.stop for rows in found] == stops
    assert [rows.start for rows in found] == [0, *stops[:-1]]


@torch.inference_mode()
def test_a_batch_of_unlike_lengths_is_read_as_its_prompts_are():
    model = built(VARIANTS["t5"])
    lengths = (3, 4, 70, 90, 91, 5)
    assert len(alike(lengths)) > 2
    source, target = ids(len(lengths), max(lengths)), ids(len(lengths), 2, seed=1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    traced = Traced(model)
    for _ in range(WARM + 2):  # also once it is recorded
        state = traced.start(source, mask)
    found = traced.step(target, state).logits
    for row, length in enumerate(lengths):
        alone = traced.step(target[row : row + 1], traced.start(source[row : row + 1, :length])).logits
        assert torch.allclose(found[row], alone[0], atol=1e-5)


@torch.inference_mode()
def test_every_new_id_gets_a_distribution_where_all_are_asked_for():
    model = built(VARIANTS["t5"])
    traced, source, target = Traced(model), ids(2, 6), ids(2, 4, seed=1)
    found = traced.step(target, traced.start(source), every=True)
    hidden = model.decode(target, model.start(model.encode(source)))
    assert torch.allclose(found.logits, model.log_probs(hidden.flatten(0, 1)).logits, atol=1e-5)


@torch.inference_mode()
def test_rows_of_a_decoding_can_be_chosen_while_it_goes_on():
    model = built(VARIANTS["t5"])
    traced, source, target = Traced(model), ids(3, 6), ids(3, 4, seed=1)
    rows = torch.tensor([2, 0, 2])
    state = traced.start(source)
    traced.step(target[:, :3], state)
    state.select(rows)
    found = traced.step(target[rows, 3:], state)
    expected = traced.step(target[rows], traced.start(source[rows]))
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)


@torch.inference_mode()
def test_nothing_is_recorded_before_it_has_been_used_a_while():
    doubled = torch.nn.Identity()
    doubled.forward = lambda x, bias: (2 * x if bias is None else 2 * x + bias,)
    recorded = Recorded(doubled)
    for call in range(WARM + 1):
        assert not recorded.records
        assert recorded(torch.tensor(float(call)), None)[0] == 2 * call
    assert list(recorded.records) == [(False, True)]
    assert recorded(torch.ones(3), torch.ones(1))[0].tolist() == [3, 3, 3]
    assert recorded(torch.ones(5), None)[0].tolist() == [2] * 5


def test_what_cannot_be_recorded_is_left_alone():
    assert Traced.serves(built(VARIANTS["t5"]))
    assert not Traced.serves(built(VARIANTS["nemo"]))
    assert not Traced.serves(built(VARIANTS["t5"], torch.bfloat16))
    cut = built(VARIANTS["t5"])
    cut.shard = Shard(0, 2)
    assert not Traced.serves(cut)


@torch.inference_mode()
def test_the_encoders_biases_are_those_of_the_model_at_every_width():
    model = built(VARIANTS["t5"])
    traced = Traced(model)
    for width in (300, 5, 40, 2, 257):
        made = model.encoder.biases(range(width), width)[0]
        assert torch.equal(traced._square(width)[0], made)
