"""Several processes at one run: which rows of a batch are mine, what is added up, what happens when one is gone.

Every process works off its own rows of the one batch, and of every draw that one process would have made for it
(`training.parts`), so that losses do not depend on how many there are: a sum over samples is cut at other places, no
more. The first process alone writes files, logs and shows progress.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omnidistill.errors import RunError, SaidElsewhere, UserError
from omnidistill.training.parts import cut

STRATEGIES = ("auto", "ddp", "fsdp")
BUCKET = 1 << 23
"""Elements that are added up in one message."""

WAIT = timedelta(minutes=10)
"""For a process that answers nothing; one that died is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: from 0; the first one writes.
        world: how many there are.
        sharded: `fsdp`: each holds a share of every network. Else each holds them whole (`ddp`).
    """

    rank: int = 0
    world: int = 1
    sharded: bool = False

    @property
    def main(self) -> bool:
        """Whether this process speaks for all: logs, checkpoints, progress."""
        return self.rank == 0

    def own(self, count: int) -> slice:
        """The rows of a batch of `count` samples that are this process's."""
        return cut(count, self.world)[self.rank]

    def parts(self, count: int, accumulate: int) -> list[slice]:
        """Those rows in as many parts as they are worked off in; together they are `own`.

        Raises:
            UserError: a part would be empty.
        """
        if self.world > 1 and self.world * accumulate > count:
            raise UserError(
                f"batch={count} has fewer samples than {self.world} processes with accumulate={accumulate} work off; "
                f"set batch={self.world * accumulate} or more"
            )
        return cut(count, self.world * accumulate)[self.rank * accumulate : (self.rank + 1) * accumulate]

    # --- what all have to say: every process calls these in the same order ------------------------------------------

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.world == 1 else bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up what is held whole; shards were added up by the backward pass. A parameter that a process's rows do
        not touch counts as zero there, and stays without a gradient where no rows do."""
        parameters = [parameter for parameter in parameters if not is_sharded(parameter)]
        if self.world == 1 or not parameters:
            return
        device = parameters[0].device
        touched = self.total(torch.tensor([float(p.grad is not None) for p in parameters], device=device))
        parts: list[Tensor] = []
        for parameter, count in zip(parameters, touched.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parts.append(parameter.grad)
        add_up(parts)

    def merged(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The sums by name of what each process found, numbers or lists of them; some may have found what others have
        not."""
        if self.world == 1:
            return dict(figures)
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, dict(figures))
        names = dict.fromkeys(name for one in found for name in one)
        return {name: _sum([one[name] for one in found if name in one]) for name in names}


def _sum(values: list[Any]) -> Any:
    return [sum(parts) for parts in zip(*values, strict=True)] if isinstance(values[0], list) else sum(values)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes, many small ones in one message."""
    waiting: list[Tensor] = []

    def send() -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in waiting])
        dist.all_reduce(flat)
        for tensor, part in zip(waiting, flat.split([tensor.numel() for tensor in waiting]), strict=True):
            tensor.copy_(part.view_as(tensor))
        waiting.clear()

    for tensor in tensors:
        if waiting and (tensor.dtype != waiting[0].dtype or sum(t.numel() for t in waiting) > BUCKET):
            send()
        waiting.append(tensor)
    if waiting:
        send()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a share of it (a `DTensor`)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which each process holds a shard; all processes ask together. Any other as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def here(strategy: str = "auto") -> Ranks:
    """This process, as `joined` made it known; the only one outside of it."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), strategy == "fsdp")


@contextmanager
def joined(strategy: str = "auto", device: str = "auto") -> Iterator[Ranks]:
    """The processes that a launcher started (torchrun: `WORLD_SIZE`, `RANK`, `LOCAL_RANK`), until the run ends.

    Raises:
        UserError: a strategy for several processes, and there is one.
        RunError: another process is gone; whoever notices says so in one line.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        if world == 1 and strategy != "auto":
            raise UserError(
                f"strategy={strategy} is for several processes, and this is the only one; start it with "
                "torchrun --nproc-per-node N -m omnidistill ..., or leave strategy=auto"
            )
        yield here(strategy)
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=WAIT)
    try:
        yield here(strategy)
    except RuntimeError as error:
        if not _is_of_another(error):
            raise
        raise RunError(
            f"process {dist.get_rank()} of {world} cannot go on: another one is gone or answers nothing; "
            "its own line says why; resume=true goes on from the last checkpoint"
        ) from error
    finally:
        # Without waiting for the others: one of them may be the reason.
        dist.destroy_process_group()


def _is_of_another(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, dist.DistError) or "gloo" in said or "NCCL" in said or "Connection" in said


@contextmanager
def announced(ranks: Ranks) -> Iterator[None]:
    """Around what the first process does before the others go on: they wait for it, and end where it refuses.

    Raises:
        SaidElsewhere: in every other process where the first one raised a `UserError`.
    """
    said: list[Any] = [None]
    try:
        yield
    except UserError as error:
        said = [str(error)]
        raise
    finally:
        if ranks.world > 1:
            dist.broadcast_object_list(said, src=0)
            if said[0] is not None and not ranks.main:
                raise SaidElsewhere(said[0])
