"""One thread unless the caller asks otherwise, here and in every process that a test starts: `make test` has a worker
for each core. And shapes that signatures tell are checked in every call that a test makes."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is first imported
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in `omnidistill.cli`

from collections.abc import Iterator
from functools import wraps
from inspect import isclass, isfunction, signature
from types import CodeType, FunctionType
from typing import Any, ForwardRef, get_args

import jaxtyping
import pytest
import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping._storage import pop_shape_memo, push_shape_memo

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# --- shapes ------------------------------------------------------------------------------------------------------

TOWER = BeartypeConf(is_pep484_tower=True)  # an int is a float
hints: dict[CodeType, dict[str, Any]] = {}


class ShapeError(TypeError):
    """A call whose tensors are not what the signature says."""


def parts(hint: Any) -> list[type[jaxtyping.AbstractArray]]:
    """The shapes that an annotation tells, inside unions and containers too."""
    if isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return [hint]
    return [found for argument in get_args(hint) for found in parts(argument)]


def shapes_of(annotations: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The annotations that tell a shape, of a function or a tuple's fields, in a module that knows these names."""
    found = {}
    for name, hint in annotations.items():
        hint = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        try:
            hint = eval(hint, names) if isinstance(hint, str) else hint
        except NameError:  # imported for mypy alone, or a class still to come
            if "[Tensor" in hint:
                raise
            continue
        if parts(hint):
            found[name] = hint
    return found


def kind(value: Any) -> Any:
    """What a shape can depend on."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape
    if isinstance(value, tuple | list):
        return tuple(map(kind, value))
    return type(value)


def shapes_checked(thing: Any = None, *, typechecker: Any = None) -> Any:
    """What jaxtyping's import hook writes above every function and class, in place of its own `jaxtyped`.

    beartype sees the annotations that tell a shape and no others: classes are mypy's, a test may pass a double, and to
    ask whether an object fits a protocol evaluates its properties. Functions without any stay as they are. A call whose
    tensors have kinds and shapes that were right before is not looked at again, or tests would take a half longer.
    """
    if thing is None:
        return shapes_checked
    if torch.compiler.is_compiling() or "<locals>" in thing.__qualname__:
        return thing
    if isclass(thing):
        if "__dataclass_fields__" in vars(thing) and isfunction(thing.__init__):
            thing.__init__ = shapes_checked(thing.__init__)
        elif hasattr(thing, "_fields") and isfunction(
            thing.__new__
        ):  # a named tuple; all of them share one code
            fields = shapes_of(thing.__new__.__annotations__, vars(sys.modules[thing.__module__]))
            thing.__new__ = checked(thing.__new__, fields)
        return thing
    if thing.__code__ not in hints:
        hints[thing.__code__] = shapes_of(thing.__annotations__, thing.__globals__)
    return checked(thing, hints[thing.__code__])


def checked(thing: FunctionType, told: dict[str, Any]) -> Any:
    """The function, its arguments and its result held against these annotations."""
    if not told or hasattr(thing, "shapes"):
        return thing
    form = signature(thing)
    by_value = any("{" in part.dim_str for hint in told.values() for part in parts(hint))
    right: set[Any] = set()

    def check(args: tuple[Any, ...], kwargs: dict[str, Any], result: dict[str, Any]) -> None:
        bound = form.bind(*args, **kwargs)
        bound.apply_defaults()
        push_shape_memo(bound.arguments)  # names of sizes stand for one size within a call
        try:
            for name, value in {**bound.arguments, **result}.items():
                if name in told and not is_bearable(value, told[name], conf=TOWER):
                    raise ShapeError(f"{thing.__qualname__}: {name} is {kind(value)}, not {told[name]}")
        finally:
            pop_shape_memo()

    @wraps(thing)
    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or jaxtyping.config.jaxtyping_disable:
            return thing(*args, **kwargs)
        given = (*map(kind, args), *((name, kind(value)) for name, value in kwargs.items()))
        if given not in right:
            check(args, kwargs, {})
        out = thing(*args, **kwargs)
        whole = given, kind(out)
        if whole not in right:
            check(args, kwargs, {"return": out})
            if not by_value:
                right.update((given, whole))
        return out

    called.shapes = told  # type: ignore[attr-defined]
    return called


jaxtyping.jaxtyped = shapes_checked  # type: ignore[assignment]
jaxtyping.install_import_hook("omnidistill", None)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes go unchecked, so that functions are seen to refuse wrong ones themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
