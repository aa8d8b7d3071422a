"""A folder that `omnidistill.load` reads: the weights as one file, adapters added up, and how to sample."""

from __future__ import annotations

from dataclasses import replace

from omnidistill.exporting.plain import merged
from omnidistill.exporting.run import COUNT, Handed
from omnidistill.exporting.walk import differs
from omnidistill.samplers.walker import innermost
from omnidistill.student import load, save


def write(handed: Handed) -> None:
    """Weights, description; the teacher too where the student asks it while it samples."""
    student = handed.student
    inner = innermost(student.denoiser)
    before = inner.network
    inner.network = merged(before)  # type: ignore[arg-type]
    try:
        save(student.denoiser, replace(handed.recipe, adapter=None, steps=handed.steps), handed.out)
    finally:
        inner.network = before
    for name in ("teacher.json", "teacher.safetensors"):
        if (handed.folder / name).is_file():
            (handed.out / name).write_bytes((handed.folder / name).read_bytes())
    handed.said["sample"] = f"""import omnidistill

student = omnidistill.load("{handed.out.name}")
samples = student.sample(4, steps={handed.steps}, seed=0)"""
    named = handed.recipe.task is not None or handed.recipe.foreign is not None
    if handed.verify and named:  # a module from Python nobody can load without it
        context = handed.context(COUNT)
        again = load(handed.out, trust=handed.trust)
        wanted = student.sample(COUNT, handed.steps, context=context)
        handed.compare("safetensors", differs(again.sample(COUNT, handed.steps, context=context), wanted))
