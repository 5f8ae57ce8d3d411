"""The embedded sandbox, its built-in rules and phones, as people who tried them wrote."""

import random
import string
import tracemalloc
from typing import Any

import pytest

from agent.phones import to_e164
from agent.sandbox.model import LONGEST
from agent.sandbox.seed import workspaces
from tests.test_sandbox_model import Talk, asked, called, told


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("\u202d+52 55 0010 0001\u202c", "+525500100001"),
        ("Cel. 55 0010 0001", "+525500100001"),
        ("cel: 55 0010 0001", "+525500100001"),
        ("wa.me/5215500100001", "+5215500100001"),
        ("https://wa.me/525500100001", "+525500100001"),
        ("5500100001.0", "+525500100001"),
        ("525500100001.0", "+525500100001"),
    ],
)
def test_phones_as_apps_and_spreadsheets_write_them(written: str, meant: str) -> None:
    assert to_e164(written) == meant


@pytest.mark.parametrize(
    "written",
    ["55 0010 0001 ext. 5", "Cel. 55 0010 0001 ext. 5", "wa.me/5500100001?text=hola", "5500100001.00"],
)
def test_what_is_more_than_a_phone_stays_refused(written: str) -> None:
    with pytest.raises(ValueError, match="phone number"):
        to_e164(written)


@pytest.mark.asyncio
async def test_a_word_as_long_as_no_word_is_gets_no_spelling_corrections() -> None:
    word = "".join(random.Random(7).choices(string.ascii_lowercase, k=2000))
    await Talk().say("campaña verano")
    tracemalloc.start()
    try:
        await Talk().say(f"campaña {word}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Its slips would be a hundred thousand words of its own length.
    assert peak < 10_000 * len(word)


@pytest.mark.asyncio
async def test_a_message_that_is_too_long_for_the_rules_is_said_to_be() -> None:
    talk = Talk()
    told(await talk.say("borra la campaña Promo Verano 2026 " + "y más " * (LONGEST // 6)), "demasiado largo")
    assert talk.listed == 0
    # And it is no part of what follows.
    called(await talk.say("borra la campaña Buen Fin 2026"), "delete_campaign", campaignId="cmpBuenFin")
    told(await Talk().say("please delete the campaign " + "x" * LONGEST), "too long")
    called(
        await Talk().say("borra la campaña Buen Fin 2026" + " " * (LONGEST - 50)),
        "delete_campaign",
        campaignId="cmpBuenFin",
    )


AUDIENCE_PAGES = {
    "ask me for “50 contacts, skip the first 21”": {"limit": 50, "offset": 21},
    "50 contacts, skip the first 21": {"limit": 50, "offset": 21},
    "pídeme «50 contactos a partir del 21»": {"limit": 50, "offset": 21},
    "«50 contactos a partir del 21»": {"limit": 50, "offset": 21},
    "«las siguientes 3 a partir de la 3»": {"limit": 3, "offset": 3},
}


@pytest.mark.asyncio
@pytest.mark.parametrize("text", AUDIENCE_PAGES)
async def test_the_hint_below_an_audience_pages_on_in_that_audience(text: str) -> None:
    talk = Talk()
    called(
        await talk.say("contactos de Buen Fin 2026 por nombre"),
        "get_campaign_audience",
        campaignId="cmpBuenFin",
        sortBy="name",
        sortDirection="asc",
    )
    clients = [{"name": "Ana", "phoneNumber": "+525500100001"}]
    await talk.answer("done", result={"workspaces": [{"clients": clients, "pagination": {"hasMore": True}}]})
    called(
        await talk.say(text),
        "get_campaign_audience",
        campaignId="cmpBuenFin",
        sortBy="name",
        sortDirection="asc",
        **AUDIENCE_PAGES[text],
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("order", ["muéstrame 3 campañas", "show me 3 campaigns"])
async def test_the_hint_below_a_list_is_understood_as_it_stands(order: str) -> None:
    talk = Talk()
    called(await talk.say(order), "list_campaigns", limit=3)
    shown = {"campaigns": list(talk.campaigns[:3]), "pagination": {"hasMore": True}}
    said = await talk.answer("done", result={"workspaces": [shown]})
    assert isinstance(said, str)
    hint = said.splitlines()[-1]
    quoted = hint[min(hint.find(mark) for mark in "«“" if mark in hint) : -1]
    called(await talk.say(quoted), "list_campaigns", limit=3, offset=3)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "text",
    [
        "cámbiale el nombre a Buen Fin 2026 por Buen Fin 2027",
        "cámbiale el nombre a buen fin 2026 por Buen Fin 2027, por favor",
        "cambia el nombre de Buen Fin 2026 por Buen Fin 2027",
    ],
)
async def test_the_name_of_one_is_changed_for_another(text: str) -> None:
    called(await Talk().say(text), "update_campaign", campaignId="cmpBuenFin", title="Buen Fin 2027")


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["get campaign Promo Verano 2026", "please get the campaign Promo Verano 2026"])
async def test_get_with_a_campaign_gets_it(text: str) -> None:
    called(await Talk().say(text), "get_campaign", campaignId="cmpPromo")


@pytest.mark.asyncio
async def test_get_with_more_behind_it_is_no_plain_read() -> None:
    told(await Talk().say("get Promo Verano 2026 over to the printer"))


def with_the_sandboxes_templates() -> Talk:
    (norte,) = (workspace for workspace in workspaces() if workspace.id == "ws_norte")
    return Talk(templates=[record for kind, _, record in norte.resources if kind == "templates"])


def sends(answer: Any, params: list[str], value: str, **more: Any) -> None:
    button = {"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": value}]}
    template = {"params": params, "buttons": [button], **more}
    called(answer, "send_campaign", campaignId="cmpPromo", channelId="wb-501", template=template)


ENGLISH = 'send Promo Verano 2026 from wb-501 with params "friend", "20%", "August 31"'
SPANISH = "manda Promo Verano 2026 desde wb-501 con los parámetros amiga, 20% y 31 de agosto"
FRIEND, AMIGA = ["friend", "20%", "August 31"], ["amiga", "20%", "31 de agosto"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "params"),
    [
        (f'{ENGLISH} and button 0 value "otono"', FRIEND),
        (f"{ENGLISH}, button 0: otono", FRIEND),
        (f'{ENGLISH} with value "otono" for button 0', FRIEND),
        (f"{SPANISH} y botón 0 con valor «otono»", AMIGA),
        (f"{SPANISH} y el botón con el valor otono", AMIGA),
        (f"{SPANISH}, y valor «otono» para el botón 0", AMIGA),
    ],
)
async def test_a_buttons_value_is_taken_from_the_request(text: str, params: list[str]) -> None:
    sends(await with_the_sandboxes_templates().say(text), params, "otono")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_", "params", "answer", "value"),
    [
        (ENGLISH, FRIEND, "otono", "otono"),
        (ENGLISH, FRIEND, 'use "mayo-5"', "mayo-5"),
        (ENGLISH, FRIEND, "button 0 value otono", "otono"),
        (SPANISH, AMIGA, "el valor es otoño", "otoño"),
    ],
)
async def test_a_buttons_value_is_asked_for_by_the_buttons_name(
    request_: str, params: list[str], answer: str, value: str
) -> None:
    talk = with_the_sandboxes_templates()
    asked(await talk.say(request_), "Ver menú", "promo_verano")
    # A question is no value.
    asked(await talk.say("¿qué es eso?" if params is AMIGA else "what is that?"), "Ver menú")
    sends(await talk.say(answer), params, value)


@pytest.mark.asyncio
async def test_the_answer_with_the_parameters_may_hold_the_buttons_value() -> None:
    talk = with_the_sandboxes_templates()
    asked(await talk.say("manda Promo Verano 2026 desde wb-501"), "3 parámetro(s)")
    sends(await talk.say("amiga, 20%, 31 de agosto y botón 0 con valor «otono»"), AMIGA, "otono")


@pytest.mark.asyncio
async def test_instead_of_a_buttons_value_the_send_can_be_left() -> None:
    talk = with_the_sandboxes_templates()
    asked(await talk.say(SPANISH), "Ver menú")
    told(await talk.say("no"), "no hice nada")
