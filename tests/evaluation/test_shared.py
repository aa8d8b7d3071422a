"""The teacher's points that the cells of a sweep have in common."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omnidistill.context import Context
from omnidistill.data import turns
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


class Asking:
    """A process that comes to the teacher's points, and notes each time that it measures them."""

    def __init__(self, shared: Shared, point, name: str, during: Callable[[], None] = lambda: None) -> None:
        self.folder, self.name = shared.folder, name

        def measure(counts, alive):
            alive()
            self.note("measures", str(counts))
            during()
            return [point]

        def work() -> None:
            with (self.folder / f"{name}.said").open("w") as file, contextlib.redirect_stderr(file):
                (found,) = shared.points([point.steps], Context(), measure, name)
            self.note("has", str(found.record() == point.record()))

        self.process = multiprocessing.get_context("fork").Process(target=work)
        self.process.start()

    def note(self, *words: str) -> None:
        (self.folder / f"{self.name}.{words[0]}").write_text(words[1])

    def noted(self, word: str) -> str | None:
        place = self.folder / f"{self.name}.{word}"
        return place.read_text() if place.is_file() else None

    def ended(self) -> int | None:
        self.process.join(20)
        return self.process.exitcode


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_cells_that_begin_together_one_measures(shared: Shared, point) -> None:
    both = [Asking(shared, point, name, lambda: time.sleep(1.0)) for name in "ab"]
    assert [cell.ended() for cell in both] == [0, 0]
    assert [cell.noted("has") for cell in both] == ["True", "True"]
    first, second = sorted(both, key=lambda cell: cell.noted("measures") is None)
    assert (first.noted("measures"), second.noted("measures")) == ("[2]", None)
    who = f"{first.name} (process {first.process.pid} on "
    assert first.noted("said") == ""
    waits, waited = second.noted("said").splitlines()
    assert waits.startswith(f"waits for {who}") and waits.endswith(", which measures the teacher")
    assert waited.startswith("waited 0:0")


def test_a_cell_that_is_killed_while_it_measures_is_not_waited_for(shared: Shared, point) -> None:
    first = Asking(shared, point, "a", lambda: time.sleep(60))
    until(lambda: first.noted("measures"))
    second = Asking(shared, point, "b")
    until(lambda: second.noted("said"))
    assert second.noted("measures") is None
    os.kill(first.process.pid, signal.SIGKILL)
    assert (first.ended(), second.ended()) == (-signal.SIGKILL, 0)
    assert second.noted("measures") == "[2]" and second.noted("has") == "True"


def test_a_cell_that_gives_no_sign_of_life_is_not_waited_for(shared: Shared, point, monkeypatch) -> None:
    monkeypatch.setattr(turns, "SILENCE", 0.5)
    first = Asking(shared, point, "a", lambda: time.sleep(60))
    until(lambda: first.noted("measures"))
    second = Asking(shared, point, "b")
    assert second.ended() == 0 and second.noted("has") == "True" and second.noted("measures") == "[2]"
    assert "waits no more for a (process" in second.noted("said")
    first.process.kill()


def test_signs_of_life_are_waited_for(shared: Shared, point, monkeypatch) -> None:
    monkeypatch.setattr(turns, "SILENCE", 0.5)

    def work() -> None:
        with turns.turn(shared.folder / "lock", "works", "a") as alive:
            (shared.folder / "began").touch()
            for _ in range(15):
                time.sleep(0.1)
                alive()

    first = multiprocessing.get_context("fork").Process(target=work)
    first.start()
    until((shared.folder / "began").exists)
    began = time.monotonic()
    with turns.turn(shared.folder / "lock", "works", "b"):
        assert time.monotonic() - began > 1.0


def test_without_locks_everybody_measures(shared: Shared, point, monkeypatch, capsys) -> None:
    def none(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(turns.fcntl, "flock", none)
    (found,) = shared.points([2], Context(), lambda counts, alive: [point], "a")
    assert found is point and capsys.readouterr().err == ""
    assert shared.read(2, Context()) is not None
    assert shared.points([2], Context(), lambda counts, alive: 1 / 0, "a")[0].record() == point.record()


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
