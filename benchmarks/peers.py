"""Time of a DMD2 update here and in a peer's library: the same network, batch, updates and optimiser, turn by turn.

    python benchmarks/peers.py --fastgen FOLDER [--rounds 12] [--threads 1] [--out FILE]

FOLDER holds a checkout of NVIDIA's FastGen (github.com/NVlabs/FastGen), whose package `fastgen` is imported from there;
nothing of it is part of this project. Its step needs attrs, omegaconf and loguru; what only its loggers, loaders and
other networks import is left empty where it is not installed (`UNUSED`).

Both distil the U-Net of `image/fashion_mnist_pixels` (rectified flow, output read as a velocity) with two critic
updates to each of the student, gradient clipping, AdamW (foreach) and a moving average. Three cases:

- `matching`: distribution matching alone. The same method in both.
- `head on the teacher`: with a discriminator, a head of the same size in both, on features of the frozen teacher. That
  is what the peer's DMD2 does: its critic update trains no network through the discriminator.
- `head on the critic`: the discriminator of the paper (Yin et al. 2024, sec. 4.3), which trains the critic's trunk as
  well, and is this project's `dmd2`; beside the peer's of the case above. More work: the critic goes forwards and
  backwards over twice the samples.

`speed` is the peer's time over ours, the median over pairs, so above 1 ours is the faster.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.configuration.compose import build, compose
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.evaluation.environment import environment
from omnidistill.objectives import Adversarial, Losses, Matching, Weighted
from omnidistill.objectives.base import RoleSpec, StudentSpec
from omnidistill.objectives.heads import Head
from omnidistill.objectives.step import Step
from omnidistill.samplers import FewStep
from omnidistill.times import Uniform
from omnidistill.training.loop import Batches
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Optim, Settings

TASK, CRITIC_UPDATES, WIDTH, WEIGHT = "image/fashion_mnist_pixels", 2, 128, 1e-2
LOW, HIGH = 0.02, 0.98
UNUSED = (
    "wandb",
    "torchvision",
    "boto3",
    "botocore",
    "webdataset",
    "ftfy",
    "imageio",
    "av",
    "cv2",
    "timm",
    "pandas",
    "psutil",
    "pynvml",
)
CASES = ("matching", "head on the teacher", "head on the critic")


class Empty:
    """Finds the modules of `UNUSED` that are not installed, and gives them whatever they are asked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in UNUSED else None

    def create_module(self, spec: ModuleSpec) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: Any) -> None:
        return None


class Peer:
    """FastGen's `DMD2Model`, driven as its trainer does: step, backward, clip, optimisers, average."""

    def __init__(self, folder: Path, network: nn.Module, batch: int, shape: list[int], head: bool) -> None:
        load = importlib.import_module
        for name in ("diffusers", "transformers"):  # they look around once for what is installed
            load(name)
        sys.path.insert(0, str(folder))
        sys.meta_path.append(Empty())  # asked last
        config = load("fastgen.configs.methods.config_dmd2").ModelConfig()
        base, call = load("fastgen.networks.network").FastGenNetwork, load("fastgen.utils").LazyCall
        load("loguru").logger.remove()

        class Wrapped(base):  # type: ignore[misc, valid-type]
            """The same network, as the peer asks it."""

            def __init__(self) -> None:
                super().__init__(net_pred_type="flow", schedule_type="rf")
                self.inner, self.layer = copy.deepcopy(network), [network.feature_module]

            def forward(self, x_t, t, condition=None, r=None, return_features_early=False,
                        feature_indices=None, return_logvar=False, fwd_pred_type=None, **other):  # type: ignore[no-untyped-def]  # fmt: skip
                if not feature_indices:
                    out, found = self.inner(x_t, t.to(x_t.dtype), condition), {}
                else:
                    answered = 0 if return_features_early else len(x_t)
                    out, found = self.inner(
                        x_t, t.to(x_t.dtype), condition, features=self.layer, answered=answered
                    )
                if return_features_early:
                    return list(found.values())
                wanted = fwd_pred_type or self.net_pred_type
                out = self.noise_scheduler.convert_model_output(x_t, out, t, "flow", wanted)
                return [out, list(found.values())] if found else out

        class Judge(nn.Module):
            feature_indices = frozenset({0})

            def __init__(self) -> None:
                super().__init__()
                self.head = Head(int(network.feature_channels), WIDTH)  # type: ignore[arg-type]

            def forward(self, found: list[Tensor]) -> Tensor:
                return self.head(found[0].flatten(2).mean(-1)).unsqueeze(1)

        config.net, config.discriminator = call(Wrapped)(), call(Judge)()
        for optimizer in (config.net_optimizer, config.fake_score_optimizer, config.discriminator_optimizer):
            optimizer.update({"lr": 1e-5, "weight_decay": 0.0, "betas": (0.9, 0.99), "foreach": True})
        config.input_shape, config.device, config.use_ema = shape, "cpu", True
        config.student_update_freq = CRITIC_UPDATES + 1
        config.gan_loss_weight_gen = WEIGHT if head else 0.0
        config.sample_t_cfg.time_dist_type, config.sample_t_cfg.min_t = "uniform", LOW
        config.sample_t_cfg.max_t = HIGH
        self.model = load("fastgen.methods").DMD2Model(config)
        self.model.on_train_begin()
        self.model.init_optimizers()
        self.average = load("fastgen.callbacks.ema").EMACallback(beta=0.999)
        self.average.on_model_init_end(self.model)
        self.turn = 0

    def update(self, batches: list[Any]) -> None:
        """The critic's turns, then the student's: its count of iterations starts with the student's."""
        for batch in batches:
            self.turn += 1
            data = {"real": batch.x0, "condition": batch.context.condition, "neg_condition": None}
            losses, _ = self.model.single_train_step(data, self.turn)
            losses["total_loss"].backward()
            for optimizer in self.model.get_optimizers(self.turn):
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0, foreach=True)
            self.model.optimizers_schedulers_step(self.turn)
            self.model.optimizers_zero_grad(self.turn)
        self.average.on_training_step_end(self.model, {}, {}, {}, self.turn)


class OnTeacher:
    """The peer's discriminator: a head on the frozen teacher's features, trained in the critic's role."""

    needs, bank, rolls_out = frozenset({"data"}), None, True

    def __init__(self, times: Uniform) -> None:
        def head(denoiser: Denoiser) -> nn.Module:
            return Head(denoiser.feature_channels(), WIDTH)

        self.times, self.roles = times, {"fake_score": RoleSpec(modules={"discriminator": head})}

    def losses(self, role: str, step: Step) -> Losses:
        teacher, head = step["teacher"], step["discriminator"]
        fake = head(teacher.features(*step.noised(self.times), step.context))
        if role == "student":
            return Losses({"adversarial": F.softplus(-fake).mean()})
        t = self.times(len(step.x0), step.path, step.g)
        with torch.no_grad():
            real = teacher.features(step.path.corrupt(step.x0, t, g=step.g), t, step.context)
        return Losses({"discriminator": (F.softplus(fake) + F.softplus(-head(real))).mean()})

    def cost(self, role: str) -> dict[str, int]:
        return {"student": 1, "teacher": 1 if role == "student" else 2}


def ours(network: nn.Module, task: Any, batch: int, case: str) -> Distillation:
    """The engine on the same network, with the objective of this case."""
    times = Uniform(LOW, HIGH)
    matching = Matching(times=times, critic_times=times, critic_updates=CRITIC_UPDATES)
    parts: dict[str, Any] = {"matching": matching}
    if case != CASES[0]:
        parts["adversarial"] = OnTeacher(times) if case == CASES[1] else Adversarial(critic_weight=WEIGHT)
    objective = Weighted(parts, {"matching": 1.0, **({} if len(parts) == 1 else {"adversarial": WEIGHT})})
    teacher, student = (NetworkDenoiser(copy.deepcopy(network), task.path, "flow") for _ in range(2))
    settings = Settings(updates=10**6, batch=batch, seed=0, optim=Optim(lr=1e-5, betas=(0.9, 0.99), clip=1.0))
    return Distillation(
        cast(student, teacher, objective, 0.999), teacher, objective, settings, task.like,
        student=StudentSpec(sampler=FewStep()), null=task.null,
    )  # fmt: skip


def compared(case: str, folder: Path, rounds: int, batch: int) -> dict[str, Any]:
    """Milliseconds of both, which take turns, their order changing each time."""
    task = build(compose("config", [f"task={TASK}", "recipe=dmd2", "out=unused"]).task)
    torch.manual_seed(0)
    network = task.network()
    with torch.no_grad():  # a new network answers zero; a zero layer is no network's usual state
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    peer = Peer(folder, network, batch, list(task.shape), case != CASES[0])
    engine = ours(network, task, batch, case)
    batches = Batches(task, len(engine.cast.turns), batch, 0, 0, rounds + 3)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for index in range(rounds + 3):
        drawn = batches[index]
        pair: list[tuple[str, Callable[[], None]]] = [
            ("ours", lambda i=index, b=drawn: engine.training_step(b, i)),  # type: ignore[misc]
            ("peer", lambda b=drawn: peer.update(b)),  # type: ignore[misc]
        ]
        for name, update in pair if index % 2 else pair[::-1]:
            began, worked = time.perf_counter(), time.process_time()
            update()
            found[name].append((time.perf_counter() - began, time.process_time() - worked))
    wall, cpu = ({name: [value[i] for value in values[3:]] for name, values in found.items()} for i in (0, 1))
    return {
        "speed": round(statistics.median(p / o for o, p in zip(*wall.values(), strict=True)), 4),
        "speed_of_processor_time": round(
            statistics.median(p / o for o, p in zip(*cpu.values(), strict=True)), 4
        ),
        **{f"{name}_ms": round(1000 * statistics.median(values), 3) for name, values in wall.items()},
        "rounds": rounds,
        "batch": batch,
    }


def version_of(folder: Path) -> str:
    """The commit of a checkout; `unknown` where the folder is none."""
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fastgen", type=Path, required=True, help="a folder with the package fastgen in it")
    parser.add_argument("--version", default="", help="its commit, where the folder does not say")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    args = parser.parse_args()
    if not (args.fastgen / "fastgen" / "__init__.py").is_file():
        parser.error(f"no package fastgen in {args.fastgen}; clone github.com/NVlabs/FastGen there")
    torch.set_num_threads(args.threads)
    cases = {}
    for case in CASES:
        if args.only in case:
            cases[case] = compared(case, args.fastgen, args.rounds, args.batch)
            print(f"{case:24}", cases[case], flush=True)
    peer = {"name": "FastGen", "version": args.version or version_of(args.fastgen)}
    document = {"schema": 1, "peer": peer, "task": TASK, "critic_updates": CRITIC_UPDATES, "seed": 0,
                "cases": cases, "environment": environment()}  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
