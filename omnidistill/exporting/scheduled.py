"""The scheduler of diffusers that walks as a student does, and the times that it has to be told.

| path | transition | scheduler |
|---|---|---|
| a table | renoise, gamma=1 | LCMScheduler; or TCDScheduler at `eta=1` |
| a table | ode, gamma=0 | DDIMScheduler; of uneven times DPMSolverMultistepScheduler of order 1, the same step |
| a table | ode, gamma=0 | or TCDScheduler at `eta=0` |
| a table | ancestral | DDPMScheduler |
| rectified flow | ode, renoise | FlowMatchEulerDiscreteScheduler, `stochastic_sampling` for the latter |
| edm | ode | EDMEulerScheduler |

Their own grids are others than a student's (LCM's of four steps has 759 and 259 for 749 and 249, that of flow matching
ends at 1/1000), so options are chosen with which the grid is the student's where there are any; else times are said.
TCDScheduler takes place 0 of its table for its end. It is given one whose place 0 is clean data and all others the
student's; its jumps for `eta` between 0 and 1 are by shares of time, and those of `student.gamma` by shares of noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.interop.schedulers import PARAMETERISATIONS, PRECONDITIONED
from omnidistill.paths.table import TablePath
from omnidistill.samplers import FewStep

BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
PREDICTIONS = {ours: theirs for theirs, ours in PARAMETERISATIONS.items()}


@dataclass(frozen=True)
class Scheduled:
    """
    Attributes:
        scheduler: made, its times not set.
        told: keywords of its `set_timesteps`, `num_inference_steps` alone where its own grid is the student's.
        times: of the student in [0, 1], from above, without the 0 at the end, as the scheduler truly has them.
        moved: what the largest move of a time is, in places of a table, where these are not the student's own.
        start: the standard deviation of what it starts from, which is not that of every scheduler's own attribute.
        step: keywords of its `step`, which a pipeline's call hands on.
    """

    scheduler: Any
    told: dict[str, Any]
    times: tuple[float, ...]
    moved: float = 0.0
    start: float = 1.0
    step: dict[str, float] = field(default_factory=dict)


def scheduled(
    inner: NetworkDenoiser,
    sampler: FewStep,
    times: list[float],
    given: Mapping[str, Any],
    wanted: str | None = None,
) -> Scheduled:
    """The scheduler of a student.

    Args:
        times: as `FewStep.times` has them, without the 0.
        given: plain values of the teacher's own scheduler, whose noise is the student's.
        wanted: the class of the scheduler, among those that walk so; by default the first of them that can.

    Raises:
        UserError: no scheduler of diffusers walks so, or not the one that is wanted.
    """
    if inner.start is not None:
        raise UserError(
            f"schedulers of diffusers start from the noise of their own first step, and the student from "
            f"sigma_init={inner.start.level:g}; format=onnx or safetensors"
        )
    transition = sampler.transition
    if sampler.gamma is not None:
        transition = {0.0: "ode", 1.0: "renoise"}.get(sampler.gamma, "gamma")
    path = inner.path
    if isinstance(path, TablePath) and inner.time_input == "index" and inner.parameterisation in PREDICTIONS:
        return _chain(inner, path, transition, times, given, wanted)
    name = getattr(path, "name", "")
    flow = inner.parameterisation == "flow" and inner.time_input in ("1000t", "t")
    if name == "rectified_flow" and flow and transition in ("ode", "renoise"):
        _among(wanted, ["FlowMatchEulerDiscreteScheduler"], transition)
        return _flow(transition == "renoise", times)
    known = inner.unit_input and inner.parameterisation in PRECONDITIONED.values()
    known = known and inner.time_input == "log_sigma/4"
    if name == "edm" and known and transition == "ode":
        _among(wanted, ["EDMEulerScheduler"], transition)
        return _edm(inner, times)
    raise UserError(
        f"no scheduler of diffusers walks as student.transition={sampler.transition} does on {path} with "
        f"{inner.parameterisation} told {inner.time_input}; format=onnx or safetensors"
    )


def _among(wanted: str | None, names: list[str], transition: str) -> None:
    if wanted is not None and wanted not in names:
        raise UserError(
            f"scheduler={wanted} does not walk as the student does, by {transition}; {' or '.join(names)} does"
        )


def _chain(
    inner: NetworkDenoiser,
    path: TablePath,
    transition: str,
    times: list[float],
    given: Mapping[str, Any],
    wanted: str | None,
) -> Scheduled:
    import diffusers

    exact = path.index(torch.tensor(times, dtype=torch.float64))
    places = [int(place) for place in exact.round().clamp(0, path.entries - 1)]
    if len({*places}) < len(places):
        raise UserError(
            f"two steps of the student fall on one of {path.entries} places of its table; ask fewer steps"
        )
    n = len(places)
    options = {
        "num_train_timesteps": path.entries,
        "prediction_type": PREDICTIONS[inner.parameterisation],
        "clip_sample": False,
        "thresholding": False,
        "timestep_spacing": "trailing",
    }
    # The grid of all places, of which n even ones are the student's.
    tcd = (diffusers.TCDScheduler, {"original_inference_steps": path.entries})
    by_transition: dict[str, list[tuple[Any, dict[str, Any]]]] = {
        # The boundary of the parameterisation is the student's; a large scaling leaves that of the scheduler out.
        "renoise": [
            (diffusers.LCMScheduler, {"original_inference_steps": n, "timestep_scaling": 1.0e6}),
            tcd,
        ],
        "ode": [
            (diffusers.DDIMScheduler, {"set_alpha_to_one": True}),
            (diffusers.DPMSolverMultistepScheduler, {"solver_order": 1, "final_sigmas_type": "zero"}),
            tcd,
        ],
        "ancestral": [(diffusers.DDPMScheduler, {"variance_type": "fixed_small"})],
    }
    if transition not in by_transition:
        raise UserError(
            "TCDScheduler jumps by shares of time and student.gamma by shares of noise: no scheduler of diffusers "
            "walks as the student does unless gamma is 0 or 1; format=onnx or safetensors"
        )
    names = [kind.__name__ for kind, _ in by_transition[transition]]
    _among(wanted, names, transition)
    if wanted == "TCDScheduler" and places[-1] == 0:
        raise UserError(
            "TCDScheduler ends at place 0 of its table, from where the student's last step begins; ask fewer steps or "
            f"scheduler={names[0]}"
        )
    moved = float((exact - torch.tensor(places, dtype=torch.float64)).abs().max())
    for kind, more in by_transition[transition]:
        if wanted not in (None, kind.__name__):
            continue
        jumps = kind is diffusers.TCDScheduler
        noise = _ending_clean(path) if jumps else _betas(path, given)
        takes = inspect.signature(kind.__init__).parameters
        made = kind(**{key: value for key, value in {**noise, **options, **more}.items() if key in takes})
        made.set_timesteps(n)
        even = path.entries % n == 0 or n == 1  # DDIM steps by whole places from one time to the next
        if made.timesteps.tolist() == places and even:
            told: dict[str, Any] = {"num_inference_steps": n}
        elif "timesteps" in inspect.signature(made.set_timesteps).parameters:
            told = {"timesteps": places}
        else:
            continue
        step = {"eta": float(transition == "renoise")} if jumps else {}
        return Scheduled(made, told, tuple(path.time(torch.tensor(places)).tolist()), moved, step=step)
    # All but the first of `ode` take any.
    raise UserError(f"{wanted} takes even times and not {places}; scheduler={' or '.join(names[1:])}")


def _ending_clean(path: TablePath) -> dict[str, Any]:
    """The table with clean data at place 0, where TCDScheduler ends; all other places are as they were."""
    levels = torch.cat((torch.ones(1, dtype=torch.float64), path._alphas[2:] ** 2))
    return {"trained_betas": [0.0, *(1.0 - levels[1:] / levels[:-1]).tolist()]}


def _betas(path: TablePath, given: Mapping[str, Any]) -> dict[str, Any]:
    """The noise as the teacher's scheduler said it; where that is not the whole truth, the table itself."""
    import diffusers

    kind = getattr(diffusers, str(given.get("_class_name")), None)
    if kind is not None:
        takes = inspect.signature(kind.__init__).parameters
        config = kind(**{key: value for key, value in given.items() if key in takes}).config
        said = {key: config[key] for key in BETAS if config.get(key) is not None}
        made = diffusers.DDPMScheduler(num_train_timesteps=path.entries, **said).alphas_cumprod.double()
        if float((made - path._alphas[1:] ** 2).abs().max()) < 1e-6:
            return said
    levels = path._alphas**2
    return {"trained_betas": (1.0 - levels[1:] / levels[:-1]).tolist()}


def _flow(stochastic: bool, times: list[float]) -> Scheduled:
    from diffusers import FlowMatchEulerDiscreteScheduler

    n = len(times)
    # Its own grid runs from 1 to 1/1000 and is then stretched to end where it is told: at the last of the steps, which
    # makes even ones the student's, and any two.
    for terminal in ([times[-1]] if n > 1 else []) + [None]:
        made = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic, shift_terminal=terminal)
        made.set_timesteps(n)
        if torch.allclose(made.sigmas[:-1].double(), torch.tensor(times).double(), atol=1e-6):
            return Scheduled(made, {"num_inference_steps": n}, tuple(times))
    return Scheduled(made, {"sigmas": [float(t) for t in times]}, tuple(times))


def _edm(inner: NetworkDenoiser, times: list[float]) -> Scheduled:
    from diffusers import EDMEulerScheduler

    path: Any = inner.path
    ends = path.noise_level(torch.tensor([path.span[0], 1.0], dtype=torch.float64))
    predictions = {ours: theirs for theirs, ours in PRECONDITIONED.items()}
    low, high = (float(level) for level in ends)
    made = EDMEulerScheduler(
        sigma_min=low,
        sigma_max=high,
        sigma_data=inner.sigma_data,
        prediction_type=predictions[inner.parameterisation],
        rho=7.0,
    )
    levels = path.noise_level(torch.tensor(times, dtype=torch.float64))
    # It takes shares of the way between the two ends and not levels.
    first, last = high ** (1 / 7), low ** (1 / 7)
    shares = (first - levels ** (1 / 7)) / (first - last)
    return Scheduled(made, {"sigmas": shares}, tuple(times), start=high)


def walk(network: Any, found: Scheduled, x: torch.Tensor, condition: Any, g: torch.Generator) -> torch.Tensor:
    """The scheduler's own loop, as a pipeline has it."""
    scheduler = found.scheduler
    scheduler.set_timesteps(**found.told)
    scale = 1.0 / 1000.0 if getattr(network.call, "unit_time", False) else 1.0
    stepping = inspect.signature(scheduler.step).parameters
    more = {**found.step, **({"generator": g} if "generator" in stepping else {})}
    given = () if condition is None else (condition,)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = network(seen, (t * scale).expand(len(x)), *given)
        x = scheduler.step(out, t, x, **more).prev_sample
    return x
