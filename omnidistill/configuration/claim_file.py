"""A claim: what a paper promises, as relations between points of small runs. One YAML file, `claim/RECIPE.yaml`:

    statement: one call of the student is better than four of its teacher
    source: "Author et al. 2026, abstract"
    overrides: [task=exact/gaussian_mixture]              # of every run
    runs:
      student: {recipe: dmd2, overrides: [updates=200], seed: 0}
    relations:
      - {better: student.student@1, than: student.teacher@4}
    explanation: why it falls short, where it does; or what was tried before it held

A point is `RUN.MODEL@STEPS`, the model `student` or `teacher`, the steps a number or `full`. Relations are listed at
`Relation`. Such a file may have come from somebody else: it is read as a received file is, and its overrides may set
what a recipe may set and nothing else (`SECTIONS`, `KEYS`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from omnidistill.configuration import listing, plugins, received, values
from omnidistill.configuration.overrides import read as read_overrides
from omnidistill.errors import UserError, unknown

SECTIONS = ("task", "student", "families", "objective", "begin", "end", "optim", "fit", "evaluation")
KEYS = ("task", "updates", "batch", "accumulate", "ema", "guidance", "precision", "tuned")
"""What an override of a claim may set: a section's key, or one of these."""

KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "monotone": (("steps",), ()),
    "not_monotone": (("steps",), ()),
    "gap": (("least",), ()),
    "better": (("than",), ("ratio",)),
    "no_worse": (("than",), ()),
    "below": (("metric",), ("than", "ratio", "value")),
    "above": (("metric",), ("than", "ratio", "value")),
}
"""Of each relation the keys that it needs and those that it may have."""

VERDICTS, AGAIN = "verdicts.json", "again.json"
_POINT = re.compile(r"(?P<run>[A-Za-z][\w-]*)\.(?P<model>student|teacher)@(?P<steps>[1-9]\d{0,5}|full)")


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of a run's metrics.json; `steps` is None for the teacher's full number."""

    run: str
    model: str
    steps: int | None

    def __str__(self) -> str:
        return f"{self.run}.{self.model}@{'full' if self.steps is None else self.steps}"


@dataclass(frozen=True, slots=True)
class Relation:
    """What must be so of the runs' figures.

    monotone, not_monotone  of a run's student over `steps`: no step count is worse than the best of all fewer ones
    gap           of a student's point: the gap closed is at least `least` percent
    better        the primary metric of one point is `ratio` times better than that of another, beyond both intervals
    no_worse      it is not worse beyond both intervals
    below, above  any `metric` is at most (at least) `value`, or that of another point, divided (multiplied) by `ratio`
    """

    kind: str
    run: str
    of: Spot | None = None
    than: Spot | None = None
    steps: tuple[int, ...] = ()
    metric: str | None = None
    value: float | None = None
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run of `distill`: the recipe, its overrides (those of the claim first) and its seed."""

    recipe: str
    overrides: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper promises: relations between the figures of small runs, by name."""

    recipe: str
    statement: str
    runs: dict[str, Run]
    relations: tuple[Relation, ...]
    source: str = ""
    explanation: str = ""

    def steps(self, run: str) -> tuple[list[int], list[int]]:
        """The step counts at which a run's student and teacher are looked at."""
        counts: dict[str, set[int]] = {"student": set(), "teacher": set()}
        for relation in self.relations:
            counts["student"].update(relation.steps if relation.run == run else ())
            for spot in (relation.of, relation.than):
                if spot is not None and spot.run == run and spot.steps is not None:
                    counts[spot.model].add(spot.steps)
        return sorted(counts["student"] or {1}), sorted(counts["teacher"])


def claims(directory: Path | None = None) -> list[dict[str, Any]]:
    """recipe, statement and committed verdict (`holds`, None where there is none) of every claim."""
    import sys

    listed, known = [], verdicts()
    for name, file in sorted(_files(directory).items()):
        try:
            claim = _claim(name, file)
        except UserError as error:
            print(f"warning: {error}; it is left out", file=sys.stderr)
            continue
        listed.append({"recipe": name, "statement": claim.statement, "holds": known.get(name)})
    return listed


def verdicts() -> dict[str, bool]:
    """The committed verdicts of the packaged claims."""
    return {name: holds for name, holds in _committed(VERDICTS).items() if isinstance(holds, bool)}


def again() -> dict[str, dict[int, bool]]:
    """The committed verdicts of packaged claims at other seeds than their own."""
    found = {name: each for name, each in _committed(AGAIN).items() if isinstance(each, Mapping)}
    return {
        name: {
            int(seed): holds for seed, holds in each.items() if seed.isdecimal() and isinstance(holds, bool)
        }
        for name, each in found.items()
    }


def _committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for package in (*reversed(plugins.search_path()), plugins.BUILT_IN):
        file = resources.files(package).joinpath("claim", name)
        if file.is_file():
            with resources.as_file(file) as path:
                found |= received.read_json(path)
    return found


def read(name: str, directory: Path | None = None) -> Claim:
    """The claim of a recipe.

    Raises:
        UserError: there is none, or its file is wrong; one line, with the place in it.
    """
    files = _files(directory)
    if name not in files:
        raise unknown("claim", name, files)
    return _claim(name, files[name])


def content(name: str, directory: Path | None = None) -> dict[str, Any]:
    """What stands in the file, as plain values."""
    with resources.as_file(_files(directory)[name]) as path:
        return dict(received.read_yaml(path))


def _files(directory: Path | None) -> dict[str, Traversable]:
    return dict(listing.files("claim", directory))


def _claim(name: str, file: Traversable) -> Claim:
    with resources.as_file(file) as path:
        plain = received.read_yaml(path)
    where = f"claim {name}"
    needed, more = ("statement", "runs", "relations"), ("source", "overrides", "explanation")
    plain = _mapping(where, plain, needed, more)
    common = _overrides(f"{where}: overrides", plain.get("overrides") or [])
    given = plain["runs"]
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{where}: runs must be a section NAME: {{recipe: R}}, got {given!r:.60}")
    runs = {str(key): _run(f"{where}: runs", str(key), value, common) for key, value in given.items()}
    if name not in {run.recipe for run in runs.values()}:
        raise UserError(f"{where}: none of its runs is of the recipe '{name}'")
    listed = plain["relations"]
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: relations must be a list of at least one, got {listed!r:.60}")
    relations = tuple(_relation(f"{where}: relations[{i}]", item, runs) for i, item in enumerate(listed))
    texts = {
        key: values.text(f"{where}: {key}", plain[key]) for key in ("source", "explanation") if key in plain
    }
    return Claim(name, values.text(f"{where}: statement", plain["statement"]), runs, relations, **texts)


def _run(where: str, name: str, given: Any, common: Sequence[str]) -> Run:
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise UserError(f"{where}: a run's name is letters, digits, - and _, got {name!r:.40}")
    where = f"{where}.{name}"
    plain = _mapping(where, given, ("recipe",), ("overrides", "seed"))
    own = _overrides(f"{where}.overrides", plain.get("overrides") or [])
    seed = values.whole(0)(f"{where}.seed", plain.get("seed", 0))
    return Run(values.text(f"{where}.recipe", plain["recipe"]), (*common, *own), seed)


def _overrides(where: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise UserError(f"{where} must be a list of texts key=value, got {given!r:.60}")
    for item in read_overrides(given):
        section, _, rest = item.key.partition(".")
        if not (section in SECTIONS if rest else item.key in KEYS):
            possible = ", ".join((*KEYS, *(f"{name}.*" for name in SECTIONS)))
            raise UserError(f"{where}: a claim sets no '{item.key}'; it may set {possible}")
    return tuple(given)


def _relation(where: str, given: Any, runs: Mapping[str, Run]) -> Relation:
    kinds = [key for key in given if key in KINDS] if isinstance(given, Mapping) else []
    if len(kinds) != 1:
        raise UserError(f"{where} must have one of {', '.join(KINDS)}, got {given!r:.60}")
    kind = str(kinds[0])
    needed, more = KINDS[kind]
    plain = _mapping(where, given, (kind, *needed), more)
    ratio = values.number(0, above=True)(f"{where}.ratio", plain.get("ratio", 1.0))
    if kind in ("monotone", "not_monotone"):
        if plain[kind] not in runs:
            raise unknown(f"run in {where}", str(plain[kind]), runs)
        steps = values.several(values.whole(1), least=2)(f"{where}.steps", plain["steps"])
        return Relation(kind, plain[kind], steps=tuple(sorted(set(steps))))
    of = _spot(f"{where}.{kind}", plain[kind], runs)
    if kind == "gap":
        if of.model != "student" or of.steps is None:
            raise UserError(f"{where}.gap is closed by a student at a number of steps, got {of}")
        return Relation(kind, of.run, of, value=values.number()(f"{where}.least", plain["least"]))
    than = _spot(f"{where}.than", plain["than"], runs) if "than" in plain else None
    metric = values.text(f"{where}.metric", plain["metric"]) if "metric" in plain else None
    value = values.number()(f"{where}.value", plain["value"]) if "value" in plain else None
    if (than is None) == (value is None):
        raise UserError(f"{where} needs either value or than")
    return Relation(kind, of.run, of, than, metric=metric, value=value, ratio=ratio)


def _spot(where: str, text: Any, runs: Mapping[str, Run]) -> Spot:
    form = _POINT.fullmatch(text) if isinstance(text, str) else None
    if form is None or (form["steps"] == "full" and form["model"] == "student"):
        raise UserError(
            f"{where} must be RUN.student@STEPS or RUN.teacher@STEPS (or @full), got {text!r:.60}"
        )
    if form["run"] not in runs:
        raise unknown(f"run in {where}", form["run"], runs)
    return Spot(form["run"], form["model"], None if form["steps"] == "full" else int(form["steps"]))


def _mapping(where: str, given: Any, needed: Sequence[str], more: Sequence[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be a section of keys, got {given!r:.60}")
    for key in given:
        if key not in (*needed, *more):
            raise unknown(f"key of {where}", str(key), [*needed, *more])
    if lacking := [key for key in needed if key not in given]:
        raise UserError(f"{where} lacks {', '.join(lacking)}")
    return {str(key): value for key, value in given.items()}
