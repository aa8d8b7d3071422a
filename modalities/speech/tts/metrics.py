"""Judging mels: do the patches look like speech, and how far is a frame from the recording's.

`frechet`, the primary metric, compares distributions: a blurred mel, the mean of all that could be said, is far from
speech in it. `mcd` compares frame by frame along the same alignment, so the mean is what it likes best; read both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import frechet_distance, resampled_frechet
from omnidistill.shapes import Resampled

PATCH, STRIDE = 8, 4  # frames; 128 ms every 64 ms at 16 kHz
COMPONENTS = 64
CEPSTRA = 13
BASIS_PATCHES = 8192  # of the training data, evenly spaced


@dataclass(frozen=True)
class PatchSpace:
    """Where patches are compared: the leading principal components of training patches, each scaled to variance 1 there
    so that fine texture counts as much as loudness."""

    mean: Float64[Tensor, "d"]
    basis: Float64[Tensor, "d k"]

    def __call__(self, mels: Sequence[Tensor]) -> Float64[Tensor, "n k"]:
        """One row a patch."""
        return (patches(mels).double() - self.mean) @ self.basis


def patches(mels: Sequence[Tensor]) -> Float[Tensor, "n numbers"]:
    """All windows of PATCH frames, STRIDE apart, as rows of m PATCH numbers; shorter mels have none.

    Raises:
        UserError: no mel is PATCH frames long, or a value is NaN or infinite.
    """
    long = [mel for mel in mels if mel.shape[1] >= PATCH]
    if not long:
        raise UserError(f"no mel of {len(mels)} has the {PATCH} frames that a patch needs")
    found = torch.cat([mel.unfold(1, PATCH, STRIDE).permute(1, 0, 2).flatten(1) for mel in long])
    if not found.isfinite().all():
        raise UserError("a mel holds NaN or infinite values; the model has diverged")
    return found


def patch_space(mels: Sequence[Tensor], components: int = COMPONENTS) -> PatchSpace:
    """The space of `mels`, all of training: at most as many components as they have patches to tell them apart."""
    found = patches(mels)
    rows = (
        torch.linspace(0, len(found) - 1, min(len(found), BASIS_PATCHES), dtype=torch.float64).round().long()
    )
    found = found[rows].double()
    mean = found.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(found.T))
    kept = torch.arange(len(values) - 1, max(len(values) - 1 - min(components, len(rows) // 4), -1), -1)
    kept = kept[values[kept] > 1e-8 * values[-1]]
    return PatchSpace(mean, vectors[:, kept] / values[kept].sqrt())


def mel_cepstra(log_mel: Float[Tensor, "m t"], count: int = CEPSTRA) -> Float[Tensor, "{count} t"]:
    """`c_d = 2/M sum_m log S_m cos(pi d (m + 1/2) / M)`, d = 1 ... count.

    The cosine series of the log spectrum, as of mel-generalised cepstra; the loudness c_0 is left out.
    """
    mels = log_mel.shape[0]
    d = torch.arange(1, count + 1, dtype=torch.float64, device=log_mel.device).unsqueeze(1)
    m = torch.arange(mels, dtype=torch.float64, device=log_mel.device)
    return (2.0 / mels) * (torch.cos(math.pi * d * (m + 0.5) / mels) @ log_mel.double())


def mel_cepstral_distance(a: Float[Tensor, "m t"], b: Float[Tensor, "m ..."]) -> float:
    """`10 / ln 10 sqrt(2 sum_d (c_d - c'_d)^2)` averaged over frames (Kubichek 1993), in dB, of two natural log-mels
    of the same frames. It is the root mean square difference over frequency of the smoothed spectra."""
    if a.shape != b.shape:
        raise UserError(
            f"mel-cepstral distance compares frame by frame, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    squared = (mel_cepstra(a) - mel_cepstra(b)).square().sum(0)
    return float(10.0 / math.log(10.0) * (2.0 * squared).sqrt().mean())


def texture(mels: Sequence[Tensor], real: Sequence[Tensor]) -> float:
    """Mean absolute difference of neighbouring frames and bins, over that of real mels: below 1 is blurred."""

    def roughness(some: Sequence[Tensor]) -> float:
        steps = [part.diff(dim=axis).abs().flatten() for part in some for axis in (0, 1)]
        return float(torch.cat(steps).mean())

    return roughness(mels) / roughness(real)


def bootstrap(
    mels: Sequence[Tensor],
    real_features: Float64[Tensor, "n k"],
    space: PatchSpace,
    counts: Int[Tensor, "r mels"],
) -> Resampled:
    """`frechet` of resamples of the mels; the patches of a mel go together."""
    rows = torch.tensor([max(0, (mel.shape[1] - PATCH) // STRIDE + 1) for mel in mels])
    owner = torch.repeat_interleave(torch.arange(len(mels)), rows)
    return resampled_frechet(space(mels), real_features, counts, owner)


def frechet(mels: Sequence[Tensor], real_features: Float64[Tensor, "n k"], space: PatchSpace) -> float:
    """Squared Fréchet distance between the patches of `mels` and those of real ones."""
    return frechet_distance(space(mels), real_features)
