"""What a turn of a role is remembered by, for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from omnidistill.objectives.base import Losses
from omnidistill.training.ranks import Ranks, add_up
from omnidistill.training.roles import STUDENT


class Shown:
    """What a turn is remembered by: terms and diagnostics, each part by its share; norms only where they are logged."""

    def __init__(self, role: str, parameters: list[nn.Parameter], log: bool, *, each: bool) -> None:
        self.role, self.parameters, self.log, self.each = role, parameters, log, each
        self.terms: Mapping[str, Tensor] = {}
        self.diagnostics: Mapping[str, Tensor] = {}
        self.gradients: dict[str, list[Tensor | None]] = {}
        self.total, self.norm, self.lr = torch.zeros(()), torch.zeros(()), 0.0

    def add(self, losses: Losses, total: Tensor, share: float) -> None:
        """Losses of a part with this share of the samples, before their backward pass."""
        if share == 1.0:
            self.terms, self.diagnostics, self.total = losses.terms, losses.diagnostics, total.detach()
        else:
            self.terms, self.diagnostics = (
                {
                    name: (share if value.ndim == 0 else 1.0) * value.detach() + kept.get(name, 0.0)
                    for name, value in found.items()
                }
                for kept, found in ((self.terms, losses.terms), (self.diagnostics, losses.diagnostics))
            )
            self.total = self.total.to(total.device) + share * total.detach()
        if self.each and len(losses.terms) > 1:
            self._add_gradients(losses, share)

    def _add_gradients(self, losses: Losses, share: float) -> None:
        """The gradient of each term alone: which of them steers the role."""
        for name, term in losses.terms.items():
            found: Sequence[Tensor | None] = [None] * len(self.parameters)
            if term.requires_grad:
                found = torch.autograd.grad(term, self.parameters, retain_graph=True, allow_unused=True)
            sofar = self.gradients.get(name)
            if share != 1.0:
                found = [None if g is None else share * g for g in found]
            if sofar is not None:
                found = [
                    b if a is None else a if b is None else a + b for a, b in zip(sofar, found, strict=True)
                ]
            self.gradients[name] = list(found)

    def merge(self, ranks: Ranks) -> None:
        """Sums over all processes: of the total always, of what is shown where it is."""
        if ranks.world == 1:
            return
        self.total = ranks.total(self.total)
        if not self.log:
            return
        self.terms, self.diagnostics = (
            {
                name: torch.tensor(value)
                for name, value in ranks.merged(
                    {name: value.tolist() for name, value in found.items()}
                ).items()
            }
            for found in (self.terms, self.diagnostics)
        )
        for name, found in self.gradients.items():
            whole = [
                torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)
            ]
            add_up(whole)
            self.gradients[name] = list(whole)

    def figures(self) -> dict[str, float]:
        """By name, as the log has them: terms, norms and ratios of their gradients, rate, diagnostics."""
        shown = {}
        for name, gradients in self.gradients.items():
            squares = [g.detach().float().square().sum() for g in gradients if g is not None]
            shown[f"diagnostics/grad_norm/{name}"] = (
                float(torch.stack(squares).sum().sqrt()) if squares else 0.0
            )
        norms = [shown[f"diagnostics/grad_norm/{name}"] for name in self.gradients]
        # The first term is what the others are added to.
        for name, norm in list(zip(self.gradients, norms, strict=True))[1:]:
            if self.role == STUDENT and norms[0] > 0.0:
                shown[f"diagnostics/grad_ratio/{name}"] = norm / norms[0]
        shown |= {f"{self.role}/{name}": float(value.detach()) for name, value in self.terms.items()}
        shown |= {f"{self.role}/grad_norm": float(self.norm), f"{self.role}/lr": self.lr}
        return shown | {
            f"diagnostics/{name}": float(value if value.ndim == 0 else value[0] / value[1])
            for name, value in self.diagnostics.items()
            if value.ndim == 0 or value[1] > 0
        }
