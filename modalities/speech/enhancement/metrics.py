"""Judging cleaned recordings: SI-SDR, PESQ, ESTOI and DNSMOS of each, and one Fréchet distance of all of them.

The first three compare with the clean recording and so favour the average of all answers that fit, which is what a
teacher gives in one step. The Fréchet distance of log-mel patches sees whether the answers, taken together, have the
texture of clean speech; DNSMOS is a network trained on listeners' opinions.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import frechet_distance, resampled_frechet
from omnidistill.modalities.audio.files import resample
from omnidistill.modalities.audio.signal import MelSignature, log_mel
from omnidistill.shapes import Resampled

RATE = 16000  # Hz: of wide-band PESQ, of DNSMOS, and so of all that is judged
BEST_SDR = 100.0  # dB; a perfect answer's is infinite
PATCH = 4  # frames of 16 ms
SIGNATURE = MelSignature(
    rate=RATE, n_fft=512, win=512, hop=256, mels=40, fmax=8000.0, norm="none", power=2.0, floor=1e-1
)
"""Of waves of mean square 1, whose bands have a mean power of some hundreds: the floor is about 40 dB below speech."""
DNSMOS_RECORDINGS = 16  # half a second each
DNSMOS_FIGURES = {"dnsmos_ovrl": "ovrl_mos", "dnsmos_sig": "sig_mos", "dnsmos_bak": "bak_mos"}


def si_sdr(estimate: Float[Tensor, "*some n"], clean: Float[Tensor, "*some n"]) -> Float[Tensor, "*some"]:
    """Scale-invariant signal-to-distortion ratio in decibels, of waves.

    `10 log10(|a s|^2 / |a s - x|^2)`, `a = <x, s> / |s|^2`, both without their means (Le Roux et al. 2019, eq. 4).
    """
    x = estimate - estimate.mean(-1, keepdim=True)
    s = clean - clean.mean(-1, keepdim=True)
    eps = 1e-10  # of unit-scale waves; only silence is as small
    target = (x * s).sum(-1, keepdim=True) / (s.square().sum(-1, keepdim=True) + eps) * s
    ratio = (target.square().sum(-1) + eps) / ((target - x).square().sum(-1) + eps)
    return 10.0 * torch.log10(ratio)


def pesq(estimate: Tensor, clean: Tensor) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), 1.04 to 4.64; None where it finds no speech to compare."""
    if not estimate.any():
        return None
    from pesq import NoUtterancesError, PesqError
    from pesq import pesq as score

    try:
        return float(score(RATE, clean.numpy(), estimate.numpy(), "wb"))
    except (NoUtterancesError, PesqError):
        return None


def estoi(estimate: Tensor, clean: Tensor) -> float:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), up to 1."""
    from pystoi import stoi

    with warnings.catch_warnings():  # of recordings with less than 0.4 s of speech, which score 0
        warnings.simplefilter("ignore")
        return float(stoi(clean.numpy(), estimate.numpy(), RATE, extended=True))


def installed(package: str) -> bool:
    """`pesq` needs a C compiler to install and `speechmos` brings networks along: both are extras."""
    return importlib.util.find_spec(package) is not None


def dnsmos(estimate: Tensor) -> dict[str, float]:
    """Overall, signal and background opinion scores, 1 to 5 (Reddy et al. 2022, DNSMOS P.835)."""
    from speechmos import dnsmos as network

    peak = float(estimate.abs().max())
    found = network.run((estimate / max(peak, 1e-8) * min(peak, 0.99)).numpy(), sr=RATE)
    return {name: float(found[key]) for name, key in DNSMOS_FIGURES.items()}


def log_mel_patches(wave: Float[Tensor, "n"]) -> Float[Tensor, "patches numbers"]:
    """Rows of `PATCH` successive frames of the log-mel spectrogram of a wave brought to mean square 1."""
    wave = wave / wave.square().mean().sqrt().clamp_min(1e-8)
    mel = log_mel(wave, SIGNATURE).T  # Float[frames 40]
    usable = len(mel) // PATCH * PATCH
    return mel[:usable].reshape(-1, PATCH * mel.shape[1])


def bootstrap(
    estimates: Sequence[Tensor], clean: Sequence[Tensor], counts: Int[Tensor, "r pairs"], *, rate: int = RATE
) -> Resampled:
    """`frechet` of resamples of the pairs; the patches of a recording go together."""
    patches, owners = [], []
    for waves in (estimates, clean):
        found = [log_mel_patches(resample(wave, rate, RATE)) for wave in waves]
        patches.append(torch.cat(found))
        owners.append(torch.repeat_interleave(torch.arange(len(found)), torch.tensor([*map(len, found)])))
    return resampled_frechet(patches[0], patches[1], counts, owners[0], owners[1])


def evaluate(
    estimates: Sequence[Tensor], clean: Sequence[Tensor], *, rate: int = RATE, opinion: bool | None = None
) -> dict[str, float]:
    """All metrics of recordings against their clean ones.

    Args:
        rate: of the recordings; SI-SDR is taken at it, everything else at 16 kHz.
        opinion: whether to compute DNSMOS, of the first 16 recordings; None: where `speechmos` is installed.

    Returns:
        `frechet` (lower is better: squared distance between the log-mel patches of all estimates and of all clean
        recordings), `si_sdr` in dB (at most 100), `estoi`; where they are installed `pesq`, `dnsmos_*`, and
        `pesq_failed`: recordings in which PESQ finds no speech, left out of its mean.

    Raises:
        UserError: an estimate holds NaN.
    """
    bad = sum(not bool(wave.isfinite().all()) for wave in estimates)
    if bad:
        raise UserError(f"{bad} of {len(estimates)} cleaned recordings hold NaN or infinite samples")
    distortion = _mean([min(BEST_SDR, float(si_sdr(x, s))) for x, s in zip(estimates, clean, strict=True)])
    estimates, clean = ([resample(wave, rate, RATE) for wave in waves] for waves in (estimates, clean))
    pairs = list(zip(estimates, clean, strict=True))
    figures = {
        "frechet": frechet_distance(
            *(torch.cat([log_mel_patches(w) for w in waves]) for waves in (estimates, clean))
        ),
        "si_sdr": distortion,
        "estoi": _mean([estoi(x, s) for x, s in pairs]),
    }
    if installed("pesq"):
        scores = [pesq(x, s) for x, s in pairs]
        heard = [score for score in scores if score is not None]
        figures["pesq"] = _mean(heard) if heard else 1.0
        figures["pesq_failed"] = float(len(scores) - len(heard))
    if installed("speechmos") if opinion is None else opinion:
        opinions = [dnsmos(x) for x in estimates[:DNSMOS_RECORDINGS]]
        figures |= {name: _mean([one[name] for one in opinions]) for name in DNSMOS_FIGURES}
    return figures


def _mean(values: Sequence[float]) -> float:
    # The order of recordings must not show in the last bit.
    return sum(sorted(values)) / len(values)
