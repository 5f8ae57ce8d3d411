"""`Platica.request`: what leaves, what comes back, and everything between that can go wrong, by the fault table."""

import asyncio
import gzip
import json
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from agent.domain import Answer, Campaign, Risk
from agent.errors import ApiError, ApiRateLimited, ApiRefused, ApiUncertain, ApiUnreachable
from agent.platica import Permit, Platica, Request, derive_risk
from agent.settings import Settings
from tests.support import Loopback, Served, http_answer

KEY = "pl_key_KEYID123_S3CR3Ts3cr3tS3CR3T"
SECRET = "S3CR3Ts3cr3tS3CR3T"
READ = Request("GET", "/v1/campaigns/X", Risk.READ)
WRITE = Request("PATCH", "/v1/campaigns/X", Risk.WRITE, body={"title": "Otra"})
CREATE = Request("POST", "/v1/campaigns", Risk.WRITE, body={"title": "Una", "category": "utility"})
ADD = Request("POST", "/v1/campaigns/X/audience", Risk.WRITE, body={"clients": [{"phoneNumber": "1", "name": "A"}]})
CLEAR = Request("DELETE", "/v1/campaigns/X/audience", Risk.DESTRUCTIVE)
REMOVE = Request("DELETE", "/v1/campaigns/X/audience/525500100001", Risk.DESTRUCTIVE)
SEND = Request("POST", "/v1/campaigns/X/send", Risk.SEND, body={"channelId": "wb-1"})
GATED = [CLEAR, REMOVE, SEND]
UNGATED_WRITES = [WRITE, CREATE, ADD]
GOOD = {"status": "success", "data": {"id": "X"}, "workspaces": []}

Behave = Callable[[Served, asyncio.StreamWriter], Awaitable[None]]


class Naps:
    """Sleeps that take no time, and how long they were meant to be."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


def permit(request: Request, **more: Any) -> Permit:
    return Permit("attempt-1", request.sha256, **{"not_after": time.monotonic() + 5, **more})


def permit_for(request: Request) -> Permit | None:
    return permit(request) if request.risk.gated else None


def client(http: httpx.AsyncClient, **more: Any) -> Platica:
    return Platica(http, **{"key": KEY, "requests_per_second": 1e6, "sleep": Naps(), **more})


@asynccontextmanager
async def served(behave: Behave, *, timeout: Any = 5, **more: Any) -> AsyncIterator[tuple[Platica, Loopback]]:
    """A Platica over a real socket."""
    async with Loopback(behave) as server:
        platica = client(httpx.AsyncClient(base_url=server.url, timeout=timeout, trust_env=False, verify=False), **more)
        try:
            yield platica, server
        finally:
            await platica.aclose()


Answering = Callable[[httpx.Request], Any]


@asynccontextmanager
async def mocked(answering: Answering, **more: Any) -> AsyncIterator[Platica]:
    http = httpx.AsyncClient(
        transport=httpx.MockTransport(answering), base_url="https://api.platica.mx", trust_env=False
    )
    platica = client(http, **more)
    try:
        yield platica
    finally:
        await platica.aclose()


def in_turn(*answers: httpx.Response | Exception) -> tuple[Answering, list[httpx.Request]]:
    """Answers in order, the last one again and again; and the requests that came."""
    seen: list[httpx.Request] = []

    def answering(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[min(len(seen), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return answering, seen


def error_body(status: int, details: str | None = "Agent not found") -> dict[str, Any]:
    return {"code": status, "error": "Not Found - Resource not found", **({"details": details} if details else {})}


def names(request: Request) -> str:
    return f"{request.method} {request.path.removeprefix('/v1/')}"


# What leaves.


async def test_the_exact_bytes_of_a_write() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(201, GOOD))

    async with served(behave, workspace="ws norte") as (platica, server):
        answer = await platica.request(CREATE)
    (seen,) = server.seen
    assert (seen.method, seen.target.partition("?")[0]) == ("POST", "/v1/campaigns")
    assert parse_qsl(seen.target.partition("?")[2]) == [("workspace", "ws norte")]
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-type"] == "application/json"
    assert json.loads(seen.body) == CREATE.body
    assert (answer.status, answer.body) == (201, GOOD)


async def test_a_read_and_a_removal_have_no_body() -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    async with mocked(answering) as platica:
        await platica.request(READ)
        await platica.request(REMOVE, permit(REMOVE))
    assert [(one.method, one.url.raw_path, one.content) for one in seen] == [
        ("GET", b"/v1/campaigns/X", b""),
        ("DELETE", b"/v1/campaigns/X/audience/525500100001", b""),
    ]
    assert all("content-type" not in one.headers for one in seen)


async def test_every_request_names_the_workspace_and_carries_the_key() -> None:
    answering, seen = in_turn(
        httpx.Response(200, json={**GOOD, "workspaces": [{"campaigns": [{"id": "X"}], "templates": [{"name": "t"}]}]})
    )
    async with mocked(answering, workspace="ws_1") as platica:
        for request in (READ, *UNGATED_WRITES, *GATED):
            await platica.request(request, permit_for(request))
        await platica.campaign("X")
        assert [one.id async for one in platica.campaigns()] == ["X"]
        assert [one async for one in platica.audience("X")] == []
        await platica.audience_page("X")
        assert await platica.count("X") == 0
        await platica.channels()
        await platica.templates()
        await platica.template("t")
        await platica.responders()
    assert len(seen) == 16
    assert [one.url.params.get_list("workspace") for one in seen] == [["ws_1"]] * 16
    assert {one.headers["authorization"] for one in seen} == {f"Bearer {KEY}"}


async def test_without_a_workspace_none_is_named_and_the_query_stays() -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    async with mocked(answering) as platica:
        await platica.request(Request("GET", "/v1/campaigns", Risk.READ, {"limit": 2, "sortBy": "title"}))
    assert seen[0].url.query == b"limit=2&sortBy=title"


async def test_unknown_fields_of_an_answer_are_kept() -> None:
    record = {"id": "X", "title": "Promo", "budget": {"mxn": 5}, "title2": None}
    body = {"workspaces": [{"id": "w", "campaigns": [record], "quota": 7}], "trace": "t"}
    answering, _ = in_turn(httpx.Response(200, json=body, headers={"X-Request-Id": "req_9"}))
    async with mocked(answering) as platica:
        answer = await platica.request(READ)
        campaign = await platica.campaign("X")
    assert answer == Answer(200, body, "req_9")
    assert isinstance(campaign, Campaign)
    assert campaign.model_dump()["budget"] == {"mxn": 5}


async def test_a_base_address_with_a_path_keeps_it() -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    http = httpx.AsyncClient(transport=httpx.MockTransport(answering), base_url="https://proxy.example/platica/")
    platica = client(http)
    await platica.request(READ)
    await platica.aclose()
    assert str(seen[0].url) == "https://proxy.example/platica/v1/campaigns/X"
    assert platica.base_url == "https://proxy.example/platica"


# Risk.

RISKS = {
    ("GET", "/v1/campaigns"): Risk.READ,
    ("GET", "/v1/campaigns/X"): Risk.READ,
    ("GET", "/v1/campaigns/X/audience"): Risk.READ,
    ("GET", "/v1/channels"): Risk.READ,
    ("GET", "/v1/templates"): Risk.READ,
    ("GET", "/v1/templates/promo%20verano"): Risk.READ,
    ("GET", "/v1/agents"): Risk.READ,
    ("POST", "/v1/campaigns"): Risk.WRITE,
    ("PATCH", "/v1/campaigns/X"): Risk.WRITE,
    ("POST", "/v1/campaigns/X/audience"): Risk.WRITE,
    ("DELETE", "/v1/campaigns/X"): Risk.DESTRUCTIVE,
    ("DELETE", "/v1/campaigns/X/audience"): Risk.DESTRUCTIVE,
    ("DELETE", "/v1/campaigns/X/audience/525500100001"): Risk.DESTRUCTIVE,
    ("POST", "/v1/campaigns/X/send"): Risk.SEND,
}
STRANGE = [
    ("POST", "/v1/campaigns/X/send#"),
    ("PATCH", "/v1/campaigns/X/send#"),
    ("POST", "/v1/campaigns/X/send#/audience"),
    ("POST", "/v1/campaigns/X/send?/audience"),
    ("POST", "/v1/campaigns/X/send/"),
    ("POST", "/v1/campaigns/X/send\n"),
    ("POST", "/v1/campaigns/X%2Fsend"),
    ("POST", "/v1/campaigns//send"),
    ("POST", "/v1/campaigns/X/../Y/send"),
    ("POST", "/v1//campaigns"),
    ("POST", "/v2/campaigns"),
    ("POST", "https://evil.example/v1/campaigns"),
    ("POST", "//evil.example/v1/campaigns"),
    ("post", "/v1/campaigns"),
    ("delete", "/v1/campaigns/X"),
    ("PUT", "/v1/campaigns/X"),
    ("PATCH", "/v1/campaigns"),
    ("DELETE", "/v1/campaigns"),
    ("DELETE", "/v1/campaigns/X/audience/"),
    ("DELETE", "/v1/campaigns/X/audience/5255"),
    ("DELETE", "/v1/campaigns/X/audience/+525500100001"),
    ("DELETE", "/v1/campaigns/X/audience/5255٠٠١٠٠٠٠١"),
    ("GET", "/v1/campaigns/X/send"),
    ("GET", "/v1/campaigns/" + "x" * 129),
    ("GET", "/v1/campaigns?limit=1"),
    ("GET", "/v1/templates/a/b"),
    ("GET", "/v1/templates/a?b"),
    ("GET", "/v1/templates/.."),
    ("GET", "/v1/users"),
    ("GET", ""),
]


@pytest.mark.parametrize(("call", "risk"), RISKS.items())
def test_risk_of_every_known_request(call: tuple[str, str], risk: Risk) -> None:
    assert derive_risk(*call) is risk


@pytest.mark.parametrize(("method", "path"), STRANGE)
@pytest.mark.parametrize("risk", Risk)
async def test_a_strange_path_never_leaves(method: str, path: str, risk: Risk) -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    request = Request(method, path, risk)
    async with mocked(answering) as platica:
        with pytest.raises(PermissionError):
            await platica.request(request, permit(request))
    assert seen == []


@pytest.mark.parametrize("call", RISKS)
async def test_a_request_under_another_risk_never_leaves(call: tuple[str, str]) -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    async with mocked(answering) as platica:
        for risk in set(Risk) - {RISKS[call]}:
            request = Request(*call, risk)
            with pytest.raises(PermissionError):
                await platica.request(request, permit(request))
    assert seen == []


# Permits.


@pytest.mark.parametrize("request_", GATED, ids=names)
async def test_a_gated_request_needs_a_permit_that_is_its_own_and_new(request_: Request) -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    others = [one for one in GATED if one is not request_]
    changed = Request(request_.method, request_.path, request_.risk, {"x": 1}, request_.body)
    longer = Request(
        request_.method, request_.path, request_.risk, body={**(request_.body or {}), "responderAgentId": "a"}
    )
    async with mocked(answering) as platica:
        with pytest.raises(PermissionError):
            await platica.request(request_)
        with pytest.raises(PermissionError):
            await platica.request(request_, permit(request_, spent=True))
        for other in (*others, changed, longer, READ):
            with pytest.raises(PermissionError):
                await platica.request(request_, permit(other))
        late = permit(request_, not_after=time.monotonic() - 0.01)
        with pytest.raises(ApiUnreachable) as caught:
            await platica.request(request_, late)
        assert not caught.value.may_have_acted
        assert not late.spent
        assert seen == []

        own = permit(request_)
        await platica.request(request_, own)
        assert own.spent
        with pytest.raises(PermissionError):
            await platica.request(request_, own)
    assert len(seen) == 1


async def test_two_tasks_with_one_permit_send_once() -> None:
    answering, seen = in_turn(httpx.Response(200, json=GOOD))
    own = permit(SEND)
    async with mocked(answering) as platica:
        results = await asyncio.gather(*(platica.request(SEND, own) for _ in range(5)), return_exceptions=True)
    assert len(seen) == 1
    assert sorted(type(one).__name__ for one in results) == ["Answer"] + ["PermissionError"] * 4


async def test_a_permit_that_expires_while_waiting_for_its_turn_is_not_used() -> None:
    answering, seen = in_turn(
        httpx.Response(200, json=GOOD, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0.3"})
    )
    async with mocked(answering, sleep=asyncio.sleep) as platica:
        await platica.request(READ)
        late = permit(SEND, not_after=time.monotonic() + 0.1)
        with pytest.raises(ApiUnreachable):
            await platica.request(SEND, late)
    assert [one.method for one in seen] == ["GET"]
    assert not late.spent


def test_a_digest_covers_the_whole_request() -> None:
    base = Request("POST", "/v1/campaigns/X/send", Risk.SEND, {}, {"channelId": "wb-1"})
    others = [
        Request("PUT", base.path, base.risk, {}, base.body),
        Request("POST", "/v1/campaigns/Y/send", base.risk, {}, base.body),
        Request("POST", base.path, base.risk, {"workspace": "w"}, base.body),
        Request("POST", base.path, base.risk, {}, {"channelId": "wb-2"}),
        Request("POST", base.path, base.risk, {}, {"channelId": "wb-1", "template": {"params": ["a"]}}),
        Request("POST", base.path, base.risk, {}, None),
    ]
    assert len({one.sha256 for one in (base, *others)}) == 7
    same = Request("POST", base.path, base.risk, {}, {"channelId": "wb-1"})
    assert same.sha256 == base.sha256


# The fault table, row by row.

DOCUMENTED = {
    status: http_answer(status, error_body(status)) for status in (400, 401, 403, 404, 422, 500, 503, 405, 409)
}
DATE = formatdate(time.time() + 2, usegmt=True)
SAFE = {
    "429 with Retry-After": http_answer(429, error_body(429), retry_after="2"),
    "429 with Remaining 0": http_answer(429, error_body(429), x_ratelimit_remaining="0"),
    "429 with Remaining 0 and Reset": http_answer(
        429, error_body(429), x_ratelimit_remaining="0", x_ratelimit_reset="0.05"
    ),
    "429 with a date as Retry-After": http_answer(429, error_body(429), retry_after=DATE),
}
REFUSED = {str(status): DOCUMENTED[status] for status in (400, 401, 403, 404, 422)} | {
    "404 without details": http_answer(404, error_body(404, None)),
    "422 in Spanish": http_answer(422, {"code": 422, "error": "No se puede procesar", "details": "Plantilla"}),
}
HTML = "<!doctype html><title>Iniciar sesión</title>"
UNCERTAIN: dict[str, bytes] = {
    **{f"documented {status}": DOCUMENTED[status] for status in (500, 503, 405, 409)},
    "429 of a proxy": http_answer(429, HTML, kind="text/html", retry_after="1"),
    "429 with another body": http_answer(429, {"message": "slow down"}, retry_after="1"),
    "429 without a header": http_answer(429, error_body(429)),
    "429 with Reset alone": http_answer(429, error_body(429), x_ratelimit_reset="1"),
    "429 with a word as Retry-After": http_answer(429, error_body(429), retry_after="soon"),
    "400 in HTML": http_answer(400, HTML, kind="text/html"),
    "401 in another form": http_answer(401, {"message": "Unauthorized"}),
    "403 of a firewall": http_answer(403, "Forbidden", kind="text/plain"),
    "404 of a proxy": http_answer(404, HTML, kind="text/html"),
    "422 with another code inside": http_answer(422, error_body(500)),
    "404 whose error is an object": http_answer(404, {"code": 404, "error": {"text": "x"}}),
    "502 in HTML": http_answer(502, HTML, kind="text/html"),
    "504 empty": http_answer(504, b""),
    "302": http_answer(302, b"", location="/v1/campaigns"),
    "307": http_answer(307, b"", location="/v1/campaigns/X/send"),
    "200 with garbage": http_answer(200, '{"status": "success", "data": {"id": "'),
    "200 in HTML": http_answer(200, HTML, kind="text/html"),
    "200 empty": http_answer(200, b""),
    "204": b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n",
    "200 with a list": http_answer(200, [GOOD]),
    "200 with status error": http_answer(200, {"status": "error", "message": "Upstream error"}),
    "200 with status Success": http_answer(200, {"status": "Success"}),
    "200 with no status": http_answer(200, {"data": {}}),
    "200 with an error body": http_answer(200, error_body(404)),
    "200 nested too deep": http_answer(200, "[" * 100_000 + "]" * 100_000),
    "200 in no encoding": http_answer(200, b'{"status": "\xff\xfe"}'),
    "200 that isn't gzip": http_answer(200, GOOD, content_encoding="gzip"),
    "truncated": http_answer(200, GOOD)[:-10],
    "truncated in the headers": http_answer(200, GOOD)[:20],
    "chunks that end early": b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{",
    "no HTTP": b"hello\r\n\r\n",
    "closed without an answer": b"",
}


def scripted(first: bytes, times: int = 1) -> Behave:
    """`first` for so many requests, then a good answer."""
    count = 0

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(first if count <= times else http_answer(200, GOOD))

    return behave


async def failure(platica: Platica, request: Request) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await platica.request(request, permit_for(request))
    return caught.value


@pytest.mark.parametrize("row", SAFE)
async def test_surely_not_acted_on_is_repeated_unless_gated(row: str) -> None:
    # A pause is a matter of the clock, so that it has to be slept; one of a second is slept once.
    sleep = asyncio.sleep if "Remaining" in row else Naps()
    for request in (CREATE,) if row == "429 with Remaining 0" else (READ, *UNGATED_WRITES):
        async with served(scripted(SAFE[row]), sleep=sleep) as (platica, server):
            await platica.request(request)
            assert len(server.seen) == 2, names(request)
    for request in GATED:
        async with served(scripted(SAFE[row])) as (platica, server):
            error = await failure(platica, request)
            assert type(error) is ApiRateLimited
            assert not error.may_have_acted
            assert error.status == 429
            assert 0 < error.wait <= 2
            assert len(server.seen) == 1, names(request)


@pytest.mark.parametrize("row", REFUSED)
async def test_a_documented_refusal_is_final(row: str) -> None:
    for request in (READ, WRITE, *GATED):
        async with served(scripted(REFUSED[row])) as (platica, server):
            error = await failure(platica, request)
            assert type(error) is ApiRefused
            assert not error.may_have_acted
            assert str(error.status) == row[:3]
            assert len(server.seen) == 1, names(request)


@pytest.mark.parametrize("row", UNCERTAIN)
async def test_everything_else_may_have_acted(row: str) -> None:
    async with served(scripted(UNCERTAIN[row])) as (platica, server):
        await platica.request(READ)
        assert len(server.seen) == 2
    async with served(scripted(UNCERTAIN[row], times=99)) as (platica, server):
        error = await failure(platica, READ)
        assert type(error) is ApiUncertain
        assert len(server.seen) == 3, "tried a few times, then given up"
    for request in (CREATE, REMOVE, SEND):
        async with served(scripted(UNCERTAIN[row])) as (platica, server):
            error = await failure(platica, request)
            assert type(error) is ApiUncertain
            assert error.may_have_acted
            assert len(server.seen) == 1, names(request)


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_a_reset_after_the_request() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    for request in (READ, WRITE, *GATED):
        async with served(behave) as (platica, server):
            assert type(await failure(platica, request)) is ApiUncertain
            assert len(server.seen) == (3 if request is READ else 1)


@pytest.mark.parametrize("request_", [READ, WRITE, SEND], ids=names)
async def test_a_reset_before_the_request_was_read(request_: Request) -> None:
    """From here it can't be told from one after, so it counts as one."""
    connections = 0

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        reset(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    platica = client(httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False))
    error = await failure(platica, request_)
    await platica.aclose()
    server.close()
    assert type(error) is ApiUncertain
    assert connections == (3 if request_ is READ else 1)


async def test_a_read_timeout() -> None:
    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    timeout = httpx.Timeout(5, read=0.05)
    for request in (READ, WRITE, *GATED):
        async with served(behave, timeout=timeout) as (platica, server):
            assert type(await failure(platica, request)) is ApiUncertain
            assert len(server.seen) == (3 if request is READ else 1)


@pytest.mark.parametrize("request_", [READ, WRITE, CLEAR, SEND], ids=names)
async def test_a_refused_port(request_: Request) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        naps = Naps()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        platica = client(httpx.AsyncClient(base_url=url, trust_env=False), sleep=naps)
        error = await failure(platica, request_)
        await platica.aclose()
    assert type(error) is ApiUnreachable
    assert not error.may_have_acted
    assert len(naps.taken) == (0 if request_.risk.gated else 2), "repeated, but never for a gated request"


NEVER_ARRIVED = [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout]
MAY_HAVE_ARRIVED = [
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
    httpx.LocalProtocolError,
    httpx.ProxyError,
    httpx.DecodingError,
    httpx.TooManyRedirects,
]


@pytest.mark.parametrize("kind", [*NEVER_ARRIVED, *MAY_HAVE_ARRIVED])
async def test_each_failure_of_the_client_has_its_row(kind: type[httpx.RequestError]) -> None:
    safe = kind in NEVER_ARRIVED
    for request in (READ, WRITE, *GATED):
        answering, seen = in_turn(kind("it broke"), httpx.Response(200, json=GOOD))
        async with mocked(answering) as platica:
            if request is READ or (request is WRITE and safe):
                await platica.request(request)
                assert len(seen) == 2
                continue
            error = await failure(platica, request)
        assert type(error) is (ApiUnreachable if safe else ApiUncertain)
        assert len(seen) == 1


async def test_redirects_are_not_followed_even_by_a_client_that_would() -> None:
    answering, seen = in_turn(httpx.Response(302, headers={"location": "https://evil.example/"}))
    transport = httpx.MockTransport(answering)
    http = httpx.AsyncClient(transport=transport, base_url="https://api.platica.mx", follow_redirects=True)
    platica = client(http)
    assert type(await failure(platica, SEND)) is ApiUncertain
    await platica.aclose()
    assert [one.url.host for one in seen] == ["api.platica.mx"]


async def test_the_wait_of_a_429_is_kept_and_a_long_one_is_not_waited_for() -> None:
    naps = Naps()
    answering, seen = in_turn(
        httpx.Response(429, json=error_body(429), headers={"Retry-After": "3"}), httpx.Response(200, json=GOOD)
    )
    async with mocked(answering, sleep=naps) as platica:
        await platica.request(READ)
    assert 3 in naps.taken
    answering, seen = in_turn(httpx.Response(429, json=error_body(429), headers={"Retry-After": "3600"}))
    async with mocked(answering) as platica:
        error = await failure(platica, READ)
    assert isinstance(error, ApiRateLimited)
    assert error.wait == 3600
    assert len(seen) == 1


# The deadline.


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("request_", [READ, WRITE, SEND], ids=names)
@pytest.mark.parametrize("where", ["headers", "body"])
async def test_a_slow_drip_ends_at_the_deadline(request_: Request, where: str) -> None:
    """httpx alone would never end it: each byte comes well within its read timeout."""

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        whole = http_answer(200, GOOD)
        head = 0 if where == "headers" else whole.index(b"\r\n\r\n") + 4
        writer.write(whole[:head])
        await drip(writer, whole[head:])

    async with served(behave, deadline=0.5) as (platica, server):
        started = time.monotonic()
        error = await failure(platica, request_)
        assert 0.4 < time.monotonic() - started < 0.9
        assert type(error) is ApiUncertain
        assert len(server.seen) == 1


async def test_the_deadline_is_for_all_tries_together() -> None:
    answering, seen = in_turn(httpx.Response(503, json=error_body(503)))
    async with mocked(answering, deadline=0.6, sleep=asyncio.sleep) as platica:
        started = time.monotonic()
        await failure(platica, READ)
        assert time.monotonic() - started < 0.7
    assert 1 <= len(seen) < 3


async def test_no_turn_within_the_deadline_means_surely_nothing_left() -> None:
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5"}
    answering, seen = in_turn(httpx.Response(200, json=GOOD, headers=headers))
    async with mocked(answering, deadline=0.2, sleep=asyncio.sleep) as platica:
        await platica.request(READ)
        own = permit(SEND)
        with pytest.raises(ApiRateLimited) as caught:
            await platica.request(SEND, own)
    assert not caught.value.may_have_acted
    assert not own.spent
    assert len(seen) == 1


# The rate.


class Timed:
    """A transport's moments."""

    def __init__(self, headers: Callable[[int], dict[str, str]] = lambda _: {}) -> None:
        self.at: list[float] = []
        self.headers = headers

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.at.append(time.monotonic())
        headers = self.headers(len(self.at))
        # Long enough that other tasks get as far as they can meanwhile.
        await asyncio.sleep(0.01)
        return httpx.Response(200, json=GOOD, headers=headers)

    def most_in_a_second(self) -> int:
        return max(sum(start <= moment < start + 1 for moment in self.at) for start in self.at)


async def test_no_second_has_more_than_the_rate_over_all_tasks() -> None:
    timed = Timed()
    async with mocked(timed, requests_per_second=30, sleep=asyncio.sleep) as platica:
        await platica.request(READ)
        # A pause, since a bucket that fills up meanwhile would then let too many go at once.
        await asyncio.sleep(0.6)

        async def task(count: int) -> None:
            for number in range(count):
                request = (READ, WRITE, SEND)[number % 3]
                await platica.request(request, permit_for(request))

        await asyncio.gather(*(task(9) for _ in range(5)))
    assert len(timed.at) == 46
    assert timed.most_in_a_second() <= 31
    assert timed.at[-1] - timed.at[1] < 2.5, "and no slower than it must be"


async def test_retries_keep_the_rate_too() -> None:
    moments: list[float] = []

    def answering(request: httpx.Request) -> httpx.Response:
        moments.append(time.monotonic())
        return httpx.Response(503, json=error_body(503))

    async with mocked(answering, requests_per_second=20) as platica:
        await asyncio.gather(*(failure(platica, READ) for _ in range(4)))
    assert len(moments) == 12
    assert all(later - earlier > 0.03 for earlier, later in pairwise(moments))


@pytest.mark.parametrize("form", ["seconds", "Unix time"])
async def test_remaining_zero_pauses_until_the_reset(form: str) -> None:
    def headers(number: int) -> dict[str, str]:
        reset_at = "0.4" if form == "seconds" else str(time.time() + 0.41)
        return {"X-RateLimit-Remaining": "0" if number == 1 else "29", "X-RateLimit-Reset": reset_at}

    timed = Timed(headers)
    async with mocked(timed, sleep=asyncio.sleep) as platica:
        await platica.request(READ)
        await asyncio.gather(*(platica.request(READ) for _ in range(3)))
    assert timed.at[1] - timed.at[0] >= 0.38
    assert timed.at[3] - timed.at[1] < 0.3, "one pause, not one each"


async def test_remaining_zero_pauses_those_that_wait_for_their_turn_already() -> None:
    timed = Timed(lambda number: {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0.5"} if number == 1 else {})
    async with mocked(timed, requests_per_second=20, sleep=asyncio.sleep) as platica:
        await asyncio.gather(*(platica.request(READ) for _ in range(4)))
    assert timed.at[1] - timed.at[0] >= 0.45


class Awake(Exception):
    """Instead of a nap."""


@pytest.mark.parametrize("value", ["1e300", "inf", "nan", "-5", "soon", "", "99999999999999"])
async def test_a_pause_has_an_end_whatever_the_header_says(value: str) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise Awake

    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": value, "Retry-After": value}
    answering, seen = in_turn(httpx.Response(200, json=GOOD, headers=headers))
    async with mocked(answering, sleep=sleep) as platica:
        await platica.request(READ)
        with pytest.raises(Awake):
            await platica.request(READ)
    assert len(seen) == 1
    assert 0 < pauses[0] <= 30


# Errors.


@pytest.mark.parametrize("request_", [READ, WRITE, SEND], ids=names)
async def test_an_error_tells_status_text_and_request_id(request_: Request) -> None:
    answering, _ = in_turn(httpx.Response(404, json=error_body(404), headers={"X-Request-Id": "req_77"}))
    async with mocked(answering) as platica:
        error = await failure(platica, request_)
    assert (error.status, error.request_id) == (404, "req_77")
    for part in ("404", "Not Found - Resource not found", "Agent not found", "req_77"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "api_refused"),
        (401, "api_key_rejected"),
        (403, "api_forbidden"),
        (404, "api_not_found"),
        (422, "api_refused"),
    ],
)
async def test_refusals_have_stable_codes(status: int, code: str) -> None:
    answering, _ = in_turn(httpx.Response(status, json=error_body(status)))
    async with mocked(answering) as platica:
        assert (await failure(platica, READ)).code == code


ECHOES = [
    httpx.Response(401, json={"code": 401, "error": f"Unknown key {KEY}", "details": f"Bearer {KEY}"}),
    httpx.Response(422, json={"code": 422, "error": "x" * 480 + KEY, "details": SECRET}),
    httpx.Response(429, json={"code": 429, "error": f"{SECRET} is too fast"}, headers={"Retry-After": "1"}),
    httpx.Response(500, text=f"Traceback: authorization={KEY}"),
    httpx.Response(302, headers={"location": f"https://x.example/?key={KEY}"}),
    httpx.Response(404, json={"code": 404, "error": "no"}, headers={"X-Request-Id": f"req-{KEY}"}),
    httpx.ConnectError(f"cannot connect with {KEY}"),
    httpx.ReadError(f"broke after Bearer {KEY}"),
    httpx.RemoteProtocolError(f"illegal header {KEY}"),
]


@pytest.mark.parametrize("echo", ECHOES, ids=lambda echo: repr(echo)[:24])
async def test_the_key_is_in_no_error(echo: httpx.Response | Exception) -> None:
    for request in (READ, SEND):
        answering, _ = in_turn(echo)
        async with mocked(answering) as platica:
            error: BaseException | None = await failure(platica, request)
        while error is not None:
            shown = f"{error} {error!r} {vars(error)}"
            assert KEY not in shown
            assert SECRET not in shown
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_a_huge_error_is_cut() -> None:
    answering, _ = in_turn(httpx.Response(400, json={"code": 400, "error": "x" * 1_000_000}))
    async with mocked(answering) as platica:
        assert len(str(await failure(platica, READ))) < 2_000


# Pages.


class Members:
    """An audience behind the documented paging; `before` may change it before a page is cut."""

    def __init__(self, count: int, *, kind: str = "clients") -> None:
        self.ids = [f"m{number:05d}" for number in range(count)]
        self.kind = kind
        self.queries: list[dict[str, str]] = []
        self.before: Callable[[int], None] = lambda _: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        self.queries.append(query)
        self.before(len(self.queries))
        limit, offset = int(query.get("limit", 50)), int(query.get("offset", 0))
        assert 1 <= limit <= (500 if self.kind == "clients" else 200)
        assert offset >= 0
        page = self.ids[offset : offset + limit]
        more = len(self.ids) > offset + limit
        pagination = {"limit": limit, "offset": offset, "hasMore": more}
        group = {"id": "w", f"{self.kind}Count": len(page), self.kind: [{"id": one} for one in page]}
        return httpx.Response(200, json={"workspaces": [{**group, "pagination": pagination}]})


SIZES = [0, 1, 2, 499, 500, 501, 999, 1000, 1001, 1499, 1500, 1501, 2000, 2500, 7777, 100_000]


@pytest.mark.parametrize("size", SIZES)
async def test_count_is_right_in_few_requests(size: int) -> None:
    members = Members(size)
    async with mocked(members) as platica:
        assert await platica.count("X") == size
    if size <= 500:
        assert len(members.queries) == 1
    assert len(members.queries) <= 2 + 2 * math.ceil(math.log2(max(2, size)))


async def test_count_is_right_for_every_size_around_the_pages() -> None:
    members = Members(0)
    async with mocked(members) as platica:
        for size in [*range(990, 1012), *range(1990, 2012, 3), *range(3997, 4004), 499, 500, 501]:
            members.ids = [f"m{number}" for number in range(size)]
            assert await platica.count("X") == size


async def test_count_ends_while_people_leave_and_join() -> None:
    for change in (-400, 400):
        members = Members(2_600)

        def before(number: int, change: int = change, members: Members = members) -> None:
            if number < 6:
                members.ids = [f"m{one}" for one in range(2_600 + change * number)]

        members.before = before
        async with mocked(members) as platica:
            found = await asyncio.wait_for(platica.count("X"), 5)
        assert 0 < found <= 5_000
        assert len(members.queries) < 40


@pytest.mark.parametrize("size", [0, 1, 500, 501, 1000, 1234])
async def test_an_audience_is_read_whole_and_in_order(size: int) -> None:
    members = Members(size)
    async with mocked(members) as platica:
        assert [one.id async for one in platica.audience("X")] == members.ids
    assert len(members.queries) == max(1, math.ceil(size / 500))
    for number, query in enumerate(members.queries):
        assert query == {
            "limit": "500",
            "offset": str(500 * number),
            "sortBy": "creationDate",
            "sortDirection": "asc",
        }


async def test_campaigns_come_in_pages_of_two_hundred() -> None:
    campaigns = Members(401, kind="campaigns")
    async with mocked(campaigns) as platica:
        assert [one.id async for one in platica.campaigns()] == campaigns.ids
    assert [query["offset"] for query in campaigns.queries] == ["0", "200", "400"]


async def test_pages_are_read_as_they_are_asked_for() -> None:
    members = Members(5_000)
    async with mocked(members) as platica:
        audience = platica.audience("X")
        assert (await anext(audience)).id == "m00000"
        assert len(members.queries) == 1
        await audience.aclose()  # type: ignore[attr-defined]
    assert len(members.queries) == 1


async def test_a_member_that_moves_between_pages_is_given_once() -> None:
    members = Members(1_200)

    def before(number: int) -> None:
        if number == 2:
            # An older one appears in front: the last of page one is the first of page two now.
            members.ids.insert(0, "older")
        if number == 3:
            members.ids.append(members.ids[3])

    members.before = before
    async with mocked(members) as platica:
        found = [one.id async for one in platica.audience("X")]
    assert len(found) == len(set(found)) == 1_200
    assert set(found) == {f"m{number:05d}" for number in range(1_200)}


async def test_an_audience_that_shrinks_meanwhile_ends() -> None:
    members = Members(2_000)

    def before(number: int) -> None:
        if number == 3:
            members.ids = []

    members.before = before
    async with mocked(members) as platica:
        assert len([one async for one in platica.audience("X")]) == 1_000
    assert len(members.queries) == 3


async def test_a_fault_in_the_middle_of_a_listing_is_repeated_and_loses_nobody() -> None:
    members = Members(1_100)
    failed: Sequence[str] = []

    def answering(request: httpx.Request) -> httpx.Response:
        nonlocal failed
        if request.url.params["offset"] == "500" and not failed:
            failed = [*failed, "once"]
            return httpx.Response(502, text=HTML)
        return members(request)

    async with mocked(answering) as platica:
        assert [one.id async for one in platica.audience("X")] == members.ids


# Other reads.


async def test_one_template_by_its_name_even_an_odd_one() -> None:
    name = "promo/verano ?#ñ"
    record = {"name": name, "content": "Hola", "status": "APPROVED"}
    answering, seen = in_turn(httpx.Response(200, json={"workspaces": [{"templates": [{"name": "other"}, record]}]}))
    async with mocked(answering) as platica:
        assert (await platica.template(name)).content == "Hola"
    assert seen[0].url.raw_path == b"/v1/templates/promo%2Fverano%20%3F%23%C3%B1"


@pytest.mark.parametrize(
    "body", [{"workspaces": []}, {"workspaces": [{}]}, {"workspaces": [{"campaigns": None}, None]}]
)
async def test_a_campaign_that_no_workspace_has_is_not_found(body: Any) -> None:
    answering, _ = in_turn(httpx.Response(200, json=body))
    async with mocked(answering) as platica:
        with pytest.raises(ApiRefused) as caught:
            await platica.campaign("X")
        assert caught.value.status == 404
        with pytest.raises(ApiRefused):
            await platica.template("t")
        assert await platica.channels() == []


async def test_records_of_all_workspaces_are_one_list() -> None:
    groups = [{"channels": [{"prefixedChannelId": "wb-1"}]}, {"channels": [{"prefixedChannelId": "fb-2"}]}]
    answering, _ = in_turn(httpx.Response(200, json={"workspaces": groups}))
    async with mocked(answering) as platica:
        assert [one.prefixedChannelId for one in await platica.channels()] == ["wb-1", "fb-2"]


async def test_the_wire_reads_whole_answers_and_goes_through_the_named_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's own client, against a real socket; a proxy of the environment gets the whole address."""
    from agent.cli import _wire

    async def behave(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(200, {"workspaces": []}))

    async with Loopback(behave) as there:
        for proxied in (False, True):
            url = "http://api.invalid" if proxied else there.url
            if proxied:
                monkeypatch.setenv("http_proxy", there.url)
            monkeypatch.setenv("PLATICA_API_KEY", KEY)
            monkeypatch.setenv("PLATICA_BASE_URL", url)
            wire = _wire(Settings.read())
            platica = Platica(wire, key=KEY, requests_per_second=1e6)
            answer = await platica.request(Request("GET", "/v1/campaigns", Risk.READ))
            assert answer.body == {"workspaces": []}
            await platica.aclose()
        assert there.seen[0].target == "/v1/campaigns"
        assert there.seen[1].target == "http://api.invalid/v1/campaigns"


async def test_reads_go_their_own_way_and_whatever_changes_something_goes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection that dies: a read may be sent again, a deletion is sent once and ends as uncertain."""
    from agent.cli import _wire

    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        body = gzip.compress(b'{"workspaces": []}')
        if served.method == "GET":
            writer.write(
                http_answer(200, body, content_encoding="gzip", set_cookie="a=b", connection="keep-alive")
                if len(there.seen) % 2
                else b""
            )

    async with Loopback(behave) as there:
        monkeypatch.setenv("PLATICA_API_KEY", KEY)
        monkeypatch.setenv("PLATICA_BASE_URL", there.url)
        platica = Platica(_wire(Settings.read()), key=KEY, requests_per_second=1e6)
        listing = Request("GET", "/v1/campaigns", Risk.READ)
        assert [(await platica.request(listing)).body for _ in range(2)] == [{"workspaces": []}] * 2
        assert len(there.seen) == 3
        assert [served.headers.get("cookie") for served in there.seen] == [None] * 3
        deletion = Request("DELETE", "/v1/campaigns/abc", Risk.DESTRUCTIVE)
        with pytest.raises(ApiUncertain):
            await platica.request(deletion, Permit("t", deletion.sha256, time.monotonic() + 5))
        assert [served.method for served in there.seen] == ["GET"] * 3 + ["DELETE"]
        await platica.aclose()
