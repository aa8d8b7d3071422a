"""claim, claims: what the papers promise, as small experiments that anybody can run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidistill.commands import Arguments, Command
from omnidistill.commands.lists import directory, show
from omnidistill.errors import UserError

WORDS = {True: "holds", False: "falls short", None: "not run"}

KEYS = {
    "out=DIR": "folder that the command makes for the runs; without it they are thrown away",
    "seed=S": "of every run, instead of the claim's own",
    "device=D": "auto, cpu or cuda",
    "threads=N": "of the CPU",
    "configs=DIR": "with the recipes and claims of a folder of your own files",
}


def claims(arguments: Arguments) -> None:
    """`omnidistill claims`: the committed verdicts."""
    from omnidistill.configuration import claim_file

    listed = claim_file.claims(directory(arguments))
    if not arguments.json:
        seeds = claim_file.again()
        listed = [
            {**entry, "holds": said(entry["holds"], seeds.get(entry["recipe"], {}))} for entry in listed
        ]
    show(listed, arguments.json, wide="statement")


def said(holds: bool | None, seeds: Mapping[int, bool]) -> str:
    """A verdict in words, and what it was at other seeds."""
    others = "; ".join(f"seed {seed}: {WORDS[held]}" for seed, held in sorted(seeds.items()))
    return WORDS[holds] + (f" ({others})" if others else "")


def claim(arguments: Arguments) -> None:
    """`omnidistill claim NAME`: runs the experiment again and says whether its relations hold."""
    from omnidistill.configuration import claim_file, values

    name = arguments.one("name of a claim", "omnidistill claim flow-map-matching")
    given, dotted = arguments.pick([key.partition("=")[0] for key in KEYS])
    if dotted:
        raise UserError(f"claim takes no {dotted[0].partition('=')[0]}; keys: {', '.join(KEYS)}")
    own = directory(Arguments(overrides=tuple(f"configs={given[key]}" for key in given if key == "configs")))
    asked = claim_file.read(name, own)
    text = given.get("seed")
    seed = None if text is None else values.whole(0)("seed", int(text) if text.isdecimal() else text)
    if given.get("out") == "":
        raise UserError("out is empty; for example out=runs/claim")
    more = [f"{key}={given[key]}" for key in ("device", "threads", "configs") if key in given]
    from omnidistill.runs import claim as runs

    found = runs.claim(asked, _out(given.get("out")), more, seed)
    if arguments.json:
        print(json.dumps({key: found[key] for key in ("recipe", "statement", "holds", "figures", "seconds")}))
        return
    print(f"{asked.recipe}: {asked.statement}" + (f" ({asked.source})" if asked.source else ""))
    for said, figure in found["figures"].items():
        print(f"  {'yes' if figure['holds'] else 'no '}  {said}: {_figures(figure)}")
    print(f"{WORDS[found['holds']]} ({found['seconds']:.0f} s)")
    if asked.explanation:
        print(asked.explanation)


def _out(text: str | None) -> Path | None:
    from omnidistill.data.files import expanded

    return None if text is None else expanded(text.strip(" '\""))


def _figures(figure: dict[str, Any]) -> str:
    if isinstance(figure["figure"], dict):
        said = ", ".join(f"{value:.4g} at {steps}" for steps, value in figure["figure"].items())
        falls = ", ".join(f"{a} to {b}" for a, b in figure["falls"])
        return f"{said}; " + (f"falls from {falls}" if falls else "never falls beyond its interval")
    against = f" against {_one(figure['against'], figure.get('against_interval'))}"
    return _one(figure["figure"], figure["interval"]) + against


def _one(value: float, ends: list[float] | None) -> str:
    return f"{value:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "")


COMMANDS = (
    Command(
        "claim",
        "NAME [--json] [out=DIR] [key=value ...]",
        "a recipe's promise, tried again on a small task: does it hold, with the figures",
        claim,
        "omnidistill claim flow-map-matching",
        KEYS,
        "Exit status 0 whether it holds or falls short; 1 if a run failed. --json: the last line is one JSON object.",
        flags=("--json",),
        bare=True,
    ),
    Command(
        "claims",
        "[--json] [configs=DIR]",
        "what each recipe promises, and whether it held",
        claims,
        "omnidistill claims",
        {"configs=DIR": "with those of a folder of your own files"},
        flags=("--json",),
    ),
)
