"""What once went wrong, or could have: one test each, through the doors that people use."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.gate import Identity
from agent.loop import Agent, ApprovalAsked, ToolResult
from agent.model import Call, Completion
from tests.support import AVISO, BUEN_FIN, CITA, ENCUESTA, World, make_world, open_journal

SEND = ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["a", "b"]}})
REMOVE = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+525500100011"})
DELETE = ("delete_campaign", {"campaignId": BUEN_FIN})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def card(events: list[Any]) -> ApprovalAsked:
    (asked,) = [event for event in events if isinstance(event, ApprovalAsked)]
    return asked


def again(world: World, **more: Any) -> Agent:
    """Another process on the same journal and sandbox."""
    journal = open_journal(world.folder, world.clock)
    settings = world.agent.settings.model_copy(update=more)
    platica = world.agent.platica
    return Agent(settings, model=world.model, platica=platica, journal=journal, clock=world.clock, locale="en")


async def test_stopping_while_the_decision_is_stored_stops_the_send(world: World) -> None:
    for steps in range(1, 12):
        session = f"s{steps}"
        asked = card(await world.say("send", [SEND], session=session))
        deciding = asyncio.create_task(world.decide(asked.id, "approve", confirm="Recordatorio de cita"))
        for _ in range(steps):
            await asyncio.sleep(0)
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)
        sent = len(world.gated())
        world.clock.tick(31)
        world.model.script.clear()
        await world.say("no, do not send it", "all right", session=session)
        assert len(world.gated()) == sent, "what was stopped was sent with the next message"


async def test_an_approval_that_was_never_begun_is_not_begun_by_a_new_message(world: World) -> None:
    asked = card(await world.say("send", [SEND]))
    await world.agent.gate.decide(asked.id, "approve", by=Identity.os_user())
    other = again(world)
    events = [event async for event in other.advance("s", "something else")]
    assert world.gated() == []
    assert [event.outcome for event in events if isinstance(event, ToolResult)] == ["superseded"]
    roles = [message["role"] for message in world.model.seen[-1]]
    assert roles[-3:] == ["assistant", "tool", "user"], "every call is answered before the next message"
    await other.journal.aclose()


async def test_a_request_that_comes_late_by_the_clock_on_the_wall_does_not_leave(world: World) -> None:
    """A laptop that slept between the record and the first byte: the other clock stood still."""
    asked = card(await world.say("send", [SEND]))
    limiter = world.agent.platica._take_turn

    async def slept() -> None:
        await limiter()
        if world.transport.seen[-1][0] == "GET" and asleep:
            world.clock.tick(9 * 3600)
            asleep.clear()

    attempts = world.agent.gate._begin
    asleep: list[int] = []

    async def begin(*args: Any, **more: Any) -> Any:
        answer = await attempts(*args, **more)
        asleep.append(1)
        return answer

    world.agent.platica._take_turn = slept  # type: ignore[method-assign]
    world.agent.gate._begin = begin  # type: ignore[method-assign]
    events = await world.decide(asked.id, "approve", "it was not sent")
    assert world.gated() == []
    assert [event.outcome for event in events if isinstance(event, ToolResult)] == ["failed"]


async def test_two_settings_of_the_workspace_mean_one_campaign(world: World, tmp_path: Path) -> None:
    asked = card(await world.say("send", [SEND]))
    await world.decide(asked.id, "approve", "sent")
    world.agent.platica.workspace = "ws_norte"
    asked = card(await world.say("send", [SEND], session="two"))
    assert asked.confirm == "title"


@pytest.mark.parametrize("name", ["functions.list_campaigns", "", "list campaigns", "a" * 100])
async def test_a_name_that_endpoints_refuse_is_not_kept_in_the_history(world: World, name: str) -> None:
    await world.say("go on", Completion("", (Call('i"d', name, "{}"),)), "ok")
    kept = world.model.seen[-1][-2]["tool_calls"][0]
    assert kept["function"]["name"].replace("_", "a").replace("-", "a").isalnum()
    assert '"' not in kept["id"]
    assert len(kept["function"]["name"]) <= 64


async def test_an_answer_that_breaks_our_reading_is_unknown(world: World) -> None:
    asked = card(await world.say("remove", [REMOVE]))

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "DELETE":
            raise RuntimeError("nobody expected this")
        return None

    world.transport.before = before
    events = await world.decide(asked.id, "approve", "unknown")
    assert [event.outcome for event in events if isinstance(event, ToolResult)] == ["unknown"]


async def test_a_template_that_cannot_be_read_still_shows_what_was_given(tmp_path: Path) -> None:
    world = make_world(tmp_path, key="pl_key_limited_local")
    arguments = json.loads(json.dumps(SEND[1])) | {"template": {"params": ["Ana", "SECRET OFFER"]}}
    asked = card(await world.say("send", [("send_campaign", arguments)]))
    assert any("SECRET OFFER" in line for line in asked.card.lines())


async def test_two_forms_of_one_phone_are_one_removal(world: World) -> None:
    other = ("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+5215500100011"})
    asked = card(await world.say("remove", [REMOVE, other]))
    assert asked.arguments == REMOVE[1]
    events = await world.decide(asked.id, "approve", "ok")
    assert [event.outcome for event in events if isinstance(event, ToolResult)] == ["done", "refused"]
    assert len(world.gated()) == 1


async def test_a_title_of_blanks_is_no_confirmation(world: World) -> None:
    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and request.url.path == f"/v1/campaigns/{AVISO}":
            record = {"id": AVISO, "title": "   ", "category": "utility"}
            return httpx.Response(200, json={"workspaces": [{"id": "w", "campaigns": [record]}]})
        return None

    world.transport.before = before
    asked = card(await world.say("delete", [("delete_campaign", {"campaignId": AVISO})]))
    for typed in ("", " ", "   "):
        await world.decide(asked.id, "approve", confirm=typed)
    assert world.gated() == []
    await world.decide(asked.id, "approve", "deleted", confirm=AVISO)
    assert len(world.gated()) == 1


async def test_a_server_that_ignores_offsets_is_read_to_an_end(world: World) -> None:
    one = [{"id": "c1", "phoneNumber": "525500100001", "name": "A", "creationDate": "2026-01-01T00:00:00.000Z"}]

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/audience"):
            group = {"id": "w", "clients": one, "pagination": {"limit": 500, "offset": 0, "hasMore": True}}
            return httpx.Response(200, json={"workspaces": [group]})
        return None

    world.transport.before = before
    clients = [client.id async for client in world.agent.platica.audience(ENCUESTA)]
    assert clients == ["c1"]


async def test_several_dates_are_in_the_headline_and_a_warning(world: World) -> None:
    dates = ["2026-12-01T10:00:00-06:00", "2026-12-02T10:00:00-06:00"]
    asked = card(
        await world.say(
            "send", [("send_campaign", {**SEND[1], "template": {"params": ["a", "b"], "scheduledDates": dates}})]
        )
    )
    assert "2 DATES" in asked.card.headline
    assert any("2 times" in line for line in asked.warnings)
