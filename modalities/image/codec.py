"""Between pictures and the space in which they are generated: pixels as they are, or an autoencoder's latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.modalities.image.autoencoder import TinyAutoencoder
from omnidistill.modalities.image.data import ASSETS
from omnidistill.training.safetensors_file import digest, load_strictly, read_safetensors

SHIPPED = ASSETS / "autoencoder"
GROUP = 250  # pictures a call: the activations stay in the cache
Function = Callable[[Tensor], Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"  # as diffusers calls them


class Pixels:
    """The identity: samples are pictures in [-1, 1]."""

    def __init__(self, picture: tuple[int, ...]) -> None:
        self.shape = picture

    def encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class Latents:
    """`x0 = scaling_factor (encode(picture) - shift_factor)`, of about unit variance (Rombach et al. 2022, section
    D.1), and back.

    Args:
        folder: as diffusers' `save_pretrained` writes it, with an AutoencoderTiny or an AutoencoderKL of as many
            channels as the pictures have. An AutoencoderTiny needs no diffusers to be read; of an AutoencoderKL's
            posterior the mode is taken.
        picture: the shape of one picture.

    Raises:
        UserError: no autoencoder in `folder`, one of another class, or one that does not fit the pictures.
    """

    def __init__(self, folder: str | Path, picture: tuple[int, ...]) -> None:
        self.folder = Path(folder)
        self.config = _read_config(self.folder)
        given = self.config.get("in_channels")
        if given != picture[0]:
            raise UserError(
                f"the autoencoder in {folder} reads {given} channels, pictures here have {picture[0]}"
            )
        self.scale = float(self.config.get("scaling_factor") or 1.0)
        self.shift = float(self.config.get("shift_factor") or 0.0)
        self.network, self.encoder, self.decoder = _load(self.folder, self.config)
        self.digest = digest(
            self.network.state_dict(), {"scale": repr(self.scale), "shift": repr(self.shift)}
        )
        blank = torch.zeros(1, *picture)
        self.shape = tuple(self.encode(blank).shape[1:])
        back = tuple(self.decode(torch.zeros(1, *self.shape)).shape[1:])
        if back != picture:
            raise UserError(
                f"the autoencoder in {folder} makes {back} of pictures of {picture}: their sides do not divide"
            )

    @torch.no_grad()
    def encode(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Pictures in [-1, 1] -> what is generated, of this codec's shape."""
        return (self._through(self.encoder, pictures) - self.shift) * self.scale

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Pictures, in [-1, 1] but for a little overshoot; with the graph of x0, for rewards of what is decoded."""
        return self._through(self.decoder, x0 / self.scale + self.shift)

    def _through(self, function: Function, x: Tensor) -> Tensor:
        # In float32 under autocast too: decoding is cheap, and figures should not depend on a run's precision. Rewards
        # come with samples of the run's device, evaluation with its own on the CPU: the network goes where they are.
        self.network.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            layout = torch.channels_last
            return torch.cat(
                [function(part.float().contiguous(memory_format=layout)) for part in x.split(GROUP)]
            )


class Encoded:
    """The latents of a fixed set of pictures, each made when it is first asked for.

    They are made in groups of one size, filled up where fewer are missing, so that a latent is the same number
    whatever was asked before: a resumed run sees what an uninterrupted one saw.
    """

    def __init__(self, codec: Pixels | Latents, pictures: Tensor, group: int = 64) -> None:
        self.codec, self.pictures, self.group = codec, pictures, group
        self.kept = torch.empty(len(pictures), *codec.shape) if isinstance(codec, Latents) else pictures
        self.known = torch.full((len(pictures),), not isinstance(codec, Latents))

    def __getitem__(self, rows: Tensor) -> Tensor:
        missing = rows[~self.known[rows]].unique()
        for start in range(0, len(missing), self.group):
            part = missing[start : start + self.group]
            filled = part.repeat(-(-self.group // len(part)))[: self.group]
            self.kept[part] = self.codec.encode(self.pictures[filled])[: len(part)]
            self.known[part] = True
        return self.kept[rows]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return dict(config)
    except OSError as error:
        raise UserError(
            f"no autoencoder in {folder}: cannot read config.json ({error.strerror}); give a folder written by "
            "diffusers' save_pretrained"
        ) from error
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not a configuration: {error}") from error


def _load(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, Function, Function]:
    """An autoencoder, and what of it encodes pictures and decodes raw latents."""
    kind = config.get("_class_name")
    if kind == "AutoencoderTiny":
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights from the global generator
            tiny = TinyAutoencoder.of(config)
        load_strictly(tiny, read_safetensors(folder / WEIGHTS)[0], folder / WEIGHTS)
        tiny.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return tiny, tiny.encode, tiny.decode
    if kind != "AutoencoderKL":
        raise UserError(f"the autoencoder in {folder} is a {kind}; possible: AutoencoderTiny, AutoencoderKL")
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError("an AutoencoderKL needs diffusers: pip install 'omnidistill[diffusers]'") from error
    with torch.random.fork_rng(devices=[]):
        try:
            large = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot read the autoencoder in {folder}: {' '.join(str(error).split())}"
            ) from error
    large.eval().requires_grad_(False)

    def encode(pictures: Tensor) -> Tensor:
        return large.encode(pictures).latent_dist.mode()

    def decode(latents: Tensor) -> Tensor:
        return large.decode(latents).sample

    return large, encode, decode
