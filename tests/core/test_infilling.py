"""Tokens that are given (`context.anchor`): no path touches them, and the rest follows them."""

from __future__ import annotations

import itertools

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.exact.chain import MarkovChain
from omnidistill.exact.markov_text import ChainDenoiser
from omnidistill.random import generator
from omnidistill.samplers import Ancestral, FewStep

VOCAB, LENGTH = 3, 3
GIVEN = torch.tensor([VOCAB, 1, VOCAB])  # the middle token is 1, its neighbours are to be found


@pytest.fixture(scope="module")
def chain() -> MarkovChain:
    return MarkovChain.random(VOCAB, seed=1)


@pytest.mark.parametrize("kind", [paths.MaskedPath, paths.UniformPath])
def test_no_verb_of_a_path_touches_a_given_token(kind: type, chain: MarkovChain) -> None:
    path, context = kind(VOCAB), Context(anchor=GIVEN.expand(4096, -1))
    x0 = chain.sample(4096, LENGTH, generator("data"))
    x0[:, 1] = 1
    g = generator("verbs")
    prior = path.prior(x0, context, g=g)
    x_t = path.corrupt(x0, 0.9, context, g=g)
    x_s = path.bridge(x_t, x0, 0.9, 0.5, context, g=g)
    for state in (prior, x_t, x_s):
        assert bool((state[:, 1] == 1).all())
        assert bool((state[:, 0] != x0[:, 0]).any())
    # Without the anchor the same draws do corrupt it.
    assert bool((path.corrupt(x0, 0.9, g=generator("verbs")) != 1)[:, 1].any())


@pytest.mark.parametrize("kind", [paths.MaskedPath, paths.UniformPath])
def test_samples_follow_the_conditional_law(kind: type, chain: MarkovChain) -> None:
    """`p(x_1, x_3 | x_2)` by enumeration; a Markov chain's sides are independent given the middle, so that with it
    one step is as good as many."""
    path, count = kind(VOCAB), 20000
    teacher, context = ChainDenoiser(chain, path), Context(anchor=GIVEN.expand(count, -1))
    joint = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for a, b in itertools.product(range(VOCAB), repeat=2):
        tokens = torch.tensor([[a, 1, b]])
        joint[a, b] = float(chain.log_likelihood(tokens).exp())
    joint /= joint.sum()
    like = torch.empty(count, LENGTH, dtype=torch.long)
    for sampler, steps in ((Ancestral(), 12), (FewStep("ancestral"), 1), (FewStep("ancestral"), 4)):
        x0 = sampler.sample(teacher, like, steps, context, g=generator("sampling", steps)).x0
        assert bool((x0[:, 1] == 1).all())
        found = torch.zeros(VOCAB * VOCAB, dtype=torch.float64)
        found.index_add_(
            0, x0[:, 0] * VOCAB + x0[:, 2], torch.full((count,), 1.0 / count, dtype=torch.float64)
        )
        # About twice the sampling error of 9 cells; the unconditional law is 0.1 and more away.
        assert 0.5 * float((found.reshape(VOCAB, VOCAB) - joint).abs().sum()) < 0.025
    free = Ancestral().sample(teacher, like, 12, g=generator("free")).x0
    pairs = torch.bincount(free[:, 0] * VOCAB + free[:, 2], minlength=9).double().reshape(3, 3) / count
    assert 0.5 * float((pairs - joint).abs().sum()) > 0.05


def test_random_tokens_of_a_prior_spare_what_is_given() -> None:
    path = paths.MaskedPath(VOCAB, random_tokens=1.0)
    prior = path.prior(
        torch.empty(500, LENGTH, dtype=torch.long), Context(anchor=GIVEN.expand(500, -1)), g=generator("p")
    )
    assert bool((prior[:, 1] == 1).all()) and bool((prior < VOCAB).all())
