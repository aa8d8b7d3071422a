"""Beliefs: divergences against torch.distributions, gradients against autograd, no NaN where a token is impossible."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from omnidistill import paths
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import MixtureDenoiser
from omnidistill.exact.mixture import Mixture
from omnidistill.posteriors import (
    IMPOSSIBLE,
    CategoricalPosterior,
    CertainTokens,
    MixturePosterior,
    PointPosterior,
    certain,
    detach,
    split,
)

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
    chosen = weight > 0.5  # truth values are weights of 1 and 0
    torch.testing.assert_close(a.blend(b, chosen).probs, a.blend(b, chosen.double()).probs)
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


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_infinite_logits_are_impossible_tokens(kind, g):
    """A teacher that writes -inf where it rules a token out is the one that writes `IMPOSSIBLE`, gradients too."""
    a, b = logits(g, 3, 4, 6), logits(g, 3, 4, 6)
    found = []
    for low in (-torch.inf, IMPOSSIBLE):
        mine, target = a.clone(), b.clone()
        mine[..., 0], target[..., 0], target[:, 1, 3] = low, low, low
        mine.requires_grad_()
        value = CategoricalPosterior(mine).divergence(CategoricalPosterior(target), kind)
        found.append((value, torch.autograd.grad(value.sum(), mine)[0]))
    for infinite, finite in zip(*found, strict=True):
        assert bool(torch.isfinite(infinite).all())
        torch.testing.assert_close(infinite, finite, rtol=1e-9, atol=1e-9)


def test_infinite_logits_mix_and_guide_with_finite_gradients(g):
    a, b = logits(g, 2, 3, 5), logits(g, 2, 3, 5)
    a[..., 0], b[..., 0], b[..., 1] = -torch.inf, -torch.inf, -torch.inf
    a.requires_grad_()
    mine, other = CategoricalPosterior(a), CategoricalPosterior(b)
    beliefs = [mine.blend(other, torch.full((2,), w)) for w in (0.0, 0.5, 1.0)]
    beliefs += [mine.guide(other, torch.tensor(s)) for s in (1.0, 3.0)] + [
        other.guide(mine, torch.tensor(3.0))
    ]
    for belief in beliefs:
        gradient = torch.autograd.grad((belief.probs * torch.arange(5.0)).sum(), a, retain_graph=True)[0]
        assert bool(torch.isfinite(belief.logits).all()) and bool(torch.isfinite(gradient).all())
        assert float(belief.probs[..., 0].detach().abs().max()) == 0.0
    # Where nothing can be extrapolated from, the conditional belief decides instead of taking everything.
    alone = mine.guide(other, torch.tensor(3.0)).probs[..., 1]
    assert bool((alone > 0).all()) and bool((alone < 1).all())


def test_backward_and_l2_are_bounded_against_certainty(g):
    a = logits(g, 4, 6, 5).requires_grad_()
    target = certain(torch.randint(5, (4, 6), generator=g), 5)
    for kind, most in (("backward", 16.0), ("l2", 5 * 128.0)):
        value = CategoricalPosterior(a).divergence(target, kind)
        gradient = torch.autograd.grad(value.sum(), a)[0]
        assert 0.0 < float(value.max()) < most and float(gradient.abs().max()) < most
    fake = CategoricalPosterior(a.detach()).gap(target, "reverse")
    expected = torch.autograd.grad(CategoricalPosterior(a).divergence(target, "backward").sum(), a)[0]
    torch.testing.assert_close(fake, expected.to(fake), rtol=1e-6, atol=1e-6)


def test_a_certain_target_is_gathered_not_written_out(g, monkeypatch):
    x0, a = torch.randint(5, (4, 6), generator=g), logits(g, 4, 6, 5)
    mine, written = CategoricalPosterior(a), CategoricalPosterior(certain(x0, 5).logits.double())
    expected = {kind: mine.divergence(written, kind) for kind in ("nll", "forward", "jsd", "tv")}
    gap = written.gap(mine)

    def refuse(self):
        raise AssertionError("a table of b n k numbers was written out")

    monkeypatch.setattr(CertainTokens, "logits", property(refuse))
    sure = certain(x0, 5)
    for kind, value in expected.items():
        torch.testing.assert_close(mine.divergence(sure, kind), value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sure.gap(mine), gap)
    assert torch.equal(sure.sample(g), x0) and torch.equal(sure[1:3].sample(g), x0[1:3])
    assert torch.equal(sure.distance(x0.roll(1, 0)), (x0 != x0.roll(1, 0)).float())
    torch.testing.assert_close(mine.log_prob(x0), Categorical(logits=a).log_prob(x0))


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_the_gradient_of_a_blend_with_respect_to_its_weight(at, g):
    a, b = CategoricalPosterior(logits(g, 1, 2, 5)), CategoricalPosterior(logits(g, 1, 2, 5))
    w = torch.tensor(at, dtype=F64, requires_grad=True)
    found = torch.autograd.grad(a.blend(b, w).logits.sum(), w)[0]
    mixed = at * a.probs + (1 - at) * b.probs
    torch.testing.assert_close(found, ((a.probs - b.probs) / mixed).sum())


def test_pull_takes_a_weight_a_sample(g):
    direction, weight = torch.randn(3, 4, 5, dtype=F64, generator=g), torch.tensor([0.5, 2.0, 0.0], dtype=F64)
    for belief in (PointPosterior, CategoricalPosterior):
        p = torch.randn(3, 4, 5, dtype=F64, generator=g, requires_grad=True)
        found = torch.autograd.grad(belief(p).pull(direction, weight).sum(), p)[0]
        torch.testing.assert_close(found, weight[:, None, None] * direction)


def test_log_prob_is_minus_the_nll_of_certainty(g):
    x0 = torch.randn(2, 3, dtype=F64, generator=g)
    point = PointPosterior(torch.randn(2, 3, dtype=F64, generator=g))
    torch.testing.assert_close(point.log_prob(x0), -point.divergence(certain(x0), "nll"))
    same = point.after(x0, 0.1, paths.rectified_flow())
    assert same is point


# --- mixtures -----------------------------------------------------------------------------------------------------


def mixture(g, b=3, k=4, c=2, *positions):
    means = torch.randn(b, k, c, *positions, dtype=F64, generator=g)
    weights, log_std = (torch.randn(b, k, *positions, dtype=F64, generator=g) for _ in range(2))
    return means, weights, 0.3 * log_std


def test_a_mixture_against_torch_distributions(g):
    means, weights, log_std = mixture(g)
    belief = MixturePosterior.of(means, weights, log_std)
    reference = MixtureSameFamily(
        Categorical(logits=weights), Independent(Normal(means, log_std.exp()[..., None].expand_as(means)), 1)
    )
    x0 = torch.randn(3, 2, dtype=F64, generator=g)
    torch.testing.assert_close(belief.log_prob(x0).sum(1), reference.log_prob(x0))
    torch.testing.assert_close(belief.divergence(certain(x0)), -belief.log_prob(x0))
    torch.testing.assert_close(belief.mean, reference.mean)
    torch.testing.assert_close(belief.distance(x0), (x0 - reference.mean).abs())
    many = MixturePosterior.of(*(part[:1].expand(40_000, *part.shape[1:]) for part in mixture(g)))
    drawn = many.sample(g)
    error = (drawn.mean(0) - many.mean[0]) / (drawn.std(0) / 200)
    assert float(error.abs().max()) < 4
    half, rest = split(belief, 2)
    torch.testing.assert_close(torch.cat((half.log_prob(x0[:2]), rest.log_prob(x0[2:]))), belief.log_prob(x0))


def test_a_mixture_of_positions_is_many_mixtures(g):
    means, weights, log_std = mixture(g, 2, 3, 2, 4, 5)
    belief, x0 = MixturePosterior.of(means, weights, log_std), torch.randn(2, 2, 4, 5, dtype=F64, generator=g)
    one = MixturePosterior.of(means[..., 1, 2], weights[..., 1, 2], log_std[..., 1, 2])
    torch.testing.assert_close(belief.log_prob(x0)[..., 1, 2], one.log_prob(x0[..., 1, 2]))
    assert belief.sample(g).shape == x0.shape == belief.mean.shape


def test_mixtures_blend_guide_and_pull(g):
    a, b = MixturePosterior.of(*mixture(g)), MixturePosterior.of(*mixture(g))
    w, x0 = torch.tensor([0.0, 0.25, 1.0], dtype=F64), torch.randn(3, 2, dtype=F64, generator=g)
    joint = [2 * belief.log_prob(x0)[:, 0] for belief in (a, b, a.blend(b, w))]
    torch.testing.assert_close(joint[2].exp(), w * joint[0].exp() + (1 - w) * joint[1].exp())
    scale = torch.tensor([1.0, 3.0, 0.0], dtype=F64)
    torch.testing.assert_close(a.guide(b, scale).mean, b.mean + scale[:, None] * (a.mean - b.mean))
    means, *rest = mixture(g)
    shift = torch.zeros(3, 1, 2, dtype=F64, requires_grad=True)  # moving every component moves the mean
    pulled = MixturePosterior.of(means + shift, *rest).pull(a.gap(b), w)
    torch.testing.assert_close(torch.autograd.grad(pulled.sum(), shift)[0][:, 0], w[:, None] * a.gap(b))


@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine", "edm"])
def test_a_mixture_asked_again_is_the_exact_belief_at_the_later_state(name, g):
    """q(x0 | x_t) of a known mixture, asked at x_r without a call, is E[x0 | x_r] in closed form, for any x_r."""
    path = getattr(paths, name)()
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.3, -1.2]], dtype=F64)
    data = Mixture(means, 0.2, torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    exact = MixtureDenoiser(path, data)
    t, r = (torch.tensor(u, dtype=F64) for u in ([0.7, 0.5, 0.9, 0.6], [0.6, 0.1, 0.2, 0.6]))
    x0, _ = data.sample(torch.full((4,), data.count), g)
    x_t = path.corrupt(x0, t, g=g)
    x_r = path.bridge(x_t, x0, t, r)
    alpha, _, sigma = (c[:, None] if c is not None else None for c in path.coefficients(t))
    variance = (alpha * data.std) ** 2 + sigma**2
    own = means + (alpha * data.std**2 / variance)[:, :, None] * (x_t[:, None] - alpha[:, :, None] * means)
    log_std = (data.std * sigma / variance.sqrt()).log().expand(4, 3)
    log_w = data.log_joint(x_t, alpha[:, 0], sigma[:, 0])
    belief = MixturePosterior.of(own, log_w, log_std, x_t, t)
    torch.testing.assert_close(belief.mean, exact(x_t, t).mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(belief.after(x_r, r, path).mean, exact(x_r, r).mean, rtol=1e-7, atol=1e-8)
    # Twice, by way of a state between.
    s = 0.5 * r
    x_s = path.bridge(x_r, x0, r, s)
    twice = belief.after(x_r, r, path).after(x_s, s, path)
    torch.testing.assert_close(twice.mean, exact(x_s, s).mean, rtol=1e-7, atol=1e-8)
    # Where nothing is left of the noise it is the state.
    torch.testing.assert_close(belief.after(x0, 0.0, path).mean, x0, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="state and time"):
        MixturePosterior.of(own, log_w, log_std).after(x_r, r, path)
