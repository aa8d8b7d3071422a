"""Named real data sets: described in YAML, fetched from the first source that delivers, checked by their sums.

A description is a file of `omnidistill.configs.data` (or any YAML file given by its path):

    name, title, licence, attribution
    files:    {name: {bytes: N, sha256: HEX}}      what is stored, unpacked; with `pattern: "**/*.wav"` the name is a
                                                   folder of all files that match, and the sum is `tree_sum`'s
    sources:  [{kind: url|debian|pypi|npm|folder, ...}]   tried in turn, see `omnidistill.data.sources`

A data set is complete or absent: it is gathered in a temporary folder beside its place and moved there in one step.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.data.files import expanded
from omnidistill.data.programs import SourceError
from omnidistill.data.sources import SOURCES, check_source, describe_source, inside
from omnidistill.data.stored import Stored, intact, size_of, store
from omnidistill.data.stored import tree_sum as tree_sum  # for who writes a description
from omnidistill.errors import UserError, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A description: whose work it is, which files it has, and where they may be had."""

    name: str
    title: str
    licence: str
    attribution: str
    files: Mapping[str, Stored]
    sources: tuple[Mapping[str, Any], ...]


def cache() -> Path:
    """The folder of fetched data sets: $OMNIDISTILL_DATA, else ~/.cache/omnidistill."""
    return expanded(os.environ.get("OMNIDISTILL_DATA") or "~/.cache/omnidistill")


def available() -> list[str]:
    """The names of the packaged descriptions, sorted."""
    folder = resources.files("omnidistill.configs").joinpath("data")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def describe(name: str) -> DataSet:
    """The description called `name` (dashes count as underscores), or the one in the YAML file `name`."""
    import yaml

    if name.endswith((".yaml", ".yml")):
        raw = received.read_yaml(Path(name))
    else:
        known = available()
        if name.replace("-", "_") not in known:
            raise unknown("data set", name, known)
        file = resources.files("omnidistill.configs").joinpath("data", name.replace("-", "_") + ".yaml")
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        raw["files"] = {file: Stored(**stored) for file, stored in raw["files"].items()}
        raw["sources"] = tuple(raw["sources"])
        found = DataSet(**raw)
        _check(found)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{name}' does not describe a data set: {reason}") from error
    return found


def locate(name: str) -> Path:
    """The folder of a data set fetched before.

    Raises:
        UserError: it is not there, or a file was cut short since; the line names the command that fetches it.
    """
    data = describe(name)
    folder = cache() / data.name
    for file, stored in data.files.items():
        path = folder / file
        if size_of(path) != stored.bytes:
            what = "is not here" if not path.exists() else f"is damaged ({path.name})"
            raise UserError(
                f"the data set {data.name} {what}; get it with `omnidistill data fetch {data.name}`"
                " (or `... folder=PATH` if you have its files; $OMNIDISTILL_DATA names the cache)"
            )
    return folder


def fetch(name: str, folder: str | Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Gets a data set into the cache and returns its folder; one that is there and intact is left alone.

    Args:
        name: a packaged description, or the path of a YAML file.
        folder: where the user already has the files, packed with gzip or not. Then it is the only source: taking
            other files than the ones pointed at would hide a mistake.
        say: receives the lines for the user: where it came from, licence, attribution.

    Raises:
        UserError: no source delivered files with the right sums; one line with the reason of each. Nothing is left.
    """
    data = describe(name)
    target = cache() / data.name
    if folder is None and _intact(data, target):
        say(f"{data.name}: already in {target}")
        return target
    sources = data.sources if folder is None else ({"kind": "folder", "path": str(folder)},)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{data.name}.", dir=target.parent) as work:
            came_from = _gather(data, sources, Path(work))
            _replace(Path(work) / "files", target, Path(work))
    except OSError as error:
        raise UserError(f"cannot store {data.name} in {target.parent}: {error.strerror or error}") from error
    say(f"{data.name}: {data.title}")
    say(f"  from {came_from}, sums verified, in {target}")
    say(f"  licence: {data.licence}")
    say(f"  attribution: {data.attribution}")
    return target


NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
SUM = re.compile(r"[0-9a-f]{64}")


def _check(data: DataSet) -> None:
    """What names a place or a program's argument is a plain name: the description may be anybody's."""
    # An empty name would be the cache itself, one with a separator something outside of it.
    for name in (data.name, *data.files):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a plain name")
    if not all(isinstance(text, str) for text in (data.title, data.licence, data.attribution)):
        raise ValueError("title, licence and attribution are texts")
    if not data.files:
        raise ValueError("it has no files")
    for name, stored in data.files.items():
        if type(stored.bytes) is not int or stored.bytes < 0:
            raise ValueError(f"files.{name}.bytes is no number of bytes")
        if not isinstance(stored.sha256, str) or not SUM.fullmatch(stored.sha256):
            raise ValueError(f"files.{name}.sha256 is no sum")
        if stored.pattern is not None:
            _check_pattern(inside(stored.pattern))
    for source in data.sources:
        if not isinstance(source, Mapping) or source.get("kind") not in SOURCES:
            kind = source.get("kind") if isinstance(source, Mapping) else source
            raise ValueError(f"source kind '{kind}', known: {', '.join(SOURCES)}")
        check_source(source)


def _check_pattern(pattern: str) -> None:
    try:
        next(Path(os.devnull).glob(pattern), None)  # which looks at the pattern before any file
    except (ValueError, NotImplementedError, LookupError) as error:
        raise ValueError(f"'{pattern}' is no pattern of files: {error}") from error


def _gather(data: DataSet, sources: tuple[Mapping[str, Any], ...], work: Path) -> str:
    """Fills work/files from the first source that delivers all files with the right sums; returns what it was."""
    reasons = []
    for number, source in enumerate(sources):
        scratch, staged = work / f"source{number}", work / "files"
        scratch.mkdir()
        staged.mkdir()
        try:
            found = SOURCES[source["kind"]](source, data.files, scratch)
            for file, stored in data.files.items():
                store(found, staged / file, stored)
            return describe_source(source)
        except SourceError as error:
            reasons.append(f"{describe_source(source)} ({error})")
            shutil.rmtree(staged)
        finally:
            shutil.rmtree(scratch)
    raise UserError(f"no source of {data.name} delivered: {'; '.join(reasons)}; or give folder=PATH")


def _intact(data: DataSet, folder: Path) -> bool:
    return all(intact(folder / name, stored) for name, stored in data.files.items())


def _replace(staged: Path, target: Path, work: Path) -> None:
    """Moves the whole folder at once; a damaged former one goes aside first and dies with the work folder."""
    if target.exists():
        os.replace(target, work / "former")
    os.replace(staged, target)
