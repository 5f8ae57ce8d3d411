"""P7 with canaries: what is secret is in no log, event, card, database, error or prompt, whoever repeats it to us.

Every test shows first that its canary was in play: a server on a socket got it, or a file held it.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import httpcore
import httpx
import openai
import pytest
import sqlalchemy

from agent.cli import build, run
from agent.errors import UsageError
from agent.gate import Identity
from agent.interfaces.terminal import plain
from agent.loop import Agent
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.settings import Settings, spellings
from tests.support import (
    BUEN_FIN,
    CITA,
    Loopback,
    ScriptedModel,
    Served,
    again,
    card,
    cards,
    failure,
    http_answer,
    make_world,
    settings,
)
from tests.test_terminal import Person

API_KEY = "pl_key_canary01_S3cretHalfOfTheKey9876"
API_HALF = "S3cretHalfOfTheKey9876"
MODEL_KEY = "canary.0123+456/789.abcdefghij"
"""Of no known form, as endpoints other than OpenAI's have them: nothing but its value tells that it is a key."""
DATABASE_PASSWORD = "DbCanary-55x77"
PROXY_PASSWORD = "ProxyCanary-31y33"
SECRETS = (API_KEY, API_HALF, MODEL_KEY, DATABASE_PASSWORD, PROXY_PASSWORD)
LOGGED = (aiohttp, httpcore, httpx, openai, sqlalchemy)
"""Imported so that their loggers exist before they are told to say everything."""

READ = ("get_campaign", {"campaignId": CITA})
RENAME = ("update_campaign", {"campaignId": CITA, "title": "Otro"})
REMOVE = ("remove_campaign_audience_client", {"campaignId": CITA, "phoneNumber": "+525500100010"})
DELETE = ("delete_campaign", {"campaignId": BUEN_FIN})


# What may hold a secret.


@dataclass
class Watch:
    """Everything that a test lets out: logs of every library, what is printed, and every file below the folder."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture
    seen: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *things: object) -> None:
        self.seen[name] = self.seen.get(name, "") + "".join(
            thing if isinstance(thing, str) else repr(thing) for thing in things
        )

    def printed(self) -> str:
        out, err = self.capsys.readouterr()
        self.add("stdout", out)
        self.add("stderr", err)
        return out + err

    def logged(self) -> set[str]:
        """The libraries that said anything."""
        return {record.name.partition(".")[0] for record in self.caplog.records}

    def finds(self, *secrets: str) -> set[tuple[str, str]]:
        """Where a secret is, in any usual spelling."""
        self.printed()
        self.add("log", self.caplog.text, [vars(record) for record in self.caplog.records])
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name != ".env":
                self.add(path.name, path.read_bytes().decode("latin-1"))
        forms = [form for secret in secrets for form in (secret, quote(secret, safe=""), encoded(secret))]
        return {(name, form) for name, text in self.seen.items() for form in forms if form in text}


def encoded(secret: str) -> str:
    return base64.b64encode(secret.encode()).decode()


@pytest.fixture
def watch(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Watch:
    for name in ["", *logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, logger=name or None)
    return Watch(tmp_path, capsys, caplog)


def test_the_watch_sees(watch: Watch, tmp_path: Path) -> None:
    """A leak of each kind is found, in each spelling; otherwise nothing below means anything."""
    secret = "Canary+One/Two"
    assert watch.finds(secret) == set()
    logging.getLogger("sqlalchemy.engine").debug("a %s", secret)
    print(secret)
    print(quote(secret, safe=""), file=sys.stderr)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.db").write_bytes(b"\x00" + encoded(secret).encode())
    watch.add("events", [{"text": secret}])
    assert {name for name, _ in watch.finds(secret)} == {"log", "stdout", "stderr", "x.db", "events"}


# The outer services, on sockets.


def repeats(text: str, status: int, **headers: str) -> bytes:
    """An answer that says `text` wherever an answer can say anything."""
    said = f"the key {text} was not accepted"
    body: dict[str, Any] = {"code": status, "error": said, "details": said, "message": said, "status": "success"}
    body["data"] = {"id": said, "removedCount": 1, said: [said]}
    if status == 200:
        body["workspaces"] = [{"id": "w", "campaigns": [{"id": CITA, "title": said}], "clients": []}]
    return http_answer(status, body, **headers)


class Api:
    """The campaigns API that takes `API_KEY` and no other; `instead` may answer in its place."""

    def __init__(self, folder: Path, key: str = API_KEY) -> None:
        self.key = key
        self.inner = SandboxTransport(create_app(folder / "api.db", rate_limit=100_000))
        self.instead: Callable[[Served], bytes | None] = lambda _: None

    async def __call__(self, served: Served, writer: asyncio.StreamWriter) -> None:
        if (answer := self.instead(served)) is not None:
            writer.write(answer)
            return
        known = served.headers.get("authorization") == f"Bearer {self.key}"
        headers = {"authorization": f"Bearer {LOCAL_KEY}" if known else "", "content-type": "application/json"}
        url = f"http://sandbox.invalid{served.target}"
        request = httpx.Request(served.method, url, headers=headers, content=served.body)
        response = await self.inner.handle_async_request(request)
        writer.write(http_answer(response.status_code, await response.aread()))


def streamed(*chunks: Any) -> bytes:
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + body


def says(text: str) -> bytes:
    return streamed({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]})


def calls(tool: str, arguments: dict[str, Any]) -> bytes:
    call = {"index": 0, "id": "c", "function": {"name": tool, "arguments": json.dumps(arguments)}}
    return streamed({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]})


class ModelServer:
    """A chat-completions endpoint that gives its answers in order."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def __call__(self, _: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(self.answers.pop(0) if self.answers else says("(nothing more)"))


@contextlib.contextmanager
def in_a_thread(behave: Callable[[Served, asyncio.StreamWriter], Awaitable[None]]) -> Iterator[Loopback]:
    """A server for commands, which run a loop of their own."""
    loop, server = asyncio.new_event_loop(), Loopback(behave)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def sent(server: Loopback) -> str:
    """Everything that a server was told."""
    return repr(server.seen)


def authorized(server: Loopback, key: str) -> bool:
    return bool(server.seen) and all(one.headers.get("authorization") == f"Bearer {key}" for one in server.seen)


def events_of(watch: Watch, events: Sequence[Any]) -> None:
    watch.add("events", [plain(event) for event in events], list(events))
    watch.add("cards", *["\n".join(asked.card.lines()) for asked in cards(events)])


# A usual day.


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_a_usual_day_lets_nothing_out(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "outside").mkdir()
    api = Api(tmp_path / "outside")
    answers = [
        calls(*READ),
        says("Here it is."),
        calls(*REMOVE),
        says("Done."),
        calls(*DELETE),
        says("Well."),
        says("OK"),
    ]
    with in_a_thread(api) as campaigns, in_a_thread(ModelServer(*answers)) as model:
        values = {
            "PLATICA_API_KEY": API_KEY,
            "PLATICA_BASE_URL": campaigns.url,
            "OPENAI_API_KEY": MODEL_KEY,
            "OPENAI_BASE_URL": model.url + "/v1",
            "CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE": "1",
        }
        if source == ".env":
            (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        else:
            for name, value in values.items():
                monkeypatch.setenv(name, value)
        assert run(["ask", "show it", "--session", "d"]) == 0
        assert run(["ask", "remove him", "--session", "d", "--json"]) == 3
        asked = re.search(r'"type": "approval", "id": "(\w+)"', watch.printed())
        assert asked is not None
        assert run(["approvals"]) == 0
        assert run(["approve", asked[1], "--json"]) == 0
        assert run(["ask", "delete it", "--session", "d"]) == 3
        for command in (
            ["approvals", "--json"],
            ["attempts"],
            ["log", "--json"],
            ["sessions"],
            ["doctor"],
            ["tools"],
            ["tools", "--format", "openai"],
            ["tools", "--format", "mcp"],
            ["call", *json_call(READ)],
        ):
            assert run(command) == 0, command
        told = watch.printed()
    # In play: both services were asked, with the right key each; nobody was told the other's.
    assert authorized(campaigns, API_KEY)
    assert authorized(model, MODEL_KEY)
    assert "readable" in told
    assert {"openai", "httpcore", "sqlalchemy"} <= watch.logged()
    assert not [secret for secret in (MODEL_KEY, *spellings(MODEL_KEY)) if secret in sent(campaigns)]
    assert not [secret for secret in (API_KEY, API_HALF) if secret in sent(model)]
    assert watch.finds(*SECRETS) == set()


def json_call(call: tuple[str, dict[str, Any]]) -> tuple[str, str]:
    return call[0], json.dumps(call[1])


# Services that repeat what they were sent.

STATUSES = (200, 400, 401, 403, 404, 422, 429, 500, 503, 302)
SPOKEN = {"whole": API_KEY, "half": API_HALF, "header": f"Bearer {API_KEY}", "twice": f"{API_HALF}{API_KEY}"}


def agent_at(folder: Path, **more: Any) -> Agent:
    """The product's own clients, as the commands build them."""
    return build(settings(state_dir=folder / "home", model_retries=0, **more))


@pytest.mark.parametrize("form", SPOKEN)
@pytest.mark.parametrize("status", STATUSES)
async def test_an_api_that_repeats_the_key(watch: Watch, tmp_path: Path, status: int, form: str) -> None:
    """In an answer of any status, to a read, a write and a gated request; then wherever that answer goes."""
    (tmp_path / "outside").mkdir()
    api = Api(tmp_path / "outside")
    async with Loopback(api) as campaigns:
        agent = agent_at(tmp_path, platica_api_key=API_KEY, platica_base_url=campaigns.url)
        agent.model = model = ScriptedModel([[REMOVE], "one", [READ], "two", [RENAME], "three", [DELETE], "four"])
        events = [event async for event in agent.advance("s", "remove him")]
        gated = card(events).id

        api.instead = lambda served: None if served.method == "GET" else repeats(SPOKEN[form], status)
        events += [event async for event in agent.decide(gated, "approve", by=Identity.os_user())]
        # Server errors are asked again after a while, so that reads of those take a second.
        if status < 500 and status != 302:
            api.instead = lambda served: repeats(SPOKEN[form], status, retry_after="60")
        for number, text in enumerate(("look", "rename", "delete")):
            events += [event async for event in agent.advance(f"s{number}", text)]
        await agent.aclose()
    assert authorized(campaigns, API_KEY)
    assert {one.method for one in campaigns.seen} >= {"GET", "DELETE"}
    assert len(events) > 10
    events_of(watch, events)
    watch.add("prompts", model.seen)
    assert watch.finds(API_KEY, API_HALF) == set()


UNUSUAL_HALF = "S3cret_Half+Of/The=Key_98"
UNUSUAL = f"pl_key_canary01_{UNUSUAL_HALF}"
UNUSUAL_SPOKEN = {
    "half": UNUSUAL_HALF,
    "in an address": quote(UNUSUAL, safe=""),
    "half in an address": quote(UNUSUAL_HALF, safe=""),
}


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("form", UNUSUAL_SPOKEN)
@pytest.mark.parametrize("status", [200, 401, 422, 500])
async def test_an_api_that_repeats_a_key_of_unusual_signs(
    watch: Watch, tmp_path: Path, status: int, form: str, escaped: bool
) -> None:
    """`escaped`: in JSON that writes a slash with a backslash before it, as some servers do."""
    (tmp_path / "outside").mkdir()
    api = Api(tmp_path / "outside", UNUSUAL)
    async with Loopback(api) as campaigns:
        agent = agent_at(tmp_path, platica_api_key=UNUSUAL, platica_base_url=campaigns.url)
        agent.model = model = ScriptedModel([[RENAME], "one"])
        said = json.dumps({"code": status, "error": UNUSUAL_SPOKEN[form], "status": "success", "data": {"x": UNUSUAL}})
        answer = http_answer(status, said.replace("/", "\\/") if escaped else said)
        api.instead = lambda served: None if served.method == "GET" else answer
        events = [event async for event in agent.advance("s", "rename")]
        await agent.aclose()
    assert authorized(campaigns, UNUSUAL)
    assert [one.method for one in campaigns.seen].count("PATCH") == 1
    events_of(watch, events)
    watch.add("prompts", model.seen)
    assert watch.finds(UNUSUAL, UNUSUAL_HALF) == set()


@pytest.mark.parametrize("name", ["x_request_id", "location", "www_authenticate", "retry_after", "x_ratelimit_reset"])
@pytest.mark.parametrize("status", [200, 401, 429, 302])
async def test_an_api_that_repeats_the_key_in_a_header(watch: Watch, tmp_path: Path, status: int, name: str) -> None:
    """Of a read, whose transport logs nothing; httpcore logs the headers of answers where somebody asks for that."""
    (tmp_path / "outside").mkdir()
    api = Api(tmp_path / "outside")
    async with Loopback(api) as campaigns:
        agent = agent_at(tmp_path, platica_api_key=API_KEY, platica_base_url=campaigns.url)
        agent.model = model = ScriptedModel([[READ], "one"])
        api.instead = lambda served: (
            repeats("-", status, **{"x_ratelimit_remaining": "0", name: API_KEY}) if CITA in served.target else None
        )
        events = [event async for event in agent.advance("s", "look")]
        await agent.aclose()
    assert authorized(campaigns, API_KEY)
    assert any(CITA in one.target for one in campaigns.seen)
    events_of(watch, events)
    watch.add("prompts", model.seen)
    assert watch.finds(API_KEY, API_HALF) == set()


@pytest.mark.parametrize("status", [401, 422, 429, 500])
async def test_an_api_that_repeats_the_key_in_the_name_of_a_request(watch: Watch, tmp_path: Path, status: int) -> None:
    """Which is kept with a write's outcome. httpcore's own log, for who asks for that, has all headers of answers."""
    (tmp_path / "outside").mkdir()
    api = Api(tmp_path / "outside")
    async with Loopback(api) as campaigns:
        agent = agent_at(tmp_path, platica_api_key=API_KEY, platica_base_url=campaigns.url)
        agent.model = model = ScriptedModel([[RENAME], "one"])
        api.instead = lambda served: (
            repeats("-", status, x_request_id=f"req {API_KEY}", retry_after="60") if served.method == "PATCH" else None
        )
        events = [event async for event in agent.advance("s", "rename")]
        ((outcome,),) = [
            (attempt.outcome,) for attempt in await agent.journal.read(lambda tx: tx.attempts(conversation="s"))
        ]
        await agent.aclose()
    assert authorized(campaigns, API_KEY)
    assert [one.method for one in campaigns.seen].count("PATCH") == 1
    assert status == 500 or outcome["data"]["request_id"] == "req [key]"
    events_of(watch, events)
    watch.add("prompts", model.seen)
    assert {name for name, _ in watch.finds(API_KEY, API_HALF)} <= {"log"}


WRONG = f"Incorrect API key provided: {MODEL_KEY}. You can find yours at https://m.test/?k={MODEL_KEY}"
ECHOES = {
    **{f"HTTP {status}": http_answer(status, {"error": {"message": WRONG, "type": WRONG, "code": "x"}})
       for status in (400, 401, 403, 404, 413, 422, 429, 500, 503, 302)},
    "text": http_answer(422, WRONG, kind="text/plain"),
    "html": http_answer(400, f"<html>{WRONG}</html>", kind="text/html"),
    "too long": http_answer(400, {"error": {"message": f"context length {WRONG}", "code": "context_length_exceeded"}}),
    "in an address": http_answer(422, {"error": {"message": f"see https://m.test/?k={quote(MODEL_KEY, safe='')}"}}),
    "error in the stream": streamed({"error": {"message": WRONG}}),
    "error as a text in the stream": streamed({"error": WRONG}),
    "error after some words": streamed({"choices": [{"index": 0, "delta": {"content": "I"}}]}, {"error": WRONG}),
    "broken stream": says("I")[:-30] + b'\n\ndata: {"choices": [{"delta": {"content": "' + MODEL_KEY.encode() + b"\n\n",
    "cut answer": http_answer(200, f'{{"choices": ["{MODEL_KEY}', content_length="9999"),
    "garbage": http_answer(200, WRONG),
    "list": http_answer(200, [WRONG]),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("echo", ECHOES)
async def test_a_model_endpoint_that_repeats_its_key(watch: Watch, tmp_path: Path, echo: str, stream: bool) -> None:
    async with Loopback(ModelServer(ECHOES[echo])) as model:
        where = {"openai_api_key": MODEL_KEY, "openai_base_url": model.url + "/v1"}
        agent = agent_at(tmp_path, stream=stream, **where)
        events = [event async for event in agent.advance("s", "hello")]
        await agent.aclose()
    assert authorized(model, MODEL_KEY)
    assert MODEL_KEY.encode() in ECHOES[echo] or quote(MODEL_KEY, safe="").encode() in ECHOES[echo]
    assert failure(events).code.startswith("model_")
    events_of(watch, events)
    assert "sqlalchemy" in watch.logged()
    assert watch.finds(MODEL_KEY) == set()


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_takes_no_key_elsewhere(tmp_path: Path, status: int) -> None:
    async def nobody(_: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(200, {"workspaces": []}))

    async with Loopback(nobody) as elsewhere:
        moved = {"location": f"{elsewhere.url}/v1/campaigns"}

        async def redirect(_: Served, writer: asyncio.StreamWriter) -> None:
            writer.write(http_answer(status, {}, **moved))

        async with Loopback(redirect) as first:
            keys = {"platica_api_key": API_KEY, "openai_api_key": MODEL_KEY}
            agent = agent_at(tmp_path, platica_base_url=first.url, openai_base_url=first.url + "/v1", **keys)
            events = [event async for event in agent.call("s", *json_call(RENAME))]
            events += [event async for event in agent.call("s", "list_campaigns", "{}")]
            events += [event async for event in agent.advance("t", "hello")]
            await agent.aclose()
            assert {one.headers["authorization"] for one in first.seen} == {f"Bearer {k}" for k in keys.values()}
        assert [event for event in events if event.type == "error"]
        assert elsewhere.connections == 0


# A proxy that wants a password.


def proxy_at(server: Loopback) -> str:
    return server.url.replace("http://", f"http://campaigns:{PROXY_PASSWORD}@")


# The SDK's own transport hands the password to aiohttp in a way that is going out of use.
@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated", "ignore:The 'proxy_auth' parameter is deprecated")
@pytest.mark.parametrize("status", [407, 502])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("service", ["api", "model"])
def test_the_password_of_a_proxy(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, service: str, scheme: str, status: int
) -> None:
    credentials = encoded(f"campaigns:{PROXY_PASSWORD}")

    async def refuse(_: Served, writer: asyncio.StreamWriter) -> None:
        said = f"not {proxy_at(proxy)}"
        writer.write(http_answer(status, {"error": {"message": said}, "code": status}, proxy_authenticate="Basic"))

    with in_a_thread(refuse) as proxy:
        monkeypatch.setenv("CAMPAIGN_AGENT_MODEL_RETRIES", "0")
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy_at(proxy))
        if service == "api":
            monkeypatch.setenv("PLATICA_API_KEY", API_KEY)
            monkeypatch.setenv("PLATICA_BASE_URL", f"{scheme}://api.invalid")
        else:
            monkeypatch.setenv("OPENAI_API_KEY", MODEL_KEY)
            monkeypatch.setenv("OPENAI_BASE_URL", f"{scheme}://model.invalid/v1")
        if service == "api":
            assert run(["call", *json_call(RENAME)]) == 1
            assert run(["call", *json_call(READ), "--json"]) == 1
        else:
            assert run(["ask", "list the campaigns", "--json"]) == 1
            assert run(["doctor"]) == 1
    assert f"Basic {credentials}" in {one.headers.get("proxy-authorization") for one in proxy.seen}
    if scheme == "https":
        # The tunnel was never there, so the key stayed at home.
        assert not [key for key in (API_KEY, MODEL_KEY) if key in sent(proxy)]
    assert watch.finds(PROXY_PASSWORD, f"campaigns:{PROXY_PASSWORD}", API_KEY, API_HALF, MODEL_KEY) == set()


@pytest.mark.parametrize("service", ["PLATICA", "OPENAI"])
@pytest.mark.parametrize("scheme", ["ftp", "gopher"])
def test_a_proxy_that_makes_no_sense_and_the_crash_log(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str, scheme: str
) -> None:
    """Nothing of ours names it, so that the traceback goes to a file: without the password, which httpx knew."""
    monkeypatch.setenv(f"{service}_API_KEY", API_KEY if service == "PLATICA" else MODEL_KEY)
    monkeypatch.setenv(f"{service}_BASE_URL", "https://service.invalid/v1")
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://campaigns:{PROXY_PASSWORD}@127.0.0.1:9")
    assert run(["ask", "list the campaigns"]) != 0
    told = watch.printed()
    log = tmp_path / "home" / "crash.log"
    assert "campaigns:" in (log.read_text() if log.exists() else told) or "HTTPS_PROXY" in told
    assert watch.finds(PROXY_PASSWORD, API_KEY, MODEL_KEY) == set()


# The database.


class Postgres:
    """As much of a PostgreSQL server as it takes to be told a password in clear, and to refuse it."""

    def __init__(self) -> None:
        self.password = ""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(5)
                    self._refuse(connection)

    def _refuse(self, connection: socket.socket) -> None:
        while True:
            size = int.from_bytes(connection.recv(4), "big")
            wanted = connection.recv(size - 4)
            # Encryption of two kinds is asked for first: no, and no.
            if wanted[:4] not in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
                break
            connection.sendall(b"N")
        connection.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x03")
        answer = connection.recv(1024)
        self.password = answer[5:].rstrip(b"\x00").decode()
        said = b'SFATAL\x00VFATAL\x00C28P01\x00Mpassword authentication failed for user "campaigns"\x00\x00'
        connection.sendall(b"E" + (len(said) + 4).to_bytes(4, "big") + said)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(6)


@pytest.fixture
def database() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


def test_the_password_of_a_database(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Postgres
) -> None:
    url = f"postgresql://campaigns:{DATABASE_PASSWORD}@127.0.0.1:{database.port}/journal?sslmode=disable&gssencmode=disable"
    monkeypatch.setenv("CAMPAIGN_AGENT_DATABASE_URL", url)
    for command in (["ask", "list the campaigns"], ["ask", "hello", "--json"], ["doctor"], ["attempts"], ["log"]):
        assert run(command) == 1
        assert "database_unavailable" in watch.printed() or command == ["doctor"]
    assert database.password == DATABASE_PASSWORD
    assert watch.finds(DATABASE_PASSWORD) == set()


BAD_DATABASES = {
    "at sign": f"postgresql://campaigns:x@{DATABASE_PASSWORD}:x@127.0.0.1/j",
    "colon": f"postgresql://campaigns:x@127.0.0.1:{DATABASE_PASSWORD}@127.0.0.1/j",
    "no such kind": f"postgres://campaigns:{DATABASE_PASSWORD}@127.0.0.1:9/j",
    "sqlite": f"sqlite://campaigns:{DATABASE_PASSWORD}@127.0.0.1/j",
    "refused": f"postgresql://campaigns:{DATABASE_PASSWORD}@127.0.0.1:9/j",
    "odd option": f"postgresql://campaigns:{DATABASE_PASSWORD}@127.0.0.1:9/j?nonsense=1",
    "no address": f"//campaigns:{DATABASE_PASSWORD}@127.0.0.1",
}


@pytest.mark.parametrize("kind", BAD_DATABASES)
def test_a_database_that_cannot_be(watch: Watch, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_DATABASE_URL", BAD_DATABASES[kind])
    assert run(["ask", "list the campaigns"]) in (1, 2)
    told = watch.printed()
    assert "[database_" in told or "CAMPAIGN_AGENT_DATABASE_URL is wrong" in told
    assert watch.finds(DATABASE_PASSWORD) == set()


# Settings.

BAD_SETTINGS = {
    "PLATICA_API_KEY": f"{API_KEY} {API_HALF}",
    "OPENAI_API_KEY": f"{MODEL_KEY}\u2003x",
    "PLATICA_BASE_URL": f"https://campaigns:{PROXY_PASSWORD}@api.invalid",
    "OPENAI_BASE_URL": f"https://{MODEL_KEY}@model.invalid/v1",
    "CAMPAIGN_AGENT_DATABASE_URL": f"postgresql://campaigns:a@b:{DATABASE_PASSWORD}@127.0.0.1/j",
    "CAMPAIGN_AGENT_TIMEZONE": API_KEY,
    "CAMPAIGN_AGENT_CONFIRM": MODEL_KEY,
    "CAMPAIGN_AGENT_REQUEST_DEADLINE": API_HALF,
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
@pytest.mark.parametrize("source", ["environment", ".env"])
def test_what_a_setting_refuses_is_not_shown(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    if source == ".env":
        (tmp_path / ".env").write_text(f"{name}={BAD_SETTINGS[name]}\n", "utf-8")
    else:
        monkeypatch.setenv(name, BAD_SETTINGS[name])
    for command in (["ask", "hello"], ["ask", "hello", "--json"], ["doctor"], ["tools", "--format", "openai"]):
        assert run(command) == 2
        assert f"{name} is wrong" in watch.printed()
    with pytest.raises(UsageError) as raised:
        Settings.read()
    watch.add("exception", str(raised.value), raised.value, raised.value.data, raised.getrepr().reprcrash)
    # A program that makes the settings by itself gets pydantic's words.
    with pytest.raises(ValueError, match=r".") as direct:
        Settings()
    watch.add("validation", str(direct.value), direct.value)
    assert watch.finds(*SECRETS) == set()


def test_settings_and_what_is_built_of_them_show_no_secret(watch: Watch, tmp_path: Path) -> None:
    url = f"postgresql://campaigns:{DATABASE_PASSWORD}@127.0.0.1:9/j"
    made = settings(platica_api_key=API_KEY, openai_api_key=MODEL_KEY, database_url=url, state_dir=tmp_path / "home")
    assert made.platica_api_key is not None
    assert made.platica_api_key.get_secret_value() == API_KEY
    agent = build(made)
    for thing in (made, agent, agent.platica, agent.model, agent.gate, agent.journal, agent.settings):
        watch.add("shown", str(thing), repr(thing), f"{thing}")
    watch.add("dump", made.model_dump(), made.model_dump_json(), made.key_id, made.api_url)
    asyncio.run(agent.aclose())
    assert watch.finds(*SECRETS) == set()


@pytest.mark.parametrize("ending", ["\n", "\r\n", " ", "\t"])
def test_a_key_copied_with_its_line_end_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    (tmp_path / "outside").mkdir()
    with in_a_thread(Api(tmp_path / "outside")) as campaigns, in_a_thread(ModelServer(says("Hi."))) as model:
        monkeypatch.setenv("PLATICA_API_KEY", API_KEY + ending)
        monkeypatch.setenv("PLATICA_BASE_URL", campaigns.url)
        monkeypatch.setenv("OPENAI_API_KEY", ending + MODEL_KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", model.url + "/v1")
        assert run(["ask", "hello"]) == 0
    assert authorized(campaigns, API_KEY)
    assert authorized(model, MODEL_KEY)


# The sandbox's own records.


async def test_the_sandbox_records_no_key(watch: Watch, tmp_path: Path) -> None:
    app = create_app(tmp_path / "sandbox.db")
    async with httpx.AsyncClient(transport=SandboxTransport(app), base_url="http://sandbox.invalid") as http:
        headers = {"authorization": f"Bearer {API_KEY}", "x-other": MODEL_KEY}
        answers = [await http.request(method, "/v1/campaigns", headers=headers) for method in ("GET", "POST")]
        told = await http.get("/_sandbox/requests")
    assert [answer.status_code for answer in answers] == [401, 401]
    assert len(told.json()["requests"]) == 2
    watch.add("answers", *[answer.text for answer in answers], told.text)
    app.state.store.close()
    assert watch.finds(API_KEY, API_HALF, MODEL_KEY) == set()


async def test_a_card_names_the_key_by_its_digest_alone(watch: Watch, tmp_path: Path) -> None:
    """And another key's approvals are told apart from it."""
    world = make_world(tmp_path, platica_api_key=API_KEY)
    events = await world.say("delete it", [DELETE])
    asked = card(events)
    rotated = API_KEY.replace("9876", "9877")
    other = again(world, platica_api_key=rotated)
    events += await other.decide(asked.id, "approve", confirm="Buen Fin 2026")
    assert failure(events).code == "approval_other_target"
    events_of(watch, events)
    for one in (world, other):
        await one.agent.aclose()
    assert watch.finds(API_KEY, API_HALF, rotated) == set()


# Keys that people paste.

PASTED = {
    "of Plática": "pl_key_other77_PastedByMistake42",
    "of a model": "sk-proj-Pasted-By_Mistake42abcdef",
    "of Slack": "xoxb-424242-PastedByMistake",
    "a header": "Bearer PastedByMistake42abcdef",
    "of a database": "campaigns:PastedByMistake42",
}


@pytest.mark.parametrize("kind", PASTED)
def test_what_has_the_form_of_a_key_is_taken_out(kind: str) -> None:
    pasted = PASTED[kind]
    address = "postgresql://{}@db.invalid/x" if kind == "of a database" else "it is {} , use it"
    said = settings().redact(address.format(pasted))
    assert said == address.format("[key]")
    assert "PastedByMistake42"[:6] not in said


@pytest.mark.parametrize("key", ["platica_api_key", "openai_api_key"])
def test_own_keys_are_taken_out_in_every_usual_spelling(key: str) -> None:
    secret = "no-form+of/a_known=kind-1234"
    made = settings(**{key: secret})
    for spelling in (secret, quote(secret, safe="")):
        assert made.redact(f"a {spelling}, b") == "a [key], b"
    half = "Half_with+signs/98"
    made = settings(**{key: f"pl_key_abc_{half}"})
    for spelling in (half, quote(half, safe="")):
        assert made.redact(f"a {spelling}, b") == "a [key], b"


@pytest.mark.parametrize(
    "text",
    [
        "Crea la campaña task-management-system-2026-otoño",
        "SK-II sk-ii-tratamiento-facial-completo",
        "https://cdn.tienda.test/a@b:c.png y soporte@tienda.test",
        "cmpPromoVerano2026aa, +52 55 0010 0501, a las 10:00",
        "The bearer of news; Bearer tokens",
    ],
)
def test_usual_text_is_left_alone(text: str) -> None:
    assert settings(platica_api_key=API_KEY).redact(text) == text


@pytest.mark.parametrize("kind", PASTED)
async def test_a_pasted_key_stays_out_of_journal_and_prompts(watch: Watch, tmp_path: Path, kind: str) -> None:
    world = make_world(tmp_path, platica_api_key=API_KEY)
    address = "postgresql://{}@db.invalid/x" if kind == "of a database" else "{}"
    pasted = address.format(PASTED[kind])
    events = await world.say(f"my key is {pasted} , and its half {API_HALF}", [DELETE])
    events += await world.decide(card(events).id, "deny", "fine", reason=f"because {pasted}")
    (said,) = [m["content"] for m in world.model.seen[-1] if m["role"] == "user" and "my key" in m["content"]]
    assert said == f"my key is {address.format('[key]')} , and its half [key]"
    assert f"because {address.format('[key]')}" in json.dumps(world.model.seen[-1])
    events_of(watch, events)
    watch.add("prompts", world.model.seen)
    await world.agent.aclose()
    assert watch.finds(PASTED[kind], API_HALF) == set()


def test_the_chat_s_history_keeps_no_key(tmp_path: Path) -> None:
    person = Person("chat")
    try:
        person.sees("/quit to leave.")
        person.types(f"list the campaigns, my key is {PASTED['of Plática']}")
        person.sees("Promo Verano 2026")
        person.sees("›")
        person.types("/quit")
        assert person.waits() == 0
    finally:
        person.close()
    history = (tmp_path / "home" / "history").read_text()
    assert "list the campaigns, my key is [key]" in history
    assert "PastedByMistake" not in history
    assert os.stat(tmp_path / "home").st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "address", ["http://user:SecretPart9/rest@proxy:3128", "http://[::1", "socks9://SecretPart9@x"]
)
def test_a_proxy_that_is_no_address_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str
) -> None:
    from agent.cli import run

    monkeypatch.setenv("PLATICA_API_KEY", "pl_key_ABCDEFGH_0123456789abcdef")
    monkeypatch.setenv("PLATICA_BASE_URL", "http://api.invalid")
    monkeypatch.setenv("http_proxy", address)
    assert run(["call", "list_campaigns", "--json"]) == 2
    said = capsys.readouterr()
    assert "usage_setting" in said.out
    assert "HTTP_PROXY" in said.out
    assert "SecretPart9" not in said.out + said.err
    assert not list(tmp_path.rglob("crash.log"))
