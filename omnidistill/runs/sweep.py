"""The matrix: every cell a run of `distill` in a process of its own, so that whatever befalls one stops no other.

A cell is looked at before it is run, so the same command does what is missing and nothing else: what is finished is
left alone, what was interrupted goes on from its checkpoint, what failed waits for `retry`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from omnidistill.configuration import compose as config
from omnidistill.configuration import run_file
from omnidistill.configuration.sweep_plan import Wish
from omnidistill.data.files import refuse_links
from omnidistill.errors import UserError
from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Cell, Found, Outcome
from omnidistill.evaluation.gap import best_gap
from omnidistill.evaluation.report import write_report
from omnidistill.evaluation.report.words import duration, plural
from omnidistill.evaluation.results_file import write_results
from omnidistill.runs import folders, launched, process
from omnidistill.runs.board import Board

DISTILL = (sys.executable, "-m", "omnidistill", "distill")
POSSIBLE = (sys.executable, "-m", "omnidistill.runs.possible")
LOCK = ".lock"

FREE = (
    *("resume", "device", "threads", "trust", "checkpoint", "log", "about", "out"),
    *(key for key in run_file.FREE_TO_CHANGE if key.startswith("recipe.")),
)
"""What may differ between two calls of one sweep; with anything else changed its cells could not be compared."""


@dataclass(frozen=True)
class _Job:
    """A cell and the overrides of its run."""

    cell: Cell
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Swept:
    """All cells of the folder, those of former calls included, and how many were run in this one."""

    cells: list[Found]
    ran: int


def sweep(
    wishes: Sequence[Wish],
    out: str | Path,
    *,
    retry: bool = False,
    command: str = "",
    launcher: Mapping[str, str] | None = None,
) -> Swept:
    """Runs what is missing of the cells.

    Writes `sweep.json`, `results.jsonl` (after each cell) and `report.html` in `out`.

    Args:
        retry: run the cells again that have failed.
        launcher: a Hydra launcher that runs the cells, see `launched.launch`; None: one after another, here.

    Raises:
        UserError: a configuration that cannot be composed or differs from that of a cell that is there already; a
            folder that is something else; another sweep at work in it. Nothing has been run then.
        KeyboardInterrupt: after the running cell has kept its checkpoint and the results are written.
    """
    out = Path(out)
    for wish in wishes:  # every mistake is said before anything is made
        for recipe in wish.choices:
            _composed(wish, recipe, out)
    folder = folders.prepare(out, resume=True, mark=cells.NAME)
    with _alone(folder) as lock:
        refuse_links(folder, (".",))
        former = {cell.key: cell for cell in cells.read_cells(folder)}
        jobs = _resolved(wishes, folder, former)
        for job in jobs:
            _check_same(job, folder)
        cells.write_cells({**former, **{job.cell.key: job.cell for job in jobs}}.values(), folder, command)
        todo = _missing(jobs, folder, retry)
        try:
            with Board(len(todo), sys.stderr) as board:
                for job in (job for job in jobs if job.cell.recipe is None):
                    board.say(line(cells.look(folder, job.cell)))
                if launcher:
                    _launch(todo, folder, launcher, board)
                for job in [] if launcher else todo:
                    board.begin(str(job.cell))
                    found, stopped = _run(job, folder, lock, DISTILL)
                    write_results(cells.find(folder), folder)
                    board.end(line(found))
                    if stopped:
                        raise KeyboardInterrupt
        finally:
            everything = cells.find(folder)
            write_results(everything, folder)
            write_report(folder)
    return Swept(everything, len(todo))


def line(found: Found) -> str:
    """One cell as a line: what it is, what it came to, how long it took."""
    if found.metrics is None:
        return f"{found.cell}: {found.status}" + (f" ({found.reason})" if found.reason else "")
    best = best_gap(found.metrics)
    gap = "no gap to close" if best is None else f"gap closed {best[1]:.1f} % at {plural(best[0])}"
    return f"{found.cell}: {gap}, {duration(found.seconds)}"


def _composed(wish: Wish, recipe: str, out: Path) -> Any:
    place = out / wish.task / recipe / str(wish.seed)
    try:
        return config.compose("config", wish.run(recipe, place))
    except UserError as error:
        raise UserError(f"{wish.task} · {recipe}: {error}") from error


def _resolved(wishes: Sequence[Wish], folder: Path, former: dict[Any, Cell]) -> list[_Job]:
    """Each wish with the first recipe that its task allows. A choice once made stays, or a cell would have two."""
    made: list[Cell | None] = []
    for wish in wishes:
        known = former.get((wish.task, wish.column, wish.choice, wish.seed))
        if known and known.recipe and known.recipe not in wish.choices:
            raise UserError(
                f"{folder / cells.NAME} has {known}, which is none of {wish.choice}; choose another out"
            )
        made.append(known if known and known.recipe else None)
    open_ = [wish for wish, cell in zip(wishes, made, strict=True) if cell is None]
    answers = iter(_reasons([[wish.run(recipe, folder) for recipe in wish.choices] for wish in open_]))
    jobs = []
    for wish, cell in zip(wishes, made, strict=True):
        if cell is None:
            reasons = next(answers)
            recipe = wish.choices[len(reasons) - 1] if reasons[-1] is None else None
            why = "" if recipe else "; ".join(text for text in reasons if text)
            cell = Cell(wish.task, wish.column, wish.choice, wish.seed, recipe, why)
        overrides = wish.run(cell.recipe, folder / cell.folder) if cell.recipe else []
        jobs.append(_Job(cell, tuple(overrides)))
    return jobs


def _reasons(choices: Sequence[Sequence[Sequence[str]]]) -> list[list[str | None]]:
    """For each choice why its runs cannot be, up to the first that can, with None. Should the process that answers die,
    the first ones run, and say of what."""
    if not choices:
        return []
    # Of several seeds one is enough.
    asked = [
        tuple(tuple(item for item in run if not item.startswith("seed=")) for run in runs) for runs in choices
    ]
    different = list(dict.fromkeys(asked))
    done = subprocess.run(
        POSSIBLE,
        input=json.dumps(different),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=process.with_its_parent(),
    )
    if done.returncode != 0:
        return [[None] for _ in choices]
    answers = dict(zip(different, json.loads(done.stdout.splitlines()[-1]), strict=True))
    return [answers[runs] for runs in asked]


def _check_same(job: _Job, folder: Path) -> None:
    place = folder / job.cell.folder
    if job.cell.recipe is None or not (place / "config.yaml").is_file():
        return
    if differs := run_file.difference(config.compose("config", job.overrides), place, FREE):
        key, former, now = differs
        raise UserError(
            f"out={folder} has {job.cell} with another configuration: {key} was {former} and is now {now}; "
            "choose another out"
        )


def _missing(jobs: Sequence[_Job], folder: Path, retry: bool) -> list[_Job]:
    wanted = {cells.WAITING, cells.INTERRUPTED, *([cells.FAILED] if retry else [])}
    todo = [job for job in jobs if cells.look(folder, job.cell).status in wanted]
    return list({job.cell.folder: job for job in todo}.values())  # two columns may come to the same run


def _launch(todo: Sequence[_Job], folder: Path, launcher: Mapping[str, str], board: Board) -> None:
    """All cells at once, as far as the launcher lets them; what each came to is said when the last one is done."""
    described = [{"cell": asdict(job.cell), "overrides": job.overrides, "start": DISTILL} for job in todo]
    board.begin(f"{len(todo)} cells by {launcher['']}")
    launched.launch(described, folder, launcher)
    for job in todo:
        board.end(line(cells.look(folder, job.cell)))


def run_described(described: Mapping[str, Any], folder: Path) -> None:
    """A cell that `_launch` described, in the process of a launcher. Its own folder keeps out who else would run it."""
    job = _Job(Cell(**described["cell"]), tuple(described["overrides"]))
    with (folder / LOCK).open("a") as beside:  # the sweep that waits for all of them has the lock itself
        _run(job, folder, beside, described["start"])


def _run(job: _Job, folder: Path, lock: IO[str], start: Sequence[str]) -> tuple[Found, bool]:
    """One cell in its own process, and whether it was stopped: Ctrl-C reaches it, and it keeps its checkpoint."""
    place = folders.inside(folder, job.cell.folder)
    resume = (place / "config.yaml").is_file()
    if not resume and place.is_dir():
        shutil.rmtree(place)  # stopped before there was anything to go on with
    place.parent.mkdir(parents=True, exist_ok=True)
    before = cells.read_outcome(place) or Outcome(cells.INTERRUPTED)
    attempts = before.attempts + 1
    cells.write_outcome(Outcome(cells.INTERRUPTED, None, "", before.seconds, attempts), place)
    command = [*start, *job.overrides, *(["resume=true"] if resume else [])]
    began = time.monotonic()
    with cells.log_file(place).open("a", encoding="utf-8") as log:
        status, stopped = process.wait(command, log, lock)
    seconds = round(before.seconds + time.monotonic() - began, 1)

    def ended(kind: str, reason: str = "") -> Found:
        cells.write_outcome(Outcome(kind, status, reason, seconds, attempts), place)
        return cells.look(folder, job.cell)

    if stopped or status == 130:
        return ended(cells.INTERRUPTED, "stopped; the same command goes on"), True
    if status != 0:
        return ended(cells.FAILED, process.reason(status, cells.log_file(place))), False
    found = ended(cells.FINISHED)
    return (found if found.metrics else ended(cells.FAILED, "it ended well and left no whole results")), False


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """Keeps a second sweep out, also while a cell outlives the sweep that started it."""
    # A file rather than the folder: a cell is given it, too, and holds it for as long as it lives.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with open(os.open(folder / LOCK, flags, 0o666), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another sweep is at work in out={folder}; wait for it, or stop it") from error
        yield lock
