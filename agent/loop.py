"""`Agent.advance` and `Agent.decide`: one turn as a stream of events, and the only door to it for every interface."""

import asyncio
import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

from pydantic_core import from_json, to_json

from agent.domain import Json, Risk
from agent.errors import (
    AgentError,
    ApiError,
    ApiRefused,
    ApiUnreachable,
    CallNotDone,
    DecisionRefused,
    InvalidCall,
    ModelError,
    SessionBusy,
    StepLimitExceeded,
)
from agent.events import AgentEvent, ApprovalAsked, Failed, Progress, Reply, Text, ToolCalled, ToolResult, Usage
from agent.gate import Gate, Identity, Kind, Outcome, Pending, failed, parse_stored, shielded
from agent.journal import LEASE, Approval, Event, Item, Journal, Transaction, is_dead, make_owner
from agent.model import Call, Completion, Model
from agent.operations import Operation, RemoveCampaignAudienceClient, parse
from agent.platica import Platica
from agent.policy import named
from agent.preview import Preview, fold
from agent.prompts import Language, Words, words
from agent.settings import Settings
from agent.transcript import BY_HAND, CALLED, First, Transcript, assistant_message, event_of, fit

_KEEP = 256
"""Conversations whose messages stay in memory between turns."""
_TURN = "turn"
"""Who made an aside that no person's words have led to."""
_BARE_ANSWERS = {
    "si", "no", "ok", "okay", "dale", "va", "claro", "adelante", "apruebo", "aprobado", "confirmo", "confirmado",
    "hazlo", "si por favor", "yes", "y", "n", "s", "yep", "yeah", "sure", "approve", "approved", "confirm", "confirmed",
    "do it", "go ahead", "yes please", "nope", "deny", "cancel", "cancela", "cancelar", "nel", "sale",
}  # fmt: skip


class _Beat:
    """Renews a lease while a turn lasts; most are over before the first renewal."""

    def __init__(self, journal: Journal, session: str, owner: str) -> None:
        self._journal, self._session, self._owner = journal, session, owner
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(LEASE / 3, self._start)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(AgentError):
                if not await self._journal.write(lambda tx: tx.renew(self._session, self._owner)):
                    return
            await asyncio.sleep(LEASE / 3)

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


class _Ended(Exception):
    """The turn is over, its error has been told."""


class Agent:
    """Made once a process. Every turn of every interface goes through `advance` or `decide`.

    `by` is who speaks or decides, from where it can't be typed; `clock` is Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        model: Model,
        platica: Platica,
        journal: Journal,
        clock: Callable[[], float] | None = None,
        locale: Language = "es",
    ) -> None:
        self.settings, self.model, self.platica, self.journal = settings, model, platica, journal
        self.gate = Gate(settings, platica, journal, clock=clock)
        self._locale: Language = locale
        self._transcripts: OrderedDict[str, Transcript] = OrderedDict()
        self._live: dict[str, str] = {}
        self._titles: dict[str, str] = {}
        self._context: tuple[float, dict[str, Json]] | None = None
        self._systems: dict[Language, bytes] = {}

    async def aclose(self) -> None:
        await self.model.aclose()
        await self.platica.aclose()
        await self.journal.aclose()

    def words(self, language: Language | None = None) -> Words:
        fixed = self.settings.language
        return words(fixed if fixed != "auto" else language or self._locale, self.settings.timezone)

    def words_of(self, session: str) -> Words:
        """The words of the language that this session is held in."""
        return self.words(self._language(session))

    async def advance(
        self,
        session: str,
        text: str | None,
        *,
        by: Identity | None = None,
        key: str | None = None,
        owner: str | None = None,
        hold: bool = False,
    ) -> AsyncGenerator[AgentEvent]:
        """A person's message, to the model's last word or to a card. `text` None goes on with what a crash left.

        `key` names a message that may come more than once: it has one turn. `owner` holds the session's lease already.
        `hold`: the caller gives that up, and finishes what `key` names, once it has shown what came of it.
        Raises nothing of ours: errors come as `Failed`, last.
        """
        by = by or Identity.os_user()
        # People paste keys into a chat; what comes in by this door stays in the journal and goes to the model.
        text = None if text is None else self.settings.redact(text.encode("utf-8", "replace").decode())
        first = None if text is None else self._said(text, by, key)
        keeps = key is not None or owner is not None
        try:
            if first is not None:
                await self._prepare(session, first, keyed=key is not None)
        except BaseException as error:
            if first is not None and (isinstance(error, AgentError) or not keeps):
                await self._withdraw(first)
            if not isinstance(error, AgentError):
                raise
            yield self._error(error, self.words_of(session))
            return
        turn = self._advance(session, first, by)
        guarded = self._guarded(session, turn, first, owner=owner or "", keeps=keeps, hold=key if hold else None)
        # Whoever stops listening ends the turn there and then, not when somebody collects it.
        async with contextlib.aclosing(guarded) as events:
            async for event in events:
                yield event

    async def decide(
        self,
        approval_id: str,
        decision: str,
        *,
        by: Identity | None = None,
        confirm: str | None = None,
        reason: str | None = None,
        interactive: bool = True,
        key: str | None = None,
        owner: str | None = None,
        decided: Callable[[], None] | None = None,
        language: Language | None = None,
    ) -> AsyncGenerator[AgentEvent]:
        """A person's decision on a card, and the turn that goes on from it. Anything but "approve" is a no.

        `key` and `owner` are the inbox's item and the lease of a caller that holds both to the end, as with `advance`;
        the item is taken by the decision. `decided` is called when that is on record, and nothing has run yet.
        """
        by = by or Identity.os_user()
        reason = reason and self.settings.redact(reason)
        hold, owner = None if owner is None else key, owner or make_owner()
        held: list[Transcript] = []

        def lease(tx: Transaction, conversation: str) -> bool:
            # Read anew: what is in memory belongs to whoever has the conversation now.
            known = Transcript(language=self._locale)
            held.extend([known] if self._take(tx, conversation, owner, known, None) is None else [])
            if hold is not None:
                self._take_decision(tx, conversation, hold, known if held else None)
            return bool(held)

        deciding = asyncio.ensure_future(
            self.gate.decide(
                approval_id, decision, by=by, confirm=confirm, reason=reason, interactive=interactive, also=lease
            )
        )
        try:
            approval = await asyncio.shield(deciding)
        except AgentError as error:
            yield self._error(error, self.words(language))
            return
        except asyncio.CancelledError:
            await shielded(self._undecide(deciding, owner))
            raise
        if decided is not None:
            decided()
        if approval.state == "pending":
            for event in self._one_more(approval, self.words(language)):
                yield event
            return
        # Where the lease had to be waited for, others may have run it since it was read.
        turn = self._resume(approval, by, fresh=bool(held))
        guarded = self._guarded(approval.conversation, turn, owner=owner, held=held, hold=hold)
        try:
            async with contextlib.aclosing(guarded) as events:
                async for event in events:
                    yield event
        finally:
            await self.gate.forget(approval)

    @staticmethod
    def _one_more(approval: Approval, words: Words) -> Sequence[AgentEvent]:
        """What is said to somebody who approved, while another person has to approve it, too."""
        text = words.say("turn.one_more", approval=approval.id, needed=approval.needed)
        return Text(text), Reply(text)

    async def ask_anew(
        self,
        approval_id: str,
        arguments: Mapping[str, Json] | None = None,
        *,
        by: Identity,
        key: str | None = None,
        owner: str | None = None,
    ) -> AsyncGenerator[AgentEvent]:
        """A card in place of one that waits, with other arguments; or of one that nobody answered, with the same.

        `key` and `owner` are as with `decide`.
        """
        approval = await self.journal.read(lambda tx: tx.approval(approval_id))
        if approval is None:
            yield self._error(DecisionRefused("unknown", approval=approval_id), self.words())
            return
        turn = self._ask_anew(approval, arguments, by)
        hold = None if owner is None else key
        async with contextlib.aclosing(
            self._guarded(approval.conversation, turn, owner=owner or "", hold=hold)
        ) as events:
            async for event in events:
                yield event

    async def _ask_anew(
        self, approval: Approval, arguments: Mapping[str, Json] | None, by: Identity
    ) -> AsyncGenerator[AgentEvent]:
        session = approval.conversation
        transcript = self._transcripts[session]
        if approval.calls[0]["id"] not in {call.id for call in transcript.open}:
            raise DecisionRefused("superseded", approval=approval.id)
        asked = await self.gate.ask_anew(approval, arguments, by=by, also=self._parting(session, transcript))
        if isinstance(asked, Outcome):
            raise CallNotDone(text=self.line(asked, self._language(session)))
        yield self._asked(session, asked)

    @staticmethod
    def _take_decision(tx: Transaction, conversation: str, key: str, known: Transcript | None) -> None:
        """Part of the commit of a decision: from here on its item goes on with the turn, and never decides again."""
        item = tx.item(key)
        if known is None or item is None:
            raise SessionBusy(session=conversation)
        tx.take(item.id, known.last)

    async def _undecide(self, deciding: "asyncio.Future[Approval]", owner: str) -> None:
        """Whoever stops while a decision is being stored stops what it would have begun."""
        with contextlib.suppress(AgentError):
            approval = await deciding

            def undo(tx: Transaction) -> None:
                tx.move(approval.id, "approved", "refused")
                tx.release(approval.conversation, owner)

            await self.journal.write(undo)
            await self.gate.forget(approval)

    async def call(
        self, session: str, tool: str, arguments: str, *, by: Identity | None = None
    ) -> AsyncGenerator[AgentEvent]:
        """One operation without a model, through the same gate and journal. An invalid call changes nothing."""
        by = by or Identity.os_user()
        # What comes in stays in the journal, whatever the door.
        arguments = self.settings.redact(arguments)
        try:
            parse(tool, arguments, self.gate.reading())
        except InvalidCall as error:
            yield self._error(error, self.words())
            return
        turn = self._call(session, tool, arguments, by)
        async with contextlib.aclosing(self._guarded(session, turn)) as events:
            async for event in events:
                yield event

    # One conversation at a time.

    async def _guarded(
        self,
        session: str,
        turn: AsyncGenerator[AgentEvent],
        first: First | None = None,
        *,
        owner: str = "",
        held: Sequence[Transcript] = (),
        keeps: bool = False,
        hold: str | None = None,
    ) -> AsyncGenerator[AgentEvent]:
        """The turn under the conversation's lease, with its errors as events. `first` is what a message begins with;
        `held` is the transcript where `owner` has the lease already; `keeps`: a turn that is stopped is begun again.
        `hold` names the inbox's item of a caller that keeps it, and the lease, to itself."""
        owner = owner or make_owner()
        beat, transcript = None, Transcript(hold=hold)
        last: list[AgentEvent] = []
        try:
            try:
                if held:
                    self._keep(session, held[0])
                else:
                    await self._lease(session, owner, first)
                beat, transcript = _Beat(self.journal, session, owner), self._transcripts[session]
                self._live[session], transcript.parted, transcript.hold = owner, False, hold
                async with contextlib.aclosing(turn):
                    async for event in turn:
                        # A card or a last word is shown once it is stored and the conversation is free again.
                        if isinstance(event, (ApprovalAsked, Reply)):
                            last.append(event)
                        else:
                            yield event
            except AgentError as error:
                failure = self._error(error, self.words_of(session))
                yield failure
                # Whoever has taken the conversation over goes on with what it holds.
                taken_over = keeps and isinstance(error, SessionBusy)
                raise _Ended(taken_over, failure.message) from None
        except _Ended as ended:
            taken_over, told = ended.args
            over = () if taken_over or hold else self._over(transcript, first, keeps, failed=True)
            await self._release(session, owner, beat, transcript, failed=True, over=over, told=told)
        except BaseException as error:
            over = () if hold else self._over(transcript, first, keeps, failed=False)
            stopped = isinstance(error, (asyncio.CancelledError, GeneratorExit)) and not keeps
            told = self.words_of(session).say("screen.stopped") if stopped else ""
            await self._release(session, owner, beat, transcript, failed=True, over=over, told=told)
            raise
        else:
            try:
                await self._release(session, owner, beat, transcript, failed=False)
            except AgentError as error:
                yield self._error(error, self.words_of(session))
                return
        for event in last:
            yield event

    async def _release(
        self,
        session: str,
        owner: str,
        beat: "_Beat | None",
        transcript: Transcript,
        *,
        failed: bool,
        over: Sequence[str] = (),
        told: str = "",
    ) -> None:
        """Stores what is left of the turn and gives the conversation up, in one commit. `over` are keys of messages
        that failed or were stopped, `told` is what whoever said them has been told: it isn't gone on with."""
        if beat is not None:
            beat.cancel()
        if self._live.get(session) == owner:
            del self._live[session]
        # What is in memory may be ahead of what could be stored.
        if failed:
            self._forget(session, transcript)
        elif transcript.parted and not (transcript.unsaved or transcript.taken or transcript.done):
            return

        def end(tx: Transaction) -> None:
            transcript.save(session, tx)
            tx.finish([item.id for item in map(tx.item, over) if item is not None])
            # Where the caller finishes, it is the caller who may begin again, too.
            if told and transcript.hold is None and transcript.messages and tx.owner(session) == owner:
                tx.append(session, [_end_of_turn(transcript, told)])
            if transcript.hold is None:
                tx.release(session, owner)

        try:
            await self.journal.write(end)
        except AgentError:
            self._forget(session, transcript)
            if transcript.hold is None:
                with contextlib.suppress(AgentError):
                    await self.journal.write(lambda tx: tx.release(session, owner))
            if not failed:
                raise

    def _forget(self, session: str, transcript: Transcript) -> None:
        """Another turn may have put its own there meanwhile."""
        if self._transcripts.get(session) is transcript:
            del self._transcripts[session]

    @staticmethod
    def _over(transcript: Transcript, first: First | None, keeps: bool, *, failed: bool) -> list[str]:
        """Keys of what ends with a turn that `failed` or was stopped: only of what its own person has been told.

        What `keeps` is begun again by whoever comes next, unless it failed.
        """
        mine, at_work = first.key if first is not None and first.stored else "", transcript.working
        if at_work and (first is None or at_work == mine):
            return [at_work] if failed or not keeps else []
        return [mine] if mine and not at_work and not keeps else []

    async def _lease(self, session: str, owner: str, first: First | None) -> None:
        """Waits for the conversation while another turn works on it, and reads what that turn wrote.

        Where nothing is left open there, the new message is stored in the same commit.
        """
        for _ in range(int(LEASE * 2 / 0.2)):
            # Looked up each time: a turn that failed has thrown its transcript away, and one that lives keeps its own.
            known = Transcript(language=self._locale) if session in self._live else self._known(session)
            take = partial(self._take, session=session, owner=owner, known=known, first=first)
            if await self.journal.write(take) is None:
                self._keep(session, known)
                return
            await asyncio.sleep(0.2)
        raise SessionBusy(session=session)

    @staticmethod
    def _take(tx: Transaction, session: str, owner: str, known: Transcript, first: First | None) -> str | None:
        """Part of a commit: the lease, and what others wrote meanwhile. Otherwise who has the conversation."""
        if not tx.lease(session, owner, first.text if first is not None else ""):
            if first is not None and not first.stored:
                first.store(session, tx)
            other = tx.owner(session) or ""
            if is_dead(other):
                tx.release(session, other)
            return other
        for event in tx.events(session, known.last):
            known.take(event)
        waiting = tx.waiting(session)
        known.queue = [*takewhile(_is_message, waiting)]
        if first is None:
            return None
        if not (waiting or known.open or first.stored):
            # The usual case: the event is the record, and nothing has to wait.
            known.add(*first.events(known))
            known.save(session, tx)
            return None
        if not first.stored:
            first.store(session, tx)
            waiting = tx.waiting(session)
        known.queue = [*takewhile(_is_message, waiting)]
        keys = [item.key for item in known.queue]
        if first.key in [item.key for item in waiting[len(keys) :]]:
            # A click came before it, which belongs to whoever takes clicks.
            tx.release(session, owner)
            return owner
        if keys == [first.key] and known.queue[0].seq is None and not known.open:
            known.add(*first.events(known))
            known.taken.append((known.queue[0].id, known.last))
            known.queue = [replace(known.queue[0], seq=known.last)]
            known.save(session, tx)
            return None
        # What came later has somebody of its own who waits for it.
        known.queue = known.queue[: keys.index(first.key) + 1] if first.key in keys else []
        return None

    def _known(self, session: str) -> Transcript:
        return self._transcripts.get(session) or Transcript(language=self._locale)

    def _keep(self, session: str, known: Transcript) -> None:
        self._transcripts[session] = known
        self._transcripts.move_to_end(session)
        while len(self._transcripts) > _KEEP:
            self._transcripts.popitem(last=False)

    def _language(self, session: str) -> Language:
        transcript = self._transcripts.get(session)
        return transcript.language if transcript else self._locale

    def _error(self, error: AgentError, words: Words) -> Failed:
        message, hint = words.error(error)
        return Failed(error.code, message, hint)

    # A turn.

    def _said(self, text: str, by: Identity, key: str | None = None) -> First:
        now = self.gate.reading().now.astimezone(self.settings.zone)
        body = {"text": text, "by": [by.kind, by.id, by.name]}
        return First(text, by.key, now, self.settings.timezone, {}, key or f"said:{secrets.token_hex(8)}", body)

    async def _prepare(self, session: str, first: First, *, keyed: bool) -> None:
        """Reads what a session begins with. What may come twice, or would wait for the network, is stored before.

        Of any other message the event itself is the record, in the commit that takes the session.
        """
        known = self._transcripts.get(session)
        begins = known is None or not known.day
        if keyed or (begins and not self._workspace_is_fresh()):
            await self.journal.write(lambda tx: first.store(session, tx))
        if begins:
            first.workspace = await self._workspace()

    async def _withdraw(self, first: First) -> None:
        """Whoever said it has been told that it failed, or has stopped it."""

        def finish(tx: Transaction) -> None:
            tx.finish([item.id for item in [tx.item(first.key)] if item is not None])

        if first.stored:
            with contextlib.suppress(AgentError):
                await shielded(self.journal.write(finish))

    async def _advance(self, session: str, first: First | None, by: Identity) -> AsyncGenerator[AgentEvent]:
        transcript = self._transcripts[session]
        queue, transcript.queue = transcript.queue, []
        if not queue and first is not None and first.stored:
            # Somebody else has given it its turn.
            async for event in self._shown_again(session, first):
                yield event
            return
        for item in queue:
            try:
                async for event in self._work(session, transcript, item):
                    yield event
            except (ApiError, ModelError, StepLimitExceeded):
                if first is None or item.key == first.key:
                    raise
                # It is of somebody else, who is told in its own time; whoever speaks now has their turn.
                await self._postpone(session, transcript, item)
        if queue or not transcript.messages or _is_reply(transcript.messages[-1]):
            return
        told = await self._told_of_end(session, transcript) if first is None else ""
        rest = self._bring_to_end(session, transcript, by, told) if told else self._think(session, transcript, by)
        async for event in rest:
            yield event

    async def _told_of_end(self, session: str, transcript: Transcript) -> str:
        """What a person was told of the last turn, where they stopped it or it failed: nothing of it begins by itself.
        Empty where a crash has interrupted it, or where a card of it waits."""
        (last,) = await self.journal.read(lambda tx: tx.events(session, transcript.last - 1))
        told = str(from_json(last.body)["answer"]) if last.kind == "aside" and last.by == _TURN else ""
        return "" if told and await self._waiting(session) else told

    async def _bring_to_end(
        self, session: str, transcript: Transcript, by: Identity, told: str
    ) -> AsyncGenerator[AgentEvent]:
        """Answers the calls of a turn that is over: how what was begun has ended, and that the rest wasn't."""
        if not transcript.open:
            return
        async for event in self._open_calls(session, transcript, by, moved_on=True):
            yield event
        transcript.add(_end_of_turn(transcript, told))

    async def _postpone(self, session: str, transcript: Transcript, item: Item) -> None:
        transcript.working = ""

        def later(tx: Transaction) -> None:
            transcript.save(session, tx)
            tx.postpone(item.id, 60.0 * (item.tries + 1))

        await self.journal.write(later)

    async def _work(self, session: str, transcript: Transcript, item: Item) -> AsyncGenerator[AgentEvent]:
        """The turn of a message that had to wait, or that a crash has interrupted."""
        by, transcript.working = Identity(*item.body["by"]), item.key
        if item.seq is None:
            first = self._said(str(item.body["text"]), by)
            first.workspace = {} if transcript.day else await self._workspace()
            if transcript.open:
                if (stay := await self._stays(session, first.text, by)) is not None:
                    async for event in self._stay(session, transcript, item, stay, by):
                        yield event
                    return
                await self.gate.supersede(session)
                async for event in self._open_calls(session, transcript, by, moved_on=True):
                    yield event
            transcript.add(*first.events(transcript))
            transcript.taken.append((item.id, transcript.last))
            await self.journal.write(self._saving(session, transcript))
        if not _is_reply(transcript.messages[-1]):
            async for event in self._think(session, transcript, by):
                yield event
        transcript.finish(item)

    async def _stay(
        self, session: str, transcript: Transcript, item: Item, answer: str, by: Identity
    ) -> AsyncGenerator[AgentEvent]:
        """Answers what was said beside a card, and shows the card again."""
        transcript.add(event_of(transcript, "aside", {"content": item.body["text"], "answer": answer}, by.key))
        transcript.taken.append((item.id, transcript.last))
        transcript.finish(item)
        yield Text(answer)
        yield Reply(answer)
        for approval in await self._waiting(session):
            if approval.requested_by == by.key:
                yield self._asked(session, approval)

    async def _shown_again(self, session: str, first: First) -> AsyncGenerator[AgentEvent]:
        """What the turn of a message ended on that somebody else has run: its last word, or its card."""

        def read(tx: Transaction) -> list[Event]:
            item = tx.item(first.key)
            return tx.events(session, item.seq - 1) if item is not None and item.seq is not None else []

        found = await self.journal.read(read)
        turn = [e.body.encode() for e in takewhile(lambda e: e.kind not in ("context", "user"), found[1:])]
        text = ""
        if found and found[0].kind == "aside":
            text = str(from_json(found[0].body)["answer"])
        elif turn and _is_reply(turn[-1]):
            text = str(from_json(turn[-1])["content"] or "")
        if text:
            yield Text(text)
            yield Reply(text)
        for approval in await self._waiting(session):
            yield self._asked(session, approval)

    async def _stays(self, session: str, text: str, by: Identity) -> str | None:
        """Why a message leaves a waiting card alone: a bare yes or no, or somebody else's message."""
        waiting = await self._waiting(session)
        said = self.words_of(session)
        if waiting and any(approval.requested_by != by.key for approval in waiting):
            return said.say("turn.other_person_waits", approval=waiting[0].id)
        if waiting and re.sub(r"[^\w ]", "", fold(text)).strip() in _BARE_ANSWERS:
            return said.say("turn.decide_on_card", approval=waiting[0].id)
        return None

    async def _waiting(self, session: str) -> list[Approval]:
        found = await self.journal.read(lambda tx: tx.approvals(conversation=session, states=("pending",)))
        return [a for a in [await self.gate.settle(a) for a in found] if a.state == "pending"]

    async def _resume(self, approval: Approval, by: Identity, *, fresh: bool) -> AsyncGenerator[AgentEvent]:
        session = approval.conversation
        transcript = self._transcripts[session]
        ids = {call["id"] for call in approval.calls}
        if not ids & {call.id for call in transcript.open}:
            # Somebody who held the conversation has run it and gone on already.
            async for event in self._told(session, approval):
                yield event
            return
        async for event in self._think(session, transcript, by, decided=approval if fresh else None):
            yield event

    async def _told(self, session: str, approval: Approval) -> AsyncGenerator[AgentEvent]:
        for event in await self.journal.read(lambda tx: tx.events(session)):
            if event.kind != "tool":
                continue
            message = from_json(event.body)
            if message["tool_call_id"] in {call["id"] for call in approval.calls}:
                content = from_json(message["content"])
                line = content.get("fact") or content.get("message") or ""
                ok = content["outcome"] == Kind.DONE.value
                yield ToolResult(message["tool_call_id"], approval.tool, ok, content["outcome"], line, content)

    async def _call(self, session: str, tool: str, arguments: str, by: Identity) -> AsyncGenerator[AgentEvent]:
        transcript = self._transcripts[session]
        for approval in await self._waiting(session):
            if approval.requested_by != by.key:
                raise DecisionRefused("waits", approval=approval.id)
        await self.gate.supersede(session)
        async for event in self._open_calls(session, transcript, by, moved_on=True):
            yield event
        call = Call(self._call_id(transcript, "", 0), tool, arguments)
        said = {"role": "user", "content": CALLED + tool}
        transcript.add(event_of(transcript, "user", said, by.key))
        transcript.add(event_of(transcript, "assistant", assistant_message("", [call]), BY_HAND))
        yield ToolCalled(call.id, call.name, _arguments(call))
        async for event in self._open_calls(session, transcript, by):
            yield event
            if isinstance(event, ToolResult) and not event.ok:
                # No model will explain it, so that the call itself ends as an error.
                _, hint = self.words_of(session).error(CallNotDone(text=event.line))
                yield Failed(str(event.content.get("error") or f"call_{event.outcome}"), event.line, hint)

    async def _think(
        self, session: str, transcript: Transcript, by: Identity, *, decided: Approval | None = None
    ) -> AsyncGenerator[AgentEvent]:
        """Model, tools, model, ... until it speaks without calling, a card waits, or the steps are used up.

        `decided` is an approval that was read with its decision just now.
        """
        async for event in self._open_calls(session, transcript, by, decided=decided):
            yield event
        if transcript.open or transcript.by_hand:
            return
        for _ in range(self.settings.step_limit):
            completion = Completion()
            transcript.trim(self.settings.context_bytes)
            async for piece in self.model.complete(self._messages(session, transcript)):
                if isinstance(piece, str):
                    yield Text(piece)
                else:
                    completion = piece
            if completion.usage:
                yield Usage(completion.usage)
            calls = self._with_ids(transcript, completion.calls)
            if not calls:
                async for event in self._finish(session, transcript, completion):
                    yield event
                return
            message = event_of(transcript, "assistant", assistant_message(completion.text, calls), self.model.name)
            async for event in self._step(session, transcript, message, calls, by):
                yield event
            if transcript.open:
                return
        raise StepLimitExceeded(limit=self.settings.step_limit)

    async def _finish(self, session: str, transcript: Transcript, completion: Completion) -> AsyncGenerator[AgentEvent]:
        text = completion.text.strip()
        said = self.words_of(session)
        if not text:
            text = said.say("turn.empty_answer")
            yield Text(text)
        elif completion.finish == "length":
            yield Text("\n" + said.say("turn.cut_short"))
        transcript.add(event_of(transcript, "assistant", assistant_message(text, []), self.model.name))
        yield Reply(text)

    async def _step(
        self, session: str, transcript: Transcript, message: Event, calls: Sequence[Call], by: Identity
    ) -> AsyncGenerator[AgentEvent]:
        """One answer of the model's that calls tools. Reads wait for the next commit: a crash only repeats them."""
        parsed = [self._parse(call) for call in calls]
        if all(isinstance(p, Outcome) or p.risk is Risk.READ for p in parsed):
            for call in calls:
                yield ToolCalled(call.id, call.name, _arguments(call))
            outcomes = await self._read_all(calls, parsed)
            transcript.add(message)
            for call, outcome in zip(calls, outcomes, strict=True):
                yield self._record_one(session, transcript, call, outcome)
            return
        transcript.add(message)
        for call in calls:
            yield ToolCalled(call.id, call.name, _arguments(call))
        async for event in self._open_calls(session, transcript, by, new={call.id for call in calls}):
            yield event

    async def _open_calls(
        self,
        session: str,
        transcript: Transcript,
        by: Identity,
        *,
        new: Collection[str] = (),
        decided: Approval | None = None,
        moved_on: bool = False,
    ) -> AsyncGenerator[AgentEvent]:
        """Answers the calls that lack an answer, in their order, until one waits for a person.

        `new` are ids of calls that were just made, so that nothing can be on record of them. `moved_on`: a new message
        has come, so that nothing new is begun; what was begun is brought to its end.
        """
        # Whoever approves a step of a turn, or goes on with it after a crash, has not asked for the next one.
        by = Identity.of(transcript.asker) if transcript.asker else by
        while transcript.open:
            head, count = transcript.open[0], len(transcript.open)
            if reads := [*takewhile(self._is_read, transcript.open)]:
                outcomes = await self._read_all(reads, [self._parse(call) for call in reads])
                async for event in self._record(session, transcript, list(zip(reads, outcomes, strict=True))):
                    yield event
                continue
            approval: Approval | None = None
            if decided is not None and head.id == decided.calls[0]["id"]:
                approval, decided = decided, None
            elif head.id not in new:
                approval = await self._approval_of(session, head)
            if approval is not None:
                steps = self._decided(session, transcript, head, approval, by, moved_on)
            elif (outcome := await self._ungated(session, transcript, head, by, moved_on)) is not None:
                steps = self._record(session, transcript, [(head, outcome)])
            else:
                steps = self._propose(session, transcript, head, by)
            asked = False
            async with contextlib.aclosing(steps):
                async for event in steps:
                    asked = asked or isinstance(event, ApprovalAsked)
                    yield event
            if asked or len(transcript.open) == count:
                return

    async def _ungated(
        self, session: str, transcript: Transcript, head: Call, by: Identity, moved_on: bool
    ) -> Outcome | None:
        """The outcome of a call that needs no person, or that nobody is asked about. None: a person must decide."""
        parsed = self._parse(head)
        if (early := self._early(transcript, head, parsed)) is not None:
            return early
        assert isinstance(parsed, Operation)
        if parsed.risk is Risk.WRITE:
            call = Pending(head.id, parsed)
            if moved_on:
                return await self.gate.written(call, conversation=session) or Outcome(Kind.SUPERSEDED, head.name)
            also = self._saving(session, transcript)
            return await self.gate.write(call, conversation=session, by=by, also=also)
        return Outcome(Kind.SUPERSEDED, head.name) if moved_on else None

    async def _decided(
        self, session: str, transcript: Transcript, head: Call, approval: Approval, by: Identity, moved_on: bool
    ) -> AsyncGenerator[AgentEvent]:
        """A call with an approval: it waits on, runs now that it was approved, or is told how it ended."""
        stored = next(call["arguments"] for call in approval.calls if call["id"] == head.id)
        approval = await self.gate.settle(approval)
        ended = await self.gate.recover(approval, Pending(head.id, parse_stored(approval.tool, stored)))
        if ended is None and moved_on and approval.state == "approved":
            ended = await self.gate.abandon(approval, Pending(head.id, parse_stored(approval.tool, stored)))
        if ended is not None:
            async for event in self._record(session, transcript, [(head, _told_of_change(ended, approval))]):
                yield event
            return
        if approval.state == "pending":
            yield self._asked(session, approval)
        if approval.state != "approved":
            return
        calls = {call.id: call for call in transcript.open}
        async for ids, result in self.gate.execute(approval):
            if isinstance(result, Approval):
                yield self._asked(session, result)
                return
            told = _told_of_change(result, approval)
            async for event in self._record(session, transcript, [(calls[i], told) for i in ids]):
                yield event

    async def _propose(
        self, session: str, transcript: Transcript, head: Call, by: Identity
    ) -> AsyncGenerator[AgentEvent]:
        batch = self._batch(transcript, head)
        read: asyncio.Queue[int] = asyncio.Queue()
        task = asyncio.create_task(
            self.gate.propose(
                batch, conversation=session, by=by, progress=read.put_nowait, also=self._parting(session, transcript)
            )
        )
        try:
            async for count in _until(task, read):
                yield Progress(count)
            proposed = await task
        finally:
            # A stream that is closed while an audience is read must not leave a card that nobody saw.
            task.cancel()
        if isinstance(proposed, Outcome):
            # One bad removal must not take the others with it: only the first is answered, the rest is tried again.
            bad = head if len(batch) == 1 else self._blamed(transcript, batch, proposed)
            async for event in self._record(session, transcript, [(bad, proposed)]):
                yield event
            return
        yield self._asked(session, proposed)

    def _batch(self, transcript: Transcript, head: Call) -> list[Pending]:
        """Adjacent removals from one campaign are one card; anything else stands alone."""
        first = self._parse(head)
        assert isinstance(first, Operation)
        batch = [Pending(head.id, first)]
        if not isinstance(first, RemoveCampaignAudienceClient):
            return batch
        for call in transcript.open[1:]:
            operation = self._parse(call)
            if not isinstance(operation, RemoveCampaignAudienceClient) or operation.campaign != first.campaign:
                break
            if any(p.operation == operation for p in batch) or self._early(transcript, call, operation) is not None:
                break
            batch.append(Pending(call.id, operation))
        return batch

    def _blamed(self, transcript: Transcript, batch: Sequence[Pending], outcome: Outcome) -> Call:
        phone = outcome.data.get("phone")
        blamed = next((p for p in batch if p.operation.arguments().get("phoneNumber") == phone), batch[0])
        return next(call for call in transcript.open if call.id == blamed.call_id)

    def _asked(self, session: str, approval: Approval) -> ApprovalAsked:
        return self.asked(approval, self._language(session))

    def asked(self, approval: Approval, language: Language | None = None) -> ApprovalAsked:
        """The card of a stored approval; any interface may show it at any time."""
        preview = Preview.load(approval.preview)
        rule = {"needed": approval.needed, "own": approval.own, "who": named(approval.deciders)}
        card = self.words(language).card(preview, approval=approval.id, expires_at=approval.expires_at, rule=rule)
        arguments = [call["arguments"] for call in approval.calls]
        return ApprovalAsked(
            approval.id,
            approval.tool,
            arguments[0] if len(arguments) == 1 else arguments,
            {key: value for key, value in approval.preview.items() if key not in ("members", "people")},
            [*card.warnings, *card.folded],
            approval.expires_at,
            preview.confirm,
            card,
        )

    # Calls and their answers.

    def _parse(self, call: Call) -> Operation | Outcome:
        try:
            operation = parse(call.name, call.arguments, self.gate.reading())
        except InvalidCall as error:
            return Outcome(Kind.INVALID, call.name, {"problem": error.problem})
        return operation

    def _is_read(self, call: Call) -> bool:
        parsed = self._parse(call)
        return isinstance(parsed, Operation) and parsed.risk is Risk.READ

    def _early(self, transcript: Transcript, call: Call, parsed: Operation | Outcome) -> Outcome | None:
        """What needs no request and no person: invalid, refused here, behind a failed step, or tried already."""
        if transcript.failed_step and (isinstance(parsed, Outcome) or parsed.risk is not Risk.READ):
            return Outcome(Kind.NOT_RUN, call.name, {"code": "earlier_step"})
        if isinstance(parsed, Outcome):
            return parsed
        if any(self._parse(stopped) == parsed for stopped in transcript.stopped):
            return Outcome(Kind.REFUSED, call.name, {"code": "same_again"})
        return self.gate.refuse(parsed)

    async def _read_all(self, calls: Sequence[Call], parsed: Sequence[Operation | Outcome]) -> list[Outcome]:
        if len(calls) == 1:
            return [await self._read(calls[0], parsed[0])]
        return await asyncio.gather(*(self._read(call, p) for call, p in zip(calls, parsed, strict=True)))

    async def _read(self, call: Call, parsed: Operation | Outcome) -> Outcome:
        if isinstance(parsed, Outcome):
            return parsed
        try:
            answer = await self.platica.request(parsed.request())
        except ApiError as error:
            return failed(call.name, error)
        self._learn_titles(answer.body)
        return Outcome(Kind.DONE, call.name, {}, dict(answer.body))

    def _learn_titles(self, body: Mapping[str, Any]) -> None:
        for group in body.get("workspaces") or []:
            for record in (group.get("campaigns") if isinstance(group, dict) else None) or []:
                if isinstance(record, dict) and record.get("title"):
                    self._titles[str(record.get("id"))] = str(record["title"])

    async def _record(
        self, session: str, transcript: Transcript, answers: Sequence[tuple[Call, Outcome]]
    ) -> AsyncGenerator[AgentEvent]:
        for call, outcome in answers:
            yield self._record_one(session, transcript, call, outcome)

    def _record_one(self, session: str, transcript: Transcript, call: Call, outcome: Outcome) -> ToolResult:
        body, shown = self._answer(session, call, outcome)
        transcript.add(event_of(transcript, "tool", body, None))
        return shown

    def _answer(self, session: str, call: Call, outcome: Outcome) -> tuple[dict[str, Json], ToolResult]:
        """A tool message for the model and the same for a person."""
        content: dict[str, Json] = {"outcome": outcome.kind.value}
        line = self.line(outcome, self._language(session))
        if line:
            content["fact" if outcome.kind is Kind.DONE else "message"] = line
        if outcome.data.get("code") in ("nobody_has_phone", "audience_empty_already"):
            content["removedCount"] = 0
        if "error" in outcome.data:
            content["error"] = outcome.data["error"]
        if "changed" in outcome.data:
            content["changed_by_a_person_to"] = outcome.data["changed"]
        if outcome.kind is Kind.DENIED and outcome.data.get("reason"):
            content["reason"] = outcome.data["reason"]
        if outcome.result is not None:
            content["result"] = outcome.result
        text, shown = fit(content)
        body = {"role": "tool", "tool_call_id": call.id, "content": text}
        ok = outcome.kind is Kind.DONE
        return body, ToolResult(call.id, call.name, ok, outcome.kind.value, line, shown, outcome.result)

    def line(self, outcome: Outcome, language: Language) -> str:
        """What happened, in one line that code renders. Empty for a read that went well."""
        said = self.words(language)
        if outcome.kind is Kind.DONE and outcome.tool.startswith(("get_", "list_")):
            return ""
        known = {"reason": None, "text": "", "status": None, "problem": "", "fewer": False}
        data: dict[str, Any] = {**known, **outcome.data}
        campaign = data.get("campaign")
        if data.get("title") and campaign:
            # Of one that was just created nobody has seen a list yet.
            self._titles[str(campaign)] = str(data["title"])
        data["name"] = data.get("title") or self._titles.get(str(campaign)) or campaign or "?"
        if "code" in data and said.has(f"refusal.{data['code']}"):
            data["text"] = said.refusal(str(data["code"]), data)
        return said.outcome(outcome.tool, outcome.kind.value, {k: v for k, v in data.items() if k != "tool"})

    async def _approval_of(self, session: str, call: Call) -> Approval | None:
        return await self.journal.read(lambda tx: tx.approval_of(session, call.id))

    # Messages.

    def _messages(self, session: str, transcript: Transcript) -> list[bytes]:
        language = self._language(session)
        if language not in self._systems:
            text = self.words(language).system(read_only=self.settings.read_only)
            self._systems[language] = to_json({"role": "system", "content": text})
        return [self._systems[language], *transcript.messages]

    async def _workspace(self) -> dict[str, Json]:
        """Channels and templates, at most 50 each. They may be a minute old: previews read their own."""
        loop = asyncio.get_running_loop()
        if self._context is None or not self._workspace_is_fresh():
            # A database that can't be used is told before anything else is tried.
            await self.journal.open()
            reads = (_listed(self.platica.channels()), _listed(self.platica.templates()))
            # To the end of both: what goes on beside an error meets connections that are being closed.
            found: tuple[Any, Any] = await asyncio.gather(*reads, return_exceptions=True)
            for error in found:
                if isinstance(error, BaseException):
                    raise error
            channels, templates = found
            data: dict[str, Json] = {}
            data["channels"] = channels if isinstance(channels, str) else [_channel(c) for c in channels[:50]]
            data["templates"] = templates if isinstance(templates, str) else [_template(t) for t in templates[:50]]
            self._context = loop.time(), data
        return self._context[1]

    def _workspace_is_fresh(self) -> bool:
        return self._context is not None and asyncio.get_running_loop().time() - self._context[0] <= 60.0

    @staticmethod
    def _saving(session: str, transcript: Transcript) -> Callable[[Transaction], None]:
        """For a commit of the gate's: what was said so far goes on record with what comes of it."""
        return lambda tx: transcript.save(session, tx)

    def _parting(self, session: str, transcript: Transcript) -> Callable[[Transaction], None]:
        """For the commit of a card: the turn ends with it, so that the conversation is free in the same moment."""
        owner = self._live.get(session, "")

        def part(tx: Transaction) -> None:
            transcript.save(session, tx)
            # Where more waits for its turn, the turn goes on.
            if transcript.hold is None and not (transcript.working or transcript.queue):
                tx.release(session, owner)
                transcript.parted = True

        return part

    def _with_ids(self, transcript: Transcript, calls: Sequence[Call]) -> list[Call]:
        """The calls, each with an id that nothing else in this conversation has."""
        out: list[Call] = []
        for at, call in enumerate(calls):
            given = "" if any(call.id == other.id for other in out) else call.id
            # Endpoints refuse a history with any other name in it.
            name = re.sub(r"[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"
            out.append(Call(self._call_id(transcript, given, at), name, call.arguments))
        return out

    @staticmethod
    def _call_id(transcript: Transcript, given: str, at: int) -> str:
        """The model's id where it is new in this conversation; some servers count from zero in every answer."""
        usable = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given) and given not in transcript.ids
        return given if usable else f"call_{transcript.last + 1}_{at}"


def _told_of_change(outcome: Outcome, approval: Approval) -> Outcome:
    """The model is told of arguments that a person has changed: they aren't those of its call."""
    call = approval.calls[0]
    if not call.get("changed"):
        return outcome
    return replace(outcome, data={**outcome.data, "changed": call["arguments"]})


def _end_of_turn(transcript: Transcript, told: str) -> Event:
    """The mark of a turn that was stopped or has failed. It is nothing to the model."""
    return event_of(transcript, "aside", {"content": "", "answer": told}, _TURN)


def _is_message(item: Item) -> bool:
    return item.kind == "message"


def _is_reply(message: bytes) -> bool:
    return message.startswith(b'{"role":"assistant"') and b'"tool_calls":' not in message


def _arguments(call: Call) -> Json:
    try:
        return from_json(call.arguments or "{}")
    except ValueError:
        return call.arguments


async def _listed(reading: Any) -> Any:
    """The records, or why there are none. A wrong key or a dead host ends the turn: nothing else would work either."""
    try:
        return await reading
    except ApiUnreachable:
        raise
    except ApiRefused as error:
        if error.status == 401:
            raise
        return f"not readable with this key (HTTP {error.status})"
    except ApiError as error:
        return f"not readable now ({error.code})"


def _channel(channel: Any) -> dict[str, Json]:
    number = channel.displayPhoneNumber or channel.phoneNumber
    return {"id": channel.prefixedChannelId, "name": channel.name, "number": number, "connected": channel.isConnected}


def _template(template: Any) -> dict[str, Json]:
    data = {
        "name": template.name,
        "status": template.status,
        "category": template.category,
        "content": template.content,
    }
    if template.header:
        data["header"] = template.header
    if template.buttons:
        data["buttons"] = [button.model_dump(exclude_none=True) for button in template.buttons]
    return data


async def _until(task: "asyncio.Task[Any]", queue: "asyncio.Queue[int]") -> AsyncIterator[int]:
    """What comes through `queue` until `task` is done."""
    while not task.done():
        getter = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait({task, getter}, return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                yield getter.result()
        finally:
            getter.cancel()
