"""Pairs of a clean and a noisy recording at 16 kHz: mixed from prompts and music, or the user's own folders.

Both kinds answer the same two questions: `crops` for training, and `[i]` for a whole recording of the fixed list.

`Mixtures`: speech by file (`prompts.split`: prompts with the same words or a shared name are never divided), music by
track: `HELD_OUT_TRACKS`, one of them by a musician of whom nothing is trained on. Training mixes afresh each time;
the held-out list has one mixture for each prompt, the same on every machine.

`Folders`: `{train,valid,test}/{clean,noisy}` with equal file names, as VoiceBank-DEMAND is used by SGMSE+; trained on
`train`, judged on `test` (on `valid` where there is no `test`). The folders are the split, so keeping speakers apart
is up to whoever made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omnidistill.data.datasets import locate
from omnidistill.data.folder import read_each
from omnidistill.data.lines import folded
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import audio_files, read_audio
from omnidistill.modalities.speech import prompts
from omnidistill.modalities.speech.enhancement import noise
from omnidistill.modalities.speech.enhancement.spectrogram import SGMSE, Spectrogram
from omnidistill.random import generator

MUSIC = "asterisk_moh"
RATE = 16000  # Hz, of prompts and music
HELD_OUT_TRACKS = ("manolo_camp-morning_coffee", "macroform-the_simplicity")
JUDGED_SECONDS = (
    1.0,
    6.0,
)  # of held-out prompts: PESQ wants speech to compare, a long one slows the whole batch
MIXED_SECONDS = 2.0  # of a recording are mixed to cut a crop from: enough to know its loudness


class Pairs(Protocol):
    """Recordings, each clean and noisy: whole for judging, cut for training."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """(clean, noisy): a whole recording, as loud as it was made."""
        ...

    def crops(
        self, count: int, samples: int, g: torch.Generator
    ) -> tuple[Float[Tensor, "count samples"], Float[Tensor, "count samples"]]:
        """(clean, noisy), cut at random places and divided by the noisy recording's
        largest absolute value, which is 1 over the whole of it."""
        ...


class Mixtures:
    """Speech + noise at an SNR drawn uniformly from `snr`, in decibels over the whole recording.

    Args:
        speech: recordings.
        tracks: music; may be empty.
        seed: of the fixed list; recording i is mixed with the draw number i.
    """

    def __init__(
        self,
        speech: Sequence[Tensor],
        tracks: Sequence[Tensor],
        snr: tuple[float, float] = (0.0, 10.0),
        seed: int = 0,
    ) -> None:
        if not speech:
            raise UserError("there is no speech to mix noise with")
        low, high = snr
        if low > high:
            raise UserError(f"snr is a range (low, high) in decibels, got ({low:g}, {high:g})")
        self.speech, self.snr, self.seed = list(speech), (low, high), seed
        self.tracks = [track / noise.level(track) for track in tracks]
        self._lengths = torch.tensor([len(wave) for wave in speech], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.speech)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._mixed(self.speech[index], generator(self.seed, "speech/enhancement", index))

    def _mixed(self, clean: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        snr = self.snr[0] + (self.snr[1] - self.snr[0]) * float(torch.rand((), generator=g))
        return clean, noise.mix(clean, noise.draw(self.tracks, len(clean), g), snr)

    def crops(self, count: int, samples: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        # By length, so that each instant of speech is as likely as any other.
        rows = torch.multinomial(self._lengths, count, replacement=True, generator=g)
        longest = int(MIXED_SECONDS * RATE)
        pairs = [self._mixed(_part(self.speech[int(row)], longest, g), g) for row in rows]
        return _cut(pairs, samples, g)


class Folders:
    """The user's own pairs: files of the same name below `clean/` and `noisy/`, read when they are asked for.

    Args:
        spectrogram: says the rate, and how short a recording may be.
        on_bad: `stop` at a bad pair, or `skip`: all pairs are read at once, and the bad ones named and left out.

    Raises:
        UserError: a folder is missing, names differ, a pair has two lengths, a file has another rate.
    """

    def __init__(self, folder: str | Path, spectrogram: Spectrogram = SGMSE, on_bad: str = "stop") -> None:
        folder, self.spectrogram = Path(folder), spectrogram
        clean, noisy = (
            {_name(f, folder / kind): f for f in audio_files(folder / kind)} for kind in ("clean", "noisy")
        )
        lonely = sorted(set(clean) ^ set(noisy))
        if lonely:
            kind = "noisy" if lonely[0] in clean else "clean"
            raise UserError(
                f"{len(lonely)} of the recordings in {folder} have no partner: {kind}/ lacks '{lonely[0]}'; "
                "pairs have the same name in clean/ and noisy/"
            )
        self.pairs = [(clean[name], noisy[name]) for name in sorted(clean)]
        self._read = lru_cache(maxsize=1024)(self._pair)
        if on_bad != "stop":
            whole = read_each(range(len(self.pairs)), self._pair, on_bad, what="pairs")
            self.pairs = [self.pairs[index] for index, _ in whole]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._read(index)

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        files = self.pairs[index]
        rate = self.spectrogram.rate
        clean, noisy = (
            read_audio(file, rate, shortest=self.spectrogram.shortest / rate)[0] for file in files
        )
        if len(clean) != len(noisy):
            raise UserError(
                f"{files[0]} has {len(clean)} samples and its noisy partner {len(noisy)}; a pair has the same length"
            )
        for wave, file in ((clean, files[0]), (noisy, files[1])):
            if not wave.any():
                raise UserError(f"{file} is silent: every sample is 0")
        return clean, noisy

    def crops(self, count: int, samples: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self), (count,), generator=g)
        return _cut([self[int(row)] for row in rows], samples, g)


def asterisk(
    split: str,
    snr: tuple[float, float],
    folder: str | Path | None = None,
    spectrogram: Spectrogram = SGMSE,
) -> Mixtures:
    """Prompts with music on hold and coloured noise. Held out: the prompts of 1 to 4 s among those of
    `prompts.split`."""
    if spectrogram.rate != RATE:
        raise UserError(
            f"prompts and music are at {RATE} Hz, the spectrogram at {spectrogram.rate} Hz; give your own pairs, "
            "task.folder=DIR"
        )
    train, held = prompts.split(prompts.prompts())
    chosen = train if split == "train" else held
    speech = [read_audio(prompt.path, RATE)[0] for prompt in chosen]
    low, high = (spectrogram.shortest / RATE, float("inf")) if split == "train" else JUDGED_SECONDS
    speech = [wave for wave in speech if low <= len(wave) / RATE <= high]
    tracks = [
        read_audio(file, RATE)[0]
        for file in audio_files(locate(MUSIC) if folder is None else folder)
        if (file.stem in HELD_OUT_TRACKS) == (split != "train")
    ]
    return Mixtures(speech, tracks, snr)


def folders(split: str, root: str | Path, spectrogram: Spectrogram = SGMSE, on_bad: str = "stop") -> Folders:
    """The user's pairs: `train`, or for held_out `test` where it is there, else `valid`."""
    root = Path(root)
    names = ("train",) if split == "train" else ("test", "valid")
    there = [root / name for name in names if (root / name).is_dir()]
    if not there:
        raise UserError(
            f"{root} has no {' or '.join(names)}/; expected {{train,valid,test}}/{{clean,noisy}} with equal file names"
        )
    return Folders(there[0], spectrogram, on_bad)


def _part(wave: Tensor, longest: int, g: torch.Generator) -> Tensor:
    spare = len(wave) - longest
    if spare <= 0:
        return wave
    start = int(torch.randint(spare + 1, (), generator=g))
    return wave[start : start + longest]


def _name(file: Path, folder: Path) -> str:
    return folded(str(file.relative_to(folder).with_suffix("")))


def _cut(pairs: Sequence[tuple[Tensor, Tensor]], samples: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """One window of each pair, at the same place in both; a short recording lies somewhere in silence."""
    cut: list[Tensor] = []
    for clean, noisy in pairs:
        both = torch.stack((clean, noisy)) / noisy.abs().max().clamp_min(1e-8)
        spare = both.shape[1] - samples
        place = int(torch.randint(abs(spare) + 1, (), generator=g))
        cut.append(both[:, place : place + samples] if spare >= 0 else F.pad(both, (place, -spare - place)))
    stacked = torch.stack(cut)
    return stacked[:, 0], stacked[:, 1]
