"""Long states in windows: exact where the belief is local, without a seam, whole where they fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser, Windowed
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.samplers import Euler, FewStep


class Local(nn.Module):
    """A convolution of reach 2 along the last axis, which also reads an anchor and a mask."""

    def __init__(self) -> None:
        super().__init__()
        g = generator("local")
        self.kernel = torch.randn(2, 4, 5, generator=g, dtype=torch.float64) * 0.3

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor, mask: Tensor | None = None) -> Tensor:
        both = torch.cat((x, anchor), 1)
        real = torch.ones_like(both[:, :1]) if mask is None else mask.to(both.dtype)
        return torch.tanh(nn.functional.conv1d(both * real, self.kernel, padding=2)) * real


class Average(nn.Module):
    """Every element answers the mean of what the network sees: the least local belief there is."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True).expand_as(x)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("state"), dtype=torch.float64)


@pytest.mark.parametrize("n", [33, 64, 100, 257])
def test_a_local_belief_is_the_same_in_windows(n: int) -> None:
    """Ends of a window see zeros where the whole sees neighbours; there the ramp weighs least, 1/overlap."""
    whole = NetworkDenoiser(Local(), paths.rectified_flow(), "x0")
    x, context = noise(3, 2, n), Context(anchor=noise(3, 2, n))
    a = whole(x, 0.7, context).parameters
    b = Windowed(whole, 32, 16)(x, 0.7, context).parameters
    assert (a - b).abs().max() < 0.15 * a.abs().max()
    middle = slice(8, n - 8)
    assert ((a - b)[..., middle].abs() < 1e-12).double().mean() > 0.5  # equal away from windows' ends


def test_what_fits_is_answered_whole_in_one_call() -> None:
    whole = NetworkDenoiser(Local(), paths.rectified_flow(), "x0")
    x, context = noise(2, 2, 32), Context(anchor=noise(2, 2, 32))
    assert torch.equal(Windowed(whole, 32, 8)(x, 0.5, context).parameters, whole(x, 0.5, context).parameters)


def test_windows_fade_into_one_another() -> None:
    """With a belief that differs from window to window as much as it can, neighbouring elements differ by at most
    what a ramp over the overlap allows."""
    whole = NetworkDenoiser(Average(), paths.rectified_flow(), "x0")
    x = torch.linspace(0, 1, 400, dtype=torch.float64).reshape(1, 1, 400)
    for overlap in (4, 16):
        belief = Windowed(whole, 64, overlap)(x, 0.5).parameters
        jump = belief.diff(dim=-1).abs().max()
        assert jump < 1.5 * (64 / 400) / overlap  # neighbours' means lie at most a window apart
    with pytest.raises(AssertionError):  # hard borders would fail
        hard = torch.cat([part.mean(-1, keepdim=True).expand_as(part) for part in x.split(64, -1)], -1)
        assert hard.diff(dim=-1).abs().max() < 1.5 * (64 / 400) / 4


def test_batches_masks_and_samplers_pass_through() -> None:
    path = paths.rectified_flow()
    whole = NetworkDenoiser(Local(), path, "x0")
    windowed = Windowed(whole, 32, 8)
    n = 90
    mask = torch.arange(n).reshape(1, 1, n) < torch.tensor([90, 47]).reshape(2, 1, 1)
    context = Context(anchor=noise(2, 2, n), mask=mask)
    made = FewStep().sample(windowed, torch.empty(2, 2, n, dtype=torch.float64), 3, context, g=generator("s"))
    assert made.nfe == 3 and bool((made.x0[1, :, 47:] == 0).all()) and bool((made.x0[0] != 0).any())
    alone = Context(anchor=context.anchor[1:, :, :47])  # type: ignore[index]
    x_1 = path.prior(torch.empty(2, 2, n, dtype=torch.float64), context, g=generator("x"))
    # The second window of the shorter state starts at 15; four steps of reach 2 carry its border no nearer than 7.
    both = Euler().sample(windowed, x_1, 4, context, x_1=x_1).x0[1:, :, :7]
    one = Euler().sample(windowed, x_1[1:, :, :47], 4, alone, x_1=x_1[1:, :, :47]).x0[..., :7]
    torch.testing.assert_close(both, one)


def test_bad_windows_are_refused() -> None:
    whole = NetworkDenoiser(Local(), paths.rectified_flow(), "x0")
    for length, overlap in ((8, 0), (8, 5)):
        with pytest.raises(UserError, match="overlap"):
            Windowed(whole, length, overlap)
