"""Guidance distillation: one conditional call of the student answers what two calls of a guided teacher do.

    `L = E w(t) divergence(student(x_t, t, c; s), sg G(x_t, t, c; s))`,   G = u + s (c - u)

Its minimum is the guided belief itself, for a student that can say it; the number of steps stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec, branches
from omnidistill.objectives.step import Step, reduce
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight

STATES = ("data", "stored")


class Guidance:
    """
    Args:
        guidance: s; a pair (low, high) has one drawn per sample, which the student is told.
        states: where both are asked: `data`, noised to times of `times`; `stored`, states of the guided teacher's own
            trajectories at the scale that each was made under, which sampling will meet and which need no data (Jin et
            Jensen and Sadat 2025, Adapter Guidance Distillation).
        times: of t, for `data`.
        weighting: `output` weighs as the error of the bare network output does, or a name of `weights.WEIGHTS`.
        divergence: a kind of `Posterior.divergence`.
        bank, steps: number of stored trajectories, and the teacher's steps for each.
    """

    rolls_out = False

    def __init__(
        self,
        guidance: float | Sequence[float] = 2.0,
        states: str = "data",
        times: Times = Uniform(),
        weighting: str = "output",
        divergence: str = "nll",
        bank: int = 1024,
        steps: int = 16,
    ) -> None:
        if states not in STATES:
            raise unknown("source of states", states, STATES)
        drawn = isinstance(guidance, Sequence)
        if drawn and len(guidance) != 2:  # type: ignore[arg-type]
            raise UserError(f"guidance is one scale or a range [low, high], got {guidance}")
        if bank < 1 or steps < 1:
            raise UserError(f"stored trajectories need bank >= 1 and steps >= 1, got {bank} and {steps}")
        self.guidance_range = (float(guidance[0]), float(guidance[1])) if drawn else None  # type: ignore[index]
        self.guidance = None if drawn else float(guidance)  # type: ignore[arg-type]
        self.states, self.times, self.weighting, self.divergence = states, times, weighting, divergence
        self.bank: BankSpec | None = None
        if states == "stored":
            self.bank = BankSpec(bank, steps, states=True, guidance=self.guidance_range)
        self.roles: dict[str, RoleSpec] = {}
        self.needs = frozenset({"condition"} | ({"deterministic"} if states == "stored" else {"data"}))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, path = step["student"], step.path
        if self.guidance_range is not None and not student.wants_guidance:
            raise UserError(
                f"guidance is drawn from {list(self.guidance_range)} and the student is not told; give its network a "
                "guidance embedding (student.guidance=SCALE), or one scale"
            )
        x_t, t, context = self._asked(step)
        belief = student(x_t, t, context)
        with torch.no_grad():
            target = step.guided("teacher", self.guidance)(x_t, t, context)
        w = student.output_weight(t) if self.weighting == "output" else weight(self.weighting, path, t)
        error = belief.divergence(target, self.divergence, context.mask)
        loss = reduce(error, w, context.mask, path.unresolved(x_t, t))
        return Losses({"guidance": loss})

    def _asked(self, step: Step) -> tuple[Tensor, Tensor, Context]:
        """States, their times and contexts with the scales in them."""
        if self.states == "data":
            if self.guidance_range is not None:
                step.draw_guidance(*self.guidance_range)
            x0 = step.x0
            t = self.times(x0.shape[0], step.path, step.g).to(x0.device)
            return step.path.corrupt(x0, t, step.context, g=step.g), t, step.context
        if step.bank is None:
            raise UserError("states 'stored' needs a bank of teacher trajectories in step.bank")
        states, times, context = step.bank["states"], step.bank["times"], step.bank["context"]
        count = states.shape[0]
        index = torch.randint(len(times) - 1, (count,), generator=step.g, device=step.g.device)
        index = index.to(states.device)
        if self.guidance_range is None:
            context = replace(context, guidance=None)
        return states[torch.arange(count, device=states.device), index], times[index], context

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        return {"student": 1, "teacher": branches(self.guidance)}
