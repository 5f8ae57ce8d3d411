"""Recordings: made against a loopback server that speaks chat completions, and replayed with nobody there."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.case import Case
from evals.cassettes import Endpoint, Shelf
from evals.runner import Result, record, replay
from tests.support import Loopback, Served, http_answer

KEY = "none-of-yours-1234"
CASE: dict[str, Any] = {
    "id": "lab/two-turns",
    "suite": "lab",
    "language": "es",
    "note": "A case of the tests alone, with reads in parallel and a card.",
    "turns": [
        {"say": "¿cuántos hay en la campaña «Encuesta»? ☕"},
        {"say": "quita a Gabriela Ortiz, 55 0010 0011"},
        {"decide": "approve", "tool": "remove_campaign_audience_client"},
    ],
    "expect": {
        "sends": 0,
        "calls": [
            {
                "tool": "remove_campaign_audience_client",
                "turn": 2,
                "arguments": {"campaignId": "cmpEncuestaSatisfac1", "phoneNumber": "+525500100011"},
                "ends": "done",
            }
        ],
        "state": {"audience": {"cmpEncuestaSatisfac1": {"removed": ["525500100011"]}}},
        "replies": [{"turn": 1, "says": ["12"]}, {"turn": 3, "says": ["quit"]}],
    },
    "solution": [{"reply": "nothing"}],
}
READS = [
    ("get_campaign", {"campaignId": "cmpEncuestaSatisfac1"}),
    ("get_campaign_audience", {"campaignId": "cmpEncuestaSatisfac1"}),
]
REMOVE = [("remove_campaign_audience_client", {"campaignId": "cmpEncuestaSatisfac1", "phoneNumber": "+525500100011"})]
ANSWERS: list[Any] = [READS, "Son 12 personas… «café» ñ 日本 ☕", REMOVE, "Listo, se quitó a 1 persona."]


def case(**changes: Any) -> Case:
    return Case.model_validate({**CASE, **changes})


class Lab:
    """A model's endpoint: answers in order, whole or streamed as asked; `seen` are the requests' bodies."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers, self.seen = list(answers), list[dict[str, Any]]()
        self.server = Loopback(self._behave)

    async def _behave(self, request: Served, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body)
        self.seen.append(body)
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            writer.write(http_answer(answer, {"error": {"message": "no"}}))
            return
        message = _message(answer, len(self.seen))
        if not body.get("stream"):
            whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "lab", "usage": _USAGE}
            finish = "tool_calls" if message.get("tool_calls") else "stop"
            whole["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
            writer.write(http_answer(200, whole, set_cookie="session=private", x_request_id="req-1"))
            return
        stream = "".join(f"data: {one}\n\n" for one in _chunks(message))
        writer.write(http_answer(200, stream, kind="text/event-stream", openai_organization="somebody"))


_USAGE = {"prompt_tokens": 900, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 100}}


def _message(answer: Any, number: int) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    calls = [
        {"id": f"call_{number}_{at}", "type": "function", "function": {"name": tool, "arguments": json.dumps(given)}}
        for at, (tool, given) in enumerate(answer)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _chunks(message: dict[str, Any]) -> list[str]:
    """One delta for every few characters, as endpoints send them."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text} for text in message["content"] or ""]
    for at, call in enumerate(message.get("tool_calls") or []):
        whole = call["function"]["arguments"]
        deltas.append({"tool_calls": [{**call, "index": at, "function": {**call["function"], "arguments": ""}}]})
        pieces = [whole[start : start + 7] for start in range(0, len(whole), 7)]
        deltas += [{"tool_calls": [{"index": at, "function": {"arguments": piece}}]} for piece in pieces]
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "lab", "obfuscation": "xx"}
    events: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events.append({**head, "choices": [], "usage": _USAGE})
    return [*(json.dumps(event, ensure_ascii=False) for event in events), "[DONE]"]


async def recorded(
    shelf: Shelf, answers: Sequence[Any] = tuple(ANSWERS), *, stream: bool = True, made: Case | None = None
) -> tuple[Result, Lab]:
    lab = Lab(answers)
    async with lab.server as server:
        endpoint = Endpoint(f"{server.url}/v1", KEY, "lab", stream=stream, how="relay", timeout=20)
        result = await record(made or case(), 1, endpoint, shelf)
    return result, lab


@pytest.mark.parametrize("stream", [True, False])
async def test_a_replay_is_the_recorded_run_again_with_nobody_there(tmp_path: Path, stream: bool) -> None:
    shelf = Shelf(tmp_path)
    first, lab = await recorded(shelf, stream=stream)
    assert first.status == "passed", first.problems
    assert [bool(body.get("stream")) for body in lab.seen] == [stream] * 4
    again = await replay(case(), 1, shelf)
    assert again.status == "passed", again.problems
    assert again.turns == first.turns
    assert again.tokens == first.tokens == {"prompt_tokens": 3600, "completion_tokens": 80, "cached_tokens": 400}
    assert (again.model, again.how) == ("lab", "relay")
