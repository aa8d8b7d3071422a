"""Regression on whole trajectories of the teacher: each of the student's few jumps against the state that the teacher,
from the same noise and with many steps, has at its end.

    `L = 1/K sum_k divergence(bridge(x_k, D(x_k, t_k), t_k, t_k+1), X_k+1)`,  X the teacher's states, X_0 = x_0 = noise

What differs is where the student is asked (`states`):

student   on the states of its own walk, each without gradient: what it will meet when it samples (Zhou et al. 2024,
          SFD, arXiv:2409.19681, alg. 2)
teacher   on the teacher's (AccVideo, Zhang et al. 2025, arXiv:2503.19462, sec. 3.2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec, branches
from omnidistill.objectives.regression import calls
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import PointPosterior
from omnidistill.samplers import Heun

STATES = ("student", "teacher")


class Trajectories:
    """
    Args:
        keys: K, the student's number of steps; or several, all of which are learned in every update, by a student that
            is told the time it jumps to (SFD-v).
        between: the teacher's states between two of the student's.
        states: see above.
        divergence: a kind of divergence between points, of states.
        bank: number of trajectories, see `BankSpec`; None: each update makes its own, by Heun's rule.
        guidance: scale of the teacher for trajectories of an update; those made before have the run's.
    """

    rolls_out = False

    def __init__(
        self,
        keys: int | Sequence[int] = 4,
        between: int = 3,
        states: str = "student",
        divergence: str = "l1",
        bank: int | None = 4096,
        guidance: float = 1.0,
    ) -> None:
        self.keys = tuple(keys) if isinstance(keys, Sequence) else (keys,)
        if not self.keys or min(self.keys) < 1 or between < 0 or (bank is not None and bank < 1):
            raise UserError(
                f"trajectories need keys >= 1, between >= 0, bank >= 1, got keys={keys}, between={between}, bank={bank}"
            )
        if states not in STATES:
            raise unknown("states of trajectories", states, STATES)
        self.between, self.states, self.divergence = between, states, divergence
        self.steps, self.guidance = math.lcm(*self.keys) * (between + 1), guidance
        self.bank = None if bank is None else BankSpec(bank, self.steps, states=True)
        self.roles: dict[str, RoleSpec] = {}
        needs = {"deterministic", "gaussian"}
        self.needs = frozenset(needs | ({"condition"} if guidance != 1.0 else set()))

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        if len(self.keys) > 1 and not step["student"].wants_target:
            raise UserError(
                f"keys={list(self.keys)} have jumps from one state to several times, and the student is not told to "
                "which; set student.target_time=true"
            )
        trajectories = self._teachers(step)
        walks = [self._walk(step, count, *trajectories) for count in self.keys]
        return Losses({"trajectories": torch.stack(walks).mean()})

    def _teachers(self, step: Step) -> tuple[Tensor, Tensor, Context]:
        """States [b, times, ...] of the teacher, their times, and the contexts that they were made under."""
        if self.bank is not None:
            if step.bank is None:
                raise UserError("trajectories need a bank of them in step.bank")
            return step.bank["states"], step.bank["times"], step.bank["context"]
        teacher = step.guided("teacher", self.guidance)
        made = Heun().sample(teacher, step.like, self.steps, step.context, g=step.g, keep=True)
        return torch.stack(made.states, 1), torch.tensor(made.times, dtype=torch.float64), step.context

    def _walk(self, step: Step, count: int, states: Tensor, times: Tensor, context: Context) -> Tensor:
        student, path = step["student"], step.path
        skip = (len(times) - 1) // count
        states, times = states[:, ::skip], times[::skip].cpu()
        self._check(step, times, count)
        x, losses = states[:, 0], []
        for k in range(count):
            t, s = (u.expand(len(x)).to(x.device) for u in (times[k], times[k + 1]))
            x = x if self.states == "student" else states[:, k]
            belief = student(x, t, context, target_time=s if student.wants_target else None)
            there = path.bridge(x, belief.sample(step.g, context.mask), t, s, context, g=step.g)
            # States are points whatever the belief is.
            error = PointPosterior(there).divergence(
                PointPosterior(states[:, k + 1]), self.divergence, context.mask
            )
            losses.append(reduce(error, 1.0, context.mask))
            x = there.detach()
        return torch.stack(losses).mean()

    def _check(self, step: Step, times: Tensor, count: int) -> None:
        """The student samples at the times at which it learns."""
        own = step.spec.sampler.times(step["student"], count)
        if not torch.allclose(own, times.to(own.dtype), atol=1e-6):
            raise UserError(
                f"the student's {count} steps lie at {_shown(own)}, the teacher's states at {_shown(times)}; set "
                f"student.times={_shown(times[:-1])}"
            )

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        made = {} if self.bank else {"teacher": calls(self.steps) * branches(self.guidance)}
        return {"student": sum(self.keys), **made}


def _shown(times: Tensor) -> str:
    return f"[{','.join(f'{float(t):.6g}' for t in times)}]"
