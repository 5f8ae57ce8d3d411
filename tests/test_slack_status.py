"""The Slack bot when Slack isn't well: how it starts, what a thread's session shows, and what becomes of an answer."""

import asyncio
import contextlib
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.interfaces.slack_manifest import manifest
from agent.prompts import words
from tests.fakeslack import APP_TOKEN, BOT_TOKEN, FakeSlack
from tests.slackbot import BotProcess, ModelServer, answered, last_words


class Walled(FakeSlack):
    """Whose websockets nobody reaches, until `open`."""

    open = False

    def new_socket_url(self) -> str:
        return super().new_socket_url() if self.open else "ws://127.0.0.1:9/link/"


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack(manifest(words("en", "America/Mexico_City"))) as made:
        yield made


@pytest.fixture
async def walled() -> AsyncIterator[Walled]:
    async with Walled(manifest(words("en", "America/Mexico_City"))) as made:
        yield made


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    def script(messages: list[dict[str, Any]]) -> Any:
        said = last_words(messages)
        named = {"slowly": ["one ", "…", "two"], "silent": ["…", "one two"]}
        return named.get(said, [f"heard {said}"])

    async with ModelServer(script) as server:
        yield server


# How it starts.


class Start(BotProcess):
    """A start whose end nobody waits for."""

    async def _ready(self) -> None:
        pass


WRONG = [
    ("SLACK_APP_TOKEN", "xapp-of-another-app", r"SLACK_APP_TOKEN: invalid_auth"),
    ("SLACK_APP_TOKEN", BOT_TOKEN, r"SLACK_APP_TOKEN holds .* begins with xapp-"),
    ("SLACK_BOT_TOKEN", APP_TOKEN, r"SLACK_BOT_TOKEN holds .* begins with xoxb-"),
]


@pytest.mark.parametrize(("name", "token", "told"), WRONG, ids=["wrong", "app-swapped", "bot-swapped"])
async def test_a_token_that_opens_no_socket_ends_the_start(
    slack: FakeSlack, tmp_path: Path, name: str, token: str, told: str
) -> None:
    environment = {**BotProcess(slack, tmp_path).environment, name: token}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "slack", env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(60):
            said, log = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 2
    assert said == b""
    assert re.search(told, log.decode())
    assert "Basic Information, App-Level Tokens" in log.decode()
    assert len(slack.calls("apps.connections.open")) <= 1


async def healthz(bot: BotProcess) -> tuple[int, dict[str, bool]]:
    """By what the log says of where it is: there is nothing on stdout yet."""
    found = re.search(r"http://\S+/healthz", bot.log())
    assert found, bot.log()
    async with aiohttp.ClientSession() as http, http.get(found[0]) as response:
        return response.status, await response.json()


async def test_where_no_websocket_passes_it_says_so_and_goes_on_trying(
    walled: Walled, tmp_path: Path, model: ModelServer
) -> None:
    ana = walled.add_user("ana")
    settings = {**model.settings, "SLACK_PING": "0.3"}
    async with Start(walled, tmp_path, health=True, settings=settings) as bot:
        await walled.wait_for(lambda: (tmp_path / "bot.log").exists() and "it is tried again" in bot.log(), 30)
        assert "Slack can't be reached: no websocket to 127.0.0.1" in bot.log()
        assert await healthz(bot) == (503, {"worker": True, "socket": False})
        walled.open = True
        said = await walled.say(ana, "hello")
        assert await answered(walled, said.thread_ts) == ["heard hello"]
        assert await healthz(bot) == (200, {"worker": True, "socket": True})


@pytest.mark.parametrize("where", ["auth.test", "apps.connections.open", "websocket"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_can_be_stopped_while_it_starts(walled: Walled, tmp_path: Path, where: str, number: int) -> None:
    if where != "websocket":
        walled.fault(where, hang=60)
    async with Start(walled, tmp_path, settings={"SLACK_PING": "60"}) as bot:
        await walled.wait_for(lambda: walled.calls("auth.test" if where == "auth.test" else "apps.connections.open"))
        await bot.end(number)
