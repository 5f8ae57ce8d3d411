"""Approvers who can't see the thread in which something asks: the card comes to them."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakeslack import FakeSlack
from tests.slackbot import ModelServer, answered, cards, gated, idle, last_words, running, tool_answers
from tests.support import ENCUESTA

REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    def script(messages: list[dict[str, Any]]) -> Any:
        if tool_answers(messages):
            return ["over"]
        return [REMOVE] if last_words(messages).startswith("remove") else ["hello"]

    async with ModelServer(script) as server:
        yield server


async def test_what_asks_in_a_direct_message_comes_to_whoever_may_decide(
    slack: FakeSlack, tmp_path: Path, model: ModelServer
) -> None:
    ana, beto, cora = (slack.add_user(name) for name in ("ana", "beto", "cora"))
    policy = {"APPROVERS": f"remove_campaign_audience_client=slack:T0FAKE/{beto},slack:T0FAKE/{ana}"}
    async with running(slack, tmp_path, settings={**model.settings, **policy}):
        said = await slack.say(ana, "remove")
        (there,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        (here,) = await slack.wait_for(lambda: slack.cards(slack.dm(beto)))
        assert slack.text(here.ts) == slack.text(there.ts)
        await slack.open_home(beto)
        home = await slack.wait_for(lambda: slack.homes.get(beto))
        assert here.ts.replace(".", "") in str(home["blocks"])
        await slack.click(beto, here.ts, "approval_approve", dialog=True)
        for card in (here, there):
            await slack.wait_for(lambda card=card: "Done:" in slack.text(card.ts))
            assert slack.buttons(card.ts) == []
        await idle(tmp_path)
        assert slack.messages(slack.dm(cora)) == []
        assert len(slack.messages(slack.dm(beto))) == 1
    assert len(gated(tmp_path)) == 1


async def test_in_a_channel_nobody_gets_a_copy(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    channel = slack.add_channel("ventas", [ana, beto])
    policy = {"APPROVERS": f"*=slack:T0FAKE/{beto}"}
    async with running(slack, tmp_path, settings={**model.settings, **policy}):
        said = await slack.say(ana, "<@U0FAKEBOT> remove", channel)
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        assert slack.mentioned(card.ts) == {beto}
        await idle(tmp_path)
        assert slack.messages(slack.dm(beto)) == []


async def test_the_start_says_who_may_decide(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    policy = {"APPROVERS": "send_campaign=slack:T0OTHER/U0BETO", "SELF_APPROVE_UP_TO": "0"}
    async with running(slack, tmp_path, settings={**model.settings, **policy, "LANGUAGE": "en"}) as bot:
        told = (
            "send_campaign: slack:T0OTHER/U0BETO; everything else: anybody of this workspace. Own sends up to 0 people."
        )
        assert f"Who may decide: {told}\n" in bot.log()
        assert "slack:T0OTHER/U0BETO, who is of another workspace than T0FAKE" in bot.log()


async def test_a_task_that_has_asked_is_over(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    """The card says how it goes on; nothing else in the thread seems to wait for ever."""
    ana = slack.add_user("ana")
    async with running(slack, tmp_path, settings={**model.settings, "LANGUAGE": "en"}):
        await answered(slack, (await slack.say(ana, "hello")).thread_ts)
        with contextlib.closing(sqlite3.connect(tmp_path / "home" / "sandbox.db")) as connection, connection:
            columns = "(kind, seconds, times, method, path, exact)"
            connection.execute(f"INSERT INTO fault {columns} VALUES ('delay', 0.8, 1, 'GET', '/v1/campaigns*', 0)")
        said = await slack.say(ana, "remove")
        await slack.wait_for(lambda: "[in_progress]" in slack.texts(thread_ts=said.thread_ts)[-1])
        (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
        await slack.click(ana, card.ts, "approval_approve", dialog=True)
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        await idle(tmp_path)
        texts = slack.texts(thread_ts=said.thread_ts)
        assert any(text.startswith("[complete] Asks for approval: ") for text in texts), texts
        assert not [text for text in texts if "[pending]" in text or "[in_progress]" in text], texts


async def test_a_reminder_comes_where_each_card_is(slack: FakeSlack, tmp_path: Path, model: ModelServer) -> None:
    ana, beto = slack.add_user("ana"), slack.add_user("beto")
    policy = {"APPROVERS": f"*=slack:T0FAKE/{beto}", "APPROVAL_TTL": "6", "SLACK_SWEEP": "0.3"}
    async with running(slack, tmp_path, settings={**model.settings, **policy}):
        said = await slack.say(ana, "remove")
        (here,) = await slack.wait_for(lambda: slack.cards(slack.dm(beto)))
        await slack.wait_for(lambda: [t for t in slack.texts(thread_ts=here.ts) if "still waits" in t], 10)
        assert [m.thread_ts for m in slack.messages(slack.dm(beto))][1:] == [here.ts]
        assert len([text for text in slack.texts(thread_ts=said.thread_ts) if "still waits" in text]) == 1
