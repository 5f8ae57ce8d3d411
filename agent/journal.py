"""The journal: events, conversations, approvals and attempts in one database, written by this file alone.

SQLite by default, PostgreSQL by URL; the same SQLAlchemy Core statements for both. On SQLite one thread owns the
connection and commits what waits together, so that a hundred sessions share one fsync.
"""

import asyncio
import contextlib
import os
import queue
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic_core import from_json, to_json
from sqlalchemy.dialects import sqlite

from agent.domain import Json
from agent.errors import (
    AgentError,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseNewer,
    DatabaseUnavailable,
    SessionBusy,
)

SCHEMA = 1
LEASE = 30.0
"""Seconds that a turn holds its conversation without a sign of life. Liveness only; safety is the attempt's key."""

Result = TypeVar("Result")

metadata = sa.MetaData()
_schema = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))
_conversation = sa.Table(
    "conversation",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("first_words", sa.String, nullable=False, server_default=""),
    sa.Column("owner", sa.String),
    sa.Column("lease_until", sa.Float, nullable=False, server_default="0"),
)
_event = sa.Table(
    "event",
    metadata,
    sa.Column("conversation", sa.String, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("by", sa.String),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
_approval = sa.Table(
    "approval",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("conversation", sa.String, nullable=False, index=True),
    sa.Column("tool", sa.String, nullable=False),
    sa.Column("calls", sa.Text, nullable=False),
    sa.Column("arguments_sha256", sa.String, nullable=False),
    sa.Column("preview", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("base_url", sa.String, nullable=False),
    sa.Column("workspace", sa.String, nullable=False),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("requested_by", sa.String, nullable=False),
    sa.Column("deciders", sa.String, nullable=False),
    sa.Column("requested_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("decided_at", sa.Float),
    sa.Column("outcome", sa.Text),
)
_decision = sa.Table(
    "decision",
    metadata,
    sa.Column("approval", sa.String, primary_key=True),
    sa.Column("identity", sa.String, primary_key=True),
    sa.Column("decision", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("interactive", sa.Boolean, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
_attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("approval", sa.String, primary_key=True),
    sa.Column("call_id", sa.String, primary_key=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("conversation", sa.String, nullable=False),
    sa.Column("tool", sa.String, nullable=False),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False, server_default="0"),
    sa.Column("template", sa.String),
    sa.Column("recipients", sa.LargeBinary),
    sa.Column("last_date", sa.Float),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("deadline", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.Text),
    sa.Index("attempt_target", "target", "started_at"),
    sa.Index("attempt_state", "state"),
)
_lock = sa.Table(
    "campaign_lock",
    metadata,
    sa.Column("target", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("until", sa.Float, nullable=False, server_default="0"),
)


@dataclass(frozen=True, slots=True)
class Event:
    """`body` is JSON text; for context, user, assistant and tool it is the chat message itself, byte for byte."""

    seq: int
    kind: str
    body: str
    by: str | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Approval:
    """A row of `approval`. `calls` are the tool calls it covers, `[{"id", "arguments"}]`, in order."""

    id: str
    conversation: str
    tool: str
    calls: Sequence[Mapping[str, Json]]
    arguments_sha256: str
    preview: Mapping[str, Json]
    fingerprint: str
    base_url: str
    workspace: str
    key_id: str
    requested_by: str
    deciders: tuple[str, ...]
    requested_at: float
    expires_at: float
    state: str
    decided_at: float | None = None
    outcome: Json = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `attempt`. `target` names base URL, workspace and campaign; times are Unix seconds."""

    approval: str
    call_id: str
    id: str
    conversation: str
    tool: str
    target: str
    arguments: Mapping[str, Json]
    by: str
    started_at: float
    deadline: float
    state: str
    size: int = 0
    template: str | None = None
    recipients: bytes | None = None
    last_date: float | None = None
    ended_at: float | None = None
    outcome: Json = None


@dataclass(frozen=True, slots=True)
class Decision:
    approval: str
    identity: str
    decision: str
    reason: str | None
    interactive: bool
    at: float


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    created_at: float
    updated_at: float
    first_words: str


_b = sa.bindparam
_APPEND = sa.insert(_event)
_PROPOSE = sa.insert(_approval)
_RELEASE = (
    sa.update(_conversation)
    .where((_conversation.c.id == _b("conversation")) & (_conversation.c.owner == _b("mine")))
    .values(owner=None, lease_until=0.0)
)
_EVENTS = (
    sa.select(_event.c.seq, _event.c.kind, _event.c.body, _event.c.by, _event.c.at)
    .where((_event.c.conversation == _b("conversation")) & (_event.c.seq > _b("after")))
    .order_by(_event.c.seq)
)
_APPROVAL = sa.select(_approval).where(_approval.c.id == _b("approval"))
_APPROVALS_OF = (
    sa.select(_approval)
    .where((_approval.c.conversation == _b("conversation")) & _approval.c.calls.like(_b("like")))
    .order_by(_approval.c.requested_at.desc(), _approval.c.id)
)
_MOVE = (
    sa.update(_approval)
    .where((_approval.c.id == _b("approval")) & (_approval.c.state == _b("old")))
    .values(
        state=_b("new"),
        decided_at=sa.func.coalesce(_b("decided", type_=sa.Float), _approval.c.decided_at),
        outcome=sa.func.coalesce(_b("result", type_=sa.Text), _approval.c.outcome),
    )
    .returning(_approval.c.id)
)
_DECISIONS = sa.select(_decision).where(_decision.c.approval == _b("approval")).order_by(_decision.c.at)
_CALL_ATTEMPT = sa.select(_attempt).where((_attempt.c.approval == _b("approval")) & (_attempt.c.call_id == _b("call")))
_END_ATTEMPT = (
    sa.update(_attempt)
    .where((_attempt.c.id == _b("attempt")) & _attempt.c.state.in_(_b("found", expanding=True)))
    .values(state=_b("new"), ended_at=_b("now"), outcome=_b("result"))
    .returning(_attempt.c.id)
)
_SENDS_OF = (
    sa.select(_attempt)
    .where((_attempt.c.target == _b("target")) & (_attempt.c.tool == _b("tool")))
    .order_by(_attempt.c.started_at.desc())
)
_VERSION = sa.select(sa.func.max(_schema.c.version))
_HOLDS = sa.select(_lock.c.target).where(
    (_lock.c.target == _b("target")) & (_lock.c.owner == _b("mine")) & (_lock.c.until > _b("now"))
)
_UNLOCK = sa.delete(_lock).where((_lock.c.target == _b("target")) & (_lock.c.owner == _b("mine")))


@dataclass(frozen=True, slots=True)
class _Upserts:
    """Statements whose words are the dialect's. Built once: building one costs ten times its execution."""

    lease: Any
    lock: Any
    attempt: Any
    decision: Any


@cache
def _upserts(dialect: str) -> _Upserts:
    insert: Any = sqlite.insert
    if dialect == "postgresql":
        # 40 ms that SQLite needn't pay.
        from sqlalchemy.dialects import postgresql

        insert = postgresql.insert
    lease = insert(_conversation)
    lock = insert(_lock)
    free = (_conversation.c.lease_until < lease.excluded.updated_at) | (_conversation.c.owner == lease.excluded.owner)
    names = ("owner", "lease_until", "updated_at")
    return _Upserts(
        lease=lease.on_conflict_do_update(
            index_elements=["id"], set_={name: lease.excluded[name] for name in names}, where=free
        ).returning(_conversation.c.id),
        lock=lock.on_conflict_do_update(
            index_elements=["target"],
            set_={"owner": lock.excluded.owner, "until": lock.excluded.until},
            where=(_lock.c.until < _b("now")) | (_lock.c.owner == lock.excluded.owner),
        ).returning(_lock.c.target),
        attempt=insert(_attempt).on_conflict_do_nothing().returning(_attempt.c.id),
        decision=insert(_decision).on_conflict_do_nothing(),
    )


class Transaction:
    """What can be done inside one transaction. Everything here is synchronous and runs off the event loop."""

    def __init__(self, connection: sa.Connection, clock: Callable[[], float] | None) -> None:
        self._c, self._clock = connection, clock
        self._upserts = _upserts(connection.dialect.name)

    def now(self) -> float:
        """Unix seconds, by the database's clock where it has one of its own."""
        if self._clock is not None:
            return self._clock()
        if self._c.dialect.name == "postgresql":
            return float(self._c.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        return time.time()

    # Conversations and events.

    def lease(self, conversation: str, owner: str, first_words: str = "") -> bool:
        """Takes or renews the conversation for `owner`; False while another owner lives.

        `first_words` are kept of a conversation that begins here.
        """
        now = self.now()
        row = {"id": conversation, "created_at": now, "updated_at": now, "owner": owner, "lease_until": now + LEASE}
        row["first_words"] = first_words[:80]
        return self._c.scalar(self._upserts.lease, row) is not None

    def owner(self, conversation: str) -> str | None:
        return self._c.scalar(sa.select(_conversation.c.owner).where(_conversation.c.id == conversation))

    def release(self, conversation: str, owner: str) -> None:
        self._c.execute(_RELEASE, {"conversation": conversation, "mine": owner})

    def append(self, conversation: str, events: Iterable[Event]) -> None:
        """Raises SessionBusy when somebody else has written these numbers: the primary key is the fence."""
        now = self.now()
        rows = [
            {"conversation": conversation, "seq": e.seq, "kind": e.kind, "by": e.by, "body": e.body, "at": now}
            for e in events
        ]
        try:
            if rows:
                self._c.execute(_APPEND, rows)
        except sa.exc.IntegrityError:
            raise SessionBusy(session=conversation) from None

    def events(self, conversation: str, after: int = 0) -> list[Event]:
        found = self._c.execute(_EVENTS, {"conversation": conversation, "after": after})
        return [Event(*row) for row in found]

    def conversations(self, limit: int = 20) -> list[Conversation]:
        columns = (
            _conversation.c.id,
            _conversation.c.created_at,
            _conversation.c.updated_at,
            _conversation.c.first_words,
        )
        rows = self._c.execute(sa.select(*columns).order_by(_conversation.c.updated_at.desc()).limit(limit))
        return [Conversation(*row) for row in rows]

    # Approvals.

    def propose(self, approval: Approval) -> None:
        row = {name: getattr(approval, name) for name in Approval.__slots__}
        row |= {"calls": _dump(approval.calls), "preview": _dump(approval.preview)}
        row |= {"deciders": " ".join(approval.deciders), "outcome": None}
        self._c.execute(_PROPOSE, row)

    def approval(self, approval_id: str) -> Approval | None:
        row = self._c.execute(_APPROVAL, {"approval": approval_id}).mappings().first()
        return _to_approval(row) if row else None

    def approvals(
        self, *, conversation: str | None = None, states: Sequence[str] | None = None, limit: int = 200
    ) -> list[Approval]:
        """Newest first."""
        query = sa.select(_approval).order_by(_approval.c.requested_at.desc(), _approval.c.id).limit(limit)
        if conversation is not None:
            query = query.where(_approval.c.conversation == conversation)
        if states is not None:
            query = query.where(_approval.c.state.in_(states))
        return [_to_approval(row) for row in self._c.execute(query).mappings()]

    def approval_of(self, conversation: str, call_id: str) -> Approval | None:
        """The newest approval that covers a call."""
        rows = self._c.execute(_APPROVALS_OF, {"conversation": conversation, "like": f'%"{call_id}"%'}).mappings()
        mine = [row for row in rows if any(call["id"] == call_id for call in from_json(row["calls"]))]
        # Of one moment, or of a clock that was set back, the one that still lives is the newest.
        mine.sort(key=lambda row: row["state"] not in ("pending", "approved", "executing"))
        return _to_approval(mine[0]) if mine else None

    def move(self, approval_id: str, old: str, new: str, *, outcome: Json = None) -> bool:
        """Compare-and-set of an approval's state; False when it was no longer `old`."""
        decided = self.now() if old == "pending" else None
        result = None if outcome is None else _dump(outcome)
        values = {"approval": approval_id, "old": old, "new": new, "decided": decided, "result": result}
        return self._c.scalar(_MOVE, values) is not None

    def decide(self, decision: Decision) -> None:
        row = {name: getattr(decision, name) for name in Decision.__slots__} | {"at": self.now()}
        self._c.execute(self._upserts.decision, row)

    def decisions(self, approval_id: str) -> list[Decision]:
        return [Decision(**row) for row in self._c.execute(_DECISIONS, {"approval": approval_id}).mappings()]

    # Attempts.

    def attempt(self, attempt: Attempt) -> bool:
        """Records that a request is about to leave; False when one was recorded under this key before."""
        row = {name: getattr(attempt, name) for name in Attempt.__slots__}
        row |= {"arguments": _dump(attempt.arguments), "outcome": None}
        return self._c.scalar(self._upserts.attempt, row) is not None

    def end_attempt(self, attempt_id: str, state: str, outcome: Json, *, found: Sequence[str] = ("started",)) -> bool:
        values = {
            "attempt": attempt_id,
            "found": list(found),
            "new": state,
            "now": self.now(),
            "result": _dump(outcome),
        }
        return self._c.scalar(_END_ATTEMPT, values) is not None

    def sends_of(self, target: str, tool: str) -> list[Attempt]:
        """Every send of one campaign, newest first."""
        return [_to_attempt(row) for row in self._c.execute(_SENDS_OF, {"target": target, "tool": tool}).mappings()]

    def attempts(
        self,
        *,
        conversation: str | None = None,
        approval: str | None = None,
        target: str | None = None,
        tool: str | None = None,
        template: str | None = None,
        since: float | None = None,
        states: Sequence[str] | None = None,
        limit: int = 500,
    ) -> list[Attempt]:
        """Newest first."""
        query = sa.select(_attempt).order_by(_attempt.c.started_at.desc()).limit(limit)
        wanted = {
            "conversation": conversation,
            "approval": approval,
            "target": target,
            "tool": tool,
            "template": template,
        }
        for name, value in wanted.items():
            if value is not None:
                query = query.where(_attempt.c[name] == value)
        if since is not None:
            query = query.where(_attempt.c.started_at >= since)
        if states is not None:
            query = query.where(_attempt.c.state.in_(states))
        return [_to_attempt(row) for row in self._c.execute(query).mappings()]

    def call_attempt(self, approval: str, call_id: str) -> Attempt | None:
        row = self._c.execute(_CALL_ATTEMPT, {"approval": approval, "call": call_id}).mappings().first()
        return _to_attempt(row) if row else None

    # One lock row a campaign: an owner and a deadline, not an open transaction.

    def lock(self, target: str, owner: str, seconds: float) -> bool:
        now = self.now()
        row = {"target": target, "owner": owner, "until": now + seconds, "now": now}
        return self._c.scalar(self._upserts.lock, row) is not None

    def is_started(self, attempt_id: str) -> bool:
        """Whether nobody has judged an attempt yet."""
        here = (_attempt.c.id == attempt_id) & (_attempt.c.state == "started")
        return self._c.scalar(sa.select(_attempt.c.id).where(here)) is not None

    def holds(self, target: str, owner: str) -> bool:
        return self._c.scalar(_HOLDS, {"target": target, "mine": owner, "now": self.now()}) is not None

    def unlock(self, target: str, owner: str) -> None:
        self._c.execute(_UNLOCK, {"target": target, "mine": owner})


class Journal:
    """The door to the database for asyncio code: `read` and `write` run one function in one transaction.

    `clock` replaces the database's clock (Unix seconds), for tests and recorded evals. Raises DatabaseError.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._url, self._clock = url, clock
        self._runner: _SqliteRunner | _PoolRunner | None = None

    async def write(self, job: Callable[[Transaction], Result]) -> Result:
        return await self._start().run(job, writes=True)

    async def read(self, job: Callable[[Transaction], Result]) -> Result:
        return await self._start().run(job, writes=False)

    async def open(self) -> None:
        """Opens the database and makes its tables where there are none."""
        await self.read(lambda tx: None)

    async def aclose(self) -> None:
        if self._runner is not None:
            await asyncio.to_thread(self._runner.close)
            self._runner = None

    def _start(self) -> "_SqliteRunner | _PoolRunner":
        if self._runner is None:
            kind = _SqliteRunner if self._url.startswith("sqlite") else _PoolRunner
            self._runner = kind(self._url, self._clock)
        return self._runner


def make_owner() -> str:
    """A name for one turn of this process: host, process id, and something that no other turn has."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(6)}"


def is_dead(owner: str) -> bool:
    """True when `owner` was a process of this machine that is gone; False also where that can't be known."""
    host, _, rest = owner.partition("/")
    pid = rest.partition("/")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@dataclass(slots=True)
class _Job:
    run: Callable[[Transaction], Any]
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

    def __init__(self, url: str, clock: Callable[[], float] | None) -> None:
        self._url, self._clock = url, clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[Transaction], Result], *, writes: bool) -> Result:
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
        transaction = Transaction(connection, self._clock)
        raw.execute("BEGIN IMMEDIATE" if any(job.writes for job in jobs) else "BEGIN")
        try:
            for job in jobs:
                self._run(raw, transaction, job, alone=len(jobs) == 1)
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise

    @staticmethod
    def _run(raw: Any, transaction: Transaction, job: _Job, *, alone: bool) -> None:
        """One job, which can fail without the others."""
        if not alone:
            raw.execute("SAVEPOINT job")
        try:
            job.result = job.run(transaction)
        except Exception as error:
            job.error = _named(error)
            if alone:
                raise
            raw.execute("ROLLBACK TO job")
        if not alone:
            raw.execute("RELEASE job")


class _PoolRunner:
    """A few threads, each job in a transaction of its own: for servers that do their own group commit."""

    def __init__(self, url: str, clock: Callable[[], float] | None) -> None:
        self._url, self._clock = url, clock
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="journal")
        self._engine: sa.Engine | None = None
        self._opening = threading.Lock()

    async def run(self, job: Callable[[Transaction], Result], *, writes: bool) -> Result:
        # Whoever stops waiting doesn't take back what is queued.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, self._transact, job))

    def _transact(self, job: Callable[[Transaction], Result]) -> Result:
        try:
            with self._opening:
                if self._engine is None:
                    self._engine = _open_server(self._url)
            with self._engine.begin() as connection:
                return job(Transaction(connection, self._clock))
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
    engine = sa.create_engine(url, pool_size=8, max_overflow=0, pool_pre_ping=True)
    with engine.connect() as connection:
        _migrate(connection)
    return engine


def _migrate(connection: sa.Connection) -> None:
    """Makes the tables of a new database, under a lock, and refuses those of a newer program."""
    server = connection.dialect.name == "postgresql"
    if not server:
        try:
            return _check(connection.scalar(_VERSION))
        except sa.exc.OperationalError as error:
            if "no such table" not in str(error):
                raise
        finally:
            connection.rollback()
    with connection.begin():
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(73110)" if server else "BEGIN IMMEDIATE")
        metadata.create_all(connection)
        version = connection.scalar(_VERSION)
        if version is None:
            connection.execute(sa.insert(_schema).values(version=SCHEMA))
    return _check(version)


def _check(version: int | None) -> None:
    if version is not None and version > SCHEMA:
        raise DatabaseNewer(found=version, known=SCHEMA)


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


def _dump(value: Json) -> str:
    return to_json(value).decode()


def _to_approval(row: Mapping[Any, Any]) -> Approval:
    values = dict(row)
    values |= {"calls": from_json(row["calls"]), "preview": from_json(row["preview"])}
    values |= {"deciders": tuple(row["deciders"].split()), "outcome": _load(row["outcome"])}
    return Approval(**values)


def _to_attempt(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(**{**row, "arguments": from_json(row["arguments"]), "outcome": _load(row["outcome"])})


def _load(text: str | None) -> Json:
    return None if text is None else from_json(text)
