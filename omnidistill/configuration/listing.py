"""What there is: recipes and tasks, read from their YAML files without composing them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from omnidistill.configuration import plugins
from omnidistill.errors import UserError, unknown

OWN = "own"
"""The task of a teacher that is given from Python: no command can use it, so no list has it."""


def names(group: str, directory: Path | None = None, *, alone: bool = False) -> list[str]:
    """The names of a group (`task`, `recipe`), sorted: the packaged ones, those of plug-ins and of the user's folder,
    or of that folder `alone`."""
    found = dict(files(group, directory, alone))
    return sorted(name for name in found if (group, name) != ("task", OWN))


def recipes(directory: Path | None = None) -> list[dict[str, Any]]:
    """name, paper, family, modalities and needs of every recipe."""
    listed = []
    for name, file in sorted(dict(files("recipe", directory)).items()):
        about = _section(file, "recipe")
        if about is None:
            continue
        listed.append(
            {
                "name": name,
                "paper": about.get("paper", ""),
                "family": about.get("family", ""),
                "modalities": list(about.get("modalities") or ()),
                "needs": list(about.get("needs") or ()),
            }
        )
    return listed


def tasks(directory: Path | None = None) -> list[dict[str, Any]]:
    """name, title and modality of every task."""
    listed = []
    for name, file in sorted(dict(files("task", directory)).items()):
        about = _section(file, "about")
        if about is None or name == OWN:
            continue
        modality = about.get("modality") or name.partition("/")[0]
        listed.append({"name": name, "title": about.get("title", ""), "modality": modality})
    return listed


def content(group: str, name: str, directory: Path | None = None) -> dict[str, Any]:
    """What stands in a file of a group; a `UserError` with near matches where there is none."""
    found = dict(files(group, directory))
    if name not in found:
        raise unknown(group, name, found)
    return _content(found[name])


def packaged(name: str) -> dict[str, Any]:
    """What stands in a packaged file outside of the groups, e.g. `common.yaml`."""
    return _content(resources.files(plugins.BUILT_IN).joinpath(name))


def files(group: str, directory: Path | None, alone: bool = False) -> Iterator[tuple[str, Traversable]]:
    """The files of a group by name, weakest first, so that a dictionary of them keeps what Hydra would find."""
    if directory is not None:
        yield from _walk(directory / group)
    for package in () if alone else (*reversed(plugins.search_path()), plugins.BUILT_IN):
        yield from _walk(resources.files(package).joinpath(group))


def _walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(".yaml") and not entry.name.startswith("_"):
            yield above + entry.name.removesuffix(".yaml"), entry


def _section(file: Traversable, key: str) -> dict[str, Any] | None:
    """A section of a file that is listed among others; None, with a line on stderr, where the file is broken."""
    try:
        section = _content(file).get(key)
    except UserError as error:
        print(f"warning: {error}; it is left out", file=sys.stderr)
        return None
    return section if isinstance(section, dict) else {}


def _content(file: Traversable) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is no YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}
