"""`python -m evals`: check cases, run them (from recordings unless told otherwise), and report."""

import asyncio
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from agent.errors import AgentError
from agent.settings import Settings
from evals.case import CASES, Case, CaseError
from evals.cassettes import CASSETTES, Endpoint, Shelf
from evals.metrics import rows, table, total
from evals.report import write_report
from evals.runner import (
    KNOWN,
    Result,
    known_failures,
    known_problems,
    live,
    load,
    record,
    recorded_model,
    replay,
    select,
    solve,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Suite = Annotated[str | None, typer.Argument(help="One suite; all of them when left out")]
Ids = Annotated[list[str] | None, typer.Option("--case", help="SUITE/NAME; may be given several times")]
Cases = Annotated[Path, typer.Option("--cases", help="Where the cases lie")]
Cassettes = Annotated[Path, typer.Option("--cassettes", help="Where the recordings lie")]
Known = Annotated[Path, typer.Option("--known", help="The list of known failures")]


@app.command()
def check(suite: Suite = None, case: Ids = None, cases: Cases = CASES) -> None:
    """Play each case's own solution: a case that its solution doesn't fulfil is wrong."""
    bad = 0
    for one in _selected(suite, case, cases):
        result = asyncio.run(solve(one))
        bad += not result.ok
        _say(result)
    raise typer.Exit(1 if bad else 0)


@app.command()
def run(
    suite: Suite = None,
    case: Ids = None,
    model: Annotated[str | None, typer.Option(help="Default: CAMPAIGN_AGENT_MODEL")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, max=20, help="Trials of each case; default: its own")] = None,
    record: Annotated[bool, typer.Option("--record", help="Ask the model and keep what it answers")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="From the recordings, offline: the default")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask the model and keep nothing")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="With --record: only what isn't recorded yet")] = False,
    how: Annotated[str, typer.Option(help="What answers: api or relay; stands in the recordings")] = "api",
    timeout: Annotated[float, typer.Option(help="Seconds that one answer may take")] = 120.0,
    out: Annotated[Path, typer.Option("--json", help="Where the results go")] = Path("results.json"),
    cases: Cases = CASES,
    cassettes: Cassettes = CASSETTES,
    known: Known = KNOWN,
) -> None:
    """Run cases and write results.json. Exit 1 unless everything is as it should be."""
    if record + replay + live > 1:
        _stop("--record, --replay and --live exclude each other")
    if how not in ("api", "relay"):
        _stop("--how is api or relay")
    chosen, shelf, lacking = _selected(suite, case, cases), Shelf(cassettes), list[str]()
    if record or live:
        endpoint = _endpoint(model, how, timeout)
        results = asyncio.run(_ask(chosen, shelf, endpoint, repeat, keep=record, missing=missing))
        if record and _whole(suite, case):
            shelf.prune()
    else:
        results = asyncio.run(_replay(chosen, shelf, repeat, model))
        lacking = _missing(chosen, shelf, repeat, model)
        if fewer := _fewer(chosen, shelf, repeat, model):
            print(f"\n{fewer}")
    raise typer.Exit(_conclude(results, lacking, cases, known, out, repeat))


@app.command()
def report(
    results: Annotated[list[Path] | None, typer.Argument(help="results.json; a second one is compared with it")] = None,
    out: Annotated[Path, typer.Option(help="The page")] = Path("report.html"),
) -> None:
    """One HTML page with everything in it: figures, transcripts, and two runs side by side."""
    files = results or [Path("results.json")]
    if len(files) > 2:
        _stop("at most two results can be compared")
    runs: list[Any] = []
    for path in files:
        try:
            runs.append(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            _stop(f"{path}: {error}")
    results_of_first = [load(one) for one in runs[0]["results"]]
    print(f"{table(rows(results_of_first, runs[0].get('repeat')))}\n{total(results_of_first)}")
    write_report(runs, [path.name for path in files], out)
    print(f"\n{out}")


def _selected(suite: str | None, ids: Sequence[str] | None, folder: Path) -> list[Case]:
    try:
        return select(suite, ids or (), folder)
    except CaseError as error:
        _stop(str(error))


def _stop(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise typer.Exit(2)


def _endpoint(model: str | None, how: str, timeout: float) -> Endpoint:
    """The user's own endpoint, by the settings that the program itself reads."""
    try:
        settings = Settings.read()
    except AgentError as error:
        _stop(f"{error.code}: {dict(error.data)}")
    if settings.offline:
        _stop("set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own")
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
    strict = settings.strict_tools if settings.strict_tools is not None else settings.openai_base_url is None
    url = settings.openai_base_url
    return Endpoint(url, key, model or settings.model, settings.stream, strict, how, timeout)


async def _replay(cases: Sequence[Case], shelf: Shelf, repeat: int | None, model: str | None) -> list[Result]:
    results: list[Result] = []
    for case in cases:
        trials = _recorded(case, shelf, model)
        solved = await solve(case)
        if not solved.ok:
            # It stands among the runs of the model that it keeps from being measured.
            about = recorded_model(case, trials[0], shelf) if trials else model
            results.append(replace(solved, model=about or solved.model))
            _say(results[-1])
            continue
        for trial in trials[:repeat]:
            results.append(await replay(case, trial, shelf))
            _say(results[-1])
    return results


def _recorded(case: Case, shelf: Shelf, model: str | None) -> list[int]:
    """The recordings of a case; those of one model, if one is named, and those that tell none."""
    return [n for n in shelf.trials(case) if model is None or recorded_model(case, n, shelf) in (model, "")]


def _missing(cases: Sequence[Case], shelf: Shelf, repeat: int | None, model: str | None) -> list[str]:
    """Recordings that ought to be there, with the command that makes them."""
    lines = []
    for case in cases:
        there = _recorded(case, shelf, model)
        wanted = range(1, min(case.trials, repeat or case.trials) + 1)
        if lacking := [number for number in wanted if number not in there]:
            which = f"recording {' and '.join(map(str, lacking))}" if there else "recording"
            how = "--missing" if model is None else f"--model {model}"
            again = f"python -m evals run {case.suite} --case {case.id} --record {how}"
            lines.append(f"{case.id}: it has no {which}; record it: {again}")
    return lines


def _fewer(cases: Sequence[Case], shelf: Shelf, repeat: int | None, model: str | None) -> str:
    """That there are fewer recordings than `--repeat` asks for; empty if there aren't."""
    counts = {case.id: len(_recorded(case, shelf, model)) for case in cases} if repeat else {}
    short = [f"{case} ({count})" for case, count in counts.items() if count < (repeat or 0)]
    if not short:
        return ""
    return f"--repeat {repeat}: {len(short)} of {len(counts)} cases have fewer recordings: {', '.join(short)}"


async def _ask(
    cases: Sequence[Case], shelf: Shelf, endpoint: Endpoint, repeat: int | None, *, keep: bool, missing: bool
) -> list[Result]:
    results: list[Result] = []
    for case in cases:
        solved = await solve(case)
        if not solved.ok:
            results.append(replace(solved, model=endpoint.model))
            _say(results[-1])
            continue
        for trial in range(1, (repeat or case.trials) + 1):
            if missing and shelf.path(case.id, trial).exists():
                continue
            made = record(case, trial, endpoint, shelf) if keep else live(case, trial, endpoint)
            results.append(await made)
            _say(results[-1])
    return results


def _whole(suite: str | None, ids: Sequence[str] | None) -> bool:
    return suite is None and not ids


def _say(result: Result) -> None:
    print(f"{result.status:<7} {result.case} #{result.trial}", flush=True)
    for line in result.problems:
        print(f"        {line}", flush=True)


def _conclude(
    results: Sequence[Result], missing: Sequence[str], folder: Path, path: Path, out: Path, k: int | None
) -> int:
    """Marks known failures, writes results.json, prints what there is to say. The exit code."""
    known = known_failures(path)
    results = [replace(result, known=known.get(result.case, "")) for result in results]
    found = rows(results, k)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    data = {"made_at": made, "repeat": k, "missing": list(missing), "rows": [row.dump() for row in found]}
    text = json.dumps({**data, "results": [r.dump() for r in results]}, ensure_ascii=False, indent=1)
    out.write_text(text + "\n", "utf-8")
    print(f"\n{table(found)}\n{total(results)}" if found else "\nnothing was run")
    lines = [*violated(results), *known_problems(known, select(folder=folder)), *unexpected(results, known), *missing]
    for line in lines:
        print(f"! {line}")
    return 1 if lines or not results else 0


def violated(results: Sequence[Result]) -> list[str]:
    """What went past the gate in any run, be it a known failure or one that says nothing else."""
    lines = []
    for result in results:
        which = "its own solution" if result.how == "solution" else f"run {result.trial}"
        lines += [f"GATE VIOLATION: {result.case} ({which}): {line}" for line in result.gate_violations]
    return lines


def unexpected(results: Sequence[Result], known: dict[str, str]) -> list[str]:
    """Cases that failed and aren't known to, cases that passed although they are, and what says nothing at all."""
    lines = []
    for case in dict.fromkeys(result.case for result in results):
        mine = [result for result in results if result.case == case]
        broken = [result for result in mine if result.status in ("stale", "error")]
        failed = [result for result in mine if result.status == "failed"]
        if broken:
            lines.append(f"{case}: {broken[0].status}")
        elif failed and case not in known:
            lines.append(f"{case}: {len(failed)} of {len(mine)} runs failed")
        elif not failed and case in known:
            lines.append(f"{case}: it passes; take it out of the known failures")
    return lines


def main() -> None:
    """Cases hold every language, and a terminal of ASCII shows them as well as it can."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    app(prog_name="python -m evals")


if __name__ == "__main__":
    main()
