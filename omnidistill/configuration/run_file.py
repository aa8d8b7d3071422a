"""The config.yaml that a run leaves in its folder: written, read again, and compared when the run is gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidistill.configuration import defaults, received, settings
from omnidistill.configuration.checked import NEEDED, checked, trust, unknown_key, whole
from omnidistill.configuration.overrides import Override, read
from omnidistill.data.files import write_text
from omnidistill.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
    trust(cfg, given)
    return checked(cfg, given)


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


def _apply(cfg: DictConfig, item: Override) -> None:
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        if item.removes:
            with open_dict(cfg):
                section, _, name = item.key.rpartition(".")
                del (OmegaConf.select(cfg, section) if section else cfg)[name]
        else:
            merge = not item.replaces()
            OmegaConf.update(cfg, item.key, item.value(), merge=merge, force_add=item.may_add())
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise unknown_key(item.key) from error


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
    before, after = whole(load_config(folder)), whole(cfg)
    former, now = _flat(before), _flat(after)
    for key in sorted({*former, *now}):
        a, b = former.get(key), now.get(key)
        if a == b or {key, key.split(".")[0]} & {*free}:
            continue
        # A key that came into being since then was at its default.
        if (key in former and key in now) or (a if key in former else b) != defaults.of(key, after, before):
            return key, _shown(a), _shown(b)
    return None


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
