"""The two loops that are compared, each a warmed-up process that plays what it is told to, one JSON line at a time.

    python -m evals.bench.peers ours|ours-memory|plain

`plain` is what one writes with the SDK in an afternoon: `create()`, a list of messages, tool calls over one
httpx.AsyncClient, nothing kept. Both get the same system prompt, context, tools, history and connections.
"""

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import httpx
from pydantic_core import from_json, to_json

from agent.cli import build
from agent.events import ApprovalAsked, Failed, Reply, ToolResult
from agent.journal import Event, Journal
from agent.loop import Agent
from agent.operations import openai_tools
from agent.settings import Settings
from evals.bench.servers import CAMPAIGN, DELETED, REPLY, TITLE

QUESTION = "¿Cuáles son mis campañas y cómo va la más reciente?"
"""What a turn begins with."""


def journal_url(settings: Settings) -> str:
    return f"sqlite:///{settings.home / 'bench.db'}"


def past(turns: int, context: str) -> list[tuple[str, dict[str, Any]]]:
    """What was said before, as (kind, message): 1.4 KB a turn, after the workspace's data."""
    events: list[tuple[str, dict[str, Any]]] = [("context", from_json(context))] if turns else []
    campaign = {"id": CAMPAIGN, "title": TITLE, "category": "marketing", "platform": "whatsapp", "language": "es_MX"}
    answer = {"outcome": "done", "result": {"workspaces": [{"id": "ws_norte", "campaigns": [campaign]}]}}
    content = to_json(answer).decode()
    for turn in range(turns):
        events.append(("user", {"role": "user", "content": QUESTION}))
        for step, (name, arguments) in enumerate(
            (("list_campaigns", '{"limit":50}'), ("get_campaign", f'{{"campaignId":"{CAMPAIGN}"}}'))
        ):
            function = {"name": name, "arguments": arguments}
            call = {"id": f"call_past_{turn:04d}_{step}", "type": "function", "function": function}
            events.append(("assistant", {"role": "assistant", "content": None, "tool_calls": [call]}))
            events.append(("tool", {"role": "tool", "tool_call_id": call["id"], "content": content}))
        events.append(("assistant", {"role": "assistant", "content": REPLY}))
    return events


class Peer(Protocol):
    async def begin(self, turns: int) -> Any:
        """A fresh conversation that has `turns` behind it."""

    async def play(self, conversation: Any) -> None: ...

    async def aclose(self) -> None: ...


class CountingJournal(Journal):
    """Knows how often it wrote: each is a commit when nothing else happens at the same time."""

    commits = 0

    async def write(self, job: Any) -> Any:
        self.commits += 1
        return await super().write(job)


class Ours:
    """The Agent as the CLI builds it, with its journal in a file, or in memory to see what the disk costs."""

    def __init__(self, settings: Settings, *, memory: bool) -> None:
        built = build(settings)
        self.settings, self.model, self.platica = settings, built.model, built.platica
        self.journal = CountingJournal("sqlite://" if memory else journal_url(settings))
        self.agent = self.fresh(self.journal)
        self._number = 0
        self._context = ""

    def fresh(self, journal: Journal) -> Agent:
        """Another Agent over the same connections."""
        return Agent(self.settings, model=self.model, platica=self.platica, journal=journal)

    async def aclose(self) -> None:
        await self.agent.aclose()

    async def begin(self, turns: int) -> str:
        self._number += 1
        session = f"s{os.getpid()}_{self._number}"
        if turns:
            if not self._context:
                self._context = await self.context()
            messages = past(turns, self._context)
            events = [Event(at, kind, to_json(m).decode()) for at, (kind, m) in enumerate(messages, 1)]
            await self.journal.write(lambda tx: tx.append(session, events))
        return session

    async def context(self) -> str:
        """The workspace's data as the Agent itself puts it before a first message."""
        session = await self.begin(0)
        await self.play(session)
        return (await self.journal.read(lambda tx: tx.events(session)))[0].body

    async def play(self, conversation: str) -> None:
        replies = tools = 0
        async for event in self.agent.advance(conversation, QUESTION):
            assert not isinstance(event, Failed), event
            tools += isinstance(event, ToolResult) and event.ok
            replies += isinstance(event, Reply) and event.text == REPLY
        assert (tools, replies) == (2, 1)


class Plain:
    """A `create()` loop. Its client for the campaigns API has the limits that the CLI gives ours."""

    def __init__(self, settings: Settings, system: str, context: str) -> None:
        import openai

        self._client = openai.AsyncOpenAI(
            api_key="sk-bench", base_url=settings.openai_base_url, timeout=settings.model_timeout
        )
        limits = httpx.Limits(max_connections=10, max_keepalive_connections=5, keepalive_expiry=4.0)
        self._http = httpx.AsyncClient(base_url=settings.api_url, limits=limits, timeout=None)
        self._tools: Any = openai_tools()
        self._system, self._context = system, context
        self._stream, self._model = settings.stream, settings.model

    async def begin(self, turns: int) -> list[dict[str, Any]]:
        said = past(turns, self._context) or [("context", from_json(self._context))]
        return [{"role": "system", "content": self._system}, *(message for _, message in said)]

    async def play(self, conversation: list[dict[str, Any]]) -> None:
        conversation.append({"role": "user", "content": QUESTION})
        tools = 0
        while True:
            message = await self.ask(conversation)
            conversation.append(message)
            for call in message.get("tool_calls") or []:
                tools += 1
                arguments = json.loads(call["function"]["arguments"])
                content = await self.run(call["function"]["name"], arguments)
                conversation.append({"role": "tool", "tool_call_id": call["id"], "content": content})
            if not message.get("tool_calls"):
                assert (tools, message["content"]) == (2, REPLY)
                return

    async def aclose(self) -> None:
        await self._client.close()
        await self._http.aclose()

    async def ask(self, messages: Any) -> dict[str, Any]:
        return await (self._ask_stream(messages) if self._stream else self._ask(messages))

    async def run(self, name: str, arguments: dict[str, Any]) -> str:
        headers = {"authorization": "Bearer pl_key_bench_secret"}
        if name == "list_campaigns":
            answer = await self._http.get("/v1/campaigns", params=arguments, headers=headers)
        else:
            method = "DELETE" if name == "delete_campaign" else "GET"
            answer = await self._http.request(method, f"/v1/campaigns/{arguments['campaignId']}", headers=headers)
        answer.raise_for_status()
        return answer.text

    async def _ask(self, messages: Any) -> dict[str, Any]:
        completion = await self._client.chat.completions.create(model=self._model, messages=messages, tools=self._tools)
        return completion.choices[0].message.model_dump(exclude_none=True)

    async def _ask_stream(self, messages: Any) -> dict[str, Any]:
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            tools=self._tools,
            stream=True,
            stream_options={"include_usage": True},
        )
        text = ""
        calls: dict[int, dict[str, Any]] = {}
        async for chunk in stream:
            if not chunk.choices:
                continue
            delta = chunk.choices[0].delta
            text += delta.content or ""
            for part in delta.tool_calls or []:
                assert part.function is not None
                call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                call["arguments"] += part.function.arguments or ""
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in calls.values()
            ]
        return message


# What a worker can be told to do.


async def turns(peer: Peer, before: int, plays: int) -> list[float]:
    """CPU ms of each of the turns that follow `before` turns, in a fresh conversation; of first turns, one each."""
    conversation = await peer.begin(before)
    out = []
    for number in range(plays):
        if number and not before:
            conversation = await peer.begin(before)
        start = time.process_time()
        await peer.play(conversation)
        out.append((time.process_time() - start) * 1000)
    return out


async def crowd(peer: Peer, sessions: int, plays: int) -> dict[str, float]:
    """Many conversations at once, all on one loop."""

    async def one() -> None:
        conversation = await peer.begin(0)
        for _ in range(plays):
            await peer.play(conversation)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(sessions)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": sessions * plays / wall, "wall": wall, "cpu": cpu}


async def approval(ours: Ours) -> dict[str, float]:
    """A deletion: to the card, and from the decision to the model's last word on an Agent that knows nothing yet."""
    session = await ours.begin(0)
    fresh = CountingJournal(journal_url(ours.settings))
    before = ours.journal.commits
    marks = [(time.perf_counter(), time.process_time())]
    events = [event async for event in ours.agent.advance(session, f"borra la campaña {TITLE}")]
    (card,) = [event for event in events if isinstance(event, ApprovalAsked)]
    marks.append((time.perf_counter(), time.process_time()))
    events = [event async for event in ours.fresh(fresh).decide(card.id, "approve", confirm=TITLE)]
    marks.append((time.perf_counter(), time.process_time()))
    assert [e.outcome for e in events if isinstance(e, ToolResult)] == ["done"], events
    assert [e.text for e in events if isinstance(e, Reply)] == [DELETED], events
    await fresh.aclose()
    (w0, c0), (w1, _), (w2, c2) = marks
    return {
        "pause": (w1 - w0) * 1000,
        "resume": (w2 - w1) * 1000,
        "wall": (w2 - w0) * 1000,
        "cpu": (c2 - c0) * 1000,
        "pause_commits": ours.journal.commits - before,
        "resume_commits": fresh.commits,
    }


async def bare_approval(plain: Plain, folder: Path) -> dict[str, float]:
    """The same deletion in the plain loop, which saves its messages while a person would decide: no state is looked at,
    nothing is claimed, and whoever answers twice deletes twice. What is left is the machine's and the SDK's."""
    conversation = [*await plain.begin(0), {"role": "user", "content": f"borra la campaña {TITLE}"}]
    start = time.perf_counter()
    conversation.append(await plain.ask(conversation))
    with (folder / "paused.json").open("wb") as file:
        file.write(json.dumps(conversation).encode())
        file.flush()
        os.fsync(file.fileno())
    conversation = json.loads((folder / "paused.json").read_bytes())
    (call,) = conversation[-1]["tool_calls"]
    content = await plain.run(call["function"]["name"], json.loads(call["function"]["arguments"]))
    conversation.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    assert (await plain.ask(conversation))["content"] == DELETED
    return {"wall": (time.perf_counter() - start) * 1000}


async def commits(ours: Ours) -> int:
    """Commits of one turn of a conversation that exists."""
    session = await ours.begin(1)
    before = ours.journal.commits
    await ours.play(session)
    return ours.journal.commits - before


async def open_peer(kind: str, settings: Settings) -> Peer:
    if kind == "plain":
        ours = Ours(settings, memory=True)
        context, system = await ours.context(), ours.agent.words("es").system(read_only=False)
        await ours.agent.aclose()
        return Plain(settings, system, context)
    return Ours(settings, memory=kind == "ours-memory")


async def work(kind: str) -> None:
    settings = Settings.read()
    peer = await open_peer(kind, settings)
    # What was loaded stays for ever; the commands do the same, and neither loop is to pay for the other's imports.
    gc.collect()
    gc.freeze()
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"do": "turns", "before": int(before), "plays": int(plays)}:
                answer: Any = await turns(peer, before, plays)
            case {"do": "crowd", "sessions": int(sessions), "plays": int(plays)}:
                answer = await crowd(peer, sessions, plays)
            case {"do": "approval"} if isinstance(peer, Ours):
                answer = await approval(peer)
            case {"do": "approval"} if isinstance(peer, Plain):
                answer = await bare_approval(peer, settings.home)
            case {"do": "commits"} if isinstance(peer, Ours):
                answer = await commits(peer)
            case {"do": "size"}:
                answer = sum(len(to_json(message)) for _, message in past(50, "null"))
            case other:
                raise ValueError(other)
        print(json.dumps(answer), flush=True)
    await peer.aclose()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
