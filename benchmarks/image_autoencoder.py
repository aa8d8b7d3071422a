"""Trains the autoencoder in whose latents `image/fashion_mnist` lives: diffusers' AutoencoderTiny, 28x28 -> 8x7x7.

    omnidistill data fetch fashion_mnist
    python benchmarks/image_autoencoder.py        # six minutes of one core

Writes modalities/image/assets/autoencoder: config.json and diffusion_pytorch_model.safetensors, which
`AutoencoderTiny.from_pretrained` reads, and autoencoder.json: command, seed and what the reconstruction costs. Only the
train split is seen.

Loss: L1 of pixels and of their differences, and L1 of the features of a classifier made here for this purpose (Johnson
et al. 2016, arXiv:1603.08155). It is not the classifier that judges samples: that one would be fitted, not met. Latents
get noise before they are decoded, so that the decoder forgives small errors of a generator.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch
import torch.nn.functional as F
from image_classifier import train as train_classifier
from torch import Tensor

from omnidistill.modalities.image import data, metrics
from omnidistill.modalities.image.networks import Classifier

FOLDER = data.ASSETS / "autoencoder"
WIDTH, CHANNELS = 32, 8
NETWORK: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": CHANNELS,
    # Blocks at 28x28, 14x14, 7x7 and back: none at full size, where they would cost the most.
    "num_encoder_blocks": (0, 1, 2),
    "num_decoder_blocks": (2, 2, 0),
    "encoder_block_out_channels": (WIDTH,) * 3,
    "decoder_block_out_channels": (WIDTH,) * 3,
}
NOISE = 0.1  # standard deviation, beside latents of about 1
DECAY = 1e-3  # weight of the mean square of latents: the decoder squashes what goes beyond 3
PERCEPTUAL = 0.5
JUDGED = 2000


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def stages(classifier: Classifier, x: Tensor) -> list[Tensor]:
    """The features after each pooling."""
    found = []
    for layer in classifier.body:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            found.append(x.float())
    return found


def loss_of(made: Tensor, x: Tensor, latents: Tensor, critic: Classifier) -> Tensor:
    error = made.float() - x
    edges = sum(0.5 * d.abs().mean() for d in differences(error))
    with torch.no_grad():
        real = stages(critic, x)
    seen = sum((a - b).abs().mean() / b.abs().mean() for a, b in zip(stages(critic, made), real, strict=True))
    return (
        error.abs().mean() + edges + PERCEPTUAL * seen / len(real) + DECAY * latents.float().square().mean()
    )


def train(images: Tensor, critic: Classifier, updates: int, batch: int, seed: int) -> Any:
    """AdamW, learning rate 2e-3, warm-up of 100 updates, linear decay over the second half; bf16 autocast."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    autoencoder = AutoencoderTiny(**NETWORK).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3, betas=(0.9, 0.99), foreach=True)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / 100, 2.0 * (1.0 - k / updates))
    )
    began = time.perf_counter()
    for update in range(updates):
        x = images[torch.randint(len(images), (batch,), generator=g)]
        with torch.autocast("cpu", torch.bfloat16):
            latents = autoencoder.encode(x).latents
            noisy = latents + NOISE * torch.randn(latents.shape, generator=g)
            made = autoencoder.decode(noisy).sample
            loss = loss_of(made, x, latents, critic)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if update % 250 == 0:
            print(
                f"{update}/{updates}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True
            )
    return autoencoder.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def encoded(autoencoder: Any, images: Tensor) -> Tensor:
    return torch.cat([autoencoder.encode(part).latents for part in images.split(250)])


@torch.no_grad()
def reconstructed(autoencoder: Any, images: Tensor) -> Tensor:
    latents = encoded(autoencoder, images)
    return torch.cat([autoencoder.decode(part).sample for part in latents.split(250)]).clamp(-1.0, 1.0)


def judged(autoencoder: Any, train_images: Tensor, train_labels: Tensor) -> dict[str, Any]:
    """Real training images and their reconstructions against held-out images, as generated ones are judged."""
    classifier, held_out = metrics.load_classifier(), data.heldout()
    real = metrics.features_and_logits(classifier, held_out.images)[0]
    some, labels = train_images[:JUDGED], train_labels[:JUDGED]
    again = reconstructed(autoencoder, some)
    unseen = reconstructed(autoencoder, held_out.images)

    def figures(images: Tensor) -> dict[str, float]:
        found = metrics.evaluate(images, labels, classifier, real_features=real)
        return {name: round(value, 4) for name, value in found.items()}

    return {
        "samples": JUDGED,
        "real": figures(some),
        "reconstructed": figures(again),
        "held_out_mse": round(float(F.mse_loss(unseen, held_out.images)), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, labels = data.fashion_mnist("train")

    began = time.perf_counter()
    network = {"channels": [32, 64, 64], "image_size": 28, "features": 128}
    critic = train_classifier(images, labels, network, epochs=1, seed=arguments.seed + 1)
    critic.requires_grad_(False).to(memory_format=torch.channels_last)
    autoencoder = train(images, critic, arguments.updates, arguments.batch, arguments.seed)
    latents = encoded(autoencoder, images[:10000])
    autoencoder.register_to_config(
        scaling_factor=round(1.0 / float(latents.std()), 5), shift_factor=round(float(latents.mean()), 5)
    )
    autoencoder.save_pretrained(FOLDER)
    record = {
        "command": f"python benchmarks/image_autoencoder.py --seed {arguments.seed} "
        f"--updates {arguments.updates} --batch {arguments.batch}",
        "seed": arguments.seed,
        "parameters": sum(p.numel() for p in autoencoder.parameters()),
        "latents": list(latents.shape[1:]),
        "latent_std_by_channel": [round(float(s), 3) for s in latents.std(dim=(0, 2, 3))],
        "judged": judged(autoencoder, images, labels),
        "seconds": round(time.perf_counter() - began, 1),
        "threads": arguments.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    (FOLDER / "autoencoder.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
