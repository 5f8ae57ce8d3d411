"""People, models, outsiders, clocks, faults and restarts, in any order, against the real gate, journal and client.

A state machine plays them over the sandbox; `oracle.py` says what may have happened. With PROPERTIES=2000 in the
environment each test plays that many games, with other dice every time.
"""

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import sqlalchemy
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.events import Failed, Reply, ToolResult
from agent.gate import Identity
from agent.sandbox.api import SandboxTransport
from agent.sandbox.seed import MULTI_KEY
from agent.sandbox.store import Fault
from tests import support
from tests.oracle import START_WITHIN, WORKSPACE, Call, Departure, Killed, Oracle, Place, Rules, Shown, Wiretap, wire
from tests.stage import (
    AFTER_KILL,
    ANA,
    ASKING,
    CLIENT,
    ELSEWHERE,
    EVERYBODY,
    HERE,
    OTHERS,
    PEOPLE,
    PROPOSALS,
    SESSIONS,
    SPARE,
    TITLES,
    WRITES,
    B,
    C,
    FastLoop,
    after,
    digest,
    gather,
    restore,
    sandbox,
    send,
    swapped,
    update,
)
from tests.support import (
    Clock,
    Tap,
    World,
    again,
    assert_every_call_is_answered_once,
    cards,
    journal_url,
    make_world,
    results,
)

VALUES = ("approve", "deny", "Approve", "approve ", "yes", "y", "", "true", None)
TYPED = ("title", "count", "loud title", "other count", "yes", "id", None)
ENDS = ("good", "yes", "no value", "case", "late", "in time")
TICKS = (1, 119, 121, 1801, 3599, 3601, 90_000)
"""Around the two minutes of a start, the hour of an approval, and the dates of sends."""
EDITS = ("title", "join", "leave", "swap", "template text", "template status", "channel", "gone", "by http")
SURE = {"refused": 1, "limited": 1, "refused twice": 2}
"""Faults after which the request surely did nothing and may be repeated, and how often they strike."""
OPEN = ("drop", "drop_before", "500_after", "503", "garbage", "html", "status")
TAMPERED = ("arguments", "arguments and digest", "tool", "fingerprint", "decider", "decision", "no decision", "state")

# Small ranges alone: hypothesis draws larger numbers, and texts, also from the source of whatever is imported, and then
# the games would not be the same in every run.
AGENT, PICK, LATER = st.integers(0, 1), st.integers(0, 5), st.integers(0, 4)
SESSION = st.sampled_from(list(SESSIONS))
WHAT = st.runner().flatmap(lambda game: st.sampled_from(list(game.asking)))


def tapped(world: World) -> Wiretap:
    assert isinstance(world.transport.inner, Wiretap)
    return world.transport.inner


class Game(RuleBasedStateMachine):
    """One journal, one sandbox, two processes, and everybody who can get in their way."""

    confirm: ClassVar[str] = "risky"
    asking: ClassVar[Mapping[str, Sequence[Call]]] = ASKING
    title: ClassVar[str] = "risky"
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = FastLoop()
        self.folder = Path(tempfile.mkdtemp(prefix="game"))
        self.clock = Clock()
        self.made: list[World] = []
        self.agents: list[World] = []
        self.torn: set[str] = set()
        self.proposed: list[Call] = []
        self.edits = 0

    @initialize(noninteractive=st.booleans())
    def begin(self, noninteractive: bool) -> None:
        rules = Rules(confirm=self.confirm, noninteractive=noninteractive)
        self.settings: dict[str, Any] = {
            "confirm": rules.confirm,
            "confirm_audience_over": rules.audience_over,
            "confirm_typed_over": rules.typed_over,
            "allow_noninteractive_approve": rules.noninteractive,
            "request_deadline": 600.0,
        }
        first = make_world(self.folder, app=sandbox(self.clock), clock=self.clock, **self.settings)
        assert isinstance(first.transport.inner, SandboxTransport)
        self.inner, self.store = first.transport.inner, first.store
        self.database = sqlalchemy.create_engine(journal_url(self.folder), poolclass=sqlalchemy.NullPool)
        self.oracle = Oracle(first.store, self.clock, rules, self.started)
        first.transport.inner = self.wiretap(first, HERE)
        self.made.append(first)
        self.run(first.agent.journal.open())
        self.agents = [first, self.process()]

    def teardown(self) -> None:
        for world in self.made:
            self.loop.run_until_complete(world.agent.aclose())
            support.journals.remove(world.agent.journal)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        shutil.rmtree(self.folder)

    # Processes.

    def wiretap(self, world: World, base_url: str, *, read_only: bool = False) -> Wiretap:
        place = Place(base_url, world.agent.platica.workspace, world.agent.settings.key_id)
        return Wiretap(self.oracle, self.inner, place, read_only)

    def process(self, **more: Any) -> World:
        """Another process on the same journal and sandbox, with nothing in memory."""
        tap = Tap(self.inner)
        world = again(self.made[0], transport=tap, **{**self.settings, **more})
        tap.inner = self.wiretap(world, more.get("base_url", HERE), read_only=more.get("read_only", False))
        self.made.append(world)
        return world

    def run(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """All of them at once, each to its end or, as None, to the end of its process."""
        ends = self.loop.run_until_complete(gather(*work))
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, Killed):
                raise end
        return [None if isinstance(end, Killed) else end for end in ends]

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """As `support.sql`, for a file that is looked into after every step."""
        with self.database.begin() as connection:
            found = connection.exec_driver_sql(statement, values)
            return [tuple(row) for row in found] if found.returns_rows else []

    def started(self, campaign: str) -> list[str]:
        where = "state = 'started' AND target LIKE '% ' || ?"
        return [row[0] for row in self.sql(f"SELECT approval FROM attempt WHERE {where}", campaign or "(new)")]

    # Turns.

    def say(
        self, world: World, session: str, text: str | None, *script: Any, by: Identity | None = None, sure: bool = True
    ) -> Any:
        by = by or SESSIONS[session]
        world.model.script[:] = [*script, "all right"]
        left = len(self.oracle.left)
        (events,) = self.run(world.say(text, session=session, by=by))
        self.heed(events, session, by, world, certain=sure)
        if sure:
            self.compare(events, self.oracle.left[left:])
        return events

    def click(
        self,
        card: Shown,
        world: World,
        *script: Any,
        value: Any = "approve",
        by: Identity | None = None,
        typed: str | None = None,
        interactive: bool = True,
        sure: bool = True,
    ) -> Any:
        """A decision, told to the oracle before it can have any effect."""
        by = by or self.asker(card)
        good = self.offer(card, world, value=value, by=by, typed=typed, interactive=interactive)
        left = len(self.oracle.left)
        world.model.script[:] = [*script, "all right"]
        (events,) = self.run(world.decide(card.id, value, by=by, confirm=typed, interactive=interactive))
        self.heed(events, card.session, by, world, certain=sure)
        if sure:
            self.compare(events, self.oracle.left[left:])
        self.settle(card, world, good, value=value, by=by)
        return events

    def offer(
        self, card: Shown, world: World, *, value: Any, by: Identity, typed: str | None, interactive: bool = True
    ) -> bool:
        place = tapped(world).place
        good = self.oracle.may_approve(card, value=value, by=by, typed=typed, interactive=interactive, place=place)
        if good:
            card.granted = self.clock()
        return good

    def settle(self, card: Shown, world: World, good: bool, *, value: Any, by: Identity) -> None:
        """What a click has made of the card, now that its turn is over."""
        if good:
            card.closed = card.closed or "used"
        elif value != "approve" and self.oracle.may_decide(card, by=by, place=tapped(world).place):
            card.closed = "denied"
        elif self.clock() > card.expires:
            card.closed = card.closed or "expired"

    def heed(self, events: Any, session: str, by: Identity, world: World, *, certain: bool = True) -> None:
        """Takes up the cards that were shown. Whoever was killed leaves a conversation torn."""
        if events is None:
            self.torn.add(session)
            return
        codes = [event.code for event in events if isinstance(event, Failed)]
        assert all(code.startswith("approval_") for code in codes), codes
        if not codes:
            self.torn.discard(session)
        for event in cards(events):
            if all(event.id != card.id for card in self.oracle.cards):
                place = tapped(world).place
                card = self.oracle.show(event, session=session, by=by, place=place, certain=certain)
                self.tally["card"] += 1
                if certain:
                    self.look_at(event, card)

    def look_at(self, event: Any, card: Shown) -> None:
        """What a card says is so, and was asked for."""
        for call in card.calls:
            assert (card.tool, call) in self.proposed, f"nobody proposed {card.tool} {call}"
        facts = event.preview["facts"]
        if "campaign" in facts:
            assert facts["campaign"]["title"] == card.state.record["title"]
        if "audience" in facts:
            assert facts["audience"]["size"] == len(card.state.members)
        assert (event.confirm != "yes") == (card.wanted is not None), (event.confirm, card.wanted)

    def compare(self, events: Any, left: Sequence[Departure]) -> None:
        """Each request's fate is what was told of it: nothing is called done, failed or unknown that isn't."""
        told = Counter(result.outcome for result in results(events) if not result.name.startswith(("get_", "list_")))
        fates = Counter(departure.fate for departure in left)
        assert told["done"] == fates["did"], (told, fates)
        assert told["unknown"] == fates["maybe"], (told, fates)
        self.tally.update(f"told {outcome}" for outcome in told.elements())

    # Cards.

    def asker(self, card: Shown) -> Identity:
        return next(who for who in EVERYBODY if who.key == card.by)

    def fitting(self, card: Shown) -> str | None:
        """What a careful person types."""
        return None if card.wanted is None else max(card.wanted)

    def typed(self, card: Shown, how: str | None) -> str | None:
        title = str((card.state.record or {}).get("title"))
        count = len(card.calls) if card.tool.startswith("remove") else len(card.state.members)
        found = {
            "title": title,
            "count": str(count),
            "loud title": f"  {title.upper()} ",
            "other count": str(count + 1),
        }
        return {**found, "yes": "yes", "id": card.campaign}[how] if how else None

    def waits(self, card: Shown) -> bool:
        return self.oracle.is_open(card) and card.granted is None

    def waiting(self, session: str) -> list[Shown]:
        return [card for card in self.oracle.cards if card.session == session and self.waits(card)]

    def holds(self, card: Shown) -> bool:
        """Whether an approved card must run now: nothing that it showed has changed, and its dates lie ahead."""
        ahead = [date for call in card.calls for date in (call.get("template") or {}).get("scheduledDates", [])]
        in_time = all(datetime.fromisoformat(date).timestamp() > self.clock() for date in ahead)
        return card.certain and self.oracle.is_open(card) and self.oracle.holds(card) and in_time

    def supersede(self, session: str, by: Identity) -> None:
        """A new message of the one who asked overtakes what waits; what somebody else asked for stays."""
        waiting = self.waiting(session)
        if all(card.by == by.key for card in waiting):
            for card in waiting:
                card.closed = "superseded"

    def propose(self, world: World, session: str, what: str, by: Identity) -> Any:
        self.proposed += PROPOSALS[what]
        self.supersede(session, by)
        return self.say(world, session, "do this now", list(PROPOSALS[what]), by=by)

    def fresh(self, what: str, session: str) -> Shown | None:
        """A card that waits now. Somebody sees to it that there is something to do first."""
        for campaign in sorted({str(arguments.get("campaignId")) for _, arguments in PROPOSALS[what]} & set(TITLES)):
            restore(self.store, campaign, self.clock)
        self.propose(self.agents[0], session, what, SESSIONS[session])
        return next(iter(self.waiting(session)), None)

    def ready(self, what: str, session: str) -> Shown | None:
        """A fresh card that must run when it is approved."""
        card = self.fresh(what, session)
        return card if card is not None and self.holds(card) else None

    def insist(self, card: Shown) -> list[Call]:
        self.proposed += [(card.tool, call) for call in card.calls]
        return [(card.tool, dict(call)) for call in card.calls]

    # What happens around the agents.

    def edit(self, kind: str, campaign: str) -> None:
        """Somebody else changes something, in the dashboard or through the API."""
        self.edits += 1
        record, now = self.store.campaign(WORKSPACE, campaign), self.clock.date()
        if kind in ("template text", "template status", "channel"):
            return self.alter(kind)
        if record is None:
            return restore(self.store, campaign, self.clock)
        if kind == "by http":
            return self.patch(campaign)
        members = self.oracle.state(campaign).members
        with self.store.transaction(write=True):
            if kind == "title":
                self.store.save_campaign({**record, "title": f"{TITLES[campaign]} {self.edits}"}, now)
            if kind == "gone":
                self.store.delete_campaign(WORKSPACE, campaign, now)
            if kind in ("leave", "swap") and members:
                self.store.untag(WORKSPACE, campaign, now, members[0][1])
            if kind == "join":
                self.store.add_client(WORKSPACE, campaign, f"52550010{2000 + self.edits}", "Otra", now)
            if kind == "swap":
                known = PEOPLE[campaign][0] if members and members[0][1] == SPARE else SPARE
                self.store.add_client(WORKSPACE, campaign, known, f"Cliente {known[-2:]}", now)
        return None

    def alter(self, kind: str) -> None:
        if kind == "template text":
            self.store.alter("templates", "recordatorio_cita", content=f"{{{{1}}}}, {{{{2}}}}: {self.edits}")
        elif kind == "template status":
            (template,) = self.store.resources(WORKSPACE, "templates", "recordatorio_cita")
            other = "PAUSED" if template["status"] == "APPROVED" else "APPROVED"
            self.store.alter("templates", "recordatorio_cita", status=other)
        else:
            (channel,) = self.store.resources(WORKSPACE, "channels", "wb-501")
            self.store.alter("channels", "wb-501", isConnected=not channel["isConnected"])

    def patch(self, campaign: str) -> None:
        """Another client with a key of its own."""

        async def go() -> None:
            headers = {"authorization": f"Bearer {MULTI_KEY}"}
            body, query = {"title": f"{TITLES[campaign]} {self.edits}"}, {"workspace": WORKSPACE}
            async with httpx.AsyncClient(transport=SandboxTransport(self.inner.app), base_url=HERE) as client:
                response = await client.patch(f"/v1/campaigns/{campaign}", params=query, headers=headers, json=body)
            assert response.status_code == 200, response.text

        self.run(go())

    @rule(kind=st.sampled_from(EDITS), campaign=st.sampled_from(list(TITLES)))
    def somebody_else_changes_something(self, kind: str, campaign: str) -> None:
        self.edit(kind, campaign)

    @rule(seconds=st.sampled_from(TICKS))
    def time_passes(self, seconds: int) -> None:
        self.clock.tick(seconds)

    @rule(at=AGENT)
    def a_process_restarts(self, at: int) -> None:
        self.agents[at] = self.process()

    # What people and models do.

    @rule(at=AGENT, session=SESSION, what=st.sampled_from(list(PROPOSALS)), other=st.booleans())
    def a_model_proposes(self, at: int, session: str, what: str, other: bool) -> None:
        events = self.propose(self.agents[at], session, what, OTHERS[session] if other else SESSIONS[session])
        assert isinstance(events[-1], Reply) or cards(events), events

    @rule(at=AGENT, session=SESSION, text=st.sampled_from(["yes", "Sí.", "ok", "no"]), other=st.booleans())
    def somebody_says_yes(self, at: int, session: str, text: str, other: bool) -> None:
        """No text is an approval, and a bare word overtakes nothing."""
        waiting, left = self.waiting(session), len(self.oracle.left)
        events = self.say(self.agents[at], session, text, by=OTHERS[session] if other else SESSIONS[session])
        assert len(self.oracle.left) == left
        assert {event.id for event in cards(events)} <= {card.id for card in waiting}

    @rule(what=WHAT, session=SESSION, at=AGENT, follow=st.sampled_from(["", "same", "another"]))
    def a_good_approval_runs_once(self, what: str, session: str, at: int, follow: str) -> None:
        card = self.ready(what, session)
        if card is None:
            return
        self.proposed.append(send(B))
        script = {"same": [self.insist(card)], "another": [[send(B)]]}.get(follow, [])
        self.click(card, self.agents[at], *script, typed=self.fitting(card))
        assert card.ran(), "a good approval did not run"
        self.tally["ran"] += 1

    @precondition(lambda self: self.oracle.cards)
    @rule(
        pick=PICK,
        at=AGENT,
        value=st.sampled_from(VALUES),
        by=st.sampled_from(EVERYBODY),
        typed=st.sampled_from(TYPED),
        interactive=st.booleans(),
        insist=st.booleans(),
    )
    def somebody_clicks(
        self, pick: int, at: int, value: Any, by: Identity, typed: str | None, interactive: bool, insist: bool
    ) -> None:
        """On one of the last cards, whatever has become of it."""
        card = self.oracle.cards[-1 - pick % len(self.oracle.cards)]
        self.any_click(card, at, value, by, self.typed(card, typed), interactive, insist=insist)

    def any_click(
        self, card: Shown, at: int, value: Any, by: Identity, typed: str | None, interactive: bool, *, insist: bool
    ) -> None:
        waited, left, world = self.waits(card), len(self.oracle.left), self.agents[at]
        how: dict[str, Any] = {"value": value, "by": by, "typed": typed, "interactive": interactive}
        good = self.oracle.may_approve(card, place=tapped(world).place, **how)
        must = good and self.holds(card)
        events = self.click(card, world, *([self.insist(card)] if insist else []), **how)
        if good:
            assert bool(card.ran()) == must or not card.certain
            return
        assert not [d for d in self.oracle.left[left:] if d.gated], "something ran after a click that was no approval"
        if not card.certain:
            return
        if waited and card.closed == "denied":
            self.tally["denied"] += 1
            assert results(events)[0].outcome == "denied"
            assert len([r for r in results(events) if r.outcome in ("denied", "not_run")]) >= len(card.calls)
            denied = (card.tool, card.calls[0])
            assert all((event.tool, event.arguments) != denied for event in cards(events)), "asked again"
        else:
            self.tally["no approval"] += 1
            assert [type(event) for event in events if not isinstance(event, ToolResult)] == [Failed], events

    @rule(what=WHAT, session=SESSION, at=AGENT, end=st.sampled_from(ENDS))
    def one_thing_is_wrong_with_each_click(self, what: str, session: str, at: int, end: str) -> None:
        """All else is right, so that nothing but this one thing can stop it. The last click decides or comes late."""
        card = self.ready(what, session)
        if card is None:
            return
        asker, typed = self.asker(card), self.fitting(card)
        stranger = CLIENT if CLIENT.kind not in card.kinds else ANA
        self.any_click(card, at, "approve", stranger, typed, True, insist=False)
        for wrong in (None, "yes", self.typed(card, "count"), self.typed(card, "other count")):
            if card.wanted is not None and wrong not in card.wanted:
                self.any_click(card, at, "approve", asker, wrong, True, insist=False)
        if not self.oracle.rules.noninteractive:
            self.any_click(card, at, "approve", asker, typed, False, insist=False)
        self.clock.tick({"late": 3601, "in time": 3599}.get(end, 0))
        value: Any = {"yes": "yes", "no value": None, "case": "Approve"}.get(end, "approve")
        self.any_click(card, at, value, asker, typed, True, insist=True)

    @rule(what=WHAT, session=SESSION, at=AGENT, kind=st.sampled_from(EDITS))
    def an_edit_comes_before_the_click(self, what: str, session: str, at: int, kind: str) -> None:
        card = self.ready(what, session)
        if card is None:
            return
        self.clock.tick(1)
        self.edit(kind, card.campaign or B)
        expected = self.holds(card)
        events = self.click(card, self.agents[at], typed=self.fitting(card))
        assert bool(card.ran()) == expected
        if not expected:
            self.tally["drifted"] += 1
            assert cards(events) or results(events), "nobody was told"
            assert all(event.card.drift for event in cards(events) if event.tool == card.tool)

    # Faults.

    @rule(
        what=WHAT,
        session=SESSION,
        at=AGENT,
        fault=st.sampled_from([*SURE, *OPEN, "422"]),
        kind=st.sampled_from([None, None, "late", *EDITS[:-1]]),
        insist=st.booleans(),
    )
    def the_network_fails(self, what: str, session: str, at: int, fault: str, kind: str | None, insist: bool) -> None:
        """And with the first fault, something changes: what may be repeated is judged anew before it is."""
        card = self.ready(what, session)
        if card is None:
            return
        world, kept = self.agents[at], list[bool]()
        tapped(world).before = self.trouble(fault, lambda: kept.append(self.keeps(card, kind)))
        self.click(card, world, *([self.insist(card)] if insist else []), typed=self.fitting(card))
        tapped(world).before = None
        assert len(card.used[0]) == (SURE[fault] + 1 if fault in SURE and kept[0] else 1)
        self.tally["fault"] += 1
        self.tally["repeated"] += len(card.used[0]) - 1

    def keeps(self, card: Shown, kind: str | None) -> bool:
        """Something changes under a request; whether what the card showed is still so."""
        before = self.oracle.relevant(card, self.oracle.state(card.campaign))
        if kind == "late":
            self.clock.tick(3601)
        elif kind is not None:
            self.edit(kind, card.campaign or B)
        now = self.oracle.relevant(card, self.oracle.state(card.campaign))
        return bool(before == now and self.clock() <= card.expires)

    def trouble(self, fault: str, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """For the first request that leaves from now on."""
        armed = [fault] * SURE.get(fault, 1)

        def strike(departure: Departure, request: httpx.Request) -> httpx.Response | None:
            if not armed:
                return None
            armed.pop()
            meanwhile()
            if fault.startswith("refused"):
                raise httpx.ConnectError("refused")
            if fault in OPEN:
                self.store.add_fault(Fault(fault, method=departure.method, path=departure.path, exact=True))
                return None
            status, headers = (429, {"Retry-After": "0"}) if fault == "limited" else (422, {})
            return httpx.Response(status, json={"code": status, "error": "no"}, headers=headers)

        return strike

    @precondition(lambda self: self.confirm == "risky")
    @rule(at=AGENT, what=st.sampled_from(list(WRITES)), session=SESSION, fault=st.sampled_from(OPEN))
    def the_network_fails_a_plain_write(self, at: int, what: str, session: str, fault: str) -> None:
        """Unknown is told, and the model's second try in the same turn is refused."""
        self.clock.tick(3601)
        restore(self.store, str(WRITES[what][0][1].get("campaignId", C)), self.clock)
        tapped(self.agents[at]).before = self.trouble(fault)
        left = len(self.oracle.left)
        self.proposed += WRITES[what]
        self.supersede(session, SESSIONS[session])
        events = self.say(self.agents[at], session, "do this now", *[list(WRITES[what])] * 2)
        tapped(self.agents[at]).before = None
        # Where a scheduled send lies ahead, even a small write waits for a person.
        assert len(self.oracle.left) - left == (0 if cards(events) or self.waiting(session) else 1)

    # Processes that die, and their successors.

    @rule(
        what=WHAT,
        session=SESSION,
        seconds=st.sampled_from([0, 119, 121]),
        kind=st.sampled_from([None, None, *EDITS]),
        via=st.sampled_from(["same", "other session", "new message"]),
    )
    def a_process_dies_after_the_decision(
        self, what: str, session: str, seconds: int, kind: str | None, via: str
    ) -> None:
        card = self.ready(what, session)
        if card is None:
            return
        self.decided(card)
        self.clock.tick(seconds)
        if kind is not None:
            self.edit(kind, card.campaign or B)
        expected = seconds <= START_WITHIN and self.holds(card) and via != "new message"
        self.agents[0] = self.process()
        if via == "other session":
            left, other = len(self.oracle.left), next(name for name in SESSIONS if name != session)
            self.say(self.agents[0], other, None)
            assert len(self.oracle.left) == left, "an approval ran in another conversation"
        if via == "new message":
            card.closed = "overtaken"
            self.say(self.agents[0], session, "no, something else")
        self.say(self.agents[0], session, None)
        card.closed = card.closed or "used"
        assert bool(card.ran()) == expected
        self.tally[f"resumed {expected}"] += 1

    def decided(self, card: Shown) -> None:
        """The decision is stored, and whoever stored it is gone."""
        typed, asker = self.fitting(card), self.asker(card)
        assert self.offer(card, self.agents[0], value="approve", by=asker, typed=typed)
        self.run(self.agents[0].agent.gate.decide(card.id, "approve", by=asker, confirm=typed))

    @rule(what=WHAT, session=SESSION, moment=st.sampled_from(["before", "after"]), at=AGENT, click=st.booleans())
    def a_process_dies_in_the_request(self, what: str, session: str, moment: str, at: int, click: bool) -> None:
        card = self.ready(what, session)
        if card is None:
            return
        world, left = self.agents[at], len(self.oracle.left)

        def die(departure: Departure, request: httpx.Request) -> None:
            raise Killed

        setattr(tapped(world), moment, die)
        assert self.click(card, world, typed=self.fitting(card), sure=False) is None
        self.clock.tick(AFTER_KILL)
        self.agents[at] = self.process()
        events = self.say(self.agents[1 - at], session, None, self.insist(card), sure=False)
        assert results(events)[0].outcome == "unknown"
        if click:
            self.any_click(card, at, "approve", self.asker(card), self.fitting(card), True, insist=False)
        assert len(self.oracle.left) == left + 1, "an unknown request was repeated"
        self.tally["killed"] += 1

    @rule(at=AGENT, session=SESSION)
    def a_process_goes_on(self, at: int, session: str) -> None:
        """Restarting twice is restarting once."""
        left = len(self.oracle.left)
        for _ in range(2):
            events = self.say(self.agents[at], session, None)
            assert {event.id for event in cards(events)} <= {card.id for card in self.waiting(session)}
        assert len(self.oracle.left) == left

    # Several at once.

    @rule(
        what=WHAT,
        session=SESSION,
        second=st.sampled_from(["approve", "deny", "message", "foreign"]),
        at=AGENT,
        later=LATER,
    )
    def two_act_at_once(self, what: str, session: str, second: str, at: int, later: int) -> None:
        """A good click, and something else at the same time."""
        card = self.ready(what, session)
        if card is None:
            return
        asker, typed = self.asker(card), self.fitting(card)
        one, two = self.agents[0], self.agents[at]
        self.offer(card, one, value="approve", by=asker, typed=typed)
        one.model.script[:] = two.model.script[:] = ["all right"] * 4
        stranger = ANA if ANA.kind not in card.kinds else CLIENT
        how: dict[str, Any] = {"by": stranger if second == "foreign" else asker, "confirm": typed}
        value = "deny" if second == "deny" else "approve"
        message = second == "message"
        other = (
            two.say("no, something else", session=session, by=asker) if message else two.decide(card.id, value, **how)
        )
        for events in self.run(one.decide(card.id, "approve", by=asker, confirm=typed), after(later, other)):
            self.heed(events, session, asker, one, certain=False)
        card.closed = "used"
        assert card.ran() or second in ("deny", "message"), "a good approval did not run"
        self.tally["at once"] += 1

    @rule(first=WHAT, second=WHAT, sessions=st.permutations(["one", "two", "editor"]), same=st.booleans(), later=LATER)
    def two_cards_at_once(self, first: str, second: str, sessions: list[str], same: bool, later: int) -> None:
        """Two people, two agents, perhaps one campaign: what the first does is drift for the second."""
        found = [self.fresh(first, sessions[0]), self.fresh(second, sessions[1])]
        shown = [card for card in found if card is not None]
        if len(shown) < 2:
            return
        work = []
        for number, card in enumerate(shown):
            world, asker, typed = self.agents[0 if same else number], self.asker(card), self.fitting(card)
            self.offer(card, world, value="approve", by=asker, typed=typed)
            world.model.script[:] = ["all right"] * 4
            work.append(world.decide(card.id, "approve", by=asker, confirm=typed))
        for events, card in zip(self.slowly(work[0], after(later, work[1])), shown, strict=True):
            self.heed(events, card.session, self.asker(card), self.agents[0], certain=False)
            card.closed = "used"
        self.tally["two cards"] += 1

    @rule(what=WHAT, sessions=st.permutations(["one", "two", "editor"]), later=LATER)
    def a_plain_write_comes_in_between(self, what: str, sessions: list[str], later: int) -> None:
        """Of the same campaign, from another conversation: it waits for the request, or is drift for it."""
        card = self.ready(what, sessions[0])
        if card is None:
            return
        world, other, asker, typed = *self.agents, self.asker(card), self.fitting(card)
        call, by = update(card.campaign or B, category="marketing"), SESSIONS[sessions[1]]
        self.proposed.append(call)
        self.supersede(sessions[1], by)
        self.offer(card, world, value="approve", by=asker, typed=typed)
        world.model.script[:], other.model.script[:] = ["all right"] * 4, [[call], "all right"]
        writing = other.say("do this now", session=sessions[1], by=by)
        decided, written = self.slowly(world.decide(card.id, "approve", by=asker, confirm=typed), after(later, writing))
        self.heed(decided, card.session, asker, world, certain=False)
        self.heed(written, sessions[1], by, other, certain=False)
        card.closed = "used"
        self.tally["write between"] += 1

    def slowly(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """All at once, with requests that take their time."""
        for world in self.agents:
            tapped(world).pause = 1.0
        ends = self.run(*work)
        for world in self.agents:
            tapped(world).pause = 0.0
        return ends

    # Attacks.

    @rule(
        what=WHAT,
        session=SESSION,
        which=st.sampled_from(list(ELSEWHERE)),
        moment=st.sampled_from(["decision", "start"]),
    )
    def an_approval_is_taken_elsewhere(self, what: str, session: str, which: str, moment: str) -> None:
        card = self.ready(what, session)
        if card is None:
            return
        foreign, left = self.process(**ELSEWHERE[which]), len(self.oracle.left)
        if moment == "decision":
            self.click(card, foreign, typed=self.fitting(card))
        else:
            self.decided(card)
            assert results(self.say(foreign, session, None))[0].outcome == "refused"
        if moment == "start" or which == "read only":
            card.closed = "used"
        assert len(self.oracle.left) == left, f"an approval ran with another {which}"
        self.tally["elsewhere"] += 1

    @rule(what=WHAT, session=SESSION, how=st.sampled_from(TAMPERED), decided=st.booleans())
    def somebody_changes_a_row(self, what: str, session: str, how: str, decided: bool) -> None:
        """Somebody with the database in hand; what they change makes the approval worthless."""
        card = self.ready(what, session)
        if card is None:
            return
        left = len(self.oracle.left)
        if how != "state" and (decided or how.endswith(("decider", "decision"))):
            self.decided(card)
        self.tamper(card, how)
        if card.granted is not None or how == "state":
            self.say(self.process(), session, None, sure=False)
        else:
            self.click(card, self.agents[1], typed=self.fitting(card), sure=False)
        card.closed = "tampered with"
        assert len(self.oracle.left) == left, f"it ran although its {how} was changed"
        self.tally["tampered"] += 1

    def tamper(self, card: Shown, how: str) -> None:
        ((stored,),) = self.sql("SELECT calls FROM approval WHERE id = ?", card.id)
        calls = json.loads(stored)
        if how.startswith("arguments"):
            calls[-1]["arguments"] = swapped(calls[-1]["arguments"])
            self.proposed.append((card.tool, calls[-1]["arguments"]))
            self.sql("UPDATE approval SET calls = ? WHERE id = ?", json.dumps(calls), card.id)
        if how == "arguments and digest":
            known = digest(card.tool, [call["arguments"] for call in calls])
            self.sql("UPDATE approval SET arguments_sha256 = ? WHERE id = ?", known, card.id)
        if how == "tool":
            other = "delete_campaign" if card.tool == "clear_campaign_audience" else "clear_campaign_audience"
            calls = [{"id": call["id"], "arguments": {"campaignId": card.campaign or B}} for call in calls]
            self.sql("UPDATE approval SET tool = ?, calls = ? WHERE id = ?", other, json.dumps(calls), card.id)
        statements = {
            "fingerprint": "UPDATE approval SET fingerprint = 'x' WHERE id = ?",
            "decider": "UPDATE decision SET identity = 'nobody:1' WHERE approval = ?",
            "decision": "UPDATE decision SET decision = 'deny' WHERE approval = ?",
            "no decision": "DELETE FROM decision WHERE approval = ?",
            "state": "UPDATE approval SET state = 'approved', decided_at = requested_at WHERE id = ?",
        }
        if how in statements:
            self.sql(statements[how], card.id)

    # What always holds.

    @invariant()
    def nothing_left_that_should_not(self) -> None:
        if self.agents:
            assert not self.oracle.violations, self.oracle.violations

    @invariant()
    def the_record_agrees_with_the_api(self) -> None:
        """As many requests were carried out as are recorded as done, or one more for each that is unknown."""
        if not self.agents:
            return
        mine = [row for row in self.store.requests() if row["acted"] and row["key_id"] == "sandbox"]
        acted = Counter(_line(row["method"], row["path"], json.loads(row["body"] or "null")) for row in mine)
        done, unclear = Counter[str](), Counter[str]()
        for tool, arguments, state in self.sql("SELECT tool, arguments, state FROM attempt"):
            assert state in ("done", "failed", "unknown"), f"{tool} is left {state}"
            request = _line(*wire(tool, json.loads(arguments)))
            done[request] += state == "done"
            unclear[request] += state == "unknown"
        for request in acted | done:
            assert done[request] <= acted[request] <= done[request] + unclear[request], request
        assert {row["batch"] for row in self.store.outbox()} == {row["batch"] for row in mine if row["batch"]}

    @invariant()
    def every_call_has_its_one_answer(self) -> None:
        if not self.agents:
            return
        rows = self.sql("SELECT conversation, kind, body FROM event ORDER BY conversation, seq")
        asked = self.sql("SELECT conversation, calls FROM approval WHERE state IN ('pending', 'expired')")
        for session in {row[0] for row in rows} - self.torn:
            messages = [(kind, json.loads(body)) for conversation, kind, body in rows if conversation == session]
            calls = [call["id"] for _, message in messages for call in message.get("tool_calls") or []]
            answers = [message["tool_call_id"] for kind, message in messages if kind == "tool"]
            assert len(set(answers)) == len(answers)
            assert set(answers) <= set(calls)
            if waiting := [call for call in calls if call not in answers]:
                held = [ids for conversation, ids in asked if conversation == session]
                assert any(f'"{waiting[0]}"' in ids for ids in held), f"{waiting[0]} waits for nobody"

    @invariant()
    def models_are_shown_whole_histories(self) -> None:
        for world in self.agents:
            for messages in world.model.seen:
                assert_every_call_is_answered_once(messages)


def _line(method: str, path: str, body: Any) -> str:
    return json.dumps([method, path, body], sort_keys=True)


class WritesAsk(Game):
    """The same where every write asks."""

    confirm = "writes"
    asking = PROPOSALS
    title = "writes"


def profile() -> settings:
    """Few games of few steps. PROPERTIES=2000: so many, and longer. PROPERTIES=once: the first failure, as it is."""
    wanted = os.environ.get("PROPERTIES", "")
    common = settings(database=None, deadline=None, report_multiple_bugs=False)
    if wanted.isdigit():
        return settings(common, max_examples=int(wanted), stateful_step_count=30)
    # After ten games hypothesis plays each five times more with small changes, which finds less than new ones do.
    always = settings(common, derandomize=True, max_examples=10, stateful_step_count=10)
    return settings(always, phases=[Phase.generate]) if wanted == "once" else always


@pytest.mark.parametrize(
    ("game", "dice"),
    [*((Game, dice) for dice in range(6)), *((WritesAsk, dice) for dice in range(2))],
    ids=lambda value: str(value) if isinstance(value, int) else value.title,
)
def test_nothing_runs_but_what_was_approved_as_it_was_shown(game: type[Game], dice: int) -> None:
    if os.environ.get("PROPERTIES", "").isdigit():
        dice = random.SystemRandom().getrandbits(64)
    game.tally = Counter()
    run_state_machine_as_test(seed(dice)(game), settings=profile())
    print(f"{game.title} {dice}: {dict(game.tally)}")


TOUR: Sequence[tuple[str, dict[str, Any]]] = (
    ("a_good_approval_runs_once", {"what": "send B", "session": "one", "at": 0, "follow": "same"}),
    ("one_thing_is_wrong_with_each_click", {"what": "clear A", "session": "two", "at": 1, "end": "yes"}),
    ("an_edit_comes_before_the_click", {"what": "send A", "session": "one", "at": 0, "kind": "template status"}),
    ("the_network_fails", {"what": "remove two from A", "session": "thread", "at": 1, "fault": "limited", "kind": None,
                           "insist": False}),
    ("the_network_fails", {"what": "send B", "session": "one", "at": 0, "fault": "drop", "kind": None, "insist": True}),
    ("the_network_fails_a_plain_write", {"what": "update A", "session": "editor", "at": 0, "fault": "html"}),
    ("a_process_dies_in_the_request", {"what": "send A", "session": "two", "moment": "after", "at": 0, "click": True}),
    ("a_process_dies_after_the_decision", {"what": "delete C", "session": "one", "seconds": 119, "kind": None,
                                           "via": "same"}),
    ("a_process_dies_after_the_decision", {"what": "clear B", "session": "one", "seconds": 121, "kind": None,
                                           "via": "same"}),
    ("two_act_at_once", {"what": "remove one from A", "session": "one", "second": "approve", "at": 1, "later": 0}),
    ("two_cards_at_once", {"first": "remove one from A", "second": "clear A", "sessions": ["one", "two", "editor"],
                           "same": False, "later": 1}),
    ("a_plain_write_comes_in_between", {"what": "remove one from A", "sessions": ["two", "one", "editor"], "later": 1}),
    ("an_approval_is_taken_elsewhere", {"what": "clear B", "session": "thread", "which": "key", "moment": "start"}),
    ("somebody_changes_a_row", {"what": "clear B", "session": "editor", "how": "tool", "decided": True}),
    ("a_model_proposes", {"at": 0, "session": "one", "what": "send A and B", "other": False}),
    ("a_model_proposes", {"at": 0, "session": "one", "what": "add 1 to A", "other": False}),
)  # fmt: skip
HAPPENS = (
    "ran", "denied", "no approval", "drifted", "fault", "repeated", "killed", "elsewhere", "tampered", "resumed True",
    "resumed False", "told done", "told unknown", "told superseded", "told not_run", "at once", "two cards",
    "write between",
)  # fmt: skip


def test_every_move_of_a_game_gets_somewhere() -> None:
    """Each is played once, so that none holds only because it never comes to anything."""
    Game.tally = Counter()
    game = Game()
    try:
        game.begin(noninteractive=False)
        for move, choices in TOUR:
            getattr(game, move)(**choices)
            for always in (
                game.nothing_left_that_should_not,
                game.the_record_agrees_with_the_api,
                game.every_call_has_its_one_answer,
                game.models_are_shown_whole_histories,
            ):
                always()
    finally:
        game.teardown()
    assert not [name for name in HAPPENS if not game.tally[name]]
