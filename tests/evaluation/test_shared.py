"""The teacher's points that the cells of a sweep have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Cell
from omnidistill.evaluation.curve import quality
from omnidistill.evaluation.shared import FOLDER, Shared, digest, home
from omnidistill.exact import GaussianMixtureTask

SAMPLES = 80


@pytest.fixture(scope="module")
def point():
    task = GaussianMixtureTask(teacher_steps=4)
    return quality(task.exact_teacher(), task.sampler(), task, (2,), SAMPLES, 0, resamples=30)[0]


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path, "key", "energy")


def test_a_point_comes_back_as_it_was(shared: Shared, point) -> None:
    assert shared.read(2, Context()) is None
    shared.write(point)
    found = shared.read(2, Context(condition=torch.arange(SAMPLES)))
    assert found is not None and found.record() == point.record()
    assert torch.equal(found.x0, point.x0) and torch.equal(found.resampled, point.resampled)
    assert len(found.context.condition) == len(point.x0)
    assert shared.read(4, Context()) is None, "another step count"
    assert Shared(shared.folder, "other", "energy").read(2, Context()) is None, "another digest"
    assert shared.missing([1, 2], Context())[1] == [1]
    assert Shared(None, "key", "energy").missing([2], Context())[1] == [2]


def test_what_is_broken_or_foreign_is_measured_anew(shared: Shared, point) -> None:
    shared.write(point)
    (file,) = (shared.folder / FOLDER).iterdir()  # and nothing half-written beside it
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        bent = bytearray(whole)
        bent[place] ^= 4
        file.write_bytes(bent)
        found = shared.read(2, Context())
        # A flip may fall on padding that means nothing; what is read is what was written.
        assert found is None or (found.record() == point.record() and torch.equal(found.x0, point.x0))
    for content in (b"", whole[: len(whole) // 2], b"nothing of the kind"):
        file.write_bytes(content)
        assert shared.read(2, Context()) is None
    shared.write(point)
    assert shared.read(2, Context()) is not None
    other = file.with_name("moved")
    file.rename(other)
    file.symlink_to(other)
    assert shared.read(2, Context()) is None, "a link is not followed"
    other.rename(Shared(shared.folder, "other", "energy")._path(2))
    assert Shared(shared.folder, "other", "energy").read(2, Context()) is None, "content of another key"


def test_the_digest_is_of_weights_and_of_all_that_is_named(point) -> None:
    task = GaussianMixtureTask(network={"width": 8, "depth": 1})
    model = NetworkDenoiser(task.network(), task.path, **task.reading())
    first = digest(model, samples=4, task={"a": 1})
    model.calls += 3
    model.eval()
    assert digest(model, task={"a": 1}, samples=4) == first
    assert digest(model, samples=5, task={"a": 1}) != first
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert digest(model, samples=4, task={"a": 1}) != first


def test_a_cell_knows_its_sweep_and_no_other_run_does(tmp_path: Path) -> None:
    cell = Cell("a/b", "x", "x", 0, "x")
    cells.write_cells([cell], tmp_path)
    assert home(tmp_path / "a" / "b" / "x" / "0") == tmp_path.resolve()
    assert home(tmp_path / "a" / "b" / "x" / "1") is None
    assert home(tmp_path / "mine") is None
    (tmp_path / "sweep.json").write_text("{")
    assert home(tmp_path / "a" / "b" / "x" / "0") is None


def test_a_second_cell_asks_the_teacher_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two runs of one sweep by `judge`: the second reads every point and writes the same figures."""
    from omnidistill.configuration import compose
    from omnidistill.evaluation.metrics_file import read_metrics
    from omnidistill.runs import evaluate

    small = ["task=exact/gaussian_mixture", "steps=[1,2]", "evaluation.samples=60", "task.teacher_steps=3"]
    small.append("evaluation.transitions=[]")
    listed = [Cell("exact/gaussian_mixture", name, name, 0, name) for name in ("dmd2", "consistency-models")]
    cells.write_cells(listed, tmp_path)
    asked = []
    inner = evaluate.quality

    def counted(model, sampler, task, steps, **options):
        asked.append((options["name"], list(steps)))
        return inner(model, sampler, task, steps, **options)

    monkeypatch.setattr(evaluate, "quality", counted)
    monkeypatch.setattr(evaluate, "RESAMPLES", 20)
    training = {
        "student_updates": 0,
        "seconds": 0.0,
        "samples_per_second": 0.0,
        "peak_memory_mb": 0.0,
        "calls": {},
    }
    for cell in listed:
        out = tmp_path / cell.folder
        cfg = compose.compose("config", [*small, f"recipe={cell.recipe}", f"out={out}"])
        task = compose.build(cfg.task)
        student = NetworkDenoiser(task.network(), task.path, **task.reading())
        evaluate.judge(cfg, task, task.exact_teacher(), student, training, out)
    assert asked == [("teacher", [1, 2, 3]), ("student", [1, 2]), ("student", [1, 2])]
    first, second = (read_metrics(tmp_path / cell.folder) for cell in listed)
    assert first["teacher"] == second["teacher"]
    assert (tmp_path / listed[1].folder / "samples" / "teacher_3.png").is_file()
