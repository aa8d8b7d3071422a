"""The teacher of a run: one, or several of which each answers for labels of its own or one is drawn."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.routed import Drawn, Route, Routed
from omnidistill.errors import UserError
from omnidistill.student import label_number, read_denoiser, usual_teacher
from omnidistill.tasks import Task


def teacher_of(cfg: DictConfig, task: Task, device: str) -> Denoiser:
    """The teachers that were named, else the one of the folder that was named, else the closed form, else the one that
    comes with the package."""
    if cfg.get("route") and not cfg.get("teachers"):
        raise UserError(
            f"route={cfg.route} chooses among several teachers, and none are named; give teachers.NAME=DIR of each, "
            "or leave route out"
        )
    return several(cfg, task, device) if cfg.get("teachers") else single(cfg, task, device)


def single(cfg: DictConfig, task: Task, device: str) -> Denoiser:
    """`teacher=PATH`, else the task's own."""
    if cfg.teacher:
        return opened(str(cfg.teacher), task, device)
    teacher = usual_teacher(task, device)
    if teacher is None:
        raise UserError(
            f"task {task.name} has no teacher of its own; train one with "
            f"`omnidistill train task={task.name} out=DIR` and pass teacher=DIR"
        )
    return teacher


def opened(place: str, task: Task, device: str) -> Denoiser:
    """The model of a folder, or of a file of weights."""
    folder = FilePath(place)
    if folder.suffix == ".safetensors":
        folder = folder.parent
    if (made := task.open_teacher(FilePath(place))) is not None:
        return made.to(device)
    # A student may be the teacher of another.
    alone = (folder / "student.json").is_file() and not (folder / "teacher.json").is_file()
    return read_denoiser(folder, "student" if alone else "teacher", task, device)[0]


def several(cfg: DictConfig, task: Task, device: str) -> Routed:
    """`teachers={NAME: PATH, ...}` and `route={NAME: [labels], ...}`: one denoiser, in which each answers for its
    labels; `route=drawn`: one of them for each turn of the training, whatever the labels.

    Raises:
        UserError: a task without labels, a label that no teacher or two answer for, a name that is not both.
    """
    named: dict[str, Any] = OmegaConf.to_container(cfg.teachers)  # type: ignore[assignment]
    drawn = cfg.get("route") == "drawn"
    route: dict[str, Any] = {} if drawn or not cfg.get("route") else OmegaConf.to_container(cfg.route)  # type: ignore[assignment]
    if len(named) < 2:
        raise UserError(f"teachers={named} is one; give teacher=PATH, or several by name")
    if not drawn and task.classes is None:
        raise UserError(
            f"teachers are told apart by the label of a sample, and {task.name} has no labels; distil from one, set "
            "route=drawn, or in Python give Distillation(..., route=) a function of your own"
        )
    if strangers := sorted(route.keys() - named.keys()):
        raise UserError(f"route names {strangers[0]}, and the teachers are {', '.join(named)}")
    table = None if drawn else _table(named, route, task)
    found = {name: opened(str(place), task, device).requires_grad_(False) for name, place in named.items()}
    if len({str(one.path) for one in found.values()}) > 1:
        raise UserError(
            f"teachers are on different paths: {', '.join(str(one.path) for one in found.values())}"
        )
    return Drawn(found) if table is None else Routed(found, by_label(table))


def _table(named: dict[str, Any], route: dict[str, Any], task: Task) -> Tensor:
    """Long[classes + 1]: the index of the teacher of each label, the null label's last."""
    assert task.classes is not None
    open_ones = [name for name in named if not route.get(name)]
    if len(open_ones) > 1:
        raise UserError(
            f"route says no labels for {' and '.join(open_ones)}; give each its own, as route.{open_ones[0]}=[0,1]; "
            "one may be left out and answers for the rest"
        )
    table = torch.full((task.classes + 1,), -1)
    for index, name in enumerate(named):
        labels = route.get(name) or []
        for label in labels if isinstance(labels, list) else [labels]:
            number = label if isinstance(label, int) else label_number(str(label), task.labels)
            if not 0 <= number < task.classes:
                raise UserError(
                    f"route.{name} has the label {label}; labels are from 0 to {task.classes - 1}"
                )
            if int(table[number]) >= 0:
                raise UserError(f"route has the label {label} twice; one teacher answers for a label")
            table[number] = index
    rest = list(named).index(open_ones[0]) if open_ones else -1
    table[table < 0] = rest
    if rest < 0:
        missing = (table[:-1] < 0).nonzero().flatten().tolist()
        if missing:
            raise UserError(
                f"route has no teacher for the label {missing[0]}; name it, or leave one teacher's list out"
            )
        table[-1] = 0  # without a condition any of them may be asked
    return table


def by_label(table: Tensor) -> Route:
    """From a context to `table[label]`; the last entry for labels beyond it, as the null label is."""

    def route(context: Context) -> Tensor:
        if not isinstance(context.condition, Tensor):
            raise UserError("teachers by label need a context whose condition is a tensor of labels")
        return table.to(context.condition.device)[context.condition.long().clamp(0, len(table) - 1)]

    return route


def base_of(cfg: DictConfig, task: Task, teacher: Denoiser, device: str) -> Denoiser:
    """What students and critics start from: of several teachers the one of `teacher=PATH`, else the first."""
    if not isinstance(teacher, Routed):
        return teacher
    return single(cfg, task, device) if cfg.teacher else teacher.denoisers[0][1]
