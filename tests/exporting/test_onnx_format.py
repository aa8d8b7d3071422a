"""The whole walk as a graph of ONNX, asked through onnxruntime alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.exporting.walk import Unrolled, planned
from omnidistill.paths import edm, rectified_flow, trigflow, vp_cosine
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.student import Recipe, save


def opened(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(file))


class Small(nn.Module):
    """A network with labels that embeds its time in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16))
        self.first, self.last, self.labels = nn.Linear(3, 16), nn.Linear(16, 3), nn.Embedding(5, 16)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = self.first(x) + self.clock(t[:, None])
        hidden = hidden if condition is None else hidden + self.labels(condition)
        return self.last(torch.tanh(hidden))


PATHS = {"flow": rectified_flow, "cosine": vp_cosine, "edm": edm, "trigflow": trigflow}
TRANSITIONS: dict[str, dict[str, Any]] = {
    "renoise": {},
    "ode": {},
    "ancestral": {},
    "gamma": {"gamma": 0.4},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("told", [False, True])
def test_numbers_walk_as_the_sampler_does(path: str, transition: str, told: bool) -> None:
    torch.manual_seed(0)
    reading = {"flow": "flow", "cosine": "v", "edm": "edm", "trigflow": "trigflow"}[path]
    network: nn.Module = Small()
    if told:
        network = with_second(network, target_time=True, guidance=False, time_module="clock")
        nn.init.normal_(network.target_time.outer.weight)  # type: ignore[union-attr, arg-type]
    denoiser = NetworkDenoiser(
        network, PATHS[path](), reading, unit_input=path == "edm", sigma_data=0.5, target_time=told
    ).eval()
    sampler = FewStep(transition, shift=2.0, **TRANSITIONS[transition])
    start = torch.randn(6, 3, generator=generator("start"))
    walk = planned(denoiser, sampler, 4)
    g = generator("noise")
    noise = [torch.randn(6, 3, generator=g) for _ in range(walk.drawn)]
    with torch.no_grad():
        found = Unrolled(network, walk)(start, torch.stack(noise) if noise else None)
    wanted = sampler.sample(denoiser, start, 4, g=generator("noise"), x_1=start).x0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def saved(folder: Path, transition: str, steps: int) -> tuple[nn.Module, NetworkDenoiser]:
    torch.manual_seed(0)
    network = Small().eval()
    denoiser = NetworkDenoiser(network, rectified_flow())
    made_by = {"recipe": "dmd2", "seed": 0, "updates": 1, "shape": [3]}
    recipe = Recipe(None, denoiser.reading(), transition=transition, steps=steps, made_by=made_by)
    save(denoiser, recipe, folder)
    return network, denoiser


@pytest.mark.parametrize("transition", ["renoise", "ode"])
def test_a_graph_samples_any_batch_as_the_student_does(transition: str, tmp_path: Path) -> None:
    _, denoiser = saved(tmp_path / "run", transition, 2)
    out = omnidistill.export(
        tmp_path / "run", "onnx", tmp_path / "out", network=Small(), path=rectified_flow()
    )
    session = opened(out / "student.onnx")
    names = [entry.name for entry in session.get_inputs()]
    assert names == (["x_1", "noise"] if transition == "renoise" else ["x_1"])
    g = generator("start")
    start = torch.randn(5, 3, generator=g)
    noise = torch.randn(1, 5, 3, generator=generator("noise"))
    fed = {"x_1": start.numpy(), "noise": noise.numpy()}
    found = torch.from_numpy(session.run(None, {name: fed[name] for name in names})[0])
    wanted = FewStep(transition).sample(denoiser, start, 2, g=generator("noise"), x_1=start).x0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert json.loads((out / "sampling.json").read_text())["inputs"]["x_1"] == ["batch", 3]


def test_the_lines_of_the_card_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "run", "renoise", 2)
    omnidistill.export(tmp_path / "run", "onnx", tmp_path / "out", network=Small(), path=rectified_flow())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec((tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0], scope)
    assert np.isfinite(scope["samples"]).all() and scope["samples"].shape == (3, 3)


@pytest.mark.slow
def test_a_model_of_diffusers_with_text_states(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from tests.interop import tiny

    tiny.saved(tmp_path / "teacher", "UNet2DConditionModel", diffusers.DDPMScheduler(clip_sample=False))
    teacher = omnidistill.teacher(tmp_path / "teacher")
    save(teacher, Recipe(None, teacher.reading(), foreign=teacher.named, steps=2), tmp_path / "run")
    out = omnidistill.export(tmp_path / "run", "onnx", tmp_path / "out")
    session = opened(out / "student.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["x_1", "noise", "condition"]
    assert "differ from the student's by at most" in (out / "README.md").read_text()


def test_tokens_have_no_walk_of_numbers(tmp_path: Path) -> None:
    from omnidistill.paths import MaskedPath

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 3)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.table(x)

    denoiser = NetworkDenoiser(Logits(), MaskedPath(3), "logits")
    with pytest.raises(UserError, match="a walk of numbers needs a Gaussian path"):
        planned(denoiser, FewStep("ancestral"), 2)
