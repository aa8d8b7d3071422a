"""The script behind the picture of docs/scenes.md runs, and draws what it says."""

import importlib
import json
import sys
from pathlib import Path

import pytest


def test_rows_are_the_toy_and_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.image import imread

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = importlib.import_module("turntable")
    try:
        monkeypatch.setattr(module, "PICTURE", tmp_path / "docs" / "turntable.png")
        monkeypatch.setattr(module, "RESULT", tmp_path / "turntable.json")
        short = [
            "updates=2",
            "task.size=12",
            "task.gaussians=20",
            "task.teacher_steps=2",
            "evaluation.samples=4",
        ]
        monkeypatch.setattr(
            module, "RUNS", {"a": ["recipe=dreamfusion", *short], "b": ["recipe=nfsd", *short]}
        )
        monkeypatch.setattr(module, "TASK", module.TASK[:3])
        module.main()
    finally:
        sys.modules.pop("turntable")
    found = json.loads((tmp_path / "turntable.json").read_text())
    assert found["runs"]["a"]["calls"] == {"student": 2, "teacher": 4}
    picture = imread(tmp_path / "docs" / "turntable.png")
    assert picture.shape[:2] == (3 * 74 - 2, 8 * 74 - 2)
    toy, run = picture[:72, :72], picture[74:146, :72]
    assert float(abs(toy - run).mean()) > 0.01
