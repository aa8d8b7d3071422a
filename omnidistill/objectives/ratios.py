"""The density ratio r = p / q of teacher and student at x_t, as a discriminator tells it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omnidistill.denoisers.features import DECLARED
from omnidistill.errors import UserError
from omnidistill.objectives.divergences import Weight
from omnidistill.objectives.questions import Question
from omnidistill.objectives.step import Step
from omnidistill.paths import Path
from omnidistill.paths.base import per_sample

FITTING = ("fake_score", DECLARED, None, "softplus", False)
"""What a head reads, and how it was trained, whose logit is log r."""


def density_ratio(
    step: Step, law: Weight, question: Question, limits: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """`log r` within `limits` of r and h(r) there, Float64[b], at the noised rollout of a question about the critic's
    features; without gradient."""
    if "discriminator" not in step.models:
        raise UserError(
            "a divergence other than reverse_kl reads density ratios off a discriminator; add objective.adversarial"
        )
    head = step["discriminator"]
    if getattr(head, "reads", FITTING) != FITTING:
        raise UserError(
            "the density ratio is the logit of one head on the critic's declared layer under loss=softplus; leave "
            "families.adversarial.critic, layers, heads, loss and step_heads out"
        )
    seen = (q for q in step.expected if q.model == "fake_score" and q.features)
    if any(q.times not in (None, question.times) for q in seen):
        raise UserError(
            f"the density ratio is read at {question.times} and its discriminator is trained elsewhere; leave "
            "families.adversarial.times out"
        )
    features = step.answer(question).features
    assert features is not None
    with torch.no_grad():
        return weights(law, head(features), limits)


def weights(law: Weight, logits: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """`log r` within `limits` of r, Float64[b], and h(r) there."""
    u = logits.detach().double().clamp(*(math.log(limit) for limit in limits))
    return u, law.k(u)


def leaning(log_ratio: Tensor, slope: Tensor, x_t: Tensor) -> Tensor:
    """`log r`, Float[b], with the gradient `slope`, s_p - s_q, with respect to x_t: known without differentiating a
    discriminator."""
    moved = (slope.detach() * (x_t - x_t.detach())).flatten(1).sum(1)
    return log_ratio.detach() + moved.to(log_ratio.dtype)


def score_gap(delta: Tensor, path: Path, t: Tensor) -> Tensor:
    """`s_p - s_q = alpha (D_p - D_q) / sigma^2`."""
    alpha, _, sigma = path.coefficients(t)  # type: ignore[attr-defined]
    return per_sample(alpha / sigma**2, delta, path.time_axis) * delta
