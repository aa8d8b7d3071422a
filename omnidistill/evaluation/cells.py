"""The folder of a sweep: which cells it has, and what lies in each.

    sweep.json                            the cells that were asked for, and the recipe that was taken in each
    TASK/RECIPE/SEED/                     a run of `distill`
    TASK/RECIPE/SEED.json and SEED.log    how its process ended, and what it said
    results.jsonl, report.html            made anew from the above

A cell is what its files say, so that a sweep that was killed at any time is read like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.errors import UserError
from omnidistill.evaluation import metrics_file

SCHEMA = 1
NAME = "sweep.json"
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
WAITING, NOT_POSSIBLE = "waiting", "not possible"


@dataclass(frozen=True, slots=True)
class Cell:
    """One task, recipe and seed.

    Attributes:
        column: the heading of the matrix under which it stands.
        choice: the recipes it may be, as written: `A/B`.
        recipe: the one that it is; None where the task allows none of them.
        reason: why it allows none.
    """

    task: str
    column: str
    choice: str
    seed: int
    recipe: str | None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells a cell from all others of the sweep."""
        return self.task, self.column, self.choice, self.seed

    @property
    def folder(self) -> Path:
        """Of its run, below that of the sweep."""
        return Path(self.task, self.recipe or self.choice, str(self.seed))

    def __str__(self) -> str:
        return f"{self.task} · {self.recipe or self.choice} · seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the process of a cell ended.

    Attributes:
        status: finished, failed or interrupted; a process that was never seen to end counts as interrupted.
        exit_status: of the process, as a shell gives it; None where it was not seen to end.
        reason: one line, empty where it finished.
        seconds: of wall time, over all attempts.
        attempts: how often it was started.
    """

    status: str
    exit_status: int | None = None
    reason: str = ""
    seconds: float = 0.0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A cell with what lies in it; `run` is its folder, `metrics` the metrics.json of a finished one."""

    cell: Cell
    run: Path
    status: str
    reason: str
    outcome: Outcome | None
    metrics: Mapping[str, Any] | None

    @property
    def seconds(self) -> float:
        """Wall time where it is known, else that of the training."""
        if self.outcome and self.outcome.seconds:
            return self.outcome.seconds
        return 0.0 if self.metrics is None else float(self.metrics["training"]["seconds"])


def read_cells(folder: Path) -> list[Cell]:
    """The cells of sweep.json; [] where there is none.

    Raises:
        UserError: the file is broken or of another schema.
    """
    file = folder / NAME
    if not file.exists():
        return []
    document = received.read_json(file)
    try:
        if document["schema"] != SCHEMA:
            raise UserError(f"{file} has schema {document['schema']}, expected {SCHEMA}")
        return [_checked(Cell(**cell)) for cell in document["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not the file of a sweep ({' '.join(str(error).split())})") from error


def _checked(cell: Cell) -> Cell:
    """The cell, if its folder is one below the sweep's: the file may have come with the folder."""
    texts = (cell.task, cell.column, cell.choice, cell.reason, cell.recipe or "")
    if not all(isinstance(text, str) for text in texts) or type(cell.seed) is not int or cell.seed < 0:
        raise ValueError(f"{cell!r:.200} has no names and seed")
    for name in (cell.task, cell.choice, *([cell.recipe] if cell.recipe else [])):
        if (
            not name
            or Path(name).is_absolute()
            or {"..", "."} & {*name.split("/")}
            or "\0" in name
            or len(name) > 200
        ):
            raise ValueError(f"'{name}' is no name of a task or a recipe")
    return cell


def read_commands(folder: Path) -> list[str]:
    """The commands that made a sweep, in their order; [] where none was recorded."""
    try:
        commands = json.loads((folder / NAME).read_text(encoding="utf-8")).get("commands", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [command for command in commands if isinstance(command, str)] if isinstance(commands, list) else []


def write_cells(cells: Iterable[Cell], folder: Path, command: str = "") -> None:
    """Writes sweep.json; `command` is added to those that are recorded there."""
    commands = list(dict.fromkeys([*read_commands(folder), *([command] if command else [])]))
    document = {"schema": SCHEMA, "commands": commands, "cells": [asdict(cell) for cell in cells]}
    metrics_file.write_whole(folder / NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def outcome_file(run: Path) -> Path:
    """How the last process of the cell ended lies beside the run's folder, which a fresh start removes."""
    return run.with_name(run.name + ".json")


def log_file(run: Path) -> Path:
    """What the processes of the cell said, beside the run's folder."""
    return run.with_name(run.name + ".log")


def read_outcome(run: Path) -> Outcome | None:
    """How the last process of a cell ended; None where there is no word of any, or half of one."""
    try:
        return Outcome(**json.loads(outcome_file(run).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_outcome(outcome: Outcome, run: Path) -> None:
    """Writes it whole or not at all."""
    text = json.dumps(asdict(outcome), indent=1, ensure_ascii=False) + "\n"
    metrics_file.write_whole(outcome_file(run), text)


def look(folder: Path, cell: Cell) -> Found:
    """What lies in a cell now."""
    run = folder / cell.folder
    if cell.recipe is None:
        return Found(cell, run, NOT_POSSIBLE, cell.reason, None, None)
    outcome = read_outcome(run)
    if outcome and outcome.status == FAILED:
        return Found(cell, run, FAILED, outcome.reason, outcome, None)
    metrics = _finished(run)
    if metrics is not None:
        return Found(cell, run, FINISHED, "", outcome, metrics)
    if outcome or (run / "config.yaml").is_file():
        return Found(cell, run, INTERRUPTED, outcome.reason if outcome else "", outcome, None)
    return Found(cell, run, WAITING, "", None, None)


def _finished(run: Path) -> dict[str, Any] | None:
    """The metrics of a run that has come to its end: report.html is the last file that it writes, and a run that is
    gone on with for further updates has the metrics of the former ones for a while."""
    from omnidistill.evaluation.report.run import read_config

    try:
        metrics = metrics_file.read_metrics(run)
        wanted = read_config(run / "config.yaml")[0].get("updates")
    except UserError:
        return None
    whole = wanted in (None, metrics["training"]["student_updates"]) and (run / "report.html").is_file()
    return metrics if whole else None


def find(folder: Path) -> list[Found]:
    """Every cell of a sweep with what lies in it; without sweep.json, the runs below the folder."""
    if cells := read_cells(folder):
        return [look(folder, cell) for cell in cells]
    found = []
    for run in sorted(path.parent for path in folder.rglob(metrics_file.NAME) if path.parent != folder):
        try:
            metrics = metrics_file.read_metrics(run)
        except UserError as error:
            name = run.relative_to(folder).as_posix()
            found.append(Found(Cell(name, "", "", 0, None), run, FAILED, str(error), None, None))
            continue
        task, recipe, seed = metrics["task"], metrics["recipe"], metrics["seed"]
        found.append(Found(Cell(task, recipe, recipe, seed, recipe), run, FINISHED, "", None, metrics))
    return found


def single(found: Iterable[Found]) -> list[Found]:
    """The cells without those that are in two columns for the second time."""
    return list({each.run: each for each in reversed(list(found))}.values())[::-1]
