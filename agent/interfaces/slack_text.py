"""Text for Slack: what others wrote stays text there, within Slack's limits, and long answers are split."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.prompts import Words
from agent.visible import digest, visible, visible_lines

Block = dict[str, Any]
"""A block, an element or a view, as it goes to Slack."""

REPLY_LENGTH = 12_000
"""Characters of one `markdown_text` or `markdown` block."""
UPDATE_LENGTH = 4_000
"""Characters of the `text` of chat.update; longer ones are refused."""
SECTION_LENGTH, FIELD_LENGTH, HEADER_LENGTH, CONFIRM_LENGTH = 3_000, 2_000, 150, 300
BUTTON_LENGTH, VALUE_LENGTH, INPUT_LENGTH = 75, 2_000, 3_000
TITLE_LENGTH, METADATA_LENGTH, OPTION_LENGTH = 24, 3_000, 75
QUIET = {"unfurl_links": False, "unfurl_media": False}
"""To give to chat.postMessage with everything that may hold an address of somebody else's choice."""
_MENTIONS = 25


def size(text: str) -> int:
    """Characters as JavaScript counts them, which is never less than what Python counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def escape(text: str) -> str:
    """The three characters that mean something to Slack in every text object, as it wants them."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shown(text: str) -> str:
    """Text of others, with line ends of its own: marks for what hides, and nothing that Slack would act on."""
    return escape("\n".join(visible(line) for line in text.split("\n")))


def plain(text: str) -> Block:
    """A text object that is shown letter by letter: no links, no mentions, no bold, no emoji names."""
    return {"type": "plain_text", "text": shown(text) if text.strip() else "—", "emoji": False}


def mrkdwn(text: str) -> Block:
    """A text object of our own words. Whatever others wrote in it has been escaped before."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def label(text: str) -> Block:
    """In bold, unless it holds something that would end the bold."""
    return mrkdwn(f"*{escape(text)}*") if re.fullmatch(r"\w[\w ()/.,:'-]*", text) else plain(text)


def clip(text: str, limit: int, words: Words) -> str:
    """Head and tail of what would take more than `limit` characters at Slack, with how much is left out between."""
    if size(shown(text)) <= limit:
        return text
    room = limit - size(f" {shown(words.say('card.cut', count=len(text), sha256=digest(text)))} ")
    head = _fitting(text, max(0, room * 3 // 4))
    tail = _fitting(text[::-1], max(0, room // 4))[::-1]
    mark = words.say("card.cut", count=len(text) - len(head) - len(tail), sha256=digest(text))
    return f"{head} {mark} {tail}"


def _fitting(text: str, room: int) -> str:
    """As much of the beginning as `room` characters at Slack hold."""
    for at, character in enumerate(text):
        # A character alone is never shorter than the same one among others: those that may stay are marked here.
        room -= 1 if character.isalnum() and character.isascii() else size(shown(character))
        if room < 0:
            return text[:at]
    return text


def date(seconds: float, words: Words) -> str:
    """A moment in the reader's own zone; where Slack can't, in the workspace's."""
    fallback = words.when(datetime.fromtimestamp(seconds, UTC).isoformat())
    return f"<!date^{int(seconds)}^{{date_short_pretty}}, {{time}}|{escape(fallback)}>"


def person(who: str) -> str:
    """Somebody by name: a mention for ids of Slack (`U…`, `S…`, `slack:TEAM:USER`), else what stands there."""
    found = re.fullmatch(r"(?:slack:(?:[A-Z0-9]+[:/.])*)?([UWS][A-Z0-9]+)", who)
    if found is None:
        return "`" + shown(who).replace("`", "'").replace("\n", " ") + "`"
    return f"<!subteam^{found[1]}>" if found[1].startswith("S") else f"<@{found[1]}>"


def people(whom: Sequence[str], words: Words) -> str:
    """Several, the first so many of them."""
    named = [person(who) for who in dict.fromkeys(whom)]
    more = [words.say("slack.more_people", count=len(named) - _MENTIONS)] if len(named) > _MENTIONS else []
    return " ".join([*named[:_MENTIONS], *more])


def callees(whom: Sequence[str], others: Sequence[str], words: Words) -> str:
    """Who is called to decide; where there is nobody to name, anybody but others."""
    if whom or not others:
        return people(whom, words)
    return words.say("slack.anybody_but", who=people(others, words))


# Blocks.


def section(text: str) -> Block:
    return {"type": "section", "text": plain(text)}


def status(text: str) -> Block:
    """A line of our own words with mentions and dates."""
    return {"type": "section", "text": mrkdwn(text)}


def context(*texts: str) -> Block:
    return {"type": "context", "elements": [mrkdwn(text) for text in texts if text]}


def heading(text: str, words: Words) -> Block:
    """Large where it fits."""
    if size(shown(text)) <= HEADER_LENGTH:
        return {"type": "header", "text": plain(text)}
    return section(clip(text, 1_000, words))


def button(action: str, text: str, value: str, **more: Any) -> Block:
    return {"type": "button", "action_id": action, "text": plain(text), "value": value, **more}


def modal(callback_id: str, title: str, blocks: Sequence[Block], *, close: str, **more: Any) -> Block:
    view = {"type": "modal", "callback_id": callback_id, "title": plain(title), "close": plain(close)}
    return {**view, "blocks": list(blocks), **more}


def text_input(block_id: str, name: str, *, optional: bool = False, hint: str = "", **element: Any) -> Block:
    """A field to write in; its value is at `[block_id]["value"]["value"]` of a view's state."""
    block: Block = {"type": "input", "block_id": block_id, "optional": optional, "label": plain(name)}
    block["element"] = {"type": "plain_text_input", "action_id": "value", **element}
    return block | ({"hint": plain(hint)} if hint else {})


def chunks(lines: Sequence[str], limit: int) -> Iterator[str]:
    """The lines in as few texts as `limit` characters at Slack allow; no line is longer."""
    held: list[str] = []
    length = 0
    for line in lines:
        needed = size(shown(line)) + 1
        if held and length + needed > limit:
            yield "\n".join(held)
            held, length = [], 0
        held.append(line)
        length += needed
    if held:
        yield "\n".join(held)


# Answers of the model.


def safe_reply(markdown: str) -> str:
    """Words of the model, or a piece of them: marks for what hides, and nothing that Slack takes for a mention or a
    link with a label of its own. They may quote anything that others wrote."""
    return visible_lines(markdown).replace("<", "&lt;")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Lines that belong together. `first` begins each part of them again, `last` ends it."""

    lines: Sequence[str]
    first: Sequence[str] = ()
    last: Sequence[str] = ()


def split_reply(markdown: str, limit: int = REPLY_LENGTH) -> list[str]:
    """An answer as messages of at most `limit` characters (500 or more), without mentions.

    Cut between paragraphs where that is possible, else between lines, sentences, words. A code fence that is cut is a
    fence in each part, a table that is cut has its header in each, its rows stay whole.
    """
    parts: list[str] = []
    held: list[str] = []
    for piece in _pieces(safe_reply(markdown).split("\n")):
        whole = [*piece.first, *piece.lines, *piece.last]
        if _length([*held, *whole]) <= limit:
            held += whole
            continue
        parts += _part(held)
        held = []
        if _length(whole) <= limit:
            held = whole
            continue
        *full, held = _cut(piece, limit)
        parts += [one for lines in full for one in _part(lines)]
    return parts + _part(held)


def _part(lines: Sequence[str]) -> list[str]:
    text = "\n".join(lines).strip("\n")
    return [text] if text.strip() else []


def _length(lines: Sequence[str]) -> int:
    return sum(size(line) + 1 for line in lines)


def _pieces(lines: Sequence[str]) -> Iterator[_Piece]:
    """Fences, tables and paragraphs; an empty line belongs to what is before it."""
    at = 0
    while at < len(lines):
        start = at
        if (fence := _fence(lines[at])) is not None:
            at = next((n + 1 for n in range(at + 1, len(lines)) if _closes(lines[n], fence)), len(lines))
            inside = (
                lines[start + 1 : at - 1] if at - 1 > start and _closes(lines[at - 1], fence) else lines[start + 1 : at]
            )
            yield _Piece(inside, [lines[start]], [fence])
        elif _is_table(lines, at):
            at = next((n for n in range(at, len(lines)) if not lines[n].lstrip().startswith("|")), len(lines))
            yield _Piece(lines[start + 2 : at], lines[start : start + 2])
        else:
            at += 1
            while at < len(lines) and lines[at - 1].strip() and _fence(lines[at]) is None and not _is_table(lines, at):
                at += 1
            yield _Piece(lines[start:at])


def _fence(line: str) -> str | None:
    """What closes the fence that this line opens."""
    found = re.fullmatch(r" {0,3}(`{3,40}|~{3,40})([^`]{0,100})", line)
    return found[1] if found else None


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return bare.startswith(fence) and not bare.strip(fence[0])


def _is_table(lines: Sequence[str], at: int) -> bool:
    if at + 1 >= len(lines) or _length(lines[at : at + 2]) > 250 or not lines[at].lstrip().startswith("|"):
        return False
    return re.fullmatch(r"\s*\|[\s:|-]*-[\s:|-]*", lines[at + 1]) is not None


def _cut(piece: _Piece, limit: int) -> Iterator[list[str]]:
    """A piece that is too long for one part, as several."""
    frame = _length([*piece.first, *piece.last])
    held: list[str] = []
    length = frame
    for line in [part for whole in piece.lines for part in _short(whole, limit - frame - 1)]:
        if held and length + size(line) + 1 > limit:
            yield [*piece.first, *held, *piece.last]
            held, length = [], frame
        held.append(line)
        length += size(line) + 1
    yield [*piece.first, *held, *piece.last]


def _short(line: str, limit: int) -> Iterator[str]:
    """A line in pieces of at most `limit`: after a sentence, else between words, else where it must be."""
    while size(line) > limit:
        room = len(_counted(line, limit))
        head = line[:room]
        sentences = [found.end() for found in re.finditer(r"[.!?:;…]\s", head)]
        at = next((end for end in reversed(sentences) if end > room // 2), 0)
        at = at or (room if line[room].isspace() else head.rfind(" ") + 1) or room
        yield line[:at].rstrip()
        line = line[at:].lstrip()
    yield line


def _counted(text: str, limit: int) -> str:
    """The first characters that make up `limit`."""
    count = 0
    for at, character in enumerate(text):
        count += 2 if character > "\uffff" else 1
        if count > limit:
            return text[:at]
    return text
