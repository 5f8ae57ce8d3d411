"""What a sentence holds besides its verb: campaigns, phones, names, dates, parameters, channels, templates, limits."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from agent.domain import Json
from agent.phones import to_e164
from agent.sandbox import words
from agent.sandbox.words import fold, spelled

REF, PHONE, URL, MAIL, TEMPLATE, CHANNEL, DATE, PARAMS, QUOTE, AGENT, FLAG, NAME = map(chr, range(0xE000, 0xE00C))
MARKS = REF + PHONE + URL + MAIL + TEMPLATE + CHANNEL + DATE + PARAMS + QUOTE + AGENT + FLAG + NAME
_GAP = "\u0001"


@dataclass(frozen=True, slots=True)
class World:
    """What is known besides the sentence. `templates` None: they can't be read with this key."""

    now: datetime
    channels: Sequence[Json] | None = None
    templates: Sequence[Json] | None = None
    campaigns: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Token:
    word: str
    start: int
    end: int


@dataclass(slots=True)
class Heard:
    """One sentence with everything found in it. `masked` is as long as `text`: a mark stands for each thing found."""

    text: str
    language: str
    masked: str = ""
    campaigns: list[Json] = field(default_factory=list)
    candidates: list[Json] = field(default_factory=list)
    unknown: str = ""
    phones: list[tuple[str, int, int]] = field(default_factory=list)
    people: list[dict[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    quotes: list[tuple[str, int, int]] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    unknown_template: str = ""
    channels: list[str] = field(default_factory=list)
    unknown_channel: str = ""
    agents: list[str] = field(default_factory=list)
    params: list[str] | None = None
    buttons: list[tuple[int | None, str]] = field(default_factory=list)
    unbuttoned: str = ""
    flags: dict[str, bool] = field(default_factory=dict)
    media: str | None = None
    moments: list[datetime] = field(default_factory=list)
    day_without_time: bool = False
    past: bool = False
    unread_time: bool = False
    undated: str = ""

    def mask(self, start: int, end: int, mark: str) -> None:
        self.masked = self.masked[:start] + mark + _GAP * (end - start - 1) + self.masked[end:]

    def tokens(self) -> list[Token]:
        return tokens(self.masked)


def tokens(masked: str) -> list[Token]:
    found = re.finditer(rf"[a-z]+(?:'[a-z]+)?|\d+|[{MARKS}]|[^\s{_GAP}\w]", masked)
    return [Token(spelled(match[0]), match.start(), match.end()) for match in found]


def hear(text: str, language: str, world: World) -> Heard:
    heard = Heard(text, language, fold(text))
    _quoted_orders(heard, world)
    _plain_things(heard)
    _buttons(heard)
    _ids(heard, world)
    _parameters(heard, world)
    _flags(heard)
    _phones(heard, world)
    _quotes(heard, world)
    _templates(heard, world)
    _exact_titles(heard, world)
    _channels(heard, world)
    _new_title(heard, world)
    heard.undated = heard.masked
    _dates(heard, world)
    _partial_titles(heard, world)
    _media(heard)
    return heard


def _each(heard: Heard, pattern: str) -> Iterable[re.Match[str]]:
    return list(re.finditer(pattern, heard.masked))


def _plain_things(heard: Heard) -> None:
    for match in _each(heard, r"https?://[^\s<>\"]+"):
        end = match.start() + len(match[0].rstrip(".,;:!?)»'"))
        heard.urls.append(heard.text[match.start() : end])
        heard.mask(match.start(), end, URL)
    for match in _each(heard, r"[\w.+-]+@[\w-]+(\.[\w-]+)+"):
        heard.mails.append(heard.text[match.start() : match.end()])
        heard.mask(match.start(), match.end(), MAIL)


_BUTTON = (
    r"(?:\b(?:y|and|with|con|el|la|the|para|for|de|del|on|en) +|, *)*\b(?:boton|button)\b"
    r"(?: +(?:numero |number |#)?(?P<index>\d{1,2})\b)?"
    r"(?: +(?:con|with|as|como|the|el|is|es|a|to|set|of|de|su|its))*"
    r"(?P<cue>(?: +(?:valor|value|parametro|parameter|texto|text))?(?: +(?:is|es|de|of|as|como))? *[:=]? *)"
    r'(?:"(?P<quoted>[^"\n]{1,200})"|(?P<word>[^\s",;]+))'
)
_VALUE_OF_BUTTON = (
    r"(?:\b(?:y|and|with|con|el|the) +|, *)*\b(?:valor|value) +(?P<cue>)"
    r'(?:"(?P<quoted>[^"\n]{1,200})"|(?P<word>[^\s",;]+))'
    r" +(?:para|for|en|in|on|of|de|del)(?: +(?:el|the))? *(?:boton|button)\b"
    r"(?: +(?:numero |number |#)?(?P<index>\d{1,2})\b)?"
)


def _buttons(heard: Heard) -> None:
    """The values of a template's buttons: 'button 0 value "otono"', "valor «otono» para el botón 0"."""
    heard.unbuttoned = heard.text
    for pattern in (_VALUE_OF_BUTTON, _BUTTON):
        for match in _each(heard, pattern):
            group = "quoted" if match["quoted"] else "word"
            if group == "word" and pattern == _BUTTON and not match["cue"].strip():
                continue
            start, end = match.span(group)
            value = heard.text[start:end].strip() if match["quoted"] else heard.text[start:end].rstrip(".!?)")
            if not value or any(mark in heard.masked[start:end] for mark in MARKS):
                continue
            heard.buttons.append((int(match["index"]) if match["index"] else None, value))
            heard.mask(match.start(), match.end(), FLAG)
            blank = " " * (match.end() - match.start())
            heard.unbuttoned = heard.unbuttoned[: match.start()] + blank + heard.unbuttoned[match.end() :]


def dynamic_buttons(name: str | None, world: World) -> dict[int, Json]:
    """The buttons of a template that take a value, by their index."""
    listed = (template_named(name, world) or {}).get("buttons")
    shown = enumerate(listed if isinstance(listed, list) else [])
    return {at: one for at, one in shown if isinstance(one, dict) and "{{" in str(one.get("url") or "")}


def _quoted_orders(heard: Heard, world: World) -> None:
    """A whole order in quotes is somebody's words: nothing in it is asked for."""
    titles = {_key(str(campaign.get("title"))) for campaign in world.campaigns}
    for match in _each(heard, r'"([^"\n]{12,300})"'):
        said = re.findall(r"[a-z]+", match[1])
        orders = any(mood == words.COMMAND for word in said[:2] for _, mood in words.verbs().get(word, ()))
        if orders and len(said) > 3 and _key(match[1]) not in titles:
            heard.quotes.append((heard.text[match.start(1) : match.end(1)].strip(), match.start(), match.end()))
            heard.mask(match.start(), match.end(), QUOTE)


def _ids(heard: Heard, world: World) -> None:
    lower = heard.text.lower()
    for campaign in world.campaigns:
        name = str(campaign.get("id") or "")
        if name.lower() not in lower:
            continue
        for match in re.finditer(rf"(?<![\w-]){re.escape(name)}(?![\w-])", heard.text, re.IGNORECASE) if name else ():
            _refer(heard, campaign, match.start(), match.end())
    for match in _each(heard, r"\bagt_\w+"):
        heard.agents.append(heard.text[match.start() : match.end()])
        heard.mask(match.start(), match.end(), AGENT)
    known = {str(channel.get("id", "")).lower(): str(channel["id"]) for channel in world.channels or ()}
    for match in _each(heard, r"\b(wb|fb|ig)[- ]?\d\w*"):
        name = re.sub(r"^(wb|fb|ig)[- ]?", r"\1-", match[0])
        if name in known or world.channels is None:
            heard.channels.append(known.get(name, name))
        else:
            heard.unknown_channel = heard.text[match.start() : match.end()]
        heard.mask(match.start(), match.end(), CHANNEL)


def _refer(heard: Heard, campaign: Json, start: int, end: int) -> None:
    if all(one.get("id") != campaign.get("id") for one in heard.campaigns):
        heard.campaigns.append(campaign)
    heard.mask(start, end, REF)


# Parameters of a template.

_PARAMETERS = (
    r"\b(?:(?:con |with |y |and |using |usando |de |the |los |las |el |la |as |como )*)"
    r"(?:parametros?|params?|parameters?|parms?|variables?|valores|values|placeholders?)\b"
    r"(?: (?:de la plantilla|del template|son|are|is|es|seran?|de|siguientes|of|being|para la plantilla|for the "
    r"template)\b)*"
    r"\s*[:=]?\s*\(?"
)
_STOP = re.compile(
    rf"[;\n{URL}{AGENT}{FLAG}]|\s[-–—]\s|[,\s]+(?:y |and )?(?:adjunt\w+|attach\w*)|[.!?)](?=\s|"
    rf"$)(?<!mr\.)(?<!sr\.)(?<!ra\.)(?<!dr\.)(?<!rs\.)(?<!ms\.)|"
    rf"[,\s]+(?:y |and |e )?(?:(?:por|via|desde|from|through|over|en|on|con|with|to|sobre|using|usando|mediante|a "
    rf"traves de|"
    rf"out of)\s+)?(?:el |la |the |su |its |un |una |an? |mi |my |nuestro |our )*"
    rf"(?:canal|channel|plantilla|template|imagen|image|picture|foto|photo|video|documento|document|pdf|archivo|file|"
    rf"header|encabezado|{CHANNEL}|responde|responda|respond|sender|remitente|media|que (?:{AGENT}|responda|"
    rf"conteste|salga|"
    rf"atienda|la|lo|se)|have |let |sin (?:los|numeros|mandar|enviar|incluir)|no (?:a|mand|envi|problem|undeliv)|"
    rf"excluding|skip|without|except|salta|excepto|menos|numero|line|linea|agente|agent|gracias|please|por favor|"
    rf"porfa|xfa|thanks|para (?:el|la|que|hoy|manana|pasado|este)|programad[ao]|scheduled|schedule|agendad[ao]|"
    rf"programalo|prograla|programala|exclu\w+|omit\w*|send(?:ing)? |manda\w* |envia\w* |go(?:ing)? out)"
)


def _parameters(heard: Heard, world: World) -> None:
    as_values = (
        r"\b(?:con|with|using|usando)\s+((?:(?!\b(?:con|with|using|usando)\s).){1,120}?)\s+(?:como|as|de|for|"
        r"para)\s+(?:los |the |sus )?(?:parametros?|param(?:eter)?s?|valores|values|variables)\b"
    )
    if after := re.search(as_values, heard.masked):
        heard.params = split_values(heard.text[after.start(1) : after.end(1)])
        heard.mask(after.start(), after.end(), PARAMS)
        return
    cues = list(_each(heard, _PARAMETERS))
    for cue in cues:
        rest = heard.masked[cue.end() :]
        names = _channel_names(world)
        stop = _STOP.search(rest)
        end = stop.start() if stop else len(rest)
        for name in names:
            found = re.search(
                rf"[,\s]+(?:(?:por|via|desde|from|through|over|en|on|del|de|using)\s+(?:el |la |the "
                rf")?){re.escape(name)}\b",
                rest,
            )
            end = min(end, found.start()) if found else end
        body = heard.text[cue.end() : cue.end() + end]
        pieces = _pieces(body)
        pieces, used = _without_dates(pieces, body, heard, world)
        if not pieces:
            continue
        heard.params = [piece for piece, _, _ in pieces]
        heard.mask(cue.start(), cue.end() + used, PARAMS)
        return


def _pieces(body: str) -> list[tuple[str, int, int]]:
    """The items of "Ana, 20% y 30 de junio", with where they stand."""
    out: list[tuple[str, int, int]] = []
    pattern = r"\"[^\"]*\"|“[^”]*”|«[^»]*»|'[^']*'|(?:(?!,\s|,$|\s+(?:y|e|and|&)\s+|\s*\|\s*|\s/\s|[\"“«]).)+"
    for match in re.finditer(pattern, body, re.IGNORECASE):
        item = match[0].strip(" \t,.()/|")
        item = re.sub(r"^(?:y|and|e|&)\s+", "", item, flags=re.IGNORECASE)
        item = re.sub(r"^\d\s*[=:)]\s*|^\{\{\d\}\}\s*[=:]?\s*", "", item).strip("\"“”«»' ")
        if item and fold(item) not in ("y", "and", "e", "&"):
            out.append((item, match.start(), match.end()))
    return out


def _without_dates(
    pieces: list[tuple[str, int, int]], body: str, heard: Heard, world: World
) -> tuple[list[tuple[str, int, int]], int]:
    """The items, less a trailing "tomorrow at 10" that is the schedule's where the template has fewer variables."""
    wanted = _variables(heard, world)
    kept = list(pieces)
    while kept and (wanted is None or len(kept) > wanted):
        last = kept[-1][0]
        moments, _, spans = find_dates(fold(last), world.now, heard.language)
        if not moments or not (wanted is not None or spans[0][0] == 0):
            break
        if wanted is None and len(kept) == 1:
            break
        kept.pop()
    if kept and (wanted is None or len(kept) == wanted):
        # "30 de junio mañana a las 10": the last item ends where a schedule begins.
        item, start, _ = kept[-1]
        at = re.search(
            r"\s(?:(?:para|on|el|for|at|a) )?(?:hoy|manana|pasado manana|today|tomorrow|tonight)\b", fold(item)
        )
        if at:
            kept[-1] = (item[: at.start()].strip(), start, start + at.start())
    return kept, kept[-1][2] if kept else 0


def _variables(heard: Heard, world: World) -> int | None:
    """How many variables the template has that the sentence names, or that its campaign has saved."""
    names = {str(t.get("name")) for t in world.templates or ()}
    said = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", heard.masked)]
    if not said:
        campaigns = heard.campaigns or _titled(heard.masked, world)
        said = [str(c.get("templateName")) for c in campaigns if c.get("templateName") in names]
    return variables(said[0], world) if len(set(said)) == 1 else None


def _titled(masked: str, world: World) -> list[Json]:
    probe = Heard(masked, "es", masked)
    _exact_titles(probe, world)
    _partial_titles(probe, world)
    return probe.campaigns


def template_named(name: str | None, world: World) -> Json | None:
    return next((t for t in world.templates or () if t.get("name") == name), None) if name else None


def variables(name: str | None, world: World) -> int | None:
    """How many values a template takes; None when it isn't known."""
    template = template_named(name, world)
    if template is None:
        return None
    return len(set(re.findall(r"\{\{\s*(\d+)\s*\}\}", str(template.get("content") or ""))))


def split_values(text: str) -> list[str]:
    return [piece for piece, _, _ in _pieces(text)]


# Flags, media.

_PROBLEMATIC = (
    r"(?:(?:numeros?|numbers?|contactos?|contacts?|clientes?|personas?|ones|people|los|las|the|a|al|marcad[oa]s?|"
    r"marked|como|as|de|que sean|with|con|any|flagged|flageados)\s+)*(?:problematic[oa]?s?|problem\s+(?:numbers?|"
    r"contacts?)|problemas?|conflictivos?)"
)
_UNDELIVERABLE = (
    r"(?:(?:numeros?|numbers?|contactos?|contacts?|clientes?|personas?|ones|people|los|las|the|a|al|marcad[oa]s?|"
    r"marked|como|as|any|flagged)\s+)*(?:(?:no|in|imposibles de|not) ?entrega(?:bles?|dos)|undeliverables?|"
    r"undelivered|inalcanzables?|unreachable|imposibles? de entregar|inentregables?|que no (?:reciben|se pueden "
    r"entregar))"
)
_EXCLUDE = (
    r"(?:(?:y |and |pero |but )*(?:sin|no|excluye(?:ndo)?|excluding|exclude|excluir|skip(?:ping)?|omite|"
    r"omit(?:ting|ir)?|"
    r"omitiendo|salta(?:ndo|te)?|without|evita(?:ndo)?|avoid(?:ing)?|don't|dont|do not|ni|nor|or|leave out|leaving out|"
    r"deja(?:ndo)? fuera|not|except(?:o)?|excepto|menos|quita(?:ndo)?|never|nunca|descarta(?:ndo)?|ignora(?:ndo)?|"
    r"ignore|minus)\b(?:\s+(?:que|se|lo|la|le|les|mand\w+|envi\w+|send\w*|it|go|goes|vaya|incluy\w+|incluir|includ\w+|"
    r"to|a|los|las|the|deliver|message|messag\w+|contar|quiero|want|salga|llegue|tomar|tomes|consider\w*|en "
    r"cuenta)){0,6}\s+)"
)
_INCLUDE = (
    r"(?:(?:incluye(?:ndo)?|include|including|incluso|tambien|also|even|aunque)\b(?:\s+(?:to|a|los|las|the|send|"
    r"manda|it)){0,3}\s+)"
)


def _flags(heard: Heard) -> None:
    both = rf"({_PROBLEMATIC})\s*(?:,|y|e|ni|o|and|or|nor|ni a|y a|and to|or to)+\s*(?:a |to )?({_UNDELIVERABLE})"
    both_reversed = rf"({_UNDELIVERABLE})\s*(?:,|y|e|ni|o|and|or|nor|ni a|y a)+\s*(?:a |to )?({_PROBLEMATIC})"
    for lead, value in ((_EXCLUDE, False), (_INCLUDE, True)):
        for pattern, names in (
            (both, ("sendToProblematic", "sendToUndeliverable")),
            (both_reversed, ("sendToProblematic", "sendToUndeliverable")),
            (_PROBLEMATIC, ("sendToProblematic",)),
            (_UNDELIVERABLE, ("sendToUndeliverable",)),
        ):
            for match in _each(heard, rf"\b{lead}(?:{pattern})\b"):
                heard.flags |= dict.fromkeys(names, value)
                heard.mask(match.start(), match.end(), FLAG)


_KINDS = {
    "image": r"\b(imagen|imagenes|image|picture|foto|photo|banner|pic|jpg|png)\b",
    "video": r"\b(video|clip|mp4)\b",
    "document": r"\b(documento|document|pdf|doc|archivo|file|factura)\b",
}
_ENDINGS = {"image": ("jpg", "jpeg", "png", "gif", "webp"), "video": ("mp4", "mov", "3gp", "avi"),
            "document": ("pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt", "csv")}  # fmt: skip


def _media(heard: Heard) -> None:
    """The kind of the file: the word beside its address, else the ending of the address."""
    if not heard.urls:
        return
    before = heard.masked[: heard.masked.find(URL)]
    near = [(match.start(), kind) for kind, pattern in _KINDS.items() for match in re.finditer(pattern, before)]
    ending = heard.urls[0].split("?")[0].rpartition(".")[2].lower()
    by_ending = [kind for kind, endings in _ENDINGS.items() if ending in endings]
    close = [kind for at, kind in sorted(near) if at > len(before) - 40]
    heard.media = (close[-1:] or by_ending or [kind for _, kind in sorted(near)][-1:] or [None])[0]  # type: ignore[list-item]


# Phones and the people they belong to.


def _phones(heard: Heard, world: World) -> None:
    for match in _each(heard, r"(?<![\w/.,-])\+?\(?\+?\d(?:[\s().\-\u2010-\u2015]{0,3}\d){7,14}(?!\d)"):
        text, end = heard.text[match.start() : match.end()], match.end()
        groups = list(re.finditer(r"\d+", text))
        digits = re.sub(r"\D", "", text)
        if len(digits) > 10 and "+" not in text and not re.match(r"(00)?52|0(44|45|1)|1", digits):
            ends = [g.end() for g in groups if sum(len(h[0]) for h in groups if h.end() <= g.end()) == 10]
            text, end = (text[: ends[0]], match.start() + ends[0]) if ends else (text, end)
        if not 10 <= len(re.sub(r"\D", "", text)) <= 15:
            continue
        try:
            phone = to_e164(text.lstrip("("))
        except ValueError:
            continue
        own = [c for c in world.channels or () if re.sub(r"\D", "", str(c.get("number") or "")) == phone.lstrip("+")]
        if own:
            heard.channels.append(str(own[0]["id"]))
        else:
            heard.phones.append((phone, match.start(), end))
        heard.mask(match.start(), end, CHANNEL if own else PHONE)


_PARTICLES = {"de", "la", "del", "los", "las", "von", "van", "da", "san", "santa", "y"}
_TITLES = {"don", "dona", "sr", "sra", "srta", "dr", "dra", "mr", "mrs", "ms", "ing", "lic", "prof", "miss"}
_NOT_NAMES = {
    "tel",
    "ok",
    "num",
    "no",
    "cel",
    "tels",
    "datos",
    "nombre",
    "llama",
    "telefono",
    "via",
    "lada",
    "her",
    "his",
    "cell",
    "sign",
    "take",
    "get",
    "pull",
    "throw",
    "kick",
    "go",
    "bring",
    "dump",
    "pop",
    "stick",
    "contactos",
    "whats",
    "wa",
}


def find_people(heard: Heard) -> None:
    """Names for the phones: in order when there are as many of both, else the nearest before each phone."""
    if not heard.phones:
        return
    runs = _name_runs(heard)
    heard.names = [name for name, _, _ in runs]
    found: list[dict[str, str]] = []
    if len(runs) == len(heard.phones):
        found = [{"phoneNumber": p[0], "name": run[0]} for p, run in zip(heard.phones, runs, strict=True)]
    else:
        start = 0
        for phone, begin, end in heard.phones:
            before = [run for run in runs if start <= run[1] < begin]
            found.append({"phoneNumber": phone, "name": before[-1][0] if before else ""})
            start = end
    heard.people = found


def _name_runs(heard: Heard) -> list[tuple[str, int, int]]:
    """Runs of words that look like a person's name: capitals, or words that mean nothing else here."""
    runs: list[tuple[str, int, int]] = []
    current: list[Token] = []
    listed = [token for token in _raw_tokens(heard.masked)]
    for position, token in enumerate([*listed, Token("", 0, 0)]):
        original = heard.text[token.start : token.end]
        following = listed[position + 1] if position + 1 < len(listed) else None
        if _is_name(token.word, original, bool(current), following, heard, heard.text[: token.start]):
            current.append(token)
            continue
        if token.word == "." and current and current[-1].word in _TITLES:
            continue
        current = _trimmed(current, heard)
        if current and not all(t.word in _TITLES for t in current):
            begin, end = current[0].start, current[-1].end
            runs.append((heard.text[begin:end], begin, end))
        current = []
    capital = [run for run in runs if run[0][:1].isupper()]
    return capital if len(capital) >= len(heard.phones) or (capital and len(capital) == len(runs)) else runs


def _trimmed(run: list[Token], heard: Heard) -> list[Token]:
    """A run without particles at its end, and without small words around the capitals it has."""
    capital = [heard.text[token.start].isupper() for token in run]
    if any(capital):
        run = run[capital.index(True) : len(run) - capital[::-1].index(True)]
    while run and run[-1].word in _PARTICLES:
        run = run[:-1]
    return run


def _raw_tokens(masked: str) -> list[Token]:
    found = re.finditer(rf"[a-z]+(?:'[a-z]+)?|\d+|[{MARKS}]|[^\s{_GAP}\w]", masked)
    return [Token(match[0], match.start(), match.end()) for match in found]


def _is_name(word: str, original: str, inside: bool, following: Token | None, heard: Heard, before: str) -> bool:
    if not word.isalpha() and "'" not in word:
        return False
    capital = original[:1].isupper()
    if inside and word in _PARTICLES - {"y"} and following is not None:
        return heard.text[following.start : following.start + 1].isupper() or following.word in _PARTICLES
    if word in words.FUNCTION and capital and following is not None and re.search(r"[a-z,:(] $", before):
        # "sign up Will Day": a small word in capitals, inside the sentence, before another name.
        after = heard.text[following.start : following.end]
        return after[:1].isupper() and following.word not in words.known_words()
    if word in _NOT_NAMES or word in words.known_words():
        return False
    if word in words.verbs():
        # "Leo Ray" is a name in the middle of a sentence, though "leo" is a verb; "Agrega" never is.
        orders = any(mood == words.COMMAND and family != "show" for family, mood in words.verbs()[word])
        return capital and (inside or (not orders and not re.search(r"(^|[.!?])\W*$", before)))
    return capital or (len(word) > 1 and spelled(word) == word)


# Quoted text, titles, templates, channels.


def _quotes(heard: Heard, world: World) -> None:
    pattern = r"\"([^\"\n]{1,200})\"|(?<![\w])'([^'\n]{2,200})'(?!\w)|`([^`]+)`"
    for match in _each(heard, pattern):
        start, end = next((match.start(g), match.end(g)) for g in (1, 2, 3) if match[g] is not None)
        inner = heard.text[start:end].strip()
        key = _key(inner)
        same = [c for c in world.campaigns if _key(str(c.get("title"))) == key]
        if len(same) == 1:
            _refer(heard, same[0], match.start(), match.end())
            heard.quotes.append((inner, match.start(), match.end()))
        elif (
            template_named(fold(inner).replace(" ", "_"), world) and REF not in inner and not _titles(inner, world)
        ) or _channel_by_name(inner, world):
            continue
        elif not any(mark in heard.masked[start:end] for mark in (REF, CHANNEL, AGENT, URL, MAIL, PHONE)):
            heard.quotes.append((inner, match.start(), match.end()))
            heard.mask(match.start(), match.end(), QUOTE)


def _titles(text: str, world: World) -> bool:
    return any(_key(text) in _key(str(c.get("title"))) for c in world.campaigns)


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", fold(text).replace("_", " ")))


def _templates(heard: Heard, world: World) -> None:
    names = sorted((str(t.get("name")) for t in world.templates or ()), key=len, reverse=True)
    for name in names:
        exact = rf"(?<!\w){re.escape(fold(name))}(?!\w)"
        if "_" in name and _take_template(heard, name, exact):
            continue
        loose = fold(name).replace("_", "[ _-]")
        cue = r"(?:plantilla|template|formato|machote)"
        link = r"(?: (?:de|del|llamada|called|named|la|el|the|es|is|sea|sera|a|to|por|con|with|:))*\s*:?\s*[\"']?"
        _take_template(heard, name, rf"(?<=\b)(?P<cue>{cue}{link}){loose}(?!\w)[\"']?")
        _take_template(
            heard,
            name,
            rf"(?<!\w)[\"']?{loose}[\"']?(?= (?:template|de plantilla|como plantilla|as (?:the|its|a) template))",
        )
    for match in _each(heard, r"(?<!\w)[a-z0-9]+(?:_[a-z0-9]+)+(?!\w)"):
        if world.templates is None:
            heard.templates.append(heard.text[match.start() : match.end()])
        elif not re.fullmatch(r"[a-z]{2}_[a-z]{2}|waba_\w+|cmp_\w+", match[0]):
            heard.unknown_template = heard.text[match.start() : match.end()]
        else:
            continue
        heard.mask(match.start(), match.end(), TEMPLATE)


def _take_template(heard: Heard, name: str, pattern: str) -> bool:
    match = re.search(pattern, heard.masked)
    if not match:
        return False
    start = match.end("cue") if "cue" in match.groupdict() and match["cue"] else match.start()
    if name not in heard.templates:
        heard.templates.append(name)
    heard.mask(start, match.end(), TEMPLATE)
    return True


def _exact_titles(heard: Heard, world: World) -> None:
    """Whole titles, the longest first; two campaigns of the same title are both candidates."""
    groups: dict[str, list[Json]] = {}
    for campaign in world.campaigns:
        if key := _key(str(campaign.get("title") or "")):
            groups.setdefault(key, []).append(campaign)
    said = set(re.findall(r"\w+", heard.masked.replace("_", " ")))
    for key in sorted((key for key in groups if said.issuperset(key.split())), key=len, reverse=True):
        pattern = r"[\W_]+".join(map(re.escape, key.split()))
        for match in _each(heard, rf"(?<!\w){pattern}(?!\w)"):
            if len(groups[key]) > 1:
                heard.candidates += [c for c in groups[key] if c not in heard.candidates]
                heard.mask(match.start(), match.end(), REF)
            else:
                _refer(heard, groups[key][0], match.start(), match.end())


TITLE_END = (
    r"(?=\s*(?:[,;.|\n()?!]|$)|\s+(?:(?:y|and|e)\s+)?(?:(?:que sea|sea|es|it's|its|as an?|como|de|en|con|with|"
    r"using|usando|para|for|for me|"
    r"in|under|y|and|tipo|type|categor\w+|category|of type|de tipo|de categoria)\s+)*(?:la |el |the |una |an? |su )*"
    r"(?:marketing|mercadotecnia|promocional|utilidad|utility|transaccional|transactional|autenticacion|authentication|"
    r"plantilla|template|categoria|category|tipo|type|due[nñ]o|duena|owner|owners|propietari\w+|owned|responsable|"
    rf"{MAIL}|{TEMPLATE}|message|mensaje))"
)
"""Where an unquoted title ends: at punctuation, or where the sentence goes on to another field."""
_RENAMING = re.compile(
    r"\b(?:renam\w*|renombr\w*|rebautiz\w*|retitul\w*|retitle|(?:cambi\w*|change|update|actualiz\w*|pon\w*|set|"
    r"modific\w*|edit\w*)\b"
    r"[^.;\n]*?\b(?:nombre|titulo|title|name))\b"
)


def _new_title(heard: Heard, world: World) -> None:
    """The unquoted new name in "rename X to Y", so that no part of it counts as a campaign that exists."""
    renaming = _RENAMING.search(heard.masked)
    if not renaming or QUOTE in heard.masked:
        return
    table = [(c, [_stem(w) for w in _key(str(c.get("title"))).split()]) for c in world.campaigns]
    for link in re.finditer(r"\s(?:a|to|por|como|as|into)\s+", heard.masked[renaming.end() :]):
        start = renaming.end() + link.end()
        before = heard.masked[renaming.end() : renaming.end() + link.start()]
        named = any(mark in before for mark in (REF,)) or any(_matches(table, t.word) for t in _raw_tokens(before))
        pronoun = re.match(r"\s*(?:it|la|lo|that one|esa|esta|esa campana|the campaign|la campana)?\s*$", before)
        # "el nombre a X por Y": this link leads to the campaign, and a later one to its new name.
        dative = heard.masked[start] == REF and re.search(rf"^{REF}{_GAP}*\s+(?:por|como)\s", heard.masked[start:])
        if dative or not (named or pronoun) or not re.match(r"[A-ZÁÉÍÓÚÑ0-9¡¿]", heard.text[start:]):
            continue
        end = re.search(TITLE_END, heard.masked[start:])
        title = heard.text[start : start + end.start()] if end else heard.text[start:]
        title = re.split(r"(?i)\s+(?:por favor|porfa|please|xfa|gracias|thanks|instead)\b", title)[0].strip(" .,¡!¿?")
        if title and not any(mark in heard.masked[start : start + len(title)] for mark in (TEMPLATE, MAIL)):
            heard.quotes.append((title, start, start + len(title)))
            heard.mask(start, start + len(title), QUOTE)
        return


def _channel_names(world: World) -> list[str]:
    return [fold(str(c.get("name"))) for c in world.channels or () if c.get("name")]


def _channel_by_name(text: str, world: World) -> str | None:
    found = [str(c["id"]) for c in world.channels or () if c.get("name") and _key(str(c["name"])) == _key(text)]
    return found[0] if len(found) == 1 else None


_BY = (r"(?:(?:por|via|desde|from|through|over|en|on|using|usando|canal|channel|with|con|mediante|numero|number|"
    r"linea|line|"
       r"traves|del|de|sender|remitente|out|is|es|sea|cuenta|account)[ :]+(?:of |el |la |the |de |del |our |"
       r"nuestro )*)")  # fmt: skip


def _channels(heard: Heard, world: World) -> None:
    for channel in world.channels or ():
        if not channel.get("name"):
            continue
        pattern = r"[\W_]+".join(map(re.escape, _key(str(channel["name"])).split()))
        for match in _each(heard, rf"(?<!\w){pattern}(?!\w)"):
            _take_channel(heard, channel, match.start(), match.end())
    if heard.channels:
        return
    for channel in world.channels or ():
        for word in _key(str(channel.get("name"))).split():
            shared = [c for c in world.channels or () if word in _key(str(c.get("name"))).split()]
            said = re.search(
                rf"\b{_BY}(?P<name>{re.escape(word)})(?!\w)(?: (?:canal|channel|number|line))?", heard.masked
            )
            if len(shared) == 1 and said and len(word) > 2:
                _take_channel(heard, channel, said.start("name"), said.end("name"))
                return
    unknown = re.search(
        r"\b(?:canal|channel)(?: de| llamado| named| called)?[ :]+(?=[\"A-Z0-9])(\"?[\w ]+)", _aligned(heard)
    )
    if unknown and not any(mark in heard.masked[unknown.start() : unknown.end()] for mark in MARKS):
        heard.unknown_channel = unknown[1].strip('" ')


def _aligned(heard: Heard) -> str:
    """The text as written, its verbs and nouns as in `masked`: for patterns that need capitals."""
    return heard.text if len(heard.text) == len(heard.masked) else heard.masked


def _take_channel(heard: Heard, channel: Json, start: int, end: int) -> None:
    if str(channel["id"]) not in heard.channels:
        heard.channels.append(str(channel["id"]))
    heard.mask(start, end, CHANNEL)


_SMALL = {"de", "del", "la", "el", "los", "las", "y", "e", "of", "the", "a", "en", "para", "and", "for", "por", "con",
          "un", "una", "to", "in"}  # fmt: skip
_TRANSLATED = {
    "summer": "verano", "survey": "encuesta", "welcome": "bienvenida", "reminder": "recordatorio", "promotion": "promo",
    "appointment": "cita", "billing": "facturacion", "invoice": "facturacion", "invoicing": "facturacion",
    "invoices": "facturacion", "satisfaction": "satisfaccion", "winter": "invierno", "christmas": "navidad",
    "notice": "aviso", "factura": "facturacion", "facturas": "facturacion", "promocion": "promo",
    "reminders": "recordatorio",
}  # fmt: skip


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def near(left: str, right: str) -> bool:
    """Equal, or one slip apart (a letter more, less, other, or two swapped) in words long enough to tell."""
    if left == right:
        return True
    if min(len(left), len(right)) < 6 or abs(len(left) - len(right)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    rest = (left[at:], right[at:])
    return (
        rest[0][1:] == rest[1][1:] or rest[0][1:] == rest[1] or rest[0] == rest[1][1:]
        or (rest[0][:2] == rest[1][:2][::-1] and rest[0][2:] == rest[1][2:])
    )  # fmt: skip


def _partial_titles(heard: Heard, world: World) -> None:
    """Parts of titles, where one campaign fits better than all others and nothing else contradicts it."""
    if heard.campaigns or heard.candidates:
        return
    listed = _raw_tokens(heard.masked)
    table = [(campaign, [_stem(w) for w in _key(str(campaign.get("title"))).split()]) for campaign in world.campaigns]
    matched = [_matches(table, token.word) for token in listed]
    if not any(matched):
        matched = [_matches(table, _TRANSLATED.get(token.word, "")) for token in listed]
    matched = _keep_strong(listed, matched, table)
    scores: dict[int, set[str]] = {}
    for found in matched:
        for index, word in found.items():
            scores.setdefault(index, set()).add(word)
    if not scores:
        return
    best = max(map(len, scores.values()))
    winners = [index for index, hit in scores.items() if len(hit) == best]
    if len(winners) > 1:
        heard.candidates = [table[index][0] for index in winners]
    elif problem := _contradiction(heard, listed, matched, winners[0], table[winners[0]][1], scores[winners[0]]):
        heard.unknown, heard.candidates = problem, [table[winners[0]][0]]
    else:
        heard.campaigns.append(table[winners[0]][0])
    for token, found in zip(listed, matched, strict=True):
        if any(index in winners for index in found):
            heard.mask(token.start, token.end, REF)


def _matches(table: Sequence[tuple[Json, list[str]]], word: str) -> dict[int, str]:
    if not word or word in _SMALL or (len(word) < 3 and not word.isdigit()) or not word[0].isalnum():
        return {}
    plain = _stem(word)
    exact = {i: t for i, (_, title) in enumerate(table) for t in title if t == plain and t not in _SMALL}
    if exact or word in words.known_words() or word in words.verbs():
        return exact
    return {i: t for i, (_, title) in enumerate(table) for t in title if t not in _SMALL and near(t, plain)}


def _keep_strong(
    listed: Sequence[Token], matched: list[dict[int, str]], table: Sequence[tuple[Json, list[str]]]
) -> list[dict[int, str]]:
    """Words that mean something else too ("clientes", "aviso") count beside another word of the same title only."""
    out = []
    for at, found in enumerate(matched):
        word = listed[at].word
        weak = word in words.known_words() or word in words.verbs() or (word.isdigit() and len(word) < 4)
        if found and weak:
            beside: set[int] = set()
            for step in (-1, 1):
                near_at = at + step
                while 0 <= near_at < len(listed) and listed[near_at].word in _SMALL:
                    near_at += step
                if 0 <= near_at < len(listed):
                    beside |= matched[near_at].keys()
            found = {index: word for index, word in found.items() if index in beside}
        out.append(found)
    return out


def _contradiction(
    heard: Heard,
    listed: Sequence[Token],
    matched: Sequence[dict[int, str]],
    winner: int,
    title: Sequence[str],
    hit: set[str],
) -> str:
    """What the person said that the title doesn't: "recordatorio de pago" is not "Recordatorio de cita"."""
    others = [found for found in matched if found and winner not in found]
    if others:
        return "?"
    last = max(at for at, found in enumerate(matched) if winner in found)
    first = min(at for at, found in enumerate(matched) if winner in found)
    linked = False
    following = last + 1
    while following < len(listed) and listed[following].word in ("de", "del", "of"):
        linked, following = True, following + 1
    if following >= len(listed):
        return ""
    token = listed[following]
    capital = heard.text[token.start : token.start + 1].isupper()
    significant = [word for word in title if word not in _SMALL]
    unknown = token.word.isalpha() and token.word not in words.known_words() and token.word not in words.verbs()
    year = re.fullmatch(r"(19|20)\d\d", token.word)
    if year or (unknown and (linked or capital or len(hit) * 2 < len(significant))):
        return heard.text[listed[first].start : token.end]
    return ""


# Dates.

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "enero january ene jan", "febrero february feb", "marzo march mar", "abril april abr apr", "mayo may",
            "junio june jun", "julio july jul", "agosto august ago aug", "septiembre september sep sept setiembre",
            "octubre october oct", "noviembre november nov", "diciembre december dic dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_DAYS = {
    name: number
    for number, names in enumerate(
        (
            "lunes monday mon lun", "martes tuesday tue tues", "miercoles wednesday wed mier", 
            "jueves thursday thu thurs jue",
            "viernes friday fri vie", "sabado saturday sat sab", "domingo sunday sun dom",
        )
    )
    for name in names.split()
}  # fmt: skip
_MONTH = "(?:" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + ")"
_WEEKDAY = (
    "(?:"
    + "|".join(
        sorted(
            (d for d in _DAYS if len(d) > 3 or d in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")),
            key=len,
            reverse=True,
        )
    )
    + ")"
)
_ORDINAL = r"(?:st|nd|rd|th|o|ro|°|º)?"
_DATE = re.compile(
    r"(?P<iso>\b\d{4}-\d{1,2}-\d{1,2})(?:t(?=\d))?"
    rf"|\b(?P<day1>\d{{1,2}}|primero|uno){_ORDINAL} (?:de |of )?(?P<month1>{_MONTH})\b\.?(?:,? (?:de |del "
    rf")?(?P<year1>20\d\d))?"
    rf"|\b(?P<month2>{_MONTH})\.? (?:the )?(?P<day2>\d{{1,2}}){_ORDINAL}\b(?!:)(?:,? (?P<year2>20\d\d))?"
    r"|\b(?P<first>\d{1,2})[/.-](?P<second>\d{1,2})(?:[/.-](?P<year3>20\d\d|\d\d))?(?![\d:%/]|\.\d)"
    r"|\b(?P<after>pasado manana|(?:the )?day after tomorrow)\b"
    r"|(?<!la )(?<!esta )\b(?P<tomorrow>manana|tomorrow|tmrw|tomorow|tmr)\b"
    r"|\b(?P<today>hoy(?: mismo)?|today|tonight|this (?:afternoon|evening|morning)|esta (?:tarde|noche|manana))\b"
    rf"|\b(?:(?:el |este |proximo |next |this |on |coming |upcoming |the )*)(?P<weekday>{_WEEKDAY})\b(?:,? "
    rf"(?P<day3>\d{{1,2}})(?! ?(?:am|pm|:|hrs|h\b|a\.m|p\.m|de la))(?: de (?P<month3>{_MONTH}))?)?"
    r"(?P<week>,? (?:de la (?:proxima|otra|siguiente) semana|de la semana que (?:entra|viene)|next week|of next "
    r"week))?(?: que (?:viene|entra)| proximo)?"
    r"|\b(?:el (?:dia )?|the )(?P<day4>\d{1,2})(?P<suffix>st|nd|rd|th)?(?= (?:a las|a la|at|of this|de este|al "
    r"mediodia)\b)(?: de este mes| of this month)?"
)
_PART = (
    r"(?P<part>(?: ?(?:de|en|por) la (?:manana|tarde|noche|madrugada)| ?del (?:dia|mediodia)| ?in the (?:morning|"
    r"afternoon|evening)| ?at night| ?(?:a\.? ?m|p\.? ?m)\b\.?))"
)
_TIME = re.compile(
    r"\b(?:(?:a eso de |como |sharp )?(?:a las?|at|para las|hacia las|around|by|@) ?)(?P<hour>\d{1,2}|"
    + "|".join(
        word for word, number in words.NUMBERS.items() if 1 <= number <= 12 and word not in ("un", "docena", "dozen")
    )
    + r")(?:[:.h](?P<minute>\d\d))?(?: y (?P<half>media|cuarto|quince|treinta))?(?: en punto| o'clock| sharp)?(?: "
    r"?(?:hrs?|horas|h)\b\.?)?" + _PART + r"?(?![\d%/])"
    r"|\b(?P<hour2>\d{1,2})(?:[:.](?P<minute2>\d\d))?"
    + _PART.replace("part", "part2")
    + r"|\b(?P<hour3>\d{1,2})[:.](?P<minute3>\d\d)(?: ?(?:hrs?|horas|h)\b\.?)?(?!\d)"
    r"|\b(?P<hour4>\d{1,2}) ?(?:hrs|horas|h)\b"
    r"|\b(?:al? |at |a )?(?P<noon>medio ?dia|noon|midday)\b|\b(?:a la |at )?(?P<midnight>media ?noche|midnight)\b"
)
_IN = re.compile(
    r"\b(?:en|in|dentro de|within|de aqui a)(?: unas?| about)? (?P<count>\d{1,3}|"
    + "|".join((*words.NUMBERS, "a", "media", "half an", "half a"))
    + r") ?(?P<unit>horas?|hours?|hrs?|minutos?|minutes?|mins?|dias?|days?|semanas?|weeks?)\b(?P<half> y media| "
    r"and a half)?"
)
_BARE_LIST = re.compile(
    rf"\b(?P<days>\d{{1,2}}{_ORDINAL}(?:, ?(?:el )?\d{{1,2}}{_ORDINAL})*(?: y| and|,)(?: el| the)? "
    rf")(?=\d{{1,2}}{_ORDINAL} (?:de |of )?{_MONTH}\b)"
)
_MONTH_LIST = re.compile(
    rf"\b(?P<month>{_MONTH})\.? \d{{1,2}}{_ORDINAL}(?P<days>(?:(?:,| and|, and)(?: the)? ?\d{{1,2}}{_ORDINAL}\b(?! "
    rf"?(?:am|pm|:|a\.m|p\.m)))+)"
)


_GREETING = r"\b(?:buen[ao]s? (?:dias?|tardes|noches)|good (?:morning|afternoon|evening))\b"
_UNREAD_TIME = re.compile(
    rf"\b(?:cada|every|each|todos los|todas las|diario|diariamente|daily|weekly|semanalmente|mensualmente|monthly)\s+"
    rf"(?:{DATE}|dias?|days?|semanas?|weeks?|mes|meses|months?|horas?|hours?|mananas?|noches|tardes)|"
    rf"\b(?:daily|weekly|monthly|diariamente|semanalmente|mensualmente|diario)\b|"
    rf"\b(?:semana|semanas|week|weeks|quincena|mes|month|later|luego|mas tarde|despues|weekend|tarde|noche|tonight|"
    rf"afternoon|evening|fin de (?:mes|ano|semana)|rato|soon|pronto|{_MONTH}|{_WEEKDAY}|(?:1?\d|2[0-3]):[0-5]\d)\b"
)


def _dates(heard: Heard, world: World) -> None:
    moments, missing, spans = find_dates(heard.masked, world.now, heard.language)
    heard.moments = [moment for moment in moments if moment > world.now]
    gone = r"\b(ayer|anoche|antier|anteayer|yesterday|last (?:night|week|month|year)|(?:la semana|el mes) pasad[oa])\b"
    heard.past = len(heard.moments) < len(moments) or bool(re.search(gone, heard.masked))
    heard.past = heard.past or bool(moments and re.search(r"\blast (?:\w+day)\b|\bpasado (?:a las|\d)", heard.masked))
    heard.day_without_time = missing
    for start, end in spans:
        heard.mask(start, end, DATE)
    heard.unread_time = bool(_UNREAD_TIME.search(re.sub(_GREETING, " ", heard.masked)))


def find_dates(plain: str, now: datetime, language: str) -> tuple[list[datetime], bool, list[tuple[int, int]]]:
    """The moments named, whether a day lacks its time, and where it all stands in `plain`."""
    moments: list[tuple[int, datetime]] = []
    spans: list[tuple[int, int]] = []
    for match in _IN.finditer(plain):
        moments.append((match.start(), _later(match, now)))
        spans.append(match.span())
    days = [d for d in _days(plain, now, language) if not _inside(d[1], spans)]
    taken = [*spans, *(span for _, span in days)]
    times = [(_clock(m), m.span()) for m in _TIME.finditer(plain) if not _inside(m.span(), taken)]
    times = [(clock, span) for clock, span in times if clock is not None]
    paired, missing = _pair(days, times, now, plain)  # type: ignore[arg-type]
    moments += paired
    spans += [span for _, span in days] + [span for _, span in times if days or span]
    unique = dict.fromkeys(moment for _, moment in sorted(moments))
    return list(unique), missing, spans


def names_a_day(text: str, now: datetime, language: str) -> bool:
    return bool(_days(fold(text), now, language))


def _inside(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _later(match: re.Match[str], now: datetime) -> datetime:
    said = match["count"]
    count = (
        0.5
        if said in ("media", "half an", "half a")
        else 1
        if said == "a"
        else float(words.NUMBERS.get(said, 0) or said)
    )
    count += 0.5 if match["half"] else 0
    unit = match["unit"]
    hours = {"h": 1, "d": 24, "s": 168, "w": 168}.get(unit[0], 1 / 60)
    moment = now + timedelta(hours=count * hours)
    return moment.replace(second=0, microsecond=0)


Day = tuple[date, tuple[int, int]]
Clock = tuple[tuple[int, int], tuple[int, int]]


def _days(plain: str, now: datetime, language: str) -> list[Day]:
    found: list[Day] = []
    for match in _DATE.finditer(plain):
        try:
            day = _day(match, now.date(), language)
        except ValueError:
            continue
        if day is not None:
            found.append((day, match.span()))
    for shared in _BARE_LIST.finditer(plain):
        month = next((d for d, span in found if span[0] >= shared.end() - 1), None)
        for number in re.finditer(r"\d{1,2}", shared["days"]):
            if month is not None and 1 <= int(number[0]) <= 28:
                at = shared.start("days") + number.start()
                found.append((month.replace(day=int(number[0])), (at, at + len(number[0]))))
    for shared in _MONTH_LIST.finditer(plain):
        month = next((d for d, span in found if span[0] == shared.start()), None)
        for number in re.finditer(r"\d{1,2}", shared["days"]):
            if month is not None and 1 <= int(number[0]) <= 28:
                at = shared.start("days") + number.start()
                found.append((month.replace(day=int(number[0])), (at, at + len(number[0]))))
    return sorted(found, key=lambda item: item[1])


def _day(match: re.Match[str], today: date, language: str) -> date | None:
    got = match.groupdict()
    if got["iso"]:
        year, month, day = map(int, got["iso"].split("-"))
        return date(year, month, day)
    for suffix in ("1", "2"):
        if got["month" + suffix]:
            number = 1 if got["day" + suffix] in ("primero", "uno") else int(got["day" + suffix])
            return _coming(today, _MONTHS[got["month" + suffix]], number, got["year" + suffix])
    if got["first"]:
        first, second = int(got["first"]), int(got["second"])
        month_first = (language == "en" and first <= 12) or second > 12
        month, number = (first, second) if month_first else (second, first)
        return _coming(today, month, number, got["year3"])
    if got["day4"]:
        return _in_month(today, int(got["day4"]))
    if got["weekday"]:
        return _weekday(got, today)
    return today + timedelta(days=2 if got["after"] else 1 if got["tomorrow"] else 0)


def _weekday(got: dict[str, Any], today: date) -> date:
    if got["day3"]:
        if got["month3"]:
            return _coming(today, _MONTHS[got["month3"]], int(got["day3"]), None)
        return _in_month(today, int(got["day3"]))
    wanted = _DAYS[got["weekday"]]
    if got["week"]:
        return today + timedelta(days=7 - today.weekday() + wanted)
    return today + timedelta(days=(wanted - today.weekday() - 1) % 7 + 1)


def _coming(today: date, month: int, day: int, year: str | None) -> date:
    if year:
        return date(int(year) + (2000 if len(year) == 2 else 0), month, day)
    found = date(today.year, month, day)
    return found if found >= today else date(today.year + 1, month, day)


def _in_month(today: date, day: int) -> date:
    if day >= today.day:
        return today.replace(day=day)
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return first.replace(day=day)


def _clock(match: re.Match[str]) -> tuple[int, int] | None:
    got = match.groupdict()
    if got["noon"]:
        return 12, 0
    if got["midnight"]:
        return 0, 0
    said = got["hour"] or got["hour2"] or got["hour3"] or got["hour4"]
    hour = words.NUMBERS[said] if said in words.NUMBERS else int(said)
    minute = int(got["minute"] or got["minute2"] or got["minute3"] or 0)
    minute += {"media": 30, "cuarto": 15, "quince": 15, "treinta": 30}.get(got["half"] or "", 0)
    if hour > 24 or minute > 59:
        return None
    part = re.sub(r"[ .]", "", got["part"] or got["part2"] or "")
    if any(word in part for word in ("pm", "tarde", "noche", "afternoon", "evening", "night", "deldia")):
        hour = hour + 12 if hour < 12 else 0 if "noche" in part and hour == 12 else hour
    elif any(word in part for word in ("am", "manana", "madrugada", "morning")):
        hour = 0 if hour == 12 else hour
    elif 1 <= hour <= 6 and not said.startswith("0") and not got["hour3"] and not got["hour4"]:
        # Nobody sends a campaign at five in the morning without saying so.
        hour += 12
    return hour % 24, minute


def _pair(days: list[Day], times: list[Clock], now: datetime, plain: str) -> tuple[list[tuple[int, datetime]], bool]:
    """Each day with its time: the nearest after it and before the next day; one time alone serves all days."""

    def moment(day: date, clock: tuple[int, int]) -> datetime:
        return datetime(day.year, day.month, day.day, *clock, tzinfo=now.tzinfo)

    if not days:
        spoken = [(span[0], moment(now.date(), clock)) for clock, span in times]
        coming = [item for item in spoken if item[1] > now]
        return coming, bool(times) and not coming
    if len(times) == 1:
        return [(span[0], moment(day, times[0][0])) for day, span in days], False
    if times and len(days) == 1:
        return [(span[0], moment(days[0][0], clock)) for clock, span in times], False
    out, missing = [], False
    for at, (day, span) in enumerate(days):
        following = days[at + 1][1][0] if at + 1 < len(days) else len(plain) + 1
        after = [clock for clock, where in times if span[1] <= where[0] < following]
        later = [clock for clock, where in times if where[0] >= span[1]]
        chosen = after[:1] or later[:1]
        missing = missing or not chosen
        out += [(span[0], moment(day, clock)) for clock in (after or chosen)]
    return out, missing


# Numbers.

_NUMBER = (
    r"(\d{1,3}|"
    + "|".join(
        sorted(
            (w for w in words.NUMBERS if w not in ("un", "uno", "una", "one", "cero", "zero")), key=len, reverse=True
        )
    )
    + r")"
)
_THING = (
    r"(?:campanas?|campaigns?|contactos?|contacts?|clientes?|clients?|customers?|personas?|people|destinatarios?|"
    r"recipients?|miembros?|members?|registros?|records?|resultados?|results?|integrantes|primer[oa]s|ultim[oa]s|"
    r"names?|nombres?|entries|items|de ell[oa]s|of them|suscriptores|subscribers|gente|mas recientes|most recent|"
    r"latest|newest|oldest|mas (?:nuev|antigu|viej)[oa]s|per page|por pagina|a la vez|at a time|numeros|usuarios|"
    r"folks|recently)"
)
_SKIP = (
    rf"(?:salt(?:ate|ando|andote|andose|a|e|ar|arte|ese)(?:me)?|omit(?:e|iendo|ir|ting)?|ignora(?:ndo)?|"
    rf"skip(?:ping)?|brinc(?:a|ate|ando|andote)|"
    rf"after|despues de|offset(?: of| de)?|desplazamiento(?: de)?|pasando|past|"
    rf"a partir (?:de|del)|desde|starting (?:at|from|after|with)|beginning (?:at|after|from)|start(?:s)? (?:at|"
    rf"after|from)|empezando (?:en|desde|por|de|despues de)|"
    rf"leaving out|luego de|tras|sin contar|sin|without|beyond|from|comenzando (?:en|desde|despues de)|excluding|"
    rf"empieza (?:en|desde|despues de))"
    rf"(?: (?:de|en|after|los|las|la|el|the|first|primer[oa]s?|number|numero|posicion|position|of|contacto|cliente|"
    rf"registro|campana|campaign|item))*[ #:=]*{_NUMBER}(?:st|nd|rd|th)?\b(?!\s*(?:am|pm|:|de la (?:manana|tarde)))"
)


_SEEN = (
    rf"\b(?:ya (?:vi|vimos|revise|tengo|cheque|me (?:mostraste|diste|pasaste|ensenaste)|conozco|lei)|"
    rf"(?:already|i've|we've|i have|you) (?:already )?(?:seen|saw|got|have|went through|looked at|checked|reviewed|"
    rf"showed me|gave me|read))\b(?: (?:a|las|los|the|my|first|primer[oa]s))* {_NUMBER}\b(?: (?:first|primer[oa]s))?"
)


def number(text: str) -> int:
    return int(text) if text.isdigit() else words.NUMBERS[text]


def find_page(masked: str) -> dict[str, int]:
    """limit and offset, when the sentence says them."""
    out: dict[str, int] = {}
    block = re.search(
        rf"(?:bloques|paginas|pages|tandas|lotes|blocks|batches|grupos|chunks|groups|sets) (?:de|of) (?:a )?{_NUMBER}|"
        rf"\b(?:de )?{_NUMBER} en {_NUMBER}\b|\b{_NUMBER} (?:por|per|a|each|en cada) (?:pagina|page)|"
        rf"(?:pagina|page)s? (?:size|tamano)(?: of| de)? {_NUMBER}",
        masked,
    )
    span = re.search(r"(?<![\d:])(\d{1,3}) (?:to|a|al|through|hasta|-) (?:la |el |the )?(\d{1,3})\b(?![\d:%])", masked)
    if span and int(span[2]) > int(span[1]) > 0:
        return {"limit": int(span[2]) - int(span[1]) + 1, "offset": int(span[1]) - 1}
    if block:
        out["limit"] = number(next(group for group in block.groups() if group))
    if seen := re.search(_SEEN, masked):
        out["offset"] = number(seen[1])
        masked = masked[: seen.start()] + " " * (seen.end() - seen.start()) + masked[seen.end() :]
    elif skip := re.search(rf"\b{_SKIP}", masked):
        out["offset"] = number(skip[1])
        masked = masked[: skip.start()] + " " * (skip.end() - skip.start()) + masked[skip.end() :]
    elif page := re.search(
        r"\b(?:pagina|page) (?:number |numero )?(\d{1,3})\b|\b(segunda|second|tercera|third) (?:pagina|page|tanda|"
        r"batch)\b",
        masked,
    ):
        at = int(page[1]) if page[1] else 2 if page[2] in ("segunda", "second") else 3
        out["page"] = at
        masked = masked[: page.start()] + " " * (page.end() - page.start()) + masked[page.end() :]
    if "limit" not in out and (limit := _limit(masked)):
        out["limit"] = limit
    if "page" in out:
        out["offset"] = (out.pop("page") - 1) * out.get("limit", 50)
    return out


def _limit(masked: str) -> int | None:
    lead = (
        r"(?:primer[oa]s|ultim[oa]s|first|last|latest|top|newest|oldest|next|siguientes|proxim[oa]s|limit[e]?(?: "
        r"de| of|:|=)?|maximo(?: de)?|max|hasta|up to|solo|solamente|nomas|nada mas|just|only|most recent|mas "
        r"recientes|no more than|no mas de|at most|recientes)"
    )
    for pattern in (
        rf"\b{lead} (?:unas |los |las |the )?{_NUMBER}\b(?! ?(?:%|am|pm|de la (?:manana|tarde|noche)|:|dias|"
        rf"days|semanas|weeks|de "
        rf"(?:enero|febrero|marzo|abril|mayo|junio|julio|agosto)))",
        rf"\b{_NUMBER} (?:(?:mas|most|last|very|de (?:las|los)|of (?:the|our|my)|mis|nuestr[oa]s|ultim[oa]s|"
        rf"primer[oa]s|first|latest|newest|oldest|recent|promo|recently|created|updated|creadas) )*{_THING}\b",
        rf"\b(?:show|dame|muestra(?:me)?|give me|ensename|trae(?:me)?|get|list|lista(?:me)?|ver|see|display|quiero|"
        rf"pull up|bring up|fetch)(?: me| solo| just| only| unas?| unos)? {_NUMBER}\b(?! ?%)",
        rf"\b{_NUMBER}(?: \w+)? (?:nada mas|nomas|solamente|como maximo|maximo|max|tops|at most|only|unicamente|"
        r"y ya)\b",
        rf"\b(?:las|los|the) {_NUMBER}\b(?! ?(?:%|am|pm|:|de la (?:manana|tarde|noche)|hrs|horas))",
    ):
        if found := re.search(pattern, masked):
            return number(found[1])
    return None


_ASCENDING = re.compile(
    r"\b(asc\w*|mas tiempo|the longest|longest (?:time )?(?:ago|without)|(?:se )?(?:creo|agrego|dio de alta) primero|"
    r"mas (?:antigu|viej)[oa]s?(?: (?:primero|al principio|arriba))?|oldest|earliest|de la a a la z|"
    r"a a la z|a to z|a-z|a->z|menor a mayor|(?:crearon|created|agregaron|added) (?:primero|first)|"
    r"antigu[oa]s? primero|viej[oa]s? primero|mas anterior|first to last|a z)\b"
)
_DESCENDING = re.compile(
    r"\b(desc\w*|z to a|de la z a la a|z a la a|z-a|newest|most recent|mas (?:recient|nuev)\w+|latest first|"
    r"recent\w* first|reverse|invers\w|reversa|al reves)\b"
)
_ALPHABETICAL = re.compile(
    r"\b(alfabetic\w*|alphabetic\w*|abecedario|por (?:el )?(?:nombre|titulo)s?|by (?:the |their )?(?:name|title)s?|"
    r"segun (?:el |su )?(?:nombre|titulo)|a to z|z to a|a-z|z-a|de la (?:a|z) a la [az]|name order|title order|"
    r"por orden de (?:nombre|titulo)|nombre asc\w*|orden alfab\w*)\b"
)
_CREATED = re.compile(r"\b(creaci\w+|creation\w*|fecha de alta|newest|oldest|mas (?:nuev|antigu|viej)[oa]s?)\b")
_MADE = re.compile(
    r"\b(cread[oa]s?|creo|created|agreg(?:ad[oa]s|aron)|added|joined|registrad[oa]s|crearon|dad[oa]s de alta)\b"
)
_ORDERED = re.compile(
    r"\b(recen\w+|recien\w+|ultim\w+|last|latest|orden\w*|sort\w*|order\w*|antigu\w+|earliest|first|"
    r"primer[oa]s?|mas tiempo|longest)\b"
)
_UPDATED = re.compile(
    r"\b(actualiz\w*|modific\w*|updated?|changed|edited|last update|cambiad[oa]s|edit\w*|touched|movid[oa]s)\b"
)


def find_order(masked: str, by_name: str) -> dict[str, str]:
    """sortBy and sortDirection; `by_name` is what sorting by name is called there."""
    ascending, descending = _ASCENDING.search(masked), _DESCENDING.search(masked)
    if _ALPHABETICAL.search(masked):
        last_first = re.search(r"\b(desc\w*|z to a|z a la a|z-a|reverse|invers\w|reversa|al reves)\b", masked)
        return {"sortBy": by_name, "sortDirection": "desc" if last_first else "asc"}
    out: dict[str, str] = {}
    if _UPDATED.search(masked):
        out["sortBy"] = "lastUpdate"
    elif _CREATED.search(masked) or (_MADE.search(masked) and _ORDERED.search(masked)):
        out["sortBy"] = "creationDate"
    if ascending and (not descending or ascending.start() < descending.start()):
        out["sortDirection"] = "asc"
        out.setdefault("sortBy", "creationDate")
    return out


_SORTED = re.compile(r"\b(orden(?:ad[oa]s?)?|sort\w*|ordered|order|antigu\w+|viej[oa]s|oldest|longest|mas tiempo)\b")


def unread_page(masked: str, found: Mapping[str, object]) -> bool:
    """Whether a number, a "next" or an order was said that did not make it into the arguments."""
    numbers = re.finditer(r"(?<![\w.,/:-])(?<!de las )(?<!a las )(?<!at )\d{1,4}(?![\w/:%-])", masked)
    said = [int(item[0]) for item in numbers]
    if re.search(r"\b(?:to|a|al|through|hasta|-) (?:la |el |the )?\d", masked) and "offset" in found:
        said = []
    masked = re.sub(r"\b(?:no importa|doesn't matter|any|cualquier)\b[^.,]*\b(?:orden|order)\b", " ", masked)
    held = {found.get("limit"), found.get("offset")}
    page = re.search(r"\b(pagina|page|bloque|tanda|batch|lote)\b", masked)
    if any(item not in held for item in said) and not page:
        return True
    following = (
        r"\b(siguientes?|siguen|sigue|que siguen|next|after those|after that|come after|remaining|restantes|faltan)\b"
    )
    if re.search(following, masked) and "offset" not in found:
        return True
    return bool(_SORTED.search(masked)) and "sortBy" not in found
