"""The commands, as a person or a script runs them: what they print, and the code they end with."""

import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import run
from agent.operations import BY_NAME, schema
from tests.support import BIENVENIDA, BUEN_FIN, CITA, ENCUESTA, PROMO

CASES = {
    "list_campaigns": ("Lista las campañas", "List the campaigns", 0),
    "get_campaign": (
        "Dame los detalles de la campaña Buen Fin 2026",
        "Show me the details of campaign Buen Fin 2026",
        0,
    ),
    "get_campaign_audience": (
        "¿Quiénes están en la audiencia de Encuesta de satisfacción?",
        "Show the audience of Encuesta de satisfacción",
        0,
    ),
    "create_campaign": (
        'Crea una campaña de marketing llamada "Café de otoño"',
        'Create a marketing campaign called "Autumn coffee"',
        0,
    ),
    "update_campaign": (
        'Cambia el título de la campaña Buen Fin 2026 a "Buen Fin final"',
        'Rename the campaign Buen Fin 2026 to "Buen Fin final"',
        0,
    ),
    "add_campaign_audience": (
        "Agrega a Ana Morales 55 0010 0901 a la campaña Buen Fin 2026",
        "Add Ana Morales 55 0010 0901 to the campaign Buen Fin 2026",
        0,
    ),
    "delete_campaign": ("Borra la campaña Buen Fin 2026", "Delete the campaign Buen Fin 2026", 3),
    "remove_campaign_audience_client": (
        "Quita el teléfono +525500100011 de la audiencia de Encuesta de satisfacción",
        "Remove the phone +525500100011 from the audience of Encuesta de satisfacción",
        3,
    ),
    "clear_campaign_audience": (
        "Vacía la audiencia de Encuesta de satisfacción",
        "Clear the audience of Encuesta de satisfacción",
        3,
    ),
    "send_campaign": (
        "Envía la campaña Recordatorio de cita desde Ventas CDMX con los parámetros cliente y 30 de noviembre",
        "Send the campaign Recordatorio de cita from Ventas CDMX with the parameters client and November 30",
        3,
    ),
}
TITLES = {
    "delete_campaign": "Buen Fin 2026",
    "clear_campaign_audience": "Encuesta de satisfacción",
    "remove_campaign_audience_client": None,
    "send_campaign": None,
}
EFFECTS = {
    "create_campaign": ("POST", "/v1/campaigns"),
    "update_campaign": ("PATCH", f"/v1/campaigns/{BUEN_FIN}"),
    "add_campaign_audience": ("POST", f"/v1/campaigns/{BUEN_FIN}/audience"),
    "delete_campaign": ("DELETE", f"/v1/campaigns/{BUEN_FIN}"),
    "remove_campaign_audience_client": ("DELETE", f"/v1/campaigns/{ENCUESTA}/audience/525500100011"),
    "clear_campaign_audience": ("DELETE", f"/v1/campaigns/{ENCUESTA}/audience"),
    "send_campaign": ("POST", f"/v1/campaigns/{CITA}/send"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def effects(home: Path) -> list[tuple[str, str]]:
    """What the sandbox carried out, from its own ledger."""
    with sqlite3.connect(home / "sandbox.db") as database:
        return database.execute("SELECT method, path FROM request_log WHERE acted = 1 ORDER BY seq").fetchall()


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_an_approval_that_needs_somebody_else_still_waits(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    monkeypatch.setenv("CAMPAIGN_AGENT_TWO_APPROVERS_OVER", "1")
    pipe(monkeypatch, CASES["send_campaign"][1])
    assert run(["ask", "--json"]) == 3
    asked = events(capsys)[-1]
    assert run(["approve", asked["id"]]) == 3
    assert "2 different people have to approve" in capsys.readouterr().out
    assert run(["approve", asked["id"]]) == 1
    assert "[approval_approved_before]" in capsys.readouterr().err
    me = f"os:{os.getuid()}"
    assert run(["approvals"]) == 0
    assert f"Approved by {me}; 2 different people are needed." in capsys.readouterr().out
    assert run(["approvals", "--json"]) == 0
    (listed,) = events(capsys)
    assert (listed["state"], listed["needed"], listed["approved_by"]) == ("pending", 2, [me])
    assert effects(home) == []
    assert run(["deny", asked["id"]]) == 0
    assert effects(home) == []


def test_whoever_may_not_decide_is_told_and_nothing_moves(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    monkeypatch.setenv("CAMPAIGN_AGENT_SELF_APPROVE_UP_TO", "1")
    monkeypatch.setenv("CAMPAIGN_AGENT_APPROVERS", "delete_campaign=slack:T1/U1")
    for tool, code in (("send_campaign", "approval_own_send"), ("delete_campaign", "approval_not_entitled")):
        pipe(monkeypatch, CASES[tool][1])
        assert run(["ask", "--json"]) == 3
        asked = events(capsys)[-1]
        assert run(["approve", asked["id"], "--confirm", "Buen Fin 2026", "--json"]) == 1
        assert events(capsys)[-1]["code"] == code
        assert run(["approvals", "--json"]) == 0
        assert asked["id"] in [listed["id"] for listed in events(capsys)]
    assert effects(home) == []


@pytest.mark.parametrize("name", ["APPROVERS", "APPROVAL_TTLS", "SELF_APPROVE_UP_TO", "TWO_APPROVERS_OVER"])
def test_a_policy_that_cannot_be_read_is_a_usage_error(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"CAMPAIGN_AGENT_{name}", "everybody")
    assert run(["approvals"]) == 2
    assert f"CAMPAIGN_AGENT_{name}" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize("tool", CASES)
def test_each_operation_by_asking(
    tool: str, language: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spanish, english, code = CASES[tool]
    pipe(monkeypatch, spanish if language == "es" else english)
    assert run(["ask", "--json"]) == code
    told = events(capsys)
    assert tool in [event["name"] for event in told if event["type"] == "tool_call"]
    if code == 0:
        assert told[-1]["type"] == "reply"
        assert effects(home) == ([EFFECTS[tool]] if tool in EFFECTS else [])
        return
    asked = told[-1]
    assert (asked["type"], asked["tool"]) == ("approval", tool)
    assert {"id", "arguments", "preview", "warnings", "expires_at"} <= asked.keys()
    assert effects(home) == []

    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    confirm = ["--confirm", str(TITLES[tool])] if TITLES[tool] else []
    assert run(["approve", asked["id"], *confirm, "--json"]) == 0
    told = events(capsys)
    assert [event["ok"] for event in told if event["type"] == "tool_result"] == [True]
    assert told[-1]["type"] == "reply"
    assert effects(home) == [EFFECTS[tool]]

    assert run(["approve", asked["id"], *confirm, "--json"]) == 1
    assert events(capsys)[-1]["code"] == "approval_used"
    assert effects(home) == [EFFECTS[tool]]


def test_a_denial_reaches_the_model_with_its_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--json", "--session", "d"]) == 3
    asked = events(capsys)[-1]
    assert run(["deny", asked["id"], "--reason", "it is needed in November", "--json"]) == 0
    told = events(capsys)
    (result,) = [event for event in told if event["type"] == "tool_result"]
    assert result["content"]["reason"] == "it is needed in November"
    assert result["outcome"] == "denied"
    assert effects(home) == []
    assert run(["approve", asked["id"], "--json"]) == 1
    assert events(capsys)[-1]["code"] == "approval_denied"


def test_without_a_terminal_approving_is_refused_unless_allowed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--json"]) == 3
    asked = events(capsys)[-1]
    assert run(["approve", asked["id"], "--confirm", "Buen Fin 2026"]) == 1
    assert "[approval_not_interactive]" in capsys.readouterr().err
    assert effects(home) == []
    assert run(["approvals", "--json"]) == 0
    assert [row["id"] for row in events(capsys)] == [asked["id"]]


def test_a_heavy_approval_wants_its_title(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--json"]) == 3
    asked = events(capsys)[-1]
    for wrong in ([], ["--confirm", "yes"], ["--confirm", "Buen Fin"]):
        assert run(["approve", asked["id"], *wrong, "--json"]) == 1
        assert events(capsys)[-1]["code"] == "approval_confirmation"
    assert effects(home) == []
    assert run(["approve", asked["id"], "--confirm", "  buen FIN  2026 ", "--json"]) == 0


def test_the_record_tells_who_asked_decided_and_what_ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--json", "--session", "rec"]) == 3
    asked = events(capsys)[-1]
    assert run(["approve", asked["id"], "--confirm", "Buen Fin 2026", "--json"]) == 0
    capsys.readouterr()
    assert run(["attempts", "--json"]) == 0
    (attempt,) = events(capsys)
    me = f"os:{os.getuid()}"
    assert (attempt["tool"], attempt["state"], attempt["by"], attempt["approval"]) == (
        "delete_campaign",
        "done",
        me,
        asked["id"],
    )
    assert run(["log", "--session", "rec", "--json"]) == 0
    rows = events(capsys)
    assert [row["what"] for row in rows if row["what"] in ("card", "decision")] == ["card", "decision"]
    (decision,) = [row for row in rows if row["what"] == "decision"]
    assert "without a terminal" in decision["text"]
    assert decision["by"] == me


def test_call_runs_one_operation_through_the_gate(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", "get_campaign", json.dumps({"campaignId": PROMO})]) == 0
    out = capsys.readouterr().out
    assert "Promo Verano 2026" in out
    assert run(["call", "clear_campaign_audience", json.dumps({"campaignId": PROMO})]) == 3
    assert "CLEAR the audience" in capsys.readouterr().out
    assert effects(home) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["call", "get_campaign", '{"campaignId": "nope"}'], 1, "api_not_found"),
        (["call", "get_campaign", "{"], 1, "invalid_call"),
        (["call", "clear_campaign_audience", json.dumps({"campaignId": BUEN_FIN})], 1, "call_refused"),
        (["call", "send_everything", "{}"], 2, "usage_no_such_tool"),
        (["approve", "nothing"], 1, "approval_unknown"),
        (["deny", "nothing"], 1, "approval_unknown"),
        (["approvals", "nothing"], 1, "approval_unknown"),
        (["chat"], 2, "usage_not_a_terminal"),
        (["ask", "  "], 2, "usage_no_text"),
        (["tools", "nothing"], 2, "usage_no_such_tool"),
        (["tools", "--format", "yaml"], 2, "usage_format"),
    ],
)
def test_bad_input_ends_in_a_code_and_one_thing_to_do(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert f"[{message}]" in printed.err
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"CAMPAIGN_AGENT_TIMEZONE": "Mars/Olympus"}, 2, "usage_setting"),
        ({"CAMPAIGN_AGENT_CONFIRM": "never"}, 2, "usage_setting"),
        ({"PLATICA_BASE_URL": "ftp://x"}, 2, "usage_setting"),
        ({"PLATICA_API_KEY": "pl_key_a_b", "PLATICA_BASE_URL": "http://127.0.0.1:9"}, 1, "api_unreachable"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "CAMPAIGN_AGENT_MODEL_RETRIES": "0"}, 1, "model_unreachable"),
        ({"CAMPAIGN_AGENT_DATABASE_URL": "sqlite:////proc/nowhere/j.db"}, 1, "database_unavailable"),
        ({"CAMPAIGN_AGENT_DATABASE_URL": "nonsense"}, 1, "database_unavailable"),
        ({"CAMPAIGN_AGENT_STATE_DIR": "/dev/null/x"}, 1, "database_unavailable"),
    ],
)
def test_a_wrong_set_up_is_named(
    environment: dict[str, str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(["ask", "list the campaigns"]) == code
    printed = capsys.readouterr()
    assert f"[{message}]" in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert "Mars/Olympus" not in printed.out


def test_a_wrong_key_is_named_and_not_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with SandboxServer(home) as url:
        monkeypatch.setenv("PLATICA_API_KEY", "pl_key_wrong_canary12345")
        monkeypatch.setenv("PLATICA_BASE_URL", url)
        assert run(["ask", "list the campaigns"]) == 1
        printed = capsys.readouterr()
        assert "[api_key_rejected]" in printed.err
        assert "canary12345" not in printed.err + printed.out
        monkeypatch.setenv("PLATICA_API_KEY", "pl_key_sandbox_local")
        assert run(["ask", "list the campaigns", "--json"]) == 0
        assert "Promo Verano 2026" in capsys.readouterr().out


def test_a_corrupt_database_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "journal.db").write_text("this is no database " * 100)
    assert run(["ask", "list the campaigns"]) == 1
    assert "[database_corrupt]" in capsys.readouterr().err


def test_a_full_disk_is_named_and_nothing_runs(home: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes every write past a size fail, as a full disk does."""
    program = (
        "import resource, signal, sys\n"
        "from agent.cli import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "assert run(['call', 'list_campaigns', '--session', 'a']) == 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        'codes = [run([\'call\', \'create_campaign\', \'{"title": "T%d", "category": "utility"}\' % n])'
        " for n in range(12)]\n"
        "print('CODES', codes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=_environment(), timeout=60
    )
    assert "[database_full]" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_sandbox_command_names_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run(["sandbox", "--port", str(taken.getsockname()[1])]) == 2
    assert "[usage_port]" in capsys.readouterr().err


def test_a_crash_of_ours_leaves_no_traceback(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one place where a part is replaced: nothing else could be made to fail on purpose."""
    import agent.cli

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(agent.cli, "build", broken)
    assert run(["ask", "hello"]) == 1
    printed = capsys.readouterr()
    assert "[error]" in printed.err
    assert "Traceback" not in printed.err
    assert "a fault of ours" in (home / "crash.log").read_text()


def test_doctor_looks_at_every_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out.count("✓") == 6
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("CAMPAIGN_AGENT_MODEL_RETRIES", "0")
    assert run(["doctor"]) == 1
    assert "✗ Model" in capsys.readouterr().out


@pytest.mark.parametrize("language", ["es", "en"])
def test_the_demo_plays_to_its_end(
    language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_LANGUAGE", language)
    monkeypatch.setenv("PLATICA_API_KEY", "pl_key_real_looking")
    monkeypatch.setenv("PLATICA_BASE_URL", "http://127.0.0.1:9")
    assert run(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.count("Ana Morales") >= 2
    assert ("DENEGADO" if language == "es" else "DENIED") in out.upper()


@pytest.mark.parametrize("form", ["openai", "mcp"])
def test_tools_prints_the_ten_schemas(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tools", "--format", form]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 10


def _facts(shape: dict[str, Any]) -> Iterator[str]:
    """Every name, choice and bound of a schema, however deep."""
    for name, field in shape.get("properties", {}).items():
        yield name
        for part in (field, field.get("items", {})):
            yield from map(str, part.get("enum", []))
            yield from (f"{key}={json.dumps(part[key])}" for key in ("default", "minimum", "maximum") if key in part)
            yield from _facts(part)


@pytest.mark.parametrize("tool", BY_NAME)
def test_help_has_every_field_choice_and_bound(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tools", tool]) == 0
    out = capsys.readouterr().out
    facts = list(_facts(schema(BY_NAME[tool])))
    assert [fact for fact in facts if fact not in out] == []
    if tool == "send_campaign":
        assert {"scheduledDates", "sub_type", "quick_reply", "video", "parameters"} <= set(facts)


def test_a_session_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Show me the details of Promo Verano 2026", "--session", "mine", "--json"]) == 0
    capsys.readouterr()
    assert run(["ask", "Show me its audience", "--session", "mine", "--json"]) == 0
    calls = [event for event in events(capsys) if event["type"] == "tool_call"]
    assert calls[-1]["arguments"]["campaignId"] == PROMO
    assert run(["sessions"]) == 0
    assert "mine" in capsys.readouterr().out


def test_installed_from_its_wheel_it_brings_its_prompts(tmp_path: Path) -> None:
    """Outside the checkout, from the wheel's own files alone."""
    root = Path(__file__).parent.parent
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, check=True, cwd=root, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    program = "import agent, sys; print(agent.__file__); from agent.cli import run; sys.exit(run(['demo']))"
    environment = _environment() | {"PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(target))
    assert (target / "agent" / "_prompts" / "system.es.j2").is_file()


def test_bienvenida_needs_its_image(capsys: pytest.CaptureFixture[str]) -> None:
    """What the API would surely refuse is refused before anybody is asked."""
    arguments = json.dumps({"campaignId": BIENVENIDA, "channelId": "wb-501"})
    assert run(["call", "send_campaign", arguments]) == 1
    assert "IMAGE" in capsys.readouterr().err.upper()


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parent.parent)}


class SandboxServer:
    """The sandbox as a process of its own, on a free port."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "agent", "sandbox", "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return line.split()[0].partition("=")[2]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


def test_call_prints_the_whole_answer_although_the_model_gets_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["call", "get_campaign_audience", json.dumps({"campaignId": PROMO, "limit": 200})]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out[out.index("{") :])
    assert len(answer["workspaces"][0]["clients"]) == 120


def test_a_yes_while_a_card_waits_still_waits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--session", "y", "--json"]) == 3
    asked = events(capsys)[-1]
    assert run(["ask", "yes", "--session", "y", "--json"]) == 3
    assert events(capsys)[-1]["id"] == asked["id"]
    assert effects(home) == []


def test_an_approval_that_does_not_end_as_done_is_a_failure(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE", "1")
    assert run(["ask", "Delete the campaign Buen Fin 2026", "--json"]) == 3
    asked = events(capsys)[-1]
    with sqlite3.connect(home / "sandbox.db") as database:
        database.execute(
            "INSERT INTO fault (kind, seconds, times, method, path, exact) "
            "VALUES ('500_after', 0, 1, 'DELETE', NULL, 0)"
        )
    assert run(["approve", asked["id"], "--confirm", "Buen Fin 2026"]) == 1
    assert "Unknown whether" in capsys.readouterr().out
    assert run(["approve", asked["id"], "--confirm", "Buen Fin 2026"]) == 1
    assert "Check first whether it happened" in capsys.readouterr().err
    assert effects(home) == [("DELETE", f"/v1/campaigns/{BUEN_FIN}")]


def test_the_way_to_decide_is_said_where_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "Delete the campaign Buen Fin 2026"]) == 3
    out = capsys.readouterr().out
    assert '--confirm "Buen Fin 2026"' in out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_model_that_refuses_connections_is_not_called_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("CAMPAIGN_AGENT_MODEL_RETRIES", "0")
    assert run(["ask", "hello"]) == 1
    assert "in time" not in capsys.readouterr().err


def test_a_command_loads_only_what_it_needs(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['campaign-agent', 'ask', 'list the campaigns', '--json']\n"
        "from agent.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert ended.code == 0, ended.code\n"
        "heavy = 'rich prompt_toolkit alembic slack_bolt uvicorn pygments mcp psycopg openai aiohttp'.split()\n"
        "heavy += ['sqlalchemy.dialects.postgresql']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=_environment(), timeout=60
    )
    assert done.stderr.strip() == "[]"
