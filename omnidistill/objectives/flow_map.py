"""Flow maps: one student for every jump t -> r along the teacher's trajectory, r = t being the teacher itself.

`psi(x, t, r)` is the mean of the teacher's beliefs along the deterministic way from t to r, so it is a belief of the
same kind, and the path's own jump leads to where the trajectory is at r: `X_r = bridge(x, psi, t, r)`. With the noise
level `k = sigma / alpha` three identities hold for the exact map (D the teacher's belief, `D_t` the total derivative
along the trajectory):

semigroup   `psi(x, t, r) = w psi(x, t, u) + (1 - w) psi(X_u, u, r)`, w = `Path.share`, r <= u <= t
lagrangian  `psi(x, t, r) = D(X_r, r) + C d/dr psi`, `C = sigma_r (alpha_r sigma_t - sigma_r alpha_t) / (sigma_t W_r)`
eulerian    `psi(x, t, r) = D(x, t) - C D_t psi`, `C = sigma_t (alpha_r sigma_t - sigma_r alpha_t) / (sigma_r W_t)`

where `W = sigma' alpha - sigma alpha'`; on a rectified flow the factors are `r (t - r) / t` and `t (t - r) / r`. With
r = 0 the semigroup is plain consistency, and it alone needs no derivative. The three characterisations are those of
Boffi, Albergo and Vanden-Eijnden (2025, "How to build a consistency model", arXiv:2505.18825: progressive, Lagrangian,
Eulerian), there for velocities; for posterior means see Discrete Flow Maps (2026, arXiv:2604.09784).

The loss is `E divergence(psi(x_t, t, r), sg target)`: for a share of the samples r = t and the target is the teacher's
belief, or the data (then the student is its own teacher: a flow map from scratch); for the others it is the right-hand
side of an identity, with the student's own answers in it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior, detach
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight

IDENTITIES = ("semigroup", "lagrangian", "eulerian")
DIAGONALS = ("teacher", "data")


class Jump(NamedTuple):
    """The states asked about and the jump of each: `r = t` in the first `diagonal` samples of the batch."""

    x_t: Tensor
    t: Tensor
    r: Tensor
    diagonal: int


class FlowMap:
    """
    Args:
        identity: see above.
        diagonal: what the map is at r = t: the `teacher`'s belief, or the `data`'s (then it needs no teacher).
        times: distribution of the larger and the smaller of the two times.
        at_once: share of the batch with r = t.
        to_data: share of the batch that jumps all the way: to r = 0, or `path.span[0]` where a derivative is taken.
        divergence: a kind of `Posterior.divergence`.
        weighting: w(t), a name of `weights.WEIGHTS`.
        guidance: guidance scale of the teacher; 1 is none.
        decay: of the moving average that answers inside the semigroup's target; None for the student itself.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        identity: str = "semigroup",
        diagonal: str = "teacher",
        times: Times = Uniform(),
        at_once: float = 0.5,
        to_data: float = 0.25,
        divergence: str = "nll",
        weighting: str = "uniform",
        guidance: float = 1.0,
        decay: float | None = None,
    ) -> None:
        if identity not in IDENTITIES:
            raise unknown("identity of a flow map", identity, IDENTITIES)
        if diagonal not in DIAGONALS:
            raise unknown("diagonal of a flow map", diagonal, DIAGONALS)
        if not (at_once > 0.0 and to_data >= 0.0 and at_once + to_data < 1.0):
            raise UserError(
                f"shares of the batch need at_once > 0, to_data >= 0 and a sum below 1, got {at_once} and {to_data}"
            )
        if decay is not None and identity != "semigroup":
            raise UserError(f"decay={decay} is of the semigroup's target; identity '{identity}' has none")
        if guidance != 1.0 and diagonal == "data":
            raise UserError(f"guidance={guidance} is the teacher's; use diagonal: teacher")
        self.identity, self.diagonal, self.times = identity, diagonal, times
        self.at_once, self.to_data, self.divergence = at_once, to_data, divergence
        self.weighting, self.guidance = weighting, guidance
        self.roles = {} if decay is None else {"target": RoleSpec(start="student", average=decay)}
        needs = {"data", "deterministic", "composable"} | ({"condition"} if guidance != 1.0 else set())
        self.needs = frozenset(needs | (set() if identity == "semigroup" else {"differentiable"}))

    # --- the loss -----------------------------------------------------------------------------------------------

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, context = step["student"], step.context
        if not student.wants_target:
            raise UserError("a flow map is told where it jumps to; set student.target_time=true")
        jump = self._jump(step)
        far = slice(jump.diagonal, None)
        rates = None
        if self.identity == "semigroup":
            psi = student(jump.x_t, jump.t, context, target_time=jump.r)
        else:
            psi, rates = self._with_rate(step, jump)
        with torch.no_grad():
            target = _stack(self._here(step, jump), self._there(step, jump, psi, rates))
        error = psi.divergence(target, self.divergence, context.mask)
        w = weight(self.weighting, step.path, jump.t)
        loss = reduce(error, w, context.mask, step.path.unresolved(jump.x_t, jump.t))
        drift = (psi.parameters[far].detach() - target.parameters[far]).abs().mean()
        return Losses({"flow_map": loss}, {"flow_map/drift": drift})

    def _jump(self, step: Step) -> Jump:
        """Pairs of times: the first samples stay where they are, the next go to the data, the rest anywhere."""
        path, x0 = step.path, step.x0
        count = x0.shape[0]
        here, down = max(1, round(count * self.at_once)), round(count * self.to_data)
        if here >= count:
            raise UserError(
                f"a flow map needs a batch of at least 2 samples with at_once={self.at_once}, got {count}"
            )
        a, b = (self.times(count, path, step.g).to(x0.device) for _ in range(2))
        t, r = torch.maximum(a, b), torch.minimum(a, b)
        # At r = 0 itself the identities with a derivative say nothing: the factor is 0, or infinite.
        low = 0.0 if self.identity == "semigroup" else path.span[0]
        r = torch.where(torch.arange(count, device=t.device) < here + down, low, r)
        r[:here] = t[:here]
        return Jump(path.renoise(x0, t, step.context, g=step.g), t, r, here)

    def _here(self, step: Step, jump: Jump) -> Posterior:
        """The target where r = t."""
        part = slice(jump.diagonal)
        if self.diagonal == "data":
            return step.path.certain(step.x0[part])
        return step.guided("teacher", self.guidance)(jump.x_t[part], jump.t[part], step.context[part])

    def _there(self, step: Step, jump: Jump, psi: Posterior, rates: Tensor | None) -> Posterior:
        """The target of the jumps, from the student's own answers."""
        far = slice(jump.diagonal, None)
        x, t, r, context = jump.x_t[far], jump.t[far], jump.r[far], step.context[far]
        if self.identity == "semigroup":
            return self._two_jumps(step, x, t, r, context)
        psi, path = detach(psi[far]), step.path
        rate = rates[far]  # type: ignore[index]
        if self.identity == "lagrangian":
            x_r = path.bridge(x, psi.sample(step.g, context.mask), t, r, context, g=step.g)
            end = step["student"](x_r, r, context, target_time=r)
            return end.replace(end.parameters + per_sample(_factor(path, t, r), x) * rate)
        # The factor grows without bound as r -> 0; divided by 1 + C the residual keeps its zero.
        c = per_sample(_factor(path, t, r, eulerian=True), x)
        start = step["student"](x, t, context, target_time=t)
        residual = (psi.parameters - start.parameters + c * rate) / (1.0 + c)
        return psi.replace(psi.parameters - residual)

    def _two_jumps(self, step: Step, x: Tensor, t: Tensor, r: Tensor, context: Context) -> Posterior:
        path = step.path
        asked: Denoiser = step["target"] if "target" in self.roles else step["student"]
        u = r + (t - r) * torch.rand(len(t), generator=step.g, device=step.g.device, dtype=t.dtype).to(
            t.device
        )
        first = asked(x, t, context, target_time=u)
        x_u = path.bridge(x, first.sample(step.g, context.mask), t, u, context, g=step.g)
        second = asked(x_u, u, context, target_time=r)
        return first.blend(second, path.share(x, x_u, t, u, r))

    def _with_rate(self, step: Step, jump: Jump) -> tuple[Posterior, Tensor]:
        """psi, and its derivative: in r (lagrangian) or along the trajectory in t (eulerian)."""
        student, context, path = step["student"], step.context, step.path
        kind: list[Posterior] = []

        def answer(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            kind[:] = [student(x, t, context, target_time=r)]
            return kind[0].parameters

        one, zero = torch.ones_like(jump.t), torch.zeros_like(jump.t)
        if self.identity == "lagrangian":
            tangents = (torch.zeros_like(jump.x_t), zero, one)
        else:
            with torch.no_grad():
                belief = student(jump.x_t, jump.t, context, target_time=jump.t)
                velocity = path.velocity(jump.x_t, belief.sample(step.g, context.mask), jump.t, context)
            tangents = (velocity, one, zero)
        values, rate = torch.func.jvp(answer, (jump.x_t, jump.t, jump.r), tangents)  # type: ignore[misc]
        return kind[0].replace(values), rate.detach()

    # --- what it costs --------------------------------------------------------------------------------------------

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        teacher = {} if self.diagonal == "data" else {"teacher": 1 if self.guidance == 1.0 else 2}
        if "target" in self.roles:
            return {"student": 1, "target": 2} | teacher
        return {"student": {"semigroup": 3, "lagrangian": 2, "eulerian": 3}[self.identity]} | teacher


def _stack(here: Posterior, there: Posterior) -> Posterior:
    return there.replace(torch.cat((here.parameters, there.parameters)))


def _factor(path: object, t: Tensor, r: Tensor, *, eulerian: bool = False) -> Tensor:
    """C of the identity, Float64[b]."""
    (a_t, _, n_t), (a_r, _, n_r) = (path.coefficients(u) for u in (t, r))  # type: ignore[attr-defined]
    between = a_r * n_t - n_r * a_t
    at = t if eulerian else r
    a_rate, _, n_rate = path.rates(at)  # type: ignore[attr-defined]
    a, n = (a_t, n_t) if eulerian else (a_r, n_r)
    scale = n_rate * a - n * a_rate
    return n_t * between / (n_r * scale) if eulerian else n_r * between / (n_t * scale)
