"""Time of the engine's student update against the same recipe written out by hand (`hand_loops.py`).

    python benchmarks/step_overhead.py [--rounds 12] [--only MLP] [--threads 2] [--out FILE]

Both do the same work: noising, network calls, losses, clipping, AdamW, averages. They take turns in one process,
update by update, so that a slow spell of the machine hits both, and the ratio is taken pair by pair. Five recipes on
three kinds of network: a U-Net and a transformer, where networks dominate, and a perceptron, where the loop shows.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import hand_loops
import torch
from hand_loops import Loop, edm, flow

from omnidistill.configuration.compose import build, compose
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.evaluation.environment import environment
from omnidistill.random import generator
from omnidistill.runs import pairs, setup
from omnidistill.training.loop import Batches
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast

GOAL = {"U-Net": 1.05, "transformer": 1.05, "MLP": 1.10}
PIXELS, MIXTURE, CHAIN = "image/fashion_mnist_pixels", "exact/gaussian_mixture", "exact/markov_text"
# What a task's tuning adds or changes is set back to the recipe that is written out.
MATCHING = [
    "objective={matching: 1.0, adversarial: 0.01, regression: 0.0}",
    "families.matching.critic_updates=2",
]
STORED = [
    *("objective={matching: 1.0, adversarial: 0.0, regression: 0.25}", "families.matching.critic_updates=1"),
    *("families.regression.pairs=512", "families.regression.steps=2"),
]
HEUN = ["families.consistency.jumps={nodes: 16, final: null}", "families.consistency.divergence=l2"]
CASES: list[tuple[str, str, str, int, int, list[str]]] = [
    # network, recipe, task, batch, rounds for one of --rounds, overrides
    ("U-Net", "consistency-models", PIXELS, 32, 1, HEUN),
    ("U-Net", "dmd2", PIXELS, 32, 1, MATCHING),
    ("U-Net", "lcm", PIXELS, 32, 1, []),
    ("transformer", "sdtt", CHAIN, 64, 4, ["families.consistency.rounds=1", "student.steps=32"]),
    ("MLP", "consistency-models", MIXTURE, 512, 20, HEUN),
    ("MLP", "dmd2", MIXTURE, 512, 20, MATCHING),
    ("MLP", "dmd", MIXTURE, 512, 20, STORED),
]


def by_hand(recipe: str, network: torch.nn.Module, task: Any, batch: int) -> Loop:
    kind = {"consistency-models": hand_loops.ConsistencyModels, "dmd2": hand_loops.DMD2, "dmd": hand_loops.DMD,
            "lcm": hand_loops.LCM, "sdtt": hand_loops.SDTT}[recipe]  # fmt: skip
    reading = task.reading()
    ask = edm(reading["sigma_data"]) if reading["parameterisation"] == "edm" else flow
    return kind(network, task, ask, batch)


def by_engine(cfg: Any, network: torch.nn.Module, task: Any) -> Distillation:
    teacher = NetworkDenoiser(copy.deepcopy(network), task.path, **task.reading())
    objective = setup.objective_of(cfg, task)
    origin = setup.origin_of(cfg, task, teacher, Path("unused"), "cpu")
    student, _ = setup.student_of(cfg, task, origin, "cpu")
    bank = pairs.bank_of(objective.bank, task, teacher, 0, "cpu")
    return Distillation(
        cast(student, origin, objective, 0.999), teacher, objective,
        setup.settings_of(cfg), task.like, student=setup.spec_of(cfg), null=task.null, bank=bank,
    )  # fmt: skip


def random_data(task: Any) -> Any:
    def batch(count: int, g: torch.Generator, split: str = "train") -> Batch:
        labels = torch.randint(task.classes, (count,), generator=g)
        return Batch(torch.randn((count, *task.shape), generator=g), Context(labels))

    return batch


class Counted:
    """Calls of bare networks, counted by a hook for as long as it is open."""

    def __init__(self, networks: list[torch.nn.Module]) -> None:
        self.calls = 0
        self.handles = [network.register_forward_hook(self._count) for network in networks]

    def _count(self, *arguments: Any) -> None:
        self.calls += 1

    def close(self) -> int:
        for handle in self.handles:
            handle.remove()
        return self.calls


def measure(recipe: str, task_name: str, batch: int, rounds: int, overrides: list[str]) -> dict[str, Any]:
    """Milliseconds an update of both, and their ratio, over `rounds` alternations after a warm-up of 3."""
    given = [f"task={task_name}", f"recipe={recipe}", "out=unused", f"batch={batch}", f"updates={rounds + 4}"]
    steps = [] if recipe == "sdtt" else ["student.steps=1"]
    cfg = compose(
        "config",
        [*given, "optim.lr=1e-5", "log.every=20", "device=cpu", "precision=fp32", *steps, *overrides],
    )
    task = build(cfg.task)
    if task.batch(1, generator(0)).x0 is None:
        task.batch = random_data(task)  # what the numbers are makes no difference to the time
    torch.manual_seed(0)
    network = task.network()
    with torch.no_grad():  # a new network answers zero; a zero layer is no network's usual state
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    hand, engine = by_hand(recipe, network, task, batch), by_engine(cfg, network, task)
    batches = Batches(task, len(engine.cast.turns), batch, 0, 0, rounds + 4)

    def engine_update(index: int) -> None:
        engine.training_step([part.to(engine.device) for part in batches[index]], index)

    asked = {}
    models = [*engine.trained.values(), engine.teacher]
    networks = [model.network for model in models if isinstance(model, NetworkDenoiser)]
    counted = Counted(networks)
    engine_update(0)
    asked["engine"] = counted.close()
    counted = Counted([v for v in vars(hand).values() if isinstance(v, type(network))])
    hand.update()
    asked["hand"] = counted.close()
    times: dict[str, list[float]] = {"engine": [], "hand": []}
    for index in range(1, rounds + 4):
        # The order changes each time: what runs second finds warmer caches.
        pair = [("engine", lambda i=index: engine_update(i)), ("hand", lambda i=index: hand.update())]
        for name, update in pair if index % 2 else pair[::-1]:
            began = time.perf_counter()
            update()
            times[name].append(time.perf_counter() - began)
    engine_times, hand_times = (values[3:] for values in times.values())
    ratios = [a / b for a, b in zip(engine_times, hand_times, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "ratio_of_medians": round(statistics.median(engine_times) / statistics.median(hand_times), 4),
        **{f"{name}_ms": spread(values) for name, values in (("engine", engine_times), ("hand", hand_times))},
        "network_calls": asked,
        "rounds": rounds,
        "batch": batch,
    }


def spread(seconds: list[float]) -> dict[str, float]:
    found = {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=12, help="alternations of a U-Net's case; more for smaller ones"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_overhead.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases: dict[str, Any] = {}
    for kind, recipe, task, batch, times, overrides in CASES:
        name = f"{kind} {recipe}"
        if args.only not in name:
            continue
        found = measure(recipe, task, batch, times * args.rounds, overrides)
        cases[name] = {"network": kind, "recipe": recipe, "task": task, **found, "goal": GOAL[kind]}
        print(f"{name:32} {found['ratio']:.3f} (goal {GOAL[kind]})", found["engine_ms"], found["hand_ms"],
              found["network_calls"], flush=True)  # fmt: skip
    document = {"schema": 2, "seed": 0, "precision": "fp32", "cases": cases, "environment": environment()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
