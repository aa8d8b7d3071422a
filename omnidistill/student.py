"""What a run leaves behind: a few-step student that samples. `omnidistill.saved` says how it lies on the disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from omnidistill.conditions import asked_for, label_number
from omnidistill.context import Condition, Context
from omnidistill.denoisers import Denoiser, Windowed
from omnidistill.denoisers.guidance import Null
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.random import PerSample, generator
from omnidistill.samplers import FewStep
from omnidistill.samplers.inversion import invert, regenerate
from omnidistill.samplers.translation import start as from_data
from omnidistill.saved.description import BASE, Recipe, check_labels, described, read_recipe, save
from omnidistill.saved.own_module import read_own
from omnidistill.saved.rebuilding import (
    assemble,
    described_by,
    headed,
    led,
    read_denoiser,
    usual_teacher,
)
from omnidistill.tasks import Task
from omnidistill.training.memory import check_bytes

__all__ = [
    "BASE",
    "Recipe",
    "Student",
    "assemble",
    "check_labels",
    "described",
    "headed",
    "label_number",
    "led",
    "load",
    "read_denoiser",
    "read_recipe",
    "save",
    "usual_teacher",
]


@dataclass
class Student:
    """A denoiser and the sampler it was trained for."""

    denoiser: Denoiser
    sampler: FewStep
    steps: int = 1
    task: Task | None = None
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    translates: bool = False

    @torch.no_grad()
    def sample(
        self,
        count: int,
        steps: int | None = None,
        seed: int = 0,
        condition: Condition | int | str = None,
        *,
        context: Context | None = None,
        batch: int = 256,
    ) -> Shaped[Tensor, "{count} ..."]:
        """`count` clean samples, real numbers or tokens.

        Args:
            steps: sampler steps; the number it was trained for if not given.
            condition: one label for all samples, by its number or its name, or a label (or other condition) for each;
                drawn if not given.
            context: the whole context instead, e.g. with anchors and masks; overrides `condition`.
            batch: samples a network call. A sample depends on the seed, its place and its context alone. Contexts that
                are not given the task draws in order, so the first of six is the first of one, whatever the batch.
        """
        steps = self.steps if steps is None else steps
        if count < 1:
            raise UserError(f"count must be >= 1, got {count}")
        if batch < 1:
            raise UserError(f"batch must be >= 1, got {batch}")
        if self.translates:
            raise UserError(
                "this student makes samples of samples: give it some, student.translate(x0, condition)"
            )
        check_bytes(4 * count * math.prod(self.shape), f"{count} samples", "ask for fewer")
        context = self.context(count, seed, condition) if context is None else context
        return self._walked(count, steps, seed, context, batch)

    @torch.no_grad()
    def translate(
        self,
        x0: Tensor,
        condition: Condition | int | str,
        steps: int | None = None,
        seed: int = 0,
        *,
        batch: int = 256,
    ) -> Tensor:
        """Samples `x0: Float[count ...]`, scaled as the data, made into samples of other labels: one label for all or
        one for each, as `sample` takes them. By a student trained with `student.inputs=translated`."""
        if not self.translates:
            raise UserError(
                "this student makes samples of noise; one that translates has student.inputs=translated"
            )
        context = self.context(len(x0), seed, condition)
        return self._walked(len(x0), steps or self.steps, seed, context, batch, x0)

    def _walked(
        self, count: int, steps: int, seed: int, context: Context, batch: int, x0: Tensor | None = None
    ) -> Tensor:
        """Walks in batches, from noise or from samples `x0`."""
        device, chunks = next(self.denoiser.parameters()).device, []
        for first in range(0, count, batch):
            part = slice(first, min(first + batch, count))
            here = context[part].to(device)
            x_1 = None if x0 is None else from_data(self.denoiser.path, x0[part].to(device))
            like = self._like(part.stop - first, device, here) if x_1 is None else x_1
            # One for each sample, on the CPU: whatever is beside it and wherever it is made, a sample is the same.
            g = PerSample([generator(seed, "sample", number) for number in range(first, part.stop)])
            chunks.append(self.sampler.sample(self.denoiser, like, steps, here, g=g, x_1=x_1).x0)  # type: ignore[arg-type]
        return torch.cat(chunks)

    @torch.no_grad()
    def invert(self, x0: Tensor, steps: int | None = None, *, context: Context = Context()) -> Tensor:
        """The noise that `x0: Float[count ...]` comes from, in `steps` jumps upwards. Of a student that learned them
        (`icd`, `inverse-and-edit`) `regenerate` finds x0 again, or under another condition an edited one."""
        return self._through(invert, x0, steps, context)

    @torch.no_grad()
    def regenerate(self, x_1: Tensor, steps: int | None = None, *, context: Context = Context()) -> Tensor:
        """The sample that a noise leads to, in `steps` deterministic jumps."""
        return self._through(regenerate, x_1, steps, context)

    def _through(self, way: Any, x: Tensor, steps: int | None, context: Context) -> Tensor:
        device = next(self.denoiser.parameters()).device
        times = self.sampler.times(self.denoiser, self.steps if steps is None else steps).to(device)
        return way(self.denoiser, x.to(device), times, context.to(device))

    @torch.no_grad()
    def sample_for(
        self, source: str | FilePath, steps: int | None = None, seed: int = 0
    ) -> Iterator[tuple[str, Tensor | UserError, Context]]:
        """One sample for each of the user's own inputs at `source`, a file or a folder that the task can read.

        Yields:
            The input's name, the sample, Float[1 ...] or Long[1 n], on the CPU, or what is wrong with the input, and
            its context. An input longer than the task's `window` is sampled in windows that agree where they overlap.

        Example:
            >>> for name, x0, context in omnidistill.load("runs/student").sample_for("noisy"):
            ...     task.write(x0, context, Path("clean") / name)
        """
        if self.task is None:
            raise UserError("a student without a task reads no files; pass the context to sample()")
        whole, window = self.denoiser, self.task.window
        denoiser = whole if window is None else Windowed(whole, *window)
        device = next(whole.parameters()).device
        for name, context in self.task.inputs(FilePath(source)):
            if isinstance(context, UserError):
                yield name, context, Context()
                continue
            here = context.to(device)
            # Of the input's name, so that what else is there changes nothing.
            g = generator(seed, "input", name, device=device)
            like = self.task.like(1, device, here)
            try:
                made = self.sampler.sample(denoiser, like, steps or self.steps, here, g=g).x0.cpu()
            except UserError as error:
                yield name, error, context
                continue
            finite = not made.is_floating_point() or bool(made.isfinite().all())
            yield name, made if finite else UserError("the sample made for it holds NaN or infinity"), context

    def _like(self, count: int, device: torch.device, context: Context) -> Tensor:
        if self.task is not None:
            return self.task.like(count, device, context)
        known = context.anchor
        if known is None and not self.dtype.is_floating_point:
            known = context.mask  # of tokens, Bool[b n]: they may be fewer or more than in training
        shape = (count, *self.shape) if known is None else known.shape
        return torch.empty(shape, dtype=self.dtype, device=device)

    def context(self, count: int, seed: int = 0, condition: Condition | int | str = None) -> Context:
        """The contexts of `count` samples: drawn by the task, with the condition that is asked for. The first of many
        are those of few; for a teacher from Python they are what its data function answers."""
        drawn = (
            Context()
            if self.task is None
            else self.task.contexts(count, generator(seed, "sample", "contexts"))
        )
        return drawn if condition is None else asked_for(condition, drawn, count, self.task)


def load(
    folder: str | FilePath,
    device: str = "cpu",
    *,
    network: nn.Module | None = None,
    path: Path | None = None,
    null: Null | None = None,
    trust: Sequence[str] = (),
) -> Student:
    """The student of a run's folder, ready to sample.

    Args:
        network, path: for a student distilled from your own module: a fresh instance of it and the path.
        null: what empties a condition, as `distill` was given it, for one that is sampled under guidance.
        trust: packages beside this one and installed plug-ins that its task may be built from.

    Example:
        >>> omnidistill.load("runs/demo").sample(16, steps=1, seed=0, condition=3)
    """
    folder = FilePath(folder)
    recipe = read_recipe(folder, "student")
    if recipe.task is None:
        denoiser, path = read_own(folder, recipe, network, path, null, trust)
        denoiser = denoiser.to(device).eval()
        shape = tuple(recipe.made_by.get("shape") or (recipe.foreign or {}).get("shape") or ())
        dtype = torch.long if "categorical" in path.offers else torch.float32
        return Student(denoiser, recipe.sampler(), recipe.steps, None, shape, dtype, recipe.translates)
    from omnidistill.configuration.instantiation import build, trusting

    described_as, foreign = dict(recipe.task), recipe.task.get("foreign")
    if network is not None and isinstance(foreign, Mapping):
        described_as["foreign"] = {**foreign, "network": None}
    with described_by(folder / "student.json"):
        task: Task = build(trusting(described_as, trust))
        if not isinstance(task, Task):
            raise UserError(f"{folder / 'student.json'}: {recipe.task['_target_']} is no task")
    if network is not None and isinstance(foreign, Mapping):
        task.lend(network)  # type: ignore[attr-defined]  # what has a foreign network takes one
    denoiser, _ = read_denoiser(folder, "student", task, device, trust)
    return Student(denoiser, recipe.sampler(), recipe.steps, task, task.shape, task.dtype, recipe.translates)
