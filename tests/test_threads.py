"""Threads: never more than allowed, and as many as are quickest."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from mt5.checkpoint import open_checkpoint
from mt5.network import Network
from mt5.rules import Free
from mt5.settings import Settings
from mt5.threads import allowed, choose

MODEL = Path(__file__).parent.parent / "assets" / "model"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_a_process_may_use_the_cores_of_its_affinity(cores, tmp_path):
    assert allowed(tmp_path) == 8


@pytest.mark.parametrize("text, number", [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_container_may_use_its_share(cores, tmp_path, text, number):
    (tmp_path / "cpu.max").write_text(text)
    assert allowed(tmp_path) == number


@pytest.mark.parametrize("quota, number", [(-1, 8), (300_000, 3)])
def test_an_older_container_may_use_its_share(cores, tmp_path, quota, number):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert allowed(tmp_path) == number


@pytest.mark.parametrize("text, number", [("3", 3), ("64", 8), ("many", 8)])
def test_who_starts_it_may_say_fewer(cores, tmp_path, monkeypatch, text, number):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert allowed(tmp_path) == number


@pytest.mark.parametrize("quickest", [1, 2, 4, 6])
def test_the_quickest_number_is_chosen(quickest):
    tried = set()

    def work():
        tried.add(torch.get_num_threads())
        time.sleep(0.001 + 0.002 * abs(torch.get_num_threads() - quickest))

    assert choose(work, 6) == quickest == torch.get_num_threads()
    assert tried == {1, 2, 4, 6}


def test_one_core_has_no_choice():
    assert choose(lambda: None, 1) == 1


def test_a_network_uses_its_number_in_every_thread_whatever_others_set():
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU), CPU)
    assert network.choose_threads(1) == (1, 1)
    seen = []

    def work():
        torch.set_num_threads(3)
        for _ in network.generate([[5, 1]], [Free(0, frozenset(), 1)], Settings()):
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_many_rows_have_a_number_of_their_own(monkeypatch):
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU), CPU)
    found, seen = iter((1, 2)), []
    monkeypatch.setattr("mt5.threads.choose", lambda work, most: next(found))
    assert network.choose_threads(2) == (1, 2)
    for owner, name in ((network.traced, "start"), (network.traced, "step"), (network.model, "decode")):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), seen))

    def asked(rows, length, most=2):
        seen.clear()
        rules = [Free(0, frozenset(), 1 + row % most) for row in range(rows)]
        list(network.generate([[5] * length] * rows, rules, Settings()))
        return seen

    assert asked(1, 2) == [1, 1]  # the prompt, a step
    assert asked(1, 15) == [1, 1]
    assert asked(1, 16) == [2, 1]
    assert asked(8, 2) == [2, 1, 1]
    assert asked(16, 1) == [2, 2, 1]  # half of the rows write a second token
    assert asked(32, 1) == [2, 2, 2]
    for source, target, number in ((2, 3, 1), (16, 3, 2), (2, 16, 2)):
        seen.clear()
        network.score([[5] * source], [[6] * target])
        network.attention([5] * source, [6] * target)
        assert seen == [number] * 2


def noted(work, seen):
    """The same work, noting the number of threads it is done with."""

    def noting(*given, **named):
        seen.append(torch.get_num_threads())
        return work(*given, **named)

    return noting


def test_trials_record_nothing_and_can_be_repeated():
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU), CPU)
    for _ in range(2):
        network.choose_threads(2)
    recorded = (network.traced.prompt, *network.traced.steps.values())
    assert not any(one.calls or one.records for one in recorded)


def test_a_network_that_is_quickest_with_all_threads_for_one_row_uses_them_for_many(monkeypatch):
    network = Network(open_checkpoint(MODEL).load(dtype=torch.float32, device=CPU), CPU)
    monkeypatch.setattr("mt5.threads.choose", lambda work, most: most)
    monkeypatch.setattr(network, "_same_step", lambda rows: rows == 1 or pytest.fail("measured in vain"))
    assert network.choose_threads(3) == (3, 3)
