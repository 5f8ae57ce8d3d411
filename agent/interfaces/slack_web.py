"""Slack's Web API: one call with its limits and faults by name, and the thread that a conversation is."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.domain import Json
from agent.interfaces.slack_text import shown

log = logging.getLogger("agent.slack")

TIMEOUT = 15.0
"""Seconds for an answer of Slack's."""
STATUS_WITHIN = 3.0
"""Seconds that a thread's status is worth."""
STATUS_FOR = 3600.0
"""Seconds for which one is tried again; Slack itself takes back after an hour that a session is processing."""
_STATUS_PAUSE = 60.0
"""Seconds at most between two tries."""
PATIENCE = 120.0
"""Seconds that a call waits in all where Slack says that there are too many."""
_REPEATABLE = {
    "auth.test", "agents.sessions.setStatus", "chat.getPermalink", "chat.update",
    "conversations.replies", "usergroups.users.list", "views.publish",
}  # fmt: skip
"""Methods that do the same when they are called twice. chat.postMessage isn't among them: it would post twice."""
_READS = {"chat.getPermalink", "conversations.replies", "usergroups.users.list"}
"""Methods that take no JSON."""
REPAIRABLE = {
    "access_denied", "accesslimited", "account_inactive", "ekm_access_denied", "enterprise_is_restricted",
    "invalid_auth", "missing_scope", "no_permission", "not_allowed_token_type", "not_authed", "org_login_required",
    "team_access_not_granted", "team_added_to_org", "token_expired", "token_revoked", "two_factor_setup_required",
}  # fmt: skip
"""Slack's words for what is wrong with the app's token or rights and not with the call: administrators repair it."""
_UNSURE = {"internal_error", "fatal_error", "request_timeout", "service_unavailable", "(no answer)"}
_TRIES = 3


class SlackRefused(Exception):
    """Slack did not do it: `error` is its own word, `retry_after` seconds where there were too many calls."""

    def __init__(self, method: str, error: str, retry_after: float | None = None) -> None:
        super().__init__(f"{method}: {error}")
        self.error, self.retry_after = error, retry_after


class SlackUnsure(Exception):
    """Slack may have done it, or not."""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread in Slack, which is a conversation of ours."""

    team: str
    channel: str
    ts: str

    @property
    def conversation(self) -> str:
        return f"slack:{self.team}:{self.channel}:{self.ts}"

    @classmethod
    def of(cls, conversation: str) -> "Thread | None":
        """None where a conversation belongs to no thread."""
        parts = conversation.split(":")
        return cls(*parts[1:]) if len(parts) == 4 and parts[0] == "slack" and parts[3] else None


@dataclass(slots=True)
class _Owed:
    """A status that Slack didn't take when it was due."""

    status: str
    due: float
    until: float
    pause: float = 1.0


class Web:
    """One workspace's Web API. After `open` it knows who the bot is there; raises SlackRefused or SlackUnsure."""

    def __init__(self, token: str, url: str) -> None:
        self._token, self._url = token, url if url.endswith("/") else url + "/"
        self.team = self.bot_user = self.bot_id = ""
        self._busy_until: dict[str, float] = {}
        self._owed: dict[Thread, _Owed] = {}

    async def open(self) -> None:
        import aiohttp
        from slack_sdk.web.async_client import AsyncWebClient

        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        # Its own handler for broken connections would send a post again that has arrived.
        self._client = AsyncWebClient(self._token, self._url, session=self._session, retry_handlers=[], logger=_quiet())
        try:
            who = await self.call("auth.test")
        except BaseException:
            await self._session.close()
            raise
        self.team, self.bot_user, self.bot_id = str(who["team_id"]), str(who["user_id"]), str(who.get("bot_id", ""))

    async def aclose(self) -> None:
        await self._session.close()

    async def call(self, method: str, *, patience: float = PATIENCE, **arguments: Json) -> Mapping[str, Any]:
        """Waits as long as Slack says where there were too many calls; `patience` 0 doesn't wait at all."""
        waited, tries = 0.0, 0
        while True:
            wait = self._busy_until.get(method, 0.0) - asyncio.get_running_loop().time()
            if wait > 0 and patience <= 0:
                raise SlackRefused(method, "ratelimited", wait)
            try:
                return await self._once(method, arguments)
            except SlackRefused as refused:
                if refused.retry_after is None or waited + refused.retry_after > patience:
                    raise
                waited += refused.retry_after
                await asyncio.sleep(refused.retry_after)
            except SlackUnsure:
                tries += 1
                if method not in _REPEATABLE or tries == _TRIES:
                    raise
                await asyncio.sleep(0.3 * tries)

    async def open_socket(self, app_token: str) -> str:
        """The address of a new socket of the app's, with a ticket in it that is good once."""
        answer = await self._asked("apps.connections.open", self._client.apps_connections_open(app_token=app_token))
        return str(answer["url"])

    async def _once(self, method: str, arguments: Mapping[str, Json]) -> Mapping[str, Any]:
        given = {name: value for name, value in arguments.items() if value is not None}
        if method in _READS:
            plain = {name: str(value).lower() if value is True else value for name, value in given.items()}
            return await self._asked(method, self._client.api_call(method, http_verb="GET", params=plain))
        return await self._asked(method, self._client.api_call(method, json=given))

    async def _asked(self, method: str, call: Awaitable[Any]) -> Mapping[str, Any]:
        import aiohttp
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            answer = await call
        except SlackApiError as error:
            raise self._named(method, error.response) from None
        except (aiohttp.ClientError, TimeoutError, SlackClientError, AttributeError, ValueError) as error:
            # The last two are the SDK's where what answers isn't Slack.
            raise SlackUnsure(f"{method}: {type(error).__name__}") from None
        data = answer.data
        return data if isinstance(data, dict) else {}

    def _named(self, method: str, response: Any) -> Exception:
        status = int(getattr(response, "status_code", 0) or getattr(response, "status", 0) or 0)
        data = getattr(response, "data", None)
        error = str(data.get("error") or "(no answer)") if isinstance(data, dict) else "(no answer)"
        if status == 429 or error == "ratelimited":
            after = 1.0
            with contextlib.suppress(KeyError, ValueError, TypeError):
                after = max(0.1, float(response.headers["Retry-After"]))
            self._busy_until[method] = asyncio.get_running_loop().time() + after
            return SlackRefused(method, "ratelimited", after)
        # Anything but Slack's own answer says nothing about what happened.
        return SlackUnsure(f"{method}: {status} {error}") if error in _UNSURE else SlackRefused(method, error)

    async def set_status(self, thread: Thread, status: str) -> None:
        """The session of a thread: active, processing (with a stop button) or suspended.

        Best effort, for it is an ornament; but what is to stay is tried again by `catch_up`.
        """
        self._owed.pop(thread, None)
        wait = await self._try_status(thread, status)
        if wait is not None and status != "processing":
            now = asyncio.get_running_loop().time()
            self._owed[thread] = _Owed(status, now + wait, now + STATUS_FOR)

    async def _try_status(self, thread: Thread, status: str) -> float | None:
        """None where nothing is left to do, else seconds after which to try again."""
        where = {"channel_id": thread.channel, "thread_ts": thread.ts}
        try:
            async with asyncio.timeout(STATUS_WITHIN):
                await self._once("agents.sessions.setStatus", {**where, "status": status})
        except SlackRefused as refused:
            return 1.0 if refused.error in REPAIRABLE else refused.retry_after
        except (SlackUnsure, TimeoutError):
            return 1.0
        return None

    def take_over(self, thread: Thread) -> bool:
        """A turn begins in a thread. True where Slack still has to be told how the one before it ended."""
        return self._owed.pop(thread, None) is not None

    async def catch_up(self) -> None:
        """What set_status couldn't do, until the first one that fails again: the others would too."""
        now = asyncio.get_running_loop().time()
        for thread, owed in [(thread, owed) for thread, owed in self._owed.items() if owed.due <= now]:
            wait = await self._try_status(thread, owed.status)
            if self._owed.get(thread) is not owed:
                # A turn has begun there meanwhile.
                continue
            if wait is None or now > owed.until:
                del self._owed[thread]
                continue
            owed.pause = min(_STATUS_PAUSE, 2 * owed.pause)
            owed.due = now + max(wait, owed.pause)
            return

    async def tell(self, user: str, thread: Thread | None, text: str) -> None:
        """To one person alone; where that isn't possible in the thread, in the conversation with the bot."""
        # Errors quote what servers and people wrote.
        text = shown(text)
        if thread is not None:
            with contextlib.suppress(SlackRefused, SlackUnsure):
                await self.call("chat.postEphemeral", user=user, channel=thread.channel, thread_ts=thread.ts, text=text)
                return
        with contextlib.suppress(SlackRefused, SlackUnsure):
            await self.call("chat.postMessage", channel=user, text=text)


def _quiet() -> logging.Logger:
    """The SDK's own log: its debug lines hold what people write."""
    quiet = logging.getLogger("agent.slack.sdk")
    quiet.setLevel(logging.WARNING)
    return quiet
