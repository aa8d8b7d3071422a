"""The shipped enhancement teacher under every sampler that suits it, beside a student, on the same noise.

    python benchmarks/enhancement_samplers.py STUDENT_FOLDER [--samples 12] [--threads 1]
        [--out benchmarks/results/enhancement_samplers.json]

What a student of one call is compared with should be the teacher at its best: the reverse process and Euler's rule at
4 and at 30 steps, and SGMSE+'s sampler, 30 steps of a predictor and a corrector, which are 60 calls. A row is printed
when it is measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from omnidistill.evaluation.curve import Point, quality
from omnidistill.evaluation.environment import environment
from omnidistill.instantiation import build
from omnidistill.samplers import Ancestral, Euler
from omnidistill.samplers.predictor_corrector import PredictorCorrector
from omnidistill.student import load, read_denoiser, read_recipe

SHOWN = ("frechet", "si_sdr", "pesq", "estoi", "dnsmos_ovrl")
SAMPLERS = {"ancestral": (Ancestral(), (4, 30)), "euler": (Euler(), (1, 4, 30))}
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", type=Path)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/enhancement_samplers.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    student = load(args.student)
    task = student.task
    assert task is not None
    folder = task.shipped_teacher()
    assert folder is not None
    teacher, _ = read_denoiser(folder, "teacher", build(read_recipe(folder, "teacher").task))
    rows = []

    def measure(model: str, name: str, points: list[Point]) -> None:
        for point in points:
            rows.append({"model": model, "sampler": name, **point.record()})
            shown = "".join(f"{point.metrics.get(key, float('nan')):10.3f}" for key in SHOWN)
            print(f"{model:9}{name:20}{point.nfe:4}{shown}{point.seconds_per_sample:9.3f} s", flush=True)

    print(f"{'model':9}{'sampler':20}{'nfe':>4}" + "".join(f"{key:>10}" for key in SHOWN) + "  a sample")
    options = {"samples": args.samples, "seed": args.seed, "batch": BATCH, "keep": 1}
    with torch.autocast("cpu", torch.bfloat16):
        name = json.loads((args.student / "student.json").read_text())["transition"]
        measure("student", name, quality(student.denoiser, student.sampler, task, [1], **options))
        for name, (sampler, steps) in SAMPLERS.items():
            for k in steps:
                measure("teacher", name, quality(teacher, sampler, task, [k], **options))
        measure(
            "teacher", "predictor-corrector", quality(teacher, PredictorCorrector(), task, [30], **options)
        )
    document = {
        "command": f"python benchmarks/enhancement_samplers.py STUDENT --samples {args.samples}",
        "student": json.loads((args.student / "metrics.json").read_text())["recipe"],
        **{"seed": args.seed, "samples": args.samples, "batch": BATCH, "precision": "bf16"},
        "rows": rows,
        "environment": environment("cpu"),
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
