"""From the user's own files to a few-step student, as the commands do it, on helices that bend at a hinge."""

from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.configuration.compose import build, compose
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.curve import quality
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.modalities.coordinates.files import read_structures
from omnidistill.modalities.coordinates.metrics import rmsd_matrix
from omnidistill.runs.distil import distill
from omnidistill.runs.sample import sample
from omnidistill.runs.train import train
from omnidistill.student import read_denoiser

EVALUATION = {"samples": 64, "seed": 0, "batch": 64}


def options(folder: Path, out: Path) -> list[str]:
    network = "{width: 64, depth: 2, heads: 4, blocks: 1, patch: 2}"
    return [
        *("task=coordinates/adk", f"task.folder={folder}", f"task.network={network}", f"out={out}"),
        *("device=cpu", "precision=fp32", "batch=32", "evaluation.samples=64", "task.teacher_steps=16"),
    ]


pytestmark = pytest.mark.slow  # trains for a minute


@pytest.fixture(scope="module")
def teacher(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    train(compose("train", [*options(folder, out), "updates=300", "ema=0.98", "optim.warmup=30"]))
    return out


def test_a_teacher_learns_shapes_bonds_and_handedness(folder: Path, teacher: Path):
    task = build(compose("train", options(folder, teacher)).task)
    trained, _ = read_denoiser(teacher, "teacher", task)
    torch.manual_seed(0)
    untrained = NetworkDenoiser(task.network(), task.path, **task.reading())
    good = {p.steps: p.metrics for p in quality(trained, task.sampler(), task, [1, 16], **EVALUATION)}
    bad = quality(untrained, task.sampler(), task, [16], **EVALUATION)[0].metrics

    def learned(found: dict[str, float]) -> bool:
        return (
            found["energy"] < 0.3
            and found["coverage"] < 0.8
            and found["bonds"] > 0.7
            and found["mirror"] == 0.0
        )

    assert learned(good[16]), good[16]
    assert not learned(good[1]) and not learned(bad), (good[1], bad)


def test_a_student_is_distilled_sampled_and_written(folder: Path, teacher: Path, tmp_path: Path):
    out = tmp_path
    recipe = ["recipe=consistency-models", f"teacher={teacher}", "updates=60", "ema=0.9", "steps=1,2"]
    tuned = ["optim.lr=1e-3", "optim.warmup=5"]
    distill(compose("config", [*options(folder, out), *recipe, *tuned]))
    found = read_metrics(out)
    energy = {p["steps"]: p["metrics"]["energy"] for p in found["student"]}
    alone = {p["steps"]: p["metrics"]["energy"] for p in found["teacher"]}
    # The untrained student is the teacher at as many steps.
    assert energy[1] < 0.8 * alone[1], (energy, alone)
    files = sample(out, 1, 3, 0, tmp_path / "x.pdb")
    assert (tmp_path / "x.pdb") in files
    x = omnidistill.load(out).sample(3, steps=1, seed=0)
    written = torch.from_numpy(read_structures(tmp_path / "x.pdb").coordinates)
    assert float(rmsd_matrix(written, 10.0 * x)[0].diagonal().max()) < 2e-3
