"""The terminal: events on a screen, cards to decide on, and a chat around them."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from pydantic_core import to_json

from agent.domain import Json
from agent.events import AgentEvent, ApprovalAsked, Failed, Progress, Reply, Text, ToolCalled, ToolResult, Usage
from agent.gate import Identity, count_to_type
from agent.journal import Approval
from agent.loop import Agent
from agent.operations import OPERATIONS, describe
from agent.preview import Preview
from agent.prompts import Card, Words
from agent.visible import visible, visible_lines

Ask = Callable[[str], Awaitable[str]]
"""Asks one question on the terminal. Raises EOFError or KeyboardInterrupt when the person leaves it."""


def plain(event: AgentEvent) -> dict[str, Json]:
    """An event as one line of `ask --json`."""
    match event:
        case ApprovalAsked():
            expires = datetime.fromtimestamp(event.expires_at, UTC).isoformat(timespec="seconds")
            fields: dict[str, Json] = {
                "id": event.id,
                "tool": event.tool,
                "arguments": event.arguments,
                "preview": event.preview,
            }
            fields |= {"warnings": list(event.warnings), "expires_at": expires, "confirm": event.confirm}
        case Usage():
            fields = dict(event.tokens)
        case _:
            fields = {name: getattr(event, name) for name in type(event).__slots__ if name != "result"}
    return {"type": event.type, **fields}


class Screen:
    """Writes events for a person: with colour and frames on a terminal, plain lines elsewhere."""

    def __init__(self, words: Words, out: TextIO, err: TextIO) -> None:
        self.words, self._out, self._err = words, out, err
        self._fancy = out.isatty()
        self._in_text = False
        self._console: Any = None

    def show(self, event: AgentEvent) -> None:
        match event:
            case Text(delta):
                self._in_text = True
                self._out.write(visible_lines(delta))
                self._out.flush()
            case ToolCalled(_, name, arguments):
                self.end_text()
                self._line(f"· {name} {_brief(arguments)}", "dim")
            case ToolResult(_, _, ok, _, line, _):
                self.end_text()
                if line:
                    self._line(("✓ " if ok else "✗ ") + line, "bold green" if ok else "bold yellow")
            case Progress(read):
                self._line("… " + self.words.say("screen.reading_audience", read=read), "dim")
            case ApprovalAsked(card=card):
                self.card(card)
            case Reply():
                self.end_text()
            case Failed(code, message, hint):
                self.error(code, message, hint)

    def card(self, card: Card, *, folded: bool = True) -> None:
        self.end_text()
        if not self._fancy:
            self._out.write("\n".join(["", *card.lines(), ""]) + "\n")
            return
        from rich import box
        from rich.panel import Panel
        from rich.text import Text as RichText

        body = RichText()
        for line in card.drift:
            body.append(f"! {line}\n", "bold magenta")
        for label, value in card.rows:
            body.append(f"{label}: " if label else "  ", "cyan")
            body.append(value + "\n", "" if label else "italic")
        for line in [*card.warnings, *([] if folded else card.folded)]:
            body.append(f"! {line}\n", "bold yellow")
        body.append(card.footer, "dim")
        title = RichText(card.headline, "bold red")
        self.rich().print(Panel(body, title=title, title_align="left", box=box.HEAVY, border_style="red"))

    def error(self, code: str, message: str, hint: str) -> None:
        self.end_text()
        self._err.write(f"✗ {message}\n  {hint} [{code}]\n")
        self._err.flush()

    def say(self, text: str, style: str = "") -> None:
        self.end_text()
        self._line(text, style)

    def end_text(self) -> None:
        if self._in_text:
            self._out.write("\n")
            self._in_text = False
        self._out.flush()

    def rich(self) -> Any:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._out, highlight=False, markup=False)
        return self._console

    def _line(self, text: str, style: str) -> None:
        if self._fancy:
            from rich.text import Text as RichText

            self.rich().print(RichText(text, style), soft_wrap=True)
        else:
            self._out.write(text + "\n")
            self._out.flush()


def _brief(arguments: Json) -> str:
    if not isinstance(arguments, Mapping):
        return visible(arguments)[:80]
    shown = {key: value if isinstance(value, str) else to_json(value).decode() for key, value in arguments.items()}
    text = ", ".join(f"{key}={value}" for key, value in shown.items())
    return visible(text if len(text) <= 100 else text[:99] + "…")


async def decide_here(
    agent: Agent, screen: Screen, approval: Approval, ask: Ask, *, by: Identity
) -> AsyncGenerator[AgentEvent] | None:
    """Asks the person at the terminal about a card that was just shown. None: left waiting."""
    preview = Preview.load(approval.preview)
    folded = len(preview.warnings) > 3
    say = screen.words.say
    if (refused := agent.gate.entitled(approval, by, approve=True)) is not None:
        screen.say(" ".join(screen.words.error(refused)), "bold yellow")
        if agent.gate.entitled(approval, by) is not None:
            return None
    while True:
        _forget_typed_ahead()
        try:
            answer = (await ask(say("card.ask_folded" if folded else "card.ask") + " ")).strip()
        except (EOFError, KeyboardInterrupt):
            answer = ""
        match answer.lower():
            case "":
                screen.say(say("card.left_waiting", approval=approval.id), "dim")
                return None
            case "w" if folded:
                screen.card(agent.asked(approval, screen.words.language).card, folded=False)
            case "a":
                confirm = await _confirmation(screen, preview, ask)
                if confirm is not None:
                    return agent.decide(approval.id, "approve", by=by, confirm=confirm)
            case "d" | "n" | "no":
                return agent.decide(approval.id, "deny", by=by)
            case "y" | "yes" | "s" | "si" | "sí" | "ok" | "w" | "/help":
                # A habit is neither an approval nor a reason to deny.
                continue
            case "/quit" | "/exit" | "/q":
                screen.say(say("card.left_waiting", approval=approval.id), "dim")
                return None
            case _:
                return agent.decide(approval.id, "deny", by=by, reason=answer)


async def _confirmation(screen: Screen, preview: Preview, ask: Ask) -> str | None:
    """What was typed where the card wants more than a key; the gate checks it, not we."""
    if preview.confirm == "yes":
        return ""
    campaign = preview.facts["campaign"]
    title = campaign["title"] or campaign["id"]
    key = "card.type_title" if preview.confirm == "title" else "card.type_either"
    try:
        typed = await ask(screen.words.say(key, title=title, count=count_to_type(preview)) + "\n> ")
    except (EOFError, KeyboardInterrupt):
        return None
    return typed.strip() or None


def _forget_typed_ahead() -> None:
    """Keys pressed before the card was on the screen decide nothing."""
    if "prompt_toolkit" in sys.modules:
        from prompt_toolkit.application.current import get_app_session
        from prompt_toolkit.input.typeahead import clear_typeahead

        # It keeps what came in one piece with the line before.
        clear_typeahead(get_app_session().input)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import termios

        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


class Chat:
    """The chat: a prompt with history and several lines, turns that Ctrl-C stops, commands that begin with a slash."""

    def __init__(self, agent: Agent, screen: Screen, session: str, *, by: Identity, banner: list[str]) -> None:
        self._agent, self._screen, self._session, self._by = agent, screen, session, by
        self._banner = banner
        self._prompt: Any = None

    async def run(self) -> None:
        self._prompt = _make_prompt(self._agent)
        for line in self._banner:
            self._screen.say(line, "dim")
        await self._turn(self._agent.advance(self._session, None, by=self._by))
        while True:
            try:
                text = (await self._prompt.prompt_async("› ")).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if text in ("/quit", "/exit", "/q"):
                break
            if text.startswith("/"):
                await self._command(text.split()[0])
            elif text:
                await self._turn(self._agent.advance(self._session, text, by=self._by))
        if await self._agent.journal.read(lambda tx: tx.events(self._session)):
            self._screen.say(self._screen.words.say("screen.goodbye", session=self._session), "dim")

    async def _ask(self, question: str) -> str:
        from prompt_toolkit import PromptSession

        answer: str = await PromptSession[str]().prompt_async(question)
        return answer

    async def _turn(self, events: AsyncGenerator[AgentEvent]) -> None:
        """One turn, and then the decisions that it waits for."""
        asked = await self._show(events)
        while asked is not None:
            approval = await self._stored(asked)
            self._screen.words = self._agent.words_of(self._session)
            decided = await decide_here(self._agent, self._screen, approval, self._ask, by=self._by)
            if decided is None:
                return
            again = await self._show(decided, asked)
            asked = again

    async def _stored(self, asked: ApprovalAsked) -> Approval:
        approval = await self._agent.journal.read(lambda tx: tx.approval(asked.id))
        assert approval is not None
        return approval

    async def _show(
        self, events: AsyncGenerator[AgentEvent], before: ApprovalAsked | None = None
    ) -> ApprovalAsked | None:
        """Shows a turn. Returns the card it ended on; the one before, when its confirmation was mistyped."""
        last: AgentEvent | None = None

        async def drain() -> None:
            nonlocal last
            async with contextlib.aclosing(events):
                async for event in events:
                    mistyped = isinstance(event, Failed) and event.code == "approval_confirmation"
                    if before is not None and mistyped:
                        self._screen.say(self._screen.words.say("card.type_wrong"), "bold yellow")
                    else:
                        self._screen.show(event)
                    if not isinstance(event, Usage):
                        last = event

        task = asyncio.ensure_future(drain())
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            self._screen.say(self._screen.words.say("screen.stopped"), "yellow")
            return None
        finally:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)
            self._screen.end_text()
        if isinstance(last, Failed) and last.code == "approval_confirmation":
            return before
        return last if isinstance(last, ApprovalAsked) else None

    async def _command(self, name: str) -> None:
        say = self._screen.words.say
        match name:
            case "/approvals":
                waiting = await self._agent.journal.read(lambda tx: tx.approvals(states=("pending",)))
                waiting = [a for a in [await self._agent.gate.settle(a) for a in waiting] if a.state == "pending"]
                if not waiting:
                    self._screen.say(say("screen.nothing_waits"))
                for approval in waiting:
                    await self._turn(_one(self._agent.asked(approval, self._screen.words.language)))
            case "/tools":
                for operation in OPERATIONS:
                    self._screen.say(f"{operation.tool():32} {operation.risk:12} {describe(operation)}")
            case "/sessions":
                for known in await self._agent.journal.read(lambda tx: tx.conversations()):
                    when = datetime.fromtimestamp(known.updated_at, self._agent.settings.zone)
                    self._screen.say(f"{known.id:14} {when:%Y-%m-%d %H:%M}  {visible(known.first_words)}")
            case _:
                self._screen.say(say("screen.help"))


async def _one(event: AgentEvent) -> AsyncGenerator[AgentEvent]:
    yield event


def _make_prompt(agent: Agent) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    class History(FileHistory):
        """What was typed, without keys: they stay in a file for years."""

        def store_string(self, string: str) -> None:
            super().store_string(agent.settings.redact(string))

    agent.settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    history = History(str(agent.settings.home / "history"))
    return PromptSession(history=history, key_bindings=keys, prompt_continuation="  ")
