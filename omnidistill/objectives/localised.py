"""Moving a sample in places alone: the shape of a gap before it is applied (Chinchuthakun et al. 2025, LUSD,
arXiv:2503.11054)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.objectives.base import RoleSpec
from omnidistill.objectives.step import Step

SOURCE = {"source": RoleSpec(start="student", refresh=0)}
"""The student of the start."""


@dataclass(frozen=True)
class Localised:
    """`gap <- (1 - stay) m gap / rms(gap) + stay (x0 - x_source)`, for samples whose gap is large enough.

    Gaps differ by orders of magnitude from time to time and from noise to noise: divided by their root mean square over
    a sample's elements all count alike, and the small ones, `rms < least` times the batch's mean, say little and are
    left out. m holds the update to where it is large, `m = min(1, |gap| / (focus rms))`: the paper reads its mask off
    attention. The source is what the student was at the start, given the same input.

    Args:
        stay: share of the pull back to the source; 0 asks none.
        focus: how many times the root mean square an element is to be to move in full; 0: all do.
        least: see above.
    """

    stay: float = 0.0
    focus: float = 1.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.stay < 1.0 and self.focus >= 0.0 and self.least >= 0.0):
            raise UserError(
                "a localised update needs 0 <= stay < 1, focus >= 0 and least >= 0, got "
                f"stay={self.stay}, focus={self.focus}, least={self.least}"
            )

    @property
    def roles(self) -> Mapping[str, RoleSpec]:
        """The student of the start, where samples are held to it."""
        return SOURCE if self.stay else {}

    def __call__(self, step: Step, gap: Tensor) -> Tensor:
        mask = step.context.mask
        real = torch.ones_like(gap) if mask is None else mask.expand(gap.shape).to(gap.dtype)
        square = (real * gap.square()).flatten(1).sum(1) / real.flatten(1).sum(1).clamp_min(1.0)
        spread = square.sqrt().clamp_min(1e-8)
        kept = (spread >= self.least * spread.mean()).to(gap.dtype)
        wide = (-1, *(1 for _ in gap.shape[1:]))
        moved = gap / spread.reshape(wide)
        if self.focus:
            moved = moved * (moved.abs() / self.focus).clamp_max(1.0)
        moved = moved * kept.reshape(wide)
        if not self.stay:
            return moved
        return (1.0 - self.stay) * moved + self.stay * (step.rollout.x0.detach() - step.begun)
