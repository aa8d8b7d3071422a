"""results.jsonl of a sweep: a line for each finished cell, model and step count, and one for every other cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnidistill.evaluation.cells import Found, single
from omnidistill.evaluation.metrics_file import write_whole

RESULTS = "results.jsonl"


def write_results(found: Sequence[Found], folder: Path) -> Path:
    """Writes it into the folder of the sweep."""
    lines = [line for each in single(found) for line in records(each)]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_whole(folder / RESULTS, text)
    return folder / RESULTS


def records(found: Found) -> list[dict[str, Any]]:
    """The lines of one cell."""
    cell, metrics = found.cell, found.metrics
    start: dict[str, Any] = {
        "task": cell.task,
        "column": cell.column,
        "recipe": cell.recipe or cell.choice,
        "seed": cell.seed,
        "status": found.status,
    }
    if metrics is None:
        exit_status = found.outcome.exit_status if found.outcome else None
        return [{**start, "reason": found.reason, "exit_status": exit_status, "wall_seconds": found.seconds}]
    cost = {key: metrics["training"][key] for key in ("seconds", "student_updates", "calls")}
    end = {"training": cost, "wall_seconds": found.seconds, "environment": metrics["environment"]}
    return [
        {
            **start,
            "model": model,
            "steps": point["steps"],
            "nfe": point["nfe"],
            "primary": metrics["primary"],
            "metrics": point["metrics"],
            "seconds_per_sample": point["seconds_per_sample"],
            "gap_closed": metrics["gap_closed"].get(str(point["steps"])) if model == "student" else None,
            "floor": metrics["floor"],
            **end,
        }
        for model in ("teacher", "student")
        for point in metrics[model]
    ]
