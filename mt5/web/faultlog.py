"""Faults in the log: where and of what kind, without the words, which may hold what a visitor typed."""

import sys
import traceback
from types import SimpleNamespace
from typing import Any


def keep_words_out() -> None:
    """Let Gradio's queue, routes and tools log faults in this way."""
    from gradio import queueing, route_utils, routes

    quiet: Any = SimpleNamespace(print_exc=logged)
    for module in (queueing, routes, route_utils):
        module.traceback = quiet


def logged() -> None:
    """Write the fault that is being handled, and what caused it, to standard error."""
    fault = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
    while fault is not None:
        kind = f"{type(fault).__module__}.{type(fault).__qualname__}"
        rows = traceback.format_tb(fault.__traceback__)
        print(f"Traceback of {kind} (its words are left out):", *rows, sep="\n", file=sys.stderr, flush=True)
        fault = fault.__cause__
