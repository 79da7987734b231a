"""Endpoints for programs, which are tools of the Model Context Protocol as well."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.mcp import GradioMCPServer

from mt5.errors import PromptError
from mt5.settings import Settings
from mt5.web.faults import SAID
from mt5.web.languages import asked
from mt5.web.models import Models
from mt5.web.tab import AT_ONCE

Record = dict[str, Any]


@contextmanager
def told() -> Iterator[None]:
    """What the caller can mend is told; anything else stays in the log."""
    try:
        yield
    except SAID as error:
        raise gr.Error(str(error), print_exception=False) from error


def build_api(models: Models) -> None:
    """Offer every endpoint under its own name."""
    # gradio writes a dictionary as Python does; what a tool answers is to be JSON
    GradioMCPServer.postprocess_output_data = _written
    for endpoint in endpoints(models):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_id="model", concurrency_limit=AT_ONCE)


def endpoints(models: Models) -> list[Callable[..., Record]]:
    """Functions whose docstrings are read by people and by language models."""

    def fill(
        prompt: str,
        strategy: str = "greedy",
        num_beams: int = 4,
        num_return: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int = 16,
        num_alternatives: int = 5,
        guided: bool = True,
    ) -> Record:
        """Fill every <mask> of a sentence, in any of 24 languages, and say how sure the model was.

        Args:
            prompt: A text with 1 to 100 markers, such as "The capital of France is <mask>."
            strategy: How tokens are chosen: "greedy", "beam" or "sample".
            num_beams: Beams kept by beam search, 1 to 32.
            num_return: Results wanted: the best beams, or so many samples.
            temperature: Of sampling; above 1 is bolder.
            top_k: Sample from the k likeliest tokens; 0 is off.
            top_p: Sample from the likeliest tokens that hold this probability together; 1 is off.
            seed: Of sampling; the same seed gives the same sample.
            max_new_tokens: At most so many tokens for each mask, 1 to 256.
            num_alternatives: Other candidates reported for each token, 0 to 20.
            guided: Give the decoder the marker of every gap, so that each mask gets exactly one span.

        Returns:
            The text, the spans with log-probability and alternatives of every token, model and settings.
        """
        settings = {
            "strategy": strategy,
            "num_beams": num_beams,
            "num_return": num_return,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "num_alternatives": num_alternatives,
            "guided": guided,
        }
        with told(), models.engine() as engine:
            return engine.record(engine.fill(_one(prompt), **settings), Settings(**settings))

    def score(prompt: str, answers: list[str]) -> Record:
        """Score given words for the gaps of a sentence: log-probability and rank of every token.

        Args:
            prompt: A text with one or more <mask> markers.
            answers: One text for each <mask>, in their order.

        Returns:
            Log-probability and perplexity of the whole; of every token its rank, 1 for the likeliest.
        """
        with told(), models.engine() as engine:
            return engine.record(engine.score(_one(prompt), answers), {"answers": answers})

    def sweep(text: str) -> Record:
        """Mask every word of a sentence in turn: how well each could be guessed from all the others.

        Args:
            text: A whole sentence, without <mask>.

        Returns:
            For every word its log-probability, and what the model would have written in its place.
        """
        with told(), models.engine() as engine:
            return engine.record(engine.sweep(text), {})

    def corrupt(text: str, density: float = 0.15, mean_span: float = 3.0, seed: int = 0) -> Record:
        """Cut spans out of a sentence as in T5's training: the input read and the target written.

        Args:
            text: A whole sentence.
            density: Share of the tokens that is cut out, 0.01 to 0.9.
            mean_span: Mean length of a span in tokens, 1 to 10.
            seed: The same seed cuts out the same spans.

        Returns:
            The pieces of the sentence, the spans, and source and target as ids and as text.
        """
        settings = {"density": density, "mean_span": mean_span, "seed": seed}
        with told(), models.engine() as engine:
            return engine.record(engine.corrupt(text, **settings), settings)

    def languages(meaning: str = "capital_france") -> Record:
        """Ask one meaning in 24 languages in a single batch.

        Args:
            meaning: One of capital_france, capital_japan, continent_kenya, currency_germany, day, number.

        Returns:
            For every language the prompt, what the model wrote, its log-probability and the expected answer.
        """
        with told(), models.engine() as engine:
            return asked(engine, meaning, {}).record

    def info() -> Record:
        """Say which model answers: name, format, parameters, precision, vocabulary, hash of its weights.

        Returns:
            The facts about the model.
        """
        facts = models.info.facts()
        return {key: value for key, value in facts.items() if key != "path"}

    return [fill, score, sweep, corrupt, languages, info]


def _written(server: GradioMCPServer, data: Sequence[Record], root_url: str) -> list[Any]:
    """The answers of a tool as text."""
    texts = [json.dumps(answer, ensure_ascii=False, allow_nan=False) for answer in data]
    return [server.types.TextContent(type="text", text=text) for text in texts]


def _one(prompt: Any) -> str:
    """A single prompt: the engine would take a list as a batch."""
    if not isinstance(prompt, str):
        raise PromptError(f"The prompt is {type(prompt).__name__}, expected text.")
    return prompt
