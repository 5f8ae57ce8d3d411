"""What a card knows: the facts of a risky call, every warning of the design, and drift of whatever is bound."""

import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.loop import ApprovalAsked, Progress
from agent.sandbox.seed import LIMITED_KEY
from agent.sandbox.store import Fault
from tests.support import (
    AVISO,
    BIENVENIDA,
    BUEN_FIN,
    CITA,
    ENCUESTA,
    PROMO,
    World,
    card,
    cards,
    failure,
    make_world,
    results,
)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def build(**more: Any) -> World:
        made.append(make_world(tmp_path, **more))
        return made[-1]

    yield build
    for one in made:
        await one.agent.aclose()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def send(campaign: str = CITA, channel: str = "wb-501", **template: Any) -> tuple[str, dict[str, Any]]:
    if campaign == CITA:
        template = {"params": ["equipo", "viernes"], **template}
    return "send_campaign", {"campaignId": campaign, "channelId": channel, "template": template}


def saludo(campaign: str = ENCUESTA, **template: Any) -> tuple[str, dict[str, Any]]:
    """A send without parameters, from a campaign without a template of its own."""
    return send(campaign, name="saludo_simple", **template)


def codes(asked: ApprovalAsked) -> list[str]:
    return [warning["code"] for warning in asked.preview["warnings"]]


def join(world: World, campaign: str, phone: str, name: str) -> None:
    with world.store.transaction(write=True):
        world.store.add_client("ws_norte", campaign, phone, name, world.clock.date())


def leave(world: World, campaign: str, phone: str | None = None) -> int:
    with world.store.transaction(write=True):
        return world.store.untag("ws_norte", campaign, world.clock.date(), phone)


def change(world: World, campaign: str, **fields: Any) -> None:
    with world.store.transaction(write=True):
        record = world.store.campaign("ws_norte", campaign)
        assert record is not None
        world.store.save_campaign({**record, **fields}, world.clock.date())


async def test_a_plain_send_has_no_warning_and_every_figure(world: World) -> None:
    asked = card(await world.say("send", [send()]))
    assert codes(asked) == []
    assert asked.confirm == "yes"
    shown = "\n".join(asked.card.lines())
    for text in ("Recordatorio de cita", CITA, "utility", "Ventas CDMX", "+52 55 0010 0501", "wb-501", "NOW",
                 "35 unique",
                 "Hola equipo, te recordamos tu cita el viernes.", "APPROVED", "Sofía", "can't be recalled",
                 "are sent to as well"):  # fmt: skip
        assert text in shown
    assert " cost " not in shown


async def test_flags_responder_and_cost_are_in_words(make: Callable[..., World]) -> None:
    world = make(cost_per_message=0.35)
    call = send(sendToProblematic=False, sendToUndeliverable=False)
    call[1]["responderAgentId"] = "agt_diego"
    shown = "\n".join(card(await world.say("send", [call])).card.lines())
    assert shown.count("are left out") == 2
    assert "Diego" in shown
    assert "cost 12.25 MXN" in shown


# Surely wrong: refused before anybody is asked.


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (send(params=["only one"]), "2 variables and 1 params"),
        (send(params=["a", "b", "c"]), "2 variables and 3 params"),
        (saludo(params=["a"]), "0 variables and 1 params"),
        (send(AVISO, params=["marzo"]), "media header document"),
        (send(AVISO, params=["marzo"], type="image", file="https://a.example/x.png"), "media header document"),
        (send(type="image", file="https://a.example/x.png"), "media header -"),
        (send(BIENVENIDA), "media header image"),
        (send(PROMO, params=["a", "b", "c"], buttons=[{"index": 2, "sub_type": "url"}]), "none with index 2"),
        (send(PROMO, params=["a", "b", "c"], buttons=[{"index": 1, "sub_type": "url"}]), "quick_reply, not url"),
        (
            send(PROMO, params=["a", "b", "c"], buttons=[{"index": 0, "sub_type": "quick_reply"}]),
            "url, not quick_reply",
        ),
        (saludo(BUEN_FIN), "is empty"),
        (send(ENCUESTA), "has no template"),
        (send(CITA, name="no_such_template"), "no template"),
        (send(CITA, channel="wb-999"), "no channel wb-999"),
        (("clear_campaign_audience", {"campaignId": BUEN_FIN}), "empty already"),
        (("remove_campaign_audience_client", {"campaignId": CITA, "phoneNumber": "+525599999999"}), "+525599999999"),
        (("delete_campaign", {"campaignId": "cmpNoSuchCampaign000"}), "not found"),
    ],
)
async def test_what_is_surely_wrong_asks_nobody(world: World, call: Any, code: str) -> None:
    events = await world.say("go on", [call], "sorry")
    assert cards(events) == []
    (result,) = results(events)
    assert result.outcome in ("refused", "failed")
    assert code in result.line
    assert world.gated() == []


@pytest.mark.parametrize(
    "template",
    [
        {"scheduledDates": []},
        {"scheduledDates": ["2026-11-23T15:59:59Z"]},
        {"scheduledDates": ["2026-11-23T10:00:00"]},
        {"scheduledDates": ["2026-11-24T16:00:00Z", "2026-11-24T10:00:00-06:00"]},
        {"scheduledDates": ["tomorrow"]},
        {"type": "image", "file": "http://localhost/x.png"},
        {"type": "image", "file": "https://10.0.0.8/x.png"},
        {"type": "image", "file": "https://169.254.169.254/latest"},
        {"type": "image", "file": "https://[::1]/x.png"},
        {"type": "image", "file": "https://0x7f.1/x.png"},
        {"type": "image", "file": "https://2130706433/x.png"},
        {"type": "image", "file": "https://user@a.example/x.png"},
        {"type": "image", "file": "ftp://a.example/x.png"},
        {"type": "image"},
        {"file": "https://a.example/x.png"},
    ],
)
async def test_bad_dates_and_media_are_invalid(world: World, template: dict[str, Any]) -> None:
    events = await world.say("go on", [send(**template)], "sorry")
    assert [result.outcome for result in results(events)] == ["invalid"]
    assert world.gated() == []


# Doubtful: said on the card.


@pytest.mark.parametrize(
    ("call", "code", "confirm"),
    [
        (saludo(CITA, params=[]), "other_template", "title"),
        (send(params=["Luis Hernández", "viernes"]), "one_name_for_all", "yes"),
        (send(params=["luis", "viernes"]), "one_name_for_all", "yes"),
        (send(params=["María fernanda RUIZ", "viernes"]), "one_name_for_all", "yes"),
        (send(params=["{{name}}", "viernes"]), "braces_left", "yes"),
        (send(params=["a", "{{ 2 }}"]), "braces_left", "yes"),
        (send(params=["a", "}}"]), "braces_left", "yes"),
        (send(channel="wb-502"), "channel_disconnected", "yes"),
        (send(scheduledDates=["2026-11-24T21:00:00-06:00"]), "quiet_hours", "yes"),
        (send(scheduledDates=["2026-11-24T08:59:00-06:00"]), "quiet_hours", "yes"),
        (send(scheduledDates=["2026-11-24T10:00:00Z"]), "utc_mistaken", "yes"),
        (send(BIENVENIDA, type="image", file="http://a.example/x.png"), "http_media", "yes"),
    ],
)
async def test_a_doubt_is_on_the_card(world: World, call: Any, code: str, confirm: str) -> None:
    asked = card(await world.say("go on", [call]))
    assert code in codes(asked)
    assert asked.confirm == confirm
    assert asked.warnings
    assert asked.card.warnings == asked.warnings[:3]


@pytest.mark.parametrize("date", ["2026-11-24T09:00:00-06:00", "2026-11-24T20:59:00-06:00", "2026-11-24T16:00:00Z"])
async def test_the_day_is_not_quiet(world: World, date: str) -> None:
    assert codes(card(await world.say("go on", [send(scheduledDates=[date])]))) == []


async def test_a_send_now_in_the_night_is_warned_of(world: World) -> None:
    world.clock.tick(12 * 3600)
    assert codes(card(await world.say("go on", [send()]))) == ["quiet_hours"]


async def test_quiet_hours_are_those_of_the_configured_zone(make: Callable[..., World]) -> None:
    world = make(timezone="Europe/Madrid")
    assert codes(card(await world.say("go", [send(scheduledDates=["2026-11-24T16:00:00-06:00"])]))) == ["quiet_hours"]
    asked = card(await world.say("go", [send(scheduledDates=["2026-11-24T10:00:00"])]))
    assert asked.arguments["template"]["scheduledDates"] == ["2026-11-24T09:00:00.000Z"]


@pytest.mark.parametrize("status", ["PENDING", "REJECTED", "PAUSED", None])
async def test_a_template_that_is_not_approved(world: World, status: str | None) -> None:
    world.store.alter("templates", "recordatorio_cita", status=status)
    asked = card(await world.say("go on", [send()]))
    assert "template_not_approved" in codes(asked)
    assert (status or "unknown status") in asked.warnings[0]


async def test_a_key_that_reads_only_campaigns_says_what_it_cannot_check(make: Callable[..., World]) -> None:
    world = make(key=LIMITED_KEY)
    asked = card(await world.say("go on", [send(params=["just one"])]))
    assert codes(asked) == ["template_unreadable", "channel_unreadable"]
    assert "not readable with this key" in "\n".join(asked.card.lines())
    assert "Hola" not in "\n".join(asked.card.lines())
    world.model.script.append("no")
    await world.decide(asked.id, "deny")
    asked = card(await world.say("go on", [send()]))
    assert results(await world.decide(asked.id, "approve", "ok"))[0].ok
    assert len(world.store.outbox()) == 35


async def test_both_forms_of_one_mexican_number_are_one_recipient(world: World) -> None:
    menu = [{"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": "x"}]}]
    asked = card(await world.say("go on", [send(PROMO, params=["a", "b", "c"], buttons=menu)]))
    assert "duplicates" in codes(asked)
    audience = asked.preview["facts"]["audience"]
    assert (audience["size"], audience["unique"], audience["duplicates"]) == (120, 119, 1)
    # The API writes to both forms; what is counted, and what it costs, is what will be sent.
    assert asked.preview["facts"]["messages"] == 120
    await world.decide(asked.id, "approve", confirm="119")
    assert len(world.store.outbox()) == 120


def pressed(*values: str, index: int = 0, kind: str = "url") -> dict[str, Any]:
    return {"index": index, "sub_type": kind, "parameters": [{"type": "text", "text": value} for value in values]}


SURELY_WRONG = [
    ({}, "button 0 of the template"),
    ({"buttons": [pressed("a", "b")]}, "has 1 variables and 2 values were given"),
    ({"buttons": [pressed("a")], "responderAgentId": "nobody"}, "there is no agent nobody to answer replies"),
]


@pytest.mark.parametrize(("more", "told"), SURELY_WRONG)
async def test_what_the_api_is_sure_to_refuse_asks_nobody(world: World, more: dict[str, Any], told: str) -> None:
    tool, arguments = send(PROMO, params=["a", "b", "c"], **{k: v for k, v in more.items() if k == "buttons"})
    arguments |= {name: value for name, value in more.items() if name != "buttons"}
    events = await world.say("go on", [(tool, arguments)])
    (result,) = results(events)
    assert (result.outcome, told in result.line) == ("refused", True), result.line
    assert not cards(events)


async def test_a_button_is_shown_with_the_address_that_it_will_have(world: World) -> None:
    asked = card(await world.say("go on", [send(PROMO, params=["a", "b", "c"], buttons=[pressed("otono")])]))
    assert "/menu/otono" in "\n".join(asked.card.lines())
    assert "{{1}}" not in "\n".join(asked.card.lines())


async def test_a_send_that_leaves_people_out_says_at_most(world: World) -> None:
    few = {"sendToProblematic": False, "buttons": [pressed("x")]}
    asked = card(await world.say("go on", [send(PROMO, params=["a", "b", "c"], **few)]))
    lines = asked.card.lines()
    assert "at most 119" in lines[0] or "a lo más 119" in lines[0]
    assert any("at most 120" in line or "a lo más 120" in line for line in lines)


async def test_phones_that_are_none_are_counted(world: World) -> None:
    def before(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/audience"):
            clients = [
                {"id": str(n), "phoneNumber": phone} for n, phone in enumerate(["525500100010", None, "12", "x"])
            ]
            page = {"id": "w", "clients": clients, "pagination": {"hasMore": False}}
            return httpx.Response(200, json={"workspaces": [page]})
        return None

    world.transport.before = before
    asked = card(await world.say("go on", [send()]))
    assert "malformed_phones" in codes(asked)
    audience = asked.preview["facts"]["audience"]
    assert (audience["size"], audience["unique"], audience["malformed"]) == (4, 1, 3)


async def test_a_title_of_two_scripts(world: World) -> None:
    change(world, CITA, title="Rеcordatorio")
    for call in (send(), ("delete_campaign", {"campaignId": CITA})):
        assert "mixed_scripts" in codes(card(await world.say("go on", [call])))


async def test_sent_before_wants_the_title_for_seven_days(world: World) -> None:
    first = card(await world.say("send", [send()]))
    await world.decide(first.id, "approve", "sent")
    for days, expected in ((0.01, ["sent_before"]), (6.9, ["sent_before"]), (7.1, [])):
        world.clock.seconds = first.expires_at - 3600 + days * 86400
        asked = card(await world.say("send again", [send()]))
        assert [code for code in codes(asked) if code != "quiet_hours"] == expected
        assert asked.confirm == ("title" if expected else "yes")
    assert len(world.gated()) == 1


async def test_a_failed_send_is_no_send(world: World) -> None:
    first = card(await world.say("send", [send()]))

    def before(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(422, json={"error": "no", "code": 422}) if request.url.path.endswith("/send") else None

    world.transport.before = before
    await world.decide(first.id, "approve", "failed")
    world.transport.before = None
    assert codes(card(await world.say("send", [send()]))) == []


async def test_the_same_template_to_the_same_people_from_another_campaign(world: World) -> None:
    """cliNorte11 is in one of them only; the same phone in both forms counts as the same person."""
    first = card(await world.say("send", [saludo()]))
    await world.decide(first.id, "approve", "sent")
    assert not any(code == "same_people" for code in codes(card(await world.say("other", [saludo(CITA, params=[])]))))
    join(world, BUEN_FIN, "5215500100011", "Gabriela")
    join(world, BUEN_FIN, "525500100002", "María")
    asked = card(await world.say("other", [saludo(BUEN_FIN)], session="other"))
    assert "same_people" in codes(asked)
    assert asked.confirm == "title"
    assert any(warning.startswith("1 of these people") for warning in asked.warnings)
    # Another template to the same people is another message.
    asked = card(await world.say("other", [send(BUEN_FIN, name="recordatorio_cita", params=["a", "b"])], session="x"))
    assert "same_people" not in codes(asked)


async def test_an_unknown_send_begins_the_next_card_and_wants_the_title(world: World) -> None:
    first = card(await world.say("send", [send()]))
    world.store.add_fault(Fault("drop", path=f"/v1/campaigns/{CITA}/send"))
    await world.decide(first.id, "approve", "unknown")
    asked = card(await world.say("send", [send(params=["Luis", "{{2}}"])]))
    assert codes(asked)[0] == "maybe_sent"
    assert asked.card.warnings[0].startswith("MAY HAVE BEEN SENT ALREADY")
    assert asked.confirm == "title"
    assert failure(await world.decide(asked.id, "approve", confirm="35")).code == "approval_confirmation"


async def test_a_scheduled_send_ahead_counts_from_its_date(world: World) -> None:
    first = card(await world.say("send", [send(scheduledDates=["2026-12-20T12:00:00-06:00"])]))
    await world.decide(first.id, "approve", "scheduled")
    world.clock.tick(20 * 86400)
    asked = card(await world.say("send", [send()]))
    assert "sent_before" in codes(asked)
    asked = card(await world.say("delete", [("delete_campaign", {"campaignId": CITA})]))
    assert "send_ahead" in codes(asked)


async def test_the_most_harmful_three_are_in_full_and_the_rest_folded(world: World) -> None:
    first = card(await world.say("send", [send()]))
    await world.decide(first.id, "approve", "sent")
    call = send(
        PROMO,
        channel="wb-502",
        name="recordatorio_cita",
        params=["Ana", "{{2}}"],
        scheduledDates=["2026-11-24T10:00:00Z"],
    )
    asked = card(await world.say("send", [call]))
    assert len(asked.card.warnings) == 3
    assert len(asked.card.folded) == len(asked.warnings) - 3 > 0
    assert f"{len(asked.card.folded)} more" in asked.card.footer
    assert codes(asked)[:2] in (["other_template", "same_people"], ["same_people", "other_template"])


async def test_a_removal_names_everybody_who_shares_the_phone_and_the_twin_that_stays(world: World) -> None:
    call = ("remove_campaign_audience_client", {"campaignId": PROMO, "phoneNumber": "+528100100013"})
    asked = card(await world.say("remove", [call]))
    assert "other_form_stays" in codes(asked)
    await world.decide(asked.id, "approve", "ok")
    assert world.gated() == [("DELETE", f"/v1/campaigns/{PROMO}/audience/528100100013")]


# Drift: whatever is bound and changes.


def swap(world: World) -> None:
    leave(world, CITA, "525500100002")
    join(world, CITA, "525599990001", "Otra")


DRIFTS: dict[str, Callable[[World], Any]] = {
    "title": lambda w: change(w, CITA, title="Otro título"),
    "category": lambda w: change(w, CITA, category="marketing"),
    "template name": lambda w: change(w, CITA, templateName="saludo_simple"),
    "only lastUpdate": lambda w: change(w, CITA),
    "joined": lambda w: join(w, CITA, "525599990001", "Otra"),
    "left": lambda w: leave(w, CITA, "525500100002"),
    "swapped": swap,
    "template text": lambda w: w.store.alter("templates", "recordatorio_cita", content="Adiós {{1}} {{2}}"),
    "template status": lambda w: w.store.alter("templates", "recordatorio_cita", status="PAUSED"),
    "template footer": lambda w: w.store.alter("templates", "recordatorio_cita", footer="Responde BAJA"),
    "template button": lambda w: w.store.alter("templates", "recordatorio_cita", buttons=[{"type": "URL", "url": "https://evil.example"}]),
    "channel name": lambda w: w.store.alter("channels", "wb-501", name="Otro"),
    "channel number": lambda w: w.store.alter("channels", "wb-501", displayPhoneNumber="+52 1"),
    "channel down": lambda w: w.store.alter("channels", "wb-501", isConnected=False),
    "responder": lambda w: w.store.alter("channels", "wb-501", defaultAgentId="agt_diego"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(DRIFTS))
async def test_drift_of_anything_bound_runs_nothing_and_shows_the_difference(world: World, what: str) -> None:
    asked = card(await world.say("send", [send(name="recordatorio_cita")]))
    world.clock.tick(1)
    DRIFTS[what](world)
    events = await world.decide(asked.id, "approve")
    assert world.gated() == []
    fresh = card(events)
    assert fresh.id != asked.id
    assert len(fresh.card.drift) >= 2
    assert "CHANGED" in fresh.card.drift[0]
    assert results(events) == []
    # The new card holds: nothing has moved since.
    assert results(await world.decide(fresh.id, "approve", "ok", confirm="Recordatorio de cita"))[0].ok or what in (
        "title",
        "template name",
        "template status",
        "channel down",
        "template button",
    )


@pytest.mark.parametrize("tool", ["delete_campaign", "clear_campaign_audience", "remove_campaign_audience_client"])
@pytest.mark.parametrize("what", ["title", "joined", "swapped"])
async def test_drift_of_a_destructive_call_runs_nothing(world: World, tool: str, what: str) -> None:
    more = {"phoneNumber": "+525500100010"} if tool.startswith("remove") else {}
    asked = card(await world.say("go on", [(tool, {"campaignId": CITA, **more})]))
    world.clock.tick(1)
    DRIFTS[what](world)
    events = await world.decide(asked.id, "approve", confirm="35")
    assert world.gated() == []
    assert card(events).card.drift


async def test_the_difference_counts_who_joined_and_left(world: World) -> None:
    asked = card(await world.say("send", [send()]))
    world.clock.tick(1)
    swap(world)
    fresh = card(await world.decide(asked.id, "approve"))
    assert any("35 → 35 (1 joined, 1 left)" in line for line in fresh.card.drift)
    await world.decide(fresh.id, "deny", "ok")
    asked = card(await world.say("send", [send()]))
    world.clock.tick(1)
    change(world, CITA, title="Otro")
    fresh = card(await world.decide(asked.id, "approve"))
    assert any("Recordatorio de cita → Otro" in line for line in fresh.card.drift)


async def test_a_target_that_is_gone_or_emptied_meanwhile_runs_nothing(world: World) -> None:
    asked = card(await world.say("send", [send()]))
    leave(world, CITA)
    events = await world.decide(asked.id, "approve", "ok")
    assert world.gated() == []
    assert not any(result.ok for result in results(events))
    asked = card(await world.say("delete", [("delete_campaign", {"campaignId": AVISO})]))
    with world.store.transaction(write=True):
        world.store.delete_campaign("ws_norte", AVISO, world.clock.date())
    events = await world.decide(asked.id, "approve", "ok", confirm="Aviso de facturación")
    assert world.gated() == []
    assert not any(result.ok for result in results(events))


async def test_an_api_that_cannot_be_read_at_the_claim_runs_nothing(world: World) -> None:
    asked = card(await world.say("send", [send()]))

    def before(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(404, json={"error": "gone", "code": 404}) if request.method == "GET" else None

    world.transport.before = before
    events = await world.decide(asked.id, "approve", "ok")
    assert not any(result.ok for result in results(events))
    assert world.gated() == []
    world.transport.before = None


# Large audiences: exact size and newest member, in few requests.


@pytest.fixture
def large(make: Callable[..., World]) -> World:
    world = make()
    rows = [(f"cliBig{n:014d}", f"5255{n:08d}") for n in range(2_300)]
    with world.store.transaction(write=True):
        for client, phone in rows:
            number = int(client[-5:])
            day = f"2026-10-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
            record = {"id": client, "phoneNumber": phone, "name": "N", "creationDate": day, "lastUpdate": day}
            world.store._db.execute(
                "INSERT INTO client (id, workspace, record) VALUES (?, 'ws_norte', ?)", (client, json.dumps(record))
            )
            world.store._tag(client, f"campaign-{BUEN_FIN}")
    return world


def audience_reads(world: World) -> int:
    return sum(path.startswith(f"/v1/campaigns/{BUEN_FIN}/audience") for _, path in world.transport.seen)


async def test_a_large_audience_is_read_whole_for_the_card_and_counted_at_the_claim(large: World) -> None:
    events = await large.say("send", [saludo(BUEN_FIN)])
    asked = card(events)
    assert asked.preview["facts"]["audience"]["size"] == 2_300
    assert [event.read for event in events if isinstance(event, Progress)] == [1000, 2000]
    before = audience_reads(large)
    assert results(await large.decide(asked.id, "approve", "ok", confirm="Buen Fin 2026"))[0].ok
    assert audience_reads(large) - before <= 3 + 2 * math.ceil(math.log2(2_300))
    assert len(large.store.outbox()) == 2_300
    again = card(await large.say("send", [saludo(BUEN_FIN)]))
    assert codes(again)[0] == "sent_before"


@pytest.mark.parametrize("what", ["joined", "left", "swapped", "title"])
async def test_drift_of_a_large_audience_runs_nothing(large: World, what: str) -> None:
    asked = card(await large.say("send", [saludo(BUEN_FIN)]))
    large.clock.tick(1)
    if what in ("left", "swapped"):
        assert leave(large, BUEN_FIN, "525500000007") == 1
    if what in ("joined", "swapped"):
        join(large, BUEN_FIN, "525599990001", "Otra")
    if what == "title":
        change(large, BUEN_FIN, title="Otro")
    fresh = card(await large.decide(asked.id, "approve", confirm="Buen Fin 2026"))
    assert large.gated() == []
    assert fresh.card.drift
    assert fresh.preview["facts"]["audience"]["size"] == {"joined": 2301, "left": 2299}.get(what, 2300)


@pytest.mark.parametrize("tool", ["clear_campaign_audience", "delete_campaign"])
async def test_a_large_audience_can_be_cleared_and_deleted(large: World, tool: str) -> None:
    asked = card(await large.say("go on", [(tool, {"campaignId": BUEN_FIN})]))
    assert results(await large.decide(asked.id, "approve", "ok", confirm="2300"))[0].ok


async def test_somebody_can_be_removed_from_a_large_audience(large: World) -> None:
    call = ("remove_campaign_audience_client", {"campaignId": BUEN_FIN, "phoneNumber": "+525500000007"})
    asked = card(await large.say("go on", [call]))
    (result,) = results(await large.decide(asked.id, "approve", "ok"))
    assert result.line == 'Removed from "Buen Fin 2026": 1 with +525500000007.'


async def test_several_can_be_removed_from_a_large_audience(large: World) -> None:
    calls = [
        ("remove_campaign_audience_client", {"campaignId": BUEN_FIN, "phoneNumber": f"+52550000000{n}"})
        for n in (1, 2, 3)
    ]
    asked = card(await large.say("go on", calls))
    assert [r.ok for r in results(await large.decide(asked.id, "approve", "ok", confirm="3"))] == [True] * 3


async def test_a_swap_inside_a_batch_of_a_large_audience_stops_it(large: World) -> None:
    """The size is the same again, the newest member isn't."""
    tool = "remove_campaign_audience_client"
    calls = [(tool, {"campaignId": BUEN_FIN, "phoneNumber": f"+52550000000{n}"}) for n in (1, 2, 3)]
    asked = card(await large.say("go on", calls))
    large.clock.tick(1)

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "DELETE":
            large.transport.before = None
            leave(large, BUEN_FIN, "525500000700")
            join(large, BUEN_FIN, "525599990001", "Otra")
        return None

    large.transport.before = before
    events = await large.decide(asked.id, "approve", confirm="3")
    assert len(large.gated()) == 1
    assert cards(events)[0].card.drift


async def test_a_batch_of_removals_reads_a_large_audience_a_few_times_only(large: World) -> None:
    calls = [
        ("remove_campaign_audience_client", {"campaignId": BUEN_FIN, "phoneNumber": f"+52550000001{n}"})
        for n in range(8)
    ]
    card(await large.say("go on", calls))
    assert audience_reads(large) <= 2 * 5


async def test_an_audience_beyond_the_limit_is_refused(make: Callable[..., World]) -> None:
    world = make(max_audience=30)
    events = await world.say("send", [send()], "too large")
    assert results(events)[0].outcome == "refused"
    assert "30" in results(events)[0].line


@pytest.mark.parametrize("field", ["title", "templateName", "owners", "category"])
async def test_a_record_with_nulls_still_makes_a_card(world: World, field: str) -> None:
    """Responses are tolerated: a null where a value is usual is no crash."""
    record = {"id": ENCUESTA, "title": "Encuesta", "category": "marketing", "owners": [], field: None}

    def before(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and request.url.path == f"/v1/campaigns/{ENCUESTA}":
            return httpx.Response(200, json={"workspaces": [{"id": "w", "campaigns": [record]}]})
        return None

    world.transport.before = before
    asked = card(await world.say("clear", [("clear_campaign_audience", {"campaignId": ENCUESTA})]))
    assert results(await world.decide(asked.id, "approve", "ok", confirm="12"))[0].ok
