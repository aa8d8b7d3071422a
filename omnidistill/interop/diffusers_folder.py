"""A folder that diffusers' `save_pretrained` wrote, described as a network, its path and how to read it. Nothing in it
is run: the class is one of `CLASSES`, its options are the plain values of config.json, weights are safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.errors import UserError, unknown

CLASSES = {"UNet2DModel": "diffusers.UNet2DModel"}
PARTS = ("", "unet", "transformer")
"""Where a model lies in the folder of a model or of a pipeline."""
PARAMETERISATIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETAS = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "num_train_timesteps",
    "rescale_betas_zero_snr",
)


def describe(folder: Path) -> dict[str, Any] | None:
    """Options of an `own` task: `foreign` (see `omnidistill.brought.Foreign`), and `classes` where it knows any; None
    where there is no model of diffusers.

    Raises:
        UserError: a class that is not read, no scheduler beside it, or one whose levels are not known here.
    """
    model = next((folder / part for part in PARTS if (folder / part / "config.json").is_file()), None)
    if model is None:
        return None
    config = _section(model / "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str):
        return None
    if name not in CLASSES:
        raise unknown(f"class of diffusers in {model}", name, CLASSES)
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    size: Any = options.get("sample_size")
    sides = list(size) if isinstance(size, list) else [size, size]
    if not all(isinstance(side, int) for side in (*sides, options.get("in_channels"))):
        raise UserError(
            f"{model / 'config.json'} says no sample_size and in_channels; give task.shape and network="
        )
    path, reading = _levels(model, folder)
    foreign = {
        "_target_": "omnidistill.brought.Foreign",
        "network": {"_target_": CLASSES[name], "_partial_": True, **options},
        "shape": [options["in_channels"], *sides],
        **{"path": path, "reading": reading},
    }
    classes = options.get("num_class_embeds")
    return {"foreign": foreign} if classes is None else {"foreign": foreign, "classes": classes}


def weights(folder: Path) -> Path:
    """The one file of weights in the folder of a model or of a pipeline.

    Raises:
        UserError: there is none, or several.
    """
    for part in PARTS:
        found = sorted((folder / part).glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{folder / part} holds {len(found)} files of weights; name one with teacher=")
    raise UserError(f"{folder} holds no *.safetensors")


def _levels(model: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The path on the levels that the scheduler was trained with, and how the network is read on it."""
    places = [
        place / "scheduler_config.json" for place in (folder / "scheduler", model, model.parent / "scheduler")
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(
            f"{folder} has no scheduler/scheduler_config.json, which says what noise the model was trained with; save "
            "the scheduler there"
        )
    config = _section(file)
    asked = config.get("prediction_type", "epsilon")
    if "beta_schedule" not in config or asked not in PARAMETERISATIONS:
        raise UserError(
            f"{file} is of {config.get('_class_name')} with prediction_type={asked!r}; those with a beta_schedule are "
            f"read, that predict {', '.join(PARAMETERISATIONS)}"
        )
    from diffusers import DDPMScheduler

    try:
        made = DDPMScheduler(**{key: config[key] for key in BETAS if config.get(key) is not None})
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file} says no levels of noise: {' '.join(str(error).split())}") from error
    levels = [float(level) for level in made.alphas_cumprod.double()]
    reading = {"parameterisation": PARAMETERISATIONS[asked], "time_input": "index"}
    return {"_target_": "omnidistill.paths.named.discrete", "alphas_cumprod": levels}, reading


def _section(file: Path) -> Mapping[str, Any]:
    value = received.read_json(file)
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no section of keys")
    return value
