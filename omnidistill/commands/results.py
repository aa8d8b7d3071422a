"""sample, evaluate, report: what a finished run is good for."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnidistill.commands import Arguments, Command
from omnidistill.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

SAMPLE_KEYS = {
    "steps=N": "sampler steps; by default the number the student was trained for",
    "count=M": "number of samples (16)",
    "seed=S": "0 by default",
    "out=PATH": "file to write, with or without its suffix; with input=, a folder that the command makes",
    "input=PATH": "a file or a folder of your own: one sample for each input in it, e.g. noisy recordings",
    "condition=C": "label of all samples, its name or its number",
    "device=D": "auto, cpu or cuda",
    "trust=[PACKAGE]": "packages that the student's task may be built from",
}

EVALUATE_KEYS = {
    "steps=1,2,4": "step counts",
    "evaluation.samples=N": "samples a metric is computed from",
    "evaluation.seed=S": "0 by default",
    "device=D": "auto, cpu or cuda",
    "teacher=PATH": "where the teacher is now",
    "metrics=M:F": "a function of your own, (samples, context, rows) -> {name: number}, beside the task's metrics",
    "primary=NAME": "the metric that gaps are counted from; NAME:higher where more is better",
    "trust=[PACKAGE]": "packages that the task may be built from, e.g. that of your network",
    "task.X=V": "an option of the task, e.g. other data",
}


def sample(arguments: Arguments) -> int:
    """`omnidistill sample DIR`: the exit status, 2 where an input could not be used; the others are sampled."""
    folder = arguments.one("folder of a run", "omnidistill sample runs/first steps=1 count=16 out=made")
    given, dotted = arguments.pick([key.partition("=")[0] for key in SAMPLE_KEYS])
    if dotted:
        raise UserError(f"sample takes no {dotted[0].partition('=')[0]}; keys: {', '.join(SAMPLE_KEYS)}")
    if not given.get("out"):
        raise UserError("out is missing; for example out=samples/first")
    steps = _whole("steps", given["steps"], 1) if "steps" in given else None
    count = _whole("count", given.get("count", "16"), 1)
    seed = _whole("seed", given.get("seed", "0"), 0)
    condition = given.get("condition")
    from omnidistill.configuration import student_file, values

    wanted = values.one_of("auto", "cpu", "cuda")("device", given.get("device", "auto"))
    student_file.find(folder, "student")  # before anything that takes seconds to import
    from omnidistill.runs import sample as samples
    from omnidistill.runs.setup import device_named

    device, trust = device_named(wanted), _names(given.get("trust", ""))
    if "input" in given:
        for key in ("count", "condition"):
            if key in given:
                raise UserError(f"{key} has no effect with input=: there is one sample for each input")
        files, wrong = samples.sample_inputs(
            folder, given["input"], given["out"], steps, seed, device=device, trust=trust
        )
        for file in files:
            print(file)
        for name, reason in wrong.items():
            print(f"error: {name}: {reason}", file=sys.stderr)
        return 2 if wrong else 0
    files = samples.sample(
        folder, steps, count, seed, given["out"], device=device, condition=condition, trust=trust
    )
    print(*files, sep="\n")
    return 0


SAMPLING = (
    *(f"student.{key}=" for key in ("transition", "times", "shift", "gamma", "inference")),
    "student.inference.",
)
"""What decides how a student is sampled, and not what it is."""


def evaluate(arguments: Arguments) -> None:
    """`omnidistill evaluate DIR`: judges again, at other steps or on other data; what training was told stays."""
    folder = arguments.one("folder of a run", "omnidistill evaluate runs/first steps=1,2,4")
    from omnidistill.configuration import compose as config

    known = [key.partition("=")[0] for key in EVALUATE_KEYS if "." not in key]
    given, dotted = arguments.pick([*known, "precision", "threads"])
    for item in dotted:  # what training was told cannot be changed afterwards
        if not item.lstrip("+~").startswith(("evaluation.", "task.", *SAMPLING)):
            key = item.partition("=")[0]
            raise UserError(f"evaluate takes no {key}; keys: {', '.join(EVALUATE_KEYS)}")
    overrides = [*(f"{key}={value}" for key, value in given.items()), *dotted]
    cfg = config.load_config(folder, overrides)
    from omnidistill.runs import evaluate as judged
    from omnidistill.runs import folders

    def changes(_: DictConfig) -> DictConfig:
        return cfg

    # With --json the table goes to stderr, so that stdout is one JSON document.
    table = contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout)
    with folders.opened(folder, resume=True), table:
        document = judged.evaluate(folder, changes)
    if arguments.json:
        print(json.dumps(document))


def report(arguments: Arguments) -> None:
    """`omnidistill report DIR`: writes the page of a run or of a sweep and prints where it is."""
    folder = arguments.one("folder of a run", "omnidistill report runs/first")
    if arguments.overrides:
        raise UserError(f"report takes no keys, got {arguments.overrides[0]}")
    if not Path(folder).is_dir():  # as `write_report` says, without the seconds that it takes to import
        raise UserError(f"no folder {folder}; `omnidistill report` takes the out= of a run or of a sweep")
    from omnidistill.data.files import refuse_links
    from omnidistill.evaluation.report import write_report

    refuse_links(Path(folder), (".",))
    print(write_report(folder))


def _whole(key: str, text: str, least: int) -> int:
    from omnidistill.configuration import values

    try:
        value: Any = int(text)
    except ValueError:
        value = text
    return values.whole(least)(key, value)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for item in text.strip("[]").split(",") if (name := item.strip(" '\"")))


COMMANDS = (
    Command(
        "sample",
        "DIR [steps=N] [count=M | input=PATH] [seed=S] out=PATH",
        "samples of a student, in the modality's own format; with input=, one for each of your own files",
        sample,
        "omnidistill sample runs/first steps=1 count=64 seed=1 out=made",
        SAMPLE_KEYS,
        bare=True,
    ),
    Command(
        "evaluate",
        "DIR [steps=1,2,4] [key=value ...] [--json]",
        "quality against steps, again or on other data",
        evaluate,
        "omnidistill evaluate runs/first steps=1,2,4,8",
        EVALUATE_KEYS,
        flags=("--json",),
        bare=True,
    ),
    Command(
        "report",
        "DIR",
        "the page of a run again: tables, curves, samples in one file",
        report,
        "omnidistill report runs/first",
        bare=True,
    ),
)
