"""The classifier whose features judge the samples; the denoiser's U-Net is the shared one."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.networks.unet import UNet

__all__ = ["Classifier", "UNet"]


class Classifier(nn.Module):
    """Three convolutions with batch norm, each followed by max pooling, then `features` and a linear layer of logits.

    Args:
        channels: widths of the convolutions; each halves the side.
        image_size: side of the square input in pixels.
        features: width of the penultimate layer, the space in which samples are judged.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 64),
        image_size: int = 28,
        features: int = 128,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in zip((1, *channels), channels, strict=False):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        side = image_size // 2 ** len(channels)
        self.embed = nn.Linear(channels[-1] * side * side, features)
        self.head = nn.Linear(features, num_classes)

    def features(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b features"]:
        """Of x in [-1, 1], after the last ReLU."""
        return F.relu(self.embed(self.body(x).flatten(1)))

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b classes"]:
        """Logits of x in [-1, 1]."""
        return self.head(self.features(x))
