"""The denoiser that a description and its weights make, by no code but the project's, or that of an installed
plug-in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser, NetworkDenoiser, PolicyDenoiser, Told
from omnidistill.denoisers.experts import Experts
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.heads import Heads
from omnidistill.denoisers.policies import checked, widened
from omnidistill.errors import RunError, UserError, unknown
from omnidistill.paths import Path
from omnidistill.samplers.walker import Walker
from omnidistill.saved.description import BASE, LEARNED, Recipe, check_labels, read_recipe
from omnidistill.tasks import Task
from omnidistill.training import adapters
from omnidistill.training.memory import check_network
from omnidistill.training.safetensors_file import load_strictly, read_safetensors


def assemble(network: nn.Module, path: Path, recipe: Recipe) -> Denoiser:
    """The denoiser that `recipe` describes around a network: its start, its reading, the guidance it is told."""
    if recipe.random_tokens is not None:
        if "masked" not in path.offers:
            raise UserError(f"student.random_tokens={recipe.random_tokens} needs a masked path, got {path}")
        path = path.with_prior(recipe.random_tokens)  # type: ignore[attr-defined]
    reading = {**recipe.reading, "target_time": recipe.target_time}
    kind = PolicyDenoiser if "policy" in reading else NetworkDenoiser
    known = {*inspect.signature(NetworkDenoiser).parameters, *inspect.signature(kind).parameters}
    if foreign := sorted(reading.keys() - known):
        raise unknown("key of reading", foreign[0], known)
    denoiser = kind(network, path, **reading)
    return denoiser if recipe.guidance is None else Told(denoiser, recipe.guidance)


def led(denoiser: Denoiser, chain: Iterable[Walker], teacher: Denoiser | None, null: Null | None) -> Denoiser:
    """The denoiser with walkers around it, the first the innermost."""
    for walker in chain:
        denoiser = walker.around(denoiser, teacher, null)
    return denoiser


def usual_teacher(task: Task, device: str = "cpu") -> Denoiser | None:
    """The task's own teacher: the closed form, else the one that comes with the package."""
    exact = task.exact_teacher()
    if exact is not None:
        return exact.to(device)
    shipped = task.shipped_teacher()
    if shipped is None or not (shipped / "teacher.json").is_file():
        return None
    return read_denoiser(shipped, "teacher", task, device)[0]


def headed(network: nn.Module, reading: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network with the last layer that a reading asks for: one a cell, or as wide as a policy; several of it, where
    there are experts; else as it is."""
    if reading.get("experts") is not None:
        return Experts(network, *reading["experts"])
    if reading.get("cells") is not None:
        return Heads(network, reading["cells"])
    made = reading.get("policy")
    return network if made is None else widened(network, checked(*made), seed)


def filled(
    network: nn.Module,
    tensors: dict[str, Tensor],
    folder: FilePath,
    name: str,
    recipe: Recipe,
    task: Task | None = None,
) -> nn.Module:
    """The network with the weights of a file; over those of its base where the file holds adapters."""
    file = folder / f"{name}.safetensors"
    if recipe.adapter is None:
        load_strictly(network, tensors, file)
        return network
    shipped = None if task is None else task.shipped_teacher()
    place = (
        shipped / "teacher.safetensors"
        if recipe.adapter.get("base") == "shipped" and shipped
        else folder / BASE
    )
    return adapters.join(network, recipe.adapter, read_safetensors(place)[0], tensors, file)


@contextmanager
def described_by(path: FilePath) -> Iterator[None]:
    """What goes wrong while a model is made of somebody's description is a fault of the description."""
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} describes what cannot be built ({reason[:300]})") from error


def read_denoiser(
    folder: FilePath, name: str, task: Task, device: str = "cpu", trust: Sequence[str] = ()
) -> tuple[Denoiser, Recipe]:
    """The saved denoiser on a task that is already built."""
    recipe = read_recipe(folder, name)
    check_labels(recipe, task, name)
    tensors, learned = parted(read_safetensors(folder / f"{name}.safetensors")[0])

    def network() -> nn.Module:
        if recipe.own_network:
            own = task.student_network()
            if own is None:
                raise UserError(f"{task.name} has no student network of its own, as {name}.json says it has")
            return own
        return headed(task.network(target_time=recipe.target_time, guidance=recipe.guided), recipe.reading)

    with described_by(folder / f"{name}.json"):
        check_network(network, tensors if recipe.adapter is None else None)
        made = filled(network(), tensors, folder, name, recipe, task)
        denoiser = assemble(made, task.path, recipe)
        if recipe.inference:
            file = folder / f"{name}.json"
            denoiser = led_again(
                denoiser, recipe, learned, trust, file, lambda: _companion(folder, task), task.null
            )
        return denoiser.to(device).eval(), recipe


def parted(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors, and what walkers have learned."""
    learned = {name: value for name, value in tensors.items() if name.startswith(LEARNED)}
    return {name: value for name, value in tensors.items() if name not in learned}, learned


def led_again(
    denoiser: Denoiser,
    recipe: Recipe,
    learned: Mapping[str, Tensor],
    trust: Sequence[str],
    file: FilePath,
    teacher: Callable[[], Denoiser | None],
    null: Null | None,
) -> Denoiser:
    """The denoiser with the walkers that a description names around it, and what they have learned."""
    from omnidistill.configuration.instantiation import build, trusting

    chain = {name: build(trusting(options, trust)) for name, options in (recipe.inference or {}).items()}
    for name, walker in chain.items():
        if not isinstance(walker, Walker):
            raise UserError(f"{file}: inference.{name} is {type(walker).__name__}, which is no walker")
    asked = any("teacher" in walker.wants for walker in chain.values())
    denoiser = led(denoiser, chain.values(), teacher() if asked else None, null)
    for name, walker in chain.items():
        mine = f"{LEARNED}{name}/"
        own = {key.removeprefix(mine): value for key, value in learned.items() if key.startswith(mine)}
        load_strictly(walker, own, file, walker.state_dict().keys() - walker.learned().keys())
    return denoiser


def named(foreign: Mapping[str, Any], file: FilePath, trust: Sequence[str]) -> tuple[nn.Module, Path]:
    """The network and the path of a teacher that could be named."""
    from omnidistill.configuration.instantiation import build, trusting

    with described_by(file), torch.random.fork_rng(devices=[]):
        made = build(trusting(foreign, trust))
        if not hasattr(made, "opened"):
            raise UserError(
                f"{file}: foreign is a {type(made).__name__}, which is no description of a network"
            )
        check_network(made.made)
        return made.made(), made.path


def _companion(folder: FilePath, task: Task) -> Denoiser | None:
    """The teacher that helps a student: of its folder, else the task's own."""
    if (folder / "teacher.json").is_file():
        return read_denoiser(folder, "teacher", task)[0]
    return usual_teacher(task)
