"""Weights as safetensors files that notice damage: each holds the digest of all that is in it. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.data.files import replacing
from omnidistill.errors import RunError, UserError

TYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64"},
}

MARK, SUM = "omnidistill", "sha256"
"""Metadata of a file with a digest. One without either is somebody else's, or of before there was one; a single
damaged bit cannot take away both."""


def write_safetensors(
    tensors: Mapping[str, Tensor], path: FilePath, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the file whole or not at all, with the digest of its names, types, shapes, numbers and metadata.

    The same content gives the same bytes: the library that reads the format writes metadata in any order.
    """
    held, said = _apart(tensors), {**(metadata or {}), MARK: "1"}
    header: dict[str, Any] = {"__metadata__": {**said, SUM: digest(held, said)}}
    place = 0
    names = sorted(held, key=lambda name: (-held[name].element_size(), name))  # all aligned without gaps
    for name in names:
        tensor = held[name]
        if tensor.dtype not in TYPES:
            raise RunError(f"'{name}' is {tensor.dtype}, which safetensors files do not hold")
        end = place + tensor.numel() * tensor.element_size()
        about = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        header[name], place = about, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as partial, partial.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(held[name]))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256, hexadecimal, of tensors on the CPU by sorted name, with their types and shapes, and of the metadata."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; of tied weights each name gets a copy of its own, since the format knows no sharing."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def read_safetensors(path: FilePath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, the digest checked where there is one.

    Raises:
        UserError: a missing, truncated, damaged or foreign file.
    """
    from safetensors import SafetensorError, safe_open

    _exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, error) from error
    marks = [metadata.pop(SUM, None), metadata.get(MARK)]
    if marks != [None, None] and (None in marks or marks[0] != digest(tensors, metadata)):
        raise UserError(f"{path} is damaged: its digest is another than when it was written; restore a copy")
    metadata.pop(MARK, None)
    return tensors, metadata


def read_metadata(path: FilePath) -> dict[str, str]:
    """The metadata alone, for which no tensor is read and no digest checked."""
    from safetensors import SafetensorError, safe_open

    _exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, error) from error
    return {key: value for key, value in metadata.items() if key not in (MARK, SUM)}


def _exists(path: FilePath) -> None:
    if not path.is_file():
        raise UserError(f"no such file: {path}")


def _broken(path: FilePath, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{path} is not a whole safetensors file ({reason}); delete it or restore a copy")


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Tensor], path: FilePath, without: Collection[str] = ()
) -> None:
    """`load_state_dict` whose complaint is one line, see `refuse_others`; NaN is refused as well.

    Names `without` which the file is whole stay as they are in the model.
    """
    own = {name: value for name, value in model.state_dict().items() if name not in without}
    refuse_others(own, tensors, path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = ~tensor.isfinite() & (tensor != own[name].to(tensor.device, tensor.dtype))
            if bool(bad.any()):
                raise UserError(f"{path} holds NaN or infinity in '{name}'; restore a copy from before")
    model.load_state_dict(dict(tensors), strict=not without)


def refuse_others(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: FilePath) -> None:
    """Compares a file's names, shapes and kinds of numbers with a model's.

    Raises:
        UserError: how many differ, and the first that does.
    """
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    if missing or extra or shapes:
        example = (
            f"'{shapes[0]}' is {tuple(tensors[shapes[0]].shape)} there and {tuple(own[shapes[0]].shape)} here"
            if shapes
            else f"'{(missing or extra)[0]}' is {'missing there' if missing else 'unknown here'}"
        )
        raise UserError(
            f"{path} holds weights of another architecture: {len(missing)} missing, {len(extra)} unknown, "
            f"{len(shapes)} of another shape, e.g. {example}"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            kinds = " ".join(f"{tensor.dtype} there and {own[name].dtype} here".replace("torch.", "").split())
            raise UserError(f"{path} holds weights of another kind: '{name}' is {kinds}")
