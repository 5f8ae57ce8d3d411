"""The work behind the Slack bot: claims threads, gives what waits in them its turn, and shows what comes of it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic_core import from_json

from agent.errors import AgentError, SessionBusy
from agent.events import AgentEvent, ApprovalAsked, Failed, Text, ToolCalled, ToolResult
from agent.gate import Identity
from agent.interfaces.slack_cards import GONE, Cards
from agent.interfaces.slack_people import People
from agent.interfaces.slack_posts import Posts
from agent.interfaces.slack_stream import Answer, Part, reply_key
from agent.interfaces.slack_text import section
from agent.interfaces.slack_web import REPAIRABLE, SlackRefused, SlackUnsure, Thread, Web
from agent.journal import DECIDING, LEASE, Item, Post, Transaction, make_owner
from agent.loop import Agent
from agent.prompts import Words, guess_language

log = logging.getLogger("agent.slack")

POLL = 1.0
"""Seconds between two looks for what other processes have stored or left."""
LOOK_WITHIN = 30.0
"""Seconds within which the worker looks into the database when both are well."""
_GIVE_UP = 6 * 3600.0
"""Seconds for which something is tried that fails for a reason which passes."""
_TRIES = 3
"""How often something is tried that fails for any other reason: its thread waits for it."""
WAITS = "⏸ "
"""Before what waits for a person, where nothing else was said."""
_NO_THREAD = {"message_not_found", "thread_not_found"}
"""Slack's words for a thread that somebody deleted."""
_NOBODY = GONE | _NO_THREAD | {"user_not_found", "user_not_in_channel"}
"""Slack's words for there being nobody to tell."""


class Lost(Exception):
    """Somebody else has the conversation now."""


@dataclass(slots=True)
class Work:
    """One item, with the lease of its conversation."""

    item: Item
    conversation: str
    owner: str
    by: Identity
    thread: Thread | None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def begun(self) -> bool:
        """A process before this one had begun with it."""
        return self.item.seq is not None


@dataclass(slots=True)
class Shown:
    """What a turn came to, beside its words."""

    asked: list[ApprovalAsked] = field(default_factory=list)
    failed: Failed | None = None


class Worker:
    """Turns of one process, several threads at a time, each thread's in the order in which it was spoken to."""

    def __init__(self, agent: Agent, web: Web, posts: Posts, cards: Cards, people: People) -> None:
        self._agent, self._web, self._posts, self._cards, self._people = agent, web, posts, cards, people
        self._slots = asyncio.Semaphore(agent.settings.slack_turns)
        self._fresh = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_work: dict[str, Work] = {}
        self._failures: dict[int, int] = {}
        self._looked_at = 0.0

    def wake(self, conversation: str, kind: str) -> None:
        """Something has been stored here just now."""
        self._fresh.set()
        if kind == "stop" and (work := self._at_work.get(conversation)) is not None:
            work.stop.set()
        if kind in DECIDING:
            # Its card shows that also while no slot is free for it.
            self._soon(self._cards.taken(conversation))

    def is_well(self) -> bool:
        """Whether it has looked into the database lately, or has its hands full."""
        return self._slots.locked() or asyncio.get_running_loop().time() - self._looked_at < LOOK_WITHIN

    async def run(self) -> None:
        """Until it is cancelled; then the turns under way are given up, and whoever comes next begins them again."""
        try:
            while True:
                await self._slots.acquire()
                owner = make_owner()
                conversation = await self._claim(owner)
                if conversation is None:
                    self._slots.release()
                    # Not asyncio.wait_for: of Python 3.11, it loses a cancellation that comes together with the event.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL):
                            await self._fresh.wait()
                    self._fresh.clear()
                    continue
                task = asyncio.create_task(self._work(conversation, owner))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._cards.aclose()

    async def _claim(self, owner: str) -> str | None:
        try:
            found = await self._agent.journal.write(lambda tx: tx.claim(owner, f"slack:{self._web.team}:"))
        except AgentError as error:
            log.error("the database can't be used: %s", error)
            await asyncio.sleep(POLL)
            return None
        self._looked_at = asyncio.get_running_loop().time()
        return found

    async def _work(self, conversation: str, owner: str) -> None:
        try:
            await self._first(conversation, owner)
        except Lost:
            log.info("%s belongs to another process now", conversation)
        except (SlackRefused, SlackUnsure, AgentError) as error:
            log.warning("%s: %s", conversation, error)
            await self._put_off(conversation, owner, error)
        except asyncio.CancelledError:
            with contextlib.suppress(AgentError):
                await self._agent.journal.write(lambda tx: tx.release(conversation, owner))
            raise
        except Exception as error:
            # At the edge: a fault of ours in one thread must not end the others.
            log.exception("%s", conversation)
            await self._put_off(conversation, owner, error)
        finally:
            self._slots.release()
            self._fresh.set()

    async def _put_off(self, conversation: str, owner: str, error: Exception) -> None:
        """Tried again later, with all that waits behind it; not for ever, and not where nobody is there to be told."""
        refusal = error.error if isinstance(error, SlackRefused) else ""
        passes = isinstance(error, (SlackUnsure, AgentError)) or getattr(error, "retry_after", None) is not None
        passes, nobody = passes or refusal in REPAIRABLE, refusal in _NOBODY
        if refusal in REPAIRABLE:
            log.error("Slack refuses what the app may do: %s. It is tried again until that is repaired", refusal)

        def later(tx: Transaction) -> Item | None:
            """The item that is given up, if it is."""
            waiting = tx.waiting(conversation)[:1]
            for item in waiting:
                self._failures[item.id] = self._failures.get(item.id, 0) + 1
                longer = tx.now() - item.at < _GIVE_UP and (passes or self._failures[item.id] < _TRIES)
                if nobody or not longer:
                    tx.finish([item.id])
                else:
                    tx.postpone(item.id, min(300.0, 0.5 * 2.0 ** self._failures[item.id]))
                    waiting = []
            tx.release(conversation, owner)
            return waiting[0] if waiting else None

        with contextlib.suppress(AgentError):
            lost = await self._agent.journal.write(later)
            if lost is not None:
                self._failures.pop(lost.id, None)
                log.error("%s is given up: %s", lost.key, error)
                if refusal not in _NO_THREAD:
                    await self._give_up(lost)

    async def _give_up(self, lost: Item) -> None:
        who, words = str(lost.body["by"][1]).rpartition("/")[2], self._words(str(lost.body.get("text", "")))
        thread = Thread.of(lost.conversation)
        await self._web.tell(who, thread, words.say("bot.given_up"))
        if thread is not None:
            await self._web.set_status(thread, await self._standing(lost.conversation))

    # One item.

    async def _first(self, conversation: str, owner: str) -> None:
        """The first item that waits in a conversation; the rest is claimed anew."""

        def look(tx: Transaction) -> list[Item]:
            # What came later must not overtake what is tried again.
            found = [] if tx.sleeps(conversation) else tx.waiting(conversation)
            if not found:
                tx.release(conversation, owner)
            return found

        waiting = await self._agent.journal.write(look)
        if not waiting:
            return
        item = waiting[0]
        work = Work(item, conversation, owner, Identity(*item.body["by"]), Thread.of(conversation))
        if any(one.kind == "stop" for one in waiting[1:]):
            work.stop.set()
        self._at_work[conversation] = work
        keeping = asyncio.create_task(self._keep(work))
        doing = asyncio.create_task(self._do(work))
        try:
            await asyncio.wait({keeping, doing}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                await keeping
            await doing
        finally:
            for task in (keeping, doing):
                task.cancel()
            await asyncio.gather(keeping, doing, return_exceptions=True)
            self._at_work.pop(conversation, None)

    async def _keep(self, work: Work) -> None:
        """Keeps the lease while the work lasts, and sees that somebody wants it stopped. Raises Lost."""
        beats = 0
        while True:
            await asyncio.sleep(POLL)
            beats += 1
            with contextlib.suppress(AgentError):
                waiting = await self._agent.journal.read(lambda tx: tx.waiting(work.conversation))
                if any(item.kind == "stop" for item in waiting):
                    work.stop.set()
                if beats % int(LEASE / 3 / POLL) == 0:
                    renew = partial(Transaction.renew, conversation=work.conversation, owner=work.owner)
                    if not await self._agent.journal.write(renew):
                        raise Lost

    async def _do(self, work: Work) -> None:
        kinds: dict[str, Callable[[Work], Coroutine[Any, Any, None]]] = {
            "message": self._message,
            "decision": self._decision,
            "edit": self._anew,
            "again": self._anew,
            "note": self._note,
            "card": self._card,
            "home": self._home,
            "stop": self._stop,
        }
        if (job := kinds.get(work.item.kind)) is not None:
            await job(work)
        await self._finish(work)

    async def _finish(self, work: Work) -> None:
        def end(tx: Transaction) -> None:
            done = [work.item.id]
            if work.stop.is_set():
                done += [item.id for item in tx.waiting(work.conversation) if item.kind == "stop"]
            tx.finish(done)
            tx.release(work.conversation, work.owner)

        await self._agent.journal.write(end)
        self._failures.pop(work.item.id, None)

    async def _message(self, work: Work) -> None:
        assert work.thread is not None
        item, text = work.item, str(work.item.body["text"])
        if item.body.get("files"):
            await self._say(work, work.thread, f"file:{item.key}", "bot.no_files")
        events = self._agent.advance(work.conversation, text, by=work.by, key=item.key, owner=work.owner, hold=True)
        await self._turn(work, work.thread, events, self._words(text))

    async def _note(self, work: Work) -> None:
        """An answer of our own, without a turn."""
        assert work.thread is not None
        await self._say(work, work.thread, f"note:{work.item.key}", str(work.item.body["say"]))

    async def _card(self, work: Work) -> None:
        """Of what asked elsewhere, in the language of the cards before it."""
        assert work.thread is not None
        posts = await self._agent.journal.read(lambda tx: tx.posts(conversation=work.conversation))
        known = [post.language for post in posts if post.language]
        await self._cards.ask_all(work.thread, self._cards.words(known[-1] if known else "").language)

    async def _home(self, work: Work) -> None:
        await self._cards.publish_home(str(work.item.body["user"]))

    async def _stop(self, work: Work) -> None:
        """Nothing runs that it could stop, whatever the thread's session shows: that is put right."""
        assert work.thread is not None
        await self._web.set_status(work.thread, await self._standing(work.conversation))

    async def _standing(self, conversation: str) -> Literal["active", "suspended"]:
        """What a thread's session is while nothing runs in it."""

        def look(tx: Transaction) -> bool:
            waiting = tx.approvals(conversation=conversation, states=("pending",))
            return any(one.expires_at > tx.now() for one in waiting)

        return "suspended" if await self._agent.journal.read(look) else "active"

    async def _decision(self, work: Work) -> None:
        assert work.thread is not None
        body, approval = work.item.body, str(work.item.body["approval"])
        cards = await self._agent.journal.read(lambda tx: tx.posts(approval=approval))
        words = self._cards.words(cards[0].language if cards else "")
        work.by = await self._people.known(body["by"], fresh=True)
        if work.begun:
            events = self._agent.advance(
                work.conversation, None, by=work.by, key=work.item.key, owner=work.owner, hold=True
            )
        else:
            events = self._agent.decide(
                approval,
                str(body["decision"]),
                by=work.by,
                confirm=body.get("confirm"),
                reason=body.get("reason"),
                key=work.item.key,
                owner=work.owner,
                decided=lambda: self._soon(self._cards.refresh(approval=approval)),
                language=words.language,
            )
        await self._turn(work, work.thread, events, words)

    async def _anew(self, work: Work) -> None:
        """A card with other arguments, or once more one that nobody answered."""
        assert work.thread is not None
        old, arguments = str(work.item.body["approval"]), work.item.body.get("arguments")
        post = await self._agent.journal.read(lambda tx: tx.post(f"card:{old}"))
        words = self._cards.words(post.language if post else "")
        work.by = await self._people.known(work.item.body["by"], fresh=True)
        shown, made = Shown(), await self._agent.journal.read(partial(_made_by, work=work))
        if not made:
            events = self._agent.ask_anew(old, arguments, by=work.by, key=work.item.key, owner=work.owner)
            await self._drain(events, None, shown, words)
        if shown.failed is not None:
            if shown.failed.code == SessionBusy.code:
                raise Lost
            await self._cards.judged(work.item.id, old)
            text = f"{shown.failed.message} {shown.failed.hint}"
            await self._web.tell(work.by.id.rpartition("/")[2], work.thread, text)
        await self._cards.ask_all(work.thread, words.language)
        if shown.failed is None and work.item.kind == "again":
            await self._cards.overtaken(old, work.by.key)
            await self._web.set_status(work.thread, "suspended")
        await self._cards.refresh(conversation=work.conversation)

    def _soon(self, job: Coroutine[Any, Any, None]) -> None:
        """Beside the turn; what fails is done by the next look at all cards."""

        async def safely() -> None:
            with contextlib.suppress(SlackRefused, SlackUnsure, AgentError):
                await job

        task = asyncio.create_task(safely())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say(self, work: Work, thread: Thread, key: str, sentence: str) -> None:
        words = self._words(str(work.item.body.get("text", "")))
        text = words.say(sentence)
        await self._posts.put(Post(key, work.conversation, thread.channel), thread, text, [section(text)])

    def _words(self, text: str) -> Words:
        return self._agent.words(guess_language(text, self._agent.words().language))

    # A turn.

    async def _turn(self, work: Work, thread: Thread, events: AsyncGenerator[AgentEvent], words: Words) -> None:
        """A turn to its end, or until a person stops it, shown in its thread."""
        reader = work.by.id.rpartition("/")[2]
        answer = Answer(
            self._web,
            self._posts,
            self._agent.journal,
            thread=thread,
            key=work.item.key,
            reader=reader,
            words=words,
            live=not work.begun,
            busy=work.item.kind != "message" or work.begun or work.item.id in self._failures,
        )
        shown = Shown()
        try:
            stopped = await self._until_stopped(work, answer, self._drain(events, answer, shown, words))
            if shown.failed is not None and shown.failed.code == SessionBusy.code:
                raise Lost
            if work.item.kind == "decision" and not work.begun and await self._moved_nothing(work):
                await self._no_turn(work, thread, answer, shown, stopped, words)
                return
            if shown.failed is None and work.item.kind == "message":
                words = self._agent.words_of(work.conversation)
            if work.begun:
                answer.parts[:] = await self._agent.journal.read(partial(told, work=work, words=words))
            if shown.failed is not None:
                answer.state(f"{shown.failed.message}\n{shown.failed.hint}", False)
            if stopped:
                answer.state(words.say("bot.stopped"), False)
            await answer.quiet()
            # Of one that never left what it was nothing is looked up.
            look = answer.busy or bool(shown.asked)
            await answer.end(await self._standing(work.conversation) if look else "active")
        finally:
            await answer.quiet()
        await self._cards.ask_all(thread, words.language)
        await self._cards.refresh(conversation=work.conversation)

    async def _until_stopped(self, work: Work, answer: Answer, turn: Coroutine[Any, Any, None]) -> bool:
        """True where it was stopped. What had begun at the campaigns API comes to its end all the same."""
        task = asyncio.create_task(turn)
        stops = [asyncio.create_task(event.wait()) for event in (work.stop, answer.stopped)]
        try:
            await asyncio.wait({task, *stops}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return False
            return True
        finally:
            for one in (task, *stops):
                one.cancel()
            await asyncio.gather(task, *stops, return_exceptions=True)

    async def _drain(
        self, events: AsyncGenerator[AgentEvent], answer: Answer | None, shown: Shown, words: Words
    ) -> None:
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, ApprovalAsked):
                    shown.asked.append(event)
                elif isinstance(event, Failed):
                    shown.failed = event
                elif answer is not None:
                    _show(event, answer, words)

    async def _moved_nothing(self, work: Work) -> bool:
        """Whether no turn follows from a decision: it was refused, or somebody else has to approve too."""
        item = await self._agent.journal.read(lambda tx: tx.item(work.item.key))
        return item is None or item.seq is None

    async def _no_turn(
        self, work: Work, thread: Thread, answer: Answer, shown: Shown, stopped: bool, words: Words
    ) -> None:
        failed, approval = shown.failed, str(work.item.body["approval"])
        await answer.end(await self._standing(work.conversation))
        await self._cards.judged(work.item.id, approval)
        if failed is not None or stopped:
            text = f"{failed.message} {failed.hint}" if failed else words.say("bot.stopped")
            await self._web.tell(work.by.id.rpartition("/")[2], thread, text)


def _show(event: AgentEvent, answer: Answer, words: Words) -> None:
    match event:
        case Text(delta):
            answer.say(delta)
        case ToolCalled(id, name, _):
            answer.task(id, _title(words, name), "in_progress")
        case ToolResult(id, name, ok, _, line, _, _):
            answer.task(id, _title(words, name), "complete" if ok else "error")
            if line:
                answer.state(line, ok)


def _made_by(tx: Transaction, work: Work) -> bool:
    """Whether this very item has asked anew already, before a crash."""
    old = tx.approval(str(work.item.body["approval"]))
    if old is None or work.item.tries < 2:
        return False
    newest = tx.approval_of(old.conversation, str(old.calls[0]["id"]))
    return newest is not None and newest.id != old.id and work.by.key in newest.calls[0].get("also_by", ())


def _title(words: Words, tool: str) -> str:
    key = f"bot.task_{tool}"
    return words.say(key) if words.has(key) else tool


def told(tx: Transaction, work: Work, words: Words) -> Sequence[Part]:
    """What a turn has said so far, by the journal: of one that another process began.

    If that is nothing, but a message was begun: what waits, in place of the task that turns there.
    """
    parts: list[Part] = []
    waits: dict[str, str] = {}
    for event in tx.events(work.conversation, work.item.seq or 0):
        if event.kind == "user":
            break
        if event.kind not in ("assistant", "tool"):
            continue
        message = from_json(event.body)
        content = message.get("content") or ""
        if event.kind == "assistant":
            parts += [Part("words", content)] if content else []
            waits |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls") or []}
        else:
            waits.pop(message["tool_call_id"], None)
            answer = from_json(content)
            line = answer.get("fact") or answer.get("message")
            if line:
                parts.append(Part("line", ("✓ " if answer["outcome"] == "done" else "✗ ") + line))
    if not parts and tx.post(reply_key(work.item.key)) is not None:
        parts += [Part("line", WAITS + _title(words, name)) for name in waits.values()]
    return parts
