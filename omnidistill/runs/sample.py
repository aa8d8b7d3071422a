"""Samples from a run's folder, in the modality's own format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from omnidistill.errors import UserError
from omnidistill.student import load


def sample(
    folder: str | FilePath,
    steps: int | None,
    count: int,
    seed: int,
    out: str | FilePath,
    *,
    device: str = "cpu",
    condition: int | None = None,
    trust: Sequence[str] = (),
) -> list[FilePath]:
    """Draws `count` samples of the student and writes them at `out`; returns the files.

    Args:
        out: the file to write; its suffix, if it has one, must be the modality's own.
    """
    student = load(folder, device, trust=trust)
    assert student.task is not None  # a folder with config and task; load() has complained otherwise
    target = FilePath(out)
    known = {".png", student.task.file_suffix()}
    if target.suffix and target.suffix not in known:
        raise UserError(
            f"{student.task.name} writes {' and '.join(sorted(known))}, not '{target.suffix}'; change out="
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    context = student.context(count, seed, condition)
    x0 = student.sample(count, steps, seed, context=context).cpu()
    return student.task.render(x0, context, target.with_suffix(""))
