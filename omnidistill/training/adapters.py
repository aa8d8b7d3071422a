"""Roles as low-rank adapters over one frozen base: `W x + (alpha / rank) B A x` (Hu et al. 2021, LoRA, eq. 3).

A of rank x in is drawn, B of out x rank is zero, so a role starts as its base exactly. The base's parameters are the
same tensors in teacher, student, average and critics; the optimisers, averages, checkpoints and the student's file hold
the adapters alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn

from omnidistill.denoisers.second import prefix
from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import digest, load_strictly

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Adapter:
    """
    Attributes:
        rank: of the update of each weight matrix.
        alpha: its scale is alpha / rank.
        targets: names of modules, or ends of such names, as in `peft`; None for every linear layer and convolution.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise UserError(
                f"an adapter needs rank >= 1 and alpha > 0, got rank={self.rank}, alpha={self.alpha}"
            )
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))

    def plain(self) -> dict[str, Any]:
        """As a configuration has it."""
        return {**asdict(self), "targets": None if self.targets is None else list(self.targets)}


def attach(network: nn.Module, adapter: Adapter, whole: Collection[str] = ()) -> nn.Module:
    """The network with adapters in it, its own parameters frozen; layers of the `whole` parameters get none unless they
    are named. The network is changed in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("adapters need peft: pip install 'omnidistill[adapters]'") from error
    names = [name for name, _ in network.named_modules()]
    # peft makes the two matrices as it would make the layer itself; one that is made otherwise stays as it is.
    makers = [layer.__init__ for layer in LAYERS]
    layers = [name for name, module in network.named_modules() if type(module).__init__ in makers]
    usual = [name for name in layers if f"{name}.weight" not in whole]
    targets = usual if adapter.targets is None else list(adapter.targets)
    lost = [wanted for wanted in targets if not any(n == wanted or n.endswith(f".{wanted}") for n in names)]
    if lost or not targets:
        raise UserError(
            f"student.adapter.targets: {type(network).__name__} has no module {lost[0] if lost else 'to adapt'}; "
            f"it has {', '.join(layers[:6]) or 'no linear layer'}{', ...' if len(layers) > 6 else ''}"
        )
    config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets)
    try:
        return inject_adapter_in_model(config, network)
    except ValueError as error:
        raise UserError(f"student.adapter cannot be put into {type(network).__name__}: {error}") from error


def adapt(network: nn.Module, base: nn.Module, adapter: Adapter) -> nn.Module:
    """`network` with the base's parameters wherever names agree (the same tensors, no copies) and adapters over them.

    What the base does not have, e.g. the embedding of a second time, is trained as a whole beside the adapters.
    """
    whole = share(network, base)
    network = attach(network, adapter, whole)
    for name, parameter in network.named_parameters():
        if bare(name) in whole:
            parameter.requires_grad_(True)
    return network


def share(network: nn.Module, base: nn.Module) -> set[str]:
    """Puts the base's parameters in place of the network's of the same names; returns the names of all others."""
    before = prefix(network, base)
    theirs = {before + name: p for name, p in base.named_parameters(remove_duplicate=False)}
    others = set()
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if name in theirs and theirs[name].shape == parameter.shape:
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, theirs[name])
        else:
            others.add(name)
    return others


def bare(name: str) -> str:
    """A parameter's name as it was before there were adapters."""
    return name.replace(".base_layer", "")


# --- files -----------------------------------------------------------------------------------------------------------


def split(network: nn.Module, whole: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a student's file holds (adapters, what was trained beside them, buffers), and the base's parameters."""
    base = {
        name
        for name, _ in network.named_parameters(remove_duplicate=False)
        if "lora_" not in name and bare(name) not in whole
    }
    state = network.state_dict()
    return (
        {name: value for name, value in state.items() if name not in base},
        {bare(name): value for name, value in state.items() if name in base},
    )


def join(
    network: nn.Module,
    description: Mapping[str, Any],
    base: Mapping[str, Tensor],
    tensors: dict[str, Tensor],
    file: FilePath,
) -> nn.Module:
    """A fresh network with the base's weights and the adapters of a student's file over them.

    Raises:
        UserError: the base is not the one that the adapters were trained over, or the file holds others.
    """
    known = {"rank", "alpha", "targets", "whole", "base", "digest"}
    if strange := sorted(description.keys() ^ known):
        raise UserError(f"the description of {file} has an adapter that is none: {strange[0]}")
    adapter = Adapter(description["rank"], description["alpha"], description["targets"])
    whole = set(description["whole"])
    named = [name for name, _ in network.named_parameters(remove_duplicate=False) if name not in whole]
    base = {name: base[name] for name in named if name in base}
    if of(base) != description["digest"]:
        raise UserError(
            f"{file} holds adapters over another network than this one; give the teacher they are of"
        )
    load_strictly(network, base, file, set(network.state_dict()) - set(named))
    network = attach(network, adapter, whole)
    fixed = {name for name in network.state_dict() if bare(name) in base}
    load_strictly(network, tensors, file, fixed)
    return network


def of(base: Mapping[str, Tensor]) -> str:
    """The digest of a base."""
    return digest({name: value.detach().cpu() for name, value in base.items()}, {})
