"""Between waves and the latents in which Stable Audio generates them (Evans et al. 2024)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import digest

KIND = "AutoencoderOobleck"
GROUP = 8  # waves a call: activations of 40 seconds are large


class WaveLatents:
    """The mode of the posterior, and back.

    Args:
        folder: as diffusers' `save_pretrained` writes an AutoencoderOobleck.

    Attributes:
        hop: samples of a wave that are one latent.
        rate: of the wave, Hz.
        channels: of the wave.

    Raises:
        UserError: no such autoencoder there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            kind = config.get("_class_name")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"no autoencoder in {folder}: cannot read its config.json") from error
        if kind != KIND:
            raise UserError(f"the autoencoder in {folder} is a {kind}; possible: {KIND}")
        try:
            from diffusers import AutoencoderOobleck
        except ImportError as error:
            raise UserError(f"an {KIND} needs diffusers: pip install 'omnidistill[diffusers]'") from error
        with torch.random.fork_rng(devices=[]):
            try:
                made = AutoencoderOobleck.from_pretrained(
                    str(self.folder), use_safetensors=True, local_files_only=True
                )
            except Exception as error:  # the library raises nothing narrower
                raise UserError(
                    f"cannot read the autoencoder in {folder} ({' '.join(str(error).split())[:200]})"
                ) from error
        self.model = made.eval().requires_grad_(False)
        self.hop = math.prod(made.config.downsampling_ratios)
        self.rate, self.channels = int(made.config.sampling_rate), int(made.config.audio_channels)
        self.latents = int(made.config.decoder_input_channels)
        self.digest = digest({key: value.cpu() for key, value in made.state_dict().items()}, {})

    @torch.no_grad()
    def encode(self, waves: Float[Tensor, "b c n"]) -> Float[Tensor, "b l m"]:
        """Waves of a multiple of `hop` samples."""
        with torch.autocast(waves.device.type, enabled=False):
            parts = [self.model.encode(part.float()).latent_dist.mode() for part in waves.split(GROUP)]
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "b l m"]) -> Float[Tensor, "b c n"]:
        """Waves, 1 being full scale."""
        with torch.autocast(x0.device.type, enabled=False):
            return torch.cat([self.model.decode(part.float()).sample for part in x0.split(GROUP)])
