"""One HTML page of one or two runs, from a template that escapes everything; it needs no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from agent.domain import Json
from evals.metrics import Row, rows
from evals.runner import Result, load

TEMPLATE = "report.html.j2"
OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "known": "known failure",
    "surprise": "passed, known failure",
    "stale": "stale",
    "error": "error",
    "gate": "gate violation",
    "absent": "not run",
}
_RANK = {"passed": 3, "surprise": 3, "known": 2, "failed": 2, "stale": 1, "error": 1, "gate": 0, "absent": 0}


@dataclass(frozen=True)
class Side:
    """One of the two runs, of one case: its trials, and what they come to."""

    results: Sequence[Result]
    outcome: str

    @property
    def label(self) -> str:
        return OUTCOMES[self.outcome]

    @property
    def passed(self) -> int:
        return sum(result.status == "passed" for result in self.results)


@dataclass(frozen=True)
class Entry:
    """A case on the page. `change` is better, worse, same or different; empty where one run is shown."""

    case: str
    suite: str
    language: str
    tags: Sequence[str]
    note: str
    sides: Sequence[Side]
    change: str

    @property
    def anchor(self) -> str:
        return self.case.replace("/", "--")


@dataclass(frozen=True)
class Run:
    """Everything of one results file. `name` is what tells it from the other."""

    name: str
    file: str
    made_at: str
    results: Sequence[Result]
    rows: Sequence[Row]

    @property
    def _asked(self) -> list[Result]:
        return [result for result in self.results if result.how != "solution"]

    @property
    def models(self) -> str:
        found = dict.fromkeys(f"{r.model} ({r.how})" if r.how else r.model for r in self._asked if r.model)
        return ", ".join(found) or "no model"

    @property
    def recorded(self) -> str:
        days = sorted({result.recorded_at[:10] for result in self.results if result.recorded_at})
        return "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"

    @property
    def gate_violations(self) -> int:
        return sum(len(result.gate_violations) for result in self.results)

    @property
    def cases(self) -> int:
        return len({result.case for result in self.results})

    @property
    def passed(self) -> int:
        return sum(result.status == "passed" for result in self.results)

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows if row.suite == "(all)")

    @property
    def cost(self) -> float | None:
        costs = [row.cost for row in self.rows if row.suite == "(all)" and row.cost is not None]
        return sum(costs) if costs else None


def write_report(runs: Sequence[Mapping[str, Any]], files: Sequence[str], out: Path) -> None:
    """`runs` are one or two results.json as read, `files` their names."""
    out.write_text(render(runs, files), "utf-8")


def render(runs: Sequence[Mapping[str, Any]], files: Sequence[str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"pretty": _pretty, "share": lambda value: "–" if value is None else f"{value:.0%}"}
    whole = [_run(name, file, data) for name, file, data in zip("AB", files, runs, strict=False)]
    entries = _entries(whole)
    return environment.get_template(TEMPLATE).render(
        runs=whole,
        entries=entries,
        suites=sorted({entry.suite for entry in entries}),
        languages=sorted({entry.language for entry in entries}),
        outcomes={side.outcome: side.label for entry in entries for side in entry.sides},
        compared=_compared(whole) if len(whole) == 2 else [],
    )


def _run(name: str, file: str, data: Mapping[str, Any]) -> Run:
    results = [load(one) for one in data["results"]]
    return Run(name, file, str(data["made_at"]), results, rows(results, data.get("repeat")))


def _entries(runs: Sequence[Run]) -> list[Entry]:
    known = {result.case: result for run in reversed(runs) for result in run.results}
    entries = []
    for case, one in sorted(known.items()):
        sides = [_side([result for result in run.results if result.case == case]) for run in runs]
        change = _change(*sides) if len(sides) == 2 else ""
        entries.append(Entry(case, one.suite, one.language, one.tags, one.note, sides, change))
    return entries


def _side(results: Sequence[Result]) -> Side:
    statuses = {result.status for result in results}
    known = any(result.known for result in results)
    if any(result.gate_violations for result in results):
        return Side(results, "gate")
    for status in ("error", "stale"):
        if status in statuses:
            return Side(results, status)
    if "failed" in statuses:
        return Side(results, "known" if known else "failed")
    return Side(results, "absent" if not statuses else "surprise" if known else "passed")


def _change(before: Side, after: Side) -> str:
    one, two = _RANK[before.outcome], _RANK[after.outcome]
    if "absent" in (before.outcome, after.outcome):
        return "different"
    if one != two:
        return "better" if two > one else "worse"
    shares = [side.passed / len(side.results) for side in (before, after)]
    if shares[0] != shares[1]:
        return "better" if shares[1] > shares[0] else "worse"
    return "same" if _said(before) == _said(after) else "different"


def _said(side: Side) -> list[Any]:
    """What was said and called; ids of calls and figures of usage may differ without a difference."""
    steps = [step for result in side.results for turn in result.turns for step in turn["steps"]]
    return [{name: value for name, value in step.items() if name != "id"} for step in steps]


def _compared(runs: Sequence[Run]) -> list[tuple[str, str, str, Row | None, Row | None]]:
    """Suite, models and language of rows side by side. Where each run is of one model alone, the two are compared;
    else each model with itself."""
    models = [{row.model for row in run.rows} for run in runs]
    alone = all(len(found) == 1 for found in models)
    sides = [{(row.suite, "" if alone else row.model, row.language): row for row in run.rows} for run in runs]
    ordered = sorted(dict.fromkeys(key for side in sides for key in side), key=lambda key: (key[0] == "(all)", key))
    compared = []
    for key in ordered:
        one, two = (side.get(key) for side in sides)
        names = dict.fromkeys(row.model for row in (one, two) if row is not None)
        compared.append((key[0], " → ".join(names), key[2], one, two))
    return compared


def _pretty(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
