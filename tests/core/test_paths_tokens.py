"""Token paths against Bayes' rule by enumeration of all tokens."""

import math

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.paths import schedules
from omnidistill.posteriors import CategoricalPosterior

F64 = torch.float64
VOCAB = 3
SCHEDULES = ["linear", "cosine", "arccos", schedules.polynomial(2.0)]


def frequencies(tokens, states):
    return torch.bincount(tokens.flatten(), minlength=states).double() / tokens.numel()


def close(found, expected, count):
    """Within four standard errors of a frequency, and exactly 0 where nothing may fall."""
    assert bool((found[expected == 0] == 0).all())
    error = 4 * (expected * (1 - expected) / count).sqrt() + 1e-12
    assert bool(((found - expected).abs() <= error).all()), (found, expected)


def masked_forward(path, s, t):
    """q(x_t | x_s), Float64[x_s, x_t] over tokens and mask: rows of the tokens first, then of the mask."""
    keep = float(path.alpha(torch.tensor(t, dtype=F64)) / path.alpha(torch.tensor(s, dtype=F64)))
    matrix = torch.eye(VOCAB + 1, dtype=F64) * keep
    matrix[:, VOCAB] += 1 - keep
    return matrix


def uniform_forward(path, s, t):
    keep = float(path.alpha(torch.tensor(t, dtype=F64)) / path.alpha(torch.tensor(s, dtype=F64)))
    return torch.eye(VOCAB, dtype=F64) * keep + (1 - keep) / VOCAB


def bayes(forward, path, x_t, x0, t, s):
    """q(x_s | x_t, x0) over every x_s: q(x_t | x_s) q(x_s | x0), normalised."""
    joint = forward(path, s, t)[:, x_t] * forward(path, 0.0, s)[x0]
    return joint / joint.sum()


@pytest.mark.parametrize("schedule", [*SCHEDULES[:3], schedules.polynomial(0.5)])
def test_schedules_fall_from_one_to_zero(schedule):
    t = torch.linspace(0, 1, 101, dtype=F64)
    alpha = schedules.schedule(schedule)(t)
    assert float(alpha[0]) == pytest.approx(1.0, abs=1e-15) and float(alpha[-1]) == pytest.approx(
        0.0, abs=1e-15
    )
    assert bool((alpha >= 0).all()) and bool((alpha <= 1).all()) and bool((alpha.diff() < 0).all())


def test_schedules_are_those_of_their_papers():
    t = torch.tensor([0.25, 0.6], dtype=F64)
    torch.testing.assert_close(schedules.cosine(t), 1 - torch.cos(math.pi / 2 * (1 - t)))
    torch.testing.assert_close(schedules.arccos(t), 1 - torch.arccos(1 - t) * 2 / math.pi)
    with pytest.raises(UserError, match="did you mean cosine"):
        schedules.schedule("cosin")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_corruption_and_bridge_are_bayes(kind, schedule, g):
    """Every x_t and x0 that can occur together: frequencies of the bridge against enumeration over x_s."""
    masked = kind == "masked"
    path = (paths.MaskedPath if masked else paths.UniformPath)(VOCAB, schedule)
    forward, states = (masked_forward, VOCAB + 1) if masked else (uniform_forward, VOCAB)
    count, t, s = 60_000, 0.7, 0.3
    for x0 in range(VOCAB):
        clean = torch.full((1, count), x0)
        law_t = forward(path, 0.0, t)[x0]
        close(frequencies(path.corrupt(clean, t, g=g), states), law_t, count)
        for x_t in torch.nonzero(law_t).flatten().tolist():
            x_s = path.bridge(torch.full_like(clean, x_t), clean, t, s, g=g)
            close(frequencies(x_s, states), bayes(forward, path, x_t, x0, t, s), count)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_uniform_bridge_probabilities_equal_bayes_exactly(schedule):
    path = paths.UniformPath(VOCAB, schedule)
    for t, s in [(0.7, 0.3), (1.0, 0.4), (0.5, 0.0), (1.0, 0.0)]:
        for x0 in range(VOCAB):
            for x_t in range(VOCAB):
                if s == 0.0:
                    expected = torch.eye(VOCAB, dtype=F64)[x0]
                else:
                    expected = bayes(uniform_forward, path, x_t, x0, t, s)
                found = path.bridge_probs(torch.tensor([[x_t]]), torch.tensor([[x0]]), t, s)[0, 0]
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_marginal_consistency_of_probabilities(schedule):
    """sum over x_t of q(x_t | x0) q(x_s | x_t, x0) is q(x_s | x0), exactly."""
    path, (t, s) = paths.UniformPath(VOCAB, schedule), (0.8, 0.35)
    for x0 in range(VOCAB):
        law_t, law_s = uniform_forward(path, 0.0, t)[x0], uniform_forward(path, 0.0, s)[x0]
        every = torch.arange(VOCAB).unsqueeze(0)
        bridge = path.bridge_probs(every, torch.full_like(every, x0), t, s)[0]
        torch.testing.assert_close(law_t @ bridge, law_s, rtol=1e-12, atol=1e-15)
    # Masked: kept, or hidden and revealed again with the probability that the bridge uses.
    path = paths.MaskedPath(VOCAB, schedule)
    alpha_t, alpha_s = (float(path.alpha(torch.tensor(u, dtype=F64))) for u in (t, s))
    reveal = (alpha_s - alpha_t) / (1 - alpha_t)
    assert alpha_t + (1 - alpha_t) * reveal == pytest.approx(alpha_s, abs=1e-14)


@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_corrupt_then_bridge_has_the_law_of_corrupt(kind, g):
    masked = kind == "masked"
    path = (paths.MaskedPath if masked else paths.UniformPath)(VOCAB, "cosine")
    forward, states = (masked_forward, VOCAB + 1) if masked else (uniform_forward, VOCAB)
    clean = torch.full((100, 1000), 1)
    x_s = path.bridge(path.corrupt(clean, 0.8, g=g), clean, 0.8, 0.4, g=g)
    close(frequencies(x_s, states), forward(path, 0.0, 0.4)[1], clean.numel())
    assert torch.equal(path.bridge(x_s, clean, 0.4, 0.0, g=g), clean)


def test_the_masked_bridge_never_touches_a_resolved_token(g):
    path = paths.MaskedPath(VOCAB)
    x0 = torch.randint(VOCAB, (50, 20), generator=g)
    x_t = path.corrupt(x0, 0.6, g=g)
    x_s = path.bridge(x_t, (x0 + 1) % VOCAB, 0.6, 0.2, g=g)
    shown = x_t != path.mask_id
    assert torch.equal(x_s[shown], x_t[shown])
    revealed = ~shown & (x_s != path.mask_id)
    assert torch.equal(x_s[revealed], ((x0 + 1) % VOCAB)[revealed]) and bool(revealed.any())


def test_random_tokens_of_the_masked_prior(g):
    path = paths.MaskedPath(VOCAB).with_prior(0.4)
    like = torch.zeros(100, 600, dtype=torch.long)
    x_1 = path.prior(like, g=g)
    expected = torch.tensor([0.4 / VOCAB] * VOCAB + [0.6], dtype=F64)
    close(frequencies(x_1, VOCAB + 1), expected, like.numel())
    assert bool(path.unresolved(x_1, 1.0).all())  # they say nothing about the data
    x_s = path.bridge(x_1, like, 1.0, 0.5, g=g)
    close(frequencies(x_s, VOCAB + 1), torch.tensor([0.5, 0, 0, 0.5], dtype=F64), like.numel())
    # Per-sample times: only the samples at t = 1 are unresolved everywhere.
    some = path.unresolved(x_1[:2], torch.tensor([1.0, 0.5], dtype=F64))
    assert bool(some[0].all()) and torch.equal(some[1], x_1[1] == path.mask_id)


def test_uniform_prior_is_uniform(g):
    path = paths.UniformPath(VOCAB)
    x_1 = path.prior(torch.zeros(100, 600, dtype=torch.long), g=g)
    close(frequencies(x_1, VOCAB), torch.full((VOCAB,), 1 / VOCAB, dtype=F64), x_1.numel())


def test_two_masked_jumps_share_one_belief(g):
    """A token revealed by the first jump has the first belief, the others the second; so two jumps of which each
    samples its belief have, position by position, the law of one jump with the shared belief."""
    path, (t, r, s) = paths.MaskedPath(VOCAB), (0.9, 0.5, 0.1)
    first = CategoricalPosterior(torch.tensor([0.7, 0.2, 0.1]).log().expand(1, 100_000, 3))
    second = CategoricalPosterior(torch.tensor([0.1, 0.3, 0.6]).log().expand(1, 100_000, 3))
    x_t = torch.full((1, 100_000), path.mask_id)
    x_r = path.bridge(x_t, first.sample(g), t, r, g=g)
    weight = path.share(x_t, x_r, t, r, s)
    shown = x_r != path.mask_id
    blended = first.blend(second, weight)
    torch.testing.assert_close(blended.probs[shown], first.probs[shown])
    torch.testing.assert_close(blended.probs[~shown], second.probs[~shown])
    twice = path.bridge(x_r, second.sample(g), r, s, g=g)
    revealed_first, revealed_later = (0.9 - 0.5) / 0.9, (1 - (0.9 - 0.5) / 0.9) * (0.5 - 0.1) / 0.5
    expected = torch.zeros(4, dtype=F64)
    expected[:3] = revealed_first * first.probs[0, 0] + revealed_later * second.probs[0, 0]
    expected[3] = 1 - expected.sum()
    close(frequencies(twice, 4), expected, 100_000)
    with pytest.raises(UserError, match="cannot merge"):
        paths.UniformPath(VOCAB).share(x_t, x_r, t, r, s)


@pytest.mark.parametrize("path", [paths.MaskedPath(5, "cosine", 0.5), paths.UniformPath(5)], ids=repr)
def test_padding_moves_no_token(path):
    """A sequence and its padded copy draw the same randomness."""
    x0 = torch.tensor([[0, 3, 4, 2]])
    padded = torch.cat((x0, torch.zeros(1, 3, dtype=torch.long)), 1)
    mask = torch.tensor([[True] * 4 + [False] * 3])

    def walk(x, context):
        g = torch.Generator().manual_seed(5)
        x_1 = path.prior(x, context, g=g)
        x_t = path.corrupt(x, 0.6, context, g=g)
        return torch.cat([part[:, :4] for part in (x_1, x_t, path.bridge(x_t, x, 0.6, 0.3, context, g=g))])

    assert torch.equal(walk(x0, Context()), walk(padded, Context(mask=mask)))


def test_bad_vocabularies_are_refused():
    for make in (paths.MaskedPath, paths.UniformPath):
        with pytest.raises(UserError, match="at least 2 tokens"):
            make(1)
    with pytest.raises(UserError, match="share in"):
        paths.MaskedPath(4, random_tokens=1.5)
