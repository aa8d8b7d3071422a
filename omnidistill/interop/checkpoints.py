"""Weights in a file: safetensors, or a checkpoint of Lightning or plain torch, read without running anything in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import read_safetensors

PICKLED = (".ckpt", ".pt", ".pth")


def read_checkpoint(file: Path, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors by name. Of a Lightning checkpoint those of `state_dict`; where the wanted names stand there behind the
    name of an attribute (`self.network = ...` in the module that was trained), that one's.

    Raises:
        UserError: a file that holds more than tensors and plain values, no weights, or several of these networks.
    """
    if file.suffix not in PICKLED:
        return read_safetensors(file)[0]
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    try:
        # Tensors, numbers, texts and containers alone; anything that would run is refused by torch.
        held: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} holds more than weights, or is damaged, and is not unpickled ({reason}); save its state_dict as "
            "safetensors and give that"
        ) from error
    nested = held.get("state_dict") if isinstance(held, Mapping) else None
    state = nested if isinstance(nested, Mapping) else held
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state_dict of tensors")
    tensors = {str(name): value for name, value in state.items()}
    if not wanted or {*wanted} <= tensors.keys():
        return tensors
    one = min(wanted)
    before = [name.removesuffix(one) for name in tensors if name.endswith(f".{one}")]
    found = [start for start in before if {start + name for name in wanted} <= tensors.keys()]
    if len(found) > 1:
        raise UserError(
            f"{file} holds the network {len(found)} times: {', '.join(sorted(found))}; save the one as safetensors"
        )
    return {name: tensors[found[0] + name] for name in wanted} if found else tensors
