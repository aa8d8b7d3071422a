"""A network of diffusers that is told text, with some prompts as its labels: their states are computed once and kept in
it, so that a task with labels needs neither tokenizer nor text encoder; `sample condition="a red shoe"` is a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.configuration import received
from omnidistill.context import Condition
from omnidistill.errors import UserError
from omnidistill.interop.diffusers_network import DiffusersNetwork, call_of
from omnidistill.interop.states import States

NETWORK = "omnidistill.interop.prompts.Prompted"
ENCODERS = ("CLIPTextModel",)
"""Text encoders of which the last hidden states are what the network is told, padded to the end."""


class Prompted(DiffusersNetwork):
    """`network(x, time, label)`: label k means the k-th prompt, the last the empty one, also where none is given.

    Args:
        kind, options: as for `DiffusersNetwork`.
        prompts: the texts, without the empty one.
        words, width: of the states of one.
    """

    states: Tensor

    def __init__(
        self, kind: str, options: Mapping[str, Any], prompts: Sequence[str], words: int, width: int
    ) -> None:
        super().__init__(kind, options)
        self.prompts = tuple(str(prompt) for prompt in prompts)
        self.register_buffer("states", torch.zeros(len(self.prompts) + 1, words, width))

    def forward(self, x: Tensor, time: Tensor, condition: Condition = None) -> Tensor:
        return super().forward(x, time, self.told(condition, len(x)))

    def told(self, condition: Condition, count: int) -> Condition:
        if condition is None:
            condition = torch.full((count,), len(self.prompts), device=self.states.device)
        if not isinstance(condition, Tensor) or condition.is_floating_point():
            raise UserError(f"the network knows {len(self.prompts)} prompts by number; give labels")
        return self.states[condition]

    def example(self, count: int, g: torch.Generator) -> Condition:
        return torch.randint(len(self.prompts), (count,), generator=g)

    def learn(self, folder: Path) -> None:
        """Computes the states by the pipeline's own tokenizer and text encoder."""
        states = States(folder)([*self.prompts, ""])
        assert isinstance(states, Tensor)  # of `ENCODERS`
        with torch.no_grad():
            self.states.copy_(states)


def describe(folder: Path, kind: str, options: Mapping[str, Any], labels: Any) -> dict[str, Any] | None:
    """Options of `Prompted`; None where the network is told no text or no labels are given.

    Raises:
        UserError: labels, and no text encoder that is read.
    """
    if labels is None or call_of(kind).condition == "class_labels":
        return None
    file = folder / "text_encoder" / "config.json"
    config = received.read_json(file) if file.is_file() else {}
    name = next(iter(config.get("architectures") or ()), None) if isinstance(config, Mapping) else None
    told = options.get(call_of(kind).width)
    if name not in ENCODERS or not (folder / "tokenizer").is_dir() or options.get("addition_embed_type"):
        raise UserError(
            f"task.labels as prompts need one text encoder ({', '.join(ENCODERS)}) and its tokenizer beside the model; "
            f"{folder} has {name or 'none'}; compute states yourself: omnidistill.distill(..., condition=states)"
        )
    words, width = config.get("max_position_embeddings", 77), config.get("hidden_size", 512)
    file = folder / "tokenizer" / "tokenizer_config.json"
    longest = received.read_json(file).get("model_max_length") if file.is_file() else None
    words = min(words, int(longest)) if longest else words
    if told != width:
        raise UserError(f"{folder} is told states {told} wide and its text encoder makes {width}")
    return {"_target_": NETWORK, "prompts": [str(label) for label in labels], "words": words, "width": width}
