"""`speech/own`: noisy recordings of the user's own and an enhancement teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from omnidistill.brought import Brought
from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.modalities.speech.enhancement import data
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram
from omnidistill.modalities.speech.enhancement.task import Enhancement


class OwnEnhancement(Brought, Enhancement):
    """Spectrograms as the teacher's, Float[b 2 bins t]; options as `Enhancement` has them. The data are what is to be
    cleaned, so there is no run without a folder.

    Args:
        folder: pairs, `{train,valid,test}/{clean,noisy}`.
        foreign: a network of the user's class on a path with an anchor; `spectrogram` says how waves become states.
    """

    title = "Speech enhancement, recordings of your own"
    data_hint = "task.folder=DIR names your {train,valid,test}/{clean,noisy}"
    data_options = ("folder", "music")
    judged_by_context = True
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omnidistill.modalities.speech.enhancement.task.Enhancement": {},
        f"{__name__}.OwnEnhancement": {},
    }

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        name: str = "speech/own",
        **options: Any,
    ) -> None:
        self.foreign = foreign
        if foreign is not None:
            shape, bins = tuple(foreign.shape), Spectrogram.of(options.get("spectrogram")).bins
            if len(shape) != 3 or shape[:2] != (2, bins):
                raise UserError(
                    f"{name} takes teachers of (2, {bins}, frames) numbers, this one has {shape}; task.spectrogram "
                    "says how waves become states"
                )
            options |= {"frames": shape[2], "path": foreign.path}
        super().__init__(folder=folder, name=name, **{"dnsmos": False, **options})
        self.settle(None)

    def alike(self, count: int, g: torch.Generator, split: str) -> Batch:
        """Crops of both splits, all of `frames` frames."""
        return self.crops(self._train if split == "train" else self._held_out, count, g)

    def pairs(self, split: str) -> data.Pairs:
        if self.folder is None:
            raise UserError(f"{self.name} cleans recordings, and there are none: {self.data_hint}")
        return super().pairs(split)
