"""The whole walk as one ONNX graph: noise and condition in, samples out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Condition, Context
from omnidistill.data.files import write_text
from omnidistill.errors import RunError, UserError
from omnidistill.exporting.plain import merged
from omnidistill.exporting.run import COUNT, Handed
from omnidistill.exporting.walk import Unrolled, differs, network_of, noises, planned
from omnidistill.random import PerSample, generator

FILE = "student.onnx"


class _Named(nn.Module):
    """The walk with its inputs by name, as a graph has them: tensors one after another."""

    def __init__(self, walk: Unrolled, drawn: bool, names: tuple[str, ...]) -> None:
        super().__init__()
        self.walk, self.drawn, self.names = walk, drawn, names

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        noise = rest[0] if self.drawn else None
        given = rest[1:] if self.drawn else rest
        condition: Condition = None
        if self.names == ("condition",):
            condition = given[0]
        elif self.names:
            condition = dict(zip(self.names, given, strict=True))
        return self.walk(x, noise, condition)


def write(handed: Handed) -> None:
    """The graph, and what its inputs are."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"format=onnx needs {error.name}: pip install 'omnidistill[onnx]'") from error
    student = handed.student
    inner, _ = network_of(student.denoiser)
    walk = planned(student.denoiser, student.sampler, handed.steps)
    g = generator("export", "onnx")
    start, noise = noises((COUNT, *handed.shape), walk, g)
    condition = handed.condition(COUNT)
    names: tuple[str, ...] = ()
    given: list[Tensor] = []
    if isinstance(condition, Tensor):
        names, given = ("condition",), [condition]
    elif condition is not None:
        names, given = tuple(condition), list(condition.values())
    module = _Named(Unrolled(merged(inner.network), walk), noise is not None, names).eval()
    inputs = [start * _spread(inner), *([] if noise is None else [noise]), *given]
    labels = ["x_1", *([] if noise is None else ["noise"]), *names]
    batch = _exported(module, inputs, labels, handed, noise is not None)
    shapes: dict[str, list[Any]] = {
        name: list(value.shape) for name, value in zip(labels, inputs, strict=True)
    }
    for name, shape in shapes.items():
        shape[1 if name == "noise" else 0] = "batch" if batch else COUNT
    about = {"steps": handed.steps, "inputs": shapes, "start_std": _spread(inner), "times": _times(walk)}
    write_text(json.dumps(about, indent=1) + "\n", handed.out / "sampling.json")
    handed.said["sample"] = _code(handed, labels, inputs, _spread(inner))
    handed.said["inputs"] = (
        "Inputs: `x_1`, noise of standard deviation "
        f"{_spread(inner):g}"
        + (f"; `noise`, of unit variance, {walk.drawn} for the steps that draw" if noise is not None else "")
        + (f"; {', '.join(f'`{name}`' for name in names)}" if names else "")
        + f". Output: samples. {'Any batch.' if batch else f'Batches of {COUNT}.'}"
    )
    if handed.verify:
        session = onnxruntime.InferenceSession(str(handed.out / FILE), providers=["CPUExecutionProvider"])
        fed = {name: value.numpy() for name, value in zip(labels, inputs, strict=True)}
        found = torch.from_numpy(session.run(None, fed)[0])
        own = student.sampler.sample(
            student.denoiser,
            torch.empty_like(start),
            handed.steps,
            Context(condition),
            g=_Given(noise),  # type: ignore[arg-type]
            x_1=inputs[0],
        )
        handed.compare("onnxruntime", differs(found, own.x0))


def _spread(inner: Any) -> float:
    return float(inner.path.coefficients(1.0).sigma)


def _times(walk: Any) -> list[float]:
    return [stride.t for stride in walk.strides]


class _Given(PerSample):
    """Noise that was drawn before, in the place of generators."""

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__([torch.Generator()])
        self.noise, self.place = noise, 0

    def draw(self, counts: Sequence[int], draw: Any) -> Tensor:
        assert self.noise is not None
        self.place += 1
        return self.noise[self.place - 1].reshape(-1)


def _exported(
    module: nn.Module, inputs: list[Tensor], labels: list[str], handed: Handed, drawn: bool
) -> bool:
    """Writes the graph; whether it takes any batch. One that cannot be traced so is of the batch that is compared."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = tuple({1 if name == "noise" else 0: batch} for name in labels)
    first, *rest = shapes
    dynamic = (first, tuple(rest)) if rest else (first,)
    reason: Exception | None = None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for dims in (dynamic, None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module,
                    tuple(inputs),
                    str(handed.out / FILE),
                    input_names=labels,
                    output_names=["samples"],
                    dynamic_shapes=dims,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            return dims is not None
        except Exception as error:  # torch raises nothing narrower
            reason = error
    raise RunError(
        f"{type(module).__name__} cannot be traced ({' '.join(str(reason).split())[:200]}); format=safetensors"
    ) from reason


def _code(handed: Handed, labels: list[str], inputs: list[Tensor], spread: float) -> str:
    count = inputs[0].shape[0]
    lines = []
    for name, value in zip(labels, inputs, strict=True):
        shape = ", ".join(map(str, value.shape))
        if name in ("x_1", "noise"):
            scale = f"{spread:g} * " if name == "x_1" and spread != 1.0 else ""
            lines.append(f'"{name}": {scale}draws.standard_normal(({shape}), dtype="float32")')
        elif value.is_floating_point():
            lines.append(f'"{name}": draws.standard_normal(({shape}), dtype="float32")')
        else:
            lines.append(f'"{name}": draws.integers(0, {int(value.max()) + 1}, {count})')
    fed = ", ".join(lines)
    return f"""import numpy, onnxruntime

draws = numpy.random.default_rng(0)
session = onnxruntime.InferenceSession("{handed.out.name}/{FILE}")
samples = session.run(None, {{{fed}}})[0]"""
