"""The world of a case: a sandbox whose clock stands still and whose ids are in order; and what it began as."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette

from agent.domain import Json
from agent.operations import BY_NAME
from agent.sandbox.api import create_app
from agent.sandbox.contract import iso
from agent.sandbox.seed import KEYS, LIMITED_KEY, LOCAL_KEY, MULTI_KEY, template_fields
from agent.sandbox.store import Fault as StoreFault
from agent.sandbox.store import Page, Store
from evals.case import (
    AddCampaign,
    AddPeople,
    Case,
    CaseError,
    ChangeCampaign,
    ChangeChannel,
    ChangeTemplate,
    DeleteCampaign,
    Edit,
    EditTurn,
    Fault,
    Many,
    NewCampaign,
    Person,
    RemovePeople,
    RenamePerson,
)

API_KEYS = {"local": LOCAL_KEY, "multi": MULTI_KEY, "limited": LIMITED_KEY}
_READS = {"list_channels": "/v1/channels", "list_templates": "/v1/templates"}


class Clock:
    """Unix seconds that move only when a case says so."""

    def __init__(self, start: datetime) -> None:
        self.seconds = start.timestamp()

    def __call__(self) -> float:
        return self.seconds

    def date(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


class _Ids:
    """20 characters, in order; those of edits look different, so that a case may add some and others stay."""

    def __init__(self) -> None:
        self._numbers = {"new": 0, "edi": 0}
        self.kind = "new"

    def __call__(self) -> str:
        self._numbers[self.kind] += 1
        return f"{self.kind}{self._numbers[self.kind]:017d}"


class _Side:
    """One sandbox, and how edits get into it."""

    def __init__(self, case: Case, clock: Clock) -> None:
        self.ids = _Ids()
        seed = case.world.fixture == "seed"
        self.app: Starlette = create_app(
            ":memory:", clock=clock.date, new_id=self.ids, seed=seed, rate_limit=10_000_000
        )
        self.store: Store = self.app.state.store
        self._clock = clock

    def edit(self, edits: Sequence[Edit], *, lenient: bool = False) -> None:
        """Raises CaseError for what can't be edited, unless that is `lenient`ly left out."""
        self.ids.kind = "edi"
        for edit in edits:
            with contextlib.suppress(*([CaseError] if lenient else [])):
                self._one(edit)
        self.ids.kind = "new"

    def _one(self, edit: Edit) -> None:
        match edit:
            case ChangeChannel(change_channel=changes):
                self._alter("channels", changes.id, changes.fields)
            case ChangeTemplate(change_template=changes):
                self._alter("templates", changes.id, changes.fields)
            case _:
                with self.store.transaction(write=True):
                    self._within(edit)

    def _within(self, edit: Edit) -> None:
        store, now = self.store, self._clock.date()
        match edit:
            case AddCampaign(add_campaign=new):
                self._add(new)
            case ChangeCampaign(change_campaign=changes):
                workspace, record = self._campaign(changes.id)
                filled = self._template(workspace, changes.fields.get("templateName"))
                store.save_campaign({**record, **filled, **changes.fields}, now)
            case DeleteCampaign(delete_campaign=campaign):
                store.delete_campaign(self._campaign(campaign)[0], campaign, now)
            case AddPeople(add_people=people):
                self._people(self._campaign(people.campaign)[0], people.campaign, people.people, people.many)
            case RemovePeople(remove_people=phones):
                workspace = self._campaign(phones.campaign)[0]
                for phone in phones.phones:
                    if not store.untag(workspace, phones.campaign, now, phone):
                        raise CaseError(f"edit: {phone} isn't in the audience of {phones.campaign}")
            case RenamePerson(rename_person=person):
                self._rename(person)

    def _campaign(self, campaign: str) -> tuple[str, Json]:
        for workspace in KEYS[MULTI_KEY].workspaces:
            if (record := self.store.campaign(workspace, campaign)) is not None:
                return workspace, record
        raise CaseError(f"edit: there is no campaign {campaign}")

    def _template(self, workspace: str, name: str | None) -> Json:
        if name is None:
            return {}
        found = self.store.resources(workspace, "templates", name)
        if not found:
            raise CaseError(f"edit: there is no template {name}")
        return template_fields(found[0], self.store.waba_id(workspace))

    def _add(self, new: NewCampaign) -> None:
        now = iso(self._clock.date())
        record = {
            "id": new.id,
            "title": new.title,
            "category": new.category,
            "platform": "whatsapp",
            "owners": list(new.owners),
            "language": "es_MX",
            "wabaId": self.store.waba_id(new.workspace),
            **self._template(new.workspace, new.template),
            "creationDate": now,
            "lastUpdate": now,
        }
        self.store.insert_campaign(new.workspace, record)
        self._people(new.workspace, new.id, new.people, new.many)

    def _people(self, workspace: str, campaign: str, people: Sequence[Person], many: Many | None) -> None:
        for phone, name in [*((p.phone, p.name) for p in people), *_numbered(many)]:
            self.store.add_client(workspace, campaign, phone, name, self._clock.date())

    def _rename(self, person: Person) -> None:
        # The store renames whom it adds: to a campaign whose audience the person is in already.
        for workspace in KEYS[MULTI_KEY].workspaces:
            for campaign in self.store.campaigns(workspace, Page(limit=10_000)):
                members = self.store.audience(workspace, campaign["id"], Page(limit=100_000))
                if any(client["phoneNumber"] == person.phone for client in members):
                    self.store.add_client(workspace, campaign["id"], person.phone, person.name, self._clock.date())
                    return
        raise CaseError(f"edit: {person.phone} is in nobody's audience")

    def _alter(self, kind: str, name: str, fields: Json) -> None:
        if not self.store.alter(kind, name, **fields):
            raise CaseError(f"edit: there is no {name} among the {kind}")


_VOLATILE = ("creationDate", "lastUpdate")


@dataclass(frozen=True)
class Snapshot:
    """Campaigns by id, less dates; phones of each audience with their names; names by phone of all clients."""

    campaigns: Mapping[str, Mapping[str, Json]]
    audience: Mapping[str, Mapping[str, tuple[str, ...]]]
    names: Mapping[str, tuple[str, ...]]
    workspace: Mapping[str, str]


def snapshot(store: Store) -> Snapshot:
    campaigns: dict[str, dict[str, Json]] = {}
    members: dict[str, dict[str, list[str]]] = {}
    names: dict[str, list[str]] = {}
    homes: dict[str, str] = {}
    for workspace in store.state():
        for record in workspace["campaigns"]:
            campaigns[record["id"]] = {key: value for key, value in record.items() if key not in _VOLATILE}
            members[record["id"]] = {}
            homes[record["id"]] = workspace["id"]
        for client in workspace["clients"]:
            names.setdefault(client["phoneNumber"], []).append(client["name"])
            for tag in client["tags"]:
                audience = members.setdefault(tag.removeprefix("campaign-"), {})
                audience.setdefault(client["phoneNumber"], []).append(client["name"])
    fixed = {one: {phone: tuple(sorted(found)) for phone, found in whole.items()} for one, whole in members.items()}
    return Snapshot(campaigns, fixed, {phone: tuple(sorted(found)) for phone, found in names.items()}, homes)


class Sandbox:
    """What the agent talks to. Where the case edits it midway, a twin has these edits alone: the difference is the
    agent's."""

    def __init__(self, case: Case, clock: Clock) -> None:
        self._real = _Side(case, clock)
        self._twin = _Side(case, clock) if any(isinstance(turn, EditTurn) for turn in case.turns) else None
        self.app, self.store = self._real.app, self._real.store
        self.key = API_KEYS[case.world.key]
        self.edit(case.world.edits)
        self._start = snapshot(self.store) if self._twin is None else None
        for fault in case.world.faults:
            self.fault(fault)
        self._created: dict[str, str] = {}

    def edit(self, edits: Sequence[Edit]) -> None:
        self._real.edit(edits)
        # Whom the agent has added, only the real one knows.
        if self._twin is not None:
            self._twin.edit(edits, lenient=True)

    def base(self) -> Snapshot:
        """What the sandbox would be had the agent done nothing."""
        if self._twin is not None:
            return snapshot(self._twin.store)
        assert self._start is not None
        return self._start

    def fault(self, fault: Fault) -> None:
        method, path = _place(fault)
        self.store.add_fault(StoreFault(fault.kind, fault.seconds, fault.times, method, path, exact=True))

    def created(self, title: str) -> str | None:
        """The id of the campaign that was created with this title; also when it has been renamed or deleted since."""
        self.look()
        return self._created.get(title)

    def look(self) -> None:
        """Notes which campaigns there are now."""
        for workspace in KEYS[MULTI_KEY].workspaces:
            for campaign in self.store.campaigns(workspace, Page(limit=10_000)):
                if campaign["id"].startswith("new"):
                    self._created.setdefault(campaign["title"], campaign["id"])

    def close(self) -> None:
        self.store.close()
        if self._twin is not None:
            self._twin.store.close()


def _numbered(many: Many | None) -> Iterator[tuple[str, str]]:
    for at in range(many.count if many else 0):
        assert many is not None
        yield str(int(many.first) + at), f"{many.name} {at + 1}"


def _place(fault: Fault) -> tuple[str, str]:
    if fault.op in _READS:
        return "GET", _READS[fault.op]
    operation = BY_NAME[fault.op]
    # A pattern can't tell a campaign from what is below it.
    if operation.path.endswith("{campaignId}") and operation.method != "PATCH" and fault.campaign is None:
        raise CaseError(f"a fault of {fault.op} needs its campaign")
    path: Any = operation.path.replace("{campaignId}", fault.campaign or "*")
    return operation.method, re.sub(r"\{\w+\}", "*", path)
