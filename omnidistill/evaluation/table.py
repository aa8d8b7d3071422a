"""The result of a run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_table(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints teacher, student and floor of a metrics.json document: steps, NFE, metrics, seconds, gap closed."""
    from rich.console import Console

    console = console or Console()
    console.print(table(document, console.width))


def table(document: Mapping[str, Any], width: int = 10_000) -> Table:
    """The table itself. Metrics that do not fit in `width` characters are named below it instead of squeezed."""
    from rich import box
    from rich.table import Table

    head, rows = figures(document)
    shown = len(head)
    while (
        shown > DECISIVE and sum(_needs(head[i], [row[i] for row in rows]) for i in range(shown)) + 1 > width
    ):
        shown -= 1
    title = f"{document['task']} · {document['recipe']} · seed {document['seed']}"
    caption = f"also measured: {', '.join(head[shown:])} (metrics.json)" if shown < len(head) else None
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
    styles = {"student": "cyan", "real data": "dim"}
    for row, after in zip(rows, [*rows[1:], rows[-1]], strict=True):
        made.add_row(*row[:shown], style=styles.get(row[0]), end_section=row[0] != after[0])
    return made


def _needs(name: str, cells: Sequence[str]) -> int:
    """Characters of a column, whose head may break between words and whose cells may not, with the space between."""
    return max(map(len, (*name.replace("_", " ").split(), *cells))) + 3


DECISIVE = 6
"""Columns of `figures` that are always shown: up to the seconds per sample."""
PRIMARY = 3
"""The column of the primary metric in `figures`."""


def figures(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table, as text: what decides first, the other metrics last."""
    primary, *others = metric_names(document)
    arrow = {"lower": "↓", "higher": "↑"}[document["primary"]["better"]]
    head = ["model", "steps", "NFE", f"{primary} {arrow}", "gap closed", "s/sample", *others]
    rows = []
    for model in ("teacher", "student"):
        for point in document[model]:
            metrics = point["metrics"]
            gap = gap_text(document, point["steps"]) if model == "student" else ""
            start = [model, str(point["steps"]), str(point["nfe"]), number(metrics[primary]), gap]
            rows.append(
                [*start, number(point["seconds_per_sample"]), *(number(metrics.get(n)) for n in others)]
            )
    if document["floor"]:
        floor = document["floor"]
        rows.append(
            ["real data", "", "", number(floor.get(primary)), "", "", *(number(floor.get(n)) for n in others)]
        )
    return head, rows


def metric_names(document: Mapping[str, Any]) -> list[str]:
    """Every metric of the document, the primary one first, the others as the points list them."""
    names = {document["primary"]["name"]: None}
    for point in (*document["teacher"], *document["student"]):
        names.update(dict.fromkeys(point["metrics"]))
    return list(names)


def gap_text(document: Mapping[str, Any], steps: int) -> str:
    """The gap closed at `steps`, e.g. "97.3 %"; a dash where there is no gap to close."""
    value = document["gap_closed"].get(str(steps))
    return "–" if value is None else percent(value)


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
