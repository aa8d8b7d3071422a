"""What a configuration says of the student, refused where path, task or network cannot have it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from omnidistill.configuration.compose import build
from omnidistill.context import labels_of
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.policies import checked, fits
from omnidistill.denoisers.start import Start
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives import Weighted
from omnidistill.objectives.base import Objective, rolls
from omnidistill.random import generator
from omnidistill.runs.configured import plain, sampler_of
from omnidistill.samplers import growing
from omnidistill.samplers.translation import check
from omnidistill.samplers.walker import Walker
from omnidistill.student import (
    led,
)
from omnidistill.tasks import Task
from omnidistill.training.adapters import Adapter


def chain_of(cfg: DictConfig) -> list[Walker]:
    """The walkers of `student.inference`, the innermost first, around nothing yet."""
    chain = []
    for name, node in (cfg.student.get("inference") or {}).items():
        walker = build(node)
        if not isinstance(walker, Walker):
            raise UserError(f"student.inference.{name} is {node['_target_']}, which is no walker")
        chain.append(walker)
    return chain


def check_inference(cfg: DictConfig, task: Task) -> None:
    """Refuses walkers that path, network or task cannot have, before anything is trained."""
    student = cfg.get("student") or {}
    if not student.get("inference"):
        return
    chain = chain_of(cfg)
    if any(walker.learns for walker in chain) and student.get("adapter") is not None:
        raise UserError("a learned solver leaves the network as it is: leave student.adapter out")
    with torch.random.fork_rng(devices=[]):
        network = NetworkDenoiser(task.network(), task.path, **task.reading())
    # Any denoiser stands for the teacher, which may be large.
    led(network, chain, network, task.null)


def check_translation(cfg: DictConfig, task: Task, objective: Weighted) -> None:
    """Refuses `student.inputs=translated` where there are no two labels, or no noise in whose place data could stand,
    and a translation's objectives without it."""
    if cfg.student.get("inputs") != "translated":
        if asking := [name for name, part in objective.parts.items() if getattr(part, "translates", False)]:
            raise UserError(f"objective.{asking[0]} is of translated data; set student.inputs=translated")
        return
    check(task.path)
    labels = labels_of(task.batch(1, generator(cfg.seed, "probe")).context.condition)
    if labels is None or task.classes == 1:
        has = "no labels" if labels is None else "one label"
        raise NotOffered(
            f"student.inputs=translated goes from data of one label to another, and {task.name} has {has}"
        )


def check_start(cfg: DictConfig, task: Task) -> None:
    """Refuses a level of noise (`student.sigma_init`) that the path does not have, before anything is trained."""
    if cfg.student.get("sigma_init") is not None:
        Start(task.path, float(cfg.student.sigma_init))


def check_sizes(cfg: DictConfig, task: Task, parts: Mapping[str, Objective]) -> None:
    """Refuses states that grow (`student.sizes`) where something has one size only, before anything is trained. A fresh
    network is asked once at each size."""
    if cfg.student.get("sizes") is None:
        return
    sampler = sampler_of(cfg)
    if cfg.student.get("inference"):
        raise UserError("walkers remember states of one size: leave student.inference or student.sizes out")
    if cfg.student.get("inputs") == "translated":
        raise UserError(
            "student.inputs=translated starts from data at full size: leave student.sizes or it out"
        )
    if others := [name for name, part in parts.items() if not rolls(part, "student")]:
        raise UserError(
            f"student.sizes are those of the student's rollout, at which objective.{others[0]} does not look; leave "
            "one of the two out"
        )
    context = task.contexts(1, generator(cfg.seed, "sizes"))
    like = task.like(1, "cpu", context)
    growing.check(task.path, like, context)
    with torch.random.fork_rng(devices=[]):
        network = NetworkDenoiser(task.network(), task.path, **task.reading()).eval()
    assert isinstance(sampler, growing.Growing)
    steps = int(cfg.student.steps)
    for size in dict.fromkeys(sampler.size(k, steps, like) for k in range(steps)):
        x, said = like.new_zeros((*like.shape[:2], *size)), ""
        try:
            with torch.no_grad():
                answer = network(x, task.path.span[1], context).parameters
            if answer.shape != x.shape:
                said = f"it answers with {list(answer.shape[1:])}"
        except (UserError, RuntimeError, ValueError, IndexError) as error:
            said = " ".join(str(error).split())[:160]
        if said:
            raise UserError(
                f"student.sizes={list(sampler.sizes)}: the network of {task.name} cannot be asked about "
                f"{'x'.join(map(str, size))} ({said}); choose shares that its levels divide"
            )


def experts_of(cfg: DictConfig, task: Task) -> list[int] | None:
    """`student.experts` with the number of the task's labels."""
    count = cfg.student.get("experts")
    if count is None:
        return None
    others = [name for name in ("cells", "policy", "adapter") if cfg.student.get(name) is not None]
    if others:
        raise UserError(f"student.experts are whole networks: leave student.{others[0]} out")
    if task.classes is None:
        raise NotOffered(f"student.experts={count} share out labels, and {task.name} has none")
    return [int(count), int(task.classes)]


def policy_of(cfg: DictConfig, task: Task) -> list[Any] | None:
    """`student.policy` with the number of channels of the task's states."""
    options = plain(cfg.student.get("policy"))
    if options is None:
        return None
    if not fits(task.path):
        raise NotOffered(
            f"student.policy={options['kind']} walks points on a Gaussian path without an anchor, and {task.name} has "
            f"{task.path}; choose a recipe without a policy, such as sfd"
        )
    return list(checked(options["kind"], options.get("parts", 8), options.get("substeps", 32), task.shape[0]))


def is_told(cfg: DictConfig, task: Task) -> bool:
    """`student.target_time`; where nothing is said, a student of several steps has the second time if a critic of the
    recipe is to be told by it which step a sample is of, and the network can be told at all."""
    options = cfg.student
    if options.target_time is not None:
        return bool(options.target_time)
    several = max(int(options.steps), *(plain(options.get("walks")) or (1,))) > 1
    active = [
        cfg.families[name] for name, value in plain(cfg.objective).items() if value and name in cfg.families
    ]
    aware = [family for family in map(plain, active) if family.get("step_aware")]
    # Along a trajectory a told student is judged by its jump to the data and sampled by shorter ones, unless it is its
    # states that are judged.
    states = any("Onwards" in str((family.get("times") or {}).get("_target_")) for family in aware)
    sampled = options.transition == "renoise" or states
    if not (several and aware and sampled) or options.get("cells"):
        return False
    try:
        with torch.random.fork_rng():
            task.network(target_time=True, guidance=False)
    except UserError as error:
        print(
            f"warning: the critic is not told which of the student's steps a sample is of, so that errors of steps can "
            f"cancel ({error})",
            file=sys.stderr,
        )
        return False
    return True


def adapter_of(cfg: DictConfig) -> Adapter | None:
    """`student.adapter`, of which the trained roles beside the student have one each too."""
    options = cfg.student.get("adapter")
    return None if options is None else Adapter(**plain(options))
