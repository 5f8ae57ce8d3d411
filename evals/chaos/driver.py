"""Rounds of trials: people ask and approve, processes are killed, others go on, and everything is counted afterwards.

A trial has a campaign and a conversation of its own, so that whatever reaches the API under its id is of its approval.
"""

import asyncio
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic_core import from_json

from agent.journal import Approval, Attempt, Event, Journal, Transaction
from agent.sandbox.seed import LOCAL_KEY
from evals.chaos.worker import CALLED, WINDOWS

ROOT = Path(__file__).parent.parent.parent
BETWEEN = ("intent", "request bytes", "response")
"""Windows in which an attempt is on record and its outcome isn't."""
AHEAD = 40.0
"""Seconds that the clock jumps between a killing and the recovery: past any attempt's deadline and its margin, not past
the two minutes in which an approval may start."""
TOOLS = ("send_campaign", "send_campaign", "send_campaign", "delete_campaign", "clear_campaign_audience",
         "remove_campaign_audience_client")  # fmt: skip


class Process:
    """A child that speaks JSON lines and ends with its standard input."""

    def __init__(self, module: str) -> None:
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        self._child = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**env, "PYTHONPATH": str(ROOT)},
        )
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(json.loads(line))

    def tell(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()

    def hear(self, timeout: float) -> dict[str, Any] | None:
        try:
            return self._lines.get(timeout=max(0.001, timeout))
        except queue.Empty:
            return None

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(timeout=20)
        self._reader.join(timeout=5)
        if self._child.stdout is not None:
            self._child.stdout.close()


@dataclass(slots=True)
class Trial:
    number: int
    tool: str
    window: str | None
    """None: at a random moment."""
    early: bool
    racer: str | None
    """What a second process does on the same database at the same time: "approve", "resume" or nothing."""
    campaign: str = ""
    approval: str = ""
    heard: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def session(self) -> str:
        return f"chaos{self.number}"

    @property
    def title(self) -> str:
        return f"Chaos {self.number}"

    def text(self) -> str:
        arguments: dict[str, Any] = {"campaignId": self.campaign}
        if self.tool == "send_campaign":
            arguments["channelId"] = "wb-501"
        if self.tool == "remove_campaign_audience_client":
            arguments["phoneNumber"] = f"+{_phone(self.number, 0)}"
        return f"run {self.tool} {json.dumps(arguments)}"


@dataclass(slots=True)
class Figures:
    """What a run found. `windows` counts kills by the window they hit."""

    engine: str
    kills: int = 0
    windows: Counter[str] = field(default_factory=Counter)
    between: int = 0
    racing: int = 0
    approvals: int = 0
    states: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    duplicates: int = 0
    turns: int = 0
    finished: int = 0
    said_again: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def unknown(self) -> float:
        return self.states["unknown"] / max(1, self.approvals)


class Chaos:
    """One database, one API, and as many rounds as are asked for. `seed` decides everything that is left to chance."""

    def __init__(self, database: str, engine: str, *, seed: int = 1) -> None:
        self._database, self._chance = database, random.Random(seed)
        self.figures = Figures(engine)
        self._clock, self._jobs, self._trials = 0.0, 0, 0
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-")
        self._outs: dict[int, tuple[Trial, Path, int]] = {}
        self._pids: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._api, self._forks = Process("evals.chaos.api"), Process("evals.chaos.worker")
        said = self._api.hear(60)
        assert said is not None, "the API did not start"
        self._url = said["url"]
        self._http = httpx.Client(base_url=self._url, headers={"authorization": f"Bearer {LOCAL_KEY}"}, trust_env=False)
        self._journal = Journal(self._database)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._forks.close()
        self._api.close()
        self._folder.cleanup()

    def round(self, plan: Iterable[tuple[str | None, bool, str | None]]) -> None:
        """Trials at once, each (window, early, racer), from the message to the last restart."""
        start = time.monotonic()
        trials = [self._trial(window, early, racer) for window, early, racer in plan]
        self._ask(trials)
        self._approve(trials)
        self._clock += AHEAD
        self._recover(trials)
        asyncio.run(self._judge(trials))
        self.figures.seconds += time.monotonic() - start

    def _trial(self, window: str | None, early: bool, racer: str | None) -> Trial:
        self._trials += 1
        trial = Trial(self._trials, self._chance.choice(TOOLS), window, early, racer)
        made = {"title": trial.title, "category": "utility", "templateName": "saludo_simple"}
        trial.campaign = self._http.post("/v1/campaigns", json=made).raise_for_status().json()["data"]["id"]
        people = [{"phoneNumber": _phone(trial.number, n), "name": f"Persona {n}"} for n in range(3)]
        self._http.post(f"/v1/campaigns/{trial.campaign}/audience", json={"clients": people}).raise_for_status()
        return trial

    # Processes.

    def _start(self, trial: Trial, do: str, kill: str | None = None) -> int:
        self._jobs += 1
        out = Path(self._folder.name) / f"{self._jobs}.jsonl"
        job: dict[str, Any] = {"id": self._jobs, "url": self._url, "database": self._database, "clock": self._clock}
        job |= {"out": str(out), "kill": kill, "early": trial.early, "do": do, "session": trial.session}
        job |= {"text": trial.text(), "approval": trial.approval, "confirm": trial.title}
        self._outs[self._jobs] = (trial, out, len(trial.heard))
        self._forks.tell(job)
        return self._jobs

    def _wait(
        self,
        jobs: Sequence[int],
        *,
        seconds: float = 30.0,
        kill_at: dict[int, float] | None = None,
    ) -> set[int]:
        """Until every one of `jobs` has ended. Gives those that were killed; what takes longer is killed as well."""
        waiting, killed, ends = set(jobs), set[int](), time.monotonic() + seconds
        doomed = dict(kill_at or {})
        while waiting:
            now = time.monotonic()
            for job in [job for job, at in doomed.items() if now >= at and job in self._pids] + (
                [job for job in waiting if job in self._pids] if now > ends else []
            ):
                doomed.pop(job, None)
                self._kill(job)
            said = self._forks.hear(min([ends, *doomed.values()], default=ends) - now)
            if said is None:
                continue
            if "pid" in said:
                self._pids[said["id"]] = said["pid"]
                if said["id"] in doomed:
                    doomed[said["id"]] += time.monotonic() - now
                continue
            self._pids.pop(said["id"], None)
            waiting.discard(said["id"])
            doomed.pop(said["id"], None)
            if said["exit"] == -signal.SIGKILL:
                killed.add(said["id"])
            elif said["exit"] != 0:
                self._outs[said["id"]][0].problems.append(f"a process ended with {said['exit']}")
            self._hear(said["id"])
        self.figures.kills += len(killed)
        return killed

    def _kill(self, job: int) -> None:
        try:
            os.kill(self._pids[job], signal.SIGKILL)
        except ProcessLookupError:
            return

    def _hear(self, job: int) -> None:
        trial, out, _ = self._outs.pop(job)
        if not out.exists():
            return
        for line in out.read_bytes().splitlines():
            try:
                event = from_json(line)
            except ValueError:
                continue
            trial.heard.append(event)
            if event["type"] == "card":
                trial.approval = event["id"]

    # The phases of a round.

    def _ask(self, trials: Sequence[Trial]) -> None:
        first = {self._start(t, "say", "proposal" if t.window == "proposal" else None): t for t in trials}
        killed = self._wait(list(first))
        self._count(killed, first, {"proposal"})
        for _ in range(3):
            lacking = [trial for trial in trials if not trial.approval]
            if not lacking:
                return
            heard = asyncio.run(self._read_all(lacking))
            jobs = []
            for trial, (events, _, _) in zip(lacking, heard, strict=True):
                said = any(event.kind == "user" for event in events)
                # Nothing was stored and nobody was answered: the person says it again.
                self.figures.said_again += not said
                jobs += [self._start(trial, "resume" if said else "say") for _ in range(1 + bool(trial.racer and said))]
            self._wait(jobs)
        for trial in trials:
            if not trial.approval:
                trial.problems.append("no card after three restarts")

    def _approve(self, trials: Sequence[Trial]) -> None:
        jobs: dict[int, Trial] = {}
        racers, dooms = [], {}
        for trial in [trial for trial in trials if trial.approval]:
            job = self._start(trial, "approve", trial.window if trial.window != "proposal" else None)
            jobs[job] = trial
            if trial.window is None:
                dooms[job] = time.monotonic() + self._chance.uniform(0.0, 0.12)
            if trial.racer:
                racers.append(self._start(trial, trial.racer))
                self.figures.racing += 1
        killed = self._wait(list(jobs), kill_at=dooms)
        # One that waits for the end of an attempt that nobody will end is killed too.
        self._wait([job for job in racers if job in self._outs], seconds=0.5)
        self._count(killed & set(jobs), jobs, set(WINDOWS))
        for _, _, attempts in asyncio.run(self._read_all(trials)):
            self.figures.between += any(attempt.state == "started" for attempt in attempts)

    def _count(self, killed: set[int], jobs: dict[int, Trial], windows: set[str]) -> None:
        for job in killed:
            window = jobs[job].window
            if window is None:
                self.figures.windows["random"] += 1
            elif window in windows:
                late = not (jobs[job].early and window in {*CALLED, "reply"})
                self.figures.windows[window if late else f"just before {window}"] += 1

    def _recover(self, trials: Sequence[Trial]) -> None:
        asked = [trial for trial in trials if trial.approval]
        states = asyncio.run(self._read_all(asked))
        jobs = []
        for trial, (_, approvals, _) in zip(asked, states, strict=True):
            mine = {approval.id: approval for approval in approvals}
            # The decision was not stored, so that the person still sees the card, and decides again.
            waits = mine[trial.approval].state == "pending"
            jobs += [self._start(trial, "approve" if waits else "resume") for _ in range(2 if trial.racer else 1)]
        self._wait(jobs)
        self._wait([self._start(trial, "resume") for trial in asked])
        before = asyncio.run(self._read_all(asked))
        self._wait([self._start(trial, "resume") for trial in asked])
        for trial, one, two in zip(asked, before, asyncio.run(self._read_all(asked)), strict=True):
            if one != two:
                trial.problems.append("restarting twice was not restarting once")

    # Judging.

    async def _read_all(self, trials: Sequence[Trial]) -> list[tuple[list[Event], list[Approval], list[Attempt]]]:
        def read(session: str, tx: Transaction) -> tuple[list[Event], list[Approval], list[Attempt]]:
            return tx.events(session), tx.approvals(conversation=session), tx.attempts(conversation=session)

        try:
            return [await self._journal.read(lambda tx, s=trial.session: read(s, tx)) for trial in trials]  # type: ignore[misc]
        finally:
            await self._journal.aclose()

    async def _judge(self, trials: Sequence[Trial]) -> None:
        ledger = self._http.get("/_sandbox/requests").json()
        rows = ledger["requests"] if isinstance(ledger, dict) else ledger
        gated = [r for r in rows if r["method"] == "DELETE" or r["path"].endswith("/send")]
        for trial, (events, approvals, attempts) in zip(trials, await self._read_all(trials), strict=True):
            mine = [r for r in gated if f"/campaigns/{trial.campaign}" in r["path"]]
            self._judge_requests(trial, mine, approvals, attempts)
            self._judge_turn(trial, events)
            self.figures.problems += [
                f"trial {trial.number} ({trial.tool}, {trial.window}): {p}" for p in trial.problems
            ]

    def _judge_requests(
        self, trial: Trial, mine: Sequence[Any], approvals: Sequence[Approval], attempts: Sequence[Attempt]
    ) -> None:
        figures, acted = self.figures, sum(row["acted"] for row in mine)
        figures.requests += len(mine)
        figures.duplicates += max(0, len(mine) - 1)
        given = [a for a in approvals if a.state not in ("pending", "superseded")]
        figures.approvals += len(given)
        figures.states.update(a.state for a in given)
        if len(given) != 1 or len(approvals) != 1:
            trial.problems.append(f"approvals {[a.state for a in approvals]}, with one request of one person")
        for state, seen in ((a.state, acted) for a in given):
            if state not in ("done", "failed", "unknown"):
                trial.problems.append(f"an approval ended as {state}")
            if (state == "done" and seen != 1) or (state == "failed" and seen):
                trial.problems.append(f"{state}, and the API acted {seen} times")
        if len(attempts) > 1 or any(attempt.state == "started" for attempt in attempts):
            trial.problems.append(f"attempts {[attempt.state for attempt in attempts]}")

    def _judge_turn(self, trial: Trial, events: Sequence[Event]) -> None:
        messages = [(event.kind, from_json(event.body)) for event in events]
        calls = [call["id"] for _, m in messages for call in m.get("tool_calls") or []]
        answers = [m for kind, m in messages if kind == "tool"]
        self.figures.turns += 1
        ended = bool(messages) and messages[-1][0] == "assistant" and not messages[-1][1].get("tool_calls")
        self.figures.finished += ended
        if not ended:
            trial.problems.append("the turn has no last word")
        if [m["content"] for kind, m in messages if kind == "user"] != [trial.text()]:
            trial.problems.append("the message is not there once")
        if sorted(calls) != sorted(m["tool_call_id"] for m in answers):
            trial.problems.append("a call without its one answer")
        told = [event for event in trial.heard if event["type"] == "result"]
        for content in (from_json(m["content"]) for m in answers):
            if content["outcome"] == "unknown" and not content.get("message"):
                trial.problems.append("the model was not told what to check")
            if content["outcome"] == "unknown" and not any(e["outcome"] == "unknown" and e["line"] for e in told):
                trial.problems.append("nobody was told that it is unknown")


def plan(kills: int, *, size: int, seed: int, start: int = 0) -> list[list[tuple[str | None, bool, str | None]]]:
    """Rounds of about `size` trials, with a kill each: every window alike, one in eight at random, every fourth of a
    commit's windows just before it, and every other trial with a second process. `start` is the first window."""
    chance = random.Random(seed)
    windows: list[str | None] = [*WINDOWS, None]
    trials: list[tuple[str | None, bool, str | None]] = []
    for number in range(start, start + kills):
        window, lap = windows[number % len(windows)], number // len(windows)
        early = window in {*CALLED, "reply"} and lap % 4 == 3
        trials.append((window, early, (None, "approve", None, "resume")[(number + lap) % 4]))
    chance.shuffle(trials)
    return [trials[at : at + size] for at in range(0, len(trials), size)]


def _phone(trial: int, person: int) -> str:
    return f"5255001{trial * 10 + person:05d}"
