"""The one way from elementwise losses to a number."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.shapes import Scalar


def reduce(
    elementwise: Float[Tensor, "b ..."],
    weight: Float[Tensor, "..."] | float = 1.0,
    mask: Bool[Tensor, "..."] | None = None,
    where: Bool[Tensor, "..."] | None = None,
) -> Scalar:
    """Weighted mean over the real elements of a sample, then mean over samples: a scalar.

    Args:
        weight: w(t): a number; [b]; or one per element, with as many axes as `elementwise` and in each its size or 1,
            e.g. [b 1 f 1 1] for one weight a frame.
        mask: True where an element is real, with as many axes and in each its size or 1; padding never counts.
        where: True where a loss is wanted (unresolved elements), likewise; the others count as zero, so that a sample's
            loss is a sum over its undecided elements divided by its length.

    Raises:
        UserError: a shape that would only happen to broadcast (one weight a frame where frames are as many as channels
            or samples).
    """
    weight = torch.as_tensor(weight, device=elementwise.device).to(elementwise.dtype)
    if weight.ndim == 1:
        weight = weight.reshape(-1, *(1 for _ in elementwise.shape[1:]))
    for name, value in (("weight", weight), ("mask", mask), ("where", where)):
        _fits(name, value, elementwise)
    elementwise = weight * elementwise
    if where is not None:
        elementwise = torch.where(where, elementwise, 0.0)
    if mask is None:
        sample = elementwise.flatten(1).mean(1)
    else:
        real = mask.expand(elementwise.shape)
        count = real.flatten(1).sum(1).clamp_min(1)
        sample = torch.where(real, elementwise, 0.0).flatten(1).sum(1) / count
    return sample.mean()


def _fits(name: str, value: Tensor | None, elementwise: Tensor) -> None:
    """An error unless `value` is a number or has the axes of the loss, in each its size or 1."""
    if value is None or value.ndim == 0:
        return
    shape, full = tuple(value.shape), tuple(elementwise.shape)
    if len(shape) != len(full) or any(n not in (1, m) for n, m in zip(shape, full, strict=True)):
        raise UserError(
            f"{name} of shape {shape} does not say which axes of a loss of {full} it belongs to; "
            "give it as many axes, of these sizes or 1"
        )
