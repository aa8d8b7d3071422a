"""Solvers with numbers of their own: a step's belief is put together of all beliefs and states of the walk so far."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.errors import NotOffered, UserError, unknown
from omnidistill.paths.base import as_time, grid
from omnidistill.posteriors import Posterior
from omnidistill.random import generator
from omnidistill.samplers.solvers import Heun
from omnidistill.samplers.walker import Memory, Settling, Walker

FITS = ("gradient", "projection")
LEARNED = ("beliefs", "states", "times", "asked")


class Multistep(Walker):
    """The belief that step i jumps with is

        D'_i = sum_{j <= i} (theta_ij + b_ij) D_j + sum_{j <= i} a_ij x_j,      D_j = D(x_j, t_j + delta_j)

    with theta the theory's own coefficients. A deterministic jump is linear in x0 and x_t, so this is every linear
    multistep rule `x_{i+1} = sum a x + sum c D` (Oganov et al. 2025, GAS: Generalized Adversarial Solver, sec. 4,
    where residuals of a theory are learned as well, with the times t and the times at which the network is asked);
    with all numbers at zero it is the theory. With b_ii = lambda_i and b_i,i-1 = -lambda_i alone it is D-ODE (Kim et
    al. 2023, Distilling ODE Solvers of Diffusion Models into Smaller Steps, eq. 9).

    Args:
        steps: the step counts that have numbers of their own; at others it is the theory.
        order: of the theory: 1 is DDIM; 2 is DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), whose last step, and the
            one after a state without any signal, are of first order.
        fit: `gradient`: parameters that an objective trains (`solver_fit`). `projection`: each lambda_i in closed form

                lambda_i = <x*_{i+1} - x_{i+1}, d> / <d, d>,   d = bridge(D_i + (D_i - D_{i-1})) - bridge(D_i)

            over a batch, where x* is the teacher's state after `substeps` steps of Heun's rule between two times of
            the student, from the same noise, and x the student's own with the lambdas before.
        learned: what is trained by gradient: `beliefs` (b), `states` (a), `times` (the interior t, as gaps that sum to
            one), `asked` (delta).
        samples, substeps: for the projection.
    """

    def __init__(
        self,
        steps: Sequence[int] | int = (4,),
        order: int = 1,
        fit: str = "gradient",
        learned: Sequence[str] = LEARNED,
        samples: int = 256,
        substeps: int = 8,
    ) -> None:
        super().__init__()
        counts = [steps] if isinstance(steps, int) else list(steps)
        if not counts or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
            raise UserError(f"steps of a solver are whole numbers of at least 1, got {steps!r}")
        if order not in (1, 2):
            raise UserError(f"a solver's theory is of order 1 or 2, got order={order}")
        if fit not in FITS:
            raise unknown("fit of a solver", fit, FITS)
        if stray := [name for name in learned if name not in LEARNED]:
            raise unknown("part of a solver to be learned", stray[0], LEARNED)
        if samples < 1 or substeps < 1:
            raise UserError(f"a projection needs samples and substeps >= 1, got {samples} and {substeps}")
        self.counts, self.order, self.fit = tuple(sorted(set(counts))), order, fit
        self.samples, self.substeps = samples, substeps
        self.parts = ("beliefs",) if fit == "projection" else tuple(learned)
        shapes = {"beliefs": 2, "states": 2, "times": 1, "asked": 1}
        for name in self.parts:
            made = {
                str(n): nn.Parameter(
                    torch.zeros((n,) * shapes[name], dtype=torch.float64), requires_grad=self.learns
                )
                for n in self.counts
            }
            setattr(self, name, nn.ParameterDict(made))

    beliefs: nn.ParameterDict

    @property
    def learns(self) -> bool:  # type: ignore[override]
        """Its numbers, unless they are a projection."""
        return self.fit == "gradient"

    def around(self, denoiser: Denoiser, teacher: Denoiser | None = None, null: Null | None = None) -> Walker:
        if not {"gaussian", "deterministic"} <= denoiser.path.offers or "simplex" in denoiser.path.offers:
            raise NotOffered(
                f"a solver needs the deterministic trajectories of points, which {denoiser.path} does not offer"
            )
        return super().around(denoiser, teacher, null)

    def _number(self, part: str, steps: int) -> Tensor | None:
        """The numbers of a part for a walk of so many steps; None where there are none."""
        return getattr(self, part)[str(steps)] if part in self.parts and steps in self.counts else None

    # --- a walk -----------------------------------------------------------------------------------------------------

    def nodes(self, steps: int) -> Tensor | None:
        free = self._number("times", steps)
        if free is None:
            return super().nodes(steps)
        low, top = self.path.span
        usual = grid(self.path, steps).to(free.device)
        gaps = torch.softmax((usual[:-1] - usual[1:]).log() + free, 0)
        inner = (top * (1.0 - gaps.cumsum(0)[:-1])).clamp_min(max(low, 1e-6))
        return torch.cat((usual[:1], inner, usual[-1:]))

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        i, steps = memory.index, memory.steps
        moved = self._number("asked", steps)
        asked = t if moved is None else (t + moved[i]).clamp(max(self.path.span[0], 1e-6), self.path.span[1])
        belief = memory.denoiser(x_t, asked, context, target_time=target_time)
        beliefs = memory.kept.setdefault("beliefs", [])
        states = memory.kept.setdefault("states", [])
        beliefs.append(belief.parameters)
        states.append(x_t)
        made = _combined(self._weights(memory)[i], beliefs, belief.parameters)
        if (own := self._number("states", steps)) is not None:
            made = made + _combined(own[i], states, x_t)
        return belief.replace(made if context.mask is None else made * context.mask)

    def _weights(self, memory: Memory) -> Tensor:
        """Float64[steps, steps]: theta + b, of which the lower triangle counts."""
        if "weights" not in memory.kept:
            theory = self.theory(memory.times)
            own = self._number("beliefs", memory.steps)
            memory.kept["weights"] = theory if own is None else theory + own.to(theory.device)
        return memory.kept["weights"]

    def theory(self, times: Tensor) -> Tensor:
        """Float64[n, n]: theta. With l = log(alpha / sigma) and h_i = l_{i+1} - l_i, the second order has
        theta_ii = 1 + h_i / (2 h_{i-1}) and theta_i,i-1 = -h_i / (2 h_{i-1})."""
        steps = len(times) - 1
        found = torch.eye(steps, dtype=torch.float64, device=times.device)
        if self.order == 1 or steps < 3:
            return found
        level = -self.path.noise_level(times[:-1]).log()  # type: ignore[attr-defined]
        for i in range(1, steps - 1):
            if not bool(level[i - 1].isfinite()):
                continue  # no signal at all before: h_{i-1} is infinite
            extra = 0.5 * (level[i + 1] - level[i]) / (level[i] - level[i - 1])
            row = torch.zeros(steps, dtype=torch.float64, device=times.device)
            row[i], row[i - 1] = 1.0, -1.0
            found = torch.cat((found[:i], (found[i] + extra * row)[None], found[i + 1 :]))
        return found

    # --- the projection ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def settle(self, by: Settling) -> None:
        if self.fit != "projection":
            return
        for steps in self.counts:
            self._project(by, steps)

    def _project(self, by: Settling, steps: int) -> None:
        path, times = self.path, by.sampler.times(by.student, steps)
        device = next(self.parameters()).device
        g = generator(by.seed, "projection", steps, device=device)
        like, context = by.draw(self.samples, g)
        x = goal = path.prior(like, context, g=g)
        inner = self.denoiser.walk(times, g)
        theory = self.theory(times)
        numbers = torch.zeros(steps, steps, dtype=torch.float64)
        former: list[Tensor] = []
        for i in range(steps):
            t, s = times[i], times[i + 1]
            goal = self._teacher(by.teacher, goal, t, s, context, g)
            former.append(inner(x, t, context, target_time=s if inner.wants_target else None).parameters)
            x0 = _combined(theory[i], former, x)
            base = path.bridge(x, x0, t, s, context, g=g)
            if i:
                along = path.bridge(x, x0 + former[-1] - former[-2], t, s, context, g=g) - base
                length = along.double().square().sum()
                share = ((goal - base).double() * along.double()).sum() / length.clamp_min(1e-300)
                numbers[i, i], numbers[i, i - 1] = share, -share
                base = base + share.to(base.dtype) * along
            x = base
        self.beliefs[str(steps)].copy_(numbers)

    def _teacher(
        self, teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, context: Context, g: Any
    ) -> Tensor:
        """The teacher's state at s: Heun's rule at even times between."""
        rule = Heun()
        marks = [t + (s - t) * (k / self.substeps) for k in range(self.substeps + 1)]
        for now, then in itertools.pairwise(marks):
            x = rule.step(teacher, x, as_time(now, x), as_time(then, x), context, g)
        return x


def _combined(weights: Tensor, parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """`sum_j weights[j] parts[j]` over the parts there are, in their dtype and on their device."""
    return torch.tensordot(weights[: len(parts)].to(like), torch.stack(tuple(parts)), dims=1)
