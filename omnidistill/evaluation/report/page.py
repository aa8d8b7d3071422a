"""Puts a page together and writes it. The page loads nothing: style, curves, pictures and players are inside it."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from omnidistill.errors import UserError
from omnidistill.evaluation import cells, metrics_file
from omnidistill.evaluation.report import samples, sections, sweep
from omnidistill.evaluation.report.run import read_run

NAME = "report.html"


def write_report(folder: str | Path) -> Path:
    """Writes `folder/report.html` from what the run left there and returns its path.

    A folder without metrics.json that has sweep.json, or whose subfolders have a metrics.json, is a sweep: its page
    compares tasks and recipes, with links to the pages of the runs.

    Raises:
        UserError: there is no finished run in `folder`, a file of it is broken, or the page cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; `omnidistill report` takes the out= of a run or of a sweep")
    if (folder / metrics_file.NAME).is_file():
        title, body = _run_page(folder)
    elif found := cells.find(folder):
        title, body = f"sweep {folder.resolve().name}", sweep.sweep_page(folder, found)
    else:
        raise UserError(f"no {metrics_file.NAME} in {folder} or its subfolders; nothing to report yet")
    template = Template(files(__package__).joinpath("template.html").read_text(encoding="utf-8"))
    target = folder / NAME
    metrics_file.write_whole(target, template.substitute(title=escape(title), body=body))
    return target


def _run_page(folder: Path) -> tuple[str, str]:
    run = read_run(folder)
    parts = (
        sections.header(run),
        sections.quality_section(run),
        sections.table_section(run),
        samples.samples_section(run),
        sections.training_section(run),
        sections.cost_section(run),
    )
    return f"{run.metrics['task']} · {run.metrics['recipe']}", "\n".join(parts)
