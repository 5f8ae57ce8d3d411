"""Policy, order and batches: what runs, what asks, what is refused, and what a process killed in the middle leaves."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from agent.gate import Identity
from agent.loop import Agent
from agent.platica import Platica
from agent.sandbox.api import create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Fault
from tests.support import (
    CITA,
    ENCUESTA,
    NOW,
    PROMO,
    Clock,
    ScriptedModel,
    World,
    again,
    card,
    cards,
    departures,
    failure,
    journal_url,
    make_world,
    open_journal,
    results,
    settings,
    sql,
)

SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["equipo", "viernes"]}})
READ = ("get_campaign", {"campaignId": CITA})
RENAME = ("update_campaign", {"campaignId": CITA, "title": "Nuevo título"})
CREATE = ("create_campaign", {"title": "Otoño 2026", "category": "marketing"})


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def build(**more: Any) -> World:
        made.append(make_world(tmp_path, **more))
        return made[-1]

    yield build
    for one in made:
        await one.agent.aclose()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def add(count: int, campaign: str = CITA, start: int = 0) -> tuple[str, dict[str, Any]]:
    clients = [{"phoneNumber": f"+5255990{n:05d}", "name": f"P {n}"} for n in range(start, start + count)]
    return "add_campaign_audience", {"campaignId": campaign, "clients": clients}


def remove(phone: str, campaign: str = ENCUESTA) -> tuple[str, dict[str, Any]]:
    return "remove_campaign_audience_client", {"campaignId": campaign, "phoneNumber": "+" + phone}


def phones(world: World, campaign: str = ENCUESTA) -> list[str]:
    clients = world.store.state()[0]["clients"]
    return [c["phoneNumber"] for c in clients if f"campaign-{campaign}" in c["tags"]]


def writes(world: World) -> list[str]:
    return [row["path"] for row in world.store.requests() if row["method"] != "GET"]


def join(world: World, campaign: str, phone: str) -> None:
    with world.store.transaction(write=True):
        world.store.add_client("ws_norte", campaign, phone, "Otra", world.clock.date())


# Policy.


async def test_small_writes_run_and_are_on_record(world: World) -> None:
    events = await world.say("go on", [CREATE, RENAME, add(3)], "done")
    assert [result.outcome for result in results(events)] == ["done"] * 3
    assert cards(events) == []
    who = Identity.os_user().key
    assert sql(world, "SELECT tool, state, by, size FROM attempt ORDER BY started_at, approval, call_id") == [
        ("create_campaign", "done", who, 0),
        ("update_campaign", "done", who, 0),
        ("add_campaign_audience", "done", who, 3),
    ]


@pytest.mark.parametrize(("count", "asks"), [(50, False), (51, True)])
async def test_adding_more_than_the_limit_asks(world: World, count: int, asks: bool) -> None:
    events = await world.say("add", [add(count)], "added")
    assert bool(cards(events)) is asks
    assert len(phones(world, CITA)) == 35 + (0 if asks else count)
    if asks:
        assert str(count) in card(events).card.headline
        assert "renames" in [warning["code"] for warning in card(events).preview["warnings"]]
        assert results(await world.decide(card(events).id, "approve", "ok"))[0].ok
        assert len(phones(world, CITA)) == 35 + count


async def test_the_limit_counts_over_a_sliding_hour_and_all_sessions(world: World) -> None:
    assert not cards(await world.say("add", [add(30)], "added", session="one"))
    world.clock.tick(1800)
    other = again(world)
    assert not cards(await other.say("add", [add(20, start=100)], "added", session="two"))
    assert cards(await world.say("add", [add(1, start=200)], session="three"))
    # Another campaign has an hour of its own.
    assert not cards(await other.say("add", [add(40, PROMO, start=300)], "added", session="four"))
    world.clock.tick(1801)
    assert not cards(await other.say("add", [add(30, start=400)], "added", session="five"))
    assert cards(await other.say("add", [add(1, start=500)], session="five"))
    await other.agent.aclose()


async def test_the_limit_counts_several_calls_of_one_turn(world: World) -> None:
    events = await world.say("add", [add(30), add(30, start=100)])
    assert [result.outcome for result in results(events)] == ["done"]
    assert card(events).tool == "add_campaign_audience"


async def test_the_limit_counts_what_was_approved(world: World) -> None:
    asked = card(await world.say("add", [add(60)]))
    await world.decide(asked.id, "approve", "added")
    assert cards(await world.say("add", [add(10, start=200)], "added"))


async def test_an_unknown_addition_counts_and_a_failed_one_does_not(world: World) -> None:
    world.store.add_fault(Fault("500_after", method="POST"))
    await world.say("add", [add(40)], "unknown")
    assert cards(await world.say("add", [add(20, start=100)], session="two"))

    def before(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(422, json={"error": "no", "code": 422}) if request.method == "POST" else None

    world.transport.before = before
    await world.say("add", [add(40, PROMO)], "failed", session="three")
    world.transport.before = None
    assert not cards(await world.say("add", [add(40, PROMO)], "added", session="four"))


@pytest.mark.parametrize("call", [CREATE, RENAME, add(1)])
async def test_confirm_writes_asks_for_every_write(make: Callable[..., World], call: Any) -> None:
    world = make(confirm="writes")
    asked = card(await world.say("go on", [READ, call]))
    assert writes(world) == []
    assert results(await world.decide(asked.id, "approve", "ok"))[0].ok
    assert len(writes(world)) == 1


async def test_confirm_writes_denied_writes_nothing(make: Callable[..., World]) -> None:
    world = make(confirm="writes")
    asked = card(await world.say("go on", [RENAME]))
    await world.decide(asked.id, "deny", "ok")
    assert writes(world) == []


@pytest.mark.parametrize(
    "call", [CREATE, RENAME, add(1), SEND, remove("525500100011"), ("delete_campaign", {"campaignId": CITA}),
             ("clear_campaign_audience", {"campaignId": CITA})],
)  # fmt: skip
async def test_read_only_refuses_all_but_reads(make: Callable[..., World], call: Any) -> None:
    world = make(read_only=True)
    events = await world.say("go on", [READ, call], "can't")
    assert [result.outcome for result in results(events)] == ["done", "refused"]
    assert cards(events) == []
    assert writes(world) == []
    assert "read-only" in world.model.seen[0][0]["content"]


async def test_read_only_refuses_also_what_was_approved_before(world: World) -> None:
    asked = card(await world.say("go on", [SEND]))
    restarted = again(world, read_only=True)
    events = await restarted.decide(asked.id, "approve", "ok")
    assert departures(world) == []
    assert not any(result.ok for result in results(events))
    await restarted.agent.aclose()


async def test_a_scheduled_send_ahead_makes_every_write_ask_and_says_so(world: World) -> None:
    template = {"params": ["a", "b"], "scheduledDates": ["2026-11-24T12:00:00-06:00"]}
    asked = card(await world.say("schedule", [("send_campaign", {**SEND[1], "template": template})]))
    await world.decide(asked.id, "approve", "scheduled")
    for number, call in enumerate((RENAME, add(1))):
        asked = card(await world.say("change", [call], session=f"s{number}"))
        assert any("scheduled send" in warning for warning in asked.warnings)
        assert "Tuesday 24 Nov 2026, 12:00" in "\n".join(asked.warnings)
    # Others don't ask, and when it is over this one doesn't either.
    other = ("update_campaign", {"campaignId": PROMO, "language": "es"})
    assert not cards(await world.say("change", [other], "changed", session="o"))
    world.clock.tick(2 * 86400)
    assert not cards(await world.say("change", [RENAME], "changed", session="later"))


# Order inside a turn.


async def test_adjacent_reads_run_at_the_same_time(world: World) -> None:
    running, most = 0, 0
    inner = world.transport.inner

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            answer = await inner.handle_async_request(request)
            running -= 1
            return answer

    await world.say("hello", "hi")
    world.transport.inner = Slow()
    reads = [("get_campaign", {"campaignId": which}) for which in (CITA, PROMO, ENCUESTA)]
    events = await world.say("read", [*reads], "done")
    assert most == 3
    shown = [json.dumps(result.content) for result in results(events)]
    assert [which in text for text, which in zip(shown, (CITA, PROMO, ENCUESTA), strict=True)] == [True] * 3
    most = 0
    await world.say("read", [reads[0], reads[1], add(1), reads[2]], "done")
    assert most == 2
    world.transport.inner = inner


async def test_writes_run_in_order_one_after_the_other(world: World) -> None:
    titles = ["Uno", "Dos", "Tres"]
    calls: list[Any] = [("update_campaign", {"campaignId": CITA, "title": title}) for title in titles]
    calls.insert(2, READ)
    await world.say("rename", calls, "done")
    rows = [row for row in world.store.requests() if row["path"] == f"/v1/campaigns/{CITA}"]
    assert [json.loads(row["body"])["title"] if row["body"] else "read" for row in rows] == [
        "Uno",
        "Dos",
        "read",
        "Tres",
    ]


async def test_behind_a_failed_write_nothing_more_is_written(world: World) -> None:
    taken = ("update_campaign", {"campaignId": CITA, "title": "Promo Verano 2026"})
    events = await world.say("go on", [add(1), taken, add(1, start=9), SEND, READ], "failed")
    assert [result.outcome for result in results(events)] == ["done", "failed", "not_run", "not_run", "done"]
    assert "earlier step" in results(events)[2].line
    assert cards(events) == []
    # A failed read stops nobody.
    events = await world.say("go on", [("get_campaign", {"campaignId": "nope"}), add(1, start=20)], "done")
    assert [result.outcome for result in results(events)] == ["failed", "done"]


async def test_an_unknown_write_is_not_repeated_and_stops_what_is_behind(world: World) -> None:
    world.store.add_fault(Fault("500_after", method="PATCH"))
    events = await world.say("go on", [RENAME, add(1)], [RENAME], "gave up")
    assert [result.outcome for result in results(events)] == ["unknown", "not_run", "refused"]
    assert len(writes(world)) == 1


async def test_a_write_that_never_arrived_is_repeated(world: World) -> None:
    armed = [1]

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PATCH" and armed:
            armed.pop()
            raise httpx.ConnectError("refused")
        return None

    world.transport.before = before
    events = await world.say("go on", [RENAME], "done")
    assert [result.outcome for result in results(events)] == ["done"]
    assert len(writes(world)) == 1


async def test_gated_calls_get_their_cards_in_order_each_previewed_after_the_one_before(world: World) -> None:
    clear = ("clear_campaign_audience", {"campaignId": ENCUESTA})
    delete = ("delete_campaign", {"campaignId": ENCUESTA})
    first = card(await world.say("go on", [clear, delete]))
    assert first.tool == "clear_campaign_audience"
    second = card(await world.decide(first.id, "approve", confirm="12"))
    assert second.tool == "delete_campaign"
    assert second.preview["facts"]["audience"]["size"] == 0
    events = await world.decide(second.id, "approve", "done", confirm="encuesta de satisfacción")
    assert [result.outcome for result in results(events)] == ["done"]
    assert len(world.gated()) == 2


async def test_an_identical_call_after_a_denial_is_refused_in_the_turn_and_asked_in_the_next(world: World) -> None:
    asked = card(await world.say("go on", [SEND]))
    spaced = (SEND[0], json.dumps({**SEND[1], "responderAgentId": None}, indent=3))
    events = await world.decide(asked.id, "deny", [spaced], "fine")
    assert [result.outcome for result in results(events)] == ["denied", "refused"]
    assert "identical" in results(events)[1].line
    assert card(await world.say("now really send it", [SEND])).tool == "send_campaign"


# Batches of removals.


async def test_twelve_removals_are_one_card_one_decision_and_twelve_requests(world: World) -> None:
    twelve = phones(world)
    asked = card(await world.say("remove them all", [remove(phone) for phone in twelve]))
    assert isinstance(asked.arguments, list)
    assert len(asked.arguments) == 12
    assert asked.card.headline.startswith("REMOVE 12 people")
    assert all("+" + phone in "\n".join(asked.card.lines()) for phone in twelve)
    assert asked.confirm == "typed"
    assert failure(await world.decide(asked.id, "approve")).code == "approval_confirmation"
    events = await world.decide(asked.id, "approve", "all gone", confirm="12")
    assert [result.outcome for result in results(events)] == ["done"] * 12
    assert world.gated() == [("DELETE", f"/v1/campaigns/{ENCUESTA}/audience/{phone}") for phone in twelve]
    assert sql(world, "SELECT count(*), count(DISTINCT call_id) FROM attempt WHERE state = 'done'") == [(12, 12)]
    assert sql(world, "SELECT count(*) FROM decision") == [(1,)]
    assert sql(world, "SELECT state FROM approval") == [("done",)]
    assert phones(world) == []


async def test_a_denied_batch_is_denied_call_by_call(world: World) -> None:
    three = phones(world)[:3]
    asked = card(await world.say("remove", [remove(phone) for phone in three]))
    events = await world.decide(asked.id, "deny", "ok", reason="no")
    assert next(result.outcome for result in results(events)) == "denied"
    assert {result.outcome for result in results(events)} <= {"denied", "not_run"}
    assert len(results(events)) == 3
    assert world.gated() == []
    assert cards(events) == []


async def test_a_phone_that_nobody_has_does_not_take_the_others_along(world: World) -> None:
    one, two = phones(world)[:2]
    events = await world.say("remove", [remove(one), remove("525599999999"), remove(two)])
    (refused,) = results(events)
    assert (refused.outcome, "+525599999999" in refused.line) == ("refused", True)
    asked = card(events)
    assert [a["phoneNumber"] for a in asked.arguments] == [f"+{one}", f"+{two}"]
    events = await world.decide(asked.id, "approve", "ok", confirm="2")
    assert [result.ok for result in results(events)] == [True, True]


@pytest.mark.parametrize("between", [[READ], [add(1, ENCUESTA)], [remove("525500100010", CITA)]])
async def test_only_adjacent_removals_from_one_campaign_are_one_card(world: World, between: list[Any]) -> None:
    one, two = phones(world)[:2]
    asked = card(await world.say("remove", [remove(one), *between, remove(two)]))
    assert asked.arguments == {"campaignId": ENCUESTA, "phoneNumber": f"+{one}"}


async def test_the_same_phone_twice_is_removed_once(world: World) -> None:
    one = phones(world)[0]
    asked = card(await world.say("remove", [remove(one), remove(one)]))
    events = await world.decide(asked.id, "approve", "ok", confirm="1")
    assert len(world.gated()) == 1
    assert [result.outcome for result in results(events)] == ["done", "refused"]


@pytest.mark.parametrize("what", ["joined", "left", "title"])
async def test_drift_inside_a_batch_stops_it_and_asks_for_the_rest(world: World, what: str) -> None:
    four = phones(world)[:4]
    asked = card(await world.say("remove", [remove(phone) for phone in four]))
    world.clock.tick(1)
    last = phones(world)[-1]

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "DELETE" and len(world.gated()) == 1:
            world.clock.tick(1)
            with world.store.transaction(write=True):
                if what == "joined":
                    world.store.add_client("ws_norte", ENCUESTA, "525599990001", "Otra", world.clock.date())
                elif what == "left":
                    world.store.untag("ws_norte", ENCUESTA, world.clock.date(), last)
                else:
                    record = world.store.campaign("ws_norte", ENCUESTA)
                    assert record is not None
                    world.store.save_campaign({**record, "title": "Otro"}, world.clock.date())
        return None

    world.transport.before = before
    events = await world.decide(asked.id, "approve", confirm="4")
    assert [result.outcome for result in results(events)] == ["done", "done"]
    assert len(world.gated()) == 2
    fresh = card(events)
    assert [a["phoneNumber"] for a in fresh.arguments] == ["+" + phone for phone in four[2:]]
    assert fresh.card.drift
    world.transport.before = None
    events = await world.decide(fresh.id, "approve", "ok", confirm="2")
    assert [result.outcome for result in results(events)] == ["done", "done"]
    assert len(world.gated()) == 4


async def test_a_failure_inside_a_batch_stops_it(world: World) -> None:
    three = phones(world)[:3]
    asked = card(await world.say("remove", [remove(phone) for phone in three]))
    world.store.add_fault(Fault("500_after", method="DELETE", path=f"/v1/campaigns/{ENCUESTA}/audience/{three[1]}"))
    events = await world.decide(asked.id, "approve", "hm", confirm="3")
    assert [result.outcome for result in results(events)] == ["done", "unknown", "not_run"]
    assert len(world.gated()) == 2
    assert sql(world, "SELECT state FROM approval") == [("unknown",)]


async def test_an_approval_that_expires_inside_a_batch_runs_no_more(world: World) -> None:
    three = phones(world)[:3]
    asked = card(await world.say("remove", [remove(phone) for phone in three]))

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "DELETE":
            world.clock.tick(3601)
        return None

    world.transport.before = before
    events = await world.decide(asked.id, "approve", "hm", confirm="3")
    assert len(world.gated()) == 1
    assert [result.ok for result in results(events)] == [True, False, False]


async def test_a_batch_interrupted_in_the_middle_is_answered_and_not_begun_again(world: World) -> None:
    three = phones(world)[:3]
    asked = card(await world.say("remove", [remove(phone) for phone in three]))
    path = f"/v1/campaigns/{ENCUESTA}/audience/{three[1]}"
    world.store.add_fault(Fault("delay_after", seconds=0.15, method="DELETE", path=path))
    turn = asyncio.create_task(world.decide(asked.id, "approve", "never", confirm="3"))
    while len(departures(world)) < 2:
        await asyncio.sleep(0.01)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    restarted = again(world)
    events = await restarted.say(None, "two of three")
    assert [result.outcome for result in results(events)][-2:] == ["done", "not_run"]
    assert len(departures(world)) == 2
    assert sql(world, "SELECT state FROM approval") != [("executing",)]
    assert sql(world, "SELECT state FROM approval") != [("done",)]
    await restarted.agent.aclose()


# Calls without a model go through the same gate.


async def test_a_call_by_hand_asks_all_the_same(world: World) -> None:
    events = [event async for event in world.agent.call("h", SEND[0], json.dumps(SEND[1]))]
    assert world.gated() == []
    assert results(await world.decide(card(events).id, "approve"))[0].ok
    assert len(world.gated()) == 1
    assert world.model.seen == []
    events = [event async for event in world.agent.call("h", "send_campaign", '{"campaignId": "x"}')]
    assert failure(events).code == "invalid_call"


# Killed in the middle of a request, with a real server behind.

CHILD = """
import asyncio, json, sys
sys.path[:0] = {path!r}
import httpx
from tests.support import Clock, ScriptedModel, settings
from agent.journal import Journal
from agent.loop import Agent
from agent.platica import Platica

async def main():
    clock = Clock()
    platica = Platica(httpx.AsyncClient(base_url={url!r}), key={key!r}, requests_per_second=1e6)
    agent = Agent(settings(), model=ScriptedModel(), platica=platica, journal=Journal({database!r}, clock=clock),
                  clock=clock, locale="en")
    async for event in agent.decide({approval!r}, "approve"):
        print(event, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def server() -> Iterator[tuple[str, Any]]:
    app = create_app(":memory:", clock=lambda: NOW, rate_limit=100_000)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.store
    server.should_exit = True
    thread.join(5)
    listening.close()


async def test_p5_kill_9_in_the_middle_of_a_send_is_unknown_and_never_sent_twice(
    server: tuple[str, Any], tmp_path: Path
) -> None:
    url, store = server
    clock, model = Clock(), ScriptedModel([[SEND]])

    def process() -> Agent:
        platica = Platica(httpx.AsyncClient(base_url=url), key=LOCAL_KEY, requests_per_second=1e6)
        journal = open_journal(tmp_path, clock)
        return Agent(settings(), model=model, platica=platica, journal=journal, clock=clock, locale="en")

    agent = process()
    asked = card([event async for event in agent.advance("s", "send it")])
    await agent.aclose()
    store.add_fault(Fault("delay_after", seconds=60, path=f"/v1/campaigns/{CITA}/send"))
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    code = CHILD.format(path=paths, url=url, key=LOCAL_KEY, database=journal_url(tmp_path), approval=asked.id)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=tmp_path)
    ends = time.monotonic() + 20
    while not store.outbox() and time.monotonic() < ends and child.poll() is None:
        await asyncio.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(store.outbox()) == 35

    agent = process()
    clock.tick(75)
    model.script = ["I don't know whether it was sent"]

    async def go_on() -> list[Any]:
        return [event async for event in agent.advance("s", None)]

    turn = asyncio.create_task(go_on())
    await asyncio.sleep(0.25)
    assert not turn.done()
    clock.tick(10)
    events = await turn
    assert [result.outcome for result in results(events)] == ["unknown"]
    assert "may have gone out" in results(events)[0].line
    again_events = [event async for event in agent.decide(asked.id, "approve")]
    assert failure(again_events).code == "approval_used"
    assert len(store.outbox()) == 35
    assert sum(row["path"].endswith("/send") for row in store.requests()) == 1
    await agent.aclose()
