"""Many-step samplers for teachers. Each is a rule for one step from t to s; on tokens Euler and Ancestral agree."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.samplers.base import Sampler


class Euler(Sampler):
    """First order, deterministic where the path allows: DDIM (Song et al. 2021, eq. 12), which is Euler's rule in
    sigma/alpha and, on a rectified flow, Euler's rule in t.

    Args:
        churn: share of the process's own posterior noise that is drawn afresh; 0 is the ODE, 1 is ancestral.
    """

    def __init__(self, churn: float = 0.0) -> None:
        self.churn = churn

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        context: Context,
        g: torch.Generator | None,
    ) -> Tensor:
        target = s if denoiser.wants_target else None
        x0 = denoiser(x_t, t, context, target_time=target).sample(g, context.mask)
        return denoiser.path.bridge(x_t, x0, t, s, context, churn=self.churn, g=g)


class Ancestral(Euler):
    """The reverse of the process itself: bridge to a sample of the belief (Ho et al. 2020, alg. 2; Austin et al.
    2021, sec. 3.3 for tokens)."""

    def __init__(self) -> None:
        super().__init__(churn=1.0)


class Heun(Sampler):
    """Second order: the trapezoid of the beliefs at t and at the predicted x_s, two calls a step but the last.

    In rho = alpha/sigma the ODE reads d(x/sigma) = D d rho, so averaging the two beliefs and jumping once is the
    trapezoidal rule in rho (the rule of Karras et al. 2022, alg. 1, is the same one in sigma).
    """

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        context: Context,
        g: torch.Generator | None,
    ) -> Tensor:
        path = denoiser.path
        first = denoiser(x_t, t, context)
        guess = path.bridge(x_t, first.sample(g, context.mask), t, s, context, g=g)
        if float(s) == 0.0:
            return guess
        both = first.blend(denoiser(guess, s, context), torch.tensor(0.5))
        return path.bridge(x_t, both.sample(g, context.mask), t, s, context, g=g)
