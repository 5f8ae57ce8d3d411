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
from tests.fakeslack import APP_TOKEN, BOT_TOKEN, FakeSlack, Said
from tests.slackbot import BotProcess, ModelServer, answered, answers, cards, idle, last_words, running
from tests.support import ENCUESTA

REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})


class Walled(FakeSlack):
    """Whose websockets nobody reaches, until `open`."""

    open = False

    def new_socket_url(self) -> str:
        return super().new_socket_url() if self.open else "ws://127.0.0.1:9/link/"


@pytest.fixture
async def walled() -> AsyncIterator[Walled]:
    async with Walled(manifest(words("en", "America/Mexico_City"))) as made:
        yield made


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    def script(messages: list[dict[str, Any]]) -> Any:
        said = last_words(messages)
        if said == "remove":
            return [REMOVE]
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


# What a thread's session shows.


async def shows(slack: FakeSlack, said: Said, status: str) -> None:
    await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == status)


async def begun(slack: FakeSlack, user: str, text: str) -> Said:
    """A turn under way, in a workspace where nothing streams."""
    slack.fault("chat.startStream", error="not_allowed", times=1_000)
    said = await slack.say(user, text)
    await shows(slack, said, "processing")
    return said


async def test_a_turn_that_another_process_began_leaves_no_session_that_seems_to_run(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.postMessage", hang=60, processed=True)
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await begun(slack, ana, "silent")
        model.gate.set()
        await slack.wait_for(lambda: slack.calls("chat.postMessage"))
        await bot.kill()
    async with running(slack, tmp_path, settings=model.settings):
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await shows(slack, said, "active")


async def test_nor_does_one_whose_stream_died_meanwhile(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.stopStream", hang=60)
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await slack.say(ana, "slowly")
        await slack.wait_for(lambda: slack.calls("chat.startStream", ok=True))
        model.gate.set()
        await slack.wait_for(lambda: slack.calls("chat.stopStream"))
        await bot.kill()
    slack.tick(301)
    async with running(slack, tmp_path, settings=model.settings):
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await shows(slack, said, "active")


async def test_nor_does_one_that_is_tried_again(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.postMessage", error="invalid_blocks")
    async with running(slack, tmp_path, settings=model.settings):
        said = await begun(slack, ana, "silent")
        model.gate.set()
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await shows(slack, said, "active")


async def test_nor_does_one_that_is_given_up(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.postMessage", error="invalid_blocks", times=3)
    async with running(slack, tmp_path, settings=model.settings):
        said = await begun(slack, ana, "silent")
        model.gate.set()
        await slack.wait_for(lambda: slack.ephemerals(ana))
        await shows(slack, said, "active")


@pytest.mark.parametrize("fault", [{"status": 429}, {"status": 503}, {"drop": True}], ids=["429", "503", "dropped"])
async def test_how_a_turn_ended_is_told_again_where_slack_did_not_take_it(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, fault: dict[str, Any]
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await begun(slack, ana, "silent")
        slack.fault("agents.sessions.setStatus", **fault)
        model.gate.set()
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await shows(slack, said, "active")


async def test_the_turn_after_it_tells_it_too(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """What Slack wants told only in ten minutes is known before, from a turn that by itself tells nothing."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await begun(slack, ana, "silent")
        slack.fault("agents.sessions.setStatus", status=429, retry_after=600)
        model.gate.set()
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await idle(tmp_path)
        await slack.say(ana, "hello", thread_ts=said.thread_ts)
        await shows(slack, said, "active")


async def test_there_is_a_stop_button_where_nothing_streams(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Also where the first words come before anything is shown."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await begun(slack, ana, "slowly")
        await slack.stop(ana, said.channel, said.thread_ts)
        await slack.wait_for(lambda: "Stopped" in slack.texts(thread_ts=said.thread_ts)[-1])
        await shows(slack, said, "active")


@pytest.mark.parametrize(("text", "wanted"), [("hello", "active"), ("remove", "suspended")])
async def test_stop_where_nothing_runs_puts_right_what_the_session_shows(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, text: str, wanted: str
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, text)
        await slack.wait_for(lambda: cards(slack, said.thread_ts) or slack.texts(thread_ts=said.thread_ts)[1:])
        await idle(tmp_path)
        slack.set_session(said.channel, said.thread_ts, "processing")
        await slack.stop(ana, said.channel, said.thread_ts)
        await shows(slack, said, wanted)


async def test_a_short_turn_is_one_call(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "hello")
        await answered(slack, said.thread_ts)
        await idle(tmp_path)
        calls = [call.method for call in slack.calls()]
    assert calls == ["auth.test", "apps.connections.open", "chat.postMessage"]


# What becomes of an answer.


@pytest.mark.parametrize("error", ["token_revoked", "missing_scope", "account_inactive"])
async def test_what_an_administrator_has_to_repair_loses_no_answer(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, error: str
) -> None:
    """However often it was refused; and it is said in the log."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings) as bot:
        slack.fault("*", error=error, times=10_000)
        said = await slack.say(ana, "hello")
        # Where others are given up after the third.
        await slack.wait_for(lambda: bot.log().count(f"{error}. It is tried again until that is repaired") > 2, 15)
        behind = await slack.say(ana, "behind", thread_ts=said.thread_ts)
        slack.faults.clear()
        assert await answered(slack, said.thread_ts, 2) == ["heard hello", "heard behind"]
        assert slack.ephemerals(ana) == []
    assert behind.deliveries[0].state == "acked"
    assert len(model.requests) == 2


async def deleted(slack: FakeSlack, user: str) -> Said:
    """A turn under way whose message somebody deletes while it streams."""
    said = await slack.say(user, "slowly")
    (message,) = await slack.wait_for(lambda: answers(slack, said.thread_ts))
    await slack.wait_for(lambda: message.text == "one ")
    del slack.posted[message.channel, message.ts]
    return said


async def test_an_answer_whose_message_is_deleted_is_shown_whole(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await deleted(slack, ana)
        model.gate.set()
        assert await answered(slack, said.thread_ts) == ["one two"]
        await shows(slack, said, "active")
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["one two", "heard next"]


async def test_and_once_where_the_process_dies_then(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.postMessage", hang=60, processed=True)
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await deleted(slack, ana)
        model.gate.set()
        await slack.wait_for(lambda: slack.calls("chat.postMessage"))
        await bot.kill()
    async with running(slack, tmp_path, settings=model.settings):
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["one two", "heard next"]


async def test_in_a_thread_that_is_gone_there_is_silence(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await deleted(slack, ana)
        del slack.posted[said.channel, said.thread_ts]
        model.gate.set()
        await idle(tmp_path)
        other = await slack.say(ana, "hello")
        assert await answered(slack, other.thread_ts) == ["heard hello"]
    assert slack.texts() == ["hello", "heard hello"]
    assert slack.ephemerals(ana) == []
