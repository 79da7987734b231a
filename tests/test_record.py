"""Results as JSON."""

import json
import math

import pytest

from mt5 import __version__
from mt5.config import ModelConfig, StackConfig
from mt5.corruption import Corruption
from mt5.info import Info
from mt5.record import record
from mt5.results import Alternative, Attention, Fill, Score, Span, Sweep, SweepWord, Token
from mt5.settings import Settings

STACK = StackConfig(
    num_layers=1, num_heads=1, d_kv=1, d_ff=1, norm="rms", norm_eps=1e-6, positions="relative",
    activation="gelu", gated=True, linear_bias=False, score_scale=1.0,
)  # fmt: skip
CONFIG = ModelConfig(
    d_model=1, vocab_size=9, padded_vocab_size=9, encoder=STACK, decoder=STACK, tied_head=True,
    head_bias=False, masked_score=-1e4, pad_masks_target=False, max_positions=None, start_id=0, pad_id=0,
    eos_id=1, source_eos=True,
)  # fmt: skip


def info(digest=lambda: "f" * 64) -> Info:
    return Info(
        name="tiny", path="/home/someone/tiny", format="nemo", parameters=7, dtype="float32",
        stored_dtype="bfloat16", device="cpu", tensor_parallel=1, stored_tensor_parallel=2, vocabulary=9,
        padded_vocabulary=9, load_s=0.1, rank_memory=(), config=CONFIG, digest=digest,
    )  # fmt: skip


def token(log_prob: float, rank: int | None = None) -> Token:
    return Token(5, "▁x", log_prob, (Alternative(6, "▁y", log_prob),), rank)


def span(log_prob: float, rank: int | None = None) -> Span:
    return Span(0, "x", (token(log_prob, rank),))


def results(log_prob: float) -> list:
    filled = ("<mask>", "x", "▁<extra_id_0>")
    fill = Fill(*filled, (span(log_prob),))
    return [
        Fill(*filled, (span(log_prob),), (fill, fill)),
        Score(*filled, (span(log_prob, 3),)),
        Sweep("x", (SweepWord(0, 1, "x", span(log_prob, 3), span(log_prob)),)),
        Corruption(
            "x", ("▁x",), ((0, 1),), (8,), (8, 5, 1), "<extra_id_0>", "<extra_id_0>", ("", ""), ("x",)
        ),
        Attention(("▁y",), ("▁x",), (((log_prob,),),)),
    ]


@pytest.mark.parametrize("log_prob", [-0.5, -math.inf, math.nan])
@pytest.mark.parametrize("number", range(5))
def test_every_result_is_strict_json_and_says_what_is_needed_to_have_it_again(number, log_prob) -> None:
    result = results(log_prob)[number]
    found = json.loads(json.dumps(record(result, info(), {"seed": 3}), allow_nan=False))
    assert found["settings"] == {"seed": 3} and found["version"] == __version__
    assert found["model"]["sha256"] == "f" * 64 and found["model"]["stored_tensor_parallel"] == 2
    # nobody's folders, and nothing that differs from run to run
    assert "someone" not in json.dumps(found) and "load_s" not in found["model"]


def test_a_number_that_json_cannot_hold_is_null() -> None:
    fill, score, sweep, _, attention = (record(result, info(), {}) for result in results(-math.inf))
    assert fill["log_prob"] is fill["spans"][0]["log_prob"] is fill["candidates"][1]["log_prob"] is None
    assert fill["completion"]["tokens"] == [[5, "▁x", None]]
    assert fill["spans"][0]["tokens"][0] == {
        "id": 5, "piece": "▁x", "log_prob": None, "alternatives": [["▁y", None]],
    }  # fmt: skip
    assert score["perplexity"] is score["spans"][0]["tokens"][0]["log_prob"] is None
    assert score["spans"][0]["tokens"][0]["rank"] == 3
    assert sweep["words"][0]["log_prob"] is None
    assert attention["weights"] == [[[None]]]


def test_the_record_of_a_fork_says_what_was_given() -> None:
    found = record(results(-0.5)[0], info(), Settings(strategy="sample", seed=7), given=((5, 6), (7,)))
    assert found["given"] == [[5, 6], [7]]
    assert found["settings"]["seed"] == 7
    assert "given" not in record(results(-0.5)[0], info(), Settings())


def test_the_hash_is_found_once_and_only_when_it_is_asked_for() -> None:
    calls = []
    facts = info(lambda: calls.append(1) or "a" * 64)
    assert facts == info() and calls == [] and "digest" not in repr(facts)
    assert facts.sha256 == facts.facts()["sha256"] == "a" * 64
    assert record(results(-0.5)[0], facts, {})["model"]["sha256"] == "a" * 64
    assert len(calls) == 1
    assert facts.facts()["config"]["d_model"] == 1 and "digest" not in facts.facts()
