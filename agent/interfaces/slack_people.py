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
ASK_WITHIN = 5.0
"""Seconds for which Slack is asked again for a group that it doesn't give."""
OPEN_WITHIN = 1.5
"""The same where a modal waits for it, whose trigger holds for three seconds."""
_PAUSE = 0.3


class People:
    """Looks up who belongs to the groups of policy. A group that Slack refuses to name the members of has none."""

    def __init__(self, web: Web, policy: Policy) -> None:
        self._web, self._policy = web, policy
        self._members: dict[str, tuple[float, frozenset[str]]] = {}

    async def known(self, given: Sequence[str], *, fresh: bool, within: float = ASK_WITHIN) -> Identity:
        """The identity of an item (kind, id, name), with its groups. `fresh`: as they are at this moment."""
        kind, id, *name = given
        if kind != "slack":
            return Identity(kind, id, *name)
        user, groups = id.rpartition("/")[2], self._policy.groups
        found = await asyncio.gather(*(self._of(group, fresh, within) for group in groups))
        members = list(zip(groups, found, strict=True))
        return Identity(
            kind,
            id,
            *name,
            groups=tuple(group for group, of in members if of is not None and user in of),
            unread=tuple(group for group, of in members if of is None),
        )

    def presumed(self, given: Sequence[str]) -> Identity:
        """As if in every group: for what is only said sooner, and judged again later."""
        return Identity(*given, groups=tuple(self._policy.groups))

    async def _of(self, group: str, fresh: bool, within: float) -> frozenset[str] | None:
        """The members of a group; None where Slack couldn't be asked."""
        now = asyncio.get_running_loop().time()
        at, members = self._members.get(group, (0.0, frozenset()))
        if group in self._members and not fresh and now - at < KNOWN_FOR:
            return members
        try:
            async with asyncio.timeout(within):
                found = await self._ask(group)
        except TimeoutError:
            log.warning("Slack could not be asked for the members of %s", group)
            return None
        self._members[group] = now, found
        return found

    async def _ask(self, group: str) -> frozenset[str]:
        """Until Slack answers, whatever it answers."""
        while True:
            try:
                answer = await self._web.call("usergroups.users.list", usergroup=group)
                return frozenset(map(str, answer.get("users") or ()))
            except SlackRefused as refused:
                if refused.retry_after is None:
                    log.warning("the members of %s can't be read: %s", group, refused)
                    return frozenset()
            except SlackUnsure as unsure:
                log.info("the members of %s are asked for again: %s", group, unsure)
            await asyncio.sleep(_PAUSE)
