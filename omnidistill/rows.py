"""Samples that nobody here turns into what people look at: latents, or whatever the user's encoder left in a cache.

A modality's `own` task hands a teacher of such samples over to this one (`Brought.target`), and a modality that can
decode them puts its own on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

import torch
from torch import Tensor

from omnidistill.brought import Brought
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.tasks import Metric, Task
from omnidistill.training.cache_format import is_cache
from omnidistill.training.safetensors_file import write_safetensors

SHOWN, COLUMNS = 16, 4


class Rows(Brought, Task):
    """Samples of the teacher's shape, rows of a cache or none at all; judged by `evaluation.plain`.

    Args:
        folder: as `omnidistill cache` wrote it; None: recipes without data, judged by the teacher's own samples.
        foreign: the teacher's network.
        classes: that it knows, prompts among them; None: none.
        labels: their names in the order of their numbers.
        teacher_steps: the teacher's full number of steps.
        on_bad: of files, which are none here.
    """

    title = "Samples as your teacher makes them"
    primary = Metric("energy")
    data_hint = "task.folder=DIR names rows that `omnidistill cache` wrote"
    judged_plainly = True

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        classes: int | None = None,
        labels: Sequence[str] | None = None,
        teacher_steps: int = 32,
        on_bad: str = "stop",
        name: str = "own",
    ) -> None:
        if foreign is None:
            raise UserError(f"{name} takes shape and path of its samples from the teacher: teacher=DIR")
        self.name, self.folder, self.foreign, self.on_bad = name, folder, foreign, on_bad
        self.path, self.shape, self.teacher_steps = foreign.path, tuple(foreign.shape), int(teacher_steps)
        if "categorical" in self.path.offers:
            self.dtype, self.primary = torch.long, Metric("bigram")
        self.labels = tuple(str(label) for label in (labels if labels is not None else range(classes or 0)))
        self.knows(classes, self.labels)
        self.check_folder()
        self.settle(classes)

    def check_folder(self) -> None:
        """
        Raises:
            UserError: files, of which these samples are not made here.
        """
        if self.folder is not None and not is_cache(self.folder):
            raise UserError(
                f"nothing here makes the teacher's samples, {self.shape}, of what '{self.folder}' holds: encode it by "
                "`omnidistill cache`, without teacher=, and give that folder, or name the teacher's task.autoencoder"
            )

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Those of held-out rows; labels drawn uniformly where there are none."""
        return super().contexts(count, g) if self.with_data else self.any_labels(count, g)

    def encoder_digest(self) -> str:
        """Of any encoder: nothing here decodes, so which one the teacher knows is the user's to say."""
        return "" if self._header is None else self._header.digest

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of their numbers, and these themselves."""
        x0 = x0.detach().cpu()
        file = target.with_name(target.name + ".safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors({"x0": x0.contiguous()}, file, {})
        return [picture(x0, target.with_name(target.name + ".png")), file]

    def file_suffix(self) -> str:
        return ".safetensors"


def plane(sample: Tensor) -> Tensor:
    """One sample as Float[h w]: of three axes and more the mean over the first, further ones side by side."""
    sample = sample.float()
    if sample.ndim < 2:
        return sample.reshape(1, -1)
    if sample.ndim == 2:
        return sample
    flat = sample.mean(0)
    return flat if flat.ndim == 2 else torch.cat(list(flat.flatten(0, -3)), 1)


def picture(x0: Tensor, path: FilePath) -> FilePath:
    """The first samples in a grid, each between its own extremes."""
    from matplotlib.figure import Figure

    count = min(len(x0), SHOWN)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(2.0 * min(count, COLUMNS), 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, min(count, COLUMNS), squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, sample in zip(axes, x0, strict=False):
        axis.imshow(plane(sample).numpy(), aspect="auto", cmap="magma")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=64)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
