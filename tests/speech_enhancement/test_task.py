"""The task as a recipe meets it: conformance, ragged batches, files in and out, long recordings without seams."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.windowed import Windowed
from omnidistill.errors import UserError
from omnidistill.modalities.speech.enhancement.networks import EnhancementUNet
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram
from omnidistill.modalities.speech.enhancement.task import Enhancement, normalised, ragged, waves
from omnidistill.paths import rectified_flow
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.samplers.predictor_corrector import PredictorCorrector
from omnidistill.testing import check_task

DEFAULT = Spectrogram()
RATE, HOP = DEFAULT.rate, DEFAULT.hop
encode, samples_of = DEFAULT.encode, DEFAULT.samples_of


def test_conformance(task: Enhancement) -> None:
    check_task(task, count=8)


def test_held_out_recordings_come_once_each_and_whole(task: Enhancement) -> None:
    batch = task.batch(8, generator(0), "held_out")
    assert batch.x0 is not None and batch.context.mask is not None
    lengths = batch.context.mask.flatten(1).sum(1).tolist()
    assert len(set(lengths)) > 1 and max(lengths) == batch.x0.shape[-1]
    pairs = [normalised(*task.pairs("held_out")[i]) for i in range(8)]
    found = waves(batch.context.anchor, batch.context.mask)
    for _, noisy in pairs:
        assert any(len(w) >= len(noisy) and torch.allclose(w[: len(noisy)], noisy, atol=1e-4) for w in found)


def test_the_noisy_recording_peaks_at_1(task: Enhancement) -> None:
    batch = task.batch(8, generator(0), "held_out")
    peaks = torch.stack([w.abs().max() for w in waves(batch.context.anchor, batch.context.mask)])
    torch.testing.assert_close(peaks, torch.ones(8), atol=1e-3, rtol=0)


def test_metrics_of_the_clean_are_best_and_padding_does_not_count(task: Enhancement) -> None:
    batch = task.batch(8, generator(0), "held_out")
    clean, noisy = (task.measure(x, batch.context, generator(1)) for x in (batch.x0, batch.context.anchor))
    assert clean["frechet"] < 0.01 < noisy["frechet"] and clean["si_sdr"] > 60 > 12 > noisy["si_sdr"]
    rubbish = torch.where(batch.context.mask, batch.context.anchor, 3.0)
    assert task.measure(rubbish, batch.context, generator(1)) == pytest.approx(noisy, rel=1e-5)


def test_a_path_without_anchor_is_refused() -> None:
    with pytest.raises(UserError, match="anchor"):
        Enhancement(path=rectified_flow())


def test_render_shows_and_plays_noisy_cleaned_and_clean(task: Enhancement, tmp_path: Path) -> None:
    batch = task.batch(2, generator(0), "held_out")
    files = task.render(batch.context.anchor, batch.context, tmp_path / "samples")
    assert files[0].name == "samples.png"
    heard = {f.name: soundfile.read(f) for f in files[1:]}
    assert set(heard) == {f"samples_{i}_{kind}.wav" for i in (1, 2) for kind in ("noisy", "cleaned", "clean")}
    for i in (1, 2):
        sizes = {len(heard[f"samples_{i}_{kind}.wav"][0]) for kind in ("noisy", "cleaned", "clean")}
        assert len(sizes) == 1 and heard[f"samples_{i}_noisy.wav"][1] == RATE
        np.testing.assert_array_equal(
            heard[f"samples_{i}_noisy.wav"][0], heard[f"samples_{i}_cleaned.wav"][0]
        )


def test_the_users_folders_make_a_task(folders: Path) -> None:
    task = Enhancement(
        network={"channels": [16], "unshuffle": [8, 4]}, frames=32, folder=str(folders), dnsmos=False
    )
    assert task.batch(4, generator(0)).x0.shape == (4, 2, 256, 32)
    held = task.batch(3, generator(0), "held_out")
    assert held.x0.shape[0] == 3 and held.context.mask is not None


# --- recordings in and out --------------------------------------------------------------------------------------------


def write(path: Path, wave: Tensor, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.numpy(), rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def test_a_recording_that_nothing_is_done_to_comes_back_as_it_was(
    task: Enhancement, voices: list[Tensor], tmp_path: Path
) -> None:
    """Loudness, length and name: `decode(encode(wave))` written as if it were the cleaned recording."""
    for name, wave in (("quiet", 0.02 * voices[0]), ("sub/odd", voices[1][:12345])):
        write(tmp_path / "in" / f"{name}.wav", wave)
        write(tmp_path / "in" / f"{name}2.flac", wave)
    seen = set()
    for name, context in task.inputs(tmp_path / "in"):
        assert isinstance(context, Context) and context.anchor is not None
        file = task.write(context.anchor, context, tmp_path / "out" / name)
        back, rate = soundfile.read(file, dtype="float32")
        source = next((tmp_path / "in").glob(f"{name}.*"))
        wave = soundfile.read(source, dtype="float32")[0]
        assert rate == RATE and len(back) == len(wave)
        np.testing.assert_allclose(back, wave, atol=2e-4)
        seen.add(str(file.relative_to(tmp_path / "out")))
    assert seen == {"quiet.wav", "quiet2.wav", "sub/odd.wav", "sub/odd2.wav"}


def test_what_is_wrong_with_a_recording_is_said_and_the_others_go_on(
    task: Enhancement, voices: list[Tensor], tmp_path: Path
) -> None:
    write(tmp_path / "fine.wav", voices[0])
    write(tmp_path / "rate.wav", voices[0], 8000)
    write(tmp_path / "short.wav", voices[0][:200])
    write(tmp_path / "silent.wav", torch.zeros(8000))
    write(tmp_path / "nan.wav", torch.full((8000,), float("nan")))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF....")
    found = dict(task.inputs(tmp_path))
    assert isinstance(found.pop("fine"), Context)
    says = {
        "rate": "8000",
        "short": "lasts",
        "silent": "silent",
        "nan": "NaN",
        "empty": "empty",
        "corrupt": "damaged",
    }
    for name, word in says.items():
        error = found.pop(name)
        assert isinstance(error, UserError) and word in str(error) and "\n" not in str(error)
    assert not found


# --- long recordings --------------------------------------------------------------------------------------------------


class Gate(torch.nn.Module):
    """A local "enhancer" for tests of windows: x0 = anchor, smoothed over three frames, plus what its time says."""

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.nn.functional.avg_pool2d(anchor, (1, 3), 1, (0, 1), count_include_pad=False) * (1 + t[0])


def test_windows_of_a_local_network_equal_the_whole(task: Enhancement, voices: list[Tensor]) -> None:
    anchor = encode(torch.cat(voices)[None])
    context = Context(anchor=anchor)
    whole = NetworkDenoiser(Gate(), task.path, "x0")
    windowed = Windowed(whole, 128, 32)
    for steps in (1, 3):
        a, b = (FewStep().sample(d, anchor, steps, context, g=generator(0)).x0 for d in (whole, windowed))
        assert anchor.shape[-1] > 3 * 128
        # A window's own first and last frame are smoothed with fewer neighbours; the ramp gives them 1/32.
        torch.testing.assert_close(a, b, atol=0.05 * float(a.abs().max()), rtol=0)
        assert float((a - b).abs().mean()) < 1e-3 * float(a.abs().mean())


# --- a student --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_little_training_brings_the_recording_nearer_and_none_does_not(task: Enhancement) -> None:
    """Distance of the one-step answer to the clean spectrogram, as a share of the noisy recording's distance."""
    torch.manual_seed(0)
    network = EnhancementUNet(channels=(32, 32), unshuffle=(8, 2))
    denoiser = NetworkDenoiser(network, task.path, **task.reading())
    held = task.batch(8, generator(1), "held_out")

    def score() -> float:
        with torch.no_grad():
            x = FewStep().sample(denoiser, held.x0, 1, held.context, g=generator(2)).x0
        return float((x - held.x0).square().sum() / (held.context.anchor - held.x0).square().sum())

    untrained = score()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for update in range(60):
        batch, g = task.batch(4, generator(3, update)), generator(4, update)
        t = torch.ones(4, dtype=torch.float64)
        x = task.path.corrupt(batch.x0, t, batch.context, g=g)
        error = (denoiser(x, t, batch.context).parameters - batch.x0).square().mean((1, 2, 3))
        optimizer.zero_grad()
        (denoiser.output_weight(t).float() * error).mean().backward()
        optimizer.step()
    assert untrained > 1.0
    assert score() < 0.9


def test_the_predictor_corrector_draws_nothing_for_padding(task: Enhancement) -> None:
    """The same sample whatever the padding, though twice as many numbers fit into the batch."""
    anchor = encode(torch.randn(1, 4000, generator=generator(0)))
    t = anchor.shape[-1]
    wide = torch.nn.functional.pad(anchor, (0, t))
    mask = (torch.arange(2 * t) < t).reshape(1, 1, 1, -1)
    denoiser, sampler = NetworkDenoiser(Gate(), task.path, "x0"), PredictorCorrector()
    short = sampler.sample(denoiser, anchor, 3, Context(anchor=anchor), g=generator(1)).x0
    long = sampler.sample(denoiser, wide, 3, Context(anchor=wide, mask=mask), g=generator(1)).x0
    # The smoothing network itself sees zeros beyond the last frame.
    torch.testing.assert_close(long[..., : t - 2], short[..., : t - 2], atol=1e-5, rtol=1e-4)


def test_inputs_and_outputs_of_a_student(task: Enhancement, voices: list[Tensor], tmp_path: Path) -> None:
    """A stand-in student that answers with the anchor: what `sample input=` does for each file."""
    write(tmp_path / "a.wav", 0.1 * voices[0])
    student = SimpleNamespace(sample=lambda context: context.anchor)
    for name, context in task.inputs(tmp_path / "a.wav"):
        file = task.write(student.sample(context), context, tmp_path / "out" / name)
    assert file.name == "a.wav" and abs(float(np.abs(soundfile.read(file)[0]).max()) - 0.05) < 1e-3


def test_ragged_pads_to_the_longest() -> None:
    pairs = [(torch.randn(n), torch.randn(n)) for n in (2000, 3000)]
    batch = ragged(pairs)
    assert batch.x0.shape[-1] == 1 + -(-3000 // HOP) and samples_of(batch.x0.shape[-1]) >= 3000
    assert batch.context.mask.flatten(1).sum(1).tolist() == [17, 25]
    assert not batch.x0[0, ..., 17:].any()
