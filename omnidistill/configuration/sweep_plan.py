"""Which cells a sweep has: tasks x recipes x seeds, from the command line, a file of `sweep/`, or both.

    task=A,B recipe=X,Y/Z seed=0,1        two columns; the second is Y where the task allows it, else Z
    sweep=NAME                            the lists of `sweep/NAME.yaml`; what the command line names replaces them

A file has `title`, `recipe` and `seed` (lists), `overrides` (for every cell), and `task`: a list of names, or a mapping
from name to what this task has beside: `recipe`, tried on it alone, and `overrides` for its cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnidistill.configuration import listing, overrides, values
from omnidistill.data.files import expanded
from omnidistill.errors import UserError, unknown

OWN = "of its field"
"""The column of the recipes that a file tries on one task alone."""

LISTS = ("task", "recipe", "seed")
NOT_FOR_CELLS = {
    "resume": "a sweep goes on by itself where it was stopped; leave resume out",
    "out": "out is given once",
}
EXAMPLES = {
    "task": "task=exact/gaussian_mixture,exact/markov_text",
    "recipe": "recipe=consistency-models/cdlm,dmd2",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A cell as it is asked for.

    Attributes:
        column: the heading under which the page shows it.
        choices: recipes, of which the first that the task allows is taken.
        overrides: for its run, weakest first.
    """

    task: str
    column: str
    choices: tuple[str, ...]
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def choice(self) -> str:
        """The choices as they were written."""
        return "/".join(self.choices)

    def run(self, recipe: str, out: Path) -> list[str]:
        """The overrides of `distill` for this cell by one of the choices."""
        place = f"out={overrides.quoted(str(out))}"
        return [f"task={self.task}", f"recipe={recipe}", f"seed={self.seed}", *self.overrides, place]


@dataclass(frozen=True, slots=True)
class _Row:
    """What a file says of one task."""

    recipe: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    task: dict[str, _Row] = field(default_factory=dict)
    recipe: tuple[str, ...] = ()
    seed: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


def plan(given: Sequence[str], name: str | None = None) -> list[Wish]:
    """The cells of a command line, in the order in which they are run: every task and recipe at the first seed, then
    at the next.

    Args:
        given: `key=value`; `task`, `recipe` and `seed` are lists, everything else goes to every cell.
        name: of a file of `sweep/`.

    Raises:
        UserError: an unknown name, a list that is missing or empty, a key that no cell can have.
    """
    lists, rest = _sorted(given)
    folder = overrides.last(overrides.read(rest), "configs")
    directory = None if folder is None else expanded(folder)
    file = _File() if name is None else _read(name, directory)
    rows = {task: file.task.get(task, _Row()) for task in lists.get("task", tuple(file.task))}
    recipes = lists.get("recipe", file.recipe)
    for key, found in (("task", rows), ("recipe", recipes or any(row.recipe for row in rows.values()))):
        if not found:
            raise UserError(f"{key} is missing; for example {EXAMPLES[key]} (`omnidistill {key}s` lists all)")
    seeds = [_seed(text) for text in lists.get("seed", file.seed or ("0",))]
    tasks = listing.names("task", directory)
    for task in rows:
        if task not in tasks:
            raise unknown("task", task, tasks)
    if len(rows) > 1 and any(item.startswith("teacher=") for item in rest):
        raise UserError(
            f"teacher=PATH is the teacher of one task, and there are {len(rows)}: {', '.join(rows)}"
        )
    known = listing.names("recipe", directory)
    wishes = []
    for seed in seeds:
        for task, row in rows.items():
            more = (*file.overrides, *row.overrides, *rest)
            wishes += [Wish(task, text, _choices(text, known), seed, more) for text in recipes]
            if "recipe" not in lists:  # who names recipes wants these and no others
                wishes += [Wish(task, OWN, _choices(text, known), seed, more) for text in row.recipe]
    return wishes


def _sorted(given: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The lists by key, and what goes to every cell."""
    lists: dict[str, tuple[str, ...]] = {}
    rest = []
    for item in given:
        key, _, value = item.partition("=")
        if key in LISTS:
            lists[key] = _items(key, value)
        elif key in NOT_FOR_CELLS:
            raise UserError(f"sweep takes no further {item}: {NOT_FOR_CELLS[key]}")
        else:
            rest.append(item)
    return lists, rest


def _items(key: str, text: str) -> tuple[str, ...]:
    items = [item.strip(" '\"") for item in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(items):
        raise UserError(f"{key}={text} has an empty place; write {key}=A,B")
    return tuple(dict.fromkeys(items))


def _choices(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """`A/B` as A and B. A recipe in a subfolder has the sign in its name and stands alone."""
    if text in known:
        return (text,)
    parts = tuple(text.split("/"))
    for part in parts:
        if part not in known:
            raise unknown("recipe", part or text, known)
    return parts


def _seed(text: str) -> int:
    value: Any = int(text) if text.isdecimal() else text
    return values.whole(0)("seed", value)


def _read(name: str, directory: Path | None) -> _File:
    content = listing.content("sweep", name, directory)
    for key in content:
        if key not in (*LISTS, "overrides", "title"):
            raise unknown(f"key of sweep {name}", str(key), [*LISTS, "overrides", "title"])
    given = content.get("task") or {}
    if not isinstance(given, Mapping):
        given = dict.fromkeys(_texts(name, "task", given))
    rows = {str(task): _row(name, str(task), row or {}) for task, row in given.items()}
    recipe, seed, more = (
        tuple(_texts(name, key, content.get(key))) for key in ("recipe", "seed", "overrides")
    )
    return _File(rows, recipe, seed, more)


def _row(name: str, task: str, given: Any) -> _Row:
    if not isinstance(given, Mapping) or set(given) - {"recipe", "overrides"}:
        raise UserError(f"sweep {name}: task {task} has recipe and overrides, got {given!r}")
    recipe, more = (tuple(_texts(name, f"{task}.{key}", given.get(key))) for key in ("recipe", "overrides"))
    return _Row(recipe, more)


def _texts(name: str, key: str, value: Any) -> Iterator[str]:
    if value is not None and not isinstance(value, list):
        raise UserError(f"sweep {name}: {key} must be a list, got {value!r}")
    return (str(item) for item in value or ())
