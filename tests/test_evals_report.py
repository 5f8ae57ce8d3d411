"""The report in a real Chromium, driven over its own protocol: filters, transcripts, comparison, keyboard, looks."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from evals.__main__ import app
from evals.cassettes import Shelf
from evals.report import write_report
from evals.runner import Result
from tests.test_evals_recording import ANSWERS, case, recorded

MARKUP = '<script>window.owned = true</script><img src=x onerror="window.owned = true">'
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """A tab of a headless Chromium. `told` is everything that it complained of, `asked` every address it wanted."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number, self._session = socket, 0, ""
        self.told: list[str] = []
        self.asked: list[str] = []
        self.loaded = False

    async def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json({**message, **({"sessionId": self._session} if self._session else {})})
        while True:
            answer = await self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    async def _next(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._socket.receive_str(timeout=30))
        match answer.get("method"):
            case "Runtime.exceptionThrown" | "Log.entryAdded":
                self.told.append(json.dumps(answer["params"]))
            case "Runtime.consoleAPICalled":
                self.told.append(json.dumps(answer["params"]["args"]))
            case "Network.requestWillBeSent":
                self.asked.append(answer["params"]["request"]["url"])
            case "Page.loadEventFired":
                self.loaded = True
        return answer

    async def attach(self) -> None:
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")

    async def open(self, path: Path, fragment: str = "") -> None:
        self.loaded = False
        await self.send("Page.navigate", url=path.as_uri() + fragment)
        while not self.loaded:
            await self._next()

    async def js(self, expression: str) -> Any:
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Tab": 9}.get(key, 0)
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    async def choose(self, name: str, value: str) -> list[str]:
        """Sets a filter as a person does, and the ids of the cases that are then shown."""
        await self.js(
            f"var it = document.querySelector('[name={name}]'); it.value = {json.dumps(value)};"
            "it.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        return await self.shown()

    async def shown(self) -> list[str]:
        ids: list[str] = await self.js(
            "[...document.querySelectorAll('details.case')].filter(one => one.checkVisibility()).map(one => one.id)"
        )
        return ids


def chromium() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("The report is tested in Chromium and there is none: apt-get install chromium")
    return found


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """No other program takes part: Chromium says where it listens, and speaks JSON over a socket."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    where = ("--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank")
    process = await asyncio.create_subprocess_exec(
        chromium(), *flags, *where, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        url, lines = None, []
        while url is None and (line := await asyncio.wait_for(process.stderr.readline(), 60)):
            lines.append(line.decode())
            url = re.search(r"listening on (ws://\S+)", lines[-1])
        assert url is not None, f"Chromium did not start: {''.join(lines)}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url[1], max_msg_size=0) as socket:
            made = Page(socket)
            await made.attach()
            yield made
    finally:
        process.kill()
        await process.communicate()


async def results(folder: Path, answers: list[Any], **changes: Any) -> Result:
    result, _ = await recorded(Shelf(folder), answers, made=case(**changes))
    return result


def run(*found: Result) -> dict[str, Any]:
    return json.loads(json.dumps({"made_at": "2026-11-25T18:00:00+00:00", "results": [one.dump() for one in found]}))


@pytest.fixture
async def before(tmp_path: Path) -> dict[str, Any]:
    """Three cases: one passes, one fails, one has markup in everything that somebody else can write."""
    good = await results(tmp_path, ANSWERS)
    remove = {"tool": "remove_campaign_audience_client", "arguments": {"campaignId": "cmpEncuestaSatisfac1"}}
    expect = {"sends": 0, "calls": [remove]}
    only: dict[str, Any] = {"expect": expect, "turns": [{"say": "remove them"}]}
    bad = await results(tmp_path, ["No sé."], id="other/says-nothing", suite="other", language="en", **only)
    only["turns"] = [{"say": MARKUP}]
    odd = await results(tmp_path, [MARKUP], id="lab/markup", note=MARKUP * 2, tags=["attack"], **only)
    assert (good.status, bad.status, odd.status) == ("passed", "failed", "failed")
    return run(good, bad, odd)


async def test_filters_show_what_they_say_and_nothing_else(page: Page, before: dict[str, Any], tmp_path: Path) -> None:
    write_report([before], ["results.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html")
    every = ["lab--markup", "lab--two-turns", "other--says-nothing"]
    assert await page.shown() == every
    assert await page.choose("suite", "lab") == every[:2]
    assert await page.choose("outcome", "passed") == ["lab--two-turns"]
    assert await page.js("document.getElementById('count').textContent") == "1 of 3 cases"
    assert await page.choose("suite", "other") == []
    assert await page.js("document.getElementById('none').checkVisibility()") is True
    await page.choose("suite", "")
    assert await page.choose("outcome", "") == every
    assert await page.choose("language", "en") == ["other--says-nothing"]
    await page.choose("language", "")
    assert await page.choose("text", "GABRIELA ortiz") == ["lab--two-turns"]
    assert page.told == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []


async def test_a_transcript_opens_by_keyboard_and_shows_cards_and_decisions(
    page: Page, before: dict[str, Any], tmp_path: Path
) -> None:
    write_report([before], ["results.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html")
    shown = "document.querySelector('#lab--two-turns .card').checkVisibility()"
    assert await page.js(shown) is False
    # From the search field by Tab, past two buttons and a case.
    await page.js("document.querySelector('[name=text]').focus()")
    for _ in range(4):
        await page.press("Tab")
    assert await page.js("document.activeElement.parentElement.id") == "lab--two-turns"
    await page.press("Enter")
    assert await page.js(shown) is True
    text = await page.js("document.querySelector('#lab--two-turns .body').innerText")
    assert "quita a Gabriela Ortiz, 55 0010 0011" in text
    assert "Card 1 approved" in text
    assert "remove_campaign_audience_client" in text
    assert "525500100011" in await page.js("document.querySelector('#lab--two-turns .card .paper').innerText")
    wrong = await page.js("document.querySelector('#other--says-nothing .problems').textContent")
    assert "remove_campaign_audience_client" in wrong
    assert page.told == []


async def test_what_others_wrote_is_text(page: Page, before: dict[str, Any], tmp_path: Path) -> None:
    write_report([before], [f"{MARKUP}.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html", "#lab--markup")
    assert await page.js("document.getElementById('lab--markup').open") is True
    assert await page.js("window.owned === undefined") is True
    assert await page.js("document.querySelectorAll('img, main script').length") == 0
    said = await page.js("document.querySelector('#lab--markup .person').innerText")
    assert MARKUP in said
    assert page.told == []


async def test_two_runs_stand_side_by_side(page: Page, before: dict[str, Any], tmp_path: Path) -> None:
    worse = await results(tmp_path, [*ANSWERS[:2], "No quito a nadie."])
    after = run(worse, *[Result(**one) for one in before["results"][1:]])
    write_report([before, after], ["before.json", "after.json"], tmp_path / "report.html")
    await page.send("Emulation.setDeviceMetricsOverride", width=1300, height=900, deviceScaleFactor=1, mobile=False)
    await page.open(tmp_path / "report.html", "#lab--two-turns")
    assert await page.choose("change", "worse") == ["lab--two-turns"]
    assert await page.choose("change", "same") == ["lab--markup", "other--says-nothing"]
    await page.choose("change", "")
    columns = "[...document.querySelectorAll('#lab--two-turns .sides > div')]"
    left, right = await page.js(f"{columns}.map(one => one.innerText)")
    assert "Card 1 approved" in left
    assert "Card 1 approved" not in right
    assert "No quito a nadie." in right
    assert await page.js(f"{columns}.every((one, at, all) => one.offsetTop === all[0].offsetTop)") is True
    row = await page.js("[...document.querySelectorAll('#compared tbody tr')].map(one => one.innerText)")
    assert any("lab" in one and "50%" in one and "0%" in one and "-50 points" in one for one in row), row
    assert page.told == []


def of(model: str, case: str, status: Any, **more: Any) -> Result:
    known: dict[str, Any] = {"suite": "lab", "language": "es", "tags": [], "note": "", "trial": 1, "problems": []}
    return Result(case=case, model=model, status=status, **{**known, **more})


_TABLE = "[...document.querySelectorAll('{} tbody tr')].map(one => [...one.cells].map(cell => cell.innerText.trim()))"


async def test_a_gate_violation_is_seen_whatever_became_of_the_run(page: Page, tmp_path: Path) -> None:
    past: dict[str, Any] = {"gate_violations": ["POST /v1/campaigns/x/send arrived without an approval"]}
    found = [
        of("m", "lab/solution", "error", how="solution", **past),
        of("m", "lab/stale", "stale", **past),
        of("m", "lab/known", "failed", known="It is known to fail.", **past),
        of("m", "lab/good", "passed"),
    ]
    write_report([{**run(*found), "repeat": 2}], ["results.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html")
    heads = await page.js("[...document.querySelectorAll('.metrics thead th')].map(one => one.innerText)")
    rows = await page.js(_TABLE.format(".metrics"))
    told = [
        [row[heads.index(name)] for name in ("Runs", "Stale or error", "Success", "Gate violations")] for row in rows
    ]
    assert told == [["4", "2", "25%", "3"]] * 2
    assert {row[heads.index("pass^k")] for row in rows} == {"– (k=2, 0 cases)"}
    assert await page.choose("outcome", "gate") == ["lab--known", "lab--solution", "lab--stale"]
    assert "no model" in await page.js("document.querySelector('#lab--solution .figures').textContent")
    assert page.told == []


async def test_models_of_one_file_are_not_taken_for_each_other(page: Page, tmp_path: Path) -> None:
    """Two runs of one model each are compared, whichever these are; of several, each is compared with itself."""
    one, two = of("ada", "lab/x", "passed"), of("bea", "lab/x", "failed")
    write_report([run(one, two), run(two, one)], ["a.json", "b.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html")
    rows = await page.js(_TABLE.format("#compared"))
    assert [row[:6] for row in rows] == [
        ["lab", "ada", "es", "100%", "100%", "+0 points"],
        ["lab", "bea", "es", "0%", "0%", "+0 points"],
        ["All suites", "ada", "all", "100%", "100%", "+0 points"],
        ["All suites", "bea", "all", "0%", "0%", "+0 points"],
    ]
    write_report([run(one), run(two)], ["a.json", "b.json"], tmp_path / "report.html")
    await page.open(tmp_path / "report.html")
    rows = await page.js(_TABLE.format("#compared"))
    assert [row[:6] for row in rows] == [
        ["lab", "ada → bea", "es", "100%", "0%", "-100 points"],
        ["All suites", "ada → bea", "all", "100%", "0%", "-100 points"],
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1300])
async def test_it_is_readable_light_and_dark_wide_and_narrow(
    page: Page, before: dict[str, Any], tmp_path: Path, scheme: str, width: int
) -> None:
    write_report([before, before], ["before.json", "after.json"], tmp_path / "report.html")
    await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    await page.open(tmp_path / "report.html")
    await page.js("document.getElementById('open').click()")
    assert await page.js("document.documentElement.scrollWidth <= window.innerWidth") is True
    assert await page.js(_FAINT) == []
    dark = await page.js("getComputedStyle(document.body).backgroundColor === 'rgb(20, 23, 21)'")
    assert dark is (scheme == "dark")


_FAINT = """
(() => {
  const parts = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
  const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const share = [0.2126, 0.7152, 0.0722];
  const light = (rgb) => rgb.slice(0, 3).reduce((sum, c, at) => sum + linear(c / 255) * share[at], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const found = parts(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.body.querySelectorAll("*")) {
    if (!one.checkVisibility() || one.matches("script, option")) continue;
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const [a, b] = [light(parts(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(one.className + ": " + one.textContent.trim().slice(0, 40));
  }
  return faint;
})()
"""
"""Texts whose contrast with what is behind them is below 4.5 to 1."""


def test_the_report_command_takes_one_or_two_results(before: dict[str, Any], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    (tmp_path / "a.json").write_text(json.dumps(before), "utf-8")
    made = CliRunner().invoke(app, ["report", str(tmp_path / "a.json"), "--out", str(tmp_path / "page.html")])
    assert made.exit_code == 0, made.output
    assert "lab" in made.output
    assert "lab/two-turns" in (tmp_path / "page.html").read_text("utf-8")
    twice = [str(tmp_path / "a.json")] * 3
    assert CliRunner().invoke(app, ["report", *twice]).exit_code == 2
