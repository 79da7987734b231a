"""The recipe of the embedded model, from text to a folder that transformers opens, on a corpus of a page."""

import hashlib
import json
import lzma
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import MT5ForConditionalGeneration

import mt5
from mt5.model import MT5
from mt5.tokenizer import Tokenizer
from training import cooccurrence, pretrain, vocabulary
from training.data import (
    KNOWN,
    UNNUMBERED,
    Example,
    Fact,
    Lessons,
    Phrase,
    gaps,
    lessons_of,
    many_gaps,
    masked,
    read_facts,
    read_lines,
    read_phrases,
    split_facts,
    text_examples,
    unbracketed,
)
from training.export import export
from training.packing import IGNORED, Pack, hidden, nats, packs, stacked
from training.pretrain import Reading, Training, run, validation
from training.recipe import Recipe, model_config

CPU = torch.device("cpu")
SMALL = Recipe(
    d_model=16, num_heads=2, d_kv=8, d_ff=32, encoder_layers=1, decoder_layers=1, rows=4, source=60, target=20
)
SIZES = {"rows": 4, "source": 60, "target": 20}
CITIES = {"France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo"}
TEMPLATES = (
    "The capital of {} is {}.",
    "Country: {}. Capital: {}.",
    "In {} the capital is {}.",
    "{}, capital {}.",
)


def fact_rows(language: str) -> Iterator[dict[str, object]]:
    for number, template in enumerate(TEMPLATES):
        for country, city in CITIES.items():
            subject = f"{country} {language}"
            text = template.format(subject, city)
            start = text.rindex(city)
            yield {
                "lang": language,
                "relation": "capital",
                "subject": subject,
                "object": city,
                "template_id": f"t{number}",
                "text_with_object": text,
                "object_span": [start, start + len(city)],
            }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the real one's layout: the same little text for every language."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "valid").mkdir()
    lines = [
        f"{a} {b} the {c}."
        for a in ("We", "They", "You")
        for b in ("see", "hear")
        for c in ("cat", "dog", "sea")
    ]
    for language in vocabulary.LANGUAGES:
        with lzma.open(folder / f"{language}.txt.xz", "wt", encoding="utf-8") as file:
            file.write("\n".join([*lines, "x" * 400]))
        (folder / "valid" / f"{language}.txt").write_text(
            "We see the dog.\nYou hear the sea.\n", encoding="utf-8"
        )
    with lzma.open(folder / "facts.jsonl.xz", "wt", encoding="utf-8") as file:
        for language in vocabulary.LANGUAGES:
            file.writelines(json.dumps(row) + "\n" for row in fact_rows(language))
    return folder


@pytest.fixture(scope="module")
def spiece(corpus: Path) -> bytes:
    return vocabulary.train(vocabulary.sample(corpus, random.Random(0)), vocab_size=440)


@pytest.fixture(scope="module")
def tokenizer(spiece: bytes) -> Tokenizer:
    return Tokenizer.huggingface(spiece)


@pytest.fixture(scope="module")
def trained(
    corpus: Path, spiece: bytes, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run of a moment."""
    out = tmp_path_factory.mktemp("run")
    (out / "spiece.model").write_bytes(spiece)
    run(Training(SMALL, tokenizer, CPU), corpus, tokenizer, minutes=1 / 60, out=out)
    return out


def test_vocabulary_has_mt5s_layout(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.bos_id) == (0, 1, 2, None)
    assert tokenizer.vocab_size == 440
    assert tokenizer.sentinels == tuple(range(439, 339, -1))
    assert tokenizer.piece(439) == "▁<extra_id_0>"
    assert tokenizer.piece(340) == "▁<extra_id_99>"


def test_text_outside_the_vocabulary_falls_back_to_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("We see ☃")
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids).strip() == "We see ☃"


def test_a_held_out_fact_is_trained_on_through_another_template(corpus: Path) -> None:
    train, held = split_facts(read_facts(corpus))
    assert held
    assert len(train) + len(held) == len(read_facts(corpus))
    known = {(fact.language, fact.subject, fact.object) for fact in train}
    assert all((fact.language, fact.subject, fact.object) in known for fact in held)
    assert not {fact.text for fact in train} & {fact.text for fact in held}


def test_held_out_facts_are_never_in_the_training_stream(corpus: Path, tokenizer: Tokenizer) -> None:
    train, held = split_facts(read_facts(corpus))
    lessons = Lessons(lessons_of(train, ()), tokenizer, random.Random(0))
    seen = {tuple(example.source) for _, example in islice(lessons, 5_000)}
    kept_out = {tuple(masked(fact.text, [fact.span], tokenizer).source) for fact in held}
    assert not seen & kept_out


def test_a_known_fact_comes_less_often(corpus: Path, tokenizer: Tokenizer) -> None:
    facts = read_facts(corpus)[:2]
    lessons = Lessons(lessons_of(facts, ()), tokenizer, random.Random(0))
    lessons.hear([0, 1, UNNUMBERED], [KNOWN / 2, KNOWN * 2, 0.0])
    numbers = [number for number, _ in islice(lessons, 1_000)]
    assert lessons.known() == 0.5
    assert 0.15 < numbers.count(0) / numbers.count(1) < 0.35


def test_the_pieces_of_lessons_hold_all_that_is_to_be_said(corpus: Path, tokenizer: Tokenizer) -> None:
    lessons = Lessons(lessons_of(read_facts(corpus), ()), tokenizer, random.Random(0))
    pieces = set(lessons.pieces())
    assert all(pieces.issuperset(example.target) for _, example in islice(lessons, 2_000))
    assert lessons.pieces() == sorted(pieces)


def test_gaps_of_a_phrase_stand_in_brackets() -> None:
    assert unbracketed("Birds [fly], fish [swim].") == ("Birds fly, fish swim.", ((6, 9), (16, 20)))
    phrase = Phrase("en", "two masks", "Two.", *unbracketed("Birds [fly], fish [swim]."))
    assert phrase.prompt == "Birds <mask>, fish <mask>."
    assert [lesson.gaps for lesson in lessons_of((), [phrase])] == [phrase.gaps, ((6, 9),), ((16, 20),)]


def test_every_language_has_phrases_of_every_kind() -> None:
    kinds = {(phrase.language, phrase.kind) for phrase in read_phrases()}
    assert {language for language, _ in kinds} == set(vocabulary.LANGUAGES)
    assert len(kinds) == len(vocabulary.LANGUAGES) * len({kind for _, kind in kinds})


def test_a_sentence_that_two_facts_share_is_not_held_out() -> None:
    fact = Fact("en", "capital", "A", "B", "t0", "A is B.", (5, 6))
    twins = [replace(fact, template=f"t{number}") for number in range(9)]
    assert split_facts(twins) == (twins, [])


def test_example_is_what_a_prompt_becomes(tokenizer: Tokenizer) -> None:
    example = masked("We see the dog.", [(3, 6), (11, 14)], tokenizer)
    assert example.source == [*tokenizer.encode_masked(("We ", " the ", ".")), tokenizer.eos_id]
    zero, one = tokenizer.sentinels[:2]
    see, dog = tokenizer.encode("see"), tokenizer.encode("dog")
    assert example.target == [zero, *see, one, *dog, tokenizer.eos_id]


def test_gaps_lie_in_order_and_never_touch() -> None:
    spans = [(n * 4, n * 4 + 3) for n in range(8)]
    for seed in range(300):
        chosen = gaps(spans, random.Random(seed))
        assert chosen
        assert all(a[1] < b[0] for a, b in pairwise(chosen))


@pytest.mark.parametrize("touching", [False, True])
def test_many_gaps_lie_in_order_and_never_touch(touching: bool) -> None:
    spans = [(n * 4, n * 4 + (4 if touching else 3)) for n in range(16)]
    for seed in range(300):
        chosen = many_gaps(spans, random.Random(seed))
        assert chosen
        assert all(a[1] < b[0] for a, b in pairwise(chosen))


def test_long_lines_are_left_out(corpus: Path, tokenizer: Tokenizer) -> None:
    lines = {language: read_lines(corpus, language, 60) for language in vocabulary.LANGUAGES}
    examples = list(islice(text_examples(lines, tokenizer, random.Random(0), SMALL), 500))
    assert all(key == UNNUMBERED for key, _ in examples)
    assert max(len(example.source) for _, example in examples) < 60


def test_the_share_of_sentences_with_many_gaps_is_the_recipes(tokenizer: Tokenizer) -> None:
    sentence = "We see the dog and they hear the sea. We see the dog and they hear the sea."
    lines = {language: [sentence] for language in vocabulary.LANGUAGES}
    for share in (0.0, 1.0):
        examples = text_examples(lines, tokenizer, random.Random(0), replace(SMALL, many_gaps=share))
        gaps = [sum(id_ in tokenizer.sentinels for id_ in each.target) for _, each in islice(examples, 200)]
        assert (min(gaps) > 2) if share else (max(gaps) <= 2)


def test_a_pack_holds_every_example_whole_and_apart() -> None:
    examples = [Example([5, 6, 1], [9, 5, 1]), Example([7, 1], [9, 6, 7, 1]), Example([8] * 9, [9, 1])]
    [pack] = packs(iter(enumerate(examples)), rows=1, source=6, target=8)  # the last is longer than a row
    assert pack.keys == [0, 1]
    assert pack.source.tolist() == [[5, 6, 1, 7, 1, 0]]
    assert pack.source_segments.tolist() == [[1, 1, 1, 2, 2, 0]]
    assert pack.inputs.tolist() == [[0, 9, 5, 0, 9, 6, 7, 0]]
    assert pack.labels.tolist() == [[9, 5, 1, 9, 6, 7, 1, IGNORED]]
    assert pack.target_segments.tolist() == [[1, 1, 1, 2, 2, 2, 2, 0]]
    assert pack.owners.tolist() == [[0, 0, 0, 1, 1, 1, 1, 0]]


def test_packs_are_stacked_with_every_example_its_own() -> None:
    examples = [Example([5, 6, 1], [9, 5, 1]), Example([7, 1], [9, 6, 7, 1])]
    one, two = packs(iter(enumerate(examples)), rows=1, source=4, target=5)
    both = stacked([one, two])
    assert both.source.tolist() == [*one.source.tolist(), *two.source.tolist()]
    assert both.keys == [0, 1]
    assert both.owners[1, :4].tolist() == [1, 1, 1, 1]


def test_an_example_in_a_pack_is_computed_as_if_alone(corpus: Path, tokenizer: Tokenizer) -> None:
    model = Training(SMALL, tokenizer, CPU).model
    lessons = Lessons(lessons_of(read_facts(corpus)[:6], ()), tokenizer, random.Random(0))
    pack = next(packs(iter(lessons), **SIZES))
    with torch.no_grad():
        states = hidden(model, pack)
        segments = pack.target_segments
        for row, number in {(place, int(n)) for place in range(len(segments)) for n in segments[place] if n}:
            source = pack.source[row][pack.source_segments[row] == number]
            target = pack.inputs[row][segments[row] == number]
            alone = model.decode(target[None], model.start(model.encode(source[None])))
            # sums over a row are taken in another order than over an example
            torch.testing.assert_close(states[row][segments[row] == number], alone[0], atol=1e-4, rtol=1e-4)


def test_loss_falls_within_a_few_steps(corpus: Path, tokenizer: Tokenizer) -> None:
    training = Training(replace(SMALL, warmup_steps=1), tokenizer, CPU)
    lessons = Lessons(lessons_of(split_facts(read_facts(corpus))[0], ()), tokenizer, random.Random(0))
    pieces = torch.tensor(lessons.pieces())
    coming = islice(packs(iter(lessons), **SIZES), 30)
    losses = [float(training.update(pack, 0.0, pieces)[0]) for pack in coming]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_network_is_trained_in_bfloat16_under_autocast(corpus: Path, tokenizer: Tokenizer) -> None:
    model = Training(SMALL, tokenizer, CPU).model
    pack = validation(corpus, tokenizer, SMALL)[0]
    exact = nats(model, pack, None)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = nats(model, pack, None)
    torch.testing.assert_close(rounded, exact, atol=0.3, rtol=0.03)
    rounded.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_choosing_among_all_pieces_is_choosing_from_the_whole_vocabulary(
    corpus: Path, tokenizer: Tokenizer
) -> None:
    training = Training(SMALL, tokenizer, CPU)
    lessons = Lessons(lessons_of(read_facts(corpus)[:9], ()), tokenizer, random.Random(0))
    pack = next(packs(iter(lessons), **SIZES))
    with torch.no_grad():
        whole = nats(training.model, pack, None)
        chosen = nats(training.model, pack, torch.arange(tokenizer.vocab_size))
    torch.testing.assert_close(whole, chosen)
    assert not whole[pack.labels == IGNORED].any()
    _, per_example = training.update(pack, 0.0)
    expected = [float(whole[pack.owners == n].sum()) for n in range(len(pack.keys))]
    assert per_example.tolist() == pytest.approx(expected, rel=1e-4)


def test_text_follows_when_the_facts_have_had_their_time(corpus: Path, tokenizer: Tokenizer) -> None:
    training = Training(replace(SMALL, facts_first=0.5, facts_after=0.0), tokenizer, CPU)
    coming = iter(Reading(training, corpus, tokenizer, 60.0))
    assert max(next(coming).keys) != UNNUMBERED
    training.seconds = 30.0
    assert set(next(coming).keys) == {UNNUMBERED}


def test_workers_read_each_something_else(corpus: Path, tokenizer: Tokenizer) -> None:
    recipe = replace(SMALL, facts_first=0.0, packs=2)
    reading = Reading(Training(recipe, tokenizer, CPU), corpus, tokenizer, 60.0)
    coming = DataLoader(reading, batch_size=None, num_workers=2)
    first, second = islice(coming, 2)
    assert first.source.shape == (8, 60)
    assert not torch.equal(first.source, second.source)


def test_dropout_leaves_out_by_chance(corpus: Path, tokenizer: Tokenizer) -> None:
    model = Training(SMALL, tokenizer, CPU).model
    pack = next(iter(validation(corpus, tokenizer, SMALL)))
    with torch.no_grad():
        assert torch.equal(hidden(model, pack), hidden(model, pack))
        assert not torch.equal(hidden(model, pack, 0.5), hidden(model, pack, 0.5))


def test_validation_asks_for_one_word_of_sentences_kept_out(corpus: Path, tokenizer: Tokenizer) -> None:
    training = Training(SMALL, tokenizer, CPU)
    coming = validation(corpus, tokenizer, SMALL)
    assert sum(len(pack.keys) for pack in coming) == 2 * len(vocabulary.LANGUAGES)
    surprise, right = training.validate(coming, tokenizer.sentinels[0])
    assert surprise > 1
    assert 0 <= right < 1


def test_a_resumed_run_goes_on_as_if_never_stopped(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    lessons = Lessons(lessons_of(split_facts(read_facts(corpus))[0], ()), tokenizer, random.Random(0))
    coming: list[Pack] = list(islice(packs(iter(lessons), **SIZES), 12))
    whole = Training(SMALL, tokenizer, CPU)
    for pack in coming:
        whole.update(pack, 0.1)
    first = Training(SMALL, tokenizer, CPU)
    for pack in coming[:6]:
        first.update(pack, 0.1)
    first.save(tmp_path / "state.pt")
    second = Training(replace(SMALL, seed=9), tokenizer, CPU)
    second.restore(tmp_path / "state.pt")
    for pack in coming[6:]:
        second.update(pack, 0.1)
    assert second.step == whole.step == 12
    for weight, other in zip(whole.average.parameters(), second.average.parameters(), strict=True):
        torch.testing.assert_close(other, weight, rtol=0, atol=0)


def test_a_step_in_which_the_process_was_stopped_counts_little(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = count(step=3600.0)
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: next(hours))
    training = Training(SMALL, tokenizer, CPU)
    run(training, corpus, tokenizer, minutes=0.5, out=tmp_path)
    assert training.step == 30 / pretrain.LONGEST_STEP_S


def test_pieces_between_the_same_neighbours_start_alike() -> None:
    rng = random.Random(0)
    lines = [[10, rng.choice((20, 21)), 11] for _ in range(400)] + [[12, 30, 13] for _ in range(400)]
    rows = cooccurrence.embeddings(cooccurrence.count(lines, 40), 8, torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=1)
    assert rows[20] @ rows[21] > rows[20] @ rows[30] + 0.3


def test_counts_reach_two_pieces_far_and_weigh_the_near_ones_more() -> None:
    counts = cooccurrence.count([[1, 2, 3, 4], [5]], 6)
    assert counts[2].tolist() == [0, 1, 0, 1, 0.5, 0]
    assert torch.equal(counts, counts.T)


def test_a_run_keeps_to_its_minutes_and_says_its_loss(trained: Path) -> None:
    state = torch.load(trained / "state.pt", weights_only=True)
    assert state["step"] > 0
    assert 1 <= state["seconds"] < 20
    assert "first right" in (trained / "log.txt").read_text()


def test_export_opens_in_transformers_with_equal_logits(
    trained: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(trained, tmp_path)
    state = torch.load(trained / "state.pt", weights_only=True)
    ours = MT5(model_config(Recipe(**state["recipe"]), tokenizer.vocab_size))
    ours.load_state_dict(state["average"])
    theirs = MT5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    source = torch.tensor([[*tokenizer.encode_masked(("We ", " the dog.")), tokenizer.eos_id]])
    target = torch.tensor([[0, tokenizer.sentinels[0], *tokenizer.encode("see")]])
    with torch.no_grad():
        own = ours.logits(ours.decode(target, ours.start(ours.encode(source))))
        other = theirs(input_ids=source, decoder_input_ids=target).logits
    # the exported weights are rounded to bfloat16, 3 significant digits
    torch.testing.assert_close(own, other, rtol=0.02, atol=0.05)


def test_export_is_opened_and_described(trained: Path, tmp_path: Path) -> None:
    sha256 = export(trained, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert sha256 in card
    with mt5.open(tmp_path) as engine:
        assert engine.info.sha256 == sha256


def test_shipped_model_is_what_its_card_says() -> None:
    folder = Path(__file__).resolve().parent.parent / "assets" / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert sum(path.stat().st_size for path in folder.iterdir()) < 24_000_000
