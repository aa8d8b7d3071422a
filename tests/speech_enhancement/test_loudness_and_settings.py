"""Cleaned recordings keep bits and loudness; one set of spectrogram settings serves task, pictures and rewards."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from omnidistill.configuration.compose import build, compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.speech.enhancement import metrics
from omnidistill.modalities.speech.enhancement.rewards import LogMel, SiSdr
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram
from omnidistill.modalities.speech.enhancement.task import Enhancement
from omnidistill.random import generator

OTHER = {"rate": 48000, "n_fft": 1534, "hop": 384, "scale": 0.065, "power": 0.667}


@pytest.mark.parametrize(
    ("subtype", "gain"), [("PCM_16", 1.0), ("PCM_24", 1.0), ("FLOAT", 1.0), ("FLOAT", 4.0)]
)
def test_as_many_bits_and_as_loud(
    task: Enhancement, voices: list[Tensor], tmp_path: Path, subtype: str, gain: float
) -> None:
    (tmp_path / "in").mkdir()
    wave = gain * voices[0].numpy()
    soundfile.write(tmp_path / "in" / "a.wav", wave, 16000, subtype=subtype)
    ((name, context),) = task.inputs(tmp_path / "in")
    assert isinstance(context, Context)
    file = task.write(context.anchor, context, tmp_path / "out" / name)
    assert soundfile.info(file).subtype == subtype
    np.testing.assert_allclose(soundfile.read(file)[0], wave, atol=2e-4 * gain)


def test_an_overshoot_is_neither_scaled_nor_clipped(
    task: Enhancement, voices: list[Tensor], tmp_path: Path
) -> None:
    noisy = voices[0][None] / voices[0].abs().max()
    state = task.spectrogram.encode(1.5 * noisy)
    file = task.write(state, Context(reference=(noisy * 32767).round() / 32768), tmp_path / "a")
    assert abs(float(np.abs(soundfile.read(file)[0]).max()) - 1.5) < 1e-3


def test_a_rendered_triple_has_one_gain(task: Enhancement, tmp_path: Path) -> None:
    batch = task.batch(1, generator(0), "held_out")
    louder = Context(
        anchor=batch.context.anchor, mask=batch.context.mask, reference=2.0 * batch.context.anchor
    )
    task.render(batch.context.anchor, louder, tmp_path / "s")
    noisy, clean = (
        np.abs(soundfile.read(tmp_path / f"s_1_{kind}.wav")[0]).max() for kind in ("noisy", "clean")
    )
    assert clean == pytest.approx(4.0 * noisy, rel=1e-3), "half of a power of two: four times the wave"


def test_the_noisy_input_is_the_baseline(task: Enhancement) -> None:
    batch = task.batch(4, generator(0), "held_out")
    assert task.baseline(batch.context) is batch.context.anchor
    noisy = task.measure(task.baseline(batch.context), batch.context, generator(0))
    clean = task.measure(batch.x0, batch.context, generator(0))
    assert noisy["si_sdr"] < clean["si_sdr"] and noisy["frechet"] > clean["frechet"]
    assert set(task.shown) >= {"pesq"}


def test_rewards_hear_what_the_settings_say(voices: list[Tensor]) -> None:
    """With another teacher's settings the rewards are those of its waves, and not of ours."""
    spectrogram = Spectrogram.of(OTHER)
    clean = torch.stack([voice[:14000] for voice in voices[:2]])
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=generator(0))
    x, s = spectrogram.encode(noisy), spectrogram.encode(clean)
    torch.testing.assert_close(spectrogram.decode(x)[:, :14000], noisy, atol=1e-4, rtol=0)
    ratio = metrics.si_sdr(noisy, clean)
    torch.testing.assert_close(SiSdr(spectrogram=OTHER)(x, s, Context()), ratio, atol=0.05, rtol=0)
    with pytest.raises(UserError, match="n_fft=510"):
        SiSdr()(x, s, Context())
    squeezed = {"power": 0.8}
    half = Spectrogram.of(squeezed)
    told = SiSdr(spectrogram=squeezed)(half.encode(noisy), half.encode(clean), Context())
    torch.testing.assert_close(told, ratio, atol=0.05, rtol=0)
    assert LogMel(spectrogram=OTHER).signatures[0].rate == 48000


@pytest.mark.parametrize("recipe", ["rose-cd", "rose-cd-teacher"])
def test_the_recipes_take_the_tasks_settings(recipe: str) -> None:
    chosen = [f"recipe={recipe}", "task=speech/enhancement", "out=x"]
    cfg = compose("config", [*chosen, "task.spectrogram={power: 0.8, hop: 100}"])
    task = build(cfg.task)
    rewards = build(cfg.families.reward).rewards.rewards
    assert task.spectrogram == Spectrogram(power=0.8, hop=100)
    assert {reward.spectrogram for reward in rewards.values()} == {task.spectrogram}
    plain = build(compose("config", chosen).families.reward).rewards.rewards
    assert {reward.spectrogram for reward in plain.values()} == {Spectrogram()}


def test_impossible_settings_are_refused() -> None:
    for values, says in (
        ({"hop": 400}, "hop"),
        ({"fft": 3}, "n_fft"),
        ({"power": 0.0}, "power"),
        ({"rate": "fast"}, "rate"),
    ):
        with pytest.raises(UserError, match=says):
            Spectrogram.of(values)
    with pytest.raises(UserError, match="16000 Hz, the spectrogram at 48000"):
        Enhancement(spectrogram=OTHER).pairs("train")
