"""A folder that diffusers' `save_pretrained` wrote, described as a network, its path and how to read it. Nothing in it
is run: the class is one of `diffusers_network.CALLS`, its options are the plain values of config.json, weights are
safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.interop import prompts, schedulers
from omnidistill.interop.diffusers_network import call_of, shape_of, tokens_of
from omnidistill.interop.parts import PARTS, part_of, section
from omnidistill.training.safetensors_file import read_safetensors

NETWORK = "omnidistill.interop.diffusers_network.DiffusersNetwork"
USUAL = "diffusion_pytorch_model.safetensors"


def describe(folder: Path, about: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Options of an `own` task: `foreign` (see `omnidistill.brought.Foreign`), and `classes` where it knows any; None
    where there is no model of diffusers.

    Args:
        about: what the user says of it, above what the folder says: `shape`, `path`, `reading`, `time_module`; the
            `labels`, prompts of a network that is told text.

    Raises:
        UserError: a class that is not read, no scheduler beside it, or one whose levels are not known here.
    """
    model = part_of(folder)
    if model is None:
        return None
    about = about or {}
    config = section(model / "config.json")
    name = str(config["_class_name"])
    call, where = call_of(name, str(model)), str(model / "config.json")
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    shape = shape_of(name, options, about.get("shape"), where)
    foreign: dict[str, Any] = {
        "_target_": "omnidistill.brought.Foreign",
        "network": {"_target_": NETWORK, "_partial_": True, "kind": name, "options": options},
        "shape": shape,
    }
    if about.get("path") is not None:
        foreign |= {"path": about["path"], "reading": dict(about.get("reading") or {})}
    else:
        file = _scheduler(model, folder)
        levels = schedulers.read(section(file), str(file), tokens_of(options, shape))
        unit = {"time_input": "t"} if call.unit_time and levels.reading["time_input"] == "1000t" else {}
        reading = {**levels.reading, **unit, **(about.get("reading") or {})}
        foreign |= {"path": levels.path, "reading": reading, "scheduler": levels.scheduler}
        foreign |= {} if levels.shift == 1.0 else {"shift": levels.shift}
    if about.get("time_module") is not None:
        foreign["time_module"] = about["time_module"]
    known: dict[str, Any] = {"foreign": foreign, **_beside(folder, shape)}
    classes = _classes(name, options)
    if (told := prompts.describe(folder, name, options, about.get("labels"), shape)) is not None:
        foreign["network"] = {**foreign["network"], **told}
        classes = len(told["prompts"])
    return known if classes is None else {**known, "classes": classes}


def _beside(folder: Path, shape: list[int]) -> dict[str, Any]:
    """The autoencoder of a pipeline, and the shape of what it decodes a sample to."""
    file = folder / "vae" / "config.json"
    config = section(file) if file.is_file() else {}
    if config.get("_class_name") == "AutoencoderOobleck" and len(shape) == 2:
        return {"autoencoder": str(folder / "vae")}
    blocks, channels = config.get("block_out_channels"), config.get("in_channels", 3)
    if config.get("_class_name") != "AutoencoderKL" or not isinstance(blocks, list) or len(shape) != 3:
        return {}
    sides = [side * 2 ** (len(blocks) - 1) for side in shape[1:]]
    return {"autoencoder": str(folder / "vae"), "picture": [channels, *sides]}


def _classes(name: str, options: Mapping[str, Any]) -> int | None:
    if name == "DiTTransformer2DModel":
        return options.get("num_embeds_ada_norm")
    return options.get("num_class_embeds") if call_of(name).condition == "class_labels" else None


def weights(folder: Path) -> Path:
    """The file of weights in the folder of a model or of a pipeline, or the index of several.

    Raises:
        UserError: there is none, or it is not clear which.
    """
    model = part_of(folder)
    for place in [model] if model is not None else [folder / part for part in PARTS]:
        for usual in (USUAL, f"{USUAL}.index.json"):
            if (place / usual).is_file():
                return place / usual
        found = sorted(place.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{place} holds {len(found)} files of weights; name one with teacher=")
    raise UserError(f"{folder} holds no *.safetensors")


def read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """All weights in the folder of a model or of a pipeline, shards put together, and where they lie."""
    file = weights(folder)
    if file.suffix != ".json":
        return read_safetensors(file)[0], file
    shards = section(file).get("weight_map")
    if not isinstance(shards, Mapping) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{file} is no index of weights")
    tensors: dict[str, Tensor] = {}
    for name in sorted({*shards.values()}):
        if Path(name).name != name:
            raise UserError(f"{file} names a file outside of its folder: {name}")
        tensors |= read_safetensors(file.parent / name)[0]
    return tensors, file


def _scheduler(model: Path, folder: Path) -> Path:
    places = [
        place / "scheduler_config.json" for place in (folder / "scheduler", model, model.parent / "scheduler")
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(
            f"{folder} has no scheduler/scheduler_config.json, which says what noise the model was trained with; save "
            "the scheduler there, or set task.path and task.reading"
        )
    return file
