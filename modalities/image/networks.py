"""A small class-conditional U-Net for the denoiser, and a classifier whose features judge the samples.

Written so that every operation has a forward-mode derivative (flow-map objectives need one) and keeps the
channels_last layout, in which bfloat16 convolutions on the CPU run several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

M = TypeVar("M", bound=nn.Module)


class UNet(nn.Module):
    """Ronneberger et al. 2015 as used for diffusion (Ho et al. 2020; Dhariwal and Nichol 2021): FiLM by time and class.

    The input is pixel-unshuffled, so that the finest convolutions run on h/unshuffle x w/unshuffle positions.
    The last convolution starts at zero: a new network answers 0, whatever it is asked.

    Args:
        channels: width of each level; a level halves the one before it.
        in_channels: c of `x: Float[b c h w]`; the output has the same shape.
        unshuffle: side of the blocks of pixels that become channels; h and w must be multiples of it.
        blocks: residual blocks a level, downwards and upwards.
        num_classes: labels are 0 ... num_classes - 1, and num_classes is the null label (no class known), also taken
            where no condition is given. None: unconditional.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start, so
            that the network equals the one without it until it is trained.
        time_scale: multiplies times before they are embedded; 1 suits times in [0, 1] or log-sigmas.
    """

    feature_module = "middle"  # its output, Float[b channels[-1] h' w'], is what a GAN head reads
    feature_axis = 1

    def __init__(
        self,
        channels: Sequence[int] = (64, 128),
        in_channels: int = 1,
        unshuffle: int = 2,
        blocks: int = 1,
        num_classes: int | None = 10,
        heads: int = 4,
        target_time: bool = False,
        guidance: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.unshuffle, self.num_classes, self.feature_channels = unshuffle, num_classes, channels[-1]
        width, packed = 4 * channels[0], in_channels * unshuffle**2
        self.time = Embedding(width, time_scale)
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)

        self.first = nn.Conv2d(packed, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c = channels[0]
        for level, wide in enumerate(channels):
            if level:
                self.down.append(Down(c, wide))
            self.down.extend(Residual(wide, wide, width) for _ in range(blocks))
            c = wide
        self.middle = Middle(c, width, heads)
        for level, wide in reversed(list(enumerate(channels))):
            self.up.extend(Residual(2 * wide, wide, width) for _ in range(blocks))
            if level:
                c = channels[level - 1]
                self.up.append(Up(wide, c))
        self.last_norm = Norm(c)
        self.last = zero(nn.Conv2d(c, packed, 3, padding=1))
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = Embedding(width, time_scale, silent=True) if target_time else None
        self.guidance = Embedding(width, 1.0, silent=True) if guidance else None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        *,
        target_time: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x: Float[b c h w], t: Float[b], condition: Long[b], target_time and guidance: Float[b] -> Float[b c h w]."""
        film = self.time(t)
        if self.classes is not None and self.num_classes is not None:
            if condition is None:
                condition = torch.full(t.shape, self.num_classes, device=x.device)
            film = film + self.classes(condition)
        elif condition is not None:
            raise ValueError("this U-Net was built with num_classes=None and cannot take a condition")
        for name, module, value in (
            ("target_time", self.target_time, target_time),
            ("guidance", self.guidance, guidance),
        ):
            if value is not None:
                if module is None:
                    raise ValueError(f"this U-Net was built with {name}=False and cannot take {name}")
                film = film + module(value)
        film = F.silu(film)

        h, skips = self.first(F.pixel_unshuffle(x, self.unshuffle)), []
        for stage in self.down:
            if isinstance(stage, Down):
                h = stage(h)
            else:
                h = stage(h, film)
                skips.append(h)
        h = self.middle(h, film)
        for stage in self.up:
            if isinstance(stage, Up):
                h = stage(h, skips[-1].shape[-2:])
            else:
                h = stage(torch.cat((h, skips.pop()), dim=1), film)
        return F.pixel_shuffle(self.last(F.silu(self.last_norm(h))), self.unshuffle)


class Embedding(nn.Module):
    """Float[b] -> Float[b width]: sines and cosines of geometric frequencies, then a two-layer perceptron."""

    rates: Tensor

    def __init__(self, width: int, scale: float, silent: bool = False, frequencies: int = 32) -> None:
        super().__init__()
        # From half a radian a unit, which tells the ends of [0, 1] apart, to 100, which tells 1/100 apart; higher
        # ones make time derivatives large (Lu and Song 2024, arXiv:2410.11081, section 4.1).
        rates = scale * 0.5 * 200.0 ** torch.linspace(0, 1, frequencies)
        self.register_buffer("rates", rates, persistent=False)
        self.inner = nn.Linear(2 * frequencies, width)
        self.outer = nn.Linear(width, width)
        if silent:
            zero(self.outer)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float().unsqueeze(1) * self.rates.float()
        waves = torch.cat((angles.sin(), angles.cos()), dim=1)
        return self.outer(F.silu(self.inner(waves.to(self.inner.weight.dtype))))


class Residual(nn.Module):
    """h + conv(silu(film(norm(conv(silu(norm(h))))))); the second convolution starts at zero."""

    def __init__(self, c_in: int, c_out: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(width, 2 * c_out)
        self.norm2, self.conv2 = Norm(c_out), zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        scale, shift = self.film(film).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        h = torch.addcmul(shift, h, 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """x + project(softmax(q k^T / sqrt(d)) v) over the positions (Vaswani et al. 2017); the projection starts at zero.

    Written out: the fused CPU kernel has no forward-mode derivative and a slow backward pass in bfloat16.
    """

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.project = Norm(c), nn.Linear(c, 3 * c), zero(nn.Linear(c, c))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, wide = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, height * wide, c)
        q, k, v = self.qkv(tokens).reshape(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        mixed = (weights.to(v.dtype) @ v).transpose(1, 2).reshape(b, height * wide, c)
        return x + self.project(mixed).reshape(b, height, wide, c).permute(0, 3, 1, 2)


class Middle(nn.Module):
    """The bottleneck: residual block, attention, residual block."""

    def __init__(self, c: int, width: int, heads: int) -> None:
        super().__init__()
        self.before = Residual(c, c, width)
        self.attention = Attention(c, heads)
        self.after = Residual(c, c, width)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        return self.after(self.attention(self.before(x, film)), film)


class Down(nn.Conv2d):
    """Halves each side, rounding up."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, stride=2, padding=1)


class Up(nn.Conv2d):
    """Nearest-neighbour upsampling to the size of the skip it meets next, then a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]
        # A 1x1 convolution commutes with copying pixels, and is four times cheaper before it.
        return F.interpolate(super().forward(x), size=tuple(size), mode="nearest")


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

    def features(self, x: Tensor) -> Tensor:
        """x: Float[b 1 h w] in [-1, 1] -> Float[b features], after the last ReLU."""
        return F.relu(self.embed(self.body(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """x: Float[b 1 h w] in [-1, 1] -> logits Float[b num_classes]."""
        return self.head(self.features(x))


class Norm(nn.GroupNorm):
    """Group norm (Wu and He 2018, arXiv:1803.08494) in groups of 16 channels, fewer where `c` does not divide by 16.

    16 did best among the fixed widths of its table 3, and narrower groups miss the vectorised CPU kernel for
    channels_last bfloat16: 8 channels a group took 8 to 15 times as long.
    """

    def __init__(self, c: int) -> None:
        super().__init__(c // math.gcd(c, 16), c)

    def forward(self, x: Tensor) -> Tensor:
        # The forward-mode derivative of torch's group norm views its input and fails on the channels_last layout.
        if forward_ad.unpack_dual(x).tangent is not None:
            x = x.contiguous()
        return super().forward(x)


def zero(layer: M) -> M:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
