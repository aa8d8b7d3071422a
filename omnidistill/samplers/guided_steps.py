"""Guidance that ends on the way: while the two branches disagree, and no longer."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null, emptied
from omnidistill.errors import NotOffered, UserError
from omnidistill.paths.base import as_time, rows
from omnidistill.posteriors import Posterior
from omnidistill.samplers.walker import Memory, Walker, innermost


class AdaptiveGuidance(Walker):
    """Classifier-free guidance `u + s (c - u)`, whose unconditional branch a sample drops for the rest of its walk once

        cos(v_c, v_u) >= threshold

    of the velocities (`Path.velocity`) of its two branches (Castillo et al. 2023, Adaptive Guidance, sec. 4; of noises
    the cosine would be 1 wherever there is no signal yet). Each sample for itself, so what is beside it
    changes nothing; all branches go through the network in one batch, and a step counts `1 + n / b` calls where n of b
    samples still ask for both.

    Args:
        scale: s; 1 asks for the condition alone.
        threshold: of the cosine. None never drops, so that this is guidance as usual; -1 or less never asks.
    """

    selects = True

    def __init__(self, scale: float = 1.0, threshold: float | None = None) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("threshold", threshold)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(f"{name} of adaptive guidance is a number, got {value!r}")
        self.scale, self.threshold = float(scale), threshold

    def around(self, denoiser: Denoiser, teacher: Denoiser | None = None, null: Null | None = None) -> Walker:
        if self.scale != 1.0 and null is None:
            raise NotOffered(
                f"guidance {self.scale:g} needs a conditional task with a null label, and there is none"
            )
        if self.threshold is not None and "gaussian" not in denoiser.path.offers:
            raise NotOffered(
                f"a cosine of velocities needs a Gaussian path, got {denoiser.path}; set threshold=null"
            )
        return super().around(denoiser, teacher, null)

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        count, device = x_t.shape[0], x_t.device
        if self.scale == 1.0 or (self.threshold is not None and self.threshold <= -1.0):
            return memory.denoiser(x_t, t, context, target_time=target_time)
        both = memory.kept.setdefault("both", torch.ones(count, dtype=torch.bool, device=device))
        which = both.nonzero().squeeze(1)
        if not len(which):
            return memory.denoiser(x_t, t, context, target_time=target_time)
        bare = Context(context.condition, context.anchor, context.mask)
        some = bare[which]
        joined = bare.joined(some.with_condition(emptied(some.condition, self.null)))  # type: ignore[arg-type]
        times = rows(as_time(t, x_t), count)
        later = None if target_time is None else rows(as_time(target_time, x_t), count)
        answer = memory.denoiser(
            torch.cat((x_t, x_t[which])),
            torch.cat((times, times[which])),
            joined,
            target_time=None if later is None else torch.cat((later, later[which])),
        )
        innermost(self).count(len(which) / count)
        conditional, unconditional = answer[slice(0, count)], answer[slice(count, None)]
        c = conditional.replace(conditional.parameters[which])
        if self.threshold is not None:
            agree = self._cosine(x_t[which], times[which], some, c, unconditional) >= self.threshold
            memory.kept["both"] = both.index_fill(0, which[agree], False)
        guided = c.guide(unconditional, self.scale).parameters
        if len(which) == count:
            return c.replace(guided)
        return conditional.replace(conditional.parameters.index_copy(0, which, guided))

    def _cosine(self, x_t: Tensor, t: Tensor, context: Context, c: Posterior, u: Posterior) -> Tensor:
        """Float64[n]: of the velocities that the two beliefs point along, over real elements."""
        real = 1.0 if context.mask is None else context.mask
        first, second = (
            (self.path.velocity(x_t, belief.parameters, t, context) * real).double().flatten(1)
            for belief in (c, u)
        )
        return torch.cosine_similarity(first, second, dim=1, eps=1e-30)
