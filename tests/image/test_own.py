"""Pictures of the user's own: folders and tables, a split that leaks nothing, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.image.own import own_images, own_labels
from omnidistill.modalities.image.pictures import read_picture

Image = pytest.importorskip("PIL.Image")


def picture(file: Path, seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(file)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, count in (("cat", 20), ("dog", 16)):
        for index in range(count):
            suffix = ".png" if index % 2 else ".jpg"
            picture(
                tmp_path / "pets" / label / f"{index}{suffix}",
                seed=1000 * len(label) * (label == "cat") + index,
            )
    return tmp_path / "pets"


def rows(images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_class_folders_become_grey_squares_with_labels(folder):
    train, held_out = (own_images(folder, split, classes=2) for split in ("train", "held_out"))
    assert train.images.shape[1:] == (1, 28, 28) and train.images.dtype == torch.float32
    assert train.images.min() >= -1 and train.images.max() <= 1 and train.images.std() > 0.05
    assert len(train.labels) + len(held_out.labels) == 36 and 1 <= len(held_out.labels) <= 14
    assert train.labels.bincount().sum() == len(train.labels) and set(train.labels.tolist()) == {0, 1}
    assert not rows(train) & rows(held_out)


def test_the_split_goes_by_content_not_by_name_or_order(folder):
    before = rows(own_images(folder, "held_out"))
    for index, file in enumerate(sorted(folder.rglob("*.png"))):
        file.rename(file.with_name(f"renamed{-index}.png"))
    (folder / "cat" / "note.txt").write_text("no picture")
    (folder / "cat" / ".hidden.png").write_text("no picture either")
    assert rows(own_images(folder, "held_out")) == before
    # A copy under another name, in another class, is on its original's side.
    for number, file in enumerate(sorted((folder / "cat").glob("renamed*.png"))):
        (folder / "dog" / f"copy{number}.png").write_bytes(file.read_bytes())
    assert not rows(own_images(folder, "train")) & rows(own_images(folder, "held_out"))
    assert rows(own_images(folder, "held_out")) == before


def test_train_and_test_folders_decide(tmp_path):
    for split, count in (("train", 5), ("test", 2)):
        for label in "ab":
            for index in range(count):
                picture(tmp_path / split / label / f"{index}.png", seed=hash((split, label, index)) % 2**32)
    assert own_images(tmp_path, "train").labels.tolist() == [0] * 5 + [1] * 5
    assert own_images(tmp_path, "held_out").labels.tolist() == [0, 0, 1, 1]
    picture(tmp_path / "train" / "c" / "0.png", seed=9)
    with pytest.raises(UserError, match="class 'c' is in train alone") as error:
        own_images(tmp_path, "train")
    one_line(error)


def test_a_table_of_paths(tmp_path):
    for index in range(6):
        picture(tmp_path / "files" / f"{index}.png", seed=index)
    table = tmp_path / "pets.csv"
    lines = [
        f"files/{index}.png,{'dog' if index % 2 else 'cat'},{'test' if index < 2 else 'train'}"
        for index in range(6)
    ]
    table.write_text("path,label,split\n" + "\n".join(lines) + "\n")
    assert own_images(table, "train").labels.tolist() == [0, 1, 0, 1]
    assert own_images(table, "held_out").labels.tolist() == [0, 1]
    expected = read_picture(tmp_path / "files" / "2.png", 28)
    found = ((own_images(table, "train").images[0, 0] + 1) * 127.5).round().byte().numpy()
    np.testing.assert_array_equal(found, expected)
    for broken, says in (
        ("path,label\nfiles/9.png,cat\n", "line 2: no such file"),
        ("file,class\nfiles/0.png,cat\n", "needs a first line path,label"),
        ("path,label\n", "needs a first line path,label"),
        ("path,label\nfiles/0.png,\n", "line 2: a row is path,label"),
        ("path,label,split\nfiles/0.png,cat,valid\n", r"split \(train or test\), got files/0.png,cat,valid"),
    ):
        table.write_text(broken)
        with pytest.raises(UserError, match=says) as error:
            own_images(table, "train")
        one_line(error)


def test_grey_deep_and_transparent_pictures(tmp_path):
    ramp = np.linspace(0, 1, 28 * 28).reshape(28, 28)
    Image.fromarray((ramp * 255).round().astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((ramp * 65535).round().astype(np.uint16)).save(tmp_path / "deep.png")
    grey, deep = (read_picture(tmp_path / name, 28).astype(int) for name in ("grey.png", "deep.png"))
    assert abs(grey - deep).max() <= 1 and grey.max() == 255
    clear = np.zeros((30, 30, 4), np.uint8)
    clear[..., :3] = 255
    clear[10:20, 10:20, 3] = 255
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    seen = read_picture(tmp_path / "clear.png", 28)
    assert seen[0, 0] == 0 and seen[14, 14] == 255


def test_pictures_keep_their_centre_and_their_proportions(tmp_path):
    wide = np.zeros((56, 168), np.uint8)
    wide[:, 56:112] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_picture(tmp_path / "wide.png", 28) == 200).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(b"hello"), "no picture that is read"),
        (lambda file: file.write_bytes(picture(file, 3).read_bytes()[:900]), "cannot read the picture"),
        (lambda file: picture(file, 3, size=(20, 40)), "20x40 pixels, smaller than 28x28"),
    ],
)
def test_bad_pictures_are_named(tmp_path, make, says):
    make(tmp_path / "bad.png")
    with pytest.raises(UserError, match=says) as error:
        read_picture(tmp_path / "bad.png", 28)
    assert "bad.png" in one_line(error)


def test_nothing_there_and_another_number_of_classes(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, says in (
        (tmp_path / "nowhere", "no pictures at"),
        (tmp_path / "empty", "has no class folders with pictures"),
        (tmp_path / "none.csv", "cannot read the table"),
    ):
        with pytest.raises(UserError, match=says) as error:
            own_images(source, "train")
        one_line(error)
    with pytest.raises(
        UserError, match=r"has 2 classes \(cat, dog\), the task 10; set task.classes=2"
    ) as error:
        own_images(folder, "train", classes=10)
    one_line(error)
    picture(tmp_path / "one" / "cat" / "1.png", seed=0)
    splits = []
    for split in ("train", "held_out"):
        try:
            splits.append(len(own_images(tmp_path / "one", split).labels))
        except UserError as error:
            assert "none of them in" in str(error)
    assert splits == [1], "one picture is on one side"


def test_classes_are_numbered_as_people_count(tmp_path):
    for label in range(1, 13):
        for index in range(8):
            picture(tmp_path / str(label) / f"{index}.PNG", seed=100 * label + index)
    assert own_labels(tmp_path) == tuple(str(label) for label in range(1, 13))
    train = own_images(tmp_path, "train", classes=12)
    for label in (1, 2, 10, 12):
        expected = {read_picture(file, 28).tobytes() for file in (tmp_path / str(label)).iterdir()}
        found = ((train.images[train.labels == label - 1, 0] + 1) * 127.5).round().byte().numpy()
        assert len(found) and {image.tobytes() for image in found} <= expected
    # A teacher's names keep their numbers, whatever the folder lacks or calls otherwise.
    names = [str(label) for label in range(12, 0, -1)]
    assert torch.equal(own_images(tmp_path, "train", labels=names).labels, 11 - train.labels)
    with pytest.raises(UserError, match=r"unknown class in .* '1'"):
        own_images(tmp_path, "train", labels=names[:-1])


def test_what_systems_leave_is_ignored_and_a_bad_picture_stops_or_is_skipped(folder, capsys):
    before = {split: rows(own_images(folder, split)) for split in ("train", "held_out")}
    for name in ("cat/.DS_Store", "cat/._0.jpg", "dog/Thumbs.db", "__MACOSX/cat/1.png", "@eaDir/x/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not the user's")
    assert {split: rows(own_images(folder, split)) for split in before} == before
    capsys.readouterr()
    for name in ("cat/broken.png", "dog/broken.jpg", "loose.png"):
        (folder / name).write_text("no picture")
    with pytest.raises(UserError, match=r"loose\.png lies beside the class folders") as error:
        own_images(folder, "train")
    one_line(error)
    (folder / "loose.png").unlink()
    counts = []
    for split in before:
        try:
            own_images(folder, split)
        except UserError as error:
            assert "broken" in str(error) and "on_bad=skip" in str(error) and "\n" not in str(error)
        assert rows(own_images(folder, split, on_bad="skip")) == before[split]
        counts += [line for line in capsys.readouterr().err.splitlines() if "pictures skipped" in line]
    assert sum(int(line.split()[0]) for line in counts) == 2


def test_three_pictures_are_enough_for_two_sides(tmp_path):
    for seed in range(40):
        for index in range(3):
            picture(tmp_path / str(seed) / "cat" / f"{index}.png", seed=1000 * seed + index)
        sides = [len(own_images(tmp_path / str(seed), split).labels) for split in ("train", "held_out")]
        assert sum(sides) == 3 and min(sides) >= 1
