"""Losses and gradient norms of every recipe on a tiny exact task, for `tests/test_golden.py` to compare with.

    python tests/golden.py        writes tests/golden.json anew (`make golden`)

A refactoring that moves a number shows here which recipe it was and by how much; a change that means to is committed
with the new file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from omnidistill.configuration.compose import build, compose
from omnidistill.configuration.listing import content, recipes
from omnidistill.errors import NotOffered
from omnidistill.random import generator
from omnidistill.runs import pairs, setup
from omnidistill.training.loop import Batches
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast

FILE = Path(__file__).with_suffix(".json")
POINTS = "task.network={width: 16, depth: 1}"
TASKS: dict[str, tuple[str, ...]] = {
    "points": ("task=exact/gaussian_mixture", POINTS, "tuned=false"),
    "labelled points": ("task=exact/gaussian_mixture", POINTS, "tuned=false", "task.conditional=true"),
    "tokens": (
        *("task=exact/markov_text", "task.vocab=5", "task.length=6"),
        "task.network={width: 16, depth: 1, heads: 2}",
    ),
    "anchored points": ("task=exact/bridge", POINTS, "task.path=ouve"),
}
"""In this order; a recipe is run on the first that has what it needs."""

ELSEWHERE = {"mcm"}  # compares differences of frames, which no exact task has
UPDATES = 2
REWARDING = ("reward", "negative_aware", "policy_gradient", "preference", "paired")
Figures = dict[str, float | str]


def names() -> list[str]:
    """Of the recipes that train something."""
    found = {entry["name"]: content("recipe", entry["name"]).get("objective") for entry in recipes()}
    return sorted(name for name, objective in found.items() if objective and name not in ELSEWHERE)


def rewarded(recipe: str) -> list[str]:
    """Something to reward, for the parts of a recipe's objective that reward: what its tuning would say."""
    parts = (content("recipe", recipe).get("objective") or {}).items()
    right = "{right: {_target_: omnidistill.exact.rewards.Towards, point: [1.0]}}"
    return [f"families.{part}.rewards={right}" for part, weight in parts if part in REWARDING and weight]


def figures(recipe: str) -> Figures:
    """Losses and gradient norms of each role in the first two updates, float32 on the CPU, seed 0; `on`: the task."""
    for name, overrides in TASKS.items():
        given = [
            *overrides,
            f"recipe={recipe}",
            f"updates={UPDATES}",
            "batch=8",
            "optim.warmup=0",
            "out=unused",
        ]
        given += rewarded(recipe) if "tuned=false" in overrides else []
        cfg = compose("config", [*given, "fit.updates=0", "log.every=1", "device=cpu"])
        task = build(cfg.task)
        try:
            objective = setup.objective_of(cfg, task)
        except NotOffered:
            continue
        return {"on": name, **_updates(cfg, task, objective)}
    raise AssertionError(f"no exact task has what {recipe} needs")


def _updates(cfg, task, objective) -> Figures:  # type: ignore[no-untyped-def]
    teacher = setup.teacher_of(cfg, task, "cpu")
    with torch.random.fork_rng(devices=[]):
        origin = setup.origin_of(cfg, task, teacher, Path("unused"), "cpu")
        _shaken(
            origin, "origin"
        )  # a new network's last layer is zero, and nothing would reach what lies before it
        student, _ = setup.student_of(cfg, task, origin, "cpu")
        _shaken(student, "student")
        torch.manual_seed(0)
        crew = cast(student, origin, objective, cfg.ema or 0.0)
    spec = objective.bank
    bank = None
    if spec is not None:
        small = replace(spec, size=16, steps=min(spec.steps, 4))
        bank = pairs.bank_of(small, task, teacher, cfg.seed, "cpu")
    module = Distillation(
        crew,
        teacher,
        objective,
        setup.settings_of(cfg),
        task.like,
        student=setup.spec_of(cfg),
        null=task.null,
        bank=bank,
    )
    found: Figures = {}
    for update, batches in enumerate(Batches(task, len(crew.turns), 8, cfg.seed, 0, UPDATES)):
        module.training_step(batches, update)
        for key, value in sorted(module.shown.items()):
            if not key.startswith("diagnostics/") and not key.endswith("/lr"):
                found[f"{update + 1}/{key}"] = float(f"{float(value):.6g}")
    return found


def _shaken(model: torch.nn.Module, key: str) -> None:
    g = generator("golden", key)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))


def main() -> None:
    torch.set_num_threads(1)
    FILE.write_text(json.dumps({name: figures(name) for name in names()}, indent=1) + "\n")
    print(FILE)


if __name__ == "__main__":
    main()
