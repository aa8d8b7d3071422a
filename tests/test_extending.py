"""What docs/extending.md shows runs as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from omnidistill.cli import main

DOCS = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
SMALL = [
    *("task=exact/gaussian_mixture", "task.network={width: 32, depth: 1}", "task.teacher_steps=4"),
    *(
        "updates=3",
        "fit.updates=3",
        "batch=16",
        "evaluation.samples=64",
        "steps=1",
        "device=cpu",
        "threads=1",
    ),
]


def block(section: str, language: str) -> str:
    text = DOCS.split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, section
    return found[1]


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "my configs" / "recipe"
    folder.mkdir(parents=True)
    return folder


def test_the_recipe_that_combines(recipes: Path, tmp_path: Path) -> None:
    (recipes / "dmd2-consistency.yaml").write_text(block("A recipe that combines what is there", "yaml"))
    words = [
        "distill",
        *SMALL,
        "recipe=dmd2-consistency",
        f"configs={recipes.parent}",
        f"out={tmp_path / 'run'}",
    ]
    assert main(words) == 0
    header, *_, last = (tmp_path / "run" / "logs" / "metrics.csv").read_text().splitlines()
    assert {"student/matching", "student/adversarial", "student/consistency"} <= set(header.split(","))
    assert all(dict(zip(header.split(","), last.split(","), strict=True)).values())


def test_the_objective_by_its_name_in_yaml(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "my_package.py").write_text(block("An objective", "python"))
    monkeypatch.syspath_prepend(tmp_path)
    (recipes / "endpoint.yaml").write_text(
        "# @package _global_\n"
        "recipe: {name: endpoint, title: Endpoint, paper: ours, year: 2026, family: endpoint, needs: [data]}\n"
        "objective: {endpoint: 1.0}\n"
        "families: {endpoint: {_target_: my_package.Endpoint}}\n"
    )
    words = ["distill", *SMALL, "recipe=endpoint", f"configs={recipes.parent}"]
    assert main([*words, f"out={tmp_path / 'a'}"]) == 2, "no configuration names what it trusts"
    assert "add trust=[my_package]" in capsys.readouterr().err
    assert main([*words, f"out={tmp_path / 'b'}", "trust=[my_package]"]) == 0
    calls = json.loads((tmp_path / "b" / "metrics.json").read_text())["training"]["calls"]
    assert calls["student"] == 3 and "teacher" not in calls
    made = ["count=2", f"out={tmp_path / 'made'}"]
    assert main(["sample", str(tmp_path / "b"), *made]) == 0, "a student needs its objective no more"


def test_a_task_of_a_package_that_the_user_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "from omnidistill.exact import GaussianMixtureTask\n\n\nclass Mine(GaussianMixtureTask):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "recipe=diff-instruct",
        "task._target_=my_tasks.Mine",
        "trust=[my_tasks]",
        f"out={tmp_path / 'run'}",
    ]
    assert main(["distill", *SMALL, *words]) == 0
    ask = ["sample", str(tmp_path / "run"), "count=2", f"out={tmp_path / 'made'}"]
    assert main(ask) == 2, "what a student's file names is not trusted"
    assert "add trust=[my_tasks]" in capsys.readouterr().err
    assert main([*ask, "trust=[my_tasks]"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "trust=[my_tasks]"]) == 0
