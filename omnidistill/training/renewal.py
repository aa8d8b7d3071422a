"""Weights that no optimiser gives: what is drawn anew before a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omnidistill.networks.redrawn import redrawn
from omnidistill.random import generator
from omnidistill.training.roles import STUDENT

if TYPE_CHECKING:
    from omnidistill.training.module import Distillation


def renew(module: Distillation, role: str, turn: int) -> None:
    """Before the update of a role: its models that have a `renew(g)` (a jury's heads) and, before the student's, the
    random networks that are to be others each time. A function of seed, update and turn: a resumed run draws the same.
    """
    g = generator(module.settings.seed, "renewal", module.update, turn)
    for name in module.cast.parts[role]:
        again = getattr(module.trained[name], "renew", None)
        if again is not None:
            again(g)
    if role == STUDENT:
        for name, spec in module.cast.roles.items():
            if spec.redrawn:
                redrawn(module.trained[name], g)
