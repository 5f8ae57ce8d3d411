"""Approval policy: who may decide, own sends, second approvers, expiry by operation; bound to the approval, and judged
again when it runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from agent.events import AgentEvent, Reply
from agent.gate import Identity
from agent.journal import Decision, Transaction
from agent.preview import Preview
from tests.support import CITA, ENCUESTA, World, again, card, failure, make_world, results, settings, sql

ANA, BOB, EVE = (Identity("slack", f"T1/U{name}") for name in ("ANA", "BOB", "EVE"))
LOCAL = Identity("os", "1000")
DELETE = ("delete_campaign", {"campaignId": ENCUESTA})
SEND = (
    "send_campaign",
    {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["cliente", "mañana a las 9"]}},
)
PEOPLE = 35
"""In the audience of CITA."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    yield made
    await made.agent.aclose()


def under(world: World, **policy: Any) -> World:
    """A process with a policy, on the same database and API."""
    return again(world, confirm_typed_over=100_000, **policy)


async def ask(world: World, call: Any, by: Identity = ANA, session: str = "s") -> str:
    return card(await world.say("please", [call], session=session, by=by)).id


async def approve(world: World, id: str, by: Identity, *script: Any) -> list[AgentEvent]:
    approval = await world.agent.journal.read(lambda tx: tx.approval(id))
    assert approval is not None
    title = Preview.load(approval.preview).facts["campaign"]["title"]
    return await world.decide(id, "approve", *script, by=by, confirm=title)


def outcomes(events: Sequence[AgentEvent]) -> list[str]:
    return [result.outcome for result in results(events)]


def state(world: World) -> list[str]:
    return [row[0] for row in sql(world, "SELECT state FROM approval ORDER BY requested_at")]


async def test_without_policy_whoever_asks_may_decide_and_so_may_the_terminal(world: World) -> None:
    id = await ask(world, DELETE)
    assert failure(await approve(world, id, Identity("mcp", "client"))).code == "approval_not_entitled"
    assert outcomes(await approve(world, id, LOCAL, "done")) == ["done"]


@pytest.mark.parametrize("who", ["slack:T1/UBOB", "slack-group:S1"])
async def test_only_those_on_the_list_of_an_operation_may_approve_it(world: World, who: str) -> None:
    other = under(world, approvers=f"delete_campaign={who}; *=*")
    id = await ask(other, DELETE)
    member = Identity("slack", "T1/UBOB", groups=("S9", "S1") if "group" in who else ())
    for stranger in (ANA, EVE, LOCAL, Identity("slack", "T2/UBOB"), Identity("slack", "T1/UEVE", groups=("S2",))):
        assert failure(await approve(other, id, stranger)).code == "approval_not_entitled"
    assert failure(await other.decide(id, "deny", by=EVE)).code == "approval_not_entitled"
    assert state(other) == ["pending"]
    assert other.gated() == []
    assert outcomes(await approve(other, id, member, "done")) == ["done"]
    # What isn't named goes by the line for all others.
    assert outcomes(await approve(other, await ask(other, SEND), ANA, "sent")) == ["done"]
    await other.agent.aclose()


@pytest.mark.parametrize(
    "who", [Identity("os:1000", "x"), Identity("os:1000", ""), Identity("", "os"), Identity("os:", "")]
)
async def test_a_kind_is_none_that_looks_like_an_account(world: World, who: Identity) -> None:
    other = under(world, approvers="delete_campaign=os:1000; *=*")
    for number, call in enumerate((DELETE, SEND)):
        id = await ask(other, call, session=str(number))
        assert failure(await approve(other, id, who)).code == "approval_not_entitled"
    assert other.gated() == []
    await other.agent.aclose()


@pytest.mark.parametrize(("session", "asker"), [("slack:T1:C1:1.1", LOCAL), ("s", ANA)], ids=["thread", "asker"])
async def test_people_of_another_workspace_decide_nothing(world: World, session: str, asker: Identity) -> None:
    """They may be in a shared channel, where the rule lets anybody of Slack decide, and on a list by mistake."""
    there = under(world, approvers="*=slack,slack:T2/UEVE")
    id = await ask(there, DELETE, asker, session)
    assert failure(await approve(there, id, Identity("slack", "T2/UEVE"))).code == "approval_not_entitled"
    assert failure(await there.decide(id, "deny", by=Identity("slack", "T2/UEVE"))).code == "approval_not_entitled"
    assert outcomes(await approve(there, id, BOB)) == ["done"]


async def test_whoever_asked_may_always_take_it_back(world: World) -> None:
    other = under(world, approvers="*=slack:T1/UBOB")
    id = await ask(other, DELETE)
    assert outcomes(await other.decide(id, "deny", "as you wish", by=ANA)) == ["denied"]
    await other.agent.aclose()


async def test_own_sends_above_a_size_need_somebody_else(world: World) -> None:
    other = under(world, self_approve_up_to=PEOPLE - 1)
    id = await ask(other, SEND)
    assert failure(await approve(other, id, ANA)).code == "approval_own_send"
    assert outcomes(await approve(other, id, BOB, "sent")) == ["done"]
    # Up to that size, and whatever is no send, as ever.
    assert outcomes(await approve(other, await ask(other, DELETE), ANA, "gone")) == ["done"]
    await other.agent.aclose()
    enough = under(world, self_approve_up_to=PEOPLE)
    assert outcomes(await approve(enough, await ask(enough, SEND, session="t"), ANA, "sent")) == ["done"]
    await enough.agent.aclose()


async def test_the_terminal_is_nobody_else_than_whoever_asked_unless_it_is_named(world: World) -> None:
    for policy in ({}, {"approvers": "*=*"}):
        other = under(world, self_approve_up_to=1, **policy)
        id = await ask(other, SEND, session=str(policy))
        assert failure(await approve(other, id, LOCAL)).code == "approval_not_entitled"
        await other.agent.aclose()
    assert world.gated() == []
    named = under(world, self_approve_up_to=1, approvers="*=os:1000")
    assert outcomes(await approve(named, await ask(named, SEND, session="n"), LOCAL, "sent")) == ["done"]
    await named.agent.aclose()


def join(world: World) -> None:
    with world.store.transaction(write=True):
        world.store.add_client("ws_norte", CITA, "525500109999", "Otra", world.clock.date())


async def test_a_card_that_drifted_is_still_of_whoever_asked_for_it_and_of_whoever_changed_it(world: World) -> None:
    other = under(world, self_approve_up_to=1)
    id = await ask(other, SEND)
    changed = {**SEND[1], "template": {"params": ["equipo", "el martes"]}}
    edited = card([event async for event in other.agent.ask_anew(id, changed, by=BOB)])
    join(world)
    drifted = card(await approve(other, edited.id, EVE))
    assert drifted.card.drift
    for who in (ANA, BOB):
        assert failure(await approve(other, drifted.id, who)).code == "approval_own_send"
    assert other.gated() == []
    assert outcomes(await approve(other, drifted.id, EVE, "sent")) == ["done"]
    await other.agent.aclose()


async def test_a_turn_that_somebody_else_goes_on_with_is_still_of_whoever_asked(world: World) -> None:
    other = under(world, self_approve_up_to=1)
    first = await ask(other, DELETE)
    asked = card(await approve(other, first, BOB, [SEND]))
    assert failure(await approve(other, asked.id, ANA)).code == "approval_own_send"
    assert outcomes(await approve(other, asked.id, BOB, "sent")) == ["done"]
    # The same after a turn that broke off, whoever takes it up.
    with pytest.raises(MemoryError):
        await other.say("send it once more", MemoryError(), by=ANA, session="t")
    taken_up = card(await other.say(None, [SEND], by=BOB, session="t"))
    assert failure(await approve(other, taken_up.id, ANA)).code == "approval_own_send"
    await other.agent.aclose()


async def test_a_large_send_needs_two_people(world: World) -> None:
    other = under(world, two_approvers_over=PEOPLE - 1)
    id = await ask(other, SEND)
    events = await approve(other, id, ANA)
    assert [type(event) for event in events][-1] is Reply
    assert "2" in events[-1].text  # type: ignore[union-attr]
    assert other.gated() == []
    # The same person twice isn't two.
    assert failure(await approve(other, id, ANA)).code == "approval_approved_before"
    assert state(other) == ["pending"]
    assert outcomes(await approve(other, id, BOB, "sent")) == ["done"]
    assert len(other.gated()) == 1
    assert sql(other, "SELECT identity FROM decision ORDER BY identity") == [(ANA.key,), (BOB.key,)]
    assert sql(other, 'SELECT "by" FROM attempt') == [(f"{ANA.key},{BOB.key}",)]
    assert failure(await approve(other, id, EVE)).code == "approval_used"
    await other.agent.aclose()


async def test_one_person_in_two_places_is_one(world: World) -> None:
    """The accounts of one kind are different people; nobody knows whether those of two kinds are."""
    other = under(world, two_approvers_over=1)
    id = await ask(other, SEND)
    for who in (ANA, LOCAL):
        assert outcomes(await approve(other, id, who)) == []
    assert state(other) == ["pending"]
    assert other.gated() == []
    assert outcomes(await approve(other, id, BOB, "sent")) == ["done"]
    await other.agent.aclose()


async def test_two_who_approve_at_one_moment_start_it_once(world: World) -> None:
    one = under(world, two_approvers_over=1)
    two = under(world, two_approvers_over=1)
    for number in range(5):
        session = f"s{number}"
        id = await ask(one, SEND, EVE, session)
        before = len(world.gated())
        both = await asyncio.gather(approve(one, id, ANA, "sent"), approve(two, id, BOB, "sent"))
        one.model.script.clear()
        two.model.script.clear()
        assert sorted(len(outcomes(events)) for events in both) == [0, 1]
        assert len(world.gated()) == before + 1
    assert set(state(one)) == {"done"}
    await one.agent.aclose()
    await two.agent.aclose()


async def test_of_two_at_one_moment_the_second_sees_the_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is held up between its approval and its commit."""
    one, two = under(world, two_approvers_over=1), under(world, two_approvers_over=1)
    id = await ask(one, SEND, EVE)
    decisions, held, both = Transaction.decisions, threading.Event(), threading.Event()

    def stalling(self: Transaction, approval_id: str) -> list[Decision]:
        if held.is_set():
            both.set()
        else:
            held.set()
            both.wait(0.3)
        return decisions(self, approval_id)

    monkeypatch.setattr(Transaction, "decisions", stalling)
    first = asyncio.create_task(approve(one, id, ANA, "sent"))
    await asyncio.to_thread(held.wait)
    ended = [outcomes(events) for events in (await approve(two, id, BOB, "sent"), await first)]
    assert ended == [["done"], []]
    assert len(world.gated()) == 1
    await one.agent.aclose()
    await two.agent.aclose()


async def test_a_no_ends_it_also_after_a_yes_and_also_from_whoever_said_yes(world: World) -> None:
    other = under(world, two_approvers_over=1)
    for number, who in enumerate((BOB, ANA)):
        id = await ask(other, SEND, EVE, f"s{number}")
        await approve(other, id, ANA)
        assert outcomes(await other.decide(id, "deny", "very well", by=who)) == ["denied"]
        assert sql(other, "SELECT decision FROM decision WHERE approval = ? AND identity = ?", id, who.key) == [
            ("deny",)
        ]
        assert failure(await approve(other, id, BOB)).code == "approval_denied"
    assert other.gated() == []
    await other.agent.aclose()


async def test_with_both_rules_the_one_who_asked_is_none_of_the_two(world: World) -> None:
    other = under(world, two_approvers_over=1, self_approve_up_to=1)
    id = await ask(other, SEND)
    assert failure(await approve(other, id, ANA)).code == "approval_own_send"
    await approve(other, id, BOB)
    assert outcomes(await approve(other, id, EVE, "sent")) == ["done"]
    await other.agent.aclose()


async def test_a_policy_that_became_stricter_holds_for_what_waits_and_a_looser_one_does_not(world: World) -> None:
    loose, strict = under(world), under(world, approvers="*=slack:T1/UBOB", two_approvers_over=1)
    id = await ask(loose, DELETE)
    assert failure(await approve(strict, id, ANA)).code == "approval_not_entitled"
    assert outcomes(await approve(strict, id, BOB, "gone")) == ["done"]
    bound = await ask(strict, SEND, ANA, "t")
    assert failure(await approve(loose, bound, ANA)).code == "approval_not_entitled"
    assert world.gated()[1:] == []
    await loose.agent.aclose()
    await strict.agent.aclose()


async def test_a_second_person_who_became_needed_is_waited_for(world: World) -> None:
    loose, strict = under(world), under(world, two_approvers_over=1)
    id = await ask(loose, SEND)
    events = await approve(strict, id, ANA)
    assert "2 different people" in events[-1].text  # type: ignore[union-attr]
    assert state(world) == ["pending"]
    assert outcomes(await approve(strict, id, BOB, "sent")) == ["done"]
    await loose.agent.aclose()
    await strict.agent.aclose()


async def test_a_second_person_who_was_needed_stays_needed(world: World) -> None:
    strict, loose = under(world, two_approvers_over=1), under(world)
    id = await ask(strict, SEND)
    assert outcomes(await approve(loose, id, ANA)) == []
    assert world.gated() == []
    assert outcomes(await approve(loose, id, BOB, "sent")) == ["done"]
    await strict.agent.aclose()
    await loose.agent.aclose()


async def test_the_first_of_two_counts_no_more_once_taken_off_the_list(world: World) -> None:
    before = under(world, two_approvers_over=1)
    after = under(world, two_approvers_over=1, approvers="*=slack:T1/UBOB, slack:T1/UEVE")
    id = await ask(before, SEND)
    await approve(before, id, ANA)
    assert outcomes(await approve(after, id, BOB)) == []
    assert state(world) == ["pending"]
    assert outcomes(await approve(after, id, EVE, "sent")) == ["done"]
    await before.agent.aclose()
    await after.agent.aclose()


@pytest.mark.parametrize(("group", "outcome"), [("S1", "done"), ("S2", "not_run")])
async def test_who_decided_as_one_of_a_group_is_judged_by_that_group_again(
    world: World, group: str, outcome: str
) -> None:
    before = under(world, approvers="*=slack-group:S1, slack-group:S2")
    after = under(world, approvers=f"send_campaign=slack-group:{group}; *=slack-group:S1")
    id = await ask(before, SEND)
    await before.agent.gate.decide(id, "approve", by=Identity("slack", "T1/UBOB", groups=("S1", "S7")))
    assert outcomes(await after.say(None, "well", by=ANA)) == [outcome]
    assert len(world.gated()) == (outcome == "done")
    await before.agent.aclose()
    await after.agent.aclose()


async def test_what_was_approved_under_another_policy_is_judged_again_when_it_runs(world: World) -> None:
    """Approved by one person, and then a process starts it that wants two, or another one."""
    for policy in ({"two_approvers_over": 1}, {"approvers": "*=slack:T1/UBOB"}, {"self_approve_up_to": 1}):
        id = await ask(world, SEND, ANA, str(policy))
        await world.agent.gate.decide(id, "approve", by=ANA)
        other = under(world, **policy)
        assert outcomes(await other.say(None, "not run", session=str(policy), by=ANA)) == ["not_run"], policy
        await other.agent.aclose()
    assert world.gated() == []


async def test_each_operation_may_have_its_own_expiry(world: World) -> None:
    other = under(world, approval_ttls="delete_campaign=60", approval_ttl=3600.0)
    first, second = await ask(other, DELETE), await ask(other, SEND, session="t")
    world.clock.tick(61)
    assert failure(await approve(other, first, ANA)).code == "approval_expired"
    assert outcomes(await approve(other, second, ANA, "sent")) == ["done"]
    await other.agent.aclose()


async def test_the_card_says_who_decides_where_it_is_not_as_always(world: World) -> None:
    assert not any("decides" in label for label, _ in card(await world.say("please", [DELETE])).card.rows)
    other = under(world, approvers="*=slack:T1/UBOB", two_approvers_over=1, self_approve_up_to=1)
    rows = dict(card(await other.say("please send it", [SEND], session="t", by=ANA)).card.rows)
    assert rows["Who decides"] == "slack:T1/UBOB; 2 different people; not whoever asked for it"
    await other.agent.aclose()


@pytest.mark.parametrize(
    ("policy", "setting"),
    [
        ({"approvers": "send_campaign"}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approvers": "send_campaing=*"}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approvers": "send_campaign=U1"}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approvers": "send_campaign=slack:U1"}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approvers": "send_campaign="}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approvers": "*=*; *=os"}, "CAMPAIGN_AGENT_APPROVERS"),
        ({"approval_ttls": "send_campaign=soon"}, "CAMPAIGN_AGENT_APPROVAL_TTLS"),
        ({"approval_ttls": "send_campaign=0"}, "CAMPAIGN_AGENT_APPROVAL_TTLS"),
    ],
)
async def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path, policy: dict[str, str], setting: str) -> None:
    assert settings(**policy)
    with pytest.raises(UsageError) as raised:
        make_world(tmp_path, **policy)
    assert raised.value.data["setting"] == setting
