"""Configurations: composed by Hydra from the packaged files, plug-ins, the user's folder and the command line.

Precedence, weakest first: root (`config.yaml` or `train.yaml`), task, recipe, tuning (of every student on the task, of
the recipe's family, of the recipe alone; none with `tuned=false`), command line. Files are looked for in the packaged
folders, those of plug-ins and the user's own (`configs=DIR`), where no name of the others may be used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidistill.configuration import listing, origin, plugins, tuning
from omnidistill.configuration.checked import EXAMPLES, checked, trust, unknown_key
from omnidistill.configuration.instantiation import build
from omnidistill.configuration.overrides import last, quoted, read
from omnidistill.configuration.run_file import check_resumable, load_config, save_config
from omnidistill.data.files import expanded
from omnidistill.errors import UserError, unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["build", "check_resumable", "compose", "load_config", "save_config"]

ROOTS = {"config": ("task", "recipe"), "train": ("task",), "cache": ("task",)}
"""The roots and the groups from which each needs a choice."""


def compose(root: str, overrides: Iterable[str]) -> DictConfig:
    """The configuration of a run, checked.

    Args:
        root: `config` (distillation), `train` (teachers) or `cache` (encoded data).
        overrides: of Hydra's grammar, as in `["task=exact/bridge", "recipe=dmd", "steps=1,2", "out=runs/a"]`;
            `configs=DIR` among them adds a folder of the user's own files, `tuned=false` leaves tuning out.

    Raises:
        UserError: an unknown name or key, a value out of range, a key without a value.
    """
    from omegaconf import open_dict

    given = read(overrides)
    folder = last(given, "configs")
    as_tuned = _tuned(last(given, "tuned"))
    given = [item for item in given if item.key not in ("configs", "tuned")]
    directory = None if folder is None else _directory(folder)
    for group in ROOTS[root]:
        if (group, last(given, group)) != ("task", listing.OWN):
            _check_choice(group, last(given, group), listing.names(group, directory))
    if "recipe" not in ROOTS[root] and last(given, "recipe") is not None:
        raise UserError(f"{root} takes no recipe; to distil, use `omnidistill distill`")
    task = last(given, "task") or ""
    tuned = tuning.of_teacher(task, directory) if root == "train" and as_tuned else []
    if "recipe" in ROOTS[root] and as_tuned:
        tuned = tuning.of_recipe(task, str(last(given, "recipe")), directory)
    cfg = _compose(root, [*tuned, *(text for item in given for text in item.hydra())], directory)
    trust(cfg, given)
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
    return checked(cfg, given)


def _tuned(text: str | None) -> bool:
    if text is not None and text.lower() not in ("true", "false"):
        raise UserError(
            f"tuned is true (as tuning/ says for the task) or false (as the recipe says), got {text}"
        )
    return text is None or text.lower() == "true"


def _section(node: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


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


def _explained(error: Exception) -> UserError:
    """A composition error as one line."""
    import re

    text = " ".join(str(error).split()) or " ".join(str(error.__cause__ or "").split())
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(found[1])
    if found := re.search(r"Could not delete from config. '([^']+)' does not exist", text):
        return unknown_key(found[1])
    return UserError(f"the configuration cannot be composed: {text}")


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


def _yaml_error() -> type[Exception]:
    import yaml

    return yaml.YAMLError
