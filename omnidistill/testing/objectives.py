"""Conformance of objectives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.objectives.base import Objective, StudentSpec
from omnidistill.objectives.step import Step
from omnidistill.random import generator
from omnidistill.tasks import Task
from omnidistill.testing.base import Report, rewritten, seeded
from omnidistill.training.roles import Cast, cast, missing


def check_objective(
    objective: Objective,
    task: Task,
    *,
    batch: int = 4,
    student: StudentSpec = StudentSpec(),
    teacher: Denoiser | None = None,
    guidance: bool = False,
    target_time: bool = False,
    seed: int = 0,
) -> list[str]:
    """Runs every role that the objective declares once. Properties, in order:

    1. Path and task offer what the objective says it needs.
    2. The student has losses; every loss is a finite scalar, every diagnostic detached.
    3. The gradient reaches the parameters that the role trains, is finite there, and reaches no others.
    4. The network calls made are those that `cost` declares, model by model; of an objective with `phases` on average.
    5. Losses depend on the generator alone and change no model.
    6. Padding changes no loss, neither what it holds nor how much there is (where the batch has a mask).

    Args:
        task: gives data, path, networks and, if `teacher` is not given, the closed-form teacher.
        batch: samples in the batch.
        student: how the student is asked; `cost` is declared for one step.
        guidance: the student's network takes the guidance scale as an input, even where the objective draws none.
        target_time: it takes the time that it jumps to, as under `student.target_time=true`.

    Raises:
        ConformanceError: the first property that fails.
    """
    report = Report(f"objective {type(objective).__name__}")
    data = task.batch(batch, seeded(seed))
    lacking = missing(objective, task.path, data=data.x0 is not None, condition=task.conditional)
    report.require(not lacking, "path and task offer what it needs", f"missing {', '.join(lacking)}")
    scales = getattr(objective, "guidance_range", None)
    teacher, crew = _crew(objective, task, teacher, guidance or scales is not None, target_time, seed)
    bank = _bank(objective, task, teacher, batch, seed)

    phases = getattr(objective, "phases", 1)

    def step(role: str, of: Batch, phase: int = 0) -> Step:
        models = {"teacher": teacher, **crew.models}
        g = generator(seed, role)
        like = task.like(of.count, context=of.context) if of.x0 is None else torch.empty_like(of.x0)
        kept: dict[str, Any] = {"null": task.null, "bank": bank, "guidance_range": scales}
        return Step(role, of, models, g, like=like, student=student, update=phase, total=phases, **kept)

    for role in dict.fromkeys(crew.turns):
        with report.section(f"losses of role '{role}'"):
            _check_role(report, objective, crew, teacher, role, partial(step, role), data, seed)
    return report.lines


def _check_role(
    report: Report,
    objective: Objective,
    crew: Cast,
    teacher: Denoiser,
    role: str,
    step: Callable[..., Step],
    data: Batch,
    seed: int,
) -> None:
    own = [
        parameter
        for model in crew.parts[role]
        for name, parameter in crew.models[model].named_parameters()
        if name in crew.trainable[model]
    ]
    everyone: dict[str, nn.Module] = {"teacher": teacher, **crew.models}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in everyone.items()}
    calls = {name: model.calls for name, model in everyone.items() if isinstance(model, Denoiser)}
    for parameter in own:
        parameter.requires_grad_(True)
    try:
        losses = objective.losses(role, step(data))
        report.require(losses is not None, f"role '{role}' is trained, so it has losses", losses)
        assert losses is not None
        for name, term in losses.terms.items():
            scalar = term.ndim == 0 and bool(torch.isfinite(term))
            report.require(scalar, f"{role}: loss '{name}' is a finite scalar", term)
        for name, value in losses.diagnostics.items():
            loose = not value.requires_grad
            report.require(loose, f"{role}: diagnostic '{name}' is detached", "it carries a graph")
        total = _total(losses.terms)
        report.require(
            total.requires_grad, f"{role}: the loss depends on the role's parameters", "it has no graph"
        )
        total.backward()
        _check_gradients(report, crew, teacher, role)
    finally:
        for parameter in own:
            parameter.requires_grad_(False)
            parameter.grad = None
    phases = getattr(objective, "phases", 1)
    for phase in range(1, phases):
        with torch.no_grad():
            objective.losses(role, step(data, phase))
    made = {
        name: (model.calls - calls[name]) / phases
        for name, model in everyone.items()
        if isinstance(model, Denoiser) and model.calls != calls[name]
    }
    declared = {name: count for name, count in objective.cost(role).items() if count}
    same = made.keys() == declared.keys() and all(math.isclose(made[name], declared[name]) for name in made)
    report.require(same, f"{role}: cost declares the calls that are made", f"{made} for {declared}")
    for name, model in everyone.items():
        kept = all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items())
        report.require(kept, f"{role}: computing losses changes no model", f"'{name}' changed")
    _check_repeats(report, objective, role, step, data, total.detach(), seed)


def _check_gradients(report: Report, crew: Cast, teacher: Denoiser, role: str) -> None:
    for name in crew.parts[role]:
        gradients = [p.grad for p in crew.models[name].parameters() if p.grad is not None]
        moved = any(bool((g != 0).any()) for g in gradients)
        report.require(moved, f"{role}: the gradient reaches '{name}'", "no parameter of it gets any")
        finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        report.require(finite, f"{role}: the gradient of '{name}' is finite", "NaN or infinite")
    for name, model in {"teacher": teacher, **crew.models}.items():
        if name not in crew.parts[role]:
            none = all(p.grad is None for p in model.parameters())
            report.require(none, f"{role}: no other model gets a gradient", f"'{name}' got one")


def _check_repeats(report, objective, role, step, data, total, seed) -> None:  # type: ignore[no-untyped-def]
    def loss(of: Batch) -> Tensor:
        with torch.no_grad():
            return _total(objective.losses(role, step(of)).terms)

    first, again = loss(data), loss(data)
    # Without a graph other kernels may run, so that the last bit may differ from the loss that was differentiated.
    same = torch.equal(first, again) and torch.allclose(first, total, rtol=1e-5, atol=1e-7)
    report.require(same, f"{role}: losses repeat under one seed", f"{total}, {first} and {again}")
    if data.context.mask is None or data.x0 is None:
        return
    axis = _ragged_axis(data.context.mask)
    size = data.context.mask.shape[axis]
    # Two more columns of padding in every sample, then other content there, then without these columns.
    mask = data.context.mask & _columns(data.context.mask, axis, size - 2)
    long = replace(data, context=replace(data.context, mask=mask))
    g = seeded(seed)
    fields = {name: rewritten(x, mask, g) for name, x in _aligned(long).items()}
    short = {name: x.narrow(axis, 0, size - 2) for name, x in {**_aligned(long), "mask": mask}.items()}
    first = loss(long)
    changes = {"what padding holds": fields, "how much padding there is": short}
    if objective.bank is not None:  # stored trajectories have the length that they were made with
        changes.pop("how much padding there is")
    for what, other in changes.items():
        x0 = other.pop("x0")
        found = loss(Batch(x0, replace(long.context, **other), extra=data.extra))
        near = torch.allclose(found, first, rtol=1e-4, atol=1e-6)
        report.require(near, f"{role}: {what} changes no loss", f"{float(first):.6g} and {float(found):.6g}")


def _ragged_axis(mask: Tensor) -> int:
    """The axis along which samples end: the longest one of the mask behind the batch."""
    return max(range(1, mask.ndim), key=lambda axis: mask.shape[axis])


def _columns(mask: Tensor, axis: int, stop: int) -> Tensor:
    index = torch.arange(mask.shape[axis], device=mask.device) < stop
    return index.reshape([-1 if i == axis else 1 for i in range(mask.ndim)])


def _aligned(batch: Batch) -> dict[str, Tensor]:
    """The tensors that are as long as the sample."""
    found = {"x0": batch.x0, "anchor": batch.context.anchor}
    return {name: x for name, x in found.items() if x is not None}


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([term.reshape(()) for term in terms.values()]).sum()


def _crew(
    objective: Objective, task: Task, teacher: Denoiser | None, guidance: bool, target_time: bool, seed: int
) -> tuple[Denoiser, Cast]:
    """Teacher and models. Their networks differ and have no zero layers: two equal models would have no gap."""

    def network(told: bool, jumps: bool, key: str) -> NetworkDenoiser:
        bare = task.network(guidance=told, target_time=jumps)
        g = generator(seed, key)
        with torch.no_grad():
            for parameter in bare.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=g))
        return NetworkDenoiser(bare, task.path, **{**task.reading(), "target_time": jumps})

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        origin, student = network(False, False, "origin"), network(guidance, target_time, "student")
        teacher = teacher or task.exact_teacher() or network(False, False, "teacher")
        crew = cast(student, origin, objective, ema=0.9)
    return teacher.requires_grad_(False), crew


def _bank(
    objective: Objective, task: Task, teacher: Denoiser, count: int, seed: int
) -> dict[str, Any] | None:
    spec = objective.bank
    if spec is None:
        return None
    context = task.contexts(count, seeded(seed))
    made = task.sampler().sample(
        teacher, task.like(count, context=context), spec.steps, context, g=seeded(seed), keep=True
    )
    states = made.states if spec.states else (made.states[0], made.states[-1])
    times = made.times if spec.states else (made.times[0], made.times[-1])
    return {
        "states": torch.stack(states, 1),
        "times": torch.tensor(times, dtype=torch.float64),
        "context": context,
    }
