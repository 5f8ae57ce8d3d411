"""Recordings: made and replayed with vcrpy, one file a run; stale when anything that the model saw has changed."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import openai
import yaml
from vcr import VCR  # type: ignore[import-untyped]
from vcr.cassette import Cassette  # type: ignore[import-untyped]
from vcr.errors import CannotOverwriteExistingCassetteException  # type: ignore[import-untyped]
from vcr.patch import PATCHER_NAMES  # type: ignore[import-untyped]
from vcr.persisters.filesystem import CassetteNotFoundError  # type: ignore[import-untyped]
from vcr.record_mode import RecordMode  # type: ignore[import-untyped]
from vcr.serialize import deserialize, serialize  # type: ignore[import-untyped]

from agent.domain import Json
from agent.model import OpenAIModel, connect
from agent.operations import openai_tools
from agent.prompts import words
from agent.settings import without_keys
from evals.case import ROOT, Case
from evals.wire import URI, Loader, Serializer, Texts, normal_response, sha256, tools_text

CASSETTES = ROOT / "cassettes"
REPLAY_URL = URI.removesuffix("/chat/completions")
LARGEST = 150_000
"""Bytes of one recording."""
PHONES = re.compile(
    r"(?<![0-9A-Za-z])\+?52(?:[ .()-]{0,2}[0-9]){10,11}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Za-z+])(?:55|33|81)(?:[ -]?[0-9]){8}(?![0-9A-Za-z])"
)
"""Mexican numbers as people write them, with the country's code, or national ones of the three large cities."""
INVENTED = re.compile(r"\+?521?(?:[0-9]{2}0010|[0-9]{3}00[12])[0-9]{4}")
"""Every Mexican number of the sandbox and of the cases is one of these, which nobody has."""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:EAA[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16}"
    r"|AIza[0-9A-Za-z_-]{30,}|gsk_[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{20,}|[prs]k_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,})"
)
"""Keys that other services give out: of Meta, GitHub, Amazon, Google, Groq, Hugging Face, Stripe, and signed tokens."""
_MACHINE = re.compile(r"https?://(?:localhost|127\.|10\.|192\.168\.|\[)|(?<![\w.])/(?:home|root|work|Users|tmp)/")


class Stale(Exception):
    """A recording of something else than what would be asked today."""


class NotRecorded(Exception):
    """A run that can't be kept as a recording; says why."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how; `how` says in the metadata what answered: "api" or "relay"."""

    base_url: str | None
    key: str
    model: str
    stream: bool = True
    strict_tools: bool = False
    how: str = "api"
    timeout: float = 120.0

    def connect(self) -> OpenAIModel:
        """The program's own client; no retries, so that what is recorded was asked once."""
        # Certificates take 40 ms to load, and only a host that is there has any.
        verify = not (self.base_url or "https:").startswith(("http:", REPLAY_URL))
        client = connect(key=self.key, base_url=self.base_url, timeout=self.timeout, retries=0, verify=verify)
        tools = tools_of(self.strict_tools)
        return OpenAIModel(client, self.model, tools, stream=self.stream, deadline=self.timeout * 2)


@cache
def tools_of(strict: bool) -> list[dict[str, Json]]:
    """The same for every recording of a run, and dear to make."""
    return openai_tools(strict=strict)


@dataclass
class Tape:
    """A cassette at work, and the texts that its requests held."""

    cassette: Cassette
    texts: Texts = field(default_factory=Texts)


@contextlib.contextmanager
def _inserted(path: Path, mode: RecordMode) -> Iterator[Tape]:
    texts = Texts()
    vcr = VCR(
        record_mode=mode,
        match_on=("method", "uri", "body"),
        before_record_request=texts.normal,
        before_record_response=normal_response,
        decode_compressed_response=True,
        record_on_exception=False,
        # The campaigns API is the live sandbox, over another library.
        skip_patchers=[name for name in PATCHER_NAMES if name != "aiohttp"],
    )
    vcr.register_serializer("evals", Serializer)
    vcr.register_persister(_Utf8)
    with vcr.use_cassette(str(path), serializer="evals") as cassette:
        yield Tape(cassette, texts)


class _Utf8:
    """vcrpy's persister, whatever the locale's encoding."""

    @classmethod
    def load_cassette(cls, cassette_path: str, serializer: Any) -> Any:
        if not Path(cassette_path).is_file():
            raise CassetteNotFoundError
        return deserialize(Path(cassette_path).read_text("utf-8"), serializer)

    @staticmethod
    def save_cassette(cassette_path: str, cassette_dict: dict[str, Any], serializer: Any) -> None:
        Path(cassette_path).write_text(serialize(cassette_dict, serializer), "utf-8")


@dataclass(frozen=True)
class Shelf:
    """Where recordings lie: `cassettes/SUITE/CASE.yaml`, `CASE.2.yaml`, ...; `prompts/` holds their texts."""

    root: Path = CASSETTES

    def path(self, case: str, trial: int) -> Path:
        return self.root / f"{case}.yaml" if trial == 1 else self.root / f"{case}.{trial}.yaml"

    def trials(self, case: Case) -> list[int]:
        """The numbers of a case's recordings, in order."""
        found = (self.root / case.suite).glob(f"{case.name}.*yaml")
        names = [re.fullmatch(r"(?:\.([0-9]+))?\.yaml", path.name.removeprefix(case.name)) for path in found]
        return sorted(int(name[1] or 1) for name in names if name)

    def metadata(self, case: str, trial: int) -> dict[str, Json]:
        data: dict[str, Json] = yaml.load(self.path(case, trial).read_text("utf-8"), Loader=Loader)["metadata"]
        return data

    @contextlib.contextmanager
    def replay(self, case: Case, trial: int) -> Iterator[Tape]:
        """Raises Stale, naming the case and what to do, also for requests that were recorded and not made."""
        again = f"re-record: python -m evals run {case.suite} --case {case.id} --record"
        if reasons := stale(case, self.metadata(case.id, trial)):
            raise Stale(f"stale: {case.id} (recording {trial}): {'; '.join(reasons)}; {again}")
        try:
            with _inserted(self.path(case.id, trial), RecordMode.NONE) as tape:
                yield tape
        except CannotOverwriteExistingCassetteException as error:
            raise Stale(f"stale: {case.id} (recording {trial}): {_difference(error)}; {again}") from None
        if not tape.cassette.all_played:
            played, whole = tape.cassette.play_count, len(tape.cassette)
            raise Stale(f"stale: {case.id} (recording {trial}): {played} of {whole} recorded calls were used; {again}")

    @contextlib.contextmanager
    def record(self, case: Case, trial: int, endpoint: Endpoint) -> Iterator["Take"]:
        """Kept in its place only when the block ends well and `Take.keep` was called. Raises NotRecorded."""
        with tempfile.TemporaryDirectory(prefix="evals-") as folder:
            path = Path(folder, "take.yaml")
            with _inserted(path, RecordMode.ALL) as tape:
                take = Take(tape, case, trial, endpoint)
                yield take
            if not take.kept:
                return
            text = path.read_text("utf-8")
            if why := unfit(text, secret=endpoint.key):
                raise NotRecorded(f"{case.id}: {'; '.join(why)}")
            tape.texts.store(self.root / "prompts")
            place = self.path(case.id, trial)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, "utf-8")

    def prune(self) -> None:
        """Removes texts that no recording uses any more."""
        found = [self.metadata(str(path.relative_to(self.root).with_suffix("")), 1) for path in self._files()]
        used = {name for one in found for name in (*(f"{sha}.md" for sha in one["prompts"]), f"{one['tools']}.json")}
        for path in (self.root / "prompts").glob("*.*"):
            if path.name not in used:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.root.glob("*/*.yaml"))

    def problems(self, cases: Mapping[str, Case]) -> list[str]:
        """What is wrong with the recordings as files: of no case, too large, with secrets, or without their texts."""
        lines, used = [], set()
        for path in self._files():
            case, text = f"{path.parent.name}/{re.sub(r'[.][0-9]+$', '', path.stem)}", path.read_text("utf-8")
            if case not in cases:
                lines.append(f"{path.parent.name}/{path.name}: there is no such case")
            lines += [f"{path.parent.name}/{path.name}: {why}" for why in unfit(text)]
            metadata = yaml.load(text, Loader=Loader)["metadata"]
            lines += [f"{path.parent.name}/{path.name}: no {name}" for name in _METADATA if name not in metadata]
            used |= {f"{sha}.md" for sha in metadata["prompts"]} | {f"{metadata['tools']}.json"}
        stored = {path.name: path for path in (self.root / "prompts").glob("*.*")}
        lines += [f"prompts/{name}: missing" for name in sorted(used - set(stored))]
        lines += [f"prompts/{name}: no recording uses it" for name in sorted(set(stored) - used)]
        wrong = [name for name, path in stored.items() if sha256(path.read_text("utf-8")) != path.stem]
        return lines + [f"prompts/{name}: it isn't the text of that hash" for name in sorted(wrong)]


_METADATA = (
    "case", "case_sha", "trial", "model", "how", "recorded_at", "openai", "stream", "strict_tools", "prompts", "tools",
    "seconds", "usage",
)  # fmt: skip


@dataclass
class Take:
    """A recording under way."""

    tape: Tape
    case: Case
    trial: int
    endpoint: Endpoint
    kept: bool = False

    def keep(self, *, seconds: float, usage: Mapping[str, int]) -> None:
        (tools,) = self.tape.texts.tools
        values = {
            "case": self.case.id,
            "case_sha": self.case.sha,
            "trial": self.trial,
            "model": self.endpoint.model,
            "how": self.endpoint.how,
            "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "openai": openai.__version__,
            "stream": self.endpoint.stream,
            "strict_tools": self.endpoint.strict_tools,
            "prompts": sorted(self.tape.texts.prompts),
            "tools": tools,
            "seconds": round(seconds, 1),
            "usage": dict(usage),
        }
        for name, value in values.items():
            self.tape.cassette.get_metadata(name, value)
        self.kept = True


def replayed(metadata: Mapping[str, Any]) -> Endpoint:
    """As it was asked when it was recorded; nothing is at that address."""
    model, stream, strict = metadata["model"], metadata["stream"], metadata["strict_tools"]
    return Endpoint(REPLAY_URL, "replay", model, stream, strict, metadata["how"])


def stale(case: Case, metadata: Mapping[str, Any]) -> list[str]:
    """What has changed since a recording was made, told by hashes."""
    reasons = []
    read_only = case.world.settings.read_only
    prompts = {sha256(words(language, case.zone).system(read_only=read_only)) for language in ("es", "en")}
    if not set(metadata["prompts"]) <= prompts:
        reasons.append("the system prompt has changed")
    if metadata["tools"] != sha256(tools_text(tools_of(metadata["strict_tools"]))):
        reasons.append("the tool schemas have changed")
    if metadata["case_sha"] != case.sha:
        reasons.append("the case has changed in what is said, decided or there")
    return reasons


def unfit(text: str, *, secret: str = "") -> list[str]:
    """Why a recording must not be kept: its size, keys, phones that somebody may have, names of a machine."""
    lines = []
    if (size := len(text.encode())) > LARGEST:
        lines.append(f"{size} bytes, more than {LARGEST}")
    if without_keys(text) != text or _TOKEN.search(text) or (len(secret) >= 8 and secret in text):
        lines.append("it holds a key")
    real = [phone for phone in PHONES.findall(text) if not _is_invented(phone)]
    lines += [f"{phone} may be somebody's phone" for phone in sorted(set(real))]
    lines += [f"it names this machine: {found!r}" for found in sorted(set(_MACHINE.findall(text)))]
    return lines


def _is_invented(phone: str) -> bool:
    digits = re.sub(r"[^0-9]", "", phone)
    return INVENTED.fullmatch(digits if len(digits) > 10 else f"52{digits}") is not None


def _difference(error: Exception) -> str:
    """Where a request first differs from the nearest recorded one."""
    text = str(error).partition("body differs:")[2] or str(error)
    text = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
    return f"a request differs from the recorded one: {' '.join(text.split())[:600]}"
