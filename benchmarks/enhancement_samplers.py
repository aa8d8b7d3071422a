"""The shipped enhancement teacher under every sampler that suits it, beside a student, on the same noise.

    python benchmarks/enhancement_samplers.py STUDENT_FOLDER [--samples 12] [--threads 1]
        [--out benchmarks/results/enhancement_samplers.json]

What a student of one call is compared with should be the teacher at its best: Euler's rule at 1, 4 and 30 steps from
starts of several temperatures (the share of the prior's noise in them), the reverse process, and SGMSE+'s sampler, 30
steps of a predictor and a corrector, which are 60 calls. A row is printed when it is measured.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from omnidistill.denoisers import Denoiser
from omnidistill.evaluation.curve import Point, quality
from omnidistill.evaluation.environment import environment
from omnidistill.samplers import Ancestral, Euler, Sampler
from omnidistill.samplers.predictor_corrector import PredictorCorrector
from omnidistill.student import load, read_denoiser

SHOWN = ("frechet", "si_sdr", "pesq", "estoi", "dnsmos_ovrl")
PLAN: list[tuple[float, str, Sampler, tuple[int, ...]]] = [
    *((temperature, "euler", Euler(), (1, 4, 30)) for temperature in (0.0, 0.3, 1.0)),
    (1.0, "ancestral", Ancestral(), (4, 30)),
    (1.0, "predictor-corrector", PredictorCorrector(), (30,)),
]
BATCH = 8


def cooled(denoiser: Denoiser, temperature: float) -> Denoiser:
    """The same network, sampled from another start."""
    path = copy.copy(denoiser.path)
    path.temperature = temperature  # type: ignore[attr-defined]
    other = copy.copy(denoiser)
    other.path = path
    return other


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
    teacher, _ = read_denoiser(folder, "teacher", task)
    rows = []

    def measure(model: str, temperature: float, name: str, points: list[Point]) -> None:
        for point in points:
            rows.append({"model": model, "temperature": temperature, "sampler": name, **point.record()})
            shown = "".join(f"{point.metrics.get(key, float('nan')):10.3f}" for key in SHOWN)
            start = f"{model:9}{name:20}{temperature:6g}{point.nfe:4}"
            print(f"{start}{shown}{point.seconds_per_sample:9.3f} s", flush=True)

    head = f"{'model':9}{'sampler':20}{'temp.':>6}{'nfe':>4}" + "".join(f"{key:>10}" for key in SHOWN)
    print(head + "  a sample")
    options = {"samples": args.samples, "seed": args.seed, "batch": BATCH, "keep": 1}
    with torch.autocast("cpu", torch.bfloat16):
        name = json.loads((args.student / "student.json").read_text())["transition"]
        own = task.path.temperature  # type: ignore[attr-defined]
        measure("student", own, name, quality(student.denoiser, student.sampler, task, [1], **options))
        for temperature, name, sampler, steps in PLAN:
            for k in steps:
                points = quality(cooled(teacher, temperature), sampler, task, [k], **options)
                measure("teacher", temperature, name, points)
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
