"""A student with a policy from the recipe to the folder and back."""

import json

import pytest
import torch

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives import PolicyFlow, StudentSpec
from omnidistill.runs import setup
from omnidistill.samplers import FewStep

TINY = [
    "task=exact/gaussian_mixture",
    "task.network={width: 8, depth: 1}",
    "updates=2",
    "batch=8",
    "fit.updates=0",
    "ema=0.5",
    "evaluation.samples=16",
    "steps=1",
]
GRID = ["recipe=pi-flow", "student.policy.kind=grid", "student.policy.parts=3", "student.target_time=true"]


@pytest.mark.parametrize(
    "words", [["recipe=pi-flow"], GRID, ["recipe=arcflow"]], ids=["mixture", "grid", "arc"]
)
def test_it_is_saved_and_comes_back(words, tmp_path):
    out = tmp_path / "run"
    assert main(["distill", *TINY, *words, f"out={out}"]) == 0
    reading = json.loads((out / "student.json").read_text())["reading"]
    assert reading["policy"][0] in ("mixture", "grid", "arc") and reading["policy"][3] == 2
    first, again = (omnidistill.load(out).sample(6, steps=2, seed=1) for _ in range(2))
    assert torch.equal(first, again) and bool(first.isfinite().all())
    points = json.loads((out / "metrics.json").read_text())["student"]
    assert [(p["steps"], p["nfe"]) for p in points] == [(1, 1)]


class Own(torch.nn.Module):
    """Float[b 2], with the layer that answers under a name of its own."""

    last_module = "answers"

    def __init__(self):
        super().__init__()
        self.hidden, self.answers = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)

    def forward(self, x, t):
        return self.answers(torch.tanh(self.hidden(torch.cat((x, t[:, None]), 1))))


def test_of_a_teacher_of_ones_own(tmp_path):
    from omnidistill import paths
    from omnidistill.denoisers import NetworkDenoiser

    torch.manual_seed(0)
    path, data = paths.rectified_flow(), torch.randn(64, 2)
    student = omnidistill.distill(
        NetworkDenoiser(Own(), path, "flow"), "pi-flow", data=data, updates=2, batch=8, out=tmp_path / "run", judged=(),
        options=["teacher_check=false", "student.policy.parts=3"],
    )  # fmt: skip
    made = student.sample(5, steps=4, seed=3)
    again = omnidistill.load(tmp_path / "run", network=Own(), path=path).sample(5, steps=4, seed=3)
    assert torch.equal(made, again) and bool(made.isfinite().all())


def test_conformance():
    """Declared calls, gradients and repetition of the objective with the student that a recipe makes."""
    from omnidistill.objectives.step import Step
    from omnidistill.random import generator

    cfg = compose("config", [*TINY, "recipe=pi-flow", "out=unused"])
    task = build(cfg.task)
    teacher = setup.teacher_of(cfg, task, "cpu")
    with torch.random.fork_rng(devices=[]):
        origin = setup.origin_of(cfg, task, teacher, None, "cpu")
        student, _ = setup.student_of(cfg, task, origin, "cpu")
    objective, batch = PolicyFlow(states=3), task.batch(4, generator("batch"))
    found = []
    for _ in range(2):
        models = {"student": student, "teacher": teacher.requires_grad_(False)}
        student.calls = teacher.calls = 0
        step = Step("student", batch, models, generator("step"), like=torch.empty_like(batch.x0),
                    student=StudentSpec(4, FewStep("ode"), "data"))  # fmt: skip
        loss = objective.losses("student", step).terms["policy_flow"]
        assert {"student": student.calls, "teacher": teacher.calls} == objective.cost("student")
        found.append(loss.detach())
    assert torch.equal(*found)
    gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)
    assert any(g is not None and bool((g != 0).any()) for g in gradients)


def test_mistakes_are_one_line(tmp_path, capsys):
    for words, said in (
        (["student.policy={kind: cubic}"], "student.policy.kind must be one of mixture, grid, arc"),
        (["student.policy=mixture"], "student.policy must be {kind: mixture, parts: 8"),
        (["recipe=boot", "student.policy={kind: grid, part: 3}"], "unknown key of student.policy 'part'"),
        (["student.policy=null"], "has no policy to be asked again"),
        (["student.cells=4"], "has a last layer of its own"),
    ):
        recipe = [] if words[0].startswith("recipe") else ["recipe=pi-flow"]
        assert main(["distill", *TINY, *recipe, *words, f"out={tmp_path / 'a'}"]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert said in error[-1], error
        import shutil

        shutil.rmtree(tmp_path / "a", ignore_errors=True)
    with pytest.raises(UserError, match="needs deterministic"):
        cfg = compose("config", ["task=exact/markov_text", "recipe=pi-flow", "out=unused"])
        setup.objective_of(cfg, build(cfg.task))
    with pytest.raises(NotOffered, match="without an anchor, and exact/bridge has"):
        cfg = compose("config", ["task=exact/bridge", "task.path=ouve", "recipe=pi-flow", "out=unused"])
        setup.objective_of(cfg, build(cfg.task))
