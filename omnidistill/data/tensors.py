"""Tensors as people have them: cast where nothing is lost, said once; refused in one line where it is not clear."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.paths import Path


def tensor(value: Any, what: str) -> Tensor:
    """`value` as a tensor: one already, or whatever numpy and torch take for an array."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{what} is a {type(value).__name__}, of which torch makes no tensor ({' '.join(str(error).split())})"
        ) from error


def states(x0: Tensor, path: Path) -> Tensor:
    """Clean samples in the dtype in which a path works: Float32, or Long for tokens.

    Raises:
        UserError: whole numbers where a path adds noise, fractions where tokens are wanted, numbers that are no
            token, the mask among the data, NaN.
    """
    if "categorical" in path.offers:
        return _tokens(x0, path)
    if not x0.is_floating_point():
        raise UserError(
            f"data are {_kind(x0)} and {path} adds noise to real numbers; give them scaled as the teacher was trained, "
            "e.g. data.float() / 127.5 - 1 for pictures of 0 to 255"
        )
    x0 = x0.float()
    if not bool(torch.isfinite(x0).all()):
        raise UserError(
            f"data hold {int((~torch.isfinite(x0)).sum())} NaN or infinite numbers; clean them first"
        )
    return x0


def _tokens(x0: Tensor, path: Path) -> Tensor:
    vocab = path.vocab  # type: ignore[attr-defined]
    if x0.is_floating_point() or x0.is_complex():
        raise UserError(
            f"data are {_kind(x0)} and {path} corrupts tokens; give whole numbers, 0 to {vocab - 1}"
        )
    x0 = x0.long()
    wrong = x0[(x0 < 0) | (x0 >= vocab)]
    if not wrong.numel():
        return x0
    value = int(wrong[0])
    if value == vocab:
        hint = "that is the mask, which clean text does not hold"
    elif value < 0:
        hint = "padding is told by a mask: data=a function (count, generator) -> Batch(tokens, Context(mask=...))"
    else:
        hint = f"the path knows {vocab} tokens; MaskedPath(vocab) counts them without the mask"
    raise UserError(f"data hold the token {value}, not one from 0 to {vocab - 1}; {hint}")


def context(given: Context) -> Context:
    """Real numbers as Float32, whole ones as Long, truth values as they are."""

    def cast(value: Tensor) -> Tensor:
        value = tensor(value, "condition")
        if value.is_floating_point():
            return value.float()
        return value if value.dtype == torch.bool or value.is_complex() else value.long()

    return given.map(cast)


def batch(given: Batch, path: Path) -> Batch:
    """A batch of somebody's own source, cast."""
    if not isinstance(given, Batch):
        raise UserError(
            f"data= is a function that answers a {type(given).__name__}; it must answer a Batch(x0, Context(...))"
        )
    x0 = None if given.x0 is None else states(tensor(given.x0, "x0"), path)
    return replace(given, x0=x0, context=context(given.context))


def rows(condition: Tensor | Mapping[str, Tensor]) -> int:
    """How many conditions there are; a mapping's tensors must agree."""
    tensors = condition.values() if isinstance(condition, Mapping) else [condition]
    counts = {len(tensor) for tensor in tensors if tensor is not None}
    if len(counts) != 1:
        raise UserError(f"condition's tensors have {sorted(counts)} rows; give as many in each")
    return counts.pop()


def single(network: nn.Module, say: bool = True) -> nn.Module:
    """The network in float32, in place: an optimiser's small steps are lost in half precision, and float64 is not
    trained here. One of whole numbers (quantised) is left as it is."""
    kinds = {p.dtype for p in network.parameters()}
    others = kinds - {torch.float32}
    if others and all(kind.is_floating_point for kind in kinds):
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in others))
        if say:
            warnings.warn(
                f"the teacher's weights are {names}; a float32 copy is trained (precision=bf16 computes in bfloat16)",
                stacklevel=3,
            )
        network.float()
    return network


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
