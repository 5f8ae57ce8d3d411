"""The demonstration: a conversation with the embedded model on a fresh sandbox, decided by a script."""

from pathlib import Path

from agent.events import AgentEvent, ApprovalAsked, Failed
from agent.gate import Identity
from agent.interfaces.terminal import Screen
from agent.loop import Agent

_SESSION = "demo"


async def play(agent: Agent, screen: Screen, sandbox: Path) -> int:
    """Plays it and says what came of it. 0 when everything went as it should."""
    say = screen.words.say
    screen.say(say("demo.intro"), "bold")
    screen.say(say("screen.offline"), "dim")
    for key in ("list", "create", "add"):
        await _turn(agent, screen, say(f"demo.{key}"))
    card = await _turn(agent, screen, say("demo.send"))
    if not isinstance(card, ApprovalAsked):
        return 1
    screen.say(say("demo.denies"), "bold")
    await _decide(agent, screen, card, "deny", say("demo.reason"))
    before = len(_outbox(sandbox))
    card = await _turn(agent, screen, say("demo.send_again"))
    if not isinstance(card, ApprovalAsked):
        return 1
    screen.say(say("demo.approves"), "bold")
    ended = await _decide(agent, screen, card, "approve", None)
    after = _outbox(sandbox)
    screen.say(say("demo.outbox", before=before, after=len(after)), "bold")
    for message in after:
        screen.say(say("demo.message", to=message["name"], phone=message["phone"], text=message["text"]))
    screen.say(say("demo.end"), "bold")
    return 0 if before == 0 and len(after) == 2 and not isinstance(ended, Failed) else 1


async def _turn(agent: Agent, screen: Screen, text: str) -> AgentEvent | None:
    screen.say(f"\n› {text}", "bold cyan")
    last = None
    async for event in agent.advance(_SESSION, text):
        screen.show(event)
        last = event
    screen.end_text()
    return last


async def _decide(
    agent: Agent, screen: Screen, card: ApprovalAsked, decision: str, reason: str | None
) -> AgentEvent | None:
    last = None
    by = Identity.os_user()
    async for event in agent.decide(card.id, decision, by=by, reason=reason, interactive=False):
        screen.show(event)
        last = event
    screen.end_text()
    return last


def _outbox(sandbox: Path) -> list[dict[str, str]]:
    import sqlite3

    with sqlite3.connect(sandbox) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT name, phone, text FROM outbox ORDER BY seq")]
