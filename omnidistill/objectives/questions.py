"""What objectives want to know of a model about one noised rollout, so that it is asked once however many they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers.features import DECLARED
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior
from omnidistill.shapes import State
from omnidistill.times import Times, Uniform

REAL = ("data", "teacher")
"""What real samples may be: the batch's data, or the ends of the teacher's trajectories in the bank."""


@dataclass(frozen=True)
class Question:
    """About the rollout noised to a time of `times` (`Step.noised`).

    Attributes:
        model: who is asked.
        times: None takes those at which another objective looks at this model, or all of the path's.
        belief: whether the belief about the noised rollout is wanted.
        features: whether the features of the noised rollout are wanted.
        real: whether those of noised data are wanted too, at times of the same distribution, in the same call.
        drop: share of samples asked without their condition.
        graph: whether a gradient goes to the student through what this model says.
        layers: whose features; see `denoisers.features.tapped`.
        among: what noised data are: `data`, or samples of the `teacher` (the ends of the bank's trajectories).
        paired: these are noised with the rollout's own noise to its own time, not with draws of their own.
    """

    model: str
    times: Times | None
    belief: bool = False
    features: bool = False
    real: bool = False
    drop: float = 0.0
    graph: bool = False
    layers: tuple[str, ...] = DECLARED
    among: str = "data"
    paired: bool = False

    @property
    def calls(self) -> int:
        """Batches asked about: one of noised rollouts, one of noised data."""
        return int(self.belief or self.features) + int(self.real)

    def fits(self, other: Question) -> bool:
        """Whether one call can answer both: about the same copy and contexts, and, where both want data, the same."""
        same = (self.model, self.times, self.drop) == (other.model, other.times, other.drop)
        alike = (self.among, self.paired) == (other.among, other.paired)
        return same and (alike or not (self.real and other.real))

    def joined(self, other: Question) -> Question:
        wanted = [q.layers for q in (self, other) if q.features]
        layers = tuple(dict.fromkeys(name for names in wanted for name in names)) or self.layers
        real = other if other.real and not self.real else self
        return replace(
            self,
            belief=self.belief or other.belief,
            features=self.features or other.features,
            layers=layers,
            real=self.real or other.real,
            among=real.among,
            paired=real.paired,
            graph=self.graph or other.graph,
        )


class Seen(NamedTuple):
    """Noised data that a model was asked about, their times Float64[b] and contexts."""

    x: State
    t: Tensor
    context: Context


class Answer(NamedTuple):
    """About the noised rollout x_t, and about noised data.

    Attributes:
        found: outputs of inner layers by name, of the noised rollout.
        of_data: the same of noised data, and `data` what these were.
        names: the layers that the question meant.
        features, real: their means over positions, one layer after another, Float[b c].
    """

    x_t: State
    t: Float64[Tensor, "b"]
    belief: Posterior | None = None
    found: Mapping[str, Tensor] = {}
    of_data: Mapping[str, Tensor] = {}
    data: Seen | None = None
    names: tuple[str, ...] = ()
    features: Tensor | None = None
    real: Tensor | None = None


def placed(question: Question, others: Iterable[Question]) -> Question:
    """The question with its times: its own, or those at which another one looks at the model."""
    if question.times is not None:
        return question
    for other in others:
        if other.model == question.model and other.times is not None:
            return replace(question, times=other.times, drop=other.drop)
    return replace(question, times=Uniform())


def merged(questions: Iterable[Question]) -> list[Question]:
    """One question for all that are about the same noised copy and the same contexts."""
    given = list(questions)
    found: list[Question] = []
    for question in (placed(q, given) for q in given):
        for i, other in enumerate(found):
            if other.fits(question):
                found[i] = other.joined(question)
                break
        else:
            found.append(question)
    return found


def at_data(path: Path, x_t: Tensor, x0: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """x_t with the data in the sample's place, at the same time with the same noise."""
    if not {"gaussian", "differentiable"} <= path.offers:
        raise UserError(
            f"data in a sample's place, with its noise, need a Gaussian path, got {path}; set data_share=0 and "
            "paired=false"
        )
    alpha, _, _ = path.coefficients(t)  # type: ignore[attr-defined]
    return x_t + per_sample(alpha, x_t, path.time_axis) * (data - x0).to(x_t.dtype)
