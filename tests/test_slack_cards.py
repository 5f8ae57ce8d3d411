"""What cards in Slack show and to whom, as the bot's process has it: all who decided, what waits, and reminders."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.interfaces.slack_blocks import CardState, home_view
from agent.prompts import words
from agent.tables import approval
from tests.fakeslack import BOT_USER, FakeSlack, Message, Reader, Said, check_view, elements
from tests.slackbot import ModelServer, answers, cards, gated, idle, last_words, running, sql, tool_answers
from tests.support import CITA, ENCUESTA
from tests.test_slack_blocks import asked

REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})
SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["team", "Friday"]}})
CALLS = {"remove": [REMOVE], "send": [SEND]}


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


# The Home tab.


async def home_of(slack: FakeSlack, folder: Path, user: str) -> tuple[str, str]:
    """What waits for a person, and what waits for others, by the tab as it is published now."""
    slack.homes.pop(user, None)
    await slack.open_home(user)
    view = await slack.wait_for(lambda: slack.homes.get(user))
    await idle(folder)
    waits, _, _ = slack.view_text(view).partition("Decided lately")
    mine, _, others = waits.partition("Waits for others")
    return mine, others


async def test_what_waits_is_on_the_home_tab_however_much_was_decided_since(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        await card_of(slack, await slack.say(ana, "remove"))
        await idle(tmp_path)
        names = [column.name for column in approval.columns if column.name not in ("id", "state", "requested_at")]
        rest = ", ".join(names)
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
        made = f"SELECT 'x' || i, 'done', requested_at + 1, {rest} FROM approval, n WHERE state = 'pending'"
        sql(tmp_path, f"INSERT INTO approval (id, state, requested_at, {rest}) {many} {made}")
        mine, others = await home_of(slack, tmp_path, ana)
        assert ("REMOVE 1 person" in mine, others) == (True, "")


async def test_what_a_person_has_approved_waits_for_others_on_the_home_tab(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """So does what that person may only take back, and what was pressed and waits for its turn."""
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    channel = slack.add_channel("promos", [ana, beto, cora])
    settings = {**model.settings, "TWO_APPROVERS_OVER": "1", "SELF_APPROVE_UP_TO": "1"}
    async with running(slack, tmp_path, settings=settings):
        card = await card_of(slack, await slack.say(ana, f"<@{BOT_USER}> send", channel))
        mine, others = await home_of(slack, tmp_path, ana)
        assert ("SEND" in mine, "SEND" in others) == (False, True)
        assert "Nothing waits for you." in mine
        mine, others = await home_of(slack, tmp_path, beto)
        assert ("SEND" in mine, others) == (True, "")
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Approved by @beto" in slack.text(card.ts))
        await idle(tmp_path)
        mine, others = await home_of(slack, tmp_path, beto)
        assert ("SEND" in mine, "SEND" in others) == (False, True)
        mine, others = await home_of(slack, tmp_path, cora)
        assert ("SEND" in mine, others) == (True, "")
        model.gate.set()
        await slack.say(ana, "something else", channel, card.thread_ts)
        await slack.wait_for(lambda: "Overtaken" in slack.text(card.ts))
        assert "SEND" not in "".join(await home_of(slack, tmp_path, cora))
        # What was overtaken was decided by nobody.
        assert "SEND" not in slack.view_text(slack.homes[cora])


@pytest.mark.parametrize("mine", [0, 7, 15, 40])
def test_the_home_tab_has_room_for_what_waits_for_others(mine: int) -> None:
    """Fifteen of both are shown, each with its buttons, and how many more there are."""
    english = words("en", "America/Mexico_City")
    waiting = [replace(asked(f"SEND {number}"), id=f"M{number}") for number in range(mine)]
    others = [replace(asked(f"CLEAR {number}"), id=f"O{number}") for number in range(40)]
    decided = [(asked("DELETE it"), CardState("denied", "U0ANA", 0.0, "Denied: no."))] * 40
    view = home_view(waiting, decided, english, others=others, note="SANDBOX")
    check_view(view, "home")
    shown = [one["value"] for _, one in elements(view["blocks"])]
    assert len(shown) == 15
    assert len([id for id in shown if id.startswith("M")]) == min(mine, 15)
    told = Reader({}).blocks(view["blocks"])
    assert ("Nothing waits for you." in told) == (mine == 0)
    assert [int(n) for n in re.findall(r"and (\d+) more", told)] == [
        left for left in (mine - 15, 40 - max(0, 15 - mine), 25) if left > 0
    ]


# Reminders, and cards beside each other.


def reminders(slack: FakeSlack, said: Said) -> list[Message]:
    return [m for m in answers(slack, said.thread_ts) if "still waits" in slack.text(m.ts)]


HICCUPS = {
    "unavailable": {"status": 503},
    "too many": {"status": 429},
    "refused": {"error": "restricted_action"},
    "no answer": {"drop": True},
    "done without an answer": {"drop": True, "processed": True},
    "done with an error": {"error": "internal_error", "processed": True},
}


@pytest.mark.parametrize("how", HICCUPS.values(), ids=HICCUPS)
async def test_a_reminder_that_slack_did_not_take_is_tried_again(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, how: dict[str, Any]
) -> None:
    """And one that it took without saying so isn't. What streams in the thread meanwhile stays what it is."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "6"}) as bot:
        said = await slack.say(ana, "remove")
        card = await card_of(slack, said)
        await idle(tmp_path)
        nameless = slack.post(said.channel, BOT_USER, "a stream whose name nobody knows", thread_ts=said.thread_ts)
        slack.fault("chat.postMessage", **how)
        await slack.wait_for(lambda: "Expired" in slack.text(card.ts), 12)
        assert len(reminders(slack, said)) == 1, bot.log()
        assert slack.text(nameless.ts) == "a stream whose name nobody knows"
        assert slack.faults[0].times == 0


async def test_no_card_waits_for_what_slack_makes_another_wait_for(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "4"}):
        first, second = [await card_of(slack, await slack.say(ana, "remove")) for _ in range(2)]
        await idle(tmp_path)
        slack.fault("chat.postMessage", status=429, retry_after=60, times=100)
        slack.fault("chat.update", status=429, retry_after=60)
        # Neither for a reminder, nor for the first card.
        await slack.wait_for(lambda: "Expired" in slack.text(second.ts), 10)
        assert "Expired" not in slack.text(first.ts)


async def test_what_somebody_has_pressed_reminds_nobody(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "4", "SLACK_TURNS": "1"}):
        said = await slack.say(ana, "remove")
        card = await card_of(slack, said)
        await idle(tmp_path)
        await slack.say(beto, "slowly")
        await slack.wait_for(lambda: len(model.requests) == 2)
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Expired" in slack.text(card.ts), 10)
        assert reminders(slack, said) == []


# Who is called.


async def test_where_nobody_is_named_the_card_and_its_reminder_say_who_may_not_decide(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    channel = slack.add_channel("promos", [ana, beto])
    settings = {**model.settings, "SELF_APPROVE_UP_TO": "1", "TWO_APPROVERS_OVER": "1", "APPROVAL_TTL": "8"}
    async with running(slack, tmp_path, settings=settings):
        said = await slack.say(ana, f"<@{BOT_USER}> send", channel)
        card = await card_of(slack, said)
        assert "Somebody other than @ana: please decide." in slack.text(card.ts)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Somebody other than @beto @ana: please decide." in slack.text(card.ts))
        (reminder,) = await slack.wait_for(lambda: reminders(slack, said), 10)
        assert slack.text(reminder.ts).startswith("Somebody other than @beto @ana: this still waits for a decision")
    assert gated(tmp_path) == []


async def test_whom_slack_cannot_call_is_named_all_the_same(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Only somebody at a terminal may decide it."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVERS": "*=os:4711"}):
        card = await card_of(slack, await slack.say(ana, "remove"))
        assert re.search(r"os:4711`?: please decide", slack.text(card.ts))
        assert slack.mentioned(card.ts) == set()
