"""The fake Slack behaves as Slack is documented to: each rule is shown with slack_sdk, Bolt or a bare socket."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
)
from slack_sdk.http_retry.builtin_interval_calculators import FixedValueRetryIntervalCalculator
from slack_sdk.models.views import View
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient

from tests.fakeslack import (
    APP_TOKEN,
    BLOCKS_LENGTH,
    BOT,
    BOT_TOKEN,
    BOT_USER,
    SIGNING_SECRET,
    TEAM,
    FakeSlack,
    Json,
    NotPossible,
    Remote,
    Timing,
    Wire,
)

ROOT = Path(__file__).parent.parent
# A busy machine may take its time to answer: only where a test waits for a time-out is the limit short.
QUICK = Timing(retries=(0.0, 0.01, 0.02))


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    """Ana and Beto, a channel of both with the app in it; the app's own posts don't come back as events."""
    async with FakeSlack(timing=QUICK, echo=False) as made:
        people(made)
        yield made


def people(slack: FakeSlack) -> None:
    slack.add_user("ana")
    slack.add_user("beto")
    slack.add_channel("ventas", ["U0ANA", "U0BETO"])
    slack.add_group("aprobadores", ["U0BETO"])


ANA, BETO, VENTAS, APROBADORES = "U0ANA", "U0BETO", "C0VENTAS", "S0APROBADORES"


@pytest.fixture
def client(slack: FakeSlack) -> AsyncWebClient:
    return AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)


async def error(call: Awaitable[Any]) -> str:
    """Slack's error string of a call that must fail."""
    with pytest.raises(SlackApiError) as refused:
        await call
    return str(refused.value.response["error"])


async def told(call: Awaitable[Any]) -> str:
    with pytest.raises(SlackApiError) as refused:
        await call
    return str(refused.value.response.get("response_metadata", {}).get("messages"))


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def section(text: str = "Hola", **more: Any) -> Json:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}, **more}


def button(action_id: str = "approve", **more: Any) -> Json:
    return {"type": "button", "action_id": action_id, "text": plain("Aprobar"), "value": "ap-1", **more}


def actions(*given: Json, **more: Any) -> Json:
    return {"type": "actions", "elements": list(given or (button(),)), **more}


DIALOG = {"title": plain("¿Enviar?"), "text": plain("1,200 mensajes"), "confirm": plain("Enviar"), "deny": plain("No")}


def field(block_id: str, element: Json, **more: Any) -> Json:
    return {"type": "input", "block_id": block_id, "label": plain(block_id), "element": element, **more}


def modal(*blocks: Json, **more: Any) -> Json:
    text = field("reason", {"type": "plain_text_input", "action_id": "v"})
    shown = {"title": plain("Negar"), "submit": plain("Enviar"), "blocks": list(blocks or (text,))}
    return {"type": "modal", "callback_id": "deny", **shown, **more}


async def asked(slack: FakeSlack, channel: str | None = None) -> str:
    """A message of Ana's that starts a thread; nobody listens."""
    return (await slack.say(ANA, "hola", channel, wait=False)).ts


# Tokens, arguments, the record.


async def test_a_call_needs_the_right_token(slack: FakeSlack) -> None:
    def bare(token: str | None) -> AsyncWebClient:
        return AsyncWebClient(token=token, base_url=slack.api_url)

    assert await error(bare(None).auth_test()) == "not_authed"
    assert await error(bare("xoxb-somebody-else").auth_test()) == "invalid_auth"
    assert await error(bare(APP_TOKEN).chat_postMessage(channel=VENTAS, text="x")) == "not_allowed_token_type"
    assert await error(bare(BOT_TOKEN).apps_connections_open(app_token=BOT_TOKEN)) == "not_allowed_token_type"
    assert (await bare(BOT_TOKEN).auth_test())["user_id"] == BOT_USER
    opened = await bare(None).apps_connections_open(app_token=APP_TOKEN)
    assert opened["url"].startswith("ws://127.0.0.1:")
    assert [call.token for call in slack.calls()] == ["", "xoxb", "xapp", "xoxb", "xoxb", "xapp"]


async def test_every_call_is_on_record_in_order_with_its_time_and_end(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.chat_postMessage(channel=VENTAS, text="uno")
    slack.tick(60)
    await error(client.chat_postMessage(channel="C0NOWHERE", text="dos"))
    await error(client.api_call("chat.brew", json={"cup": 1}))
    first, second, third = slack.calls()
    assert (first.method, first.arguments["text"], first.error) == ("chat.postMessage", "uno", "")
    assert (second.error, third.error) == ("channel_not_found", "unknown_method")
    assert (first.number, second.number) == (0, 1)
    assert second.at - first.at >= 60
    assert slack.calls("chat.postMessage", ok=True) == [first]


async def test_arguments_may_come_as_a_form_or_as_json(slack: FakeSlack, client: AsyncWebClient) -> None:
    form = {"channel": VENTAS, "text": "x", "blocks": json.dumps([section("de un formulario")])}
    await client.api_call("chat.postMessage", data=form)
    await client.api_call("chat.postMessage", json={"channel": VENTAS, "text": "de JSON"})
    assert slack.texts() == ["de un formulario", "de JSON"]
    assert "missing required field: ts" in await told(client.api_call("chat.update", json={"channel": VENTAS}))


Attempted = Callable[[AsyncWebClient, str], Awaitable[Any]]
REFUSED: dict[str, tuple[str, Attempted]] = {
    "a channel that isn't there": (
        "channel_not_found",
        lambda c, _: c.chat_postMessage(channel="C0NOWHERE", text="x"),
    ),
    "a channel without the app": ("not_in_channel", lambda c, _: c.chat_postMessage(channel="C0AJENO", text="x")),
    "an archived channel": ("is_archived", lambda c, _: c.chat_postMessage(channel="C0VIEJO", text="x")),
    "a thread that isn't there": (
        "thread_not_found",
        lambda c, _: c.chat_postMessage(channel=VENTAS, thread_ts="1.2", text="x"),
    ),
    "nothing to say": ("no_text", lambda c, _: c.api_call("chat.postMessage", json={"channel": VENTAS})),
    "a person elsewhere": (
        "user_not_in_channel",
        lambda c, _: c.chat_postEphemeral(channel=VENTAS, user="U0CARLA", text="x"),
    ),
    "an update of nothing": ("message_not_found", lambda c, _: c.chat_update(channel=VENTAS, ts="1.2", text="x")),
    "an update of a person's": (
        "cant_update_message",
        lambda c, ts: c.chat_update(channel=VENTAS, ts=ts, text="x"),
    ),
    "a deletion of a person's": ("cant_delete_message", lambda c, ts: c.chat_delete(channel=VENTAS, ts=ts)),
    "a link to nothing": ("message_not_found", lambda c, _: c.chat_getPermalink(channel=VENTAS, message_ts="1.2")),
    "replies of nothing": ("thread_not_found", lambda c, _: c.conversations_replies(channel=VENTAS, ts="1.2")),
    "a person unknown": ("user_not_found", lambda c, _: c.users_info(user="U0NADIE")),
    "a group unknown": ("no_such_subteam", lambda c, _: c.usergroups_users_list(usergroup="S0NADA")),
    "a file unknown": ("file_not_found", lambda c, _: c.files_info(file="F0NADA")),
    "a crowd": ("too_many_users", lambda c, _: c.conversations_open(users=[ANA, BETO])),
    "nobody to talk to": ("users_list_not_supplied", lambda c, _: c.conversations_open(users="")),
    "text and markdown": (
        "markdown_text_conflict",
        lambda c, _: c.chat_postMessage(channel=VENTAS, text="x", markdown_text="y"),
    ),
    "half of a metadata": (
        "invalid_metadata_format",
        lambda c, _: c.chat_postMessage(channel=VENTAS, text="x", metadata={"event_type": "x"}),
    ),
    "a long markdown": (
        "msg_too_long",
        lambda c, _: c.chat_postMessage(channel=VENTAS, markdown_text="x" * 12_001),
    ),
    "a long text": ("msg_too_long", lambda c, _: c.chat_postMessage(channel=VENTAS, text="x" * 40_001)),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_method_refuses_with_slacks_error(slack: FakeSlack, client: AsyncWebClient, name: str) -> None:
    slack.add_user("carla")
    slack.add_channel("ajeno", [ANA], bot=False)
    slack.channels[slack.add_channel("viejo", [ANA])].archived = True
    ts = await asked(slack, VENTAS)
    wanted, call = REFUSED[name]
    assert await error(call(client, ts)) == wanted
    assert slack.texts() == ["hola"], "nothing was posted or changed"


async def test_what_is_posted_can_be_read_back(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await asked(slack, VENTAS)
    about = {"event_type": "card", "event_payload": {"approval": "ap-1"}}
    posted = await client.chat_postMessage(channel=VENTAS, thread_ts=ts, text="listo", metadata=about)
    assert await error(client.chat_postMessage(channel=VENTAS, thread_ts=posted["ts"], text="x")) == (
        "cannot_reply_to_message"
    )
    thread = await client.conversations_replies(channel=VENTAS, ts=ts, include_all_metadata=True)
    assert [one["text"] for one in thread["messages"]] == ["hola", "listo"]
    assert thread["messages"][1]["metadata"] == about
    assert (thread["messages"][1]["user"], thread["messages"][1]["bot_id"]) == (BOT_USER, BOT)
    first = await client.conversations_replies(channel=VENTAS, ts=ts, limit=1)
    assert first["has_more"]
    rest = await client.conversations_replies(channel=VENTAS, ts=ts, cursor=first["response_metadata"]["next_cursor"])
    assert [one["text"] for one in rest["messages"]] == ["listo"]
    top = await client.conversations_history(channel=VENTAS)
    assert [one["text"] for one in top["messages"]] == ["hola"]
    link = await client.chat_getPermalink(channel=VENTAS, message_ts=posted["ts"])
    assert link["permalink"].endswith(f"p{posted['ts'].replace('.', '')}?thread_ts={ts}&cid={VENTAS}")


async def test_who_and_where(slack: FakeSlack, client: AsyncWebClient) -> None:
    assert (await client.users_info(user=ANA))["user"]["team_id"] == TEAM
    assert (await client.usergroups_users_list(usergroup=APROBADORES))["users"] == [BETO]
    assert (await client.usergroups_list())["usergroups"][0]["handle"] == "aprobadores"
    opened = (await client.conversations_open(users=ANA))["channel"]["id"]
    assert (await client.conversations_open(channel=opened))["channel"]["id"] == opened
    assert (await client.conversations_info(channel=opened))["channel"]["is_im"]
    assert (await client.conversations_info(channel=VENTAS))["channel"]["is_member"]
    posted = await client.chat_postMessage(channel=ANA, text="a la persona")
    assert posted["channel"] == opened == slack.dm(ANA)


async def test_an_update_keeps_the_history_and_follows_the_rules_for_blocks(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    posted = await client.chat_postMessage(channel=VENTAS, text="tarjeta", blocks=[section("uno"), actions()])
    with pytest.warns(UserWarning, match="`text` argument is missing"):
        await client.chat_update(channel=VENTAS, ts=posted["ts"], blocks=[section("dos")])
    assert (slack.text(posted["ts"]), slack.message(posted["ts"]).text) == ("dos", "tarjeta")
    await client.chat_update(channel=VENTAS, ts=posted["ts"], text="sin bloques")
    assert slack.text(posted["ts"]) == "sin bloques"
    assert slack.buttons(posted["ts"]) == []
    assert [len(version.blocks) for version in slack.message(posted["ts"]).history] == [2, 1]
    assert await error(client.chat_update(channel=VENTAS, ts=posted["ts"], text="x" * 4_001)) == "msg_too_long"
    await client.chat_delete(channel=VENTAS, ts=posted["ts"])
    assert slack.messages() == []


async def test_an_ephemeral_is_for_one_person_and_no_message(slack: FakeSlack, client: AsyncWebClient) -> None:
    sent = await client.chat_postEphemeral(channel=VENTAS, user=ANA, text="Sólo <@U0BETO> puede decidir.")
    assert slack.ephemerals(ANA) == ["Sólo @beto puede decidir."]
    assert slack.ephemerals(BETO) == slack.messages() == []
    assert await error(client.chat_update(channel=VENTAS, ts=sent["message_ts"], text="x")) == "message_not_found"


# Blocks.

OPTION = {"text": plain("uno"), "value": "1"}
SELECT = {"type": "static_select", "action_id": "s", "options": [OPTION]}


def confirmed(**more: str) -> Json:
    return actions(button(confirm=DIALOG | {key: plain(text) for key, text in more.items()}))


AT_THE_LIMIT: dict[str, Callable[[int], list[Json]]] = {
    "section text 3000": lambda n: [section("x" * (3_000 + n))],
    "section field 2000": lambda n: [{"type": "section", "fields": [plain("x" * (2_000 + n))]}],
    "section fields 10": lambda n: [{"type": "section", "fields": [plain("x")] * (10 + n)}],
    "header 150": lambda n: [{"type": "header", "text": plain("x" * (150 + n))}],
    "blocks 50": lambda n: [section("x")] * (50 + n),
    "actions 25": lambda n: [actions(*(button(f"a{i}") for i in range(25 + n)))],
    "context 10": lambda n: [{"type": "context", "elements": [plain("x")] * (10 + n)}],
    "button text 75": lambda n: [actions(button(text=plain("x" * (75 + n))))],
    "button value 2000": lambda n: [actions(button(value="x" * (2_000 + n)))],
    "action_id 255": lambda n: [actions(button("x" * (255 + n)))],
    "block_id 255": lambda n: [section(block_id="x" * (255 + n))],
    "dialog title 100": lambda n: [confirmed(title="x" * (100 + n))],
    "dialog text 300": lambda n: [confirmed(text="x" * (300 + n))],
    "dialog button 30": lambda n: [confirmed(confirm="x" * (30 + n))],
    "option text 75": lambda n: [actions(SELECT | {"options": [OPTION | {"text": plain("x" * (75 + n))}]})],
    "options 100": lambda n: [actions(SELECT | {"options": [OPTION] * (100 + n)})],
    "checkboxes 10": lambda n: [actions(SELECT | {"type": "checkboxes", "options": [OPTION] * (10 + n)})],
    "table rows 100": lambda n: [{"type": "table", "rows": [[{"type": "raw_text", "text": "x"}]] * (100 + n)}],
    "table cells 20": lambda n: [{"type": "table", "rows": [[{"type": "raw_text", "text": "x"}] * (20 + n)]}],
    "card body 200": lambda n: [{"type": "card", "title": plain("x"), "body": plain("x" * (200 + n))}],
    "in a container": lambda n: [
        {"type": "container", "title": plain("x"), "child_blocks": [section("x" * (3_000 + n))]}
    ],
}


@pytest.mark.parametrize("name", AT_THE_LIMIT)
async def test_a_block_may_reach_its_limit_and_not_pass_it(slack: FakeSlack, client: AsyncWebClient, name: str) -> None:
    await client.chat_postMessage(channel=VENTAS, text="x", blocks=AT_THE_LIMIT[name](0))
    over = AT_THE_LIMIT[name](1)
    assert await error(client.chat_postMessage(channel=VENTAS, text="x", blocks=over)) == "invalid_blocks"
    assert await error(client.chat_postEphemeral(channel=VENTAS, user=ANA, text="x", blocks=over)) == "invalid_blocks"
    assert await error(client.chat_update(channel=VENTAS, ts=slack.messages()[0].ts, text="x", blocks=over)) == (
        "invalid_blocks"
    )
    assert len(slack.messages()) == 1


BROKEN: dict[str, tuple[str, Any]] = {
    "unsupported type": ("unsupported type: poster", [{"type": "poster"}]),
    "unsupported element": ("unsupported type: lever", [actions({"type": "lever", "action_id": "x"})]),
    "an unknown name": ("no additional properties allowed: colour", [section(colour="red")]),
    "an unknown name inside": ("no additional properties allowed: colour", [actions(button(colour="red"))]),
    "an empty text": ("must not be empty: text", [section("")]),
    "no text": ("text or fields attribute must be specified", [{"type": "section"}]),
    "no elements": ("at least one element", [{"type": "actions", "elements": []}]),
    "a header in mrkdwn": ("must be plain_text", [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]),
    "a button in mrkdwn": ("must be plain_text", [actions(button(text={"type": "mrkdwn", "text": "x"}))]),
    "a style": ("style attribute must be one of", [actions(button(style="loud"))]),
    "a long start": (
        "longer than max_length",
        [field("x", {"type": "plain_text_input", "action_id": "v", "max_length": 3, "initial_value": "cuatro"})],
    ),
    "one block id twice": ("`block_id` already exists: b", [section(block_id="b"), section(block_id="b")]),
    "one action id twice": ("`action_id` already exists: approve", [actions(button(), button())]),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_blocks_are_refused_with_a_reason(slack: FakeSlack, client: AsyncWebClient, name: str) -> None:
    reason, blocks = BROKEN[name]
    assert reason in await told(client.chat_postMessage(channel=VENTAS, text="x", blocks=blocks))
    assert slack.messages() == []


async def test_blocks_of_the_wrong_form(client: AsyncWebClient) -> None:
    call = client.api_call("chat.postMessage", json={"channel": VENTAS, "text": "x", "blocks": {"type": "divider"}})
    assert await error(call) == "invalid_blocks_format"


async def test_action_ids_may_repeat_in_other_blocks(slack: FakeSlack, client: AsyncWebClient) -> None:
    sent = await client.chat_postMessage(
        channel=VENTAS, text="x", blocks=[actions(block_id="a"), actions(block_id="b")]
    )
    with pytest.raises(NotPossible, match="2 elements approve"):
        await slack.click(ANA, sent["ts"], "approve", wait=False)
    await slack.click(ANA, sent["ts"], "approve", block_id="b", wait=False)


async def test_all_blocks_together_have_a_limit(client: AsyncWebClient) -> None:
    full = [section("x" * 3_000)] * 4
    left = BLOCKS_LENGTH - 12_000 - 4 * 125
    await client.chat_postMessage(channel=VENTAS, text="x", blocks=[*full, section("x" * left)])
    over = client.chat_postMessage(channel=VENTAS, text="x", blocks=[*full, section("x" * (left + 1))])
    assert await error(over) == "msg_blocks_too_long"
    two = [{"type": "markdown", "text": "x" * 6_001}] * 2
    assert await error(client.chat_postMessage(channel=VENTAS, text="x", blocks=two)) == "msg_blocks_too_long"


async def test_a_reader_sees_blocks_as_text(slack: FakeSlack, client: AsyncWebClient) -> None:
    rich = {
        "type": "rich_text_section",
        "elements": [{"type": "text", "text": "Va "}, {"type": "user", "user_id": ANA}],
    }
    folded = {"type": "container", "title": plain("Mensaje"), "child_blocks": [section("*¡Hola {{1}}!*")]}
    blocks = [
        {"type": "header", "text": plain("Enviar campaña")},
        section("De <@U0ANA> a &lt;b&gt; en <#C0VENTAS>, <https://x.mx|ver>", fields=[plain("1,200 personas")]),
        folded,
        {"type": "rich_text", "elements": [rich]},
        {"type": "table", "rows": [[{"type": "raw_text", "text": "Costo"}, {"type": "raw_text", "text": "$90"}]]},
        {"type": "task_card", "task_id": "1", "title": "Leer", "status": "complete"},
        {"type": "divider"},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "Decide <!subteam^S0APROBADORES> <!here>"}]},
        actions(button(), button("deny", text=plain("Negar"))),
    ]
    sent = await client.chat_postMessage(channel=VENTAS, text="no se ve", blocks=blocks)
    assert slack.text(sent["ts"]).splitlines() == [
        "Enviar campaña",
        "De @ana a <b> en #ventas, ver",
        "1,200 personas",
        "Mensaje",
        "*¡Hola {{1}}!*",
        "Va @ana",
        "Costo | $90",
        "[complete] Leer",
        "---",
        "Decide @aprobadores @here",
        "[Aprobar] [Negar]",
    ]
    assert slack.mentioned(sent["ts"]) == {ANA, APROBADORES, "!here"}
    assert slack.card(VENTAS).ts == sent["ts"]
    assert [(one.action_id, one.label, one.value) for one in slack.buttons(sent["ts"])] == [
        ("approve", "Aprobar", "ap-1"),
        ("deny", "Negar", "ap-1"),
    ]


async def test_a_reader_sees_the_rarer_blocks_too(slack: FakeSlack, client: AsyncWebClient) -> None:
    item = {"type": "rich_text_section", "elements": [{"type": "text", "text": "uno"}]}
    inner = [
        {"type": "channel", "channel_id": VENTAS},
        {"type": "usergroup", "usergroup_id": APROBADORES},
        {"type": "broadcast", "range": "here"},
        {"type": "emoji", "name": "tada"},
        {"type": "link", "url": "https://x.mx"},
    ]
    rich = [
        {"type": "rich_text_list", "style": "bullet", "elements": [item]},
        {"type": "rich_text_section", "elements": inner},
    ]
    rating = {
        "positive_button": {"text": plain("Bien"), "value": "1"},
        "negative_button": {"text": plain("Mal"), "value": "0"},
    }
    card = {"type": "card", "title": plain("Verano"), "body": plain("6 personas"), "actions": [button("see")]}
    blocks = [
        {"type": "rich_text", "elements": rich},
        {"type": "carousel", "elements": [card]},
        field("razón", {"type": "plain_text_input", "action_id": "v", "initial_value": "caro"}),
        {"type": "context", "elements": [{"type": "image", "image_url": "https://x.mx/a.png", "alt_text": "logo"}]},
        {"type": "context_actions", "elements": [{"type": "feedback_buttons", "action_id": "r", **rating}]},
        {"type": "alert", "text": plain("Ojo"), "level": "warning"},
        {"type": "markdown", "text": "**fin**"},
    ]
    sent = await client.chat_postMessage(channel=VENTAS, text="x", blocks=blocks)
    assert slack.text(sent["ts"]).splitlines() == [
        "• uno",
        "#ventas@aprobadores@here:tada:https://x.mx",
        "Verano",
        "6 personas",
        "[Aprobar]",
        "razón: caro",
        "logo",
        "[Bien] [Mal]",
        "Ojo",
        "**fin**",
    ]
    assert [one.action_id for one in slack.buttons(sent["ts"])] == ["see", "r"]
    dated = "Vence <!date^1764000000^{date}|el lunes>"
    for more, shown in (({"markdown_text": "**x**"}, "**x**"), ({"text": dated}, "Vence el lunes")):
        sent = await client.api_call("chat.postMessage", json={"channel": VENTAS, **more})
        assert slack.text(sent["ts"]) == shown


async def test_escaped_text_pings_nobody(slack: FakeSlack, client: AsyncWebClient) -> None:
    sent = await client.chat_postMessage(channel=VENTAS, text="&lt;!channel&gt; &lt;@U0BETO&gt;")
    assert slack.mentioned(sent["ts"]) == set()
    assert slack.text(sent["ts"]) == "<!channel> <@U0BETO>"


# Streams and sessions.

TO_ANA = {"recipient_team_id": TEAM, "recipient_user_id": ANA}


async def stream(slack: FakeSlack, client: AsyncWebClient, text: str = "uno") -> Json:
    """Channel and ts of a stream that has begun in Ana's direct messages, with its thread."""
    thread = await asked(slack)
    channel = slack.dm(ANA)
    made = await client.chat_startStream(channel=channel, thread_ts=thread, markdown_text=text, **TO_ANA)
    return {"channel": channel, "ts": made["ts"], "thread_ts": thread}


def of(stream: Json) -> Json:
    return {"channel": stream["channel"], "ts": stream["ts"]}


async def test_a_stream_grows_and_ends(slack: FakeSlack, client: AsyncWebClient) -> None:
    begun = await stream(slack, client)
    await client.chat_appendStream(**of(begun), markdown_text=", dos")
    assert await error(client.chat_stopStream(**of(begun), session_status="asleep")) == "invalid_arguments"
    assert await error(client.chat_stopStream(**of(begun), blocks=[section("x" * 3_001)])) == "invalid_blocks"
    await client.chat_stopStream(**of(begun), markdown_text=", tres", blocks=[section("fin")])
    assert slack.text(begun["ts"]) == "uno, dos, tres\nfin"
    for late in (client.chat_appendStream(**of(begun), markdown_text="x"), client.chat_stopStream(**of(begun))):
        assert await error(late) == "message_not_in_streaming_state"
    await client.chat_update(**of(begun), text="otra cosa")
    assert slack.text(begun["ts"]) == "otra cosa"
    assert await error(client.chat_appendStream(**of(begun), markdown_text="x")) == "message_not_in_streaming_state"


async def test_a_running_stream_is_not_to_be_edited(slack: FakeSlack, client: AsyncWebClient) -> None:
    begun = await stream(slack, client)
    assert await error(client.chat_update(**of(begun), text="x")) == "streaming_state_conflict"
    assert await error(client.chat_delete(**of(begun))) == "cant_delete_message"
    assert slack.text(begun["ts"]) == "uno"


@pytest.mark.parametrize(
    ("pauses", "alive"), [((29, 29), True), ((31,), False), ((25,) * 11, True), ((25,) * 12, False)]
)
async def test_a_stream_dies_of_silence_and_of_age(
    slack: FakeSlack, client: AsyncWebClient, pauses: tuple[int, ...], alive: bool
) -> None:
    begun = await stream(slack, client)
    for seconds in pauses[:-1]:
        slack.tick(seconds)
        await client.chat_appendStream(**of(begun), markdown_text=".")
    slack.tick(pauses[-1])
    if alive:
        await client.chat_stopStream(**of(begun))
    else:
        assert await error(client.chat_stopStream(**of(begun))) == "message_not_in_streaming_state"
        await client.chat_update(**of(begun), text="todo el texto")
        assert slack.text(begun["ts"]) == "todo el texto"


async def test_the_lifetime_of_a_stream_can_be_set() -> None:
    async with FakeSlack(timing=Timing(stream=5.0), echo=False) as slack:
        people(slack)
        client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
        begun = await stream(slack, client)
        slack.tick(6)
        assert await error(client.chat_appendStream(**of(begun), markdown_text="x")) == "message_not_in_streaming_state"
        (shown,) = [one for one in slack.state()["messages"] if one["stream"]]
        assert shown["stream"]["state"] == "expired"


async def test_who_gets_a_stream_and_where(slack: FakeSlack, client: AsyncWebClient) -> None:
    ts = await asked(slack, VENTAS)
    own = (await client.chat_postMessage(channel=VENTAS, text="no es un stream"))["ts"]

    def start(**arguments: Any) -> Awaitable[Any]:
        return client.api_call("chat.startStream", json={"channel": VENTAS, "thread_ts": ts, **arguments})

    assert await error(start(recipient_user_id=ANA)) == "missing_recipient_team_id"
    assert await error(start(recipient_team_id=TEAM)) == "missing_recipient_user_id"
    assert await error(start(**TO_ANA, task_display_mode="sideways")) == "invalid_arguments"
    assert "thread_ts" in await told(client.api_call("chat.startStream", json={"channel": slack.dm(ANA), **TO_ANA}))
    assert await error(client.chat_appendStream(channel=VENTAS, ts=ts, markdown_text="x")) == "message_not_owned_by_app"
    assert await error(client.chat_appendStream(channel=VENTAS, ts=own, markdown_text="x")) == (
        "message_not_in_streaming_state"
    )
    await start(**TO_ANA)


async def test_tasks_and_the_plan_are_updated_in_place(slack: FakeSlack, client: AsyncWebClient) -> None:
    begun = await stream(slack, client, "Busco. ")
    task = {"type": "task_update", "id": "1", "title": "list_campaigns", "status": "in_progress", "details": "página 1"}
    plan = {"type": "plan_update", "title": "Trabajo en ello"}
    await client.chat_appendStream(**of(begun), chunks=[plan, task])
    await client.chat_appendStream(**of(begun), markdown_text="Hay 6.")
    done = {"type": "task_update", "id": "1", "title": "Leí campañas", "status": "complete", "details": ", página 2"}
    more = {"type": "blocks", "blocks": [section("con bloques")]}
    await client.chat_stopStream(**of(begun), chunks=[done, plan | {"title": "Listo"}, more])
    assert slack.text(begun["ts"]).splitlines() == [
        "Busco.",
        "Listo",
        "[complete] Leí campañas · página 1, página 2",
        "Hay 6.",
        "con bloques",
    ]
    assert slack.message(begun["ts"]).text == "Busco. Hay 6."


CHUNKS: dict[str, tuple[str, list[Json]]] = {
    "no such chunk": ("invalid_chunks", [{"type": "confetti"}]),
    "no such status": ("invalid_chunks", [{"type": "task_update", "id": "1", "title": "x", "status": "cancelled"}]),
    "no title": ("invalid_chunks", [{"type": "task_update", "id": "1", "status": "pending"}]),
    "a long title": ("invalid_chunks", [{"type": "plan_update", "title": "x" * 257}]),
    "an unknown name": ("invalid_chunks", [{"type": "plan_update", "title": "x", "colour": "red"}]),
    "a long text": ("msg_too_long", [{"type": "markdown_text", "text": "x" * 12_001}]),
    "a long section": ("invalid_blocks", [{"type": "blocks", "blocks": [section("x" * 3_001)]}]),
    "many blocks": ("msg_blocks_too_many", [{"type": "blocks", "blocks": [section()] * 51}]),
    "nothing": ("no_text", []),
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_a_chunk_that_slack_refuses(slack: FakeSlack, client: AsyncWebClient, name: str) -> None:
    begun = await stream(slack, client)
    wanted, chunks = CHUNKS[name]
    assert await error(client.chat_appendStream(**of(begun), chunks=chunks)) == wanted
    both = client.chat_appendStream(**of(begun), markdown_text="x", chunks=[{"type": "plan_update", "title": "x"}])
    assert await error(both) == "invalid_arguments"
    assert slack.text(begun["ts"]) == "uno"
    await client.chat_appendStream(**of(begun), markdown_text="x" * 12_000)
    await client.chat_appendStream(**of(begun), markdown_text="x" * 12_000)


async def test_the_sdks_own_streamer_works(slack: FakeSlack, client: AsyncWebClient) -> None:
    thread = await asked(slack, VENTAS)
    streamer = await client.chat_stream(channel=VENTAS, thread_ts=thread, buffer_size=8, **TO_ANA)
    for word in ("La ", "campaña ", "está ", "lista."):
        await streamer.append(markdown_text=word)
    assert slack.session_status(VENTAS, thread) == "processing"
    await streamer.stop(session_status="suspended")
    assert slack.texts(VENTAS, thread)[-1] == "La campaña está lista."
    assert slack.session_status(VENTAS, thread) == "suspended"
    assert len(slack.calls("chat.appendStream")) >= 1


async def test_a_sessions_status(slack: FakeSlack, client: AsyncWebClient) -> None:
    thread = await asked(slack, VENTAS)
    at = {"channel_id": VENTAS, "thread_ts": thread}
    set_to = await client.agents_sessions_setStatus(**at, status="processing", title="Campañas")
    assert (set_to["status"], set_to["title"]) == ("processing", "Campañas")
    assert "valid enum value" in await told(client.agents_sessions_setStatus(**at, status="is thinking..."))
    assert await error(client.agents_sessions_setStatus(channel_id=VENTAS, status="active")) == "invalid_arguments"
    assert await error(client.agents_sessions_setStatus(channel_id=VENTAS, thread_ts="1.2", status="active")) == (
        "invalid_thread_ts"
    )
    assert await error(client.agents_sessions_setStatus(**at, status="active", title="x" * 201)) == "invalid_arguments"
    other = await asked(slack, VENTAS)
    assert await error(client.agents_sessions_rename(channel_id=VENTAS, thread_ts=other, title="x")) == (
        "session_not_found"
    )
    assert await error(client.agents_sessions_rename(**at, title="x" * 201)) == "invalid_arguments"
    await client.agents_sessions_rename(**at, title="Verano")
    again = await client.agents_sessions_setStatus(**at, status="suspended", title="ignored once it exists")
    assert again["title"] == "Verano"
    await client.agents_sessions_setStatus(**at, status="processing")
    slack.tick(3_601)
    assert slack.session_status(VENTAS, thread) == "active"


async def test_a_threads_status_text_goes_with_the_answer_or_after_two_minutes(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    thread = await asked(slack, VENTAS)
    at = {"channel_id": VENTAS, "thread_ts": thread}
    many = client.assistant_threads_setStatus(**at, status="piensa...", loading_messages=["x"] * 11)
    assert await error(many) == "invalid_arguments"
    await client.assistant_threads_setStatus(**at, status="piensa...", loading_messages=["x"] * 10)
    assert slack.thread_status(VENTAS, thread) == "piensa..."
    slack.tick(121)
    assert slack.thread_status(VENTAS, thread) == ""
    await client.assistant_threads_setStatus(**at, status="piensa...")
    await client.chat_postMessage(channel=VENTAS, thread_ts=thread, text="ya")
    assert slack.thread_status(VENTAS, thread) == ""
    prompts = [{"title": "Ver campañas", "message": "¿Qué campañas hay?"}]
    await client.assistant_threads_setTitle(**at, title="Campañas")
    await client.assistant_threads_setSuggestedPrompts(channel_id=slack.dm(ANA), prompts=prompts)
    assert slack.prompts[slack.dm(ANA), ""] == prompts
    five = client.assistant_threads_setSuggestedPrompts(channel_id=slack.dm(ANA), prompts=prompts * 5)
    assert await error(five) == "invalid_arguments"


async def test_the_stop_button(slack: FakeSlack, client: AsyncWebClient) -> None:
    begun = await stream(slack, client)
    place = (begun["channel"], begun["thread_ts"])
    (delivery,) = await slack.stop(ANA, *place, wait=False)
    event = delivery.payload["event"]
    assert (event["type"], event["user"], event["thread_ts"]) == ("agent_session_stopped", ANA, begun["thread_ts"])
    assert event["streaming_message_ts"] == [begun["ts"]]
    assert await error(client.chat_appendStream(**of(begun), markdown_text="x")) == "stopped_by_user"
    assert await error(client.chat_stopStream(**of(begun))) == "message_not_in_streaming_state"
    assert slack.session_status(*place) == "processing", "the app has to change it"
    (again,) = await slack.stop(ANA, *place, wait=False)
    assert again.payload["event"]["streaming_message_ts"] == []
    await client.agents_sessions_setStatus(channel_id=place[0], thread_ts=place[1], status="active")
    with pytest.raises(NotPossible, match="no stop button"):
        await slack.stop(ANA, *place, wait=False)


# An app on HTTP that does what a test says.


class Receiver:
    """Keeps each request; answers what `answers` says in turn, then 200. A number is a status, a dict a body, a
    function is awaited first, "no retry" is a 500 with the header that asks for none."""

    def __init__(self) -> None:
        self.requests: list[tuple[Json, Json]] = []
        self.answers: list[Any] = []
        self.verifier = SignatureVerifier(SIGNING_SECRET)

    async def __aenter__(self) -> "Receiver":
        app = web.Application()
        app.router.add_post("/slack/events", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/slack/events"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        raw = await request.text()
        headers = {key.lower(): value for key, value in request.headers.items()}
        if not self.verifier.is_valid_request(raw, headers):
            self.requests.append(({}, headers))
            return web.Response(status=401)
        body = json.loads(parse_qs(raw)["payload"][0] if "form" in request.content_type else raw)
        self.requests.append((body, headers))
        if body.get("type") == "url_verification":
            return web.json_response({"challenge": body["challenge"]})
        answer = self.answers.pop(0) if self.answers else 200
        if callable(answer):
            await answer()
            answer = 200
        if answer == "no retry":
            return web.Response(status=500, headers={"X-Slack-No-Retry": "1"})
        return web.json_response(answer) if isinstance(answer, dict) else web.Response(status=answer)

    @property
    def bodies(self) -> list[Json]:
        return [body for body, _ in self.requests]


@pytest.fixture
async def app(slack: FakeSlack) -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        slack.point(made.url)
        yield made


async def test_a_direct_message_in_slacks_shape(slack: FakeSlack, app: Receiver) -> None:
    said = await slack.say(ANA, "Manda <b> a +52 55 0010 0001 & ana@correo.mx, ve https://x.mx/?a=1&b=2")
    ((body, headers),) = app.requests
    assert headers["content-type"] == "application/json"
    assert "x-slack-retry-num" not in headers
    assert {key: body[key] for key in ("type", "team_id", "api_app_id", "is_ext_shared_channel")} == {
        "type": "event_callback",
        "team_id": TEAM,
        "api_app_id": "A0FAKE",
        "is_ext_shared_channel": False,
    }
    assert body["authorizations"] == [
        {"enterprise_id": None, "team_id": TEAM, "user_id": BOT_USER, "is_bot": True, "is_enterprise_install": False}
    ]
    event = body["event"]
    assert (event["type"], event["channel_type"], event["channel"]) == ("message", "im", slack.dm(ANA))
    assert (event["user"], event["ts"], event["event_ts"], event["team"]) == (ANA, said.ts, said.ts, TEAM)
    assert not {"subtype", "bot_id", "thread_ts"} & set(event)
    assert event["text"] == (
        "Manda &lt;b&gt; a <tel:+525500100001|+52 55 0010 0001> &amp; <mailto:ana@correo.mx|ana@correo.mx>, "
        "ve <https://x.mx/?a=1&amp;b=2>"
    )
    (typed,) = event["blocks"][0]["elements"]
    assert typed["elements"][-1] == {"type": "link", "url": "https://x.mx/?a=1&b=2"}
    (delivery,) = said.deliveries
    assert (delivery.state, delivery.statuses, delivery.id) == ("acked", [200], body["event_id"])


async def test_a_mention_in_a_channel_is_two_events_of_one_message(slack: FakeSlack, app: Receiver) -> None:
    first = await slack.say(ANA, f"<@{BOT_USER}> ayuda", VENTAS)
    message, mention = (body["event"] for body in app.bodies)
    assert (message["type"], message["channel_type"]) == ("message", "channel")
    assert mention["type"] == "app_mention"
    assert "channel_type" not in mention
    assert message["ts"] == mention["ts"] == first.ts
    assert len({body["event_id"] for body in app.bodies}) == 2
    second = await slack.say(BETO, "yo también", VENTAS, first.ts)
    assert [body["event"]["type"] for body in app.bodies[2:]] == ["message"]
    assert app.bodies[2]["event"]["thread_ts"] == second.thread_ts == first.ts
    assert app.bodies[2]["event"]["parent_user_id"] == ANA


async def test_a_private_channel_and_one_without_the_app(slack: FakeSlack, app: Receiver) -> None:
    await slack.say(ANA, "secreto", slack.add_channel("privado", [ANA], private=True))
    assert app.bodies[0]["event"]["channel_type"] == "group"
    said = await slack.say(ANA, f"<@{BOT_USER}>", slack.add_channel("ajeno", [ANA], bot=False))
    assert said.deliveries == []
    with pytest.raises(NotPossible, match="is not in"):
        await slack.say(BETO, "x", "C0PRIVADO")
    with pytest.raises(NotPossible, match="no thread"):
        await slack.say(ANA, "x", VENTAS, "1.2")


async def test_a_file_in_a_thread(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    first = await slack.say(ANA, "hola")
    await slack.say(ANA, "importa esto", thread_ts=first.ts, files=[("clientes.csv", "teléfono\n525500100001\n")])
    event = app.bodies[1]["event"]
    assert (event["subtype"], event["text"], event["thread_ts"]) == ("file_share", "importa esto", first.ts)
    (shared,) = event["files"]
    assert (shared["name"], shared["filetype"], shared["size"]) == ("clientes.csv", "csv", 23)
    info = (await client.files_info(file=shared["id"]))["file"]
    async with aiohttp.ClientSession() as http:
        async with http.get(info["url_private"], headers={"Authorization": f"Bearer {BOT_TOKEN}"}) as response:
            assert (await response.text()).startswith("teléfono")
        async with http.get(info["url_private"]) as response:
            assert response.content_type == "text/html"


async def test_an_edit_is_an_event_with_both_versions(slack: FakeSlack, app: Receiver) -> None:
    said = await slack.say(ANA, "borra una")
    await slack.edit(ANA, said.ts, "borra dos")
    event = app.bodies[1]["event"]
    assert event["subtype"] == "message_changed"
    assert (event["message"]["text"], event["previous_message"]["text"]) == ("borra dos", "borra una")
    assert (event["message"]["ts"], event["channel_type"]) == (said.ts, "im")
    with pytest.raises(NotPossible, match="not a message of"):
        await slack.edit(BETO, said.ts, "x")


async def test_the_apps_own_posts_come_back_as_events() -> None:
    async with FakeSlack(timing=QUICK) as slack, Receiver() as app:
        people(slack)
        slack.point(app.url)
        client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
        sent = await client.chat_postMessage(channel=VENTAS, text="hola")
        await client.chat_update(channel=VENTAS, ts=sent["ts"], text="adiós")
        await slack.settled()
        posted, changed = (body["event"] for body in app.bodies)
        assert (posted["bot_id"], posted["user"], posted["channel_type"]) == (BOT, BOT_USER, "channel")
        assert (changed["subtype"], changed["message"]["text"]) == ("message_changed", "adiós")


@pytest.mark.parametrize(
    ("answers", "reasons", "state"),
    [
        ([500, 500], ["http_error", "http_error"], "acked"),
        ([404, 401, 503, 500], ["http_error"] * 3, "lost"),
        (["no retry"], [], "lost"),
        ([201], [], "acked"),
    ],
    ids=["errors", "four times", "no retry", "any 2xx"],
)
async def test_an_event_is_retried(
    slack: FakeSlack, app: Receiver, answers: list[Any], reasons: list[str], state: str
) -> None:
    app.answers = list(answers)
    (delivery,) = (await slack.say(ANA, "hola")).deliveries
    assert delivery.state == state
    retries = [headers for _, headers in app.requests[1:]]
    assert [one["x-slack-retry-reason"] for one in retries] == reasons
    assert [one["x-slack-retry-num"] for one in retries] == [str(n + 1) for n in range(len(reasons))]
    assert {body["event_id"] for body in app.bodies} == {delivery.id}
    assert [one.why for one in delivery.attempts][: len(reasons)] == reasons


async def test_an_app_that_takes_too_long_is_tried_again(slack: FakeSlack, app: Receiver) -> None:
    slack.timing = Timing(ack=0.05, retries=(0.0,) * 50)

    async def hang() -> None:
        slack.timing = Timing(ack=30.0)
        await asyncio.sleep(30)

    app.answers = [hang]
    (delivery,) = (await slack.say(ANA, "hola")).deliveries
    assert (delivery.state, delivery.attempts[0].why) == ("acked", "http_timeout")
    _, headers = app.requests[-1]
    assert headers["x-slack-retry-reason"] == "http_timeout"
    assert headers["x-slack-retry-num"] == str(len(delivery.attempts) - 1) != "0"


async def test_an_app_that_is_down_is_tried_again(slack: FakeSlack) -> None:
    async with Receiver() as app:
        slack.point(app.url)
    said = await slack.say(ANA, "hola")
    assert [one.why for one in said.deliveries[0].attempts] == ["connection_failed"] * 4
    assert said.deliveries[0].state == "lost"


async def test_the_retry_schedule_is_settable_and_slacks_own_fits() -> None:
    async with FakeSlack(timing=Timing(retries=(0.0,) * 6), echo=False) as slack, Receiver() as app:
        people(slack)
        slack.point(app.url)
        app.answers = [500] * 6
        (delivery,) = (await slack.say(ANA, "hola")).deliveries
        assert (delivery.state, len(delivery.attempts)) == ("acked", 7)


async def test_replicas_take_turns(slack: FakeSlack, app: Receiver) -> None:
    async with Receiver() as other:
        slack.point(app.url, other.url)
        for _ in range(4):
            await slack.say(ANA, "hola")
        assert (len(app.requests), len(other.requests)) == (2, 2)


@pytest.mark.parametrize(
    "wire",
    [Wire(age=400), Wire(age=-400), Wire(secret="another"), Wire(tampered=True), Wire(signed=False)],
    ids=["old", "from the future", "another secret", "changed", "unsigned"],
)
async def test_a_forged_request_is_no_message_and_not_retried(slack: FakeSlack, app: Receiver, wire: Wire) -> None:
    (delivery,) = (await slack.say(ANA, "manda todo", wire=wire)).deliveries
    assert (delivery.statuses, delivery.state) == ([401], "lost")
    assert slack.messages() == []
    ts = (
        await AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url).chat_postMessage(
            channel=VENTAS, text="x", blocks=[actions()]
        )
    )["ts"]
    (click,) = await slack.click(ANA, ts, "approve", wire=wire)
    assert (click.statuses, click.state) == ([401], "lost")


async def test_a_signature_that_is_a_little_old_is_fine(slack: FakeSlack, app: Receiver) -> None:
    (delivery,) = (await slack.say(ANA, "hola", wire=Wire(age=200))).deliveries
    assert delivery.state == "acked"
    assert slack.texts() == ["hola"]


async def test_another_workspace_and_a_guest_of_another(slack: FakeSlack, app: Receiver) -> None:
    await slack.say(ANA, "hola", wire=Wire(team="T0AJENO"))
    body = app.bodies[0]
    assert (body["team_id"], body["event"]["team"], body["authorizations"][0]["team_id"]) == ("T0AJENO",) * 3
    assert slack.messages() == [], "it isn't in this workspace"
    guest = slack.add_user("eva", team="T0AJENO")
    await slack.say(guest, "hola", slack.add_channel("compartido", [guest, ANA]))
    body = app.bodies[1]
    assert (body["team_id"], body["event"]["team"], body["event"]["user_team"]) == (TEAM, "T0AJENO", "T0AJENO")
    assert body["is_ext_shared_channel"]


async def test_one_event_twice(slack: FakeSlack, app: Receiver) -> None:
    said = await slack.say(ANA, "hola", times=2)
    assert [body["event_id"] for body in app.bodies] == [said.deliveries[0].id] * 2
    assert sorted(headers.get("x-slack-retry-num", "0") for _, headers in app.requests) == ["0", "1"]
    again = slack.redeliver(said.deliveries[0].id)
    await again.done.wait()
    assert len(app.requests) == len(slack.deliveries) == 3
    assert len(slack.messages()) == 1


async def test_the_check_of_a_request_url(slack: FakeSlack, app: Receiver) -> None:
    assert await slack.challenge()
    async with Receiver() as deaf:
        deaf.verifier = SignatureVerifier("another")
        slack.point(deaf.url)
        assert not await slack.challenge()


# Clicks.


async def posted(client: AsyncWebClient, *blocks: Json, **more: Any) -> str:
    sent = await client.chat_postMessage(channel=VENTAS, text="x", blocks=list(blocks), **more)
    return str(sent["ts"])


async def test_a_click_in_slacks_shape(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    thread = await asked(slack, VENTAS)
    ts = await posted(client, section(), actions(button(style="primary")), thread_ts=thread)
    await slack.settled()
    (delivery,) = await slack.click(BETO, ts, "approve")
    body, headers = app.requests[-1]
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert (body["type"], body["user"]["id"], body["user"]["team_id"], body["team"]["id"]) == (
        "block_actions",
        BETO,
        TEAM,
        TEAM,
    )
    (action,) = body["actions"]
    assert (action["action_id"], action["value"], action["type"], action["style"]) == (
        "approve",
        "ap-1",
        "button",
        "primary",
    )
    assert action["block_id"] == body["message"]["blocks"][1]["block_id"]
    assert body["container"] == {
        "type": "message",
        "message_ts": ts,
        "channel_id": VENTAS,
        "is_ephemeral": False,
        "thread_ts": thread,
    }
    assert (body["channel"], body["state"]) == ({"id": VENTAS, "name": "ventas"}, {"values": {}})
    assert body["message"]["thread_ts"] == thread
    assert delivery.id == body["trigger_id"]
    assert body["response_url"].startswith(slack.url)


async def test_only_what_is_posted_now_can_be_clicked(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    ts = await posted(client, actions(button(), button("deny", visible_to_user_ids=[BETO])))
    slack.add_user("carla")
    with pytest.raises(NotPossible, match="0 elements edit"):
        await slack.click(ANA, ts, "edit")
    with pytest.raises(NotPossible, match="0 elements deny"):
        await slack.click(ANA, ts, "deny")
    with pytest.raises(NotPossible, match="sees no"):
        await slack.click("U0CARLA", ts, "approve")
    assert [one.action_id for one in slack.buttons(ts, ANA)] == ["approve"]
    await slack.click(BETO, ts, "deny")
    await client.chat_update(channel=VENTAS, ts=ts, text="decidido", blocks=[section("decidido")])
    with pytest.raises(NotPossible, match="0 elements approve"):
        await slack.click(BETO, ts, "approve")
    assert len(app.requests) == 1


async def test_a_confirm_dialog_must_be_answered(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    ts = await posted(client, actions(button(confirm=DIALOG), button("deny")))
    with pytest.raises(NotPossible, match="a confirm dialog"):
        await slack.click(ANA, ts, "approve")
    with pytest.raises(NotPossible, match="no confirm dialog"):
        await slack.click(ANA, ts, "deny", dialog=True)
    assert await slack.click(ANA, ts, "approve", dialog=False) == []
    assert app.requests == []
    await slack.click(ANA, ts, "approve", dialog=True)
    assert len(app.requests) == 1
    assert slack.buttons(ts)[0].dialog == DIALOG


async def test_a_double_click_is_two_payloads_of_one_card(
    slack: FakeSlack, app: Receiver, client: AsyncWebClient
) -> None:
    ts = await posted(client, actions())
    first, second = await slack.click(ANA, ts, "approve", times=2)
    assert first.id != second.id
    assert [body["trigger_id"] for body in app.bodies] == [first.id, second.id]
    assert len({body["message"]["ts"] for body in app.bodies}) == 1


async def test_a_click_is_never_retried(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    ts = await posted(client, actions())
    app.answers = [500]
    (delivery,) = await slack.click(ANA, ts, "approve")
    assert (delivery.state, delivery.statuses) == ("lost", [500])
    assert len(app.requests) == 1


async def test_a_choice(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    rating = {
        "type": "feedback_buttons",
        "action_id": "rate",
        "positive_button": {"text": plain("Bien"), "value": "up"},
        "negative_button": {"text": plain("Mal"), "value": "down"},
    }
    ts = await posted(client, actions(SELECT), {"type": "context_actions", "elements": [rating]})
    await slack.click(ANA, ts, "s", choice="1")
    assert app.bodies[0]["actions"][0]["selected_option"] == OPTION
    await slack.click(ANA, ts, "rate", choice="down")
    assert (app.bodies[1]["actions"][0]["value"], app.bodies[1]["actions"][0]["text"]) == ("down", plain("Mal"))
    with pytest.raises(NotPossible, match="no option 2"):
        await slack.click(ANA, ts, "s", choice="2")
    nameless = await posted(client, actions({key: one for key, one in button().items() if key != "action_id"}))
    (made,) = slack.buttons(nameless)
    with pytest.raises(NotPossible, match="nothing to choose"):
        await slack.click(ANA, nameless, made.action_id, choice="1")
    await slack.click(ANA, nameless, made.action_id)


async def test_a_response_url(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    ts = await posted(client, section("antes"), actions())
    await slack.click(ANA, ts, "approve")
    url = app.bodies[0]["response_url"]

    async def respond(**body: Any) -> Any:
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
            return response.status, await response.text()

    assert await respond(text="sólo para ti") == (200, "ok")
    assert slack.ephemerals(ANA) == ["sólo para ti"]
    await respond(replace_original=True, text="después")
    assert slack.text(ts) == "después"
    await respond(response_type="in_channel", text="para todos")
    assert slack.texts(VENTAS) == ["después", "para todos"]
    assert (await respond(text="x", blocks=[section("x" * 3_001)]))[0] == 400
    await respond(delete_original=True)
    assert slack.texts(VENTAS) == ["para todos"]
    assert "used_url" in (await respond(text="seis"))[1]
    slack.tick(1_801)
    assert "expired_url" in (await respond(text="tarde"))[1]


async def test_buttons_in_an_ephemeral(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    sent = await client.chat_postEphemeral(channel=VENTAS, user=ANA, text="x", blocks=[actions()])
    with pytest.raises(NotPossible, match="sees no"):
        await slack.click(BETO, sent["message_ts"], "approve")
    await slack.click(ANA, sent["message_ts"], "approve")
    assert app.bodies[0]["container"]["is_ephemeral"]
    assert "message" not in app.bodies[0]


# Views.

NUMBER = {"type": "number_input", "action_id": "v", "is_decimal_allowed": False, "max_value": "5000"}


async def trigger(slack: FakeSlack, client: AsyncWebClient, user: str = ANA) -> str:
    ts = await posted(client, actions())
    (delivery,) = await slack.click(user, ts, "approve")
    return delivery.id


async def opened(slack: FakeSlack, client: AsyncWebClient, view: Json) -> str:
    return str((await client.views_open(trigger_id=await trigger(slack, client), view=view))["view"]["id"])


async def test_a_trigger_opens_one_modal_within_three_seconds(
    slack: FakeSlack, app: Receiver, client: AsyncWebClient
) -> None:
    made = await trigger(slack, client)
    view = (await client.views_open(trigger_id=made, view=modal()))["view"]
    assert (view["id"], view["callback_id"], view["root_view_id"]) == (slack.view(ANA)["id"], "deny", view["id"])
    assert View(**view).to_dict()["hash"]
    assert await error(client.views_open(trigger_id=made, view=modal())) == "exchanged_trigger_id"
    assert await error(client.views_open(trigger_id="1.2.nope", view=modal())) == "invalid_trigger_id"
    late = await trigger(slack, client)
    slack.tick(3.1)
    assert await error(client.views_open(trigger_id=late, view=modal())) == "expired_trigger_id"
    with pytest.raises(NotPossible, match="no modal"):
        slack.view(BETO)


VIEWS: dict[str, tuple[str, Json]] = {
    "a long title": ("title must be between 1 and 24", modal(title=plain("x" * 25))),
    "a long submit": ("submit cannot exceed 24", modal(submit=plain("x" * 25))),
    "a long close": ("close cannot exceed 24", modal(close=plain("x" * 25))),
    "much private_metadata": ("private_metadata cannot exceed 3000", modal(private_metadata="x" * 3_001)),
    "a title in mrkdwn": ("must be plain_text", modal(title={"type": "mrkdwn", "text": "x"})),
    "many blocks": ("between 1 and 100 blocks", modal(*[section()] * 101)),
    "no blocks": ("missing required field: blocks", modal() | {"blocks": []}),
    "no title": ("missing required field: title", {k: v for k, v in modal().items() if k != "title"}),
    "inputs and no submit": ("missing required field: submit", {k: v for k, v in modal().items() if k != "submit"}),
    "a long section": ("text attribute cannot exceed 3000", modal(section("x" * 3_001))),
    "one block id twice": ("`block_id` already exists", modal(section(block_id="a"), section(block_id="a"))),
    "the view as it came": ("no additional properties allowed: hash", modal(hash="1.2")),
    "a home tab": ("must be of type modal", {"type": "home", "blocks": [section()]}),
}


@pytest.mark.parametrize("name", VIEWS)
async def test_a_view_that_slack_refuses(slack: FakeSlack, app: Receiver, client: AsyncWebClient, name: str) -> None:
    reason, view = VIEWS[name]
    assert reason in await told(client.views_open(trigger_id=await trigger(slack, client), view=view))
    with pytest.raises(NotPossible):
        slack.view(ANA)


async def test_a_view_at_the_limits(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    edge = {"title": plain("x" * 24), "submit": plain("x" * 24), "private_metadata": "x" * 3_000}
    await opened(slack, client, modal(*[section("x" * 1_000)] * 100, **edge))
    huge = modal(*[section("x" * 3_000)] * 90)
    assert await error(client.views_open(trigger_id=await trigger(slack, client), view=huge)) == "view_too_large"


async def test_a_submission_in_slacks_shape(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    text = {"type": "plain_text_input", "action_id": "v", "initial_value": "Verano"}
    view = await opened(
        slack,
        client,
        modal(field("title", text), field("people", NUMBER), field("list", SELECT), private_metadata="ap-1"),
    )
    done = await slack.submit(ANA, view, {"people": 800, "list": "1"})
    body = app.bodies[-1]
    assert (body["type"], body["user"]["id"], body["view"]["private_metadata"]) == ("view_submission", ANA, "ap-1")
    assert body["view"]["state"]["values"] == {
        "title": {"v": {"type": "plain_text_input", "value": "Verano"}},
        "people": {"v": {"type": "number_input", "value": "800"}},
        "list": {"s": {"type": "static_select", "selected_option": OPTION}},
    }
    assert done.outcome == "closed"
    with pytest.raises(NotPossible):
        slack.view(ANA)


async def test_every_kind_of_field_has_its_state(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    two = [OPTION, {"text": plain("dos"), "value": "2"}]
    blocks = [
        field("day", {"type": "datepicker", "action_id": "v", "initial_date": "2026-11-30"}),
        field("who", {"type": "users_select", "action_id": "v"}),
        field("one", {"type": "radio_buttons", "action_id": "v", "options": two, "initial_option": two[0]}),
        field("some", {"type": "checkboxes", "action_id": "v", "options": two}),
        field("none", {"type": "checkboxes", "action_id": "v", "options": two}, optional=True),
    ]
    view = await opened(slack, client, modal(*blocks))
    with pytest.raises(NotPossible, match="some must be filled in"):
        await slack.submit(ANA, view, {"who": BETO})
    await slack.submit(ANA, view, {"who": BETO, "some": ["2"]})
    assert {key: value["v"] for key, value in app.bodies[-1]["view"]["state"]["values"].items()} == {
        "day": {"type": "datepicker", "selected_date": "2026-11-30"},
        "who": {"type": "users_select", "selected_user": BETO},
        "one": {"type": "radio_buttons", "selected_option": two[0]},
        "some": {"type": "checkboxes", "selected_options": [two[1]]},
        "none": {"type": "checkboxes", "selected_options": []},
    }


async def test_the_client_submits_nothing_invalid(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    text = {"type": "plain_text_input", "action_id": "v", "max_length": 5}
    view = await opened(slack, client, modal(field("reason", text), field("people", NUMBER, optional=True)))
    seen = len(app.requests)
    for values, reason in (
        ({}, "reason must be filled in"),
        ({"reason": "demasiado"}, "9 characters"),
        ({"reason": "sí", "people": "1.5"}, "not a number"),
        ({"reason": "sí", "people": 9_999}, "out of range"),
        ({"reason": "sí", "other": "x"}, "no such field"),
    ):
        with pytest.raises(NotPossible, match=reason):
            await slack.submit(ANA, view, values)
    with pytest.raises(NotPossible, match=r"not V\d+ in front"):
        await slack.submit(BETO, view, {"reason": "sí"})
    assert len(app.requests) == seen
    assert (await slack.submit(ANA, view, {"reason": "sí"})).outcome == "closed"


async def test_what_an_app_may_answer_to_a_submission(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    view = await opened(slack, client, modal())
    named = {"response_action": "errors", "errors": {"reason": "Escribe más."}}
    stray = {"response_action": "errors", "errors": {"nada": "x"}}
    unusable = {"response_action": "update", "view": modal(title=plain("x" * 25))}
    other = {"response_action": "update", "view": modal(title=plain("Otra"))}
    top = {"response_action": "push", "view": modal(title=plain("Encima"))}

    async def submit(answer: Any) -> tuple[str, dict[str, str]]:
        app.answers = [answer]
        front = slack.view(ANA)["id"]
        done = await slack.submit(ANA, front, {"reason": "no"})
        return done.outcome, done.errors

    assert await submit(named) == ("errors", {"reason": "Escribe más."})
    assert await submit(stray) == ("failed", {})
    assert await submit(unusable) == ("failed", {})
    assert await submit(500) == ("failed", {})
    slack.timing = replace(slack.timing, ack=0.05)
    assert await submit(lambda: asyncio.sleep(30)) == ("failed", {})
    slack.timing = replace(slack.timing, ack=3.0)
    app.answers = []
    assert slack.view(ANA)["title"]["text"] == "Negar"
    before = slack.view(ANA)["hash"]
    assert await submit(other) == ("updated", {})
    assert (slack.view(ANA)["id"], slack.view(ANA)["title"]["text"]) == (view, "Otra")
    assert slack.view(ANA)["hash"] != before
    assert await submit(top) == ("pushed", {})
    assert slack.view(ANA)["previous_view_id"] == slack.view(ANA)["root_view_id"] == view
    assert await submit({}) == ("closed", {})
    assert slack.view(ANA)["id"] == view
    assert await submit(top) == ("pushed", {})
    assert await submit({"response_action": "clear"}) == ("cleared", {})
    assert slack.views == {}


async def test_views_are_stacked_three_high_and_updated_by_hash(
    slack: FakeSlack, app: Receiver, client: AsyncWebClient
) -> None:
    orphan = client.views_push(trigger_id=await trigger(slack, client), view=modal())
    assert await error(orphan) == "not_found"
    view = await opened(slack, client, modal(actions(button("more")), external_id="ext-1"))
    assert await error(client.views_open(trigger_id=await trigger(slack, client), view=modal(external_id="ext-1"))) == (
        "duplicate_external_id"
    )

    async def push() -> Awaitable[Any]:
        (delivery,) = await slack.click(ANA, slack.view(ANA)["id"], "more")
        assert app.bodies[-1]["container"] == {"type": "view", "view_id": slack.view(ANA)["id"]}
        return client.views_push(trigger_id=delivery.id, view=modal(actions(button("more"))))

    await (await push())
    await (await push())
    assert await error(await push()) == "push_limit_reached"
    known = slack.views[view]["hash"]
    await client.views_update(view_id=view, hash=known, view=modal(section("nuevo"), external_id="ext-1"))
    assert await error(client.views_update(view_id=view, hash=known, view=modal())) == "hash_conflict"
    await client.views_update(external_id="ext-1", view=modal(section("otra vez")))
    assert slack.view_text(slack.views[view]) == "Negar\notra vez"
    assert await error(client.views_update(view_id="V0", view=modal())) == "not_found"


async def test_an_app_hears_of_a_closed_view_where_it_asked_to(
    slack: FakeSlack, app: Receiver, client: AsyncWebClient
) -> None:
    silent = await opened(slack, client, {k: v for k, v in modal(section()).items() if k != "submit"})
    with pytest.raises(NotPossible, match="nothing to submit"):
        await slack.submit(ANA, silent)
    assert await slack.close(ANA, silent) == []
    with pytest.raises(NotPossible):
        await slack.close(ANA, silent)
    view = await opened(slack, client, modal(notify_on_close=True))
    await slack.close(ANA, view)
    assert (app.bodies[-1]["type"], app.bodies[-1]["view"]["id"]) == ("view_closed", view)
    assert await error(client.views_update(view_id=view, view=modal())) == "not_found"


async def test_the_home_tab(slack: FakeSlack, app: Receiver, client: AsyncWebClient) -> None:
    await slack.open_home(ANA)
    event = app.bodies[0]["event"]
    assert (event["type"], event["tab"], event["user"]) == ("app_home_opened", "home", ANA)
    assert "view" not in event
    home = {"type": "home", "blocks": [section("Te espera 1"), actions()]}
    sent = (await client.views_publish(user_id=ANA, view=home))["view"]
    await slack.open_home(ANA)
    assert app.bodies[1]["event"]["view"]["hash"] == sent["hash"]
    await slack.click(ANA, sent["id"], "approve")
    assert (app.bodies[2]["view"]["type"], app.bodies[2]["container"]["type"]) == ("home", "view")
    with pytest.raises(NotPossible, match="sees no"):
        await slack.click(BETO, sent["id"], "approve")
    again = (await client.views_publish(user_id=ANA, view=home, hash=sent["hash"]))["view"]
    assert again["id"] == sent["id"]
    assert await error(client.views_publish(user_id=ANA, view=home, hash=sent["hash"])) == "hash_conflict"
    assert "100 blocks" in await told(
        client.views_publish(user_id=ANA, view={"type": "home", "blocks": [section()] * 101})
    )
    await slack.open_home(ANA, "messages")
    assert app.bodies[-1]["event"]["tab"] == "messages"


# Faults.


async def test_a_fault_hits_the_next_calls_of_one_method(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.fault("chat.postMessage", times=2, error="fatal_error", skip=1)
    await client.chat_postMessage(channel=VENTAS, text="uno")
    assert await error(client.chat_postMessage(channel=VENTAS, text="dos")) == "fatal_error"
    await client.auth_test()
    assert await error(client.chat_postMessage(channel=VENTAS, text="tres")) == "fatal_error"
    await client.chat_postMessage(channel=VENTAS, text="cuatro")
    assert slack.texts() == ["uno", "cuatro"]


async def test_429_says_when_to_come_back_and_the_sdk_does(slack: FakeSlack) -> None:
    patient = AsyncWebClient(
        token=BOT_TOKEN, base_url=slack.api_url, retry_handlers=[AsyncRateLimitErrorRetryHandler(max_retry_count=1)]
    )
    slack.fault("chat.postMessage", status=429, retry_after=1)
    await patient.chat_postMessage(channel=VENTAS, text="con paciencia")
    assert [call.status for call in slack.calls()] == [429, 200]
    slack.fault("*", status=429, retry_after=7)
    with pytest.raises(SlackApiError) as refused:
        await AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url).auth_test()
    assert refused.value.response.headers["Retry-After"] == "7"
    assert refused.value.response["error"] == "ratelimited"


async def test_a_rate_limit_of_ones_own(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.limit("chat.postMessage", 1, 1.0)
    await client.chat_postMessage(channel=VENTAS, text="uno")
    assert await error(client.chat_postMessage(channel=VENTAS, text="dos")) == "ratelimited"
    await client.chat_postMessage(channel=ANA, text="en otro canal")
    slack.tick(1)
    await client.chat_postMessage(channel=VENTAS, text="tres")
    assert slack.texts(VENTAS) == ["uno", "tres"]


@pytest.mark.parametrize("processed", [True, False])
async def test_a_server_error_may_or_may_not_have_done_it(
    slack: FakeSlack, client: AsyncWebClient, processed: bool
) -> None:
    slack.fault("chat.postMessage", status=500, processed=processed)
    with pytest.raises((SlackApiError, aiohttp.ClientError)):
        await client.chat_postMessage(channel=VENTAS, text="uno")
    assert len(slack.messages()) == processed


@pytest.mark.parametrize("processed", [True, False])
async def test_a_connection_may_break_before_or_after(slack: FakeSlack, processed: bool) -> None:
    client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url, retry_handlers=[])
    slack.fault("chat.postMessage", drop=True, processed=processed)
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=VENTAS, text="uno")
    assert len(slack.messages()) == processed
    assert len(slack.calls("chat.postMessage")) == 1


async def test_the_sdk_repeats_a_post_whose_answer_was_lost(slack: FakeSlack) -> None:
    at_once = AsyncConnectionErrorRetryHandler(interval_calculator=FixedValueRetryIntervalCalculator(0.0))
    client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url, retry_handlers=[at_once])
    slack.fault("chat.postMessage", drop=True, processed=True)
    await client.chat_postMessage(channel=VENTAS, text="dos veces")
    assert slack.texts() == ["dos veces", "dos veces"]


async def test_no_answer_in_time(slack: FakeSlack) -> None:
    client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url, timeout=0.1, retry_handlers=[])  # type: ignore[arg-type]
    slack.fault("chat.postMessage", hang=30)
    with pytest.raises(TimeoutError):
        await client.chat_postMessage(channel=VENTAS, text="uno")
    assert slack.messages() == []
    slack.fault("chat.postMessage", hang=0.01)
    await client.chat_postMessage(channel=VENTAS, text="dos")
    assert slack.texts() == ["dos"]


# Socket Mode, on a bare socket.


class Socket:
    """A connection that says nothing by itself."""

    def __init__(self, slack: FakeSlack) -> None:
        self.slack = slack

    async def __aenter__(self) -> "Socket":
        self._http = aiohttp.ClientSession()
        client = AsyncWebClient(base_url=self.slack.api_url)
        url = (await client.apps_connections_open(app_token=APP_TOKEN))["url"]
        self.ws = await self._http.ws_connect(url, autoping=False)
        self.hello = await self.ws.receive_json()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def receive(self, timeout: float = 2.0) -> Json:
        found: Json = await self.ws.receive_json(timeout=timeout)
        return found

    async def ack_all(self) -> None:
        while True:
            await self.ack(await self.receive(30))

    async def ack(self, envelope: Json, **payload: Any) -> None:
        body = {"payload": payload} if payload else {}
        await self.ws.send_json({"envelope_id": envelope["envelope_id"], **body})


async def test_hello_and_a_ticket_for_one_connection(slack: FakeSlack) -> None:
    async with Socket(slack) as first, Socket(slack) as second:
        assert (first.hello["type"], first.hello["num_connections"]) == ("hello", 1)
        assert second.hello["num_connections"] == 2
        assert second.hello["connection_info"]["app_id"] == "A0FAKE"
        async with aiohttp.ClientSession() as http:
            for ticket in ("", "made-up"):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await http.ws_connect(f"{slack.url}/link/?ticket={ticket}")
            url = slack.new_socket_url()
            async with http.ws_connect(url) as used:
                await used.receive_json()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(url)


async def test_an_envelope_is_acked_by_its_id(slack: FakeSlack, client: AsyncWebClient) -> None:
    async with Socket(slack) as socket:
        said = await slack.say(ANA, "hola", wait=False)
        envelope = await socket.receive()
        assert (envelope["type"], envelope["accepts_response_payload"]) == ("events_api", False)
        assert (envelope["retry_attempt"], envelope["retry_reason"]) == (0, "")
        assert envelope["payload"]["event"]["ts"] == said.ts
        await socket.ws.send_json({"envelope_id": "another"})
        assert said.deliveries[0].state == "pending"
        await socket.ack(envelope)
        await slack.settled()
        assert (said.deliveries[0].state, slack.stray_acks) == ("acked", ["another"])
        (click,) = await slack.click(ANA, await posted(client, actions()), "approve", wait=False)
        envelope = await socket.receive()
        assert (envelope["type"], envelope["accepts_response_payload"]) == ("interactive", True)
        await socket.ack(envelope, text="gracias")
        await slack.settled()
        assert click.answer == {"text": "gracias"}


@contextlib.asynccontextmanager
async def acking(socket: Socket) -> AsyncIterator[None]:
    task = asyncio.create_task(socket.ack_all())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_envelope_without_an_ack_comes_again(slack: FakeSlack) -> None:
    slack.timing = Timing(ack=0.1, retries=(0.0,) * 50)
    async with Socket(slack) as socket:
        said = await slack.say(ANA, "hola", wait=False)
        first, second = await socket.receive(), await socket.receive()
        assert first["envelope_id"] != second["envelope_id"]
        assert first["payload"]["event_id"] == second["payload"]["event_id"]
        assert (second["retry_attempt"], second["retry_reason"]) == (1, "timeout")
        async with acking(socket):
            await slack.settled()
            assert said.deliveries[0].state == "acked"
        slack.timing = Timing(ack=0.01, retries=(0.0, 0.01))
        lost = await slack.say(ANA, "nadie me oye")
        assert (lost.deliveries[0].state, len(lost.deliveries[0].attempts)) == ("lost", 3)


async def test_what_was_not_acked_comes_again_on_the_next_connection() -> None:
    timing = Timing(ack=30.0, retries=(30.0,))
    async with FakeSlack(timing=timing, echo=False) as slack:
        people(slack)
        async with Socket(slack) as socket:
            said = await slack.say(ANA, "hola", wait=False)
            first = await socket.receive()
        await slack.wait_for(lambda: not slack.links)
        async with Socket(slack) as socket:
            again = await socket.receive()
            assert again["payload"]["event_id"] == first["payload"]["event_id"]
            await socket.ack(again)
            await slack.settled()
            assert said.deliveries[0].state == "acked"


async def test_an_event_waits_for_a_connection_and_a_click_does_not(slack: FakeSlack, client: AsyncWebClient) -> None:
    async with asyncio.timeout(5):
        (click,) = await slack.click(ANA, await posted(client, actions()), "approve")
    assert (click.state, click.attempts) == ("lost", [])
    said = await slack.say(ANA, "hola", wait=False)
    async with Socket(slack) as socket:
        envelope = await socket.receive()
        assert envelope["payload"]["event"]["ts"] == said.ts
        await socket.ack(envelope)
        await slack.settled()


async def test_an_envelope_goes_to_one_of_the_connections(slack: FakeSlack) -> None:
    async with Socket(slack) as one, Socket(slack) as other:
        for _ in range(4):
            await slack.say(ANA, "hola", wait=False)
        for socket in (one, other):
            for _ in range(2):
                await socket.ack(await socket.receive())
        await slack.settled()
        assert {len(delivery.attempts) for delivery in slack.deliveries} == {1}


async def test_ten_connections_and_no_more(slack: FakeSlack) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(Socket(slack))
        eleventh = await stack.enter_async_context(Socket(slack))
        assert (eleventh.hello["type"], eleventh.hello["reason"]) == ("disconnect", "too_many_websockets")
        assert len(slack.links) == 10


async def test_pings_are_answered_both_ways(slack: FakeSlack) -> None:
    async with Socket(slack) as socket:
        await socket.ws.ping(b"here")
        pong = await socket.ws.receive(timeout=1)
        assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"here")
        await slack.ping()
        assert (await socket.ws.receive(timeout=1)).type == aiohttp.WSMsgType.PING
        await socket.ws.pong(b"here too")
        await slack.wait_for(lambda: slack.links[0].pongs == 1)
        assert slack.links[0].pings == 1


async def test_a_stale_socket_is_open_and_silent(slack: FakeSlack) -> None:
    slack.timing = Timing(ack=0.1, retries=(0.0,) * 50)
    async with Socket(slack) as dead:
        slack.stale()
        said = await slack.say(ANA, "hola", wait=False)
        await dead.ws.ping(b"anybody?")
        await slack.wait_for(lambda: said.deliveries[0].attempts)
        async with Socket(slack) as alive, acking(alive):
            await slack.settled()
        assert said.deliveries[0].state == "acked"
        assert said.deliveries[0].attempts[0].why == "timeout"
        with pytest.raises(TimeoutError):
            await dead.ws.receive(timeout=0.05)
        assert not dead.ws.closed
        assert slack.links[0].pings == 0


async def test_after_a_warning_envelopes_still_come(slack: FakeSlack) -> None:
    async with Socket(slack) as old:
        await slack.disconnect("warning")
        notice = await old.receive()
        assert (notice["type"], notice["reason"]) == ("disconnect", "warning")
        said = await slack.say(ANA, "hola", wait=False)
        await old.ack(await old.receive())
        await slack.settled()
        assert said.deliveries[0].state == "acked"


async def test_after_a_refresh_the_connection_gets_nothing_and_closes(slack: FakeSlack) -> None:
    slack.timing = replace(slack.timing, disconnect=0.05)
    async with Socket(slack) as old:
        await slack.disconnect("refresh_requested")
        said = await slack.say(ANA, "hola", wait=False)
        assert (await old.receive())["reason"] == "refresh_requested"
        closed = await old.ws.receive(timeout=2)
        assert closed.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert said.deliveries[0].attempts == []


async def test_nobody_forges_over_a_socket(slack: FakeSlack) -> None:
    async with Socket(slack):
        with pytest.raises(NotPossible, match="forge"):
            await slack.say(ANA, "x", wire=Wire(secret="another"))


# The same conversation with Bolt, over HTTP and over Socket Mode.


def bolt_app(slack: FakeSlack) -> AsyncApp:
    """Streams an answer, posts a card, opens a modal, decides."""
    client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
    app = AsyncApp(client=client, signing_secret=SIGNING_SECRET, process_before_response=True)
    seen: set[str] = set()

    @app.event("message")
    async def message(body: Json, event: Json) -> None:
        if body["event_id"] in seen or event.get("subtype"):
            return
        seen.add(body["event_id"])
        thread = event.get("thread_ts") or event["ts"]
        place = {"channel": event["channel"], "thread_ts": thread}
        out = await client.chat_stream(
            **place, recipient_team_id=body["team_id"], recipient_user_id=event["user"], buffer_size=1
        )
        await out.append(markdown_text="Son **1,200** personas.")
        await out.stop(session_status="suspended")
        card = [section("¿Enviar?"), actions(button(confirm=DIALOG), button("deny", text=plain("Negar")))]
        await client.chat_postMessage(**place, text="¿Enviar?", blocks=card)

    @app.action("approve")
    async def approve(ack: Any, body: Json) -> None:
        await ack()
        if body["user"]["id"] != BETO:
            await client.chat_postEphemeral(
                channel=body["channel"]["id"], user=body["user"]["id"], text="No te toca.", thread_ts=None
            )
            return
        done = f"Aprobó <@{body['user']['id']}>"
        place = {"channel": body["channel"]["id"], "ts": body["message"]["ts"]}
        await client.chat_update(**place, text=done, blocks=[section(done)])

    @app.action("deny")
    async def deny(ack: Any, body: Json) -> None:
        await client.views_open(trigger_id=body["trigger_id"], view=modal())
        await ack()

    @app.view("deny")
    async def denied(ack: Any, view: Json) -> None:
        reason = view["state"]["values"]["reason"]["v"]["value"]
        if len(reason) < 5:
            await ack(response_action="errors", errors={"reason": "Escribe más."})
        else:
            await ack()

    return app


@contextlib.asynccontextmanager
async def running(slack: FakeSlack, transport: str, *, ping: float = 10.0) -> AsyncIterator[None]:
    app = bolt_app(slack)
    if transport == "http":
        runner = web.AppRunner(app.web_app(path="/slack/events"), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        slack.point(f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events")
        yield
        await runner.cleanup()
        return
    own = AsyncWebClient(token=APP_TOKEN, base_url=slack.api_url)
    handler = AsyncSocketModeHandler(app, APP_TOKEN, web_client=own, ping_interval=ping)
    await handler.connect_async()
    await slack.wait_for(lambda: slack.links)
    yield
    await handler.close_async()


@pytest.mark.parametrize("transport", ["http", "socket"])
async def test_a_conversation_with_bolt(transport: str) -> None:
    async with FakeSlack() as slack:
        people(slack)
        async with running(slack, transport):
            said = await slack.say(ANA, "manda la promo", VENTAS)
            assert [one.state for one in said.deliveries] == ["acked"]
            assert slack.texts(VENTAS, said.ts) == [
                "manda la promo",
                "Son **1,200** personas.",
                "¿Enviar?\n[Aprobar] [Negar]",
            ]
            card = slack.card(VENTAS, said.ts)
            await slack.click(ANA, card.ts, "approve", dialog=True)
            assert slack.ephemerals(ANA) == ["No te toca."]
            await slack.click(ANA, card.ts, "deny")
            view = slack.view(ANA)["id"]
            assert (await slack.submit(ANA, view, {"reason": "no"})).errors == {"reason": "Escribe más."}
            assert (await slack.submit(ANA, view, {"reason": "hoy no"})).outcome == "closed"
            first, second = await slack.click(BETO, card.ts, "approve", dialog=True, times=2)
            assert (first.state, second.state) == ("acked", "acked")
            assert slack.text(card.ts) == "Aprobó @beto"
            await slack.settled()
            assert {one.state for one in slack.deliveries} == {"acked"}
            again = slack.redeliver(said.deliveries[0])
            await again.done.wait()
            assert len(slack.cards(VENTAS)) == 0, "the same event made no second card"


async def test_bolt_refuses_what_is_forged() -> None:
    async with FakeSlack(timing=QUICK) as slack:
        people(slack)
        async with running(slack, "http"):
            for wire in (Wire(age=400), Wire(secret="another"), Wire(tampered=True), Wire(signed=False)):
                said = await slack.say(ANA, "manda", wire=wire)
                assert said.deliveries[0].statuses == [401]
            assert slack.calls("chat.postMessage") == []


@pytest.mark.parametrize("how", ["refresh_requested", "cut", "stale"])
async def test_bolts_socket_comes_back(how: str) -> None:
    async with FakeSlack(timing=Timing(ack=0.3, disconnect=0.1, retries=(0.5,) * 10)) as slack:
        people(slack)
        async with running(slack, "socket", ping=0.1):
            old = slack.links[0].id
            if how == "stale":
                slack.stale()
            elif how == "cut":
                slack.cut()
            else:
                await slack.disconnect(how)
            await slack.wait_for(lambda: any(link.id != old for link in slack.links))
            said = await slack.say(ANA, "¿sigues ahí?")
            assert said.deliveries[0].state == "acked"
            assert slack.cards()


# The app's manifest.


def manifest(**more: Any) -> Json:
    made: Json = {
        "features": {"agent_view": {}, "app_home": {"home_tab_enabled": True}},
        "oauth_config": {"scopes": {"bot": ["chat:write", "im:history", "users:read"]}},
        "settings": {
            "event_subscriptions": {"bot_events": ["message.im", "agent_session_stopped"]},
            "interactivity": {"is_enabled": True},
        },
    }
    return made | more


async def test_a_manifest_gives_scopes_and_events_and_no_more() -> None:
    async with FakeSlack(manifest(), timing=QUICK, echo=False) as slack, Receiver() as app:
        people(slack)
        slack.point(app.url)
        client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
        await slack.say(ANA, "hola")
        said = await slack.say(ANA, f"<@{BOT_USER}> hola", VENTAS)
        assert said.deliveries == []
        assert len(app.requests) == 1
        await client.users_info(user=ANA)
        with pytest.raises(SlackApiError) as refused:
            await client.usergroups_users_list(usergroup=APROBADORES)
        assert (refused.value.response["error"], refused.value.response["needed"]) == (
            "missing_scope",
            "usergroups:read",
        )
        await client.conversations_replies(channel=slack.dm(ANA), ts=slack.messages()[0].ts)
        await slack.say(ANA, "mira", files=[("x.csv", "y")])
        shared = app.bodies[-1]["event"]["files"][0]
        assert await error(client.files_info(file=shared["id"])) == "missing_scope"
        bearer = {"Authorization": f"Bearer {BOT_TOKEN}"}
        async with aiohttp.ClientSession() as http, http.get(shared["url_private"], headers=bearer) as response:
            assert response.content_type == "text/html"
        assert await error(client.conversations_replies(channel=VENTAS, ts=said.ts)) == "missing_scope"


async def test_features_that_the_manifest_lacks() -> None:
    deaf = {"event_subscriptions": {"bot_events": ["message.im"]}, "interactivity": {"is_enabled": False}}
    async with FakeSlack(manifest(features={}, settings=deaf), echo=False) as slack:
        people(slack)
        client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
        thread = {"channel_id": VENTAS, "thread_ts": await asked(slack, VENTAS)}
        assert await error(client.agents_sessions_setStatus(**thread, status="processing")) == "not_authorized"
        home = {"type": "home", "blocks": [section()]}
        assert await error(client.views_publish(user_id=ANA, view=home)) == "not_enabled"
        with pytest.raises(NotPossible, match="interactivity"):
            await slack.click(ANA, await posted(client, actions()), "approve", wait=False)
    async with FakeSlack(manifest(settings=deaf), echo=False) as slack:
        people(slack)
        client = AsyncWebClient(token=BOT_TOKEN, base_url=slack.api_url)
        thread = {"channel_id": VENTAS, "thread_ts": await asked(slack, VENTAS)}
        answer = await client.agents_sessions_setStatus(**thread, status="processing")
        assert "missing_agent_session_stopped_event_subscription" in answer["response_metadata"]["warnings"]
        with pytest.raises(NotPossible, match="no stop button"):
            await slack.stop(ANA, VENTAS, thread["thread_ts"], wait=False)


# What tests wait for, and the fake as a process.


async def test_waiting_says_what_there_was_instead(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.chat_postMessage(channel=VENTAS, text="otra cosa")
    with pytest.raises(AssertionError, match="otra cosa"):
        await slack.wait_for(lambda: "nunca" in slack.texts(), timeout=0.02)
    with pytest.raises(AssertionError, match="0 cards"):
        slack.card(VENTAS)


async def test_the_fake_as_a_process(tmp_path: Path) -> None:
    state, declared = tmp_path / "state.json", tmp_path / "manifest.json"
    declared.write_text(json.dumps(manifest()))
    async with Receiver() as app:
        options = ["--state", str(state), "--manifest", str(declared), "--events-url", app.url]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fakeslack", *options, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        where = json.loads(await process.stdout.readline())
        try:
            await drive(Remote(where["url"]), AsyncWebClient(token=BOT_TOKEN, base_url=where["api"]), app)
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
    assert process.returncode == 0
    assert json.loads(state.read_text())["messages"][0]["reads"] == "hola"


async def drive(remote: Remote, client: AsyncWebClient, app: Receiver) -> None:
    ana = await remote.do("add_user", "ana")
    said = await remote.do("say", user=ana, text="hola")
    assert app.bodies[0]["event"]["ts"] == said["ts"]
    assert said["deliveries"][0]["state"] == "acked"
    sent = await client.chat_postMessage(channel=said["channel"], text="x", blocks=[actions()])
    await remote.do("click", ana, sent["ts"], "approve")
    (click,) = [body for body in app.bodies if body["type"] == "block_actions"]
    made = await client.views_open(trigger_id=click["trigger_id"], view=modal())
    done = await remote.do("submit", user=ana, view_id=made["view"]["id"], values={"reason": "no"})
    assert done["outcome"] == "closed"
    assert [body for body in app.bodies if body["type"] == "view_submission"]
    with pytest.raises(NotPossible, match="0 elements deny"):
        await remote.do("click", ana, sent["ts"], "deny")
    forged = await remote.do("say", user=ana, text="manda", wire={"secret": "another"})
    assert forged["deliveries"][0]["state"] == "lost"
    await remote.do("fault", "chat.postMessage", error="fatal_error")
    assert await error(client.chat_postMessage(channel=said["channel"], text="x")) == "fatal_error"
    at = {"channel": said["channel"], "thread_ts": said["ts"]}
    begun = await client.chat_startStream(**at, recipient_team_id=TEAM, recipient_user_id=ana)
    (stopped,) = await remote.do("stop", user=ana, **at)
    assert stopped["payload"]["event"]["streaming_message_ts"] == [begun["ts"]]
    shown = await remote.wait_for(lambda state: len(state["calls"]) >= 4 and state)
    assert [one["method"] for one in shown["calls"]][:2] == ["chat.postMessage", "views.open"]
    assert shown["messages"][1]["buttons"][0]["action_id"] == "approve"
    with pytest.raises(ValueError, match="no verb"):
        await remote.do("settled")
    with pytest.raises(ValueError, match="TypeError"):
        await remote.do("say", nobody=1)
