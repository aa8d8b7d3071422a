"""A record of each run of an experiment of `evidence`."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.configuration.compose import compose
from omnidistill.errors import NotOffered, RunError
from omnidistill.evaluation.environment import environment
from omnidistill.runs.distil import distill

RESULTS = Path(__file__).parent / "results" / "evidence"


def experiment(
    name: str,
    runs: Mapping[str, Sequence[str]],
    again: bool,
    after: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Makes the record of an experiment, run by run; `after` measures what metrics.json does not have."""
    file = RESULTS / f"{name}.json"
    former = json.loads(file.read_text())["runs"] if file.is_file() else {}
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run, overrides in runs.items():
            given = [*overrides, "threads=1"]
            words = shlex.join(["omnidistill", "distill", *given, f"out=DIR/{run}"])
            known = former.get(run)
            if known and known["command"] == words and not again and after is None:
                made[run] = known
                continue
            print(f"--- {name}: {run}", flush=True)
            cfg = [word.replace("DIR/", f"{folder}/") for word in given]
            made[run] = {"command": words, **_figures([*cfg, f"out={folder}/{run}"])}
            RESULTS.mkdir(parents=True, exist_ok=True)
            document = {"runs": {**former, **made} if after is None else made}
            file.write_text(json.dumps(document, indent=1) + "\n")
        document = {"runs": made, **({} if after is None else {"measured": after(Path(folder))})}
    file.write_text(json.dumps(document, indent=1) + "\n")


def _figures(overrides: Sequence[str]) -> dict[str, Any]:
    """What a run came to, or why it cannot be had."""
    try:
        cfg = compose("config", list(overrides))
        Path(cfg.out).mkdir(parents=True)
        metrics = json.loads((distill(cfg) / "metrics.json").read_text())
    except NotOffered as error:
        return {"reason": str(error).partition(" (`")[0]}
    except RunError as error:
        return {"failed": str(error), "environment": environment()}
    points = {
        who: {
            str(point["steps"]): {**point["metrics"], "nfe": point["nfe"], "interval": point.get("interval")}
            for point in metrics[who]
        }
        for who in ("teacher", "student")
    }
    return {
        "seed": metrics["seed"],
        "primary": metrics["primary"],
        **points,
        "gap": metrics["gap_closed"],
        "gap_interval": metrics.get("gap_interval"),
        "falls": metrics.get("falls", []),
        "warnings": metrics["training"].get("warnings", []),
        "training": {key: metrics["training"][key] for key in ("student_updates", "seconds", "calls")},
        "samples": metrics["samples"],
        "environment": environment(),
    }
