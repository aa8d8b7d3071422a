"""Every recipe says where its paper has what it does, or why it does not, and where it departs from the paper."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECIPES = {
    file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "configs" / "recipe").glob("*.yaml")
}

PLACE = re.compile(
    r"\b(?:algorithms?|alg\.|equations?|eqs?\.|sections?|secs?\.|theorems?|propositions?|tables?) [A-Z]?\d",
    re.IGNORECASE,
)
WHY_NOT = "no equation numbers are cited"
PAPER = re.compile(
    r"\barXiv:\d{4}\.\d{4,5}\b|\bdoi:10\.\d{4,}/\S+|, (?:[A-Z][\w.-]+ )+(?:19|20)\d\d$"  # or a venue and its year
)


def said(text: str) -> dict[str, list[str] | str]:
    """What a recipe's file says of itself, each text without its line breaks."""
    return yaml.safe_load(text)["recipe"]


def cites(text: str) -> bool:
    """Whether a comment names a place in the paper, or a departure says why none does."""
    comments = [line.partition("#")[2] for line in text.splitlines()]
    return any(map(PLACE.search, comments)) or any(WHY_NOT in line for line in said(text)["departures"])


def test_all_are_looked_at() -> None:
    assert len(RECIPES) > 100


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_names_its_paper_a_place_in_it_and_its_departures(name: str) -> None:
    recipe = said(RECIPES[name])
    assert PAPER.search(recipe["paper"]), f"{name}: paper has no arXiv number, DOI, or venue and year"
    departures = recipe["departures"]
    assert departures and all(isinstance(line, str) and line.strip() for line in departures), name
    assert cites(RECIPES[name]), f"{name}: cite an equation or algorithm in a comment, or say that {WHY_NOT}"


def test_the_index_of_papers_finds_what_is_cited() -> None:
    cited = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["cited"]
    silent = [name for name in RECIPES if not cited(name)]
    assert silent and all(WHY_NOT in " ".join(RECIPES[name].split()) for name in silent)


HEAD = "recipe:\n  paper: A\n  departures: [{}]\nfamilies: {{}} # {}\n"


@pytest.mark.parametrize(
    ("departure", "comment", "enough"),
    [
        ("narrower", "eq. 3: the gap", True),
        ("narrower", "algorithm 1", True),
        (f"written from the abstract, so {WHY_NOT}", "the gap", True),
        ("written from the abstract", "the gap of 3 steps", False),
        ("narrower than eq. 3", "the gap", False),
    ],
)
def test_what_counts_as_a_citation(departure: str, comment: str, enough: bool) -> None:
    assert cites(HEAD.format(departure.replace(",", ""), comment)) is enough


@pytest.mark.parametrize(
    ("paper", "enough"),
    [
        ("Yin et al. 2024, DMD2, arXiv:2405.14867", True),
        ("ours; after Yin et al. 2024, DMD2, arXiv:2405.14867, and others", True),
        ("Frans et al. 2024, Shortcut Models, doi:10.1000/182", True),
        ("Frans et al., Shortcut Models, ICLR 2025", True),
        ("CollectionLoRA 2026", False),
        ("Ma et al. 2024, ScaleDreamer: Scalable Text-to-3D Synthesis", False),
    ],
)
def test_what_counts_as_a_paper(paper: str, enough: bool) -> None:
    assert bool(PAPER.search(paper)) is enough
