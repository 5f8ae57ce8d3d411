"""Statements of SQLAlchemy Core, compiled once for each dialect and run on the driver's own cursor.

What is said to the database is Core's. Its own way of running it costs ten times what SQLite does, thirty times a turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class _Compiled:
    """`fixed` are values that the statement brings; `order` of all names, where the driver wants them by position."""

    statement: Any
    sql: str
    fixed: Mapping[str, Any]
    order: Sequence[str] | None

    def values(self, given: Mapping[str, Any]) -> Any:
        both = {**self.fixed, **given} if self.fixed else given
        return both if self.order is None else [both[name] for name in self.order]


_COMPILED: dict[tuple[int, str, tuple[str, ...]], _Compiled] = {}
"""By the statement's identity; each is kept with what came of it, so that no other ever gets its place."""


def run(connection: sa.Connection, statement: Any, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows that a statement gives, or none. Raises what SQLAlchemy would.

    No IN with a list of any length: it would be part of the words.
    """
    compiled = _compiled(connection, statement, values)
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(compiled.sql, compiled.values(values))
        return cursor.fetchall() if cursor.description is not None else []
    except connection.dialect.loaded_dbapi.Error as error:
        raise _named(connection, compiled, error) from error
    finally:
        cursor.close()


def run_all(connection: sa.Connection, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """One statement for each of the rows, which all have the same names."""
    if not rows:
        return
    compiled = _compiled(connection, statement, rows[0])
    cursor: Any = connection.connection.cursor()
    try:
        cursor.executemany(compiled.sql, [compiled.values(row) for row in rows])
    except connection.dialect.loaded_dbapi.Error as error:
        raise _named(connection, compiled, error) from error
    finally:
        cursor.close()


def _compiled(connection: sa.Connection, statement: Any, values: Mapping[str, Any]) -> _Compiled:
    key = id(statement), connection.dialect.name, tuple(values)
    found = _COMPILED.get(key)
    if found is None:
        made = statement.compile(dialect=connection.dialect, column_keys=list(values))
        order = list(made.positiontup) if made.positional else None
        fixed = {name: value for name, value in made.params.items() if name not in values}
        found = _COMPILED[key] = _Compiled(statement, str(made), fixed, order)
    return found


def _named(connection: sa.Connection, compiled: _Compiled, error: Exception) -> Exception:
    """A driver's error as SQLAlchemy's, without the values, which may be anybody's."""
    base = connection.dialect.loaded_dbapi.Error
    return sa.exc.DBAPIError.instance(compiled.sql, None, error, base, hide_parameters=True, dialect=connection.dialect)
