"""A discriminator head on a denoiser's inner features, noised real data against the noised rollout."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.questions import Question
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform


class Head(nn.Module):
    """Features of a denoiser's inner layer to one logit; positive says real."""

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b"]:
        return self.layers(features).squeeze(-1)


class Adversarial:
    """The non-saturating GAN of DMD2 (Yin et al. 2024, sec. 4.3):

    `L_D = softplus(-H(x_t^real)) + softplus(H(x_t^fake))`, `L_G = softplus(-H(x_t^fake))`,

    H = head of the critic's inner features at a noised sample; real and fake have their own t and noise. The head is
    trained in the critic's role, together with the critic's trunk. Beside `matching` it looks at matching's own noised
    rollout, and the critic is asked once for its belief about it, its features there and those of noised data.

    Args:
        times: distribution of the noising time. None: that of the objective that it shares the critic with, whose
            noised rollout it then looks at; alone, all of the path's. The paper draws a time and noise apart.
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
        times: Times | None = None,
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

    def questions(self, role: str) -> list[Question]:
        """Of the critic: its features. A view is noised apart, so it is asked about apart."""
        if self.view is not None or role not in ("student", self.critic):
            return []
        return [Question(self.critic, self.times, features=True, real=role == self.critic)]

    def _features(self, step: Step, role: str) -> tuple[Tensor, Tensor | None]:
        """Of noised rollouts and, in the critic's role, of noised data."""
        if self.view is None:
            answer = step.answer(*self.questions(role))
            assert answer.features is not None
            return answer.features, answer.real
        fake = self._viewed(step, step.rollout.x0)
        return fake, None if role == "student" else self._viewed(step, step.x0)

    def _viewed(self, step: Step, x0: Tensor) -> Tensor:
        assert self.view is not None
        seen, times = self.view(x0), self.times or Uniform()
        t = times(seen.shape[0], step.path, step.g).to(seen.device)
        x_t = step.path.corrupt(seen, t, step.context, g=step.g)
        return step[self.critic].features(x_t, t, step.context)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role == "student":
            logits = step["discriminator"](self._features(step, role)[0])
            return Losses({"adversarial": F.softplus(-logits).mean()})
        if role != self.critic:
            return None
        features, of_data = self._features(step, role)
        assert of_data is not None
        fake, real = step["discriminator"](torch.cat((features, of_data))).split(len(features))
        loss = F.softplus(fake) + F.softplus(-real)
        terms = {"discriminator": self.critic_weight * loss.mean()}
        if not step.logged:
            return Losses(terms)
        accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        shown = {"adversarial/accuracy": accuracy, "adversarial/margin": (real - fake).detach().mean()}
        return Losses(terms, shown)

    def cost(self, role: str) -> Calls:
        if role == "student":
            return {"student": 1, self.critic: 1}
        return {"student": 1, self.critic: 2} if role == self.critic else {}
