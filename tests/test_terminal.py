"""The chat in a real terminal: a person types at a pseudo-terminal and reads what comes."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import BUEN_FIN, ENCUESTA

ROOT = Path(__file__).parent.parent


class Person:
    """Types into a terminal of its own, and waits for words on it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.screen = ""
        self._read = 0
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"PYTHONPATH": str(ROOT), "TERM": "xterm", **environment})
            os.execv(sys.executable, [sys.executable, "-m", "agent", *arguments])
        # Wide enough that no sentence is broken over lines.
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

    def sees(self, words: str, seconds: float = 20.0) -> str:
        """Waits until `words` come after what was seen before; returns everything up to them."""
        ends = time.monotonic() + seconds
        while words not in self.screen[self._read :]:
            left = ends - time.monotonic()
            assert left > 0, f"never saw {words!r} in:\n{self.screen[self._read :]}"
            if select.select([self._fd], [], [], min(left, 0.2))[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:
                    data = b""
                assert data, f"the program ended without {words!r}:\n{self.screen[self._read :]}"
                text = re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9]|[=>])", "", data.decode("utf-8", "replace"))
                self.screen += text
                self._answer_queries(data)
        at = self.screen.index(words, self._read) + len(words)
        seen, self._read = self.screen[self._read : at], at
        return seen

    def _answer_queries(self, data: bytes) -> None:
        """A real terminal says where its cursor is when a program asks."""
        for _ in range(data.count(b"\x1b[6n")):
            os.write(self._fd, b"\x1b[1;1R")

    def types(self, text: str) -> None:
        time.sleep(0.15)
        os.write(self._fd, text.encode() + b"\r")

    def presses(self, key: bytes) -> None:
        time.sleep(0.15)
        os.write(self._fd, key)

    def waits(self) -> int:
        """The exit code, once the program ends."""
        ends = time.monotonic() + 15
        while time.monotonic() < ends:
            time.sleep(0.02)
            if select.select([self._fd], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    os.read(self._fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("the program did not end")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def people() -> Iterator[list[Person]]:
    made: list[Person] = []
    yield made
    for person in made:
        person.close()


def effects(home: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(home / "sandbox.db") as database:
        return database.execute("SELECT method, path FROM request_log WHERE acted = 1 ORDER BY seq").fetchall()


def test_a_conversation_with_a_denial_and_a_typed_approval(tmp_path: Path, people: list[Person]) -> None:
    people.append(person := Person("chat"))
    banner = person.sees("/quit to leave.")
    assert "SANDBOX" in banner
    assert "rule-based" in banner
    person.types("list the campaigns")
    person.sees("Promo Verano 2026")
    person.types("clear the audience of Encuesta de satisfacción")
    card = person.sees("type a reason to deny")
    assert "CLEAR the audience" in card
    assert "12" in card
    person.types("not before December")
    person.sees("Denied: not before December")
    assert effects(tmp_path / "home") == []

    person.types("clear the audience of Encuesta de satisfacción")
    person.sees("type a reason to deny")
    person.types("a")
    person.sees("the figure 12")
    person.types("no idea")
    person.sees("Nothing was approved")
    person.sees("type a reason to deny")
    assert effects(tmp_path / "home") == []
    person.types("a")
    person.sees("the figure 12")
    person.types("12")
    person.sees("12 removed")
    assert effects(tmp_path / "home") == [("DELETE", f"/v1/campaigns/{ENCUESTA}/audience")]
    person.types("/quit")
    person.sees("Resume with")
    assert person.waits() == 0


def test_a_card_that_is_left_is_decided_later_and_after_kill_9(tmp_path: Path, people: list[Person]) -> None:
    people.append(first := Person("chat"))
    session = re.search(r"Session (\w+)\.", first.sees("/quit to leave."))
    assert session is not None
    first.types("borra la campaña Buen Fin 2026")
    first.sees("BORRAR la campaña")
    first.sees("para denegar")
    os.kill(first.pid, signal.SIGKILL)

    people.append(second := Person("chat", "--session", session[1]))
    second.sees("BORRAR la campaña")
    second.sees("para denegar")
    second.types("")
    waits = re.search(r"campaign-agent approve (\w+)", second.sees("approve ") + second.sees("\n"))
    assert waits is not None
    second.types("/approvals")
    second.sees("BORRAR la campaña")
    second.sees("para denegar")
    second.types("")
    second.sees("approve ")
    second.sees("›")
    second.presses(b"\x04")
    assert second.waits() == 0
    assert effects(tmp_path / "home") == []

    people.append(third := Person("approve", waits[1], CAMPAIGN_AGENT_LANGUAGE="es"))
    third.sees("BORRAR la campaña")
    third.sees("para denegar")
    third.types("a")
    third.sees("escribe el título")
    third.types("buen fin 2026")
    third.sees("Borrada")
    assert third.waits() == 0
    assert effects(tmp_path / "home") == [("DELETE", f"/v1/campaigns/{BUEN_FIN}")]


def test_a_person_is_told_before_the_question_that_somebody_else_has_to_approve(
    tmp_path: Path, people: list[Person]
) -> None:
    people.append(person := Person("chat", CAMPAIGN_AGENT_APPROVERS="delete_campaign=slack:T1/U1; *=*"))
    person.sees("/quit to leave.")
    person.types("delete the campaign Buen Fin 2026")
    person.sees("DELETE the campaign")
    person.sees("You may not decide approval")
    # Whoever asked may take it back.
    person.sees("type a reason to deny")
    person.types("a")
    person.sees("type the campaign's title")
    person.types("Buen Fin 2026")
    person.sees("[approval_not_entitled]")
    person.sees("›")
    person.types("/approvals")
    person.sees("type a reason to deny")
    person.types("d")
    person.sees("Denied")
    assert effects(tmp_path / "home") == []

    waiting = Person("chat", CAMPAIGN_AGENT_TWO_APPROVERS_OVER="1", CAMPAIGN_AGENT_CONFIRM_TYPED_OVER="1000")
    people.append(waiting)
    waiting.sees("/quit to leave.")
    waiting.types("Send the campaign Recordatorio de cita from Ventas CDMX with the parameters client and November 30")
    waiting.sees("2 different people")
    waiting.sees("type a reason to deny")
    waiting.types("a")
    waiting.sees("Your approval is on record.")
    waiting.sees("›")
    assert effects(tmp_path / "home") == []


def test_control_c_stops_a_turn_and_not_the_session(tmp_path: Path, people: list[Person]) -> None:
    """The model's endpoint takes the connection and never answers."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        people.append(person := Person("chat", OPENAI_BASE_URL=url))
        person.sees("/quit to leave.")
        person.types("list the campaigns")
        taken, _ = silent.accept()
        taken.settimeout(10)
        assert taken.recv(10)
        person.presses(b"\x03")
        person.sees("Stopped")
        person.types("/tools")
        person.sees("clear_campaign_audience")
        person.types("/help")
        person.sees("Ctrl-C")
        person.sees("›")
        person.presses(b"\x04")
        assert person.waits() == 0
        taken.close()


def test_what_was_typed_before_the_card_decides_nothing(tmp_path: Path, people: list[Person]) -> None:
    people.append(person := Person("chat"))
    person.sees("/quit to leave.")
    person.types("remove the phone +525500100011 from the audience of Encuesta de satisfacción\ra")
    person.sees("REMOVE 1 person")
    person.sees("type a reason to deny")
    time.sleep(1.0)
    assert effects(tmp_path / "home") == []
    person.types("a")
    person.sees("Removed from")
    assert len(effects(tmp_path / "home")) == 1
