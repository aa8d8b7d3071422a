"""The result of a run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omnidistill.evaluation.metrics_schema import former

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_table(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints teacher, student and floor of a metrics.json document: steps, NFE, metrics, seconds, gap closed."""
    from rich.console import Console

    console = console or Console()
    console.print(table(document, console.width))
    for line in document.get("warnings", ()):
        console.print(f"warning: {line}", markup=False, highlight=False)


def table(document: Mapping[str, Any], width: int = 10_000) -> Table:
    """The table itself. Metrics that do not fit in `width` characters are named below it instead of squeezed."""
    from rich import box
    from rich.table import Table

    head, rows = figures(document)
    shown, least = len(head), DECISIVE + len(document.get("shown", ()))
    while shown > least and sum(_needs(head[i], [row[i] for row in rows]) for i in range(shown)) + 1 > width:
        shown -= 1
    title = f"{document['task']} · {document['recipe']} · seed {document['seed']}"
    notes = [f"also measured: {', '.join(head[shown:])} (metrics.json)"] if shown < len(head) else []
    notes += [note] if (note := basis(document)) else []
    caption = "\n".join(notes) or None
    made = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for index, name in enumerate(head[:shown]):
        made.add_column(
            name.replace("_", " "),
            justify="right" if index else "left",
            style="bold" if index == PRIMARY else None,
            width=_needs(name, [row[index] for row in rows]) - 3,
        )
    styles = {"student": "cyan", "input": "dim", "real data": "dim"}
    for row, after in zip(rows, [*rows[1:], rows[-1]], strict=True):
        made.add_row(*row[:shown], style=styles.get(row[0]), end_section=row[0] != after[0])
    return made


def _needs(name: str, cells: Sequence[str]) -> int:
    """Characters of a column, whose head may break between words and whose cells may not, with the space between."""
    return max(map(len, (*name.replace("_", " ").split(), *cells))) + 3


DECISIVE = 5
"""Columns of `figures` that are always shown, beside those that the task names: up to the gap closed."""
PRIMARY = 3
"""The column of the primary metric in `figures`."""


def figures(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table, as text: what decides first, then what the task names, the other metrics last."""
    primary, *others = metric_names(document)
    named = [name for name in document.get("shown", ()) if name in others]
    others = [name for name in others if name not in named]
    arrow = {"lower": "↓", "higher": "↑"}[document["primary"]["better"]]
    head = ["model", "steps", "NFE", f"{primary} {arrow}", "gap closed", *named, "s/sample", *others]

    def row(start: list[str], metrics: Mapping[str, float], ends: Any, gap: str, seconds: str) -> list[str]:
        first = within(metrics.get(primary), ends)
        return [
            *(*start, first, gap, *(number(metrics.get(n)) for n in named), seconds),
            *(number(metrics.get(n)) for n in others),
        ]

    rows = []
    for model in ("teacher", "student"):
        for point in document[model]:
            gap = gap_text(document, point["steps"]) if model == "student" else ""
            start = [model, str(point["steps"]), f"{point['nfe']:g}"]
            seconds = number(point["seconds_per_sample"])
            rows.append(row(start, point["metrics"], point.get("interval"), gap, seconds))
    for name, other in document.get("transitions", {}).items():
        for point in other["points"]:
            closed = other["gap_closed"].get(str(point["steps"]))
            start = [f"student, {name}", str(point["steps"]), str(point["nfe"])]
            gap, seconds = "" if closed is None else percent(closed), number(point["seconds_per_sample"])
            rows.append(row(start, point["metrics"], point.get("interval"), gap, seconds))
    if given := document.get("input"):
        rows.append(row(["input", "", ""], given["metrics"], given.get("interval"), "", ""))
    if document["floor"]:
        rows.append(row(["real data", "", ""], document["floor"], None, "", ""))
    return head, rows


def basis(document: Mapping[str, Any]) -> str:
    """What the figures rest on: how many samples, and what stands behind a `±`; or that they are of a former kind."""
    if former(document):
        return (
            "schema 1: no intervals; an energy distance is the former statistic, which reads too high near 0"
        )
    samples = document["samples"]
    known = any(point.get("interval") for point in (*document["teacher"], *document["student"]))
    spread = "±: half the 95 % interval, bootstrap over samples" if known else "too few for an interval"
    return f"{samples} samples; {spread}" if samples else ""


def metric_names(document: Mapping[str, Any]) -> list[str]:
    """Every metric of the document, the primary one first, the others as the points list them."""
    names = {document["primary"]["name"]: None}
    for point in (*document["teacher"], *document["student"]):
        names.update(dict.fromkeys(point["metrics"]))
    return list(names)


def gap_text(document: Mapping[str, Any], steps: int) -> str:
    """The gap closed at `steps` with half its interval, e.g. "97.3 ±0.8 %"; "no gap" where there is none to close, a
    dash at the full teacher's own steps."""
    value = document["gap_closed"].get(str(steps))
    if value is None:
        full = max((point["steps"] for point in document["teacher"]), default=None)
        return "–" if steps == full else "no gap"
    ends = document.get("gap_interval", {}).get(str(steps))
    return percent(value) if ends is None else f"{percent(value)[:-2]} ±{(ends[1] - ends[0]) / 2:.1f} %"


def within(value: float | None, ends: Sequence[float] | None) -> str:
    """A figure with half its interval, e.g. "0.0880 ±0.012"."""
    return number(value) if ends is None else f"{number(value)} ±{(ends[1] - ends[0]) / 2:.2g}"


def percent(value: float) -> str:
    """`97.3 %`, with a true minus sign, and none before a zero."""
    return f"{round(value, 1) + 0.0:.1f} %".replace("-", "−")


def number(value: float | None) -> str:
    """Four significant digits, without an exponent where it can be helped; empty for what was not measured."""
    if value is None:
        return ""
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e6:
        return f"{value:.2e}"
    if size < 0.1:
        return f"{value:#.3g}"
    return f"{value:.{max(0, 4 - len(str(int(size))))}f}"
