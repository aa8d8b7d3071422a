"""The chain network: padding, translation, locality, second embeddings, precision."""

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates.networks import ChainNetwork


def stirred(points: int, seed: int = 0, **options) -> ChainNetwork:
    """A network whose layers of zeros are not: behind them nothing could be seen."""
    torch.manual_seed(seed)
    network = ChainNetwork(points, width=32, depth=1, heads=2, blocks=1, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("patch", [1, 2, 5])
@torch.no_grad()
def test_padding_changes_nothing(patch: int):
    network = stirred(13, patch=patch)
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 13, 3, generator=g), torch.tensor([-0.5, 0.2])
    alone = network(x[:1, :9], t[:1])
    wide = torch.full((2, 17, 3), torch.inf)
    wide[:, :13] = x
    wide[0, 9:] = torch.nan
    mask = torch.arange(17)[None, :, None] < torch.tensor([9, 13])[:, None, None]
    padded = network(wide, t, mask=mask)
    torch.testing.assert_close(padded[:1, :9], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[1:, :13], network(x[1:], t[1:]), rtol=1e-4, atol=1e-5)
    assert not padded[0, 9:].any() and not padded[1, 13:].any()


@torch.no_grad()
def test_the_place_in_space_does_not_matter_and_the_answer_has_none():
    network = stirred(12)
    x, t = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    out = network(x, t)
    torch.testing.assert_close(network(x + 3.0, t), out, rtol=1e-3, atol=1e-5)
    assert float(out.mean(1).abs().max()) < 1e-6 and float(out.abs().max()) > 1e-2


@torch.no_grad()
def test_a_new_network_answers_zero_whatever_it_is_asked():
    torch.manual_seed(0)
    network = ChainNetwork(10, width=32, depth=1, heads=2)
    assert not network(torch.randn(2, 10, 3), torch.zeros(2)).any()


@torch.no_grad()
def test_bf16_keeps_small_steps_between_neighbours():
    """Coordinates rounded to bfloat16 would lose steps of 0.001 between points 2 apart; differences do not."""
    network = stirred(8, patch=1)
    x = torch.linspace(-2.0, 2.0, 8)[None, :, None].repeat(1, 1, 3)
    other = x.clone()
    other[0, 3] += 1e-3
    t = torch.full((1,), -1.5)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(other, t)
    assert low.dtype == torch.float32
    assert float((low - network(other, t)).abs().max()) < 0.05 * float(network(other, t).abs().max())


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="at most 5 points, got 6"):
        ChainNetwork(5, width=32, depth=1)(torch.zeros(1, 6, 3), torch.zeros(1))
    with pytest.raises(UserError, match="even width per head"):
        ChainNetwork(5, width=30, heads=4)
