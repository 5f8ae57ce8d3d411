"""The journal by itself: leases, the inbox, the fence, group commit and locks, on both engines."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import (
    SessionBusy,
)
from agent.journal import LEASE, Approval, Attempt, Decision, Event, Journal, Transaction, is_dead, machine, make_owner
from tests.support import Clock, make_world, open_journal

APPROVAL = Approval(
    id="a1", conversation="s", tool="send_campaign", calls=[{"id": "c1", "arguments": {"campaignId": "ñ"}}],
    arguments_sha256="x", preview={"facts": {"título": "«é»"}}, fingerprint="f", base_url="http://a", workspace="",
    key_id="k", requested_by="os:1", deciders=("slack", "os"), requested_at=1.0, expires_at=2.0, state="pending",
)  # fmt: skip
ATTEMPT = Attempt(
    approval="a1", call_id="c1", id="t1", conversation="s", tool="send_campaign", target="http://a - c", arguments={},
    by="os:1", started_at=1.0, deadline=2.0, state="started",
)  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def build(tmp_path: Path, clock: Clock) -> Callable[[], Journal]:
    """Each call is another process on the same database."""
    return lambda: open_journal(tmp_path / "deep", clock)


@pytest.fixture
def journal(build: Callable[[], Journal]) -> Journal:
    return build()


async def test_records_come_back_as_they_went_in(journal: Journal) -> None:
    def store(tx: Transaction) -> None:
        tx.propose(APPROVAL)
        assert tx.attempt(ATTEMPT)
        tx.decide(Decision("a1", "os:1", "approve", "porque sí", True, 0.0))
        tx.append("s", [Event(1, "user", '{"role":"user"}', "os:1"), Event(2, "assistant", "{}")])

    await journal.write(store)
    assert await journal.read(lambda tx: tx.approval("a1")) == APPROVAL
    assert await journal.read(lambda tx: tx.call_attempt("a1", "c1")) == ATTEMPT
    assert [e.seq for e in await journal.read(lambda tx: tx.events("s", 1))] == [2]
    (decision,) = await journal.read(lambda tx: tx.decisions("a1"))
    assert (decision.identity, decision.decision, decision.reason, decision.interactive) == (
        "os:1", "approve", "porque sí", True,
    )  # fmt: skip


async def test_a_lease_has_one_owner_until_it_ends(journal: Journal, clock: Clock) -> None:
    assert await journal.write(lambda tx: tx.lease("s", "one"))
    assert not await journal.write(lambda tx: tx.lease("s", "two"))
    assert await journal.write(lambda tx: tx.lease("s", "one"))
    assert await journal.write(lambda tx: tx.lease("other", "two"))
    clock.tick(LEASE + 1)
    assert await journal.write(lambda tx: tx.lease("s", "two"))
    assert not await journal.write(lambda tx: tx.lease("s", "one"))
    await journal.write(lambda tx: tx.release("s", "one"))
    assert not await journal.write(lambda tx: tx.lease("s", "one"))
    await journal.write(lambda tx: tx.release("s", "two"))
    assert await journal.write(lambda tx: tx.lease("s", "one"))


async def test_two_that_take_a_lease_at_once(build: Callable[[], Journal]) -> None:
    one, two = build(), build()
    for number in range(10):
        session = f"s{number}"
        both = await asyncio.gather(
            one.write(lambda tx, s=session: tx.lease(s, "one")), two.write(lambda tx, s=session: tx.lease(s, "two"))
        )
        assert sorted(both) == [False, True]


async def test_a_number_is_written_once(journal: Journal) -> None:
    await journal.write(lambda tx: tx.append("s", [Event(1, "user", "{}")]))
    with pytest.raises(SessionBusy):
        await journal.write(lambda tx: tx.append("s", [Event(2, "user", "{}"), Event(1, "user", "other")]))
    assert [(e.seq, e.body) for e in await journal.read(lambda tx: tx.events("s"))] == [(1, "{}")]


async def test_one_failing_job_takes_no_other_with_it(journal: Journal) -> None:
    """All of them wait together, so that they share a commit."""
    await journal.write(lambda tx: tx.append("s", [Event(3, "user", "{}")]))

    def fail(tx: Transaction) -> None:
        tx.append("half", [Event(1, "user", "{}")])
        raise LookupError("mine")

    jobs: list[Any] = [journal.write(lambda tx, n=n: tx.append("s", [Event(n, "user", "{}")])) for n in range(1, 6)]
    jobs[1:1] = [journal.write(fail), journal.write(fail)]
    found = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one).__name__ for one in found] == [
        "NoneType", "LookupError", "LookupError", "NoneType", "SessionBusy", "NoneType", "NoneType",
    ]  # fmt: skip
    assert [e.seq for e in await journal.read(lambda tx: tx.events("s"))] == [1, 2, 3, 4, 5]
    assert await journal.read(lambda tx: tx.events("half")) == []


async def test_a_cancelled_wait_does_not_stop_the_work(journal: Journal) -> None:
    await journal.open()
    task = asyncio.create_task(journal.write(lambda tx: tx.append("s", [Event(1, "user", "{}")])))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        # On a server, what is read next may be through before what was stopped.
        if found := await journal.read(lambda tx: tx.events("s")):
            break
        await asyncio.sleep(0.01)
    assert len(found) == 1
    await journal.write(lambda tx: tx.append("s", [Event(2, "user", "{}")]))


async def test_states_move_by_compare_and_set(journal: Journal, clock: Clock) -> None:
    await journal.write(lambda tx: tx.propose(APPROVAL))
    moves = [("approved", "executing"), ("pending", "approved"), ("pending", "denied"), ("approved", "executing")]
    moved = [await journal.write(lambda tx, m=move: tx.move("a1", *m)) for move in moves]
    assert moved == [False, True, False, True]
    stored = await journal.read(lambda tx: tx.approval("a1"))
    assert stored is not None
    assert (stored.state, stored.decided_at) == ("executing", clock())
    assert not await journal.write(lambda tx: tx.move("nope", "pending", "approved"))


async def test_an_attempt_s_key_is_taken_once_across_processes(build: Callable[[], Journal]) -> None:
    journals = [build() for _ in range(3)]
    found = await asyncio.gather(
        *(journals[n % 3].write(lambda tx, n=n: tx.attempt(replace(ATTEMPT, id=f"t{n}"))) for n in range(9))
    )
    assert sorted(found) == [False] * 8 + [True]


async def test_an_attempt_ends_once_and_only_evidence_moves_it_on(journal: Journal) -> None:
    await journal.write(lambda tx: tx.attempt(ATTEMPT))
    assert await journal.write(lambda tx: tx.end_attempt("t1", "unknown", {"kind": "unknown"}))
    assert not await journal.write(lambda tx: tx.end_attempt("t1", "done", {}))
    assert await journal.write(lambda tx: tx.end_attempt("t1", "done", {}, also="unknown"))
    assert not await journal.write(lambda tx: tx.end_attempt("t1", "failed", {}, also="unknown"))
    attempt = await journal.read(lambda tx: tx.call_attempt("a1", "c1"))
    assert attempt is not None
    assert attempt.state == "done"


async def test_a_campaign_s_lock_has_one_owner_and_a_deadline(journal: Journal, clock: Clock) -> None:
    assert await journal.write(lambda tx: tx.lock("c", "one", 10))
    assert not await journal.write(lambda tx: tx.lock("c", "two", 10))
    assert await journal.write(lambda tx: tx.lock("d", "two", 10))
    assert await journal.read(lambda tx: tx.holds("c", "one"))
    await journal.write(lambda tx: tx.unlock("c", "two"))
    assert await journal.read(lambda tx: tx.holds("c", "one"))
    clock.tick(11)
    assert not await journal.read(lambda tx: tx.holds("c", "one"))
    assert await journal.write(lambda tx: tx.lock("c", "two", 10))
    await journal.write(lambda tx: tx.unlock("c", "two"))
    assert await journal.write(lambda tx: tx.lock("c", "one", 10))


def test_only_an_owner_of_this_machine_that_is_gone_is_dead() -> None:
    assert not is_dead(make_owner())
    assert not is_dead(f"{machine()}/1/abc")
    assert not is_dead("elsewhere/999999/abc")
    assert not is_dead("")
    assert is_dead(f"{machine()}/{2**22 - 3}/abc")


async def test_the_turn_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    await world.say("hello", "hi")
    dead = f"{machine()}/{2**22 - 3}/abc"
    assert await world.agent.journal.write(lambda tx: tx.lease("s", dead))
    events = await asyncio.wait_for(world.say("are you there?", "yes"), 5)
    assert events[-1].type == "reply"
    await world.agent.aclose()


async def test_a_campaign_s_lock_outlives_no_dead_process_that_only_looked(journal: Journal) -> None:
    dead = f"{machine()}/{2**22 - 3}/abc"
    assert await journal.write(lambda tx: tx.lock("c", dead, 100))
    assert await journal.write(lambda tx: tx.lock("c", "one", 100))
    assert not await journal.write(lambda tx: tx.lock("c", "two", 100))
    assert await journal.write(lambda tx: tx.lock("d", dead, 100))
    # What it had begun may still be under way at the server.
    await journal.write(lambda tx: tx.attempt(replace(ATTEMPT, target="d")))
    assert not await journal.write(lambda tx: tx.lock("d", "one", 100))
    await journal.write(lambda tx: tx.end_attempt("t1", "unknown", {}))
    assert await journal.write(lambda tx: tx.lock("d", "one", 100))
