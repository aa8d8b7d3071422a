"""`audio/own` for a teacher of latents, Float[b c l]: Stable Audio and its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path as FilePath

import torch
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.data import captions
from omnidistill.data.folder import read_each
from omnidistill.errors import UserError
from omnidistill.foreign import Foreign
from omnidistill.interop.states import States
from omnidistill.modalities.audio import data
from omnidistill.modalities.audio.codec import WaveLatents
from omnidistill.modalities.audio.files import audio_files, read_audio, resample, write_audio
from omnidistill.modalities.audio.render import HEARD
from omnidistill.random import uniform
from omnidistill.rows import Rows
from omnidistill.tasks import Encoding
from omnidistill.training.cache_format import header_of


class OwnLatents(Rows):
    """Latents of recordings, made as they are drawn, or rows of a cache.

    A clip is as long as the teacher's samples and begins at any latent; recordings that are shorter are filled up with
    silence. Labels are drawn uniformly, as `Music` does.

    Args:
        folder: recordings, a subfolder is a label where the teacher knows any; or a cache.
        autoencoder: folder of an AutoencoderOobleck; without one samples are written as latents.
        resampled: bring recordings of another rate to the autoencoder's; without it they are refused.
        foreign, classes, labels, teacher_steps, on_bad: as `Rows` has them.
    """

    data_hint = "task.folder=DIR names your recordings"
    encoder_hint = "task.autoencoder=DIR names the one that it was made by"

    def __init__(
        self,
        folder: str | None = None,
        foreign: Foreign | None = None,
        classes: int | None = None,
        labels: Sequence[str] | None = None,
        autoencoder: str | None = None,
        resampled: bool = False,
        teacher_steps: int = 32,
        on_bad: str = "stop",
        name: str = "audio/own",
    ) -> None:
        self.codec = None if autoencoder is None else WaveLatents(autoencoder)
        self.resampled = resampled
        if labels is None and classes and folder is not None and header_of(folder) is None:
            labels = data.labelled_files(folder)[0]
        super().__init__(folder, foreign, classes, labels, teacher_steps, on_bad, name)
        if self.codec is not None and self.shape[0] != self.codec.latents:
            raise UserError(
                f"{autoencoder} makes latents of {self.codec.latents} channels, the teacher {self.shape}"
            )

    def check_folder(self) -> None:
        if self.codec is None:
            super().check_folder()

    @cached_property
    def _recordings(self) -> tuple[dict[str, data.Clips], list[str] | None]:
        """Clips of both splits as frames of `hop` samples, Float[channels*hop n] each, and captions of the recordings,
        where they have any."""
        assert self.codec is not None and self.folder is not None
        codec, folder = self.codec, FilePath(self.folder)
        files = data.labelled_files(folder, self.labels)[1] if self.classes else [audio_files(folder)]

        def read(item: tuple[int, FilePath]) -> tuple[data.Recording, FilePath]:
            label, file = item
            rate = None if self.resampled else codec.rate
            mono = codec.channels == 1
            wave, found = read_audio(file, rate, mono=mono, shortest=codec.hop / codec.rate)
            wave = resample(wave, found, codec.rate)
            wave = (wave[None] if mono else wave[: codec.channels]).expand(codec.channels, -1)
            frames = wave.unfold(1, codec.hop, codec.hop).transpose(1, 2).flatten(0, 1)
            return data.Recording(frames.contiguous(), label), file

        every = [(label, file) for label, of_label in enumerate(files) for file in of_label]
        found = [kept for _, kept in read_each(every, read, self.on_bad, what="recordings")]
        train, held_out = data.split(
            [recording for recording, _ in found], self.shape[-1], codec.hop / codec.rate
        )
        return {"train": train, "held_out": held_out}, captions.beside([file for _, file in found])

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if not self.with_data or self._header is not None:
            return super().batch(count, g, split)
        assert self.codec is not None
        parts, words = self._recordings
        clips = parts[split]
        labels = (uniform(torch.empty(count), g) * (self.classes or 1)).long()
        rows = clips.drawn(labels, g)
        frames = clips[rows][0][:, 0].unflatten(1, (self.codec.channels, self.codec.hop))
        x0 = self.codec.encode(frames.transpose(2, 3).flatten(2))
        drawn = Batch(x0, Context(labels if self.conditional else None))
        if words is None:
            return drawn
        said = [words[number] for number in clips.recordings(rows).tolist()]
        return replace(drawn, extra={captions.KEY: captions.points(said)})

    def encoder(self, source: FilePath) -> Encoding:
        """The text encoder of a pipeline, which reads captions, NAME.txt beside NAME.wav, else the names of labels;
        samples are the task's own latents."""
        if self.codec is None:
            return super().encoder(source)
        states = States(source, self.shape)

        def encode(batch: Batch) -> Batch:
            labels = batch.context.condition
            if captions.KEY in batch.extra:
                words = captions.texts(batch.extra[captions.KEY])
            elif isinstance(labels, Tensor):
                words = [self.labels[number] for number in labels.tolist()]
            else:
                raise UserError(f"no recording has a caption (NAME.txt beside NAME.wav) for {source} to read")
            return Batch(batch.x0, batch.context.with_condition(states(words)))

        return Encoding(encode, self.codec.digest, states.digest, states.null())

    def encoder_digest(self) -> str:
        return super().encoder_digest() if self.codec is None else self.codec.digest

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of the latents, then what they sound like; without an autoencoder the latents themselves."""
        made = super().render(x0, context, target)
        if self.codec is None:
            return made
        waves = self.codec.decode(x0[:HEARD].detach().cpu())
        names = (target.with_name(f"{target.name}-{number:02d}.wav") for number in range(len(waves)))
        return [
            made[0],
            *(write_audio(name, wave, self.codec.rate) for name, wave in zip(names, waves, strict=True)),
        ]

    def file_suffix(self) -> str:
        return super().file_suffix() if self.codec is None else ".wav"
