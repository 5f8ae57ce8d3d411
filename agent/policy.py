"""Who may decide what: approvers, own sends, second approvers and expiry, as the settings say."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.errors import UsageError
from agent.operations import BY_NAME, SendCampaign
from agent.settings import Settings

_PRINCIPAL = re.compile(r"\*|os|slack|mcp|os:\d+|slack:[A-Z0-9]+/[A-Z0-9]+|slack-group:[A-Z0-9]+|mcp:[\w.@-]+")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is bound to an approval when it is asked for.

    `deciders` are kinds of identity ("slack", "os": anybody of it), identities ("slack:TEAM/USER") and groups
    ("slack-group:ID"). `needed` is how many different people must approve; `own`: whether who asked may be one of them.
    """

    deciders: tuple[str, ...]
    needed: int
    own: bool
    ttl: float


class Policy:
    """The settings, read once. Raises UsageError naming the setting that is wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._approvers = {
            tool: tuple(_principal(text) for text in re.split(r"[,\s]+", value) if text)
            for tool, value in _pairs("CAMPAIGN_AGENT_APPROVERS", settings.approvers)
        }
        self._ttls = {
            tool: _seconds(value) for tool, value in _pairs("CAMPAIGN_AGENT_APPROVAL_TTLS", settings.approval_ttls)
        }

    def rule(self, tool: str, size: int, kind: str) -> Rule:
        """The rule for a call of `tool` that touches `size` people, asked for by somebody of `kind`."""
        given = self._approvers.get(tool, self._approvers.get("*"))
        two, limit = self._settings.two_approvers_over, self._settings.self_approve_up_to
        send = tool == SendCampaign.tool()
        own = not (send and limit is not None and size > limit)
        # A terminal is one more way in for whoever asked: where that person may not approve, it has to be named.
        kinds = (kind, "os") if own and kind != "os" else (kind,)
        deciders = kinds if given is None else tuple(part for who in given for part in (kinds if who == "*" else [who]))
        return Rule(
            tuple(dict.fromkeys(deciders)),
            2 if send and two is not None and size > two else 1,
            own,
            self._ttls.get(tool, self._settings.approval_ttl),
        )

    @property
    def approvers(self) -> Mapping[str, tuple[str, ...]]:
        """By operation, "*" is every other one; without it, those are anybody's."""
        return self._approvers

    @property
    def groups(self) -> list[str]:
        """Slack's user groups that are named anywhere, whose members an interface has to know."""
        named = [who for given in self._approvers.values() for who in given]
        return list(dict.fromkeys(who.partition(":")[2] for who in named if who.startswith("slack-group:")))


def fits(deciders: Iterable[str], kind: str, id: str, groups: Sequence[str]) -> bool:
    """Whether an identity that is in these groups is one of the deciders."""
    # A kind that holds the sign between kind and id could pass for another.
    mine = {kind, f"{kind}:{id}", *(f"{kind}-group:{group}" for group in groups)}
    return ":" not in kind and not mine.isdisjoint(deciders)


def of_workspace(person: str, *places: str) -> bool:
    """Whether a Slack person ("TEAM/USER") is of the workspace of a conversation, and of whoever asked there. People of
    other workspaces share channels with it, and nothing more."""
    teams = {re.split("[:/]", place)[1] for place in places if place.startswith("slack:")}
    return teams <= {person.partition("/")[0]}


def _pairs(setting: str, text: str) -> Iterable[tuple[str, str]]:
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        tool, sign, value = (piece.strip() for piece in part.partition("="))
        if not (sign and value) or (tool != "*" and tool not in BY_NAME) or tool in found:
            problem = f"write operation=value; ..., each operation once, * for all others; not {part[:60]!r}"
            raise UsageError("setting", setting=setting, problem=problem)
        found[tool] = value
    return found.items()


def _principal(text: str) -> str:
    if not _PRINCIPAL.fullmatch(text):
        problem = f"{text[:60]!r} is none of slack:TEAM/USER, slack-group:GROUP, os:UID, mcp:CLIENT, slack, os, mcp, *"
        raise UsageError("setting", setting="CAMPAIGN_AGENT_APPROVERS", problem=problem)
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}", text) or not 0 < int(text) <= 7 * 86400:
        problem = f"{text[:20]!r} is not a number of seconds, at most a week"
        raise UsageError("setting", setting="CAMPAIGN_AGENT_APPROVAL_TTLS", problem=problem)
    return float(text)


def requesters(requested_by: str, calls: Iterable[Mapping[str, object]]) -> set[str]:
    """Everybody who asked for it: whoever changed its arguments has asked, too."""
    also = [who for call in calls for who in call.get("also_by") or ()]  # type: ignore[attr-defined]
    return {requested_by, *map(str, also)}


def named(deciders: Iterable[str]) -> list[str]:
    """Those whom policy names, for a card; where anybody of a kind may decide, there is nobody to name."""
    return [who for who in deciders if ":" in who]
