"""The Slack bot, killed at every step, beside a second one, at random: nothing lost, nothing twice, all in order."""

import asyncio
import contextlib
import random
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ENGINES
from tests.fakeslack import Delivery, FakeSlack, Message, Said, Timing
from tests.slackbot import ModelServer, answered, cards, gated, last_words, ledger, running, sql, tool_answers
from tests.support import ENCUESTA

REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})
both_engines = pytest.mark.parametrize("engine", ENGINES, indirect=True)
postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    def script(messages: list[dict[str, Any]]) -> Any:
        said, told = last_words(messages), tool_answers(messages)
        if told:
            return (
                ["…", f"outcome {told[-1]['outcome']}"]
                if said == "remove slowly"
                else [f"outcome {told[-1]['outcome']}"]
            )
        if said.startswith("remove"):
            return [REMOVE]
        named = {"slowly": ["one ", "…", "two"], "silent": ["…", "one two"]}
        return named.get(said, [f"heard {said}"])

    async with ModelServer(script) as server:
        yield server


def arm(folder: Path, kind: str, method: str, path: str) -> None:
    """The sandbox takes half a minute for the next such request, before it acts or after."""
    with contextlib.closing(sqlite3.connect(folder / "home" / "sandbox.db")) as connection, connection:
        columns = "(kind, seconds, times, method, path, exact)"
        connection.execute(f"INSERT INTO fault {columns} VALUES (?, 30, 1, ?, ?, 0)", (kind, method, path))


def disarm(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "home" / "sandbox.db")) as connection, connection:
        connection.execute("DELETE FROM fault")


# Killed at a step.

STEPS = [
    ("chat.startStream", False, "slowly"),
    ("chat.startStream", True, "slowly"),
    ("chat.stopStream", False, "slowly"),
    ("chat.stopStream", True, "slowly"),
    ("chat.postMessage", False, "hello"),
    ("chat.postMessage", True, "hello"),
]


@pytest.mark.parametrize(("method", "processed", "text"), STEPS, ids=lambda value: str(value))
async def test_killed_while_it_posts_an_answer(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, method: str, processed: bool, text: str
) -> None:
    """Whether Slack has done what it was asked, or not: the answer is there once."""
    ana = slack.add_user("ana")
    slack.fault(method, hang=60, processed=processed)
    if method == "chat.postMessage":
        slack.fault("chat.startStream", error="not_allowed", times=100)
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await slack.say(ana, text)
        if method == "chat.stopStream":
            await slack.wait_for(lambda: slack.calls("chat.startStream", ok=True))
            model.gate.set()
        await slack.wait_for(lambda: slack.calls(method))
        await bot.kill()
    model.gate.set()
    wanted = "one two" if text == "slowly" else "heard hello"
    async with running(slack, tmp_path, settings=model.settings):
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == [wanted])
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == [wanted, "next", "heard next"])


async def test_a_message_that_had_to_be_delivered_again_keeps_its_place(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """It arrives behind the next one, while both wait for a turn."""
    ana = slack.add_user("ana")
    slack.timing = Timing(retries=(0.5, 1.0, 1.0))
    async with running(slack, tmp_path, http=True, settings=model.settings):
        there = list(slack.urls)
        said = await slack.say(ana, "slowly")
        await slack.wait_for(lambda: model.requests)
        slack.point("http://127.0.0.1:9/slack/events")
        first = await slack.say(ana, "first", thread_ts=said.thread_ts, wait=False)
        await slack.wait_for(lambda: first.deliveries[0].attempts and first.deliveries[0].attempts[0].why)
        slack.point(*there)
        await slack.say(ana, "second", thread_ts=said.thread_ts)
        await first.deliveries[0].done.wait()
        model.gate.set()
        await slack.wait_for(lambda: len(await_texts(slack, said)) == 3)
        assert await_texts(slack, said) == ["one two", "heard first", "heard second"]


ENDS = [("silent", signal.SIGKILL), ("slowly", signal.SIGKILL), ("slowly", signal.SIGTERM)]


@both_engines
@pytest.mark.parametrize(("text", "number"), ENDS, ids=["silent-killed", "slowly-killed", "slowly-stopped"])
async def test_stopped_while_the_model_speaks(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, text: str, number: int
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await slack.say(ana, text)
        behind = await slack.say(ana, "behind", thread_ts=said.thread_ts)
        await slack.wait_for(lambda: model.requests)
        if text == "slowly":
            await slack.wait_for(lambda: "one" in slack.texts(thread_ts=said.thread_ts)[-1])
        await bot.end(number)
    model.gate.set()
    async with running(slack, tmp_path, settings=model.settings):
        await slack.wait_for(lambda: len(await_texts(slack, said)) == 2)
        assert await_texts(slack, said) == ["one two", "heard behind"]
    assert behind.deliveries[0].state == "acked"


def await_texts(slack: FakeSlack, said: Said) -> list[str]:
    """What the bot says in a thread, once none of it streams."""
    found = [m for m in slack.messages(thread_ts=said.thread_ts) if m.user == "U0FAKEBOT"]
    return [] if any(slack.streaming(m) for m in found) else [slack.text(m.ts) for m in found]


@pytest.mark.parametrize("processed", [False, True])
async def test_killed_while_it_posts_a_card(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, processed: bool
) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.postMessage", hang=60, processed=processed)
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await slack.say(ana, "remove")
        await slack.wait_for(lambda: slack.calls("chat.postMessage"))
        await bot.kill()
    async with running(slack, tmp_path, settings=model.settings):
        card = await the_card(slack, said)
        # It is on record: what becomes of it is shown.
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
    assert len(cards(slack, said.thread_ts)) == 1
    assert len(gated(tmp_path)) == 1


async def test_killed_between_a_task_and_its_card(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """What the dead process showed as under way says that it waits, as the card does."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings) as bot:
        await answered(slack, (await slack.say(ana, "hello")).thread_ts)
        arm(tmp_path, "delay", "GET", "/v1/campaigns*")
        said = await slack.say(ana, "remove")
        await slack.wait_for(lambda: "[in_progress]" in slack.texts(thread_ts=said.thread_ts)[-1])
        await bot.kill()
    disarm(tmp_path)
    async with running(slack, tmp_path, settings=model.settings):
        await the_card(slack, said)
        told = [text for text in await_texts(slack, said) if text == "⏸ Removes somebody from an audience"]
        assert len(told) == 1, slack.texts(thread_ts=said.thread_ts)
        assert "[in_progress]" not in "".join(slack.texts(thread_ts=said.thread_ts))


async def the_card(slack: FakeSlack, said: Said) -> Message:
    """The one card of a thread, once the bot has it on record: then the session waits."""
    await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "suspended")
    (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
    return card


@both_engines
@pytest.mark.parametrize("where", ["check", "before", "after", "words"])
async def test_killed_after_a_click(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, where: str, engine: str
) -> None:
    """While what was approved is looked at again, before and after the API acts, and while the model tells of it."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said = await slack.say(ana, "remove slowly")
        card = await the_card(slack, said)
        seen = len(ledger(tmp_path))
        if where == "check":
            arm(tmp_path, "delay", "GET", "/v1/campaigns*")
        elif where != "words":
            arm(tmp_path, {"before": "delay", "after": "delay_after"}[where], "DELETE", "*")
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        wanted: dict[str, Callable[[], Any]] = {
            "check": lambda: len(ledger(tmp_path)) > seen,
            "before": lambda: gated(tmp_path),
            "after": lambda: any(row["acted"] for row in gated(tmp_path)),
            "words": lambda: len(model.requests) == 2,
        }
        await slack.wait_for(wanted[where])
        # The buttons are gone at once, whatever takes so long.
        await slack.wait_for(lambda: not slack.buttons(card.ts))
        await bot.kill()
    model.gate.set()
    # An attempt is judged when its time is over, which here is now.
    sql(tmp_path, "UPDATE attempt SET deadline = 0")
    async with running(slack, tmp_path, settings=model.settings):
        outcome = "unknown" if where in ("before", "after") else "done"
        (text,) = await answered(slack, said.thread_ts)
        assert f"outcome {outcome}" in text
        shown = {"unknown": "Nobody knows whether it happened", "done": "Done:"}[outcome]
        await slack.wait_for(lambda: shown in slack.text(card.ts))
        await slack.settled()
    assert len(gated(tmp_path)) == 1
    assert len(cards(slack, said.thread_ts)) == 1


async def test_a_terminal_that_dies_with_what_it_approved_is_told_of_on_the_card(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Nobody writes in the thread again: the card says by itself that nobody knows."""
    ana = slack.add_user("ana")
    settings = {**model.settings, "ALLOW_NONINTERACTIVE_APPROVE": "1", "SLACK_SWEEP": "0.3"}
    async with running(slack, tmp_path, settings=settings) as bot:
        card = await the_card(slack, await slack.say(ana, "remove"))
        arm(tmp_path, "delay", "DELETE", "*")
        ((approval,),) = sql(tmp_path, "SELECT id FROM approval")
        terminal = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", "approve", approval, env=bot.environment, stdout=DEVNULL, stderr=DEVNULL
        )
        await slack.wait_for(lambda: gated(tmp_path), 30)
        terminal.kill()
        await terminal.wait()
        sql(tmp_path, "UPDATE attempt SET deadline = 0")
        await slack.wait_for(lambda: "Nobody knows whether it happened" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
    assert len(gated(tmp_path)) == 1


# At random, and beside others.


@both_engines
async def test_killed_at_random_nothing_is_lost_and_nothing_is_twice(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, engine: str
) -> None:
    dice = random.Random(7)
    people = [slack.add_user(f"p{number}") for number in range(5)]
    roots: dict[str, str] = {}
    sent: dict[str, list[str]] = {user: [] for user in people}
    deliveries: list[Delivery] = []
    bot = running(slack, tmp_path, settings=model.settings)
    here = await bot.__aenter__()
    for number in range(20):
        user = dice.choice(people)
        said = await slack.say(user, f"m{number}", thread_ts=roots.get(user), wait=False)
        roots.setdefault(user, said.thread_ts)
        sent[user].append(f"m{number}")
        deliveries += said.deliveries
        await asyncio.sleep(dice.random() * 0.05)
        if number % 5 == 4:
            await here.kill()
            bot = running(slack, tmp_path, settings=model.settings)
            here = await bot.__aenter__()
    try:
        for user, root in roots.items():
            wanted = [f"heard {text}" for text in sent[user]]

            def texts(root: str = root) -> list[str]:
                found = [m for m in slack.messages(thread_ts=root) if m.user == "U0FAKEBOT"]
                return [slack.text(m.ts) for m in found if not slack.streaming(m)]

            await slack.wait_for(lambda texts=texts, wanted=wanted: texts() == wanted, 30)
        assert {delivery.state for delivery in deliveries} == {"acked"}
    except AssertionError as problem:
        raise AssertionError(f"{problem}\n{here.state()}") from None
    finally:
        await here.kill()


@postgresql
async def test_two_replicas_share_the_work_and_one_takes_over(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, engine: str
) -> None:
    """Each does one turn at a time, so that two turns at once are of both."""
    ana = slack.add_user("ana")
    settings = {**model.settings, "SLACK_TURNS": "1"}
    one = running(slack, tmp_path, http=True, settings=settings)
    async with running(slack, tmp_path, http=True, settings=settings):
        first = await one.__aenter__()
        threads = [await slack.say(ana, "slowly", times=2) for _ in range(2)]
        await slack.wait_for(lambda: len(model.requests) == 2)
        behind = [await slack.say(ana, "behind", thread_ts=said.thread_ts) for said in threads]
        await first.kill()
        model.gate.set()
        for said in threads:
            await slack.wait_for(lambda said=said: await_texts(slack, said) == ["one two", "heard behind"], 15)
        assert {d.state for said in (*threads, *behind) for d in said.deliveries} == {"acked"}
    owners = sql(tmp_path, "SELECT count(*) FROM inbox WHERE done_at IS NULL")
    assert owners == [(0,)]


@both_engines
async def test_what_a_process_of_another_machine_left_is_taken_over_after_its_lease(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, engine: str
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "hello")
        await answered(slack, said.thread_ts)
        sql(tmp_path, f"UPDATE conversation SET owner = 'elsewhere/1/a', lease_until = {time.time() + 1}")
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        assert await_texts(slack, said) == ["heard hello"]
        assert await answered(slack, said.thread_ts, 2) == ["heard hello", "heard next"]
