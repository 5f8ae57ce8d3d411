"""What comes in is stored first: messages that wait, come twice, or outlive the process that took them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.events import AgentEvent, Reply
from agent.gate import Identity
from agent.journal import LEASE, Item, Journal, Transaction
from agent.loop import Agent
from tests.support import (
    CITA,
    ENCUESTA,
    Clock,
    World,
    again,
    assert_every_call_is_answered_once,
    card,
    cards,
    failure,
    make_world,
    open_journal,
    sql,
)

SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["equipo", "viernes"]}})
DELETE = ("delete_campaign", {"campaignId": ENCUESTA})
ANA = Identity("slack", "T1/U1", "ana")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    yield made
    await made.agent.aclose()


def said(world: World) -> list[str]:
    """What the model was shown of people, in order."""
    return [m["content"] for m in world.model.seen[-1] if m["role"] == "user" and "workspace_data" not in m["content"]]


def replies(events: list[AgentEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Reply)]


async def rows(world: World) -> list[Item]:
    return list(reversed(await world.agent.journal.read(lambda tx: tx.items())))


async def killed(agent: Agent, session: str, text: str | None, after: int = 0, **more: Any) -> None:
    """A process that dies after so many events of a turn: nothing of what it would do at its end is done."""
    stream = agent.advance(session, text, **more)
    for _ in range(after):
        await anext(stream)
    release, agent._release = agent._release, _nothing  # type: ignore[method-assign]
    await stream.aclose()
    agent._release = release  # type: ignore[method-assign]


async def _nothing(*_: Any, **__: Any) -> None:
    """A process that is gone cleans nothing up."""


async def test_a_message_beside_a_running_request_outlives_its_process(world: World) -> None:
    """The one that comes while a send is under way waits for its end; the process dies in between."""
    asked = card(await world.say("send it", [SEND]))
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> Any:
        if request.url.path.endswith("/send"):
            arrived.set()
            await go_on.wait()
        return await inner(request)

    inner = world.transport.inner.handle_async_request
    world.transport.inner.handle_async_request = slow  # type: ignore[method-assign]
    sending = asyncio.create_task(world.decide(asked.id, "approve"))
    await arrived.wait()
    other = again(world)
    waiting = asyncio.create_task(_all(other.agent.advance("s", "and then list them")))
    while len(await rows(world)) < 2:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await sql_undone(world)
    go_on.set()
    await sending
    third = again(world)
    events = await third.say(None, "here they are")
    assert replies(events) == ["here they are"]
    assert said(third) == ["send it", "and then list them"]
    assert [item.done_at is not None for item in await rows(world)] == [True, True]
    assert replies(await again(world).say(None, "never")) == []
    assert len(world.gated()) == 1


async def sql_undone(world: World) -> None:
    """A cancelled wait says that the person has left; a killed process says nothing. This makes it the latter."""
    sql(world, "UPDATE inbox SET done_at = NULL WHERE body LIKE ?", "%and then list them%")


async def _all(stream: Any) -> list[AgentEvent]:
    return [event async for event in stream]


async def test_a_message_with_a_key_has_one_turn_however_often_it_comes(world: World) -> None:
    first = await world.say("hello", "hi", key="Ev1")
    for agent in (world, again(world)):
        assert replies(await agent.say("hello", key="Ev1")) == ["hi"]
    both = await asyncio.gather(*(world.say("more", *script, key="Ev2") for script in (["well"], [])))
    assert replies(first) == ["hi"]
    assert [replies(events) for events in both] == [["well"]] * 2
    assert len(world.model.seen) == 2
    assert said(world) == ["hello", "more"]


async def test_two_processes_get_one_event_at_once(world: World) -> None:
    other = again(world)
    world.model.script, other.model.script = ["once"], ["once"]
    found = await asyncio.gather(world.say("hello", key="Ev1"), other.say("hello", key="Ev1"))
    assert [replies(events) for events in found] == [["once"]] * 2
    assert len(world.model.seen) + len(other.model.seen) == 1


async def test_a_turn_that_was_killed_goes_on_and_does_not_begin_anew(world: World) -> None:
    world.model.script = [[DELETE]]
    await killed(world.agent, "s", "delete it", after=1, key="Ev1")
    world.clock.tick(LEASE + 1)
    other = again(world)
    asked = card(await other.say("delete it", [DELETE], key="Ev1"))
    assert said(other) == ["delete it"]
    assert [item.seq for item in await rows(world)] == [2]
    shown = cards(await again(world).say("delete it", "never", key="Ev1"))
    assert [one.id for one in shown] == [asked.id]


async def test_what_waits_is_worked_on_in_the_order_in_which_it_came(world: World) -> None:
    def store(tx: Transaction) -> None:
        for number in range(3):
            tx.put(f"k{number}", "s", "message", {"text": f"number {number}", "by": ["os", "1", "x"]}, by="os:1")

    await world.agent.journal.write(store)
    events = await world.say("number 3", "zero", "one", "two", "three")
    assert replies(events) == ["zero", "one", "two", "three"]
    assert said(world) == ["number 0", "number 1", "number 2", "number 3"]
    assert all(item.done_at for item in await rows(world))


async def test_a_message_that_waits_overtakes_a_card_in_its_turn(world: World) -> None:
    asked = card(await world.say("delete it", [DELETE]))
    events = await world.say("rather list them", "fine")
    assert replies(events) == ["fine"]
    assert_every_call_is_answered_once(world.model.seen[-1])
    assert failure(await world.decide(asked.id, "approve", confirm="Encuesta de satisfacción")).code.endswith(
        "superseded"
    )
    assert world.gated() == []


async def test_what_is_said_beside_a_card_is_on_record_and_nothing_to_the_model(world: World) -> None:
    await world.say("delete it", [DELETE])
    assert cards(await world.say("yes", "never"))
    from agent.interfaces.record import record

    kept = await world.agent.journal.read(lambda tx: record(tx, "s", 50))
    (aside,) = [row for row in kept if row["what"] == "aside"]
    assert aside["text"].startswith("yes -> ")
    await world.say("rather not", "fine")
    assert said(world) == ["delete it", "rather not"]


async def test_a_session_that_stays_busy_gives_the_message_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told that it didn't go will say it again; it must not have its turn behind their back."""
    monkeypatch.setattr("agent.loop.LEASE", 0.5)
    world = make_world(tmp_path)
    await world.agent.journal.write(lambda tx: tx.lease("s", "elsewhere/1/abc"))
    assert failure(await world.say("hello", "hi")).code == "session_busy"
    assert [item.done_at is not None for item in await rows(world)] == [True]
    await world.agent.journal.write(lambda tx: tx.release("s", "elsewhere/1/abc"))
    assert replies(await world.say("again", "hi")) == ["hi"]
    assert said(world) == ["again"]
    await world.agent.aclose()


async def test_whoever_stops_listening_frees_the_session_at_once(world: World) -> None:
    stream = world.agent.advance("s", "delete it")
    world.model.script = [[DELETE]]
    await anext(stream)
    await stream.aclose()
    assert sql(world, "SELECT owner FROM conversation WHERE id = 's'") == [(None,)]


# The inbox by itself.


def put(journal: Journal, key: str, conversation: str, wake_at: float = 0.0) -> Any:
    body = {"text": key, "by": ["os", "1", ""]}
    return journal.write(lambda tx: tx.put(key, conversation, "message", body, by="os:1", wake_at=wake_at))


async def test_a_key_is_taken_once(tmp_path: Path) -> None:
    journals = [open_journal(tmp_path) for _ in range(3)]
    found = await asyncio.gather(*(put(journals[n % 3], f"k{n % 4}", f"c{n}") for n in range(24)))
    assert sum(found) == 4
    assert len(await journals[0].read(lambda tx: tx.items())) == 4


async def test_every_conversation_is_claimed_by_one_worker(tmp_path: Path) -> None:
    journals = [open_journal(tmp_path) for _ in range(3)]
    for number in range(30):
        await put(journals[0], f"k{number}", f"c{number % 10}")
    claimed: list[tuple[str, int]] = []

    async def work(name: int) -> None:
        while (found := await journals[name].write(lambda tx: tx.claim(f"w{name}"))) is not None:
            claimed.append((found, name))

    await asyncio.gather(*(work(name) for name in range(3)))
    assert sorted(conversation for conversation, _ in claimed) == sorted(f"c{number}" for number in range(10))
    tries = await journals[0].read(lambda tx: {item.tries for item in tx.items()})
    assert tries == {1}


async def test_what_sleeps_is_not_claimed_before_it_wakes(tmp_path: Path) -> None:
    clock = Clock()
    journal = open_journal(tmp_path, clock)
    await put(journal, "later", "c", wake_at=clock() + 60)
    assert await journal.write(lambda tx: tx.claim("w")) is None
    assert await journal.read(lambda tx: tx.waiting("c")) == []
    clock.tick(61)
    assert await journal.write(lambda tx: tx.claim("w")) == "c"
    assert await journal.write(lambda tx: tx.claim("other")) is None
    clock.tick(LEASE + 1)
    # Whoever held it is gone.
    assert await journal.write(lambda tx: tx.claim("other")) == "c"
    (item,) = await journal.read(lambda tx: tx.waiting("c"))
    assert item.tries == 2
    await journal.write(lambda tx: tx.finish([item.id]))
    await journal.write(lambda tx: tx.release("c", "other"))
    assert await journal.write(lambda tx: tx.claim("w")) is None
