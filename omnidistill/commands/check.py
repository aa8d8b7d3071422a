"""check: the conformance suites on somebody's plug-in."""

from __future__ import annotations

from pathlib import Path

from omnidistill.commands import Arguments, Command
from omnidistill.errors import RunError, UserError, unknown

EXAMPLE = "omnidistill check ./my_plugin"


def check(arguments: Arguments) -> None:
    target = arguments.one("plug-in, folder or task", EXAMPLE)
    if arguments.overrides:
        raise UserError(f"check takes no keys, got {arguments.overrides[0]}")
    tasks, directory = _tasks(target)
    if not tasks:
        raise UserError(f"'{target}' has no task to check: no YAML file in a folder task/")
    from omnidistill import config, testing

    broken = []
    for name in tasks:
        overrides = [f"task={name}", "out=."] + ([] if directory is None else [f"configs={directory}"])
        try:
            testing.check_task(config.build(config.compose("train", overrides).task))
        except (AssertionError, RunError, UserError) as error:
            broken.append(name)
            print(f"{name}: broken: {' '.join(str(error).split())}")
        else:
            print(f"{name}: ok")
    if broken:
        raise RunError(f"{len(broken)} of {len(tasks)} tasks do not conform: {', '.join(broken)}")


def _tasks(target: str) -> tuple[list[str], Path | None]:
    """The names of the tasks meant, and the folder of configurations if they are in none that is installed."""
    from omnidistill import listing, plugins

    path = Path(target).expanduser()
    if path.is_dir():
        if (path / "pyproject.toml").is_file():
            return _of_plugins(plugins.add_source(path)), None
        return listing.names("task", path, alone=True), path
    known, tasks = plugins.points(), listing.names("task")
    if target in known:
        return _of_plugins([target]), None
    if target in tasks:
        return [target], None
    raise unknown("plug-in, folder or task", target, [*known, *tasks])


def _of_plugins(names: list[str]) -> list[str]:
    from omnidistill import listing, plugins

    found: list[str] = []
    for name in names:
        module = plugins.load(name)
        found += listing.in_packages("task", plugins.config_packages(module))
        if module.__name__.startswith(
            "omnidistill."
        ):  # the built-in ones share one package of configurations
            found += [task for task in listing.names("task") if task.startswith(f"{name}/")]
    return sorted(set(found))


COMMANDS = (
    Command(
        "check",
        "PATH-OR-ENTRY-POINT",
        "runs the conformance suites on a plug-in: installed, or a folder",
        check,
        EXAMPLE,
        more="PATH is a folder with the plug-in's pyproject.toml, or with task/*.yaml; a task's name does, too.",
        bare=True,
    ),
)
