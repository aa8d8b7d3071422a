"""Every recipe from its configuration to the report and to samples: on the GPU where there is one, else a slow test.

Nothing else in the tests tells a tensor that stays on the CPU from one that follows the run.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.configuration.listing import content, recipes
from omnidistill.errors import NotOffered, UserError
from omnidistill.runs import setup

spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [] if GPU else [pytest.mark.slow]

SMALL = (
    "updates=2",
    "batch=8",
    "fit.updates=2",
    "steps=1,2",
    "evaluation.samples=16",
    "log.every=1",
    f"device={DEVICE}",
)
TASKS = {**golden.TASKS, "pictures": ("task=image/digits",), "scenes": ("task=scenes/toys",)}
"""A recipe runs on the first that has what it needs."""
NAMES = sorted(entry["name"] for entry in recipes())


def overrides_of(recipe: str) -> list[str]:
    for overrides in TASKS.values():
        given = [*overrides, f"recipe={recipe}", *SMALL]
        given += golden.rewarded(recipe) if "tuned=false" in overrides else []
        cfg = compose("config", [*given, "out=unused"])
        task = build(cfg.task)
        try:
            setup.objective_of(cfg, task)
        except (NotOffered, UserError):
            continue
        return given
    raise AssertionError(f"no task has what {recipe} needs")


@pytest.mark.parametrize("recipe", sorted(set(NAMES) - golden.ELSEWHERE))
def test_a_recipe_trains_and_is_judged_there(recipe: str, tmp_path: Path) -> None:
    given = overrides_of(recipe)
    assert main(["distill", *given, f"out={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["environment"]["device"] == (torch.cuda.get_device_name() if GPU else "cpu")
    assert [point["steps"] for point in metrics["student"]][:2] == [1, 2]
    trained = content("recipe", recipe).get("updates") != 0
    assert metrics["training"]["student_updates"] == (2 if trained else 0)
    assert (
        main(["sample", str(tmp_path / "run"), "count=2", f"device={DEVICE}", f"out={tmp_path / 'samples'}"])
        == 0
    )
