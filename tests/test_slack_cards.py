"""What cards in Slack show and to whom, as the bot's process has it: all who decided, what waits, and reminders."""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.interfaces.slack_manifest import manifest
from agent.prompts import words
from tests.fakeslack import BOT_USER, FakeSlack, Message, Said
from tests.slackbot import ModelServer, cards, gated, idle, last_words, running, sql, tool_answers
from tests.support import CITA, ENCUESTA

REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})
SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["team", "Friday"]}})
CALLS = {"remove": [REMOVE], "send": [SEND]}


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack(manifest(words("en", "America/Mexico_City"))) as made:
        yield made


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """Calls what it is told to; `slowly` lasts until the test opens the gate."""

    def script(messages: list[dict[str, object]]) -> object:
        if tool_answers(messages):
            return ["over"]
        return CALLS.get(last_words(messages), ["one ", "…", "two"])

    async with ModelServer(script) as server:  # type: ignore[arg-type]
        yield server


async def card_of(slack: FakeSlack, said: Said) -> Message:
    (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
    return card


async def test_a_card_names_all_who_approved(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """Each with the time, while the second is missing and after that."""
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    channel = slack.add_channel("promos", [ana, beto, cora])
    settings = {**model.settings, "TWO_APPROVERS_OVER": "1", "SELF_APPROVE_UP_TO": "1"}
    async with running(slack, tmp_path, settings=settings):
        card = await card_of(slack, await slack.say(ana, f"<@{BOT_USER}> send", channel))
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: re.search(r"Approved by @beto · \S.*Somebody else", slack.text(card.ts)))
        await idle(tmp_path)
        await slack.click(cora, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        assert re.search(r"Approved by @beto · [^@]*UTC[^@]*, @cora · [^@]*UTC[^@]*\. Done:", slack.text(card.ts))
        await slack.open_home(ana)
        home = await slack.wait_for(lambda: slack.homes.get(ana))
        assert re.search(r"Approved by @beto · [^@]*UTC[^@]*, @cora · [^@]*UTC[^@]*\. Done:", slack.view_text(home))
    assert len(gated(tmp_path)) == 1


async def test_who_approved_first_has_no_part_in_what_overtook_it(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    channel = slack.add_channel("promos", [ana, beto, cora])
    async with running(slack, tmp_path, settings={**model.settings, "TWO_APPROVERS_OVER": "1"}):
        overtaken = await slack.say(ana, f"<@{BOT_USER}> send", channel)
        card = await card_of(slack, overtaken)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Approved by @beto" in slack.text(card.ts))
        await idle(tmp_path)
        model.gate.set()
        await slack.say(ana, "something else", channel, overtaken.thread_ts)
        await slack.wait_for(lambda: "Overtaken" in slack.text(card.ts))
        assert "@beto" not in slack.text(card.ts)
        denied = await card_of(slack, await slack.say(ana, f"<@{BOT_USER}> send", channel))
        await slack.click(beto, denied.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Approved by @beto" in slack.text(denied.ts))
        await slack.wait_for(lambda: slack.buttons(denied.ts))
        await slack.click(cora, denied.ts, "approval_deny")
        view = await slack.wait_for(lambda: slack.stacks.get(cora) and slack.view(cora))
        await slack.submit(cora, view["id"])
        await slack.wait_for(lambda: "Denied by @cora" in slack.text(denied.ts))
        assert "@beto" not in slack.text(denied.ts)
    assert gated(tmp_path) == []


@pytest.mark.parametrize("what", ["approve", "deny", "edit"])
async def test_a_decision_that_waits_for_its_turn_is_on_the_card(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, what: str
) -> None:
    """There is nothing to press any more, while all turns are taken by others; also after a new start."""
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    settings = {**model.settings, "SLACK_TURNS": "1"}
    async with running(slack, tmp_path, settings=settings) as bot:
        said = await slack.say(ana, "remove")
        card = await card_of(slack, said)
        await idle(tmp_path)
        await slack.say(beto, "slowly")
        await slack.wait_for(lambda: len(model.requests) == 2)
        if what == "approve":
            await slack.click(ana, card.ts, "approval_approve", dialog=True)
        else:
            await slack.click(ana, card.ts, f"approval_{what}")
            view = await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
            assert slack.buttons(card.ts)
            values = {"edit.phoneNumber": "+525500100270"} if what == "edit" else None
            assert (await slack.submit(ana, view["id"], values)).outcome == "closed"
        did = {"approve": "@ana pressed “Approve”", "deny": "@ana pressed “Deny”", "edit": "@ana has changed it"}[what]
        await slack.wait_for(lambda: did in slack.text(card.ts))
        assert (slack.buttons(card.ts), slack.mentioned(card.ts)) == ([], {ana})
        assert gated(tmp_path) == []
        await bot.kill()
    over = {"approve": "Done:", "deny": "Denied by @ana", "edit": "Overtaken"}[what]
    async with running(slack, tmp_path, settings=settings):
        model.gate.set()
        await slack.wait_for(lambda: over in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        assert "looked at" not in slack.text(card.ts)
    assert len(cards(slack, said.thread_ts)) == (2 if what == "edit" else 1)
    assert len(gated(tmp_path)) == (1 if what == "approve" else 0)


async def test_a_decision_that_a_dead_process_stored_is_on_the_card(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Nobody tells the next process of it but what is stored, while a third one has the thread."""
    ana = slack.add_user("ana")
    held = "UPDATE conversation SET owner = {}, lease_until = {}"
    async with running(slack, tmp_path, settings=model.settings) as bot:
        card = await card_of(slack, await slack.say(ana, "remove"))
        await idle(tmp_path)
        sql(tmp_path, held.format("'elsewhere/1/x'", time.time() + 300))
        slack.fault("chat.update", hang=60)
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await bot.kill()
    slack.faults.clear()
    assert slack.buttons(card.ts)
    async with running(slack, tmp_path, settings=model.settings):
        await slack.wait_for(lambda: "@ana pressed" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        assert gated(tmp_path) == []
        sql(tmp_path, held.format("NULL", 0))
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))


async def test_the_buttons_come_back_where_a_decision_that_waited_moved_nothing(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Before the person who pressed is told so: one who isn't entitled, and the first of two."""
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    group, channel = slack.add_group("chiefs", []), slack.add_channel("promos", [ana, beto, cora])
    approvers = f"*=slack:T0FAKE/{cora}, slack-group:{group}"
    settings = {**model.settings, "SLACK_TURNS": "1", "APPROVERS": approvers, "TWO_APPROVERS_OVER": "1"}
    async with running(slack, tmp_path, settings=settings):
        card = await card_of(slack, await slack.say(ana, f"<@{BOT_USER}> send", channel))
        await idle(tmp_path)
        await slack.say(ana, "slowly")
        await slack.wait_for(lambda: len(model.requests) == 2)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "@beto pressed" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        model.gate.set()
        await slack.wait_for(lambda: slack.ephemerals(beto))
        assert slack.buttons(card.ts)
        assert slack.mentioned(card.ts) == {cora, group}
        model.gate.clear()
        await idle(tmp_path)
        await slack.say(ana, "slowly")
        await slack.wait_for(lambda: len(model.requests) == 3)
        await slack.click(cora, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "@cora pressed" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        model.gate.set()
        await slack.wait_for(lambda: "Approved by @cora" in slack.text(card.ts))
        assert slack.buttons(card.ts)
    assert gated(tmp_path) == []
