"""EM Distillation: the forward KL divergence, by samples that Langevin dynamics corrects."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, branches
from omnidistill.objectives.matching import Matching
from omnidistill.objectives.questions import Question
from omnidistill.objectives.ratios import score_gap
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths.base import per_sample
from omnidistill.random import normal
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight


class EM(Matching):
    """The student's law at time t is that of `x_t = alpha G(z) + sigma eps`, z and eps standard normal. Its maximum
    likelihood on the teacher's x_t (Xie et al. 2024, EMD, arXiv:2405.16852, alg. 1) alternates

    E: `steps` Langevin steps from the student's own (eps, z) towards what gives the teacher's x_t,

        eps <- eps + h_eps (-eps + sigma d) + sqrt(2 h_eps) n,   z <- z + h_z (-z + alpha G'(z)^T d) + sqrt(2 h_z) n',

    with `d = s_T(x_t) - s_F(x_t)` at the x_t of the present (eps, z), s_F by the critic;

    M: the gradient of `|x_t - alpha G(z)|^2`, whose residue is sigma eps. Of eps only what d has put there counts: the
    noise that it began with and that was added has mean 0, and is followed apart and taken off (the paper's
    cancellation). The sample is thus pulled by `-(sigma / alpha) (eps - noise)`.

    With one step it is Diff-Instruct, with many the gradient of the forward KL divergence, which covers modes.

    Args:
        steps: Langevin steps.
        rate: h_eps.
        latent_rate: h_z; 0 leaves z alone.
        times, weighting, guidance, critic_*: as of `Matching`, whose critic this is.
    """

    rolls_out: bool | frozenset[str] = frozenset({"fake_score"})  # the student's turn has inputs of its own

    def __init__(
        self,
        steps: int = 8,
        rate: float = 0.08,
        latent_rate: float = 0.02,
        times: Times = Uniform(0.02, 0.98),
        critic_times: Times | None = None,
        critic_updates: int = 1,
        critic_lr: float = 1.0,
        critic_weighting: str = "output",
        weighting: str = "uniform",
        guidance: float = 1.0,
    ) -> None:
        super().__init__(
            times=times,
            critic_times=critic_times,
            critic_updates=critic_updates,
            critic_lr=critic_lr,
            critic_weighting=critic_weighting,
            weighting=weighting,
            guidance=guidance,
        )
        if steps < 1 or not 0.0 < rate < 1.0 or not 0.0 <= latent_rate < 1.0:
            raise UserError(
                "EM needs steps >= 1, 0 < rate < 1 and 0 <= latent_rate < 1, got "
                f"steps={steps}, rate={rate}, latent_rate={latent_rate}"
            )
        self.steps, self.rate, self.latent_rate = steps, rate, latent_rate
        self.needs = self.needs | {"gaussian", "differentiable"}

    def questions(self, role: str) -> list[Question]:
        """Of the critic in its own turn; in the student's it is asked about states that nobody else sees."""
        return super().questions(role) if role == "fake_score" else []

    def _student(self, step: Step) -> Losses:
        path, context, like = step.path, step.context, step.like
        if "anchored" in path.offers:
            raise UserError(f"EM starts from noise alone, and {path} starts from an anchor; use matching")
        top = torch.full((len(like),), path.span[1], dtype=torch.float64, device=like.device)
        deviation = float(path.coefficients(1.0).sigma)  # type: ignore[attr-defined]
        z = path.prior(like, context, g=step.g) / deviation
        t = self.times(len(like), path, step.g).to(like.device)
        eps = normal(like, step.g, context.mask)
        noise = eps
        for _ in range(self.steps):
            d, z_pull = self._drift(step, z, deviation, eps, t, top, context)
            _, _, sigma = (per_sample(c, like, path.time_axis) for c in path.coefficients(t))  # type: ignore[attr-defined]
            fresh = (2.0 * self.rate) ** 0.5 * normal(like, step.g, context.mask)
            eps = (1.0 - self.rate) * eps + self.rate * sigma * d + fresh
            noise = (1.0 - self.rate) * noise + fresh
            if self.latent_rate:
                moved = normal(like, step.g, context.mask)
                z = (
                    (1.0 - self.latent_rate) * z
                    + self.latent_rate * z_pull
                    + (2.0 * self.latent_rate) ** 0.5 * moved
                )
        alpha, _, sigma = (per_sample(c, like, path.time_axis) for c in path.coefficients(t))  # type: ignore[attr-defined]
        pull = -(sigma / alpha) * (eps - noise)
        belief = step["student"](deviation * z, top, context)
        w = weight(self.weighting, path, t)
        loss = reduce(belief.pull(pull, w), 1.0, context.mask)
        return Losses({"em": loss}, {"em/pull": pull.abs().mean()})

    def _drift(
        self, step: Step, z: Tensor, deviation: float, eps: Tensor, t: Tensor, top: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """`s_T - s_F` at the x_t of (eps, z), and what it asks of z: `alpha G'(z)^T d`."""
        path = step.path
        alpha, _, sigma = (per_sample(c, z, path.time_axis) for c in path.coefficients(t))  # type: ignore[attr-defined]
        with torch.enable_grad():
            z = z.detach().requires_grad_(self.latent_rate > 0.0)
            x0 = step["student"](deviation * z, top, context).sample(step.g, context.mask)
            with torch.no_grad():
                x_t = alpha * x0 + sigma * eps
                real = step.guided("teacher", self.real.guidance)(x_t, t, context)
                fake = step["fake_score"](x_t, t, context)
                d = score_gap(-fake.gap(real), path, t)
            if not self.latent_rate:
                return d, torch.zeros_like(z)
            (pull,) = torch.autograd.grad((alpha * x0 * d).sum(), z)
        return d, pull

    def cost(self, role: str) -> Calls:
        """A Langevin step asks all three; the student answers once more, with its gradient."""
        if role != "student":
            return super().cost(role)
        asked = branches(self.real.guidance) * self.steps
        return {"student": self.steps + 1, "teacher": asked, "fake_score": self.steps}
