"""The gate: policy and approval. It decides whether a call runs, asks or is refused, and runs what was approved, once.

An approval is on record before anybody is asked; an attempt is on record before the first byte leaves. States move by
compare-and-set, so a double click, a second process or a restart finds nothing left to run.
"""

import asyncio
import getpass
import hashlib
import math
import os
import re
import secrets
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from agent.domain import Json, Risk
from agent.errors import (
    ApiError,
    ApiRateLimited,
    ApiRefused,
    ApiUnreachable,
    DatabaseUnavailable,
    DecisionRefused,
    InvalidCall,
)
from agent.journal import Approval, Attempt, Decision, Journal, Transaction, make_owner
from agent.operations import (
    AddCampaignAudience,
    Operation,
    Reading,
    RemoveCampaignAudienceClient,
    SendCampaign,
    parse,
)
from agent.platica import Permit, Platica
from agent.policy import Policy, Rule, fits, of_workspace, requesters
from agent.preview import Context, Hopeless, Preview, Previewer, differences
from agent.settings import Settings
from agent.visible import visible

START_WITHIN = 120.0
"""Seconds between approval and start; later it is expired, never resumed."""
MARGIN = 10.0
"""Seconds after an attempt's deadline before anybody else may call it unknown."""
LATE = 5.0
"""Seconds between the attempt's record and its first byte."""
_HOUR = 3600.0
_HORIZON = 7 * 24 * _HOUR
"""Seconds for which an earlier send still matters."""
_TRIES = 3

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who, from where it can't be typed: kind "os" (uid), "slack" (team and user), "mcp" (authenticated client).

    `groups` are ids of those that policy names, looked up by the interface at the moment of a decision; `unread` are
    those that couldn't be looked up.
    """

    kind: str
    id: str
    name: str = ""
    groups: tuple[str, ...] = field(default=(), kw_only=True)
    unread: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def of(cls, key: str, groups: tuple[str, ...] = ()) -> "Identity":
        kind, _, id = key.partition(":")
        return cls(kind, id, groups=groups)

    @classmethod
    def os_user(cls) -> "Identity":
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = ""
        return cls("os", str(os.getuid()) if hasattr(os, "getuid") else name, name)


class Kind(StrEnum):
    """How a tool call ended."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DENIED = "denied"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    DRIFTED = "drifted"
    REFUSED = "refused"
    INVALID = "invalid"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one answer of a tool call. `data` fills its words, `result` is the API's own answer, whole."""

    kind: Kind
    tool: str
    data: Mapping[str, Json] = field(default_factory=dict)
    result: Json = None

    def dump(self) -> dict[str, Json]:
        return {"kind": self.kind.value, "tool": self.tool, "data": dict(self.data), "result": self.result}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Outcome":
        return cls(Kind(stored["kind"]), stored["tool"], stored["data"], stored["result"])


@dataclass(frozen=True, slots=True)
class Pending:
    """A parsed tool call with the id that its answer needs."""

    call_id: str
    operation: Operation
    more: Mapping[str, Json] = field(default_factory=dict)
    """Of one that a person changed or asked again: `also_by`, who have asked for it too, and `changed`."""


class Gate:
    """One gate for one API key. `clock` is the database's clock as Unix seconds; None means the real one."""

    def __init__(
        self, settings: Settings, platica: Platica, journal: Journal, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._settings, self._platica, self._journal = settings, platica, journal
        self._clock = clock or time.time
        self._previewer = Previewer(platica, settings)
        self.policy = Policy(settings)
        self._ahead: dict[str, tuple[str, Context]] = {}

    def reading(self) -> Reading:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return Reading(now, self._settings.zone, self._settings.country)

    def _target(self, operation: Operation) -> str:
        # Without the workspace, which is a setting: two processes that set it differently mean the same campaign.
        return f"{self._platica.base_url} {operation.campaign or '(new)'}"

    # Policy.

    def refuse(self, operation: Operation) -> Outcome | None:
        """What is never run here, approval or not."""
        if operation.risk is not Risk.READ and self._settings.read_only:
            return Outcome(Kind.REFUSED, operation.tool(), {"code": "read_only"})
        return None

    def _asks(self, operation: Operation, tx: Transaction) -> bool:
        """Whether a call that isn't a read needs a person. Everything but a small plain write does."""
        if operation.risk is not Risk.WRITE or self._settings.confirm == "writes":
            return True
        if operation.campaign is None:
            return False
        target, now = self._target(operation), tx.now()
        ahead = tx.attempts(target=target, tool=SendCampaign.tool(), states=("started", "done", "unknown"))
        if any(send.last_date is not None and send.last_date > now for send in ahead):
            return True
        if not isinstance(operation, AddCampaignAudience):
            return False
        recent = tx.attempts(
            target=target, tool=operation.tool(), since=now - _HOUR, states=("started", "done", "unknown")
        )
        return _size(operation) + sum(attempt.size for attempt in recent) > self._settings.confirm_audience_over

    # Plain writes: run at once where policy lets them, on record all the same.

    async def write(
        self, call: Pending, *, conversation: str, by: Identity, also: Callable[[Transaction], None]
    ) -> Outcome | None:
        """Runs a write that nobody needs to approve. None: it needs a person.

        `also` goes on record in the same commit as the attempt.
        """
        owner, target = make_owner(), self._target(call.operation)
        attempt = self._attempt(call, f"write:{conversation}", conversation, by.key)

        def begin(tx: Transaction) -> str:
            if tx.call_attempt(attempt.approval, call.call_id) is not None:
                return "found"
            # A campaign that doesn't exist yet is nobody else's.
            if call.operation.campaign is not None and not tx.lock(target, owner, self._hold()):
                return "busy"
            # Judged under the lock: what others have added or sent meanwhile counts.
            if self._asks(call.operation, tx):
                tx.unlock(target, owner)
                return "asks"
            also(tx)
            if not tx.attempt(replace(attempt, started_at=tx.now(), deadline=tx.now() + self._span())):
                tx.unlock(target, owner)
                return "found"
            return "go"

        async def run() -> Outcome | str:
            answer = await self._journal.write(begin)
            return await self._perform(call.operation, attempt, None, owner) if answer == "go" else answer

        for _ in range(100):
            answer = await shielded(run())
            if answer != "busy":
                break
            await asyncio.sleep(0.1)
        match answer:
            case "asks":
                return None
            case "found":
                return await self._judge_attempt(attempt.approval, call)
            case Outcome():
                return answer
        return Outcome(Kind.FAILED, call.operation.tool(), {"text": "another change of this campaign is under way"})

    async def written(self, call: Pending, *, conversation: str) -> Outcome | None:
        """How a write that was begun earlier ended; None when it never was."""
        key = f"write:{conversation}"
        if await self._journal.read(lambda tx: tx.call_attempt(key, call.call_id)) is None:
            return None
        return await self._judge_attempt(key, call)

    # Asking.

    async def propose(
        self,
        calls: Sequence[Pending],
        *,
        conversation: str,
        by: Identity,
        before: Preview | None = None,
        also: Callable[[Transaction], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Approval | Outcome:
        """Puts a risky call on record as pending, with everything that is bound. Nobody has been asked yet.

        `before` is the preview that was approved and has drifted; `also` goes on record in the same commit. An Outcome
        means that there is nothing to ask.
        """
        tool = calls[0].operation.tool()
        try:
            settled = await self._previewer.settle([call.operation for call in calls])
            # Two forms of one phone have become the same call; the second is looked at after the first.
            alone = next((n for n in range(1, len(settled)) if settled[n] in settled[:n]), len(settled))
            calls, settled = calls[:alone], settled[:alone]
            context = await self._journal.read(lambda tx: self._context(tx, settled[0], progress=progress))
            preview = await self._previewer.preview(settled, context)
        except Hopeless as hopeless:
            return Outcome(Kind.REFUSED, tool, {"code": hopeless.code, **hopeless.data})
        except ApiError as error:
            return failed(tool, error)
        if before is not None:
            preview = replace(preview, drift=differences(before, preview))
        bound = self._bound(calls, settled, preview, conversation, by)

        def store(tx: Transaction) -> Approval:
            now = tx.now()
            approval = replace(bound, requested_at=now, expires_at=now + bound.expires_at)
            if also is not None:
                also(tx)
            tx.propose(approval)
            return approval

        try:
            return await self._journal.write(store)
        except asyncio.CancelledError:
            # Nobody has seen this card.
            await shielded(self._journal.write(lambda tx: tx.move(bound.id, "pending", "superseded")))
            raise

    async def ask_anew(
        self,
        approval: Approval,
        arguments: Mapping[str, Json] | None,
        *,
        by: Identity,
        also: Callable[[Transaction], None],
    ) -> Approval | Outcome:
        """A new approval in place of one that waits, with other arguments; or of one nobody answered, with the same.

        The old one is void in the same commit. Raises DecisionRefused where it is neither, or where `by` neither asked
        for it nor may decide it. Who does this has asked for it too.
        """
        old = approval.calls if arguments is None else approval.calls[:1]
        calls = []
        for call in old:
            operation = parse(approval.tool, arguments or call["arguments"], self.reading())
            also_by = dict.fromkeys([*call.get("also_by", ()), by.key])
            more = {"also_by": list(also_by), "changed": arguments is not None or call.get("changed", False)}
            calls.append(Pending(str(call["id"]), operation, more))

        def replace_old(tx: Transaction) -> None:
            current = tx.approval(approval.id)
            assert current is not None
            refused = self.entitled(current, by)
            if refused is not None and by.key != current.requested_by:
                raise refused
            state = _swept(current, tx.now()) or current.state
            newest = tx.approval_of(current.conversation, calls[0].call_id)
            if state != ("expired" if arguments is None else "pending") or newest is None or newest.id != current.id:
                raise DecisionRefused(_why(state), approval=current.id, state=state)
            moved = tx.move(current.id, "pending", "expired" if arguments is None else "superseded")
            if current.state == "pending" and not moved:
                # Somebody has decided it since it was read.
                raise DecisionRefused("decided", approval=current.id, state="approved")
            also(tx)

        asked = Identity.of(approval.requested_by)
        return await self.propose(calls, conversation=approval.conversation, by=asked, also=replace_old)

    def _bound(
        self,
        calls: Sequence[Pending],
        settled: Sequence[Operation],
        preview: Preview,
        conversation: str,
        by: Identity,
    ) -> Approval:
        """An approval with everything that it is bound to. Its times come with the commit; until then, it expires in
        `expires_at` seconds."""
        rule = self.policy.rule(calls[0].operation.tool(), _people(preview), by.kind)
        return Approval(
            id=secrets.token_urlsafe(9).replace("-", "a").replace("_", "b"),
            conversation=conversation,
            tool=calls[0].operation.tool(),
            calls=[
                {"id": c.call_id, "arguments": o.arguments(), **c.more} for c, o in zip(calls, settled, strict=True)
            ],
            arguments_sha256=_digest(settled),
            preview=preview.dump(),
            fingerprint=preview.fingerprint,
            base_url=self._platica.base_url,
            workspace=self._platica.workspace or "",
            key_id=self._settings.key_id,
            requested_by=by.key,
            deciders=rule.deciders,
            requested_at=0.0,
            expires_at=rule.ttl,
            state="pending",
            needed=rule.needed,
            own=rule.own,
        )

    def _context(self, tx: Transaction, operation: Operation, *, own: str | None = None, **more: Any) -> Context:
        """Earlier sends of the same campaign, and those of others in the same workspace, within the horizon.

        `own` is the approval being run: its own attempt is no earlier one.
        """
        target, now = self._target(operation), tx.now()
        since = now - _HORIZON
        sends = [a for a in tx.sends_of(target, SendCampaign.tool()) if a.approval != own]
        # A scheduled send counts from its dates, which may lie far from when it was asked for.
        earlier = [a for a in sends if max(a.started_at, a.last_date or 0.0) >= since]
        others: list[Attempt] = []
        if isinstance(operation, SendCampaign):
            scope = target.rpartition(" ")[0] + " "
            wide = tx.attempts(tool=SendCampaign.tool(), since=since, states=("started", "done", "unknown"))
            others = [a for a in wide if a.target.startswith(scope) and a.target != target]
        return Context(datetime.fromtimestamp(now, UTC), earlier, others, **more)

    # Deciding.

    async def decide(
        self,
        approval_id: str,
        decision: str,
        *,
        by: Identity,
        confirm: str | None = None,
        reason: str | None = None,
        interactive: bool = True,
        also: Callable[[Transaction, str], bool] | None = None,
    ) -> Approval:
        """Records a person's decision. Anything but "approve" is a no. Raises DecisionRefused: why nothing moved.

        The approval that comes back still waits where somebody else has to approve it, too. Otherwise `also` goes on
        record in the same commit; it is told the conversation, and says whether `execute` follows at once. Whoever says
        so calls `forget` at the end.
        """
        approve = decision == "approve"
        ahead: list[tuple[str, Context]] = []

        def move(tx: Transaction) -> Approval | DecisionRefused:
            approval = tx.approval(approval_id)
            if approval is None:
                return DecisionRefused("unknown", approval=approval_id)
            if (swept := _swept(approval, tx.now())) is not None:
                tx.move(approval_id, approval.state, swept)
                approval = replace(approval, state=swept)
            if approval.state != "pending":
                return DecisionRefused(_why(approval.state), approval=approval_id, state=approval.state)
            if (refused := self._may_decide(approval, by, approve, interactive, confirm)) is not None:
                return refused
            word = "approve" if approve else "deny"
            made = Decision(approval_id, by.key, word, reason, interactive, 0.0, by.groups)
            if approve and (waits := self._one_more(tx, approval, made)) is not None:
                return waits
            state = "approved" if approve else "denied"
            if not tx.move(approval_id, "pending", state, outcome={"reason": reason}):
                return DecisionRefused("decided", approval=approval_id, state=state)
            tx.decide(made)
            if also is not None and also(tx, approval.conversation) and approve:
                ahead.extend(self._lock_ahead(tx, approval))
            return replace(approval, state=state, decided_at=tx.now(), outcome={"reason": reason})

        # A refusal is returned, not raised: raising would undo the expiry that was found on the way.
        moved = await self._journal.write(move)
        if isinstance(moved, DecisionRefused):
            raise moved
        if ahead:
            self._ahead[approval_id] = ahead[0]
        return moved

    def _lock_ahead(self, tx: Transaction, approval: Approval) -> list[tuple[str, Context]]:
        """The campaign's lock in the commit of the decision, where it is free: one commit less until the request."""
        owner, operation = make_owner(), parse_stored(approval.tool, approval.calls[0]["arguments"])
        held = tx.lock(self._target(operation), owner, self._hold())
        return [(owner, self._claim_context(tx, approval, ()))] if held else []

    async def forget(self, approval: Approval) -> None:
        """Gives up the lock that a decision took, if nothing has come of it."""
        if (found := self._ahead.pop(approval.id, None)) is not None:
            target = self._target(parse_stored(approval.tool, approval.calls[0]["arguments"]))
            await shielded(self._journal.write(lambda tx: tx.unlock(target, found[0])))

    def _one_more(self, tx: Transaction, approval: Approval, made: Decision) -> Approval | DecisionRefused | None:
        """One of several approvals that are needed. None: it is the last of them."""
        if (needed := self._needed(approval)) == 1:
            return None
        # Takes the row first, so that of two who approve at one moment the second sees the first.
        if not tx.move(approval.id, "pending", "pending"):
            return DecisionRefused("decided", approval=approval.id, state="approved")
        if not tx.decide(made):
            return DecisionRefused("approved_before", approval=approval.id, needed=needed)
        return None if self._enough(approval, tx.decisions(approval.id)) else replace(approval, needed=needed)

    def entitled(self, approval: Approval, by: Identity, *, approve: bool = False) -> DecisionRefused | None:
        """Why this person can't decide it, by what was bound to it and by what the settings say now."""
        own = by.key in requesters(approval.requested_by, approval.calls)
        if by.kind == "slack" and not of_workspace(by.id, approval.conversation, approval.requested_by):
            return DecisionRefused("not_entitled", approval=approval.id)
        rule = self._rule(approval)
        both = all(fits(deciders, by.kind, by.id, by.groups) for deciders in (approval.deciders, rule.deciders))
        # Whoever asked may always take it back.
        if not both and (approve or not own):
            maybe = replace(by, groups=(*by.groups, *by.unread), unread=())
            unsure = by.unread and self.entitled(approval, maybe, approve=approve) is None
            return DecisionRefused("unread" if unsure else "not_entitled", approval=approval.id)
        if approve and own and not (approval.own and rule.own):
            return DecisionRefused("own_send", approval=approval.id)
        return None

    def _needed(self, approval: Approval) -> int:
        return max(approval.needed, self._rule(approval).needed)

    def _enough(self, approval: Approval, decisions: Sequence[Decision]) -> bool:
        """Whether enough different people approved it who are entitled to.

        Accounts of one kind are different people; of two kinds they may be one person's.
        """
        approved = [Identity.of(made.identity, made.member_of) for made in decisions if made.decision == "approve"]
        kinds = Counter(by.kind for by in approved if self.entitled(approval, by, approve=True) is None)
        return max(kinds.values(), default=0) >= self._needed(approval)

    def _rule(self, approval: Approval) -> Rule:
        """The rule for it as the settings are now."""
        return self.policy.rule(
            approval.tool, _people(Preview.load(approval.preview)), approval.requested_by.partition(":")[0]
        )

    def _may_decide(
        self, approval: Approval, by: Identity, approve: bool, interactive: bool, confirm: str | None
    ) -> DecisionRefused | None:
        if (refused := self.entitled(approval, by, approve=approve)) is not None:
            return refused
        if not self._same_target(approval):
            return DecisionRefused("other_target", approval=approval.id, base_url=approval.base_url)
        if approve and not interactive and not self._settings.allow_noninteractive_approve:
            return DecisionRefused("not_interactive", approval=approval.id)
        return self.unconfirmed(approval, confirm) if approve else None

    def _same_target(self, approval: Approval) -> bool:
        mine = (self._platica.base_url, self._platica.workspace or "", self._settings.key_id)
        return mine == (approval.base_url, approval.workspace, approval.key_id)

    @staticmethod
    def unconfirmed(approval: Approval, typed: str | None) -> DecisionRefused | None:
        """Why what was typed doesn't do, where a card wants something typed."""
        preview = Preview.load(approval.preview)
        if preview.confirm == "yes":
            return None
        campaign = preview.facts["campaign"]
        # What is asked for is what the card shows: letters that hide can't be typed.
        title = campaign["title"] if fold_typed(campaign["title"]) else campaign["id"]
        wanted = [visible(title), title]
        if preview.confirm == "typed":
            wanted.append(str(count_to_type(preview)))
        if typed is not None and fold_typed(typed) in {fold_typed(text) for text in wanted}:
            return None
        return DecisionRefused("confirmation", approval=approval.id, wanted=wanted[0], kind=preview.confirm)

    async def settle(self, approval: Approval) -> Approval:
        """The approval after what the clock alone has done to it: expiry, and starts that never came."""
        if _swept(approval, self._clock()) is None:
            return approval

        def sweep(tx: Transaction) -> Approval | None:
            if (swept := _swept(approval, tx.now())) is not None:
                tx.move(approval.id, approval.state, swept)
            return tx.approval(approval.id)

        return await self._journal.write(sweep) or approval

    async def abandon(self, approval: Approval, call: Pending) -> Outcome:
        """Ends an approval that was given and never begun, since the person has moved on."""
        if await self._journal.write(lambda tx: tx.move(approval.id, "approved", "refused")):
            return Outcome(Kind.SUPERSEDED, approval.tool)
        return await self._ended(approval, call)

    async def _ended(self, approval: Approval, call: Pending) -> Outcome:
        """How a call ended that somebody else has begun meanwhile. What ran must not be told as not run."""
        current = await self._journal.read(lambda tx: tx.approval(approval.id))
        ended = await self.recover(current, call) if current is not None else None
        return ended or Outcome(Kind.NOT_RUN, approval.tool, {"code": "used"})

    async def supersede(self, conversation: str) -> list[Approval]:
        """Overtakes what still waits in a conversation; what was approved already goes on."""

        def move(tx: Transaction) -> list[Approval]:
            waiting = tx.approvals(conversation=conversation, states=("pending",))
            return [approval for approval in waiting if tx.move(approval.id, "pending", "superseded")]

        return await self._journal.write(move)

    # Running what was approved.

    async def execute(self, approval: Approval) -> AsyncIterator[tuple[Sequence[str], Outcome | Approval]]:
        """Runs an approved approval, once. Yields ids of calls with their outcome, or, after drift, with the new
        approval that waits instead: of those who asked for the old one."""
        calls = [Pending(c["id"], parse_stored(approval.tool, c["arguments"]), _more(c)) for c in approval.calls]
        by = Identity.of(approval.requested_by)
        ended: list[tuple[Pending, Outcome]] = []
        while len(ended) < len(calls):
            rest = calls[len(ended) :]
            outcome = await self._claim(approval, rest, ended)
            if isinstance(outcome, Preview):
                fresh = await self.propose(rest, conversation=approval.conversation, by=by, before=outcome)
                yield [call.call_id for call in rest], fresh
                return
            ended.append((rest[0], outcome))
            yield [rest[0].call_id], outcome
            if outcome.kind is not Kind.DONE:
                for call in rest[1:]:
                    yield [call.call_id], Outcome(Kind.NOT_RUN, approval.tool, {"code": "earlier_step"})
                return

    async def _claim(
        self, approval: Approval, rest: Sequence[Pending], ended: Sequence[tuple[Pending, Outcome]]
    ) -> Outcome | Preview:
        """Judges everything again as if new, and runs the first of `rest`. A Preview is what had drifted."""
        target, state = self._target(rest[0].operation), "executing" if ended else "approved"
        owner, context = self._ahead.pop(approval.id, None) or (make_owner(), None)

        def lock(tx: Transaction) -> Context | None:
            return self._claim_context(tx, approval, ended) if tx.lock(target, owner, self._hold()) else None

        # Whoever stops the turn before the request has begun stops the request.
        instead, moved = "failed" if ended else "refused", False
        checked: Outcome | Preview | tuple[Operation, Preview]
        checked = Outcome(Kind.FAILED, approval.tool, {"text": "another change of this campaign is under way"})
        try:
            for _ in range(100):
                context = context or await self._journal.write(lock)
                if context is not None:
                    checked = await self._check(approval, rest, ended, context)
                    break
                await asyncio.sleep(0.1)
            if isinstance(checked, tuple):
                instead = ""
                return await shielded(self._run(approval, rest, ended, owner, *checked))
            instead = "drifted" if isinstance(checked, Preview) else instead
        finally:
            if instead:
                end = partial(self._let_go, approval=approval, old=state, new=instead, owner=owner, target=target)
                moved = await shielded(self._journal.write(end))
        return checked if moved else await self._ended(approval, rest[0])

    @staticmethod
    def _let_go(tx: Transaction, *, approval: Approval, old: str, new: str, owner: str, target: str) -> bool:
        """Ends an approval whose request never got an attempt: surely nothing was done."""
        tx.unlock(target, owner)
        return tx.move(approval.id, old, new)

    def _claim_context(self, tx: Transaction, approval: Approval, ended: Sequence[tuple[Pending, Outcome]]) -> Context:
        operation = parse_stored(approval.tool, approval.calls[0]["arguments"])
        done = [str(call.operation.arguments().get("phoneNumber", "")).lstrip("+") for call, _ in ended]
        approved = Preview.load(approval.preview)
        return self._context(tx, operation, own=approval.id, approved=approved, batch_done=done)

    async def _run(
        self,
        approval: Approval,
        rest: Sequence[Pending],
        ended: Sequence[tuple[Pending, Outcome]],
        owner: str,
        operation: Operation,
        preview: Preview,
    ) -> Outcome:
        """From the attempt's record to the outcome's."""
        call = Pending(rest[0].call_id, operation)
        attempt = self._attempt(call, approval.id, approval.conversation, "", preview)
        late = time.monotonic() + LATE
        why = await self._begin(approval, attempt, owner, first=not ended)
        if why == "interrupted":
            await self._journal.write(lambda tx: tx.move(approval.id, "approved", "refused"))
        if why == "used":
            return await self._ended(approval, rest[0])
        if why is not None:
            return Outcome(Kind.NOT_RUN, approval.tool, {"code": why})

        async def still_valid() -> Outcome | None:
            if (changed := await self._recheck(approval, rest, ended)) is not None:
                return changed

            def renew(tx: Transaction) -> bool:
                mine = tx.is_started(attempt.id) and tx.holds(attempt.target, owner)
                return mine and tx.lock(attempt.target, owner, self._hold())

            if await self._journal.write(renew):
                return None
            return Outcome(Kind.FAILED, approval.tool, {"text": "looking again took too long"})

        def close(tx: Transaction, outcome: Outcome) -> None:
            if outcome.kind is Kind.DONE and len(rest) > 1:
                return
            outcomes = [*(earlier for _, earlier in ended), outcome]
            state = {Kind.DONE: "done", Kind.UNKNOWN: "unknown"}.get(outcome.kind, "failed")
            ends = [each.dump() for each in outcomes]
            # Somebody may have had to call it unknown before the answer came.
            if not tx.move(approval.id, "executing", state, outcome=ends):
                tx.move(approval.id, "unknown", state, outcome=ends)

        return await self._perform(operation, attempt, preview, owner, still_valid, close, late=late)

    async def _check(
        self,
        approval: Approval,
        rest: Sequence[Pending],
        ended: Sequence[tuple[Pending, Outcome]],
        context: Context,
    ) -> tuple[Operation, Preview] | Outcome | Preview:
        """Policy, entitlement, arguments, dates and drift. A Preview: the approved one, which no longer holds."""
        approved = Preview.load(approval.preview)
        calls = [parse_stored(approval.tool, c["arguments"]) for c in approval.calls]
        tool = approval.tool
        if not self._same_target(approval) or _digest(calls) != approval.arguments_sha256:
            return Outcome(Kind.REFUSED, tool, {"code": "other_target"})
        if (refused := self.refuse(rest[0].operation)) is not None:
            return refused
        if self._clock() > approval.expires_at:
            return Outcome(Kind.REFUSED, tool, {"code": "expired_before_start"})
        try:
            fresh_call = parse(tool, rest[0].operation.arguments(), self.reading())
            fresh = await self._previewer.preview(calls, context)
        except InvalidCall as error:
            return Outcome(Kind.REFUSED, tool, {"code": "no_longer_valid", "problem": error.problem})
        except Hopeless as hopeless:
            return Outcome(Kind.REFUSED, tool, {"code": hopeless.code, **hopeless.data})
        except ApiError as error:
            return failed(tool, error)
        same = fresh.fingerprint == approval.fingerprint
        if ended and not same:
            same = _same_but_removed(approved, fresh, set(context.batch_done))
        return (fresh_call, approved) if same else approved

    async def _recheck(
        self, approval: Approval, rest: Sequence[Pending], ended: Sequence[tuple[Pending, Outcome]]
    ) -> Outcome | None:
        """The same judgement before another request of the same attempt. None: it may go."""
        context = await self._journal.read(lambda tx: self._claim_context(tx, approval, ended))
        checked = await self._check(approval, rest, ended, context)
        if isinstance(checked, Preview):
            return Outcome(Kind.DRIFTED, approval.tool, {"campaign": rest[0].operation.campaign})
        return checked if isinstance(checked, Outcome) else None

    async def _begin(self, approval: Approval, attempt: Attempt, owner: str, *, first: bool) -> str | None:
        """Approved becomes executing and the attempt goes on record, in one transaction, or neither does.

        None: it did. Otherwise why not, as the code of a refusal.
        """

        def begin(tx: Transaction) -> str | None:
            current = tx.approval(approval.id)
            if current is None or not tx.holds(attempt.target, owner):
                return "interrupted"
            # Looking took of the lock's time; the request has all of it.
            if not tx.lock(attempt.target, owner, self._hold()):
                return "interrupted"
            why = self._hindered(tx, current, attempt, first=first)
            if why is not None:
                tx.unlock(attempt.target, owner)
            return why

        return await self._journal.write(begin)

    def _hindered(self, tx: Transaction, current: Approval, attempt: Attempt, *, first: bool) -> str | None:
        if current.state != ("approved" if first else "executing"):
            return _why(current.state)
        if first and (swept := _swept(current, tx.now())) is not None:
            tx.move(current.id, "approved", swept)
            return swept
        decisions = tx.decisions(current.id)
        if not self._enough(current, decisions):
            return "refused"
        # Also a later call of a batch takes the row, so that nobody closes the approval at the same moment.
        if not tx.move(current.id, "approved" if first else "executing", "executing"):
            return "used"
        deciders = ",".join(made.identity for made in decisions if made.decision == "approve")
        attempt = replace(attempt, by=deciders, started_at=tx.now(), deadline=tx.now() + self._span())
        return None if tx.attempt(attempt) else "used"

    async def _perform(
        self,
        operation: Operation,
        attempt: Attempt,
        preview: Preview | None,
        owner: str,
        still_valid: Callable[[], Coroutine[Any, Any, Outcome | None]] | None = None,
        close: Callable[[Transaction, Outcome], None] | None = None,
        *,
        late: float = math.inf,
    ) -> Outcome:
        """The request itself, once its attempt is on record, to its recorded outcome."""
        outcome = await self._depart(operation, attempt, preview, still_valid, late)
        state = outcome.kind.value if outcome.kind in (Kind.DONE, Kind.UNKNOWN) else "failed"

        def end(tx: Transaction) -> None:
            # What the executor saw is evidence, also after somebody else had to call it unknown.
            tx.end_attempt(attempt.id, state, outcome.dump(), also="unknown")
            tx.unlock(attempt.target, owner)
            if close is not None:
                close(tx, outcome)

        for wait in (0.2, 1.0, 3.0, 5.0, 0.0):
            try:
                await self._journal.write(end)
                break
            except DatabaseUnavailable:
                # What is known must not become unknown for a server that is away for a moment.
                if not wait:
                    raise
                await asyncio.sleep(wait)
        return outcome

    async def _depart(
        self,
        operation: Operation,
        attempt: Attempt,
        preview: Preview | None,
        still_valid: Callable[[], Coroutine[Any, Any, Outcome | None]] | None,
        late: float,
    ) -> Outcome:
        """`late` is when the first byte comes too late, on the clock of `time.monotonic`."""
        request, tool, approved = operation.request(), operation.tool(), still_valid is not None
        latest, on_wall = attempt.deadline - self._settings.request_deadline, attempt.started_at + LATE
        for number in range(1, _TRIES + 1):
            permit = Permit(attempt.id, request.sha256, late, partial(self._before, on_wall))
            try:
                answer = await self._platica.request(request, permit if approved else None)
                return Outcome(Kind.DONE, tool, _facts(operation, preview, answer.body), dict(answer.body))
            except (ApiUnreachable, ApiRateLimited) as error:
                wait = error.wait if isinstance(error, ApiRateLimited) else 0.3 * number
                if number == _TRIES or still_valid is None or self._clock() + wait > latest:
                    return failed(tool, error)
                await asyncio.sleep(wait)
                late, on_wall = time.monotonic() + LATE, self._clock() + LATE
                if (ended := await still_valid()) is not None:
                    return ended
                if self._clock() > latest:
                    return failed(tool, error)
                late, on_wall = max(late, time.monotonic() + LATE / 5), max(on_wall, self._clock() + LATE / 5)
            except ApiRefused as error:
                return failed(tool, error)
            except ApiError as error:
                return Outcome(Kind.UNKNOWN, tool, {**_facts(operation, preview, {}), "text": error.text})
            except Exception as error:
                # Whatever it was: once the permit is spent, bytes may have left.
                if (approved or operation.risk.gated) and not permit.spent:
                    return Outcome(Kind.FAILED, tool, {"text": type(error).__name__})
                return Outcome(Kind.UNKNOWN, tool, {**_facts(operation, preview, {}), "text": type(error).__name__})
        raise AssertionError("the last try returns")

    def _before(self, moment: float) -> bool:
        return self._clock() <= moment

    def _span(self) -> float:
        """Seconds that an attempt may take in all, with the requests that it repeats."""
        return self._settings.request_deadline * 2 + 10.0

    def _hold(self) -> float:
        return self._span() + MARGIN + 60.0

    def _attempt(
        self, call: Pending, approval: str, conversation: str, by: str, preview: Preview | None = None
    ) -> Attempt:
        operation, now = call.operation, self._clock()
        dates = (
            operation.template.scheduledDates if isinstance(operation, SendCampaign) and operation.template else None
        )
        return Attempt(
            approval=approval,
            call_id=call.call_id,
            id=secrets.token_hex(5),
            conversation=conversation,
            tool=operation.tool(),
            target=self._target(operation),
            arguments=operation.arguments(),
            by=by,
            started_at=now,
            deadline=now + self._span(),
            state="started",
            size=_size(operation) or int(((preview.facts if preview else {}).get("audience") or {}).get("size", 0)),
            template=str(preview.facts["template"]["name"]) if preview and "template" in preview.facts else None,
            recipients=bytes.fromhex(preview.people) if preview and preview.people else None,
            last_date=max(datetime.fromisoformat(date).timestamp() for date in dates) if dates else None,
        )

    # What a restart finds.

    async def recover(self, approval: Approval, call: Pending) -> Outcome | None:
        """The outcome of a call whose approval somebody began to run. Only the conversation's owner may ask.

        None: the approval waits, or is approved and still in time. A started attempt is given its whole time first.
        """
        match approval.state:
            case "pending" | "approved":
                return None
            case "denied":
                reason = (approval.outcome or {}).get("reason")
                return Outcome(Kind.DENIED, approval.tool, {"reason": reason})
            case "expired":
                return Outcome(Kind.EXPIRED, approval.tool)
            case "superseded":
                return Outcome(Kind.SUPERSEDED, approval.tool)
        outcome = await self._judge_attempt(approval.id, call)
        if outcome.kind is Kind.NOT_RUN or approval.state == "executing":
            state = {Kind.DONE: "done", Kind.UNKNOWN: "unknown"}.get(outcome.kind, "failed")
            last = call.call_id == approval.calls[-1]["id"]
            if last or outcome.kind is not Kind.DONE:
                close = partial(self._close, approval=approval.id, call_id=call.call_id, state=state, outcome=outcome)
                if not await self._journal.write(close):
                    return await self.recover(approval, call)
        return outcome

    @staticmethod
    def _close(tx: Transaction, *, approval: str, call_id: str, state: str, outcome: Outcome) -> bool:
        """Ends an approval that was left executing. False: an attempt has begun at the same moment."""
        moved = tx.move(approval, "executing", state, outcome=[outcome.dump()])
        if moved and outcome.kind is Kind.NOT_RUN and tx.call_attempt(approval, call_id) is not None:
            tx.move(approval, state, "executing")
            return False
        return True

    async def _judge_attempt(self, approval: str, call: Pending) -> Outcome:
        """How the attempt of a call ended; after its deadline and a margin without a word, it is unknown."""
        tool = call.operation.tool()
        while True:
            # The database's clock judges: ours may be ahead of it, or behind.
            attempt, now = await self._journal.read(lambda tx: (tx.call_attempt(approval, call.call_id), tx.now()))
            if attempt is None:
                return Outcome(Kind.NOT_RUN, tool, {"code": "interrupted"})
            if attempt.state != "started":
                return Outcome.load(attempt.outcome)
            if now > attempt.deadline + MARGIN:
                await self.sweep()
            else:
                await asyncio.sleep(0.2)

    async def sweep(self) -> list[Attempt]:
        """Calls every attempt unknown whose time is over and of which nobody reported."""

        def late(tx: Transaction) -> list[Attempt]:
            return [a for a in tx.attempts(states=("started",)) if tx.now() > a.deadline + MARGIN]

        def judge(tx: Transaction) -> list[Attempt]:
            swept = [a for a in late(tx) if tx.end_attempt(a.id, "unknown", _lost(a).dump())]
            for attempt in swept:
                tx.move(attempt.approval, "executing", "unknown", outcome=[_lost(attempt).dump()])
            return swept

        # Some look every few seconds, and there is nearly never any.
        return await self._journal.write(judge) if await self._journal.read(late) else []


def parse_stored(tool: str, arguments: Mapping[str, Json]) -> Operation:
    """Canonical arguments back into their operation. Dates that have passed meanwhile are judged at the claim."""
    return parse(tool, arguments, Reading(datetime.min.replace(tzinfo=UTC), ZoneInfo("UTC")))


def _more(call: Mapping[str, Json]) -> dict[str, Json]:
    """What a stored call holds besides its id and arguments: who has changed it, too."""
    return {name: value for name, value in call.items() if name not in ("id", "arguments")}


def fold_typed(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def count_to_type(preview: Preview) -> int:
    """The figure that may be typed instead of the title: recipients of a send, members otherwise."""
    audience = preview.facts["audience"]
    if preview.tool == RemoveCampaignAudienceClient.tool():
        return len(preview.arguments)
    return int(audience["unique"] if preview.tool == SendCampaign.tool() else audience["size"])


def _swept(approval: Approval, now: float) -> str | None:
    """What an approval has become by the clock alone: expired while it waited, or approved and never started."""
    if approval.state == "pending" and now > approval.expires_at:
        return "expired"
    late = now > (approval.decided_at or 0.0) + START_WITHIN or now > approval.expires_at
    return "expired" if approval.state == "approved" and late else None


def _why(state: str) -> str:
    """An approval's state as the reason why a decision comes too late. Unknown here is how its attempt ended."""
    return {"approved": "decided", "executing": "used", "done": "used", "failed": "used", "unknown": "used"}.get(
        state, state
    )


def _people(preview: Preview) -> int:
    """How many people a call touches, as its card says."""
    audience = preview.facts.get("audience") or {}
    return max(int(audience.get("size", 0)), int(audience.get("unique", 0)))


def _size(operation: Operation) -> int:
    return len(operation.arguments()["clients"]) if isinstance(operation, AddCampaignAudience) else 0


def _digest(operations: Sequence[Operation]) -> str:
    text = "\n".join(f"{operation.tool()} {operation.canonical()}" for operation in operations)
    return hashlib.sha256(text.encode()).hexdigest()


def failed(tool: str, error: ApiError) -> Outcome:
    """The API did not do it. `error` is the code that people and programs see."""
    data = {"text": error.text, "status": error.status, "request_id": error.request_id, "error": error.code}
    return Outcome(Kind.FAILED, tool, data)


def _lost(attempt: Attempt) -> Outcome:
    data = {
        "text": "the program ended before the answer came",
        "title": None,
        "campaign": attempt.arguments.get("campaignId"),
    }
    return Outcome(Kind.UNKNOWN, attempt.tool, data)


def _facts(operation: Operation, preview: Preview | None, body: Mapping[str, Any]) -> dict[str, Json]:
    """What the outcome's line states: names from the preview, counts from the API's answer and from nowhere else."""
    data = body.get("data")
    data = data if isinstance(data, dict) else {}
    campaign = preview.facts.get("campaign") if preview else None
    facts: dict[str, Json] = {"campaign": operation.campaign or data.get("id")}
    facts["title"] = (campaign or {}).get("title") or data.get("title")
    for name in ("addedCount", "createdCount", "updatedCount", "removedCount"):
        value = data.get(name)
        facts[name] = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(operation, SendCampaign):
        audience = preview.facts["audience"] if preview else {}
        dates = (operation.template.scheduledDates if operation.template else None) or []
        flags = operation.template
        fewer = flags is not None and False in (flags.sendToProblematic, flags.sendToUndeliverable)
        facts |= {"recipients": audience.get("unique"), "dates": dates, "fewer": fewer}
    if isinstance(operation, RemoveCampaignAudienceClient):
        facts["phone"] = operation.phoneNumber
    if isinstance(operation, AddCampaignAudience):
        facts["asked"] = _size(operation)
    facts["fields"] = sorted(set(operation.arguments()) - {"campaignId"})
    return facts


def _same_but_removed(approved: Preview, fresh: Preview, removed: set[str]) -> bool:
    """In a batch, whether only our own earlier removals changed anything."""
    left = [member for member in approved.members if member[1].lstrip("+") not in removed]
    if not approved.members:
        gone = [c for p in approved.facts["people"] if p["phone"].lstrip("+") in removed for c in p["clients"]]
        before, now = approved.facts["audience"], fresh.facts["audience"]
        newest = now["newest"] == before["newest"] or before["newest"] in {client[0] for client in gone}
        if now["size"] != before["size"] - len(gone) or not newest:
            return False
    elif [member[:2] for member in left] != [list(member[:2]) for member in fresh.members]:
        return False

    def rest(preview: Preview) -> dict[str, Json]:
        campaign = {key: value for key, value in preview.facts["campaign"].items() if key != "lastUpdate"}
        people = [person for person in preview.facts["people"] if person["phone"].lstrip("+") not in removed]
        return {"campaign": campaign, "people": people, "earlier": preview.facts["earlier"]}

    return rest(approved) == rest(fresh)


async def shielded(work: Coroutine[Any, Any, Result]) -> Result:
    """Lets `work` reach its end although whoever waits for it is cancelled, and only then passes that on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                continue
            except Exception:
                break
        raise
