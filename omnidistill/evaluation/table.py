"""The result of a run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_table(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints teacher, student and floor of a metrics.json document: steps, NFE, metrics, seconds, gap closed."""
    from rich.console import Console

    (console or Console()).print(table(document))


def table(document: Mapping[str, Any]) -> Table:
    """The table itself, for other consoles."""
    from rich.table import Table

    primary, names = document["primary"]["name"], metric_names(document)
    made = Table(
        title=f"{document['task']} · {document['recipe']} · seed {document['seed']}", title_justify="left"
    )
    made.add_column("model")
    for head in ("steps", "NFE"):
        made.add_column(head, justify="right")
    for name in names:
        arrow = ({"lower": " ↓", "higher": " ↑"}[document["primary"]["better"]]) if name == primary else ""
        made.add_column(name + arrow, justify="right", style="bold" if name == primary else None)
    made.add_column("s/sample", justify="right")
    made.add_column("gap closed", justify="right")
    for model in ("teacher", "student"):
        points = document[model]
        for index, point in enumerate(points):
            gap = gap_text(document, point["steps"]) if model == "student" else ""
            made.add_row(
                model,
                str(point["steps"]),
                str(point["nfe"]),
                *(number(point["metrics"].get(name)) for name in names),
                number(point["seconds_per_sample"]),
                gap,
                style="cyan" if model == "student" else None,
                end_section=index == len(points) - 1,
            )
    if document["floor"]:
        made.add_row(
            "real data", "", "", *(number(document["floor"].get(name)) for name in names), "", "", style="dim"
        )
    return made


def metric_names(document: Mapping[str, Any]) -> list[str]:
    """Every metric of the document, the primary one first, the others as the points list them."""
    names = {document["primary"]["name"]: None}
    for point in (*document["teacher"], *document["student"]):
        names.update(dict.fromkeys(point["metrics"]))
    return list(names)


def gap_text(document: Mapping[str, Any], steps: int) -> str:
    """The gap closed at `steps`, e.g. "97.3 %"; a dash where there is no gap to close."""
    value = document["gap_closed"].get(str(steps))
    return "–" if value is None else f"{value:.1f} %"


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
        return f"{value:.3g}"
    return f"{value:.{max(0, 4 - len(str(int(size))))}f}"
