"""Data as an encoder left them, on disk: `cache.json` says what they are, `train/` and `held_out/` hold shards of rows.

A row is a clean sample and its context, as a task's batches have them: latents, embeddings, labels. `Cache` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Condition, Context
from omnidistill.data.files import refuse_links
from omnidistill.errors import UserError
from omnidistill.training import headers
from omnidistill.training.safetensors_file import read_safetensors, write_safetensors
from omnidistill.training.shards import Shards, context_of, flat

HEADER = "cache.json"
NULL = "null.safetensors"
"""The condition of one sample that means "none"."""
SPLITS = ("train", "held_out")
MOST = 1 << 48
"""Rows that a header may claim."""
DTYPES = {"float32": torch.float32, "int64": torch.long}


@dataclass(frozen=True)
class Header:
    """What the rows are.

    Attributes:
        task: name of the task whose data they are.
        data: what else its configuration says of them, and a digest of their first rows.
        encoder: what made them: a folder, `package.module:function`, or nothing.
        digest: of the encoder, see `tasks.Encoding`; empty without one.
        conditions: digest of what made the conditions; empty where they are the data's own.
        shape, dtype: of one sample.
        sizes: rows of each split.
        shard: rows of a file.
        labels: names of the labels in the order of their numbers.
        made_by: versions, for people.
    """

    task: str
    data: str
    encoder: str
    digest: str
    shape: tuple[int, ...]
    dtype: str
    sizes: Mapping[str, int]
    shard: int = 256
    labels: tuple[str, ...] = ()
    conditions: str = ""
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """Number of shards of a split."""
        return -(-self.sizes[split] // self.shard)

    def known(self) -> str:
        """SHA-256 of all of it, hexadecimal, which every shard holds."""
        return headers.digest(self)

    def write(self, folder: FilePath) -> None:
        """Writes it into the folder of the cache."""
        headers.write(self, folder / HEADER)


def is_cache(folder: str | FilePath) -> bool:
    """Whether `omnidistill cache` wrote the folder."""
    try:
        return (FilePath(folder) / HEADER).is_file()
    except (OSError, ValueError):  # a name that no system could hold
        return False


def header_of(source: str | FilePath | None) -> Header | None:
    """The header of a cache; None where a user's data are something else, or nothing."""
    return read_header(FilePath(source)) if source is not None and is_cache(source) else None


def read_header(folder: FilePath) -> Header:
    """
    Raises:
        UserError: no cache, or none of this version.
    """
    if not is_cache(folder):
        raise UserError(f"'{folder}' is no cache: there is no {HEADER} in it; `omnidistill cache` makes one")
    refuse_links(folder, (HEADER, *SPLITS))
    return headers.read(folder / HEADER, "of a cache", _header)


def _header(document: dict[str, Any]) -> Header:
    sizes = {split: int(document["sizes"][split]) for split in SPLITS}
    shape = tuple(int(size) for size in document["shape"])
    header = Header(**{**document, "shape": shape, "sizes": sizes, "labels": tuple(document["labels"])})
    if (
        type(header.shard) is not int
        or not 1 <= header.shard < MOST
        or not 1 <= min(sizes.values()) <= max(sizes.values()) < MOST
        or header.dtype not in DTYPES
    ):
        raise ValueError(f"shard {header.shard}, sizes {sizes}, dtype {header.dtype}")
    return header


def write_null(folder: FilePath, header: Header, null: Condition) -> None:
    """Writes the condition of one sample that means "none"."""
    write_safetensors(flat(Context(null)), folder / NULL, {"store": header.known()})


def null_of(folder: FilePath, header: Header) -> Callable[[Condition], Condition] | None:
    """What empties conditions: the encoding of nothing, for every sample; None where the user's function named none.

    Raises:
        UserError: the file is missing or damaged.
    """
    if ":" in header.encoder and not (folder / NULL).is_file():
        return None
    tensors, said = read_safetensors(folder / NULL)
    if said.get("store") != header.known():
        raise UserError(
            f"{folder / NULL} is of another cache; `omnidistill cache` with out={folder} resume=true makes it again"
        )
    null = context_of(tensors).condition

    def emptied(condition: Condition) -> Condition:
        def like(one: Tensor, all_: Tensor) -> Tensor:
            return one.to(all_.device, all_.dtype).expand_as(all_)

        if isinstance(condition, Mapping) and isinstance(null, Mapping):
            return {key: like(null[key], value) for key, value in condition.items()}
        assert isinstance(condition, Tensor) and isinstance(null, Tensor)
        return like(null, condition)

    return emptied


def shards(folder: FilePath, header: Header, split: str) -> Shards:
    """The files of a split."""
    return Shards(
        folder / split, header.known(), f"`omnidistill cache` with out={folder} resume=true makes it again"
    )


def write_shard(
    folder: FilePath, header: Header, split: str, index: int, x0: Tensor, context: Context
) -> None:
    """Writes rows as one shard, whole or not at all."""
    shards(folder, header, split).write(index, {"x0": x0, **flat(context)})


def read_shard(folder: FilePath, header: Header, split: str, index: int) -> tuple[Tensor, Context]:
    """
    Raises:
        UserError: the file is missing, not whole, damaged, or of another cache.
    """
    files = shards(folder, header, split)
    tensors = files.read(index)
    rows = min(header.shard, header.sizes[split] - index * header.shard)
    x0 = tensors.get("x0")
    if x0 is None or tuple(x0.shape) != (rows, *header.shape) or x0.dtype != DTYPES[header.dtype]:
        raise UserError(f"{files.place(index)} does not hold {rows} rows of {header.shape}; {files.again}")
    return x0, context_of(tensors)
