"""What a user can mend. Any other exception is a bug and keeps its traceback."""


class PromptError(ValueError):
    """The prompt or the settings cannot be used; the message says what, where and how to mend it."""


class CheckpointError(ValueError):
    """The checkpoint cannot be opened; the message says what, where and how to mend it."""


class RankError(RuntimeError):
    """The processes that hold the model cannot answer now; the message says whether to try again."""
