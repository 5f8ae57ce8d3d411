"""A sandbox.db that can't be used is told by code, file and remedy, as the journal's is."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agent.cli import run
from agent.errors import DatabaseFull
from agent.interfaces.embedded import Embedded


def spoil(home: Path, how: str) -> None:
    home.mkdir(parents=True)
    if how == "directory":
        (home / "sandbox.db").mkdir()
    else:
        (home / "sandbox.db").write_bytes(b"x" + os.urandom(4095))


@pytest.mark.parametrize(("how", "code"), [("garbage", "database_corrupt"), ("directory", "database_unavailable")])
@pytest.mark.parametrize("command", [["call", "list_campaigns", "{}"], ["ask", "lista las campañas"], ["sandbox"]])
def test_a_sandbox_database_that_cannot_be_used_is_told_by_code_and_file(
    how: str, code: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tmp_path / "home", how)
    assert run([*command, "--port", "0"] if command == ["sandbox"] else command) == 1
    printed = capsys.readouterr()
    assert f"[{code}]" in printed.out + printed.err
    assert "sandbox.db" in printed.out + printed.err
    assert not list((tmp_path / "home").glob("crash*"))


def test_the_doctor_reports_a_damaged_sandbox_database_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tmp_path / "home", "garbage")
    assert run(["doctor"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert len(failed) == 3
    assert all("sandbox.db" in line for line in failed)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_new_database_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["call", "list_campaigns", "{}"]
    assert run(command) == 0
    capsys.readouterr()
    for file in (tmp_path / "home").glob("sandbox.db*"):
        file.unlink()
    with files_of_at_most(64 * 1024):
        assert run(command) == 1
    printed = capsys.readouterr()
    assert "[database_full]" in printed.out + printed.err
    assert "sandbox.db" in printed.out + printed.err


@pytest.mark.asyncio
async def test_no_room_for_a_request_is_named_too(tmp_path: Path) -> None:
    sandbox = Embedded(tmp_path / "sandbox.db")
    async with httpx.AsyncClient(transport=sandbox, base_url="http://sandbox") as client:
        assert (await client.get("/v1/campaigns")).status_code == 401
        with files_of_at_most(4096), pytest.raises(DatabaseFull, match=r"sandbox\.db"):
            await client.get("/v1/campaigns")
