"""Runs the engine: data, progress, logs, checkpoints, interruption. Where a run goes on is `training.resume`'s."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path as FilePath
from types import FrameType

from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.tasks import Task
from omnidistill.training import checkpoint
from omnidistill.training import resume as resuming
from omnidistill.training.logs import ScalarLog
from omnidistill.training.module import Distillation
from omnidistill.training.parts import drawn_apart, rows, same
from omnidistill.training.ranks import Ranks
from omnidistill.training.watch import Watch


class Batches:
    """The batches of each student update, one for each turn: a function of the update's number alone.

    Of several processes each draws its own rows; the whole batch where samples differ in length, or where a task draws
    in a way that cannot be cut.
    """

    def __init__(
        self,
        task: Task,
        turns: int,
        batch: int,
        seed: int,
        start: int,
        updates: int,
        ranks: Ranks = Ranks(),
    ) -> None:
        self.task, self.turns, self.batch, self.seed = task, turns, batch, seed
        self.start, self.updates, self.ranks = start, updates, ranks
        self._apart: bool | None = None if ranks.world > 1 else False

    def __len__(self) -> int:
        return self.updates - self.start

    def __iter__(self) -> Iterator[list[Batch]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> list[Batch]:
        update = self.start + index
        keys = (self.seed, "batch", update)
        batches = [self._drawn(*keys, turn, 0) for turn in range(self.turns)]
        for batch in batches:
            if batch.x0 is not None and batch.x0.is_floating_point() and not batch.x0.isfinite().all():
                bad = int((~batch.x0.isfinite()).sum())
                raise UserError(
                    f"the training data of {self.task.name} hold NaN or infinite numbers ({bad} in the batch of "
                    f"update {update + 1}); clean them first"
                )
        return batches

    def _drawn(self, *keys: int | str) -> Batch:
        if self._apart:
            apart = drawn_apart(self.task.batch, self.batch, self.ranks.own(self.batch), generator(*keys))
            if apart is not None:
                return apart
        batch = self.task.batch(self.batch, generator(*keys))
        if self._apart is None:
            own = self.ranks.own(self.batch)
            self._apart = batch.context.mask is None and same(
                rows(batch, own), drawn_apart(self.task.batch, self.batch, own, generator(*keys))
            )
        return batch


def run(
    module: Distillation,
    task: Task,
    folder: FilePath,
    *,
    device: str = "cpu",
    resume: bool = False,
    title: str = "distilling",
    log: bool = True,
) -> None:
    """Trains to `module.settings.updates` student updates. Ctrl-C writes a checkpoint, then raises KeyboardInterrupt.

    Args:
        folder: gets `checkpoints/last.safetensors` and `logs/`.
        resume: continue from a checkpoint if one is there.
    """
    settings = module.settings
    module.to(device)
    start = _begin(module, folder) if resume else 0
    if start >= settings.updates:
        return
    ranks = module.ranks
    batches = Batches(
        task, len(module.cast.turns), settings.batch, settings.seed, start, settings.updates, ranks
    )
    scalars = ScalarLog(folder / "logs", start) if log and ranks.main else None
    state = _Pulse(folder / "checkpoints", scalars)
    module.pulse = state
    shown = track(settings.updates, title) if ranks.main else nullcontext(state.advance)
    try:
        with _interruptible(state), shown as advance:
            state.advance = advance
            advance(start)
            for index, drawn in enumerate(batches):
                module.training_step([batch.to(module.device) for batch in drawn], index)
                if state.stopped:
                    break
    except KeyboardInterrupt as stop:  # a second Ctrl-C, which was not held back
        raise KeyboardInterrupt(f"stopped in update {module.update + 1}, before it was done") from stop
    finally:
        if scalars:
            scalars.close()
    if state.stopped:
        raise KeyboardInterrupt(f"checkpoint of update {module.update} kept in {state.last}")


def _begin(module: Distillation, folder: FilePath) -> int:
    """Loads the checkpoint that the run goes on from; the update that it holds, 0 where there is none."""
    place = resuming.place(folder, module.settings, module.device.type)
    if place is None:
        return 0
    done = checkpoint.peek(place)
    (checkpoint.load_models if done >= module.settings.updates else checkpoint.load)(module, place)
    return done


class _Pulse:
    """What happens around each student update: progress, logs, checkpoints, a requested stop."""

    def __init__(self, folder: FilePath, scalars: ScalarLog | None) -> None:
        self.last, self.steady, self.scalars = folder / resuming.LAST, folder / resuming.STEADY, scalars
        self.asked = self.stopped = False
        self.watch = Watch()
        self.advance: Callable[..., None] = lambda *count, **shown: None

    def __call__(self, module: Distillation) -> None:
        settings, update = module.settings, module.update
        main = {k.split("/", 1)[1]: v for k, v in module.shown.items() if k.startswith("student/")}
        self.advance(1, **{k: v for k, v in main.items() if k not in ("lr", "grad_norm")})
        if self.scalars and (update % settings.log_every == 0 or update == 1):
            self.scalars.add(update, module.seconds, module.shown)
            for line in self.watch(module.shown):
                module.warned.append(f"In training, update {update}: {line}.")
                print(f"warning: update {update}: {line}", file=sys.stderr)
        # Asked of one process, done by all after the same update, and after its checkpoint.
        self.stopped = module.ranks.any(self.asked, module.device)
        if update == settings.optim.steady(settings.updates) < settings.updates and not module.bound_to_end:
            checkpoint.save(module, self.steady)
        if update % settings.checkpoint_every == 0 or update == settings.updates or self.stopped:
            checkpoint.save(module, self.last)


@contextmanager
def _interruptible(state: _Pulse) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the running update; the second one is not held back."""

    def ask(number: int, frame: FrameType | None) -> None:
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: nothing to hold back
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
