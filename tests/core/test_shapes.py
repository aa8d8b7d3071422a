"""Shapes that signatures tell are checked in every call that a test makes."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest
import torch

from omnidistill import paths, shapes
from omnidistill.errors import UserError
from omnidistill.paths.symmetry import RigidMotion
from omnidistill.posteriors import CategoricalPosterior, PointPosterior
from omnidistill.random import generator

ROOT = Path(__file__).parents[2]
SAYS = ("Shaped", "Float", "Int", "Bool", *(set(vars(shapes)) - {"Tensor"}))


def told(package: str, folder: Path) -> list[tuple[str, str]]:
    """(module, qualified name) of each function whose signature names a kind of tensor."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        module = ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        tree = ast.parse(path.read_text("utf-8"))
        owners = [("", tree), *((c.name + ".", c) for c in tree.body if isinstance(c, ast.ClassDef))]
        for owner, node in owners:
            protocol = isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
            for f in node.body if not protocol else []:
                if isinstance(f, ast.FunctionDef) and any(
                    isinstance(part, ast.Name) and part.id in SAYS
                    for hint in (*(a.annotation for a in (*f.args.args, *f.args.kwonlyargs)), f.returns)
                    if hint is not None
                    for part in ast.walk(hint)
                ):
                    found.append((module, owner + f.name))
    return found


@pytest.mark.parametrize("package", ["posteriors", "paths"])
def test_what_tells_a_shape_is_checked(package: str) -> None:
    functions = told(f"omnidistill.{package}", ROOT / "omnidistill" / package)
    bare = []
    for module, name in functions:
        thing = sys.modules.get(module) or importlib.import_module(module)
        for part in name.split("."):
            thing = inspect.getattr_static(thing, part)
        thing = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
        checked = inspect.unwrap(thing, stop=lambda f: hasattr(f, "shapes"))
        bare += [] if hasattr(checked, "shapes") else [f"{module}.{name}"]
    assert len(functions) > 20 and not bare, bare


def refused():
    # by its name: this file and conftest are modules apart
    return pytest.raises(TypeError, match=r"is .*torch.Size.*, not")


def test_a_mask_of_another_batch() -> None:
    mask = torch.ones(3, 5, 1, dtype=torch.bool)
    x = torch.randn(2, 5, 3, generator=generator(0))
    with refused():
        RigidMotion().project(x, mask)
    RigidMotion().project(x, mask[:1])
    with refused():  # it would broadcast to nine losses
        PointPosterior(x[:1]).divergence(PointPosterior(x), "huber", mask)
    with refused():
        RigidMotion().project(x, mask[:1].float())


def test_states_of_two_shapes_and_of_another_kind() -> None:
    x = torch.zeros(4, 3)
    with refused():  # torch would broadcast
        paths.rectified_flow().velocity(x, x[:1], 0.5)
    with refused():
        paths.MaskedPath(5).corrupt(x, 0.5)
    with refused():
        paths.rectified_flow().corrupt(x.long(), 0.5)
    with refused():
        CategoricalPosterior(torch.zeros(4, 3, 5)).log_prob(torch.zeros(4, 1, dtype=torch.long))


def test_a_time_for_each_sample_of_another_batch() -> None:
    with refused():
        paths.rectified_flow().corrupt(torch.zeros(4, 3), torch.full((3,), 0.5, dtype=torch.float64))


def test_a_result_is_checked_too() -> None:
    class Fewer(RigidMotion):
        """A symmetry that drops a point."""

        def project(self, x, mask=None):
            return x[:, :-1]

    path = paths.edm(symmetry=Fewer())
    with refused():
        path._noise(torch.zeros(2, 5, 3), paths.gaussian.Context(), generator(0))


def test_unchecked_functions_refuse_themselves(unchecked: None) -> None:
    with pytest.raises(UserError, match="fit a state"):
        paths.rectified_flow().corrupt(torch.zeros(4, 3), torch.full((3,), 0.5, dtype=torch.float64))
