"""Turns the files of benchmarks/results into docs/results.md and the table of the README: no figure is typed.

python benchmarks/summary.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import any_step
import former
import matrix_tables
import speed
from matrix_tables import basis, closed, figure, markdown

HERE = Path(__file__).parent
MATRIX = HERE / "results" / "matrix"
ALIGNMENT = HERE / "results" / "coordinates_alignment.json"
PEERS = HERE / "results" / "peers.json"
SAMPLERS = HERE / "results" / "enhancement_samplers.json"
ON_MIXTURE = {
    "seven modes in two dimensions": ("--on plane", HERE / "results" / "recipes_on_plane" / "table.md"),
    "six modes in sixteen dimensions": ("", HERE / "results" / "recipes_on_mixture" / "table.md"),
}
ON_IMAGES = HERE / "results" / "recipes_on_images" / "table.md"
TARGET = HERE.parent / "docs" / "results.md"
README = HERE.parent / "README.md"
SHOWN = {"exact/rigid_cloud": (1, 2), "consistency-models": (1, 2), "cdlm": (8,), "sdtt": (8,)}
"""Step counts of a task or recipe in the README's table, where they are not the first that was evaluated."""

HEAD = """# Results

Made by `python benchmarks/summary.py` from `benchmarks/results/`; each file there holds the command, the seed, the
versions and the machine. `gap closed` compares the student at k steps with the teacher at the same k:
0 % is no better than running the teacher with k steps, 100 % is the teacher at its full number of steps.
[reading.md](reading.md) says what the intervals are and where there is no gap.
"""


def _table(document: dict[str, Any]) -> list[str]:
    metrics = document["metrics"]
    primary = metrics["primary"]["name"]
    names = [primary, *sorted(name for name in metrics["student"][0]["metrics"] if name != primary)]
    rows = [["", "steps", "calls", *names, "gap closed", "ms a sample"]]
    floor = metrics["floor"]
    rows.append(["real", "", "", *(figure(floor.get(name)) for name in names), "", ""])
    if given := metrics.get("input"):
        rows.append(["input", "", "", *(figure(given["metrics"].get(name)) for name in names), "", ""])
    for who in ("teacher", "student"):
        for point in metrics[who]:
            rows.append(
                [
                    who,
                    str(point["steps"]),
                    str(point["nfe"]),
                    figure(point["metrics"][primary], point.get("interval")),
                    *(figure(point["metrics"].get(name)) for name in names[1:]),
                    closed(metrics, point["steps"]) if who == "student" else "",
                    f"{1000 * point['seconds_per_sample']:.2f}",
                ]
            )
    return markdown(rows)


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
        f"updates in {training['seconds']:.0f} s, {document['wall_seconds']:.0f} s in all; network calls: {calls}. "
        f"{basis(metrics)}",
        "",
        *(line for warning in metrics.get("warnings", ()) for line in (f"Warning: {warning}", "")),
    ]


def _alignment(document: dict[str, Any]) -> list[str]:
    """The table of `coordinates_alignment.py`."""
    names = ("energy", "rmsd", "coverage", "bonds", "mirror")
    budget = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in document["budget"].items())
    rows = [["rotations", "aligned", "model", "steps", *names]]
    for cell in document["cells"]:
        where = [cell["rotations"], "yes" if cell["align"] else "no"]
        for who in ("teacher", "student"):
            for steps, metrics in cell[who].items():
                rows.append([*where, who, steps, *(figure(metrics[name]) for name in names)])
    return [
        "## Structures with and without alignment",
        "",
        "`python benchmarks/coordinates_alignment.py`: targets superposed on beliefs or not, training frames turned a "
        "little about the reference pose or at random; `mirror` is the share of samples nearer to held-out frames "
        f"after reflection. Seed {document['seed']}, {document['recipe']}, {budget}: a smaller network and far fewer "
        "updates than the shipped teacher's.",
        "",
        *markdown(rows),
        "",
    ]


def _samplers(document: dict[str, Any]) -> list[str]:
    """The table of `enhancement_samplers.py`."""
    names = ("frechet", "si_sdr", "pesq", "estoi", "dnsmos_ovrl")
    rows = [["model", "temperature", "sampler", "calls", *names, "seconds a sample"]]
    for row in document["rows"]:
        figures = [figure(row["metrics"].get(name)) for name in names]
        rows.append(
            [
                *(row["model"], f"{row['temperature']:g}", row["sampler"], str(row["nfe"])),
                *(*figures, f"{row['seconds_per_sample']:.2f}"),
            ]
        )
    return [
        "## The enhancement teacher under several samplers",
        "",
        f"`{document['command']}`, the student by {document['student']}; {document['samples']} held-out recordings, "
        f"seed {document['seed']}.",
        "",
        *markdown(rows),
        "",
    ]


def _on_mixture() -> list[str]:
    """The tables that `recipes_on_mixture.py` left."""
    lines = [
        "## Every recipe on one mixture",
        "",
        "As a user types it, the mixture and the recipe and nothing else, but for records that are named below each "
        "table; budgets stand in configs/tuning/exact/gaussian_mixture. At the step count that the recipe is trained "
        "for, one holds if it closes 95 % of the gap, recalls every mode of weight >= 5 % and takes at most four "
        "minutes of one thread.",
        "",
    ]
    for title, (option, file) in ON_MIXTURE.items():
        command = " ".join(("python benchmarks/recipes_on_mixture.py", option)).strip()
        lines += (
            [f"### {title.capitalize()}", "", f"`{command}`", "", file.read_text()] if file.is_file() else []
        )
    return lines


def _on_images() -> list[str]:
    """The table that `recipes_on_images.py` left."""
    if not ON_IMAGES.is_file():
        return []
    return [
        "## Every recipe on pictures at one budget",
        "",
        "`python benchmarks/recipes_on_images.py`: Fashion-MNIST in latents, 300 updates of 32 pictures, the best at "
        "four steps first. A percentage is of the gap between the teacher at as many steps and the teacher in full; "
        "above 100 the student is nearer to held-out pictures than the whole teacher. ± is half of the 95 % interval. "
        "The budget is updates and batch. The rate is 1e-3, or 1e-4 where a discriminator leads; each recipe has its "
        "own options and tuning (configs/tuning/image/fashion_mnist), its calls an update stand beside it, and a "
        "teacher is guided where the recipe says so.",
        "",
        ON_IMAGES.read_text(),
    ]


def _machine(environment: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in environment.items())


def _headline(documents: dict[str, dict[str, Any]]) -> str:
    """The README's table: one row for each result and step count of its student that has a gap to close."""
    rows = [
        "| task | recipe | steps | metric | teacher at k | student at k | teacher at full | gap closed | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for document in documents.values():
        metrics = document["metrics"]
        primary = metrics["primary"]["name"]
        teacher = {point["steps"]: point["metrics"][primary] for point in metrics["teacher"]}
        full = max(teacher)
        first = (metrics["student"][0]["steps"],)
        shown = SHOWN.get(metrics["task"], SHOWN.get(metrics["recipe"], first))
        for point in metrics["student"]:
            k, gap = point["steps"], metrics["gap_closed"].get(str(point["steps"]))
            if k not in shown or gap is None:
                continue
            figures = [
                figure(teacher[k]),
                figure(point["metrics"][primary]),
                f"{figure(teacher[full])} ({full})",
            ]
            minutes = f"{document['wall_seconds'] / 60:.1f}"
            cells = [
                metrics["task"],
                metrics["recipe"],
                str(k),
                primary,
                *figures,
                closed(metrics, k),
                minutes,
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _peers(document: dict[str, Any]) -> list[str]:
    """Milliseconds an update here and in a peer's library."""
    peer = document["peer"]
    return [
        "## Beside a peer's step",
        "",
        "`python benchmarks/peers.py --fastgen FOLDER`: a DMD2 update of the same network and batch, turn by turn, "
        f"here and in {peer['name']} {peer['version']}; above 1 ours is the faster. The head on the critic is more "
        "work: it trains the critic's trunk, which the peer's does not.",
        "",
        "| case | here ms | there ms | theirs over ours |",
        "|---|---|---|---|",
        *(
            f"| {name} | {case['ours_ms']:.0f} | {case['peer_ms']:.0f} | {case['speed']:.2f} |"
            for name, case in document["cases"].items()
        ),
        "",
    ]


def _fill(text: str, name: str, content: str) -> str:
    """`content` between the comments `<!-- figures: name -->` and `<!-- end -->`."""
    start, end = f"<!-- figures: {name} -->", "<!-- end -->"
    before, found, rest = text.partition(start)
    if not found:
        raise SystemExit(f"README.md has no place {start}")
    return f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"


def _demo(document: dict[str, Any]) -> str:
    metrics = document["metrics"]
    primary = metrics["primary"]["name"]
    teacher = {point["steps"]: point["metrics"][primary] for point in metrics["teacher"]}
    student, full = metrics["student"][0], max(teacher)
    return (
        f"Measured: {primary} {figure(teacher[1])} for the teacher at 1 step and {figure(teacher[full])} at {full}, "
        f"{figure(student['metrics'][primary])} for the student at 1: {closed(metrics, 1)} of the gap "
        f"closed, in {document['wall_seconds']:.0f} s on {metrics['environment']['cores']} cores."
    )


def main() -> None:
    lines = [HEAD]
    documents: dict[str, dict[str, Any]] = {}
    machines = set()
    overhead = None
    for path in sorted((HERE / "results").glob("*.json")):
        document = json.loads(path.read_text())
        if path.stem == "step_overhead":
            overhead = document
        elif "metrics" in document:
            documents[path.stem] = document
            lines += _section(path.stem, document)
            machines.add(_machine(document["metrics"]["environment"]))
    if overhead and all(
        "hand_ms" in case for case in overhead["cases"].values()
    ):  # not a file of the former script
        lines += ["## Step overhead", "", "`python benchmarks/step_overhead.py`", ""]
        lines += [
            "| case | engine ms (min, median, max) | by hand ms | ratio | goal |",
            "|---|---|---|---|---|",
        ]
        for name, case in overhead["cases"].items():
            both = (
                ", ".join(f"{value:.1f}" for value in case[key].values()) for key in ("engine_ms", "hand_ms")
            )
            lines.append(f"| {name} | {' | '.join(both)} | {case['ratio']} | {case['goal']} |")
        lines.append("")
        machines.add(_machine(overhead["environment"]))
    if PEERS.is_file():
        lines += _peers(json.loads(PEERS.read_text()))
    if SAMPLERS.is_file():
        lines += _samplers(json.loads(SAMPLERS.read_text()))
    if ALIGNMENT.is_file():
        lines += _alignment(json.loads(ALIGNMENT.read_text()))
    lines += matrix_tables.section(MATRIX)
    for (task, recipe), cells in matrix_tables.read(MATRIX).items():
        for cell in cells:
            lines += _section(f"{task} · {recipe} · seed {cell['metrics']['seed']}", cell)
            machines.add(_machine(cell["metrics"]["environment"]))
    lines += any_step.section()
    lines += speed.section()
    lines += _on_mixture() + _on_images()
    lines += former.section()
    for folder in ("any_step", "speed", "recipes_on_plane", "recipes_on_mixture", "recipes_on_images"):
        for path in (HERE / "results" / folder).glob("*.json"):
            record = json.loads(path.read_text())
            where = record.get("metrics", record).get("environment")
            machines |= {_machine(where)} if where else set()
    lines += ["## Machine", "", *sorted(machines), ""]
    TARGET.write_text("\n".join(lines))
    readme = _fill(README.read_text(), "table", _headline(documents))
    if matrix_tables.read(MATRIX):
        readme = _fill(readme, "matrix", matrix_tables.headline(MATRIX))
    README.write_text(_fill(readme, "demo", _demo(documents["fashion_mnist_pixels-demo"])))


if __name__ == "__main__":
    main()
