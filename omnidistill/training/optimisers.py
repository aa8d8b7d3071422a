"""An optimiser for each trained role, and the step it takes."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omnidistill.errors import RunError
from omnidistill.training.ranks import Ranks
from omnidistill.training.roles import Cast
from omnidistill.training.settings import Settings
from omnidistill.training.shown import Shown

PATIENCE = 20
"""So many updates from the start may a role's gradient be exactly zero, as where a batch happens to hold nothing to
learn, or a critic still is the teacher."""


class Optimisers:
    """AdamW of what each role trains, made when first asked for: the networks are on their device then.

    Attributes:
        updates: taken, by role.
        silent: how many of a role's updates from the start had a gradient of exactly zero.
        owned: what each role's optimiser moves, once somebody has asked.
    """

    def __init__(
        self, cast: Cast, trained: Mapping[str, nn.Module], settings: Settings, ranks: Ranks
    ) -> None:
        self.cast, self.trained, self.settings, self.ranks = cast, trained, settings, ranks
        self.updates: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()
        self._made: dict[str, torch.optim.Optimizer] = {}
        self.owned: dict[str, list[nn.Parameter]] = {}

    def parameters(self, role: str) -> list[nn.Parameter]:
        """What the role's optimiser moves: of its models whatever is not fixed."""
        if role not in self.owned:
            self.owned[role] = [
                parameter
                for model in self.cast.parts[role]
                for name, parameter in self.trained[model].named_parameters()
                if name in self.cast.trainable[model]
            ]
        return self.owned[role]

    def all(self) -> dict[str, torch.optim.Optimizer]:
        """Of every role, made when they are first asked for."""
        if not self._made:
            self._made = {role: self._make(role) for role in self.cast.parts}
        return self._made

    def like(self, role: str) -> torch.optim.Optimizer:
        """Another optimiser of the same parameters in the state that the role's own is in."""
        other = self._make(role)
        other.load_state_dict(copy.deepcopy(self.all()[role].state_dict()))
        return other

    def _make(self, role: str) -> torch.optim.Optimizer:
        # foreach, not fused: fused AdamW on the CPU is wrong where gradient and parameter differ in memory format.
        o, parameters = self.settings.optim, self.parameters(role)
        return torch.optim.AdamW(
            parameters, lr=self._lr(role), betas=o.betas, weight_decay=o.weight_decay, foreach=True
        )

    def _lr(self, role: str) -> float:
        scale = self.cast.roles[role].lr
        return self.settings.optim.lr * (1.0 if scale is None else scale)

    def step(self, role: str, shown: Shown, update: int) -> None:
        """Clips the gradients that are there, checks them, and moves the role's parameters by them.

        Raises:
            RunError: no gradient, one that is not finite, or zeros alone for `PATIENCE` updates.
        """
        parameters, optimizer = self.parameters(role), self.all()[role]
        if all(parameter.grad is None for parameter in parameters):
            raise RunError(
                f"no gradient reaches what '{role}' trains: its losses ({', '.join(shown.terms)}) do not depend on it"
            )
        norm = self._clipped(parameters)
        # Before the step: a finite loss may have a gradient that is not, and would be found only after a checkpoint.
        if not math.isfinite(float(shown.total + norm)):
            raise RunError(self._diverged(role, shown.terms, update))
        if self.silent[role] == self.updates[role] < PATIENCE:
            self.silent[role] += int(float(norm) == 0.0)
            if self.silent[role] == PATIENCE:
                raise RunError(
                    f"the gradient of '{role}' was exactly zero in its first {PATIENCE} updates; it learns nothing"
                )
        rate = self._lr(role) * self.settings.optim.factor(self.updates[role], update / self.settings.updates)
        for group in optimizer.param_groups:
            group["lr"] = rate
        shown.norm, shown.lr = norm, rate
        optimizer.step()
        self.updates[role] += 1

    def _clipped(self, parameters: list[nn.Parameter]) -> Tensor:
        """The norm of the gradients, which are no longer than the limit afterwards."""
        clip = self.settings.optim.clip
        limit = clip if clip is not None else float("inf")
        if self.ranks.sharded:
            from omnidistill.training.sharded import clip_

            return clip_(parameters, limit)
        return torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)

    def _diverged(self, role: str, terms: Mapping[str, Tensor], update: int) -> str:
        bad = [name for name, value in terms.items() if not torch.isfinite(value)]
        what = f"loss {', '.join(bad)}" if bad else "gradient"
        kept = update // self.settings.checkpoint_every * self.settings.checkpoint_every
        left = f"the checkpoint of update {kept} is kept" if kept else "there is no checkpoint yet"
        return (
            f"{role}'s {what} became NaN or infinite in update {update + 1}; {left}; "
            "try a lower optim.lr or optim.clip"
        )
