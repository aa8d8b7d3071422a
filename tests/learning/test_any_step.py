"""One student at 1, 2, 4, 8 and 16 steps: no count is worse than fewer by more than the interval, on points, clouds and
tokens in their relaxation, and one step closes a stated share of the gap. The network that training starts from does
not, and consistency models that re-noise get worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnidistill.configuration.compose import build, compose
from omnidistill.evaluation.curve import quality
from omnidistill.evaluation.gap import falls, gap_closed, worse
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student

COMMON = ["seed=1", "threads=1", "optim.hold=0.3", "ema=0.98", "fit.lr=2e-3", "optim.lr=1.5e-3", "batch=128"]
TOKENS = [
    *("task=exact/markov_text", "task.path=onehot", "task.vocab=6", "task.length=8"),
    *("task.network={width: 48, depth: 2, heads: 4}", "fit.updates=300"),
]
POINTS = [
    *("task=exact/gaussian_mixture", "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]", "task.weights=[0.5,0.3,0.2]"),
    *("task.network={width: 96, depth: 3}", "fit.updates=400"),
]
CLOUDS = [
    *("task=exact/rigid_cloud", "task.seed=11", "task.points=12", "task.shapes=4"),
    *("optim.lr=2e-3", "batch=256", "fit.updates=500"),
]
CASES = {
    # overrides, least gap closed at one step
    "points": (
        [*POINTS, "recipe=flow-map-matching", "updates=1500"],
        88.0,
    ),  # 92.8; with 3,000 updates of 256 it is the claim's 97
    "points, anyflow": ([*POINTS, "recipe=anyflow", "updates=1500"], 88.0),
    "tokens": ([*TOKENS, "recipe=flow-map-matching", "updates=900"], 70.0),
    "tokens, eulerian": (
        [
            *TOKENS,
            *("recipe=flow-map-matching", "updates=500", "families.flow_map.identity=eulerian"),
            *("families.flow_map.decay=null", "families.flow_map.weighting=uniform"),
        ],
        75.0,
    ),
    "cloud": ([*CLOUDS, "recipe=flow-map-matching", "updates=800"], 65.0),
}
STEPS = (1, 2, 4, 8, 16)


def curve(
    overrides: list[str], out: Path, samples: int = 2048
) -> tuple[dict[str, str], list[dict], float, float]:
    """The metric, its points at `STEPS`, and the share of the gap closed at one step, after training and before."""
    cfg = compose("config", [*COMMON, *overrides, f"out={out}"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    trained, description, _ = train_student(cfg, task, teacher, out, device)
    start, _ = setup.student_of(cfg, task, setup.origin_of(cfg, task, teacher, out / "start", device), device)
    sampler, name, better = description.sampler(), task.primary.name, task.primary.better

    points = quality(trained, sampler, task, STEPS, samples, 0, 512, resamples=200)
    records = [{**point.record(), "resampled": point.resampled} for point in points]
    few, full = (
        point.metrics[name]
        for point in quality(teacher, task.sampler(), task, (1, task.teacher_steps), 2048, 0, 512)
    )
    first = quality(start, sampler, task, (1,), 2048, 0, 512)[0].metrics[name]
    reached, before = (gap_closed(better, few, value, full) for value in (points[0].metrics[name], first))
    assert reached is not None and before is not None
    print(f"{[round(point.metrics[name], 4) for point in points]}, {reached:.1f} % after {before:.1f} %")
    return {"name": name, "better": better}, records, reached, before


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_more_steps_are_never_worse(case: str, tmp_path: Path) -> None:
    overrides, least = CASES[case]
    primary, points, reached, before = curve(overrides, tmp_path)
    assert falls(primary, points) == []
    assert reached >= least and before < 0.5 * least


@pytest.mark.slow
def test_with_more_steps_consistency_models_that_renoise_get_worse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each step makes a whole jump of its own, and its error with it. In sixteen dimensions, as in
    `benchmarks/any_step.py` with another seed: in two the errors are within what samples show."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from any_step import CELLS

    overrides = [*CELLS["mixture_16d-consistency-models"]]
    primary, points, reached, _ = curve(overrides, tmp_path, samples=8192)
    assert reached >= 95.0 and worse(primary, points[-1], points[0])
