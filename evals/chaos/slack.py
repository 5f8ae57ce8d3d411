"""`python -m evals.chaos.slack`: people write to the Slack bot and click, while its processes are killed with -9 at
random moments and started again, and Slack repeats what isn't acknowledged, or was. Exit 1 if a promise broke.

    --events N       messages and clicks on each engine (default 1000)
    --threads N      at the same time (default 40); every fourth asks for removals and approves them by a click
    --engine NAME    sqlite (one process, over sockets) or postgresql (two, over HTTP); both by default
    --seed N         repeats a run's choices; only timing is left to chance
    --json FILE
"""

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from agent.interfaces.slack_manifest import manifest
from agent.prompts import words
from agent.sandbox.api import SandboxTransport, create_app
from agent.sandbox.seed import LOCAL_KEY
from evals.chaos.command import Row, command
from tests import support
from tests.fakeslack import FakeSlack, Message, NotPossible, Timing
from tests.slackbot import DEAD, BotProcess, ModelServer, answers, cards, gated, last_words, sql, tool_answers

SLACK_RETRIES = (0.0, 1.0, 5.0)
"""Seconds; Slack's own are at once, after one minute and after five."""
REPEATED = 0.1
"""Share of what Slack sends twice at once, and once more of what it sends again after it was acknowledged."""
BETWEEN_KILLS = (0.3, 1.2)
PAUSE = 2.0
"""Seconds at most between two messages in one thread."""
PATIENCE = 180.0
HALF = "[in_progress]"
"""What the fake shows of a task that nobody works on any more."""
TASK = r"^(?:\[(?:pending|complete|error)\]|⏸) .*\n?"
"""A task that is over, and what stands in place of one whose process died."""
REMOVE = "remove_campaign_audience_client"


@dataclass(slots=True)
class Thread:
    """What somebody wrote in it. `campaign`: of one whose messages ask for removals."""

    number: int
    events: int
    user: str
    root: str = ""
    campaign: str = ""
    said: list[str] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    """What Slack gave up: it may have arrived all the same, and nobody was told so."""


@dataclass(slots=True)
class Figures:
    """What a run found. `unknown`: removals of which the bot says that nobody knows how they ended."""

    engine: str
    events: int = 0
    clicks: int = 0
    kills: int = 0
    deliveries: int = 0
    attempts: int = 0
    repeated: int = 0
    given_up: int = 0
    answers: int = 0
    model: int = 0
    removals: int = 0
    unknown: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    left_over: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Chaos:
    """One database, one Slack, and as many threads as are asked for."""

    def __init__(self, engine: str, slack: FakeSlack, model: ModelServer, folder: Path, *, seed: int) -> None:
        self.figures = Figures(engine)
        self._slack, self._model, self._folder = slack, model, folder
        self._chance = random.Random(seed)
        self._bots: list[BotProcess] = []
        self._told = asyncio.Event()

    async def run(self, events: int, threads: int) -> None:
        start = time.monotonic()
        made = [Thread(n, (events + n) // threads, self._slack.add_user(f"p{n}")) for n in range(threads)]
        await self._seed([made[number] for number in range(3, threads, 4)])
        for _ in range(2 if self.figures.engine == "postgresql" else 1):
            self._bots.append(await self._start())
        killing = asyncio.create_task(self._kill())
        try:
            await asyncio.gather(*(self._click(one) if one.campaign else self._write(one) for one in made))
            self._told.set()
            await killing
            await self._until(self._idle, "everything is done")
            await self._slack.settled(PATIENCE)
        except AssertionError as problem:
            self.figures.problems.append(str(problem)[:600])
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            for bot in self._bots:
                await bot.kill()
        self._judge(made)
        self.figures.seconds = time.monotonic() - start

    async def _seed(self, threads: list[Thread]) -> None:
        """A campaign for each, with somebody to remove for every event, in the sandbox that the bots will open."""
        (self._folder / "home").mkdir()
        app = create_app(self._folder / "home" / "sandbox.db", rate_limit=1_000_000)
        headers = {"authorization": f"Bearer {LOCAL_KEY}"}
        async with httpx.AsyncClient(
            transport=SandboxTransport(app), base_url="http://sandbox.invalid", headers=headers
        ) as api:
            for thread in threads:
                made = {"title": f"Chaos {thread.number}", "category": "utility", "templateName": "saludo_simple"}
                answer = await api.post("/v1/campaigns", json=made)
                thread.campaign = answer.raise_for_status().json()["data"]["id"]
                people = [{"phoneNumber": phone(thread, n), "name": f"Persona {n}"} for n in range(thread.events)]
                answer = await api.post(f"/v1/campaigns/{thread.campaign}/audience", json={"clients": people})
                answer.raise_for_status()
        app.state.store.close()

    # Processes.

    async def _start(self) -> BotProcess:
        settings = {**self._model.settings, "REQUEST_DEADLINE": "3", "REQUESTS_PER_SECOND": "10000"}
        bot = BotProcess(self._slack, self._folder, http=self.figures.engine == "postgresql", settings=settings)
        return await bot.__aenter__()

    async def _kill(self) -> None:
        """One process after the other, until everybody has said everything."""
        while not self._told.is_set():
            await asyncio.sleep(self._chance.uniform(*BETWEEN_KILLS))
            at = self._chance.randrange(len(self._bots))
            await self._bots[at].kill()
            self.figures.kills += 1
            # A balancer finds out at once where nobody listens; what was under way there fails.
            if others := [url for url in self._slack.urls if url not in DEAD]:
                self._slack.point(*others)
            self._bots[at] = await self._start()

    # People.

    async def _say(self, thread: Thread, text: str) -> bool:
        """The next message, once Slack has the bot's word for the one before. False: Slack has given up."""
        await asyncio.sleep(self._chance.random() * PAUSE)
        times = 2 if self._chance.random() < REPEATED else 1
        said = await self._slack.say(thread.user, text, thread_ts=thread.root or None, times=times)
        thread.root = thread.root or said.thread_ts
        thread.said.append(text)
        self.figures.events += 1
        self.figures.repeated += times - 1
        if self._chance.random() < REPEATED:
            self._slack.redeliver(said.deliveries[0])
            self.figures.repeated += 1
        if all(one.state == "lost" for one in said.deliveries):
            thread.unsure.add(text)
            self.figures.given_up += 1
        return text not in thread.unsure

    async def _write(self, thread: Thread) -> None:
        for number in range(thread.events):
            await self._say(thread, f"m{thread.number}-{number}")

    async def _click(self, thread: Thread) -> None:
        """Asks for a removal, approves it, and asks for the next when the answer is there."""
        known: set[str] = set()
        for number in range((thread.events + 1) // 2):
            text = f"remove {thread.campaign} +{phone(thread, number)}"
            if not await self._say(thread, text):
                continue
            shown = await self._until(partial(self._cards, thread, known), "there is a card")
            known.add(shown[0].ts)
            await self._approve(thread, shown[0].ts)
            self.figures.events += 1
            self.figures.clicks += 1
            await self._until(partial(self._answered, thread, text), "a removal is answered")

    def _cards(self, thread: Thread, known: set[str]) -> list[Message]:
        return [card for card in cards(self._slack, thread.root) if card.ts not in known]

    def _answered(self, thread: Thread, text: str) -> bool:
        return any(text in one for one in self._texts(thread))

    async def _approve(self, thread: Thread, card: str) -> None:
        """Clicks until Slack shows no warning sign, or the button is gone; now and then twice at once."""
        times = 2 if self._chance.random() < REPEATED else 1
        self.figures.repeated += times - 1
        while True:
            try:
                sent = await self._slack.click(thread.user, card, "approval_approve", dialog=True, times=times)
            except NotPossible:
                return
            if any(one.state == "acked" for one in sent):
                return
            await asyncio.sleep(0.2)

    async def _until(self, found: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := found()):
            if time.monotonic() > end:
                raise AssertionError(f"not after {PATIENCE:.0f} s: {what}; {self._bots[0].state()}")
            await asyncio.sleep(0.1)
        return value

    def _idle(self) -> bool:
        return sql(self._folder, "SELECT count(*) FROM inbox WHERE done_at IS NULL") == [(0,)]

    # Afterwards.

    def _texts(self, thread: Thread) -> list[str]:
        """The bot's answers in a thread, in order, without the tasks that some begin with."""
        over = [m for m in answers(self._slack, thread.root) if not self._slack.streaming(m)]
        texts = [re.sub(TASK, "", self._slack.text(m.ts), flags=re.M) for m in over]
        return [text for text in texts if text]

    def _judge(self, threads: list[Thread]) -> None:
        figures, heard = self.figures, heard_by(self._model)
        figures.deliveries = len(self._slack.deliveries)
        figures.attempts = sum(len(one.attempts) for one in self._slack.deliveries)
        figures.model = len(self._model.requests)
        for thread in threads:
            texts = [text for text in self._texts(thread) if not text.startswith(HALF)]
            figures.answers += len(texts)
            figures.left_over += len(self._texts(thread)) - len(texts)
            told = [self._about(thread, text) for text in texts]
            known = heard.get(thread.said[0], []) if thread.said else []
            self._compare(f"answers in thread {thread.number}", thread, told)
            self._compare(f"the model's view of thread {thread.number}", thread, known)
            if thread.campaign:
                figures.unknown += sum("outcome unknown" in text for text in texts)
        self._judge_removals(threads)

    def _about(self, thread: Thread, text: str) -> str:
        """Which message a text answers; the text itself where it is none."""
        found = re.findall(r"heard (.+)|(remove \S+ \S+): outcome (?:done|unknown)", text)
        return "".join(found[0]) if len(found) == 1 else text

    def _compare(self, what: str, thread: Thread, found: list[str]) -> None:
        counts = Counter(found)
        wanted = [one for one in thread.said if one in counts or one not in thread.unsure]
        lost, twice = [one for one in wanted if one not in counts], [one for one in wanted if counts[one] > 1]
        strange = [one for one in found if one not in set(wanted)]
        self.figures.lost += len(lost)
        self.figures.twice += len(twice)
        if lost or twice or strange:
            self.figures.problems.append(f"{what}: lost {lost}, twice {twice}, strange {strange}")
        elif found != wanted:
            self.figures.out_of_order += 1
            self.figures.problems.append(f"{what}: out of order: {found}")

    def _judge_removals(self, threads: list[Thread]) -> None:
        """By the ledger of the campaigns API: once for each approval; none only where that is said to be unknown."""
        arrived = Counter(str(row["path"]) + str(row.get("query") or "") for row in gated(self._folder))
        self.figures.removals = sum(arrived.values())
        for path, count in arrived.items():
            if count > 1:
                self.figures.twice += 1
                self.figures.problems.append(f"{count} requests for one approval: {path}")
        for thread in [thread for thread in threads if thread.campaign]:
            for text in [text for text in self._texts(thread) if not text.startswith(HALF)]:
                asked = self._about(thread, text).split()
                there = [path for path in arrived if thread.campaign in path and asked[-1].lstrip("+") in path]
                if not there and "outcome unknown" not in text:
                    self.figures.lost += 1
                    self.figures.problems.append(f"no request, and yet: {text}")


def phone(thread: Thread, number: int) -> str:
    return f"52550010{thread.number:02d}{number:02d}"


def script(messages: list[dict[str, Any]]) -> Any:
    """A model that answers in two pieces, and asks for the removal that it is told to."""
    said, told = last_words(messages), tool_answers(messages)
    if told:
        return [f"{said}: ", f"outcome {told[-1]['outcome']}"]
    if said.startswith("remove"):
        _, campaign, number = said.split()
        return [(REMOVE, {"campaignId": campaign, "phoneNumber": number})]
    return ["heard ", said]


def heard_by(model: ModelServer) -> dict[str, list[str]]:
    """What people said in each thread, as the model saw it in the thread's last request, by its first message."""
    found: dict[str, list[str]] = {}
    for messages in model.requests:
        spoken = [str(message["content"]) for message in messages if message["role"] == "user"]
        # What begins like this is the program's own, on the account.
        said = [text for text in spoken if not text.startswith('{"kind":')]
        if said:
            found[said[0]] = said
    return found


def table(f: Figures) -> list[Row]:
    """Rows of (what, figure, whether it holds); None where nothing is promised."""
    return [
        ("events", str(f.events), None),
        ("  clicks among them", str(f.clicks), None),
        ("kills", str(f.kills), f.kills > 0),
        ("deliveries", str(f.deliveries), None),
        ("  repeated though acknowledged, or at once", str(f.repeated), None),
        ("  attempts, until there was an acknowledgement", str(f.attempts), None),
        ("  messages that Slack gave up, nobody listening", str(f.given_up), None),
        ("requests to the model", str(f.model), None),
        ("answers in threads", str(f.answers), None),
        ("removals that reached the API", str(f.removals), None),
        ("  called unknown", str(f.unknown), None),
        ("lost", str(f.lost), f.lost == 0),
        ("twice", str(f.twice), f.twice == 0),
        ("threads out of order", str(f.out_of_order), f.out_of_order == 0),
        ("messages left with a task that goes on for ever", str(f.left_over), f.left_over == 0),
        ("anything else amiss", str(len(f.problems)), not f.problems),
        ("seconds", f"{f.seconds:.0f}", None),
    ]


async def run(engine: str, events: int, threads: int, *, seed: int) -> Figures:
    support.engine = engine
    shown = manifest(words("en", "America/Mexico_City"))
    with tempfile.TemporaryDirectory(prefix="chaos-slack-") as folder:
        model = ModelServer(script)
        async with FakeSlack(shown, timing=Timing(retries=SLACK_RETRIES)) as slack, model:
            chaos = Chaos(engine, slack, model, Path(folder), seed=seed)
            await chaos.run(events, threads)
            return chaos.figures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evals.chaos.slack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=40)
    return command(
        parser,
        lambda engine, options: asyncio.run(run(engine, options.events, options.threads, seed=options.seed)),
        table,
        asdict,
    )


if __name__ == "__main__":
    sys.exit(main())
