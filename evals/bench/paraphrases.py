"""How often the built-in rules turn a request into the right call: FILE of requests, ASK_FILE of ones to ask about."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import yaml

from agent.errors import InvalidCall
from agent.model import Call, Completion
from agent.operations import Reading, parse
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.model import RuleModel
from agent.sandbox.seed import LOCAL_KEY

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
ZONE = ZoneInfo("America/Mexico_City")
READING = Reading(NOW, ZONE)
STEPS = 8
VERDICTS = ("right", "asked", "wrong operation", "wrong arguments")


@dataclass(frozen=True, slots=True)
class Played:
    """The call that a request ended in, None when it ended in words."""

    call: Call | None
    text: str


class Player:
    """One request at a time, over a sandbox that only reads reach."""

    def __init__(self) -> None:
        app = create_app(":memory:", clock=lambda: NOW, rate_limit=100_000)
        self._client = httpx.AsyncClient(
            transport=SandboxTransport(app),
            base_url="http://sandbox",
            headers={"Authorization": f"Bearer {LOCAL_KEY}"},
        )
        self._model = RuleModel(clock=lambda: NOW)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _records(self, kind: str) -> list[dict[str, Any]]:
        body = (await self._client.get(f"/v1/{kind}")).json()
        return [record for group in body["workspaces"] for record in group[kind]]

    async def workspace(self) -> dict[str, Any]:
        """What the agent tells a model about the workspace, in the same form."""
        channels = [
            {
                "id": c["prefixedChannelId"],
                "name": c["name"],
                "number": c["displayPhoneNumber"],
                "connected": c["isConnected"],
            }
            for c in await self._records("channels")
        ]
        wanted = ("name", "status", "category", "content", "header", "buttons")
        templates = [{key: t[key] for key in wanted if t.get(key)} for t in await self._records("templates")]
        now = NOW.astimezone(ZONE).isoformat(timespec="minutes")
        return {
            "kind": "workspace_data",
            "now": now,
            "timezone": ZONE.key,
            "channels": channels,
            "templates": templates,
        }

    async def play(self, workspace: Mapping[str, Any], text: str) -> Played:
        """A read counts when words follow it; the first call that is no read ends the play."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You are the campaign assistant."},
            {"role": "user", "content": json.dumps(workspace)},
            {"role": "user", "content": text},
        ]
        last: Call | None = None
        for _ in range(STEPS):
            completion = await self._complete(messages)
            if not completion.calls:
                return Played(last, completion.text)
            call = completion.calls[0]
            if not call.name.startswith(("get_", "list_")):
                return Played(call, completion.text)
            last = call
            messages += await self._answer(call)
        return Played(last, "(no end)")

    async def _complete(self, messages: Sequence[Mapping[str, Any]]) -> Completion:
        async for piece in self._model.complete([json.dumps(message).encode() for message in messages]):
            if isinstance(piece, Completion):
                return piece
        raise AssertionError("no completion")

    async def _answer(self, call: Call) -> list[dict[str, Any]]:
        request = parse(call.name, call.arguments, READING).request()
        response = await self._client.request(request.method, request.path, params=dict(request.query or {}))
        content = {"outcome": "done", "result": response.json()}
        function = {"name": call.name, "arguments": call.arguments}
        return [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": call.id, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps(content)},
        ]


def is_look_up(call: Call) -> bool:
    return call.name == "list_campaigns" and json.loads(call.arguments).get("limit") == 200


def judge(case: Mapping[str, Any], played: Played) -> str:
    """One of VERDICTS. A case without a tool is one to ask about: any call but a read is wrong."""
    call = played.call
    if "tool" not in case:
        return "wrong operation" if call and not call.name.startswith(("get_", "list_")) else "right"
    if call is None or (call.name != case["tool"] and call.name.startswith("list_") and is_look_up(call)):
        return "asked"
    if call.name != case["tool"]:
        return "wrong operation"
    try:
        given = parse(call.name, call.arguments, READING).canonical()
    except InvalidCall:
        return "wrong arguments"
    wanted = parse(case["tool"], case["arguments"], READING).canonical()
    return "right" if given == wanted else "wrong arguments"


async def measure(cases: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Played, str]]:
    player = Player()
    try:
        workspace = await player.workspace()
        played = [(case, await player.play(workspace, case["say"])) for case in cases]
    finally:
        await player.aclose()
    return [(case, one, judge(case, one)) for case, one in played]


def table(results: Sequence[tuple[Mapping[str, Any], Played, str]]) -> str:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case, _, verdict in results:
        for row in ((case["lang"], case.get("tool", "(ask)")), (case["lang"], "total"), ("all", "total")):
            counts.setdefault(row, Counter())[verdict] += 1
    lines = [f"{'':4}{'operation':34}" + "".join(f"{verdict:>17}" for verdict in VERDICTS)]
    order = sorted(counts, key=lambda row: (row[0] == "all", row[1] == "total", row))
    for language, operation in order:
        numbers = "".join(f"{counts[language, operation][verdict]:>17}" for verdict in VERDICTS)
        lines.append(f"{language:4}{operation:34}{numbers}")
    return "\n".join(lines)


def failures(results: Sequence[tuple[Mapping[str, Any], Played, str]]) -> str:
    lines = []
    for case, played, verdict in results:
        if verdict != "right":
            call = f"{played.call.name} {played.call.arguments}" if played.call else "-"
            lines += [f"{verdict}: {case['id']}: {case['say']}", f"    {call}", f"    {played.text[:100]!r}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m evals.bench.paraphrases", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("ask_file", type=Path, nargs="?")
    parser.add_argument("--failures", action="store_true", help="show each request that was not right")
    options = parser.parse_args()
    requests = yaml.safe_load(options.file.read_text("utf-8"))
    asks = yaml.safe_load(options.ask_file.read_text("utf-8")) if options.ask_file else []
    results = asyncio.run(measure(requests + asks))
    print(table(results))
    if options.failures:
        print(failures(results))
    right = sum(verdict == "right" for case, _, verdict in results if "tool" in case)
    wrong = sum(verdict == "wrong operation" for _, _, verdict in results)
    asked_for = sum("tool" in case for case, _, _ in results)
    print(f"{right} of {asked_for} right ({right / max(1, asked_for):.1%}); {wrong} wrong operations")
    return 0 if right >= 0.85 * asked_for and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
