"""Many-step samplers for teachers. Each is a rule for one step from t to s; on tokens Euler and Ancestral agree."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.paths import Path
from omnidistill.samplers.base import Sampler
from omnidistill.shapes import Instant, State, Time


class Euler(Sampler):
    """First order, deterministic where the path allows: DDIM (Song et al. 2021, eq. 12), which is Euler's rule in
    sigma/alpha and, on a rectified flow, Euler's rule in t.

    Args:
        churn: share of the process's own posterior noise that is drawn afresh; 0 is the ODE, 1 is ancestral.
        grid, shift: of the times, see `Sampler`.
    """

    def __init__(self, churn: float = 0.0, grid: str = "nested", shift: float = 1.0) -> None:
        super().__init__(grid, shift)
        self.churn = churn

    @property
    def deterministic(self) -> bool:  # type: ignore[override]
        """Whether the first state decides all others."""
        return self.churn == 0.0

    def step(
        self,
        denoiser: Denoiser,
        x_t: State,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> State:
        target = s if denoiser.wants_target else None
        x0 = denoiser(x_t, t, context, target_time=target).sample(g, context.mask)
        return denoiser.path.bridge(x_t, x0, t, s, context, churn=self.churn, g=g)


class Ancestral(Euler):
    """The reverse of the process itself: bridge to a sample of the belief (Ho et al. 2020, alg. 2; Austin et al.
    2021, sec. 3.3 for tokens)."""

    def __init__(self, grid: str = "nested", shift: float = 1.0) -> None:
        super().__init__(1.0, grid, shift)


class Heun(Sampler):
    """Second order: the trapezoid of the beliefs at t and at the predicted x_s, two calls a step but the last.

    In rho = alpha/sigma the ODE reads d(x/sigma) = D d rho, so averaging the two beliefs and jumping once is the
    trapezoidal rule in rho (the rule of Karras et al. 2022, alg. 1, is the same one in sigma). Where x_t holds no
    noise (a bridge at t = 1) some is drawn on the way to s; the step from the averaged belief has the noise of the
    state that was asked about.
    """

    deterministic = True

    def step(
        self,
        denoiser: Denoiser,
        x_t: State,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> State:
        path = denoiser.path
        first = denoiser(x_t, t, context)
        x0 = first.sample(g, context.mask)
        guess = path.bridge(x_t, x0, t, s, context, g=g)
        if float(s) == 0.0:
            return guess
        both = first.blend(denoiser(guess, s, context), torch.tensor(0.5))
        return rejoined(path, guess, x_t, x0, both.sample(g, context.mask), t, s, context, g)


def rejoined(
    path: Path,
    x_s: State,
    x_t: State,
    x0: State,
    other: State,
    t: Time,
    s: Time,
    context: Context,
    g: torch.Generator | None,
) -> State:
    """What `x_s = bridge(x_t, x0)` would have been with `other` in the place of x0, and the noise that x_s was drawn
    with, if any. Tokens have no noise that could be kept and are drawn again."""
    if "gaussian" in path.offers and "deterministic" not in path.offers:
        was, now = (path.bridge_law(x_t, x, t, s, context)[0] for x in (x0, other))
        return x_s + (now - was)
    return path.bridge(x_t, other, t, s, context, g=g)


class _Along(Heun):
    """Heun on the times of another sampler."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def times(self, denoiser: Denoiser, steps: int) -> Float64[Tensor, "{steps}+1"]:
        return self.sampler.times(denoiser, steps)


def deterministic(sampler: Sampler) -> Sampler:
    """The sampler itself if x_0 is a function of x_1 under it, else Heun's rule on its times."""
    return sampler if sampler.deterministic else _Along(sampler)
