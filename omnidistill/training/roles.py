"""From the roles that an objective declares to models and a schedule of turns."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.networks.redrawn import redrawn
from omnidistill.objectives.base import Objective, RoleSpec
from omnidistill.paths import Path
from omnidistill.samplers.walker import innermost
from omnidistill.training.adapters import Adapter, attach
from omnidistill.training.frozen import trainable, twin

STUDENT, TEACHER, EMA, RANDOM = "student", "teacher", "ema", "random"


@dataclass(frozen=True)
class Cast:
    """Who takes part in a run.

    Attributes:
        models: every model but the teachers, by name: student, ema, critics, averages, heads.
        roles: the spec of each role, student and ema included.
        parts: for each trained role the names of the models that its optimiser trains.
        turns: the roles to be updated for one student update, in order; critics first, the student last.
        trainable: for each model the names of its parameters that are not fixed; all others are shared, never
            written, and not in a checkpoint.
    """

    models: Mapping[str, nn.Module]
    roles: Mapping[str, RoleSpec]
    parts: Mapping[str, tuple[str, ...]]
    turns: tuple[str, ...]
    trainable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def cast(
    student: Denoiser,
    origin: Denoiser | Mapping[str, Denoiser] | None,
    objective: Objective,
    ema: float,
    adapter: Adapter | None = None,
) -> Cast:
    """
    Args:
        student: the model to be trained; what of it needs no gradient is not (see `training.frozen`).
        origin: a trainable copy of the teacher (its own network, or one fitted to a closed form), or one by the name
            of each teacher; critics start as copies of it. May be None for objectives that start nothing from one.
        ema: decay of the student's average.
        adapter: of trained roles that declare none of their own; the student has its own already.
    """
    origins = {} if origin is None else dict(origin) if isinstance(origin, Mapping) else {TEACHER: origin}
    roles = {STUDENT: _student(objective.roles.get(STUDENT))}
    roles |= {name: spec for name, spec in objective.roles.items() if name != STUDENT}
    roles |= {EMA: RoleSpec(start=STUDENT, average=ema)}
    models: dict[str, nn.Module] = {STUDENT: student}
    # Before any copy: an adapter freezes what it lies over.
    free = {name: tuple(trainable(model)) for name, model in (*origins.items(), (STUDENT, student))}
    parts: dict[str, tuple[str, ...]] = {}
    turns: list[str] = []
    for name in _ordered(roles, origins):
        spec = roles[name]
        if name != STUDENT:
            assert spec.start is not None
            start = _template(spec.start, origins)
            still = start in origins
            source: nn.Module = origins[start] if still else models[start]
            models[name], free[name] = _made(source, free[start], spec, adapter, still)
            if spec.trained:
                innermost(models[name]).start = None  # type: ignore[arg-type]  # a critic is asked at every level
    for name, spec in roles.items():
        for head, build in spec.modules.items():
            if head in models:
                raise UserError(f"role '{name}' calls a module '{head}', which is a model's name already")
            models[head] = build(models[name])  # type: ignore[arg-type]
            free[head] = tuple(trainable(models[head]))
        if spec.trained and name != STUDENT:
            parts[name] = (*(() if spec.frozen else (name,)), *spec.modules)
            turns += [name] * (1 if spec.updates is None else spec.updates)
    parts[STUDENT] = (STUDENT, *roles[STUDENT].modules)
    if not free[STUDENT]:
        raise UserError("the student has no parameters to train")
    for model in (*models.values(), *origins.values()):
        model.requires_grad_(False)
    # In the order of the declaration, whatever had to be copied first.
    order = [*roles, *(head for spec in roles.values() for head in spec.modules)]
    return Cast(
        {name: models[name] for name in order},
        roles,
        parts,
        (*turns, STUDENT),
        {name: free[name] for name in order},
    )


def _student(declared: RoleSpec | None) -> RoleSpec:
    """The student's role: that of every run, with the modules and the rate that an objective gives it."""
    spec = declared or RoleSpec()
    if spec.start not in (None, STUDENT) or spec.updates not in (None, 1) or not spec.trained:
        raise UserError(
            f"role 'student' is the student, trained once an update; an objective may give it modules, lr and adapter, "
            f"got start={spec.start}, updates={spec.updates}, average={spec.average}, refresh={spec.refresh}"
        )
    return replace(spec, start=STUDENT, updates=1, lr=1.0 if spec.lr is None else spec.lr)


def _made(
    source: nn.Module, free: tuple[str, ...], spec: RoleSpec, adapter: Adapter | None, still: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    """A role's model and the names of what it trains: a copy of the source, or adapters over it; over the very tensors
    of one that stands `still`, over a copy of one that is trained itself."""
    if spec.start == RANDOM:
        drawn = redrawn(copy.deepcopy(source))
        return drawn, () if spec.frozen else tuple(trainable(drawn))
    if spec.frozen:
        return twin(source, source.parameters() if still else ()), ()
    own = Adapter(**spec.adapter) if spec.adapter is not None else adapter if spec.trained else None
    if own is None or _adapted(source):
        return twin(source, [p for name, p in source.named_parameters() if name not in free]), free
    made: Any = twin(source, source.parameters() if still else ())
    made.network = attach(made.network, own)
    return made, tuple(trainable(made))


def _template(start: str, origins: Mapping[str, Denoiser]) -> str:
    """Whose network a role has: that of its start; of the teacher, or else the student, where weights are random."""
    if start != RANDOM:
        return start
    return TEACHER if TEACHER in origins else STUDENT


def _adapted(model: nn.Module) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())


def _ordered(roles: Mapping[str, RoleSpec], origins: Mapping[str, Denoiser]) -> list[str]:
    """The roles, each after the one that it starts as; a `UserError` for a start that names no model."""
    check_named(roles)
    done: list[str] = [STUDENT]
    waiting = [name for name in roles if name != STUDENT]
    for name in waiting:
        start = roles[name].start
        assert start is not None  # `check_named`
        if start == TEACHER and TEACHER not in origins:
            raise UserError(f"role '{name}' starts from the teacher, and there is no network to copy")
        if start not in {*origins, *roles, RANDOM}:
            raise unknown(f"start of role '{name}'", start, {*origins, *roles, RANDOM} - {name})
    while waiting:
        ready = [name for name in waiting if roles[name].start in {*origins, *done, RANDOM}]
        if not ready:
            raise UserError(
                f"roles {', '.join(sorted(waiting))} start from one another; let one start as teacher"
            )
        done += ready
        waiting = [name for name in waiting if name not in ready]
    return done


def check_named(roles: Mapping[str, RoleSpec]) -> None:
    """Refuses a role that an objective looks at and none says what it is."""
    known = [name for name, role in roles.items() if role.start is not None]
    for name in roles:
        if name != STUDENT and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "add the objective that trains it, e.g. matching"
            raise UserError(f"no objective says what '{name}' is; {hint}")


def missing(objective: Objective, path: Path, *, data: bool, condition: bool) -> list[str]:
    """What an objective needs and path and task do not offer."""
    have = set(path.offers) | ({"data"} if data else set()) | ({"condition"} if condition else set())
    return sorted(objective.needs - have)
