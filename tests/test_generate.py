"""Decoding, on a probability table small enough to check by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from mt5.errors import PromptError
from mt5.generate import decode
from mt5.parallel import Shard, VocabularyLogProbs
from mt5.rules import Free, Guided
from mt5.settings import Settings

# ids: 0 start, 1 eos, 2 a, 3 b, 4 c, 5 sentinel 1, 6 sentinel 0
START, EOS, A, B, C, S1, S0 = range(7)
TABLE = {
    (START,): [0, 1, 2, 2, 1, 1, 93],
    (START, S0): [1, 1, 40, 35, 13, 5, 5],
    (START, S0, A): [1, 9, 10, 30, 20, 20, 10],
    (START, S0, B): [1, 2, 2, 2, 2, 90, 1],
    (START, S0, A, B): [1, 4, 10, 10, 5, 60, 10],
    (START, S0, C): [1, 70, 5, 5, 5, 10, 4],
    (START, S0, B, S1): [1, 1, 10, 20, 58, 5, 5],
    (START, S0, B, S1, C): [1, 80, 10, 5, 2, 1, 1],
    (START, S0, A, B, S1): [1, 20, 15, 30, 9, 20, 5],
    (START, S0, A, B, S1, B): [1, 60, 15, 10, 10, 2, 2],
}
DEFAULT = [1, 60, 10, 10, 9, 5, 5]


class TableDecoder:
    """The probability of a token is looked up by all the tokens before it."""

    def __init__(self, rows: int = 1) -> None:
        self.prefixes: list[tuple[int, ...]] = [()] * rows
        self.steps = 0

    def step(self, tokens: torch.Tensor) -> VocabularyLogProbs:
        self.steps += 1
        self.prefixes = [(*p, *new) for p, new in zip(self.prefixes, tokens.tolist(), strict=True)]
        return self.look_up(self.prefixes)

    def read(self, tokens: torch.Tensor) -> VocabularyLogProbs:
        lengths = [len(prefix) for prefix in self.prefixes]
        self.step(tokens)
        pairs = zip(self.prefixes, lengths, strict=True)
        return self.look_up([p[:end] for p, start in pairs for end in range(start + 1, len(p) + 1)])

    def look_up(self, prefixes: list[tuple[int, ...]]) -> VocabularyLogProbs:
        weights = torch.tensor([TABLE.get(p, DEFAULT) for p in prefixes], dtype=torch.float64)
        logits = torch.log(weights / weights.sum(-1, keepdim=True))
        return VocabularyLogProbs(logits, vocab_size=7, shard=Shard())

    def select(self, rows: torch.Tensor) -> None:
        self.prefixes = [self.prefixes[row] for row in rows.tolist()]


FREE = Free(start_id=START, stop_ids=frozenset({EOS}), max_tokens=8)
ONE_GAP = Guided(START, (S0,), (EOS, S1, S0), (START,), max_tokens=8)
TWO_GAPS = Guided(START, (S0, S1), (EOS, S1, S0), (START,), max_tokens=8)


def run(rules, settings: Settings = Settings(), decoder: TableDecoder | None = None):
    rules = list(rules) if isinstance(rules, list | tuple) else [rules]
    decoder = decoder or TableDecoder(len(rules))
    *_, last = decode(decoder, rules, settings)
    return last


def probability(prefix: tuple[int, ...], token: int) -> float:
    weights = TABLE.get(prefix, DEFAULT)
    return weights[token] / sum(weights)


def test_greedy_takes_the_likeliest_token_and_stops_at_eos():
    [[row]] = run(FREE)
    assert row.hypothesis.ids == (S0, A, B, S1, B, EOS)
    assert row.hypothesis.log_probs[1] == pytest.approx(math.log(0.40))


def test_log_probs_are_those_of_the_whole_distribution():
    [[row]] = run(FREE)
    prefix = (START,)
    for token, value in zip(row.hypothesis.ids, row.hypothesis.log_probs, strict=True):
        assert value == pytest.approx(math.log(probability(prefix, token)), abs=1e-6)
        prefix += (token,)


def test_a_guided_fill_is_given_its_sentinels_and_saves_their_steps():
    decoder = TableDecoder()
    [[row]] = run(ONE_GAP, decoder=decoder)
    assert row.hypothesis.ids == (S0, A, B)
    assert row.hypothesis.log_probs[0] == 0
    assert decoder.steps == 3  # start and sentinel together, a, b; the sentinel after b closes the gap


def test_every_gap_gets_a_span_even_where_the_model_would_end():
    [[row]] = run(TWO_GAPS)
    assert row.hypothesis.ids == (S0, A, B, S1, B)


def test_a_gap_is_never_closed_before_its_first_token():
    # eos and the sentinels together are likelier than anything after S1, and the likeliest single id is b
    [[row]] = run(Guided(START, (S1,), (EOS, S1, S0), (START,), max_tokens=8))
    assert row.hypothesis.ids[1] in (A, B)
    assert row.hypothesis.log_probs[1] == pytest.approx(math.log(0.10))


def test_a_gap_that_runs_out_of_tokens_is_truncated_and_the_next_one_filled():
    [[row]] = run(Guided(START, (S0, S1), (EOS, S1, S0), (START,), max_tokens=1))
    assert row.hypothesis.ids == (S0, A, S1, A)
    assert row.hypothesis.truncated == {0, 1}


def test_decoding_ends_where_the_positions_end():
    [[row]] = run(Guided(START, (S0, S1), (EOS, S1, S0), (START,), max_tokens=8, max_target=2))
    assert row.hypothesis.ids == (S0, A)
    assert row.finished


def test_alternatives_are_the_next_best_in_order_without_the_chosen_one():
    [[row]] = run(ONE_GAP, Settings(num_alternatives=2))
    first = row.hypothesis.alternatives[1]
    assert [token for token, _ in first] == [B, C]
    assert [math.exp(value) for _, value in first] == pytest.approx([0.35, 0.13], abs=1e-6)


def test_rows_of_a_batch_do_not_influence_each_other():
    short = Guided(START, (S0,), (EOS, S1, S0), (START,), max_tokens=1)
    rules = [TWO_GAPS, short, FREE]
    together = [rows[0].hypothesis for rows in run(rules)]
    assert together == [run(rule)[0][0].hypothesis for rule in rules]


def test_sampled_rows_of_a_batch_draw_what_they_draw_alone():
    settings = Settings(strategy="sample", seed=5, num_return=3)
    rules = [Guided(START, (S0, S1), (EOS, S1, S0), (START,), max_tokens=2), TWO_GAPS, FREE]
    together = [[row.hypothesis for row in rows] for rows in run(rules, settings)]
    assert together == [[row.hypothesis for row in run(rule, settings)[0]] for rule in rules]


def test_beam_of_one_equals_greedy():
    for rule in (FREE, ONE_GAP, TWO_GAPS):
        [[beam]], [[greedy]] = run(rule, Settings(strategy="beam", num_beams=1)), run(rule)
        assert beam.hypothesis == greedy.hypothesis


# Given tokens


def begun(rules: Guided, *given: tuple[int, ...]) -> Guided:
    return replace(rules, given=given)


STRATEGIES = [
    Settings(),
    Settings(strategy="beam", num_beams=3),
    Settings(strategy="sample", seed=4, temperature=2),
]


@pytest.mark.parametrize("settings", STRATEGIES, ids=lambda settings: settings.strategy)
def test_what_was_written_goes_on_as_it_did_when_it_is_given(settings):
    [[whole]] = run(TWO_GAPS, settings)
    ids = whole.hypothesis.ids
    spans = ids[1 : ids.index(S1)], ids[ids.index(S1) + 1 :]
    prefixes = [spans[0][:n] for n in range(len(spans[0]) + 1)]
    prefixes = [(prefix,) for prefix in prefixes] + [(spans[0], spans[1][:n]) for n in range(len(spans[1]))]
    for given in prefixes:
        [[row]] = run(begun(TWO_GAPS, *given), settings)
        assert row.hypothesis == whole.hypothesis


def test_the_decoding_goes_on_from_another_token():
    [[row]] = run(begun(TWO_GAPS, (B,)))
    assert row.hypothesis.ids == (S0, B, S1, C)
    assert row.hypothesis.log_probs == pytest.approx([0, math.log(0.35), 0, math.log(0.58)])


def test_given_tokens_have_the_alternatives_of_chosen_ones():
    [[row]] = run(begun(TWO_GAPS, (A, B), (B,)), Settings(num_alternatives=2))
    places = row.hypothesis.alternatives
    # first in its gap, so no closing id; then with them; then first in the next gap
    assert [{id_ for id_, _ in places[place]} for place in (1, 2, 4)] == [{B, C}, {C, S1}, {A, C}]
    assert math.exp(places[1][0][1]) == pytest.approx(0.35)


def test_given_tokens_cost_one_step_together():
    decoder = TableDecoder()
    run(begun(TWO_GAPS, (A, B), (B,)), decoder=decoder)
    assert decoder.steps == 2  # all but the last b; then b, after which the gap closes


def test_a_given_gap_that_is_as_long_as_allowed_is_closed():
    rules = begun(Guided(START, (S0, S1), (EOS, S1, S0), (START,), max_tokens=2), (A, B))
    [[row]] = run(rules)
    assert row.hypothesis.ids == (S0, A, B, S1, B)
    assert row.hypothesis.truncated == {0}


@pytest.mark.parametrize("settings", STRATEGIES, ids=lambda settings: settings.strategy)
def test_when_every_gap_is_given_and_closed_nothing_is_chosen(settings):
    decoder = TableDecoder()
    [[row]] = run(begun(ONE_GAP, (C,), ()), settings, decoder)
    assert row.hypothesis.ids == (S0, C) and row.finished
    assert row.hypothesis.log_probs == pytest.approx([0, math.log(0.13)])
    assert decoder.steps == 1


def test_several_samples_go_on_from_one_beginning():
    settings = Settings(strategy="sample", num_return=4, temperature=3, seed=1)
    rows = run([begun(TWO_GAPS, (C,)), begun(TWO_GAPS, (A,))], settings)
    assert [[row.hypothesis.ids[1] for row in prompt] for prompt in rows] == [[C] * 4, [A] * 4]
    assert rows == [run(begun(TWO_GAPS, (id_,)), settings)[0] for id_ in (C, A)]


# Batches


def test_each_prompt_of_a_batch_may_have_its_own_seed():
    settings = [Settings(strategy="sample", seed=seed, temperature=3) for seed in range(20)]
    *_, together = decode(TableDecoder(20), [TWO_GAPS] * 20, settings)
    assert together == [run(TWO_GAPS, one)[0] for one in settings]
    assert len({rows[0].hypothesis.ids for rows in together}) > 1


@pytest.mark.parametrize("settings", STRATEGIES, ids=lambda settings: settings.strategy)
def test_a_prompt_that_is_dropped_costs_nothing_more_and_changes_no_other(settings):
    decoder = TableDecoder(3)
    steps = decode(decoder, [TWO_GAPS] * 3, settings)
    next(steps)
    states = [steps.send({0, 2}), *steps]
    assert {prefix[0] for prefix in decoder.prefixes} == {START}
    assert len(decoder.prefixes) <= settings.num_beams
    assert states[-1][1] == run(TWO_GAPS, settings)[0]
    assert len(states[-1][0][0].hypothesis.ids) == 2


def test_when_every_prompt_is_dropped_the_decoding_ends():
    steps = decode(TableDecoder(2), [TWO_GAPS] * 2, Settings())
    next(steps)
    with pytest.raises(StopIteration):
        steps.send([0, 1])


# Beams and samples


def every_path(prefix: tuple[int, ...], score: float, depth: int):
    """All free decodings of at most `depth` more tokens that end in eos, with their probability."""
    for token in range(1, 7):
        value = score * probability(prefix, token)
        if token == EOS:
            yield value, (*prefix[1:], EOS)
        elif depth > 1:
            yield from every_path((*prefix, token), value, depth - 1)


def test_a_wide_beam_finds_the_likeliest_sequences():
    free = Free(START, frozenset({EOS}), max_tokens=4)
    ended = sorted(every_path((START,), 1.0, 4), reverse=True)
    cut = [
        (math.prod(probability((START, *ids[:n]), ids[n]) for n in range(4)), ids)
        for ids in itertools.product(range(2, 7), repeat=4)
    ]
    best = [ids for _, ids in sorted(ended + cut, reverse=True)[:3]]
    found = run(free, Settings(strategy="beam", num_beams=32, num_return=3))[0]
    assert [row.hypothesis.ids for row in found] == best


def test_n_best_come_in_order_of_their_score():
    rows = run(ONE_GAP, Settings(strategy="beam", num_beams=4, num_return=4))[0]
    scores = [row.score for row in rows]
    assert len(rows) == 4 and scores == sorted(scores, reverse=True)


def test_beam_beats_greedy_where_the_first_choice_misleads():
    greedy = run(ONE_GAP)[0][0]
    beam = run(ONE_GAP, Settings(strategy="beam", num_beams=3))[0][0]
    assert beam.hypothesis.ids == (S0, B) and beam.score > greedy.score


def draws(settings: Settings) -> list[int]:
    rows = run([ONE_GAP] * 40, settings)
    return [row.hypothesis.ids[1] for prompt in rows for row in prompt]


def test_one_seed_gives_one_result_and_other_seeds_give_others():
    firsts = {seed: draws(Settings(strategy="sample", seed=seed, num_return=1))[0] for seed in range(40)}
    assert draws(Settings(strategy="sample", seed=3))[0] == firsts[3]
    assert len(set(firsts.values())) > 1


def test_samples_follow_the_distribution():
    settings = [Settings(strategy="sample", seed=100 * block, num_return=32) for block in range(40)]
    counts = torch.zeros(7)
    for setting in settings:
        for row in run(ONE_GAP, setting)[0]:
            counts[row.hypothesis.ids[1]] += 1
    share = counts / counts.sum()
    # closing ids are forbidden at the start of a gap: what remains is 40 : 35 : 13
    expected = torch.tensor([0, 0, 40, 35, 13, 0, 0]) / 88
    assert torch.allclose(share, expected, atol=0.05)


def test_top_k_of_one_is_greedy():
    assert draws(Settings(strategy="sample", top_k=1, seed=9)) == [A] * 40


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    drawn = {draws(Settings(strategy="sample", top_p=0.6, seed=seed))[0] for seed in range(60)}
    assert drawn == {A, B}  # 40/88 alone is less than 0.6, 75/88 is more


def test_a_low_temperature_sharpens():
    sharp = [draws(Settings(strategy="sample", temperature=0.02, seed=seed))[0] for seed in range(20)]
    assert sharp == [A] * 20


def test_log_prob_of_a_sample_is_that_before_temperature_and_cuts():
    [[row]] = run(ONE_GAP, Settings(strategy="sample", temperature=5, top_k=2, seed=1))
    token, value = row.hypothesis.ids[1], row.hypothesis.log_probs[1]
    assert value == pytest.approx(math.log(probability((START, S0), token)), abs=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        {"temperature": 0},
        {"temperature": math.nan},
        {"temperature": 1e9},
        {"top_k": -1},
        {"top_p": 0},
        {"num_beams": 10**6},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": "seven"},
        {"max_new_tokens": 0},
        {"strategy": "magic"},
        {"num_return": 2},
        {"strategy": "beam", "num_beams": 2, "num_return": 3},
        {"guided": "yes"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(fault):
    with pytest.raises(PromptError) as refusal:
        Settings(**fault)
    assert list(fault)[-1] in str(refusal.value)


def test_all_faults_of_the_settings_are_named_at_once():
    with pytest.raises(PromptError, match=r"top_k.*seed.*temperature"):
        Settings(top_k=-1, temperature=0, seed=-1)
