"""Clicks on cards of the Slack bot: each does what it says or says why not, whoever clicks and whatever is down."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.fakeslack import BOT_USER, FakeSlack, Message
from tests.slackbot import ModelServer, answered, cards, gated, idle, running
from tests.test_slack import asked, model, slack

__all__ = ["model", "slack"]

AGAIN = "approval_ask_again"


async def expired(slack: FakeSlack, card: Message) -> None:
    await slack.wait_for(lambda: "Expired" in slack.text(card.ts))


def set_api(folder: Path, *, well: bool) -> None:
    """The campaigns API answers every read with 503, or is well again."""
    with contextlib.closing(sqlite3.connect(folder / "home" / "sandbox.db")) as connection, connection:
        connection.execute("DELETE FROM fault")
        if not well:
            row = "('503', 0, 1000, 'GET', '*', 0)"
            connection.execute(f"INSERT INTO fault (kind, seconds, times, method, path, exact) VALUES {row}")


@pytest.mark.parametrize("by", ["name", "group"])
async def test_who_may_not_ask_again_takes_it_from_nobody(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, by: str
) -> None:
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    group, channel = slack.add_group("chiefs", [cora]), slack.add_channel("promos", [ana, beto])
    approvers = f"*=slack:T0FAKE/{cora}" if by == "name" else f"*=slack-group:{group}"
    settings = {**model.settings, "APPROVAL_TTL": "1", "APPROVERS": approvers}
    async with running(slack, tmp_path, settings=settings):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        await expired(slack, card)
        await slack.click(beto, card.ts, AGAIN)
        (told,) = await slack.wait_for(lambda: slack.ephemerals(beto))
        assert "may not decide" in told
        await idle(tmp_path)
        assert len(cards(slack, said.thread_ts)) == 1
        await slack.click(ana, card.ts, AGAIN)
        await slack.wait_for(lambda: cards(slack, said.thread_ts)[1:])
        await idle(tmp_path)
    assert len(cards(slack, said.thread_ts)) == 2
    assert slack.ephemerals(ana) == []


async def test_asking_again_that_came_to_nothing_can_be_tried_again(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "1"}):
        said, card = await asked(slack, ana, "remove")
        await expired(slack, card)
        set_api(tmp_path, well=False)
        for number in (1, 2):
            await slack.click(ana, card.ts, AGAIN)
            told = await slack.wait_for(lambda n=number: (found := slack.ephemerals(ana))[n - 1 :] and found)
            assert "Service Unavailable" in told[-1]
            await idle(tmp_path)
        set_api(tmp_path, well=True)
        await slack.click(ana, card.ts, AGAIN)
        await slack.wait_for(lambda: cards(slack, said.thread_ts)[1:])
        await idle(tmp_path)
    assert len(cards(slack, said.thread_ts)) == 2
    assert len(slack.ephemerals(ana)) == 2


async def test_each_click_after_the_thread_went_on_is_told_so(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "1"}):
        said, card = await asked(slack, ana, "remove")
        await expired(slack, card)
        buttons = slack.message(card.ts).blocks
        await slack.say(ana, "hello", thread_ts=said.thread_ts)
        await answered(slack, said.thread_ts)
        for number in (1, 2, 3):
            await idle(tmp_path)
            # Also where a client still shows the card as it was.
            slack.message(card.ts).blocks = buttons
            await slack.click(ana, card.ts, AGAIN)
            told = await slack.wait_for(lambda n=number: (found := slack.ephemerals(ana))[n - 1 :] and found)
            assert "overtaken" in told[-1]
    assert len(cards(slack, said.thread_ts)) == 1


@pytest.mark.parametrize("replicas", [1, 2])
async def test_asking_again_twice_is_one_card_and_one_is_told(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, replicas: int
) -> None:
    """With two processes, each hears one of the clicks."""
    ana = slack.add_user("ana")
    settings = {**model.settings, "APPROVAL_TTL": "2"}
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(replicas):
            await stack.enter_async_context(running(slack, tmp_path, http=True, settings=settings))
        said, card = await asked(slack, ana, "remove")
        await expired(slack, card)
        buttons = slack.message(card.ts).blocks
        await slack.click(ana, card.ts, AGAIN, times=2)
        await slack.wait_for(lambda: slack.ephemerals(ana))
        await slack.wait_for(lambda: cards(slack, said.thread_ts)[1:])
        await idle(tmp_path)
        assert len(slack.ephemerals(ana)) == 1
        # One whose client shows the old card long after.
        await slack.wait_for(lambda: slack.buttons(card.ts) == [])
        slack.message(card.ts).blocks = buttons
        await slack.click(ana, card.ts, AGAIN)
        told = await slack.wait_for(lambda: (found := slack.ephemerals(ana))[1:] and found)
        assert "new card" in told[-1]
        await idle(tmp_path)
    assert len(cards(slack, said.thread_ts)) == 2
    assert gated(tmp_path) == []
