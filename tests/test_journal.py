"""The journal by itself: leases, the fence, group commit, locks, and files that are no database."""

import asyncio
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import Clock, failure, make_world, settings

from agent.errors import (
    AgentError,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseNewer,
    DatabaseUnavailable,
    SessionBusy,
)
from agent.journal import LEASE, Approval, Attempt, Decision, Event, Journal, Transaction, is_dead, make_owner

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
async def open_journal(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[[], Journal]]:
    made: list[Journal] = []

    def build() -> Journal:
        made.append(Journal(f"sqlite:///{tmp_path / 'deep' / 'journal.db'}", clock=clock))
        return made[-1]

    yield build
    for one in made:
        await one.aclose()


@pytest.fixture
def journal(open_journal: Callable[[], Journal]) -> Journal:
    return open_journal()


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


async def test_two_that_take_a_lease_at_once(open_journal: Callable[[], Journal]) -> None:
    one, two = open_journal(), open_journal()
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
    assert len(await journal.read(lambda tx: tx.events("s"))) == 1
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


async def test_an_attempt_s_key_is_taken_once_across_processes(open_journal: Callable[[], Journal]) -> None:
    journals = [open_journal() for _ in range(3)]
    found = await asyncio.gather(
        *(journals[n % 3].write(lambda tx, n=n: tx.attempt(replace(ATTEMPT, id=f"t{n}"))) for n in range(9))
    )
    assert sorted(found) == [False] * 8 + [True]


async def test_an_attempt_ends_once_and_only_evidence_moves_it_on(journal: Journal) -> None:
    await journal.write(lambda tx: tx.attempt(ATTEMPT))
    assert await journal.write(lambda tx: tx.end_attempt("t1", "unknown", {"kind": "unknown"}))
    assert not await journal.write(lambda tx: tx.end_attempt("t1", "done", {}))
    assert await journal.write(lambda tx: tx.end_attempt("t1", "done", {}, found=("started", "unknown")))
    assert not await journal.write(lambda tx: tx.end_attempt("t1", "failed", {}, found=("started", "unknown")))
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
    assert not is_dead(f"{socket.gethostname()}/1/abc")
    assert not is_dead("elsewhere/999999/abc")
    assert not is_dead("")
    assert is_dead(f"{socket.gethostname()}/{2**22 - 3}/abc")


async def test_the_turn_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    await world.say("hello", "hi")
    dead = f"{socket.gethostname()}/{2**22 - 3}/abc"
    assert await world.agent.journal.write(lambda tx: tx.lease("s", dead))
    events = await asyncio.wait_for(world.say("are you there?", "yes"), 5)
    assert events[-1].type == "reply"
    await world.agent.aclose()


# Files that are no database.


async def trouble(url: str) -> AgentError:
    """What the journal says, and that an agent over it ends its turn with just that."""
    journal = Journal(url)
    with pytest.raises(DatabaseError) as caught:
        await journal.write(lambda tx: tx.append("s", [Event(1, "user", "{}")]))
    # It stays an error, not a hang.
    with pytest.raises(DatabaseError):
        await asyncio.wait_for(journal.open(), 5)
    await journal.aclose()
    return caught.value


async def test_a_file_of_garbage(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is no database at all" * 400)
    error = await trouble(f"sqlite:///{tmp_path / 'journal.db'}")
    assert isinstance(error, DatabaseCorrupt)
    assert (tmp_path / "journal.db").read_bytes().startswith(b"this is no")


async def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(f"sqlite:///{path}")
    rows = [Event(n, "user", "x" * 2_000) for n in range(1, 200)]
    await journal.write(lambda tx: tx.append("s", rows))
    await journal.aclose()
    for wal in tmp_path.glob("journal.db-*"):
        wal.unlink()
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    assert isinstance(await trouble(f"sqlite:///{path}"), DatabaseError)


async def test_a_directory_or_a_path_below_a_file(tmp_path: Path) -> None:
    assert isinstance(await trouble(f"sqlite:///{tmp_path}"), DatabaseUnavailable)
    (tmp_path / "file").write_text("")
    assert isinstance(await trouble(f"sqlite:///{tmp_path / 'file' / 'journal.db'}"), DatabaseUnavailable)
    assert isinstance(await trouble("sqlite:////proc/nope/journal.db"), DatabaseError)


async def test_an_address_that_is_none() -> None:
    for url in ("nonsense", "sqlite", "nodb://x/y", ""):
        assert isinstance(await trouble(url), DatabaseError)


async def test_a_database_that_is_full(tmp_path: Path) -> None:
    """A limit on its pages stands for a disk without space: SQLite gives the same error."""
    path = tmp_path / "journal.db"
    journal = Journal(f"sqlite:///{path}")
    await journal.open()
    await journal.aclose()
    limited = Journal(f"sqlite:///{path}")
    with pytest.raises(DatabaseError) as caught:
        await limited.write(_fill)
    await limited.aclose()
    assert isinstance(caught.value, DatabaseFull)


def _fill(tx: Transaction) -> None:
    tx._c.exec_driver_sql("PRAGMA max_page_count = 40")
    tx.append("s", [Event(n, "user", "x" * 4_000) for n in range(1, 100)])


async def test_a_database_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(f"sqlite:///{path}")
    await journal.open()
    await journal.aclose()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    error = await trouble(f"sqlite:///{path}")
    assert isinstance(error, DatabaseNewer)
    assert error.data["found"] == "9999"
    world = make_world(tmp_path)
    events = await world.say("hello", "hi")
    assert failure(events).code == "database_newer"
    assert world.model.seen == []
    await world.agent.aclose()


async def test_a_turn_over_a_broken_database_does_nothing_gated(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"garbage" * 1000)
    world = make_world(tmp_path)
    delete = ("delete_campaign", {"campaignId": "cmpEncuestaSatisfac1"})
    assert failure(await world.say("hello", [delete])).code == "database_corrupt"
    assert failure(await world.decide("x", "approve")).code == "database_corrupt"
    assert world.transport.seen == []
    await world.agent.aclose()


async def test_the_file_is_its_owner_s_and_commits_are_durable(journal: Journal, tmp_path: Path) -> None:
    await journal.open()
    assert (tmp_path / "deep").stat().st_mode & 0o077 == 0
    pragmas = ("journal_mode", "synchronous", "busy_timeout")
    values = [await journal.read(lambda tx, p=p: tx._c.exec_driver_sql(f"PRAGMA {p}").scalar()) for p in pragmas]
    assert values == ["wal", 2, 30000]
    assert settings().home


async def test_processes_that_open_a_new_database_at_once_all_get_it(tmp_path: Path) -> None:
    """SQLite doesn't wait for a busy file when two switch a new one to WAL at once."""
    for number in range(25):
        journals = [Journal(f"sqlite:///{tmp_path / str(number)}.db") for _ in range(2)]
        found = await asyncio.gather(*(journal.open() for journal in journals), return_exceptions=True)
        for journal in journals:
            await journal.aclose()
        assert found == [None] * 2
