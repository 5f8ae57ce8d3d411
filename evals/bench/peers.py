"""The two loops that are compared, each a warmed-up process that plays what it is told to, one JSON line at a time.

    python -m evals.bench.peers ours|ours-memory|plain

`plain` is what one writes with the SDK in an afternoon: `create()`, a list of messages, tool calls over one
httpx.AsyncClient, nothing kept. Both get the same system prompt, context, tools, history and connections.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
from pydantic_core import from_json, to_json

from agent.journal import Event, Journal
from agent.loop import Agent, ApprovalAsked, Failed, Reply, ToolResult
from agent.model import OpenAIModel, connect
from agent.operations import openai_tools
from agent.platica import Platica
from agent.settings import Settings
from evals.bench.servers import CAMPAIGN, DELETED, REPLY, TITLE

QUESTION = "¿Cuáles son mis campañas y cómo va la más reciente?"
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)


def open_http(settings: Settings) -> httpx.AsyncClient:
    """The client that both loops reach the campaigns API with."""
    return httpx.AsyncClient(base_url=settings.api_url, limits=_LIMITS, timeout=60.0)


def open_model(settings: Settings) -> OpenAIModel:
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    client = connect(
        key=key, base_url=settings.openai_base_url, timeout=settings.model_timeout, retries=settings.model_retries
    )
    return OpenAIModel(client, settings.model, openai_tools(), stream=settings.stream)


def open_agent(settings: Settings, journal: Journal) -> Agent:
    key = settings.platica_api_key
    assert key is not None, "PLATICA_API_KEY"
    platica = Platica(open_http(settings), key=key.get_secret_value(), requests_per_second=settings.requests_per_second)
    return Agent(settings, model=open_model(settings), platica=platica, journal=journal)


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


class Ours:
    """The Agent with its journal: a file, or memory to see what the disk costs."""

    def __init__(self, settings: Settings, *, memory: bool) -> None:
        self.journal = Journal("sqlite://" if memory else journal_url(settings))
        self.agent = open_agent(settings, self.journal)
        self._number = 0
        self._context = ""

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
    """A `create()` loop."""

    def __init__(self, settings: Settings, context: str) -> None:
        import openai

        self._client = openai.AsyncOpenAI(
            api_key="sk-bench", base_url=settings.openai_base_url, timeout=settings.model_timeout
        )
        self._http = open_http(settings)
        self._tools: Any = openai_tools()
        self._context, self._stream, self._model = context, settings.stream, settings.model
        self._system = open_agent(settings, Journal("sqlite://")).words("es").system(read_only=False)

    async def begin(self, turns: int) -> list[dict[str, Any]]:
        said = past(turns, self._context) or [("context", from_json(self._context))]
        return [{"role": "system", "content": self._system}, *(message for _, message in said)]

    async def play(self, conversation: list[dict[str, Any]]) -> None:
        conversation.append({"role": "user", "content": QUESTION})
        tools = 0
        while True:
            message = await (self._ask_stream(conversation) if self._stream else self._ask(conversation))
            conversation.append(message)
            for call in message.get("tool_calls") or []:
                tools += 1
                arguments = json.loads(call["function"]["arguments"])
                content = await self._run(call["function"]["name"], arguments)
                conversation.append({"role": "tool", "tool_call_id": call["id"], "content": content})
            if not message.get("tool_calls"):
                assert (tools, message["content"]) == (2, REPLY)
                return

    async def _run(self, name: str, arguments: dict[str, Any]) -> str:
        headers = {"authorization": "Bearer pl_key_bench_secret"}
        if name == "list_campaigns":
            answer = await self._http.get("/v1/campaigns", params=arguments, headers=headers)
        else:
            answer = await self._http.get(f"/v1/campaigns/{arguments['campaignId']}", headers=headers)
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
    """CPU ms of each of the turns that follow `before` turns, in a fresh conversation."""
    conversation = await peer.begin(before)
    out = []
    for _ in range(plays):
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


class CountingJournal(Journal):
    commits = 0

    async def write(self, job: Any) -> Any:
        self.commits += 1
        return await super().write(job)


async def approval(ours: Ours, settings: Settings) -> dict[str, float]:
    """A deletion: to the card on one Agent, and from the decision to the model's last word on another."""
    session = await ours.begin(0)
    first, second = CountingJournal(journal_url(settings)), CountingJournal(journal_url(settings))
    await first.open()
    model, platica = ours.agent.model, ours.agent.platica
    marks = [(time.perf_counter(), time.process_time())]
    agent = Agent(settings, model=model, platica=platica, journal=first)
    events = [event async for event in agent.advance(session, f"borra la campaña {TITLE}")]
    (card,) = [event for event in events if isinstance(event, ApprovalAsked)]
    marks.append((time.perf_counter(), time.process_time()))
    agent = Agent(settings, model=model, platica=platica, journal=second)
    events = [event async for event in agent.decide(card.id, "approve", confirm=TITLE)]
    marks.append((time.perf_counter(), time.process_time()))
    assert [e.outcome for e in events if isinstance(e, ToolResult)] == ["done"], events
    assert [e.text for e in events if isinstance(e, Reply)] == [DELETED], events
    await first.aclose()
    await second.aclose()
    (w0, c0), (w1, _), (w2, c2) = marks
    return {
        "pause": (w1 - w0) * 1000,
        "resume": (w2 - w1) * 1000,
        "wall": (w2 - w0) * 1000,
        "cpu": (c2 - c0) * 1000,
        "pause_commits": first.commits,
        "resume_commits": second.commits,
    }


async def commits(settings: Settings) -> int:
    """Commits of one turn of a conversation that exists."""
    journal = CountingJournal(journal_url(settings))
    agent = open_agent(settings, journal)
    for _ in range(2):
        journal.commits = 0
        events = [event async for event in agent.advance(f"count{os.getpid()}", QUESTION)]
        assert isinstance(events[-1], Reply), events
    await agent.aclose()
    return journal.commits


async def open_peer(kind: str, settings: Settings) -> Peer:
    if kind == "plain":
        agent = Ours(settings, memory=True)
        context = await agent.context()
        await agent.agent.aclose()
        return Plain(settings, context)
    return Ours(settings, memory=kind == "ours-memory")


async def work(kind: str) -> None:
    settings = Settings.read()
    peer = await open_peer(kind, settings)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"do": "turns", "before": int(before), "plays": int(plays)}:
                answer: Any = await turns(peer, before, plays)
            case {"do": "crowd", "sessions": int(sessions), "plays": int(plays)}:
                answer = await crowd(peer, sessions, plays)
            case {"do": "approval"} if isinstance(peer, Ours):
                answer = await approval(peer, settings)
            case {"do": "commits"}:
                answer = await commits(settings)
            case {"do": "size"}:
                answer = sum(len(to_json(message)) for _, message in past(50, "null"))
            case other:
                raise ValueError(other)
        print(json.dumps(answer), flush=True)


async def ask(words: Sequence[str]) -> None:
    """A stand-in for `python -m agent ask`, where there is no CLI yet."""
    settings = Settings.read()
    Path(settings.home).mkdir(parents=True, exist_ok=True)
    agent = open_agent(settings, Journal(journal_url(settings)))
    async for _ in agent.advance("ask", " ".join(words)):
        pass
    await agent.aclose()


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[2:]) if sys.argv[1] == "ask" else work(sys.argv[1]))
