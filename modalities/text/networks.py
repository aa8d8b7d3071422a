"""The denoiser of running text: residual convolutions over the characters around each place.

At the size that a processor core trains in minutes, what a masked character can be told from lies within some thirty
places, and a convolution has it without first learning which places are near. Measured on one core in bfloat16, these
convolutions run at 850 GFLOP/s in training and the shared transformer at 145, most of its time being spent beside its
products: at equal time this network sees several times the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import TimeEmbedding, told, zero
from omnidistill.networks.features import Asked, Found
from omnidistill.networks.forward_mode import layer_norm
from omnidistill.shapes import PerSample, Tokens


class Block(nn.Module):
    """`h + W gelu(conv(norm(h)))`; what padding holds is zeroed before the convolution, which itself pads with zeros,
    so a sequence is answered alike with and without padding behind it."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # A convolution of pictures one row high: only those are fast in bfloat16 with channels last, as h has them.
        self.conv = nn.Conv2d(
            width, width, (1, kernel), padding=(0, dilation * (kernel // 2)), dilation=(1, dilation)
        )
        self.out = nn.Linear(width, width)

    def forward(
        self, h: Float[Tensor, "b n width"], real: Float[Tensor, "#b n 1"] | None
    ) -> Float[Tensor, "b n width"]:
        """real: 1 where an element is real and 0 in padding."""
        count, length, width = h.shape
        x = layer_norm(h, self.norm.weight, self.norm.bias).to(h.dtype)
        x = x if real is None else x * real
        x = self.conv(x.unsqueeze(1).permute(0, 3, 1, 2))
        x = x.permute(0, 2, 3, 1).reshape(count, length, width)
        return h + self.out(F.gelu(x))  # exact: the tanh form takes three times as long on processors


class Trunk(nn.Module):
    """The blocks, one after another, and a last norm."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, kernel, dilation) for dilation in dilations)
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, real: Tensor | None) -> Tensor:
        for block in self.blocks:
            h = block(h, real)
        return layer_norm(h, self.norm.weight, self.norm.bias)


class TextNetwork(nn.Module):
    """Tokens in, logits out. The head starts at zero: a new network answers the uniform distribution.

    Args:
        vocab: k real tokens; the input may also hold the mask, token k.
        width: channels.
        kernel: places that a convolution sees, an odd number.
        dilations: of the convolutions, one for each block; together they reach `kernel // 2 * sum` places either way.
        target_time, guidance: adds an embedding of the second time or of the guidance scale, zero at the start.
    """

    feature_module = "trunk"  # its output, Float[b n width], is what a discriminator head reads
    feature_axis = 2
    returns_features = True

    def __init__(
        self,
        vocab: int,
        width: int = 192,
        kernel: int = 7,
        dilations: Sequence[int] = (1, 1, 2, 1, 1, 2),
        target_time: bool = False,
        guidance: bool = False,
    ) -> None:
        super().__init__()
        if width < 1 or kernel < 1 or kernel % 2 == 0 or not dilations or min(dilations) < 1:
            raise UserError(
                "a text network needs width >= 1, an odd kernel and dilations >= 1, "
                f"got width={width}, kernel={kernel}, dilations={list(dilations)}"
            )
        self.feature_channels = width
        self.tokens = nn.Embedding(vocab + 1, width)
        self.time = TimeEmbedding(width)
        self.trunk = Trunk(width, kernel, dilations)
        self.head = zero(nn.Linear(width, vocab))
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = TimeEmbedding(width, silent=True) if target_time else None
        self.guidance = TimeEmbedding(width, silent=True) if guidance else None

    def forward(
        self,
        x: Tokens,
        t: PerSample,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered n k"] | Found:
        """x in 0 ... k -> logits; mask: True where a token is real."""
        h = self.tokens(x) + told(self, t, None, target_time, guidance).unsqueeze(1)
        if torch.is_autocast_enabled(x.device.type):
            h = h.to(torch.get_autocast_dtype(x.device.type))  # the sums between blocks, too
        real = None if mask is None else mask.unsqueeze(-1).to(h.dtype)
        h = self.trunk(h, real)
        asked = Asked(features, answered)
        if (some := asked.note("trunk", h)) is not None:
            if not answered:
                return asked.result(None)
            h = h[some]
        return asked.result(self.head(h))
