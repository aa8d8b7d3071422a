"""Judging what somebody gives from Python: rows kept apart, and a metric of one's own or the energy distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath

import torch
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.evaluation.energy import Energy
from omnidistill.tasks import Metric, Task
from omnidistill.tasks import numbers as answered

Metrics = Callable[[Tensor, Context, Tensor | None], Mapping[str, float]]
"""(samples, their context, the held-out rows that belong to it) -> metrics by name."""

ENERGY = "energy"
TILES = 64


class Judged(Task):
    """A task as far as judging needs one.

    Args:
        task: path, shape and dtype, and contexts where nothing is held out.
        held_out: the rows kept apart, with their contexts. Sample i is made under the context of row i of them.
        metrics: of the user. Beside them the energy distance to the held-out rows, where samples are real numbers.
        primary: the metric that gaps are computed from; None: the energy distance, else the only one there is.
        teacher_steps: the teacher's full number of steps.
    """

    def __init__(
        self,
        task: Task,
        held_out: Batch | None,
        metrics: Metrics | None = None,
        primary: Metric | str | None = None,
        teacher_steps: int = 64,
    ) -> None:
        self.task, self.held_out, self.metrics = task, held_out, metrics
        self.name, self.path, self.shape, self.dtype = task.name, task.path, task.shape, task.dtype
        self.conditional, self.null = task.conditional, task.null
        self.teacher_steps = teacher_steps
        self.has_energy = held_out is not None and task.dtype.is_floating_point
        self.primary = Metric(primary) if isinstance(primary, str) else primary or self._only()
        self._known: Energy | None = None

    def _only(self) -> Metric:
        if self.has_energy:
            return Metric(ENERGY)
        raise UserError(
            "by which metric are gaps counted? primary='NAME' if lower is better, else primary=Metric('NAME', 'higher')"
        )

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if split == "train":
            return self.task.batch(count, g)
        if self.held_out is None:
            return Batch(None, self.task.batch(count, g).context, count)
        n, x0 = self.held_out.count, self.held_out.x0
        rows = torch.randperm(n, generator=g)[:count]
        if count > n:  # every row once, then any
            rows = torch.cat((rows, torch.randint(n, (count - n,), generator=g)))
        return Batch(None if x0 is None else x0[rows], self.held_out.context[rows], count)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        batch = self.batch(count, g, "held_out")
        return replace(batch.context, reference=batch.x0)

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        return self._measured(x0, context, context.reference, self._paired(context))

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        real, other = self.batch(count, g), self.batch(count, g, "held_out")
        if real.x0 is None or other.x0 is None:
            return {}
        return self._measured(real.x0, replace(real.context, reference=other.x0), other.x0, False)

    def _paired(self, context: Context) -> bool:
        """Whether a sample shares with its row more than the law that both are of."""
        return context.condition is not None or context.anchor is not None

    def _measured(self, x0: Tensor, context: Context, real: Tensor | None, paired: bool) -> dict[str, float]:
        x0, found = x0.detach().cpu(), dict[str, float]()
        if self.has_energy and real is not None:
            found[ENERGY] = self._energy(real, paired)(_masked(x0, context))
        if self.metrics is not None:
            found |= answered(self.metrics(x0, context, real))
        if self.primary.name not in found:
            raise UserError(
                f"metrics answers {', '.join(found) or 'nothing'}, not the primary '{self.primary.name}'"
            )
        return found

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        if self.primary.name != ENERGY or not self.has_energy or context.reference is None:
            return super().bootstrap(x0, context, g, counts)
        energy = self._energy(context.reference, self._paired(context))
        return energy.resampled(_masked(x0.detach().cpu(), context), counts)

    def _energy(self, real: Tensor, paired: bool) -> Energy:
        """The former one where the rows are the same: distances between them are computed once."""
        if self._known is None or not self._known.matches(real, paired):
            self._known = Energy(real, paired=paired)
        return self._known

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """The samples as numbers (csv), after a picture of them: grids as tiles, anything else as points."""
        real = x0 if context.reference is None else context.reference
        if x0.ndim >= 4 and x0.is_floating_point():
            return [tiles(x0, real, target), numbers(x0, target)]
        if x0.is_floating_point():
            from omnidistill.exact.render import scatter

            return scatter(x0.flatten(1), real.flatten(1), target, "samples")
        return [numbers(x0, target)]


def _masked(x0: Tensor, context: Context) -> Tensor:
    return x0 if context.mask is None else x0 * context.mask.cpu()


def numbers(x0: Tensor, target: FilePath) -> FilePath:
    """`target.csv`: one sample a line, flattened."""
    from omnidistill.data.files import write_text

    rows: Sequence[Sequence[float]] = x0.detach().cpu().flatten(1).tolist()
    form = "{:.7g}" if x0.is_floating_point() else "{}"
    text = "\n".join(",".join(form.format(value) for value in row) for row in rows)
    return write_text(text + "\n", target.with_name(target.name + ".csv"))


def tiles(x0: Tensor, real: Tensor, target: FilePath) -> FilePath:
    """`target.png`: the last two axes of the first samples side by side, on one scale from the least to the greatest
    real value; three entries before these axes are red, green and blue, of any other number the first is shown."""
    from matplotlib import pyplot

    low, high = float(real.min()), float(real.max())
    grids = x0[:TILES].detach().cpu().float().flatten(1, -3)
    grids = ((grids if grids.shape[1] == 3 else grids[:, :1]) - low) / max(high - low, 1e-12)
    n, h, w = len(grids), *grids.shape[2:]
    across = math.ceil(math.sqrt(n))
    sheet = torch.ones(3, math.ceil(n / across) * (h + 1), across * (w + 1))
    for i, grid in enumerate(grids.clamp(0, 1)):
        row, column = divmod(i, across)
        sheet[:, row * (h + 1) : row * (h + 1) + h, column * (w + 1) : column * (w + 1) + w] = grid
    times = max(1, 256 // max(sheet.shape[1:]))  # small ones are enlarged
    sheet = sheet.repeat_interleave(times, 1).repeat_interleave(times, 2)
    file = target.with_name(target.name + ".png")
    pyplot.imsave(file, sheet.permute(1, 2, 0).numpy())
    return file
