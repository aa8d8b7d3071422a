"""What a `_target_` of a configuration stands for, if it is allowed.

A configuration may come from somebody else, e.g. beside a downloaded student. It may choose among the components of
packages that the user trusts, and nothing more:

- the dotted name starts with a trusted package, and what it leads to was also defined in a trusted package: a module
  that imports `os` does not lend it out;
- it is a component, as `registry` says: a class, or a constructor of one;
- no part of omnidistill that itself runs commands, downloads or imports (`MACHINERY`).
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from omnidistill.configuration import plugins, registry
from omnidistill.errors import UserError, unknown

ALLOWED = ("omnidistill", "torch.nn", "torch.optim", "diffusers", "transformers", "peft")

MACHINERY = tuple(
    f"omnidistill.{name}"
    for name in (
        *("cli", "commands", "configuration", "data", "evaluation", "own.distill", "progress"),
        *("runs", "student", "testing", "training"),
    )
)


def resolve(target: Any, trust: Sequence[str] = (), place: str = "_target_") -> Callable[..., Any]:
    """What a dotted name stands for, if it is allowed.

    Raises:
        UserError: it is outside of the trusted packages, or there is no such thing.
    """
    if not isinstance(target, str) or not target:
        raise UserError(f"{place}: _target_ must be a dotted name, got {target!r}")
    trusted = tuple(dict.fromkeys((*ALLOWED, *plugins.packages(), *trust)))
    root = target.partition(".")[0]
    possible = f"outside of the allowed packages: {', '.join(trusted)}"
    if not _inside(target, trusted):
        raise UserError(f"{place}: _target_ '{target}' is {possible}; if you trust it, add trust=[{root}]")
    if any(part.startswith("_") for part in target.split(".")):
        raise UserError(f"{place}: _target_ '{target}' names something private")
    machinery = UserError(f"{place}: _target_ '{target}' is no component of a model, a task or an objective")
    if _inside(target, MACHINERY):
        raise machinery
    found = locate(target, place)
    module = getattr(found, "__module__", None)
    if isinstance(found, types.ModuleType) or not callable(found):
        raise UserError(f"{place}: _target_ '{target}' is nothing that can be called")
    if not isinstance(module, str) or not _inside(module, trusted):
        raise UserError(f"{place}: _target_ '{target}' leads to {module or 'something'}, {possible}")
    if _inside(f"{module}.{getattr(found, '__qualname__', '')}", MACHINERY):
        raise machinery
    if not (registry.registered(found) or registry.lent(found, tuple(plugins.packages()), trust)):
        raise UserError(
            f"{place}: _target_ '{target}' is no component: a task, a network, an objective, a path, a sampler, or "
            "a class of times"
        )
    return found


def function(name: str) -> Callable[..., Any]:
    """A function of a package that the user has typed.

    Raises:
        UserError: there is no such thing, or it cannot be called.
    """
    found = locate(name, name)
    if not callable(found):
        raise UserError(f"{name} is nothing that can be called")
    return found


def reachable() -> None:
    """Lets modules that the user has named be found in the folder that the command is given in, after all others."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def _inside(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def locate(target: str, place: str) -> Any:
    """The longest prefix that is a module, then attributes. An import error inside of a module is not hidden."""
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        try:
            found: Any = import_module(name)
        except ModuleNotFoundError as error:
            if error.name and _inside(name, (error.name,)):
                continue
            raise UserError(
                f"{place}: _target_ '{target}' needs the package '{error.name}', which is missing"
            ) from error
        for index in range(cut, len(parts)):
            if not hasattr(found, parts[index]):
                names = [name for name in dir(found) if not name.startswith("_")]
                raise unknown(f"name in {'.'.join(parts[:index])}", parts[index], names)
            found = getattr(found, parts[index])
        return found
    raise UserError(f"{place}: _target_ '{target}': there is no package '{parts[0]}'; install it to use this")
