"""Trains the classifiers whose features judge image samples, and writes them beside the image modality.

    python benchmarks/image_classifier.py fashion_mnist      # minutes on two cores
    python benchmarks/image_classifier.py digits             # seconds

Writes modalities/image/assets/{classifier,digits_classifier}.{safetensors,json}. Only the train split is seen; the
accuracy and the floor (Fréchet distance of real against real) are of the test split.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from omnidistill.modalities.image import data, metrics
from omnidistill.modalities.image.networks import Classifier

ASSETS = Path(__file__).resolve().parents[1] / "modalities" / "image" / "assets"
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion_mnist": {
        "file": "classifier",
        "load": data.fashion_mnist,
        "network": {"channels": [32, 64, 64], "image_size": 28, "features": 128},
        "epochs": 4,
    },
    "digits": {
        "file": "digits_classifier",
        "load": data.digits,
        "network": {"channels": [16, 32], "image_size": 8, "features": 32},
        "epochs": 40,
    },
}


def train(
    images: torch.Tensor, labels: torch.Tensor, network: dict[str, Any], epochs: int, seed: int
) -> Classifier:
    """AdamW with a linear warm-up and decay of the learning rate (one cycle), batches of 128, label smoothing 0.05."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = Classifier(**network).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2, foreach=True)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, anneal_strategy="linear")
    for epoch in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(order) // 128 * 128].split(128):
            loss = F.cross_entropy(classifier(images[chosen]), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, {time.perf_counter() - started:.1f} s",
            flush=True,
        )
    return classifier.eval().to(memory_format=torch.contiguous_format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETTINGS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = SETTINGS[arguments.name]
    train_images, train_labels = setting["load"]("train")
    test_images, test_labels = setting["load"]("test")

    started = time.perf_counter()
    classifier = train(train_images, train_labels, setting["network"], setting["epochs"], arguments.seed)
    seconds = time.perf_counter() - started

    test_features, logits = metrics.features_and_logits(classifier, test_images)
    count = min(5000, len(train_images))
    train_features, _ = metrics.features_and_logits(classifier, train_images[:count])
    record = {
        "command": f"python benchmarks/image_classifier.py {arguments.name} --seed {arguments.seed}",
        "seed": arguments.seed,
        "network": setting["network"],
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "epochs": setting["epochs"],
        "test_accuracy": round(float((logits.argmax(1) == test_labels).double().mean()), 4),
        "frechet_train_against_test": round(metrics.frechet_distance(train_features, test_features), 4),
        "frechet_sizes": [count, len(test_images)],
        "seconds": round(seconds, 1),
        "threads": arguments.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    ASSETS.mkdir(exist_ok=True)
    save_file(classifier.state_dict(), ASSETS / f"{setting['file']}.safetensors")
    (ASSETS / f"{setting['file']}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
