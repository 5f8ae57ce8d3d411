"""`Platica.request`: one request to the campaigns API, and everything that can go wrong with it, by name."""

import asyncio
import contextlib
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import ValidationError

from agent.domain import Answer, Campaign, Channel, Client, Json, Page, Record, Responder, Risk, Template
from agent.errors import ApiError, ApiRateLimited, ApiRefused, ApiUncertain, ApiUnreachable
from agent.settings import spellings

if TYPE_CHECKING:
    import ssl

    import aiohttp
    from aiolimiter import AsyncLimiter

_ID = r"[A-Za-z0-9_-]{1,128}"
_RISKS: Sequence[tuple[str, re.Pattern[str], Risk]] = [
    ("GET", re.compile(rf"/v1/campaigns(/{_ID}(/audience)?)?"), Risk.READ),
    ("GET", re.compile(r"/v1/(channels|agents|templates(/(?!\.{1,2}$)[^/?#]{1,600})?)"), Risk.READ),
    ("POST", re.compile(r"/v1/campaigns"), Risk.WRITE),
    ("PATCH", re.compile(rf"/v1/campaigns/{_ID}"), Risk.WRITE),
    ("POST", re.compile(rf"/v1/campaigns/{_ID}/audience"), Risk.WRITE),
    ("DELETE", re.compile(rf"/v1/campaigns/{_ID}"), Risk.DESTRUCTIVE),
    ("DELETE", re.compile(rf"/v1/campaigns/{_ID}/audience(/[0-9]{{8,15}})?"), Risk.DESTRUCTIVE),
    ("POST", re.compile(rf"/v1/campaigns/{_ID}/send"), Risk.SEND),
]
_REFUSALS = {400, 401, 403, 404, 422}
_READ_TRIES = 3
_AT_ONCE = 8
"""Requests under way at once; more would only queue inside the pool, which gets dearer with every one that waits."""
_WAIT_CAP = 10.0
"""Seconds that a 429 may keep a call waiting before it is given up as rate limited."""

Kept = TypeVar("Kept", bound=Record)

LONGEST = 32_000_000
"""Bytes of one answer. A page of 500 people has about half a million; what never ends must not fill the memory."""
AUDIENCE_PAGE = 500
CAMPAIGN_PAGE = 200


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, frozen. `path` begins with /v1 and is percent-encoded already."""

    method: str
    path: str
    risk: Risk
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Json = None

    @property
    def sha256(self) -> str:
        parts = [self.method, self.path, sorted(self.query.items()), self.body]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(slots=True)
class Permit:
    """Leave for one gated request, made by the gate after the attempt is on record; good for one departure.

    `not_after` is on the clock of `time.monotonic`, in seconds; `in_time` asks the clock on the wall as well, since a
    sleeping laptop stops the other one.
    """

    attempt: str
    request_sha256: str
    not_after: float
    in_time: Callable[[], bool] = lambda: True
    spent: bool = False

    def spend(self, request: Request) -> None:
        if self.spent or request.sha256 != self.request_sha256:
            raise PermissionError(f"permit of attempt {self.attempt} does not cover this request")
        if time.monotonic() > self.not_after or not self.in_time():
            raise ApiUnreachable("the process was held up for too long before the request; nothing was sent")
        self.spent = True


_url = lru_cache(maxsize=256)(httpx.URL)
"""The same few addresses are read again and again, and reading one costs as much as building a request."""


def derive_risk(method: str, path: str) -> Risk:
    """The risk of what would really leave, whatever the operation calls itself. Raises PermissionError."""
    for known_method, pattern, risk in _RISKS:
        if method == known_method and pattern.fullmatch(path):
            return risk
    raise PermissionError(f"{method} {path!r} is none of the known operations")


class Http(Protocol):
    """What `Platica` needs of an HTTP client; `httpx.AsyncClient` is one, `Wire` a cheaper one."""

    @property
    def base_url(self) -> httpx.URL: ...

    @property
    def timeout(self) -> httpx.Timeout: ...

    async def send(self, request: httpx.Request, *, follow_redirects: bool = False) -> httpx.Response: ...

    async def aclose(self) -> None: ...


class Wire:
    """An httpx transport without the rest of a client: the API has no cookies, redirects or auth flows, and looking for
    them is a fifth of a request's cost. `reads` takes the GETs, where they have a cheaper way."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        timeout: httpx.Timeout,
        *,
        reads: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._transport, self._reads = transport, reads or transport
        self.base_url = httpx.URL(base_url)
        self.timeout = timeout

    async def send(self, request: httpx.Request, *, follow_redirects: bool = False) -> httpx.Response:
        transport = self._reads if request.method == "GET" else self._transport
        response = await transport.handle_async_request(request)
        try:
            if response.is_closed:
                return response
            return _complete(response.status_code, response.headers.raw, await _whole(response.aiter_bytes()))
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()
        await self._reads.aclose()


async def _whole(pieces: AsyncIterator[bytes]) -> bytes:
    """An answer of at most `LONGEST` bytes, unpacked. Raises httpx.DecodingError for more."""
    found, size = [], 0
    async for piece in pieces:
        size += len(piece)
        if size > LONGEST:
            raise httpx.DecodingError("the answer is too long")
        found.append(piece)
    return b"".join(found)


def _complete(status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> httpx.Response:
    """What was unpacked already must not be unpacked again."""
    kept = [(name, value) for name, value in headers if name.lower() not in (b"content-encoding", b"transfer-encoding")]
    return httpx.Response(status, headers=kept, content=content)


class AiohttpReads(httpx.AsyncBaseTransport):
    """GETs over aiohttp, at a fifth of the cost of httpx's own transport. Reads alone: aiohttp repeats some requests by
    itself, a DELETE among them, and only a read may be repeated by somebody who doesn't know what it means."""

    def __init__(self, *, verify: "ssl.SSLContext | bool", limits: httpx.Limits) -> None:
        self._verify, self._limits = verify, limits
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        import aiohttp
        from yarl import URL

        session = self._session = self._session or self._open()
        limits = request.extensions["timeout"]
        timeout = aiohttp.ClientTimeout(
            connect=limits["pool"], sock_connect=limits["connect"], sock_read=limits["read"]
        )
        url, headers = URL(str(request.url), encoded=True), dict(request.headers)
        try:
            async with session.get(url, headers=headers, allow_redirects=False, timeout=timeout) as response:
                content = await _whole(response.content.iter_any())
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from None
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise httpx.ConnectError(str(error)) from None
        except aiohttp.ServerTimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise httpx.RemoteProtocolError(type(error).__name__) from None
        return _complete(response.status, response.raw_headers, content)

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        kept = self._limits.keepalive_expiry
        places = self._limits.max_connections or 0
        connector = aiohttp.TCPConnector(limit=places, keepalive_timeout=kept, ssl=self._verify or True)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Platica:
    """The campaigns API over one HTTP client, for one key.

    All tasks of a process share the one object of a key, and so its rate limit.
    """

    def __init__(
        self,
        http: Http,
        *,
        key: str,
        workspace: str | None = None,
        deadline: float = 30.0,
        requests_per_second: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self.base_url = str(http.base_url).rstrip("/")
        self._headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
        self._secrets = [part for part in spellings(key) if len(part) >= 8]
        self.workspace = workspace
        self.deadline = deadline
        self._rate = requests_per_second
        self._sleep = sleep
        self._limiter: AsyncLimiter | None = None
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._pause_until = 0.0

    async def aclose(self) -> None:
        await self._http.aclose()

    async def request(self, request: Request, permit: Permit | None = None) -> Answer:
        """Sends it, within `deadline` seconds in all.

        Reads are repeated after any fault, writes only where the first surely did nothing, what has a permit never:
        its attempts belong to the gate. Raises ApiError; PermissionError for a request that must not leave.
        """
        risk = derive_risk(request.method, request.path)
        if risk is not request.risk:
            raise PermissionError(f"{request.method} {request.path} is {risk}, not {request.risk}")
        if risk.gated and permit is None:
            raise PermissionError(f"{risk} request without a permit")
        tries = _READ_TRIES if permit is None else 1
        ends = time.monotonic() + self.deadline
        for number in range(1, tries + 1):
            try:
                return await self._try(request, permit, ends)
            except ApiError as error:
                if isinstance(error, ApiRefused) or number == tries:
                    raise
                if error.may_have_acted and risk is not Risk.READ:
                    raise
                wait = error.wait if isinstance(error, ApiRateLimited) else 0.2 * 2**number
                if wait > _WAIT_CAP or time.monotonic() + wait >= ends:
                    raise
                await self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _try(self, request: Request, permit: Permit | None, ends: float) -> Answer:
        """One departure. Time spent waiting for a turn counts, but ends in 'never arrived'."""
        departed = False
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                async with self._places:
                    await self._take_turn()
                    if permit is not None:
                        permit.spend(request)
                    departed = True
                    return self._read(request, await self._send(request, ends - time.monotonic()))
        except TimeoutError:
            if not departed:
                raise ApiRateLimited("no turn within the deadline under the rate limit", wait=1.0) from None
            raise ApiUncertain(f"no answer within {self.deadline:g} s") from None

    async def _take_turn(self) -> None:
        if self._limiter is None:
            from aiolimiter import AsyncLimiter

            # Evenly spaced, since a full bucket plus its refill would be twice the rate within one second.
            self._limiter = AsyncLimiter(1, 1 / self._rate)
        await self._limiter.acquire()
        # The answer to somebody else's request may have said meanwhile that the limit is reached.
        while (pause := self._pause_until - time.monotonic()) > 0:
            await self._sleep(pause)
            await self._limiter.acquire()

    async def _send(self, request: Request, left: float) -> httpx.Response:
        query = dict(request.query)
        if self.workspace is not None:
            query["workspace"] = self.workspace
        path = f"{request.path}?{urlencode(query)}" if query else request.path
        try:
            # Built here and not by the client, whose merging of defaults is a sixth of a request's cost.
            timeout = self._http.timeout.as_dict()
            # A connection that can't be made is given up before the deadline: then surely nothing has left.
            for name in ("connect", "pool"):
                timeout[name] = min(left * 0.9, timeout[name] or left)
            url, limits = _url(self.base_url + path), {"timeout": timeout}
            built = httpx.Request(request.method, url, headers=self._headers, json=request.body, extensions=limits)
            return await self._http.send(built, follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            raise ApiUnreachable(self._clean(str(error) or type(error).__name__)) from None
        except httpx.InvalidURL as error:
            raise ApiUnreachable(self._clean(str(error))) from None
        except httpx.HTTPError as error:
            raise ApiUncertain(f"the connection broke: {type(error).__name__}") from None

    def _read(self, request: Request, response: httpx.Response) -> Answer:
        """An answer or the exception that names it: the one place where statuses get their meaning."""
        request_id = self._clean(response.headers.get("x-request-id", "")) or None
        self._follow_limits(response)
        body = _json_object(response.content, self._secrets)
        status = response.status_code
        if 200 <= status < 300 and body is not None and self._succeeded(request, body):
            return Answer(status, body, request_id)
        documented = body is not None and isinstance(body.get("error"), str) and body.get("code") == status
        text = (
            self._clean(_error_text(body)) if body is not None and documented else f"unexpected answer, HTTP {status}"
        )
        if documented and status in _REFUSALS:
            raise ApiRefused(text, status=status, request_id=request_id)
        if documented and status == 429 and (wait := _retry_after(response)) is not None:
            raise ApiRateLimited(text, wait=wait, request_id=request_id)
        raise ApiUncertain(text, status=status, request_id=request_id)

    @staticmethod
    def _succeeded(request: Request, body: Mapping[str, Json]) -> bool:
        if request.risk is Risk.READ:
            return isinstance(body.get("workspaces"), list)
        return body.get("status") == "success"

    def _follow_limits(self, response: httpx.Response) -> None:
        if response.headers.get("x-ratelimit-remaining") == "0" and (wait := _retry_after(response)) is not None:
            self._pause_until = max(self._pause_until, time.monotonic() + min(wait, _WAIT_CAP))

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text[:500]

    # Reads for previews and context. The ten operations build their own requests.

    async def campaign(self, campaign_id: str) -> Campaign:
        answer = await self.request(Request("GET", f"/v1/campaigns/{campaign_id}", Risk.READ))
        for record in _records(answer, "campaigns"):
            return _as(Campaign, record)
        raise ApiRefused("Campaign not found", status=404, request_id=answer.request_id)

    async def campaigns(self) -> AsyncIterator[Campaign]:
        """All of them, in the order of their creation."""
        async for record in self._pages("/v1/campaigns", "campaigns", CAMPAIGN_PAGE):
            yield _as(Campaign, record)

    async def audience(self, campaign_id: str) -> AsyncIterator[Client]:
        """All members, oldest first; one that moves between pages while we read is given once."""
        async for record in self._pages(f"/v1/campaigns/{campaign_id}/audience", "clients", AUDIENCE_PAGE):
            yield _as(Client, record)

    async def audience_page(
        self, campaign_id: str, *, limit: int = 1, offset: int = 0, direction: str = "asc"
    ) -> Page[Client]:
        query: dict[str, str | int] = {"limit": limit, "offset": offset, "sortBy": "creationDate"}
        query["sortDirection"] = direction
        answer = await self.request(Request("GET", f"/v1/campaigns/{campaign_id}/audience", Risk.READ, query))
        return Page([_as(Client, r) for r in _records(answer, "clients")], offset, _has_more(answer))

    async def count(self, campaign_id: str) -> int:
        """The size of an audience, which no answer states, in O(log n) requests: by doubling, then halving."""
        page = await self.audience_page(campaign_id, limit=AUDIENCE_PAGE)
        if not page.has_more:
            return len(page.items)
        low, high = AUDIENCE_PAGE, AUDIENCE_PAGE * 2
        while (page := await self.audience_page(campaign_id, limit=AUDIENCE_PAGE, offset=high)).items:
            if not page.has_more:
                return high + len(page.items)
            low, high = high + AUDIENCE_PAGE, high * 2
        # Now a member exists at low - 1 and none at high.
        while low < high:
            middle = (low + high) // 2
            page = await self.audience_page(campaign_id, limit=AUDIENCE_PAGE, offset=middle)
            if page.items and not page.has_more:
                return middle + len(page.items)
            low, high = (middle + AUDIENCE_PAGE, high) if page.items else (low, middle)
        return low

    async def channels(self) -> list[Channel]:
        answer = await self.request(Request("GET", "/v1/channels", Risk.READ))
        return [_as(Channel, record) for record in _records(answer, "channels")]

    async def templates(self) -> list[Template]:
        answer = await self.request(Request("GET", "/v1/templates", Risk.READ))
        return [_as(Template, record) for record in _records(answer, "templates")]

    async def template(self, name: str, language: str | None = None) -> Template:
        """The one in `language` where several share a name."""
        if not name.strip("./") or len(name) > 512:
            raise ApiRefused("Template not found", status=404)
        answer = await self.request(Request("GET", f"/v1/templates/{quote(name, safe='')}", Risk.READ))
        found = [_as(Template, record) for record in _records(answer, "templates") if record.get("name") == name]
        for template in [*(each for each in found if each.language == language), *found]:
            return template
        raise ApiRefused("Template not found", status=404, request_id=answer.request_id)

    async def responders(self) -> list[Responder]:
        answer = await self.request(Request("GET", "/v1/agents", Risk.READ))
        return [_as(Responder, record) for record in _records(answer, "agents")]

    async def _pages(self, path: str, kind: str, size: int) -> AsyncIterator[dict[str, Json]]:
        offset, seen = 0, set[Json]()
        while True:
            query: dict[str, str | int] = {"limit": size, "offset": offset}
            query |= {"sortBy": "creationDate", "sortDirection": "asc"}
            answer = await self.request(Request("GET", path, Risk.READ, query))
            records = _records(answer, kind)
            new = [record for record in records if str(record.get("id")) not in seen]
            seen.update(str(record.get("id")) for record in new)
            for record in new:
                yield record
            # A page without anything new is the end too: a server may not know what an offset is.
            if not new or not _has_more(answer):
                return
            # A server may give shorter pages than were asked for.
            offset += len(records)


def _as(kind: type[Kept], record: Mapping[str, Json]) -> Kept:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ApiUncertain(f"an unexpected {kind.__name__.lower()} record ({where})") from None


def _json_object(content: bytes, secrets: Sequence[str]) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    # An answer is kept and shown whole; one that echoes the key must not carry it there. Where there are escapes it is
    # looked for behind the parser, since JSON can be written in many ways.
    if b"\\" not in content and not any(secret.encode() in content for secret in secrets):
        return body
    plain = json.dumps(body, ensure_ascii=False)
    if not any(secret in plain for secret in secrets):
        return body
    for secret in secrets:
        plain = plain.replace(secret, "[key]")
    cleaned: dict[str, Any] = json.loads(plain)
    return cleaned


def _error_text(body: Mapping[str, Json]) -> str:
    details = body.get("details")
    return f"{body['error']}: {details}" if isinstance(details, str) and details else str(body["error"])


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, when the answer shows that it is the documented rate limit."""
    headers = response.headers
    if (after := headers.get("retry-after")) is not None:
        with contextlib.suppress(ValueError):
            return max(0.05, float(after))
        with contextlib.suppress(ValueError, TypeError):
            # A date has whole seconds, and a sleep may end a little early.
            return max(0.05, parsedate_to_datetime(after).timestamp() - time.time() + 0.1)
    if headers.get("x-ratelimit-remaining") != "0":
        return None
    try:
        value = float(headers["x-ratelimit-reset"])
    except (KeyError, ValueError):
        return 1.0
    # A large Reset is a moment in Unix time, a small one a number of seconds.
    return max(0.05, value - time.time() if value > 1e9 else value)


def _records(answer: Answer, kind: str) -> list[dict[str, Json]]:
    groups = answer.body.get("workspaces") or []
    return [r for group in groups if isinstance(group, dict) for r in group.get(kind) or [] if isinstance(r, dict)]


def _has_more(answer: Answer) -> bool:
    groups = answer.body.get("workspaces") or []
    return any(bool((g.get("pagination") or {}).get("hasMore")) for g in groups if isinstance(g, dict))
