"""On-policy distillation: the student walks, the teacher is asked where the student came, step by step.

`E_(x_t ~ student's walk) D( p_S(x_s | x_t) , p_T(x_s | x_t) )`, states without gradient, the divergence in closed form:

| kernel | D | of |
|---|---|---|
| `kl` | `|mean_S - mean_T|^2 / 2 std^2`, the KL of two Gaussians of one width | the student's noisy transition |
| `mean` | `|mean_S - mean_T|^2 / 2`, its limit without noise | the deterministic one |
| `belief` | a divergence of the beliefs about x0 | any kind of belief |

For tokens `belief` with `forward` or `backward` is the KL of the transition as it is drawn, x0 first and x_s from it:
the second draw is the same for both (chain rule). A last step is deterministic, so there `kl` is `mean`.

With `substeps` the teacher goes from t to s by as many of its own steps, and what is compared with is the one belief by
which a single jump arrives where it did (`Path.share`): a student of few steps then learns a teacher of many, on the
student's own states. `anchor` adds the same divergence to the student as it was at the start, by weight.

| paper | options |
|---|---|
| DiffusionOPD (arXiv:2605.15055), closed form of the step-wise KL under SDE and ODE | `kl`, `mean` |
| Flow-OPD (arXiv:2605.08063), its path-wise form with a manifold anchor | `kl`, `anchor: 0.04` |
| GKD (Agarwal et al. 2024, arXiv:2306.13649, alg. 1 and eq. 1) | `belief`, `beta`, `share` of updates on own walks |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses, RoleSpec, branches
from omnidistill.objectives.following import follow
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior, detach

KERNELS = ("kl", "mean", "belief")
ASKED = ("one", "all")


class Visit(NamedTuple):
    """A state of the student's walk, the step from it, Float64[] each, the student's belief there and its context."""

    x_t: Tensor
    t: Tensor
    s: Tensor
    belief: Posterior
    context: Context


class OnPolicy:
    """
    Args:
        kernel: what is compared, see above.
        divergence: of `belief`: a kind of `Posterior.divergence`; `forward` is KL(teacher || student) of tokens.
        beta: generalised Jensen-Shannon of tokens in place of it: `beta KL(T || M) + (1 - beta) KL(S || M)` with
            `M = beta T + (1 - beta) S`; None for `divergence`.
        asked: `one` step of the walk, drawn for the whole batch: the rollout that matching and rewards look at as well;
            `all` of them, each with its own gradient, none through the states.
        substeps: steps of the teacher for one of the student's.
        second_order: the teacher's by the trapezoid of two beliefs (Heun).
        guidance: scale of the teacher; 1 is none.
        anchor: weight of the divergence to the student at its start.
        share: of updates that look at the student's own walk; the others look at noised data.
    """

    bank = None
    guidance_range = None

    def __init__(
        self,
        kernel: str = "mean",
        divergence: str = "forward",
        beta: float | None = None,
        asked: str = "one",
        substeps: int = 1,
        second_order: bool = False,
        guidance: float = 1.0,
        anchor: float = 0.0,
        share: float = 1.0,
    ) -> None:
        if kernel not in KERNELS:
            raise unknown("kernel", kernel, KERNELS)
        if asked not in ASKED:
            raise unknown("on_policy.asked", asked, ASKED)
        if beta is not None and (kernel != "belief" or not 0.0 < beta < 1.0):
            raise UserError(
                f"on_policy.beta lies between 0 and 1 and belongs to kernel=belief, got beta={beta}, kernel={kernel}"
            )
        if substeps < 1:
            raise UserError(f"on_policy.substeps counts the teacher's steps, from 1 on, got {substeps}")
        if anchor < 0.0 or not 0.0 <= share <= 1.0:
            raise UserError(f"on_policy.anchor is at least 0 and share a share, got {anchor} and {share}")
        self.kernel, self.kind, self.beta, self.asked = kernel, divergence, beta, asked
        self.substeps, self.second_order = substeps, second_order
        self.guidance, self.anchor, self.share = guidance, anchor, share
        self.rolls_out = asked == "one"
        self.roles = {"reference": RoleSpec(start="student", refresh=0)} if anchor else {}
        needs = {"gaussian"} if kernel != "belief" else {"categorical"} if beta is not None else set()
        needs |= {"condition"} if guidance != 1.0 else set()
        self.needs = frozenset(needs | ({"data"} if share < 1.0 else set()))

    def advice(self, path: object) -> str:
        """What to set where states are tokens."""
        return "" if self.kernel == "belief" else "families.on_policy.kernel=belief fits beliefs of any kind"

    def walking(self, role: str) -> list[int | None]:
        """Whatever walk others make does; who looks at noised data now and then does not say that there will be one."""
        return [None] if role == "student" and self.asked == "all" and self.share == 1.0 else []

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        visits = self._visits(step)
        teacher = step.guided("teacher", self.guidance)
        terms, far = [], []
        for visit in visits:
            terms.append(self._apart(step, visit, self._target(step, teacher, visit)))
            if self.anchor:
                with torch.no_grad():
                    held = step["reference"](visit.x_t, visit.t, visit.context)
                far.append(self._apart(step, visit, held))
        loss = torch.stack(terms).mean()
        found = {"on_policy": loss}
        if far:
            found["anchor"] = self.anchor * torch.stack(far).mean()
        shown = {
            f"on_policy/at_{float(v.t):.3g}": term.detach() for v, term in zip(visits, terms, strict=True)
        }
        if far:
            shown["on_policy/from_anchor"] = torch.stack(far).mean().detach()
        return Losses(found, shown)

    # --- where the student came -----------------------------------------------------------------------------------

    def _visits(self, step: Step) -> list[Visit]:
        student, sampler = step["student"], step.spec.sampler
        times = sampler.times(student, step.spec.steps)
        if self.share < 1.0 and float(torch.rand((), generator=step.structure)) >= self.share:
            k = int(torch.randint(len(times) - 1, (), generator=step.structure))
            x_t = step.path.renoise(step.x0, times[k], step.context, g=step.g)
            belief = student(x_t, times[k], step.context, target_time=sampler.target(student, times[k + 1]))
            return [Visit(x_t, times[k], times[k + 1], belief, step.context)]
        if self.asked == "one":
            made = step.rollout
            t = made.t[0].to(times.device)
            return [Visit(made.x_t.detach(), t, times[times < t].max(), made.belief, made.context)]
        _, walk = step.walk()
        visited = zip(walk.states[:-1], walk.times[:-1], walk.times[1:], walk.beliefs, strict=True)
        return [Visit(x.detach(), t, s, belief, walk.context) for x, t, s, belief in visited]

    @torch.no_grad()
    def _target(self, step: Step, teacher: Denoiser, visit: Visit) -> Posterior:
        t, s = (time.expand(len(visit.x_t)).to(visit.x_t.device) for time in (visit.t, visit.s))
        if self.substeps == 1 and not self.second_order:
            return teacher(visit.x_t, t, visit.context)
        _, jump = follow(
            step.path,
            teacher,
            visit.x_t,
            t,
            s,
            visit.context,
            step.g,
            self.substeps,
            self.second_order,
            whole=True,
        )
        assert jump is not None
        return jump

    # --- how far its step is from the teacher's ---------------------------------------------------------------------

    def _apart(self, step: Step, visit: Visit, target: Posterior) -> Tensor:
        mask = visit.context.mask
        if self.kernel == "belief":
            return reduce(self._divergence(visit.belief, detach(target), mask), mask=mask)
        law, at = step.spec.sampler.law, (visit.t, visit.s, visit.context)
        mean, std = law(step.path, visit.x_t, visit.belief.sample(step.g, mask), *at)
        there, _ = law(step.path, visit.x_t, target.sample(step.g, mask), *at)
        noisy = self.kernel == "kl" and float(visit.s) > 0.0
        if noisy and not bool((std > 0).all()):
            raise UserError(
                f"on_policy.kernel=kl needs a noisy transition, student.transition={step.spec.sampler.transition} has "
                "none; use student.transition=ancestral, renoise or gamma, or kernel=mean"
            )
        weight = std**-2 if noisy else 1.0
        return reduce(0.5 * weight * (mean - there.detach()) ** 2, mask=mask)

    def _divergence(self, belief: Posterior, target: Posterior, mask: Tensor | None) -> Tensor:
        if self.beta is None:
            return belief.divergence(target, self.kind, mask)
        middle = target.blend(belief, self.beta)
        share = self.beta * middle.divergence(target, "forward", mask)
        return share + (1.0 - self.beta) * middle.divergence(belief, "forward", mask)

    def cost(self, role: str) -> Calls:
        """Of one step of the walk."""
        if role != "student":
            return {}
        asked = self.substeps * (2 if self.second_order else 1) * branches(self.guidance)
        return {"student": 1, "teacher": asked} | ({"reference": 1} if self.anchor else {})
