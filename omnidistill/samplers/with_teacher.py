"""A teacher at the student's side while it samples: before it, beside it, after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths.base import grid
from omnidistill.posteriors import Posterior
from omnidistill.random import generator
from omnidistill.samplers.walker import Memory, Settling, Walker, ask, chosen


class TeacherFirst(Walker):
    """The first steps of a walk are the teacher's, the student takes over where they end (Gandikota and Bau 2025,
    Distilling Diversity and Control in Diffusion Models, sec. 5, with `first: 1`). What decides which of the modes a
    sample goes to is decided early, and there distillation has lost most.

    Args:
        first: steps of the teacher; as many as there are, or more, leave nothing to the student.
        guidance: scale of the teacher.

    A step of the teacher goes on as the student's do: with `student.transition: ode` it keeps its noise.
    """

    wants = frozenset({"teacher"})

    def __init__(self, first: int = 1, guidance: float = 1.0) -> None:
        super().__init__()
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise UserError(f"first is the number of the teacher's steps, at least 0; got {first!r}")
        self.first, self.guidance = first, float(guidance)

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        if memory.index < self.first:
            return ask(self.guided_teacher(self.guidance), x_t, t, context, target_time)
        return memory.denoiser(x_t, t, context, target_time=target_time)


class TeacherBeside(Walker):
    """In early steps the student's answer is moved towards what the teacher makes of it:

        x0 <- (1 - strength) D_student(x_t, t) + strength D_teacher(x_r, r),   x_r ~ q(x_r | D_student(x_t, t))

    one proximal step on the teacher's score-distillation loss at the student's estimate (Park et al. 2024,
    Distillation++, algorithm 1). Where the teacher keeps what the student answered, nothing moves.

    Args:
        strength: from 0, the student alone, to 1, the teacher's denoising of the student's answer.
        first: steps in which the teacher is asked.
        guidance: scale of the teacher.
        level: the time r as a share of t; None: the time the step goes to. A step to 0 then asks no teacher.
    """

    wants = frozenset({"teacher"})

    def __init__(
        self, strength: float = 0.5, first: int = 1, guidance: float = 1.0, level: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= strength <= 1.0 or isinstance(first, bool) or first < 0:
            raise UserError(
                f"strength is from 0 to 1 and first at least 0, got strength={strength} and first={first}"
            )
        if level is not None and not 0.0 < level <= 1.0:
            raise UserError(f"level is a share of t above 0 and at most 1, or null; got {level}")
        self.strength, self.first, self.guidance, self.level = (
            float(strength),
            first,
            float(guidance),
            level,
        )

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        belief = memory.denoiser(x_t, t, context, target_time=target_time)
        r = memory.times[memory.index + 1] if self.level is None else self.level * memory.times[memory.index]
        if memory.index >= self.first or self.strength == 0.0 or float(r.detach()) == 0.0:
            return belief
        x0 = belief.sample(memory.g, context.mask)
        x_r = self.path.renoise(x0, r, context, g=memory.g)
        teacher = self.guided_teacher(self.guidance)
        return belief.blend(ask(teacher, x_r, r, context, None), 1.0 - self.strength)


class Residual:
    """A reward without a reference: how little the teacher changes a sample that is noised to the time `level`,

        R = -mean |x0 - D_teacher(x_r, r)|^2,   x_r ~ q(x_r | x0),   r = level

    One call of the teacher, which is what makes it fit every modality; it prefers what the teacher finds likely.
    """

    def __init__(self, level: float = 0.3) -> None:
        if not 0.0 < level < 1.0:
            raise UserError(f"level is a time above 0 and below 1, got {level}")
        self.level = level

    def __call__(self, teacher: Denoiser, x0: Tensor, context: Context, g: Any) -> Tensor:
        x_r = teacher.path.renoise(x0, self.level, context, g=g)
        belief = ask(
            teacher, x_r, torch.tensor(self.level, dtype=torch.float64, device=x0.device), context, None
        )
        error = belief.divergence(teacher.path.certain(x0), "nll")
        real = torch.ones_like(error) if context.mask is None else context.mask.expand(error.shape)
        return -(error * real).flatten(1).sum(1) / real.flatten(1).sum(1)


class TeacherAfter(Walker):
    """A sample that a reward finds poor is given to the teacher (Starodubcev et al. 2023, Your Student is Better Than
    Expected, algorithm 1): it is noised to the time `level` and denoised from there in `steps` steps of the teacher
    (refinement), or, with `level: 1`, made anew from noise (regeneration). Poor is below the quantile `share` of the
    reward of the student's own samples, found once and saved with the student as `threshold`.

    Args:
        share: of the samples that the teacher gets, from 0 (none) to 1 (all).
        level: where the teacher begins.
        steps: of the teacher, at even times from there down to 0, each deterministic where the path allows.
        guidance: scale of the teacher.
        reward: `reward(x0, None, context) -> Float[b]`, higher is better, as the objective `reward` has them; None is
            the teacher's own `Residual`, which is one more call.
        samples: that the threshold is found on, for the step count the student was trained for.
    """

    wants, selects = frozenset({"teacher"}), True

    def __init__(
        self,
        share: float = 0.3,
        level: float = 0.5,
        steps: int = 4,
        guidance: float = 1.0,
        reward: Callable[[Tensor, Tensor | None, Context], Tensor] | None = None,
        samples: int = 1024,
    ) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0 or not 0.0 < level <= 1.0 or steps < 1 or samples < 2:
            raise UserError(
                "the teacher gets a share from 0 to 1 at a level above 0 and at most 1, steps >= 1, samples >= 2; got "
                f"share={share}, level={level}, steps={steps}, samples={samples}"
            )
        self.share, self.level, self.steps, self.guidance = float(share), float(level), steps, float(guidance)
        self.reward, self.residual, self.samples = reward, Residual(), samples
        self.register_buffer("threshold", torch.tensor(-torch.inf, dtype=torch.float64))
        self.threshold: Tensor

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        return memory.denoiser(x_t, t, context, target_time=target_time)

    def end(self, memory: Memory, x0: Tensor, context: Context) -> Tensor:
        if not self.share or torch.isneginf(self.threshold):
            return x0
        poor = torch.ones(len(x0), dtype=torch.bool, device=x0.device)
        if self.share < 1.0:
            poor = self._judged(x0, context, memory.g) < self.threshold
        path, teacher = self.path, self.guided_teacher(self.guidance)
        # Noise is drawn for all, so that a sample's own does not depend on its neighbours.
        if self.level == 1.0:
            start = path.prior(x0, context, g=memory.g)
        else:
            start = path.renoise(x0, self.level, context, g=memory.g)
        which = poor.nonzero().squeeze(1)
        if not len(which):
            return x0
        x, some, count = start[which], context[which], x0.shape[0]
        times, g = grid(path, self.steps) * self.level, chosen(memory.g, which)
        for t, s in itertools.pairwise(times):
            asked = teacher.calls
            belief = ask(teacher, x, t, some, s)
            teacher.count(-(teacher.calls - asked) * (1.0 - len(which) / count))  # for some of the samples
            end = belief.sample(g, some.mask)
            x = end if float(s) == 0.0 else path.bridge(x, end, t, s, some, g=g)
        return x0.index_copy(0, which, x)

    def _judged(self, x0: Tensor, context: Context, g: Any) -> Tensor:
        assert self.teacher is not None
        if self.reward is not None:
            return self.reward(x0, None, context).double()
        return self.residual(self.teacher, x0, context, g).double()

    @torch.no_grad()
    def settle(self, by: Settling) -> None:
        g = generator(by.seed, "threshold", device=self.threshold.device)
        like, context = by.draw(self.samples, g)
        self.threshold.fill_(-torch.inf)
        made = by.sampler.sample(by.student, like, by.steps, context, g=g).x0
        found = self._judged(made, context, g)
        if not bool(found.isfinite().all()):
            raise UserError("the reward of some samples is NaN or infinite; no threshold can be found")
        self.threshold.copy_(found.quantile(self.share))
