"""demo, train, distill: compose a configuration, make the folder, run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnidistill.commands import Arguments, Command
from omnidistill.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = {
    "out=DIR": "folder that the command makes",
    "updates=N": "optimiser updates",
    "batch=N": "samples an update",
    "seed=S": "same seed, same machine, same numbers",
    "device=D": "auto, cpu or cuda",
    "precision=P": "fp32 or bf16",
    "strategy=S": "of several processes, started by torchrun: ddp (each holds every network) or fsdp (a share of each)",
    "resume=true": "go on in the same out; the result equals a run never stopped",
    "configs=DIR": "a folder of your own task/, recipe/ and tuning/ files",
}

DISTIL_KEYS = {
    "task=T": "what is generated: a name of `omnidistill tasks`",
    "recipe=R": "how it is distilled: a name of `omnidistill recipes`",
    "teacher=PATH": "a trained teacher, or hub:ORGANISATION/NAME; by default the task's; MODALITY/own is read off it",
    "teachers.NAME=PATH": "several teachers, each for the labels in route.NAME=[...], or one a turn by route=drawn",
    "network=M:C": "the class of your own network, whose weights teacher=FILE.safetensors holds",
    "metrics=M:F": "a function of your own, (samples, context, rows) -> {name: number}, beside the task's metrics",
    "primary=NAME": "the metric that gaps are counted from; NAME:higher where more is better",
    "pairs=DIR": "trajectories that `omnidistill pairs` made; by default they are made before training",
    "tuned=false": "the recipe as its file says, without what tuning/ says of it on the task",
    "teacher_check=false": "takes a teacher even if it does not denoise the data",
    "steps=1,2,4": "step counts to evaluate",
    **KEYS,
    "accumulate=N": "parts in which a batch is worked off: less memory, the same numbers",
    "recompute=true": "blocks are computed again in the backward pass: less memory, the same numbers",
    "teacher_on_cpu=true": "with strategy=fsdp: the teacher lies in the CPU's memory between its calls",
    "evaluation.samples=N": "samples a metric is computed from",
    "student.steps=N": "sampler steps that the student is trained for; `steps` only says at which it is judged",
    "student.transition=T": "how it goes from step to step: renoise, ode or ancestral",
    "student.guidance=S": "the scale it is told when sampled, if it is trained for a range; null: none",
    "guidance=S": "scale under which the teacher is sampled, and imitated; 1: none",
    "objective.F=W": "weight of an objective family, e.g. objective.adversarial=0.1",
    "families.F.X=V": "an option of it, e.g. families.matching.critic_updates=2",
    "task.X=V": "an option of the task, e.g. task.std=0.2",
}


def distill(arguments: Arguments) -> None:
    """`omnidistill distill`."""
    _distill(arguments.overrides)


def demo(arguments: Arguments) -> None:
    """`omnidistill demo`: `distill` with the overrides of `configs/demo.yaml`, to which one's own are added; may be run
    again in the same folder."""
    from importlib import resources

    import yaml

    text = resources.files("omnidistill.configs").joinpath("demo.yaml").read_text(encoding="utf-8")
    _distill([*map(str, yaml.safe_load(text)["overrides"]), *arguments.overrides], again=True)


def pairs(arguments: Arguments) -> None:
    """`omnidistill pairs`: the trajectories of the teacher that a recipe wants, into a folder."""
    from omnidistill.configuration import compose as config

    cfg = config.compose("config", arguments.overrides)
    with _made(cfg, "pairs", arguments.overrides, alone=True):
        from omnidistill.runs import pairs as trajectories

        folder = trajectories.make(cfg)
    print(f"trajectories: {folder}")


def cache(arguments: Arguments) -> None:
    """`omnidistill cache`: a task's data through an encoder, into a folder."""
    from omnidistill.configuration import compose as config

    cfg = config.compose("cache", arguments.overrides)
    with _made(cfg, "cache", arguments.overrides, alone=True):
        from omnidistill.runs import cache as encoded

        folder = encoded.make(cfg)
    print(f"cache: {folder}")


def train(arguments: Arguments) -> None:
    """`omnidistill train`."""
    from omnidistill.configuration import compose as config

    cfg = config.compose("train", arguments.overrides)
    with _made(cfg, "train", arguments.overrides) as first:
        from omnidistill.runs import train as teachers

        folder = teachers.train(cfg)
    if first:
        print(f"teacher: {folder / 'teacher.safetensors'}")


def _distill(overrides: Sequence[str], *, again: bool = False) -> None:
    from omnidistill.configuration import compose as config

    cfg = config.compose("config", overrides)
    with _made(cfg, "distill", overrides, again=again) as first:
        from omnidistill.runs import distil

        folder = distil.distill(cfg)
    if first:
        print(f"report: {folder / 'report.html'}")


@contextlib.contextmanager
def _made(
    cfg: DictConfig, command: str, overrides: Sequence[str], *, again: bool = False, alone: bool = False
) -> Iterator[bool]:
    """Around a run: its folder, which no other process uses meanwhile, with the command in it for the report page.

    Yields whether this is the run's first process, which alone writes and speaks.
    """
    from omnidistill.configuration import listing

    if cfg.task.get("name") == listing.OWN:
        raise UserError("task=own is a teacher that is given from Python: omnidistill.distill(teacher, ...)")
    if cfg.get("teacher") and not Path(cfg.teacher).exists():
        raise UserError(
            f"teacher={cfg.teacher} does not exist; give the folder that `omnidistill train` made"
        )
    for name, place in (cfg.get("teachers") or {}).items():
        if not Path(str(place)).exists():
            raise UserError(
                f"teachers.{name}={place} does not exist; give the folder that `omnidistill train` made"
            )
    if cfg.get("pairs") and not Path(cfg.pairs).is_dir():
        raise UserError(f"pairs={cfg.pairs} is no folder; give the one that `omnidistill pairs` made")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if alone and several:
        raise UserError(f"{command} is one process's work; start it without torchrun")
    line = ["omnidistill", command, *overrides]
    if not several and cfg.strategy == "auto":  # before torch, which takes seconds to import
        with _folder(cfg, line, again):
            yield True
        return
    from omnidistill.training.ranks import announced, joined

    with joined(cfg.strategy, cfg.device) as ranks, contextlib.ExitStack() as stack:
        with announced(ranks):  # one process has the folder, for all of them
            if ranks.main:
                stack.enter_context(_folder(cfg, line, again))
        yield ranks.main


@contextlib.contextmanager
def _folder(cfg: DictConfig, line: Sequence[str], again: bool) -> Iterator[None]:
    import shlex

    from omnidistill.configuration import compose as config
    from omnidistill.data.files import write_text
    from omnidistill.runs import folders

    with folders.opened(cfg.out, resume=cfg.resume, again=again) as folder:
        if cfg.resume and (folder / "config.yaml").exists():
            config.check_resumable(cfg, folder)
        write_text(shlex.join(line) + "\n", folder / "logs" / "command.txt")
        yield


COMMANDS = (
    Command(
        "demo",
        "[out=DIR] [key=value ...]",
        "distils the shipped teacher of small pictures in about two minutes",
        demo,
        "omnidistill demo out=runs/demo",
        DISTIL_KEYS,
        "Runs `distill` with the overrides of configs/demo.yaml, then yours. A former demo in DIR is replaced.",
    ),
    Command(
        "train",
        "task=T out=DIR [key=value ...]",
        "trains a teacher",
        train,
        "omnidistill train task=image/digits updates=500 out=runs/teacher",
        {"task=T": DISTIL_KEYS["task=T"], **KEYS},
    ),
    Command(
        "pairs",
        "task=T recipe=R [teacher=PATH] out=DIR [key=value ...]",
        "the teacher's trajectories that a recipe regresses on, kept for many runs",
        pairs,
        "omnidistill pairs task=exact/gaussian_mixture recipe=rectified-flow out=runs/pairs",
        {
            **{key: DISTIL_KEYS[key] for key in ("task=T", "recipe=R", "teacher=PATH")},
            **{key: KEYS[key] for key in ("out=DIR", "seed=S", "device=D", "configs=DIR")},
            "resume=true": "go on in the same out with what is not there yet",
            "guidance=S": DISTIL_KEYS["guidance=S"],
            "families.F.pairs=N": "how many, as the recipe's options say; families.F.steps=N sampler steps each",
        },
        "Then `omnidistill distill pairs=DIR ...`, which asks for the same task, teacher, sampler, steps and guidance.",
    ),
    Command(
        "cache",
        "task=T [encoder=DIR|M:F] out=DIR [key=value ...]",
        "data through an encoder, latents or embeddings, kept for many runs",
        cache,
        "omnidistill cache task=image/digits encoder=my_package.codec:encode out=runs/latents",
        {
            "task=T": "whose data; task=MODALITY/own task.folder=DIR for your own",
            "encoder=DIR": "a folder that the modality reads (an autoencoder of diffusers)",
            "encoder=M:F": "a function of yours, (samples, context) -> samples, or a Batch with their context",
            "rows=N": "how many; needed where a task draws its data rather than counting them",
            **{key: KEYS[key] for key in ("out=DIR", "seed=S", "device=D", "configs=DIR")},
            "resume=true": "go on in the same out with what is not there yet",
        },
        "Then `task.folder=DIR` of an own task, or `omnidistill.Cache(DIR)` as data in Python.",
    ),
    Command(
        "distill",
        "task=T recipe=R [teacher=PATH] out=DIR [key=value ...]",
        "teacher to few-step student, both evaluated, with a report page",
        distill,
        "omnidistill distill task=exact/gaussian_mixture recipe=dmd2 steps=1,2 out=runs/first",
        DISTIL_KEYS,
        "Writes config.yaml, metrics.json, report.html, student.safetensors and .json, samples/, checkpoints/, logs/.",
    ),
)
