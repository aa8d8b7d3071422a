"""A folder of diffusers: the model, the scheduler that walks as the student does, and the pipeline around them."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnidistill.configuration import received
from omnidistill.context import Condition, Context
from omnidistill.data.files import write_text
from omnidistill.denoisers.second import Second
from omnidistill.errors import UserError
from omnidistill.exporting.plain import folded
from omnidistill.exporting.run import COUNT, Handed
from omnidistill.exporting.scheduled import Scheduled, scheduled, walk
from omnidistill.exporting.walk import differs, network_of, planned
from omnidistill.interop.diffusers_network import DiffusersNetwork
from omnidistill.random import generator
from omnidistill.samplers import FewStep

INDEX = "model_index.json"
NAME = re.compile(r"\w+")
COPIED = (".json", ".safetensors", ".txt", ".model")
ALONE = {"UNet2DModel": "DDPMPipeline"}
"""Pipelines that need nothing but a model and a scheduler."""


@dataclass(frozen=True)
class Model:
    """The library's own model in a student, and what is around it.

    Attributes:
        bare: the model, adapters merged, what it is told folded in.
        kind: its class.
        part: `unet` or `transformer`, as pipelines call it.
        found: its scheduler.
    """

    bare: nn.Module
    kind: str
    part: str
    found: Scheduled


def model_of(handed: Handed) -> Model:
    """
    Raises:
        UserError: a student that no pipeline of diffusers could sample.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError("format=diffusers needs diffusers: pip install 'omnidistill[diffusers]'") from error
    inner, _ = network_of(handed.student.denoiser)
    plan = planned(handed.student.denoiser, handed.student.sampler, handed.steps)
    found = scheduled(
        inner,
        handed.student.sampler,
        [stride.t for stride in plan.strides],
        handed.foreign.get("scheduler") or {},
        handed.scheduler,
    )
    network = folded(inner, plan)
    bare = network.network if isinstance(network, DiffusersNetwork) else network
    kind = type(bare).__name__
    if not isinstance(bare, diffusers.ModelMixin):
        raise UserError(
            f"the student is a {kind}, which is no class of diffusers; format=safetensors or onnx hands it over"
        )
    return Model(bare, kind, "unet" if kind.startswith("UNet") else "transformer", found)


def write(handed: Handed) -> None:
    """The model, its scheduler and, where the teacher has one, its pipeline."""
    model = model_of(handed)
    out, found = handed.out, model.found
    model.bare.save_pretrained(out / model.part)  # type: ignore[operator]
    found.scheduler.save_pretrained(out / "scheduler")
    pipeline = _pipeline(handed, model)
    describe(handed, found)
    handed.said["sample"] = _code(handed, model, pipeline)
    if handed.verify:
        again = type(model.bare).from_pretrained(out / model.part).eval()  # type: ignore[attr-defined]
        verify(handed, DiffusersNetwork.around(again, model.kind), found, "diffusers")


def describe(handed: Handed, found: Scheduled) -> None:
    """`sampling.json`: what the scheduler has to be told, for programs; the same in words, for the card."""
    told = {
        key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in found.told.items()
    }
    said: dict[str, Any] = {
        "scheduler": type(found.scheduler).__name__,
        "set_timesteps": told,
        "step": found.step,
        "times": list(found.times),
    }
    if handed.recipe.guidance is not None:
        said["guidance_in_the_weights"] = handed.recipe.guidance
    write_text(json.dumps(said, indent=1) + "\n", handed.out / "sampling.json")
    if found.moved > 1e-6:
        handed.said["times"] = (
            f"The student's own times lie between places of the scheduler's table; the nearest are taken, at most "
            f"{found.moved:.2g} places away."
        )


def verify(handed: Handed, network: DiffusersNetwork, found: Scheduled, what: str) -> None:
    """The scheduler's loop against the student's sampler, both from one start and with one generator's noise."""
    condition = handed.condition(COUNT)
    x = found.start * torch.randn(COUNT, *handed.shape, generator=generator("export", "start"))
    own: Any = network_of(handed.student.denoiser)[0].network
    own = own.network if isinstance(own, Second) else own
    told = own.told(condition, COUNT) if isinstance(own, DiffusersNetwork) else condition
    theirs = walk(network, found, x, told, generator("export", "steps"))
    wanted = ours(handed, found, x, condition)
    handed.compare(what, differs(theirs, wanted))


def ours(handed: Handed, found: Scheduled, x: torch.Tensor, condition: Condition) -> torch.Tensor:
    """The student's samples at the times that the scheduler has."""
    own = handed.student.sampler
    sampler = FewStep(own.transition, list(found.times), 1.0, own.gamma)
    g = generator("export", "steps")
    return sampler.sample(
        handed.student.denoiser, torch.empty_like(x), handed.steps, Context(condition), g=g, x_1=x
    ).x0


def _pipeline(handed: Handed, model: Model) -> str | None:
    """The class of the pipeline that the folder is; None where it is a model and a scheduler."""
    named = type(model.found.scheduler).__name__
    source = handed.pipeline
    if source is not None and (source / INDEX).is_file():
        index = received.read_json(source / INDEX)
        if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
            raise UserError(f"{source / INDEX} names no pipeline")
        takes = _takes(index["_class_name"])
        if takes and not model.found.step.keys() <= takes:
            raise UserError(
                f"{index['_class_name']} hands no {next(iter(model.found.step))} on to {named}; leave scheduler out"
            )
        for name, value in index.items():
            if name in (model.part, "scheduler") or not isinstance(value, list):
                continue
            if NAME.fullmatch(name) and (source / name).is_dir():
                _copy(source / name, handed.out / name, source)
        index["scheduler"] = ["diffusers", named]
        write_text(json.dumps(index, indent=2) + "\n", handed.out / INDEX)
        return str(index["_class_name"])
    alone = ALONE.get(model.kind) if model.bare.config.get("num_class_embeds") is None else None  # type: ignore[union-attr, operator]
    # A pipeline for one step count takes no times, scales nothing and hands nothing on.
    if alone is None or "num_inference_steps" not in model.found.told or model.found.step:
        return None
    index = {
        "_class_name": alone,
        model.part: ["diffusers", model.kind],
        "scheduler": ["diffusers", named],
    }
    write_text(json.dumps(index, indent=2) + "\n", handed.out / INDEX)
    return alone


def _copy(part: Path, out: Path, folder: Path) -> None:
    """The configuration, vocabulary and safetensors of a part; code and pickles stay behind.

    Raises:
        UserError: a link that leads out of the folder, or out of the hub's cache that it lies in.
    """
    root = (folder.parent.parent if folder.parent.name == "snapshots" else folder).resolve()
    for file in sorted(part.rglob("*")):
        if not file.is_file() or file.suffix not in COPIED:
            continue
        if not file.resolve().is_relative_to(root):
            raise UserError(f"{file} leads out of {folder}; put the file itself there")
        target = out / file.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _takes(pipeline: str) -> set[str]:
    """What the call of a pipeline takes; nothing where it is no class of diffusers."""
    import diffusers

    kind = getattr(diffusers, pipeline, None) if pipeline.endswith("Pipeline") else None
    return set() if kind is None else {*inspect.signature(kind.__call__).parameters}


def _code(handed: Handed, model: Model, pipeline: str | None) -> str:
    """How to sample, in a few lines that run as they stand, beside the folder."""
    told, place = model.found.told, handed.out.name
    steps = [f"{key}={value:g}" for key, value in model.found.step.items()]
    if pipeline is not None:
        takes = _takes(pipeline)
        key = next(iter(told))
        if key in takes:
            words = [f"{key}={told[key]!r}", *steps]
            words += ["num_images_per_prompt=4", "guidance_scale=1.0"] if "guidance_scale" in takes else []
            asked = ['"your prompt"'] if "prompt" in takes else ["batch_size=4"]
            words = [word for word in words if word.partition("=")[0] in takes]
            kept = "frames" if "num_frames" in takes else "images"
            return f"""from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{place}")
samples = pipeline({", ".join([*asked, *words])}).{kept}"""
    name = type(model.found.scheduler).__name__
    shown = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in told.items()}
    tensors = any(isinstance(value, torch.Tensor) for value in told.values())
    argument = ", ".join(f"{k}={f'torch.tensor({v!r})' if tensors else repr(v)}" for k, v in shown.items())
    condition = "" if handed.condition(1) is None else ", **condition"
    scale = (
        "scheduler.scale_model_input(x, t)" if hasattr(model.found.scheduler, "scale_model_input") else "x"
    )
    start = f"{model.found.start:g} * " if model.found.start != 1.0 else ""
    return f"""import torch
from diffusers import {model.kind}, {name}

model = {model.kind}.from_pretrained("{place}/{model.part}")
scheduler = {name}.from_pretrained("{place}/scheduler")
scheduler.set_timesteps({argument})
x = {start}torch.randn(4, {", ".join(map(str, handed.shape))})
for t in scheduler.timesteps:
    with torch.no_grad():
        out = model({scale}, timestep=t.expand(4){condition}).sample
    x = scheduler.step({", ".join(["out", "t", "x", *steps])}).prev_sample"""
