"""The student of a configuration: at its origin before the training, and as it is sampled afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser, Told
from omnidistill.denoisers.second import prefix, starting_weights
from omnidistill.errors import UserError
from omnidistill.objectives import Weighted
from omnidistill.random import generator
from omnidistill.runs.configured import guided, plain, sampler_of, task_of
from omnidistill.runs.student_options import adapter_of, chain_of, experts_of, is_told, policy_of
from omnidistill.samplers.walker import Settling, Walker, innermost, walkers
from omnidistill.student import (
    BASE,
    Recipe,
    assemble,
    described,
    headed,
    led,
)
from omnidistill.tasks import Task
from omnidistill.training.adapters import adapt, bare
from omnidistill.training.frozen import fixed, freeze
from omnidistill.training.roles import TEACHER
from omnidistill.training.safetensors_file import load_strictly


def wants_origin(task: Task, objective: Weighted, other: bool = False) -> bool:
    """Whether anybody starts as the teacher: a critic, or the student, unless that is a network of its own, or `other`
    than the teacher's."""
    student = task.student_network() is None and not other
    return student or any(spec.start == TEACHER for spec in objective.roles.values())


def of_student(cfg: DictConfig, task: Task) -> tuple[DictConfig, Task]:
    """Configuration and task as the student's network has them: `student.network` over `task.network`."""
    given = plain((cfg.get("student") or {}).get("network"))
    if not given:
        return cfg, task
    if "network" not in cfg.task or not isinstance(plain(cfg.task.network), Mapping | None):
        raise UserError(
            f"student.network={given} are other options than those of task.network, and {task.name} has none; "
            "leave it out"
        )
    if adapter_of(cfg) is not None:
        raise UserError(
            f"student.network={given} is another network than the teacher's, and an adapter lies over the teacher's; "
            "leave student.adapter out"
        )
    other = copy.deepcopy(cfg)
    with open_dict(other):
        other.task.network = {**(plain(cfg.task.network) or {}), **given}
    return other, task_of(other)


def _of_its_own(cfg: DictConfig, task: Task, network: nn.Module, device: str) -> tuple[Denoiser, Recipe]:
    """A student that is no copy of the teacher: what its network answers is the sample."""
    options = cfg.student
    for name in (
        "cells",
        "policy",
        "adapter",
        "guidance",
        "inference",
        "sizes",
        "target_time",
        "sigma_init",
        "new_condition",
        "network",
    ):
        if options.get(name):
            raise UserError(
                f"the student of {task.name} is a network of its own, no copy of the teacher's; leave "
                f"student.{name}={plain(options[name])} out"
            )
    recipe = Recipe(
        task=described(plain(cfg.task), task),
        reading={"parameterisation": "x0", "time_input": "t"},
        transition=options.transition,
        times=plain(options.times),
        shift=options.shift,
        gamma=options.gamma,
        steps=options.steps,
        made_by={"recipe": cfg.recipe.name, "seed": cfg.seed, "updates": cfg.updates},
        own_network=True,
    )
    return assemble(network.to(device), task.path, recipe), recipe


def student_of(
    cfg: DictConfig, task: Task, origin: NetworkDenoiser | None, device: str
) -> tuple[Denoiser, Recipe]:
    """The student at the origin's weights. Second embeddings start at zero, so its first answers are the origin's. A
    task's own student network needs no origin.

    Walkers that learn are around it, over a frozen network; others come after the training, see `finished`.
    """
    torch.manual_seed(cfg.seed)
    own = task.student_network()
    if own is not None:
        return _of_its_own(cfg, task, own, device)
    assert origin is not None
    options = cfg.student
    cells, made = options.get("cells"), policy_of(cfg, task)
    if made is not None and (cells is not None or adapter_of(cfg) is not None):
        raise UserError(
            f"student.policy={made[0]} has a last layer of its own; leave student.cells and student.adapter out"
        )
    if cells is not None and (options.target_time or adapter_of(cfg) is not None):
        raise UserError(
            f"student.cells={cells} tells the student where it jumps, and its last layer is a new one; leave "
            "student.target_time and student.adapter out"
        )
    experts = experts_of(cfg, task)
    told = is_told(cfg, task)
    recipe = Recipe(
        task=described(plain(cfg.task), task),
        reading={
            **origin.reading(),
            "target_time": told,
            **({} if cells is None else {"cells": cells}),
            **({} if experts is None else {"experts": experts}),
            **({} if made is None else {"policy": made}),
            **({} if options.get("sigma_init") is None else {"sigma_init": options.sigma_init}),
        },
        target_time=told,
        guided=options.guidance is not None,
        transition=options.transition,
        times=plain(options.times),
        shift=options.shift,
        gamma=options.gamma,
        block=options.get("block"),
        sizes=plain(options.get("sizes")),
        steps=options.steps,
        random_tokens=options.random_tokens,
        guidance=options.guidance,
        inference=plain(options.get("inference")) or None,
        translates=options.get("inputs") == "translated",
        made_by={"recipe": cfg.recipe.name, "seed": cfg.seed, "updates": cfg.updates},
    )
    torch.manual_seed(cfg.seed)
    network = task.network(target_time=recipe.target_time, guidance=recipe.guided).to(device)
    load_strictly(network, starting_weights(network, origin.network), FilePath("the teacher"))
    if options.get("new_condition", False):
        forget(network, task)
    adapter, fixed_parts = adapter_of(cfg), plain(options.get("frozen"))
    if adapter is not None and fixed_parts:
        raise UserError("an adapter lies over a frozen network: leave student.frozen or student.adapter out")
    if adapter is None:
        _freeze(network, origin.network)
        if fixed_parts:
            freeze(network, fixed_parts)
        network = headed(network, recipe.reading, cfg.seed)
    else:
        network = adapt(network, origin.network, adapter)
        free = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        shipped = not cfg.teacher and task.exact_teacher() is None and task.shipped_teacher() is not None
        recipe = replace(
            recipe,
            adapter={
                **adapter.plain(),
                "whole": [bare(name) for name in free if "lora_" not in name],
                "base": "shipped" if shipped else BASE,
            },
        )
    chain = chain_of(cfg)
    learns = any(walker.learns for walker in chain)
    if learns:
        network.requires_grad_(False)
    # During training the scale is drawn per sample, so the student is told it by the step's context, not by itself.
    student = assemble(network, task.path, replace(recipe, guidance=None))
    return (led(student, chain, origin, task.null).to(device) if learns else student), recipe


def finished(
    trained: Denoiser, recipe: Recipe, cfg: DictConfig, task: Task, teacher: Denoiser, device: str
) -> Denoiser:
    """The trained student as it is sampled: told its guidance, with its walkers, and these fitted."""
    chain = walkers(trained) or chain_of(cfg)
    student = innermost(trained)
    if recipe.guidance is not None:
        student = Told(student, recipe.guidance)
    student = led(student, chain, teacher, task.null).to(device).eval()
    settle(chain, student, cfg, task, teacher, device)
    return student


def settle(
    chain: Sequence[Walker], student: Denoiser, cfg: DictConfig, task: Task, teacher: Denoiser, device: str
) -> None:
    """Fits walkers that have something to fit in closed form."""

    def draw(count: int, g: torch.Generator) -> tuple[Tensor, Context]:
        context = task.contexts(count, generator(cfg.seed, "inference", "contexts")).to(device)
        return task.like(count, device, context), context

    guide = guided(teacher, task, cfg.guidance)
    for walker in chain:
        walker.settle(Settling(student, sampler_of(cfg), int(cfg.student.steps), guide, draw, int(cfg.seed)))


def forget(network: nn.Module, task: Task) -> None:
    """Gives every label the embedding of the null label, so that the student starts as the teacher without a condition
    and what a label adds starts at zero (Zhang et al. 2023, ControlNet, sec. 3.1, for labels)."""
    count = None if task.classes is None or task.null is None else task.classes
    found = [
        m for m in network.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == (count or -1) + 1
    ]
    if count is None or not found:
        raise UserError(
            f"student.new_condition=true gives labels the embedding of the null label, and the network of {task.name} "
            "has no embedding of labels; leave it false"
        )
    with torch.no_grad():
        for module in found:
            module.weight[:] = module.weight[task.null].clone()


def _freeze(network: nn.Module, origin: nn.Module) -> None:
    """What the user froze in the teacher is fixed in the student too, and the same tensor."""
    fixed_there = {id(parameter) for parameter in fixed(origin)}
    if not fixed_there:
        return
    for name, parameter in list(origin.named_parameters(remove_duplicate=False)):
        if id(parameter) in fixed_there:
            owner, _, leaf = (prefix(network, origin) + name).rpartition(".")
            setattr(network.get_submodule(owner), leaf, parameter)
