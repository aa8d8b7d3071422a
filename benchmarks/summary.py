"""Turns the files of benchmarks/results into docs/results.md: every figure there comes from one of them.

python benchmarks/summary.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TARGET = HERE.parent / "docs" / "results.md"

HEAD = """# Results

Made by `python benchmarks/summary.py` from `benchmarks/results/`; each file there holds the command, the seed, the
versions and the machine. `gap closed` compares the student at k steps with the teacher at the same k:
0 % is no better than running the teacher with k steps, 100 % is the teacher at its full number of steps.
"""


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _table(document: dict[str, Any]) -> list[str]:
    metrics = document["metrics"]
    primary = metrics["primary"]["name"]
    names = [primary, *sorted(name for name in metrics["student"][0]["metrics"] if name != primary)]
    rows = [["", "steps", "calls", *names, "gap closed", "ms a sample"]]
    floor = metrics["floor"]
    rows.append(["real", "", "", *(_figure(floor.get(name)) for name in names), "", ""])
    for who in ("teacher", "student"):
        for point in metrics[who]:
            gap = metrics["gap_closed"].get(str(point["steps"])) if who == "student" else None
            rows.append(
                [
                    who,
                    str(point["steps"]),
                    str(point["nfe"]),
                    *(_figure(point["metrics"].get(name)) for name in names),
                    "" if gap is None else f"{gap:.1f} %",
                    f"{1000 * point['seconds_per_sample']:.2f}",
                ]
            )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _section(name: str, document: dict[str, Any]) -> list[str]:
    metrics, training = document["metrics"], document["metrics"]["training"]
    better = metrics["primary"]["better"]
    calls = ", ".join(f"{role} {count}" for role, count in training["calls"].items())
    return [
        f"## {name}",
        "",
        f"`{document['command']}`",
        "",
        *_table(document),
        "",
        f"Primary metric: {metrics['primary']['name']} ({better} is better). {training['student_updates']} student "
        f"updates in {training['seconds']:.0f} s, {document['wall_seconds']:.0f} s in all; network calls: {calls}.",
        "",
    ]


def _machine(environment: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in environment.items())


def main() -> None:
    lines = [HEAD]
    machines = set()
    overhead = None
    for path in sorted((HERE / "results").glob("*.json")):
        document = json.loads(path.read_text())
        if path.stem == "step_overhead":
            overhead = document
        elif "metrics" in document:
            lines += _section(path.stem, document)
            machines.add(_machine(document["metrics"]["environment"]))
    if overhead:
        lines += ["## Step overhead", "", "`python benchmarks/step_overhead.py`", ""]
        lines += ["| network | engine ms | bare ms | ratio |", "|---|---|---|---|"]
        for name, case in overhead["cases"].items():
            lines.append(f"| {name} | {case['engine_ms']} | {case['bare_ms']} | {case['ratio']} |")
        lines.append("")
        machines.add(_machine(overhead["environment"]))
    lines += ["## Machine", "", *sorted(machines), ""]
    TARGET.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
