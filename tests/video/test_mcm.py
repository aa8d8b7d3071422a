"""Motion consistency: what its options add to the objectives, and the recipe from end to end on made-up recordings."""

import json

import pytest
import torch

from omnidistill.cli import main
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.modalities.video.views import FrameDifferences, StillFrames
from omnidistill.objectives import Adversarial, Consistency, Matching, Nodes, Weighted
from omnidistill.testing import check_objective

TASK = [
    "task=video/clips",
    "task.frames=4",
    "task.size=16",
    "task.side=32",
    "task.interval=0.1",
    "task.network={channels: [16, 16]}",
    "device=cpu",
    "precision=fp32",
    "threads=1",
]


def untrained_teacher(task):
    from omnidistill.denoisers import NetworkDenoiser

    torch.manual_seed(0)
    network = task.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return NetworkDenoiser(network, task.path, **task.reading())


def test_the_objective_conforms_with_views_and_mixed_trajectories(task):
    consistency = Consistency(jumps=Nodes(8), divergence="huber", view=FrameDifferences(), mixed=0.5)
    adversarial = Adversarial(view=StillFrames(), start="teacher")
    both = Weighted({"motion": consistency, "frames": adversarial}, {"motion": 1.0, "frames": 0.1})
    assert check_objective(both, task, teacher=untrained_teacher(task))


def test_mixed_trajectories_start_from_the_students_own_samples():
    task = GaussianMixtureTask()
    for mixed, calls in ((0.0, 1), (0.5, 2)):
        objective = Consistency(jumps=Nodes(8), mixed=mixed)
        assert objective.cost("student")["student"] == calls and objective.rolls_out == (mixed > 0)
        assert check_objective(objective, task)
    # A rollout that another objective makes anyway is not made twice.
    both = Weighted({"c": Consistency(mixed=1.0), "m": Matching()}, {"c": 1.0, "m": 1.0})
    assert both.cost("student")["student"] == 2
    for wrong in ({"mixed": 1.5}, {"mixed": 0.5, "pairs": "stored"}):
        with pytest.raises(UserError, match="mixed is a share"):
            Consistency(**wrong)


def test_the_recipe_runs_on_a_folder_of_videos(folder, tmp_path, capsys):
    own = [*TASK, f"task.folder={folder}"]
    teacher, out = tmp_path / "teacher", tmp_path / "student"
    assert main(["train", *own, f"out={teacher}", "updates=2", "batch=4"]) == 0
    distil = [*own, "recipe=mcm", f"teacher={teacher}", f"out={out}", "updates=2", "batch=4", "steps=2"]
    assert main(["distill", *distil, "evaluation.samples=32", "task.teacher_steps=3", "student.steps=1"]) == 0
    capsys.readouterr()
    found = json.loads((out / "metrics.json").read_text())
    assert found["recipe"] == "mcm" and found["primary"] == {"name": "frechet", "better": "lower"}
    calls = found["training"]["calls"]
    # Two updates of the student: belief, and the rollout that both terms share; one rollout for the critic's.
    assert calls["student"] == 6 and calls["fake_score"] == 2 + 4 and calls["target"] == 2
    assert any(path.suffix == ".mp4" for path in (out / "samples").rglob("*"))
    assert main(["sample", str(out), "count=3", f"out={tmp_path / 'films'}"]) == 0
