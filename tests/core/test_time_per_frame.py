"""A time per frame: every verb does to each frame what it does to a state of that one time."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Guided, NetworkDenoiser, Windowed
from omnidistill.denoisers.parameterisation import to_x0
from omnidistill.errors import UserError
from omnidistill.paths.base import per_sample
from omnidistill.random import generator

F64 = torch.float64
# batch == frames == channels: what broadcasting alone would get wrong without a word
SHAPES = [((4, 3, 8, 2, 2), 2), ((4, 8, 3, 2, 2), 1), ((4, 4, 4, 2, 2), 2), ((3, 5, 4), -1)]


def setting(path, shape, axis, seed=0):
    g = generator("frames", seed)
    x_t, x0, y = torch.randn(3, *shape, dtype=F64, generator=g)
    times = torch.rand(shape[0], shape[axis], dtype=F64, generator=g)
    low, high = path.span
    low = max(low, path.floor) + 0.02
    return x_t, x0, Context(anchor=y) if "anchored" in path.offers else Context(), low + (high - low) * times


def frame(x, axis, i):
    return x.narrow(axis, i, 1)


@pytest.mark.parametrize("shape, axis", SHAPES)
def test_each_frame_is_treated_at_its_own_time(gaussian, shape, axis):
    path = gaussian.along(axis)
    x_t, x0, context, t = setting(path, shape, axis)
    s, r = 0.5 * t, 0.7 * t
    share = path.share(x_t, x_t, t, r, s)
    whole = {
        "bridge": path.bridge(x_t, x0, t, s, context),
        "velocity": path.velocity(x_t, x0, t, context),
        "reading": to_x0(path, "v", x0, x_t, t, context.anchor),
        "blend": path.certain(x0).blend(path.certain(x_t), share).mean,
    }
    for i in range(shape[axis]):
        a, b, u, v, w = frame(x_t, axis, i), frame(x0, axis, i), t[:, i], s[:, i], r[:, i]
        around = Context(anchor=None if context.anchor is None else frame(context.anchor, axis, i))
        alone = {
            "bridge": gaussian.bridge(a, b, u, v, around),
            "velocity": gaussian.velocity(a, b, u, around),
            "reading": to_x0(gaussian, "v", b, a, u, around.anchor),
            "blend": gaussian.certain(b).blend(gaussian.certain(a), gaussian.share(a, a, u, w, v)).mean,
        }
        for name, found in whole.items():
            torch.testing.assert_close(frame(found, axis, i), alone[name], msg=f"{name} of frame {i}")


def test_noise_grows_along_the_frames_and_not_along_what_is_as_long():
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64).expand(2, 3)
    x = paths.rectified_flow().along(2).corrupt(torch.zeros(2, 3, 3, 64, 64), t, g=generator(0))
    torch.testing.assert_close(x.std((0, 1, 3, 4)), torch.tensor([0.1, 0.5, 0.9]), rtol=0.02, atol=0)
    assert torch.allclose(x.std((0, 2, 3, 4)), x.std((0, 2, 3, 4)).mean(), rtol=0.02)


@pytest.mark.parametrize("shape", [(4, 8), (8,), (2,), (4, 3), (4, 1, 8), (3, 8)])
def test_times_that_do_not_fit_are_refused(unchecked: None, shape):
    x, t = torch.zeros(4, 3, 8, 2, 2), torch.full(shape, 0.5, dtype=F64)
    for path in (paths.rectified_flow(), paths.rectified_flow().along(2)):
        if shape == (4, 8) and path.time_axis == 2:
            continue
        for verb, states in ((path.corrupt, (x, t)), (path.bridge, (x, x, t, t)), (path.velocity, (x, x, t))):
            with pytest.raises(UserError, match=r"times of shape .* fit a state of shape \[4, 3, 8, 2, 2\]"):
                verb(*states)
    with pytest.raises(UserError, match="no time_axis"):
        per_sample(torch.zeros(4, 8), x)


def test_tokens_have_a_time_each():
    x0 = torch.arange(4).expand(2000, 4)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=F64).expand(2000, 4)
    for path in (paths.MaskedPath(5), paths.UniformPath(5)):
        changed = (path.corrupt(x0, t, g=generator(1)) != x0).double().mean(0)
        share = t[0] * (1.0 if "masked" in path.offers else 0.8)
        assert bool(((changed - share).abs() <= 5 * (share * (1 - share) / 2000).sqrt() + 1e-12).all())
        assert path.bridge(x0, x0, t, 0.5 * t, g=generator(2)).shape == x0.shape
        with pytest.raises(UserError, match="do not fit"):
            path.corrupt(x0, t[:, :3], g=generator(1))


class Framed(torch.nn.Module):
    """Answers each frame by its own time, and says how it was asked."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, time, condition=None):
        self.seen.append(tuple(time.shape))
        return x * time[:, None, :].to(x.dtype)


def test_networks_guidance_and_windows_pass_the_times_on():
    path = paths.rectified_flow().along(-1)
    x, t = torch.randn(2, 3, 40, dtype=F64), torch.linspace(0.05, 1.0, 40, dtype=F64).expand(2, 40)
    network = Framed()
    denoiser = NetworkDenoiser(network, path, "x0")
    wanted = x * t[:, None, :].float()
    torch.testing.assert_close(denoiser(x, t).mean, wanted)
    guided = Guided(denoiser, 2.0, lambda condition: condition)
    torch.testing.assert_close(guided(x, t, Context(torch.zeros(2))).mean, wanted)
    torch.testing.assert_close(Windowed(denoiser, 16, 4)(x, t).mean, wanted)
    assert network.seen[:2] == [(2, 40), (4, 40)] and network.seen[2][1] == 16
    torch.testing.assert_close(
        denoiser(x, 0.5 * (t > 0.5)).mean[..., 0], x[..., 0]
    )  # a frame at t = 0 is itself
