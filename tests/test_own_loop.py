"""The documented loop without ours: it distils, it is short, and it loads neither Lightning nor Hydra."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from omnidistill.context import Batch
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Matching, Step
from omnidistill.random import generator
from omnidistill.samplers import FewStep

EXAMPLE = Path(__file__).parents[1] / "docs" / "own_loop.py"
CODE = """
import json, runpy, sys
own = runpy.run_path(sys.argv[1])
results = {updates: own["quality"](*own["distil"](updates)) for updates in (0, 500)}
heavy = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "tensorboard", "diffusers", "transformers", "rich")
print(json.dumps({"results": results, "loaded": [name for name in heavy if name in sys.modules]}))
"""


def test_the_documented_loop_distils_with_plain_torch():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(EXAMPLE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] == []
    untrained, student = found["results"]["0"], found["results"]["500"]

    def good(metrics):
        return metrics["modes_recalled"] == 1.0 and metrics["stray"] < 0.15 and metrics["energy"] < 0.12

    assert good(student), student
    assert not good(untrained) and untrained["energy"] > 6 * student["energy"], untrained


def test_the_loop_is_about_twenty_lines():
    tree = ast.parse(EXAMPLE.read_text())
    (loop,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "distil"]
    lines = [line for line in ast.get_source_segment(EXAMPLE.read_text(), loop).splitlines() if line.strip()]
    assert len(lines) <= 25


def test_roles_take_turns_in_plain_torch_too():
    """A critic beside the student, as the example's text says: models by name, turns by role, the others frozen. The
    student, an affine map of noise, finds mean and spread of the teacher's Gaussian; untrained it is far from both."""
    torch.manual_seed(0)
    task = GaussianMixtureTask([[1.0]], 0.3, network={"width": 32, "depth": 1})

    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.scale = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(1.0))

        def forward(self, x, t):
            return self.shift + self.scale * x

    critic = NetworkDenoiser(task.network(), task.path, **task.reading())
    student = NetworkDenoiser(Affine(), task.path, "x0")
    models = {"student": student, "fake_score": critic, "teacher": task.exact_teacher()}
    objective = Matching(critic_updates=2, normaliser="none")
    rates = {"student": 2e-2, "fake_score": 4e-3}
    optimizers = {role: torch.optim.Adam(models[role].parameters(), rate) for role, rate in rates.items()}

    def spread():
        made = FewStep().sample(student, task.like(4096), 1, g=generator("samples")).x0
        return float(made.mean()), float(made.std())

    def good(mean, std):
        return abs(mean - 1.0) < 0.1 and 0.24 < std < 0.36

    assert not good(*spread())
    for update in range(300):
        for turn, role in enumerate(("fake_score", "fake_score", "student")):
            for name, model in models.items():
                model.requires_grad_(name == role)
            step = Step(role, Batch(None, count=128), models, generator(0, update, turn), like=task.like(128))
            optimizers[role].zero_grad()
            sum(objective.losses(role, step).terms.values()).backward()
            optimizers[role].step()
    assert good(*spread()), spread()
