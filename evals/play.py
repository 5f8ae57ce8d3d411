"""Plays a case through `Agent.advance` and `Agent.decide` on the live sandbox, and keeps what happened."""

import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from pydantic_core import from_json, to_json

from agent.domain import Json
from agent.errors import InvalidCall
from agent.events import AgentEvent, ApprovalAsked, Failed, Reply, Text, ToolCalled, ToolResult
from agent.gate import Identity
from agent.journal import Journal
from agent.loop import Agent
from agent.model import Completion, Model
from agent.operations import Operation, Reading, parse
from agent.platica import Platica, Wire
from agent.sandbox.api import SandboxTransport
from agent.settings import SANDBOX_URL, Settings
from evals.case import AdvanceTurn, Case, Decide, EditTurn, FaultTurn, Say, Turn
from evals.claims import untrue_card
from evals.matching import differences
from evals.world import Clock, Sandbox

_UTC, _ZONE = UTC, ZoneInfo("UTC")
PERSON = Identity("os", "1000", "marketing")
SESSION = "eval"


@dataclass
class Called:
    """A tool call as the program understood it; `arguments` None: it couldn't."""

    id: str
    tool: str
    turn: int
    given: Json
    arguments: dict[str, Json] | None
    outcome: str = "open"


@dataclass(frozen=True)
class Grant:
    """What the case's person approved, or was asked, from the card. It covers requests from `after` to before `until`,
    counted in the sandbox's log: what is approved runs at once or never."""

    after: int
    until: int
    tool: str
    calls: list[dict[str, Json]]


@dataclass
class TurnTrace:
    """`steps` is the transcript, JSON as the report shows it; `text` all words of the model's."""

    number: int
    steps: list[dict[str, Json]] = field(default_factory=list)
    text: str = ""
    errors: list[str] = field(default_factory=list)


@dataclass
class Trace:
    """Everything that happened in one run of a case."""

    turns: list[TurnTrace] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    asked: list[Grant] = field(default_factory=list)
    cards: int = 0
    problems: list[str] = field(default_factory=list)
    model_calls: int = 0
    model_seconds: float = 0.0
    usage: dict[str, int] = field(default_factory=dict)
    stopped: BaseException | None = None

    def turn(self, number: int) -> TurnTrace:
        return self.turns[number - 1]


class Metered:
    """A model whose calls, tokens and time are counted."""

    def __init__(self, model: Model, trace: Trace) -> None:
        self._model, self._trace = model, trace

    @property
    def name(self) -> str:
        return self._model.name

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        began = time.monotonic()
        self._trace.model_calls += 1
        try:
            async for piece in self._model.complete(messages):
                if isinstance(piece, Completion):
                    self._count(piece.usage)
                yield piece
        except Exception as error:
            self._trace.stopped = error
            raise
        finally:
            self._trace.model_seconds += time.monotonic() - began

    def _count(self, usage: Mapping[str, Json]) -> None:
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        for name, value in (*usage.items(), ("cached_tokens", cached)):
            if name in ("prompt_tokens", "completion_tokens", "cached_tokens") and isinstance(value, int):
                self._trace.usage[name] = self._trace.usage.get(name, 0) + value

    async def aclose(self) -> None:
        await self._model.aclose()


@dataclass
class Played:
    """A finished run: what happened, and the world that it left behind. Close `sandbox`."""

    case: Case
    trace: Trace
    sandbox: Sandbox


async def play(case: Case, model: Model, sandbox: Sandbox, clock: Clock) -> Played:
    """Plays every turn; a model that raises what no turn can hold ends it early, in `trace.stopped`."""
    trace = Trace()
    with tempfile.TemporaryDirectory(prefix="evals-") as folder:
        agent = _agent(case, Metered(model, trace), sandbox, clock, Path(folder))
        player = _Player(case, agent, sandbox, clock, trace)
        try:
            for number, turn in enumerate(case.turns, start=1):
                trace.turns.append(TurnTrace(number))
                await player.turn(turn)
                sandbox.look()
                if trace.stopped is not None:
                    break
        except Exception as error:
            # Whatever ended it, the checks tell what is missing, and the runner why.
            trace.stopped = trace.stopped or error
        finally:
            await agent.aclose()
    trace.turns += [TurnTrace(number) for number in range(len(trace.turns) + 1, len(case.turns) + 1)]
    return Played(case, trace, sandbox)


def start(case: Case) -> tuple[Sandbox, Clock]:
    clock = Clock(datetime.fromisoformat(case.clock))
    return Sandbox(case, clock), clock


def configured(case: Case) -> Settings:
    """The settings that a case runs with, whatever the environment says."""
    chosen: dict[str, Any] = {
        "_env_file": None,
        "language": "auto",
        "timezone": case.zone,
        "platica_workspace": case.world.workspace,
        "requests_per_second": 1e6,
        **case.world.settings.model_dump(),
    }
    return Settings(**chosen)


def _agent(case: Case, model: Model, sandbox: Sandbox, clock: Clock, folder: Path) -> Agent:
    settings = configured(case)
    http = Wire(SandboxTransport(sandbox.app), SANDBOX_URL, httpx.Timeout(settings.request_deadline))
    platica = Platica(
        http,
        key=sandbox.key,
        workspace=settings.platica_workspace,
        deadline=settings.request_deadline,
        requests_per_second=settings.requests_per_second,
    )
    journal = Journal(f"sqlite:///{folder / 'journal.db'}", clock=clock)
    return Agent(settings, model=model, platica=platica, journal=journal, clock=clock, locale=case.language)


class _Player:
    def __init__(self, case: Case, agent: Agent, sandbox: Sandbox, clock: Clock, trace: Trace) -> None:
        self._case, self._agent, self._sandbox, self._clock, self._trace = case, agent, sandbox, clock, trace
        self._waiting: ApprovalAsked | None = None
        self._numbers: dict[str, int] = {}

    @property
    def _now(self) -> TurnTrace:
        return self._trace.turns[-1]

    async def turn(self, turn: Turn) -> None:
        match turn:
            case Say(say=text):
                self._waiting = None
                self._step("said", text=text)
                await self._hear(self._agent.advance(SESSION, text, by=PERSON))
            case Decide():
                await self._decide(turn)
            case EditTurn(edit=edits):
                self._sandbox.edit(edits)
                self._step("edit", edits=[edit.model_dump(mode="json") for edit in edits])
            case AdvanceTurn():
                self._clock.seconds += turn.span.total_seconds()
                self._step("clock", by=turn.advance, now=self._clock.date().isoformat())
            case FaultTurn(fault=fault):
                self._sandbox.fault(fault)
                self._step("fault", fault=fault.model_dump(mode="json"))

    async def _decide(self, turn: Decide) -> None:
        card, self._waiting = self._waiting, None
        if card is None:
            self._trace.problems.append(f"turn {self._now.number}: no card waits to {turn.decide} {turn.tool}")
            return
        if (why := self._wrong(card, turn)) is not None:
            self._trace.problems.append(f"turn {self._now.number}: {why}; denied")
            turn = Decide(decide="deny", tool=turn.tool)
        if turn.decide == "expire":
            self._clock.seconds = card.expires_at + 1
            self._step("decision", decision="expire", card=self._numbers[card.id])
            await self._hear(self._agent.advance(SESSION, None, by=PERSON))
            return
        typed = self._typed(card, turn.confirm)
        self._step("decision", decision=turn.decide, card=self._numbers[card.id], typed=typed, reason=turn.reason)
        after = len(self._sandbox.store.requests())
        decision = self._agent.decide(card.id, turn.decide, by=PERSON, confirm=typed, reason=turn.reason)
        try:
            await self._hear(decision)
        finally:
            # A decision that was not accepted allows nothing; one that was does, however its turn ended.
            if turn.decide == "approve" and not any(code.startswith("approval_") for code in self._now.errors):
                until = len(self._sandbox.store.requests())
                self._trace.grants.append(Grant(after, until, card.tool, _calls(card)))

    def _wrong(self, card: ApprovalAsked, turn: Decide) -> str | None:
        if card.tool != turn.tool:
            return f"the card that waits is of {card.tool}, not of {turn.tool}"
        if turn.arguments is None:
            return None
        found = differences(turn.arguments, plain(card.tool, card.arguments), self._sandbox.created)
        return f"the card isn't what was asked for ({'; '.join(found)})" if found else None

    @staticmethod
    def _typed(card: ApprovalAsked, confirm: str | None) -> str | None:
        facts = card.preview["facts"]
        if confirm == "title":
            return str(facts["campaign"]["title"])
        if confirm != "count":
            return confirm
        if card.tool == "remove_campaign_audience_client":
            return str(len(_calls(card)))
        return str(facts["audience"]["unique" if card.tool == "send_campaign" else "size"])

    async def _hear(self, events: AsyncGenerator[AgentEvent]) -> None:
        async with contextlib.aclosing(events):
            async for event in events:
                self._take(event)

    def _take(self, event: AgentEvent) -> None:
        match event:
            case Text(delta=delta):
                self._now.text += delta
                if self._now.steps and self._now.steps[-1]["kind"] == "text":
                    self._now.steps[-1]["text"] += delta
                else:
                    self._step("text", text=delta)
            case ToolCalled():
                # Words before a call and after it aren't one word.
                self._now.text += "\n" if self._now.text else ""
                self._called(event)
            case ToolResult():
                self._ended(event)
            case ApprovalAsked():
                self._asked(event)
            case Failed():
                self._now.errors.append(event.code)
                self._step("error", code=event.code, text=event.message)
            case Reply():
                self._now.text += "\n"

    def _called(self, event: ToolCalled) -> None:
        arguments = self._understood(event.name, event.arguments)
        self._trace.calls.append(Called(event.id, event.name, self._now.number, event.arguments, arguments))
        self._step("call", tool=event.name, arguments=event.arguments, id=event.id)

    def _understood(self, tool: str, given: Json) -> dict[str, Json] | None:
        reading = Reading(self._clock.date(), self._agent.settings.zone, self._agent.settings.country)
        try:
            return canonical(parse(tool, given, reading))
        except InvalidCall:
            return None

    def _ended(self, event: ToolResult) -> None:
        for call in self._trace.calls:
            if call.id == event.id:
                call.outcome = event.outcome
        content = from_json(to_json(event.content))
        self._step("result", id=event.id, tool=event.name, outcome=event.outcome, line=event.line, content=content)

    def _asked(self, event: ApprovalAsked) -> None:
        self._waiting = event
        if event.id not in self._numbers:
            self._trace.cards += 1
            self._numbers[event.id] = self._trace.cards
            self._trace.asked.append(Grant(len(self._sandbox.store.requests()), 2**62, event.tool, _calls(event)))
            # An id holds figures by chance.
            shown = [line.replace(event.id, "") for line in event.card.lines()]
            untrue = untrue_card(event.tool, _calls(event), shown, self._sandbox)
            self._trace.problems += [f"turn {self._now.number}: {line}" for line in untrue]
        name = f"card-{self._numbers[event.id]}"
        # Ids of approvals are random and would make every result differ.
        lines = [line.replace(event.id, name) for line in event.card.lines()]
        self._step("card", card=self._numbers[event.id], tool=event.tool, lines=lines, confirm=event.confirm)

    def _step(self, kind: str, **data: Json) -> None:
        self._now.steps.append({"kind": kind, **data})


def _calls(card: ApprovalAsked) -> list[dict[str, Json]]:
    return list(card.arguments) if isinstance(card.arguments, list) else [card.arguments]


def plain(tool: str, arguments: Json) -> Json:
    """A card's arguments without defaults; a card of several calls is a list."""
    if isinstance(arguments, list):
        return [plain(tool, one) for one in arguments]
    return canonical(parse(tool, arguments, Reading(datetime.min.replace(tzinfo=_UTC), _ZONE)))


def canonical(operation: Operation) -> dict[str, Json]:
    """The arguments as the program understands them, without what says the same as leaving it out."""
    arguments = operation.arguments()
    for name, info in type(operation).model_fields.items():
        if name in arguments and not info.is_required() and arguments[name] == info.default:
            del arguments[name]
    template = arguments.get("template")
    if isinstance(template, dict):
        flags = ("sendToProblematic", "sendToUndeliverable")
        arguments["template"] = {k: v for k, v in template.items() if not (k in flags and v is True)}
        if not arguments["template"]:
            del arguments["template"]
    return arguments
