"""States of other sizes: means over areas downwards, cubic interpolation upwards, along any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor

CUBIC = -0.75
"""Slope of the kernel at a distance of one (Keys 1981 takes -0.5; torch's bicubic interpolation this)."""


def resized(x: Float[Tensor, "..."], sizes: Sequence[int]) -> Float[Tensor, "..."]:
    """x with its last axes of these sizes; x itself where it has them. Linear in x, one matrix an axis (`resizing`)."""
    for axis, to in enumerate(sizes, start=x.ndim - len(sizes)):
        if x.shape[axis] != to:
            with torch.autocast(x.device.type, enabled=False):
                x = (x.movedim(axis, -1) @ resizing(x.shape[axis], to).to(x).mT).movedim(-1, axis)
    return x


@lru_cache(maxsize=256)
def resizing(size: int, to: int) -> Float64[Tensor, "to size"]:
    """What takes `size` numbers to `to`; each of its rows sums to 1.

    Fewer are means over areas, of which the cells at the edges may have a share; more lie on cubic curves through their
    neighbours, positions being the middles of cells, with the last value repeated beyond the ends.
    """
    rows = []
    for i in range(to):
        low, high = i * size / to, (i + 1) * size / to
        row = [0.0] * size
        if to < size:
            for j in range(int(low), min(size, math.ceil(high))):
                row[j] = (min(high, j + 1) - max(low, j)) / (high - low)
        else:
            middle = (low + high) / 2 - 0.5
            for j in range(math.floor(middle) - 1, math.floor(middle) + 3):
                row[min(max(j, 0), size - 1)] += _cubic(abs(middle - j))
        rows.append(row)
    with torch.inference_mode(False):  # it is kept, for who trains, too
        return torch.tensor(rows, dtype=torch.float64)


def _cubic(d: float) -> float:
    """The kernel of cubic convolution at a distance d."""
    if d <= 1.0:
        return ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d * d + 1.0
    return ((d - 5.0) * d + 8.0) * d * CUBIC - 4.0 * CUBIC if d < 2.0 else 0.0
