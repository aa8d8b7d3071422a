"""Under which clips are compared: a `view` of the consistency or the adversarial objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import NotOffered


def _clips(view: object, x: Tensor) -> Tensor:
    if x.ndim != 5 or x.shape[2] < 2:
        raise NotOffered(
            f"{view} looks at clips, Float[b c f h w] of two frames or more; got {list(x.shape)}"
        )
    return x


class FrameDifferences:
    """`x[:, :, 1:] - x[:, :, :-1]`, times `scale`: the motion, without the appearance.

    One of the motion representations of Zhai et al. 2024 (MCM, arXiv:2406.06890). Whatever stays where it is for the
    whole clip drops out, so no gradient reaches it.

    Args:
        scale: brings the differences to the size of pixels, so that one weight suits both.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c _ h w"]:
        return self.scale * _clips(self, x).diff(dim=2)

    def __repr__(self) -> str:
        return f"FrameDifferences(scale={self.scale:g})"


class StillFrames:
    """Sample i shows its frame `i mod f` throughout.

    A discriminator that reads clips then judges single pictures, as the image discriminator of MCM does, and sees no
    motion. Batches come in random order, so which frame is taken is as good as drawn.
    """

    def __call__(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
        rows = torch.arange(len(_clips(self, x)), device=x.device)
        return x[rows, :, rows % x.shape[2]].unsqueeze(2).expand_as(x)

    def __repr__(self) -> str:
        return "StillFrames()"
