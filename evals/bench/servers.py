"""The two outer services, answering at once: a model and the campaigns API, each a process of its own on loopback.

HTTP/1.1 with keep-alive over plain asyncio, written by hand, with answers made beforehand, so that what is measured is
the client. A stream is one HTTP chunk for each event, all written at once.

    python -m evals.bench.servers model|api      prints its port, serves until its stdin ends
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

CAMPAIGN = "cmpPromoVerano2026aa"
TITLE = "Promo Verano 2026"
REPLY = (
    "Tienes seis campañas. La más reciente es Promo Verano 2026, de mercadotecnia, con la plantilla promo_verano_2026 "
    "en español de México; la cambió marketing el 2 de marzo. Las otras cinco siguen sin cambios desde febrero. Dime "
    "si quieres ver su audiencia, cambiar algo o dejarla lista para enviarla."
)
DELETED = "Listo."
ID = b"call_0000000000000000"
"""Where the id of a call goes; real ones are unique."""

Answerer = Callable[[bytes, bytes, bytes], bytes]


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _http(body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nx-request-id: req_bench\r\n\r\n"
    )
    return head.encode() + body


# The model.


def _calls(name: str, arguments: str) -> list[dict[str, Any]]:
    return [{"id": ID.decode(), "type": "function", "function": {"name": name, "arguments": arguments}}]


def _plain(message: dict[str, Any]) -> bytes:
    finish = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": {"role": "assistant", "refusal": None, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 2900, "completion_tokens": 64, "total_tokens": 2964}
    head = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1795449600, "model": "mock"}
    return _http(_dump({**head, "choices": [{**choice, "logprobs": None}], "usage": usage}))


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Text in about sixty pieces, the arguments of a call in about six."""
    if "tool_calls" not in message:
        words: str = message["content"]
        step = max(1, len(words) // 60)
        return [{"role": "assistant", "content": ""}, *({"content": piece} for piece in _cut(words, step))]
    (call,) = message["tool_calls"]
    text = call["function"]["arguments"]
    first = {"index": 0, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in _cut(text, -(-len(text) // 6))]
    return [{"role": "assistant", "content": None, "tool_calls": [first]}, *({"tool_calls": [part]} for part in rest)]


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _stream(message: dict[str, Any]) -> bytes:
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1795449600, "model": "mock"}
    finish = "tool_calls" if "tool_calls" in message else "stop"
    events: list[dict[str, Any]] = []
    for delta in _deltas(message):
        events.append({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]})
    events.append({**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}]})
    usage = {"prompt_tokens": 2900, "completion_tokens": 64, "total_tokens": 2964}
    events.append({**head, "choices": [], "usage": usage})
    out = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    for line in [*(_dump(event) for event in events), b"[DONE]"]:
        data = b"data: " + line + b"\n\n"
        out += f"{len(data):x}\r\n".encode() + data + b"\r\n"
    return out + b"0\r\n\r\n"


LISTING = {"tool_calls": _calls("list_campaigns", '{"limit":50,"sortBy":"lastUpdate"}')}
GETTING = {"tool_calls": _calls("get_campaign", f'{{"campaignId":"{CAMPAIGN}"}}')}
DELETING = {"tool_calls": _calls("delete_campaign", f'{{"campaignId":"{CAMPAIGN}"}}')}
_SCRIPTS: Sequence[Sequence[dict[str, Any]]] = (
    (LISTING, GETTING, {"content": REPLY}),
    (DELETING, {"content": DELETED}),
    ({"content": REPLY},),
)


class ModelMock:
    """Two tool calls one after the other, then text. "borra ..." asks for a deletion, "hola" gets text at once."""

    def __init__(self) -> None:
        self._ready = {
            streamed: [[make(message) for message in script] for script in _SCRIPTS]
            for streamed, make in ((True, _stream), (False, _plain))
        }
        self._number = itertools.count(1)

    def __call__(self, method: bytes, path: bytes, body: bytes) -> bytes:
        spaced = b'"role": "user"' in body[:4000]
        user, tool = (b'"role": "user"', b'"role": "tool"') if spaced else (b'"role":"user"', b'"role":"tool"')
        at = body.rfind(user)
        said = body[at : at + 80]
        script = self._ready[b'"stream":true' in body or b'"stream": true' in body][
            1 if b"borra" in said else 2 if b"hola" in said else 0
        ]
        step = min(body.count(tool, at), len(script) - 1)
        return script[step].replace(ID, b"call_%016d" % next(self._number))


# The campaigns API.


def _campaign(number: int) -> dict[str, Any]:
    title = TITLE if number == 0 else f"Recordatorio de cita {number}"
    slug = title.lower().replace(" ", "_")
    return {
        "id": CAMPAIGN if number == 0 else f"cmpRecordatorioCita{number}",
        "title": title,
        "category": "marketing" if number % 2 == 0 else "utility",
        "platform": "whatsapp",
        "templateName": slug,
        "owners": ["marketing@empresa.com"],
        "language": "es_MX",
        "creationDate": f"2026-02-1{number}T18:55:52.061Z",
        "lastUpdate": f"2026-03-0{number + 1}T19:46:29.285Z",
    }


def _group(**more: Any) -> dict[str, Any]:
    return {"workspaces": [{"id": "ws_norte", "name": "Café del Norte", **more}]}


def _page(**more: Any) -> dict[str, Any]:
    return _group(**more, pagination={"limit": 50, "offset": 0, "hasMore": False})


_CHANNEL = {"prefixedChannelId": "wb-123", "id": "123", "name": "Ventas", "platform": "whatsapp", "isConnected": True}
_TEMPLATE = {
    "name": "promo_verano_2026",
    "status": "APPROVED",
    "category": "MARKETING",
    "language": "es_MX",
    "content": "Hola {{1}}, este verano todo lleva 20% de descuento.",
    "params": ["1"],
}
_CLIENTS = [
    {"id": f"cli{at:04d}", "phoneNumber": f"5255001{at:05d}", "name": f"Persona {at}",
     "creationDate": f"2026-02-11T18:{at:02d}:00.000Z", "lastUpdate": "2026-02-12T10:00:00.000Z"}
    for at in range(25)
]  # fmt: skip


class ApiMock:
    """Six campaigns that nothing changes: a deletion succeeds every time."""

    def __init__(self) -> None:
        six = [_campaign(number) for number in range(6)]
        self._list = _http(_dump(_page(campaignsCount=6, campaigns=six)))
        self._one = _http(_dump(_group(campaignsCount=1, campaigns=six[:1])))
        self._audience = _http(_dump(_page(clientsCount=len(_CLIENTS), clients=_CLIENTS)))
        self._channels = _http(_dump(_group(channels=[_CHANNEL])))
        self._templates = _http(_dump(_group(templates=[_TEMPLATE])))
        self._done = _http(_dump({"status": "success", "message": "Campaign deleted", "data": {"id": CAMPAIGN}}))
        self._missing = _http(_dump({"error": "Not found", "code": 404}), status="404 Not Found")

    def __call__(self, method: bytes, path: bytes, body: bytes) -> bytes:
        if method == b"DELETE":
            return self._done
        path = path.partition(b"?")[0]
        if path.startswith(b"/v1/campaigns/"):
            return self._audience if path.endswith(b"/audience") else self._one
        known = {b"/v1/campaigns": self._list, b"/v1/channels": self._channels, b"/v1/templates": self._templates}
        return known.get(path, self._missing)


# HTTP.


class Service:
    """An answerer with what the bench wants to know of it: `GET /_stats` says and starts anew."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._requests, self._first = 0, 0.0
        self.connections = 0

    def take(self, head: bytes, body: bytes, arrived: float) -> bytes:
        method, path, _ = head.split(b" ", 2)
        if path == b"/_stats":
            # This request came over a connection of its own.
            opened, self.connections = self.connections - 1, 0
            stats = {"cpu": time.process_time(), "requests": self._requests, "opened": opened, "first": self._first}
            self._requests, self._first = 0, 0.0
            return _http(_dump(stats))
        self._requests += 1
        self._first = self._first or arrived
        return self._answer(method, path, body)


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = bytearray()
        self._head = b""
        self._length = 0
        self._arrived = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._service.connections += 1

    def data_received(self, data: bytes) -> None:
        if not self._buffer:
            self._arrived = time.monotonic()
        self._buffer += data
        while self._ready():
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
            head, self._head = self._head, b""
            self._transport.write(self._service.take(head, body, self._arrived))

    def _ready(self) -> bool:
        if not self._head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            _, _, after = self._head.lower().partition(b"content-length:")
            self._length = int(after.partition(b"\r\n")[0]) if after else 0
        return len(self._buffer) >= self._length


async def serve(answer: Answerer) -> None:
    service = Service(answer)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(ModelMock() if sys.argv[1] == "model" else ApiMock()))
