"""Small recordings made on the fly: a voice-like sum of harmonics in bursts, and noise. No downloads."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnidistill.modalities.speech.enhancement.data import Mixtures
from omnidistill.modalities.speech.enhancement.task import Enhancement
from omnidistill.random import generator

RATE = 16000


def voice(seconds: float, seed: int) -> Tensor:
    """A glottal pulse train of changing pitch through two formants, on and off three times a second."""
    g = generator(seed, "voice")
    n = int(seconds * RATE)
    time = torch.arange(n) / RATE
    pitch = 110.0 + 90.0 * torch.rand((), generator=g) + 25.0 * torch.sin(2 * torch.pi * 2.3 * time + seed)
    phase = 2 * torch.pi * torch.cumsum(pitch / RATE, 0)
    formants = 500.0 + 1500.0 * torch.rand(2, generator=g)
    wave = torch.zeros(n)
    for harmonic in range(1, 25):
        f = harmonic * pitch
        gain = sum(torch.exp(-(((f - centre) / 300.0) ** 2)) for centre in formants) + 0.05
        wave = wave + gain / harmonic**0.5 * torch.sin(harmonic * phase)
    bursts = (torch.sin(2 * torch.pi * 3.0 * time + 6.0 * torch.rand((), generator=g)) > -0.3).float()
    smooth = torch.nn.functional.avg_pool1d(bursts[None], 321, 1, 160)[0]
    wave = wave * smooth
    return 0.5 * wave / wave.abs().max()


def track(seconds: float, seed: int) -> Tensor:
    """Chords that change twice a second."""
    g = generator(seed, "track")
    parts = []
    for _ in range(int(2 * seconds)):
        time = torch.arange(RATE // 2) / RATE
        notes = 220.0 * 2.0 ** (torch.randint(24, (4,), generator=g) / 12.0)
        parts.append(torch.sin(2 * torch.pi * notes[:, None] * time).sum(0) / 8.0)
    return torch.cat(parts)


TINY = {"channels": [16, 32], "unshuffle": [8, 4]}


class Small(Enhancement):
    """The task on voices made here instead of the prompts."""

    def pairs(self, split: str) -> Mixtures:
        start = 0 if split == "train" else 100
        speech = [voice(0.9 + 0.1 * (i % 4), start + i) for i in range(8)]
        return Mixtures(speech, [track(4.0, start)], self.snr)


@pytest.fixture(scope="session")
def task() -> Small:
    return Small(network=TINY, frames=32, dnsmos=False, teacher_steps=4)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """{train,test}/{clean,noisy} with three pairs each."""
    import soundfile

    for part, start in (("train", 0), ("test", 10)):
        mixtures = Mixtures([voice(0.6 + 0.1 * i, start + i) for i in range(3)], [track(3.0, start)])
        for index in range(3):
            for kind, wave in zip(("clean", "noisy"), mixtures[index], strict=True):
                (tmp_path / part / kind).mkdir(parents=True, exist_ok=True)
                scaled = wave / max(1.0, float(wave.abs().max()))
                soundfile.write(tmp_path / part / kind / f"p{index}.wav", scaled.numpy(), RATE)
    return tmp_path


@pytest.fixture(scope="session")
def voices() -> list[Tensor]:
    """Six voices of 1 to 1.5 s."""
    return [voice(1.0 + 0.1 * i, 200 + i) for i in range(6)]


@pytest.fixture(scope="session")
def tracks() -> list[Tensor]:
    return [track(3.0, 300), track(5.0, 301)]
