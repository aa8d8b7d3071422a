"""What network outputs mean: round trips, textbook formulas, the boundary at t = 0."""

import itertools

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import PARAMETERISATIONS, NetworkDenoiser, convert
from omnidistill.denoisers.parameterisation import affine, from_x0, to_x0
from omnidistill.errors import UserError

F64 = torch.float64


def states(path, g, t):
    """x0, y, eps, x_t at times t: Float64[b]."""
    x0, y, eps = torch.randn(3, len(t), 6, dtype=F64, generator=g)
    anchor = y if "anchored" in path.offers else None
    alpha, beta, sigma = (c[:, None] for c in path.coefficients(t))
    return x0, anchor, eps, alpha * x0 + (beta * y if anchor is not None else 0.0) + sigma * eps


@pytest.mark.parametrize("source, target", list(itertools.permutations(PARAMETERISATIONS, 2)))
def test_conversions_round_trip(gaussian, g, source, target):
    t = torch.tensor([0.25, 0.4, 0.7, 0.95], dtype=F64)
    _, anchor, _, x_t = states(gaussian, g, t)
    value = torch.randn(x_t.shape, dtype=F64, generator=g)
    there = convert(gaussian, value, x_t, t, source, target, anchor, sigma_data=0.5)
    back = convert(gaussian, there, x_t, t, target, source, anchor, sigma_data=0.5)
    torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-9)


def test_outputs_are_what_their_names_say(gaussian, g):
    t = torch.tensor([0.25, 0.4, 0.7, 0.95], dtype=F64)
    x0, anchor, eps, x_t = states(gaussian, g, t)
    alpha, _, sigma = (c[:, None] for c in gaussian.coefficients(t))
    expected = {"eps": eps, "score": -eps / sigma, "v": alpha * eps - sigma * x0, "x0": x0}
    for kind, value in expected.items():
        torch.testing.assert_close(from_x0(gaussian, kind, x0, x_t, t, anchor), value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(to_x0(gaussian, kind, value, x_t, t, anchor), x0, rtol=1e-9, atol=1e-9)


def test_flow_is_the_velocity_of_the_interpolant(gaussian, g):
    t, h = torch.tensor([0.25, 0.4, 0.7, 0.95], dtype=F64), 1e-6
    x0, anchor, eps, x_t = states(gaussian, g, t)

    def state(u):
        alpha, beta, sigma = (c[:, None] for c in gaussian.coefficients(u))
        return alpha * x0 + (beta * anchor if anchor is not None else 0.0) + sigma * eps

    velocity = (state(t + h) - state(t - h)) / (2 * h)
    flow = from_x0(gaussian, "flow", x0, x_t, t, anchor)
    torch.testing.assert_close(flow, velocity, rtol=1e-6, atol=1e-7)


def test_flow_on_a_rectified_flow_is_noise_minus_data(g):
    path, t = paths.rectified_flow(), torch.tensor([0.2, 1.0], dtype=F64)
    x0, _, eps, x_t = states(path, g, t)
    torch.testing.assert_close(from_x0(path, "flow", x0, x_t, t), eps - x0, rtol=1e-12, atol=1e-12)


def test_edm_is_table_1_of_karras():
    path, d = paths.edm(), 0.5
    t = torch.linspace(path.span[0], 1.0, 9, dtype=F64)
    sigma = path.noise_level(t)
    a, b, _ = affine(path, "edm", t, d)
    torch.testing.assert_close(a, d**2 / (sigma**2 + d**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(b, sigma * d / (d**2 + sigma**2).sqrt(), rtol=1e-12, atol=0)


def test_edm_on_another_path_is_the_same_network_seen_through_its_scaling(g):
    """x_t / alpha is the variance-exploding state at noise level sigma / alpha."""
    vp, ve, d = paths.vp_cosine(), paths.edm(), 0.5
    t = torch.tensor([0.3, 0.8], dtype=F64)
    _, _, _, x_t = states(vp, g, t)
    out = torch.randn(x_t.shape, dtype=F64, generator=g)
    seen = x_t / vp.coefficients(t).alpha[:, None]
    u = ve.time_from_noise_level(vp.noise_level(t))
    torch.testing.assert_close(
        to_x0(vp, "edm", out, x_t, t, None, d),
        to_x0(ve, "edm", out, seen, u, None, d),
        rtol=1e-10,
        atol=1e-12,
    )


def test_trigflow_is_equation_4_of_lu_and_song(g):
    """f = cos(tau) x - sin(tau) d F(x / d) on the TrigFlow path, where z has the deviation d."""
    d = 0.5
    path, t = paths.trigflow(sigma_data=d), torch.tensor([0.1, 0.5, 1.0], dtype=F64)
    tau = (0.5 * torch.pi * t)[:, None]
    x_t, out = torch.randn(2, 3, 6, dtype=F64, generator=g)
    expected = torch.cos(tau) * x_t - torch.sin(tau) * d * out
    torch.testing.assert_close(
        to_x0(path, "trigflow", out, x_t, t, None, d), expected, rtol=1e-12, atol=1e-12
    )
    # Its output is the velocity dx/dtau over d.
    x0, _, _, x_t = states(path, g, t)
    velocity = from_x0(path, "flow", x0, x_t, t) / (0.5 * torch.pi)
    torch.testing.assert_close(
        from_x0(path, "trigflow", x0, x_t, t, None, d), velocity / d, rtol=1e-12, atol=1e-12
    )


def test_consistency_scalings_are_appendix_c_of_song():
    path, d = paths.edm(), 0.5
    t = torch.linspace(path.span[0], 1.0, 9, dtype=F64)
    sigma = path.noise_level(t)
    a, b, _ = affine(path, "consistency", t, d)
    torch.testing.assert_close(a, d**2 / ((sigma - 0.002) ** 2 + d**2), rtol=1e-9, atol=0)
    torch.testing.assert_close(b, d * (sigma - 0.002) / (sigma**2 + d**2).sqrt(), rtol=1e-9, atol=1e-15)
    assert float(a[0]) == 1.0 and float(b[0]) == 0.0


@pytest.mark.parametrize("kind", ["v", "edm", "trigflow", "consistency", "flow", "x0"])
def test_the_start_of_a_rectified_flow_is_regular(kind):
    """alpha = 0 at t = 1, where every student is asked first."""
    assert all(bool(torch.isfinite(c).all()) for c in affine(paths.rectified_flow(), kind, 1.0, 0.5))


def test_a_singular_parameterisation_names_the_mend():
    for kind in ("eps", "score"):
        with pytest.raises(UserError, match="singular on path 'rectified_flow'"):
            affine(paths.rectified_flow(), kind, 1.0)


@pytest.mark.parametrize("kind", ["eps", "score", "v", "flow", "edm", "trigflow", "consistency"])
def test_the_belief_in_an_almost_clean_state_is_that_state(kind, g):
    class Wild(torch.nn.Module):
        def forward(self, x, t):
            return 3.0 * torch.randn(x.shape, generator=g, dtype=x.dtype)

    path = paths.rectified_flow()
    x = torch.randn(4, 5, dtype=F64, generator=g)
    denoiser = NetworkDenoiser(Wild(), path, kind, time_input="log_sigma/4", sigma_data=0.5)
    assert torch.equal(denoiser(x, 0.0).mean, x)
    near = (denoiser(x, 1e-6).mean - x).abs().max() if kind != "consistency" else torch.zeros(())
    assert float(near) < 1e-4


@pytest.mark.parametrize("kind", [kind for kind in PARAMETERISATIONS if kind != "x0"])
def test_a_clean_state_is_believed_on_every_path(gaussian, kind, g):
    """Also where the parameterisation has no value at t = 0: sigma' is infinite at the start of some paths."""
    x = torch.randn(3, 4, dtype=F64, generator=g, requires_grad=True)
    context = (
        Context(anchor=torch.randn(3, 4, dtype=F64, generator=g))
        if "anchored" in gaussian.offers
        else Context()
    )
    network = torch.nn.Module()
    network.forward = lambda x, t, anchor=None: torch.tanh(x)
    t = torch.tensor([0.0, 0.5, 0.0], dtype=F64)
    mean = NetworkDenoiser(network, gaussian, kind)(x, t, context).mean
    assert torch.equal(mean[[0, 2]], x[[0, 2]]) and not torch.equal(mean[1], x[1])
    assert bool(torch.isfinite(torch.autograd.grad(mean.sum(), x)[0]).all())


def test_output_weight_makes_the_belief_error_the_output_error(gaussian, g):
    t = torch.tensor([0.25, 0.4, 0.7, 0.95], dtype=F64)
    _, anchor, _, x_t = states(gaussian, g, t)
    out, other = torch.randn(2, *x_t.shape, dtype=F64, generator=g)
    for kind in PARAMETERISATIONS:
        denoiser = NetworkDenoiser(torch.nn.Identity(), gaussian, kind, sigma_data=0.5)
        error = to_x0(gaussian, kind, out, x_t, t, anchor, 0.5) - to_x0(
            gaussian, kind, other, x_t, t, anchor, 0.5
        )
        weighted = denoiser.output_weight(t)[:, None] * error**2
        torch.testing.assert_close(weighted, (out - other) ** 2, rtol=1e-8, atol=1e-12)


class Probe(torch.nn.Module):
    """Remembers what a network is given."""

    def forward(self, x, t, condition=None, **keywords):
        self.seen = {"x": x, "t": t, "condition": condition, **keywords}
        return torch.zeros_like(x)


def test_the_network_is_given_what_there_is_and_nothing_else(g):
    path, probe = paths.grad_tts(), Probe()
    x = torch.randn(3, 4, generator=g)
    context = Context(condition=torch.arange(3), anchor=x + 1, mask=torch.ones(3, 1, dtype=torch.bool))
    NetworkDenoiser(probe, path, "eps", time_input="1000t")(x, 0.25, context)
    assert set(probe.seen) == {"x", "t", "condition", "anchor", "mask"}
    torch.testing.assert_close(probe.seen["t"], torch.full((3,), 250.0))
    NetworkDenoiser(probe, paths.edm(), "edm", time_input="log_sigma/4", target_time=True)(x, 1.0)
    assert set(probe.seen) == {"x", "t", "condition", "target_time"}
    torch.testing.assert_close(probe.seen["t"], torch.full((3,), 80.0).log() / 4)
    assert bool(
        torch.isfinite(probe.seen["target_time"]).all()
    )  # an absent target is the jump to 0, where log sigma = -inf


def test_unit_input_has_unit_variance(g):
    path, probe, d = paths.edm(), Probe(), 0.5
    x0 = d * torch.randn(50_000, 1, generator=g)
    for t in (0.3, 0.6, 1.0):
        x_t = path.corrupt(x0, t, g=g)
        NetworkDenoiser(probe, path, "edm", sigma_data=d, unit_input=True)(x_t, t)
        assert float(probe.seen["x"].std()) == pytest.approx(1.0, rel=0.02)


def test_padding_stays_zero(g):
    x = torch.randn(2, 5, generator=g)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    network = torch.nn.Module()
    network.forward = lambda x, t, mask: torch.ones_like(x)
    belief = NetworkDenoiser(network, paths.rectified_flow(), "x0")(x * mask, 0.5, Context(mask=mask))
    assert torch.equal(belief.mean, mask.float())


def test_a_parameterisation_of_another_path_is_refused():
    with pytest.raises(UserError, match="does not fit"):
        NetworkDenoiser(torch.nn.Identity(), paths.MaskedPath(5), "eps")
    with pytest.raises(UserError, match="does not fit"):
        NetworkDenoiser(torch.nn.Identity(), paths.rectified_flow(), "logits")


class Pyramid(torch.nn.Module):
    """A layer at half the resolution along the ragged axis, whose features a head would read."""

    feature_module, feature_axis, feature_channels = "down", 1, 4

    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv2d(1, 4, (3, 2), stride=(3, 2))

    def forward(self, x, t, mask=None):
        self.down(x[:, None])
        return x


def test_features_leave_padding_out(g):
    """A spectrogram [b, bands, frames] with ragged frames, and points [b n d] with ragged n."""
    denoiser = NetworkDenoiser(Pyramid(), paths.rectified_flow(), "x0")
    x = torch.randn(2, 6, 8, generator=g)
    mask = torch.arange(8) < torch.tensor([4, 6])[:, None, None]
    found = denoiser.features(x, 0.5, Context(mask=mask))
    for i, length in enumerate((4, 6)):
        alone = denoiser.features(x[i : i + 1, :, :length], 0.5)
        torch.testing.assert_close(found[i : i + 1], alone)
    assert denoiser.calls == 3

    points = torch.nn.Linear(3, 3)
    network = torch.nn.Module()
    network.body, network.feature_module, network.feature_axis = points, "body", 2
    network.forward = lambda x, t, mask=None: network.body(x)
    denoiser = NetworkDenoiser(network, paths.rectified_flow(), "x0")
    x, mask = torch.randn(1, 5, 3, generator=g), (torch.arange(5) < 3).reshape(1, 5, 1)
    found = denoiser.features(x, 0.5, Context(mask=mask))
    torch.testing.assert_close(found, denoiser.features(x[:, :3], 0.5))
