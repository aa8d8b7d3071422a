"""Objectives added by weight: `{consistency: 1.0, matching: 0.5}` is one objective like any other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import BankSpec, Calls, Losses, Objective, RoleSpec, rolls
from omnidistill.objectives.questions import Question, merged
from omnidistill.objectives.step import Step
from omnidistill.paths import Path


class Weighted:
    """`sum_i w_i L_i` for the student; roles that two objectives share are merged and trained on both their losses.

    The weights scale the student's terms alone: a critic's own losses keep the factors that its objective gave them,
    so turning a reward down does not slow the critic of another term.

    Args:
        parts: objectives by name.
        weights: a weight for each name.
        begins: for some names the share of the run after which the student has their terms (a refinement after a first
            stage). Critics are trained from the start, so that they know the student by then.
        ends: for some names the share of the run after which the student has their terms no longer.
    """

    def __init__(
        self,
        parts: Mapping[str, Objective],
        weights: Mapping[str, float],
        begins: Mapping[str, float] = {},
        ends: Mapping[str, float] = {},
    ) -> None:
        if not parts:
            raise UserError("an objective needs at least one part, e.g. objective.matching=1.0")
        if set(parts) != set(weights):
            raise UserError(f"parts {sorted(parts)} and weights {sorted(weights)} must have the same names")
        self.parts, self.weights = dict(parts), {name: float(value) for name, value in weights.items()}
        self.begins = {name: share for name, share in begins.items() if share > 0.0}
        self.ends = {name: share for name, share in ends.items() if share < 1.0}
        for what, named in (("begin", self.begins), ("end", self.ends)):
            if unknown := set(named) - set(parts):
                raise UserError(f"{what}.{min(unknown)} is of no part; parts are {', '.join(parts)}")
        if len(self.begins) == len(parts):
            raise UserError(
                f"something must be trained from the start; begin names all parts: {', '.join(parts)}"
            )
        self._check_stages()
        self.needs: frozenset[str] = frozenset().union(*(part.needs for part in parts.values()))
        self.roles: dict[str, RoleSpec] = {}
        for part in parts.values():
            for name, role in part.roles.items():
                self.roles[name] = role.merged(self.roles[name], name) if name in self.roles else role
        self.bank = self._bank()
        self.rolls_out = any(bool(part.rolls_out) for part in parts.values())
        self.guidance_range = self._guidance()

    def _check_stages(self) -> None:
        """At each point of the run some part has to be trained."""
        edges = sorted({0.0, *self.begins.values(), *self.ends.values()})
        for edge in edges:
            if edge < 1.0 and not any(self._runs(name, edge) for name in self.parts):
                raise UserError(
                    f"nothing is trained after {edge:g} of the run: begin={self.begins}, end={self.ends}"
                )

    def _runs(self, name: str, over: float) -> bool:
        """Whether the student has this part's terms when that share of the run is over."""
        return self.begins.get(name, 0.0) <= over < self.ends.get(name, 2.0)

    def _bank(self) -> BankSpec | None:
        asked = [part.bank for part in self.parts.values() if part.bank]
        if not asked:
            return None
        if len({spec.steps for spec in asked}) > 1:
            raise UserError(
                f"objectives ask for banks with different steps: {sorted({a.steps for a in asked})}"
            )
        if len({spec.controlled for spec in asked}) > 1:
            raise UserError(
                "one objective reads conditions off samples, another draws them first; they share no bank"
            )
        if len({spec.guidance for spec in asked}) > 1:
            raise UserError("objectives ask for trajectories under different guidance; they share no bank")
        first, states = asked[0], any(a.states for a in asked)
        return BankSpec(
            max(a.size for a in asked), first.steps, states, first.controlled, guidance=first.guidance
        )

    def _guidance(self) -> tuple[float, float] | None:
        """The one range that parts want drawn; whoever comes first in a step must not decide between two."""
        found = {name: getattr(part, "guidance_range", None) for name, part in self.parts.items()}
        asked = {name: tuple(value) for name, value in found.items() if value is not None}
        if len(set(asked.values())) > 1:
            ranges = ", ".join(f"{name} {list(value)}" for name, value in asked.items())
            raise UserError(f"objectives draw guidance from different ranges: {ranges}; give them one")
        return next(iter(asked.values()), None)

    def advice(self, path: Path) -> str:
        """What parts say to a path that lacks what they need."""
        said = [part.advice(path) for part in self.parts.values() if hasattr(part, "advice")]
        return "; ".join(line for line in said if line)

    def losses(self, role: str, step: Step) -> Losses | None:
        terms: dict[str, Tensor] = {}
        diagnostics: dict[str, Tensor] = {}
        if (
            self.guidance_range is not None
        ):  # before any part looks, where the step was made without the range
            step.draw_guidance(*self.guidance_range)
        parts = self._begun(role, step)
        asked, walks = _asked(parts, role), _walking(parts, role)
        if asked or walks:
            step.expect(asked, walks)
        for name, part in parts.items():
            result = part.losses(role, step)
            if result is None:
                continue
            scale = self.weights[name] if role == "student" else 1.0
            # Two parts of one family have terms of one name; the later ones are then named after their part.
            for key, value in result.terms.items():
                terms[f"{name}/{key}" if key in terms else key] = scale * value
            for key, value in result.diagnostics.items():
                diagnostics[f"{name}/{key}" if key in diagnostics else key] = value
        return Losses(terms, diagnostics) if terms else None

    def _begun(self, role: str, step: Step) -> Mapping[str, Objective]:
        """The parts that are trained at this point of the run."""
        if role != "student" or not (self.begins or self.ends):
            return self.parts
        over = step.update / step.total
        return {name: part for name, part in self.parts.items() if self._runs(name, over)}

    def questions(self, role: str) -> list[Question]:
        """What the parts are going to ask."""
        return _asked(self.parts, role)

    def cost(self, role: str) -> Calls:
        """The parts' calls where all of them run, except that a rollout and a walk that several of them look at are
        made once, that a model is asked once about a noised copy, and that a rollout costs nothing where it is one of
        a walk's steps. (It is not of a student that is told where it jumps to, see `walks.Walks`.)"""
        total: dict[str, float] = defaultdict(float)
        rolled = False
        for part in self.parts.values():
            calls = part.cost(role)
            for name, count in calls.items():
                total[name] += count
            if rolls(part, role) and calls.get("student"):
                total["student"] -= rolled
                rolled = True
        if walks := _walking(self.parts, role):
            sizes = {group for group in walks if group}
            total["student"] -= len(walks) - max(1, len(sizes)) + (rolled and not sizes)
        asked = self.questions(role)
        for question in asked:
            total[question.model] -= question.calls
        for question in merged(asked):
            total[question.model] += question.calls
        return {name: count for name, count in total.items() if count}


def _asked(parts: Mapping[str, Objective], role: str) -> list[Question]:
    return [q for part in parts.values() if hasattr(part, "questions") for q in part.questions(role)]


def _walking(parts: Mapping[str, Objective], role: str) -> list[int | None]:
    return [group for part in parts.values() if hasattr(part, "walking") for group in part.walking(role)]


class Untrained(Weighted):
    """No losses and no roles: of recipes that choose or fit how the teacher's own network is sampled."""

    def __init__(self) -> None:
        self.parts: dict[str, Objective] = {}
        self.weights: dict[str, float] = {}
        self.needs: frozenset[str] = frozenset()
        self.roles: dict[str, RoleSpec] = {}
        self.bank, self.rolls_out, self.guidance_range = None, False, None
