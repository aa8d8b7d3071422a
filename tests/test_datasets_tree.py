"""Data sets that are folders of many files: one sum over their list."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from omnidistill.data.datasets import describe, fetch, locate, tree_sum
from omnidistill.errors import UserError

CONTENTS = {"b.txt": b"two", "a/c.txt": b"three", "a.txt": b"one"}


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A description of a folder of three text files, one of them further down, beside a file it leaves out."""
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "cache"))
    source = tmp_path / "source"
    for name, content in {**CONTENTS, "a/left_out.bin": b"xxxx"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    lines = "".join(f"{hashlib.sha256(CONTENTS[n]).hexdigest()}  {n}\n" for n in sorted(CONTENTS))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    file = tmp_path / "notes.yaml"
    file.write_text(
        "name: notes\ntitle: notes\nlicence: MIT\nattribution: nobody\n"
        f'files: {{texts: {{pattern: "**/*.txt", bytes: 11, sha256: {digest}}}}}\n'
        f"sources: [{{kind: folder, path: {source}}}]\n"
    )
    return file


def test_a_folder_of_files_is_fetched_and_found(described: Path) -> None:
    said: list[str] = []
    folder = fetch(str(described), say=said.append)
    assert {p.relative_to(folder / "texts").as_posix() for p in (folder / "texts").rglob("*.*")} == set(
        CONTENTS
    )
    assert (folder / "texts" / "a" / "c.txt").read_bytes() == b"three"
    assert tree_sum(folder / "texts") == describe(str(described)).files["texts"].sha256
    assert any("licence: MIT" in line for line in said)
    fetch(str(described), say=said.append)
    assert "already in" in said[-1]
    assert locate(str(described)) == folder


def test_a_gathered_folder_is_a_source_of_its_own(described: Path, tmp_path: Path) -> None:
    first = fetch(str(described), say=lambda line: None)
    first.rename(tmp_path / "mine")
    assert (fetch(str(described), tmp_path / "mine", say=lambda line: None) / "texts" / "b.txt").is_file()


@pytest.mark.parametrize("damage", ["changed", "cut", "renamed"])
def test_a_damaged_folder_is_refused_and_nothing_is_left(
    described: Path, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "source" / "b.txt"
    if damage == "renamed":
        file.rename(file.with_name("z.txt"))
    else:
        file.write_bytes(b"twO" if damage == "changed" else b"tw")
    with pytest.raises(UserError, match=r"wrong (sum|size) of texts"):
        fetch(str(described), say=lambda line: None)
    assert not (tmp_path / "cache" / "notes").exists()


def test_a_folder_that_lost_a_file_is_noticed_and_fetched_again(described: Path) -> None:
    folder = fetch(str(described), say=lambda line: None)
    (folder / "texts" / "b.txt").unlink()
    with pytest.raises(UserError, match="damaged"):
        locate(str(described))
    fetch(str(described), say=lambda line: None)
    assert (folder / "texts" / "b.txt").read_bytes() == b"two"
