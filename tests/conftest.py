"""Every test: no settings from outside, no network but loopback, nothing written outside a temporary folder.

Tests of modules in `BOTH` run on SQLite and on PostgreSQL; `TEST_ENGINES=sqlite` leaves the second out while working.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import postgres, support

if TYPE_CHECKING:
    from tests.fakeslack import FakeSlack

BOTH = {
    "test_gate",
    "test_inbox",
    "test_journal",
    "test_loop",
    "test_policy",
    "test_promises",
    "test_races",
    "test_review",
}
DRAWN = ("test_p3_", "test_p6_", "test_p7_", "test_p8_")
"""Promises about what is shown and said, to which one database is as good as another."""
SKIPPED: list[str] = []
ENGINES = os.environ.get("TEST_ENGINES", "sqlite,postgresql").split(",")


def pytest_configure(config: pytest.Config) -> None:
    postgres.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        postgres.end()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        SKIPPED.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that skips itself whole has no tests to report of."""
    if report.skipped:
        SKIPPED.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI counts on it, a test that was skipped has not passed."""
    if SKIPPED and os.environ.get("CI") == "true":
        print(f"\nskipped, which is a failure with CI=true: {SKIPPED}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    drawn = metafunc.function.__name__.startswith(DRAWN)
    if metafunc.module.__name__.rpartition(".")[2] in BOTH and not drawn:
        metafunc.parametrize("engine", ENGINES, indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The database that `make_world` gives its agents."""
    support.engine = getattr(request, "param", "sqlite")
    yield support.engine
    for journal in support.journals:
        # One that a test has left behind, as a process does that is killed.
        asyncio.run(journal.aclose())
    support.journals.clear()
    postgres.recycle()
    support.engine = "sqlite"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PLATICA_", "OPENAI_", "CAMPAIGN_AGENT_", "LC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("CAMPAIGN_AGENT_STATE_DIR", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def slack() -> AsyncIterator["FakeSlack"]:
    """With the manifest that the product prints: no scope and no event more."""
    from agent.interfaces.slack_manifest import manifest
    from agent.prompts import words
    from tests.fakeslack import FakeSlack

    async with FakeSlack(manifest(words("en", "America/Mexico_City"))) as made:
        yield made
