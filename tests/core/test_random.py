"""Noise: laws, seeds, padding; never the global generator."""

import pytest
import torch
from scipy import stats

from omnidistill import random


def test_generators_depend_on_their_keys_alone():
    first = torch.rand(5, generator=random.generator(3, "student", 7))
    assert torch.equal(first, torch.rand(5, generator=random.generator(3, "student", 7)))
    for other in [(4, "student", 7), (3, "critic", 7), (3, "student", 8), (3, "student7")]:
        assert not torch.equal(first, torch.rand(5, generator=random.generator(*other)))


def test_nothing_reads_the_global_generator(g):
    before = torch.random.get_rng_state()
    like = torch.zeros(3, 4)
    random.normal(like, g)
    random.uniform(like, g, like == 0)
    random.categorical(torch.ones(3, 4, 5), g)
    assert torch.equal(before, torch.random.get_rng_state())


def test_laws(g):
    like = torch.zeros(20_000)
    assert stats.kstest(random.normal(like, g).double().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(random.uniform(like, g).numpy(), "uniform").pvalue > 1e-3
    assert random.uniform(like, g).dtype == torch.float64
    assert random.normal(like.bfloat16(), g).dtype == torch.bfloat16
    assert random.normal(like.long(), g).dtype == torch.float32


@pytest.mark.parametrize("draw", [random.normal, random.uniform])
@pytest.mark.parametrize(
    "shape, mask_shape", [((2, 3, 4), (2, 3, 1)), ((2, 3), (2, 3)), ((2, 1, 5, 3), (2, 1, 1, 3))]
)
def test_padding_does_not_move_the_stream(draw, shape, mask_shape):
    """A batch cut to its real elements and the padded batch see the same numbers; padding is zero."""
    axis = next(i for i in range(1, len(shape)) if mask_shape[i] == 3)
    mask = torch.ones(mask_shape, dtype=torch.bool)
    longer = torch.cat((mask, torch.zeros_like(mask)), axis)
    real = draw(torch.zeros(shape), torch.Generator().manual_seed(1))
    padded = draw(torch.zeros(*shape[:axis], 6, *shape[axis + 1 :]), torch.Generator().manual_seed(1), longer)
    assert torch.equal(padded.narrow(axis, 0, 3), real.to(padded.dtype))
    assert float(padded.narrow(axis, 3, 3).abs().max()) == 0.0


def test_ragged_samples_draw_one_after_another():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    padded = random.normal(torch.zeros(2, 4), torch.Generator().manual_seed(1), mask)
    assert torch.equal(padded[mask], torch.randn(5, generator=torch.Generator().manual_seed(1)))


def test_categorical_frequencies(g):
    probs = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3])
    tokens = random.categorical(probs.expand(200_000, 5), g)
    found = torch.bincount(tokens, minlength=5).double() / 200_000
    assert float(found[0]) == 0.0 and float(found[3]) == 0.0
    assert (
        stats.chisquare(
            found[[1, 2, 4]] * 200_000, probs[[1, 2, 4]].double() / probs.double().sum() * 200_000
        ).pvalue
        > 1e-3
    )


def test_categorical_resolves_what_float32_cannot(monkeypatch):
    """Tails far below 2^-24 keep their probability: the inverse distribution function is evaluated in float64."""
    probs = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    u = torch.tensor([1.0 - 5e-10, 1.0 - 2e-9], dtype=torch.float64)
    monkeypatch.setattr(random, "uniform", lambda like, g, mask=None: u)
    assert random.categorical(probs.expand(2, 2), None).tolist() == [1, 0]


def test_categorical_takes_unnormalised_weights(g):
    probs = torch.tensor([3.0, 1.0]).expand(100_000, 2)
    assert float((random.categorical(probs, g) == 0).double().mean()) == pytest.approx(0.75, abs=0.006)
