"""One text encoder of a diffusers pipeline with its tokenizer, `text_encoder*/` and `tokenizer*/` of the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.configuration import received
from omnidistill.errors import UserError, unknown

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
ENCODERS = (*CLIP, "T5EncoderModel")
LONGEST = 512
"""Tokens, where the tokenizer says nothing sensible."""


def config_of(folder: Path, place: str = "") -> Mapping[str, Any]:
    """What `text_encoder{place}/config.json` says; empty where there is none."""
    file = folder / f"text_encoder{place}" / "config.json"
    config = received.read_json(file) if file.is_file() else {}
    return config if isinstance(config, Mapping) else {}


def name_of(folder: Path, place: str = "") -> str:
    """The class of a text encoder, `none` where there is none."""
    return str(next(iter(config_of(folder, place).get("architectures") or ()), "none"))


def length_of(folder: Path, place: str = "") -> int:
    """Tokens of a caption, filled up or cut: the tokenizer's longest, as far as the encoder has places."""
    file = folder / f"tokenizer{place}" / "tokenizer_config.json"
    said = received.read_json(file) if file.is_file() else {}
    longest = int((said.get("model_max_length") if isinstance(said, Mapping) else None) or 1 << 20)
    places = int(config_of(folder, place).get("max_position_embeddings") or LONGEST)
    return min(longest, places) if longest < 1 << 20 else min(places, LONGEST)


class Encoder:
    """
    Args:
        folder: of the pipeline.
        place: what stands behind `text_encoder`: nothing, `_2`, `_3`.

    Raises:
        UserError: none that is read.
    """

    def __init__(self, folder: Path, place: str = "") -> None:
        self.name, self.length = name_of(folder, place), length_of(folder, place)
        if self.name not in ENCODERS:
            raise unknown(f"text encoder in {folder}", self.name, ENCODERS)
        try:
            import transformers
        except ImportError as error:
            raise UserError("a text encoder needs transformers: pip install 'omnidistill[text]'") from error
        local: dict[str, Any] = {"local_files_only": True}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(folder / f"tokenizer{place}"), **local
            )
            with torch.random.fork_rng(devices=[]):
                made = getattr(transformers, self.name).from_pretrained(
                    str(folder / f"text_encoder{place}"), use_safetensors=True, dtype=torch.float32, **local
                )
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"cannot read the text encoder in {folder} ({' '.join(str(error).split())[:200]})"
            ) from error
        self.model = made.eval().requires_grad_(False)
        if self.tokenizer.pad_token is None:
            raise UserError(f"the tokenizer in {folder} has no token to pad with")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: Tensor = next(self.model.parameters())
        return found.device

    def weights(self) -> dict[str, Tensor]:
        """On the CPU, for a digest."""
        return {key: value.detach().cpu() for key, value in self.model.state_dict().items()}

    def tokens(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Numbers and the mask of real tokens, Long[b n], filled up or cut to a length."""
        options = {"padding": "max_length", "max_length": length or self.length, "truncation": True}
        found = self.tokenizer(list(captions), return_tensors="pt", **options)
        return found.input_ids.to(self.device), found.attention_mask.to(self.device)

    def last(self, captions: Sequence[str], length: int | None = None) -> Tensor:
        """The last states of all places, Float[b n width], padding looked at as well."""
        answer: Tensor = self.model(self.tokens(captions, length)[0])[0]
        return answer

    def before(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of a CLIP with a projection or without: the last states but one, and its first answer."""
        answer = self.model(self.tokens(captions)[0], output_hidden_states=True)
        return answer.hidden_states[-2], answer[0]
