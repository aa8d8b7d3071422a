"""Which recipes a task allows, found out by building both; nothing is trained.

    python -m omnidistill.runs.possible < choices.json

reads a list of choices, each a list of runs, each a list of overrides, and prints for each choice why its runs cannot
be had, one after another up to the first that can, whose answer is null. It is a process of its own because a task may
load all of its data to answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from omnidistill.configuration import compose as config
from omnidistill.errors import NotOffered
from omnidistill.runs import setup
from omnidistill.tasks import Task


class Reasons:
    """Why recipes cannot be had on tasks. The task last asked about is kept, for its data may take long to load."""

    def __init__(self) -> None:
        self.settings: Any = None
        self.task: Task | None = None

    def choice(self, runs: Sequence[Sequence[str]]) -> list[str | None]:
        """The answers for runs of which the first possible one is wanted."""
        answers: list[str | None] = []
        while len(answers) < len(runs) and None not in answers:
            answers.append(self.reason(runs[len(answers)]))
        return answers

    def reason(self, overrides: Sequence[str]) -> str | None:
        """Why a recipe cannot be had on a task, in one line; None where it can, or fails for another reason, which the
        run itself will tell."""
        try:
            cfg = config.compose("config", overrides)
            task = self._task(cfg)
            setup.check_guidance(task, cfg.guidance)
            setup.objective_of(cfg, task)
        except NotOffered as error:
            return " ".join(str(error).split()).partition(" (`")[
                0
            ]  # without the hint to look at the list of recipes
        except Exception:
            return None
        return None

    def _task(self, cfg: Any) -> Task:
        settings = setup.plain(cfg.task)
        if self.task is None or settings != self.settings:
            self.task = None  # before the next one is loaded
            self.task, self.settings = setup.task_of(cfg), settings
        assert self.task is not None
        return self.task


if __name__ == "__main__":
    reasons = Reasons()
    print(json.dumps([reasons.choice(runs) for runs in json.load(sys.stdin)]))
