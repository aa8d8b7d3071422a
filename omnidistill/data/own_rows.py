"""The rows of a user's tensors: drawn for training, and some kept apart to judge by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Batch, Condition, Context
from omnidistill.data import tensors
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.random import generator, uniform

Source = Callable[[int, torch.Generator], Batch]

MOST = 4096
"""Rows that are kept apart of data that are many."""


def drawn(data: Tensor | None, condition: Condition, count: int) -> Source:
    """Batches by rows of the user's tensors, data and condition together."""

    def draw(size: int, g: torch.Generator) -> Batch:
        rows = (uniform(torch.empty(size), g) * count).long()
        context = tensors.context(Context(condition))[rows]
        return Batch(None if data is None else data[rows], context, size)

    return draw


def kept_apart(
    data: Any, condition: Condition, held_out: Any, path: Path, seed: int
) -> tuple[Any, Condition, Batch | None]:
    """Data and conditions to train on, and the rows that are held out with theirs; None where there are none."""
    if isinstance(held_out, Batch):
        return data, condition, tensors.batch(held_out, path)
    if held_out is not None and (isinstance(held_out, bool) or not isinstance(held_out, int)):
        x0 = tensors.states(tensors.tensor(held_out, "held_out"), path)
        if condition is not None:
            raise UserError("held_out needs conditions, too: give Batch(x0, Context(condition))")
        return data, condition, Batch(x0)
    if not isinstance(data, Tensor):
        if held_out:
            raise UserError(
                f"held_out={held_out} rows are kept apart of a data tensor; give the rows themselves"
            )
        return data, condition, None
    apart = min(len(data) // 8, MOST) if held_out is None else held_out
    if apart < 2:
        return data, condition, None
    if apart > len(data) - 2:
        raise UserError(f"held_out={apart} of {len(data)} rows leave nothing to train on")
    order = torch.randperm(len(data), generator=generator(seed, "held out"))
    train, held = order[apart:].sort().values, order[:apart].sort().values
    context = tensors.context(Context(condition))
    return data[train], context[train].condition, Batch(data[held], context[held])
