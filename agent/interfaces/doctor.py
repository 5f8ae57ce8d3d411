"""The doctor: one look at each part that a turn needs, and what to do about the one that fails."""

from collections.abc import AsyncIterator

from agent.domain import Risk
from agent.errors import AgentError, ApiRefused
from agent.journal import Transaction, make_owner
from agent.loop import Agent
from agent.model import Completion
from agent.platica import Request
from agent.prompts import Words


async def examine(agent: Agent, words: Words) -> AsyncIterator[tuple[str, str, str]]:
    """Part, what was found, and a hint where something is wrong (else empty)."""
    say, settings = words.say, agent.settings
    yield say("doctor.settings"), f"{settings.api_url} · {settings.timezone} · {settings.confirm}", ""
    try:
        await agent.journal.open()
        await agent.journal.write(_write)
        swept = await agent.gate.sweep()
        open_ends = await agent.journal.read(lambda tx: tx.attempts(states=("started", "unknown")))
        found = say("doctor.journal", unknown=len(open_ends), swept=len(swept))
        yield say("doctor.database"), found, ""
    except AgentError as error:
        yield say("doctor.database"), *words.error(error)
    for name, path in (("campaigns", "campaigns"), ("channels", "channels"), ("templates", "templates")):
        yield await _look(agent, words, name, f"/v1/{path}")
    try:
        hello = b'{"role":"user","content":"Say OK."}'
        async for piece in agent.model.complete([hello]):
            if isinstance(piece, Completion):
                yield say("doctor.model"), agent.model.name, ""
    except AgentError as error:
        yield say("doctor.model"), *words.error(error)


def _write(tx: Transaction) -> None:
    """A full disk shows only when something is written; nothing is left of it."""
    owner = make_owner()
    tx.lock("doctor", owner, 1.0)
    tx.unlock("doctor", owner)


async def _look(agent: Agent, words: Words, name: str, path: str) -> tuple[str, str, str]:
    label = words.say("doctor.api", name=name)
    try:
        answer = await agent.platica.request(Request("GET", path, Risk.READ))
    except ApiRefused as error:
        if error.status == 403 and name != "campaigns":
            return label, words.say("doctor.not_readable"), ""
        return label, *words.error(error)
    except AgentError as error:
        return label, *words.error(error)
    count = sum(len(group.get(name) or []) for group in answer.body["workspaces"] if isinstance(group, dict))
    return label, words.say("doctor.readable", count=count), ""
