"""The sampler of score-based models: the reverse SDE by Euler and Maruyama, with Langevin steps in between."""

from __future__ import annotations

import torch

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths import GaussianPath
from omnidistill.paths.base import as_time, per_sample
from omnidistill.random import normal
from omnidistill.samplers.base import Sampler
from omnidistill.shapes import Instant, Real, State

PREDICTORS = ("diffusion", "bridge")


class PredictorCorrector(Sampler):
    """At each time first `corrections` steps of annealed Langevin dynamics, then the predictor to the next time
    (Song et al. 2021, algorithms 2 and 5; as SGMSE+ samples: Richter et al. 2023, sec. IV-B).

    With the score read off the belief, `s = (alpha x0 + beta y - x_t) / sigma^2`:

    corrector   `x + e s + sqrt(2 e) z`, `e = 2 (snr sigma)^2`
    predictor   `diffusion`: `x - (f - g^2 s) dt + g sqrt(dt) z` of the path's own SDE `dx = f dt + g dw`,
                `f = alpha'/alpha (x - beta y) + beta' y`, `g^2 = 2 sigma sigma' - 2 alpha'/alpha sigma^2`;
                `bridge`: the exact posterior `q(x_s | x_t, x0)`, which is what `Ancestral` does.

    All noise is scaled by the path's temperature, which leaves the drifts as they are: the score of a law with
    temperature^2 times the variance is the score over temperature^2, and e and g^2 grow by temperature^2.

    The last step is without noise. A step costs `1 + corrections` calls; where the state holds no noise (a bridge at
    t = 1) there is no score and no correction.

    Args:
        snr: step size of the corrector in units of the noise; 0.5 in SGMSE+.
        corrections: Langevin steps at each time; 0 leaves the predictor alone.
        predictor: see above.
        grid, shift: of the times, see `Sampler`.
    """

    def __init__(
        self,
        snr: float = 0.5,
        corrections: int = 1,
        predictor: str = "diffusion",
        grid: str = "nested",
        shift: float = 1.0,
    ) -> None:
        super().__init__(grid, shift)
        if snr <= 0 or corrections < 0:
            raise UserError(f"a corrector needs snr > 0 and corrections >= 0, got {snr} and {corrections}")
        if predictor not in PREDICTORS:
            raise UserError(f"unknown predictor '{predictor}'; possible: {', '.join(PREDICTORS)}")
        self.snr, self.corrections, self.predictor = snr, corrections, predictor

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
        if "gaussian" not in path.offers:
            raise UserError(f"a predictor-corrector follows a score, which {path} has not; use Ancestral")
        size = 2.0 * (self.snr * path.coefficients(t).sigma) ** 2  # type: ignore[attr-defined]
        for _ in range(self.corrections if float(size) > 0.0 else 0):
            x0 = denoiser(x_t, t, context).sample(g, context.mask)
            x_t = x_t + size * _score(denoiser, x_t, x0, t, context)
            x_t = x_t + (2.0 * size).sqrt() * _noise(denoiser, x_t, context, g)
        x0 = denoiser(x_t, t, context).sample(g, context.mask)
        if self.predictor == "bridge":
            return path.bridge(x_t, x0, t, s, context, churn=1.0, g=g)
        return self._diffusion(denoiser, x_t, x0, t, s, context, g)

    def _diffusion(
        self,
        denoiser: Denoiser,
        x_t: Real,
        x0: Real,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> Real:
        path = denoiser.path
        alpha, beta, sigma = path.coefficients(t)  # type: ignore[attr-defined]
        alpha_rate, beta_rate, sigma_rate = path.rates(t)  # type: ignore[attr-defined]
        if float(alpha) == 0.0:
            raise UserError(f"the SDE of {path} is singular at t={float(t):g}; use predictor: bridge")
        pull, dt = alpha_rate / alpha, t - s
        spread = (2.0 * sigma * sigma_rate - 2.0 * pull * sigma**2).clamp_min(0.0)  # g^2
        anchor = 0.0 if context.anchor is None or float(beta) == 0.0 else context.anchor
        drift = pull * (x_t - beta * anchor) + beta_rate * anchor
        mean = x_t - dt * (drift - spread * _score(denoiser, x_t, x0, t, context))
        if float(s) == 0.0:
            return mean.to(x_t.dtype)
        return (mean + (spread * dt).sqrt() * _noise(denoiser, x_t, context, g)).to(x_t.dtype)


def _score(denoiser: Denoiser, x_t: Real, x0: Real, t: Instant, context: Context) -> Real:
    """`grad log q(x_t)`, the mean of `-eps / sigma` under the belief."""
    coefficients = denoiser.path.coefficients(as_time(t, x_t))  # type: ignore[attr-defined]
    alpha, beta, sigma = (per_sample(c, x_t) for c in coefficients)
    anchor = 0.0 if context.anchor is None else context.anchor
    return (alpha * x0 + beta * anchor - x_t) / sigma**2


def _noise(denoiser: Denoiser, like: Real, context: Context, g: torch.Generator | None) -> Real:
    path: GaussianPath = denoiser.path  # type: ignore[assignment]
    return path.temperature * path.symmetry.project(normal(like, g, context.mask), context.mask)
