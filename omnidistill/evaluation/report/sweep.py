"""The page of a sweep: which recipe closes how much of the gap on which task, in how many calls and seconds, at which
cost; what failed and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Found
from omnidistill.evaluation.gap import rank
from omnidistill.evaluation.report.matrix import Entry, entries, matrix, mean_points
from omnidistill.evaluation.report.plots import MARKERS, SIGNS, Line, comparison_curve
from omnidistill.evaluation.report.thumbnails import NOTE, pictures
from omnidistill.evaluation.report.words import duration, plural
from omnidistill.evaluation.table import basis, gap_text, number, percent


def values(folder: Path, found: list[Found]) -> dict[str, Any]:
    """Everything that `sweep.html` asks for."""
    listed = entries(found)
    done = [entry for entry in listed if entry.done]
    statuses = [each.status for each in cells.single(found)]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return {
        "title": f"sweep {folder.resolve().name}",
        "name": folder.resolve().name,
        "total": len(statuses),
        "counts": counts,
        "judged": _judged(done),
        "warnings": _warnings(done),
        "best": _best(done),
        **matrix(folder, listed),
        "drawings": _quality(done, colours(done)),
        "pictures": pictures(folder, done),
        "pictures_note": NOTE,
        "unfinished": _unfinished(folder, found),
        **_seconds(done),
        "cost": _cost(done),
        "tables": _tables(done),
        "machines": _machines(done),
        "commands": cells.read_commands(folder),
    }


def colours(listed: Sequence[Entry]) -> dict[str, int]:
    """A colour for each recipe, the same on every task; recipes that share no task may share a colour."""
    tasks: dict[str, set[str]] = {}
    for entry in listed:
        tasks.setdefault(entry.recipe, set()).add(entry.task)
    marks: dict[str, int] = {}
    for recipe, where in tasks.items():
        taken = {marks[other] for other in marks if tasks[other] & where}
        free = [index for index in range(len(MARKERS)) if index not in taken]
        marks[recipe] = free[0] if free else len(marks) % len(MARKERS)
    return marks


def _best(done: Sequence[Entry]) -> list[str]:
    """For each task the recipe that closes most of the gap in few steps."""
    best: dict[str, tuple[tuple[int, float], str]] = {}
    for entry in done:
        if (top := entry.best()) and (entry.task not in best or rank(top) > rank(best[entry.task][0])):
            best[entry.task] = (top, entry.recipe)
    return [
        f"{task}: {recipe} closes {percent(gap)} of the gap at {plural(steps)}."
        for task, ((steps, gap), recipe) in best.items()
    ]


def _judged(done: Sequence[Entry]) -> list[str]:
    """On how many samples each task's figures rest."""
    counts = {
        f"{entry.task} on {Entry.document(found)['samples']:,} samples": None
        for entry in done
        for found in entry.done
        if Entry.document(found)["samples"]
    }
    return list(counts)


def _warnings(done: Sequence[Entry]) -> list[str]:
    """What the cells warn of, each once: of a teacher with its task, of a student with its recipe, too."""
    said: dict[str, None] = {}
    for entry in done:
        for found in entry.done:
            for line in Entry.document(found)["warnings"]:
                who = entry.task if line.startswith("The teacher") else f"{entry.task} · {entry.recipe}"
                said[f"{who}: {line}"] = None
    return list(said)


def _by_task(listed: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by task, a recipe that stands in two columns once."""
    tasks: dict[str, dict[str, Entry]] = {}
    for entry in listed:
        tasks.setdefault(entry.task, {}).setdefault(entry.recipe, entry)
    return {task: list(of.values()) for task, of in tasks.items()}


def _primary(entry: Entry) -> Mapping[str, str]:
    return Entry.document(entry.done[0])["primary"]


def teachers(of_task: Sequence[Entry]) -> list[list[dict[str, Any]]]:
    """The teacher's curves on one task: runs in which it made the same calls share one, with the points of all."""
    curves: dict[float, dict[int, dict[str, Any]]] = {}
    for entry in of_task:
        points = mean_points(entry, "teacher")
        full = points[-1]
        curve = curves.setdefault(full["nfe"] / full["steps"], {})
        for point in points:
            curve.setdefault(point["steps"], point)
    return [[curve[steps] for steps in sorted(curve)] for _, curve in sorted(curves.items())]


def _quality(
    done: Sequence[Entry], marks: Mapping[str, int]
) -> list[tuple[Markup, list[tuple[str, int, str]]]]:
    """A drawing a task, with the name, colour and sign of each recipe on it."""
    drawn = []
    for task, of_task in _by_task(done).items():
        primary = _primary(of_task[0])
        name = primary["name"]
        lines = [
            Line([p["nfe"] for p in curve], [[p["metrics"][name]] for p in curve])
            for curve in teachers(of_task)
        ]
        for entry in of_task:
            points = mean_points(entry, "student")
            values = [[metrics[name] for metrics in point["all"]] for point in points]
            lines.append(Line([p["nfe"] for p in points], values, marks[entry.recipe]))
        floor = Entry.document(of_task[0].done[0])["floor"].get(name)
        keys = [(entry.recipe, marks[entry.recipe], SIGNS[marks[entry.recipe]]) for entry in of_task]
        drawn.append((Markup(comparison_curve(task, name, primary["better"], lines, floor)), keys))
    return drawn


def _tables(done: Sequence[Entry]) -> list[tuple[str, str, list[str], list[list[str]], list[str]]]:
    """Every figure of every task: its name, what they rest on, head, rows and the classes of the rows."""
    folded = []
    for task, of_task in _by_task(done).items():
        primary = _primary(of_task[0])["name"]
        metrics = Entry.document(of_task[0].done[0])
        names = (
            [primary, *(n for n in metrics["student"][0]["metrics"] if n != primary)]
            if metrics["student"]
            else []
        )
        rows, kinds = [], []
        for curve in teachers(of_task):
            for p in curve:
                cells_ = [number(p["metrics"].get(name)) for name in names]
                rows.append(["teacher", str(p["steps"]), f"{p['nfe']:g}", "", *cells_])
                kinds.append("teacher")
        for entry in of_task:
            gaps = entry.gaps()
            for p in mean_points(entry, "student"):
                there = [value for value in gaps.get(p["steps"], []) if value is not None]
                gap = percent(sum(there) / len(there)) if there else "–"
                if len(entry.done) == 1:
                    gap = gap_text(Entry.document(entry.done[0]), p["steps"])
                cells_ = [number(p["metrics"].get(name)) for name in names]
                rows.append([entry.recipe, str(p["steps"]), f"{p['nfe']:g}", gap, *cells_])
                kinds.append("other")
        for name, label, kind in (("input", "input", "input"), ("floor", "real data", "floor")):
            known = (metrics["input"] or {}).get("metrics") if name == "input" else metrics["floor"]
            if known:
                rows.append([label, "", "", "", *(number(known.get(n)) for n in names)])
                kinds.append(kind)
        notes = {basis(Entry.document(found)): None for entry in of_task for found in entry.done}
        head = ["", "steps", "NFE", "gap closed", *names]
        folded.append((task, "; ".join(note for note in notes if note), head, rows, kinds))
    return folded


def _seconds(done: Sequence[Entry]) -> dict[str, Any]:
    """A row a task and recipe, a column a step count."""
    counts = sorted({p["steps"] for entry in done for p in mean_points(entry, "student")})
    rows, before = [], ""
    for task, of_task in _by_task(done).items():
        for entry in of_task:
            full = mean_points(entry, "teacher")[-1]
            slow = full["seconds_per_sample"]
            quick = {p["steps"]: p["seconds_per_sample"] for p in mean_points(entry, "student")}
            cells_ = [f"{number(quick[k])} ({slow / quick[k]:.1f}×)" if quick.get(k) else "" for k in counts]
            teacher = f"{number(slow)} ({full['steps']} steps)"
            rows.append([task if task != before else "", entry.recipe, teacher, *cells_])
            before = task
    return {"seconds": rows, "seconds_head": ["task", "recipe", "full teacher", *(plural(k) for k in counts)]}


def _cost(done: Sequence[Entry]) -> list[list[str]]:
    rows, before = [], ""
    for task, of_task in _by_task(done).items():
        for entry in of_task:
            spent = [Entry.document(found)["training"] for found in entry.done]
            row = [
                task if task != before else "",
                entry.recipe,
                str(len(spent)),
                f"{fmean(training['student_updates'] for training in spent):,.0f}",
                duration(fmean(training["seconds"] for training in spent)),
                duration(fmean(found.seconds for found in entry.done)),
                ", ".join(f"{role.replace('_', ' ')} {n:,}" for role, n in spent[0]["calls"].items()),
            ]
            rows.append(row)
            before = task
    return rows


def _unfinished(folder: Path, found: Sequence[Found]) -> list[dict[str, str]]:
    rows = []
    for each in cells.single(found):
        if each.status == cells.FINISHED:
            continue
        status = each.outcome.exit_status if each.outcome else None
        said = f" (exit status {status})" if each.status == cells.FAILED and status is not None else ""
        log = cells.log_file(each.run)
        rows.append(
            {
                # Of a broken file the place is all one knows.
                "name": str(each.cell) if each.cell.column else each.cell.task,
                "kind": each.status.replace(" ", "-"),
                "said": f"{each.status}{said}",
                "reason": each.reason,
                "log": quote(log.relative_to(folder).as_posix()) if log.is_file() else "",
            }
        )
    return rows


def _machines(done: Sequence[Entry]) -> list[str]:
    environments = {
        ", ".join(f"{key} {value}" for key, value in Entry.document(found)["environment"].items())
        for entry in done
        for found in entry.done
    }
    return sorted(environments)
