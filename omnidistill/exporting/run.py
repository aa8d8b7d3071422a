"""`omnidistill.export`: a student into the form that it is deployed in, verified and described."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from omnidistill.context import Condition, Context
from omnidistill.errors import RunError, UserError, unknown
from omnidistill.paths import Path
from omnidistill.random import generator
from omnidistill.student import Recipe, Student, load, read_recipe

TOLERANCE = 1e-4
"""The largest difference of a sample, as a share of the largest number in it, that counts as the same."""

COUNT = 3
"""Samples that are compared."""


@dataclass
class Handed:
    """A student on its way out.

    Attributes:
        folder: of the run.
        recipe, student: what stands there.
        steps: that it is handed over for.
        pipeline: the teacher's folder, whose other parts are copied where the format has any.
        out: the folder that is written.
        verify: whether samples are compared.
        trust: packages that the student may be built from.
        scheduler: the class of diffusers that is asked for.
        said: what the card tells beside the run's own figures, by what it is about.
    """

    folder: FilePath
    recipe: Recipe
    student: Student
    steps: int
    pipeline: FilePath | None
    out: FilePath
    verify: bool
    trust: Sequence[str] = ()
    scheduler: str | None = None
    said: dict[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> Mapping[str, Any]:
        """How the network is described that came from another library; empty for one of this project."""
        held = self.recipe.foreign or (self.recipe.task or {}).get("foreign")
        return held if isinstance(held, Mapping) else {}

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.student.shape) or tuple(self.foreign.get("shape", ()))

    def condition(self, count: int, seed: int = 0) -> Condition:
        """What the compared samples are made under: as the library's network takes it, else drawn by the task."""
        from omnidistill.denoisers.second import Second
        from omnidistill.exporting.walk import network_of

        network: Any = network_of(self.student.denoiser)[0].network
        network = network.network if isinstance(network, Second) else network
        if hasattr(network, "example"):  # no data are needed for it, which may be elsewhere
            return network.example(count, generator(seed, "export"))
        return None if self.student.task is None else self.student.context(count, seed).condition

    def context(self, count: int) -> Context:
        """The same, with all that the task gives beside it where it is the task's."""
        if self.student.task is None or self.foreign:
            return Context(self.condition(count))
        return self.student.context(count)

    def compare(self, what: str, difference: float) -> None:
        """
        Raises:
            RunError: samples that are not the student's.
        """
        if not difference <= TOLERANCE:
            raise RunError(
                f"{what} samples differ from the student's by {difference:.2g} of their size, more than {TOLERANCE:g}; "
                "nothing was handed over (verify=false writes it all the same)"
            )
        self.said["verified"] = (
            f"{COUNT} samples of {what} differ from the student's by at most {difference:.1e} of their size, "
            "with the same noise."
        )


Format = Callable[[Handed], None]


def formats() -> dict[str, Format]:
    """Each imports its library when it is called."""
    from omnidistill.exporting import (
        diffusers_format,
        onnx_format,
        peft_format,
        safetensors_format,
        transformers_format,
    )

    return {
        "safetensors": safetensors_format.write,
        "diffusers": diffusers_format.write,
        "peft": peft_format.write,
        "onnx": onnx_format.write,
        "transformers": transformers_format.write,
    }


FORMATS = ("safetensors", "diffusers", "peft", "onnx", "transformers")


def export(
    folder: str | FilePath,
    format: str,
    out: str | FilePath,
    *,
    verify: bool = True,
    steps: int | None = None,
    pipeline: str | FilePath | None = None,
    network: nn.Module | None = None,
    path: Path | None = None,
    trust: Sequence[str] = (),
    scheduler: str | None = None,
) -> FilePath:
    """Writes the student of a run's folder in another form, with a model card, and returns the folder.

    Args:
        format: `safetensors`, a folder that `omnidistill.load` reads, adapters added up; `diffusers`, a pipeline or a
            model with the scheduler that walks as the student does; `peft`, adapters alone; `onnx`, the whole walk as
            one graph; `transformers`, a masked language model.
        out: a folder that is not there yet, or is empty.
        verify: compare samples with the student's, with the same noise, and refuse what is off by more than 1e-4.
        steps: sampler steps; the number it was trained for if not given.
        pipeline: the teacher's folder, whose other parts (text encoder, autoencoder, tokenizer) are copied; the teacher
            of the run if not given.
        network, path, trust: as for `load`.
        scheduler: the class of diffusers, among those that walk as the student does, `"TCDScheduler"` for one.

    Raises:
        UserError: a format that cannot hold this student, or its library is missing.
        RunError: the copy does not sample as the student does.

    Example:
        >>> omnidistill.export("runs/mine", "diffusers", "handed/over")
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if scheduler is not None and format not in ("diffusers", "peft"):
        raise UserError(f"scheduler={scheduler} is for format=diffusers or peft, not {format}")
    folder, out = FilePath(folder), FilePath(out)
    recipe = read_recipe(folder, "student")
    student = load(folder, network=network, path=path, trust=trust)
    if student.translates:
        raise UserError(
            f"what is exported starts from noise, and the student in {folder} from samples; hand over the folder itself"
        )
    count = recipe.steps if steps is None else int(steps)
    if count < 1:
        raise UserError(f"steps must be >= 1, got {count}")
    there = out.exists()
    if there and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} is there already; give a folder that is not, or an empty one")
    teacher = FilePath(pipeline) if pipeline is not None else teacher_of(folder, recipe)
    if pipeline is not None and not FilePath(pipeline).is_dir():
        raise UserError(f"pipeline={pipeline} is no folder; give that of the teacher's pipeline")
    out.mkdir(parents=True, exist_ok=True)
    handed = Handed(folder, recipe, student, count, teacher, out, verify, trust, scheduler)
    try:
        with torch.no_grad():
            formats()[format](handed)
        from omnidistill.exporting.card import write_card

        write_card(handed, format)
    except BaseException:
        for entry in list(out.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not there:
            out.rmdir()
        raise
    return out


def teacher_of(folder: FilePath, recipe: Recipe) -> FilePath | None:
    """The folder of the run's teacher, where it was a folder and is there still."""
    from omnidistill.configuration import received

    file = folder / "config.yaml"
    said = received.read_yaml(file) if file.is_file() else None
    named = said.get("teacher") if isinstance(said, Mapping) else None
    named = named or recipe.made_by.get("teacher")  # which Python was given
    if not isinstance(named, str) or not FilePath(named).is_dir():
        return None
    return FilePath(named)
