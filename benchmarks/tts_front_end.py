"""Trains the front end of speech/tts (text to mel means and durations) and writes it beside the task.

    omnidistill data fetch asterisk_en
    python benchmarks/tts_front_end.py                                  # the shipped one; minutes on one core
    python benchmarks/tts_front_end.py --corpus LJSpeech --rate 22050 --out my/front_end.safetensors

Writes NAME.safetensors and NAME.json. Only the train split is seen; the figures in the json are of held-out sentences.
One's own front end is used with `task.front_end=my/front_end.safetensors task.corpus=LJSpeech`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omnidistill.data.datasets import locate
from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import MelSignature
from omnidistill.modalities.speech.tts import data
from omnidistill.modalities.speech.tts.front_end import FrontEnd
from omnidistill.modalities.speech.tts.lexicon import cmudict
from omnidistill.modalities.speech.tts.text import encode

SHIPPED = (
    Path(__file__).resolve().parents[1] / "modalities" / "speech" / "tts" / "assets" / "front_end.safetensors"
)
FRAMES = 3000  # of a batch, padding included

Packed = tuple[Tensor, Tensor, Tensor]


def packed(
    utterances: list[data.Utterance], mean: float, std: float, read: Callable[[str], list[int]]
) -> list[Packed]:
    """Batches of utterances of about the same length: symbols Long[b n], mels Float[b m t], frames Long[b]."""
    batches, current = [], []
    for utterance in sorted(utterances, key=lambda u: u.mel.shape[1]):
        current.append(utterance)
        if len(current) * utterance.mel.shape[1] >= FRAMES:
            batches.append(current)
            current = []
    batches += [current] if current else []
    result = []
    for batch in batches:
        symbols = pad_sequence([torch.tensor(read(u.text)) for u in batch], batch_first=True)
        mels = data.pad([(u.mel - mean) / std for u in batch])[0].squeeze(1)
        result.append((symbols, mels, torch.tensor([u.mel.shape[1] for u in batch])))
    return result


def fit(front_end: FrontEnd, batches: list[Packed], epochs: int, lr: float, seed: int) -> None:
    """AdamW with a linear warm-up and decay of the learning rate (one cycle) on prior and duration loss."""
    optimizer = torch.optim.AdamW(front_end.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-2)
    total = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total, pct_start=0.1, anneal_strategy="linear"
    )
    g = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for epoch in range(epochs):
        priors = []
        for index in torch.randperm(len(batches), generator=g):
            with torch.autocast("cpu", torch.bfloat16):
                losses = front_end.losses(*batches[int(index)])
            optimizer.zero_grad()
            (losses.prior + losses.duration).backward()
            torch.nn.utils.clip_grad_norm_(front_end.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            priors.append(losses.prior.item())
        if (epoch + 1) % 10 == 0:
            seconds = time.perf_counter() - started
            print(
                f"epoch {epoch + 1}/{epochs}: prior {sum(priors) / len(priors):.4f}, {seconds:.0f} s",
                flush=True,
            )


@torch.no_grad()
def judged(front_end: FrontEnd, batches: list[Packed]) -> dict[str, float]:
    """Losses on whole sentences, weighted by frames and by symbols."""
    front_end.eval()
    prior = duration = frames = symbols = 0.0
    for batch in batches:
        losses, n, t = front_end.losses(*batch), int((batch[0] > 0).sum()), int(batch[2].sum())
        prior, frames = prior + float(losses.prior) * t, frames + t
        duration, symbols = duration + float(losses.duration) * n, symbols + n
    return {"prior": round(prior / frames, 5), "duration": round(duration / symbols, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="folder or file; the fetched prompts if not given")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--letters", action="store_true", help="no pronouncing dictionary (it is English)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()

    signature = MelSignature(rate=arguments.rate)
    read = partial(encode, lexicon=None if arguments.letters else cmudict())
    utterances = data.load(data.listed(arguments.corpus or locate("asterisk_en")), signature, read)
    held = data.held_out(utterances, signature.seconds)
    train = [u for u, out in zip(utterances, held, strict=True) if not out]
    test = [u for u, out in zip(utterances, held, strict=True) if out]
    values = torch.cat([u.mel.flatten() for u in train])
    mean, std = float(values.mean()), float(values.std())
    network = {"mels": signature.mels, "width": arguments.width, "depth": arguments.depth}
    network |= {"dropout": arguments.dropout, "phonemes": not arguments.letters}

    torch.manual_seed(arguments.seed)
    front_end = FrontEnd(**network, mean=mean, std=std)
    fit(front_end, packed(train, mean, std, read), arguments.epochs, arguments.lr, arguments.seed)
    figures = judged(front_end, packed(test, mean, std, read))
    print(f"held out: {figures}")

    record = {
        "command": " ".join(["python", "benchmarks/tts_front_end.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "network": network,
        "signature": signature.as_dict(),
        "parameters": sum(p.numel() for p in front_end.parameters()),
        "epochs": arguments.epochs,
        "sentences": {"train": len(train), "held_out": len(test)},
        "held_out": figures,
        "seconds": round(time.perf_counter() - started, 1),
        "threads": arguments.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in front_end.state_dict().items()}, arguments.out)
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
