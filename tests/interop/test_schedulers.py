"""Paths, readings and times against the schedulers that the teachers of others were trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.paths import discrete, rectified_flow
from omnidistill.random import generator
from omnidistill.samplers import FewStep

diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLES: dict[str, dict[str, Any]] = {
    "ddpm": {},
    "stable diffusion": BETAS,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal snr": {**BETAS, "rescale_betas_zero_snr": True},
}


def scheduler(table: str, kind: str = "eps") -> Any:
    prediction = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[kind]
    return diffusers.DDIMScheduler(
        **TABLES[table], prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )


class Fixed(nn.Module):
    """Answers the same whatever it is asked, and remembers when it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer, self.seen = nn.Parameter(answer), []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append(float(t[0]))
        return self.answer.expand_as(x)


X0, NOISE, ANSWER = torch.randn(3, 4, 5, generator=generator("schedulers"))


@pytest.mark.parametrize("table", TABLES)
def test_noise_is_added_as_by_the_scheduler(table: str) -> None:
    theirs = scheduler(table)
    path = discrete(theirs.alphas_cumprod)
    for k in (0, 1, 37, 500, 998, 999):
        alpha, _, sigma = path.coefficients(path.time(k))
        expected = theirs.add_noise(X0, NOISE, torch.tensor([k] * 4))
        torch.testing.assert_close((alpha * X0 + sigma * NOISE).float(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_a_jump_is_the_schedulers_step(table: str, kind: str) -> None:
    theirs = scheduler(table, kind)
    path = discrete(theirs.alphas_cumprod)
    denoiser = NetworkDenoiser(Fixed(ANSWER), path, kind, time_input="index")
    theirs.set_timesteps(4)
    assert theirs.timesteps.tolist() == [999, 749, 499, 249]
    last = float(path.coefficients(1.0).alpha) == 0.0
    for k, before in ((999, 749), (499, 249), (249, -1)):
        t, s = path.time(k), path.time(before)
        assert float(s) == {749: 0.75, 249: 0.25, -1: 0.0}[before]
        if kind == "eps" and last and k == 999:
            with pytest.raises(UserError, match="'eps' is singular"):
                denoiser(X0, t)
            continue
        with torch.no_grad():
            made = path.bridge(X0, denoiser(X0, t).mean, t, s)
        expected = theirs.step(ANSWER, k, X0).prev_sample
        if before == -1:  # their end is the first place of the table, or clean data (`set_alpha_to_one`)
            expected = theirs.step(ANSWER, k, X0).pred_original_sample
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=2e-5 * float(expected.abs().max()))
        assert denoiser.network.seen[-1] == k


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_the_times_of_lcm_are_a_list(steps: int) -> None:
    theirs = diffusers.LCMScheduler(**BETAS)
    theirs.set_timesteps(steps)
    path = discrete(theirs.alphas_cumprod)
    denoiser = NetworkDenoiser(Fixed(ANSWER), path, "eps", time_input="index")
    times = path.time(theirs.timesteps).tolist()
    made = FewStep("renoise", times=times).sample(denoiser, X0, steps, g=generator(1))
    assert denoiser.network.seen == pytest.approx(theirs.timesteps.tolist(), abs=1e-4)
    assert made.nfe == steps
    if steps == 4:
        assert theirs.timesteps.tolist() == [999, 759, 499, 259] and times == [1.0, 0.76, 0.5, 0.26]
        even = FewStep("renoise").times(denoiser, 4)[:-1]
        assert path.index(even).tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_sigmas_of_flow_matching_are_a_shift_or_a_list(steps: int) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    denoiser = NetworkDenoiser(Fixed(ANSWER), rectified_flow(), "flow")
    # Even sigmas, as the pipelines of Flux and of distilled students give them.
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    ours = FewStep("ode", shift=3.0).times(denoiser, steps)
    torch.testing.assert_close(ours, theirs.sigmas.double(), rtol=0, atol=1e-6)
    # Its own default reaches down to the last sigma of training.
    theirs.set_timesteps(steps)
    times = theirs.sigmas[:-1].tolist()
    listed = FewStep("ode", times=times)
    torch.testing.assert_close(listed.times(denoiser, steps), theirs.sigmas.double(), rtol=0, atol=1e-6)
    made = listed.sample(denoiser, X0, steps, x_1=NOISE)
    x = NOISE
    for t in theirs.timesteps:
        x = theirs.step(ANSWER, t, x).prev_sample
    torch.testing.assert_close(made.x0, x.detach(), rtol=1e-4, atol=1e-4)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.clock, self.last = nn.Linear(2, 16), nn.Linear(1, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.clock(t[:, None] / 1000)))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("consistency-models", []), ("dmd", []), ("progressive-distillation", []), ("diff-instruct", [])],
)
def test_a_teacher_of_zero_terminal_snr_is_distilled(recipe: str, options: list[str]) -> None:
    torch.manual_seed(0)
    path = discrete(scheduler("zero terminal snr").alphas_cumprod)
    teacher = NetworkDenoiser(Small(), path, "v", time_input="index")
    assert torch.isfinite(teacher(X0[:, :2], 1.0, Context()).mean).all()
    student = omnidistill.distill(
        teacher, recipe, data=torch.randn(32, 2), updates=2, batch=8, device="cpu", options=options
    )
    assert torch.isfinite(student.sample(4, steps=2)).all()
