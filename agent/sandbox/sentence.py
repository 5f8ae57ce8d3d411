"""Which operation a sentence asks for, judged by its verbs, what they act on, and what speaks against it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agent.sandbox import words
from agent.sandbox.slots import (
    AGENT,
    CHANNEL,
    DATE,
    MAIL,
    MARKS,
    PARAMS,
    PHONE,
    QUOTE,
    REF,
    TEMPLATE,
    URL,
    Heard,
    Token,
    tokens,
)
from agent.sandbox.words import COMMAND, fold

READS = ("list_campaigns", "get_campaign", "get_campaign_audience")
DESTRUCTIVE = ("delete_campaign", "clear_campaign_audience", "remove_campaign_audience_client")


@dataclass(slots=True)
class Frame:
    """One request: the operation, and what is known of its arguments. `why` says why there is no operation."""

    operation: str = ""
    why: str = ""
    slots: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Act:
    """A verb of the sentence that can ask for something."""

    families: frozenset[str]
    at: int
    word: str
    nominal: bool = False


_NOMINAL = {
    "eliminacion": "remove", "borrado": "remove", "deletion": "remove", "removal": "remove", "supresion": "remove",
    "envio": "send", "lanzamiento": "send", "disparo": "send", "creacion": "create", "creation": "create",
    "modificacion": "change", "actualizacion": "change", "cambio": "change", "vaciado": "clear", "alta": "add",
    "baja": "remove", "incorporacion": "add", "programacion": "send", "retiro": "remove", "limpieza": "clear",
}  # fmt: skip
_LIGHT = words.word_set(
    "haz haga hagan hacer proceda procede proceder proceed realiza realice realizar efectua efectue ejecuta ejecute "
    "solicito solicita requiero necesito quiero quisiera request need want do autoriza favor please da dale den dar "
    "echate programa programe programar schedule perform carry hagamos ejecutar iniciar inicia start tramita gestiona "
    "apoyas apoyame ayudame ayudas urge pido solicitamos"
)
_FUTURE = re.compile(
    r"\b(voy a|vas a|va a|van a|iba a|ibamos a|i will|i'll|we'll|we will|(i'm|im|i am|we're|we are|he's|she's|"
    r"they're) (going|gonna)( to)?|who's (going|gonna)( to)?)\b( \w+)?$"
)
_STARTERS = words.word_set("please pls plz kindly just now then also ok okay hey hi hello let's lets ahead thanks "
    "simply yeah so yes me help go "
                       "us dale darle bro dude man buddy mate pal guys team thx right say first finally instead "
                       "again today tomorrow")  # fmt: skip
_FILLERS = words.word_set("por favor porfa porfavor hola oye y ahora ya entonces luego bueno ok buenas buenos dias "
    "tardes noches xfa pues mejor "
                      "este eh plis porfis porfi gracias va sale primero a ver oiga disculpa o tambien")  # fmt: skip
_LEADS = words.word_set(
    "quiero quisiera queremos necesito necesitamos ocupo ocupamos requiero requerimos deseo gustaria urge hay "
    "tengo tenemos toca favor puedes "
    "podrias podria podrian pueden puede ayudas ayudame ayuda ayudes vamos posible procede proceda solicito pido "
    "debe deben apoyas apoyame "
    "trata encargate falta faltaria encargo urgente apoyes ayudar ayude haces ve vete queria necesitaria"
)
_LINKS = words.word_set("me te nos que a de hacer el la favor se hacerlo usted es tu ir esto eso mi les le")
_BEFORE_TO = words.word_set("want need like you please have got possible love able wanna proceed ready i'd ought "
    "time want's "
                        "'d campaign wish try it")  # fmt: skip
_BREAKS = words.word_set(", ; . : ! ? ( ) | - ¿ ¡")
_PARTICLES = {
    "take": {"out": "remove", "off": "remove", "away": "remove", "down": "remove"},
    "get": {"off": "remove", "out": "remove", "rid": "remove", "into": "add", "in": "add", "onto": "add", "on": "add"},
    "pull": {"from": "remove", "out": "remove", "off": "remove"},
    "throw": {"out": "remove", "away": "remove", "in": "add", "into": "add"},
    "sign": {"up": "add"}, "jot": {"down": "add"}, "write": {"down": "add"},
    "put": {"together": "create", "out": "send"}, "kick": {"off": "send", "out": "remove"},
    "turn": {"into": "change"}, "go": {"out": "send"}, "goes": {"out": "send"}, "going": {"out": "send"},
    "roll": {"out": "send"},
    "bring": {"in": "add"}, "bump": {"off": "remove"}, "cut": {"from": "remove", "out": "remove"},
    "leave": {"without": "clear", "out": "remove"}, "set": {"up": "create"}, "spin": {"up": "create"},
    "fire": {"up": "create"},
    "dump": {"": "remove"}, "pop": {"into": "add", "in": "add", "on": "add"},
    "stick": {"in": "add", "on": "add", "into": "add"},
    "drop": {"into": "add"}, "slot": {"into": "add", "in": "add"}, "squeeze": {"in": "add", "into": "add"},
    "shoot": {"out": "send"}, "blast": {"out": "send"}, "send": {"off": "send"},
}  # fmt: skip
_PHRASES = (
    (r"\bzero out\b", "empty"),
    (r"\bd(?:en|es|iera|ieran|ieras)(?:me|le|nos|te|se)?(?:lo|la|los|las|le)? de baja\b", "elimine"),
    (r"\bd(?:a|e|en|es|ar|ame|anos|iera|ieran|ieras)(?:me|le|nos|te|se)?(?:lo|la|los|las|le)? de baja\b", "elimina"),
    (r"\b(?:every|each|any)(?: single)? campaign\b|\b(?:alguna|cada|ninguna) campana\b", "campaigns"),
    (r"\bget rid of\b", "delete"), (r"\bdo away with\b", "delete"), (r"\bdeshaz\w* de\b|\bdeshacer\w* de\b|"
        r"\bdeshagan?se de\b", "elimina"),
    
    (r"\b(da|das|dar|de|dame|dale|den|dele|des|darle?) de alta\b", "registra"),
    (r"\b(da|dar|dale|dele) cran\b", "elimina"),
    (r"^\W*fuera\b", "quita"), (r"\b(?<!a )todo (el )?mundo\b|(?<=a )todo (el )?mundo\b", "todos"),
    (r"\bsac(a|ar|ame|alo|ue) (el|un) envio\b", "manda"), (r"\b(echa|echale|echar) un (ojo|vistazo)\b", "muestra"),
    (r"\btake a look at\b", "show"), (r"\b(set|spin|fire) up\b", "create"), (r"\bput together\b", "create"),
    (r"\b(bring|pull) up\b", "show"), (r"\bhave a look at\b", "show"), (r"\bgo through\b", "show"),
    (r"\blook up\b", "show"),
    (r"\b(echa(te|me|le|melo)?|avienta(te|me)?|haz(me)?|hagan?(me)?|realiza|realice|efectua|ejecuta|dale) (el|un) "
        r"(envio|lanzamiento|disparo)\b", "manda"),
    (r"\b(kick|roll|get) off\b(?= (?:the )?(?:send|campaign|\ue000))", "send"),
    (r"\bthe send\b", "manda"), (r"\bthe sending\b", "manda"), (r"\bsend[- ]?out\b", "send"),
    (r"\bthe launch\b", "launch"), (r"\bquick q\b", ""), (r"\bda(le|r|me)? (salida|luz verde) a\b", "manda"),
)  # fmt: skip


def canonical(masked: str) -> str:
    """Idioms by the plain verb they stand for, at the same positions."""
    for pattern, instead in _PHRASES:

        def same_length(match: re.Match[str], instead: str = instead) -> str:
            return instead.ljust(len(match[0]))[: max(len(match[0]), len(instead))]

        masked = re.sub(pattern, same_length, masked)
    return masked


class Sentence:
    """A heard sentence as tokens, with the verbs that ask for something and those that are negated or only told of."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.masked = canonical(heard.masked)

        self.tokens: list[Token] = tokens(self.masked)
        self.list = [token.word for token in self.tokens]
        self.acts: list[Act] = []
        self.negated: list[Act] = []
        self.mentioned: set[str] = set()
        for at in range(len(self.list)):
            self._take(at)
        self.families = frozenset[str]().union(*(act.families for act in self.acts))

    def _take(self, at: int) -> None:
        word = self.list[at]
        original = self.heard.text[self.tokens[at].start : self.tokens[at].end]
        families = {family for family, mood in words.verbs().get(word, ()) if mood == COMMAND}
        told = {family for family, mood in words.verbs().get(word, ()) if mood != COMMAND}
        particle = self._with_particle(at)
        families = particle if word in ("drop", "kick", "throw") and particle else families | particle
        nominal = word in _NOMINAL and self._light_before(at)
        if nominal:
            families = {_NOMINAL[word]}
        if re.search("[éó]$", original) or self._is_surname(at):
            families, told = set(), families | told
        passive = not families and told and self._is_passive_order(at)
        if passive:
            families = told
        self.mentioned |= told
        if not families:
            return
        act = Act(frozenset(families), at, word, nominal)
        if self._is_negated(at):
            self.negated.append(act)
        elif not nominal and not passive and self._is_told(at, families):
            self.mentioned |= families
        else:
            self.acts.append(act)

    def _is_surname(self, at: int) -> bool:
        """ "Joseph Kill": a capital right after a capital, inside a sentence."""
        if at == 0:
            return False
        token, last = self.tokens[at], self.tokens[at - 1]
        text = self.heard.text
        both = (
            text[token.start].isupper() and text[last.start].isupper() and not text[token.start : token.end].isupper()
        )
        return both and last.word.isalpha() and last.word not in words.known_words() and last.word not in words.verbs()

    def _is_passive_order(self, at: int) -> bool:
        """ "needs to be deleted", "have it removed", "que sea eliminada": an order told as a result."""
        before = self.clause_before(at, 9) or [""]
        if self.list[at].endswith("ing"):
            return before[0] in ("mind", "request", "requesting") or before[:2] in (
                ["with", "proceed"],
                ["with", "ahead"],
            )
        if before[0] == "be" or before[1:2] == ["be"]:
            asks = {"needs", "need", "must", "has", "should", "that", "request", "please", "want"}
            return bool(set(before) & asks) and not set(before) & {
                "will",
                "would",
                "might",
                "was",
                "going",
                "could",
                "may",
                "can",
            }
        if re.fullmatch(r"dej(a|e|en|ar|ame|alo|ala|arla|arlo|as)", before[0]):
            return True
        if before[0] in ("sea", "ser", "quede", "quedar", "sean"):
            return bool(
                set(before) & {"quiero", "necesito", "debe", "solicito", "requiero", "favor", "ocupo", "que", "deben"}
            )
        far = list(reversed(self.list[max(0, at - 14) : at]))
        lead = next((i for i, word in enumerate(far) if word in ("have", "get", "want", "need", "like")), 0)
        naming = self.list[at] in ("called", "named", "titled", "used")
        if (
            not lead
            or naming
            or not self.list[at].endswith(("ed", "sent"))
            or {"by", "was", "were", "not"} & set(far[:lead])
        ):
            return False
        start = far[lead + 1 : lead + 2]
        wants = far[lead] in ("want", "need", "get", "like") and start in (["i"], ["we"], ["i'd"], ["we'd"], ["would"])
        return wants or not start or start[0] in _STARTERS or start[0] in _BREAKS or start == ["you"]

    def _with_particle(self, at: int) -> set[str]:
        particles = _PARTICLES.get(self.list[at])
        if not particles:
            return set()
        if self.list[at] == "kick" and (PHONE in self.list or self.has(words.AUDIENCE | words.ALL)):
            return {"remove"}
        if "out" in self.list[at + 1 : at + 12] and set(self.list) & {CHANNEL, PARAMS} and PHONE not in self.list:
            return {"send"}
        if "" in particles:
            return {particles[""]}
        for word in self.list[at + 1 : at + 12]:
            if word in particles:
                return {particles[word]}
            if word in ("then", ".", ";") or (word == "and" and PHONE not in self.list):
                break
        return set()

    def _light_before(self, at: int) -> bool:
        return bool(set(self.list[max(0, at - 4) : at]) & _LIGHT) or (at <= 1 and self.list[at] != "envio")

    def clause_before(self, at: int, reach: int) -> list[str]:
        before: list[str] = []
        for word in reversed(self.list[max(0, at - reach) : at]):
            if word in _BREAKS or word in ("pero", "but", "and", "mejor", "instead", "sino"):
                break
            before.append(word)
        return before

    def _is_negated(self, at: int) -> bool:
        before = self.clause_before(at, 5)
        if not set(before) & words.NEGATIONS:
            return False
        if before[:2] == ["no", "ya"] or "problema" in before or "problem" in before:
            return True
        clitic = re.search(r"(la|lo|las|los|le|les|me)$", self.list[at]) and not re.search(
            r"[aei]r(me|te|se)?l[aoe]s?$", self.list[at]
        )
        imperative = clitic and self.list[at] not in words.known_words() and before[0] not in words.NEGATIONS
        return not (imperative and not set(before[:2]) & words.NEGATIONS)

    def _is_told(self, at: int, families: set[str]) -> bool:
        """Whether the verb only tells of something: "Luis quiere borrar", "the delete button", "voy a mandar"."""
        before = self.clause_before(at, 7)
        if not before:
            return False
        word = self.list[at]
        if _FUTURE.search(" ".join(reversed(before))) or set(before[:4]) & {"antes", "before"}:
            return True
        if before[0] in ("after", "al", "without", "sin", "tras") or before[:2] == ["de", "despues"]:
            return True
        if families <= {"show"}:
            return False
        if word in words.english_bases() or word in _PARTICLES:
            goes_out = word in ("go", "goes") and before[0] in ("should", "must", "to")
            return families != {"put"} and not goes_out and self._told_in_english(before)
        if re.search(r"[aei]r(me|te|se|nos)?(l[aoe]s?)?$", word):
            return self._told_infinitive(before)
        return self._told_in_spanish(before, word)

    def _told_in_english(self, before: list[str]) -> bool:
        last, rest = before[0], before[1:]
        if last == "to":
            return not rest or (rest[0] not in _BEFORE_TO and rest[0] not in MARKS and not self.heard.phones)
        if last in ("you", "u", "we"):
            return not set(rest[:2]) & _MODALS
        noun = last in words.CAMPAIGN | words.AUDIENCE and bool(set(rest) & set(MARKS))
        return not (last in _STARTERS or last in MARKS or last.endswith("ly") or last in words.verbs() or noun)

    @staticmethod
    def _told_infinitive(before: list[str]) -> bool:
        """Infinitives ask only at the start of a clause, or after words such as "quiero" and "favor de"."""
        if all(word in _FILLERS or word in MARKS for word in before):
            return before[0] == "por"
        lead = next((at for at, word in enumerate(before) if word in _LEADS), None)
        between = before[: lead or 0]
        if not all(word in _FILLERS or word in _LINKS or word.endswith("mente") for word in between):
            return True
        if lead is None or (before[0] == "de" and before[lead] not in ("favor", "trata", "encargate", "haces")):
            return True
        if before[lead] in ("toca", "urge", "gustaria", "falta") and before[lead + 1 : lead + 2] in (["le"], ["les"]):
            return True
        usted = before[lead] in ("puede", "podria", "pueden", "podrian", "debe", "deben")
        return usted and not all(
            word in _FILLERS or word in ("se", "me", "nos", "usted") for word in before[lead + 1 :]
        )

    @staticmethod
    def _told_in_spanish(before: list[str], word: str) -> bool:
        if before[0] in ("quien", "quienes", "ella", "ellos", "ellas", "nadie", "alguien", "un", "el", "los", "si"):
            return True
        if before[0] == "se" or (before[1:2] == ["se"] and before[0] in ("le", "les", "lo", "la")):
            return word in words.indicatives() or not ("que" in before[:4] or len(before) == 1)
        if before[0] == "que" and word in words.indicatives():
            return True
        return before[0] == "ya" and word.endswith("e") and word not in words.indicatives()

    # What stands around a verb.

    def has(self, group: frozenset[str] | set[str] | str) -> bool:
        return any(word in group for word in self.list)

    def lists_people(self) -> bool:
        """ "the recipient list", "client base"."""
        pairs = zip(self.list, self.list[1:], strict=False)
        return any(left in words.PERSON and right in ("list", "lists", "base", "roster") for left, right in pairs)

    def has_ref(self) -> bool:
        return bool(self.heard.campaigns or self.heard.candidates or self.heard.unknown)

    def object_of(self, act: Act) -> str:
        """What a verb acts on: "campaign", "audience", "person", "field", "foreign", "it", or ""."""
        following = self._scan(range(act.at + 1, len(self.list)), act)
        if following and following != "it":
            return following
        before = self._scan(range(act.at - 1, -1, -1), act, back=True)
        return before or following

    def _scan(self, positions: Sequence[int] | range, act: Act, back: bool = False) -> str:
        fallback = ""
        for at in positions:
            word = self.list[at]
            before = self.list[at - 1] if at else ""
            oblique = (
                not back
                and before in ("de", "del", "from", "of", "a", "en", "in", "off", "to", "al", "out")
                and not act.nominal
            )
            if (word in "." and not back) or (word in (",", ";") and fallback and not back):
                break
            kind = self._kind(at, act)
            if kind in ("campaign", "audience") and oblique and kind == "campaign" and at - act.at > 1:
                fallback = fallback or kind
                if self._possessive(at):
                    return "audience"
                continue
            if kind == "campaign" and self._possessive(at):
                return self._possessive(at)
            if kind == "foreign" and back:
                continue
            if kind == "campaign" and back and any(self._kind(i, act) == "audience" for i in range(0, at)):
                return "audience"
            if kind:
                return kind
        return fallback

    def _kind(self, at: int, act: Act) -> str:
        word = self.list[at]
        if word in words.CAMPAIGN or word == REF:
            return "campaign"
        if word in words.CAMPAIGNS:
            return "campaigns"
        if word in (TEMPLATE, AGENT, URL, MAIL, CHANNEL):
            return "field" if word in (TEMPLATE, MAIL) else ""
        if word in words.AUDIENCE or (word in ("todos", "todas", "all", "lista", "list") and self._people_word(at)):
            return "audience"
        if word == PHONE or word in words.PERSON - words.AUDIENCE:
            many = set(self.list[max(0, at - 2) : at]) & {"every", "each", "cada", "any", "all", "cualquier", "ningun"}
            return "audience" if many or self.list[at + 1 : at + 2] in (["list"], ["lists"], ["base"]) else "person"
        if word in words.FIELD_OF and word not in ("tipo", "type", "clase"):
            return "field"
        if word in words.FOREIGN:
            return "foreign"
        return "person" if self._is_person_name(at) else ""

    def _people_word(self, at: int) -> bool:
        """ "todos" by itself is people; "todas las campañas" and "all of it" are not."""
        rest = self.list[at + 1 : at + 4]
        if self.list[at] in ("lista", "list"):
            return bool(set(self.list) & {"clear", "vacia", "vaciar", "limpia", "empty"}) or "contactos" in rest
        if self.list[at] == "all":
            return rest[:2] == ["of", "them"] or rest[:1] == ["from"]
        before = self.list[at - 1] if at else ""
        return before == "a" or (not rest or rest[0] in ("de", "del", "en", ",", "."))

    def _is_person_name(self, at: int) -> bool:
        token = self.tokens[at]
        capital = self.heard.text[token.start : token.start + 1].isupper()
        word = token.word
        return capital and at > 0 and word not in words.known_words() and word not in words.verbs() and word.isalpha()

    def _possessive(self, at: int) -> str:
        """ "promo verano's audience": what belongs to the campaign at `at`."""
        rest = self.list[at + 1 : at + 7]
        if not rest or rest[0] not in _OWNED:
            return ""
        for word in rest:
            if word in words.AUDIENCE or word == "list":
                return "audience"
            if word in words.FIELD_OF:
                return "field"
            if word not in _BETWEEN_OWNED:
                break
        return ""


_OWNED = words.word_set("' campaign audience contact contacts clients recipients people recipient audiencia")
_BETWEEN_OWNED = words.word_set(
    "' s campaign whole entire full complete contact all current its recipient client customer"
)
_MODALS = words.word_set("can could will would do please may might")
_WANT = words.word_set("quiero quisiera necesito ocupo requiero requiere queremos necesitamos want need like let's "
    "lets deseo urge "
                   "gustaria ocupamos have solicito")  # fmt: skip


def decide(sentence: Sentence) -> Frame:
    """The operation that the sentence asks for, or why there is none."""
    chosen = _candidate(sentence)
    if chosen in READS:
        if _only_speaks_of_acting(sentence, chosen):
            return Frame(why="hypothetical")
        return Frame(chosen) if _surely_reads(sentence) else Frame(why="doubtful")
    blocked = _guard(sentence)
    if blocked and (chosen or sentence.negated or sentence.mentioned - {"show"} or blocked == "capability"):
        read = _read(sentence)
        speaks = blocked == "capability" and not sentence.families & {"show"}
        if read and not speaks and not (sentence.negated or sentence.families - {"show"}) and _surely_reads(sentence):
            return Frame(read)
        return Frame(why=blocked)
    if chosen in DESTRUCTIVE and _is_for_later(sentence):
        return Frame(why="later")
    if chosen and is_question(sentence):
        read = _read(sentence)
        return (
            Frame(read) if read and not sentence.families & {"remove", "clear", "send"} else Frame(why="hypothetical")
        )
    if chosen:
        return Frame(why="doubtful") if doubt(sentence, chosen) else Frame(chosen)
    return Frame(why="negated" if sentence.negated else "unclear")


# What speaks against it.

_LEAD = (
    r"(?:(?:y|and|oye|hey|hola|hi|hello|ok|so|a|de|en|con|por|para|to|from|for|in|on|at|then|pues|bueno|"
    r"quick question|por favor|please|disculpa|perdon|ey) ?,? )*"
)
_QUESTION = re.compile(
    rf"(?:^|[.!?;:,¿\n(-])[^\w{MARKS}]*{_LEAD}(?:(?:what|which|who|whom|whose|when|where|how|what's|"
    r"whats|who's|whos|how's|"
    r"is|are|was|were|does|did|do|has|cual|cuales|quien|quienes|cuando|cuanto|cuanta|cuantos|cuantas|donde|como)\b"
    r"|(?:que|es|son|esta|estan|hay|tiene|tienen|tenemos|existen?|fue|trae|lleva|usa|quedan?)\b(?=[^.!]*\?)"
    r"|que (?:campan|contacto|client|persona|numero|plantilla|dueno|categoria|tipo|hay|tiene|trae|onda|gente|"
    r"integrante|destinatario|telefono|dice|es\b))"
)
_REQUEST = re.compile(
    r"\b(is it possible|is there (?:a|any) way|es posible|do (?:me|us)|do you (?:mind|think you)|como (?:siempre|ya)|"
    r"hay (?:forma|manera|que)|when(?:ever)? you|cuando (?:puedas|pueda|gustes|guste|tengas|tenga))\b"
)


def is_question(sentence: Sentence) -> bool:
    """Whether the verb that asks for something stands in a question for information: "is it set up as utility?"."""
    plain, text = sentence.masked, sentence.heard.text
    acts = [act for act in sentence.acts if act.families - {"show"}]
    at = sentence.tokens[acts[-1].at].start if acts else len(plain)
    start = max(plain.rfind(mark, 0, at) for mark in ".?!;¿") + 1
    end = next((i for i in range(at, len(plain)) if plain[i] in ".?!;"), len(plain))
    if text[end : end + 1] not in ("?", "") or _REQUEST.search(plain, start, end):
        return False
    found = _QUESTION.match(plain[start : end + 1])
    return bool(found)


_AMBIGUOUS_SHOW = re.compile(
    r"(pas[aeo]\w*|sa[cq]\w+|jal\w+|ech\w+|tir\w+|pull|bring|get|hit|grab|pass|hand|order|sort|tell|call|walk|pick|"
    r"give|orden\w*|acomod\w*|facilit\w*|compart\w*|share|print|know|find|return|present\w*|indi\w+)"
)
_NOUNS = (
    words.AUDIENCE
    | words.DETAILS
    | words.CAMPAIGNS
    | words.PERSON
    | frozenset(words.FIELD_OF)
    | words.word_set("lista listado list catalogo catalog")
)
_FRAGMENT = words.word_set(
    "a al an the el la las los lo un una of de del from en in on for para con with y and e by por sobre about que "
    "please pls plz porfa porfavor favor gracias thanks mi mis my our nuestra nuestras nuestro nuestros su sus its tu "
    "tus quiero quisiera necesito ocupo requiero want need i i'd like me nos would we queremos necesitamos solicito "
    "hola hi hey hello buenas buenos dias tardes noches oye primeros primeras primer primera first last latest top "
    "ultimos ultimas siguientes next recientes recent recently newest oldest all todas todos everyone full complete "
    "completa completo actual current mas antigua antiguas antiguos nuevas nuevos viejas viejos orden order ordenadas "
    "ordenados ordenada sorted alfabetico alfabetica alphabetical alphabetically alfabeticamente nombre name title "
    "titulo fecha date creacion creation ascendente descendente ascending descending asc desc pagina page saltando "
    "skipping skip after despues starting empezando comenzando limit limite maximo max solo only nada nomas just up to "
    "hasta z b c r s por-favor creadas created creados agregados added registradas registrados updated actualizadas "
    "modificadas actualizacion update existentes disponibles available hay esta estan are is there ver general "
    "generales lista list listado once un esa ese esta este that this it them tenemos have got "
    "status estatus brincandote per most recently recientemente edited pero al reves set size tamano at batches bloques"
)


def _surely_reads(sentence: Sentence) -> bool:
    """A read needs a verb that shows, a question, or a bare phrase of nothing else: a read is no refuge for doubts."""
    plain, heard = sentence.masked, sentence.heard
    new_value = heard.quotes and heard.campaigns and not all(_is_title(q, heard) for q, _, _ in heard.quotes)
    if new_value or heard.params is not None or heard.urls or heard.agents or re.search(r"->|=>|→|⇒", heard.text):
        return False
    if any("show" not in act.families and act.families & {"remove", "clear", "add", "off"} for act in sentence.acts):
        return False
    if any(_plainly_shows(sentence, act) for act in sentence.acts):
        return not _moves(sentence) or "?" in heard.text
    if _QUESTION.search(plain) or re.search(r"\b(qu[ée]|cu[áa]l(es)?|qui[ée]n(es)?|cu[áa]nt[oa]s)\b", _accented(heard)):
        return True
    if "?" in heard.text:
        return not (sentence.mentioned | sentence.families) - {"show", "create", "change", "send", "put"}
    return _is_bare_phrase(sentence)


def _plainly_shows(sentence: Sentence, act: Act) -> bool:
    """ "muéstrame", "get me", "saca la lista"; but "pásala", "pull it" may ask for other things."""
    to_me = re.search(r"(me|nos)(l[aeo]s?)?$", act.word) or sentence.list[act.at + 1 : act.at + 2] in (["me"], ["us"])
    if "show" not in act.families:
        return bool(to_me and act.families & {"send", "put"} and sentence.has(_NOUNS) and not sentence.heard.channels)
    rest = set(sentence.list[act.at + 1 :])
    # "get campaign X", with nothing after it that it could be got to, off or out of.
    gets = (
        act.word == "get"
        and REF in rest
        and rest <= words.CAMPAIGN | {REF, ".", ",", "!", "the", "our", "my", "please", "thanks"}
    )
    plainly = to_me or gets or not _AMBIGUOUS_SHOW.fullmatch(act.word)
    return bool(plainly) or (sentence.has(_NOUNS) and not _moves(sentence))


def _is_bare_phrase(sentence: Sentence) -> bool:
    """ "detalles de promo verano", with no word in it that could ask for anything else."""
    end = re.search(r"\b(para|for) (?:mi|my|el|un|una|a|the|pasar\w*)\b", sentence.masked)
    listed = [token.word for token in sentence.tokens if not end or token.start < end.start()]
    allowed = _FRAGMENT | _FILLERS | _NOUNS | words.CAMPAIGN
    heard = sentence.heard
    return all(word in allowed for word in listed if word.isalpha()) and not heard.templates and not heard.mails


def _accented(heard: Heard) -> str:
    return " ".join(re.findall(r"\b\w*[éá]\w*\b", heard.text.lower()))


def _is_title(quote: str, heard: Heard) -> bool:
    return any(fold(quote) == fold(str(campaign.get("title"))) for campaign in heard.campaigns) or not heard.campaigns


def _moves(sentence: Sentence) -> bool:
    """ "pásala a marketing", "pull it into utility": a value that something is brought to."""
    listed = "|".join(words.CATEGORY_OF)
    return bool(re.search(rf"\b(a|as|al|como|to|into|en|in|under)\b(?: \w+)? (?:{listed})\b", sentence.masked))


_OWN = {
    "delete_campaign": {"remove", "show", "put"},
    "clear_campaign_audience": {"clear", "remove", "show", "put", "change", "off", "create"},
    "remove_campaign_audience_client": {"remove", "clear", "off", "show", "put"},
    "send_campaign": {"send", "show", "put"},
    "add_campaign_audience": {"add", "put", "create", "show", "change"},
    "update_campaign": {"change", "put", "create", "show", "add"},
    "create_campaign": {"create", "put", "change", "show", "add", "send"},
}  # fmt: skip
_HEDGES = re.compile(
    r"\b(creo que|pienso que|me parece que|se me hace que|supongo|i think|i guess|i believe|might|probabl[ye]|"
    r"probablemente|seguramente|parece que|whichever|lo que sea|either|apenas|thought|feel like)\b"
)
_SUBSET = re.compile(
    r"\b(half|without|sin|mitad|algun[oa]s|some|unos|unas|several|vari[oa]s|inactiv\w*|duplica\w*|solo|solamente|only|"
    r"nobody|nadie|most of|mayoria|rest of|resto|demas|others?|otros|otras|cuyo\w*|whose|quien(?:es)?|"
    r"who(?!'s| is| are| it)|those|aquell[oa]s|"
    r"(?:contactos|clientes|personas|gente|people|contacts|customers|ones) (?:que|that|who)"
    r"(?! (?:tiene|tenga|hay|haya|esta|estan|esten|are|is|it|we|trae|sean|tenemos|tengo|has|were|ya)\b))\b"
)
_EXCEPT = re.compile(
    r"\b(excep\w+|(?<!mas o )(?<!al )menos|salvo|aside from|"
    r"(?:everyone|everybody|all|todos|campaigns|contacts|people)\b[^.;]{0,60}\bbut(?! (?:keep|don|leave|not)))\b"
)
_PLACE = re.compile(
    r"\b(sistema|system|cuenta|account|workspace|plataforma|platform|lista(?:do)? de campanas|list|lista|listado|"
    r"campaigns|campanas|panel|dashboard|catalogo|basura|trash|garbage|bin|circulacion|circulation|down|rid|books)\b"
)
_LOOSE_REMOVAL = re.compile(
    r"(sa[cq]\w+|jal\w+|baj\w+|tira\w*|take|pull|get|strip|sacud\w+|leave|cut|bump|tach\w+|off)"
)


def doubt(sentence: Sentence, chosen: str) -> bool:
    """Whether something in the sentence speaks against the write that was chosen: then it is asked about."""
    acts = [act for act in sentence.acts if not act.families & _OWN[chosen]]
    if any(not _serves(act, chosen) for act in acts):
        return True
    if _HEDGES.search(sentence.masked):
        return True
    shown_first = any(act.families == {"show"} for act in sentence.acts) and chosen in (*DESTRUCTIVE, "send_campaign")
    if shown_first and re.search(r"\b(primero|first|antes|before)\b", sentence.masked):
        return True
    match chosen:
        case "delete_campaign":
            return _doubts_deletion(sentence)
        case "clear_campaign_audience":
            return _doubts_clearing(sentence)
        case "remove_campaign_audience_client":
            return bool(_EXCEPT.search(sentence.masked)) or "add" in sentence.families or _choice(sentence)
        case "send_campaign":
            return _doubts_send(sentence)
        case "add_campaign_audience":
            adding = [act for act in sentence.acts if act.families & {"add", "put"}]
            return any(_direct_object(sentence, act) == "foreign" for act in adding)
        case "update_campaign" | "create_campaign":
            return bool(sentence.heard.params is not None or sentence.heard.channels or sentence.heard.moments)
    return False


def _serves(act: Act, chosen: str) -> bool:
    """Verbs of another family that only carry details: "using", "attach"."""
    if chosen == "send_campaign":
        details = re.match(r"(us[aeo]|utili|adjunt|attach|inclu|use|set|respond|carg|anex|add|agreg)", act.word)
        return bool(details)
    return chosen == "add_campaign_audience" and "change" in act.families


def _limits(sentence: Sentence, acts: Sequence[Act]) -> bool:
    """Whether only a part is meant: "except", "half of", "the people who"; or one of two things: "or"."""
    said = [" ".join([*reversed(sentence.clause_before(act.at, 6)), act.word, *_clause(sentence, act)]) for act in acts]
    several = any(_SUBSET.search(text) or re.search(r"\b(o(?! sea)|or|u)\b", text) for text in said)
    return several or bool(_EXCEPT.search(sentence.masked)) or _begins_strangely(sentence) or _both(sentence)


def _clause(sentence: Sentence, act: Act) -> list[str]:
    """The words after a verb up to the end of its clause, where reasons begin."""
    out: list[str] = []
    for word in sentence.list[act.at + 1 :]:
        if word in _CLAUSE_ENDS:
            break
        if word in _GOES_ON and out[-1:] in (["y"], ["and"]):
            break
        out.append(word)
    return out


_CLAUSE_ENDS = words.word_set(", . ; ! ? : porque because pero but so since pues cause it's")
_GOES_ON = words.word_set("luego ya then we'll i'll despues we i")


def _unknown_words(listed: Sequence[str]) -> list[str]:
    known, verbs = words.known_words(), words.verbs()
    return [
        word for word in listed
        if word.isalpha() and len(word) > 1 and word not in known and word not in verbs and word not in MARKS
        and not word.endswith(("mente", "ly"))
    ]  # fmt: skip


def _begins_strangely(sentence: Sentence) -> bool:
    """ "exporta los contactos y luego bórralos": the message begins with an order that is not known."""
    listed = [word for word in sentence.list if word not in _FILLERS and (word.isalpha() or word == REF)][:2]
    objects = words.CAMPAIGN | words.AUDIENCE | {REF, "the", "la", "el", "los", "las", "all", "un", "una", "a"}
    if len(listed) < 2 or listed[1] not in objects or not _unknown_words(listed[:1]):
        return False
    known = listed[0] in _LIGHT | _LEADS or listed[0] in _PARTICLES
    return not known and not re.match(r"keep|conserv|manten", listed[0])


def _choice(sentence: Sentence) -> bool:
    return bool(re.search(r"\b(o(?! sea)|or|u)\b", sentence.masked))


def _doubts_deletion(sentence: Sentence) -> bool:
    removal = [act for act in sentence.acts if "remove" in act.families]
    if _limits(sentence, removal):
        return True
    if not any(not _LOOSE_REMOVAL.fullmatch(act.word) for act in removal) and not _PLACE.search(sentence.masked):
        return True
    return _moves(sentence) or any(_is_of_something_else(sentence, act) for act in removal)


def _is_of_something_else(sentence: Sentence, act: Act) -> bool:
    """ "delete the Promo Verano template", "quita Promo Verano de marketing": no campaign is what goes."""
    clause = [word for word in _clause(sentence, act) if not _PLACE.fullmatch(word)]
    at = next((i for i, word in enumerate(clause) if word == REF or word in words.CAMPAIGN), len(clause))
    before, beyond = clause[:at], [word for word in clause[at:] if word not in words.CAMPAIGN]
    before = [word for word in before if word not in words.CATEGORY_OF]
    if _unknown_words(before) or (beyond[:1] == [REF] and _unknown_words(beyond[1:2]) and sentence.heard.campaigns):
        return True
    nouns = (words.FOREIGN | frozenset(words.FIELD_OF)) - words.CATEGORY_OF.keys()
    categories = "|".join(words.CATEGORY_OF)
    return bool(nouns & {*before, *beyond} or re.search(rf"(?:de|from) (?:{categories})\b", " ".join(beyond)))


def _both(sentence: Sentence) -> bool:
    """ "the contacts and the campaign": two things at once."""
    people = "|".join(words.AUDIENCE)
    campaign = rf"(?:{'|'.join(words.CAMPAIGN)}|{REF})"
    return bool(
        re.search(rf"\b(?:{people}) (?:y|and|e|plus) (?:a )?(?:la |the |su )?{campaign}", sentence.masked)
        or re.search(
            rf"{campaign}\u0001* (?:y|and|plus) (?:a )?(?:la |the |su |sus |its )?(?:{people})\b", sentence.masked
        )
    )


def _doubts_clearing(sentence: Sentence) -> bool:
    emptying = [act for act in sentence.acts if act.families & {"clear", "remove", "off"}]
    if _limits(sentence, emptying):
        return True
    people = sentence.has(words.AUDIENCE | words.PERSON) or sentence.lists_people() or _everyone(sentence)
    if not people and not any(re.match(r"(vaci|empty)", act.word) for act in emptying):
        return True
    if emptying and all(_LOOSE_REMOVAL.fullmatch(act.word) for act in emptying) and not _everyone(sentence):
        return True
    for act in emptying:
        clause = _clause(sentence, act)
        number = [w for w in clause if (w.isdigit() or w in words.NUMBERS) and w not in _NO_NUMBERS]
        told = [word for word in clause if _tells(word)]
        if number or told or CHANNEL in clause or _unknown_words(clause):
            return True
    return False


def _tells(word: str) -> bool:
    """ "unsubscribed", "agregamos": some of the people, not all."""
    moods = words.verbs().get(word, ())
    return bool(moods) and all(mood != COMMAND and family in ("remove", "add", "send") for family, mood in moods)


_NO_NUMBERS = words.word_set("un una uno one cero zero a once")


def _everyone(sentence: Sentence) -> bool:
    return sentence.has(words.ALL | {"todos", "gente", "them"})


def _doubts_send(sentence: Sentence) -> bool:
    """A trial, some of the people, one of two things, or a time that cannot be read: no send does that."""
    if _TRIAL.search(sentence.masked) or _SOME.search(sentence.masked) or _choice(sentence):
        return True
    listed = [word for word in sentence.list if word not in ("the", "el", "la", "los", "las", "this", "este", "esta")]
    for word, following in pairwise(listed):
        number = following.isdigit() or following in words.NUMBERS.keys() - _NO_NUMBERS
        if word in _WHEN and (number or _unknown_words([following])):
            return True
        if (word.isdigit() or word in words.NUMBERS) and following in words.AUDIENCE:
            return True
    return _begins_strangely(sentence)


_TRIAL = re.compile(
    r"\b(prueba|pruebas|test|tests|trial|sample|preview|ejemplo|borrador|draft|copia|copy|captura|screenshot)\b"
)
_SOME = re.compile(
    r"\b(?:(?:solo|solamente|only|unicamente|nomas|just|nada mas) (?:a|to|para|for)|half|mitad|some of|algun[oa]s|"
    r"those who|(?:a|to|for|para) l[oa]s (?:que|de)|people who|gente que|excep\w+|(?<!mas o )menos)\b"
)
_WHEN = words.word_set("around before after by during hacia para durante until en on at las within past")


def _only_speaks_of_acting(sentence: Sentence, chosen: str) -> bool:
    """ "I don't want to delete it", "who can send it?": no question that a read would answer."""
    if "show" in sentence.families and not re.search(r"\b(remind|recuerda|recuerdame|let me know)\b", sentence.masked):
        return False
    spoken = (sentence.families | sentence.mentioned).union(*(act.families for act in sentence.negated))
    if spoken & {"remove", "clear"} and chosen != "list_campaigns":
        return True
    if "send" not in spoken or chosen == "list_campaigns":
        return False
    if words.HYPOTHETICAL.search(sentence.masked):
        return True
    return chosen == "get_campaign" and not sentence.has(frozenset(words.FIELD_OF) | words.DETAILS)


def _is_for_later(sentence: Sentence) -> bool:
    """A date after the verb: only sends can be scheduled. "hoy" is no date."""
    first = min(
        (act.at for act in sentence.acts if act.families & {"remove", "clear", "off"}), default=len(sentence.list)
    )
    for at in range(first + 1, len(sentence.list)):
        if sentence.list[at] in ".;!":
            return False
        if sentence.list[at] == DATE:
            start = sentence.tokens[at].start
            return not re.match(r"hoy|today", fold(sentence.heard.text[start : start + 6]))
    return False


def _guard(sentence: Sentence) -> str:
    """Why a sentence must not become a write: negated, hypothetical, reported, or only about what is possible."""
    plain = sentence.masked
    if any(act.families - {"show"} for act in sentence.negated) and not _other_is_asked(sentence):
        return "negated"
    plain = re.sub(words.POLITE_CONDITION, " ", plain)
    if words.HYPOTHETICAL.search(plain) or words.CONDITION.search(plain):
        return "hypothetical"
    if _is_reported(sentence):
        return "reported"
    specific = sentence.has_ref() or set(sentence.list) & {PHONE, QUOTE, REF} or points_back(sentence)
    asks = "?" in sentence.heard.text or words.POSSIBLE.match(re.sub(r"^\W+", "", plain))
    if (
        words.POSSIBLE.search(plain)
        and asks
        and not specific
        and not re.search(r"\b(una|un|an?|nueva|new)\b.{0,40}\bcampa(ign|na)\b", plain)
    ):
        return "capability"
    return ""


def _is_reported(sentence: Sentence) -> bool:
    """ "she said delete it", but not "she said she wants out, remove her": an order after a comma is the speaker's."""
    if re.search(r"\b(diga|digan|diciendo|saying)\b", sentence.masked) and sentence.families & {
        "remove",
        "clear",
        "send",
    }:
        return True
    found = [match.end() for match in words.REPORTED.finditer(sentence.masked)]
    if not found:
        return False
    starts = [sentence.tokens[act.at].start for act in sentence.acts if act.families - {"show"}]
    between = [
        sentence.masked[max(end for end in found if end <= start) : start] for start in starts if found[0] <= start
    ]
    return not (starts and between and all(re.search(r"\w+\W+\w+[^,;.]*[,;.]", part) for part in between))


def _other_is_asked(sentence: Sentence) -> bool:
    """ "ya no le mandes, sácalo", "create it but don't send it": one thing is refused and another one asked for."""
    refused = frozenset[str]().union(*(act.families for act in sentence.negated))
    asked = [act for act in sentence.acts if act.families - {"show"}]
    if asked and refused <= {"change", "show", "put"} and not any(act.families & refused for act in asked):
        return True
    if not asked or any(act.families & refused for act in asked):
        return False
    last, first = max(act.at for act in sentence.negated), min(act.at for act in asked)
    if last < first:
        return bool(set(sentence.list[last:first]) & {",", ";", ".", "pero", "but", "mejor", "instead"})
    return not frozenset[str]().union(*(act.families for act in asked)) & {"remove", "clear", "send"}


def points_back(sentence: Sentence) -> bool:
    """ "esa campaña", "it", "bórrala": something named before."""
    plain = sentence.masked
    if re.search(
        r"\b(es[ae]|est[ae]|dicha|misma|mism[ao]|aquella|that|this|same|it|its|la anterior|la ultima que|just "
        r"(created|made)|"
        r"acabo de|acabas de|recien cread[ao]|the one|su|ella|ahi|alli|there|la nueva|the new one)\b",
        plain,
    ):
        return True
    return any(
        re.search(r"(r|a|e|o|n)(me|te|se|nos|le)?(la|lo|le)$", act.word)
        and len(act.word) > 4
        and act.word in words.verbs()
        and act.word not in words.known_words()
        for act in (*sentence.acts, *sentence.negated)
    ) or bool(re.search(r"\b(la|lo|le) (borr|elimin|mand|envi|cambi|quit|vaci|lanz|program|actualiz)\w+", plain))


def _candidate(sentence: Sentence) -> str:
    families = sentence.families
    heard = sentence.heard
    if heard.phones:
        return _with_phones(sentence)
    removal = [act for act in sentence.acts if act.families & {"remove", "clear"}]
    if removal and not _is_read_by_verb(sentence, removal):
        return _removal(sentence, removal)
    if found := _emptying(sentence):
        return found
    if "send" in families:
        return _sending(sentence)
    if _creating(sentence):
        return "create_campaign"
    if _updating(sentence):
        return "update_campaign"
    if "add" in families and (sentence.has(words.PERSON | words.AUDIENCE) or _names_someone(sentence)):
        return "add_campaign_audience"
    return _read(sentence)


def _with_phones(sentence: Sentence) -> str:
    families = sentence.families
    if families & {"remove", "clear", "off"}:
        return "" if families & {"add"} and "remove" not in families else "remove_campaign_audience_client"
    if families & {"add", "put"} or ("create" in families and not sentence.has(words.CAMPAIGN | {"campaign"})):
        return "add_campaign_audience"
    new = sentence.has(words.NEW) and sentence.has(words.PERSON | words.AUDIENCE) and sentence.has_ref()
    if new and not families & {"send", "show", "change"}:
        return "add_campaign_audience"
    if re.search(r"\b(ech|pas|avient)\w*l[oa]s?\b (?:a|al|en|para) ", sentence.masked) and sentence.has_ref():
        return "add_campaign_audience"
    if sentence.has({"gone", "out", "off", "fuera", "away"}):
        return "remove_campaign_audience_client" if sentence.has({"gone", "fuera"}) else ""
    wants = set(sentence.list) & (_WANT | {"falta", "faltan", "entra", "entre", "vaya", "va"})
    if wants and "send" not in families and "show" not in families:
        return "add_campaign_audience"
    return ""


def _is_read_by_verb(sentence: Sentence, removal: Sequence[Act]) -> bool:
    """ "saca la lista de clientes" shows; it removes nobody."""
    both = all("show" in act.families for act in removal)
    return both and sentence.has(words.DETAILS | {"lista", "listado", "list", "campanas", "campaigns"})


def _removal(sentence: Sentence, acts: Sequence[Act]) -> str:
    kinds = [sentence.object_of(act) for act in acts]
    kind = next((k for k in kinds if k not in ("", "it")), "")
    emptying = any("clear" in act.families for act in acts)
    only_clear = any("remove" not in act.families and "clear" in act.families for act in acts)
    if kind == "audience":
        return "clear_campaign_audience"
    if kind == "person":
        return "remove_campaign_audience_client" if not emptying else ""
    if kind in ("field", "foreign"):
        return ""
    if kind == "campaign" and emptying and any(act.families == {"remove"} for act in acts):
        return "delete_campaign"
    if kind == "campaigns":
        return "delete_campaign" if not emptying else ""
    if only_clear:
        return "clear_campaign_audience"
    if emptying:
        return ""
    if kind == "campaign" or sentence.has_ref() or points_back(sentence):
        return "delete_campaign" if not _unknown_between(sentence, acts) else ""
    return ""


def _unknown_between(sentence: Sentence, acts: Sequence[Act]) -> bool:
    """ "borra la foto de la campaña": a thing nobody knows stands between the verb and the campaign."""
    for act in acts:
        rest = sentence.list[act.at + 1 :]
        ends = [at for at, word in enumerate(rest) if word == REF or word in words.CAMPAIGN]
        for at, word in enumerate(rest[: ends[0]] if ends else []):
            unknown = word.isalpha() and word not in words.known_words() and word not in words.verbs()
            if unknown and at + 1 < len(rest) and rest[at + 1] in ("de", "del", "of", "from", "en", "in", "a", "to"):
                return True
    return False


def _emptying(sentence: Sentence) -> str:
    """An empty audience asked for without a verb that empties: "necesito audiencia vacía", "déjala sin gente"."""
    gone = r"\b(que no (?:quede|haya|queden) (?:nadie|ningun\w*)|(?:nobody|no ?one|no (?:contacts|people)) left)\b"
    if re.search(gone, sentence.masked) and sentence.has(words.AUDIENCE) and "?" not in sentence.heard.text:
        return "clear_campaign_audience"
    if sentence.negated or not (
        sentence.families & {"put", "change", "create"} or set(sentence.list) & (_WANT | {"leave"})
    ):
        return ""
    people = (
        "audiencia|audience|contactos|contacts|gente|nadie|people|clientes|clients|destinatarios|recipients|"
        "personas|members|miembros"
    )
    wanted = (
        rf"\b(sin (?:ningun[oa]? )?(?:{people}|contacto|persona|cliente)|en (?:cero|ceros|blanco)|vaci[ao]s?|empty|"
        rf"at zero|to zero|a cero|with no(?:body| one)?|no (?:people|contacts|recipients))\b"
    )
    if re.search(wanted, sentence.masked) and (
        sentence.has(words.AUDIENCE | {"nadie", "nobody"}) or "put" in sentence.families
    ):
        return "clear_campaign_audience"
    return ""


_DATA = re.compile(r"\b(lista|listado|list|detalles?|details?|info|informacion|datos|data|resumen|summary|rundown)\b")
_UNDOING = re.compile(
    r"\b(cancel\w*|deten\w*|detener|undo|unsend|recall|revert\w*|deshacer|deshaz\w*|parar|pausa\w*|pause|stop)\b"
)


def _sending(sentence: Sentence) -> str:
    acts = [act for act in sentence.acts if "send" in act.families]
    plain = sentence.masked
    named = sentence.heard.quotes or re.search(rf"\b{NAMING}\b", plain)
    if named and not sentence.has_ref() and _INDEFINITE.search(plain):
        return "create_campaign"
    if not sentence.heard.channels:
        if _is_told_to_me(sentence, acts):
            return _read(sentence)
        if _DATA.search(plain):
            return ""
    foreign = _direct_object(sentence, acts[0]) == "foreign" and not sentence.heard.templates
    if foreign or sentence.families & {"remove", "clear"} or _UNDOING.search(plain):
        return ""
    spoken = sentence.has_ref() or sentence.has(words.CAMPAIGN | words.CAMPAIGNS) or points_back(sentence)
    return "send_campaign" if spoken or sentence.heard.channels else ""


def _is_told_to_me(sentence: Sentence, acts: Sequence[Act]) -> bool:
    """A send verb in a question ("a quién se manda") or for the speaker's own eyes ("mándame la lista")."""
    plain = sentence.masked
    question = re.match(r"\W*(?:a |de |en )?(que|cual|cuales|what|which|who|whom|quien|quienes)\b", plain)
    if question and "?" in sentence.heard.text:
        return True
    people = words.PEOPLE_QUESTION.search(plain) or sentence.has(words.AUDIENCE)
    if people and "show" in sentence.families:
        return True
    for act in acts:
        beside = sentence.list[act.at + 1 : act.at + 2], sentence.list[act.at - 1 : act.at] if act.at else []
        if re.search(r"[ae]n?me(l[ao]s?)?$", act.word) or ["me"] in beside:
            return bool(_DATA.search(plain)) or sentence.object_of(act) in ("audience", "campaigns")
    return False


def _direct_object(sentence: Sentence, act: Act) -> str:
    for at in range(act.at + 1, min(act.at + 5, len(sentence.list))):
        word = sentence.list[at]
        if word == REF or word in words.CAMPAIGN:
            return "campaign"
        if word in (CHANNEL, DATE, PARAMS) or word in ("por", "via", "through", "from", "desde"):
            return ""
        if word in words.FOREIGN and word not in ("envio", "envios", "template", "plantilla", "recordatorio"):
            return "foreign"
    return ""


_INDEFINITE = re.compile(
    r"\b(una?|an?(?! (?:la|las|el|los|mi|esa|esta|su|nuestra|tu)\b)|nueva?|new|otra|another)\b(?: "
    r"[a-z\ue000-\ue00b]+){0,4}? (campana|campaign|campaing|campain|campanya|campagna)\b|\b(campana|"
    r"campaign) nueva\b|\bnew campaign\b"
)
NAMING = (
    r"(?:que se (?:llame|llamara|llamaria|titule|nombre|va a llamar)|se (?:llama|llamara|llame|va a llamar|titula)|"
    r"va a llamarse|llamarse|llamad[ao]|"
    r"llamale|llamala|llamemosla|llamar|de nombre|con (?:el )?(?:nombre|titulo)(?: de)?|bajo el (?:nombre|"
    r"titulo)(?: de)?|titulad[ao]|nombrad[ao]|"
    r"(?:el |su )?(?:nombre|titulo)(?: (?:es|sera|seria|va a ser|que sea|de))?|ponle|"
    r"called|named|titled|entitled|by the name(?: of)?|(?:going to be|gonna be) called|name(?:d)? it|call it|"
    r"calling it|"
    r"(?:the |its )?(?:title|name)(?: (?:is|will be|should be|being|of))?|with (?:the )?(?:name|title)(?: of)?|"
    r"title it|goes by|denominad[ao]|"
    r"que lleve (?:por |de )?(?:nombre|titulo)|under the name(?: of)?)"
)


def _creating(sentence: Sentence) -> bool:
    plain = sentence.masked
    create = [act for act in sentence.acts if "create" in act.families]
    named = re.search(rf"\b{NAMING}\b", plain)
    indefinite = _INDEFINITE.search(plain)
    strong = any(act.families == {"create"} and act.word not in ("make", "haz", "hacer", "hagas") for act in create)
    if sentence.heard.campaigns and not strong and not (named and named.start() < sentence.masked.find(REF)):
        return False
    alone = strong and not sentence.has_ref() and not sentence.has(words.FOREIGN - words.FIELD_OF.keys())
    alone = alone and any(_names_next(sentence, act) for act in create)
    if alone and (named or sentence.heard.quotes) and category_words(sentence):
        return True
    if re.match(r"\W*alta de (?:una )?(?:nueva )?campana\b", plain) and not sentence.has_ref():
        return True
    if re.match(
        r"\W*((una|a|otra|another) )?(nueva campana|new (\w+ )?campaign|campana nueva)\b", plain
    ) and not sentence.families - {"create", "put"}:
        return True
    if create and sentence.has(words.CAMPAIGN):
        foreign = any(_first_noun(sentence, act) == "foreign" for act in create)
        shows = "show" in sentence.families and not strong and not indefinite
        return not foreign and not shows
    if (
        indefinite
        and "add" in sentence.families
        and not sentence.has(words.PERSON | words.AUDIENCE)
        and not sentence.has_ref()
    ):
        return any(_first_noun(sentence, act) == "campaign" for act in sentence.acts if "add" in act.families)
    if not indefinite or sentence.families & {"change", "add"} - {"create"}:
        return False
    wanting = (
        set(sentence.list) & (_WANT | {"created", "creada", "crearse", "creation", "creacion"})
        or "put" in sentence.families
    )
    return bool(wanting) and not (sentence.families & {"show"} and not (named or sentence.heard.quotes))


def _names_next(sentence: Sentence, act: Act) -> bool:
    """ "crea "Códigos"", "ármame una de marketing": a title or a category, and no other thing, follows the verb."""
    skipped = words.NEW | {"una", "un", "a", "an", "me", "la", "the", "one", "de", "please", ":"}
    following = next((word for word in sentence.list[act.at + 1 :] if word not in skipped), "")
    return following == QUOTE or following in words.CATEGORY_OF or following in words.CAMPAIGN


def _first_noun(sentence: Sentence, act: Act) -> str:
    for word in sentence.list[act.at + 1 :]:
        if word in words.CAMPAIGN or word == REF:
            return "campaign"
        if word in words.FOREIGN and word not in ("recordatorio", "reminder"):
            return "foreign"
    return ""


_RENAMING = re.compile(
    r"\b(renam\w*|renombr\w*|rebautiz\w*|retitul\w*|retitle|llam(e|ar|ale|ala)|call it|recategor\w*|reclasific\w*|"
    r"reclassify)\b"
)
_WEAK_CHANGES = {"use", "usa", "utiliza", "fix", "set", "swap", "give", "mueve", "move", "correct", "nombra"}
_SOFT_CHANGES = words.word_set("debe should give sea pasa pasar dale needs necesita ocupa requiere") | {
    stem + tail for stem in ("pasa", "pase", "pasar", "pasen") for tail in ("la", "lo", "mela", "melo")
}


def _updating(sentence: Sentence) -> bool:
    """A change verb with a field or a new value; or a softer verb, a campaign and a new value."""
    heard, plain = sentence.heard, sentence.masked
    fields = {words.FIELD_OF[word] for word in sentence.list if word in words.FIELD_OF}
    valued = bool(heard.templates or heard.mails or heard.quotes or category_words(sentence))
    asking = re.search(r"^\W*(\w+ ){0,3}?(que|cual|cuales|what|which|how|como)\b|\bwhat\b|\bwhich\b", plain)
    if asking and not valued and heard.text.rstrip().endswith("?"):
        return False
    ref = sentence.has_ref()
    pointed = ref or points_back(sentence)
    if "change" in sentence.families:
        weak = {act.word for act in sentence.acts if "change" in act.families} <= _WEAK_CHANGES
        strong = not weak and (ref or sentence.has(words.CAMPAIGN))
        return bool(_RENAMING.search(plain) or fields or strong or (valued and pointed))
    if not valued or heard.phones or not pointed:
        return False
    if ref and (heard.mails or heard.templates) and set(sentence.list) & _WANT:
        return True
    wished = re.match(r"\W*que \b.*\b(llame|tenga|use|lleve|sea|quede|pase)\b", plain) and "?" not in heard.text
    if wished or sentence.families & {"put", "create"} or set(sentence.list) & _SOFT_CHANGES:
        return True
    return "?" not in heard.text and bool(re.search(r"\b(from now on|de ahora en|en adelante)\b", plain))


def _names_someone(sentence: Sentence) -> bool:
    return any(sentence._is_person_name(at) for at in range(len(sentence.list))) or "a" in sentence.list


def category_words(sentence: Sentence) -> list[str]:
    return [words.CATEGORY_OF[word] for word in sentence.list if word in words.CATEGORY_OF]


_SOMEBODY = re.compile(r"\ba (?:tod[oa]s|l[oa]s que (?:esta|estan|hay|van|reciben|siguen|tiene|tenemos))\b")


def _read(sentence: Sentence) -> str:
    """Which read is asked for, when one is."""
    plain, heard = sentence.masked, sentence.heard
    asking = bool(words.ASKING.search(plain)) or "?" in heard.text
    show = "show" in sentence.families
    ref = sentence.has_ref() or points_back(sentence)
    field_asked = sentence.has(frozenset(words.FIELD_OF) | words.DETAILS) or re.search(
        r"\b(creo|creada|estatus|razon|situacion|progreso|onda|deal|created|cambio|changed|modifico|modified|"
        r"actualiz\w+|updated|edited|edito|dio de alta|responsable|in charge|"
        r"es de|is it|marketing|utilidad|utility|de que|about|sobre|acerca)\b", plain)  # fmt: skip
    people = sentence.has(words.AUDIENCE) or sentence.lists_people() or bool(_SOMEBODY.search(plain))
    owner = words.OWNER_QUESTION.search(plain) or sentence.has(words.FIELDS["owners"])
    if ref and owner and not people:
        return "get_campaign"
    if (people or words.PEOPLE_QUESTION.search(plain)) and not (sentence.has(words.CAMPAIGNS) and not ref):
        if ref or sentence.has(words.CAMPAIGN) or points_back(sentence):
            return "get_campaign_audience"
        return "get_campaign_audience" if people and (show or asking) else ""
    if sentence.has(words.CAMPAIGNS):
        return "list_campaigns" if not (heard.campaigns and not re.search(r"\blista|list\b", plain)) else "get_campaign"
    if (heard.mails or heard.templates) and not asking:
        return ""
    if re.search(r"\b(quien|quienes|who|whom|who's|whos)\b", plain) and not owner:
        return ""
    if ref and (show or field_asked or asking):
        return "get_campaign"
    if sentence.has(words.CAMPAIGN) and (show or asking) and not sentence.families - {"show", "create", "put"}:
        return (
            "list_campaigns"
            if re.search(r"\b(lista|list|todas|all|que|which|what|hay|any|alguna)\b", plain)
            else "get_campaign"
        )
    return ""
