"""Real images as tensors in [-1, 1]: Fashion-MNIST from its idx files, digits from scikit-learn, the shipped sample.
Pictures of the user's own are read by `own`.

Fashion-MNIST: `train` has 60000 images, `test` 10000; `heldout` is the sample of 5000 test images shipped with the
package, for evaluation without any download. Digits: 1797 images of 8x8, split once by a seeded permutation.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from omnidistill.data.datasets import locate
from omnidistill.data.folder import regular
from omnidistill.errors import UserError, unknown
from omnidistill.shapes import Labels

ASSETS = Path(__file__).parent / "assets"
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DIGITS_HELD_OUT = 360  # one fifth of the 1797
DIGITS_SPLIT_SEED = 20180219

LARGEST = 1 << 31  # bytes of an idx file, unpacked

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SPLIT_FILES = {"train": "train", "test": "t10k"}


class LabelledImages(NamedTuple):
    """Images in [-1, 1]."""

    images: Float32[Tensor, "b c h w"]
    labels: Labels


def read_idx(path: str | Path) -> np.ndarray[Any, Any]:
    """The array in an idx file, packed with gzip or not.

    Format: two zero bytes, a type byte, the number of axes, each axis' length as a big-endian uint32, the elements
    (LeCun, Cortes and Burges, "The MNIST database", file formats).

    Raises:
        UserError: the file is missing, empty, no idx file, cut short, or longer than its header says.
    """
    path = Path(path)
    try:
        regular(path, LARGEST)
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(LARGEST + 1)  # a few packed bytes may stand for any number of them
        if len(data) > LARGEST:
            raise UserError(f"the idx file {path} unpacks to more than {LARGEST >> 20} MiB")
    except OSError as error:  # BadGzipFile too
        raise UserError(f"cannot read the idx file {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"the idx file {path} is damaged or cut short: {error}") from error
    if not data:
        raise UserError(f"the idx file {path} is empty")
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise UserError(
            f"{path} is no idx file: it begins with {data[:4].hex()}, not with 0000, a type and a rank"
        )
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise UserError(
            f"the idx file {path} is cut short: {len(data)} bytes do not hold its header of {start}"
        )
    shape = struct.unpack(f">{rank}I", data[4:start])
    kind = np.dtype(_IDX_TYPES[data[2]])
    expected = start + kind.itemsize * math.prod(shape)
    if len(data) != expected:
        problem = "cut short" if len(data) < expected else "too long"
        raise UserError(
            f"the idx file {path} is {problem}: {len(data)} bytes, its header {shape} means {expected}"
        )
    return np.frombuffer(data, kind, offset=start).reshape(shape)


def scaled(pixels: np.ndarray[Any, Any], brightest: float = 255.0) -> Float32[Tensor, "n 1 h w"]:
    """Grey pixels [n h w] from 0 to `brightest`, as numbers in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) * (2.0 / brightest) - 1.0).unsqueeze(1)


def fashion_mnist(split: str, folder: str | Path | None = None) -> LabelledImages:
    """Fashion-MNIST's `train` or `test` images, of 28 x 28 pixels, and labels; from `folder`, else from the cache."""
    if split not in _SPLIT_FILES:
        raise unknown("split", split, _SPLIT_FILES)
    where = locate("fashion_mnist") if folder is None else Path(folder)
    images, labels = (
        _find(where, f"{_SPLIT_FILES[split]}-{kind}") for kind in ("images-idx3", "labels-idx1")
    )
    return _labelled(images, read_idx(images), labels, read_idx(labels))


def has_idx(folder: str | Path) -> bool:
    """Whether `folder` holds idx files rather than pictures."""
    return any(Path(folder).glob("*-ubyte*"))


def fetched(name: str) -> bool:
    """Whether the data set is in the cache."""
    try:
        locate(name)
    except UserError:
        return False
    return True


def heldout() -> LabelledImages:
    """The shipped 5000 test images of Fashion-MNIST, 500 of each class."""
    path = ASSETS / "fashion_mnist_heldout.npz"
    with np.load(path, allow_pickle=False) as arrays:
        return _labelled(path, arrays["images"], path, arrays["labels"])


def digits(split: str) -> LabelledImages:
    """scikit-learn's handwritten digits, of 8 x 8 pixels: `train` (1437 images) or `test` (360, never trained on)."""
    if split not in _SPLIT_FILES:
        raise unknown("split", split, _SPLIT_FILES)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED))
    chosen = order[:DIGITS_HELD_OUT] if split == "test" else order[DIGITS_HELD_OUT:]
    return LabelledImages(scaled(bunch.images, 16.0)[chosen], torch.from_numpy(bunch.target).long()[chosen])


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}-ubyte", f"{stem}-ubyte.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has neither {stem}-ubyte nor {stem}-ubyte.gz; expected Fashion-MNIST's idx files"
    )


def _labelled(
    images_path: Path, images: np.ndarray[Any, Any], labels_path: Path, labels: np.ndarray[Any, Any]
) -> LabelledImages:
    if images.dtype != np.uint8 or images.ndim != 3:
        raise UserError(f"{images_path} holds no grey images: {images.dtype} of shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_path} has labels {labels.shape} for {len(images)} images of {images_path.name}"
        )
    return LabelledImages(scaled(images), torch.from_numpy(labels.astype(np.int64)))
