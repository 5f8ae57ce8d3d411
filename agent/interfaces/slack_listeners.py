"""What Slack tells the bot: each listener verifies, stores and acknowledges, and answers at once what moves nothing."""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from agent.domain import Json
from agent.errors import AgentError, DecisionRefused
from agent.gate import Identity
from agent.interfaces import slack_blocks as blocks
from agent.interfaces.slack_blocks import (
    CONFIRM_BLOCK,
    Wrong,
    confirm_modal,
    deny_modal,
    details_modal,
    edit_modal,
    read_confirm,
    read_edit,
    read_reason,
)
from agent.interfaces.slack_cards import Cards
from agent.interfaces.slack_inbox import (
    Bot,
    Click,
    Incoming,
    Person,
    Submission,
    named_team,
    of_click,
    of_home,
    of_message,
    of_stop,
    of_submission,
    person_team,
)
from agent.interfaces.slack_manifest import LISTENERS
from agent.interfaces.slack_people import OPEN_WITHIN, People
from agent.interfaces.slack_text import Block
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Thread, Web
from agent.interfaces.slack_worker import Worker
from agent.journal import Approval, Transaction
from agent.loop import Agent
from agent.prompts import Words

log = logging.getLogger("agent.slack")

Ack = Callable[..., Coroutine[Any, Any, Any]]
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """An approval as a listener finds it, and why the person who clicked can't decide it."""

    approval: Approval | None
    words: Words
    refused: DecisionRefused | None

    @property
    def thread(self) -> Thread | None:
        return Thread.of(self.approval.conversation) if self.approval is not None else None


class Listeners:
    """Everything that is stored is acknowledged after that, and not at all where it couldn't be: Slack sends it again.

    Nothing here waits for Slack: a modal is opened, and a refusal told, beside the acknowledgement.
    """

    def __init__(self, agent: Agent, web: Web, cards: Cards, worker: Worker, people: People) -> None:
        self._agent, self._web, self._cards, self._worker = agent, web, cards, worker
        self._people = people
        self._bot = Bot(web.team, web.bot_user, web.bot_id)
        self._order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._beside: set[asyncio.Task[None]] = set()

    def register(self, app: Any) -> None:
        """On a Bolt app: one listener for each row of the table, and one for all that is in none."""
        for kind in dict.fromkeys(row.type for row in LISTENERS if row.kind == "event"):
            app.event(kind)(self.event)
        for row in LISTENERS:
            if row.kind == "action":
                app.action(row.name)(self.action)
            elif row.kind == "view":
                app.view(row.name)(self.submission)
        app.error(_failed)
        everything = re.compile("")
        for register in (app.event, app.action, app.view, app.view_closed, app.shortcut, app.command):
            register(everything)(_acknowledge)

    async def aclose(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

    # Events.

    async def event(self, body: Body) -> None:
        event = body["event"]
        if body.get("team_id") != self._bot.team:
            log.warning("an event of another workspace: %s", body.get("team_id"))
            return
        match event["type"]:
            case "message" | "app_mention":
                await self._message(event)
            case "agent_session_stopped":
                await self._stop(event, str(body["event_id"]))
            case "app_home_opened":
                await self._store(of_home(event, str(body["event_id"]), self._bot))

    async def _message(self, event: Body) -> None:
        incoming = of_message(event, self._bot)
        if incoming is None or person_team(event, self._bot) == self._bot.team:
            await self._store(incoming)
        elif await self._agent.journal.write(partial(_heard_first, incoming=incoming, bot=self._bot)):
            thread = Thread.of(incoming.conversation)
            self._soon(self._web.tell(str(event["user"]), thread, self._agent.words().say("bot.other_team")))

    async def _stop(self, event: Body, event_id: str) -> None:
        """Of people of this workspace. Where the event doesn't say, that is who has written or clicked here before:
        those came with a team."""
        incoming, team = of_stop(event, event_id, self._bot), named_team(event)
        if not team and await self._agent.journal.read(partial(_has_acted, who=incoming.by)):
            team = self._bot.team
        if team == self._bot.team:
            await self._store(incoming)
        else:
            log.warning("a stop of somebody who isn't known to be of this workspace: %s", event.get("user"))

    async def _store(self, incoming: Incoming | None) -> None:
        if incoming is None:
            return
        # People paste keys; none is kept, not even until its turn.
        text = incoming.body.get("text")
        body = {**incoming.body, "text": self._agent.settings.redact(text)} if text else dict(incoming.body)

        def put(tx: Transaction) -> bool:
            if incoming.known and not tx.knows(incoming.conversation):
                return False
            return tx.put(incoming.key, incoming.conversation, incoming.kind, body, by=incoming.by)

        # In the order in which they came, also where a database stores several at once.
        async with self._order.setdefault(incoming.conversation, asyncio.Lock()):
            stored = await self._agent.journal.write(put)
        if stored:
            self._worker.wake(incoming.conversation, incoming.kind)

    # Clicks.

    async def action(self, body: Body, ack: Ack) -> None:
        click = of_click(body, self._bot)
        match click.action:
            case blocks.APPROVE:
                await self._decide(click.key, click.approval, click.who, {"decision": "approve"}, click.thread)
            case blocks.ASK_AGAIN:
                await self._again(click)
            case blocks.APPROVE_TYPED | blocks.EDIT | blocks.DENY | blocks.DETAILS:
                self._soon(self._open(click))
        await ack()

    def _card(self, tx: Transaction, approval_id: str, who: Person, by: Identity, *, approve: bool) -> Card:
        approval, post = tx.approval(approval_id), tx.post(f"card:{approval_id}")
        words = self._cards.words(post.language if post else "")
        return Card(approval, words, self._refusal(tx, approval, approval_id, who, by, approve))

    def _refusal(
        self,
        tx: Transaction,
        approval: Approval | None,
        approval_id: str,
        who: Person,
        by: Identity,
        approve: bool,
    ) -> DecisionRefused | None:
        """What can be said at once; the gate judges all of it again."""
        if approval is None:
            return DecisionRefused("unknown", approval=approval_id)
        if who.team != self._bot.team:
            return DecisionRefused("not_entitled", approval=approval_id)
        late = "expired" if approval.state == "pending" and tx.now() > approval.expires_at else approval.state
        if late != "pending":
            why = {"approved": "decided", "executing": "used", "done": "used", "failed": "used", "unknown": "used"}
            return DecisionRefused(why.get(late, late), approval=approval_id, state=late)
        mine = [
            item
            for item in tx.waiting(approval.conversation)
            if item.kind == "decision" and item.body["approval"] == approval_id and item.by == who.key
        ]
        if mine:
            return DecisionRefused("decided", approval=approval_id, state="approved")
        return self._agent.gate.entitled(approval, by, approve=approve)

    async def _decide(
        self, key: str, approval_id: str, who: Person, decision: Mapping[str, Json], thread: Thread | None
    ) -> None:
        """Stores a decision for its turn in the thread, or says why it is none."""
        by, approve = self._people.presumed(who.identity), decision["decision"] == "approve"

        def put(tx: Transaction) -> Card:
            card = self._card(tx, approval_id, who, by, approve=approve)
            if card.refused is None and card.approval is not None:
                body = {"by": who.identity, "approval": approval_id, **decision}
                tx.put(key, card.approval.conversation, "decision", body, by=who.key)
            return card

        card = await self._agent.journal.write(put)
        if card.refused is not None:
            self._tell(card, who, thread)
        elif card.approval is not None:
            self._worker.wake(card.approval.conversation, "decision")

    def _tell(self, card: Card, who: Person, thread: Thread | None, refused: DecisionRefused | None = None) -> None:
        told = refused or card.refused
        if told is not None:
            self._soon(self._web.tell(who.id, thread or card.thread, " ".join(card.words.error(told))))
            if card.approval is not None:
                # Whoever clicked saw a card that wasn't up to date.
                self._soon(self._cards.refresh(approval=card.approval.id))

    async def _again(self, click: Click) -> None:
        """Stores that an expired card is to be asked again, or says why it isn't. Each try that has ended frees the
        next; of two at once, the key lets one in, whichever process they come to."""
        by = self._people.presumed(click.who.identity)

        def put(tx: Transaction) -> tuple[Card, str]:
            card = self._card(tx, click.approval, click.who, by, approve=False)
            approval = card.approval
            if approval is None or card.refused is None or card.refused.why != "expired":
                return card, ""
            refused = self._agent.gate.entitled(approval, by)
            if refused is not None and by.key != approval.requested_by:
                return replace(card, refused=refused), ""
            newest = tx.approval_of(approval.conversation, str(approval.calls[0]["id"]))
            if newest is not None and newest.id != approval.id:
                return card, "bot.asked_again"
            body: dict[str, Json] = {"by": click.who.identity, "approval": approval.id, "click": click.key}
            stored = tx.put(_free_key(tx, approval.id), approval.conversation, "again", body, by=click.who.key)
            return replace(card, refused=None), "" if stored else "bot.asking_again"

        card, sentence = await self._agent.journal.write(put)
        if sentence:
            self._soon(self._web.tell(click.who.id, click.thread or card.thread, card.words.say(sentence)))
        elif card.refused is None and card.approval is not None:
            self._worker.wake(card.approval.conversation, "again")
        else:
            self._tell(card, click.who, click.thread)

    async def _open(self, click: Click) -> None:
        """A modal, in the three seconds that Slack gives for it."""
        by = self._people.presumed(click.who.identity)
        if click.action != blocks.DETAILS:
            now = await self._people.known(click.who.identity, fresh=True, within=OPEN_WITHIN)
            # What couldn't be read in this time is read before anything is decided.
            by = replace(now, groups=(*now.groups, *now.unread), unread=())
        approve = click.action == blocks.APPROVE_TYPED
        card = await self._agent.journal.read(lambda tx: self._card(tx, click.approval, click.who, by, approve=approve))
        foreign = click.who.team != self._bot.team
        if card.approval is None or (card.refused is not None and (foreign or click.action != blocks.DETAILS)):
            self._tell(card, click.who, click.thread)
            return
        view = self._view(click, card)
        try:
            await self._web.call("views.open", patience=0, trigger_id=click.trigger, view=view)
        except (SlackRefused, SlackUnsure) as error:
            log.warning("no modal: %s", error)
            await self._web.tell(click.who.id, click.thread or card.thread, card.words.say("bot.no_modal"))

    def _view(self, click: Click, card: Card) -> Block:
        assert card.approval is not None
        asked, words = self._agent.asked(card.approval, card.words.language), card.words
        about = json.dumps({"approval": click.approval})
        match click.action:
            case blocks.DETAILS:
                return details_modal(asked, words)
            case blocks.EDIT:
                return edit_modal(asked, words, private_metadata=about)
            case blocks.DENY:
                return deny_modal(asked, words, private_metadata=about)
        return confirm_modal(asked, words, private_metadata=about)

    # Modals.

    async def submission(self, body: Body, ack: Ack) -> None:
        given = of_submission(body)
        by, approve = self._people.presumed(given.who.identity), given.view == blocks.CONFIRM_VIEW
        card = await self._agent.journal.read(lambda tx: self._card(tx, given.approval, given.who, by, approve=approve))
        if card.refused is not None or card.approval is None:
            self._tell(card, given.who, None)
            await ack()
            return
        errors = await self._take(given, card, card.approval)
        await (ack(response_action="errors", errors=errors) if errors else ack())

    async def _take(self, given: Submission, card: Card, approval: Approval) -> Mapping[str, str]:
        """Stores what was filled in; or what is wrong with it, by field."""
        match given.view:
            case blocks.CONFIRM_VIEW:
                typed = read_confirm(given.values)
                if self._agent.gate.unconfirmed(approval, typed) is not None:
                    return {CONFIRM_BLOCK: card.words.say("bot.type_wrong")}
                decision: dict[str, Json] = {"decision": "approve", "confirm": typed}
                await self._decide(given.key, approval.id, given.who, decision, card.thread)
            case blocks.DENY_VIEW:
                reason = read_reason(given.values)
                decision = {"decision": "deny", "reason": reason and self._agent.settings.redact(reason)}
                await self._decide(given.key, approval.id, given.who, decision, card.thread)
            case blocks.EDIT_VIEW:
                asked = self._agent.asked(approval, card.words.language)
                found = read_edit(asked, given.values, card.words, reading=self._agent.gate.reading())
                if isinstance(found, Wrong):
                    return found.errors
                body = {"by": given.who.identity, "approval": approval.id, "arguments": dict(found.arguments)}
                by, where = given.who.key, approval.conversation
                await self._agent.journal.write(lambda tx: tx.put(given.key, where, "edit", body, by=by))
                self._worker.wake(where, "edit")
        return {}

    def _soon(self, job: Coroutine[Any, Any, None]) -> None:
        """Beside the acknowledgement."""

        async def safely() -> None:
            with suppress(SlackRefused, SlackUnsure, AgentError):
                await job

        task = asyncio.create_task(safely())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def _heard_first(tx: Transaction, incoming: Incoming, bot: Bot) -> bool:
    """Whether somebody of another workspace is to be told that nobody hears it: once for what is said to the bot,
    and once in a thread that it is part of. A mention comes as two events, maybe to two processes."""
    if incoming.known and not tx.knows(incoming.conversation):
        return False
    # Not in the thread itself, which must not become one that the bot is part of.
    here, body = f"slack:{bot.team}:other_team::", {"by": incoming.body["by"]}
    keys = [f"other_team:{incoming.conversation}:{incoming.by}", *([] if incoming.known else [incoming.key])]
    new = [tx.put(key, here, "other_team", body, by=incoming.by) for key in keys]
    tx.finish([item.id for key in keys if (item := tx.item(key)) is not None])
    return new[-1]


def _has_acted(tx: Transaction, who: str) -> bool:
    """Whether something signed with this person's team came in lately; a stop and the Home tab come without one."""
    return any(item.by == who and item.kind not in ("stop", "home") for item in tx.items())


def _free_key(tx: Transaction, approval_id: str) -> str:
    """The key of the first try to ask again that hasn't ended: one under way has it, or nobody yet."""
    number, key = 1, f"again:{approval_id}"
    while (item := tx.item(key)) is not None and item.done_at is not None:
        number, key = number + 1, f"again:{approval_id}:{number + 1}"
    return key


async def _failed(error: Exception) -> None:
    """What couldn't be stored isn't acknowledged, so that it comes again."""
    log.error("not acknowledged: %s: %s", type(error).__name__, error)


async def _acknowledge(ack: Ack) -> None:
    """What the bot has no use for."""
    await ack()
