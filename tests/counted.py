"""Network calls that a run made, beside those that its objective's `cost` declares, for `tests/test_golden.py`.

`cost` is declared for a student of one step. A walk of N steps, whoever takes it (the student in a rollout, an old or a
frozen copy of it for samples to compare), is counted as one call here, and what it really makes as `walked`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omnidistill.denoisers import Denoiser
from omnidistill.objectives.weighted import Weighted
from omnidistill.samplers import FewStep
from omnidistill.training.module import Distillation

WALKS = ("rollout", "three_jumps", "trajectory", "sample")


class Counts:
    """Over a run, by model: calls `made`, those of them that are a walk's beyond its first, and those `declared`."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.walked: Counter[str] = Counter()
        self.declared: dict[str, float] = {}

    @property
    def left(self) -> dict[str, float]:
        """Those that `cost` has to declare."""
        return {name: float(n - self.walked[name]) for name, n in self.made.items() if n > self.walked[name]}


def declared(objective: Any, role: str, over: float) -> dict[str, float]:
    """What a role's update costs when that share of the run is over: of the parts that are trained then."""
    if isinstance(objective, Weighted) and role == "student":
        parts = {name: part for name, part in objective.parts.items() if objective._runs(name, over)}
        objective = Weighted(parts, dict.fromkeys(parts, 1.0))
    return {name: count for name, count in objective.cost(role).items() if count}


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts the calls of runs that are made inside."""
    counts, extra, inside = Counts(), Counter(), [0]
    kept = {name: getattr(FewStep, name) for name in (*WALKS, "step")}
    inherited = [name for name in kept if name not in vars(FewStep)]
    turn = Distillation._turn

    def watched(name: str):  # type: ignore[no-untyped-def]
        def walk(sampler: FewStep, denoiser: Denoiser, *args: Any, **options: Any) -> Any:
            inside[0] += 1
            before = denoiser.calls
            try:
                return kept[name](sampler, denoiser, *args, **options)
            finally:
                inside[0] -= 1
                if not inside[0]:  # a single step, outside of a walk, is one of a walk to somewhere
                    extra[id(denoiser)] += denoiser.calls - before - (name != "step")

        return walk

    def counted(module: Distillation, role: str, *rest: Any) -> Any:
        extra.clear()
        before = Counter(module.calls)
        shown = turn(module, role, *rest)
        counts.made.update({name: n - before[name] for name, n in module.calls.items() if n > before[name]})
        for name, model in module.trained.items():
            counts.walked[name] += extra[id(model)]
        for name, n in declared(module.objective, role, module.update / module.settings.updates).items():
            counts.declared[name] = counts.declared.get(name, 0.0) + n
        return shown

    try:
        for name in kept:
            setattr(FewStep, name, watched(name))
        Distillation._turn = counted  # type: ignore[method-assign]
        yield counts
    finally:
        for name, own in kept.items():
            if name in inherited:
                delattr(FewStep, name)
            else:
                setattr(FewStep, name, own)
        Distillation._turn = turn  # type: ignore[method-assign]
