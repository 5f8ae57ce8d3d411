"""How fast the Slack bot acknowledges while turns run: `python -m evals.bench.slack`. Exit 1 if the bound is missed.

Bot, fake Slack, model and campaigns API are processes of their own, and this one sends the events: signed, as Slack
does, at even distances whatever becomes of those before, each as the next message of one of many threads. The model
answers at once, so that there is always a turn to run.

    --mode NAME      http (default) or socket
    --seconds N      of a window (default 60)
    --windows N      (default 5), after some seconds that don't count
    --rate N         events a second (default 50)
    --threads N      (default 200)
    --json FILE
"""

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from evals.bench.turn import ROOT, Server
from tests.fakeslack import APP, APP_TOKEN, BOT_TOKEN, BOT_USER, SIGNING_SECRET, TEAM

BOUND = 200.0
"""Milliseconds to the acknowledgement, of the 99th in a hundred, in the worst window."""
SLACK_WAITS = 3.0
WARM_UP = 5.0
LOOKUP_EVERY = 4
"""Every such message makes the model look twice at campaigns before it answers; it answers the others at once."""


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


@dataclass(slots=True)
class Window:
    """What was sent in it. `took` is milliseconds to each acknowledgement; `late` how much too late each was sent."""

    took: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    refused: int = 0
    turns: int = 0
    posted: int = 0
    waiting: int = 0
    bot_cpu: float = 0.0

    def line(self, number: int) -> str:
        p50, p99 = quantile(self.took, 0.5), quantile(self.took, 0.99)
        times = f"{p50:>8.1f} {p99:>8.1f} {max(self.took, default=float('nan')):>8.1f}"
        counts = f"{self.refused:>8} {self.turns:>7} {self.posted:>8} {self.waiting:>8} {self.bot_cpu:>7.0%}"
        return f"{number:>6} {len(self.took):>7} {times} {counts} {quantile(self.late, 0.99):>9.1f}"


HEAD = "window   acked   p50 ms   p99 ms   max ms   failed   turns   posted  waiting bot CPU  p99 late"


class Bot:
    """`campaign-agent slack` as it is deployed, with the services that it needs and a journal on the disk."""

    def __init__(self, mode: str, threads: int, socket_url: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-slack-"))
        self._log = self.folder / "log"
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        env = {name: value for name, value in env.items() if not name.startswith(("CAMPAIGN_AGENT_", "PLATICA_"))}
        env["PYTHONPATH"] = str(ROOT)
        self._servers = [Server("model", env), Server("api", env)]
        self._fake = self._start(env, "evals.bench.fakes", str(threads), socket_url)
        told = json.loads(self._read(self._fake))
        self.threads: list[dict[str, str]] = told["threads"]
        env |= {"OPENAI_BASE_URL": f"{self._servers[0].url}/v1", "OPENAI_API_KEY": "sk-bench"}
        env |= {"PLATICA_BASE_URL": self._servers[1].url, "PLATICA_API_KEY": "pl_key_bench_secret"}
        env |= {"SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN, "SLACK_SIGNING_SECRET": SIGNING_SECRET}
        own = {"LANGUAGE": "es", "MODEL": "mock", "REQUESTS_PER_SECOND": "1000000", "SLACK_API_URL": told["url"]}
        own["STATE_DIR"] = str(self.folder)
        self._env = env | {f"CAMPAIGN_AGENT_{name}": value for name, value in own.items()}
        self._mode = mode
        self.events = ""

    def _start(self, env: dict[str, str], module: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", module, *arguments]
        pipe = subprocess.PIPE
        with self._log.open("a") as log:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=env, cwd=self.folder)

    def _read(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        if not (line := process.stdout.readline()):
            raise SystemExit(f"a process ended:\n{self._log.read_text()[-2_000:]}")
        return line

    def start(self) -> None:
        """Until the bot listens."""
        how = ["--http", "0"] if self._mode == "http" else []
        self._bot = self._start(self._env, "agent", "slack", *how)
        told = dict(part.split("=", 1) for part in self._read(self._bot).split()[1:])
        if self._mode == "http":
            self.events = told["events"]
            self._tell(self.events)

    def _tell(self, line: str) -> None:
        assert self._fake.stdin is not None
        self._fake.stdin.write(line + "\n")
        self._fake.stdin.flush()

    def counts(self) -> tuple[int, int, int, float]:
        """Turns finished, messages posted, messages that wait, and CPU seconds of the bot, since it started."""
        self._tell("")
        posted = int(self._read(self._fake))
        with contextlib.closing(sqlite3.connect(self.folder / "journal.db")) as journal:
            statement = "SELECT count(done_at), count(*) - count(done_at) FROM inbox WHERE kind = 'message'"
            turns, waiting = journal.execute(statement).fetchone()
        used = Path(f"/proc/{self._bot.pid}/stat").read_text().rpartition(") ")[2].split()
        return turns, posted, waiting, (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # There are always turns left; nobody waits for them.
        for process in (self._bot, self._fake) if hasattr(self, "_bot") else (self._fake,):
            process.kill()
            process.wait(timeout=10)
        for server in self._servers:
            server.close()
        shutil.rmtree(self.folder)


class Sender(ABC):
    """Sends events. What Slack would send again, since nothing came within its three seconds, counts as failed."""

    def __init__(self, threads: list[dict[str, str]]) -> None:
        self._threads, self._number = threads, itertools.count(1)

    def payload(self) -> dict[str, Any]:
        """The next message of the next thread."""
        number = next(self._number)
        at = self._threads[number % len(self._threads)]
        text = f"¿qué hay? {number}" if number % LOOKUP_EVERY == 0 else f"hola {number}"
        # The fake counts from one.
        ts = f"{int(time.time())}.{number % 500_000 + 500_000:06d}"
        event = {"type": "message", "channel_type": "im", "team": TEAM, "text": text, "ts": ts, "event_ts": ts, **at}
        event |= {"client_msg_id": str(uuid.uuid4()), "parent_user_id": at["user"]}
        outer = {"token": "", "team_id": TEAM, "context_team_id": TEAM, "api_app_id": APP, "type": "event_callback"}
        to = {"enterprise_id": None, "team_id": TEAM, "user_id": BOT_USER, "is_bot": True}
        return {**outer, "event": event, "event_id": f"EvBench{number}", "event_time": int(time.time())} | {
            "authorizations": [to]
        }

    @abstractmethod
    async def send(self, payload: dict[str, Any]) -> bool:
        """Whether it was acknowledged in time."""


class Http(Sender):
    def __init__(self, threads: list[dict[str, str]], session: aiohttp.ClientSession) -> None:
        super().__init__(threads)
        self.url, self._session = "", session

    async def send(self, payload: dict[str, Any]) -> bool:
        body, stamp = json.dumps(payload).encode(), str(int(time.time()))
        digest = hmac.new(SIGNING_SECRET.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Slack-Request-Timestamp": stamp}
        headers["X-Slack-Signature"] = f"v0={digest}"
        try:
            async with self._session.post(self.url, data=body, headers=headers) as response:
                await response.read()
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError):
            return False


class Socket(Sender):
    """The other end of the bot's socket."""

    def __init__(self) -> None:
        super().__init__([])
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._socket: web.WebSocketResponse | None = None

    def point(self, threads: list[dict[str, str]]) -> None:
        self._threads = threads

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        self._socket = socket = web.WebSocketResponse(autoping=True)
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": APP}})
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT and message.data.startswith("{"):
                known = self._waiting.pop(str(json.loads(message.data).get("envelope_id")), None)
                if known is not None and not known.done():
                    known.set_result(True)
        return socket

    async def send(self, payload: dict[str, Any]) -> bool:
        assert self._socket is not None
        envelope = str(uuid.uuid4())
        self._waiting[envelope] = answered = asyncio.get_running_loop().create_future()
        sent = {"envelope_id": envelope, "type": "events_api", "payload": payload, "accepts_response_payload": False}
        try:
            await self._socket.send_json({**sent, "retry_attempt": 0, "retry_reason": ""})
            return await asyncio.wait_for(answered, SLACK_WAITS)
        except (TimeoutError, ConnectionError):
            return False


@contextlib.asynccontextmanager
async def listening(socket: Socket) -> AsyncIterator[str]:
    """Where the bot's socket may come."""
    app = web.Application()
    app.router.add_get("/link/", socket.accept)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/link/"
    finally:
        await runner.cleanup()


async def pour(sender: Sender, seconds: float, rate: float) -> Window:
    """One window, until the last of its events is acknowledged or given up."""
    window, start = Window(), time.perf_counter()

    async def one(due: float) -> None:
        payload, sent = sender.payload(), time.perf_counter()
        acked = await sender.send(payload)
        window.late.append((sent - due) * 1000)
        if acked:
            window.took.append((time.perf_counter() - sent) * 1000)
        else:
            window.refused += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(round(seconds * rate)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(due))
    return window


async def measure(bot: Bot, sender: Sender, options: argparse.Namespace) -> list[Window]:
    print(HEAD, flush=True)
    await pour(sender, WARM_UP, options.rate)
    windows: list[Window] = []
    for number in range(1, options.windows + 1):
        before, start = await asyncio.to_thread(bot.counts), time.perf_counter()
        window = await pour(sender, options.seconds, options.rate)
        passed, after = time.perf_counter() - start, await asyncio.to_thread(bot.counts)
        window.turns, window.posted, window.waiting = after[0] - before[0], after[1] - before[1], after[2]
        window.bot_cpu = (after[3] - before[3]) / passed
        windows.append(window)
        print(window.line(number), flush=True)
    return windows


async def run(options: argparse.Namespace) -> list[Window]:
    socket = Socket()
    limit = aiohttp.ClientTimeout(total=SLACK_WAITS)
    async with (
        listening(socket) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit) as session,
    ):
        with Bot(options.mode, options.threads, url) as bot:
            await asyncio.to_thread(bot.start)
            if options.mode == "socket":
                socket.point(bot.threads)
                return await measure(bot, socket, options)
            http = Http(bot.threads, session)
            http.url = bot.events
            return await measure(bot, http, options)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evals.bench.slack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=["http", "socket"], default="http")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--threads", type=int, default=200)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    # So that whoever ends this ends its processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    windows = asyncio.run(run(options))
    worst = max(quantile(window.took, 0.99) for window in windows)
    failed, turns = sum(window.refused for window in windows), min(window.turns for window in windows)
    good = worst <= BOUND and not failed and turns > 0
    verdict = "yes" if good else "NO"
    print(f"p99 of the worst window: {worst:.1f} ms, not acknowledged: {failed}; at most {BOUND:.0f} ms, 0: {verdict}")
    if options.json:
        options.json.write_text(json.dumps([asdict(window) for window in windows], indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
