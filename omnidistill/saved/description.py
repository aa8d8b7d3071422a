"""What a run leaves behind of a model: its weights, as safetensors, beside a small JSON file that describes it.

`NAME.safetensors` holds the weights and `NAME.json` how to rebuild the network around them: the task's own
configuration (allow-listed `_target_`s and plain values), how to read the output, how to sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from omnidistill.configuration import received, student_file
from omnidistill.data.files import write_text
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.samplers import FewStep, student_sampler
from omnidistill.samplers.walker import innermost, walkers
from omnidistill.tasks import Task
from omnidistill.training import adapters
from omnidistill.training.safetensors_file import write_safetensors

SCHEMA = 1
BASE = "base.safetensors"
LEARNED = "inference/"
"""What stands before the names of walkers' tensors; a slash is in no name of a network's."""


@dataclass(frozen=True)
class Recipe:
    """Everything about a saved denoiser but its weights; the content of `NAME.json`.

    Attributes:
        task: the resolved configuration of the task, or None for a model made without one.
        reading: keywords of `NetworkDenoiser`.
        target_time, guided: whether the network has the second embeddings.
        transition, times, shift, gamma, block, sizes: of the few-step sampler.
        steps: the step count the student was trained for.
        random_tokens: share of random tokens in its initial state, None for the path's own prior.
        guidance: the scale it is told when sampling, None where it was not trained for a range.
        made_by: recipe, seed, versions: for people.
        adapter: rank, alpha and targets where the file holds adapters alone, and which `base` they lie over
            (`shipped`: with the task's teacher; else a file beside it); None for whole weights.
        inference: walkers by name (`samplers.walker`), the innermost first, each with its `_target_` and options; what
            they have learned is in the weights' file. None for a student that is sampled plainly.
        translates: whether its walks start from data of other labels rather than from noise (`samplers.translation`).
        own_network: whether the network is the task's `student_network` rather than one like the teacher's.
    """

    task: Mapping[str, Any] | None
    reading: Mapping[str, Any]
    target_time: bool = False
    guided: bool = False
    transition: str = "renoise"
    times: Sequence[float] | None = None
    shift: float = 1.0
    gamma: float | None = None
    steps: int = 1
    random_tokens: float | None = None
    guidance: float | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    block: int | None = None
    inference: Mapping[str, Any] | None = None
    foreign: Mapping[str, Any] | None = None
    own_network: bool = False
    translates: bool = False
    sizes: Sequence[float] | None = None

    def sampler(self) -> FewStep:
        return student_sampler(self.transition, self.times, self.shift, self.gamma, self.block, self.sizes)


def described(config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The configuration of a task as it is saved: with the names of the labels that it found."""
    given = "labels" in config and config["labels"] is None
    return {**config, "labels": list(task.labels)} if given and task.labels else dict(config)


def check_labels(recipe: Recipe, task: Task, what: str) -> None:
    """Refuses a saved model whose labels are not the task's: its numbers would mean other things."""
    known = tuple((recipe.task or {}).get("labels") or ())
    if known and task.labels and known != tuple(task.labels):
        raise UserError(
            f"the {what} knows the labels {', '.join(known)}, the task has {', '.join(task.labels)}; "
            "use the same data, or name them in the same order with task.labels=[...]"
        )


def save(denoiser: Denoiser, recipe: Recipe, folder: FilePath, name: str = "student") -> None:
    """Writes `name.safetensors` and `name.json`. The weights are those of the bare network, with what walkers around it
    have learned; with adapters these alone, and `base.safetensors` beside them where the base did not come with the
    package."""
    network: nn.Module = innermost(denoiser).network  # type: ignore[assignment]
    tensors = dict(network.state_dict())
    if recipe.adapter is not None:
        tensors, base = adapters.split(network, recipe.adapter["whole"])
        recipe = replace(recipe, adapter={**recipe.adapter, "digest": adapters.of(base)})
        if recipe.adapter["base"] == BASE:  # type: ignore[index]
            write_safetensors(base, folder / BASE)
    for key, walker in zip(recipe.inference or (), walkers(denoiser), strict=True):
        tensors |= {f"{LEARNED}{key}/{part}": value for part, value in walker.learned().items()}
    write_safetensors(tensors, folder / f"{name}.safetensors")
    document = {"schema": SCHEMA, **asdict(recipe)}
    write_text(json.dumps(document, indent=1) + "\n", folder / f"{name}.json")


def read_recipe(folder: FilePath, name: str) -> Recipe:
    """What a saved model needs to be built again, from `NAME.json` in a run's folder.

    Raises:
        UserError: no description of a saved model, or of another version.
    """
    path = student_file.find(folder, name)
    document = received.read_json(path)
    try:
        if document.pop("schema") != SCHEMA:
            raise UserError(f"{path} has another schema than {SCHEMA}; it was written by another version")
        return Recipe(**student_file.check(document))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a description of a saved model ({error})") from error
