"""Slack as a bot sees it, on loopback: the Web API, signed events, Socket Mode, and people who type and click.

In a test: `async with FakeSlack() as slack`. As a process of its own: `python -m tests.fakeslack`, driven over
`/_control/` (`Remote` is the client). Everything posted is kept, so that a person clicks what is posted now, and what
Slack would refuse is refused with Slack's own error string. Names, shapes and limits are those of docs.slack.dev of
autumn 2026; where Slack publishes none, a comment says where the rule comes from.

Read it downwards, each step adds one thing: what may be posted (blocks, views), what it looks like to a reader, the
`Workspace` (state), the Web API's methods over it, `Delivering` (events to the app), `Peopled` (people and what tests
ask), `FakeSlack` (the server).
"""

import argparse
import asyncio
import contextlib
import copy
import hashlib
import hmac
import inspect
import itertools
import json
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import web
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block
from slack_sdk.models.messages.chunk import Chunk
from slack_sdk.models.views import View

Json = dict[str, Any]
T = TypeVar("T")

BOT_TOKEN = "xoxb-fake-bot-token"
APP_TOKEN = "xapp-fake-app-token"
SIGNING_SECRET = "fake-signing-secret"
TEAM = "T0FAKE"
DOMAIN = "equipo-ficticio"
APP = "A0FAKE"
BOT_USER = "U0FAKEBOT"
BOT = "B0FAKE"

MESSAGE_BLOCKS = 50
VIEW_BLOCKS = 100
MARKDOWN_LENGTH = 12_000
POST_LENGTH = 40_000
UPDATE_LENGTH = 4_000
FIELD_LENGTH = 2_000
CHUNK_FIELD_LENGTH = 256
TABLE_ROWS, TABLE_CELLS = 100, 20
CHOICES = 10
OPTION_LENGTH, OPTION_VALUE_LENGTH = 75, 150
VIEW_BYTES = 250_000
STACKED_VIEWS = 3
SESSION_TITLE_LENGTH = 200
PROMPTS, LOADING_MESSAGES = 4, 10
CONNECTIONS = 10
RESPONSE_URL_USES = 5
SIGNATURE_AGE = 300
# Not published. Measured by users (slackapi/bolt-js#2509): 13,297 characters in one block, 125 fewer with one more.
BLOCKS_LENGTH = 13_200
BLOCK_OVERHEAD = 125

SESSION_STATUSES = ("active", "processing", "suspended", "closed")
TASK_STATUSES = ("pending", "in_progress", "complete", "error")
SCOPE_PREFIX = {"im": "im", "channel": "channels", "group": "groups"}


class Refusal(Exception):
    """A method's `ok: false`, with Slack's error string."""

    def __init__(self, error: str, *messages: str, **more: Any) -> None:
        super().__init__(error, *messages)
        self.error, self.messages, self.more = error, messages, more

    def answer(self) -> Json:
        found = {"errors": list(self.messages)} if self.error == "invalid_blocks" else {}
        told = {"response_metadata": {"messages": [f"[ERROR] {one}" for one in self.messages]}} if self.messages else {}
        return {"ok": False, "error": self.error, **found, **told, **self.more}


class NotPossible(AssertionError):
    """What nobody can do in Slack's client: the button isn't there, the view is closed, nothing runs to be stopped."""


# What may be posted.

INPUTS = {
    "plain_text_input": "value",
    "number_input": "value",
    "email_text_input": "value",
    "url_text_input": "value",
    "datepicker": "selected_date",
    "timepicker": "selected_time",
    "datetimepicker": "selected_date_time",
    "users_select": "selected_user",
    "channels_select": "selected_channel",
    "conversations_select": "selected_conversation",
    "static_select": "selected_option",
    "radio_buttons": "selected_option",
    "multi_static_select": "selected_options",
    "checkboxes": "selected_options",
}
INTERACTIVE = {"button", "icon_button", "feedback_buttons", "overflow", "workflow_button", "rich_text_input", *INPUTS}


def elements(blocks: Sequence[Json]) -> Iterator[tuple[Json, Json]]:
    """Every interactive element, with the block that holds it."""
    for block in blocks:
        inner = [*block.get("elements", ()), *(block.get("actions") or ())]
        inner += [block[key] for key in ("accessory", "element") if block.get(key)]
        for one in inner:
            if one.get("type") in INTERACTIVE:
                yield block, one
            elif one.get("type") == "card":
                yield from elements([one])
        yield from elements(block.get("child_blocks", ()))


def check_blocks(blocks: Any, *, most: int = MESSAGE_BLOCKS, at: str = "/blocks") -> list[Json]:
    """The blocks, or what Slack would answer to them."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise Refusal("invalid_blocks_format")
    problems = [f"no more than {most} items allowed [json-pointer:{at}]"] if len(blocks) > most else []
    for number, block in enumerate(blocks):
        problems += block_problems(block, f"{at}/{number}")
    problems = problems or duplicates(blocks, at)
    if problems:
        raise Refusal("invalid_blocks", *problems)
    markdown = sum(len(block["text"]) for block in blocks if block["type"] == "markdown")
    if markdown > MARKDOWN_LENGTH or length(blocks) + BLOCK_OVERHEAD * (len(blocks) - 1) > BLOCKS_LENGTH:
        raise Refusal("msg_blocks_too_long")
    return blocks


def block_problems(block: Json, at: str) -> list[str]:
    """By slack_sdk's validators, then what they let pass and Slack doesn't."""
    try:
        parsed = Block.parse(block)
        if parsed is None:
            return [f"unsupported type: {block.get('type')} [json-pointer:{at}/type]"]
        kept = parsed.to_dict()
        return [*lost(block, kept, at), *more_problems(block, at)]
    except (SlackObjectFormationError, TypeError, AttributeError, KeyError, ValueError) as problem:
        return [f"{problem} [json-pointer:{at}]"]


def lost(posted: Any, kept: Any, at: str) -> list[str]:
    """What slack_sdk's models dropped: empty values and names they don't know; Slack refuses both."""
    if isinstance(posted, dict):
        if not isinstance(kept, dict):
            return [f"unsupported type: {posted.get('type')} [json-pointer:{at}]"]
        empty: tuple[Any, ...] = ("", None, [], {})
        missing = [(key, value) for key, value in posted.items() if key not in kept]
        told = [
            f"{'must not be empty' if value in empty else 'no additional properties allowed'}: {key}"
            for key, value in missing
        ]
        nested = [lost(value, kept[key], f"{at}/{key}") for key, value in posted.items() if key in kept]
        return [f"{one} [json-pointer:{at}]" for one in told] + [one for some in nested for one in some]
    if isinstance(posted, list) and isinstance(kept, list):
        pairs = itertools.zip_longest(posted, kept)
        return [one for number, pair in enumerate(pairs) for one in lost(*pair, f"{at}/{number}")]
    return []


def more_problems(block: Json, at: str) -> Iterator[str]:
    kind = block["type"]
    plain = [("text", block.get("text"))] if kind == "header" else []
    plain += [("label", block.get("label")), ("hint", block.get("hint"))] if kind == "input" else []
    for name, text in plain:
        if isinstance(text, dict) and text["type"] != "plain_text":
            yield f"must be plain_text: {name} [json-pointer:{at}/{name}]"
    if any(len(text["text"]) > FIELD_LENGTH for text in block.get("fields", ()) if isinstance(text, dict)):
        yield f"must be less than {FIELD_LENGTH + 1} characters [json-pointer:{at}/fields]"
    if kind in ("actions", "context") and not block["elements"]:
        yield f"must have at least one element [json-pointer:{at}/elements]"
    rows = block["rows"] if kind == "table" else []
    if len(rows) > TABLE_ROWS or any(len(row) > TABLE_CELLS for row in rows):
        yield f"no more than {TABLE_ROWS} rows of {TABLE_CELLS} cells [json-pointer:{at}/rows]"
    for _, one in elements([block]):
        yield from element_problems(one, at)


def element_problems(element: Json, at: str) -> Iterator[str]:
    kind = element["type"]
    if kind == "button" and element.get("text", {}).get("type") != "plain_text":
        yield f"must be plain_text: text of a button [json-pointer:{at}]"
    if kind in ("checkboxes", "radio_buttons") and len(element.get("options", ())) > CHOICES:
        yield f"no more than {CHOICES} options allowed [json-pointer:{at}]"
    for one in (*element.get("options", ()), *(o for g in element.get("option_groups", ()) for o in g["options"])):
        if len(one["text"]["text"]) > OPTION_LENGTH or len(one["value"]) > OPTION_VALUE_LENGTH:
            yield f"no more than {OPTION_LENGTH} characters in an option [json-pointer:{at}]"
    initial, longest = element.get("initial_value"), element.get("max_length")
    if kind == "plain_text_input" and initial and longest and len(initial) > longest:
        yield f"initial_value is longer than max_length [json-pointer:{at}]"


def duplicates(blocks: Sequence[Json], at: str) -> list[str]:
    """Block ids are unique in a message, action ids in a block."""
    ids = [block["block_id"] for block in blocks if "block_id" in block]
    found = [f"`block_id` already exists: {one} [json-pointer:{at}]" for one in repeated(ids)]
    for number, block in enumerate(blocks):
        actions = [one["action_id"] for _, one in elements([block]) if "action_id" in one]
        found += [f"`action_id` already exists: {one} [json-pointer:{at}/{number}]" for one in repeated(actions)]
    return found


def repeated(values: Sequence[str]) -> list[str]:
    return sorted({one for one in values if values.count(one) > 1})


def length(posted: Any) -> int:
    """Characters of text in a tree of blocks."""
    if isinstance(posted, dict):
        own = sum(len(v) for k, v in posted.items() if k in ("text", "title") and isinstance(v, str))
        return own + sum(length(value) for value in posted.values())
    return sum(length(one) for one in posted) if isinstance(posted, list) else 0


def check_chunk(chunk: Json) -> None:
    """A streaming chunk; the length limit is per chunk, not of the whole message."""
    try:
        parsed = Chunk.parse(chunk)
        if parsed is None:
            raise Refusal("invalid_chunks", f"unsupported type: {chunk.get('type')}")
        unknown = set(chunk) - set(parsed.attributes) - {"type"}
    except (TypeError, AttributeError) as problem:
        raise Refusal("invalid_chunks", str(problem)) from None
    if unknown:
        raise Refusal("invalid_chunks", f"no additional properties allowed: {', '.join(sorted(unknown))}")
    match chunk["type"]:
        case "markdown_text" if len(chunk["text"]) > MARKDOWN_LENGTH:
            raise Refusal("msg_too_long")
        case "task_update" if chunk["status"] not in TASK_STATUSES:
            raise Refusal("invalid_chunks", "must be a valid enum value: status")
        case "blocks" if len(chunk["blocks"]) > MESSAGE_BLOCKS:
            raise Refusal("msg_blocks_too_many")
        case "blocks":
            check_blocks(chunk["blocks"])
        case "task_update" | "plan_update":
            for name in ("title", "details", "output"):
                if len(chunk.get(name) or "") > CHUNK_FIELD_LENGTH:
                    raise Refusal("invalid_chunks", f"no more than {CHUNK_FIELD_LENGTH} characters: {name}")


VIEW_KEYS = {"type", "title", "submit", "close", "blocks", "private_metadata", "callback_id", "external_id"}
VIEW_KEYS |= {"clear_on_close", "notify_on_close", "submit_disabled"}


def check_view(view: Any, kind: str) -> Json:
    """A modal or Home tab as an app may send it, else `invalid_arguments`."""
    if not isinstance(view, dict) or view.get("type") != kind:
        raise Refusal("invalid_arguments", f"must be of type {kind} [json-pointer:/view/type]")
    if len(json.dumps(view)) > VIEW_BYTES:
        raise Refusal("view_too_large")
    problems = [f"no additional properties allowed: {key} [json-pointer:/view]" for key in set(view) - VIEW_KEYS]
    needed = ("title", "blocks") if kind == "modal" else ("blocks",)
    problems += [f"missing required field: {key} [json-pointer:/view]" for key in needed if not view.get(key)]
    inputs = any(block.get("type") == "input" for block in view.get("blocks") or ())
    if kind == "modal" and inputs and not view.get("submit"):
        problems.append("missing required field: submit [json-pointer:/view]")
    for key in ("title", "submit", "close"):
        if key in view and view[key].get("type") != "plain_text":
            problems.append(f"must be plain_text [json-pointer:/view/{key}]")
    try:
        View(**view).to_dict()
        for number, block in enumerate(view.get("blocks") or ()):
            problems += block_problems(block, f"/view/blocks/{number}")
        problems = problems or duplicates(view["blocks"], "/view/blocks")
    except (SlackObjectFormationError, TypeError, AttributeError) as problem:
        problems.append(f"{problem} [json-pointer:/view]")
    if problems:
        raise Refusal("invalid_arguments", *problems)
    return view


def named(blocks: Sequence[Json], new_id: Callable[[], str]) -> list[Json]:
    """The blocks as Slack keeps them: every block and every interactive element has an id."""
    kept = copy.deepcopy(list(blocks))
    for block in kept:
        block.setdefault("block_id", new_id())
    for block, element in elements(kept):
        block.setdefault("block_id", new_id())
        element.setdefault("action_id", new_id())
    return kept


# What it looks like to a reader.

SPECIAL = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")
TYPED = re.compile(
    r"(?P<token><(?:@[UW]|#C|!subteam\^S)[A-Z0-9]+(?:\|[^<>]*)?>)"
    r"|(?P<url>https?://[^\s<>]+)"
    r"|(?P<mail>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"
    r"|(?P<tel>\+\d[\d -]{7,}\d)"
    r"|(?P<rest>[&<>])"
)
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def typed(text: str) -> str:
    """What an event carries of what a person typed: escaped, with links, addresses and phone numbers marked up."""

    def marked(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "url":
                return f"<{found[0].replace('&', '&amp;')}>"
            case "mail":
                return f"<mailto:{found[0]}|{found[0]}>"
            case "tel":
                return f"<tel:{re.sub(r'[ -]', '', found[0])}|{found[0]}>"
            case "rest":
                return ESCAPES[found[0]]
        return found[0]

    return TYPED.sub(marked, text)


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


class Reader:
    """Blocks to text, with names for ids."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def mrkdwn(self, text: str) -> str:
        return unescaped(SPECIAL.sub(self._special, text))

    def _special(self, found: re.Match[str]) -> str:
        target, label = found[1], found[2]
        if target.startswith("!subteam^"):
            return "@" + self.names.get(target.partition("^")[2], target)
        if target.startswith("!date^"):
            return str(label or target)
        if target[0] == "!":
            return "@" + target[1:]
        if target[0] in "@#":
            return target[0] + str(label or self.names.get(target[1:], target[1:]))
        return str(label or target)

    def text(self, one: Any) -> str:
        """A text object; a plain_text one is shown as it is."""
        if isinstance(one, str):
            return one
        if not one:
            return ""
        return self.mrkdwn(one["text"]) if one.get("type") == "mrkdwn" else str(one.get("text", ""))

    def blocks(self, blocks: Sequence[Json]) -> str:
        return "\n".join(line for block in blocks if (line := self.block(block)))

    def block(self, block: Json) -> str:
        match block["type"]:
            case "section":
                parts = [self.text(block.get("text")), *(self.text(one) for one in block.get("fields", ()))]
                parts.append(self.element(block["accessory"]) if block.get("accessory") else "")
                return "\n".join(part for part in parts if part)
            case "header" | "alert":
                return self.text(block["text"])
            case "markdown":
                return self.mrkdwn(block["text"])
            case "context" | "actions" | "context_actions":
                return " ".join(self.element(one) for one in block["elements"])
            case "input":
                return f"{self.text(block['label'])}: {self.element(block['element'])}"
            case "rich_text":
                return "\n".join(self.rich(one) for one in block["elements"])
            case "table":
                return "\n".join(" | ".join(self.cell(one) for one in row) for row in block["rows"])
            case "divider":
                return "---"
        return self._grouping(block)

    def _grouping(self, block: Json) -> str:
        own = [self.text(block.get(key)) for key in ("title", "subtitle", "body", "alt_text")]
        own += [self.block(block[key]) for key in ("rich_text_title", "details", "output") if block.get(key)]
        mark = f"[{block['status']}] " if block["type"] == "task_card" else ""
        inner = [{"type": "task_card", **one} for one in block.get("tasks", ())] + list(block.get("child_blocks", ()))
        inner += block.get("elements", ()) if block["type"] == "carousel" else ()
        buttons = " ".join(self.element(one) for one in block.get("actions") or ())
        return mark + "\n".join(part for part in (*own, self.blocks(inner), buttons) if part)

    def element(self, one: Json) -> str:
        match one["type"]:
            case "mrkdwn" | "plain_text":
                return self.text(one)
            case "image":
                return str(one.get("alt_text", ""))
            case "feedback_buttons":
                return " ".join(f"[{self.text(one[key]['text'])}]" for key in ("positive_button", "negative_button"))
            case "button" | "icon_button" | "workflow_button":
                return f"[{self.text(one.get('text'))}]"
        return str(one.get("initial_value") or self.text(one.get("placeholder")) or f"<{one['type']}>")

    def cell(self, one: Json) -> str:
        return self.block(one) if one["type"] == "rich_text" else str(one["text"])

    def rich(self, one: Json) -> str:
        match one["type"]:
            case "rich_text_list":
                return "\n".join(f"• {self.rich(item)}" for item in one["elements"])
            case "user":
                return f"@{self.names.get(one['user_id'], one['user_id'])}"
            case "usergroup":
                return f"@{self.names.get(one['usergroup_id'], one['usergroup_id'])}"
            case "channel":
                return f"#{self.names.get(one['channel_id'], one['channel_id'])}"
            case "broadcast":
                return "@" + str(one["range"])
            case "emoji":
                return f":{one['name']}:"
        if "elements" in one:
            return "".join(self.rich(item) for item in one["elements"])
        return str(one.get("text") or one.get("url") or one.get("fallback") or "")


# State.


@dataclass(frozen=True)
class Timing:
    """Seconds. Slack retries at once, after a minute and after five: only that is shortened here."""

    ack: float = 3.0
    retries: tuple[float, ...] = (0.0, 0.1, 0.5)
    trigger: float = 3.0
    response_url: float = 1_800.0
    session: float = 3_600.0
    thread_status: float = 120.0
    # Slack documents no lifetime of a stream. Users see about five minutes in all, some of them 30 seconds of silence
    # (slackapi/python-slack-sdk#1859).
    stream: float = 300.0
    stream_idle: float = 30.0
    disconnect: float = 10.0


@dataclass(frozen=True)
class App:
    """What the app may do and hears, by its manifest; without one, everything."""

    scopes: frozenset[str] | None = None
    events: frozenset[str] | None = None
    agent: bool = True
    home: bool = True
    interactive: bool = True

    @classmethod
    def of(cls, manifest: Json | None) -> "App":
        if manifest is None:
            return cls()
        features, settings = manifest.get("features", {}), manifest.get("settings", {})
        return cls(
            frozenset(manifest["oauth_config"]["scopes"]["bot"]),
            frozenset(settings.get("event_subscriptions", {}).get("bot_events", ())),
            "agent_view" in features,
            bool(features.get("app_home", {}).get("home_tab_enabled")),
            bool(settings.get("interactivity", {}).get("is_enabled")),
        )

    def hears(self, event: str) -> bool:
        return self.events is None or event in self.events


@dataclass
class User:
    id: str
    name: str
    team_id: str = TEAM
    tz: str = "America/Mexico_City"
    is_bot: bool = False
    deleted: bool = False


@dataclass
class Channel:
    id: str
    name: str
    kind: str
    members: set[str]
    archived: bool = False


@dataclass
class Stream:
    """`parts` are the chunks in order; a task is there once, as it was last updated."""

    started: float
    touched: float
    state: str = "streaming"
    mode: str = "timeline"
    recipient: str = ""
    parts: list[Json] = field(default_factory=list)


@dataclass
class Version:
    at: float
    text: str
    blocks: list[Json]


@dataclass
class Message:
    channel: str
    ts: str
    user: str
    text: str
    blocks: list[Json] = field(default_factory=list)
    thread_ts: str | None = None
    team: str = TEAM
    metadata: Json | None = None
    files: list[Json] = field(default_factory=list)
    client_msg_id: str | None = None
    edited: Json | None = None
    stream: Stream | None = None
    history: list[Version] = field(default_factory=list)

    def wire(self) -> Json:
        """As the API and events show it."""
        shown: Json = {"type": "message", "user": self.user, "ts": self.ts, "text": self.text, "team": self.team}
        if self.user == BOT_USER:
            shown |= {"bot_id": BOT, "app_id": APP, "bot_profile": {"id": BOT, "app_id": APP, "team_id": TEAM}}
        optional = ("thread_ts", "client_msg_id", "edited", "files", "blocks")
        shown |= {name: copy.deepcopy(getattr(self, name)) for name in optional if getattr(self, name)}
        return shown | ({"subtype": "file_share", "upload": False} if self.files else {})


@dataclass
class Ephemeral:
    channel: str
    ts: str
    user: str
    text: str
    blocks: list[Json]
    thread_ts: str | None


@dataclass
class Session:
    status: str
    since: float
    title: str = ""


@dataclass
class Trigger:
    user: str
    issued: float
    view: str | None = None
    used: bool = False


@dataclass
class ResponseUrl:
    channel: str
    ts: str
    user: str
    issued: float
    uses: int = 0


@dataclass
class Call:
    """One call of a method; `error` is "" when it went well, and None while it has no answer."""

    number: int
    at: float
    method: str
    arguments: Json
    token: str
    error: str | None = None
    status: int = 0


class Workspace:
    """The workspace where the app is installed: people, channels, messages, streams, views, sessions."""

    def __init__(self, manifest: Json | None = None, *, timing: Timing | None = None, echo: bool = True) -> None:
        self.app = App.of(manifest)
        self.timing = timing or Timing()
        self.echo = echo
        self.users: dict[str, User] = {BOT_USER: User(BOT_USER, "bot", is_bot=True)}
        self.channels: dict[str, Channel] = {}
        self.groups: dict[str, tuple[str, list[str]]] = {}
        self.posted: dict[tuple[str, str], Message] = {}
        self.whispers: list[Ephemeral] = []
        self.views: dict[str, Json] = {}
        self.stacks: dict[str, list[str]] = {}
        self.homes: dict[str, Json] = {}
        self.sessions: dict[tuple[str, str], Session] = {}
        self.statuses: dict[tuple[str, str], Session] = {}
        self.prompts: dict[tuple[str, str], list[Json]] = {}
        self.files: dict[str, tuple[Json, bytes]] = {}
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self.url = ""
        self._ahead = 0.0
        self._numbers = itertools.count(1)

    # Time and names.

    def now(self) -> float:
        return time.time() + self._ahead

    def tick(self, seconds: float) -> None:
        """Let time pass for lifetimes (streams, triggers, sessions, response URLs, rate limits)."""
        self._ahead += seconds

    def new_ts(self) -> str:
        return f"{int(self.now())}.{next(self._numbers):06d}"

    def new_id(self, prefix: str = "b") -> str:
        return f"{prefix}{next(self._numbers):07d}"

    def add_user(self, name: str, *, team: str = TEAM, **more: Any) -> str:
        user = User(self._fresh("U0", name, self.users), name, team, **more)
        self.users[user.id] = user
        return user.id

    def add_channel(self, name: str, members: Sequence[str], *, private: bool = False, bot: bool = True) -> str:
        kind = "group" if private else "channel"
        channel = Channel(self._fresh("C0", name, self.channels), name, kind, {*members})
        channel.members |= {BOT_USER} if bot else set()
        self.channels[channel.id] = channel
        return channel.id

    def add_group(self, name: str, members: Sequence[str]) -> str:
        id = self._fresh("S0", name, self.groups)
        self.groups[id] = (name, list(members))
        return id

    def _fresh(self, prefix: str, name: str, known: Mapping[str, Any]) -> str:
        """An id that can be told from its name, until two names look alike."""
        id = prefix + re.sub("[^A-Z0-9]", "", name.upper())
        return id if id not in known else self.new_id(id)

    def dm(self, user: str) -> str:
        """The conversation of a person with the app, opened when needed."""
        self.user(user)
        channel = Channel("D" + user[1:], "", "im", {user, BOT_USER})
        return self.channels.setdefault(channel.id, channel).id

    def names(self) -> dict[str, str]:
        groups = {key: name for key, (name, _) in self.groups.items()}
        people = {one.id: one.name for one in self.users.values()}
        return people | {one.id: one.name for one in self.channels.values()} | groups

    # Looking things up, with Slack's errors.

    def user(self, user: str) -> User:
        if user not in self.users:
            raise Refusal("user_not_found")
        return self.users[user]

    def channel(self, channel: str) -> Channel:
        if channel not in self.channels:
            raise Refusal("channel_not_found")
        return self.channels[channel]

    def writable(self, channel: str) -> Channel:
        """A channel the app may post in; a user's id stands for the conversation with that person."""
        found = self.channel(self.dm(channel) if channel in self.users else channel)
        if found.archived:
            raise Refusal("is_archived")
        if BOT_USER not in found.members:
            raise Refusal("not_in_channel")
        return found

    def root(self, channel: str, thread_ts: str | None, error: str = "thread_not_found") -> None:
        """Slack tells apps to use the parent's ts, never a reply's; here anything else is an error."""
        if thread_ts is None:
            return
        parent = self.posted.get((channel, thread_ts))
        if parent is None:
            raise Refusal(error)
        if parent.thread_ts not in (None, parent.ts):
            raise Refusal("cannot_reply_to_message")

    def own(self, channel: str, ts: str, error: str) -> Message:
        message = self.posted.get((self.channel(channel).id, ts))
        if message is None:
            raise Refusal("message_not_found")
        if message.user != BOT_USER:
            raise Refusal(error)
        return message

    def require(self, scope: str) -> None:
        if self.app.scopes is not None and scope not in self.app.scopes:
            raise Refusal("missing_scope", needed=scope, provided=",".join(sorted(self.app.scopes)))

    # What happens in it.

    def post(self, channel: str, user: str, text: str, **more: Any) -> Message:
        message = Message(channel, self.new_ts(), user, text, **more)
        self.posted[channel, message.ts] = message
        if message.thread_ts and user == BOT_USER:
            self.statuses.pop((channel, message.thread_ts), None)
        return message

    def rewrite(self, message: Message, text: str, blocks: list[Json]) -> Json:
        """The message as it was before."""
        before = message.wire()
        message.history.append(Version(self.now(), message.text, message.blocks))
        message.text, message.blocks = text, blocks
        return before

    def streaming(self, message: Message) -> bool:
        stream = message.stream
        if stream is None:
            return False
        over = self.now() - stream.started >= self.timing.stream or self.idle(stream)
        if stream.state == "streaming" and over:
            stream.state = "expired"
        return stream.state == "streaming"

    def idle(self, stream: Stream) -> bool:
        return self.now() - stream.touched >= self.timing.stream_idle

    def session(self, channel: str, thread_ts: str) -> Session | None:
        """A session left in `processing` falls back by itself after an hour."""
        found = self.sessions.get((channel, thread_ts))
        if found and found.status == "processing" and self.now() - found.since >= self.timing.session:
            found.status = "active"
        return found

    def session_status(self, channel: str, thread_ts: str) -> str:
        found = self.session(channel, thread_ts)
        return found.status if found else ""

    def set_session(self, channel: str, thread_ts: str, status: str, title: str = "") -> Session:
        if status not in SESSION_STATUSES:
            raise Refusal("invalid_arguments", "must be a valid enum value [json-pointer:/status]")
        known = self.sessions.get((channel, thread_ts))
        self.sessions[channel, thread_ts] = Session(status, self.now(), known.title if known else title)
        return self.sessions[channel, thread_ts]

    def thread_status(self, channel: str, thread_ts: str) -> str:
        found = self.statuses.get((channel, thread_ts))
        return found.status if found and self.now() - found.since < self.timing.thread_status else ""

    def new_trigger(self, user: str, view: str | None = None) -> str:
        made = f"{next(self._numbers)}.{int(self.now())}.{uuid.uuid4().hex}"
        self.triggers[made] = Trigger(user, self.now(), view)
        return made

    def exchange(self, trigger_id: str) -> Trigger:
        trigger = self.triggers.get(trigger_id)
        if trigger is None:
            raise Refusal("invalid_trigger_id")
        if trigger.used:
            raise Refusal("exchanged_trigger_id")
        if self.now() - trigger.issued >= self.timing.trigger:
            raise Refusal("expired_trigger_id")
        trigger.used = True
        return trigger

    def keep_view(self, view: Json, id: str, **more: Any) -> Json:
        """A view as Slack keeps it; a new hash each time."""
        known = {"callback_id": "", "private_metadata": "", "clear_on_close": False, "notify_on_close": False}
        who = {"id": id, "team_id": TEAM, "app_id": APP, "app_installed_team_id": TEAM, "bot_id": BOT}
        kept = known | view | who | {"root_view_id": id, "previous_view_id": None} | more
        kept |= {"blocks": named(view["blocks"], self.new_id), "hash": self.new_ts(), "state": {"values": {}}}
        return kept

    def same_hash(self, view: Json | None, given: str | None) -> None:
        if given is not None and (view is None or view["hash"] != given):
            raise Refusal("hash_conflict")

    def free_external_id(self, view: Json) -> None:
        taken = {one.get("external_id") for one in (*self.views.values(), *self.homes.values())} - {None, ""}
        if view.get("external_id") in taken:
            raise Refusal("duplicate_external_id")

    def heard(self, message: Message, before: Json | None = None) -> None:
        """The app's own posts and edits come back to it as events; what delivers them is a later step."""


# The Web API's methods.


@dataclass(frozen=True)
class Method:
    run: Callable[[Workspace, Json], Json]
    needs: tuple[str, ...]
    scope: str
    token: str


METHODS: dict[str, Method] = {}
Run = Callable[[Workspace, Json], Json]


def web_method(name: str, *needs: str, scope: str = "chat:write", token: str = "bot") -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        METHODS[name] = Method(run, needs, scope, token)
        return run

    return register


def content(w: Workspace, a: Json, longest: int) -> tuple[str, list[Json]]:
    """The text and the blocks of a post; `markdown_text` stands alone."""
    if a.get("markdown_text"):
        if a.get("text") or a.get("blocks"):
            raise Refusal("markdown_text_conflict")
        if len(a["markdown_text"]) > MARKDOWN_LENGTH:
            raise Refusal("msg_too_long")
        return a["markdown_text"], []
    text = a.get("text") or ""
    # Slack cuts a longer chat.postMessage without a word; here that is an error, since the words would be lost.
    if len(text) > longest:
        raise Refusal("msg_too_long")
    blocks = named(check_blocks(a.get("blocks") or []), w.new_id)
    if not text and not blocks:
        raise Refusal("no_text")
    return text, blocks


def metadata(a: Json) -> Json | None:
    given = a.get("metadata")
    if given and not (isinstance(given.get("event_type"), str) and isinstance(given.get("event_payload"), dict)):
        raise Refusal("invalid_metadata_format")
    return given or None


@web_method("chat.postMessage", "channel")
def post_message(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel"])
    w.root(channel.id, a.get("thread_ts"))
    text, blocks = content(w, a, POST_LENGTH)
    message = w.post(channel.id, BOT_USER, text, blocks=blocks, thread_ts=a.get("thread_ts"), metadata=metadata(a))
    w.heard(message)
    return {"channel": channel.id, "ts": message.ts, "message": message.wire()}


@web_method("chat.update", "channel", "ts")
def update(w: Workspace, a: Json) -> Json:
    message = w.own(a["channel"], a["ts"], "cant_update_message")
    if w.streaming(message):
        raise Refusal("streaming_state_conflict")
    text, blocks = content(w, a, UPDATE_LENGTH)
    # Blocks go when a text comes without any; a text stays when only blocks come.
    before = w.rewrite(message, text or message.text, blocks)
    message.stream = None
    message.metadata = metadata(a) if "metadata" in a else message.metadata
    message.edited = {"user": BOT_USER, "ts": w.new_ts()} if not blocks else message.edited
    w.heard(message, before)
    return {"channel": message.channel, "ts": message.ts, "text": message.text, "message": message.wire()}


@web_method("chat.delete", "channel", "ts")
def delete(w: Workspace, a: Json) -> Json:
    message = w.own(a["channel"], a["ts"], "cant_delete_message")
    if w.streaming(message):
        raise Refusal("cant_delete_message")
    del w.posted[message.channel, message.ts]
    return {"channel": message.channel, "ts": message.ts}


@web_method("chat.postEphemeral", "channel", "user")
def post_ephemeral(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel"])
    if a["user"] not in channel.members:
        raise Refusal("user_not_in_channel")
    w.root(channel.id, a.get("thread_ts"))
    text, blocks = content(w, a, POST_LENGTH)
    whisper = Ephemeral(channel.id, w.new_ts(), a["user"], text, blocks, a.get("thread_ts"))
    w.whispers.append(whisper)
    return {"message_ts": whisper.ts}


@web_method("chat.getPermalink", "channel", "message_ts", scope="")
def get_permalink(w: Workspace, a: Json) -> Json:
    message = w.posted.get((w.channel(a["channel"]).id, a["message_ts"]))
    if message is None:
        raise Refusal("message_not_found")
    link = f"https://{DOMAIN}.slack.com/archives/{message.channel}/p{message.ts.replace('.', '')}"
    if message.thread_ts:
        link += f"?thread_ts={message.thread_ts}&cid={message.channel}"
    return {"channel": message.channel, "permalink": link}


def chunks(a: Json) -> list[Json]:
    given = list(a.get("chunks") or [])
    if a.get("markdown_text"):
        if given:
            raise Refusal("invalid_arguments", "markdown_text and chunks exclude each other")
        given = [{"type": "markdown_text", "text": a["markdown_text"]}]
    for chunk in given:
        check_chunk(chunk)
    return given


def stream_on(w: Workspace, message: Message, new: Sequence[Json]) -> None:
    """Tasks and the plan's title are replaced in place, save that a task's details grow; text goes to the end."""
    assert message.stream is not None
    parts = message.stream.parts
    for chunk in new:
        kind = chunk["type"]
        same = [part for part in parts if part["type"] == kind and part.get("id") == chunk.get("id")]
        if kind == "markdown_text" and parts and parts[-1]["type"] == kind:
            parts[-1]["text"] += chunk["text"]
        elif kind in ("task_update", "plan_update") and same:
            details = (same[0].get("details") or "") + (chunk.get("details") or "")
            same[0].update(chunk | ({"details": details} if details else {}))
        else:
            parts.append(dict(chunk))
    message.stream.touched = w.now()
    message.text = "".join(part["text"] for part in parts if part["type"] == "markdown_text")


def streamed(w: Workspace, a: Json, *, stopped: str) -> Message:
    """The app's message while it streams; `stopped` is the error after a person pressed stop."""
    message = w.own(w.writable(a["channel"]).id, a["ts"], "message_not_owned_by_app")
    if not w.streaming(message):
        by_user = message.stream is not None and message.stream.state == "stopped_by_user"
        raise Refusal(stopped if by_user else "message_not_in_streaming_state")
    return message


@web_method("chat.startStream", "channel")
def start_stream(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel"])
    if channel.kind == "im" and not a.get("thread_ts"):
        raise Refusal("invalid_arguments", "missing required field: thread_ts")
    w.root(channel.id, a.get("thread_ts"))
    # Documented as needed in channels only; bot tokens were seen to need both in direct messages too.
    for name in ("recipient_team_id", "recipient_user_id"):
        if not a.get(name):
            raise Refusal(f"missing_{name}")
    w.user(a["recipient_user_id"])
    if a.get("task_display_mode", "timeline") not in ("timeline", "plan", "dense"):
        raise Refusal("invalid_arguments", "must be a valid enum value [json-pointer:/task_display_mode]")
    given = chunks(a)
    stream = Stream(w.now(), w.now(), mode=a.get("task_display_mode", "timeline"), recipient=a["recipient_user_id"])
    message = w.post(channel.id, BOT_USER, "", thread_ts=a.get("thread_ts"), stream=stream)
    stream_on(w, message, given)
    w.set_session(channel.id, message.thread_ts or message.ts, "processing")
    w.heard(message)
    return {"channel": channel.id, "ts": message.ts}


@web_method("chat.appendStream", "channel", "ts")
def append_stream(w: Workspace, a: Json) -> Json:
    message = streamed(w, a, stopped="stopped_by_user")
    given = chunks(a)
    if not given:
        raise Refusal("no_text")
    stream_on(w, message, given)
    return {"channel": message.channel, "ts": message.ts}


@web_method("chat.stopStream", "channel", "ts")
def stop_stream(w: Workspace, a: Json) -> Json:
    message = streamed(w, a, stopped="message_not_in_streaming_state")
    assert message.stream is not None
    given, blocks, about = chunks(a), check_blocks(a.get("blocks") or []), metadata(a)
    status = a.get("session_status") or "active"
    if status not in SESSION_STATUSES:
        raise Refusal("invalid_arguments", "must be a valid enum value [json-pointer:/session_status]")
    before = message.wire()
    stream_on(w, message, given)
    message.blocks, message.metadata, message.stream.state = named(blocks, w.new_id), about, "stopped"
    w.set_session(message.channel, message.thread_ts or message.ts, status)
    w.heard(message, before)
    return {"channel": message.channel, "ts": message.ts, "message": message.wire()}


def of_agent(w: Workspace, a: Json) -> Channel:
    if not w.app.agent:
        raise Refusal("not_authorized")
    if not a.get("thread_ts"):
        raise Refusal("invalid_arguments", "missing required field: thread_ts")
    channel = w.writable(a["channel_id"])
    w.root(channel.id, a["thread_ts"], "invalid_thread_ts")
    return channel


@web_method("agents.sessions.setStatus", "channel_id", "status")
def set_session_status(w: Workspace, a: Json) -> Json:
    channel = of_agent(w, a)
    if len(a.get("title") or "") > SESSION_TITLE_LENGTH:
        raise Refusal("invalid_arguments", f"must be less than {SESSION_TITLE_LENGTH + 1} characters: title")
    session = w.set_session(channel.id, a["thread_ts"], a["status"], a.get("title") or "")
    warning = "missing_agent_session_stopped_event_subscription"
    told = {} if w.app.hears("agent_session_stopped") else {"response_metadata": {"warnings": [warning]}}
    return {"status": session.status, "agent_status": session.status, "title": session.title, **told}


@web_method("agents.sessions.rename", "channel_id", "title")
def rename_session(w: Workspace, a: Json) -> Json:
    channel = of_agent(w, a)
    session = w.session(channel.id, a["thread_ts"])
    if session is None:
        raise Refusal("session_not_found")
    if len(a["title"]) > SESSION_TITLE_LENGTH:
        raise Refusal("invalid_arguments", f"must be less than {SESSION_TITLE_LENGTH + 1} characters: title")
    session.title = a["title"]
    return {"title": session.title}


@web_method("assistant.threads.setStatus", "channel_id", "thread_ts", "status")
def set_thread_status(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel_id"])
    w.root(channel.id, a["thread_ts"], "invalid_thread_ts")
    if len(a.get("loading_messages") or ()) > LOADING_MESSAGES:
        raise Refusal("invalid_arguments", f"no more than {LOADING_MESSAGES} items allowed: loading_messages")
    w.statuses[channel.id, a["thread_ts"]] = Session(a["status"], w.now())
    return {}


@web_method("assistant.threads.setTitle", "channel_id", "thread_ts", "title")
def set_thread_title(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel_id"])
    w.root(channel.id, a["thread_ts"], "invalid_thread_ts")
    return {}


@web_method("assistant.threads.setSuggestedPrompts", "channel_id", "prompts")
def set_suggested_prompts(w: Workspace, a: Json) -> Json:
    channel = w.writable(a["channel_id"])
    w.root(channel.id, a.get("thread_ts"), "invalid_thread_ts")
    given = a["prompts"]
    if len(given) > PROMPTS or not all(isinstance(p, dict) and p.get("title") and p.get("message") for p in given):
        raise Refusal("invalid_arguments", f"up to {PROMPTS} prompts, each with a title and a message")
    w.prompts[channel.id, a.get("thread_ts") or ""] = given
    return {}


@web_method("views.open", "trigger_id", "view", scope="")
def open_view(w: Workspace, a: Json) -> Json:
    view = check_view(a["view"], "modal")
    w.free_external_id(view)
    trigger = w.exchange(a["trigger_id"])
    kept = w.keep_view(view, w.new_id("V"))
    w.views[kept["id"]] = kept
    w.stacks[trigger.user] = [kept["id"]]
    return {"view": kept}


def stack_view(w: Workspace, user: str, view: Json) -> Json:
    """On top of the person's open modals, of which there may be three."""
    stack = w.stacks.get(user, [])
    if not stack:
        raise Refusal("not_found")
    if len(stack) >= STACKED_VIEWS:
        raise Refusal("push_limit_reached")
    kept = w.keep_view(view, w.new_id("V"), root_view_id=stack[0], previous_view_id=stack[-1])
    w.views[kept["id"]] = kept
    stack.append(kept["id"])
    return kept


@web_method("views.push", "trigger_id", "view", scope="")
def push_view(w: Workspace, a: Json) -> Json:
    view = check_view(a["view"], "modal")
    w.free_external_id(view)
    return {"view": stack_view(w, w.exchange(a["trigger_id"]).user, view)}


def renew_view(w: Workspace, known: Json, view: Json) -> Json:
    about = {"root_view_id": known["root_view_id"], "previous_view_id": known["previous_view_id"]}
    w.views[known["id"]] = w.keep_view(view, known["id"], **about)
    return w.views[known["id"]]


@web_method("views.update", "view", scope="")
def update_view(w: Workspace, a: Json) -> Json:
    view = check_view(a["view"], "modal")
    by_external = [
        one for one in w.views.values() if a.get("external_id") and one.get("external_id") == a["external_id"]
    ]
    known = w.views.get(a.get("view_id") or "") or (by_external[0] if by_external else None)
    if known is None:
        raise Refusal("not_found")
    w.same_hash(known, a.get("hash"))
    return {"view": renew_view(w, known, view)}


@web_method("views.publish", "user_id", "view", scope="")
def publish_view(w: Workspace, a: Json) -> Json:
    if not w.app.home:
        raise Refusal("not_enabled")
    user, view = w.user(a["user_id"]).id, check_view(a["view"], "home")
    w.same_hash(w.homes.get(user), a.get("hash"))
    w.homes[user] = w.keep_view(view, w.homes[user]["id"] if user in w.homes else w.new_id("V"))
    return {"view": w.homes[user]}


@web_method("conversations.replies", "channel", "ts", scope="")
def replies(w: Workspace, a: Json) -> Json:
    channel = w.channel(a["channel"])
    w.require(SCOPE_PREFIX[channel.kind] + ":history")
    asked = w.posted.get((channel.id, a["ts"]))
    if asked is None:
        raise Refusal("thread_not_found")
    root = asked.thread_ts or asked.ts
    thread = [m for m in w.posted.values() if m.channel == channel.id and root in (m.ts, m.thread_ts)]
    with_metadata = str(a.get("include_all_metadata")) in ("1", "True", "true")
    shown = [m.wire() | ({"metadata": m.metadata} if m.metadata and with_metadata else {}) for m in thread]
    return page(shown, a)


@web_method("conversations.history", "channel", scope="")
def history(w: Workspace, a: Json) -> Json:
    channel = w.channel(a["channel"])
    w.require(SCOPE_PREFIX[channel.kind] + ":history")
    top = [m for m in w.posted.values() if m.channel == channel.id and m.thread_ts in (None, m.ts)]
    return page([m.wire() for m in reversed(top)], a)


def page(messages: list[Json], a: Json) -> Json:
    start, size = int(a.get("cursor") or 0), int(a.get("limit") or 1_000)
    more = start + size < len(messages)
    cursor = {"response_metadata": {"next_cursor": str(start + size)}} if more else {}
    return {"messages": messages[start : start + size], "has_more": more, **cursor}


@web_method("conversations.info", "channel", scope="")
def conversation_info(w: Workspace, a: Json) -> Json:
    channel = w.channel(a["channel"])
    w.require(SCOPE_PREFIX[channel.kind] + ":read")
    return {"channel": conversation(channel)}


def conversation(channel: Channel) -> Json:
    kinds = {f"is_{kind}": channel.kind == kind for kind in SCOPE_PREFIX}
    shown = {"id": channel.id, **kinds, "is_private": channel.kind != "channel", "is_archived": channel.archived}
    if channel.kind == "im":
        return shown | {"user": next(iter(channel.members - {BOT_USER}))}
    return shown | {"name": channel.name, "is_member": BOT_USER in channel.members}


@web_method("conversations.open", scope="im:write")
def open_conversation(w: Workspace, a: Json) -> Json:
    if a.get("channel"):
        return {"channel": {"id": w.channel(a["channel"]).id}}
    users = [one for one in str(a.get("users") or "").split(",") if one]
    if not users:
        raise Refusal("users_list_not_supplied")
    if len(users) > 1:
        raise Refusal("too_many_users")
    return {"channel": {"id": w.dm(users[0])}}


@web_method("users.info", "user", scope="users:read")
def user_info(w: Workspace, a: Json) -> Json:
    user = w.user(a["user"])
    profile = {"real_name": user.name.title(), "display_name": user.name}
    shown = {"id": user.id, "team_id": user.team_id, "name": user.name, "real_name": user.name.title()}
    return {"user": shown | {"tz": user.tz, "is_bot": user.is_bot, "deleted": user.deleted, "profile": profile}}


@web_method("usergroups.users.list", "usergroup", scope="usergroups:read")
def group_users(w: Workspace, a: Json) -> Json:
    if a["usergroup"] not in w.groups:
        raise Refusal("no_such_subteam")
    return {"users": list(w.groups[a["usergroup"]][1])}


@web_method("usergroups.list", scope="usergroups:read")
def group_list(w: Workspace, _: Json) -> Json:
    return {"usergroups": [{"id": key, "handle": name, "team_id": TEAM} for key, (name, _) in w.groups.items()]}


@web_method("files.info", "file", scope="files:read")
def file_info(w: Workspace, a: Json) -> Json:
    if a["file"] not in w.files:
        raise Refusal("file_not_found")
    return {"file": w.files[a["file"]][0]}


@web_method("auth.test", scope="")
def auth_test(_: Workspace, __: Json) -> Json:
    who = {"team": "Equipo ficticio", "user": "bot", "team_id": TEAM, "user_id": BOT_USER, "bot_id": BOT}
    return {"url": f"https://{DOMAIN}.slack.com/", **who, "is_enterprise_install": False}


# Events to the app.


@dataclass(frozen=True)
class Wire:
    """How a delivery is signed, and from where it comes; the default is Slack itself, from the app's workspace.

    `age` in seconds dates the signature back (up to five minutes that is only a slow network), `secret` signs with
    another one, `tampered` changes the body after it was signed, `team` is another workspace that has the app too.
    """

    age: float = 0.0
    secret: str | None = None
    signed: bool = True
    tampered: bool = False
    team: str | None = None

    @property
    def forged(self) -> bool:
        return bool(abs(self.age) > SIGNATURE_AGE or self.secret or self.tampered or not self.signed)

    def headers(self, body: bytes) -> dict[str, str]:
        if not self.signed:
            return {}
        stamp = str(int(time.time() - self.age))
        digest = hmac.new((self.secret or SIGNING_SECRET).encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256)
        return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={digest.hexdigest()}"}


SLACK = Wire()


@dataclass
class Attempt:
    """`retry` is 0 for the first; `why` is Slack's reason word when it failed."""

    at: float
    to: str
    retry: int
    status: int | None = None
    seconds: float = 0.0
    why: str = ""


@dataclass
class Delivery:
    """One event or interaction on its way. `state` is pending, acked or lost (Slack gave up); `answer` is the ack's."""

    id: str
    kind: str
    payload: Json
    wire: Wire = SLACK
    attempts: list[Attempt] = field(default_factory=list)
    state: str = "pending"
    answer: Any = None
    done: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def end(self, state: str, answer: Any = None) -> None:
        self.state, self.answer = state, answer
        self.done.set()

    @property
    def statuses(self) -> list[int | None]:
        return [one.status for one in self.attempts]


@dataclass(eq=False)
class Link:
    """One Socket Mode connection. A stale one stays open and is deaf and dumb."""

    id: str
    socket: web.WebSocketResponse = field(repr=False)
    transport: asyncio.BaseTransport | None = field(repr=False)
    stale: bool = False
    draining: bool = False
    pings: int = 0
    pongs: int = 0
    waiting: dict[str, "asyncio.Future[Any]"] = field(default_factory=dict, repr=False)


class Delivering(Workspace):
    """Sends events and interactions to the app: to its URLs when it has any, else over its sockets."""

    def __init__(self, manifest: Json | None = None, *, urls: Sequence[str] = (), **more: Any) -> None:
        super().__init__(manifest, **more)
        self.urls = list(urls)
        self.links: list[Link] = []
        self.deliveries: list[Delivery] = []
        self.stray_acks: list[str] = []
        self._tickets: set[str] = set()
        self._turn = itertools.count()
        self._joined = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    def point(self, *urls: str) -> None:
        """The app's Request URLs (replicas, used in turn); none means Socket Mode."""
        self.urls = list(urls)

    async def challenge(self) -> bool:
        """Slack's check of a Request URL: a signed `url_verification` whose challenge comes back."""
        asked = uuid.uuid4().hex
        payload = {"type": "url_verification", "token": "fake-verification", "challenge": asked}
        delivery = Delivery("url_verification", "events_api", payload)
        attempt, answer = await self._request(delivery, Attempt(self.now(), self.urls[0], 0), "")
        return not attempt.why and asked in (answer, answer.get("challenge") if isinstance(answer, dict) else None)

    def event(self, event: Json, *, team: str | None = None, shared: bool = False) -> Json:
        """An `event_callback`."""
        to: Json = {"enterprise_id": None, "team_id": team or TEAM, "user_id": BOT_USER, "is_bot": True}
        outer: Json = {"token": "fake-verification", "team_id": team or TEAM, "context_team_id": team or TEAM}
        outer |= {"context_enterprise_id": None, "api_app_id": APP, "event": event, "type": "event_callback"}
        outer |= {"event_id": self.new_id("Ev"), "event_time": int(self.now())}
        outer |= {"authorizations": [to | {"is_enterprise_install": False}], "is_ext_shared_channel": shared}
        return outer | {"event_context": f"4-{uuid.uuid4().hex}"}

    def emit(
        self, name: str, event: Json, wire: Wire = SLACK, *, shared: bool = False, times: int = 1
    ) -> list[Delivery]:
        """To the app, if it subscribed; `times` sends the same event that often, at once."""
        if not self.app.hears(name):
            return []
        payload = self.event(event, team=wire.team, shared=shared)
        first = self.deliver(Delivery(payload["event_id"], "events_api", payload, wire))
        return [first, *(self.redeliver(first) for _ in range(times - 1))]

    def redeliver(self, delivery: "Delivery | str") -> Delivery:
        """The same event once more, as Slack does when it believes that the first was lost."""
        known = delivery
        if isinstance(known, str):
            known = next(one for one in self.deliveries if one.id == delivery)
        again = Delivery(known.id, known.kind, known.payload, known.wire)
        return self.deliver(again, first=1, why="http_timeout")

    def deliver(self, delivery: Delivery, *, first: int = 0, why: str = "") -> Delivery:
        if not self.urls and delivery.wire.forged:
            raise NotPossible("nobody can forge what comes over Slack's own socket")
        self.deliveries.append(delivery)
        over = self._over_http if self.urls else self._over_sockets
        task = asyncio.ensure_future(over(delivery, first, why))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return delivery

    def heard(self, message: Message, before: Json | None = None) -> None:
        if not self.echo:
            return
        channel = self.channels[message.channel]
        where = {"channel": channel.id, "channel_type": channel.kind, "event_ts": message.ts}
        shown = message.wire()
        if before is not None:
            changed = {"message": shown, "previous_message": before, "hidden": True, "ts": self.new_ts()}
            shown = {"type": "message", "subtype": "message_changed", **changed}
        self.emit(f"message.{SCOPE_PREFIX[channel.kind]}", shown | where)

    def _delays(self, delivery: Delivery) -> tuple[float, ...]:
        """Before each attempt. Interactions come once: the person sees that it failed, and a forger doesn't insist."""
        again = delivery.kind == "events_api" and not delivery.wire.forged
        return (0.0, *(self.timing.retries if again else ()))

    async def _over_http(self, delivery: Delivery, first: int, why: str) -> None:
        for number, delay in enumerate(self._delays(delivery), first):
            await asyncio.sleep(delay)
            url = self.urls[next(self._turn) % len(self.urls)]
            attempt = Attempt(self.now(), url, number)
            delivery.attempts.append(attempt)
            attempt, answer = await self._request(delivery, attempt, why)
            why = attempt.why
            if not why:
                return delivery.end("acked", answer)
            if answer == "no retry":
                break
        return delivery.end("lost")

    async def _request(self, delivery: Delivery, attempt: Attempt, why: str) -> tuple[Attempt, Any]:
        raw = json.dumps(delivery.payload)
        form = delivery.kind == "interactive"
        body = (f"payload={quote(raw)}" if form else raw).encode()
        kind = "application/x-www-form-urlencoded" if form else "application/json"
        retry = {"X-Slack-Retry-Num": str(attempt.retry), "X-Slack-Retry-Reason": why} if attempt.retry else {}
        headers = {"Content-Type": kind, "User-Agent": "Slackbot 1.0"} | retry | delivery.wire.headers(body)
        body += b" " if delivery.wire.tampered else b""
        assert self._http is not None
        started = time.perf_counter()
        limit = aiohttp.ClientTimeout(total=self.timing.ack)
        answer: Any = None
        try:
            async with self._http.post(attempt.to, data=body, headers=headers, timeout=limit) as response:
                text = await response.text()
                attempt.status = response.status
                attempt.why = "" if 200 <= response.status < 300 else "http_error"
                answer = json.loads(text) if text.startswith("{") else text
                if attempt.why:
                    answer = "no retry" if response.headers.get("X-Slack-No-Retry") == "1" else text
        except TimeoutError:
            attempt.why = "http_timeout"
        except aiohttp.ClientError:
            attempt.why = "connection_failed"
        attempt.seconds = time.perf_counter() - started
        return attempt, answer

    # Socket Mode.

    def new_socket_url(self) -> str:
        ticket = uuid.uuid4().hex
        self._tickets.add(ticket)
        return f"{self.url.replace('http', 'ws', 1)}/link/?ticket={ticket}&app_id={APP}"

    async def _over_sockets(self, delivery: Delivery, first: int, why: str) -> None:
        last: Link | None = None
        for number, delay in enumerate(self._delays(delivery), first):
            await self._pause(delay)
            link = self._pick(last)
            while link is None and delivery.kind == "events_api":
                await self._joined.wait()
                link = self._pick(last)
            if link is None:
                break
            attempt = Attempt(self.now(), link.id, number)
            delivery.attempts.append(attempt)
            answer = await self._envelope(link, delivery, attempt, why)
            why, last = attempt.why, link
            if not why:
                return delivery.end("acked", answer)
        return delivery.end("lost")

    async def _pause(self, seconds: float) -> None:
        """Until the time is over, or a new connection is there to take what is due."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._joined.wait(), seconds)

    def _pick(self, last: Link | None) -> Link | None:
        usable = [link for link in self.links if not link.draining]
        others = [link for link in usable if link is not last] or usable
        return others[next(self._turn) % len(others)] if others else None

    async def _envelope(self, link: Link, delivery: Delivery, attempt: Attempt, why: str) -> Any:
        envelope = str(uuid.uuid4())
        sent: Json = {"envelope_id": envelope, "type": delivery.kind, "payload": delivery.payload}
        sent["accepts_response_payload"] = delivery.kind != "events_api"
        if delivery.kind == "events_api":
            sent |= {"retry_attempt": attempt.retry, "retry_reason": why}
        started = time.perf_counter()
        link.waiting[envelope] = asyncio.get_running_loop().create_future()
        try:
            if not link.stale:
                await link.socket.send_json(sent)
            return await asyncio.wait_for(link.waiting[envelope], self.timing.ack)
        except (TimeoutError, ConnectionError):
            attempt.why = "timeout"
        finally:
            del link.waiting[envelope]
            attempt.seconds = time.perf_counter() - started
        return None

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=403)
        self._tickets.discard(ticket)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        if len(self.links) >= CONNECTIONS:
            await socket.send_json({"type": "disconnect", "reason": "too_many_websockets"})
            await socket.close()
            return socket
        link = Link(self.new_id("link"), socket, request.transport)
        self.links.append(link)
        try:
            await socket.send_json(self._hello())
            self._joined.set()
            self._joined = asyncio.Event()
            async for message in socket:
                await self._received(link, message)
        finally:
            self.links.remove(link)
            for future in link.waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError())
        return socket

    def _hello(self) -> Json:
        debug = {"host": "applink-fake", "build_number": 1, "approximate_connection_time": 18_060}
        about = {"num_connections": len(self.links), "connection_info": {"app_id": APP}}
        return {"type": "hello", "debug_info": debug, **about}

    async def _received(self, link: Link, message: aiohttp.WSMessage) -> None:
        if link.stale:
            return
        if message.type == aiohttp.WSMsgType.PING:
            link.pings += 1
            await link.socket.pong(message.data)
        elif message.type == aiohttp.WSMsgType.PONG:
            link.pongs += 1
        elif message.type == aiohttp.WSMsgType.TEXT and message.data.startswith("{"):
            ack = json.loads(message.data)
            # The client answers over its newest connection, which needn't be the one that brought the envelope.
            waiting = [one.waiting for one in self.links if ack.get("envelope_id") in one.waiting]
            if waiting and not waiting[0][ack["envelope_id"]].done():
                waiting[0][ack["envelope_id"]].set_result(ack.get("payload"))
            else:
                self.stray_acks.append(str(ack.get("envelope_id")))

    async def ping(self) -> None:
        """Slack's own ping, over every connection."""
        for link in self.links:
            if not link.stale:
                await link.socket.ping(b"Ping from applink-fake")

    def stale(self, link: str | None = None) -> list[str]:
        """From now on these connections stay open and say and hear nothing: a half-open network."""
        chosen = [one for one in self.links if link in (None, one.id)]
        for one in chosen:
            one.stale = True
        return [one.id for one in chosen]

    async def disconnect(self, reason: str = "refresh_requested", link: str | None = None) -> None:
        """Slack's notice that it is about to close. After a `warning` envelopes still come, for some seconds."""
        for one in [one for one in self.links if link in (None, one.id)]:
            one.draining = reason != "warning"
            await one.socket.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-fake"}})
            asyncio.get_running_loop().call_later(self.timing.disconnect, self._cut, one)

    def cut(self, link: str | None = None) -> None:
        """The network goes away: no close frame, no notice."""
        for one in [one for one in self.links if link in (None, one.id)]:
            self._cut(one)

    def _cut(self, link: Link) -> None:
        if link.transport is not None:
            link.transport.abort()  # type: ignore[attr-defined]


# People, and what tests ask.


@dataclass
class Said:
    ts: str
    channel: str
    thread_ts: str
    deliveries: list[Delivery]


@dataclass
class Button:
    action_id: str
    block_id: str
    label: str
    value: str
    style: str
    dialog: Json | None
    element: Json = field(repr=False)


@dataclass
class Submitted:
    """`outcome`: closed, errors, updated, pushed, cleared, or failed (no answer in time, or one Slack can't use)."""

    outcome: str
    errors: dict[str, str]
    delivery: Delivery


class Peopled(Delivering):
    """People do what Slack's client lets them do, and no more: else `NotPossible`."""

    # They write.

    async def say(
        self,
        user: str,
        text: str,
        channel: str | None = None,
        thread_ts: str | None = None,
        *,
        files: Sequence[tuple[str, str]] = (),
        times: int = 1,
        wire: Wire = SLACK,
        wait: bool = True,
    ) -> Said:
        """To the app directly, or in a channel; `files` are names and contents. Waits until each event is acked or
        lost, unless told not to."""
        where = self.channels[channel or self.dm(user)]
        if user not in where.members:
            raise NotPossible(f"{user} is not in {where.id}")
        if thread_ts is not None and (where.id, thread_ts) not in self.posted:
            raise NotPossible(f"no thread {thread_ts} in {where.id}")
        message = Message(
            where.id, self.new_ts(), user, typed(text), thread_ts=thread_ts, client_msg_id=str(uuid.uuid4())
        )
        message.team = wire.team or self.users[user].team_id
        message.blocks = [] if files else [rich_text(message.text, self.new_id())]
        message.files = [self._upload(user, name, body) for name, body in files]
        if not wire.forged and not wire.team:
            self.posted[where.id, message.ts] = message
        sent = self._about(message, where, wire, times)
        if wait:
            await asyncio.gather(*(one.done.wait() for one in sent))
        return Said(message.ts, where.id, thread_ts or message.ts, sent)

    def _about(self, message: Message, where: Channel, wire: Wire, times: int) -> list[Delivery]:
        """A mention is two events with ids of their own; one message, one ts."""
        if BOT_USER not in where.members:
            return []
        foreign = message.team != TEAM and not wire.team
        event = message.wire() | {"channel": where.id, "event_ts": message.ts}
        if message.thread_ts:
            event["parent_user_id"] = self.posted[where.id, message.thread_ts].user
        event |= {"user_team": message.team, "source_team": message.team} if foreign else {}
        name = f"message.{SCOPE_PREFIX[where.kind]}"
        sent = self.emit(name, event | {"channel_type": where.kind}, wire, shared=foreign, times=times)
        if where.kind != "im" and f"<@{BOT_USER}>" in message.text:
            mention = {key: value for key, value in event.items() if key not in ("subtype", "upload")}
            mention["type"] = "app_mention"
            sent += self.emit("app_mention", mention, wire, shared=foreign, times=times)
        return sent

    def _upload(self, user: str, name: str, body: str) -> Json:
        kind = name.rpartition(".")[2]
        id, size = self.new_id("F"), len(body.encode())
        url = f"{self.url}/files/{id}/{quote(name)}"
        about: Json = {
            "id": id,
            "name": name,
            "title": name,
            "filetype": kind,
            "mimetype": f"text/{kind}",
            "mode": "hosted",
        }
        about |= {
            "created": int(self.now()),
            "timestamp": int(self.now()),
            "user": user,
            "user_team": TEAM,
            "size": size,
        }
        about |= {"is_external": False, "is_public": False, "url_private": url, "url_private_download": url}
        self.files[id] = (about, body.encode())
        return about

    async def edit(self, user: str, ts: str, text: str, *, wait: bool = True) -> list[Delivery]:
        """A person changes a message of theirs."""
        message = self.message(ts)
        if message.user != user:
            raise NotPossible(f"{ts} is not a message of {user}")
        before = self.rewrite(message, typed(text), [rich_text(typed(text), self.new_id())])
        message.edited = {"user": user, "ts": self.new_ts()}
        where = self.channels[message.channel]
        event: Json = {
            "type": "message",
            "subtype": "message_changed",
            "message": message.wire(),
            "previous_message": before,
        }
        event |= {"channel": where.id, "hidden": True, "ts": self.new_ts(), "event_ts": self.new_ts()}
        sent = self.emit(f"message.{SCOPE_PREFIX[where.kind]}", event | {"channel_type": where.kind})
        if wait:
            await asyncio.gather(*(one.done.wait() for one in sent))
        return sent

    # They click.

    async def click(
        self,
        user: str,
        on: str,
        action_id: str,
        *,
        block_id: str | None = None,
        choice: str | None = None,
        dialog: bool | None = None,
        times: int = 1,
        wire: Wire = SLACK,
        wait: bool = True,
    ) -> list[Delivery]:
        """On a message (its ts) or a view (its id), as it is now.

        `dialog` says what the person answers to a confirm dialog and must be given exactly where there is one.
        `times=2` is a double click: both leave before the app can take the button away. `choice` is the value of an
        option.
        """
        if not self.app.interactive:
            raise NotPossible("the app has no interactivity: Slack shows a warning sign")
        surface = self._surface(user, on)
        block, element = self._find(user, surface["blocks"], action_id, block_id)
        if (element.get("confirm") is None) != (dialog is None):
            raise NotPossible(f"{action_id}: {'no' if dialog is not None else 'a'} confirm dialog: {element}")
        if dialog is False:
            return []
        made = [self._block_action(user, on, block, element, choice, wire) for _ in range(times)]
        sent = [self.deliver(Delivery(one["trigger_id"], "interactive", one, wire)) for one in made]
        if wait:
            await asyncio.gather(*(one.done.wait() for one in sent))
        return sent

    def _surface(self, user: str, on: str) -> Json:
        """The message, ephemeral or view; only what this person can see."""
        if on in self.views or any(home["id"] == on for home in self.homes.values()):
            seen = [self.views[one] for one in self.stacks.get(user, ())] + [self.homes.get(user, {})]
            shown = [view for view in seen if view.get("id") == on]
        else:
            shown = [w.__dict__ for w in self.whispers if w.ts == on and w.user == user]
            shown += [
                m.__dict__ for m in self.posted.values() if m.ts == on and user in self.channels[m.channel].members
            ]
        if not shown:
            raise NotPossible(f"{user} sees no {on}")
        return shown[0]

    def _find(self, user: str, blocks: list[Json], action_id: str, block_id: str | None) -> tuple[Json, Json]:
        found = [
            (block, element)
            for block, element in elements(blocks)
            if element["action_id"] == action_id
            and block_id in (None, block["block_id"])
            and user in (element.get("visible_to_user_ids") or [user])
        ]
        if len(found) != 1:
            there = [element["action_id"] for _, element in elements(blocks)]
            raise NotPossible(f"{len(found)} elements {action_id} for {user}; there are {there}")
        return found[0]

    def _block_action(self, user: str, on: str, block: Json, element: Json, choice: str | None, wire: Wire) -> Json:
        action: Json = {key: element[key] for key in ("action_id", "type", "text", "value", "style") if key in element}
        action |= {"block_id": block["block_id"], "action_ts": self.new_ts(), **chosen(element, choice)}
        payload = {"type": "block_actions", **self._actor(user, wire), "actions": [action]}
        if on in self.views or any(home["id"] == on for home in self.homes.values()):
            view = self.views.get(on) or self.homes[user]
            payload |= {"container": {"type": "view", "view_id": on}, "view": copy.deepcopy(view)}
            return payload | {"trigger_id": self.new_trigger(user, on)}
        surface = self._surface(user, on)
        whisper = "metadata" not in surface
        container = {"type": "message", "message_ts": on, "channel_id": surface["channel"], "is_ephemeral": whisper}
        container |= {"thread_ts": surface["thread_ts"]} if surface["thread_ts"] else {}
        where = self.channels[surface["channel"]]
        payload |= {"channel": {"id": where.id, "name": where.name or "directmessage"}, "container": container}
        payload |= {} if whisper else {"message": self.message(on).wire()}
        payload |= {"state": {"values": state_of(surface["blocks"], {})}, "trigger_id": self.new_trigger(user)}
        return payload | {"response_url": self._response_url(user, where.id, on)}

    def _actor(self, user: str, wire: Wire) -> Json:
        team = wire.team or self.users[user].team_id
        who = {"id": user, "username": self.users[user].name, "name": self.users[user].name, "team_id": team}
        install = {"enterprise": None, "is_enterprise_install": False, "token": "fake-verification"}
        return {"user": who, "team": {"id": team, "domain": DOMAIN}, "api_app_id": APP, **install}

    def _response_url(self, user: str, channel: str, ts: str) -> str:
        key = uuid.uuid4().hex
        self.response_urls[key] = ResponseUrl(channel, ts, user, self.now())
        return f"{self.url}/actions/{TEAM}/{key}"

    # They fill in modals.

    async def submit(self, user: str, view_id: str, values: Json | None = None, *, wire: Wire = SLACK) -> Submitted:
        """`values` by block id; a field that isn't named keeps what it shows. Waits for the app's answer."""
        if not self.stacks.get(user) or self.stacks[user][-1] != view_id:
            raise NotPossible(f"{user} has not {view_id} in front: {self.stacks.get(user)}")
        view = self.views[view_id]
        if not view.get("submit"):
            raise NotPossible("nothing to submit in this view")
        view["state"] = {"values": state_of(view["blocks"], values or {}, filled=True)}
        payload = {"type": "view_submission", **self._actor(user, wire), "view": copy.deepcopy(view)}
        payload |= {"trigger_id": self.new_trigger(user, view_id), "response_urls": []}
        delivery = self.deliver(Delivery(payload["trigger_id"], "interactive", payload, wire))
        await delivery.done.wait()
        if delivery.state != "acked":
            return Submitted("failed", {}, delivery)
        return self._answered(user, view, delivery)

    def _answered(self, user: str, view: Json, delivery: Delivery) -> Submitted:
        answer = delivery.answer or {}
        action = answer.get("response_action") if isinstance(answer, dict) else None
        outcome = "failed"
        errors: dict[str, str] = {}
        try:
            match action:
                case None if not answer:
                    self._pop(user)
                    outcome = "closed"
                case "errors":
                    inputs = {block["block_id"] for block in view["blocks"] if block["type"] == "input"}
                    errors = answer.get("errors") or {}
                    # Slack shows a general failure when a message is for no field of the view.
                    outcome, errors = ("errors", errors) if errors and set(errors) <= inputs else ("failed", {})
                case "update":
                    renew_view(self, view, check_view(answer["view"], "modal"))
                    outcome = "updated"
                case "push":
                    stack_view(self, user, check_view(answer["view"], "modal"))
                    outcome = "pushed"
                case "clear":
                    self._clear(user)
                    outcome = "cleared"
        except Refusal:
            outcome = "failed"
        return Submitted(outcome, errors, delivery)

    def _pop(self, user: str) -> None:
        del self.views[self.stacks[user].pop()]

    def _clear(self, user: str) -> None:
        while self.stacks.get(user):
            self._pop(user)

    async def close(self, user: str, view_id: str, *, wait: bool = True) -> list[Delivery]:
        """The view in front is dismissed; the app hears of it only where it asked to."""
        if not self.stacks.get(user) or self.stacks[user][-1] != view_id:
            raise NotPossible(f"{user} has not {view_id} in front: {self.stacks.get(user)}")
        view = self.views[view_id]
        self._pop(user)
        if not view["notify_on_close"]:
            return []
        payload = {"type": "view_closed", **self._actor(user, SLACK), "view": view, "is_cleared": False}
        delivery = self.deliver(Delivery(self.new_id("close"), "interactive", payload))
        if wait:
            await delivery.done.wait()
        return [delivery]

    async def open_home(self, user: str, tab: str = "home", *, wait: bool = True) -> list[Delivery]:
        """The app's Home tab, or with `messages` the conversation with it."""
        event: Json = {"type": "app_home_opened", "user": user, "channel": self.dm(user), "tab": tab}
        event |= {"view": self.homes[user]} if user in self.homes and tab == "home" else {}
        sent = self.emit("app_home_opened", event | {"event_ts": self.new_ts()})
        if wait:
            await asyncio.gather(*(one.done.wait() for one in sent))
        return sent

    async def stop(self, user: str, channel: str, thread_ts: str, *, wait: bool = True) -> list[Delivery]:
        """The native stop button, there while the session is processing. Slack ends the app's streams itself; the
        session's status stays for the app to change."""
        session = self.session(channel, thread_ts)
        if session is None or session.status != "processing" or not self.app.hears("agent_session_stopped"):
            raise NotPossible(f"no stop button in {channel} {thread_ts}: {session}")
        running = [m for m in self.posted.values() if thread_ts in (m.thread_ts, m.ts) and self.streaming(m)]
        for message in running:
            assert message.stream is not None
            message.stream.state = "stopped_by_user"
        event: Json = {"type": "agent_session_stopped", "channel": channel, "thread_ts": thread_ts, "user": user}
        event |= {"streaming_message_ts": [m.ts for m in running], "event_ts": self.new_ts()}
        sent = self.emit("agent_session_stopped", event)
        if wait:
            await asyncio.gather(*(one.done.wait() for one in sent))
        return sent

    # What tests ask.

    def message(self, ts: str) -> Message:
        (found,) = [one for one in self.posted.values() if one.ts == ts]
        return found

    def messages(self, channel: str | None = None, thread_ts: str | None = None) -> list[Message]:
        """In order; a thread is its root and the replies."""
        return [
            one
            for one in self.posted.values()
            if channel in (None, one.channel) and thread_ts in (None, one.ts, one.thread_ts)
        ]

    def text(self, ts: str) -> str:
        """A message as a reader sees it: blocks where there are any, else the text; a stream in its order."""
        message, reader = self.message(ts), Reader(self.names())
        blocks = reader.blocks(message.blocks)
        if message.stream is None:
            return blocks or reader.mrkdwn(message.text)
        parts = [streamed_text(part, reader) for part in message.stream.parts]
        return "\n".join(part for part in (*parts, blocks) if part)

    def texts(self, channel: str | None = None, thread_ts: str | None = None) -> list[str]:
        return [self.text(one.ts) for one in self.messages(channel, thread_ts)]

    def buttons(self, on: str, user: str | None = None) -> list[Button]:
        """What can be clicked on a message or view now; with `user`, by that person."""
        views = {**self.views, **{home["id"]: home for home in self.homes.values()}}
        whispers = {one.ts: one.blocks for one in self.whispers}
        blocks = views[on]["blocks"] if on in views else whispers.get(on) or self.message(on).blocks
        return [
            Button(
                element["action_id"],
                block["block_id"],
                Reader(self.names()).text(element.get("text")),
                element.get("value", ""),
                element.get("style", ""),
                element.get("confirm"),
                element,
            )
            for block, element in elements(blocks)
            if element["type"] not in INPUTS and user in (element.get("visible_to_user_ids") or [user])
        ]

    def cards(self, channel: str | None = None, thread_ts: str | None = None) -> list[Message]:
        """Messages with buttons."""
        return [one for one in self.messages(channel, thread_ts) if self.buttons(one.ts)]

    def card(self, channel: str | None = None, thread_ts: str | None = None) -> Message:
        """The one message with buttons."""
        found = self.cards(channel, thread_ts)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} cards in {self.texts(channel, thread_ts)}")
        return found[0]

    def mentioned(self, ts: str) -> set[str]:
        """Whom a message pings: ids of people and groups, and `!channel` and its like. What is only text isn't here."""
        message = self.message(ts)
        raw = json.dumps(message.blocks or message.text, ensure_ascii=False)
        found = re.findall(r"<(@[UW][A-Z0-9]+|!subteam\^[A-Z0-9]+|!(?:channel|here|everyone))(?:\|[^<>]*)?>", raw)
        return {one.removeprefix("@").removeprefix("!subteam^") for one in found}

    def ephemerals(self, user: str | None = None) -> list[str]:
        reader = Reader(self.names())
        return [
            reader.blocks(one.blocks) or reader.mrkdwn(one.text) for one in self.whispers if user in (None, one.user)
        ]

    def view(self, user: str) -> Json:
        """The modal in front of a person."""
        if not self.stacks.get(user):
            raise NotPossible(f"no modal is open for {user}")
        return self.views[self.stacks[user][-1]]

    def view_text(self, view: Json) -> str:
        reader = Reader(self.names())
        return "\n".join([reader.text(view.get("title")), reader.blocks(view["blocks"])]).strip()

    async def settled(self, timeout: float = 10.0) -> None:
        """Until nothing is on its way to the app any more."""
        await self.wait_for(lambda: not self._work, timeout)

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 5.0) -> T:
        """The first true value; an assertion error with the last calls when there is none in time."""
        end = time.monotonic() + timeout
        while not (found := predicate()):
            if time.monotonic() > end:
                raise AssertionError(f"not so after {timeout} s; {self.summary()}")
            await asyncio.sleep(0.005)
        return found

    def summary(self) -> str:
        return f"messages: {self.texts()[-5:]}; deliveries: {[(d.id, d.state) for d in self.deliveries[-5:]]}"


def rich_text(text: str, block_id: str) -> Json:
    """The block that Slack's client makes of what is typed."""
    inner: list[Json] = []
    at = 0
    for found in SPECIAL.finditer(text):
        inner += [{"type": "text", "text": unescaped(text[at : found.start()])}] if found.start() > at else []
        inner.append(rich_token(found[1], found[2]))
        at = found.end()
    inner += [{"type": "text", "text": unescaped(text[at:])}] if at < len(text) else []
    return {"type": "rich_text", "block_id": block_id, "elements": [{"type": "rich_text_section", "elements": inner}]}


def rich_token(target: str, label: str | None) -> Json:
    if target[0] == "@":
        return {"type": "user", "user_id": target[1:]}
    if target[0] == "#":
        return {"type": "channel", "channel_id": target[1:]}
    if target.startswith("!subteam^"):
        return {"type": "usergroup", "usergroup_id": target.partition("^")[2]}
    return {"type": "link", "url": unescaped(target)} | ({"text": label} if label else {})


def streamed_text(part: Json, reader: Reader) -> str:
    match part["type"]:
        case "markdown_text":
            return reader.mrkdwn(part["text"]).strip()
        case "task_update":
            told = [part["title"], part.get("details") or "", part.get("output") or ""]
            return f"[{part['status']}] " + " · ".join(one for one in told if one)
        case "plan_update":
            return str(part["title"])
    return reader.blocks(part["blocks"])


def option(element: Json, value: str) -> Json:
    groups = [group["options"] for group in element.get("option_groups", ())]
    for one in itertools.chain(element.get("options", ()), *groups):
        if one["value"] == value:
            return dict(one)
    raise NotPossible(f"no option {value} in {element}")


def chosen(element: Json, choice: str | None) -> Json:
    """What an interaction adds for elements with a choice."""
    kind = element["type"]
    if kind == "feedback_buttons":
        (button,) = [b for b in (element["positive_button"], element["negative_button"]) if b["value"] == choice]
        return {"value": choice, "text": button["text"]}
    if kind in ("static_select", "overflow", "radio_buttons"):
        return {"selected_option": option(element, choice or "")}
    if choice is not None:
        raise NotPossible(f"nothing to choose in {element}")
    return {}


def state_of(blocks: Sequence[Json], values: Json, *, filled: bool = False) -> Json:
    """`state.values`: what each field holds; `filled` refuses what the client wouldn't submit."""
    state: Json = {}
    fields_ = [(block, one) for block, one in elements(blocks) if one["type"] in INPUTS]
    unknown = set(values) - {block["block_id"] for block, _ in fields_}
    if unknown:
        raise NotPossible(f"no such field: {unknown}")
    for block, element in fields_:
        kept = field_state(element, values.get(block["block_id"], ...))
        needed = filled and block["type"] == "input" and not block.get("optional")
        if needed and not kept[INPUTS[element["type"]]]:
            raise NotPossible(f"{block['block_id']} must be filled in")
        state.setdefault(block["block_id"], {})[element["action_id"]] = kept
    return state


def field_state(element: Json, value: Any) -> Json:
    """A field with the value a person gave it, or with what it showed at first."""
    kind, key = element["type"], INPUTS[element["type"]]
    if value is ...:
        names = {"value": "initial_value", "selected_option": "initial_option", "selected_options": "initial_options"}
        initial = names.get(key) or key.replace("selected_", "initial_", 1)
        return {"type": kind, key: element.get(initial, [] if key == "selected_options" else None)}
    if key == "selected_option":
        return {"type": kind, key: option(element, value) if value is not None else None}
    if key == "selected_options":
        return {"type": kind, key: [option(element, one) for one in value]}
    text = str(value) if key == "value" and value is not None else value
    within(element, text)
    return {"type": kind, key: text or None}


def within(element: Json, text: Any) -> None:
    """The client's own limits."""
    low, high = element.get("min_length", 0), element.get("max_length", 3_000)
    if element["type"] == "plain_text_input" and text and not low <= len(text) <= high:
        raise NotPossible(f"{len(text)} characters in a field of {low} to {high}")
    if element["type"] != "number_input" or not text:
        return
    if not re.fullmatch(r"-?\d+(\.\d+)?" if element.get("is_decimal_allowed") else r"-?\d+", text):
        raise NotPossible(f"{text} is not a number that this field takes")
    if not float(element.get("min_value", "-inf")) <= float(text) <= float(element.get("max_value", "inf")):
        raise NotPossible(f"{text} is out of range")


# The server.


@dataclass
class Fault:
    """What goes wrong with the next `times` calls of a method ("*" is any), after `skip` that go well.

    `error` answers ok: false; `status` an HTTP status (429 with `retry_after`); `hang` waits before it answers; `drop`
    closes the connection without an answer. `processed`: Slack does what it was asked all the same.
    """

    method: str
    times: int = 1
    error: str | None = None
    status: int | None = None
    retry_after: int = 1
    hang: float = 0.0
    drop: bool = False
    processed: bool = False
    skip: int = 0


class FakeSlack(Peopled):
    """The server: the Web API under `/api/`, sockets, response URLs, files, and `/_control/` for other processes."""

    def __init__(self, manifest: Json | None = None, *, port: int = 0, **more: Any) -> None:
        super().__init__(manifest, **more)
        self.port = port
        self.record: list[Call] = []
        self.faults: list[Fault] = []
        self.limits: dict[str, tuple[int, float]] = {}
        self._recent: dict[tuple[str, str], list[float]] = {}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/api/{method}", self._api)
        app.router.add_get("/link/", self._socket)
        app.router.add_post("/actions/{team}/{key}", self._respond)
        app.router.add_get("/files/{id}/{name}", self._file)
        app.router.add_route("*", "/_control/{verb}", self._control)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for link in list(self.links):
            self._cut(link)
        assert self._http is not None
        await self._http.close()
        await self._runner.cleanup()

    @property
    def api_url(self) -> str:
        """The `base_url` of a slack_sdk client."""
        return f"{self.url}/api/"

    def calls(self, method: str | None = None, *, ok: bool | None = None) -> list[Call]:
        """The Web API's calls in order, also those that a fault hit."""
        return [one for one in self.record if method in (None, one.method) and ok in (None, one.error == "")]

    def fault(self, method: str, **what: Any) -> None:
        self.faults.append(Fault(method, **what))

    def limit(self, method: str, calls: int, seconds: float) -> None:
        """A rate limit, per channel where a call names one."""
        self.limits[method] = (calls, seconds)

    # The Web API over HTTP.

    async def _api(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["method"]
        a, given = await arguments(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or given
        call = Call(len(self.record), self.now(), name, a, token[:4])
        self.record.append(call)
        fault = self._due(name)
        wait = self._over_limit(name, a)
        if wait and fault is None:
            fault = Fault(name, status=429, retry_after=wait)
        answer: Json = {}
        if fault is None or fault.processed:
            answer = self._answer(name, a, token)
            call.error = answer.get("error", "")
        if fault is not None:
            return await self._fail(request, call, fault, answer, token)
        call.status = 200
        return web.json_response(answer, headers={"X-Slack-Req-Id": uuid.uuid4().hex})

    def _due(self, name: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in (name, "*") and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def _over_limit(self, name: str, a: Json) -> int:
        """Seconds to wait, or 0."""
        if name not in self.limits:
            return 0
        calls, seconds = self.limits[name]
        key = (name, str(a.get("channel", "")))
        recent = [one for one in self._recent.get(key, []) if self.now() - one < seconds]
        self._recent[key] = recent if len(recent) >= calls else [*recent, self.now()]
        return max(1, round(recent[0] + seconds - self.now())) if len(recent) >= calls else 0

    def _answer(self, name: str, a: Json, token: str) -> Json:
        try:
            method = METHODS.get(name)
            if name == "apps.connections.open":
                self._check_token(token, "app")
                return {"ok": True, "url": self.new_socket_url()}
            if method is None:
                raise Refusal("unknown_method", req_method=name)
            self._check_token(token, method.token)
            if method.scope:
                self.require(method.scope)
            missing = [f"missing required field: {need}" for need in method.needs if a.get(need) is None]
            if missing:
                raise Refusal("invalid_arguments", *missing)
            return {"ok": True, **method.run(self, a)}
        except Refusal as refusal:
            return refusal.answer()

    def _check_token(self, token: str, kind: str) -> None:
        if not token:
            raise Refusal("not_authed")
        if token not in (BOT_TOKEN, APP_TOKEN):
            raise Refusal("invalid_auth")
        if token != (BOT_TOKEN if kind == "bot" else APP_TOKEN):
            raise Refusal("not_allowed_token_type")

    async def _fail(
        self, request: web.Request, call: Call, fault: Fault, answer: Json, token: str
    ) -> web.StreamResponse:
        if fault.hang:
            await asyncio.sleep(fault.hang)
        if fault.drop:
            call.error = "(dropped)"
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers = {}
        if fault.status == 429:
            answer, headers = {"ok": False, "error": "ratelimited"}, {"Retry-After": str(fault.retry_after)}
        elif fault.status:
            call.error, call.status = f"(HTTP {fault.status})", fault.status
            return web.Response(status=fault.status, text="upstream connect error")
        elif fault.error:
            answer = {"ok": False, "error": fault.error}
        answer = answer or self._answer(call.method, call.arguments, token)
        call.error, call.status = answer.get("error", ""), fault.status or 200
        return web.json_response(answer, status=call.status, headers=headers)

    async def _respond(self, request: web.Request) -> web.Response:
        """A response URL: five uses in half an hour."""
        known = self.response_urls.get(request.match_info["key"])
        a = await request.json()
        if known is None or self.now() - known.issued >= self.timing.response_url:
            return web.json_response({"ok": False, "error": "expired_url"}, status=404)
        if known.uses >= RESPONSE_URL_USES:
            return web.json_response({"ok": False, "error": "used_url"}, status=404)
        known.uses += 1
        try:
            self._by_response_url(known, a)
        except Refusal as refusal:
            return web.json_response(refusal.answer(), status=400)
        return web.Response(text="ok")

    def _by_response_url(self, known: ResponseUrl, a: Json) -> None:
        original = self.posted.get((known.channel, known.ts))
        if a.get("delete_original") and original:
            del self.posted[known.channel, known.ts]
            return
        text, blocks = content(self, a, POST_LENGTH)
        if a.get("replace_original") and original:
            self.rewrite(original, text, blocks)
        elif a.get("response_type") == "in_channel":
            self.post(known.channel, BOT_USER, text, blocks=blocks, thread_ts=a.get("thread_ts"))
        else:
            whisper = Ephemeral(known.channel, self.new_ts(), known.user, text, blocks, a.get("thread_ts"))
            self.whispers.append(whisper)

    async def _file(self, request: web.Request) -> web.Response:
        """A private file's bytes, for the bot's token with the scope; Slack sends others to a page to sign in."""
        about = self.files.get(request.match_info["id"])
        allowed = self.app.scopes is None or "files:read" in self.app.scopes
        if request.headers.get("Authorization") != f"Bearer {BOT_TOKEN}" or not allowed or about is None:
            return web.Response(text="<html>Sign in</html>", content_type="text/html")
        return web.Response(body=about[1])

    # For another process.

    def state(self) -> Json:
        """Everything, as JSON."""
        for message in self.posted.values():
            self.streaming(message)
        shown = [
            as_json(one) | {"reads": self.text(one.ts), "buttons": as_json(self.buttons(one.ts))}
            for one in self.posted.values()
        ]
        maps: dict[str, dict[tuple[str, str], Any]] = {
            "sessions": self.sessions,
            "statuses": self.statuses,
            "prompts": self.prompts,
        }
        keyed = {name: {" ".join(key): as_json(one) for key, one in found.items()} for name, found in maps.items()}
        kept: Json = {"messages": shown, "ephemerals": self.whispers, "views": self.views, "stacks": self.stacks}
        kept |= {"homes": self.homes, "users": self.users, "channels": self.channels, "calls": self.record}
        kept |= {"deliveries": self.deliveries, "links": self.links, "now": self.now()}
        return {**as_json(kept), **keyed}

    async def _control(self, request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        if verb not in VERBS:
            return web.json_response({"error": f"no verb {verb}"}, status=404)
        asked: Json = await request.json() if request.can_read_body else dict(request.query)
        if isinstance(asked.get("wire"), dict):
            asked["wire"] = Wire(**asked["wire"])
        try:
            found = getattr(self, verb)(*asked.pop("args", ()), **asked)
            return web.json_response(as_json(await found if inspect.isawaitable(found) else found))
        except (NotPossible, AssertionError, Refusal) as problem:
            return web.json_response({"error": str(problem)}, status=409)
        except (TypeError, ValueError, KeyError) as problem:
            return web.json_response({"error": f"{type(problem).__name__}: {problem}"}, status=400)


VERBS = {"add_user", "add_channel", "add_group", "dm", "say", "edit", "click", "submit", "close", "open_home", "stop"}
VERBS |= {"redeliver", "point", "challenge", "stale", "disconnect", "cut", "ping", "fault", "limit", "tick"}
VERBS |= {"state", "calls", "message", "messages", "text", "texts", "buttons", "card", "cards", "mentioned"}
VERBS |= {"ephemerals", "view", "view_text"}


async def arguments(request: web.Request) -> tuple[Json, str]:
    """A method's arguments, whichever way they came, and a token among them."""
    found: Json = dict(request.query)
    if request.content_type == "application/json":
        found |= await request.json()
    else:
        found |= {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
    for key in ("blocks", "view", "metadata", "chunks", "prompts", "loading_messages"):
        if isinstance(found.get(key), str):
            found[key] = json.loads(found[key])
    return found, found.pop("token", "")


def as_json(value: Any) -> Any:
    """Records as JSON; what isn't part of their repr (sockets, locks) isn't part of it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_json(getattr(value, one.name)) for one in fields(value) if one.repr}
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [as_json(one) for one in (sorted(value) if isinstance(value, set) else value)]
    return value


class Remote:
    """Drives a fake in another process: `await remote.do("say", user=..., text=...)`; 409 is `NotPossible`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def do(self, verb: str, *args: Any, **arguments: Any) -> Any:
        body = {"args": list(args), **arguments}
        async with aiohttp.ClientSession() as http, http.post(f"{self.url}/_control/{verb}", json=body) as response:
            found = await response.json()
            if response.status == 409:
                raise NotPossible(found["error"])
            if response.status != 200:
                raise ValueError(found["error"])
            return found

    async def wait_for(self, predicate: Callable[[Json], Any], timeout: float = 10.0) -> Any:
        """The first true value of `predicate` over the whole state."""
        end = time.monotonic() + timeout
        while not (found := predicate(await self.do("state"))):
            if time.monotonic() > end:
                raise AssertionError(f"not so after {timeout} s: {(await self.do('texts'))[-5:]}")
            await asyncio.sleep(0.05)
        return found


async def serve(options: argparse.Namespace) -> None:
    manifest = json.loads(options.manifest.read_text()) if options.manifest else None
    async with FakeSlack(manifest, port=options.port, urls=options.events_url or ()) as slack:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(json.dumps({"url": slack.url, "api": slack.api_url}), flush=True)
        await stop.wait()
        if options.state:
            options.state.write_text(json.dumps(slack.state(), ensure_ascii=False, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fakeslack", description="A Slack to test a bot against.")
    parser.add_argument("--port", type=int, default=0, help="0 is any; the first line on stdout says which")
    parser.add_argument("--state", type=Path, help="where the whole state is written at SIGTERM")
    parser.add_argument("--manifest", type=Path, help="the app's manifest as JSON: scopes, events, features")
    parser.add_argument("--events-url", action="append", help="a Request URL of the app; without any, Socket Mode")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
