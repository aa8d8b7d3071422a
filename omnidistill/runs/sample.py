"""Samples from a run's folder, out of noise or for the user's own inputs, in the modality's own format."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from torch import Tensor

from omnidistill.context import Context
from omnidistill.data.files import expanded
from omnidistill.errors import UserError
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.runs import folders
from omnidistill.samplers.translation import source
from omnidistill.student import Student, load
from omnidistill.tasks import Task


def sample(
    folder: str | FilePath,
    steps: int | None,
    count: int,
    seed: int,
    out: str | FilePath,
    *,
    device: str = "cpu",
    condition: int | str | None = None,
    trust: Sequence[str] = (),
) -> list[FilePath]:
    """Draws `count` samples of the student and writes them at `out`; returns the files.

    Args:
        condition: one label for all samples, by its number or its name. A student that translates makes them of as many
            held-out samples, each of its own label.
        out: the file to write; its suffix, if it has one, must be one that the modality writes.
    """
    student = load(folder, device, trust=trust)
    assert student.task is not None  # a folder with config and task; load() has complained otherwise
    target = FilePath(out)
    known = student.task.file_suffixes()
    if target.suffix and target.suffix not in known:
        raise UserError(
            f"{student.task.name} writes {' and '.join(known)}, not '{target.suffix}'; change out="
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if student.translates:
        x0, context = _translated(student, student.task, steps, count, seed, condition)
    else:
        context = student.context(count, seed, condition)
        x0 = student.sample(count, steps, seed, context=context).cpu()
    return student.task.render(x0, context, target.with_suffix(""))


def _translated(
    student: Student, task: Task, steps: int | None, count: int, seed: int, condition: int | str | None
) -> tuple[Tensor, Context]:
    """What is made of held-out data, each of it of another label or, where one is asked for, all of it of that."""
    held = task.batch(count, generator(seed, "sample", "contexts"), "held_out")
    g = generator(seed, "sample", "sources")
    of, context = source(held, g, g).x0, held.context
    if condition is not None:
        assert held.x0 is not None  # its source has said so
        of, context = held.x0, student.context(count, seed, condition)
    return student.translate(of, context.condition, steps, seed).cpu(), context


def sample_inputs(
    folder: str | FilePath,
    source: str | FilePath,
    out: str | FilePath,
    steps: int | None = None,
    seed: int = 0,
    *,
    device: str = "cpu",
    trust: Sequence[str] = (),
) -> tuple[list[FilePath], dict[str, str]]:
    """One sample for each input at `source`, written in the folder `out`, which this makes.

    Returns:
        The files, and by name what was wrong with the inputs that have none.

    Raises:
        UserError: there is no such source, `out` holds files already or is where the inputs are, or nothing was read.
    """
    place, target = expanded(source).resolve(), expanded(out)
    if not place.exists():
        raise UserError(f"input={source} does not exist")
    if not (place.is_dir() or place.is_file()):
        raise UserError(f"input={source} is neither a file nor a folder; a pipe or a device may never end")
    inside = place if place.is_dir() else place.parent
    if target.resolve() == inside or (place.is_dir() and inside in target.resolve().parents):
        raise UserError(f"out={out} is where the inputs are; choose another folder")
    student = load(folder, device, trust=trust)
    assert student.task is not None  # as above
    folders.prepare(target)
    files: list[FilePath] = []
    wrong: dict[str, str] = {}
    taken: set[str] = set()
    # A folder is read as it is sampled for, file by file; a file may hold many inputs, and is read to count them.
    listed = (
        (file for file in place.rglob("*") if file.is_file())
        if place.is_dir()
        else student.task.inputs(place)
    )
    with track(sum(1 for _ in listed), "sampling") as advance:
        for name, x0, context in student.sample_for(place, steps, seed):
            unique = next(n for n in _numbered(name) if n not in taken)
            taken.add(unique)
            try:
                if isinstance(x0, UserError):
                    raise x0
                # A manifest may name anything.
                if target.resolve() not in (target / unique).resolve().parents:
                    raise UserError(f"the name leads out of {out}")
                (target / unique).parent.mkdir(parents=True, exist_ok=True)
                files.append(student.task.write(x0, context, target / unique))
            except UserError as error:
                wrong[unique] = " ".join(str(error).split())
            advance(1)
    if not files and not wrong:
        raise UserError(f"input={source} holds nothing that {student.task.name} can read")
    return files, wrong


def _numbered(name: str) -> Iterator[str]:
    """The name, then name_2, name_3, ...: a recording may be there in two formats."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))
