"""One record a recipe, made one at a time and gone on with: the command line that tables of all recipes share."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def main(
    description: str | None,
    results: Mapping[str, tuple[Path, Sequence[str]]],
    known: Iterable[str],
    record: Callable[[str, list[str]], Record],
    table: Callable[[list[Record], list[str]], str],
    shown: Sequence[str],
) -> int:
    """Makes the records that are lacking, then the table, also as `table.md` beside them.

    Args:
        results: tables by name (`--on`, the first where it is not given), each the folder of its records and the
            overrides that it is about.
        known: every recipe.
        record: of a recipe, given the overrides of the command line.
        table: of records and of the recipes without one.
        shown: keys of a record for the line that says it is made.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--again", action="store_true", help="also what has a record")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no further recipe after these"
    )
    first, *others = results
    if others:
        parser.add_argument("--on", choices=[first, *others], default=first, help=f"what; {first} by default")
    args = parser.parse_intermixed_args()
    folder, about = results[args.on if others else first]
    more = [*about, *(word for word in args.names if "=" in word)]
    asked = [word for word in args.names if "=" not in word]
    folder.mkdir(parents=True, exist_ok=True)
    known, began = list(known), time.monotonic()
    if unknown := sorted({*asked} - {*known}):
        parser.error(f"no recipe is called {', '.join(unknown)}; `omnidistill recipes` lists them")
    for name in () if args.table else asked or known:
        if time.monotonic() - began > 60 * args.minutes:
            break
        file = folder / f"{name}.json"
        if args.again or not file.exists():
            made = record(name, more)
            file.write_text(json.dumps(made, indent=1) + "\n")
            print(name, {key: made.get(key) for key in (*shown, "seconds", "reason", "failed")}, flush=True)
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    text = table(records, sorted({*known} - {one["recipe"] for one in records}))
    (folder / "table.md").write_text(text)
    print(text)
    return 0
