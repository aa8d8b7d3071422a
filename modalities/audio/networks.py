"""The denoiser of mel clips: the shared U-Net, whose blocks of mels and frames become channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from omnidistill.networks.unet import UNet

DEFAULT: Mapping[str, Any] = {"channels": (64, 128, 128), "unshuffle": 4}


def music_unet(options: Mapping[str, Any], labels: int, target_time: bool, guidance: bool) -> nn.Module:
    """`UNet` for states [b 1 mels frames], ragged in frames; mels divide by `unshuffle`."""
    network = UNet(num_classes=labels, target_time=target_time, guidance=guidance, **options)
    # In this layout bfloat16 convolutions on the CPU run several times faster.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
