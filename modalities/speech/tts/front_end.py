"""The front end: text to the mean of its log-mel frames, and how long each symbol lasts.

As in Grad-TTS (Popov et al. 2021, arXiv:2105.06337, sec. 3.2) an encoder gives every symbol one mel vector and one
log-duration; the vectors, repeated over their durations, are the mean mu that the diffusion starts from and returns to.
The encoder is convolutional: letters and phonemes sound by their neighbours. It is trained once and frozen, as in
CoMoSpeech, where only the decoder is distilled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.aligner import durations, spread
from omnidistill.modalities.speech.tts.lexicon import cmudict
from omnidistill.modalities.speech.tts.text import SYMBOLS, encode

LONGEST = 60  # frames of one symbol when durations are predicted: about a second


class Read(NamedTuple):
    """What the encoder says of a batch of sentences: one mean and one log-duration a symbol."""

    means: Float[Tensor, "b m n"]
    log_durations: Float[Tensor, "b n"]


@dataclass(frozen=True)
class Losses:
    """`prior`: half the mean squared error of the aligned means; `duration`: of the log-durations."""

    prior: Tensor
    duration: Tensor


class FrontEnd(nn.Module):
    """Symbols -> `Read`. Mel values are the task's normalised ones.

    Args:
        mels: bins of a frame.
        width, depth: channels and residual convolutions of the encoder.
        dropout: while training.
        phonemes: whether it reads words as CMUdict pronounces them, or as they are spelled.
        mean, std: of the log-mel values of the training data, stored with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mels: int = 80,
        width: int = 128,
        depth: int = 5,
        dropout: float = 0.1,
        phonemes: bool = False,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.lexicon = cmudict() if phonemes else None
        self.embedding = nn.Embedding(len(SYMBOLS), width, padding_idx=0)
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(depth))
        self.means = nn.Conv1d(width, mels, 1)
        self.duration_layers = nn.ModuleList(Layer(width, dropout, kernel=3) for _ in range(2))
        self.log_durations = nn.Conv1d(width, 1, 1)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, symbols: Int[Tensor, "b n"]) -> Read:
        """symbols: 0 where a sentence is shorter than the longest."""
        real = (symbols > 0).unsqueeze(1)
        h = self.embedding(symbols).transpose(1, 2)
        for layer in self.layers:
            h = layer(h, real)
        # The durations' error must not bend the means: it stops here, as in Glow-TTS, sec. 3.2.
        d = h.detach()
        for layer in self.duration_layers:
            d = layer(d, real)
        return Read(self.means(h) * real, self.log_durations(d).squeeze(1) * real.squeeze(1))

    def encode(self, text: str) -> list[int]:
        """The symbols of a sentence as this front end reads them."""
        return encode(text, self.lexicon)

    def normalised(self, log_mel: Tensor) -> Tensor:
        """A natural log-mel with the training data's mean 0 and deviation 1, as x0 is; `log_mel` goes back."""
        return (log_mel - self.mean) / self.std

    def log_mel(self, x0: Tensor) -> Tensor:
        """The natural log-mel of a normalised one."""
        return x0 * self.std + self.mean

    def align(
        self,
        means: Float[Tensor, "b m n"],
        symbols: Int[Tensor, "b n"],
        mel: Float[Tensor, "b m t"],
        frames: Int[Tensor, "b"],
    ) -> Int[Tensor, "b n"]:
        """The durations under which a mel is likeliest, `frames` of it real."""
        with torch.no_grad():
            # log N(mel; mu, I) without what no path can change
            log_p = means.float().transpose(1, 2) @ mel - 0.5 * means.square().sum(1).unsqueeze(2)
        return durations(log_p, (symbols > 0).sum(1), frames)

    def losses(self, symbols: Tensor, mel: Tensor, frames: Tensor) -> Losses:
        """Of a training batch, over real frames and symbols alone (Popov et al. 2021, eqs. 12 and 13)."""
        read = self(symbols)
        owned = self.align(read.means, symbols, mel, frames)
        inside = (torch.arange(mel.shape[2], device=mel.device) < frames.unsqueeze(1)).unsqueeze(1)
        error = 0.5 * (mel - spread(read.means, owned, mel.shape[2])).square() * inside
        real = symbols > 0
        late = 0.5 * (read.log_durations - owned.clamp(min=1).log()).square() * real
        return Losses(error.sum() / (inside.sum() * mel.shape[1]), late.sum() / real.sum())

    @torch.no_grad()
    def aligned(self, text: str, mel: Float[Tensor, "m t"]) -> Float[Tensor, "m t"]:
        """Mu of a sentence along its own recording, normalised."""
        symbols = torch.tensor([self.encode(text)])
        means = self(symbols).means
        owned = self.align(means, symbols, mel.unsqueeze(0), torch.tensor([mel.shape[1]]))
        return spread(means, owned, mel.shape[1])[0]

    @torch.no_grad()
    def spoken(self, text: str, slowness: float = 1.0) -> Float[Tensor, "m t"]:
        """Mu of a sentence with predicted durations; `slowness` 1.1 makes each a tenth longer."""
        symbols = torch.tensor([self.encode(text)])
        read = self(symbols)
        owned = (read.log_durations.exp() * slowness).round().clamp(1, LONGEST).long()
        return spread(read.means, owned)[0]


class Layer(nn.Module):
    """h + dropout(gelu(norm(conv(h)))) on real symbols; padding stays zero."""

    def __init__(self, width: int, dropout: float, kernel: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        inner = self.norm(self.conv(h * real).transpose(1, 2)).transpose(1, 2)
        return (h + self.dropout(F.gelu(inner))) * real


def load(file: FilePath) -> FrontEnd:
    """A front end from `NAME.safetensors` with its shape in `NAME.json`, frozen, in eval mode.

    Raises:
        UserError: a file is missing or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights from the global generator
            front_end = FrontEnd(**record["network"])
        front_end.load_state_dict(load_file(file))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read the front end {file} ({reason}); benchmarks/tts_front_end.py makes one"
        ) from error
    return front_end.eval().requires_grad_(False)
