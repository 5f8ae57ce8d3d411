"""What comes from Slack, as items of the inbox: whose it is, what it says, and under which key it comes once."""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.domain import Json
from agent.interfaces.slack_web import Thread

_SPOKEN = {None, "file_share", "thread_broadcast"}
"""Subtypes of messages that people write; edits, deletions, joins and what bots say are others."""
_TOKEN = re.compile(r"<([^<>|]*)(?:\|([^<>]*))?>")


@dataclass(frozen=True, slots=True)
class Incoming:
    """An item to store. `known`: only where the conversation is one already."""

    key: str
    conversation: str
    kind: str
    body: Mapping[str, Json]
    by: str
    known: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """Who did it, by Slack's signature and not by what anybody wrote."""

    team: str
    id: str

    @property
    def key(self) -> str:
        return f"slack:{self.team}/{self.id}"

    @property
    def identity(self) -> list[str]:
        return ["slack", f"{self.team}/{self.id}", ""]


@dataclass(frozen=True, slots=True)
class Bot:
    """Who we are in this workspace."""

    team: str
    user: str
    id: str = ""


def read_text(text: str, bot: str) -> str:
    """What a person typed: without the marks of Slack, and without the mention of the bot."""

    def plain(found: re.Match[str]) -> str:
        target, label = found[1], found[2]
        if target == f"@{bot}":
            return ""
        if target.startswith(("@", "#")):
            return target[0] + (label or target[1:])
        if target.startswith("!"):
            return "@" + (label or target[1:].partition("^")[0])
        if target.startswith(("mailto:", "tel:")):
            return label or target.partition(":")[2]
        return f"{label} ({target})" if label and label != target else target

    return html.unescape(_TOKEN.sub(plain, text)).strip()


def of_message(event: Mapping[str, Any], bot: Bot) -> Incoming | None:
    """A message to the bot: in a conversation with it, with a mention of it, or in a thread that it is part of.

    A mention comes as two events with ids of their own, so that the message itself is the key.
    """
    user, ts, channel = str(event.get("user") or ""), str(event.get("ts") or ""), str(event.get("channel") or "")
    if event.get("subtype") not in _SPOKEN or event.get("bot_id") or not (user and ts and channel) or user == bot.user:
        return None
    raw = str(event.get("text") or "")
    direct, mentioned = event.get("channel_type") == "im", f"<@{bot.user}>" in raw
    in_thread = bool(event.get("thread_ts"))
    # What begins with somebody else's name is for them.
    if not (direct or mentioned or (in_thread and not raw.lstrip().startswith("<@"))):
        return None
    who = Person(person_team(event, bot), user)
    thread = Thread(bot.team, channel, str(event.get("thread_ts") or ts))
    text, files = read_text(raw, bot.user), [str(one.get("name") or "") for one in event.get("files") or ()]
    body: dict[str, Json] = {"by": who.identity, "text": text, "files": files, "ts": ts}
    kind = "message" if text else "note"
    if not text:
        body["say"] = "bot.no_files" if files else "bot.hello"
    return Incoming(
        f"slack:{bot.team}:{channel}:{ts}", thread.conversation, kind, body, who.key, known=not (direct or mentioned)
    )


def person_team(event: Mapping[str, Any], bot: Bot) -> str:
    """The workspace of a message's author; in shared channels it may be another one."""
    return named_team(event) or bot.team


def named_team(event: Mapping[str, Any]) -> str:
    """The workspace that an event names for whoever it is of; "" where it names none."""
    return str(event.get("user_team") or event.get("source_team") or event.get("team") or "")


def of_stop(event: Mapping[str, Any], event_id: str, bot: Bot) -> Incoming:
    """As if of our workspace, which whoever stores it has to know."""
    who = Person(bot.team, str(event.get("user") or ""))
    thread = Thread(bot.team, str(event["channel"]), str(event["thread_ts"]))
    return Incoming(f"stop:{event_id}", thread.conversation, "stop", {"by": who.identity}, who.key)


def of_home(event: Mapping[str, Any], event_id: str, bot: Bot) -> Incoming | None:
    """The Home tab was opened; its conversation is nobody's thread."""
    if event.get("tab") != "home":
        return None
    who = Person(bot.team, str(event["user"]))
    body: dict[str, Json] = {"by": who.identity, "user": who.id}
    return Incoming(f"home:{event_id}", f"slack:{bot.team}:home:{who.id}:", "home", body, who.key)


@dataclass(frozen=True, slots=True)
class Click:
    """A click on a card, wherever the card is shown. `trigger` opens a modal for three seconds."""

    action: str
    approval: str
    who: Person
    trigger: str
    thread: Thread | None

    @property
    def key(self) -> str:
        return f"click:{self.trigger}"


def of_click(body: Mapping[str, Any], bot: Bot) -> Click:
    action, user = body["actions"][0], body["user"]
    container = body.get("container") or {}
    channel, ts = container.get("channel_id"), container.get("thread_ts") or container.get("message_ts")
    thread = Thread(bot.team, str(channel), str(ts)) if channel and ts else None
    who = Person(str(user.get("team_id") or (body.get("team") or {}).get("id") or ""), str(user["id"]))
    return Click(str(action["action_id"]), str(action.get("value") or ""), who, str(body.get("trigger_id")), thread)


@dataclass(frozen=True, slots=True)
class Submission:
    """A modal that was filled in. A view is submitted once."""

    view: str
    approval: str
    who: Person
    values: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    @property
    def key(self) -> str:
        return f"view:{self.id}"


def of_submission(body: Mapping[str, Any]) -> Submission:
    view, user = body["view"], body["user"]
    try:
        approval = str(json.loads(view.get("private_metadata") or "{}").get("approval", ""))
    except ValueError:
        approval = ""
    who = Person(str(user.get("team_id") or (body.get("team") or {}).get("id") or ""), str(user["id"]))
    return Submission(str(view["callback_id"]), approval, who, view["state"]["values"], str(view["id"]))
