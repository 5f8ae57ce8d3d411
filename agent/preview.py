"""`Preview`: the facts of a risky call, what is doubtful about them, and the fingerprint that binds an approval."""

import asyncio
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.domain import Campaign, Channel, Client, Json, Responder, Template
from agent.errors import ApiRefused
from agent.journal import Attempt
from agent.operations import (
    AddCampaignAudience,
    Button,
    ClearCampaignAudience,
    CreateCampaign,
    DeleteCampaign,
    Operation,
    RemoveCampaignAudienceClient,
    SendCampaign,
    UpdateCampaign,
)
from agent.phones import identity, wire
from agent.platica import Platica
from agent.settings import Settings
from agent.visible import hidden

WHOLE = 2_000
"""Audiences up to this size are bound member by member; above it by exact size and newest member."""

SHOWN_MEMBERS = 5
"""Members whose names a card shows."""

_BLOCKING = ("started", "unknown")
_SENT = ("started", "done", "unknown")


@dataclass(frozen=True, slots=True)
class Warning:
    """`code` names its words in the cards; the list is ordered by harm. `typed`: the title must be typed back."""

    code: str
    data: Mapping[str, Json] = field(default_factory=dict)
    typed: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What is shown and what is bound. `facts` are digested into `fingerprint`; `members` and `warnings` follow from
    facts and clock; `people` are the recipients of a send, hashed, in hex. `confirm` is how it must be confirmed:
    "yes", "typed" (title or count) or "title"."""

    tool: str
    arguments: Sequence[Mapping[str, Json]]
    facts: Mapping[str, Json]
    warnings: Sequence[Warning]
    confirm: str
    members: Sequence[Sequence[str]] = ()
    people: str = ""
    drift: Sequence[Mapping[str, Json]] = ()

    @property
    def fingerprint(self) -> str:
        bound = json.dumps([self.tool, list(self.arguments), self.facts], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(bound.encode()).hexdigest()

    def dump(self) -> dict[str, Json]:
        return {
            "tool": self.tool,
            "arguments": list(self.arguments),
            "facts": dict(self.facts),
            "warnings": [{"code": w.code, "data": dict(w.data), "typed": w.typed} for w in self.warnings],
            "confirm": self.confirm,
            "members": [list(member) for member in self.members],
            "people": self.people,
            "drift": list(self.drift),
        }

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> "Preview":
        return cls(**{**stored, "warnings": [Warning(**warning) for warning in stored["warnings"]]})


class Hopeless(Exception):
    """Surely wrong, or pointless: refused before anybody is asked. `code` and `data` give the words."""

    def __init__(self, code: str, **data: Json) -> None:
        super().__init__(code)
        self.code, self.data = code, data


@dataclass(frozen=True, slots=True)
class Context:
    """What a preview needs besides the API: `earlier` are the sends of this campaign, `other_sends` those of others
    in the same workspace; `batch_done` are calls of the same approval that ran already; `approved` the approved one."""

    now: datetime
    earlier: Sequence[Attempt] = ()
    other_sends: Sequence[Attempt] = ()
    approved: Preview | None = None
    batch_done: Sequence[str] = ()
    progress: Callable[[int], None] | None = None


class Previewer:
    """Makes previews. Every figure in one comes from here, never from the model."""

    def __init__(self, platica: Platica, settings: Settings) -> None:
        self._platica, self._settings = platica, settings

    async def preview(self, operations: Sequence[Operation], context: Context) -> Preview:
        """Of one call, or of several removals from one campaign. Raises Hopeless and ApiError."""
        match operations[0]:
            case SendCampaign() as send:
                return await self._send(send, context)
            case ClearCampaignAudience() | DeleteCampaign() as operation:
                return await self._empty(operation, context)
            case RemoveCampaignAudienceClient():
                return await self._remove(operations, context)
            case UpdateCampaign() | AddCampaignAudience() | CreateCampaign() as operation:
                return await self._write(operation, context)
        raise Hopeless("not_gated")

    async def settle(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """The same calls with phones in the form that the audience holds: +52 and +521 are one person."""
        if not isinstance(operations[0], RemoveCampaignAudienceClient):
            return operations
        audience = self._platica.audience(operations[0].campaignId)
        stored = {wire(client.phoneNumber) async for client in audience if client.phoneNumber}
        return [_as_stored(operation, stored) for operation in operations]

    async def _send(self, send: SendCampaign, context: Context) -> Preview:
        campaign = await self._platica.campaign(send.campaignId)
        section = send.template
        name = (section.name if section else None) or campaign.templateName or None
        if name is None:
            raise Hopeless("no_template", title=campaign.title)
        template = await self._readable(self._platica.template(name, campaign.language))
        if template is _MISSING:
            raise Hopeless("template_missing", template=name)
        channels = await self._readable(self._platica.channels())
        channel = _named_channel(channels, send.channelId)
        if isinstance(channels, list) and channels and channel is None:
            raise Hopeless(
                "no_such_channel", channel=send.channelId, known=[c.prefixedChannelId for c in channels][:20]
            )
        responder_id = send.responderAgentId or (channel.defaultAgentId if channel else None)
        responders = await self._readable(self._platica.responders()) if responder_id else None
        if send.responderAgentId and isinstance(responders, list) and responder_id not in [r.id for r in responders]:
            raise Hopeless("no_such_responder", responder=responder_id, known=[r.id for r in responders][:20])
        audience = await self._audience(send.campaignId, context)
        if audience.facts["size"] == 0:
            raise Hopeless("empty_audience", title=campaign.title)
        if isinstance(template, Template):
            _check_template(send, template)
        facts: dict[str, Json] = {
            "campaign": campaign.model_dump(mode="json"),
            "audience": audience.facts,
            "template": _template_facts(name, template, send),
            "channel": _channel_facts(send.channelId, channel, channels),
            "responder": _responder_facts(responder_id, responders),
            "dates": (section.scheduledDates if section else None) or [],
            "sendToProblematic": _flag(section.sendToProblematic if section else None),
            "sendToUndeliverable": _flag(section.sendToUndeliverable if section else None),
            "media": {"type": section.type, "file": section.file} if section and section.file else None,
            "earlier": _earlier(context.earlier),
        }
        dates = max(1, len(facts["dates"]))
        # The API writes to every member with a usable phone, to one person with two of them twice.
        facts["messages"] = (facts["audience"]["unique"] + facts["audience"]["duplicates"]) * dates
        if self._settings.cost_per_message is not None:
            cost = round(facts["messages"] * self._settings.cost_per_message, 2)
            facts["cost"] = {"amount": cost, "currency": self._settings.cost_currency}
        warnings = self._send_warnings(send, facts, audience, campaign, context)
        heavy = facts["audience"]["size"] > self._settings.confirm_typed_over
        confirm = "title" if any(w.typed for w in warnings) else "typed" if heavy else "yes"
        people = recipients(audience.clients).hex()
        return Preview(send.tool(), [send.arguments()], facts, warnings, confirm, audience.members, people)

    async def _empty(self, operation: Operation, context: Context) -> Preview:
        """Of clearing an audience and of deleting a campaign."""
        campaign, audience = await self._campaign_and_audience(str(operation.campaign), context)
        if isinstance(operation, ClearCampaignAudience) and audience.facts["size"] == 0:
            raise Hopeless("audience_empty_already", title=campaign.title)
        facts: dict[str, Json] = {"campaign": campaign.model_dump(mode="json"), "audience": audience.facts}
        facts["earlier"] = _earlier(context.earlier)
        shown = [member[2] for member in audience.members[:SHOWN_MEMBERS]]
        warnings = _scheduled(context) + _disguised(facts, [operation.arguments()], shown)
        return Preview(operation.tool(), [operation.arguments()], facts, warnings, "typed", audience.members)

    async def _remove(self, operations: Sequence[Operation], context: Context) -> Preview:
        campaign, audience = await self._campaign_and_audience(str(operations[0].campaign), context)
        phones = [wire(str(operation.arguments()["phoneNumber"])) for operation in operations]
        people: list[dict[str, Any]] = []
        for phone in phones:
            found = [client for client in audience.clients if wire(client.phoneNumber or "") == phone]
            if not audience.read:
                # Too large to read again: size and newest member stand for it, as they do for its fingerprint.
                people = list(context.approved.facts["people"]) if context.approved else []
                break
            if not found and phone not in context.batch_done:
                raise Hopeless("nobody_has_phone", phone="+" + phone, title=campaign.title)
            twins = [c for c in audience.clients if c not in found and identity(c.phoneNumber or "") == identity(phone)]
            people.append({"phone": "+" + phone, "clients": [[c.id, c.name] for c in found], "twins": len(twins)})
        facts = {"campaign": campaign.model_dump(mode="json"), "audience": audience.facts, "people": people}
        facts["earlier"] = _earlier(context.earlier)
        arguments = [operation.arguments() for operation in operations]
        warnings = _disguised(facts, arguments)
        warnings += [Warning("several_share_phone", {"phone": p["phone"], "count": len(p["clients"])})
                     for p in people if len(p["clients"]) > 1]  # fmt: skip
        warnings += [Warning("other_form_stays", {"phone": p["phone"]}) for p in people if p["twins"]]
        confirm = "yes" if len(operations) == 1 else "typed"
        return Preview(
            operations[0].tool(), arguments, facts, _scheduled(context) + warnings, confirm, audience.members
        )

    async def _write(self, operation: Operation, context: Context) -> Preview:
        facts: dict[str, Json] = {}
        warnings = _scheduled(context)
        if operation.campaign is not None:
            campaign = await self._platica.campaign(operation.campaign)
            facts["campaign"] = campaign.model_dump(mode="json")
            facts["earlier"] = _earlier(context.earlier)
        if isinstance(operation, AddCampaignAudience):
            facts["adding"] = len(operation.arguments()["clients"])
            warnings.append(Warning("renames", {}))
        warnings += _disguised(facts, [operation.arguments()])
        return Preview(operation.tool(), [operation.arguments()], facts, warnings, "yes")

    async def _campaign_and_audience(self, campaign_id: str, context: Context) -> "tuple[Campaign, _Audience]":
        """Both at once; of two errors the campaign's comes first, since it says why the other failed too."""
        reads = (self._platica.campaign(campaign_id), self._audience(campaign_id, context))
        campaign, audience = await asyncio.gather(*reads, return_exceptions=True)
        if isinstance(campaign, BaseException):
            raise campaign
        if isinstance(audience, BaseException):
            raise audience
        return campaign, audience

    async def _readable(self, reading: Any) -> Any:
        """None where the key lacks the permission; _MISSING where the thing doesn't exist."""
        try:
            return await reading
        except ApiRefused as error:
            if error.status == 404:
                return _MISSING
            if error.status == 403:
                return None
            raise

    async def _audience(self, campaign_id: str, context: Context) -> "_Audience":
        approved = context.approved.facts.get("audience") if context.approved else None
        if isinstance(approved, dict) and approved["size"] > WHOLE:
            size, newest = await self._platica.count(campaign_id), await self._newest(campaign_id)
            if (size, newest) == (approved["size"], approved["newest"]):
                return _Audience(approved, [], [], read=False)
            return _Audience({**approved, "size": size, "newest": newest}, [], [], read=False)
        clients: list[Client] = []
        async for client in self._platica.audience(campaign_id):
            clients.append(client)
            if len(clients) > self._settings.max_audience:
                raise Hopeless("audience_too_large", limit=self._settings.max_audience)
            if context.progress is not None and len(clients) % 1_000 == 0:
                context.progress(len(clients))
        clients.sort(key=lambda client: (client.creationDate or "", client.id))
        members = [[c.id, c.phoneNumber or "", c.name or ""] for c in clients] if len(clients) <= WHOLE else []
        return _Audience(_audience_facts(clients), members, clients)

    async def _newest(self, campaign_id: str) -> str | None:
        page = await self._platica.audience_page(campaign_id, direction="desc")
        return page.items[0].id if page.items else None

    def _send_warnings(
        self, send: SendCampaign, facts: Mapping[str, Any], audience: "_Audience", campaign: Campaign, context: Context
    ) -> list[Warning]:
        """In the order of harm."""
        template, params = facts["template"], (send.template.params if send.template else None) or []
        found: list[Warning] = []
        found += _sent_before(context, audience.clients, template["name"])
        if campaign.templateName and template["name"] != campaign.templateName:
            found.append(
                Warning("other_template", {"own": campaign.templateName, "used": template["name"]}, typed=True)
            )
        found += _disguised(facts, [send.arguments()])
        if facts["audience"]["size"] > 1:
            found += [Warning("one_name_for_all", {"value": p}) for p in params if _is_name(p, audience.clients)]
        pressed = [p.text for b in (send.template.buttons if send.template else None) or [] for p in b.parameters or []]
        unfilled = re.compile(r"\{\{|\}\}|\{\w+\}|\[\w+\]")
        found += [Warning("braces_left", {"value": p}) for p in [*params, *pressed] if unfilled.search(p)]
        if not template["readable"]:
            found.append(Warning("template_unreadable", {"template": template["name"]}))
        elif template["status"] != "APPROVED":
            found.append(Warning("template_not_approved", {"template": template["name"], "status": template["status"]}))
        channel = facts["channel"]
        if not channel["known"]:
            found.append(Warning("channel_unreadable", {"channel": send.channelId}))
        elif channel["connected"] is False:
            found.append(Warning("channel_disconnected", {"channel": channel["name"] or send.channelId}))
        if len(facts["dates"]) > 1:
            found.append(Warning("several_dates", {"count": len(facts["dates"])}))
        found += self._hours(facts["dates"], context.now)
        if facts["audience"]["malformed"]:
            found.append(Warning("malformed_phones", {"count": facts["audience"]["malformed"]}))
        if facts["audience"]["duplicates"]:
            found.append(Warning("duplicates", {"count": facts["audience"]["duplicates"]}))
        if facts["media"] and facts["media"]["file"].startswith("http://"):
            found.append(Warning("http_media", {}))
        return found

    def _hours(self, dates: Sequence[str], now: datetime) -> list[Warning]:
        found = []
        for date in [datetime.fromisoformat(date) for date in dates] or [now]:
            local = date.astimezone(self._settings.zone)
            if 9 <= local.hour < 21:
                continue
            data = {
                "local": local.isoformat(timespec="minutes"),
                "utc": date.strftime("%H:%M"),
                "hour": local.strftime("%H:%M"),
            }
            utc_mistaken = bool(dates) and 9 <= date.hour < 21 and date.minute in (0, 30)
            found.append(Warning("utc_mistaken" if utc_mistaken else "quiet_hours", data))
        return found


@dataclass(frozen=True, slots=True)
class _Audience:
    facts: dict[str, Json]
    members: Sequence[Sequence[str]]
    clients: Sequence[Client]
    read: bool = True


_MISSING: Any = object()


def _as_stored(operation: Operation, stored: set[str]) -> Operation:
    phone = str(operation.arguments()["phoneNumber"])
    same = sorted(other for other in stored if identity(other) == identity(phone))
    if wire(phone) in stored or not same:
        return operation
    return operation.model_copy(update={"phoneNumber": "+" + same[0]})


def _audience_facts(clients: Sequence[Client]) -> dict[str, Json]:
    good = [wire(c.phoneNumber) for c in clients if c.phoneNumber and re.fullmatch(r"\+?[0-9]{8,15}", c.phoneNumber)]
    unique = {identity(phone) for phone in good}
    facts: dict[str, Json] = {"size": len(clients), "unique": len(unique)}
    facts |= {"duplicates": len(good) - len(unique), "malformed": len(clients) - len(good)}
    facts["newest"] = clients[-1].id if clients else None
    if len(clients) <= WHOLE:
        text = json.dumps([[client.id, client.phoneNumber] for client in clients])
        facts["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return facts


def recipients(clients: Sequence[Client]) -> bytes:
    """Eight bytes a person: enough to tell later whether the same phones were written to, and no phone book."""
    people = sorted({identity(wire(client.phoneNumber)) for client in clients if client.phoneNumber})
    return b"".join(hashlib.sha256(person.encode()).digest()[:8] for person in people)


def _sent_before(context: Context, clients: Sequence[Client], template: str) -> list[Warning]:
    sends = [a for a in context.earlier if a.tool == SendCampaign.tool() and a.state in _SENT]
    for state in _BLOCKING:
        if doubtful := [attempt for attempt in sends if attempt.state == state]:
            return [Warning("maybe_sent", {"attempt": doubtful[0].id, "at": doubtful[0].started_at}, typed=True)]
    if sends:
        return [Warning("sent_before", {"attempt": sends[0].id, "at": sends[0].started_at}, typed=True)]
    mine = recipients(clients)
    here = {mine[at : at + 8] for at in range(0, len(mine), 8)}
    for attempt in context.other_sends:
        if attempt.template != template:
            continue
        there = attempt.recipients or b""
        if common := sum(there[at : at + 8] in here for at in range(0, len(there), 8)):
            data = {"attempt": attempt.id, "at": attempt.started_at, "count": common, "template": attempt.template}
            return [Warning("same_people", data, typed=True)]
    return []


def _scheduled(context: Context) -> list[Warning]:
    ahead = [a for a in context.earlier if a.last_date and a.last_date > context.now.timestamp() and a.state in _SENT]
    return [Warning("send_ahead", {"attempt": a.id, "at": a.last_date}) for a in ahead[:1]]


def _disguised(
    facts: Mapping[str, Json], arguments: Sequence[Mapping[str, Json]], names: Sequence[str] = ()
) -> list[Warning]:
    """What isn't what it looks like: characters that hide anywhere in what is bound or shown, and letters of two
    scripts in one title, an Аcme that isn't Acme. `names` are shown without being facts."""
    template = {key: value for key, value in (facts.get("template") or {}).items() if key not in _DERIVED}
    places = dict[str, str]()
    for text, place in _texts({**facts, "template": template, "arguments": arguments, "name": list(names)}):
        places.setdefault(text, place)
    found = list[Warning]()
    if count := hidden(places):
        where = dict.fromkeys(place for text, place in places.items() if hidden([text]))
        found.append(Warning("hidden_characters", {"where": [*where], "marks": [*count][:6], "count": count.total()}))
    titles = [str(source.get("title") or "") for source in [facts.get("campaign") or {}, *arguments]]
    if scripts := {script for title in titles for script in _mixed(title)}:
        found.append(Warning("mixed_scripts", {"scripts": sorted(scripts)}))
    return found


_DERIVED = ("text", "header_text")
"""Facts of a template that repeat its other facts."""


def _texts(value: Json, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in `value`, names of fields too, with the name of the field that it is in."""
    if isinstance(value, str):
        yield value, place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key), place
            yield from _texts(item, str(key))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item, place)


def _mixed(title: str) -> set[str]:
    """The scripts of a title that mixes Latin letters with ones that look like them."""
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in title if letter.isalpha()}
    odd = {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"} & scripts
    return odd | {"LATIN"} if odd and "LATIN" in scripts else set()


def _earlier(attempts: Sequence[Attempt]) -> list[Json]:
    sends = [a for a in attempts if a.tool == SendCampaign.tool() and a.state in _SENT]
    return [{"id": a.id, "state": a.state, "at": a.started_at} for a in sends[:10]]


def _flag(value: bool | None) -> bool:
    """Both flags are true at the API when they are absent."""
    return value is not False


def _template_facts(name: str, template: Any, send: SendCampaign) -> dict[str, Json]:
    params = (send.template.params if send.template else None) or []
    given_buttons = [button.model_dump(exclude_none=True) for button in (send.template and send.template.buttons) or []]
    if not isinstance(template, Template):
        return {"name": name, "readable": False, "status": None, "params": params, "given": given_buttons}
    buttons = {button.index: button for button in (send.template.buttons if send.template else None) or []}
    shown = []
    for index, button in enumerate(template.buttons):
        given = buttons.get(index)
        values = [parameter.text for parameter in (given.parameters if given else None) or []]
        extra = button.model_extra or {}
        text = (given.text if given else None) or button.text
        url = fill(button.url, values) if button.url and values else button.url
        shown.append({"type": button.type, "text": text, "url": url, "values": values, "more": extra})
    return {
        "name": name,
        "readable": True,
        "status": template.status,
        "language": template.language,
        "content": template.content,
        "header": template.header,
        "header_text": _header_text(template.header),
        "footer": template.footer,
        "text": fill(template.content, params),
        "params": params,
        "buttons": shown,
    }


def _header_text(header: Json) -> str | None:
    """What a text header says; its shape isn't documented."""
    if isinstance(header, Mapping):
        header = header.get("text") or header.get("content")
    return header if isinstance(header, str) and _header_kind(header) is None and header.upper() != "TEXT" else None


def fill(content: str, params: Sequence[str]) -> str:
    """{{1}} becomes the first value, in one pass: braces inside a value stay as they are."""

    def value(match: re.Match[str]) -> str:
        at = int(match[1]) - 1
        return params[at] if 0 <= at < len(params) else match[0]

    return re.sub(r"\{\{\s*(\d{1,3})\s*\}\}", value, content)


def _check_template(send: SendCampaign, template: Template) -> None:
    """What the API is sure to refuse. Raises Hopeless."""
    section = send.template
    wanted = _variables(template.content)
    given = len((section.params if section else None) or [])
    # Whether a header's variables count isn't documented: with some, either figure may be right.
    if given not in (wanted, wanted + _variables(_header_text(template.header) or "")):
        raise Hopeless("parameter_count", template=template.name, wanted=wanted, given=given, content=template.content)
    header = _header_kind(template.header)
    media = section.type if section else None
    if header != media:
        raise Hopeless("media_unlike_header", template=template.name, wanted=header or "-", given=media or "-")
    _check_buttons((section.buttons if section else None) or [], template)


def _check_buttons(given: Sequence[Button], template: Template) -> None:
    """Only dynamic buttons are listed, each of them, with as many values as its address has variables."""
    for button in given:
        if button.index >= len(template.buttons):
            raise Hopeless("no_such_button", index=button.index, count=len(template.buttons))
        kind = template.buttons[button.index].type.lower()
        if kind in _BUTTON_KINDS and button.sub_type not in _BUTTON_KINDS[kind]:
            raise Hopeless("button_kind", index=button.index, wanted=kind, given=button.sub_type)
    values = {button.index: len(button.parameters or []) for button in given}
    for index, known in enumerate(template.buttons):
        wanted = _variables(known.url or "")
        # What makes other kinds dynamic, their records don't show.
        if (wanted or (known.type.lower() == "url" and index in values)) and values.get(index, 0) != wanted:
            count = {"wanted": wanted, "given": values.get(index, 0)}
            raise Hopeless("button_values", index=index, button=known.text, url=known.url, **count)


def _variables(text: str) -> int:
    return len({int(number) for number in re.findall(r"\{\{\s*(\d{1,3})\s*\}\}", text)})


_BUTTON_KINDS = {
    "url": ("url",),
    "phone_number": ("phone_number",),
    "quick_reply": ("quick_reply",),
    "otp": ("otp", "url"),
    "copy_code": ("otp",),
    "flow": ("flow",),
}


def _header_kind(header: Json) -> str | None:
    """The media kind of a template's header, None for text headers and none at all."""
    if isinstance(header, Mapping):
        header = header.get("format") or header.get("type")
    kind = str(header or "").lower()
    return kind if kind in ("image", "video", "document") else None


def _named_channel(channels: Any, channel_id: str) -> Channel | None:
    known: list[Channel] = channels if isinstance(channels, list) else []
    # The API's own example names a channel by its phone, its text by the prefixed id.
    exact = [channel for channel in known if channel.prefixedChannelId == channel_id]
    found = exact or [channel for channel in known if channel_id in (channel.id, channel.phoneNumber)]
    return found[0] if len(found) == 1 else None


def _channel_facts(channel_id: str, channel: Channel | None, channels: Any) -> dict[str, Json]:
    facts: dict[str, Json] = {"id": channel_id, "readable": isinstance(channels, list), "known": channel is not None}
    if channel is not None:
        number, connected = channel.displayPhoneNumber or channel.phoneNumber, channel.isConnected
        if connected is None and channel.status is not None:
            connected = channel.status == "CONNECTED"
        facts |= {"name": channel.name, "number": number, "connected": connected, "status": channel.status}
    return facts


def _responder_facts(responder_id: str | None, responders: Any) -> dict[str, Json] | None:
    if responder_id is None:
        return None
    known: list[Responder] = responders if isinstance(responders, list) else []
    return {"id": responder_id, "name": next((r.name for r in known if r.id == responder_id), None)}


def _is_name(value: str, clients: Sequence[Client]) -> bool:
    """True when `value` is the name, or the first name, of somebody in the audience."""
    wanted = fold(value)
    names = {fold(client.name) for client in clients if client.name}
    return bool(wanted) and (wanted in names or wanted in {name.split(" ")[0] for name in names if name})


def fold(text: str) -> str:
    """For comparing what people type: no accents, no case, single spaces."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"\s+", " ", bare).strip().casefold()


def differences(before: Preview, after: Preview) -> list[dict[str, Json]]:
    """What drifted between two previews, as data: `[{"what", "before", "after"}]`, most important first."""
    found: list[dict[str, Json]] = []
    old, new = before.facts.get("audience"), after.facts.get("audience")
    if isinstance(old, dict) and isinstance(new, dict) and old != new:
        was, now = {tuple(m[:2]) for m in before.members}, {tuple(m[:2]) for m in after.members}
        item: dict[str, Json] = {"what": "audience", "before": old["size"], "after": new["size"]}
        if before.members or after.members:
            item |= {"joined": len(now - was), "left": len(was - now)}
        found.append(item)
    for name in sorted(set(before.facts) | set(after.facts)):
        one, two = before.facts.get(name), after.facts.get(name)
        if one == two or name == "audience":
            continue
        if isinstance(one, dict) and isinstance(two, dict):
            fields = [key for key in sorted(set(one) | set(two)) if one.get(key) != two.get(key)]
            found += [{"what": f"{name}.{key}", "before": one.get(key), "after": two.get(key)} for key in fields]
        else:
            found.append({"what": name, "before": one, "after": two})
    if list(before.arguments) != list(after.arguments):
        found.append({"what": "arguments", "before": list(before.arguments), "after": list(after.arguments)})
    return found
