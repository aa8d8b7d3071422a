"""Consistency: the belief at t must agree with a belief nearer to the data, on the same trajectory.

`L = E w(t) divergence(student(x_t, t), sg target)`, where x_t, x_r (r < t) is a pair of one trajectory. Options are

pairs   where x_r comes from:
        `bridge`  x_r ~ q(x_r | x_t, x0) with the data's own x0. Deterministic on Gaussian paths, where it is the same
                  noise at two levels (consistency training: Song et al. 2023, theorem 2); random on tokens (CDLM).
        `teacher` x_r from x_t by `teacher_steps` steps of the teacher (consistency distillation, ibid. eq. 7; LCM);
                  with `churn` each of them draws fresh noise (SCott, Liu et al. 2024).
        `own`     likewise, by steps of the student's own, of its average where that is the target: no teacher is asked
                  (CoDi, Mei et al. 2023).
        `independent` x_r ~ q(x_r | x0) with noise of its own: two trajectories of one x0 (ROSE-CD, Xu et al. 2025).
        `stored`  both from a bank of teacher trajectories; needs no data.
target  whose belief is matched:
        `average` an exponential moving average of the student, at x_r.
        `self`    the student itself without gradient, at x_r (Song & Dhariwal 2023; CDLM).
        `teacher` the teacher, at x_r.
        `jump`    the one belief that does in one jump what the teacher does in two, t -> r -> s (`Path.share`):
                  for points progressive distillation (Salimans & Ho 2022, alg. 2), for tokens SDTT (Deschenaux &
                  Gulcehre 2024, alg. 1). With `rounds` the student becomes the teacher and the step doubles.

The boundary condition f(x, 0) = x is in the denoiser: a point at t = 0 is x_t itself, a resolved token is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.following import follow, stored
from omnidistill.objectives.jumps import Jumps, Nodes
from omnidistill.objectives.scales import Scales
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior, detach
from omnidistill.random import uniform
from omnidistill.weights import weight

PAIRS = ("bridge", "teacher", "own", "independent", "stored")
View = Callable[[Tensor], Tensor]
TARGETS = ("average", "self", "teacher", "jump")


class Pair(NamedTuple):
    """Two states of one trajectory and their times. For `jump` also the end s of the jump and the first belief."""

    x_t: Tensor
    x_r: Tensor
    t: Tensor
    r: Tensor
    s: Tensor | None = None
    first: Posterior | None = None


class Consistency:
    """
    Args:
        pairs, target: see above.
        jumps: distribution of (t, r); for `jump` of (t, s), with r half way on the same grid.
        divergence: a kind of `Posterior.divergence`: `nll` fits all; `huber`, `l1`, `l2` for points; `forward`,
            `backward`, `jsd`, `tv` for tokens.
        weighting: w(t), a name of `weights.WEIGHTS`, or `gap` for 1 / (t - r).
        decay: of the moving average that `target: average` matches.
        teacher_steps: steps the teacher takes from t to r.
        second_order: teacher steps by the trapezoid of two beliefs (Heun) instead of one.
        churn: noise strength of these steps: 0 follows the probability flow, 1 the reverse stochastic equation; the
            best answer at x_t is then the mean of those at all x_r that may follow.
        clean: weight of the same answer's distance to the data itself, which teaches a condition (CoDi).
        guidance: guidance scale of the teacher, or a pair (low, high), see `Scales`.
        rounds: for `jump`, how many times the student becomes the teacher, plus one.
        bank: number of stored trajectories for `pairs: stored`.
        view: of the two points, what is compared instead of the points themselves, e.g. differences of frames
            (Zhai et al. 2024, MCM); `Float[b ...] -> Float[b ...]`, for points without padding.
        mixed: share of the batch whose trajectories start from the student's own samples instead of the data, which
            sampling will meet (ibid., mixed trajectory distillation).
    """

    def __init__(
        self,
        pairs: str = "teacher",
        target: str = "average",
        jumps: Jumps | None = None,
        divergence: str = "nll",
        weighting: str = "uniform",
        decay: float = 0.95,
        teacher_steps: int = 1,
        second_order: bool = False,
        churn: float = 0.0,
        clean: float = 0.0,
        guidance: float | tuple[float, float] = 1.0,
        rounds: int = 1,
        bank: int = 4096,
        view: View | None = None,
        mixed: float = 0.0,
    ) -> None:
        if pairs not in PAIRS:
            raise unknown("source of pairs", pairs, PAIRS)
        if target not in TARGETS:
            raise unknown("consistency target", target, TARGETS)
        if target == "jump" and pairs != "teacher":
            raise UserError(f"target 'jump' follows the teacher, so pairs must be 'teacher', got '{pairs}'")
        if rounds > 1 and target != "jump":
            raise UserError(f"rounds={rounds} needs target 'jump', got '{target}'")
        if teacher_steps < 1 or rounds < 1:
            raise UserError(f"teacher_steps and rounds must be >= 1, got {teacher_steps} and {rounds}")
        if not 0.0 <= mixed <= 1.0 or (mixed and pairs == "stored"):
            raise UserError(
                f"mixed is a share from 0 to 1 of the data, not of stored pairs; got {mixed}, '{pairs}'"
            )
        if not 0.0 <= churn <= 1.0 or (
            churn and (second_order or pairs not in ("teacher", "own") or target == "jump")
        ):
            raise UserError(
                "churn is a share from 0 to 1 of the noise of single-belief steps (pairs 'teacher' or 'own', "
                f"second_order=false, target not 'jump'); got {churn}, '{pairs}', {second_order}, '{target}'"
            )
        if clean < 0.0 or (clean and (mixed or pairs == "stored")):
            raise UserError(
                "clean is a weight of the distance to the data, for pairs made of them alone; "
                f"got {clean}, '{pairs}', mixed={mixed}"
            )
        self.mixed, self.rolls_out = mixed, mixed > 0.0
        self.pairs, self.target, self.jumps = pairs, target, jumps or Nodes(32)
        self.divergence, self.weighting, self.teacher_steps = divergence, weighting, teacher_steps
        self.scales = Scales(guidance)
        self.guidance_range = self.scales.range
        self.second_order, self.rounds, self.view = second_order, rounds, view
        self.churn, self.clean = churn, clean
        self.roles: dict[str, RoleSpec] = {}
        if target == "average":
            self.roles["target"] = RoleSpec(start="student", average=decay)
        if rounds > 1:
            self.roles["mentor"] = RoleSpec(start="student", refresh=rounds - 1)
        needs = self.scales.needs | (set() if pairs == "stored" else {"data"})
        needs |= {"composable"} if target == "jump" else set()
        self.needs = frozenset(needs | ({"deterministic"} if pairs == "stored" else set()))
        self.bank = BankSpec(bank, self.jumps.nodes, states=True) if pairs == "stored" else None

    # --- the loss -----------------------------------------------------------------------------------------------

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        self.scales.draw(step)
        with torch.no_grad():
            pair = self._pair(step)
            target = self._target(step, pair)
        context = self._context(step)
        belief = _ask(step["student"], pair.x_t, pair.t, context, pair.s)
        # Beliefs at two different states: what one motion of the whole differs by is not an error.
        target = step.path.align(target, belief, context.mask)
        if self.view is None:
            error = belief.divergence(target, self.divergence, context.mask)
            where = step.path.unresolved(pair.x_t, pair.t)
        else:
            error, where = self._viewed(belief, target, step), None
        weight_ = self._weight(step, pair)
        terms = {"consistency": reduce(error, weight_, context.mask, where)}
        if self.clean:
            error = belief.divergence(step.path.certain(step.x0), self.divergence, context.mask)
            here = step.path.unresolved(pair.x_t, pair.t)
            terms["clean"] = self.clean * reduce(error, weight_, context.mask, here)
        drift = detach(belief).gap(target).abs().mean()
        return Losses(terms, {"consistency/drift": drift})

    def _viewed(self, belief: Posterior, target: Posterior, step: Step) -> Tensor:
        assert self.view is not None
        if "gaussian" not in step.path.offers or step.context.mask is not None:
            raise UserError(
                f"view={self.view} compares points without padding; {step.path} or its batch has none such"
            )
        seen, wanted = (b.replace(self.view(b.parameters)) for b in (belief, target))
        return seen.divergence(wanted, self.divergence)

    def _context(self, step: Step) -> Context:
        """Stored trajectories come with the contexts that they were made under, which are not the batch's."""
        if self.pairs == "stored" and step.bank is not None:
            return replace(step.bank["context"], guidance=step.context.guidance)
        return step.context

    def _weight(self, step: Step, pair: Pair) -> Tensor:
        if self.weighting == "gap":
            return 1.0 / (pair.t - pair.r)
        return weight(self.weighting, step.path, pair.t)

    def _teacher(self, step: Step) -> Denoiser:
        """Who is followed: the teacher, or after the first round the student of the last one."""
        if self._round(step) > 0:
            return step["mentor"]
        if self.pairs == "own":
            return step["target" if self.target == "average" else "student"]
        return self.scales.teacher(step)

    def _round(self, step: Step) -> int:
        return min(self.rounds - 1, step.update * self.rounds // step.total) if self.rounds > 1 else 0

    def _pair(self, step: Step) -> Pair:
        if self.pairs == "stored":
            x_t, x_r, t, r, _ = stored(step)
            return Pair(x_t, x_r, t, r)
        path, context, x0 = step.path, step.context, self._clean(step)
        # Who asks for the run's length is bound to it; most grids stay as they are.
        progress = step.update / step.total if getattr(self.jumps, "refined", True) else 0.0
        t, s = (u.to(x0.device) for u in self.jumps(x0.shape[0], path, step.g, progress, self._round(step)))
        x_t = path.renoise(x0, t, context, g=step.g)  # at the temperature at which the student is asked
        if self.pairs == "bridge":
            return Pair(x_t, path.bridge(x_t, x0, t, s, context, g=step.g), t, s)
        if self.pairs == "independent":
            return Pair(x_t, path.renoise(x0, s, context, g=step.g), t, s)
        if self.target == "jump":
            r = self.jumps.middle(t, s, path, progress, self._round(step))
            first = _ask(self._teacher(step), x_t, t, context, r)
            x_r = path.bridge(x_t, first.sample(step.g, context.mask), t, r, context, g=step.g)
            return Pair(x_t, x_r, t, r, s, first)
        how = (self.teacher_steps, self.second_order, False, self.churn)
        x_s, _ = follow(path, self._teacher(step), x_t, t, s, context, step.g, *how)
        return Pair(x_t, x_s, t, s)

    def _clean(self, step: Step) -> Tensor:
        """The clean ends of the trajectories: the data, or for some samples what the student makes of noise."""
        if not self.mixed:
            return step.x0
        x0, own = step.x0, step.rollout.x0.detach()
        chosen = (uniform(torch.empty(len(x0)), step.g) < self.mixed).to(x0.device)
        return torch.where(per_sample(chosen, x0) > 0, own, x0)

    def _target(self, step: Step, pair: Pair) -> Posterior:
        if self.target == "jump":
            assert pair.first is not None and pair.s is not None
            second = _ask(self._teacher(step), pair.x_r, pair.r, step.context, pair.s)
            return pair.first.blend(second, step.path.share(pair.x_t, pair.x_r, pair.t, pair.r, pair.s))
        if self.target == "teacher":
            return self._teacher(step)(pair.x_r, pair.r, self._context(step))
        return step["student" if self.target == "self" else "target"](pair.x_r, pair.r, self._context(step))

    # --- what it costs --------------------------------------------------------------------------------------------

    def cost(self, role: str) -> Calls:
        """For `jump` with rounds the calls of the first round; later ones ask the mentor instead of the teacher."""
        if role != "student":
            return {}
        calls = {"student": 1 + (self.target == "self") + self.rolls_out}
        followed = self.teacher_steps * (2 if self.second_order else 1)
        asked = followed if self.pairs == "teacher" else 0
        asked = 2 if self.target == "jump" else asked + (self.target == "teacher")
        if asked:
            calls["teacher"] = asked * self.scales.branches
        own = followed if self.pairs == "own" else 0
        if self.target == "average":
            calls["target"] = 1 + own
        else:
            calls["student"] += own
        return calls


def _ask(denoiser: Denoiser, x: Tensor, t: Tensor, context: Context, s: Tensor | None) -> Posterior:
    """The belief for a jump from t to s; one that learns jumps to any time is told s, as the sampler tells it."""
    return denoiser(x, t, context, target_time=s if denoiser.wants_target else None)
