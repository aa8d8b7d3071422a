"""The network reads the anchor and where a frequency lies, and ignores padding."""

import pytest
import torch
from torch import Tensor

from omnidistill.modalities.speech.enhancement.networks import EnhancementUNet
from omnidistill.random import generator


def stirred(**options: object) -> EnhancementUNet:
    torch.manual_seed(0)
    network = EnhancementUNet(channels=(16, 32), unshuffle=(8, 4), **options)  # type: ignore[arg-type]
    g = generator(0)
    for parameter in network.parameters():  # layers of zeros would hide everything
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    return network


def state(t: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(2, 2, 256, t, generator=generator(seed))


def test_the_shipped_size_is_small() -> None:
    assert sum(p.numel() for p in EnhancementUNet().parameters()) <= 2.5e6


def test_the_answer_depends_on_the_anchor_and_is_refused_without(unchecked: None) -> None:
    network, x, t = stirred(), state(16), torch.tensor([0.2, 0.9])
    a, b = (network(x, t, anchor=state(16, seed)) for seed in (1, 2))
    assert a.shape == x.shape and not torch.allclose(a, b)
    with pytest.raises(ValueError, match="noisy spectrogram"):
        network(x, t)
    with pytest.raises(ValueError, match="noisy spectrogram"):
        network(x, t, anchor=state(12))


def test_a_pattern_means_something_else_at_another_frequency() -> None:
    """Far from the edges a plain convolutional network would answer a shifted input with a shifted output."""
    network, t = stirred().eval(), torch.tensor([0.5, 0.5])
    pattern = torch.zeros(2, 2, 256, 16)
    low, high = pattern.clone(), pattern.clone()
    low[:, :, 64:80, 4:12] = high[:, :, 160:176, 4:12] = 1.0
    with torch.no_grad():
        a, b = (network(x, t, anchor=x) for x in (low, high))
    assert not torch.allclose(a[:, :, 56:88], b[:, :, 152:184], atol=1e-3)


def test_padding_changes_nothing() -> None:
    network, x, y, t = stirred(), state(21), state(21, 1), torch.tensor([0.3, 0.7])
    wide = [torch.nn.functional.pad(z, (0, 11), value=5.0) for z in (x, y)]
    mask = (torch.arange(32) < 21).expand(2, 1, 1, -1)
    with torch.no_grad():
        short, long = network(x, t, anchor=y), network(wide[0], t, anchor=wide[1], mask=mask)
    torch.testing.assert_close(long[..., :21], short, atol=1e-5, rtol=1e-4)
