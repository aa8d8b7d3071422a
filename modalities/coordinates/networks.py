"""A network for chains of points in space: local geometry by convolutions along the chain, folds by attention.

Bonds are decided at noise of a tenth of their length, by how far a point is from its neighbours in the chain. A plain
transformer on coordinates learns that late: the difference of two neighbours is a small number between large ones. So
differences to the neighbours are inputs, and the answer may be given as steps along them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import TimeEmbedding, zero
from omnidistill.networks.features import Asked, Found
from omnidistill.networks.forward_mode import exact, layer_norm
from omnidistill.networks.transformer import Trunk, turns
from omnidistill.shapes import PerSample, Points

BOND = 0.38
"""Length of a step along the chain in units of 10 Angstrom: between two CA atoms."""


class ChainNetwork(nn.Module):
    """Coordinates in, coordinates out, the centre of mass left out of both; the last layers start at zero.

    A point sees its own coordinates, its learned label, and the vectors `d_k = x_{i+k} - x_i` to the points up to
    `reach` places away with their lengths, each over its standard deviation under the noise. The answer is

        F_i = v_i + sum_k w_ik d_k,

    v and w linear in the features of a convolution, a transformer trunk with rotary positions, and a convolution.
    Everything that is a difference of coordinates is computed in float32, whatever the precision of the layers.

    Args:
        points: the most points it takes; padding may go beyond.
        patch: consecutive points that share a token: their features side by side.
        width, depth, heads: of the trunk; `blocks` is the number of convolutions before it and after it.
        reach: how many neighbours on either side are inputs.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start.
    """

    feature_module = "trunk"  # its output, Float[b n width], is what a discriminator head reads
    feature_axis = 2
    returns_features = True
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        points: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        blocks: int = 2,
        patch: int = 2,
        reach: int = 4,
        target_time: bool = False,
        guidance: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise UserError(f"rotary positions need an even width per head, got width={width}, heads={heads}")
        self.points, self.patch, self.reach, self.feature_channels = points, patch, reach, width
        self.tokens = -(-points // patch)
        self.first = nn.Linear(patch * (3 + 8 * reach), width)
        self.labels = nn.Parameter(0.5 * torch.randn(self.tokens, width))
        self.time = TimeEmbedding(width)
        self.before = nn.ModuleList(Convolution(width) for _ in range(blocks))
        self.after = nn.ModuleList(Convolution(width) for _ in range(blocks))
        self.last = zero(nn.Linear(width, patch * (3 + 2 * reach)))
        cos, sin = turns(self.tokens, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        # Made last: the layers above draw the same initial weights with and without the second embeddings.
        self.trunk = Trunk(width, depth, heads, target_time, guidance, None)

    def forward(
        self,
        x: Points,
        t: PerSample,
        condition: None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        mask: Bool[Tensor, "#b n 1"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered n 3"] | Found:
        """x: noised, in the data's units; t: log(sigma)/4; mask: real points come first."""
        n = x.shape[1]
        if mask is None and n > self.points:
            raise UserError(f"this network was built for at most {self.points} points, got {n}")
        real = torch.ones_like(x[..., :1]) if mask is None else mask.expand(*x.shape[:2], 1).to(x.dtype)
        sigma = (4.0 * exact(t)).to(x.dtype).exp()[:, None, None]
        # What is not finite in padding would survive a product with zero.
        x = _centred(x if mask is None else x.masked_fill(~mask, 0.0), real)
        steps = _steps(x, real, self.reach) / (2.0 * sigma**2 + BOND**2).sqrt().unsqueeze(-1)
        lengths = steps.square().sum(-1).add(1e-8).sqrt()
        seen = torch.cat((x / (sigma**2 + 1.0).sqrt(), steps.flatten(2), lengths), -1)
        tokens, there = _patched(seen * real, self.patch), _patched(real, self.patch).amax(-1, keepdim=True)
        size = tokens.shape[1]
        labels, *angles = self.labels[:size], self.cos[:size], self.sin[:size]
        if size > self.tokens:  # padding needs no label
            labels, *angles = (F.pad(u, (0, 0, 0, size - self.tokens)) for u in (labels, *angles))
        h = self.first(tokens)
        # One precision from here to the last layer: mixed ones are converted at every layer, a quarter of the time.
        labels, there, *angles = (u.to(h.dtype) for u in (labels, there, *angles))
        h = (h + labels) * there
        film = F.silu(self.time(t))
        for block in self.before:
            h = block(h, film, there)
        inside = None if mask is None else there.squeeze(-1) > 0
        h = self.trunk(h, t, None, target_time, guidance, inside, tuple(angles))
        asked = Asked(features, answered)
        if (some := asked.note("trunk", h)) is not None:
            if not answered:
                return asked.result(None)
            h, film, there, steps, real = (u[some] for u in (h, film, there, steps, real))
        for block in self.after:
            h = block(h, film, there)
        with torch.autocast(x.device.type, enabled=False):
            out = self.last(layer_norm(exact(h)))
            out = out.reshape(len(h), -1, 3 + 2 * self.reach)[:, :n]
            moved = out[..., :3] + (out[..., 3:].unsqueeze(-1) * steps).sum(-2)
        return asked.result(_centred(moved, real))


class Convolution(nn.Module):
    """`h + outer(gelu(inner(h_{i-1}, h_i, h_{i+1})))` on a layer norm scaled and shifted by the time; padding is zero.

    A product of matrices over three neighbours side by side: the layout needs no transposition.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.film = zero(nn.Linear(width, 2 * width))
        self.inner, self.outer = nn.Linear(3 * width, width), nn.Linear(width, width)

    def forward(
        self, h: Float[Tensor, "b n width"], film: Float[Tensor, "b width"], real: Float[Tensor, "#b n 1"]
    ) -> Tensor:
        """real: 0 at padding."""
        scale, shift = self.film(film).unsqueeze(1).chunk(2, -1)
        x = torch.addcmul(shift, layer_norm(h), 1.0 + scale) * real
        x = F.pad(x, (0, 0, 1, 1))
        x = torch.cat((x[:, :-2], x[:, 1:-1], x[:, 2:]), -1)
        return h + self.outer(F.gelu(self.inner(x), approximate="tanh")) * real


def _centred(x: Points, real: Float[Tensor, "#b n 1"]) -> Points:
    """x with the centre of its real points at the origin; padding is zero."""
    return (x - (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1.0)) * real


def _steps(x: Points, real: Float[Tensor, "#b n 1"], reach: int) -> Float[Tensor, "b n _ 3"]:
    """`x_{i+k} - x_i` for k = -reach ... -1, 1 ... reach; zero where there is no such point."""
    n = x.shape[1]
    wide, there = (F.pad(u, (0, 0, reach, reach)) for u in (x, real))
    places = [reach + k for k in range(-reach, reach + 1) if k]
    return torch.stack([(wide[:, p : p + n] - x) * there[:, p : p + n] * real for p in places], 2)


def _patched(u: Float[Tensor, "b n c"], patch: int) -> Float[Tensor, "b patches _"]:
    """[b n c] -> [b ceil(n / patch) patch*c], zeros in the last patch's free places."""
    n, c = u.shape[1:]
    return F.pad(u, (0, 0, 0, -n % patch)).reshape(len(u), -1, patch * c)
