"""Recordings beside what the text says of them: mels and their means, aligned once, in two splits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import MelSignature
from omnidistill.modalities.speech.tts import data
from omnidistill.modalities.speech.tts.front_end import FrontEnd


@dataclass(frozen=True)
class Aligned:
    """One utterance as the decoder sees it: its sentence, and its mel and mu, normalised."""

    text: str
    mel: Float[Tensor, "m t"]
    mu: Float[Tensor, "m t"]


@dataclass(frozen=True)
class Corpus:
    """Both splits, and the training mels and means end to end: one stream to cut crops from."""

    train: list[Aligned]
    held_out: list[Aligned]
    mel: Tensor
    mu: Tensor

    def crops(self, count: int, size: int, g: torch.Generator) -> Batch:
        """Pieces of `size` frames of the training recordings, every frame as likely as any other."""
        starts = torch.randint(self.mel.shape[1] - size + 1, (count,), generator=g).tolist()
        mels, means = (
            torch.stack([part[:, i : i + size] for i in starts]).unsqueeze(1) for part in (self.mel, self.mu)
        )
        return Batch(mels, Context(anchor=means))

    def sentences(self, count: int, g: torch.Generator) -> Batch:
        """Held-out recordings, whole and ragged, drawn without repetition while there are enough."""
        rounds = -(-count // len(self.held_out))
        order = torch.cat([torch.randperm(len(self.held_out), generator=g) for _ in range(rounds)])
        chosen = [self.held_out[i] for i in order[:count].tolist()]
        mels, mask = data.pad([a.mel for a in chosen])
        return Batch(mels, Context(anchor=data.pad([a.mu for a in chosen])[0], mask=mask, reference=mels))

    def text(self, mel: Tensor) -> str:
        """What was said in a held-out recording: contexts carry tensors alone."""
        for one in self.held_out:
            if one.mel.shape == mel.shape and torch.equal(one.mel, mel):
                return one.text
        raise UserError("a reference mel is not one of the held-out recordings, so its sentence is unknown")


def aligned(listed: list[data.Spoken], signature: MelSignature, front_end: FrontEnd, crop: int) -> Corpus:
    """What `data.listed` names, read.

    Raises:
        UserError: less for training than one crop.
    """
    utterances = data.load(listed, signature, front_end.encode)
    held = data.held_out(utterances, signature.seconds)
    splits: tuple[list[Aligned], list[Aligned]] = ([], [])
    for utterance, out in zip(utterances, held, strict=True):
        mel = front_end.normalised(utterance.mel)
        splits[out].append(Aligned(utterance.text, mel, front_end.aligned(utterance.text, mel)))
    train, held_out = splits
    mel, mu = (torch.cat(parts, dim=1) for parts in ([a.mel for a in train], [a.mu for a in train]))
    if mel.shape[1] < crop:
        raise UserError(f"the corpus has {mel.shape[1]} frames for training, fewer than crop={crop}")
    return Corpus(train, held_out, mel, mu)
