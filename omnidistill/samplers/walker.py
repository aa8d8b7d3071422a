"""Denoisers whose answers depend on where in a walk they are asked, and on what the walk has come by.

A sampler tells a denoiser when a walk begins (`Denoiser.walk`). A `Walker` around a denoiser answers in its place from
there on: with beliefs of several steps put together, with a teacher's help, under guidance that ends on the way, with a
network that runs in part. Walkers nest, the first that is named being the innermost; each is named with its options in
`student.inference` and saved with the student.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.counter import Counter
from omnidistill.denoisers.guidance import Guided, Null
from omnidistill.errors import NotOffered, UserError
from omnidistill.posteriors import Posterior
from omnidistill.random import PerSample
from omnidistill.samplers.base import Sampler


@dataclass
class Memory:
    """What is remembered from one walk.

    Attributes:
        denoiser: who is inside the walker, on the same walk.
        times: Float64[steps + 1], from the prior's end down to 0.
        g: of whatever is drawn.
        index: the step that is asked about, from 0.
        kept: whatever the walker wants to find again.
    """

    denoiser: Denoiser
    times: Tensor
    g: Any = None
    index: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.times) - 1


class Draw(Protocol):
    """Starts and contexts for a walker to be fitted on."""

    def __call__(self, count: int, g: torch.Generator) -> tuple[Tensor, Context]: ...


@dataclass(frozen=True)
class Settling:
    """What a walker is fitted with once all networks stand.

    Attributes:
        student: the whole of it, in which the walker is.
        sampler: its own.
        steps: what it was trained for.
        teacher: under the run's guidance.
        draw: starts and contexts.
    """

    student: Denoiser
    sampler: Sampler
    steps: int
    teacher: Denoiser
    draw: Draw
    seed: int


class Walker(Denoiser):
    """A denoiser around a denoiser. Subclasses implement `answer`, and are given what is inside by `around`.

    Asked outside of a walk it answers as the one inside.
    """

    learns: bool = False
    """Whether it has parameters that an objective trains; the network inside is frozen then."""

    told: float | None = None
    """The guidance scale that it is told when sampled, where it learns to imitate one."""

    selects: bool = False
    """Whether it does for some samples what it does not for others."""

    wants: frozenset[str] = frozenset()
    """What it works with beside the denoiser: `teacher`; `null`, the label that means "no condition"."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self._counter = Counter()

    def around(self, denoiser: Denoiser, teacher: Denoiser | None = None, null: Null | None = None) -> Walker:
        """This walker with what it works with. The teacher is as it is, without guidance."""
        for name, given in (("teacher", teacher), ("null", null)):
            if name in self.wants and given is None:
                what = "a teacher" if name == "teacher" else "a conditional task with a null label"
                raise NotOffered(f"{type(self).__name__} needs {what}, and there is none")
        self.denoiser, self.path, self.null = denoiser, denoiser.path, null
        self.wants_target, self.wants_guidance = denoiser.wants_target, denoiser.wants_guidance
        self.teacher = teacher if "teacher" in self.wants else None
        return self

    def guided_teacher(self, scale: float) -> Denoiser:
        """The teacher under guidance of this scale; 1 is none."""
        assert self.teacher is not None
        if scale == 1.0:
            return self.teacher
        if self.null is None:
            raise UserError(
                f"guidance {scale:g} of {type(self).__name__} needs a conditional task with a null label; set it to 1"
            )
        return Guided(self.teacher, scale, self.null)

    # --- a walk -----------------------------------------------------------------------------------------------------

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        """The belief at step `memory.index` of a walk."""
        raise NotImplementedError("a Walker implements answer(memory, x_t, t, context, target_time)")

    def end(self, memory: Memory, x0: Tensor, context: Context) -> Tensor:
        """The sample, at the end of a walk that came to x0."""
        return x0

    def settle(self, by: Settling) -> None:
        """Finds what has a closed form, once all networks stand."""

    def learned(self) -> dict[str, Tensor]:
        """Its own parameters and buffers, by name: what is saved with the student."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(("denoiser.", "teacher."))
        }

    # --- a denoiser ---------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> float:
        """Of everybody that is asked."""
        return innermost(self).calls + self._teachers_calls()

    @calls.setter
    def calls(self, value: float) -> None:
        innermost(self).calls = value - self._teachers_calls()

    def _teachers_calls(self) -> float:
        teachers = {id(each.teacher): each.teacher for each in walkers(self)}
        return sum(teacher.calls for teacher in teachers.values() if teacher is not None)

    def count(self, number: float = 1) -> None:
        """Nothing: who is asked counts."""

    @property
    def varies(self) -> bool:  # type: ignore[override]
        """Where it, or one inside, does for some samples what it does not for others."""
        return self.selects or self.denoiser.varies

    def nodes(self, steps: int) -> Tensor | None:
        return self.denoiser.nodes(steps)

    def walk(self, times: Tensor, g: Any = None) -> Denoiser:
        return _Walk(self, Memory(self.denoiser.walk(times, g), times, g))

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        return self.denoiser(x_t, t, context, target_time=target_time)


class _Walk(Denoiser):
    """A walker on one walk."""

    def __init__(self, walker: Walker, memory: Memory) -> None:
        super().__init__(walker.path)
        self._walker, self.memory = [walker], memory  # not as a submodule: it belongs to whoever walks
        self.wants_target, self.wants_guidance = walker.wants_target, walker.wants_guidance

    @property
    def calls(self) -> float:
        return self._walker[0].calls

    @calls.setter
    def calls(self, value: float) -> None:
        self._walker[0].calls = value

    def count(self, number: float = 1) -> None:
        self._walker[0].count(number)

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        t = torch.as_tensor(t, dtype=torch.float64, device=x_t.device)
        found = self._walker[0].answer(self.memory, x_t, t, context, target_time)
        self.memory.index += 1
        return found

    def arrive(self, x0: Tensor, context: Context) -> Tensor:
        inside = self.memory.denoiser.arrive(x0, context)
        return self._walker[0].end(self.memory, inside, context)


def ask(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
) -> Posterior:
    """The belief of one that may or may not want to know where it jumps to."""
    return denoiser(x_t, t, context, target_time=target_time if denoiser.wants_target else None)


def chosen(g: Any, which: Tensor) -> Any:
    """The generator for some of the samples."""
    return PerSample([g.generators[i] for i in which.tolist()]) if isinstance(g, PerSample) else g


def innermost(denoiser: Denoiser) -> Denoiser:
    """The denoiser inside everything that lies around it."""
    while isinstance(inner := getattr(denoiser, "denoiser", None), Denoiser):
        denoiser = inner
    return denoiser


def walkers(denoiser: Denoiser) -> list[Walker]:
    """Those around a denoiser, the innermost first."""
    found: list[Walker] = []
    while isinstance(inner := getattr(denoiser, "denoiser", None), Denoiser):
        if isinstance(denoiser, Walker):
            found.insert(0, denoiser)
        denoiser = inner
    return found
