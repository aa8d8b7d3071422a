"""Writes the held-out sample of real images that the package ships: 500 test images of each Fashion-MNIST class.

    omnidistill data fetch fashion_mnist
    python benchmarks/image_heldout.py

Writes modalities/image/assets/fashion_mnist_heldout.npz: images uint8 [5000 28 28], labels uint8 [5000], and
indices uint16 [5000] into the test split, classes mixed. No teacher or classifier is trained on the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omnidistill.data.datasets import locate
from omnidistill.modalities.image.data import read_idx

ASSETS = Path(__file__).resolve().parents[1] / "modalities" / "image" / "assets"
SEED, EACH, CLASSES = 0, 500, 10


def main() -> None:
    folder = locate("fashion_mnist")
    images, labels = (read_idx(folder / f"t10k-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    chosen = np.concatenate([shuffled[labels[shuffled] == c][:EACH] for c in range(CLASSES)])
    # In the shuffled order, so that any prefix is a fair sample of the classes.
    chosen = shuffled[np.isin(shuffled, chosen)]
    path = ASSETS / "fashion_mnist_heldout.npz"
    ASSETS.mkdir(exist_ok=True)
    np.savez_compressed(path, images=images[chosen], labels=labels[chosen], indices=chosen.astype(np.uint16))
    print(f"{path}: {len(chosen)} images, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
