"""Runs the Lightning module: data, progress, logs, checkpoints, interruption, resumption."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, Dataset

from omnidistill.context import Batch
from omnidistill.errors import RunError, UserError
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.tasks import Task
from omnidistill.training import checkpoint
from omnidistill.training.logs import ScalarLog
from omnidistill.training.module import Distillation

LAST = "last.safetensors"


class Batches(Dataset):
    """The batches of each student update, one for each turn: a function of the update's number alone."""

    def __init__(
        self, task: Task, turns: int, batch: int, seed: int, start: int, updates: int, rank: int = 0
    ) -> None:
        self.task, self.turns, self.batch, self.seed = task, turns, batch, seed
        self.start, self.updates, self.rank = start, updates, rank

    def __len__(self) -> int:
        return self.updates - self.start

    def __getitem__(self, index: int) -> list[Batch]:
        update = self.start + index
        keys = (self.seed, "batch", update)
        batches = [
            self.task.batch(self.batch, generator(*keys, turn, self.rank)) for turn in range(self.turns)
        ]
        for batch in batches:
            if batch.x0 is not None and batch.x0.is_floating_point() and not batch.x0.isfinite().all():
                bad = int((~batch.x0.isfinite()).sum())
                raise UserError(
                    f"the training data of {self.task.name} hold NaN or infinite numbers ({bad} in the batch of "
                    f"update {update + 1}); clean them first"
                )
        return batches


def run(
    module: Distillation,
    task: Task,
    folder: FilePath,
    *,
    device: str = "cpu",
    resume: bool = False,
    title: str = "distilling",
    log: bool = True,
    workers: int = 0,
) -> None:
    """Trains to `module.settings.updates` student updates. Ctrl-C writes a checkpoint, then raises KeyboardInterrupt.

    Args:
        folder: gets `checkpoints/last.safetensors` and `logs/`.
        resume: continue from that checkpoint if it is there.
    """
    _quiet()
    import lightning as L

    settings = module.settings
    last = folder / "checkpoints" / LAST
    trainer = L.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_epochs=1,
        barebones=True,
        use_distributed_sampler=False,
    )
    state = _Pulse(last, trainer)
    if resume and last.is_file():
        # Optimisers exist only inside fit; the callback loads them as soon as they do.
        state.resume_from = last
        start = checkpoint.peek(last)
        if start >= settings.updates:
            checkpoint.load_models(module, last)
            return
    else:
        start = 0
    batches = Batches(task, len(module.cast.turns), settings.batch, settings.seed, start, settings.updates)
    # The loader draws a seed for its workers; it has its own generator so as to leave the global one alone.
    seeds = generator(settings.seed, "workers")
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, num_workers=workers, generator=seeds)
    scalars = ScalarLog(folder / "logs", start) if log else None
    try:
        with _interruptible(state), track(settings.updates, title) as advance:
            advance(start)
            state.attach(module, advance, scalars)
            trainer.fit(module, loader)
    except SystemExit as exit_:  # Lightning's answer to a second Ctrl-C, which was not held back
        raise KeyboardInterrupt(f"stopped in update {module.update + 1}, before it was done") from exit_
    finally:
        if scalars:
            scalars.close()
    if state.stopped:
        raise KeyboardInterrupt(f"checkpoint of update {module.update} kept in {last}")
    if module.update < settings.updates:
        raise RunError(f"training ended at update {module.update} of {settings.updates}")


class _Pulse:
    """What happens around each student update: progress, logs, checkpoints, a requested stop."""

    def __init__(self, last: FilePath, trainer: Any) -> None:
        self.last, self.trainer = last, trainer
        self.stopped = False
        self.resume_from: FilePath | None = None

    def attach(self, module: Distillation, advance: Callable[..., None], scalars: ScalarLog | None) -> None:
        self.advance, self.scalars = advance, scalars
        module.pulse = self
        module.on_train_start = self._start(module)

    def _start(self, module: Distillation) -> Callable[[], None]:
        def on_train_start() -> None:
            if self.resume_from is not None:
                checkpoint.load(module, self.resume_from)

        return on_train_start

    def __call__(self, module: Distillation) -> None:
        settings, update = module.settings, module.update
        main = {k.split("/", 1)[1]: v for k, v in module.shown.items() if k.startswith("student/")}
        self.advance(1, **{k: v for k, v in main.items() if k not in ("lr", "grad_norm")})
        if self.scalars and (update % settings.log_every == 0 or update == 1):
            self.scalars.add(update, module.seconds, module.shown)
        if update % settings.checkpoint_every == 0 or update == settings.updates or self.stopped:
            checkpoint.save(module, self.last)
        if self.stopped:
            self.trainer.should_stop = True


@contextmanager
def _interruptible(state: _Pulse) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the running update; the second one is not held back."""

    def ask(number: int, frame: FrameType | None) -> None:
        if state.stopped:
            raise KeyboardInterrupt
        state.stopped = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: nothing to hold back
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _quiet() -> None:
    """Lightning's remarks on hardware and workers are about its own defaults, not about the user's run."""
    for name in (
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
