"""Flow maps: one student for every jump t -> r along the teacher's trajectory, r = t being the teacher itself.

`psi(x, t, r)` is the mean of the teacher's beliefs along the deterministic way from t to r, so it is a belief of the
same kind, and the path's own jump leads to where the trajectory is at r: `X_r = bridge(x, psi, t, r)`. Three identities
hold for the exact map, see `objectives.identities`.

The loss is `E w(t) divergence(psi(x_t, t, r), sg target)`: for a share of the samples r = t and the target is the
teacher's belief, or the data (then the student is its own teacher: a flow map from scratch); for the others it is the
right-hand side of an identity, with the student's own answers in it.

| paper | identity | diagonal | more |
|---|---|---|---|
| Flow Map Matching on beliefs | any | teacher | |
| Shortcut Models | semigroup | data | jumps: Halving |
| MeanFlow; improved MeanFlow | eulerian | data | power: 1; along: student |
| Align Your Flow | eulerian | teacher | normalise, warm_up |
| sCM (sCD) | eulerian | teacher | to_data: 1, normalise, warm_up, learned_weight |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.objectives import tangents
from omnidistill.objectives.base import Calls, Losses, RoleSpec, branches
from omnidistill.objectives.identities import (
    arrived,
    ask,
    eulerian,
    simplex,
    stack,
    two_jumps,
    vacuous,
    with_rate,
)
from omnidistill.objectives.jumps import Jumps
from omnidistill.objectives.step import Step, reduce
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight

IDENTITIES = ("semigroup", "lagrangian", "eulerian")
DIAGONALS = ("teacher", "data")
ALONG = ("teacher", "data", "student")


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
        along: eulerian: whose belief D' gives the velocity: `teacher`, `data`, or the `student` itself at r = t; None
            for who is on the diagonal.
        derivative: `forward` or `difference`, see `objectives.tangents`.
        times: distribution of the larger and the smaller of the two times.
        jumps: semigroup: pairs of times, broken in two where it says (`Halving`); None: two of `times`, anywhere.
        at_once: share of the batch with r = t. 0 with to_data=1 is plain consistency: by the eulerian identity along
            the teacher's trajectories, by the semigroup along the student's own, which a constant satisfies too, so
            that it belongs beside an objective that knows the data.
        to_data: share of the batch that jumps all the way: to r = 0, or to `path.span[0]` for the lagrangian identity,
            which says nothing at r = 0. 1: the student needs no second time.
        divergence: a kind of `Posterior.divergence`.
        weighting: w(t), a name of `weights.WEIGHTS`, or `output` for the error of the bare network output.
        normalise: c of the eulerian residual's `g / (|g| + c)`; None leaves it as it is.
        warm_up: updates over which rho grows from 0 to 1.
        power: p of an adaptive weight `1 / (|e|^2 + 0.01)^p` of each sample.
        learned_weight: a weight of t is learned beside the student (`tangents.TimeWeight`).
        guidance: guidance scale of the teacher; 1 is none.
        weak: name of a weaker teacher that the teacher is guided away from, by `guidance` (autoguidance: Karras et al.
            2024, arXiv:2406.02507).
        decay: of the moving average that answers inside the semigroup's target; None for the student itself.
    """

    bank = None
    rolls_out = False
    guidance_range = None

    def __init__(
        self,
        identity: str = "semigroup",
        diagonal: str = "teacher",
        along: str | None = None,
        derivative: str = "forward",
        times: Times = Uniform(),
        jumps: Jumps | None = None,
        at_once: float = 0.5,
        to_data: float = 0.25,
        divergence: str = "nll",
        weighting: str = "uniform",
        normalise: float | None = None,
        warm_up: int = 0,
        power: float = 0.0,
        learned_weight: bool = False,
        guidance: float = 1.0,
        weak: str | None = None,
        decay: float | None = None,
    ) -> None:
        eulerian, semigroup = identity == "eulerian", identity == "semigroup"
        for what, value, known in (
            ("identity of a flow map", identity, IDENTITIES),
            ("diagonal of a flow map", diagonal, DIAGONALS),
            ("source of velocities", along or diagonal, ALONG),
            ("derivative", derivative, tangents.DERIVATIVES),
        ):
            if value not in known:
                raise unknown(what, value, known)
        whole = at_once >= 0.0 and at_once + to_data <= 1.0
        parts = at_once > 0.0 and at_once + to_data < 1.0
        alone = semigroup and at_once == 0.0 and to_data == 1.0
        if to_data < 0.0 or not (whole if eulerian else parts or alone):
            raise UserError(
                f"shares of the batch need at_once > 0, to_data >= 0 and a sum below 1, got {at_once} and {to_data}; "
                "identity 'eulerian' also takes at_once=0 and a sum of 1, 'semigroup' at_once=0 with to_data=1"
            )
        theirs = {"decay": decay is not None, "jumps": jumps is not None} if not semigroup else {}
        if not eulerian:
            theirs |= {
                "along": along is not None,
                "normalise": normalise is not None,
                "warm_up": warm_up != 0,
            }
        for name in (name for name, given in theirs.items() if given):
            of = "semigroup" if name in ("decay", "jumps") else "eulerian"
            raise UserError(f"{name} is an option of identity '{of}'; identity '{identity}' has none")
        if guidance != 1.0 and diagonal == "data" and along != "teacher":
            raise UserError(f"guidance={guidance} is the teacher's; use diagonal: teacher")
        self.identity, self.diagonal, self.along = identity, diagonal, along or diagonal
        self.derivative, self.times, self.jumps = derivative, times, jumps
        self.at_once, self.to_data, self.divergence = at_once, to_data, divergence
        self.weighting, self.normalise, self.warm_up = weighting, normalise, warm_up
        self.power, self.learned, self.guidance, self.weak = power, learned_weight, guidance, weak
        self.roles = {} if decay is None else {"target": RoleSpec(start="student", average=decay)}
        if learned_weight:
            self.roles["student"] = RoleSpec(modules={"time_weight": lambda student: tangents.TimeWeight()})
        needs = {"data", "deterministic", "composable"}
        needs |= {"condition"} if guidance != 1.0 and weak is None else set()
        self.needs = frozenset(needs | (set() if semigroup else {"differentiable"}))

    def advice(self, path: Path) -> str:
        """What to do on a path that lacks what is needed."""
        return vacuous(path)

    # --- the loss -----------------------------------------------------------------------------------------------

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        student, context, path = step["student"], step.context, step.path
        if not student.wants_target and self.to_data < 1.0:
            raise UserError("a flow map is told where it jumps to; set student.target_time=true")
        if self.identity == "eulerian" and self.along == "data" and simplex(path):
            raise UserError(
                f"on {path} the eulerian target is not linear in the velocity, so that of the data is not right on "
                "average; set families.flow_map.along to student or teacher"
            )
        jump = self._jump(step)
        far = slice(jump.diagonal, None)
        if self.identity == "eulerian":
            psi, target = self._eulerian(step, jump)
        else:
            psi, target = self._beside(step, jump)
        # Not aligned: psi and its target lead from one state along its trajectory, which turns as the state is turned;
        # every belief in the target is in the pose of a state on it.
        error = psi.divergence(target, self.divergence, context.mask)
        own = self.weighting == "output"
        w = student.output_weight(jump.t) if own else weight(self.weighting, path, jump.t)
        if self.power:
            w = w * tangents.adaptive(error, w, self.power, context.mask)
        where = path.unresolved(jump.x_t, jump.t)
        if self.learned:
            log_w = step.models["time_weight"](jump.t)
            loss = reduce(error, w * log_w.exp(), context.mask, where) - log_w.mean()
        else:
            loss = reduce(error, w, context.mask, where)
        drift = (psi.parameters[far].detach() - target.parameters[far]).abs().mean()
        return Losses({"flow_map": loss}, {"flow_map/drift": drift})

    def _beside(self, step: Step, jump: Jump) -> tuple[Posterior, Posterior]:
        """psi and its target of the semigroup or the lagrangian identity, beside the goal of the diagonal."""
        student, context, (x, t, r, here) = step["student"], step.context, jump
        far, asked = slice(here, None), step["target" if "target" in self.roles else "student"]
        if self.identity == "semigroup":
            psi = ask(student, x, t, context, r)
            with torch.no_grad():
                there = two_jumps(asked, x[far], t[far], r[far], context[far], step.g, self.jumps)
                return psi, stack(self._goal(step, jump, slice(here)), there) if here else there
        psi, rate = with_rate(student, x, t, r, context, None, self.derivative)
        with torch.no_grad():
            goal = self._goal(step, jump, slice(here))
            there = arrived(student, psi[far], rate[far], x[far], t[far], r[far], context[far], step.g)
            return psi, stack(goal, there)

    def _jump(self, step: Step) -> Jump:
        """Pairs of times: the first samples stay where they are, the next go to the data, the rest anywhere."""
        path, x0 = step.path, step.x0
        count = x0.shape[0]
        here, down = max(self.at_once > 0, round(count * self.at_once)), round(count * self.to_data)
        if here >= count and self.at_once < 1.0:
            raise UserError(
                f"a flow map needs a batch of at least 2 samples with at_once={self.at_once}, got {count}"
            )
        a, b = (self.times(count, path, step.g).to(x0.device) for _ in range(2))
        t, r = (torch.maximum(a, b) if self.to_data < 1.0 else a), torch.minimum(a, b)
        if self.jumps is not None:
            t, r = (u.to(x0.device) for u in self.jumps(count, path, step.g))
            t[:here] = a[:here]
        low = path.span[0] if self.identity == "lagrangian" else 0.0
        r = torch.where(torch.arange(count, device=t.device) < here + down, low, r)
        r[:here] = t[:here]
        return Jump(path.renoise(x0, t, step.context, g=step.g), t, r, here)

    def _goal(self, step: Step, jump: Jump, part: slice = slice(None), who: str | None = None) -> Posterior:
        """The belief on the diagonal about these samples, or that of `who`."""
        who = who or self.diagonal
        if who == "data":
            return step.path.certain(step.x0[part])
        x, t, context = jump.x_t[part], jump.t[part], step.context[part]
        if who == "student":
            return ask(step["student"], x, t, context, t)
        if self.weak is None:
            return step.guided("teacher", self.guidance)(x, t, context)
        strong, weak = step["teacher"](x, t, context), step[self.weak](x, t, context)
        return strong.guide(weak, torch.tensor(self.guidance))

    def _eulerian(self, step: Step, jump: Jump) -> tuple[Posterior, Posterior]:
        path, context, (x, t, r, _) = step.path, step.context, jump
        with torch.no_grad():
            goal = self._goal(step, jump)
            along = goal if self.along == self.diagonal else self._goal(step, jump, who=self.along)
            velocity = path.velocity(x, along.sample(step.g, context.mask), t, context)
        psi, rate = with_rate(step["student"], x, t, r, context, velocity, self.derivative)
        rho = min(1.0, step.update / self.warm_up) if self.warm_up else 1.0
        with torch.no_grad():
            g = eulerian(path, psi, goal, along, rate, t, r, rho)
            if self.normalise is not None:
                unit = step["student"].output_weight(t).sqrt()
                g = tangents.normalised(g, unit, self.normalise, context.mask)
            return psi, psi.replace(psi.parameters - g)

    # --- what it costs --------------------------------------------------------------------------------------------

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        calls: dict[str, int] = {}
        if "teacher" in (self.diagonal, self.along) and (self.at_once > 0.0 or self.identity == "eulerian"):
            asked = branches(self.guidance) if self.weak is None else 1
            calls = {"teacher": asked} | ({} if self.weak is None else {self.weak: 1})
        if "target" in self.roles:
            return {"student": 1, "target": 2} | calls
        own = {"semigroup": 3, "lagrangian": 2, "eulerian": 1 + (self.along == "student")}[self.identity]
        differences = 2 if self.identity != "semigroup" and self.derivative == "difference" else 0
        return {"student": own + differences} | calls
