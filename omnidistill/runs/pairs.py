"""The teacher's trajectories that recipes regress on: made before training in memory, or once for many runs on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from omnidistill import __version__
from omnidistill.configuration.compose import build, save_config
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import NotOffered, UserError
from omnidistill.objectives.base import BankSpec
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.samplers import Sampler, deterministic
from omnidistill.student import described
from omnidistill.tasks import Task
from omnidistill.training import store
from omnidistill.training.bank import Bank
from omnidistill.training.safetensors_file import digest
from omnidistill.training.shards import held

CHUNK = 256
"""Trajectories sampled at once, and in a shard: the noise of each chunk has a generator of its own."""


def bank_of(spec: BankSpec | None, task: Task, teacher: Denoiser, seed: int, device: str) -> Bank | None:
    """Teacher trajectories from noise to sample by a deterministic sampler, with their contexts; on the CPU."""
    if spec is None:
        return None
    if spec.guidance is not None:
        bare = teacher.denoiser if isinstance(teacher, Guided) else teacher
        assert task.null is not None  # the objective needs conditions
        teacher = Guided(bare, None, task.null)  # by the scale that each context has
    pieces = []
    context = _contexts(spec, task, seed)
    with track(spec.size, "teacher samples") as advance:
        for start in range(0, spec.size, CHUNK):
            part = context[slice(start, min(start + CHUNK, spec.size))]
            pieces.append(_walked(spec, task, teacher, seed, device, start, part))
            advance(len(pieces[-1][0]))
    return Bank(pieces, times_of(spec, task, teacher))


def make(cfg: DictConfig) -> FilePath:
    """Writes the trajectories that the recipe wants into `cfg.out`, or with `resume` those that are not there yet.

    Raises:
        UserError: the recipe wants none; what is there is damaged or another store.
        KeyboardInterrupt: stopped; whole shards are kept.
    """
    out = FilePath(cfg.out)
    task: Task = build(cfg.task)
    device = setup.device_of(cfg)
    spec = setup.objective_of(cfg, task).bank
    if spec is None:
        raise UserError(
            f"recipe {cfg.recipe.name} looks at no stored trajectories of the teacher; choose one that does, such as "
            "dmd, rectified-flow or sfd"
        )
    teacher = setup.guided(setup.teacher_of(cfg, task, device), task, cfg.guidance)
    header = header_of(spec, cfg, task, teacher)
    if (out / store.HEADER).is_file():
        there = store.read_header(out)
        _refuse(out, there, header, ("seed", "size", "shard"))
        header = there  # with the versions that began it
    save_config(cfg, out)
    header.write(out)
    known = store.whole(out, header)
    for index in known:
        store.read_shard(out, header, index)
    context = _contexts(spec, task, cfg.seed)
    done = sum(min(CHUNK, spec.size - index * CHUNK) for index in known)
    with held() as stopped, track(spec.size, "teacher trajectories") as advance:
        advance(done)
        for index in range(header.count):
            if index in known:
                continue
            start = index * CHUNK
            part = context[slice(start, min(start + CHUNK, spec.size))]
            store.write_shard(
                out, header, index, *_walked(spec, task, teacher, cfg.seed, device, start, part)
            )
            done += len(range(start, min(start + CHUNK, spec.size)))
            advance(min(CHUNK, spec.size - start))
            if stopped and done < spec.size:
                raise KeyboardInterrupt(f"{done} of {spec.size} trajectories kept in {out}")
    return out


def stored(
    folder: FilePath, spec: BankSpec | None, cfg: DictConfig, task: Task, teacher: Denoiser
) -> Bank | None:
    """The trajectories of a folder as an objective wants them.

    Raises:
        UserError: they are fewer, of another teacher, task, sampler, number of steps or guidance, or damaged.
    """
    if spec is None:
        raise UserError(
            f"pairs={folder}, but recipe {cfg.recipe.name} looks at no stored trajectories; leave it out"
        )
    there = store.read_header(folder)
    wanted = header_of(spec, cfg, task, teacher)
    _refuse(folder, there, wanted, ())
    if spec.states and not there.states:
        raise UserError(
            f"'{folder}' holds the ends of trajectories alone, and recipe {cfg.recipe.name} wants all states; make "
            "another store with this recipe"
        )
    if there.size < spec.size:
        raise UserError(
            f"'{folder}' holds {there.size} trajectories and recipe {cfg.recipe.name} wants {spec.size}; ask for fewer "
            "(families.*.pairs or .bank) or make another store"
        )
    bank = store.read(folder, there).first(spec.size)
    return bank.ends() if there.states and not spec.states else bank


# --- what a store says of itself ------------------------------------------------------------------------------------


def header_of(spec: BankSpec, cfg: DictConfig, task: Task, teacher: Denoiser) -> store.Header:
    """What a store of these trajectories says of itself."""
    if spec.guidance is not None:
        raise UserError(
            f"recipe {cfg.recipe.name} wants trajectories under drawn scales of guidance, and a store is made under "
            "one; leave pairs= out, or give the objective one scale"
        )
    return store.Header(
        task=task.name,
        path=_path_of(task),
        teacher=digest_of(teacher, described(setup.plain(cfg.task), task), setup.plain(cfg.get("route"))),
        sampler=_named(deterministic(task.sampler())),
        steps=spec.steps,
        guidance=float(cfg.guidance),
        states=spec.states,
        controlled=spec.controlled,
        times=tuple(times_of(spec, task, teacher).tolist()),
        seed=int(cfg.seed),
        size=spec.size,
        shard=CHUNK,
        made_by={"omnidistill": __version__, "torch": torch.__version__, "recipe": cfg.recipe.name},
    )


def digest_of(teacher: Denoiser, task: Mapping[str, Any], route: Any = None) -> str:
    """SHA-256 of what a teacher answers by: its weights and their reading; of a closed form the task's description, but
    for what is the student's or the evaluation's; of several by name all of theirs and the route."""
    while isinstance(teacher, Guided):
        teacher = teacher.denoiser
    if isinstance(teacher, Routed):
        several = {name: digest_of(one, task) for name, one in teacher.denoisers}
        return hashlib.sha256(json.dumps([several, route]).encode()).hexdigest()
    if isinstance(teacher, NetworkDenoiser):
        tensors = {name: value.detach().cpu() for name, value in teacher.network.state_dict().items()}
        return digest(tensors, {key: repr(value) for key, value in teacher.reading().items()})
    kept = {key: value for key, value in task.items() if key not in ("network", "teacher_steps", "name")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _path_of(task: Task) -> str:
    """The path's name, and a digest of its coefficients where it has any: a name says nothing of its options."""
    path = task.path
    if "gaussian" not in path.offers:
        return str(path)
    t = torch.linspace(*path.span, 17, dtype=torch.float64)
    numbers = [f"{x:.9g}" for curve in path.coefficients(t) for x in curve.tolist()]  # type: ignore[attr-defined]
    numbers.append(f"{path.temperature:.9g}")  # type: ignore[attr-defined]
    return f"{path} {hashlib.sha256(','.join(numbers).encode()).hexdigest()[:12]}"


def _named(sampler: Sampler) -> str:
    """`Heun(grid=nested, shift=1.0)`; of a sampler along another's times also that one."""
    inner = {
        name: _named(value) if isinstance(value, Sampler) else value for name, value in vars(sampler).items()
    }
    said = ", ".join(f"{name}={value}" for name, value in sorted(inner.items()))
    return f"{type(sampler).__name__.lstrip('_')}({said})"


def _refuse(folder: FilePath, there: store.Header, wanted: store.Header, more: tuple[str, ...]) -> None:
    """An error at the first thing in which a store is not what is wanted, with both values."""
    for name in ("task", "path", "teacher", "sampler", "steps", "guidance", "controlled", *more):
        a, b = getattr(there, name), getattr(wanted, name)
        if a != b:
            a, b = (f"{x[:12]}..." if name == "teacher" else x for x in (a, b))
            raise UserError(
                f"'{folder}' holds trajectories of {name} {a}, and this run has {name} {b}; make another store, "
                "`omnidistill pairs` with this run's keys and another out, or leave pairs= out"
            )


# --- how trajectories are made ----------------------------------------------------------------------------------------


def times_of(spec: BankSpec, task: Task, teacher: Denoiser) -> Tensor:
    """Those of the states that are kept, the noisiest first; of pairs the two ends."""
    times = deterministic(task.sampler()).times(teacher, spec.steps).double()
    return times if spec.states else times[[0, -1]]


def _contexts(spec: BankSpec, task: Task, seed: int) -> Context:
    """What the trajectories are made under: what is drawn, or no condition where one is read off each sample."""
    context = task.contexts(spec.size, generator(seed, "bank", "contexts"))
    if spec.guidance is not None:
        low, high = spec.guidance
        scale = torch.rand(spec.size, generator=generator(seed, "bank", "guidance"))
        context = replace(context, guidance=low + (high - low) * scale)
    if not spec.controlled:
        return context
    if task.null is None or not isinstance(context.condition, Tensor):
        raise NotOffered(
            f"conditions are read off samples made without one, and {task.name} has no null label"
        )
    return context.with_condition(torch.full_like(context.condition, task.null))


def _walked(
    spec: BankSpec, task: Task, teacher: Denoiser, seed: int, device: str, start: int, part: Context
) -> tuple[Tensor, Context]:
    """States [n, times, ...] of the chunk of trajectories that begins with number `start`, and their contexts."""
    teacher.eval()  # as in training: without dropout
    size, given = min(CHUNK, spec.size - start), part
    part = part.to(device)
    g = generator(seed, "bank", start, device=device)
    # A pair says something about its noise only if the sample is a function of it.
    made = deterministic(task.sampler()).sample(
        teacher, task.like(size, device, part), spec.steps, part, g=g, keep=True
    )
    states = torch.stack(made.states if spec.states else (made.states[0], made.states[-1]), 1).cpu()
    if spec.controlled:
        given = given.with_condition(task.control(states[:, -1], generator(seed, "bank", "controls", start)))
    return states, given
