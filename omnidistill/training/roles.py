"""From the roles that an objective declares to models and a schedule of turns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import Objective, RoleSpec
from omnidistill.paths import Path

STUDENT, EMA = "student", "ema"


@dataclass(frozen=True)
class Cast:
    """Who takes part in a run.

    Attributes:
        models: every model but the teacher, by name: student, ema, critics, averages, heads.
        roles: the spec of each role, student and ema included.
        parts: for each trained role the names of the models that its optimiser trains.
        turns: the roles to be updated for one student update, in order; critics first, the student last.
    """

    models: Mapping[str, nn.Module]
    roles: Mapping[str, RoleSpec]
    parts: Mapping[str, tuple[str, ...]]
    turns: tuple[str, ...]


def cast(student: Denoiser, origin: Denoiser | None, objective: Objective, ema: float) -> Cast:
    """
    Args:
        student: the model to be trained.
        origin: a trainable copy of the teacher (its own network, or one fitted to a closed form); critics start as
            copies of it. May be None for objectives that start nothing from the teacher.
        ema: decay of the student's average.
    """
    models: dict[str, nn.Module] = {STUDENT: student}
    roles = {STUDENT: RoleSpec(start="student", updates=1, lr=1.0)}
    roles |= dict(objective.roles) | {EMA: RoleSpec(start="student", average=ema)}
    parts: dict[str, tuple[str, ...]] = {}
    turns: list[str] = []
    for name, spec in roles.items():
        if name != STUDENT:
            source = student if spec.start == "student" else origin
            if spec.start is None:
                raise UserError(
                    f"no objective says what '{name}' is; add the objective that trains it (matching)"
                )
            if source is None:
                raise UserError(f"role '{name}' starts from the teacher, and there is no network to copy")
            models[name] = copy.deepcopy(source)
        for head, build in spec.modules.items():
            models[head] = build(models[name])  # type: ignore[arg-type]
        if spec.trained and name != STUDENT:
            parts[name] = (name, *spec.modules)
            turns += [name] * (1 if spec.updates is None else spec.updates)
    parts[STUDENT] = (STUDENT,)
    for model in models.values():
        model.requires_grad_(False)
    return Cast(models, roles, parts, (*turns, STUDENT))


def missing(objective: Objective, path: Path, *, data: bool, condition: bool) -> list[str]:
    """What an objective needs and path and task do not offer."""
    have = set(path.offers) | ({"data"} if data else set()) | ({"condition"} if condition else set())
    return sorted(objective.needs - have)
