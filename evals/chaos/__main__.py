"""`python -m evals.chaos`: kills processes with -9 until there are enough, and prints what was left. Exit 1 if a
promise broke.

    --kills N        trials on each engine, with a kill each (default 450)
    --engine NAME    sqlite or postgresql; both by default. PostgreSQL comes from a wheel
    --seed N         repeats a run's choices; only timing is left to chance
    --json FILE
"""

import argparse
import sys
import tempfile
from dataclasses import fields

from evals.chaos.command import Row, command
from evals.chaos.driver import BETWEEN, Chaos, Figures, plan
from evals.chaos.worker import WINDOWS
from tests import postgres


def table(figures: Figures) -> list[Row]:
    """Rows of (what, figure, whether it holds); None where nothing is promised."""
    f = figures
    rows: list[tuple[str, str, bool | None]] = [("kills", str(f.kills), None)]
    rows += [(f"  after {window}", str(f.windows[window]), None) for window in WINDOWS]
    rows += [(f"  {name}", str(count), None) for name, count in sorted(f.windows.items()) if name not in WINDOWS]
    rows.append(("  found with an attempt begun and no outcome", str(f.between), None))
    rows.append(("trials with a second process", str(f.racing), None))
    rows.append(("approvals given", str(f.approvals), None))
    rows += [(f"  {state}", str(f.states[state]), None) for state in ("done", "failed", "unknown")]
    whole = f.states["done"] + f.states["failed"] + f.states["unknown"]
    rows.append(("  done + failed + unknown = approvals", f"{whole} = {f.approvals}", whole == f.approvals))
    rows.append(("  unknown", f"{f.unknown:.0%}", f.unknown < 0.4))
    rows.append(("gated requests that reached the API", str(f.requests), None))
    rows.append(("  more than one for an approval", str(f.duplicates), f.duplicates == 0))
    rows.append(("turns with a last word", f"{f.finished} of {f.turns}", f.finished == f.turns))
    rows.append(("  killed before the message was stored: said again", str(f.said_again), None))
    rows.append(("messages lost", str(sum("message is not" in p for p in f.problems)), None))
    rows.append(("anything else amiss", str(len(f.problems)), not f.problems))
    rows.append(("seconds", f"{f.seconds:.0f}", None))
    return rows


def enough(figures: Figures, kills: int) -> bool:
    """Whether the run has killed what it was to kill: in every window, and between intent and outcome."""
    hit = all(figures.windows[window] >= kills // 15 for window in WINDOWS)
    return hit and figures.kills >= kills * 2 // 3 and sum(figures.windows[w] for w in BETWEEN) >= kills * 2 // 9


def plain(figures: Figures) -> dict[str, object]:
    found = {one.name: getattr(figures, one.name) for one in fields(figures)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in found.items()}


def run(engine: str, kills: int, *, seed: int, size: int = 12, start: int = 0) -> Figures:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        database = postgres.database(folder) if engine == "postgresql" else f"sqlite:///{folder}/journal.db"
        with Chaos(database, engine, seed=seed) as chaos:
            for trials in plan(kills, size=size, seed=seed, start=start):
                chaos.round(trials)
            return chaos.figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m evals.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=450)
    return command(
        parser,
        lambda engine, options: run(engine, options.kills, seed=options.seed),
        table,
        plain,
        lambda figures, options: "" if enough(figures, options.kills) else "too few kills where they were meant to be",
    )


if __name__ == "__main__":
    sys.exit(main())
