"""One scanner for all modalities: order, links, what systems leave behind, and files that are no files."""

import os
from pathlib import Path

import pytest

from omnidistill.data.folder import label_name, natural, read_each, regular, scan, shown
from omnidistill.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def names(root: Path, found) -> list[str]:
    return [file.relative_to(root).as_posix() for file in found]


def test_natural_order_of_files_and_labels(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.png" for c in (10, 2, 1, 12) for i in (10, 9, 1)), "b/x.png", "A/x.png")
    found = scan(tmp_path, (".png",))
    assert found.labels() == ("1", "2", "10", "12", "A", "b")
    assert names(tmp_path, found.files)[:4] == ["1/1.png", "1/9.png", "1/10.png", "2/1.png"]
    assert sorted(["a10", "a9", "a09", "a", "1", "9" * 5000], key=natural) == [
        "1",
        "9" * 5000,
        "a",
        "a09",
        "a9",
        "a10",
    ]


def test_hidden_and_system_files_are_nobodys(tmp_path):
    touch(
        tmp_path,
        "a/1.PNG",
        "a/2.Png",
        "a/._1.png",
        ".hidden/1.png",
        "__MACOSX/a/1.png",
        "a/@eaDir/1.png/T.png",
    )
    touch(tmp_path, "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "$RECYCLE.BIN/1.png", "a/notes.txt")
    found = scan(tmp_path, (".png",))
    assert names(tmp_path, found.files) == ["a/1.PNG", "a/2.Png"] and names(tmp_path, found.strays) == [
        "a/notes.txt"
    ]
    assert not found.wrong and found.labels() == ("a",)
    said: list[str] = []
    assert [r for _, r in read_each(found, lambda f: f.name, say=said.append, what="pictures")] == [
        "1.PNG",
        "2.Png",
    ]
    assert len(said) == 1 and said[0].endswith("1 files are no pictures and left aside: a/notes.txt")


def test_the_root_itself_may_be_hidden_or_a_single_file(tmp_path):
    touch(tmp_path, ".cache/a/1.png")
    assert len(scan(tmp_path / ".cache", (".png",)).files) == 1
    alone = scan(tmp_path / ".cache" / "a" / "1.png", (".png",))
    assert len(alone.files) == 1 and alone.label(alone.files[0]) == ""


def test_links_are_followed_and_cycles_are_not(tmp_path):
    touch(tmp_path, "data/a/1.png", "elsewhere/2.png", "elsewhere/deep/3.png")
    root = tmp_path / "data"
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "one.png").symlink_to("1.png")
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(root)
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    found = scan(root, (".png",))
    assert names(root, found.files) == ["a/1.png", "a/one.png", "b/2.png", "b/deep/3.png"]
    assert len(found.wrong) == 2 and "gone.png: is a link to nothing" in found.wrong[0]
    assert found.wrong[1].endswith("b/deep/loop: a link that leads back to a folder above it")


def test_fifos_and_devices_are_refused_before_they_are_opened(tmp_path):
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    found = scan(tmp_path, (".png",))
    assert names(tmp_path, found.files) == ["1.png"]
    assert [line.split(" is ")[1] for line in found.wrong] == ["a fifo, not a file", "a device, not a file"]
    for name, said in (
        ("2.png", "a fifo"),
        ("3.png", "a device"),
        ("", "a folder"),
        ("4.png", "No such file"),
    ):
        with pytest.raises(UserError, match=said):
            regular(tmp_path / name)
    with pytest.raises(UserError, match=r"1\.png has 5e-06 MB, more than the 4e-06 MB"):
        regular(tmp_path / "1.png", 4)
    assert regular(tmp_path / "1.png", 5) == 5


def test_a_bad_file_stops_or_is_skipped_and_counted(tmp_path):
    touch(tmp_path, *(f"{i}.png" for i in range(4)))

    def read(file: Path) -> str:
        if file.name in ("1.png", "3.png"):
            raise UserError(f"{file} is broken")
        return file.name

    found, said = scan(tmp_path, (".png",)), []
    with pytest.raises(UserError, match=r"1\.png is broken \(on_bad=skip leaves such files out\)$"):
        read_each(found, read)
    assert [r for _, r in read_each(found, read, "skip", what="pictures", say=said.append)] == [
        "0.png",
        "2.png",
    ]
    assert [line.rpartition("/")[2] for line in said] == [
        "1.png is broken",
        "3.png is broken",
        "2 of 4 pictures skipped",
    ]
    with pytest.raises(UserError, match="unknown choice of on_bad 'ignore'"):
        read_each(found, read, "ignore")
    found.files = found.files[1::2]
    with pytest.raises(UserError, match=r"none of 2 pictures could be read; the first: .*1\.png is broken"):
        read_each(found, read, "skip", what="pictures", say=said.append)
    os.mkfifo(tmp_path / "9.png")
    with pytest.raises(
        UserError, match=r"9\.png is a fifo, not a file; mend or remove it, or set on_bad=skip"
    ):
        read_each(scan(tmp_path, (".png",)), lambda file: file)


def test_any_name_is_shown_in_one_line_and_is_one_label(tmp_path):
    touch(tmp_path, "a\nb/1.png", "caf\u00e9/1.png", "cafe\u0301/2.png")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / os.fsdecode(b"\xff") / "1.png").write_text("x")
    found = scan(tmp_path, (".png",))
    assert set(found.labels()) == {"a\\nb", "caf\u00e9", "\\udcff"}
    for file in found.files:
        assert "\n" not in shown(file) and shown(file).encode()
    assert label_name("cafe\u0301") == "caf\u00e9"


def test_nothing_there_is_one_line(tmp_path):
    for path in (tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(UserError, match="no folder of pictures at") as error:
            scan(path, (".png",), what="pictures")
        assert "\n" not in str(error.value) and "\0" not in str(error.value)
    assert scan(tmp_path, (".png",)).files == []
