"""The student's sampler: predict x0, go back to a lower noise level, predict again."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.samplers.base import Rollout, Sampler

TRANSITIONS = ("renoise", "ode", "ancestral")


class FewStep(Sampler):
    """1 to 8 steps, and the differentiable rollout that objectives train on.

    Args:
        transition: how to go on from a predicted x0. `renoise`: fresh noise, `x_s ~ q(x_s | x0)` (consistency
            models, Song et al. 2023, alg. 1; DMD2). `ode`: keep the own noise (DDIM; progressive distillation).
            `ancestral`: the path's own posterior, which for tokens is the only one that keeps what is resolved.
    """

    def __init__(self, transition: str = "renoise") -> None:
        if transition not in TRANSITIONS:
            raise UserError(f"unknown transition '{transition}'; possible: {', '.join(TRANSITIONS)}")
        self.transition = transition

    def _go_on(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        x0: Tensor,
        t: Tensor,
        s: Tensor,
        context: Context,
        g: torch.Generator | None,
    ) -> Tensor:
        path = denoiser.path
        if self.transition == "renoise":
            return path.renoise(x0, s, context, g=g)
        return path.bridge(x_t, x0, t, s, context, churn=float(self.transition == "ancestral"), g=g)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        context: Context,
        g: torch.Generator | None,
    ) -> Tensor:
        # A re-noising student always predicts x0 itself; the others may have learned the jump to s.
        target = s if denoiser.wants_target and self.transition != "renoise" else None
        x0 = denoiser(x_t, t, context, target_time=target).sample(g, context.mask)
        return x0 if float(s) == 0.0 else self._go_on(denoiser, x_t, x0, t, s, context, g)

    def rollout(
        self,
        denoiser: Denoiser,
        like: Tensor,
        steps: int,
        context: Context = Context(),
        *,
        g: torch.Generator,
        data: Tensor | None = None,
        structure: torch.Generator | None = None,
    ) -> Rollout:
        """One student answer at one of its own steps, with a graph through that answer alone.

        The step k of `steps` is drawn uniformly for the whole batch. The input is what inference would see there:
        k steps without gradient, then the transition (backward simulation, Yin et al. 2024, DMD2, sec. 4.5). With
        `data`, the input is real data noised to t_k instead. `structure` draws k where it is given, so that processes
        that draw noise of their own agree on the step.
        """
        path = denoiser.path
        times = self.times(denoiser, steps)
        which = g if structure is None else structure
        k = int(torch.randint(steps, (), generator=which, device=which.device)) if steps > 1 else 0
        if data is not None:
            x = path.renoise(data, times[k], context, g=g) if k else path.prior(like, context, g=g)
        else:
            with torch.no_grad():
                x = path.prior(like, context, g=g)
                for i in range(k):
                    x = self.step(denoiser, x, times[i], times[i + 1], context, g)
        t = times[k].expand(x.shape[0]).to(x.device)
        belief = denoiser(x, t, context)
        return Rollout(x, t, belief, belief.sample(g, context.mask), context)
