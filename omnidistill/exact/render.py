"""Vectors as a scatter plot and as numbers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError


def write_whole(target: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a temporary file beside `target` and moves it there: a reader never sees half a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            staged = Path(work) / target.name
            write(staged)
            os.replace(staged, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _plane(real: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d 2"]]:
    """(origin, axes) of the plane to draw: the coordinates themselves up to d = 2, else the two principal
    axes of the real samples."""
    dim = real.shape[1]
    if dim <= 2:
        return real.new_zeros(dim), real.new_ones(1, 1).new_tensor(np.eye(dim, 2))
    origin = real.mean(0)
    _, _, axes = np.linalg.svd((real - origin).numpy(), full_matrices=False)
    return origin, real.new_tensor(axes[:2].T)


def scatter(
    samples: Float[Tensor, "n d"],
    real: Float[Tensor, "m d"],
    target: Path,
    title: str,
    numbers: Float[Tensor, "n d"] | None = None,
) -> list[Path]:
    """Writes `target.png`, the samples over real ones, and `target.csv`, one sample a line.

    Args:
        target: a path without suffix.
        numbers: to write instead of the samples.
    """
    from matplotlib.figure import Figure

    samples, real = samples.detach().cpu().double(), real.detach().cpu().double()
    if not samples.isfinite().all():
        raise UserError("cannot draw samples with NaN or infinite values")
    origin, axes = _plane(real)
    figure = Figure(figsize=(5.0, 5.0), layout="constrained")
    axis = figure.subplots()
    for points, colour, label, order in ((real, "0.75", "real", 1), (samples, "#1f5fa8", "generated", 2)):
        drawn = ((points - origin) @ axes).numpy()
        axis.scatter(
            drawn[:, 0], drawn[:, 1], s=6, c=colour, alpha=0.6, linewidths=0, label=label, zorder=order
        )
    names = ("x1", "x2") if real.shape[1] <= 2 else ("first principal axis", "second principal axis")
    axis.set(xlabel=names[0], ylabel=names[1], title=title)
    if real.shape[1] > 1:
        axis.set_aspect("equal", adjustable="datalim")
    axis.legend(loc="upper right", frameon=False, markerscale=2.5)
    picture = write_whole(target.with_name(target.name + ".png"), lambda file: figure.savefig(file, dpi=110))
    values = samples if numbers is None else numbers.detach().cpu().double()
    header = ",".join(f"x{i + 1}" for i in range(values.shape[1]))
    written = write_whole(
        target.with_name(target.name + ".csv"),
        lambda file: np.savetxt(file, values.numpy(), delimiter=",", fmt="%.7g", header=header, comments=""),
    )
    return [picture, written]
