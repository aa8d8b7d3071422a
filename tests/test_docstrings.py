"""What a docstring says it takes, the function takes: names under `Args:` and `Attributes:` do not outlive a change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("omnidistill", "modalities", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
ENTRY = re.compile(r"^    ((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*): ")


def entries(docstring: str, section: str) -> Iterator[str]:
    """The names that a section of a docstring describes: lines of one more level of indentation, before a colon."""
    inside = False
    for line in docstring.splitlines():
        if line.strip() == f"{section}:":
            inside = True
        elif inside and line.strip() and not line.startswith("    "):
            return
        elif inside and (found := ENTRY.match(line)):
            yield from (name.strip().lstrip("*") for name in found[1].split(","))


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    a = function.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return {argument.arg for argument in named}


def fields(node: ast.ClassDef) -> set[str]:
    """What instances of a class may have: its annotated and assigned names, and whatever its methods set on self."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign | ast.Assign):
            targets = [part.target] if isinstance(part, ast.AnnAssign) else part.targets
            for target in (inner for top in targets for inner in ast.walk(top)):
                if isinstance(target, ast.Name):
                    found.add(target.id)
                elif isinstance(target, ast.Attribute):
                    found.add(target.attr)
        elif isinstance(part, ast.FunctionDef):
            found |= {part.name} | (arguments(part) if part.name == "__init__" else set())
    return found


def faults(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        said = ast.get_docstring(node) or ""
        has = fields(node) if isinstance(node, ast.ClassDef) else arguments(node)
        for section in ("Args", "Attributes"):
            for name in entries(said, section):
                if name not in has:
                    yield f"{node.lineno}: {node.name} describes '{name}', which it has not"


def bare(sources: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Public methods of public classes that nothing describes: neither they, nor the `Attributes:` of their class, nor
    a method of the same name elsewhere, which is the contract that they keep. (Modules, classes and functions are
    ruff's to look at.)"""
    described, missing = set(), []
    for name, source in sources:
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ClassDef):
                continue
            attributes = set(entries(ast.get_docstring(node) or "", "Attributes"))
            for part in node.body:
                if not isinstance(part, ast.FunctionDef):
                    continue
                if ast.get_docstring(part):
                    described.add(part.name)
                elif part.name not in attributes and not part.name.startswith("_") and node.name[0] != "_":
                    missing.append((f"{name}:{part.lineno}: {node.name}.{part.name}", part.name))
    return (where for where, method in missing if method not in described)


def test_the_lint_finds_what_is_wrong() -> None:
    source = '''
def f(a, *, b=1):
    """Adds.

    Args:
        a, c: numbers.
        b: another one
            on two lines.

    Returns:
        d: no argument.
    """


class C:
    """Holds.

    Attributes:
        x: set below.
        y: nowhere.
    """

    def __init__(self):
        self.x = 1
'''
    assert [line.partition(": ")[2] for line in faults(source)] == [
        "f describes 'c', which it has not",
        "C describes 'y', which it has not",
    ]


def test_docstrings_describe_what_is_there() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{fault}" for path in SOURCES for fault in faults(path.read_text("utf-8"))
    ]
    assert len(SOURCES) > 100 and not wrong, "\n".join(wrong)


def test_the_lint_finds_methods_that_nothing_describes() -> None:
    said = '"""Holds.\n\n    Attributes:\n        y: known.\n    """'
    contract = f'class P:\n    {said}\n    def f(self):\n        "Says."\n'
    kept = "class A:\n" + "".join(f"    def {name}(self): ...\n" for name in ("f", "g", "_h", "y"))
    assert list(bare([("p", contract), ("a", kept)])) == ["a:3: A.g", "a:5: A.y"]
    assert list(bare([("p", contract + "    def y(self): ...\n")])) == []


def test_every_public_method_is_described_once() -> None:
    wrong = list(
        bare(
            (str(path.relative_to(ROOT)), path.read_text("utf-8"))
            for path in SOURCES
            if "benchmarks" not in path.relative_to(ROOT).parts
        )
    )
    assert not wrong, "\n".join(wrong)
