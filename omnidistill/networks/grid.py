"""The blocks of the U-Net: each takes an optional `real`, 1 at real columns and 0 at padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.networks.attention import attend
from omnidistill.networks.embeddings import zero
from omnidistill.networks.forward_mode import exact, group_norm

Real = Float[Tensor, "#b 1 1 w"]


class Norm(nn.GroupNorm):
    """Group norm (Wu and He 2018, arXiv:1803.08494) in groups of 16 channels, fewer where `c` does not divide by 16.

    16 did best among the fixed widths of its table 3, and narrower groups miss the vectorised CPU kernel for
    channels_last bfloat16: 8 channels a group took 8 to 15 times as long. With `real`, mean and variance are taken
    over real columns alone.
    """

    def __init__(self, c: int) -> None:
        super().__init__(c // math.gcd(c, 16), c)

    def forward(self, x: Float[Tensor, "b c h w"], real: Real | None = None) -> Float[Tensor, "b c h w"]:
        if real is not None:
            return self._masked(x, real)
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _masked(self, x: Tensor, real: Tensor) -> Tensor:
        grouped = exact(x).unflatten(1, (self.num_groups, -1))  # Float[b g c/g h w]
        real = real.to(grouped.dtype).unsqueeze(1)
        count = (real.sum((2, 3, 4), keepdim=True) * grouped.shape[2] * grouped.shape[3]).clamp_min(1.0)
        mean = (grouped * real).sum((2, 3, 4), keepdim=True) / count
        centred = grouped - mean
        variance = (centred.square() * real).sum((2, 3, 4), keepdim=True) / count
        normal = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        return torch.addcmul(_column(self.bias), normal, _column(self.weight)).to(x.dtype)


class Residual(nn.Module):
    """h + conv(silu(film(norm(conv(silu(norm(h))))))); the second convolution starts at zero."""

    def __init__(self, c_in: int, c_out: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(width, 2 * c_out)
        self.norm2, self.conv2 = Norm(c_out), zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], film: Float[Tensor, "b width"], real: Real | None = None
    ) -> Tensor:
        h = self.norm2(self.conv1(_kept(F.silu(self.norm1(x, real)), real)), real)
        scale, shift = self.film(film).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)
        h = torch.addcmul(shift, h, 1 + scale)
        return self.skip(x) + self.conv2(_kept(F.silu(h), real))


class Down(nn.Conv2d):
    """Halves each side, rounding up."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"], real: Real | None = None) -> Tensor:
        return super().forward(_kept(x, real))


class Up(nn.Conv2d):
    """Nearest-neighbour upsampling to the size of the skip it meets next, then a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]
        # A 1x1 convolution commutes with copying pixels, and is four times cheaper before it.
        return F.interpolate(super().forward(x), size=tuple(size), mode="nearest")


class Attention(nn.Module):
    """x + project(attend(q, k, v)) over the positions; the projection starts at zero."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.project = Norm(c), nn.Linear(c, 3 * c), zero(nn.Linear(c, c))

    def forward(self, x: Float[Tensor, "b c h w"], real: Real | None = None) -> Float[Tensor, "b c h w"]:
        b, c, height, wide = x.shape
        tokens = self.norm(x, real).permute(0, 2, 3, 1).reshape(b, height * wide, c)
        q, k, v = self.qkv(tokens).reshape(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = None if real is None else (real > 0).expand(b, 1, height, wide).reshape(b, height * wide)
        mixed = attend(q, k, v, seen).transpose(1, 2).reshape(b, height * wide, c)
        return x + self.project(mixed).reshape(b, height, wide, c).permute(0, 3, 1, 2)


class Middle(nn.Module):
    """The bottleneck: residual block, attention, residual block."""

    def __init__(self, c: int, width: int, heads: int) -> None:
        super().__init__()
        self.before = Residual(c, c, width)
        self.attention = Attention(c, heads)
        self.after = Residual(c, c, width)

    def forward(
        self, x: Float[Tensor, "b c h w"], film: Float[Tensor, "b width"], real: Real | None = None
    ) -> Tensor:
        return self.after(self.attention(self.before(x, film, real), real), film, real)


def _kept(x: Tensor, real: Tensor | None) -> Tensor:
    """What a convolution may see: padding would leak into its real neighbours."""
    return x if real is None else x * real.to(x.dtype)


def _column(x: Tensor) -> Tensor:
    return exact(x).reshape(1, -1, 1, 1)
