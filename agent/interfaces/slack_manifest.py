"""What the Slack bot listens to and calls, in one table; the app's manifest is made from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.interfaces.slack_blocks import ACTIONS, VIEWS
from agent.prompts import Words

EVENTS_PATH = "/slack/events"
"""Where Slack's requests arrive with --http."""

BOT_NAME = "campaign-agent"
"""Slack takes letters, digits, dashes and dots there."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One thing that Slack tells the bot of. `name` is an event of the Events API, an action id, or a callback id;
    `scope` is what the app must be granted for it, "" where nothing is needed."""

    kind: Literal["event", "action", "view"]
    name: str
    scope: str = ""

    @property
    def type(self) -> str:
        """The `type` in an event's payload: `message.im` and its like arrive as `message`."""
        return self.name.partition(".")[0]


LISTENERS: Sequence[Listener] = (
    Listener("event", "message.im", "im:history"),
    Listener("event", "message.channels", "channels:history"),
    Listener("event", "message.groups", "groups:history"),
    Listener("event", "app_mention", "app_mentions:read"),
    Listener("event", "app_home_opened"),
    # Acknowledged and not used: Slack sends it to every app with an agent view that lets it.
    Listener("event", "app_context_changed", "assistant:write"),
    Listener("event", "agent_session_stopped", "assistant:write"),
    *(Listener("action", action) for action in ACTIONS),
    *(Listener("view", callback) for callback in VIEWS),
)
"""Every listener that the bot registers; what is in no row reaches its catch-all, which acknowledges it."""

METHODS = {
    "agents.sessions.setStatus": "chat:write",
    "auth.test": "",
    "chat.appendStream": "chat:write",
    "chat.getPermalink": "",
    "chat.postEphemeral": "chat:write",
    "chat.postMessage": "chat:write",
    "chat.startStream": "chat:write",
    "chat.stopStream": "chat:write",
    "chat.update": "chat:write",
    "conversations.replies": "im:history",
    "usergroups.users.list": "usergroups:read",
    "views.open": "",
    "views.publish": "",
}
"""Every method of the Web API that the bot may call, with the scope that it needs."""


def scopes() -> list[str]:
    """What the app must be granted."""
    return sorted(({listener.scope for listener in LISTENERS} | set(METHODS.values())) - {""})


def bot_events() -> list[str]:
    return sorted(listener.name for listener in LISTENERS if listener.kind == "event")


def suggested_prompts(words: Words) -> list[dict[str, str]]:
    """What Slack offers to say at first, as `title` and `message`."""
    names = ("list", "create", "send")
    return [
        {"title": words.say(f"slack.prompt_{one}"), "message": words.say(f"slack.prompt_{one}_say")} for one in names
    ]


def manifest(words: Words, *, url: str | None = None) -> dict[str, Any]:
    """The app's manifest for api.slack.com/apps. `url` is the public https address of --http; None is Socket Mode."""
    say = words.say
    where = {"request_url": url.rstrip("/").removesuffix(EVENTS_PATH) + EVENTS_PATH} if url else {}
    about = {"name": say("slack.app_name"), "description": say("slack.app_description")}
    return {
        "display_information": {**about, "long_description": say("slack.app_long"), "background_color": "#1f5f4f"},
        "features": {
            "agent_view": {
                "agent_description": say("slack.app_description"),
                "suggested_prompts": suggested_prompts(words),
            },
            "app_home": {
                "home_tab_enabled": True,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": BOT_NAME, "always_online": True},
        },
        "oauth_config": {"scopes": {"bot": scopes()}},
        "settings": {
            "event_subscriptions": {**where, "bot_events": bot_events()},
            "interactivity": {"is_enabled": True, **where},
            "org_deploy_enabled": False,
            "socket_mode_enabled": url is None,
            "token_rotation_enabled": False,
        },
    }
