"""The layers of diffusers' AutoencoderTiny under the same names, so that the shipped one needs no diffusers to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.errors import UserError


class TinyAutoencoder(nn.Module):
    """An encoder and a decoder of residual blocks without norms, each stage halving or doubling the side; the network
    known as TAESD. Reads what `AutoencoderTiny.save_pretrained` wrote.

    Args:
        channels: of the pictures, in and out.
        latents: channels of a latent.
        width: channels of every stage.
        down, up: residual blocks a stage of the encoder and of the decoder, in the order they are run.
        activation: inside the blocks; what leaves a block went through a ReLU.
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        width: int,
        down: Sequence[int],
        up: Sequence[int],
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        encoder: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for stage, blocks in enumerate(down):
            if stage:
                encoder.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            encoder += [Block(width, activation) for _ in range(blocks)]
        encoder.append(nn.Conv2d(width, latents, 3, padding=1))
        decoder: list[nn.Module] = [nn.Conv2d(latents, width, 3, padding=1), activation()]
        for stage, blocks in enumerate(up):
            decoder += [Block(width, activation) for _ in range(blocks)]
            if stage < len(up) - 1:
                decoder += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        decoder.append(nn.Conv2d(width, channels, 3, padding=1))
        self.encoder, self.decoder = Layers(encoder), Layers(decoder)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TinyAutoencoder:
        """The network of a config.json that diffusers wrote."""
        try:
            width = config["encoder_block_out_channels"][0]
            widths = {*config["encoder_block_out_channels"], *config["decoder_block_out_channels"]}
            activation, upsampling = config.get("act_fn", "relu"), config.get("upsample_fn", "nearest")
            if widths != {width} or activation not in ACTIVATIONS or upsampling != "nearest":
                raise UserError(
                    "an AutoencoderTiny here has one width, relu, silu or gelu, and nearest upsampling; got "
                    f"widths {sorted(widths)}, {activation}, {upsampling}"
                )
            if config["in_channels"] != config["out_channels"]:
                raise UserError(
                    f"an autoencoder of {config['in_channels']} channels answers {config['out_channels']}"
                )
            return cls(
                config["in_channels"],
                config["latent_channels"],
                width,
                config["num_encoder_blocks"],
                config["num_decoder_blocks"],
                ACTIVATIONS[activation],
            )
        except KeyError as error:
            raise UserError(f"the configuration of an AutoencoderTiny has no {error}") from error

    def encode(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b latents _ _"]:
        """Pictures in [-1, 1] -> raw latents."""
        return self.encoder.layers((pictures + 1.0) / 2.0)

    def decode(self, latents: Float[Tensor, "b latents h w"]) -> Float[Tensor, "b c _ _"]:
        """Raw latents -> pictures, about [-1, 1]. A latent is first squashed to `3 tanh(z / 3)`."""
        return 2.0 * self.decoder.layers(3.0 * torch.tanh(latents / 3.0)) - 1.0


class Block(nn.Module):
    """relu(x + three convolutions with activations between them)."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, activation(), second, activation(), third)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class Layers(nn.Module):
    """Gives the parameters the names they have there: `encoder.layers.0.weight`."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
