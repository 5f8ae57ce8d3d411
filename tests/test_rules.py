"""Each rule of the gate by itself, as briefly as it can be broken: what `mutants.py` is held against."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.domain import Risk
from agent.errors import ApiUnreachable
from agent.gate import Gate
from agent.operations import parse
from agent.platica import Permit, Platica, Request, Wire
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Fault
from agent.settings import SANDBOX_URL
from tests.oracle import WORKSPACE, Killed
from tests.stage import (
    AFTER_KILL,
    CLIENT,
    ELSEWHERE,
    ME,
    SOON,
    TITLES,
    TOMORROW,
    A,
    B,
    C,
    add,
    clear,
    delete,
    digest,
    remove,
    sandbox,
    send,
    update,
)
from tests.support import Clock, World, again, card, cards, departures, failure, make_world, results, sql


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def build(**more: Any) -> World:
        clock = Clock()
        limits = {"confirm_audience_over": 3, "confirm_typed_over": 2}
        made.append(make_world(tmp_path, app=sandbox(clock), clock=clock, **{**limits, **more}))
        return made[-1]

    yield build
    for world in made:
        await world.agent.aclose()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def outcomes(events: Sequence[Any]) -> list[str]:
    return [result.outcome for result in results(events)]


def state(world: World, approval: str) -> str:
    ((found,),) = sql(world, "SELECT state FROM approval WHERE id = ?", approval)
    return str(found)


async def decided(world: World, *calls: Any, typed: str | None = None, session: str = "s") -> str:
    """An approval that is given and not begun: whoever stored the decision is gone."""
    asked = card(await world.say("do this now", list(calls), session=session))
    await world.agent.gate.decide(asked.id, "approve", by=ME, confirm=typed)
    return asked.id


async def resumed(world: World, *script: Any, session: str = "s", **more: Any) -> list[Any]:
    """What another process makes of it."""
    other = again(world, **more)
    other.model.script += script
    events = await other.say(None, "all right", session=session)
    await other.agent.aclose()
    return events


def retitle(world: World, campaign: str, title: str = "Otro título") -> None:
    with world.store.transaction(write=True):
        record = world.store.campaign(WORKSPACE, campaign)
        assert record is not None
        world.store.save_campaign({**record, "title": title}, world.clock.date())


def join(world: World, campaign: str, phone: str = "525500102001") -> None:
    with world.store.transaction(write=True):
        world.store.add_client(WORKSPACE, campaign, phone, "Otra", world.clock.date())


def leave(world: World, campaign: str, phone: str) -> None:
    with world.store.transaction(write=True):
        assert world.store.untag(WORKSPACE, campaign, world.clock.date(), phone) == 1


def at_first_departure(world: World, strike: Callable[[httpx.Request], httpx.Response | None]) -> None:
    """`strike` on the first request that isn't a read."""
    armed = [1]

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" or not armed:
            return None
        armed.clear()
        return strike(request)

    world.transport.before = before


def limited() -> httpx.Response:
    """The request surely did nothing, and may be repeated at once."""
    return httpx.Response(429, json={"code": 429, "error": "slow down"}, headers={"Retry-After": "0"})


# Which calls ask.


async def test_everything_destructive_and_every_send_asks(world: World) -> None:
    for number, call in enumerate([send(B), clear(B), delete(B), remove(B, 0)]):
        assert card(await world.say("do this now", [call], session=f"s{number}")).tool == call[0]
    assert departures(world) == []


async def test_additions_above_the_limit_ask_and_those_of_the_last_hour_count(world: World) -> None:
    assert cards(await world.say("add", [add(A, 1, 2, 3, 4)], session="one"))
    assert outcomes(await world.say("add", [add(A, 1, 2)], "added", session="two")) == ["done"]
    assert cards(await world.say("add", [add(A, 3, 4)], session="three"))
    world.clock.tick(3601)
    assert outcomes(await world.say("add", [add(A, 3, 4)], "added", session="four")) == ["done"]


async def test_while_a_send_lies_ahead_every_write_to_its_campaign_asks(world: World) -> None:
    await world.decide(card(await world.say("send", [send(B, scheduledDates=[TOMORROW])])).id, "approve", "sent")
    assert cards(await world.say("update", [update(B, language="es")]))
    assert not cards(await world.say("update", [update(A, language="es")], "updated", session="two"))


async def test_confirm_writes_makes_every_write_ask(make: Callable[..., World]) -> None:
    world = make(confirm="writes")
    assert cards(await world.say("update", [update(A, language="es")]))


async def test_read_only_refuses_before_it_asks_and_before_it_starts(world: World) -> None:
    await decided(world, remove(B, 0))
    assert outcomes(await resumed(world, read_only=True)) == ["refused"]
    other = again(world, read_only=True)
    assert outcomes(await other.say("go on", [update(A, language="es")], "no", session="two")) == ["refused"]
    assert outcomes(await other.say("go on", [clear(B)], "no", session="three")) == ["refused"]
    await other.agent.aclose()
    assert departures(world) == []


# Decisions.


@pytest.mark.parametrize("value", ["yes", "Approve", "approve ", "", "true", None])
async def test_any_other_value_is_no(world: World, value: Any) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    assert outcomes(await world.decide(asked.id, value, "all right")) == ["denied"]
    assert departures(world) == []


async def test_an_expired_approval_cannot_be_decided(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    world.clock.tick(3601)
    assert failure(await world.decide(asked.id, "approve")).code == "approval_expired"
    assert state(world, asked.id) == "expired"


async def test_another_kind_of_identity_may_not_decide(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    assert failure(await world.decide(asked.id, "approve", by=CLIENT)).code == "approval_not_entitled"
    assert failure(await world.decide(asked.id, "deny", by=CLIENT)).code == "approval_not_entitled"
    assert state(world, asked.id) == "pending"


async def test_without_a_terminal_nobody_approves_unless_it_is_set(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    assert failure(await world.decide(asked.id, "approve", interactive=False)).code == "approval_not_interactive"
    assert departures(world) == []


async def test_what_must_be_typed_is_checked_here(world: World) -> None:
    asked = card(await world.say("clear", [clear(B)]))
    for typed in (None, "", "yes", "3"):
        assert failure(await world.decide(asked.id, "approve", confirm=typed)).code == "approval_confirmation"
    assert outcomes(await world.decide(asked.id, "approve", "all right", confirm=" RECORDATORIO ")) == ["done"]


async def test_sending_again_wants_the_title_and_no_count(world: World) -> None:
    await world.decide(card(await world.say("send", [send(B)])).id, "approve", "sent")
    world.clock.tick(60)
    asked = card(await world.say("send it again", [send(B)]))
    for typed in (None, "2"):
        assert failure(await world.decide(asked.id, "approve", confirm=typed)).code == "approval_confirmation"
    assert len(departures(world)) == 1


async def test_a_decided_approval_is_decided(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    await world.decide(asked.id, "deny", "all right")
    assert failure(await world.decide(asked.id, "approve")).code == "approval_denied"
    assert state(world, asked.id) == "denied"


async def test_a_new_message_overtakes_what_waits(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    assert outcomes(await world.say("no, something else", "all right")) == ["superseded"]
    assert failure(await world.decide(asked.id, "approve")).code == "approval_superseded"
    assert departures(world) == []


async def test_a_new_message_overtakes_what_was_approved_and_never_begun(world: World) -> None:
    await decided(world, remove(B, 0))
    other = again(world)
    assert outcomes(await other.say("no, something else", "all right")) == ["superseded"]
    assert departures(world) == []
    await other.agent.aclose()


async def test_what_was_denied_is_not_asked_again_in_the_turn(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    events = await world.decide(asked.id, "deny", [remove(B, 0)], "all right")
    assert outcomes(events) == ["denied", "refused"]
    assert cards(events) == []


# What an approval is bound to.


@pytest.mark.parametrize("which", [name for name in ELSEWHERE if name != "read only"])
async def test_an_approval_holds_nowhere_else(world: World, which: str) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    other = again(world, **ELSEWHERE[which])
    assert failure(await other.decide(asked.id, "approve")).code == "approval_other_target"
    await world.agent.gate.decide(asked.id, "approve", by=ME)
    assert outcomes(await other.say(None, "all right")) == ["refused"]
    assert departures(world) == []
    await other.agent.aclose()


async def test_arguments_are_bound_by_their_digest(world: World) -> None:
    """Somebody puts another card's calls and fingerprint under an approval."""
    approval = await decided(world, remove(B, 0))
    other = card(await world.say("remove", [remove(B, 1)], session="two"))
    ((theirs,),) = sql(world, "SELECT calls FROM approval WHERE id = ?", other.id)
    ((mine,),) = sql(world, "SELECT calls FROM approval WHERE id = ?", approval)
    calls = [{**json.loads(theirs)[0], "id": json.loads(mine)[0]["id"]}]
    copy = "SELECT preview, fingerprint FROM approval WHERE id = ?"
    ((preview, fingerprint),) = sql(world, copy, other.id)
    change = "UPDATE approval SET calls = ?, preview = ?, fingerprint = ? WHERE id = ?"
    sql(world, change, json.dumps(calls), preview, fingerprint, approval)
    assert outcomes(await resumed(world)) == ["refused"]
    assert departures(world) == []


async def test_arguments_are_bound_by_the_fingerprint_too(make: Callable[..., World]) -> None:
    """Somebody changes the calls and knows how to make their digest. The facts of an update don't name its fields."""
    world = make(confirm="writes")
    approval = await decided(world, update(A, language="es"))
    _rewrite(world, approval, "update_campaign", dict(update(A, language="en")[1]))
    events = await resumed(world)
    assert outcomes(events) == []
    assert card(events).arguments == update(A, language="en")[1]
    assert not [row for row in world.store.requests() if row["method"] != "GET"]


@pytest.mark.parametrize("digested", [False, True])
async def test_the_tool_is_bound(world: World, digested: bool) -> None:
    """Clearing and deleting have the same arguments and the same facts."""
    approval = await decided(world, clear(B), typed=TITLES[B])
    if digested:
        _rewrite(world, approval, "delete_campaign", {"campaignId": B})
    else:
        sql(world, "UPDATE approval SET tool = 'delete_campaign' WHERE id = ?", approval)
    assert outcomes(await resumed(world)) == ([] if digested else ["refused"])
    assert departures(world) == []


def _rewrite(world: World, approval: str, tool: str, arguments: dict[str, Any]) -> None:
    ((stored,),) = sql(world, "SELECT calls FROM approval WHERE id = ?", approval)
    calls = json.dumps([{**json.loads(stored)[0], "arguments": arguments}])
    change = "UPDATE approval SET tool = ?, calls = ?, arguments_sha256 = ? WHERE id = ?"
    sql(world, change, tool, calls, digest(tool, [arguments]), approval)


async def test_whoever_decided_is_judged_again_at_the_start(world: World) -> None:
    approval = await decided(world, remove(B, 0))
    sql(world, "UPDATE decision SET identity = 'mcp:editor' WHERE approval = ?", approval)
    await resumed(world)
    assert departures(world) == []


async def test_a_state_without_a_decision_is_no_approval(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    sql(world, "UPDATE approval SET state = 'approved', decided_at = requested_at WHERE id = ?", asked.id)
    await resumed(world)
    assert departures(world) == []


async def test_an_approval_is_none_in_another_conversation(world: World) -> None:
    """Two conversations whose models gave their calls the same id; one was never asked about."""
    await decided(world, remove(B, 0))

    def lost(request: httpx.Request) -> httpx.Response | None:
        raise Killed

    other = again(world)
    await other.say("hello", "hello", session="two")
    other.model.seen.clear()
    world.transport.before = lost
    with pytest.raises(Killed):
        await other.say("remove", [remove(B, 1)], session="two")
    world.transport.before = None
    assert card(await resumed(world, session="two")).arguments == remove(B, 1)[1]
    assert departures(world) == []
    await other.agent.aclose()


# What must not have changed.


def template_text(world: World) -> None:
    world.store.alter("templates", "recordatorio_cita", content="{{1}}, {{2}}: otra cosa")


def template_status(world: World) -> None:
    world.store.alter("templates", "recordatorio_cita", status="PAUSED")


def channel_drops(world: World) -> None:
    world.store.alter("channels", "wb-501", isConnected=False)


def title(world: World) -> None:
    retitle(world, B)


def somebody_joins(world: World) -> None:
    join(world, B)


def somebody_is_swapped(world: World) -> None:
    """Size and newest member stay as they are: who comes was there before, who goes was the oldest."""
    members = [c for c in world.store.state()[0]["clients"] if f"campaign-{B}" in c["tags"]]
    leave(world, B, min(members, key=lambda c: (c["creationDate"], c["id"]))["phoneNumber"])
    with world.store.transaction(write=True):
        world.store.add_client(WORKSPACE, B, "525500102000", "La de antes", world.clock.date())


@pytest.mark.parametrize(
    "change", [template_text, template_status, channel_drops, title, somebody_joins, somebody_is_swapped]
)
async def test_a_send_is_bound_to_what_its_card_showed(world: World, change: Callable[[World], None]) -> None:
    with world.store.transaction(write=True):
        world.store.add_client(WORKSPACE, C, "525500102000", "La de antes", world.clock.date())
    world.clock.tick(1)
    join(world, B, "525500102009")
    asked = card(await world.say("send", [send(B)]))
    world.clock.tick(1)
    change(world)
    events = await world.decide(asked.id, "approve", confirm=TITLES[B])
    assert departures(world) == []
    assert card(events).card.drift
    assert state(world, asked.id) == "drifted"


@pytest.mark.parametrize("call", [clear(B), delete(B), remove(B, 0)])
async def test_a_removal_is_bound_to_the_audience(world: World, call: Any) -> None:
    asked = card(await world.say("do this now", [call]))
    join(world, B)
    events = await world.decide(asked.id, "approve", confirm=TITLES[B])
    assert departures(world) == []
    assert card(events).card.drift


async def test_a_date_that_has_passed_meanwhile_is_not_sent(world: World) -> None:
    asked = card(await world.say("send", [send(B, scheduledDates=[SOON])]))
    world.clock.tick(2401)
    assert outcomes(await world.decide(asked.id, "approve", "all right")) == ["refused"]
    assert departures(world) == []


@pytest.mark.parametrize(("later", "found"), [(119, "done"), (121, "expired")])
async def test_an_approved_call_starts_within_two_minutes_or_never(world: World, later: float, found: str) -> None:
    await decided(world, remove(B, 0))
    world.clock.tick(later)
    assert outcomes(await resumed(world)) == [found]


async def test_an_approval_that_expires_before_the_start_is_expired(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    world.clock.tick(3590)
    await world.agent.gate.decide(asked.id, "approve", by=ME)
    world.clock.tick(20)
    assert outcomes(await resumed(world)) == ["expired"]
    assert departures(world) == []


# Batches and steps behind.


async def batch(world: World, strike: Callable[[httpx.Request], httpx.Response | None]) -> list[Any]:
    """Three removals on one card; `strike` comes with the first request."""
    asked = card(await world.say("remove", [remove(A, number) for number in range(3)]))
    at_first_departure(world, strike)
    return await world.decide(asked.id, "approve", "all right", confirm="3")


async def test_an_approval_that_expires_inside_a_batch_runs_no_more(world: World) -> None:
    events = await batch(world, lambda request: world.clock.tick(3601))
    assert outcomes(events) == ["done", "refused", "not_run"]
    assert len(departures(world)) == 1


async def test_drift_inside_a_batch_stops_it(world: World) -> None:
    events = await batch(world, lambda request: join(world, A))
    assert len(departures(world)) == 1
    assert len(card(events).arguments) == 2


async def test_a_failure_inside_a_batch_stops_it(world: World) -> None:
    refusal = httpx.Response(422, json={"code": 422, "error": "no"})
    events = await batch(world, lambda request: refusal)
    assert outcomes(events) == ["failed", "not_run", "not_run"]
    assert all("earlier step" in result.line for result in results(events)[1:])
    assert len(departures(world)) == 1


async def test_behind_a_failed_step_nothing_is_written(world: World) -> None:
    taken = update(A, title=TITLES[C])
    events = await world.say("go on", [taken, update(A, language="es"), clear(B)], "all right")
    assert outcomes(events) == ["failed", "not_run", "not_run"]


# Requests and their ends.


async def test_the_attempt_is_on_record_before_the_first_byte(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    found: list[Any] = []
    statement = "SELECT attempt.state, approval.state FROM attempt JOIN approval ON approval.id = attempt.approval"
    at_first_departure(world, lambda request: found.extend(sql(world, statement)))
    await world.decide(asked.id, "approve", "all right")
    assert found == [("started", "executing")]


async def test_an_attempt_on_record_is_not_made_again(world: World) -> None:
    """Killed in the request, and then somebody sets the approval back to where it can start."""

    def die(request: httpx.Request) -> None:
        raise Killed

    asked = card(await world.say("remove", [remove(B, 0)]))
    at_first_departure(world, die)
    with pytest.raises(Killed):
        await world.decide(asked.id, "approve", "never said")
    world.clock.tick(AFTER_KILL / 10)
    sql(world, "UPDATE approval SET state = 'approved', decided_at = ? WHERE id = ?", world.clock(), asked.id)
    await resumed(world)
    assert len(departures(world)) == 1


async def test_a_state_moves_only_from_where_it_is(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    journal = world.agent.journal
    assert not await journal.write(lambda tx: tx.move(asked.id, "approved", "executing"))
    assert await journal.write(lambda tx: tx.move(asked.id, "pending", "denied"))
    assert not await journal.write(lambda tx: tx.move(asked.id, "pending", "approved"))


@pytest.mark.parametrize("kind", ["drop", "drop_before", "503", "500_after", "garbage", "html", "status"])
async def test_an_answer_that_says_nothing_sure_is_unknown_and_not_repeated(world: World, kind: str) -> None:
    asked = card(await world.say("send", [send(B)]))
    world.store.add_fault(Fault(kind, path=f"/v1/campaigns/{B}/send", times=9))
    assert outcomes(await world.decide(asked.id, "approve", [send(B)], "all right")) == ["unknown", "refused"]
    assert len(departures(world)) == 1
    assert state(world, asked.id) == "unknown"


@pytest.mark.parametrize("change", [title, somebody_joins, lambda world: world.clock.tick(3601)])
async def test_a_request_is_judged_again_before_it_is_repeated(world: World, change: Callable[[World], None]) -> None:
    asked = card(await world.say("send", [send(B)]))

    def refuse(request: httpx.Request) -> httpx.Response:
        change(world)
        return limited()

    at_first_departure(world, refuse)
    events = await world.decide(asked.id, "approve", "all right")
    assert len(departures(world)) == 1
    assert not results(events)[0].ok


async def test_an_approved_write_is_judged_again_before_it_is_repeated(make: Callable[..., World]) -> None:
    """It needed a person, so what it is bound to holds for each of its requests."""
    world = make(confirm="writes")
    asked = card(await world.say("update", [update(A, language="es")]))

    def refuse(request: httpx.Request) -> httpx.Response:
        retitle(world, A)
        return limited()

    at_first_departure(world, refuse)
    assert not results(await world.decide(asked.id, "approve", "all right"))[0].ok
    assert [method for method, _ in world.transport.seen].count("PATCH") == 1


async def test_a_request_that_never_arrived_is_repeated(world: World) -> None:
    asked = card(await world.say("send", [send(B)]))
    at_first_departure(world, lambda request: limited())
    assert outcomes(await world.decide(asked.id, "approve", "all right")) == ["done"]
    assert len(departures(world)) == 2


async def test_an_attempt_is_called_unknown_only_when_its_time_is_over(world: World) -> None:
    def die(request: httpx.Request) -> None:
        raise Killed

    asked = card(await world.say("remove", [remove(B, 0)]))
    at_first_departure(world, die)
    with pytest.raises(Killed):
        await world.decide(asked.id, "approve", "never said")
    world.clock.tick(75)
    going_on = asyncio.create_task(resumed(world))
    await asyncio.sleep(0.1)
    assert await world.agent.gate.sweep() == []
    assert sql(world, "SELECT state FROM attempt") == [("started",)]
    world.clock.tick(10)
    assert outcomes(await going_on) == ["unknown"]


async def test_stopping_a_turn_in_its_request_still_records_the_end(world: World) -> None:
    asked = card(await world.say("remove", [remove(B, 0)]))
    world.store.add_fault(Fault("delay_after", seconds=0.1, method="DELETE"))
    turn = asyncio.create_task(world.decide(asked.id, "approve", "never said"))
    while not departures(world):
        await asyncio.sleep(0.01)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert sql(world, "SELECT state FROM attempt") == [("done",)]


# One at a time.


class Busy(httpx.AsyncBaseTransport):
    """Counts how many requests that aren't reads are under way at once, each for a moment at least."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner, self.running, self.most = inner, 0, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return await self.inner.handle_async_request(request)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.1)
        try:
            return await self.inner.handle_async_request(request)
        finally:
            self.running -= 1


async def test_two_removals_from_one_campaign_are_never_under_way_at_once(world: World) -> None:
    one = card(await world.say("remove", [remove(A, 0)], session="one"))
    two = card(await world.say("remove", [remove(A, 1)], session="two"))
    world.transport.inner = busy = Busy(world.transport.inner)
    first = asyncio.create_task(world.decide(one.id, "approve", "all right"))
    while not busy.running:
        await asyncio.sleep(0.01)
    second = await world.decide(two.id, "approve")
    assert outcomes(await first) == ["done"]
    # What was approved before the first has been done no longer holds.
    assert card(second).card.drift
    assert (busy.most, len(departures(world))) == (1, 1)


async def test_a_plain_write_waits_for_the_campaign_too(world: World) -> None:
    one = card(await world.say("remove", [remove(A, 0)], session="one"))
    world.transport.inner = busy = Busy(world.transport.inner)
    first = asyncio.create_task(world.decide(one.id, "approve", "all right"))
    while not busy.running:
        await asyncio.sleep(0.01)
    other = again(world)
    assert outcomes(await other.say("update", [update(A, language="es")], "updated", session="two")) == ["done"]
    assert outcomes(await first) == ["done"]
    assert busy.most == 1
    await other.agent.aclose()


# The last door.


async def test_nothing_gated_leaves_without_a_permit_for_just_it(world: World) -> None:
    platica, reading = world.agent.platica, world.agent.gate.reading()
    request, other = (parse(tool, arguments, reading).request() for tool, arguments in (send(B), send(A)))
    for asked, permit in ((request, None), (request, Permit("a", other.sha256, 1e12))):
        with pytest.raises(PermissionError):
            await platica.request(asked, permit)
    with pytest.raises(PermissionError):
        await platica.request(Request("POST", request.path, Risk.WRITE, body=request.body))
    permit = Permit("a", request.sha256, 1e12)
    await platica.request(request, permit)
    with pytest.raises(PermissionError):
        await platica.request(request, permit)
    assert len(departures(world)) == 1


async def test_a_late_first_byte_does_not_leave(world: World) -> None:
    request = parse(*remove(B, 0), world.agent.gate.reading()).request()
    for permit in (
        Permit("a", request.sha256, time.monotonic() - 0.1),
        Permit("a", request.sha256, 1e12, lambda: False),
    ):
        with pytest.raises(ApiUnreachable):
            await world.agent.platica.request(request, permit)
    assert departures(world) == []


class Limiting(httpx.AsyncBaseTransport):
    """Says with every audience that the rate limit is reached, so that the next request has to wait for its turn."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if request.url.path.endswith("/audience"):
            response.headers.update({"X-RateLimit-Remaining": "0", "Retry-After": "0"})
        return response


async def test_a_machine_that_slept_before_the_first_byte_sends_nothing(world: World) -> None:
    """It sleeps while the request waits for its turn, after the attempt went on record."""
    asked = card(await world.say("remove", [remove(B, 0)]))

    async def sleep(seconds: float) -> None:
        world.clock.tick(9 * 3600)
        await asyncio.sleep(seconds)

    http = Wire(Limiting(world.transport), SANDBOX_URL, httpx.Timeout(5.0))
    world.agent.gate = Gate(
        world.agent.settings,
        Platica(http, key=LOCAL_KEY, requests_per_second=1e6, sleep=sleep),
        world.agent.journal,
        clock=world.clock,
    )
    assert outcomes(await world.decide(asked.id, "approve", "all right")) == ["failed"]
    assert departures(world) == []
