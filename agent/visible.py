"""Text of others made safe to look at: everything that hides, reorders or controls becomes a mark."""

import re
import unicodedata
from typing import Any

_INVISIBLE = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff\ud800-\udfff]"
)
_JOINERS = ("\u200d", "\ufe0f")


def visible(value: Any) -> str:
    """Text of others with everything that hides, reorders or controls as a mark such as ‹U+202E›.

    A joiner or a variation selector directly after an emoji is part of it and stays.
    """
    text = "" if value is None else str(value)

    def mark(match: re.Match[str]) -> str:
        before = text[match.start() - 1] if match.start() else ""
        if match[0] in _JOINERS and before and (unicodedata.category(before) in ("So", "Sk") or before == "\ufe0f"):
            return match[0]
        return "⏎" if match[0] == "\n" else f"‹U+{ord(match[0]):04X}›"

    return _INVISIBLE.sub(mark, text)


def visible_lines(value: Any) -> str:
    """The same for text that may have lines of its own, such as a model's answer."""
    lines = str(value).replace("\r\n", "\n").split("\n")
    return "\n".join("    ".join(visible(part) for part in line.split("\t")) for line in lines)
