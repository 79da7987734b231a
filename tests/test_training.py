"""The recipe of the embedded model, from text to a folder that transformers opens, on a corpus of a page."""

import hashlib
import json
import lzma
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from transformers import MT5ForConditionalGeneration

import mt5
from mt5.model import MT5
from mt5.tokenizer import Tokenizer
from training import vocabulary
from training.data import (
    Fact,
    batches,
    fact_examples,
    gaps,
    masked,
    read_facts,
    renown,
    split_facts,
    text_examples,
)
from training.evaluate import Gap, Guess, calibration_error, figures, repeats, table
from training.export import export
from training.pretrain import Recipe, Training, model_config, run

CPU = torch.device("cpu")
SMALL = Recipe(d_model=16, num_heads=2, d_kv=8, d_ff=32, encoder_layers=1, decoder_layers=1, tokens=200)
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
    examples = fact_examples(train, [1.0] * len(train), tokenizer, random.Random(0))
    seen = {tuple(example.source) for example in islice(examples, 5_000)}
    kept_out = {tuple(masked(fact.text, [fact.span], tokenizer).source) for fact in held}
    assert not seen & kept_out


def test_subjects_that_the_text_names_weigh_more(corpus: Path) -> None:
    cat, whale = (
        Fact("en", "r", subject, "animal", "t", f"{subject}: animal", (5, 11)) for subject in ("cat", "whale")
    )
    assert renown(corpus, [cat, whale]) == [pytest.approx(7**0.5), 1.0]  # six of the sentences have a cat


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


def test_long_lines_are_left_out(corpus: Path, tokenizer: Tokenizer) -> None:
    examples = list(islice(text_examples(corpus, tokenizer, random.Random(0)), 500))
    assert max(len(example.source) for example in examples) < 60


def test_batches_keep_to_their_bucket_and_size(corpus: Path, tokenizer: Tokenizer) -> None:
    train, _ = split_facts(read_facts(corpus))
    stream = batches(
        fact_examples(train, [1.0] * len(train), tokenizer, random.Random(0)),
        tokens=400,
        sources=(16, 64),
        targets=(8, 16),
    )
    for batch in islice(stream, 20):
        source, target = (
            max(len(part) for part in parts)
            for parts in zip(*[(e.source, e.target) for e in batch], strict=True)
        )
        padded = (16 if source <= 16 else 64) + (8 if target <= 8 else 16)
        assert len(batch) == -(-400 // padded)


def test_loss_falls_within_a_few_steps(corpus: Path, tokenizer: Tokenizer) -> None:
    training = Training(replace(SMALL, warmup_steps=1), tokenizer, CPU)
    train, _ = split_facts(read_facts(corpus))
    stream = batches(
        fact_examples(train, [1.0] * len(train), tokenizer, random.Random(0)),
        tokens=400,
        sources=(64,),
        targets=(16,),
    )
    # the sources are longer than the recipe's buckets only where the vocabulary is as small as here
    short = (batch for batch in stream if max(len(example.source) for example in batch) <= 40)
    losses = [training.update(batch, 0.0) for batch in islice(short, 30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_resumed_run_goes_on_as_if_never_stopped(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    train, _ = split_facts(read_facts(corpus))
    examples = fact_examples(train, [1.0] * len(train), tokenizer, random.Random(0))
    stream = list(islice(batches(examples, tokens=200, sources=(40,), targets=(16,)), 4))
    whole = Training(SMALL, tokenizer, CPU)
    for batch in stream:
        whole.update(batch, 0.1)
    first = Training(SMALL, tokenizer, CPU)
    for batch in stream[:2]:
        first.update(batch, 0.1)
    first.save(tmp_path / "state.pt")
    second = Training(replace(SMALL, seed=9), tokenizer, CPU)
    second.restore(tmp_path / "state.pt")
    for batch in stream[2:]:
        second.update(batch, 0.1)
    assert second.step == whole.step == 4
    for name, weight in whole.average.items():
        torch.testing.assert_close(second.average[name], weight, rtol=0, atol=0)


def test_a_run_keeps_to_its_minutes_and_says_its_loss(trained: Path) -> None:
    state = torch.load(trained / "state.pt", weights_only=True)
    assert state["step"] > 0
    assert 1 <= state["seconds"] < 20
    assert "loss" in (trained / "log.txt").read_text()


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


def test_export_is_opened_measured_and_described(trained: Path, corpus: Path, tmp_path: Path) -> None:
    sha256 = export(trained, tmp_path, figures="| a table |")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert sha256 in card
    assert "| a table |" in card
    with mt5.open(tmp_path) as engine:
        assert engine.info.sha256 == sha256
        measured = figures(engine, corpus, "en", [Gap("The capital of France is ", "Paris", ".")])
    assert 0 <= measured.first <= measured.first_of_5 <= 1
    assert measured.counts_of_5 == 1  # the validation sentences are in this corpus
    assert table({"en": measured}).count("\n") == 3


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    right, wrong = Guess(0.9, (1,), 1.0), Guess(0.9, (2,), 1.0)
    assert calibration_error([right] * 9 + [wrong]) == pytest.approx(0)
    assert calibration_error([wrong] * 10) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "expected"), [("la la", True), ("hahahaha", True), ("banana", False), ("10000", False)]
)
def test_repetition_is_told_from_words(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_shipped_model_is_what_its_card_says() -> None:
    folder = Path(__file__).resolve().parent.parent / "assets" / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert sum(path.stat().st_size for path in folder.iterdir()) < 24_000_000
