"""A claim, tried: its runs one after the other, then its relations on what they measured."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from omnidistill.configuration import compose as config
from omnidistill.configuration.claim_file import Claim
from omnidistill.configuration.overrides import quoted
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.evaluation.relations import judge, words
from omnidistill.runs import folders, setup
from omnidistill.runs.distil import distill


def claim(
    asked: Claim, out: str | Path | None = None, more: Sequence[str] = (), seed: int | None = None
) -> dict[str, Any]:
    """`{"recipe", "statement", "holds", "figures", "seconds"}`, `seeds` and `environment`.

    Args:
        out: folder for the runs, one below it for each; None for a temporary one.
        more: further overrides of every run, e.g. its device.
        seed: of every run, instead of its own.

    Raises:
        UserError: a run's configuration is wrong, or a relation names a metric that its task does not have. All
            configurations are looked at before the first run.
        RunError: a run failed.
    """
    began = time.monotonic()
    with _place(out) as folder:
        configured = {name: _configured(asked, name, folder, more, seed) for name in asked.runs}
        documents = {}
        for number, (name, cfg) in enumerate(configured.items(), 1):
            run = asked.runs[name]
            print(f"run {number} of {len(configured)}: {name} ({run.recipe})", file=sys.stderr, flush=True)
            torch.set_num_threads(int(cfg.threads or torch.get_num_threads()))
            # The tables of the runs are progress here; what this comes to is said at the end.
            with contextlib.redirect_stdout(sys.stderr), folders.opened(cfg.out):
                distill(cfg)
            documents[name] = read_metrics(cfg.out)
        figures = {words(relation): judge(relation, documents) for relation in asked.relations}
    return {
        "recipe": asked.recipe,
        "statement": asked.statement,
        "holds": all(figure["holds"] for figure in figures.values()),
        "figures": figures,
        "seconds": round(time.monotonic() - began, 1),
        "seeds": {name: run.seed if seed is None else seed for name, run in asked.runs.items()},
        "environment": environment(),
    }


@contextlib.contextmanager
def _place(out: str | Path | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="omnidistill-claim-") as folder:
            yield Path(folder)
        return
    with folders.opened(out) as folder:
        yield folder


def _configured(asked: Claim, name: str, folder: Path, more: Sequence[str], seed: int | None) -> Any:
    run = asked.runs[name]
    students, teachers = asked.steps(name)
    cfg = config.compose(
        "config",
        [
            *run.overrides,
            f"recipe={quoted(run.recipe)}",
            f"seed={run.seed if seed is None else seed}",
            f"steps={students}",
            f"evaluation.teacher_steps={teachers}",
            "evaluation.transitions=[]",  # no relation looks at them
            f"out={quoted(str(folder / name))}",
            *more,
        ],
    )
    setup.objective_of(cfg, setup.task_of(cfg))  # what a recipe lacks on its task is said here, too
    return cfg
