"""What a turn costs: `python -m evals.bench.turn [--quick] [--only NAME] [--json FILE]`. Exit 1 if a bound is missed.

Everything is compared within one run, in turns, since the machine is shared: read the ratios, not the figures. Mock
services answer at once from processes of their own; each loop runs in a warmed-up process of its own (`peers.py`).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from pydantic_core import to_json

from agent.operations import openai_tools

ROOT = Path(__file__).parent.parent.parent
BARE = (
    "import openai; openai.OpenAI().chat.completions.create("
    "model='mock', messages=[{'role': 'user', 'content': 'hola'}])"
)


@dataclass(frozen=True, slots=True)
class Row:
    """`bound` empty: for information. `data` goes to the JSON file only."""

    name: str
    figure: str
    bound: str = ""
    ok: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        verdict = ("yes" if self.ok else "NO") if self.bound else ""
        return f"{self.name:<44} {self.figure:<58} {self.bound:<14} {verdict}"


class Broken(Exception):
    """Something that is measured did not work."""


class Server:
    """A mock service in a process of its own."""

    def __init__(self, kind: str, env: Mapping[str, str]) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evals.bench.servers", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def stats(self) -> dict[str, float]:
        """CPU seconds since it started; requests, and when the first one came, since the last call."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/_stats", timeout=30) as answer:
            stats: dict[str, float] = json.load(answer)
        return stats

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)


class Worker:
    """One of the loops, in a process of its own."""

    def __init__(self, kind: str, env: Mapping[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evals.bench.peers", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=cwd,
        )

    def do(self, do: str, **more: int) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Broken("a worker ended; its error is above")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


class Bench:
    """The servers, the workers made so far, and a folder that goes at the end."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        env = {name: value for name, value in env.items() if not name.startswith(("CAMPAIGN_AGENT_", "PLATICA_"))}
        self._env = {**env, "PYTHONPATH": str(ROOT)}
        self.model, self.api = Server("model", self._env), Server("api", self._env)
        self._env |= {
            "OPENAI_BASE_URL": f"{self.model.url}/v1",
            "OPENAI_API_KEY": "sk-bench",
            "PLATICA_BASE_URL": self.api.url,
            "PLATICA_API_KEY": "pl_key_bench_secret",
            "CAMPAIGN_AGENT_LANGUAGE": "es",
            "CAMPAIGN_AGENT_MODEL": "mock",
            "CAMPAIGN_AGENT_REQUESTS_PER_SECOND": "1000000",
        }
        self._workers: dict[tuple[str, bool], Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        for server in (self.model, self.api):
            server.close()
        shutil.rmtree(self.folder)

    def env(self, name: str, **more: str) -> dict[str, str]:
        """The environment of a process whose state is in a folder of its own."""
        (self.folder / name).mkdir(exist_ok=True)
        return {**self._env, "CAMPAIGN_AGENT_STATE_DIR": str(self.folder / name), **more}

    def worker(self, kind: str, *, stream: bool = True) -> Worker:
        if (kind, stream) not in self._workers:
            env = self.env(f"{kind}-{stream}", CAMPAIGN_AGENT_STREAM=str(stream).lower())
            worker = self._workers[kind, stream] = Worker(kind, env, self.folder)
            worker.do("turns", before=0, plays=60)
        return self._workers[kind, stream]

    def fsync(self) -> float:
        """Median ms of writing 4 KB and having it on the disk where the journals are."""
        took = []
        with open(self.folder / "fsync", "wb", buffering=0) as file:
            for _ in range(50):
                file.write(bytes(4096))
                start = time.perf_counter()
                os.fsync(file.fileno())
                took.append((time.perf_counter() - start) * 1000)
        return median(took)


# The rows. Each check yields its own.


def cpu(bench: Bench) -> list[Row]:
    """CPU of the client's process for a turn, ours against the plain loop."""
    rows = []
    for stream in (False, True):
        ours, plain = bench.worker("ours", stream=stream), bench.worker("plain", stream=stream)
        for turn, bound in ((1, 0.5), (50, 0.1)):
            before, plays = (0, 6) if turn == 1 else (turn - 2, 2)
            took: dict[str, list[list[float]]] = {"ours": [], "plain": []}
            for _ in range({(1, True): 11, (1, False): 60, (50, True): 3, (50, False): 20}[turn, bench.quick]):
                for name, worker in (("ours", ours), ("plain", plain)):
                    took[name].append(worker.do("turns", before=before, plays=plays))
            # The first after a pause pays for cold caches; a chat's turns come one after the other.
            mine, theirs = (median(ms for each in took[name] for ms in each[1:]) for name in ("ours", "plain"))
            name = f"cpu, turn {turn}, {'streaming' if stream else 'whole answers'}"
            figure = f"{mine:.1f} ms / {theirs:.1f} ms = {mine / theirs:.3f}"
            rows.append(Row(name, figure, f"<= {bound}", mine / theirs <= bound, took))
            if turn > 1:
                cold = median(each[0] for each in took["ours"])
                rows.append(Row(f"  ours after a restart, turn {turn - 1}", f"{cold:.1f} ms (history read back)"))
    opened = _opened(bench, ours), _opened(bench, plain)
    figure = f"{opened[0]} / {opened[1]}"
    rows.append(Row("connections to the model in 10 streams", figure, "<= 1", opened[0] <= 1))
    rows.append(Row("  history of 50 turns", f"{ours.do('size') / 1000:.1f} KB of messages"))
    rows.append(Row("  commits of a turn", f"{ours.do('commits')}"))
    return rows


def _opened(bench: Bench, worker: Worker) -> int:
    """Connections to the model that ten turns, one after the other, opened."""
    bench.model.stats()
    for _ in range(10):
        worker.do("turns", before=0, plays=1)
    return int(bench.model.stats()["opened"])


def growth(bench: Bench) -> list[Row]:
    ours = bench.worker("ours")
    took: dict[int, list[float]] = {5: [], 200: []}
    for _ in range(6 if bench.quick else 40):
        for turn, found in took.items():
            found.append(ours.do("turns", before=turn - 2, plays=2)[-1])
    early, late = median(took[5]), median(took[200])
    figure = f"{early:.2f} ms -> {late:.2f} ms = {late / early:.2f}"
    return [Row("growth, turn 5 to turn 200, streaming", figure, "<= 1.20", late / early <= 1.2, {"ms": took})]


def approval(bench: Bench) -> list[Row]:
    ours, plain = bench.worker("ours"), bench.worker("plain")
    pairs = [(ours.do("approval"), plain.do("approval")) for _ in range(13 if bench.quick else 40)][3:]
    runs = [pair[0] for pair in pairs]
    mid = {name: median(run[name] for run in runs) for name in runs[0]}
    bare = median(pair[1]["wall"] for pair in pairs)
    total = int(mid["pause_commits"] + mid["resume_commits"])
    parts = f"to the card {mid['pause']:.1f}, resume in a fresh loop {mid['resume']:.1f}"
    return [
        Row("approval: pause, persist, reload, resume", f"{mid['wall']:.1f} ms", "<= 20 ms", mid["wall"] <= 20, mid),
        Row("  of which", parts),
        Row("  CPU", f"{mid['cpu']:.1f} ms"),
        Row("  a plain loop that only saves its messages", f"{bare:.1f} ms, {mid['wall'] / bare:.2f} times as much"),
        Row("  commits", f"{total} ({mid['pause_commits']:.0f} + {mid['resume_commits']:.0f})"),
        Row("  the disk's fsync", f"{bench.fsync():.2f} ms"),
    ]


def startup(bench: Bench) -> list[Row]:
    """From the start of the process to its first request at the model."""
    mine = ["-m", "agent", "ask", "hola"]
    took: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(10 if bench.quick else 22):
        for name, arguments in (("ours", mine), ("bare", ["-c", BARE])):
            seconds = _first_request(bench, arguments, bench.env("startup"))
            # The first of each compiles.
            if number:
                took[name].append(seconds * 1000)
    ours, bare = median(took["ours"]), median(took["bare"])
    figure = f"{ours:.0f} ms / {bare:.0f} ms = {ours / bare:.2f}"
    return [Row("start to first model request", figure, "<= 1.5", ours / bare <= 1.5, took)]


def _first_request(bench: Bench, arguments: Sequence[str], env: Mapping[str, str]) -> float:
    bench.model.stats()
    start = time.monotonic()
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=bench.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    first = bench.model.stats()["first"]
    if ran.returncode or not first:
        raise Broken(f"{' '.join(arguments)} ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return first - start


def crowd(bench: Bench) -> list[Row]:
    """200 conversations at once in one process."""
    kinds = ("ours", "plain") if bench.quick else ("ours", "plain", "ours-memory")
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    busy = ""
    for kind in kinds:
        bench.worker(kind).do("crowd", sessions=20 if bench.quick else 200, plays=1)
    for _ in range(1 if bench.quick else 3):
        for kind in kinds:
            before = bench.model.stats()["cpu"], bench.api.stats()["cpu"]
            ran = bench.worker(kind).do("crowd", sessions=200, plays=1 if bench.quick else 2)
            rates[kind].append(ran["rate"])
            served = bench.model.stats()["cpu"] - before[0], bench.api.stats()["cpu"] - before[1]
            if max(served) > ran["cpu"]:
                busy += f" {kind}: client {ran['cpu']:.1f} s, model {served[0]:.1f} s, API {served[1]:.1f} s;"
    ours, plain = median(rates["ours"]), median(rates["plain"])
    memory = "not in a quick run"
    if "ours-memory" in rates:
        memory = f"{median(rates['ours-memory']):.0f} turns/s = {median(rates['ours-memory']) / plain:.2f}"
    figure = f"{ours:.0f} turns/s / {plain:.0f} turns/s = {ours / plain:.2f}"
    return [
        Row("200 sessions at once, streaming", figure, ">= 3", ours / plain >= 3, rates),
        Row("  ours, journal in memory (no fsync)", memory),
        Row("  the disk's fsync", f"{bench.fsync():.2f} ms"),
        Row("  a server used more CPU than the client", busy or "no"),
    ]


def size(bench: Bench) -> list[Row]:
    plain, strict = (len(to_json(openai_tools(strict=strict))) for strict in (False, True))
    return [
        Row("the ten tools as compact JSON", f"{plain:,} bytes", "< 9,216 bytes", plain < 9 * 1024),
        Row("  strict", f"{strict:,} bytes"),
    ]


CHECKS: Sequence[Callable[[Bench], list[Row]]] = (cpu, growth, approval, startup, crowd, size)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m evals.bench.turn", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under a minute")
    parser.add_argument("--only", choices=[check.__name__ for check in CHECKS])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[Row] = []
    print(Row("what", "figure (ours / plain SDK loop)", "bound").line().rsplit(" ", 1)[0], "kept", flush=True)
    with Bench(quick=options.quick) as bench:
        for check in CHECKS:
            if options.only in (None, check.__name__):
                try:
                    found = check(bench)
                except Broken as broken:
                    print(broken, file=sys.stderr)
                    found = [Row(check.__name__, "did not run to its end", "works", False)]
                rows += found
                print("\n".join(row.line().rstrip() for row in found), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
