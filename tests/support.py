"""What tests share: a scripted model, and an agent over the real sandbox with a clock that stands still."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy
from pydantic_core import from_json, to_json

from agent.journal import Journal
from agent.loop import Agent, AgentEvent, ApprovalAsked, Failed, ToolResult
from agent.model import Call, Completion, array
from agent.platica import Platica, Wire
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Store
from agent.settings import SANDBOX_URL, Settings
from tests import postgres

engine = "sqlite"
"""The database engine of the test that runs now; tests/conftest.py sets it."""
journals: list[Journal] = []
"""Those that the test has made; tests/conftest.py closes what is left of them."""
NOW = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
"""A Monday, 10:00 in Mexico City."""
PROMO = "cmpPromoVerano2026aa"
CITA = "cmpRecordatorioCita1"
AVISO = "cmpAvisoFacturacion1"
BUEN_FIN = "cmpBuenFin2026aaaaaa"
ENCUESTA = "cmpEncuestaSatisfac1"
BIENVENIDA = "cmpBienvenidaNuevos1"

Script = Sequence[str | Sequence[tuple[str, Any]] | Completion | Exception]


class Clock:
    """Unix seconds that move only when told to."""

    def __init__(self, start: datetime = NOW) -> None:
        self.seconds = start.timestamp()

    def __call__(self) -> float:
        return self.seconds

    def date(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def tick(self, seconds: float) -> None:
        self.seconds += seconds


class ScriptedModel:
    """Answers in order: a text, or calls as [(tool, arguments)]. Keeps what it was shown."""

    name = "scripted"

    def __init__(self, script: Script = ()) -> None:
        self.script: list[Any] = list(script)
        self.seen: list[list[dict[str, Any]]] = []

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        self.seen.append(from_json(array(messages)))
        answer = self.script.pop(0) if self.script else "(nothing more)"
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            yield answer
            return
        if isinstance(answer, str):
            yield answer
            yield Completion(answer)
            return
        number = len(self.seen)
        calls = [
            Call(f"c{number}_{at}", tool, arguments if isinstance(arguments, str) else to_json(arguments).decode())
            for at, (tool, arguments) in enumerate(answer)
        ]
        yield Completion("", tuple(calls))

    async def aclose(self) -> None:
        pass

    def answers(self) -> dict[str, dict[str, Any]]:
        """Every tool answer of the last request, by call id."""
        return {m["tool_call_id"]: from_json(m["content"]) for m in self.seen[-1] if m["role"] == "tool"}


@dataclass
class World:
    """An agent and everything around it."""

    agent: Agent
    model: ScriptedModel
    store: Store
    clock: Clock
    transport: "Tap"
    folder: Path
    extra: dict[str, Any] = field(default_factory=dict)

    async def say(self, text: str | None, *script: Any, session: str = "s", **more: Any) -> list[AgentEvent]:
        self.model.script += script
        return [event async for event in self.agent.advance(session, text, **more)]

    async def decide(self, approval: str, decision: str, *script: Any, **more: Any) -> list[AgentEvent]:
        self.model.script += script
        return [event async for event in self.agent.decide(approval, decision, **more)]

    def gated(self) -> list[tuple[str, str]]:
        """The gated requests that arrived at the API: the ground truth of P1."""
        return [
            (row["method"], row["path"])
            for row in self.store.requests()
            if row["method"] == "DELETE" or row["path"].endswith("/send")
        ]


class Tap(httpx.AsyncBaseTransport):
    """Sees every request; `before` may raise, answer instead, or change the world first."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.seen: list[tuple[str, str]] = []
        self.before: Callable[[httpx.Request], httpx.Response | None] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.url.raw_path.decode()))
        if self.before is not None and (answer := self.before(request)) is not None:
            return answer
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


def settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **{"language": "en", "requests_per_second": 100_000.0, **more})  # type: ignore[call-arg]


def make_world(folder: Path, script: Script = (), *, key: str = LOCAL_KEY, **more: Any) -> World:
    clock = more.pop("clock", None) or Clock()
    app = more.pop("app", None) or create_app(":memory:", clock=clock.date, rate_limit=100_000)
    configured = settings(**more)
    transport = Tap(SandboxTransport(app))
    http = Wire(transport, SANDBOX_URL, httpx.Timeout(5.0))
    workspace = configured.platica_workspace
    platica = Platica(http, key=key, workspace=workspace, deadline=configured.request_deadline, requests_per_second=1e6)
    journal = open_journal(folder, clock)
    model = ScriptedModel(script)
    agent = Agent(configured, model=model, platica=platica, journal=journal, clock=clock, locale="en")
    return World(agent, model, app.state.store, clock, transport, folder)


# What tests ask of events and of the database.


def results(events: Sequence[AgentEvent]) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


def cards(events: Sequence[AgentEvent]) -> list[ApprovalAsked]:
    return [event for event in events if isinstance(event, ApprovalAsked)]


def card(events: Sequence[AgentEvent]) -> ApprovalAsked:
    """The one card among the events."""
    (only,) = cards(events)
    return only


def failure(events: Sequence[AgentEvent]) -> Failed:
    """The error that ended the turn."""
    assert isinstance(events[-1], Failed), events
    return events[-1]


def again(
    world: World,
    *,
    key: str = LOCAL_KEY,
    base_url: str = SANDBOX_URL,
    transport: Any = None,
    clock: Callable[[], float] | None = None,
    **more: Any,
) -> World:
    """Another process on the same database and API: a new agent with nothing in memory. `clock` is the process's own,
    where it isn't the database's."""
    configured = settings(**more)
    tap = transport or world.transport
    http = httpx.AsyncClient(transport=tap, base_url=base_url)
    workspace = configured.platica_workspace
    platica = Platica(http, key=key, workspace=workspace, deadline=configured.request_deadline, requests_per_second=1e6)
    journal = open_journal(world.folder, world.clock)
    model = ScriptedModel()
    agent = Agent(configured, model=model, platica=platica, journal=journal, clock=clock or world.clock, locale="en")
    return World(agent, model, world.store, world.clock, tap, world.folder)


def journal_url(folder: Path, *, bare: bool = False) -> str:
    """The database of everything that happens in one folder, on the engine that the test runs with."""
    return postgres.database(str(folder), bare=bare) if engine == "postgresql" else f"sqlite:///{folder / 'journal.db'}"


def open_journal(folder: Path, clock: Callable[[], float] | None = None) -> Journal:
    journals.append(Journal(journal_url(folder), clock=clock))
    return journals[-1]


def sql(world: World, statement: str, *values: Any) -> list[Any]:
    """Straight into the journal's database, as somebody with the file or the server could do it."""
    made = sqlalchemy.create_engine(journal_url(world.folder), poolclass=sqlalchemy.NullPool)
    with made.begin() as connection:
        if engine == "postgresql":
            statement = statement.replace("%", "%%").replace("?", "%s")
        found = connection.exec_driver_sql(statement, values)
        rows = [tuple(row) for row in found] if found.returns_rows else []
    made.dispose()
    return rows


def departures(world: World) -> list[tuple[str, str]]:
    """The gated requests that left the process, whether or not they arrived."""
    return [(m, path) for m, path in world.transport.seen if m == "DELETE" or path.partition("?")[0].endswith("/send")]


def assert_every_call_is_answered_once(messages: Sequence[dict[str, Any]]) -> None:
    """The shape that a chat-completions endpoint insists on."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, f"an answer to no call, or a second one: {message}"
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, f"calls without an answer before {message}: {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls") or []]
        assert len(set(waiting)) == len(waiting), f"one id for two calls: {waiting}"
    assert not waiting, f"calls without an answer: {waiting}"


@dataclass(frozen=True)
class Served:
    """One request as it came over a socket; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Loopback:
    """A server on a real socket that does to each request what `behave` says; `seen` is what arrived whole.

    `behave` writes raw bytes; the connection is closed after it.
    """

    def __init__(self, behave: Callable[[Served, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.behave = behave
        self.seen: list[Served] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Loopback":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            served = Served(first.split(" ")[0], first.split(" ")[1], headers, body)
            self.seen.append(served)
            await self.behave(served, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def http_answer(status: int, body: bytes | str | Any, *, kind: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP/1.1 answer; `body` is JSON unless it is bytes or text. Underscores in header names are dashes."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else to_json(body)
    fields = {"content-type": kind, "content-length": str(len(raw)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + raw
