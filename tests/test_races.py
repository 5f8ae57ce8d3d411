"""Two processes at one moment: each of these once told, lost or ran something that it should not have."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.errors import ModelUnreachable
from agent.events import AgentEvent, Reply
from agent.journal import Event, Item, Transaction
from agent.preview import Preview
from tests.oracle import Killed
from tests.support import CITA, ENCUESTA, World, again, card, cards, failure, make_world, results, sql

DELETE = ("delete_campaign", {"campaignId": ENCUESTA})
TITLE = "Encuesta de satisfacción"
ANA = {"text": "ana asks", "by": ["slack", "T/U", "ana"]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    yield made
    await made.agent.aclose()


def replies(events: list[AgentEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Reply)]


async def items(world: World) -> list[Item]:
    return await world.agent.journal.read(lambda tx: tx.items())


async def put(world: World, key: str = "Ev1") -> None:
    await world.agent.journal.write(lambda tx: tx.put(key, "s", "message", ANA, by="slack:T/U"))


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to it")


async def test_what_another_process_ran_is_never_told_as_not_run(world: World) -> None:
    """The one that approved waits for the session; its holder runs it and dies before the answer is stored."""
    asked = card(await world.say("delete it", [DELETE]))
    await world.agent.journal.write(lambda tx: tx.lease("s", "elsewhere/1/x"))
    approving = asyncio.create_task(world.decide(asked.id, "approve", "bye", confirm=TITLE))

    async def approved() -> bool:
        found = await world.agent.journal.read(lambda tx: tx.approval(asked.id))
        return found is not None and found.state == "approved"

    await until(approved)
    other = again(world)
    approval = await other.agent.journal.read(lambda tx: tx.approval(asked.id))
    assert approval is not None
    ran = [outcome async for _, outcome in other.agent.gate.execute(approval)]
    await world.agent.journal.write(lambda tx: tx.release("s", "elsewhere/1/x"))
    assert [result.outcome for result in results(await approving)] == ["done"]
    assert len(ran) == len(world.gated()) == 1
    await other.agent.aclose()


def people(group: int) -> list[dict[str, str]]:
    return [{"phoneNumber": f"+5255001{group}{number:04d}", "name": "P"} for number in range(40)]


async def test_an_addition_is_judged_with_what_others_have_added_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process stalls just before it has the campaign; another adds forty people, and is through."""
    other, go_on, reached = again(world), threading.Event(), threading.Event()
    lock, stalled = Transaction.lock, []

    def stalling(self: Transaction, target: str, owner: str, seconds: float) -> bool:
        if not stalled:
            stalled.append(owner)
            reached.set()
            go_on.wait(0.5)
        return lock(self, target, owner, seconds)

    monkeypatch.setattr(Transaction, "lock", stalling)
    add = [("add_campaign_audience", {"campaignId": CITA, "clients": people(group)}) for group in (1, 2)]
    first = asyncio.create_task(world.say("add", [add[0]], "fine", session="a"))
    await asyncio.to_thread(reached.wait)
    second = await other.say("add", [add[1]], "fine", session="b")
    go_on.set()
    both = [*await first, *second]
    assert [result.outcome for result in results(both)] == ["done"]
    assert len(cards(both)) == 1
    await other.agent.aclose()


async def test_a_message_whose_number_was_taken_keeps_its_turn(world: World) -> None:
    """The lease was lost while the process was held up: its event's number belongs to another's event."""
    await world.say("hi", "hello")
    other = again(world)
    work = other.agent._work

    async def held_up(session: str, transcript: Any, item: Item) -> AsyncIterator[AgentEvent]:
        clash = Event(transcript.last + 1, "aside", '{"content":"x","answer":"y"}', "os:9")
        await world.agent.journal.write(lambda tx: tx.append("s", [clash]))
        async for event in work(session, transcript, item):
            yield event

    other.agent._work = held_up  # type: ignore[method-assign,assignment]
    assert failure(await other.say("important", "never", key="Ev9")).code == "session_busy"
    third = again(world)
    assert replies(await third.say("important", "answer", key="Ev9")) == ["answer"]
    assert all(item.done_at is not None for item in await items(world))
    for made in (other, third):
        await made.agent.aclose()


async def test_stopping_while_a_lease_is_stored_leaves_no_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.say("hi", "hello")
    lease, reached, go_on = Transaction.lease, threading.Event(), threading.Event()

    def slow(self: Transaction, *rest: Any) -> bool:
        got = lease(self, *rest)
        reached.set()
        go_on.wait(0.3)
        return got

    monkeypatch.setattr(Transaction, "lease", slow)
    turn = asyncio.create_task(world.say("more", "never"))
    await asyncio.to_thread(reached.wait)
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    go_on.set()
    await until(lambda: _free(world))


async def _free(world: World) -> bool:
    return sql(world, "SELECT owner FROM conversation WHERE id = 's'") == [(None,)]


async def test_a_renewal_that_comes_late_takes_nothing(world: World) -> None:
    assert await world.agent.journal.write(lambda tx: tx.lease("s", "me"))
    assert await world.agent.journal.write(lambda tx: tx.renew("s", "me"))
    await world.agent.journal.write(lambda tx: tx.release("s", "me"))
    assert not await world.agent.journal.write(lambda tx: tx.renew("s", "me"))
    assert await _free(world)


async def test_a_batch_is_not_closed_and_continued_at_one_moment(world: World) -> None:
    """Somebody closes the approval between two removals: the second never leaves."""
    members = [c["phoneNumber"] for c in world.store.state()[0]["clients"] if f"campaign-{ENCUESTA}" in c["tags"]]
    removals = [
        ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": f"+{phone}"})
        for phone in members[:2]
    ]
    asked = card(await world.say("remove", removals))
    approval = await world.agent.journal.read(lambda tx: tx.approval(asked.id))
    assert approval is not None
    assert len(approval.calls) == 2
    count = str(len(approval.calls)) if Preview.load(approval.preview).confirm == "typed" else ""

    def close(request: httpx.Request) -> None:
        if request.method == "GET" and len(world.gated()) == 1:
            sql(world, "UPDATE approval SET state = 'failed' WHERE state = 'executing'")

    world.transport.before = close
    events = await world.decide(asked.id, "approve", "so much for that", confirm=count)
    assert len(world.gated()) == 1
    assert [result.outcome for result in results(events)] == ["done", "not_run"]


async def test_an_answer_after_unknown_reaches_the_approval_too(world: World) -> None:
    asked, other = card(await world.say("delete it", [DELETE])), again(world)
    inner = world.transport.inner.handle_async_request

    async def late(request: httpx.Request) -> httpx.Response:
        response = await inner(request)
        if request.method == "DELETE":
            world.clock.tick(100)
            await other.agent.gate.sweep()
            sql(world, "UPDATE approval SET state = 'unknown'")
        return response

    world.transport.inner.handle_async_request = late  # type: ignore[method-assign]
    await world.decide(asked.id, "approve", "bye", confirm=TITLE)
    assert sql(world, "SELECT state FROM approval") == [("done",)]
    assert sql(world, "SELECT state FROM attempt") == [("done",)]
    await other.agent.aclose()


async def test_a_process_whose_clock_is_behind_judges_by_the_database_s(world: World) -> None:
    def die(request: httpx.Request) -> None:
        if request.method == "DELETE":
            raise Killed

    behind = world.clock() - 7200
    asked, other = card(await world.say("delete it", [DELETE])), again(world, clock=lambda: behind)
    world.transport.before = die
    with pytest.raises(Killed):
        await world.decide(asked.id, "approve", confirm=TITLE)
    world.clock.tick(600)
    async with asyncio.timeout(10):
        events = await other.say(None, "I don't know")
    assert [result.outcome for result in results(events)] == ["unknown"]
    await other.agent.aclose()


async def test_a_sweep_ends_the_approval_with_its_attempt(world: World) -> None:
    def die(request: httpx.Request) -> None:
        if request.method == "DELETE":
            raise Killed

    asked = card(await world.say("delete it", [DELETE]))
    world.transport.before = die
    with pytest.raises(Killed):
        await world.decide(asked.id, "approve", confirm=TITLE)
    world.clock.tick(600)
    assert [attempt.approval for attempt in await world.agent.gate.sweep()] == [asked.id]
    assert sql(world, "SELECT state FROM approval") == [("unknown",)]
    assert await world.agent.gate.sweep() == []


async def test_a_worker_that_is_stopped_leaves_its_message_to_the_next(world: World) -> None:
    await put(world)
    assert await world.agent.journal.write(lambda tx: tx.claim("w1")) == "s"
    started = asyncio.Event()

    async def hang(messages: bytes) -> AsyncIterator[str]:
        started.set()
        await asyncio.sleep(60)
        yield ""

    world.model.complete = hang  # type: ignore[method-assign,assignment]

    async def turn() -> None:
        async for _ in world.agent.advance("s", None, owner="w1"):
            pass

    working = asyncio.create_task(turn())
    await started.wait()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert [item.done_at for item in await items(world)] == [None]
    assert await world.agent.journal.write(lambda tx: tx.claim("w2")) == "s"


@pytest.mark.parametrize("key", ["Ev2", None])
async def test_a_failure_about_one_message_costs_no_other(world: World, key: str | None) -> None:
    """Ana's was left by a crash, and its turn fails; Bob's comes behind it, and has its own."""
    await put(world)
    events = await world.say("bob asks", ModelUnreachable(text="x"), "for bob", key=key)
    assert replies(events) == ["for bob"]
    open_now = {item.key for item in await items(world) if item.done_at is None}
    assert open_now == {"Ev1"}
    world.clock.tick(3600)
    other = again(world)
    await other.say(None, "for ana")
    assert all(item.done_at for item in await items(world))
    await other.agent.aclose()


async def test_a_first_message_is_stored_before_anything_is_read_for_it(world: World) -> None:
    """The workspace's data takes two requests, and the process can die in them."""
    stored: list[int] = []

    def look(request: httpx.Request) -> None:
        if request.url.path == "/v1/channels":
            stored.append(len(sql(world, "SELECT id FROM inbox")) + len(sql(world, "SELECT seq FROM event")))

    world.transport.before = look
    assert replies(await world.say("hello", "hi")) == ["hi"]
    assert stored == [1]
