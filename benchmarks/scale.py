"""What a process holds and moves: measured in two processes, and the same formulas for large teachers.

    python benchmarks/scale.py [out=benchmarks/results/scale.json]

Bytes held: every distinct tensor among parameters, gradients, moments and averages of one process, after two updates.
Bytes moved: what its collectives take in and give out over one more update; the strategy decides what that is in
multiples of the network's size P, and those multiples times 1.3 and 14 billion parameters are the table of
docs/scale.md. Activations are not in it: they depend on batch, resolution and `recompute`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from omnidistill.configuration.compose import build, compose
from omnidistill.evaluation.environment import environment
from omnidistill.runs import setup
from omnidistill.testing.processes import started
from omnidistill.training.loop import Batches
from omnidistill.training.module import Distillation
from omnidistill.training.ranks import joined
from omnidistill.training.roles import cast
from omnidistill.training.sharded import apart

RUNS = {
    "consistency-models": ["recipe=consistency-models"],
    "dmd2": ["recipe=dmd2", "objective.regression=0"],
    "dmd2, adapters of rank 8": [
        "recipe=dmd2",
        "objective.regression=0",
        "student.adapter={rank: 8, alpha: 8}",
    ],
}
NETWORK = ["task=exact/gaussian_mixture", "task.network={width: 512, depth: 6}", "fit.updates=0"]
LARGE = {"1.3B": 1.3e9, "14B": 14e9}
WORLDS = (1, 8, 64)


def engine(words: Sequence[str], ranks: Any, strategy: str) -> tuple[Distillation, Any]:
    """A run's module, as `omnidistill distill` makes it."""
    keys = ["batch=8", "device=cpu", "teacher_check=false", "out=unused", f"strategy={strategy}"]
    cfg = compose("config", [*NETWORK, *words, *keys])
    task = build(cfg.task)
    objective = setup.objective_of(cfg, task)
    teacher = setup.origin_of(cfg, task, task.exact_teacher(), Path("unused"), "cpu")
    origin = setup.origin_of(cfg, task, teacher, Path("unused"), "cpu")
    student, _ = setup.student_of(cfg, task, origin, "cpu")
    crew = cast(student, origin, objective, cfg.ema, setup.adapter_of(cfg))
    module = Distillation(
        crew, teacher, objective, setup.settings_of(cfg), task.like, student=setup.spec_of(cfg), ranks=ranks
    )
    apart(module)
    return module, task


def tensors(module: Distillation) -> Iterator[Tensor]:
    for model in (*module.trained.values(), module.teacher):
        for parameter in model.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
    for optimizer in module.optimisers.all().values():
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def held(module: Distillation) -> int:
    """Bytes of the distinct tensors that this process holds."""
    found = {}
    for tensor in tensors(module):
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        # Gradients of a block are views of one buffer.
        found[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(found.values())


class Moved:
    """Counts the bytes of collectives by kind: the whole of what is gathered, scattered or added up."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()

    def __enter__(self) -> Moved:
        import torch.distributed.fsdp._fully_shard._fsdp_collectives as inner

        self.kept = inner.DefaultAllGather.__call__, inner.DefaultReduceScatter.__call__, dist.all_reduce
        gather, scatter, reduce = self.kept

        def gathered(one: Any, output_tensor: Tensor, *rest: Any, **more: Any) -> Any:
            self.bytes["all-gather"] += output_tensor.numel() * output_tensor.element_size()
            return gather(one, output_tensor, *rest, **more)

        def scattered(one: Any, output_tensor: Tensor, input_tensor: Tensor, *rest: Any, **more: Any) -> Any:
            self.bytes["reduce-scatter"] += input_tensor.numel() * input_tensor.element_size()
            return scatter(one, output_tensor, input_tensor, *rest, **more)

        def reduced(tensor: Tensor, *rest: Any, **more: Any) -> Any:
            self.bytes["all-reduce"] += tensor.numel() * tensor.element_size()
            return reduce(tensor, *rest, **more)

        inner.DefaultAllGather.__call__ = gathered
        inner.DefaultReduceScatter.__call__ = scattered
        dist.all_reduce = reduced
        return self

    def __exit__(self, *what: object) -> None:
        import torch.distributed.fsdp._fully_shard._fsdp_collectives as inner

        inner.DefaultAllGather.__call__, inner.DefaultReduceScatter.__call__, dist.all_reduce = self.kept


def measure(rank: int, words: Sequence[str], strategy: str) -> dict[str, Any]:
    """Two updates, then one of which the traffic is counted."""
    torch.set_num_threads(1)
    with joined(strategy, "cpu") as ranks:
        module, task = engine(words, ranks, strategy)
        settings = module.settings
        batches = Batches(task, len(module.cast.turns), settings.batch, settings.seed, 0, 3, ranks)
        for index in range(2):
            module.training_step(batches[index], index)
        with Moved() as moved:
            module.training_step(batches[2], 2)
        return {"held": held(module), "moved": dict(moved.bytes)}


def row(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Measured bytes of a recipe in multiples of the teacher's float32 weights, and what they mean for large ones."""
    # In a process of its own, so that those that are started later are forked from one without threads.
    alone = started(1, measure, words, "auto")[0]
    two = {strategy: started(2, measure, words, strategy)[0] for strategy in ("ddp", "fsdp")}
    if bad := [one for one in (alone, *two.values()) if isinstance(one, str)]:
        raise SystemExit(bad[0])
    unit = started(1, _size, words)[0]
    made = {
        "recipe": name,
        "teacher_bytes": unit,
        "held": {"one process": alone["held"] / unit, **{f"2 x {s}": two[s]["held"] / unit for s in two}},
        "moved_an_update": {f"2 x {s}": {k: v / unit for k, v in two[s]["moved"].items()} for s in two},
    }
    total = made["held"]["one process"]
    made["expected"] = {
        size: {
            str(world): {
                "ddp_held_gb": round(4 * count * total / 1e9, 1),
                # What is sharded twice, as a base that adapters share, is known from the run of two.
                "fsdp_held_gb": round(4 * count * two["fsdp"]["held"] / unit * 2 / world / 1e9, 1),
                "ddp_sent_gb": round(sent(two["ddp"]["moved"], unit, world) * 4 * count / 1e9, 1),
                "fsdp_sent_gb": round(sent(two["fsdp"]["moved"], unit, world) * 4 * count / 1e9, 1),
            }
            for world in WORLDS
        }
        for size, count in LARGE.items()
    }
    return made


def sent(moved: dict[str, int], unit: int, world: int) -> float:
    """What one process sends in an update, in units: a ring sends (N - 1) / N of a gather or scatter, twice that of a
    sum over all (Thakur et al. 2005)."""
    share = (world - 1) / world
    return sum(v * (2 * share if kind == "all-reduce" else share) for kind, v in moved.items()) / unit


def _size(rank: int, words: Sequence[str]) -> int:
    with joined() as ranks:
        module, _ = engine(words, ranks, "auto")
        return sum(p.numel() * p.element_size() for p in module.teacher.parameters())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: GB that a process holds / sends in an update."""
    lines = [
        "| recipe | teacher | GPUs | ddp holds | sends | fsdp holds | sends |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        for size, worlds in one["expected"].items():
            for world, gb in worlds.items():
                cells = [gb[f"{s}_{what}_gb"] for s in ("ddp", "fsdp") for what in ("held", "sent")]
                lines.append(f"| {one['recipe']} | {size} | {world} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    given = {"out": "benchmarks/results/scale.json", **dict(word.split("=", 1) for word in words)}
    rows = [row(name, overrides) for name, overrides in RUNS.items()]
    Path(given["out"]).write_text(
        json.dumps({"environment": environment("cpu"), "rows": rows}, indent=1) + "\n"
    )
    for one in rows:
        print(json.dumps({key: one[key] for key in ("recipe", "held", "moved_an_update")}))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
