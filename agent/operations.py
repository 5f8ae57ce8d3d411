"""The ten operations, one class each; tool schemas, help, cards and HTTP requests are all made from these."""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from agent.domain import Json, Risk
from agent.errors import InvalidCall
from agent.phones import identity, to_e164, wire
from agent.platica import Request


@dataclass(frozen=True, slots=True)
class Reading:
    """What arguments are read against: the zone of dates without an offset, the country of local phones, the time."""

    now: datetime
    zone: ZoneInfo
    region: str = "MX"


def _phone(text: str, info: ValidationInfo) -> str:
    return to_e164(text, info.context.region if isinstance(info.context, Reading) else "MX")


def _moment(text: str, info: ValidationInfo) -> str:
    """ISO 8601 in UTC with milliseconds, as the API writes it."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 date and time such as 2026-12-01T10:00:00-06:00") from None
    reading = info.context
    if moment.tzinfo is None:
        if not isinstance(reading, Reading):
            raise ValueError(f"{text!r} has no offset")
        moment = moment.replace(tzinfo=reading.zone)
    if isinstance(reading, Reading) and moment <= reading.now:
        local = reading.now.astimezone(reading.zone).isoformat(timespec="minutes")
        raise ValueError(f"{text!r} is in the past; it is {local} now")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is not a usable date") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


_PUBLIC = ipaddress.IPv6Network("2000::/3")
_CARRIERS = [ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32", "3fff::/20")]
"""Public by their number, but they stand for IPv4 addresses or for nobody."""
_LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "private", "arpa")
"""Last labels that no public name has: of networks, and of addresses read backwards."""


def _is_private(host: str) -> bool:
    """True for every host that isn't surely a public one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        last = host.rpartition(".")[2]
        # What ends in a number is an address in one of the forms that only resolvers take: 0x7f.1, 2130706433.
        numeric = re.fullmatch(r"0x[0-9a-f]*|[0-9]+", last) is not None
        return numeric or last in _LOCAL_NAMES or "." not in host
    if isinstance(address, ipaddress.IPv6Address):
        return not address.is_global or address not in _PUBLIC or any(address in net for net in _CARRIERS)
    return not address.is_global or address.is_multicast


def _media(text: str) -> str:
    """An http(s) address of a public host, without user information."""
    if re.search(r"[\s\\\x00-\x20\x7f]", text) or not text.isascii():
        raise ValueError(f"{text!r} is not a plain URL; percent-encode special characters")
    try:
        parts = urlsplit(text)
        host, _port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not a valid URL") from None
    if "%" in host:
        raise ValueError("the host of a URL must be written without percent signs")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{text!r} must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("a URL with user information (user@host) is not accepted")
    if ":" not in host and ("[" in parts.netloc or not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host)):
        raise ValueError(f"{host!r} is not the name of a host")
    if _is_private(host):
        raise ValueError(f"{host!r} is a private or local host; recipients could not open it")
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+", text):
        raise ValueError(f"{text!r} is not an e-mail address")
    return text


def _no_repeats(dates: list[str]) -> list[str]:
    if len(set(dates)) != len(dates):
        raise ValueError("the same date is given twice; each date is one more send to everybody")
    return dates


_PHONE = "As the person gave it, e.g. +525500100001; without a country code it is taken as national"
Phone = Annotated[str, AfterValidator(_phone), Field(description=_PHONE)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Text = Annotated[str, StringConstraints(pattern=r"\S")]
Email = Annotated[str, AfterValidator(_email)]
Moment = Annotated[str, AfterValidator(_moment)]
CampaignId = Annotated[Id, Field(description="Campaign id, as list_campaigns gives it; never a title")]


class Arguments(BaseModel):
    """Base of everything that a model may fill in: unknown fields are refused, nothing can change later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Operation(Arguments):
    """One of the ten. The docstring is what the model reads."""

    risk: ClassVar[Risk]
    method: ClassVar[str]
    path: ClassVar[str]
    idempotent: ClassVar[bool] = False

    @classmethod
    def tool(cls) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def parse(cls, arguments: Mapping[str, Json], reading: Reading) -> Self:
        """Validated and normalised. Raises InvalidCall with words that the model can act on."""
        try:
            return cls.model_validate(without_nulls(arguments), context=reading)
        except ValidationError as error:
            raise InvalidCall(_problems(cls.tool(), error)) from None
        except RecursionError:
            raise InvalidCall(f"the arguments of {cls.tool()} are nested too deeply") from None

    def arguments(self) -> dict[str, Json]:
        """The canonical arguments: what is shown, bound and sent."""
        return self.model_dump(exclude_none=True, mode="json")

    def canonical(self) -> str:
        return json.dumps(self.arguments(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    def request(self) -> Request:
        arguments = self.arguments()
        in_path = {name: quote(wire(str(arguments.pop(name))), safe="") for name in re.findall(r"{(\w+)}", self.path)}
        path = self.path.format(**in_path)
        if self.method == "GET":
            return Request(self.method, path, self.risk, query=arguments)
        return Request(self.method, path, self.risk, body=arguments or None)

    @property
    def campaign(self) -> str | None:
        """The campaign that this touches, None where there is none yet."""
        return getattr(self, "campaignId", None)


class ListCampaigns(Operation):
    """List the workspace's campaigns, page by page. No total exists: the end is hasMore false. Long answers are cut:
    omitted is how many are left out, next_offset where to go on."""

    risk, method, path, idempotent = Risk.READ, "GET", "/v1/campaigns", True
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    offset: Annotated[int, Field(ge=0)] = 0
    sortBy: Literal["title", "creationDate", "lastUpdate"] = "lastUpdate"
    sortDirection: Literal["asc", "desc"] = "desc"


class GetCampaign(Operation):
    """Get one campaign: title, category, template, owners, dates."""

    risk, method, path, idempotent = Risk.READ, "GET", "/v1/campaigns/{campaignId}", True
    campaignId: CampaignId


class CampaignFields(Operation):
    """Fields that creating and updating share."""

    templateName: Annotated[Text | None, Field(description="An approved template of the workspace")] = None
    message: Text | None = None
    template: Annotated[Text | None, Field(description="Serialised template; rarely needed with templateName")] = None
    language: Annotated[Text | None, Field(description="e.g. es_MX")] = None
    wabaId: Id | None = None
    owners: Annotated[list[Email] | None, Field(description="E-mails")] = None


class CreateCampaign(CampaignFields):
    """Create a campaign. With templateName the API fills in language, message and template by itself."""

    risk, method, path = Risk.WRITE, "POST", "/v1/campaigns"
    title: Annotated[Text, Field(description="Unique within the workspace")]
    category: Literal["marketing", "utility", "authentication"]
    platform: Text = "whatsapp"


class UpdateCampaign(CampaignFields):
    """Change fields of a campaign; only what is given changes."""

    risk, method, path = Risk.WRITE, "PATCH", "/v1/campaigns/{campaignId}"
    campaignId: CampaignId
    title: Text | None = None
    category: Literal["marketing", "utility", "authentication"] | None = None
    platform: Text | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if len(self.arguments()) == 1:
            raise ValueError("nothing to change: give at least one field besides campaignId")
        return self


class DeleteCampaign(Operation):
    """Delete a campaign for good. A person is asked first."""

    risk, method, path = Risk.DESTRUCTIVE, "DELETE", "/v1/campaigns/{campaignId}"
    campaignId: CampaignId


class GetCampaignAudience(Operation):
    """List the people in a campaign's audience, page by page. clientsCount counts the page asked for, not the total.
    Long answers are cut: omitted is how many of that page are left out, next_offset where to go on."""

    risk, method, path, idempotent = Risk.READ, "GET", "/v1/campaigns/{campaignId}/audience", True
    campaignId: CampaignId
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    offset: Annotated[int, Field(ge=0)] = 0
    sortBy: Literal["name", "creationDate", "lastUpdate"] = "lastUpdate"
    sortDirection: Literal["asc", "desc"] = "desc"


class NewClient(Arguments):
    phoneNumber: Phone
    name: Text


class AddCampaignAudience(Operation):
    """Add people to a campaign's audience. Somebody whose phone exists already is renamed to the name given."""

    risk, method, path = Risk.WRITE, "POST", "/v1/campaigns/{campaignId}/audience"
    campaignId: CampaignId
    clients: Annotated[list[NewClient], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_name_a_phone(self) -> Self:
        names: dict[str, str] = {}
        for client in self.clients:
            if names.setdefault(identity(client.phoneNumber), client.name) != client.name:
                raise ValueError(f"{client.phoneNumber} is given twice with different names; ask which is right")
        return self

    def arguments(self) -> dict[str, Json]:
        """Repeated people are given once."""
        once = {identity(client.phoneNumber): client for client in reversed(self.clients)}
        return {"campaignId": self.campaignId, "clients": [c.model_dump() for c in reversed(list(once.values()))]}

    def request(self) -> Request:
        arguments = self.arguments()
        clients = [{**client, "phoneNumber": wire(client["phoneNumber"])} for client in arguments["clients"]]
        return Request(self.method, self.path.format(campaignId=self.campaignId), self.risk, body={"clients": clients})


class RemoveCampaignAudienceClient(Operation):
    """Take one phone out of a campaign's audience. The person stays in the workspace. A person is asked first;
    removals made in one step are one question."""

    risk, method, path = Risk.DESTRUCTIVE, "DELETE", "/v1/campaigns/{campaignId}/audience/{phoneNumber}"
    idempotent = True
    campaignId: CampaignId
    phoneNumber: Phone


class ClearCampaignAudience(Operation):
    """Empty a campaign's audience. The people stay in the workspace. A person is asked first."""

    risk, method, path = Risk.DESTRUCTIVE, "DELETE", "/v1/campaigns/{campaignId}/audience"
    campaignId: CampaignId


class ButtonParameter(Arguments):
    type: Literal["text"] = "text"
    text: Text


class Button(Arguments):
    index: Annotated[int, Field(ge=0, description="0-based, as in the template")]
    sub_type: Literal["url", "phone_number", "quick_reply", "otp", "flow"]
    text: Text | None = None
    parameters: list[ButtonParameter] | None = None


class SendTemplate(Arguments):
    name: Annotated[Text | None, Field(description="Absent: the campaign's saved template")] = None
    params: Annotated[
        list[Text] | None, Field(description="Values of {{1}}, {{2}}, ... exactly as many; the same for everybody")
    ] = None
    type: Annotated[Literal["image", "video", "document"] | None, Field(description="Media header")] = None
    file: Annotated[Annotated[str, AfterValidator(_media)] | None, Field(description="http(s) URL of the media")] = None
    buttons: Annotated[list[Button] | None, Field(description="Dynamic buttons only")] = None
    sendToProblematic: Annotated[bool | None, Field(description="API default true")] = None
    sendToUndeliverable: Annotated[bool | None, Field(description="API default true")] = None
    scheduledDates: Annotated[
        Annotated[list[Moment], Field(min_length=1), AfterValidator(_no_repeats)] | None,
        Field(description="ISO 8601 with offset, all in the future; absent: now. Each date is one more send"),
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type is None) != (self.file is None):
            raise ValueError("type and file go together: the kind of media and its URL")
        indexes = [button.index for button in self.buttons or []]
        if len(set(indexes)) != len(indexes):
            raise ValueError("two buttons have the same index")
        return self


class SendCampaign(Operation):
    """Send a campaign to its whole audience, now or at scheduledDates. It costs money and can't be recalled. A person
    is asked first. The template's parameters are the same for every recipient."""

    risk, method, path = Risk.SEND, "POST", "/v1/campaigns/{campaignId}/send"
    campaignId: CampaignId
    channelId: Annotated[Id, Field(description="SENDER channel's prefixedChannelId, e.g. wb-123")]
    responderAgentId: Annotated[Id | None, Field(description="Who answers replies; absent: the channel's own")] = None
    template: SendTemplate | None = None

    def arguments(self) -> dict[str, Json]:
        arguments = super().arguments()
        if arguments.get("template") == {}:
            del arguments["template"]
        return arguments


OPERATIONS: Sequence[type[Operation]] = (
    ListCampaigns,
    GetCampaign,
    CreateCampaign,
    UpdateCampaign,
    DeleteCampaign,
    SendCampaign,
    GetCampaignAudience,
    AddCampaignAudience,
    RemoveCampaignAudienceClient,
    ClearCampaignAudience,
)
BY_NAME: Mapping[str, type[Operation]] = {operation.tool(): operation for operation in OPERATIONS}


def parse(name: str, arguments: str | Mapping[str, Json], reading: Reading) -> Operation:
    """A tool call as a model made it. Raises InvalidCall: no such tool, broken JSON, bad arguments."""
    operation = BY_NAME.get(name)
    if operation is None:
        raise InvalidCall(f"there is no tool {name[:80]!r}; the tools are {', '.join(BY_NAME)}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise InvalidCall(f"the arguments of {name} are not valid JSON; send one JSON object") from None
    if not isinstance(arguments, Mapping):
        raise InvalidCall(f"the arguments of {name} must be one JSON object")
    return operation.parse(arguments, reading)


def without_nulls(value: Json) -> Json:
    """Strict schemas make a model write null for what it leaves out."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _problems(tool: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False)[:5]:
        where = ".".join(str(part)[:60] for part in item["loc"]) or tool
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = _no_such_field(tool, item["loc"])
        elif item["type"] == "missing":
            message = "is required; ask the person if you don't know it"
        elif item["type"] == "string_pattern_mismatch":
            given = str(item["input"])[:60]
            message = "must not be empty" if not given.strip() else f"{given!r} is not an id; look it up first"
        lines.append(f"{where}: {message}")
    return "; ".join(lines)


def _no_such_field(tool: str, place: Sequence[str | int]) -> str:
    """Where a field belongs that is at the wrong place or spelt another way, if it is one at all."""

    def fold(name: object) -> str:
        return re.sub(r"[^a-z0-9]", "", str(name).lower())

    meant = [".".join(path) for path in _fields(schema(BY_NAME[tool])) if fold(path[-1]) == fold(place[-1])]
    return f"there is no such field here; use {' or '.join(meant)}" if meant else "there is no such field; leave it out"


def _fields(node: Mapping[str, Any], place: Sequence[str] = ()) -> Iterator[Sequence[str]]:
    """The path of every field of a schema; an element of a list has its list's."""
    for name, inner in node.get("properties", {}).items():
        yield (*place, name)
        yield from _fields(inner.get("items", inner), (*place, name))


# Schemas, for models and for MCP.


def schema(operation: type[Operation], *, strict: bool = False) -> dict[str, Json]:
    """JSON schema of the arguments. `strict` is OpenAI's dialect: every field required, optional ones nullable."""
    raw = operation.model_json_schema()
    tidy: dict[str, Json] = _tidy(raw, raw.get("$defs", {}), strict)
    return tidy


def _tidy(node: Any, defs: Mapping[str, Any], strict: bool) -> Any:
    if isinstance(node, list):
        return [_tidy(item, defs, strict) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = defs[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "anyOf" in node:
        # The only unions here are "this or null".
        (real,) = [option for option in node["anyOf"] if option != {"type": "null"}]
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _nullable(_tidy({**real, **rest}, defs, strict), strict)
    out = {
        key: _tidy(value, defs, strict) for key, value in node.items() if key not in ("title", "$defs", "properties")
    }
    if node.get("type") != "object":
        return out
    # Nested models say nothing to a model that their field names don't.
    out.pop("description", None)
    out["properties"] = {name: _tidy(field, defs, strict) for name, field in node.get("properties", {}).items()}
    if strict:
        optional = set(out["properties"]) - set(node.get("required", []))
        for name in optional:
            field = out["properties"][name]
            field.pop("default", None)
            out["properties"][name] = _nullable(field, strict)
        out["required"] = list(out["properties"])
    return out


def _nullable(node: dict[str, Json], strict: bool) -> dict[str, Json]:
    if not strict or "const" in node or isinstance(node["type"], list):
        return node
    wide = {**node, "type": [node["type"], "null"]}
    if "enum" in node:
        wide["enum"] = [*node["enum"], None]
    return wide


def openai_tools(*, strict: bool = False) -> list[dict[str, Json]]:
    """The ten as OpenAI chat-completions tools."""
    tools: list[dict[str, Json]] = []
    for operation in OPERATIONS:
        function: dict[str, Json] = {"name": operation.tool(), "description": describe(operation)}
        function["parameters"] = schema(operation, strict=strict)
        tools.append({"type": "function", "function": function | ({"strict": True} if strict else {})})
    return tools


def mcp_tools() -> list[dict[str, Json]]:
    """The ten as MCP tools, all four hints explicit. A send is marked destructive although the platform's own server
    doesn't: clients prompt on that hint, and nothing here is harder to undo."""
    return [
        {
            "name": operation.tool(),
            "description": describe(operation),
            "inputSchema": schema(operation),
            "annotations": {
                "title": operation.tool().replace("_", " ").capitalize(),
                "readOnlyHint": operation.risk is Risk.READ,
                "destructiveHint": operation.risk.gated,
                "idempotentHint": operation.idempotent,
                "openWorldHint": True,
            },
        }
        for operation in OPERATIONS
    ]


def describe(operation: type[Operation]) -> str:
    return re.sub(r"\s+", " ", operation.__doc__ or "").strip()
