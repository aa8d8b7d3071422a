"""A residual perceptron on vectors, modulated by time and class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import LinearEmbedding, told, zero
from omnidistill.networks.features import Asked, Found, stacked
from omnidistill.networks.forward_mode import layer_norm
from omnidistill.shapes import Labels, PerSample


class Block(nn.Module):
    """`h + W silu(norm(h) * scale + shift)`: one matrix a block; scale and shift are made from time and class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return h + self.linear(
            F.silu(torch.addcmul(shift, layer_norm(h, self.norm.weight, self.norm.bias), scale))
        )


class Tied(Block):
    """One matrix asked again and again about its own answer, and each time told u: `z <- z + W silu(norm(z) * scale +
    shift + u)` from z = 0, the fixed point of which is looked for (Geng, Pokle and Kolter 2023, GET, arXiv:2401.08639;
    as in the released code a fixed number of times, with the gradient through all of them)."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__(width)
        self.inject, self.times = nn.Linear(width, width, bias=False), times

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        told, z = shift + self.inject(h), torch.zeros_like(h)
        for _ in range(self.times):
            z = super().forward(z, scale, told)
        return z


class Blocks(nn.Module):
    """The residual blocks and the one linear layer that makes the scale and shift they share (adaLN-single: Chen et
    al. 2023, PixArt-alpha, sec. 2.3). One a block would cost as much as the blocks themselves. With `iterations` a
    `Tied` one is the last."""

    def __init__(self, width: int, depth: int, embedding: int, iterations: int = 0) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        if iterations:
            self.layers.append(Tied(width, iterations))

    def forward(self, h: Tensor, film: Tensor, asked: Asked | None = None) -> Tensor:
        """With `asked` none but the samples to go on with are gone on with after the last layer asked for."""
        scale, shift = self.film(film).chunk(2, dim=1)
        scale = 1 + scale
        for i, layer in enumerate(self.layers):
            h = layer(h, scale, shift)
            if asked is not None and (some := asked.note(f"blocks.layers.{i}", h)) is not None:
                h, scale, shift = h[some], scale[some], shift[some]
        return h


class MLP(nn.Module):
    """Residual perceptron whose layers are modulated by time and class (FiLM: Perez et al. 2018).

    The last layer starts at zero, so a new network answers 0 to everything.

    Args:
        dim: d of x; the output has the same shape.
        width, depth: hidden units, and residual blocks of one matrix each.
        iterations: of one weight-tied block behind them (`Tied`); 0: there is none.
        num_classes: labels are 0 ... num_classes - 1, and num_classes is the null label, also taken where no
            condition is given. None: unconditional.
        anchor: the network reads a second vector, the anchor.
        ratio: of the fastest wave of an embedding of time to the slowest, which is half a radian a unit. Beliefs that
            change slowly with t are better told so where a derivative in t is learned from: that of a wave of w radians
            is w times its error.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start, so
            that the network equals the one without it until it is trained.
    """

    feature_module = "blocks"  # its output, Float[b width], is what a discriminator head reads
    feature_axis = 1
    returns_features = True
    reusable_as = "residual"

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 4,
        num_classes: int | None = None,
        anchor: bool = False,
        target_time: bool = False,
        guidance: bool = False,
        embedding: int = 64,
        ratio: float = 100.0,
        iterations: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes, self.anchored, self.feature_channels = num_classes, anchor, width
        count = depth + (iterations > 0)
        self.feature_layers = {**{f"blocks.layers.{i}": width for i in range(count)}, "blocks": width}
        self.time = LinearEmbedding(embedding, ratio=ratio)
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, embedding)
        self.first = nn.Linear(dim * (2 if anchor else 1), width)
        self.blocks = Blocks(width, depth, embedding, iterations)
        self.last = zero(nn.Linear(width, dim))
        self.reusable = stacked("blocks.layers", count)
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = LinearEmbedding(embedding, silent=True, ratio=ratio) if target_time else None
        self.guidance = LinearEmbedding(embedding, silent=True) if guidance else None

    def forward(
        self,
        x: Float[Tensor, "b d"],
        t: PerSample,
        condition: Labels | None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        anchor: Float[Tensor, "b d"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered outputs"] | Found:
        film = told(self, t, condition, target_time, guidance)
        if (anchor is not None) != self.anchored:
            raise UserError(
                f"this MLP was built with anchor={self.anchored}, and the anchor given says otherwise"
            )
        asked = Asked(features, answered)
        h = self.first(x if anchor is None else torch.cat((x, anchor), dim=1))
        h = self.blocks(h, F.silu(film), asked)
        some = asked.note("blocks", h)
        if asked.complete and not answered and answered is not None:
            return asked.result(None)
        h = h if some is None else h[some]
        return asked.result(self.last(F.silu(h)))
