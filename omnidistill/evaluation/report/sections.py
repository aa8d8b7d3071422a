"""What stands on a run's page, as values for its template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from omnidistill.evaluation.report.plots import quality_curve, scalar_curve
from omnidistill.evaluation.report.run import Run
from omnidistill.evaluation.report.samples import samples_of
from omnidistill.evaluation.report.words import duration, headline
from omnidistill.evaluation.table import basis, figures, metric_names, number

KINDS = {"real data": "floor"}
"""The classes of rows that are not called like their model."""


def values(run: Run) -> dict[str, Any]:
    """Everything that `run.html` asks for."""
    document = run.metrics
    recipe = run.config.get("recipe")
    departures = recipe.get("departures") if isinstance(recipe, Mapping) else None
    primary, *others = metric_names(document)
    head, rows = figures(document)
    training, environment = document["training"], document["environment"]
    return {
        "title": f"{document['task']} · {document['recipe']}",
        "run": run,
        "paper": paper_of(run.config),
        "departures": list(map(str, departures)) if isinstance(departures, list) else [],
        "sentences": headline(document),
        "primary": primary,
        "way": f"{document['primary']['better']} is better",
        "curve": Markup(quality_curve(document, primary, wide=True)),
        "curves": [Markup(quality_curve(document, name, wide=False)) for name in others],
        "head": head,
        "rows": rows,
        "kinds": [KINDS.get(row[0], row[0].partition(",")[0]) for row in rows],
        "basis": basis(document),
        **samples_of(run),
        "scalars": [(s, Markup(scalar_curve(s)) if s.y else None) for s in run.scalars],
        "cost": _cost(training),
        "machine": {"seed": document["seed"], **environment},
        "command": command_of(run),
    }


def paper_of(config: Mapping[str, Any]) -> str:
    """The paper that the configuration names, under `recipe` or at its top."""
    recipe = config.get("recipe")
    paper = (recipe.get("paper") if isinstance(recipe, Mapping) else None) or config.get("paper")
    return str(paper) if paper else ""


def _cost(training: Mapping[str, Any]) -> dict[str, str]:
    cost = {
        "student updates": f"{training['student_updates']:,}",
        "time": duration(training["seconds"]),
        "samples per second": number(training["samples_per_second"]),
    }
    if training["peak_memory_mb"]:
        cost["peak memory"] = f"{training['peak_memory_mb']:,.0f} MB"
    return cost | {
        f"network calls, {role.replace('_', ' ')}": f"{calls:,}" for role, calls in training["calls"].items()
    }


def command_of(run: Run) -> str:
    """What logs/command.txt recorded; else the `command` of the configuration, a string or a list of arguments; else
    the shortest command that names task, recipe and seed."""
    recorded = run.folder / "logs" / "command.txt"
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8", errors="replace").strip()
    command = run.config.get("command")
    if isinstance(command, list):
        return shlex.join(str(word) for word in command)
    if command:
        return str(command)
    document = run.metrics
    words = [
        f"task={document['task']}",
        f"recipe={document['recipe']}",
        f"seed={document['seed']}",
        "out=DIR",
    ]
    return "omnidistill distill " + " ".join(words)
