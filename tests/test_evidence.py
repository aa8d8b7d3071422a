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
