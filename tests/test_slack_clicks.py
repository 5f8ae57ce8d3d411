"""Clicks on cards of the Slack bot: each does what it says or says why not, whoever clicks and whatever is down."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.fakeslack import BOT_USER, FakeSlack, Message
from tests.slackbot import ModelServer, answered, answers, cards, gated, idle, running, sql
from tests.test_slack import asked, model

__all__ = ["model"]

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
        (told,) = slack.ephemerals(ana)
        assert "again already" in told
        # One whose client shows the old card long after.
        await slack.wait_for(lambda: slack.buttons(card.ts) == [])
        slack.message(card.ts).blocks = buttons
        await slack.click(ana, card.ts, AGAIN)
        _, late = await slack.wait_for(lambda: (found := slack.ephemerals(ana))[1:] and found)
        assert "new card in the thread" in late
        await idle(tmp_path)
    assert len(cards(slack, said.thread_ts)) == 2
    assert gated(tmp_path) == []


# People of another workspace, in a channel that is shared with it.


async def test_another_workspace_is_told_where_it_speaks_to_the_bot_and_once(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana, eva = slack.add_user("ana"), slack.add_user("eva", team="T0OTHER")
    channel = slack.add_channel("shared", [ana, eva])
    async with running(slack, tmp_path, settings=model.settings):
        root = await slack.say(ana, "lunch?", channel)
        await slack.say(eva, "yes please", channel, root.thread_ts)
        await slack.say(eva, f"<@{BOT_USER}> hi", channel)
        await slack.wait_for(lambda: slack.ephemerals(eva))
        said = await slack.say(ana, f"<@{BOT_USER}> first", channel)
        assert await answered(slack, said.thread_ts) == ["heard first"]
        assert len(slack.ephemerals(eva)) == 1
        await slack.say(eva, "second", channel, said.thread_ts)
        await slack.wait_for(lambda: slack.ephemerals(eva)[1:])
        await slack.say(eva, "third", channel, said.thread_ts)
        await slack.say(eva, f"<@{BOT_USER}> fourth", channel, said.thread_ts)
        await slack.wait_for(lambda: slack.ephemerals(eva)[2:])
        # What eva said made no thread one of the bot's.
        for thread in (root.thread_ts, slack.messages(channel)[2].ts):
            await slack.say(ana, "aside", channel, thread)
        await slack.say(ana, "last", channel, said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["heard first", "heard last"]
        await slack.settled()
    assert len(model.requests) == 2
    assert set(slack.ephemerals(eva)) == {"I only work for people of this workspace."}
    assert len(slack.ephemerals(eva)) == 3


@pytest.mark.parametrize("named", [True, False])
async def test_another_workspace_stops_nothing(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, named: bool
) -> None:
    """Whether Slack names the team of whoever pressed or not, and also where they have spoken here before."""
    ana, beto, eva = slack.add_user("ana"), slack.add_user("beto"), slack.add_user("eva", team="T0OTHER")
    channel = slack.add_channel("shared", [ana, beto, eva])
    async with running(slack, tmp_path, settings=model.settings):
        elsewhere = await slack.say(beto, f"<@{BOT_USER}> hello", channel)
        await answered(slack, elsewhere.thread_ts)
        await slack.say(eva, f"<@{BOT_USER}> hello", channel)
        said = await slack.say(ana, f"<@{BOT_USER}> slowly", channel)
        await slack.wait_for(lambda: slack.session_status(channel, said.thread_ts) == "processing")
        await slack.wait_for(lambda: answers(slack, said.thread_ts))
        stop = {"type": "agent_session_stopped", "channel": channel, "thread_ts": said.thread_ts, "user": eva}
        stop |= {"streaming_message_ts": [], "event_ts": slack.new_ts()} | ({"user_team": "T0OTHER"} if named else {})
        (delivery,) = slack.emit("agent_session_stopped", stop, shared=True)
        await delivery.done.wait()
        assert delivery.state == "acked"
        model.gate.set()
        assert await answered(slack, said.thread_ts) == ["one two"]
        await idle(tmp_path)
        assert sql(tmp_path, "SELECT key FROM inbox WHERE kind = 'stop'") == []
        # Somebody of the workspace who has spoken with the bot elsewhere does stop it.
        model.gate.clear()
        again = await slack.say(ana, f"<@{BOT_USER}> slowly", channel)
        await slack.wait_for(lambda: slack.session_status(channel, again.thread_ts) == "processing")
        await slack.wait_for(lambda: answers(slack, again.thread_ts))
        await slack.stop(beto, channel, again.thread_ts)
        await slack.wait_for(lambda: any("Stopped" in text for text in slack.texts(thread_ts=again.thread_ts)))
    model.gate.set()


# User groups that decide.


@pytest.mark.parametrize("action", ["approval_approve_typed", "approval_edit", "approval_deny"])
async def test_a_modal_opens_for_who_is_in_the_group_at_the_click(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, action: str
) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    group, channel = slack.add_group("chiefs", [ana]), slack.add_channel("promos", [ana, beto])
    async with running(slack, tmp_path, settings={**model.settings, "APPROVERS": f"*=slack-group:{group}"}):
        said = await slack.say(ana, f"<@{BOT_USER}> delete", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        await slack.click(beto, card.ts, action)
        (told,) = await slack.wait_for(lambda: slack.ephemerals(beto))
        assert "may not decide" in told
        assert not slack.stacks.get(beto)
        slack.groups[group] = ("chiefs", [ana, beto])
        await slack.click(beto, card.ts, action)
        await slack.wait_for(lambda: slack.stacks.get(beto))
        slack.groups[group] = ("chiefs", [beto])
        before = len(slack.ephemerals(ana))
        await slack.click(ana, card.ts, "approval_approve_typed")
        await slack.wait_for(lambda: len(slack.ephemerals(ana)) > before)
        assert not slack.stacks.get(ana)


async def test_a_group_that_slack_is_slow_to_give_keeps_no_modal_closed(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Before anything is decided it is asked for again."""
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    group, channel = slack.add_group("chiefs", [beto]), slack.add_channel("promos", [ana, beto])
    async with running(slack, tmp_path, settings={**model.settings, "APPROVERS": f"*=slack-group:{group}"}):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        slack.fault("usergroups.users.list", hang=10)
        await slack.click(beto, card.ts, "approval_deny")
        view = await slack.wait_for(lambda: slack.stacks.get(beto) and slack.view(beto))
        await slack.submit(beto, view["id"], {})
        await slack.wait_for(lambda: "Denied" in slack.text(card.ts))
    assert slack.ephemerals(beto) == []


async def test_a_group_that_slack_can_not_give_is_not_a_no(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    group, channel = slack.add_group("chiefs", [beto]), slack.add_channel("promos", [ana, beto, cora])
    approvers = f"*=slack:T0FAKE/{cora}, slack-group:{group}"
    async with running(slack, tmp_path, settings={**model.settings, "APPROVERS": approvers}):
        said = await slack.say(ana, f"<@{BOT_USER}> both", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        slack.fault("usergroups.users.list", status=503, times=1_000)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        (told,) = await slack.wait_for(lambda: slack.ephemerals(beto), 15)
        assert "could not be asked" in told
        assert "may not" not in told
        assert gated(tmp_path) == []
        await idle(tmp_path)
        # It comes back while this click is at work.
        slack.faults.clear()
        slack.fault("usergroups.users.list", status=503, times=3)
        await slack.wait_for(lambda: slack.buttons(card.ts))
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts), 15)
        # Whom policy names needs no group.
        _, other = await slack.wait_for(lambda: (found := cards(slack, said.thread_ts))[1:] and found, 15)
        slack.fault("usergroups.users.list", status=503, times=1_000)
        await slack.click(cora, other.ts, "approval_deny")
        view = await slack.wait_for(lambda: slack.stacks.get(cora) and slack.view(cora))
        await slack.submit(cora, view["id"], {})
        await slack.wait_for(lambda: "Denied" in slack.text(other.ts), 15)
    assert len(gated(tmp_path)) == 1
    assert (len(slack.ephemerals(beto)), slack.ephemerals(cora)) == (1, [])
