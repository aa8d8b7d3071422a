"""data fetch, data list: named real data sets."""

from __future__ import annotations

import json

from omnidistill.commands import Arguments, Command
from omnidistill.errors import UserError, unknown

EXAMPLE = "omnidistill data fetch fashion_mnist"


def data(arguments: Arguments) -> None:
    """`omnidistill data fetch NAME` and `omnidistill data list`."""
    action = arguments.positional[0] if arguments.positional else ""
    rest = arguments.positional[1:]
    given, dotted = arguments.pick(["folder"])
    if action == "fetch":
        if len(rest) != 1 or dotted:
            raise UserError(f"give one data set, for example `{EXAMPLE}`; got {', '.join(rest) or 'none'}")
        if arguments.json:
            raise UserError("data fetch has no --json; data list has")
        from omnidistill.data import datasets

        datasets.fetch(rest[0], given.get("folder"))
    elif action == "list":
        if rest or arguments.overrides:
            raise UserError("data list takes nothing but --json")
        _list(arguments.json)
    elif action:
        raise unknown("action of data", action, ["fetch", "list"])
    else:
        raise UserError(f"data needs an action: fetch NAME or list; for example `{EXAMPLE}`")


def _list(as_json: bool) -> None:
    from omnidistill.data import datasets

    entries = []
    for name in datasets.available():
        described = datasets.describe(name)
        try:
            place = str(datasets.locate(name))
        except UserError:
            place = None
        entry = {"name": name, "title": described.title, "licence": described.licence, "folder": place}
        entries.append(entry)
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    for entry in entries:
        print(f"{entry['name']}: {entry['title']}; licence {entry['licence']}")
        print(f"  {entry['folder'] or 'not fetched'}")


COMMANDS = (
    Command(
        "data",
        "fetch NAME [folder=DIR] | list [--json]",
        "gets a named real data set, checks its sums, prints its licence",
        data,
        EXAMPLE,
        {"folder=DIR": "where you have the files already; nothing is downloaded then"},
        flags=("--json",),
        bare=True,
    ),
)
