"""What a person at a terminal met: turns that were stopped, disks that are full, addresses that lead nowhere."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import run
from agent.errors import ModelUnreachable
from agent.events import AgentEvent, ToolCalled
from agent.model import Completion
from agent.settings import Settings
from tests.support import BUEN_FIN, World, again, card, cards, failure, make_world, results
from tests.test_terminal import ROOT, Person, people
from tests.test_terminal import effects as done

__all__ = ["people"]

CREATE = ("create_campaign", {"title": "Otoño", "category": "utility", "platform": "whatsapp"})
UPDATE = ("update_campaign", {"campaignId": BUEN_FIN, "title": "Otro"})
READ: tuple[str, dict[str, Any]] = ("list_campaigns", {})
DELETE = ("delete_campaign", {"campaignId": BUEN_FIN})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def acted(world: World) -> list[str]:
    return [row["method"] for row in world.store.requests() if row["acted"]]


async def stopped(world: World, text: str) -> None:
    """A turn that a person stops while the model still writes."""
    begun = asyncio.Event()

    async def slow(messages: object) -> AsyncIterator[str | Completion]:
        yield "I'm about to"
        begun.set()
        await asyncio.Event().wait()

    async def turn() -> list[AgentEvent]:
        return [event async for event in world.agent.advance("s", text)]

    world.model.complete = slow  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(turn())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_turn_that_was_stopped_does_not_run_by_itself(world: World, earlier: bool) -> None:
    if earlier:
        await world.say("hello", "hi")
    await stopped(world, "create Otoño")
    other = again(world)
    assert await other.say(None, [CREATE], "created") == []
    assert acted(other) == []
    assert [m["content"] for m in await _shown(other)][-2:] == ["create Otoño", "and now?"]


async def _shown(world: World) -> list[dict[str, Any]]:
    """What the model is shown with the next message."""
    world.model.script = ["well"]
    await world.say("and now?")
    return world.model.seen[-1]


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_turn_that_failed_does_not_run_by_itself(world: World, earlier: bool) -> None:
    if earlier:
        await world.say("hello", "hi")
    failure(await world.say("create Otoño", ModelUnreachable(text="down")))
    other = again(world)
    assert await other.say(None, [CREATE], "created") == []
    assert await other.say(None, [CREATE], "created") == []
    assert acted(other) == []


async def test_calls_of_a_stopped_turn_are_answered_and_not_begun(world: World) -> None:
    """The first of two writes has begun when the person stops listening."""
    world.model.script = [[CREATE, UPDATE]]
    turn = world.agent.advance("s", "create one, and rename the other")
    async for event in turn:
        if isinstance(event, ToolCalled):
            break
    await turn.aclose()
    other = again(world)
    for _ in range(2):
        events = await other.say(None, [CREATE], "created")
        assert all(not result.ok for result in results(events))
    assert acted(other) == []
    assert other.model.seen == []


async def test_a_send_that_was_approved_and_stopped_does_not_run_by_itself(world: World) -> None:
    asked = card(await world.say("delete it", [DELETE]))
    deciding = world.agent.decide(asked.id, "approve", confirm="Buen Fin 2026", decided=_stop)
    with pytest.raises(asyncio.CancelledError):
        async for _ in deciding:
            pass
    other = again(world)
    await other.say(None, "gone")
    assert acted(other) == []


def _stop() -> None:
    raise asyncio.CancelledError


async def test_a_card_waits_on_after_a_turn_that_failed(world: World) -> None:
    asked = card(await world.say("delete it", [DELETE]))
    events = [event async for event in world.agent.ask_anew(asked.id, {"campaignId": "cmpNobodyHasThis"}, by=_me())]
    assert events[-1].type == "error"
    assert [shown.id for shown in cards(await again(world).say(None))] == [asked.id]


def _me() -> Any:
    from agent.gate import Identity

    return Identity.os_user()


@pytest.mark.parametrize("name", ["PLATICA_BASE_URL", "OPENAI_BASE_URL"])
@pytest.mark.parametrize("value", ["http://[::bad", "http://[::bad/v1", "http://a.b:abc", "https://", "http://a b/v1"])
def test_an_address_that_leads_nowhere_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("PLATICA_API_KEY", "pl_key_abc_secretsecret")
    assert run(["doctor"]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "PROXY" not in said


@pytest.mark.parametrize("value", ["http://[::1]:8787/v1", "http://localhost:1/v1", "https://api.example.mx"])
def test_an_address_that_can_be_used_is_taken(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", value)
    assert Settings.read().openai_base_url == value


POLICY = {
    "TWO_APPROVERS_OVER": "0",
    "APPROVERS": "*=slack:T1/U1",
    "CONFIRM_TYPED_OVER": "1",
    "SELF_APPROVE_UP_TO": "0",
    "APPROVAL_TTL": "0.000001",
    "CONFIRM_AUDIENCE_OVER": "0",
    "MAX_AUDIENCE": "1",
    "STEP_LIMIT": "1",
}


def test_the_demonstration_is_the_same_whatever_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in POLICY.items():
        monkeypatch.setenv(f"CAMPAIGN_AGENT_{name}", value)
    assert run(["demo"]) == 0


def test_the_doctor_writes_to_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    with sqlite3.connect(tmp_path / "home" / "journal.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        before = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone() for name in tables}
        for name in tables:
            database.execute(
                f"CREATE TRIGGER no_{name} BEFORE INSERT ON {name} BEGIN SELECT RAISE(ABORT, 'no space'); END"
            )
    capsys.readouterr()
    assert run(["doctor"]) == 1
    assert "✗ " in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "home" / "journal.db") as database:
        assert {name: database.execute(f"SELECT count(*) FROM {name}").fetchone() for name in tables} == before


def test_an_output_that_is_not_utf_8_costs_no_outcome(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "agent", "ask", 'Create a utility campaign called "Autumn"']
    ended = subprocess.run(arguments, env=environment, capture_output=True, cwd=tmp_path, check=False)
    assert (ended.returncode, b"Traceback" in ended.stderr, b"[error]" in ended.stderr) == (0, False, False)
    assert "Autumn".encode("latin-1") in ended.stdout


def test_control_c_leaves_the_question_at_once(tmp_path: Path, people: list[Person]) -> None:
    people.append(asking := Person("ask", "delete the campaign Buen Fin 2026"))
    shown = asking.sees("--session")
    approval = re.search(r"campaign-agent approve (\w+)", shown)
    assert approval is not None
    assert asking.waits() == 3
    people.append(deciding := Person("approve", approval[1]))
    deciding.sees("type a reason to deny")
    deciding.presses(b"\x03")
    assert deciding.waits() == 130
    assert done(tmp_path / "home") == []
    people.append(again_deciding := Person("approve", approval[1]))
    again_deciding.sees("type a reason to deny")
    again_deciding.types("a")
    again_deciding.sees("title")
    again_deciding.types("Buen Fin 2026")
    again_deciding.sees("Deleted")
    assert again_deciding.waits() == 0


def test_a_session_in_which_nothing_was_said_is_not_offered(people: list[Person]) -> None:
    people.append(silent := Person("chat"))
    silent.sees("/quit to leave.")
    silent.types("/quit")
    with pytest.raises(AssertionError, match="the program ended without"):
        silent.sees("Resume with")
    assert silent.waits() == 0
