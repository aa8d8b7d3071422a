"""The Markov chain's posterior against enumeration, its metrics, and its task."""

import itertools
import json
import math
import subprocess
import sys

import pytest
import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.chain import MarkovChain, stationary
from omnidistill.exact.markov_text import ChainDenoiser, MarkovTextTask
from omnidistill.networks.transformer import Transformer
from omnidistill.paths import MaskedPath, UniformPath, rectified_flow
from omnidistill.random import generator
from omnidistill.samplers import Ancestral, Euler

VOCAB, LENGTH = 3, 4


def enumerated(chain: MarkovChain, likelihood, length: int) -> torch.Tensor:
    """p(x0_i = a | x_t) over all k^n sequences; likelihood(i, a) = q(x_t,i | x0_i = a)."""
    totals = torch.zeros(length, chain.vocab, dtype=torch.float64)
    for sequence in itertools.product(range(chain.vocab), repeat=length):
        p = float(chain.initial[sequence[0]])
        for a, b in itertools.pairwise(sequence):
            p *= float(chain.transition[a, b])
        for i, a in enumerate(sequence):
            p *= likelihood(i, a)
        for i, a in enumerate(sequence):
            totals[i, a] += p
    return totals / totals.sum(1, keepdim=True)


@pytest.fixture
def chain() -> MarkovChain:
    return MarkovChain.random(VOCAB, seed=1)


def test_stationary_distribution_is_a_fixed_point(chain):
    assert torch.allclose(chain.initial @ chain.transition, chain.initial, atol=1e-14)
    assert float(chain.initial.sum()) == pytest.approx(1.0, abs=1e-14)
    two = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    assert torch.allclose(
        stationary(two), torch.tensor([0.75, 0.25], dtype=torch.float64)
    )  # by hand: b/(a+b)


def test_masked_posterior_is_that_of_enumeration(chain):
    denoiser = ChainDenoiser(chain, MaskedPath(VOCAB), torch.float64)
    for x_t in itertools.product(range(VOCAB + 1), repeat=LENGTH):

        def likelihood(i, a, x_t=x_t):
            return 1.0 if x_t[i] in (a, VOCAB) else 0.0

        exact = enumerated(chain, likelihood, LENGTH)
        assert torch.allclose(denoiser(torch.tensor([x_t]), 0.4).probs[0], exact, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.999])
def test_uniform_posterior_is_that_of_enumeration(chain, t):
    denoiser = ChainDenoiser(chain, UniformPath(VOCAB), torch.float64)
    for x_t in itertools.product(range(VOCAB), repeat=LENGTH):

        def likelihood(i, a, x_t=x_t):
            return (1.0 - t) * (x_t[i] == a) + t / VOCAB

        exact = enumerated(chain, likelihood, LENGTH)
        assert torch.allclose(denoiser(torch.tensor([x_t]), t).probs[0], exact, atol=1e-12)


@pytest.mark.parametrize(
    "path", [MaskedPath(VOCAB, random_tokens=0.5), UniformPath(VOCAB)], ids=["masked", "uniform"]
)
def test_at_the_prior_nothing_is_known(chain, path):
    x_1 = path.prior(torch.empty(64, LENGTH, dtype=torch.long), g=generator(0))
    probs = ChainDenoiser(chain, path, torch.float64)(x_1, 1.0).probs
    assert torch.allclose(probs, chain.initial.expand_as(probs), atol=1e-12)


def test_seen_tokens_are_certain_and_batches_may_mix_times(chain):
    denoiser = ChainDenoiser(chain, MaskedPath(VOCAB))
    x_t = torch.tensor([[0, VOCAB, 2, VOCAB], [0, VOCAB, 2, VOCAB]])
    probs = denoiser(x_t, torch.tensor([0.5, 1.0], dtype=torch.float64)).probs.double()
    assert probs[0, 0, 0] == 1.0 and probs[0, 2, 2] == 1.0
    assert torch.allclose(
        probs[1], chain.initial.expand(4, -1), atol=1e-6
    )  # at t = 1 even what is seen is not


@pytest.mark.parametrize("kind", ["masked", "uniform"])
@pytest.mark.parametrize("left", [0, 3])
def test_padding_never_changes_real_positions(chain, kind, left):
    path = MaskedPath(VOCAB) if kind == "masked" else UniformPath(VOCAB)
    denoiser = ChainDenoiser(chain, path, torch.float64)
    x_t = path.corrupt(chain.sample(16, 6, generator(0)), 0.5, g=generator(1))
    padded = torch.full((16, 6 + left + 4), 1)
    padded[:, left : left + 6] = x_t
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[:, left : left + 6] = True
    alone = denoiser(x_t, 0.5).probs
    assert torch.allclose(
        denoiser(padded, 0.5, Context(mask=mask)).probs[:, left : left + 6], alone, atol=1e-13
    )
    assert not torch.allclose(denoiser(padded, 0.5).probs[:, left : left + 6], alone, atol=1e-3)


def test_padding_never_changes_a_metric():
    task = MarkovTextTask()
    x0 = task.batch(64, generator(0)).x0
    padded = torch.cat((x0, torch.full((64, 5), task.vocab)), 1)
    mask = torch.arange(29).expand(64, -1) < 24
    with_padding = task.measure(padded, Context(mask=mask), generator(0))
    assert with_padding == pytest.approx(task.measure(x0, Context(), generator(0)), rel=1e-12)


@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_posterior_is_a_martingale_over_the_bridge(chain, kind):
    # E[f(x_s) | x_t] = f(x_t): what makes consistency by cross-entropy stay at an exact teacher.
    path = MaskedPath(VOCAB) if kind == "masked" else UniformPath(VOCAB)
    denoiser = ChainDenoiser(chain, path, torch.float64)
    t, s, count = 0.8, 0.45, 200_000
    here = torch.tensor([VOCAB, 2, VOCAB, VOCAB] if kind == "masked" else [0, 2, 2, 1])
    # x0 must come from the joint posterior, not from the product of marginals: draw it by rejection from the chain.
    x0 = chain.sample(count, LENGTH, generator(0))
    x0 = x0[(path.corrupt(x0, t, g=generator(1)) == here).all(1)]
    x_t = here.expand(len(x0), -1)
    later = denoiser(path.bridge(x_t, x0, t, s, g=generator(2)), s).probs
    error = (later.mean(0) - denoiser(x_t[:1], t).probs[0]).abs()
    assert len(x0) > 500
    assert bool((error < 5.0 * later.std(0) / math.sqrt(len(x0)) + 1e-9).all())


def test_likelihood_is_that_of_the_definition_and_sums_to_one(chain):
    everything = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    log_p = chain.log_likelihood(everything)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    by_hand = chain.initial[2] * chain.transition[2, 0] * chain.transition[0, 1]
    assert float(chain.log_likelihood(torch.tensor([[2, 0, 1]]))) == pytest.approx(
        math.log(by_hand), abs=1e-12
    )


def test_metrics_of_real_samples_are_the_chain_s():
    task = MarkovTextTask()
    floor = task.floor(4096, generator(0))
    rate = task.chain.entropy_rate
    start = -float((task.chain.initial * task.chain.initial.log()).sum())
    assert floor["nll"] == pytest.approx((start + 23 * rate) / 24, abs=0.02)
    assert floor["entropy_rate"] == pytest.approx(rate, abs=0.02)
    assert floor["bigram_tv"] < 0.03
    same = torch.zeros(8, 24, dtype=torch.long)
    assert task.measure(same, Context(), generator(0))["entropy"] == pytest.approx(0.0, abs=1e-12)
    # Two tokens in turn: within each sample log 2, pooled bigrams deterministic.
    turns = (torch.arange(24) % 2).expand(8, -1)
    measured = task.measure(turns, Context(), generator(0))
    assert measured["entropy"] == pytest.approx(math.log(2), abs=1e-12)
    assert measured["entropy_rate"] == pytest.approx(0.0, abs=1e-2)
    assert measured["bigram_tv"] > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("path", ["masked", "uniform"])
def test_many_steps_follow_the_chain_and_one_step_cannot(seed, path):
    task = MarkovTextTask(seed=seed, path=path)
    teacher = task.exact_teacher()
    figures = {}
    for steps in (1, 4, 64):
        sample = Ancestral().sample(teacher, task.like(512), steps, g=generator(seed, steps))
        assert sample.nfe == steps
        figures[steps] = task.measure(sample.x0, Context(), generator(0))
    print(path, seed, figures)
    p = task.chain.initial
    independent = 0.5 * float((task.chain.bigrams - p[:, None] * p).abs().sum())
    assert figures[1]["bigram_tv"] == pytest.approx(
        independent, abs=0.04
    )  # one step: independent tokens, by theory
    assert figures[64]["bigram_tv"] < 0.15 * figures[1]["bigram_tv"]
    assert figures[64]["bigram_tv"] < 0.5 * figures[4]["bigram_tv"] < 0.4 * figures[1]["bigram_tv"]
    assert figures[64]["nll"] < figures[4]["nll"] - 0.2 < figures[1]["nll"] - 0.5


def test_untrained_student_is_no_better_than_independent_tokens():
    task = MarkovTextTask()
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    for steps in (1, 8):
        x0 = Euler().sample(student, task.like(256), steps, g=generator(0)).x0
        assert task.measure(x0, Context(), generator(0))["bigram_tv"] > 0.5


def test_same_seed_same_chain_in_another_process():
    code = (
        "from omnidistill.exact.chain import MarkovChain;"
        "print(MarkovChain.random(5, 9).transition.flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == MarkovChain.random(5, 9).transition.flatten().tolist()
    assert not torch.allclose(MarkovChain.random(5, 9).transition, MarkovChain.random(5, 8).transition)


def test_rendered_files_hold_the_samples(tmp_path):
    task = MarkovTextTask()
    x0 = task.batch(5, generator(0)).x0
    mask = torch.ones_like(x0, dtype=torch.bool)
    mask[0, 20:] = False
    picture, text = task.render(x0, Context(mask=mask), tmp_path / "a.b" / "step.1")
    assert picture.name == "step.1.png" and text.name == "step.1" + task.file_suffix()
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line)["tokens"] for line in text.read_text().splitlines()]
    assert rows[0] == x0[0, :20].tolist() and rows[1:] == x0[1:].tolist()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"vocab": 1}, "vocab"),
        ({"length": 1}, "length"),
        ({"length": "many"}, "length"),
        ({"teacher_steps": 0}, "teacher_steps"),
        ({"seed": -1}, "seed"),
        ({"path": MaskedPath(5)}, "12"),
        ({"path": rectified_flow()}, "masked"),
        ({"path": "uniforn"}, "uniform"),
        ({"network": {"widht": 64}}, "width"),
        ({"network": {"width": 0}}, "network.width"),
        ({"network": {"width": 30, "heads": 4}}, "heads"),
    ],
)
def test_bad_options_are_one_line_that_names_them(options, word):
    with pytest.raises(UserError) as error:
        MarkovTextTask(**options).network()
    assert word in str(error.value) and "\n" not in str(error.value)


def test_samples_that_are_no_tokens_are_refused():
    task = MarkovTextTask()
    for bad in (
        torch.full((2, 24), 12),
        torch.full((2, 24), -1),
        torch.zeros(2, 24),
        torch.zeros(0, 24).long(),
    ):
        with pytest.raises(UserError):
            task.measure(bad, Context(), generator(0))


# --- the transformer ---------------------------------------------------------------------------------------------


def trained_once(**options) -> Transformer:
    torch.manual_seed(0)
    network = Transformer(5, 8, width=32, depth=2, heads=4, **options)
    for p in network.parameters():  # away from the zeros, so that every part has an effect
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return network


def test_transformer_ignores_padding_and_sees_both_directions():
    network, t = trained_once(), torch.tensor([0.3, 0.8])
    x = torch.randint(0, 6, (2, 5), generator=generator(0))
    padded = torch.cat((x, torch.randint(0, 6, (2, 3), generator=generator(1))), 1)
    mask = torch.arange(8).expand(2, -1) < 5
    assert torch.allclose(network(padded, t, mask=mask)[:, :5], network(x, t), atol=1e-6)
    assert not torch.allclose(network(padded, t)[:, :5], network(x, t), atol=1e-3)
    for changed, seen in ((4, 0), (0, 4)):
        other = x.clone()
        other[:, changed] = (other[:, changed] + 1) % 6
        assert not torch.allclose(network(other, t)[:, seen], network(x, t)[:, seen], atol=1e-4)


def test_transformer_s_second_embeddings_start_silent():
    torch.manual_seed(0)
    plain = Transformer(5, 8, width=32, depth=1, heads=2)
    torch.manual_seed(0)
    more = Transformer(5, 8, width=32, depth=1, heads=2, target_time=True, guidance=True)
    for network in (plain, more):
        torch.manual_seed(1)
        torch.nn.init.normal_(network.head.weight)
        torch.nn.init.normal_(network.trunk.blocks[0].film.weight)
    x, t = torch.randint(0, 6, (3, 8), generator=generator(0)), torch.rand(3, generator=generator(1))
    assert torch.equal(more(x, t, target_time=0.5 * t, guidance=t), plain(x, t))
    with pytest.raises(UserError, match="target_time=False"):
        plain(x, t, target_time=t)
    with pytest.raises(UserError, match="8 tokens"):
        plain(torch.zeros(1, 9, dtype=torch.long), t[:1])


def test_transformer_is_told_its_class():
    network = trained_once(num_classes=3)
    x, t = torch.zeros(1, 8, dtype=torch.long), torch.tensor([0.5])
    assert torch.equal(network(x, t), network(x, t, torch.tensor([3])))
    assert not torch.allclose(network(x, t, torch.tensor([0])), network(x, t, torch.tensor([1])), atol=1e-4)
    with pytest.raises(UserError, match="num_classes=None"):
        trained_once()(x, t, torch.tensor([0]))


def test_transformer_learns_the_posterior():
    task = MarkovTextTask(vocab=4, length=8, seed=0, network={"width": 32, "depth": 2, "heads": 2})
    torch.manual_seed(0)
    student, teacher = NetworkDenoiser(task.network(), task.path, **task.reading()), task.exact_teacher()
    optimiser = torch.optim.AdamW(student.parameters(), 3e-3)
    g, losses = generator(0), []
    for _ in range(250):
        t = torch.rand(64, generator=g, dtype=torch.float64)
        x_t = task.path.corrupt(task.batch(64, g).x0, t, g=g)
        loss = student(x_t, t).divergence(teacher(x_t, t), "forward").mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.1 * losses[0]  # the first one is the untrained student's


def test_features_of_the_transformer_are_its_trunk_s():
    task = MarkovTextTask()
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    x = task.batch(3, generator(0)).x0
    assert student.features(x, 0.5).shape == (3, 64)
    assert not torch.allclose(student.features(x, 0.5)[0], student.features(x, 0.5)[1], atol=1e-4)
