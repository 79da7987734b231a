"""A network over several processes: the same numbers, few messages, and one network to whoever asks."""

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

import mt5
from tests.rank_engine import DATA, HF, NEMO, drilled, free_port, nothing_left, until

pytestmark = pytest.mark.slow
PROMPT = "La capitale de la France est <mask>."
# an all-reduce sums in another order
TOLERANCE = 1e-4
ROOT = Path(__file__).parent.parent


def ended(launcher):
    with suppress(subprocess.TimeoutExpired):
        launcher.wait(40)
        return
    launcher.kill()


@cache
def reference(name):
    return json.loads((DATA / f"{name}_expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name, path, size",
    [
        ("nemo_tiny", NEMO, 1),
        ("nemo_tiny", NEMO, 2),
        ("nemo_tiny", NEMO, 4),
        ("hf_tiny_mt5", HF, 1),
        ("hf_tiny_mt5", HF, 2),
        ("hf_tiny_mt5", HF, 4),
    ],
)
def test_any_number_of_ranks_writes_the_reference_ids(name, path, size):
    with nothing_left(), mt5.open(path, tensor_parallel=size, dtype="float32") as engine:
        assert engine.info.tensor_parallel == size
        assert len(engine.info.rank_memory) == (size if size > 1 else 0)
        for prompt in reference(name)["prompts"]:
            source = prompt.get("input_ids") or prompt["masked_ids"]
            ids = prompt.get("greedy_decoder_ids") or prompt["greedy_decoder_ids_no_stop"]
            log_probs = prompt.get("greedy_log_probs") or prompt["greedy_log_probs_no_stop"]
            written = engine.generate(source, max_new_tokens=len(ids) - 1, stop=False)
            assert [engine.config.start_id, *written.ids] == ids
            assert written.log_probs == pytest.approx(log_probs, abs=TOLERANCE)
            assert engine.log_probs(source, list(written.ids)) == pytest.approx(log_probs, abs=TOLERANCE)


@pytest.mark.parametrize("path", [NEMO, HF])
def test_a_seed_draws_the_same_tokens_over_any_number_of_ranks(path):
    settings = {"strategy": "sample", "num_return": 3, "temperature": 1.5, "top_p": 0.9, "max_new_tokens": 6}
    drawn = []
    for size in (1, 2, 4):
        with mt5.open(path, tensor_parallel=size, dtype="float32") as engine:
            fills = engine.fill([PROMPT, "<mask> a <mask>"], seed=11, **settings)
        drawn.append([[token.id for token in one.tokens] for fill in fills for one in fill.candidates])
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("size, message", [(3, "3 ranks"), (0, "from 1"), (8, "8 ranks")])
def test_a_number_of_ranks_that_cannot_be_is_refused_by_name(size, message):
    with pytest.raises(mt5.CheckpointError, match=message):
        mt5.open(HF, tensor_parallel=size)


def test_a_token_takes_three_collectives_a_layer_and_two_for_embedding_and_head():
    with drilled(NEMO) as engine:
        layers = engine.config.decoder.num_layers

        def spent(tokens):
            before = engine.network.collectives
            engine.generate([5, 9, 7, 1], max_new_tokens=tokens, stop=False, num_alternatives=5)
            return [after - b for after, b in zip(engine.network.collectives, before, strict=True)]

        few, many = spent(2), spent(12)
    assert [m - f for m, f in zip(many, few, strict=True)] == [10 * (3 * layers + 2)] * 2


def test_w12_streams_of_several_threads_do_not_mix():
    prompts = [PROMPT, "<mask> is far.", "a <mask> b <mask> c", "Rome <mask>"]
    with mt5.open(NEMO, dtype="float32") as one:
        wanted = [one.fill(prompt).text for prompt in prompts]
    with drilled(NEMO) as engine, ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: [list(engine.stream(p))[-1].text for p in prompts], range(8)):
            assert found == wanted


def test_w13_a_hundred_cancelled_streams_leave_the_ranks_in_step():
    rng = random.Random(3)
    with drilled(NEMO) as engine:
        wanted = engine.fill(PROMPT).text
        for _ in range(100):
            stream = engine.stream(PROMPT, strategy="sample", seed=rng.randrange(999), max_new_tokens=30)
            for _ in range(rng.randrange(4)):
                next(stream, None)
            stream.close()
        # with another setting, so that it is not known from before
        assert engine.fill(PROMPT, num_alternatives=0).text == wanted
        assert len(set(engine.network.collectives)) == 1


def test_a_bad_request_is_refused_and_the_ranks_go_on():
    with drilled(NEMO) as engine:
        with pytest.raises(mt5.PromptError):
            engine.fill("no gap")
        assert engine.fill(PROMPT).spans[0].tokens


def test_ranks_are_in_no_way_the_engines_own_process():
    with drilled(NEMO, size=1) as engine:
        assert engine.network.facts[0].pid != os.getpid()
        assert engine.health.state == "ready"
    assert engine.health.state == "closed"


def test_attention_over_ranks_is_that_of_one_process():
    with mt5.open(HF, dtype="float32") as one, drilled(HF) as two:
        fill = one.fill(PROMPT)
        for ours, theirs in zip(one.attention(fill).weights, two.attention(fill).weights, strict=True):
            for row, other in zip(ours, theirs, strict=True):
                assert row == pytest.approx(other, abs=TOLERANCE)


def test_ranks_of_two_launchers_join_an_engine_and_come_back_after_a_fault(monkeypatch):
    monkeypatch.setenv("MT5_RANKS_KEY", "a secret of this test")
    desk, meeting = free_port(), free_port()
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--max-restarts=3", "--master-addr=127.0.0.1", f"--master-port={meeting}"]
    with nothing_left(30), ExitStack() as stack:
        for node in range(2):
            rank = ["-m", "mt5.ranks", f"--engine=127.0.0.1:{desk}", f"--checkpoint={NEMO}"]
            launcher = subprocess.Popen([*command, f"--node-rank={node}", *rank], cwd=ROOT)
            # they end when the engine lets their ranks go
            stack.callback(launcher.wait)
            stack.callback(ended, launcher)
        with mt5.open(NEMO, tensor_parallel=2, dtype="float32", listen=f"127.0.0.1:{desk}") as engine:
            text = engine.fill(PROMPT).text
            os.kill(engine.network.facts[1].pid, signal.SIGKILL)
            until(lambda: engine.health.state == "restarting", 2)
            assert engine.fill(PROMPT, num_alternatives=0).text == text
