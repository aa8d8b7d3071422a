"""How near views are to what the toys look like, and whether the views of one scene show one toy."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

RANGE = 2.0
"""From black to white."""


def psnr(views: Float[Tensor, "b c h w"], toys: Float[Tensor, "b k c h w"]) -> Float64[Tensor, "b k"]:
    """Peak signal-to-noise ratio to what each of k toys looks like from there, in dB."""
    error = (views.double().unsqueeze(1) - toys.double()).square().flatten(2).mean(2)
    return 10.0 * torch.log10(RANGE**2 / error.clamp_min(1e-12))


def contrast(views: Float[Tensor, "b c h w"], toys: Float[Tensor, "b c h w"]) -> float:
    """Standard deviation of the views' numbers over that of the toys': above 1 is what strong guidance does."""
    return float((views.double().flatten(1).std(1) / toys.double().flatten(1).std(1)).mean())


def scenes(
    nearest: Int[Tensor, "b"], particle: Int[Tensor, "b"], possible: Int[Tensor, "k"]
) -> dict[str, float]:
    """What whole scenes show, from the toy that each view is nearest to.

    Returns:
        consistency: share of views that show the toy that most views of their scene show.
        recalled: share of the possible toys that some scene shows.
    """
    shown, agreeing = set(), 0
    for one in particle.unique():
        toy, count = nearest[particle == one].mode().values, 0
        count = int((nearest[particle == one] == toy).sum())
        shown.add(int(toy))
        agreeing += count
    return {
        "consistency": agreeing / len(nearest),
        "recalled": len(shown & set(possible.tolist())) / len(possible),
    }
