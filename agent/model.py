"""The language model: a small protocol, and its adapter to any OpenAI-compatible chat-completions endpoint.

The request body is bytes that only grow, because `create()` walks every message and tool on each call, and a turn
would get dearer as the history grows. The SDK still does the connection, the key, the retries and the errors.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json, to_json

from agent.domain import Json
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
from agent.settings import spellings

if TYPE_CHECKING:
    import ssl

    import httpx2
    import openai


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as the model wrote it; `arguments` is JSON text, or is meant to be."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole answer. `usage` is the endpoint's own, empty when it sent none."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    usage: Mapping[str, Json] = field(default_factory=dict)


def array(messages: Iterable[bytes]) -> bytes:
    """Messages, each as JSON, as one JSON array."""
    return b"[" + b",".join(messages) + b"]"


class Model(Protocol):
    """`name` is shown to people. `complete` takes chat messages, each as JSON, at least one, and yields text as it
    comes, then one Completion, last. It raises ModelError."""

    @property
    def name(self) -> str: ...

    def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]: ...

    async def aclose(self) -> None: ...


class OpenAIModel:
    """`client` is the SDK's, with its timeouts and `max_retries` set by whoever makes it (see `connect`)."""

    def __init__(
        self,
        client: "openai.AsyncOpenAI",
        name: str,
        tools: list[dict[str, Json]],
        *,
        stream: bool = True,
        deadline: float = 600.0,
    ) -> None:
        self._client, self._name, self._stream, self._deadline = client, name, stream, deadline
        flags: dict[str, Json] = {"model": name}
        if stream:
            flags |= {"stream": True, "stream_options": {"include_usage": True}}
        import openai

        # Names of the SDK's own bookkeeping, left out like the rest of what it tells.
        untold = {f"x-stainless-{name}": openai.Omit() for name in ("retry-count", "read-timeout")}
        self._options: Any = {"headers": untold}
        # Whole, since joining it to the base again for every request is a tenth of the request's cost.
        self._url = f"{str(client.base_url).rstrip('/')}/chat/completions"
        self._head = to_json({**flags, "tools": tools})[:-1] + b',"messages":['

    @property
    def name(self) -> str:
        return self._name

    async def aclose(self) -> None:
        await self._client.close()

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        import aiohttp
        import openai

        # What goes around them is put on the ends, so that a long history is copied once.
        parts = [self._head + messages[0], *messages[1:]]
        parts[-1] += b"]}"
        body = b",".join(parts)
        try:
            if not self._stream:
                completion = _whole(from_json(await self._post(body)))
                if completion.text:
                    yield completion.text
                yield completion
                return
            assembly = _Assembly()
            async for event in self._events(body):
                if text := assembly.add(event):
                    yield text
            yield assembly.completion()
        except aiohttp.ClientError as error:
            # The SDK's aiohttp transport lets some of these through.
            raise self._clean(ModelUnreachable(text=str(error))) from None
        except openai.OpenAIError as error:
            raise self._clean(_renamed(error, self._name)) from None
        except ModelError as error:
            raise self._clean(error) from None
        except ValueError:
            raise ModelBroken(text="the answer is not JSON") from None

    def _clean(self, error: ModelError) -> ModelError:
        """Servers like to quote the key that they don't accept."""
        data = dict(error.data)
        for name, value in data.items():
            if isinstance(value, str):
                for spelling in spellings(self._client.api_key):
                    value = value.replace(spelling, "[key]")
                data[name] = value[:300]
        return type(error)(**data)

    async def _post(self, body: bytes) -> bytes:
        import httpx2

        try:
            async with asyncio.timeout(self._deadline):
                response = await self._client.post(
                    self._url, content=body, cast_to=httpx2.Response, options=self._options
                )
                return response.content
        except TimeoutError:
            raise ModelUnreachable(text=f"the answer took more than {self._deadline:g} s") from None

    async def _events(self, body: bytes) -> AsyncIterator[Mapping[str, Json]]:
        """Each JSON object of the stream, whatever the chunks; a plain JSON answer counts as a stream of one."""
        import httpx2
        import openai

        ends = time.monotonic() + self._deadline
        try:
            async with asyncio.timeout(self._deadline):
                stream = await self._client.post(
                    self._url,
                    content=body,
                    cast_to=object,
                    options=self._options,
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                )
        except TimeoutError:
            raise ModelUnreachable(text=f"the answer took more than {self._deadline:g} s") from None
        splitter = _Splitter()
        try:
            chunks = stream.response.aiter_bytes()
            async for chunk in chunks:
                for event in splitter.feed(chunk):
                    yield event
                if splitter.done:
                    await _drain(chunks)
                    return
                if time.monotonic() > ends:
                    raise ModelUnreachable(text=f"the answer took more than {self._deadline:g} s")
            for event in splitter.rest():
                yield event
            if not splitter.done:
                yield _CUT
        except httpx2.HTTPError as error:
            raise ModelUnreachable(text=f"the stream broke: {type(error).__name__}") from None
        finally:
            await stream.close()


_CUT: Mapping[str, Json] = {"cut": True}
"""Follows the last event of a stream that ended without [DONE]."""
_UNTOLD = [f"X-Stainless-{name}" for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version")]
"""What the SDK tells every endpoint about this machine. It costs time on each request, and nobody here wants it."""


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """What follows [DONE], so that the connection can be used again; a server that doesn't end is left."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            async for _ in chunks:
                pass


class _Splitter:
    """Server-sent events out of bytes cut anywhere. Lines end at \\n or \\r\\n only, never at U+2028."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._plain: list[bytes] = []
        self.done = False

    def feed(self, chunk: bytes) -> list[Mapping[str, Json]]:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        events: list[Mapping[str, Json]] = []
        if self.done:
            return events
        for line in lines:
            if (event := self._line(line.removesuffix(b"\r"))) is not None:
                events.append(event)
            if self.done:
                break
        return events

    def rest(self) -> list[Mapping[str, Json]]:
        """What is left when the connection ends: an event without its blank line, or a plain JSON answer."""
        events = [event for line in (self._buffer, b"") if (event := self._line(line.removesuffix(b"\r"))) is not None]
        if not events and (plain := b"\n".join(self._plain).strip()).startswith(b"{"):
            return [_object(plain)]
        return events

    def _line(self, line: bytes) -> Mapping[str, Json] | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
            self._plain.append(line)
        if line or not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        if data.strip() == b"[DONE]":
            self.done = True
            return None
        return _object(data)


class _Assembly:
    """Deltas into one Completion: calls by index, or by id where a server sends no index."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._placed: dict[int, int] = {}
        self._finish: str | None = None
        self._usage: Mapping[str, Json] = {}
        self._seen = False

    def add(self, event: Mapping[str, Json]) -> str:
        _raise_if_error(event)
        if event is _CUT and self._finish is None:
            # Half of a call may still be valid JSON, and half of a sentence may say the opposite of the whole.
            raise ModelBroken(text="the stream was cut before its end")
        if usage := event.get("usage"):
            self._usage = usage if isinstance(usage, dict) else {}
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        self._seen = True
        choice = choices[0]
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            return ""
        for part in delta.get("tool_calls") or []:
            if isinstance(part, dict):
                self._add_call(part)
        text = delta.get("content") or delta.get("refusal") or ""
        if not isinstance(text, str):
            text = (
                "".join(str(p.get("text", "")) for p in text if isinstance(p, dict)) if isinstance(text, list) else ""
            )
        self._text.append(text)
        return text

    def _add_call(self, part: Mapping[str, Json]) -> None:
        index, call_id = part.get("index"), part.get("id")
        held = self._calls.get(index) if isinstance(index, int) else None
        # Some servers send no index, others the same one for every parallel call.
        if not isinstance(index, int) or (held and call_id and held["id"] not in ("", call_id)):
            known = [at for at, call in self._calls.items() if call_id in (None, "", call["id"])]
            index = known[-1] if known else max(self._calls, default=-1) + 1
        elif not call_id and index in self._calls:
            index = max(at for at in self._calls if self._placed.get(at, at) == index)
        self._placed.setdefault(index, part["index"] if isinstance(part.get("index"), int) else index)
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = part.get("function") or {}
        if not isinstance(function, dict):
            return
        call["id"] = call["id"] or str(call_id or "")
        name, arguments = function.get("name"), function.get("arguments")
        # Some servers repeat the whole name on every chunk.
        if isinstance(name, str) and name != call["name"]:
            call["name"] += name
        if isinstance(arguments, dict):
            arguments = to_json(arguments).decode()
        call["arguments"] += arguments if isinstance(arguments, str) else ""

    def completion(self) -> Completion:
        if not self._seen:
            raise ModelBroken(text="the stream held no answer")
        calls = tuple(Call(**call) for _, call in sorted(self._calls.items()))
        return Completion("".join(self._text), calls, self._finish, self._usage)


def _object(data: bytes) -> Mapping[str, Json]:
    value = from_json(data)
    if not isinstance(value, dict):
        raise ModelBroken(text="the answer is not a chat completion")
    return value


def _whole(body: Json) -> Completion:
    assembly = _Assembly()
    if not isinstance(body, dict):
        raise ModelBroken(text="the answer is not a chat completion")
    assembly.add(body)
    return assembly.completion()


def _raise_if_error(event: Mapping[str, Json]) -> None:
    if not (error := event.get("error")):
        return
    text = str(error.get("message") if isinstance(error, dict) else error)
    if _is_context(text, error if isinstance(error, dict) else {}):
        raise ModelContextTooLong(text=text)
    raise ModelBroken(text=text)


def _is_context(text: str, error: Mapping[str, Json]) -> bool:
    words = ("context length", "context window", "context size", "too many tokens", "prompt is too long")
    codes = {error.get("code"), error.get("type")} if all(_hashable(error.get(k)) for k in ("code", "type")) else set()
    known = {"context_length_exceeded", "exceed_context_size_error"}
    return bool(codes & known) or any(word in text.lower() for word in words)


def _hashable(value: Json) -> bool:
    return not isinstance(value, (list, dict))


def _renamed(error: Exception, model: str) -> ModelError:
    """The SDK's errors, as ours."""
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        return _by_status(
            error.status_code, str(body.get("message") or error.message), body, error.response.headers, model
        )
    cause = str(error.__cause__ or "")
    # The aiohttp transport calls every connection that couldn't be made a timeout.
    if isinstance(error, openai.APITimeoutError) and not cause.startswith("Cannot connect"):
        return ModelUnreachable(text="no answer in time")
    if isinstance(error, openai.APIConnectionError):
        return ModelUnreachable(text=str(error.__cause__ or error))
    return ModelBroken(text=str(error))


def _by_status(status: int, text: str, body: Mapping[str, Json], headers: Mapping[str, str], model: str) -> ModelError:
    if _is_context(text, body):
        return ModelContextTooLong(text=text)
    if status in (401, 403):
        return ModelKeyRejected(status=status)
    if status == 404:
        return ModelNotFound(model=model, text=text)
    if status == 429:
        try:
            wait = float(headers.get("retry-after", ""))
        except ValueError:
            return ModelRateLimited(wait=None, text=text)
        return ModelRateLimited(wait=f"{wait:g}", text=text)
    if status >= 500:
        return ModelUnreachable(text=f"HTTP {status}")
    return ModelRejected(status=status, text=text)


def connect(
    *,
    key: str | None,
    base_url: str | None,
    timeout: float,
    retries: int,
    verify: "ssl.SSLContext | bool" = True,
    cookies: CookieJar | None = None,
) -> "openai.AsyncOpenAI":
    """The SDK's client. Servers that need no key (Ollama, llama.cpp) get a placeholder."""
    import openai

    untold: Any = {name: openai.Omit() for name in [*_UNTOLD, "X-Stainless-Async"]}
    return openai.AsyncOpenAI(
        api_key=key or "none",
        default_headers=untold,
        base_url=base_url,
        max_retries=retries,
        timeout=openai.Timeout(timeout, connect=min(timeout, 10.0)),
        # A third of the cost of the default transport, and it stays that cheap with hundreds of sessions at once.
        http_client=_plain_http()(verify=verify, cookies=cookies, follow_redirects=False),
    )


@cache
def _plain_http() -> "type[httpx2.AsyncClient]":
    """The SDK's aiohttp client, less the merging of defaults that every request of ours overrides.

    The SDK reads one address three times for each request; here it is read once.
    """
    import httpx2
    import openai

    read_url = lru_cache(maxsize=8)(httpx2.URL)

    class PlainClient(openai.DefaultAioHttpClient):
        def build_request(self, method: str, url: Any, **parts: Any) -> httpx2.Request:
            more = {name for name, value in parts.items() if value} - {"content", "headers", "timeout"}
            if more or not isinstance(parts.get("timeout"), httpx2.Timeout):
                return super().build_request(method, url, **parts)
            headers = [("accept-encoding", self.headers["accept-encoding"]), *parts["headers"]]
            limits = {"timeout": parts["timeout"].as_dict()}
            return httpx2.Request(
                method, read_url(str(url)), headers=headers, content=parts["content"], extensions=limits
            )

    return PlainClient
