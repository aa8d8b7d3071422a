"""What a run leaves behind: a few-step student that samples, saved as safetensors beside a small JSON file.

`NAME.safetensors` holds the weights and `NAME.json` how to rebuild the network around them: the task's own
configuration (allow-listed `_target_`s and plain values), how to read the output, how to sample. Loading runs no
code but the project's, or that of an installed plug-in.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from omnidistill.configuration import received, student_file
from omnidistill.context import Condition, Context, labels_of, relabelled
from omnidistill.data.files import write_text
from omnidistill.data.tensors import single
from omnidistill.denoisers import Denoiser, NetworkDenoiser, PolicyDenoiser, Told, Windowed
from omnidistill.denoisers.experts import Experts
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.heads import Heads
from omnidistill.denoisers.policies import checked, widened
from omnidistill.denoisers.second import with_second
from omnidistill.errors import RunError, UserError, unknown
from omnidistill.paths import Path
from omnidistill.random import PerSample, generator
from omnidistill.samplers import FewStep
from omnidistill.samplers.inversion import invert, regenerate
from omnidistill.samplers.walker import Walker, innermost, walkers
from omnidistill.tasks import Task
from omnidistill.training import adapters
from omnidistill.training.memory import check_bytes, check_network
from omnidistill.training.safetensors_file import load_strictly, read_safetensors, write_safetensors

SCHEMA = 1
BASE = "base.safetensors"
LEARNED = "inference/"
"""What stands before the names of walkers' tensors; a slash is in no name of a network's."""


@dataclass(frozen=True)
class Recipe:
    """Everything about a saved denoiser but its weights; the content of `NAME.json`.

    Attributes:
        task: the resolved configuration of the task, or None for a model made without one.
        reading: keywords of `NetworkDenoiser`.
        target_time, guided: whether the network has the second embeddings.
        transition, times, shift, gamma, block: of the few-step sampler.
        steps: the step count the student was trained for.
        random_tokens: share of random tokens in its initial state, None for the path's own prior.
        guidance: the scale it is told when sampling, None where it was not trained for a range.
        made_by: recipe, seed, versions: for people.
        adapter: rank, alpha and targets where the file holds adapters alone, and which `base` they lie over
            (`shipped`: with the task's teacher; else a file beside it); None for whole weights.
        inference: walkers by name (`samplers.walker`), the innermost first, each with its `_target_` and options; what
            they have learned is in the weights' file. None for a student that is sampled plainly.
        own_network: whether the network is the task's `student_network` rather than one like the teacher's.
    """

    task: Mapping[str, Any] | None
    reading: Mapping[str, Any]
    target_time: bool = False
    guided: bool = False
    transition: str = "renoise"
    times: Sequence[float] | None = None
    shift: float = 1.0
    gamma: float | None = None
    steps: int = 1
    random_tokens: float | None = None
    guidance: float | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] | None = None
    block: int | None = None
    inference: Mapping[str, Any] | None = None
    foreign: Mapping[str, Any] | None = None
    own_network: bool = False

    def sampler(self) -> FewStep:
        return FewStep(self.transition, self.times, self.shift, self.gamma, self.block)


@dataclass
class Student:
    """A denoiser and the sampler it was trained for."""

    denoiser: Denoiser
    sampler: FewStep
    steps: int = 1
    task: Task | None = None
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def sample(
        self,
        count: int,
        steps: int | None = None,
        seed: int = 0,
        condition: Condition | int | str = None,
        *,
        context: Context | None = None,
        batch: int = 256,
    ) -> Shaped[Tensor, "{count} ..."]:
        """`count` clean samples, real numbers or tokens.

        Args:
            steps: sampler steps; the number it was trained for if not given.
            condition: one label for all samples, by its number or its name, or a label (or other condition) for each;
                drawn if not given.
            context: the whole context instead, e.g. with anchors and masks; overrides `condition`.
            batch: samples a network call. A sample depends on the seed, its place and its context alone. Contexts that
                are not given the task draws in order, so the first of six is the first of one, whatever the batch.
        """
        steps = self.steps if steps is None else steps
        if count < 1:
            raise UserError(f"count must be >= 1, got {count}")
        if batch < 1:
            raise UserError(f"batch must be >= 1, got {batch}")
        check_bytes(4 * count * math.prod(self.shape), f"{count} samples", "ask for fewer")
        context = self.context(count, seed, condition) if context is None else context
        device = next(self.denoiser.parameters()).device
        chunks = []
        for start in range(0, count, batch):
            size = min(batch, count - start)
            part = context[slice(start, start + size)].to(device)
            like = self._like(size, device, part)
            # One for each sample, on the CPU: whatever is beside it and wherever it is made, a sample is the same.
            g = PerSample([generator(seed, "sample", start + i) for i in range(size)])
            chunks.append(self.sampler.sample(self.denoiser, like, steps, part, g=g).x0)  # type: ignore[arg-type]
        return torch.cat(chunks)

    @torch.no_grad()
    def invert(self, x0: Tensor, steps: int | None = None, *, context: Context = Context()) -> Tensor:
        """The noise that `x0: Float[count ...]` comes from, in `steps` jumps upwards. Of a student that learned them
        (`icd`, `inverse-and-edit`) `regenerate` finds x0 again, or under another condition an edited one."""
        return self._through(invert, x0, steps, context)

    @torch.no_grad()
    def regenerate(self, x_1: Tensor, steps: int | None = None, *, context: Context = Context()) -> Tensor:
        """The sample that a noise leads to, in `steps` deterministic jumps."""
        return self._through(regenerate, x_1, steps, context)

    def _through(self, way: Any, x: Tensor, steps: int | None, context: Context) -> Tensor:
        device = next(self.denoiser.parameters()).device
        times = self.sampler.times(self.denoiser, self.steps if steps is None else steps).to(device)
        return way(self.denoiser, x.to(device), times, context.to(device))

    @torch.no_grad()
    def sample_for(
        self, source: str | FilePath, steps: int | None = None, seed: int = 0
    ) -> Iterator[tuple[str, Tensor | UserError, Context]]:
        """One sample for each of the user's own inputs at `source`, a file or a folder that the task can read.

        Yields:
            The input's name, the sample, Float[1 ...] or Long[1 n], on the CPU, or what is wrong with the input, and
            its context. An input longer than the task's `window` is sampled in windows that agree where they overlap.

        Example:
            >>> for name, x0, context in omnidistill.load("runs/student").sample_for("noisy"):
            ...     task.write(x0, context, Path("clean") / name)
        """
        if self.task is None:
            raise UserError("a student without a task reads no files; pass the context to sample()")
        whole, window = self.denoiser, self.task.window
        denoiser = whole if window is None else Windowed(whole, *window)
        device = next(whole.parameters()).device
        for name, context in self.task.inputs(FilePath(source)):
            if isinstance(context, UserError):
                yield name, context, Context()
                continue
            here = context.to(device)
            # Of the input's name, so that what else is there changes nothing.
            g = generator(seed, "input", name, device=device)
            like = self.task.like(1, device, here)
            try:
                made = self.sampler.sample(denoiser, like, steps or self.steps, here, g=g).x0.cpu()
            except UserError as error:
                yield name, error, context
                continue
            finite = not made.is_floating_point() or bool(made.isfinite().all())
            yield name, made if finite else UserError("the sample made for it holds NaN or infinity"), context

    def _like(self, count: int, device: torch.device, context: Context) -> Tensor:
        if self.task is not None:
            return self.task.like(count, device, context)
        known = context.anchor
        if known is None and not self.dtype.is_floating_point:
            known = context.mask  # of tokens, Bool[b n]: they may be fewer or more than in training
        shape = (count, *self.shape) if known is None else known.shape
        return torch.empty(shape, dtype=self.dtype, device=device)

    def context(self, count: int, seed: int = 0, condition: Condition | int | str = None) -> Context:
        """The contexts of `count` samples: drawn by the task, with the condition that is asked for. The first of many
        are those of few; for a teacher from Python they are what its data function answers."""
        drawn = (
            Context()
            if self.task is None
            else self.task.contexts(count, generator(seed, "sample", "contexts"))
        )
        if condition is None:
            return drawn
        if self.task is not None and not self.task.conditional:
            raise UserError(f"{self.task.name} is not conditional; leave condition out")
        if isinstance(condition, str):
            condition = label_number(condition, () if self.task is None else self.task.labels)
        if isinstance(condition, int):
            condition = torch.full((count,), condition, dtype=torch.long)
            if isinstance(drawn.condition, Mapping):
                condition = relabelled(drawn.condition, condition)
        if isinstance(condition, Tensor) and condition.shape[0] != count:
            raise UserError(
                f"condition has {condition.shape[0]} entries for count={count} samples; give one for each"
            )
        classes = None if self.task is None else self.task.classes
        if classes is not None and (labels := labels_of(condition)) is not None:
            wrong = labels[(labels < 0) | (labels >= classes)]
            if len(wrong):
                raise UserError(f"condition is a label from 0 to {classes - 1}, got {int(wrong[0])}")
        return replace(drawn, condition=condition)


def label_number(name: str, labels: Sequence[str]) -> int:
    """The number of a label given by its name or, where no label is called so, as a number."""
    name = unicodedata.normalize("NFC", name)
    if name in labels:
        return list(labels).index(name)
    if not name.isascii() or not name.isdecimal():
        if not labels:
            raise UserError(f"condition is a label's number here, a whole number >= 0, got '{name}'")
        raise unknown("label", name, labels)
    return int(name)


def described(config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The configuration of a task as it is saved: with the names of the labels that it found."""
    given = "labels" in config and config["labels"] is None
    return {**config, "labels": list(task.labels)} if given and task.labels else dict(config)


def check_labels(recipe: Recipe, task: Task, what: str) -> None:
    """Refuses a saved model whose labels are not the task's: its numbers would mean other things."""
    known = tuple((recipe.task or {}).get("labels") or ())
    if known and task.labels and known != tuple(task.labels):
        raise UserError(
            f"the {what} knows the labels {', '.join(known)}, the task has {', '.join(task.labels)}; "
            "use the same data, or name them in the same order with task.labels=[...]"
        )


def assemble(network: nn.Module, path: Path, recipe: Recipe) -> Denoiser:
    """The denoiser that `recipe` describes around a network: its start, its reading, the guidance it is told."""
    if recipe.random_tokens is not None:
        if "masked" not in path.offers:
            raise UserError(f"student.random_tokens={recipe.random_tokens} needs a masked path, got {path}")
        path = path.with_prior(recipe.random_tokens)  # type: ignore[attr-defined]
    reading = {**recipe.reading, "target_time": recipe.target_time}
    kind = PolicyDenoiser if "policy" in reading else NetworkDenoiser
    known = {*inspect.signature(NetworkDenoiser).parameters, *inspect.signature(kind).parameters}
    if foreign := sorted(reading.keys() - known):
        raise unknown("key of reading", foreign[0], known)
    denoiser = kind(network, path, **reading)
    return denoiser if recipe.guidance is None else Told(denoiser, recipe.guidance)


def led(denoiser: Denoiser, chain: Iterable[Walker], teacher: Denoiser | None, null: Null | None) -> Denoiser:
    """The denoiser with walkers around it, the first the innermost."""
    for walker in chain:
        denoiser = walker.around(denoiser, teacher, null)
    return denoiser


def usual_teacher(task: Task, device: str = "cpu") -> Denoiser | None:
    """The task's own teacher: the closed form, else the one that comes with the package."""
    exact = task.exact_teacher()
    if exact is not None:
        return exact.to(device)
    shipped = task.shipped_teacher()
    if shipped is None or not (shipped / "teacher.json").is_file():
        return None
    return read_denoiser(shipped, "teacher", task, device)[0]


def save(denoiser: Denoiser, recipe: Recipe, folder: FilePath, name: str = "student") -> None:
    """Writes `name.safetensors` and `name.json`. The weights are those of the bare network, with what walkers around it
    have learned; with adapters these alone, and `base.safetensors` beside them where the base did not come with the
    package."""
    network: nn.Module = innermost(denoiser).network  # type: ignore[assignment]
    tensors = dict(network.state_dict())
    if recipe.adapter is not None:
        tensors, base = adapters.split(network, recipe.adapter["whole"])
        recipe = replace(recipe, adapter={**recipe.adapter, "digest": adapters.of(base)})
        if recipe.adapter["base"] == BASE:  # type: ignore[index]
            write_safetensors(base, folder / BASE)
    for key, walker in zip(recipe.inference or (), walkers(denoiser), strict=True):
        tensors |= {f"{LEARNED}{key}/{part}": value for part, value in walker.learned().items()}
    write_safetensors(tensors, folder / f"{name}.safetensors")
    document = {"schema": SCHEMA, **asdict(recipe)}
    write_text(json.dumps(document, indent=1) + "\n", folder / f"{name}.json")


def read_recipe(folder: FilePath, name: str) -> Recipe:
    """What a saved model needs to be built again, from `NAME.json` in a run's folder.

    Raises:
        UserError: no description of a saved model, or of another version.
    """
    path = student_file.find(folder, name)
    document = received.read_json(path)
    try:
        if document.pop("schema") != SCHEMA:
            raise UserError(f"{path} has another schema than {SCHEMA}; it was written by another version")
        return Recipe(**student_file.check(document))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a description of a saved model ({error})") from error


def headed(network: nn.Module, reading: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network with the last layer that a reading asks for: one a cell, or as wide as a policy; several of it, where
    there are experts; else as it is."""
    if reading.get("experts") is not None:
        return Experts(network, *reading["experts"])
    if reading.get("cells") is not None:
        return Heads(network, reading["cells"])
    made = reading.get("policy")
    return network if made is None else widened(network, checked(*made), seed)


def _filled(
    network: nn.Module,
    tensors: dict[str, Tensor],
    folder: FilePath,
    name: str,
    recipe: Recipe,
    task: Task | None = None,
) -> nn.Module:
    """The network with the weights of a file; over those of its base where the file holds adapters."""
    file = folder / f"{name}.safetensors"
    if recipe.adapter is None:
        load_strictly(network, tensors, file)
        return network
    shipped = None if task is None else task.shipped_teacher()
    place = (
        shipped / "teacher.safetensors"
        if recipe.adapter.get("base") == "shipped" and shipped
        else folder / BASE
    )
    return adapters.join(network, recipe.adapter, read_safetensors(place)[0], tensors, file)


@contextmanager
def _described_by(path: FilePath) -> Iterator[None]:
    """What goes wrong while a model is made of somebody's description is a fault of the description."""
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} describes what cannot be built ({reason[:300]})") from error


def read_denoiser(
    folder: FilePath, name: str, task: Task, device: str = "cpu", trust: Sequence[str] = ()
) -> tuple[Denoiser, Recipe]:
    """The saved denoiser on a task that is already built."""
    recipe = read_recipe(folder, name)
    check_labels(recipe, task, name)
    tensors, learned = _parted(read_safetensors(folder / f"{name}.safetensors")[0])

    def network() -> nn.Module:
        if recipe.own_network:
            own = task.student_network()
            if own is None:
                raise UserError(f"{task.name} has no student network of its own, as {name}.json says it has")
            return own
        return headed(task.network(target_time=recipe.target_time, guidance=recipe.guided), recipe.reading)

    with _described_by(folder / f"{name}.json"):
        check_network(network, tensors if recipe.adapter is None else None)
        made = _filled(network(), tensors, folder, name, recipe, task)
        denoiser = assemble(made, task.path, recipe)
        if recipe.inference:
            file = folder / f"{name}.json"
            denoiser = _led(
                denoiser, recipe, learned, trust, file, lambda: _companion(folder, task), task.null
            )
        return denoiser.to(device).eval(), recipe


def _parted(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors, and what walkers have learned."""
    learned = {name: value for name, value in tensors.items() if name.startswith(LEARNED)}
    return {name: value for name, value in tensors.items() if name not in learned}, learned


def _led(
    denoiser: Denoiser,
    recipe: Recipe,
    learned: Mapping[str, Tensor],
    trust: Sequence[str],
    file: FilePath,
    teacher: Callable[[], Denoiser | None],
    null: Null | None,
) -> Denoiser:
    """The denoiser with the walkers that a description names around it, and what they have learned."""
    from omnidistill.configuration.instantiation import build, trusting

    chain = {name: build(trusting(options, trust)) for name, options in (recipe.inference or {}).items()}
    for name, walker in chain.items():
        if not isinstance(walker, Walker):
            raise UserError(f"{file}: inference.{name} is {type(walker).__name__}, which is no walker")
    asked = any("teacher" in walker.wants for walker in chain.values())
    denoiser = led(denoiser, chain.values(), teacher() if asked else None, null)
    for name, walker in chain.items():
        mine = f"{LEARNED}{name}/"
        own = {key.removeprefix(mine): value for key, value in learned.items() if key.startswith(mine)}
        load_strictly(walker, own, file, walker.state_dict().keys() - walker.learned().keys())
    return denoiser


def _named(foreign: Mapping[str, Any], file: FilePath, trust: Sequence[str]) -> tuple[nn.Module, Path]:
    """The network and the path of a teacher that could be named."""
    from omnidistill.configuration.instantiation import build, trusting

    with _described_by(file), torch.random.fork_rng(devices=[]):
        made = build(trusting(foreign, trust))
        if not hasattr(made, "opened"):
            raise UserError(
                f"{file}: foreign is a {type(made).__name__}, which is no description of a network"
            )
        check_network(made.made)
        return made.made(), made.path


def _companion(folder: FilePath, task: Task) -> Denoiser | None:
    """The teacher that helps a student: of its folder, else the task's own."""
    if (folder / "teacher.json").is_file():
        return read_denoiser(folder, "teacher", task)[0]
    return usual_teacher(task)


def load(
    folder: str | FilePath,
    device: str = "cpu",
    *,
    network: nn.Module | None = None,
    path: Path | None = None,
    null: Null | None = None,
    trust: Sequence[str] = (),
) -> Student:
    """The student of a run's folder, ready to sample.

    Args:
        network, path: for a student distilled from your own module: a fresh instance of it and the path.
        null: what empties a condition, as `distill` was given it, for one that is sampled under guidance.
        trust: packages beside this one and installed plug-ins that its task may be built from.

    Example:
        >>> omnidistill.load("runs/demo").sample(16, steps=1, seed=0, condition=3)
    """
    folder = FilePath(folder)
    recipe = read_recipe(folder, "student")
    if recipe.task is None:
        if network is None and path is None and recipe.foreign is not None:
            network, path = _named(recipe.foreign, folder / "student.json", trust)
        if network is None or path is None:
            raise UserError(
                f"the student in {folder} was made from your own module; pass load(..., network=, path=)"
            )
        bare = copy.deepcopy(network)
        network = with_second(
            network,
            target_time=recipe.target_time,
            guidance=recipe.guided,
            time_module=recipe.reading.get("time_module"),
        )
        network = headed(network, recipe.reading)
        tensors, learned = _parted(read_safetensors(folder / "student.safetensors")[0])
        network = _filled(single(network, say=False), tensors, folder, "student", recipe)
        denoiser = assemble(network, path, recipe)
        if recipe.inference:

            def theirs() -> Denoiser:
                """The teacher of one's own, whose weights lie beside the student's."""
                described = read_recipe(folder, "teacher")
                weights, _ = read_safetensors(folder / "teacher.safetensors")
                whole = _filled(single(bare, say=False), weights, folder, "teacher", described)
                return assemble(whole, path, described)

            denoiser = _led(denoiser, recipe, learned, trust, folder / "student.json", theirs, null)
        denoiser = denoiser.to(device).eval()
        shape = tuple(recipe.made_by.get("shape") or (recipe.foreign or {}).get("shape") or ())
        dtype = torch.long if "categorical" in path.offers else torch.float32
        return Student(denoiser, recipe.sampler(), recipe.steps, None, shape, dtype)
    from omnidistill.configuration.instantiation import build, trusting

    described_as, foreign = dict(recipe.task), recipe.task.get("foreign")
    if network is not None and isinstance(foreign, Mapping):
        described_as["foreign"] = {**foreign, "network": None}
    with _described_by(folder / "student.json"):
        task: Task = build(trusting(described_as, trust))
        if not isinstance(task, Task):
            raise UserError(f"{folder / 'student.json'}: {recipe.task['_target_']} is no task")
    if network is not None and isinstance(foreign, Mapping):
        task.lend(network)  # type: ignore[attr-defined]  # what has a foreign network takes one
    denoiser, _ = read_denoiser(folder, "student", task, device, trust)
    return Student(denoiser, recipe.sampler(), recipe.steps, task, task.shape, task.dtype)
