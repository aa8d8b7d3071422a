"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

README = Path(__file__).parent.parent / "README.md"


def block(name: str) -> str:
    """The Python block behind the comment `<!-- test: name -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
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
