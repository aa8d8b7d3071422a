"""The enhancement network: the shared U-Net, told which noisy recording it is asked about and at which frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnidistill.networks.unet import UNet

FREQUENCY_WAVES = 2  # cosines of the frequency axis beside the linear ramp


class EnhancementUNet(UNet):
    """`UNet` on `x: Float[b 2 f t]` beside the anchor (the noisy spectrogram) and fixed maps of frequency.

    A convolution sees the same pattern at every height, but a spectrogram's rows differ: low ones hold pitch, high ones
    sibilants. A ramp and cosines along the frequency axis say where it is.

    Args:
        channels, unshuffle, blocks, heads: as `UNet`'s; unshuffle packs (frequencies, frames).
        anchor_scale: divides the anchor, so that it comes in with about the spread of the state.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 64, 96, 96),
        unshuffle: int | Sequence[int] = (8, 2),
        blocks: int = 1,
        heads: int = 4,
        anchor_scale: float = 0.1,
        target_time: bool = False,
        guidance: bool = False,
    ) -> None:
        super().__init__(
            channels,
            in_channels=2,
            extra_channels=2 + 1 + FREQUENCY_WAVES,
            unshuffle=unshuffle,
            blocks=blocks,
            num_classes=None,
            heads=heads,
            target_time=target_time,
            guidance=guidance,
        )
        self.anchor_scale = anchor_scale

    def _checked(self, anchor: Tensor | None, x: Tensor) -> Tensor:
        b, _, f, t = x.shape
        if anchor is None or anchor.shape != x.shape:
            given = "none" if anchor is None else tuple(anchor.shape)
            raise ValueError(f"this network reads a noisy spectrogram of shape {tuple(x.shape)}, got {given}")
        height = torch.linspace(-1.0, 1.0, f, device=x.device, dtype=x.dtype)
        waves = [torch.cos(torch.pi * n * (height + 1.0)) for n in range(1, FREQUENCY_WAVES + 1)]
        where = torch.stack((height, *waves)).reshape(1, -1, f, 1).expand(b, -1, f, t)
        return torch.cat((anchor.to(x.dtype) / self.anchor_scale, where), dim=1)
