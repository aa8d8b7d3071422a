"""The index of papers, made of the recipes, their claims and the committed results each time the site is built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omnidistill.commands.claims import WORDS
from omnidistill.commands.claims import said as spoken
from omnidistill.configuration import claim_file, listing

ROOT = Path(__file__).parents[1]
CITED = re.compile(
    r"\b(?:algorithms?|alg\.|equations?|eqs?\.|sections?|secs?\.|theorems?|propositions?|tables?|app\.) "
    r"[A-Z]?\.?\d+(?:\.\d+)*[a-z]?(?:(?:, | and | to )\d+(?:\.\d+)*\b)*"
)
HEAD = """# Papers

{count} recipes, each an option or a sum of a few objectives. *Where* is what of the paper the recipe's file cites. The
*verdict* is that of `omnidistill claim NAME`, a small experiment of minutes whose figures are committed:
{holds} hold, {short} fall short here, {none} have not been run. A verdict is about that experiment, not about the
paper. What departs from a paper, and what was measured, follows below the table.

| recipe | paper | where | family | verdict |
|---|---|---|---|---|
"""


def index() -> str:
    """The page, as Markdown."""
    claims = {entry["recipe"]: entry for entry in claim_file.claims()}
    recipes = sorted(listing.recipes(), key=lambda entry: entry["name"])
    verdicts = [claims.get(entry["name"], {}).get("holds") for entry in recipes]
    lines = [
        HEAD.format(
            count=len(recipes),
            holds=verdicts.count(True),
            short=verdicts.count(False),
            none=verdicts.count(None),
        )
    ]
    for entry, holds in zip(recipes, verdicts, strict=True):
        name = entry["name"]
        row = (f"[{name}](#{name})", entry["paper"], "; ".join(cited(name)), entry["family"], WORDS[holds])
        lines.append("| " + " | ".join(cell(value) for value in row) + " |\n")
    lines += [about(entry, claims.get(entry["name"])) for entry in recipes]
    return "".join(lines)


def cited(name: str) -> list[str]:
    """What a recipe's comments cite of its paper, each once."""
    text = (ROOT / "configs" / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    return list(dict.fromkeys(found for line in comments for found in CITED.findall(line)))


def about(entry: dict[str, Any], claim: dict[str, Any] | None) -> str:
    """A recipe's section: what it needs, departs in, promises and came to."""
    name = entry["name"]
    said = listing.content("recipe", name)["recipe"]
    parts = [f"\n## {name} {{: #{name} }}\n\n{prose(said['title'])}: {prose(entry['paper'])}\n"]
    parts.append(f"\nNeeds {', '.join(entry['needs']) or 'nothing beside a teacher'}.\n")
    if said.get("departures"):
        parts.append("\n" + "".join(f"- {prose(line)}\n" for line in said["departures"]))
    if claim is None:
        return "".join(parts)
    verdict = spoken(claim["holds"], claim_file.again().get(name, {})).capitalize()
    parts.append(f"\nClaim: {prose(claim['statement'])}. **{verdict}.**\n")
    file = ROOT / "benchmarks" / "results" / "claims" / f"{name}.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        parts.append("\n| relation | measured | against | |\n|---|---|---|---|\n")
        for relation, figure in found["figures"].items():
            row = (relation, shown(figure, ""), shown(figure, "against_"), "yes" if figure["holds"] else "no")
            parts.append("| " + " | ".join(cell(value) for value in row) + " |\n")
    return "".join(parts)


def shown(figure: dict[str, Any], side: str) -> str:
    """`93.0 (89.8 to 97.8)`, of one side of a relation."""
    value, interval = figure.get("against" if side else "figure"), figure.get(f"{side}interval")
    if isinstance(value, dict):
        each = ({"figure": value[key], "interval": (interval or {}).get(key)} for key in value)
        return ", ".join(f"{key}: {shown(one, '')}" for key, one in zip(value, each, strict=True))
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return text if not interval else f"{text} ({interval[0]:.4g} to {interval[1]:.4g})"


def prose(value: Any) -> str:
    """A text whose brackets, underscores and angles are no markup."""
    return re.sub(r"([\[\]<>*_|])", r"\\\1", " ".join(str(value).split()))


def cell(value: Any) -> str:
    """A text within a table; a link stays one."""
    text = " ".join(str(value).split())
    return text if text.startswith("[") and text.endswith(")") else prose(text)


def on_config(config: Any) -> Any:
    """Called by mkdocs: pages that the navigation does not name stand at the end of the guide, lest one be lost."""
    listed = re.findall(r"[\w/]+\.md", json.dumps(config["nav"]))
    docs = Path(config["docs_dir"])
    others = sorted({file.relative_to(docs).as_posix() for file in docs.rglob("*.md")} - {*listed})
    guide = next(part["Guide"] for part in config["nav"] if "Guide" in part)
    guide += others
    return config


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs: adds the page to the sources."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "papers.md", content=index()))
    return files
