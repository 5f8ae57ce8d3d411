"""The journal: events, the inbox, conversations, approvals and attempts; all of it is written by this file alone.

The same SQLAlchemy Core statements for SQLite and PostgreSQL.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic_core import from_json, to_json
from sqlalchemy.dialects import sqlite

from agent import tables
from agent.database import Database
from agent.domain import Json
from agent.errors import SessionBusy
from agent.statements import run, run_all

LEASE = 30.0
"""Seconds that a turn holds its conversation without a sign of life. Liveness only; safety is the attempt's key."""

DECIDING = ("decision", "edit")
"""Kinds of items that decide or change what waits: until they are done, it is being looked at."""

Result = TypeVar("Result")

_conversation, _event, _inbox = tables.conversation, tables.event, tables.inbox
_approval, _decision, _attempt, _lock = tables.approval, tables.decision, tables.attempt, tables.lock
_post = tables.slack_post


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
    needed: int = 1
    own: bool = True


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
    member_of: tuple[str, ...] = ()
    """The groups of policy that this person was in at that moment."""


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    created_at: float
    updated_at: float
    first_words: str


@dataclass(frozen=True, slots=True)
class Item:
    """A row of `inbox`: something that came in, stored before anything is done about it.

    `seq` is the event that a message has become; `tries` counts the turns that were begun for it.
    """

    id: int
    key: str
    conversation: str
    kind: str
    body: Mapping[str, Json]
    by: str | None
    at: float
    tries: int = 0
    seq: int | None = None
    done_at: float | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """A row of `slack_post`: a message of ours in Slack, on record before it is posted. `ts` None: it may be there.

    `shown` is the state that a card shows; one that is settled never changes again.
    """

    key: str
    conversation: str
    channel: str
    ts: str | None = None
    approval: str | None = None
    shown: str = ""
    language: str = ""
    at: float = 0.0
    settled_at: float | None = None


_b = sa.bindparam
_CLOCK = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_APPEND = sa.insert(_event)
_PROPOSE = sa.insert(_approval)
_RELEASE = (
    sa.update(_conversation)
    .where((_conversation.c.id == _b("conversation")) & (_conversation.c.owner == _b("mine")))
    .values(owner=None, lease_until=0.0)
)
_RENEW = (
    sa.update(_conversation)
    .where((_conversation.c.id == _b("conversation")) & (_conversation.c.owner == _b("mine")))
    .values(lease_until=_b("until"))
    .returning(_conversation.c.id)
)
_EVENTS = (
    sa.select(_event.c.seq, _event.c.kind, _event.c.body, _event.c.by, _event.c.at)
    .where((_event.c.conversation == _b("conversation")) & (_event.c.seq > _b("after")))
    .order_by(_event.c.seq)
)
_APPROVAL_OF = sa.select(_approval).where(_approval.c.id == _b("wanted"))
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
_DECISIONS = sa.select(_decision).where(_decision.c.approval == _b("wanted")).order_by(_decision.c.at)
_CALL_ATTEMPT = sa.select(_attempt).where((_attempt.c.approval == _b("wanted")) & (_attempt.c.call_id == _b("call")))
_END_ATTEMPT = (
    sa.update(_attempt)
    .where((_attempt.c.id == _b("attempt")) & ((_attempt.c.state == "started") | (_attempt.c.state == _b("also"))))
    .values(state=_b("new"), ended_at=_b("now"), outcome=_b("result"))
    .returning(_attempt.c.id)
)
_SENDS_OF = (
    sa.select(_attempt)
    .where((_attempt.c.target == _b("wanted")) & (_attempt.c.tool == _b("kind")))
    .order_by(_attempt.c.started_at.desc())
)
_STARTED = sa.select(_attempt.c.id).where((_attempt.c.id == _b("wanted")) & (_attempt.c.state == "started"))
_ITEM = Item.__slots__
_ITEM_COLUMNS = [_inbox.c[name] for name in _ITEM]
_ITEM_OF = sa.select(*_ITEM_COLUMNS).where(_inbox.c.key == _b("wanted"))
_WAITING = (
    sa.select(*_ITEM_COLUMNS)
    .where((_inbox.c.conversation == _b("conversation")) & _inbox.c.done_at.is_(None) & (_inbox.c.wake_at <= _b("now")))
    .order_by(_inbox.c.id)
)
_TAKEN = sa.update(_inbox).where(_inbox.c.id == _b("item")).values(seq=_b("number"))
_DONE = sa.update(_inbox).where(_inbox.c.id == _b("item")).values(done_at=_b("now"))
_DUE = (
    sa.select(_conversation.c.id)
    .join_from(_conversation, _inbox, _inbox.c.conversation == _conversation.c.id)
    .where(_inbox.c.done_at.is_(None) & (_inbox.c.wake_at <= _b("now")) & (_conversation.c.lease_until < _b("now")))
    .where(_conversation.c.id.startswith(_b("among"), autoescape=False))
    .order_by(_inbox.c.id)
    .limit(1)
    .with_for_update(skip_locked=True, of=_conversation)
)
_CLAIM = (
    sa.update(_conversation)
    .where(_conversation.c.id == _DUE.scalar_subquery())
    .values(owner=_b("mine"), lease_until=_b("until"), updated_at=_b("now"))
    .returning(_conversation.c.id)
)
_HOLDS = sa.select(_lock.c.target).where(
    (_lock.c.target == _b("target")) & (_lock.c.owner == _b("mine")) & (_lock.c.until > _b("now"))
)
_UNLOCK = sa.delete(_lock).where((_lock.c.target == _b("target")) & (_lock.c.owner == _b("mine")))


@dataclass(frozen=True, slots=True)
class _Upserts:
    """Statements whose words are the dialect's. Built once: building one costs ten times its execution."""

    lease: Any
    known: Any
    put: Any
    lock: Any
    attempt: Any
    decision: Any
    post: Any


@cache
def _upserts(dialect: str) -> _Upserts:
    insert: Any = sqlite.insert
    if dialect == "postgresql":
        # 40 ms that SQLite needn't pay.
        from sqlalchemy.dialects import postgresql

        insert = postgresql.insert
    lease = insert(_conversation)
    lock, decided = insert(_lock), insert(_decision)
    free = (_conversation.c.lease_until < lease.excluded.updated_at) | (_conversation.c.owner == lease.excluded.owner)
    names = ("owner", "lease_until", "updated_at")
    return _Upserts(
        lease=lease.on_conflict_do_update(
            index_elements=["id"], set_={name: lease.excluded[name] for name in names}, where=free
        ).returning(_conversation.c.id),
        known=insert(_conversation).on_conflict_do_nothing(),
        put=insert(_inbox).on_conflict_do_nothing(index_elements=["key"]).returning(_inbox.c.id),
        lock=lock.on_conflict_do_update(
            index_elements=["target"],
            set_={"owner": lock.excluded.owner, "until": lock.excluded.until},
            where=(_lock.c.until < _b("now")) | (_lock.c.owner == lock.excluded.owner),
        ).returning(_lock.c.target),
        attempt=insert(_attempt).on_conflict_do_nothing().returning(_attempt.c.id),
        decision=decided.on_conflict_do_update(
            index_elements=["approval", "identity"],
            set_={name: decided.excluded[name] for name in ("decision", "reason", "interactive", "at", "member_of")},
            where=(_decision.c.decision == "approve") & (decided.excluded.decision == "deny"),
        ).returning(_decision.c.approval),
        post=insert(_post).on_conflict_do_nothing().returning(_post.c.key),
    )


class Transaction:
    """What can be done inside one transaction. Everything here is synchronous and runs off the event loop."""

    def __init__(self, connection: sa.Connection, clock: Callable[[], float] | None) -> None:
        self._c, self._clock = connection, clock
        self._upserts = _upserts(connection.dialect.name)
        self._run = partial(run, connection)

    def now(self) -> float:
        """Unix seconds, by the database's clock where it has one of its own."""
        if self._clock is not None:
            return self._clock()
        if self._c.dialect.name == "postgresql":
            return float(self._run(_CLOCK, {})[0][0])
        return time.time()

    # Conversations and events.

    def lease(self, conversation: str, owner: str, first_words: str = "") -> bool:
        """Takes or renews the conversation for `owner`; False while another owner lives.

        `first_words` are kept of a conversation that begins here.
        """
        now = self.now()
        row = {"id": conversation, "created_at": now, "updated_at": now, "owner": owner, "lease_until": now + LEASE}
        row["first_words"] = _storable(first_words[:80])
        return bool(self._run(self._upserts.lease, row))

    def renew(self, conversation: str, owner: str) -> bool:
        """Keeps what `owner` has; False where it has it no more. Unlike `lease` it never takes."""
        row = {"conversation": conversation, "mine": owner, "until": self.now() + LEASE}
        return bool(self._run(_RENEW, row))

    def knows(self, conversation: str) -> bool:
        """Whether anything was ever said in it."""
        return self._c.scalar(sa.select(_conversation.c.id).where(_conversation.c.id == conversation)) is not None

    def owner(self, conversation: str) -> str | None:
        return self._c.scalar(sa.select(_conversation.c.owner).where(_conversation.c.id == conversation))

    def release(self, conversation: str, owner: str) -> None:
        self._run(_RELEASE, {"conversation": conversation, "mine": owner})

    def append(self, conversation: str, events: Iterable[Event]) -> None:
        """Raises SessionBusy when somebody else has written these numbers: the primary key is the fence."""
        now = self.now()
        rows = [
            {"conversation": conversation, "seq": e.seq, "kind": e.kind, "by": e.by, "body": e.body, "at": now}
            for e in events
        ]
        try:
            run_all(self._c, _APPEND, rows)
        except sa.exc.IntegrityError:
            raise SessionBusy(session=conversation) from None

    def events(self, conversation: str, after: int = 0) -> list[Event]:
        return [Event(*row) for row in self._run(_EVENTS, {"conversation": conversation, "after": after})]

    def conversations(self, limit: int = 20) -> list[Conversation]:
        columns = (
            _conversation.c.id,
            _conversation.c.created_at,
            _conversation.c.updated_at,
            _conversation.c.first_words,
        )
        rows = self._c.execute(sa.select(*columns).order_by(_conversation.c.updated_at.desc()).limit(limit))
        return [Conversation(*row) for row in rows]

    # The inbox.

    def put(
        self, key: str, conversation: str, kind: str, body: Mapping[str, Json], *, by: str | None, wake_at: float = 0.0
    ) -> bool:
        """Stores what came in; False when something came in under this key before. It waits until `wake_at`."""
        now = self.now()
        row = {"key": key, "conversation": conversation, "kind": kind, "by": by, "body": _dump(body), "at": now}
        if not self._run(self._upserts.put, {**row, "wake_at": wake_at}):
            return False
        # So that it can be claimed.
        words = _storable(str(body.get("text", ""))[:80])
        known = {"id": conversation, "created_at": now, "updated_at": now, "first_words": words}
        self._run(self._upserts.known, known)
        return True

    def waiting(self, conversation: str) -> list[Item]:
        """What came in and isn't done, in the order in which it came; messages in the order in which they were written,
        where they say when: one that had to be delivered again may come behind the next."""
        rows = self._run(_WAITING, {"conversation": conversation, "now": self.now()})
        return _as_written([_to_item(zip(_ITEM, row, strict=True)) for row in rows])

    def item(self, key: str) -> Item | None:
        rows = self._run(_ITEM_OF, {"wanted": key})
        return _to_item(zip(_ITEM, rows[0], strict=True)) if rows else None

    def items(self, *, conversation: str | None = None, limit: int = 500) -> list[Item]:
        """Newest first."""
        query = sa.select(*_ITEM_COLUMNS).order_by(_inbox.c.id.desc()).limit(limit)
        if conversation is not None:
            query = query.where(_inbox.c.conversation == conversation)
        return [_to_item(zip(_ITEM, row, strict=True)) for row in self._c.execute(query)]

    def take(self, item: int, number: int) -> None:
        """A message has become the event `number`: from here on its turn goes on, and never begins anew."""
        self._run(_TAKEN, {"item": item, "number": number})

    def undecided(self, approval: Approval) -> list[Item]:
        """Decisions and edits of an approval that came in and aren't done, also those that wait for their hour."""
        query = sa.select(*_ITEM_COLUMNS).where(_decides(approval.conversation)).order_by(_inbox.c.id)
        found = [_to_item(zip(_ITEM, row, strict=True)) for row in self._c.execute(query)]
        return [item for item in found if item.body.get("approval") == approval.id]

    def finish(self, items: Sequence[int]) -> None:
        run_all(self._c, _DONE, [{"item": item, "now": self.now()} for item in items])

    def postpone(self, item: int, seconds: float) -> None:
        """Lets an item that failed wait, so that it neither blocks others nor is tried all the time."""
        later = {"wake_at": self.now() + seconds, "tries": _inbox.c.tries + 1}
        self._c.execute(sa.update(_inbox).where(_inbox.c.id == item).values(**later))

    def sleeps(self, conversation: str) -> bool:
        """Whether the first open item of a conversation waits for its hour; what is behind it then waits with it."""
        here = (_inbox.c.conversation == conversation) & _inbox.c.done_at.is_(None)
        wake_at = self._c.scalar(sa.select(_inbox.c.wake_at).where(here).order_by(_inbox.c.id).limit(1)) or 0.0
        if wake_at <= self.now():
            return False
        self._c.execute(sa.update(_inbox).where(here & (_inbox.c.wake_at < wake_at)).values(wake_at=wake_at))
        return True

    def claim(self, owner: str, among: str = "") -> str | None:
        """Leases to `owner` the conversation that has waited longest and that nobody works on. None: nothing is due.

        `among` is what the ids of those begin with that may be claimed.
        """
        now = self.now()
        found = self._run(_CLAIM, {"mine": owner, "until": now + LEASE, "now": now, "among": among})
        if not found:
            return None
        conversation = str(found[0][0])
        here = (_inbox.c.conversation == conversation) & _inbox.c.done_at.is_(None) & (_inbox.c.wake_at <= now)
        self._c.execute(sa.update(_inbox).where(here).values(tries=_inbox.c.tries + 1))
        return conversation

    def bury(self, among: str) -> int:
        """Frees the conversations of processes of this machine that are gone, and that something waits in."""
        waits = _inbox.c.done_at.is_(None) & _inbox.c.conversation.startswith(among)
        query = sa.select(_conversation.c.id, _conversation.c.owner).distinct()
        query = query.join_from(_inbox, _conversation, _conversation.c.id == _inbox.c.conversation)
        rows = self._c.execute(query.where(waits & _conversation.c.owner.is_not(None))).all()
        dead = [(conversation, owner) for conversation, owner in rows if is_dead(owner)]
        for conversation, owner in dead:
            self.release(conversation, owner)
        return len(dead)

    # Messages of ours in Slack.

    def begin_post(self, post: Post) -> Post | None:
        """Puts on record that a message is about to be posted; the one on record, where there was one."""
        row = {name: getattr(post, name) for name in Post.__slots__} | {"at": self.now()}
        return None if self._run(self._upserts.post, row) else self.post(post.key)

    def post(self, key: str) -> Post | None:
        row = self._c.execute(sa.select(_post).where(_post.c.key == key)).one_or_none()
        return Post(*row) if row else None

    def posts(self, *, conversation: str | None = None, approval: str | None = None) -> list[Post]:
        query = sa.select(_post).order_by(_post.c.at)
        if conversation is not None:
            query = query.where(_post.c.conversation == conversation)
        if approval is not None:
            query = query.where(_post.c.approval == approval)
        return [Post(*row) for row in self._c.execute(query)]

    def stale_cards(self, among: str) -> list[Post]:
        """Cards that don't show what is so, and those whose half of the time, or whole, is over."""
        now, state = self.now(), _approval.c.state
        card = _post.c.settled_at.is_(None) & _post.c.ts.is_not(None) & _post.c.conversation.startswith(among)
        half = (_approval.c.requested_at + _approval.c.expires_at) / 2 < now
        due = (state == "pending") & half & ((_approval.c.expires_at < now) | ~_reminded())
        body = sa.literal('%"') + _approval.c.id + sa.literal('"%')
        taken = (state == "pending") & sa.exists().where(_decides(_approval.c.conversation) & _inbox.c.body.like(body))
        # What was approved and isn't begun in time has expired.
        differs = (_post.c.shown != state) | (state == "approved") | due | taken
        query = sa.select(_post).join(_approval, _approval.c.id == _post.c.approval)
        found = self._c.execute(query.where(card & differs).order_by(_post.c.at))
        return [Post(*row) for row in found]

    def unshown(self, among: str, seconds: float) -> list[Approval]:
        """What waits for so long without a card of ours: of a turn that went on in a terminal."""
        there = sa.exists().where(_post.c.approval == _approval.c.id)
        waits = (_approval.c.state == "pending") & (_approval.c.requested_at < self.now() - seconds)
        query = sa.select(_approval).where(waits & _approval.c.conversation.startswith(among) & ~there)
        return [_to_approval(row) for row in self._c.execute(query).mappings()]

    def posted(
        self, key: str, ts: str, shown: str | None = None, *, settled: bool = False, channel: str | None = None
    ) -> None:
        """What a message is known by, and what it shows; `channel` where only Slack knew it."""
        values: dict[str, Any] = {"ts": ts, "settled_at": self.now() if settled else None}
        values |= {} if channel is None else {"channel": channel}
        values |= {} if shown is None else {"shown": shown}
        self._c.execute(sa.update(_post).where(_post.c.key == key).values(**values))

    # Approvals.

    def propose(self, approval: Approval) -> None:
        row = {name: getattr(approval, name) for name in Approval.__slots__}
        row |= {"calls": _dump(approval.calls), "preview": _dump(approval.preview)}
        row |= {"deciders": " ".join(approval.deciders), "outcome": None}
        self._run(_PROPOSE, row)

    def approval(self, approval_id: str) -> Approval | None:
        rows = self._run(_APPROVAL_OF, {"wanted": approval_id})
        return _to_approval(_named(_approval, rows[0])) if rows else None

    def approvals(
        self,
        *,
        conversation: str | None = None,
        among: str = "",
        states: Sequence[str] | None = None,
        limit: int | None = 200,
    ) -> list[Approval]:
        """Newest first. `among` is what the ids of their conversations begin with."""
        query = sa.select(_approval).order_by(_approval.c.requested_at.desc(), _approval.c.id).limit(limit)
        if conversation is not None:
            query = query.where(_approval.c.conversation == conversation)
        if among:
            query = query.where(_approval.c.conversation.startswith(among))
        if states is not None:
            query = query.where(_approval.c.state.in_(states))
        return [_to_approval(row) for row in self._c.execute(query).mappings()]

    def approval_of(self, conversation: str, call_id: str) -> Approval | None:
        """The newest approval that covers a call."""
        rows = self._run(_APPROVALS_OF, {"conversation": conversation, "like": f'%"{call_id}"%'})
        found = [_named(_approval, row) for row in rows]
        mine = [row for row in found if any(call["id"] == call_id for call in from_json(row["calls"]))]
        # Of one moment, or of a clock that was set back, the one that still lives is the newest.
        mine.sort(key=lambda row: row["state"] not in ("pending", "approved", "executing"))
        return _to_approval(mine[0]) if mine else None

    def move(self, approval_id: str, old: str, new: str, *, outcome: Json = None) -> bool:
        """Compare-and-set of an approval's state; False when it was no longer `old`."""
        decided = self.now() if old == "pending" != new else None
        result = None if outcome is None else _dump(outcome)
        values = {"approval": approval_id, "old": old, "new": new, "decided": decided, "result": result}
        return bool(self._run(_MOVE, values))

    def decide(self, decision: Decision) -> bool:
        """False when this person has decided it before. Whoever approved may still deny."""
        row = {name: getattr(decision, name) for name in Decision.__slots__} | {"at": self.now()}
        row["reason"] = None if decision.reason is None else _storable(decision.reason)
        row["member_of"] = " ".join(decision.member_of)
        return bool(self._run(self._upserts.decision, row))

    def decisions(self, approval_id: str) -> list[Decision]:
        rows = [_named(_decision, row) for row in self._run(_DECISIONS, {"wanted": approval_id})]
        # SQLite has no booleans.
        kept = [{"interactive": bool(row["interactive"]), "member_of": tuple(row["member_of"].split())} for row in rows]
        return [Decision(**{**row, **values}) for row, values in zip(rows, kept, strict=True)]

    # Attempts.

    def attempt(self, attempt: Attempt) -> bool:
        """Records that a request is about to leave; False when one was recorded under this key before."""
        row = {name: getattr(attempt, name) for name in Attempt.__slots__}
        row |= {"arguments": _dump(attempt.arguments), "outcome": None}
        return bool(self._run(self._upserts.attempt, row))

    def end_attempt(self, attempt_id: str, state: str, outcome: Json, *, also: str = "started") -> bool:
        """Ends an attempt that is started, or in the state that `also` names; False when it was neither."""
        values = {"attempt": attempt_id, "also": also, "new": state, "now": self.now(), "result": _dump(outcome)}
        return bool(self._run(_END_ATTEMPT, values))

    def sends_of(self, target: str, tool: str) -> list[Attempt]:
        """Every send of one campaign, newest first."""
        return [_to_attempt(_named(_attempt, row)) for row in self._run(_SENDS_OF, {"wanted": target, "kind": tool})]

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
        rows = self._run(_CALL_ATTEMPT, {"wanted": approval, "call": call_id})
        return _to_attempt(_named(_attempt, rows[0])) if rows else None

    # One lock row a campaign: an owner and a deadline, not an open transaction.

    def lock(self, target: str, owner: str, seconds: float) -> bool:
        now = self.now()
        row = {"target": target, "owner": owner, "until": now + seconds, "now": now}
        if self._run(self._upserts.lock, row):
            return True
        # Of a process that died while it only looked; an attempt of its own may still be under way at the server.
        other = self._c.scalar(sa.select(_lock.c.owner).where(_lock.c.target == target))
        if not is_dead(other or "") or self.attempts(target=target, states=("started",), limit=1):
            return False
        self.unlock(target, str(other))
        return bool(self._run(self._upserts.lock, row))

    def is_started(self, attempt_id: str) -> bool:
        """Whether nobody has judged an attempt yet."""
        return bool(self._run(_STARTED, {"wanted": attempt_id}))

    def holds(self, target: str, owner: str) -> bool:
        return bool(self._run(_HOLDS, {"target": target, "mine": owner, "now": self.now()}))

    def unlock(self, target: str, owner: str) -> None:
        self._run(_UNLOCK, {"target": target, "mine": owner})


def _decides(conversation: Any) -> sa.ColumnElement[bool]:
    """Of items: what decides or changes something that waits in a conversation, and isn't done."""
    return sa.and_(_inbox.c.conversation == conversation, _inbox.c.done_at.is_(None), _inbox.c.kind.in_(DECIDING))


def _reminded() -> sa.Exists:
    """Whether those who may decide an approval have been reminded."""
    reminder = _post.alias("reminder")
    posted = (reminder.c.key == sa.literal("remind:") + _approval.c.id) & reminder.c.ts.is_not(None)
    return sa.exists().where(posted)


class Journal:
    """The door to the database for asyncio code: `read` and `write` run one function in one transaction.

    `clock` replaces the database's clock (Unix seconds), for tests and recorded evals. Raises DatabaseError.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._database, self._clock = Database(url), clock

    async def write(self, job: Callable[[Transaction], Result]) -> Result:
        return await self._database.run(lambda connection: job(Transaction(connection, self._clock)), writes=True)

    async def read(self, job: Callable[[Transaction], Result]) -> Result:
        return await self._database.run(lambda connection: job(Transaction(connection, self._clock)), writes=False)

    async def open(self) -> None:
        """Opens the database, makes its tables where there are none, and brings old ones up."""
        await self.read(lambda tx: None)

    async def aclose(self) -> None:
        await self._database.aclose()


def make_owner() -> str:
    """A name for one turn of this process: host, process id, and something that no other turn has."""
    return f"{machine()}/{os.getpid()}/{secrets.token_hex(6)}"


@cache
def machine() -> str:
    """Where process ids mean what they mean here: the host, its start, and the namespace of its process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
    return ".".join(parts).replace("/", "_")


def is_dead(owner: str) -> bool:
    """True when `owner` was a process of this machine that is gone; False also where that can't be known."""
    host, _, rest = owner.partition("/")
    pid = rest.partition("/")[0]
    if os.name != "posix" or host != machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _dump(value: Json) -> str:
    return to_json(value).decode()


def _storable(text: str) -> str:
    """Without what PostgreSQL has no place for. JSON writes it as an escape, so that only plain columns need this."""
    return text.replace("\x00", "\ufffd")


def _named(table: sa.Table, row: Sequence[Any]) -> dict[str, Any]:
    """A row of a whole table by the names of its columns."""
    return dict(zip(table.c.keys(), row, strict=True))


def _as_written(items: list[Item]) -> list[Item]:
    """Messages that nobody has begun with, and between which nothing else came, by their `ts`."""
    ordered: list[Item] = []
    for free, group in groupby(items, key=lambda item: item.kind == "message" and item.seq is None):
        ordered += sorted(group, key=lambda item: str(item.body.get("ts", "")) if free else "")
    return ordered


def _to_approval(row: Mapping[Any, Any]) -> Approval:
    values = dict(row)
    values |= {"calls": from_json(row["calls"]), "preview": from_json(row["preview"])}
    values |= {"deciders": tuple(row["deciders"].split()), "outcome": _load(row["outcome"])}
    # SQLite has no booleans.
    values["own"] = bool(row["own"])
    return Approval(**values)


def _to_attempt(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(**{**row, "arguments": from_json(row["arguments"]), "outcome": _load(row["outcome"])})


def _to_item(row: Iterable[tuple[str, Any]]) -> Item:
    values = dict(row)
    return Item(**{**values, "body": from_json(values["body"])})


def _load(text: str | None) -> Json:
    return None if text is None else from_json(text)
