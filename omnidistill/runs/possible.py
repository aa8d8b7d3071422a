"""Which recipes a task allows, found out by building both; nothing is trained.

    python -m omnidistill.runs.possible < cells.json

reads a list of runs, each a list of overrides, and prints a list with, for each, null or why it cannot be. It is a
process of its own because a task may load all of its data to answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from omnidistill import config
from omnidistill.errors import NotOffered
from omnidistill.runs import setup


def reason(overrides: Sequence[str]) -> str | None:
    """Why a recipe cannot be had on a task, in one line; None where it can, or fails for another reason, which the run
    itself will tell."""
    try:
        cfg = config.compose("config", overrides)
        task = config.build(cfg.task)
        setup.check_guidance(task, cfg.guidance)
        setup.objective_of(cfg, task)
    except NotOffered as error:
        return " ".join(str(error).split()).partition(" (`")[
            0
        ]  # without the hint to look at the list of recipes
    except Exception:
        return None
    return None


if __name__ == "__main__":
    answers = [reason(overrides) for overrides in json.load(sys.stdin)]
    print(json.dumps(answers))
