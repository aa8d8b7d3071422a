"""What a denoiser returns: a belief about the clean sample. A point (the posterior mean), a categorical per token, a
point of the simplex per token, a Gaussian mixture, or a curve of time.

Objectives are written against the methods of `Posterior`, never against the class: that is what lets one
implementation of a family serve latents, coordinates and tokens.
"""

from __future__ import annotations

from omnidistill.errors import UserError
from omnidistill.posteriors.base import P, Posterior, detach, split
from omnidistill.posteriors.categoricals import IMPOSSIBLE, CategoricalPosterior, CertainTokens
from omnidistill.posteriors.curves import ArcPosterior, GridPosterior
from omnidistill.posteriors.mixtures import MixturePosterior
from omnidistill.posteriors.points import PointPosterior
from omnidistill.posteriors.simplex import SimplexPosterior
from omnidistill.shapes import State

__all__ = [
    "IMPOSSIBLE",
    "ArcPosterior",
    "CategoricalPosterior",
    "CertainTokens",
    "GridPosterior",
    "MixturePosterior",
    "P",
    "PointPosterior",
    "Posterior",
    "SimplexPosterior",
    "certain",
    "detach",
    "split",
]


def certain(x0: State, classes: int | None = None) -> Posterior:
    """The belief that x0 is exactly this: a point for real numbers, a certain categorical for tokens."""
    if classes is None:
        return PointPosterior(x0)
    if x0.is_floating_point():
        raise UserError(f"tokens must be integers, got {x0.dtype}; pass token ids of shape (batch, length)")
    return CertainTokens(x0, classes)  # type: ignore[return-value]  # its blend is a categorical
