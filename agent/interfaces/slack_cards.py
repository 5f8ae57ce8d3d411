"""Cards in threads: posted when something asks, and brought up to date from what is stored, whoever decided."""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from agent.errors import AgentError
from agent.events import ApprovalAsked
from agent.gate import Identity, Outcome
from agent.interfaces.slack_blocks import WAITS, CardState, card_message, home_view
from agent.interfaces.slack_people import People
from agent.interfaces.slack_posts import Posts
from agent.interfaces.slack_text import QUIET, Block, callees, date, section, shown, status
from agent.interfaces.slack_web import SlackRefused, SlackUnsure, Thread, Web
from agent.journal import Approval, Decision, Post, Transaction, make_owner
from agent.loop import Agent
from agent.policy import named, requesters
from agent.prompts import Language, Words

log = logging.getLogger("agent.slack")

FINAL = {"done", "failed", "denied", "expired", "superseded", "drifted", "refused"}
"""States that nothing follows. What is unknown may still turn out to be something."""
APPROVED = {"approved", "executing", "done", "failed", "unknown", "drifted", "refused"}
"""States that only an approval leads to."""
_DECIDED = sorted((FINAL | APPROVED) - {"superseded"})
"""What the Home tab shows as decided."""
GONE = {"message_not_found", "channel_not_found", "is_archived", "not_in_channel", "cant_update_message"}
"""Slack's words for a card that can't be changed any more."""
_UNSHOWN = 1.0
"""Seconds in which whoever has asked posts the card."""
_MOMENT = 0.3
"""Seconds in which a decision is mostly made, so that the card needn't say first that it waits."""
_HOLD = 30.0
"""Seconds for which nobody else changes a card, or reminds of it, while one process does."""
_REMIND_WITHIN = 20.0
"""Seconds for one try of a reminder, so that it is over while nobody else tries."""
_REMIND_EVERY = 300.0
"""Seconds between two tries of a reminder that Slack goes on refusing, at most."""


@dataclass(frozen=True, slots=True)
class Called:
    """Who is called to decide, by id. Where there is nobody to name: anybody but `others`."""

    whom: Sequence[str] = ()
    others: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """What a card shows: an approval, how it stands, and who is called to decide."""

    approval: Approval
    state: CardState
    called: Called

    @property
    def name(self) -> str:
        """What tells one face of a card from another."""
        waits = self.state.state == "pending"
        first = [who for who, _ in self.state.earlier] + [self.state.by] if waits and self.state.by else []
        return " ".join([self.state.state, *map(str, [*first, *(self.state.taken or ())])])


class Cards:
    """Every card on record, and what it shows."""

    def __init__(self, agent: Agent, web: Web, posts: Posts, people: People) -> None:
        self._agent, self._web, self._posts, self._people = agent, web, posts, people
        self._judged: tuple[int, ...] = ()
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._later: dict[str, tuple[int, float]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def words(self, language: str) -> Words:
        known: dict[str, Language] = {"es": "es", "en": "en"}
        return self._agent.words(known.get(language))

    def _note(self, words: Words) -> str:
        return words.say("screen.sandbox") if self._agent.settings.sandboxed else ""

    def whom(self, tx: Transaction, approval: Approval) -> Called:
        """Who is called to decide: those whom policy names, else whoever asked, where that is allowed; where that
        leaves nobody to name, anybody but those who may not or have."""
        asked = sorted(requesters(approval.requested_by, approval.calls))
        done = [decision.identity for decision in tx.decisions(approval.id)] + ([] if approval.own else asked)
        called = named(approval.deciders) or [approval.requested_by]
        left = [who for who in called if who not in done]
        # Slack can call its own; the others are there to be read.
        whom = [who for who in left if who.startswith("slack")] or left
        return Called(
            [who.rpartition(":")[2].rpartition("/")[2] if who.startswith("slack") else who for who in whom],
            list(dict.fromkeys(done)),
        )

    def _message(self, asked: ApprovalAsked, words: Words, called: Called, state: CardState) -> Block:
        note = self._note(words)
        return card_message(asked, words, mention=called.whom, others=called.others, state=state, note=note)

    # Posting.

    async def ask(self, asked: ApprovalAsked, thread: Thread, language: Language) -> None:
        """Posts a card, once. What has happened to it meanwhile is seen by the next look at it."""

        def look(tx: Transaction) -> Called | None:
            approval, known = tx.approval(asked.id), tx.post(f"card:{asked.id}")
            there = approval is None or (known is not None and known.ts is not None)
            return None if there else self.whom(tx, approval)  # type: ignore[arg-type]

        called = await self._agent.journal.read(look)
        if called is None:
            return
        words = self.words(language)
        message = self._message(asked, words, called, WAITS)
        post = Post(f"card:{asked.id}", thread.conversation, thread.channel, None, asked.id, "pending", language)
        await self._posts.put(post, thread, message["text"], message["blocks"], settled=False)
        await self._copy(asked, thread, called, message, language)

    async def _copy(self, asked: ApprovalAsked, thread: Thread, called: Called, message: Block, language: str) -> None:
        """The same card for whoever is called to decide and can't see the thread, in their own conversation with the
        bot. Once at most: the Home tab has it too."""
        if not thread.channel.startswith("D"):
            return
        approval = await self._agent.journal.read(lambda tx: tx.approval(asked.id))
        asker = str(approval and approval.requested_by).rpartition("/")[2]
        for user in [who for who in called.whom if re.fullmatch(r"[UW][A-Z0-9]+", who) and who != asker]:
            post = Post(f"card:{asked.id}:{user}", thread.conversation, user, None, asked.id, "pending", language)
            if await self._posts.begin(post) is not None:
                continue
            about = {"text": message["text"], "blocks": message["blocks"], **QUIET}
            try:
                answer = await self._web.call("chat.postMessage", channel=user, **about)
            except (SlackRefused, SlackUnsure) as error:
                log.warning("card %s: %s", post.key, error)
                continue
            ts, channel = str(answer["ts"]), str(answer["channel"])
            await self._agent.journal.write(partial(Transaction.posted, key=post.key, ts=ts, channel=channel))

    async def ask_all(self, thread: Thread, language: Language) -> None:
        """Posts what waits in a thread and has no card yet: of what asked just now, or just before a crash."""

        def look(tx: Transaction) -> list[Approval]:
            shown = {post.approval for post in tx.posts(conversation=thread.conversation) if post.ts is not None}
            waiting = tx.approvals(conversation=thread.conversation, states=("pending",))
            return [approval for approval in reversed(waiting) if approval.id not in shown]

        words = self.words(language)
        for approval in await self._agent.journal.read(look):
            await self.ask(self._agent.asked(approval, words.language), thread, language)

    # Bringing up to date.

    async def taken(self, conversation: str) -> None:
        """Shows what has been stored about the cards of a conversation, where it isn't done in a moment: whoever has
        pressed a button sees that, and nobody presses another."""
        await asyncio.sleep(_MOMENT)
        await self.refresh(conversation=conversation)

    async def judged(self, item: int, approval: str) -> None:
        """A decision or an edit moved nothing: before anybody is told so, the card has its buttons again."""
        # The latest alone: each is done soon after. Made anew, since others read it in threads of the database.
        self._judged = (*self._judged[-99:], item)
        await self.refresh(approval=approval)

    async def refresh(self, *, approval: str | None = None, conversation: str | None = None) -> None:
        for post in await self._agent.journal.read(lambda tx: tx.posts(approval=approval, conversation=conversation)):
            if post.approval is not None and post.settled_at is None:
                await self._refresh(post)

    async def sweep(self) -> list[str]:
        """One look at every card that may have to change, beside each other: none waits until Slack takes another one.
        Returns the conversations that lack a card."""
        for post in await self._agent.journal.read(lambda tx: tx.stale_cards(f"slack:{self._web.team}:")):
            if post.key not in self._looks:
                self._looks[post.key] = asyncio.create_task(self._look(post))
        return await self._agent.journal.write(self._missing)

    async def _look(self, post: Post) -> None:
        try:
            await self._refresh(post)
            await self._remind(post)
        except (SlackRefused, SlackUnsure, AgentError) as error:
            log.warning("card %s: %s", post.key, error)
        except Exception:
            # At the edge: whatever it is, the next look comes.
            log.exception("card %s", post.key)
        finally:
            self._looks.pop(post.key, None)

    async def aclose(self) -> None:
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def _missing(self, tx: Transaction) -> list[str]:
        """What asked elsewhere is posted by whoever has the thread."""
        found = tx.unshown(f"slack:{self._web.team}:", _UNSHOWN)
        for approval in found:
            kind, _, id = approval.requested_by.partition(":")
            body = {"by": [kind, id, ""]}
            tx.put(f"card:{approval.id}", approval.conversation, "card", body, by=approval.requested_by)
        return [approval.conversation for approval in found]

    async def _refresh(self, post: Post) -> None:
        # One after the other, so that whoever waits for it sees the newest state there afterwards.
        async with self._turns.setdefault(post.key, asyncio.Lock()):
            await self._bring_up(post)

    async def _bring_up(self, post: Post) -> None:
        approval = await self._agent.journal.read(lambda tx: tx.approval(str(post.approval)))
        if approval is None or post.ts is None:
            return
        await self._agent.gate.settle(approval)
        owner, target = make_owner(), f"slack {post.key}"

        def begin(tx: Transaction) -> Face | None:
            current, known = tx.approval(approval.id), tx.post(post.key)
            if current is None or known is None or known.settled_at is not None:
                return None
            face = Face(current, self.state(tx, current, post.language), self.whom(tx, current))
            # Two that change one card could otherwise leave the older state on it.
            return face if known.shown != face.name and tx.lock(target, owner, _HOLD) else None

        face = await self._agent.journal.write(begin)
        if face is None:
            return
        done = False
        try:
            await self._show(post, face)
            done = True
            if face.state.state == "expired" and (thread := Thread.of(post.conversation)) is not None:
                await self._web.set_status(thread, "active")
        except SlackRefused as refused:
            done = refused.error in GONE
            if not done:
                raise
        finally:

            def end(tx: Transaction) -> None:
                tx.unlock(target, owner)
                if done:
                    tx.posted(post.key, str(post.ts), face.name, settled=face.state.state in FINAL)

            await self._agent.journal.write(end)

    async def _show(self, post: Post, face: Face) -> None:
        words = self.words(post.language)
        asked = self._agent.asked(face.approval, words.language)
        message = self._message(asked, words, face.called, face.state)
        await self._posts.change(post.channel, str(post.ts), message["text"], message["blocks"])

    def state(self, tx: Transaction, approval: Approval, language: str) -> CardState:
        """How an approval stands, by what is stored."""
        decisions = tx.decisions(approval.id)
        by = decisions[-1].identity if decisions else None
        earlier = [(made.identity, made.at) for made in decisions[:-1] if made.decision == "approve"]
        if approval.state == "pending":
            # One of two may have approved.
            at = decisions[-1].at if decisions else None
            return CardState("pending", by, at, "", earlier, self._taken(tx, approval, decisions))
        if approval.state not in APPROVED:
            # Whoever approved first has no part in a no, nor in what overtook it.
            earlier, by = [], by if approval.state in ("denied", "expired") else None
        at = approval.expires_at if approval.state == "expired" and by is None else approval.decided_at
        outcome = approval.outcome
        words = self.words(language)
        if isinstance(outcome, list):
            lines = [self._agent.line(Outcome.load(one), words.language) for one in outcome]
        else:
            lines = [str((outcome or {}).get("reason") or "")]
        return CardState(approval.state, by, at, "\n".join(line for line in lines if line), earlier)

    def _taken(
        self, tx: Transaction, approval: Approval, decisions: Sequence[Decision]
    ) -> tuple[str, str, float] | None:
        """What came in first about an approval and hasn't been judged: what, who, when."""
        made = {(decision.identity, decision.decision) for decision in decisions}
        for item in tx.undecided(approval):
            edit, approves = item.kind == "edit", item.body.get("decision") == "approve"
            what, who = "edit" if edit else "approve" if approves else "deny", item.by or ""
            # The first of two approvals is on record before its item is done.
            if item.id not in self._judged and (who, what) not in made:
                return what, who, item.at
        return None

    async def overtaken(self, approval_id: str, by: str) -> None:
        """An expired card that was asked again shows so: it is nothing to press any more."""
        key = f"card:{approval_id}"
        look = self._agent.journal.read
        post, approval, now = await look(lambda tx: (tx.post(key), tx.approval(approval_id), tx.now()))
        if approval is not None and post is not None and post.ts is not None:
            await self._show(post, Face(approval, CardState("superseded", by, now, ""), Called()))
            ts = post.ts
            await self._agent.journal.write(lambda tx: tx.posted(key, ts, settled=True))

    # Reminding.

    async def _remind(self, post: Post) -> None:
        """Once, when half of a card's time is over. What Slack did not take is tried again by a later look."""
        key, owner, thread = f"remind:{post.approval}", make_owner(), Thread.of(post.conversation)
        tries, not_before = self._later.get(key, (0, 0.0))
        clock = asyncio.get_running_loop().time
        # Copies are reminded of together with the card in the thread.
        if thread is None or clock() < not_before or post.key != f"card:{post.approval}":
            return
        found = await self._agent.journal.write(lambda tx: self._due(tx, post, key, owner))
        if found is None:
            return
        (face, again), ts = found, None
        try:
            async with asyncio.timeout(_REMIND_WITHIN):
                # Slack may have taken the one before without saying so.
                ts = await self._posts.find(key, thread, streams=False) if again else None
                if ts is None:
                    ts = await self._post_reminder(post, thread.ts, key, face)
                    await self._remind_copies(post, key, face)
            self._later.pop(key, None)
        except (SlackRefused, SlackUnsure, TimeoutError) as error:
            wait = max(2.0**tries, getattr(error, "retry_after", None) or 0.0)
            self._later[key] = tries + 1, clock() + min(_REMIND_EVERY, wait)
            log.warning("reminder %s: %s", key, error)
        finally:

            def end(tx: Transaction) -> None:
                tx.unlock(f"slack {key}", owner)
                if ts is not None:
                    tx.posted(key, ts, settled=True)

            await self._agent.journal.write(end)

    def _due(self, tx: Transaction, post: Post, key: str, owner: str) -> tuple[Face, bool] | None:
        """What to remind of now, with the right to do it, and whether somebody has begun with it before."""
        approval, known = tx.approval(str(post.approval)), tx.post(key)
        if approval is None or approval.state != "pending" or (known is not None and known.ts is not None):
            return None
        half = approval.requested_at + (approval.expires_at - approval.requested_at) / 2
        state = self.state(tx, approval, post.language)
        if not half <= tx.now() <= approval.expires_at or not state.open:
            return None
        if not tx.lock(f"slack {key}", owner, _HOLD):
            return None
        again = tx.begin_post(Post(key, post.conversation, post.channel)) is not None
        return Face(approval, state, self.whom(tx, approval)), again

    async def _remind_copies(self, card: Post, key: str, face: Face) -> None:
        """Whoever can't see the thread is reminded under their own copy, as well as it goes."""
        for post in await self._agent.journal.read(lambda tx: tx.posts(approval=card.approval)):
            if post.key != card.key and post.ts is not None:
                try:
                    await self._post_reminder(post, post.ts, key, face)
                except (SlackRefused, SlackUnsure) as error:
                    log.warning("reminder under %s: %s", post.key, error)

    async def _post_reminder(self, post: Post, under: str, key: str, face: Face) -> str:
        approval = face.approval
        words = self.words(post.language)
        asked = self._agent.asked(approval, words.language)
        who, when = callees(face.called.whom, face.called.others, words), date(approval.expires_at, words)
        text = words.say("bot.reminder", who=who, when=when, headline=shown(asked.card.headline))
        line = words.say("bot.reminder", who=who, when=when, headline="").rstrip()
        about = {"event_type": "campaign_agent", "event_payload": {"key": key}}
        answer = await self._web.call(
            "chat.postMessage",
            patience=0,
            channel=post.channel,
            thread_ts=under,
            text=text,
            blocks=[status(line), section(asked.card.headline)],
            metadata=about,
            **QUIET,
        )
        return str(answer["ts"])

    # The Home tab.

    async def publish_home(self, user: str) -> None:
        """What waits for a person, what waits for others once that person has done it, and what was decided lately."""
        words, who = self.words(""), await self._people.known(["slack", f"{self._web.team}/{user}"], fresh=False)
        mine = f"slack:{self._web.team}:"

        def look(tx: Transaction) -> tuple[list[Approval], list[Approval], list[tuple[Approval, CardState]]]:
            # However much has been decided since, what waits is found.
            waiting = tx.approvals(among=mine, states=("pending",), limit=None)
            open = [a for a in waiting if a.expires_at > tx.now() and self._agent.gate.entitled(a, who) is None]
            theirs = [a for a in open if self._is_for_others(tx, a, who)]
            over = tx.approvals(among=mine, states=_DECIDED, limit=100)
            return [a for a in open if a not in theirs], theirs, [(a, self.state(tx, a, "")) for a in over]

        waiting, theirs, over = await self._agent.journal.read(look)
        view = home_view(
            [self._agent.asked(one, words.language) for one in waiting],
            [(self._agent.asked(one, words.language), state) for one, state in over],
            words,
            others=[self._agent.asked(one, words.language) for one in theirs],
            links=await self._links([*waiting, *theirs][:15], user),
            note=self._note(words),
        )
        await self._web.call("views.publish", user_id=user, view=view)

    def _is_for_others(self, tx: Transaction, approval: Approval, who: Identity) -> bool:
        """Whether somebody has done what that person can do for an approval, or may only take it back."""
        done = {made.identity for made in tx.decisions(approval.id)} | {item.by for item in tx.undecided(approval)}
        return who.key in done or self._agent.gate.entitled(approval, who, approve=True) is not None

    async def _links(self, approvals: Sequence[Approval], user: str) -> dict[str, str]:
        """Where a person finds each card: in their own conversation, if it was copied there."""
        found: dict[str, str] = {}
        for approval in approvals:
            posts = await self._agent.journal.read(lambda tx, id=approval.id: tx.posts(approval=id))  # type: ignore[misc]
            own = [post for post in posts if post.key.endswith(f":{user}")]
            for post in own or posts:
                if post.ts is None:
                    continue
                try:
                    answer = await self._web.call("chat.getPermalink", channel=post.channel, message_ts=post.ts)
                    found[approval.id] = str(answer["permalink"])
                except (SlackRefused, SlackUnsure) as error:
                    log.info("no link to %s: %s", post.key, error)
        return found
