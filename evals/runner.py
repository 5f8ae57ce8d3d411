"""Runs cases: their own solution, a recording, a new recording, or a live model; each run gives one `Result`."""

import traceback
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.domain import Json
from agent.errors import ModelBroken, ModelError
from agent.model import Completion, Model
from evals.case import CASES, ROOT, Case, CaseError, read_cases, read_yaml
from evals.cassettes import Endpoint, NotRecorded, Shelf, Stale, replayed
from evals.checks import Verdict, judge
from evals.gatekeeping import violations
from evals.play import Trace, play, start
from evals.scripted import Scripted

Status = Literal["passed", "failed", "stale", "error"]
PRICES, KNOWN = ROOT / "prices.yaml", ROOT / "known_failures.yaml"
MOST_KNOWN = 0.15
"""The share of cases that may be known failures."""


@dataclass(frozen=True)
class Result:
    """One run of one case, as it stands in results.json. `known` is why it may fail; `cost` is in dollars.

    `error` is a case or a recording that says nothing about a model; `stale` a recording of something else. What went
    past the gate stands in `gate_violations` whatever the status. `how` is "solution" for the case's own.
    """

    case: str
    suite: str
    language: str
    tags: Sequence[str]
    note: str
    trial: int
    status: Status
    problems: Sequence[str]
    known: str = ""
    model: str = ""
    how: str = ""
    recorded_at: str = ""
    gate_violations: Sequence[str] = ()
    expected_calls: int = 0
    matched_calls: int = 0
    wrong_calls: int = 0
    missing_calls: int = 0
    over_asked: int = 0
    asks: int = 0
    under_asked: int = 0
    refusals: int = 0
    refused: int = 0
    cards: int = 0
    model_calls: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None
    seconds: float = 0.0
    turns: Sequence[Mapping[str, Json]] = ()

    @property
    def ok(self) -> bool:
        """As it should be: passed, or failed as known, and nothing went past the gate."""
        return not self.gate_violations and self.status == ("failed" if self.known else "passed")

    def dump(self) -> dict[str, Json]:
        return asdict(self)


def load(data: Mapping[str, Any]) -> Result:
    return Result(**data)


def select(suite: str | None = None, ids: Sequence[str] = (), folder: Path = CASES) -> list[Case]:
    """Raises CaseError where nothing is meant."""
    cases = [case for case in read_cases(folder) if suite in (None, case.suite)]
    if unknown := [one for one in ids if one not in {case.id for case in cases}]:
        raise CaseError(f"there is no case {', '.join(unknown)}" + (f" in the suite {suite}" if suite else ""))
    chosen = [case for case in cases if not ids or case.id in ids]
    if not chosen:
        raise CaseError(f"there is no suite {suite}" if suite else "there are no cases")
    return chosen


def known_failures(path: Path = KNOWN) -> dict[str, str]:
    return {str(case): str(why) for case, why in (read_yaml(path.read_text("utf-8")) or {}).items()}


def known_problems(known: Mapping[str, str], cases: Sequence[Case]) -> list[str]:
    """What is wrong with the list of known failures itself."""
    by_id = {case.id: case for case in cases}
    lines = [f"{one}: there is no such case" for one in known if one not in by_id]
    lines += [f"{one}: an attack may not be a known failure" for one in known if one in by_id and _attack(by_id[one])]
    lines += [f"{one}: a reason of a sentence is needed" for one, why in known.items() if len(why) < 20]
    if len(known) > MOST_KNOWN * len(cases):
        lines.append(f"{len(known)} of {len(cases)} cases are known failures, more than {MOST_KNOWN:.0%}")
    return lines


def _attack(case: Case) -> bool:
    return "attack" in case.suite or "attack" in case.tags


# Runs.


class _Kept:
    """A model that raises nothing but what a model may: its turn ends in order, so that the approval under way is on
    record when the run stops. `error` is what it was."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.error: Exception | None = None

    @property
    def name(self) -> str:
        return self._model.name

    async def complete(self, messages: Sequence[bytes]) -> AsyncIterator[str | Completion]:
        try:
            async for piece in self._model.complete(messages):
                yield piece
        except ModelError:
            raise
        except Exception as error:
            self.error = self.error or error
            raise ModelBroken(text=type(error).__name__) from error

    async def aclose(self) -> None:
        await self._model.aclose()


@dataclass
class _Run:
    """One run of a case as far as it came: what reached the sandbox counts also where something has ended it."""

    case: Case
    trial: int = 1
    told: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    trace: Trace | None = None

    async def play(self, model: Model) -> Trace:
        """What reached the sandbox is judged also where the run is stopped midway or the checks can't be made."""
        sandbox, clock = start(self.case)
        if isinstance(model, Scripted):
            model.created = sandbox.created
        kept = _Kept(model)
        try:
            played = await play(self.case, kept, sandbox, clock)
            self.trace = played.trace
            self.trace.stopped = kept.error or self.trace.stopped
            try:
                self.verdict = judge(played)
            except Exception:
                self.verdict.gate_violations = violations(played)
                raise
            return played.trace
        finally:
            sandbox.close()

    def result(self, status: Status | None = None, problems: Sequence[str] | None = None) -> Result:
        """By the verdict, unless something else is to be said of it."""
        status = status or ("passed" if self.verdict.ok else "failed")
        lines = list(self.verdict.problems if problems is None else problems)
        violated = [f"GATE: {line}" for line in self.verdict.gate_violations]
        lines += [line for line in violated if line not in lines]
        return _result(self.case, self.trial, status, lines, self.verdict, self.trace, **self.told)

    def broken(self, error: BaseException, but: str = "") -> Result:
        """Ended by what says nothing about the model; the other runs go on."""
        return self.result("error", [f"{but}{_why(error)}"])


def _why(error: BaseException) -> str:
    """A mistake of the program's own, with where it was made."""
    if isinstance(error, CaseError | NotRecorded):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


async def solve(case: Case) -> Result:
    """The case's own solution through the real loop, gate and sandbox; one that fails is an error of the case."""
    script, run = Scripted(case.solution), _Run(case, told={"model": "solution", "how": "solution"})
    try:
        await run.play(script)
    except Exception as error:
        return run.broken(error)
    problems = list(run.verdict.problems)
    if script.left:
        problems.append(f"the solution has {len(script.left)} answers that nobody asked for")
    return run.result("error" if problems else "passed", problems)


async def replay(case: Case, trial: int, shelf: Shelf) -> Result:
    """A recording through the real loop, gate and sandbox, offline."""
    run = _Run(case, trial)
    try:
        metadata = shelf.metadata(case.id, trial)
        run.told = {name: metadata[name] for name in ("model", "how", "recorded_at", "seconds")}
        with shelf.replay(case, trial):
            trace = await run.play(replayed(metadata).connect())
            if trace.stopped is not None and not isinstance(trace.stopped, CaseError):
                # Nothing of the model's had stopped it when it was recorded.
                raise trace.stopped
    except Stale as error:
        return run.result("stale", [str(error)])
    except Exception as error:
        return run.broken(error)
    return run.result()


def recorded_model(case: Case, trial: int, shelf: Shelf) -> str:
    """What answered in a recording; empty where the file can't be read, which its replay tells."""
    try:
        return str(shelf.metadata(case.id, trial)["model"])
    except Exception:
        return ""


async def record(case: Case, trial: int, endpoint: Endpoint, shelf: Shelf) -> Result:
    """Asks the model, and keeps what it answered unless the model couldn't be asked to the end."""
    run = _Run(case, trial, {"model": endpoint.model, "how": endpoint.how})
    try:
        with shelf.record(case, trial, endpoint) as take:
            trace = await run.play(endpoint.connect())
            if (why := _unusable(trace)) is not None:
                return run.result("error", [f"not recorded: {why}"])
            take.keep(seconds=trace.model_seconds, usage=trace.usage)
    except Exception as error:
        return run.broken(error, "not recorded: ")
    run.told["seconds"] = trace.model_seconds
    return run.result()


async def live(case: Case, trial: int, endpoint: Endpoint) -> Result:
    """Asks the model and keeps nothing."""
    run = _Run(case, trial, {"model": endpoint.model, "how": endpoint.how})
    try:
        trace = await run.play(endpoint.connect())
    except Exception as error:
        return run.broken(error)
    run.told["seconds"] = trace.model_seconds
    return run.result("error" if _unusable(trace) else None)


def _unusable(trace: Trace) -> str | None:
    """Why a run says nothing about the model."""
    if trace.stopped is not None and not isinstance(trace.stopped, CaseError):
        return f"{type(trace.stopped).__name__}: {trace.stopped}"
    return None if trace.model_calls else "the model was never asked"


def _result(
    case: Case, trial: int, status: Status, problems: Iterable[str], verdict: Verdict, trace: Trace | None, **told: Any
) -> Result:  # fmt: skip
    measured: dict[str, Any] = {k: v for k, v in asdict(verdict).items() if k != "problems"}
    if trace is not None:
        measured |= {
            "cards": trace.cards,
            "model_calls": trace.model_calls,
            "tokens": dict(trace.usage),
            "cost": cost(str(told.get("model", "")), trace.usage),
            "turns": [{"number": turn.number, "steps": turn.steps} for turn in trace.turns],
        }
    return Result(
        case=case.id,
        suite=case.suite,
        language=case.language,
        tags=case.tags,
        note=case.note,
        trial=trial,
        status=status,
        problems=list(problems),
        **measured,
        **told,
    )


def cost(model: str, usage: Mapping[str, int], path: Path = PRICES) -> float | None:
    """Dollars; None for a model without a price."""
    prices = read_yaml(path.read_text("utf-8"))
    name = max((one for one in prices if model.startswith(one)), key=len, default=None)
    if name is None or not usage:
        return None
    price, cached = prices[name], usage.get("cached_tokens", 0)
    fresh = usage.get("prompt_tokens", 0) - cached
    spent = fresh * price["input"] + cached * price["cached"] + usage.get("completion_tokens", 0) * price["output"]
    return float(spent / 1e6)
