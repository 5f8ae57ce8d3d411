"""What a new sandbox holds: two invented coffee shops, with ids that never change."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from agent.sandbox.contract import Json, iso, variables


@dataclass(frozen=True)
class Key:
    """A published development key, so not a secret; `denied` are the resources it may not read."""

    id: str
    workspaces: tuple[str, ...]
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SeedClient:
    """The two marks aren't in the API's client record; they show only in what a send leaves out."""

    record: Json
    tags: tuple[str, ...] = ()
    problematic: bool = False
    undeliverable: bool = False


@dataclass(frozen=True)
class SeedWorkspace:
    """`resources` are (kind, name, record) of channels, templates and agents, which no operation can create."""

    id: str
    name: str
    waba_id: str
    resources: tuple[tuple[str, str, Json], ...]
    campaigns: tuple[Json, ...]
    clients: tuple[SeedClient, ...] = field(repr=False)


LOCAL_KEY = "pl_key_sandbox_local"
MULTI_KEY = "pl_key_multi_local"
LIMITED_KEY = "pl_key_limited_local"
KEYS = {
    LOCAL_KEY: Key("sandbox", ("ws_norte",)),
    MULTI_KEY: Key("multi", ("ws_norte", "ws_sur")),
    LIMITED_KEY: Key("limited", ("ws_norte",), frozenset({"channels", "templates", "agents"})),
}

START = datetime(2026, 1, 5, 15, 20, 11, 52_000, tzinfo=UTC)
FIRST_NAMES = (
    "Alejandra Beatriz Cecilia Daniela Eduardo Fernando Guadalupe Héctor Ignacio Jimena Karla Leonardo "
    "Mónica Norma Óscar Patricia Ramiro Silvia Tomás Úrsula Verónica Ximena Yolanda"
)
SURNAMES = (
    "Aguilar Bautista Cárdenas Domínguez Escobedo Figueroa Garza Huerta Ibarra Jáuregui Lozano Medina "
    "Navarro Olvera Ponce Quintero Rangel Salinas Tapia Urbina Valdés Villarreal Yáñez Zamora Zúñiga "
    "Ávila Cisneros Montes Peña"
)
AREAS = (("55", "Ciudad de México"), ("81", "Monterrey"), ("33", "Guadalajara"), ("22", "Puebla"), ("998", "Cancún"))
KNOWN = {
    1: ("525500100001", "Juan Pérez López"),
    2: ("525500100002", "María Fernanda Ruiz"),
    3: ("5218100100003", "Carlos Treviño"),
    4: ("525500100004", "Ana Sofía Morales"),
    10: ("525500100010", "Luis Hernández"),
    11: ("525500100011", "Gabriela Ortiz"),
    # One person in both Mexican forms: the pair that a duplicate check should find.
    13: ("5218100100013", "Rosa Elena Cantú"),
    14: ("528100100013", "Rosa Elena Cantú"),
}
PROMO, CITA, AVISO = "cmpPromoVerano2026aa", "cmpRecordatorioCita1", "cmpAvisoFacturacion1"
BUEN_FIN, ENCUESTA, BIENVENIDA = "cmpBuenFin2026aaaaaa", "cmpEncuestaSatisfac1", "cmpBienvenidaNuevos1"
AUDIENCES: dict[str, frozenset[int]] = {
    PROMO: frozenset(range(1, 123)) - {10, 11},
    CITA: frozenset({2, 10}) | frozenset(range(123, 156)),
    AVISO: frozenset(range(156, 220)),
    BUEN_FIN: frozenset(),
    ENCUESTA: frozenset({11}) | frozenset(range(268, 279)),
    BIENVENIDA: frozenset(range(220, 268)),
}
CLIENTS_NORTE = 320
PROBLEMATIC = frozenset({20, 57, 130, 170, 230})
UNDELIVERABLE = frozenset({31, 88, 140, 190, 250})


def workspaces() -> tuple[SeedWorkspace, ...]:
    return (norte(), sur())


def norte() -> SeedWorkspace:
    templates = _templates_norte()
    waba = "waba_norte"
    agents = (_agent("agt_sofia", "Sofía", "wb-501"), _agent("agt_diego", "Diego", "wb-502"))
    channels = (
        _channel("501", "Ventas CDMX", "+52 55 0010 0501", "agt_sofia", waba, connected=True),
        _channel("502", "Soporte Monterrey", "+52 81 0010 0502", "agt_diego", waba, connected=False),
    )
    saved = {template["name"]: template for template in templates}
    rows = (
        (PROMO, "Promo Verano 2026", "marketing", "promo_verano", 150),
        (CITA, "Recordatorio de cita", "utility", "recordatorio_cita", 37),
        (AVISO, "Aviso de facturación", "utility", "aviso_factura", 62),
        (BUEN_FIN, "Buen Fin 2026", "marketing", "buen_fin_2026", 298),
        (ENCUESTA, "Encuesta de satisfacción", "marketing", None, 211),
        (BIENVENIDA, "Bienvenida clientes nuevos", "marketing", "bienvenida_cliente", 9),
    )
    campaigns = [
        _campaign(row[:3], saved.get(row[3] or ""), "mercadotecnia@cafedelnorte.example", waba, row[4]) for row in rows
    ]
    clients = tuple(_client_norte(number) for number in range(1, CLIENTS_NORTE + 1))
    resources = _resources(agents, channels, templates)
    return SeedWorkspace("ws_norte", "Café del Norte", waba, resources, tuple(campaigns), clients)


def sur() -> SeedWorkspace:
    waba = "waba_sur"
    template = _template("postre_mes", "MARKETING", "¡Hola {{1}}! El postre del mes es {{2}}.", ["Ana", "pay de limón"])
    channel = _channel("601", "Ventas Mérida", "+52 999 001 0601", "agt_elena", waba, connected=True)
    owner = "hola@cafedelsur.example"
    campaigns = (
        _campaign(("cmpSurPostreDelMes01", "Postre del mes", "marketing"), template, owner, waba, 90),
        _campaign(("cmpSurAvisoHorario01", "Aviso de horario", "utility"), None, owner, waba, 120),
        _campaign(("cmpSurClubLectura001", "Club de lectura", "marketing"), None, owner, waba, 200),
    )
    # The last two share one phone, so that a removal can count more than one.
    names = ("Elisa Canul", "Mario Uc", "Teresa Pech", "Jorge Chan", "Nora Balam", "Raúl Balam")
    clients = []
    for number, name in enumerate(names, start=1):
        record = _record(f"cliSur{number:014d}", f"52999002{min(number, 5):04d}", name, "Mérida", 400 + number)
        clients.append(SeedClient(record, ("campaign-cmpSurPostreDelMes01",)))
    resources = _resources((_agent("agt_elena", "Elena", "wb-601"),), (channel,), (template,))
    return SeedWorkspace("ws_sur", "Café del Sur", waba, resources, campaigns, tuple(clients))


def _templates_norte() -> tuple[Json, ...]:
    promo = "¡Hola {{1}}! Este verano tienes {{2}} de descuento en todas nuestras bebidas frías. Válido hasta el {{3}}."
    menu = {"type": "URL", "text": "Ver menú", "url": "https://cafedelnorte.example/menu/{{1}}"}
    no = {"type": "QUICK_REPLY", "text": "No me interesa", "url": None}
    cita = "Hola {{1}}, te recordamos tu cita el {{2}}. Responde 1 para confirmar."
    bienvenida = "¡Bienvenido a Café del Norte! Muestra este mensaje y recibe un café de cortesía."
    buen_fin = "¡Hola {{1}}! El Buen Fin llega con {{2}} en café en grano."
    return (
        _template("promo_verano", "MARKETING", promo, ["Ana", "20%", "31 de agosto"], buttons=(menu, no)),
        _template("recordatorio_cita", "UTILITY", cita, ["Luis", "3 de marzo a las 10:00"]),
        _template(
            "aviso_factura", "UTILITY", "Tu factura del mes de {{1}} ya está disponible.", ["marzo"], header="DOCUMENT"
        ),
        _template("bienvenida_cliente", "MARKETING", bienvenida, [], header="IMAGE"),
        _template("saludo_simple", "MARKETING", "¡Hola! Gracias por ser parte de Café del Norte.", []),
        _template("buen_fin_2026", "MARKETING", buen_fin, ["Ana", "30% de descuento"], status="PENDING"),
        _template("encuesta_2025", "MARKETING", "Ayúdanos con una encuesta: {{1}}", ["enlace"], status="REJECTED"),
    )


def _template(
    name: str,
    category: str,
    content: str,
    params: list[str],
    *,
    status: str = "APPROVED",
    header: str | None = None,
    buttons: Sequence[Json] = (),
) -> Json:
    return {
        "name": name,
        "category": category,
        "status": status,
        "language": "es_MX",
        "content": content,
        "header": None if header is None else {"type": header},
        "footer": None,
        "buttons": list(buttons),
        "params": params,
        "dynamicButtonsCount": sum(variables(button["url"] or "") > 0 for button in buttons),
    }


def _agent(agent_id: str, name: str, channel: str) -> Json:
    return {"id": agent_id, "name": name, "status": "ACTIVE", "channel": channel}


def _channel(number: str, name: str, display: str, agent_id: str, waba: str, *, connected: bool) -> Json:
    return {
        "id": number,
        "prefixedChannelId": f"wb-{number}",
        "provider": "whatsapp_business",
        "platform": "whatsapp",
        "channelType": "whatsapp",
        "isConnected": connected,
        "status": "CONNECTED" if connected else "DISCONNECTED",
        "defaultAgentId": agent_id,
        "name": name,
        "displayPhoneNumber": display,
        "phoneNumber": "".join(filter(str.isdigit, display)),
        "wabaId": waba,
        "creationDate": iso(START),
        "lastUpdate": iso(START + timedelta(days=3)),
    }


def _resources(
    agents: Sequence[Json], channels: Sequence[Json], templates: Sequence[Json]
) -> tuple[tuple[str, str, Json], ...]:
    return (
        *(("agents", agent["id"], agent) for agent in agents),
        *(("channels", channel["prefixedChannelId"], channel) for channel in channels),
        *(("templates", template["name"], template) for template in templates),
    )


def template_fields(template: Json, waba_id: str) -> Json:
    """What the API fills in by itself on a campaign that names this template."""
    return {
        "templateName": template["name"],
        "message": template["content"],
        "template": json.dumps(template, ensure_ascii=False),
        "language": template["language"],
        "templateLanguage": template["language"],
        "wabaId": waba_id,
    }


def _campaign(names: tuple[str, str, str], template: Json | None, owner: str, waba: str, day: int) -> Json:
    campaign_id, title, category = names
    created = START + timedelta(days=day, minutes=13 * day)
    return {
        "id": campaign_id,
        "title": title,
        "category": category,
        "platform": "whatsapp",
        "owners": [owner],
        "language": "es_MX",
        "wabaId": waba,
        **(template_fields(template, waba) if template else {}),
        "creationDate": iso(created),
        "lastUpdate": iso(created + timedelta(hours=5, minutes=day)),
    }


def _client_norte(number: int) -> SeedClient:
    area, city = AREAS[number % len(AREAS)]
    national = f"{area}0010{number:04d}" if len(area) == 2 else f"{area}001{number:04d}"
    firsts, lasts = FIRST_NAMES.split(), SURNAMES.split()
    first = firsts[number % len(firsts)]
    surname = f"{lasts[number % len(lasts)]} {lasts[(number * 7 + 3) % len(lasts)]}"
    # About one in ten is stored in the old mobile form, 52 1 and the national number.
    phone = f"521{national}" if number % 10 == 3 else f"52{national}"
    phone, name = KNOWN.get(number, (phone, f"{first} {surname}"))
    tags = tuple(f"campaign-{campaign}" for campaign, members in AUDIENCES.items() if number in members)
    record = _record(f"cliNorte{number:012d}", phone, name, city, number)
    return SeedClient(record, tags, number in PROBLEMATIC, number in UNDELIVERABLE)


def _record(client_id: str, phone: str, name: str, city: str, number: int) -> Json:
    created = START + timedelta(hours=20 * (number % 320), minutes=7 * number)
    first, _, last = name.partition(" ")
    known = {
        "firstname": first,
        "lastname": last,
        "email": f"cliente{number}@correo.example" if number % 3 else None,
        "country": "MX",
        "city": city,
        "creationDate": iso(created),
        "lastUpdate": iso(created + timedelta(days=number % 12, minutes=number)),
    }
    return {**blank_client(client_id, phone, name, iso(created)), **known}


def blank_client(client_id: str, phone: str, name: str, created: str) -> Json:
    """A minimal record, every documented field present; the store puts the tags in when it reads one."""
    unknown = ("firstname", "lastname", "email", "birthdate", "gender", "company", "country", "state", "city")
    return {
        "id": client_id,
        "phoneNumber": phone,
        "name": name,
        **dict.fromkeys((*unknown, "address", "postalCode")),
        "tags": [],
        "owners": [],
        "customFields": {},
        "creationDate": created,
        "lastUpdate": created,
    }
