"""Preference pairs in a file: `better` and `worse` [n ...], row i of both under condition i, in safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath

from torch import Tensor

from omnidistill.context import Context
from omnidistill.data import tensors
from omnidistill.errors import UserError
from omnidistill.paths import Path

PARTS = ("better", "worse", "condition", "mask")


@dataclass(frozen=True)
class Pairs:
    """Samples of which somebody preferred the first.

    Attributes:
        better, worse: Float[n ...] or Long[n l], scaled as the teacher's data.
        context: the condition under which both were made and, of ragged samples, the mask of both.
        file: where they come from, for messages.
    """

    better: Tensor
    worse: Tensor
    context: Context
    file: str

    def __len__(self) -> int:
        return len(self.better)

    def rows(self, index: Tensor, like: Tensor, path: Path) -> tuple[Tensor, Tensor, Context]:
        """These pairs, Long[b], on the device and in the dtype of `like`, whose samples they have to be like."""
        if self.better.shape[1:] != like.shape[1:]:
            raise UserError(
                f"{self.file} has pairs {tuple(self.better.shape[1:])}, the task's samples are {tuple(like.shape[1:])}"
            )
        index = index.cpu()
        better, worse = (
            tensors.states(side[index], path).to(like.device) for side in (self.better, self.worse)
        )
        if like.is_floating_point():
            better, worse = better.to(like.dtype), worse.to(like.dtype)
        return better, worse, self.context[index].to(like.device)


def read(file: str | FilePath) -> Pairs:
    """
    Raises:
        UserError: no such file; not safetensors; one side of the pairs is missing, or has another shape; numbers that
            are NaN; a tensor of another name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = FilePath(file)
    if not path.is_file():
        raise UserError(f"pairs={path} is no file; give one of safetensors with `better` and `worse`")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({' '.join(str(error).split())})") from error
    if stray := sorted(found.keys() - set(PARTS)):
        raise UserError(f"{path} has a tensor '{stray[0]}'; pairs have {', '.join(PARTS)}")
    for side, other in (("worse", "better"), ("better", "worse")):
        if side not in found:
            raise UserError(
                f"{path} has one-sided pairs: there is no `{side}` beside `{other}`; give the other side of each"
            )
    better, worse = found["better"], found["worse"]
    if better.shape != worse.shape or better.dtype != worse.dtype or better.ndim < 2 or not len(better):
        raise UserError(
            f"{path}: pairs have two sides alike, [n ...]; better is {better.dtype} {tuple(better.shape)}, worse "
            f"{worse.dtype} {tuple(worse.shape)}"
        )
    for name in ("condition", "mask"):
        if name in found and len(found[name]) != len(better):
            raise UserError(
                f"{path}: {name} has {len(found[name])} rows for {len(better)} pairs; give one for each"
            )
    for name, samples in (("better", better), ("worse", worse)):
        if samples.is_floating_point() and (bad := int((~samples.isfinite()).flatten(1).any(1).sum())):
            raise UserError(f"{path}: {bad} rows of {name} hold NaN or infinity; leave these pairs out")
    same = (better == worse).flatten(1).all(1)
    if bool(same.all()):
        raise UserError(f"{path}: better and worse are the same samples, which prefers nothing")
    mask = found.get("mask")
    context = tensors.context(Context(found.get("condition"), mask=None if mask is None else mask.bool()))
    return Pairs(better, worse, context, str(path))
