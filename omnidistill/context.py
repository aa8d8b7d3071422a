"""What is known besides the state: the condition, the anchor, which elements are real, how strongly to guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from omnidistill.shapes import Mask, PerSample, State

Condition = Tensor | Mapping[str, Tensor] | None

LABEL = "label"
"""The entry of a mapping that is its class label: what guidance empties. What else it holds (a camera) stays."""


def labels_of(condition: Condition) -> Tensor | None:
    """The class labels in a condition, Long[b]: itself, or its entry `label`; None where it has none."""
    found = condition.get(LABEL) if isinstance(condition, Mapping) else condition
    whole = isinstance(found, Tensor) and found.ndim == 1 and not found.is_floating_point()
    return found if whole else None


def relabelled(condition: Condition, labels: Tensor) -> Condition:
    """The condition with these labels in place of its own."""
    return {**condition, LABEL: labels} if isinstance(condition, Mapping) else labels


def _apply(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: _apply(item, function) for key, item in value.items()}
    return value if value is None else function(value)


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a denoiser may look at and a path may lean on. Every field is batched along its first axis.

    Attributes:
        condition: what the network is told (class labels, text features, a mapping of tensors); guidance drops it.
        anchor: the y of `x_t = alpha x0 + beta y + sigma eps`, shaped like x0; for tokens the ones that are given,
            with the mask where a token is to be found (infilling). None where there is none.
        mask: True where an element is real, False where it pads a shorter sample; broadcasts against the state.
        guidance: the guidance scale a student was told to imitate; None for the usual scale.
        reference: the truth that belongs to this context, where there is one (the clean recording of a noisy one);
            metrics and pictures look at it, networks and paths never do.
    """

    condition: Condition = None
    anchor: State | None = None
    mask: Mask | None = None
    guidance: PerSample | None = None
    reference: Shaped[Tensor, "b *truth"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Context:
        """The same context with `function` applied to every tensor in it."""
        return Context(**{f.name: _apply(getattr(self, f.name), function) for f in fields(self)})

    def to(self, device: torch.device | str) -> Context:
        """On this device."""
        return self.map(lambda tensor: tensor.to(device))

    def __getitem__(self, index: slice | Tensor) -> Context:
        return self.map(lambda tensor: tensor[index])

    def joined(self, other: Context) -> Context:
        """This context's samples followed by the other's: one batch for two questions."""

        def join(a: Any, b: Any) -> Any:
            if isinstance(a, Mapping):
                return {key: join(a[key], b[key]) for key in a}
            return None if a is None else torch.cat((a, b))

        return Context(**{f.name: join(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})

    def with_condition(self, condition: Condition) -> Context:
        """The same under another condition."""
        return replace(self, condition=condition)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean samples and what is known about them. `x0` is None for a data-free task: only contexts are drawn."""

    x0: State | None
    context: Context = field(default_factory=Context)
    count: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x0 is not None:
            object.__setattr__(self, "count", self.x0.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """On this device, whatever the task put into `extra` too."""
        x0 = None if self.x0 is None else self.x0.to(device)
        return Batch(
            x0, self.context.to(device), self.count, {k: v.to(device) for k, v in self.extra.items()}
        )
