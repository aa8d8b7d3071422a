"""Adapters of networks that are not of diffusers: over a masked language model, over a module of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow
from omnidistill.random import generator
from omnidistill.student import load

peft = pytest.importorskip("peft")


class Small(nn.Module):
    """A network that embeds its time in a module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clock = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16))
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.clock(t[:, None])))


LORA = ["student.adapter={rank: 2, alpha: 4}", "optim.lr=0.05", "teacher_check=false"]
QUICK: dict[str, Any] = {"updates": 3, "batch": 8, "device": "cpu", "judged": ()}


@pytest.mark.parametrize("told", [False, True])
def test_over_a_module_of_ones_own(told: bool, tmp_path: Path) -> None:
    teacher = NetworkDenoiser(Small(), rectified_flow(), time_module="clock")
    data = torch.randn(64, 3, generator=generator("data"))
    options = [*LORA, *(["student.target_time=true"] if told else [])]
    omnidistill.distill(
        teacher, "consistency-models", data=data, options=options, out=tmp_path / "run", steps=2, **QUICK
    )
    made = {"path": rectified_flow()}
    out = omnidistill.export(tmp_path / "run", "peft", tmp_path / "out", network=Small(), **made)
    network = peft.PeftModel.from_pretrained(Small(), out).eval()
    student = load(tmp_path / "run", network=Small(), **made)
    x = torch.randn(4, 3, generator=generator("x"))
    with torch.no_grad():
        found = x - network(x, torch.ones(4))
        wanted = student.denoiser(x, 1.0, target_time=torch.zeros(()) if told else None).mean
        plain = x - Small()(x, torch.ones(4))
    assert torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(found, plain, atol=1e-3)


def test_over_a_masked_language_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    from tests.interop.test_transformers_folder import MASK, saved

    saved(tmp_path / "teacher", "bert")
    teacher = omnidistill.teacher(tmp_path / "teacher", length=8)
    vocab = teacher.path.vocab  # type: ignore[attr-defined]
    data = torch.randint(3, vocab, (32, 8), generator=generator("data"))
    omnidistill.distill(teacher, "sdtt", data=data, options=LORA, out=tmp_path / "run", **QUICK)
    out = omnidistill.export(tmp_path / "run", "peft", tmp_path / "out")
    base = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "teacher")
    theirs = peft.PeftModel.from_pretrained(base, out).eval()
    student = load(tmp_path / "run")
    x = torch.randint(3, vocab, (2, 8), generator=generator("tokens"))
    x[:, ::2] = vocab
    with torch.no_grad():
        logits = theirs(input_ids=torch.where(x == vocab, MASK, x)).logits[..., :vocab].clone()
        logits[..., MASK] = -torch.inf
        found = student.denoiser(x, 0.5).probs
        before = teacher(x, 0.5).probs
    assert torch.allclose(found[:, ::2], logits.softmax(-1)[:, ::2], atol=1e-5)
    assert not torch.allclose(found[:, ::2], before[:, ::2], atol=1e-4)
