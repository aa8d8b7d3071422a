"""Tables of benchmarks/results/matrix: for each task the teacher at full and at few steps, and the students."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from omnidistill.evaluation.gap import best_of, rank

FEW = (1, 2, 4)
Documents = Sequence[Mapping[str, Any]]


def figure(value: float | None, ends: Sequence[float] | None = None) -> str:
    """A number, with half of its interval where there is one."""
    if value is None:
        return "-"
    text = f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return text if ends is None else f"{text} ±{(ends[1] - ends[0]) / 2:.2g}"


def closed(metrics: Mapping[str, Any], steps: int) -> str:
    """The gap closed at a step count with half of its interval; "no gap" where the student has one and closes none."""
    value = metrics["gap_closed"].get(str(steps))
    if value is None:
        return "no gap"
    ends = metrics.get("gap_interval", {}).get(str(steps))
    return f"{value:.1f} %" if ends is None else f"{value:.1f} ±{(ends[1] - ends[0]) / 2:.1f} %"


def basis(metrics: Mapping[str, Any]) -> str:
    """What the figures rest on, in a sentence."""
    if metrics["schema"] < 2:
        energy = any("energy" in point["metrics"] for point in metrics["teacher"])
        former = ", and energy is the former statistic, which reads too high near 0" if energy else ""
        return f"Schema 1: no intervals{former}."
    return f"{metrics['samples']} samples; ± is half the 95 % interval."


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def read(folder: Path) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The cells by task and recipe, each a list of its seeds."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem != "unfinished":
            document = json.loads(path.read_text())
            metrics = document["metrics"]
            found.setdefault((metrics["task"], metrics["recipe"]), []).append(document)
    return found


def at(documents: Documents, model: str, steps: int, metric: str) -> float | None:
    """A metric of a model at a step count, averaged over seeds."""
    values = [
        point["metrics"][metric]
        for document in documents
        for point in document["metrics"][model]
        if point["steps"] == steps
    ]
    return fmean(values) if values else None


def gap(documents: Documents, steps: int) -> float | None:
    values = [document["metrics"]["gap_closed"].get(str(steps)) for document in documents]
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def seconds(documents: Documents, model: str, steps: int) -> float:
    return fmean(
        point["seconds_per_sample"]
        for document in documents
        for point in document["metrics"][model]
        if point["steps"] == steps
    )


def best(documents: Documents) -> tuple[int, float] | None:
    """The few-step count at which most of the gap is closed, and how much."""
    return best_of({k: value for k in FEW if (value := gap(documents, k)) is not None})


def primary(documents: Documents) -> tuple[str, str]:
    """The name of the primary metric, and the same with an arrow to the better side."""
    given = documents[0]["metrics"]["primary"]
    return given["name"], f"{given['name']} {({'lower': '↓', 'higher': '↑'})[given['better']]}"


def full_steps(documents: Documents) -> int:
    return max(point["steps"] for point in documents[0]["metrics"]["teacher"])


def faster(documents: Documents, steps: int) -> str:
    """How many times less time a sample takes than the full teacher."""
    quick = seconds(documents, "student", steps)
    return f"{seconds(documents, 'teacher', full_steps(documents)) / quick:.1f}×" if quick else "-"


def row(task: str, recipe: str, documents: Documents) -> list[str]:
    """Teacher, students and gaps of one task and recipe."""
    (name, shown), full, top = primary(documents), full_steps(documents), best(documents)
    return [
        task,
        shown,
        figure(documents[0]["metrics"]["floor"].get(name)),
        f"{figure(at(documents, 'teacher', full, name))} ({full})",
        *(figure(at(documents, "teacher", k, name)) for k in FEW),
        recipe,
        *(figure(at(documents, "student", k, name)) for k in FEW),
        "-" if top is None else f"{_closed(documents, *top)} at {top[0]}",
        "-" if top is None else faster(documents, top[0]),
        f"{fmean(document['wall_seconds'] for document in documents) / 60:.1f}",
    ]


def _closed(documents: Documents, steps: int, value: float) -> str:
    """Of one seed with its interval, of several their mean."""
    return closed(documents[0]["metrics"], steps) if len(documents) == 1 else f"{value:.1f} %"


HEAD = [
    *("task", "metric", "real data", "teacher, full"),
    *(f"teacher, {k}" for k in FEW),
    "recipe",
    *(f"student, {k}" for k in FEW),
    *("gap closed", "faster by", "minutes"),
]


def table(folder: Path) -> list[str]:
    """The lines of a Markdown table; none where there are no results."""
    found = read(folder)
    if not found:
        return []
    rows = [HEAD, *(row(task, recipe, documents) for (task, recipe), documents in found.items())]
    return markdown(rows)


def headline(folder: Path) -> str:
    """The README's table: for each task the recipe whose few-step student closes most of the gap."""
    found: dict[str, dict[str, tuple[int, float]]] = {}
    documents_of = read(folder)
    for (task, recipe), documents in documents_of.items():
        if top := best(documents):
            found.setdefault(task, {})[recipe] = top
    rows = [
        [
            "task",
            "metric",
            "teacher at full",
            "recipe",
            "steps",
            "teacher",
            "student",
            "gap closed",
            "faster by",
        ]
    ]
    for task, tops in found.items():
        recipe = max(tops, key=lambda name: rank(tops[name]))
        (k, share), documents = tops[recipe], documents_of[task, recipe]
        (name, shown), full = primary(documents), full_steps(documents)
        values = [figure(at(documents, model, k, name)) for model in ("teacher", "student")]
        whole = f"{figure(at(documents, 'teacher', full, name))} ({full})"
        rows.append(
            [task, shown, whole, recipe, str(k), *values, _closed(documents, k, share), faster(documents, k)]
        )
    return "\n".join(markdown(rows))


def section(folder: Path) -> list[str]:
    """The section of docs/results.md."""
    lines = table(folder)
    if not lines:
        return []
    unfinished = folder / "unfinished.json"
    missing = json.loads(unfinished.read_text()) if unfinished.is_file() else []
    notes = [
        f"- {cell['task']} · {cell['recipe']} · seed {cell['seed']}: {cell['status']}"
        + (f", {cell['reason']}" if cell["reason"] else "")
        for cell in missing
    ]
    return [
        "## Every modality",
        "",
        "`python benchmarks/matrix.py`: one column for each number of steps; `gap closed` and `faster by` are those of "
        "the best student of at most 4 steps (beyond 100 % the one of fewest); minutes are of the whole run, "
        "evaluation of both models included.",
        "",
        *lines,
        "",
        *([*notes, ""] if notes else []),
    ]
