"""What a visitor can mend, said in the language of the page."""

from mt5.errors import PromptError, RankError
from mt5.infill import LONGEST_PROMPT
from mt5.tokenizer import MASK, SENTINELS
from mt5.web.models import OtherModelError
from mt5.web.text import Text, escape

SAID = (PromptError, RankError)
"""Errors whose message is for the visitor; any other is a bug."""


def fault(
    error: Exception, written: object, text: Text, message: str | None = None, *, whole: bool = False
) -> str:
    """An error as HTML. written: what the visitor typed. whole: a sentence without gaps was asked for.

    message: what to say if it is known already. What the page has no words for is said in the library's
    English.
    """
    if isinstance(error, OtherModelError):
        message = text("fault_model", name=error.name)
    message = message or explained(written, text, whole=whole)
    if message is None and str(error).startswith("Settings: "):
        message = text("fault_settings", detail=str(error).removeprefix("Settings: "))
    lang = "" if message else ' lang="en"'
    return f'<p class="fault" role="alert"{lang}>{escape(message or str(error))}</p>'


def explained(written: object, text: Text, *, whole: bool) -> str | None:
    """What is wrong with a text, when it is one of the common faults."""
    if not isinstance(written, str) or not written.strip():
        return text("fault_empty")
    if len(written) > LONGEST_PROMPT:
        return text("fault_long", length=text.number(len(written), 0), most=text.number(LONGEST_PROMPT, 0))
    for place, character in enumerate(written, 1):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            code = f"U+{ord(character):04X}"
            return text("fault_character", place=text.number(place, 0), code=code)
    masks = written.count(MASK)
    if whole and masks:
        return text("fault_has_mask")
    if not whole and not masks:
        return text("fault_no_mask")
    if masks > SENTINELS:
        return text("fault_masks", masks=text.number(masks, 0), most=text.number(SENTINELS, 0))
    return None
