"""Cleaned recordings to look at and to listen to: spectrograms as one picture, and wav files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram

SHOWN, HEARD = 3, 2  # recordings in the picture and as files
DECIBELS = (-80.0, 0.0)  # of the picture, below the loudest place of the noisy recording
COLUMNS = ("noisy", "cleaned", "clean")


def render(
    x0: Tensor, context: Context, target: Path, spectrogram: Spectrogram, shown: int = SHOWN
) -> list[Path]:
    """Writes `target.png` of the first `shown` recordings, and two of them as `target_N_{noisy,cleaned,clean}.wav`,
    these of a recording with one gain, so that loudness compares.

    Raises:
        UserError: a sample is NaN, or there is no noisy recording to show beside it.
    """
    if context.anchor is None:
        raise UserError("a cleaned recording is shown beside the noisy one; the context has none")
    if not x0.isfinite().all():
        raise UserError("cannot draw samples with NaN or infinite values")
    states = {"noisy": context.anchor, "cleaned": x0}
    if context.reference is not None:
        states["clean"] = context.reference
    columns = {name: state.detach().cpu().float()[:shown] for name, state in states.items()}
    mask = None if context.mask is None else context.mask.cpu()[:shown]
    lengths = [x0.shape[-1]] * len(x0) if mask is None else mask.flatten(1).sum(1).tolist()
    target = Path(target)
    files = [_picture(columns, lengths[:shown], target.with_name(target.name + ".png"), spectrogram)]
    waves = {name: spectrogram.decode(state, mask)[:HEARD] for name, state in columns.items()}
    for index in range(min(HEARD, len(x0))):
        own = {
            name: wave[index, : spectrogram.samples_of(int(lengths[index]))] for name, wave in waves.items()
        }
        loudest = max(1.0, *(float(wave.abs().max()) for wave in own.values()))
        for name, wave in own.items():
            file = target.with_name(f"{target.name}_{index + 1}_{name}.wav")
            files.append(write_audio(file, wave / loudest, spectrogram.rate))
    return files


def _picture(columns: dict[str, Tensor], lengths: list[int], path: Path, spectrogram: Spectrogram) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(3.4 * len(columns), 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(columns), squeeze=False, sharey=True)
    for row in range(rows):
        length = int(lengths[row])
        loudest = float(columns["noisy"][row].square().sum(0).max())
        for axes, (name, state) in zip(grid[row], columns.items(), strict=True):
            # |z|^2 goes with |X|^(2 power), and |X|^2 is what decibels are of
            level = (
                10.0
                / spectrogram.power
                * torch.log10(state[row, ..., :length].square().sum(0) / loudest + 1e-9)
            )
            extent = (0.0, length * spectrogram.hop / spectrogram.rate, 0.0, spectrogram.rate / 2000)
            low, high = DECIBELS
            axes.imshow(
                level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma"
            )
            if row == 0:
                axes.set_title(name, fontsize=9)
            if row == rows - 1:
                axes.set_xlabel("s", fontsize=8)
            axes.tick_params(labelsize=7)
        grid[row][0].set_ylabel("kHz", fontsize=8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
