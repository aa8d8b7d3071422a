"""Teacher trajectories on disk: `store.json` says what they are, `shards/` holds safetensors files of a few hundred.

What is there is what was written, for this store, see `shards`. Reading maps the files into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.data.files import refuse_links
from omnidistill.errors import UserError
from omnidistill.training import headers
from omnidistill.training.bank import Bank
from omnidistill.training.shards import Shards, context_of, flat

HEADER, SHARDS = "store.json", "shards"


@dataclass(frozen=True)
class Header:
    """What the trajectories are of.

    Attributes:
        task, path: the task's name and its path; `path` names the process and a digest of its coefficients.
        teacher: digest of the teacher, see `runs.pairs.digest_of`.
        sampler: the deterministic sampler with its options.
        steps: its steps.
        guidance: scale under which the teacher was asked.
        controlled: whether conditions were read off the samples (`Task.control`).
        states: whether all states of a trajectory are there, or its two ends alone.
        times: where these states are, from the prior down to 0.
        seed: of noise and contexts.
        size: number of trajectories.
        shard: of them in a file.
        made_by: versions and command, for people.
    """

    task: str
    path: str
    teacher: str
    sampler: str
    steps: int
    guidance: float
    states: bool
    times: tuple[float, ...]
    seed: int
    size: int
    shard: int = 256
    controlled: bool = False
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-self.size // self.shard)

    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal, which every shard holds."""
        return headers.digest(self)

    def write(self, folder: FilePath) -> None:
        """Writes it into the folder of the store."""
        headers.write(self, folder / HEADER)


def read_header(folder: FilePath) -> Header:
    """
    Raises:
        UserError: no store, or none of this version.
    """
    file = folder / HEADER
    if not file.is_file():
        raise UserError(
            f"'{folder}' holds no trajectories: there is no {HEADER} in it; `omnidistill pairs` makes them"
        )
    refuse_links(folder, (HEADER, SHARDS))
    return headers.read(file, "of trajectories", _header)


def _header(document: dict[str, Any]) -> Header:
    header = Header(**{**document, "times": tuple(map(float, document["times"]))})
    counts = (header.shard, header.size, header.steps)
    if {*map(type, counts)} != {int} or min(counts) < 1:
        raise ValueError(f"size {header.size}, shard {header.shard}, steps {header.steps}")
    return header


def shards(folder: FilePath, header: Header) -> Shards:
    """Its files."""
    return Shards(
        folder / SHARDS, header.digest(), f"`omnidistill pairs` with out={folder} resume=true makes it again"
    )


def place(folder: FilePath, index: int) -> FilePath:
    """The file of a shard."""
    return Shards(folder / SHARDS, "", "").place(index)


def write_shard(folder: FilePath, header: Header, index: int, states: Tensor, context: Context) -> None:
    """Writes states [n, times, ...] and the contexts of these n trajectories as one shard, whole or not at all."""
    shards(folder, header).write(index, {"states": states, **flat(context)})


def read_shard(folder: FilePath, header: Header, index: int) -> tuple[Tensor, Context]:
    """
    Raises:
        UserError: the file is missing, not whole, damaged, or of another store.
    """
    files = shards(folder, header)
    tensors = files.read(index)
    rows = min(header.shard, header.size - index * header.shard)
    shape = (rows, len(header.times))
    if "states" not in tensors or tuple(tensors["states"].shape[:2]) != shape:
        raise UserError(
            f"{files.place(index)} does not hold {rows} trajectories of {len(header.times)} states; {files.again}"
        )
    return tensors["states"], context_of(tensors)


def whole(folder: FilePath, header: Header) -> list[int]:
    """The shards that are there; their content is not looked at."""
    return shards(folder, header).whole(header.count)


def read(folder: FilePath, header: Header) -> Bank:
    """All trajectories, each file checked once and mapped.

    Raises:
        UserError: one is missing or not as it was written.
    """
    there = len(whole(folder, header))
    if there < header.count:
        raise UserError(
            f"'{folder}' holds {there} of {header.count} shards; `omnidistill pairs` with out={folder} resume=true "
            "makes the others"
        )
    pieces = [read_shard(folder, header, index) for index in range(header.count)]
    return Bank(pieces, torch.tensor(header.times, dtype=torch.float64))
