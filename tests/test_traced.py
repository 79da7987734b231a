"""Recorded layers compute what the network does, whatever the sizes, once they are called often enough."""

import pytest
import torch
from test_model import VARIANTS, built, ids

from mt5.parallel import Shard
from mt5.traced import WARM, Recorded, Traced

RECORDABLE = sorted(set(VARIANTS) - {"nemo"})


def compared(model, traced, batch, length, steps, *, padded):
    """The largest difference of memory and states between the network and its recorded layers."""
    source, target = ids(batch, length), ids(batch, steps, seed=1)
    mask = None
    if padded:
        mask = torch.ones_like(source, dtype=torch.bool)
        mask[0, length // 2 :] = False
    memory, found = model.encode(source, mask), traced.encode(source, mask)
    off = [(memory - found).abs().max()]
    one, other = model.start(memory, mask), model.start(memory, mask)
    model.decode(target[:, :2], one), model.decode(target[:, :2], other)
    for place in range(2, steps):
        new = target[:, place : place + 1]
        off.append((model.decode(new, one) - traced.decode(new, other)).abs().max())
    assert one.length == other.length == steps
    return max(off).item()


@pytest.mark.parametrize("name", RECORDABLE)
@torch.inference_mode()
def test_recorded_layers_give_the_same_numbers(name):
    model = built(VARIANTS[name])
    traced = Traced(model)
    for batch, length, padded in ((1, 9, False), (3, 12, True), (2, 5, False), (4, 7, True), (1, 3, False)):
        assert compared(model, traced, batch, length, WARM + 12, padded=padded) == 0
    assert all(len(layer.records) == 2 for layer in traced.between)


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
