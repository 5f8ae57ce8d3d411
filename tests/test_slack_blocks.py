"""What the Slack bot shows: within every limit of Slack's, others' text as text, and what comes back from modals."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block
from slack_sdk.models.views import View

from agent.events import ApprovalAsked
from agent.interfaces import slack_blocks as ui
from agent.interfaces.slack_blocks import (
    ACTIONS,
    VIEWS,
    WAITS,
    CardState,
    Edited,
    Wrong,
    card_message,
    confirm_modal,
    deny_modal,
    details_modal,
    edit_modal,
    home_view,
    read_confirm,
    read_edit,
    read_reason,
    split_reply,
)
from agent.interfaces.slack_manifest import EVENTS_PATH, LISTENERS, METHODS, manifest
from agent.interfaces.slack_stream import Part, pages
from agent.interfaces.slack_text import REPLY_LENGTH, safe_reply, size
from agent.interfaces.slack_web import Web
from agent.operations import BY_NAME, OPERATIONS, Reading, parse
from agent.prompts import Card, Words
from tests import fakeslack
from tests.fakeslack import App, Reader, check_blocks, check_view, elements, state_of
from tests.support import CITA, ENCUESTA, NOW, PROMO, card, make_world
from tests.test_prompts import ASKING

ZONE = ZoneInfo("America/Mexico_City")
READING = Reading(NOW, ZONE)
WORDS = {language: Words(language, ZONE) for language in ("en", "es")}  # type: ignore[arg-type]
EN = WORDS["en"]
languages = pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
ANA, GRUPO = "U0ANA", "S0APROBADORES"
HOSTILE = "*Approved* <https://evil.tld|Confirm> <!channel>"

# Limits of Slack's, from its reference; where slack_sdk checks one too, this is the second pair of eyes.
LONGEST = {
    ("section", "text"): 3_000,
    ("fields",): 2_000,
    ("header", "text"): 150,
    ("context", "elements"): 3_000,
    ("button", "text"): 75,
    ("confirm", "title"): 100,
    ("confirm", "text"): 300,
    ("confirm", "confirm"): 30,
    ("confirm", "deny"): 30,
    ("options", "text"): 75,
    ("initial_option", "text"): 75,
    ("input", "label"): 2_000,
    ("input", "hint"): 2_000,
    ("view", "title"): 24,
    ("view", "submit"): 24,
    ("view", "close"): 24,
}
STRINGS = {"action_id": 255, "block_id": 255, "callback_id": 255, "private_metadata": 3_000, "url": 3_000}
STRINGS |= {"initial_value": 3_000}


def texts(node: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every text object, with the names that lead to it from the block, element or view that has it."""
    if isinstance(node, list):
        for one in node:
            yield from texts(one, where)
    elif isinstance(node, dict):
        if node.get("type") in ("plain_text", "mrkdwn"):
            yield where, node
            return
        kind = str(node.get("type", ""))
        base = ("view",) if kind in ("modal", "home") else (kind,) if kind else where[-1:]
        for key, inner in node.items():
            yield from texts(inner, (*base, key))


def strings(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for one in node:
            yield from strings(one)
    elif isinstance(node, dict):
        yield from ((key, value) for key, value in node.items() if isinstance(value, str))
        for inner in node.values():
            yield from strings(inner)


def assert_within_limits(node: Any) -> None:
    for where, text in texts(node, ()):
        known = LONGEST.get(where[-2:]) or LONGEST.get(where[-1:])
        assert known is not None, f"a text where none was expected: {where}"
        assert text["text"].strip(), where
        assert size(text["text"]) <= known, where
    for key, value in strings(node):
        assert size(value) <= STRINGS.get(key, 10**9), key
    for _, one in elements(node["blocks"]):
        assert len(one.get("value", "")) <= 2_000
        assert one["type"] != "button" or one["action_id"] in ACTIONS


def assert_message(message: Mapping[str, Any]) -> None:
    """Slack would take it, by chat.postMessage and by chat.update."""
    assert set(message) == {"text", "blocks"}
    assert 1 <= size(message["text"]) <= 4_000
    assert 1 <= len(message["blocks"]) <= 50
    for block in message["blocks"]:
        Block.parse(block).validate_json()  # type: ignore[union-attr]
    check_blocks(message["blocks"])
    assert_within_limits(message)


def assert_view(view: Mapping[str, Any], kind: str) -> None:
    View(**view).validate_json()
    for block in view["blocks"]:
        Block.parse(block).validate_json()  # type: ignore[union-attr]
    check_view(view, kind)
    assert 1 <= len(view["blocks"]) <= 100
    assert len(json.dumps(view)) <= 250_000
    assert_within_limits(view)


def reads(shown: Mapping[str, Any]) -> str:
    return Reader({ANA: "ana", GRUPO: "aprobadores"}).blocks(shown["blocks"])


def actions(shown: Mapping[str, Any]) -> list[str]:
    return [one["action_id"] for _, one in elements(shown["blocks"]) if one["type"] == "button"]


def pings(message: Mapping[str, Any]) -> list[str]:
    return re.findall(r"<([@!#](?!date)[^>|]*)", json.dumps(message, ensure_ascii=False))


FACTS = {"campaign": {"id": "cmp1", "title": "Promo"}, "audience": {"size": 120, "unique": 119}}


def asked(
    headline: str = 'SEND "Promo" to 119 people',
    rows: Sequence[tuple[str, str]] = (("Campaign", "Promo"), ("", "¡Hola!"), ("No way back", "none")),
    warnings: Sequence[str] = (),
    *,
    folded: Sequence[str] = (),
    drift: Sequence[str] = (),
    confirm: str = "yes",
    tool: str = "send_campaign",
    arguments: Any = None,
    title: str = "Promo",
) -> ApprovalAsked:
    """A card as `Agent.asked` makes it, of whatever a test wants on it."""
    made = Card(headline, list(rows), list(warnings), list(folded), list(drift), confirm, "footer")
    arguments = {"campaignId": "cmp1", "channelId": "wb-501"} if arguments is None else arguments
    facts = {**FACTS, "campaign": {"id": "cmp1", "title": title}}
    kept = {"tool": tool, "arguments": [arguments], "facts": facts, "warnings": [], "confirm": confirm, "drift": []}
    expires = NOW.timestamp() + 86_400
    return ApprovalAsked("Ap1", tool, arguments, kept, [*warnings, *folded], expires, confirm, made)


# Cards of the real program.


@languages
@pytest.mark.parametrize("number", range(len(ASKING)))
async def test_every_card_of_the_program_is_one_that_slack_takes(tmp_path: Path, words: Words, number: int) -> None:
    tool, arguments = ASKING[number]
    world = make_world(tmp_path, confirm="writes", language=words.language, cost_per_message=0.5)
    found = card(await world.say("go on", [(tool, arguments)]))
    message = card_message(found, words, mention=[ANA, GRUPO], state=WAITS)
    assert_message(message)
    shown = reads(message)
    said = [found.card.headline, *(value for _, value in found.card.rows), *found.card.warnings]
    for line in said:
        assert line in shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert found.id in shown
    assert words.when(datetime.fromtimestamp(found.expires_at, UTC).isoformat()) in shown
    assert pings(message) == ["@" + ANA, "!subteam^" + GRUPO]
    first = ui.APPROVE if found.confirm == "yes" else ui.APPROVE_TYPED
    more = [ui.DETAILS] if found.card.folded else []
    assert actions(message) == [first, ui.EDIT, ui.DENY, *more]
    for view in (confirm_modal, deny_modal, edit_modal):
        assert_view(view(found, words, private_metadata="{}"), "modal")
    details = details_modal(found, words)
    assert_view(details, "modal")
    for line in [*said, *found.card.folded]:
        assert line in reads(details).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    await world.agent.aclose()


async def test_text_of_a_campaign_is_only_text_in_slack(tmp_path: Path) -> None:
    """PRE-06, and what hides as marks."""
    world = make_world(tmp_path)
    with world.store.transaction(write=True):
        record = world.store.campaign("ws_norte", ENCUESTA)
        assert record is not None
        world.store.save_campaign({**record, "title": HOSTILE + "\u202e"}, world.clock.date())
    found = card(await world.say("go on", [("clear_campaign_audience", {"campaignId": ENCUESTA})]))
    links = {found.id: "https://equipo.slack.com/archives/C1/p1"}
    done = CardState("failed", ANA, NOW.timestamp(), f"Not done: {HOSTILE}")
    views = [details_modal(found, EN), confirm_modal(found, EN, private_metadata="")]
    views += [home_view([found], [(found, done)], EN, links=links)]
    for shown in [card_message(found, EN, mention=[], state=state) for state in (WAITS, done)] + views:
        raw = json.dumps(shown, ensure_ascii=False)
        assert "*Approved* &lt;https://evil.tld|Confirm&gt; &lt;!channel&gt;" in raw
        assert "<!channel" not in raw
        assert "<https" not in raw
        assert "\u202e" not in raw
        assert "‹U+202E›" in raw
        assert not [text for _, text in texts(shown, ()) if text["type"] == "mrkdwn" and "Approved*" in text["text"]]
        assert all(text["emoji"] is False for _, text in texts(shown, ()) if text["type"] == "plain_text")
        assert all(text["verbatim"] is True for _, text in texts(shown, ()) if text["type"] == "mrkdwn")
    await world.agent.aclose()


async def test_a_drift_card_says_what_changed_before_anything_else(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    found = card(await world.say("go on", [("clear_campaign_audience", {"campaignId": ENCUESTA})]))
    with world.store.transaction(write=True):
        world.store.add_client("ws_norte", ENCUESTA, "525599990001", "Otra", world.clock.date())
    title = found.preview["facts"]["campaign"]["title"]
    fresh = card(await world.decide(found.id, "approve", confirm=title))
    shown = reads(card_message(fresh, EN, mention=[], state=WAITS))
    assert shown.index("⚠ CHANGED") < shown.index("12 → 13") < shown.index("*Campaign*")
    await world.agent.aclose()


# States.


@languages
@pytest.mark.parametrize("state", [*ui.STATES, "something_new"])
def test_buttons_are_there_only_while_they_do_something(words: Words, state: str) -> None:
    at = NOW.timestamp()
    decided = CardState(state, ANA, at, "What happened.")
    message = card_message(asked(), words, mention=[ANA], state=decided)
    assert_message(message)
    shown = reads(message)
    wanted = {"pending": [ui.APPROVE, ui.EDIT, ui.DENY], "expired": [ui.ASK_AGAIN]}
    assert actions(message) == wanted.get(state, [])
    assert {one["value"] for _, one in elements(message["blocks"])} <= {"Ap1"}
    if state == "pending":
        return
    assert "What happened." in shown
    assert "@ana" in shown or state == "expired"
    assert f"<!date^{int(at)}^" in json.dumps(message)
    assert "lunes 23 nov 2026, 10:00" in shown or "Monday 23 Nov 2026, 10:00" in shown
    # Nobody is called to a card that is decided: its mention is who did it.
    assert "Ap1" in shown
    assert "decide" not in shown.lower() or "decid" in words.say("slack.state_expired", who="", when="").lower()


def test_the_states_of_a_card_are_told_apart() -> None:
    told = [reads(card_message(asked(), EN, mention=[], state=CardState(s, ANA, 0.0, ""))) for s in ui.STATES]
    assert len(set(told)) == len(ui.STATES)
    notices = [card_message(asked(), EN, mention=[], state=CardState(s, ANA, 0.0, ""))["text"] for s in ui.STATES]
    assert len(set(notices)) == len(ui.STATES)


@pytest.mark.parametrize(
    ("by", "shown"),
    [
        ("U0ANA", "<@U0ANA>"),
        ("slack:T0FAKE:U0ANA", "<@U0ANA>"),
        ("slack:T0FAKE/U0ANA", "<@U0ANA>"),
        ("os:1000", "`os:1000`"),
        ("os:ana_b*c <!channel>`", "`os:ana_b*c &lt;!channel&gt;'`"),
    ],
)
def test_who_decided_wherever_it_was(by: str, shown: str) -> None:
    message = card_message(asked(), EN, mention=[], state=CardState("done", by, 0.0, "ok"))
    assert_message(message)
    assert any(shown in text["text"] for _, text in texts(message, ()))


def test_those_who_may_decide_are_called_once_and_not_without_end() -> None:
    many = [f"U0P{n}" for n in range(100)]
    message = card_message(asked(), EN, mention=[ANA, ANA, *many], state=WAITS)
    assert_message(message)
    assert len(pings(message)) == 25 == len(set(pings(message)))
    assert "and 76 more" in reads(message)
    assert pings(card_message(asked(), EN, mention=[ANA], state=CardState("denied", None, None, ""))) == []


def test_a_card_that_needs_somebody_else_says_who_has_approved_it() -> None:
    message = card_message(asked(), EN, mention=[GRUPO], state=CardState("pending", ANA, 0.0, "Two have to approve."))
    assert_message(message)
    shown = reads(message)
    assert "Two have to approve." in shown
    assert "Approved by @ana" in shown
    assert "@aprobadores: please decide." in shown
    assert actions(message) == [ui.APPROVE, ui.EDIT, ui.DENY]


def test_what_needs_typing_opens_a_modal_and_the_rest_a_dialog() -> None:
    (approve, *_) = [one for _, one in elements(card_message(asked(), EN, mention=[], state=WAITS)["blocks"])]
    assert approve["action_id"] == ui.APPROVE
    assert 'SEND "Promo" to 119 people' in approve["confirm"]["text"]["text"]
    for confirm in ("typed", "title"):
        found = card_message(asked(confirm=confirm), EN, mention=[], state=WAITS)
        (approve, *_) = [one for _, one in elements(found["blocks"])]
        assert approve["action_id"] == ui.APPROVE_TYPED
        assert "confirm" not in approve


def test_a_line_of_the_program_s_own_stands_above_the_card() -> None:
    message = card_message(asked(), EN, mention=[], state=WAITS, note=EN.say("screen.sandbox"))
    assert_message(message)
    assert reads(message).startswith("SANDBOX")


def test_folded_warnings_are_counted_and_one_click_away() -> None:
    found = asked(warnings=["one", "two", "three"], folded=["four", "five"])
    message = card_message(found, EN, mention=[], state=WAITS)
    shown = reads(message)
    assert "⚠ 2 more warnings are under “Show everything”." in shown
    assert "four" not in shown
    decided = reads(card_message(found, EN, mention=[], state=CardState("denied", ANA, 0.0, "")))
    assert "⚠ 2 more warnings.\n" in decided
    assert actions(message)[-1] == ui.DETAILS
    assert "⚠ five" in reads(details_modal(found, EN))
    assert "⚠ five" in reads(confirm_modal(found, EN, private_metadata=""))


# Limits, whatever is on a card.

HOSTILE_TEXT = st.text(
    st.characters(codec="utf-8") | st.sampled_from('&<>*_~`"\\|\n\u202e\u200d😀\ufe0f@#!:'), max_size=60
)
LONG = st.builds(lambda text, times: text * times, HOSTILE_TEXT, st.sampled_from([1, 1, 1, 40, 200]))
LABELS = st.sampled_from(["", "", "Campaign", "No way back", "Parámetro 1", "a*b", "x\ny", "‹U+202E›"]) | HOSTILE_TEXT
CARDS = st.builds(
    asked,
    LONG,
    st.lists(st.tuples(LABELS, LONG), max_size=8) | st.lists(st.tuples(LABELS, HOSTILE_TEXT), min_size=40, max_size=60),
    st.lists(LONG, max_size=3),
    folded=st.lists(LONG, max_size=4),
    drift=st.lists(LONG, max_size=4),
    confirm=st.sampled_from(["yes", "typed", "title"]),
    title=LONG,
)
quick = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
PEOPLE = [("Remove", f"+5255001{n:05d} · Persona {n}") for n in range(200)]


@quick
@given(found=CARDS, line=LONG, state=st.sampled_from(ui.STATES), who=st.none() | HOSTILE_TEXT)
@example(asked("&" * 140), "<" * 1_990, "done", "&" * 100)
@example(asked("&" * 10_000), "&" * 10_000, "done", "<" * 5_000)
@example(asked(rows=[*PEOPLE, ("Campaign", "Promo"), ("Stays", "there")]), "", "pending", None)
@example(asked(rows=[("", "x" * 10_000), ("No way back", "none")]), "", "pending", None)
@example(asked(rows=[("", "\n" * 10_000)] * 3), "", "pending", None)
@example(asked(rows=[("", "a"), ("b", "c")] * 200), "", "pending", None)
@example(asked("x" * 999, [("", "a"), ("b", "c")] * 15, ["x" * 999] * 3, drift=["x" * 999] * 30), "", "pending", None)
@example(asked(rows=[("", "a"), ("b", "c")] * 15, folded=["x"], drift=["x" * 1_900] * 40), "x", "done", ANA)
@example(
    asked('"' * 3_000, [(f"n{n}", "\\" * 2_500) for n in range(40)], ['"' * 2_500] * 3), '"' * 9_999, "pending", ANA
)
@example(asked("", [("", ""), ("a", " ")], [""], drift=[" "]), " ", "pending", "")
def test_whatever_is_on_a_card_slack_takes_it(found: ApprovalAsked, line: str, state: str, who: str | None) -> None:
    decided = CardState(state, who, NOW.timestamp(), line)
    assert_message(card_message(found, EN, mention=[ANA, who or ANA], state=decided, note="SANDBOX"))
    metadata = "m" * 3_000
    for view in (confirm_modal, deny_modal):
        assert_view(view(found, EN, private_metadata=metadata), "modal")
    assert_view(details_modal(found, EN), "modal")
    assert_view(home_view([found] * 16, [(found, decided)] * 16, EN, links={"Ap1": "https://x.slack.com/y"}), "home")


@quick
@given(found=CARDS)
def test_words_of_others_are_never_markup(found: ApprovalAsked) -> None:
    """What is `mrkdwn` on a card is the same whatever stands on it."""
    rows = [(name, "x") for name, _ in found.card.rows]
    bland = replace(found, card=replace(found.card, headline="x", rows=rows, warnings=["x"], folded=[], drift=[]))

    def own(one: ApprovalAsked) -> set[str]:
        shown = card_message(one, EN, mention=[ANA], state=WAITS)
        return {text["text"] for _, text in texts(shown, ()) if text["type"] == "mrkdwn"}

    assert own(found) <= own(bland)
    assert all(re.fullmatch(r"[^<>]*(<(@U0ANA|!date\^\d+\^[^<>|]*\|[^<>]*)>[^<>]*)*", text) for text in own(found))


def test_a_label_that_could_end_its_bold_is_not_bold() -> None:
    rows = [("Sender channel", "x"), ("*a*", "x"), ("<!here>", "x"), ("a`b", "x")]
    (facts,) = [
        block for block in card_message(asked(rows=rows), EN, mention=[], state=WAITS)["blocks"] if "fields" in block
    ]
    kinds = [(text["type"], text["text"]) for text in facts["fields"][::2]]
    plain = [("plain_text", "*a*"), ("plain_text", "&lt;!here&gt;"), ("plain_text", "a`b")]
    assert kinds == [("mrkdwn", "*Sender channel*"), *plain]


def test_what_is_cut_says_so_and_keeps_both_ends() -> None:
    body = "\n".join(["First line.", *[""] * 60, "x" * 10_000, "Last line."])
    found = asked(rows=[("Campaign", "Promo"), ("", body), ("No way back", "messages can't be recalled")])
    message = card_message(found, EN, mention=[], state=WAITS)
    assert_message(message)
    shown = reads(message)
    assert shown.index("Promo") < shown.index("│ First line.") < shown.index("│ Last line.") or "Last line." in shown
    assert re.search(r"… [\d,]+ more characters, SHA-256 [0-9a-f]{12} …", shown)
    assert "messages can't be recalled" in shown
    assert actions(message)[-1] == ui.DETAILS


def test_two_hundred_facts_keep_the_first_and_the_last() -> None:
    wide = [(name, value + " de la colonia Roma Norte" * 3) for name, value in PEOPLE]
    found = asked(rows=[*wide, ("Campaign", "Promo"), ("Stays", "the person stays in the workspace")])
    message = card_message(found, EN, mention=[], state=WAITS)
    assert_message(message)
    shown = reads(message)
    assert "Persona 0 " in shown
    assert "the person stays in the workspace" in shown
    left = re.search(r"… (\d+) more lines are under “Show everything” …", shown)
    assert left is not None
    assert shown.count("Remove: ") == 202 - int(left[1]) - 2
    assert reads(details_modal(found, EN)).count("Remove: ") == 200
    assert reads(card_message(asked(rows=PEOPLE[:100]), EN, mention=[], state=WAITS)).count("Remove: ") == 100


def test_a_message_can_t_pass_for_facts_of_the_card() -> None:
    found = asked(
        rows=[("Campaign", "Promo"), ("", "Hi\nNo way back: it can be undone\n\nBye"), ("No way back", "none")]
    )
    shown = reads(card_message(found, EN, mention=[], state=WAITS)).split("\n")
    assert "│ No way back: it can be undone" in shown
    assert "No way back: it can be undone" not in shown
    assert shown.index("│ ") == shown.index("│ Bye") - 1


# Modals.


@languages
def test_the_title_is_asked_for_as_the_gate_wants_it(words: Words) -> None:
    either = confirm_modal(asked(confirm="typed"), words, private_metadata="meta")
    assert_view(either, "modal")
    assert either["callback_id"] == ui.CONFIRM_VIEW
    assert either["private_metadata"] == "meta"
    assert "119" in reads(either)
    assert "Promo" in reads(either)
    title = confirm_modal(asked("CLEAR it", confirm="title"), words, private_metadata="")
    assert "119" not in reads(title)
    hidden = confirm_modal(asked("CLEAR it", confirm="title", title="\u2800 "), words, private_metadata="")
    assert "cmp1" not in reads(title)
    assert "‹U+2800›" in reads(hidden)
    nothing = confirm_modal(asked("CLEAR it", confirm="title", title="  "), words, private_metadata="")
    assert "cmp1" in reads(nothing)
    assert [
        block for block in confirm_modal(asked(), words, private_metadata="")["blocks"] if block["type"] == "input"
    ] == []


def test_what_was_typed_comes_back() -> None:
    view = confirm_modal(asked(confirm="typed"), EN, private_metadata="")
    assert read_confirm(state_of(view["blocks"], {ui.CONFIRM_BLOCK: "  Promo "}, filled=True)) == "Promo"
    assert read_confirm({}) is None
    deny = deny_modal(asked(), EN, private_metadata="")
    assert read_reason(state_of(deny["blocks"], {ui.REASON_BLOCK: "todavía no"}, filled=True)) == "todavía no"
    assert read_reason(state_of(deny["blocks"], {}, filled=True)) is None
    assert read_reason(state_of(deny["blocks"], {ui.REASON_BLOCK: "   "}, filled=True)) is None


SEND: dict[str, Any] = {
    "campaignId": PROMO,
    "channelId": "wb-501",
    "template": {
        "params": ["Ana", "veinte & <más>"],
        "type": "image",
        "file": "https://cdn.example.com/a.png",
        "buttons": [
            {"index": 0, "sub_type": "quick_reply"},
            {"index": 1, "sub_type": "url", "parameters": [{"type": "text", "text": "verano"}]},
        ],
        "sendToProblematic": False,
        "scheduledDates": ["2026-12-01T16:00:00.000Z", "2026-12-02T16:00:30.000Z"],
    },
}


DATES = "edit.template.scheduledDates"


def edit(found: ApprovalAsked, values: Mapping[str, Any], words: Words = EN) -> Edited | Wrong:
    view = edit_modal(found, words, private_metadata="")
    assert_view(view, "modal")
    return read_edit(found, state_of(view["blocks"], dict(values), filled=True), words, reading=READING)


def changed(values: Mapping[str, Any], arguments: Any = None, tool: str = "send_campaign") -> dict[str, Any]:
    found = edit(asked(tool=tool, arguments=SEND if arguments is None else arguments), values)
    assert isinstance(found, Edited), found
    return dict(found.arguments)


def wrong(values: Mapping[str, Any], arguments: Any = None, tool: str = "send_campaign") -> Mapping[str, str]:
    found = edit(asked(tool=tool, arguments=SEND if arguments is None else arguments), values)
    assert isinstance(found, Wrong), found
    return found.errors


def test_each_argument_of_a_send_can_be_changed_and_the_rest_stays() -> None:
    (plain, url), otoño = SEND["template"]["buttons"], {"type": "text", "text": "otoño"}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"edit.channelId": "wb-502"}, {"channelId": "wb-502"}),
        ({"edit.responderAgentId": "agt_1"}, {"responderAgentId": "agt_1"}),
        ({"edit.template.params": "Beto\n\n veinte & <más> "}, {"params": ["Beto", "veinte & <más>"]}),
        ({"edit.template.params": None}, {"params": ...}),
        ({"edit.template.type": "video"}, {"type": "video"}),
        ({"edit.template.type": "-", "edit.template.file": None}, {"type": ..., "file": ...}),
        ({"edit.template.sendToProblematic": "yes"}, {"sendToProblematic": True}),
        ({"edit.template.sendToUndeliverable": "no"}, {"sendToUndeliverable": False}),
        ({"edit.template.scheduledDates": None}, {"scheduledDates": ...}),
        (
            {"edit.template.scheduledDates": "2026-12-01 10:00\n2026-12-24T18:30\n2026-12-25 10:00+00:00"},
            {"scheduledDates": ["2026-12-01T16:00:00.000Z", "2026-12-25T00:30:00.000Z", "2026-12-25T10:00:00.000Z"]},
        ),
        ({"edit.template.buttons.1.parameters": "otoño"}, {"buttons": [plain, {**url, "parameters": [otoño]}]}),
    ]  # fmt: skip
    for values, difference in cases:
        wanted = json.loads(json.dumps(SEND))
        for key, value in difference.items():
            holder = wanted if key in ("channelId", "responderAgentId") else wanted["template"]
            holder.pop(key, None)
            holder |= {} if value is ... else {key: value}
        assert changed(values) == wanted, values


def test_a_send_without_a_template_section_gets_one_only_when_something_is_in_it() -> None:
    bare = {"campaignId": PROMO, "channelId": "wb-501"}
    assert changed({"edit.channelId": "wb-502"}, bare) == {**bare, "channelId": "wb-502"}
    assert changed({"edit.template.params": "Ana"}, bare) == {**bare, "template": {"params": ["Ana"]}}
    one = {**bare, "template": {"params": ["Ana"]}}
    assert changed({"edit.template.params": None}, one) == bare


OTHERS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "remove_campaign_audience_client",
        {"campaignId": CITA, "phoneNumber": "+525500100010"},
        {"edit.phoneNumber": "55 0010 0011"},
        {"campaignId": CITA, "phoneNumber": "+525500100011"},
    ),
    ("clear_campaign_audience", {"campaignId": CITA}, {"edit.campaignId": PROMO}, {"campaignId": PROMO}),
    ("delete_campaign", {"campaignId": CITA}, {"edit.campaignId": PROMO}, {"campaignId": PROMO}),
    (
        "create_campaign",
        {"title": "Otoño", "category": "marketing", "platform": "whatsapp", "owners": ["a@b.mx"]},
        {"edit.category": "utility", "edit.owners": "a@b.mx\nc@d.mx", "edit.message": "Hola\nadiós"},
        {
            "title": "Otoño",
            "category": "utility",
            "platform": "whatsapp",
            "owners": ["a@b.mx", "c@d.mx"],
            "message": "Hola\nadiós",
        },
    ),
    (
        "update_campaign",
        {"campaignId": CITA, "title": "Otra"},
        {"edit.title": None, "edit.templateName": "saludo_simple"},
        {"campaignId": CITA, "templateName": "saludo_simple"},
    ),
    (
        "add_campaign_audience",
        {"campaignId": CITA, "clients": [{"phoneNumber": "+525500100001", "name": "Ana, la de ventas"}]},
        {"edit.clients": "+525500100001, Ana, la de ventas\n+52 55 0010 0002,Beto"},
        {
            "campaignId": CITA,
            "clients": [
                {"phoneNumber": "+525500100001", "name": "Ana, la de ventas"},
                {"phoneNumber": "+525500100002", "name": "Beto"},
            ],
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", OTHERS, ids=[case[0] for case in OTHERS])
def test_other_operations_are_edited_too(case: tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    tool, before, values, after = case
    assert changed(values, before, tool) == after


def test_every_operation_that_can_ask_can_be_edited_with_words_for_each_field() -> None:
    writes = [operation.tool() for operation in OPERATIONS if operation.method != "GET"]
    examples = {"send_campaign": SEND, **{tool: before for tool, before, _, _ in OTHERS}}
    assert set(examples) == set(writes)
    for words in WORDS.values():
        for tool, arguments in examples.items():
            found = asked(tool=tool, arguments=arguments)
            view = edit_modal(found, words, private_metadata="")
            assert_view(view, "modal")
            assert actions(card_message(found, words, mention=[], state=WAITS))[1] == ui.EDIT
            # As it was: nothing is voided by it.
            same = read_edit(found, state_of(view["blocks"], {}, filled=True), words, reading=READING)
            assert isinstance(same, Wrong)
            assert list(same.errors.values()) == [words.say("slack.edit_same")]
            assert set(same.errors) <= {block.get("block_id") for block in view["blocks"]}


def test_several_calls_on_one_card_have_nothing_to_edit() -> None:
    calls = [{"campaignId": CITA, "phoneNumber": f"+52550010001{n}"} for n in range(3)]
    found = asked(tool="remove_campaign_audience_client", arguments=calls, confirm="typed")
    message = card_message(found, EN, mention=[], state=WAITS)
    assert_message(message)
    assert actions(message) == [ui.APPROVE_TYPED, ui.DENY]


@pytest.mark.parametrize(
    ("values", "block", "key"),
    [
        ({DATES: "2026-11-23 09:59"}, DATES, "wrong_dates"),
        ({DATES: "mañana"}, DATES, "wrong_dates"),
        ({DATES: "2026-12-01 10:00\n2026-12-01 10:00"}, DATES, "wrong_dates"),
        ({"edit.template.file": "http://10.0.0.1/x"}, "edit.template.file", "wrong_file"),
        ({"edit.template.file": None}, "edit.template.file", "wrong_media"),
        ({"edit.channelId": "wb 501/send#"}, "edit.channelId", "wrong_id"),
        ({"edit.responderAgentId": "../x"}, "edit.responderAgentId", "wrong_id"),
    ],
)  # fmt: skip
@languages
def test_what_is_wrong_is_said_at_its_field(words: Words, values: dict[str, Any], block: str, key: str) -> None:
    found = edit(asked(arguments=SEND), values, words)
    assert found == Wrong({block: words.say(f"slack.{key}")})


def test_several_mistakes_are_told_at_once_and_others_have_the_operation_s_words() -> None:
    found = wrong({"edit.channelId": "a b", "edit.template.file": "nope"})
    assert set(found) == {"edit.channelId", "edit.template.file"}
    phone = wrong({"edit.phoneNumber": "12"}, OTHERS[0][1], OTHERS[0][0])
    assert phone == {"edit.phoneNumber": EN.say("slack.wrong_phone")}
    people = wrong({"edit.clients": "sin teléfono"}, OTHERS[5][1], OTHERS[5][0])
    assert people == {"edit.clients": EN.say("slack.wrong_clients")}
    empty = wrong({"edit.title": None}, OTHERS[4][1], OTHERS[4][0])
    assert list(empty) == ["edit.title"], "the first field stands for the whole"
    assert "nothing to change" in empty["edit.title"]


def test_what_a_field_can_t_show_survives_an_edit_of_another_line() -> None:
    odd = ["A\u200bna", "dos\nrenglones", "x"]
    arguments = {**SEND, "template": {"params": odd, "scheduledDates": ["2026-12-02T16:00:30.250Z"]}}
    view = edit_modal(asked(arguments=arguments), EN, private_metadata="")
    (block,) = [one for one in view["blocks"] if one.get("block_id") == "edit.template.params"]
    assert block["element"]["initial_value"] == "A‹U+200B›na\ndos⏎renglones\nx"
    values = {"edit.template.params": block["element"]["initial_value"].replace("\nx", "\ny")}
    assert changed(values, arguments)["template"]["params"] == [*odd[:2], "y"]


def test_what_is_too_long_for_a_field_stays_and_is_said() -> None:
    people = [{"phoneNumber": f"+5255001{n:05d}", "name": f"Persona {n}"} for n in range(300)]
    found = asked(tool="add_campaign_audience", arguments={"campaignId": CITA, "clients": people})
    view = edit_modal(found, EN, private_metadata="")
    assert_view(view, "modal")
    assert EN.say("slack.edit_too_long", field="People") in reads(view)
    title = {"title": "Otoño", "category": "utility", "message": "m" * 3_001}
    assert changed({"edit.title": "Invierno"}, title, "create_campaign")["message"] == "m" * 3_001


def test_an_hour_that_comes_twice_keeps_its_offset() -> None:
    words = Words("en", ZoneInfo("America/New_York"))
    reading = replace(READING, zone=words.zone)
    dates = ["2027-11-07T05:30:00.000Z", "2027-11-07T06:30:00.000Z"]
    found = asked(arguments={**SEND, "template": {"scheduledDates": dates}})
    view = edit_modal(found, words, private_metadata="")
    (shown,) = [one["element"]["initial_value"] for one in view["blocks"] if one.get("block_id", "").endswith("Dates")]
    assert shown == "2027-11-07 01:30-04:00\n2027-11-07 01:30-05:00"
    typed = state_of(view["blocks"], {"edit.template.scheduledDates": shown.split("\n")[1] + " "}, filled=True)
    edited = read_edit(found, typed, words, reading=reading)
    assert isinstance(edited, Edited)
    assert edited.arguments["template"]["scheduledDates"] == dates[1:]


PARAM = st.text(st.characters(codec="utf-8") | st.sampled_from("\n\u200b &<"), max_size=20).filter(
    lambda text: text.strip()
)
SENDS = st.fixed_dictionaries(
    {"campaignId": st.just(PROMO), "channelId": st.just("wb-501")},
    optional={
        "template": st.fixed_dictionaries(
            {},
            optional={
                "params": st.lists(PARAM, max_size=4),
                "name": PARAM,
                "sendToProblematic": st.booleans(),
                "scheduledDates": st.lists(
                    st.datetimes(datetime(2027, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)).map(
                        lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
                    ),
                    min_size=1,
                    max_size=3,
                    unique=True,
                ),
            },
        )
    },
)


@quick
@given(arguments=SENDS, words=st.sampled_from(list(WORDS.values())))
def test_a_form_sent_as_it_was_changes_nothing_and_one_field_only_itself(
    arguments: dict[str, Any], words: Words
) -> None:
    canonical = parse("send_campaign", arguments, READING).arguments()
    found = asked(arguments=canonical)
    view = edit_modal(found, words, private_metadata="")
    assert_view(view, "modal")
    same = read_edit(found, state_of(view["blocks"], {}, filled=True), words, reading=READING)
    assert same == Wrong({"edit.channelId": words.say("slack.edit_same")})
    other = read_edit(found, state_of(view["blocks"], {"edit.channelId": "wb-9"}, filled=True), words, reading=READING)
    assert other == Edited({**canonical, "channelId": "wb-9"})


# Home.


@languages
def test_home_shows_what_waits_and_what_was_decided(words: Words) -> None:
    waiting = [replace(asked(f"SEND {n}"), id=f"W{n}") for n in range(3)]
    decided = [(asked("CLEAR it"), CardState("denied", ANA, 0.0, "Denied: no."))]
    view = home_view(waiting, decided, words, links={"W1": "https://x.slack.com/p"}, note="SANDBOX")
    assert_view(view, "home")
    shown = reads(view)
    assert [line for line in shown.split("\n") if line.startswith("SEND")] == ["SEND 0", "SEND 1", "SEND 2"]
    assert "Denied: no." in shown
    assert "@ana" in shown
    assert actions(view) == [ui.DETAILS, ui.OPEN, ui.DETAILS, ui.DETAILS]
    assert [one["value"] for _, one in elements(view["blocks"])] == ["W0", "W1", "W1", "W2"]
    empty = home_view([], [], words)
    assert_view(empty, "home")
    assert words.say("slack.home_nothing") in reads(empty)
    full = home_view(waiting * 30, decided * 99, words)
    assert_view(full, "home")
    assert "75" in reads(full)
    assert "84" in reads(full)


# Answers.

INLINE = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40)
LINES = st.one_of(
    INLINE,
    st.just(""),
    st.sampled_from(["```", "```python", "~~~", "````", "| a | b |", "|---|---|", "# Título", "- uno", "> dicho"]),
    st.lists(st.sampled_from(["uno", "dos", "tres.", "😀"]), max_size=300).map(" ".join),
    st.integers(1, 900).map(lambda n: "x" * n),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=40), limit=st.sampled_from([500, 501, 1_000, 3_000]))
@example(["```python", *[f"x = {n}  # comentario" for n in range(200)], "```", "Fin."], 500)
@example(["x" * 2_000], 500)
@example(["😀" * 999], 500)
@example(["```", "y" * 2_000], 500)
def test_a_split_answer_loses_no_word_and_each_part_fits(lines: list[str], limit: int) -> None:
    text = "\n".join(lines)
    parts = split_reply(text, limit)
    assert all(part.strip() and size(part) <= limit for part in parts)
    kept = Counter(word for part in parts for word in part.split())
    words = Counter(word for word in safe_reply(text).split() if not re.match("[`~]{3}", word))
    # A word longer than a part can't stay whole; what a part's fence or header takes is less than 300.
    assert not {word for word, count in words.items() if size(word) <= limit - 300 and kept[word] < count}
    squeezed, at = "".join("".join(parts).split()), 0
    for letters in re.findall(r"\w{4,20}", safe_reply(text)):
        found = squeezed.find(letters[:4], at)
        assert found >= 0, letters
        at = found + 1


def test_a_short_answer_is_one_part_as_it_is() -> None:
    text = "Hay **dos** campañas:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx\n```"
    assert split_reply(text) == [text]
    assert split_reply("") == split_reply(" \n ") == []
    assert all(len(part) <= REPLY_LENGTH for part in split_reply("palabra " * 3_000))


def test_answers_are_cut_between_paragraphs_then_sentences_then_words() -> None:
    paragraphs = [f"Párrafo {n}. " + "Dice algo más. " * 20 for n in range(4)]
    parts = split_reply("\n\n".join(paragraphs), 700)
    assert [part.split(".")[0] for part in parts] == ["Párrafo 0", "Párrafo 2"]
    one = split_reply("Una frase que dice algo. " * 60, 500)
    assert len(one) == 4
    assert all(part.strip().endswith("algo.") and part.startswith("Una") for part in one)
    words = split_reply("palabra " * 300, 500)
    assert {word for part in words for word in part.split()} == {"palabra"}
    assert sum(part.count("palabra") for part in words) == 300


def test_a_fence_that_is_cut_is_a_fence_in_each_part() -> None:
    code = [f"linea_{n} = {n}" for n in range(100)]
    parts = split_reply("\n".join(["Antes.", "", "```python", *code, "```", "Después."]), 500)
    assert len(parts) > 3
    inside = [part for part in parts if "linea_" in part]
    for part in inside:
        assert part.count("```") == 2
        assert part[part.index("```") :].startswith("```python\n")
    assert [line for part in parts for line in part.split("\n") if line.startswith("linea_")] == code
    assert parts[0] == "Antes."
    assert parts[-1].endswith("```\nDespués.")
    nested = split_reply("\n".join(["~~~~", "```", "~~~", *code, "~~~~"]), 500)
    assert all(part.startswith("~~~~\n") and part.endswith("\n~~~~") for part in nested)


def test_a_table_that_is_cut_has_its_header_in_each_part_and_whole_rows() -> None:
    rows = [f"| campaña {n} | {n} personas |" for n in range(60)]
    text = "\n".join(["Estas:", "", "| título | audiencia |", "|:---|---:|", *rows, "", "Eso es todo."])
    parts = split_reply(text, 500)
    assert len(parts) > 3
    for part in [one for one in parts if "| campaña" in one]:
        assert part.startswith("| título | audiencia |\n|:---|---:|\n| campaña")
    assert [line for part in parts for line in part.split("\n") if line.startswith("| campaña")] == rows
    whole = split_reply("x" * 300 + "\n\n" + "\n".join(["| a |", "|---|", *["| uno dos |"] * 20]), 500)
    assert [part[:5] for part in whole] == ["xxxxx", "| a |"]


@pytest.mark.parametrize("said", ["<!channel>", "<@U0ANA>", "<https://evil.tld|Confirm>", "<!subteam^S1>", "<#C1>"])
def test_an_answer_pings_nobody_wherever_a_stream_is_cut(said: str) -> None:
    for at in range(len(said) + 1):
        streamed = safe_reply(said[:at]) + safe_reply(said[at:])
        for shown in (streamed, *split_reply(f"La campaña {said} existe.")):
            assert "<" not in shown
    assert safe_reply(safe_reply(said)) == safe_reply(said)
    assert safe_reply("a\u202eb") == "a‹U+202E›b"


# The manifest.

NEEDED = {
    "message.im": "im:history",
    "message.channels": "channels:history",
    "message.groups": "groups:history",
    "app_mention": "app_mentions:read",
}
"""From the reference pages of the events."""


@languages
@pytest.mark.parametrize("url", [None, "https://bot.example.com", "https://bot.example.com" + EVENTS_PATH])
def test_the_manifest_is_made_of_the_listeners(words: Words, url: str | None) -> None:
    made = manifest(words, url=url)
    scopes = made["oauth_config"]["scopes"]["bot"]
    events = made["settings"]["event_subscriptions"]["bot_events"]
    assert events == sorted(one.name for one in LISTENERS if one.kind == "event")
    assert scopes == sorted(set(scopes))
    assert {one.scope for one in LISTENERS if one.scope} <= set(scopes)
    for event, scope in NEEDED.items():
        assert event in events
        assert scope in scopes
    where = made["settings"]["interactivity"].get("request_url")
    assert where == made["settings"]["event_subscriptions"].get("request_url")
    assert where == (None if url is None else "https://bot.example.com/slack/events")
    assert made["settings"]["socket_mode_enabled"] is (url is None)
    app = App.of(made)
    assert app.agent
    assert app.home
    assert app.interactive
    assert all(app.hears(event) for event in events)


def test_every_event_and_method_has_its_scope() -> None:
    scopes = set(manifest(EN)["oauth_config"]["scopes"]["bot"])
    assert {one.name: one.scope for one in LISTENERS if one.name in NEEDED} == NEEDED
    for name, scope in METHODS.items():
        wanted = fakeslack.METHODS[name].scope
        # What a conversation needs goes by its kind: here it is the one with the app.
        assert scope == wanted or (wanted == "" and scope.startswith("im:")), name
        assert scope in scopes | {""}
    # And no more than that: each has its reason.
    assert scopes == {one.scope for one in LISTENERS if one.scope} | {scope for scope in METHODS.values() if scope}


def test_the_bot_calls_what_its_scopes_cover_and_asks_for_no_scope_beside() -> None:
    sources = [path.read_text("utf-8") for path in Path(ui.__file__).parent.glob("slack*.py")]
    called = {name for text in sources for name in re.findall(r"""\.(?:call|_once)\(\s*"([\w.]+)\"""", text)}
    assert called == set(METHODS)


def test_every_button_and_modal_has_a_listener() -> None:
    names = {kind: [one.name for one in LISTENERS if one.kind == kind] for kind in ("event", "action", "view")}
    assert all(len(found) == len(set(found)) for found in names.values())
    assert names["action"] == list(ACTIONS)
    assert names["view"] == list(VIEWS)
    modals = [make(asked(), EN, private_metadata="") for make in (confirm_modal, deny_modal, edit_modal)]
    assert [view["callback_id"] for view in modals] == names["view"]
    assert {one.type for one in LISTENERS if one.name.startswith("message.")} == {"message"}
    assert BY_NAME.keys() == {operation.tool() for operation in OPERATIONS}


@languages
def test_the_manifest_keeps_slack_s_limits(words: Words) -> None:
    made = manifest(words)
    about, features = made["display_information"], made["features"]
    assert len(about["name"]) <= 35
    assert len(about["description"]) <= 140
    assert 174 <= len(about["long_description"]) <= 4_000
    assert len(features["agent_view"]["agent_description"]) <= 300
    assert re.fullmatch(r"[a-z0-9._-]{1,80}", features["bot_user"]["display_name"])
    assert 1 <= len(features["agent_view"]["suggested_prompts"]) <= 4
    assert all(one["title"] and one["message"] for one in features["agent_view"]["suggested_prompts"])
    assert json.loads(json.dumps(made)) == made


def test_a_notification_is_escaped_once() -> None:
    ((notice, blocks),) = pages([Part("line", "✗ A & <B>"), Part("words", "1 < 2")], WORDS["en"])
    assert notice == "✗ A &amp; &lt;B&gt;\n1 &lt; 2"
    assert blocks[0]["text"]["text"] == "✗ A &amp; &lt;B&gt;"


async def test_what_one_person_is_told_alone_is_escaped() -> None:
    told: list[Any] = []

    class Quiet(Web):
        async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
            told.append(arguments["text"])
            return {}

    await Quiet("xoxb-1", "http://127.0.0.1:9/api").tell("U1", None, "<!channel> & co")
    assert told == ["&lt;!channel&gt; &amp; co"]
