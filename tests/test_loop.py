"""Turns as interfaces and models see them: messages, answers, language, limits, and several turns at once."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic_core import from_json

from agent.errors import ModelBroken, ModelUnreachable
from agent.gate import Identity, Kind, Outcome
from agent.loop import Reply, Text, ToolCalled, Usage
from agent.model import Call, Completion
from agent.sandbox.store import Fault
from agent.transcript import ANSWER_BYTES
from tests.support import (
    CITA,
    ENCUESTA,
    PROMO,
    World,
    again,
    assert_every_call_is_answered_once,
    card,
    cards,
    failure,
    make_world,
    results,
    sql,
)

READ = ("get_campaign", {"campaignId": CITA})
REMOVE = ("remove_campaign_audience_client", {"campaignId": CITA, "phoneNumber": "+525500100010"})
RENAME = ("update_campaign", {"campaignId": CITA, "title": "Nuevo"})


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def build(**more: Any) -> World:
        made.append(make_world(tmp_path, **more))
        return made[-1]

    yield build
    for one in made:
        for messages in one.model.seen:
            assert_every_call_is_answered_once(messages)
        await one.agent.aclose()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def roles(world: World, request: int = -1) -> str:
    return " ".join(message["role"] for message in world.model.seen[request])


async def test_a_turn_is_calls_answers_and_a_reply(world: World) -> None:
    events = await world.say("look", Completion("Let me see. ", (Call("m1", "list_campaigns", "{}"),)), "Six.")
    assert [event.type for event in events] == ["tool_call", "tool_result", "text", "reply"]
    called, answered = events[0], events[1]
    assert isinstance(called, ToolCalled)
    assert (called.id, called.name, called.arguments) == ("m1", "list_campaigns", {})
    assert results([answered])[0].id == "m1"
    assert events[-1] == Reply("Six.")
    assert roles(world) == "system user user assistant tool"
    assert world.model.seen[1][3]["content"] == "Let me see. "


async def test_history_only_grows_and_the_start_stays_the_same(world: World) -> None:
    await world.say("one", [READ], "1")
    await world.say("two", [READ, RENAME], "2")
    restarted = again(world)
    await restarted.say("three", "3")
    seen = [*world.model.seen, *restarted.model.seen]
    for earlier, later in itertools.pairwise(seen):
        assert later[: len(earlier)] == earlier
    await restarted.agent.aclose()


async def test_the_workspace_is_told_once_a_session_and_the_date_each_day(world: World) -> None:
    await world.say("one", "1")
    await world.say("two", "2")
    world.clock.tick(86_400)
    await world.say("three", "3")
    data = [from_json(m["content"]) for m in world.model.seen[-1][1:] if "workspace_data" in m["content"]]
    assert [one["now"][:10] for one in data] == ["2026-11-23", "2026-11-24"]
    assert data[0]["timezone"] == "America/Mexico_City"
    assert {channel["id"] for channel in data[0]["channels"]} == {"wb-501", "wb-502"}
    assert len(data[0]["templates"]) == 7
    assert "channels" not in data[1]


async def test_a_long_answer_is_cut_saying_what_is_left(world: World) -> None:
    events = await world.say(
        "who", [("get_campaign_audience", {"campaignId": PROMO, "limit": 100, "offset": 10})], "many"
    )
    content = results(events)[0].content
    assert len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()) <= ANSWER_BYTES
    kept = len(content["result"]["workspaces"][0]["clients"])
    assert kept + content["omitted"] == 100
    assert content["next_offset"] == 10 + kept
    assert kept > 5
    assert world.model.answers()[results(events)[0].id] == content


async def test_nulls_are_dropped_and_zeros_kept(world: World) -> None:
    events = await world.say("who", [("get_campaign_audience", {"campaignId": "cmpBuenFin2026aaaaaa"})], "nobody")
    workspace = results(events)[0].content["result"]["workspaces"][0]
    assert workspace["clientsCount"] == 0
    assert workspace["pagination"]["hasMore"] is False
    events = await world.say("who", [("get_campaign_audience", {"campaignId": CITA, "limit": 2})], "two")
    assert "null" not in json.dumps(results(events)[0].content)


async def test_a_model_s_null_means_absent(world: World) -> None:
    update = {"campaignId": CITA, "title": "Nuevo", "category": None, "templateName": None, "owners": None}
    await world.say("rename", [("update_campaign", update)], "done")
    (row,) = [row for row in world.store.requests() if row["method"] == "PATCH"]
    assert json.loads(row["body"]) == {"title": "Nuevo"}
    events = await world.say("rename", [("update_campaign", {"campaignId": CITA, "title": None})], "what?")
    assert results(events)[0].outcome == "invalid"


async def test_old_answers_are_shortened_first_and_the_journal_keeps_all(make: Callable[..., World]) -> None:
    world = make(context_bytes=20_000)
    audience = ("get_campaign_audience", {"campaignId": PROMO, "limit": 100})
    for number in range(6):
        await world.say(f"who {number}", [audience], "many")
    last = world.model.seen[-1]
    tools = [message["content"] for message in last if message["role"] == "tool"]
    assert "shortened" in tools[0]
    assert from_json(tools[0])["outcome"] == "done"
    assert "shortened" not in tools[-1]
    assert sum(len(json.dumps(m)) for m in last) < 40_000
    assert last[0] == world.model.seen[0][0]
    assert [m["content"] for m in last if m["role"] == "user"][1] == "who 0"
    stored = sql(world, "SELECT body FROM event WHERE kind = 'tool'")
    assert not any("shortened" in body for (body,) in stored)


async def test_a_model_that_only_calls_is_stopped(make: Callable[..., World]) -> None:
    world = make(step_limit=3)
    events = await world.say("go on", *[[READ]] * 9)
    assert failure(events).code == "step_limit"
    assert len(world.model.seen) == 3
    world.model.script = ["here"]
    assert (await world.say("well?"))[-1] == Reply("here")


@pytest.mark.parametrize("error", [ModelUnreachable(text="down"), ModelBroken(text="odd")])
async def test_a_model_that_fails_ends_the_turn_and_loses_nothing(world: World, error: Exception) -> None:
    events = await world.say("look", [READ], error)
    assert failure(events).code == error.code  # type: ignore[attr-defined]
    events = await world.say("and?", "Found it.")
    assert events[-1] == Reply("Found it.")
    assert roles(world) == "system user user assistant tool user"
    events = await world.say("more", error)
    events = await world.say("more, please", "Yes.")
    assert roles(world).endswith("assistant user user")


async def test_an_empty_or_a_cut_answer_is_said_to_be_so(world: World) -> None:
    events = await world.say("hello", Completion("  "))
    assert "empty answer" in events[-1].text  # type: ignore[union-attr]
    events = await world.say("hello", Completion("The list is", finish="length"))
    assert any(isinstance(event, Text) and "cut short" in event.delta for event in events)
    assert not any("cut short" in (message["content"] or "") for message in world.model.seen[-1])


async def test_usage_is_passed_on(world: World) -> None:
    events = await world.say("hello", Completion("hi", usage={"total_tokens": 7}))
    assert Usage({"total_tokens": 7}) in events


async def test_nothing_to_go_on_with_is_nothing(world: World) -> None:
    assert await world.say(None) == []
    await world.say("hello", "hi")
    assert await world.say(None) == []
    assert len(world.model.seen) == 1


async def test_words_follow_the_person_s_language(make: Callable[..., World]) -> None:
    world = make(language="auto")
    asked = card(await world.say("quita a Luis de la campaña", [REMOVE]))
    assert asked.card.headline.startswith("QUITAR")
    events = await world.decide(asked.id, "deny", "ok")
    assert "egad" in results(events)[0].line
    assert "asistente" in world.model.seen[0][0]["content"]
    asked = card(await world.say("remove Luis from the campaign, please", [REMOVE]))
    assert asked.card.headline.startswith("REMOVE")


async def test_two_messages_at_once_are_two_turns(world: World) -> None:
    other = again(world)
    # Whoever has the session answers what came before it, too: the first answer is of the first message.
    world.model.script = other.model.script = ["one", "two"]
    both = await asyncio.gather(world.say("first"), other.say("second"))
    third = again(world)
    await third.say("third", "three")
    said = [m["content"] for m in third.model.seen[0] if m["role"] != "system" and "workspace_data" not in m["content"]]
    assert said in (["first", "one", "second", "two", "third"], ["second", "one", "first", "two", "third"])
    assert [events[-1] for events in both] == [Reply(said[said.index(m) + 1]) for m in ("first", "second")]
    await other.agent.aclose()
    await third.agent.aclose()


async def test_sessions_are_apart(world: World) -> None:
    await world.say("a secret of one", [REMOVE], session="one")
    await world.say("hello", "hi", session="two")
    assert "a secret of one" not in str(world.model.seen[-1])
    assert cards(await world.say(None, session="two")) == []
    assert len(cards(await world.say(None, session="one"))) == 1


async def test_a_cancelled_turn_leaves_the_session_usable(world: World) -> None:
    world.store.add_fault(Fault("delay", seconds=0.2, path=f"/v1/campaigns/{CITA}"))
    turn = asyncio.create_task(world.say("look", [READ], "never"))
    await asyncio.sleep(0.1)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    world.model.script.clear()
    events = await asyncio.wait_for(world.say("hello?", "hi"), 5)
    assert events[-1] == Reply("hi")


async def test_an_abandoned_stream_leaves_the_session_usable(world: World) -> None:
    world.model.script = [[READ], "seen"]
    stream = world.agent.advance("s", "look")
    async for _ in stream:
        break
    await stream.aclose()
    world.model.script = ["hi"]
    events = await asyncio.wait_for(world.say("hello?"), 5)
    assert events[-1] == Reply("hi")


async def test_a_crash_between_calls_and_answers_is_mended_by_the_next_message(world: World) -> None:
    """The assistant's message is stored, none of its calls was begun."""
    await world.say("go on", "yes?")
    calls = [
        {"id": f"x{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate([RENAME, REMOVE, READ])
    ]
    ((last,),) = sql(world, "SELECT max(seq) FROM event")
    body = json.dumps({"role": "assistant", "content": None, "tool_calls": calls}, separators=(",", ":"))
    user = json.dumps({"role": "user", "content": "rename it"})
    for n, (kind, text) in enumerate((("user", user), ("assistant", body)), start=1):
        sql(world, "INSERT INTO event VALUES ('s', ?, ?, 'x', ?, 0)", last + n, kind, text)
    restarted = again(world)
    events = await restarted.say("never mind", "fine")
    outcomes = [result.outcome for result in results(events)]
    assert outcomes[0] == "superseded"
    assert outcomes[1] in ("superseded", "not_run")
    assert len(outcomes) == 3
    assert not [row for row in world.store.requests() if row["method"] != "GET"]
    for messages in restarted.model.seen:
        assert_every_call_is_answered_once(messages)
    await restarted.agent.aclose()


async def test_a_crash_between_calls_and_answers_is_gone_on_with(world: World) -> None:
    await world.say("go on", "yes?")
    call = {"id": "x", "type": "function", "function": {"name": RENAME[0], "arguments": json.dumps(RENAME[1])}}
    ((last,),) = sql(world, "SELECT max(seq) FROM event")
    body = json.dumps({"role": "assistant", "content": None, "tool_calls": [call]}, separators=(",", ":"))
    sql(world, "INSERT INTO event VALUES ('s', ?, 'assistant', 'x', ?, 0)", last + 1, body)
    for _ in range(2):
        restarted = again(world)
        await restarted.say(None, "renamed")
        await restarted.agent.aclose()
    assert len([row for row in world.store.requests() if row["method"] == "PATCH"]) == 1


async def test_a_call_by_hand_is_a_turn_without_a_model(world: World) -> None:
    events = [event async for event in world.agent.call("h", READ[0], json.dumps(READ[1]))]
    assert [event.type for event in events] == ["tool_call", "tool_result"]
    assert results(events)[0].ok
    assert world.model.seen == []
    assert [event async for event in world.agent.advance("h", None)] == []
    world.model.script = ["you looked at it"]
    events = await world.say("what did I do?", session="h")
    assert events[-1] == Reply("you looked at it")


@pytest.mark.parametrize("arguments", ["{", "[]", '{"campaignId": "a b"}', '{"x": 1}', ""])
async def test_a_bad_call_by_hand_changes_nothing(world: World, arguments: str) -> None:
    events = [event async for event in world.agent.call("h", READ[0], arguments)]
    assert failure(events).code == "invalid_call"
    await world.agent.journal.open()
    assert sql(world, "SELECT * FROM event") == []


async def test_a_decision_goes_on_with_the_turn_from_another_process(world: World) -> None:
    asked = card(await world.say("remove Luis and rename", [REMOVE, RENAME]))
    other = again(world)
    events = await other.decide(asked.id, "approve", "Both done.")
    assert [result.outcome for result in results(events)] == ["done", "done"]
    assert events[-1] == Reply("Both done.")
    # The first process sees what the other did.
    await world.say("and now?", "all done")
    assert [m["role"] for m in world.model.seen[-1]][3:] == ["assistant", "tool", "tool", "assistant", "user"]
    await other.agent.aclose()


async def test_who_asked_and_who_decided_is_on_record(world: World) -> None:
    ana, eva = Identity("slack", "T1/ana", "Ana"), Identity("slack", "T1/eva", "Eva")
    asked = card(await world.say("remove Luis", [REMOVE], by=ana))
    await world.decide(asked.id, "approve", "done", by=eva, reason="fine")
    assert sql(world, "SELECT requested_by, deciders FROM approval") == [("slack:T1/ana", "slack os")]
    assert sql(world, "SELECT identity, decision, reason FROM decision") == [("slack:T1/eva", "approve", "fine")]
    assert [by for (by,) in sql(world, "SELECT by FROM event WHERE kind = 'user'")] == ["slack:T1/ana"]


async def test_a_card_in_one_session_does_not_stop_another(world: World) -> None:
    asked = card(await world.say("remove", [REMOVE], session="one"))
    events = await world.say("look", [("get_campaign", {"campaignId": ENCUESTA})], "seen", session="two")
    assert events[-1] == Reply("seen")
    assert results(await world.decide(asked.id, "approve", "ok"))[0].ok


@pytest.mark.parametrize("text", ["half \ud83d of a pair", "\x00", "a" * 100_000, "\u202e", "   "])
async def test_odd_text_is_a_message_like_any_other(world: World, text: str) -> None:
    events = await world.say(text, "what?")
    assert events[-1] == Reply("what?")


async def test_odd_arguments_are_answered(world: World) -> None:
    step = [
        ("create_campaign", '{"title": "half \\ud83d", "category": "marketing"}'),
        ("list_campaigns", '{"limit": NaN}'),
        ("list_campaigns", '{"limit": 1e400}'),
        ("list_campaigns", "[" * 100_000),
        ("list_campaigns", '{"limit": 50.0}'),
        ("list_campaigns", '"{}"'),
        ("list_campaigns", "null"),
        ("x" * 10_000, "{}"),
    ]
    events = await world.say("go on", step, "hm")
    assert [result.outcome for result in results(events)] == ["invalid"] * len(step)
    assert all(len(json.dumps(result.content)) < 2_000 for result in results(events))


async def test_the_prompt_says_nothing_of_keys(world: World) -> None:
    await world.say("hello", "hi")
    assert "pl_key" not in str(world.model.seen)
    assert "sandbox_local" not in str(world.model.seen)


async def test_an_outcome_that_an_older_version_stored_still_has_its_line(world: World) -> None:
    stored = Outcome(Kind.DONE, "send_campaign", {"title": "Old", "recipients": 3, "dates": []})
    assert (
        world.agent.line(stored, "en")
        == 'The API accepted the send of "Old" to 3 recipients. Accepted isn\'t delivered.'
    )


async def test_a_turn_that_fails_leaves_no_read_behind(tmp_path: Path) -> None:
    """One of two reads is refused at once; the other must not go on while everything is closed."""
    world = make_world(tmp_path, key="pl_key_wrong_000000000")
    inner = world.transport.inner.handle_async_request

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.2 if request.url.path == "/v1/templates" else 0.0)
        return await inner(request)

    world.transport.inner.handle_async_request = slow  # type: ignore[method-assign]
    before = asyncio.all_tasks()
    assert failure(await world.say("hello")).code == "api_key_rejected"
    assert asyncio.all_tasks() <= before
    await world.agent.aclose()
