"""What every recipe's losses and gradients were is what they are (see `tests/golden.py`)."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest


def beside(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden, counted = beside("golden"), beside("counted")
KEPT = json.loads(golden.FILE.read_text())


def test_every_recipe_has_its_figures_or_a_reason() -> None:
    assert sorted(KEPT) == golden.names(), "run `make golden` and look at what changed"
    for name, found in KEPT.items():
        moved = [value for key, value in found.items() if key.endswith("grad_norm")]
        assert moved and min(moved) > 0, f"{name}: a role without a gradient is no evidence"


@cache
def run(recipe: str):
    """Once for both of the tests below."""
    with counted.counting() as counts:
        return golden.figures(recipe), counts


@pytest.mark.parametrize("recipe", golden.names())
def test_losses_and_gradients_are_what_they_were(recipe: str) -> None:
    (found, _), kept = run(recipe), KEPT[recipe]
    assert found.keys() == kept.keys()
    for key, value in kept.items():
        # Other machines sum in other orders; a change of the mathematics moves far more.
        assert found[key] == (
            value if isinstance(value, str) else pytest.approx(value, rel=2e-3, abs=1e-6)
        ), key


EACH_STEP = {"diffusionopd", "flow-grpo", "flow-opd", "gkd", "pso"}
"""They compare every step of a walk, for as many times the cost of one."""

LATER = {
    "disback": "later targets stand in the teacher's place, and `cost` names the first",
    "progressive-distillation": "in later rounds the mentor stands in the teacher's place",
    "sdtt": "in later rounds the mentor stands in the teacher's place",
}


@pytest.mark.parametrize("recipe", golden.names())
def test_calls_are_those_that_cost_declares(recipe: str) -> None:
    _, counts = run(recipe)
    assert counts.declared and all(n >= 0 for n in counts.walked.values())
    if recipe in EACH_STEP:
        steps = counts.made["student"] / counts.declared["student"]
        assert steps >= 1
        assert counts.made == {name: steps * n for name, n in counts.declared.items()}
    elif recipe in LATER:
        assert counts.left != counts.declared, "no exception is needed any more"
        assert sum(counts.left.values()) == sum(counts.declared.values())
        assert counts.left["student"] == counts.declared["student"]
    else:
        assert counts.left == pytest.approx(counts.declared)
