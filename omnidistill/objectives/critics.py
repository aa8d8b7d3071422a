"""What stands for the student's law in distribution matching where no denoiser has learned it.

Each class here is such a stand-in, a belief `D_fake` about the sample at x_t, so that the update stays
`x0 <- x0 - w(t) (D_fake - D_real) / n`. What the papers write as a gap of noises, `eps_real - eps_fake`, is
`alpha / sigma` times that, with `eps = (x_t - alpha D) / sigma`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from omnidistill.context import Context, labels_of, relabelled
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, RoleSpec
from omnidistill.objectives.localised import SOURCE
from omnidistill.objectives.reduction import reduce
from omnidistill.objectives.step import Step
from omnidistill.paths import GaussianPath, Path
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior

GAUSSIAN = frozenset({"differentiable"})


class Critic(Protocol):
    """Who answers about x_t in the place of a denoiser of the student's law.

    Attributes:
        needs, roles: as an objective's.
    """

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def roles(self) -> Mapping[str, RoleSpec]: ...

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        """About the rollout's sample; asked without gradient. `real`: the name of the teacher."""
        ...

    def losses(self, role: str, step: Step, x_t: Tensor, t: Tensor, real: str) -> Tensor:
        """The loss of one of its roles, on clean data `step.x0` noised to x_t."""
        ...

    def cost(self, role: str, real: str) -> Calls:
        """Network calls of a belief (role `student`), but for that of a source, or of an update of one of its roles."""
        ...


class _Untrained:
    """A critic without roles."""

    roles: Mapping[str, RoleSpec] = {}

    def losses(self, role: str, step: Step, x_t: Tensor, t: Tensor, real: str) -> Tensor:
        raise UserError(f"this critic trains no '{role}'")


class Itself(_Untrained):
    """The sample (score distillation sampling; Poole et al. 2022, DreamFusion, eq. 3)."""

    needs: frozenset[str] = frozenset()

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        return step.path.certain(step.rollout.x0.detach())

    def cost(self, role: str, real: str) -> Calls:
        return {}


class Unconditional(_Untrained):
    """The teacher without condition, so that only the condition pulls (the likelihood term of JDM)."""

    needs = frozenset({"condition"})

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        return step.guided(real, 0.0)(x_t, t, step.context)

    def cost(self, role: str, real: str) -> Calls:
        return {real: 1} if role == "student" else {}


class Student(_Untrained):
    """The student itself, which knows its own law only as far as it is still a denoiser of it (Chadebec et al. 2024,
    Flash Diffusion, arXiv:2406.02347)."""

    needs: frozenset[str] = frozenset()

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        student = step["student"]
        return student(
            x_t, t, step.context, target_time=torch.zeros_like(t) if student.wants_target else None
        )

    def cost(self, role: str, real: str) -> Calls:
        return {"student": 1} if role == "student" else {}


@dataclass(frozen=True)
class Negative(_Untrained):
    """The teacher under a condition that nobody wants (Katzir et al. 2023, Noise-Free Score Distillation,
    arXiv:2310.17590).

    The paper drops the noise term of `eps_guided - eps` and keeps what it calls the domain and the condition,

        delta_D + s delta_C,   delta_C = eps(y) - eps(null),   delta_D = eps(null) - eps(negative)

    In beliefs that is `D(negative) - D_guided`. Where there is little noise, what is left of it in eps(null) is taken
    for none and `delta_D = eps(null)`, which is a critic that answers with the state itself, `x_t / alpha`.

    Args:
        label: that nobody wants; None takes the teacher without condition, so that the condition alone pulls.
        bare: noise level sigma / alpha below which the state is the critic. The paper's t < 200 of 1000 is 0.57 on the
            schedule of its teacher.
    """

    label: int | None = None
    bare: float = 0.57

    def __post_init__(self) -> None:
        if not 0.0 <= self.bare < float("inf"):
            raise UserError(f"bare is a noise level, 0 or more; got bare={self.bare}")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"condition"} | (GAUSSIAN if self.bare else set()))

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        if self.label is None:
            unwanted = step.guided(real, 0.0)(x_t, t, step.context)
        else:
            unwanted = step[real](x_t, t, _under(step.context, self.label))
        if not self.bare:
            return unwanted
        alpha, beta, sigma = _shaped(step.path, t, x_t)
        anchor = 0.0 if step.context.anchor is None else beta * step.context.anchor
        early = sigma < self.bare * alpha
        return unwanted.replace(torch.where(early, (x_t - anchor) / alpha, unwanted.parameters))

    def cost(self, role: str, real: str) -> Calls:
        return {real: 1} if role == "student" else {}


@dataclass(frozen=True)
class Later(_Untrained):
    """The teacher itself, asked at a noisier time about the same sample with the same noise (Ma et al. 2024,
    ScaleDreamer, asynchronous score distillation): `eps_fake = eps(x_u, u)`, `u = t + ratio (t - low) r`, r uniform
    in [0, 1]. Noise predictions are better understood there, as those of a critic that has seen the sample are.

    Args:
        ratio: of the way from `low` to t.
        low: least time.
        drawn: r is drawn for each sample; else it is 1.
    """

    ratio: float = 0.1
    low: float = 0.02
    drawn: bool = True
    needs = GAUSSIAN

    def __post_init__(self) -> None:
        if not self.ratio > 0.0:
            raise UserError(f"a later time needs ratio > 0, got {self.ratio}")

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        path, x0, g = step.path, step.rollout.x0.detach(), step.g
        r = torch.rand(len(t), generator=g, device=g.device, dtype=torch.float64) if self.drawn else 1.0
        further = self.ratio * (t - self.low).clamp_min(0.0)
        u = (t + further * torch.as_tensor(r).to(t.device)).clamp_max(path.span[1])
        middle = path.expected(x0, t, step.context)  # type: ignore[attr-defined]
        alpha, _, sigma = _shaped(path, t, x_t)
        alpha_u, _, sigma_u = _shaped(path, u, x_t)
        noise = (x_t - middle) / sigma
        there = path.expected(x0, u, step.context)  # type: ignore[attr-defined]
        answer = step[real](there + sigma_u * noise, u, step.context)
        # eps(x_u, u) - eps = alpha_u (x0 - D) / sigma_u, whatever the anchor.
        gap = (alpha_u / sigma_u) * (x0 - answer.parameters)
        return answer.replace(x0 - (sigma / alpha) * gap)

    def cost(self, role: str, real: str) -> Calls:
        return {real: 1} if role == "student" else {}


@dataclass(frozen=True)
class Delta(_Untrained):
    """The noise that the teacher finds in the source, what the student was at the start, under the source's own
    condition: `eps_fake = eps(x_t + alpha (x_source - x0), t, label)`, with the same noise (Hertz et al. 2023, Delta
    Denoising Score, arXiv:2304.07090). What is wrong with both predictions cancels, and an edit is left, which ends:

        D_fake = x0 + D(source noised) - x_source

    Args:
        label: of the source; None: the condition that the sample is asked under.
    """

    label: int | None = None
    roles = SOURCE

    @property
    def needs(self) -> frozenset[str]:
        return GAUSSIAN | ({"condition"} if self.label is not None else set())

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        alpha, _, _ = _shaped(step.path, t, x_t)
        x0, source = step.rollout.x0.detach(), step.begun
        context = step.context if self.label is None else _under(step.context, self.label)
        answer = step[real](x_t + (alpha * (source - x0)).to(x_t.dtype), t, context)
        return answer.replace(x0 + answer.parameters - source)

    def cost(self, role: str, real: str) -> Calls:
        return {real: 1} if role == "student" else {}


@dataclass(frozen=True)
class Corrective:
    """What the teacher makes of clean data that are noised and denoised again (Alldieck et al. 2024, LMC-SDS,
    arXiv:2401.05293): a network b(x0, t) that sees the clean sample, learned on data by

        `E |b(x0, t) - D(x_t, t)|^2`

    so that it is `E[D(x_t) | x0]`. SDS moves a sample by `x0 - D`, most of which is the teacher's own blur at t; the
    corrected update `b(x0, t) - D` is zero on average wherever the sample is as data are, and small guidance does.

    Args:
        updates: of b for one of the student.
        lr: its learning rate as a multiple of the student's.
    """

    updates: int = 1
    lr: float = 1.0
    needs = GAUSSIAN | {"data"}

    @property
    def roles(self) -> Mapping[str, RoleSpec]:
        """The network b."""
        return {"corrective": RoleSpec(start="teacher", updates=self.updates, lr=self.lr)}

    def belief(self, step: Step, x_t: Tensor, t: Tensor, real: str) -> Posterior:
        return step["corrective"](step.rollout.x0.detach(), t, step.context)

    def losses(self, role: str, step: Step, x_t: Tensor, t: Tensor, real: str) -> Tensor:
        with torch.no_grad():
            target = step[real](x_t, t, step.context)
        answer = step["corrective"](step.x0.to(x_t.dtype), t, step.context)
        error = answer.divergence(target, "nll", step.context.mask)
        return reduce(error, step["corrective"].output_weight(t), step.context.mask)

    def cost(self, role: str, real: str) -> Calls:
        return {"corrective": 1} if role == "student" else {"corrective": 1, real: 1}


def _under(context: Context, label: int) -> Context:
    labels = labels_of(context.condition)
    if labels is None:
        raise UserError(f"a negative label ({label}) needs a condition of labels")
    return context.with_condition(relabelled(context.condition, torch.full_like(labels, label)))


def _shaped(path: Path, t: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(path, GaussianPath):
        raise UserError(f"this critic is arithmetic on noise and needs a Gaussian path, got {path}")
    return tuple(per_sample(value, like, path.time_axis) for value in path.coefficients(t))


NAMED: Mapping[str, Critic] = {"none": Itself(), "unconditional": Unconditional(), "student": Student()}
