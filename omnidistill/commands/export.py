"""export, cite: a student handed over, and what it owes to whom."""

from __future__ import annotations

from pathlib import Path

from omnidistill.commands import Arguments, Command
from omnidistill.errors import UserError, unknown

FORMATS = ("safetensors", "diffusers", "peft", "onnx", "transformers")

KEYS = {
    "format=F": ", ".join(FORMATS),
    "out=DIR": "folder that the command makes",
    "verify=true": "compare samples with the student's, with the same noise; false writes it as it is",
    "steps=N": "sampler steps; by default the number the student was trained for",
    "pipeline=DIR": "the teacher's folder, whose other parts are copied; by default the teacher of the run",
    "scheduler=NAME": "of diffusers, among those that walk as the student does, TCDScheduler for one",
    "trust=[PACKAGE]": "packages that the student's task may be built from",
}


def export(arguments: Arguments) -> None:
    """`omnidistill export DIR`."""
    example = "omnidistill export runs/first format=safetensors out=handed"
    folder = arguments.one("folder of a run", example)
    given, dotted = arguments.pick([key.partition("=")[0] for key in KEYS])
    if dotted:
        raise UserError(f"export takes no {dotted[0].partition('=')[0]}; keys: {', '.join(KEYS)}")
    for key in ("format", "out"):
        if not given.get(key):
            raise UserError(f"{key} is missing; for example `{example}`")
    if given["format"] not in FORMATS:
        raise unknown("format", given["format"], FORMATS)
    from omnidistill.commands.results import _names, _whole
    from omnidistill.configuration import student_file

    verify = given.get("verify", "true").lower()
    if verify not in ("true", "false"):
        raise UserError(f"verify must be true or false, got {given['verify']}")
    steps = _whole("steps", given["steps"], 1) if "steps" in given else None
    student_file.find(folder, "student")  # before anything that takes seconds to import
    from omnidistill.data.files import expanded
    from omnidistill.exporting.run import export as handed

    pipeline = given.get("pipeline")
    out = handed(
        folder,
        given["format"],
        expanded(given["out"]),
        verify=verify == "true",
        steps=steps,
        pipeline=None if pipeline is None else Path(expanded(pipeline)),
        scheduler=given.get("scheduler"),
        trust=_names(given.get("trust", "")),
    )
    print(f"{given['format']}: {out / 'README.md'}")


def cite(arguments: Arguments) -> None:
    """`omnidistill cite RUN`."""
    folder = arguments.one("folder of a run", "omnidistill cite runs/first")
    if arguments.overrides:
        raise UserError(f"cite takes no keys, got {arguments.overrides[0]}")
    from omnidistill.runs.cite import bibtex

    print(bibtex(folder))


COMMANDS = (
    Command(
        "export",
        "DIR format=F out=DIR [verify=true] [steps=N] [pipeline=DIR] [scheduler=NAME]",
        "a student for the library that it is deployed with, verified, with a model card",
        export,
        "omnidistill export runs/first format=safetensors out=handed",
        KEYS,
        "Fails if the copy's samples differ from the student's by more than 1e-4 of their size.",
        bare=True,
    ),
    Command(
        "cite",
        "DIR",
        "BibTeX of what a run used: recipe, path, metrics",
        cite,
        "omnidistill cite runs/first",
        bare=True,
    ),
)
