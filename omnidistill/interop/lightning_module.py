"""The engine inside somebody's Lightning trainer: their loggers, callbacks, devices and checkpoints, our update.

    module = LightningDistillation(engine, task)          # engine: a `training.module.Distillation`
    L.Trainer(max_epochs=1, logger=...).fit(module)

The numbers are those of `training.loop.run`, bit for bit on the CPU: every draw depends on seed and update alone.
One process: gradients are not averaged over several.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.tasks import Task
from omnidistill.training.loop import Batches
from omnidistill.training.module import Distillation

COUNTERS = ("update", "seconds", "bound_to_end")
KEY = "omnidistill"


class LightningDistillation(L.LightningModule):
    """One epoch is the whole run, one batch of its loader one student update with the turns of every role.

    Args:
        engine: cast, objective and settings; it keeps its own optimisers, one a role, so Lightning steps none.
        task: gives the batches.

    Raises:
        UserError: when fitting begins in more than one process.
    """

    def __init__(self, engine: Distillation, task: Task) -> None:
        super().__init__()
        self.engine, self.task = engine, task
        self.automatic_optimization = False

    def configure_optimizers(self) -> None:
        """None: the engine steps its own."""
        return None

    def train_dataloader(self) -> DataLoader[Any]:
        """Only what is left to do: after a resumption from the update that was reached."""
        settings, turns = self.engine.settings, len(self.engine.cast.turns)
        batches: Any = Batches(
            self.task, turns, settings.batch, settings.seed, self.engine.update, settings.updates
        )
        # The loader draws a seed for workers that it does not have; from a generator of its own.
        return DataLoader(batches, batch_size=None, generator=torch.Generator().manual_seed(settings.seed))

    def transfer_batch_to_device(
        self, batch: list[Batch], device: torch.device, dataloader_idx: int
    ) -> list[Batch]:
        """Moves the batches of an update, one for each turn of a role."""
        return [part.to(device) for part in batch]

    def on_fit_start(self) -> None:
        """Refuses several processes: each would train roles of its own."""
        if self.trainer.world_size > 1:
            raise UserError(
                f"LightningDistillation trains in one process, not in {self.trainer.world_size}; use devices=1"
            )

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        """One student update, with the critics' updates before it; logged as often as the engine is told to."""
        self.engine.training_step(batch, batch_idx)
        update, every = self.engine.update, self.engine.settings.log_every
        if update == 1 or update % every == 0:
            self.log_dict({name: float(value) for name, value in self.engine.shown.items()})

    # --- Lightning's checkpoints hold the models by themselves; moments and counters are the engine's ----------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the roles' optimisers and the engine's counters."""
        optimizers = {role: one.state_dict() for role, one in self.engine.optimisers.all().items()}
        counters = {name: getattr(self.engine, name) for name in COUNTERS}
        many = {name: dict(found) for name, found in self._many().items()}
        checkpoint[KEY] = {"optimizers": optimizers, "counters": counters, "many": many}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on where the checkpoint was written."""
        kept = checkpoint[KEY]
        for role, optimizer in self.engine.optimisers.all().items():
            optimizer.load_state_dict(kept["optimizers"][role])
        for name, value in kept["counters"].items():
            setattr(self.engine, name, value)
        for name, value in kept["many"].items():
            self._many()[name].update(value)

    def _many(self) -> dict[str, Counter[str]]:
        """Counters by name of a role or model."""
        optimisers = self.engine.optimisers
        return {"role_updates": optimisers.updates, "calls": self.engine.calls, "silent": optimisers.silent}
