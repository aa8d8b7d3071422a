"""The objective that a configuration asks for, and the rewards in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from omnidistill.configuration.compose import build
from omnidistill.context import Context
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives import Weighted
from omnidistill.objectives.reward import Rewards
from omnidistill.objectives.weighted import Untrained
from omnidistill.random import generator
from omnidistill.runs.configured import plain
from omnidistill.runs.student_options import (
    check_inference,
    check_sizes,
    check_start,
    check_translation,
    experts_of,
    policy_of,
)
from omnidistill.tasks import Task
from omnidistill.training.roles import check_named, missing


def objective_of(cfg: DictConfig, task: Task) -> Weighted:
    """The recipe's objectives by weight, checked against what path and task offer."""
    parts, weights = {}, {}
    for name, value in plain(cfg.objective).items():
        if value is None or float(value) == 0.0:
            continue
        if name not in cfg.families:
            raise UserError(
                f"objective.{name} has no families.{name} that says how; known: {', '.join(cfg.families)}"
            )
        parts[name], weights[name] = _objective(cfg.families[name], name), float(value)
    begins = {name: float(share) for name, share in plain(cfg.get("begin", {})).items() if name in parts}
    ends = {name: float(share) for name, share in plain(cfg.get("end", {})).items() if name in parts}
    objective = Weighted(parts, weights, begins, ends) if parts else Untrained()
    has_data = task.batch(1, generator(cfg.seed, "probe")).x0 is not None
    check_inference(cfg, task)
    lacking = missing(objective, task.path, data=has_data, condition=task.conditional)
    if cfg.student.get("new_condition", False) and not task.conditional:
        lacking.append("condition")
    check_translation(cfg, task, objective)
    given = {"data", "condition"}
    if cfg.student.get("inputs") == "translated":
        given.add("anchored")  # what samples are made of: data of another label in its place
    lacking += sorted(
        set(cfg.get("recipe", {}).get("needs", [])) - set(task.path.offers) - given - set(lacking)
    )
    if lacking:
        who = cfg.get("recipe", {}).get("name") or "training a teacher"
        hint = f"; {task.data_hint}" if "data" in lacking and task.data_hint else ""
        if "condition" in lacking and cfg.task.get("conditional") is False:
            hint += "; task.conditional=true tells the network a condition"
        advice = objective.advice(task.path)
        hint += f"; {advice}" if advice else ""
        raise NotOffered(
            f"{who} needs {', '.join(lacking)}, which {task.name} with {task.path} does not offer{hint} "
            "(`omnidistill recipes` lists what each recipe needs)"
        )
    check_named(objective.roles)
    policy_of(cfg, task)  # says where there can be none
    experts_of(cfg, task)
    check_start(cfg, task)
    check_sizes(cfg, task, parts)
    return objective


def judged_by_rewards(task: Task, objective: Weighted) -> None:
    """Has the task measure samples by the rewards that the objective maximises or watches, beside its own metrics.

    Raises:
        UserError: a reward cannot judge the task's samples.
    """
    judges = [getattr(part, "rewards", None) for part in objective.parts.values()]
    found = [rewards for rewards in judges if isinstance(rewards, Rewards)]
    if not found:
        return
    batch = task.batch(2, generator(0, "probe"))
    sample = torch.zeros_like(task.like(2, context=batch.context)) if batch.x0 is None else batch.x0
    for rewards in found:
        rewards.check(sample, batch.x0, batch.context)
    own = task.more

    def more(x0: Tensor, context: Context, rows: Tensor | None) -> Mapping[str, float]:
        figures = {} if own is None else dict(own(x0, context, rows))
        for rewards in found:
            figures |= rewards.figures(x0, context.reference, context)
        return figures

    task.more = more


def rewards_of(cfg: DictConfig) -> dict[str, Any]:
    """What of a configuration says how samples are judged by rewards; {} where nothing is rewarded."""
    active = [
        name for name, value in plain(cfg.get("objective", {})).items() if value and name in cfg.families
    ]
    keys = ("rewards", "watched")
    said = {name: {key: plain(cfg.families[name]).get(key) for key in keys} for name in active}
    return {name: value for name, value in said.items() if any(value.values())}


def _objective(node: Any, name: str) -> Any:
    made = build(node)
    if lacks := [part for part in ("roles", "needs", "losses", "cost") if not hasattr(made, part)]:
        raise UserError(f"families.{name} is no objective: it has no {' and no '.join(lacks)}")
    return made
