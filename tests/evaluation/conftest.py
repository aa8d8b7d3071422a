"""A finished run, really evaluated: the exact teacher of a small mixture and a student that has learned nothing yet."""

import csv
from pathlib import Path

import pytest
import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.curve import floor, quality
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.metrics_file import metrics_document, write_metrics
from omnidistill.exact import GaussianMixtureTask
from omnidistill.random import generator
from omnidistill.samplers import FewStep

SAMPLES, SEED = 1000, 3


@pytest.fixture(scope="session")
def task() -> GaussianMixtureTask:
    return GaussianMixtureTask(
        means=[[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]],
        weights=[1, 2, 1],
        teacher_steps=16,
        network={"width": 16, "depth": 1},
    )


@pytest.fixture(scope="session")
def student(task: GaussianMixtureTask) -> NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return NetworkDenoiser(task.network(), task.path, **task.reading())


def write_run(
    folder: Path, task: GaussianMixtureTask, student: NetworkDenoiser, recipe: str = "dmd2"
) -> Path:
    """What `distill` leaves in a folder, but for weights and page."""
    teacher = quality(
        task.exact_teacher(), task.sampler(), task, (1, 2, 4, 16), SAMPLES, SEED, batch=400, resamples=100
    )
    learned = quality(student, FewStep(), task, (1, 4), SAMPLES, SEED, batch=400, resamples=100)
    updates, rows = 30, []
    g = generator(SEED, "log")
    for update in range(1, updates + 1):
        x0 = task.batch(64, g).x0
        row = {"update": update, "seconds": 0.01 * update, "student/matching": float(x0.square().mean())}
        if update % 10 == 0:
            row["diagnostics/critic_lag"] = float(x0.std())
        rows.append(row | {"fake_score/denoising": float(x0.abs().mean())})
    rows[4]["fake_score/denoising"] = float("nan")
    log = folder / "logs" / "metrics.csv"
    log.parent.mkdir(parents=True)
    names = [
        "update",
        "seconds",
        "student/matching",
        "fake_score/denoising",
        "diagnostics/critic_lag",
        "never/seen",
    ]
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    real = task.batch(64, generator(SEED, "real"), "held_out")
    for name, x0, context in [
        ("real", real.x0, real.context),
        *((f"teacher_{p.steps}", p.x0, p.context) for p in teacher),
        *((f"student_{p.steps}", p.x0, p.context) for p in learned),
    ]:
        task.render(x0, context, folder / "samples" / name)
    (folder / "config.yaml").write_text(
        "command: omnidistill distill task=exact/gaussian_mixture recipe=dmd2 'task.weights=[1,2,1]' out=DIR\n"
        f"recipe:\n  name: {recipe}\n  paper: 'Yin et al. 2024, DMD2, arXiv:2405.14867'\nseed: {SEED}\n"
    )
    document = metrics_document(
        task,
        recipe,
        SEED,
        teacher=teacher,
        student=learned,
        floor=floor(task, SAMPLES, SEED),
        training={
            "student_updates": updates,
            "seconds": 0.01 * updates,
            "samples_per_second": 6400.0,
            "peak_memory_mb": 0.0,
            "calls": {"teacher": updates, "student": 2 * updates, "fake_score": 6 * updates},
        },
        environment=environment(),
        samples=SAMPLES,
    )
    write_metrics(document, folder)
    return folder


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, task: GaussianMixtureTask, student: NetworkDenoiser
) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", task, student)
