"""What a decoded token costs, counted instead of timed: products, operations, large tensors, collectives."""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mt5.checkpoint import open_checkpoint
from mt5.network import Network
from mt5.parallel import Shard
from mt5.rules import Free
from mt5.settings import Settings

MODEL = Path(__file__).parent.parent / "assets" / "model"
CPU = torch.device("cpu")
EIGHT_BITS = "linear_with_input_q_dq_qweight_dq_output_fp32"
MATRIX = {"linear", "mm", "addmm", "linear_dynamic_fp16", "_linear_pointwise", EIGHT_BITS}
ATTENTION = "matmul"
VIEWS = {
    "view", "unsqueeze", "permute", "transpose", "t", "select", "slice", "split", "unbind", "expand",
    "flatten", "unflatten", "reshape", "mT", "detach", "alias", "as_strided", "squeeze",
}  # fmt: skip


class Counted(TorchDispatchMode):
    """Counts operations by name, and the numbers in the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name not in VIEWS:
            made = result if isinstance(result, tuple | list) else [result]
            sizes = [one.numel() for one in made if isinstance(one, torch.Tensor)]
            self.largest = max([self.largest, *sizes])
        return result


def token(network, prompts=1):
    """What the tenth token takes, of so many prompts of twelve."""
    rules = [Free(network.model.config.start_id, frozenset(), 20)] * prompts
    steps = network.generate([[7] * 12] * prompts, rules, Settings(num_alternatives=0))
    for _ in range(9):
        next(steps)
    with Counted() as count:
        next(steps)
    return count


@pytest.fixture(params=[torch.float32, torch.float16, torch.int8])
def network(request):
    return Network(open_checkpoint(MODEL).load(dtype=request.param, device=CPU), CPU)


def matrix_calls(calls):
    return sum(calls[name] for name in MATRIX)


def test_a_token_takes_six_matrices_a_layer_and_the_head(network):
    calls = token(network).calls
    layers = len(network.model.decoder.layers)
    assert matrix_calls(calls) == 6 * layers + 1
    # scores and their mixture, in self-attention and in cross-attention
    assert calls[ATTENTION] == 4 * layers


def test_rows_of_a_batch_share_every_call(network):
    alone, together = token(network).calls, token(network, prompts=4).calls
    assert matrix_calls(together) == matrix_calls(alone)
    assert sum(together.values()) <= sum(alone.values()) + 20  # the best of many are found otherwise


def test_a_token_takes_few_operations(network):
    calls = token(network).calls
    work = sum(number for name, number in calls.items() if name not in VIEWS)
    layers = len(network.model.decoder.layers)
    # an 8-bit product finds the largest number of every row, divides by it, and multiplies by it again
    scales = 5 * calls[EIGHT_BITS]
    assert work <= 40 * layers + 40 + scales, calls


def test_nothing_larger_than_the_logits_is_made(network):
    assert token(network).largest <= network.model.config.padded_vocab_size


def test_a_batch_gets_smaller_when_rows_end():
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU), CPU)
    rules = [Free(network.model.config.start_id, frozenset(), tokens) for tokens in (2, 6)]
    sizes = []
    logits = network.model.logits

    def seen(hidden):
        sizes.append(len(hidden))
        return logits(hidden)

    network.model.logits = seen
    for _ in network.generate([[7, 8, 1], [9, 1]], rules, Settings(num_alternatives=0)):
        pass
    assert sizes == [2, 2, 1, 1, 1, 1]


class CountingShard(Shard):
    """One of two ranks, as far as it can tell: the other holds the same."""

    counts: ClassVar[Counter[str]] = Counter()

    def sum(self, x):
        self.counts["sum"] += 1
        return x

    def gather(self, x):
        self.counts["gather"] += 1
        return torch.stack([x, x])


def test_a_token_takes_three_collectives_a_layer_one_for_the_embedding_and_one_for_the_choice():
    shard = CountingShard(0, 2)
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU, shard=shard), CPU)
    layers = len(network.model.decoder.layers)
    rules = [Free(network.model.config.start_id, frozenset(), 20)]
    steps = network.generate([[7] * 12], rules, Settings(num_alternatives=0))
    next(steps)
    shard.counts.clear()
    next(steps)
    assert shard.counts == {"sum": 3 * layers + 1, "gather": 1}
