"""A made-up speaker: every letter has a sound of its own, words have gaps; recordings with known durations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.audio.signal import MelSignature
from omnidistill.modalities.speech.tts.front_end import FrontEnd
from omnidistill.modalities.speech.tts.text import encode

RATE = 16000
SIGNATURE = MelSignature(rate=RATE)
LETTERS = "aeioskmt"


@dataclass(frozen=True)
class Corpus:
    """A folder in LJSpeech's form, with the sentences and the frames of each symbol in their recordings."""

    folder: Path
    texts: list[str]
    durations: list[list[int]]


def sound(symbol: int, frames: int, g: torch.Generator) -> Tensor:
    """Harmonics under the letter's own two resonances, or noise for every other letter; silence for gaps."""
    count = frames * SIGNATURE.hop
    if symbol <= 3:
        return 0.001 * torch.randn(count, generator=g)
    hertz = torch.arange(1, 40) * 140.0 * (1 + 0.1 * float(torch.randn((), generator=g)))
    places = 300.0 + 211.0 * symbol, 1400.0 + (977.0 * symbol) % 4500.0
    loud = sum(torch.exp(-(((hertz - place) / 250.0) ** 2)) for place in places)
    phase = 2 * torch.pi * torch.rand(len(hertz), generator=g)
    time = torch.arange(count) / RATE
    wave = (loud[:, None] * torch.sin(2 * torch.pi * hertz[:, None] * time + phase[:, None])).sum(0)
    return 0.1 * wave + 0.01 * torch.randn(count, generator=g)


def spoken(text: str, g: torch.Generator) -> tuple[Tensor, list[int]]:
    """A recording of a sentence, and the frames of each of its symbols."""
    symbols = encode(text)
    lengths = torch.randint(4, 10, (len(symbols),), generator=g).tolist()
    return torch.cat([sound(s, n, g) for s, n in zip(symbols, lengths, strict=True)]), lengths


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("speaker")
    g = torch.Generator().manual_seed(0)
    texts, durations, rows = [], [], []
    for number in range(48):
        words = [
            "".join(LETTERS[int(i)] for i in torch.randperm(len(LETTERS), generator=g)[:3])
            for _ in range(1 + number % 4)
        ]
        wave, lengths = spoken(" ".join(words), g)
        write_audio(folder / "wavs" / f"s{number:02d}.wav", wave, RATE)
        texts.append(" ".join(words))
        durations.append(lengths)
        rows.append(f"s{number:02d}|{' '.join(words)}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return Corpus(folder, texts, durations)


@pytest.fixture(scope="session")
def front_end_file(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A front end of that speaker, trained for a few seconds."""
    from safetensors.torch import save_file

    from omnidistill.modalities.speech.tts import data

    utterances = data.load(data.listed(corpus.folder), SIGNATURE)
    values = torch.cat([u.mel.flatten() for u in utterances])
    network = {"mels": 80, "width": 48, "depth": 2}
    torch.manual_seed(0)
    front_end = FrontEnd(**network, mean=float(values.mean()), std=float(values.std()), dropout=0.0)
    symbols = torch.nn.utils.rnn.pad_sequence([torch.tensor(encode(u.text)) for u in utterances], True)
    mels = data.pad([(u.mel - values.mean()) / values.std() for u in utterances])[0].squeeze(1)
    frames = torch.tensor([u.mel.shape[1] for u in utterances])
    optimizer = torch.optim.Adam(front_end.parameters(), 5e-3)
    for _ in range(60):
        losses = front_end.losses(symbols, mels, frames)
        optimizer.zero_grad()
        (losses.prior + losses.duration).backward()
        optimizer.step()
    file = tmp_path_factory.mktemp("front_end") / "front_end.safetensors"
    save_file(front_end.state_dict(), file)
    file.with_suffix(".json").write_text(
        json.dumps({"network": network, "signature": SIGNATURE.as_dict()}), encoding="utf-8"
    )
    return file
