"""Every fault of the model's endpoint, in the middle of a call and of a text: what is half read never runs."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli import build
from agent.events import AgentEvent, Failed, Reply
from agent.loop import Agent
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Store
from tests.faults import FAULTS, MODEL_FAULTS, Endpoint, ModelFault, Rig, all_of, called, make_blank, said
from tests.support import BUEN_FIN, assert_every_call_is_answered_once, results, settings

TABLE = """
                                 |                 streamed                |             plain
fault                            | in the call        | in the text        | in the call   | in the text
---------------------------------+--------------------+--------------------+---------------+--------------
nothing                          | reply 1            | reply 1            | reply 1       | reply 1
refused                          | unreachable 0      | unreachable 0      | unreachable 0 | unreachable 0
reset on accept                  | reply 2            | reply 2            | reply 2       | reply 2
reset on accept for ever         | unreachable 2      | unreachable 2      | unreachable 2 | unreachable 2
closed on accept                 | reply 2            | reply 2            | -             | -
reset after the head             | reply 2            | reply 2            | -             | -
reset after the request          | reply 2            | reply 2            | reply 2       | reply 2
reset after the request for ever | unreachable 2      | unreachable 2      | unreachable 2 | unreachable 2
closed without an answer         | reply 2            | reply 2            | reply 2       | reply 2
silence                          | reply 2            | reply 2            | -             | -
silence for ever                 | unreachable 2      | unreachable 2      | unreachable 2 | unreachable 2
head, then silence               | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
half, then silence               | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
a head without an end            | unreachable 1      | unreachable 1      | unreachable 1 | unreachable 1
drip beyond the deadline         | unreachable 1      | unreachable 1      | unreachable 1 | unreachable 1
comments for ever                | unreachable 1      | unreachable 1      | -             | -
text for ever                    | unreachable 1      | unreachable 1      | unreachable 1 | unreachable 1
arguments for ever               | unreachable 1      | unreachable 1      | -             | -
half, then closed                | broken 1           | broken 1           | broken 1      | broken 1
half of what was declared        | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
half of a chunk                  | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
chunks without an end            | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
the first event alone            | broken 1           | broken 1           | -             | -
no finish and no end             | broken 1           | broken 1           | -             | -
no finish                        | reply 1            | reply 1            | -             | -
no end                           | reply 1            | reply 1            | -             | -
no end, then silence             | unreachable 1      | unreachable 1      | -             | -
an error in the stream           | broken 1           | broken 1           | -             | -
too long, in the stream          | context_too_long 1 | context_too_long 1 | -             | -
every event twice                | invalid 1          | reply 1            | -             | -
the first event twice            | reply 1            | reply 1            | -             | -
an event without choices         | reply 1            | reply 1            | -             | -
an event of null                 | reply 1            | reply 1            | -             | -
an event of broken JSON          | broken 1           | broken 1           | -             | -
an event of bad UTF-8            | broken 1           | broken 1           | -             | -
an event that is a list          | broken 1           | broken 1           | -             | -
no choices                       | broken 1           | broken 1           | broken 1      | broken 1
choices null                     | broken 1           | broken 1           | broken 1      | broken 1
a choice null                    | broken 1           | broken 1           | broken 1      | broken 1
a message null                   | empty 1            | empty 1            | empty 1       | empty 1
200 HTML                         | broken 1           | broken 1           | broken 1      | broken 1
200 broken JSON                  | broken 1           | broken 1           | broken 1      | broken 1
200 and nothing                  | broken 1           | broken 1           | broken 1      | broken 1
200 null                         | broken 1           | broken 1           | broken 1      | broken 1
200 a list                       | broken 1           | broken 1           | broken 1      | broken 1
200 nested too deeply            | broken 1           | broken 1           | broken 1      | broken 1
200 an error                     | broken 1           | broken 1           | broken 1      | broken 1
204                              | broken 1           | broken 1           | -             | -
garbage bytes                    | unreachable 1      | unreachable 1      | unreachable 1 | unreachable 1
a NUL in a header                | unreachable 1      | unreachable 1      | -             | -
two lengths                      | unreachable 1      | unreachable 1      | -             | -
garbage as gzip                  | unreachable 1      | unreachable 1      | unreachable 2 | unreachable 2
301                              | rejected 1         | rejected 1         | -             | -
302                              | rejected 1         | rejected 1         | rejected 1    | rejected 1
307                              | rejected 1         | rejected 1         | rejected 1    | rejected 1
308                              | rejected 1         | rejected 1         | -             | -
400                              | rejected 1         | rejected 1         | rejected 1    | rejected 1
401                              | key_rejected 1     | key_rejected 1     | -             | -
403                              | key_rejected 1     | key_rejected 1     | -             | -
404                              | not_found 1        | not_found 1        | -             | -
422                              | rejected 1         | rejected 1         | -             | -
400 too long                     | context_too_long 1 | context_too_long 1 | -             | -
404 HTML                         | not_found 1        | not_found 1        | -             | -
408 once                         | reply 2            | reply 2            | -             | -
409 for ever                     | rejected 2         | rejected 2         | -             | -
429 once                         | reply 2            | reply 2            | reply 2       | reply 2
429 for ever                     | rate_limited 2     | rate_limited 2     | -             | -
429 for an hour                  | rate_limited 1     | rate_limited 1     | -             | -
429 HTML                         | rate_limited 2     | rate_limited 2     | -             | -
429, not to be retried           | rate_limited 1     | rate_limited 1     | -             | -
500 once                         | reply 2            | reply 2            | reply 2       | reply 2
503 once                         | reply 2            | reply 2            | -             | -
502 HTML once                    | reply 2            | reply 2            | -             | -
500 for ever                     | unreachable 2      | unreachable 2      | unreachable 2 | unreachable 2
502 HTML for ever                | unreachable 2      | unreachable 2      | -             | -
103, then the answer             | reply 1            | reply 1            | reply 1       | reply 1
gzip                             | reply 1            | reply 1            | reply 1       | reply 1
chunks                           | reply 1            | reply 1            | reply 1       | reply 1
no length                        | reply 1            | reply 1            | reply 1       | reply 1
"""

KEY = "sk-invented-0123456789"
RETRIES = 1
"""How often the SDK tries again what it may."""
ADD = {"campaignId": BUEN_FIN, "clients": [{"phoneNumber": "+525500100901", "name": "Ana Morales"}]}
IN_CALL, IN_TEXT = 0, 1
"""Which of the model's answers meets the fault: the first, which calls, or the second, which tells the outcome."""


@dataclass(frozen=True)
class Cell:
    """How the turn ends, and how many requests the endpoint gets for the answer in question.

    It ends with the error of that name, or with a reply: `invalid` where the model was told that its call was, `empty`
    where it said nothing.
    """

    kind: str
    requests: int
    at: int
    streamed: bool

    @property
    def code(self) -> str | None:
        """Of the error, if it is one."""
        return None if self.kind in ("reply", "empty", "invalid") else f"model_{self.kind}"

    @property
    def name(self) -> str:
        return f"{'stream' if self.streamed else 'plain'}-{'call' if self.at == IN_CALL else 'text'}"


def cells() -> dict[str, list[Cell]]:
    _, _, _, *lines = TABLE.strip("\n").splitlines()
    places = [(IN_CALL, True), (IN_TEXT, True), (IN_CALL, False), (IN_TEXT, False)]
    found: dict[str, list[Cell]] = {}
    for line in lines:
        fault, *texts = (text.strip() for text in line.split("|"))
        pairs = [(text.split(), place) for text, place in zip(texts, places, strict=True) if text != "-"]
        found[fault] = [Cell(kind, int(count), *place) for (kind, count), place in pairs]
    return found


CELLS = cells()


def test_every_fault_has_its_row() -> None:
    assert sorted(CELLS) == sorted(MODEL_FAULTS)


@dataclass
class Scene:
    """An agent as the command line builds it, between a faulty model and a sandbox, both on sockets."""

    agent: Agent
    endpoint: Endpoint
    store: Store
    streamed: bool

    async def say(self, text: str, *script: bytes) -> list[AgentEvent]:
        self.endpoint.script = list(script)
        return [event async for event in self.agent.advance("s", text)]

    def call(self) -> bytes:
        return called("add_campaign_audience", ADD, streamed=self.streamed)

    def said(self, text: str) -> bytes:
        return said(text, streamed=self.streamed)

    def added(self) -> int:
        """How often the sandbox has carried out the call; nothing else may ever change anything."""
        return sum(each["acted"] for each in self.store.requests())

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the endpoint was sent it last."""
        messages: list[dict[str, Any]] = json.loads(self.endpoint.seen[-1].body)["messages"]
        return messages


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blank")
    asyncio.run(make_blank(folder))
    return folder


@asynccontextmanager
async def scene(fault: ModelFault, cell: Cell, blank: Path, folder: Path) -> AsyncIterator[Scene]:
    shutil.copytree(blank, folder)
    app = create_app(folder / "sandbox.db", rate_limit=100_000)
    async with Endpoint(fault, cell.at) as endpoint, Rig(SandboxTransport(app), FAULTS["nothing"], "", "") as api:
        chosen = settings(
            platica_api_key=LOCAL_KEY,
            platica_base_url=api.url,
            openai_api_key=KEY,
            openai_base_url=endpoint.url + "/v1",
            model_timeout=fault.timeout,
            model_retries=RETRIES,
            stream=cell.streamed,
            state_dir=folder,
        )
        agent = build(chosen)
        try:
            yield Scene(agent, endpoint, app.state.store, cell.streamed)
        finally:
            await agent.aclose()
            app.state.store.close()


async def try_one(fault: str, cell: Cell, blank: Path, folder: Path) -> None:
    """A turn with the fault, and another one when it has passed."""
    async with scene(MODEL_FAULTS[fault], cell, blank, folder) as it:
        events = await it.say("add Ana", it.call(), it.said("Ana is in."))
        assert it.endpoint.reached == cell.requests
        check_the_end(events, cell)
        ran = cell.at == IN_TEXT or cell.kind == "reply"
        expected = ["done"] if ran else ["invalid"] if cell.kind == "invalid" else []
        assert [each.outcome for each in results(events)] == expected
        assert it.added() == int(ran), "half a call ran, or one ran twice"
        assert await it.agent.journal.read(lambda tx: tx.owner("s")) is None, "the conversation isn't free"
        await it.endpoint.recover()
        after = await it.say("and now?", *([] if ran else [it.call()]), it.said("All is well."))
        assert isinstance(after[-1], Reply)
        assert after[-1].text == "All is well."
        assert it.added() == 1
        check_the_history(it.messages(), cell)
        assert {each.target for each in it.endpoint.seen} <= {"/v1/chat/completions"}


def check_the_end(events: Sequence[AgentEvent], cell: Cell) -> None:
    """The last event is the named error in words, or a reply."""
    last = events[-1]
    assert not [event for event in events[:-1] if isinstance(event, (Failed, Reply))]
    if cell.code is not None:
        assert isinstance(last, Failed), last
        assert last.code == cell.code
        assert last.message
        assert last.hint
        assert KEY not in last.message
        return
    assert isinstance(last, Reply), last
    if cell.kind == "empty":
        assert "empty answer" in last.text
    elif cell.at == IN_CALL:
        assert last.text == "Ana is in."


def check_the_history(messages: Sequence[dict[str, Any]], cell: Cell) -> None:
    """Every call has its one answer, what ran is there, and of an answer that broke nothing was kept."""
    assert_every_call_is_answered_once(messages)
    outcomes = [json.loads(each["content"])["outcome"] for each in messages if each["role"] == "tool"]
    assert outcomes == ([cell.kind, "done"] if cell.kind == "invalid" else ["done"])
    spoken = [each for each in messages if each["role"] == "assistant" and not each.get("tool_calls")]
    assert len(spoken) == (1 if cell.code is None else 0)


@pytest.mark.parametrize("fault", CELLS)
async def test_a_fault_of_the_model_has_a_name_and_no_effect(fault: str, blank: Path, tmp_path: Path) -> None:
    work: dict[str, Awaitable[None]] = {
        cell.name: try_one(fault, cell, blank, tmp_path / cell.name) for cell in CELLS[fault]
    }
    await all_of(work)
