"""A start without what Gradio does for its developers, or does several times."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def no_server_yet() -> Iterator[None]:
    """Lay a page out without the server that Gradio makes three times meanwhile: `launch` makes its own."""
    from gradio.routes import App

    applications: Any = App
    create_app = applications.create_app
    applications.create_app = staticmethod(lambda *_, **options: None)
    try:
        yield
    finally:
        applications.create_app = create_app
