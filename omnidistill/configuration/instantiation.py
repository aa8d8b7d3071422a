"""The one way from a `_target_` in a configuration to an object: an allow-list, then `hydra.utils.instantiate`.

`targets` says what may be named, and why no more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omnidistill.configuration import received, registry
from omnidistill.configuration.targets import locate, reachable, resolve
from omnidistill.errors import RunError, UserError, unknown

TRUSTING = "omnidistill_trusting"
"""The flag of a configuration whose `trust` the user has typed; no file can set it (see `checked`)."""

_SPECIAL = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")


def build(node: Any, **kwargs: Any) -> Any:
    """The object that a node describes, nested ones included, with `kwargs` as further arguments of the outermost.

    Args:
        node: a mapping with `_target_`, plain or of OmegaConf; None gives None. Lists arrive as plain lists.

    Raises:
        UserError: a `_target_` that is not allowed or not there, an option it does not have, a required one left
            out, or a value that it refuses. One line, with the place in the configuration.
    """
    if node is None:
        return None
    plain, where, trust = _plain(node)
    _check_strings(plain, where)
    _check_sizes(plain, where)
    for place, part in _targets(plain, where):
        if "_args_" in part:
            raise UserError(f"{place}: _args_ is not supported; name the arguments")
        found = resolve(part["_target_"], trust, place)
        registry.check_loading(found, part, place)
        _check_options(found, part, place, kwargs if part is plain else {})
    if "_target_" not in plain:
        raise UserError(f"{where} has no _target_ that says what to build")
    return _instantiate(_safe(plain), where, kwargs)


def trusting(task: Mapping[str, Any], packages: Sequence[str]) -> Any:
    """The configuration of a task, whose targets may lie in these packages too, as the user (and never a file) says."""
    from omegaconf import OmegaConf

    received.check(task, "task")
    if packages:
        reachable()
    root = OmegaConf.create({"task": dict(task), "trust": list(packages)})
    root._set_flag(TRUSTING, True)
    return root.task


def _plain(node: Any) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The node without interpolations, its place in the configuration, and the packages the user typed."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where: str = "configuration"
    trust: tuple[str, ...] = ()
    if isinstance(node, DictConfig):
        where = str(node._get_full_key(None)) or where
        if node._get_flag(TRUSTING):
            root: Any = node._get_root()
            trust = tuple(root.get("trust") or ())
        try:
            node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    if not isinstance(node, Mapping):
        raise UserError(f"{where} must be a section with a _target_, got {node!r}")
    return dict(node), where, trust


def _check_strings(value: Any, where: str) -> None:
    """An escaped interpolation would be resolved after the check of the targets and could bring in a new one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in registry.RUNS_CODE and item:
                raise UserError(f"{where}.{key}: code that comes with weights is never run; remove it")
            _check_strings(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_strings(item, f"{where}[{index}]")
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{where}: '{value}' holds an interpolation that cannot be resolved here")


DEEP = ("depth", "layers", "blocks", "levels")


def _check_sizes(value: Any, where: str, network: bool = False) -> None:
    """Sizes of a network that no machine could hold are refused before one is built."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_sizes(item, f"{where}.{key}", network or key == "network")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_sizes(item, where, network)
    elif network and isinstance(value, int | float) and not isinstance(value, bool):
        most = 4096 if where.endswith(DEEP) else 1 << 22
        if not abs(value) <= most:
            raise UserError(f"{where} must be at most {most}, got {value}")


def _targets(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield where, value
        for key, item in value.items():
            yield from _targets(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _targets(item, f"{where}[{index}]")


def _safe(value: Any) -> Any:
    """The node with keywords by which nothing is unpickled."""
    if isinstance(value, Mapping):
        more = registry.from_safetensors(locate(value["_target_"], "")) if "_target_" in value else {}
        return {**{key: _safe(item) for key, item in value.items()}, **more}
    return [_safe(item) for item in value] if isinstance(value, list | tuple) else value


def _check_options(
    found: Callable[..., Any], node: Mapping[str, Any], place: str, more: Mapping[str, Any]
) -> None:
    try:
        parameters = parameters_of(found)
    except (TypeError, ValueError):  # some builtins have none
        return
    given = {str(key) for key in node if key not in _SPECIAL} | set(more)
    kinds = {p.kind for p in parameters.values()}
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for key in sorted(given - {p.name for p in named}):
            raise unknown(
                f"option of {place} ({node['_target_'].rpartition('.')[2]})", key, [p.name for p in named]
            )
    # Others' classes may say one kind and take a section as well.
    ours = (getattr(found, "__module__", None) or "").startswith("omnidistill")  # some builtins have none
    for p in named if ours else ():
        value = node.get(p.name)
        if isinstance(value, Mapping) and "_target_" not in value and not _takes_mapping(p):
            kind = type(p.default)
            such = "" if kind.__module__ == "builtins" else f", such as {kind.__module__}.{kind.__qualname__}"
            raise UserError(f"{place}.{p.name}={dict(value)} does not say what it is; add a _target_{such}")
    if not node.get("_partial_"):
        missing = [p.name for p in named if p.default is p.empty and p.name not in given]
        if missing:
            raise UserError(f"{place} ({node['_target_']}) needs {', '.join(missing)}")


def _takes_mapping(parameter: inspect.Parameter) -> bool:
    """Whether a plain section can be meant: it can where nothing is said of the kind."""
    kind = parameter.annotation
    said = kind if isinstance(kind, str) else "Any" if kind is inspect.Parameter.empty else repr(kind)
    return any(word in said for word in ("Any", "object", "apping", "dict", "Dict"))


def parameters_of(found: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What can be given to it by name. A class that hands `**more` on to its base takes the base's options, too.

    Raises:
        TypeError, ValueError: a builtin without a signature.
    """
    mine = dict(inspect.signature(found).parameters)
    if not isinstance(found, type):
        return mine
    for base in found.__mro__[1:-1]:
        kinds = {p.kind for p in mine.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
        if "__init__" in vars(base):
            more = inspect.signature(base).parameters
            kept = {name: p for name, p in mine.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            mine = {**more, **kept}
    return mine


def _instantiate(plain: dict[str, Any], where: str, kwargs: Mapping[str, Any]) -> Any:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    partial = bool(plain.get("_partial_", False))
    try:
        # The keywords are given to the factory and not to hydra, which would copy tensors and unpack dataclasses.
        factory = instantiate({**plain, "_convert_": "all", "_partial_": True})
        return factory if partial and not kwargs else factory(**kwargs)
    except InstantiationException as error:
        cause: BaseException = error.__cause__ or error
    except Exception as error:
        cause = error
    if isinstance(cause, UserError | RunError):
        raise cause
    if isinstance(cause, MemoryError):
        raise cause
    said = " ".join(str(cause).split())[:300]
    if not isinstance(cause, TypeError | ValueError | OSError | ArithmeticError) or not said:
        said = (
            f"it cannot be built so ({type(cause).__name__}: {said})"  # e.g. a network where a path should be
        )
    raise UserError(f"{where}: {said}") from cause
