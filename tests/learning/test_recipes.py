"""Every recipe closes a stated share of the gap on an exact task within seconds; the student it starts from does not.

The start is no straw man: it is the network fitted to the teacher's own beliefs, sampled as the student is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from omnidistill.configuration.compose import build, compose
from omnidistill.evaluation.curve import quality
from omnidistill.evaluation.gap import gap_closed
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student
from omnidistill.samplers import FewStep

POINTS = [
    "task=exact/gaussian_mixture",
    "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]",
    "task.weights=[0.5,0.3,0.2]",
    "task.network={width: 96, depth: 3}",
    "task.teacher_steps=32",
    "batch=256",
    "fit.updates=300",
    "optim.lr=2e-3",
    "ema=0.98",
]
SMALL = [
    *POINTS[:3],
    *("task.network={width: 64, depth: 2}", "task.teacher_steps=32", "batch=192", "fit.updates=250"),
    *("optim.lr=2e-3", "ema=0.97"),
]
TOKENS = [
    "task=exact/markov_text",
    "task.vocab=6",
    "task.length=8",
    "task.network={width: 48, depth: 2, heads: 4}",
    "batch=128",
    "fit.updates=200",
    "fit.lr=3e-3",
    "ema=0.98",
]
LABELLED = [*POINTS, "task.conditional=true"]

CASES = {
    # recipe: (overrides, steps, least gap closed in percent)
    "consistency-models": ([*POINTS, "updates=400"], 1, 75.0),
    "progressive-distillation": ([*POINTS, "updates=400"], 1, 85.0),
    "diff-instruct": (
        [*POINTS, "updates=250", "optim.lr=1e-3", "families.matching.critic_updates=3"],
        1,
        80.0,
    ),
    "dmd": ([*POINTS, "updates=200", "families.regression.pairs=1024"], 1, 90.0),
    "dmd2": ([*POINTS, "updates=150", "optim.lr=1e-3", "families.regression.pairs=1024"], 1, 85.0),
    "align-your-flow": ([*SMALL, "updates=300"], 1, 80.0),
    "shortcut": ([*SMALL, "updates=600"], 1, 55.0),
    "flow-map-matching": ([*SMALL, "updates=300"], 1, 80.0),
    "pdd": ([*SMALL, "updates=250"], 1, 80.0),
    "anyflow": ([*SMALL, "updates=150"], 1, 60.0),
    "scm": (
        [
            *SMALL,
            "updates=450",
            *("families.flow_map." + o for o in ("warm_up=50", "times.mean=0.0", "times.std=2.0")),
        ],
        1,
        55.0,
    ),
    # From the data alone, which takes longest.
    "meanflow": ([*SMALL, "updates=600", "families.flow_map.at_once=0.5", "optim.lr=3e-3"], 1, 40.0),
    "lcm": ([*LABELLED, "updates=300", "guidance=1.5", "families.consistency.guidance=[1.0,2.0]"], 2, 75.0),
    "ect": ([*POINTS, "updates=400", "families.consistency.jumps.stages=4"], 1, 75.0),
    "ctm": ([*POINTS, "updates=300"], 1, 80.0),
    "hyper-sd": (
        [
            *POINTS,
            "updates=300",
            "families.segments.ends.segments=2",
            "families.segments.jumps.nodes=16",
        ],
        1,
        75.0,
    ),
    "tdd": ([*POINTS, "updates=400", "families.segments.jumps.nodes=32"], 4, 50.0),
    "slam": ([*POINTS, "updates=300", "families.segments.jumps.nodes=10"], 1, 75.0),
    "std": ([*POINTS, "updates=300", "families.segments.bank=1024"], 4, 40.0),
    "get-deq": ([*SMALL, "updates=250", "families.regression.pairs=1024"], 1, 85.0),
    "boot": ([*SMALL, "updates=300"], 1, 70.0),
    "embedding-loss": ([*SMALL, "fit.lr=2e-3", "optim.lr=1e-3", "updates=150"], 1, 60.0),
    "tfd": ([*SMALL, "fit.lr=2e-3", "optim.lr=1e-3", "updates=300"], 1, 65.0),
    "sfd": ([*SMALL, "updates=250", "families.trajectories.bank=1024"], 2, 55.0),
    # Wide components: one step of the teacher gives their means, and what is to be learned is their width.
    "swiftbrush": (
        [
            *(*LABELLED, "tuned=false", "task.std=0.6", "updates=250", "optim.lr=1e-3"),
            "families.matching.critic_updates=3",
        ],
        1,
        100.0,
    ),
    "di-m-o": ([*TOKENS, "updates=150", "optim.lr=5e-4", "families.matching.critic_updates=3"], 1, 60.0),
}


LONG = {
    "std",
    "tfd",
    "embedding-loss",
    "ctm",
    "hyper-sd",
    "swiftbrush",
    "slam",
    "tdd",
    "ect",
    "align-your-flow",
    "lcm",
}
"""Each has a sibling of its family among the others, and a claim."""


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]
)
def test_closes_the_gap_and_its_start_does_not(recipe: str, tmp_path: Path) -> None:
    overrides, steps, least = CASES[recipe]
    cfg = compose("config", [*overrides, f"recipe={recipe}", f"out={tmp_path}", "seed=1", "threads=1"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    trained, description, module = train_student(cfg, task, teacher, tmp_path, device)
    start = setup.origin_of(cfg, task, teacher, tmp_path / "start", device)
    sampler = FewStep(description.transition)
    guided = setup.guided(teacher, task, cfg.guidance)

    def primary(denoiser, by, count: int) -> float:
        point = quality(denoiser, by, task, [count], 2048, 0, 1024)[0]
        return point.metrics[task.primary.name]

    few, full = (primary(guided, task.sampler(), k) for k in (steps, task.teacher_steps))
    better = task.primary.better
    reached, before = (
        gap_closed(better, few, primary(model, sampler, steps), full) for model in (trained, start)
    )
    print(f"{recipe}: gap closed {reached:.1f} %, at the start {before:.1f} %")
    assert reached is not None and reached >= least
    assert before is not None and before < 0.6 * least
    calls = module.calls
    assert calls["student"] >= module.update
    assert (calls["teacher"] > 0) is (
        recipe not in ("ect", "shortcut", "meanflow", "get-deq", "sfd", "tfd")
    )  # which only start from it, or from what it made before


def test_sdtt_trades_entropy_for_likelihood_and_no_more(tmp_path: Path) -> None:
    """Its targets are the teacher's own beliefs a step later, so no factorised student gains on the bigrams; by the
    backward KL it prefers likely tokens: lower NLL at every step count, within 2 % of the entropy."""
    overrides = [*TOKENS, "recipe=sdtt", "updates=250", "fit.updates=400", "optim.lr=2e-3", f"out={tmp_path}"]
    cfg = compose("config", [*overrides, "seed=1", "threads=1"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    trained, description, _ = train_student(cfg, task, teacher, tmp_path, device)
    start = setup.origin_of(cfg, task, teacher, tmp_path / "start", device)
    sampler = FewStep(description.transition)

    def mean(denoiser, by, name: str) -> float:
        points = quality(denoiser, by, task, [1, 2, 4, 8], 4096, 0, 2048)
        return sum(point.metrics[name] for point in points) / len(points)

    likelihood = {
        who: mean(model, by, "nll")
        for who, model, by in (
            ("teacher", teacher, task.sampler()),
            ("start", start, sampler),
            ("sdtt", trained, sampler),
        )
    }
    print(likelihood)
    assert likelihood["sdtt"] < likelihood["start"] - 0.004
    assert likelihood["sdtt"] < likelihood["teacher"]
    assert mean(trained, sampler, "entropy") == pytest.approx(
        mean(teacher, task.sampler(), "entropy"), rel=0.02
    )


def test_cdlm_stays_at_the_teacher(tmp_path: Path) -> None:
    """Cross-entropy over the bridge, and on the data, has its minimum at the teacher: training neither gains nor
    loses there. A network that was not fitted first is far away."""
    overrides = [*TOKENS, "recipe=cdlm", "updates=100", "fit.updates=400", "optim.lr=1e-3", f"out={tmp_path}"]
    cfg = compose("config", [*overrides, "seed=1", "threads=1"])
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    trained, description, _ = train_student(cfg, task, teacher, tmp_path, device)
    fresh = setup.origin_of(
        compose("config", [*overrides, "fit.updates=0", "seed=1"]), task, teacher, tmp_path / "fresh", device
    )
    sampler = FewStep(description.transition)
    at = {
        who: quality(model, by, task, [8], 4096, 0, 2048)[0].metrics["bigram_tv"]
        for who, model, by in (
            ("teacher", teacher, task.sampler()),
            ("cdlm", trained, sampler),
            ("fresh", fresh, sampler),
        )
    }
    print(at)
    assert abs(at["cdlm"] - at["teacher"]) < 0.02
    assert at["fresh"] > at["teacher"] + 0.2
