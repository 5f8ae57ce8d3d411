"""Faults at the HTTP edge, by name: what a network, a proxy or a server may do to one request, on a real socket."""

import asyncio
import contextlib
import gzip
import json
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx

from agent.journal import Journal
from agent.platica import Wire
from agent.sandbox.api import create_app
from tests.support import Loopback, Served, http_answer

EVER = 1_000
"""Times, of a fault that doesn't pass."""
PATIENCE = 8.0
"""Seconds after which a fault gives up, so that a client without any limit makes a test fail and not hang."""
ELSEWHERE = "/v1/elsewhere"
"""Where redirects lead; nothing may ever ask for it."""
HTML = "<!doctype html><html><title>Iniciar sesión</title><form>Contraseña</form></html>"


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that a fault is done to. `honest` is what the server would have answered, as bytes."""

    writer: asyncio.StreamWriter
    honest: bytes


Answering = Callable[[Hit], Awaitable[None]]
Hindering = Callable[["Rig", Wire], AbstractAsyncContextManager[None]]
Connecting = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`answer` stands in for the honest one, after the server has acted where `acts`; `hinder` comes before the request
    leaves instead. It is done `times` times, and not after `lasts` seconds. `deadline` and `timeouts` are the client's,
    short where the fault is to outlast them."""

    answer: Answering | None = None
    hinder: Hindering | None = None
    acts: bool = True
    times: int = 1
    lasts: float = math.inf
    deadline: float = 20.0
    timeouts: Mapping[str, float] = field(default_factory=dict)


async def make_blank(folder: Path) -> None:
    """A journal that is migrated already, and a sandbox that is seeded: copying them is quicker than making them."""
    journal = Journal(f"sqlite:///{folder / 'journal.db'}")
    await journal.open()
    await journal.aclose()
    create_app(folder / "sandbox.db").state.store.close()


async def all_of(work: Mapping[str, Awaitable[None]]) -> None:
    """All at once, since most of a fault is waiting; what failed is raised together, each under its name."""
    ended = await asyncio.gather(*work.values(), return_exceptions=True)
    errors: list[Exception] = []
    for name, error in zip(work, ended, strict=True):
        if isinstance(error, Exception):
            error.add_note(f"with {name}")
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(work)}", errors)


# What becomes of a connection.


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends it by RST and not by FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hold(_: Any = None) -> None:
    """Nothing more comes, and the connection stays open for longer than anybody should wait."""
    await asyncio.sleep(PATIENCE)


async def drip(writer: asyncio.StreamWriter, raw: bytes, pause: float = 0.05) -> None:
    """A byte at a time, often enough that no read timeout ever ends it."""
    for at in range(len(raw)):
        writer.write(raw[at : at + 1])
        await writer.drain()
        await asyncio.sleep(pause)


async def reset_on_accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def close_on_accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset_after_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    reset(writer)


_STEADY: dict[str, bytes] = {}
"""Answers that nothing changes: no operation touches channels, templates or agents."""


class Rig(Loopback):
    """The sandbox's API on a socket, with one fault for the requests of one method and path.

    `reached` counts those requests, and connections that were ended before they could be read.
    """

    def __init__(self, api: httpx.AsyncBaseTransport, fault: Fault, method: str, path: str) -> None:
        super().__init__(self._answer)
        self.api, self.fault, self.target = api, fault, (method, path)
        self.reached = 0
        self.at_once: Connecting | None = None
        self._first = math.nan
        self._hindered = 0
        self._held = asyncio.Event()

    def is_target(self, method: str, target: str) -> bool:
        return (method, target.partition("?")[0]) == self.target

    def before(self, request: httpx.Request, wire: Wire) -> AbstractAsyncContextManager[None]:
        """Around a request that is about to leave: faults of connections are done here."""
        aimed = self.is_target(request.method, request.url.raw_path.decode())
        if self.fault.hinder is None or not aimed or self._hindered >= self.fault.times:
            return contextlib.nullcontext()
        self._hindered += 1
        return self.fault.hinder(self, wire)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.at_once is None:
            await super()._serve(reader, writer)
            return
        self.reached += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.at_once(reader, writer)

    async def _answer(self, served: Served, writer: asyncio.StreamWriter) -> None:
        if served.target == "/held":
            self._held.set()
            await hold()
        answer = self._due() if self.is_target(served.method, served.target) else None
        honest = await self._honest(served) if answer is None or self.fault.acts else b""
        await (answer or as_it_is)(Hit(writer, honest))

    def _due(self) -> Answering | None:
        """The fault that one more request of its kind meets, if any is left."""
        self.reached += 1
        now = time.monotonic()
        self._first = now if self.reached == 1 else self._first
        over = self.reached > self.fault.times or now - self._first >= self.fault.lasts
        return None if over else self.fault.answer

    async def _honest(self, served: Served) -> bytes:
        if served.target in _STEADY:
            return _STEADY[served.target]
        # Its own connection's headers are no business of the sandbox.
        headers = {name: value for name, value in served.headers.items() if name not in ("connection", "host")}
        request = httpx.Request(served.method, self.url + served.target, headers=headers, content=served.body)
        response = await self.api.handle_async_request(request)
        body = await response.aread()
        limits = {name: value for name, value in response.headers.items() if name.startswith("x-")}
        raw = http_answer(response.status_code, body, **limits)
        if served.method == "GET" and served.target.startswith(("/v1/channels", "/v1/templates", "/v1/agents")):
            _STEADY[served.target] = raw
        return raw

    # The port itself.

    @asynccontextmanager
    async def deaf(self, *, backlog: int | None) -> AsyncIterator[None]:
        """For a while nobody accepts: connections are refused, or stay in a full `backlog` that nobody empties."""
        address = self._server.sockets[0].getsockname()
        self._server.close()
        try:
            with contextlib.ExitStack() as held:
                listener = held.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Bound in any case, so that nobody else gets the port meanwhile.
                listener.bind(address)
                if backlog is not None:
                    listener.listen(backlog)
                    # Somewhat more than fit, since systems round a backlog up.
                    for _ in range(backlog + 4):
                        filler = held.enter_context(socket.socket())
                        filler.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            filler.connect(address)
                yield
        finally:
            self._server = await asyncio.start_server(self._accept, *address)

    @asynccontextmanager
    async def full(self, wire: Wire) -> AsyncIterator[None]:
        """For a while every connection of the client's pool is taken, and more requests wait for one."""
        self._held.clear()
        limits = {"timeout": httpx.Timeout(None).as_dict()}
        # Of the same method, since a client may keep a pool for reads alone.
        held = httpx.Request(self.target[0], self.url + "/held", extensions=limits)
        hung = [asyncio.create_task(wire.send(held)) for _ in range(20)]
        try:
            await self._held.wait()
            yield
        finally:
            for task in hung:
                task.cancel()
            await asyncio.gather(*hung, return_exceptions=True)

    def vanish(self) -> None:
        """From now on nobody listens."""
        self._server.close()

    @asynccontextmanager
    async def slammed(self, at_once: Connecting) -> AsyncIterator[None]:
        """For a while this is done to each connection instead of serving it."""
        self.at_once = at_once
        try:
            yield
        finally:
            self.at_once = None


class KeepingRig(Rig):
    """A server that keeps connections for more requests, until one of the target's comes over a connection that had one
    before: that is carried out and gets no answer. `idle` closes each connection after its first answer, although the
    answer promised to keep it."""

    def __init__(self, api: httpx.AsyncBaseTransport, method: str, path: str, *, idle: bool) -> None:
        super().__init__(api, Fault(), method, path)
        self.idle = idle

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = _Unclosed(writer)
        while not reader.at_eof() and not writer.is_closing():
            await super()._serve(reader, kept)  # type: ignore[arg-type]
            if self.idle:
                break
        writer.close()

    async def _answer(self, served: Served, writer: Any) -> None:
        writer.requests += 1
        self.reached += self.is_target(served.method, served.target)
        raw = await self._honest(served)
        if self.is_target(served.method, served.target) and writer.requests > 1:
            writer.inner.close()
            return
        writer.write(raw.replace(b"connection: close\r\n", b""))


class _Unclosed:
    """A writer that whoever answers one request can't close."""

    def __init__(self, inner: asyncio.StreamWriter) -> None:
        self.inner, self.requests = inner, 0
        self.write, self.drain = inner.write, inner.drain

    def close(self) -> None:
        pass


# Answers.


def says(raw: bytes | str) -> Answering:
    async def answer(hit: Hit) -> None:
        hit.writer.write(raw.encode("latin-1") if isinstance(raw, str) else raw)

    return answer


def alters(change: Callable[[bytes], bytes]) -> Answering:
    """The honest answer with something done to its bytes."""

    async def answer(hit: Hit) -> None:
        hit.writer.write(change(hit.honest))

    return answer


def answers(status: int, body: Any = b"", **headers: str) -> Answering:
    return says(http_answer(status, body, **headers))


def error(status: int) -> dict[str, Any]:
    """The error body that the API documents."""
    return {"code": status, "error": "Error - As documented", "details": "por motivos del servidor"}


def documented(status: int, **headers: str) -> Answering:
    return answers(status, error(status), **headers)


def undocumented(status: int, **headers: str) -> Answering:
    return answers(status, HTML, kind="text/html", **headers)


def redirect(status: int) -> Answering:
    return answers(status, {"status": "success"}, location=ELSEWHERE)


def limited(headers: Callable[[], dict[str, str]]) -> Answering:
    """The documented 429, with headers that are made when it is."""

    async def answer(hit: Hit) -> None:
        hit.writer.write(http_answer(429, error(429), **headers()))

    return answer


async def as_it_is(hit: Hit) -> None:
    hit.writer.write(hit.honest)


async def close_at_once(_: Hit) -> None:
    """The server closes the connection after every answer, so that there is nothing left to do."""


async def reset_at_once(hit: Hit) -> None:
    reset(hit.writer)


async def drip_all(hit: Hit) -> None:
    await drip(hit.writer, hit.honest)


async def drip_body(hit: Hit) -> None:
    head, body = parts(hit.honest)
    hit.writer.write(head)
    await drip(hit.writer, body)


async def head_then_silence(hit: Hit) -> None:
    hit.writer.write(parts(hit.honest)[0])
    await hit.writer.drain()
    await hold()


async def early_then_silence(hit: Hit) -> None:
    hit.writer.write(EARLY)
    await hit.writer.drain()
    await hold()


async def reset_in_body(hit: Hit) -> None:
    hit.writer.write(hit.honest[:-7])
    await hit.writer.drain()
    await asyncio.sleep(0.02)
    reset(hit.writer)


EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def parts(raw: bytes) -> tuple[bytes, bytes]:
    """An answer's head with its blank line, and its body."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def status(code: int) -> Callable[[bytes], bytes]:
    """The honest answer under another status."""
    return lambda raw: b"HTTP/1.1 %d X\r\n" % code + raw.partition(b"\r\n")[2]


def header(line: bytes) -> Callable[[bytes], bytes]:
    """The honest answer with one more line in its head."""
    return lambda raw: raw.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def declared(change: int) -> Callable[[bytes], bytes]:
    """The honest answer whose declared length is wrong by `change`."""

    def lie(raw: bytes) -> bytes:
        length = len(parts(raw)[1])
        return raw.replace(b"content-length: %d" % length, b"content-length: %d" % (length + change), 1)

    return lie


def encoded(raw: bytes) -> bytes:
    head, body = parts(raw)
    packed = gzip.compress(body)
    bare = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % len(packed))
    return header(b"content-encoding: gzip")(bare + packed)


def chunked(raw: bytes, *, size: bytes | None = None, end: bytes = b"0\r\n\r\n") -> bytes:
    """The honest answer in one chunk, and what `end` says after it."""
    head, body = parts(raw)
    bare = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
    return bare + (size or b"%x" % len(body)) + b"\r\n" + body + b"\r\n" + end


def in_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """The honest answer with something done to its JSON."""

    def altered(raw: bytes) -> bytes:
        return http_answer(200, json.dumps(change(json.loads(parts(raw)[1]))))

    return altered


def without_success(body: dict[str, Any]) -> dict[str, Any]:
    """What makes an answer of the API one that went well: `workspaces` of a read, `status` of everything else."""
    return {key: value for key, value in body.items() if key not in ("status", "workspaces")}


def after(seconds: int) -> Callable[[], dict[str, str]]:
    return lambda: {"retry_after": str(seconds)}


def at_date(seconds: int) -> Callable[[], dict[str, str]]:
    # An HTTP date has whole seconds, so that rounding up is what gives the client all of its wait.
    return lambda: {"retry_after": formatdate(math.ceil(time.time()) + seconds, usegmt=True)}


def remaining(reset_in: Callable[[], float]) -> Callable[[], dict[str, str]]:
    return lambda: {"x_ratelimit_limit": "30", "x_ratelimit_remaining": "0", "x_ratelimit_reset": f"{reset_in():.2f}"}


SHORT = {"connect": 0.3, "pool": 0.3}
QUICK = 1.2
"""A deadline in seconds that dripping outlasts."""

REFUSALS: Sequence[int] = (400, 401, 403, 404, 422)

FAULTS: Mapping[str, Fault] = {
    "nothing": Fault(),
    # The request never leaves.
    "refused once": Fault(hinder=lambda rig, _: rig.deaf(backlog=None), acts=False),
    "refused for ever": Fault(hinder=lambda rig, _: rig.deaf(backlog=None), acts=False, times=EVER),
    "connect timeout once": Fault(hinder=lambda rig, _: rig.deaf(backlog=0), acts=False, timeouts=SHORT),
    "connect timeout for ever": Fault(
        hinder=lambda rig, _: rig.deaf(backlog=0), acts=False, timeouts=SHORT, times=EVER
    ),
    "connecting beyond the deadline": Fault(
        hinder=lambda rig, _: rig.deaf(backlog=0), acts=False, times=EVER, deadline=QUICK
    ),
    "pool timeout once": Fault(hinder=lambda rig, wire: rig.full(wire), acts=False, deadline=5.0, timeouts=SHORT),
    "pool timeout for ever": Fault(
        hinder=lambda rig, wire: rig.full(wire), acts=False, deadline=5.0, timeouts=SHORT, times=EVER
    ),
    # It leaves, and nobody can tell how far it got.
    "reset on accept": Fault(hinder=lambda rig, _: rig.slammed(reset_on_accept), acts=False),
    "reset on accept for ever": Fault(hinder=lambda rig, _: rig.slammed(reset_on_accept), acts=False, times=EVER),
    "closed on accept": Fault(hinder=lambda rig, _: rig.slammed(close_on_accept), acts=False),
    "reset after the head": Fault(hinder=lambda rig, _: rig.slammed(reset_after_head), acts=False),
    "reset after the request": Fault(reset_at_once),
    "closed without an answer": Fault(close_at_once),
    # No answer in time.
    "read timeout": Fault(hold, timeouts={"read": 0.6}),
    "silence beyond the deadline": Fault(hold, deadline=QUICK),
    "drip beyond the deadline": Fault(drip_all, deadline=QUICK),
    "dripped body beyond the deadline": Fault(drip_body, deadline=QUICK),
    "head, then silence": Fault(head_then_silence, timeouts={"read": 0.6}),
    "early hints, then silence": Fault(early_then_silence, deadline=QUICK),
    # Half an answer.
    "reset in the body": Fault(reset_in_body),
    "truncated body": Fault(alters(lambda raw: raw[:-7])),
    "truncated head": Fault(alters(lambda raw: raw[:40])),
    "truncated chunk": Fault(alters(lambda raw: chunked(raw, size=b"ffff", end=b""))),
    "chunks without an end": Fault(alters(lambda raw: chunked(raw, end=b""))),
    "more declared than sent": Fault(alters(declared(+9))),
    "less declared than sent": Fault(alters(declared(-9))),
    # Not HTTP.
    "garbage bytes": Fault(says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")),
    "a status line of words": Fault(says("HTTP/1.1 OK fine\r\n\r\n")),
    "a header without a colon": Fault(alters(header(b"nonsense"))),
    "a NUL in a header": Fault(alters(header(b"x-note: a\x00b"))),
    "a space in a header's name": Fault(alters(header(b"x note: a"))),
    "an endless head": Fault(alters(header(b"x-note: " + b"a" * 200_000))),
    "two lengths": Fault(alters(header(b"content-length: 1"))),
    "a negative length": Fault(alters(declared(-100_000))),
    "garbage as gzip": Fault(alters(header(b"content-encoding: gzip"))),
    "cut gzip": Fault(alters(lambda raw: declared(-30)(encoded(raw))[:-30])),
    "a bad chunk size": Fault(alters(lambda raw: chunked(raw, size=b"xyz"))),
    # A 2xx that says nothing good.
    "200 broken JSON": Fault(answers(200, '{"status": "success", "workspaces": [], "data": {"id": "')),
    "200 HTML": Fault(answers(200, HTML, kind="text/html")),
    "200 HTML for ever": Fault(answers(200, HTML, kind="text/html"), times=EVER),
    "200 and nothing": Fault(answers(200)),
    "200 null": Fault(answers(200, "null")),
    "200 a list": Fault(alters(in_json(lambda body: [body]))),
    "200 nested too deeply": Fault(answers(200, "[" * 100_000)),
    "200 without success": Fault(alters(in_json(without_success))),
    "200 status error": Fault(answers(200, {"status": "error", "message": "Upstream error", "data": None})),
    "200 an error body": Fault(answers(200, error(404))),
    "204": Fault(says("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")),
    "202 pending": Fault(answers(202, {"status": "pending", "data": {"job": "j1"}})),
    # Redirects, which are never followed.
    **{str(code): Fault(redirect(code)) for code in (301, 302, 307)},
    # What the API documents as not done.
    **{f"{code} documented": Fault(documented(code), acts=False, times=EVER) for code in REFUSALS},
    # The same statuses from somebody else: a proxy, a firewall.
    **{f"{code} HTML": Fault(undocumented(code)) for code in REFUSALS},
    "404 with another code": Fault(answers(404, error(400))),
    "422 without an error": Fault(answers(422, {"code": 422, "message": "no"})),
    "400 with a code in words": Fault(answers(400, {"code": "400", "error": "Bad Request"})),
    **{f"{code} documented": Fault(documented(code)) for code in (405, 408, 409, 418)},
    # The rate limit.
    "429 for a second": Fault(limited(after(1)), acts=False, times=EVER, lasts=1),
    "429 until a date": Fault(limited(at_date(1)), acts=False, times=EVER, lasts=1),
    "429 and a reset in seconds": Fault(limited(remaining(lambda: 1)), acts=False, times=EVER, lasts=1),
    "429 and a reset at a time": Fault(limited(remaining(lambda: time.time() + 1.1)), acts=False, times=EVER, lasts=1),
    "429 for ever": Fault(documented(429, retry_after="0"), acts=False, times=EVER),
    "429 for an hour": Fault(documented(429, retry_after="3600"), acts=False, times=EVER),
    "429 documented without a wait": Fault(documented(429)),
    "429 HTML with a wait": Fault(undocumented(429, retry_after="0")),
    "429 with another code": Fault(answers(429, error(503), retry_after="0")),
    # Broken servers.
    **{f"{code} documented": Fault(documented(code)) for code in (500, 503)},
    **{f"{code} HTML": Fault(undocumented(code)) for code in (500, 502, 503)},
    "500 for ever": Fault(documented(500), times=EVER),
    "503 documented with a wait": Fault(documented(503, retry_after="0")),
    "503 documented with limits": Fault(documented(503, x_ratelimit_remaining="0", x_ratelimit_reset="0")),
    # Odd, and an answer all the same.
    "100, then the answer": Fault(alters(lambda raw: CONTINUE + raw)),
    "103, then the answer": Fault(alters(lambda raw: EARLY + EARLY + raw)),
    "the same length twice": Fault(alters(lambda raw: header(b"content-length: %d" % len(parts(raw)[1]))(raw))),
    "more than declared": Fault(alters(lambda raw: raw + b"\r\nmore")),
    "gzip": Fault(alters(encoded)),
    "chunks": Fault(alters(chunked)),
    "Latin-1 in a header": Fault(alters(header("x-note: á".encode("latin-1")))),
    "HTML by name": Fault(alters(lambda raw: raw.replace(b"application/json", b"text/html"))),
    "201": Fault(alters(status(201))),
    "200": Fault(alters(status(200))),
}


# The model's endpoint.


@dataclass(frozen=True)
class ModelFault:
    """`answer` stands in for the honest one, `connecting` for serving the connection at all; `down` is no server.
    `timeout` is the client's, in seconds, short where the fault is to outlast it. `passes`: it is an answer all the
    same, and the next one follows it."""

    answer: Answering | None = None
    connecting: Connecting | None = None
    down: bool = False
    passes: bool = False
    times: int = 1
    timeout: float = 20.0


class Endpoint(Loopback):
    """A chat-completions endpoint that gives `script` in order, with a fault before the answer number `at`.

    `reached` counts the requests that the fault was done to or would have been, so an answer without fault counts one.
    """

    def __init__(self, fault: ModelFault, at: int) -> None:
        super().__init__(self._answer)
        self.fault, self.at = fault, at
        self.script: list[bytes] = []
        self.given = self.reached = 0

    async def __aenter__(self) -> "Endpoint":
        await super().__aenter__()
        self._address = self._server.sockets[0].getsockname()
        self._go_down()
        return self

    def _due(self) -> bool:
        if self.given != self.at:
            return False
        self.reached += 1
        return self.reached <= self.fault.times

    def _go_down(self) -> None:
        if self.fault.down and self.given == self.at:
            self._server.close()

    async def recover(self) -> None:
        """No fault any more."""
        if self.fault.down:
            self._server = await asyncio.start_server(self._accept, *self._address)
        self.fault = ModelFault()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault.connecting is None or not self._due():
            await super()._serve(reader, writer)
            return
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.fault.connecting(reader, writer)

    async def _answer(self, served: Served, writer: asyncio.StreamWriter) -> None:
        due = self.fault.connecting is None and self._due()
        answer = self.fault.answer if due else None
        if answer is not None and not self.fault.passes:
            await answer(Hit(writer, self.script[0]))
            return
        self.given += 1
        self._go_down()
        await (answer or as_it_is)(Hit(writer, self.script.pop(0)))


def completion(message: Mapping[str, Any], finish: str) -> bytes:
    """A chat completion as plain JSON."""
    return http_answer(200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}]})


def stream(deltas: Sequence[Mapping[str, Any]], finish: str) -> bytes:
    """A chat completion as server-sent events."""
    choices = [{"index": 0, "delta": delta} for delta in deltas] + [{"index": 0, "delta": {}, "finish_reason": finish}]
    events = [json.dumps({"choices": [choice]}) for choice in choices]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
    return http_answer(200, body, kind="text/event-stream")


def said(text: str, *, streamed: bool) -> bytes:
    if not streamed:
        return completion({"role": "assistant", "content": text}, "stop")
    return stream([{"content": word + " "} for word in text.split()], "stop")


def called(tool: str, arguments: Mapping[str, Any], *, streamed: bool) -> bytes:
    """One tool call; streamed, its arguments come in three pieces."""
    text, call = json.dumps(arguments), {"id": "call_1", "type": "function"}
    if not streamed:
        made = {**call, "function": {"name": tool, "arguments": text}}
        return completion({"role": "assistant", "content": None, "tool_calls": [made]}, "tool_calls")
    third = len(text) // 3
    pieces = [text[:third], text[third : 2 * third], text[2 * third :]]
    opening = {"tool_calls": [{"index": 0, **call, "function": {"name": tool, "arguments": ""}}]}
    rest = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    return stream([opening, *rest], "tool_calls")


# Its faults.


def unsized(raw: bytes) -> bytes:
    """The honest answer without a length, so that only the end of the connection ends it."""
    head, body = parts(raw)
    return head.replace(b"content-length: %d\r\n" % len(body), b"") + body


def events(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    """The honest stream with something done to its events, without a length. A plain answer is one event."""

    def changed(raw: bytes) -> bytes:
        head, body = parts(unsized(raw))
        return head + b"".join(each + b"\n\n" for each in change(body.removesuffix(b"\n\n").split(b"\n\n")))

    return changed


def halved(raw: bytes) -> bytes:
    """The first half of the body, without a length."""
    head, body = parts(unsized(raw))
    return head + body[: len(body) // 2]


async def halved_then_silence(hit: Hit) -> None:
    hit.writer.write(halved(hit.honest))
    await hit.writer.drain()
    await hold()


async def endless_head(hit: Hit) -> None:
    hit.writer.write(b"HTTP/1.1 200 OK\r\nx-note: ")
    await drip(hit.writer, b"a" * int(PATIENCE / 0.1), 0.1)


async def undone_then_silence(hit: Hit) -> None:
    hit.writer.write(events(lambda every: every[:-1])(hit.honest))
    await hit.writer.drain()
    await hold()


def endless(event: bytes) -> Answering:
    """An event again and again, after the first events of the honest stream, whose end doesn't come."""

    async def answer(hit: Hit) -> None:
        hit.writer.write(events(lambda every: every[:2])(hit.honest))
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            hit.writer.write(event + b"\n\n")
            await hit.writer.drain()
            await asyncio.sleep(0.01)

    return answer


def data(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode()


def one_choice(**choice: Any) -> bytes:
    return data({"choices": [{"index": 0, **choice}]})


def among(event: bytes) -> Answering:
    """One more event in the middle of the honest stream."""
    return alters(events(lambda every: [*every[:2], event, *every[2:]]))


def refused(status: int, message: str = "as documented", **more: Any) -> Answering:
    """An error as OpenAI's endpoint words it."""
    headers = {name: str(more.pop(name)) for name in ("retry_after", "x_should_retry") if name in more}
    return answers(status, {"error": {"message": message, "type": "error", "code": None, **more}}, **headers)


MORE_ARGUMENTS = one_choice(delta={"tool_calls": [{"index": 0, "function": {"arguments": " "}}]})
TOO_LONG = "This model's maximum context length is 8192 tokens."
BRIEF = 0.5
"""A timeout in seconds that silence outlasts; the deadline of an answer is five times that."""

MODEL_FAULTS: Mapping[str, ModelFault] = {
    "nothing": ModelFault(),
    # No answer.
    "refused": ModelFault(down=True),
    "reset on accept": ModelFault(connecting=reset_on_accept),
    "reset on accept for ever": ModelFault(connecting=reset_on_accept, times=EVER),
    "closed on accept": ModelFault(connecting=close_on_accept),
    "reset after the head": ModelFault(connecting=reset_after_head),
    "reset after the request": ModelFault(reset_at_once),
    "reset after the request for ever": ModelFault(reset_at_once, times=EVER),
    "closed without an answer": ModelFault(close_at_once),
    "silence": ModelFault(hold, timeout=BRIEF),
    "silence for ever": ModelFault(hold, timeout=BRIEF, times=EVER),
    # An answer that doesn't end.
    "head, then silence": ModelFault(head_then_silence, timeout=BRIEF, times=EVER),
    "a head without an end": ModelFault(endless_head, timeout=BRIEF, times=EVER),
    "half, then silence": ModelFault(halved_then_silence, timeout=BRIEF, times=EVER),
    "drip beyond the deadline": ModelFault(drip_body, timeout=BRIEF, times=EVER),
    "comments for ever": ModelFault(endless(b": ping"), timeout=BRIEF, times=EVER),
    "text for ever": ModelFault(endless(one_choice(delta={"content": "and "})), timeout=BRIEF, times=EVER),
    "arguments for ever": ModelFault(endless(MORE_ARGUMENTS), timeout=BRIEF, times=EVER),
    # Half an answer.
    "half, then closed": ModelFault(alters(halved), times=EVER),
    "half of what was declared": ModelFault(alters(lambda raw: raw[: -len(parts(raw)[1]) // 2]), times=EVER),
    "half of a chunk": ModelFault(alters(lambda raw: chunked(raw, size=b"ffff", end=b"")), times=EVER),
    "chunks without an end": ModelFault(alters(lambda raw: chunked(raw, end=b"")), times=EVER),
    "the first event alone": ModelFault(alters(events(lambda every: every[:1])), times=EVER),
    "no finish and no end": ModelFault(alters(events(lambda every: every[:-2])), times=EVER),
    "no finish": ModelFault(alters(events(lambda every: [*every[:-2], every[-1]])), passes=True),
    "no end": ModelFault(alters(events(lambda every: every[:-1])), passes=True),
    "no end, then silence": ModelFault(undone_then_silence, timeout=BRIEF, times=EVER),
    # Another answer than was asked for.
    "an error in the stream": ModelFault(among(data({"error": {"message": "overloaded", "code": 503}})), times=EVER),
    "too long, in the stream": ModelFault(among(data({"error": {"message": TOO_LONG}})), times=EVER),
    "every event twice": ModelFault(alters(events(lambda every: [e for e in every for _ in "12"])), passes=True),
    "the first event twice": ModelFault(alters(events(lambda every: [every[0], *every])), passes=True),
    "an event without choices": ModelFault(among(data({"choices": []})), passes=True),
    "an event of null": ModelFault(among(one_choice(delta=None)), passes=True),
    "an event of broken JSON": ModelFault(among(b'data: {"choices": [{"delta": {"conte'), times=EVER),
    "an event of bad UTF-8": ModelFault(among(b'data: {"choices": [{"delta": {"content": "\xff"}}]}'), times=EVER),
    "an event that is a list": ModelFault(among(b"data: [1]"), times=EVER),
    "no choices": ModelFault(answers(200, {"id": "x", "choices": []}), times=EVER),
    "choices null": ModelFault(answers(200, {"choices": None}), times=EVER),
    "a choice null": ModelFault(answers(200, {"choices": [None]}), times=EVER),
    "a message null": ModelFault(answers(200, {"choices": [{"message": None, "finish_reason": "stop"}]}), passes=True),
    "200 HTML": ModelFault(answers(200, HTML, kind="text/html"), times=EVER),
    "200 broken JSON": ModelFault(answers(200, '{"choices": [{"message": {"conte'), times=EVER),
    "200 and nothing": ModelFault(answers(200), times=EVER),
    "200 null": ModelFault(answers(200, "null"), times=EVER),
    "200 a list": ModelFault(answers(200, [1]), times=EVER),
    "200 nested too deeply": ModelFault(answers(200, '{"choices": ' + "[" * 100_000), times=EVER),
    "200 an error": ModelFault(refused(200, "overloaded"), times=EVER),
    "204": ModelFault(says("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"), times=EVER),
    "garbage bytes": ModelFault(says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), times=EVER),
    "a NUL in a header": ModelFault(alters(header(b"x-note: a\x00b")), times=EVER),
    "two lengths": ModelFault(alters(header(b"content-length: 1")), times=EVER),
    "garbage as gzip": ModelFault(alters(header(b"content-encoding: gzip")), times=EVER),
    **{str(code): ModelFault(answers(code, location="/v1/elsewhere"), times=EVER) for code in (301, 302, 307, 308)},
    # Refusals.
    **{str(code): ModelFault(refused(code), times=EVER) for code in (400, 401, 403, 404, 422)},
    "400 too long": ModelFault(refused(400, TOO_LONG, code="context_length_exceeded"), times=EVER),
    "404 HTML": ModelFault(undocumented(404), times=EVER),
    # What the SDK tries again.
    "408 once": ModelFault(refused(408)),
    "409 for ever": ModelFault(refused(409), times=EVER),
    "429 once": ModelFault(refused(429, retry_after=1)),
    "429 for ever": ModelFault(refused(429, retry_after=1), times=EVER),
    "429 for an hour": ModelFault(refused(429, retry_after=3600), times=EVER),
    "429 HTML": ModelFault(undocumented(429), times=EVER),
    "429, not to be retried": ModelFault(refused(429, x_should_retry="false"), times=EVER),
    **{f"{code} once": ModelFault(refused(code)) for code in (500, 503)},
    "502 HTML once": ModelFault(undocumented(502)),
    "500 for ever": ModelFault(refused(500), times=EVER),
    "502 HTML for ever": ModelFault(undocumented(502), times=EVER),
    # Odd, and an answer all the same.
    "103, then the answer": ModelFault(alters(lambda raw: EARLY + raw), passes=True),
    "gzip": ModelFault(alters(encoded), passes=True),
    "chunks": ModelFault(alters(chunked), passes=True),
    "no length": ModelFault(alters(unsized), passes=True),
}
