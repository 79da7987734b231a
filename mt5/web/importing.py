"""Gradio, imported without what only its developers need."""

import inspect
from typing import Any


def import_gradio() -> None:
    """Import Gradio in two thirds of the time: it would parse every component's source to write type stubs.

    It writes none for a class whose file is unknown (`create_or_modify_pyi` in gradio.component_meta).
    """
    file_of = inspect.getfile

    def getfile(asked: Any) -> str:
        if isinstance(asked, type) and asked.__module__.startswith("gradio."):
            raise OSError(f"{asked}: no stub is wanted")
        return file_of(asked)

    inspect.getfile = getfile
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = file_of
