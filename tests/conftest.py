"""Every test: no settings from outside, no network but loopback, nothing written outside a temporary folder."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PLATICA_", "OPENAI_", "CAMPAIGN_AGENT_", "LC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("CAMPAIGN_AGENT_STATE_DIR", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
