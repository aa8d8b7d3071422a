"""The ragged U-Net: padding never changes an answer, blocks need not be square, a second input is read."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.networks.grid import Norm
from omnidistill.networks.unet import UNet, _shuffle, _unshuffle


def stirred(**options: object) -> UNet:
    torch.manual_seed(0)
    network = UNet(channels=(16, 32, 32), num_classes=None, heads=2, **options)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a new network answers 0
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return network.eval()


def noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unshuffle", [1, 2, (4, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("width", [13, 16, 21])
def test_padding_never_changes_an_answer(unshuffle: int | tuple[int, int], width: int) -> None:
    network = stirred(unshuffle=unshuffle, extra_channels=1)
    x, y, t = noise(2, 1, 8, width), noise(2, 1, 8, width, seed=3), torch.tensor([0.3, 0.8])
    whole = torch.ones(2, 1, 1, width, dtype=torch.bool)
    with torch.no_grad():
        alone = network(x, t, anchor=y, mask=whole)
        for spare in (1, 5, 11):
            # What padding holds must not matter, so it holds large numbers.
            wide = [torch.cat((v, 100.0 * noise(2, 1, 8, spare, seed=4)), -1) for v in (x, y)]
            mask = torch.cat((whole, torch.zeros(2, 1, 1, spare, dtype=torch.bool)), -1)
            padded = network(wide[0], t, anchor=wide[1], mask=mask)
            torch.testing.assert_close(padded[..., :width], alone, rtol=1e-4, atol=1e-4)
            # Without the mask the padding is seen: the test can fail.
            seen = network(wide[0], t, anchor=wide[1])
            assert (seen[..., :width] - alone).abs().max() > 1e-2


def test_a_mask_of_real_columns_alone_is_no_mask() -> None:
    network = stirred(unshuffle=2)
    x, t = noise(2, 1, 8, 16), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        torch.testing.assert_close(
            network(x, t, mask=torch.ones(2, 1, 1, 16, dtype=torch.bool)), network(x, t), rtol=1e-4, atol=1e-5
        )


def test_any_width_is_taken_without_a_mask() -> None:
    network = stirred(unshuffle=(2, 4))
    x, t = noise(2, 1, 8, 15), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        masked = network(x, t, mask=torch.ones(2, 1, 1, 15, dtype=torch.bool))
        torch.testing.assert_close(network(x, t), masked)


def test_the_batch_of_a_ragged_sample_does_not_matter() -> None:
    network = stirred(unshuffle=(2, 1))
    x, t = noise(3, 1, 8, 20), torch.tensor([0.2, 0.5, 0.9])
    mask = torch.arange(20).reshape(1, 1, 1, 20) < torch.tensor([20, 7, 12]).reshape(3, 1, 1, 1)
    with torch.no_grad():
        together = network(x, t, mask=mask)
        for i, length in enumerate((20, 7, 12)):
            alone = network(x[i : i + 1, ..., :length], t[i : i + 1])
            torch.testing.assert_close(together[i : i + 1, ..., :length], alone, rtol=1e-4, atol=1e-4)


def test_the_anchor_is_read_and_checked() -> None:
    network = stirred(unshuffle=2, extra_channels=2)
    x, t = noise(2, 1, 8, 16), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        a, b = (network(x, t, anchor=noise(2, 2, 8, 16, seed=s)) for s in (5, 6))
    assert (a - b).abs().max() > 1e-2
    with pytest.raises(UserError, match="anchor of shape"):
        network(x, t)
    with pytest.raises(UserError, match="anchor of shape"):
        network(x, t, anchor=noise(2, 1, 8, 16))
    with pytest.raises(UserError, match="does not divide"):
        network(noise(2, 1, 7, 16), t, anchor=noise(2, 2, 7, 16))


@pytest.mark.parametrize("block", [(2, 2), (4, 1), (2, 3)])
def test_blocks_as_channels_and_back(block: tuple[int, int]) -> None:
    x = noise(2, 3, 8, 12)
    packed = _unshuffle(x, block)
    assert packed.shape == (2, 3 * block[0] * block[1], 8 // block[0], 12 // block[1])
    torch.testing.assert_close(_shuffle(packed, block), x, rtol=0, atol=0)
    # The first channels are the corner of the first input channel's blocks.
    torch.testing.assert_close(packed[:, 0], x[:, 0, :: block[0], :: block[1]], rtol=0, atol=0)


def test_masked_norm_equals_the_norm_of_the_real_part() -> None:
    norm = Norm(32)
    with torch.no_grad():
        norm.weight.copy_(noise(32)), norm.bias.copy_(noise(32, seed=3))
    x = noise(2, 32, 4, 10)
    real = (torch.arange(10) < 6).float().reshape(1, 1, 1, 10).expand(2, 1, 1, 10)
    torch.testing.assert_close(norm(x, real)[..., :6], norm(x[..., :6]), rtol=1e-4, atol=1e-5)


def test_norms_learn_over_frozen_convolutions_in_channels_last():
    """In a process of its own: where torch's kernel has no gradient of the input to write to, it ends the process."""
    code = (
        "import torch\n"
        "from omnidistill.networks.grid import Norm\n"
        "norm = Norm(32)\n"
        "x = torch.randn(2, 32, 4, 4)\n"
        "found = []\n"
        "for layout in (torch.contiguous_format, torch.channels_last):\n"
        "    norm.zero_grad()\n"
        "    norm(x.contiguous(memory_format=layout)).pow(3).sum().backward()\n"
        "    found.append(norm.weight.grad.clone())\n"
        "torch.testing.assert_close(*found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
