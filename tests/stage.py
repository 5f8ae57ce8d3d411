"""What the games of test_properties.py are played with: a small account, its people, the calls of models, and a fast
event loop."""

import asyncio
import hashlib
import itertools
import json
import selectors
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette

from agent.gate import Identity
from agent.sandbox.api import create_app
from agent.sandbox.store import Store
from agent.settings import SANDBOX_URL
from tests.oracle import WORKSPACE, Call
from tests.support import Clock

A, B, C = "cmpAlfa", "cmpBeta", "cmpGama"
TITLES = {A: "Promo de otoño", B: "Recordatorio", C: "Aviso viejo"}
SPARE = "525500100090"
"""Somebody whom the workspace has known for longer than all of them, and who is in no campaign."""
PEOPLE = {
    A: ("525500100001", "525500100002", "525500100003"),
    B: ("525500100011", "525500100012"),
    C: ("525500100021",),
}

ME, COLLEAGUE = Identity.os_user(), Identity("os", "4242", "otro")
ANA, EVA, CLIENT = Identity("slack", "T1/ana"), Identity("slack", "T1/eva"), Identity("mcp", "editor")
EVERYBODY = (ME, COLLEAGUE, ANA, EVA, CLIENT, Identity("OS", ME.id), Identity("", ME.id))
SESSIONS = {"one": ME, "two": ME, "thread": ANA, "editor": CLIENT}
OTHERS = {"one": COLLEAGUE, "two": COLLEAGUE, "thread": EVA, "editor": ANA}

SOON, TOMORROW, LATER = (f"2026-11-{day}.000Z" for day in ("23T16:40:00", "24T17:00:00", "26T17:00:00"))
"""Of sends; the clock starts at 16:00 on the 23rd."""
AFTER_KILL = 2_000.0
"""More seconds than an attempt may take in all, so that another process may judge it, and than a lock is held."""


def send(campaign: str, channel: str = "wb-501", **template: Any) -> Call:
    template = {"params": ["equipo", "viernes"], **template}
    return "send_campaign", {"campaignId": campaign, "channelId": channel, "template": template}


def remove(campaign: str, at: int) -> Call:
    return "remove_campaign_audience_client", {"campaignId": campaign, "phoneNumber": "+" + PEOPLE[campaign][at]}


def add(campaign: str, *numbers: int) -> Call:
    clients = [{"phoneNumber": f"+5255001001{number:02d}", "name": f"P {number}"} for number in numbers]
    return "add_campaign_audience", {"campaignId": campaign, "clients": clients}


def clear(campaign: str) -> Call:
    return "clear_campaign_audience", {"campaignId": campaign}


def delete(campaign: str) -> Call:
    return "delete_campaign", {"campaignId": campaign}


def update(campaign: str, **fields: str) -> Call:
    return "update_campaign", {"campaignId": campaign, **fields}


READ: Call = ("get_campaign", {"campaignId": A})
CREATE: Call = ("create_campaign", {"title": "Invierno", "category": "marketing", "platform": "whatsapp"})
WRITES: Mapping[str, Sequence[Call]] = {
    "add 1 to A": [add(A, 1)],
    "add 2 to A": [add(A, 2, 3)],
    "add 2 to B": [add(B, 8, 9)],
    "update A": [update(A, language="es")],
    "update B": [update(B, category="utility")],
    "retitle B": [update(B, title="Recordatorio nuevo")],
    "create": [CREATE],
}
ASKING: Mapping[str, Sequence[Call]] = {
    "send A": [send(A)],
    "send B": [send(B)],
    "send A otherwise": [send(A, params=["equipo", "lunes"])],
    "send A through a channel that is down": [send(A, channel="wb-502")],
    "send A with another template": [send(A, name="saludo_simple", params=[])],
    "send B soon": [send(B, scheduledDates=[SOON])],
    "send A on two days": [send(A, scheduledDates=[TOMORROW, LATER])],
    "clear A": [clear(A)],
    "clear B": [clear(B)],
    "delete B": [delete(B)],
    "delete C": [delete(C)],
    "remove one from A": [remove(A, 0)],
    "remove one from B": [remove(B, 0)],
    "add 4 to A": [add(A, 4, 5, 6, 7)],
    "remove two from A": [remove(A, 0), remove(A, 1)],
    "remove all from A": [remove(A, 0), remove(A, 1), remove(A, 2)],
    "remove from A and B": [remove(A, 0), remove(B, 0)],
    "send A twice": [send(A), send(A)],
    "send A and B": [send(A), send(B)],
    "send B, then update it": [send(B), update(B, language="es")],
    "send B tomorrow, then add to it": [send(B, scheduledDates=[TOMORROW]), add(B, 8)],
    "clear and delete B": [clear(B), delete(B)],
    "update A, then send it": [update(A, language="es"), send(A)],
    "clear A between reads": [READ, clear(A), READ],
}
PROPOSALS = {**ASKING, **WRITES, "add 4 to A bit by bit": [add(A, 1), add(A, 2, 3), add(A, 10)]}


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose sleepers wait a twentieth of their time."""

    SPEED = 20.0

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        return super().time() * self.SPEED


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[Any]:
        return super().select(timeout / FastLoop.SPEED if timeout else timeout)


async def gather(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


async def after(steps: int, work: Coroutine[Any, Any, Any]) -> Any:
    """A little later, so that two that start at once don't always meet at the same place."""
    await asyncio.sleep(0.01 * steps)
    return await work


def sandbox(clock: Clock) -> Starlette:
    """The account without its campaigns; three small ones in their place."""
    numbers = itertools.count()
    app = create_app(
        ":memory:", clock=clock.date, new_id=lambda: f"made{next(numbers):016d}", seed=False, rate_limit=100_000
    )
    store: Store = app.state.store
    with store.transaction(write=True):
        store.add_client(WORKSPACE, "none", SPARE, f"Cliente {SPARE[-2:]}", clock.date())
    for campaign in TITLES:
        restore(store, campaign, clock)
    return app


def restore(store: Store, campaign: str, clock: Clock) -> None:
    """Somebody makes the campaign and its audience anew where they are gone."""
    with store.transaction(write=True):
        if store.campaign(WORKSPACE, campaign) is None:
            dates = {"creationDate": "2026-03-02T21:33:36.049Z", "lastUpdate": "2026-03-02T21:33:36.049Z"}
            record: dict[str, Any] = {
                "id": campaign,
                "title": TITLES[campaign],
                "category": "utility",
                "platform": "whatsapp",
            }
            record |= {"owners": [], "templateName": "recordatorio_cita", "language": "es_MX", **dates}
            store.insert_campaign(WORKSPACE, record)
        for phone in PEOPLE[campaign]:
            store.add_client(WORKSPACE, campaign, phone, f"Cliente {phone[-2:]}", clock.date())


def swapped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same call on something else."""
    if "campaignId" not in arguments:
        return {**arguments, "title": "Otro"}
    return {**arguments, "campaignId": A if arguments["campaignId"] == B else B}


def digest(tool: str, calls: Sequence[Any]) -> str:
    """What the journal keeps of the arguments, made by somebody who knows how."""
    texts = [json.dumps(call, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for call in calls]
    return hashlib.sha256("\n".join(f"{tool} {text}" for text in texts).encode()).hexdigest()


ELSEWHERE: Mapping[str, Mapping[str, Any]] = {
    "base URL": {"base_url": "http://other.invalid"},
    "workspace": {"platica_workspace": WORKSPACE},
    "key": {"platica_api_key": "pl_key_other_0123456789abcdef"},
    "read only": {"read_only": True},
}
HERE = SANDBOX_URL
