"""Grids of times: nested bit for bit, on every path, under every shift; and where a student's own times lie."""

import itertools

import pytest
import torch

from omnidistill import paths
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths import floored, grid
from omnidistill.samplers import Ancestral, Euler, FewStep, Heun
from omnidistill.samplers.predictor_corrector import PredictorCorrector

F64 = torch.float64
SHIFTS = (1.0, 3.0, 5.0, 0.4)


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_grid_lies_on_that_of_twice_as_many_steps(gaussian, shift):
    for n in (1, 2, 3, 4, 5, 8, 16, 50):
        coarse, fine = grid(gaussian, n, shift), grid(gaussian, 2 * n, shift)
        assert torch.equal(coarse, fine[::2])
        assert torch.equal(coarse, grid(gaussian, 3 * n, shift)[::3])


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("make", [paths.MaskedPath, paths.UniformPath])
def test_grids_of_tokens_too(make, shift):
    path = make(4)
    for n in (1, 2, 4, 8):
        assert torch.equal(grid(path, n, shift), grid(path, 2 * n, shift)[::2])


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_grid_falls_from_the_top_to_zero_inside_the_span(gaussian, shift):
    low, top = gaussian.span
    for n in (1, 2, 7, 64):
        for times in (grid(gaussian, n, shift), floored(gaussian, n, shift)):
            assert len(times) == n + 1 and float(times[0]) == top and float(times[-1]) == 0.0
            assert bool((times.diff() < 0).all())
            assert shift < 1 or float(times[-2]) >= min(low, gaussian.floor or low)


def test_no_step_of_a_few_is_spent_at_the_floor():
    path = paths.edm()
    assert float(path.noise_level(grid(path, 2)[1])) == pytest.approx(80.0 * (0.5 * (1 + path.floor)) ** 7)
    assert float(grid(path, 2)[1]) > 0.5 > float(floored(path, 2)[1]) == path.floor


def test_samplers_take_the_grid_by_name_and_a_shift():
    denoiser = Denoiser(paths.edm())
    for sampler in (Euler, Ancestral, Heun, PredictorCorrector):
        assert torch.equal(sampler().times(denoiser, 4), grid(denoiser.path, 4))
        assert torch.equal(sampler(grid="karras").times(denoiser, 4), floored(denoiser.path, 4))
        assert torch.equal(sampler(shift=3.0).times(denoiser, 4), grid(denoiser.path, 4, 3.0))
        with pytest.raises(UserError, match=r"unknown grid 'even'.*karras, nested"):
            sampler(grid="even")
        with pytest.raises(UserError, match="shift is a number above 0, got 0"):
            sampler(shift=0.0)


# --- a student's own times ------------------------------------------------------------------------


def test_a_student_steps_at_the_times_it_was_given():
    student = Denoiser(paths.rectified_flow())
    given = [1.0, 0.9375, 0.8333, 0.625]
    sampler = FewStep(times=given)
    assert sampler.times(student, 4).tolist() == [*given, 0.0]
    assert sampler.times(student, 2).tolist() == [1.0, 0.8333, 0.0]
    assert sampler.times(student, 1).tolist() == [1.0, 0.0]
    for n in (1, 2, 3, 4, 5, 8):
        coarse, fine = sampler.times(student, n), sampler.times(student, 2 * n)
        assert torch.equal(coarse, fine[::2]) and bool((fine.diff() < 0).all())
    assert float(FewStep(times=given).times(Denoiser(paths.vp_cosine()), 4)[0]) == 1.0 - 1e-3
    # Below the last entry on the way to the path's floor, where somebody can be asked, and not to 0.
    levels = Denoiser(paths.edm())
    low = levels.path.span[0]
    finer = FewStep(times=[1.0, 0.5]).times(levels, 8)
    assert finer[4:].tolist() == [*(0.5 + (low - 0.5) * k / 4 for k in range(4)), 0.0]
    assert torch.equal(finer[::2], FewStep(times=[1.0, 0.5]).times(levels, 4))


def test_a_shift_of_5_gives_the_times_of_its_papers():
    """Four steps at 1, 15/16, 5/6, 5/8 (Esser et al. 2024, eq. 23)."""
    times = FewStep(shift=5.0).times(Denoiser(paths.rectified_flow()), 4)
    torch.testing.assert_close(times, torch.tensor([1.0, 15 / 16, 5 / 6, 5 / 8, 0.0], dtype=F64))


@pytest.mark.parametrize("times", [[], [0.5, 0.8], [1.0, 1.0], [1.0, 0.0], [1.2, 0.5]])
def test_times_that_do_not_fall_are_one_line(times):
    with pytest.raises(UserError, match=r"student\.times falls from 1"):
        FewStep(times=times)


def test_times_and_what_contradicts_them():
    with pytest.raises(UserError, match=r"leave student\.shift=5 out"):
        FewStep(times=[1.0, 0.5], shift=5.0)
    student = Denoiser(paths.edm())
    for times in ([0.9, 0.5], [1.0, 0.01]):
        with pytest.raises(UserError, match="must start at 1 and stay above"):
            FewStep(times=times).times(student, 2)


def test_training_and_sampling_ask_at_the_same_times(g):
    """Every step that a rollout draws is one that sampling visits, for given times and shifted ones."""
    from omnidistill.posteriors import PointPosterior

    class Asked(Denoiser):
        def __init__(self):
            super().__init__(paths.rectified_flow())
            self.at = set()

        def belief(self, x_t, t, context, target_time):
            self.at.add(float(torch.as_tensor(t).flatten()[0]))
            return PointPosterior(0.5 * x_t)

    like = torch.zeros(2, 3, dtype=F64)
    for sampler in (FewStep(times=[1.0, 0.9, 0.4, 0.2]), FewStep(shift=5.0)):
        trained, sampled = Asked(), Asked()
        for _ in range(30):
            sampler.rollout(trained, like, 4, g=g)
        sampler.sample(sampled, like, 4, g=g)
        assert trained.at == sampled.at == set(sampler.times(trained, 4)[:-1].tolist())


def test_deterministic_is_what_a_sampler_says():
    truth = {
        Euler(): True, Euler(0.3): False, Ancestral(): False, Heun(): True, PredictorCorrector(): False,
        FewStep("ode"): True, FewStep("renoise"): False, FewStep("ancestral"): False,
        FewStep("gamma", gamma=0.0): True, FewStep("gamma", gamma=0.5): False,
    }  # fmt: skip
    for sampler, wanted in truth.items():
        assert sampler.deterministic is wanted, sampler


def test_a_path_says_whether_it_has_a_deterministic_bridge(gaussian):
    """Two generators, one start: the same sample, or the path must not have said so."""
    from omnidistill.context import Context
    from omnidistill.posteriors import PointPosterior
    from omnidistill.random import generator
    from omnidistill.samplers import deterministic

    class Half(Denoiser):
        def belief(self, x_t, t, context, target_time):
            return PointPosterior(0.5 * x_t)

    like = torch.randn(64, 3, dtype=F64, generator=generator("start"))
    context = Context(anchor=like) if "anchored" in gaussian.offers else Context()
    x_1 = gaussian.prior(like, context, g=generator("x1"))
    samplers = (
        Euler(),
        Euler(0.3),
        Ancestral(),
        Heun(),
        FewStep("ode"),
        FewStep("renoise"),
        FewStep("ancestral"),
    )
    for sampler in (*samplers, PredictorCorrector(predictor="bridge"), FewStep("gamma", gamma=0.3)):
        if sampler.__class__ is FewStep and sampler.gamma and "deterministic" not in gaussian.offers:
            continue
        a, b = (
            deterministic(sampler).sample(Half(gaussian), like, 4, context, g=generator(i), x_1=x_1).x0
            for i in (0, 1)
        )
        assert torch.equal(a, b) == ("deterministic" in gaussian.offers), sampler
    assert ("deterministic" in gaussian.offers) == (gaussian.name != "brownian_bridge")


def test_heun_on_the_times_of_another_sampler():
    from omnidistill.samplers import deterministic

    denoiser, other = Denoiser(paths.edm()), Ancestral(shift=2.0)
    stand_in = deterministic(other)
    assert isinstance(stand_in, Heun) and deterministic(stand_in) is stand_in
    for steps, sampler in itertools.product((1, 4), (other, Ancestral(grid="karras"))):
        assert torch.equal(deterministic(sampler).times(denoiser, steps), sampler.times(denoiser, steps))


def test_a_grid_may_be_changed_without_changing_the_next_one():
    path = paths.rectified_flow()
    first = grid(path, 4)
    first.zero_()
    assert grid(path, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with torch.inference_mode():
        grid(path, 6)
    assert not grid(path, 6).is_inference()
