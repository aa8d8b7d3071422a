"""Where the shards of a checkpoint lie: which file has which box of which tensor. JSON, checked when it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import TYPES

_NAME = re.compile(r"\w[\w.-]*")
_DTYPES = {name: dtype for dtype, name in TYPES.items()}


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor's numbers: the file that has it, where it begins, how large it is."""

    file: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where the shards of one checkpoint are.

    Attributes:
        folder: beside the checkpoint's own file.
        token: that every file of it holds, so that none of another checkpoint is taken for one.
        tensors: all of them by name, on the meta device.
        chunks: of each; together they are the tensor.
    """

    folder: str
    token: str
    tensors: Mapping[str, Tensor]
    chunks: Mapping[str, Sequence[Chunk]]

    def text(self) -> str:
        """As JSON."""
        tensors = {
            name: [TYPES[own.dtype], [*own.shape], [[c.file, c.offsets, c.sizes] for c in self.chunks[name]]]
            for name, own in self.tensors.items()
        }
        return json.dumps({"folder": self.folder, "token": self.token, "tensors": tensors})

    @classmethod
    def of(cls, text: str, path: FilePath) -> Layout:
        """What `text` has written.

        Raises:
            UserError: it is no such layout, or leaves numbers of a tensor out.
        """
        try:
            document = json.loads(text)
            if not _NAME.fullmatch(document["folder"]):
                raise ValueError(f"folder {document['folder']}")
            tensors, chunks = {}, {}
            for name, (dtype, shape, boxes) in document["tensors"].items():
                tensors[name] = torch.empty(shape, dtype=_DTYPES[dtype], device="meta")
                chunks[name] = [
                    Chunk(int(file), tuple(offsets), tuple(sizes)) for file, offsets, sizes in boxes
                ]
                if not _covers(chunks[name], shape):
                    raise ValueError(f"chunks of {name}")
            return cls(document["folder"], str(document["token"]), tensors, chunks)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{path} does not say where its shards are ({error}); restore a copy") from error

    @classmethod
    def planned(
        cls, folder: str, token: str, metadata: Metadata, files: Mapping[MetadataIndex, int]
    ) -> Layout:
        """From what torch has planned, and the files that its parts were written to."""
        tensors, chunks = {}, {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            tensors[name] = torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
            chunks[name] = [
                Chunk(files[MetadataIndex(name, box.offsets)], tuple(box.offsets), tuple(box.sizes))
                for box in stored.chunks
                if math.prod(box.sizes)
            ]
        return cls(folder, token, tensors, chunks)

    def metadata(self) -> Metadata:
        """As torch plans with it."""
        stored = {
            name: TensorStorageMetadata(
                TensorProperties(own.dtype),
                own.shape,
                [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in self.chunks[name]],
            )
            for name, own in self.tensors.items()
        }
        files = {MetadataIndex(name, c.offsets): c.file for name, found in self.chunks.items() for c in found}
        return Metadata(dict(stored), storage_data=files)


def _covers(chunks: Sequence[Chunk], shape: Sequence[int]) -> bool:
    inside = all(
        len(c.offsets) == len(c.sizes) == len(shape)
        and all(o >= 0 and n > 0 and o + n <= of for o, n, of in zip(c.offsets, c.sizes, shape, strict=True))
        for c in chunks
    )
    whole = sum(math.prod(c.sizes) for c in chunks) == math.prod(shape)
    return inside and whole and len({c.offsets for c in chunks}) == len(chunks)
