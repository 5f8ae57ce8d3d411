"""What a case expects of one value, and whether a value is that; everything is compared in full, nothing loosely."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.domain import Json

Resolve = Callable[[str], str | None]
"""The id of the campaign that was created with a title, in this run."""

MATCHERS = {
    "one_of": "any of these",
    "set": "a list of exactly these, in any order",
    "time": "the same moment, however it is written",
    "regex": "the whole text matches",
    "optional": "absent, or this",
    "created": "the id of the campaign that this run created with this title",
    "anything": "whatever it is; true",
}
"""A mapping whose one key is one of these is a matcher; any other mapping is an object with exactly these fields."""


def matcher(expected: Json) -> tuple[str, Json] | None:
    """The matcher that `expected` is, with what it holds; None for a plain value."""
    if isinstance(expected, Mapping) and len(expected) == 1:
        ((name, inner),) = expected.items()
        if name in MATCHERS:
            return str(name), inner
    return None


def problem(expected: Json) -> str | None:
    """Why `expected` can't be used; None when it can."""
    found = matcher(expected)
    if found is None:
        if isinstance(expected, Mapping):
            return next((why for value in expected.values() if (why := problem(value))), None)
        return next((why for value in expected if (why := problem(value))), None) if _is_list(expected) else None
    name, inner = found
    match name:
        case "one_of" | "set":
            if not _is_list(inner) or not inner:
                return f"{name} needs a list"
            return problem(list(inner))
        case "time":
            return None if _moment(inner) else f"{inner!r} is not an ISO 8601 time with an offset"
        case "regex":
            return _pattern_problem(inner)
        case "created":
            return None if isinstance(inner, str) and inner else "created needs a title"
        case "anything":
            return None if inner is True else "anything is written anything: true"
    return problem(inner)


def _pattern_problem(text: Json) -> str | None:
    try:
        re.compile(text)
    except (re.error, TypeError) as error:
        return f"{text!r} is not a regular expression: {error}"
    return None


def differences(expected: Json, actual: Json, resolve: Resolve, where: str = "") -> list[str]:
    """What of `actual` isn't as `expected`, in both directions; empty when it is."""
    if (found := matcher(expected)) is not None:
        return _matched(*found, actual, resolve, where)
    if isinstance(expected, Mapping):
        return _object(expected, actual, resolve, where)
    if _is_list(expected):
        if not _is_list(actual) or len(actual) != len(expected):
            return [f"{where or 'value'}: expected {len(expected)} items {_show(expected)}, got {_show(actual)}"]
        pairs = enumerate(zip(expected, actual, strict=True))
        return [line for at, (want, have) in pairs for line in differences(want, have, resolve, f"{where}[{at}]")]
    same = type(expected) is type(actual) and expected == actual
    return [] if same else [f"{where or 'value'}: expected {_show(expected)}, got {_show(actual)}"]


def _object(expected: Mapping[str, Json], actual: Json, resolve: Resolve, where: str) -> list[str]:
    if not isinstance(actual, Mapping):
        return [f"{where or 'value'}: expected an object, got {_show(actual)}"]
    lines = []
    for name, want in expected.items():
        place = f"{where}.{name}" if where else name
        if name in actual:
            lines += differences(want, actual[name], resolve, place)
        elif not _may_be_absent(want):
            lines.append(f"{place}: missing, expected {_show(want)}")
    for name in actual:
        if name not in expected:
            lines.append(f"{f'{where}.{name}' if where else name}: not expected, got {_show(actual[name])}")
    return lines


def _may_be_absent(expected: Json) -> bool:
    found = matcher(expected)
    return found is not None and found[0] == "optional"


def _matched(name: str, inner: Json, actual: Json, resolve: Resolve, where: str) -> list[str]:
    said = f"{where or 'value'}: expected {_show({name: inner})}, got {_show(actual)}"
    match name:
        case "one_of":
            return [] if any(not differences(option, actual, resolve) for option in inner) else [said]
        case "set":
            return [] if _same_members(inner, actual, resolve) else [said]
        case "time":
            moment = _moment(actual)
            return [] if moment is not None and moment == _moment(inner) else [said]
        case "regex":
            return [] if isinstance(actual, str) and re.fullmatch(inner, actual, re.DOTALL) else [said]
        case "created":
            return [] if actual is not None and actual == resolve(inner) else [said]
        case "anything":
            return []
    return differences(inner, actual, resolve, where)


def _same_members(expected: Sequence[Json], actual: Json, resolve: Resolve) -> bool:
    if not _is_list(actual) or len(actual) != len(expected):
        return False
    left = list(actual)
    for want in expected:
        at = next((at for at, have in enumerate(left) if not differences(want, have, resolve)), None)
        if at is None:
            return False
        del left[at]
    return True


def _moment(text: Json) -> datetime | None:
    """An aware time; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _is_list(value: Json) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
