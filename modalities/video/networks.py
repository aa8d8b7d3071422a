"""The denoiser of clips: the shared U-Net over pictures, in which all frames lie side by side as channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.networks.embeddings import zero
from omnidistill.networks.features import Found, inside, parted
from omnidistill.networks.unet import UNet, embedding
from omnidistill.shapes import Labels, PerSample

MAP_WIDTH = 64


class ClipUNet(nn.Module):
    """`x -> U-Net(x) + M(t) x`: a 2-D U-Net on [b c*f h w], in which every convolution sees all frames at once
    (Voleti et al. 2022, MCVD), beside one linear map of the f frames to one another, the matrix M(t).

    For clips of a few frames the U-Net costs one picture's worth of positions where a network over space-time patches
    pays for each frame. The map carries what needs no thought at any resolution: under little noise frames as they
    are, under more the mean of neighbours, which is what a still background wants. Both start at zero.

    Args:
        frames: f of x [b 3 f h w].
        channels, unshuffle, blocks, num_classes, heads, target_time, guidance: see `UNet`.
    """

    feature_module = "unet.middle"  # its output, Float[b channels[-1] h' w'], is what a GAN head reads
    feature_axis = 1
    returns_features = True

    def __init__(
        self,
        frames: int,
        channels: Sequence[int] = (64, 128),
        unshuffle: int = 2,
        blocks: int = 1,
        num_classes: int | None = None,
        heads: int = 4,
        target_time: bool = False,
        guidance: bool = False,
    ) -> None:
        super().__init__()
        self.unet = UNet(
            channels,
            in_channels=3 * frames,
            unshuffle=unshuffle,
            blocks=blocks,
            num_classes=num_classes,
            heads=heads,
            target_time=target_time,
            guidance=guidance,
        )
        self.feature_channels = self.unet.feature_channels
        self.feature_layers = {f"unet.{name}": width for name, width in self.unet.feature_layers.items()}
        self.time = embedding(MAP_WIDTH)
        self.map = zero(nn.Linear(MAP_WIDTH, frames * frames))

    def forward(
        self,
        x: Float[Tensor, "b 3 f h w"],
        t: PerSample,
        condition: Labels | None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered 3 f h w"] | Found:
        frames = x.shape[2]
        keywords = {"features": inside(features, "unet"), "answered": answered}
        out, found = parted(
            self.unet(x.flatten(1, 2), t, condition, target_time=target_time, guidance=guidance, **keywords),
            "unet",
        )
        if out is None:
            return None, found
        x, t = x[: len(out)], t[: len(out)]
        with torch.autocast(
            x.device.type, enabled=False
        ):  # what is carried over as it is, is not to be rounded
            mixing = self.map(self.time(t)).unflatten(1, (1, frames, frames))
            clip = out.unflatten(1, x.shape[1:3]).to(x.dtype) + (mixing @ x.flatten(3)).reshape(x.shape)
        return (clip, found) if features else clip
