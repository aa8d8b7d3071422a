"""Quality against steps on an exact teacher: counted calls, seeds, and what the curve must look like."""

import itertools

import pytest
import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.curve import device_of, floor, quality
from omnidistill.exact import GaussianMixtureTask
from omnidistill.posteriors import PointPosterior
from omnidistill.samplers import Euler, FewStep, Heun, Sample, Sampler


@pytest.fixture(scope="module")
def labelled() -> GaussianMixtureTask:
    return GaussianMixtureTask(means=[[-1.0], [1.0]], conditional=True, teacher_steps=8)


@pytest.mark.parametrize(("sampler", "calls"), [(Euler(), lambda n: n), (Heun(), lambda n: 2 * n - 1)])
@pytest.mark.parametrize("guided", [False, True])
def test_nfe_is_what_the_sampler_asked_for(labelled, sampler, calls, guided) -> None:
    teacher = labelled.exact_teacher()
    model = Guided(teacher, 1.5, labelled.null) if guided else teacher
    points = quality(model, sampler, labelled, (1, 2, 5), samples=50, seed=0, batch=20)
    assert [point.nfe for point in points] == [calls(n) * (2 if guided else 1) for n in (1, 2, 5)]


def test_more_steps_bring_the_exact_teacher_to_the_floor(task) -> None:
    points = quality(task.exact_teacher(), task.sampler(), task, (1, 4, 32), samples=2000, seed=1)
    energies = [point.metrics["energy"] for point in points]
    assert energies[0] > 3 * energies[1] > 6 * abs(energies[2])
    real = floor(task, 2000, seed=1)["energy"]
    assert abs(real) < 0.05 and abs(energies[2]) < 0.05, "both scatter about 0"
    assert all(point.seconds_per_sample > 0 for point in points)
    assert points[2].seconds_per_sample > points[0].seconds_per_sample


def test_same_seed_same_numbers_whatever_the_global_generator(task, student) -> None:
    def figures(model: Denoiser, seed: int, steps: tuple[int, ...] = (1, 3)) -> list[object]:
        torch.manual_seed(next(counter))
        points = quality(model, FewStep(), task, steps, samples=90, seed=seed, batch=40)
        return [(point.steps, point.metrics, point.x0.tolist()) for point in points]

    counter = itertools.count()
    first = figures(student, 5)
    assert first == figures(student, 5)
    assert first != figures(student, 6)
    assert first[1:] == figures(
        student, 5, steps=(3,)
    )  # which other step counts are asked for changes nothing


class Recorder(Sampler):
    """Keeps where it started and what it was told."""

    def __init__(self, inner: Sampler) -> None:
        self.inner, self.seen = inner, []

    def sample(self, denoiser, like, steps, context=Context(), **keywords) -> Sample:  # type: ignore[override]
        made = self.inner.sample(denoiser, like, steps, context, **{**keywords, "keep": True})
        self.seen.append((made.states[0], context.condition))
        return made


def test_teacher_and_student_share_starts_and_conditions(labelled) -> None:
    network = NetworkDenoiser(labelled.network(), labelled.path, **labelled.reading())
    teacher, learned = Recorder(Heun()), Recorder(FewStep())
    quality(labelled.exact_teacher(), teacher, labelled, (2,), samples=50, seed=3, batch=20)
    quality(network, learned, labelled, (2,), samples=50, seed=3, batch=20)
    assert len(teacher.seen) == len(learned.seen) == 4  # a warm-up and three batches
    for (x_1, label), (other_x_1, other_label) in zip(teacher.seen[1:], learned.seen[1:], strict=True):
        assert torch.equal(x_1, other_x_1)
        assert torch.equal(label, other_label)
    assert not torch.equal(teacher.seen[1][0], teacher.seen[2][0])


class Broken(Denoiser):
    """Right but for one sample in the batch."""

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> PointPosterior:
        mean = torch.zeros_like(x_t)
        mean[0] = torch.nan
        return PointPosterior(mean)


def test_nan_is_reported_with_the_model_and_the_steps(task) -> None:
    with pytest.raises(RunError, match=r"student at 2 steps: 1 of 30 samples hold NaN"):
        quality(Broken(task.path), Euler(), task, (2,), samples=30, seed=0, name="student")


class Capricious(FewStep):
    """A batch in two costs one more call."""

    batches = 0

    def sample(self, denoiser, like, steps, *arguments, **keywords) -> Sample:  # type: ignore[override]
        self.batches += 1
        made = super().sample(denoiser, like, steps, *arguments, **keywords)
        return made._replace(nfe=made.nfe + self.batches % 2)


def test_batches_that_cost_differently_are_no_nfe(task, student) -> None:
    with pytest.raises(RunError, match=r"\[1, 2\]"):
        quality(student, Capricious(), task, (1,), samples=30, seed=0, batch=10)


@pytest.mark.parametrize(
    ("steps", "samples", "batch"), [((0,), 10, 5), ((1, -2), 10, 5), ((1,), 0, 5), ((1,), 10, 0)]
)
def test_impossible_numbers(task, student, steps, samples, batch) -> None:
    with pytest.raises(UserError):
        quality(student, FewStep(), task, steps, samples, 0, batch)


def test_modes_and_progress(task, student) -> None:
    student.train()
    student.network.eval()
    seen: list[tuple[int, int]] = []
    quality(
        student,
        FewStep(),
        task,
        (1, 4),
        samples=20,
        seed=0,
        batch=10,
        progress=lambda *pair: seen.append(pair),
    )
    assert student.training
    assert not student.network.training
    assert seen == [(done, 10) for done in range(1, 11)]
    assert device_of(student) == torch.device("cpu")


def test_low_precision_is_for_sampling_alone(labelled, monkeypatch) -> None:
    """Data that a task reads only when it is judged, and its metrics, must not depend on who asks first."""
    seen: dict[str, bool] = {}
    for name in ("contexts", "measure"):
        method = getattr(labelled, name)

        def spied(*args, name=name, method=method):
            seen[name] = torch.is_autocast_enabled("cpu")
            return method(*args)

        monkeypatch.setattr(labelled, name, spied)

    class Watching(Euler):
        def step(self, *args, **options) -> Tensor:
            seen["step"] = torch.is_autocast_enabled("cpu")
            return super().step(*args, **options)

    with torch.autocast("cpu", torch.bfloat16):
        quality(labelled.exact_teacher(), Watching(), labelled, (1,), samples=8, seed=0)
    assert seen == {"contexts": False, "step": True, "measure": False}
