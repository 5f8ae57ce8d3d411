"""Design section 5, row by row: every fault of the HTTP edge against every operation, over real sockets."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from agent.cli import _wire, build
from agent.domain import Risk
from agent.events import AgentEvent, Reply, ToolResult
from agent.journal import Attempt, Journal
from agent.loop import Agent
from agent.operations import OPERATIONS, Operation, Reading, parse
from agent.platica import Platica, Wire
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from agent.sandbox.store import Store
from agent.settings import Settings
from tests.faults import (
    ELSEWHERE,
    EVER,
    FAULTS,
    Endpoint,
    Fault,
    Hit,
    KeepingRig,
    ModelFault,
    Rig,
    all_of,
    called,
    error,
    make_blank,
    said,
)
from tests.support import (
    AVISO,
    BIENVENIDA,
    BUEN_FIN,
    CITA,
    ENCUESTA,
    PROMO,
    ScriptedModel,
    assert_every_call_is_answered_once,
    card,
    cards,
    failure,
    http_answer,
    results,
    settings,
)

DESIGN_5 = """
fault                            | acted? | error            | read       | write     | destructive | send
---------------------------------+--------+------------------+------------+-----------+-------------+----------
nothing                          | yes    |                  | done 1     | done 1    | done 1      | done 1
refused once                     | no     |                  | done 1     | done 1    | done 1      | done 1
refused for ever                 | no     | api_unreachable  | failed 0   | failed 0  | failed 0    | failed 0
connect timeout once             | no     |                  | done 1     | done 1    | done 1      | done 1
connect timeout for ever         | no     | api_unreachable  | failed 0   | failed 0  | failed 0    | failed 0
connecting beyond the deadline   | no     | api_unreachable  | failed 0   | failed 0  | failed 0    | failed 0
pool timeout once                | no     |                  | done 1     | done 1    | done 1      | done 1
pool timeout for ever            | no     | api_unreachable  | failed 0   | failed 0  | failed 0    | failed 0
429 for a second                 | no     |                  | done 2     | done 2    | done 2      | done 2
429 until a date                 | no     |                  | done 2     | done 2    | done 2      | done 2
429 and a reset in seconds       | no     |                  | done 2     | done 2    | done 2      | done 2
429 and a reset at a time        | no     |                  | done 2     | done 2    | done 2      | done 2
429 for ever                     | no     | api_rate_limited | failed 3   | failed 3  | failed 3    | failed 3
429 for an hour                  | no     | api_rate_limited | failed 1   | failed 1  | failed 1    | failed 1
400 documented                   | no     | api_refused      | failed 1   | failed 1  | failed 1    | failed 1
401 documented                   | no     | api_key_rejected | failed 1   | failed 1  | failed 1    | failed 1
403 documented                   | no     | api_forbidden    | failed 1   | failed 1  | failed 1    | failed 1
404 documented                   | no     | api_not_found    | failed 1   | failed 1  | failed 1    | failed 1
422 documented                   | no     | api_refused      | failed 1   | failed 1  | failed 1    | failed 1
reset on accept                  | maybe  |                  | done 2-3   | unknown 1 | unknown 1   | unknown 1
reset on accept for ever         | maybe  | api_uncertain    | failed 3-6 | unknown 1 | unknown 1   | unknown 1
closed on accept                 | maybe  |                  | done 2-3   | unknown 1 | unknown 1   | unknown 1
reset after the head             | maybe  |                  | done 2-3   | unknown 1 | unknown 1   | unknown 1
reset after the request          | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
closed without an answer         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
read timeout                     | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
silence beyond the deadline      | maybe  | api_uncertain    | failed 1   | unknown 1 | unknown 1   | unknown 1
drip beyond the deadline         | maybe  | api_uncertain    | failed 1   | unknown 1 | unknown 1   | unknown 1
dripped body beyond the deadline | maybe  | api_uncertain    | failed 1   | unknown 1 | unknown 1   | unknown 1
head, then silence               | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
early hints, then silence        | maybe  | api_uncertain    | failed 1   | unknown 1 | unknown 1   | unknown 1
reset in the body                | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
truncated body                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
truncated head                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
truncated chunk                  | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
chunks without an end            | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
more declared than sent          | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
less declared than sent          | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
garbage bytes                    | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a status line of words           | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a header without a colon         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a NUL in a header                | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a space in a header's name       | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
an endless head                  | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
two lengths                      | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a negative length                | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
garbage as gzip                  | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
cut gzip                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
a bad chunk size                 | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 broken JSON                  | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 HTML for ever                | maybe  | api_uncertain    | failed 3   | unknown 1 | unknown 1   | unknown 1
200 and nothing                  | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 null                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 a list                       | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 nested too deeply            | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 without success              | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 status error                 | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
200 an error body                | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
204                              | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
202 pending                      | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
301                              | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
302                              | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
307                              | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
400 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
401 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
403 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
404 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
422 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
404 with another code            | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
422 without an error             | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
400 with a code in words         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
405 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
408 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
409 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
418 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
429 documented without a wait    | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
429 HTML with a wait             | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
429 with another code            | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
500 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
503 documented                   | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
500 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
502 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
503 HTML                         | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
500 for ever                     | maybe  | api_uncertain    | failed 3   | unknown 1 | unknown 1   | unknown 1
503 documented with a wait       | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
503 documented with limits       | maybe  |                  | done 2     | unknown 1 | unknown 1   | unknown 1
100, then the answer             | yes    |                  | done 1     | done 1    | done 1      | done 1
103, then the answer             | yes    |                  | done 1     | done 1    | done 1      | done 1
the same length twice            | yes    |                  | done 1-2   | done 1    | done 1      | done 1
more than declared               | yes    |                  | done 1-2   | done 1    | done 1      | done 1
gzip                             | yes    |                  | done 1     | done 1    | done 1      | done 1
chunks                           | yes    |                  | done 1     | done 1    | done 1      | done 1
Latin-1 in a header              | yes    |                  | done 1     | done 1    | done 1      | done 1
HTML by name                     | yes    |                  | done 1     | done 1    | done 1      | done 1
200                              | yes    |                  | done 1     | done 1    | done 1      | done 1
201                              | yes    |                  | done 1     | done 1    | done 1      | done 1
"""


@dataclass(frozen=True)
class End:
    """How a call ends, and how many requests of it the server sees."""

    kind: str
    least: int
    most: int


@dataclass(frozen=True)
class Row:
    """`acted`: whether the server may have done what it was asked. A risk without an end can't meet the fault."""

    fault: str
    acted: str
    error: str
    ends: Mapping[Risk, End]


def end(cell: str) -> End:
    """`done 1`, or `done 1-2` where a client may repeat a read by itself."""
    kind, _, count = cell.partition(" ")
    least, _, most = count.partition("-")
    return End(kind, int(least), int(most or least))


def rows() -> dict[str, Row]:
    _, _, *lines = DESIGN_5.strip().splitlines()
    found: dict[str, Row] = {}
    for line in lines:
        fault, acted, error, *cells = (cell.strip() for cell in line.split("|"))
        ends = {risk: end(cell) for risk, cell in zip(Risk, cells, strict=True) if cell != "-"}
        found[fault] = Row(fault, acted, error, ends)
    return found


TABLE = rows()


def test_the_table_keeps_the_rules_of_the_design() -> None:
    assert list(Risk) == [Risk.READ, Risk.WRITE, Risk.DESTRUCTIVE, Risk.SEND]
    assert sorted(TABLE) == sorted(FAULTS)
    for row in TABLE.values():
        (change,) = {row.ends[risk] for risk in Risk if risk is not Risk.READ}
        read = row.ends.get(Risk.READ, change)
        assert change.least == change.most, f"only reads may be repeated by whoever doesn't know them: {row}"
        assert row.acted in ("no", "yes", "maybe"), row
        assert (row.acted == "maybe") == (change.kind == "unknown"), row
        assert (row.acted == "yes") == (change.kind == "done" and change.most == 1 and FAULTS[row.fault].acts), row
        if row.acted == "maybe":
            assert change.most == 1, f"what may have acted is never asked for again: {row}"
            assert read.kind == "failed" or read.least >= 2, f"a read is tried again: {row}"
        else:
            assert (read.kind, read.least) == (change.kind, change.least), row
        assert bool(row.error) == ("failed" in (read.kind, change.kind)), row


# One call of each operation, on things of its own.

CALLS: Mapping[str, Mapping[str, Any]] = {
    "list_campaigns": {"limit": 2},
    "get_campaign": {"campaignId": PROMO},
    "get_campaign_audience": {"campaignId": CITA, "limit": 2},
    "create_campaign": {"title": "Café de otoño", "category": "marketing"},
    "update_campaign": {"campaignId": PROMO, "title": "Promo de otoño"},
    "add_campaign_audience": {
        "campaignId": BUEN_FIN,
        "clients": [{"phoneNumber": "+525500100901", "name": "Ana Morales"}],
    },
    "delete_campaign": {"campaignId": AVISO},
    "remove_campaign_audience_client": {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"},
    "clear_campaign_audience": {"campaignId": BIENVENIDA},
    "send_campaign": {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["equipo", "el viernes"]}},
}
SENT_TO = 35
"""People in the audience that the send goes to, as the sandbox is seeded."""


def parsed(tool: str) -> Operation:
    return parse(tool, CALLS[tool], Reading(datetime.now(UTC), ZoneInfo("UTC")))


def test_every_operation_has_a_call() -> None:
    assert set(CALLS) == {operation.tool() for operation in OPERATIONS}


def effects(store: Store, tool: str) -> Any:
    """What the call of `tool` changes, read from the sandbox's own state."""

    def audience(campaign: str) -> list[str]:
        found = store.recipients("ws_norte", campaign, problematic=True, undeliverable=True)
        return [client["phone"] for client in found]

    match tool:
        case "create_campaign":
            return store.title_taken("ws_norte", "Café de otoño")
        case "update_campaign":
            return (store.campaign("ws_norte", PROMO) or {})["title"]
        case "add_campaign_audience":
            return audience(BUEN_FIN)
        case "delete_campaign":
            return store.campaign("ws_norte", AVISO) is None
        case "remove_campaign_audience_client":
            return "525500100011" not in audience(ENCUESTA)
        case "clear_campaign_audience":
            return audience(BIENVENIDA)
        case "send_campaign":
            return len(store.outbox())
    return None


DONE = {
    "create_campaign": True,
    "update_campaign": "Promo de otoño",
    "add_campaign_audience": ["525500100901"],
    "delete_campaign": True,
    "remove_campaign_audience_client": True,
    "clear_campaign_audience": [],
    "send_campaign": SENT_TO,
}
"""The effects of each call, once it was carried out, and only once."""


# An agent whose API is behind a rig.


class Door:
    """The product's own wire to the API, where the rig hears of a request right before it leaves."""

    def __init__(self, rig: Rig, wire: Wire, timeouts: Mapping[str, float]) -> None:
        self.rig, self.wire, self.base_url = rig, wire, wire.base_url
        self.timeout = httpx.Timeout(**{**wire.timeout.as_dict(), **timeouts})

    async def send(self, request: httpx.Request, *, follow_redirects: bool = False) -> httpx.Response:
        async with self.rig.before(request, self.wire):
            return await self.wire.send(request, follow_redirects=follow_redirects)

    async def aclose(self) -> None:
        await self.wire.aclose()


async def briskly(seconds: float) -> None:
    """The pauses between reads are shortened; what a server asked for is waited for."""
    await asyncio.sleep(seconds if seconds >= 1 else seconds / 10)


@dataclass
class Bench:
    """One sandbox and one journal; each operation gets a rig and an agent of its own."""

    fault: Fault
    settings: Settings
    journal: Journal
    store: Store
    api: SandboxTransport
    open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def made(self, tool: str, *, at: tuple[str, str] | None = None) -> "Trial":
        """The fault is done to the request of `tool` itself, or to the one named by `at`."""
        request = parsed(tool).request()
        return await self.behind(tool, Rig(self.api, self.fault, *(at or (request.method, request.path))))

    async def behind(self, tool: str, rig: Rig) -> "Trial":
        await self.open.enter_async_context(rig)
        chosen = self.settings.model_copy(update={"platica_base_url": rig.url})
        door = Door(rig, _wire(chosen), self.fault.timeouts)
        self.open.push_async_callback(door.aclose)
        platica = Platica(door, key=LOCAL_KEY, deadline=chosen.request_deadline, requests_per_second=1e6, sleep=briskly)
        model = ScriptedModel()
        agent = Agent(chosen, model=model, platica=platica, journal=self.journal, locale="en")
        return Trial(tool, rig, agent, model, self.store)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blank")
    asyncio.run(make_blank(folder))
    return folder


@asynccontextmanager
async def bench(fault: Fault, blank: Path, folder: Path) -> AsyncIterator[Bench]:
    shutil.copytree(blank, folder / "state")
    chosen = settings(platica_api_key=LOCAL_KEY, request_deadline=fault.deadline)
    app = create_app(folder / "state" / "sandbox.db", rate_limit=100_000)
    journal = Journal(f"sqlite:///{folder / 'state' / 'journal.db'}")
    made = Bench(fault, chosen, journal, app.state.store, SandboxTransport(app))
    async with made.open:
        made.open.push_async_callback(journal.aclose)
        made.open.callback(made.store.close)
        yield made


# A call, from the model's words to everything that is left of it.


@dataclass
class Trial:
    """One call of one operation under one fault."""

    tool: str
    rig: Rig
    agent: Agent
    model: ScriptedModel
    store: Store
    approval: str = ""

    @property
    def risk(self) -> Risk:
        return parsed(self.tool).risk

    async def say(self, text: str, *script: Any) -> list[AgentEvent]:
        self.model.script = list(script)
        return [event async for event in self.agent.advance(self.tool, text)]

    async def decide(self, title: str | None) -> list[AgentEvent]:
        return [event async for event in self.agent.decide(self.approval, "approve", confirm=title)]

    async def call(self, *rest: Any) -> list[AgentEvent]:
        """The model makes the call, and a person approves what needs it; `rest` is what the model does after it."""
        events = await self.say("do it", [(self.tool, CALLS[self.tool])], *rest)
        if not self.risk.gated:
            return events
        assert results(events) == []
        asked = card(events)
        self.approval = asked.id
        return await self.decide(asked.preview["facts"]["campaign"]["title"])

    async def attempts(self) -> list[Attempt]:
        return await self.agent.journal.read(lambda tx: tx.attempts(conversation=self.tool))

    def acted(self) -> int:
        """How often the sandbox carried it out."""
        return sum(each["acted"] for each in self.store.requests() if self.rig.target == (each["method"], each["path"]))


async def try_one(trial: Trial, row: Row) -> None:
    """A row of the table for one operation, with all that has to be true afterwards."""
    end = row.ends[trial.risk]
    kind = end.kind
    before = effects(trial.store, trial.tool)
    again: Sequence[Any] = [[(trial.tool, CALLS[trial.tool])]] if kind == "unknown" else []
    events = await trial.call(*again, "That is how it ended.")
    answered = results(events)
    assert [each.outcome for each in answered] == [kind, *(["refused"] if again else [])], answered
    assert end.least <= trial.rig.reached <= end.most
    assert isinstance(events[-1], Reply)
    assert cards(events) == []
    check_what_was_told(trial, row, answered, kind)
    check_the_sandbox(trial, kind, before)
    await check_the_record(trial, kind)
    await check_what_comes_next(trial)


def check_what_was_told(trial: Trial, row: Row, answered: Sequence[ToolResult], kind: str) -> None:
    """The person gets a line that code made, the model one answer; both say what is so."""
    first = answered[0]
    if kind == "failed":
        assert first.content["error"] == row.error
        assert first.line.startswith(("Not done", "Not sent"))
    elif kind == "unknown":
        assert first.line.lower().startswith("unknown whether")
        assert "won't be tried again by itself" in first.line
        assert "heck" in first.line, "it says what to check"
    else:
        assert bool(first.line) == (trial.risk is not Risk.READ)
    assert LOCAL_KEY not in first.line
    shown = [message for message in trial.model.seen[1] if message["role"] == "tool"]
    assert len(shown) == 1
    told = trial.model.answers()[first.id]
    assert told["outcome"] == kind
    assert first.line == told.get("fact" if kind == "done" else "message", "")


def check_the_sandbox(trial: Trial, kind: str, before: Any) -> None:
    """Done is once, failed is never, unknown is at most once: as often as this fault lets the server act."""
    if trial.risk is Risk.READ:
        return
    acted = {"done": 1, "failed": 0, "unknown": int(trial.rig.fault.acts)}[kind]
    assert trial.acted() == acted
    assert effects(trial.store, trial.tool) == (DONE[trial.tool] if acted else before)
    assert before != DONE[trial.tool]


async def check_the_record(trial: Trial, kind: str) -> None:
    attempts = await trial.attempts()
    assert await trial.agent.journal.read(lambda tx: tx.owner(trial.tool)) is None, "the conversation isn't free"
    if trial.risk is Risk.READ:
        assert attempts == []
        return
    (attempt,) = attempts
    assert attempt.state == kind
    assert attempt.outcome is not None
    assert attempt.outcome["kind"] == kind
    free = await trial.agent.journal.write(lambda tx: tx.lock(attempt.target, "somebody else", 0.0))
    assert free, "the campaign is locked for good"
    if trial.risk.gated:
        approval = await trial.agent.journal.read(lambda tx: tx.approval(trial.approval))
        assert approval is not None
        assert approval.state == kind


async def check_what_comes_next(trial: Trial) -> None:
    """The approval is used up, the conversation goes on, and neither asks the API for the same thing again."""
    before = trial.rig.reached
    if trial.risk.gated:
        assert failure(await trial.decide(None)).code == "approval_used"
    after = await trial.say("and now?", "All is told.")
    assert isinstance(after[-1], Reply)
    assert after[-1].text == "All is told."
    assert_every_call_is_answered_once(trial.model.seen[-1])
    assert trial.rig.reached == before
    assert [each.target for each in trial.rig.seen if each.target.startswith(ELSEWHERE)] == []


@pytest.mark.parametrize("fault", TABLE)
async def test_a_fault_ends_as_the_design_says(fault: str, blank: Path, tmp_path: Path) -> None:
    async with bench(FAULTS[fault], blank, tmp_path) as made:
        trials = {tool: await made.made(tool) for tool in CALLS if parsed(tool).risk in TABLE[fault].ends}
        await all_of({tool: try_one(trial, TABLE[fault]) for tool, trial in trials.items()})
        acted = sum(each["acted"] for each in made.store.requests())
        assert acted == sum(trial.acted() for trial in trials.values()), "something else was changed"


# Faults elsewhere than in the request itself.

GATED = [tool for tool in CALLS if parsed(tool).risk.gated]
BLIND = {
    "refused for ever": "api_unreachable",
    "reset on accept for ever": "api_uncertain",
    "200 HTML for ever": "api_uncertain",
    "500 for ever": "api_uncertain",
    "429 for an hour": "api_rate_limited",
    "401 documented": "api_key_rejected",
}
"""Faults that leave a campaign unread, and what they are called."""


def campaign_of(tool: str) -> tuple[str, str]:
    return "GET", f"/v1/campaigns/{CALLS[tool]['campaignId']}"


async def check_nothing_ran(trial: Trial, events: Sequence[AgentEvent], error: str) -> None:
    (answered,) = results(events)
    assert (answered.outcome, answered.content["error"]) == ("failed", error)
    assert answered.line.startswith(("Not done", "Not sent"))
    assert isinstance(events[-1], Reply)
    assert cards(events) == []
    assert await trial.attempts() == []
    assert not any(each["acted"] for each in trial.store.requests())
    request = parsed(trial.tool).request()
    assert [each for each in trial.rig.seen if each.method == request.method and each.target == request.path] == []


@pytest.mark.parametrize("fault", BLIND)
async def test_a_preview_that_can_not_be_read_asks_nobody(fault: str, blank: Path, tmp_path: Path) -> None:
    async def unread(trial: Trial) -> None:
        events = await trial.say("do it", [(trial.tool, CALLS[trial.tool])], "That is how it ended.")
        await check_nothing_ran(trial, events, BLIND[fault])
        assert await trial.agent.journal.read(lambda tx: tx.approvals(conversation=trial.tool)) == []

    async with bench(FAULTS[fault], blank, tmp_path) as made:
        trials = {tool: await made.made(tool, at=campaign_of(tool)) for tool in GATED}
        await all_of({tool: unread(trial) for tool, trial in trials.items()})


@pytest.mark.parametrize("fault", BLIND)
async def test_what_can_not_be_looked_at_again_does_not_run(fault: str, blank: Path, tmp_path: Path) -> None:
    """The fault begins between the card and the click."""

    async def unread(trial: Trial) -> None:
        asked = card(await trial.say("do it", [(trial.tool, CALLS[trial.tool])]))
        trial.approval, trial.rig.fault = asked.id, FAULTS[fault]
        trial.model.script = ["That is how it ended."]
        # Its requests so far were answered, so that the fault is still to be done.
        trial.rig.reached = 0
        events = await trial.decide(asked.preview["facts"]["campaign"]["title"])
        await check_nothing_ran(trial, events, BLIND[fault])
        assert failure(await trial.decide(None)).code == "approval_refused"

    async with bench(FAULTS["nothing"], blank, tmp_path) as made:
        trials = {tool: await made.made(tool, at=campaign_of(tool)) for tool in GATED}
        await all_of({tool: unread(trial) for tool, trial in trials.items()})


@pytest.mark.parametrize("what", ["vanishes", "changes"])
async def test_before_another_try_everything_is_looked_at_again(what: str, blank: Path, tmp_path: Path) -> None:
    """The rate limit lets a second request go, and then the API is gone, or the campaign isn't what it was."""

    async def again(trial: Trial) -> None:
        campaign = str(CALLS[trial.tool]["campaignId"])

        async def limit(hit: Hit) -> None:
            hit.writer.write(http_answer(429, error(429), retry_after="0"))
            await hit.writer.drain()
            if what == "vanishes":
                trial.rig.vanish()
            else:
                record = trial.store.campaign("ws_norte", campaign) or {}
                trial.store.save_campaign({**record, "title": f"Otro {campaign}"}, datetime.now(UTC))

        trial.rig.fault = Fault(limit, acts=False, times=EVER)
        events = await trial.call("That is how it ended.")
        kind = "failed" if what == "vanishes" else "drifted"
        assert [each.outcome for each in results(events)] == [kind]
        assert trial.rig.reached == 1
        assert trial.acted() == 0
        (attempt,) = await trial.attempts()
        assert attempt.state == "failed"
        assert await trial.agent.journal.write(lambda tx: tx.lock(attempt.target, "somebody else", 0.0))
        assert failure(await trial.decide(None)).code == "approval_used"

    async with bench(FAULTS["nothing"], blank, tmp_path) as made:
        trials = {tool: await made.made(tool) for tool in GATED}
        await all_of({tool: again(trial) for tool, trial in trials.items()})


TWICE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "update_campaign": [{"campaignId": PROMO, "title": "Uno"}, {"campaignId": PROMO, "title": "Dos"}],
    "add_campaign_audience": [
        {"campaignId": BUEN_FIN, "clients": [{"phoneNumber": "+525500100901", "name": name}]} for name in ("Ana", "Eva")
    ],
}


@pytest.mark.parametrize("idle", [True, False], ids=["closed while idle", "closed in use"])
@pytest.mark.parametrize("tool", TWICE)
async def test_a_kept_connection_that_dies(tool: str, idle: bool, blank: Path, tmp_path: Path) -> None:
    """Closed before the next request, it is replaced; closed under a request, nobody asks a second time."""
    request = parsed(tool).request()
    async with bench(FAULTS["nothing"], blank, tmp_path) as made:
        trial = await made.behind(tool, KeepingRig(made.api, request.method, request.path, idle=idle))
        calls = [[(tool, arguments)] for arguments in TWICE[tool]]
        events = await trial.say("both", *calls, "That is how it ended.")
        assert [each.outcome for each in results(events)] == ["done", "done" if idle else "unknown"]
        assert trial.rig.reached == trial.acted() == 2


@pytest.mark.parametrize(
    "fault",
    ["nothing", "422 documented", "429 for a second", "500 documented", "302", "truncated body", "200 HTML"],
)
async def test_the_agent_as_the_command_line_builds_it(fault: str, blank: Path, tmp_path: Path) -> None:
    """The same ends with nothing of the tests' own between the agent and the two services."""
    tool, row = "delete_campaign", TABLE[fault]
    shutil.copytree(blank, tmp_path / "state")
    app, request = create_app(tmp_path / "state" / "sandbox.db", rate_limit=100_000), parsed(tool).request()
    rig = Rig(SandboxTransport(app), FAULTS[fault], request.method, request.path)
    async with rig, Endpoint(ModelFault(), at=0) as endpoint:
        urls = {"platica_base_url": rig.url, "openai_base_url": endpoint.url + "/v1"}
        agent = build(settings(platica_api_key=LOCAL_KEY, state_dir=tmp_path / "state", **urls))
        endpoint.script = [called(tool, CALLS[tool], streamed=True), said("It ended.", streamed=True)]
        asked = card([event async for event in agent.advance("s", "delete it")])
        title = asked.preview["facts"]["campaign"]["title"]
        events = [event async for event in agent.decide(asked.id, "approve", confirm=title)]
        await agent.aclose()
        assert [each.outcome for each in results(events)] == [row.ends[Risk.DESTRUCTIVE].kind]
        assert rig.reached == row.ends[Risk.DESTRUCTIVE].most
        assert isinstance(events[-1], Reply)
        assert ELSEWHERE not in {each.target for each in rig.seen}
        app.state.store.close()


ENOUGH = 64_000_000
"""Bytes, far more than the largest page of an audience."""


async def test_an_answer_of_any_size_is_not_read_whole(blank: Path, tmp_path: Path) -> None:
    sent = 0

    async def flood(hit: Hit) -> None:
        nonlocal sent
        hit.writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while sent < 4 * ENOUGH:
            hit.writer.write(b" " * 1_000_000)
            await hit.writer.drain()
            sent += 1_000_000

    async with bench(Fault(flood, times=EVER), blank, tmp_path) as made:
        for tool, kind in (("get_campaign", "failed"), ("create_campaign", "unknown")):
            sent = 0
            trial = await made.made(tool)
            events = await trial.call("That is how it ended.")
            assert [each.outcome for each in results(events)] == [kind]
            # A read is tried three times.
            assert sent < (3 if trial.risk is Risk.READ else 1) * ENOUGH
