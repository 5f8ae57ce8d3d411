"""Cards, modals and the Home tab as Slack's blocks: pure functions of what is stored, without network.

A card is made from the same data as the terminal's. What others wrote stands in `plain_text` objects alone, so that
nothing in it is a link, a mention or bold; our own words are `mrkdwn`. No words of the model's are on a card.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.events import ApprovalAsked
from agent.gate import count_to_type, fold_typed
from agent.interfaces.slack_edit import EDIT_VIEW, Edited, Wrong, can_edit, edit_modal, read_edit
from agent.interfaces.slack_text import (
    CONFIRM_LENGTH,
    INPUT_LENGTH,
    QUIET,
    UPDATE_LENGTH,
    Block,
    callees,
    chunks,
    clip,
    context,
    date,
    heading,
    label,
    modal,
    person,
    plain,
    safe_reply,
    section,
    shown,
    size,
    split_reply,
    status,
    text_input,
)
from agent.interfaces.slack_text import button as button_
from agent.preview import Preview
from agent.prompts import Words

__all__ = [
    "ACTIONS",
    "EDIT_VIEW",
    "QUIET",
    "VIEWS",
    "CardState",
    "Edited",
    "Wrong",
    "can_edit",
    "card_message",
    "confirm_modal",
    "deny_modal",
    "details_modal",
    "edit_modal",
    "home_view",
    "read_confirm",
    "read_edit",
    "read_reason",
    "safe_reply",
    "split_reply",
]

APPROVE = "approval_approve"
"""Behind Slack's own confirm dialog."""
APPROVE_TYPED = "approval_approve_typed"
"""Opens `confirm_modal`: something must be typed."""
EDIT = "approval_edit"
DENY = "approval_deny"
ASK_AGAIN = "approval_ask_again"
DETAILS = "approval_details"
"""Opens `details_modal`."""
OPEN = "approval_open"
"""A link to the card; Slack tells of the click all the same."""
ACTIONS = (APPROVE, APPROVE_TYPED, EDIT, DENY, ASK_AGAIN, DETAILS, OPEN)
"""Every action id; the value of each button is the approval's id."""
CONFIRM_VIEW = "confirm_approval"
DENY_VIEW = "deny_approval"
DETAILS_VIEW = "details_of_approval"
VIEWS = (CONFIRM_VIEW, DENY_VIEW, EDIT_VIEW)
"""Callback ids of the modals that are submitted."""
CONFIRM_BLOCK, REASON_BLOCK = "confirm", "reason"
"""Block ids, to which errors of a submission belong."""

MESSAGE_ROOM, VIEW_ROOM = 12_500, 60_000
"""How much a message, or a view, may hold as `cost` counts. Slack publishes no figure for messages: it was seen to
refuse those above 13,200 characters in all, less 125 a block. With this the number of blocks is within bounds too."""
_BLOCK_COST = 125
_FACTS_ROOM = 4_000
"""Room that warnings leave to the facts, where those need it."""
_GRID = 30
"""Facts up to this number are a table; more of them are lines."""
_LAST = 3
"""Facts at the end that stay when some in the middle are left out: what can't be undone stands there."""
_HOME_CARDS = 15
_NAMED = 10
"""How many who approved are on a card, beside the last one: as many as are ever needed, and some who count no more."""

STATES = (
    "pending", "approved", "executing", "done", "failed", "unknown", "denied", "expired", "superseded", "drifted",
    "refused",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CardState:
    """How an approval stands: its stored state, who decided and when (Unix seconds), and the outcome's line.

    Of one that waits: who has approved it already where somebody else has to, too, and what there is to say of that.
    `earlier` are those who approved it before `by`, and when. `taken`: what somebody has just done about it that isn't
    looked at yet (approve, deny, edit), who and when.
    """

    state: str
    by: str | None
    at: float | None
    line: str
    earlier: Sequence[tuple[str, float]] = ()
    taken: tuple[str, str, float] | None = None

    @property
    def open(self) -> bool:
        """Whether there is something to press on it that decides it."""
        return self.state == "pending" and self.taken is None


WAITS = CardState("pending", None, None, "")


def card_message(
    asked: ApprovalAsked,
    words: Words,
    *,
    mention: Sequence[str],
    state: CardState,
    others: Sequence[str] = (),
    note: str = "",
) -> Block:
    """`text` and `blocks` of the card, for chat.postMessage and chat.update alike.

    `mention` are ids of those who may decide (`U…`, `S…`), who are called only while it waits; where there is nobody to
    name, anybody but `others` may. `note` is a line of the program's own above everything, such as that this is the
    sandbox. Buttons are there only while they do something.
    """
    head = [*([context(shown(note))] if note else []), heading(asked.card.headline, words)]
    foot = _status(asked, words, callees(mention, others, words), state)
    taken = cost([*head, *foot, *_buttons(asked, words, state, cut=True)])
    # What is left out is one click away, as long as there is something to click.
    where = words.say("slack.details") if state.open else ""
    content, cut = _content(asked, words, MESSAGE_ROOM - taken, where)
    blocks = [*head, *content, *foot, *_buttons(asked, words, state, cut=cut)]
    return {"text": _notice(asked, words, state), "blocks": blocks}


def cost(blocks: Sequence[Block]) -> int:
    """How much of a message the blocks take, rather too much than too little."""
    return size(json.dumps(blocks, ensure_ascii=False)) + _BLOCK_COST * len(blocks)


def _notice(asked: ApprovalAsked, words: Words, state: CardState) -> str:
    """What notifications and screen readers say of the card."""
    told = words.say(f"slack.short_{state.state}") if state.state in STATES else state.state
    told = words.say("slack.short_taken") if state.taken else told
    return shown(clip(f"{asked.card.headline} · {told}", UPDATE_LENGTH - 100, words))


def _status(asked: ApprovalAsked, words: Words, called: str, state: CardState) -> list[Block]:
    """Who is to decide until when, or who did and how it ended."""
    ended = [section(clip(state.line, 2_000, words))] if state.line.strip() else []
    if state.state == "pending":
        first = [status(words.say("slack.first_of_two", **_decided(state, words)))] if state.by else []
        call = [status(words.say("slack.decide", who=called))] if called else []
        if state.taken is not None:
            what, who, at = state.taken
            call = [status(words.say(f"slack.taken_{what}", who=person(who), when=date(at, words)))]
        until = words.say("slack.expires", when=date(asked.expires_at, words), approval=shown(asked.id))
        return [*ended, *first, *call, context(until)]
    return [status(_stands(state, words)), *ended, context(words.say("slack.approval", approval=shown(asked.id)))]


def _stands(state: CardState, words: Words) -> str:
    decided = _decided(state, words)
    if state.state in STATES:
        return words.say(f"slack.state_{state.state}", **decided)
    return words.say("slack.state_other", state=shown(state.state), **decided)


def _decided(state: CardState, words: Words) -> dict[str, str]:
    """Who decided and when: of several who approved, each with the time, the last one's as the sentence has it."""
    before = [f"{person(who)} · {date(at, words)}" for who, at in state.earlier[-_NAMED:]]
    who = ", ".join([*before, person(state.by)]) if state.by else ""
    return {"who": who, "when": date(state.at, words) if state.at is not None else ""}


def _buttons(asked: ApprovalAsked, words: Words, state: CardState, *, cut: bool) -> list[Block]:
    say = words.say
    if state.state == "expired":
        return [_actions(button_(ASK_AGAIN, say("slack.ask_again"), asked.id))]
    if not state.open:
        return []
    edit = [button_(EDIT, say("slack.edit"), asked.id)] if can_edit(asked) else []
    deny = button_(DENY, say("slack.deny"), asked.id, style="danger")
    more = [button_(DETAILS, say("slack.details"), asked.id)] if cut else []
    return [_actions(_approve(asked, words), *edit, deny, *more)]


def _approve(asked: ApprovalAsked, words: Words) -> Block:
    if asked.confirm != "yes":
        return button_(APPROVE_TYPED, words.say("slack.approve"), asked.id, style="primary")
    again = words.say("slack.confirm_text", headline=clip(asked.card.headline, 200, words))
    dialog = {
        "title": plain(words.say("slack.confirm_title")),
        "text": plain(clip(again, CONFIRM_LENGTH, words)),
        "confirm": plain(words.say("slack.confirm_yes")),
        "deny": plain(words.say("slack.confirm_no")),
    }
    return button_(APPROVE, words.say("slack.approve"), asked.id, style="primary", confirm=dialog)


def _actions(*elements: Block) -> Block:
    return {"type": "actions", "elements": list(elements)}


# What is decided on.


@dataclass(frozen=True, slots=True)
class _Row:
    """A fact with its label, or without one lines of the message that recipients will read."""

    name: str
    text: str


def _content(asked: ApprovalAsked, words: Words, room: int, where: str) -> tuple[list[Block], bool]:
    """What has changed, what is doubtful, the facts; and whether anything of that is left out here. `where` names the
    button that shows it."""
    card = asked.card
    rows, cut = _rows(asked, words, value=1_000, message=2_000)
    # Facts have their share; warnings may take what facts don't need.
    needed = min(cost(_facts(rows, grid=len(rows) <= _GRID)), _FACTS_ROOM)
    alerts, left = _alerts([*card.drift, *card.warnings], len(card.folded), words, room - needed, where)
    facts, missing = _fitting(rows, words, room - cost(alerts), where=where)
    return [*alerts, *facts], cut or left or missing


def _alerts(lines: Sequence[str], folded: int, words: Words, room: int, where: str = "") -> tuple[list[Block], bool]:
    whole = [f"⚠ {line}" for line in lines]
    told = [clip(line, 1_000, words) for line in whole]

    def blocks(count: int) -> list[Block]:
        left = len(told) - count + folded
        more = [words.say("slack.more_alerts", count=left, details=where)] if left else []
        return [section(text) for text in chunks([*told[:count], *more], 3_000)]

    count = _most(len(told), lambda number: cost(blocks(number)) <= room)
    return blocks(count), count < len(told) or folded > 0 or told != whole


def _rows(asked: ApprovalAsked, words: Words, *, value: int, message: int) -> tuple[list[_Row], bool]:
    """The facts, each within its limit. Lines without a label that follow each other are one message."""
    rows: list[_Row] = []
    lines: list[str] = []
    for name, text in [*asked.card.rows, ("end", "")]:
        if not name:
            lines.append(text)
            continue
        if lines:
            rows.append(_Row("", "\n".join(lines)))
            lines = []
        rows.append(_Row(name, text))
    del rows[-1:]
    clipped = [_Row(clip(row.name, 200, words), clip(row.text, value if row.name else message, words)) for row in rows]
    return clipped, clipped != rows


def _fitting(
    rows: Sequence[_Row], words: Words, room: int, most: int = 35, where: str = ""
) -> tuple[list[Block], bool]:
    """All facts, or the first and the last of them with how many are left out between."""

    grid = len(rows) <= _GRID

    def some(count: int) -> list[Block]:
        if count == len(rows):
            return _facts(rows, grid=grid)
        first, last = rows[: max(0, count - _LAST)], rows[len(rows) - min(count, _LAST) :]
        told = words.say("slack.more_facts", count=len(rows) - count, details=where)
        return [*_facts(first, grid=grid), section(told), *_facts(last, grid=grid)]

    count = _most(len(rows), lambda number: cost(some(number)) <= room)
    return some(count), count < len(rows)


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits; none at all always does."""
    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _facts(rows: Sequence[_Row], *, grid: bool) -> list[Block]:
    """A table of label and value, with the message between its rows; very many facts as lines."""
    if not grid:
        return _lines(rows)
    return [block for group in _groups(rows) for block in (_grid(group) if group[0].name else _lines(group))]


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    held: list[_Row] = []
    for row in rows:
        if held and bool(held[-1].name) != bool(row.name):
            yield held
            held = []
        held.append(row)
    if held:
        yield held


def _grid(rows: Sequence[_Row]) -> list[Block]:
    sections = []
    for at in range(0, len(rows), 5):
        fields = [text for row in rows[at : at + 5] for text in (label(row.name), plain(row.text))]
        sections.append({"type": "section", "fields": fields})
    return sections


def _lines(rows: Sequence[_Row]) -> list[Block]:
    """What recipients will read has a bar in front of each line: it can't be taken for a fact of the card."""
    lines = [f"{row.name}: {row.text}" if row.name else f"│ {line}" for row in rows for line in _own(row)]
    return [section(text) for text in chunks(lines, 3_000)]


def _own(row: _Row) -> list[str]:
    """The lines of a message; a fact has one."""
    return [row.text] if row.name else row.text.split("\n")


# Modals.


def confirm_modal(asked: ApprovalAsked, words: Words, *, private_metadata: str) -> Block:
    """Wants the title, or the figure, where the card does; the gate checks it, not we."""
    blocks = [heading(asked.card.headline, words), section(words.say("slack.approve_intro"))]
    card = asked.card
    alerts, _ = _alerts([*card.drift, *card.warnings, *card.folded], 0, words, 8_000)
    blocks += alerts
    if asked.confirm != "yes":
        preview = Preview.load(asked.preview)
        campaign = preview.facts["campaign"]
        # As the gate has it: a title of letters that hide can't be typed.
        title = campaign["title"] if fold_typed(campaign["title"]) else campaign["id"]
        count = count_to_type(preview) if asked.confirm == "typed" else 0
        key = "slack.type_either" if asked.confirm == "typed" else "slack.type_title"
        blocks += [section(words.say("slack.title_is")), section(clip(title, 2_900, words))]
        blocks.append(text_input(CONFIRM_BLOCK, words.say(key, count=count), max_length=INPUT_LENGTH))
    names = [words.say(f"slack.{key}") for key in ("approve_title", "approve", "close")]
    more = {"submit": plain(names[1]), "private_metadata": private_metadata}
    return modal(CONFIRM_VIEW, names[0], blocks, close=names[2], **more)


def read_confirm(values: Mapping[str, Any]) -> str | None:
    """What was typed, out of `view.state.values`; None where nothing was asked for."""
    return _written(values, CONFIRM_BLOCK)


def deny_modal(asked: ApprovalAsked, words: Words, *, private_metadata: str) -> Block:
    blocks = [heading(asked.card.headline, words), section(words.say("slack.deny_intro"))]
    reason = text_input(REASON_BLOCK, words.say("slack.reason"), optional=True, multiline=True, max_length=1_000)
    names = [words.say(f"slack.{key}") for key in ("deny_title", "deny", "close")]
    more = {"submit": plain(names[1]), "private_metadata": private_metadata}
    return modal(DENY_VIEW, names[0], [*blocks, reason], close=names[2], **more)


def read_reason(values: Mapping[str, Any]) -> str | None:
    """The reason, None where there is none."""
    return _written(values, REASON_BLOCK)


def _written(values: Mapping[str, Any], block_id: str) -> str | None:
    text = str(values.get(block_id, {}).get("value", {}).get("value") or "").strip()
    return text or None


def details_modal(asked: ApprovalAsked, words: Words) -> Block:
    """Everything that the card holds, also what found no place in its message."""
    card = asked.card
    alerts, _ = _alerts([*card.drift, *card.warnings, *card.folded], 0, words, VIEW_ROOM // 2)
    rows, _ = _rows(asked, words, value=1_900, message=2_800)
    until = context(words.say("slack.expires", when=date(asked.expires_at, words), approval=shown(asked.id)))
    head = [heading(card.headline, words), until, *alerts]
    facts, _ = _fitting(rows, words, VIEW_ROOM - cost(head))
    return modal(DETAILS_VIEW, words.say("slack.details_title"), [*head, *facts], close=words.say("slack.close"))


# The Home tab.


def home_view(
    waiting: Sequence[ApprovalAsked],
    recent: Sequence[tuple[ApprovalAsked, CardState]],
    words: Words,
    *,
    others: Sequence[ApprovalAsked] = (),
    links: Mapping[str, str] | None = None,
    note: str = "",
) -> Block:
    """What waits for this person, what waits for others alone, and what was decided lately. `links` are addresses of
    cards by approval id."""
    say = words.say
    blocks = [*([context(shown(note))] if note else []), heading(say("slack.home_waiting"), words)]
    blocks += _waiting(waiting, _HOME_CARDS, words, links or {})
    if not waiting:
        blocks.append(section(say("slack.home_nothing_yours" if others else "slack.home_nothing")))
    if others:
        left = max(0, _HOME_CARDS - len(waiting))
        blocks += [heading(say("slack.home_others"), words), *_waiting(others, left, words, links or {})]
    blocks += [{"type": "divider"}, heading(say("slack.home_recent"), words)]
    for asked, state in recent[:_HOME_CARDS]:
        told = [section(clip(state.line, 600, words))] if state.line.strip() else []
        blocks += [section(clip(asked.card.headline, 600, words)), context(_stands(state, words)), *told]
    blocks += _rest(recent, words) if recent else [section(say("slack.home_none_yet"))]
    return {"type": "home", "blocks": blocks}


def _waiting(found: Sequence[ApprovalAsked], most: int, words: Words, links: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    for asked in found[:most]:
        until = words.say("slack.expires", when=date(asked.expires_at, words), approval=shown(asked.id))
        blocks += [section(clip(asked.card.headline, 600, words)), context(until), _ways(asked, words, links)]
    return blocks + _rest(found, words, most)


def _ways(asked: ApprovalAsked, words: Words, links: Mapping[str, str]) -> Block:
    show = button_(DETAILS, words.say("slack.show"), asked.id)
    link = links.get(asked.id)
    return _actions(*([button_(OPEN, words.say("slack.open"), asked.id, url=link)] if link else []), show)


def _rest(found: Sequence[Any], words: Words, most: int = _HOME_CARDS) -> list[Block]:
    left = len(found) - most
    return [context(words.say("slack.home_more", count=left))] if left > 0 else []
