"""Whole runs in two processes: one folder, one voice, the figures of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.cli import main
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow
from omnidistill.testing.processes import started
from omnidistill.training import sharded

RUN = ["task=exact/gaussian_mixture", "updates=6", "batch=16", "fit.updates=4", "fit.batch=16", "device=cpu"]
RUN += ["task.network={width: 16, depth: 2}", "evaluation.samples=64", "steps=[1, 2]", "log.every=1"]


@pytest.fixture(autouse=True)
def every_module_is_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "SMALL", 1)


@pytest.mark.parametrize(
    ("recipe", "strategy"), [("dmd2", "fsdp"), ("consistency-models", "ddp"), ("scm", "fsdp")]
)
def test_the_command_line_in_two_processes_gives_the_figures_of_one(
    tmp_path: Path, recipe: str, strategy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """dmd2 has three networks, three optimisers and a discriminator's head."""
    words = ["distill", *RUN, f"recipe={recipe}"]
    said = started(2, lambda rank: main([*words, f"strategy={strategy}", f"out={tmp_path / 'two'}"]))
    out, error = capfd.readouterr()
    assert said == [0, 0], error
    assert out.count("report: ") == 1
    assert main([*words, f"out={tmp_path / 'one'}"]) == 0
    two, one = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert two["training"]["calls"] == one["training"]["calls"]
    for mine, other in zip(two["student"], one["student"], strict=True):
        assert mine["metrics"]["energy"] == pytest.approx(other["metrics"]["energy"], rel=1e-4)
    samples = [omnidistill.load(tmp_path / name).sample(5, seed=3) for name in ("two", "one")]
    assert torch.allclose(*samples, atol=1e-5)
    refused = started(2, lambda rank: main([*words, f"strategy={strategy}", f"out={tmp_path / 'two'}"]))
    assert refused == [2, 2]
    assert capfd.readouterr().err.count("is not empty") == 1


class Foreign(nn.Module):
    """Somebody's network, which was never told a guidance scale."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.classes = nn.Linear(1, 8), nn.Embedding(4, 8)
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.clock(t[:, None].to(x.dtype)) + (0 if label is None else self.classes(label))
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.last(h)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_lcm_with_adapters_on_somebodys_network_in_two_processes(tmp_path: Path, strategy: str) -> None:
    """A second embedding, low-rank adapters as roles over one base, guidance scales told."""
    g = torch.Generator().manual_seed(0)
    data, labels = torch.randn(32, 2, generator=g), torch.arange(32) % 3

    def distil(**more: Any) -> Tensor:
        torch.manual_seed(0)
        teacher = NetworkDenoiser(Foreign(), rectified_flow(), "flow")
        student = omnidistill.distill(
            teacher, "lcm", data=data, condition=labels, null=3, time_module="clock", updates=6, batch=8,
            device="cpu", judged=(), options=["student.adapter={rank: 2, alpha: 4}", "teacher_check=false"], **more,
        )  # fmt: skip
        return student.sample(6, seed=1, condition=1)

    said = started(2, lambda rank: distil(strategy=strategy, out=tmp_path / strategy))
    assert not any(isinstance(one, str) for one in said), said
    alone = distil()
    for one in said:
        assert torch.allclose(torch.as_tensor(one), alone, atol=1e-5)
    loaded = omnidistill.load(tmp_path / strategy, network=Foreign(), path=rectified_flow())
    assert loaded.sample(2, seed=1, condition=1).shape == (2, 2)
