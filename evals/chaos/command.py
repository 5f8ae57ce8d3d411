"""What both chaos programs do around their trials: an engine after the other, a table of each, and an exit code."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import postgres

Row = tuple[str, str, bool | None]
"""What, its figure, and whether it holds; None where nothing is promised."""


def command(
    parser: argparse.ArgumentParser,
    run: Callable[[str, argparse.Namespace], Any],
    table: Callable[[Any], Sequence[Row]],
    plain: Callable[[Any], Any],
    lacking: Callable[[Any, argparse.Namespace], str] = lambda figures, options: "",
) -> int:
    """`run` gives the figures of an engine, with their `problems`; `lacking` says what was too little to show it."""
    parser.add_argument("--engine", choices=["sqlite", "postgresql"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    good, found = True, []
    postgres.begin()
    try:
        for engine in [options.engine] if options.engine else ["sqlite", "postgresql"]:
            figures = run(engine, options)
            found.append(figures)
            print(f"\n{engine}")
            for what, figure, holds in table(figures):
                print(f"{what:<50} {figure:<16} {'' if holds is None else 'yes' if holds else 'NO'}".rstrip())
                good = good and holds is not False
            print(*figures.problems[:20], sep="\n", flush=True)
            if short := lacking(figures, options):
                print(short)
                good = False
    finally:
        postgres.end()
    if options.json:
        options.json.write_text(json.dumps([plain(figures) for figures in found], indent=1) + "\n")
    return 0 if good else 1
