"""`audio/own`: recordings of the user's own and a teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnidistill.brought import Brought
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.modalities.audio.task import SIGNATURE, TRACKS, Music

LATENTS = "omnidistill.modalities.audio.latents.OwnLatents"


class OwnSounds(Brought, Music):
    """Log-mel clips of the teacher's shape, Float[b 1 mels frames], with its signature; options as `Music` has them.

    Judged against held-out clips by texture statistics that are fitted to training ones, or without a folder by
    `evaluation.plain` against the teacher's own samples.

    Args:
        folder: recordings; a label is a subfolder, or a file where there are none.
        foreign: a network of the user's class; `signature` says how its mels are made.
        classes: that a foreign network knows; None: none.
    """

    title = "Recordings of your own"
    data_hint = "task.folder=DIR names your recordings"
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omnidistill.modalities.audio.task.Music": {"labels": list(TRACKS)},
        f"{__name__}.OwnSounds": {},
        LATENTS: {},
    }

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        classes: int | None = None,
        labels: Sequence[str] | None = None,
        name: str = "audio/own",
        **options: Any,
    ) -> None:
        self.foreign = foreign
        if foreign is not None:
            shape = tuple(foreign.shape)
            mels = (options.get("signature") or asdict(SIGNATURE))["mels"]
            if len(shape) != 3 or shape[:2] != (1, mels):
                raise UserError(
                    f"{name} takes teachers of (1, {mels}, frames) numbers, this one has {shape}; task.signature says "
                    "how its mels are made"
                )
            options |= {"frames": shape[2], "path": foreign.path}
            options["shortest"] = min(options.get("shortest", shape[2]), shape[2])
        recordings, labels = self.files(folder, labels)
        if recordings is None and labels is None:
            labels = [str(number) for number in range(classes or 1)]
        super().__init__(folder=recordings, labels=labels, name=name, **options)
        self.folder = folder
        self.settle_labels(classes)

    @classmethod
    def target(cls, section: Mapping[str, Any]) -> str | None:
        shape = tuple((section.get("foreign") or {}).get("shape", (1, 1, 1)))
        return LATENTS if len(shape) == 2 else None

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Labels are not told a teacher that knows none."""
        drawn = super().batch(count, g, split)
        return drawn if self.conditional else replace(drawn, context=replace(drawn.context, condition=None))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        drawn = super().contexts(count, g)
        return drawn if self.conditional else replace(drawn, condition=None)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        if not isinstance(context.condition, Tensor) or context.condition.is_floating_point():
            context = replace(context, condition=torch.zeros(len(x0), dtype=torch.long))
        return super().render(x0, context, target)
