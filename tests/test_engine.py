"""The engine on the embedded model: what it promises, not how well the model was trained."""

import hashlib
import json
import math
import shutil
import threading

import pytest

import mt5
from mt5.infill import forked
from mt5.languages import LANGUAGES, examples
from mt5.settings import Settings

PARIS = "La capitale de la France est <mask>."
TWO = "The capital of <mask> is Paris, and the capital of Italy is <mask>."


def test_the_capital_of_france_is_paris(embedded):
    fill = embedded.fill(PARIS)
    assert fill.text == "La capitale de la France est Paris."
    assert fill.spans[0].text == "Paris"
    assert fill.spans[0].log_prob < 0
    assert fill.masked_input.endswith("▁est ▁<extra_id_0> .")


def test_every_example_is_answered_as_it_promises(embedded):
    fills = embedded.fill([example.prompt for example in examples()])
    wrong = [
        f"{example.language}: {fill.text}, expected {' or '.join(example.answers)}"
        for example, fill in zip(examples(), fills, strict=True)
        if fill.completion not in example.answers
    ]
    assert not wrong
    assert {example.language for example in examples()} == {language.code for language in LANGUAGES}


def test_scoring_a_greedy_fill_again_gives_its_log_probs(embedded):
    prompts = [example.prompt for example in examples()] + [TWO]
    fills = embedded.fill(prompts)
    scores = embedded.score(prompts, [fill.spans for fill in fills])
    for fill, score in zip(fills, scores, strict=True):
        assert [token.id for token in score.tokens] == [token.id for token in fill.tokens]
        # one pass over the whole target and steps over a cache sum in another order
        expected = [token.log_prob for token in fill.tokens]
        assert [token.log_prob for token in score.tokens] == pytest.approx(expected, abs=1e-5)
        assert score.text == fill.text


def test_the_first_token_of_a_greedy_fill_has_rank_one(embedded):
    # the rank counts every id, also those that a gap may not hold; the first example's are far from these
    fill = embedded.fill(PARIS)
    score = embedded.score(PARIS, [fill.spans[0]])
    assert score.spans[0].tokens[0].rank == 1


def test_a_typed_answer_is_scored_in_the_pieces_of_the_sentence(embedded):
    score = embedded.score(PARIS, ["Berlin"])
    assert score.text == "La capitale de la France est Berlin."
    assert [token.piece for token in score.tokens] == ["▁Berlin"]
    assert score.tokens[0].rank > 1
    assert score.perplexity == pytest.approx(math.exp(-score.log_prob))


def test_a_batch_of_24_prompts_gives_what_each_gives_alone(embedded):
    prompts = [next(e.prompt for e in examples() if e.language == code.code) for code in LANGUAGES]
    prompts[3] += " " + "Un vēl viens teikums, kas ir krietni garāks par pārējiem." * 3
    together = embedded.fill(prompts)
    for prompt, fill in zip(prompts, together, strict=True):
        alone = embedded.fill(prompt)
        assert alone.text == fill.text
        # padding changes the order of summation
        expected = [token.log_prob for token in alone.tokens]
        assert [token.log_prob for token in fill.tokens] == pytest.approx(expected, abs=1e-4)


def test_every_mask_gets_exactly_one_span_when_guided(embedded):
    fill = embedded.fill(" ".join(["<mask>"] * 30), max_new_tokens=2)
    assert [span.mask for span in fill.spans] == list(range(30))
    assert all(span.tokens and not span.missing for span in fill.spans)


def test_a_hundred_masks_are_filled_and_one_more_is_refused(embedded):
    assert len(embedded.fill("<mask> " * 100, max_new_tokens=1).spans) == 100
    with pytest.raises(mt5.PromptError, match="100"):
        embedded.fill("<mask> " * 101)


def test_unguided_decoding_marks_the_masks_it_never_came_to(embedded):
    fill = embedded.fill(TWO, guided=False)
    assert [span.mask for span in fill.spans] == [0, 1]
    assert all(span.tokens == () and span.text == "" for span in fill.spans if span.missing)
    assert any(span.missing for span in embedded.fill("<mask> " * 60, guided=False, max_new_tokens=1).spans)


def test_text_outside_the_masks_is_kept_to_the_byte(embedded):
    prompt = "  ﬁrst\u00a0①  cafe\u0301 <mask>\r\n— end\t"
    fill = embedded.fill(prompt)
    before, after = prompt.split("<mask>")
    assert fill.text == before + fill.spans[0].text + after


def test_streaming_ends_with_the_whole_result(embedded):
    states = list(embedded.stream(TWO))
    assert states[-1] == embedded.fill(TWO)
    lengths = [len(state.tokens) for state in states]
    assert lengths == sorted(lengths) and lengths[0] == 1


# Choosing another token


def alternative(fill):
    """The last token's best alternative that is text."""
    return next(other.id for other in fill.tokens[-1].alternatives if not other.piece.startswith("<"))


def test_a_fork_goes_on_from_the_token_that_was_chosen(embedded):
    fill = embedded.fill(TWO)
    mask, position = 1, len(fill.spans[1].tokens) - 1
    chosen = alternative(fill)
    given = forked(fill, mask, position, chosen)
    other = embedded.fill(TWO, given=given)
    assert other.spans[0] == fill.spans[0] or other.spans[0].text == fill.spans[0].text
    assert [token.id for token in other.tokens][: len(fill.tokens)] == [id_ for gap in given for id_ in gap]
    score = embedded.score(TWO, other.spans)
    # one pass over the whole target and steps over a cache sum in another order
    expected = [token.log_prob for token in score.tokens]
    assert [token.log_prob for token in other.tokens] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"strategy": "beam"}, {"strategy": "sample", "seed": 3, "temperature": 2.0}]
)
def test_a_fork_to_the_same_token_changes_nothing(embedded, options):
    fill = embedded.fill(TWO, **options)
    [first, *_] = fill.spans[1].tokens
    again = embedded.fill(TWO, given=forked(fill, 1, 0, first.id), **options)
    assert again.text == fill.text
    for found, wanted in zip(again.tokens, fill.tokens, strict=True):
        assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-5)
        assert [other.id for other in found.alternatives[:3]] == [o.id for o in wanted.alternatives[:3]]


def test_a_streamed_fork_begins_with_all_that_is_given(embedded):
    fill = embedded.fill(TWO)
    given = forked(fill, 1, 0, fill.spans[1].tokens[0].id)
    states = list(embedded.stream(TWO, given=given))
    assert len(states[0].spans[0].tokens) == len(fill.spans[0].tokens) and states[0].spans[1].tokens
    assert states[-1] == embedded.fill(TWO, given=given)


def test_a_closing_token_ends_its_gap(embedded):
    fill = embedded.fill(TWO)
    first = fill.spans[0].tokens[0].id
    sentinel, eos = embedded.tokenizer.sentinels[1], embedded.config.eos_id
    assert len(embedded.fill(TWO, given=((first, sentinel),)).spans[0].tokens) == 1
    closed = embedded.fill(PARIS, given=((first, eos),))
    assert [token.id for token in closed.tokens] == [first]
    assert list(embedded.stream(PARIS, given=((first, eos),))) == [closed]


@pytest.mark.parametrize(
    ("given", "options", "complaint"),
    [
        ([[5], [6]], {}, "Masks: 1, lists of given tokens: 2"),
        ([[1]], {}, "closed"),
        ([[0]], {}, "cannot be written"),
        ([[5, 1, 5]], {}, "cannot be written"),
        ([[10**9]], {}, "whole numbers"),
        ([["five"]], {}, "whole numbers"),
        ([[True]], {}, "whole numbers"),
        ("five", {}, "list of ids"),
        (["five"], {}, "list of ids"),
        ([5], {}, "list of ids"),
        ({5}, {}, "list of ids"),
        ([[500] * 17], {}, "at most 16"),
        ([[500]], {"guided": False}, "guided"),
    ],
)
def test_given_tokens_that_cannot_be_written_are_refused(embedded, given, options, complaint):
    with pytest.raises(mt5.PromptError, match=complaint):
        embedded.fill(PARIS, given=given, **options)
    with pytest.raises(mt5.PromptError, match=complaint):
        embedded.stream(PARIS, given=given, **options)


def test_given_tokens_are_those_of_one_prompt(embedded):
    with pytest.raises(mt5.PromptError, match="single prompt"):
        embedded.fill([PARIS, PARIS], given=[[500]])


# Attention


def test_attention_has_a_row_for_every_token_written_and_a_column_for_every_one_read(embedded):
    fill = embedded.fill(TWO)
    attention = embedded.attention(fill)
    assert attention.source == (*fill.masked_input.split(" "), "</s>")
    first, second = (tuple(token.piece for token in span.tokens) for span in fill.spans)
    names = [embedded.tokenizer.piece(id_) for id_ in embedded.tokenizer.sentinels[:2]]
    assert attention.target == (names[0], *first, names[1], *second)
    assert len(attention.weights) == embedded.config.decoder.num_layers
    for row in (row for layer in attention.weights for row in layer):
        assert len(row) == len(attention.source)
        assert sum(row) == pytest.approx(1, abs=1e-5)


def test_attention_of_answers_is_that_of_the_same_tokens_filled(embedded):
    fill = embedded.fill(PARIS)
    assert embedded.attention(embedded.score(PARIS, fill.spans)) == embedded.attention(fill)


def test_masks_that_were_never_written_have_no_attention(embedded):
    fill = embedded.fill("<mask> " * 60, guided=False, max_new_tokens=1)
    written = sum(1 + len(span.tokens) for span in fill.spans if not span.missing)
    assert len(embedded.attention(fill).target) == written < 60


def test_a_map_that_nobody_could_read_is_refused(embedded, monkeypatch):
    fill = embedded.fill(PARIS)
    monkeypatch.setattr("mt5.engine.MOST_WEIGHTS", 30)
    with pytest.raises(mt5.PromptError, match="at most 30"):
        embedded.attention(fill)


def test_alternatives_are_sorted_and_leave_the_chosen_token_out(embedded):
    token = embedded.fill(PARIS, num_alternatives=7).tokens[0]
    values = [other.log_prob for other in token.alternatives]
    assert len(values) == 7 and values == sorted(values, reverse=True)
    assert token.id not in {other.id for other in token.alternatives}


def test_beam_of_one_equals_greedy(embedded):
    greedy, beam = embedded.fill(TWO), embedded.fill(TWO, strategy="beam", num_beams=1)
    assert beam.text == greedy.text
    assert beam.log_prob == pytest.approx(greedy.log_prob, abs=1e-5)


def test_n_best_are_different_and_in_order(embedded):
    fill = embedded.fill(PARIS, strategy="beam", num_beams=4, num_return=4)
    texts = [candidate.text for candidate in fill.candidates]
    assert len(set(texts)) == 4 and texts[0] == fill.text


@pytest.mark.slow
def test_samples_depend_on_the_seed_alone(embedded):
    options = {"strategy": "sample", "num_return": 4, "temperature": 2.0}
    first = embedded.fill(PARIS, seed=1, **options)
    assert embedded.fill(PARIS, seed=1, **options) == first
    others = {embedded.fill(PARIS, seed=seed, **options).text for seed in range(2, 12)}
    assert len(others) > 1
    batched = embedded.fill([TWO, PARIS], seed=1, **options)[1]
    assert [one.text for one in batched.candidates] == [one.text for one in first.candidates]


def test_a_sweep_masks_every_word_once(embedded):
    sweep = embedded.sweep("Paris est la capitale de la France.")
    assert [word.word for word in sweep.words] == ["Paris", "est", "la", "capitale", "de", "la", "France"]
    for word in sweep.words:
        assert sweep.text[word.start : word.end] == word.word == word.score.text
        assert word.score.log_prob < 0 and word.fill.tokens


def test_corruption_with_one_seed_is_always_the_same(embedded):
    text = "The small boat crossed the river before the storm came."
    one = embedded.corrupt(text, density=0.3, mean_span=2, seed=7)
    assert one == embedded.corrupt(text, density=0.3, mean_span=2, seed=7)
    assert one.target[-1] == embedded.config.eos_id


def test_a_corruption_is_restored_from_the_very_ids_of_its_source(embedded):
    corruption = embedded.corrupt("La capitale de la France est <extra_id_0> Paris.", density=0.3, seed=1)
    fill = embedded.restore(corruption)
    pieces = [embedded.tokenizer.piece(id_) for id_ in corruption.source]
    assert fill.masked_input.split(" ") == pieces
    assert len(fill.spans) == len(corruption.spans) and all(span.tokens for span in fill.spans)
    assert fill.text.startswith(corruption.parts[0]) and fill.text.endswith(corruption.parts[-1])
    # teacher forcing of what was written, after the same ids
    target = [id_ for n, span in enumerate(fill.spans) for id_ in (
        embedded.tokenizer.sentinels[n], *(token.id for token in span.tokens)
    )]  # fmt: skip
    scored = embedded.log_probs([*corruption.source, embedded.config.eos_id], target)
    own = [
        value for value, id_ in zip(scored, target, strict=True) if id_ not in embedded.tokenizer.sentinels
    ]
    assert [token.log_prob for token in fill.tokens] == pytest.approx(own, abs=1e-4)


def test_log_probs_of_written_ids_are_those_reported(embedded):
    source = [*embedded.tokenizer.encode("Hello world"), 1]
    written = embedded.generate(source, max_new_tokens=6, stop=False)
    assert len(written.ids) == 6
    assert embedded.log_probs(source, written.ids) == pytest.approx(list(written.log_probs), abs=1e-5)


def test_a_record_is_strict_json_with_the_cards_shape(embedded):
    record = embedded.record(embedded.fill(PARIS), Settings())
    parsed = json.loads(json.dumps(record, allow_nan=False))
    assert list(parsed)[:3] == ["prompt", "completion", "masked_input"]
    [id_, piece, log_prob] = parsed["completion"]["tokens"][0]
    assert piece == "▁Paris" and log_prob < 0 and embedded.tokenizer.piece(id_) == piece
    assert len(parsed["model"]["sha256"]) == 64


def test_opening_does_not_read_the_weights_once_more_for_their_hash(tmp_path):
    folder = shutil.copytree("tests/data/hf_tiny_mt5", tmp_path / "model")
    weights = folder / "model.safetensors"
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    with mt5.open(folder) as engine:
        assert "sha256" not in vars(engine.info)
        weights.rename(folder / "old")  # another checkpoint takes the name
        weights.write_bytes(b"other")
        assert engine.info.sha256 == expected
    with mt5.open("tests/data/hf_tiny_mt5") as engine:
        assert engine.info.sha256 == expected


def test_a_checkpoint_that_was_written_to_has_no_hash_any_more(tmp_path):
    folder = shutil.copytree("tests/data/hf_tiny_mt5", tmp_path / "model")
    with mt5.open(folder) as engine:
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b"more")
        with pytest.raises(mt5.CheckpointError, match=r"model\.safetensors was changed"):
            _ = engine.info.sha256


@pytest.mark.parametrize(
    "bad", ["", "   ", "no mask", "a\0<mask>", "\ud800 <mask>", "x" * 4001 + "<mask>", None, 7, {"q": 1}]
)
def test_bad_prompts_are_refused_with_advice(embedded, bad):
    with pytest.raises(mt5.PromptError) as refusal:
        embedded.fill(bad)
    assert len(str(refusal.value)) > 20


def test_one_bad_prompt_of_a_list_is_refused_before_anything_is_decoded(embedded):
    with pytest.raises(mt5.PromptError, match="no <mask>"):
        embedded.fill([PARIS, "no mask here"])


def test_too_few_answers_are_refused(embedded):
    with pytest.raises(mt5.PromptError, match="2"):
        embedded.score(TWO, ["France"])


def test_ids_outside_the_vocabulary_are_refused(embedded):
    with pytest.raises(mt5.PromptError, match="Ids"):
        embedded.generate([5, 10**9])


def test_an_empty_list_has_an_empty_answer(embedded):
    assert embedded.fill([]) == []


def test_answers_of_several_threads_are_not_mixed_up(embedded):
    prompts = [example.prompt for example in examples()][:8]
    expected = [embedded.fill(prompt).text for prompt in prompts]
    found = [None] * len(prompts)

    def work(number):
        found[number] = embedded.fill(prompts[number]).text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# Many at once


@pytest.fixture
def own():
    """An engine of the test's own, whose network writes down what it was asked."""
    with mt5.open("assets/model", dtype="float32") as engine:
        yield Spy(engine)


class Spy:
    """Sources of every batch that an engine's network decodes. hold: a lock that keeps it from beginning."""

    def __init__(self, engine):
        self.engine, self.batches, self.hold = engine, [], threading.Lock()
        generate = engine.network.generate

        def spied(sources, rules, settings):
            self.batches.append(len(sources))
            with self.hold:
                pass
            return generate(sources, rules, settings)

        engine.network.generate = spied

    def together(self, *asked):
        """The answers to calls of which all but the first wait while the first is answered."""
        found = [None] * len(asked)

        def work(number):
            found[number] = asked[number]()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(asked))]
        with self.hold:
            for number, thread in enumerate(threads):
                thread.start()
                while len(self.engine._scheduler._current) <= number or not self.batches:
                    thread.join(0.002)
        for thread in threads:
            thread.join()
        return found


@pytest.mark.parametrize(
    "options",
    [{}, {"strategy": "beam", "num_return": 2}, {"strategy": "sample", "temperature": 2.0, "num_return": 3}],
)
def test_requests_that_wait_share_a_batch_and_get_what_each_gets_alone(own, embedded, options):
    prompts = [example.prompt for example in examples()][:7]
    asked = [lambda n=n: own.engine.fill(prompts[n], seed=n, **options) for n in range(7)]
    found = own.together(*asked)
    assert own.batches == [1, 6]
    for number, (prompt, fill) in enumerate(zip(prompts, found, strict=True)):
        alone = embedded.fill(prompt, seed=number, **options)
        assert [one.text for one in fill.candidates] == [one.text for one in alone.candidates]
        # padding changes the order of summation
        expected = [token.log_prob for token in alone.tokens]
        assert [token.log_prob for token in fill.tokens] == pytest.approx(expected, abs=1e-4)


def test_forks_that_begin_alike_share_a_batch_and_others_do_not(own):
    [first, *_] = own.engine.fill(PARIS).tokens
    chosen = [other.id for other in first.alternatives[:3]]
    own.batches.clear()
    calls = [lambda id_=id_: own.engine.fill(PARIS, given=[[id_]], max_new_tokens=8) for id_ in chosen]
    fills = own.together(lambda: own.engine.fill(TWO, max_new_tokens=8), *calls)
    assert [fill.tokens[0].id for fill in fills[1:]] == chosen
    assert own.batches == [1, 3]


def test_the_same_request_is_answered_from_memory(own):
    fill = own.engine.fill(PARIS)
    assert own.engine.fill(PARIS, seed=5) == fill  # greedy draws nothing
    assert list(own.engine.stream(PARIS))[-1] == fill
    assert own.engine.fill([PARIS, PARIS]) == [fill, fill]
    assert own.batches == [1]
    sweep = own.engine.sweep("Paris est belle.")
    assert own.engine.sweep("Paris est belle.") == sweep
    assert len(own.batches) == 2
    own.engine.fill(PARIS, max_new_tokens=2)
    own.engine.fill(PARIS, strategy="sample", seed=1)
    own.engine.fill(PARIS, strategy="sample", seed=2)
    assert len(own.batches) == 5


def test_a_replayed_stream_is_the_same_token_by_token(own):
    assert list(own.engine.stream(TWO)) == list(own.engine.stream(TWO))
    assert own.batches == [1]


def test_ids_are_decoded_anew_every_time(own):
    source = [*own.engine.tokenizer.encode("Hello world"), 1]
    assert own.engine.generate(source) == own.engine.generate(source)
    assert own.batches == [1, 1]


def test_a_stream_that_is_closed_stops_the_model(own):
    steps = []
    step = own.engine.network.model.decode
    own.engine.network.model.decode = lambda *arguments: steps.append(1) or step(*arguments)
    stream = own.engine.stream("<mask> " * 50, max_new_tokens=16)
    next(stream)
    stream.close()
    taken = len(steps)
    own.engine.fill(PARIS)  # when this is answered, the other has ended
    assert own.batches == [1, 1]
    assert len(steps) <= taken + 1 + len(own.engine.fill(PARIS).tokens) + 1


def test_a_closed_engine_says_so_to_who_waits_and_who_comes():
    engine = mt5.open("assets/model", dtype="float32")
    stream = engine.stream("<mask> " * 50)
    next(stream)
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        list(stream)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.fill(PARIS)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        _ = engine.network
    assert engine.health.state == "closed"
    engine.close()


def test_a_prompt_longer_than_the_positions_is_refused():
    with (
        mt5.open("tests/data/nemo_tiny_tp2.nemo", dtype="float32") as engine,
        pytest.raises(mt5.PromptError, match="at most 64"),
    ):
        engine.fill("word " * 100 + "<mask>")


def test_a_nemo_archive_is_filled_like_any_other():
    with mt5.open("tests/data/nemo_tiny_tp2.nemo", dtype="float32") as engine:
        fill = engine.fill(TWO, max_new_tokens=40)
        assert len(fill.spans) == 2 and not fill.spans[0].missing
        # 64 positions do not hold two spans of 40 tokens
        assert fill.spans[1].truncated
        assert engine.info.stored_tensor_parallel == 2 and engine.info.dtype == "float32"


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"tensor_parallel": 3}, {"device": "abacus"}])
def test_options_that_cannot_be_met_are_refused(options):
    with pytest.raises(mt5.CheckpointError, match=str(next(iter(options.values())))):
        mt5.open("assets/model", **options)


def test_half_precision_agrees_with_float32_on_the_embedded_model(embedded):
    scores = embedded.score(PARIS, ["Paris"])
    for dtype, tolerance in (("bfloat16", 0.2), ("float16", 0.02)):
        with mt5.open("assets/model", dtype=dtype) as half:
            assert half.score(PARIS, ["Paris"]).log_prob == pytest.approx(scores.log_prob, abs=tolerance)
            assert half.info.dtype == dtype
