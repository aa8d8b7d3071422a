"""Text encoders of a diffusers pipeline: captions in, the states out that its network takes as a condition.

What is read is what pipelines of one encoder call: that of Stable Diffusion 1 and 2 (CLIP: the last hidden states of
all places) and of PixArt (T5: states, and the mask of real tokens). Several encoders are joined in ways of their
own, for a function of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.configuration import received
from omnidistill.context import Condition
from omnidistill.errors import UserError, unknown
from omnidistill.training.safetensors_file import digest

ENCODERS = ("CLIPTextModel", "T5EncoderModel")
MASKED = ("T5EncoderModel",)
LONGEST = 512
"""Tokens, where the tokenizer says nothing sensible."""


def has_states(folder: Path) -> bool:
    """Whether a pipeline's folder has a text encoder."""
    return (folder / "text_encoder" / "config.json").is_file()


class States:
    """The text encoder and the tokenizer in a pipeline's folder.

    Raises:
        UserError: none that is read, or several.
    """

    def __init__(self, folder: Path) -> None:
        if has_states(folder) and (folder / "text_encoder_2").is_dir():
            raise UserError(
                f"{folder} has two text encoders, which its pipeline joins in a way of its own; give a function, "
                "encoder=package.module:function"
            )
        config = received.read_json(folder / "text_encoder" / "config.json")
        name = (config.get("architectures") or ["?"])[0] if isinstance(config, dict) else "?"
        if name not in ENCODERS:
            raise unknown(f"text encoder in {folder}", name, ENCODERS)
        try:
            import transformers
        except ImportError as error:
            raise UserError("a text encoder needs transformers: pip install 'omnidistill[text]'") from error
        local: dict[str, Any] = {"local_files_only": True}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / "tokenizer"), **local)
            with torch.random.fork_rng(devices=[]):
                made = getattr(transformers, name).from_pretrained(
                    str(folder / "text_encoder"), use_safetensors=True, dtype=torch.float32, **local
                )
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"cannot read the text encoder in {folder} ({' '.join(str(error).split())[:200]})"
            ) from error
        self.model = made.eval().requires_grad_(False)
        self.masked = name in MASKED
        longest = int(self.tokenizer.model_max_length)
        places = getattr(made.config, "max_position_embeddings", None) or LONGEST
        self.length = min(longest, places) if longest < 1 << 20 else min(places, LONGEST)
        if self.tokenizer.pad_token is None:
            raise UserError(f"the tokenizer in {folder} has no token to pad with")
        weights = {key: value.detach().cpu() for key, value in made.state_dict().items()}
        self.digest = digest(weights, {"length": str(self.length)})

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Condition:
        """Float[b n width]; with the mask of real tokens where the encoder is one of T5."""
        options = {"padding": "max_length", "max_length": self.length, "truncation": True}
        found = self.tokenizer(list(captions), return_tensors="pt", **options)
        looked: Tensor | None = found.attention_mask
        if not self.masked and not getattr(self.model.config, "use_attention_mask", False):
            looked = None
        device = next(self.model.parameters()).device
        mask = None if looked is None else looked.to(device)
        states: Tensor = self.model(found.input_ids.to(device), attention_mask=mask)[0]
        if not self.masked:
            return states
        return {"encoder_hidden_states": states, "encoder_attention_mask": found.attention_mask.to(device)}
