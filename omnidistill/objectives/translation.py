"""Translation between labels without pairs: there and back again, and nothing to do where it is already.

One student G(x, label) goes all ways (Parmar et al. 2024, CycleGAN-Turbo, arXiv:2403.12036; Zhu et al. 2017,
arXiv:1703.10593). Under `student.inputs=translated` the step's rollout is `G(x, b)`, x of label a. That it looks like
data of label b is for other objectives to see to, a discriminator or distribution matching. Here,

    L = cycle d(G(G(x, b), a), x) + identity d(G(y, b), y),   y of label b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.context import Context, labels_of, relabelled
from omnidistill.errors import UserError
from omnidistill.objectives import kernels
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.compared import of_pairs
from omnidistill.objectives.heads import named
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.samplers.translation import start
from omnidistill.times import Times, Uniform


class Translation:
    """
    Args:
        cycle, identity: weights of the two, in the samples' own space; 0 leaves a term out.
        cycle_features, identity_features: weights of the same in `kernels.perceptual` of a frozen network's layers.
        divergence: a kind of `Posterior.divergence`.
        role, layers, times: that network, a copy of the teacher, its layers (`all`; None: the declared one), and the
            times of the noise that both sides are seen through.
    """

    bank = None
    rolls_out = True
    guidance_range = None
    translates = True

    def __init__(
        self,
        cycle: float = 1.0,
        identity: float = 1.0,
        cycle_features: float = 0.0,
        identity_features: float = 0.0,
        divergence: str = "l1",
        role: str = "features",
        layers: Sequence[str] | str | None = None,
        times: Times = Uniform(0.02, 0.1),
    ) -> None:
        self.weights = {
            "cycle": cycle,
            "identity": identity,
            "cycle_features": cycle_features,
            "identity_features": identity_features,
        }
        if min(self.weights.values()) < 0.0 or not any(self.weights.values()):
            said = ", ".join(f"{name}={value:g}" for name, value in self.weights.items())
            raise UserError(f"weights of a translation are at least 0, and not all of them 0; got {said}")
        self.divergence, self.role, self.layers, self.times = divergence, role, named(layers), times
        perceptual = cycle_features or identity_features
        self.roles = {role: RoleSpec("teacher", frozen=True)} if perceptual else {}
        self.needs = frozenset({"gaussian", "deterministic", "differentiable", "data", "condition"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        if step.spec.inputs != "translated" or step.spec.several:
            raise UserError(
                "a translation is one answer to data: set student.inputs=translated and student.steps=1, got "
                f"{step.spec.inputs} and {step.spec.steps}"
            )
        x, here = step.source.x0, step.context
        terms: dict[str, Tensor] = {}
        if self._wants("cycle"):
            there = here.with_condition(relabelled(here.condition, step.source.labels))
            terms |= self._apart("cycle", step, self._translated(step, step.rollout.x0, there), x, there)
        if self._wants("identity"):
            terms |= self._apart("identity", step, self._translated(step, step.x0, here), step.x0, here)
        return Losses(terms, self._shown(step) if step.logged else {})

    def _wants(self, what: str) -> bool:
        return self.weights[what] > 0.0 or self.weights[f"{what}_features"] > 0.0

    @staticmethod
    def _translated(step: Step, x: Tensor, context: Context) -> Posterior:
        """G(x, the label of the context), with its graph also through x."""
        student = step["student"]
        made = step.spec.sampler.rollout(student, x, 1, context, g=step.g, x_1=start(student.path, x))
        return made.belief

    def _apart(
        self, what: str, step: Step, found: Posterior, wanted: Tensor, context: Context
    ) -> dict[str, Tensor]:
        """How far what was found is from what was wanted, as itself and as a network sees it."""
        terms, mask = {}, context.mask
        if weight := self.weights[what]:
            error = found.divergence(step.path.certain(wanted), self.divergence, mask)
            terms[what] = weight * reduce(error, 1.0, mask)
        if weight := self.weights[f"{what}_features"]:
            made = found.sample(None, mask)
            layers = of_pairs(step, self.role, self.layers, self.times, made, wanted, context)
            each = [kernels.perceptual(one.fake[0], one.real[0].detach(), one.fake[1]) for one in layers]
            terms[f"{what}_features"] = weight * torch.stack(each).sum()
        return terms

    @staticmethod
    def _shown(step: Step) -> dict[str, Tensor]:
        """Share of samples that came from another label, and how far they went, as a root of the mean square."""
        labels = labels_of(step.context.condition)
        assert labels is not None  # its source has them
        moved = (step.rollout.x0.detach() - step.source.x0).square()
        return {
            "translation/crossed": (labels != step.source.labels).double().mean(),
            "translation/moved": reduce(moved, 1.0, step.context.mask).sqrt(),
        }

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        asked = sum(self._wants(what) for what in ("cycle", "identity"))
        seen = sum(self.weights[f"{what}_features"] > 0.0 for what in ("cycle", "identity"))
        return {"student": 1 + asked} | ({self.role: 2 * seen} if seen else {})
