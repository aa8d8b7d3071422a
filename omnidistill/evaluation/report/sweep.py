"""The page of a sweep: which recipe closes how much of the gap on which task, in how many calls and seconds, at which
cost; what failed and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Found
from omnidistill.evaluation.gap import rank
from omnidistill.evaluation.report.matrix import Entry, entries, matrix_section, mean_points
from omnidistill.evaluation.report.plots import MARKERS, SIGNS, Line, comparison_curve
from omnidistill.evaluation.report.thumbnails import pictures_section
from omnidistill.evaluation.report.words import duration, plural
from omnidistill.evaluation.table import number, percent


def sweep_page(folder: Path, found: list[Found]) -> str:
    """The body of the page."""
    listed = entries(found)
    done = [entry for entry in listed if entry.done]
    marks = colours(done)
    return "\n".join(
        (
            _header(folder, found, done),
            matrix_section(folder, listed),
            _quality(done, marks),
            pictures_section(done),
            _unfinished(folder, found),
            _seconds(done),
            _cost(done),
            _tables(done),
            _machines(done),
        )
    )


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


def _header(folder: Path, found: Sequence[Found], done: Sequence[Entry]) -> str:
    single = cells.single(found)
    statuses = [each.status for each in single]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    best: dict[str, tuple[tuple[int, float], str]] = {}
    for entry in done:
        if (top := entry.best()) and (entry.task not in best or rank(top) > rank(best[entry.task][0])):
            best[entry.task] = (top, entry.recipe)
    sentences = "".join(
        f"<p>{escape(task)}: {escape(recipe)} closes {percent(gap)} of the gap at {plural(steps)}.</p>"
        for task, ((steps, gap), recipe) in best.items()
    )
    headline = f'<div class="headline">{sentences}</div>' if sentences else ""
    return (
        f"<header><h1>{escape(folder.resolve().name)} <span>tasks × recipes</span></h1>"
        f'<p class="paper">{len(single)} cells: {escape(counts)}.</p>{headline}</header>'
    )


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


def _quality(done: Sequence[Entry], marks: Mapping[str, int]) -> str:
    if not done:
        return ""
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
        drawn.append(f"<div>{comparison_curve(task, name, primary['better'], lines, floor)}</div>")
    keys = '<span class="key teacher">● teacher</span><span class="key floor">– – real data</span>' + "".join(
        f'<span class="key" style="color: var(--c{mark})">{SIGNS[mark]} {escape(recipe)}</span>'
        for recipe, mark in marks.items()
    )
    return (
        '<section><h2>Quality against network calls</h2><p class="note">By each task\'s primary metric; a second, '
        "dashed line is the teacher under guidance, which asks it twice a step. Bars span the seeds.</p>"
        f'<p class="keys">{keys}</p><div class="plots two">{"".join(drawn)}</div></section>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """An HTML table of text, its first column as row headings; `kinds` are classes of the rows."""
    top = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in head)
    body = ""
    for index, (first, *rest) in enumerate(rows):
        kind = f' class="{kinds[index]}"' if kinds else ""
        cells_ = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        body += f'<tr{kind}><th scope="row">{escape(first)}</th>{cells_}</tr>'
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _tables(done: Sequence[Entry]) -> str:
    """Every figure of every task, folded away."""
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
                rows.append(["teacher", str(p["steps"]), str(p["nfe"]), "", *cells_])
                kinds.append("teacher")
        for entry in of_task:
            gaps = entry.gaps()
            for p in mean_points(entry, "student"):
                there = [value for value in gaps.get(p["steps"], []) if value is not None]
                gap = percent(sum(there) / len(there)) if there else "–"
                cells_ = [number(p["metrics"].get(name)) for name in names]
                rows.append([entry.recipe, str(p["steps"]), str(p["nfe"]), gap, *cells_])
                kinds.append("other")
        if metrics["floor"]:
            rows.append(["real data", "", "", "", *(number(metrics["floor"].get(name)) for name in names)])
            kinds.append("floor")
        made = table(["", "steps", "NFE", "gap closed", *names], rows, kinds)
        folded.append(f"<details><summary>{escape(task)}</summary>{made}</details>")
    if not folded:
        return ""
    return f"<section><h2>Figures</h2>{''.join(folded)}</section>"


def _seconds(done: Sequence[Entry]) -> str:
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
    if not rows:
        return ""
    head = ["task", "recipe", "full teacher", *(plural(k) for k in counts)]
    note = (
        "Wall time of sampling alone in the batches of the evaluation, means over seeds; in brackets how many times "
        "faster than the full teacher."
    )
    return f'<section><h2>Seconds a sample</h2>{table(head, rows)}<p class="note">{note}</p></section>'


def _cost(done: Sequence[Entry]) -> str:
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
    if not rows:
        return ""
    head = ["task", "recipe", "seeds", "updates", "training", "in all", "network calls"]
    note = "Means over seeds. In all: from start to end of the process, with the evaluation of both models."
    return (
        f'<section><h2>Training cost</h2><div class="long">{table(head, rows)}</div>'
        f'<p class="note">{note}</p></section>'
    )


def _unfinished(folder: Path, found: Sequence[Found]) -> str:
    rows = []
    for each in cells.single(found):
        if each.status == cells.FINISHED:
            continue
        status = each.outcome.exit_status if each.outcome else None
        said = f" (exit status {status})" if each.status == cells.FAILED and status is not None else ""
        log = cells.log_file(each.run)
        link = ""
        if log.is_file():
            address = escape(quote(log.relative_to(folder).as_posix()), quote=True)
            link = f' <a href="{address}">what it said</a>'
        kind = each.status.replace(" ", "-")
        name = (
            str(each.cell) if each.cell.column else each.cell.task
        )  # of a broken file the place is all one knows
        rows.append(
            f'<dt>{escape(name)}</dt><dd><span class="state {kind}">'
            f"{escape(each.status)}{said}</span> {escape(each.reason)}{link}</dd>"
        )
    if not rows:
        return ""
    return f'<section id="unfinished"><h2>Not finished</h2><dl class="wide">{"".join(rows)}</dl></section>'


def _machines(done: Sequence[Entry]) -> str:
    environments = {
        ", ".join(f"{key} {value}" for key, value in Entry.document(found)["environment"].items())
        for entry in done
        for found in entry.done
    }
    if not environments:
        return ""
    listed = "".join(f'<p class="note">{escape(text)}</p>' for text in sorted(environments))
    return f"<section><h2>Machine</h2>{listed}</section>"
