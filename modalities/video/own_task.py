"""`video/own`: films of the user's own and a teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnidistill.brought import ROWS, Brought
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.modalities.video.data import FOOTAGE
from omnidistill.modalities.video.task import Clips


class OwnClips(Brought, Clips):
    """Clips of the teacher's shape, Float[b 3 f size size] in [-1, 1]; options as `Clips` has them.

    Judged against held-out clips by descriptors that are fitted to training ones (`metrics.Judge`), or without a folder
    by `evaluation.plain` against the teacher's own samples.

    Args:
        folder: films, a subfolder is a label.
        foreign: a network of the user's class.
        classes: that a foreign network knows; None: none.
    """

    title = "Films of your own"
    data_hint = "task.folder=DIR names your films"
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omnidistill.modalities.video.task.Clips": {"labels": [item.label for item in FOOTAGE]},
        f"{__name__}.OwnClips": {},
        ROWS: {},
    }

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        classes: int | None = None,
        labels: Sequence[str] | None = None,
        name: str = "video/own",
        **options: Any,
    ) -> None:
        self.foreign = foreign
        if foreign is not None:
            shape = tuple(foreign.shape)
            if len(shape) != 4 or shape[0] != 3 or shape[2] != shape[3]:
                raise UserError(
                    f"{name} takes teachers of (3, frames, side, side) numbers, this one has {shape}"
                )
            options |= {"frames": shape[1], "size": shape[2], "path": foreign.path}
            options["side"] = max(options.get("side", 0), shape[2])
        films, labels = self.files(folder, labels)
        if films is None and labels is None:
            labels = [str(number) for number in range(classes or 0)]
        super().__init__(folder=films, labels=labels, name=name, **options)
        self.folder = folder
        self.settle_labels(classes)
        if not self.conditional:
            self.classes = self.null = None

    @classmethod
    def target(cls, section: Mapping[str, Any]) -> str | None:
        shape = tuple((section.get("foreign") or {}).get("shape", (3, 1, 1, 1)))
        return ROWS if len(shape) == 4 and shape[0] != 3 else None

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Labels are not told a teacher that knows none."""
        drawn = super().batch(count, g, split)
        return drawn if self.conditional else replace(drawn, context=replace(drawn.context, condition=None))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        if not self.conditional and not self.with_data:
            return Context()
        drawn = super().contexts(count, g)
        return drawn if self.conditional else replace(drawn, condition=None)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """By label, where conditions are labels."""
        told = context.condition
        labelled = isinstance(told, Tensor) and not told.is_floating_point()
        return super().render(x0, context if labelled else replace(context, condition=None), target)
