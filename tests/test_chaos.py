"""Kill -9 at every named moment and at random, alone and beside a second process; `make chaos` is the long version."""

import pytest

from evals.chaos.__main__ import run, table

KILLS = 5
START = {"sqlite": 0, "postgresql": 3}
"""Where each begins in the row of windows, so that both together try them all."""


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_whatever_is_killed_nothing_is_lost_and_nothing_runs_twice(engine: str) -> None:
    figures = run(engine, KILLS, seed=3, size=KILLS, start=START[engine])
    assert figures.problems == []
    # What share is unknown says nothing of five trials, three of which are killed where it must be.
    assert {what.strip() for what, _, holds in table(figures) if holds is False} <= {"unknown"}
    assert figures.duplicates == 0
    assert (figures.approvals, figures.finished) == (KILLS, KILLS)
    # A process may be through before its moment comes, when another was faster; most are not.
    assert figures.kills >= KILLS // 2
    assert figures.racing >= 1
