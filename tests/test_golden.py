"""What every recipe's losses and gradients were is what they are (see `tests/golden.py`)."""

import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
KEPT = json.loads(golden.FILE.read_text())


def test_every_recipe_has_its_figures_or_a_reason() -> None:
    assert sorted(KEPT) == golden.names(), "run `make golden` and look at what changed"
    for name, found in KEPT.items():
        moved = [value for key, value in found.items() if key.endswith("grad_norm")]
        assert moved and min(moved) > 0, f"{name}: a role without a gradient is no evidence"


@pytest.mark.parametrize("recipe", golden.names())
def test_losses_and_gradients_are_what_they_were(recipe: str) -> None:
    found, kept = golden.figures(recipe), KEPT[recipe]
    assert found.keys() == kept.keys()
    for key, value in kept.items():
        # Other machines sum in other orders; a change of the mathematics moves far more.
        assert found[key] == (
            value if isinstance(value, str) else pytest.approx(value, rel=2e-3, abs=1e-6)
        ), key
