"""`audio/music`: clips of five music tracks, or of anybody's recordings, as log-mel spectrograms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.data.datasets import locate
from omnidistill.data.folder import label_name
from omnidistill.errors import UserError
from omnidistill.evaluation.distances import resampled_frechet
from omnidistill.modalities.audio import data, metrics, render
from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.audio.networks import DEFAULT, music_unet
from omnidistill.modalities.audio.requests import read_requests
from omnidistill.modalities.audio.signal import MelSignature, griffin_lim
from omnidistill.paths import GaussianPath, rectified_flow
from omnidistill.random import generator, uniform
from omnidistill.tasks import Metric, Task

TEACHERS = FilePath(__file__).parent / "teachers"
TRACKS = (
    "macroform-cold_day",
    "macroform-robot_dity",
    "macroform-the_simplicity",
    "manolo_camp-morning_coffee",
    "reno_project-system",
)
SIGNATURE = MelSignature(rate=16000, n_fft=1024, win=1024, hop=512, mels=64, fmin=0.0, fmax=8000.0)
LONGEST = 600.0  # seconds of a piece: a typing error should not fill the memory
REFERENCE = 1000  # clips that features are fitted to, and as many held-out ones that samples are held against


class Music(Task):
    """Log-mel clips `x0: Float[b 1 mels frames]` on a rectified flow, `(log mel - mean) / std`; the condition is the
    label, Long[b]: the track, or the subfolder of the user's own recordings.

    Metrics are taken in the texture statistics of `metrics.Texture`: Fréchet distance to held-out clips, accuracy of
    the label asked for by the nearest label's statistics, precision and recall.

    Args:
        network: keywords of `UNet`.
        teacher_steps: the teacher's full number of steps.
        signature: the fields of `MelSignature`, all of them; it is stored with teacher and student.
        frames: of a clip.
        shortest: frames; recordings shorter than a clip are padded and masked, those shorter than this are refused.
        mean, std: of the log-mels; constants, not measured, so that a student needs no data to be denormalised.
        folder: of recordings (wav, flac, ogg, mp3, g722, ...): a label is a subfolder, or a file where there are
            none. None: where `omnidistill data fetch asterisk_moh` put the five tracks.
        labels: the subfolders or files to use, in the order of their labels; None: the five tracks, or all in `folder`.
        resampled: bring recordings of another rate to the signature's; without it they are refused.
        on_bad: `stop` at a recording that cannot be read, or `skip` it and say so.
    """

    title = "Music, by track, as mel spectrograms"
    primary = Metric("frechet", "lower")
    conditional = True
    classes: int
    null: int
    data_hint = "`omnidistill data fetch asterisk_moh` gets it, or task.folder=DIR names your own recordings"

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        signature: Mapping[str, Any] | None = None,
        frames: int = 64,
        shortest: int = 32,
        mean: float = -4.05,
        std: float = 2.1,
        folder: str | None = None,
        labels: Sequence[str] | None = None,
        resampled: bool = False,
        path: GaussianPath | None = None,
        on_bad: str = "stop",
        name: str = "audio/music",
    ) -> None:
        if path is not None and "gaussian" not in path.offers:
            raise UserError(f"{name} needs a Gaussian path, got {path}")
        if not metrics.FRAMES <= shortest <= frames:
            raise UserError(
                f"{name} needs {metrics.FRAMES} <= shortest <= frames, got {shortest} and {frames}"
            )
        if std <= 0:
            raise UserError(f"{name} needs std > 0, got {std}")
        self.name, self.teacher_steps, self.path = name, int(teacher_steps), path or rectified_flow()
        self.signature = SIGNATURE if signature is None else MelSignature.of(signature)
        self.shape, self.shortest = (1, self.signature.mels, int(frames)), int(shortest)
        # Longer pieces are made in windows; a quarter of a clip is enough for neighbours to agree on a beat.
        self.window = (self.shape[-1], self.shape[-1] // 4)
        self.mean, self.std, self.folder, self.resampled = float(mean), float(std), folder, resampled
        if labels is None:
            labels = TRACKS if folder is None else data.labelled_files(folder)[0]
        self.labels, self.on_bad = tuple(label_name(str(label)) for label in labels), on_bad
        self.classes = self.null = len(self.labels)
        self._network = dict(network or DEFAULT)

    @cached_property
    def _clips(self) -> dict[str, data.Clips] | None:
        """Training and held-out clips, or None where the tracks are not on this machine."""
        folder = FilePath(self.folder) if self.folder is not None else self._fetched()
        if folder is None:
            return None
        files = data.labelled_files(folder, self.labels)[1]
        shortest = self.signature.samples(self.shortest) / self.signature.rate
        recordings = data.read_recordings(files, self.signature, shortest, self.resampled, self.on_bad)
        normal = [data.Recording((r.mel - self.mean) / self.std, r.label) for r in recordings]
        train, held_out = data.split(normal, self.shape[-1], self.signature.seconds)
        return {"train": train, "held_out": held_out}

    @staticmethod
    def _fetched() -> FilePath | None:
        try:
            return locate("asterisk_moh")
        except UserError:
            return None

    @cached_property
    def _texture(self) -> tuple[metrics.Texture, Tensor]:
        """The feature space, fitted to training clips, and the held-out clips' features; of each label as many."""
        if self._clips is None:
            raise UserError(f"{self.name} is judged against recordings that are not here; {self.data_hint}")
        each = max(2, REFERENCE // self.null)
        clips, mask, labels = self._clips["train"][self._clips["train"].spread(each, self.null)]
        texture = metrics.Texture(clips, mask, labels)
        clips, mask, _ = self._clips["held_out"][self._clips["held_out"].spread(each, self.null)]
        return texture, texture.features(clips, mask)

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Labels are drawn uniformly, then one of the label's clips: a long track counts no more than a short one."""
        labels = self._drawn(count, g)
        if self._clips is None:
            return Batch(None, Context(condition=labels), count)
        clips = self._clips["train" if split == "train" else "held_out"]
        x0, mask, _ = clips[clips.drawn(labels, g)]
        ragged = any(part.ragged for part in self._clips.values())
        return Batch(x0, Context(condition=labels, mask=mask if ragged else None))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Labels drawn uniformly."""
        return Context(condition=self._drawn(count, g))

    def _drawn(self, count: int, g: torch.Generator) -> Tensor:
        return (uniform(torch.empty(count), g) * self.null).long()

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return music_unet(self._network, self.null, target_time, guidance)

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "flow", "time_input": "t"}

    def shipped_teacher(self) -> FilePath | None:
        return TEACHERS / "music" if self.folder is None else None

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        labels = context.condition
        assert isinstance(labels, Tensor)
        texture, real = self._texture
        return metrics.evaluate(x0.detach().cpu().float(), context.mask, labels, texture, real)

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        texture, real = self._texture
        return resampled_frechet(texture.features(x0.detach().cpu().float(), context.mask), real, counts)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of the mels, one column a label, then wav files by Griffin-Lim."""
        labels = context.condition
        assert isinstance(labels, Tensor)
        mels, labels = x0.detach().cpu().float()[:, 0] * self.std + self.mean, labels.cpu()
        lengths = render.frames_of(context.mask, x0)
        span = (self.mean - 2.5 * self.std, self.mean + 2.5 * self.std)
        picture = target.with_name(target.name + ".png")
        drawn = render.picture(mels, lengths, labels, self.labels, span, picture)
        return [drawn, *render.sounds(mels, lengths, labels, self.labels, self.signature, target)]

    def like(self, count: int, device: torch.device | str = "cpu", context: Context = Context()) -> Tensor:
        """As long as the context's mask, where there is one."""
        frames = self.shape[-1] if context.mask is None else context.mask.shape[-1]
        return torch.empty((count, *self.shape[:-1], frames), device=device)

    def inputs(self, source: FilePath) -> Iterator[tuple[str, Context | UserError]]:
        """Pieces of any length, asked for in a table `name,label,seconds` (see `requests`)."""
        least = self.signature.samples(self.shortest) / self.signature.rate
        for name, asked in read_requests(source, self.labels):
            if isinstance(asked, UserError):
                yield name, asked
                continue
            label, seconds = asked
            if not least <= seconds <= LONGEST:
                yield name, UserError(f"a piece lasts {least:.3g} to {LONGEST:.0f} s, got {seconds}")
                continue
            frames = self.signature.frames(math.ceil(seconds * self.signature.rate))
            mask = torch.ones(1, 1, 1, frames, dtype=torch.bool)
            yield name, Context(condition=torch.tensor([label]), mask=mask)

    def write(self, x0: Tensor, context: Context, target: FilePath) -> FilePath:
        mel = x0[0, 0].detach().cpu().float() * self.std + self.mean
        wave = griffin_lim(mel, self.signature, g=generator("griffin-lim"))
        return write_audio(target.with_name(target.name + ".wav"), wave, self.signature.rate)

    def file_suffix(self) -> str:
        return ".wav"
