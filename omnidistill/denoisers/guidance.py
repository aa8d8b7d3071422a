"""Classifier-free guidance as a denoiser around a denoiser, and a student that was told the scale instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Condition, Context, labels_of, relabelled
from omnidistill.denoisers.base import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths.base import as_time, rows
from omnidistill.posteriors import Posterior, split
from omnidistill.shapes import State, TensorTime, Time

Null = int | Callable[[Condition], Condition]


def emptied(condition: Condition, null: Null) -> Condition:
    """The condition that means none."""
    if callable(null):
        return null(condition)
    labels = condition if isinstance(condition, Tensor) else labels_of(condition)
    if labels is None:
        raise UserError(
            "guidance needs a condition of labels, or null= a function that empties the condition"
        )
    return relabelled(condition, torch.full_like(labels, null))


class Guided(Denoiser):
    """`u + s (c - u)` with s = 1 meaning no guidance; both branches go through the network in one batch.

    Args:
        denoiser: the conditional denoiser.
        scale: s. None: one per sample, from `context.guidance`.
        null: the label that means "no condition", or a function that empties a condition.

    Papers that write `c + w (c - u)` have s = 1 + w. Counts two network calls, one for each branch, on the
    denoiser that it asks: a guide made for one step leaves its count where the role is counted.
    """

    def __init__(self, denoiser: Denoiser, scale: float | None, null: Null) -> None:
        super().__init__(denoiser.path)
        self.denoiser, self.scale, self.null = denoiser, scale, null
        self.wants_target = denoiser.wants_target

    @property
    def calls(self) -> float:
        return self.denoiser.calls

    @calls.setter
    def calls(self, value: float) -> None:
        self.denoiser.calls = value

    def count(self, number: float = 1) -> None:
        self.denoiser.count(number)

    def belief(self, x_t: State, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        if self.scale is None and context.guidance is None:
            raise UserError("guidance without a scale takes it from context.guidance, and there is none")
        scale = context.guidance if self.scale is None else torch.tensor(float(self.scale))
        assert scale is not None
        bare = Context(context.condition, context.anchor, context.mask)
        both = bare.joined(bare.with_condition(emptied(context.condition, self.null)))
        t = rows(as_time(t, x_t), x_t.shape[0])
        target = None if target_time is None else rows(target_time, x_t.shape[0])
        later = None if target is None else torch.cat((target, target))
        answer = self.denoiser(torch.cat((x_t, x_t)), torch.cat((t, t)), both, target_time=later)
        conditional, unconditional = split(answer, x_t.shape[0])
        return conditional.guide(unconditional, scale)


class Unconditional(Denoiser):
    """A conditional denoiser asked without its condition: guidance of scale 0 for one call."""

    def __init__(self, denoiser: Denoiser, null: Null) -> None:
        super().__init__(denoiser.path)
        self.denoiser, self.null = denoiser, null
        self.wants_target = denoiser.wants_target

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        bare = Context(emptied(context.condition, self.null), context.anchor, context.mask)
        return self.denoiser(x_t, t, bare, target_time=target_time)


class Told(Denoiser):
    """A student that learned a range of guidance scales, told one of them (Meng et al. 2022, sec. 3.1)."""

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__(denoiser.path)
        self.denoiser, self.scale = denoiser, scale
        self.wants_target = denoiser.wants_target

    def belief(self, x_t: State, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        scale = torch.full((x_t.shape[0],), float(self.scale), device=x_t.device)
        return self.denoiser(x_t, t, replace(context, guidance=scale), target_time=target_time)
