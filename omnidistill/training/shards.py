"""Files of a few hundred rows each: written whole or not at all, checked when read, mapped and not copied.

A shard holds the digest of its numbers and of the header of the store that it belongs to, so that what is there is what
was written, for this store: writing goes on at the first one that is missing, and a file that was cut short, damaged or
brought from another store is refused.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import FrameType
from typing import Any

from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import read_safetensors, write_safetensors


@dataclass(frozen=True)
class Shards:
    """The files of one store.

    Attributes:
        folder: that they lie in.
        digest: of the store's header.
        mend: what a user does about a damaged one, after "delete it, and".
    """

    folder: FilePath
    digest: str
    mend: str

    def place(self, index: int) -> FilePath:
        """The file of a shard."""
        return self.folder / f"{index:05d}.safetensors"

    def whole(self, count: int) -> list[int]:
        """The shards that are there; their content is not looked at."""
        # A header may claim any number of them, so it is the folder that is looked through.
        numbers = [int(file.stem) for file in self.folder.glob("*.safetensors") if file.stem.isdecimal()]
        return sorted(index for index in numbers if index < count and self.place(index).is_file())

    def write(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes rows, whole or not at all."""
        write_safetensors(tensors, self.place(index), {"store": self.digest, "index": str(index)})

    def read(self, index: int) -> dict[str, Tensor]:
        """
        Raises:
            UserError: the file is missing, not whole, damaged, or of another store.
        """
        file = self.place(index)
        try:
            tensors, said = read_safetensors(file)
        except UserError as error:
            raise UserError(f"{str(error).rsplit(';', 1)[0]}; {self.again}") from error
        if said.get("store") != self.digest or said.get("index") != str(index):
            raise UserError(f"{file} is a shard of another store or another place in it; {self.again}")
        return tensors

    @property
    def again(self) -> str:
        """What mends a shard, for messages."""
        return f"delete it, and {self.mend}"


def flat(context: Context) -> dict[str, Tensor]:
    """The tensors of a context by name: `context/anchor`, `context/condition/KEY`."""
    found: dict[str, Tensor] = {}
    for name in Context.__dataclass_fields__:
        value = getattr(context, name)
        if isinstance(value, Mapping):
            found |= {f"context/{name}/{key}": item for key, item in value.items()}
        elif value is not None:
            found[f"context/{name}"] = value
    return found


def context_of(tensors: Mapping[str, Tensor]) -> Context:
    """The context that `flat` took apart."""
    values: dict[str, Any] = {}
    for name, value in tensors.items():
        if name.startswith("context/"):
            field, _, key = name.removeprefix("context/").partition("/")
            if key:
                values.setdefault(field, {})[key] = value
            else:
                values[field] = value
    return Context(**values)


@contextmanager
def held() -> Iterator[list[bool]]:
    """Within, the first Ctrl-C is noted and held back until the shard in hand is written; the second one is not."""
    stopped: list[bool] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
