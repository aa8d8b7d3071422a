"""The student's sampler: predict x0, go back to a lower noise level, predict again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.samplers.base import Rollout, Sampler, Trajectory
from omnidistill.samplers.transitions import Transition
from omnidistill.shapes import Instant, State

KEEP = ("none", "one", "last", "each", "all")


class FewStep(Sampler):
    """1 to 8 steps, and the differentiable rollout that objectives train on.

    Args:
        transition, gamma, block: how to go on from a predicted x0, see `transitions.Transition`.
        times: where the steps lie, from the prior's end downwards, without the 0 at the end, e.g. [1, 0.9375, 0.8333,
            0.625]. Other step counts read the same list at even distances, between two entries on a line, below the
            last one on the way to the path's floor.
            None: the path's own grid.
        shift: moves that grid towards noise (`paths.shifted`); 1 leaves it.
    """

    def __init__(
        self,
        transition: str = "renoise",
        times: Sequence[float] | None = None,
        shift: float = 1.0,
        gamma: float | None = None,
        block: int | None = None,
    ) -> None:
        for name, given in (("times", times), ("shift", shift), ("gamma", gamma)):
            values = given if isinstance(given, Sequence) else [0 if given is None else given]
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            if isinstance(given, str) or not numbers:
                raise UserError(f"student.{name} is made of numbers, got {given!r}")
        super().__init__(shift=shift)
        self._on = Transition(transition, gamma, block)
        if times is not None:
            falls = all(a > b for a, b in itertools.pairwise(times))
            if not len(times) or not falls or not times[-1] > 0.0 or not times[0] <= 1.0:
                raise UserError(f"student.times falls from 1 to above 0, got {list(times)}")
            if shift != 1.0:
                raise UserError(f"student.times are the times themselves; leave student.shift={shift:g} out")
        self.transition, self.gamma = transition, gamma
        self.listed = None if times is None else tuple(float(t) for t in times)

    @property
    def deterministic(self) -> bool:  # type: ignore[override]
        """Whether the first state decides all others."""
        return self._on.deterministic

    def times(self, denoiser: Denoiser, steps: int) -> Float64[Tensor, "{steps}+1"]:
        if steps >= 1 and (own := denoiser.nodes(steps)) is not None:
            return own
        if self.listed is None or steps < 1:
            return super().times(denoiser, steps)
        low, top = denoiser.path.span
        if self.listed[0] < top or self.listed[-1] < low:
            raise UserError(
                f"student.times={list(self.listed)} must start at 1 and stay above {low:g}, where {denoiser.path} ends"
            )
        # Nobody is asked below the floor: the last step goes from there, or from the last entry, to the data.
        given, count = (*self.listed, low), len(self.listed)
        found = []
        for i in range(steps):
            place, rest = divmod(i * count, steps)
            here, below = given[place], given[place + 1]
            found.append(here if rest == 0 else here + (below - here) * (rest / steps))
        return torch.tensor([*found, 0.0], dtype=torch.float64).clamp_max(top)

    def target(self, denoiser: Denoiser, s: Instant) -> Instant | None:
        """The time that a student which wants it is told it jumps to, see `transitions.Transition.target`."""
        return self._on.target(denoiser, s)

    def law(
        self, path: Path, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, context: Context = Context()
    ) -> tuple[Tensor, Tensor]:
        """Of the x_s that a step to s draws, see `transitions.Transition.law`."""
        return self._on.law(path, x_t, x0, t, s, context)

    def _answer(
        self,
        denoiser: Denoiser,
        x_t: State,
        t: Instant | Float64[Tensor, "b"],
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> tuple[Posterior, Tensor]:
        belief = denoiser(x_t, t, context, target_time=self.target(denoiser, s))
        return belief, belief.sample(g, context.mask)

    def step(
        self,
        denoiser: Denoiser,
        x_t: State,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> State:
        belief, x0 = self._answer(denoiser, x_t, t, s, context, g)
        return self._on.onwards(denoiser, x_t, belief, x0, t, s, context, g)

    def rollout(
        self,
        denoiser: Denoiser,
        like: State,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator,
        data: State | None = None,
        structure: torch.Generator | None = None,
        whole: bool = False,
        onwards: bool = False,
        x_1: State | None = None,
        k: int | None = None,
    ) -> Rollout:
        """One student answer at one of its own steps, with a graph through that answer alone.

        The step k of `steps` is drawn uniformly for the whole batch if not given, from `structure` if that is given
        (processes that train together draw the same), else from g. The input is what inference would see there: k steps
        without gradient, then the transition (backward simulation, Yin et al. 2024, DMD2, sec. 4.5). The answer is that
        of a jump to the data: a belief for a shorter jump is a mean on the way there, and no sample. With `data`, the
        input is real data noised to t_k instead. With `whole`, it is the last answer, and the graph runs through all
        steps to it. With `onwards`, the answer is that of the step itself, from which its end can be made. `x_1` is the
        start, drawn from the path's prior if not given.
        """
        if whole:
            made = self.trajectory(denoiser, like, steps, context, g=g, x_1=x_1)
            last = made.times[-2].detach().expand(like.shape[0]).to(like.device)
            return Rollout(made.states[-2], last, made.beliefs[-1], made.states[-1], context)
        path = denoiser.path
        times = self.times(denoiser, steps)
        denoiser = denoiser.walk(times, g)
        k = drawn(steps, structure or g) if k is None else k
        with torch.no_grad():
            if data is not None and k:
                seen = self.resized(self.resized(data, k - 1, steps, like), k, steps, like)
                x = path.renoise(seen, times[k], context, g=g)
            else:
                x = self.start(denoiser, like, steps, context, g, x_1)
                for i in range(k):
                    x = self.advance(denoiser, x, times, i, like, context, g)
        t = times[k].expand(x.shape[0]).to(x.device)
        # What is judged is a sample: one that is told where to jumps to the data, whatever its next step would be. Of a
        # state that sampling goes on from, the jump is that of sampling.
        end = times[k + 1] if onwards else torch.zeros_like(times[k])
        belief, x0 = self._answer(denoiser, x, t, end, context, g)
        return Rollout(x, t, belief, x0, context, float(times[k + 1]))

    def onwards(self, denoiser: Denoiser, rollout: Rollout, g: torch.Generator) -> Tensor:
        """The state at `rollout.s` with which sampling goes on from a rollout; with its graph."""
        t, s = rollout.t[0].cpu(), torch.tensor(rollout.s, dtype=torch.float64)
        return self._on.onwards(denoiser, rollout.x_t, rollout.belief, rollout.x0, t, s, rollout.context, g)

    def three_jumps(
        self,
        denoiser: Denoiser,
        like: Tensor,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator,
        structure: torch.Generator | None = None,
    ) -> Rollout:
        """The end of a walk of `steps` steps in three answers, all with a graph: from the prior to one of the steps'
        starts, over this step, and from its end to the data (AnyFlow 2026, arXiv:2605.13724, flow-map backward
        simulation). The step is drawn for the whole batch as in `rollout`; jumps of no length are asked about like the
        others, so the cost does not depend on which it is, nor on how many there are.

        What is compared with the data is then the student's own walk, with the gradient through all of it, where a
        rollout of simulated inputs has one answer's.
        """
        path, times = denoiser.path, self.times(denoiser, steps)
        k = drawn(steps, structure or g)
        x = path.prior(like, context, g=g)
        nodes = torch.stack((times[0], times[k], times[k + 1], torch.zeros_like(times[0])))
        for i in range(3):
            state, t, s = x, nodes[i], nodes[i + 1]
            belief, x0 = self._answer(denoiser, state, t, s, context, g)
            x = self._on.onwards(denoiser, state, belief, x0, t, s, context, g)
        return Rollout(state, t.expand(x.shape[0]).to(x.device), belief, x, context)

    def trajectory(
        self,
        denoiser: Denoiser,
        like: State,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator,
        keep: str = "all",
        structure: torch.Generator | None = None,
        x_1: Tensor | None = None,
    ) -> Trajectory:
        """Every state, time and belief of a walk; the same numbers as `sample` makes of the same generator.

        Args:
            keep: which answers carry a graph: `none`; `one`, drawn uniformly for the whole batch; the `last`; `all`,
                where the gradient also runs through the states from step to step; `each` without that. Of `one`,
                `last` and `each` the states asked about are constants, as in `rollout`.
            structure: where `one` is drawn from; g if not given.
            x_1: the start; drawn from the path's prior if not given.
        """
        if keep not in KEEP:
            raise unknown("gradient to keep", keep, KEEP)
        times = self.times(denoiser, steps)
        every = range(steps)
        kept: Sequence[int] = {"none": (), "last": (steps - 1,), "each": every, "all": every}.get(keep, ())
        if keep == "one":
            kept = (drawn(steps, structure or g),)
        x = self.start(denoiser, like, steps, context, g, x_1)
        denoiser = denoiser.walk(times, g)
        states, beliefs, ends = [x], [], []
        for i in range(steps):
            t, s = times[i], times[i + 1]
            with torch.set_grad_enabled(i in kept and torch.is_grad_enabled()):
                belief, x0 = self._answer(denoiser, x, t, s, context, g)
                onwards = self.resized(x0, i + 1, steps, like)
                x = self._on.onwards(denoiser, x, belief, onwards, t, s, context, g)
                if keep in ("one", "each") and i + 1 < steps:
                    x = x.detach()  # later steps are asked as they are in sampling
            states.append(x)
            beliefs.append(belief)
            ends.append(x0)
        states[-1] = denoiser.arrive(states[-1], context)
        return Trajectory(tuple(states), times, tuple(beliefs), tuple(ends), tuple(kept), context)


def drawn(steps: int, g: torch.Generator) -> int:
    """One of so many steps, uniformly."""
    return int(torch.randint(steps, (), generator=g, device=g.device)) if steps > 1 else 0
