"""The Slack bot as a real process in front of a fake Slack: started, killed, started again."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fakeslack import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, FakeSlack, Message
from tests.support import journal_url

ROOT = Path(__file__).parent.parent
READY_WITHIN = 60.0


@dataclass
class BotProcess:
    """One process of `campaign-agent slack`. `told` is what it says on stdout once it listens."""

    slack: FakeSlack
    folder: Path
    http: bool = False
    health: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        arguments = [*(["--http", "0"] if self.http else []), *(["--health", "0"] if self.health else [])]
        self._errors = (self.folder / "bot.log").open("ab")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent", "slack", *arguments),
            cwd=self.folder,
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
        )
        await self._ready()
        return self

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}
        tokens = {"SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN, "SLACK_SIGNING_SECRET": SIGNING_SECRET}
        own = {"STATE_DIR": str(self.folder / "home"), "DATABASE_URL": journal_url(self.folder), "LANGUAGE": "en"}
        own |= {"SLACK_API_URL": self.slack.api_url, "SLACK_SWEEP": "0.2", **self.settings}
        named = {name if name.startswith("OPENAI") else f"CAMPAIGN_AGENT_{name}": value for name, value in own.items()}
        return {**kept, **tokens, **named, "PYTHONPATH": str(ROOT)}

    async def _ready(self) -> None:
        assert self._process.stdout is not None
        try:
            line = (await asyncio.wait_for(self._process.stdout.readline(), READY_WITHIN)).decode()
        except TimeoutError:
            line = ""
        if not line.startswith("ready "):
            await self.kill()
            raise AssertionError(f"the bot did not start: {line!r}\n{self.log()}")
        self.told = dict(part.split("=", 1) for part in line.split()[1:])
        if self.http:
            self.slack.point(*self.slack.urls, self.told["events"])

    def log(self) -> str:
        return (self.folder / "bot.log").read_text()[-4_000:]

    async def __aexit__(self, *_: object) -> None:
        await self.end(signal.SIGTERM)

    async def kill(self) -> None:
        """As when the machine goes down: nothing is cleaned up."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int) -> int:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        code = await asyncio.wait_for(self._process.wait(), 30)
        self._errors.close()
        if self.http and self.told.get("events") in self.slack.urls:
            self.slack.urls.remove(self.told["events"])
        return code

    @property
    def pid(self) -> int:
        return self._process.pid


@contextlib.asynccontextmanager
async def running(slack: FakeSlack, folder: Path, **more: Any) -> AsyncIterator[BotProcess]:
    async with BotProcess(slack, folder, **more) as bot:
        yield bot


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
    """The texts of so many answers in a thread, once they are whole."""

    def whole() -> list[str]:
        found = answers(slack, thread_ts)
        over = [m for m in found if m.stream is None or m.stream.state == "stopped"]
        return [slack.text(m.ts) for m in over] if len(over) >= count else []

    return await slack.wait_for(whole, timeout)
