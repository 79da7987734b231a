"""Who is measured. Each writes exactly so many tokens, fills prompts by its own rules, and scores targets."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from mt5 import infill
from mt5.checkpoint import open_checkpoint
from mt5.codec import Codec

Ids = Sequence[Sequence[int]]
Written = list[tuple[list[int], list[float]]]
"""For each source: the tokens, and the log-probability of each."""
LONGEST = 20
"""Tokens at which a peer that fills a prompt is stopped."""


@dataclass(frozen=True)
class Contender:
    """generate: greedy, exactly n tokens for each source. fill: from text to text, to the contender's own
    end. score: log-probabilities of a target. bits: of the weights that a token takes."""

    generate: Callable[[Ids, int], Written]
    fill: Callable[[Sequence[str]], Any]
    score: Callable[[Sequence[int], Sequence[int]], list[float]]
    bits: int


def ours(path: Path, folder: Path, dtype: str, bits: int, threads: int) -> Contender:
    import mt5

    if dtype == "int8":
        path = _stored(path, folder)
    torch.set_num_threads(threads)
    with opening_threads(threads):
        engine = mt5.open(path, dtype=dtype)

    def generate(sources: Ids, tokens: int) -> Written:
        found = engine.generate(sources, max_new_tokens=tokens, stop=False)
        return [(list(one.ids), list(one.log_probs)) for one in found]

    limits = cycle(range(LONGEST, LONGEST + 41))

    def fill(prompts: Sequence[str]) -> Any:
        # another limit each time, which no prompt reaches, because the engine remembers its last 256 answers;
        # 41 and the number of prompts have no factor in common
        return engine.fill(list(prompts), num_alternatives=0, max_new_tokens=next(limits))

    return Contender(generate, fill, engine.log_probs, bits)


def _stored(path: Path, folder: Path) -> Path:
    """The network in 8 bits, written once; the peers convert theirs beforehand too."""
    from mt5.checkpoint import convert

    out = folder / f"int8-{path.name}"
    source = (path / "model.safetensors").stat().st_mtime
    if not (out / "model.safetensors").exists() or (out / "model.safetensors").stat().st_mtime < source:
        shutil.rmtree(out, ignore_errors=True)
        convert(path, out, to="huggingface", dtype="int8")
    return out


@contextmanager
def opening_threads(most: int) -> Iterator[None]:
    """Let an engine choose among so many threads at most, as OMP_NUM_THREADS does."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(most)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


class Texts:
    """What the peers read and write: the same ids, and the text of their answers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def codec(self) -> Codec:
        """Opened when it is needed, since a peer's loading does not need it."""
        checkpoint = open_checkpoint(self.path)
        return Codec(checkpoint.tokenizer, checkpoint.config)

    def read(self, prompts: Sequence[str]) -> Ids:
        return [self.codec.source(infill.parse(prompt)) for prompt in prompts]

    def written(self, found: Written) -> list[tuple[str, list[int]]]:
        return [(self.codec.tokenizer.decode(ids), ids) for ids, _ in found]


def transformers(path: Path, _: Path, dtype: str, bits: int, threads: int) -> Contender:
    from transformers import MT5ForConditionalGeneration

    model = MT5ForConditionalGeneration.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    texts = Texts(path)

    def run(sources: Ids, **limits: int) -> Written:
        torch.set_num_threads(threads)
        width = max(map(len, sources))
        ids = torch.tensor([[*source, *[0] * (width - len(source))] for source in sources])
        found = model.generate(
            ids, attention_mask=(ids != 0).long(), do_sample=False, num_beams=1,
            output_scores=True, return_dict_in_generate=True, **limits,
        )  # fmt: skip
        log_probs = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        return list(zip(found.sequences[:, 1:].tolist(), log_probs.tolist(), strict=True))

    def score(source: Sequence[int], target: Sequence[int]) -> list[float]:
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]])
            ).logits
        log_probs = logits[0].float().log_softmax(-1)
        return log_probs.gather(-1, torch.tensor(target).unsqueeze(-1)).squeeze(-1).tolist()

    return Contender(
        lambda sources, tokens: run(sources, max_new_tokens=tokens, min_new_tokens=tokens),
        lambda prompts: texts.written(run(texts.read(prompts), max_new_tokens=LONGEST)),
        score,
        bits,
    )


def ctranslate2(path: Path, folder: Path, dtype: str, bits: int, threads: int) -> Contender:
    import ctranslate2

    converted = folder / f"ctranslate2-{path.name}-{dtype}"
    weights = converted / "model.bin"
    if not weights.exists() or weights.stat().st_mtime < (path / "model.safetensors").stat().st_mtime:
        shutil.rmtree(converted, ignore_errors=True)
        made = converted.with_name(converted.name + ".made")
        shutil.rmtree(made, ignore_errors=True)
        _converter(path).convert(str(made), quantization=dtype)
        made.rename(converted)
    model = ctranslate2.Translator(
        str(converted), device="cpu", compute_type=dtype, intra_threads=threads, inter_threads=1
    )

    texts = Texts(path)

    def run(sources: Ids, **limits: int) -> Written:
        named = [list(map(str, source)) for source in sources]
        written: Written = [([], []) for _ in sources]

        def note(token: Any) -> None:  # where CTranslate2 says what each token's log-probability is
            ids, log_probs = written[token.batch_id]
            ids.append(token.token_id)
            log_probs.append(token.log_prob)

        model.translate_batch(
            named, beam_size=1, return_scores=True, max_batch_size=0, callback=note, **limits
        )
        return written

    def score(source: Sequence[int], target: Sequence[int]) -> list[float]:
        [found] = model.score_batch([list(map(str, source))], [list(map(str, target))])
        return found.log_probs[: len(target)]

    return Contender(
        lambda sources, tokens: run(sources, min_decoding_length=tokens, max_decoding_length=tokens),
        lambda prompts: texts.written(run(texts.read(prompts), max_decoding_length=LONGEST)),
        score,
        bits,
    )


def _converter(path: Path) -> object:
    from ctranslate2.converters import TransformersConverter

    class Numbers:
        """A vocabulary whose tokens are their own numbers."""

        pad_token, eos_token, unk_token = "0", "1", "2"

        def __init__(self, size: int) -> None:
            self.size = size

        def get_vocab(self) -> dict[str, int]:
            return {str(number): number for number in range(self.size)}

        def convert_ids_to_tokens(self, number: int) -> str:
            return str(number)

    class Converter(TransformersConverter):
        def load_model(self, kind: type, name: str, **options: object) -> object:
            model = super().load_model(kind, name, **options)
            # transformers 5 says so of every mT5, and the converter would scale the logits
            model.config.tie_word_embeddings = False
            self.size = model.config.vocab_size
            return model

        def load_tokenizer(self, kind: type, name: str, **options: object) -> Numbers:
            return Numbers(self.size)

    return Converter(str(path))


CONTENDERS: dict[str, Callable[[Path, Path, int], Contender]] = {
    "ours int8": lambda path, folder, threads: ours(path, folder, "int8", 8, threads),
    "ours float16": lambda path, folder, threads: ours(path, folder, "float16", 16, threads),
    "ours float32": lambda path, folder, threads: ours(path, folder, "float32", 32, threads),
    "CTranslate2 int8": lambda path, folder, threads: ctranslate2(path, folder, "int8", 8, threads),
    "CTranslate2 float32": lambda path, folder, threads: ctranslate2(path, folder, "float32", 32, threads),
    "transformers bfloat16": lambda path, folder, threads: transformers(
        path, folder, "bfloat16", 16, threads
    ),
    "transformers float32": lambda path, folder, threads: transformers(path, folder, "float32", 32, threads),
}
