"""Under which clips are compared when their motion alone is to agree: a `view` of the consistency objective."""

from __future__ import annotations

from torch import Tensor


class FrameDifferences:
    """`x: Float[b c f h w] -> x[:, :, 1:] - x[:, :, :-1]`, times `scale`: the motion, without the appearance.

    One of the motion representations of Zhai et al. 2024 (MCM, arXiv:2406.06890). Whatever stays where it is for the
    whole clip drops out, so no gradient reaches it.

    Args:
        scale: brings the differences to the size of pixels, so that one weight suits both.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale * x.diff(dim=2)

    def __repr__(self) -> str:
        return f"FrameDifferences(scale={self.scale:g})"
