"""The ten operations: what each accepts, refuses, and sends, held against the facts of the API page and the sandbox."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.domain import Risk
from agent.errors import InvalidCall
from agent.operations import BY_NAME, OPERATIONS, Operation, Reading, parse
from agent.platica import Permit, Platica, derive_risk
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from tests.support import BUEN_FIN, CITA, ENCUESTA, NOW, PROMO, Clock, Tap

READING = Reading(now=NOW, zone=ZoneInfo("America/Mexico_City"))
ID = "EgIOvaKPmrQFfuh6D023"
SEND = {"campaignId": ID, "channelId": "wb-123"}
CREATE = {"title": "Promo Verano 2026", "category": "marketing"}
ANA = {"phoneNumber": "+52 55 0010 0001", "name": "Ana"}


def read(tool: str, arguments: Any) -> Operation:
    return parse(tool, arguments if isinstance(arguments, str) else json.dumps(arguments), READING)


def refused(tool: str, arguments: Any) -> str:
    with pytest.raises(InvalidCall) as caught:
        read(tool, arguments)
    return caught.value.problem


def sent(tool: str, arguments: Any) -> Any:
    return read(tool, arguments).request()


def send(**template: Any) -> dict[str, Any]:
    return {**SEND, "template": template}


# The page's table.

TABLE = {
    "list_campaigns": ("GET", "/v1/campaigns", Risk.READ, {}),
    "get_campaign": ("GET", f"/v1/campaigns/{ID}", Risk.READ, {"campaignId": ID}),
    "create_campaign": ("POST", "/v1/campaigns", Risk.WRITE, CREATE),
    "update_campaign": ("PATCH", f"/v1/campaigns/{ID}", Risk.WRITE, {"campaignId": ID, "title": "Otra"}),
    "delete_campaign": ("DELETE", f"/v1/campaigns/{ID}", Risk.DESTRUCTIVE, {"campaignId": ID}),
    "send_campaign": ("POST", f"/v1/campaigns/{ID}/send", Risk.SEND, SEND),
    "get_campaign_audience": ("GET", f"/v1/campaigns/{ID}/audience", Risk.READ, {"campaignId": ID}),
    "add_campaign_audience": (
        "POST",
        f"/v1/campaigns/{ID}/audience",
        Risk.WRITE,
        {"campaignId": ID, "clients": [ANA]},
    ),
    "remove_campaign_audience_client": (
        "DELETE",
        f"/v1/campaigns/{ID}/audience/525500100001",
        Risk.DESTRUCTIVE,
        {"campaignId": ID, "phoneNumber": "+52 55 0010 0001"},
    ),
    "clear_campaign_audience": ("DELETE", f"/v1/campaigns/{ID}/audience", Risk.DESTRUCTIVE, {"campaignId": ID}),
}


def test_there_are_these_ten() -> None:
    assert [operation.tool() for operation in OPERATIONS] == list(BY_NAME)
    assert set(BY_NAME) == set(TABLE)


@pytest.mark.parametrize("tool", TABLE)
def test_method_path_and_risk(tool: str) -> None:
    method, path, risk, arguments = TABLE[tool]
    operation = read(tool, arguments)
    request = operation.request()
    assert (request.method, request.path, request.risk, operation.risk) == (method, path, risk, risk)
    assert derive_risk(request.method, request.path) is risk
    assert operation.campaign == arguments.get("campaignId")


FIELDS = {
    "list_campaigns": "limit offset sortBy sortDirection",
    "get_campaign": "campaignId",
    "create_campaign": "title category platform templateName message template language wabaId owners",
    "update_campaign": "campaignId title category platform templateName message template language wabaId owners",
    "delete_campaign": "campaignId",
    "send_campaign": "campaignId channelId responderAgentId template",
    "get_campaign_audience": "campaignId limit offset sortBy sortDirection",
    "add_campaign_audience": "campaignId clients",
    "remove_campaign_audience_client": "campaignId phoneNumber",
    "clear_campaign_audience": "campaignId",
}
REQUIRED = {
    "list_campaigns": "",
    "create_campaign": "title category",
    "update_campaign": "campaignId",
    "send_campaign": "campaignId channelId",
    "get_campaign_audience": "campaignId",
}


@pytest.mark.parametrize("tool", FIELDS)
def test_fields_are_those_of_the_page(tool: str) -> None:
    fields = BY_NAME[tool].model_fields
    assert set(fields) == set(FIELDS[tool].split())
    required = {name for name, field in fields.items() if field.is_required()}
    assert required == set(REQUIRED.get(tool, FIELDS[tool]).split())


@pytest.mark.parametrize("tool", TABLE)
def test_unknown_and_missing_fields_are_named(tool: str) -> None:
    arguments = TABLE[tool][3]
    assert "confirm" in refused(tool, {**arguments, "confirm": True})
    for name in REQUIRED.get(tool, FIELDS[tool]).split():
        assert name in refused(tool, {key: value for key, value in arguments.items() if key != name})


# Paging.

PAGED = {"list_campaigns": ({}, 200, "title"), "get_campaign_audience": ({"campaignId": ID}, 500, "name")}


@pytest.mark.parametrize("tool", PAGED)
def test_paging_defaults_are_sent(tool: str) -> None:
    base, _, _ = PAGED[tool]
    query = {"limit": 50, "offset": 0, "sortBy": "lastUpdate", "sortDirection": "desc"}
    assert sent(tool, base).query == query
    nulls = {**base, "limit": None, "offset": None, "sortBy": None, "sortDirection": None}
    assert sent(tool, nulls).query == query
    assert sent(tool, base).body is None


@pytest.mark.parametrize("tool", PAGED)
def test_paging_bounds_and_choices(tool: str) -> None:
    base, most, by_name = PAGED[tool]
    for limit in (1, 50, most):
        assert sent(tool, {**base, "limit": limit}).query["limit"] == limit
    for limit in (0, -1, most + 1, 10**30):
        assert "limit" in refused(tool, {**base, "limit": limit})
    assert sent(tool, {**base, "offset": 0}).query["offset"] == 0
    assert sent(tool, {**base, "offset": 100_000}).query["offset"] == 100_000
    assert "offset" in refused(tool, {**base, "offset": -1})
    for key in (by_name, "creationDate", "lastUpdate"):
        assert sent(tool, {**base, "sortBy": key}).query["sortBy"] == key
    other = {"title": "name", "name": "title"}[by_name]
    for key in (other, "Title", "", "phoneNumber"):
        assert "sortBy" in refused(tool, {**base, "sortBy": key})
    for direction in ("asc", "desc"):
        assert sent(tool, {**base, "sortDirection": direction}).query["sortDirection"] == direction
    assert "sortDirection" in refused(tool, {**base, "sortDirection": "ASC"})


@pytest.mark.parametrize("tool", PAGED)
@pytest.mark.parametrize("value", [True, False, "10", 10.0, 10.5, [10], {}, "NaN"])
@pytest.mark.parametrize("field", ["limit", "offset"])
def test_numbers_are_whole_numbers_and_nothing_else(tool: str, field: str, value: Any) -> None:
    assert field in refused(tool, {**PAGED[tool][0], field: value})


# Ids.

BAD_IDS = [
    "",
    " ",
    "X/send#",
    "X/send?",
    "X/../Y",
    "..",
    ".",
    "X%2Fsend",
    "X send",
    "X\n",
    "\nX",
    "X\x00",
    "é",
    "Ⅹ",
    "x" * 129,
    "{campaignId}",
    "X\\send",
    "X;Y",
    "@evil.example",
]


@pytest.mark.parametrize("tool", [tool for tool in TABLE if "campaignId" in FIELDS[tool].split()])
@pytest.mark.parametrize("bad", BAD_IDS)
def test_a_campaign_id_is_an_id(tool: str, bad: str) -> None:
    assert "campaignId" in refused(tool, {**TABLE[tool][3], "campaignId": bad})


@pytest.mark.parametrize("good", ["a", "A-_9", "x" * 128, ID, "-", "send", "audience"])
@pytest.mark.parametrize("tool", [tool for tool in TABLE if "campaignId" in FIELDS[tool].split()])
def test_every_documented_id_is_taken(tool: str, good: str) -> None:
    request = sent(tool, {**TABLE[tool][3], "campaignId": good})
    assert request.path.startswith(f"/v1/campaigns/{good}")
    assert derive_risk(request.method, request.path) is request.risk


@pytest.mark.parametrize("bad", [1, True, None, ["X"], {"id": "X"}, 1.5])
@pytest.mark.parametrize("tool", [tool for tool in TABLE if "campaignId" in FIELDS[tool].split()])
def test_an_id_of_another_type_is_refused(tool: str, bad: Any) -> None:
    assert "campaignId" in refused(tool, {**TABLE[tool][3], "campaignId": bad})


@pytest.mark.parametrize("field", ["channelId", "responderAgentId"])
@pytest.mark.parametrize("bad", [bad for bad in BAD_IDS if bad])
def test_ids_in_a_send_are_ids(field: str, bad: str) -> None:
    assert field in refused("send_campaign", {**SEND, field: bad})


# Campaign fields.

TEXTS = {
    "title": "Promo Verano 2026",
    "platform": "whatsapp",
    "templateName": "promo_verano_2026",
    "message": "¡Hola {{1}}!\nTe esperamos ☕",
    "template": '{"name": "promo"}',
    "language": "es_MX",
    "wabaId": "waba_xyz",
}


def test_create_sends_what_was_given_and_the_default_platform() -> None:
    assert sent("create_campaign", CREATE).body == {**CREATE, "platform": "whatsapp"}
    full = {**TEXTS, "category": "utility", "owners": ["marketing@empresa.com", "soporte@empresa.com"]}
    assert sent("create_campaign", full).body == full
    assert not sent("create_campaign", full).query


def test_nulls_are_absent() -> None:
    nulls = dict.fromkeys([*TEXTS, "owners"])
    assert sent("create_campaign", {**nulls, **CREATE}).body == {**CREATE, "platform": "whatsapp"}
    given = {"campaignId": ID, **nulls, "category": None, "language": "es_MX"}
    assert sent("update_campaign", given).body == {"language": "es_MX"}
    nothing = {**SEND, "responderAgentId": None, "template": None}
    assert sent("send_campaign", nothing).body == {"channelId": "wb-123"}
    button = {"index": 0, "sub_type": "url", "text": None, "parameters": [{"type": None, "text": "verano"}]}
    body = sent("send_campaign", send(params=["Ana"], file=None, buttons=[button])).body
    assert body["template"] == {
        "params": ["Ana"],
        "buttons": [{"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": "verano"}]}],
    }


@pytest.mark.parametrize("field", TEXTS)
def test_an_update_sends_only_what_was_set(field: str) -> None:
    request = sent("update_campaign", {"campaignId": ID, field: TEXTS[field]})
    assert request.body == {field: TEXTS[field]}


@pytest.mark.parametrize("nothing", [{}, dict.fromkeys([*TEXTS, "category", "owners"])])
def test_an_update_of_nothing_is_refused(nothing: dict[str, None]) -> None:
    assert "nothing to change" in refused("update_campaign", {"campaignId": ID, **nothing})


@pytest.mark.parametrize("category", ["marketing", "utility", "authentication"])
def test_categories(category: str) -> None:
    assert sent("create_campaign", {**CREATE, "category": category}).body["category"] == category
    assert sent("update_campaign", {"campaignId": ID, "category": category}).body == {"category": category}


@pytest.mark.parametrize("category", ["MARKETING", "promo", "", 1, ["marketing"]])
def test_no_other_category(category: Any) -> None:
    assert "category" in refused("create_campaign", {**CREATE, "category": category})
    assert "category" in refused("update_campaign", {"campaignId": ID, "category": category})


@pytest.mark.parametrize("bad", ["", " ", "\t\n", 7, True, ["x"], {"x": 1}])
@pytest.mark.parametrize("field", TEXTS)
def test_texts_are_texts_with_something_in_them(field: str, bad: Any) -> None:
    assert field in refused("create_campaign", {**CREATE, field: bad})
    assert field in refused("update_campaign", {"campaignId": ID, field: bad})


@pytest.mark.parametrize("bad", ["soporte", "a@b", "@empresa.com", "a b@c.mx", "", 5, None])
def test_owners_are_mail_addresses(bad: Any) -> None:
    assert "owners" in refused("create_campaign", {**CREATE, "owners": ["soporte@empresa.com", bad]})
    assert "owners" in refused("create_campaign", {**CREATE, "owners": "soporte@empresa.com"})


# The audience.


def test_people_are_e164_in_arguments_and_digits_on_the_wire() -> None:
    written = ["+52 (55) 0010-0001", "5500100002", "0052 55 0010 0003", "521234567890", "+1 415 555 0132"]
    clients = [{"phoneNumber": phone, "name": f"N{number}"} for number, phone in enumerate(written)]
    operation = read("add_campaign_audience", {"campaignId": ID, "clients": clients})
    digits = ["525500100001", "525500100002", "525500100003", "521234567890", "14155550132"]
    assert [one["phoneNumber"] for one in operation.arguments()["clients"]] == [f"+{one}" for one in digits]
    assert operation.request().body == {
        "clients": [{"phoneNumber": phone, "name": f"N{number}"} for number, phone in enumerate(digits)]
    }


@pytest.mark.parametrize(
    ("written", "digits"),
    [("+52 123 456 7890", "521234567890"), ("+52 1 55 0010 0001", "5215500100001"), ("5500100001", "525500100001")],
)
def test_a_removal_has_country_code_and_digits_in_its_path(written: str, digits: str) -> None:
    operation = read("remove_campaign_audience_client", {"campaignId": ID, "phoneNumber": written})
    assert operation.arguments() == {"campaignId": ID, "phoneNumber": "+" + digits}
    request = operation.request()
    assert (request.path, request.body, dict(request.query)) == (f"/v1/campaigns/{ID}/audience/{digits}", None, {})


def test_a_local_phone_is_of_the_configured_country() -> None:
    reading = Reading(now=NOW, zone=ZoneInfo("America/New_York"), region="US")
    arguments = {"campaignId": ID, "phoneNumber": "(415) 555-0132"}
    operation = parse("remove_campaign_audience_client", arguments, reading)
    assert operation.request().path.endswith("/audience/14155550132")


@pytest.mark.parametrize("bad", ["", "Ana", "55", "+52 55 0010 00011", "5500100001/send", "#", 5500100001, None, True])
def test_what_is_no_phone_is_refused(bad: Any) -> None:
    assert "phoneNumber" in refused("remove_campaign_audience_client", {"campaignId": ID, "phoneNumber": bad})
    people = [ANA, {"phoneNumber": bad, "name": "Luis"}]
    assert "clients.1.phoneNumber" in refused("add_campaign_audience", {"campaignId": ID, "clients": people})


@pytest.mark.parametrize("bad", [[], None, {}, "5500100001", [None], ["5500100001"], [[]], [{}]])
def test_clients_are_at_least_one_phone_and_name(bad: Any) -> None:
    assert "clients" in refused("add_campaign_audience", {"campaignId": ID, "clients": bad})


@pytest.mark.parametrize("bad", ["", "  ", None, 5])
def test_every_client_has_a_name(bad: Any) -> None:
    people = [{"phoneNumber": "5500100001", "name": bad}]
    assert "name" in refused("add_campaign_audience", {"campaignId": ID, "clients": people})
    people[0]["email"] = "ana@x.mx"
    assert "email" in refused("add_campaign_audience", {"campaignId": ID, "clients": people})


def test_one_person_is_sent_once() -> None:
    forms = ["5500100001", "+52 55 0010 0001", "+52 1 55 0010 0001"]
    people = [{"phoneNumber": phone, "name": "Ana"} for phone in forms] + [{"phoneNumber": "5500100002", "name": "Ana"}]
    body = sent("add_campaign_audience", {"campaignId": ID, "clients": people}).body
    assert [one["phoneNumber"] for one in body["clients"]] == ["525500100001", "525500100002"]


def test_one_phone_with_two_names_is_a_question() -> None:
    people = [ANA, {"phoneNumber": "+52 1 55 0010 0001", "name": "Luis"}]
    assert "different names" in refused("add_campaign_audience", {"campaignId": ID, "clients": people})


def test_a_removal_and_an_addition_of_the_page_differ_in_nothing_but_form() -> None:
    plus = read("remove_campaign_audience_client", {"campaignId": ID, "phoneNumber": "+525500100001"})
    digits = read("remove_campaign_audience_client", {"campaignId": ID, "phoneNumber": "525500100001"})
    assert plus.canonical() == digits.canonical()
    assert plus.request().sha256 == digits.request().sha256


# Sends.


def test_a_full_send() -> None:
    template = {
        "name": "promo_verano",
        "params": ["Ana", "20%", "31 de agosto"],
        "type": "image",
        "file": "https://cdn.empresa.mx/verano.png?v=2",
        "buttons": [
            {"index": 0, "sub_type": "url", "text": "Ver", "parameters": [{"type": "text", "text": "verano"}]},
            {"index": 2, "sub_type": "quick_reply"},
        ],
        "sendToProblematic": False,
        "sendToUndeliverable": True,
        "scheduledDates": ["2026-12-01T16:00:00.000Z", "2026-12-02T16:00:00.000Z"],
    }
    request = sent("send_campaign", {**SEND, "responderAgentId": "agt_sofia", "template": template})
    assert request.body == {"channelId": "wb-123", "responderAgentId": "agt_sofia", "template": template}
    assert not request.query


@pytest.mark.parametrize("empty", [{}, None, {"name": None, "params": None}])
def test_an_empty_template_is_the_saved_one(empty: Any) -> None:
    operation = read("send_campaign", {**SEND, "template": empty})
    assert operation.arguments() == SEND
    assert operation.request().body == {"channelId": "wb-123"}


@pytest.mark.parametrize("kind", ["image", "video", "document"])
def test_media_kinds(kind: str) -> None:
    template = {"type": kind, "file": "http://cdn.empresa.mx/a"}
    assert sent("send_campaign", send(**template)).body["template"] == template


@pytest.mark.parametrize("kind", ["audio", "IMAGE", "", 1])
def test_no_other_media_kind(kind: Any) -> None:
    assert "type" in refused("send_campaign", send(type=kind, file="http://cdn.empresa.mx/a"))


def test_media_kind_and_file_go_together() -> None:
    assert "type and file" in refused("send_campaign", send(type="image"))
    assert "type and file" in refused("send_campaign", send(file="http://cdn.empresa.mx/a"))


GOOD_URLS = [
    "https://cdn.empresa.mx/a.png",
    "http://cdn.empresa.mx:8080/a%20b.png?x=1&y=%C3%A9#top",
    "HTTPS://CDN.EMPRESA.MX/a.png",
    "https://xn--caf-dma.mx/a.png",
    "https://8.8.8.8/a.png",
    "https://[2606:4700::1111]/a.png",
    "https://10.empresa.mx/a.png",
    "https://localhost.empresa.mx/a.png",
]
BAD_URLS = [
    "",
    "a.png",
    "/a.png",
    "cdn.empresa.mx/a.png",
    "//cdn.empresa.mx/a.png",
    "https:cdn.empresa.mx/a.png",
    "https:///a.png",
    "https://",
    "file:///etc/passwd",
    "ftp://cdn.empresa.mx/a.png",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "https://user@cdn.empresa.mx/a.png",
    "https://user:pw@cdn.empresa.mx/a.png",
    "https://cdn.empresa.mx@10.0.0.1/a.png",
    "https://cdn.empresa.mx\\@10.0.0.1/a.png",
    "https://cdn.empresa.mx/a b.png",
    " https://cdn.empresa.mx/a.png",
    "https://cdn.empresa.mx/a.png\n",
    "https://cdn.empresa.mx:99999/a.png",
    "https://cdn.empresa.mx:x/a.png",
    "https://[::1/a.png",
    # Private, loopback, link-local and reserved hosts, in every way to write them.
    "http://localhost/a.png",
    "http://LOCALHOST./a.png",
    "http://a.localhost/a.png",
    "http://printer.local/a.png",
    "http://metadata.google.internal/a.png",
    "http://intranet/a.png",
    "http://127.0.0.1/a.png",
    "http://127.0.0.1./a.png",
    "http://127.1/a.png",
    "http://10.0.0.1/a.png",
    "http://172.16.5.4/a.png",
    "http://192.168.1.1/a.png",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/a.png",
    "http://0.0.0.0/a.png",
    "http://0/a.png",
    "http://255.255.255.255/a.png",
    "http://2130706433/a.png",
    "http://0x7f000001/a.png",
    "http://0X7F.1/a.png",
    "http://0177.0.0.1/a.png",
    "http://017700000001/a.png",
    "http://127.0x1/a.png",
    "http://10.1/a.png",
    "http://3232235777/a.png",
    "http://0xa9.0xfe.0xa9.0xfe/a.png",
    "http://[::1]/a.png",
    "http://[::]/a.png",
    "http://[fe80::1]/a.png",
    "http://[fe80::1%25eth0]/a.png",
    "http://[fd00::1]/a.png",
    "http://[::ffff:10.0.0.1]/a.png",
    "http://[::ffff:7f00:1]/a.png",
    "http://①②⑦.⓪.⓪.①/a.png",
    "http://ｌｏｃａｌｈｏｓｔ/a.png",
]
# Ways to write a private address that a resolver or a browser undoes, and that a look at the host's text misses.
DISGUISED_URLS = [
    "http://127.0.0%2e1/a.png",
    "http://%31%32%37.0.0.1/a.png",
    "http://%6cocalhost%2eempresa%2elocal/a.png",
    "http://127.0.0.08/a.png",
    "http://[64:ff9b::a00:1]/a.png",
    "http://[2002:a00:1::]/a.png",
    "http://[::10.0.0.1]/a.png",
    "http://[fec0::1]/a.png",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_media_of_a_public_host(url: str) -> None:
    assert sent("send_campaign", send(type="image", file=url)).body["template"]["file"] == url


@pytest.mark.parametrize("url", BAD_URLS)
def test_media_of_no_public_host_is_refused(url: str) -> None:
    assert "template.file" in refused("send_campaign", send(type="image", file=url))


@pytest.mark.parametrize("url", DISGUISED_URLS)
def test_a_disguised_private_host_is_refused(url: str) -> None:
    assert "template.file" in refused("send_campaign", send(type="image", file=url))


@pytest.mark.parametrize("bad", [None, "", " ", 1, ["Ana"], {}])
def test_parameters_are_texts(bad: Any) -> None:
    """A null among them isn't dropped: it would move the others."""
    assert "params" in refused("send_campaign", send(params=["Ana", bad, "agosto"]))


@pytest.mark.parametrize("sub_type", ["url", "phone_number", "quick_reply", "otp", "flow"])
def test_button_kinds(sub_type: str) -> None:
    button = {"index": 0, "sub_type": sub_type}
    assert sent("send_campaign", send(buttons=[button])).body["template"]["buttons"] == [button]


BAD_BUTTONS: list[Any] = [
    {"sub_type": "url"},
    {"index": 0},
    {"index": -1, "sub_type": "url"},
    {"index": True, "sub_type": "url"},
    {"index": "0", "sub_type": "url"},
    {"index": 0.0, "sub_type": "url"},
    {"index": 0, "sub_type": "URL"},
    {"index": 0, "sub_type": "call"},
    {"index": 0, "sub_type": "url", "url": "https://x.mx"},
    {"index": 0, "sub_type": "url", "parameters": ["verano"]},
    {"index": 0, "sub_type": "url", "parameters": [{"type": "image", "text": "verano"}]},
    {"index": 0, "sub_type": "url", "parameters": [{"type": "text"}]},
    {"index": 0, "sub_type": "url", "parameters": {"type": "text", "text": "x"}},
    None,
    "url",
]


@pytest.mark.parametrize("button", BAD_BUTTONS)
def test_bad_buttons(button: Any) -> None:
    assert "buttons" in refused("send_campaign", send(buttons=[button]))


def test_a_button_given_twice_is_refused() -> None:
    button = {"index": 1, "sub_type": "url"}
    assert "same index" in refused("send_campaign", send(buttons=[button, button]))


@pytest.mark.parametrize("field", ["sendToProblematic", "sendToUndeliverable"])
def test_flags_are_true_or_false(field: str) -> None:
    for value in (True, False):
        assert sent("send_campaign", send(**{field: value})).body["template"] == {field: value}
    for bad in (1, 0, "true", "no", [], 1.0):
        assert field in refused("send_campaign", send(**{field: bad}))


DATES = {
    "2026-12-01T10:00:00-06:00": "2026-12-01T16:00:00.000Z",
    "2026-12-01T10:00:00": "2026-12-01T16:00:00.000Z",
    "2026-12-01T10:00": "2026-12-01T16:00:00.000Z",
    "2026-12-01 10:00": "2026-12-01T16:00:00.000Z",
    "2026-12-01T16:00:00Z": "2026-12-01T16:00:00.000Z",
    "2026-12-01T16:00:00.049Z": "2026-12-01T16:00:00.049Z",
    "2026-12-01T16:00:00.0499Z": "2026-12-01T16:00:00.049Z",
    "2026-12-01T23:30:00+14:00": "2026-12-01T09:30:00.000Z",
    "2026-11-23T10:00:01": "2026-11-23T16:00:01.000Z",
    " 2026-12-01T16:00:00Z ": "2026-12-01T16:00:00.000Z",
}


@pytest.mark.parametrize("written", DATES)
def test_dates_are_utc_with_milliseconds(written: str) -> None:
    body = sent("send_campaign", send(scheduledDates=[written])).body
    assert body["template"]["scheduledDates"] == [DATES[written]]


PAST = ["2026-11-23T16:00:00Z", "2026-11-23T10:00:00", "2026-11-23T09:59", "2020-01-01T00:00:00Z", "0001-01-01T00:00Z"]


@pytest.mark.parametrize("written", PAST)
def test_a_past_date_is_refused_and_the_time_is_told(written: str) -> None:
    problem = refused("send_campaign", send(scheduledDates=["2026-12-01T16:00:00Z", written]))
    assert "past" in problem
    assert "2026-11-23T10:00-06:00" in problem


NO_DATES = ["", "mañana", "lunes 10:00", "2026-13-01T10:00:00Z", "2026-12-01T25:00:00Z", "2026-12-32", "1767225600"]


@pytest.mark.parametrize("bad", [*NO_DATES, "9999-12-31T23:59:59", "2026-12-01T10:00:00+99:00", 1767225600, None, []])
def test_what_is_no_date_is_refused(bad: Any) -> None:
    assert "scheduledDates" in refused("send_campaign", send(scheduledDates=[bad]))


def test_an_empty_list_of_dates_is_not_now() -> None:
    assert "scheduledDates" in refused("send_campaign", send(scheduledDates=[]))
    assert "scheduledDates" in refused("send_campaign", send(scheduledDates="2026-12-01T16:00:00Z"))


@pytest.mark.parametrize("again", ["2026-12-01T16:00:00Z", "2026-12-01T10:00:00-06:00", "2026-12-01T10:00:00"])
def test_a_repeated_date_is_refused_in_any_form(again: str) -> None:
    problem = refused("send_campaign", send(scheduledDates=["2026-12-01T16:00:00.000Z", again]))
    assert "twice" in problem


# Weird calls.


@pytest.mark.parametrize("name", ["", "Send_campaign", "send_campaign ", "drop_table", "x" * 10_000, "send_campaign\n"])
def test_there_is_no_other_tool(name: str) -> None:
    problem = refused(name, {})
    assert "send_campaign" in problem
    assert len(problem) < 600


def nested(depth: int, *, field: str = "template") -> str:
    return '{"campaignId":"X","channelId":"wb-1","' + field + '":' + '{"a":' * depth + "1" + "}" * depth + "}"


def lists(depth: int) -> str:
    return '{"campaignId":"X","clients":' + "[" * depth + "]" * depth + "}"


WEIRD = {
    "not JSON": "{",
    "a word": "null",
    "a list": "[]",
    "a string": '"{}"',
    "a number": "7",
    "two objects": "{}{}",
    "NaN": '{"limit": NaN}',
    "Infinity": '{"limit": Infinity}',
    "1e999": '{"limit": 1e999}',
    "-0.0": '{"limit": -0.0}',
    "a number of 5000 digits": '{"limit": ' + "9" * 5000 + "}",
    "a number of 4000 digits": '{"limit": ' + "9" * 4000 + "}",
    "a long string": json.dumps({"campaignId": "x" * 2_000_000}),
    "a long field": json.dumps({"x" * 1_000_000: 1}),
    "many fields": json.dumps({f"f{number}": number for number in range(5_000)}),
    "a lone surrogate": '{"campaignId": "\\ud800"}',
    "a lone surrogate as a title": '{"title": "\\ud800", "category": "utility"}',
    "a lone surrogate as a field": '{"\\udfff": 1}',
    "a NUL": '{"campaignId": "\\u0000"}',
    "a control character": '{"campaignId": "\x01"}',
    "an empty field": '{"": 1}',
    "a field with a dot": '{"template.name": 1}',
    "__proto__": '{"__proto__": {}, "__class__": {}}',
    "a BOM": "\ufeff{}",
    "single quotes": "{'limit': 1}",
    "a trailing comma": '{"limit": 1,}',
    "python": "{'limit': True}",
} | {
    f"{make.__name__} {depth} deep": make(depth) for make in (nested, lists) for depth in (50, 200, 400, 700, 950, 5000)
}


@pytest.mark.parametrize("tool", ["list_campaigns", "create_campaign", "send_campaign", "add_campaign_audience"])
@pytest.mark.parametrize("kind", WEIRD)
def test_weird_arguments_are_invalid_and_nothing_else(tool: str, kind: str) -> None:
    problem = refused(tool, WEIRD[kind])
    problem.encode()
    assert 0 < len(problem) < 5_000, "the model pays for every word"


@pytest.mark.parametrize("key", ["limit", "campaignId"])
def test_a_field_given_twice_is_read_as_one_value_or_refused(key: str) -> None:
    text = '{"campaignId": "A", "campaignId": "B", "limit": 1, "limit": 2}'
    try:
        operation = read("get_campaign_audience", text)
    except InvalidCall:
        return
    # What is shown is what runs: one reading only, in the arguments and in the request.
    request = operation.request()
    assert operation.arguments()["campaignId"] in request.path
    assert operation.arguments()["limit"] == request.query["limit"]


def test_no_arguments_at_all_are_an_empty_object() -> None:
    assert parse("list_campaigns", "", READING).arguments()["limit"] == 50
    assert parse("list_campaigns", {}, READING) == parse("list_campaigns", "{}", READING)


MISPLACED = [
    ({**SEND, "scheduledDates": ["2026-12-01T16:00:00Z"]}, "scheduledDates", "template.scheduledDates"),
    ({**SEND, "sendToProblematic": False}, "sendToProblematic", "template.sendToProblematic"),
    ({**SEND, "template": {"responderAgentId": "ag-1"}}, "template.responderAgentId", "responderAgentId"),
    ({**SEND, "template": {"scheduled_dates": []}}, "template.scheduled_dates", "template.scheduledDates"),
]


@pytest.mark.parametrize(("arguments", "given", "place"), MISPLACED)
def test_a_field_at_the_wrong_place_is_told_its_own(arguments: dict[str, Any], given: str, place: str) -> None:
    """Left out, the send would go out at once, or to people it should not reach."""
    assert refused("send_campaign", arguments) == f"{given}: there is no such field here; use {place}"
    assert refused("send_campaign", {**SEND, "sms": True}) == "sms: there is no such field; leave it out"


def test_many_problems_are_told_at_once_but_not_all() -> None:
    people = [{"phoneNumber": "x", "name": ""} for _ in range(1_000)]
    problem = refused("add_campaign_audience", {"campaignId": ID, "clients": people})
    assert problem.count(";") >= 2
    assert len(problem) < 2_000


def test_an_operation_cannot_change() -> None:
    operation = read("delete_campaign", {"campaignId": ID})
    with pytest.raises(ValueError, match="frozen"):
        operation.campaignId = "other"  # type: ignore[attr-defined]
    operation.arguments()["campaignId"] = "other"
    assert operation.request().path.endswith(ID)


# Properties.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
NAMES = sorted({name for names in FIELDS.values() for name in names.split()})
NEAR_ID = st.sampled_from([ID, "X/send#", "a/audience", "..", "x" * 129, "%2e", ""]) | st.from_regex(
    r"[A-Za-z0-9_/#?.%-]{1,12}", fullmatch=True
)
NEAR_PHONE = st.sampled_from(
    ["+525500100001", "5215500100001", "521٥٥٠٠١٠٠٠٠١", "+49 000", "0114900000"]
) | st.from_regex(r"\+?[0-9 ()/.-]{6,18}")
NEAR_DATE = st.sampled_from(["2026-12-01T10:00", "2026-12-01", "2026-11-23T16:00:00Z", "9999-12-31T23:59:59-10:00"]) | (
    st.datetimes(min_value=datetime(2025, 1, 1), max_value=datetime(2030, 1, 1)).map(datetime.isoformat)
)
NEAR_VALUE: dict[str, st.SearchStrategy[Any]] = {
    "campaignId": NEAR_ID,
    "channelId": NEAR_ID,
    "responderAgentId": NEAR_ID,
    "phoneNumber": NEAR_PHONE,
    "limit": st.integers(-1, 600),
    "offset": st.integers(-1, 10**20),
    "sortBy": st.sampled_from(["title", "name", "creationDate", "lastUpdate"]),
    "sortDirection": st.sampled_from(["asc", "desc"]),
    "category": st.sampled_from(["marketing", "utility", "x"]),
    "owners": st.lists(st.sampled_from(["a@b.mx", "x"]), max_size=2),
    "clients": st.lists(
        st.fixed_dictionaries({"phoneNumber": NEAR_PHONE, "name": st.sampled_from(["Ana", "Luis", " "])}), max_size=4
    ),
    "template": st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(max_size=5),
            "params": st.lists(st.text(max_size=4), max_size=3),
            "type": st.sampled_from(["image", "audio"]),
            "file": st.sampled_from(["https://a.mx/b", "http://10.0.0.1/", "x"]),
            "buttons": st.lists(
                st.fixed_dictionaries({"index": st.integers(-1, 3), "sub_type": st.sampled_from(["url", "x"])}),
                max_size=2,
            ),
            "sendToProblematic": st.booleans(),
            "scheduledDates": st.lists(NEAR_DATE, max_size=3),
        },
    ),
}


def near(tool: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments with the right names and mostly plausible values."""
    values = {name: NEAR_VALUE.get(name, st.text(min_size=1, max_size=6)) for name in FIELDS[tool].split()}
    required = {name: values.pop(name) for name in list(values) if BY_NAME[tool].model_fields[name].is_required()}
    return st.fixed_dictionaries(required, optional=values)


CALLS = st.sampled_from(sorted(TABLE)).flatmap(
    lambda tool: st.tuples(st.just(tool), near(tool) | st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | JSON)
)
PROPERTY = settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def accepted(tool: str, arguments: Any) -> Operation | None:
    """The property that all others rest on: an operation, or InvalidCall in plain words."""
    try:
        return parse(tool, json.dumps(arguments), READING)
    except InvalidCall:
        return None


@PROPERTY
@given(CALLS)
@example(("remove_campaign_audience_client", {"campaignId": "X", "phoneNumber": "+521٥٥٠٠١٠٠٠٠١"}))
@example(("get_campaign", {"campaignId": "X/send#"}))
def test_whatever_is_accepted_asks_for_no_more_than_its_risk(call: tuple[str, Any]) -> None:
    operation = accepted(*call)
    if operation is None:
        return
    request = operation.request()
    assert derive_risk(request.method, request.path) is operation.risk is request.risk
    url = httpx.URL("https://api.platica.mx").join(request.path)
    assert url.raw_path.decode() == request.path, "nothing in it means a query, a fragment or another path"
    json.dumps(request.body, allow_nan=False).encode()


@PROPERTY
@given(CALLS)
def test_the_canonical_form_reads_as_itself(call: tuple[str, Any]) -> None:
    operation = accepted(*call)
    if operation is None:
        return
    again = parse(call[0], operation.canonical(), READING)
    assert again.canonical() == operation.canonical()
    assert again.request().sha256 == operation.request().sha256
    assert None not in operation.arguments().values()


@PROPERTY
@given(st.sampled_from(sorted(TABLE)), st.text(max_size=60) | JSON.map(lambda value: json.dumps(value)))
def test_any_text_as_arguments_gives_an_operation_or_invalid_call(tool: str, text: str) -> None:
    try:
        assert isinstance(parse(tool, text, READING), Operation)
    except InvalidCall as error:
        error.problem.encode()


# On the wire, against the sandbox, which parses by the page and knows nothing of this package.


class Wire:
    """The sandbox behind a client that keeps the last request as it left."""

    def __init__(self) -> None:
        self.app = create_app(":memory:", clock=Clock().date, rate_limit=100_000)
        tap = Tap(SandboxTransport(self.app))
        tap.before = self._keep
        self.last: httpx.Request | None = None
        self.count = 0
        http = httpx.AsyncClient(transport=tap, base_url="https://api.platica.mx")
        self.platica = Platica(http, key=LOCAL_KEY, requests_per_second=1e6)

    def _keep(self, request: httpx.Request) -> None:
        self.last, self.count = request, self.count + 1

    async def run(self, tool: str, arguments: Any) -> Any:
        request = read(tool, arguments).request()
        permit = Permit("a1", request.sha256, float("inf")) if request.risk.gated else None
        return await self.platica.request(request, permit)

    def seen(self) -> tuple[str, str, dict[str, str], Any]:
        assert self.last is not None
        content = self.last.read()
        query = dict(parse_qsl(self.last.url.query.decode()))
        return self.last.method, self.last.url.path, query, json.loads(content) if content else None


@pytest.fixture
def wire() -> Wire:
    return Wire()


MENU = {"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": "verano"}]}
VERANO = {"params": ["Ana", "20%", "31 de agosto"], "buttons": [MENU]}
PAGE = {"limit": "50", "offset": "0", "sortBy": "lastUpdate", "sortDirection": "desc"}
SOMEBODY = {"phoneNumber": "+52 55 0010 0001", "name": "Juan Pérez"}
NEW = {"title": "Otoño ☕", "category": "marketing", "templateName": "promo_verano", "owners": ["a@b.mx"]}
ON_THE_WIRE: list[tuple[str, Any, tuple[str, str, dict[str, str], Any], int]] = [
    ("list_campaigns", {}, ("GET", "/v1/campaigns", PAGE, None), 200),
    (
        "list_campaigns",
        {"limit": 200, "offset": 2, "sortBy": "title", "sortDirection": "asc"},
        ("GET", "/v1/campaigns", {"limit": "200", "offset": "2", "sortBy": "title", "sortDirection": "asc"}, None),
        200,
    ),
    ("get_campaign", {"campaignId": PROMO}, ("GET", f"/v1/campaigns/{PROMO}", {}, None), 200),
    ("create_campaign", NEW, ("POST", "/v1/campaigns", {}, {**NEW, "platform": "whatsapp"}), 201),
    (
        "update_campaign",
        {"campaignId": PROMO, "title": "Verano 2", "message": None},
        ("PATCH", f"/v1/campaigns/{PROMO}", {}, {"title": "Verano 2"}),
        200,
    ),
    ("delete_campaign", {"campaignId": BUEN_FIN}, ("DELETE", f"/v1/campaigns/{BUEN_FIN}", {}, None), 200),
    (
        "send_campaign",
        {"campaignId": PROMO, "channelId": "wb-501", "template": {**VERANO, "scheduledDates": ["2026-12-01T10:00"]}},
        (
            "POST",
            f"/v1/campaigns/{PROMO}/send",
            {},
            {"channelId": "wb-501", "template": {**VERANO, "scheduledDates": ["2026-12-01T16:00:00.000Z"]}},
        ),
        200,
    ),
    (
        "send_campaign",
        {"campaignId": ENCUESTA, "channelId": "wb-501", "template": {"name": "saludo_simple"}},
        ("POST", f"/v1/campaigns/{ENCUESTA}/send", {}, {"channelId": "wb-501", "template": {"name": "saludo_simple"}}),
        200,
    ),
    (
        "get_campaign_audience",
        {"campaignId": CITA, "limit": 500, "sortBy": "name"},
        ("GET", f"/v1/campaigns/{CITA}/audience", {**PAGE, "limit": "500", "sortBy": "name"}, None),
        200,
    ),
    (
        "add_campaign_audience",
        {"campaignId": BUEN_FIN, "clients": [SOMEBODY]},
        (
            "POST",
            f"/v1/campaigns/{BUEN_FIN}/audience",
            {},
            {"clients": [{"phoneNumber": "525500100001", "name": "Juan Pérez"}]},
        ),
        200,
    ),
    (
        "remove_campaign_audience_client",
        {"campaignId": PROMO, "phoneNumber": "+52 55 0010 0001"},
        ("DELETE", f"/v1/campaigns/{PROMO}/audience/525500100001", {}, None),
        200,
    ),
    ("clear_campaign_audience", {"campaignId": CITA}, ("DELETE", f"/v1/campaigns/{CITA}/audience", {}, None), 200),
]


def test_each_of_the_ten_is_tried_on_the_wire() -> None:
    assert {row[0] for row in ON_THE_WIRE} == set(TABLE)


@pytest.mark.parametrize(("tool", "arguments", "expected", "status"), ON_THE_WIRE)
async def test_the_exact_request_and_the_sandboxs_answer(
    wire: Wire, tool: str, arguments: Any, expected: Any, status: int
) -> None:
    answer = await wire.run(tool, arguments)
    assert wire.seen() == expected
    assert answer.status == status
    assert answer.body.get("status", "success") == "success"
    assert wire.last is not None
    assert wire.last.headers["authorization"] == f"Bearer {LOCAL_KEY}"
    assert ("content-type" in wire.last.headers) == (expected[3] is not None)


FROM_501 = {"campaignId": PROMO, "channelId": "wb-501"}
INVALID: list[tuple[str, Any]] = [
    ("update_campaign", {"campaignId": PROMO}),
    ("add_campaign_audience", {"campaignId": PROMO, "clients": []}),
    ("send_campaign", {**FROM_501, "template": {"scheduledDates": ["2020-01-01T10:00"]}}),
    ("send_campaign", {**FROM_501, "template": {"scheduledDates": ["2026-12-01T10:00", "2026-12-01T10:00"]}}),
    ("send_campaign", {**FROM_501, "template": {"type": "image", "file": "file:///x"}}),
    ("get_campaign", {"campaignId": "../channels"}),
]


@pytest.mark.parametrize(("tool", "arguments"), INVALID)
async def test_an_invalid_call_makes_no_request(wire: Wire, tool: str, arguments: Any) -> None:
    with pytest.raises(InvalidCall):
        await wire.run(tool, arguments)
    assert wire.count == 0


async def test_the_audience_really_changes(wire: Wire) -> None:
    added = await wire.run("add_campaign_audience", {"campaignId": BUEN_FIN, "clients": [SOMEBODY, SOMEBODY]})
    assert (added.body["data"]["addedCount"], added.body["data"]["updatedCount"]) == (1, 1)
    gone = await wire.run("remove_campaign_audience_client", {"campaignId": BUEN_FIN, "phoneNumber": "5500100001"})
    assert gone.body["data"]["removedCount"] == 1
    again = await wire.run("remove_campaign_audience_client", {"campaignId": BUEN_FIN, "phoneNumber": "5500100001"})
    assert again.body["data"]["removedCount"] == 0


def test_the_clock_of_these_tests_is_utc() -> None:
    assert NOW.tzinfo is UTC
