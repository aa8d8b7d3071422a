"""A teacher of the user's own, from Python: any `nn.Module`, any tensors, no configuration file."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Condition
from omnidistill.data import tensors
from omnidistill.data.own_rows import Source, drawn, kept_apart
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.student import Student
from omnidistill.tasks import Metric, Task
from omnidistill.training.frozen import twin

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from omnidistill.evaluation.given import Metrics


class OwnTask(Task):
    """What a recipe has to know about somebody's teacher: its network, its path, samples and conditions.

    Args:
        teacher: the network and how to read it.
        shape: of one sample.
        source: draws a batch.
        null: the label that means "no condition", or a function that empties conditions.
        student: a network of the student's own, where it is no copy of the teacher's.
    """

    name = "own"
    primary = Metric("none")

    def __init__(
        self,
        teacher: NetworkDenoiser,
        shape: tuple[int, ...],
        source: Source,
        null: Null | None,
        student: nn.Module | None = None,
    ) -> None:
        self.student = student
        self.origin, self.path, self.shape, self.source = teacher, teacher.path, shape, source
        self.null = null  # type: ignore[assignment]  # a task's own is always a label
        self.dtype = torch.long if "categorical" in teacher.path.offers else torch.float32
        self.conditional = self.batch(1, torch.Generator().manual_seed(0)).context.condition is not None

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        return tensors.batch(self.source(count, g), self.path)

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        """A copy of the teacher's; with embeddings of the second time and the guidance scale where it has none."""
        network = twin(self.origin.network)
        return with_second(
            network, target_time=target_time, guidance=guidance, time_module=self.origin.time_module
        )

    def student_network(self) -> nn.Module | None:
        return self.student

    def reading(self) -> Mapping[str, Any]:
        return self.origin.reading()


def distill(
    teacher: NetworkDenoiser,
    recipe: str = "dmd2",
    *,
    data: Any = None,
    shape: tuple[int, ...] | None = None,
    condition: Condition = None,
    null: Null | None = None,
    time_module: str | None = None,
    student: nn.Module | None = None,
    steps: int | None = None,
    out: str | FilePath | None = None,
    held_out: Any = None,
    metrics: Metrics | None = None,
    primary: Metric | str | None = None,
    judged: Sequence[int] | None = None,
    teacher_steps: int = 64,
    options: tuple[str, ...] | list[str] = (),
    **keys: Any,
) -> Student:
    """Distils a teacher of your own and returns the student.

    Started in several processes (`torchrun --nproc-per-node N your_script.py`) it trains on all of them, and each
    returns the student; the first one alone writes and judges.

    Args:
        teacher: your network, its path and its parameterisation. A copy is worked with; yours stays as it is. What
            you froze in it (`requires_grad_(False)` on a part) stays frozen in student and critics.
        recipe: a name that `omnidistill recipes` lists.
        data: clean samples, Float[n ...] or Long[n l], scaled as the teacher was trained, a tensor or an array; or a
            function `(count, generator) -> Batch`; None for recipes that need no data.
        shape: of one sample; needed where there is no data tensor.
        condition: conditions to draw from, a tensor or a mapping of tensors; one for each row of `data`, or any
            number without data.
        null: the label that means "no condition", or a function that empties conditions, for guidance.
        time_module: the submodule of the network that embeds the time, for recipes that tell the student a second time
            or a guidance scale (`lcm`); the teacher's own `time_module` if not given.
        student: a module to be trained in place of a copy of the teacher: parameters and a way to render them, called
            as `student(x, t, condition)`, which answers with a sample. It is copied; yours stays as it is.
        steps: sampler steps that the student is trained for, `student.steps`; the recipe's if not given. (On the
            command line `steps=1,2,4` are the step counts that are evaluated, which is `judged` here.)
        out: a folder to keep the student in, with checkpoints, logs, metrics.json, samples and report.html; nothing is
            kept nor judged if not given.
        held_out: rows that training never sees and student and teacher are judged by: samples like `data`, or a
            `Batch` of them with their conditions; or how many rows of `data` to keep apart, 0 for none. Where there is
            `out` and something to judge, an eighth of `data` if not given, drawn by the seed.
        metrics: a function `(samples, context, rows) -> {name: number}` on the CPU, where row i was held out under the
            condition that sample i was made under (None without such rows). Beside it, and without it, stands the
            energy distance to the rows, with its interval, where samples are real numbers.
        primary: the metric that gaps are computed from: its name if lower is better, else `Metric(name, "higher")`;
            the energy distance if not given.
        judged: step counts at which both are judged, beside the student's own; 1, 2 and 4 if not given; () for none.
        teacher_steps: the teacher's full number of steps, at which it is judged as well.
        options: further overrides in the command line's grammar, e.g. `["families.matching.critic_updates=3"]`.
        keys: keys that every recipe understands: updates, batch, seed, precision, device, resume.

    Example:
        >>> teacher = NetworkDenoiser(net, rectified_flow(), "flow")
        >>> student = omnidistill.distill(teacher, "dmd2", data=images, updates=1000, batch=64)
        >>> student.sample(16, steps=1)
    """
    from omnidistill.configuration.compose import compose
    from omnidistill.configuration.overrides import quoted
    from omnidistill.runs.distil import keep_teacher, train_student
    from omnidistill.runs.setup import device_of
    from omnidistill.student import save
    from omnidistill.training.ranks import announced, joined

    if not isinstance(teacher, NetworkDenoiser):
        raise UserError(
            f"a teacher is NetworkDenoiser(network, path, parameterisation), got {type(teacher).__name__}; wrap it"
        )
    if data is not None and not callable(data):
        data = tensors.states(tensors.tensor(data, "data"), teacher.path)
        if condition is not None and tensors.rows(condition) != len(data):
            raise UserError(
                f"condition has {tensors.rows(condition)} rows and data {len(data)}; give one for each sample"
            )
        shape = tuple(data.shape[1:])
    if shape is None:
        raise UserError("without a data tensor the shape of one sample is needed, e.g. shape=(1, 28, 28)")
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"steps is the number of sampler steps of the student, at least 1; got {steps!r}")
        options = [f"student.steps={steps}", *options]
    judging = out is not None and (judged is None or len(judged) > 0)
    if held_out is None and keys.get("resume") and not (FilePath(out or "") / "config.yaml").is_file():
        held_out = 0  # a run of before there was a judge has been trained on all of its data
    seed = int(keys.get("seed", 0))
    data, condition, kept = kept_apart(data, condition, held_out if judging else 0, teacher.path, seed)
    if judging and judged is not None:
        options = [f"steps=[{','.join(map(str, judged))}]", *options]
    if kept is not None:
        options = [f"evaluation.samples={max(2, min(1024, kept.count))}", *options]
    count = len(data) if isinstance(data, Tensor) else 1 if condition is None else tensors.rows(condition)
    source = data if callable(data) else drawn(data, condition, count)
    with TemporaryDirectory() as temporary, ExitStack() as processes:
        folder = FilePath(temporary if out is None else out)
        folder.mkdir(parents=True, exist_ok=True)
        given = [f"{key}={value}" for key, value in keys.items()]
        cfg = compose(
            "config", ["task=own", f"recipe={recipe}", f"out={quoted(str(folder))}", *given, *options]
        )
        ranks = processes.enter_context(joined(cfg.strategy, str(cfg.device)))
        device = device_of(cfg)
        teacher = copy.deepcopy(teacher).to(device)
        tensors.single(teacher.network)
        if time_module is not None:
            teacher.time_module = time_module
        task = OwnTask(teacher, shape, source, null, copy.deepcopy(student))
        judge = _judge(task, kept, metrics, primary, teacher_steps) if judging else None
        with announced(ranks):
            if out is not None and ranks.main:
                _ours(cfg, folder)
        student, description, module = train_student(cfg, task, teacher, folder, device, everywhere=True)
        if out is not None and ranks.main:
            made = {**description.made_by, "shape": list(shape)}
            made |= {} if teacher.source is None else {"teacher": teacher.source}
            named = replace(description, task=None, made_by=made, foreign=teacher.named)
            save(student, named, folder)
            keep_teacher(cfg, task, teacher, student, folder, own=True)
        if judge is not None and ranks.main:
            judge(cfg, teacher, student, module, folder)
    return Student(
        student, description.sampler(), description.steps, task, shape, task.dtype, description.translates
    )


def _ours(cfg: DictConfig, folder: FilePath) -> None:
    """Writes the configuration; a run that is gone on with must be the same one."""
    from omnidistill.configuration.compose import check_resumable, save_config

    if cfg.resume and (folder / "config.yaml").is_file():
        check_resumable(cfg, folder)
    save_config(cfg, folder)


def _judge(
    task: OwnTask,
    kept: Batch | None,
    metrics: Metrics | None,
    primary: Metric | str | None,
    teacher_steps: int,
) -> Callable[[DictConfig, Denoiser, Denoiser, Any, FilePath], None] | None:
    """What judges student and teacher when they are there, None, with a line on stderr, where nothing can."""
    from omnidistill.evaluation.given import Judged

    if metrics is None and (kept is None or not task.dtype.is_floating_point):
        lacks = (
            "rows to compare with (held_out=)" if task.dtype.is_floating_point else "a function (metrics=)"
        )
        print(f"not judged, so that there is no report: that needs {lacks}", file=sys.stderr)
        return None
    judged = Judged(task, kept, metrics, primary, teacher_steps)

    def judge(cfg: DictConfig, teacher: Denoiser, student: Denoiser, module: Any, out: FilePath) -> None:
        from omnidistill.runs import evaluate
        from omnidistill.runs.distil import training_record
        from omnidistill.runs.setup import guided

        cfg.steps = sorted({*cfg.steps, cfg.student.steps})
        given = guided(teacher, task, cfg.guidance)
        evaluate.judge(cfg, judged, given, student, training_record(module), out)

    return judge
