"""Made-up music: three "tracks" that differ as tracks do, and folders of short recordings of unequal length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnidistill.modalities.audio.files import write_audio

RATE = 16000
SCALES = {"bass": (110.0, 131.0, 165.0), "bells": (1047.0, 1319.0, 2093.0), "hiss": ()}


def music(style: str, seconds: float, seed: int) -> torch.Tensor:
    """Decaying notes at random times: low ones, high ones, or bursts of noise; over a faint ground of noise."""
    g = torch.Generator().manual_seed(seed)
    count = int(seconds * RATE)
    wave = 0.003 * torch.randn(count, generator=g)
    time = torch.arange(RATE // 2) / RATE
    for start in range(0, count - len(time), RATE // 8):
        if torch.rand((), generator=g) < 0.4:
            continue
        loud = 0.1 + 0.2 * torch.rand((), generator=g)
        if SCALES[style]:
            hertz = SCALES[style][int(torch.randint(3, (), generator=g))]
            note = sum(torch.sin(2 * torch.pi * hertz * k * time) / k for k in (1, 2, 3))
        else:
            note = torch.randn(len(time), generator=g)
        wave[start : start + len(time)] += loud * note * torch.exp(-6.0 * time)
    return wave


@pytest.fixture(scope="session")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of 40 s side by side: each file a label."""
    folder = tmp_path_factory.mktemp("tracks")
    for seed, style in enumerate(SCALES):
        write_audio(folder / f"{style}.wav", music(style, 40.0, seed), RATE)
    return folder


@pytest.fixture(scope="session")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of 1.2 to 3 s in each of two subfolders: each folder a label, some shorter than a clip."""
    folder = tmp_path_factory.mktemp("snippets")
    for style in ("bass", "hiss"):
        for number in range(10):
            write_audio(folder / style / f"{number}.flac", music(style, 1.2 + 0.2 * number, number), RATE)
    return folder
