"""People in Slack as the gate knows them: an identity by signature, with the user groups that policy names."""

import asyncio
import logging
from collections.abc import Sequence

from agent.gate import Identity
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Web
from agent.policy import Policy

log = logging.getLogger("agent.slack")

KNOWN_FOR = 60.0
"""Seconds for which a group's members needn't be read again, where nothing is decided by them."""


class People:
    """Looks up who belongs to the groups of policy. A group that can't be read has no members."""

    def __init__(self, web: Web, policy: Policy) -> None:
        self._web, self._policy = web, policy
        self._members: dict[str, tuple[float, frozenset[str]]] = {}

    async def known(self, given: Sequence[str], *, fresh: bool) -> Identity:
        """The identity of an item (kind, id, name), with its groups. `fresh`: as they are at this moment."""
        kind, id, *name = given
        if kind != "slack":
            return Identity(kind, id, *name)
        user = id.rpartition("/")[2]
        found = [group for group in self._policy.groups if user in await self._of(group, fresh)]
        return Identity(kind, id, *name, groups=tuple(found))

    def presumed(self, given: Sequence[str]) -> Identity:
        """As if in every group: for what is only said sooner, and judged again later."""
        return Identity(*given, groups=tuple(self._policy.groups))

    async def _of(self, group: str, fresh: bool) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        at, members = self._members.get(group, (0.0, frozenset()))
        if group in self._members and not fresh and now - at < KNOWN_FOR:
            return members
        try:
            answer = await self._web.call("usergroups.users.list", usergroup=group)
        except (SlackRefused, SlackUnsure) as error:
            log.warning("the members of %s can't be read: %s", group, error)
            return frozenset()
        self._members[group] = now, frozenset(map(str, answer.get("users") or ()))
        return self._members[group][1]
