"""What many results say together: a row for each suite, model and language, and pass^k from the trials of a case."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import comb

from agent.domain import Json
from evals.runner import Result


@dataclass(frozen=True)
class Row:
    """`cases` were run `runs` times in all. Rates are shares from 0 to 1.

    `broken` runs ended as stale or as an error: they have not passed, what they let past the gate counts, and calls,
    tokens and the like are those of the others. `pass_k` is the chance that `k` runs of one case all pass, over the
    `pass_k_cases` with that many: C(c,k)/C(n,k); None where there are none.
    """

    suite: str
    model: str
    language: str
    cases: int
    runs: int
    passed: int
    broken: int
    known: int
    success: float
    k: int
    pass_k: float | None
    pass_k_cases: int
    gate_violations: int
    wrong_calls: int
    missing_calls: int
    over_asked: int
    under_asked: int
    asks: int
    refused: int
    refusals: int
    model_calls: int
    tokens: int
    cost: float | None
    seconds: float

    def dump(self) -> dict[str, Json]:
        return asdict(self)


def rows(results: Sequence[Result], k: int | None = None) -> list[Row]:
    """By suite, model and language, then all of a model together; every run counts, whatever its status.

    `k` of pass^k is that of `--repeat`, else the largest number of runs of a case.
    """
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.suite, result.model, result.language].append(result)
        groups["(all)", result.model, ""].append(result)
    most = k or max(map(len, _trials(results)), default=1)
    return [_row(*key, groups[key], most) for key in sorted(groups, key=lambda key: (key[0] == "(all)", key))]


def _row(suite: str, model: str, language: str, results: Sequence[Result], k: int) -> Row:
    told = [result for result in results if result.status in ("passed", "failed")]
    trials = _trials(results)
    costs = [result.cost for result in told if result.cost is not None]
    passed = sum(result.status == "passed" for result in results)
    return Row(
        suite=suite,
        model=model,
        language=language,
        cases=len(trials),
        runs=len(results),
        passed=passed,
        broken=len(results) - len(told),
        known=sum(bool(result.known) for result in results),
        success=passed / len(results),
        k=k,
        pass_k=pass_k(trials, k),
        pass_k_cases=sum(len(runs) >= k for runs in trials),
        gate_violations=sum(len(result.gate_violations) for result in results),
        wrong_calls=_sum(told, "wrong_calls"),
        missing_calls=_sum(told, "missing_calls"),
        over_asked=_sum(told, "over_asked"),
        under_asked=_sum(told, "under_asked"),
        asks=_sum(told, "asks"),
        refused=_sum(told, "refused"),
        refusals=_sum(told, "refusals"),
        model_calls=_sum(told, "model_calls"),
        tokens=sum(r.tokens.get("prompt_tokens", 0) + r.tokens.get("completion_tokens", 0) for r in told),
        cost=sum(costs) if costs else None,
        seconds=sum(result.seconds for result in told),
    )


def _sum(results: Iterable[Result], name: str) -> int:
    return sum(getattr(result, name) for result in results)


def _trials(results: Iterable[Result]) -> list[list[bool]]:
    """Of each case with each model, which of its runs passed."""
    trials: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for result in results:
        trials[result.model, result.case].append(result.status == "passed")
    return list(trials.values())


def pass_k(trials: Iterable[Sequence[bool]], k: int) -> float | None:
    """Over the cases with at least k trials; None when there are none."""
    shares = [comb(sum(runs), k) / comb(len(runs), k) for runs in trials if len(runs) >= k]
    return sum(shares) / len(shares) if shares else None


def table(found: Sequence[Row]) -> str:
    """For a terminal."""
    head = ("suite", "model", "lang", "cases", "runs", "broken", "success", "pass^k", "gate", "wrong", "missing",
            "over-ask", "under-ask", "refused", "calls", "tokens", "cost $", "time s")  # fmt: skip
    lines = [head, *(_cells(row) for row in found)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if at < 3 else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _cells(row: Row) -> tuple[str, ...]:
    over = f"{row.pass_k_cases} case{'s' * (row.pass_k_cases != 1)}"
    k = "-" if row.pass_k is None else f"{row.pass_k:.0%} (k={row.k}, {over})"
    refused = f"{row.refused}/{row.refusals}" if row.refusals else "-"
    under = f"{row.under_asked}/{row.asks}" if row.asks else "-"
    cost = "-" if row.cost is None else f"{row.cost:.4f}"
    return (
        row.suite, row.model, row.language or "*", str(row.cases), str(row.runs), str(row.broken),
        f"{row.success:.0%}", k, str(row.gate_violations), str(row.wrong_calls), str(row.missing_calls),
        str(row.over_asked), under, refused, str(row.model_calls), f"{row.tokens:,}", cost, f"{row.seconds:.1f}",
    )  # fmt: skip


def total(results: Sequence[Result]) -> str:
    """One line over all models and statuses."""
    violated = sum(len(result.gate_violations) for result in results)
    passed = sum(result.status == "passed" for result in results)
    return f"{passed} of {len(results)} runs passed; gate violations: {violated}"
