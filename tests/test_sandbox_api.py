"""The sandbox of the campaigns API keeps the contract, records what it did, and fails as it is told to."""

import asyncio
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette

from agent.sandbox.api import FAULTS, SandboxTransport, create_app
from agent.sandbox.seed import AUDIENCES, BIENVENIDA, BUEN_FIN, CITA, ENCUESTA, PROMO, workspaces
from agent.sandbox.store import Fault, Store

pytestmark = pytest.mark.asyncio

NOW = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
LOCAL = {"Authorization": "Bearer pl_key_sandbox_local"}
MULTI = {"Authorization": "Bearer pl_key_multi_local"}
LIMITED = {"Authorization": "Bearer pl_key_limited_local"}
SALUDO: dict[str, Any] = {"channelId": "wb-501", "template": {"name": "saludo_simple"}}
MENU = {"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": "verano"}]}
VERANO = {"params": ["Ana", "20%", "31 de agosto"], "buttons": [MENU]}
Made = Callable[..., Starlette]


@pytest.fixture
def made() -> Made:
    """An app in memory, with a clock that stands still and ids that count."""

    def make(database: str | Path = ":memory:", **options: Any) -> Starlette:
        numbers = iter(range(1, 10_000))
        settings: dict[str, Any] = {
            "rate_limit": 10_000,
            "clock": lambda: NOW,
            "new_id": lambda: f"new{next(numbers):017d}",
        } | options
        return create_app(database, **settings)

    return make


@pytest.fixture
def app(made: Made) -> Starlette:
    return made()


@pytest.fixture
def store(app: Starlette) -> Store:
    found = app.state.store
    assert isinstance(found, Store)
    return found


@pytest_asyncio.fixture
async def api(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as found:
        yield found


def client(app: Starlette, **headers: str) -> httpx.AsyncClient:
    transport = SandboxTransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://sandbox", headers=headers or LOCAL)


def refused(answer: httpx.Response, code: int, details: str = "") -> None:
    body = answer.json()
    assert answer.status_code == code, body
    assert body["code"] == code
    assert isinstance(body["error"], str)
    assert set(body) <= {"code", "error", "details"}
    assert details in body.get("details", "")


def ok(answer: httpx.Response, code: int = 200) -> Any:
    assert answer.status_code == code, answer.text
    return answer.json()


async def audience(api: httpx.AsyncClient, campaign: str, **query: Any) -> list[dict[str, Any]]:
    answer = await api.get(f"/v1/campaigns/{campaign}/audience", params={"limit": 500, **query})
    found: list[dict[str, Any]] = ok(answer)["workspaces"][0]["clients"]
    return found


# Lists, records and envelopes.


async def test_list_has_the_documented_envelope(api: httpx.AsyncClient) -> None:
    body = ok(await api.get("/v1/campaigns"))
    (workspace,) = body["workspaces"]
    assert list(body) == ["workspaces"]
    assert set(workspace) == {"id", "name", "campaignsCount", "campaigns", "pagination"}
    assert (workspace["id"], workspace["name"], workspace["campaignsCount"]) == ("ws_norte", "Café del Norte", 6)
    assert workspace["pagination"] == {"limit": 50, "offset": 0, "hasMore": False}
    promo = next(one for one in workspace["campaigns"] if one["id"] == "cmpPromoVerano2026aa")
    names = "id title category platform templateName owners language creationDate lastUpdate"
    assert list(promo) == names.split(" ")
    assert re.fullmatch(r"2026-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", promo["creationDate"])
    updates = [one["lastUpdate"] for one in workspace["campaigns"]]
    assert updates == sorted(updates, reverse=True)


async def test_list_pages_and_sorts(api: httpx.AsyncClient) -> None:
    query: dict[str, Any] = {"sortBy": "title", "sortDirection": "asc", "limit": 4}
    first = ok(await api.get("/v1/campaigns", params=query))["workspaces"][0]
    rest = ok(await api.get("/v1/campaigns", params={**query, "offset": 4}))["workspaces"][0]
    beyond = ok(await api.get("/v1/campaigns", params={**query, "offset": 10**15}))["workspaces"][0]
    titles = [one["title"] for page in (first, rest) for one in page["campaigns"]]
    assert titles == sorted(titles)
    assert (first["campaignsCount"], first["pagination"]["hasMore"]) == (4, True)
    assert (rest["campaignsCount"], rest["pagination"]["hasMore"]) == (2, False)
    assert beyond["campaigns"] == []


@pytest.mark.parametrize(
    ("query", "details"),
    [
        ("limit=0", "limit: must be an integer from 1 to 200"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.0", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("offset=-1", "offset"),
        ("sortBy=name", "sortBy"),
        ("sortDirection=DESC", "sortDirection"),
        ("page=2", "page: unknown query parameter"),
        ("limit=5&limit=6", "limit: is given twice"),
    ],
)
async def test_list_refuses_a_wrong_query(api: httpx.AsyncClient, query: str, details: str) -> None:
    refused(await api.get(f"/v1/campaigns?{query}"), 400, details)


async def test_get_has_the_one_campaign_and_no_pagination(api: httpx.AsyncClient) -> None:
    (workspace,) = ok(await api.get(f"/v1/campaigns/{PROMO}"))["workspaces"]
    assert set(workspace) == {"id", "name", "campaignsCount", "campaigns"}
    assert workspace["campaigns"][0]["wabaId"] == "waba_norte"
    (encuesta,) = ok(await api.get(f"/v1/campaigns/{ENCUESTA}"))["workspaces"][0]["campaigns"]
    assert "templateName" not in encuesta
    refused(await api.get("/v1/campaigns/nope"), 404, "Campaign not found")
    refused(await api.get(f"/v1/campaigns/{PROMO}?limit=5"), 400, "limit: unknown query parameter")


async def test_reads_beside_the_ten(api: httpx.AsyncClient) -> None:
    (workspace,) = ok(await api.get("/v1/channels"))["workspaces"]
    channels = workspace["channels"]
    assert set(workspace) == {"id", "name", "channels"}
    assert [one["prefixedChannelId"] for one in channels] == ["wb-501", "wb-502"]
    assert (channels[0]["isConnected"], channels[0]["phoneNumber"]) == (True, "525500100501")
    assert (channels[1]["status"], channels[1]["defaultAgentId"]) == ("DISCONNECTED", "agt_diego")
    assert len(ok(await api.get("/v1/templates"))["workspaces"][0]["templates"]) == 7
    (promo,) = ok(await api.get("/v1/templates/promo_verano"))["workspaces"][0]["templates"]
    assert (promo["dynamicButtonsCount"], promo["header"], len(promo["buttons"])) == (1, None, 2)
    agents = ok(await api.get("/v1/agents"))["workspaces"][0]["agents"]
    assert {one["name"] for one in agents} == {"Sofía", "Diego"}
    refused(await api.get("/v1/templates/nope"), 404, "Template not found")


# Keys and workspaces.


async def test_keys(app: Starlette, api: httpx.AsyncClient) -> None:
    for header in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "pl_key_sandbox_local"}):
        async with httpx.AsyncClient(transport=SandboxTransport(app), base_url="http://sandbox") as stranger:
            refused(await stranger.get("/v1/campaigns", headers=header), 401)
    for path in ("/v1/channels", "/v1/templates", "/v1/templates/promo_verano", "/v1/agents"):
        refused(await api.get(path, headers=LIMITED), 403)
    ok(await api.get("/v1/campaigns", headers=LIMITED))


async def test_a_key_of_several_workspaces(api: httpx.AsyncClient) -> None:
    both = ok(await api.get("/v1/campaigns?limit=3", headers=MULTI))["workspaces"]
    assert [(one["id"], one["campaignsCount"], one["pagination"]["hasMore"]) for one in both] == [
        ("ws_norte", 3, True),
        ("ws_sur", 3, False),
    ]
    (one,) = ok(await api.get("/v1/campaigns/cmpSurPostreDelMes01", headers=MULTI))["workspaces"]
    assert one["name"] == "Café del Sur"
    refused(await api.get("/v1/campaigns/cmpSurPostreDelMes01"), 404)
    refused(await api.get("/v1/campaigns/cmpSurPostreDelMes01?workspace=ws_norte", headers=MULTI), 404)
    new = {"title": "Promo Verano 2026", "category": "marketing"}
    answer = await api.post("/v1/campaigns", json=new, headers=MULTI)
    refused(answer, 400)
    assert "Must specify a valid workspace" in answer.json()["error"]
    refused(await api.post("/v1/campaigns?workspace=ws_este", json=new, headers=MULTI), 400)
    refused(await api.get("/v1/campaigns?workspace=ws_sur"), 400)
    ok(await api.get("/v1/campaigns?workspace=ws_norte"))
    ok(await api.post("/v1/campaigns?workspace=ws_sur", json=new, headers=MULTI), 201)


# Create, update, delete.


async def test_create_fills_in_from_the_template(api: httpx.AsyncClient, store: Store) -> None:
    new = {"title": "Citas de mayo", "category": "utility", "templateName": "recordatorio_cita"}
    body = ok(await api.post("/v1/campaigns", json=new), 201)
    assert (body["status"], body["message"]) == ("success", "Campaign created successfully")
    assert body["data"] == {
        "id": "new00000000000000001",
        **new,
        "platform": "whatsapp",
        "owners": [],
        "language": "es_MX",
        "templateLanguage": "es_MX",
        "wabaId": "waba_norte",
        "creationDate": "2026-11-20T16:00:00.000Z",
        "lastUpdate": "2026-11-20T16:00:00.000Z",
    }
    stored = next(one for one in store.state()[0]["campaigns"] if one["id"] == body["data"]["id"])
    assert stored["message"].startswith("Hola {{1}}, te recordamos")
    assert json.loads(stored["template"])["name"] == "recordatorio_cita"


async def test_create_keeps_what_overrides_the_template(api: httpx.AsyncClient, store: Store) -> None:
    given = {
        "title": "Saludo",
        "category": "marketing",
        "templateName": "saludo_simple",
        "language": "en",
        "wabaId": "w",
    }
    data = ok(await api.post("/v1/campaigns", json={**given, "message": "Hi"}), 201)["data"]
    assert (data["language"], data["templateLanguage"], data["wabaId"]) == ("en", "es_MX", "w")
    assert next(one for one in store.state()[0]["campaigns"] if one["id"] == data["id"])["message"] == "Hi"
    bare = ok(await api.post("/v1/campaigns", json={"title": "Nada", "category": "utility"}), 201)["data"]
    assert not {"templateName", "language", "wabaId", "templateLanguage"} & set(bare)


@pytest.mark.parametrize(
    ("change", "code", "details"),
    [
        ({"title": None}, 400, "title: must be a string"),
        ({"title": "  "}, 400, "title"),
        ({"title": 5}, 400, "title"),
        ({"title": "Promo Verano 2026"}, 400, "title already exists"),
        ({"category": "MARKETING"}, 400, "category"),
        ({"category": ["marketing"]}, 400, "category"),
        ({"owners": "a@b.example"}, 400, "owners: must be a list"),
        ({"owners": ["a@b.example", "nobody"]}, 400, "owners[1]"),
        ({"templateName": "nope"}, 400, "templateName"),
        ({"templateName": "postre_mes"}, 400, "templateName"),
        ({"templateName": "buen_fin_2026"}, 422, "not approved"),
        ({"templateName": "encuesta_2025"}, 422, "not approved"),
        ({"templateLanguage": "es_MX"}, 400, "templateLanguage: unknown field"),
        ({"id": "x"}, 400, "id: unknown field"),
    ],
)
async def test_create_and_update_refuse(
    api: httpx.AsyncClient, store: Store, change: dict[str, Any], code: int, details: str
) -> None:
    before = store.state()
    refused(await api.post("/v1/campaigns", json={"title": "Nueva", "category": "utility", **change}), code, details)
    refused(await api.patch(f"/v1/campaigns/{CITA}", json=change), code, details)
    assert store.state() == before
    assert not any(row["acted"] for row in store.requests())


async def test_create_needs_title_and_category(api: httpx.AsyncClient) -> None:
    refused(await api.post("/v1/campaigns", json={"title": "x"}), 400, "category: is required")
    refused(await api.post("/v1/campaigns", json={"category": "utility"}), 400, "title: is required")


async def test_update_changes_only_what_is_sent(api: httpx.AsyncClient) -> None:
    before = ok(await api.get(f"/v1/campaigns/{CITA}"))["workspaces"][0]["campaigns"][0]
    body = ok(await api.patch(f"/v1/campaigns/{CITA}", json={"title": "Recordatorio"}))
    after = ok(await api.get(f"/v1/campaigns/{CITA}"))["workspaces"][0]["campaigns"][0]
    assert body["message"] == "Campaign updated successfully"
    assert after == {**before, "title": "Recordatorio", "lastUpdate": after["lastUpdate"]}
    assert after["lastUpdate"] > before["lastUpdate"]
    again = ok(await api.patch(f"/v1/campaigns/{CITA}", json={"title": "Recordatorio"}))["data"]
    assert again["lastUpdate"] > after["lastUpdate"], "a clock that stands still hides no change"
    refused(await api.patch(f"/v1/campaigns/{CITA}", json={}), 400, "needs at least one of")
    refused(await api.patch("/v1/campaigns/nope", json={"title": "x"}), 404)


async def test_update_of_the_template_brings_its_fields(api: httpx.AsyncClient, store: Store) -> None:
    ok(await api.patch(f"/v1/campaigns/{ENCUESTA}", json={"templateName": "saludo_simple"}))
    stored = next(one for one in store.state()[0]["campaigns"] if one["id"] == ENCUESTA)
    assert (stored["message"], stored["templateLanguage"]) == (
        "¡Hola! Gracias por ser parte de Café del Norte.",
        "es_MX",
    )


async def test_delete_takes_the_campaign_and_its_tags(api: httpx.AsyncClient, store: Store) -> None:
    body = ok(await api.delete(f"/v1/campaigns/{CITA}"))
    assert (body["status"], set(body)) == ("success", {"status", "message"})
    refused(await api.delete(f"/v1/campaigns/{CITA}"), 404)
    state = store.state()[0]
    assert len(state["campaigns"]) == 5
    assert len(state["clients"]) == 320
    assert not any(f"campaign-{CITA}" in one["tags"] for one in state["clients"])


# Audience.


async def test_audience_pages_without_gap_or_repeat(api: httpx.AsyncClient) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 50, "sortBy": "name", "sortDirection": "asc", "offset": 0}
    while True:
        (workspace,) = ok(await api.get(f"/v1/campaigns/{PROMO}/audience", params=query))["workspaces"]
        assert set(workspace) == {"id", "name", "clientsCount", "clients", "pagination"}
        assert workspace["clientsCount"] == len(workspace["clients"])
        seen += [one["id"] for one in workspace["clients"]]
        query["offset"] += 50
        if not workspace["pagination"]["hasMore"]:
            break
    assert len(seen) == len(set(seen)) == 120
    for key in ("name", "creationDate", "lastUpdate"):
        up = [one["id"] for one in await audience(api, PROMO, sortBy=key, sortDirection="asc")]
        down = [one["id"] for one in await audience(api, PROMO, sortBy=key, sortDirection="desc")]
        assert up == down[::-1]
    for query in ({"limit": 501}, {"sortBy": "title"}):
        refused(await api.get(f"/v1/campaigns/{PROMO}/audience", params=query), 400)
    refused(await api.get("/v1/campaigns/nope/audience"), 404, "Campaign not found")


async def test_a_client_has_every_documented_field(api: httpx.AsyncClient) -> None:
    names = (
        "id phoneNumber name firstname lastname email birthdate gender company country state city address postalCode "
        "tags owners customFields creationDate lastUpdate"
    )
    for one in await audience(api, ENCUESTA):
        assert list(one) == names.split(" ")
        assert one["tags"] == [f"campaign-{ENCUESTA}"]


async def test_add_creates_renames_and_tags(api: httpx.AsyncClient, store: Store) -> None:
    campaign = ok(await api.get(f"/v1/campaigns/{ENCUESTA}"))
    clients = [
        {"phoneNumber": "+525500100001", "name": "Juan P."},
        {"phoneNumber": "525500109999", "name": "Nueva"},
        {"phoneNumber": "+525500109999", "name": "Nueva Persona"},
    ]
    body = ok(await api.post(f"/v1/campaigns/{ENCUESTA}/audience", json={"clients": clients}))
    assert body == {
        "status": "success",
        "message": "2 client(s) added to campaign (1 created, 1 updated)",
        "data": {
            "addedCount": 2,
            "createdCount": 1,
            "updatedCount": 1,
            "clients": [
                {"phoneNumber": "525500100001", "name": "Juan P."},
                {"phoneNumber": "525500109999", "name": "Nueva Persona"},
            ],
        },
    }
    members = {one["phoneNumber"]: one for one in await audience(api, ENCUESTA)}
    assert len(members) == 14
    assert members["525500100001"]["tags"] == sorted([f"campaign-{ENCUESTA}", f"campaign-{PROMO}"])
    assert members["525500100001"]["lastUpdate"] == "2026-11-20T16:00:00.000Z"
    assert (members["525500109999"]["firstname"], members["525500109999"]["customFields"]) == (None, {})
    assert ok(await api.get(f"/v1/campaigns/{ENCUESTA}")) == campaign, "the audience isn't part of the record"
    assert len(store.state()[0]["clients"]) == 321


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, "clients: is required"),
        ({"clients": []}, "clients: needs at least 1"),
        ({"clients": {}}, "clients: must be a list"),
        ({"clients": [{"phoneNumber": "525500100001"}]}, "clients[0].name: is required"),
        ({"clients": [{"phoneNumber": "525500100001", "name": ""}]}, "clients[0].name"),
        ({"clients": [{"phoneNumber": 525500100001, "name": "x"}]}, "clients[0].phoneNumber"),
        ({"clients": [{"phoneNumber": "52 55 0010 0001", "name": "x"}]}, "clients[0].phoneNumber"),
        ({"clients": [{"phoneNumber": "1234567", "name": "x"}]}, "clients[0].phoneNumber"),
        ({"clients": [{"phoneNumber": "1" * 16, "name": "x"}]}, "clients[0].phoneNumber"),
        ({"clients": [{"phoneNumber": "٥٢٥٥٠٠١٠٠٠٠١", "name": "x"}]}, "clients[0].phoneNumber"),
        ({"clients": [{"phoneNumber": "525500100001", "name": "x", "tags": []}]}, "clients[0].tags: unknown"),
        ({"clients": [{"phoneNumber": "525500100001", "name": "x"}], "dryRun": True}, "dryRun: unknown"),
    ],
)
async def test_add_refuses(api: httpx.AsyncClient, store: Store, body: Any, details: str) -> None:
    before = store.state()
    refused(await api.post(f"/v1/campaigns/{ENCUESTA}/audience", json=body), 400, details)
    assert store.state() == before


async def test_remove_and_clear_count_what_they_untag(api: httpx.AsyncClient, store: Store) -> None:
    path = f"/v1/campaigns/{CITA}/audience"
    assert ok(await api.delete(f"{path}/525500100002"))["data"] == {"removedCount": 1}
    assert ok(await api.delete(f"{path}/525500100002"))["data"] == {"removedCount": 0}
    assert ok(await api.delete(path))["data"] == {"removedCount": 34}
    assert ok(await api.delete(path))["data"] == {"removedCount": 0}
    assert len(store.state()[0]["clients"]) == 320
    assert "525500100002" in {one["phoneNumber"] for one in await audience(api, PROMO)}
    for phone in ("%2B525500100002", "52-55", "52%2055", "abc"):
        refused(await api.delete(f"{path}/{phone}"), 400, "phoneNumber")
    refused(await api.delete("/v1/campaigns/nope/audience/525500100002"), 404)
    shared = "/v1/campaigns/cmpSurPostreDelMes01/audience/529990020005?workspace=ws_sur"
    assert ok(await api.delete(shared, headers=MULTI))["data"] == {"removedCount": 2}


# Send.


async def send(api: httpx.AsyncClient, campaign: str, body: Any) -> httpx.Response:
    return await api.post(f"/v1/campaigns/{campaign}/send", json=body)


async def test_send_now_fills_the_outbox(api: httpx.AsyncClient, store: Store) -> None:
    body = ok(await send(api, PROMO, {"channelId": "wb-501", "template": VERANO}))
    rows = store.outbox(PROMO)
    assert (body["status"], set(body)) == ("success", {"status", "message", "data"})
    assert len(rows) == len({row["client"] for row in rows}) == 120
    one = next(row for row in rows if row["phone"] == "525500100001")
    assert one["text"].startswith("¡Hola Ana! Este verano tienes 20% de descuento")
    assert one["text"].endswith("Válido hasta el 31 de agosto.")
    assert one["buttons"][0]["url"] == "https://cafedelnorte.example/menu/verano"
    assert one["buttons"][1]["text"] == "No me interesa"
    assert (one["channel"], one["responder"], one["media"]) == ("wb-501", "agt_sofia", None)
    assert one["due_at"] == one["at"] == "2026-11-20T16:00:00.000Z"
    entry = store.requests()[-1]
    assert (entry["acted"], entry["batch"], entry["status"]) == (True, one["batch"], 200)


async def test_send_again_sends_again(api: httpx.AsyncClient, store: Store) -> None:
    for _ in range(2):
        ok(await send(api, ENCUESTA, SALUDO))
    rows = store.outbox()
    assert (len(rows), len({row["batch"] for row in rows})) == (24, 2)
    assert store.outbox(PROMO) == []


async def test_send_scheduled_has_a_row_for_each_date(api: httpx.AsyncClient, store: Store) -> None:
    dates = ["2026-11-23T10:00:00-06:00", "2026-11-24T16:00:00.123456789Z"]
    scheduled = {"name": "saludo_simple", "scheduledDates": dates}
    body = ok(await send(api, ENCUESTA, {"channelId": "wb-501", "template": scheduled}))
    due = [row["due_at"] for row in store.outbox()]
    assert sorted(set(due)) == ["2026-11-23T16:00:00.000Z", "2026-11-24T16:00:00.123Z"]
    assert len(due) == 24
    assert isinstance(body["data"], list), "the shape of data varies"
    assert isinstance(ok(await send(api, ENCUESTA, SALUDO))["data"], dict)


async def test_send_with_a_media_header_and_another_agent(api: httpx.AsyncClient, store: Store) -> None:
    section = {"type": "image", "file": "https://cafedelnorte.example/hola.png"}
    ok(await send(api, BIENVENIDA, {"channelId": "wb-501", "responderAgentId": "agt_diego", "template": section}))
    rows = store.outbox()
    assert (len(rows), rows[0]["media"], rows[0]["responder"]) == (48, section, "agt_diego")


async def test_send_leaves_out_marked_clients(api: httpx.AsyncClient, store: Store) -> None:
    flags = {"sendToProblematic": False, "sendToUndeliverable": False}
    ok(await send(api, PROMO, {"channelId": "wb-501", "template": {**VERANO, **flags}}))
    marked = {one["id"] for one in store.state()[0]["clients"] if one["problematic"] or one["undeliverable"]}
    sent = {row["client"] for row in store.outbox()}
    assert len(sent) == 116
    assert not sent & marked
    ok(await send(api, PROMO, {"channelId": "wb-501", "template": {**VERANO, "sendToProblematic": False}}))
    assert len(store.outbox()) == 116 + 118


def section(**changes: Any) -> dict[str, Any]:
    return {"channelId": "wb-501", "template": {**VERANO, **changes}}


def button(**changes: Any) -> dict[str, Any]:
    return section(buttons=[{**MENU, **changes}])


@pytest.mark.parametrize(
    ("body", "code", "details"),
    [
        ({}, 400, "channelId: is required"),
        ({"channelId": 501}, 400, "channelId"),
        ({"channelId": "wb-999"}, 404, "Channel not found"),
        ({"channelId": "wb-601"}, 404, "Channel not found"),
        ({"channelId": "wb-502", "template": VERANO}, 422, "not connected"),
        ({"channelId": "wb-501", "responderAgentId": "agt_nope", "template": VERANO}, 404, "Agent not found"),
        ({"channelId": "wb-501", "template": None}, 400, "template: must be an object"),
        ({"channelId": "wb-501", "when": "now"}, 400, "when: unknown"),
        ({"channelId": "wb-501"}, 400, "template.params: the template has 3"),
        ({"channelId": "wb-501", "template": {}}, 400, "template.params: the template has 3"),
        (section(confirm=True), 400, "template.confirm: unknown"),
        (section(name="nope"), 422, "does not exist"),
        (section(name="buen_fin_2026", params=["a", "b"]), 422, "not approved"),
        (section(params=["a", "b"]), 400, "template.params"),
        (section(params=["a", "b", "c", "d"]), 400, "template.params"),
        (section(params=["a", "b", 3]), 400, "template.params[2]"),
        (section(type="image"), 400, "template.type: the template has no media header"),
        (section(file="https://x.example/a.png"), 400, "template.file: the template has no media header"),
        (section(buttons=[]), 400, 'template.buttons: button 0 ("Ver menú") is dynamic'),
        (section(buttons=[MENU, MENU]), 400, "template.buttons[1].index: is given twice"),
        (button(index=2), 400, "template.buttons[0].index"),
        (button(index=-1), 400, "template.buttons[0].index"),
        (button(index=False), 400, "template.buttons[0].index"),
        (button(index="0"), 400, "template.buttons[0].index"),
        (button(sub_type="link"), 400, "template.buttons[0].sub_type"),
        (button(sub_type="flow"), 400, "template.buttons[0].sub_type: must be url"),
        (button(parameters=[]), 400, "template.buttons[0].parameters"),
        (button(parameters=["verano"]), 400, "template.buttons[0].parameters[0]: must be an object"),
        (button(parameters=[{"type": "payload", "text": "x"}]), 400, "template.buttons[0].parameters[0].type"),
        (section(buttons=[MENU, {"index": 1, "sub_type": "quick_reply"}]), 400, "only dynamic buttons"),
        (section(sendToProblematic="true"), 400, "template.sendToProblematic: must be a boolean"),
        (section(sendToUndeliverable=1), 400, "template.sendToUndeliverable"),
        (section(scheduledDates=[]), 400, "template.scheduledDates: needs at least 1"),
        (section(scheduledDates="2026-12-01T10:00:00Z"), 400, "template.scheduledDates: must be a list"),
        (section(scheduledDates=["2026-12-01T10:00:00"]), 400, "template.scheduledDates[0]: must be an ISO"),
        (section(scheduledDates=["2026-12-01"]), 400, "template.scheduledDates[0]"),
        (section(scheduledDates=["2026-13-01T10:00:00Z"]), 400, "is not a real date"),
        (section(scheduledDates=["0001-01-01T00:00:00+14:00"]), 400, "is not a real date"),
        (section(scheduledDates=["2026-11-20T16:00:00Z"]), 400, "must be in the future"),
        (section(scheduledDates=["2026-12-01T10:00:00Z", "2026-11-01T10:00:00Z"]), 400, "scheduledDates[1]"),
        (section(scheduledDates=["2026-12-01T10:00:00Z", "2026-12-01T04:00:00-06:00"]), 400, "is given twice"),
    ],
)
async def test_send_refuses(api: httpx.AsyncClient, store: Store, body: Any, code: int, details: str) -> None:
    refused(await send(api, PROMO, body), code, details)
    assert store.outbox() == []
    assert [row["acted"] for row in store.requests()] == [False]


@pytest.mark.parametrize(
    ("section", "details"),
    [
        ({}, "template.type: is required"),
        ({"type": "image"}, "template.file: is required"),
        ({"file": "https://x.example/a.png"}, "template.type: is required"),
        ({"type": "video", "file": "https://x.example/a.mp4"}, "template.type: must be image"),
        ({"type": "IMAGE", "file": "https://x.example/a.png"}, "template.type"),
        ({"type": "image", "file": "ftp://x.example/a.png"}, "template.file: must be an http"),
        ({"type": "image", "file": "https://"}, "template.file"),
        ({"type": "image", "file": "http://[x/a.png"}, "template.file"),
        ({"type": "image", "file": "C:\\hola.png"}, "template.file"),
    ],
)
async def test_send_refuses_media_unlike_the_header(api: httpx.AsyncClient, section: Any, details: str) -> None:
    refused(await send(api, BIENVENIDA, {"channelId": "wb-501", "template": section}), 400, details)


async def test_send_needs_a_template_and_an_audience(api: httpx.AsyncClient) -> None:
    refused(await send(api, ENCUESTA, {"channelId": "wb-501"}), 400, "template.name: is required")
    refused(await send(api, ENCUESTA, {"channelId": "wb-501", "template": {}}), 400, "template.name: is required")
    refused(await send(api, BUEN_FIN, SALUDO), 422, "audience is empty")
    refused(await send(api, BUEN_FIN, {"channelId": "wb-501", "template": {"params": ["a", "b"]}}), 422, "approved")
    refused(await send(api, "nope", SALUDO), 404, "Campaign not found")


async def test_alter_changes_what_the_api_cannot(api: httpx.AsyncClient, store: Store) -> None:
    assert store.alter("channels", "wb-501", isConnected=False, status="DISCONNECTED", name="Ventas") == 1
    refused(await send(api, ENCUESTA, SALUDO), 422, "not connected")
    ok(await api.patch("/_sandbox/channels/wb-501", json={"isConnected": True}))
    ok(await api.patch("/_sandbox/templates/saludo_simple", json={"status": "REJECTED"}))
    refused(await send(api, ENCUESTA, SALUDO), 422, "not approved")
    assert (await api.patch("/_sandbox/channels/nope", json={})).status_code == 404


# HTTP.


async def test_unknown_paths_and_methods(api: httpx.AsyncClient) -> None:
    for path in ("/v1", "/v1/", "/v1/nope", "/v1/campaigns/", f"/v1/campaigns/{PROMO}/send/x", "/nope", "/_sandbox/x"):
        refused(await api.get(path), 404)
    for method, path in (("PUT", "/v1/campaigns"), ("GET", f"/v1/campaigns/{PROMO}/send"), ("POST", "/v1/channels")):
        refused(await api.request(method, path), 405)
    refused(await api.post(f"/v1/campaigns/{PROMO}%2Fsend", json=SALUDO), 405)
    refused(await api.get(f"/v1/campaigns/{PROMO}%2Faudience"), 404, "Campaign not found")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"title": NaN}',
        b'{"title": "a", "title": "b", "category": "utility"}',
        b'{"title": "\\ud800", "category": "utility"}',
        b'{"title": "\xff", "category": "utility"}',
        b"[" * 100_000,
    ],
)
async def test_malformed_bodies(api: httpx.AsyncClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused(await api.post("/v1/campaigns", content=content, headers=headers), 400)


async def test_content_type_and_needless_bodies(api: httpx.AsyncClient) -> None:
    content = b'{"title": "Nueva\\u0000", "category": "utility"}'
    refused(await api.post("/v1/campaigns", content=content), 400, "Content-Type")
    refused(await api.post("/v1/campaigns", data={"title": "x"}), 400, "Content-Type")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    ok(await api.post("/v1/campaigns", content=content, headers=headers), 201)
    refused(await api.request("DELETE", f"/v1/campaigns/{PROMO}/audience", json={}), 400, "takes no body")


async def test_rate_limit(made: Made) -> None:
    app = made(rate_limit=3)
    async with client(app) as api:
        answers = [await api.get("/v1/campaigns") for _ in range(3)]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0"]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
        assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3
        answer = await send(api, ENCUESTA, SALUDO)
        refused(answer, 429)
        names = ("Retry-After", "X-RateLimit-Remaining", "X-RateLimit-Reset")
        assert [answer.headers[name] for name in names] == ["1", "0", "1"]
        assert app.state.store.outbox() == []
        ok(await api.get("/v1/campaigns", headers=LIMITED))
        await asyncio.sleep(0.5)
        refused(await api.get("/v1/campaigns"), 429)
        await asyncio.sleep(0.55)
        answer = await api.get("/v1/campaigns")
        assert answer.headers["X-RateLimit-Remaining"] == "2", "what was refused doesn't count"
    assert [row["status"] for row in app.state.store.requests()] == [200, 200, 200, 429, 200, 429, 200]


async def test_every_answer_has_the_headers(api: httpx.AsyncClient) -> None:
    for path in ("/v1/campaigns", "/v1/nope", "/v1/campaigns?limit=0"):
        answer = await api.get(path)
        assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id"} <= set(
            answer.headers
        )


# Ledger and admin.


async def test_the_ledger_has_one_row_for_each_request(api: httpx.AsyncClient) -> None:
    await api.get("/v1/campaigns?limit=5")
    await api.patch(f"/v1/campaigns/{CITA}", json={"title": "Otra"})
    await api.get("/v1/agents", headers={"Authorization": "Bearer secreto"})
    rows = ok(await api.get("/_sandbox/requests"))["requests"]
    assert rows[0] == {
        "seq": 1,
        "at": "2026-11-20T16:00:00.000Z",
        "method": "GET",
        "path": "/v1/campaigns",
        "query": "limit=5",
        "body": "",
        "key_id": "sandbox",
        "status": 200,
        "acted": False,
        "batch": None,
        "fault": None,
    }
    assert (rows[1]["acted"], json.loads(rows[1]["body"])) == (True, {"title": "Otra"})
    assert (rows[2]["status"], rows[2]["key_id"]) == (401, None)
    assert "secreto" not in json.dumps(rows)


async def test_admin_reads_and_reset(api: httpx.AsyncClient, store: Store) -> None:
    fresh = store.state()
    ok(await send(api, ENCUESTA, SALUDO))
    ok(await api.delete(f"/v1/campaigns/{CITA}"))
    assert len(ok(await api.get("/_sandbox/outbox"))["outbox"]) == 12
    assert ok(await api.get("/_sandbox/outbox", params={"campaign": PROMO}))["outbox"] == []
    assert ok(await api.get("/_sandbox/state"))["workspaces"] == store.state() != fresh
    ok(await api.post("/_sandbox/faults", json={"kind": "500"}), 201)
    ok(await api.post("/_sandbox/reset"))
    assert (store.state(), store.outbox(), store.requests(), store.faults()) == (fresh, [], [], [])


async def test_the_same_requests_give_the_same_again(made: Made, tmp_path: Path) -> None:
    records = []
    for name in ("one.db", "two.db"):
        app = made(tmp_path / name)
        async with client(app) as api:
            await api.post("/v1/campaigns", json={"title": "Nueva", "category": "utility"})
            await send(api, ENCUESTA, SALUDO)
        records.append((app.state.store.state(), app.state.store.outbox(), app.state.store.requests()))
    assert records[0] == records[1]


async def test_a_failure_midway_leaves_nothing(made: Made) -> None:
    app = made(new_id=lambda: "same0000000000000000")
    before = app.state.store.state()
    clients = [{"phoneNumber": f"52550010999{i}", "name": "Nueva"} for i in range(2)]
    async with client(app) as api:
        with pytest.raises(sqlite3.IntegrityError):
            await api.post(f"/v1/campaigns/{ENCUESTA}/audience", json={"clients": clients})
    assert app.state.store.state() == before
    assert not app.state.store.requests()[0]["acted"]


# Faults.


@pytest.mark.parametrize(
    ("kind", "status", "acted"),
    [
        ("429", 429, False),
        ("500", 500, False),
        ("503", 503, False),
        ("500_after", 500, True),
        ("garbage", 200, True),
        ("html", 200, True),
        ("status", 200, True),
        ("delay;seconds=0.01", 200, True),
        ("delay_after; seconds=0.01", 200, True),
    ],
)
async def test_faults_by_header(api: httpx.AsyncClient, store: Store, kind: str, status: int, acted: bool) -> None:
    headers = {"X-Sandbox-Fault": kind}
    answer = await api.post(f"/v1/campaigns/{ENCUESTA}/send", json=SALUDO, headers=headers)
    assert answer.status_code == status
    assert "X-Request-Id" in answer.headers
    assert (len(store.outbox()) == 12) is acted
    (entry,) = store.requests()
    assert (entry["fault"], entry["status"], entry["acted"]) == (kind.partition(";")[0], status, acted)
    if status >= 400:
        refused(answer, status)
    if status == 429:
        assert (answer.headers["X-RateLimit-Remaining"], answer.headers["Retry-After"]) == ("0", "1")
    if kind in ("garbage", "html"):
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            answer.json()
    if kind == "html":
        assert answer.headers["content-type"].startswith("text/html")
    if kind == "status":
        assert answer.json()["status"] == "error"


@pytest.mark.parametrize(("kind", "acted"), [("drop", True), ("drop_before", False)])
async def test_a_drop_is_a_read_error(api: httpx.AsyncClient, store: Store, kind: str, acted: bool) -> None:
    store.add_fault(Fault(kind, method="POST", path=f"/v1/campaigns/{ENCUESTA}/send"))
    ok(await api.get(f"/v1/campaigns/{ENCUESTA}"))
    with pytest.raises(httpx.ReadError):
        await send(api, ENCUESTA, SALUDO)
    assert (len(store.outbox()) == 12) is acted
    entry = store.requests()[-1]
    assert (entry["status"], entry["acted"], entry["fault"]) == (None, acted, kind)
    ok(await send(api, ENCUESTA, SALUDO))


async def test_a_late_answer_is_a_timeout_and_still_acts(api: httpx.AsyncClient, store: Store) -> None:
    store.add_fault(Fault("delay", seconds=0.1))
    with pytest.raises(httpx.ReadTimeout):
        await api.post(f"/v1/campaigns/{ENCUESTA}/send", json=SALUDO, timeout=0.02)
    assert store.outbox() == []
    await asyncio.sleep(0.2)
    assert len(store.outbox()) == 12
    store.add_fault(Fault("delay_after", seconds=5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await send(api, ENCUESTA, SALUDO)
    assert len(store.outbox()) == 24


async def test_faults_by_admin_path(api: httpx.AsyncClient, store: Store) -> None:
    armed = {"kind": "500", "times": 2, "method": "GET", "path": "/v1/campaigns"}
    ok(await api.post("/_sandbox/faults", json=armed), 201)
    ok(await api.post("/v1/campaigns", json={"title": "Nueva", "category": "utility"}), 201)
    ok(await api.get("/v1/channels"))
    refused(await api.get("/v1/campaigns"), 500)
    assert ok(await api.get("/_sandbox/faults"))["faults"][0]["times"] == 1
    refused(await api.get(f"/v1/campaigns/{PROMO}"), 500)
    ok(await api.get("/v1/campaigns"))
    assert store.faults() == []
    ok(await api.post("/_sandbox/faults", json={"kind": "503", "path": "/v1/*/send"}), 201)
    ok(await api.delete("/_sandbox/faults"))
    ok(await send(api, ENCUESTA, SALUDO))
    for wrong in ({}, {"kind": "boom"}, {"kind": "500", "times": 0}, {"kind": "delay", "seconds": "1"}):
        refused(await api.post("/_sandbox/faults", json=wrong), 400)
    for header in ("boom", "delay;seconds=x", "delay;2", "delay;seconds=1.2.3"):
        refused(await api.get("/v1/campaigns", headers={"X-Sandbox-Fault": header}), 400, "X-Sandbox-Fault")


async def test_where_a_fault_hits() -> None:
    send_path = "/v1/campaigns/abc/send"
    assert Fault("500").hits("GET", "/v1/agents")
    assert Fault("500", path="/v1/campaigns").hits("POST", send_path)
    assert Fault("500", path="/v1/*/send").hits("POST", send_path)
    assert not Fault("500", path="/v1/camp").hits("POST", send_path)
    assert not Fault("500", path="/v1/campaigns", exact=True).hits("POST", send_path)
    assert not Fault("500", method="GET", path=send_path).hits("POST", send_path)
    assert {"delay", "drop", "drop_before", "429", "500", "503", "500_after", "garbage", "html", "status"} <= set(
        FAULTS
    )


# The seed, the file, and a real server.


async def test_the_seed_is_as_published(api: httpx.AsyncClient) -> None:
    norte, sur = workspaces()
    assert {campaign: len(members) for campaign, members in AUDIENCES.items()} == {
        "cmpPromoVerano2026aa": 120,
        "cmpRecordatorioCita1": 35,
        "cmpAvisoFacturacion1": 64,
        "cmpBuenFin2026aaaaaa": 0,
        "cmpEncuestaSatisfac1": 12,
        "cmpBienvenidaNuevos1": 48,
    }
    assert all(len(one["id"]) == 20 for one in (*norte.campaigns, *sur.campaigns))
    records = [one.record for one in (*norte.clients, *sur.clients)]
    assert all(len(one["id"]) == 20 for one in records)
    phones = [one.record["phoneNumber"] for one in norte.clients]
    assert len(set(phones)) == len({one.record["name"] for one in norte.clients}) + 1 == 320
    for one in records:
        national = re.fullmatch(r"521?((55|81|33|22|998|999)00[0-9]+)", one["phoneNumber"])
        assert national
        assert len(national[1]) == 10
    old_form = [phone for phone in phones if len(phone) == 13]
    assert len(old_form) == 32
    dates = [one[name] for one in (*records, *norte.campaigns) for name in ("creationDate", "lastUpdate")]
    assert "2026-01-01" < min(dates) <= max(dates) < "2026-11-20"
    members = {one["phoneNumber"]: one["name"] for one in await audience(api, PROMO)}
    assert (members["525500100001"], members["5218100100003"]) == ("Juan Pérez López", "Carlos Treviño")
    assert (members["525500100002"], members["525500100004"]) == ("María Fernanda Ruiz", "Ana Sofía Morales")
    assert {phone for phone in members if len(phone) == 13 and f"52{phone[3:]}" in members} == {"5218100100013"}
    cita = {one["phoneNumber"]: one["name"] for one in await audience(api, CITA)}
    assert (cita["525500100002"], cita["525500100010"]) == ("María Fernanda Ruiz", "Luis Hernández")
    assert "525500100011" in {one["phoneNumber"] for one in await audience(api, ENCUESTA)}


async def test_a_file_is_seeded_once_and_shared(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "sandbox.db"
    first, second = made(file), made(str(file))
    async with client(first) as one, client(second) as two:
        ok(await one.delete(f"/v1/campaigns/{CITA}"))
        refused(await two.get(f"/v1/campaigns/{CITA}"), 404)
    assert len(made(file).state.store.state()[0]["campaigns"]) == 5
    assert second.state.store.requests() == first.state.store.requests()


async def test_without_seed_the_account_is_empty(made: Made) -> None:
    async with client(made(seed=False)) as api:
        assert ok(await api.get("/v1/campaigns"))["workspaces"][0]["campaigns"] == []
        assert len(ok(await api.get("/v1/channels"))["workspaces"][0]["channels"]) == 2
        assert ok(await api.post("/_sandbox/reset"))
        assert ok(await api.get("/_sandbox/state"))["workspaces"][0]["clients"] == []


async def test_two_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    code = "import sys; from agent.sandbox.api import create_app; create_app(sys.argv[1]).state.store.close()"
    command = [sys.executable, "-c", code, str(tmp_path / "race.db")]
    root = Path(__file__).parent.parent
    started = [subprocess.Popen(command, cwd=root) for _ in range(3)]
    assert [process.wait(30) for process in started] == [0, 0, 0]
    assert len(create_app(tmp_path / "race.db").state.store.state()[0]["clients"]) == 320


async def test_the_sandbox_can_not_agree_with_the_clients_mistakes() -> None:
    for name in ("api", "handlers", "store", "contract", "seed"):
        code = (Path(__file__).parent.parent / "agent" / "sandbox" / f"{name}.py").read_text(encoding="utf-8")
        assert not re.findall(r"^ *(?:from|import) agent(?!\.sandbox)|pydantic", code, re.MULTILINE)


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 5
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def test_over_a_real_server(made: Made, tmp_path: Path) -> None:
    app = made(tmp_path / "served.db", clock=None)
    store = app.state.store
    with served(app) as url:
        async with httpx.AsyncClient(base_url=url, headers=LOCAL) as api:
            ok(await api.get("/v1/campaigns"))
            refused(await api.get(f"/v1/campaigns/{PROMO}%2Faudience"), 404, "Campaign not found")
            for kind, sent in (("drop_before", 0), ("drop", 12)):
                with pytest.raises(httpx.TransportError):
                    await api.post(f"/v1/campaigns/{ENCUESTA}/send", json=SALUDO, headers={"X-Sandbox-Fault": kind})
                assert len(store.outbox()) == sent
            slow = {"X-Sandbox-Fault": "delay;seconds=0.2"}
            with pytest.raises(httpx.ReadTimeout):
                await api.get("/v1/campaigns", headers=slow, timeout=0.05)
            tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
            later = {"name": "saludo_simple", "scheduledDates": [tomorrow]}
            ok(await send(api, ENCUESTA, {"channelId": "wb-501", "template": later}))
    assert len(store.outbox()) == 24
