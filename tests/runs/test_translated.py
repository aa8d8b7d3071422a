"""The unpaired form of a recipe from the command line: what is judged, kept and sampled, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.cli import main

UNPAIRED = [
    *("recipe=img2img-turbo", "student.inputs=translated", "objective.translation=1"),
    *("objective.l2=0", "objective.features=0"),
]
SMALL = [
    *("task.conditional=true", "task.network={width: 16, depth: 2}", "task.teacher_steps=4", "updates=3"),
    *("fit.updates=3", "batch=16", "threads=1", "device=cpu", "evaluation.samples=64", "steps=1,2"),
]
MIXTURE = "task=exact/gaussian_mixture"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "translator"
    assert main(["distill", MIXTURE, *UNPAIRED, *SMALL, f"out={out}"]) == 0
    return out


def test_its_translations_are_judged_and_again_after_loading(run: Path) -> None:
    before = json.loads((run / "metrics.json").read_text())
    assert all("cycle" in p["metrics"] for p in before["student"])
    assert not any("cycle" in p["metrics"] for p in before["teacher"])
    assert main(["evaluate", str(run)]) == 0
    after = json.loads((run / "metrics.json").read_text())
    assert [p["metrics"] for p in after["student"]] == [p["metrics"] for p in before["student"]]


def test_held_out_data_are_what_it_samples_from(run: Path, tmp_path: Path) -> None:
    for wanted in ([], ["condition=3"]):
        assert main(["sample", str(run), "count=5", "seed=1", *wanted, f"out={tmp_path / 'x.csv'}"]) == 0
        rows = (tmp_path / "x.csv").read_text().splitlines()
        assert len(rows) == 6
    student = omnidistill.load(run)
    held = student.task.batch(5, omnidistill.random.generator(1, "sample", "contexts"), "held_out").x0
    made = student.translate(held, 3, seed=1)
    shown = torch.tensor([[float(v) for v in row.split(",")] for row in rows[1:]])
    torch.testing.assert_close(shown, made, rtol=1e-5, atol=1e-6)


def test_it_is_not_exported_as_if_it_started_from_noise(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(run), "format=onnx", f"out={tmp_path / 'handed'}"]) == 2
    assert "hand over the folder itself" in capsys.readouterr().err
    assert not (tmp_path / "handed").exists()


@pytest.mark.parametrize(
    "overrides, says",
    [
        ([MIXTURE, *UNPAIRED], "has no labels"),
        ([MIXTURE, *UNPAIRED, "task.conditional=true", "task.means=[[1,0]]"], "has one label"),
        (["task=exact/markov_text", *UNPAIRED], "needs a Gaussian path without an anchor"),
        (["task=exact/bridge", *UNPAIRED], "needs a Gaussian path without an anchor"),
        ([MIXTURE, "task.conditional=true", *UNPAIRED[2:], UNPAIRED[0]], "set student.inputs=translated"),
        ([MIXTURE, "task.conditional=true", UNPAIRED[0]], "needs anchored"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_a_line(overrides, says, tmp_path: Path, capsys) -> None:
    assert main(["distill", *overrides, f"out={tmp_path / 'none'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert not (tmp_path / "none" / "checkpoints").exists()
