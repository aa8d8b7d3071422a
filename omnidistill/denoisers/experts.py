"""Several networks that share out the labels among them, as one: each sample is answered by the one of its label."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Condition, Context, labels_of
from omnidistill.errors import UserError


class Experts(nn.Module):
    """`count` copies of a network, each for an equal part of the labels 0 ... classes - 1 in their order (Song et al.
    2024, MSD, arXiv:2410.23274: each a student of its own, so a sample costs what one costs).

    Asked without a condition, or about the null label, the last one answers.
    """

    def __init__(self, network: nn.Module, count: int, classes: int) -> None:
        super().__init__()
        if not 2 <= count <= classes:
            raise UserError(f"student.experts are 2 to as many as there are labels, {classes}; got {count}")
        self.experts = nn.ModuleList([network, *(copy.deepcopy(network) for _ in range(count - 1))])
        self.count, self.classes = count, classes
        self.wants_target_time = getattr(network, "wants_target_time", False)
        self.wants_guidance = getattr(network, "guidance", None) is not None

    def of(self, labels: Tensor) -> Tensor:
        """Long[b]: whose a label is."""
        return (labels.clamp_max(self.classes - 1) * self.count).div(self.classes, rounding_mode="floor")

    def forward(self, x: Tensor, t: Tensor, condition: Condition = None, **keywords: Any) -> Tensor:
        if keywords.get("features"):
            raise UserError(
                "a student of experts has no features to read; let a discriminator read the critic or the teacher"
            )
        labels = labels_of(condition)
        if labels is None:
            return self.experts[-1](x, t, condition, **keywords)
        whose, parts, rows = self.of(labels), [], []
        for i, expert in enumerate(self.experts):
            here = (whose == i).nonzero().squeeze(1)
            if not len(here):
                continue
            own = {
                k: v[here] if isinstance(v, Tensor) and len(v) == len(x) else v for k, v in keywords.items()
            }
            parts.append(expert(x[here], t[here], Context(condition)[here].condition, **own))
            rows.append(here)
        # Back into the batch's order.
        return torch.cat(parts)[torch.cat(rows).argsort()]
