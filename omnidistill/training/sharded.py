"""Networks of which each process holds a share: torch's own `fully_shard` (FSDP2), role by role.

Sharded are the networks of roles and teachers, block by block; heads and other small modules are whole everywhere. It
happens after the roles were made (a sharded network cannot be copied) and before optimisers and averages look at
parameters, which are `DTensor`s from then on, under the names that they had.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.training.blocks import SMALL, blocks
from omnidistill.training.ranks import is_sharded, whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from omnidistill.training.module import Distillation


def apart(module: Distillation, *, on_cpu: bool = False, everywhere: bool = False) -> Denoiser | None:
    """Shards every network of a run in place where its ranks are sharded.

    Args:
        on_cpu: shards of the frozen teachers lie in the CPU's memory and are on the device only while they are asked.
        everywhere: each process gets the whole student at the end.

    Returns:
        What `gathered` fills at the end: a whole copy of the student's average, in the first process or in each.
    """
    ranks = module.ranks
    if not ranks.sharded:
        if on_cpu:
            raise UserError("teacher_on_cpu=true is for strategy=fsdp, where a teacher comes block by block")
        return None
    average = copy.deepcopy(module.trained["ema"]).cpu() if ranks.main or everywhere else None
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(module.device.type, (ranks.world,))
    shard(module.trained.values(), mesh)
    shard(
        [*module.teachers.values(), *([] if module.teacher is None else [module.teacher])],
        mesh,
        on_cpu=on_cpu,
    )
    return average  # type: ignore[return-value]


def gathered(module: Distillation, average: Denoiser | None) -> Denoiser:
    """The student's average at the end of a run: whole where `apart` made a copy, whatever it was in training."""
    trained: Denoiser = module.trained["ema"]  # type: ignore[assignment]
    if not module.ranks.sharded:
        return trained
    for name, value in trained.state_dict().items():
        value = whole(value)
        if average is not None:
            dict(average.state_dict())[name].copy_(value)
    return trained if average is None else average.to(module.device)


def shard(models: Iterable[nn.Module], mesh: DeviceMesh, *, on_cpu: bool = False) -> None:
    """Shards the networks of these models in place, see `apart`."""
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard

    policy: Any = (
        {"offload_policy": CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")} if on_cpu else {}
    )
    for model in models:
        network = getattr(model, "network", model)
        if isinstance(network, FSDPModule) or sum(p.numel() for p in network.parameters()) < SMALL:
            continue
        for block in blocks(network):
            fully_shard(block, mesh=mesh, reshard_after_forward=True, **policy)
        # The root as well: left whole after a forward pass, its parameters would be no shards when an optimiser, a norm
        # or an average that was not trained in this turn looks at them.
        fully_shard(network, mesh=mesh, reshard_after_forward=True, **policy)
        for module in network.modules():
            if isinstance(module, FSDPModule):
                # Each process's loss is its samples' share of the batch's, so gradients are summed.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


def clip_(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """`clip_grad_norm_` over shards and whole tensors together; returns the norm before, over all processes' shards."""
    from torch.nn.utils import clip_grads_with_norm_, get_total_norm

    with_gradient = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in with_gradient if is_sharded(p) == kind] for kind in (True, False)]
    kinds = [kind for kind in kinds if kind]
    norms = [whole(get_total_norm([p.grad for p in kind], foreach=True)) for kind in kinds]  # type: ignore[misc]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        clip_grads_with_norm_(kind, limit, norm, foreach=True)
    return norm


def like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, laid out as `own` is."""
    if not is_sharded(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(own.device, own.dtype)
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)  # type: ignore[attr-defined]
