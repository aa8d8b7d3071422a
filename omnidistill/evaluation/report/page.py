"""Puts a page together and writes it. The page loads nothing: style, curves, pictures and players are inside it."""

from __future__ import annotations

from pathlib import Path

from omnidistill.errors import UserError
from omnidistill.evaluation import cells, metrics_file
from omnidistill.evaluation.report import sections, sweep
from omnidistill.evaluation.report.markup import render
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
        page = render("run.html", **sections.values(read_run(folder)))
    elif found := cells.find(folder):
        page = render("sweep.html", **sweep.values(folder, found))
    else:
        raise UserError(f"no {metrics_file.NAME} in {folder} or its subfolders; nothing to report yet")
    target = folder / NAME
    metrics_file.write_whole(target, page + "\n")
    return target
