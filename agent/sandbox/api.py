"""The sandbox's web app: strict about the contract, with a ledger, an outbox and faults on demand."""

import asyncio
import math
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from agent.sandbox import contract
from agent.sandbox.contract import ApiError, Json
from agent.sandbox.handlers import OPERATIONS, Call, Operation
from agent.sandbox.seed import KEYS, Key
from agent.sandbox.store import Arrival, Fault, Store

FAULTS = {
    "delay": "wait, then process",
    "delay_after": "process, then wait before the answer",
    "drop": "process, then the connection breaks with no answer",
    "drop_before": "the connection breaks, nothing was processed",
    "429": "refuse as the rate limit would; the seconds are the Retry-After",
    "500": "fail before processing",
    "503": "fail before processing",
    "500_after": "process, then fail",
    "garbage": "process, then 200 with broken JSON",
    "html": "process, then 200 with a login page",
    "status": 'process, then 200 with {"status": "error"}',
}
# From a request to an operation.


def raw_path(request: Request) -> str:
    """The path as it was sent: an encoded slash stays inside its segment."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return str(raw.decode("latin-1"))


def bearer(request: Request) -> Key | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return KEYS.get(token) if scheme.lower() == "bearer" else None


def find_operation(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    segments = [unquote(segment) for segment in path.split("/")]
    matches = [(one, found) for one in OPERATIONS if (found := one.match(segments)) is not None]
    for operation, values in matches:
        if operation.method == method:
            return operation, values
    raise ApiError(405 if matches else 404, f"{method} {path}")


def reached_workspaces(key: Key, operation: Operation, named: str | None) -> tuple[str, ...]:
    if named is None and (len(key.workspaces) == 1 or not operation.write):
        return key.workspaces
    if named in key.workspaces:
        return (named,)
    choices = ", ".join(key.workspaces)
    problem = "Must specify a valid workspace"
    raise ApiError(400, f"workspace: {problem}, one of {choices}", error=f"Bad Request - {problem}")


def process(store: Store, request: Request, body: bytes, seq: int) -> Response:
    """Check the request, run its operation in one transaction, and answer."""
    try:
        key = bearer(request)
        if key is None:
            missing = "authorization" not in request.headers
            raise ApiError(401, "Missing Authorization header" if missing else "API key not found")
        operation, path = find_operation(request.method, raw_path(request))
        if operation.needs in key.denied:
            raise ApiError(403, f"The key lacks the permission {operation.needs}")
        query = contract.read_query(request.url.query, {"workspace": contract.string, **operation.query})
        workspaces = reached_workspaces(key, operation, query.get("workspace"))
        checked = contract.read_body(operation.body, request.headers.get("content-type", ""), body)
        with store.transaction(write=operation.write):
            reply = operation.run(Call(store, store.clock(), workspaces, path, query, checked))
            if operation.write:
                store.mark_acted(seq, reply.batch)
    except ApiError as error:
        return refusal(error)
    return JSONResponse(reply.body, reply.status)


def refusal(error: ApiError) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if error.code == 401 else {}
    return JSONResponse(error.body, error.code, headers)


def too_many(seconds: float = 1) -> Response:
    response = refusal(ApiError(429, "Too many requests a second for this key"))
    response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return response


class Broken(Response):
    """Announces a body and never sends it, so that the server breaks the connection under the client's read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"64")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


# Faults.


def read_fault(header: str) -> Fault:
    """The fault of an `X-Sandbox-Fault: kind[;seconds=2]` header."""
    kind, _, rest = header.partition(";")
    name, _, seconds = rest.strip().partition("=")
    if kind.strip() not in FAULTS or (rest and (name != "seconds" or not re.fullmatch(r"[0-9.]*[0-9]", seconds))):
        raise contract.invalid("X-Sandbox-Fault", f"must be kind[;seconds=2], a kind of {', '.join(FAULTS)}")
    try:
        return Fault(kind.strip(), contract.seconds(float(seconds or 1), "X-Sandbox-Fault"))
    except ValueError:
        raise contract.invalid("X-Sandbox-Fault", "seconds must be a number") from None


def instead(fault: Fault) -> Response | None:
    """The answer of a request that is never processed."""
    match fault.kind:
        case "429":
            return too_many(fault.seconds)
        case "500" | "503":
            return refusal(ApiError(int(fault.kind)))
        case "drop_before":
            return Broken()
    return None


def afterwards(fault: Fault, response: Response) -> Response:
    """The answer of a request that was processed."""
    match fault.kind:
        case "drop":
            return Broken()
        case "500_after":
            return refusal(ApiError(500))
        case "garbage":
            return Response('{"status": "success", "data": {"id": "', media_type="application/json")
        case "html":
            return HTMLResponse("<!doctype html><html><title>Iniciar sesión</title><form>Contraseña</form></html>")
        case "status":
            return JSONResponse({"status": "error", "message": "Upstream error", "data": None})
    return response


class PublicApi:
    """Everything under /v1: into the ledger, through the rate limit and any fault, out with the documented headers."""

    def __init__(self, store: Store, rate_limit: int) -> None:
        self.store = store
        self.rate_limit = rate_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        response = await self.answer(request, body)
        await response(scope, receive, send)

    async def answer(self, request: Request, body: bytes) -> Response:
        header = request.headers.get("x-sandbox-fault")
        try:
            given = read_fault(header) if header else None
        except ApiError as error:
            return refusal(error)
        key = bearer(request)
        entry: Json = {
            "method": request.method,
            "path": raw_path(request),
            "query": request.url.query,
            "body": body.decode(errors="replace"),
            "key_id": key.id if key else None,
        }
        arrival = self.store.arrive(entry, self.rate_limit, given)
        response = await self.suffer(request, body, arrival)
        self.store.finish(arrival.seq, None if isinstance(response, Broken) else response.status_code)
        remaining = 0 if response.status_code == 429 else arrival.remaining
        response.headers["X-RateLimit-Limit"] = str(self.rate_limit)
        response.headers["X-RateLimit-Remaining"] = str(remaining)
        # In seconds, as Retry-After: the window is one second, so no caller has to wait longer.
        response.headers["X-RateLimit-Reset"] = "1"
        response.headers["X-Request-Id"] = f"req_{arrival.seq:08d}"
        return response

    async def suffer(self, request: Request, body: bytes, arrival: Arrival) -> Response:
        if arrival.refused:
            return too_many()
        fault = arrival.fault
        if fault is None:
            return process(self.store, request, body, arrival.seq)
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        response = instead(fault) or afterwards(fault, process(self.store, request, body, arrival.seq))
        if fault.kind == "delay_after":
            await asyncio.sleep(fault.seconds)
        return response


# What tests, demos and evals steer the sandbox with.

fault_body = contract.object_of(
    {
        "kind": contract.one_of(*FAULTS),
        "seconds": contract.seconds,
        "times": contract.times,
        "method": contract.one_of("GET", "POST", "PATCH", "DELETE"),
        "path": contract.text,
        "exact": contract.boolean,
    },
    required=("kind",),
)


class Admin:
    """Everything under /_sandbox, open to anyone who can reach it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def routes(self) -> list[Route]:
        return [
            Route("/outbox", self.outbox),
            Route("/requests", self.requests),
            Route("/state", self.state),
            Route("/reset", self.reset, methods=["POST"]),
            Route("/faults", self.list_faults, methods=["GET"]),
            Route("/faults", self.add_fault, methods=["POST"]),
            Route("/faults", self.clear_faults, methods=["DELETE"]),
            Route("/{kind}/{name}", self.alter, methods=["PATCH"]),
        ]

    async def outbox(self, request: Request) -> Response:
        return JSONResponse({"outbox": self.store.outbox(request.query_params.get("campaign"))})

    async def requests(self, request: Request) -> Response:
        return JSONResponse({"requests": self.store.requests()})

    async def state(self, request: Request) -> Response:
        return JSONResponse({"workspaces": self.store.state()})

    async def reset(self, request: Request) -> Response:
        self.store.reset()
        return JSONResponse({"status": "success"})

    async def list_faults(self, request: Request) -> Response:
        return JSONResponse({"faults": [asdict(fault) for fault in self.store.faults()]})

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = Fault(**fault_body(contract.read_json(await request.body()), ""))
        except ApiError as error:
            return refusal(error)
        self.store.add_fault(fault)
        return JSONResponse(asdict(fault), 201)

    async def clear_faults(self, request: Request) -> Response:
        self.store.clear_faults()
        return JSONResponse({"status": "success"})

    async def alter(self, request: Request) -> Response:
        """Merge fields into a channel, template or agent, as if somebody had changed it in the dashboard."""
        try:
            fields = contract.read_json(await request.body())
            if not isinstance(fields, dict):
                raise contract.invalid("body", "must be an object")
        except ApiError as error:
            return refusal(error)
        count = self.store.alter(request.path_params["kind"], request.path_params["name"], **fields)
        return JSONResponse({"changed": count}, 200 if count else 404)


def utc_now() -> datetime:
    return datetime.now(UTC)


def random_id() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(20))


async def outside(request: Request, error: Exception) -> Response:
    """The documented error body also for paths that aren't the API's, and for a failure of the sandbox itself."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refusal(ApiError(status if status in contract.ERRORS else 500, f"{request.method} {request.url.path}"))


def create_app(
    database: str | Path,
    *,
    clock: Callable[[], datetime] | None = None,
    new_id: Callable[[], str] | None = None,
    seed: bool = True,
    rate_limit: int = 30,
) -> Starlette:
    """The sandbox over one SQLite file, or ":memory:"; a new file is seeded once.

    `clock` returns an aware UTC time and `new_id` a 20-character alphanumeric id; with both given, and the same
    requests, everything is the same again (the rate limit alone follows the real clock). Without `seed` the account is
    still there (workspaces, keys, channels, templates, agents) but holds no campaign and no client. `app.state.store`
    is the `Store`: its `outbox()`, `requests()`, `state()`, `add_fault()`, `alter()` and `reset()` are the Python side
    of the admin paths under /_sandbox.
    """
    store = Store(database, clock=clock or utc_now, new_id=new_id or random_id, seed=seed)
    app = Starlette(
        routes=[Mount("/v1", app=PublicApi(store, rate_limit)), Mount("/_sandbox", routes=Admin(store).routes())],
        exception_handlers={HTTPException: outside, Exception: outside},
    )
    app.state.store = store
    # The API documents no redirects, so a path that is nearly right is a 404.
    app.router.redirect_slashes = False
    return app


class SandboxTransport(httpx.AsyncBaseTransport):
    """The app in this process behind an httpx client, failing the way a network does.

    A broken answer is `httpx.ReadError`, and an answer later than the request's read timeout `httpx.ReadTimeout`. As
    with a real server, a request goes on when its client has given up.
    """

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self._inner = httpx.ASGITransport(app=self._whole)
        self._running: set[asyncio.Task[httpx.Response]] = set()

    async def _whole(self, scope: Any, receive: Any, send: Any) -> None:
        complete = False

        async def watch(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        await self.app(scope, receive, watch)
        if not complete:
            raise ConnectionResetError

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        task = asyncio.create_task(self._inner.handle_async_request(request))
        self._running.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.wait_for(asyncio.shield(task), request.extensions.get("timeout", {}).get("read"))
        except ConnectionResetError:
            raise httpx.ReadError("The sandbox dropped the connection", request=request) from None
        except TimeoutError:
            raise httpx.ReadTimeout("The sandbox took too long", request=request) from None

    def _forget(self, task: asyncio.Task[httpx.Response]) -> None:
        self._running.discard(task)
        # Nobody may be waiting any more, and an error that nobody reads would be reported as a leak.
        if not task.cancelled():
            task.exception()

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._inner.aclose()
