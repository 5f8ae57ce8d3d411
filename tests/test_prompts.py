"""Words: every code that the sources can produce has its words in both languages, and every card renders."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import agent.errors
from agent.errors import AgentError
from agent.gate import Kind
from agent.operations import OPERATIONS
from agent.prompts import Words, guess_language
from agent.visible import visible, visible_lines
from tests.support import CITA, ENCUESTA, NOW, PROMO, World, card, make_world, results

ROOT = Path(__file__).parent.parent
SOURCES = [path for path in (ROOT / "agent").rglob("*.py") if "sandbox" not in path.parts]
LANGUAGES = ("en", "es")
languages = pytest.mark.parametrize("language", LANGUAGES)


def words(language: Any) -> Words:
    return Words(language, ZoneInfo("America/Mexico_City"))


def catalogue(language: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "prompts" / f"words.{language}.toml").read_text("utf-8"))


def calls_of(*names: str) -> Iterator[ast.Call]:
    """Every call of one of these names in the sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in names:
                    yield node


def first_words(*names: str) -> set[str]:
    """The first argument of these calls, where it is a literal, or a choice of literals."""
    found = set()
    for call in calls_of(*names):
        for argument in call.args[:1]:
            parts = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
            found |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return found


def outcome_codes() -> set[str]:
    """Every literal "code" that is given to an Outcome."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant):
                        found.add(str(value.value))
    return found


@languages
def test_every_error_has_its_words(language: str) -> None:
    said = words(language)
    classes = [c for _, c in inspect.getmembers(agent.errors, inspect.isclass) if issubclass(c, AgentError)]
    codes = {c.code for c in classes} - {"decision_refused", "usage"}
    codes |= {"api_key_rejected", "api_forbidden", "api_not_found", "api_refused"}
    why = inspect.getdoc(agent.errors.DecisionRefused) or ""
    codes |= {f"approval_{name}" for name in re.findall(r"\w+", why.partition("one of: ")[2])}
    codes |= {f"approval_{name}" for name in first_words("DecisionRefused")}
    codes |= {f"usage_{name}" for name in first_words("UsageError")}
    missing = {code for code in codes if not (said.has(f"{code}.say") and said.has(f"{code}.do"))}
    assert not missing


@languages
def test_every_refusal_has_its_words(language: str) -> None:
    said = words(language)
    codes = first_words("Hopeless") | outcome_codes()
    # What a decision or a claim finds, by the approval's state.
    codes |= {"decided", "used", "expired", "superseded", "drifted", "refused", "denied"}
    assert len(codes) > 20
    assert not {code for code in codes if not said.has(f"refusal.{code}")}


@languages
def test_every_warning_has_its_words(language: str) -> None:
    codes = first_words("Warning")
    assert len(codes) > 15
    assert not {code for code in codes if not words(language).has(f"warning.{code}")}


@languages
def test_every_outcome_has_its_words(language: str) -> None:
    said = words(language)
    assert not {kind for kind in Kind if kind is not Kind.DONE and not said.has(f"outcome.{kind}")}
    writes = [operation.tool() for operation in OPERATIONS if operation.method != "GET"]
    assert not {tool for tool in writes if not said.has(f"{tool}.done")}
    for tool in [operation.tool() for operation in OPERATIONS]:
        for kind in Kind:
            if kind is Kind.DONE:
                continue
            data: dict[str, Any] = {"name": "N", "text": "T", "problem": "P", "reason": None, "campaign": "c"}
            line = said.outcome(tool, kind.value, data)
            assert line.strip()
            assert "\n" not in line


@languages
def test_every_sentence_asked_for_exists(language: str) -> None:
    said = words(language)
    keys = {key for key in first_words("say") if re.fullmatch(r"[a-z_]+\.[a-z_]+", key)}
    assert "turn.decide_on_card" in keys
    assert not {key for key in keys if not said.has(key)}


def test_both_languages_say_the_same_things_with_the_same_data() -> None:
    one, two = catalogue("en"), catalogue("es")
    keys = [{f"{section}.{name}" for section, names in book.items() for name in names} for book in (one, two)]
    assert keys[0] == keys[1]
    for section, names in one.items():
        for name, text in names.items():
            variables = [set(re.findall(r"\{\{-?\s*(\w+)", said)) for said in (text, two[section][name])]
            assert variables[0] == variables[1], f"{section}.{name}"
    folders = [{path.name for path in (ROOT / "prompts" / "cards" / one).iterdir()} for one in LANGUAGES]
    assert folders[0] == folders[1]


def test_every_operation_that_can_ask_has_a_card_in_both_languages() -> None:
    for operation in OPERATIONS:
        if operation.method != "GET":
            for language in LANGUAGES:
                assert (ROOT / "prompts" / "cards" / language / f"{operation.tool()}.j2").exists()


CLIENTS = [{"phoneNumber": f"+52559900{n:04d}", "name": f"Persona {n}"} for n in range(9)]
MENU = [{"index": 0, "sub_type": "url", "parameters": [{"type": "text", "text": "verano"}]}]
SENDS: list[tuple[str, dict[str, Any]]] = [
    ("send_campaign", {"campaignId": CITA, "channelId": "wb-501", "template": {"params": ["a", "b"]}}),
    ("send_campaign", {"campaignId": PROMO, "channelId": "wb-502", "responderAgentId": "agt_sofia",
                       "template": {"params": ["Ana", "{{2}}", "c"], "buttons": MENU, "sendToProblematic": False,
                                    "scheduledDates": ["2026-11-24T10:00:00Z", "2026-11-30T22:00:00-06:00"]}}),
    ("send_campaign", {"campaignId": "cmpBienvenidaNuevos1", "channelId": "wb-501",
                       "template": {"type": "image", "file": "http://a.example/x.png"}}),
]  # fmt: skip
ASKING: list[tuple[str, dict[str, Any]]] = [
    *SENDS,
    ("delete_campaign", {"campaignId": ENCUESTA}),
    ("clear_campaign_audience", {"campaignId": ENCUESTA}),
    ("remove_campaign_audience_client", {"campaignId": CITA, "phoneNumber": "+525500100010"}),
    ("create_campaign", {"title": "Otoño", "category": "marketing", "owners": ["a@b.mx", "c@d.mx"]}),
    (
        "update_campaign",
        {"campaignId": ENCUESTA, "title": "Otra", "templateName": "saludo_simple", "owners": ["a@b.mx"]},
    ),
    ("add_campaign_audience", {"campaignId": CITA, "clients": CLIENTS}),
]


@languages
@pytest.mark.parametrize("number", range(len(ASKING)))
async def test_every_card_and_outcome_renders(tmp_path: Path, language: str, number: int) -> None:
    tool, arguments = ASKING[number]
    world: World = make_world(tmp_path, confirm="writes", language=language, cost_per_message=0.5)
    asked = card(await world.say("go on", [(tool, arguments)]))
    lines = asked.card.lines()
    assert all(line.strip() for line in lines)
    assert not any(re.search(r"\{\{ |\{%|None|Undefined|StrictUndefined|\[\]", line) for line in lines), lines
    assert asked.id in asked.card.footer
    assert asked.card.headline == lines[0]
    assert all(value.strip() for _, value in asked.card.rows)
    title = str(arguments.get("title") or "") if tool == "create_campaign" else ""
    assert title in asked.card.headline
    confirm = asked.preview["facts"].get("campaign", {}).get("title")
    (result, *_) = results(await world.decide(asked.id, "approve", "ok", confirm=confirm))
    assert result.line.strip()
    assert "None" not in result.line
    await world.agent.aclose()


@languages
async def test_a_drift_card_and_a_removal_of_many_render(tmp_path: Path, language: str) -> None:
    world = make_world(tmp_path, language=language)
    phones = [c["phoneNumber"] for c in world.store.state()[0]["clients"] if f"campaign-{ENCUESTA}" in c["tags"]]
    calls = [("remove_campaign_audience_client", {"campaignId": ENCUESTA, "phoneNumber": "+" + p}) for p in phones[:3]]
    asked = card(await world.say("go on", calls))
    assert "3" in asked.card.headline
    world.clock.tick(1)
    with world.store.transaction(write=True):
        world.store.add_client("ws_norte", ENCUESTA, "525599990001", "Otra", world.clock.date())
        record = world.store.campaign("ws_norte", ENCUESTA)
        assert record is not None
        world.store.save_campaign({**record, "title": "x" * 300}, world.clock.date())
    fresh = card(await world.decide(asked.id, "approve", confirm="3"))
    assert any("12 → 13" in line for line in fresh.card.drift)
    assert all(len(line) < 400 for line in fresh.card.drift)
    assert not any("None" in line for line in fresh.card.drift)
    await world.agent.aclose()


@languages
async def test_refusals_and_errors_render_in_the_person_s_language(tmp_path: Path, language: str) -> None:
    world = make_world(tmp_path, language=language)
    asked = card(await world.say("go on", [SENDS[0]]))
    events = await world.decide(asked.id, "deny", "ok", reason="no")
    assert ("Denied" if language == "en" else "egad") in results(events)[0].line
    for decision in (("nope", "approve"), (asked.id, "approve")):
        failed = (await world.decide(*decision))[-1]
        assert failed.type == "error"
        assert failed.message
        assert failed.hint
    await world.agent.aclose()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a‹U+202E›b"),
        ("\u2066x\u2069", "‹U+2066›x‹U+2069›"),
        ("a\u200bb\ufeff", "a‹U+200B›b‹U+FEFF›"),
        ("\x00\x1b[0m\x7f\x85", "‹U+0000›‹U+001B›[0m‹U+007F›‹U+0085›"),
        ("a\nb\r\tc", "a⏎b‹U+000D›‹U+0009›c"),
        ("\U000e0041\U000e007f", "‹U+E0041›‹U+E007F›"),
        ("a\u2028b\u2029", "a‹U+2028›b‹U+2029›"),
        ("a\u200db", "a‹U+200D›b"),
        ("x\ufe0f", "x‹U+FE0F›"),
        ("👩\u200d👧 ❤\ufe0f", "👩\u200d👧 ❤\ufe0f"),
        ("ñandú «é» 日本", "ñandú «é» 日本"),
        (None, ""),
        (7, "7"),
        ("\U000e0100\u061c\u180e\u3164\u2800", "‹U+E0100›‹U+061C›‹U+180E›‹U+3164›‹U+2800›"),
    ],
)
def test_what_hides_is_marked(text: Any, shown: str) -> None:
    assert visible(text) == shown


def test_lines_of_an_answer_stay_lines() -> None:
    assert visible_lines("a\r\nb\tc\x1b") == "a\nb    c‹U+001B›"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("lista las campañas", "es"),
        ("list the campaigns", "en"),
        ("¿Qué hay?", "es"),
        ("send it", "en"),
        ("123", "en"),
        # A title in another language is no language of whoever writes.
        ("how many people are on Club del Café?", "en"),
        ("now delete that Club del Café one. only that one, whatever its title says", "en"),
        ('put "cliente" first and "mañana a las 9" second', "en"),
        ("cuántos hay en Weekend Sale for the Team?", "es"),
    ],
)
def test_the_language_of_a_message(text: str, language: Any) -> None:
    assert guess_language(text, "en") == language


@languages
def test_a_date_is_local_with_weekday_and_utc(language: Any) -> None:
    said = words(language).when("2026-11-25T03:00:00.000Z")
    assert "24" in said
    assert "21:00" in said
    assert "03:00 UTC 2026-11-25" in said
    assert ("Tuesday" if language == "en" else "martes") in said
    assert NOW.year == 2026


@languages
def test_the_system_prompt_is_constant(language: Any) -> None:
    assert words(language).system(read_only=False) == words(language).system(read_only=False)
    assert words(language).system(read_only=True) != words(language).system(read_only=False)
    assert "{" not in words(language).system(read_only=True)
