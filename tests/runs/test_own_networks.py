"""Students of somebody's network that are told what their teacher never was: trained, saved, loaded, asked."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.second import Second
from omnidistill.errors import UserError
from omnidistill.paths import rectified_flow, vp_linear

DOCS = Path(__file__).parents[2] / "docs" / "teachers"
QUICK = {"updates": 3, "batch": 8, "device": "cpu"}


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clock, self.classes = nn.Linear(1, 8), nn.Embedding(4, 8)
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.clock(t[:, None].to(x.dtype))
        return self.last(torch.tanh(h if label is None else h + self.classes(label)))


def foreign() -> Foreign:
    torch.manual_seed(0)
    return Foreign()


def distil(recipe: str, **more: Any) -> omnidistill.student.Student:
    data, labels = torch.randn(32, 2), torch.arange(32) % 3
    teacher = NetworkDenoiser(foreign(), rectified_flow(), "flow")
    given = {"data": data, "condition": labels, "null": 3, "time_module": "clock", **QUICK, **more}
    return omnidistill.distill(teacher, recipe, **given)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def test_lcm_tells_the_scale_to_a_network_that_never_took_one(tmp_path: Path) -> None:
    student = distil("lcm", out=tmp_path)
    told = student.denoiser.denoiser.network  # inside Told
    assert isinstance(told, Second) and told.guidance is not None and told.target_time is None
    assert told.guidance.outer.weight.abs().max() > 0, "the embedding was trained"
    assert torch.equal(told.state_dict()["network.first.bias"], told.network.first.bias)
    loaded = omnidistill.load(tmp_path, network=Foreign(), path=rectified_flow())
    assert torch.equal(loaded.sample(5, seed=3, condition=1), student.sample(5, seed=3, condition=1))


def test_a_second_time_for_a_network_that_never_took_one(tmp_path: Path) -> None:
    options = ["student.target_time=true", "student.transition=ode", "ema=0"]
    student = distil("consistency-models", out=tmp_path, options=options, updates=1)
    network = student.denoiser.network
    assert isinstance(network, Second) and network.guidance is None
    # A first update moves the zero layer alone; what it multiplies is told from the second on.
    x, t, context = torch.randn(4, 2), torch.full((4,), 0.8, dtype=torch.float64), student.context(4)
    nn.init.normal_(network.target_time.outer.weight)
    a, b = (student.denoiser(x, t, context, target_time=s * t).mean for s in (0.2, 0.9))
    assert not torch.allclose(a, b, atol=1e-3)
    loaded = omnidistill.load(tmp_path, network=Foreign(), path=rectified_flow())
    assert isinstance(loaded.denoiser.network, Second) and loaded.denoiser.wants_target
    with pytest.raises(UserError, match="has no submodule time_module='clock'"):
        omnidistill.load(tmp_path, network=nn.Linear(2, 2), path=rectified_flow())


def test_lcm_on_a_diffusers_unet_of_a_folder(tmp_path: Path) -> None:
    UNet2DModel = pytest.importorskip("diffusers").UNet2DModel
    runpy.run_path(str(DOCS / "unet2d.py"))["small"](str(tmp_path / "unet"))
    load = lambda: UNet2DModel.from_pretrained(tmp_path / "unet")  # noqa: E731
    teacher = NetworkDenoiser(load(), vp_linear(), "eps", time_input="1000t")
    data, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    student = omnidistill.distill(
        teacher, "lcm", data=data, condition=labels, null=10, out=tmp_path / "out", **QUICK
    )
    told = student.denoiser.denoiser.network
    assert isinstance(told, Second) and told.guidance.outer.weight.abs().max() > 0
    loaded = omnidistill.load(tmp_path / "out", network=load(), path=vp_linear())
    assert torch.equal(loaded.sample(3, steps=2, condition=4), student.sample(3, steps=2, condition=4))


def test_a_network_whose_clock_is_unknown_is_asked_to_name_it() -> None:
    with pytest.raises(UserError, match=r"NetworkDenoiser.*time_module") as error:
        distil("lcm", time_module=None)
    assert "\n" not in str(error.value)


def test_steps_are_the_students() -> None:
    assert distil("consistency-models", steps=4).steps == 4
    assert distil("consistency-models").steps == 1
    with pytest.raises(UserError, match="at least 1; got 0"):
        distil("consistency-models", steps=0)


@pytest.mark.parametrize(
    ("network", "data"),
    [
        (lambda: foreign().bfloat16(), lambda d: d.bfloat16()),
        (lambda: foreign().double(), lambda d: d),
        (foreign, lambda d: d.double()),
        (foreign, lambda d: d.numpy()),
        (lambda: Answers(foreign(), lambda out: (out, None)), lambda d: d),
        (lambda: Answers(foreign(), lambda out: {"sample": out}), lambda d: d),
        (lambda: Answers(foreign(), lambda out: [out]), lambda d: np.asarray(d)),
    ],
)
@pytest.mark.filterwarnings("ignore:the (teacher's weights|network)")
def test_what_is_safe_is_cast(network: Any, data: Any) -> None:
    teacher = NetworkDenoiser(network(), rectified_flow(), "flow")
    before = next(teacher.parameters()).dtype
    student = omnidistill.distill(teacher, "consistency-models", data=data(torch.randn(16, 2)), **QUICK)
    made = student.sample(4)
    assert made.dtype == torch.float32 and torch.isfinite(made).all()
    assert next(teacher.parameters()).dtype == before, "the user's own stays as it is"


class Answers(nn.Module):
    def __init__(self, network: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.wrap(self.network(x, t))


def test_casts_are_said() -> None:
    with pytest.warns(UserWarning, match="weights are bfloat16; a float32 copy is trained"):
        teacher = NetworkDenoiser(foreign().bfloat16(), rectified_flow(), "flow")
        omnidistill.distill(teacher, "consistency-models", data=torch.randn(16, 2), **QUICK)
    answer = Answers(foreign(), lambda out: (out, None))
    with pytest.warns(UserWarning, match="answers a tuple; its first entry is taken"):
        NetworkDenoiser(answer, rectified_flow(), "flow")(torch.randn(2, 2), 0.5)
    with pytest.raises(UserError, match="answered a dict in which it is not clear what to take"):
        unclear = Answers(foreign(), lambda out: {"a": out, "b": out})
        NetworkDenoiser(unclear, rectified_flow(), "flow")(torch.randn(2, 2), 0.5)


def test_a_recipe_for_scales_without_a_told_student_is_refused_in_a_line() -> None:
    with pytest.raises(UserError) as error:
        distil("lcm", options=["student.guidance=null"])
    assert "\n" not in str(error.value) and "guidance" in str(error.value)


def test_adapters_over_a_network_that_is_told(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    student = distil("lcm", out=tmp_path, options=["student.adapter={rank: 2}"])
    loaded = omnidistill.load(tmp_path, network=Foreign(), path=rectified_flow())
    assert torch.equal(loaded.sample(5, seed=3, condition=1), student.sample(5, seed=3, condition=1))
    kept = load_file(tmp_path / "student.safetensors")
    assert all("lora_" in name or "guidance." in name for name in kept), "the base is not saved with it"
    assert any(name.startswith("guidance.") or ".guidance." in name for name in kept)


def test_what_was_frozen_stays_so_in_a_network_that_is_told() -> None:
    network = foreign()
    network.first.requires_grad_(False)
    teacher = NetworkDenoiser(network, rectified_flow(), "flow", time_module="clock")
    data, labels = torch.randn(32, 2), torch.arange(32) % 3
    student = omnidistill.distill(teacher, "lcm", data=data, condition=labels, null=3, **QUICK)
    inner = student.denoiser.denoiser.network.network
    assert torch.equal(inner.first.weight, network.first.weight)
    assert not torch.equal(inner.last.weight, network.last.weight)
