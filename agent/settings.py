"""The environment, read once into one frozen `Settings`; nothing else in the package reads it."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent.errors import UsageError

VERSION = "0.1.0"

SANDBOX_URL = "http://sandbox.invalid"
"""Where the embedded sandbox seems to be; the reserved name makes sure that nothing real is ever meant."""


def _plain(name: str) -> AliasChoices:
    return AliasChoices(name, name.lower())


class Settings(BaseSettings):
    """Every setting of design section 6. `CAMPAIGN_AGENT_` comes before the names that are ours alone."""

    model_config = SettingsConfigDict(
        env_prefix="CAMPAIGN_AGENT_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    platica_api_key: Annotated[SecretStr | None, Field(validation_alias=_plain("PLATICA_API_KEY"))] = None
    platica_base_url: Annotated[str, Field(validation_alias=_plain("PLATICA_BASE_URL"))] = "https://api.platica.mx"
    platica_workspace: Annotated[str | None, Field(validation_alias=_plain("PLATICA_WORKSPACE"))] = None
    openai_api_key: Annotated[SecretStr | None, Field(validation_alias=_plain("OPENAI_API_KEY"))] = None
    openai_base_url: Annotated[str | None, Field(validation_alias=_plain("OPENAI_BASE_URL"))] = None

    model: str = "gpt-5-mini"
    strict_tools: bool | None = None
    """Strict tool schemas; None: only where they are known to be understood (OpenAI's own endpoint)."""
    stream: bool = True
    model_timeout: Annotated[float, Field(gt=0, le=3600)] = 120.0
    model_retries: Annotated[int, Field(ge=0, le=10)] = 2
    context_bytes: Annotated[int, Field(ge=20_000)] = 80_000
    """How much history goes to the model, at about four bytes a token: a turn costs the same however long ago it began,
    and small local models can follow."""
    step_limit: Annotated[int, Field(ge=1, le=100)] = 12
    """Model answers in one turn."""

    state_dir: Path | None = None
    database_url: SecretStr | None = None
    language: Literal["es", "en", "auto"] = "auto"
    timezone: str = "America/Mexico_City"
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "MX"
    """Of phones written without a country code."""

    confirm: Literal["risky", "writes"] = "risky"
    read_only: bool = False
    confirm_audience_over: Annotated[int, Field(ge=0)] = 50
    confirm_typed_over: Annotated[int, Field(ge=1)] = 100
    max_audience: Annotated[int, Field(ge=1)] = 200_000
    approval_ttl: Annotated[float, Field(gt=0, le=7 * 86400)] = 3600.0
    approval_ttls: str = ""
    """Seconds by operation, where they differ: `send_campaign=900; delete_campaign=600`."""
    approvers: str = ""
    """By operation, `*` for all others: `send_campaign=slack:T1/U1, slack-group:S1; *=slack`. Empty: whoever asks."""
    self_approve_up_to: Annotated[int | None, Field(ge=0)] = None
    """Recipients above which whoever asked for a send may not approve it."""
    two_approvers_over: Annotated[int | None, Field(ge=0)] = None
    """Recipients above which a send needs two different people."""
    request_deadline: Annotated[float, Field(gt=0, le=600)] = 30.0
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Of one key in this process; divide the key's 30 among replicas."""
    allow_noninteractive_approve: bool = False
    cost_per_message: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    cost_currency: str = "MXN"

    slack_bot_token: Annotated[SecretStr | None, Field(validation_alias=_plain("SLACK_BOT_TOKEN"))] = None
    slack_app_token: Annotated[SecretStr | None, Field(validation_alias=_plain("SLACK_APP_TOKEN"))] = None
    slack_signing_secret: Annotated[SecretStr | None, Field(validation_alias=_plain("SLACK_SIGNING_SECRET"))] = None
    slack_api_url: str = "https://slack.com/api/"
    slack_turns: Annotated[int, Field(ge=1, le=1000)] = 16
    """Turns of different threads at the same time, in one process."""
    slack_ping: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Seconds between two signs of life on a socket; without an answer to some of them it is made anew."""
    slack_sweep: Annotated[float, Field(gt=0, le=60)] = 3.0
    """Seconds between two looks at whether cards still show what is so."""

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("it is not a time zone name such as UTC") from None
        return value

    @field_validator("platica_base_url", "openai_base_url", "slack_api_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("it must begin with https:// or http://")
        if value is not None and not _names_host(value):
            raise ValueError("it is not the address of a server")
        # Addresses are shown, logged and stored with every approval. A slash in a password hides the sign from parsers.
        if value is not None and "@" in value:
            raise ValueError("it must hold no user name or password")
        return value.rstrip("/") if value else value

    @field_validator("platica_api_key", "openai_api_key", "slack_bot_token", "slack_app_token", "slack_signing_secret")
    @classmethod
    def _header_value(cls, value: SecretStr | None) -> SecretStr | None:
        """A line end copied with a key would break every request, and libraries quote what they can't send."""
        key = value.get_secret_value().strip() if value is not None else ""
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ValueError("it holds a space or a character that keys don't have")
        return SecretStr(key) if key else None

    @field_validator("database_url")
    @classmethod
    def _database_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(value.get_secret_value())
        except ArgumentError:
            pass  # The journal names it.
        except ValueError:
            # Its words quote what they take for the port, which may be the half of a password.
            raise ValueError("its port is not a number; percent-encode signs such as @ and : in a password") from None
        return value

    @classmethod
    def read(cls) -> Self:
        """From the environment and `.env`. Raises UsageError naming the setting that is wrong, never its value."""
        try:
            cls._no_strangers()
            return cls()
        except (OSError, ValueError) as error:
            if not isinstance(error, ValidationError):
                raise UsageError("setting", setting=".env", problem="it can't be read as UTF-8 text") from None
            first = error.errors(include_input=False, include_url=False)[0]
            where = str(first["loc"][0]) if first["loc"] else "settings"
            known = where if where.isupper() else f"CAMPAIGN_AGENT_{where.upper()}"
            raise UsageError(
                "setting", setting=known, problem=str(first["msg"]).removeprefix("Value error, ")
            ) from None

    @classmethod
    def _no_strangers(cls) -> None:
        """A limit whose name is misspelt is no limit. Raises UsageError."""
        known = {
            f"CAMPAIGN_AGENT_{name.upper()}" for name, field in cls.model_fields.items() if not field.validation_alias
        }
        file = Path(".env").read_text("utf-8") if Path(".env").is_file() else ""
        written = re.findall(r"(?m)^\s*(?:export\s+)?([A-Za-z_]+)\s*=", file)
        for name in map(str.upper, [*os.environ, *written]):
            if name.startswith("CAMPAIGN_AGENT_") and name not in known:
                import difflib

                bare = name.removeprefix("CAMPAIGN_AGENT_")
                near = [bare] if bare.lower() in cls.model_fields else difflib.get_close_matches(name, known, 1, 0.7)
                problem = f"there is no such setting{f'; did you mean {near[0]}?' if near else ''}"
                raise UsageError("setting", setting=name, problem=problem)
        for name in written:
            if name.upper() in _POLICY:
                raise UsageError("setting", setting=name, problem=f"it must be written CAMPAIGN_AGENT_{name.upper()}")

    @property
    def sandboxed(self) -> bool:
        """No key for the campaigns API: the embedded sandbox stands in."""
        return self.platica_api_key is None

    @property
    def offline(self) -> bool:
        """Neither a model key nor a model address: the embedded rule-based model stands in."""
        return self.openai_api_key is None and self.openai_base_url is None

    @property
    def api_url(self) -> str:
        return SANDBOX_URL if self.sandboxed else self.platica_base_url

    @property
    def key_id(self) -> str:
        """The public half of `pl_key_KEYID_SECRET`: enough to tell keys apart, useless to anybody else."""
        if self.platica_api_key is None:
            return "sandbox"
        import hashlib

        # Keys needn't follow the documented form, and a part of one must never be shown by mistake.
        return "key_" + hashlib.sha256(self.platica_api_key.get_secret_value().encode()).hexdigest()[:10]

    def redact(self, text: str) -> str:
        """`text` without the keys of these settings and without anything else that has the form of a key: people paste
        them where they don't belong, and servers quote those that they don't accept."""
        slack = (self.slack_bot_token, self.slack_app_token, self.slack_signing_secret)
        for key in (self.platica_api_key, self.openai_api_key, *slack):
            for part in spellings(key.get_secret_value()) if key else ():
                text = text.replace(part, "[key]")
        return without_keys(text)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def home(self) -> Path:
        """Where the journal and the sandbox live when no other place is set."""
        return self.state_dir or Path.home() / ".campaign-agent"


_POLICY = ("APPROVERS", "SELF_APPROVE_UP_TO", "TWO_APPROVERS_OVER", "APPROVAL_TTLS")
"""Settings that stand in an .env without their prefix only by mistake."""
_KEY_LIKE = re.compile(
    r"(?<![A-Za-z0-9])(?:pl_key_[A-Za-z0-9]+_[A-Za-z0-9_-]{6,}|sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|Bearer [A-Za-z0-9._~+/=-]{12,}|(?<=://)[^\s/:@]+:[^\s/@]+(?=@))"
)
"""Keys of Plática, of model endpoints and of Slack, an Authorization header, user and password of an address."""


def _names_host(address: str) -> bool:
    """Whether an address has a host, and a port that is one, if any. What Python says of a bad one would quote it."""
    from ipaddress import IPv6Address

    try:
        parts = urlsplit(address)
        if parts.hostname and "[" in parts.netloc:
            IPv6Address(parts.hostname)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"[\x00-\x20\x7f]", address)
    except ValueError:
        return False


def without_keys(text: str) -> str:
    """`text` without anything that has the form of a key or a password, whoever it belongs to."""
    return _KEY_LIKE.sub("[key]", text)


def spellings(key: str) -> tuple[str, ...]:
    """A key, and the half of `pl_key_KEYID_SECRET` that is secret, as they are and as they stand in an address."""
    half = re.sub(r"^pl_key_[^_]+_", "", key)
    parts = (key, half if len(half) >= 8 else key)
    return tuple(dict.fromkeys(form for part in parts for form in (part, quote(part, safe=""))))


def machine_language() -> Literal["es", "en"]:
    """The language of the machine's user, for what is said before anybody has written anything."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "en" if value.lower().startswith("en") else "es"
    return "es"
