"""How a student goes on once it has predicted x0: what of its noise it keeps, and what it is told about that before."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.paths import GaussianPath, Path
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import Posterior
from omnidistill.samplers.confidence import Confidence
from omnidistill.shapes import Instant, Other, State

TRANSITIONS = ("renoise", "ode", "ancestral", "gamma", "confidence")


class Transition:
    """From a state at t and its predicted x0 to the state at s < t.

    Args:
        kind: `renoise`: fresh noise, `x_s ~ q(x_s | x0)` (consistency models, Song et al. 2023, alg. 1; DMD2). `ode`:
            keep the own noise (DDIM; progressive distillation). `ancestral`: the path's own posterior, which for
            tokens is the only one that keeps what is resolved. `confidence`: on masked tokens, the surest of the open
            ones stay (`samplers.confidence`). `gamma`: jump below s and re-noise up to it (Kim et al. 2023, CTM,
            alg. 1; `GaussianPath.bridge_law`).
        gamma: of the transition `gamma`: 0 is `ode`, 1 is `renoise`.
        block: of the transition `confidence`: tokens of a block, filled from left to right; None: all are one.
    """

    def __init__(self, kind: str, gamma: float | None = None, block: int | None = None) -> None:
        if kind not in TRANSITIONS:
            raise unknown("transition", kind, TRANSITIONS)
        if (gamma is None) != (kind != "gamma"):
            raise UserError(
                f"student.gamma belongs to student.transition=gamma, got gamma={gamma} and transition={kind}"
            )
        if gamma is not None and not 0.0 <= gamma <= 1.0:
            raise UserError(f"student.gamma is a share of the noise from 0 to 1, got {gamma}")
        if block is not None and kind != "confidence":
            raise UserError(
                f"student.block belongs to student.transition=confidence, got block={block} and transition={kind}"
            )
        self.kind, self.gamma = kind, gamma
        self._order = Confidence(block=block) if kind == "confidence" else None

    @property
    def deterministic(self) -> bool:
        """Whether the first state decides all others."""
        return self.kind == "ode" or self.gamma == 0.0

    @property
    def churn(self) -> float:
        """Of the path's bridge: 1 draws from its own posterior, 0 keeps the noise."""
        return float(self.kind == "ancestral")

    def target(self, denoiser: Denoiser, s: Instant) -> Instant | None:
        """The time that a student which wants it is told it jumps to. A re-noising one always predicts x0 itself; one
        that re-noises in part jumps to where `sqrt(1 - gamma^2)` of the noise level of s is left."""
        if not denoiser.wants_target or self.kind == "renoise":
            return None
        if not self.gamma or float(s.detach()) == 0.0:
            return s
        path = _deterministic(denoiser)
        return path.time_from_noise_level((1.0 - self.gamma**2) ** 0.5 * path.noise_level(s))

    def onwards(
        self,
        denoiser: Denoiser,
        x_t: State,
        belief: Posterior,
        x0: Other,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> Other:
        """The state at s; x0 itself at 0."""
        path = denoiser.path
        if self._order is not None:
            return self._order.kept(path, belief, x_t, x0, t, s, context, g)
        if float(s.detach()) == 0.0:
            return x0
        if self.kind == "renoise":
            return path.renoise(x0, s, context, g=g)
        if self.gamma is not None:
            return _deterministic(denoiser).bridge(x_t, x0, t, s, context, gamma=self.gamma, g=g)
        return path.bridge(x_t, x0, t, s, context, churn=self.churn, g=g)

    def law(
        self, path: Path, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, context: Context = Context()
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the x_s that a step to s draws once x0 is predicted, on a Gaussian path.

        Both have a graph to x0. A step to 0 arrives at x0 itself.
        """
        if float(s.detach()) == 0.0:
            return x0, torch.zeros((), dtype=x0.dtype, device=x0.device)
        if self.kind == "renoise":
            at_s = path.coefficients(as_time(s, x0))  # type: ignore[attr-defined]
            alpha, beta, sigma = (per_sample(value, x0) for value in at_s)
            mean = alpha * x0 if context.anchor is None else alpha * x0 + beta * context.anchor
            return mean, sigma.to(x0.dtype)
        if self.gamma is not None:
            return path.bridge_law(x_t, x0, t, s, context, gamma=self.gamma)  # type: ignore[call-arg]
        return path.bridge_law(x_t, x0, t, s, context, churn=self.churn)


def _deterministic(denoiser: Denoiser) -> GaussianPath:
    path = denoiser.path
    if not {"gaussian", "deterministic"} <= path.offers:
        raise UserError(
            f"student.transition=gamma keeps part of the noise, which {path} cannot; use ancestral"
        )
    return path  # type: ignore[return-value]
