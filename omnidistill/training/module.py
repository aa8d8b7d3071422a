"""The engine: walks the turns of a student update, with an optimiser for each trained role."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.routed import Drawn, Route, Routed
from omnidistill.errors import RunError, UserError
from omnidistill.objectives.base import Objective, StudentSpec
from omnidistill.objectives.step import Step
from omnidistill.random import generator, layers_own_draws
from omnidistill.training.averages import Followers
from omnidistill.training.bank import Bank
from omnidistill.training.blocks import recompute
from omnidistill.training.lag import lags
from omnidistill.training.optimisers import Optimisers
from omnidistill.training.parts import Draws, PartGenerator, rows
from omnidistill.training.ranks import Ranks
from omnidistill.training.renewal import renew
from omnidistill.training.roles import STUDENT, TEACHER, Cast
from omnidistill.training.settings import Settings
from omnidistill.training.shown import Shown

Shape = Callable[[int, torch.device, Context], Tensor]


class Distillation(nn.Module):
    """Cast, teachers, optimisers and counters; `training_step` is one student update.

    Every draw depends on (seed, update, turn) alone, so a run continued from update n repeats what an uninterrupted
    one does. What belongs to the step as a whole (which of the student's steps is trained, which teacher is asked) is
    drawn alike by all processes; of data and noise each takes its rows of what the whole batch would have drawn.

    Args:
        teacher: one (`Drawn` is another in each turn), or several by name. Several are all there under their names;
            where none of them is called `teacher`, `route` says who that is.
        route: `drawn`, one of several teachers for each turn; or a function from the context to the index of a teacher
            for each sample, Long[b], in the order of their names.
        ranks: this process among several; a batch of `settings.batch` samples is theirs together.
    """

    def __init__(
        self,
        cast: Cast,
        teacher: Denoiser | Mapping[str, Denoiser] | None,
        objective: Objective,
        settings: Settings,
        like: Shape,
        *,
        student: StudentSpec = StudentSpec(),
        null: Null | None = None,
        bank: Bank | None = None,
        route: Route | str = "drawn",
        ranks: Ranks = Ranks(),
    ) -> None:
        super().__init__()
        self.cast, self.objective, self.settings = cast, objective, settings
        self.trained = nn.ModuleDict(cast.models)
        if settings.recompute:
            for name in {name for part in cast.parts.values() for name in part}:
                recompute(getattr(cast.models[name], "network", cast.models[name]))
        several = dict(teacher) if isinstance(teacher, Mapping) else {}
        single = None if isinstance(teacher, Mapping) else teacher
        self.teacher = None if single is None else single.eval().requires_grad_(False)
        self.teachers = nn.ModuleDict(
            {name: one.eval().requires_grad_(False) for name, one in several.items()}
        )
        if self.teachers.keys() & self.trained.keys():
            raise UserError(
                f"a teacher has a role's name: {sorted(self.teachers.keys() & self.trained.keys())[0]}"
            )
        self.routed = Routed(several, route) if callable(route) else None
        self.like, self.spec, self.null, self.bank = like, student, null, bank
        self.ranks = ranks
        self.update = 0
        self.optimisers = Optimisers(cast, dict(self.trained.items()), settings, ranks)
        self.calls: Counter[str] = Counter()
        self.seconds = 0.0
        self.bound_to_end = False
        self.shown: dict[str, float] = {}
        self.warned: list[str] = []
        self.pulse: Callable[[Distillation], None] = lambda module: None
        self._followers: Followers | None = None

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        owned = self.optimisers.owned.get(
            STUDENT
        )  # where it is known already: a walk over all modules takes a while
        return (owned[0] if owned else next(self.trained[STUDENT].parameters())).device

    @property
    def role_updates(self) -> Counter[str]:
        """Updates taken, by role."""
        return self.optimisers.updates

    def loss_of(self, role: str, batch: Batch, keys: tuple[int | str, ...]) -> Tensor:
        """The sum of a role's losses on a batch, of draws that nothing else sees."""
        step, seed = self._step(role, batch, 0, self._models(0), None, batch.count, keys)
        with layers_own_draws(seed, self.device), self._autocast():
            losses = self.objective.losses(role, step)
        assert losses is not None
        return torch.stack([term.float() for term in losses.terms.values()]).sum()

    # --- one student update -----------------------------------------------------------------------------------------

    def training_step(self, batches: list[Batch], index: int) -> None:
        """One student update: every role's turns, a batch for each, then averages, counters and the pulse."""
        began = time.perf_counter()
        log = (self.update + 1) % self.settings.log_every == 0 or self.update == 0
        shown: dict[str, float] = {}
        for turn, (role, batch) in enumerate(zip(self.cast.turns, batches, strict=True)):
            if self._rests(role):
                continue
            # Of a role's several updates the last one is shown: the state the student meets.
            last = role not in self.cast.turns[turn + 1 :]
            shown.update(self._turn(role, batch, turn, log and last))
        self.update += 1
        if self._followers is None:
            self._followers = Followers(dict(self.trained.items()), self.cast)
        self._followers.follow(self.update, self.settings.updates)
        asked = self.settings.lag_every and self.update % self.settings.lag_every == 0
        if log and asked and self.ranks.world == 1:
            shown |= {f"diagnostics/{name}": value for name, value in lags(self, batches).items()}
        self.seconds += time.perf_counter() - began
        if log:
            self.shown = shown
        self.pulse(self)

    def _rests(self, role: str) -> bool:
        """Whether a role is not trained at this point of the run; who has one that ever does is bound to its length."""
        spec = self.cast.roles[role]
        if spec.since is None and spec.until is None:
            return False
        self.bound_to_end = True
        return spec.rests(self.update / max(1, self.settings.updates))

    def _turn(self, role: str, batch: Batch, turn: int, log: bool) -> dict[str, float]:
        """One update of one role, in as many parts as are asked for."""
        parameters = self.optimisers.parameters(role)
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        # A term's own gradient is not added up between shards, so there it is not shown.
        shown = Shown(role, parameters, log, each=log and not self.ranks.sharded)
        renew(self, role, turn)
        models = self._models(turn)
        before = {name: model.calls for name, model in models.items() if isinstance(model, Denoiser)}
        whole = batch.count if self.ranks.world == 1 else self.settings.batch
        parts = self.ranks.parts(whole, self.settings.accumulate)
        entire = len(parts) == self.ranks.world == 1
        for where in parts:
            with nullcontext() if entire else Draws():
                step, seed = self._step(
                    role, batch, turn, models, None if entire else where, whole, logged=log
                )
                with layers_own_draws(seed, self.device), self._autocast():
                    losses = self.objective.losses(role, step)
            self.bound_to_end |= step.asked_total
            if losses is None:
                raise RunError(f"role '{role}' is trained but no objective has a loss for it")
            total = torch.stack([term.float() for term in losses.terms.values()]).sum()
            share = step.batch.count / max(1, whole)
            shown.add(losses, total, share)
            if total.requires_grad:
                (total if entire else share * total).backward()
        self.ranks.add_gradients(parameters)
        shown.merge(self.ranks)
        self.optimisers.step(role, shown, self.update)
        for parameter in parameters:
            parameter.requires_grad_(False)
        for name, count in before.items():
            # Parts of one batch are one question.
            self.calls[name] += (models[name].calls - count) // len(parts)  # type: ignore[operator, assignment]
        return shown.figures() if log else {}

    def _models(self, turn: int) -> dict[str, nn.Module]:
        models = dict(self.trained.items()) | dict(self.teachers.items())
        whole: nn.Module | None = self.routed if self.teacher is None else self.teacher
        among: list[nn.Module] = []
        if isinstance(whole, Drawn):
            among = [one for _, one in whole.denoisers]
        elif whole is None and TEACHER not in self.teachers:
            among = list(self.teachers.values())
        if among:
            g = generator(self.settings.seed, "which teacher", self.update, turn)
            whole = among[int(torch.randint(len(among), (), generator=g))]
        if whole is not None:
            models[TEACHER] = whole
        return models

    def _step(
        self,
        role: str,
        batch: Batch,
        turn: int,
        models: dict[str, nn.Module],
        where: slice | None,
        whole: int,
        apart: tuple[int | str, ...] = (),
        logged: bool = True,
    ) -> tuple[Step, int]:
        """The workbench of a turn, or of the rows `where` of its batch of `whole` samples, and a seed for what layers
        draw by themselves. `apart` names draws that are not the turn's own."""
        keys = (self.settings.seed, "step", self.update, turn, 0, *apart)
        g = generator(*keys, device=self.device)
        start = 0 if where is None else where.start
        seed = g.initial_seed() if start == 0 else generator(*keys, "from row", start).initial_seed()
        bank = self._bank_batch(whole, turn)
        if where is not None:
            g = PartGenerator.of(g, where, whole, batch.context.mask)
            # A process may have been given its own rows alone.
            before = 0 if batch.count == whole else self.ranks.own(whole).start
            batch = rows(batch, slice(where.start - before, where.stop - before))
            if bank is not None:
                bank |= {"states": bank["states"][where], "context": bank["context"][where]}
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
            bank=bank,
            guidance_range=getattr(self.objective, "guidance_range", None),
            structure=generator(self.settings.seed, "structure", self.update, turn, *apart),
            logged=logged,
        )
        return step, seed

    def _autocast(self) -> torch.autocast:
        # Without the cache: several optimiser steps happen in one update, and a cached bf16 copy of a weight would
        # be stale after the first; a copy cached under no_grad would even cut the gradient.
        on = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def _bank_batch(self, count: int, turn: int) -> dict[str, Any] | None:
        if self.bank is None:
            return None
        g = generator(self.settings.seed, "bank", self.update, turn, 0)
        return self.bank.rows(torch.randint(len(self.bank), (count,), generator=g), self.device)
