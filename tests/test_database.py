"""The database under the journal: files that are none, disks that are full, and databases of other versions."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from agent.errors import AgentError, DatabaseCorrupt, DatabaseError, DatabaseFull, DatabaseNewer, DatabaseUnavailable
from agent.journal import Event, Journal, Transaction
from agent.tables import REVISION, metadata
from tests.support import failure, journal_url, make_world, open_journal, settings

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


async def test_the_file_is_its_owner_s_and_commits_are_durable(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "deep")
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


# Databases of other versions, on both engines.

FIRST = """
CREATE TABLE schema_version (version INTEGER PRIMARY KEY);
INSERT INTO schema_version VALUES (1);
CREATE TABLE conversation (id VARCHAR NOT NULL PRIMARY KEY, created_at FLOAT NOT NULL, updated_at FLOAT NOT NULL,
  first_words VARCHAR DEFAULT '' NOT NULL, owner VARCHAR, lease_until FLOAT DEFAULT '0' NOT NULL);
CREATE TABLE event (conversation VARCHAR NOT NULL, seq INTEGER NOT NULL, kind VARCHAR NOT NULL, "by" VARCHAR,
  body TEXT NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (conversation, seq));
CREATE TABLE approval (id VARCHAR NOT NULL PRIMARY KEY, conversation VARCHAR NOT NULL, tool VARCHAR NOT NULL,
  calls TEXT NOT NULL, arguments_sha256 VARCHAR NOT NULL, preview TEXT NOT NULL, fingerprint VARCHAR NOT NULL,
  base_url VARCHAR NOT NULL, workspace VARCHAR NOT NULL, key_id VARCHAR NOT NULL, requested_by VARCHAR NOT NULL,
  deciders VARCHAR NOT NULL, requested_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, state VARCHAR NOT NULL,
  decided_at FLOAT, outcome TEXT);
CREATE INDEX ix_approval_conversation ON approval (conversation);
CREATE INDEX ix_approval_state ON approval (state);
CREATE TABLE decision (approval VARCHAR NOT NULL, identity VARCHAR NOT NULL, decision VARCHAR NOT NULL, reason VARCHAR,
  interactive BOOLEAN NOT NULL, at FLOAT NOT NULL, PRIMARY KEY (approval, identity));
CREATE TABLE attempt (approval VARCHAR NOT NULL, call_id VARCHAR NOT NULL, id VARCHAR NOT NULL UNIQUE,
  conversation VARCHAR NOT NULL, tool VARCHAR NOT NULL, target VARCHAR NOT NULL, arguments TEXT NOT NULL,
  size INTEGER DEFAULT '0' NOT NULL, template VARCHAR, recipients BYTEA, last_date FLOAT, "by" VARCHAR NOT NULL,
  started_at FLOAT NOT NULL, deadline FLOAT NOT NULL, state VARCHAR NOT NULL, ended_at FLOAT, outcome TEXT,
  PRIMARY KEY (approval, call_id));
CREATE INDEX attempt_target ON attempt (target, started_at);
CREATE INDEX attempt_state ON attempt (state);
CREATE TABLE campaign_lock (target VARCHAR NOT NULL PRIMARY KEY, owner VARCHAR, until FLOAT DEFAULT '0' NOT NULL);
INSERT INTO event VALUES ('old', 1, 'user', 'os:1', '{"role":"user","content":"before"}', 1.0);
"""
"""What the first version made, before there were migrations, with a message in it."""


def run_script(url: str, script: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                sqlite = connection.dialect.name == "sqlite"
                connection.exec_driver_sql(statement.replace("BYTEA", "BLOB") if sqlite else statement)
    engine.dispose()


def shape(url: str) -> tuple[str, list[object]]:
    """The revision of a database, and how it differs from what this program makes."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [d for d in compare_metadata(context, metadata) if "alembic_version" not in str(d)]
    engine.dispose()
    return str(found), differences


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("before", ["", FIRST])
async def test_a_new_database_and_an_old_one_end_alike(tmp_path: Path, before: str, engine: str) -> None:
    run_script(journal_url(tmp_path, bare=True), before)
    journals = [open_journal(tmp_path) for _ in range(4)]
    # Several processes start at once after an update.
    await asyncio.gather(*(journal.open() for journal in journals))
    assert shape(journal_url(tmp_path)) == (REVISION, [])
    found = await journals[0].read(lambda tx: tx.events("old"))
    assert [e.body for e in found] == ['{"role":"user","content":"before"}'] * bool(before)
    assert await journals[1].write(lambda tx: tx.put("k", "old", "message", {"text": "after"}, by=None))


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
async def test_a_newer_database_is_refused_on_both_engines(tmp_path: Path, engine: str) -> None:
    journal = open_journal(tmp_path)
    await journal.open()
    await journal.aclose()
    run_script(journal_url(tmp_path), "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseNewer):
        await open_journal(tmp_path).open()


async def test_postgres_that_is_not_there(tmp_path: Path) -> None:
    gone = "postgresql+psycopg://u:canary-password@127.0.0.1:1/x"
    error = await trouble(gone)
    assert isinstance(error, DatabaseUnavailable)
    assert "canary-password" not in str(error)
