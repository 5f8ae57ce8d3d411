"""Recordings: made against a loopback server that speaks chat completions, and replayed with nobody there."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.case import Case
from evals.cassettes import Endpoint, Shelf
from evals.runner import Result, record, replay
from evals.wire import merged
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

    def __init__(self, answers: Sequence[Any], *, packed: bool = False) -> None:
        self.answers, self.seen, self.packed = list(answers), list[dict[str, Any]](), packed
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
            self._write(writer, json.dumps(whole), "application/json")
            return
        stream = "".join(f"data: {one}\n\n" for one in _chunks(message))
        self._write(writer, stream, "text/event-stream")

    def _write(self, writer: asyncio.StreamWriter, text: str, kind: str) -> None:
        headers = {"set_cookie": "session=private", "x_request_id": "req-1", "openai_organization": "somebody"}
        if self.packed:
            headers["content_encoding"] = "gzip"
        body = gzip.compress(text.encode()) if self.packed else text.encode()
        writer.write(http_answer(200, body, kind=kind, **headers))


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
    text = message["content"] or ""
    size = 1 + len(text) // 1_000
    deltas += [{"content": text[start : start + size]} for start in range(0, len(text), size)]
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
    shelf: Shelf,
    answers: Sequence[Any] = tuple(ANSWERS),
    *,
    stream: bool = True,
    packed: bool = False,
    made: Case | None = None,
) -> tuple[Result, Lab]:
    lab = Lab(answers, packed=packed)
    async with lab.server as server:
        endpoint = Endpoint(f"{server.url}/v1", KEY, "lab", stream=stream, how="relay", timeout=20)
        result = await record(made or case(), 1, endpoint, shelf)
    return result, lab


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_replay_is_the_recorded_run_again_with_nobody_there(tmp_path: Path, stream: bool, packed: bool) -> None:
    shelf = Shelf(tmp_path)
    first, lab = await recorded(shelf, stream=stream, packed=packed)
    assert first.status == "passed", first.problems
    assert [bool(body.get("stream")) for body in lab.seen] == [stream] * 4
    again = await replay(case(), 1, shelf)
    assert again.status == "passed", again.problems
    assert again.turns == first.turns
    assert again.tokens == first.tokens == {"prompt_tokens": 3600, "completion_tokens": 80, "cached_tokens": 400}
    assert (again.model, again.how) == ("lab", "relay")


async def test_a_replay_asks_nobody(tmp_path: Path) -> None:
    """pytest refuses every address but loopback; the recorded one is of a name that can't exist."""
    _, lab = await recorded(Shelf(tmp_path))
    await replay(case(), 1, Shelf(tmp_path))
    assert len(lab.seen) == lab.server.connections == 4


async def test_a_recording_reads_well_and_holds_nothing_else(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    await recorded(shelf)
    text = shelf.path("lab/two-turns", 1).read_text("utf-8")
    assert len(text) < 20_000
    assert "¿cuántos hay en la campaña «Encuesta»? ☕" in text
    assert "Son 12 personas… «café» ñ 日本 ☕" in text
    for hidden in (KEY, "127.0.0.1", "localhost", "user-agent", "session=private", "somebody", "req-1", "obfuscation"):
        assert hidden not in text
    data = yaml.safe_load(text)
    second = data["interactions"][1]["request"]["body"]["messages"]
    assert (second["as_before"], [message["role"] for message in second["then"]]) == (3, ["assistant", "tool", "tool"])
    assert second["then"][1]["content"]["json"]["outcome"] == "done"
    calls = data["interactions"][0]["response"]["events"][1]["choices"][0]["delta"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [given for _, given in READS]
    meta = data["metadata"]
    assert (meta["model"], meta["how"], meta["case"], meta["trial"]) == ("lab", "relay", "lab/two-turns", 1)
    names = {path.name for path in (tmp_path / "prompts").iterdir()}
    assert names == {f"{meta['tools']}.json", *(f"{sha}.md" for sha in meta["prompts"])}
    assert shelf.problems({"lab/two-turns": case()}) == []


def edit(shelf: Shelf, change: Any) -> None:
    """The recording, changed as data by a hand or by time."""
    path = shelf.path("lab/two-turns", 1)
    data = yaml.safe_load(path.read_text("utf-8"))
    change(data)
    path.write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), "utf-8")


def _prompt(data: Any) -> None:
    data["metadata"]["prompts"] = ["0" * 64]


def _tools(data: Any) -> None:
    data["metadata"]["tools"] = "0" * 64


def _body_of_prompt(data: Any) -> None:
    data["interactions"][0]["request"]["body"]["messages"]["then"][0]["content"] = "sha256:" + "0" * 64


def _body_of_tools(data: Any) -> None:
    data["interactions"][2]["request"]["body"]["tools"] = "sha256:" + "0" * 64


def _answer_of_a_tool(data: Any) -> None:
    data["interactions"][1]["request"]["body"]["messages"]["then"][1]["content"]["json"]["outcome"] = "failed"


def _one_more(data: Any) -> None:
    data["interactions"].append(data["interactions"][-1])


def _one_less(data: Any) -> None:
    del data["interactions"][-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_prompt, "the system prompt has changed"),
        (_tools, "the tool schemas have changed"),
        (_body_of_prompt, "a request differs"),
        (_body_of_tools, "a request differs"),
        (_answer_of_a_tool, '"outcome'),
        (_one_more, "4 of 5 recorded calls were used"),
        (_one_less, "a request differs"),
    ],
)
async def test_a_recording_of_something_else_is_stale(tmp_path: Path, change: Any, why: str) -> None:
    shelf = Shelf(tmp_path)
    await recorded(shelf)
    edit(shelf, change)
    result = await replay(case(), 1, shelf)
    assert result.status == "stale"
    (line,) = result.problems
    assert line.startswith("stale: lab/two-turns (recording 1): ")
    assert why in line.replace('\\"', '"')
    assert line.endswith("re-record: python -m evals run lab --case lab/two-turns --record")


async def test_a_case_that_says_something_else_is_stale_but_may_expect_something_else(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    await recorded(shelf)
    turns = [{"say": "¿cuántas personas hay en la campaña «Encuesta»?"}, *CASE["turns"][1:]]
    assert "the case has changed" in (await replay(case(turns=turns), 1, shelf)).problems[0]
    expect = {**CASE["expect"], "replies": [{"turn": 1, "says": ["trece"]}]}
    stricter = await replay(case(expect=expect), 1, shelf)
    assert (stricter.status, stricter.problems) == ("failed", ["turn 1: the reply lacks 'trece'"])


@pytest.mark.parametrize("status", [429, 500])
async def test_what_the_endpoint_refused_is_no_recording(tmp_path: Path, status: int) -> None:
    shelf = Shelf(tmp_path)
    await recorded(shelf)
    before = shelf.path("lab/two-turns", 1).read_text("utf-8")
    result, lab = await recorded(shelf, [READS, status])
    assert result.status == "error"
    assert result.problems[0].startswith("not recorded: Model")
    assert len(lab.seen) == 2, "a request that fails is not made again"
    assert shelf.path("lab/two-turns", 1).read_text("utf-8") == before


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("La clave es sk-proj-abcdefgh12345678ijkl", "it holds a key"),
        (f"La clave es {KEY}", "it holds a key"),
        ("Con ghp_abcdefghijklmnopqrstuvwx0123 entras", "it holds a key"),
        ("EAAGm0PX4ZCpsBAKZCabcdefgh1234567890", "it holds a key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN", "it holds a key"),
        ("Llama al +52 55 1234 5678", "+52 55 1234 5678 may be somebody's phone"),
        ("Llama al 55-1234-5678", "55-1234-5678 may be somebody's phone"),
        ("Llama al +52 55 1234 5678, o sea 525512345678", "525512345678 may be somebody's phone"),
        ("Está en /home/ana/clientes.csv", "it names this machine"),
        ("x" * 160_000, "more than 150000"),
    ],
)
async def test_secrets_phones_machines_and_bulk_are_not_kept(tmp_path: Path, said: str, why: str) -> None:
    result, _ = await recorded(Shelf(tmp_path), [said, *ANSWERS[1:]])
    assert result.status == "error"
    assert why in result.problems[0]
    assert list(tmp_path.rglob("*.yaml")) == []


async def test_files_that_belong_to_nothing_are_told(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    await recorded(shelf)
    (tmp_path / "prompts" / f"{'0' * 64}.md").write_text("An older prompt.", "utf-8")
    edit(shelf, lambda data: data["metadata"].pop("how"))
    assert shelf.problems({}) == [
        "lab/two-turns.yaml: there is no such case",
        "lab/two-turns.yaml: no how",
        f"prompts/{'0' * 64}.md: no recording uses it",
        f"prompts/{'0' * 64}.md: it isn't the text of that hash",
    ]


async def test_a_stream_of_another_shape_is_kept_as_it_came(tmp_path: Path) -> None:
    """Two choices in one chunk, or a call without an index, can't be merged without losing something."""
    call = {"id": "a", "function": {"name": "list_campaigns", "arguments": "{}"}}
    odd: list[Any] = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        "[DONE]",
    ]
    assert merged(odd) == odd
    usual = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in "abc"]
    assert len(merged([*usual, "[DONE]"])) == 3


async def test_trials_are_numbered_files(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("two-turns.yaml", "two-turns.3.yaml", "two-turns-and-more.yaml", "two-turns.x.yaml"):
        (tmp_path / "lab").mkdir(exist_ok=True)
        (tmp_path / "lab" / name).write_text("", "utf-8")
    assert shelf.trials(case()) == [1, 3]
