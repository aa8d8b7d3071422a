"""Names of labels: saved with teacher and student, asked for by `sample condition=NAME`, and held to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import omnidistill
from omnidistill.cli import main
from omnidistill.errors import UserError
from omnidistill.student import label_number

Image = pytest.importorskip("PIL.Image")
NETWORK = "task.network={channels: [8, 16], unshuffle: 2}"
KEYS = (
    "task=image/fashion_mnist_pixels",
    NETWORK,
    "device=cpu",
    "precision=fp32",
    "batch=4",
    "task.teacher_steps=2",
)


def pictures(root: Path, labels: list[str]) -> Path:
    r = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for index in range(8):
            pixels = r.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    folder = pictures(root / "pictures", ["10", "9", "cat\u00e9"])
    data = (f"task.folder={folder}", "task.classes=3")
    assert main(["train", *KEYS, *data, "updates=2", f"out={root / 'teacher'}"]) == 0
    more = (f"teacher={root / 'teacher'}", "recipe=consistency-models", "steps=1", "evaluation.samples=16")
    assert main(["distill", *KEYS, *data, *more, "updates=2", f"out={root / 'student'}"]) == 0
    return root


def test_names_are_saved_in_the_order_of_their_numbers(run: Path):
    for name in ("teacher", "student"):
        saved = json.loads((run / name / f"{name}.json").read_text())
        assert saved["task"]["labels"] == ["9", "10", "cat\u00e9"]


def test_samples_are_asked_for_by_name_without_the_data(run: Path, tmp_path: Path, capsys):
    (run / "pictures").rename(run / "moved")
    try:
        student = omnidistill.load(run / "student")
        assert student.task is not None and student.task.labels == ("9", "10", "cat\u00e9")
        by_name, by_number = (student.sample(3, 1, 0, condition=c) for c in ("10", 1))
        assert torch.equal(by_name, by_number)
        assert torch.equal(student.sample(3, 1, 0, "cate\u0301"), student.sample(3, 1, 0, "2"))
        for name in ("10", "cat\u00e9"):
            words = ["sample", str(run / "student"), f"condition={name}", "count=2", f"out={tmp_path / name}"]
            assert main(words) == 0
        capsys.readouterr()
        assert main([*words[:2], "condition=dog", f"out={tmp_path / 'dog'}"]) == 2
        said = capsys.readouterr().err.strip()
        assert "unknown label 'dog'; known: 10, 9, cat\u00e9" in said and "\n" not in said
    finally:
        (run / "moved").rename(run / "pictures")


def test_a_teacher_of_other_labels_is_refused(run: Path, tmp_path: Path, capsys):
    other = pictures(tmp_path / "other", ["a", "b", "c"])
    words = ["distill", *KEYS, f"task.folder={other}", "task.classes=3", f"teacher={run / 'teacher'}"]
    assert main([*words, "recipe=consistency-models", "updates=2", f"out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the teacher knows the labels 9, 10, cat\u00e9, the task has a, b, c" in said


def test_a_name_is_a_number_only_where_no_label_is_called_so():
    assert [label_number(name, ("2", "0", "x")) for name in ("2", "0", "x", "1")] == [0, 1, 2, 1]
    assert label_number("7", ()) == 7
    for name, labels, said in (("x", (), "a whole number"), ("-1", ("a",), "unknown label '-1'")):
        with pytest.raises(UserError, match=said):
            label_number(name, labels)
