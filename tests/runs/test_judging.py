"""What `judge` shows of real data and of inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.curve import baseline, quality
from omnidistill.evaluation.metrics_file import metrics_document
from omnidistill.exact import GaussianMixtureTask
from omnidistill.runs import evaluate
from omnidistill.samplers import FewStep


class Mending(GaussianMixtureTask):
    """Inputs are real samples moved a little, far better than what a student makes that has learned nothing."""

    shown = ("stray",)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        return Context(reference=self.batch(count, g, "held_out").x0)

    def baseline(self, context: Context) -> Tensor | None:
        return context.reference + 0.02


def test_real_data_are_the_items_that_the_models_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, shown = Mending(teacher_steps=2), {}
    monkeypatch.setattr(task, "render", lambda x0, context, target: shown.setdefault(target.name, x0))
    points = quality(task.exact_teacher(), task.sampler(), task, (2,), 40, 0)
    given = baseline(task, 40, 0)
    (tmp_path / "real_7.wav").touch()
    evaluate._render(task, tmp_path, points, [], given, 0)
    assert set(shown) == {"teacher_2", "real", "input"}
    assert torch.equal(shown["real"], points[0].context.reference)
    assert torch.equal(shown["input"], points[0].context.reference + 0.02)
    assert not list(tmp_path.iterdir()), "files of a former evaluation"


def test_a_student_that_makes_its_inputs_worse_is_told() -> None:
    task = Mending(teacher_steps=16, network={"width": 8, "depth": 1})
    options = {"samples": 300, "seed": 0, "resamples": 120}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = NetworkDenoiser(task.network(), task.path, **task.reading())
    document = metrics_document(
        task,
        "none",
        0,
        teacher=quality(task.exact_teacher(), task.sampler(), task, (1, 16), **options),
        student=quality(student, FewStep(), task, (1,), **options),
        floor={},
        training={},
        environment={},
        samples=300,
        inputs=baseline(task, 300, 0, resamples=120),
    )
    assert document["input"]["metrics"]["energy"] < 0.1 < document["student"][0]["metrics"]["energy"]
    assert document["shown"] == ["stray"]
    assert document["warnings"] == [
        "The student at 1 step makes the inputs worse: energy beyond the interval."
    ]
    assert baseline(GaussianMixtureTask(), 10, 0) is None


def test_two_samples_have_no_interval_and_more_have() -> None:
    task = GaussianMixtureTask(teacher_steps=2)
    few, more = (
        quality(task.exact_teacher(), task.sampler(), task, (2,), count, 0, resamples=150)[0]
        for count in (2, 16)
    )
    assert few.interval is None and more.interval is not None
