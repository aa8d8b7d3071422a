"""A teacher of the user's own, from Python: any `nn.Module`, any tensors, no configuration file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Condition, Context
from omnidistill.data import tensors
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.random import uniform
from omnidistill.student import Student
from omnidistill.tasks import Metric, Task
from omnidistill.training.frozen import twin

Source = Callable[[int, torch.Generator], Batch]


class OwnTask(Task):
    """What a recipe has to know about somebody's teacher: its network, its path, samples and conditions.

    Args:
        teacher: the network and how to read it.
        shape: of one sample.
        source: draws a batch.
        null: the label that means "no condition", or a function that empties conditions.
    """

    name = "own"
    primary = Metric("none")

    def __init__(
        self, teacher: NetworkDenoiser, shape: tuple[int, ...], source: Source, null: Null | None
    ) -> None:
        self.origin, self.path, self.shape, self.source = teacher, teacher.path, shape, source
        self.null = null  # type: ignore[assignment]  # a task's own is always a label
        self.dtype = torch.long if "categorical" in teacher.path.offers else torch.float32
        self.conditional = self.batch(1, torch.Generator().manual_seed(0)).context.condition is not None

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        return tensors.batch(self.source(count, g), self.path)

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        """A copy of the teacher's; with embeddings of the second time and the guidance scale where it has none."""
        network = twin(self.origin.network)
        return with_second(
            network, target_time=target_time, guidance=guidance, time_module=self.origin.time_module
        )

    def reading(self) -> Mapping[str, Any]:
        return self.origin.reading()


def _source(data: Tensor | None, condition: Condition, count: int) -> Source:
    """Batches by rows of the user's tensors, data and condition together."""

    def draw(size: int, g: torch.Generator) -> Batch:
        rows = (uniform(torch.empty(size), g) * count).long()
        context = tensors.context(Context(condition))[rows]
        return Batch(None if data is None else data[rows], context, size)

    return draw


def distill(
    teacher: NetworkDenoiser,
    recipe: str = "dmd2",
    *,
    data: Any = None,
    shape: tuple[int, ...] | None = None,
    condition: Condition = None,
    null: Null | None = None,
    time_module: str | None = None,
    steps: int | None = None,
    out: str | FilePath | None = None,
    options: tuple[str, ...] | list[str] = (),
    **keys: Any,
) -> Student:
    """Distils a teacher of your own and returns the student.

    Args:
        teacher: your network, its path and its parameterisation. A copy is worked with; yours stays as it is. What
            you froze in it (`requires_grad_(False)` on a part) stays frozen in student and critics.
        recipe: a name that `omnidistill recipes` lists.
        data: clean samples, Float[n ...] or Long[n l], scaled as the teacher was trained, a tensor or an array; or a
            function `(count, generator) -> Batch`; None for recipes that need no data.
        shape: of one sample; needed where there is no data tensor.
        condition: conditions to draw from, a tensor or a mapping of tensors; one for each row of `data`, or any
            number without data.
        null: the label that means "no condition", or a function that empties conditions, for guidance.
        time_module: the submodule of the network that embeds the time, for recipes that tell the student a second time
            or a guidance scale (`lcm`); the teacher's own `time_module` if not given.
        steps: sampler steps that the student is trained for, `student.steps`; the recipe's if not given. (On the
            command line `steps=1,2,4` are the step counts that are evaluated; here nothing is.)
        out: a folder to keep checkpoints, logs and the student in; a temporary one if not given.
        options: further overrides in the command line's grammar, e.g. `["families.matching.critic_updates=3"]`.
        keys: keys that every recipe understands: updates, batch, seed, precision, device, resume.

    Example:
        >>> teacher = NetworkDenoiser(net, rectified_flow(), "flow")
        >>> student = omnidistill.distill(teacher, "dmd2", data=images, updates=1000, batch=64)
        >>> student.sample(16, steps=1)
    """
    from omnidistill.configuration.compose import compose
    from omnidistill.configuration.overrides import quoted
    from omnidistill.runs.distil import train_student
    from omnidistill.runs.setup import device_of
    from omnidistill.student import save

    if not isinstance(teacher, NetworkDenoiser):
        raise UserError(
            f"a teacher is NetworkDenoiser(network, path, parameterisation), got {type(teacher).__name__}; wrap it"
        )
    if data is not None and not callable(data):
        data = tensors.states(tensors.tensor(data, "data"), teacher.path)
        if condition is not None and tensors.rows(condition) != len(data):
            raise UserError(
                f"condition has {tensors.rows(condition)} rows and data {len(data)}; give one for each sample"
            )
        shape = tuple(data.shape[1:])
    if shape is None:
        raise UserError("without a data tensor the shape of one sample is needed, e.g. shape=(1, 28, 28)")
    count = len(data) if isinstance(data, Tensor) else 1 if condition is None else tensors.rows(condition)
    source = data if callable(data) else _source(data, condition, count)
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"steps is the number of sampler steps of the student, at least 1; got {steps!r}")
        options = [f"student.steps={steps}", *options]
    with TemporaryDirectory() as temporary:
        folder = FilePath(temporary if out is None else out)
        folder.mkdir(parents=True, exist_ok=True)
        given = [f"{key}={value}" for key, value in keys.items()]
        cfg = compose(
            "config", ["task=own", f"recipe={recipe}", f"out={quoted(str(folder))}", *given, *options]
        )
        device = device_of(cfg)
        teacher = copy.deepcopy(teacher).to(device)
        tensors.single(teacher.network)
        if time_module is not None:
            teacher.time_module = time_module
        task = OwnTask(teacher, shape, source, null)
        student, description, _ = train_student(cfg, task, teacher, folder, device)
        if out is not None:
            made = {**description.made_by, "shape": list(shape)}
            save(student, replace(description, task=None, made_by=made), folder)
    return Student(student, description.sampler(), description.steps, task, shape, task.dtype)
