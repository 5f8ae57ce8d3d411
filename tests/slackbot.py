"""The Slack bot as a real process in front of a fake Slack: started, killed, started again.

A process that has everything loaded is forked for each, so that a start takes a tenth of a second and not seconds.
"""

import asyncio
import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import sqlalchemy

from tests.fakeslack import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, FakeSlack, Message
from tests.support import Loopback, Served, journal_url

ROOT = Path(__file__).parent.parent
READY_WITHIN = 60.0
DEAD: set[str] = set()
"""Request URLs of processes that have ended."""


# Processes.


@cache
def _nursery() -> "subprocess.Popen[str]":
    """The process that others are forked from."""
    made = subprocess.Popen(
        [sys.executable, "-m", "tests.slackbot"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    atexit.register(made.kill)
    return made


def fork(wanted: dict[str, Any]) -> int:
    """Starts `campaign-agent` with these arguments, environment and folder. Returns its process id."""
    nursery = _nursery()
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(wanted) + "\n")
    nursery.stdin.flush()
    return int(nursery.stdout.readline())


def _bring_up() -> None:
    """In the nursery: everything is loaded, no thread runs, and each line is one process to start."""
    import openai  # noqa: F401
    import slack_bolt.adapter.socket_mode.async_handler
    import slack_bolt.adapter.starlette.async_handler
    import slack_bolt.async_app  # noqa: F401
    import uvicorn  # noqa: F401
    from sqlalchemy.dialects import postgresql, sqlite  # noqa: F401

    import agent.interfaces.slack
    import agent.sandbox.api
    import agent.sandbox.model  # noqa: F401
    from agent.cli import run

    # So that whoever ends is gone at once: one that is only not collected yet would count as alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(AttributeError, OSError):
            # It dies with the nursery, which ends with the tests: nothing is left when those are killed.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.setsid()
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["folder"])
        for path, number in ((os.devnull, 0), (wanted["out"], 1), (wanted["log"], 2)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
        code = 70
        try:
            code = run(wanted["arguments"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


@dataclass
class BotProcess:
    """One process of `campaign-agent slack`. `told` is what it says on stdout once it listens."""

    slack: FakeSlack
    folder: Path
    http: bool = False
    health: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    async def __aenter__(self) -> Self:
        arguments = [*(["--http", "0"] if self.http else []), *(["--health", "0"] if self.health else [])]
        self._said = self.folder / f"bot-{time.monotonic_ns()}.out"
        wanted = {"arguments": ["slack", *arguments], "folder": str(self.folder), "environment": self.environment}
        self.pid = fork({**wanted, "out": str(self._said), "log": str(self.folder / "bot.log")})
        await self._ready()
        return self

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}
        tokens = {"SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN, "SLACK_SIGNING_SECRET": SIGNING_SECRET}
        own = {"STATE_DIR": str(self.folder / "home"), "DATABASE_URL": journal_url(self.folder), "LANGUAGE": "en"}
        own |= {"SLACK_API_URL": self.slack.api_url, "SLACK_SWEEP": "0.2", **self.settings}
        named = {name if name.startswith("OPENAI") else f"CAMPAIGN_AGENT_{name}": value for name, value in own.items()}
        return {**kept, **tokens, **named, "PYTHONPATH": str(ROOT)}

    async def _ready(self) -> None:
        end = time.monotonic() + READY_WITHIN
        while not (self._said.exists() and self._said.read_text().endswith("\n")):
            if time.monotonic() > end or not self.lives:
                await self.kill()
                raise AssertionError(f"the bot did not start:\n{self.log()}")
            await asyncio.sleep(0.01)
        self.told = dict(part.split("=", 1) for part in self._said.read_text().split()[1:])
        if self.http:
            # Until another one is there, Slack goes on knocking at the door of one that is dead.
            self.slack.point(*(url for url in self.slack.urls if url not in DEAD), self.told["events"])

    @property
    def lives(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def state(self) -> str:
        """What is open, for the message of an assertion."""
        items = sql(self.folder, "SELECT id, key, kind, tries, seq, wake_at FROM inbox WHERE done_at IS NULL")
        held = sql(self.folder, "SELECT id, owner, lease_until FROM conversation WHERE owner IS NOT NULL")
        return f"process {self.pid}; open: {items}; held: {held}; {self.log()}"

    def log(self) -> str:
        return (self.folder / "bot.log").read_text()[-4_000:]

    async def __aexit__(self, *_: object) -> None:
        await self.end(signal.SIGTERM)

    async def kill(self) -> None:
        """As when the machine goes down: nothing is cleaned up."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        end = time.monotonic() + 30
        while self.lives:
            assert time.monotonic() < end, f"the bot does not end:\n{self.log()}"
            await asyncio.sleep(0.01)
        DEAD.add(self.told.get("events", ""))


@contextlib.asynccontextmanager
async def running(slack: FakeSlack, folder: Path, **more: Any) -> AsyncIterator[BotProcess]:
    async with BotProcess(slack, folder, **more) as bot:
        yield bot


# A model to script.

Words = Sequence[str]
"""Pieces of an answer, as they are streamed."""
Calls = list[tuple[str, dict[str, Any]]]


class ModelServer(Loopback):
    """An OpenAI-compatible server: `script` makes of the messages the pieces of an answer, or calls.

    A piece "…" waits until the test opens the `gate`.
    """

    def __init__(self, script: Callable[[list[dict[str, Any]]], Words | Calls]) -> None:
        super().__init__(self._answer)
        self.script, self.gate = script, asyncio.Event()
        self.requests: list[list[dict[str, Any]]] = []

    @property
    def settings(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": self.url + "/v1", "OPENAI_API_KEY": "model-key-of-tests"}

    async def _answer(self, served: Served, writer: asyncio.StreamWriter) -> None:
        messages = json.loads(served.body)["messages"]
        self.requests.append(messages)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        found = self.script(messages)
        calls = [one for one in found if isinstance(one, tuple)]
        for piece in [one for one in found if isinstance(one, str)]:
            if piece == "…":
                await writer.drain()
                await self.gate.wait()
            else:
                writer.write(_event({"content": piece}))
        if calls:
            number = len(self.requests)
            made = [
                {"index": at, "id": f"m{number}_{at}", "type": "function"}
                | {"function": {"name": name, "arguments": json.dumps(arguments)}}
                for at, (name, arguments) in enumerate(calls)
            ]
            writer.write(_event({"tool_calls": made}))
        writer.write(_event({}, finish_reason="tool_calls" if calls else "stop") + b"data: [DONE]\n\n")


def _event(delta: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, **more}]}).encode() + b"\n\n"


def last_words(messages: list[dict[str, Any]]) -> str:
    """What the person said last."""
    return str([m["content"] for m in messages if m["role"] == "user"][-1])


def tool_answers(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool answers since the person spoke last."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "user":
            found = []
        elif message["role"] == "tool":
            found.append(json.loads(message["content"]))
    return found


# What tests ask of the sandbox, which the bots of one folder share.


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The requests that arrived at the campaigns API, oldest first."""
    with contextlib.closing(sqlite3.connect(folder / "home" / "sandbox.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM request_log ORDER BY seq")]


def gated(folder: Path) -> list[dict[str, Any]]:
    """Those that nobody may send without an approval."""
    return [row for row in ledger(folder) if row["method"] == "DELETE" or row["path"].endswith("/send")]


async def idle(folder: Path) -> None:
    """Until nothing waits in the bot's inbox."""
    async with asyncio.timeout(15):
        while sql(folder, "SELECT count(*) FROM inbox WHERE done_at IS NULL") != [(0,)]:
            await asyncio.sleep(0.02)


def sql(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Straight into the bot's database."""
    engine = sqlalchemy.create_engine(journal_url(folder), poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        found = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in found] if found.returns_rows else []
    engine.dispose()
    return rows


# What tests ask of the fake.


def answers(slack: FakeSlack, thread_ts: str) -> list[Message]:
    """What the bot has posted in a thread, but for cards."""
    return [m for m in slack.messages(thread_ts=thread_ts) if m.user == "U0FAKEBOT" and not is_card(m)]


def is_card(message: Message) -> bool:
    return any(block["type"] == "header" for block in message.blocks)


def cards(slack: FakeSlack, thread_ts: str) -> list[Message]:
    return [m for m in slack.messages(thread_ts=thread_ts) if m.user == "U0FAKEBOT" and is_card(m)]


def approval_of(slack: FakeSlack, card: Message) -> str:
    return str(re.search(r"[Aa]pproval ([A-Za-z0-9]+)", slack.text(card.ts))[1])  # type: ignore[index]


async def answered(slack: FakeSlack, thread_ts: str, count: int = 1, timeout: float = 15.0) -> list[str]:
    """The texts of so many answers in a thread, once they are whole, without the tasks that some begin with."""

    def whole() -> list[str]:
        over = [m for m in answers(slack, thread_ts) if m.stream is None or m.stream.state == "stopped"]
        texts = [re.sub(r"^\[(?:pending|complete|error)\] .*\n?", "", slack.text(m.ts), flags=re.M) for m in over]
        found = [text for text in texts if text]
        return found if len(found) >= count else []

    return await slack.wait_for(whole, timeout)


if __name__ == "__main__":
    _bring_up()
