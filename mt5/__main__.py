"""The command line: `python -m mt5 --help`."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mt5.errors import CheckpointError, PromptError, RankError

if TYPE_CHECKING:  # everything heavy is imported by the command that needs it
    from mt5.engine import Engine
    from mt5.results import Fill, Span

EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "model"

app = typer.Typer(
    help="Fill the <mask> gaps of a text with an mT5 model, in 24 languages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int8 = "int8"


class Strategy(StrEnum):
    greedy = "greedy"
    beam = "beam"
    sample = "sample"


class OutputFormat(StrEnum):
    text = "text"
    nemo = "nemo"


class ConvertTo(StrEnum):
    huggingface = "huggingface"
    nemo = "nemo"


Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        "--model_file",
        envvar="MT5_CHECKPOINT",
        help=".nemo archive, folder or Hugging Face repository id.",
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option(
        "--tensor-parallel", "--tensor_model_parallel_size", min=1, help="Processes that share the weights."
    ),
]
DtypeOption = Annotated[Dtype, typer.Option(help="Of the weights in memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def opened(checkpoint: str, tensor_parallel: int, dtype: Dtype) -> Iterator["Engine"]:
    import mt5

    with loading(checkpoint) as progress:
        engine = mt5.open(checkpoint, tensor_parallel=tensor_parallel, dtype=dtype.value, progress=progress)
    with engine:
        yield engine


@contextmanager
def loading(name: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while weights are read, where a person sees it."""
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    with typer.progressbar(length=1000, label=f"Loading {name}", file=sys.stderr) as bar:
        yield lambda share: bar.update(round(1000 * share) - bar.pos)


def show(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def percent(log_prob: float) -> str:
    return f"{100 * math.exp(log_prob):5.1f} %"


def describe(span: "Span") -> None:
    """One gap, a line per token with its probability and what else was likely."""
    typer.echo(f"  <mask> {span.mask + 1}: {span.text!r}  log p {span.log_prob:.3f}")
    for token in span.tokens:
        rank = f"  rank {token.rank:,}" if token.rank else ""
        others = ", ".join(
            f"{other.piece} {percent(other.log_prob).strip()}" for other in token.alternatives[:3]
        )
        typer.echo(
            f"    {token.piece:<16} {percent(token.log_prob)}{rank}" + (f"   else {others}" if others else "")
        )


@app.command()
def fill(
    text: Annotated[str | None, typer.Argument(metavar="PROMPT", help="A text with <mask> markers.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The same, as an option.")] = None,
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
    output: Annotated[
        OutputFormat,
        typer.Option("--format", help="nemo: the response of NeMo's evaluation script, as NeMo computes it."),
    ] = OutputFormat.text,
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens", "--tokens_to_generate", help="At most so many per mask; with --format nemo exactly."
        ),
    ] = 16,
    strategy: Strategy = Strategy.greedy,
    beams: Annotated[int, typer.Option(help="Beams kept, with --strategy beam.")] = 4,
    results: Annotated[int, typer.Option(help="Results: the best beams, or so many samples.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens; 0 is off.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that hold probability p; 1 is off.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    alternatives: Annotated[int, typer.Option(help="Other candidates shown per token.")] = 5,
    guided: Annotated[
        bool, typer.Option(help="Give the sentinels, so that every mask gets exactly one span.")
    ] = True,
) -> None:
    """Fill every <mask> of a prompt."""
    if (text is None) == (prompt is None):
        raise PromptError("Give one prompt: mt5 fill 'La capitale de la France est <mask>.' (or --prompt).")
    chosen = text if text is not None else str(prompt)
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        if output is OutputFormat.nemo:
            show(engine.nemo_response(chosen, tokens_to_generate=tokens))
            return
        from mt5.settings import Settings

        settings = Settings(
            strategy=strategy.value,
            num_beams=beams,
            num_return=results,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            max_new_tokens=tokens,
            num_alternatives=alternatives,
            guided=guided,
        )
        result = engine.fill(chosen, **vars(settings))
        if as_json:
            show(engine.record(result, settings))
            return
    for candidate in result.candidates or (result,):
        describe_fill(candidate)


def describe_fill(result: "Fill") -> None:
    typer.echo(result.text)
    for span in result.spans:
        describe(span)


@app.command()
def score(
    prompt: Annotated[str, typer.Argument(help="A text with <mask> markers.")],
    answers: Annotated[list[str], typer.Argument(help="One answer per mask, in order.")],
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Score your own answers: probability and rank of every token."""
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        result = engine.score(prompt, answers)
        if as_json:
            show(engine.record(result, {"answers": answers}))
            return
    typer.echo(result.text)
    for span in result.spans:
        describe(span)
    typer.echo(f"log p {result.log_prob:.3f}, perplexity per token {result.perplexity:.2f}")


@app.command()
def sweep(
    text: Annotated[str, typer.Argument(help="A text without masks.")],
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Mask every word in turn: how surprising it was, and what the model would have written."""
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        result = engine.sweep(text)
        if as_json:
            show(engine.record(result, {}))
            return
    for word in result.words:
        typer.echo(
            f"{word.word:<20} {percent(word.score.log_prob)}"
            f"   model: {word.fill.text} {percent(word.fill.log_prob)}"
        )


@app.command()
def corrupt(
    text: Annotated[str, typer.Argument(help="A text without masks.")],
    density: Annotated[float, typer.Option(help="Share of the tokens that are masked.")] = 0.15,
    mean_span: Annotated[float, typer.Option(help="Mean length of a span, in tokens.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the choice of spans.")] = 0,
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Span corruption, the task that T5 trains on: input and target."""
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        result = engine.corrupt(text, density=density, mean_span=mean_span, seed=seed)
        if as_json:
            show(engine.record(result, {"density": density, "mean_span": mean_span, "seed": seed}))
            return
    typer.echo(f"input:  {result.source_text}\ntarget: {result.target_text}")


@app.command()
def batch(
    source: Annotated[Path, typer.Argument(help="CSV or JSONL file with a column `prompt`.")],
    out: Annotated[Path, typer.Argument(help="CSV or JSONL file to write.")],
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Fill every prompt of a file; a row that cannot be filled says why."""
    from mt5 import batch as files

    format_ = files.format_of(out.name)
    rows = files.read(read_bytes(source), source.name)
    with (
        opened(checkpoint, tensor_parallel, dtype) as engine,
        typer.progressbar(length=len(rows), label="Filling", file=sys.stderr) as bar,
    ):
        results = files.fill(rows, engine.fill, done=bar.update)
    write_bytes(out, files.write(results, format_))
    failed = sum(bool(result["error"]) for result in results)
    if as_json:
        show({"rows": len(results), "failed": failed, "out": str(out)})
    else:
        typer.echo(f"{len(results):,} rows written to {out}, {failed:,} of them with an error.")


@app.command()
def languages(
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Fill an example in each of the 24 languages, in one batch."""
    from mt5.languages import LANGUAGES, examples
    from mt5.settings import Settings

    firsts = [
        next(example for example in examples() if example.language == language.code) for language in LANGUAGES
    ]
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        fills = engine.fill([example.prompt for example in firsts])
        records = [engine.record(fill, Settings()) for fill in fills]
    if as_json:
        show([{"language": e.language} | record for e, record in zip(firsts, records, strict=True)])
        return
    for language, result in zip(LANGUAGES, fills, strict=True):
        typer.echo(f"{language.code}  {result.text}   {percent(result.log_prob)}")


@app.command()
def info(
    checkpoint: Checkpoint = str(EMBEDDED),
    tensor_parallel: TensorParallel = 1,
    dtype: DtypeOption = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """What a checkpoint holds."""
    with opened(checkpoint, tensor_parallel, dtype) as engine:
        facts = engine.info.facts()
    if as_json:
        show(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, part in value.items():
                typer.echo(f"  {key}: {part}")
        else:
            typer.echo(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help=".nemo archive, folder or repository id.")],
    out: Annotated[Path, typer.Argument(help="Folder (huggingface) or .nemo file to write.")],
    to: Annotated[
        ConvertTo | None,
        typer.Option(help="Default: nemo where OUT ends in .nemo, else huggingface: a folder of safetensors"),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Shards of a .nemo.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights in the file; auto keeps it.")] = Dtype.auto,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint in another format, precision or number of shards."""
    from mt5.checkpoint import convert as convert_checkpoint

    chosen = None if dtype is Dtype.auto else dtype.value
    to = to or (ConvertTo.nemo if out.suffix == ".nemo" else ConvertTo.huggingface)
    convert_checkpoint(source, out, to=to.value, dtype=chosen, tensor_parallel=tensor_parallel)
    if as_json:
        show({"source": source, "out": str(out)})
    else:
        typer.echo(f"Written to {out}.")


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise PromptError(f"{path}: cannot be read ({fault.strerror}).") from fault


def write_bytes(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as fault:
        raise PromptError(f"{path}: cannot be written ({fault.strerror}).") from fault


def main() -> None:
    """Run a command; a fault that the user can mend is one line on standard error and exit status 2."""
    try:
        app(prog_name="python -m mt5")
    except (PromptError, CheckpointError, RankError) as fault:
        typer.echo(f"Error: {fault}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
