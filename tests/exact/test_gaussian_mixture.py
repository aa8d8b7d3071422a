"""The exact denoiser against Monte Carlo, Tweedie and finer solvers; the metrics against samples known to be bad."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Guided, NetworkDenoiser
from omnidistill.errors import RunError, UserError
from omnidistill.exact import MLP, GaussianMixtureTask
from omnidistill.random import generator
from omnidistill.samplers import Euler, FewStep, Heun, Sampler

PATHS = ("rectified_flow", "vp_cosine", "vp_linear", "trigflow", "edm")
MEANS = [[1.0, 0.0, -0.5], [-0.7, 0.9, 0.2], [0.1, -1.1, 0.6]]
WEIGHTS = [0.5, 0.3, 0.2]


def small(**options: object) -> GaussianMixtureTask:
    return GaussianMixtureTask(MEANS, 0.3, WEIGHTS, **options)  # type: ignore[arg-type]


def states(task: GaussianMixtureTask, t: float, count: int = 6, seed: int = 0) -> Tensor:
    """States that the path really visits at t, float64."""
    x0 = task.batch(count, generator(seed)).x0
    assert x0 is not None
    return task.path.corrupt(x0.double(), t, g=generator(seed, "noise"))


# --- the denoiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_posterior_mean_by_importance_sampling(path: str, quantile: float) -> None:
    """`E[x0 | x_t] = sum_i x0_i q(x_t | x0_i) / sum_i q(x_t | x0_i)` over draws x0_i of the data."""
    task = small(path=path)
    t = task.path.time_from_log_snr(3.0 - 6.0 * quantile)  # comparable noise on every path
    x_t = states(task, float(t))
    alpha, _, sigma = task.path.coefficients(t)
    x0 = task.mixture.sample(torch.full((200_000,), 3), generator(1))[0]
    weight = (-0.5 * (torch.cdist(x_t, alpha * x0) / sigma) ** 2).softmax(1)
    expected = weight @ x0
    variance = weight @ x0**2 - expected**2
    error = (variance * (weight**2).sum(1, keepdim=True)).sqrt()  # one over the effective sample size
    z = (task.exact_teacher()(x_t, t).parameters - expected) / error
    assert z.abs().max() < 5.0
    assert error.max() < 0.02, "the comparison must be sharp enough to mean something"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("conditional", [False, True])
def test_tweedie(path: str, conditional: bool) -> None:
    """The gradient of the log-density is `(alpha E[x0 | x_t] - x_t) / sigma^2` (Efron 2011, eq. 2.8)."""
    task = small(path=path, conditional=conditional)
    teacher = task.exact_teacher()
    context = Context(condition=torch.tensor([0, 1, 2, 3, 0, 3])) if conditional else Context()
    times = torch.linspace(task.path.span[0], task.path.span[1], 6, dtype=torch.float64)
    for t in times.tolist():
        x_t = states(task, t).requires_grad_()
        (score,) = torch.autograd.grad(teacher.log_density(x_t, t, context).sum(), x_t)
        alpha, _, sigma = task.path.coefficients(t)
        denoised = teacher(x_t, t, context).parameters
        torch.testing.assert_close(x_t + sigma**2 * score, alpha * denoised, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_density_integrates_to_one(path: str) -> None:
    task = GaussianMixtureTask([[-1.0], [0.5]], 0.2, [1, 3], path=path)
    for t in (0.0, 0.4, task.path.span[1]):
        alpha, _, sigma = task.path.coefficients(t)
        half = float(alpha + 8.0 * (alpha * 0.2 + sigma))
        x = torch.linspace(-half, half, 20001, dtype=torch.float64).unsqueeze(1)
        density = task.exact_teacher().log_density(x, t).exp()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-8)


def test_ends_of_the_path_are_regular() -> None:
    task = small()
    x = states(task, 0.5)
    prior_mean = task.mixture.weights @ task.mixture.means
    torch.testing.assert_close(task.exact_teacher()(x, 0.0).parameters, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        task.exact_teacher()(x, 1.0).parameters, prior_mean.expand(6, 3), rtol=0, atol=1e-12
    )
    far = task.exact_teacher()(1e6 * x, 0.5).parameters
    assert far.isfinite().all()


def test_each_sample_may_have_its_own_time_and_keeps_its_dtype() -> None:
    task, times = small(), torch.linspace(0.0, 1.0, 6, dtype=torch.float64)
    x = states(task, 0.5)
    together = task.exact_teacher()(x, times).parameters
    apart = torch.cat([task.exact_teacher()(x[i : i + 1], times[i]).parameters for i in range(6)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    assert task.exact_teacher()(x.float(), times).parameters.dtype == torch.float32


def test_condition_chooses_the_component_and_null_leaves_all() -> None:
    task = small(conditional=True)
    teacher, x = task.exact_teacher(), states(task, 0.6)
    null = Context(condition=torch.full((6,), task.null))
    torch.testing.assert_close(teacher(x, 0.6, null).parameters, teacher(x, 0.6).parameters, rtol=0, atol=0)
    for k in range(3):
        alone = GaussianMixtureTask([MEANS[k]], 0.3).exact_teacher()
        labels = Context(condition=torch.full((6,), k))
        torch.testing.assert_close(teacher(x, 0.6, labels).parameters, alone(x, 0.6).parameters)
        torch.testing.assert_close(teacher.log_density(x, 0.6, labels), alone.log_density(x, 0.6))
    guided = Guided(teacher, 2.0, task.null)  # type: ignore[arg-type]
    expected = 2.0 * teacher(x, 0.6, labels).parameters - teacher(x, 0.6).parameters
    torch.testing.assert_close(guided(x, 0.6, labels).parameters, expected)


# --- solvers on this teacher -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler, order", [(Euler(), 1.0), (Heun(), 2.0)])
def test_order_of_convergence(sampler: Sampler, order: float) -> None:
    """The error against a fine solution falls as steps^-order."""
    task = GaussianMixtureTask(std=0.5)  # wide modes: where trajectories fork, the constant hides the order
    teacher, like = task.exact_teacher(), task.like(128).double()
    x_1 = task.path.prior(like, g=generator(0))
    fine = Heun().sample(teacher, like, 1024, x_1=x_1).x0
    steps = [32, 64, 128]
    errors = [
        float((sampler.sample(teacher, like, n, x_1=x_1).x0 - fine).square().mean().sqrt()) for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_ode_from_a_cooler_start_ends_narrower_by_the_temperature(temperature: float) -> None:
    """Of one Gaussian N(m, s^2) the flow is affine, `x_0 = m + s x_1`: the mean stays, the spread is the start's."""
    path = paths.rectified_flow(temperature=temperature)
    task = GaussianMixtureTask([[1.0, -2.0]], 0.3, path=path)
    like = torch.empty(20_000, 2, dtype=torch.float64)
    x0 = Heun().sample(task.exact_teacher(), like, 40, g=generator(0)).x0
    assert torch.allclose(x0.mean(0), torch.tensor([1.0, -2.0], dtype=torch.float64), atol=0.01)
    assert torch.allclose(x0.std(0), torch.full((2,), 0.3 * temperature, dtype=torch.float64), atol=0.005)


def test_a_student_re_noises_at_the_temperature_of_its_path() -> None:
    """At temperature 0 nothing random is left, whatever the steps; at 1 the same steps scatter."""

    def sampled(temperature: float, seed: int) -> Tensor:
        task = GaussianMixtureTask([[1.0, -2.0]], 0.3, path=paths.rectified_flow(temperature=temperature))
        like = torch.empty(500, 2, dtype=torch.float64)
        return FewStep().sample(task.exact_teacher(), like, 4, g=generator(seed)).x0

    assert torch.equal(sampled(0.0, 1), sampled(0.0, 2)) and float(sampled(0.0, 1).std(0).max()) < 1e-12
    assert float(sampled(1.0, 1).std(0).min()) > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_full_steps_reach_the_floor_and_one_step_does_not(path: str) -> None:
    task = GaussianMixtureTask(path=path, weights=[1, 2, 3, 4, 1, 2, 3, 4])
    teacher, like = task.exact_teacher(), task.like(2000)
    full = task.sampler().sample(teacher, like, task.teacher_steps, g=generator(0))
    one = task.sampler().sample(teacher, like, 1, g=generator(0))
    scores = [task.measure(sample.x0, Context(), generator(1)) for sample in (full, one)]
    scatter = max(abs(task.floor(2000, generator(seed))["energy"]) for seed in range(5))  # about 0
    assert abs(scores[0]["energy"]) < 1.5 * scatter < 0.06
    assert scores[0]["modes_recalled"] == scores[0]["heavy_modes_recalled"] == 1.0
    assert scores[0]["stray"] < 0.01 and scores[0]["weights_tv"] < 0.06
    assert scores[1]["energy"] > 20 * scatter and scores[1]["stray"] > 0.9
    assert one.nfe == 1 and full.nfe == 2 * task.teacher_steps - 1


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_of_a_collapsed_sample() -> None:
    task = GaussianMixtureTask(weights=[30, 30, 10, 10, 10, 5, 4, 1])
    everything = torch.full((4000,), 8)
    good = task.mixture.sample(everything, generator(0))[0]
    two = task.mixture.sample(everything % 2, generator(0))[0]  # all in component 0
    two[2000:] = task.mixture.sample(torch.full((2000,), 1), generator(1))[0]
    real, collapsed = (task.measure(x, Context(), generator(2)) for x in (good, two))
    assert real["modes_recalled"] == 1.0 and real["stray"] < 0.004 and real["weights_tv"] < 0.02
    assert collapsed["modes_recalled"] == 2 / 8
    assert collapsed["heavy_modes_recalled"] == 2 / 6, "weights of 4 % and 1 % are light"
    assert collapsed["weights_tv"] == pytest.approx(0.4, abs=0.01)
    assert (
        collapsed["energy"] > 10 * abs(real["energy"])
        and collapsed["sliced_wasserstein"] > 5 * real["sliced_wasserstein"]
    )


def test_samples_near_no_mode_recall_none() -> None:
    task = GaussianMixtureTask()
    x0 = (
        3.0 * task.mixture.sample(torch.full((1000,), 8), generator(0))[0]
    )  # as many in each direction, too far out
    scores = task.measure(x0, Context(), generator(1))
    assert scores["modes_recalled"] == scores["heavy_modes_recalled"] == 0.0
    assert scores["stray"] == 1.0 and scores["weights_tv"] < 0.05


def test_weights_tv_is_unbiased_where_modes_overlap() -> None:
    """Shares by the nearest mean would be off by a tenth here."""
    task = GaussianMixtureTask([[0.0], [0.5]], 0.5, [0.8, 0.2])
    x0 = task.mixture.sample(torch.full((50_000,), 2), generator(0))[0]
    nearest = float((x0[:, 0] < 0.25).double().mean())
    assert abs(nearest - 0.8) > 0.1
    assert task.measure(x0[:5000], Context(), generator(1))["weights_tv"] < 0.02


def test_label_accuracy_sees_the_wrong_class() -> None:
    task = small(conditional=True)
    batch = task.batch(1000, generator(0), "held_out")
    assert batch.x0 is not None and isinstance(batch.context.condition, Tensor)
    right = task.measure(batch.x0, batch.context, generator(1))
    wrong = task.measure(batch.x0, Context(condition=(batch.context.condition + 1) % 3), generator(1))
    assert right["label_accuracy"] > 0.99 and wrong["label_accuracy"] < 0.2
    assert abs(right["energy"]) < 0.3 * wrong["energy"], "the reference has the same labels"


def test_components_that_share_a_label_are_the_law_under_it() -> None:
    """A label leaves its components open, with their weights; teacher, samples, `control` and accuracy agree on it."""
    own, weights = [0, 1, 0], [3, 2, 1]
    task = GaussianMixtureTask(MEANS, 0.3, weights, conditional=True, labels=own)
    assert task.classes == task.null == 2
    some = GaussianMixtureTask([MEANS[0], MEANS[2]], 0.3, [3, 1]).exact_teacher()
    x, labels = states(task, 0.6), Context(condition=torch.zeros(6, dtype=torch.long))
    teacher = task.exact_teacher()
    torch.testing.assert_close(teacher(x, 0.6, labels).parameters, some(x, 0.6).parameters)
    torch.testing.assert_close(teacher.log_density(x, 0.6, labels), some.log_density(x, 0.6))
    null, all_ = (
        Context(condition=torch.full((6,), 2)),
        GaussianMixtureTask(MEANS, 0.3, weights).exact_teacher(),
    )
    torch.testing.assert_close(teacher(x, 0.6, null).parameters, all_(x, 0.6).parameters)
    batch = task.batch(4000, generator(0), "held_out")
    assert batch.x0 is not None and isinstance(batch.context.condition, Tensor)
    near = torch.cdist(batch.x0.double(), task.mixture.means).argmin(1)
    told = torch.tensor(own)[near]
    assert float((told == batch.context.condition).double().mean()) > 0.98
    assert float((near[batch.context.condition == 0] == 2).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((task.control(batch.x0, generator(1)) == batch.context.condition).double().mean()) > 0.98
    right = task.measure(batch.x0, batch.context, generator(2))
    wrong = task.measure(batch.x0, Context(condition=1 - batch.context.condition), generator(2))
    assert right["label_accuracy"] > 0.99 and wrong["label_accuracy"] < 0.2
    assert abs(right["energy"]) < 0.3 * wrong["energy"]


def test_a_teacher_of_another_set_knows_its_own_mixture_and_nothing_of_the_data() -> None:
    """Beliefs and samples of the teacher are the source's, batches and what is measured the data's."""
    there = {"means": [[0.0, 2.0, 0.0], [0.5, -2.0, 1.0]], "weights": [3, 1], "std": 0.2}
    task, plain = small(source=there), small()
    own = GaussianMixtureTask(there["means"], 0.2, [3, 1])  # type: ignore[arg-type]
    x = states(own, 0.6)
    torch.testing.assert_close(
        task.exact_teacher()(x, 0.6).parameters, own.exact_teacher()(x, 0.6).parameters
    )
    assert torch.equal(task.batch(5, generator(0)).x0, plain.batch(5, generator(0)).x0)  # type: ignore[arg-type]
    x0 = own.batch(500, generator(1)).x0
    assert x0 is not None
    assert task.measure(x0, Context(), generator(2)) == plain.measure(x0, Context(), generator(2))
    # What is left out is the data's, the weights of new means are equal.
    parts = small(source={"std": 0.5}).source, small(source={"means": there["means"]}).source
    assert torch.equal(parts[0].means, plain.mixture.means) and parts[0].std == 0.5
    assert torch.equal(parts[0].weights, plain.mixture.weights)
    assert parts[1].weights.tolist() == [0.5, 0.5] and parts[1].std == 0.3
    # Labels are those of the components.
    named = small(conditional=True, source={"means": [[k + 3.0, 0.0, 0.0] for k in range(3)], "std": 0.1})
    told = named.exact_teacher()(x, 0.6, Context(condition=torch.ones(6, dtype=torch.long))).parameters
    alone = GaussianMixtureTask([[4.0, 0.0, 0.0]], 0.1).exact_teacher()
    torch.testing.assert_close(told, alone(x, 0.6).parameters)


def test_samples_with_nan_stop_the_run() -> None:
    with pytest.raises(RunError, match="1 of 5 samples"):
        small().measure(torch.tensor([[torch.nan, 0, 0]] + [[0, 0, 0]] * 4), Context(), generator(0))


def test_samples_have_the_mixtures_moments() -> None:
    task, n = small(), 100_000
    x0 = task.batch(n, generator(0)).x0
    assert x0 is not None and x0.dtype == torch.float32
    weights, means = task.mixture.weights, task.mixture.means
    mean = weights @ means
    covariance = means.T @ torch.diag(weights) @ means - mean.outer(mean) + 0.09 * torch.eye(3)
    torch.testing.assert_close(x0.double().mean(0), mean, rtol=0, atol=0.015)
    torch.testing.assert_close(x0.double().T.cov(), covariance, rtol=0, atol=0.015)
    assert math.sqrt(float(x0.double().square().mean())) == pytest.approx(task.mixture.scale(), rel=0.01)


# --- the network -----------------------------------------------------------------------------------------------------


def student(task: GaussianMixtureTask, seed: int = 0) -> NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NetworkDenoiser(task.network(), task.path, **task.reading())


def test_untrained_student_scores_badly_and_a_trained_one_does_not() -> None:
    """The network can hold the map from noise to twelve modes in one step: regression on the teacher's pairs."""
    task = GaussianMixtureTask(
        (torch.randn(12, 2, generator=generator(3)) * 1.5).tolist(), 0.15, network={"width": 128, "depth": 3}
    )
    teacher, x_1 = task.exact_teacher(), task.path.prior(task.like(8192), g=generator(0))
    x_0 = task.sampler().sample(teacher, x_1, 32, x_1=x_1).x0
    learner = student(task)
    test_1 = task.path.prior(task.like(2000), g=generator(1))

    def score() -> dict[str, float]:
        return task.measure(FewStep().sample(learner, test_1, 1, x_1=test_1).x0, Context(), generator(2))

    before = score()
    optimiser, updates = torch.optim.AdamW(learner.parameters(), lr=3e-3), 500
    for i in range(updates):
        rows = torch.randint(len(x_1), (512,), generator=generator(4, i))
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - i / updates)
        loss = (learner(x_1[rows], torch.tensor(1.0)).parameters - x_0[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = score()
    teacher_energy = task.measure(
        task.sampler().sample(teacher, test_1, 32, x_1=test_1).x0, Context(), generator(2)
    )["energy"]
    assert before["energy"] > 0.6 and abs(teacher_energy) < 0.04 and before["modes_recalled"] < 0.2
    assert abs(after["energy"]) < 0.06 and after["modes_recalled"] == 1.0 and after["stray"] < 0.15


@pytest.mark.parametrize("path", PATHS)
def test_students_can_be_asked_wherever_the_sampler_goes(path: str) -> None:
    task = small(path=path, network={"width": 16, "depth": 1})
    learner = student(task)
    torch.nn.init.normal_(learner.network.last.weight, generator=generator(0))  # type: ignore[union-attr, arg-type]
    sample = FewStep().sample(learner, task.like(8), 4, g=generator(0)).x0
    assert sample.isfinite().all() and sample.std() > 0.01


def test_unit_input_has_unit_second_moment() -> None:
    task = small()
    seen: list[Tensor] = []
    learner = student(task)
    learner.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for t in (0.01, 0.5, 1.0):
        learner(states(task, t, 20_000).float(), t)
    assert [float(x.square().mean()) for x in seen] == pytest.approx([1.0] * 3, rel=0.03)


def test_second_embeddings_are_silent_until_trained() -> None:
    def build(**options: bool) -> MLP:
        torch.manual_seed(0)
        return MLP(3, 32, 2, num_classes=4, **options)

    with torch.random.fork_rng():
        plain, both = build(), build(target_time=True, guidance=True)
    for network in (plain, both):
        torch.nn.init.normal_(network.last.weight, generator=generator(0))
    x, t, labels = (
        torch.randn(5, 3, generator=generator(1)),
        torch.rand(5, generator=generator(2)),
        torch.arange(5),
    )
    expected = plain(x, t, labels)
    torch.testing.assert_close(both(x, t, labels, target_time=t, guidance=3 * t), expected, rtol=0, atol=0)
    torch.testing.assert_close(plain(x, t), plain(x, t, torch.full((5,), 4)), rtol=0, atol=0)
    assert (expected - plain(x, t)).abs().max() > 1e-3, "the label must matter"
    torch.nn.init.normal_(both.target_time.linear.weight, generator=generator(3))  # type: ignore[union-attr]
    assert (both(x, t, labels, target_time=t) - expected).abs().max() > 1e-3, "so must a trained second time"


def test_the_fastest_wave_bounds_how_fast_a_network_is_told_that_time_goes() -> None:
    """d/dt of an embedding of waves up to w radians is at most w times the sum of its weights: with a tenth of the
    waves' range a derivative along the trajectory has a tenth of what no value has taught."""
    with torch.random.fork_rng():
        fast, slow = (small(network=more).network(target_time=True) for more in ({}, {"ratio": 10}))
    t = torch.linspace(0.0, 1.0, 200)
    for network, fastest in ((fast, 50.0), (slow, 5.0)):
        for embedding in (network.time, network.target_time):
            torch.nn.init.ones_(embedding.linear.weight)
            rates = embedding.waves.rates
            assert rates.min() == 0.5 and float(rates.max()) == pytest.approx(fastest)
            _, speed = torch.func.jvp(embedding, (t,), (torch.ones_like(t),))
            assert 0.2 * fastest < speed.abs().max() <= (2**0.5 * rates.sum()) * 1.001


def test_features_come_from_the_named_layer() -> None:
    task = small(network={"width": 24, "depth": 2})
    features = student(task).features(states(task, 0.5).float(), 0.5)
    assert features.shape == (6, 24) and features.std() > 0.01


@pytest.mark.parametrize("keywords", [{"target_time": torch.zeros(2)}, {"anchor": torch.zeros(2, 3)}])
def test_network_refuses_what_it_was_not_built_for(keywords: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="built with"):
        MLP(3, 8, 1)(torch.zeros(2, 3), torch.zeros(2), **keywords)
    with pytest.raises(UserError, match="built with"):
        MLP(3, 8, 1)(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, dtype=torch.long))


# --- input and output ------------------------------------------------------------------------------------------------


def test_parameters_as_a_command_line_gives_them() -> None:
    given = OmegaConf.create({"means": [[0, 1], [2, 3]], "weights": [1, 3], "network": {"width": 8}})
    task = GaussianMixtureTask(given.means, 0.1, given.weights, network=given.network)
    assert task.mixture.means.tolist() == [[0, 1], [2, 3]]
    assert task.mixture.weights.tolist() == [0.25, 0.75]
    assert task.network().first.out_features == 8  # type: ignore[union-attr]
    from_tensor = GaussianMixtureTask(torch.tensor([[0, 1], [2, 3]]), 0.1, torch.tensor([0.5, 1.5]))
    assert torch.equal(from_tensor.mixture.weights, task.mixture.weights)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"means": [[0, 1], [2]]}, "1 and 2 numbers"),
        ({"means": []}, "empty"),
        ({"means": [[], []]}, "empty"),
        ({"means": [1, 2]}, r"means\[0\]"),
        ({"means": "circle"}, "list of points"),
        ({"means": [[0, "x"]]}, r"means\[0\]\[1\]"),
        ({"means": [[0, float("nan")]]}, "finite"),
        ({"means": [[0, None]]}, "must be a number"),
        ({"std": 0}, "above 0"),
        ({"std": -1.0}, "above 0"),
        ({"std": float("nan")}, "finite"),
        ({"weights": [1, 2]}, "each of the 8 means, got 2"),
        ({"means": [[0], [1]], "weights": [1, 0]}, r"weights\[1\] must be above 0"),
        ({"means": [[0], [1]], "weights": [2, -1]}, r"weights\[1\] must be above 0"),
        ({"means": [[0], [1]], "weights": [float("nan"), 1]}, "finite"),
        ({"weights": 1}, "list of numbers"),
        ({"path": "ouve"}, "no anchor to give.*rectified_flow"),
        ({"path": "rectifed_flow"}, "did you mean rectified_flow"),
        ({"path": paths.MaskedPath(4)}, "needs a Gaussian path"),
        ({"teacher_steps": 0}, "teacher_steps"),
        ({"network": {"widht": 3}}, "width"),
        ({"labels": [0] * 8}, "set conditional=true"),
        ({"labels": 3, "conditional": True}, "list of whole numbers"),
        ({"labels": "01", "conditional": True}, "list of whole numbers"),
        ({"labels": [0, 1], "conditional": True}, "each of the 8 means, got 2"),
        ({"labels": [0, 2, 0, 2, 0, 2, 0, 2], "conditional": True}, "no mean has 1"),
        ({"labels": [0, -1, 0, 0, 0, 0, 0, 0], "conditional": True}, r"labels\[1\]"),
        ({"labels": [0, 0.5, 0, 0, 0, 0, 0, 0], "conditional": True}, r"labels\[1\]"),
        ({"source": [[0, 1]]}, "source must be a mapping"),
        ({"source": {"mean": [[0, 1]]}}, "did you mean means"),
        ({"source": {"means": [[0, 1, 2]]}}, r"source.means must be points of 2 numbers"),
        ({"source": {"weights": [1, 1]}}, "source.weights must be one for each of the 8 means"),
        ({"source": {"std": 0}}, "source.std must be above 0"),
        ({"source": {"means": [[0, 1]]}, "conditional": True}, "source.means must be 8"),
        ({"network": {"depth": 0}}, "depth"),
        ({"network": {"ratio": 0}}, "ratio must be above 0"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GaussianMixtureTask(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_render_writes_a_picture_and_the_numbers(tmp_path: Path, dim: int) -> None:
    task = GaussianMixtureTask([[0.0] * dim, [1.0] * dim], 0.1)
    x0 = task.batch(40, generator(0)).x0
    assert x0 is not None
    picture, numbers = task.render(x0, Context(), tmp_path / "new" / "samples.v1")
    assert picture.name == "samples.v1.png" and picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    written = np.loadtxt(numbers, delimiter=",", skiprows=1, ndmin=2)
    np.testing.assert_allclose(written, x0.numpy(), rtol=1e-6, atol=1e-7)
    assert sorted(file.name for file in picture.parent.iterdir()) == ["samples.v1.csv", "samples.v1.png"]


def test_render_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    x0 = small().batch(4, generator(0)).x0
    with pytest.raises(UserError, match="cannot write"):
        small().render(x0, Context(), tmp_path / "file" / "samples")  # type: ignore[arg-type]


def test_metrics_are_plain_numbers() -> None:
    scores = small().floor(50, generator(0))
    assert json.loads(json.dumps(scores)) == scores
