"""What a scheduler of diffusers says about the network beside it: the path it was trained on, how its output and its
time are read, and how far its grid is shifted. Read from plain values; the class is one of those named here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omnidistill.errors import UserError, unknown

CHAINS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler"),
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DEISMultistepScheduler", "SASolverScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler"),
    *("LCMScheduler", "TCDScheduler"),
)
"""Chains of N steps (Ho et al. 2020), whatever walks them; some may be told to walk a flow instead."""
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
COSINE = ("CosineDPMSolverMultistepScheduler",)
KARRAS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", *COSINE)
CONSISTENCY = ("CMStochasticIterativeScheduler",)
KNOWN = (*CHAINS, *FLOWS, *KARRAS, *CONSISTENCY)

PARAMETERISATIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
PRECONDITIONED = {"epsilon": "edm", "v_prediction": "trigflow"}
MEND = "set task.path and task.reading, which say what they are"


@dataclass(frozen=True)
class Levels:
    """
    Attributes:
        path: a configuration of a path.
        reading: keywords of `NetworkDenoiser`.
        shift: of the grid that the teacher is sampled on.
        scheduler: the configuration itself, for who hands a student back.
    """

    path: dict[str, Any]
    reading: dict[str, Any]
    shift: float = 1.0
    scheduler: dict[str, Any] = field(default_factory=dict)


def read(config: Mapping[str, Any], where: str, tokens: int | None = None) -> Levels:
    """The levels that `scheduler_config.json` at `where` means.

    Args:
        tokens: patches of a sample, which a dynamic shift depends on.

    Raises:
        UserError: a class or a prediction type that is not read, or values that no such class takes.
    """
    name = str(config.get("_class_name"))
    if name not in KNOWN:
        raise UserError(f"{unknown(f'scheduler in {where}', name, KNOWN)}; or {MEND}")
    made = _made(name, config, where)
    given = {key: value for key, value in dict(config).items() if key == "_class_name" or key[0] != "_"}
    path, reading, shift = _levels(name, made, where, tokens)
    return Levels(path, reading, shift, given)


def _levels(
    name: str, made: Any, where: str, tokens: int | None
) -> tuple[dict[str, Any], dict[str, Any], float]:
    own = made.config
    reading: dict[str, Any]
    asked = own.get("prediction_type", "epsilon")
    if name in FLOWS or asked == "flow_prediction" or own.get("use_flow_sigmas"):
        if name not in FLOWS and asked != "flow_prediction":
            raise _unread(where, name, f"use_flow_sigmas with prediction_type={asked!r}")
        if own.num_train_timesteps != 1000:
            raise _unread(where, name, f"num_train_timesteps={own.num_train_timesteps} of a flow")
        reading = {"parameterisation": "flow", "time_input": "1000t"}
        if own.get("invert_sigmas"):  # Mochi's: time 0 is noise, and the velocity leads to the data
            reading = {"parameterisation": "flow_to_data", "time_input": "1000(1-t)"}
        return {"_target_": "omnidistill.paths.named.rectified_flow"}, reading, _shift(own, where, tokens)
    continuous = own.get("timestep_type") == "continuous"
    if name in KARRAS or (continuous and asked == "v_prediction"):
        if asked not in PRECONDITIONED:
            raise _unread(where, name, f"prediction_type={asked!r}")
        reading = {
            "parameterisation": PRECONDITIONED[asked],
            "time_input": "2atan_sigma/pi" if name in COSINE else "log_sigma/4",
            "sigma_data": float(own.get("sigma_data", 1.0)),
            "unit_input": True,
        }
        return _karras(own, where, name), reading, 1.0
    if name in CONSISTENCY:
        reading = {
            "parameterisation": "consistency",
            "time_input": "250log_sigma",
            "sigma_data": float(own.sigma_data),
            "unit_input": True,
        }
        return _karras(own, where, name), reading, 1.0
    if asked not in PARAMETERISATIONS:
        raise _unread(where, name, f"prediction_type={asked!r}")
    levels = [float(level) for level in made.alphas_cumprod.double()]
    reading = {"parameterisation": PARAMETERISATIONS[asked], "time_input": "index"}
    return {"_target_": "omnidistill.paths.named.discrete", "alphas_cumprod": levels}, reading, 1.0


def _made(name: str, config: Mapping[str, Any], where: str) -> Any:
    """The scheduler with its own defaults for what the file leaves out."""
    import inspect

    import diffusers

    kind = getattr(diffusers, name)
    takes = inspect.signature(kind.__init__).parameters
    options = {key: value for key, value in config.items() if key in takes}
    try:
        return kind(**options)
    except ImportError as error:  # of a library that the class wants: torchsde
        raise UserError(
            f"{name} in {where} needs more than is installed: pip install 'omnidistill[diffusers]'"
        ) from error
    except Exception as error:  # whatever a class says to values that it does not take
        raise UserError(f"{where} says no levels of noise: {' '.join(str(error).split())[:300]}") from error


def _karras(own: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    low, high = own.get("sigma_min"), own.get("sigma_max")
    if not low or not high:
        raise _unread(where, name, "no sigma_min and sigma_max")
    return {
        "_target_": "omnidistill.paths.named.edm",
        **{"sigma_min": float(low), "sigma_max": float(high), "rho": float(own.get("rho", 7.0))},
    }


def _shift(own: Mapping[str, Any], where: str, tokens: int | None) -> float:
    """`s t / (1 + (s - 1) t)`; a dynamic one grows with the number of patches (Esser et al. 2024, sec. 5.3.2)."""
    if not own.get("use_dynamic_shifting"):
        return float(own.get("flow_shift") or own.get("shift") or 1.0)
    if tokens is None:
        return math.exp(float(own["base_shift"])) if own.get("base_shift") is not None else 1.0
    few, many = own["base_image_seq_len"], own["max_image_seq_len"]
    share = (tokens - few) / (many - few)
    mu = own["base_shift"] + share * (own["max_shift"] - own["base_shift"])
    shift = math.exp(mu) if own.get("time_shift_type", "exponential") == "exponential" else mu
    if not shift > 0.0:
        raise UserError(f"{where} shifts a sample of {tokens} patches by {shift:g}; set student.shift")
    return float(shift)


def _unread(where: str, name: str, what: str) -> UserError:
    return UserError(f"{where} is a {name} with {what}, which is not read; {MEND}")
