"""The shipped teacher: it takes noise out of voices it never heard, more steps bring the texture of clean speech, and
long recordings have no seams."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import omnidistill
from omnidistill.configuration.instantiation import build
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.denoisers.windowed import Windowed
from omnidistill.modalities.speech.enhancement import metrics, noise
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram
from omnidistill.modalities.speech.enhancement.task import Enhancement
from omnidistill.random import generator
from omnidistill.runs.sample import sample_inputs
from omnidistill.samplers import FewStep
from omnidistill.student import read_denoiser, read_recipe, save

RATE, encode, decode = Spectrogram().rate, Spectrogram().encode, Spectrogram().decode


@pytest.fixture(scope="module")
def teacher() -> Denoiser:
    folder = Enhancement().shipped_teacher()
    task = build(read_recipe(folder, "teacher").task)
    return read_denoiser(folder, "teacher", task)[0]


def long_recording(voices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(clean, noisy), Float[1 n], 7 s, noisy peaking at 1."""
    clean = torch.cat(voices)
    noisy = noise.mix(clean, noise.coloured(len(clean), generator(0)), 5.0)
    return clean[None] / noisy.abs().max(), noisy[None] / noisy.abs().max()


def cleaned(denoiser: Denoiser, anchor: Tensor) -> Tensor:
    return FewStep().sample(denoiser, anchor, 1, Context(anchor=anchor), g=generator(1)).x0


def test_it_takes_noise_out_and_an_untrained_network_does_not(
    teacher: Denoiser, voices: list[Tensor]
) -> None:
    clean, noisy = long_recording(voices)
    anchor = encode(noisy)
    task = Enhancement(network={"channels": [16], "unshuffle": [8, 4]})
    torch.manual_seed(0)
    untrained = NetworkDenoiser(task.network(), teacher.path, **task.reading())
    before = float(metrics.si_sdr(noisy, clean))
    after, fresh = (
        float(metrics.si_sdr(decode(cleaned(d, anchor))[:, : clean.shape[1]], clean))
        for d in (teacher, untrained)
    )
    assert after > before + 2.0 > fresh


def test_windows_agree_with_the_whole_and_leave_no_seam(teacher: Denoiser, voices: list[Tensor]) -> None:
    """In windows of 256 frames with 64 in common, against the whole answered at once: the difference is small, and it
    changes no more from frame to frame at a border than elsewhere. Pieces that are merely put together fail this."""
    anchor = encode(long_recording(voices)[1])
    n = anchor.shape[-1]
    windowed = Windowed(teacher, 256, 64)
    whole, fused = cleaned(teacher, anchor), cleaned(windowed, anchor)
    assert float((whole - fused).square().mean().sqrt()) < 0.15 * float(whole.square().mean().sqrt())

    x = teacher.path.prior(anchor, Context(anchor=anchor), g=generator(1))
    with torch.no_grad():
        cut = [
            teacher(x[..., i : i + 192], 1.0, Context(anchor=anchor[..., i : i + 192])).parameters
            for i in range(0, n, 192)
        ]

    def seam(answer: Tensor, borders: list[int]) -> float:
        """Change of the difference at borders, between frames i - 1 and i, over that at all others."""
        change = (answer - whole).diff(dim=-1).square().mean((0, 1, 2)).sqrt()
        near = torch.zeros(n - 1, dtype=torch.bool)
        near[torch.tensor(borders) - 1] = True
        return float(change[near].mean() / change[~near].mean())

    starts = windowed._starts(n)
    borders = sorted({i for start in starts for i in (start, start + 256)} & set(range(1, n)))
    assert len(borders) >= 4
    assert seam(fused, borders) < 1.5 < seam(torch.cat(cut, dim=-1), list(range(192, n, 192)))


def test_a_folder_of_recordings_is_cleaned_by_the_command(voices: list[Tensor], tmp_path: Path) -> None:
    """`sample DIR input= out=`: the names, lengths and loudness of the recordings, one of them longer than a window;
    what cannot be read is named, and the rest is done."""
    shipped = Enhancement().shipped_teacher()
    recipe = read_recipe(shipped, "teacher")
    save(read_denoiser(shipped, "teacher", build(recipe.task))[0], recipe, tmp_path)
    _, noisy = long_recording(voices)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "long.wav", 0.3 * noisy[0].numpy(), RATE)
    soundfile.write(tmp_path / "in" / "sub" / "short.flac", 0.5 * noisy[0, :9001].numpy(), RATE)
    soundfile.write(tmp_path / "in" / "wrong.wav", noisy[0].numpy(), 44100)
    files, wrong = sample_inputs(tmp_path, tmp_path / "in", tmp_path / "out", 1)
    assert sorted(str(f.relative_to(tmp_path / "out")) for f in files) == ["long.wav", "sub/short.wav"]
    assert set(wrong) == {"wrong"} and "44100" in wrong["wrong"]
    for name, source, gain in (("long.wav", "long.wav", 0.3), ("sub/short.wav", "sub/short.flac", 0.5)):
        made, given = (
            soundfile.read(tmp_path / where / n)[0] for where, n in (("out", name), ("in", source))
        )
        assert len(made) == len(given)
        assert 0.3 * gain < np.abs(made).max() < 1.3 * gain
    assert omnidistill.load(tmp_path).task.name == "speech/enhancement"
