"""Inner features as outputs. A network that declares `returns_features = True` takes two more keywords:

    features: Sequence[str], names of layers; it then returns `(answer, {name: the layer's output})`
    answered: int, how many of the batch's first samples are answered: the others stop at the last of these layers, all
        of them for 0, where the answer is None

Outputs, not hooks: what shards or compiles a network keeps outputs and loses hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from omnidistill.errors import unknown

Found = tuple[Tensor | None, dict[str, Tensor]]
"""What a network that was asked for features says: its answer, as for `Answer`, and the layers' outputs."""

Answer = Tensor | Found


class Asked:
    """What one call was asked for, and what was found so far."""

    def __init__(self, features: Sequence[str] | None, answered: int | None = None) -> None:
        self.names = () if features is None else tuple(features)
        self.answered = answered if self.names else None
        self.found: dict[str, Tensor] = {}
        self.passed: list[str] = []

    def note(self, name: str, value: Tensor) -> slice | None:
        """Takes note of a layer's output. After the last one asked for: the samples to go on with; None: all."""
        self.passed.append(name)
        if name not in self.names:
            return None
        self.found[name] = value
        last = len(self.found) == len(set(self.names))
        return slice(0, self.answered) if last and self.answered is not None else None

    @property
    def complete(self) -> bool:
        """Whether every layer asked for has been passed, of some that were."""
        return bool(self.names) and len(self.found) == len(set(self.names))

    def result(self, answer: Tensor | None) -> Answer:
        """The answer, with the features where some were asked for."""
        if not self.names:
            assert answer is not None
            return answer
        if missing := [name for name in self.names if name not in self.found]:
            raise unknown("layer", missing[0], self.passed)
        return answer, self.found


def stacked(place: str, depth: int) -> dict[str, list[str]]:
    """The parts of a stack of residual blocks that may be reused from step to step (`samplers.reuse`): `blocks`, all of
    them; `deep`, all but the first and the last; `encoder`, the first half."""
    names = [f"{place}.{i}" for i in range(depth)]
    return {"blocks": names, "deep": names[1:-1] or names[1:], "encoder": names[: depth // 2]}


def rows(which: slice, value: Any) -> Any:
    """These samples of a tensor, of every tensor of a list, of nothing."""
    if isinstance(value, list):
        return [rows(which, item) for item in value]
    return None if value is None else value[which]


def inside(features: Sequence[str] | None, part: str) -> list[str] | None:
    """Names of a network's layers as its submodule `part` knows them."""
    return None if features is None else [name.removeprefix(f"{part}.") for name in features]


def parted(answer: Answer, part: str) -> tuple[Tensor | None, dict[str, Tensor]]:
    """A submodule's answer, and its features by the names that the whole network gives them."""
    if isinstance(answer, Tensor):
        return answer, {}
    return answer[0], {f"{part}.{name}": value for name, value in answer[1].items()}
