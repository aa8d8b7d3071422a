"""A student that grows, from the configuration to what is saved, judged and handed over; and it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import omnidistill
from omnidistill import paths
from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.evaluation.energy import energy_distance
from omnidistill.exporting.card import _sampler
from omnidistill.exporting.walk import planned
from omnidistill.networks.unet import UNet
from omnidistill.own import OwnTask
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.runs.evaluate import other_samplers
from omnidistill.samplers import FewStep, Growing
from omnidistill.samplers.resize import resized

FLOW, SIDE = paths.rectified_flow(), 8
SIZES = ["student.steps=2", "student.sizes=[0.5,1]"]


def unet(unshuffle: int = 1) -> NetworkDenoiser:
    torch.manual_seed(0)
    network = UNet((16, 32), unshuffle=unshuffle, num_classes=None, heads=2)
    return NetworkDenoiser(network, FLOW, "flow", time_input="t", time_module="time")


def fields(count: int, seed: int) -> Tensor:
    """Smooth Gaussian fields, Float[count 1 8 8]."""
    apart = (torch.arange(SIDE)[:, None] - torch.arange(SIDE)).abs()
    root = torch.linalg.cholesky(torch.exp(-apart / 4.0))
    return root @ torch.randn(count, 1, SIDE, SIDE, generator=generator("fields", seed)) @ root.mT


def checked(*words: str, unshuffle: int = 1) -> None:
    cfg = compose("config", ["task=own", "out=x", *words])
    context = Context(torch.arange(8) % 2 if "student.inputs=translated" in words else None)

    def source(count: int, g: torch.Generator) -> Batch:
        return Batch(fields(8, 0)[:count], context[slice(count)])

    setup.objective_of(cfg, OwnTask(unet(unshuffle), (1, SIDE, SIDE), source, None))


@pytest.mark.parametrize("words, said", [
    (["recipe=swd", "student.sizes=[0.5,1]"], "student.sizes has 2 entries and student.steps is 4"),
    (["recipe=swd", *SIZES, "student.transition=ode"], "student.transition=ode keeps some"),
    (["recipe=swd", "student.steps=2", "student.sizes=[0.5,0.75]"], "rise from above 0 to 1"),
    (["recipe=progressive-distillation", *SIZES, "student.transition=renoise"], r"objective\.\w+ does not look"),
    (["recipe=swd", *SIZES, "student.inputs=translated"], "starts from data at full size"),
    (["recipe=swd", *SIZES, "student.inference={a: {_target_: omnidistill.samplers.reuse.Reuse}}"],
     "walkers remember states of one size"),
])  # fmt: skip
def test_what_cannot_grow_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        checked(*words)
    assert "\n" not in str(error.value)


def test_a_size_that_the_network_cannot_have_is_said_before_training() -> None:
    checked("recipe=swd", *SIZES, unshuffle=2)
    checked("recipe=swd", "student.steps=2", "student.sizes=[0.375,1]")
    with pytest.raises(
        UserError, match=r"cannot be asked about 3x3 \(a height of 3 does not divide .* levels divide"
    ):
        checked("recipe=swd", "student.steps=2", "student.sizes=[0.375,1]", unshuffle=2)


def test_a_task_of_vectors_does_not_offer_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=exact/gaussian_mixture", "recipe=swd", *SIZES, f"out={tmp_path / 'run'}"]
    assert main(["distill", *words]) == 2
    said = capsys.readouterr().err
    assert "have no axis behind their channels" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_is_saved_and_handed_over_with_its_sizes(tmp_path: Path) -> None:
    student = omnidistill.distill(
        unet(), "swd", data=fields(64, 0), steps=2, options=["student.sizes=[0.5,1]", "student.inputs=data"],
        out=tmp_path, updates=2, batch=4, judged=(), device="cpu",
    )  # fmt: skip
    assert json.loads((tmp_path / "student.json").read_text())["sizes"] == [0.5, 1.0]
    # Judged by its own sampler alone.
    assert (
        isinstance(student.sampler, Growing) and other_samplers(["ode", "gamma"], student.sampler, FLOW) == {}
    )
    again = omnidistill.load(tmp_path, network=unet().network, path=FLOW)
    assert torch.equal(again.sample(3, seed=1), student.sample(3, seed=1))
    at_one_size = replace(again, sampler=FewStep("renoise"))
    assert not torch.equal(again.sample(3, seed=1), at_one_size.sample(3, seed=1))
    assert "at 0.5, 1 of the size" in _sampler(SimpleNamespace(student=again, steps=2))  # type: ignore[arg-type]
    # What diffusers, onnx and adapters told the time hand over, all of them by the numbers of this walk.
    with pytest.raises(UserError, match=r"grow from step to step .* format=safetensors keeps it"):
        planned(again.denoiser, again.sampler, 2)


@pytest.mark.slow
def test_swd_with_sizes_learns_where_the_teacher_knows_them() -> None:
    """A small U-Net is fitted to fields of 8 x 8 and to their means over 2 x 2; its student starts at 4 x 4."""
    teacher, data = unet(), fields(4096, 0)
    optimiser, g = torch.optim.Adam(teacher.parameters(), 2e-3), generator("fit")
    for i in range(400):
        rows = torch.randint(len(data), (64,), generator=g)
        x0 = resized(data[rows], (SIDE // 2, SIDE // 2) if i % 2 else (SIDE, SIDE))
        t = torch.rand(64, generator=g, dtype=torch.float64)
        error = (teacher(FLOW.corrupt(x0, t, g=g), t).mean - x0).square().flatten(1).mean(1)
        optimiser.zero_grad()
        (error * teacher.output_weight(t)).mean().backward()
        optimiser.step()

    held_out = fields(1024, 1).flatten(1)

    def off(x0: Tensor) -> float:
        return energy_distance(x0.flatten(1), held_out)

    like = torch.empty(1024, 1, SIDE, SIDE)
    start = off(Growing([0.5, 1.0]).sample(teacher, like, 2, g=generator("start")).x0)
    student = omnidistill.distill(
        teacher, "swd", data=data, steps=2, updates=60, batch=64, device="cpu",
        options=["student.sizes=[0.5,1]", "optim.lr=5e-4", "optim.warmup=5", "ema=0.9"],
    )  # fmt: skip
    assert isinstance(student.sampler, Growing)
    assert off(student.sample(1024, seed=3)) < 0.3 * start  # measured: 0.16 and 1.20
