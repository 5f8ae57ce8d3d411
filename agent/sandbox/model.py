"""The model that needs no key: rules that turn usual Spanish and English requests into the ten operations."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.domain import Json
from agent.model import Call, Completion, array
from agent.sandbox import words
from agent.sandbox.sentence import NAMING, READS, Frame, Sentence, category_words, decide, points_back
from agent.sandbox.slots import (
    MAIL,
    MARKS,
    PHONE,
    REF,
    TEMPLATE,
    TITLE_END,
    URL,
    Heard,
    World,
    dynamic_buttons,
    find_order,
    find_page,
    find_people,
    hear,
    names_a_day,
    split_values,
    template_named,
    unread_page,
    variables,
)
from agent.sandbox.words import COMMAND, fold

NAME = "built-in rules"
PAGE = 200
LONGEST = 10_000
"""Characters of a message that the rules read; what they look for takes longer the more there is."""


# The conversation.


@dataclass(slots=True)
class Step:
    """A tool call and its answer, None while there is none."""

    name: str
    arguments: dict[str, Json]
    answer: dict[str, Json] | None = None

    @property
    def outcome(self) -> str:
        return str((self.answer or {}).get("outcome", ""))


@dataclass(slots=True)
class Turn:
    """What a person said, and what came of it."""

    text: str
    steps: list[Step] = field(default_factory=list)
    said: str = ""
    too_long: bool = False

    @property
    def asked(self) -> bool:
        """Whether the last word was a question of ours: those, and only those, open with a line that ends in "?"."""
        return self.said.strip().split("\n")[0].endswith("?")


@dataclass(slots=True)
class Conversation:
    turns: list[Turn]
    data: dict[str, Json]


def read_conversation(messages: bytes) -> Conversation:
    turns: list[Turn] = []
    data: dict[str, Json] = {}
    open_steps: dict[str, Step] = {}
    for message in json.loads(messages):
        content = _text(message.get("content"))
        role = message.get("role")
        if role == "user":
            workspace = _object(content)
            if workspace.get("kind") == "workspace_data":
                data |= workspace
            else:
                # The beginning of what is too long still tells its language.
                long = len(content) > LONGEST
                turns.append(Turn(content[:500] if long else content, too_long=long))
        elif role == "assistant" and turns:
            turns[-1].said = content
            for call in message.get("tool_calls") or []:
                step = Step(call["function"]["name"], _object(call["function"]["arguments"]))
                open_steps[call["id"]] = step
                turns[-1].steps.append(step)
        elif role == "tool" and message.get("tool_call_id") in open_steps:
            open_steps[message["tool_call_id"]].answer = _object(content)
    return Conversation(turns, data)


def _text(content: Json) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _object(text: str) -> dict[str, Json]:
    if not text.lstrip().startswith("{"):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _records(answer: Mapping[str, Json] | None, key: str) -> list[Json]:
    result = (answer or {}).get("result")
    groups = result.get("workspaces") if isinstance(result, dict) else None
    return [item for group in groups or [] if isinstance(group, dict) for item in group.get(key) or []]


def _next_offset(step: Step) -> int | None:
    """Where the next page of a list begins; None at its end."""
    answer = step.answer or {}
    if isinstance(answer.get("next_offset"), int) and answer.get("omitted"):
        return int(answer["next_offset"])
    result = answer.get("result")
    groups = result.get("workspaces") if isinstance(result, dict) else None
    pages = [group.get("pagination") or {} for group in groups or [] if isinstance(group, dict)]
    if not any(page.get("hasMore") for page in pages):
        return None
    return int(step.arguments.get("offset") or 0) + int(step.arguments.get("limit") or 50)


@dataclass(slots=True)
class Catalogue:
    """The campaigns as the look-ups of one turn gave them."""

    campaigns: list[Json] = field(default_factory=list)
    used: int = 0
    next_offset: int | None = 0
    failure: Step | None = None


def look_up(steps: Sequence[Step]) -> Catalogue:
    """The leading list_campaigns of 200 are look-ups, until the last page."""
    found = Catalogue()
    for step in steps:
        is_lookup = step.name == "list_campaigns" and step.arguments.get("limit") == PAGE
        if not is_lookup or found.next_offset is None or found.failure:
            break
        found.used += 1
        if step.outcome != "done" or not isinstance((step.answer or {}).get("result"), dict):
            found.failure = step
            break
        known = {campaign.get("id") for campaign in found.campaigns}
        fresh = [c for c in _records(step.answer, "campaigns") if c.get("id") not in known]
        found.campaigns += fresh
        following = _next_offset(step)
        found.next_offset = following if fresh else None
    return found


# The arguments.


def frame_of(sentence: Sentence, world: World, focus: str | None) -> Frame:
    frame = decide(sentence)
    if frame.operation:
        fill(frame, sentence, world, focus)
    return frame


def fill(frame: Frame, sentence: Sentence, world: World, focus: str | None, asked: str = "") -> None:
    """What the sentence says of the operation's arguments; `asked` is what it answers."""
    heard, slots = sentence.heard, frame.slots
    operation = frame.operation
    if operation not in ("create_campaign", "list_campaigns"):
        _fill_campaign(slots, sentence, world, focus, operation, asked)
    if operation in ("list_campaigns", "get_campaign_audience"):
        slots |= find_page(heard.undated.replace("\u0001", " "))
        slots |= find_order(heard.undated.replace("\u0001", " "), "title" if operation == "list_campaigns" else "name")
        if asked == "page" and (bare := re.match(r"\W*(\d{1,3})\b", heard.undated)):
            slots.setdefault("limit", int(bare[1]))
        slots["unread"] = not asked and unread_page(heard.undated.replace("\u0001", " "), slots)
    elif operation in ("create_campaign", "update_campaign"):
        _fill_fields(frame, sentence, world, asked)
    elif operation == "send_campaign":
        _fill_send(slots, heard, world, asked)
    elif operation == "add_campaign_audience":
        _fill_people(slots, heard, asked)
    elif operation == "remove_campaign_audience_client" and heard.phones:
        slots["phones"] = [phone for phone, _, _ in heard.phones]


def _fill_campaign(
    slots: dict[str, Any], sentence: Sentence, world: World, focus: str | None, operation: str, asked: str
) -> None:
    heard = sentence.heard
    if asked and asked != "campaign" and slots.get("campaign"):
        return
    named = list(heard.campaigns)
    if len(named) == 1:
        slots["campaign"] = str(named[0]["id"])
        slots.pop("candidates", None)
        return
    if named or heard.candidates:
        slots["candidates"] = [str(c["id"]) for c in (named or heard.candidates)]
        slots["unknown"] = heard.unknown
        return
    category = _category_reference(sentence, world, operation)
    if category is not None:
        if len(category) == 1:
            slots["campaign"] = category[0]
        else:
            slots["candidates"] = category
        return
    if unknown := _unknown_title(sentence, operation):
        slots["unknown"] = unknown
        return
    if focus and points_back(sentence) and "campaign" not in slots:
        slots["campaign"] = focus


def _category_reference(sentence: Sentence, world: World, operation: str) -> list[str] | None:
    """ "the marketing campaign": by category, where the title isn't said."""
    if operation == "update_campaign":
        return None
    said = re.search(r"\b(?:campana|la|las) (?:de |del )?(\w+)\b|\b(\w+) campaign\b", sentence.masked)
    word = next((w for w in (said[1], said[2]) if w), "") if said else ""
    if word not in words.CATEGORY_OF:
        return None
    wanted = words.CATEGORY_OF[word]
    return [str(c["id"]) for c in world.campaigns if c.get("category") == wanted] or None


def _unknown_title(sentence: Sentence, operation: str) -> str:
    """A name that no campaign has."""
    heard = sentence.heard
    if heard.unknown:
        return heard.unknown
    outside = [q for q, _, _ in heard.quotes]
    if outside and operation not in ("update_campaign", "send_campaign"):
        return outside[0]
    for at, token in enumerate(sentence.tokens):
        if token.word in words.CAMPAIGN and at + 1 < len(sentence.tokens):
            rest = heard.text[token.end :]
            found = re.match(
                r"\s+(?:de |del |la |el )*((?:[A-ZÁÉÍÓÚÑ][\wáéíóúñ]*|20\d\d)(?:\s+(?:de |del |la "
                r")*(?:[A-ZÁÉÍÓÚÑ][\wáéíóúñ]*|20\d\d))*)",
                rest,
            )
            if found and not any(m in sentence.masked[token.end : token.end + found.end()] for m in MARKS):
                return found[1]
    return ""


def _fill_fields(frame: Frame, sentence: Sentence, world: World, asked: str) -> None:
    heard, slots = sentence.heard, frame.slots
    creating = frame.operation == "create_campaign"
    fields = {words.FIELD_OF[word] for word in sentence.list if word in words.FIELD_OF}
    if heard.templates:
        slots["templateName"] = heard.templates[-1]
        slots.pop("unknown_template", None)
    elif heard.unknown_template:
        slots["unknown_template"] = heard.unknown_template
    elif (
        not creating
        and "templateName" in fields
        and (asked or re.search(r"\b(a|por|to|with|con|:)\b", sentence.masked))
    ):
        slots.setdefault("wants_template", True)
    if heard.mails:
        slots["owners"] = list(dict.fromkeys(heard.mails))
        slots["adds_owner"] = not creating and _adds_owner(sentence)
    if title := _title(sentence, creating, asked, fields):
        slots["title"] = title
    if category := _category(sentence, creating, fields, slots, asked):
        slots["category"] = category
    language = re.search(r"\b([a-z]{2})_([A-Z]{2})\b", heard.text)
    if language and "language" in fields:
        slots["language"] = language[0]
    if waba := re.search(r"\bwaba_\w+", heard.text):
        slots["wabaId"] = waba[0]
    if "message" in fields and heard.quotes and (not creating or len(heard.quotes) > 1):
        slots["message"] = heard.quotes[-1][0]
        if slots.get("title") == slots["message"]:
            del slots["title"]


def _adds_owner(sentence: Sentence) -> bool:
    adding = "add" in sentence.families or re.search(
        r"\b(tambien|also|additional|adicional|otro|another|ademas)\b", sentence.masked
    )
    return bool(adding)


def _title(sentence: Sentence, creating: bool, asked: str, fields: set[str]) -> str:
    heard = sentence.heard
    quotes = _title_quotes(sentence, creating)
    if asked == "title" or (asked == "change" and fields == {"title"}):
        return quotes[0] if quotes else _bare_title(heard)
    if creating and quotes:
        return quotes[0]
    if quotes and (fields & {"title"} or _renames(sentence)):
        return quotes[-1]
    return _spoken_title(sentence, creating)


def _renames(sentence: Sentence) -> bool:
    return bool(
        re.search(
            r"\b(renam\w*|renombr\w*|rebautiz\w*|retitul\w*|titul\w*|retitle|llam\w*|call|called|is now|ahora es|"
            r"nombra\w*|"
            r"name\w*|known as|pasa a ser|sea|ser)\b",
            sentence.masked,
        )
    )


def _title_quotes(sentence: Sentence, creating: bool) -> list[str]:
    """Quoted text that may be a new title: not a message, and, when something is renamed, not the campaign itself."""
    out = []
    for quote, start, _ in sentence.heard.quotes:
        before = fold(sentence.heard.text[max(0, start - 25) : start])
        if re.search(r"\b(mensaje|message|texto|text|plantilla|template)\b[^,;]{0,8}$", before):
            continue
        if not creating and sentence.masked[start] == REF:
            continue
        out.append(quote)
    return out


def _bare_title(heard: Heard) -> str:
    plain = fold(heard.text)
    lead = re.match(
        rf"\W*(?:(?:que|mejor|pues|ok|si|yes|it should be|it's|its|es|sera|quiero|let's|please|por favor|use|usa|"
        rf"pon|ponle|just)\s+)*(?:{NAMING}\b)?[\s:]*(?:como |a |as |to )?",
        plain,
    )
    start = lead.end() if lead else 0
    rest = heard.text[start:]
    end = (
        re.search(TITLE_END, heard.masked[start:])
        if re.search(r"[,;]|marketing|utili|autent|authen", fold(rest))
        else None
    )
    title = rest[: end.start()] if end and end.start() else rest
    return title.strip().strip("\"'“”«».,;:¡!¿? ")


def _spoken_title(sentence: Sentence, creating: bool) -> str:
    """A title without quotes, after what announces one."""
    heard = sentence.heard
    plain = re.sub(r"\bpor (?=favor)", "    ", fold(heard.text))
    # "cámbiale el nombre a X por Y": the first "a" leads to the campaign, not to its new name.
    swap = rf"\b(?:nombre|titulo)\s+(?:al?|de|del)\s[^\n]*?{REF}\u0001*\s+(?:por|como)\s+(?!favor)"
    if not creating and (found := re.search(swap, sentence.masked)):
        return _title_after(sentence, found.end(), weak=False)
    if creating:
        cues = [rf"\b{NAMING}\b\s*(?:de\s+|como\s+|:|=|-|va a ser\s+|sera\s+|is\s+|as\s+)?\s*",
                r"\b(?:campana|campaign)(?: nueva)?\s*(?::|-|–)?\s*(?=[a-z0-9¡¿])"]  # fmt: skip
    else:
        cues = [r"\b(?:a que se llame|a llamarse|se (?:va a llamar|llamara|llame|llama)|is (?:going to be|now) "
            r"called|be called|call it|llamala|llamale|rename it to|renombrala (?:a|como))\s*:?\s*",
                r"\b(?:renam\w*|renombr\w*|rebautiz\w*|retitul\w*|retitle)\b[^\n]*?\b(?:to|as|a|como|"
                r"por)\s+(?=[^\n]*$)",
                r"\b(?:nombre|titulo|title|name)\b[^\n]*?(?:\b(?:to|as|a|por|como|sea|be|is|es)\s+|:\s*)"]  # fmt: skip
    for index, cue in enumerate(cues):
        for match in re.finditer(cue, plain):
            title = _title_after(sentence, match.end(), creating and index == 1)
            if title:
                return title
    return ""


def _title_after(sentence: Sentence, start: int, weak: bool) -> str:
    heard = sentence.heard
    rest = heard.text[start:]
    if weak and not re.match(r"[A-ZÁÉÍÓÚÑ0-9¡¿\"]", rest):
        return ""
    end = re.search(TITLE_END, heard.masked[start:])
    title = rest[: end.start()] if end else rest
    title = re.split(r"(?i)\s+(?:por favor|porfa|porfavor|please|xfa|gracias|thanks|thank you|ok)\b", title)[0]
    title = title.strip().strip("\"'“”«».,;:¡!¿?()| ")
    first = fold(title).split(" ")[0] if title else ""
    if (
        not title
        or first in words.CATEGORY_OF
        or first in words.CAMPAIGN
        or first in ("favor", "please", "porfa", "plis", "pls", "gracias")
        or first in ("de", "del", "la", "of", "otro", "a", "it")
    ):
        return ""
    inside = heard.masked[start : start + len(title)]
    if any(mark in inside for mark in (MAIL, URL, TEMPLATE, PHONE)):
        return ""
    return title


def _category(sentence: Sentence, creating: bool, fields: set[str], slots: Mapping[str, Any], asked: str) -> str:
    found = _wanted_categories(sentence)
    if not found:
        return ""
    if not creating and len(set(found)) > 1:
        return ""
    if creating or asked in ("category", "change"):
        strict = [
            words.CATEGORY_OF[w]
            for w in sentence.list
            if w in words.CATEGORY_OF and w not in ("promo", "servicio", "promotion", "promocion")
        ]
        return (strict or found)[0] if creating else found[-1]
    explicit = re.search(
        r"\b(?:a|como|en|in|is|por|to|as|into|be|ser|sea|es|de tipo|under|with|con|:)\s+(?:de |la |el |una |an? |"
        r"the |categoria |category |campana |tipo )*"
        r"(" + "|".join(words.CATEGORY_OF) + r")\b", sentence.masked)  # fmt: skip
    if "category" in fields or not (
        fields - {"category"} or slots.get("templateName") or slots.get("owners") or slots.get("title")
    ):
        return found[-1]
    if explicit and re.search(r"\b(va|goes|pasa\w*|pon\w*|sea|make|be|in|en|cambia\w*|change)\b", sentence.masked):
        before = sentence.masked[: explicit.start()].split()[-1:]
        return "" if before == ["campana"] else words.CATEGORY_OF[explicit[1]]
    return ""


def _wanted_categories(sentence: Sentence) -> list[str]:
    """The categories said, without those refused ("not marketing") or left behind ("from utility to marketing")."""
    listed = "|".join(words.CATEGORY_OF)
    refused = (
        rf"\b(?:no|not|en (?:vez|lugar) de|instead of|rather than|y no|and not|ya no (?:es|de)?|isn't|from|out of|"
        rf"sino|saca\w* de|no va a ser|deja de ser)(?: (?:de|a|an|la|el|as|como|tipo|categoria))* (?:{listed})\b"
    )
    plain = re.sub(refused, " ", sentence.masked)
    plain = re.sub(rf"\bde (?:{listed}) (?=(?:a|para|hacia) (?:{listed})\b)", " ", plain)
    said = [words.CATEGORY_OF[word] for word in re.findall(r"[a-z]+", plain) if word in words.CATEGORY_OF]
    return said or category_words(sentence)


def _fill_buttons(slots: dict[str, Any], heard: Heard, world: World, asked: str) -> None:
    """Values by the index of their button; without an index, of the first that has none."""
    given = list(heard.buttons)
    if asked == "button" and not given and not heard.text.rstrip().endswith("?"):
        lead = (
            r"(?i)^\W*(?:(?:es|el|la|usa|con|valor|is|it's|use|the|with|value|pon|ponle|que sea|sea|please)\b\s*:?\s*)*"
        )
        given = [(None, re.sub(lead, "", heard.text).strip(" \t\n\"'“”«».,;!¡"))]
    for index, value in given:
        held: dict[int, str] = slots.get("buttons", {})
        at = index if index is not None else _open_button({**slots, "buttons": held}, world) or 0
        if value:
            slots["buttons"] = {**held, at: value}


def _open_button(slots: Mapping[str, Any], world: World) -> int | None:
    """The first button of the template that needs a value and has none."""
    wanted = dynamic_buttons(slots.get("name") or campaign_of(slots, world).get("templateName"), world)
    return next((at for at in wanted if at not in slots.get("buttons", {})), None)


def _fill_send(slots: dict[str, Any], heard: Heard, world: World, asked: str) -> None:
    if asked == "button" and not heard.buttons:
        # An answer that is one value: whatever else it may look like.
        _fill_buttons(slots, heard, world, asked)
        return
    if heard.channels:
        slots["channels"] = list(dict.fromkeys(heard.channels))
        slots.pop("unknown_channel", None)
    elif heard.unknown_channel:
        slots["unknown_channel"] = heard.unknown_channel
    if heard.agents:
        slots["agent"] = heard.agents[-1]
    elif name := _responder_name(heard):
        slots["agent_name"] = name
    if heard.templates:
        slots["name"] = heard.templates[-1]
    elif heard.unknown_template:
        slots["unknown_template"] = heard.unknown_template
    if heard.params is not None:
        slots["params"] = heard.params
    elif values := _loose_values(heard, asked):
        slots["params"] = values
    _fill_buttons(slots, heard, world, asked)
    if heard.urls:
        slots["file"], slots["type"] = heard.urls[0], heard.media
    slots["flags"] = {**slots.get("flags", {}), **heard.flags}
    if asked == "time" and slots.get("day_text") and not names_a_day(heard.text, world.now, heard.language):
        heard = hear(f"{slots['day_text']} {heard.text}", heard.language, world)
    if asked != "params":
        _fill_dates(slots, heard, world)


def _responder_name(heard: Heard) -> str:
    """An agent that is called by name, which no list here can turn into an id."""
    match = re.search(
        r"\b(?:que (?:responda|conteste|atienda)|have|let)\s+(?:el agente |agent |la agente )?([a-z]+)\b"
        r"(?= (?:answer|respond|reply|handle)|\W|$)",
        heard.masked,
    )
    if not match or match[1] in words.known_words() or match[1] in words.verbs():
        return ""
    return heard.text[match.start(1) : match.end(1)]


def _fill_dates(slots: dict[str, Any], heard: Heard, world: World) -> None:
    if heard.moments:
        slots["dates"] = [moment.isoformat() for moment in heard.moments]
    if heard.moments or re.search(r"\b(ahora|ahorita|now|ya|inmediatamente|immediately|right away)\b", heard.masked):
        slots.pop("wants_time", None)
        slots.pop("day_text", None)
    elif heard.day_without_time:
        slots["wants_time"] = True
        slots["day_text"] = heard.text
    elif re.search(r"\b(programa\w*|agenda\w*|calendariza\w*|schedul\w*)\b", heard.masked) and "dates" not in slots:
        slots["wants_time"] = True
    if heard.past or heard.unread_time:
        slots["wants_time"] = True
        slots["past"] = heard.past
        slots.pop("dates", None)


def _loose_values(heard: Heard, asked: str) -> list[str]:
    """Values without the word "parameters": "using Ana and 20%", or the answer to our question."""
    if asked == "params":
        text = re.sub(
            r"(?i)^\W*(?:(?:son|usa|use|using|usando|con|with|pon|they are|are|serian|the|los|values?|"
            r"valores?)\s+)*:?\s*",
            "",
            heard.unbuttoned,
        )
        return split_values(text.strip(" .!"))
    found = re.search(r"\b(?:using|usando|con|with)\s+(?=[^,;]*(?:%|,| y | and ))", heard.masked)
    if not found or re.match(
        r"(?:la |el |the |an? |su |una? )*(?:plantilla|template|imagen|image|media|nombre|video|documento)",
        heard.masked[found.end() :],
    ):
        return []
    rest = heard.masked[found.end() :]
    end = re.search(rf"[;.\n{MARKS}]|\s(?:por|via|desde|through|over|from|on|canal|channel|plantilla|template)\b", rest)
    body = heard.text[found.end() : found.end() + (end.start() if end else len(rest))]
    return (
        split_values(body)
        if not re.match(r"\W*(?:la |el |the |an? )?(?:plantilla|template|imagen|image|media)", fold(body))
        else []
    )


def _fill_people(slots: dict[str, Any], heard: Heard, asked: str) -> None:
    find_people(heard)
    known: list[dict[str, str]] = slots.get("people", [])
    if heard.people:
        fresh = [dict(person) for person in heard.people]
        waiting = slots.pop("names", [])
        if len(waiting) == len(fresh):
            for person, name in zip(fresh, waiting, strict=True):
                person["name"] = person["name"] or name
        slots["people"] = [*(known if asked != "phone" else []), *fresh]
    elif asked == "name" and known:
        names = split_values(
            re.sub(
                r"(?i)^\W*(?:se llaman?|es|son|it's|his name is|her name is|their names are|they are|name is|el "
                r"nombre es)\s+",
                "",
                heard.text,
            ).strip(" .!")
        )
        unnamed = [person for person in known if not person["name"]]
        for person, name in zip(unnamed, names, strict=False):
            person["name"] = name
    elif heard.masked:
        slots["names"] = slots.get("names") or _loose_names(heard)


def _loose_names(heard: Heard) -> list[str]:
    found = re.findall(r"(?:\ba |\badd |\binclude |, |\by a |\band )((?:[A-ZÁÉÍÓÚÑ][\wáéíóúñ]+ ?)+)", heard.text)
    return [name.strip() for name in found if fold(name.strip()).split()[0] not in words.known_words()]


# What is missing.


def missing(frame: Frame, world: World) -> str:
    """The first thing that the operation lacks, "" when nothing."""
    slots, operation = frame.slots, frame.operation
    if operation not in ("create_campaign", "list_campaigns") and not slots.get("campaign"):
        return "campaign"
    match operation:
        case "list_campaigns" | "get_campaign_audience":
            return "page" if slots.get("unread") else ""
        case "create_campaign":
            return _missing_create(slots)
        case "update_campaign":
            return _missing_change(slots)
        case "add_campaign_audience":
            people = slots.get("people")
            return "phone" if not people else "name" if not all(person["name"] for person in people) else ""
        case "remove_campaign_audience_client":
            return "" if slots.get("phones") else "phone"
        case "send_campaign":
            return _missing_send(slots, world)
    return ""


def _missing_create(slots: Mapping[str, Any]) -> str:
    if slots.get("unknown_template"):
        return "template"
    return next((name for name in ("title", "category") if not slots.get(name)), "")


CHANGES = ("title", "category", "templateName", "owners", "message", "language", "wabaId")


def _missing_change(slots: Mapping[str, Any]) -> str:
    if slots.get("unknown_template"):
        return "template"
    if slots.get("adds_owner"):
        return "owners"
    return "" if any(slots.get(name) for name in CHANGES) else "change"


def campaign_of(slots: Mapping[str, Any], world: World) -> dict[str, Json]:
    return next((dict(c) for c in world.campaigns if c.get("id") == slots.get("campaign")), {})


def _missing_send(slots: Mapping[str, Any], world: World) -> str:
    if len(slots.get("channels") or ()) != 1:
        return "channel"
    if slots.get("unknown_template"):
        return "template"
    if slots.get("agent_name") and not slots.get("agent"):
        return "agent"
    campaign = campaign_of(slots, world)
    name = slots.get("name") or campaign.get("templateName")
    if not name and world.templates is not None:
        return "template"
    wanted = variables(name, world)
    if wanted is not None and len(slots.get("params") or ()) != wanted:
        return "params"
    if _open_button(slots, world) is not None:
        return "button"
    template = template_named(name, world) or {}
    header = template.get("header")
    kind = str(header.get("type") if isinstance(header, dict) else header or "").upper()
    if kind in ("IMAGE", "VIDEO", "DOCUMENT") and not slots.get("file"):
        return "file"
    if slots.get("file") and not slots.get("type"):
        return "media" if kind not in ("IMAGE", "VIDEO", "DOCUMENT") else ""
    return "time" if slots.get("wants_time") else ""


def arguments_of(frame: Frame, world: World) -> list[dict[str, Json]]:
    """The arguments of each call that the request takes: one, but for several phones to take out."""
    slots = frame.slots
    base = {"campaignId": slots["campaign"]} if slots.get("campaign") else {}
    page: dict[str, Json] = {key: slots[key] for key in ("limit", "offset", "sortBy", "sortDirection") if key in slots}
    match frame.operation:
        case "list_campaigns":
            return [page]
        case "get_campaign_audience":
            return [{**base, **page}]
        case "create_campaign":
            return [{key: slots[key] for key in ("title", "category", *CHANGES[2:]) if slots.get(key)}]
        case "update_campaign":
            return [{**base, **{key: slots[key] for key in CHANGES if slots.get(key)}}]
        case "add_campaign_audience":
            return [{**base, "clients": slots["people"]}]
        case "remove_campaign_audience_client":
            return [{**base, "phoneNumber": phone} for phone in slots["phones"]]
        case "send_campaign":
            return [{**base, **_send_arguments(slots, world)}]
    return [base]


def _send_arguments(slots: Mapping[str, Any], world: World) -> dict[str, Json]:
    template: dict[str, Json] = {key: slots[key] for key in ("name", "params", "file", "type") if slots.get(key)}
    if template.get("file") and not template.get("type"):
        campaign = campaign_of(slots, world)
        header = (template_named(slots.get("name") or campaign.get("templateName"), world) or {}).get("header")
        template["type"] = str(header.get("type") if isinstance(header, dict) else header).lower()
    if slots.get("buttons"):
        template["buttons"] = _button_arguments(slots, world)
    template |= slots.get("flags") or {}
    if slots.get("dates"):
        template["scheduledDates"] = slots["dates"]
    out: dict[str, Json] = {"channelId": slots["channels"][0]}
    if slots.get("agent"):
        out["responderAgentId"] = slots["agent"]
    return {**out, "template": template} if template else out


def _button_arguments(slots: Mapping[str, Any], world: World) -> list[Json]:
    known = dynamic_buttons(slots.get("name") or campaign_of(slots, world).get("templateName"), world)
    return [
        {
            "index": at,
            "sub_type": str(known.get(at, {}).get("type") or "url").lower(),
            "parameters": [{"type": "text", "text": value}],
        }
        for at, value in sorted(slots["buttons"].items())
    ]


# Several requests in one message, and answers to our questions.

_ALLOWED_AFTER = {
    "create_campaign": {"add_campaign_audience", "send_campaign", *READS},
    "update_campaign": {"add_campaign_audience", "send_campaign", *READS},
    "add_campaign_audience": {"send_campaign", "remove_campaign_audience_client", *READS},
    "remove_campaign_audience_client": {"add_campaign_audience", "send_campaign", *READS},
    "clear_campaign_audience": {"add_campaign_audience", "delete_campaign", *READS},
    "delete_campaign": {"create_campaign", *READS},
    "send_campaign": {"get_campaign_audience", "list_campaigns"},
    "get_campaign": {"send_campaign", "delete_campaign", "update_campaign", "add_campaign_audience",
                     "get_campaign_audience"},
    "get_campaign_audience": {"send_campaign", "clear_campaign_audience", "add_campaign_audience",
                              "remove_campaign_audience_client"},
    "list_campaigns": {"delete_campaign", "create_campaign", "send_campaign"},
}  # fmt: skip
_BETWEEN = re.compile(r"[,;.\n]|\b(?:y|e|and|then|luego|despues|also|tambien|ademas|afterwards|entonces)\b")


def interpret(text: str, language: str, world: World, focus: str | None) -> list[Frame]:
    """The requests of one message, in order."""
    whole = Sentence(hear(text, language, world))
    single = frame_of(whole, world, focus)
    if single.why in ("negated", "hypothetical", "reported", "capability", "later"):
        return [single]
    frames: list[Frame] = []
    for part in _parts(whole):
        sentence = Sentence(hear(part, language, world))
        frame = frame_of(sentence, world, None)
        nouns = words.CAMPAIGN | words.CAMPAIGNS | words.AUDIENCE
        vague = not frames and frame.operation in READS and not (sentence.has_ref() or sentence.has(nouns))
        if not frame.operation or frame.why or vague:
            return [single]
        if frames and frame.operation not in _ALLOWED_AFTER[frames[-1].operation]:
            return [single]
        if not sentence.has_ref() and frame.operation not in ("create_campaign", "list_campaigns"):
            if frames:
                frame.slots["previous"] = True
            elif focus and points_back(sentence):
                frame.slots["campaign"] = focus
        frames.append(frame)
    return frames if len(frames) > 1 else [single]


def _parts(sentence: Sentence) -> list[str]:
    """The message cut before each further verb that follows a comma, "and", "then" and the like."""
    cuts: list[int] = []
    for act in sentence.acts[1:]:
        start = sentence.tokens[act.at].start
        between = [m for m in _BETWEEN.finditer(sentence.masked, 0, start)]
        if not between:
            continue
        gap = sentence.masked[between[-1].end() : start].replace("\u0001", "")
        if len(gap.split()) <= 3 and not any(mark in gap for mark in MARKS):
            cut = between[-1].start()
            before = [earlier for earlier in sentence.acts if sentence.tokens[earlier.at].start < cut]
            if before and (not cuts or cut > cuts[-1]):
                cuts.append(cut)
    text = sentence.heard.text
    edges = [0, *cuts, len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    return [re.sub(r"(?i)^\W*(?:(?:y|and|then|luego|después|also|también|además)\b\W*)*", "", part) if at else part
            for at, part in enumerate(parts)]  # fmt: skip


def answer_to(frames: list[Frame], text: str, language: str, world: World, focus: str | None) -> list[Frame]:
    """The open requests with the answer put in, or the new requests that the message makes instead."""
    first = frames[0]
    asked = missing(first, world)
    said = bare_answer(text)
    if said == "no":
        return [Frame(why="cancelled")]
    if said == "yes":
        if asked == "campaign" and len(first.slots.get("candidates") or ()) == 1:
            first.slots["campaign"] = first.slots["candidates"][0]
        if asked == "owners":
            first.slots["adds_owner"] = False
        return frames
    fresh = interpret(text, language, world, focus)
    heard = hear(text, language, world)
    sentence = Sentence(heard)
    if _replaces(fresh[0], first, asked, sentence):
        return fresh
    fill(first, sentence, world, focus, asked)
    _choose(first, asked, heard, world)
    return frames


def _replaces(fresh: Frame, first: Frame, asked: str, sentence: Sentence) -> bool:
    if fresh.why in ("negated", "hypothetical", "reported", "capability", "later"):
        return True
    if not fresh.operation or fresh.operation == first.operation:
        # "borra la de verano" while asked which to delete says more than an answer, but asks for the same.
        return False
    if asked in ("title", "params", "name", "button") and not (
        sentence.has_ref() or sentence.has(words.CAMPAIGN | words.CAMPAIGNS)
    ):
        return False
    weak = fresh.operation in READS and not sentence.families & {"show"}
    return not weak


_ORDINALS = {
    "primera": 0, "primero": 0, "first": 0, "1": 0, "segunda": 1, "segundo": 1, "second": 1, "2": 1, "tercera": 2,
    "tercero": 2, "third": 2, "3": 2, "cuarta": 3, "fourth": 3, "4": 3, "ultima": -1, "last": -1, "ultimo": -1,
}  # fmt: skip


def _choose(frame: Frame, asked: str, heard: Heard, world: World) -> None:
    """An answer that only says which of those listed: "la primera", "verano", "ventas"."""
    slots = frame.slots
    if asked == "campaign" and not slots.get("campaign"):
        ids = slots.get("offered") or slots.get("candidates") or [str(c["id"]) for c in world.campaigns]
        options = [(str(c["id"]), str(c.get("title"))) for c in world.campaigns if str(c["id"]) in ids]
        if chosen := _pick(heard.text, options):
            slots["campaign"] = chosen
    elif asked == "channel" and len(slots.get("channels") or ()) != 1:
        options = [(str(c["id"]), str(c.get("name"))) for c in world.channels or ()]
        if chosen := _pick(heard.text, options):
            slots["channels"] = [chosen]
            slots.pop("unknown_channel", None)
    elif asked == "template":
        options = [(str(t["name"]), str(t["name"])) for t in world.templates or () if t.get("status") == "APPROVED"]
        key = "name" if frame.operation == "send_campaign" else "templateName"
        if not slots.get(key) and (chosen := _pick(heard.text, options)):
            slots[key] = chosen
        if slots.get(key):
            slots.pop("unknown_template", None)
    elif asked == "agent":
        slots.pop("agent_name" if slots.get("agent") else "", None)


def _pick(text: str, options: Sequence[tuple[str, str]]) -> str:
    said = [word for word in re.findall(r"[a-z0-9]+", fold(text))]
    scores = {}
    for name, label in options:
        known = set(re.findall(r"[a-z0-9]+", fold(label).replace("_", " ")))
        known |= {word[:-1] for word in known if word.endswith("s")}
        scores[name] = len({word for word in said if len(word) > 2 and word in known})
    best = max(scores.values(), default=0)
    winners = [name for name, score in scores.items() if score == best and best]
    if len(winners) == 1:
        return winners[0]
    places = {_ORDINALS[word] for word in said if word in _ORDINALS}
    if len(places) == 1 and len(said) <= 5:
        place = places.pop()
        return options[place][0] if -len(options) <= place < len(options) else ""
    return ""


# What comes next.


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Do:
    name: str
    arguments: dict[str, Json]


class Mind:
    """One decision: from the whole conversation to the next words or the next call."""

    def __init__(self, conversation: Conversation, clock: Callable[[], datetime] | None) -> None:
        self.turns = conversation.turns
        self.turn = self.turns[-1]
        self.language = _language(self.turns)
        self.world = _world(conversation.data, clock)
        self.words = Answers(self.language, self.world)
        self.open = _open_since(self.turns)

    def next(self) -> Say | Do:
        text = self.turn.text
        if self.turn.too_long:
            return Say(self.words.say("too_long", most=LONGEST))
        if not self.turn.steps and self.open == len(self.turns) - 1 and (small := small_talk(text)):
            return Say(self.words.small(small))
        if (direct := self._following_page() or self._direct_list()) is not None:
            return self._work([direct], self.turn.steps)
        catalogue = look_up(self.turn.steps)
        if catalogue.failure:
            return Say(self.words.no_list(catalogue.failure))
        if not self.turn.steps and not self._concerns_us():
            return Say(self.words.unclear())
        if catalogue.next_offset is not None:
            page: dict[str, Json] = {"limit": PAGE}
            return Do("list_campaigns", page | ({"offset": catalogue.next_offset} if catalogue.next_offset else {}))
        self.world = World(self.world.now, self.world.channels, self.world.templates, catalogue.campaigns)
        self.words = Answers(self.language, self.world)
        return self._work(self._frames(), self.turn.steps[catalogue.used :])

    def _following_page(self) -> Frame | None:
        """What our own "there are more" told to ask for: more of the list or audience shown last, in its order."""
        said = _HINTED.fullmatch(re.sub(r"[\s\"',;.:¡!¿?]+", " ", fold(self.turn.text)).strip())
        shown = _shown_last(self.turns[:-1])
        if said is None or shown is None or self.open < len(self.turns) - 1:
            return None
        listing = shown.name == "list_campaigns"
        if (said["campaigns"] and not listing) or (said["people"] and listing):
            return None
        slots: dict[str, Any] = {"limit": int(said["limit"]), "offset": int(said["offset"])}
        slots |= {key: value for key, value in shown.arguments.items() if key in ("sortBy", "sortDirection")}
        return Frame(shown.name, slots={**slots, "campaign": shown.arguments.get("campaignId")})

    def _direct_list(self) -> Frame | None:
        """A request for the list in words that are all known, so that no title can hide in it."""
        if self.open < len(self.turns) - 1:
            return None
        sentence = Sentence(
            hear(self.turn.text, self.language, World(self.world.now, self.world.channels, self.world.templates))
        )
        allowed = words.known_words() | words.verbs().keys()
        extra = {token.word for token in sentence.tokens if token.word.isalpha() and token.word not in allowed}
        if extra - _LIST_WORDS or not sentence.has(words.CAMPAIGNS) or sentence.heard.quotes:
            return None
        frame = frame_of(sentence, self.world, None)
        return frame if frame.operation == "list_campaigns" else None

    def _concerns_us(self) -> bool:
        if self.open < len(self.turns) - 1:
            return True
        sentence = Sentence(hear(self.turn.text, self.language, self.world))
        nouns = (
            words.CAMPAIGN | words.CAMPAIGNS | words.AUDIENCE | words.DETAILS | words.PERSON | frozenset(words.FIELD_OF)
        )
        spoken = sentence.families | sentence.mentioned or sentence.negated
        asking = words.ASKING.search(sentence.masked) or words.PEOPLE_QUESTION.search(sentence.masked)
        return bool(spoken or sentence.has(nouns) or asking or sentence.heard.phones)

    def _frames(self) -> list[Frame]:
        """The requests that stand now: those of this message, or open ones with this message's answer put in."""
        frames: list[Frame] = []
        for at in range(self.open, len(self.turns)):
            turn = self.turns[at]
            focus = _focus(self.turns[:at], self.world, self.language)
            if frames and frames[0].operation and missing(frames[0], self.world):
                frames = answer_to(frames, turn.text, self.language, self.world, focus)
            else:
                frames = interpret(turn.text, self.language, self.world, focus)
            if at < len(self.turns) - 1:
                frames = _left(frames, turn)
                self._offer(frames)
        return frames or [Frame(why="unclear")]

    def _offer(self, frames: Sequence[Frame]) -> None:
        if frames and frames[0].operation and not frames[0].slots.get("campaign"):
            shown = frames[0].slots.get("candidates") or [str(c["id"]) for c in self.world.campaigns]
            frames[0].slots["offered"] = shown

    def _work(self, frames: Sequence[Frame], steps: Sequence[Step]) -> Say | Do:
        left = list(steps)
        done: list[Step] = []
        produced: str | None = None
        for frame in frames:
            if not frame.operation:
                return Say(self.words.explain(frame, self.turn.text))
            if frame.slots.get("previous") and produced:
                frame.slots["campaign"] = produced
                self._learn(done)
            if need := missing(frame, self.world):
                return Say(self.words.after(done, self.words.ask(frame, need)))
            for arguments in arguments_of(frame, self.world):
                if not left:
                    return Do(frame.operation, arguments)
                step = left.pop(0)
                done.append(step)
                if step.outcome != "done":
                    return Say(self.words.report(done))
                produced = _touched(step) or produced
        return Say(self.words.report(done))

    def _learn(self, done: Sequence[Step]) -> None:
        """What a call of this turn created counts as known."""
        made = [_data(step) for step in done if step.name == "create_campaign" and _data(step).get("id")]
        self.world = World(self.world.now, self.world.channels, self.world.templates, [*self.world.campaigns, *made])
        self.words = Answers(self.language, self.world)


_HINTED = re.compile(
    r"(?:(?:ask me for|show me|give me|show|get|list|and|now|please|pideme|dame|muestrame|ensename|quiero|ver|y|ahora|"
    r"por favor) )*(?:the |las |los )?(?:next |siguientes )?(?P<limit>\d{1,3}) "
    r"(?:(?:(?P<campaigns>campanas|campaigns)|(?P<people>contactos|contacts|personas|people)) )?"
    r"(?:a partir de(?: la|l)?|skip(?: the)?(?: first)?) (?P<offset>\d{1,6})(?: please| por favor| gracias| thanks)?"
)


def _shown_last(turns: Sequence[Turn]) -> Step | None:
    """The page of campaigns or people that a person saw last."""
    for turn in reversed(turns[-10:]):
        for step in reversed(turn.steps):
            if step.name in ("list_campaigns", "get_campaign_audience") and step.outcome == "done" and not turn.asked:
                return step
    return None


_LIST_WORDS = words.word_set(
    "alfabeticamente alfabetico alphabetically alphabetical orden order recientes reciente recent recently creadas "
    "created "
    "creacion creation fecha date siguientes next primeras primeros ultimas ultimos ultima first last latest top "
    "partir "
    "saltandote saltate skip skipping starting bloque bloques pagina page paginas pages newest oldest antigua antiguas "
    "nuevas limit offset existen exist registradas workspace listado rundown remind recientemente actualizadas updated "
    "actualizacion segundo segunda disponibles available activas active hubo ascendente descendente titulo z b c "
    "osea sea "
    "empezando comenzando ultimamente lately registered modified modificadas catalogo catalog inventario inventory "
    "running "
    "corriendo vigentes aver haber porfis heyy hiya dado dadas saltando brinca omitiendo omite limite maximo resultados"
)


def _open_since(turns: Sequence[Turn]) -> int:
    """Where the exchange of questions and answers that is still open began."""
    at = len(turns) - 1
    while at > 0 and turns[at - 1].asked and at > len(turns) - 8:
        at -= 1
    return at


def _left(frames: list[Frame], turn: Turn) -> list[Frame]:
    """The requests of an earlier message that were not carried out yet."""
    done = [step for step in turn.steps[look_up(turn.steps).used :] if step.outcome == "done"]
    left = frames[len(done) :] if done else frames
    if left and left[0].slots.get("previous") and done and (campaign := _touched(done[-1])):
        left[0].slots["campaign"] = campaign
    return left


def _language(turns: Sequence[Turn]) -> str:
    language = "es"
    for turn in turns[-6:]:
        unquoted = re.sub(r"\"[^\"]*\"|“[^”]*”|«[^»]*»", " ", turn.text)
        if not turn.text.startswith("campaign-agent call "):
            language = words.language_of(unquoted, language)
    return language


def _world(data: Mapping[str, Json], clock: Callable[[], datetime] | None) -> World:
    try:
        zone: Any = ZoneInfo(str(data.get("timezone") or "America/Mexico_City"))
    except (ZoneInfoNotFoundError, ValueError):
        zone = timezone(timedelta(hours=-6))
    try:
        given = datetime.fromisoformat(str(data.get("now") or ""))
        now = given.astimezone(zone) if given.tzinfo else given.replace(tzinfo=zone)
    except ValueError:
        now = datetime.now(UTC).astimezone(zone)
    if clock is not None:
        now = clock().astimezone(zone)
    channels, templates = data.get("channels"), data.get("templates")
    return World(
        now,
        [c for c in channels if isinstance(c, dict) and c.get("id")] if isinstance(channels, list) else None,
        [t for t in templates if isinstance(t, dict) and t.get("name")] if isinstance(templates, list) else None,
    )


def _data(step: Step) -> dict[str, Json]:
    result = (step.answer or {}).get("result")
    data = result.get("data") if isinstance(result, dict) else None
    return data if isinstance(data, dict) else {}


def _touched(step: Step) -> str | None:
    if step.name == "create_campaign":
        return str(_data(step)["id"]) if _data(step).get("id") else None
    campaign = step.arguments.get("campaignId")
    return str(campaign) if campaign else None


def _focus(turns: Sequence[Turn], world: World, language: str) -> str | None:
    """The campaign last named or touched, when that turn had exactly one."""
    for turn in reversed(turns[-10:]):
        ids = {touched for step in turn.steps if (touched := _touched(step))}
        if not ids and not turn.too_long and not turn.text.startswith("campaign-agent call "):
            ids = {str(c["id"]) for c in hear(turn.text, language, world).campaigns}
        if ids:
            return ids.pop() if len(ids) == 1 else None
    return None


def bare_answer(text: str) -> str:
    """ "yes" or "no" for a message that is nothing else."""
    plain = re.sub(r"\s+", " ", re.sub(r"[^\w\s']", " ", fold(text))).strip()
    for name, pattern in (("yes", words.YES.pattern), ("no", words.NO.pattern)):
        if re.fullmatch(rf"(?:{pattern})(?: (?:{pattern}|gracias|thanks))*", plain):
            return name
    return ""


def small_talk(text: str) -> str:
    """ "greeting", "thanks", "yes", "no" or "help" for a message that is nothing else, "" for any other."""
    plain = re.sub(r"\s+", " ", re.sub(r"[^\w\s']", " ", fold(text))).strip()
    if not plain:
        return "unclear"
    if answer := bare_answer(text):
        return answer
    if re.fullmatch(rf"(?:{words.GREETING.pattern})(?: (?:{words.GREETING.pattern}))*", plain):
        return "greeting"
    if re.fullmatch(rf"(?:(?:ok|va|sale|bueno|{words.THANKS.pattern}) ?)+", plain):
        return "thanks"
    if re.search(words.HELP, plain) and len(plain.split()) <= 12 and not re.search(r"\d{4}|campan|campaign", plain):
        sentence_words = set(plain.split())
        orders = any(
            mood == COMMAND and family not in ("show", "put")
            for w in sentence_words
            for family, mood in words.verbs().get(w, ())
        )
        if not sentence_words & (words.AUDIENCE | words.PERSON) and not orders:
            return "help"
    if len(plain.split()) <= 10 and re.search(
        r"\b(que (mas )?(puedes|sabes) hacer|what (else )?can you do|quien eres|who are you|what are you)\b", plain
    ):
        return "help"
    return ""


# Words of ours.


class Answers:
    """What is said, in one language, from what tools reported and from nothing else."""

    def __init__(self, language: str, world: World) -> None:
        self.language, self.world = language, world
        self.text = words.SAID_ES if language == "es" else words.SAID_EN
        self.examples = words.EXAMPLES[language]

    def say(self, key: str, **data: Json) -> str:
        return self.text[key].format(**data)

    def small(self, kind: str) -> str:
        if kind in ("greeting", "help"):
            return self.help()
        return self.unclear() if kind == "unclear" else self.say(kind)

    def help(self) -> str:
        lines = [f"- {self.examples[key]}" for key in ("list", "create", "add", "send")]
        return "\n".join([self.say("help"), *lines, self.say("gate"), self.say("setup")])

    def unclear(self) -> str:
        return "\n".join([self.say("unclear"), *(f"- {self.examples[key]}" for key in ("list", "add", "send"))])

    def explain(self, frame: Frame, text: str) -> str:
        if frame.why in ("hypothetical", "reported", "capability", "later"):
            return self.say(frame.why, example=self._nearest(text)) + " " + self.say("gate")
        if frame.why in ("negated", "cancelled"):
            return self.say(frame.why)
        return self.doubtful() if frame.why == "doubtful" else self.unclear()

    def doubtful(self) -> str:
        return "\n".join([self.say("doubtful"), *(f"- {example}" for example in self.examples.values())])

    def _nearest(self, text: str) -> str:
        plain = fold(text)
        for key, pattern in (
            ("clear", r"vaci|limpi|clear|empty"), ("delete", r"borr|elimin|delet|remov|quit"),
            ("send", r"mand|envi|send|program|schedul|lanz|launch"), ("add", r"agreg|anad|\badd|sum"),
            ("create", r"\bcre|\bmake"),
        ):  # fmt: skip
            if re.search(pattern, plain):
                return self.examples[key]
        return self.examples["list"]

    # Questions.

    def ask(self, frame: Frame, need: str) -> str:
        """One short question, its choices below it. It must open with a line that ends in "?"."""
        slots = frame.slots
        if need == "campaign":
            return self._ask_campaign(slots)
        if need == "channel":
            return self._ask_channel(slots)
        if need == "template":
            key = "unknown_template" if slots.get("unknown_template") else "template"
            return self._listed(self.say(key, template=slots.get("unknown_template")), self._approved())
        if need == "params":
            return self._ask_params(slots)
        if need == "button":
            return self._ask_button(slots)
        if need == "file":
            return self.say("file", kind=self._header(slots))
        if need == "time":
            return self.say("past" if slots.get("past") else "time")
        if need == "name":
            unnamed = next(p["phoneNumber"] for p in slots["people"] if not p["name"])
            return self.say("name", phone=unnamed)
        return self.say(need, owners=", ".join(slots.get("owners") or ()))

    def _ask_campaign(self, slots: Mapping[str, Any]) -> str:
        ids = slots.get("candidates") or [str(c["id"]) for c in self.world.campaigns]
        shown = [campaign_line(c) for c in self.world.campaigns if str(c["id"]) in ids]
        if not shown:
            return self.say("no_campaigns")
        unknown = str(slots.get("unknown") or "")
        if slots.get("candidates"):
            return self._listed(self.say("maybe" if len(shown) == 1 else "candidates"), shown)
        return self._listed(self.say("unknown", unknown=unknown[:80]) if unknown else self.say("campaign"), shown)

    def _ask_channel(self, slots: Mapping[str, Any]) -> str:
        if not self.world.channels:
            return self.say("no_channels") if self.language else ""
        lines = [f"{c.get('name')} · {c.get('number')} · {c['id']} "
            f"({self.say('connected' if c.get('connected') else 'disconnected')})"
                 for c in self.world.channels]  # fmt: skip
        if slots.get("unknown_channel"):
            return self._listed(self.say("unknown_channel", channel=slots["unknown_channel"]), lines)
        return self._listed(self.say("channels" if slots.get("channels") else "channel"), lines)

    def _approved(self) -> list[str]:
        return [str(t["name"]) for t in self.world.templates or () if t.get("status") == "APPROVED"]

    def _template_of(self, slots: Mapping[str, Any]) -> str:
        campaign = campaign_of(slots, self.world)
        return str(slots.get("name") or campaign.get("templateName") or "?")

    def _ask_params(self, slots: Mapping[str, Any]) -> str:
        name = self._template_of(slots)
        wanted = variables(name, self.world)
        if not wanted:
            return self.say("params_left", template=name, given=len(slots.get("params") or ()))
        content = str((template_named(name, self.world) or {}).get("content") or "")
        return self._listed(self.say("params", template=name, count=wanted), [content])

    def _ask_button(self, slots: Mapping[str, Any]) -> str:
        name = self._template_of(slots)
        at = _open_button(slots, self.world) or 0
        button = dynamic_buttons(name, self.world)[at]
        question = self.say("button", index=at, button=_flat(button.get("text")), template=name)
        return self._listed(question, [str(button.get("url"))])

    def _header(self, slots: Mapping[str, Any]) -> str:
        header = (template_named(self._template_of(slots), self.world) or {}).get("header")
        kind = str(header.get("type") if isinstance(header, dict) else header).upper()
        spanish = {"IMAGE": "una imagen", "VIDEO": "un video", "DOCUMENT": "un documento"}
        english = {"IMAGE": "an image", "VIDEO": "a video", "DOCUMENT": "a document"}
        return (spanish if self.language == "es" else english).get(kind, kind)

    @staticmethod
    def _listed(question: str, lines: Sequence[str]) -> str:
        return "\n".join([question, *(f"- {line}" for line in lines[:20])])

    # Results.

    def after(self, done: Sequence[Step], question: str) -> str:
        """A question that follows what was done; the question stays first, since that is how it is known again."""
        return f"{question}\n\n{self.report(done)}" if done else question

    def report(self, done: Sequence[Step]) -> str:
        return "\n\n".join(self._report(step) for step in done) if done else self.unclear()

    def _report(self, step: Step) -> str:
        if step.outcome != "done":
            return self._not_done(step)
        match step.name:
            case "list_campaigns":
                return self._campaigns(step)
            case "get_campaign":
                return self._campaign(step)
            case "get_campaign_audience":
                return self._people(step)
        return self._written(step)

    def _not_done(self, step: Step) -> str:
        answer = step.answer or {}
        reason = str(answer.get("reason") or "")
        if step.outcome == "denied":
            return self.say("denied", reason=self.say("reason", reason=reason) if reason else "")
        if step.outcome == "unknown":
            check = self.say("check_send" if step.name == "send_campaign" else "check_other")
            text = self.say("unknown_outcome", check=check)
        else:
            text = self.say(step.outcome if step.outcome in self.text else "not_run")
        message = str(answer.get("message") or answer.get("error") or "")
        return (
            f"{text} {message}".strip()
            if message and step.outcome not in ("expired", "superseded", "drifted")
            else text
        )

    def no_list(self, step: Step) -> str:
        message = str((step.answer or {}).get("message") or "")
        return f"{self.say('no_list')} {message}".strip()

    def _campaigns(self, step: Step) -> str:
        lines = [f"- {campaign_line(c)}" for c in _records(step.answer, "campaigns")]
        if (offset := _next_offset(step)) is not None:
            lines.append(self.say("more", limit=step.arguments.get("limit") or 50, offset=offset))
        return "\n".join(lines) or self.say("empty_list")

    def _campaign(self, step: Step) -> str:
        found = _records(step.answer, "campaigns")
        if not found:
            return self.say("done")
        campaign = found[0]
        rows = (
            ("category_label", campaign.get("category")),
            ("template_label", campaign.get("templateName") or self.say("none")),
            ("owners_label", ", ".join(map(str, campaign.get("owners") or ())) or self.say("none")),
            ("language_label", campaign.get("language")), ("platform_label", campaign.get("platform")),
            ("message_label", campaign.get("message")),
            ("created_label", self._when(campaign.get("creationDate"))),
            ("updated_label", self._when(campaign.get("lastUpdate"))),
        )  # fmt: skip
        lines = [f"- {self.say(label)}: {_flat(value)}" for label, value in rows if value]
        return "\n".join([f"**{_flat(campaign.get('title'))}** · {campaign.get('id')}", *lines])

    def _when(self, iso: Json) -> str:
        try:
            return datetime.fromisoformat(str(iso)).astimezone(self.world.now.tzinfo).strftime("%Y-%m-%d %H:%M")
        except ValueError:
            return str(iso or "")

    def _people(self, step: Step) -> str:
        people = _records(step.answer, "clients")
        if not people:
            return self.say("no_people")
        lines = [f"- {_flat(person.get('name')) or '?'} · {person.get('phoneNumber') or '?'}" for person in people]
        offset = _next_offset(step)
        more = (
            [self.say("more_people", limit=step.arguments.get("limit") or 50, offset=offset)]
            if offset is not None
            else []
        )
        return "\n".join([self.say("people", count=len(people)), *lines, *more])

    def _written(self, step: Step) -> str:
        data = _data(step)
        count = data.get("removedCount", data.get("addedCount"))
        match step.name:
            case "create_campaign":
                return self.say(
                    "created", title=_flat(data.get("title") or step.arguments.get("title")), id=data.get("id") or "?"
                )
            case "update_campaign":
                return self.say("updated")
            case "delete_campaign":
                return self.say("deleted")
            case "add_campaign_audience":
                return self.say("added", count=count) if count is not None else self.say("done")
            case "remove_campaign_audience_client":
                return self._counted("removed", "nobody_removed", count)
            case "clear_campaign_audience":
                return self._counted("cleared", "nobody_cleared", count)
            case "send_campaign":
                dates = (step.arguments.get("template") or {}).get("scheduledDates")
                return self.say("scheduled" if dates else "sent")
        return self.say("done")

    def _counted(self, key: str, nobody: str, count: Json) -> str:
        if count is None:
            return self.say("done")
        return self.say(key, count=count) if count else self.say(nobody)


def _flat(value: Json) -> str:
    """Text of others on one line, with nothing in it that Markdown would act on."""
    flat = re.sub(r"\s+", " ", str(value if value is not None else "")).strip()
    return re.sub(r"([*`\[\]<>|])", r"\\\1", flat)


def campaign_line(campaign: Mapping[str, Json]) -> str:
    parts = (campaign.get("title"), campaign.get("category"), campaign.get("templateName") or "—", campaign.get("id"))
    return " · ".join(_flat(part) for part in parts)


class RuleModel:
    """A stand-in for a language model, without a key and without a network. `clock` returns an aware time."""

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._clock = clock

    @property
    def name(self) -> str:
        return NAME

    async def aclose(self) -> None:
        """Nothing to close."""

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        conversation = read_conversation(array(messages))
        if not conversation.turns:
            conversation.turns.append(Turn("hola"))
        answer = Mind(conversation, self._clock).next()
        if isinstance(answer, Do):
            turn = conversation.turns[-1]
            call = Call(
                f"rule_{len(conversation.turns)}_{len(turn.steps)}",
                answer.name,
                json.dumps(answer.arguments, ensure_ascii=False),
            )
            yield Completion("", (call,), "tool_calls")
            return
        for piece in _pieces_of(answer.text):
            yield piece
        yield Completion(answer.text, (), "stop")


def _pieces_of(text: str) -> Iterator[str]:
    return iter(re.findall(r"\s*\S+\s*?(?=\s|$)|\s+$", text))
