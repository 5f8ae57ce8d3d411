"""The Slack bot, as a process of its own: what people write and click, and what they then see."""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.cli import run
from agent.interfaces.slack_listeners import Listeners
from agent.interfaces.slack_manifest import LISTENERS, manifest
from agent.prompts import words
from tests.fakeslack import APP_TOKEN, BOT_TOKEN, BOT_USER, SIGNING_SECRET, FakeSlack, Message, Said, Timing, Wire
from tests.slackbot import (
    ModelServer,
    answered,
    answers,
    approval_of,
    cards,
    gated,
    idle,
    last_words,
    running,
    sql,
    tool_answers,
)
from tests.support import BUEN_FIN, CITA, ENCUESTA, open_journal

DELETE = ("delete_campaign", {"campaignId": BUEN_FIN})
REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})
SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["team", "Friday"]}})


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """Says back what it heard; `remove` and `delete` call, and what came of it is the answer."""

    def script(messages: list[dict[str, Any]]) -> Any:
        said, told = last_words(messages), tool_answers(messages)
        if told:
            return [f"outcome {told[-1]['outcome']} {told[-1].get('reason', '')}"]
        named = {
            "both": [REMOVE, DELETE],
            "remove": [REMOVE],
            "delete": [DELETE],
            "send": [SEND],
            "slowly": ["one ", "…", "two"],
        }
        return named.get(said, [f"heard {said}"])

    async with ModelServer(script) as server:
        yield server


async def asked(slack: FakeSlack, user: str, text: str) -> tuple[Said, Message]:
    """A request that needs a decision, and its card."""
    said = await slack.say(user, text)
    (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
    return said, card


# Messages.


@pytest.mark.parametrize("http", [False, True])
async def test_a_message_is_answered_in_its_thread(slack: FakeSlack, tmp_path: Path, http: bool) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, http=http):
        said = await slack.say(ana, "List the campaigns")
        assert [delivery.state for delivery in said.deliveries] == ["acked"]
        (text,) = await answered(slack, said.thread_ts)
        assert "Buen Fin 2026" in text
        await slack.settled()
    assert len(slack.messages(thread_ts=said.thread_ts)) == 2


async def test_a_thread_is_a_conversation(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    channel = slack.add_channel("promos", [ana, beto])
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, f"<@{BOT_USER}> first & <second>", channel)
        assert len(said.deliveries) == 2
        assert await answered(slack, said.thread_ts) == ["heard first & <second>"]
        await slack.say(beto, "third", channel, said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["heard first & <second>", "heard third"]
        for aside in (f"<@{ana}> lunch?", "x"):
            # To somebody else; and in a thread that the bot has no part in.
            where = said.thread_ts if aside != "x" else (await slack.say(ana, "unrelated", channel)).thread_ts
            await slack.say(beto, aside, channel, where)
        await slack.edit(beto, slack.messages(channel)[-1].ts, f"<@{BOT_USER}> edited")
        await slack.settled()
        await slack.say(ana, "last", channel, said.thread_ts)
        await answered(slack, said.thread_ts, 3)
    heard = [m["content"] for m in model.requests[-1] if m["role"] == "user" and "workspace_data" not in m["content"]]
    assert heard == ["first & <second>", "third", "last"]
    assert len(model.requests) == 3


async def test_what_comes_twice_is_answered_once(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, http=True, settings=model.settings):
        said = await slack.say(ana, "hello", times=3)
        await answered(slack, said.thread_ts)
        late = slack.redeliver(said.deliveries[0])
        await late.done.wait()
        assert late.state == "acked"
        await slack.say(ana, "again", thread_ts=said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["heard hello", "heard again"]
    assert len(model.requests) == 2


async def test_messages_of_a_thread_in_their_order_and_threads_side_by_side(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        slow = await slack.say(ana, "slowly")
        await slack.wait_for(lambda: model.requests)
        await slack.say(ana, "behind", thread_ts=slow.thread_ts)
        other = await slack.say(ana, "beside")
        assert await answered(slack, other.thread_ts) == ["heard beside"]
        assert [last_words(messages) for messages in model.requests] == ["slowly", "beside"]
        model.gate.set()
        assert await answered(slack, slow.thread_ts, 2) == ["one two", "heard behind"]


async def test_a_file_is_answered_that_it_cannot_be_imported(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        alone = await slack.say(ana, "", files=[("people.csv", "a,b")])
        with_words = await slack.say(ana, "add these", files=[("people.csv", "a,b")])
        (text,) = await answered(slack, alone.thread_ts)
        assert "can't import files" in text
        first, second = await answered(slack, with_words.thread_ts, 2)
        assert ("can't import files" in first, second) == (True, "heard add these")
    assert len(model.requests) == 1


async def test_only_people_of_the_workspace_are_heard(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, eva = slack.add_user("ana"), slack.add_user("eva", team="T0OTHER")
    channel = slack.add_channel("shared", [ana, eva])
    async with running(slack, tmp_path, http=True, settings=model.settings):
        foreign = await slack.say(eva, f"<@{BOT_USER}> hello", channel)
        elsewhere = await slack.say(ana, "hello", wire=Wire(team="T0OTHER"))
        assert {d.state for d in (*foreign.deliveries, *elsewhere.deliveries)} == {"acked"}
        await slack.wait_for(lambda: slack.ephemerals(eva))
        said = await slack.say(ana, "mine")
        assert await answered(slack, said.thread_ts) == ["heard mine"]
    assert len(model.requests) == 1


FORGED = [Wire(secret="another"), Wire(age=400), Wire(age=-400), Wire(signed=False), Wire(tampered=True)]


@pytest.mark.parametrize("wire", FORGED, ids=["secret", "old", "early", "unsigned", "tampered"])
async def test_what_slack_did_not_sign_is_refused(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, wire: Wire
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, http=True, settings=model.settings):
        assert await slack.challenge()
        forged = await slack.say(ana, "forged", wire=wire)
        assert {status for d in forged.deliveries for status in d.statuses} == {401}
        said = await slack.say(ana, "real", wire=Wire(age=200))
        assert await answered(slack, said.thread_ts) == ["heard real"]
    assert len(model.requests) == 1


# Answers.


async def test_words_are_shown_as_they_come(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "slowly")
        (message,) = await slack.wait_for(lambda: answers(slack, said.thread_ts))
        await slack.wait_for(lambda: message.text == "one ")
        assert slack.streaming(message)
        assert slack.session_status(said.channel, said.thread_ts) == "processing"
        model.gate.set()
        assert await answered(slack, said.thread_ts) == ["one two"]
        assert slack.session_status(said.channel, said.thread_ts) == "active"
    assert len(slack.messages(thread_ts=said.thread_ts)) == 2


@pytest.mark.parametrize("error", ["ratelimited", "method_not_supported_for_channel_type", "dropped"])
async def test_where_nothing_streams_the_message_is_changed(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, error: str
) -> None:
    ana = slack.add_user("ana")
    how: dict[str, Any] = {"ratelimited": {"status": 429}, "dropped": {"drop": True, "processed": True}}
    slack.fault("chat.startStream", **how.get(error, {"error": error}))
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "slowly")
        await slack.wait_for(lambda: slack.calls("chat.startStream"))
        model.gate.set()
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two"])
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        await slack.wait_for(lambda: slack.texts(thread_ts=said.thread_ts)[1:] == ["one two", "next", "heard next"])


async def test_a_stream_that_slack_ended_is_written_whole(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "slowly")
        (message,) = await slack.wait_for(lambda: answers(slack, said.thread_ts))
        slack.tick(301)
        model.gate.set()
        await slack.wait_for(lambda: slack.text(message.ts) == "one two")
    assert len(slack.messages(thread_ts=said.thread_ts)) == 2


async def test_a_long_answer_is_several_messages(slack: FakeSlack, tmp_path: Path) -> None:
    ana = slack.add_user("ana")
    paragraphs = [f"Paragraph {number}: " + "word " * 150 for number in range(40)]
    long = ModelServer(lambda _: [one + "\n\n" for one in paragraphs])
    async with long as model, running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "hello")
        await slack.wait_for(lambda: "Paragraph 39" in "".join(slack.texts(thread_ts=said.thread_ts)))
        whole = "\n".join(await answered(slack, said.thread_ts))
        assert [int(n) for n in re.findall(r"Paragraph (\d+)", whole)] == list(range(40))
        assert whole.count("word") == 40 * 150


async def test_slack_may_be_slow(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """Too many calls, and answers that never come: every message is there, once."""
    ana = slack.add_user("ana")
    slack.fault("chat.startStream", error="not_allowed", times=100)
    slack.fault("chat.postMessage", status=429, times=2)
    slack.fault("chat.postMessage", drop=True, processed=True, skip=1)
    slack.fault("chat.postMessage", drop=True, skip=1)
    slack.fault("chat.postMessage", status=503, skip=1)
    slack.fault("chat.postMessage", error="internal_error", processed=True, skip=1)
    async with running(slack, tmp_path, settings=model.settings):
        for number in range(6):
            said = await slack.say(ana, f"number {number}")
            assert await answered(slack, said.thread_ts) == [f"heard number {number}"]
    assert len(slack.messages()) == 12
    assert [fault.times for fault in slack.faults[1:]] == [0] * 5


async def test_what_comes_later_does_not_overtake_what_is_tried_again(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    slack.fault("chat.startStream", error="not_allowed", times=100)
    slack.fault("chat.postMessage", error="fatal_error", times=4)
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "first")
        await slack.wait_for(lambda: len(slack.calls("chat.postMessage")) == 4, 10)
        await slack.say(ana, "second", thread_ts=said.thread_ts)
        assert await answered(slack, said.thread_ts, 2) == ["heard first", "heard second"]


async def test_what_always_fails_is_given_up_and_said_so(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """Its thread goes on."""
    ana = slack.add_user("ana")
    slack.fault("chat.startStream", error="not_allowed", times=100)
    slack.fault("chat.postMessage", error="invalid_blocks", times=3)
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "first")
        await slack.say(ana, "second", thread_ts=said.thread_ts)
        assert await answered(slack, said.thread_ts) == ["heard second"]
        assert "three times" in slack.ephemerals(ana)[0]


async def test_the_stop_button_stops_the_turn_and_says_so(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "slowly")
        await slack.wait_for(lambda: answers(slack, said.thread_ts))
        await slack.stop(ana, said.channel, said.thread_ts)
        (text,) = await slack.wait_for(lambda: [t for t in slack.texts(thread_ts=said.thread_ts)[1:] if "Stopped" in t])
        assert text.startswith("one")
        await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "active")
        await slack.say(ana, "next", thread_ts=said.thread_ts)
        await slack.wait_for(lambda: "heard next" in slack.texts(thread_ts=said.thread_ts))


# Cards.


async def test_a_card_is_approved_by_a_click(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said, card = await asked(slack, ana, "remove")
        assert slack.mentioned(card.ts) == {ana}
        await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "suspended")
        (delivery,) = await slack.click(ana, card.ts, "approval_approve", dialog=True)
        assert delivery.state == "acked"
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        assert "@ana" in slack.text(card.ts)
        (text,) = await answered(slack, said.thread_ts)
        # What happened is stated by code before the model has a word.
        assert re.fullmatch(r"✓ Removed from .*: 1 with .*\.\noutcome done *", text)
        await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "active")
    assert [row["method"] for row in gated(tmp_path)] == ["DELETE"]


async def test_a_double_click_runs_once_and_is_answered(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    channel = slack.add_channel("promos", [ana, beto])
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        buttons = slack.message(card.ts).blocks
        await slack.click(ana, card.ts, "approval_approve", dialog=True, times=2)
        await slack.wait_for(lambda: slack.ephemerals(ana))
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        # Somebody whose client still shows the card as it was.
        slack.message(card.ts).blocks, shown = buttons, slack.message(card.ts).blocks
        late = await slack.click(beto, card.ts, "approval_approve", dialog=True)
        slack.message(card.ts).blocks = shown
        assert late[0].state == "acked"
        await slack.wait_for(lambda: slack.ephemerals(beto))
        assert len(slack.ephemerals(ana)) == 1
        await slack.settled()
    assert len(gated(tmp_path)) == 1


async def test_a_denial_has_a_reason_that_the_model_gets(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said, card = await asked(slack, ana, "remove")
        await slack.click(ana, card.ts, "approval_deny")
        view = await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
        assert (await slack.submit(ana, view["id"], {"reason": "she is a friend"})).outcome == "closed"
        await slack.wait_for(lambda: "Denied by @ana" in slack.text(card.ts))
        assert "she is a friend" in slack.text(card.ts)
        assert "outcome denied she is a friend" in (await answered(slack, said.thread_ts))[0]
    assert gated(tmp_path) == []


async def test_a_heavy_card_wants_the_title_typed(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, http=True, settings=model.settings):
        said, card = await asked(slack, ana, "delete")
        await slack.click(ana, card.ts, "approval_approve_typed")
        view = await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
        wrong = await slack.submit(ana, view["id"], {"confirm": "Buen Fun"})
        assert (wrong.outcome, list(wrong.errors)) == ("errors", ["confirm"])
        assert slack.buttons(card.ts)
        right = await slack.submit(ana, view["id"], {"confirm": "buen  fin 2026"})
        assert right.outcome == "closed"
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        await answered(slack, said.thread_ts)
    assert len(gated(tmp_path)) == 1


async def test_an_edit_voids_the_card_and_asks_anew(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said, card = await asked(slack, ana, "remove")
        await slack.click(ana, card.ts, "approval_edit")
        view = await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
        wrong = await slack.submit(ana, view["id"], {"edit.phoneNumber": "nobody"})
        assert (wrong.outcome, list(wrong.errors)) == ("errors", ["edit.phoneNumber"])
        # Nobody of the audience: there is nothing to ask, and the card stays.
        assert (await slack.submit(ana, view["id"], {"edit.phoneNumber": "+525500100012"})).outcome == "closed"
        await slack.wait_for(lambda: slack.ephemerals(ana))
        assert slack.buttons(card.ts)
        await slack.click(ana, card.ts, "approval_edit")
        view = await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
        assert (await slack.submit(ana, view["id"], {"edit.phoneNumber": "+525500100270"})).outcome == "closed"
        old, new = await slack.wait_for(lambda: (found := cards(slack, said.thread_ts))[1:] and found)
        await slack.wait_for(lambda: "Overtaken" in slack.text(old.ts))
        assert slack.buttons(old.ts) == []
        assert "+525500100270" in slack.text(new.ts)
        await slack.click(ana, new.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(new.ts))
        await answered(slack, said.thread_ts)
    assert [row["path"].rpartition("/")[2] for row in gated(tmp_path)] == ["525500100270"]
    # The model called with another phone: it is told which one it was.
    (told,) = [answer for answer in tool_answers(model.requests[-1])]
    assert told["changed_by_a_person_to"]["phoneNumber"] == "+525500100270"


async def test_who_is_not_entitled_is_told_so(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, eva = slack.add_user("ana"), slack.add_user("eva", team="T0OTHER")
    channel = slack.add_channel("shared", [ana, eva])
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        for action, dialog in (("approval_approve", True), ("approval_deny", None), ("approval_edit", None)):
            before = len(slack.ephemerals(eva))
            await slack.click(eva, card.ts, action, dialog=dialog)
            await slack.wait_for(lambda n=before: len(slack.ephemerals(eva)) > n)
        assert eva not in slack.stacks
        assert slack.buttons(card.ts)
    assert gated(tmp_path) == []


async def test_only_those_whom_policy_names_may_decide(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """By name and by user group, as the group is at the moment of the click."""
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    group, channel = slack.add_group("chiefs", [beto]), slack.add_channel("promos", [ana, beto, cora])
    approvers = f"*=slack:T0FAKE/{cora}, slack-group:{group}"
    async with running(slack, tmp_path, settings={**model.settings, "APPROVERS": approvers}):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        assert slack.mentioned(card.ts) == {cora, group}
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: slack.ephemerals(ana))
        slack.groups[group] = ("chiefs", [])
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: slack.ephemerals(beto))
        assert slack.buttons(card.ts)
        assert gated(tmp_path) == []
        slack.groups[group] = ("chiefs", [beto])
        await idle(tmp_path)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        assert "@beto" in slack.text(card.ts)
    assert len(gated(tmp_path)) == 1


async def test_a_large_send_wants_two_others(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    channel = slack.add_channel("promos", [ana, beto, cora])
    settings = {**model.settings, "TWO_APPROVERS_OVER": "1", "SELF_APPROVE_UP_TO": "1"}
    async with running(slack, tmp_path, settings=settings):
        said = await slack.say(ana, f"<@{BOT_USER}> send", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: slack.ephemerals(ana))
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Approved by @beto" in slack.text(card.ts))
        await idle(tmp_path)
        assert slack.buttons(card.ts)
        await slack.click(beto, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: slack.ephemerals(beto))
        await idle(tmp_path)
        assert gated(tmp_path) == []
        await slack.click(cora, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
    assert len(gated(tmp_path)) == 1


async def test_a_card_that_was_decided_in_a_terminal_shows_it(
    slack: FakeSlack, tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings) as bot:
        said, card = await asked(slack, ana, "both")
        for name, value in bot.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
        assert await asyncio.to_thread(run, ["approve", approval_of(slack, card)]) == 3
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        assert "os:" in slack.text(card.ts)
        assert slack.buttons(card.ts) == []
        # What the turn in the terminal asks next is asked here too.
        _, new = await slack.wait_for(lambda: (found := cards(slack, said.thread_ts))[1:] and found, 10)
        assert "DELETE" in slack.text(new.ts)
        assert slack.mentioned(new.ts) == {ana}


async def test_a_click_on_a_card_that_has_expired_is_told_so(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    """Nobody has looked at it since: the card still has its buttons."""
    ana = slack.add_user("ana")
    settings = {**model.settings, "APPROVAL_TTL": "1", "SLACK_SWEEP": "60"}
    async with running(slack, tmp_path, settings=settings):
        _, card = await asked(slack, ana, "remove")
        await asyncio.sleep(1.1)
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        (told,) = await slack.wait_for(lambda: slack.ephemerals(ana))
        assert "expired" in told
        await slack.wait_for(lambda: "Expired" in slack.text(card.ts))
    assert gated(tmp_path) == []


async def test_a_message_overtakes_a_card(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    channel = slack.add_channel("promos", [ana, beto])
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, f"<@{BOT_USER}> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        await slack.say(beto, "do something else", channel, said.thread_ts)
        (told,) = await answered(slack, said.thread_ts)
        assert slack.buttons(card.ts), told
        await slack.say(ana, "rather not", channel, said.thread_ts)
        await slack.wait_for(lambda: "Overtaken" in slack.text(card.ts))
        assert (await answered(slack, said.thread_ts, 2))[1].endswith("heard rather not")
    assert len(cards(slack, said.thread_ts)) == 1


async def test_a_card_reminds_once_expires_and_can_be_asked_again(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "APPROVAL_TTL": "2"}):
        said, card = await asked(slack, ana, "remove")
        await slack.wait_for(lambda: "Expired" in slack.text(card.ts))
        (reminder,) = [m for m in answers(slack, said.thread_ts) if "still waits" in slack.text(m.ts)]
        assert slack.mentioned(reminder.ts) == {ana}
        await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "active")
        await slack.click(ana, card.ts, "approval_ask_again", times=2)
        _, new = await slack.wait_for(lambda: (found := cards(slack, said.thread_ts))[1:] and found)
        await slack.wait_for(lambda: slack.buttons(card.ts) == [])
        await slack.click(ana, new.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(new.ts))
    assert len(cards(slack, said.thread_ts)) == 2
    assert len(gated(tmp_path)) == 1


# Around it.


async def test_the_home_tab_shows_what_waits_and_what_was_decided(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said, card = await asked(slack, ana, "remove")
        await slack.open_home(ana)
        home = await slack.wait_for(lambda: slack.homes.get(ana))
        waits, _, decided = slack.view_text(home).partition("Decided lately")
        assert "REMOVE 1 person" in waits
        assert "REMOVE" not in decided
        await slack.click(ana, home["id"], "approval_details")
        assert "Gabriela Ortiz" in slack.view_text(
            await slack.wait_for(lambda: slack.stacks.get(ana) and slack.view(ana))
        )
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await answered(slack, said.thread_ts)
        await slack.open_home(ana)
        await slack.wait_for(lambda: "Done" in slack.view_text(slack.homes[ana]))
        waits, _, decided = slack.view_text(slack.homes[ana]).partition("Decided lately")
        assert ("REMOVE" in waits, "REMOVE 1 person" in decided) == (False, True)


async def health(url: str) -> tuple[int, dict[str, bool]]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.json()


async def test_healthz_fails_while_the_socket_is_stale(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    settings = {**model.settings, "SLACK_PING": "0.3"}
    async with running(slack, tmp_path, health=True, settings=settings) as bot:
        await slack.wait_for(lambda: slack.links and slack.links[0].pings)
        assert await health(bot.told["health"]) == (200, {"worker": True, "socket": True})
        slack.fault("apps.connections.open", error="internal_error", times=1_000)
        slack.stale()
        async with asyncio.timeout(15):
            while (found := await health(bot.told["health"]))[0] == 200:
                await asyncio.sleep(0.05)
            assert found == (503, {"worker": True, "socket": False})
            slack.faults.clear()
            while (await health(bot.told["health"]))[0] != 200:
                await asyncio.sleep(0.05)
        said = await slack.say(ana, "hello")
        assert await answered(slack, said.thread_ts) == ["heard hello"]


async def test_what_cannot_be_stored_is_not_acknowledged(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """Somebody else holds the database for longer than Slack waits."""
    ana = slack.add_user("ana")
    slack.timing = Timing(ack=0.5)
    async with running(slack, tmp_path, http=True, settings=model.settings):
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            said = await slack.say(ana, "hello", wait=False)
            await slack.wait_for(lambda: len(said.deliveries[0].attempts) > 1)
            assert said.deliveries[0].state == "pending"
            other.execute("ROLLBACK")
        assert await answered(slack, said.thread_ts) == ["heard hello"]
    assert len(model.requests) == 1


async def test_keys_that_people_paste_are_kept_nowhere(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "my key is pl_key_abc_0123456789secret and xoxb-1234567890-abc")
        assert await answered(slack, said.thread_ts) == ["heard my key is [key] and [key]"]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"0123456789secret" not in kept
    for token in (BOT_TOKEN, APP_TOKEN, SIGNING_SECRET):
        assert token.encode() not in kept


async def test_what_waits_in_a_terminal_is_left_to_it(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana = slack.add_user("ana")
    body = {"text": "mine", "by": ["os", "1", ""]}
    await open_journal(tmp_path).write(lambda tx: tx.put("said:1", "s", "message", body, by="os:1"))
    async with running(slack, tmp_path, settings=model.settings):
        said = await slack.say(ana, "hello")
        assert await answered(slack, said.thread_ts) == ["heard hello"]
    assert sql(tmp_path, "SELECT tries, wake_at, done_at FROM inbox WHERE key = 'said:1'") == [(0, 0.0, None)]


@pytest.mark.parametrize("missing", ["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"])
def test_a_token_that_is_missing_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in {"SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"} - {missing}:
        monkeypatch.setenv(name, "xoxb-0")
    assert run(["slack"]) == 2
    assert missing in capsys.readouterr().err


async def test_a_token_that_slack_does_not_accept_is_named(slack: FakeSlack, tmp_path: Path) -> None:
    slack.fault("auth.test", error="invalid_auth")
    with pytest.raises(AssertionError, match=r"SLACK_BOT_TOKEN.*invalid_auth"):
        async with running(slack, tmp_path):
            pass


def test_the_manifest_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slack", "manifest", "--url", "https://bot.example.com"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == manifest(words("en", "America/Mexico_City"), url="https://bot.example.com")


def test_every_row_of_the_manifest_has_its_listener() -> None:
    """The table is what is registered: a row that nothing listens to would be a click without an answer."""
    heard: list[tuple[str, Any]] = []

    class App:
        def __getattr__(self, name: str) -> Any:
            return lambda what: heard.append((name, what)) or (lambda listener: listener)

    web: Any = type("Web", (), {"team": "T", "bot_user": "U", "bot_id": "B"})()
    anything: Any = None
    Listeners(anything, web, anything, anything, anything).register(App())
    named = {(kind, what) for kind, what in heard if isinstance(what, str)}
    assert named == {(row.kind, row.type if row.kind == "event" else row.name) for row in LISTENERS}
