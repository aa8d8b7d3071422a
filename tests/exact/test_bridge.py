"""The anchored denoiser against Monte Carlo, quadrature and Tweedie; the metrics against samples known to be bad."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import RunError, UserError
from omnidistill.exact import BridgeTask
from omnidistill.paths import ouve
from omnidistill.random import generator
from omnidistill.samplers import Euler, FewStep, Heun
from omnidistill.samplers.predictor_corrector import PredictorCorrector

PATHS = ("ouve", "grad_tts", "brownian_bridge", "residual_shift")


def states(task: BridgeTask, t: float, count: int = 5, seed: int = 0) -> tuple[Tensor, Context]:
    """States that the path really visits at t, and their anchors, float64."""
    batch = task.batch(count, generator(seed))
    assert batch.x0 is not None and batch.context.anchor is not None
    context = Context(anchor=batch.context.anchor.double())
    return task.path.corrupt(batch.x0.double(), t, context, g=generator(seed, "noise")), context


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_posterior_mean_by_importance_sampling(path: str, t: float) -> None:
    """`E[x0 | x_t, y] = sum_i x0_i q(x_t | x0_i, y) / sum_i q(x_t | x0_i, y)` over draws x0_i ~ p(x0 | y)."""
    task = BridgeTask(dim=3, seed=4, modes=3, path=path)
    x_t, context = states(task, t)
    alpha, beta, sigma = task.path.coefficients(t)
    belief = task.exact_teacher()(x_t, t, context).parameters
    for i, y in enumerate(context.anchor):  # type: ignore[arg-type]
        x0 = task.law.sample(y.expand(200_000, 3), generator(1, i))
        weight = (-0.5 * ((x_t[i] - alpha * x0 - beta * y) ** 2).sum(1) / sigma**2).softmax(0)
        expected = weight @ x0
        error = ((weight @ x0**2 - expected**2) * (weight**2).sum()).sqrt()
        assert ((belief[i] - expected) / error).abs().max() < 5.0
        assert error.max() < 0.05, "the comparison must be sharp enough to mean something"


def test_posterior_mean_by_quadrature() -> None:
    """In one dimension: the integral over x0, by the trapezoidal rule, with the conditional density written out."""
    task = BridgeTask(dim=1, seed=2)
    law, x = task.law, torch.linspace(-6, 6, 40001, dtype=torch.float64)
    x_t, context = states(task, 0.7)
    alpha, beta, sigma = task.path.coefficients(0.7)
    belief = task.exact_teacher()(x_t, 0.7, context).parameters
    for i, y in enumerate(context.anchor[:, 0]):  # type: ignore[index]
        centres = law.slope[0, 0] * y + law.offset[0] + law.shifts[:, 0]
        prior = (law.weights * torch.exp(-0.5 * (x[:, None] - centres) ** 2 / law.variance)).sum(1)
        joint = prior * torch.exp(-0.5 * (x_t[i] - alpha * x - beta * y) ** 2 / sigma**2)
        expected = torch.trapezoid(x * joint, x) / torch.trapezoid(joint, x)
        assert float(belief[i]) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_tweedie(path: str) -> None:
    """`alpha E[x0 | x_t, y] + beta y = x_t + sigma^2 grad log p_t(x_t | y)`."""
    task = BridgeTask(dim=4, path=path)
    teacher = task.exact_teacher()
    for t in torch.linspace(task.path.span[0], 0.99, 6, dtype=torch.float64).tolist():
        x_t, context = states(task, t)
        x_t.requires_grad_()
        (score,) = torch.autograd.grad(teacher.log_density(x_t, t, context).sum(), x_t)
        alpha, beta, sigma = task.path.coefficients(t)
        denoised = alpha * teacher(x_t, t, context).parameters + beta * context.anchor
        torch.testing.assert_close(x_t + sigma**2 * score, denoised, rtol=0, atol=1e-9)


def test_ends_of_the_path_are_regular() -> None:
    task = BridgeTask(path="brownian_bridge")
    x, context = states(task, 0.5)
    torch.testing.assert_close(task.exact_teacher()(x, 0.0, context).parameters, x, rtol=0, atol=1e-12)
    y = context.anchor
    assert y is not None
    belief = task.exact_teacher()(y, 1.0, context).parameters
    expected = y @ task.law.slope.T + task.law.offset
    torch.testing.assert_close(belief, expected, rtol=0, atol=1e-12)


def test_each_sample_may_have_its_own_time() -> None:
    task, times = BridgeTask(dim=3), torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    x, context = states(task, 0.5)
    together = task.exact_teacher()(x.float(), times, context).parameters
    assert together.dtype == torch.float32
    apart = [
        task.exact_teacher()(x[i : i + 1].float(), times[i], context[i : i + 1]).parameters for i in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(apart))


def test_pairs_have_the_laws_moments() -> None:
    """Cov(x0 | y) is the within-mode covariance plus that of the modes' centres, and E[x0 | y] = A y + b."""
    task, n = BridgeTask(dim=3, seed=7), 200_000
    batch = task.batch(n, generator(0))
    assert batch.x0 is not None and batch.context.anchor is not None
    law, x0, y = task.law, batch.x0.double(), batch.context.anchor.double()
    torch.testing.assert_close(y.T.cov(), 0.25 * torch.eye(3, dtype=torch.float64), rtol=0, atol=0.01)
    line = torch.linalg.lstsq(torch.cat((y, torch.ones(n, 1)), 1), x0).solution
    torch.testing.assert_close(line[:3].T, law.slope, rtol=0, atol=0.02)
    torch.testing.assert_close(line[3], law.offset, rtol=0, atol=0.02)
    within = law.axes @ torch.diag(law.variance) @ law.axes.T
    between = law.shifts.T @ torch.diag(law.weights) @ law.shifts
    torch.testing.assert_close((x0 - law.mean(y)).T.cov(), within + between, rtol=0, atol=0.02)
    white = law.whiten(x0, y)
    nearest = torch.cdist(white, law.whitened().means).argmin(1)
    torch.testing.assert_close(
        white[nearest == 0].T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.03
    )
    assert float(x0.square().mean().sqrt()) == pytest.approx(task.reading()["sigma_data"], rel=0.01)


def test_the_seed_makes_the_law() -> None:
    first, again, other = (BridgeTask(dim=4, seed=seed).law for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.slope, other.slope)
    torch.testing.assert_close(first.axes @ first.axes.T, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dim, seed, modes", [(8, 1, 2), (4, 3, 3)])
def test_full_steps_reach_the_floor_and_one_step_does_not(path: str, dim: int, seed: int, modes: int) -> None:
    task = BridgeTask(dim, seed, modes, path)
    batch, teacher = task.batch(2000, generator(0), "held_out"), task.exact_teacher()
    assert batch.x0 is not None
    scatter = max(abs(task.measure(batch.x0, batch.context, generator(seed))["energy"]) for seed in (1, 2, 3))
    full, one = (
        task.measure(
            task.sampler().sample(teacher, task.like(2000), steps, batch.context, g=generator(2)).x0,
            batch.context,
            generator(1),
        )
        for steps in (task.teacher_steps, 1)
    )
    assert abs(full["energy"]) < 1.6 * scatter < 0.3 * one["energy"]
    assert full["modes_recalled"] == 1.0 and full["stray"] < 0.01 and full["weights_tv"] < 0.06
    assert full["spread"] == pytest.approx(1.0, abs=0.06) and one["spread"] < 0.6
    assert one["stray"] > 0.5


def test_euler_and_heun_agree_in_the_limit() -> None:
    task = BridgeTask(dim=3)
    _, context = states(task, 0.5, 64)
    like, teacher = task.like(64).double(), task.exact_teacher()
    x_1 = task.path.prior(like, context, g=generator(0))
    euler, heun = (s.sample(teacher, like, 400, context, x_1=x_1).x0 for s in (Euler(), task.sampler()))
    coarse = Euler().sample(teacher, like, 20, context, x_1=x_1).x0
    # A trajectory on the ridge between two modes may fall either way; the median does not hang on it.
    assert (euler - heun).norm(dim=1).median() < 0.1 * (coarse - heun).norm(dim=1).median()


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_each_metric_sees_its_own_failure() -> None:
    task = BridgeTask()
    batch = task.batch(2000, generator(0))
    assert batch.x0 is not None and batch.context.anchor is not None
    x0, y = batch.x0.double(), batch.context.anchor.double()

    def score(samples: Tensor) -> dict[str, float]:
        return task.measure(samples, batch.context, generator(1))

    good = score(x0)
    assert good["modes_recalled"] == 1.0 and good["stray"] < 0.01 and good["weights_tv"] < 0.05
    mean = score(task.law.mean(y))
    assert mean["conditional_mean_error"] < 1e-9 and mean["spread"] < 1e-9, "the conditional mean is unbiased"
    assert mean["stray"] == 1.0 and mean["energy"] > 4 * abs(good["energy"])
    shifted = score(x0 + 0.2)
    assert shifted["conditional_mean_error"] == pytest.approx(0.2, abs=0.05)
    assert shifted["energy"] > 4 * abs(good["energy"])
    one_mode = task.law.mean(y) + task.law.shifts[0]
    assert score(one_mode)["modes_recalled"] == 0.5
    unpaired = score(x0.roll(1, 0))
    assert unpaired["energy"] > 3 * abs(good["energy"]), "right samples for the wrong anchors"


def test_a_large_shared_error_is_not_hidden_by_few_samples() -> None:
    """Fewer samples than unknowns of the line still give a finite number."""
    task = BridgeTask(dim=8)
    batch = task.batch(4, generator(0))
    assert batch.x0 is not None
    assert task.measure(batch.x0 + 1.0, batch.context, generator(1))["conditional_mean_error"] > 0.5


def test_bad_samples() -> None:
    task = BridgeTask(dim=2)
    context = task.batch(3, generator(0)).context
    with pytest.raises(RunError, match="3 of 3"):
        task.measure(torch.full((3, 2), torch.nan), context, generator(0))
    with pytest.raises(UserError, match="anchor"):
        task.measure(torch.zeros(3, 2), Context(), generator(0))
    with pytest.raises(UserError, match="anchor"):
        task.exact_teacher()(torch.zeros(3, 2), 0.5)
    with pytest.raises(UserError, match="anchor"):
        task.render(torch.zeros(3, 2), Context(), Path("nowhere"))


# --- the network, input and output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_untrained_student_scores_badly_and_reads_the_anchor(path: str) -> None:
    task = BridgeTask(path=path, network={"width": 32, "depth": 2})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = NetworkDenoiser(task.network(), task.path, **task.reading())
    batch = task.batch(1000, generator(0))
    assert batch.x0 is not None and batch.context.anchor is not None
    sample = FewStep().sample(student, task.like(1000), 1, batch.context, g=generator(1)).x0
    floor = task.measure(batch.x0, batch.context, generator(2))
    untrained = task.measure(sample, batch.context, generator(2))
    assert untrained["energy"] > 4 * abs(floor["energy"]) and untrained["stray"] > 0.8
    torch.nn.init.normal_(student.network.last.weight, generator=generator(0))  # type: ignore[union-attr, arg-type]
    other = Context(anchor=batch.context.anchor.flip(0))
    x = task.path.prior(task.like(1000), batch.context, g=generator(3))
    answers = [student(x, torch.tensor(1.0), context).parameters for context in (batch.context, other)]
    assert answers[0].isfinite().all() and (answers[0] - answers[1]).abs().mean() > 0.01


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dim": 0}, "dim must be"),
        ({"dim": 2.5}, "dim must be"),
        ({"modes": 0}, "modes must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": "one"}, "seed must be"),
        ({"path": "rectified_flow"}, "needs a path with an anchor.*ouve"),
        ({"path": "ouvee"}, "did you mean ouve"),
        ({"network": {"hieght": 1}}, "hieght"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        BridgeTask(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_path_may_be_given_as_itself() -> None:
    path = ouve(sigma_max=1.0)
    assert BridgeTask(path=path).path is path


def test_render_writes_a_picture_and_the_clean_vectors(tmp_path: Path) -> None:
    task = BridgeTask(dim=3)
    batch = task.batch(20, generator(0))
    assert batch.x0 is not None
    picture, numbers = task.render(batch.x0, batch.context, tmp_path / "pairs")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    written = np.loadtxt(numbers, delimiter=",", skiprows=1)
    np.testing.assert_allclose(written, batch.x0.numpy(), rtol=1e-6, atol=1e-6)


def test_heun_draws_one_noise_where_its_bridge_starts_without_any() -> None:
    """The step from t = 1 has the state's own noise: x_s - alpha_s D - beta_s y is sigma_s times one normal draw, D the
    average of the beliefs at x_1 and at the guess that was drawn with it."""
    task = BridgeTask(path="brownian_bridge", dim=2)
    teacher, batch = task.exact_teacher(), task.batch(4000, generator("pairs"))
    context, path = batch.context, task.path
    x_1 = path.prior(batch.x0, context)
    t, s = (torch.tensor(time, dtype=torch.float64) for time in (1.0, 0.5))
    x_s = Heun().step(teacher, x_1, t, s, context, generator("noise"))
    first = teacher(x_1, t, context)
    guess = path.bridge(x_1, first.mean, t, s, context, g=generator("noise"))
    both = 0.5 * (first.mean + teacher(guess, s, context).mean)
    torch.testing.assert_close(x_s - guess, path.coefficients(s).alpha.float() * (both - first.mean))


def test_the_predictor_corrector_starts_from_a_bridge_without_noise() -> None:
    """`bridge`, which the error of `diffusion` names, answers with finite samples of the law."""
    task = BridgeTask(path="brownian_bridge", dim=2)
    batch, teacher = task.batch(1000, generator(0)), task.exact_teacher()
    with pytest.raises(UserError, match=r"singular at t=1; use predictor: bridge"):
        PredictorCorrector().sample(teacher, batch.x0, 4, batch.context, g=generator(1))
    made = PredictorCorrector(snr=0.2, predictor="bridge").sample(
        teacher, batch.x0, 30, batch.context, g=generator(1)
    )
    assert bool(made.x0.isfinite().all()) and made.nfe == 59
    found = task.measure(made.x0, batch.context, generator(2))
    assert abs(found["spread"] - 1) < 0.05 and found["modes_recalled"] == 1.0
