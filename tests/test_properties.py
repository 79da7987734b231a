"""What holds for any text in 24 languages, and for any bytes."""

import os
import random
import resource
import signal
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import targets
from mt5.infill import answer_ids, fill_of, mask_word, parse, splice, words
from mt5.languages import LANGUAGES, examples
from mt5.tokenizer import MASK, Tokenizer
from tests.fake_engine import PIECES
from tests.written import Written

TOKENIZER = Tokenizer.huggingface(PIECES.read_bytes())
CRASHES = sorted(
    path for path in (Path(targets.__file__).parent / "crashes").iterdir() if path.name != ".gitkeep"
)
SENTENCES = {
    language.code: [e.prompt.replace(MASK, e.answers[0]) for e in examples() if e.language == language.code]
    for language in LANGUAGES
}


@pytest.mark.slow
@pytest.mark.parametrize("language", SENTENCES)
@settings(max_examples=200)
@given(data=st.data())
def test_cutting_any_parts_out_and_putting_them_back_restores_the_sentence(
    language: str, data: st.DataObject
) -> None:
    sentence = " ".join(data.draw(st.lists(st.sampled_from(SENTENCES[language]), min_size=1, max_size=3)))
    places = sorted(data.draw(st.sets(st.integers(0, len(sentence)), min_size=2, max_size=8)))
    places = places[: len(places) // 2 * 2]
    edges = [0, *places, len(sentence)]
    kept = [sentence[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    removed = [sentence[a:b] for a, b in zip(places[::2], places[1::2], strict=True)]
    masked = parse(MASK.join(kept))
    assert splice(masked, removed) == sentence
    ids = TOKENIZER.encode_masked(masked.parts)
    assert [id_ for id_ in ids if TOKENIZER.is_sentinel(id_) is not None] == list(
        TOKENIZER.sentinels[: masked.masks]
    )


@pytest.mark.parametrize("language", SENTENCES)
@settings(max_examples=200)
@given(data=st.data())
def test_a_decoder_that_writes_the_removed_word_restores_the_sentence(
    language: str, data: st.DataObject
) -> None:
    sentence = data.draw(st.sampled_from(SENTENCES[language]))
    start, end = data.draw(st.sampled_from(words(sentence)))
    masked = mask_word(sentence, start, end)
    [ids] = answer_ids(masked, [sentence[start:end]], TOKENIZER)
    if TOKENIZER.unk_id in ids:  # a letter that the vocabulary does not have
        return
    filled = fill_of(masked, "", Written((TOKENIZER.sentinels[0], *ids)), TOKENIZER)
    assert filled.text == sentence or TOKENIZER.decode(ids).strip() != sentence[start:end]


def mutants(data: bytes, count: int, seed: int = 0) -> list[bytes]:
    """Copies with a few bytes changed, some cut short."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.choice((1, 2, 8, 64))):
            copy[rng.randrange(len(copy))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        found.append(bytes(copy[: rng.randrange(len(copy))] if rng.random() < 0.1 else copy))
    return found


@pytest.mark.parametrize("name", targets.TARGETS)
def test_changed_bytes_are_answered_with_a_declared_error(name: str) -> None:
    for data in [b"", *mutants(targets.seeds()[name], 100)]:
        targets.run(name, data)


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.name)
def test_what_once_crashed_is_answered(path: Path) -> None:
    targets.run(path.name.partition("-")[0], path.read_bytes())


def vocabulary(data: bytes) -> None:
    try:
        tokenizer = Tokenizer.huggingface(data)
        tokenizer.decode(tokenizer.encode("a b <extra_id_0> é 日本"))
    except targets.DECLARED:
        pass


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "count"), [("vocabulary", 3_000), ("header", 1_500), ("zip", 400)])
def test_no_mutant_kills_a_process(name: str, count: int) -> None:
    spiece = (targets.HF / "spiece.model").read_bytes()
    data = spiece if name == "vocabulary" else targets.seeds()[name]
    for first in range(0, count, 50):
        answered(name, mutants(data, 50, seed=first))


def answered(name: str, inputs: list[bytes]) -> None:
    """In a forked child: no signal, no other exception, 10 s for each, 3 GB."""
    child = os.fork()
    if not child:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for data in inputs:
                signal.alarm(10)
                vocabulary(data) if name == "vocabulary" else targets.run(name, data)
            status = 0
        except BaseException:
            traceback.print_exc()  # of which a parent sees the status alone
        finally:
            os._exit(status)
    end = time.monotonic() + 600
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            return
        time.sleep(0.01)
    raise AssertionError("the child never ended")
