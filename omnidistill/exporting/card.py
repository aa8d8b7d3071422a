"""The model card of what is handed over: what it is, what it was made of, what it scored, how to sample."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidistill import __version__
from omnidistill.configuration import received
from omnidistill.data.files import write_text
from omnidistill.errors import UserError
from omnidistill.exporting.run import Handed

UNKNOWN = "not said where the teacher lies; find it out before you pass this on"
OWN = "that of the network it was given from Python, or Apache-2.0 where it came with this package"


def write_card(handed: Handed, format: str) -> Path:
    """README.md, with the metadata that model hubs read at its head."""
    made = handed.recipe.made_by
    config = _config(handed.folder)
    recipe = config.get("recipe") or {}
    name, title = str(made.get("recipe", "")), str(recipe.get("title") or made.get("recipe") or "student")
    licence = licence_of(handed.pipeline)
    head = {
        "license": licence or "other",
        "library_name": "omnidistill" if format in ("safetensors", "onnx") else format,
        "tags": ["distillation", *([name] if name else [])],
    }
    steps = f"{handed.steps} step{'s' if handed.steps > 1 else ''}"
    parts = [
        "---\n" + "".join(f"{key}: {_yaml(value)}\n" for key, value in head.items()) + "---",
        f"# A student of {steps}",
        f"Distilled by {title} with omnidistill {__version__}, written as {format} on "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.",
        "## How to sample",
        f"Beside this folder:\n\n```python\n{handed.said.get('sample', '')}\n```",
    ]
    parts += [handed.said[key] for key in ("inputs", "times") if key in handed.said]
    if handed.recipe.guidance is not None:
        parts.append(f"It is told a guidance scale of {handed.recipe.guidance:g}; sample without guidance.")
    parts += [
        "## What it is made of",
        "\n".join(
            f"- {key}: {value}"
            for key, value in {
                "teacher": _teacher(handed, config),
                "licence of the teacher": licence
                or (UNKNOWN if config.get("teacher") or made.get("teacher") else OWN),
                "data": _data(config),
                "recipe": f"{name}, {recipe.get('paper', 'no paper')}",
                "training": f"{made.get('updates', '?')} updates, seed {made.get('seed', '?')}",
                "sampler": _sampler(handed),
            }.items()
        ),
    ]
    if scores := _scores(handed.folder):
        parts += ["## What it scored", scores]
    parts += [
        "## Verified",
        handed.said.get("verified", "Not verified: samples were not compared with the student's."),
    ]
    if citation := _citation(handed.folder):
        parts += ["## Citation", f"```bibtex\n{citation}\n```"]
    return write_text("\n\n".join(part for part in parts if part) + "\n", handed.out / "README.md")


def licence_of(folder: Path | None) -> str | None:
    """The licence that the teacher's own card says in its head, or the name of a licence file beside it."""
    if folder is None:
        return None
    if (folder / "README.md").is_file():
        text = received.read_text(folder / "README.md")
        found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        line = re.search(r"^license: *(\S+)", found[1], re.MULTILINE) if found else None
        if line:
            return line[1].strip("\"'")
    file = next(
        (folder / name for name in ("LICENSE", "LICENSE.md", "LICENSE.txt") if (folder / name).is_file()),
        None,
    )
    return None if file is None else f"as in {file.name} of the teacher"


def _config(folder: Path) -> Mapping[str, Any]:
    file = folder / "config.yaml"
    read = received.read_yaml(file) if file.is_file() else {}
    return read if isinstance(read, Mapping) else {}


def _teacher(handed: Handed, config: Mapping[str, Any]) -> str:
    network = handed.foreign.get("network")
    kind = network.get("kind") if isinstance(network, Mapping) else None
    source = config.get("teacher") or handed.recipe.made_by.get("teacher")
    named = Path(str(source)).name if source else None
    task = (handed.recipe.task or {}).get("name") or (config.get("task") or {}).get("name")
    return ", ".join(str(part) for part in (named, kind, task) if part) or "a module from Python"


def _data(config: Mapping[str, Any]) -> str:
    task = config.get("task") or {}
    for key in ("folder", "file", "path"):
        if isinstance(task.get(key), str):
            return f"the user's own, {Path(task[key]).name}"
    needs = (config.get("recipe") or {}).get("needs") or []
    return (
        "given from Python or by the task" if "data" in needs else "none: the recipe asks the teacher alone"
    )


def _sampler(handed: Handed) -> str:
    sampler = handed.student.sampler
    times = sampler.times(handed.student.denoiser, handed.steps)[:-1].tolist()
    shares = sampler.shares(handed.steps)
    sizes = f", at {', '.join(f'{s:g}' for s in shares)} of the size" if set(shares) != {1.0} else ""
    return f"{sampler.transition} at times {', '.join(f'{t:.4g}' for t in times)} (1 is noise, 0 data){sizes}"


def _scores(folder: Path) -> str:
    """A table of the metric that gaps are counted from, with its interval where one was measured."""
    from omnidistill.evaluation.intervals import LEVEL
    from omnidistill.evaluation.metrics_file import read_metrics

    try:
        document = read_metrics(folder)
    except UserError:
        return ""
    primary = document["primary"]["name"]
    better = document["primary"]["better"]
    share = f"{100 * LEVEL:g} % interval"
    rows = [f"| who | steps | calls | {primary} ({better} is better) [{share}] |", "|---|---|---|---|"]
    for who in ("teacher", "student"):
        for row in document[who]:
            value = row["metrics"].get(primary)
            if value is None:
                continue
            ends = row.get("interval")
            shown = f"{value:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if isinstance(ends, list) else "")
            rows.append(f"| {who} | {row['steps']} | {row['nfe']:g} | {shown} |")
    return "\n".join(rows)


def _citation(folder: Path) -> str:
    from omnidistill.runs.cite import bibtex

    try:
        return bibtex(folder)
    except UserError:
        return ""


def _yaml(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
