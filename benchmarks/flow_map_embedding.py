"""How a flow map is told its second time: an embedding that starts at zero, or a copy of the first behind a gate.

zero        E(t) + E'(r), E' zero at the start: every jump starts as the teacher's (what networks here have)
copy        3/4 E(t) + 1/4 E'(r), E' a copy of E: r = t starts as the teacher's (AnyFlow, arXiv:2605.13724)
learned     E(t) + g (E'(r) - E(t)), E' a copy of E, g learned from 0: every jump starts as the teacher's

On `exact/gaussian_mixture` with recipe flow-map-matching, the same updates, energy distance at 1 and 8 steps.

python benchmarks/flow_map_embedding.py
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.configuration.compose import build, compose
from omnidistill.evaluation.curve import quality
from omnidistill.networks.embeddings import LinearEmbedding
from omnidistill.networks.mlp import MLP
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student

TARGET = Path(__file__).parent / "results" / "flow_map_embedding.json"
OVERRIDES = [
    *(
        "task=exact/gaussian_mixture",
        "recipe=flow-map-matching",
        "task.network={width: 96, depth: 3, ratio: 100}",
    ),
    *("updates=800", "batch=256", "fit.updates=600", "optim.decay=linear", "threads=1"),
]
SEEDS, STEPS, SAMPLES = (0, 1), (1, 8), 4096


class Mixed(LinearEmbedding):
    """`(1 - g) E(t) + g E'(r)`; r is what was last told. E is this module, with its names."""

    def __init__(self, width: int, learned: bool) -> None:
        super().__init__(width)
        self.other = LinearEmbedding(width)
        self.gate = nn.Parameter(torch.tensor(0.0 if learned else 0.25), requires_grad=learned)
        self.second: Tensor | None = None

    def forward(self, t: Tensor) -> Tensor:
        first = super().forward(t)
        return first if self.second is None else torch.lerp(first, self.other(self.second), self.gate)


class Told(MLP):
    def __init__(self, dim: int, learned: bool, **keywords: Any) -> None:
        super().__init__(dim, **keywords)
        self.time = Mixed(64, learned)
        self.register_load_state_dict_post_hook(lambda module, _: module.copied())

    def copied(self) -> None:
        self.time.other.load_state_dict({k: v for k, v in self.time.state_dict().items() if k in KEPT})

    def forward(self, x: Tensor, t: Tensor, *given: Tensor, target_time: Tensor, **told: Any) -> Any:
        self.time.second = target_time
        try:
            return super().forward(x, t, *given, **told)
        finally:
            self.time.second = None


KEPT = ("linear.weight", "linear.bias")


def measured(kind: str, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose("config", [*OVERRIDES, f"seed={seed}", f"out={folder}"])
        task, device = build(cfg.task), setup.device_of(cfg)
        teacher, plain = setup.teacher_of(cfg, task, device), task.network

        def network(*, target_time: bool = False, guidance: bool = False) -> nn.Module:
            if kind == "zero" or not target_time:
                return plain(target_time=target_time, guidance=guidance)
            return Told(task.shape[0], kind == "learned", width=96, depth=3)

        task.network = network
        student, description, _ = train_student(cfg, task, teacher, Path(folder), device)
        points = quality(student, description.sampler(), task, STEPS, SAMPLES, 0, 1024)
        return {str(point.steps): point.metrics["energy"] for point in points}


def main() -> None:
    torch.set_num_threads(1)
    found = [
        {"embedding": kind, "seed": seed, "energy": measured(kind, seed)}
        for kind in ("zero", "copy", "learned")
        for seed in SEEDS
    ]
    document = {
        "command": "python benchmarks/flow_map_embedding.py",
        "overrides": OVERRIDES,
        "samples": SAMPLES,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, 1 thread",
        "runs": found,
    }
    TARGET.write_text(json.dumps(document, indent=1) + "\n")
    print(TARGET.read_text())


if __name__ == "__main__":
    main()
