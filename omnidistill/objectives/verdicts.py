"""What a discriminator's logits say about a run: how often it is right, on the whole and under how much noise."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.objectives.games import Game
from omnidistill.paths import Path

BINS = 4
"""Equal parts of the path's span."""


def accuracies(
    game: Game, real: Tensor, fake: Tensor, at_real: Tensor, at_fake: Tensor, path: Path
) -> dict[str, Tensor]:
    """`adversarial/accuracy`, the same by bins of time (`.../accuracy/0.25-0.5`), and the mean margin of the logits.

    A bin's is of real and fake samples together, as their sum and their number: how many a part of a batch has differs
    from part to part, and some have none.
    """
    right, also = (side.flatten(1).mean(1) if side.ndim > 1 else side for side in game.accuracy(real, fake))
    whole = 0.5 * (right.mean() + also.mean())
    shown = {"adversarial/accuracy": whole, "adversarial/margin": (real - fake).mean()}
    low, high = path.span
    for i in range(BINS):
        edges = [low + (high - low) * k / BINS for k in (i, i + 1)]
        found = right.new_zeros(2)
        for side, t in ((right, at_real), (also, at_fake)):
            inside = (t >= edges[0]) & ((t < edges[1]) | (i == BINS - 1))
            found = found + torch.stack(((side * inside).sum(), inside.sum().to(side.dtype)))
        shown[f"adversarial/accuracy/{edges[0]:.2g}-{edges[1]:.2g}"] = found
    return shown
