"""What the campaigns API accepts: raw JSON and query text in, checked values or an `ApiError` out."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]
Check = Callable[[Any, str], Any]
"""Takes a value and the name to blame; returns the value as the operation wants it, or raises `ApiError`."""

ERRORS = {
    400: "Bad Request - Validation error",
    401: "Unauthorized - Invalid or missing API key",
    403: "Forbidden - The API key has no permission for this resource",
    404: "Not Found - Resource not found",
    405: "Method Not Allowed - The resource does not support this method",
    422: "Unprocessable Entity - The request is valid but can not be processed",
    429: "Too Many Requests - Rate limit exceeded",
    500: "Internal Server Error - Error interno del servidor",
    503: "Service Unavailable - Servicio no disponible temporalmente",
}
MEDIA = ("image", "video", "document")
BUTTONS = ("url", "phone_number", "quick_reply", "otp", "flow")
VARIABLE = re.compile(r"\{\{\s*([0-9]+)\s*\}\}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)


class ApiError(Exception):
    """A documented refusal: a status and the body `{code, error, details?}`."""

    def __init__(self, code: int, details: str | None = None, *, error: str | None = None) -> None:
        super().__init__(details or ERRORS[code])
        self.code = code
        self.body: Json = {"code": code, "error": error or ERRORS[code]}
        if details is not None:
            self.body["details"] = details


def invalid(field: str, problem: str) -> ApiError:
    return ApiError(400, f"{field}: {problem}")


def iso(moment: datetime) -> str:
    """The API's one date format: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# The checks of single values.


def string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    return value


def text(value: Any, field: str) -> str:
    if not string(value, field).strip():
        raise invalid(field, "must not be empty")
    return str(value)


def boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, "must be a boolean")
    return value


def index(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(field, "must be an integer from 0")
    return value


def seconds(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 600:
        raise invalid(field, "must be a number from 0 to 600")
    return float(value)


def times(value: Any, field: str) -> int:
    if index(value, field) < 1:
        raise invalid(field, "must be an integer from 1")
    return int(value)


def one_of(*choices: str) -> Check:
    def check(value: Any, field: str) -> str:
        if value not in choices:
            raise invalid(field, f"must be one of {', '.join(choices)}")
        return str(value)

    return check


def list_of(item: Check, *, minimum: int = 0) -> Check:
    def check(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list):
            raise invalid(field, "must be a list")
        if len(value) < minimum:
            raise invalid(field, f"needs at least {minimum} item(s)")
        return [item(part, f"{field}[{position}]") for position, part in enumerate(value)]

    return check


def object_of(checks: Mapping[str, Check], *, required: Collection[str] = (), empty: bool = True) -> Check:
    def check(value: Any, field: str) -> Json:
        if not isinstance(value, dict):
            raise invalid(field or "body", "must be an object")
        prefix = f"{field}." if field else ""
        for name in value:
            if name not in checks:
                raise invalid(prefix + name, "unknown field")
        for name in required:
            if name not in value:
                raise invalid(prefix + name, "is required")
        if not value and not empty:
            raise invalid(field or "body", f"needs at least one of {', '.join(checks)}")
        return {name: checks[name](part, prefix + name) for name, part in value.items()}

    return check


def email(value: Any, field: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", string(value, field)):
        raise invalid(field, "must be an e-mail address")
    return str(value)


def web_address(value: Any, field: str) -> str:
    problem = invalid(field, "must be an http or https URL")
    if re.search(r"\s", string(value, field)):
        raise problem
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        raise problem from None
    if not usable:
        raise problem
    return str(value)


def phone(value: Any, field: str) -> str:
    """International, with or without `+`; returned as digits, the way clients are stored."""
    found = re.fullmatch(r"\+?([0-9]{8,15})", string(value, field))
    if not found:
        raise invalid(field, "must be a phone in international format, 8 to 15 digits with or without +")
    return found[1]


def date(value: Any, field: str) -> datetime:
    if not DATE.fullmatch(string(value, field)):
        raise invalid(field, "must be an ISO 8601 date with Z or an offset")
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "is not a real date") from None


# The checks of query values, which arrive as text.


def whole(minimum: int, maximum: int | None = None) -> Check:
    bounds = f"an integer from {minimum}" + ("" if maximum is None else f" to {maximum}")

    def check(value: Any, field: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise invalid(field, f"must be {bounds}")
        number = int(value)
        if number < minimum or (maximum is not None and number > maximum):
            raise invalid(field, f"must be {bounds}")
        return number

    return check


def paging(most: int, *sorts: str) -> Mapping[str, Check]:
    direction = one_of("asc", "desc")
    return {"limit": whole(1, most), "offset": whole(0), "sortBy": one_of(*sorts), "sortDirection": direction}


# The bodies.

CAMPAIGN: Mapping[str, Check] = {
    "title": text,
    "category": one_of("marketing", "utility", "authentication"),
    "platform": text,
    "templateName": text,
    "message": string,
    "template": string,
    "language": text,
    "wabaId": text,
    "owners": list_of(email),
}
create_body = object_of(CAMPAIGN, required=("title", "category"))
update_body = object_of(CAMPAIGN, empty=False)
audience_body = object_of(
    {"clients": list_of(object_of({"phoneNumber": phone, "name": text}, required=("phoneNumber", "name")), minimum=1)},
    required=("clients",),
)
BUTTON: Mapping[str, Check] = {
    "index": index,
    "sub_type": one_of(*BUTTONS),
    "text": string,
    "parameters": list_of(object_of({"type": one_of("text"), "text": string}, required=("type", "text"))),
}
TEMPLATE: Mapping[str, Check] = {
    "name": text,
    "params": list_of(string),
    "type": one_of(*MEDIA),
    "file": web_address,
    "buttons": list_of(object_of(BUTTON, required=("index", "sub_type"))),
    "sendToProblematic": boolean,
    "sendToUndeliverable": boolean,
    "scheduledDates": list_of(date, minimum=1),
}
send_body = object_of(
    {"channelId": text, "responderAgentId": text, "template": object_of(TEMPLATE)}, required=("channelId",)
)


def read_json(body: bytes) -> Any:
    """Stricter than `json.loads`: a key given twice, NaN and lone surrogates are malformed."""

    def once(pairs: list[tuple[str, Any]]) -> Json:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(body.decode(), object_pairs_hook=once, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"body: malformed JSON ({error})", error="Bad Request - Malformed JSON") from None
    return value


def read_body(check: Check | None, content_type: str, body: bytes) -> Any:
    """The checked body of an operation; `check` is None where the operation takes none."""
    if check is None:
        if body:
            raise invalid("body", "this operation takes no body")
        return None
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid("Content-Type", "must be application/json")
    return check(read_json(body), "")


def read_query(query: str, checks: Mapping[str, Check]) -> Json:
    values: Json = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in checks:
            raise invalid(name, "unknown query parameter")
        if name in values:
            raise invalid(name, "is given twice")
        values[name] = checks[name](value, name)
    return values


# What a send's template section must be for its template, and what the recipient then reads.


@dataclass(frozen=True)
class Message:
    """One message as every recipient of a send reads it; parameters are campaign-wide."""

    template: str
    language: str
    text: str
    media: Json | None
    buttons: list[Json]


def variables(content: str) -> int:
    return max((int(number) for number in VARIABLE.findall(content)), default=0)


def fill(content: str, values: list[str]) -> str:
    return VARIABLE.sub(lambda found: values[int(found[1]) - 1] if int(found[1]) else found[0], content)


def compose(template: Json, section: Json) -> Message:
    """The message of this template and section; 400 where the two are inconsistent."""
    params = section.get("params", [])
    needed = variables(template["content"])
    if len(params) != needed:
        raise invalid("template.params", f"the template has {needed} variable(s), {len(params)} given")
    return Message(
        template=template["name"],
        language=template["language"],
        text=fill(template["content"], params),
        media=_media(template, section),
        buttons=_buttons(template["buttons"], section.get("buttons", [])),
    )


def _media(template: Json, section: Json) -> Json | None:
    kind = ((template["header"] or {}).get("type") or "").lower()
    for name in ("type", "file"):
        if kind in MEDIA and name not in section:
            raise invalid(f"template.{name}", f"is required, the template has a {kind} header")
        if kind not in MEDIA and name in section:
            raise invalid(f"template.{name}", "the template has no media header")
    if kind not in MEDIA:
        return None
    if section["type"] != kind:
        raise invalid("template.type", f"must be {kind}, as the template's header")
    return {"type": kind, "file": section["file"]}


def _buttons(known: list[Json], given: list[Json]) -> list[Json]:
    chosen: dict[int, Json] = {}
    for position, button in enumerate(given):
        field = f"template.buttons[{position}]"
        if button["index"] >= len(known):
            raise invalid(f"{field}.index", f"the template has {len(known)} button(s)")
        if button["index"] in chosen:
            raise invalid(f"{field}.index", "is given twice")
        chosen[button["index"]] = _button(known[button["index"]], button, field)
    for position, button in enumerate(known):
        if position not in chosen and variables(button.get("url") or ""):
            raise invalid(
                "template.buttons", f'button {position} ("{button["text"]}") is dynamic, so it needs one here'
            )
    return [chosen.get(position, button) for position, button in enumerate(known)]


def _button(known: Json, given: Json, field: str) -> Json:
    if given["sub_type"].upper() != known["type"]:
        raise invalid(f"{field}.sub_type", f"must be {known['type'].lower()}, as the template's button")
    needed = variables(known.get("url") or "")
    if not needed:
        raise invalid(field, "only dynamic buttons are listed, this one has no variable")
    values = [parameter["text"] for parameter in given.get("parameters", [])]
    if len(values) != needed:
        raise invalid(f"{field}.parameters", f"the button has {needed} variable(s), {len(values)} given")
    return {**known, "url": fill(known["url"], values)}


def check_future(dates: list[datetime], now: datetime) -> None:
    for position, moment in enumerate(dates):
        field = f"template.scheduledDates[{position}]"
        if moment <= now:
            raise invalid(field, "must be in the future")
        if moment in dates[:position]:
            raise invalid(field, "is given twice")
