"""The form of a recording: what is left out, what is stored once elsewhere, and YAML that reads well in a diff."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from agent.domain import Json

URI = "https://model.invalid/v1/chat/completions"
"""Where every recorded request seems to go: the host, the port and any prefix are somebody's own."""
_DROPPED = ("created", "system_fingerprint", "obfuscation", "service_tier", "provider")
_SHA = "sha256:"

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tools_text(tools: Json) -> str:
    """Tool schemas as they are hashed and stored: the order of keys says nothing."""
    return json.dumps(tools, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


class Texts:
    """The system prompts and tool schemas that requests held, by hash."""

    def __init__(self) -> None:
        self.prompts: dict[str, str] = {}
        self.tools: dict[str, str] = {}

    def normal(self, request: Any) -> Any:
        """The request as it is stored and compared. Done again, it changes nothing."""
        body = json.loads(request.body)
        if not isinstance(body.get("tools"), str):
            text = tools_text(body.get("tools"))
            body["tools"] = _SHA + sha256(text)
            self.tools[sha256(text)] = text
        for message in body["messages"]:
            if message["role"] in ("system", "developer") and not str(message["content"]).startswith(_SHA):
                text = str(message["content"])
                message["content"] = _SHA + sha256(text)
                self.prompts[sha256(text)] = text
        request.uri = URI
        request.headers = {"content-type": "application/json"}
        request.body = json.dumps(body, ensure_ascii=False)
        return request

    def store(self, folder: Path) -> None:
        """Each text in a file of its own, once."""
        folder.mkdir(parents=True, exist_ok=True)
        for sha, text in self.prompts.items():
            (folder / f"{sha}.md").write_text(text, "utf-8")
        for sha, text in self.tools.items():
            (folder / f"{sha}.json").write_text(text, "utf-8")


def normal_response(response: dict[str, Any]) -> dict[str, Any]:
    """The response as it is stored: one header, no volatile fields, deltas merged."""
    headers = {name.lower(): value for name, value in response["headers"].items()}
    kind = [str(value) for value in headers.get("content-type", ["application/json"])]
    text = response["body"]["string"]
    text = text.decode() if isinstance(text, bytes) else text
    if "text/event-stream" in kind[0]:
        text = _stream_text(merged(_stream_events(text)))
    elif (body := _json(text)) is not None:
        text = json.dumps(_tidy(body), ensure_ascii=False)
    status = {"code": response["status"]["code"], "message": response["status"]["message"]}
    return {"status": status, "headers": {"content-type": kind}, "body": {"string": text.encode()}}


def _tidy(event: Json) -> Json:
    return {k: v for k, v in event.items() if k not in _DROPPED} if isinstance(event, dict) else event


def _json(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return None


# Streams.


def _stream_events(text: str) -> list[Json]:
    """The JSON of each event; what isn't JSON stays text."""
    events = []
    for block in re.split(r"\r?\n\r?\n", text):
        data = "\n".join(re.findall(r"^data: ?(.*)$", block, re.MULTILINE)).removesuffix("\r")
        if data:
            events.append(data if (found := _json(data)) is None else found)
    return events


def _stream_text(events: Iterable[Json]) -> str:
    data = (event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events)
    return "".join(f"data: {one}\n\n" for one in data)


def merged(events: list[Json]) -> list[Json]:
    """The same answer in a few events: words, calls, the end, the figures. Any other stream stays as it is."""
    chunks = [_tidy(event) for event in events if isinstance(event, dict)]
    if len(chunks) != len(events) - 1 or events[-1] != "[DONE]" or not all(_usual(chunk) for chunk in chunks):
        return [_tidy(event) for event in events]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    finish = [c["choices"][0].get("finish_reason") for c in chunks if c["choices"]]
    head = {key: chunks[0][key] for key in ("id", "object", "model") if key in chunks[0]}
    text = "".join(delta.get("content") or "" for delta in deltas)
    out: list[Json] = [{**head, "choices": [_choice({"role": "assistant", "content": text or None})]}]
    if calls := _merged_calls(deltas):
        out.append({"choices": [_choice({"tool_calls": calls})]})
    out.append({"choices": [{**_choice({}), "finish_reason": next((one for one in finish if one), None)}]})
    out += [{"choices": [], "usage": chunk["usage"]} for chunk in chunks if chunk.get("usage")]
    return [*out, "[DONE]"]


def _choice(delta: Json) -> Json:
    return {"index": 0, "delta": delta}


def _usual(chunk: Mapping[str, Any]) -> bool:
    """Whether merging keeps everything that a chunk says."""
    choices = chunk.get("choices")
    if "error" in chunk or not isinstance(choices, list) or len(choices) > 1:
        return False
    if not choices:
        return True
    delta = choices[0].get("delta")
    if not isinstance(delta, dict) or any(v for k, v in delta.items() if k not in ("role", "content", "tool_calls")):
        return False
    calls = delta.get("tool_calls") or []
    text = isinstance(delta.get("content") or "", str)
    return text and all(isinstance(call.get("index"), int) and isinstance(call["function"], dict) for call in calls)


def _merged_calls(deltas: Iterable[Mapping[str, Any]]) -> list[Json]:
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls") or []):
        call = calls.setdefault(part["index"], {"index": part["index"], "id": "", "type": "function", "function": {}})
        call["id"] = call["id"] or part.get("id") or ""
        function = call["function"]
        function["name"] = function.get("name") or part["function"].get("name") or ""
        function["arguments"] = function.get("arguments", "") + (part["function"].get("arguments") or "")
    return [call for _, call in sorted(calls.items())]


# The file.


class Serializer:
    """vcrpy's serializer: bodies as data, and of each history only what the request before it didn't have."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        before: list[Json] = []
        interactions = []
        for one in cassette["interactions"]:
            body = json.loads(one["request"]["body"])
            messages, before = _less(before, body["messages"]), body["messages"]
            request = {"body": {**body, "messages": messages}}
            interactions.append({"request": request, "response": _packed(one["response"])})
        data = {"metadata": cassette.get("metadata", {}), "interactions": interactions}
        text: str = yaml.dump(data, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=110)
        if Serializer.deserialize(text)["interactions"] != [_bare(one) for one in cassette["interactions"]]:
            raise ValueError("the recording can't be written so that it reads back the same")
        return text

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        data = yaml.load(text, Loader=Loader)
        before: list[Json] = []
        interactions = []
        for one in data["interactions"]:
            body = one["request"]["body"]
            before = [*before[: body["messages"]["as_before"]], *map(_unpacked_message, body["messages"]["then"])]
            request = {
                "method": "POST",
                "uri": URI,
                "body": json.dumps({**body, "messages": before}, ensure_ascii=False),
                "headers": {"content-type": ["application/json"]},
            }
            interactions.append({"request": request, "response": _unpacked(one["response"])})
        return {"version": 1, "interactions": interactions, "metadata": data["metadata"]}


def _bare(interaction: Mapping[str, Any]) -> dict[str, Any]:
    """As `deserialize` gives it."""
    request, response = interaction["request"], interaction["response"]
    body = json.dumps(json.loads(request["body"]), ensure_ascii=False)
    return {"request": {**request, "body": body}, "response": response}


def _less(before: list[Json], now: list[Json]) -> Json:
    same = next((at for at, (old, new) in enumerate(zip(before, now, strict=False)) if old != new), None)
    same = min(len(before), len(now)) if same is None else same
    return {"as_before": same, "then": [_packed_message(message) for message in now[same:]]}


def _packed_message(message: Json) -> Json:
    """JSON inside a message as data, where it can be written back to the letter."""
    packed = {name: _opened(value) if name == "content" else value for name, value in message.items()}
    if "tool_calls" in packed:
        packed["tool_calls"] = [_packed_call(call) for call in packed["tool_calls"]]
    return packed


def _packed_call(call: Json) -> Json:
    return {**call, "function": {**call["function"], "arguments": _opened(call["function"]["arguments"])}}


def _opened(value: Json) -> Json:
    if isinstance(value, str) and value[:1] in ("{", "["):
        data = _json(value)
        for name, text in _written(data):
            if text == value:
                return {name: data}
    return value


def _written(data: Json) -> Iterator[tuple[str, str]]:
    yield "json", json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    yield "json_spaced", json.dumps(data, ensure_ascii=False)


def _closed(value: Json) -> Json:
    if isinstance(value, dict) and len(value) == 1:
        ((name, data),) = value.items()
        return dict(_written(data)).get(name, value)
    return value


def _unpacked_message(message: Json) -> Json:
    out = {name: _closed(value) if name == "content" else value for name, value in message.items()}
    if "tool_calls" in out:
        out["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _closed(call["function"]["arguments"])}}
            for call in out["tool_calls"]
        ]
    return out


def _packed(response: Mapping[str, Any]) -> dict[str, Any]:
    text = response["body"]["string"]
    kind = response["headers"]["content-type"][0]
    out = {"status": response["status"], "content-type": kind}
    if "text/event-stream" in kind:
        return {**out, "events": _stream_events(text)}
    body = _json(text)
    return {**out, "json": body} if json.dumps(body, ensure_ascii=False) == text else {**out, "text": text}


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Any]:
    if "events" in packed:
        text = _stream_text(packed["events"])
    else:
        text = packed["text"] if "text" in packed else json.dumps(packed["json"], ensure_ascii=False)
    headers = {"content-type": [packed["content-type"]]}
    return {"status": dict(packed["status"]), "headers": headers, "body": {"string": text}}


def count_requests(text: str) -> int:
    return len(yaml.load(text, Loader=Loader)["interactions"])
