"""Runs cases: their own solution, a recording, a new recording, or a live model; each run gives one `Result`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.domain import Json
from agent.model import Model
from evals.case import CASES, ROOT, Case, CaseError, read_cases, read_yaml
from evals.cassettes import Endpoint, NotRecorded, Shelf, Stale, replayed
from evals.checks import Verdict, judge
from evals.play import Played, Trace, play, start
from evals.scripted import Scripted

Status = Literal["passed", "failed", "stale", "error"]
PRICES, KNOWN = ROOT / "prices.yaml", ROOT / "known_failures.yaml"
MOST_KNOWN = 0.15
"""The share of cases that may be known failures."""


@dataclass(frozen=True)
class Result:
    """One run of one case, as it stands in results.json. `known` is why it may fail; `cost` is in dollars.

    `error` is a case or a recording that says nothing about a model; `stale` a recording of something else.
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
        """As it should be: passed, or failed as known."""
        return self.status == "passed" if not self.known else self.status == "failed"

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


async def solve(case: Case) -> Result:
    """The case's own solution through the real loop, gate and sandbox; one that fails is an error of the case."""
    script = Scripted(case.solution)
    try:
        verdict, trace = await _judged(case, script)
    except CaseError as error:
        return _result(case, 1, "error", [str(error)])
    problems = list(verdict.problems)
    if script.left:
        problems.append(f"the solution has {len(script.left)} answers that nobody asked for")
    return _result(case, 1, "error" if problems else "passed", problems, verdict, trace, model="solution")


async def replay(case: Case, trial: int, shelf: Shelf) -> Result:
    """A recording through the real loop, gate and sandbox, offline."""
    metadata = shelf.metadata(case.id, trial)
    told: dict[str, Any] = {
        "model": metadata["model"],
        "how": metadata["how"],
        "recorded_at": metadata["recorded_at"],
        "seconds": metadata["seconds"],
    }
    try:
        with shelf.replay(case, trial):
            verdict, trace = await _judged(case, replayed(metadata).connect())
            if trace.stopped is not None and not isinstance(trace.stopped, CaseError):
                # Nothing of the model's had stopped it when it was recorded.
                raise trace.stopped
    except Stale as error:
        return _result(case, trial, "stale", [str(error)], **told)
    except CaseError as error:
        return _result(case, trial, "error", [str(error)], **told)
    return _result(case, trial, "passed" if verdict.ok else "failed", verdict.problems, verdict, trace, **told)


async def record(case: Case, trial: int, endpoint: Endpoint, shelf: Shelf) -> Result:
    """Asks the model, and keeps what it answered unless the model couldn't be asked to the end."""
    told: dict[str, Any] = {"model": endpoint.model, "how": endpoint.how}
    try:
        with shelf.record(case, trial, endpoint) as take:
            verdict, trace = await _judged(case, endpoint.connect())
            if (why := _unusable(trace)) is not None:
                return _result(case, trial, "error", [f"not recorded: {why}"], verdict, trace, **told)
            take.keep(seconds=trace.model_seconds, usage=trace.usage)
    except (NotRecorded, CaseError) as error:
        return _result(case, trial, "error", [f"not recorded: {error}"], **told)
    told["seconds"] = trace.model_seconds
    return _result(case, trial, "passed" if verdict.ok else "failed", verdict.problems, verdict, trace, **told)


async def live(case: Case, trial: int, endpoint: Endpoint) -> Result:
    """Asks the model and keeps nothing."""
    told: dict[str, Any] = {"model": endpoint.model, "how": endpoint.how}
    try:
        verdict, trace = await _judged(case, endpoint.connect())
    except CaseError as error:
        return _result(case, trial, "error", [str(error)], **told)
    status: Status = "error" if _unusable(trace) else "passed" if verdict.ok else "failed"
    return _result(case, trial, status, verdict.problems, verdict, trace, seconds=trace.model_seconds, **told)


async def _judged(case: Case, model: Model) -> tuple[Verdict, Trace]:
    sandbox, clock = start(case)
    if isinstance(model, Scripted):
        model.created = sandbox.created
    try:
        played: Played = await play(case, model, sandbox, clock)
        return judge(played), played.trace
    finally:
        sandbox.close()


def _unusable(trace: Trace) -> str | None:
    """Why a run says nothing about the model."""
    if trace.stopped is not None and not isinstance(trace.stopped, CaseError):
        return f"{type(trace.stopped).__name__}: {trace.stopped}"
    return None if trace.model_calls else "the model was never asked"


def _result(
    case: Case, trial: int, status: Status, problems: Iterable[str], verdict: Verdict | None = None,
    trace: Trace | None = None, **told: Any,
) -> Result:  # fmt: skip
    measured: dict[str, Any] = {}
    if verdict is not None and trace is not None:
        measured = {k: v for k, v in asdict(verdict).items() if k != "problems"}
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
