"""What a run used, as BibTeX: its recipe's papers, its path, its metrics, adapters, and this software."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from omnidistill import __version__
from omnidistill.configuration import received
from omnidistill.configuration.compose import load_config
from omnidistill.errors import UserError

PAPER = re.compile(r"(?P<before>.*?)arXiv:(?P<id>\d{4}\.\d{4,5})", re.DOTALL)
ABOUT = re.compile(r"(?P<authors>.+?) (?P<year>(?:19|20)\d\d)(?:, (?P<title>.+?))?[,\s]*$", re.DOTALL)


def known() -> dict[str, dict[str, str]]:
    """Papers of paths, metrics and adapters, by name."""
    import yaml

    text = resources.files("omnidistill.configs").joinpath("citations.yaml").read_text(encoding="utf-8")
    read: dict[str, dict[str, str]] = yaml.safe_load(text)
    return read


@dataclass(frozen=True)
class Paper:
    """One paper as a recipe cites it; `arxiv` is empty where it has no number there."""

    authors: str
    year: str
    title: str
    arxiv: str

    @property
    def key(self) -> str:
        first = re.sub(
            r"[^A-Za-z]", "", self.authors.split(" et al")[0].split(",")[0].split(" and ")[0]
        ).lower()
        words = re.findall(r"[A-Za-z]{4,}", self.title)
        return f"{first}{self.year}{(words[0].lower() if words else self.arxiv.replace('.', ''))}"

    def bibtex(self) -> str:
        """An entry, capitals inside of words kept."""
        title = re.sub(r"([A-Z][\w-]*[A-Z]\w*|\b[A-Z]{2,}\b)", r"{\1}", self.title)
        lines = [f"author = {{{_authors(self.authors)}}}", f"title = {{{title}}}", f"year = {{{self.year}}}"]
        if self.arxiv:
            lines += [f"eprint = {{{self.arxiv}}}", "archivePrefix = {arXiv}"]
            lines += [f"url = {{https://arxiv.org/abs/{self.arxiv}}}"]
        return f"@misc{{{self.key},\n" + "".join(f"  {line},\n" for line in lines) + "}"


def _authors(text: str) -> str:
    """Names between `and`s, as BibTeX reads them; `et al.` is `others`."""
    text = text.replace(" et al.", " and others")
    return " and ".join(part.strip() for part in re.split(r",\s*|\s+and\s+", text) if part.strip())


def papers(text: str) -> list[Paper]:
    """The papers in a line such as `Luo et al. 2023, Latent Consistency Models, arXiv:2310.04378; ...`."""
    found, rest = [], text
    for match in PAPER.finditer(text):
        found.append(_paper(match["before"], match["id"]))
        rest = text[match.end() :]
    return found if found else [_paper(rest, "")]


def _paper(before: str, arxiv: str) -> Paper:
    before = re.sub(r"^.* as in ", "", re.sub(r"^[;,\s]+", "", before)).rstrip(" ,")
    about = ABOUT.match(before)
    if about is None:
        return Paper(before or "Anonymous", f"20{arxiv[:2]}" if arxiv else "", before, arxiv)
    return Paper(about["authors"], about["year"], about["title"] or about["authors"], arxiv)


def used(folder: str | Path) -> dict[str, list[Paper]]:
    """The papers of a run, by what they are cited for; each once.

    Raises:
        UserError: no run, or one that says no recipe.
    """
    folder = Path(folder)
    cfg: Any = load_config(folder)
    recipe = cfg.get("recipe")
    if not recipe or not recipe.get("paper"):
        raise UserError(f"'{folder}' says no recipe: a teacher cites what it is made of by itself")
    lines: dict[str, Iterable[str]] = {
        "recipe": [str(recipe.paper)],
        "path": [],
        "metrics": [],
        "adapters": [],
    }
    listed = known()
    lines["path"] = [listed["paths"][name] for name in _paths(folder, cfg) if name in listed["paths"]]
    lines["metrics"] = [listed["metrics"][name] for name in _metrics(folder) if name in listed["metrics"]]
    if cfg.get("student", {}).get("adapter"):
        lines["adapters"] = [listed["adapters"]["lora"]]
    seen: set[str] = set()
    found: dict[str, list[Paper]] = {}
    for about, texts in lines.items():
        for paper in (paper for text in texts for paper in papers(text)):
            if paper.key not in seen:
                seen.add(paper.key)
                found.setdefault(about, []).append(paper)
    return found


def _paths(folder: Path, cfg: Any) -> list[str]:
    """Names of the path: what the student's description says, else what its task makes of nothing said."""
    from omegaconf import OmegaConf

    task = OmegaConf.to_container(cfg.task, resolve=True)
    names = [
        value["_target_"].rpartition(".")[2]
        for value in _sections(task)
        if isinstance(value.get("_target_"), str) and "paths" in value["_target_"]
    ]
    if names or not isinstance(task, Mapping) or "_target_" not in task:
        described = folder / "student.json"
        document = received.read_json(described) if described.is_file() else {}
        foreign = document.get("foreign") if isinstance(document, Mapping) else None
        path = foreign.get("path") if isinstance(foreign, Mapping) else None
        return names or ([str(path.get("_target_")).rpartition(".")[2]] if isinstance(path, Mapping) else [])
    from omnidistill.runs.setup import task_of

    path = task_of(cfg).path
    return [getattr(path, "name", None) or type(path).__name__]


def _sections(value: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from _sections(item)


def _metrics(folder: Path) -> list[str]:
    file = folder / "metrics.json"
    document = received.read_json(file) if file.is_file() else {}
    rows = document.get("student", []) if isinstance(document, Mapping) else []
    return sorted({name for row in rows if isinstance(row, Mapping) for name in row.get("metrics", {})})


def bibtex(folder: str | Path) -> str:
    """BibTeX of all that a run used, this software last."""
    found = used(folder)
    parts = [f"% {about}\n{paper.bibtex()}" for about, all_ in found.items() for paper in all_]
    software = (
        "% software\n@software{omnidistill,\n  author = {{The omnidistill authors}},\n"
        "  title = {omnidistill: few-step students of slow generative teachers, in every modality},\n"
        f"  version = {{{__version__}}},\n  license = {{Apache-2.0}},\n}}"
    )
    return "\n\n".join([*parts, software])
