"""Beliefs: divergences against torch.distributions, gradients against autograd, no NaN where a token is impossible."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from omnidistill.errors import UserError
from omnidistill.posteriors import IMPOSSIBLE, CategoricalPosterior, PointPosterior, certain, detach, split

F64 = torch.float64
TOKEN_KINDS = ["nll", "forward", "backward", "jsd", "tv", "l2"]


def logits(g, *shape):
    return 2 * torch.randn(*shape, dtype=F64, generator=g)


def test_token_divergences(g):
    a, b = logits(g, 4, 6, 5), logits(g, 4, 6, 5)
    mine, target = CategoricalPosterior(a), CategoricalPosterior(b)
    q, p = Categorical(logits=a), Categorical(logits=b)
    mixture = Categorical(probs=0.5 * (p.probs + q.probs))
    expected = {
        "nll": kl_divergence(p, q) + p.entropy(),
        "forward": kl_divergence(p, q),
        "backward": kl_divergence(q, p),
        "jsd": 0.5 * (kl_divergence(p, mixture) + kl_divergence(q, mixture)),
        "tv": 0.5 * (p.probs - q.probs).abs().sum(-1),
        "l2": 0.5 * (a.log_softmax(-1) - b.log_softmax(-1)).square().sum(-1),
    }
    for kind in TOKEN_KINDS:
        found = mine.divergence(target, kind)
        assert found.shape == (4, 6)
        torch.testing.assert_close(found, expected[kind], rtol=1e-9, atol=1e-12)
        if kind != "nll":
            same = mine.divergence(CategoricalPosterior(a + 3.0), kind)  # not normalised, the same belief
            torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-12)


def test_cross_entropy_with_certainty_is_the_likelihood(g):
    belief, x0 = CategoricalPosterior(logits(g, 2, 3, 5)), torch.randint(5, (2, 3), generator=g)
    expected = -Categorical(logits=belief.logits).log_prob(x0)
    torch.testing.assert_close(belief.divergence(certain(x0, 5)), expected, rtol=1e-12, atol=0)


def test_point_divergences(g):
    a, b = torch.randn(2, 3, 4, 5, dtype=F64, generator=g)
    mine, target = PointPosterior(a), PointPosterior(b)
    error = (a - b).abs()
    torch.testing.assert_close(mine.divergence(target, "nll"), 0.5 * error**2)
    torch.testing.assert_close(mine.divergence(target, "l2"), 0.5 * error**2)
    torch.testing.assert_close(mine.divergence(target, "l1"), error)
    c = 0.00054 * 20**0.5
    norm = (error.flatten(1).norm(dim=1) ** 2 + c**2).sqrt() - c
    torch.testing.assert_close(mine.divergence(target, "huber").flatten(1).sum(1), norm)
    with pytest.raises(UserError, match="divergence between points"):
        mine.divergence(target, "kl")


def test_huber_is_smooth_at_equality(g):
    a = torch.randn(3, 4, dtype=F64, generator=g, requires_grad=True)
    loss = PointPosterior(a).divergence(PointPosterior(a.detach().clone()), "huber")
    assert float(loss.detach().abs().max()) == 0.0
    assert float(torch.autograd.grad(loss.sum(), a)[0].abs().max()) == 0.0


def test_huber_does_not_count_padding(g):
    a, b = torch.randn(2, 1, 4, dtype=F64, generator=g)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    pad = torch.full((1, 3), 9.0, dtype=F64)
    short = PointPosterior(a).divergence(PointPosterior(b), "huber")
    long = PointPosterior(torch.cat((a, pad), 1)).divergence(
        PointPosterior(torch.cat((b, -pad), 1)), "huber", mask
    )
    torch.testing.assert_close(long[:, :4], short, rtol=1e-14, atol=0)
    assert float(long[:, 4:].abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_impossible_tokens_never_make_nan(dtype, g):
    """Opposite certainties, equal certainties and open beliefs, forward and backward."""
    sure = (1.0 - torch.eye(4)) * IMPOSSIBLE
    a = torch.cat((sure, sure, torch.randn(4, 4, generator=g))).to(dtype)[None].requires_grad_()
    b = torch.cat((sure, sure.flip(0), sure)).to(dtype)[None]
    mine, target = CategoricalPosterior(a), CategoricalPosterior(b)
    values = [mine.divergence(target, kind) for kind in TOKEN_KINDS]
    values += [mine.pull(mine.gap(target, kind).detach()) for kind in ("forward", "reverse")]
    for weight in (torch.tensor(0.5), torch.zeros(1), torch.ones(1), torch.rand(1, 12, generator=g)):
        values += [mine.blend(target, weight).log_probs, target.blend(mine, weight).log_probs]
    values += [mine.guide(target, torch.tensor(2.0)).log_probs]
    for value in values:
        gradient = torch.autograd.grad(value.sum(), a, retain_graph=True)[0]
        assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(gradient).all())
    equal = CategoricalPosterior(a[:, :4]).divergence(CategoricalPosterior(b[:, :4]), "jsd")
    assert float(equal.detach().abs().max()) == 0.0


@pytest.mark.parametrize("belief", [PointPosterior, CategoricalPosterior])
def test_the_gradient_of_pull_is_the_direction_exactly(belief, g):
    parameters = (1e3 * torch.randn(3, 4, 5, generator=g)).requires_grad_()
    direction = 1e-6 * torch.randn(3, 4, 5, generator=g)
    loss = belief(parameters).pull(direction)
    assert loss.shape == ((3, 4, 5) if belief is PointPosterior else (3, 4))
    assert torch.equal(torch.autograd.grad(loss.sum(), parameters)[0], direction)
    torch.testing.assert_close(loss.sum(), 0.5 * direction.square().sum())


def test_no_gradient_flows_through_a_direction(g):
    parameters = torch.randn(3, 4, generator=g, requires_grad=True)
    loss = PointPosterior(parameters).pull(2 * parameters)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), parameters)[0], 2 * parameters)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_token_gaps_are_gradients_of_divergences(kind, g):
    a, b = logits(g, 2, 3, 5).requires_grad_(), logits(g, 2, 3, 5)
    fake, real = Categorical(logits=a), Categorical(logits=b)
    divergence = kl_divergence(real, fake) if kind == "forward" else kl_divergence(fake, real)
    expected = torch.autograd.grad(divergence.sum(), a)[0]
    gap = CategoricalPosterior(a).gap(CategoricalPosterior(b), kind)
    torch.testing.assert_close(gap, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="gap between"):
        CategoricalPosterior(a).gap(CategoricalPosterior(b), "sideways")


def test_point_gap_is_the_gradient_of_half_the_squared_distance(g):
    a, b = torch.randn(2, 3, 4, dtype=F64, generator=g).unbind(0)
    a.requires_grad_()
    expected = torch.autograd.grad(PointPosterior(a).divergence(PointPosterior(b), "nll").sum(), a)[0]
    torch.testing.assert_close(PointPosterior(a).gap(PointPosterior(b)), expected)


def test_distance(g):
    x0 = torch.randint(5, (2, 3), generator=g)
    belief = CategoricalPosterior(logits(g, 2, 3, 5))
    torch.testing.assert_close(
        belief.distance(x0), certain(x0, 5).divergence(belief, "tv"), rtol=1e-6, atol=1e-9
    )
    a, b = torch.randn(2, 3, 4, generator=g).unbind(0)
    assert torch.equal(PointPosterior(a).distance(b), (a - b).abs())


def test_blend_is_a_mixture_per_element(g):
    a, b = CategoricalPosterior(logits(g, 2, 3, 5)), CategoricalPosterior(logits(g, 2, 3, 5))
    weight = torch.rand(2, 3, dtype=F64, generator=g)
    expected = weight[..., None] * a.probs + (1 - weight[..., None]) * b.probs
    torch.testing.assert_close(a.blend(b, weight).probs, expected, rtol=1e-12, atol=1e-15)
    per_sample = torch.tensor([0.0, 1.0], dtype=F64)
    torch.testing.assert_close(
        a.blend(b, per_sample).probs, torch.stack((b.probs[0], a.probs[1])), rtol=1e-12, atol=1e-15
    )
    x, y = (
        PointPosterior(torch.randn(2, 3, dtype=F64, generator=g)),
        PointPosterior(torch.zeros(2, 3, dtype=F64)),
    )
    torch.testing.assert_close(
        x.blend(y, per_sample).mean, torch.stack((torch.zeros(3, dtype=F64), x.mean[1]))
    )
    torch.testing.assert_close(x.blend(y, torch.tensor(0.25)).mean, 0.25 * x.mean)


def test_guide(g):
    c, u = (
        PointPosterior(torch.randn(2, 3, dtype=F64, generator=g)),
        PointPosterior(torch.randn(2, 3, dtype=F64, generator=g)),
    )
    scale = torch.tensor([1.0, 3.0], dtype=F64)
    torch.testing.assert_close(c.guide(u, scale).mean, u.mean + scale[:, None] * (c.mean - u.mean))
    torch.testing.assert_close(c.guide(u, torch.tensor(1.0)).mean, c.mean)
    torch.testing.assert_close(c.guide(u, torch.tensor(0.0)).mean, u.mean)
    a, b = CategoricalPosterior(logits(g, 2, 3, 5)), CategoricalPosterior(logits(g, 2, 3, 5))
    torch.testing.assert_close(a.guide(b, torch.tensor(1.0)).probs, a.probs)
    expected = b.probs * (a.probs / b.probs) ** 3
    torch.testing.assert_close(a.guide(b, torch.tensor(3.0)).probs, expected / expected.sum(-1, keepdim=True))


def test_detach_and_split(g):
    belief = PointPosterior(torch.randn(4, 3, generator=g, requires_grad=True))
    assert not detach(belief).parameters.requires_grad
    first, second = split(belief, 2)
    assert torch.equal(torch.cat((first.mean, second.mean)), belief.mean)


def test_certainty(g):
    x0 = torch.randint(5, (2, 3), generator=g)
    assert torch.equal(certain(x0, 5).sample(g), x0)
    assert (
        torch.equal(certain(x0, 5).probs.argmax(-1), x0)
        and float(certain(x0, 5).probs.max(-1)[0].min()) == 1.0
    )
    with pytest.raises(UserError, match="tokens must be integers"):
        certain(torch.zeros(2, 3), 5)


def test_samples_of_a_categorical_follow_it(g):
    belief = CategoricalPosterior(torch.tensor([2.0, 0.0, IMPOSSIBLE, -1.0]).expand(50, 2000, 4))
    found = torch.bincount(belief.sample(g).flatten(), minlength=4).double() / 100_000
    expected = belief.probs[0, 0].double()
    assert float(found[2]) == 0.0
    assert bool(((found - expected).abs() <= 4 * (expected * (1 - expected) / 100_000).sqrt()).all())
