"""The condition that a user asks for: a label by its number or its name, for all samples or one for each."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Condition, Context, labels_of, relabelled
from omnidistill.errors import UserError, unknown
from omnidistill.tasks import Task


def asked_for(condition: Condition | int | str, drawn: Context, count: int, task: Task | None) -> Context:
    """The contexts drawn for `count` samples, under this condition.

    Raises:
        UserError: a task without conditions, no such label, or another number of labels than of samples.
    """
    if task is not None and not task.conditional:
        raise UserError(f"{task.name} is not conditional; leave condition out")
    if isinstance(condition, str):
        condition = label_number(condition, () if task is None else task.labels)
    if isinstance(condition, int):
        condition = torch.full((count,), condition, dtype=torch.long)
        if isinstance(drawn.condition, Mapping):
            condition = relabelled(drawn.condition, condition)
    if isinstance(condition, Tensor) and condition.shape[0] != count:
        raise UserError(
            f"condition has {condition.shape[0]} entries for count={count} samples; give one for each"
        )
    classes = None if task is None else task.classes
    if classes is not None and (labels := labels_of(condition)) is not None:
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise UserError(f"condition is a label from 0 to {classes - 1}, got {int(wrong[0])}")
    return replace(drawn, condition=condition)


def label_number(name: str, labels: Sequence[str]) -> int:
    """The number of a label given by its name or, where no label is called so, as a number."""
    name = unicodedata.normalize("NFC", name)
    if name in labels:
        return list(labels).index(name)
    if not name.isascii() or not name.isdecimal():
        if not labels:
            raise UserError(f"condition is a label's number here, a whole number >= 0, got '{name}'")
        raise unknown("label", name, labels)
    return int(name)
