"""The page of a sweep: gap closed for each task and recipe."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omnidistill.errors import UserError
from omnidistill.evaluation import metrics_file
from omnidistill.evaluation.table import gap_text


def find_runs(folder: Path) -> list[Path]:
    """The folders below `folder` that hold a metrics.json."""
    return sorted(path.parent for path in folder.rglob(metrics_file.NAME) if path.parent != folder)


def sweep_page(folder: Path, runs: list[Path]) -> str:
    """A row a task, a column a recipe, in each cell a line a run: steps and gap closed, linked to the run's page."""
    cells: dict[tuple[str, str], list[str]] = {}
    broken = []
    for run in runs:
        try:
            document = metrics_file.read_metrics(run)
        except UserError as error:
            broken.append(str(error))
            continue
        cells.setdefault((document["task"], document["recipe"]), []).append(_line(folder, run, document))
    tasks, recipes = (list(dict.fromkeys(key[i] for key in sorted(cells))) for i in (0, 1))
    head = "".join(f"<th>{escape(recipe)}</th>" for recipe in sorted(recipes))
    rows = "".join(
        f'<tr><th scope="row">{escape(task)}</th>'
        + "".join(f"<td>{''.join(cells.get((task, recipe), ['–']))}</td>" for recipe in sorted(recipes))
        + "</tr>"
        for task in tasks
    )
    notes = "".join(f'<p class="note">{escape(message)}</p>' for message in broken)
    return (
        f"<header><h1>{escape(folder.resolve().name)}</h1></header><section><h2>Gap closed</h2>"
        f'<div class="scroll"><table class="matrix"><thead><tr><th>task</th>{head}</tr></thead><tbody>{rows}</tbody>'
        '</table></div><p class="note">Percent of the way from the teacher at the student\'s steps to the full '
        f"teacher; a dash where there is no gap to close or no run.</p>{notes}</section>"
    )


def _line(folder: Path, run: Path, document: dict[str, Any]) -> str:
    gaps = ", ".join(f"{steps}: {gap_text(document, int(steps))}" for steps in document["gap_closed"])
    text = escape(f"seed {document['seed']} · steps {gaps}" if gaps else f"seed {document['seed']}")
    page = run / "report.html"
    if not page.is_file():
        return f"<div>{text}</div>"
    return f'<div><a href="{escape(quote(page.relative_to(folder).as_posix()), quote=True)}">{text}</a></div>'
