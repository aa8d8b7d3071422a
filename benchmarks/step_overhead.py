"""Time of an engine's student update against the bare network calls and optimiser steps that it needs.

    python benchmarks/step_overhead.py [--rounds 12] [--out benchmarks/results/step_overhead.json]

Both are timed in one process, in turns, so that a slow spell of the machine hits both. Bare: the forward and backward
passes that the objective declares, and foreach AdamW steps, with nothing else: no noising, no loss arithmetic, no
clipping, no averages, no checks, no logs. Two networks: that of Fashion-MNIST, where networks dominate, and a small
perceptron on the Gaussian mixture, where the loop itself shows.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch

from omnidistill.configuration.compose import build, compose
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.environment import environment
from omnidistill.objectives import Matching, StudentSpec
from omnidistill.random import generator
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Optim, Settings

CASES = {
    "image/fashion_mnist_pixels": {"batch": 64, "precision": "bf16", "k": 2},
    "exact/gaussian_mixture": {"batch": 512, "precision": "fp32", "k": 2},
}


class Bare:
    """The declared calls of one update of distribution matching with k critic updates."""

    def __init__(self, network, task, batch: int, precision: str, k: int, device: str) -> None:
        self.student, self.fake, self.teacher = (copy.deepcopy(network).to(device) for _ in range(3))
        self.steps = {
            name: torch.optim.AdamW(net.parameters(), lr=1e-5, foreach=True)
            for name, net in (("student", self.student), ("fake", self.fake))
        }
        g = generator(0, "bare")
        drawn = task.batch(batch, g)
        self.x = task.path.prior(task.like(batch), drawn.context, g=g).to(device)
        self.given = () if drawn.context.condition is None else (drawn.context.condition.to(device),)
        self.t = torch.rand(batch, generator=g).to(device)
        self.k, self.device, self.bf16 = k, device, precision == "bf16"

    def _call(self, network) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            return network(self.x, self.t, *self.given)

    def _learn(self, name: str, out: torch.Tensor) -> None:
        self.steps[name].zero_grad(set_to_none=True)
        out.float().square().mean().backward()
        self.steps[name].step()

    def update(self) -> None:
        for _ in range(self.k):
            with torch.no_grad():
                self._call(self.student)
            self._learn("fake", self._call(self.fake))
        out = self._call(self.student)
        with torch.no_grad():
            self._call(self.teacher)
            self._call(self.fake)
        self._learn("student", out)


class Engine:
    """The engine's own update, run by Lightning's trainer, one update for each call."""

    def __init__(self, network, task, batch: int, precision: str, k: int, rounds: int, device: str) -> None:
        origin = NetworkDenoiser(copy.deepcopy(network), task.path, **task.reading())
        objective = Matching(critic_updates=k)
        settings = Settings(
            updates=rounds,
            batch=batch,
            precision=precision,
            log_every=20,
            checkpoint_every=10**9,
            optim=Optim(lr=1e-5),
        )
        teacher = copy.deepcopy(origin)
        self.module = Distillation(
            cast(copy.deepcopy(origin), origin, objective, 0.999),
            teacher,
            objective,
            settings,
            task.like,
            student=StudentSpec(),
            null=task.null,
        ).to(device)


def measure(name: str, batch: int, precision: str, k: int, rounds: int, device: str) -> dict[str, float]:
    """Median milliseconds of both, and their ratio, over `rounds` alternations after a warm-up of 3."""
    import lightning as L
    from torch.utils.data import DataLoader

    from omnidistill.training.loop import Batches, _quiet

    _quiet()
    task = build(compose("config", [f"task={name}", "recipe=diff-instruct", "out=unused"]).task)
    torch.manual_seed(0)
    network = task.network()
    bare = Bare(network, task, batch, precision, k, device)
    engine = Engine(network, task, batch, precision, k, rounds + 3, device).module
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    last = [0.0]

    def pulse(module: Distillation) -> None:
        # From the end of the previous pulse to here lies one whole turn of Lightning's loop, data included.
        times["engine"].append(time.perf_counter() - last[0])
        began = time.perf_counter()
        bare.update()
        times["bare"].append(time.perf_counter() - began)
        last[0] = time.perf_counter()

    engine.pulse = pulse
    loader = DataLoader(Batches(task, len(engine.cast.turns), batch, 0, 0, rounds + 3), batch_size=None)
    last[0] = time.perf_counter()
    L.Trainer(accelerator="cpu", devices=1, max_epochs=1, barebones=True).fit(engine, loader)
    milliseconds = {key: 1000 * statistics.median(values[3:]) for key, values in times.items()}
    ratio = statistics.median(e / b for e, b in zip(times["engine"][3:], times["bare"][3:], strict=True))
    return {
        "engine_ms": round(milliseconds["engine"], 3),
        "bare_ms": round(milliseconds["bare"], 3),
        "ratio": round(ratio, 4),
        "rounds": rounds,
        "batch": batch,
        "precision": precision,
        "critic_updates": k,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_overhead.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = {}
    for name, options in CASES.items():
        rounds = args.rounds if name.startswith("image") else 20 * args.rounds
        cases[name] = measure(name, rounds=rounds, device="cpu", **options)
        print(name, cases[name])
    document = {"seed": 0, "cases": cases, "environment": environment()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
