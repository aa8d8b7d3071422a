"""What `features` compares: vectors of both sides, layer by layer, and how they become sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.context import Context, labels_of
from omnidistill.errors import UserError
from omnidistill.objectives.step import Step
from omnidistill.paths.base import per_sample
from omnidistill.random import normal
from omnidistill.times import Times

Positions = tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]
"""Feature vectors of each position of each sample, and 1 where a position is real."""


class Compared(NamedTuple):
    """A layer's features of both sides, and the contexts that they were made under."""

    fake: Positions
    real: Positions
    fakes: Context
    reals: Context


def as_set(features: Positions, g: torch.Generator, most: int | None = None) -> Float[Tensor, "_ c"]:
    """Vectors as one set: each sample's mean or, where `most` is given, all real positions, of which at most that many
    are drawn."""
    vectors, real = features
    if most is None:
        weights = real.unsqueeze(2)
        return (vectors * weights).sum(1) / weights.sum(1).clamp_min(1.0)
    everyone = vectors[real > 0]
    if len(everyone) <= most:
        return everyone
    chosen = torch.randperm(len(everyone), generator=g, device=g.device)
    return everyone[chosen[:most].to(everyone.device)]


def same_label(layer: Compared) -> tuple[Bool[Tensor, "_ _"], Bool[Tensor, "_ _"], Bool[Tensor, "_ _"]]:
    """Which samples share their label: student's with student's, real with real, student's with real."""
    ours, theirs = labels_of(layer.fakes.condition), labels_of(layer.reals.condition)
    if ours is None or theirs is None:
        raise UserError("within=true needs a condition of labels; set families.features.within=false")
    return ours[:, None] == ours, theirs[:, None] == theirs, ours[:, None] == theirs


def of_pairs(
    step: Step, role: str, layers: Sequence[str], times: Times, x: Tensor, y: Tensor, context: Context
) -> list[Compared]:
    """Layers of the network `role` about samples and what each is compared with, both with the same noise of the same
    time, asked together."""
    model, path = step[role], step.path
    t = times(len(x), path, step.g).to(x.device)
    sigma = per_sample(path.coefficients(t).sigma, x, path.time_axis)  # type: ignore[attr-defined]
    noise = sigma * normal(x, step.g, context.mask)
    both = torch.cat([path.expected(one.to(x.dtype), t, context) + noise for one in (x, y)])  # type: ignore[attr-defined]
    names, joined = tuple(model.feature_widths(layers)), context.joined(context)
    _, found = model.examine(both, torch.cat((t, t)), joined, names, answered=0)
    model.count()  # two batches in one call
    halves = []
    for name in names:
        vectors, real = model.positions(found[name], joined)
        (a, b), (m, n) = vectors.chunk(2), real.chunk(2)
        halves.append(Compared((a, m), (b, n), context, context))
    return halves
