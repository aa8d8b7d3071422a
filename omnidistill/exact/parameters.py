"""Numbers, points and paths from a command line, checked: every mistake is one line that names the value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from omnidistill import paths
from omnidistill.errors import UserError, unknown
from omnidistill.paths import GaussianPath

GAUSSIAN_PATHS = (
    "rectified_flow",
    "vp_cosine",
    "vp_linear",
    "trigflow",
    "edm",
    "ouve",
    "grad_tts",
    "brownian_bridge",
    "residual_shift",
)


def number(name: str, value: Any) -> float:
    """`value` as a finite float."""
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be a number, got {value!r}") from error
    if not math.isfinite(result):
        raise UserError(f"{name} must be finite, got {result}")
    return result


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0."""
    result = number(name, value)
    if result <= 0:
        raise UserError(f"{name} must be above 0, got {result:g}")
    return result


def row(name: str, value: Any) -> list[float]:
    """`value`, any sequence of numbers, as a list of finite floats."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{name} must be a list of numbers, got {value!r}")
    return [number(f"{name}[{i}]", item) for i, item in enumerate(value)]


def table(name: str, value: Any) -> list[list[float]]:
    """`value`, rows of equal length, as lists of finite floats; at least one row and one column."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{name} must be a list of points, as in [[0,1],[2,3]], got {value!r}")
    rows = [row(f"{name}[{i}]", item) for i, item in enumerate(value)]
    widths = sorted({len(item) for item in rows})
    if not rows or widths == [0]:
        raise UserError(f"{name} is empty; give points as in [[0,1],[2,3]]")
    if len(widths) > 1:
        raise UserError(
            f"{name} must be points of one dimension, got points of {' and '.join(map(str, widths))} numbers"
        )
    return rows


def gaussian_path(
    path: GaussianPath | str, *, anchored: bool, among: Sequence[str] = GAUSSIAN_PATHS
) -> GaussianPath:
    """A Gaussian path, given as itself or by the name of its constructor, with or without an anchor as needed."""
    if isinstance(path, str):
        if path not in among:
            raise unknown("Gaussian path", path, among)
        path = getattr(paths, path)()
    if not isinstance(path, GaussianPath):
        raise UserError(f"this task needs a Gaussian path, got {path}; possible: {', '.join(among)}")
    if ("anchored" in path.offers) != anchored:
        wants = "needs a path with an anchor" if anchored else "has no anchor to give"
        fitting = [n for n in among if ("anchored" in getattr(paths, n)().offers) == anchored]
        raise UserError(f"this task {wants}, got path '{path.name}'; possible: {', '.join(fitting)}")
    return path
