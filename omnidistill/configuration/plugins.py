"""Other people's modalities, found through the entry-point group `omnidistill.modalities`.

A plug-in is a module. It may set `CONFIGS`, a package name or a list of them, whose folders `task/`, `recipe/` and
`tuning/` join the search path of configurations:

    [project.entry-points."omnidistill.modalities"]
    molecules = "my_package.molecules"          # where CONFIGS = "my_package.configs"

Nothing is imported before it is asked for, and a plug-in that cannot be imported never breaks a built-in command.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module, resources, util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from omnidistill.errors import UserError, unknown

GROUP = "omnidistill.modalities"
BUILT_IN = "omnidistill.configs"


_sources: dict[str, EntryPoint] = {}
"""Entry points of plug-ins that are not installed (see `add_source`)."""


def points() -> dict[str, EntryPoint]:
    """The installed entry points by name; of two with one name the first found counts."""
    found = dict(_sources)
    for point in entry_points(group=GROUP):
        if point.pattern.match(point.value):  # else it names no module, and asking for one fails
            found.setdefault(point.name, point)
    return dict(sorted(found.items()))


def packages() -> frozenset[str]:
    """The top-level packages of the plug-ins: installing one means trusting its code. Imports nothing."""
    return frozenset(point.module.partition(".")[0] for point in points().values())


def add_source(folder: Path) -> list[str]:
    """Takes in the plug-ins that a source folder's pyproject.toml declares, as if it were installed; their names."""
    import tomllib

    file = folder / "pyproject.toml"
    try:
        declared = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {})
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{file}': {error}") from error
    if not declared.get(GROUP):
        raise UserError(f"'{file}' declares no entry point of the group {GROUP}")
    for place in (folder, folder / "src"):
        if place.is_dir() and str(place.resolve()) not in sys.path:
            sys.path.insert(0, str(place.resolve()))
    _sources.update({name: EntryPoint(name, value, GROUP) for name, value in declared[GROUP].items()})
    search_path.cache_clear()
    return list(declared[GROUP])


def load(name: str) -> ModuleType:
    """The module of one plug-in.

    Raises:
        UserError: no such plug-in, or it cannot be imported; with the reason.
    """
    known = points()
    if name not in known:
        raise unknown("plug-in", name, known)
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of what a command answers
            return import_module(known[name].module)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"plug-in '{name}' ({known[name].value}) cannot be imported: {reason}") from error


def config_packages(module: ModuleType) -> list[str]:
    """The packages of configurations that a plug-in's module names, without `pkg://`.

    Raises:
        UserError: CONFIGS names something that is no importable package.
    """
    declared = getattr(module, "CONFIGS", ())
    if not isinstance(declared, str | list | tuple):
        raise UserError(
            f"plug-in '{module.__name__}' has CONFIGS {declared!r:.80}, which is no name or list of them"
        )
    names = [declared] if isinstance(declared, str) else list(declared)
    names = [str(name).removeprefix("pkg://") for name in names]
    for name in names:
        try:
            spec = util.find_spec(name)
            resources.files(name)
        except (Exception, SystemExit):  # of whatever code its packages hold
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"plug-in '{module.__name__}' has CONFIGS '{name}', which is no package")
    return names


@cache
def search_path() -> tuple[str, ...]:
    """The packages of configurations of all plug-ins; a broken one is left out with a line on stderr."""
    found: dict[str, None] = {}
    for name in points():
        try:
            found.update(dict.fromkeys(config_packages(load(name))))
        except UserError as error:
            print(f"warning: {error}; it is left out", file=sys.stderr)
    return tuple(name for name in found if name != BUILT_IN)
