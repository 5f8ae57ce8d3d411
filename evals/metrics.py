"""What many results say together: a row for each suite, model and language, and pass^k from the trials of a case."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb

from agent.domain import Json
from evals.runner import Result


@dataclass(frozen=True)
class Row:
    """`cases` were run `runs` times in all. Rates are shares from 0 to 1, None where there was nothing to measure.

    `pass_k` is the chance that `k` runs of one case all pass, over the cases with that many: C(c,k)/C(n,k).
    """

    suite: str
    model: str
    language: str
    cases: int
    runs: int
    passed: int
    known: int
    success: float | None
    k: int
    pass_k: float | None
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


def rows(results: Sequence[Result]) -> list[Row]:
    """By suite, model and language, then all of a model together. Runs that say nothing about a model are left out."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.status in ("passed", "failed"):
            groups[result.suite, result.model, result.language].append(result)
            groups["(all)", result.model, ""].append(result)
    return [_row(*key, groups[key]) for key in sorted(groups, key=lambda key: (key[0] == "(all)", key))]


def _row(suite: str, model: str, language: str, results: Sequence[Result]) -> Row:
    trials = _trials(results)
    costs = [result.cost for result in results if result.cost is not None]
    k = max(map(len, trials.values()))
    passed = sum(result.status == "passed" for result in results)
    return Row(
        suite=suite,
        model=model,
        language=language,
        cases=len(trials),
        runs=len(results),
        passed=passed,
        known=sum(bool(result.known) for result in results),
        success=passed / len(results),
        k=k,
        pass_k=pass_k(trials.values(), k),
        gate_violations=sum(len(result.gate_violations) for result in results),
        wrong_calls=_sum(results, "wrong_calls"),
        missing_calls=_sum(results, "missing_calls"),
        over_asked=_sum(results, "over_asked"),
        under_asked=_sum(results, "under_asked"),
        asks=_sum(results, "asks"),
        refused=_sum(results, "refused"),
        refusals=_sum(results, "refusals"),
        model_calls=_sum(results, "model_calls"),
        tokens=sum(r.tokens.get("prompt_tokens", 0) + r.tokens.get("completion_tokens", 0) for r in results),
        cost=sum(costs) if costs else None,
        seconds=sum(result.seconds for result in results),
    )


def _sum(results: Iterable[Result], name: str) -> int:
    return sum(getattr(result, name) for result in results)


def _trials(results: Iterable[Result]) -> Mapping[str, list[bool]]:
    trials: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        trials[result.case].append(result.status == "passed")
    return trials


def pass_k(trials: Iterable[Sequence[bool]], k: int) -> float | None:
    """Over the cases with at least k trials; None when there are none."""
    shares = [comb(sum(runs), k) / comb(len(runs), k) for runs in trials if len(runs) >= k]
    return sum(shares) / len(shares) if shares else None


def table(found: Sequence[Row]) -> str:
    """For a terminal."""
    head = ("suite", "model", "lang", "cases", "runs", "success", "pass^k", "gate", "wrong", "missing", "over-ask",
            "under-ask", "refused", "calls", "tokens", "cost $", "time s")  # fmt: skip
    lines = [head, *(_cells(row) for row in found)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if at < 3 else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _cells(row: Row) -> tuple[str, ...]:
    share = "-" if row.success is None else f"{row.success:.0%}"
    k = "-" if row.pass_k is None else f"{row.pass_k:.0%} (k={row.k})"
    refused = f"{row.refused}/{row.refusals}" if row.refusals else "-"
    under = f"{row.under_asked}/{row.asks}" if row.asks else "-"
    cost = "-" if row.cost is None else f"{row.cost:.4f}"
    return (
        row.suite, row.model, row.language or "*", str(row.cases), str(row.runs), share, k, str(row.gate_violations),
        str(row.wrong_calls), str(row.missing_calls), str(row.over_asked), under, refused, str(row.model_calls),
        f"{row.tokens:,}", cost, f"{row.seconds:.1f}",
    )  # fmt: skip
