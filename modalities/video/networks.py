"""The denoiser of clips: the shared U-Net over pictures, in which all frames lie side by side as channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from omnidistill.networks.unet import UNet


class ClipUNet(nn.Module):
    """A 2-D U-Net on `Float[b c*f h w]`: every convolution sees all frames at once (Voleti et al. 2022, MCVD).

    For clips of a few frames this costs one picture's worth of positions where a network over space-time patches pays
    for each frame, and a still background is one and the same channel from the start.

    Args:
        frames: f of `x: Float[b 3 f h w]`.
        channels, unshuffle, blocks, num_classes, heads, target_time, guidance: see `UNet`.
    """

    feature_module = "unet.middle"  # its output, Float[b channels[-1] h' w'], is what a GAN head reads
    feature_axis = 1

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

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        *,
        target_time: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x: Float[b 3 f h w], t: Float[b], condition: Long[b], target_time and guidance: Float[b] -> as x."""
        out = self.unet(x.flatten(1, 2), t, condition, target_time=target_time, guidance=guidance)
        return out.unflatten(1, x.shape[1:3])
