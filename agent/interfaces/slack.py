"""The Slack bot as a process: Socket Mode or HTTP in front, the worker behind, and whether both are well."""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from agent.errors import UsageError
from agent.interfaces.ports import listen
from agent.interfaces.slack_cards import Cards
from agent.interfaces.slack_listeners import Listeners
from agent.interfaces.slack_manifest import EVENTS_PATH
from agent.interfaces.slack_people import People
from agent.interfaces.slack_posts import Posts
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Web
from agent.interfaces.slack_worker import POLL, Worker
from agent.loop import Agent
from agent.policy import of_workspace
from agent.settings import Settings

log = logging.getLogger("agent.slack")

STALE_AFTER = 3.0
"""Intervals of pings without an answer after which a socket counts as dead."""
REMAKE_AFTER = 6.0
"""Intervals after which a dead socket is thrown away, in case that the SDK doesn't do it."""
OPEN_WITHIN = 10.0
"""Seconds for a websocket, after Slack has told where."""
PAUSE_AT_MOST = 60.0
"""Seconds between two tries of the first socket, which begin with one."""
CLOSE_WITHIN = 5.0
END_WITHIN = 60.0
"""Seconds that a request to the campaigns API that is under way is given when the process is told to stop."""

_BOT_TOKENS = ("xoxb-", "xoxe.xoxb-")
"""How tokens of bots begin; the second one is of those that are renewed."""


def secret(settings: Settings, name: str) -> str:
    """A token of these settings. Raises UsageError where it isn't set."""
    value: SecretStr | None = getattr(settings, name.lower())
    if value is None:
        raise UsageError("setting", setting=name, problem="it is not set, and the Slack bot needs it")
    return value.get_secret_value()


def _check_kinds(settings: Settings) -> None:
    """Raises UsageError where a token stands in the place of the other."""
    for name, others, wanted in (("SLACK_BOT_TOKEN", ("xapp-",), "xoxb-"), ("SLACK_APP_TOKEN", _BOT_TOKENS, "xapp-")):
        token: SecretStr | None = getattr(settings, name.lower())
        if token is not None and token.get_secret_value().startswith(others):
            raise UsageError("token_kind", setting=name, wanted=wanted)


class Sockets:
    """Socket Mode: one connection that is watched, since a half-open network looks like silence."""

    def __init__(self, app: Any, web: Web, token: str, interval: float) -> None:
        self._app, self._web, self._token, self._interval = app, web, token, interval
        self._handler: Any = None
        self._well_at = 0.0

    async def begin(self) -> None:
        """The first one, as long as it takes. Raises UsageError where Slack doesn't accept the token."""
        pause = 1.0
        while True:
            try:
                return await self.open()
            except SlackRefused as refused:
                if refused.retry_after is None:
                    raise UsageError("app_token", error=refused.error) from None
                log.warning("%s; it is tried again", refused)
                await asyncio.sleep(refused.retry_after)
            except SlackUnsure as unsure:
                log.warning("Slack can't be reached: %s; it is tried again", unsure)
                await asyncio.sleep(pause)
                pause = min(PAUSE_AT_MOST, 2 * pause)

    async def open(self) -> None:
        """One try. Raises SlackRefused or SlackUnsure."""
        from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler

        url = await self._web.open_socket(self._token)
        self._handler = AsyncSocketModeHandler(
            self._app, self._token, logger=_silent("agent.slack.socket"), ping_interval=self._interval
        )
        # By itself the SDK asks for one in a loop that nothing ends, and says nothing of what Slack answers.
        self._handler.client.wss_uri = url
        try:
            async with asyncio.timeout(min(OPEN_WITHIN, self._interval * REMAKE_AFTER)):
                await self._handler.connect_async()
        except TimeoutError:
            await self.aclose()
            raise SlackUnsure(f"no websocket to {urlsplit(url).hostname}") from None
        except BaseException:
            await self.aclose()
            raise
        self._well_at = time.monotonic()

    async def is_well(self) -> bool:
        if self._handler is None:
            return False
        client = self._handler.client
        last = client.last_ping_pong_time
        fresh = last is None or time.time() - last < self._interval * STALE_AFTER
        return bool(fresh and await client.is_connected())

    async def watch(self) -> None:
        """Makes it anew where the SDK leaves it dead."""
        while True:
            await asyncio.sleep(self._interval)
            if await self.is_well():
                self._well_at = time.monotonic()
            elif time.monotonic() - self._well_at > self._interval * REMAKE_AFTER:
                log.warning("the socket is dead; a new one is made")
                await self.aclose()
                try:
                    await self.open()
                except Exception as error:
                    # At the edge: whatever it is, the next one comes.
                    log.warning("there is no new socket: %s", error)
                    await asyncio.sleep(getattr(error, "retry_after", None) or 0)

    async def aclose(self) -> None:
        if self._handler is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_WITHIN):
                    await self._handler.close_async()


class SlackBot:
    """`http` and `health` are ports to listen on (0: any); without `http` events come over a socket."""

    def __init__(self, agent: Agent, *, http: int | None, health: int | None, host: str) -> None:
        self._agent, self._settings = agent, agent.settings
        self._http, self._health, self._host = http, health, host
        self._sockets: Sockets | None = None

    async def run(self) -> None:
        """Until the process is told to stop. Raises UsageError where a setting is wrong."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        running, stopped = asyncio.create_task(self._run()), asyncio.create_task(stop.wait())
        # Also while it starts, which may take as long as Slack is away.
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def _run(self) -> None:
        _check_kinds(self._settings)
        await self._agent.journal.open()
        async with self._connected() as web:
            posts = Posts(web, self._agent.journal)
            people = People(web, self._agent.gate.policy)
            self._cards = Cards(self._agent, web, posts, people)
            self._worker = Worker(self._agent, web, posts, self._cards, people)
            listeners = Listeners(self._agent, web, self._cards, self._worker, people)
            app = self._bolt(web)
            listeners.register(app)
            serving = asyncio.create_task(self._serve(app, web))
            jobs = [asyncio.create_task(self._worker.run()), asyncio.create_task(self._sweep(web))]
            try:
                done, _ = await asyncio.wait({serving, *jobs}, return_when=asyncio.FIRST_COMPLETED)
                for job in done:
                    job.result()
            finally:
                for tasks in ([serving], jobs):
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks, timeout=END_WITHIN)
                await listeners.aclose()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Web]:
        web = Web(secret(self._settings, "SLACK_BOT_TOKEN"), self._settings.slack_api_url)
        try:
            await web.open()
        except SlackRefused as refused:
            problem = f"Slack does not accept it: {refused.error}"
            raise UsageError("setting", setting="SLACK_BOT_TOKEN", problem=problem) from None
        except SlackUnsure as unsure:
            problem = f"Slack can't be reached there: {unsure}"
            raise UsageError("setting", setting="CAMPAIGN_AGENT_SLACK_API_URL", problem=problem) from None
        try:
            yield web
        finally:
            await web.aclose()

    def _bolt(self, web: Web) -> Any:
        from slack_bolt.async_app import AsyncApp
        from slack_bolt.authorization import AuthorizeResult
        from slack_sdk.web.async_client import AsyncWebClient

        token = secret(self._settings, "SLACK_BOT_TOKEN")
        who = AuthorizeResult(
            enterprise_id=None, team_id=web.team, bot_token=token, bot_user_id=web.bot_user, bot_id=web.bot_id
        )

        async def authorize() -> AuthorizeResult:
            # By itself Bolt asks Slack on the way to the acknowledgement, and loses the event where Slack errs.
            return who

        quiet = _silent("agent.slack.bolt")
        return AsyncApp(
            logger=quiet,
            name="campaign-agent",
            client=AsyncWebClient(None, self._settings.slack_api_url, logger=quiet, retry_handlers=[]),
            signing_secret=secret(self._settings, "SLACK_SIGNING_SECRET") if self._http is not None else "unused",
            authorize=authorize,
            # By itself Bolt acknowledges events before their listener has stored anything.
            process_before_response=True,
            attaching_function_token_enabled=False,
            attaching_conversation_kwargs_enabled=False,
        )

    async def _serve(self, app: Any, web: Web) -> None:
        """Listens, and says where once it does. What says whether it is well is there before."""
        async with contextlib.AsyncExitStack() as stack:
            told, health = [f"team={web.team}", f"bot={web.bot_user}"], []
            if self._health is not None:
                url = await stack.enter_async_context(_listening(self._host, self._health, self._routes(None)))
                health.append(f"health={url}/healthz")
                log.info("whether it is well: %s/healthz", url)
            if self._http is None:
                token = secret(self._settings, "SLACK_APP_TOKEN")
                self._sockets = Sockets(app, web, token, self._settings.slack_ping)
                await self._sockets.begin()
                stack.push_async_callback(self._sockets.aclose)
                watching = asyncio.create_task(self._sockets.watch())
                stack.callback(watching.cancel)
            else:
                url = await stack.enter_async_context(_listening(self._host, self._http, self._routes(app)))
                told.append(f"events={url}{EVENTS_PATH}")
            self._tell_policy(web.team)
            print(" ".join(["ready", *told, *health]), flush=True)
            await asyncio.Event().wait()

    def _tell_policy(self, team: str) -> None:
        """Who may decide what: a rule that was forgotten shows here, before anybody's click does."""
        approvers, settings = self._agent.gate.policy.approvers, self._settings
        rules = "; ".join(f"{tool}: {', '.join(who)}" for tool, who in approvers.items())
        limits = {"own": settings.self_approve_up_to, "two": settings.two_approvers_over}
        print(self._agent.words().say("bot.policy", rules=rules, open="*" not in approvers, **limits), file=sys.stderr)
        for who in sorted({who for named in approvers.values() for who in named if who.startswith("slack:")}):
            if not of_workspace(who.partition(":")[2], f"slack:{team}"):
                log.warning("CAMPAIGN_AGENT_APPROVERS names %s, who is of another workspace than %s", who, team)

    def _routes(self, app: Any) -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        async def healthz(_: Request) -> Response:
            found = await self.health()
            return JSONResponse(found, 200 if all(found.values()) else 503)

        routes = [Route("/healthz", healthz)]
        if app is not None:
            from slack_bolt.adapter.starlette.async_handler import AsyncSlackRequestHandler

            handler = AsyncSlackRequestHandler(app)

            async def events(request: Request) -> Response:
                return await handler.handle(request)

            routes.append(Route(EVENTS_PATH, events, methods=["POST"]))
        return Starlette(routes=routes)

    async def health(self) -> dict[str, bool]:
        """What is well: the worker with its database, and the socket where there is one."""
        found = {"worker": self._worker.is_well()}
        if self._http is None:
            found["socket"] = self._sockets is not None and await self._sockets.is_well()
        return found

    async def _sweep(self, web: Web) -> None:
        """Cards that others have decided or nobody, conversations of processes that are gone, their attempts, and what
        sessions show."""
        among, last = f"slack:{web.team}:", 0.0
        while True:
            try:
                if await self._agent.journal.write(lambda tx: tx.bury(among)):
                    self._worker.wake("", "")
                await web.catch_up()
                if time.monotonic() - last >= self._settings.slack_sweep:
                    last = time.monotonic()
                    await self._agent.gate.sweep()
                    for conversation in await self._cards.sweep():
                        self._worker.wake(conversation, "card")
            except Exception as error:
                # At the edge: whatever it is, the next look comes.
                log.warning("a look at what is open failed: %s", error)
            await asyncio.sleep(min(POLL, self._settings.slack_sweep))


@contextlib.asynccontextmanager
async def _listening(host: str, port: int, app: Any) -> AsyncIterator[str]:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            # They are the bot's.
            yield

    listener = listen(host, port)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=3)
    server = Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()


def _silent(name: str) -> logging.Logger:
    """The libraries' own logs: they quote addresses with tickets in them, and what people write."""
    silent = logging.getLogger(name)
    silent.setLevel(logging.CRITICAL)
    return silent
