"""The predictor-corrector sampler against closed forms: laws it must leave alone, and the law it must reach."""

import pytest
import torch

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.exact.bridge import BridgeTask
from omnidistill.exact.markov_text import MarkovTextTask
from omnidistill.paths import edm, rectified_flow
from omnidistill.random import generator
from omnidistill.samplers import Ancestral, Sampler
from omnidistill.samplers.predictor_corrector import PredictorCorrector


@pytest.fixture(scope="module")
def task() -> BridgeTask:
    return BridgeTask(dim=4, modes=2)


@pytest.mark.parametrize("predictor", ["diffusion", "bridge"])
def test_it_draws_from_the_law(task: BridgeTask, predictor: str) -> None:
    """Both modes in their shares, as wide as they are; one step of it does not."""
    batch, teacher = task.batch(1000, generator(0)), task.exact_teacher()
    sampler = PredictorCorrector(predictor=predictor)
    found = {}
    for steps in (1, 40):
        sample = sampler.sample(teacher, batch.x0, steps, batch.context, g=generator(1))
        assert sample.nfe == 2 * steps
        found[steps] = task.measure(sample.x0, batch.context, generator(2))
    assert found[40]["energy"] < 0.09 and abs(found[40]["spread"] - 1) < 0.03
    assert found[40]["stray"] < 0.01 and found[40]["weights_tv"] < 0.03
    assert found[1]["energy"] > 0.2


def test_the_predictor_alone_converges_to_the_reverse_process() -> None:
    """The width of one Gaussian under the Euler-Maruyama rule: its error falls with the step."""
    one = BridgeTask(dim=2, modes=1)
    batch, teacher = one.batch(8000, generator(0)), one.exact_teacher()

    def spread(sampler: Sampler, steps: int) -> float:
        x = sampler.sample(teacher, batch.x0, steps, batch.context, g=generator(1)).x0
        return one.measure(x[:1000], batch.context[:1000], generator(2))["spread"]

    exact = spread(Ancestral(), 200)
    coarse, fine = (abs(spread(PredictorCorrector(corrections=0), steps) - exact) for steps in (4, 64))
    assert fine < 0.03 < coarse


def test_the_corrector_leaves_the_law_at_its_time_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small Langevin steps at t: mean and covariance of x_t stay, though every sample has moved."""
    one = BridgeTask(dim=2, modes=1)
    context = Context(anchor=torch.tensor([[0.4, -0.2]]).expand(8000, -1))
    g = generator(0)
    t, s = (torch.tensor(time, dtype=torch.float64) for time in (0.6, 0.5))
    before = one.path.corrupt(one.law.sample(context.anchor, g).float(), t, context, g=g)
    # Without the predictor's jump the state stays at t.
    monkeypatch.setattr(PredictorCorrector, "_diffusion", lambda self, denoiser, x, *rest: x)
    after = PredictorCorrector(snr=0.1, corrections=60).step(one.exact_teacher(), before, t, s, context, g)
    torch.testing.assert_close(after.mean(0), before.mean(0), atol=0.015, rtol=0)
    torch.testing.assert_close(torch.cov(after.T), torch.cov(before.T), atol=0.006, rtol=0.06)
    assert float((after - before).square().mean().sqrt()) > 0.5 * float(before.std())


def test_impossible_settings_and_paths_are_refused() -> None:
    with pytest.raises(UserError, match="snr"):
        PredictorCorrector(snr=0.0)
    with pytest.raises(UserError, match="predictor"):
        PredictorCorrector(predictor="leap")
    text = MarkovTextTask(vocab=4, length=6, seed=0)
    with pytest.raises(UserError, match="score"):
        PredictorCorrector().sample(text.exact_teacher(), text.like(2), 2, g=generator(0))


@pytest.mark.parametrize("path", [rectified_flow(), edm(sigma_max=5.0)])
def test_paths_without_an_anchor_work_or_say_where_they_are_singular(path) -> None:  # type: ignore[no-untyped-def]
    from omnidistill.exact.gaussian_mixture import GaussianMixtureTask

    task = GaussianMixtureTask(path=path)
    like = task.like(500)
    if float(path.coefficients(1.0).alpha) == 0.0:
        with pytest.raises(UserError, match="singular"):
            PredictorCorrector(corrections=0).sample(task.exact_teacher(), like, 4, g=generator(0))
        return
    x = PredictorCorrector().sample(task.exact_teacher(), like, 60, g=generator(0)).x0
    assert task.measure(x, Context(), generator(1))["modes_recalled"] > 0.9
