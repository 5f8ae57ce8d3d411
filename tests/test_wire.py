"""The whole way with a model server that streams oddly: bytes on a socket to events, cards and requests."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.loop import Agent, ApprovalAsked, Failed, Reply, Text, ToolCalled, ToolResult, Usage
from agent.model import OpenAIModel, connect
from agent.operations import openai_tools
from tests.support import AVISO, CITA, PROMO, Loopback, Served, World, make_world


def chunk(delta: dict[str, Any], **more: Any) -> bytes:
    body = {"choices": [{"index": 0, "delta": delta, **more}]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def call(index: int, **function: str) -> dict[str, Any]:
    made: dict[str, Any] = {"index": index, "function": {k: v for k, v in function.items() if k != "id"}}
    return made | ({"id": function["id"]} if "id" in function else {})


def text(words: str) -> bytes:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    return (
        b"".join(chunk({"content": c}) for c in words) + chunk({}, finish_reason="stop") + usage + b"data: [DONE]\n\n"
    )


def two_calls(first: tuple[str, str], second: tuple[str, str]) -> bytes:
    """Both at once, a character of the one, a character of the other."""
    out = chunk(
        {"tool_calls": [call(0, id="a", name=first[0], arguments=""), call(1, id="b", name=second[0], arguments="")]}
    )
    for at in range(max(len(first[1]), len(second[1]))):
        parts = [call(n, arguments=c[1][at]) for n, c in enumerate((first, second)) if at < len(c[1])]
        out += chunk({"tool_calls": parts})
    return out + chunk({}, finish_reason="tool_calls") + b"data: [DONE]\n\n"


def served(answers: Sequence[bytes], *, size: int) -> Loopback:
    """Streams one answer a request, `size` bytes at a time."""
    left = list(answers)

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        body = left.pop(0)
        for at in range(0, len(body), size):
            writer.write(body[at : at + size])
            await writer.drain()
            if at % (size * 64) == 0:
                await asyncio.sleep(0)

    return Loopback(behave)


async def played(world: World, loopback: Loopback, words: str) -> list[Any]:
    client = connect(key="k", base_url=loopback.url + "/v1", timeout=5, retries=0, verify=False)
    settings, clock = world.agent.settings, world.clock
    model = OpenAIModel(client, "m", openai_tools())
    agent = Agent(
        settings, model=model, platica=world.agent.platica, journal=world.agent.journal, clock=clock, locale="en"
    )
    try:
        return [event async for event in agent.advance("wire", words)]
    finally:
        await model.aclose()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
async def test_two_parallel_calls_in_crumbs(world: World, size: int) -> None:
    calls = (
        ("get_campaign", json.dumps({"campaignId": PROMO})),
        ("get_campaign_audience", json.dumps({"campaignId": CITA, "limit": 2})),
    )
    async with served([two_calls(*calls), text("Listo: «¡ñandú! \u2028 🎉»")], size=size) as loopback:
        events = await played(world, loopback, "both please")
        assert [e.name for e in events if isinstance(e, ToolCalled)] == ["get_campaign", "get_campaign_audience"]
        assert [e.ok for e in events if isinstance(e, ToolResult)] == [True, True]
        assert "".join(e.delta for e in events if isinstance(e, Text)) == "Listo: «¡ñandú! \u2028 🎉»"
        assert isinstance(events[-1], Reply)
        assert [e.tokens["prompt_tokens"] for e in events if isinstance(e, Usage)] == [3]
        asked = json.loads(loopback.seen[1].body)["messages"]
        assert [m["role"] for m in asked[-3:]] == ["assistant", "tool", "tool"]


async def test_two_gated_calls_at_once_are_two_cards_and_no_request(world: World) -> None:
    calls = (
        ("delete_campaign", json.dumps({"campaignId": AVISO})),
        ("clear_campaign_audience", json.dumps({"campaignId": CITA})),
    )
    async with served([two_calls(*calls)], size=5) as loopback:
        events = await played(world, loopback, "delete and clear")
    assert [e.tool for e in events if isinstance(e, ApprovalAsked)] == ["delete_campaign"]
    assert world.gated() == []


DELETE = two_calls(("delete_campaign", json.dumps({"campaignId": AVISO})), ("list_campaigns", "{}"))
GARBAGE = {
    "not events": b"<html>it works</html>",
    "broken json": b'data: {"choices": [{"delta": {"tool_c\n\ndata: [DONE]\n\n',
    "an error": b'data: {"error": {"message": "overloaded", "code": 503}}\n\ndata: [DONE]\n\n',
    "nothing": b"",
    "cut in a call": DELETE[: len(DELETE) // 2],
    "cut after the calls": DELETE[: DELETE.index(b'data: {"choices": [{"index": 0, "delta": {}')],
    "a list": b"data: [1, 2]\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_garbage_is_an_error_with_a_name_and_nothing_else(world: World, what: str) -> None:
    async with served([GARBAGE[what]], size=16) as loopback:
        events = await played(world, loopback, "delete it")
    assert isinstance(events[-1], Failed)
    assert events[-1].code in ("model_broken", "model_unreachable")
    assert not [e for e in events if isinstance(e, (ToolCalled, ApprovalAsked))]
    assert world.gated() == []


@pytest.mark.parametrize(
    "arguments", ['{"campaignId": ', "[]", '"x"', '{"campaignId": "a/../b"}', '{"approved": true}']
)
async def test_garbage_in_arguments_reaches_the_model_and_nobody_else(world: World, arguments: str) -> None:
    calls = two_calls(("send_campaign", arguments), ("delete_campaign", arguments))
    async with served([calls, text("I could not.")], size=11) as loopback:
        events = await played(world, loopback, "send it")
        answers = [m for m in json.loads(loopback.seen[1].body)["messages"] if m["role"] == "tool"]
    assert next(e.outcome for e in events if isinstance(e, ToolResult)) == "invalid"
    assert not [e for e in events if isinstance(e, ApprovalAsked)]
    assert len(answers) == 2
    assert world.gated() == []
