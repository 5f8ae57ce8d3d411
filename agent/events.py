"""What an interface gets of a turn, as small frozen records; `type` is their name in `ask --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from agent.domain import Json
from agent.prompts import Card


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the model's words, as it comes."""

    type: ClassVar[str] = "text"
    delta: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    type: ClassVar[str] = "tool_call"
    id: str
    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The one answer of a call. `line` states it for a person, rendered by code; empty for reads."""

    type: ClassVar[str] = "tool_result"
    id: str
    name: str
    ok: bool
    outcome: str
    line: str
    content: Json
    result: Json = field(default=None, repr=False)
    """The API's answer, whole; `content` is what the model gets of it. Not part of `ask --json`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Members of an audience read so far, for a preview that takes a while."""

    type: ClassVar[str] = "progress"
    read: int


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """A call waits for a person. `preview` is the stored one, `card` its words in the person's language."""

    type: ClassVar[str] = "approval"
    id: str
    tool: str
    arguments: Json
    preview: Json
    warnings: Sequence[str]
    expires_at: float
    confirm: str
    card: Card


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's whole last word in this turn."""

    type: ClassVar[str] = "reply"
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    type: ClassVar[str] = "usage"
    tokens: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn ended early. `code` is stable, `message` and `hint` are words for the person."""

    type: ClassVar[str] = "error"
    code: str
    message: str
    hint: str


AgentEvent = Text | ToolCalled | ToolResult | Progress | ApprovalAsked | Reply | Usage | Failed
