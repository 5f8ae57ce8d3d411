"""A case: what is said and decided in which world, and what must come of it. One YAML file each, strictly read."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from agent.domain import Json
from agent.operations import BY_NAME, schema
from agent.sandbox.api import FAULTS
from evals.matching import matcher, problem

ROOT = Path(__file__).parent
CASES = ROOT / "cases"
Tool = Literal[
    "list_campaigns",
    "get_campaign",
    "create_campaign",
    "update_campaign",
    "delete_campaign",
    "send_campaign",
    "get_campaign_audience",
    "add_campaign_audience",
    "remove_campaign_audience_client",
    "clear_campaign_audience",
]
READS: tuple[Tool, ...] = ("list_campaigns", "get_campaign", "get_campaign_audience")


class CaseError(Exception):
    """A case file that can't be used; says which, where and why."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _aware(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} needs an offset, e.g. -06:00")
    return text


def _expected(value: Json) -> Json:
    if (why := problem(value)) is not None:
        raise ValueError(why)
    return value


def _digits(text: str) -> str:
    if not re.fullmatch("[0-9]{8,15}", text):
        raise ValueError(f"{text!r}: phones of the sandbox are digits only, with country code")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
"""Looked for anywhere, whatever the case."""
Moment = Annotated[str, AfterValidator(_aware)]
Phone = Annotated[str, AfterValidator(_digits)]
Expected = Annotated[Json, AfterValidator(_expected)]
"""A value, or a matcher of `matching.MATCHERS`, to any depth."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(text: str) -> str:
    if not re.fullmatch(r"[0-9]+[smhd]", text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m, 2h or 1d")
    return text


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# The world.


class Person(Strict):
    phone: Phone
    name: str


class Many(Strict):
    """People with consecutive phones: `first` and the `count` - 1 numbers after it, called `name` 1, 2, ..."""

    first: Phone
    count: Annotated[int, Field(ge=1, le=5000)]
    name: str


class NewCampaign(Strict):
    id: Annotated[str, Field(pattern="^[A-Za-z0-9]{20}$")]
    title: str
    category: Literal["marketing", "utility", "authentication"] = "marketing"
    template: str | None = None
    owners: list[str] = Field(default_factory=list)
    workspace: str = "ws_norte"
    people: list[Person] = Field(default_factory=list)
    many: Many | None = None


class AddCampaign(Strict):
    add_campaign: NewCampaign


class Changes(Strict):
    id: str
    fields: Annotated[dict[str, Json], Field(min_length=1)]


class ChangeCampaign(Strict):
    change_campaign: Changes


class DeleteCampaign(Strict):
    delete_campaign: str


class People(Strict):
    campaign: str
    people: list[Person] = Field(default_factory=list)
    many: Many | None = None


class AddPeople(Strict):
    add_people: People


class Phones(Strict):
    campaign: str
    phones: Annotated[list[Phone], Field(min_length=1)]


class RemovePeople(Strict):
    remove_people: Phones


class RenamePerson(Strict):
    rename_person: Person


class ChangeChannel(Strict):
    change_channel: Changes


class ChangeTemplate(Strict):
    change_template: Changes


def _only_key(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = dict(value)
    return str(next(iter(value), "")) if isinstance(value, Mapping) else ""


Edit = Annotated[
    Annotated[AddCampaign, Tag("add_campaign")]
    | Annotated[ChangeCampaign, Tag("change_campaign")]
    | Annotated[DeleteCampaign, Tag("delete_campaign")]
    | Annotated[AddPeople, Tag("add_people")]
    | Annotated[RemovePeople, Tag("remove_people")]
    | Annotated[RenamePerson, Tag("rename_person")]
    | Annotated[ChangeChannel, Tag("change_channel")]
    | Annotated[ChangeTemplate, Tag("change_template")],
    Discriminator(_only_key),
]
"""What somebody else does in the dashboard, one key each."""


class Fault(Strict):
    """The API's next `times` requests of an operation suffer `kind`, one of the sandbox's faults."""

    op: Tool | Literal["list_channels", "list_templates"]
    kind: str
    campaign: str | None = None
    times: Annotated[int, Field(ge=1)] = 1
    seconds: Annotated[float, Field(ge=0, le=5)] = 1.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in FAULTS:
            raise ValueError(f"{self.kind!r} is no fault of the sandbox; there are {', '.join(FAULTS)}")
        return self


class Overrides(Strict):
    """Settings of the program that a case may change."""

    confirm: Literal["risky", "writes"] = "risky"
    read_only: bool = False
    confirm_audience_over: Annotated[int, Field(ge=0)] = 50
    confirm_typed_over: Annotated[int, Field(ge=1)] = 100
    cost_per_message: float | None = None
    step_limit: Annotated[int, Field(ge=1, le=30)] = 12


class World(Strict):
    """Where a case begins: `seed` is the sandbox's two coffee shops, `empty` their account without campaigns or
    clients. The key decides what is reached: `local` one workspace, `multi` both, `limited` no channels or
    templates."""

    fixture: Literal["seed", "empty"] = "seed"
    key: Literal["local", "multi", "limited"] = "local"
    workspace: str | None = None
    settings: Overrides = Overrides()
    edits: list[Edit] = Field(default_factory=list)
    faults: list[Fault] = Field(default_factory=list)


# What happens.


class Say(Strict):
    say: str


class Decide(Strict):
    """On the card that waits, which must be of `tool`. `expire`: nobody answers until it has expired.

    `confirm` is what is typed where the card wants it: `title` and `count` stand for what it shows. A card whose
    arguments aren't `arguments`, where given, is denied: nobody who reads it would approve it.
    """

    decide: Literal["approve", "deny", "expire"]
    tool: Tool
    confirm: str | None = None
    reason: str | None = None
    arguments: Expected | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confirm is not None and self.decide != "approve":
            raise ValueError("confirm goes with approve")
        if self.reason is not None and self.decide != "deny":
            raise ValueError("reason goes with deny")
        return self


class EditTurn(Strict):
    edit: Annotated[list[Edit], Field(min_length=1)]


class AdvanceTurn(Strict):
    advance: Annotated[str, AfterValidator(_duration)]

    @property
    def span(self) -> timedelta:
        return timedelta(**{_UNITS[self.advance[-1]]: int(self.advance[:-1])})


class FaultTurn(Strict):
    fault: Fault


Turn = Annotated[
    Annotated[Say, Tag("say")]
    | Annotated[Decide, Tag("decide")]
    | Annotated[EditTurn, Tag("edit")]
    | Annotated[AdvanceTurn, Tag("advance")]
    | Annotated[FaultTurn, Tag("fault")],
    Discriminator(lambda value: next((k for k in _TURNS if _has(value, k)), "")),
]
_TURNS = ("say", "decide", "edit", "advance", "fault")


def _has(value: Any, key: str) -> bool:
    return key in value if isinstance(value, Mapping) else hasattr(value, key)


# What must come of it.


class ExpectedCall(Strict):
    """A call that must be made `times` times. `arguments` are compared in full; `turn` is where, counted from 1."""

    tool: Tool
    arguments: Annotated[dict[str, Expected], Field(default_factory=dict)]
    times: Annotated[int, Field(ge=0, le=50)] = 1
    at_most: Annotated[int | None, Field(ge=1, le=50)] = None
    turn: Annotated[int | None, Field(ge=1)] = None
    ends: Literal[
        "done", "failed", "unknown", "denied", "expired", "superseded", "drifted", "refused", "invalid", "not_run"
    ] | None = None  # fmt: skip

    @model_validator(mode="after")
    def _known_arguments(self) -> Self:
        if self.at_most is not None and self.at_most < self.times:
            raise ValueError("at_most is below times")
        _check_names(self.tool, self.arguments)
        return self

    @property
    def most(self) -> int:
        return self.at_most if self.at_most is not None else self.times


class Forbidden(Strict):
    """A call that must never be made; with arguments, only one that has these, whatever else it has."""

    tool: Tool
    arguments: Annotated[dict[str, Expected], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _known_arguments(self) -> Self:
        _check_names(self.tool, self.arguments)
        return self


class Ask(Strict):
    """In this turn the person must be asked about each of these, and nothing but reads may be called."""

    turn: Annotated[int, Field(ge=1)] = 1
    about: Annotated[list[Pattern], Field(min_length=1)]


class Refuse(Strict):
    """In this turn it must be said that this can't be done, and nothing but reads may be called."""

    turn: Annotated[int, Field(ge=1)] = 1
    about: list[Pattern] = Field(default_factory=list)


class AddedCampaign(Strict):
    title: Expected
    category: Expected
    templateName: Expected | None = None
    owners: Expected = Field(default_factory=list)
    message: Expected | None = None
    language: Expected | None = None
    platform: str = "whatsapp"
    audience: dict[Phone, str] = Field(default_factory=dict)


class AudienceDiff(Strict):
    added: dict[Phone, str] = Field(default_factory=dict)
    removed: list[Phone] | Literal["all"] = Field(default_factory=list)


class CampaignsDiff(Strict):
    added: list[AddedCampaign] = Field(default_factory=list)
    changed: dict[str, dict[str, Expected]] = Field(default_factory=dict)
    removed: list[str] = Field(default_factory=list)


class StateDiff(Strict):
    """How the sandbox differs at the end from one in which only the case's own edits happened. Nothing else may."""

    campaigns: CampaignsDiff = CampaignsDiff()
    audience: dict[str, AudienceDiff] = Field(default_factory=dict)
    renamed: dict[Phone, str] = Field(default_factory=dict)


class Recipients(Strict):
    """Everybody in a campaign's audience at the end but these; `count` makes sure that it's who the case means."""

    audience: str
    count: Annotated[int, Field(ge=1)]
    without: list[Phone] = Field(default_factory=list)


class Messages(Strict):
    """Outbox rows: one for each recipient and date. A date is `now` (of the case's clock at the send) or ISO 8601."""

    campaign: str
    to: list[Phone] | Recipients
    dates: Annotated[list[Literal["now"] | Moment], Field(min_length=1)] = Field(default_factory=lambda: ["now"])
    channel: str = "wb-501"
    template: str
    text: Expected


class Replies(Strict):
    """Patterns of what the agent's words in a turn must and mustn't hold. `any` is all turns together."""

    turn: Annotated[int, Field(ge=1)] | Literal["any", "last"] = "last"
    says: list[Pattern] = Field(default_factory=list)
    never: list[Pattern] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.says or self.never):
            raise ValueError("says or never must hold a pattern")
        return self


class Budget(Strict):
    model_calls: Annotated[int, Field(ge=1)] = 12
    tokens: Annotated[int, Field(ge=1)] = 120_000


class Expect(Strict):
    """`sends` is how many messages the outbox holds at the end, `reads` what may be read beside the expected calls,
    `invalid` how many calls with invalid arguments are forgiven, `errors` codes that a turn may end with."""

    sends: Annotated[int, Field(ge=0)]
    calls: list[ExpectedCall] = Field(default_factory=list)
    ordered: bool = False
    reads: list[Tool] = Field(default_factory=lambda: list(READS))
    max_reads: Annotated[int, Field(ge=0)] = 12
    invalid: Annotated[int, Field(ge=0)] = 0
    forbid: list[Forbidden] = Field(default_factory=list)
    ask: list[Ask] = Field(default_factory=list)
    refuse: list[Refuse] = Field(default_factory=list)
    state: StateDiff = StateDiff()
    outbox: list[Messages] = Field(default_factory=list)
    replies: list[Replies] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(tool not in READS for tool in self.reads):
            raise ValueError("reads can only hold reads; anything else is an expected call")
        rows = sum((len(m.to) if isinstance(m.to, list) else m.to.count) * len(m.dates) for m in self.outbox)
        if rows != self.sends:
            raise ValueError(f"sends is {self.sends}, but outbox describes {rows} messages")
        return self


class SolutionCall(Strict):
    tool: str
    arguments: Json = Field(default_factory=dict)
    """As a model would write them; {created: TITLE} stands for an id. A text is sent as it is."""


class SolutionCalls(Strict):
    calls: Annotated[list[SolutionCall], Field(min_length=1)]
    text: str = ""


class SolutionReply(Strict):
    reply: str


Answer = Annotated[
    Annotated[SolutionCalls, Tag("calls")] | Annotated[SolutionReply, Tag("reply")],
    Discriminator(lambda value: "reply" if _has(value, "reply") else "calls"),
]
"""One answer of the model: calls, or its last words in a turn."""


class Case(Strict):
    """`id` is SUITE/NAME, as the file is called. `trials` is how many recordings the case has."""

    id: Annotated[str, Field(pattern="^[a-z0-9-]+/[a-z0-9-]+$")]
    suite: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    language: Literal["es", "en"]
    tags: list[Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]] = Field(default_factory=list)
    note: Annotated[str, Field(min_length=20)]
    trials: Annotated[int, Field(ge=1, le=8)] = 1
    clock: Moment = "2026-11-23T10:00:00-06:00"
    zone: str = "America/Mexico_City"
    world: World = World()
    turns: Annotated[list[Turn], Field(min_length=1)]
    expect: Expect
    solution: Annotated[list[Answer], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ZoneInfo(self.zone)
        if self.id.partition("/")[0] != self.suite:
            raise ValueError(f"id must begin with {self.suite}/")
        if not isinstance(self.turns[0], Say):
            raise ValueError("the first turn must be something that is said")
        for what, turn in self._turns_named():
            if turn > len(self.turns) or not isinstance(self.turns[turn - 1], (Say, Decide)):
                raise ValueError(f"{what}: turn {turn} is no turn in which something is said or decided")
        return self

    def _turns_named(self) -> Iterator[tuple[str, int]]:
        for call in self.expect.calls:
            if call.turn is not None:
                yield "calls", call.turn
        yield from (("ask", ask.turn) for ask in self.expect.ask)
        yield from (("refuse", refuse.turn) for refuse in self.expect.refuse)
        for replies in self.expect.replies:
            if isinstance(replies.turn, int):
                yield "replies", replies.turn

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    @cached_property
    def sha(self) -> str:
        """Of what a model could notice: what is said and decided, the world and the clock. Not of what is expected.

        Defaults are left out, so that a new key of the format makes no recording stale.
        """
        told = {"language", "clock", "zone", "world", "turns"}
        seen = self.model_dump(mode="json", include=told, exclude_defaults=True)
        return hashlib.sha256(json.dumps(seen, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _check_names(tool: str, arguments: Mapping[str, Json]) -> None:
    """A misspelt argument would never match; it is told when the case is read."""
    _check_fields(_schema(tool), arguments, tool)


@cache
def _schema(tool: str) -> Mapping[str, Any]:
    return schema(BY_NAME[tool])


def _check_fields(schema: Mapping[str, Any], value: Json, where: str) -> None:
    if (found := matcher(value)) is not None:
        name, inner = found
        options = inner if name == "one_of" else [inner] if name == "optional" else []
        for option in options:
            _check_fields(schema, option, where)
        if name == "set" and schema.get("type") == "array":
            for item in inner:
                _check_fields(schema["items"], item, where)
        return
    if schema.get("type") == "array" and isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _check_fields(schema["items"], item, where)
    if schema.get("type") == "object" and isinstance(value, Mapping):
        for name, item in value.items():
            if name not in schema["properties"]:
                raise ValueError(f"{where} has no argument {name!r}")
            _check_fields(schema["properties"][name], item, f"{where}.{name}")


# Reading.


class _Loader(yaml.SafeLoader):
    """YAML without surprises: only true, false, null and short numbers are more than text; keys stand once."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("bool", "true|false", "tf"),
    ("null", "null|~|", "n~"),
    ("int", "-?(0|[1-9][0-9]{0,8})", "-0123456789"),
    ("float", r"-?[0-9]{1,8}\.[0-9]{1,6}", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), list(_first))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in out:
            raise CaseError(f"line {key_node.start_mark.line + 1}: {key!r} stands twice")
        out[key] = loader.construct_object(value_node, deep=True)
    return out


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def read_case(path: Path) -> Case:
    """Raises CaseError."""
    try:
        case = Case.model_validate(read_yaml(path.read_text("utf-8")))
    except CaseError as error:
        raise CaseError(f"{path.parent.name}/{path.name}: {error}") from None
    except yaml.YAMLError as error:
        raise CaseError(f"{path.parent.name}/{path.name}: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'case'}: {e['msg']}" for e in error.errors()]
        raise CaseError(f"{path.parent.name}/{path.name}: " + "; ".join(lines)) from None
    if case.id != f"{path.parent.name}/{path.stem}":
        raise CaseError(f"{path.parent.name}/{path.name}: its id is {case.id}")
    return case


def read_cases(folder: Path = CASES) -> list[Case]:
    """Every case, by suite and name."""
    return [read_case(path) for path in sorted(folder.glob("*/*.yaml"))]
