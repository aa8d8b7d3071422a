"""A configuration as it is kept: nothing missing, each value checked, trusting whom its user has typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omnidistill.configuration import origin, received, settings
from omnidistill.configuration.instantiation import TRUSTING
from omnidistill.configuration.overrides import Override, last
from omnidistill.configuration.targets import reachable
from omnidistill.errors import UserError, unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXAMPLES = {"task": "task=exact/gaussian_mixture", "recipe": "recipe=dmd2", "out": "out=runs/first"}

NEEDED = ("task", "objective", "families", "updates", "batch", "seed", "out", "student", "evaluation")
"""What every configuration has, a received one too."""


def checked(cfg: DictConfig, given: Sequence[Override]) -> DictConfig:
    """The configuration, resolved, each value as it is kept.

    Args:
        given: what the user has typed: some things count only there.

    Raises:
        UserError: the first mistake found, in one line.
    """
    from omegaconf import OmegaConf

    plain = settings.check(whole(cfg))
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
    kept = OmegaConf.create(plain)
    OmegaConf.set_struct(kept, True)
    kept._set_flag(TRUSTING, True)
    return kept


def whole(cfg: DictConfig) -> dict[str, Any]:
    """As plain containers, resolved, with nothing missing."""
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


def trust(cfg: DictConfig, given: Sequence[Override]) -> None:
    """Packages whose names the user has typed count as trusted, and may lie in the present folder."""
    if packages := origin.trusted(given):
        cfg["trust"] = sorted({*(cfg.get("trust") or ()), *packages})
    if cfg.get("trust"):
        reachable()


def unknown_key(key: str) -> UserError:
    """What to say to a key that there is not."""
    return unknown("key", key, settings.known_keys())
