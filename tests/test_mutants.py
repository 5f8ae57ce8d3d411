"""Every mutant of the gate is caught by the tests that it names, and those pass on the gate as it is.

Each is made in a copy of the package and of its tests, and judged by pytest in a process of its own, forked from one
that has imported everything but them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.mutants import MACHINE, MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
NURSERY = """
import json, os, sys, traceback
import aiolimiter, hypothesis.stateful, httpx, jinja2, phonenumbers, pydantic_settings, pytest, pytest_asyncio.plugin
import sqlalchemy.dialects.sqlite, starlette.applications

class Outcomes(dict):
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            self[report.nodeid.partition("/")[2]] = report.outcome

def work(folder, tests, more):
    os.chdir(folder)
    sys.path.insert(0, folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    found = Outcomes()
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", *more]
    code = pytest.main([*options, *["tests/" + test for test in tests]], plugins=[pytest_asyncio.plugin, found])
    import agent
    assert agent.__file__.startswith(folder), agent.__file__
    with open("outcomes", "w") as file:
        json.dump([int(code), found], file)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work(*json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


class Nursery:
    """Runs tests of a copy, each time in a new process. `PROPERTIES=once`: no game is made smaller after it failed."""

    def __init__(self) -> None:
        env = {**os.environ, "PROPERTIES": "once", "TEST_ENGINES": "sqlite", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            env.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(self, folder: Path, tests: Sequence[str], *more: str) -> tuple[int, dict[str, str], str]:
        """pytest's exit code, how each test ended by its name in tests/, and what was printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(folder), list(tests), more]) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        log = (folder / "log").read_text()[-5000:]
        assert (folder / "outcomes").exists(), log
        code, outcomes = json.loads((folder / "outcomes").read_text())
        return code, outcomes, log

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of everything that the tests need; what was compiled comes along."""
    made = tmp_path.resolve() / "copy"
    for name in ("agent", "prompts", "tests"):
        shutil.copytree(ROOT / name, made / name)
    (made / "pytest.ini").write_text(INI)
    return made


def mutate(folder: Path, mutant: Mutant) -> None:
    for name, old, new in mutant.edits:
        path = folder / "agent" / name
        source = path.read_text()
        assert source.count(old) == 1, f"{mutant.name} is stale: {name} has its text {source.count(old)} times"
        path.write_text(source.replace(old, new))
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


def belongs(name: str, test: str) -> bool:
    """Whether a test that ran is `test`, or one of its parameters."""
    return name == test or name.startswith(test + "[")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_caught(nursery: Nursery, folder: Path, mutant: Mutant) -> None:
    mutate(folder, mutant)
    # One of the games that notices is enough.
    games = [test for test in mutant.tests if test == MACHINE]
    for tests, more in (([test for test in mutant.tests if test not in games], []), (games, ["-x"])):
        if not tests:
            continue
        code, outcomes, log = nursery.run(folder, tests, *more)
        # That tests were found and run, and that each of them failed; what can't even be imported is no catch.
        assert code == pytest.ExitCode.TESTS_FAILED, f"{mutant.rule}: nothing noticed\n{log}"
        for test in tests:
            failed = [name for name, outcome in outcomes.items() if outcome == "failed" and belongs(name, test)]
            assert failed, f"{mutant.rule}: {test} did not notice\n{log}"


def test_the_tests_that_catch_them_pass_on_the_gate_as_it_is(nursery: Nursery, folder: Path) -> None:
    # The games are played on it in test_properties.py.
    named = sorted({test for mutant in MUTANTS for test in mutant.tests} - {MACHINE})
    code, outcomes, log = nursery.run(folder, named)
    assert code == pytest.ExitCode.OK, log
    assert set(outcomes.values()) == {"passed"}
    for test in named:
        assert any(belongs(name, test) for name in outcomes), f"there is no {test}"


def test_there_is_a_mutant_of_every_rule_and_the_games_catch_some() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
    assert sum(MACHINE in mutant.tests for mutant in MUTANTS) >= 5
