"""One command from teacher to student: what it writes, what can be done with it, what happens to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.cli import main

SMALL = [
    "task=exact/gaussian_mixture",
    "task.means=[[1,0],[-1,0],[0,1.5]]",
    "task.network={width: 64, depth: 2}",
    "task.teacher_steps=16",
    "batch=128",
    "fit.updates=150",
    "evaluation.samples=256",
    "steps=1,2",
    "log.every=10",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dmd2"
    assert main(["distill", *SMALL, "recipe=dmd2", "objective.regression=0", "updates=20", f"out={out}"]) == 0
    return out


def test_writes_what_the_design_pins(run: Path) -> None:
    for name in ("config.yaml", "student.safetensors", "student.json", "metrics.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    for name in (
        "samples/student_1.png",
        "samples/teacher_16.png",
        "logs/metrics.csv",
        "checkpoints/last.safetensors",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "logs").glob("events.out.tfevents*")), "TensorBoard events"


def test_metrics_list_the_teacher_at_full_steps_and_at_the_students(run: Path) -> None:
    document = json.loads((run / "metrics.json").read_text())
    assert (
        document["schema"] == 2
        and document["recipe"] == "dmd2"
        and document["task"] == "exact/gaussian_mixture"
    )
    assert [p["steps"] for p in document["teacher"]] == [1, 2, 16]
    assert [p["nfe"] for p in document["teacher"]] == [1, 3, 31]  # Heun: two calls a step but the last
    assert [(p["steps"], p["nfe"]) for p in document["student"]] == [(1, 1), (2, 2)]
    teacher = {p["steps"]: p["metrics"]["energy"] for p in document["teacher"]}
    assert teacher[16] < 0.3 * teacher[1], "the closed-form teacher must be far better with its full steps"
    student = document["student"][0]["metrics"]["energy"]
    expected = 100 * (teacher[1] - student) / (teacher[1] - teacher[16])
    assert document["gap_closed"]["1"] == pytest.approx(expected, abs=0.06)


def test_counted_calls_are_the_declared_ones(run: Path) -> None:
    calls = json.loads((run / "metrics.json").read_text())["training"]["calls"]
    # 20 updates; the critic is updated five times for each, on a rollout of its own, in one question whose answers are
    # its belief, the features of the fake and those of the real sample (two samples, so two calls); the student's
    # update asks teacher and critic once, and of the critic belief and features together.
    assert calls["teacher"] == 20
    assert calls["student"] == 20 * (5 + 1)
    assert calls["fake_score"] == 20 * (5 * 2 + 1)


def test_a_loaded_student_samples_the_same_numbers(run: Path) -> None:
    first = omnidistill.load(run).sample(32, steps=1, seed=4)
    assert first.shape == (32, 2) and bool(torch.isfinite(first).all())
    assert torch.equal(first, omnidistill.load(run).sample(32, steps=1, seed=4))
    assert not torch.equal(first, omnidistill.load(run).sample(32, steps=1, seed=5))


def test_samples_may_be_asked_for_by_any_suffix_that_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for suffix in (".csv", ".png"):
        target = tmp_path / suffix[1:] / f"made{suffix}"
        assert main(["sample", str(run), "count=2", f"out={target}"]) == 0
        assert sorted(file.name for file in target.parent.iterdir()) == ["made.csv", "made.png"]
    capsys.readouterr()
    assert main(["sample", str(run), "count=2", f"out={tmp_path / 'made.wav'}"]) == 2
    assert ".png and .csv, not '.wav'" in capsys.readouterr().err


def test_sample_and_evaluate_again(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "steps=2", "count=7", "seed=1", f"out={tmp_path / 'made'}"]) == 0
    rows = (tmp_path / "made.csv").read_text().strip().splitlines()
    assert len([row for row in rows if row[0].isdigit() or row[0] == "-"]) == 7
    before = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "steps=1,4"]) == 0
    after = json.loads((run / "metrics.json").read_text())
    assert [p["steps"] for p in after["student"]] == [1, 4]
    assert after["training"] == before["training"]
    assert {f.name for f in (run / "samples").glob("student_*.png")} == {"student_1.png", "student_4.png"}
    assert after["student"][0]["metrics"] == before["student"][0]["metrics"], "same seed, same figures"


def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SMALL, "recipe=diff-instruct", "updates=12", "checkpoint.every=5", "fit.updates=30"]
    assert main(["distill", *options, f"out={tmp_path / 'whole'}"]) == 0
    from omnidistill.training.module import Distillation

    step = Distillation.training_step

    def killed(self: Distillation, batches: list, index: int) -> None:
        if self.settings.updates == 12 and self.update == 8:
            raise RuntimeError("the machine went away")
        step(self, batches, index)

    monkeypatch.setattr(Distillation, "training_step", killed)
    assert main(["distill", *options, f"out={tmp_path / 'broken'}"]) == 1
    monkeypatch.undo()
    assert main(["distill", *options, f"out={tmp_path / 'broken'}", "resume=true"]) == 0
    whole, resumed = ((tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == resumed
    columns = [
        [row.split(",")[0] for row in (tmp_path / n / "logs/metrics.csv").read_text().splitlines()]
        for n in ("whole", "broken")
    ]
    assert columns[0] == columns[1], "no update is logged twice and none is missing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("recipe=di-m-o", "needs masked"),
        ("recipe=lcm", "task.conditional=true tells the network a condition"),
        ("recipe=snoopi", "needs condition"),
    ],
)
def test_a_recipe_that_the_path_cannot_carry(
    change: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["distill", *SMALL, change, f"out={tmp_path / 'x'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]


def test_weights_of_another_architecture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train = [
        "train",
        "task=image/digits",
        "updates=2",
        "batch=8",
        "task.network={channels: [16, 32], unshuffle: 1}",
    ]
    assert main([*train, f"out={tmp_path / 'teacher'}"]) == 0
    capsys.readouterr()
    options = ["distill", "task=image/digits", "recipe=diff-instruct", f"teacher={tmp_path / 'teacher'}"]
    assert main([*options, "task.network={channels: [16, 48], unshuffle: 1}", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "another architecture" in error[0]


def test_a_truncated_student(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("config.yaml", "student.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "student.safetensors").write_bytes((run / "student.safetensors").read_bytes()[:500])
    assert main(["sample", str(tmp_path), "steps=1", "count=2", f"out={tmp_path / 'made'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "not a whole safetensors file" in error[0]


def test_nan_in_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnidistill.context import Batch
    from omnidistill.exact import GaussianMixtureTask

    draw = GaussianMixtureTask.batch

    def broken(self, count, g, split="train"):  # type: ignore[no-untyped-def]
        batch = draw(self, count, g, split)
        return Batch(batch.x0.masked_fill(batch.x0 > 1.0, float("nan")), batch.context)

    monkeypatch.setattr(GaussianMixtureTask, "batch", broken)
    assert main(["distill", *SMALL, "recipe=dmd2", "updates=3", f"out={tmp_path / 'x'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "NaN" in error and "exact/gaussian_mixture" in error
