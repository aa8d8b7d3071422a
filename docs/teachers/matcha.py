"""A decoder of the Matcha kind as a teacher: signature (x, mask, mu, t) -> velocity, mels Float[b 80 t] without a
channel axis, and a clock that runs the other way, from noise at 0 to data at 1.

Matcha's path is `(1 - (1 - s) tau) z + tau x1` with s = 1e-4, its answer `dx/d tau = x1 - (1 - s) z`. With t = 1 - tau
that is a Gaussian path, and our `flow`, the derivative in t, is minus the answer. The decoder here is tiny and random:

    python docs/teachers/matcha.py
"""

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import GaussianPath

SMALLEST = 1e-4  # sigma_min of Matcha-TTS


class Matcha(nn.Module):
    """State and mu Float[b 1 80 t], time in [0, 1], mask Bool[b 1 1 t] -> dx/dt, Float[b 1 80 t]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor, mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(x[:, :, :1]) if mask is None else mask.to(x)
        velocity = self.decoder(x.squeeze(1), real.squeeze(1), anchor.squeeze(1), 1.0 - t)
        return -velocity.unsqueeze(1)


def path() -> GaussianPath:
    """Without beta: mu is read by the decoder, the prior is N(0, I)."""
    return GaussianPath(
        "matcha", alpha=lambda t: 1.0 - t, sigma=lambda t: t + SMALLEST * (1.0 - t), span=(1e-3, 1.0)
    )


def teacher(decoder: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(Matcha(decoder), path(), "flow")


class Tiny(nn.Module):
    """Stands in for Matcha's 1-D U-Net with transformer blocks."""

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        self.inward = nn.Conv1d(2 * mels + 1, 64, 3, padding=1)
        self.outward = nn.Conv1d(64, mels, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        time = t.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1])
        h = torch.tanh(self.inward(torch.cat((x, mu, time), dim=1) * mask))
        return self.outward(h * mask) * mask


if __name__ == "__main__":
    g = torch.Generator().manual_seed(0)
    mels = torch.randn(16, 1, 80, 48, generator=g)
    means = 0.8 * mels
    lengths = torch.randint(20, 49, (16,), generator=g)
    real = (torch.arange(48) < lengths.unsqueeze(1)).reshape(16, 1, 1, 48)

    def sentences(count: int, g: torch.Generator) -> Batch:
        rows = torch.randint(len(mels), (count,), generator=g)
        return Batch(mels[rows] * real[rows], Context(anchor=means[rows] * real[rows], mask=real[rows]))

    student = omnidistill.distill(
        teacher(Tiny()),
        "consistency-models",
        data=sentences,
        shape=(1, 80, 48),
        updates=2,
        batch=4,
        device="cpu",
    )
    around = Context(anchor=means[:2] * real[:2], mask=real[:2])
    print("student's mels:", tuple(student.sample(2, context=around).shape))
