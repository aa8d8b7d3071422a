"""A small U-Net on grids, for pictures and latents and, ragged along the last axis, for spectrograms.

Written so that every operation has a forward-mode derivative (flow-map objectives need one) and keeps the
channels_last layout, in which bfloat16 convolutions on the CPU run several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import TimeEmbedding, told, zero
from omnidistill.networks.features import Asked, Found, rows
from omnidistill.networks.grid import Down, Middle, Norm, Residual, Up
from omnidistill.shapes import Labels, PerSample


class UNet(nn.Module):
    """Ronneberger et al. 2015 as used for diffusion (Ho et al. 2020; Dhariwal and Nichol 2021): FiLM by time and class.

    The input is pixel-unshuffled, so that the finest convolutions run on h/unshuffle x w/unshuffle positions.
    The last convolution starts at zero: a new network answers 0, whatever it is asked.

    Ragged batches: with a mask, or where h or w do not divide by `unshuffle`, convolutions, norms and attention see
    nothing but real positions, so that an answer does not depend on how far its batch was padded.

    Args:
        channels: width of each level; a level halves the one before it.
        in_channels: c of x; the output has the same shape.
        extra_channels: channels of a second input, the anchor, read beside x.
        unshuffle: height and width of the blocks that become channels; one number for both.
        blocks: residual blocks a level, downwards and upwards.
        num_classes: labels are 0 ... num_classes - 1, and num_classes is the null label (no class known), also taken
            where no condition is given. None: unconditional.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start, so
            that the network equals the one without it until it is trained.
        time_scale: multiplies times before they are embedded; 1 suits times in [0, 1] or log-sigmas.
    """

    feature_module = "middle"  # its output, Float[b channels[-1] h' w'], is what a GAN head reads
    feature_axis = 1
    returns_features = True

    def __init__(
        self,
        channels: Sequence[int] = (64, 128),
        in_channels: int = 1,
        extra_channels: int = 0,
        unshuffle: int | Sequence[int] = 2,
        blocks: int = 1,
        num_classes: int | None = 10,
        heads: int = 4,
        target_time: bool = False,
        guidance: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        high, wide = (unshuffle, unshuffle) if isinstance(unshuffle, int) else unshuffle
        self.block = (int(high), int(wide))
        self.num_classes, self.feature_channels, self.extra_channels = (
            num_classes,
            channels[-1],
            extra_channels,
        )
        width, area = 4 * channels[0], high * wide
        self.time = embedding(width, time_scale)
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)

        self.first = nn.Conv2d((in_channels + extra_channels) * area, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c = channels[0]
        for level, broad in enumerate(channels):
            if level:
                self.down.append(Down(c, broad))
            self.down.extend(Residual(broad, broad, width) for _ in range(blocks))
            c = broad
        self.middle = Middle(c, width, heads)
        for level, broad in reversed(list(enumerate(channels))):
            self.up.extend(Residual(2 * broad, broad, width) for _ in range(blocks))
            if level:
                c = channels[level - 1]
                self.up.append(Up(broad, c))
        # What is left of the deep blocks is the finest level: its skips are fresh, and what comes from below is not.
        down, up = [f"down.{i}" for i in range(len(self.down))], [f"up.{i}" for i in range(len(self.up))]
        self.reusable = {
            "blocks": [*down, "middle", *up],
            "deep": [*down[blocks:], "middle", *up[:-blocks]] if len(channels) > 1 else [],
            "encoder": ["first", *down, "middle"],
        }
        widths = [*(f"down.{i}" for i in range(len(self.down))), "middle", *up]
        stages = [*self.down, self.middle, *self.up]
        self.feature_layers = {name: _width(stage) for name, stage in zip(widths, stages, strict=True)}
        self.last_norm = Norm(c)
        self.last = zero(nn.Conv2d(c, in_channels * area, 3, padding=1))
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = embedding(width, time_scale, silent=True) if target_time else None
        self.guidance = embedding(width, silent=True) if guidance else None

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: PerSample,
        condition: Labels | None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        anchor: Float[Tensor, "b extra h w"] | None = None,
        mask: Bool[Tensor, "#b 1 1 w"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered outputs h w"] | Found:
        """mask: True where a column is real."""
        asked = Asked(features, answered)
        film = F.silu(told(self, t, condition, target_time, guidance))
        seen = x if not self.extra_channels else torch.cat((x, self._checked(anchor, x)), dim=1)
        packed, real = self._packed(seen, mask)
        h, reals = self.first(packed), [real]
        skips: list[Tensor] = []
        named = [(f"down.{i}", stage) for i, stage in enumerate(self.down)] + [("middle", self.middle)]
        for name, stage in named + [(f"up.{i}", stage) for i, stage in enumerate(self.up)]:
            if isinstance(stage, Down):
                h = stage(h, reals[-1])
                reals.append(None if real is None else reals[-1][..., ::2])  # type: ignore[index]
            elif isinstance(stage, Up):
                reals.pop()
                h = stage(h, skips[-1].shape[-2:])
            elif name.startswith("up"):
                h = stage(torch.cat((h, skips.pop()), dim=1), film, reals[-1])
            else:
                h = stage(h, film, reals[-1])
                skips += [] if stage is self.middle else [h]
            if (some := asked.note(name, h)) is not None:
                if not answered:
                    return asked.result(None)
                h, film, skips, reals = (rows(some, value) for value in (h, film, skips, reals))
        real = reals[0]
        h = F.silu(self.last_norm(h, real))
        out = _shuffle(self.last(h if real is None else h * real), self.block)
        return asked.result(out[..., : x.shape[-2], : x.shape[-1]])

    def _checked(self, anchor: Tensor | None, x: Tensor) -> Tensor:
        expected = (x.shape[0], self.extra_channels, *x.shape[2:])
        if anchor is None or tuple(anchor.shape) != expected:
            given = "none" if anchor is None else tuple(anchor.shape)
            raise UserError(f"this U-Net reads an anchor of shape {expected} beside its state, got {given}")
        return anchor.to(x.dtype)

    def _packed(
        self, x: Float[Tensor, "b c h w"], mask: Bool[Tensor, "#b 1 1 w"] | None
    ) -> tuple[Float[Tensor, "b blocks h2 w2"], Float[Tensor, "#b 1 1 w2"] | None]:
        """Blocks as channels, and the mask of the blocks that hold a real column."""
        (high, wide), (height, width) = self.block, x.shape[-2:]
        if height % high:
            raise UserError(f"a height of {height} does not divide into blocks of {high}; change unshuffle")
        spare = -width % wide
        if mask is None and spare:
            mask = torch.ones(x.shape[0], 1, 1, width, dtype=torch.bool, device=x.device)
        if mask is None:
            return _unshuffle(x, self.block), None
        if mask.shape != (x.shape[0], 1, 1, width):
            raise UserError(
                f"this U-Net is ragged along its last axis: mask [b 1 1 {width}], got {tuple(mask.shape)}"
            )
        x = F.pad(x * mask, (0, spare))
        return _unshuffle(x, self.block), F.pad(mask.to(x.dtype), (0, spare))[..., ::wide]


def _width(stage: nn.Module) -> int:
    """Channels of a stage's output."""
    inner: Any = getattr(stage, "after", stage)
    return int(getattr(inner, "conv2", inner).out_channels)


def embedding(width: int, scale: float = 1.0, silent: bool = False) -> TimeEmbedding:
    """The time embedding of grids, with more and higher frequencies than that of sequences."""
    return TimeEmbedding(width, silent, frequencies=32, ratio=200.0, scale=scale)


def _unshuffle(x: Float[Tensor, "b c h w"], block: tuple[int, int]) -> Float[Tensor, "b _ _ _"]:
    """[b c h w] -> [b c*p*q h/p w/q], as `pixel_unshuffle` for blocks that need not be square."""
    p, q = block
    if p == q:
        return F.pixel_unshuffle(x, p)
    b, c, h, w = x.shape
    return (
        x.reshape(b, c, h // p, p, w // q, q).permute(0, 1, 3, 5, 2, 4).reshape(b, c * p * q, h // p, w // q)
    )


def _shuffle(x: Float[Tensor, "b _ _ _"], block: tuple[int, int]) -> Float[Tensor, "b _ _ _"]:
    p, q = block
    if p == q:
        return F.pixel_shuffle(x, p)
    b, c, h, w = x.shape
    return x.reshape(b, c // (p * q), p, q, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, h * p, w * q)
