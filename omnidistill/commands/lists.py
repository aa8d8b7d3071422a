"""recipes, tasks: what there is, and whether a recipe's claim held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnidistill.commands import Arguments, Command
from omnidistill.data.files import expanded
from omnidistill.errors import UserError


def recipes(arguments: Arguments) -> None:
    """`omnidistill recipes`: as JSON what is pinned, as a table with the verdict of each recipe's claim."""
    from omnidistill.configuration import listing

    own = directory(arguments)
    listed = listing.recipes(own)
    if not arguments.json:
        from omnidistill.commands.claims import WORDS
        from omnidistill.configuration import claim_file

        held = {entry["recipe"]: WORDS[entry["holds"]] for entry in claim_file.claims(own)}
        listed = [{"name": e["name"], "claim": held.get(e["name"], ""), **e} for e in listed]
    show(listed, arguments.json, wide="paper")


def tasks(arguments: Arguments) -> None:
    """`omnidistill tasks`."""
    from omnidistill.configuration import listing

    show(listing.tasks(directory(arguments)), arguments.json, wide="title")


def directory(arguments: Arguments) -> Path | None:
    """The folder behind `configs=`, which is all that a list may be told."""
    given, dotted = arguments.pick(["configs"])
    if dotted:
        raise UserError(f"a list takes no keys but configs=DIR, got {dotted[0]}")
    if "configs" not in given:
        return None
    directory = expanded(given["configs"])
    if not directory.is_dir():
        raise UserError(f"configs={directory} is no folder")
    return directory


def show(entries: list[dict[str, Any]], as_json: bool, wide: str) -> None:
    """Entries of the same keys as a table, whose column `wide` takes what is left, or as JSON."""
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in entries[0] if entries else ["none"]:
        table.add_column(key, overflow="fold", no_wrap=key == "name", ratio=1 if key == wide else None)
    for entry in entries:
        table.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in entry.values()))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = 200
    console.print(table)


KEYS = {"configs=DIR": "with those of a folder of your own files"}

COMMANDS = (
    Command(
        "recipes",
        "[--json] [configs=DIR]",
        "the papers' methods: name, whether its claim held, paper, family, modalities, needs",
        recipes,
        "omnidistill recipes",
        KEYS,
        flags=("--json",),
    ),
    Command(
        "tasks",
        "[--json] [configs=DIR]",
        "what can be distilled: name, title, modality",
        tasks,
        "omnidistill tasks --json",
        KEYS,
        flags=("--json",),
    ),
)
