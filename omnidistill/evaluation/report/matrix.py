"""Gap closed for each task and recipe of a sweep, seeds taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from omnidistill.evaluation.cells import FINISHED, Found
from omnidistill.evaluation.gap import best_of
from omnidistill.evaluation.report.words import plural
from omnidistill.evaluation.table import number, percent

FEW = 4
"""The most steps at which a student counts as a few-step one."""


@dataclass(frozen=True)
class Entry:
    """A task by one recipe: its finished seeds, and those that are not."""

    task: str
    column: str
    recipe: str
    done: tuple[Found, ...]
    rest: tuple[Found, ...]

    def gaps(self) -> dict[int, list[float | None]]:
        """The gap closed by each seed, at each step count."""
        found: dict[int, list[float | None]] = {}
        for each in self.done:
            for steps, value in self.document(each)["gap_closed"].items():
                found.setdefault(int(steps), []).append(value)
        return dict(sorted(found.items()))

    def best(self) -> tuple[int, float] | None:
        """The best few-step count and the mean gap closed there."""
        means = {k: mean for k, values in self.gaps().items() if (mean := _mean(values)) is not None}
        return best_of({k: mean for k, mean in means.items() if k <= FEW})

    @staticmethod
    def document(found: Found) -> dict[str, Any]:
        assert found.metrics is not None  # a finished one
        return dict(found.metrics)


def entries(found: Sequence[Found]) -> list[Entry]:
    """The cells by task, column and recipe, in their order."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for each in found:
        cell = each.cell
        groups.setdefault((cell.task, cell.column, cell.recipe or cell.choice), []).append(each)
    return [
        Entry(
            *key,
            tuple(each for each in group if each.status == FINISHED),
            tuple(each for each in group if each.status != FINISHED),
        )
        for key, group in groups.items()
    ]


def matrix_section(folder: Path, listed: Sequence[Entry]) -> str:
    """A row a task, a column a recipe: the best few-step student large, each step count below it, with links."""
    columns = list(dict.fromkeys(entry.column for entry in listed if entry.column))
    tasks = list(dict.fromkeys(entry.task for entry in listed if entry.column))
    if not columns:
        return ""
    cells: dict[tuple[str, str], list[str]] = {}
    for entry in listed:
        cells.setdefault((entry.task, entry.column), []).append(_cell(folder, entry))
    head = "".join(f"<th>{escape(column).replace('/', ' /<wbr> ')}</th>" for column in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(task).replace("/", "/<wbr>")}</th>'
        + "".join(f"<td>{''.join(cells.get((task, column), ['–']))}</td>" for column in columns)
        + "</tr>"
        for task in tasks
    )
    return (
        '<section><h2>Gap closed</h2><div class="scroll"><table class="matrix">'
        f"<thead><tr><th>task</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="note">Percent of the way from the teacher at the student\'s steps to the full teacher, by the '
        f"task's primary metric: large, the best student of at most {FEW} steps; below it, each step count. Means over "
        "seeds, their range in brackets. A dash where there is no gap to close or no run.</p></section>"
    )


def _cell(folder: Path, entry: Entry) -> str:
    name = "" if entry.recipe == entry.column else f'<div class="taken">{escape(entry.recipe)}</div>'
    best = entry.best()
    parts = []
    if best is not None:
        shade = min(max(best[1], 0.0), 100.0) ** 2 / 100.0  # the eye is to tell 97 from 85
        parts.append(
            f'<div class="gap" style="--gap:{shade:.0f}"><b>{percent(best[1])}</b> at {plural(best[0])}</div>'
        )
    for steps, values in entry.gaps().items():
        parts.append(f"<div>{plural(steps)}: {_spread(values)}</div>")
    links = "".join(_link(folder, found) for found in entry.done)
    states: dict[str, list[int]] = {}
    for found in entry.rest:
        states.setdefault(found.status, []).append(found.cell.seed)
    for status, seeds in states.items():
        which = f" (seed {', '.join(map(str, seeds))})" if entry.done or len(seeds) > 1 else ""
        parts.append(f'<div class="state {status.replace(" ", "-")}">{escape(status)}{which}</div>')
    return f'<div class="cell">{name}{"".join(parts)}{f"<div>{links}</div>" if links else ""}</div>'


def _spread(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "–"
    text = percent(fmean(there))
    if len(there) > 1:
        text += f" [{percent(min(there))[:-2]} … {percent(max(there))[:-2]}]"
    return text


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _link(folder: Path, found: Found) -> str:
    text = f"seed {found.cell.seed}"
    page = found.run / "report.html"
    if not page.is_file():
        return f"<span>{text}</span> "
    return f'<a href="{escape(quote(page.relative_to(folder).as_posix()), quote=True)}">{text}</a> '


def mean_points(entry: Entry, model: str) -> list[dict[str, Any]]:
    """The points of a model with metrics and seconds averaged over seeds, fewest steps first."""
    points: dict[int, list[dict[str, Any]]] = {}
    for found in entry.done:
        for point in Entry.document(found)[model]:
            points.setdefault(point["steps"], []).append(point)
    return [
        {
            "steps": steps,
            "nfe": same[0]["nfe"],
            "metrics": {name: fmean(p["metrics"][name] for p in same) for name in same[0]["metrics"]},
            "all": [p["metrics"] for p in same],
            "seconds_per_sample": fmean(p["seconds_per_sample"] for p in same),
        }
        for steps, same in sorted(points.items())
    ]


def figures_text(value: float | None) -> str:
    return number(value) or "–"
