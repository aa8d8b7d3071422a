"""`speech/enhancement`: a clean recording from a noisy one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import SUFFIXES, read_audio, scanned, subtype_of, write_audio
from omnidistill.modalities.speech.enhancement import data, metrics
from omnidistill.modalities.speech.enhancement.networks import EnhancementUNet
from omnidistill.modalities.speech.enhancement.render import render
from omnidistill.modalities.speech.enhancement.spectrogram import SGMSE, Spectrogram
from omnidistill.paths import GaussianPath
from omnidistill.paths.named import ouve
from omnidistill.samplers import Euler, Sampler
from omnidistill.tasks import Metric, Task

TEACHERS = FilePath(__file__).parent.parent / "teachers"


class Enhancement(Task):
    """Speech enhancement as SGMSE+ sets it up (Richter et al. 2023, arXiv:2208.05830).

    `x0: Float[b 2 256 t]` is the compressed complex spectrogram of the clean recording (`spectrogram.encode`), the
    anchor that of the noisy one, the path mean-reverting (OUVE) from one to the other. Both recordings are divided by
    the largest absolute value of the noisy one. Whole recordings are ragged (`mask: Bool[b 1 1 t]`), training sees
    crops of `frames` frames. `context.reference` is the clean spectrogram, for metrics and pictures alone.

    Primary is the Fréchet distance of log-mel patches: SI-SDR and PESQ favour the average of all clean recordings that
    fit, which a single step answers with.

    Args:
        network: keywords of `EnhancementUNet`.
        path: a Gaussian path with an anchor; SGMSE+'s OUVE by default.
        spectrogram: fields of `Spectrogram`: how waves become states here, and so for the recipes' rewards.
        frames: of a training crop, 8 ms each.
        snr: (low, high) in dB, of mixtures.
        folder: the user's pairs, `{train,valid,test}/{clean,noisy}`; None mixes prompts with music and noise.
        on_bad: `stop` at a pair that cannot be read, or `skip` it and say so.
        music: folder of tracks to mix with; None: where `omnidistill data fetch asterisk_moh` puts them.
        dnsmos: whether to ask DNSMOS; None: where its package is installed.
        sigma_data: of the clean spectrograms.
        sampler: of the teacher; None: `Euler` on the ODE. `PredictorCorrector` is SGMSE+'s.
    """

    title = "Speech enhancement, 16 kHz"
    primary = Metric("frechet", "lower")
    shown = ("pesq", "si_sdr", "estoi")
    data_hint = "`omnidistill data fetch asterisk_en` and `omnidistill data fetch asterisk_moh` get it"
    window = (512, 128)

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        path: GaussianPath | None = None,
        frames: int = 64,
        snr: Sequence[float] = (0.0, 10.0),
        folder: str | None = None,
        music: str | None = None,
        dnsmos: bool | None = None,
        sigma_data: float = 0.1,
        sampler: Sampler | None = None,
        teacher_steps: int = 30,
        spectrogram: Mapping[str, Any] | None = None,
        on_bad: str = "stop",
        name: str = "speech/enhancement",
    ) -> None:
        self.path = path or ouve()
        if "anchored" not in self.path.offers:
            raise UserError(f"{name} needs a path with an anchor, such as ouve; got {self.path}")
        if len(snr) != 2:
            raise UserError(f"snr is a range [low, high] in dB, got {list(snr)}")
        self.spectrogram = Spectrogram.of(spectrogram)
        self.name, self.shape = name, (2, self.spectrogram.bins, int(frames))
        self.teacher_steps, self.on_bad = int(teacher_steps), on_bad
        self.snr, self.folder, self.music = (float(snr[0]), float(snr[1])), folder, music
        self.dnsmos, self.sigma_data = dnsmos, float(sigma_data)
        self._network, self._sampler = dict(network or {}), sampler or Euler()

    # --- data -------------------------------------------------------------------------------------------------------

    def pairs(self, split: str) -> data.Pairs:
        """The recordings of `train` or `held_out`."""
        if self.folder is not None:
            return data.folders(split, self.folder, self.spectrogram, self.on_bad)
        return data.asterisk(split, self.snr, self.music, self.spectrogram)

    @cached_property
    def _train(self) -> data.Pairs:
        return self.pairs("train")

    @cached_property
    def _held_out(self) -> data.Pairs:
        return self.pairs("held_out")

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """`train`: crops, all of `frames` frames. `held_out`: whole recordings of the fixed list in random order, none
        twice until all had their turn."""
        if split == "train":
            return self.crops(self._train, count, g)
        total = len(self._held_out)
        rows = torch.cat([torch.randperm(total, generator=g) for _ in range(-(-count // total))])[:count]
        return ragged([normalised(*self._held_out[int(row)]) for row in rows], self.spectrogram)

    def crops(self, pairs: data.Pairs, count: int, g: torch.Generator) -> Batch:
        """Cut out of recordings, all of `frames` frames."""
        clean, noisy = pairs.crops(count, self.spectrogram.samples_of(self.shape[-1]), g)
        x0 = self.spectrogram.encode(clean)
        return Batch(x0, Context(anchor=self.spectrogram.encode(noisy), reference=x0))

    # --- network ----------------------------------------------------------------------------------------------------

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        network = EnhancementUNet(target_time=target_time, guidance=guidance, **self._network)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reading(self) -> Mapping[str, Any]:
        return {
            "parameterisation": "edm",
            "time_input": "t",
            "sigma_data": self.sigma_data,
            "unit_input": True,
        }

    def sampler(self) -> Sampler:
        return self._sampler

    def shipped_teacher(self) -> FilePath | None:
        return TEACHERS / self.name.split("/")[-1]

    # --- what comes out ---------------------------------------------------------------------------------------------

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Of the recordings, each over its own length, against their clean ones (`metrics.evaluate`)."""
        if context.reference is None:
            raise UserError(
                "cleaned recordings are judged against clean ones, and this context has no reference"
            )
        with torch.autocast(x0.device.type, enabled=False):
            estimates, clean = (waves(x, context.mask, self.spectrogram) for x in (x0, context.reference))
            return metrics.evaluate(estimates, clean, rate=self.spectrogram.rate, opinion=self.dnsmos)

    def baseline(self, context: Context) -> Tensor | None:
        """The noisy recordings as they came: a student that makes them worse shows beside them."""
        return context.anchor

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        assert context.reference is not None
        with torch.autocast(x0.device.type, enabled=False):
            made, clean = (waves(x, context.mask, self.spectrogram) for x in (x0, context.reference))
            return metrics.bootstrap(made, clean, counts, rate=self.spectrogram.rate)

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """What a perfect enhancer would score: the held-out clean recordings against themselves. Training crops are too
        short to be judged."""
        real = self.batch(count, g, "held_out")
        assert real.x0 is not None
        return self.measure(real.x0, real.context, g)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """Spectrograms of the first recordings as a picture, and those recordings as wav files."""
        return render(x0, context, target, self.spectrogram)

    def file_suffix(self) -> str:
        return ".wav"

    # --- the user's own recordings ------------------------------------------------------------------------------------

    def inputs(self, source: FilePath) -> Iterator[tuple[str, Context | UserError]]:
        """Each noisy recording of a file or a folder, its name without suffix, and its context: the anchor, and as
        reference the wave itself, Float[1 n], from which `write` takes length and loudness."""
        found, rate = scanned(FilePath(source)), self.spectrogram.rate
        if not found.files and not found.wrong:
            raise UserError(f"no audio file in {source}; known: {', '.join(sorted(SUFFIXES))}")
        for number, line in enumerate(found.wrong, 1):
            yield f"unreadable_{number}", UserError(line)
        for file in found.files:
            name = str(file.relative_to(found.folder).with_suffix(""))
            try:
                wave = read_audio(file, rate, shortest=self.spectrogram.shortest / rate)[0].unsqueeze(0)
                if not wave.any():
                    raise UserError(f"{file} is silent: every sample is 0")
            except UserError as error:
                yield name, error
                continue
            yield name, Context(anchor=self.spectrogram.encode(wave / wave.abs().max()), reference=wave)

    def write(self, x0: Tensor, context: Context, target: FilePath) -> FilePath:
        """The cleaned recording as a wav file, as long and as loud as the noisy one was read, with as many bits: 16,
        24, or 32 of floating point, which is also what a sample beyond full scale needs."""
        noisy = context.reference
        if noisy is None:
            raise UserError(
                "a cleaned recording takes length and loudness from the noisy one; the context has none"
            )
        wave = self.spectrogram.decode(x0.cpu(), None if context.mask is None else context.mask.cpu())[0]
        wave = F.pad(wave, (0, max(0, noisy.shape[-1] - len(wave))))[: noisy.shape[-1]]
        file = target.with_name(target.name + ".wav")
        loud = wave * noisy.abs().max().cpu()
        return write_audio(file, loud, self.spectrogram.rate, subtype_of(noisy))


def normalised(clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Both divided by the largest absolute value of the noisy one."""
    peak = noisy.abs().max().clamp_min(1e-8)
    return clean / peak, noisy / peak


def ragged(pairs: Sequence[tuple[Tensor, Tensor]], spectrogram: Spectrogram = SGMSE) -> Batch:
    """Recordings (clean, noisy) of several lengths as one batch, padded to the longest."""
    spectra = [spectrogram.encode(torch.stack(pair)) for pair in pairs]  # Float[2 2 bins t_i]
    longest = max(one.shape[-1] for one in spectra)
    mask = torch.stack([torch.arange(longest) < one.shape[-1] for one in spectra]).reshape(-1, 1, 1, longest)
    padded = torch.stack([F.pad(one, (0, longest - one.shape[-1])) for one in spectra])
    x0, anchor = padded.unbind(1)
    return Batch(x0, Context(anchor=anchor, reference=x0, mask=mask))


def waves(
    state: Tensor, mask: Bool[Tensor, "b 1 1 t"] | None, spectrogram: Spectrogram = SGMSE
) -> list[Tensor]:
    """The recordings of a batch, each of its own length, on the CPU."""
    state = state.detach().cpu()
    mask = None if mask is None else mask.cpu()
    decoded = spectrogram.decode(state, mask)
    frames = [state.shape[-1]] * len(state) if mask is None else mask.flatten(1).sum(1).tolist()
    return [wave[: spectrogram.samples_of(int(t))] for wave, t in zip(decoded, frames, strict=True)]
