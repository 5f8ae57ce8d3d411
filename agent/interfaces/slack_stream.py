"""What a turn shows in its thread: words as they come, tools as tasks, results as lines, in one message if it fits."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from typing import Literal

from agent.interfaces.slack_blocks import MESSAGE_ROOM, cost
from agent.interfaces.slack_posts import Posts
from agent.interfaces.slack_text import Block, clip, safe_reply, section, shown, split_reply
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Thread, Web
from agent.journal import Journal, Post
from agent.prompts import Words

GRACE = 0.15
"""Seconds before anything is shown: a turn that is over by then is one message, posted once."""
PAUSE = 0.8
"""Seconds between two pieces of a stream; Slack takes about a hundred a minute."""
SLOW_PAUSE = 3.0
"""Seconds between two changes of a message, where Slack lets nothing stream."""
IDLE = 20.0
"""Seconds of silence after which a stream is ended, before Slack does it: some die after thirty."""
STREAM_LENGTH = 9_000
"""Characters that are streamed; what is longer than that is shown whole at the end, as several messages."""
_PAGE_BLOCKS = 45


@dataclass(slots=True)
class Part:
    """Words of the model, or a line of ours that states what happened."""

    kind: Literal["words", "line"]
    text: str


def reply_key(item: str) -> str:
    """By which the first message that answers an item of the inbox is on record."""
    return f"reply:{item}"


def pages(parts: Sequence[Part], words: Words) -> list[tuple[str, list[Block]]]:
    """The parts as messages within Slack's limits: what notifications say of each, and its blocks."""
    blocks: list[Block] = []
    for part in parts:
        if part.kind == "line":
            blocks.append(section(clip(part.text, 2_900, words)))
        else:
            blocks += [{"type": "markdown", "text": piece} for piece in split_reply(part.text, 8_000)]
    found: list[list[Block]] = [[]]
    for block in blocks:
        if found[-1] and (cost([*found[-1], block]) > MESSAGE_ROOM or len(found[-1]) == _PAGE_BLOCKS):
            found.append([])
        found[-1].append(block)
    return [(_notice(page, words), page) for page in found if page]


def _notice(blocks: Sequence[Block], words: Words) -> str:
    texts = [block["text"] if isinstance(block["text"], str) else block["text"]["text"] for block in blocks]
    # A block's text is escaped already.
    return shown(clip(unescape("\n".join(texts)), 2_000, words))


class Answer:
    """One turn's answer. `stopped` is set where a person pressed Slack's stop button and its stream says so.

    One that isn't `live` is shown at its end only: of a turn that another process began. `busy`: the thread's session
    may be anything but active, of a decision that was waited for or of a turn that was begun before.
    """

    def __init__(
        self,
        web: Web,
        posts: Posts,
        journal: Journal,
        *,
        thread: Thread,
        key: str,
        reader: str,
        words: Words,
        live: bool = True,
        busy: bool = False,
    ) -> None:
        self._web, self._posts, self._journal = web, posts, journal
        self._thread, self._key, self._reader, self._words = thread, key, reader, words
        self.parts: list[Part] = []
        self.stopped = asyncio.Event()
        self._pending: list[Block] = []
        self._fresh, self._ending, self._live = asyncio.Event(), asyncio.Event(), live
        self._ts: str | None = None
        self._state: Literal["new", "streaming", "whole"] = "new"
        """`whole`: the message is written as a whole from here on."""
        self._length = 0
        self.busy = web.take_over(thread) or busy
        self._processing = False
        """Whether the thread's session shows that something runs, with a button to stop it."""
        self._tasks: dict[str, str] = {}
        self._flow = asyncio.create_task(self._run())

    # What comes.

    def say(self, delta: str) -> None:
        if self.parts and self.parts[-1].kind == "words":
            self.parts[-1].text += delta
        else:
            self.parts.append(Part("words", delta))
        if self._pending and self._pending[-1]["type"] == "markdown_text":
            self._pending[-1]["text"] += safe_reply(delta)
        else:
            self._push({"type": "markdown_text", "text": safe_reply(delta)})
        self._length += len(delta)
        self._fresh.set()

    def state(self, line: str, ok: bool) -> None:
        """A line of ours, with what happened."""
        text = ("✓ " if ok else "✗ ") + line
        self.parts.append(Part("line", text))
        self._push({"type": "blocks", "blocks": [section(clip(text, 2_900, self._words))]})

    def task(self, id: str, title: str, status: Literal["in_progress", "complete", "error"]) -> None:
        self._tasks[id] = title
        if status in ("complete", "error"):
            del self._tasks[id]
        self._push({"type": "task_update", "id": id[:100], "title": title[:250], "status": status})

    def _push(self, chunk: Block) -> None:
        self._pending.append(chunk)
        self._fresh.set()

    # How it is shown.

    async def _run(self) -> None:
        await self._wait(GRACE)
        if not (self._live and self._pending) and not self._ending.is_set():
            # It begins to think: from here on there is a stop button.
            await self._status("processing")
        while self._live and not self._ending.is_set():
            fresh = await self._until_fresh()
            if self._ending.is_set():
                return
            try:
                await self._show(fresh)
            except SlackRefused as refused:
                if refused.error == "stopped_by_user":
                    self.stopped.set()
                if refused.error != "ratelimited" or self._state == "new":
                    self._state = "whole"
            except SlackUnsure:
                self._state = "whole"
            if self._state == "whole" and not self._processing and not self._ending.is_set():
                # The button comes with a stream, and there is none.
                await self._status("processing")
            await self._wait(SLOW_PAUSE if self._state == "whole" else PAUSE)

    async def _until_fresh(self) -> bool:
        """False after a long silence."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._fresh, self._ending)]
        try:
            await asyncio.wait(waits, timeout=IDLE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        found = self._fresh.is_set()
        self._fresh.clear()
        return found

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def _show(self, fresh: bool) -> None:
        if not fresh:
            if self._state == "streaming":
                self._state = "whole"
                await self._stop_stream("processing")
        elif self._state == "new":
            await self._start()
        elif self._state == "streaming":
            await self._append()
        elif self.parts:
            await self._write(pages(self.parts, self._words)[:1], settled=False)

    async def _start(self) -> None:
        if await self._posts.begin(self._post(0)) is not None:
            # A process before this one has begun it.
            self._state = "whole"
            return
        sent, self._pending = self._pending, []
        answer = await self._web.call(
            "chat.startStream",
            patience=0,
            channel=self._thread.channel,
            thread_ts=self._thread.ts,
            recipient_team_id=self._thread.team,
            recipient_user_id=self._reader,
            chunks=sent,
        )
        self._ts, self._state = str(answer["ts"]), "streaming"
        self.busy = self._processing = True
        ts = self._ts
        await self._journal.write(lambda tx: tx.posted(self._post(0).key, ts))

    async def _append(self) -> None:
        if self._length > STREAM_LENGTH:
            return
        sent, self._pending = self._pending, []
        try:
            if sent:
                await self._web.call(
                    "chat.appendStream", patience=0, channel=self._thread.channel, ts=self._ts, chunks=sent
                )
        except SlackRefused as refused:
            if refused.error == "ratelimited":
                self._pending = [*sent, *self._pending]
            raise

    async def _stop_stream(self, status: str, chunks: Sequence[Block] = ()) -> None:
        await self._web.call(
            "chat.stopStream",
            channel=self._thread.channel,
            ts=self._ts,
            chunks=list(chunks) or None,
            session_status=status,
        )

    async def _status(self, status: str) -> None:
        self._processing = status == "processing"
        self.busy = status != "active"
        await self._web.set_status(self._thread, status)

    def _post(self, number: int) -> Post:
        key = reply_key(self._key) + (f"/{number}" if number else "")
        return Post(key, self._thread.conversation, self._thread.channel)

    # How it ends.

    async def end(self, status: Literal["active", "suspended"]) -> None:
        """The whole answer, as it stays; `status` is what the thread's session is then."""
        for id, title in list(self._tasks.items()):
            # Nothing turns any more: it has asked, and the card says how it goes on, or it was stopped.
            if status == "suspended":
                self.task(id, self._words.say("bot.task_asks", title=title), "complete")
            else:
                self.task(id, title, "error")
        await self.quiet()
        made = pages(self.parts, self._words)
        if self._state == "streaming" and len(made) <= 1 and self._length <= STREAM_LENGTH:
            try:
                await self._stop_stream(status, self._pending)
                await self._settle()
                return
            except (SlackRefused, SlackUnsure):
                pass
        elif self._state == "streaming":
            with contextlib.suppress(SlackRefused, SlackUnsure):
                await self._stop_stream(status)
        await self._write(made, settled=True)
        if self.busy or status == "suspended":
            await self._status(status)

    async def quiet(self) -> None:
        """Nothing more is shown by itself."""
        self._ending.set()
        await asyncio.gather(self._flow, return_exceptions=True)

    async def _settle(self) -> None:
        key, ts = self._post(0).key, str(self._ts)
        await self._journal.write(lambda tx: tx.posted(key, ts, settled=True))

    async def _write(self, made: Sequence[tuple[str, list[Block]]], *, settled: bool) -> None:
        for number, (text, blocks) in enumerate(made):
            await self._posts.put(self._post(number), self._thread, text, blocks, settled=settled)
