"""Text of others made safe to look at: everything that hides, reorders or controls becomes a mark."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

_INVISIBLE = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U00013430-\U0001343f\U00016fe4"
    "\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""By list, not by category: variation selectors, Hangul fillers and the blank Braille cell are no format characters."""
_SELECTORS = ("\ufe0e", "\ufe0f")
_DIRECTIONS = ("\u200e", "\u200f")
_EMOJI_OF_OTHER_KINDS = "\u203c\u2049\u2139\u2194\u25fd\u25fe\u2934\u2935\u3030"
_NEAR = 20
"""Characters around a direction mark among which a letter written from the right must be."""


def visible(value: Any) -> str:
    """Text of others with everything that hides, reorders or controls as a mark such as ‹U+202E›.

    What an emoji is made of stays, and so does a single direction mark in Hebrew or Arabic.
    """
    text = "" if value is None else str(value)

    def mark(match: re.Match[str]) -> str:
        if _is_legal(text, match.start()):
            return match[0]
        return "⏎" if match[0] == "\n" else f"‹U+{ord(match[0]):04X}›"

    return _INVISIBLE.sub(mark, text)


def visible_lines(value: Any) -> str:
    """The same for text that may have lines of its own, such as a model's answer."""
    lines = str(value).replace("\r\n", "\n").split("\n")
    return "\n".join("    ".join(visible(part) for part in line.split("\t")) for line in lines)


def hidden(texts: Iterable[str]) -> Counter[str]:
    """How often each character that hides, reorders or controls is in `texts`, as "U+202E"; most frequent first.

    Line ends and tabs are no secret.
    """
    found: Counter[str] = Counter()
    for text in texts:
        for match in _INVISIBLE.finditer(text):
            if match[0] not in "\n\r\t" and not _is_legal(text, match.start()):
                found[f"U+{ord(match[0]):04X}"] += 1
    return Counter(dict(found.most_common()))


def digest(text: str) -> str:
    """Enough of the text's SHA-256 to tell two texts apart that look alike."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _is_legal(text: str, at: int) -> bool:
    """Whether the invisible character at `at` does what it is for."""
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if text[at] in _SELECTORS:
        key_cap = re.fullmatch("[0-9#*]", before) is not None and after == "\u20e3"
        return key_cap or _is_emoji(before)
    if text[at] == "\u200d":
        joined = text[at - 2 : at - 1] if before in _SELECTORS and at > 1 else before
        return _is_emoji(joined) and _is_emoji(after)
    if text[at] in _DIRECTIONS:
        near = text[max(0, at - _NEAR) : at + _NEAR]
        alone = before not in _DIRECTIONS and after not in _DIRECTIONS
        return alone and any(unicodedata.bidirectional(c) in ("R", "AL") and c.isalpha() for c in near)
    return False


def _is_emoji(character: str) -> bool:
    if character == "" or _INVISIBLE.match(character):
        return False
    # Newer emoji than Python knows lie among the others of their block.
    block = "\U0001f000" <= character <= "\U0001faff"
    return block or unicodedata.category(character) == "So" or character in _EMOJI_OF_OTHER_KINDS
