"""Ranks of one machine see each other's tensors, in order, whatever their sizes, and do not wait for ever."""

import threading

import pytest
import torch

from mt5.exchange import ROOM, Exchange


def together(path, size, work):
    """What `work` returns on each of several ranks, which are threads here."""
    found = [None] * size

    def be(rank):
        found[rank] = work(Exchange(path, rank, size, timeout_s=20), rank)

    ranks = [threading.Thread(target=be, args=(rank,)) for rank in range(size)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    return found


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_sums_and_stacks_are_those_of_all_ranks_time_after_time(tmp_path, size, dtype):
    def work(exchange, rank):
        results = []
        for turn in range(50):
            shape = (1 + turn % 3, 4)
            sums = exchange.sum(torch.full(shape, rank + turn).to(dtype))
            stack = exchange.gather(torch.full(shape, rank).to(dtype))
            results.append((sums, stack))
        return results

    for results in together(tmp_path / "memory", size, work):
        for turn, (sums, stack) in enumerate(results):
            assert sums.shape == (1 + turn % 3, 4) and sums.dtype == dtype
            assert (sums == size * turn + sum(range(size))).all()
            assert [part.unique().tolist() for part in stack] == [[rank] for rank in range(size)]


def test_a_sum_is_in_place_also_where_numbers_do_not_lie_one_after_the_other(tmp_path):
    def work(exchange, rank):
        x = torch.ones(3, 2)
        exchange.sum(x.T)
        return x

    for found in together(tmp_path / "memory", 2, work):
        assert (found == 2).all()


def test_what_is_too_large_has_no_room(tmp_path):
    exchange = Exchange(tmp_path / "memory", 0, 2, timeout_s=1)
    assert exchange.has_room(torch.zeros(ROOM // 4))
    assert not exchange.has_room(torch.zeros(ROOM // 4 + 1))


def test_a_rank_that_does_not_come_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="rank 1 was waited for"):
        Exchange(tmp_path / "memory", 0, 2, timeout_s=0.05).sum(torch.ones(2))


def test_ranks_that_disagree_about_a_size_find_out(tmp_path):
    def work(exchange, rank):
        with pytest.raises(RuntimeError, match=r"show (8 and 12|12 and 8) bytes"):
            exchange.sum(torch.ones(2 + rank))
        return True

    assert together(tmp_path / "memory", 2, work) == [True, True]
