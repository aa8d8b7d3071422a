"""What changed: the figures of `results/former`, made by former code, beside those of the same commands now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matrix_tables import figure, markdown

HERE = Path(__file__).parent / "results"
WHY = """## Differences to the former figures

The files of `benchmarks/results/former` were made before these changes: figures of the same commands side by side.
Where no file could be made anew there is none: nothing of the former code stands elsewhere on this page.

- Energy distances are the signed root of an unbiased statistic. The former one read higher where a student is good.
- A target network averages with the decay that was asked for; it used to have a far shorter memory early in a run.
- Few-step grids are nested; on EDM and OUVE paths the last of few steps used to be spent at the lowest noise.
- Pairs for regression come from a deterministic sampler, so that a noise belongs to its sample.
- Nothing is superposed between answers about one state, neither in matching nor in denoising. The adk teacher was
  trained anew, so. The adk student by dmd2 is worse for it: its tuning is of the former code, pairs and all.
- The discriminator looks at the critic's own noised copy.
- The student of rigid clouds matches what it sees with learned clouds in every pose, and is trained at the times of
  four steps; a perceptron in one frame of its own was blurred, and asked at four steps where it had never learned.
"""


def _primary(document: dict[str, Any], who: str) -> dict[int, float]:
    metrics = document["metrics"]
    return {point["steps"]: point["metrics"][metrics["primary"]["name"]] for point in metrics[who]}


def section() -> list[str]:
    """A table with a row for each result and step count that both have."""
    rows = [["task", "recipe", "steps", "teacher then", "teacher now", "student then", "student now"]]
    for path in sorted((HERE / "former").glob("*.json")):
        now = next(
            (found for found in (HERE / "matrix" / path.name, HERE / path.name) if found.is_file()), None
        )
        if now is None:
            continue
        old, new = (json.loads(file.read_text()) for file in (path, now))
        teachers, students = ([_primary(one, who) for one in (old, new)] for who in ("teacher", "student"))
        for steps in sorted(students[0].keys() & students[1].keys()):
            four = (each[steps] for each in (*teachers, *students))
            rows.append([new["metrics"]["task"], new["metrics"]["recipe"], str(steps), *map(figure, four)])
    return [WHY, *markdown(rows), ""] if len(rows) > 1 else []
