"""What objectives want to know of a model about one noised rollout, so that it is asked once however many they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.posteriors import Posterior
from omnidistill.shapes import State
from omnidistill.times import Times, Uniform


@dataclass(frozen=True)
class Question:
    """About the rollout noised to a time of `times` (`Step.noised`).

    Attributes:
        model: who is asked.
        times: None takes those at which another objective looks at this model, or all of the path's.
        belief: whether the belief about the noised rollout is wanted.
        features: whether the pooled features of the noised rollout are wanted.
        real: whether those of noised data are wanted too, at times of the same distribution, in the same call.
        drop: share of samples asked without their condition.
        graph: whether a gradient goes to the student through what this model says.
    """

    model: str
    times: Times | None
    belief: bool = False
    features: bool = False
    real: bool = False
    drop: float = 0.0
    graph: bool = False

    @property
    def calls(self) -> int:
        """Batches asked about: one of noised rollouts, one of noised data."""
        return int(self.belief or self.features) + int(self.real)

    def joined(self, other: Question) -> Question:
        return replace(
            self,
            belief=self.belief or other.belief,
            features=self.features or other.features,
            real=self.real or other.real,
            graph=self.graph or other.graph,
        )


class Answer(NamedTuple):
    """`features` and `real`: of the noised rollout x_t and of noised data."""

    x_t: State
    t: Float64[Tensor, "b"]
    belief: Posterior | None
    features: Float[Tensor, "b c"] | None
    real: Float[Tensor, "real c"] | None


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
    found: dict[tuple[str, Times | None, float], Question] = {}
    for question in (placed(q, given) for q in given):
        key = question.model, question.times, question.drop
        found[key] = found[key].joined(question) if key in found else question
    return list(found.values())
