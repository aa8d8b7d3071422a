"""Gap closed for each task and recipe of a sweep, seeds taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from omnidistill.evaluation.cells import FINISHED, Found
from omnidistill.evaluation.gap import best_of
from omnidistill.evaluation.report.words import plural
from omnidistill.evaluation.table import gap_text, number, percent

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
        """The metrics of a finished run."""
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


def matrix(folder: Path, listed: Sequence[Entry]) -> dict[str, Any]:
    """A row a task, a column a recipe: the best few-step student large, each step count below it, with links."""
    columns = list(dict.fromkeys(entry.column for entry in listed if entry.column))
    tasks = list(dict.fromkeys(entry.task for entry in listed if entry.column))
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in listed:
        cells.setdefault((entry.task, entry.column), []).append(_cell(folder, entry))
    rows = [(task, [cells.get((task, column), []) for column in columns]) for task in tasks]
    return {"columns": columns, "matrix": rows, "few": FEW}


def _cell(folder: Path, entry: Entry) -> dict[str, Any]:
    best, shade = entry.best(), 0.0
    if best is not None:
        shade = min(max(best[1], 0.0), 100.0) ** 2 / 100.0  # the eye is to tell 97 from 85
    states: dict[str, list[int]] = {}
    for found in entry.rest:
        states.setdefault(found.status, []).append(found.cell.seed)
    return {
        "taken": "" if entry.recipe == entry.column else entry.recipe,
        "best": None if best is None else (plural(best[0]), percent(best[1])),
        "shade": f"{shade:.0f}",
        "gaps": [(plural(steps), _closed(entry, steps, values)) for steps, values in entry.gaps().items()],
        "states": [
            (
                status.replace(" ", "-"),
                status + (f" (seed {', '.join(map(str, seeds))})" if entry.done or len(seeds) > 1 else ""),
            )
            for status, seeds in states.items()
        ],
        "links": [_link(folder, found) for found in entry.done],
    }


def _closed(entry: Entry, steps: int, values: Sequence[float | None]) -> str:
    """The gap closed by all seeds; where there is none to close the metric itself."""
    there = [value for value in values if value is not None]
    if len(there) == len(values) == 1:
        return gap_text(Entry.document(entry.done[0]), steps)
    if there:
        return _spread(there)
    documents = [Entry.document(found) for found in entry.done]
    name = documents[0]["primary"]["name"]
    found = [p["metrics"][name] for d in documents for p in d["student"] if p["steps"] == steps]
    return f"no gap to close, {name} {number(fmean(found))}" if found else "–"


def _spread(there: Sequence[float]) -> str:
    text = percent(fmean(there))
    if len(there) > 1:
        text += f" [{percent(min(there))[:-2]} … {percent(max(there))[:-2]}]"
    return text


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _link(folder: Path, found: Found) -> tuple[str, str]:
    """The words and the address, empty where there is no page."""
    page = found.run / "report.html"
    address = quote(page.relative_to(folder).as_posix()) if page.is_file() else ""
    return f"seed {found.cell.seed}", address


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
