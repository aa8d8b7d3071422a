"""The numbers of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omnidistill.errors import UserError


@dataclass(frozen=True)
class Optim:
    """AdamW for every trained role, with its own learning rate as a multiple of `lr`.

    Attributes:
        warmup: updates of linear warm-up, counted per role.
        decay: `linear` or `cosine` to 0 over the run after `hold`, or `constant`.
        hold: share of the run before the decay begins.
        clip: largest gradient norm of a role's update; None for no clipping.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float | None = 1.0
    warmup: int = 50
    decay: str = "linear"
    hold: float = 0.5

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"a learning rate must be positive, got optim.lr={self.lr}")
        if self.decay not in ("linear", "cosine", "constant"):
            raise UserError(f"optim.decay is linear, cosine or constant, got '{self.decay}'")

    def steady(self, updates: int) -> int:
        """The last update before the rate depends on the run's length: where a longer run may branch off."""
        if self.decay == "constant":
            return updates
        # Update u + 1 asks at u / updates.
        last = max(
            u for u in range(math.floor(self.hold * updates) + 2) if u == 0 or u / updates <= self.hold
        )
        return min(updates, last + 1)

    def factor(self, update: int, progress: float) -> float:
        """The learning rate at this update of a role, as a share of its peak; `progress` in [0, 1] of the run."""
        warm = min(1.0, (update + 1) / max(1, self.warmup))
        if self.decay == "constant" or progress <= self.hold:
            return warm
        late = (progress - self.hold) / max(1e-9, 1.0 - self.hold)
        return warm * (1.0 - late if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * late)))


@dataclass(frozen=True)
class Settings:
    """What the engine needs beside models and objective.

    Attributes:
        updates: student updates; 0 where nothing is trained.
        batch: samples per update of any role.
        accumulate: parts in which a batch is worked off; more of them need less memory, and the numbers stay.
        recompute: of each block of a trained network its input alone is kept for the backward pass.
        precision: `fp32`, or `bf16` for autocast with float32 weights.
        ema: decay of the student's moving average, which is what is sampled from.
        checkpoint_every, log_every: in student updates.
        lag_every: how often the log tells how far critics lag (`training.lag`), in student updates, where it is
            written; 0 never. One process alone does so.
    """

    updates: int = 1000
    batch: int = 256
    seed: int = 0
    precision: str = "fp32"
    ema: float = 0.999
    checkpoint_every: int = 200
    log_every: int = 20
    lag_every: int = 0
    accumulate: int = 1
    recompute: bool = False
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        if self.updates < 0 or self.batch < 1:
            raise UserError(
                f"updates must be >= 0 and batch >= 1, got updates={self.updates}, batch={self.batch}"
            )
        if self.accumulate < 1 or self.accumulate > self.batch:
            raise UserError(
                f"accumulate must be from 1 to the batch's {self.batch} samples, got accumulate={self.accumulate}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is fp32 or bf16, got '{self.precision}'")
