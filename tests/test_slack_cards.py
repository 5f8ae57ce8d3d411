"""What cards in Slack show and to whom, as the bot's process has it: all who decided, what waits, and reminders."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.interfaces.slack_manifest import manifest
from agent.prompts import words
from tests.fakeslack import BOT_USER, FakeSlack, Message, Said
from tests.slackbot import ModelServer, cards, gated, idle, last_words, running, tool_answers
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
