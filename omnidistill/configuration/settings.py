"""The keys of a configuration and what may stand in them; a mistake is one line that says what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnidistill.configuration.values import (
    Check,
    anything,
    by_name,
    flag,
    number,
    one_of,
    optional,
    options,
    section,
    several,
    shown,
    text,
    whole,
)
from omnidistill.errors import UserError, unknown


def _steps(key: str, value: Any) -> list[int]:
    return sorted(set(several(whole(1), least=1)(key, value)))


def inference(key: str, value: Any) -> dict[str, Any]:
    """Walkers by name, each a section with a `_target_`."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} is a section of walkers by name, or null; got {shown(value)}")
    for name, walker in value.items():
        if not isinstance(walker, Mapping) or not isinstance(walker.get("_target_"), str):
            raise UserError(
                f"{key}.{name} is a section with a _target_ that says what it is, got {shown(walker)}"
            )
    return dict(value)


def _label(key: str, value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{key} is a label's number or name, got {shown(value)}")
    return value


def _route(key: str, value: Any) -> dict[str, Any] | str:
    if value == "drawn":
        return "drawn"
    return by_name(several(_label, least=1), "labels by the name of a teacher, or drawn")(key, value)


_RATE = number(0, above=True)
_ADAPTER = section(
    {"rank": whole(1), "alpha": _RATE, "targets": optional(several(text, least=1))},
    "{rank: 8, alpha: 8, targets: [...]}",
)
_POLICY = section(
    {"kind": one_of("mixture", "grid", "arc"), "parts": whole(1, 1024), "substeps": whole(1, 4096)},
    "{kind: mixture, parts: 8, substeps: 32}",
    "kind",
)

CHECKS: Mapping[str, Check] = {
    "out": text,
    "teacher": optional(text),
    "teachers": by_name(text, "folders by the name of a teacher"),
    "route": _route,
    "pairs": optional(text),
    "teacher_check": flag,
    "network": optional(text),
    "encoder": optional(text),
    "rows": optional(whole(2)),
    "metrics": optional(text),
    "primary": optional(text),
    "updates": whole(0),
    "batch": whole(1),
    "accumulate": whole(1),
    "recompute": flag,
    "seed": whole(0),
    "guidance": number(0),
    "steps": _steps,
    "device": one_of("auto", "cpu", "cuda"),
    "precision": one_of("fp32", "bf16"),
    "strategy": one_of("auto", "ddp", "fsdp"),
    "teacher_on_cpu": flag,
    "resume": flag,
    "on_bad": one_of("stop", "skip"),
    "threads": optional(whole(1, 1024)),
    "trust": several(text),
    "ema": optional(number(0, 1, below=True)),
    "optim.lr": _RATE,
    "optim.betas": several(number(0, 1, below=True), 2),
    "optim.weight_decay": number(0),
    "optim.clip": optional(_RATE),
    "optim.warmup": whole(0),
    "optim.decay": one_of("linear", "cosine", "constant"),
    "optim.hold": number(0, 1),
    "student.steps": whole(1),
    "student.transition": one_of("renoise", "ode", "ancestral", "gamma", "confidence"),
    "student.times": optional(several(number(0, 1, above=True), least=1)),
    "student.shift": number(0, above=True),
    "student.gamma": optional(number(0, 1)),
    "student.block": optional(whole(1)),
    "student.sizes": optional(several(number(0, 1, above=True), least=1)),
    "student.inputs": one_of("simulated", "data", "mixed", "jumps", "whole", "translated"),
    "student.walks": optional(several(whole(1), least=1)),
    "student.target_time": optional(flag),
    "student.cells": optional(whole(2)),
    "student.sigma_init": optional(number(0, above=True)),
    "student.experts": optional(whole(2)),
    "student.new_condition": flag,
    "student.policy": optional(_POLICY),
    "student.guidance": optional(number(0)),
    "student.adapter": optional(_ADAPTER),
    "student.frozen": optional(several(text, least=1)),
    "student.random_tokens": optional(number(0, 1)),
    "student.network": optional(options),
    "student.inference": optional(inference),
    "fit.updates": whole(0),
    "fit.batch": optional(whole(1)),
    "fit.lr": optional(_RATE),
    "evaluation.samples": whole(2),
    "evaluation.batch": whole(1),
    "evaluation.teacher_steps": several(whole(1)),
    "evaluation.seed": whole(0),
    "evaluation.round_trip": flag,
    "evaluation.transitions": optional(several(one_of("ode", "renoise", "gamma"))),
    "checkpoint.every": whole(1),
    "log.every": whole(1),
    "log.lag": whole(0),
    "about.title": anything,
    "about.modality": anything,
    "recipe.name": anything,
    "recipe.paper": anything,
    "recipe.title": anything,
    "recipe.year": anything,
    "recipe.family": anything,
    "recipe.modalities": several(text),
    "recipe.needs": several(text),
    "recipe.departures": several(text),
}

OPEN = ("task", "families", "objective", "begin", "end")
"""Sections whose keys are not known here: the component that a `_target_` names says which options it has."""


def check(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain containers, each value checked and unknown keys refused.

    Raises:
        UserError: the first mistake found; unknown keys come with near matches.
    """
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key in OPEN:
            if not isinstance(value, Mapping):
                raise UserError(f"{key} must be a section of keys, got {shown(value)}")
            checked[key] = value
        elif any(name.startswith(f"{key}.") for name in CHECKS):
            if not isinstance(value, Mapping):
                raise UserError(f"{key} is a section: set {', '.join(_below(key)[:3])}, got {shown(value)}")
            checked[key] = {name: _one(f"{key}.{name}", item) for name, item in value.items()}
        else:
            checked[key] = _one(key, value)
    _check_objective(checked)
    return checked


def _below(section: str) -> list[str]:
    return [name for name in CHECKS if name.startswith(f"{section}.")]


def known_keys() -> list[str]:
    """Every key with a meaning of its own and every section, for near matches."""
    sections = {name.partition(".")[0] for name in CHECKS if "." in name}
    return sorted({*CHECKS, *sections, *OPEN})


def _one(key: str, value: Any) -> Any:
    if key not in CHECKS:
        section = key.rpartition(".")[0]
        raise unknown("key", key, _below(section) if section else known_keys())
    return CHECKS[key](key, value)


def _check_objective(settings: Mapping[str, Any]) -> None:
    families = settings.get("families", {})
    for name, family in families.items():
        if not isinstance(family, Mapping) or "_target_" not in family:
            raise unknown("objective family", name, [n for n in families if n != name])
    for name, weight in settings.get("objective", {}).items():
        if name not in families:
            raise unknown("objective family", name, families)
        number(0, above=False)(f"objective.{name}", weight)
    for key, most in (("begin", number(0, 1, below=True)), ("end", number(0, 1, above=True))):
        for name, share in settings.get(key, {}).items():
            if name not in families:
                raise unknown("objective family", name, families)
            most(f"{key}.{name}", share)
