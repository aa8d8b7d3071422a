"""Every scheduler of diffusers that is read: what its configuration becomes adds noise as it does and steps as it does.

The states of some schedulers are those of a variance-exploding process, `x / alpha`; theirs are divided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omnidistill.configuration.instantiation import build
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.interop import schedulers
from omnidistill.paths.base import as_time
from omnidistill.random import generator

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X0, NOISE, ANSWER = torch.randn(3, 4, 5, generator=generator("parity"))
N, STEPS = 200, 4
PLACES = [199, 149, 99, 49]
ZERO = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}


class Fixed(nn.Module):
    """Answers the same whatever it is asked, and remembers what."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(ANSWER.clone())
        self.seen: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x, float(t[0])))
        return self.answer.expand_as(x)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `step`: what one step is here (`ode`; `ancestral` and `renoise` draw noise; `middle`: to the geometric mean of two
    noise levels; None: no step of a single answer). `ve`: states are divided by alpha. `options`: of the class.
    """

    name: str
    step: str | None = "ode"
    ve: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    predictions: tuple[str, ...] = ("epsilon", "v_prediction", "sample")
    zero: bool = True


def row(name: str, step: str | None = "ode", **more: Any) -> Row:
    options = tuple(more.pop("options", {}).items())
    return Row(f"{name}Scheduler", step, options=options, **more)


PLAIN = {"clip_sample": False}
TWO = ("epsilon", "v_prediction")
CHAINS = [
    row("DDPM", "ancestral", options=PLAIN),
    row("DDPMParallel", "ancestral", options=PLAIN),
    row("DDIM", options=PLAIN),
    row("DDIMParallel", options=PLAIN),
    row("CogVideoXDDIM", options=PLAIN),
    row("CogVideoXDPM", None, options=PLAIN),
    row("PNDM", options={"skip_prk_steps": True, "set_alpha_to_one": True}, predictions=TWO, zero=False),
    row("DEISMultistep", zero=False),
    row("DPMSolverMultistep"),
    row("DPMSolverMultistep", options={"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    row("DPMSolverSinglestep", options={"solver_order": 1}, zero=False),
    row("UniPCMultistep"),
    row("SASolver", None, zero=False),
    row("EulerDiscrete", ve=True, predictions=TWO),
    row("EulerAncestralDiscrete", "ancestral", ve=True, predictions=TWO),
    row("HeunDiscrete", ve=True, predictions=("epsilon", "v_prediction"), zero=False),
    row("KDPM2Discrete", "middle", ve=True, predictions=TWO, zero=False),
    row("KDPM2AncestralDiscrete", None, ve=True, predictions=TWO, zero=False),
    row("LMSDiscrete", ve=True, predictions=("epsilon", "v_prediction", "sample"), zero=False),
    row("LCM", "renoise", options={"timestep_scaling": 1e5}),
    row("TCD", "gamma"),
]


def made(one: Row, **more: Any) -> Any:
    import inspect

    kind = getattr(diffusers, one.name)
    takes = inspect.signature(kind.__init__).parameters
    usual = {"timestep_spacing": "trailing", "num_train_timesteps": N, "original_inference_steps": STEPS}
    options = {**usual, **dict(one.options), **more}
    return kind(**{key: value for key, value in options.items() if key in takes})


def ours(theirs: Any, tokens: int | None = None) -> tuple[NetworkDenoiser, schedulers.Levels]:
    """What the saved configuration becomes."""
    config = {"_class_name": type(theirs).__name__, **theirs.config}
    levels = schedulers.read(config, "scheduler_config.json", tokens)
    return NetworkDenoiser(Fixed(), build(levels.path), **levels.reading), levels


TABLE = [
    pytest.param(one, prediction, schedule, id=f"{one.name[:-9]}-{prediction}-{schedule}-{i}")
    for i, one in enumerate(CHAINS)
    for prediction in one.predictions
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "zero")
    if (schedule != "zero" or (one.zero and prediction != "epsilon"))
    and (schedule in ("scaled_linear", "zero") or prediction == one.predictions[0])
]


@pytest.mark.parametrize(("one", "prediction", "schedule"), TABLE)
def test_a_chain(one: Row, prediction: str, schedule: str) -> None:
    betas = ZERO if schedule == "zero" else {"beta_schedule": schedule}
    theirs = made(one, prediction_type=prediction, **betas)
    denoiser, _ = ours(theirs)
    path: Any = denoiser.path
    theirs.set_timesteps(STEPS)
    own = one.name == "DPMSolverSinglestepScheduler"  # which spaces its steps by itself
    steps = theirs.timesteps.tolist() if own else PLACES
    assert {*steps} <= {int(t) for t in theirs.timesteps}
    for k in range(STEPS - 1):
        # One level of a chain of zero signal is no number in units of the signal.
        if one.ve and float(path.coefficients(path.time(steps[k])).alpha) < 1e-2:
            continue
        _noised(theirs, path, steps[k], one.ve)
        if one.step is None or (k and one.name in ("PNDMScheduler", "LMSDiscreteScheduler")):
            continue
        _stepped(one, prediction, schedule, denoiser, steps, k)


def _noised(theirs: Any, path: Any, place: int, ve: bool) -> None:
    alpha, _, sigma = path.coefficients(path.time(place))
    expected = theirs.add_noise(X0, NOISE, torch.tensor([place] * 4))
    # Multistep solvers add noise as a chain does, Euler's and its kin in units of the signal.
    found = (alpha * X0 + sigma * NOISE) / (alpha if ve else 1.0)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)


def _stepped(one: Row, prediction: str, schedule: str, denoiser: Any, steps: list[int], k: int) -> None:
    betas = ZERO if schedule == "zero" else {"beta_schedule": schedule}
    theirs = made(one, prediction_type=prediction, **betas)
    theirs.set_timesteps(STEPS)
    path = denoiser.path
    t, s = path.time(steps[k]), path.time(steps[k + 1])
    # Where the first answer is magnified a hundredfold, single precision alone is worse than what is asked.
    through_noise = prediction == "epsilon" or one.name in ("PNDMScheduler", "DEISMultistepScheduler")
    if (through_noise or dict(one.options).get("algorithm_type")) and float(
        path.coefficients(t).alpha
    ) < 2e-2:
        return
    alpha_t, alpha_s = (float(path.coefficients(u).alpha) for u in (t, s))
    index = _last(theirs.timesteps.long(), steps[k])
    place: Any = theirs.timesteps[index]
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(index)
    x = NOISE / alpha_t if one.ve else NOISE
    g = {"generator": generator("step")} if one.step not in ("ode", "middle") else {}
    if hasattr(theirs, "scale_model_input"):
        torch.testing.assert_close(theirs.scale_model_input(x, place), NOISE, rtol=1e-5, atol=1e-5)
        theirs._step_index = None if not hasattr(theirs, "set_begin_index") else theirs._step_index
    more = {"eta": 0.3} if one.name == "TCDScheduler" else {}
    expected = theirs.step(ANSWER, place, x, **g, **more).prev_sample
    belief = denoiser(NOISE, t, Context()).mean
    assert denoiser.network.seen[-1][1] == pytest.approx(steps[k], abs=1e-3)
    draws = {"g": generator("step")}
    if one.step == "renoise":
        found = path.renoise(belief, s, **draws)
    elif one.step == "gamma":
        found = path.bridge(NOISE, belief, t, s, gamma=_tcd(path, steps[k + 1], 0.3), **draws)
    elif one.step == "middle":
        level = (path.noise_level(t) * path.noise_level(s)).sqrt()
        s = path.time_from_noise_level(level)
        alpha_s = float(path.coefficients(s).alpha)
        found = path.bridge(NOISE, belief, t, s)
    else:
        found = path.bridge(NOISE, belief, t, s, churn=float(one.step == "ancestral"), **draws)
    found = found / alpha_s if one.ve else found
    bound = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-5, atol=2 * bound)


def _last(values: Tensor, value: Any) -> int:
    """Where a value stands, the last time: Heun's steps are there twice, of which the second begins a step."""
    return int((values == value).nonzero()[-1])


def _tcd(path: Any, before: int, eta: float) -> float:
    """Its jump to (1 - eta) of the next place, and the way back up to it, as a share of fresh noise."""
    below, at = (path.coefficients(path.time(k)) for k in (int((1 - eta) * before), before))
    return float((1.0 - (at.alpha / below.alpha * below.sigma / at.sigma) ** 2).sqrt())


FLOWS = [
    ("FlowMatchEulerDiscrete", {}, "ode"),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}, "renoise"),
    ("FlowMatchHeunDiscrete", {}, "ode"),
    ("FlowMatchLCM", {}, "renoise"),
    *(
        (name, {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "ode")
        for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
    ),
]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "options", "step"), FLOWS, ids=lambda value: str(value)[:40])
def test_a_flow(name: str, options: dict[str, Any], step: str, shift: float) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    key = "shift" if name.startswith("Flow") else "flow_shift"

    def fresh() -> Any:
        theirs = kind(**options, **{key: shift})
        theirs.set_timesteps(STEPS)
        return theirs

    denoiser, levels = ours(fresh())
    assert levels.shift == shift and levels.reading["time_input"] == "1000t"
    path = denoiser.path
    sigmas = [float(sigma) for sigma in fresh().sigmas]
    sigmas = list(dict.fromkeys(sigmas))  # Heun's are twice there
    for k in range(1, STEPS - 1):
        theirs = fresh()
        place = theirs.timesteps[[float(s) for s in theirs.sigmas].index(sigmas[k])]
        if hasattr(theirs, "scale_noise"):
            noised = theirs.scale_noise(X0, place[None], NOISE)
        else:
            theirs.set_begin_index(k)
            noised = theirs.add_noise(X0, NOISE, place[None])
        t, s = sigmas[k], sigmas[k + 1]
        torch.testing.assert_close(((1 - t) * X0 + t * NOISE), noised, rtol=1e-5, atol=1e-5)
        theirs = fresh()
        theirs.set_begin_index(_last(theirs.timesteps, place))
        g = {"generator": generator("step")} if step != "ode" else {}
        expected = theirs.step(ANSWER, place, NOISE, **g).prev_sample
        belief = denoiser(NOISE, t, Context()).mean
        assert denoiser.network.seen[-1][1] == pytest.approx(1000 * t, rel=1e-5)
        found = (
            path.renoise(belief, s, g=generator("step"))
            if step == "renoise"
            else path.bridge(NOISE, belief, t, s)
        )
        torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_an_inverted_flow(shift: float) -> None:
    """Mochi's: sigma is the share of the data, from 0 to 1, and noise is added by its own pipeline's start alone."""

    def fresh() -> Any:
        theirs = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, shift=shift)
        theirs.set_timesteps(STEPS)
        return theirs

    denoiser, levels = ours(fresh())
    assert levels.shift == shift
    for k in range(STEPS):
        theirs = fresh()
        theirs.set_begin_index(k)
        t, s = (1.0 - float(sigma) for sigma in theirs.sigmas[k : k + 2])
        expected = theirs.step(ANSWER, theirs.timesteps[k], NOISE).prev_sample
        belief = denoiser(NOISE, t, Context()).mean
        assert denoiser.network.seen[-1][1] == pytest.approx(float(theirs.timesteps[k]), abs=1e-2)
        found = denoiser.path.bridge(NOISE, belief, t, s) if s > 0.0 else belief
        torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_is_that_of_the_sample(kind: str) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):  # of its base_ and max_image_seq_len
        _, levels = ours(theirs, tokens=tokens)
        sigmas = torch.linspace(1.0, 0.25, 4)
        theirs.set_timesteps(sigmas=sigmas.tolist(), mu=mu)
        shifted = levels.shift * sigmas / (1 + (levels.shift - 1) * sigmas)
        torch.testing.assert_close(shifted, theirs.sigmas[:-1], rtol=1e-5, atol=1e-5)


KARRAS = [
    ("EDMEuler", {}, TWO),
    ("EDMDPMSolverMultistep", {}, TWO),
    ("CosineDPMSolverMultistep", {"sigma_data": 0.8}, TWO),
    ("CosineDPMSolverMultistep", {"sigma_schedule": "karras"}, TWO[1:]),
    ("EulerDiscrete", {"timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0}, TWO[1:]),
]


@pytest.mark.parametrize(
    ("name", "options", "prediction"),
    [(name, options, kind) for name, options, kinds in KARRAS for kind in kinds],
    ids=str,
)
def test_noise_levels_of_karras(name: str, options: dict[str, Any], prediction: str) -> None:
    """The cosine solver draws its noise along a tree of Brownian motion; here both are given the same."""
    stochastic = name.startswith("Cosine")
    if stochastic:
        pytest.importorskip("torchsde")
    kind = getattr(diffusers, f"{name}Scheduler")
    if name == "EulerDiscrete":
        options = {**options, "use_karras_sigmas": True}

    def fresh() -> Any:
        theirs = kind(prediction_type=prediction, **options)
        theirs.set_timesteps(STEPS)
        if stochastic:
            theirs.noise_sampler = lambda before, after: torch.randn(X0.shape, generator=generator("step"))
        return theirs

    denoiser, _ = ours(fresh())
    path = denoiser.path
    for k in range(STEPS - 1):
        theirs = fresh()
        place, sigma, after = theirs.timesteps[k], float(theirs.sigmas[k]), float(theirs.sigmas[k + 1])
        t, s = path.time_from_noise_level(sigma), path.time_from_noise_level(after)
        noised = theirs.add_noise(X0, NOISE, place[None].expand(4))
        torch.testing.assert_close((X0 + sigma * NOISE), noised, rtol=1e-5, atol=1e-5)
        theirs = fresh()
        theirs.set_begin_index(k)
        x = X0 + sigma * NOISE
        told = theirs.scale_model_input(x, place)
        expected = theirs.step(ANSWER, place, x).prev_sample
        belief = denoiser(x, t, Context()).mean
        seen, when = denoiser.network.seen[-1]
        torch.testing.assert_close(seen, told, rtol=1e-5, atol=1e-5)
        assert when == pytest.approx(float(place), abs=1e-4)
        found = path.bridge(x, belief, t, s, churn=float(stochastic), g=generator("step"))
        torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-5, atol=1e-5 * max(1.0, sigma))


def test_a_consistency_model() -> None:
    theirs = diffusers.CMStochasticIterativeScheduler()
    theirs.set_timesteps(STEPS)
    denoiser, _ = ours(theirs)
    for k in range(STEPS):
        place, sigma = theirs.timesteps[k], float(theirs.sigmas[k])
        x = X0 + sigma * NOISE
        told = theirs.scale_model_input(x, place)
        skip, out = theirs.get_scalings_for_boundary_condition(theirs.sigmas[k])
        t = denoiser.path.time_from_noise_level(sigma)
        found = denoiser(x, t, Context()).mean
        torch.testing.assert_close(found, skip * x + out * ANSWER, rtol=1e-5, atol=1e-5)
        seen, when = denoiser.network.seen[-1]
        torch.testing.assert_close(seen, told, rtol=1e-5, atol=1e-5)
        assert when == pytest.approx(float(place), abs=1e-2)
        theirs._step_index = None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "IPNDMScheduler"}, "unknown scheduler in f 'IPNDMScheduler'.*set task.path"),
        ({"_class_name": "VQDiffusionScheduler"}, "set task.path"),
        ({"_class_name": "DDPMScheduler", "prediction_type": "score"}, "prediction_type='score'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "none"}, "says no levels of noise"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 100}, "of a flow"),
    ],
)
def test_what_is_not_read_is_said_in_one_line(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        schedulers.read(config, "f")
    assert "\n" not in str(error.value)


def test_what_a_scheduler_wants_installed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dummy:
        """As the library puts in place of a class whose own libraries are missing."""

        def __init__(self, *given: Any, **more: Any) -> None:
            raise ImportError("requires the torchsde library")

    monkeypatch.setattr(diffusers, "CosineDPMSolverMultistepScheduler", Dummy)
    with pytest.raises(UserError, match=r"pip install 'omnidistill\[diffusers\]'") as error:
        schedulers.read({"_class_name": "CosineDPMSolverMultistepScheduler"}, "f")
    assert "\n" not in str(error.value)


def test_times_are_in_the_path() -> None:
    """The clean end and the last place, where tables and times are easily off by one."""
    denoiser, levels = ours(diffusers.DDPMScheduler())
    assert float(as_time(denoiser.path.time(999), X0)) == 1.0  # type: ignore[attr-defined]
    assert len(levels.path["alphas_cumprod"]) == 1000
