"""What a user can mend. Any other exception is a bug and keeps its traceback."""

LONGEST = 2_000  # characters of a message


def _line(message: str) -> str:
    """One line that no terminal acts on: names from a file or a prompt may hold anything."""
    long = len(message) > LONGEST
    short = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}" if long else message
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short)


class PromptError(ValueError):
    """The prompt or the settings cannot be used; the message says what, where and how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(_line(message))


class CheckpointError(ValueError):
    """The checkpoint cannot be opened; the message says what, where and how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(_line(message))


class RankError(RuntimeError):
    """The processes that hold the model cannot answer now; the message says whether to try again."""
