"""Music as log-mel clips with a label: recordings from a folder, split in time without a leak, cut at any frame.

A label is a subfolder, or a file where the recordings lie side by side: five tracks are five conditions. Held out is

- of a label with at least `MANY` recordings each fifth recording, whole;
- of the others a stretch of each recording in turn with training stretches, at least one clip apart on both sides,
  so that no held-out clip shares a sample with a training clip, nor borders on one. (A held-out track would be a
  condition that no teacher has heard of.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omnidistill.data.folder import label_name, natural, read_each
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import audio_files, read_audio, resample
from omnidistill.modalities.audio.signal import MelSignature, log_mel
from omnidistill.random import uniform
from omnidistill.shapes import Labels

MANY = 5  # recordings of a label, from which on whole ones are held out
PERIOD, HELD_OUT = 30.0, 6.0  # seconds: of one round of training and held-out stretch, and of the latter


class Recording(NamedTuple):
    """label: its place in the list of labels."""

    mel: Float[Tensor, "mels frames"]
    label: int


class Clips:
    """All clips of one split that begin at any frame, as a view of the recordings: `clips[rows]` cuts some out.

    Args:
        recordings: what the stretches refer to.
        stretches: (recording, first frame, last frame + 1). One shorter than a clip gives one clip, which is padded.
        clip: frames.
    """

    def __init__(
        self, recordings: Sequence[Recording], stretches: Sequence[tuple[int, int, int]], clip: int
    ) -> None:
        self.clip = clip
        self._recordings = recordings
        starts = [
            (recordings[r].label, r, start, min(clip, end - start))
            for r, first, end in stretches
            for start in range(first, max(first, end - clip) + 1)
        ]
        # By label, so that the clips of a label are one run of rows.
        self._rows = torch.tensor(sorted(starts), dtype=torch.long).reshape(-1, 4)
        self.ragged = bool((self._rows[:, 3] < clip).any())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(
        self, rows: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b 1 mels clip"], Bool[Tensor, "b 1 1 clip"], Labels]:
        """Clips, zero where padded; the mask; labels."""
        chosen = self._rows[rows]
        mels = self._recordings[0].mel.shape[0]
        clips = torch.zeros(len(rows), 1, mels, self.clip)
        for clip, (_, recording, start, length) in zip(clips, chosen.tolist(), strict=True):
            clip[0, :, :length] = self._recordings[recording].mel[:, start : start + length]
        mask = torch.arange(self.clip) < chosen[:, 3:]
        return clips, mask[:, None, None], chosen[:, 0]

    def recordings(self, rows: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The number of the recording that each is cut out of."""
        return self._rows[rows, 1]

    def drawn(self, labels: Labels, g: torch.Generator) -> Int[Tensor, "b"]:
        """Rows: for each label one of its clips, uniformly."""
        first = torch.searchsorted(self._rows[:, 0].contiguous(), labels)
        end = torch.searchsorted(self._rows[:, 0].contiguous(), labels, right=True)
        if (first == end).any():
            raise UserError(f"no clip has the label {int(labels[(first == end)][0])}")
        return first + (uniform(torch.empty(len(labels)), g) * (end - first)).long()

    def spread(self, each: int, classes: int) -> Int[Tensor, "{each}*{classes}"]:
        """Rows, evenly spaced within each label (repeated where a label has fewer clips)."""
        first = torch.searchsorted(self._rows[:, 0].contiguous(), torch.arange(classes + 1))
        parts = [
            torch.linspace(float(a), float(b - 1), each, dtype=torch.float64).round().long()
            for a, b in pairwise(first.tolist())
        ]
        return torch.cat(parts)


def labelled_files(
    folder: str | Path, labels: Sequence[str] | None = None
) -> tuple[list[str], list[list[Path]]]:
    """The labels of a folder in natural order, and the files of each. Names are compared in composed Unicode.

    Args:
        labels: the ones wanted, in this order; None takes all.

    Raises:
        UserError: there is no audio, files and subfolders with audio lie side by side, or a label is not there.
    """
    folder = Path(folder)
    found: dict[str, list[Path]] = {}
    files = audio_files(folder)
    direct = [file for file in files if file.parent == folder]
    if direct and len(direct) < len(files):
        raise UserError(
            f"{folder} holds recordings both side by side and in subfolders; a label is either a file or a subfolder"
        )
    for file in files:
        name = label_name(file.stem if direct else file.relative_to(folder).parts[0])
        found.setdefault(name, []).append(file)
    chosen = sorted(found, key=natural) if labels is None else [label_name(str(name)) for name in labels]
    missing = [name for name in chosen if name not in found]
    if missing:
        known = ", ".join(sorted(found, key=natural)[:10])
        raise UserError(f"{folder} has no recordings of '{missing[0]}'; it has {known}")
    return chosen, [found[name] for name in chosen]


def read_recordings(
    files: Sequence[Sequence[Path]],
    signature: MelSignature,
    shortest: float,
    resampled: bool = False,
    on_bad: str = "stop",
) -> list[Recording]:
    """The log-mels of each label's files.

    Args:
        shortest: seconds; a shorter recording is refused.
        resampled: bring recordings of another rate to the signature's; without it they are refused.
        on_bad: `stop` at a recording that cannot be read, or `skip` it and say so.
    """

    def read(item: tuple[int, Path]) -> Recording:
        label, file = item
        wave, rate = read_audio(file, None if resampled else signature.rate, shortest=shortest)
        return Recording(log_mel(resample(wave, rate, signature.rate), signature), label)

    every = [(label, file) for label, of_label in enumerate(files) for file in of_label]
    return [recording for _, recording in read_each(every, read, on_bad, what="recordings")]


def split(recordings: Sequence[Recording], clip: int, seconds: float) -> tuple[Clips, Clips]:
    """Training and held-out clips, as described at the top of this module.

    Args:
        clip: frames of a clip.
        seconds: of a frame.

    Raises:
        UserError: a label has too little to be split.
    """
    # Of clips that are long beside these, rounds are longer.
    period, held = max(round(PERIOD / seconds), 6 * clip), max(round(HELD_OUT / seconds), clip)
    train: list[tuple[int, int, int]] = []
    held_out: list[tuple[int, int, int]] = []
    for label in sorted({recording.label for recording in recordings}):
        own = [number for number, recording in enumerate(recordings) if recording.label == label]
        if len(own) >= MANY:
            for place, number in enumerate(own):
                target = held_out if place % MANY == MANY - 1 else train
                target.append((number, 0, recordings[number].mel.shape[1]))
            continue
        pieces = [
            (number, *piece)
            for number in own
            for piece in stretches(recordings[number].mel.shape[1], clip, period, held)
        ]
        if not any(in_training for _, in_training, _, _ in pieces) or all(piece[1] for piece in pieces):
            least = (period - held + clip) * seconds
            raise UserError(
                f"label {label} has too little music to hold some of it out: {MANY} recordings, or one of {least:.0f} s"
            )
        train += [(n, a, b) for n, in_training, a, b in pieces if in_training]
        held_out += [(n, a, b) for n, in_training, a, b in pieces if not in_training]
    return Clips(recordings, train, clip), Clips(recordings, held_out, clip)


def stretches(frames: int, clip: int, period: int, held: int) -> Iterator[tuple[bool, int, int]]:
    """(in training?, first frame, last frame + 1) of one recording: training, a clip's gap, held out, a clip's gap."""
    training = period - held - 2 * clip
    for start in range(0, frames, period):
        for in_training, first, length in ((True, start, training), (False, start + training + clip, held)):
            end = min(first + length, frames)
            if end - first >= clip:
                yield in_training, first, end
