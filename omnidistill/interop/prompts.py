"""A network of diffusers that is told text, with some prompts as its labels: what it is told of them is computed once
and kept in it, so a task with labels needs neither tokenizer nor text encoder; `sample condition="a red shoe"` is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Condition
from omnidistill.errors import UserError
from omnidistill.interop.diffusers_network import DiffusersNetwork, call_of
from omnidistill.interop.states import STATES, States, join_of

NETWORK = "omnidistill.interop.prompts.Prompted"


class Prompted(DiffusersNetwork):
    """`network(x, time, label)`: label k means the k-th prompt, the last none, also where no label is given.

    Args:
        kind, options: as for `DiffusersNetwork`.
        prompts: the texts.
        words, width: of the states of one, where these are all that the network is told.
        shapes: of all that it is told of one, by the names of its `forward`, where there is more.
        shape: of a sample, of which a network may be told sizes or seconds.
    """

    def __init__(
        self,
        kind: str,
        options: Mapping[str, Any],
        prompts: Sequence[str],
        words: int = 0,
        width: int = 0,
        shapes: Mapping[str, Sequence[int]] | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(kind, options)
        self.prompts = tuple(str(prompt) for prompt in prompts)
        self.shape = shape
        self.shapes = {STATES: (words, width)} if shapes is None else {k: tuple(v) for k, v in shapes.items()}
        for name, sizes in self.shapes.items():
            self.register_buffer(_buffer(name), torch.zeros(len(self.prompts) + 1, *sizes))

    def forward(self, x: Tensor, time: Tensor, condition: Condition = None) -> Tensor:
        return super().forward(x, time, self.told(condition, len(x)))

    def told(self, condition: Condition, count: int) -> Condition:
        kept = {name: self.get_buffer(_buffer(name)) for name in self.shapes}
        if condition is None:
            condition = torch.full((count,), len(self.prompts), device=kept[STATES].device)
        if not isinstance(condition, Tensor) or condition.is_floating_point():
            raise UserError(f"the network knows {len(self.prompts)} prompts by number; give labels")
        found = {name: value[condition] for name, value in kept.items()}
        return found[STATES] if len(found) == 1 else found

    def example(self, count: int, g: torch.Generator) -> Condition:
        return torch.randint(len(self.prompts), (count,), generator=g)

    def learn(self, folder: Path) -> None:
        """Computes what is told by the pipeline's own tokenizers and text encoders."""
        states = States(folder, self.shape)
        for rows, told in ((slice(-1), states(self.prompts)), (slice(-1, None), states.null())):
            named = told if isinstance(told, Mapping) else {STATES: told}
            for name, value in named.items():
                assert isinstance(value, Tensor)
                with torch.no_grad():
                    self.get_buffer(_buffer(name))[rows].copy_(value)


def _buffer(name: str) -> str:
    return "states" if name == STATES else f"states_{name}"


def describe(
    folder: Path, kind: str, options: Mapping[str, Any], labels: Any, shape: Sequence[int]
) -> dict[str, Any] | None:
    """Options of `Prompted`; None where the network is told no text or no labels are given.

    Raises:
        UserError: labels, and no text encoders that are read.
    """
    call = call_of(kind)
    if labels is None or call.condition == "class_labels":
        return None
    try:
        shapes = join_of(folder).shapes(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: a configuration of its text encoders lacks {error}") from error
    width, told = shapes[STATES][-1], options.get(call.width) or options.get("cross_attention_dim")
    if told != width:
        raise UserError(f"{folder} is told states {told} wide and its text encoder makes {width}")
    prompts = {"_target_": NETWORK, "prompts": [str(label) for label in labels]}
    if len(shapes) == 1:
        return {**prompts, "words": shapes[STATES][0], "width": width}
    return {**prompts, "shapes": {name: list(sizes) for name, sizes in shapes.items()}, "shape": list(shape)}
