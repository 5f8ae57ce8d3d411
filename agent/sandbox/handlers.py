"""The campaigns API's ten operations and four reads, each a function from a checked call to a reply."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.sandbox import contract
from agent.sandbox.contract import ApiError, Check, Json
from agent.sandbox.seed import template_fields
from agent.sandbox.store import Page, Store

LISTED = ("id", "title", "category", "platform", "templateName", "owners", "language")
SHOWN = {
    "list": (*LISTED, "creationDate", "lastUpdate"),
    "get": (*LISTED, "wabaId", "creationDate", "lastUpdate"),
    "written": (*LISTED, "templateLanguage", "wabaId", "creationDate", "lastUpdate"),
}


@dataclass(frozen=True)
class Call:
    """One request that passed every check an operation doesn't make by itself."""

    store: Store
    now: datetime
    workspaces: tuple[str, ...]
    path: Mapping[str, str]
    query: Json
    body: Any

    @property
    def workspace(self) -> str:
        """The one a write goes to."""
        return self.workspaces[0]

    def campaign(self) -> tuple[str, Json]:
        """The campaign of the path, and its workspace."""
        for workspace in self.workspaces:
            if record := self.store.campaign(workspace, self.path["campaign"]):
                return workspace, record
        raise ApiError(404, "Campaign not found")

    def page(self) -> Page:
        given = self.query
        default = Page()
        return Page(
            limit=given.get("limit", default.limit),
            offset=given.get("offset", default.offset),
            sort_by=given.get("sortBy", default.sort_by),
            direction=given.get("sortDirection", default.direction),
        )

    def envelope(self, workspace: str, content: Json) -> Json:
        return {"id": workspace, "name": self.store.workspace_name(workspace), **content}


@dataclass(frozen=True)
class Reply:
    """What an operation did; `batch` names the outbox rows of a send."""

    body: Json
    status: int = 200
    batch: str | None = None


@dataclass(frozen=True)
class Operation:
    """A method on a path and everything it accepts; `needs` is the permission that a key may lack."""

    method: str
    path: str
    run: Callable[[Call], Reply]
    query: Mapping[str, Check] = field(default_factory=dict)
    body: Check | None = None
    needs: str = "campaigns"

    @property
    def write(self) -> bool:
        return self.method != "GET"

    def match(self, segments: list[str]) -> dict[str, str] | None:
        pattern = self.path.split("/")
        if len(pattern) != len(segments):
            return None
        pairs = list(zip(pattern, segments, strict=True))
        if any(name != value and not (name.startswith("{") and value) for name, value in pairs):
            return None
        return {name.strip("{}"): value for name, value in pairs if name.startswith("{")}


def shown(record: Json, view: str) -> Json:
    return {name: record[name] for name in SHOWN[view] if name in record}


def success(message: str, data: Any = None, *, status: int = 200, batch: str | None = None) -> Reply:
    body = {"status": "success", "message": message}
    return Reply(body if data is None else {**body, "data": data}, status, batch)


def paged(page: Page, name: str, rows: list[Json]) -> Json:
    """One page's part of the envelope; `rows` holds one more than the limit when there is more."""
    items = rows[: page.limit]
    more = len(rows) > page.limit
    pagination = {"limit": page.limit, "offset": page.offset, "hasMore": more}
    return {f"{name}Count": len(items), name: items, "pagination": pagination}


# The operations.


def list_campaigns(call: Call) -> Reply:
    page, found = call.page(), []
    for workspace in call.workspaces:
        rows = [shown(record, "list") for record in call.store.campaigns(workspace, page)]
        found.append(call.envelope(workspace, paged(page, "campaigns", rows)))
    return Reply({"workspaces": found})


def get_campaign(call: Call) -> Reply:
    workspace, record = call.campaign()
    content = {"campaignsCount": 1, "campaigns": [shown(record, "get")]}
    return Reply({"workspaces": [call.envelope(workspace, content)]})


def create_campaign(call: Call) -> Reply:
    check_title(call)
    created = contract.iso(call.now)
    record = {
        "id": call.store.new_id(),
        "platform": "whatsapp",
        "owners": [],
        **filled(call),
        **call.body,
        "creationDate": created,
        "lastUpdate": created,
    }
    call.store.insert_campaign(call.workspace, record)
    return success("Campaign created successfully", shown(record, "written"), status=201)


def update_campaign(call: Call) -> Reply:
    _, record = call.campaign()
    check_title(call, but=record["id"])
    record = call.store.save_campaign({**record, **filled(call), **call.body}, call.now)
    return success("Campaign updated successfully", shown(record, "written"))


def delete_campaign(call: Call) -> Reply:
    workspace, record = call.campaign()
    call.store.delete_campaign(workspace, record["id"], call.now)
    return success("Campaign deleted successfully")


def check_title(call: Call, *, but: str = "") -> None:
    if "title" in call.body and call.store.title_taken(call.workspace, call.body["title"], but=but):
        raise contract.invalid("title", "title already exists in this workspace")


def filled(call: Call) -> Json:
    """What a templateName in the body brings with it."""
    if "templateName" not in call.body:
        return {}
    found = call.store.resources(call.workspace, "templates", call.body["templateName"])
    if not found:
        raise contract.invalid("templateName", "no such template in this workspace")
    check_approved(found[0])
    return template_fields(found[0], call.store.waba_id(call.workspace))


def check_approved(template: Json) -> None:
    if template["status"] != "APPROVED":
        raise ApiError(422, f"Template {template['name']} is not approved ({template['status']})")


def get_audience(call: Call) -> Reply:
    workspace, record = call.campaign()
    page = call.page()
    rows = call.store.audience(workspace, record["id"], page)
    return Reply({"workspaces": [call.envelope(workspace, paged(page, "clients", rows))]})


def add_audience(call: Call) -> Reply:
    workspace, record = call.campaign()
    # The same phone twice in one request is one client, and the last name stands.
    clients = {client["phoneNumber"]: client["name"] for client in call.body["clients"]}
    created = sum(
        call.store.add_client(workspace, record["id"], phone, name, call.now) for phone, name in clients.items()
    )
    updated = len(clients) - created
    data = {
        "addedCount": len(clients),
        "createdCount": created,
        "updatedCount": updated,
        "clients": [{"phoneNumber": phone, "name": name} for phone, name in clients.items()],
    }
    return success(f"{len(clients)} client(s) added to campaign ({created} created, {updated} updated)", data)


def remove_client(call: Call) -> Reply:
    phone = call.path["phone"]
    if not re.fullmatch("[0-9]+", phone):
        raise contract.invalid("phoneNumber", "must be the country code and digits only")
    workspace, record = call.campaign()
    count = call.store.untag(workspace, record["id"], call.now, phone)
    return success(f"{count} client(s) removed from campaign", {"removedCount": count})


def clear_audience(call: Call) -> Reply:
    workspace, record = call.campaign()
    count = call.store.untag(workspace, record["id"], call.now)
    return success(f"{count} client(s) removed from campaign", {"removedCount": count})


def send_campaign(call: Call) -> Reply:
    workspace, record = call.campaign()
    section = call.body.get("template", {})
    channel = connected_channel(call)
    responder = existing_agent(call, channel["defaultAgentId"])
    message = contract.compose(approved_template(call, record, section), section)
    dates = section.get("scheduledDates", [])
    contract.check_future(dates, call.now)
    recipients = call.store.recipients(
        workspace,
        record["id"],
        problematic=section.get("sendToProblematic", True),
        undeliverable=section.get("sendToUndeliverable", True),
    )
    if not recipients:
        raise ApiError(422, "The campaign's audience is empty")
    batch = call.store.new_id()
    header = {
        "batch": batch,
        "at": contract.iso(call.now),
        "workspace": workspace,
        "campaign": record["id"],
        "channel": channel["prefixedChannelId"],
        "responder": responder,
    }
    call.store.post(header, message, recipients, dates or [call.now])
    verb = "scheduled" if dates else "sent"
    return success(f"Campaign {verb} successfully", upstream_answer(batch, recipients, dates), batch=batch)


def connected_channel(call: Call) -> Json:
    found = call.store.resources(call.workspace, "channels", call.body["channelId"])
    if not found:
        raise ApiError(404, "Channel not found")
    if not found[0]["isConnected"]:
        raise ApiError(422, f"Channel {call.body['channelId']} is not connected ({found[0]['status']})")
    return found[0]


def existing_agent(call: Call, default: str | None) -> str | None:
    agent = call.body.get("responderAgentId", default)
    if agent is not None and not call.store.resources(call.workspace, "agents", agent):
        raise ApiError(404, "Agent not found")
    return str(agent) if agent is not None else None


def approved_template(call: Call, record: Json, section: Json) -> Json:
    name = section.get("name", record.get("templateName"))
    if name is None:
        raise contract.invalid("template.name", "is required, the campaign has no saved template")
    found = call.store.resources(call.workspace, "templates", name)
    if not found:
        raise ApiError(422, f"Template {name} does not exist in this workspace")
    check_approved(found[0])
    return found[0]


def upstream_answer(batch: str, recipients: list[Json], dates: list[datetime]) -> Any:
    """A list of jobs, one message, or a summary: the documented shape is that there is none."""
    if dates:
        count = len(recipients)
        return [{"jobId": f"{batch}-{i}", "runAt": contract.iso(d), "recipients": count} for i, d in enumerate(dates)]
    if len(recipients) == 1:
        return {"messageId": batch, "to": recipients[0]["phone"], "message_status": "accepted"}
    return {"batch": {"id": batch, "queued": len(recipients)}, "errors": []}


def reads(kind: str) -> Callable[[Call], Reply]:
    def read(call: Call) -> Reply:
        name = call.path.get("name")
        found = [(workspace, call.store.resources(workspace, kind, name)) for workspace in call.workspaces]
        if name is not None:
            found = [(workspace, records) for workspace, records in found if records]
            if not found:
                raise ApiError(404, "Template not found")
        return Reply({"workspaces": [call.envelope(workspace, {kind: records}) for workspace, records in found]})

    return read


CAMPAIGNS, CAMPAIGN = "/v1/campaigns", "/v1/campaigns/{campaign}"
AUDIENCE = f"{CAMPAIGN}/audience"
CAMPAIGN_PAGES = contract.paging(200, "title", "creationDate", "lastUpdate")
CLIENT_PAGES = contract.paging(500, "name", "creationDate", "lastUpdate")
OPERATIONS = (
    Operation("GET", CAMPAIGNS, list_campaigns, query=CAMPAIGN_PAGES),
    Operation("POST", CAMPAIGNS, create_campaign, body=contract.create_body),
    Operation("GET", CAMPAIGN, get_campaign),
    Operation("PATCH", CAMPAIGN, update_campaign, body=contract.update_body),
    Operation("DELETE", CAMPAIGN, delete_campaign),
    Operation("POST", f"{CAMPAIGN}/send", send_campaign, body=contract.send_body),
    Operation("GET", AUDIENCE, get_audience, query=CLIENT_PAGES),
    Operation("POST", AUDIENCE, add_audience, body=contract.audience_body),
    Operation("DELETE", AUDIENCE, clear_audience),
    Operation("DELETE", AUDIENCE + "/{phone}", remove_client),
    Operation("GET", "/v1/channels", reads("channels"), needs="channels"),
    Operation("GET", "/v1/templates", reads("templates"), needs="templates"),
    Operation("GET", "/v1/templates/{name}", reads("templates"), needs="templates"),
    Operation("GET", "/v1/agents", reads("agents"), needs="agents"),
)
