"""The modal in which a person changes the arguments of a call, and what comes back from it."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from agent.domain import Json
from agent.events import ApprovalAsked
from agent.interfaces.slack_text import (
    INPUT_LENGTH,
    Block,
    heading,
    modal,
    plain,
    section,
    size,
    text_input,
)
from agent.operations import BY_NAME, Reading, schema, without_nulls
from agent.prompts import Words
from agent.visible import visible

EDIT_VIEW = "edit_approval"
_NONE = "-"
"""The value of the choice that leaves a field out."""

_FIRST = ("title", "category")
"""Fields that people look for at the top."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Edited:
    """The whole new arguments, as the operation writes them."""

    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Wrong:
    """What to tell at which block: the `errors` of Slack's `response_action`."""

    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Field:
    """An argument that can be changed. `kind`: text, choice, flag, lines, dates, clients, parameters (of a button)."""

    path: Path
    kind: str
    required: bool
    options: Sequence[str] = ()

    @property
    def block_id(self) -> str:
        return "edit." + ".".join(str(part) for part in self.path)

    @property
    def name(self) -> str:
        return str(next(part for part in reversed(self.path) if isinstance(part, str)))


def can_edit(asked: ApprovalAsked) -> bool:
    """Not several calls on one card: whoever wants other ones denies these and says so."""
    return isinstance(asked.arguments, Mapping) and asked.tool in BY_NAME


def edit_modal(asked: ApprovalAsked, words: Words, *, private_metadata: str) -> Block:
    """Every argument in a field; what is too long for one stays as it is, and the modal says so."""
    blocks = [heading(asked.card.headline, words), section(words.say("slack.edit_intro"))]
    for field in _fields(asked):
        if (block := _input(field, asked.arguments, words)) is not None:
            blocks.append(block)
        else:
            blocks.append(section(words.say("slack.edit_too_long", field=_label(field, words))))
    title, submit, close = (words.say(f"slack.{key}") for key in ("edit_title", "edit_submit", "close"))
    return modal(EDIT_VIEW, title, blocks, close=close, submit=plain(submit), private_metadata=private_metadata)


def read_edit(asked: ApprovalAsked, values: Mapping[str, Any], words: Words, *, reading: Reading) -> Edited | Wrong:
    """The arguments that `values` (of a view's state) make of the card's. `reading` is what dates and phones are read
    against. A field that says what it said at first changes nothing, whatever it can't show."""
    fields = [field for field in _fields(asked) if field.block_id in values]
    arguments: dict[str, Json] = copy.deepcopy(dict(asked.arguments))
    for field in fields:
        given, at_first = _given(values[field.block_id]), _shown(field, asked.arguments, words)
        if given != at_first:
            _put(arguments, field.path, _parsed(field, given, asked.arguments, words))
    first = fields[0].block_id if fields else "edit"
    operation = BY_NAME[asked.tool]
    try:
        parsed = operation.model_validate(without_nulls(arguments), context=reading)
    except ValidationError as error:
        return Wrong(_errors(error, fields, first, words))
    if parsed.arguments() == asked.arguments:
        return Wrong({first: words.say("slack.edit_same")})
    return Edited(parsed.arguments())


# Which fields there are.


def _fields(asked: ApprovalAsked) -> list[_Field]:
    found = list(_of_schema(schema(BY_NAME[asked.tool]), ()))
    # The campaign is what the card is about: it can be another one only where there is nothing else.
    rest = [field for field in found if field.path != ("campaignId",)] or found
    rest.sort(key=lambda field: field.name not in _FIRST)
    buttons = _get(asked.arguments, ("template", "buttons")) or []
    if not isinstance(buttons, list):
        return rest
    pressed = [at for at, one in enumerate(buttons) if one.get("parameters")]
    return [*rest, *(_Field(("template", "buttons", at, "parameters"), "parameters", True) for at in pressed)]


def _of_schema(node: Mapping[str, Any], path: Path) -> Iterator[_Field]:
    for name, inner in node["properties"].items():
        where = (*path, name)
        required = name in node.get("required", ()) and not path
        match inner:
            case {"type": "object"}:
                yield from _of_schema(inner, where)
            case {"enum": options}:
                yield _Field(where, "choice", required, options)
            case {"type": "boolean"}:
                yield _Field(where, "flag", required)
            case {"type": "array", "items": {"type": "string"}}:
                yield _Field(where, "dates" if name == "scheduledDates" else "lines", required)
            case {"type": "array"} if name == "clients":
                yield _Field(where, "clients", required)
            case {"type": "string"}:
                yield _Field(where, "text", required)


def _label(field: _Field, words: Words) -> str:
    if field.kind == "parameters":
        return words.say("slack.field_button", number=int(field.path[2]) + 1)
    return words.say(f"slack.field_{field.name}")


def _input(field: _Field, arguments: Mapping[str, Json], words: Words) -> Block | None:
    """None where Slack's fields can't hold what there is."""
    at_first, name = _shown(field, arguments, words), _label(field, words)
    if field.kind in ("choice", "flag"):
        options = [
            _option(value, words) for value in (*field.options, *(("yes", "no") if field.kind == "flag" else ()))
        ]
        options += [] if field.required or field.kind == "flag" else [_option(_NONE, words)]
        element: Block = {"type": "static_select", "action_id": "value", "options": options}
        element["initial_option"] = next(one for one in options if one["value"] == at_first)
        return {"type": "input", "block_id": field.block_id, "label": plain(name), "element": element}
    if at_first is not None and size(at_first) > INPUT_LENGTH:
        return None
    long = field.kind != "text" or field.name in ("message", "template")
    hint = words.say(f"slack.hint_{field.kind}", zone=words.zone.key) if field.kind not in ("text",) else ""
    more: dict[str, Any] = {"multiline": long, "max_length": INPUT_LENGTH}
    more |= {} if at_first is None else {"initial_value": at_first}
    return text_input(field.block_id, name, optional=not field.required, hint=hint, **more)


def _option(value: str, words: Words) -> Block:
    own = {_NONE: "slack.none", "yes": "slack.yes", "no": "slack.no"}
    return {"text": plain(words.say(own[value]) if value in own else value), "value": value}


# From arguments to what a field shows, and back.


def _get(arguments: Json, path: Path) -> Json:
    for part in path:
        if isinstance(part, int):
            arguments = arguments[part]
        else:
            arguments = arguments.get(part) if isinstance(arguments, Mapping) else None
    return arguments


def _put(arguments: dict[str, Json], path: Path, value: Json) -> None:
    """None takes it away. A section that it leaves empty is none to the operation."""
    *above, last = path
    holder: Any = arguments
    for part in above:
        holder = holder[part] if isinstance(part, int) else holder.setdefault(part, {})
    if value is None:
        holder.pop(last, None)
    else:
        holder[last] = value


def _items(field: _Field, value: Json, words: Words) -> list[tuple[str, Json]]:
    """Each element of a list: the line that shows it, and itself."""
    match field.kind:
        case "dates":
            return [(_local(item, words), item) for item in value]
        case "clients":
            return [(visible(f"{item['phoneNumber']}, {item['name']}"), item) for item in value]
        case "parameters":
            return [(visible(item["text"]), item) for item in value]
    return [(visible(item), item) for item in value]


def _local(moment: str, words: Words) -> str:
    local = datetime.fromisoformat(moment).astimezone(words.zone)
    exact = local.second or local.microsecond
    text = local.replace(tzinfo=None).isoformat(" ", "auto" if exact else "minutes")
    # An hour that comes twice needs its offset.
    twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
    return local.isoformat(" ", "auto" if exact else "minutes") if twice else text


def _shown(field: _Field, arguments: Mapping[str, Json], words: Words) -> str | None:
    """What the field says at first: a text, lines, or the value of a choice."""
    value = _get(arguments, field.path)
    match field.kind:
        case "choice":
            return _NONE if value is None else str(value)
        case "flag":
            # Both flags are true at the API when they are absent.
            return "no" if value is False else "yes"
        case "text":
            return None if value is None else visible(value)
    return "\n".join(line for line, _ in _items(field, value or [], words)) or None


def _given(state: Mapping[str, Any]) -> str | None:
    (field,) = state.values()
    if "selected_option" in field:
        return str(field["selected_option"]["value"]) if field["selected_option"] else None
    return str(field["value"]).replace("\r\n", "\n") if field.get("value") else None


def _parsed(field: _Field, given: str | None, arguments: Mapping[str, Json], words: Words) -> Json:
    """What was written, as the operation wants it; None leaves it out."""
    match field.kind:
        case "choice":
            return None if given == _NONE else given
        case "flag":
            return given == "yes"
        case "text":
            return given.strip() or None if given else None
    known = {line.strip(): item for line, item in _items(field, _get(arguments, field.path) or [], words)}
    lines = [line.strip() for line in (given or "").split("\n") if line.strip()]
    # A line that nobody touched is what it was, with whatever a line can't show.
    made = [known[line] if line in known else _item(field, line) for line in lines]
    return made or None


def _item(field: _Field, line: str) -> Json:
    match field.kind:
        case "clients":
            phone, _, name = line.partition(",")
            return {"phoneNumber": phone.strip(), "name": name.strip()}
        case "parameters":
            return {"type": "text", "text": line}
        case "dates":
            return re.sub(r"\s+", " ", line)
    return line


_WRONG = {
    "campaignId": "id",
    "channelId": "id",
    "responderAgentId": "id",
    "wabaId": "id",
    "phoneNumber": "phone",
    "clients": "clients",
    "owners": "owners",
    "file": "file",
    "scheduledDates": "dates",
}
"""What to say of a field that is wrong, by its name; of others, what the operation says."""


def _errors(error: ValidationError, fields: Sequence[_Field], first: str, words: Words) -> dict[str, str]:
    """Each problem at the field that it is about; what is about none of them, at the first."""
    told: dict[str, str] = {}
    for item in error.errors(include_url=False):
        where, problem = item["loc"], str(item["msg"]).removeprefix("Value error, ")
        about = next((field for field in fields if where[: len(field.path)] == field.path), None)
        block, said = (about.block_id, _WRONG.get(about.name)) if about else (first, None)
        if where == ("template",) and (media := [f for f in fields if f.name == "file"]):
            block, said = media[0].block_id, "media"
        told.setdefault(block, words.say(f"slack.wrong_{said}") if said else words.say("slack.wrong", problem=problem))
    return told
