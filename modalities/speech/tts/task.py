"""The task `speech/tts`: log-mels of sentences, from the mean that a front end reads off the text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.data.datasets import locate
from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import MelSignature
from omnidistill.modalities.speech.tts import data, front_end, metrics, paths, render
from omnidistill.modalities.speech.tts.corpus import Corpus, aligned
from omnidistill.modalities.speech.tts.networks import decoder
from omnidistill.modalities.speech.tts.recognition import chosen, word_error_rate
from omnidistill.modalities.speech.tts.sentences import sentences
from omnidistill.tasks import Metric, Task

HERE = FilePath(__file__).parent
FRONT_END = HERE / "assets" / "front_end.safetensors"
TEACHER = HERE.parent / "teachers" / "tts"
PICTURES, SOUNDS = 8, 3  # of a rendered page
RECOGNISED = 40  # sentences a measurement


class TextToSpeech(Task):
    """`speech/tts`: x0 is a normalised log-mel, Float[b 1 mels t], 16 ms a frame; the anchor is mu, the mean that the
    text predicts, on which the Grad-TTS path ends (Popov et al. 2021). The front end that makes mu is frozen.

    Training batches are crops of the recordings laid end to end, every frame as likely as any other. Held-out batches
    are whole sentences, ragged, drawn without repetition while there are enough; mu follows the recording's own
    durations, so that a sample and `context.reference`, the true mel, have the same frames. The split is by transcript
    (`data.held_out`). The user's sentences (`inputs`) are spoken with predicted durations.

    Metrics: `frechet` of mel patches (the floor is training patches against the held-out ones: other sentences),
    `mcd` in dB against the recording, `texture`, and with a `recogniser` the word error rate of the first 40 sentences
    after Griffin-Lim. `audio_seconds` is the mean length of a sample; seconds_per_sample over it is the real-time
    factor.

    Args:
        corpus: see `data`; the fetched prompts if not given.
        front_end: of `benchmarks/tts_front_end.py`; the shipped one if not given. It decides the mel's signature.
        network: keywords of `UNet`.
        crop: frames of a training crop.
        path: `grad_tts`, `flow` or `comospeech`, see `paths`. The shipped teacher is for `grad_tts`.
        temperature: share of the prior's noise that sampling starts from.
        recogniser: `whisper` or `pocketsphinx`, packages to install; `auto` is whisper where it is installed; None
            leaves the word error rate out.
        slowness: stretches predicted durations.
    """

    title = "English sentences, log-mels from text"
    primary = Metric("frechet", "lower")
    data_hint = "`omnidistill data fetch asterisk_en` gets it"

    def __init__(
        self,
        corpus: str | None = None,
        front_end: str | None = None,
        network: Mapping[str, Any] | None = None,
        crop: int = 128,
        path: str = "grad_tts",
        temperature: float = 1.0,
        teacher_steps: int = 32,
        recogniser: str | None = None,
        slowness: float = 1.0,
        name: str = "speech/tts",
    ) -> None:
        if crop < metrics.PATCH or slowness <= 0:
            raise UserError(
                f"crop is at least {metrics.PATCH} and slowness above 0, got {crop} and {slowness}"
            )
        self.name, self.teacher_steps = name, int(teacher_steps)
        self.path, self._path_name = paths.named(path, temperature), path
        self._corpus, self._network = corpus, dict(network or {})
        self._front_end_file = FRONT_END if front_end is None else FilePath(front_end)
        self._recogniser, self._slowness, self._crop = chosen(recogniser), float(slowness), int(crop)

    # --- front end and data -----------------------------------------------------------------------------------------

    @cached_property
    def signature(self) -> MelSignature:
        """How mels are made; it travels with the front end."""
        try:
            record = json.loads(self._front_end_file.with_suffix(".json").read_text(encoding="utf-8"))
            return MelSignature.of(record["signature"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"cannot read the mel signature beside {self._front_end_file}: {error}"
            ) from error

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of a training crop; sentences are as long as they are."""
        return (1, self.signature.mels, self._crop)

    @cached_property
    def front_end(self) -> front_end.FrontEnd:
        """Text encoder, durations and the mean and deviation of log-mels, read on first use."""
        return front_end.load(self._front_end_file)

    @cached_property
    def corpus(self) -> Corpus:
        """Both splits, aligned once; a UserError names the command that fetches them."""
        listed = data.listed(self._corpus if self._corpus is not None else locate("asterisk_en"))
        return aligned(listed, self.signature, self.front_end, self._crop)

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if split == "train":
            return self.corpus.crops(count, self._crop, g)
        return self.corpus.sentences(count, g)

    # --- network ----------------------------------------------------------------------------------------------------

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return decoder(self._network, target_time=target_time, guidance=guidance)

    def reading(self) -> Mapping[str, Any]:
        return paths.READINGS[self._path_name]

    def shipped_teacher(self) -> FilePath | None:
        return TEACHER if self._path_name == "grad_tts" else None

    # --- judging ----------------------------------------------------------------------------------------------------

    @cached_property
    def _space(self) -> metrics.PatchSpace:
        return metrics.patch_space([a.mel for a in self.corpus.train])

    @cached_property
    def _real_features(self) -> Tensor:
        return self._space([a.mel for a in self.corpus.held_out])

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against all held-out recordings; frame by frame where the context has its reference."""
        made = _cut(x0, context)
        real = [a.mel for a in self.corpus.held_out]
        found = {
            "frechet": metrics.frechet(made, self._real_features, self._space),
            "texture": metrics.texture(made, real),
        }
        if context.reference is not None:
            true = _cut(context.reference, context)
            pairs = [
                (self.front_end.log_mel(a), self.front_end.log_mel(b))
                for a, b in zip(made, true, strict=True)
            ]
            found["mcd"] = sum(metrics.mel_cepstral_distance(*pair) for pair in pairs) / len(pairs)
            if self._recogniser:
                found["word_error_rate"] = self._word_errors(made, [self.corpus.text(mel) for mel in true])
        found["audio_seconds"] = sum(mel.shape[1] for mel in made) / len(made) * self.signature.seconds
        return found

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        return metrics.bootstrap(_cut(x0, context), self._real_features, self._space, counts)

    def _word_errors(self, mels: list[Tensor], texts: list[str]) -> float:
        assert self._recogniser is not None
        waves = [render.sound(self.front_end.log_mel(mel), self.signature) for mel in mels[:RECOGNISED]]
        return word_error_rate(texts[:RECOGNISED], waves, self.signature.rate, self._recogniser)

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Training utterances, as many as are judged and no longer than they, against the held-out ones; the word
        error rate is that of held-out recordings."""
        longest = max(a.mel.shape[1] for a in self.corpus.held_out)
        short = [a.mel for a in self.corpus.train if a.mel.shape[1] <= longest]
        mels, mask = data.pad([short[i] for i in torch.randperm(len(short), generator=g)[:count].tolist()])
        found = self.measure(mels, Context(mask=mask), g)
        if self._recogniser:
            spoken = self.corpus.held_out[:RECOGNISED]
            found["word_error_rate"] = self._word_errors([a.mel for a in spoken], [a.text for a in spoken])
        return found

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of the first mels, and the first of them as sound."""
        mels = [self.front_end.log_mel(mel) for mel in _cut(x0[:PICTURES], context[:PICTURES])]
        files = [render.picture(mels, target.with_name(target.name + ".png"))]
        for number, mel in enumerate(mels[:SOUNDS]):
            name = target.name + (f"_{number}" if number else "") + ".wav"
            files.append(render.write_sound(mel, self.signature, target.with_name(name)))
        return files

    def file_suffix(self) -> str:
        return ".wav"

    # --- the user's sentences ---------------------------------------------------------------------------------------

    def inputs(self, source: FilePath) -> Iterable[tuple[str, Context | UserError]]:
        """Sentences, one a line of a text file or `{"text": ..., "id": ...}` a line of a jsonl file."""
        for name, text in sentences(source):
            try:
                if isinstance(text, UserError):
                    raise text
                mu = self.front_end.spoken(text, self._slowness)
            except UserError as error:
                yield name, error
                continue
            means, mask = data.pad([mu])
            yield name, Context(anchor=means, mask=mask)

    def write(self, x0: Tensor, context: Context, target: FilePath) -> FilePath:
        (mel,) = _cut(x0, context)
        return render.write_sound(
            self.front_end.log_mel(mel), self.signature, target.with_name(target.name + ".wav")
        )


def _cut(x0: Float[Tensor, "b 1 m t"], context: Context) -> list[Tensor]:
    """The mels of a batch, padding left out, on the CPU."""
    mels = x0.detach().cpu().float().squeeze(1)
    if context.mask is None:
        return list(mels)
    frames = context.mask.cpu().reshape(len(mels), -1).sum(1).tolist()
    return [mel[:, :n] for mel, n in zip(mels, frames, strict=True)]
