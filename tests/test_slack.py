"""The Slack bot, as a process of its own: what people write and click, and what they then see."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakeslack import FakeSlack, Message, Said
from tests.slackbot import answered, cards, gated, running


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as made:
        yield made


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


DELETE = "Delete the campaign Buen Fin 2026"
REMOVE = "Remove the phone +525500100011 from the audience of Encuesta de satisfacción"


async def asked(slack: FakeSlack, user: str, text: str) -> tuple[Said, Message]:
    """A request that needs a decision, and its card."""
    said = await slack.say(user, text)
    (card,) = await slack.wait_for(lambda: cards(slack, said.thread_ts))
    return said, card


async def test_a_card_is_approved_by_a_click(slack: FakeSlack, tmp_path: Path) -> None:
    ana = slack.add_user("ana")
    async with running(slack, tmp_path):
        said, card = await asked(slack, ana, REMOVE)
        assert slack.mentioned(card.ts) == {ana}
        assert slack.session_status(said.channel, said.thread_ts) == "suspended"
        (delivery,) = await slack.click(ana, card.ts, "approval_approve", dialog=True)
        assert delivery.state == "acked"
        await slack.wait_for(lambda: "Done:" in slack.text(card.ts))
        assert slack.buttons(card.ts) == []
        assert "@ana" in slack.text(card.ts)
        print(slack.texts())
        assert any("✓" in text for text in await answered(slack, said.thread_ts, 2))
        await slack.wait_for(lambda: slack.session_status(said.channel, said.thread_ts) == "active")
        assert [row["method"] for row in gated(tmp_path)] == ["DELETE"]
