"""A discriminator head on a denoiser's inner features, noised real data against the noised rollout."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform


class Head(nn.Module):
    """Features Float[b c] of a denoiser's inner layer to one logit, Float[b]; positive says real."""

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).squeeze(-1)


class Adversarial:
    """The non-saturating GAN of DMD2 (Yin et al. 2024, sec. 4.3):

    `L_D = softplus(-H(x_t^real)) + softplus(H(x_t^fake))`, `L_G = softplus(-H(x_t^fake))`,

    H = head of the critic's inner features at a noised sample; real and fake have their own t and noise. The head is
    trained in the critic's role, together with the critic's trunk.

    Args:
        times: distribution of the noising time.
        critic_weight: factor of L_D beside the critic's denoising loss.
        width: hidden width of the head.
        critic: the role whose features are read.
        view: of clean samples, what is judged instead of the samples themselves, e.g. single frames of a video;
            Float[b ...] -> Float[b ...] of the same shape.
        start: what the critic starts as, where no other objective says (`matching` does): `teacher` or `student`. It
            is then trained on L_D alone.
    """

    rolls_out = True

    def __init__(
        self,
        times: Times = Uniform(0.0, 1.0),
        critic_weight: float = 1e-2,
        width: int = 128,
        critic: str = "fake_score",
        view: Callable[[Tensor], Tensor] | None = None,
        start: str | None = None,
    ) -> None:
        self.view = view
        self.times, self.critic_weight, self.critic, self.bank = times, critic_weight, critic, None
        # The sample must carry a gradient through the critic's features to the student.
        self.needs = frozenset({"data", "differentiable"})

        def head(denoiser: Denoiser) -> nn.Module:
            return Head(denoiser.feature_channels(), width)

        self.roles = {critic: RoleSpec(start=start, modules={"discriminator": head})}

    def _logits(self, step: Step, x0: Tensor) -> Tensor:
        x0 = x0 if self.view is None else self.view(x0)
        t = self.times(x0.shape[0], step.path, step.g).to(x0.device)
        x_t = step.path.corrupt(x0, t, step.context, g=step.g)
        return step["discriminator"](step[self.critic].features(x_t, t, step.context))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            return Losses({"adversarial": F.softplus(-self._logits(step, step.rollout.x0)).mean()})
        if role != self.critic:
            return None
        fake = self._logits(step, step.rollout.x0.detach())
        real = self._logits(step, step.x0)
        loss = F.softplus(fake) + F.softplus(-real)
        accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        shown = {"adversarial/accuracy": accuracy, "adversarial/margin": (real - fake).detach().mean()}
        return Losses({"discriminator": self.critic_weight * loss.mean()}, shown)

    def cost(self, role: str) -> Calls:
        if role == "student":
            return {"student": 1, self.critic: 1}
        return {"student": 1, self.critic: 2} if role == self.critic else {}
