"""The decoder: the shared U-Net on a log-mel, with the text's mean mu beside the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from omnidistill.networks.unet import UNet

NETWORK: Mapping[str, Any] = {"channels": (64, 128), "unshuffle": (4, 4)}


def decoder(options: Mapping[str, Any], *, target_time: bool = False, guidance: bool = False) -> nn.Module:
    """A U-Net on states [b 1 mels t] that reads mu as its anchor; a column of blocks is 4 frames, 64 ms.

    Args:
        options: keywords of `UNet`.
    """
    network = UNet(
        in_channels=1,
        extra_channels=1,
        num_classes=None,
        target_time=target_time,
        guidance=guidance,
        **{**NETWORK, **options},
    )
    # In this layout bfloat16 convolutions on the CPU run several times faster.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
