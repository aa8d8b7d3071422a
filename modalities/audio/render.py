"""Music clips as one picture of their mels, a column a label, and as wav files by Griffin-Lim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.audio.signal import MelSignature, griffin_lim
from omnidistill.random import generator

HEARD = (
    32  # samples of which each gets a wav; of more, the first two of each label do: a page should still open
)
ROWS = 6


def picture(
    mels: Float[Tensor, "n mels frames"],
    lengths: Int[Tensor, "n"],
    labels: Int[Tensor, "n"],
    names: Sequence[str],
    span: tuple[float, float],
    path: Path,
) -> Path:
    """A png of log-mels: time to the right, low bands below, one column a label, at most 6 rows.

    Args:
        lengths: frames that are real.
        names: of the labels.
        span: log-mels that are drawn black and white; the same in every picture, so that levels compare.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not mels.isfinite().all():
        raise UserError("cannot draw clips with NaN or infinite values")
    present = sorted(set(labels.tolist()))
    rows = min(ROWS, max(int((labels == label).sum()) for label in present))
    figure = Figure(figsize=(1.9 * len(present), 1.5 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, len(present), squeeze=False)
    low, high = span
    for column, label in enumerate(present):
        own = (labels == label).nonzero()[:, 0].tolist()
        axes[0, column].set_title(names[label], fontsize=8)
        for row in range(rows):
            axis = axes[row, column]
            axis.axis("off")
            if row < len(own):
                mel = mels[own[row], :, : int(lengths[own[row]])]
                axis.imshow(
                    mel.numpy(), origin="lower", aspect="auto", cmap=colormaps["magma"], vmin=low, vmax=high
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=64)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def sounds(
    mels: Tensor, lengths: Tensor, labels: Tensor, names: Sequence[str], signature: MelSignature, target: Path
) -> list[Path]:
    """`TARGET-00-NAME.wav` ... by Griffin-Lim, with phases from a fixed seed: one mel always sounds the same."""
    chosen = list(range(len(mels)))
    if len(chosen) > HEARD:
        order = [(labels[:i] == labels[i]).sum() for i in chosen]
        chosen = [i for i in chosen if order[i] < 2]
    files = []
    for i in chosen:
        wave = griffin_lim(mels[i, :, : int(lengths[i])], signature, g=generator("griffin-lim"))
        name = f"{target.name}-{i:02d}-{names[int(labels[i])]}.wav"
        files.append(write_audio(target.with_name(name), wave, signature.rate))
    return files


def frames_of(
    mask: Bool[Tensor, "b 1 1 frames"] | None, x0: Float[Tensor, "b 1 mels frames"]
) -> Int[Tensor, "b"]:
    """How many frames of each clip are real."""
    if mask is None:
        return torch.full((len(x0),), x0.shape[-1])
    return mask.flatten(1).sum(1).cpu()
