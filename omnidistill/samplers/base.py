"""The contract of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.paths.base import GRIDS
from omnidistill.posteriors import Posterior
from omnidistill.shapes import Instant, Other, State, Whole


class Sample(NamedTuple):
    """Clean samples, the network calls that each of them cost, and every visited state if asked for."""

    x0: State
    nfe: float
    states: tuple[Tensor, ...] = ()
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """A student's answer with its graph: what distribution matching, a discriminator and a reward all look at."""

    x_t: State
    t: Float64[Tensor, "b"]
    belief: Posterior
    x0: State
    context: Context
    s: float = 0.0
    """The time that the step leads to."""


@dataclass(frozen=True)
class Trajectory:
    """A whole walk of a student, for objectives that look at more than one of its steps.

    Attributes:
        states: x at the N + 1 times t_0 > ... > t_N = 0; the last is the sample.
        beliefs: N of them, at the states but the last.
        x0: what was taken from each belief: its mean, or a draw for tokens.
        kept: the steps whose beliefs carry a graph.
    """

    states: tuple[Tensor, ...]
    times: Float64[Tensor, "nodes"]
    beliefs: tuple[Posterior, ...]
    x0: tuple[Tensor, ...]
    kept: tuple[int, ...]
    context: Context


class Sampler:
    """Walks `t_0 > t_1 > ... > t_N = 0`. Subclasses implement one `step` from t to s.

    Args:
        grid: `nested` (`paths.grid`: every step count's times lie among those of twice as many), or `karras`
            (`paths.floored`) for long runs of a teacher on a path with a floor.
        shift: moves the times towards noise (`paths.shifted`).
    """

    deterministic: bool = False
    """Whether x_0 is a function of x_1, on a path that offers it."""

    grid: str = "nested"
    shift: float = 1.0

    def __init__(self, grid: str = "nested", shift: float = 1.0) -> None:
        if grid not in GRIDS:
            raise unknown("grid", grid, GRIDS)
        if not 0.0 < shift < float("inf"):
            raise UserError(f"a grid's shift is a number above 0, got {shift}")
        self.grid, self.shift = grid, float(shift)

    def times(self, denoiser: Denoiser, steps: int) -> Float64[Tensor, "{steps}+1"]:
        """Decreasing to 0."""
        return GRIDS[self.grid](denoiser.path, steps, self.shift)

    def step(
        self,
        denoiser: Denoiser,
        x_t: State,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> State:
        """x_s from x_t."""
        raise NotImplementedError("a Sampler implements step(denoiser, x_t, t, s, context, g)")

    # --- how large states are: see `samplers.growing`, here all the same ---------------------------------------------

    def shares(self, steps: int) -> tuple[float, ...]:
        """The sizes of the states of so many steps, as shares of the full one."""
        return (1.0,) * steps

    def resized(self, x: State, k: int, steps: int, like: Whole) -> Other:
        """x at the size of the state of step k, where `like` has the full one."""
        return x

    def start(
        self, denoiser: Denoiser, like: Whole, steps: int, context: Context, g: Any, x_1: State | None = None
    ) -> State:
        """The first state of a walk: x_1, or a draw from the path's prior."""
        return denoiser.path.prior(like, context, g=g) if x_1 is None else x_1

    def advance(
        self,
        denoiser: Denoiser,
        x: State,
        times: Float64[Tensor, "nodes"],
        i: int,
        like: Whole,
        context: Context,
        g: torch.Generator | None,
    ) -> Other:
        """Step i of a walk whose end is of the shape of `like`."""
        return self.step(denoiser, x, times[i], times[i + 1], context, g)

    # --- a walk -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        like: Whole,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator | None = None,
        x_1: State | None = None,
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
        x = self.start(denoiser, like, steps, context, g, x_1)
        states = [x]
        walking = denoiser.walk(times, g)
        for i in range(steps):
            x = self.advance(walking, x, times, i, like, context, g)
            if keep:
                states.append(x)
            if progress:
                progress(i + 1)
        x = walking.arrive(x, context)
        states[-1] = x
        kept = (tuple(states), tuple(times.tolist())) if keep else ((), ())
        return Sample(x, _whole(denoiser.calls - before), *kept)


def _whole(calls: float) -> float:
    """Shares of calls that come to a whole number are one."""
    return round(calls) if abs(calls - round(calls)) < 1e-9 else calls
