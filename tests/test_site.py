"""The site builds with every link leading somewhere, loads nothing from elsewhere, and its tutorials run."""

from __future__ import annotations

import html.parser
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from omnidistill.cli import main
from omnidistill.configuration import listing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted(file.stem for file in (DOCS / "tutorials").glob("*.md") if file.stem != "index")
PACKAGES = {
    "pictures": ("diffusers",),
    "text": ("transformers", "tokenizers"),
    "speech": ("soundfile", "librosa"),
    "structures": ("biotite",),
}


class Loaded(html.parser.HTMLParser):
    """Addresses that a page fetches by itself; links are followed by people alone."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        fetched = said.get("src") if tag in ("script", "img", "iframe") else None
        if tag == "link" and said.get("rel") in ("stylesheet", "preconnect", "icon"):
            fetched = said.get("href")
        self.found |= {fetched} if fetched else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(out)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return out


def test_it_loads_nothing_from_elsewhere_and_knows_the_api(site: Path) -> None:
    pages = list(site.rglob("index.html"))
    assert len(pages) > 20
    for page in pages:
        seen = Loaded()
        seen.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in seen.found if "//" in address], page
    text = (site / "reference" / "denoisers" / "index.html").read_text(encoding="utf-8")
    assert "omnidistill.denoisers.network.NetworkDenoiser" in text and "time_input" in text


def test_the_index_has_every_recipe_with_its_verdict(site: Path) -> None:
    text = (site / "papers" / "index.html").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r'<td><a href="#([\w-]+)">.*?</a></td>.*?<td>([\w ]+)</td>\s*</tr>', text, re.DOTALL)
    )
    known = json.loads((ROOT / "configs" / "claim" / "verdicts.json").read_text())
    words = {True: "holds", False: "falls short", None: "not run"}
    assert rows == {name: words[known.get(name)] for name in listing.names("recipe")}
    assert all(f'id="{name}"' in text for name in rows)


def test_what_the_index_cites_is_what_the_recipes_say() -> None:
    cited = runpy.run_path(str(DOCS / "hooks.py"))["cited"]
    assert cited("sdtt") == ["algorithm 1"] and "sec. 4.3" in cited("dmd2")
    for name in listing.names("recipe"):
        text = (ROOT / "configs" / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
        assert all(place in text for place in cited(name))


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Named there, or else put at the end of the guide."""
    start = (site / "index.html").read_text(encoding="utf-8")
    for file in DOCS.rglob("*.md"):
        place = file.relative_to(DOCS).with_suffix("")
        folder = place.parent if place.name in ("index", "README") else place
        assert f'href="{"." if folder == Path(".") else f"{folder.as_posix()}/"}"' in start, file


RUN = [pytest.param(name, marks=pytest.mark.slow) if name == "sweep" else name for name in TUTORIALS]
"""The cells of a sweep are processes, each of which imports everything anew."""


@pytest.mark.parametrize("name", RUN)
def test_a_tutorial_runs_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block, in order, in an empty folder: commands of omnidistill by its own entry, and the two of the shell."""
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scope: dict[str, object] = {"__name__": "tutorial"}
    text = (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert sum(language == "bash" for language, _ in blocks) >= 1
    for language, code in blocks:
        if language == "python":
            exec(compile(code, f"{name}.md", "exec"), scope)
            continue
        assert language == "bash", f"a block of {language} is run by nobody"
        for line in code.replace("\\\n", " ").splitlines():
            command, *words = shlex.split(line)
            if command == "omnidistill":
                assert main(words) == 0, line
            else:
                assert command == "echo" and words[-2] == ">", line
                Path(words[-1]).write_text(" ".join(words[:-2]) + "\n")
    sys.modules.pop("my_nets", None)
