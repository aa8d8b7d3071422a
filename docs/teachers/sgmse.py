"""A network of the SGMSE kind as a teacher: complex spectrograms Complex[b 1 f t], signature (x, y, t), answer -score.

SGMSE draws complex noise of variance 1, half of it in each part; here each part has noise of variance 1. So its
standard deviations are divided by sqrt(2), and its score, `-z / sigma` of complex z, is half of ours.

    python docs/teachers/sgmse.py
"""

import math

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import GaussianPath, ouve


class Sgmse(nn.Module):
    """`score = -dnn(x, y, t)` on real channels: state and anchor Float[b 2 f t], time Float[b] -> Float[b 2 f t]."""

    def __init__(self, dnn: nn.Module) -> None:
        super().__init__()
        self.dnn = dnn

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor, mask: Tensor | None = None) -> Tensor:
        noisy, given = (torch.complex(*s.float().unbind(1)).unsqueeze(1) for s in (x, anchor))
        score = -2.0 * self.dnn(noisy, given, t)
        return torch.cat((score.real, score.imag), dim=1)


def path(stiffness: float = 1.5, sigma_min: float = 0.05, sigma_max: float = 0.5) -> GaussianPath:
    """SGMSE's OUVE process by its own numbers."""
    return ouve(stiffness, sigma_min / math.sqrt(2.0), sigma_max / math.sqrt(2.0))


def teacher(dnn: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(Sgmse(dnn), path(), "score", time_input="t")


class Tiny(nn.Module):
    """Stands in for NCSN++: complex x, y and time in, complex `-score` out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(5, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 2, 3, padding=1))

    def forward(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        time = t.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        h = self.layers(torch.cat((x.real, x.imag, y.real, y.imag, time), dim=1))
        return torch.complex(*h.unbind(1)).unsqueeze(1)


if __name__ == "__main__":
    g = torch.Generator().manual_seed(0)
    clean = 0.1 * torch.randn(16, 2, 64, 32, generator=g)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=g)

    def pairs(count: int, g: torch.Generator) -> Batch:
        rows = torch.randint(len(clean), (count,), generator=g)
        return Batch(clean[rows], Context(anchor=noisy[rows]))

    student = omnidistill.distill(
        teacher(Tiny()), "consistency-models", data=pairs, shape=(2, 64, 32), updates=2, batch=4, device="cpu"
    )
    print("student's spectrograms:", tuple(student.sample(2, context=Context(anchor=noisy[:2])).shape))
