"""The runs of `evidence`, experiment by experiment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from evidence_record import experiment

import omnidistill
from omnidistill.context import Context
from omnidistill.exact.rewards import Half

Runs = dict[str, list[str]]
"""Overrides of each run by name, in which DIR is a folder beside the others'."""

# --- families and states ----------------------------------------------------------------------------------------------

RING = "[[1.5,0],[-1,1],[-0.5,-1.2]]"
EARLIER = ("optim.hold=0.5", "optim.decay=linear")
"""A mixture's students have another schedule by now."""
MIXTURE = [
    *("task=exact/gaussian_mixture", f"task.means={RING}", "task.weights=[0.5,0.3,0.2]"),
    *(
        "task.network={width: 64, depth: 2, ratio: 100}",
        "task.teacher_steps=32",
        "batch=192",
        "fit.updates=400",
        "fit.lr=2e-3",
    ),
    *("ema=0.98", "evaluation.transitions=[]", "evaluation.samples=2048", *EARLIER),
]
TEXT = [
    *(
        "task=exact/markov_text",
        "task.vocab=8",
        "task.length=16",
        "task.network={width: 48, depth: 2, heads: 4}",
    ),
    *("batch=64", "fit.updates=500", "fit.batch=64", "fit.lr=2e-3", "ema=0.98", "evaluation.samples=2048"),
    "evaluation.transitions=[]",
]
CLOUD = [
    *(
        "task=exact/rigid_cloud",
        "task.points=8",
        "task.shapes=2",
        "batch=64",
        "fit.updates=300",
        "fit.batch=64",
    ),
    *(
        "fit.lr=2e-3",
        "ema=0.98",
        "evaluation.samples=1024",
        "evaluation.transitions=[]",
        "task.teacher_steps=32",
    ),
]
STATES = {"gaussian_mixture": MIXTURE, "markov_text": TEXT, "rigid_cloud": CLOUD}
REWARDS = {
    "gaussian_mixture": "{half: {_target_: omnidistill.exact.rewards.Half, direction: [1.0]}}",
    "markov_text": "{share: {_target_: omnidistill.exact.rewards.Count, token: 0}}",
    "rigid_cloud": "{apart: {_target_: omnidistill.exact.rewards.Apart, points: [0, 1], least: 1.1}}",
}
"""Of black boxes: the right half of the plane, one token's share, the shape whose first two points lie apart."""


def _alone(family: str, state: str) -> list[str]:
    """Nothing of what the mixture's own tuning rewards."""
    return [f"families.{family}.weights={{right: 0.0}}"] if state == "gaussian_mixture" else []


def _family(family: str, state: str) -> list[str]:
    tokens, few = state == "markov_text", "steps=1,2,4"
    if family == "consistency":
        if tokens:
            return ["recipe=sdtt", "updates=300", "optim.lr=5e-4", "steps=4,8"]
        return [
            "recipe=consistency-models",
            "updates=600",
            "optim.lr=2e-3",
            "student.steps=1",
            "student.times=null",
            few,
        ]
    if family == "matching":
        if tokens:
            return ["recipe=di-m-o", "updates=300", "optim.lr=3e-4", few]
        return ["recipe=dmd2", "updates=250", "optim.lr=1e-3", few]
    if family == "on_policy":
        recipe = "gkd" if tokens else "diffusionopd"
        return [f"recipe={recipe}", "updates=200", "optim.lr=1e-3", few]
    if family == "reward":
        more = [f"families.preference.rewards={REWARDS[state]}", *_alone("preference", state)]
        step = "student.transition=ancestral" if tokens else "student.transition=renoise"
        updates = 300 if state == "rigid_cloud" else 150
        return [
            "recipe=pso",
            *more,
            step,
            f"updates={updates}",
            "optim.lr=3e-4",
            "student.steps=8",
            "steps=8",
        ]
    if family == "reward by a policy gradient":
        more = [f"families.policy_gradient.rewards={REWARDS[state]}", *_alone("policy_gradient", state)]
        updates = 40 if tokens else 200
        return [
            *("recipe=flow-grpo", *more, f"updates={updates}", "optim.lr=3e-4", "student.steps=8", "steps=8")
        ]
    more = [f"families.negative_aware.rewards={REWARDS[state]}", *_alone("negative_aware", state)]
    return ["recipe=diffusion-nft", *more, "updates=200", "optim.lr=1e-3", "student.steps=8", "steps=8"]


FAMILIES = (
    *("consistency", "matching", "on_policy", "reward", "reward by a policy gradient"),
    "reward without likelihoods",
)


def families(again: bool) -> None:
    runs = {
        f"{family} / {state}": [*STATES[state], *_family(family, state)]
        for family in FAMILIES
        for state in STATES
    }
    experiment("families", runs, again)


# --- divergences ------------------------------------------------------------------------------------------------------

EIGHT = "[[2,0],[1.414,1.414],[0,2],[-1.414,1.414],[-2,0],[-1.414,-1.414],[0,-2],[1.414,-1.414]]"


def divergences(again: bool) -> None:
    common = [
        *("task=exact/gaussian_mixture", f"task.means={EIGHT}", "task.std=0.15", "task.teacher_steps=32"),
        *(
            "task.weights=[0.3,0.2,0.15,0.1,0.1,0.05,0.05,0.05]",
            "task.network={width: 64, depth: 2, ratio: 100}",
            "batch=128",
            *EARLIER,
        ),
        *(
            "fit.updates=250",
            "evaluation.samples=2048",
            "fit.lr=2e-3",
            "ema=0.98",
            "evaluation.transitions=[]",
            "recipe=f-distill",
        ),
        *("student.steps=1", "updates=200", "optim.lr=1e-3", "steps=1"),
    ]
    starved = [
        "student.network={width: 8, depth: 1}",
        "families.matching.times={_target_: omnidistill.times.Uniform, low: 0.02, high: 0.4}",
    ]
    runs = {}
    for more, name in (([], ""), (starved, ", starved")):
        for kind in ("reverse_kl", "jensen_shannon", "forward_kl"):
            runs[f"{kind}{name}"] = [*common, *more, f"families.matching.divergence={kind}"]
    experiment("divergences", runs, again)


# --- two teachers -----------------------------------------------------------------------------------------------------

CROSS = [
    *(
        "task=exact/gaussian_mixture",
        "task.conditional=true",
        "task.means=[[1.5,0],[-1.5,0],[0,1.5],[0,-1.5]]",
    ),
    *(
        "task.std=0.3",
        "task.network={width: 64, depth: 2, ratio: 100}",
        "task.teacher_steps=32",
        "batch=192",
        "fit.updates=400",
    ),
    *("fit.lr=2e-3", "ema=0.98", "evaluation.transitions=[]", "evaluation.samples=2048", *EARLIER),
]
"""Labels 0 and 1 lie on the x axis and are rewarded above it, 2 and 3 on the y axis and are rewarded right of it."""
SIDES = {"up": ("[0.0,1.0]", (0, 1)), "over": ("[1.0,0.0]", (2, 3))}


def teachers(again: bool) -> None:
    runs: Runs = {}
    for name, (direction, _) in SIDES.items():
        reward = f"{{{name}: {{_target_: omnidistill.exact.rewards.Half, direction: {direction}}}}}"
        runs[name] = [
            *CROSS, "recipe=diffusion-nft", f"families.negative_aware.rewards={reward}",
            "families.negative_aware.weights={right: 0.0}", "student.steps=16", "updates=250", "optim.lr=1e-3",
            "steps=4,32",
        ]  # fmt: skip
    runs["student"] = [
        *CROSS, "recipe=diffusionopd", "teachers.up=DIR/up", "teachers.over=DIR/over", "route.up=[0,1]",
        "updates=300", "optim.lr=2e-3", "student.steps=4", "steps=4",
    ]  # fmt: skip
    runs["plain"] = [
        *CROSS,
        "recipe=diffusionopd",
        "updates=300",
        "optim.lr=2e-3",
        "student.steps=4",
        "steps=4",
    ]
    experiment("teachers", runs, again, _two_rewards)


def _two_rewards(folder: Path, count: int = 4096) -> dict[str, Any]:
    """The mean of each reward over samples of its labels, with half the 95 % interval: of the base, of each teacher, of
    the student."""
    found: dict[str, Any] = {}
    for who, steps in (("plain", 4), ("up", 32), ("over", 32), ("student", 4)):
        model = omnidistill.load(folder / who)
        for name, (direction, labels) in SIDES.items():
            judge = Half(json.loads(direction))
            condition = torch.tensor(labels).repeat(count // 2)
            samples = model.sample(count, steps=steps, seed=1, condition=condition)
            found[f"{who}: {name}"] = _mean(judge(samples, None, Context()))
    for name in SIDES:
        base, expert, student = (found[f"{who}: {name}"]["mean"] for who in ("plain", name, "student"))
        found[f"share of the gain: {name}"] = (student - base) / (expert - base)
    return found


def _mean(values: torch.Tensor) -> dict[str, float]:
    return {
        "mean": float(values.double().mean()),
        "half": float(1.96 * values.double().std() / len(values) ** 0.5),
    }


# --- on-policy forms of text ------------------------------------------------------------------------------------------


def forms(again: bool) -> None:
    common = [
        *TEXT,
        "recipe=gkd",
        "families.on_policy.share=1.0",
        "updates=300",
        "optim.lr=1e-3",
        "steps=2,4",
    ]
    plain = "families.on_policy.beta=null"
    runs = {
        "forward": [*common, plain, "families.on_policy.divergence=forward"],
        "reverse": [*common, plain, "families.on_policy.divergence=backward"],
        "jensen_shannon": [*common, "families.on_policy.beta=0.5"],
    }
    experiment("forms", runs, again)


# --- rewards and guards -----------------------------------------------------------------------------------------------


def guards(again: bool) -> None:
    """The reward is highest at x = 4, where the mixture has nothing."""
    near = f"{{near: {{_target_: omnidistill.exact.rewards.Nearest, points: {RING}}}}}"
    common = [
        *MIXTURE, "families.reward.rewards.right.point=[4.0]", f"families.reward.watched={near}", "log.every=10",
        "optim.lr=1e-3",
    ]  # fmt: skip
    beside = [
        *common, "recipe=dmd2-reward", "student.steps=1", "steps=1", "objective.regression=1",
        "families.regression.pairs=4096", "families.matching.critic_updates=3", "updates=600",
    ]  # fmt: skip
    alone = [*common, "recipe=r0", "steps=4", "updates=200"]
    runs = {
        "beside dmd2": [*beside, "objective.reward=0.02"],
        "alone, anchored": [*alone, "families.reward.anchor=100"],
        "alone": [*alone, "families.reward.anchor=0"],
    }
    experiment("guards", runs, again)


# --- a stage of feedback after segments -------------------------------------------------------------------------------


def feedback(again: bool) -> None:
    """Hyper-SD's later stage, which its recipe leaves without a weight, beside the same run without it."""
    common = [
        *MIXTURE, "recipe=hyper-sd", "updates=500", "optim.lr=2e-3", "optim.hold=0.8", "steps=1,2,4",
        "families.segments.ends.segments=4", "families.segments.jumps.nodes=16",
        "families.reward.rewards={right: {_target_: omnidistill.exact.rewards.Towards, point: [4.0]}}",
    ]  # fmt: skip
    runs = {
        "without": [*common, "objective.reward=1e-9"],
        "with": [*common, "objective.reward=0.002"],
        "too much": [*common, "objective.reward=0.02"],
    }
    experiment("feedback", runs, again)


# --- runs that go wrong on purpose ------------------------------------------------------------------------------------


def health(again: bool) -> None:
    common = [
        *MIXTURE,
        "steps=1",
        "log.every=8",
        "log.lag=0",
        "optim.decay=constant",
        "recipe=diff-instruct",
        "student.sigma_init=null",
    ]
    one = [
        *(
            "task=exact/gaussian_mixture",
            "task.means=[[0,0]]",
            "task.std=1.0",
            "task.network={width: 16, depth: 1, ratio: 100}",
        ),
        *(
            "batch=64",
            "ema=0.999",
            "optim.hold=0.5",
            "student.sigma_init=null",
            "fit.updates=60",
            "fit.lr=1e-2",
            "task.teacher_steps=8",
            "evaluation.transitions=[]",
            "steps=1",
        ),
        *("recipe=diff-instruct", "families.matching.normaliser=none", "families.matching.critic_updates=1"),
        *(
            "updates=100",
            "optim.lr=5e-2",
            "optim.decay=constant",
            "optim.warmup=0",
            "log.every=4",
            "log.lag=0",
        ),
    ]
    runs = {
        "collapse": [*common, "families.matching.critic=none", "updates=120", "optim.lr=2e-3"],
        "oscillation": one,
    }
    experiment("health", runs, again)


# --- a reward beside distribution matching, on real data --------------------------------------------------------------


REAL = ["recipe=dmd2-reward", "evaluation.transitions=[]", "log.lag=0"]


def beside(name: str, task: Sequence[str], key: str, weight: float, again: bool, *free: str) -> None:
    """A run with a reward beside DMD2's terms; one in which it has next to no weight, so that both are measured by it;
    and one by the reward alone, without those terms and, by `free`, without its cap."""
    runs = {
        "with": [f"objective.{key}={weight}"],
        "without": [f"objective.{key}=1e-9"],
        "alone": [f"objective.{key}={weight}", "objective.matching=0", "objective.adversarial=0", *free],
    }
    experiment(name, {run: [*REAL, *task, *given] for run, given in runs.items()}, again)


def image(again: bool) -> None:
    task = ["task=image/fashion_mnist", "evaluation.samples=500", "steps=1", "updates=80", "optim.warmup=10"]
    beside("image", task, "reward", 0.05, again, "families.reward.caps.label=1.0")


def enhancement(again: bool) -> None:
    task = [
        *(
            "task=speech/enhancement",
            "steps=1",
            "updates=200",
            "batch=8",
            "families.matching.critic_updates=2",
        ),
        *("evaluation.samples=12", "evaluation.batch=12", "task.teacher_steps=8"),
    ]
    beside("enhancement", task, "reward", 0.03, again)


def text(again: bool) -> None:
    task = [
        *("task=text/brown", "steps=4", "student.steps=4", "updates=60", "ema=0.95"),
        *("families.matching.critic_updates=1", "evaluation.samples=256"),
    ]
    beside("text", task, "policy_gradient", 0.02, again)


EXPERIMENTS: Mapping[str, Callable[[bool], None]] = {
    "families": families,
    "divergences": divergences,
    "teachers": teachers,
    "forms": forms,
    "guards": guards,
    "feedback": feedback,
    "health": health,
    "image": image,
    "enhancement": enhancement,
    "text": text,
}
