"""The one renderer: system prompt, cards, outcomes, errors and every other sentence, from the files in prompts/."""

import json
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import jinja2

from agent.domain import Json
from agent.errors import AgentError
from agent.preview import Preview
from agent.settings import without_keys
from agent.visible import digest, visible, visible_lines

Language = Literal["es", "en"]

_DAYS = {
    "es": ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}
_MONTHS = {
    "es": ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"),
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}
_SHOWN_WARNINGS = 3
_NAME, _VALUE, _BODY, _BODY_LINES = 200, 2_500, 2_500, 40
"""Characters of a name, of any other value and of a message, and lines of a message, before the middle is left out. A
WhatsApp message has at most 1,024 characters."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a person decides on. `rows` are (label, value); every value went through `visible`."""

    headline: str
    rows: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    folded: Sequence[str]
    drift: Sequence[str]
    confirm: str
    footer: str

    def lines(self) -> list[str]:
        """The card as plain text."""
        out = [self.headline, *(f"! {line}" for line in self.drift)]
        out += [f"{label}: {value}" if label else f"  {value}" for label, value in self.rows]
        out += [f"! {line}" for line in self.warnings]
        return [*out, self.footer]


def _folder() -> Path:
    shipped = Path(__file__).parent / "_prompts"
    return shipped if shipped.is_dir() else Path(__file__).parent.parent / "prompts"


class Words:
    """All words of one language. Missing words and missing variables are errors."""

    def __init__(self, language: Language, zone: ZoneInfo) -> None:
        self.language: Language = language
        self.zone = zone
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_folder()),
            undefined=jinja2.StrictUndefined,
            finalize=self._finalize,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "when": self.when,
            "stamp": lambda value: self.when(datetime.fromtimestamp(value, UTC).isoformat()),
            "number": lambda value: f"{value:,}",
            "body": self._body,
            "name": lambda value: self._cut(value, _NAME),
            "shell": _shell,
        }
        self._environment.globals["name_of"] = lambda facts: self._cut(
            facts["campaign"]["title"] or facts["campaign"]["id"], _NAME
        )
        self._compiled: dict[str, jinja2.Template] = {}

    def _finalize(self, value: Any) -> str:
        """What every {{ }} goes through."""
        return visible(value if isinstance(value, _Whole) else self._cut(value, _VALUE))

    def _cut(self, value: Any, limit: int, lines: int = 0) -> str:
        """Head and tail of a long text, with how much is left out and what tells it from others that look alike.

        `lines` is how many of its own lines it may have; 0 where it is shown in one.
        """
        text = "" if value is None else str(value)
        every = text.split("\n") if lines else [text]
        if len(text) <= limit and len(every) <= max(1, lines):
            return text
        head = "\n".join(every[: lines * 3 // 4 or 1])[: limit * 3 // 4]
        tail = "\n".join(every[-(lines // 4 or 1) :])[-(limit // 4) :]
        left = len(text) - len(head) - len(tail)
        return ("\n" if lines else " ").join([head, self.say("card.cut", count=left, sha256=digest(text)), tail])

    def _body(self, value: Any) -> list["_Whole"]:
        """The lines of a message, not so many that what else is on the card is pushed off the screen."""
        text = self._cut(str(value).replace("\r\n", "\n"), _BODY, _BODY_LINES)
        return [_Whole(line) for line in visible_lines(text).split("\n")]

    @cached_property
    def _catalogue(self) -> dict[str, Any]:
        return tomllib.loads((_folder() / f"words.{self.language}.toml").read_text("utf-8"))

    def say(self, key: str, **data: Json) -> str:
        """`key` is "section.name" of words.*.toml."""
        if key not in self._compiled:
            section, _, name = key.partition(".")
            self._compiled[key] = self._environment.from_string(self._catalogue[section][name])
        return self._compiled[key].render(data)

    def has(self, key: str) -> bool:
        section, _, name = key.partition(".")
        return name in self._catalogue.get(section, {})

    def when(self, iso: str) -> str:
        """A date in local time with its weekday, and in UTC."""
        moment = datetime.fromisoformat(iso)
        local = moment.astimezone(self.zone)
        day, month = _DAYS[self.language][local.weekday()], _MONTHS[self.language][local.month - 1]
        utc = moment.astimezone(UTC)
        other_day = "" if utc.date() == local.date() else utc.strftime(" %Y-%m-%d")
        return f"{day} {local.day} {month} {local.year}, {local:%H:%M} {self.zone.key} ({utc:%H:%M} UTC{other_day})"

    def system(self, *, read_only: bool) -> str:
        template = self._environment.get_template(f"system.{self.language}.j2")
        return template.render(read_only=read_only).strip()

    def error(self, error: AgentError) -> tuple[str, str]:
        """What is wrong, and the one thing to do about it."""
        data = {"status": None, "text": "", "request_id": None, "wait": None, **_safe(error.data)}
        return self.say(f"{error.code}.say", **data), self.say(f"{error.code}.do", **data)

    def refusal(self, code: str, data: Mapping[str, Json]) -> str:
        return self.say(f"refusal.{code}", **data)

    def outcome(self, tool: str, kind: str, data: Mapping[str, Json]) -> str:
        """The one line that states what happened, before any words of the model's."""
        key = f"{tool}.{kind}"
        return self.say(key if self.has(key) else f"outcome.{kind}", tool=tool, **_safe(data))

    def card(
        self, preview: Preview, *, approval: str, expires_at: float, rule: Mapping[str, Json] | None = None
    ) -> Card:
        """`rule`: how many are `needed`, whether who asked may be one of them (`own`), `who` is named."""
        template = self._environment.get_template(f"cards/{self.language}/{preview.tool}.j2")
        text = template.render(facts=preview.facts, arguments=preview.arguments, members=preview.members[:5])
        # An empty line of the message is part of what will be read; others only part the template's own lines.
        headline, *lines = [line for line in text.split("\n") if line.strip() or line == "  "]
        warnings = [self.say(f"warning.{w.code}", **w.data) for w in preview.warnings]
        drift = [self._difference(item) for item in preview.drift]
        expiry = self.when(datetime.fromtimestamp(expires_at, UTC).isoformat())
        return Card(
            headline.strip(),
            [*map(_row, lines), *self._policy(rule or {})],
            warnings[:_SHOWN_WARNINGS],
            warnings[_SHOWN_WARNINGS:],
            [self.say("drift.intro"), *drift] if drift else [],
            preview.confirm,
            self.say("card.footer", approval=approval, expiry=expiry, folded=len(warnings[_SHOWN_WARNINGS:])),
        )

    def _policy(self, rule: Mapping[str, Json]) -> list[tuple[str, str]]:
        """What a person has to know of who decides; nothing where it is as always."""
        data = {"needed": 1, "own": True, "who": [], **rule}
        if data["needed"] == 1 and data["own"] and not data["who"]:
            return []
        return [(self.say("policy.label"), self.say("policy.text", **data))]

    def _difference(self, item: Mapping[str, Any]) -> str:
        if item["what"] == "audience":
            if "joined" in item:
                return self.say("drift.members", **item)
            return self.say("drift.size", **item)
        before, after = _apart(_text(item["before"]), _text(item["after"]))
        return self.say("drift.fact", what=item["what"], before=before, after=after)


def _safe(data: Mapping[str, Json]) -> dict[str, Json]:
    """Servers and proxies quote what they don't accept: their text is shown without what has the form of a key."""
    text = data.get("text")
    return {**data, "text": without_keys(text)} if isinstance(text, str) else dict(data)


def _row(line: str) -> tuple[str, str]:
    """A line of a card template: "Label: value", or a line of a message, which is indented."""
    if line.startswith("  "):
        return "", line[2:]
    label, _, value = line.partition(": ")
    return label.strip(), value


class _Whole(str):
    """A line that was cut, and made visible, already."""


def _shell(value: Any) -> str:
    """As one argument of a command that a person copies into a shell."""
    text = visible(value)
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _apart(before: str, after: str, width: int = 80) -> tuple[str, str]:
    """What differs of two long texts: a piece of each from shortly before the first difference."""
    pairs = zip(before, after, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
    start = max(0, same - 20) if max(len(before), len(after)) > width else 0

    def piece(text: str) -> str:
        end = start + width
        return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")

    return piece(before), piece(after)


@cache
def words(language: Language, zone: str) -> Words:
    return Words(language, ZoneInfo(zone))


_SPANISH = {
    "el", "la", "los", "las", "de", "del", "que", "y", "a", "en", "para", "por", "con", "una", "un", "mi", "es", "me",
    "campaña", "campana", "campañas", "borra", "crea", "envia", "envía", "manda", "agrega", "quita", "vacia", "vacía",
    "muestra", "muéstrame", "hola", "sí", "si", "quiero", "cuales", "cuáles", "lista", "enseñame", "gracias", "ver",
    "cuantos", "cuántos", "cuantas", "cuántas", "hay", "esa", "ese", "eso", "esta", "este", "se", "lo", "le", "al",
    "su", "qué", "cómo", "como", "cuál", "cual", "pero", "ya", "ahora", "hoy", "mañana", "tengo", "tiene", "gente",
    "está",
}  # fmt: skip
_ENGLISH = {
    "the", "of", "to", "and", "a", "in", "for", "with", "my", "is", "me", "campaign", "campaigns", "delete", "create",
    "send", "add", "remove", "clear", "show", "list", "hello", "hi", "yes", "what", "which", "please", "thanks", "get",
    "audience", "update", "from", "all", "it", "on", "how", "many", "people", "are", "now", "that", "this", "one",
    "only", "its", "do", "did", "does", "can", "you", "i", "we", "at", "have", "has", "was", "who", "when", "just",
    "then", "also",
}  # fmt: skip


def guess_language(text: str, otherwise: Language) -> Language:
    """The language that somebody writes in, when it shows."""
    # What is quoted may be in any language.
    text = re.sub(r"\"[^\"]*\"|“[^”]*”|«[^»]*»", " ", text)
    found = set(re.findall(r"[a-záéíóúüñ]+", text.lower()))
    spanish, english = len(found & _SPANISH), len(found & _ENGLISH)
    if re.search(r"[¿¡ñáéíóú]", text.lower()):
        spanish += 1
    if spanish == english:
        return otherwise
    return "es" if spanish > english else "en"
