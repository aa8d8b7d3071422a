"""A student whose states grow from step to step: few elements where there is much noise, all of them at the end.

Starodubcev et al. 2025, Scale-wise Distillation (SwD), arXiv:2503.16397. Step k asks about a state of size n_k and its
answer is resized before it is noised again,

    `x0_k = D(x_k, t_k)`,   `x_{k+1} = alpha U_k x0_k + sigma eps`,   eps fresh, of size n_{k+1}

with U_k cubic interpolation from n_k to n_{k+1} (`resize`). In training all samples of a batch share a step and its
size. Inputs made of data are `alpha U A x0 + sigma eps`, A the means over areas that take x0 to the size before, and
what a rollout is compared with comes at the rollout's own size, A x0 (`Step`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import NotOffered, UserError
from omnidistill.paths import Path
from omnidistill.paths.symmetry import NoSymmetry
from omnidistill.samplers.few_step import FewStep
from omnidistill.samplers.resize import resized
from omnidistill.shapes import Other, State, Whole


class Growing(FewStep):
    """`FewStep` by fresh noise, of states Float[b c ...] whose axes behind the channels follow the step.

    Args:
        sizes: of the steps, as shares of the full size, rising to 1 at the last, e.g. [0.5, 0.75, 1]. Other step counts
            read the same list at even places from the first to the last, between two entries the former, so that no
            other sizes are asked about; a single step is at full size. Sizes are rounded to whole numbers.
        times, shift: as of `FewStep`.
    """

    def __init__(
        self, sizes: Sequence[float], times: Sequence[float] | None = None, shift: float = 1.0
    ) -> None:
        super().__init__("renoise", times, shift)
        given = [sizes] if isinstance(sizes, int | float) else list(sizes)
        numbers = all(isinstance(s, int | float) and not isinstance(s, bool) for s in given)
        rising = numbers and all(a <= b for a, b in itertools.pairwise(given))
        if not given or not rising or not given[0] > 0.0 or given[-1] != 1.0:
            raise UserError(f"student.sizes rise from above 0 to 1, e.g. [0.5, 0.75, 1]; got {given}")
        self.sizes = tuple(float(share) for share in given)

    def shares(self, steps: int) -> tuple[float, ...]:
        last = len(self.sizes) - 1
        return tuple(self.sizes[i * last // (steps - 1)] if steps > 1 else 1.0 for i in range(steps))

    def size(self, k: int, steps: int, like: Whole) -> tuple[int, ...]:
        """Of the state at step k of `steps`, whose full size is that of `like`; the end of the walk is step `steps`."""
        share = (*self.shares(steps), 1.0)[k]
        return tuple(max(1, int(share * n + 0.5)) for n in like.shape[2:])

    def resized(self, x: State, k: int, steps: int, like: Whole) -> Other:
        return resized(x, self.size(k, steps, like))

    def start(
        self, denoiser: Denoiser, like: Whole, steps: int, context: Context, g: Any, x_1: State | None = None
    ) -> State:
        path, size = denoiser.path, self.size(0, steps, like)
        check(path, like, context)
        if x_1 is None:
            first = like if size == like.shape[2:] else like.new_empty((*like.shape[:2], *size))
            return path.prior(first, context, g=g)
        if x_1.shape[2:] != size:
            raise UserError(
                f"a walk of {steps} steps with student.sizes={list(self.sizes)} begins at {'x'.join(map(str, size))}, "
                f"got a start of shape {list(x_1.shape)}"
            )
        return x_1

    def advance(
        self,
        denoiser: Denoiser,
        x: State,
        times: Tensor,
        i: int,
        like: Whole,
        context: Context,
        g: torch.Generator | None,
    ) -> Other:
        t, s = times[i], times[i + 1]
        belief, x0 = self._answer(denoiser, x, t, s, context, g)
        x0 = self.resized(x0, i + 1, len(times) - 1, like)
        return self._on.onwards(denoiser, x, belief, x0, t, s, context, g)


def student_sampler(
    transition: str = "renoise",
    times: Sequence[float] | None = None,
    shift: float = 1.0,
    gamma: float | None = None,
    block: int | None = None,
    sizes: Sequence[float] | None = None,
) -> FewStep:
    """A student's sampler: `Growing` where there are sizes."""
    made = FewStep(transition, times, shift, gamma, block)
    if sizes is None:
        return made
    if transition != "renoise":
        raise UserError(
            f"student.sizes need noise drawn anew at each size, and student.transition={transition} keeps some; use "
            "student.transition=renoise"
        )
    return Growing(sizes, times, shift)


def check(path: Path, like: State, context: Context) -> None:
    """Refuses states that have no other size."""
    reason = None
    if "gaussian" not in path.offers or "simplex" in path.offers:
        reason = "tokens have none between"
    elif not isinstance(getattr(path, "symmetry", NoSymmetry()), NoSymmetry):
        reason = "points in space lie on no grid"
    elif "anchored" in path.offers or context.anchor is not None:
        reason = "the anchor has the full size"
    elif context.mask is not None:
        reason = "lengths of a mask are those at full size"
    elif like.ndim < 3:
        reason = f"states of shape {list(like.shape[1:])} have no axis behind their channels"
    if reason is not None:
        raise NotOffered(f"student.sizes resize states from step to step, and here {reason}; leave it out")
