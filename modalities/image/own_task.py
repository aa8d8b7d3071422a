"""`image/own`: pictures of the user's own and a teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnidistill.brought import ROWS, Brought
from omnidistill.context import Batch, Context
from omnidistill.data import captions
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.modalities.image import data
from omnidistill.modalities.image.labelled import ImageTask
from omnidistill.modalities.image.own import own_labels, own_rows
from omnidistill.modalities.image.render import render
from omnidistill.paths import GaussianPath
from omnidistill.tasks import Metric

TASK = "omnidistill.modalities.image.task"


class OwnImages(Brought, ImageTask):
    """Pictures of the teacher's shape, Float[b c h w] in [-1, 1], or the latents of its autoencoder; the condition is
    the class, Long[b], where the teacher knows any.

    Judged by `evaluation.plain` against held-out pictures, or against the teacher's own samples without a folder.

    Args:
        folder: pictures, see `own_images`; in class folders where the teacher knows classes, else anywhere below it.
        foreign: a network of the user's class.
        picture: the shape of a picture, (c, h, w), 1 or 3 channels; without an autoencoder that of a foreign network.
        classes: that the teacher knows; None: none.
        labels: their names in the order of their numbers; None: the class folders' in natural order.
        network, teacher_steps, path, autoencoder: as the teacher's task has them.
        on_bad: `stop` at a picture that cannot be read, or `skip` it.
    """

    title = "Pictures of your own"
    primary = Metric("energy")
    data_hint = "task.folder=DIR names your pictures"
    encoder_hint = "task.autoencoder=DIR names the one that it was made by"
    judged_plainly = True
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"{TASK}.FashionMnist": {"classes": 10, "picture": [1, 28, 28], "labels": list(data.FASHION_CLASSES)},
        f"{TASK}.Digits": {"classes": 10, "picture": [1, 8, 8]},
        f"{__name__}.OwnImages": {},
        ROWS: {},
    }

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        picture: Sequence[int] = (1, 28, 28),
        classes: int | None = None,
        labels: Sequence[str] | None = None,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        path: GaussianPath | None = None,
        autoencoder: str | None = None,
        on_bad: str = "stop",
        name: str = "image/own",
    ) -> None:
        self.foreign, self.folder, self.on_bad = foreign, folder, on_bad
        made = None if foreign is None else tuple(int(size) for size in foreign.shape)
        shape = tuple(int(size) for size in (picture if made is None or autoencoder is not None else made))
        if autoencoder is None and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise UserError(f"{name} takes teachers of (1 or 3, h, w) numbers, this one has {shape}")
        super().__init__(
            name,
            shape,
            network or {},
            teacher_steps,
            path if foreign is None else foreign.path,  # type: ignore[arg-type]  # which refuses what is not Gaussian
            autoencoder,
            classes or 0,
        )
        if made is not None and self.shape != made:
            raise UserError(
                f"the teacher makes {made}, and {autoencoder} makes {self.shape} of pictures of {shape}; "
                "task.picture=[c,h,w] says how large pictures are"
            )
        self._files: dict[str, list[FilePath]] = {}
        self._given = None if labels is None else tuple(str(label) for label in labels)
        self.knows(classes, self._given)
        self.settle(classes)

    @classmethod
    def target(cls, section: Mapping[str, Any]) -> str | None:
        shape = tuple((section.get("foreign") or {}).get("shape", (1, 1, 1)))
        latents = len(shape) == 3 and shape[0] not in (1, 3)
        return ROWS if latents and section.get("autoencoder") is None else None

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        if self._given is not None:
            return self._given
        if not self.classes or self.folder is None:
            return ()
        return own_labels(self.folder) if self._cache is None else self._cache.labels

    def images(self, split: str) -> data.LabelledImages:
        assert self.folder is not None
        channels, *side = self.picture
        names = self._given if self.classes else None
        size = (side[0], side[1])
        found, self._files[split] = own_rows(
            self.folder, split, size, self.classes or 0, names, self.on_bad, channels=channels
        )
        return found

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        drawn = super().batch(count, g, split)
        return drawn if self.conditional else Batch(drawn.x0, Context(), count)

    def at(self, index: Tensor, split: str) -> Batch:
        found = super().at(index, split)
        context = found.context if self.conditional else Context()
        words = captions.beside([self._files[split][row] for row in index.tolist()])
        return Batch(found.x0, context, extra={} if words is None else {captions.KEY: captions.points(words)})

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Those of held-out pictures; labels drawn uniformly where there are none."""
        return super().contexts(count, g) if self.with_data else self.any_labels(count, g)

    def seen(self, x0: Tensor) -> Tensor:
        return self.pictures(x0)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A grid of pictures, by class where there are any."""
        pictures = self.pictures(x0)
        if self.classes and isinstance(context.condition, Tensor):
            pictures = pictures[torch.argsort(context.condition.cpu(), stable=True)]
        return [render(pictures, target.with_name(target.name + ".png"))]
