"""The one Lightning module: walks the turns of a student update, with an optimiser for each trained role."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.errors import RunError
from omnidistill.objectives.base import Losses, Objective, StudentSpec
from omnidistill.objectives.step import Step
from omnidistill.random import generator
from omnidistill.training.roles import EMA, STUDENT, Cast
from omnidistill.training.settings import Settings

Shape = Callable[[int, torch.device, Context], Tensor]


class Distillation(L.LightningModule):
    """Manual optimisation: Lightning's loop calls `training_step` once per student update.

    It keeps its own count `update`, because `trainer.global_step` adds up the steps of all optimisers. Every draw
    depends on (seed, update, turn) alone, so a run continued from update n repeats what an uninterrupted one does.
    """

    automatic_optimization = False

    def __init__(
        self,
        cast: Cast,
        teacher: Denoiser | None,
        objective: Objective,
        settings: Settings,
        like: Shape,
        *,
        student: StudentSpec = StudentSpec(),
        null: Null | None = None,
        bank: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.cast, self.objective, self.settings = cast, objective, settings
        self.trained = nn.ModuleDict(cast.models)
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.like, self.spec, self.null, self.bank = like, student, null, bank
        self.update = 0
        self.role_updates: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.seconds = 0.0
        self.shown: dict[str, float] = {}
        self.pulse: Callable[[Distillation], None] = lambda module: None

    # --- optimisers -----------------------------------------------------------------------------------------------

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        return [p for name in self.cast.parts[role] for p in self.trained[name].parameters()]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        o = self.settings.optim
        # foreach, not fused: fused AdamW on the CPU is wrong where gradient and parameter differ in memory format.
        return [
            torch.optim.AdamW(
                self.parameters_of(role),
                lr=self._lr(role),
                betas=o.betas,
                weight_decay=o.weight_decay,
                foreach=True,
            )
            for role in self.cast.parts
        ]

    def _lr(self, role: str) -> float:
        scale = self.cast.roles[role].lr
        return self.settings.optim.lr * (1.0 if scale is None else scale)

    def role_optimizers(self) -> dict[str, Any]:
        optimizers = self.optimizers()
        return dict(
            zip(self.cast.parts, optimizers if isinstance(optimizers, list) else [optimizers], strict=True)
        )

    # --- one student update -----------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: list[Batch], device: torch.device, index: int) -> list[Batch]:
        return [part.to(device) for part in batch]

    def training_step(self, batches: list[Batch], index: int) -> None:
        began = time.perf_counter()
        optimizers = self.role_optimizers()
        log = (self.update + 1) % self.settings.log_every == 0 or self.update == 0
        shown: dict[str, float] = {}
        for turn, (role, batch) in enumerate(zip(self.cast.turns, batches, strict=True)):
            # Of a role's several updates the last one is shown: the state the student meets.
            last = role not in self.cast.turns[turn + 1 :]
            shown.update(self._turn(role, batch, turn, optimizers[role], log and last))
        self.update += 1
        self._follow()
        self.seconds += time.perf_counter() - began
        if log:
            self.shown = shown
        self.pulse(self)

    def _turn(self, role: str, batch: Batch, turn: int, optimizer: Any, log: bool) -> dict[str, float]:
        """One update of one role."""
        models = {name: model for name, model in self.trained.items()}
        if self.teacher is not None:
            models["teacher"] = self.teacher
        g = generator(self.settings.seed, "step", self.update, turn, self.global_rank, device=self.device)
        like = (
            self.like(batch.count, self.device, batch.context)
            if batch.x0 is None
            else torch.empty_like(batch.x0)
        )
        step = Step(
            role,
            batch,
            models,
            g,
            like=like,
            student=self.spec,
            update=self.update,
            total=self.settings.updates,
            null=self.null,
            bank=self._bank_batch(batch.count, turn),
            guidance_range=getattr(self.objective, "guidance_range", None),
        )
        parameters = self.parameters_of(role)
        for parameter in parameters:
            parameter.requires_grad_(True)
        before = {name: model.calls for name, model in models.items() if isinstance(model, Denoiser)}
        with self._layers_own_draws(g), self._autocast():
            losses = self.objective.losses(role, step)
        if losses is None:
            raise RunError(f"role '{role}' is trained but no objective has a loss for it")
        total = torch.stack([term.float() for term in losses.terms.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        shown = self._gradient_norms(losses, parameters) if log and len(losses.terms) > 1 else {}
        self.manual_backward(total)
        clip = self.settings.optim.clip
        norm = torch.nn.utils.clip_grad_norm_(
            parameters, clip if clip is not None else float("inf"), foreach=True
        )
        # Before the step: a finite loss may have a gradient that is not, and would be found only after a checkpoint.
        if not torch.isfinite(total.detach() + norm):
            raise RunError(self._diverged(role, losses))
        progress = self.update / self.settings.updates
        for group in optimizer.param_groups:
            group["lr"] = self._lr(role) * self.settings.optim.factor(self.role_updates[role], progress)
        optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
        self.role_updates[role] += 1
        for name, count in before.items():
            self.calls[name] += models[name].calls - count  # type: ignore[operator, assignment]
        if not log:
            return {}
        shown |= {f"{role}/{name}": float(value.detach()) for name, value in losses.terms.items()}
        shown |= {f"{role}/grad_norm": float(norm), f"{role}/lr": optimizer.param_groups[0]["lr"]}
        return shown | {f"diagnostics/{name}": float(value) for name, value in losses.diagnostics.items()}

    @contextmanager
    def _layers_own_draws(self, g: torch.Generator) -> Iterator[None]:
        """Dropout draws from torch's global generator, which no layer can be told to leave: it is seeded by the turn
        too, so that a resumed run drops the same units, and put back afterwards."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(g.initial_seed())
            yield

    def _autocast(self) -> torch.autocast:
        # Without the cache: several optimiser steps happen in one update, and a cached bf16 copy of a weight would
        # be stale after the first; a copy cached under no_grad would even cut the gradient.
        on = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def _bank_batch(self, count: int, turn: int) -> dict[str, Any] | None:
        if self.bank is None:
            return None
        g = generator(self.settings.seed, "bank", self.update, turn, self.global_rank)
        rows = torch.randint(self.bank["states"].shape[0], (count,), generator=g)
        states = self.bank["states"][rows].to(self.device)
        context = self.bank["context"][rows].to(self.device)
        return {"states": states, "times": self.bank["times"].to(self.device), "context": context}

    def _gradient_norms(self, losses: Losses, parameters: list[nn.Parameter]) -> dict[str, float]:
        """The gradient norm of each term alone: which of them steers the student."""
        norms = {}
        for name, term in losses.terms.items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [g.detach().float().square().sum() for g in gradients if g is not None]
            norms[f"diagnostics/grad_norm/{name}"] = (
                float(torch.stack(squares).sum().sqrt()) if squares else 0.0
            )
        return norms

    def _diverged(self, role: str, losses: Losses) -> str:
        bad = [name for name, value in losses.terms.items() if not torch.isfinite(value)]
        what = f"loss {', '.join(bad)}" if bad else "gradient"
        kept = self.update // self.settings.checkpoint_every * self.settings.checkpoint_every
        left = f"the checkpoint of update {kept} is kept" if kept else "there is no checkpoint yet"
        return (
            f"{role}'s {what} became NaN or infinite in update {self.update + 1}; {left}; "
            "try a lower optim.lr or optim.clip"
        )

    # --- models that follow the student -----------------------------------------------------------------------------

    @torch.no_grad()
    def _follow(self) -> None:
        roles = self.cast.roles.items()
        for name, average in ((name, spec.average) for name, spec in roles if spec.average is not None):
            # A short memory while there is little to remember.
            decay = min(average, (1.0 + self.update) / (10.0 + self.update))
            self._average(self.trained[name], self.trained[STUDENT], 1.0 - decay)
        # Then those that copy the average as it is now.
        for name, times in ((name, spec.refresh) for name, spec in roles if spec.refresh):
            done, before = (u * (times + 1) // self.settings.updates for u in (self.update, self.update - 1))
            if done > before:
                self._average(self.trained[name], self.trained[EMA], 1.0)

    @staticmethod
    def _average(average: nn.Module, model: nn.Module, share: float) -> None:
        mine: list[Tensor] = list(average.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(mine, theirs, share)
        for own, other in zip(average.buffers(), model.buffers(), strict=True):
            own.copy_(other)
