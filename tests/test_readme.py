"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from omnidistill.cli import main

README = Path(__file__).parent.parent / "README.md"


def block(name: str, language: str = "python") -> str:
    """The block behind the comment `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"README has no tested block '{name}'"
    return found[1]


class MyNetwork(nn.Module):
    """A flow network for a Gaussian with mean (2, -1), as a user would bring it: exact, so its samples are known."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.hidden = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2))
        nn.init.zeros_(self.hidden[2].weight)
        nn.init.zeros_(self.hidden[2].bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        d = self.mean + (1 - t) / ((1 - t) ** 2 + t**2) * (x - (1 - t) * self.mean)
        # velocity eps - x0 with eps = (x - (1 - t) d) / t
        return (x - d) / t.clamp_min(1e-3) + self.hidden(torch.cat((x, t), 1))


def test_own_teacher_takes_ten_lines_and_works() -> None:
    code = block("own teacher")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    data = MyNetwork().mean.detach() + torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
    scope = {"MyNetwork": MyNetwork, "data": data}
    torch.manual_seed(0)  # the network's initial weights
    exec(code, scope)
    samples = scope["student"].sample(2000, steps=1, seed=1)
    assert scope["samples"].shape == (16, 2)
    assert torch.allclose(samples.mean(0), torch.tensor([2.0, -1.0]), atol=0.25)
    # The untrained student answers every noise with the mean: one step of an exact denoiser has no spread at all.
    assert float(samples.std(0).min()) > 0.5
    untrained = MyNetwork()
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    assert float((x - untrained(x, torch.ones(2000))).detach().std(0).max()) < 0.1


def test_three_commands_lead_from_a_pipeline_to_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from tests.interop import tiny

    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    tiny.saved(tmp_path / "my_pipeline", "UNet2DModel", scheduler, in_channels=3, out_channels=3)
    (tmp_path / "photos").mkdir()
    draws = np.random.default_rng(0)
    for number in range(24):
        picture = Image.fromarray(draws.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        picture.save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    commands = block("three commands", "bash").replace("\\\n", " ").strip().splitlines()
    assert len(commands) == 3
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "omnidistill" and main(words) == 0, command
    assert (tmp_path / "made.png").is_file() and (tmp_path / "runs/mine/report.html").is_file()
    pipeline = diffusers.DDPMPipeline.from_pretrained("handed")
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(batch_size=2, num_inference_steps=1, output_type="pil").images
    assert [picture.size for picture in pictures] == [(8, 8)] * 2
    assert "differ from the student's by at most" in Path("handed/README.md").read_text()


def test_what_the_readme_points_at_is_there() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text())
    assert len(targets) > 20
    assert [target for target in targets if not (README.parent / target).exists()] == []
