"""The contract of an objective: the losses it has, the models it needs, what it asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.samplers import FewStep

if TYPE_CHECKING:
    from omnidistill.objectives.step import Step

Calls = Mapping[str, float]
"""Network calls per update of a role, by the name of the model called, as the paper counts them; where an objective has
rounds that differ, their mean."""


def branches(scale: float | None) -> int:
    """Calls of one question under guidance of this scale; None: one that is drawn for each sample."""
    return 1 if scale in (0.0, 1.0) else 2


class Losses(NamedTuple):
    """Named scalars to be weighted and summed by somebody else, and detached diagnostics to be logged.

    A diagnostic is a mean over the samples; or, if it is one over some of them, [2]: their sum and their number.
    """

    terms: Mapping[str, Tensor]
    diagnostics: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class RoleSpec:
    """A model that an objective needs beside the student and the teacher. None means "as another objective says".

    Attributes:
        start: what it is a copy of: `teacher` (a trainable copy of the teacher's network), `student`, or any other
            teacher or role by name; `random`, the teacher's network with weights drawn anew.
        updates: optimiser updates per student update (k : 1).
        lr: learning rate as a multiple of the student's.
        average: this model is an exponential moving average of the student with this decay, and is not trained.
        follow: after each update of the student this trained model moves by this share towards it (implicit
            distribution alignment; Ge et al. 2025, SenseFlow, arXiv:2506.00523).
        refresh: this model is replaced by the student this many times, evenly over the run, and is not trained.
        modules: further modules trained in this role (discriminator heads), by the name of the model they become. The
            role `student` may have some too (a learned weight of the time).
        frozen: the model stays as it starts, and of this role its `modules` alone are trained.
        copies: this model takes the weights of that role (or of the student's average, `ema`), once, when the share
            `at` of the run is over, and is not trained.
        since, until: shares of the run between which the role is trained; before and after it rests.
        redrawn: a frozen model of `start: random` has new weights in each update of the student.
        adapter: this role is a low-rank adapter over the frozen network that it starts from: `{rank, alpha, targets}`.
    """

    start: str | None = None
    updates: int | None = None
    lr: float | None = None
    average: float | None = None
    refresh: int | None = None
    follow: float | None = None
    modules: Mapping[str, Callable[[Denoiser], nn.Module]] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    frozen: bool | None = None
    redrawn: bool | None = None
    copies: str | None = None
    at: float | None = None
    since: float | None = None
    until: float | None = None

    @property
    def trained(self) -> bool:
        """Whether an optimiser moves it or its modules, rather than an average or a replacement."""
        moved = bool(self.modules) or not self.frozen
        return self.average is None and self.refresh is None and self.copies is None and moved

    def rests(self, over: float) -> bool:
        """Whether it is not trained at this point of the run, a share of it."""
        return not (self.since or 0.0) <= over < (2.0 if self.until is None else self.until)

    def merged(self, other: RoleSpec, name: str) -> RoleSpec:
        """One role declared by two objectives; an error where they disagree."""
        values: dict[str, Any] = {}
        for key in (f.name for f in fields(self) if f.name != "modules"):
            mine, theirs = getattr(self, key), getattr(other, key)
            if mine is not None and theirs is not None and mine != theirs:
                raise UserError(
                    f"two objectives disagree on {name}.{key}: {mine} and {theirs}; give both one value"
                )
            values[key] = theirs if mine is None else mine
        both = RoleSpec(**values, modules={**self.modules, **other.modules})
        if not both.trained and (both.updates is not None or both.modules):
            raise UserError(
                f"one objective trains {name} and another keeps it as it is; choose one, e.g. critic: fake_score"
            )
        return both


@dataclass(frozen=True)
class BankSpec:
    """Teacher trajectories computed before training: `size` of them with `steps` sampler steps.

    `states` says whether to keep all states of a trajectory or its two ends (noise and sample) alone. `controlled`:
    they are made without a condition, and each has the one that the task reads off its sample (`Task.control`).
    `guidance` (low, high): each is made under a scale of its own from this range, which its context has; None: all
    under the run's.
    """

    size: int
    steps: int
    states: bool = False
    controlled: bool = False
    guidance: tuple[float, float] | None = None


def rolls(objective: Objective, role: str) -> bool:
    """Whether an objective looks at the rollout of a step of this role."""
    where = objective.rolls_out
    return where if isinstance(where, bool) else role in where


class Objective(Protocol):
    """A family of losses.

    Attributes:
        roles: the models it needs beside student and teacher.
        needs: what it asks of path and task: members of `Path.offers`, and `data` (clean samples), `condition`.
        bank: teacher trajectories it reads from `step.bank`, or None.
        rolls_out: whether it looks at `step.rollout`, which is made once however many objectives do, or in which roles.
        guidance_range: the range (low, high) of guidance scales that it wants drawn, one per sample and step, for the
            teacher to use and the student to be told; None (also where it is not declared) leaves them undrawn.
    """

    @property
    def roles(self) -> Mapping[str, RoleSpec]: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def bank(self) -> BankSpec | None: ...
    @property
    def rolls_out(self) -> bool | frozenset[str]: ...
    @property
    def guidance_range(self) -> tuple[float, float] | None: ...

    def losses(self, role: str, step: Step) -> Losses | None:
        """This objective's losses for an update of `role`, or None where it has none. The student's terms are
        scaled by the objective's weight in a recipe; those of other roles are not."""
        ...

    def cost(self, role: str) -> Calls:
        """Network calls of one update of `role` where the student has one step. A walk to one of N steps, drawn evenly,
        makes (N - 1) / 2 calls more on average, and a loss on every step of it costs N times as much."""
        ...

    # Methods and more that an objective may have beside:
    # `phases: int`: in how many rounds of one length it asks others; `cost` is then the mean over them.
    # `questions(role) -> list[Question]`: what `losses` is going to ask by `step.answer`, so that objectives added by
    # weight ask together; who has no such method asks for itself.
    # `walking(role) -> list[int | None]`: in groups of which sizes it is going to ask `step.walk`, None for any, so
    # that they walk together.
    # `advice(path) -> str`: what to do on a path that lacks what `needs` asks for.


INPUTS = ("simulated", "data", "mixed", "jumps", "whole", "translated")


@dataclass(frozen=True)
class StudentSpec:
    """How the student is asked: with how many steps, by which sampler, from which inputs during training.

    Attributes:
        steps: the step count it is trained for; objectives that roll the student out draw one of these steps.
        sampler: how it goes from one step to the next.
        inputs: `simulated` (its own earlier steps, the default), `data` (real data noised), `mixed`, one of both for
            each update, `jumps`: three jumps to, over and from the step, all with a graph (`FewStep.three_jumps`),
            `whole`: all of its steps, with a graph through them, or `translated`: as `simulated`, from data of another
            label in the place of noise (`samplers.translation`).
        walks: numbers of steps, of which one is drawn for each update in place of `steps`.
    """

    steps: int = 1
    sampler: FewStep = field(default_factory=FewStep)
    inputs: str = "simulated"
    walks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise unknown("student.inputs", self.inputs, INPUTS)
        if any(count < 1 for count in self.walks):
            raise UserError(f"student.walks are numbers of steps from 1 on, got {list(self.walks)}")
        if self.inputs == "jumps" and self.sampler.transition != "ode":
            raise UserError(
                "student.inputs=jumps goes along one trajectory, which student.transition="
                f"{self.sampler.transition} leaves; use student.transition=ode"
            )
        if self.walks and self.sampler.listed is not None:
            raise UserError("student.walks needs times for any number of steps; leave student.times out")

    @property
    def calls(self) -> int:
        """Network calls with a graph in one rollout, whatever its number of steps; `Objective.cost` declares one."""
        return 3 if self.inputs == "jumps" else 1

    @property
    def grows(self) -> bool:
        """Whether its states have not all one size (`samplers.growing`)."""
        counts = self.walks or (self.steps,)
        return any(set(self.sampler.shares(steps)) != {1.0} for steps in counts)

    @property
    def several(self) -> bool:
        """Whether it is trained for more than one step."""
        return max(self.walks or (self.steps,)) > 1
