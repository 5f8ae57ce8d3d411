"""Settings: the public names, their defaults, `.env`, and errors that name a setting but never show what it holds."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.errors import UsageError
from agent.settings import SANDBOX_URL, Settings

Environment = Callable[..., Settings]
KEY = "pl_key_KEYID9_SECRETSECRET"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """`Settings.read()` in an empty folder, with these environment variables and this `.env` alone."""
    for name in list(os.environ):
        if name.upper().startswith(("CAMPAIGN_AGENT_", "PLATICA_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def reading(env: Mapping[str, str] | None = None, dotenv: str | bytes | None = None) -> Settings:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        if dotenv is not None:
            (tmp_path / ".env").write_bytes(dotenv.encode() if isinstance(dotenv, str) else dotenv)
        return Settings.read()

    return reading


DEFAULTS: dict[str, Any] = {
    "platica_api_key": None,
    "platica_base_url": "https://api.platica.mx",
    "platica_workspace": None,
    "openai_api_key": None,
    "openai_base_url": None,
    "language": "auto",
    "timezone": "America/Mexico_City",
    "country": "MX",
    "confirm": "risky",
    "read_only": False,
    "confirm_audience_over": 50,
    "confirm_typed_over": 100,
    "max_audience": 200_000,
    "approval_ttl": 3600.0,
    "request_deadline": 30.0,
    "requests_per_second": 30.0,
    "allow_noninteractive_approve": False,
    "cost_per_message": None,
    "database_url": None,
}


def test_defaults(read: Environment) -> None:
    settings = read()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


NAMES: dict[str, tuple[str, str, Any]] = {
    "PLATICA_API_KEY": ("platica_api_key", KEY, KEY),
    "PLATICA_BASE_URL": ("platica_base_url", "https://api.example.mx/", "https://api.example.mx"),
    "PLATICA_WORKSPACE": ("platica_workspace", "ws_abc123", "ws_abc123"),
    "OPENAI_API_KEY": ("openai_api_key", "sk-123", "sk-123"),
    "OPENAI_BASE_URL": ("openai_base_url", "http://localhost:11434/v1", "http://localhost:11434/v1"),
    "CAMPAIGN_AGENT_MODEL": ("model", "llama-4", "llama-4"),
    "CAMPAIGN_AGENT_DATABASE_URL": ("database_url", "postgresql://u:p@h/db", "postgresql://u:p@h/db"),
    "CAMPAIGN_AGENT_LANGUAGE": ("language", "es", "es"),
    "CAMPAIGN_AGENT_TIMEZONE": ("timezone", "Europe/Madrid", "Europe/Madrid"),
    "CAMPAIGN_AGENT_CONFIRM": ("confirm", "writes", "writes"),
    "CAMPAIGN_AGENT_READ_ONLY": ("read_only", "1", True),
    "CAMPAIGN_AGENT_APPROVAL_TTL": ("approval_ttl", "600", 600.0),
    "CAMPAIGN_AGENT_REQUEST_DEADLINE": ("request_deadline", "12.5", 12.5),
    "CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE": ("allow_noninteractive_approve", "1", True),
    "CAMPAIGN_AGENT_CONFIRM_AUDIENCE_OVER": ("confirm_audience_over", "0", 0),
    "CAMPAIGN_AGENT_CONFIRM_TYPED_OVER": ("confirm_typed_over", "7", 7),
    "CAMPAIGN_AGENT_COST_PER_MESSAGE": ("cost_per_message", "0.65", 0.65),
    "CAMPAIGN_AGENT_COUNTRY": ("country", "CO", "CO"),
    "CAMPAIGN_AGENT_STATE_DIR": ("state_dir", "/var/lib/agent", Path("/var/lib/agent")),
}


def plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_read(read: Environment, name: str) -> None:
    field, text, value = NAMES[name]
    assert plain(getattr(read({name: text}), field)) == value


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_read_from_dotenv(read: Environment, name: str) -> None:
    field, text, value = NAMES[name]
    assert plain(getattr(read(dotenv=f'# set by hand\n{name}="{text}"\nUNRELATED=1\n'), field)) == value


def test_the_environment_comes_before_dotenv(read: Environment) -> None:
    settings = read({"PLATICA_WORKSPACE": "ws_env"}, "PLATICA_WORKSPACE=ws_file\nCAMPAIGN_AGENT_LANGUAGE=es\n")
    assert (settings.platica_workspace, settings.language) == ("ws_env", "es")


STRANGERS = [
    ("CAMPAIGN_AGENT_PLATICA_API_KEY", "did you mean PLATICA_API_KEY?"),
    ("CAMPAIGN_AGENT_SELF_APPROVE_UPTO", "did you mean CAMPAIGN_AGENT_SELF_APPROVE_UP_TO?"),
    ("campaign_agent_aprovers", "did you mean CAMPAIGN_AGENT_APPROVERS?"),
    ("CAMPAIGN_AGENT_XYZ", "there is no such setting"),
]


@pytest.mark.parametrize(("name", "told"), STRANGERS)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_name_that_is_none_is_told(read: Environment, name: str, told: str, place: str) -> None:
    """A limit whose name is misspelt would be no limit."""
    with pytest.raises(UsageError) as caught:
        read({name: "hunter2secret"}) if place == "environment" else read({}, f"export {name}=hunter2secret\n")
    assert caught.value.data["setting"] == name.upper()
    assert told in caught.value.data["problem"]
    assert "hunter2secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["APPROVERS", "SELF_APPROVE_UP_TO", "TWO_APPROVERS_OVER", "APPROVAL_TTLS"])
def test_policy_without_its_prefix_is_told(read: Environment, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        read({}, f"{name}=5\n")
    assert caught.value.data["problem"] == f"it must be written CAMPAIGN_AGENT_{name}"
    assert read({}, "# APPROVERS=5\nOTHER=1\n").approvers == Settings.model_fields["approvers"].default


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_is_the_default(read: Environment, name: str) -> None:
    field = NAMES[name][0]
    assert getattr(read({name: ""}), field) == Settings.model_fields[field].default


BAD: dict[str, list[str]] = {
    "PLATICA_BASE_URL": ["api.platica.mx", "ftp://api.platica.mx", "user:hunter2secret@api.platica.mx"],
    "OPENAI_BASE_URL": ["localhost:11434", "sk-hunter2secret"],
    "CAMPAIGN_AGENT_LANGUAGE": ["fr", "ES-hunter2secret"],
    "CAMPAIGN_AGENT_TIMEZONE": ["Mexico/Nowhere", "../../etc/hunter2secret", "America"],
    "CAMPAIGN_AGENT_CONFIRM": ["none", "never"],
    "CAMPAIGN_AGENT_READ_ONLY": ["hunter2secret", "2"],
    "CAMPAIGN_AGENT_APPROVAL_TTL": ["0", "-5", "hunter2secret", "nan", "inf"],
    "CAMPAIGN_AGENT_REQUEST_DEADLINE": ["0", "-1", "30s", "nan"],
    "CAMPAIGN_AGENT_REQUESTS_PER_SECOND": ["0", "-30", "nan", "inf"],
    "CAMPAIGN_AGENT_ALLOW_NONINTERACTIVE_APPROVE": ["maybe-hunter2secret"],
    "CAMPAIGN_AGENT_CONFIRM_AUDIENCE_OVER": ["-1", "1.5", "hunter2secret"],
    "CAMPAIGN_AGENT_CONFIRM_TYPED_OVER": ["0", "-1"],
    "CAMPAIGN_AGENT_MAX_AUDIENCE": ["0"],
    "CAMPAIGN_AGENT_COST_PER_MESSAGE": ["-0.1", "nan", "hunter2secret"],
    "CAMPAIGN_AGENT_COUNTRY": ["mx", "MEX", "hunter2secret"],
    "CAMPAIGN_AGENT_MODEL_RETRIES": ["-1", "hunter2secret"],
    "CAMPAIGN_AGENT_STEP_LIMIT": ["0", "hunter2secret"],
}
BAD_ROWS = [(name, value) for name, values in BAD.items() for value in values]


def check_problem(error: UsageError, name: str, value: str) -> None:
    assert error.code == "usage_setting"
    assert error.data["setting"] == name
    assert error.data["problem"]
    shown = f"{error} {error!r} {error.data} {error.__cause__!r}"
    if not error.__suppress_context__:
        shown += repr(error.__context__)
    # Short values, such as 0, are part of any sentence.
    assert len(value) < 5 or value not in shown, "the value is shown"
    assert "hunter2secret" not in shown


@pytest.mark.parametrize(("name", "value"), BAD_ROWS)
def test_a_bad_value_names_its_setting_and_is_never_shown(read: Environment, name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read({name: value})
    check_problem(caught.value, name, value)


@pytest.mark.parametrize(("name", "value"), BAD_ROWS[::3])
def test_a_bad_value_in_dotenv_is_no_different(read: Environment, name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(dotenv=f"{name}={value}\n")
    check_problem(caught.value, name, value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage", b"PLATICA_WORKSPACE=caf\xe9\n"])
def test_a_dotenv_that_is_no_text_is_a_usage_error(read: Environment, content: bytes) -> None:
    with pytest.raises(UsageError):
        read(dotenv=content)


def test_secrets_are_in_no_repr(read: Environment) -> None:
    settings = read(
        {"PLATICA_API_KEY": KEY, "OPENAI_API_KEY": "sk-hunter2secret", "CAMPAIGN_AGENT_DATABASE_URL": "x://u:hunter2@h"}
    )
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert KEY not in shown
        assert "SECRETSECRET" not in shown
        assert "hunter2" not in shown


def test_settings_are_frozen(read: Environment) -> None:
    with pytest.raises(ValidationError):
        read().confirm = "writes"


def test_no_key_means_the_sandbox_whatever_the_address(read: Environment) -> None:
    settings = read({"PLATICA_BASE_URL": "https://api.example.mx"})
    assert settings.sandboxed
    assert settings.api_url == SANDBOX_URL
    assert settings.key_id == "sandbox"


def test_a_key_means_the_real_thing(read: Environment) -> None:
    settings = read({"PLATICA_API_KEY": KEY})
    assert not settings.sandboxed
    assert settings.api_url == "https://api.platica.mx"
    assert "SECRET" not in settings.key_id


def test_keys_are_told_apart_without_being_shown(read: Environment) -> None:
    first = read({"PLATICA_API_KEY": KEY}).key_id
    assert read({"PLATICA_API_KEY": KEY}).key_id == first
    assert read({"PLATICA_API_KEY": KEY + "2"}).key_id != first


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_BASE_URL"])
def test_a_model_key_or_a_model_address_is_enough(read: Environment, name: str) -> None:
    assert read().offline
    assert not read({name: NAMES[name][1]}).offline


def test_the_zone_is_usable(read: Environment) -> None:
    zone = read({"CAMPAIGN_AGENT_TIMEZONE": "Europe/Madrid"}).zone
    assert str(datetime(2026, 7, 1, 12, tzinfo=zone).utcoffset()) == "2:00:00"
