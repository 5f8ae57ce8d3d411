"""What tests share: a scripted model, and an agent over the real sandbox with a clock that stands still."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from pydantic_core import from_json, to_json

from agent.journal import Journal
from agent.loop import Agent, AgentEvent
from agent.model import Call, Completion
from agent.platica import Platica
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Store
from agent.settings import SANDBOX_URL, Settings

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

    async def complete(self, messages: bytes) -> AsyncIterator[str | Completion]:
        self.seen.append(from_json(messages))
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
    http = httpx.AsyncClient(transport=transport, base_url=SANDBOX_URL)
    workspace = configured.platica_workspace
    platica = Platica(http, key=key, workspace=workspace, deadline=configured.request_deadline, requests_per_second=1e6)
    journal = Journal(f"sqlite:///{folder / 'journal.db'}", clock=clock)
    model = ScriptedModel(script)
    agent = Agent(configured, model=model, platica=platica, journal=journal, clock=clock, locale="en")
    return World(agent, model, app.state.store, clock, transport, folder)
