"""Conformance of a plug-in: a module of the entry-point group `omnidistill.modalities` and the tasks it brings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType

from omnidistill.configuration import plugins
from omnidistill.errors import UserError
from omnidistill.tasks import Task
from omnidistill.testing.base import ConformanceError, Report
from omnidistill.testing.tasks import check_task

Builder = Callable[[str, Path, str], Task]
"""A task from its name, the folder of configurations that holds it, and the package to be trusted."""


def check_plugin(module: ModuleType | str, build: Builder | None = None, *, count: int = 256) -> list[str]:
    """Imports a plug-in, composes each task of its `CONFIGS`, builds it and runs `check_task`.

    Args:
        module: the plug-in's module, the name of its entry point, the name of a module, or the folder of one.
        build: makes a task from its configuration; as `omnidistill distill` does if not given.
        count: samples that metrics are computed from.

    Returns:
        One line for each property that held.

    Raises:
        ConformanceError: a property fails. UserError: there is no such plug-in, or it cannot be imported.
    """
    module = module if isinstance(module, ModuleType) else _find(module)
    report = Report(f"plug-in {module.__name__}")
    packages = plugins.config_packages(module)
    report.require(packages, "the module names its configurations in CONFIGS", "none")
    names = [(name, folder) for package in packages for name, folder in _tasks(package)]
    report.require(names, "its configurations hold a task", f"no task/*.yaml in {', '.join(packages)}")
    report.passed(f"imported; tasks: {', '.join(name for name, _ in names)}")
    for name, folder in names:
        task = (build or _compose)(name, folder, module.__name__.partition(".")[0])
        report.require(isinstance(task, Task), f"task={name} builds a Task", type(task).__name__)
        report.require(
            task.name == name, "a task has the name that it is chosen by", f"'{task.name}' for task={name}"
        )
        report.passed(f"task={name} composes and builds")
        report.lines += check_task(task, count=count)
    return report.lines


def _find(name: str) -> ModuleType:
    if name in plugins.points():
        return plugins.load(name)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "__init__.py").is_file():
            raise UserError(f"'{name}' is no package: there is no __init__.py in it")
        sys.path.insert(0, str(folder.resolve().parent))
        name = folder.resolve().name
    try:
        return import_module(name)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        known = ", ".join(plugins.points()) or "none"
        raise UserError(
            f"plug-in '{name}' cannot be imported ({reason}); installed entry points: {known}"
        ) from error


def _tasks(package: str) -> Iterator[tuple[str, Path]]:
    """The names of the tasks of a package of configurations, and the package's folder."""
    with resources.as_file(resources.files(package)) as folder:
        for file in sorted((folder / "task").rglob("*.yaml")):
            yield file.relative_to(folder / "task").with_suffix("").as_posix(), folder


def _compose(name: str, folder: Path, trusted: str) -> Task:
    from omnidistill.configuration import listing
    from omnidistill.configuration.compose import build, compose

    # What is installed is in the search path already; a mere folder joins it as the user's own configurations.
    joined = [] if name in listing.names("task") else [f"configs={folder}", f"trust=[{trusted}]"]
    try:
        cfg = compose("train", [f"task={name}", "out=unused", *joined])
        return build(cfg.task)
    except UserError as error:
        raise ConformanceError(f"task={name} cannot be built: {error}") from error
