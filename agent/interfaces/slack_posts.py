"""Messages of ours in a thread: each on record before it is posted, so that it is there once, also after a crash."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from agent.interfaces.slack_text import QUIET, Block
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Thread, Web
from agent.journal import Journal, Post

_ABOUT = "campaign_agent"
"""Type of the metadata that says which message of ours one in a thread is."""
_TRIES = 4


class Posts:
    """Posts, finds again, and changes.

    What is on record without a `ts` may have been posted: by a process that died before Slack answered, or where no
    answer came. Then the thread is read, and what is there is taken for it. Left over is a message that Slack shows
    only after the thread was read, or a thread that can't be read: then the same words are there twice. Nothing but
    words ever is: requests to the campaigns API have a record of their own.
    """

    def __init__(self, web: Web, journal: Journal) -> None:
        self._web, self._journal = web, journal

    async def begin(self, post: Post) -> Post | None:
        """Puts on record that a message is about to be posted; the one on record, where there was one."""
        return await self._journal.write(lambda tx: tx.begin_post(post))

    async def put(self, post: Post, thread: Thread, text: str, blocks: Sequence[Block], *, settled: bool = True) -> str:
        """Posts a message, or makes the one that is there say this, unless somebody deleted it. Returns its `ts`."""
        known = await self.begin(post)
        ts = known and (known.ts or await self.find(post.key, thread))
        body: dict[str, Any] = {"channel": thread.channel, "text": text, "blocks": list(blocks) or None}
        if ts and not await self._changed(thread.channel, ts, text, blocks):
            # What stands in its place may be there too, by a process that died before it was on record.
            ts = await self.find(post.key, thread, streams=False)
            if ts and not await self._changed(thread.channel, ts, text, blocks):
                ts = None
        if not ts:
            about = {"event_type": _ABOUT, "event_payload": {"key": post.key}}
            ts = await self._post(post.key, thread, {**body, **QUIET, "thread_ts": thread.ts, "metadata": about})
        found, shown = ts, post.shown
        await self._journal.write(lambda tx: tx.posted(post.key, found, shown, settled=settled))
        return ts

    async def _post(self, key: str, thread: Thread, message: Mapping[str, Any]) -> str:
        for number in range(_TRIES):
            try:
                return str((await self._web.call("chat.postMessage", **message))["ts"])
            except SlackUnsure:
                if number == _TRIES - 1:
                    raise
                await asyncio.sleep(0.3 * (number + 1))
                if (ts := await self.find(key, thread)) is not None:
                    return ts
        raise AssertionError("the last try returns or raises")

    async def _changed(self, channel: str, ts: str, text: str, blocks: Sequence[Block]) -> bool:
        """False where the message is gone."""
        try:
            await self.change(channel, ts, text, blocks)
        except SlackRefused as refused:
            if refused.error != "message_not_found":
                raise
            return False
        return True

    async def change(self, channel: str, ts: str, text: str, blocks: Sequence[Block]) -> None:
        message: dict[str, Any] = {"channel": channel, "ts": ts, "text": text, "blocks": list(blocks) or None}
        try:
            await self._web.call("chat.update", **message)
        except SlackRefused as refused:
            if refused.error != "streaming_state_conflict":
                raise
            # A stream that nobody ended.
            await self._web.call("chat.stopStream", channel=channel, ts=ts)
            await self._web.call("chat.update", **message)

    async def find(self, key: str, thread: Thread, *, streams: bool = True) -> str | None:
        """The message of ours in a thread that `key` names, or that streams, which says of itself nothing.

        Only one process at a time posts in a thread, so that what isn't on record is what was begun last. Whoever posts
        beside that one looks for what is named alone, without `streams`.
        """
        known = await self._journal.read(lambda tx: tx.posts(conversation=thread.conversation))
        taken = {post.ts for post in known}
        nameless: str | None = None
        cursor: str | None = None
        while True:
            page = await self._web.call(
                "conversations.replies",
                channel=thread.channel,
                ts=thread.ts,
                limit=200,
                cursor=cursor,
                include_all_metadata=True,
            )
            for message in page.get("messages") or []:
                if self._web.bot_user != message.get("user") or message["ts"] in taken:
                    continue
                about = message.get("metadata") or {}
                if about.get("event_payload", {}).get("key") == key:
                    return str(message["ts"])
                if streams and not about:
                    nameless = str(message["ts"])
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return nameless
