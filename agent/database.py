"""The database behind the journal: opened, migrated, and run off the event loop, one function a transaction.

On SQLite one thread owns the connection and commits what waits together, so that a hundred sessions share one fsync.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from agent.errors import AgentError, DatabaseCorrupt, DatabaseError, DatabaseFull, DatabaseNewer, DatabaseUnavailable
from agent.tables import REVISION, metadata

Result = TypeVar("Result")


class Database:
    """`run` gives a connection inside a transaction to a function, in a thread, and its result back. Raises
    DatabaseError for whatever goes wrong with the database; the function's own errors come through."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner: _SqliteRunner | _PoolRunner | None = None

    async def run(self, job: Callable[[sa.Connection], Result], *, writes: bool) -> Result:
        if self._runner is None:
            kind = _SqliteRunner if self._url.startswith("sqlite") else _PoolRunner
            self._runner = kind(self._url)
        return await self._runner.run(job, writes=writes)

    async def aclose(self) -> None:
        if self._runner is not None:
            await asyncio.to_thread(self._runner.close)
            self._runner = None


@dataclass(slots=True)
class _Job:
    run: Callable[[sa.Connection], Any]
    writes: bool
    future: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _SqliteRunner:
    """One thread, one connection. Jobs that wait are committed together, each in a savepoint of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[sa.Connection], Result], *, writes: bool) -> Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(_Job(job, writes, future, loop))
        return await future

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        connection: sa.Connection | None = None
        more = True
        while more:
            batch = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < 128:
                    batch.append(self._jobs.get_nowait())
            more = None not in batch
            jobs = [job for job in batch if job is not None]
            try:
                if connection is None and jobs:
                    connection = _open_sqlite(self._url)
                if connection is not None and jobs:
                    self._commit(connection, jobs)
            except Exception as error:  # every failure belongs to the jobs that waited for it
                for job in jobs:
                    job.error = job.error or _named(error)
            for job in jobs:
                with contextlib.suppress(RuntimeError):
                    job.loop.call_soon_threadsafe(job.deliver)
        if connection is not None:
            connection.close()

    def _commit(self, connection: sa.Connection, jobs: list[_Job]) -> None:
        # The driver's connection: the transaction is ours alone, and SQLAlchemy's accounts of it cost as much as it.
        raw: Any = connection.connection.dbapi_connection
        raw.execute("BEGIN IMMEDIATE" if any(job.writes for job in jobs) else "BEGIN")
        try:
            for job in jobs:
                self._run(raw, connection, job, alone=len(jobs) == 1)
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise

    @staticmethod
    def _run(raw: Any, connection: sa.Connection, job: _Job, *, alone: bool) -> None:
        """One job, which can fail without the others."""
        if not alone:
            raw.execute("SAVEPOINT job")
        try:
            job.result = job.run(connection)
        except Exception as error:
            job.error = _named(error)
            if alone:
                raise
            raw.execute("ROLLBACK TO job")
        if not alone:
            raw.execute("RELEASE job")


class _PoolRunner:
    """A few threads, each job in a transaction of its own: for servers that do their own group commit."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="journal")
        self._engine: sa.Engine | None = None
        self._opening = threading.Lock()

    async def run(self, job: Callable[[sa.Connection], Result], *, writes: bool) -> Result:
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._transact, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Whoever stops waiting doesn't take back what is under way, and must not clean up beside it.
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise

    def _transact(self, job: Callable[[sa.Connection], Result]) -> Result:
        try:
            with self._opening:
                if self._engine is None:
                    self._engine = _open_server(self._url)
            with self._engine.begin() as connection:
                return job(connection)
        except Exception as error:
            named = _named(error)
            if named is error:
                raise
            raise named from None

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()


@cache
def _sqlite_engine(url: str) -> sa.Engine:
    """One engine a file: it pools nothing, but remembers how every statement is compiled."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args={"timeout": 30, "check_same_thread": False})

    # The driver's own BEGIN is deferred, so that two writers could meet at an upgrade of their locks.
    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("busy_timeout=30000", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()
        _switch_to_wal(connection)

    return engine


def _open_sqlite(url: str) -> sa.Connection:
    engine = _sqlite_engine(url)
    if (path := engine.url.database) and path != ":memory:":
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    connection = engine.connect()
    try:
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: Any) -> None:
    """SQLite doesn't wait for a busy file when two processes switch a new one at once."""
    for remaining in reversed(range(100)):
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if not remaining or "locked" not in str(error):
                raise
            time.sleep(0.05)


def _open_server(url: str) -> sa.Engine:
    # A server that is gone without a word is noticed, and a process that stops in a transaction blocks nobody for long.
    limits = {"connect_timeout": 10, "tcp_user_timeout": 20_000, "keepalives_idle": 10}
    engine = sa.create_engine(
        url, pool_size=8, max_overflow=0, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=limits
    )

    @sa.event.listens_for(engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = '15s'")
            cursor.execute("SET lock_timeout = '15s'")
        connection.commit()

    try:
        with engine.connect() as connection:
            _migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _migrate(connection: sa.Connection) -> None:
    """Makes the tables of a new database and brings an old one up, under a lock; refuses that of a newer program."""
    try:
        if _revision(connection) == REVISION:
            return
    except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
        if not _missing_table(error):
            raise
    finally:
        connection.rollback()
    with connection.begin():
        server = connection.dialect.name == "postgresql"
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(73110)" if server else "BEGIN IMMEDIATE")
        tables = set(sa.inspect(connection).get_table_names())
        if not tables & {"alembic_version", "schema_version"}:
            metadata.create_all(connection)
            connection.exec_driver_sql(f"INSERT INTO schema_version VALUES ({int(REVISION)})")
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{REVISION}')")
            return
        if "alembic_version" not in tables:
            _adopt(connection)
        found = _revision(connection)
        if found is None or found > REVISION:
            raise DatabaseNewer(found=found or "", known=REVISION)
        if found < REVISION:
            _upgrade(connection)


def _revision(connection: sa.Connection) -> str | None:
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


def _missing_table(error: sa.exc.DBAPIError) -> bool:
    # Code 42P01 is PostgreSQL's "undefined table".
    return "no such table" in str(error) or getattr(error.orig, "sqlstate", "") == "42P01"


def _adopt(connection: sa.Connection) -> None:
    """A database of before there were migrations: its one number becomes the first of them."""
    version = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar()
    if version != 1:
        raise DatabaseNewer(found=str(version), known=REVISION)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0001')")


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """What a driver raises inside, as one of ours that says which file it is about."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        found = _named(error)
        if not isinstance(found, DatabaseError):
            raise
        raise type(found)(text=f"{path}: {found.data['text']}") from None


def _named(error: BaseException) -> BaseException:
    """A driver's error, as one of ours; anything else as it is."""
    if isinstance(error, ImportError):
        return DatabaseUnavailable(text=f"{error}; PostgreSQL needs: pip install 'campaign-agent[postgres]'")
    if isinstance(error, (AgentError, AssertionError)) or not isinstance(
        error, (sa.exc.SQLAlchemyError, sqlite3.Error, OSError)
    ):
        return error
    text = str(getattr(error, "orig", None) or error).splitlines()[0][:200]
    low = text.lower()
    if "malformed" in low or "not a database" in low or "corrupt" in low:
        return DatabaseCorrupt(text=text)
    if "full" in low or "no space" in low or "disk i/o" in low or "quota" in low or "too large" in low:
        return DatabaseFull(text=text)
    known = (
        sqlite3.OperationalError,
        sa.exc.OperationalError,
        sa.exc.InterfaceError,
        sa.exc.ArgumentError,
        sa.exc.NoSuchModuleError,
        OSError,
    )
    return DatabaseUnavailable(text=text) if isinstance(error, known) else DatabaseError(text=text)
