"""The eval suites: every case's own solution, every recording offline, and the command line around them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evals.__main__ import app
from evals.case import Case, read_cases
from evals.cassettes import Shelf
from evals.metrics import pass_k, rows, table
from evals.runner import Result, cost, known_failures, known_problems, replay, solve
from tests.test_evals_recording import ANSWERS, CASE, KEY, READS, REMOVE, Lab

CASES = read_cases()
SHELF = Shelf()
SUITES = sorted({case.suite for case in CASES})
KNOWN = known_failures()


# The cases and recordings of this repository.


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_a_case_is_solved_by_its_own_solution(case: Case) -> None:
    result = await solve(case)
    assert result.problems == []
    assert result.gate_violations == []


@pytest.mark.parametrize("suite", SUITES)
async def test_every_recording_replays_offline(suite: str) -> None:
    """Each does what it did when it was made: solved, or a known failure. None of them opens the gate."""
    wrong = []
    failed: dict[str, list[bool]] = {}
    recordings = [(case, trial) for case in CASES if case.suite == suite for trial in SHELF.trials(case)]
    for case, trial in recordings:
        result = await replay(case, trial, SHELF)
        failed.setdefault(case.id, []).append(result.status == "failed")
        wrong += [f"{case.id} #{trial}: {line}" for line in result.gate_violations]
        if result.status not in ("passed", "failed") or (result.status == "failed" and case.id not in KNOWN):
            wrong += [f"{case.id} #{trial}: {line}" for line in result.problems]
    passing = [one for one, trials in failed.items() if one in KNOWN and not any(trials)]
    wrong += [f"{one}: it passes; take it out of the known failures" for one in passing]
    assert wrong == []


def test_recordings_belong_to_cases_and_hold_nothing_private() -> None:
    assert SHELF.problems({case.id: case for case in CASES}) == []


def test_there_are_enough_cases_and_each_is_recorded_as_often_as_it_says() -> None:
    cases, shelf = CASES, SHELF
    assert len(cases) >= 80
    missing = [f"{c.id} {n}" for c in cases for n in range(1, c.trials + 1) if not shelf.path(c.id, n).exists()]
    assert missing == []
    core = [case for case in cases if "core" in case.tags]
    assert [case.id for case in core if case.trials < 3] == []
    assert len({case.suite for case in core}) >= 3


def test_the_list_of_known_failures_is_honest() -> None:
    assert known_problems(KNOWN, CASES) == []


def test_every_suite_has_cases_where_nothing_may_be_sent() -> None:
    sends = {suite: [case.expect.sends for case in CASES if case.suite == suite] for suite in SUITES}
    assert [suite for suite, counts in sends.items() if 0 not in counts] == []


# The command line.


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with the one case of the tests, whose own solution is right."""
    solution = [{"calls": [{"tool": tool, "arguments": given} for tool, given in READS]}, {"reply": ANSWERS[1]}]
    solution += [{"calls": [{"tool": tool, "arguments": given} for tool, given in REMOVE]}, {"reply": ANSWERS[3]}]
    (tmp_path / "cases" / "lab").mkdir(parents=True)
    text = yaml.safe_dump({**CASE, "solution": solution, "trials": 2}, allow_unicode=True, sort_keys=False)
    (tmp_path / "cases" / "lab" / "two-turns.yaml").write_text(text, "utf-8")
    (tmp_path / "known.yaml").write_text("{}", "utf-8")
    return tmp_path


def evals(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of `python -m evals` in that folder."""
    places = ["--cases", str(folder / "cases")]
    if words[0] == "run":
        places += ["--cassettes", str(folder / "tapes"), "--known", str(folder / "known.yaml")]
        places += ["--json", str(folder / "results.json")]
    made = CliRunner().invoke(app, [*words, *places])
    assert made.exception is None or isinstance(made.exception, SystemExit), made.exception
    return made.exit_code, made.output


class Served:
    """The lab's endpoint in a thread of its own, as a command line meets it."""

    def __init__(self, answers: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab, self._patch = Lab(answers), monkeypatch

    def __enter__(self) -> Lab:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self.lab.server.__aenter__(), self._loop).result(20)
        self._patch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        self._patch.setenv("OPENAI_API_KEY", KEY)
        return self.lab

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.lab.server.__aexit__(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
        self._patch.delenv("OPENAI_BASE_URL")
        self._patch.delenv("OPENAI_API_KEY")


def saved(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return data


def test_record_then_replay(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served([*ANSWERS, *ANSWERS[:3], "Hecho."], monkeypatch) as asked:
        code, output = evals(lab, "run", "--record", "--model", "gpt-5-mini-lab", "--how", "relay")
    assert {body["model"] for body in asked.seen} == {"gpt-5-mini-lab"}
    assert (code, len(asked.seen)) == (1, 8)
    assert "passed  lab/two-turns #1" in output
    assert "failed  lab/two-turns #2" in output
    assert "! lab/two-turns: 1 of 2 runs failed" in output
    assert sorted(path.name for path in (lab / "tapes" / "lab").iterdir()) == ["two-turns.2.yaml", "two-turns.yaml"]
    recorded = saved(lab)

    code, output = evals(lab, "run")
    assert code == 1
    again = saved(lab)
    assert [one["status"] for one in again["results"]] == ["passed", "failed"]
    assert [one["turns"] for one in again["results"]] == [one["turns"] for one in recorded["results"]]
    (row, everything) = again["rows"]
    assert (row["suite"], row["model"], row["language"], everything["suite"]) == (
        "lab",
        "gpt-5-mini-lab",
        "es",
        "(all)",
    )
    assert (row["cases"], row["runs"], row["success"], row["k"], row["pass_k"]) == (1, 2, 0.5, 2, 0.0)
    assert (row["gate_violations"], row["model_calls"], row["tokens"]) == (0, 8, 7360)
    assert row["cost"] == pytest.approx((2 * 3200 * 0.25 + 2 * 400 * 0.025 + 2 * 80 * 2) / 1e6)

    code, _ = evals(lab, "run", "lab", "--repeat", "1")
    assert (code, len(saved(lab)["results"])) == (0, 1)
    code, output = evals(lab, "run", "--model", "another")
    assert code == 1
    assert "! lab/two-turns: it has no recording; record it: python -m evals run lab --case lab/two-turns" in output


def test_a_known_failure_may_fail_and_may_not_pass(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lab / "cases" / "lab"
    for number in range(7):
        text = (folder / "two-turns.yaml").read_text("utf-8").replace("lab/two-turns", f"lab/more-{number}")
        (folder / f"more-{number}.yaml").write_text(text, "utf-8")
    with Served([*ANSWERS[:3], "Hecho."], monkeypatch):
        code, _ = evals(lab, "run", "--case", "lab/two-turns", "--record", "--repeat", "1")
        assert code == 1
    (lab / "known.yaml").write_text("lab/two-turns: It doesn't say that anybody was removed.", "utf-8")
    code, _ = evals(lab, "run", "--case", "lab/two-turns", "--repeat", "1")
    assert code == 0
    assert saved(lab)["results"][0]["known"] == "It doesn't say that anybody was removed."
    with Served(ANSWERS, monkeypatch):
        code, output = evals(lab, "run", "--case", "lab/two-turns", "--record", "--repeat", "1")
    assert code == 1
    assert "! lab/two-turns: it passes; take it out of the known failures" in output
    code, output = evals(lab, "run")
    assert code == 1
    lacking = [line for line in output.splitlines() if line.startswith("! ")]
    again = "record it: python -m evals run lab --case lab"
    assert lacking[0] == "! lab/two-turns: it passes; take it out of the known failures"
    assert lacking[1:] == [
        *(f"! lab/more-{n}: it has no recording; {again}/more-{n} --record --missing" for n in range(7)),
        f"! lab/two-turns: it has no recording 2; {again}/two-turns --record --missing",
    ]
    assert saved(lab)["missing"] == [line.removeprefix("! ") for line in lacking[1:]]


def test_only_what_is_missing_is_recorded(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(ANSWERS, monkeypatch):
        evals(lab, "run", "--record", "--repeat", "1")
    (lab / "tapes" / "prompts" / f"{'0' * 64}.md").write_text("An older prompt.", "utf-8")
    with Served(ANSWERS, monkeypatch) as asked:
        code, output = evals(lab, "run", "--record", "--missing")
    assert Shelf(lab / "tapes").problems({case.id: case for case in read_cases(lab / "cases")}) == []
    assert (code, len(asked.seen)) == (0, 4)
    assert "lab/two-turns #2" in output
    assert "lab/two-turns #1" not in output


def test_live_keeps_nothing(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(ANSWERS * 3, monkeypatch) as asked:
        code, output = evals(lab, "run", "--live", "--repeat", "3")
    assert (code, len(asked.seen)) == (0, 12)
    assert "100% (k=3, 1 case)" in output
    assert not (lab / "tapes").exists()


def test_a_wrong_case_is_an_error_and_nobody_is_asked(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab / "cases" / "lab" / "two-turns.yaml"
    path.write_text(path.read_text("utf-8").replace("- '12'", "- '13'"), "utf-8")
    code, output = evals(lab, "check")
    assert code == 1
    assert "turn 1: the reply lacks '13'" in output
    with Served(ANSWERS, monkeypatch) as asked:
        code, output = evals(lab, "run", "--record")
    assert (code, asked.seen) == (1, [])
    assert "! lab/two-turns: error" in output


def test_repeat_says_where_there_are_fewer_recordings(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(ANSWERS * 2, monkeypatch):
        evals(lab, "run", "--record")
    code, output = evals(lab, "run", "--repeat", "2")
    assert (code, "--repeat" in output) == (0, False)
    assert "100% (k=2, 1 case)" in output
    code, output = evals(lab, "run", "--repeat", "3")
    assert code == 0
    assert "--repeat 3: 1 of 1 cases have fewer recordings: lab/two-turns (2)" in output
    assert [(row["k"], row["pass_k"], row["pass_k_cases"]) for row in saved(lab)["rows"]] == [(3, None, 0)] * 2


# A gate that is open: the command line of a program whose gate lets one removal pass.

OPEN = """
from agent.gate import Gate
from agent.journal import Approval
from evals.__main__ import main

propose = Gate.propose

async def lets_pass(self, calls, **more):
    made = await propose(self, calls, **more)
    if isinstance(made, Approval) and "{phone}" in repr(calls):
        approved = await self.decide(made.id, "approve", by=more["by"])
        return [outcome async for _, outcome in self.execute(approved)][0]
    return made

Gate.propose = lets_pass
main()
"""
RAISES = OPEN.replace("approved =", "raise ValueError('ñandú') #")
UNCHECKED = OPEN.replace("main()\n", "import evals.checks; evals.checks.check_state = None; main()")
PHONE, OTHER = "525500100011", "525500100270"
WRONGLY = [("remove_campaign_audience_client", {"campaignId": "cmpEncuestaSatisfac1", "phoneNumber": f"+{OTHER}"})]


def sabotaged(folder: Path, program: str, *words: str, **env: str) -> tuple[int, str]:
    """Exit code and output of another program than ours, in a process of its own."""
    places = ["--cases", str(folder / "cases"), "--cassettes", str(folder / "tapes")]
    places += ["--known", str(folder / "known.yaml"), "--json", str(folder / "results.json")]
    made = subprocess.run(
        [sys.executable, "-c", program, *words, *places], cwd=folder, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **env}, check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in made.stderr, made.stderr
    return made.returncode, made.stdout


@pytest.mark.parametrize("program", [OPEN, UNCHECKED])
def test_what_a_solution_lets_past_the_gate_counts(lab: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Also where a check breaks."""
    with Served(ANSWERS * 2, monkeypatch):
        assert evals(lab, "run", "--record")[0] == 0
    code, output = sabotaged(lab, program.format(phone=PHONE), "run")
    assert code == 1
    where = f"DELETE /v1/campaigns/cmpEncuestaSatisfac1/audience/{PHONE}"
    said = [line for line in output.splitlines() if line.startswith("! ")]
    assert said[0].startswith(f"! GATE VIOLATION: lab/two-turns (its own solution): {where}")
    assert "0 of 1 runs passed; gate violations: 1" in output
    rows_ = [(row["suite"], row["success"], row["broken"], row["gate_violations"]) for row in saved(lab)["rows"]]
    assert rows_ == [("lab", 0.0, 1, 1), ("(all)", 0.0, 1, 1)]
    assert {row["model"] for row in saved(lab)["rows"]} == {"gpt-5-mini"}


def test_what_a_stale_run_lets_past_the_gate_counts(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person denied the wrong removal; the open gate runs it, and the request after it is none of the recording."""
    path = lab / "cases" / "lab" / "two-turns.yaml"
    data = yaml.safe_load(path.read_text("utf-8"))
    data["turns"][2]["arguments"] = {"campaignId": "cmpEncuestaSatisfac1", "phoneNumber": f"+{PHONE}"}
    path.write_text(yaml.safe_dump({**data, "trials": 1}, allow_unicode=True, sort_keys=False), "utf-8")
    with Served([*ANSWERS[:2], WRONGLY, "No se quitó a nadie."], monkeypatch):
        assert evals(lab, "run", "--record")[0] == 1
    code, output = sabotaged(lab, OPEN.format(phone=OTHER), "run")
    assert code == 1
    (one,) = saved(lab)["results"]
    assert (one["status"], len(one["gate_violations"])) == ("stale", 1)
    assert one["problems"][0].startswith("stale: lab/two-turns (recording 1): a request differs")
    assert one["problems"][1].startswith(f"GATE: DELETE /v1/campaigns/cmpEncuestaSatisfac1/audience/{OTHER} ")
    assert [row["gate_violations"] for row in saved(lab)["rows"]] == [1, 1]
    assert "! GATE VIOLATION: lab/two-turns (run 1): DELETE" in output


@pytest.mark.parametrize("how", ["--replay", "--record", "--live"])
def test_no_known_failure_excuses_the_gate(lab: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    folder = lab / "cases" / "lab"
    for number in range(7):
        text = (folder / "two-turns.yaml").read_text("utf-8").replace("lab/two-turns", f"lab/more-{number}")
        (folder / f"more-{number}.yaml").write_text(text, "utf-8")
    (lab / "known.yaml").write_text("lab/two-turns: It removes somebody else than was asked for.", "utf-8")
    words = ("run", "--case", "lab/two-turns", "--repeat", "1")
    answers = [*ANSWERS[:2], WRONGLY, ANSWERS[3]]
    with Served(answers * 2, monkeypatch):
        assert evals(lab, *words, "--record")[0] == 0
        code, output = sabotaged(lab, OPEN.format(phone=OTHER), *words, how)
    assert saved(lab)["results"][0]["status"] == "failed"
    said = [line for line in output.splitlines() if line.startswith("! ")]
    assert len(said) == 1
    assert said[0].startswith("! GATE VIOLATION: lab/two-turns (run 1): DELETE")
    assert code == 1


def test_what_breaks_in_a_run_ends_that_run_alone(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the terminal knows ASCII alone."""
    with Served([*ANSWERS[:2], WRONGLY, ANSWERS[3], *ANSWERS], monkeypatch):
        evals(lab, "run", "--record")
    code, output = sabotaged(lab, RAISES.format(phone=OTHER), "run", PYTHONIOENCODING="ascii")
    assert code == 1
    assert [one["status"] for one in saved(lab)["results"]] == ["error", "passed"]
    assert "ValueError: ñandú (<string>, line " in output
    assert "1 of 2 runs passed; gate violations: 0" in output


def test_a_recording_that_can_not_be_read_is_an_error_of_its_own(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(ANSWERS * 2, monkeypatch):
        evals(lab, "run", "--record")
    (lab / "tapes" / "lab" / "two-turns.yaml").write_text("interactions: []", "utf-8")
    for more in ((), ("--model", "gpt-5-mini")):
        code, output = evals(lab, "run", *more)
        assert code == 1
        assert [one["status"] for one in saved(lab)["results"]] == ["error", "passed"]
        assert "! lab/two-turns: error" in output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["run", "nope"], "there is no suite nope"),
        (["run", "--case", "lab/nope"], "there is no case lab/nope"),
        (["run", "--record", "--live"], "exclude each other"),
        (["run", "--record"], "set OPENAI_API_KEY"),
        (["run", "--record", "--how", "magic"], "--how is api or relay"),
        (["check", "nope"], "there is no suite nope"),
    ],
)
def test_what_can_not_be_done_is_said(lab: Path, words: list[str], why: str) -> None:
    code, output = evals(lab, *words)
    assert code == 2
    assert why in output


# Figures.


def result(case: str, status: Any, **more: Any) -> Result:
    known: dict[str, Any] = {"suite": case.partition("/")[0], "language": "es", "model": "m", "tags": [], "note": ""}
    return Result(case=case, trial=1, status=status, problems=[], **{**known, **more})


def test_pass_k_is_the_chance_that_k_of_a_case_all_pass() -> None:
    assert pass_k([[True, True], [True, False]], 1) == 0.75
    assert pass_k([[True, True], [True, False]], 2) == 0.5
    assert pass_k([[True, True, False, True]], 2) == 0.5
    assert pass_k([[True]], 2) is None


def test_k_is_that_of_repeat_else_the_most_runs_of_a_case_and_the_cases_are_counted() -> None:
    found = [result("a/x", "passed")] * 3 + [result("a/y", "passed"), result("b/z", "failed")]
    assert [(row.k, row.pass_k, row.pass_k_cases) for row in rows(found)] == [(3, 1.0, 1), (3, None, 0), (3, 1.0, 1)]
    assert [(row.k, row.pass_k, row.pass_k_cases) for row in rows(found, 1)] == [
        (1, 1.0, 2),
        (1, 0.0, 1),
        (1, 2 / 3, 3),
    ]
    assert [(row.k, row.pass_k, row.pass_k_cases) for row in rows(found, 5)] == [(5, None, 0)] * 3
    assert "67% (k=1, 3 cases)" in table(rows(found, 1))
    two = [result("a/x", "passed", model="n"), result("a/x", "passed")]
    assert [row.k for row in rows(two)] == [1] * 4, "runs of two models are no runs of one"


def test_rows_are_by_suite_model_and_language_and_leave_out_nothing() -> None:
    """What is stale or an error has not passed, and what it let past the gate counts; its other figures say nothing."""
    found = rows(
        [
            result("a/x", "passed", gate_violations=["x"], refusals=2, refused=1, asks=1, under_asked=1, seconds=1.5),
            result("a/y", "failed", language="en", wrong_calls=2, missing_calls=1, over_asked=1, model_calls=3),
            result("a/y", "stale", gate_violations=["x", "y"], missing_calls=4, seconds=9.0),
            result("b/z", "passed", model="n", tokens={"prompt_tokens": 10, "completion_tokens": 5}, cost=0.5),
            result("c/z", "error", model="n", gate_violations=["z"], cost=2.0, model_calls=5),
        ]
    )
    keys = [(r.suite, r.model, r.language, r.runs, r.broken, r.success, r.gate_violations) for r in found]
    assert keys == [
        ("a", "m", "en", 1, 0, 0.0, 0),
        ("a", "m", "es", 2, 1, 0.5, 3),
        ("b", "n", "es", 1, 0, 1.0, 0),
        ("c", "n", "es", 1, 1, 0.0, 1),
        ("(all)", "m", "", 3, 1, 1 / 3, 3),
        ("(all)", "n", "", 2, 1, 0.5, 1),
    ]
    whole, other = found[4:]
    assert (whole.wrong_calls, whole.missing_calls, whole.over_asked) == (2, 1, 1)
    assert (whole.refused, whole.refusals, whole.under_asked, whole.asks, whole.model_calls) == (1, 2, 1, 1, 3)
    assert (whole.seconds, whole.cost, other.tokens, other.cost, other.model_calls) == (1.5, None, 15, 0.5, 0)
    lines = table(found).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[5].split()[:7] == ["(all)", "m", "*", "2", "3", "1", "33%"]


def test_a_cost_needs_a_price() -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "cached_tokens": 400_000}
    assert cost("gpt-5-mini-2026", usage) == pytest.approx(0.6 * 0.25 + 0.4 * 0.025 + 2.0)
    assert cost("gpt-5-turbo", usage) == pytest.approx(0.6 * 1.25 + 0.4 * 0.125 + 10.0)
    assert cost("llama", usage) is None
    assert cost("gpt-5", {}) is None
