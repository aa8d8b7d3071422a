"""The page of the evidence says what the records say, and nothing else."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("evidence_tables")
    for name in ("evidence_tables", "matrix_tables"):
        sys.modules.pop(name, None)


def test_the_page_is_made_of_the_records(tables: ModuleType) -> None:
    records = (ROOT / "benchmarks" / "results" / "evidence").glob("*.json")
    made = tables.page({file.stem: json.loads(file.read_text()) for file in sorted(records)})
    assert (ROOT / "docs" / "evidence.md").read_text() == made


def test_cells(tables: ModuleType) -> None:
    point = {"energy": 0.25, "interval": [0.2, 0.3], "nfe": 1, "reward_right": 9.0}
    full = {"energy": 0.05, "interval": None, "nfe": 8, "reward_half": 0.5}
    run = {"primary": {"name": "energy"}, "teacher": {"1": point, "8": full}, "student": {"1": point},
           "gap": {"1": 91.234}, "gap_interval": {"1": [90.0, 93.0]}}  # fmt: skip
    assert tables._cell(run) == "1: 91.2 ±1.5 %"
    rewarded = {**run, "student": {"8": {**point, "reward_half": 0.75}}}
    assert tables._cell(rewarded) == "reward 0.50 → 0.75 at 8 steps; energy 0.050 → 0.250 ±0.05"
    assert tables._cell({"reason": "needs tokens"}) == "needs tokens"
    near = {
        **run,
        "teacher": {"8": {**full, "stray": 0.0}},
        "student": {"8": {**point, "reward_half": 0.75, "stray": 0.5}},
    }
    assert tables._cell(near).endswith("±0.05; stray 0.000 → 0.500")


def test_a_reward_holds_its_guard_above_the_teachers_mean_and_near_the_modes(tables: ModuleType) -> None:
    teacher = {"reward_right": -7.0, "reward_near": 0.0, "energy": 0.0, "stray": 0.0}

    def verdict(reward: float, stray: float) -> str:
        own = {**teacher, "reward_right": reward, "stray": stray}
        run = {"teacher": {"4": teacher}, "student": {"1": own}, "warnings": []}
        return tables._guards({"runs": {"run": run}})[-1].split(" | ")[5]

    assert [verdict(*pair) for pair in ((-6.0, 0.1), (-6.0, 0.101), (-7.0, 0.0))] == [
        "holds",
        "broken",
        "broken",
    ]
