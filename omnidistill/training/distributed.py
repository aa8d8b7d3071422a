"""Checkpoints of sharded networks: each process writes its own shards, and reads the parts that it needs.

`torch.distributed.checkpoint` plans who writes and who reads what, for any layout before and after. The storage is
ours: torch's own keeps its index as a pickle, and its safetensors storage notices neither a damaged shard nor one that
is lost.

    checkpoints/last.safetensors            what all hold whole, counters, and as metadata where the shards are
    checkpoints/last-400/00000.safetensors  pieces of shards, of one process each

The one file replaces that of before once every shard is on the disk, so whatever ends a run, it names a whole
checkpoint; shards that it does not name are nobody's.
"""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from omnidistill.errors import SaidElsewhere, UserError
from omnidistill.training.layout import Layout
from omnidistill.training.ranks import Ranks
from omnidistill.training.safetensors_file import read_safetensors, write_safetensors

PIECE = 1 << 30
"""Bytes of a file, unless a single shard is larger: so much of a device's shards is in the CPU's memory at a time."""


def _file(folder: FilePath, index: int) -> FilePath:
    return folder / f"{index:05d}.safetensors"


def _said(token: str, index: int) -> dict[str, str]:
    """The metadata of a file of shards."""
    return {"checkpoint": token, "index": str(index)}


class Writer(StorageWriter):
    """
    Args:
        path: the checkpoint's own file.
        update: that the run is at, which the folder of shards is called by.
        world: number of processes.
        publish: called by the first process with the layout once all shards are there; writes the file.
    """

    def __init__(self, path: FilePath, update: int, world: int, publish: Callable[[Layout], None]) -> None:
        self.path, self.update, self.world, self.publish = path, update, world, publish
        self.folder, self.token = "", ""

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The first process makes the folder: a new one, whatever a killed run has left."""
        if is_coordinator:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            taken = {place.name for place in self.path.parent.iterdir()}
            wanted = f"{self.path.stem}-{self.update}"
            names = (f"{wanted}.{again}" if again else wanted for again in range(len(taken) + 1))
            self.folder = next(name for name in names if name not in taken)
            (self.path.parent / self.folder).mkdir()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Without the empty shards of tensors that have fewer rows than there are processes."""
        return replace(
            plan, items=[i for i in plan.items if i.tensor_data and math.prod(i.tensor_data.chunk.sizes)]
        )

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tells every process the folder, and its number."""
        self.token = uuid.uuid4().hex
        return [
            replace(plan, storage_data=(self.folder, self.token, rank)) for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this process's shards, some at a time."""
        folder, token, rank = plan.storage_data
        results = []
        for piece, items in enumerate(_pieces(plan.items)):
            index = rank + piece * self.world
            found = {item.index.fqn: planner.resolve_data(item) for item in items}
            tensors = {
                name: value.detach().cpu() for name, value in found.items() if isinstance(value, Tensor)
            }
            write_safetensors(tensors, _file(self.path.parent / folder, index), _said(token, index))
            results += [WriteResult(i.index, tensors[i.index.fqn].nbytes, index) for i in items]
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """By the first process, once all have written."""
        files = {one.index: one.storage_data for part in results for one in part}
        self.publish(Layout.planned(self.folder, self.token, metadata, files))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """A folder is not found by its name alone."""
        return False


def _pieces(items: Sequence[Any]) -> Iterator[list[Any]]:
    piece: list[Any] = []
    size = 0
    for item in items:
        own = math.prod(item.tensor_data.chunk.sizes) * item.tensor_data.properties.dtype.itemsize
        if piece and size + own > PIECE:
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += own
    if piece:
        yield piece


class Reader(StorageReader):
    """
    Args:
        path: the checkpoint's own file, which the layout is from.
    """

    def __init__(self, path: FilePath, layout: Layout) -> None:
        self.path, self.layout = path, layout

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """It reads one checkpoint alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint's own file says."""
        return self.layout.metadata()

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """There is nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As torch planned it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As torch planned them."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the parts of tensors that this process has, file by file, each checked as a whole.

        Raises:
            UserError: a file is gone, damaged, or another checkpoint's; or it holds NaN or infinity.
        """
        files = {(name, c.offsets): c.file for name, found in self.layout.chunks.items() for c in found}
        wanted: dict[int, list[Any]] = {}
        for item in plan.items:
            index = item.storage_index
            wanted.setdefault(files[index.fqn, tuple(index.offset or ())], []).append(item)
        for file, items in sorted(wanted.items()):
            place = _file(self.path.parent / self.layout.folder, file)
            if not place.is_file():
                raise UserError(f"{self.path} has shards in {place}, which is gone; restore a copy")
            tensors, said = read_safetensors(place)
            if said != _said(self.layout.token, file):
                raise UserError(
                    f"{place} is another place's or another checkpoint's than {self.path}'s; restore a copy"
                )
            for item in items:
                self._copy(item, tensors, place, planner)
        return _done(None)

    def _copy(self, item: Any, tensors: Mapping[str, Tensor], place: FilePath, planner: LoadPlanner) -> None:
        name = item.storage_index.fqn
        box = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
        own = planner.resolve_tensor(item).detach()
        if name not in tensors or tensors[name].ndim != len(box) or tensors[name][box].shape != own.shape:
            raise UserError(
                f"{place} does not hold the part of '{name}' that {self.path} says; restore a copy"
            )
        part = tensors[name][box].to(own.device, own.dtype)
        if not bool((part.isfinite() | (part == own)).all()):
            raise UserError(f"{place} holds NaN or infinity in '{name}'; restore a copy from before")
        own.copy_(part)
        planner.commit_tensor(item, own)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """A folder is not found by its name alone."""
        return False


def _done(value: Any) -> Any:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def write(
    tensors: Mapping[str, Tensor],
    path: FilePath,
    update: int,
    ranks: Ranks,
    publish: Callable[[Layout], None],
) -> None:
    """Writes the shards of these tensors, by all processes together, then lets the first one publish them."""
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _said_by_the_first(ranks):
        dcp.save(dict(tensors), storage_writer=Writer(path, update, ranks.world, publish), planner=planner)


def read(tensors: Mapping[str, Tensor], path: FilePath, layout: Layout, ranks: Ranks) -> None:
    """Fills these tensors in place, however they are laid out, from a checkpoint that has all of them."""
    planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with _said_by_the_first(ranks), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        # Where networks are whole, each process reads for itself.
        dcp.load(
            dict(tensors), storage_reader=Reader(path, layout), planner=planner, no_dist=not ranks.sharded
        )


@contextmanager
def _said_by_the_first(ranks: Ranks) -> Iterator[None]:
    """What went wrong in any process is known to all; the first one says it."""
    try:
        yield
    except CheckpointException as error:
        cause = error.failures[min(error.failures)][0]
        if ranks.main or not ranks.sharded or not isinstance(cause, Exception):
            raise cause from error
        raise SaidElsewhere(cause) from error
