"""The processes that are killed. One that has everything loaded forks a new one for each job, so that a start is cheap.

    python -m evals.chaos.worker      reads one job a line, says {"id", "pid"} and, later, {"id", "exit"}

A job: {"id", "url" of the API, "database", "clock" (seconds ahead), "out" (a file for the events), "kill" (a moment or
null), "do": "say" | "approve" | "resume", "session", "text" | "approval", "confirm"}.
"""

import asyncio
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg  # noqa: F401  (loaded before the forks, not in each)
from pydantic_core import from_json, to_json

from agent.domain import Json
from agent.events import AgentEvent, ApprovalAsked, Failed, Reply, ToolResult
from agent.gate import Identity
from agent.journal import Journal, Transaction
from agent.loop import Agent
from agent.model import Call, Completion
from agent.platica import Platica, Wire
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.settings import Settings

Result = TypeVar("Result")

WINDOWS = ("proposal", "approval", "intent", "request bytes", "response", "outcome", "reply")
"""Moments of a gated call, in their order: just after each of them a process is killed."""
CALLED = {"proposal": "propose", "approval": "decide", "intent": "attempt", "outcome": "end_attempt"}
"""What such a moment is to the journal: the commit in which this is called."""
ME = Identity("os", "4711", "chaos")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class Spy:
    """A transaction that remembers what was asked of it."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.calls: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.calls.add(name)
        return getattr(self._transaction, name)


class DeadlyJournal(Journal):
    """Kills the process with the commit of a named moment: just after it, or just before when `early`."""

    def __init__(self, url: str, clock: Callable[[], float], moment: str | None, *, early: bool) -> None:
        super().__init__(url, clock=clock)
        self._moment, self._early = moment, early

    async def write(self, job: Callable[[Transaction], Result]) -> Result:
        met = False

        def spied(transaction: Transaction) -> Result:
            nonlocal met
            spy: Any = Spy(transaction)
            result = job(spy)
            met = self._meets(spy.calls, result)
            if met and self._early:
                die()
            return result

        result = await super().write(spied)
        if met:
            die()
        return result

    def _meets(self, calls: set[str], result: object) -> bool:
        if self._moment == "reply":
            # The end of a turn: what is left of it is stored and the conversation given up.
            return "release" in calls and "end_attempt" not in calls
        return CALLED.get(self._moment or "") in calls


class DeadlyTransport(httpx.AsyncBaseTransport):
    """Kills the process when a gated request's bytes are out, or when its answer is in and nobody knows it yet."""

    def __init__(self, moment: str | None) -> None:
        self._inner, self._moment = httpx.AsyncHTTPTransport(), moment

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        gated = request.method == "DELETE" or request.url.path.endswith("/send")
        if gated and self._moment == "request bytes":
            request.extensions["trace"] = self._trace
        response = await self._inner.handle_async_request(request)
        if gated and self._moment == "response":
            await response.aread()
            die()
        return response

    async def _trace(self, name: str, info: object) -> None:
        if name == "http11.send_request_body.complete":
            die()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Clerk:
    """A model that does what its last message says, whoever runs it: `run TOOL ARGUMENTS`, then a word on the end."""

    name = "clerk"

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        last = from_json(messages[-1])
        if last["role"] == "tool":
            text = f"It ended as: {from_json(last['content'])['outcome']}."
            yield text
            yield Completion(text)
            return
        _, tool, arguments = last["content"].split(" ", 2)
        yield Completion("", (Call("", tool, arguments),))

    async def aclose(self) -> None:
        pass


def make(job: dict[str, Any]) -> Agent:
    ahead = float(job["clock"])
    moment, early = job.get("kill"), bool(job.get("early"))

    def clock() -> float:
        return time.time() + ahead

    settings = Settings(_env_file=None, request_deadline=5.0, requests_per_second=1e5)  # type: ignore[call-arg]
    http = Wire(DeadlyTransport(moment), job["url"], httpx.Timeout(5.0))
    platica = Platica(http, key=LOCAL_KEY, deadline=settings.request_deadline, requests_per_second=1e5)
    journal = DeadlyJournal(job["database"], clock, moment, early=early)
    return Agent(settings, model=Clerk(), platica=platica, journal=journal, clock=clock, locale="en")


def begin(agent: Agent, job: dict[str, Any]) -> AsyncGenerator[AgentEvent]:
    match job["do"]:
        case "say":
            return agent.advance(job["session"], job["text"], by=ME)
        case "approve":
            return agent.decide(job["approval"], "approve", by=ME, confirm=job["confirm"])
        case _:
            return agent.advance(job["session"], None, by=ME)


def told(event: AgentEvent) -> dict[str, Json] | None:
    """What the driver wants to know of an event."""
    match event:
        case ApprovalAsked(id=approval):
            return {"type": "card", "id": approval}
        case Reply(text):
            return {"type": "reply", "text": text}
        case ToolResult(_, _, _, outcome, line, _):
            return {"type": "result", "outcome": outcome, "line": line}
        case Failed(code, _, _):
            return {"type": "error", "code": code}
    return None


async def work(job: dict[str, Any]) -> None:
    agent = make(job)
    with Path(job["out"]).open("ab", buffering=0) as out:
        try:
            async for event in begin(agent, job):
                if (line := told(event)) is not None:
                    out.write(to_json(line) + b"\n")
        finally:
            await agent.aclose()


def fork(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        asyncio.run(work(job))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


async def warm_up() -> None:
    """One card, so that whatever is loaded late is loaded once and not in every process that is forked."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    http = Wire(SandboxTransport(create_app(":memory:")), "http://sandbox.invalid", httpx.Timeout(5.0))
    journal = Journal("sqlite://")
    agent = Agent(settings, model=Clerk(), platica=Platica(http, key=LOCAL_KEY), journal=journal, locale="en")
    async for _ in agent.advance("warm", 'run delete_campaign {"campaignId": "cmpEncuestaSatisfac1"}', by=ME):
        pass
    await agent.aclose()


def serve() -> None:
    """Until standard input ends. No thread lives here when a process is forked: it would be lost."""
    asyncio.run(warm_up())
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    os.set_blocking(sys.stdin.fileno(), False)
    children: dict[int, int] = {}
    rest = ""
    while True:
        if selector.select(timeout=0.004 if children else None):
            if not (text := os.read(sys.stdin.fileno(), 1 << 16).decode()):
                break
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                job = json.loads(line)
                children[pid := fork(job)] = job["id"]
                print(json.dumps({"id": job["id"], "pid": pid}), flush=True)
        for pid, status in reap(children):
            print(json.dumps({"id": children.pop(pid), "exit": os.waitstatus_to_exitcode(status)}), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def reap(children: dict[int, int]) -> Sequence[tuple[int, int]]:
    found = []
    for pid in children:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, status))
    return found


if __name__ == "__main__":
    serve()
