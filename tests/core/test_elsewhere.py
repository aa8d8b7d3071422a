"""Networks that are asked on another path than their own, against the exact denoiser there."""

import math

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import MixtureDenoiser
from omnidistill.exact.mixture import Mixture
from omnidistill.objectives.identities import residual, with_rate
from omnidistill.paths.base import per_sample
from omnidistill.student import Recipe, assemble

F64 = torch.float64
MEAN, STD = 0.7, 0.4


class Flow(nn.Module):
    """The exact velocity `eps - x0` of N(MEAN, STD^2) on the rectified flow, times `1 + error`."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error, dtype=F64))

    def forward(self, x, t):
        t = per_sample(t, x)
        spread = ((1 - t) * STD) ** 2 + t**2
        x0 = MEAN + STD**2 * (1 - t) * (x - (1 - t) * MEAN) / spread
        return (1.0 + self.error) * (x - x0) / t


def exact(path) -> MixtureDenoiser:
    return MixtureDenoiser(path, Mixture(torch.full((1, 2), MEAN, dtype=F64), STD, torch.ones(1, dtype=F64)))


@pytest.mark.parametrize("name", ["trigflow", "vp_cosine", "edm", "vp_linear"])
def test_a_flow_network_answers_exactly_on_other_paths(name: str, g) -> None:
    path = getattr(paths, name)()
    asked = NetworkDenoiser(Flow(), path, "flow", trained_on="rectified_flow")
    x = torch.randn(6, 2, dtype=F64, generator=g)
    for t in (0.0, 0.02, 0.3, 0.77, 1.0):
        belief = asked(x, torch.tensor(t, dtype=F64)).mean
        right = x if t == 0 else exact(path)(x, t).mean
        torch.testing.assert_close(belief, right, rtol=1e-9, atol=1e-9)
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    torch.testing.assert_close(asked(x, t).mean, exact(path)(x, t).mean, rtol=1e-9, atol=1e-9)


def test_the_clock_and_the_scale_are_those_of_the_paper(g) -> None:
    """u = sin / (sin + cos), x_u = x sqrt(u^2 + (1 - u)^2)."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t):
            seen.append((x, t))
            return x

    x, t = torch.randn(3, 2, dtype=F64, generator=g), torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    NetworkDenoiser(Spy(), paths.trigflow(), "flow", trained_on="rectified_flow")(x, t)
    angle = 0.5 * math.pi * t
    u = angle.sin() / (angle.sin() + angle.cos())
    torch.testing.assert_close(seen[0][1], u)
    torch.testing.assert_close(seen[0][0], x * (u**2 + (1 - u) ** 2).sqrt().unsqueeze(1))


def test_the_tangent_of_beliefs_is_the_same_on_both_paths_but_for_its_length(g) -> None:
    """`sigma / alpha^2 d psi / d(sigma / alpha)` at r = 0: the ratio of signals is left, which a normalised tangent
    loses."""
    flow, trig = paths.rectified_flow(), paths.trigflow()
    network = Flow(0.2)
    asked = {
        flow: NetworkDenoiser(network, flow, "flow"),
        trig: NetworkDenoiser(network, trig, "flow", trained_on="rectified_flow"),
    }
    x, t = torch.randn(5, 2, dtype=F64, generator=g), torch.linspace(0.2, 0.9, 5, dtype=F64)
    there, u = asked[trig].elsewhere.state(x, t)
    found = []
    for path, state, time in ((trig, x, t), (flow, there, u)):
        goal = exact(path)(state, time).mean
        velocity = path.velocity(state, goal, time)
        zero = torch.zeros_like(time)
        psi, rate = with_rate(asked[path], state, time, zero, Context(), velocity, "forward")
        found.append(residual(path, psi.mean, goal, goal, rate, time, zero, 1.0).detach())
    assert float(found[0].abs().max()) > 1e-2
    ratio = flow.coefficients(u).alpha / trig.coefficients(t).alpha
    torch.testing.assert_close(found[0], ratio.unsqueeze(1) * found[1], rtol=1e-9, atol=1e-9)


def test_weights_of_the_output_follow_and_the_description_says_where(g) -> None:
    trig = paths.trigflow()
    here = NetworkDenoiser(Flow(), paths.rectified_flow(), "flow")
    there = NetworkDenoiser(Flow(), trig, "flow", trained_on="rectified_flow")
    t = torch.tensor([0.3, 0.6], dtype=F64)
    torch.testing.assert_close(there.output_weight(t), here.output_weight(there.elsewhere.time(t)))
    again = assemble(Flow(), trig, Recipe(None, there.reading()))
    x = torch.randn(2, 2, dtype=F64, generator=g)
    torch.testing.assert_close(again(x, t).mean, there(x, t).mean)
    assert "trained_on" not in here.reading()


@pytest.mark.parametrize(
    "path, home, words",
    [
        (paths.trigflow(), "rectified", "path of trained_on 'rectified'"),
        (paths.ouve(), "rectified_flow", "without anchors"),
        (paths.MaskedPath(5), "rectified_flow", "both are Gaussian"),
        (paths.trigflow(), "grad_tts", "without anchors"),
    ],
)
def test_where_nothing_can_be_converted_a_line_says_so(path, home: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        NetworkDenoiser(Flow(), path, "logits" if "masked" in path.offers else "flow", trained_on=home)
    assert "\n" not in str(raised.value)
