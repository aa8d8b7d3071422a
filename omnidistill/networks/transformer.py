"""A small bidirectional transformer for tokens, and the trunk it shares with the one for points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.attention import attend
from omnidistill.networks.embeddings import TimeEmbedding, told, zero
from omnidistill.networks.features import Asked, Found, stacked
from omnidistill.networks.forward_mode import layer_norm
from omnidistill.shapes import Labels, PerSample, Tokens

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of the angles by which positions are told apart: two of Float[n d/2]."""


def turns(length: int, dim: int) -> Turns:
    """Angles `i 100^(-2j/d)` of rotary position embedding (Su et al. 2021, sec. 3.2.2, whose base of 10000 is for
    sequences of thousands). Attention to a neighbour is then one linear map, learned many times sooner than from
    learned positions."""
    angles = torch.arange(length).unsqueeze(1) * 100.0 ** (-torch.arange(0, dim, 2) / dim)
    return angles.cos(), angles.sin()


def turned(x: Float[Tensor, "... n d"], turns: Turns) -> Float[Tensor, "... n d"]:
    """x, each pair of coordinates turned by its position's angle."""
    (cos, sin), (a, b) = turns, x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Block(nn.Module):
    """Attention and perceptron, each on a layer norm scaled and shifted by the time (Peebles & Xie 2023, DiT)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.film = zero(nn.Linear(width, 4 * width))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, film: Tensor, real: Tensor | None, turns: Turns | None) -> Tensor:
        scale1, shift1, scale2, shift2 = self.film(film).unsqueeze(1).chunk(4, -1)
        x = torch.addcmul(shift1, layer_norm(h), 1.0 + scale1)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = qkv[:2], qkv[2]
        q, k = qk if turns is None else turned(qk, turns)
        h = h + self.project(attend(q, k, v, real).transpose(1, 2).flatten(2))
        x = torch.addcmul(shift2, layer_norm(h), 1.0 + scale2)
        return h + self.outer(F.gelu(self.inner(x), approximate="tanh"))


class Trunk(nn.Module):
    """h through `depth` blocks; the time, the condition and the optional second embeddings enter
    every block. Without `turns` it knows no order of its n elements.

    Args:
        num_classes: labels are 0 ... num_classes - 1 and num_classes is the null label, also taken where no condition
            is given. None: unconditional.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start.
    """

    def __init__(
        self, width: int, depth: int, heads: int, target_time: bool, guidance: bool, num_classes: int | None
    ) -> None:
        super().__init__()
        if min(width, depth, heads) < 1 or width % heads:
            raise UserError(
                f"a transformer's width must be a multiple of its heads, got width={width}, heads={heads}"
            )
        self.num_classes = num_classes
        self.time = TimeEmbedding(width)
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = TimeEmbedding(width, silent=True) if target_time else None
        self.guidance = TimeEmbedding(width, silent=True) if guidance else None

    def forward(
        self,
        h: Float[Tensor, "b n width"],
        t: PerSample,
        condition: Labels | None,
        target_time: PerSample | None,
        guidance: PerSample | None,
        mask: Bool[Tensor, "b n"] | None,
        turns: Turns | None = None,
    ) -> Float[Tensor, "b n width"]:
        """mask: True where an element is real; turns: see `turns`."""
        film = F.silu(told(self, t, condition, target_time, guidance))
        for block in self.blocks:
            h = block(h, film, mask, turns)
        return h


class Transformer(nn.Module):
    """Tokens in, logits out; every position sees every real one. The head starts at zero: a new network answers the
    uniform distribution.

    Args:
        vocab: k real tokens; the input may also hold the mask, token k.
        length: the longest sequence it takes.
        width, depth, heads: of the trunk.
        target_time, guidance, num_classes: see `Trunk`.
        onehot: tokens come as noised one-hots, and a mask with their last axis, as 1.
    """

    feature_module = "trunk"  # its output, Float[b n width], is what a discriminator head reads
    feature_axis = 2
    returns_features = True
    reusable_as = "residual"
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        vocab: int,
        length: int,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        target_time: bool = False,
        guidance: bool = False,
        num_classes: int | None = None,
        onehot: bool = False,
    ) -> None:
        super().__init__()
        self.vocab, self.length, self.feature_channels = vocab, length, width
        self.onehot = onehot
        self.tokens = nn.Linear(vocab, width) if onehot else nn.Embedding(vocab + 1, width)
        self.head = zero(nn.Linear(width, vocab))
        self.trunk = Trunk(width, depth, heads, target_time, guidance, num_classes)
        self.reusable = stacked("trunk.blocks", depth)
        if width // heads % 2:
            raise UserError(f"rotary positions need an even width per head, got width={width}, heads={heads}")
        cos, sin = turns(length, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self,
        x: Tokens | Float[Tensor, "b n k"],
        t: PerSample,
        condition: Labels | None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        mask: Bool[Tensor, "b n"] | Bool[Tensor, "b n 1"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered n k"] | Found:
        """x in 0 ... k, or one-hots -> logits."""
        n = x.shape[1]
        if n > self.length:
            raise UserError(
                f"this transformer was built for at most {self.length} tokens, got a sequence of {n}"
            )
        h = self.tokens(x)
        mask = mask.squeeze(-1) if self.onehot and mask is not None else mask
        h = self.trunk(h, t, condition, target_time, guidance, mask, (self.cos[:n], self.sin[:n]))
        asked = Asked(features, answered)
        if (some := asked.note("trunk", h)) is not None:
            if not answered:
                return asked.result(None)
            h = h[some]
        return asked.result(self.head(layer_norm(h)))
