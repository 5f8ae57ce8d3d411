"""The Slack bot, as a process of its own: what people write and click, and what they then see."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakeslack import FakeSlack
from tests.slackbot import answered, running


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
