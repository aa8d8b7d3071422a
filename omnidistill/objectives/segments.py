"""Consistency between any two times: one jump t -> s lands where a step of the teacher, t -> r, and then the student's
own jump r -> s do.

Where a jump lands is said by beliefs: with D the teacher's belief along t -> r and f' the student's answer without
gradient, the target of f(x_t, t, s) is the one belief that does both in one jump,

    `D_s = w D + (1 - w) f'(x_r, r, s)`, w = `Path.share`, s <= r < t,

so that a squared error of beliefs is that of states at s with a weight. With s = 0 it is consistency (w = 0), with
s = r the teacher's own step (w = 1). What differs between papers is where s lies (`ends`):

any s           CTM (Kim et al. 2023, arXiv:2310.02279, soft consistency matching): both ends are carried on to the data
                by the frozen average (`to_data`)
a segment's     PCM (Wang et al. 2024, arXiv:2405.18407), the stages of Hyper-SD (Ren et al. 2024, arXiv:2404.13686)
samplers' times TDD (Wang et al. 2024, arXiv:2409.01347)
a window        STD (Xu et al. 2024, arXiv:2412.18945), from states of one stored teacher trajectory (`states: stored`)
0               SLAM (Xu et al. 2024, arXiv:2404.13903), asked on the whole of the straight way from x_t to x_r
                (`sub_path`)

Nothing in the formula asks which way time runs. `towards: noise` has t < r <= s: the student learns to take data back
to the noise that they come from (iCD, Starodubcev et al. 2024, arXiv:2406.14539, forward consistency distillation), as
an answer for a jump upwards, by the same belief.

If one state is asked for several s, the belief that is right depends on s, and a student that is not told has a floor
that no training lowers (for a Gaussian of deviation 0.6 at t = 0.8 of the cosine path, x = 1: 0.62 at s = 0, 0.12 at
s = 0.79). Released code of TCD, TDD and STD does not tell it; here `student.target_time=true` is required.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.ends import Data, Ends
from omnidistill.objectives.following import follow, stored
from omnidistill.objectives.identities import vacuous
from omnidistill.objectives.jumps import Jumps, Nodes
from omnidistill.objectives.scales import Scales
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior, detach
from omnidistill.samplers.inversion import START, beginning
from omnidistill.weights import weight

TARGETS = ("average", "self")
STATES = ("data", "stored")
TOWARDS = ("data", "noise")
COMPARE = ("beliefs", "states")


class Segment(NamedTuple):
    """A state, the teacher's one after it, the belief that leads from one to the other, and t > r >= s (towards noise
    t < r <= s)."""

    x_t: Tensor
    x_r: Tensor
    first: Posterior
    t: Tensor
    r: Tensor
    s: Tensor
    context: Context


class Segments:
    """
    Args:
        ends: where jumps end, see `objectives.ends`.
        target: who answers at x_r: an exponential moving `average` of the student, or the student `self`.
        states: where x_t comes from: noised `data`, or `stored` teacher trajectories (no data needed).
        jumps: distribution of (t, r); for stored states the neighbours of its grid.
        divergence: a kind of `Posterior.divergence`.
        weighting: w(t), a name of `weights.WEIGHTS`.
        decay: of the moving average.
        teacher_steps, second_order: how the teacher goes from t to r, see `Consistency`.
        guidance: guidance scale of the teacher, or a pair (low, high), see `Scales`.
        to_data: the two ends at s are compared after the average's jump from s to the data, through whose input alone
            the gradient goes: outer network frozen, inner target without gradient (CTM).
        sub_path: the student is asked at a time uniform between r and t, on the straight way of the teacher's step.
        diagonal: weight of a denoising loss on jumps of no length, s = t (the score-matching term of CTM).
        bank: number of stored trajectories.
        towards: where jumps go, `data` or `noise`; the latter with ends `Data` (t = 1 then) or `Edges`.
        start: the time that clean data are taken for when jumps go towards noise; at 0 a state says nothing of noise.
        compare: `beliefs`, or the `states` at s that they lead to, as papers of points do; at s = 0 it is one. An error
            of a belief near the data is many times larger in the noise that it leads to.
    """

    rolls_out = False

    def __init__(
        self,
        ends: Ends | None = None,
        target: str = "average",
        states: str = "data",
        jumps: Jumps | None = None,
        divergence: str = "nll",
        weighting: str = "uniform",
        decay: float = 0.95,
        teacher_steps: int = 1,
        second_order: bool = False,
        guidance: float | tuple[float, float] = 1.0,
        to_data: bool = False,
        sub_path: bool = False,
        diagonal: float = 0.0,
        bank: int = 4096,
        towards: str = "data",
        start: float = START,
        compare: str = "beliefs",
    ) -> None:
        for what, value, known in (("direction", towards, TOWARDS), ("comparison", compare, COMPARE)):
            if value not in known:
                raise unknown(f"{what} of segments", value, known)
        if target not in TARGETS:
            raise unknown("target of segments", target, TARGETS)
        if states not in STATES:
            raise unknown("source of states", states, STATES)
        if teacher_steps < 1 or diagonal < 0.0:
            raise UserError(f"need teacher_steps >= 1, diagonal >= 0, got {teacher_steps} and {diagonal}")
        if sub_path and (teacher_steps > 1 or second_order):
            raise UserError("sub_path is the straight way of one step: teacher_steps=1, second_order=false")
        if diagonal and states == "stored":
            raise UserError("diagonal is learned from data, so states must be 'data'")
        self.ends, self.target, self.states = ends or Data(), target, states
        back = towards == "noise"
        if back and (to_data or sub_path or diagonal or states == "stored" or not self.ends.both_ways):
            raise UserError(
                f"segments towards noise go from noised data to Data or Edges without to_data, sub_path and diagonal; "
                f"got {self.ends}, states '{states}', {to_data}, {sub_path}, {diagonal}"
            )
        if not 0.0 < start < 1.0:
            raise UserError(f"data are taken for a state at a time between 0 and 1, got start={start}")
        self.back, self.start, self.compare = back, start, compare
        self.jumps, self.divergence, self.weighting = jumps or Nodes(32), divergence, weighting
        self.teacher_steps, self.second_order = teacher_steps, second_order
        self.scales = Scales(guidance)
        self.guidance_range = self.scales.range
        self.to_data, self.sub_path, self.diagonal = to_data, sub_path, diagonal
        self.roles: dict[str, RoleSpec] = {}
        if target == "average" or to_data:
            self.roles["target"] = RoleSpec(start="student", average=decay)
        stored = states == "stored"
        self.bank = BankSpec(bank, self.jumps.nodes, states=True) if stored else None
        needs = {"deterministic", "composable"} | (set() if stored else {"data"})
        self.needs = frozenset(
            needs | self.scales.needs | ({"gaussian"} if back or compare == "states" else set())
        )

    # --- the loss -----------------------------------------------------------------------------------------------

    def advice(self, path: Path) -> str:
        """What to do on a path that lacks what is needed."""
        return vacuous(path) if self.ends.told else ""

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student = step["student"]
        if (self.ends.told or self.diagonal or self.back) and not student.wants_target:
            raise UserError(
                f"{self.ends} has jumps from one state to several times, and the student is not told to which; set "
                "student.target_time=true"
            )
        self.scales.draw(step)
        with torch.no_grad():
            there = self._segment(step)
        path, context = step.path, there.context
        belief = _ask(student, there.x_t, there.t, context, there.s)
        asked: Denoiser = student if self.target == "self" else step["target"]
        with torch.no_grad():
            second = _ask(asked, there.x_r, there.r, context, there.s)
        if self.to_data:
            belief = self._onwards(step, there.x_t, belief, there.t, there)
            with torch.no_grad():
                target = self._onwards(step, there.x_r, second, there.r, there)
        else:
            target = there.first.blend(second, _share(step, there))
        if self.compare == "states":
            belief, target = (self._landed(step, there, b) for b in (belief, target))
        # Beliefs at two different states: what one motion of the whole differs by is not an error.
        target = path.align(target, belief, context.mask)
        error = belief.divergence(target, self.divergence, context.mask)
        w = weight(self.weighting, path, there.t)
        terms = {"segments": reduce(error, w, context.mask, path.unresolved(there.x_t, there.t))}
        drift = detach(belief).gap(target).abs().mean()
        if self.diagonal:
            terms["diagonal"] = self.diagonal * self._denoising(step, there)
        return Losses(terms, {"segments/drift": drift})

    def _landed(self, step: Step, there: Segment, belief: Posterior) -> Posterior:
        """The state at s that a jump from x_t leads to, as a point."""
        x0 = belief.sample(step.g, there.context.mask)
        return step.path.certain(step.path.bridge(there.x_t, x0, there.t, there.s, there.context, g=step.g))

    def _segment(self, step: Step) -> Segment:
        path = step.path
        progress = step.update / step.total if self.jumps.refined or self.ends.refined else 0.0
        if self.states == "stored":
            x_t, _, t, r, context = stored(step)
            # Whoever is asked about a stored state is told the scale that this step has drawn.
            context = replace(context, guidance=step.context.guidance)
        else:
            context = step.context
            t, r = (u.to(step.x0.device) for u in self.jumps(len(step.x0), path, step.g, progress))
            if self.back:
                t, r = away(t, r, self.start, path)
            x_t = path.renoise(step.x0, t, context, g=step.g)
        teacher = self.scales.teacher(step)
        how = (self.teacher_steps, self.second_order, True)
        x_r, first = follow(path, teacher, x_t, t, r, context, step.g, *how)
        assert first is not None
        s = self.ends(t, r, path, step.g, progress)
        if self.sub_path:
            u = torch.rand(len(t), generator=step.g, device=step.g.device, dtype=t.dtype).to(t.device)
            later = r + u * (t - r)
            x_t = path.bridge(x_t, first.sample(step.g, context.mask), t, later, context, g=step.g)
            t = later
        return Segment(x_t, x_r, first, t, r, s, context)

    def _onwards(self, step: Step, x: Tensor, belief: Posterior, t: Tensor, there: Segment) -> Posterior:
        """What the average makes of the state at s that a belief leads to."""
        x_s = step.path.bridge(
            x, belief.sample(step.g, there.context.mask), t, there.s, there.context, g=step.g
        )
        return _ask(step["target"], x_s, there.s, there.context, torch.zeros_like(there.s))

    def _denoising(self, step: Step, there: Segment) -> Tensor:
        path, context = step.path, there.context
        belief = _ask(step["student"], there.x_t, there.t, context, there.t)
        error = belief.divergence(path.certain(step.x0), self.divergence, context.mask)
        return reduce(error, weight(self.weighting, path, there.t), context.mask)

    # --- what it costs --------------------------------------------------------------------------------------------

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        beliefs = self.teacher_steps * (2 if self.second_order else 1)
        calls = {
            "student": 1 + (self.target == "self") + (self.diagonal > 0),
            "teacher": beliefs * self.scales.branches,
        }
        averaged = (self.target == "average") + 2 * self.to_data
        return calls | ({"target": averaged} if averaged else {})


def _share(step: Step, there: Segment) -> Tensor:
    """w; 1 where the teacher's step ends at s already, at r = s = 0 too, where the ratio is 0 / 0."""
    w = step.path.share(there.x_t, there.x_r, there.t, there.r, there.s)
    here = (there.r == there.s).reshape(-1, *(1 for _ in w.shape[1:]))
    return torch.where(here | (there.t == there.r).reshape(here.shape), here.to(w.dtype), w)


def away(t: Tensor, r: Tensor, start: float, path: Path) -> tuple[Tensor, Tensor]:
    """A pair t > r turned round: from r, or the time that clean data are taken for, up to t."""
    return r.maximum(beginning(path, start, t)), t


def _ask(denoiser: Denoiser, x: Tensor, t: Tensor, context: Context, s: Tensor) -> Posterior:
    return denoiser(x, t, context, target_time=s if denoiser.wants_target else None)
