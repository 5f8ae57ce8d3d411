"""The adapter to OpenAI-compatible endpoints, over real sockets: what it sends, and every way an answer can come."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.errors import (
    ModelBroken,
    ModelContextTooLong,
    ModelError,
    ModelKeyRejected,
    ModelNotFound,
    ModelRateLimited,
    ModelRejected,
    ModelUnreachable,
)
from agent.model import Call, Completion, OpenAIModel, connect
from agent.operations import openai_tools
from tests.support import Loopback, Served, http_answer

KEY = "sk-proj-S3cr3tS3cr3tS3cr3t"
MESSAGES = [b'{"role":"system","content":"Eres un agente"}', b'{"role":"user","content":"\xc2\xa1Hola!"}']
TOOLS = openai_tools()
NAME = "gpt-5-mini"

Behave = Callable[[Served, asyncio.StreamWriter], Awaitable[None]]


# What endpoints say.


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": NAME, "choices": [choice], **more}


def part(index: int | None, call_id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    fields = {"index": index, "id": call_id, "type": "function", "function": function}
    return {key: value for key, value in fields.items() if value is not None}


def calls(*parts: Any) -> dict[str, Any]:
    return chunk({"tool_calls": list(parts)})


def line(event: Any) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def sse(*events: Any, done: bool = True, end: str = "\n") -> bytes:
    """Server-sent events; strings are sent as they are, as one block."""
    blocks = [event if isinstance(event, str) else f"data: {line(event)}" for event in events]
    return "".join(f"{block}{end}{end}" for block in [*blocks, *(["data: [DONE]"] if done else [])]).encode()


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion", "choices": [choice], **more}


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"


def in_chunks(parts: Iterable[bytes], *, finished: bool = True) -> bytes:
    """A 200 in chunked transfer encoding: each part reaches the client as a chunk of its own."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in parts if one)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if finished else b"")


def until_close(body: bytes) -> bytes:
    """A 200 whose end is the end of the connection: nothing on the wire tells a cut from an end."""
    return HEAD + b"\r\n" + body


def always(answer: bytes) -> Behave:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return behave


# Asking them.


@asynccontextmanager
async def endpoint(
    behave: Behave | bytes,
    *,
    stream: bool = True,
    key: str | None = KEY,
    retries: int = 0,
    timeout: float = 5,
    **more: Any,
) -> AsyncIterator[tuple[OpenAIModel, Loopback]]:
    async with Loopback(always(behave) if isinstance(behave, bytes) else behave) as server:
        client = connect(key=key, base_url=server.url + "/v1", timeout=timeout, retries=retries)
        model = OpenAIModel(client, NAME, TOOLS, stream=stream, **more)
        try:
            yield model, server
        finally:
            await model.aclose()


async def ask(model: OpenAIModel, messages: Sequence[bytes] = MESSAGES) -> tuple[list[str], Completion]:
    """The pieces of text, and the completion, which is last and only."""
    *pieces, last = [piece async for piece in model.complete(messages)]
    assert isinstance(last, Completion)
    texts = [piece for piece in pieces if isinstance(piece, str)]
    assert texts == pieces
    assert all(texts)
    assert "".join(texts) == last.text
    return texts, last


async def answer(behave: Behave | bytes, **more: Any) -> Completion:
    async with endpoint(behave, **more) as (model, _):
        return (await ask(model))[1]


async def failure(behave: Behave | bytes, **more: Any) -> ModelError:
    async with endpoint(behave, **more) as (model, _):
        with pytest.raises(ModelError) as caught:
            await ask(model)
    return caught.value


# What is sent.


@pytest.mark.parametrize("stream", [True, False])
async def test_the_body_is_the_head_and_the_messages(stream: bool) -> None:
    messages = [b'{"role":"system","content":"s"}', '{"role":"user","content":"a\u2028b ☕ \\u00e1"}'.encode()]
    good = in_chunks([sse(chunk({"content": "ok"}, "stop"))]) if stream else http_answer(200, whole({"content": "ok"}))
    async with endpoint(good, stream=stream) as (model, server):
        await ask(model, messages)
        await ask(model, messages[:1])
    first, second = server.seen
    assert (first.method, first.target) == ("POST", "/v1/chat/completions")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["content-type"] == "application/json"
    body = json.loads(first.body)
    flags = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    assert body == {"model": NAME, "tools": TOOLS, "messages": [json.loads(m) for m in messages], **flags}
    # The messages go out as they are, byte by byte, and all before them is the same each time.
    assert first.body.endswith(b',"messages":[' + b",".join(messages) + b"]}")
    assert second.body == first.body.replace(b"," + messages[1], b"")
    assert model.name == NAME


async def test_without_a_key_there_is_a_placeholder() -> None:
    async with endpoint(in_chunks([sse(chunk({"content": "ok"}, "stop"))]), key=None) as (model, server):
        await ask(model)
    assert server.seen[0].headers["authorization"].startswith("Bearer ")
    assert KEY not in str(server.seen)


# Streams.

CALL = Call("call_1", "get_campaign", '{"campaignId":"X"}')
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
SHORT = [
    chunk({"role": "assistant", "content": "Sí ☕"}),
    calls(part(0, "call_1", "get_campaign", '{"campaign')),
    calls(part(0, arguments='Id":"X"}')),
    chunk(finish="tool_calls"),
]
SHORT_COMPLETION = Completion("Sí ☕", (CALL,), "tool_calls", {})


async def test_text_comes_as_it_is_written() -> None:
    seen = asyncio.Event()

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        first = sse(chunk({"content": "¡Hola"}), done=False)
        second = sse(chunk({"content": " Ana!"}), chunk(finish="stop"))
        writer.write(until_close(first))
        await writer.drain()
        await asyncio.wait_for(seen.wait(), 5)
        writer.write(second)

    async with endpoint(behave) as (model, _):
        pieces = model.complete(MESSAGES)
        assert await anext(pieces) == "¡Hola"
        seen.set()
        assert [piece async for piece in pieces] == [" Ana!", Completion("¡Hola Ana!", (), "stop", {})]


async def test_chunks_cut_at_every_byte() -> None:
    slim = [{"choices": [{"delta": one["choices"][0]["delta"]}]} for one in SHORT]
    body = sse(*slim)
    cut = 0

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(in_chunks([body[:cut], body[cut:]]))

    async with endpoint(behave) as (model, _):
        for cut in range(len(body) + 1):
            assert (await ask(model))[1] == Completion("Sí ☕", (CALL,), None, {}), f"cut at {cut}"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_one_byte_at_a_time(end: str) -> None:
    body = sse(": hello", *SHORT, end=end)
    assert await answer(in_chunks(body[at : at + 1] for at in range(len(body)))) == SHORT_COMPLETION


async def test_one_byte_in_each_packet() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in until_close(sse(*SHORT[:1], chunk(finish="stop"))):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    assert (await answer(behave)).text == "Sí ☕"


async def test_all_in_one_chunk() -> None:
    assert await answer(in_chunks([sse(*SHORT)])) == SHORT_COMPLETION
    assert await answer(until_close(sse(*SHORT))) == SHORT_COMPLETION


@pytest.mark.parametrize(
    "text", ["a\u2028b\u2029c", "a\x85b\x0bc\x0cd", "😀☕ñ", "\u200f<b>", "data: x", "[DONE]", " "]
)
async def test_text_is_text_whatever_is_in_it(text: str) -> None:
    body = sse(chunk({"content": text}), chunk(finish="stop"))
    assert (await answer(in_chunks([body[:40], body[40:]]))).text == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_comments_other_fields_and_several_data_lines(end: str) -> None:
    pretty = json.dumps(chunk({"content": "dos"}), indent=1)
    several = end.join(f"data: {row}" for row in pretty.split("\n"))
    body = sse(
        ": OPENROUTER PROCESSING",
        f"event: message{end}id: 7{end}retry: 100{end}data: {line(chunk({'content': 'uno '}))}",
        f":{end}: ping",
        several,
        # No blank after the colon, as some servers write it.
        "data:" + line(chunk(finish="stop")),
        end=end,
    )
    assert await answer(in_chunks([body])) == Completion("uno dos", (), "stop", {})


async def test_what_follows_done_is_not_read() -> None:
    body = sse(chunk({"content": "ok"}, "stop")) + sse(chunk({"content": "no"})) + b"data: {broken\n\n"
    assert (await answer(in_chunks([body]))).text == "ok"


async def test_done_is_enough_without_waiting_for_the_end() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(until_close(sse(chunk({"content": "ok"}, "stop"))))
        await writer.drain()
        await asyncio.sleep(30)

    started = time.monotonic()
    assert (await answer(behave)).text == "ok"
    assert time.monotonic() - started < 3


# Calls.


async def test_two_calls_interleaved() -> None:
    body = sse(
        calls(part(0, "a", "get_campaign", ""), part(1, "b", "list_campaigns", "")),
        calls(part(1, arguments='{"lim')),
        calls(part(0, arguments='{"campaignId"')),
        calls(part(1, arguments='it":5}')),
        calls(part(0, arguments=':"X"}')),
        chunk(finish="tool_calls"),
    )
    expected = (Call("a", "get_campaign", '{"campaignId":"X"}'), Call("b", "list_campaigns", '{"limit":5}'))
    assert (await answer(in_chunks([body]))).calls == expected


async def test_calls_are_in_the_order_of_their_index() -> None:
    body = sse(
        calls(part(1, "b", "list_campaigns", "{}")), calls(part(0, "a", "get_campaign", "{}")), chunk(finish="x")
    )
    assert [one.id for one in (await answer(in_chunks([body]))).calls] == ["a", "b"]


TWO = (Call("a", "get_campaign", '{"campaignId":"X"}'), Call("b", "list_campaigns", "{}"))
ODD_CALLS = {
    "no index": [
        calls(part(None, "a", "get_campaign", '{"campaign')),
        calls(part(None, "a", arguments='Id":"X"}')),
        calls(part(None, "b", "list_campaigns", "{}")),
    ],
    "no index, and an id at the start only": [
        calls(part(None, "a", "get_campaign", '{"campaign')),
        calls(part(None, None, arguments='Id":"X"}')),
        calls(part(None, "b", "list_campaigns", "")),
        calls(part(None, "", arguments="{}")),
    ],
    "no index, both at once": [
        calls(part(None, "a", "get_campaign", '{"campaignId":"X"}'), part(None, "b", "list_campaigns", "{}"))
    ],
    "every index 0": [
        calls(part(0, "a", "get_campaign", '{"campaignId":"X"}')),
        calls(part(0, "b", "list_campaigns", "{}")),
    ],
    "the name and the id on each chunk": [
        calls(part(0, "a", "get_campaign", '{"campaign')),
        calls(part(0, "a", "get_campaign", 'Id":"X"}')),
        calls(part(1, "b", "list_campaigns", "{")),
        calls(part(1, "b", "list_campaigns", "}")),
    ],
    "the name in pieces": [
        calls(part(0, "a", "get_", "")),
        calls(part(0, None, "campaign", '{"campaignId":"X"}')),
        calls(part(1, "b", "list_campaigns", "{}")),
    ],
    "arguments as an object": [
        calls(part(0, "a", "get_campaign", {"campaignId": "X"})),
        calls(part(1, "b", "list_campaigns", {})),
    ],
    "nulls everywhere": [
        chunk({"content": None, "tool_calls": None}),
        calls({"index": 0, "id": "a", "function": {"name": "get_campaign", "arguments": None}}),
        calls({"index": 0, "id": None, "function": {"name": None, "arguments": '{"campaignId":"X"}'}}),
        calls({"index": 1, "id": "b", "function": {"name": "list_campaigns", "arguments": "{}"}}),
        calls({"index": 1, "id": None, "function": None}),
    ],
    "an empty name on later chunks": [
        calls(part(0, "a", "get_campaign", '{"campaignId"')),
        calls(part(0, "", "", ':"X"}')),
        calls(part(1, "b", "list_campaigns", "{}")),
    ],
}


@pytest.mark.parametrize("kind", ODD_CALLS)
async def test_odd_servers_still_make_two_calls(kind: str) -> None:
    completion = await answer(in_chunks([sse(*ODD_CALLS[kind], chunk(finish="tool_calls"))]))
    assert completion.calls == TWO


async def test_a_call_without_arguments_has_none() -> None:
    completion = await answer(in_chunks([sse(calls(part(0, "a", "list_campaigns")), chunk(finish="tool_calls"))]))
    assert completion.calls == (Call("a", "list_campaigns", ""),)


async def test_arguments_are_kept_as_the_model_wrote_them() -> None:
    body = sse(calls(part(0, "a", "list_campaigns", '{"limit": NaN, "limit": 1,')), chunk(finish="tool_calls"))
    assert (await answer(in_chunks([body]))).calls[0].arguments == '{"limit": NaN, "limit": 1,'


# How answers end.


async def test_an_empty_answer_is_an_answer() -> None:
    assert await answer(
        in_chunks([sse(chunk({"role": "assistant", "content": ""}), chunk(finish="stop"))])
    ) == Completion("", (), "stop", {})
    assert await answer(http_answer(200, whole({"content": None})), stream=False) == Completion("", (), "stop", {})


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter"])
async def test_why_it_ended_is_told(finish: str) -> None:
    body = sse(chunk({"content": "Las campañas son"}), chunk(finish=finish))
    assert (await answer(in_chunks([body]))).finish == finish
    assert (await answer(http_answer(200, whole({"content": "a"}, finish)), stream=False)).finish == finish


async def test_the_usage_chunk_has_no_choices() -> None:
    body = sse(chunk({"content": "ok"}, usage=None), chunk(finish="stop"), {"choices": [], "usage": USAGE})
    assert await answer(in_chunks([body])) == Completion("ok", (), "stop", USAGE)
    assert (await answer(http_answer(200, whole({"content": "ok"}, usage=USAGE)), stream=False)).usage == USAGE


async def test_a_refusal_is_text() -> None:
    body = sse(chunk({"refusal": "No puedo"}), chunk({"refusal": " hacer eso."}), chunk(finish="stop"))
    assert (await answer(in_chunks([body]))).text == "No puedo hacer eso."


async def test_content_in_parts_is_text() -> None:
    body = sse(chunk({"content": [{"type": "text", "text": "Ho"}, {"type": "text", "text": "la"}]}, "stop"))
    assert (await answer(in_chunks([body]))).text == "Hola"


@pytest.mark.parametrize("wrap", [lambda body: in_chunks([body]), until_close], ids=["chunked", "until close"])
async def test_a_stream_that_ends_without_done_is_whole_when_it_said_so(wrap: Callable[[bytes], bytes]) -> None:
    assert await answer(wrap(sse(*SHORT, done=False))) == SHORT_COMPLETION
    # Nor does the last event need its blank line.
    assert await answer(wrap(sse(*SHORT, done=False).rstrip(b"\n"))) == SHORT_COMPLETION


CUTS = {
    "before the end of the chunks": lambda body: in_chunks([body], finished=False),
    "with the last chunk": lambda body: in_chunks([body]),
    "with the connection": until_close,
    "before the announced length": lambda body: HEAD + b"content-length: 9999\r\n\r\n" + body,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("events", [2, 3])
async def test_a_call_that_was_cut_is_an_error_and_never_half_a_call(cut: str, events: int) -> None:
    """A name whose arguments are missing, or all of them and no word that these are all."""
    error = await failure(CUTS[cut](sse(*SHORT[:events], done=False)))
    assert isinstance(error, ModelBroken | ModelUnreachable)


@pytest.mark.parametrize("cut", CUTS)
async def test_a_stream_cut_inside_an_event_is_an_error(cut: str) -> None:
    body = sse(*SHORT[:2], done=False) + b'data: {"choices": [{"delta": {"tool_c'
    assert isinstance(await failure(CUTS[cut](body)), ModelBroken | ModelUnreachable)


@pytest.mark.parametrize("cut", ["before the end of the chunks", "before the announced length"])
async def test_text_whose_connection_broke_is_an_error(cut: str) -> None:
    error = await failure(CUTS[cut](sse(chunk({"content": "Todo está"}), done=False)))
    assert isinstance(error, ModelBroken | ModelUnreachable)


# Answers that are none.


@pytest.mark.parametrize("indent", [None, 1])
async def test_a_plain_answer_to_a_stream_request(indent: int | None) -> None:
    tool_calls = [{"id": "call_1", "type": "function", "function": {"name": CALL.name, "arguments": CALL.arguments}}]
    body = whole({"content": "Sí\u2028☕", "tool_calls": tool_calls}, "tool_calls", usage=USAGE)
    plain = http_answer(200, json.dumps(body, indent=indent, ensure_ascii=False))
    expected = Completion("Sí\u2028☕", (CALL,), "tool_calls", USAGE)
    assert await answer(plain) == expected
    assert await answer(plain, stream=False) == expected


HTML = "<!doctype html><html><title>502 Bad Gateway</title></html>"
NO_ANSWERS = {
    "empty": "",
    "a word": "ok",
    "HTML": HTML,
    "broken JSON": '{"choices": [',
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "an empty object": "{}",
    "no choices": '{"choices": []}',
    "choices null": '{"choices": null}',
    "choices of another form": '{"choices": {"0": {}}}',
    "a list of words": '{"choices": ["ok"]}',
    "no text": b"\xff\xfe\x00",
    "an error": '{"error": {"message": "model is loading", "code": 503}}',
    "an error as text": '{"error": "model is loading"}',
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_a_200_that_is_no_answer(kind: str, stream: bool) -> None:
    error = await failure(http_answer(200, NO_ANSWERS[kind]), stream=stream)
    assert type(error) is ModelBroken
    if kind.startswith("an error"):
        assert "model is loading" in str(error)


NO_EVENTS = {
    "no event at all": sse(done=False),
    "done alone": sse(),
    "comments alone": sse(": ping", ": ping"),
    "usage alone": sse({"choices": [], "usage": USAGE}),
    "broken JSON": sse(chunk({"content": "a"}), "data: {broken"),
    "a list": sse("data: []"),
    "no text": b"data: \xff\xfe\n\n",
    "nested too deep": sse("data: " + "[" * 50_000 + "]" * 50_000),
}


@pytest.mark.parametrize("kind", NO_EVENTS)
async def test_a_stream_that_is_no_answer(kind: str) -> None:
    assert type(await failure(in_chunks([NO_EVENTS[kind]]))) is ModelBroken


async def test_an_error_in_the_middle_of_a_stream() -> None:
    body = sse(chunk({"content": "Voy a"}), {"error": {"message": "The server had an error", "code": "server_error"}})
    async with endpoint(in_chunks([body])) as (model, _):
        pieces = model.complete(MESSAGES)
        assert await anext(pieces) == "Voy a"
        with pytest.raises(ModelBroken, match="The server had an error"):
            await anext(pieces)


async def test_a_context_error_in_a_stream() -> None:
    error = {"message": "too long", "code": "context_length_exceeded"}
    assert type(await failure(in_chunks([sse({"error": error})]))) is ModelContextTooLong


# Failures.


def refusal(status: int, message: str, code: Any = None, **headers: str) -> bytes:
    return http_answer(status, {"error": {"message": message, "type": "x", "code": code}}, **headers)


STATUSES: dict[str, tuple[bytes, type[ModelError]]] = {
    "400": (refusal(400, "bad tool schema"), ModelRejected),
    "401": (refusal(401, "Incorrect API key"), ModelKeyRejected),
    "401 in HTML": (http_answer(401, HTML, kind="text/html"), ModelKeyRejected),
    "403": (refusal(403, "Country not supported"), ModelKeyRejected),
    "404": (refusal(404, "The model does not exist", "model_not_found"), ModelNotFound),
    "404 in HTML": (http_answer(404, HTML, kind="text/html"), ModelNotFound),
    "422": (refusal(422, "no"), ModelRejected),
    "429": (refusal(429, "Rate limit reached", retry_after="7"), ModelRateLimited),
    "429 without a wait": (refusal(429, "You exceeded your quota", "insufficient_quota"), ModelRateLimited),
    "500": (refusal(500, "oops"), ModelUnreachable),
    "502 in HTML": (http_answer(502, HTML, kind="text/html"), ModelUnreachable),
    "503 empty": (http_answer(503, b""), ModelUnreachable),
    "OpenAI: too long": (
        refusal(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        ModelContextTooLong,
    ),
    "vLLM: too long": (
        http_answer(
            400, {"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400}
        ),
        ModelContextTooLong,
    ),
    "llama.cpp: too long": (
        http_answer(
            400,
            {
                "error": {
                    "code": 400,
                    "message": "request (4390 tokens) exceeds the available context size (4096 tokens)",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 4390,
                    "n_ctx": 4096,
                }
            },
        ),
        ModelContextTooLong,
    ),
    "too long, with a 500": (
        http_answer(
            500, {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
        ),
        ModelContextTooLong,
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", STATUSES)
async def test_each_status_has_its_name(kind: str, stream: bool) -> None:
    wire, expected = STATUSES[kind]
    assert type(await failure(wire, stream=stream)) is expected


async def test_errors_tell_what_a_person_needs() -> None:
    limited = await failure(STATUSES["429"][0])
    assert float(limited.data["wait"]) == 7
    assert "7" in str(limited)
    assert (await failure(STATUSES["429 without a wait"][0])).data["wait"] is None
    missing = await failure(STATUSES["404"][0])
    assert missing.data["model"] == NAME
    assert "does not exist" in str(missing)
    assert "bad tool schema" in str(await failure(STATUSES["400"][0]))
    assert "500" in str(await failure(STATUSES["500"][0]))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refused_port(stream: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = connect(key=KEY, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", timeout=5, retries=0)
        model = OpenAIModel(client, NAME, TOOLS, stream=stream)
        with pytest.raises(ModelUnreachable) as caught:
            await ask(model)
        await model.aclose()
    assert KEY not in str(caught.value)


async def test_no_such_host() -> None:
    model = OpenAIModel(connect(key=KEY, base_url="http://model.invalid/v1", timeout=5, retries=0), NAME, TOOLS)
    with pytest.raises(ModelUnreachable):
        await ask(model)
    await model.aclose()


@pytest.mark.parametrize("stream", [True, False])
async def test_slow_headers(stream: bool) -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    started = time.monotonic()
    assert type(await failure(behave, stream=stream, timeout=0.3)) is ModelUnreachable
    assert time.monotonic() - started < 2


async def test_a_stream_that_falls_silent() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(until_close(sse(chunk({"content": "Voy"}), done=False)))
        await writer.drain()
        await asyncio.sleep(30)

    started = time.monotonic()
    assert type(await failure(behave, timeout=0.3)) is ModelUnreachable
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("drop", [b": ping\n\n", sse(chunk({"content": "a"}), done=False)], ids=["comments", "text"])
async def test_a_stream_that_drips_ends_at_the_deadline(drop: bytes) -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(until_close(b""))
        for _drop in range(300):
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.1)

    started = time.monotonic()
    assert type(await failure(behave, deadline=0.4)) is ModelUnreachable
    assert time.monotonic() - started < 2


async def test_a_plain_answer_that_drips_ends_at_the_deadline() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        for byte in http_answer(200, whole({"content": "ok"})):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.1)

    started = time.monotonic()
    error = await asyncio.wait_for(failure(behave, stream=False, deadline=0.4), 4)
    assert type(error) is ModelUnreachable
    assert time.monotonic() - started < 2


# Retries.

AT_ONCE = {"retry_after_ms": "1"}
PASSING = {
    "429": refusal(429, "slow down", **AT_ONCE),
    "500": refusal(500, "oops", **AT_ONCE),
    "503": refusal(503, "busy", **AT_ONCE),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", PASSING)
async def test_retries_are_as_many_as_set(kind: str, stream: bool) -> None:
    for retries in (0, 2):
        async with endpoint(PASSING[kind], retries=retries, stream=stream) as (model, server):
            with pytest.raises(ModelError):
                await ask(model)
            assert len(server.seen) == retries + 1
            assert len({one.body for one in server.seen}) == 1, "each with the whole body"


async def test_a_retry_that_works_is_an_answer() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(PASSING["503"] if len(server.seen) < 3 else in_chunks([sse(*SHORT)]))

    async with endpoint(behave, retries=2) as (model, server):
        assert (await ask(model))[1] == SHORT_COMPLETION
        assert len(server.seen) == 3


@pytest.mark.parametrize("kind", ["400", "401", "403", "404", "422", "OpenAI: too long"])
async def test_what_will_not_pass_is_not_retried(kind: str) -> None:
    async with endpoint(STATUSES[kind][0], retries=2) as (model, server):
        with pytest.raises(ModelError):
            await ask(model)
        assert len(server.seen) == 1


async def test_a_stream_that_broke_is_not_begun_again() -> None:
    """Its text has been shown already."""
    async with endpoint(CUTS["before the end of the chunks"](sse(*SHORT[:2], done=False)), retries=2) as (
        model,
        server,
    ):
        with pytest.raises(ModelError):
            await ask(model)
        assert len(server.seen) == 1


# Secrets.

ECHOES: dict[str, bytes] = {
    **{str(status): refusal(status, f"bad key {KEY}", KEY) for status in (400, 401, 403, 404, 422, 429, 500)},
    "400 in text": http_answer(400, f"Authorization: Bearer {KEY}", kind="text/plain"),
    "400 too long": refusal(400, f"maximum context length; key {KEY}"),
    "400 cut in the key": refusal(400, "x" * 290 + KEY),
    "429 with the key as its wait": refusal(429, "slow", retry_after=KEY),
    "200 with an error": http_answer(200, {"error": {"message": f"bad key {KEY}"}}),
    "200 with an error as text": http_answer(200, {"error": f"bad key {KEY}"}),
    "200 that is no JSON": http_answer(200, f"key {KEY}"),
    "a stream's error": in_chunks([sse({"error": {"message": f"bad key {KEY}"}})]),
    "no HTTP": f"{KEY}\r\n\r\n".encode(),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ECHOES)
async def test_the_key_is_in_no_error(kind: str, stream: bool) -> None:
    error: BaseException | None = await failure(ECHOES[kind], stream=stream)
    while error is not None:
        shown = f"{error} {error!r} {vars(error)}"
        assert KEY not in shown
        assert KEY[:14] not in shown, "nor a large part of it"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_an_error_of_many_words_is_cut() -> None:
    assert len(str(await failure(refusal(400, "x" * 1_000_000)))) < 2_000


async def test_an_answer_can_be_left_in_the_middle() -> None:
    async with endpoint(in_chunks([sse(*[chunk({"content": "a"})] * 50, chunk(finish="stop"))])) as (model, _):
        pieces = model.complete(MESSAGES)
        assert await anext(pieces) == "a"
        await pieces.aclose()  # type: ignore[attr-defined]
        assert len((await ask(model))[1].text) == 50, "the next one is whole"
