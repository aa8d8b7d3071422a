"""Tokens as one-hots on a Gaussian path: the chain's exact posterior, the simplex, and a flow map over it."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.exact.chain import MarkovChain
from omnidistill.exact.markov_onehot import OneHotChainDenoiser
from omnidistill.exact.markov_text import MarkovTextTask
from omnidistill.objectives import FlowMap
from omnidistill.objectives.step import Step
from omnidistill.paths import MaskedPath, OneHotPath
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import CategoricalPosterior, SimplexPosterior
from omnidistill.random import generator
from omnidistill.samplers import Euler
from omnidistill.testing import check_denoiser, check_path
from omnidistill.testing.beliefs import check_belief
from omnidistill.times import Uniform

VOCAB, LENGTH = 3, 3


@pytest.fixture
def chain() -> MarkovChain:
    return MarkovChain.random(VOCAB, seed=1)


def onehots(chain: MarkovChain, count: int, length: int, key: str = "tokens") -> torch.Tensor:
    return F.one_hot(chain.sample(count, length, generator(key)), chain.vocab).double()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_the_posterior_is_that_of_enumeration(chain, t: float) -> None:
    """All k^n sequences with the full Gaussian density of the whole state."""
    path = OneHotPath(VOCAB)
    x_t = path.corrupt(onehots(chain, 6, LENGTH), t, g=generator("noise"))
    total = torch.zeros(6, LENGTH, VOCAB, dtype=torch.float64)
    logs, all_x0 = [], []
    for sequence in itertools.product(range(VOCAB), repeat=LENGTH):
        x0 = F.one_hot(torch.tensor(sequence), VOCAB).double()
        prior = float(chain.initial[sequence[0]].log())
        prior += sum(float(chain.transition[a, b].log()) for a, b in itertools.pairwise(sequence))
        logs.append(prior - 0.5 * ((x_t - (1.0 - t) * x0) / t).square().flatten(1).sum(1))
        all_x0.append(x0)
    shares = torch.stack(logs).softmax(0)
    for share, x0 in zip(shares, all_x0, strict=True):
        total += share[:, None, None] * x0
    found = OneHotChainDenoiser(chain, path)(x_t, t).probs
    torch.testing.assert_close(found, total, rtol=1e-9, atol=1e-12)


def test_at_the_ends_it_is_the_state_and_the_stationary_law(chain) -> None:
    path = OneHotPath(VOCAB)
    denoiser, x0 = OneHotChainDenoiser(chain, path), onehots(chain, 5, LENGTH)
    torch.testing.assert_close(denoiser(x0, 0.0).probs, x0)
    noise = path.prior(x0, g=generator("prior"))
    torch.testing.assert_close(denoiser(noise, 1.0).probs, chain.initial.expand(5, LENGTH, VOCAB))
    real = torch.tensor([True, True, False]).reshape(1, LENGTH, 1).expand(5, -1, -1)
    other = noise.clone()
    other[:, 2] = 7.0
    a, b = (denoiser(x, 0.6, Context(mask=real)).probs[:, :2] for x in (noise, other))
    torch.testing.assert_close(a, b)
    with pytest.raises(UserError, match=r"OneHotPath\(3\)"):
        OneHotChainDenoiser(chain, MaskedPath(VOCAB))


def test_path_belief_and_denoiser_conform(chain) -> None:
    task = MarkovTextTask(vocab=VOCAB, length=LENGTH, path="onehot")
    x0 = onehots(task.chain, 8, LENGTH).float()
    assert check_path(task.path, x0) and check_denoiser(task.exact_teacher(), x0)
    assert check_belief(
        task.exact_teacher()(task.path.corrupt(x0, 0.5, g=generator("x")), 0.5), x0, task.path
    )


def test_losses_sum_over_the_classes_to_those_of_a_categorical() -> None:
    g = generator("simplex")
    q, p = (torch.randn(2, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    ours, theirs = SimplexPosterior(q), SimplexPosterior(p)
    plain, target = CategoricalPosterior(q), CategoricalPosterior(p)
    for kind in ("nll", "forward", "backward", "tv"):
        whole = plain.divergence(target, kind)
        torch.testing.assert_close(ours.divergence(theirs, kind).sum(-1), whole)
    assert isinstance(ours.blend(theirs, torch.tensor(0.3)), SimplexPosterior)
    mixed = ours.blend(theirs, torch.tensor([0.3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(mixed.probs[0], 0.3 * ours.probs[0] + 0.7 * theirs.probs[0])
    torch.testing.assert_close(mixed.probs[1], ours.probs[1])


class Integrated(Denoiser):
    """The exact psi: the trajectory from t to r by Runge-Kutta steps of the exact denoiser, float64."""

    wants_target = True

    def __init__(self, denoiser: Denoiser, steps: int = 60, twist: float = 0.0) -> None:
        super().__init__(denoiser.path)
        self.denoiser, self.steps = denoiser, steps
        self.twist = torch.nn.Parameter(torch.tensor(twist, dtype=torch.float64))

    def arrival(self, x, t, r):
        h = (r - t) / self.steps
        for i in range(self.steps):
            u = t + i * h
            k1 = self._velocity(x, u)
            k2 = self._velocity(x + per_sample(0.5 * h, x) * k1, u + 0.5 * h)
            k3 = self._velocity(x + per_sample(0.5 * h, x) * k2, u + 0.5 * h)
            k4 = self._velocity(x + per_sample(h, x) * k3, u + h)
            x = x + per_sample(h / 6.0, x) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        return x

    def _velocity(self, x, t):
        return self.path.velocity(x, self.denoiser(x, t).probs, t)

    def belief(self, x_t, t, context, target_time):
        t, r = as_time(t, x_t).expand(len(x_t)), as_time(target_time, x_t).expand(len(x_t))
        here = self.denoiser(x_t, t).probs
        same = (t - r) < 1e-9
        share = torch.where(same, 0.5, r / t)
        k = per_sample(share, x_t)
        psi = (self.arrival(x_t, t, r) - k * x_t) / (1.0 - k)
        psi = torch.where(per_sample(same, x_t) > 0, here, psi)
        tilt = self.twist * torch.arange(x_t.shape[-1], dtype=torch.float64)
        return SimplexPosterior(psi.clamp_min(1e-300).log() + tilt)


def test_the_exact_map_stays_on_the_simplex_and_keeps_the_semigroup(chain) -> None:
    """On the ODE of one three-valued token, to 1e-9."""
    path = OneHotPath(VOCAB)
    exact = Integrated(OneHotChainDenoiser(chain, path), 200)
    x = path.corrupt(onehots(chain, 12, 1), 0.9, g=generator("start"))
    t, u, r = (torch.full((12,), value, dtype=torch.float64) for value in (0.9, 0.65, 0.4))
    with torch.no_grad():
        arrived = exact.arrival(x, t, r)
        k = float(r[0] / t[0])
        plain = (arrived - k * x) / (1.0 - k)  # before any softmax
        assert float(plain.min()) > 0.0
        torch.testing.assert_close(plain.sum(-1), torch.ones(12, 1, dtype=torch.float64), rtol=0, atol=1e-9)
        first = exact(x, t, target_time=u)
        x_u = path.bridge(x, first.sample(), t, u)
        second = exact(x_u, u, target_time=r)
        both = first.blend(second, path.share(x, x_u, t, u, r))
        assert float((both.probs - exact(x, t, target_time=r).probs).abs().max()) < 1e-9


def flow_map_loss(chain, student, **options) -> torch.Tensor:
    path = student.path
    teacher = OneHotChainDenoiser(chain, path)
    x0 = onehots(chain, 12, 1)
    models = {"teacher": teacher, "student": student}
    step = Step("student", Batch(x0), models, generator("step"), like=torch.empty_like(x0))
    return FlowMap(times=Uniform(0.4, 0.9), to_data=0.0, **options).losses("student", step).terms["flow_map"]


def test_the_objective_is_at_rest_at_the_exact_map(chain) -> None:
    denoiser = OneHotChainDenoiser(chain, OneHotPath(VOCAB))
    kind = {"divergence": "forward"}
    assert float(flow_map_loss(chain, Integrated(denoiser, 50), **kind).detach()) < 1e-12
    for twist in (0.2, -0.2):
        student = Integrated(denoiser, 8, twist)
        loss = flow_map_loss(chain, student, **kind)
        assert float(loss.detach()) > 1e-4
        (gradient,) = torch.autograd.grad(loss, student.twist)
        assert float(gradient) * twist > 0
    with pytest.raises(UserError, match=r"flow_map\.along to student or teacher"):
        flow_map_loss(chain, Integrated(denoiser, 2), identity="eulerian", diagonal="data")


def test_the_task_reads_the_likeliest_token(tmp_path: Path) -> None:
    task = MarkovTextTask(vocab=4, length=6, path="onehot")
    batch = task.batch(4096, generator("real"))
    assert batch.x0.shape == (4096, 6, 4) and batch.x0.dtype == torch.float32
    tokens = batch.x0.argmax(-1)
    plain = MarkovTextTask(vocab=4, length=6)
    g = generator("unused")
    assert task.measure(batch.x0, Context(), g) == plain.measure(tokens, Context(), g)
    softened = 0.9 * batch.x0 + 0.025
    assert task.measure(softened, Context(), g) == plain.measure(tokens, Context(), g)
    counts = torch.ones(1, 4096, dtype=torch.long)
    torch.testing.assert_close(
        task.bootstrap(batch.x0, Context(), g, counts), plain.bootstrap(tokens, Context(), g, counts)
    )
    files = task.render(batch.x0[:3], Context(), tmp_path / "some")
    assert [file.suffix for file in files] == [".png", ".jsonl"]
    # Many steps of the teacher follow the chain, one does not; 512 real samples score about 0.03.
    teacher, like = task.exact_teacher(), task.like(512)
    few, many = (
        task.measure(Euler().sample(teacher, like, n, g=generator("sample")).x0, Context(), g)["bigram_tv"]
        for n in (1, 16)
    )
    assert many < 0.2 < 0.4 < few
