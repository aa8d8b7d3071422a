"""The enhancement network: the shared U-Net, which for each place of the spectrogram says how much of what to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.networks.features import Found, inside, parted
from omnidistill.networks.unet import UNet
from omnidistill.shapes import PerSample

FREQUENCY_WAVES = 2  # cosines of the frequency axis beside the linear ramp


class EnhancementUNet(nn.Module):
    """`F = r + a x + b y / scale` on x and the anchor y, the noisy spectrogram: a U-Net answers with
    the residual r (2 channels) and the real gains a and b (1 channel each).

    Gains are what a Wiener filter is: smooth over time and frequency where noise is not, so that a small network that
    sees blocks of 8 by 2 values can take the noise out of a quiet place without having to repeat it exactly.

    A convolution sees the same pattern at every height, but a spectrogram's rows differ: low ones hold pitch, high ones
    sibilants. A ramp and cosines along the frequency axis, read beside x and y, say where it is.

    Args:
        channels, unshuffle, blocks, heads: as `UNet`'s; unshuffle packs (frequencies, frames).
        anchor_scale: divides the anchor, so that it comes in with about the spread of the state.
    """

    feature_module = "unet.middle"
    feature_axis = 1
    returns_features = True

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
        super().__init__()
        self.anchor_scale = anchor_scale
        self.unet = UNet(
            channels,
            in_channels=4,
            extra_channels=1 + FREQUENCY_WAVES,
            unshuffle=unshuffle,
            blocks=blocks,
            num_classes=None,
            heads=heads,
            target_time=target_time,
            guidance=guidance,
        )
        self.feature_channels = self.unet.feature_channels
        self.feature_layers = {f"unet.{name}": width for name, width in self.unet.feature_layers.items()}

    def forward(
        self,
        x: Float[Tensor, "b 2 f t"],
        t: PerSample,
        *,
        anchor: Float[Tensor, "b 2 f t"] | None = None,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        mask: Bool[Tensor, "#b 1 1 t"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered 2 f t"] | Found:
        if anchor is None or anchor.shape != x.shape:
            given = "none" if anchor is None else tuple(anchor.shape)
            raise ValueError(f"this network reads a noisy spectrogram of shape {tuple(x.shape)}, got {given}")
        y = anchor.to(x.dtype) / self.anchor_scale
        seen = torch.cat((x, y), dim=1)
        out, found = parted(
            self.unet(
                seen,
                t,
                anchor=_frequencies(x),
                target_time=target_time,
                guidance=guidance,
                mask=mask,
                features=inside(features, "unet"),
                answered=answered,
            ),
            "unet",
        )
        if out is None:
            return None, found
        out, x, y = out.to(x.dtype), x[: len(out)], y[: len(out)]
        kept = out[:, :2] + out[:, 2:3] * x + out[:, 3:4] * y
        return (kept, found) if features else kept


def _frequencies(x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b _ f t"]:
    """1 + FREQUENCY_WAVES channels: a ramp from -1 to 1 and cosines of 1, 2, ... half periods."""
    b, _, f, t = x.shape
    height = torch.linspace(-1.0, 1.0, f, device=x.device, dtype=x.dtype)
    waves = [torch.cos(0.5 * torch.pi * n * (height + 1.0)) for n in range(1, FREQUENCY_WAVES + 1)]
    return torch.stack((height, *waves)).reshape(1, -1, f, 1).expand(b, -1, f, t)
