"""Reflow: a flow is trained on the pairs that a flow made, so that its ways grow straight, and then on a single step.

    1. on the teacher's pairs, at all t, `x_t = bridge(x_1, x0, 1, t)`: `E w(t) |D(x_t, t) - x0|^2`, in the velocity
       `|v(x_t, t) - (x_1 - x0)|^2` (Liu et al. 2022, arXiv:2209.03003, alg. 1);
    2. again, on pairs of the student as it was at the end of the round before (`rounds`);
    3. at t = 1 alone, on pairs of the last flow (`one_step`; Liu et al. 2023, InstaFlow, arXiv:2309.06380, sec. 3.2).

Reflow keeps the marginals only of an exact velocity, and where pairs lie on straight ways that do not cross one step of
Euler's rule is exact.

SlimFlow (Zhu et al. 2024, arXiv:2407.12718) anneals the first round from random pairs to the teacher's:
`x_1 := sqrt(1 - b^2) x_1 + b xi`, xi of the prior, b from 1 to 0; and it adds to the last round the target of two
steps, one of the student, to t = 1 - tau, and one of the last flow from there, which costs two calls and no trajectory
(`two_step`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.regression import Coupled, banked, calls, made, regressed
from omnidistill.objectives.step import Step, reduce
from omnidistill.times import Times, Uniform

ANNEALINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
}
"""b over the progress p in [0, 1] of the first round."""


class Reflow:
    """
    Args:
        rounds: of reflow; after the first, the pairs are the student's own.
        one_step: a last round at t = 1.
        pairs, steps: teacher pairs of the first round and their sampler steps.
        own_steps: steps of the student's own pairs, of which a straighter flow needs fewer.
        divergence: a kind of `Posterior.divergence`.
        times: of the rounds of reflow.
        weighting: w(t) of these; `velocity` for the papers' error of the velocity.
        anneal: `linear` or `cosine`, how the first round goes from random pairs to the teacher's; None: it does not.
        two_step: weight of the two-step target in the last round.
        tau: range of its first step.
    """

    rolls_out = False

    def __init__(
        self,
        rounds: int = 1,
        one_step: bool = True,
        pairs: int = 4096,
        steps: int = 16,
        own_steps: int = 8,
        divergence: str = "nll",
        times: Times = Uniform(),
        weighting: str = "velocity",
        anneal: str | None = None,
        two_step: float = 0.0,
        tau: tuple[float, float] = (0.2, 0.8),
    ) -> None:
        if min(rounds, pairs, steps, own_steps) < 1:
            raise UserError(
                f"reflow needs rounds, pairs, steps and own_steps >= 1, got {rounds}, {pairs}, {steps} and {own_steps}"
            )
        if anneal is not None and anneal not in ANNEALINGS:
            raise unknown("annealing of reflow", anneal, ANNEALINGS)
        if two_step < 0.0 or (two_step and not one_step):
            raise UserError(
                f"two_step={two_step} is a weight of at least 0 in the last round; set one_step: true"
            )
        if len(tau) != 2 or not 0.0 < tau[0] < tau[1] < 1.0:
            raise UserError(f"tau is a range inside (0, 1), got {list(tau)}")
        self.rounds, self.phases, self.own_steps = rounds, rounds + one_step, own_steps
        self.bank = BankSpec(pairs, steps)
        self.one_step, self.divergence, self.times, self.weighting = one_step, divergence, times, weighting
        self.anneal, self.two_step, self.tau = anneal, two_step, tau
        self.roles: dict[str, RoleSpec] = {}
        if self.phases > 1:
            self.roles["mentor"] = RoleSpec(start="student", refresh=self.phases - 1)
        self.needs = frozenset({"deterministic"})

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        phase, progress = self._phase(step)
        pair = banked(step) if phase == 0 else made(step, step["mentor"], self.own_steps)
        if phase == 0 and self.anneal is not None:
            pair = annealed(step, pair, ANNEALINGS[self.anneal](progress))
        last = self.one_step and phase == self.phases - 1
        times = None if last else self.times
        terms = {"reflow": regressed(step, pair, self.divergence, times, self.weighting)}
        if last and self.two_step:
            terms["two_step"] = self.two_step * self._two_step(step, pair)
        return Losses(terms)

    def _phase(self, step: Step) -> tuple[int, float]:
        """The round and how much of it is over."""
        if self.phases == 1 and self.anneal is None:
            return 0, 0.0
        place = step.update * self.phases / step.total
        phase = min(self.phases - 1, step.update * self.phases // step.total)
        return phase, min(1.0, place - phase)

    def _two_step(self, step: Step, pair: Coupled) -> Tensor:
        path, context, x_1 = step.path, pair.context, pair.x_1
        t = pair.top.expand(len(x_1))
        belief = asked(step["student"], x_1, t, torch.zeros_like(t), pair)
        with torch.no_grad():
            low, high = self.tau
            u = torch.rand(len(x_1), generator=step.g, device=step.g.device, dtype=torch.float64).to(
                x_1.device
            )
            s = (1.0 - low - (high - low) * u) * t
            x_s = path.bridge(x_1, belief.sample(step.g, context.mask).detach(), t, s, context, g=step.g)
            x0 = asked(step["mentor"], x_s, s, torch.zeros_like(s), pair).sample(step.g, context.mask)
        error = belief.divergence(path.certain(x0), self.divergence, context.mask)
        return reduce(error, 1.0, context.mask)

    def cost(self, role: str) -> Calls:
        """On average over the rounds, which are of one length. The first has the teacher's pairs; the others ask the
        mentor for theirs, `2 own_steps - 1` calls each. The two-step target is one call of both in the last."""
        if role != "student":
            return {}
        twice = float(self.two_step > 0.0)
        asked = (self.phases - 1) * calls(self.own_steps) + twice
        return {"student": 1.0 + twice / self.phases} | ({"mentor": asked / self.phases} if asked else {})


def asked(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, pair: Coupled):  # type: ignore[no-untyped-def]
    """The belief for a jump from t to s."""
    return denoiser(x, t, pair.context, target_time=s if denoiser.wants_target else None)


def annealed(step: Step, pair: Coupled, share: float) -> Coupled:
    """The pair with its noise turned into another draw of the prior, by the angle whose sine is `share`, around the
    prior's mean: that of a path with an anchor lies at the anchor."""
    path, anchor = step.path, pair.context.anchor
    other = path.prior(pair.x_1, pair.context, g=step.g)
    if "anchored" not in path.offers or anchor is None:
        centre: Tensor | float = 0.0
    else:
        alpha, beta, _ = path.coefficients(1.0)  # type: ignore[attr-defined]
        centre = float(alpha + beta) * anchor
    kept = math.sqrt(1.0 - share**2)
    return pair._replace(x_1=centre + kept * (pair.x_1 - centre) + share * (other - centre))
