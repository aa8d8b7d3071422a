"""Cycles: what a student takes back to noise and generates again is what it was, and the other way round.

A student that jumps both ways (`Segments` towards data, and `towards: noise`) has two maps of each segment, up to its
upper edge and down to its lower one. For the exact maps of a trajectory one undoes the other. Options are

reach   `segment` (iCD, Starodubcev et al. 2024, arXiv:2406.14539, preservation losses): up and down again through one
                  drawn segment, and down and up again. In each the second jump is the average's, through whose input
                  the gradient goes, so that each direction is trained against the other.
        `whole`   (Inverse-and-Edit, Beletskii et al. 2025, arXiv:2506.19103): data through all segments up to noise,
                  and down to data by the average, with the gradient through all of it. Only the way up is trained.

States are compared. Clean data are taken for the state at `start`, so of the lowest segment the exact maps leave an
error of second order in the noise level there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths import GaussianPath, grid
from omnidistill.samplers.inversion import START, beginning, invertible

REACHES = ("segment", "whole")


class Cycle:
    """
    Args:
        segments: their number, that of the recipe's `Edges`.
        reach: see above.
        start: the time that clean data are taken for.
        divergence: between states, a kind of `Posterior.divergence` of points.
        decay: of the average that undoes what the student did.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        segments: int = 4,
        reach: str = "segment",
        start: float = START,
        divergence: str = "l2",
        decay: float = 0.95,
    ) -> None:
        if reach not in REACHES:
            raise unknown("reach of a cycle", reach, REACHES)
        if segments < 1 or not 0.0 < start < 1.0:
            raise UserError(f"a cycle needs segments >= 1 and 0 < start < 1, got {segments} and {start}")
        self.segments, self.reach, self.start, self.divergence = segments, reach, start, divergence
        self.roles = {"target": RoleSpec(start="student", average=decay)}
        self.needs = frozenset({"gaussian", "deterministic", "data"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        if not step["student"].wants_target:
            raise UserError(
                "a cycle goes both ways, and the student is not told which; set student.target_time=true"
            )
        path = invertible(step.path)
        edges = grid(path, self.segments).flip(0).to(step.x0.device)
        return Losses(
            self._whole(step, path, edges) if self.reach == "whole" else self._parts(step, path, edges)
        )

    def _whole(self, step: Step, path: GaussianPath, edges: Tensor) -> dict[str, Tensor]:
        count = len(step.x0)
        low = edges.clone()
        low[0] = beginning(path, self.start, edges[1])
        x = path.expected(step.x0, low[0], step.context)
        for i in range(self.segments):
            x = jump(step["student"], x, low[i].expand(count), low[i + 1].expand(count), step.context)
        for i in range(self.segments, 0, -1):
            x = jump(step["target"], x, edges[i].expand(count), edges[i - 1].expand(count), step.context)
        return {"cycle": self._distance(step, x, step.x0)}

    def _parts(self, step: Step, path: GaussianPath, edges: Tensor) -> dict[str, Tensor]:
        x0, context = step.x0, step.context
        index = torch.randint(self.segments, (len(x0),), generator=step.g, device=step.g.device).to(x0.device)
        lower, upper = edges[index], edges[index + 1]
        first = index == 0
        asked = torch.where(first, beginning(path, self.start, upper), lower)
        clean = path.expected(x0, asked, context)

        def pick(at_bottom: Tensor, elsewhere: Tensor) -> Tensor:
            return torch.where(first.reshape(-1, *(1 for _ in x0.shape[1:])), at_bottom, elsewhere)

        # Up by the student and down by the average: of the lowest segment it is the data that are found again.
        low = pick(clean, path.renoise(x0, lower, context, g=step.g))
        high = jump(step["student"], low, asked, upper, context)
        found = jump(step["target"], high, upper, lower, context)
        up = self._distance(step, found, pick(x0, low))
        # Down by the student and up by the average.
        high = path.renoise(x0, upper, context, g=step.g)
        low = jump(step["student"], high, upper, lower, context)
        again = pick(path.expected(low, asked, context), low)
        down = self._distance(step, jump(step["target"], again, asked, upper, context), high)
        return {"cycle_up": up, "cycle_down": down}

    def _distance(self, step: Step, found: Tensor, wanted: Tensor) -> Tensor:
        mask = step.context.mask
        error = step.path.certain(found).divergence(step.path.certain(wanted), self.divergence, mask)
        return reduce(error, 1.0, mask)

    def cost(self, role: str) -> Calls:
        calls = self.segments if self.reach == "whole" else 2
        return {"student": calls, "target": calls} if role == "student" else {}


def jump(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, context: Context) -> Tensor:
    """The state at s, above t or below, that the belief for this jump leads to."""
    belief = denoiser(x, t, context, target_time=s)
    return denoiser.path.bridge(x, belief.sample(None, context.mask), t, s, context)
