"""What a person at a terminal met: turns that were stopped, disks that are full, addresses that lead nowhere."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ModelUnreachable
from agent.events import AgentEvent, ToolCalled
from agent.model import Completion
from tests.support import BUEN_FIN, World, again, card, cards, failure, make_world, results

CREATE = ("create_campaign", {"title": "Otoño", "category": "utility", "platform": "whatsapp"})
UPDATE = ("update_campaign", {"campaignId": BUEN_FIN, "title": "Otro"})
READ: tuple[str, dict[str, Any]] = ("list_campaigns", {})
DELETE = ("delete_campaign", {"campaignId": BUEN_FIN})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def acted(world: World) -> list[str]:
    return [row["method"] for row in world.store.requests() if row["acted"]]


async def stopped(world: World, text: str) -> None:
    """A turn that a person stops while the model still writes."""
    begun = asyncio.Event()

    async def slow(messages: object) -> AsyncIterator[str | Completion]:
        yield "I'm about to"
        begun.set()
        await asyncio.Event().wait()

    async def turn() -> list[AgentEvent]:
        return [event async for event in world.agent.advance("s", text)]

    world.model.complete = slow  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(turn())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_turn_that_was_stopped_does_not_run_by_itself(world: World, earlier: bool) -> None:
    if earlier:
        await world.say("hello", "hi")
    await stopped(world, "create Otoño")
    other = again(world)
    assert await other.say(None, [CREATE], "created") == []
    assert acted(other) == []
    assert [m["content"] for m in await _shown(other)][-2:] == ["create Otoño", "and now?"]


async def _shown(world: World) -> list[dict[str, Any]]:
    """What the model is shown with the next message."""
    world.model.script = ["well"]
    await world.say("and now?")
    return world.model.seen[-1]


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_turn_that_failed_does_not_run_by_itself(world: World, earlier: bool) -> None:
    if earlier:
        await world.say("hello", "hi")
    failure(await world.say("create Otoño", ModelUnreachable(text="down")))
    other = again(world)
    assert await other.say(None, [CREATE], "created") == []
    assert await other.say(None, [CREATE], "created") == []
    assert acted(other) == []


async def test_calls_of_a_stopped_turn_are_answered_and_not_begun(world: World) -> None:
    """The first of two writes has begun when the person stops listening."""
    world.model.script = [[CREATE, UPDATE]]
    turn = world.agent.advance("s", "create one, and rename the other")
    async for event in turn:
        if isinstance(event, ToolCalled):
            break
    await turn.aclose()
    other = again(world)
    for _ in range(2):
        events = await other.say(None, [CREATE], "created")
        assert all(not result.ok for result in results(events))
    assert acted(other) == []
    assert other.model.seen == []


async def test_a_send_that_was_approved_and_stopped_does_not_run_by_itself(world: World) -> None:
    asked = card(await world.say("delete it", [DELETE]))
    deciding = world.agent.decide(asked.id, "approve", confirm="Buen Fin 2026", decided=_stop)
    with pytest.raises(asyncio.CancelledError):
        async for _ in deciding:
            pass
    other = again(world)
    await other.say(None, "gone")
    assert acted(other) == []


def _stop() -> None:
    raise asyncio.CancelledError


async def test_a_card_waits_on_after_a_turn_that_failed(world: World) -> None:
    asked = card(await world.say("delete it", [DELETE]))
    events = [event async for event in world.agent.ask_anew(asked.id, {"campaignId": "cmpNobodyHasThis"}, by=_me())]
    assert events[-1].type == "error"
    assert [shown.id for shown in cards(await again(world).say(None))] == [asked.id]


def _me() -> Any:
    from agent.gate import Identity

    return Identity.os_user()
