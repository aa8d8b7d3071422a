"""Configurations: composed by Hydra from the packaged files, plug-ins, the user's folder and the command line.

Precedence, weakest first: root (`config.yaml` or `train.yaml`), task, recipe, tuning (of the recipe's family on the
task, then of the recipe alone), command line. Files are looked for in the packaged folders, those of plug-ins and the
user's own (`configs=DIR`), where no name of the others may be used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidistill.configuration import defaults, listing, origin, plugins, received, settings
from omnidistill.configuration.instantiation import TRUSTING, build, reachable
from omnidistill.configuration.overrides import Override, last, quoted, read
from omnidistill.data.files import expanded, write_text
from omnidistill.errors import UserError, unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["build", "check_resumable", "compose", "load_config", "save_config"]

ROOTS = {"config": ("task", "recipe"), "train": ("task",), "cache": ("task",)}
"""The roots and the groups from which each needs a choice."""

EXAMPLES = {"task": "task=exact/gaussian_mixture", "recipe": "recipe=dmd2", "out": "out=runs/first"}

NEEDED = ("task", "objective", "families", "updates", "batch", "seed", "out", "student", "evaluation")
"""What every configuration has, a received one too."""

FREE_TO_CHANGE = (
    "updates",
    "steps",
    "resume",
    "device",
    "threads",
    "strategy",
    "teacher_on_cpu",
    "recompute",
    "trust",
    "metrics",
    "primary",
    "evaluation",
    "checkpoint",
    "log",
    "about",
    "out",
    *(f"recipe.{key}" for key in ("paper", "title", "year", "family", "modalities", "needs", "departures")),
)
"""What a resumed run may set anew; with anything else changed it would not be the same run."""


def compose(root: str, overrides: Iterable[str]) -> DictConfig:
    """The configuration of a run, checked.

    Args:
        root: `config` (distillation), `train` (teachers) or `cache` (encoded data).
        overrides: of Hydra's grammar, as in `["task=exact/bridge", "recipe=dmd", "steps=1,2", "out=runs/a"]`;
            `configs=DIR` among them adds a folder of the user's own files.

    Raises:
        UserError: an unknown name or key, a value out of range, a key without a value.
    """
    from omegaconf import open_dict

    given = read(overrides)
    folder = last(given, "configs")
    given = [item for item in given if item.key != "configs"]
    directory = None if folder is None else _directory(folder)
    for group in ROOTS[root]:
        if (group, last(given, group)) != ("task", listing.OWN):
            _check_choice(group, last(given, group), listing.names(group, directory))
    if "recipe" not in ROOTS[root] and last(given, "recipe") is not None:
        raise UserError(f"{root} takes no recipe; to distil, use `omnidistill distill`")
    tuned = _tuning(root, last(given, "task") or "", last(given, "recipe"), directory)
    cfg = _compose(root, [*tuned, *(item.hydra() for item in given)], directory)
    _trust(cfg, given)
    if str(cfg.get("teacher") or "").startswith("hub:"):
        from omnidistill.interop.hub import fetched

        cfg.teacher = fetched(cfg.teacher)  # the run remembers the folder
    if str(cfg.task.get("name")).endswith(f"/{listing.OWN}"):
        if root == "train":
            raise UserError(
                f"train makes a teacher, and {cfg.task.name} is for one that you have: `omnidistill distill`"
            )
        with open_dict(cfg):
            if root != "cache" or cfg.teacher is not None:  # data need no teacher to describe them
                cfg.task = origin.filled(_section(cfg.task), given, cfg.teacher)
    elif cfg.get("network") is not None:
        raise UserError("network= names the class of your teacher's network, for task=MODALITY/own")
    return _checked(cfg, given)


def load_config(folder: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The configuration that a run wrote in its folder, with overrides of its keys.

    The file may come with a downloaded student, so its `trust` does not count, only one among the overrides.
    """
    from omegaconf import OmegaConf

    file = Path(folder) / "config.yaml"
    if not file.exists():
        raise UserError(f"'{folder}' holds no run: there is no config.yaml in it")
    plain = received.read_yaml(file)
    if not isinstance(plain, dict):
        raise UserError(f"'{file}' is no configuration of a run")
    cfg = OmegaConf.create(_filled(plain))
    given = read(overrides)
    cfg["trust"], cfg["metrics"] = [], None
    OmegaConf.set_struct(cfg, True)
    for item in given:
        _apply(cfg, item)
    _trust(cfg, given)
    return _checked(cfg, given)


def _trust(cfg: DictConfig, given: Sequence[Override]) -> None:
    """Packages whose names the user has typed count as trusted, and may lie in the present folder."""
    if packages := origin.trusted(given):
        cfg["trust"] = sorted({*(cfg.get("trust") or ()), *packages})
    if cfg.get("trust"):
        reachable()


def _section(node: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _filled(plain: dict[str, Any]) -> dict[str, Any]:
    """With what it lacks at its default: it may be older than a key, or have lost one on its way."""
    filled = {str(name): dict(value) if isinstance(value, dict) else value for name, value in plain.items()}
    for key in settings.CHECKS:
        section, _, name = key.rpartition(".")
        if key in NEEDED or (section in NEEDED and section not in filled):
            continue  # said to be missing by the check
        if not section and name not in defaults.root():
            continue  # another command's
        holder = filled.setdefault(section, {}) if section else filled
        if isinstance(holder, dict):
            holder.setdefault(name, defaults.of(key))
    return filled


def save_config(cfg: DictConfig, folder: str | Path) -> Path:
    """Writes the configuration, resolved, as config.yaml in a folder."""
    from omegaconf import OmegaConf

    return write_text(OmegaConf.to_yaml(cfg, resolve=True), Path(folder) / "config.yaml")


def check_resumable(cfg: DictConfig, folder: str | Path) -> None:
    """Refuses to go on in a folder with a configuration that makes it another run.

    Raises:
        UserError: the first key that differs with both values, or fewer updates than before.
    """
    if differs := difference(cfg, folder):
        key, former, now = differs
        raise UserError(
            f"cannot resume in '{folder}': {key} was {former} and is now {now}; choose another out"
        )
    updates = load_config(folder).updates
    if cfg.updates < updates:
        raise UserError(f"cannot resume in '{folder}': updates was {updates} and is now {cfg.updates}")


def difference(
    cfg: DictConfig, folder: str | Path, free: Sequence[str] = FREE_TO_CHANGE
) -> tuple[str, str, str] | None:
    """The first key, but for those that are `free` to change, in which a configuration differs from the one that a
    run wrote in its folder, with the former value and the present one as text; None where they agree. A key that one of
    them lacks counts as its default, for a later version may have it."""
    before, after = _container(load_config(folder)), _container(cfg)
    former, now = _flat(before), _flat(after)
    for key in sorted({*former, *now}):
        a, b = former.get(key), now.get(key)
        if a == b or {key, key.split(".")[0]} & {*free}:
            continue
        # A key that came into being since then was at its default.
        if (key in former and key in now) or (a if key in former else b) != defaults.of(key, after, before):
            return key, _shown(a), _shown(b)
    return None


def _compose(root: str, overrides: list[str], directory: Path | None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    from omnidistill.configuration import given

    path = [f"pkg://{name}" for name in plugins.search_path()]
    path += [] if directory is None else [f"{given.SCHEME}://{directory}"]
    given.register()
    search = [f"hydra.searchpath=[{','.join(map(quoted, path))}]"] if path else []
    try:
        with initialize_config_module(plugins.BUILT_IN, job_name="omnidistill", version_base="1.3"):
            cfg = hydra_compose(root, [*search, *overrides])
    except (HydraException, OmegaConfBaseException, _yaml_error()) as error:
        raise _explained(error) from error
    with open_dict(cfg):
        cfg.setdefault("task", {})
    return cfg


def _tuning(root: str, task: str, recipe: str | None, directory: Path | None) -> list[str]:
    """The files that tune the recipe on the task: what its family needs there, then what it needs beside."""
    if "recipe" not in ROOTS[root]:
        names = ["teacher"] if root == "train" else []
    else:
        about = listing.content("recipe", str(recipe), directory).get("recipe")
        family = about.get("family") if isinstance(about, dict) else None
        names = [str(name) for name in dict.fromkeys((family, recipe)) if name]
    known = listing.names("tuning", directory)
    found = [f"{task}/{name}" for name in names if f"{task}/{name}" in known]
    return [f"+tuning=[{','.join(map(quoted, found))}]"] if found else []


def _explained(error: Exception) -> UserError:
    """A composition error as one line."""
    import re

    text = " ".join(str(error).split()) or " ".join(str(error.__cause__ or "").split())
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Could not delete from config. '([^']+)' does not exist", text):
        return _unknown_key(found[1])
    return UserError(f"the configuration cannot be composed: {text}")


def _unknown_key(key: str) -> UserError:
    return unknown("key", key, settings.known_keys())


def _directory(folder: str) -> Path:
    directory = expanded(folder).resolve()
    if not directory.is_dir():
        raise UserError(f"configs={folder} is no folder; it holds task/, recipe/ and tuning/ with YAML files")
    for group in ("task", "recipe", "tuning", "claim"):
        if taken := sorted({*listing.names(group)} & {*listing.names(group, directory, alone=True)}):
            raise UserError(
                f"configs={folder} has {group}/{taken[0]}.yaml, a name that is taken; rename the file"
            )
    return directory


def _check_choice(group: str, choice: str | None, known: Sequence[str]) -> None:
    if choice is None:
        raise UserError(
            f"{group} is missing; for example {EXAMPLES[group]} (`omnidistill {group}s` lists all)"
        )
    if choice not in known:
        raise unknown(group, choice, known)


def _apply(cfg: DictConfig, item: Override) -> None:
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        if item.removes:
            with open_dict(cfg):
                section, _, name = item.key.rpartition(".")
                del (OmegaConf.select(cfg, section) if section else cfg)[name]
        else:
            OmegaConf.update(cfg, item.key, item.value(), merge=True, force_add=item.may_add())
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise _unknown_key(item.key) from error


def _container(cfg: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or "a key"
        raise UserError(f"{key} is missing; for example {EXAMPLES.get(key, f'{key}=VALUE')}") from error
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _checked(cfg: DictConfig, given: Sequence[Override]) -> DictConfig:
    from omegaconf import OmegaConf

    plain = settings.check(_container(cfg))
    received.check(plain, "the configuration")  # an escaped interpolation would be one by now
    if lacking := [key for key in NEEDED if key not in plain]:
        raise UserError(f"the configuration lacks {', '.join(lacking)}")
    if plain.get("metrics") and last(given, "metrics") is None:
        raise UserError("metrics= is a function, which only your own command line may name")
    if {*(plain.get("trust") or ())} - {*origin.trusted(given)} and last(given, "trust") is None:
        raise UserError(
            "trust is set in a configuration file; it counts only on the command line: trust=[...]"
        )
    for item in given:
        section, _, rest = item.key.partition(".")
        family = rest.partition(".")[0]
        if section == "families" and family and family not in plain["objective"]:
            used = ", ".join(plain["objective"]) or "none"
            raise UserError(f"{item.key} has no effect: the objective is {used}, without '{family}'")
    if not any(plain["objective"].values()):
        if not plain.get("student", {}).get("inference"):
            raise UserError(
                "the objective is empty; name families with weights, for example objective.matching=1.0"
            )
        plain["updates"] = 0  # nothing is trained, whatever was asked for
    elif plain["updates"] < 1:
        raise UserError(f"updates must be a whole number of at least 1, got {plain['updates']}")
    checked = OmegaConf.create(plain)
    OmegaConf.set_struct(checked, True)
    checked._set_flag(TRUSTING, True)
    return checked


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or (not value and key):
        return {key: value}
    return {
        k: v
        for name, item in value.items()
        for k, v in _flat(item, f"{key}.{name}" if key else str(name)).items()
    }


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


def _yaml_error() -> type[Exception]:
    import yaml

    return yaml.YAMLError
