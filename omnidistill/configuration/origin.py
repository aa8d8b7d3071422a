"""What an `own` task learns from the teacher that a command names: the options that its description has, or a network
of a class that the user typed, `network=package.module:Class`.

The task's section is filled in before anything is built, so that what a run saves, resumes, evaluates and samples from
says it all without the teacher's folder.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.configuration import received, student_file
from omnidistill.configuration.overrides import Override, last
from omnidistill.configuration.targets import resolve
from omnidistill.errors import UserError

FOREIGN = "omnidistill.brought.Foreign"
"""By the name that descriptions of students have it under."""
SAID = ("network", "path", "reading", "shape", "time_module")
"""Options of a task that describe a network of the user's class."""
NOT_THEIRS = ("_target_", "name", "on_bad")
"""Options that an `own` task does not take over, as those that say where data lie (its `data_options`)."""
CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def named(key: str, text: str) -> str:
    """`package.module:Class` as a dotted name.

    Raises:
        UserError: it is not of that form.
    """
    if not CLASS.fullmatch(text):
        raise UserError(f"{key}={text} is not of the form package.module:name")
    return text.replace(":", ".")


def trusted(given: Sequence[Override]) -> list[str]:
    """The packages that the user has named by typing `network=`, `metrics=` or `encoder=`."""
    texts = {key: last(given, key) for key in ("network", "metrics", "encoder")}
    if ":" not in str(texts["encoder"]):  # a folder
        texts["encoder"] = None
    return [named(key, text).partition(".")[0] for key, text in texts.items() if text not in (None, "null")]


def filled(task: Mapping[str, Any], given: Sequence[Override], teacher: str | None) -> dict[str, Any]:
    """The section of an `own` task with what the teacher says; what the user typed counts above it.

    Raises:
        UserError: no teacher, one of another kind of task, or a class without shapes.
    """
    section = _section(task, given, teacher)
    return {**section, "_target_": _target(section)}


def _target(section: Mapping[str, Any]) -> str:
    """The class of the task: its own, or another that takes samples as this teacher makes them."""
    made: Any = resolve(section["_target_"])
    return str(made.target(section) or section["_target_"])


def _section(task: Mapping[str, Any], given: Sequence[Override], teacher: str | None) -> dict[str, Any]:
    name, network = str(task.get("name")), last(given, "network")
    if network in (None, "null"):
        return _described(task, given, teacher, name)
    if teacher is None:
        raise UserError(f"{name} with network={network} needs its weights: teacher=FILE.safetensors")
    if "shape" not in task:
        raise UserError(f"{name} with network={network} needs task.shape, e.g. task.shape=[3,32,32]")
    made = {"_target_": named("network", str(network)), "_partial_": True, **(task.get("network") or {})}
    about = {key: task[key] for key in SAID if key != "network" and task.get(key) is not None}
    rest = {key: value for key, value in task.items() if key not in SAID}
    return {**rest, "foreign": {"_target_": FOREIGN, "network": made, **about}}


def _described(
    task: Mapping[str, Any], given: Sequence[Override], teacher: str | None, name: str
) -> dict[str, Any]:
    if teacher is None:
        raise UserError(
            f"{name} needs your teacher: teacher=DIR, a folder of `omnidistill train` or `distill`"
        )
    folder = Path(teacher)
    folder = folder.parent if folder.is_file() else folder
    if not folder.exists():
        raise UserError(f"teacher={teacher} does not exist; give the folder that `omnidistill train` made")
    kind = "teacher" if (folder / "teacher.json").is_file() else "student"
    if not (folder / f"{kind}.json").is_file():
        from omnidistill.interop import folder as libraries

        if (known := libraries.describe(folder, task)) is not None:
            takes_ = inspect.signature(resolve(_target({**known, **task}))).parameters
            known = {k: v for k, v in known.items() if k in takes_ or k not in libraries.WHERE_KNOWN}
            if lacks := sorted(known.keys() - takes_.keys()):
                raise UserError(
                    f"{folder} holds a teacher with {', '.join(lacks)}, which {name} knows nothing of"
                )
            return {**known, **{k: v for k, v in task.items() if k not in (*SAID, *libraries.TYPED)}}
        raise UserError(
            f"teacher={teacher} holds neither teacher.json nor student.json; of a network of your own give its weights "
            "and its class: teacher=FILE.safetensors network=package.module:Class"
        )
    if any(key in task for key in ("shape", "reading", "time_module")):
        raise UserError("task.shape, task.reading and task.time_module describe a class that network= names")
    document = received.read_json(student_file.find(folder, kind))
    theirs = document.get("task") if isinstance(document, Mapping) else None
    if not isinstance(theirs, Mapping) or not isinstance(theirs.get("_target_"), str):
        raise UserError(
            f"the {kind} in {folder} was made from a module of your own, which no file holds; name its class: "
            "network=package.module:Class task.shape=[...]"
        )
    made: Any = resolve(task["_target_"])
    takes: Mapping[str, Mapping[str, Any]] = made.takes
    if theirs["_target_"] not in takes:
        raise UserError(
            f"{folder} holds a teacher of {theirs['_target_'].rpartition('.')[2]}, and {name} takes those of "
            f"{', '.join(target.rpartition('.')[2] for target in takes)}"
        )
    typed = {
        item.key.removeprefix("task.").partition(".")[0] for item in given if item.key.startswith("task.")
    }
    others = (*NOT_THEIRS, *made.data_options)
    said = {key: value for key, value in theirs.items() if key not in others and value is not None}
    said = {**takes[theirs["_target_"]], **said}
    own = {key: value for key, value in task.items() if value is not None or key in typed or key not in said}
    return {**said, **own}
