"""`coordinates/own`: structures of the user's own and a teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from omnidistill.brought import Brought
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.modalities.coordinates.task import Ensemble
from omnidistill.paths import GaussianPath
from omnidistill.training.cache_format import header_of


class OwnStructures(Brought, Ensemble):
    """Structures of the teacher's molecule, Float[b n 3]; options as `Ensemble` has them. The data say which it
    is, so there is no run without a folder, though recipes that need no data make no use of its structures.

    Args:
        folder: structures, see `data.own`; or a cache of them, with conditions that were encoded beside.
        molecule: with a cache: structures that say whose points they are; samples are judged by held-out ones of them.
        foreign: a network of the user's class on a Gaussian path, in units of `scale`.
    """

    title = "Structures of your own"
    data_hint = "task.folder=DIR names your structures"
    data_options = ("folder", "molecule")
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omnidistill.modalities.coordinates.task.Ensemble": {},
        f"{__name__}.OwnStructures": {},
    }

    def __init__(
        self,
        folder: str | None = None,
        molecule: str | None = None,
        foreign: Foreign | None = None,
        name: str = "coordinates/own",
        **options: Any,
    ) -> None:
        if folder is None:
            raise UserError(f"{name} learns from structures which molecule it is about: {self.data_hint}")
        cached = header_of(folder) is not None
        if cached and molecule is None:
            raise UserError(
                f"'{folder}' holds points and not of which molecule: task.molecule=DIR names structures of it"
            )
        self.foreign = foreign
        super().__init__(folder=molecule if cached else folder, name=name, **options)
        self.folder = folder
        if foreign is not None:
            if tuple(foreign.shape) != self.shape:
                raise UserError(
                    f"{folder} holds {self.shape[0]} points, the teacher has {tuple(foreign.shape)}"
                )
            if not isinstance(foreign.path, GaussianPath):
                raise UserError(f"{name} needs a Gaussian path, got {foreign.path}")
            self.path = foreign.path
        self.settle(None)

    @property
    def _plainly(self) -> bool:
        return False  # points that are turned are the same structure, which plain figures do not know
