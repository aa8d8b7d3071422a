"""The prompts: transcripts read, what is no speech left out, and a split that divides nothing that belongs together."""

import gzip
from pathlib import Path

import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.speech.prompts import Prompt, groups, prompts, read_transcripts, split

TEXTS = """; comment
activated: Activated.
beep: [this is a simple beep tone]
conf-adminmenu: Please press 1.
conf-adminmenu-18: Please press 2.
digits/1: one
1-again: One!
letters/at: at [@]
"""


def made(names_and_texts: dict[str, str]) -> list[Prompt]:
    return [Prompt(name, Path(name), text) for name, text in names_and_texts.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "transcripts").mkdir()
    (tmp_path / "transcripts" / "sounds.txt.gz").write_bytes(gzip.compress(TEXTS.encode()))
    for name in ("activated", "beep", "digits/1", "1-again", "letters/at", "silence/1"):
        path = tmp_path / "prompts" / "sounds" / "en" / f"{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0")
    return tmp_path


def test_prompts_are_named_as_in_the_transcripts_and_effects_are_left_out(folder: Path) -> None:
    found = {p.name: p.text for p in prompts(folder)}
    assert found == {"activated": "Activated.", "digits/1": "one", "1-again": "One!", "letters/at": "at [@]"}


def test_a_line_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("fine: yes\nno colon here\n")
    with pytest.raises(UserError, match="line 2"):
        read_transcripts(tmp_path / "t.txt")


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data fetch asterisk_en"):
        prompts(tmp_path)


def test_equal_words_equal_names_and_continued_names_stay_together() -> None:
    items = made(
        {
            "digits/1": "one",
            "say-one": "One.",
            "letters/h": "h",
            "h": "other words",
            "menu": "press",
            "menu-18": "press more",
            "alone": "alone",
        }
    )
    found = {frozenset(p.name for p in group) for group in groups(items)}
    assert found == {
        frozenset({"digits/1", "say-one"}),
        frozenset({"letters/h", "h"}),
        frozenset({"menu", "menu-18"}),
        frozenset({"alone"}),
    }


def test_the_split_divides_no_group_and_does_not_depend_on_the_order() -> None:
    items = made({f"p{i}": f"words {i % 70}" for i in range(100)})
    train, held = split(items, 0.2)
    assert len(train) + len(held) == 100 and 10 <= len(held) <= 20
    assert not {p.words for p in train} & {p.words for p in held}
    again = split(items[::-1], 0.2)
    assert {p.name for p in again[1]} == {p.name for p in held}
