"""The parts of a run's page, each a function from the run to HTML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from omnidistill.evaluation.report.plots import quality_curve, scalar_curve
from omnidistill.evaluation.report.run import Run
from omnidistill.evaluation.report.words import duration, headline
from omnidistill.evaluation.table import basis, figures, metric_names, number


def header(run: Run) -> str:
    """Task, recipe, paper, and the result in words."""
    document = run.metrics
    paper = paper_of(run.config)
    source = f'<p class="paper">{_linked(paper)}</p>' if paper else ""
    recipe = run.config.get("recipe")
    departures = recipe.get("departures") if isinstance(recipe, Mapping) else None
    if isinstance(departures, list) and departures:
        source += f'<p class="paper">Departs from the paper: {escape("; ".join(map(str, departures)))}.</p>'
    said = [f"Warning: {line}" for line in document["warnings"]]
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*headline(document), *said))
    return (
        f"<header><h1>{escape(document['task'])} <span>distilled by</span> {escape(document['recipe'])}</h1>"
        f'{source}<div class="headline">{sentences}</div></header>'
    )


def paper_of(config: Mapping[str, Any]) -> str:
    """The paper that the configuration names, under `recipe` or at its top."""
    recipe = config.get("recipe")
    paper = (recipe.get("paper") if isinstance(recipe, Mapping) else None) or config.get("paper")
    return str(paper) if paper else ""


ADDRESS = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;)]|arXiv:\d{4}\.\d{4,5}")


def _linked(text: str) -> str:
    """Escaped text in which addresses and arXiv numbers can be followed; nothing is loaded from them."""
    parts, end = [], 0
    for found in ADDRESS.finditer(text):
        address = found[0].replace("arXiv:", "https://arxiv.org/abs/")
        parts.append(escape(text[end : found.start()]))
        parts.append(f'<a href="{escape(address, quote=True)}" rel="noreferrer">{escape(found[0])}</a>')
        end = found.end()
    return "".join(parts) + escape(text[end:])


def quality_section(run: Run) -> str:
    """The primary metric large, the others small."""
    primary, *others = metric_names(run.metrics)
    way = "lower is better" if run.metrics["primary"]["better"] == "lower" else "higher is better"
    small = "".join(f"<div>{quality_curve(run.metrics, name, wide=False)}</div>" for name in others)
    grid = f'<div class="plots">{small}</div>' if small else ""
    return (
        f'<section><h2>Quality against steps</h2><p class="note">{escape(primary)}: {way}.</p>'
        f'<div class="main plot">{quality_curve(run.metrics, primary, wide=True)}</div>{grid}</section>'
    )


def table_section(run: Run) -> str:
    """Teacher, student and floor: steps, NFE, every metric, seconds per sample, gap closed."""
    names, cells = figures(run.metrics)
    head = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in names)
    rows = "".join(_row(row) for row in cells)
    note = (
        "Gap closed: (teacher at k − student at k) / (teacher at k − full teacher). 0 % is the teacher run at the "
        "student's steps, 100 % the full teacher. NFE are counted network calls, guidance included."
    )
    return (
        f'<section><h2>Figures</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="note">{note} {escape(basis(run.metrics))}</p></section>'
    )


def _row(cells: list[str]) -> str:
    first, *rest = (escape(cell) for cell in cells)
    kind = "floor" if first == "real data" else first
    return (
        f'<tr class="{kind}"><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
    )


def training_section(run: Run) -> str:
    """Every scalar of the log, raw and smoothed."""
    if not run.scalars:
        return ""
    plots = []
    for scalar in run.scalars:
        note = ""
        if scalar.lost:
            note = f'<p class="note">{scalar.lost} values that are not finite are left out</p>'
        drawn = scalar_curve(scalar) if scalar.y else f"<h3>{escape(scalar.name)}</h3><p>no values</p>"
        plots.append(f'<div data-scalar="{escape(scalar.name, quote=True)}">{drawn}{note}</div>')
    return (
        '<section><h2>Training</h2><p class="note">Against student updates; thin: as logged, thick: running mean.</p>'
        f'<div class="plots">{"".join(plots)}</div></section>'
    )


def cost_section(run: Run) -> str:
    """What the training cost, on what it ran, and how to run it again."""
    training, machine = run.metrics["training"], run.metrics["environment"]
    cost = {
        "student updates": f"{training['student_updates']:,}",
        "time": duration(training["seconds"]),
        "samples per second": number(training["samples_per_second"]),
    }
    if training["peak_memory_mb"]:
        cost["peak memory"] = f"{training['peak_memory_mb']:,.0f} MB"
    cost |= {
        f"network calls, {role.replace('_', ' ')}": f"{calls:,}" for role, calls in training["calls"].items()
    }
    run_on = {"seed": str(run.metrics["seed"])} | {str(key): str(value) for key, value in machine.items()}
    config = ""
    if run.config_text:
        config = f"<details><summary>Configuration</summary><pre>{escape(run.config_text)}</pre></details>"
    return (
        f'<section><h2>Cost and machine</h2><div class="lists">{_list(cost)}{_list(run_on)}</div></section>'
        f"<section><h2>Again</h2><pre>{escape(command_of(run))}</pre>{config}</section>"
    )


def _list(items: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in items.items())
        + "</dl>"
    )


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
