"""`omnidistill export` and `omnidistill cite`, and the card of a run that was judged."""

from __future__ import annotations

from pathlib import Path

import pytest

import omnidistill
from omnidistill.cli import main
from omnidistill.runs import cite


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run on a closed form."""
    out = tmp_path_factory.mktemp("runs") / "first"
    words = ["task=exact/gaussian_mixture", "recipe=consistency-models"]
    quick = ["updates=1", "batch=8", "fit.updates=1", "steps=1,2", "evaluation.samples=64", "device=cpu"]
    assert main(["distill", *words, *quick, f"out={out}"]) == 0
    return out


def test_a_folder_of_our_own_with_its_card(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "handed"
    assert main(["export", str(run), "format=safetensors", f"out={out}"]) == 0
    assert capsys.readouterr().out.strip() == f"safetensors: {out / 'README.md'}"
    card = (out / "README.md").read_text()
    assert "Consistency Models" in card and "2303.01469" in card
    assert "| student | 1 | 1 |" in card and "energy (lower is better)" in card
    assert omnidistill.load(out).sample(3).shape[0] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out=x"], "format is missing"),
        (["format=safetensors"], "out is missing"),
        (["format=onxx", "out=x"], "unknown format 'onxx'; did you mean onnx"),
        (["format=onnx", "out=x", "verify=maybe"], "verify must be true or false"),
        (["format=onnx", "out=x", "stepz=2"], "unknown key 'stepz'"),
        (["format=diffusers", "out=x"], "no scheduler of diffusers|no class of diffusers"),
        (["format=peft", "out=x"], "is no adapter"),
    ],
)
def test_mistakes(
    words: list[str],
    said: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *words]) == 2
    found = capsys.readouterr().err
    assert re.search(said, found) and found.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_cite_prints_what_a_run_used(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(run)]) == 0
    text = capsys.readouterr().out
    assert "eprint = {2303.01469}" in text and "@software{omnidistill" in text
    assert "author = {Song and Dhariwal and Chen and Sutskever}" in text
    assert "% path" in text
    assert text.count("{") == text.count("}")


def test_every_recipes_papers_are_read() -> None:
    from omnidistill.configuration import listing

    keys: dict[str, str] = {}
    for recipe in listing.recipes(None):
        found = cite.papers(recipe["paper"])
        assert found, recipe["name"]
        assert len(found) == max(1, recipe["paper"].count("arXiv:")), recipe["name"]
        for paper in found:
            assert paper.title and paper.authors and paper.year in recipe["paper"], recipe["name"]
            assert "," not in paper.key and keys.setdefault(paper.key, paper.arxiv) == paper.arxiv
    two = cite.papers(
        "Liu, Gong and Liu 2022, Flow, arXiv:2209.03003; Liu et al. 2023, InstaFlow, arXiv:2309.06380"
    )
    assert [paper.title for paper in two] == ["Flow", "InstaFlow"]
    assert "author = {Liu and others}" in two[1].bibtex()


def test_a_paths_and_a_metrics_papers_are_there() -> None:
    from omnidistill.paths import named

    listed = cite.known()
    for name, text in {**listed["paths"], **listed["metrics"], **listed["adapters"]}.items():
        assert len(cite.papers(text)) == 1 and cite.papers(text)[0].arxiv, name
    for name in listed["paths"]:
        assert hasattr(named, name) or name in ("MaskedPath", "UniformPath")
