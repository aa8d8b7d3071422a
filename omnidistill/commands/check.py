"""check: the conformance suites on somebody's plug-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omnidistill.commands import Arguments, Command
from omnidistill.data.files import expanded
from omnidistill.errors import RunError, UserError, unknown

EXAMPLE = "omnidistill check ./my_plugin"


def check(arguments: Arguments) -> None:
    """`omnidistill check PATH-OR-ENTRY-POINT`: prints a line for each property that holds; the first that does not ends
    the run."""
    target = arguments.one("plug-in, folder or task", EXAMPLE)
    if arguments.overrides:
        raise UserError(f"check takes no keys, got {arguments.overrides[0]}")
    from omnidistill.testing import ConformanceError

    held = 0
    try:
        for line in _lines(target):
            print(line)
            held += 1
    except ConformanceError as error:
        raise RunError(f"'{target}' does not conform: {error}") from error
    print(f"'{target}' conforms: {held} properties hold")


def _lines(target: str) -> Iterator[str]:
    """The properties that hold, one by one."""
    from omnidistill.configuration import listing, plugins
    from omnidistill.testing import check_plugin

    path = expanded(target)
    known, tasks = plugins.points(), listing.names("task")
    if target in tasks:
        yield from _task(target)
    elif target in known:
        own = [
            task for task in tasks if task.startswith(f"{target}/") and not task.endswith(f"/{listing.OWN}")
        ]
        if _built_in(known[target].module) and own:  # their configurations are in the one package of all
            for task in own:
                yield from _task(task)
        else:
            yield from check_plugin(target)
    elif (path / "pyproject.toml").is_file():
        for name in plugins.add_source(path):
            yield from check_plugin(name)
    elif path.is_dir() and not (path / "__init__.py").is_file() and listing.names("task", path, alone=True):
        for task in listing.names("task", path, alone=True):
            yield from _task(task, path)
    elif path.is_dir():
        yield from check_plugin(target)
    else:
        raise unknown("plug-in, folder or task", target, [*known, *tasks])


def _built_in(module: str) -> bool:
    return module.startswith("omnidistill.")


def _task(name: str, folder: Path | None = None) -> list[str]:
    from omnidistill.configuration import compose as config
    from omnidistill.testing import check_task

    more = [] if folder is None else [f"configs={folder}"]
    return check_task(config.build(config.compose("train", [f"task={name}", "out=unused", *more]).task))


COMMANDS = (
    Command(
        "check",
        "PATH-OR-ENTRY-POINT",
        "runs the conformance suites on a plug-in: installed, or a folder",
        check,
        EXAMPLE,
        more="PATH is a folder with a pyproject.toml, a package, or task/*.yaml; the name of a task does, too.",
        bare=True,
    ),
)
