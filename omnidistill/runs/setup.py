"""From a configuration to objects: task, teacher, objective, settings."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from omnidistill.configuration import origin
from omnidistill.configuration.compose import build
from omnidistill.configuration.instantiation import function
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser, Told
from omnidistill.denoisers.policies import checked, fits
from omnidistill.denoisers.plausible import enough
from omnidistill.denoisers.routed import Routed
from omnidistill.denoisers.second import prefix, starting_weights
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives import Denoising, StudentSpec, Weighted
from omnidistill.objectives.reward import Rewards
from omnidistill.objectives.weighted import Untrained
from omnidistill.random import generator
from omnidistill.runs.teachers import base_of, teacher_of
from omnidistill.samplers import FewStep
from omnidistill.samplers.walker import Settling, Walker, innermost, walkers
from omnidistill.student import (
    BASE,
    Recipe,
    assemble,
    described,
    headed,
    led,
)
from omnidistill.tasks import Metric, Task
from omnidistill.training.memory import check_network
from omnidistill.training.safetensors_file import load_strictly, read_safetensors, write_safetensors
from omnidistill.training.adapters import Adapter, adapt, bare
from omnidistill.training.frozen import fixed, freeze, twin
from omnidistill.training.ranks import here
from omnidistill.training.roles import TEACHER, cast, missing
from omnidistill.training.settings import Optim, Settings

FIT_WITHOUT_CONDITION = 0.1
"""Share of the samples whose label is dropped while a network is fitted, as teachers themselves are trained (Ho & Salimans
2022, sec. 3.1)."""


def device_of(cfg: DictConfig) -> str:
    if cfg.threads:
        torch.set_num_threads(int(cfg.threads))
    return device_named(str(cfg.device))


def device_named(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`; a `UserError` where there is no such device."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("device=cuda but no CUDA device is available; use device=cpu or device=auto")
    return "cuda" if name != "cpu" and there else "cpu"


def settings_of(cfg: DictConfig, **changes: Any) -> Settings:
    optim = Optim(**{**plain(cfg.optim), "betas": tuple(cfg.optim.betas), **changes.pop("optim", {})})
    values: dict[str, Any] = {
        "updates": cfg.updates,
        "batch": cfg.batch,
        "seed": cfg.seed,
        "precision": cfg.precision,
        "ema": cfg.ema or 0.0,
        "accumulate": cfg.accumulate,
        "recompute": cfg.get("recompute", False),
        "checkpoint_every": cfg.checkpoint.every,
        "log_every": cfg.log.every,
        "lag_every": cfg.log.get("lag", 0),
    }
    return Settings(**{**values, **changes}, optim=optim)


def plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def task_of(cfg: DictConfig) -> Task:
    """The task of a configuration, which may have come with somebody's run."""
    task = build(cfg.task)
    if not isinstance(task, Task):
        raise UserError(f"task: _target_ '{cfg.task.get('_target_')}' is no task")
    if cfg.get("metrics"):
        task.more = function(origin.named("metrics", cfg.metrics))
    if cfg.get("primary"):
        name, _, better = str(cfg.primary).partition(":")
        task.other_primary = name != task.primary.name
        task.primary = Metric(name, better or "lower")
    return task


def guided(teacher: Denoiser, task: Task, scale: float) -> Denoiser:
    """The teacher as it is sampled from: under guidance where the run asks for it."""
    check_guidance(task, scale)
    if scale == 1.0 or task.null is None:
        return teacher
    return teacher.guided(scale, task.null) if isinstance(teacher, Routed) else Guided(teacher, scale, task.null)


def check_guidance(task: Task, scale: float) -> None:
    if scale != 1.0 and task.null is None:
        raise NotOffered(f"guidance={scale} needs a conditional task with a null label; {task.name} has none")


def origin_of(
    cfg: DictConfig, task: Task, teacher: Denoiser, folder: FilePath, device: str
) -> NetworkDenoiser:
    """A network with the teacher's knowledge, for students and critics to start from.

    That is the teacher's own network; a closed form has none, so one is first fitted to its beliefs. What stays fixed is
    the teacher's own, not a copy: what the user froze, and with adapters everything.
    """
    teacher = base_of(cfg, task, teacher, device)
    if isinstance(teacher, NetworkDenoiser):
        return twin(teacher) if adapter_of(cfg) is None else twin(teacher, teacher.parameters())
    return fitted(cfg, task, teacher, folder, device)


def fitted(
    cfg: DictConfig, task: Task, teacher: Denoiser, folder: FilePath, device: str, name: str = "fit"
) -> NetworkDenoiser:
    """The task's network, fitted in `fit.updates` to the teacher's beliefs; where there are none, as it is made."""
    check_network(task.network)
    torch.manual_seed(cfg.seed)  # layers draw their initial weights without a generator
    network = NetworkDenoiser(task.network().to(device), task.path, **task.reading())
    if cfg.fit.updates < 1:
        return network
    kept = folder / "checkpoints" / f"{name}.safetensors"
    if cfg.resume and kept.is_file():
        load_strictly(network, read_safetensors(kept)[0], kept)
        return network
    from omnidistill.training.loop import run
    from omnidistill.training.module import Distillation

    changes = {"updates": cfg.fit.updates, "optim": {"lr": cfg.fit.lr or cfg.optim.lr}}
    if cfg.fit.batch:
        changes |= {"batch": cfg.fit.batch, "accumulate": min(cfg.accumulate, cfg.fit.batch)}
    # Also about the null label: students, critics and samplers that start from here may ask for it.
    dropped = 0.0 if task.null is None else FIT_WITHOUT_CONDITION
    objective = Denoising(weighting="output", target="teacher", drop_condition=dropped)
    ranks = here()
    module = Distillation(
        cast(network, None, objective, cfg.ema or 0.0),
        teacher,
        objective,
        settings_of(cfg, **changes),
        task.like,
        null=task.null,
        ranks=ranks,
    )
    run(
        module,
        task,
        folder / "checkpoints" / name,
        device=device,
        title="fitting a network to the teacher",
        log=False,
    )
    fitted: NetworkDenoiser = module.trained["ema"]  # type: ignore[assignment]
    if ranks.main:
        write_safetensors(dict(fitted.state_dict()), kept)
    return fitted


def samples_of(task: Task, seed: int) -> Batch:
    """Clean samples to ask a teacher about: of the training data, else of what is held out and comes with the package."""
    count, g = enough(task.shape), generator(seed, "probe")
    batch = task.batch(count, g)
    return batch if batch.x0 is not None else task.batch(count, g, "held_out")


def objective_of(cfg: DictConfig, task: Task) -> Weighted:
    """The recipe's objectives by weight, checked against what path and task offer."""
    parts, weights = {}, {}
    for name, value in plain(cfg.objective).items():
        if value is None or float(value) == 0.0:
            continue
        if name not in cfg.families:
            raise UserError(
                f"objective.{name} has no families.{name} that says how; known: {', '.join(cfg.families)}"
            )
        parts[name], weights[name] = _objective(cfg.families[name], name), float(value)
    begins = {name: float(share) for name, share in plain(cfg.get("begin", {})).items() if name in parts}
    ends = {name: float(share) for name, share in plain(cfg.get("end", {})).items() if name in parts}
    objective = Weighted(parts, weights, begins, ends) if parts else Untrained()
    has_data = task.batch(1, generator(cfg.seed, "probe")).x0 is not None
    check_inference(cfg, task)
    lacking = missing(objective, task.path, data=has_data, condition=task.conditional)
    if cfg.student.get("new_condition", False) and not task.conditional:
        lacking.append("condition")
    lacking += sorted(
        set(cfg.get("recipe", {}).get("needs", []))
        - set(task.path.offers)
        - {"data", "condition"}
        - set(lacking)
    )
    if lacking:
        who = cfg.get("recipe", {}).get("name") or "training a teacher"
        hint = f"; {task.data_hint}" if "data" in lacking and task.data_hint else ""
        advice = objective.advice(task.path)
        hint += f"; {advice}" if advice else ""
        raise NotOffered(
            f"{who} needs {', '.join(lacking)}, which {task.name} with {task.path} does not offer{hint} "
            "(`omnidistill recipes` lists what each recipe needs)"
        )
    policy_of(cfg, task)  # says where there can be none
    _experts(cfg, task)
    return objective


def judged_by_rewards(task: Task, objective: Weighted) -> None:
    """Has the task measure samples by the rewards that the objective maximises or watches, beside its own metrics."""
    judges = [getattr(part, "rewards", None) for part in objective.parts.values()]
    found = [rewards for rewards in judges if isinstance(rewards, Rewards)]
    if not found:
        return
    own = task.more

    def more(x0: Tensor, context: Context, rows: Tensor | None) -> Mapping[str, float]:
        figures = {} if own is None else dict(own(x0, context, rows))
        for rewards in found:
            figures |= rewards.figures(x0, context.reference, context)
        return figures

    task.more = more


def rewards_of(cfg: DictConfig) -> dict[str, Any]:
    """What of a configuration says how samples are judged by rewards; {} where nothing is rewarded."""
    active = [name for name, value in plain(cfg.get("objective", {})).items() if value and name in cfg.families]
    keys = ("rewards", "watched")
    said = {name: {key: plain(cfg.families[name]).get(key) for key in keys} for name in active}
    return {name: value for name, value in said.items() if any(value.values())}


def _objective(node: Any, name: str) -> Any:
    made = build(node)
    if lacks := [part for part in ("roles", "needs", "losses", "cost") if not hasattr(made, part)]:
        raise UserError(f"families.{name} is no objective: it has no {' and no '.join(lacks)}")
    return made


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
    for name in ("cells", "policy", "adapter", "guidance", "inference", "target_time", "new_condition", "network"):
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
    experts = _experts(cfg, task)
    told = is_told(cfg, task)
    recipe = Recipe(
        task=described(plain(cfg.task), task),
        reading={
            **origin.reading(),
            "target_time": told,
            **({} if cells is None else {"cells": cells}),
            **({} if experts is None else {"experts": experts}),
            **({} if made is None else {"policy": made}),
        },
        target_time=told,
        guided=options.guidance is not None,
        transition=options.transition,
        times=plain(options.times),
        shift=options.shift,
        gamma=options.gamma,
        block=options.get("block"),
        steps=options.steps,
        random_tokens=options.random_tokens,
        guidance=options.guidance,
        inference=plain(options.get("inference")) or None,
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
    found = [m for m in network.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == (count or -1) + 1]
    if count is None or not found:
        raise UserError(
            f"student.new_condition=true gives labels the embedding of the null label, and the network of {task.name} "
            "has no embedding of labels; leave it false"
        )
    with torch.no_grad():
        for module in found:
            module.weight[:] = module.weight[task.null].clone()
def _experts(cfg: DictConfig, task: Task) -> list[int] | None:
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
    active = [cfg.families[name] for name, value in plain(cfg.objective).items() if value and name in cfg.families]
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


def _freeze(network: nn.Module, origin: nn.Module) -> None:
    """What the user froze in the teacher is fixed in the student too, and the same tensor."""
    fixed_there = {id(parameter) for parameter in fixed(origin)}
    if not fixed_there:
        return
    for name, parameter in list(origin.named_parameters(remove_duplicate=False)):
        if id(parameter) in fixed_there:
            owner, _, leaf = (prefix(network, origin) + name).rpartition(".")
            setattr(network.get_submodule(owner), leaf, parameter)


def spec_of(cfg: DictConfig) -> StudentSpec:
    walks = tuple(plain(cfg.student.get("walks")) or ())
    return StudentSpec(cfg.student.steps, sampler_of(cfg), cfg.student.inputs, walks)


def sampler_of(cfg: DictConfig) -> FewStep:
    """The student's sampler. Runs of before have no times, shift or gamma of their own."""
    given = plain(cfg.student)
    times = given.get("times")
    if times is not None and len(times) != given["steps"]:
        raise UserError(
            f"student.times has {len(times)} entries and student.steps is {given['steps']}; give as many times as steps"
        )
    return FewStep(given["transition"], times, given.get("shift", 1.0), given.get("gamma"), given.get("block"))
