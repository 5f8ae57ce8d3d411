"""The commands: each builds what it needs, and nothing else, and hands it to an interface."""

import asyncio
import contextlib
import gc
import io
import json
import os
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from http.cookiejar import CookieJar
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import AgentError, DecisionRefused, UsageError
from agent.settings import SANDBOX_URL, VERSION, Settings, machine_language

if TYPE_CHECKING:
    import ssl

    from agent.events import AgentEvent
    from agent.interfaces.terminal import Screen
    from agent.loop import Agent
    from agent.platica import Wire
    from agent.prompts import Words

ANSWERED, FAILED, USAGE, WAITS = 0, 1, 2, 3

app = typer.Typer(
    name="campaign-agent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="WhatsApp campaigns on Plática by conversation. Deleting, clearing, removing and sending wait for approval.",
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else there.")]
Session = Annotated[str | None, typer.Option("--session", help="Go on with this session.")]


def run(arguments: Sequence[str]) -> int:
    """Runs one command; every way to fail ends in a code, one thing to do, and no traceback."""
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        # What was done must be told, on a terminal of whatever encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        result = app(args=list(arguments), prog_name="campaign-agent", standalone_mode=False)
        return int(result or 0)
    except AgentError as error:
        return _report(error, as_json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads any more, for instance `| head`; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            return _usage(error)
        return _report(_crash(error), as_json)


def _usage(error: Exception) -> int:
    """What the command line parser says, in its own words."""
    code = int(getattr(error, "exit_code", USAGE))
    show = getattr(error, "show", None)
    if callable(show):
        show(file=sys.stderr)
    return code


def _crash(error: Exception) -> AgentError:
    """A fault of our own: the traceback goes to a file, its name and kind to the person."""
    import traceback

    try:
        path = Settings.read().home / "crash.log"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        return AgentError(text=f"{type(error).__name__}, see {path}")
    except (AgentError, OSError):
        return AgentError(text=type(error).__name__)


def _report(error: AgentError, as_json: bool) -> int:
    message, hint = _fallback_words().error(error)
    if as_json:
        print(json.dumps({"type": "error", "code": error.code, "message": message, "hint": hint}, ensure_ascii=False))
    else:
        print(f"✗ {message}\n  {hint} [{error.code}]", file=sys.stderr)
    return USAGE if isinstance(error, UsageError) else FAILED


def _fallback_words() -> "Words":
    from agent.prompts import words

    try:
        return _words(Settings.read())
    except AgentError:
        return words(machine_language(), "America/Mexico_City")


def _words(settings: Settings) -> "Words":
    from agent.prompts import words

    return words(machine_language() if settings.language == "auto" else settings.language, settings.timezone)


# Building.


def build(settings: Settings) -> "Agent":
    """The agent of these settings: real services where keys are set, the embedded ones where not."""
    if not settings.offline:
        # Its certificates are read while the rest is loaded.
        threading.Thread(target=import_module, args=("aiohttp",), daemon=True).start()
    import httpx

    from agent.journal import Journal
    from agent.loop import Agent
    from agent.platica import Platica, Wire

    if settings.sandboxed:
        from agent.interfaces.embedded import Embedded
        from agent.sandbox.seed import LOCAL_KEY

        _make_home(settings)
        http = Wire(Embedded(settings.home / "sandbox.db"), SANDBOX_URL, httpx.Timeout(None))
        key = LOCAL_KEY
    else:
        assert settings.platica_api_key is not None
        http = _wire(settings)
        key = settings.platica_api_key.get_secret_value()
    platica = Platica(
        http,
        key=key,
        workspace=settings.platica_workspace,
        deadline=settings.request_deadline,
        requests_per_second=settings.requests_per_second,
    )
    journal = Journal(_database(settings))
    return Agent(settings, model=_model(settings), platica=platica, journal=journal, locale=machine_language())


class _NoCookies(CookieJar):
    """Neither service has a use for cookies: none is looked for, kept or sent."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass

    def add_cookie_header(self, request: object) -> None:
        pass


@cache
def _trust() -> "ssl.SSLContext":
    import httpx

    return httpx.create_ssl_context()


def _verify(url: str) -> "ssl.SSLContext | bool":
    """One set of certificates for both services, loaded only where a connection is encrypted: it takes 40 ms."""
    return _trust() if url.startswith("https:") else False


@contextlib.contextmanager
def _named_proxy() -> Iterator[None]:
    """A client can fail to be made only for the proxy that the environment names; what it says would quote that."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (ValueError, ImportError)) or type(error).__name__ == "InvalidURL":
            problem = "it is not the address of a proxy that can be used here"
            raise UsageError("setting", setting="HTTP_PROXY/HTTPS_PROXY/ALL_PROXY", problem=problem) from None
        raise


def _wire(settings: Settings) -> "Wire":
    """To the real API, through the proxy that the environment names, if any."""
    from urllib.request import getproxies, proxy_bypass

    import httpx

    from agent.platica import AiohttpReads, Wire

    url = httpx.URL(settings.platica_base_url)
    proxies = getproxies()
    proxy = None if not proxies or proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")
    # Idle connections are dropped before servers usually do: a POST on a dying one would end as unknown.
    limits = httpx.Limits(max_connections=10, max_keepalive_connections=5, keepalive_expiry=4.0)
    with _named_proxy():
        transport = httpx.AsyncHTTPTransport(verify=_verify(str(url)), limits=limits, proxy=proxy)
    reads = AiohttpReads(verify=_verify(str(url)), limits=limits) if proxy is None else None
    timeout = httpx.Timeout(settings.request_deadline, connect=10.0)
    return Wire(transport, settings.platica_base_url, timeout, reads=reads)


def _make_home(settings: Settings) -> None:
    from agent.errors import DatabaseUnavailable

    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DatabaseUnavailable(text=f"{settings.home}: {error.strerror}") from None


def _database(settings: Settings) -> str:
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        # The driver is named, so that the choice is ours and not the library's default.
        return re.sub("^postgres(ql)?://", "postgresql+psycopg://", url)
    return f"sqlite:///{settings.home / 'journal.db'}"


def _model(settings: Settings) -> Any:
    if settings.offline:
        from agent.sandbox.model import RuleModel

        return RuleModel()
    from agent.model import OpenAIModel, connect
    from agent.operations import openai_tools

    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    with _named_proxy():
        client = connect(
            key=key,
            base_url=settings.openai_base_url,
            timeout=settings.model_timeout,
            retries=settings.model_retries,
            verify=_verify(settings.openai_base_url or "https://"),
            cookies=_NoCookies(),
        )
    strict = settings.strict_tools if settings.strict_tools is not None else settings.openai_base_url is None
    return OpenAIModel(
        client,
        settings.model,
        openai_tools(strict=strict),
        stream=settings.stream,
        deadline=settings.model_timeout * 5,
    )


def _banner(settings: Settings, words: "Words") -> list[str]:
    """What every screen says of the stand-ins."""
    model = words.say("screen.offline") if settings.offline else words.say("screen.model", model=settings.model)
    if not settings.sandboxed:
        return [model]
    ignored = [words.say("screen.address_ignored")] if "platica_base_url" in settings.model_fields_set else []
    return [words.say("screen.sandbox"), *ignored, model]


def _with_agent(settings: Settings, work: "Callable[[Agent], Coroutine[Any, Any, int]]", *, quiet: bool = False) -> int:
    """`quiet` leaves out the line that says which stand-ins are at work, where only machines read."""
    if not quiet:
        for line in _banner(settings, _words(settings)):
            print(line, file=sys.stderr)

    async def whole() -> int:
        agent = build(settings)
        gc.freeze()
        gc.enable()
        try:
            return await work(agent)
        finally:
            await agent.aclose()

    return asyncio.run(whole())


def _screen(settings: Settings) -> "Screen":
    from agent.interfaces.terminal import Screen

    return Screen(_words(settings), sys.stdout, sys.stderr)


async def _play(
    events: "AsyncGenerator[AgentEvent]", settings: Settings, as_json: bool, *, must_run: bool = False
) -> int:
    """Shows a turn to its end, and tells by an exit code how it ended. `must_run`: what was approved counts too."""
    from agent.events import ApprovalAsked, Failed, ToolResult
    from agent.interfaces.terminal import plain

    screen = None if as_json else _screen(settings)
    code, first = ANSWERED, must_run
    async with contextlib.aclosing(events):
        async for event in events:
            if screen is None:
                print(json.dumps(plain(event), ensure_ascii=False, default=str), flush=True)
            else:
                screen.show(event)
            code = WAITS if isinstance(event, ApprovalAsked) else FAILED if isinstance(event, Failed) else code
            if first and isinstance(event, ToolResult):
                first, code = False, code if event.ok else FAILED
            if screen is not None and isinstance(event, ApprovalAsked):
                title = event.preview["facts"].get("campaign", {}).get("title") if event.confirm != "yes" else None
                screen.say(screen.words.say("card.how", approval=event.id, title=title))
    if screen is not None:
        screen.end_text()
    return code


def _version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Options that belong to no command."""


# Talking.


@app.command()
def chat(session: Session = None) -> int:
    """Chat in the terminal: streaming, cards, approval prompts, history."""
    settings = Settings.read()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("not_a_terminal")
    from agent.gate import Identity
    from agent.interfaces.terminal import Chat

    async def work(agent: "Agent") -> int:
        name = session or _new_session()
        if session is not None:
            await _must_exist(agent, session)
        screen = _screen(settings)
        banner = [*_banner(settings, screen.words), screen.words.say("screen.session", session=name)]
        await Chat(agent, screen, name, by=Identity.os_user(), banner=banner).run()
        return ANSWERED

    return _with_agent(settings, work, quiet=True)


async def _must_exist(agent: "Agent", session: str) -> None:
    if not await agent.journal.read(lambda tx: tx.events(session)):
        raise UsageError("no_such_session", session=session)


def _new_session() -> str:
    return secrets.token_hex(4)


@app.command()
def ask(
    text: Annotated[str | None, typer.Argument(help="What to ask; read from standard input when left out.")] = None,
    session: Session = None,
    as_json: AsJson = False,
) -> int:
    """One turn. Exit 0: answered, 3: waits for an approval, 1: failed, 2: usage."""
    settings = Settings.read()
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read()
    if text is None or not text.strip():
        raise UsageError("no_text")
    said = text.strip()
    name = session or _new_session()

    async def work(agent: "Agent") -> int:
        code = await _play(agent.advance(name, said), settings, as_json)
        if session is None and not as_json:
            print(f"(--session {name})", file=sys.stderr)
        return code

    return _with_agent(settings, work, quiet=as_json)


@app.command()
def call(
    tool: Annotated[str, typer.Argument(help="One of the ten operations; see `campaign-agent tools`.")],
    arguments: Annotated[str, typer.Argument(help="Its arguments as JSON.")] = "{}",
    session: Session = None,
    as_json: AsJson = False,
) -> int:
    """One operation without a model, through the same gate. Prints the answer as JSON."""
    from agent.events import ToolResult
    from agent.operations import BY_NAME

    settings = Settings.read()
    if tool not in BY_NAME:
        raise UsageError("no_such_tool", tool=tool)

    async def work(agent: "Agent") -> int:
        async def events() -> "AsyncGenerator[AgentEvent]":
            async for event in agent.call(session or _new_session(), tool, arguments):
                if isinstance(event, ToolResult) and not as_json and event.ok:
                    print(json.dumps(event.result, ensure_ascii=False, indent=2))
                yield event

        return await _play(events(), settings, as_json)

    return _with_agent(settings, work, quiet=as_json)


# Deciding.


@app.command()
def approvals(
    approval_id: Annotated[str | None, typer.Argument(metavar="ID", help="Show this one whole.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    as_json: AsJson = False,
) -> int:
    """What waits for a decision."""
    settings = Settings.read()

    async def work(agent: "Agent") -> int:
        from agent.interfaces.terminal import plain

        states = None if every or approval_id else ("pending",)
        found = await agent.journal.read(lambda tx: tx.approvals(states=states))
        found = [await agent.gate.settle(approval) for approval in found]
        if approval_id is not None:
            found = [approval for approval in found if approval.id == approval_id]
            if not found:
                raise DecisionRefused("unknown", approval=approval_id)
        elif not every:
            found = [approval for approval in found if approval.state == "pending"]
        screen = _screen(settings)
        for approval in found:
            event = agent.asked(approval, screen.words.language)
            by = await _approved_by(agent, approval.id)
            if as_json:
                more = {"state": approval.state, "needed": approval.needed, "approved_by": by}
                print(json.dumps({**plain(event), **more}, ensure_ascii=False))
            elif every and approval_id is None:
                print(f"{approval.id}  {approval.state:10}  {event.card.headline}")
            else:
                screen.card(event.card, folded=approval_id is None)
                if approval.state == "pending" and by:
                    screen.say(screen.words.say("card.approved_by", who=by, needed=approval.needed))
                if approval.state != "pending":
                    screen.say(screen.words.say("card.state", state=approval.state))
        if not found and not as_json:
            print(screen.words.say("screen.nothing_waits"))
        return ANSWERED

    return _with_agent(settings, work, quiet=as_json)


async def _approved_by(agent: "Agent", approval_id: str) -> list[str]:
    decisions = await agent.journal.read(lambda tx: tx.decisions(approval_id))
    return [made.identity for made in decisions if made.decision == "approve"]


@app.command()
def approve(
    approval_id: Annotated[str, typer.Argument(metavar="ID")],
    confirm: Annotated[str | None, typer.Option(help="The title, where a card wants it typed.")] = None,
    as_json: AsJson = False,
) -> int:
    """Approve what a card shows, as the user of this machine; the turn goes on."""
    settings = Settings.read()
    interactive = sys.stdin.isatty() and sys.stderr.isatty()

    async def work(agent: "Agent") -> int:
        if interactive and confirm is None and not as_json:
            code = await _approve_here(agent, settings, approval_id)
        else:
            events = agent.decide(approval_id, "approve", confirm=confirm, interactive=interactive)
            code = await _play(events, settings, as_json, must_run=True)
        approval = await agent.journal.read(lambda tx: tx.approval(approval_id))
        # Recorded, and somebody else has to approve it, too.
        waits = code == ANSWERED and approval is not None and approval.state == "pending"
        return WAITS if waits else code

    return _with_agent(settings, work, quiet=as_json)


async def _approve_here(agent: "Agent", settings: Settings, approval_id: str) -> int:
    """At a terminal the card is shown first, and a key decides."""
    from agent.gate import Identity
    from agent.interfaces.terminal import decide_here

    approval = await agent.journal.read(lambda tx: tx.approval(approval_id))
    if approval is None or (await agent.gate.settle(approval)).state != "pending":
        return await _play(agent.decide(approval_id, "approve"), settings, False)
    screen = _screen(settings)
    screen.card(agent.asked(approval, screen.words.language).card, folded=False)

    events = await decide_here(agent, screen, approval, _typed_line, by=Identity.os_user())
    return WAITS if events is None else await _play(events, settings, False, must_run=True)


async def _typed_line(question: str) -> str:
    """A line from the terminal. Nothing reads while nothing was typed, so that Ctrl-C ends the waiting at once."""
    print(question, end="", file=sys.stderr, flush=True)
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


@app.command()
def deny(
    approval_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str | None, typer.Option(help="Why; the model is told.")] = None,
    as_json: AsJson = False,
) -> int:
    """Deny what a card shows; the turn goes on."""
    settings = Settings.read()
    interactive = sys.stdin.isatty()

    async def work(agent: "Agent") -> int:
        events = agent.decide(approval_id, "deny", reason=reason, interactive=interactive)
        return await _play(events, settings, as_json)

    return _with_agent(settings, work, quiet=as_json)


# Looking.


@app.command()
def tools(
    tool: Annotated[str | None, typer.Argument(help="One operation, with its fields in words.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="openai or mcp: the schemas as sent.")] = None,
) -> int:
    """The ten operations, as they are sent to a model, or in words."""
    from agent.operations import BY_NAME, OPERATIONS, describe, mcp_tools, openai_tools

    if tool is not None and tool not in BY_NAME:
        raise UsageError("no_such_tool", tool=tool)
    if form not in (None, "openai", "mcp"):
        raise UsageError("format", form=form)
    if form is not None:
        settings = Settings.read()
        strict = settings.strict_tools if settings.strict_tools is not None else settings.openai_base_url is None
        sent = mcp_tools() if form == "mcp" else openai_tools(strict=strict)
        wanted = [t for t in sent if tool in (None, t.get("name") or t["function"]["name"])]
        print(json.dumps(wanted, ensure_ascii=False, indent=2))
        return ANSWERED
    for operation in OPERATIONS:
        if tool is None:
            print(f"{operation.tool():32} {operation.risk:12} {describe(operation)}")
    if tool is not None:
        _explain(tool)
    return ANSWERED


def _explain(tool: str) -> None:
    from agent.operations import BY_NAME, describe, schema

    operation = BY_NAME[tool]
    print(f"{tool} ({operation.risk}): {describe(operation)}\n{operation.method} {operation.path}\n")
    _explain_fields(schema(operation), "  ")


_BOUNDS = ("enum", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern")


def _explain_fields(shape: Mapping[str, Any], indent: str) -> None:
    """A line for each field, with its bounds, and those of what is in it."""
    for name, field in shape["properties"].items():
        element = field.get("items", {})
        kind = f"{field['type']} of {element['type']}s" if element else field.get("type", "")
        needed = "required" if name in shape.get("required", []) else "optional"
        bounds = {key: inner[key] for inner in (element, field) for key in _BOUNDS if key in inner}
        extra = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in bounds.items())
        about = field.get("description") or element.get("description", "")
        print(f"{indent + name:22} {kind:16} {needed:9} {about} {extra}".rstrip())
        if "properties" in (inner := element or field):
            _explain_fields(inner, indent + "  ")


@app.command()
def attempts(as_json: AsJson = False, limit: Annotated[int, typer.Option(min=1)] = 50) -> int:
    """What ran: who asked, who approved, when, and how it ended."""
    settings = Settings.read()

    async def work(agent: "Agent") -> int:
        from agent.gate import Outcome

        await agent.gate.sweep()
        words = _words(settings)
        for attempt in await agent.journal.read(lambda tx: tx.attempts(limit=limit)):
            outcome = attempt.outcome and Outcome.load(attempt.outcome)
            line = agent.line(outcome, words.language) if outcome else ""
            approval = "" if attempt.approval.startswith("write:") else attempt.approval
            if as_json:
                row: dict[str, Any] = {"id": attempt.id, "approval": approval or None, "session": attempt.conversation}
                row |= {"tool": attempt.tool, "arguments": attempt.arguments, "by": attempt.by, "state": attempt.state}
                row |= {"started_at": attempt.started_at, "ended_at": attempt.ended_at, "line": line}
                print(json.dumps(row, ensure_ascii=False))
                continue
            when = datetime.fromtimestamp(attempt.started_at, settings.zone)
            print(f"{attempt.id}  {when:%Y-%m-%d %H:%M:%S}  {attempt.state:8} {attempt.by:10} {attempt.tool}")
            print(f"    {line}" + (f" (approval {approval})" if approval else ""))
        return ANSWERED

    return _with_agent(settings, work, quiet=as_json)


@app.command()
def log(session: Session = None, as_json: AsJson = False, limit: Annotated[int, typer.Option(min=1)] = 200) -> int:
    """The record of a session, or of all: messages, cards, decisions, attempts, in order of time."""
    settings = Settings.read()

    async def work(agent: "Agent") -> int:
        from agent.interfaces.record import record

        if session is not None:
            await _must_exist(agent, session)
        rows = await agent.journal.read(lambda tx: record(tx, session, limit))
        for row in rows:
            if as_json:
                print(json.dumps(row, ensure_ascii=False))
                continue
            when = datetime.fromtimestamp(row["at"], settings.zone)
            print(f"{when:%Y-%m-%d %H:%M:%S}  {row['session']:10} {row['what']:9} {row['by'] or '':10} {row['text']}")
        return ANSWERED

    return _with_agent(settings, work, quiet=as_json)


@app.command()
def sessions() -> int:
    """Earlier sessions, newest first."""
    settings = Settings.read()

    async def work(agent: "Agent") -> int:
        from agent.visible import visible

        for known in await agent.journal.read(lambda tx: tx.conversations(100)):
            when = datetime.fromtimestamp(known.updated_at, settings.zone)
            print(f"{known.id:14} {when:%Y-%m-%d %H:%M}  {visible(known.first_words)}")
        return ANSWERED

    return _with_agent(settings, work)


# Running and checking.


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8787,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    database: Annotated[Path | None, typer.Option(help="SQLite file; the embedded sandbox's by default.")] = None,
) -> int:
    """Run the sandbox of the campaigns API on a port, for developing against it."""
    import uvicorn

    from agent.database import named
    from agent.interfaces.ports import listen
    from agent.sandbox.api import create_app
    from agent.sandbox.seed import LOCAL_KEY

    settings = Settings.read()
    _make_home(settings)
    file = database or settings.home / "sandbox.db"
    with named(file):
        made = create_app(file)
    listener = listen(host, port)
    print(f"PLATICA_BASE_URL=http://{host}:{listener.getsockname()[1]} PLATICA_API_KEY={LOCAL_KEY}", flush=True)
    gc.freeze()
    gc.enable()
    server = uvicorn.Server(uvicorn.Config(made, log_level="warning"))
    asyncio.run(server.serve([listener]))
    return ANSWERED


slack_app = typer.Typer(
    name="slack",
    invoke_without_command=True,
    rich_markup_mode=None,
    help="The Slack bot: the same agent and the same gate, in direct messages and threads.",
)
app.add_typer(slack_app)
DAY = 86_400.0


@slack_app.callback()
def slack(
    context: typer.Context,
    http: Annotated[int | None, typer.Option(help="Take events over HTTP on this port, not over a socket.")] = None,
    health: Annotated[int | None, typer.Option(help="Answer /healthz on this port too.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> int:
    """Run the Slack bot until it is stopped. Needs SLACK_BOT_TOKEN, and SLACK_APP_TOKEN or SLACK_SIGNING_SECRET."""
    if context.invoked_subcommand is not None:
        return ANSWERED
    import logging

    settings = Settings.read()
    try:
        import slack_bolt  # noqa: F401
    except ImportError:
        raise UsageError("setting", setting="slack", problem="pip install 'campaign-agent[slack]'") from None
    from agent.interfaces.slack import SlackBot, secret

    for name in ("SLACK_BOT_TOKEN", "SLACK_SIGNING_SECRET" if http is not None else "SLACK_APP_TOKEN"):
        secret(settings, name)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    if "approval_ttl" not in settings.model_fields_set:
        # People in Slack answer when they come by.
        settings = settings.model_copy(update={"approval_ttl": DAY})

    async def work(agent: "Agent") -> int:
        await SlackBot(agent, http=http, health=health, host=host).run()
        return ANSWERED

    return _with_agent(settings, work)


@slack_app.command("manifest")
def slack_manifest(
    url: Annotated[str | None, typer.Option(help="Public https address of --http; a socket without.")] = None,
) -> int:
    """Print the app's manifest, to paste at api.slack.com/apps."""
    from agent.interfaces.slack_manifest import manifest

    print(json.dumps(manifest(_words(Settings.read()), url=url), ensure_ascii=False, indent=2))
    return ANSWERED


@app.command()
def doctor() -> int:
    """Check the set-up: settings, database, campaigns API, model. Changes nothing."""
    settings = Settings.read()

    async def work(agent: "Agent") -> int:
        from agent.interfaces.doctor import examine

        healthy = True
        async for name, problem, hint in examine(agent, _words(settings)):
            healthy = healthy and not hint
            print(f"{'✗' if hint else '✓'} {name}: {problem}" + (f"\n  {hint}" if hint else ""))
        return ANSWERED if healthy else FAILED

    return _with_agent(settings, work)


@app.command()
def demo() -> int:
    """A short scripted conversation on a fresh sandbox: a card, a denial, an approval, the outbox."""
    from agent.interfaces.demo import play

    settings = Settings.read()
    with tempfile.TemporaryDirectory(prefix="campaign-agent-") as folder:
        # Whatever keys and limits are set: a demonstration never leaves the sandbox, and shows what is so by default.
        fresh = Settings.model_construct(
            language=settings.language,
            timezone=settings.timezone,
            state_dir=Path(folder),
            allow_noninteractive_approve=True,
        )
        return _with_agent(fresh, lambda agent: play(agent, _screen(fresh), Path(folder) / "sandbox.db"), quiet=True)
