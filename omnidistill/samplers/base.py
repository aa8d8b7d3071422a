"""The contract of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.paths import grid
from omnidistill.posteriors import Posterior


class Sample(NamedTuple):
    """Clean samples, the network calls that each of them cost, and every visited state if asked for."""

    x0: Tensor
    nfe: int
    states: tuple[Tensor, ...] = ()
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """A student's answer with its graph: what distribution matching, a discriminator and a reward all look at."""

    x_t: Tensor
    t: Tensor
    belief: Posterior
    x0: Tensor
    context: Context


class Sampler:
    """Walks `t_0 > t_1 > ... > t_N = 0`. Subclasses implement one `step` from t to s."""

    def times(self, denoiser: Denoiser, steps: int) -> Tensor:
        """Float64[steps + 1], decreasing to 0."""
        return grid(denoiser.path, steps)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        context: Context,
        g: torch.Generator | None,
    ) -> Tensor:
        """x_s from x_t."""
        raise NotImplementedError("a Sampler implements step(denoiser, x_t, t, s, context, g)")

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        like: Tensor,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator | None = None,
        x_1: Tensor | None = None,
        keep: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Sample:
        """
        Args:
            like: a tensor of the shape, dtype and device to sample; its values are not read.
            x_1: the start; drawn from the path's prior if not given.
            keep: keep all states, from x_1 to x_0, and their times.
        """
        times = self.times(denoiser, steps)
        before = denoiser.calls
        x = denoiser.path.prior(like, context, g=g) if x_1 is None else x_1
        states = [x]
        for i in range(steps):
            x = self.step(denoiser, x, times[i], times[i + 1], context, g)
            if keep:
                states.append(x)
            if progress:
                progress(i + 1)
        kept = (tuple(states), tuple(times.tolist())) if keep else ((), ())
        return Sample(x, denoiser.calls - before, *kept)
