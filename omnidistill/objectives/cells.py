"""One head for each cell of the grid of times, matched to the teacher along the student's own jumps.

From a state X_n at a node t_n the student's heads say what the trajectory passes through from there on. They lead to

    X_k = bridge(X_n, psi, t_n, t_k),  psi the mean of heads n ... k - 1 without gradient (`denoisers.heads`),

where the teacher makes one step over cell k, and the one belief that this step is (two of them, by the trapezoid rule)
is what head k is to answer:

    E w(t_k) divergence(head_k(X_n, t_n), sg D_k(X_k)).

At the exact heads the loss is zero up to the error of the teacher's step. No second time, no derivative, no critic, and
no data: X_n is where a jump of the student's own leads from the prior (PDD 2026, arXiv:2607.26004, there for
velocities; a mean of velocities over cells is one of beliefs with the weights of `Path.share`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.heads import edges
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses, RoleSpec, branches
from omnidistill.objectives.following import follow
from omnidistill.objectives.identities import vacuous
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.weights import weight

STATES = ("own", "data")


class Cells:
    """
    Args:
        states: where X_n comes from: one jump of the student's `own` from the prior (no data needed), or noised `data`.
        start: X_n lies at every `start`-th node of the grid.
        span: the most cells from t_n to the one that is matched, itself counted; None: down to the data.
        second_order: the teacher's step over a cell by two beliefs; else by one.
        divergence: a kind of `Posterior.divergence`.
        weighting: w(t_k), a name of `weights.WEIGHTS`.
        guidance: guidance scale of the teacher; 1 is none.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        states: str = "own",
        start: int = 1,
        span: int | None = None,
        second_order: bool = True,
        divergence: str = "nll",
        weighting: str = "uniform",
        guidance: float = 1.0,
    ) -> None:
        if states not in STATES:
            raise unknown("source of states", states, STATES)
        if start < 1 or (span is not None and span < 1):
            raise UserError(f"cells need start >= 1 and span >= 1, got start={start} and span={span}")
        self.states, self.start, self.span, self.second_order = states, start, span, second_order
        self.divergence, self.weighting, self.guidance = divergence, weighting, guidance
        self.roles: dict[str, RoleSpec] = {}
        needs = {"deterministic", "composable"} | ({"data"} if states == "data" else set())
        self.needs = frozenset(needs | ({"condition"} if guidance != 1.0 else set()))

    def advice(self, path: Path) -> str:
        """What to do on a path that lacks what is needed."""
        return vacuous(path)

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, path, context = step["student"], step.path, step.context
        if not isinstance(student, NetworkDenoiser) or student.cells is None:
            raise UserError(
                "this objective has a head for each cell of time; set student.cells to their number"
            )
        times = edges(path, student.cells).to(step.like.device)
        n, k = self._drawn(step, student.cells)
        with torch.no_grad():
            x_n = self._state(step, student, times[n])
            target = self._target(step, student, x_n, times[n], times[k], times[k + 1])
        belief = student.cell(x_n, times[n], k, context)
        # Not aligned: X_k is of the trajectory through X_n and in its pose, and so must the heads be that are averaged.
        error = belief.divergence(target, self.divergence, context.mask)
        loss = reduce(error, weight(self.weighting, path, times[k]), context.mask)
        drift = (belief.parameters - target.parameters).detach().abs().mean()
        return Losses({"cells": loss}, {"cells/drift": drift})

    def _drawn(self, step: Step, cells: int) -> tuple[Tensor, Tensor]:
        """n and k, Long[b]: a node to start from, and a cell at or below it."""
        count, device = len(step.like), step.like.device

        def below(bound: Tensor | int) -> Tensor:
            u = torch.rand(count, generator=step.g, device=step.g.device, dtype=torch.float64).to(device)
            return (u * bound).long()

        n = self.start * below(-(-cells // self.start))
        room = cells - n if self.span is None else (cells - n).clamp_max(self.span)
        return n, n + below(room)

    def _state(self, step: Step, student: NetworkDenoiser, t: Tensor) -> Tensor:
        path, context = step.path, step.context
        if self.states == "data":
            return path.renoise(step.x0, t, context, g=step.g)
        x = path.prior(step.like, context, g=step.g)
        top = torch.full_like(t, path.span[1])
        return self._jump(step, student, x, top, t, context)

    def _jump(
        self, step: Step, student: NetworkDenoiser, x: Tensor, t: Tensor, r: Tensor, context: Context
    ) -> Tensor:
        psi = student(x, t, context, target_time=r)
        return step.path.bridge(x, psi.sample(step.g, context.mask), t, r, context, g=step.g)

    def _target(
        self, step: Step, student: NetworkDenoiser, x_n: Tensor, t: Tensor, r: Tensor, s: Tensor
    ) -> Posterior:
        """The belief by which the teacher goes from r to s, at the state where the heads before lead."""
        x_k = self._jump(step, student, x_n, t, r, step.context)
        teacher = step.guided("teacher", self.guidance)
        _, belief = follow(
            step.path, teacher, x_k, r, s, step.context, step.g, second_order=self.second_order, whole=True
        )
        assert belief is not None
        return belief

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        beliefs = (2 if self.second_order else 1) * branches(self.guidance)
        return {"student": 2 + (self.states == "own"), "teacher": beliefs}
