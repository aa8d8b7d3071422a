"""What a recipe needs on a task: the file of every student there, `student.yaml`, that of its family, then its own.

A family's file tunes options of the components that the family has as a rule. Where a recipe has put a component of its
own in their place (`jumps: {_target_: ...}`), whose options are others, the recipe's stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omnidistill.configuration import listing
from omnidistill.configuration.overrides import quoted

TEACHER, STUDENT = "teacher", "student"
"""Files of a task's folder: of the teacher's training, and of every student's."""


def of_teacher(task: str, directory: Path | None) -> list[str]:
    """Hydra's overrides that tune the training of a task's teacher."""
    name = f"{task}/{TEACHER}"
    return _chosen([name] if name in listing.names("tuning", directory) else [])


def of_recipe(task: str, recipe: str, directory: Path | None) -> list[str]:
    """Hydra's overrides that tune a recipe on a task."""
    content = listing.content("recipe", recipe, directory)
    about = content.get("recipe")
    family = about.get("family") if isinstance(about, dict) else None
    known = listing.names("tuning", directory)
    names = [f"{task}/{name}" for name in dict.fromkeys((STUDENT, family, recipe)) if name]
    found = [name for name in names if name in known]
    if family == recipe or f"{task}/{family}" not in found:
        return _chosen(found)
    shared = listing.content("tuning", f"{task}/{family}", directory)
    own = listing.content("tuning", f"{task}/{recipe}", directory) if f"{task}/{recipe}" in found else {}
    kept: list[str] = []
    for part, option, component in _components(content):
        tuned = _node(shared, part, option)
        if isinstance(tuned, Mapping) and tuned.get("_target_") != component["_target_"]:
            theirs = _node(own, part, option)
            theirs = theirs if isinstance(theirs, Mapping) else {}
            # A recipe's own tuning may refine its component, or name a third.
            other = theirs.get("_target_", component["_target_"]) != component["_target_"]
            whole = dict(theirs) if other else {**component, **theirs}
            kept += [f"~families.{part}.{option}", f"+families.{part}.{option}={_text(whole)}"]
    return [*_chosen(found), *kept]


def _chosen(names: list[str]) -> list[str]:
    return [f"+tuning=[{','.join(map(quoted, names))}]"] if names else []


def _components(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The components that a recipe has put into its families: family, option, section."""
    families = content.get("families")
    for part, options in families.items() if isinstance(families, Mapping) else ():
        for option, section in options.items() if isinstance(options, Mapping) else ():
            if isinstance(section, Mapping) and isinstance(section.get("_target_"), str):
                yield part, option, section


def _node(content: Mapping[str, Any], part: str, option: str) -> Any:
    for key in ("families", part, option):
        content = content.get(key) if isinstance(content, Mapping) else None  # type: ignore[assignment]
    return content


def _text(value: Any) -> str:
    """A value of YAML in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
