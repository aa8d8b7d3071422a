"""The image tasks as plug-ins: pixels and latents are one class, and the conformance suite passes on both."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.image import data
from omnidistill.modalities.image.codec import Latents, Pixels
from omnidistill.modalities.image.task import Digits, FashionMnist
from omnidistill.random import generator
from omnidistill.student import read_denoiser
from omnidistill.testing import check_task

LATENTS = {
    "name": "image/fashion_mnist",
    "autoencoder": "shipped",
    "network": {"channels": [64, 128], "unshuffle": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> str:
    """A folder of idx files with 500 training images."""
    folder = tmp_path_factory.mktemp("idx")
    images, labels = data.heldout()
    pixels = ((images[:500, 0] + 1) * 127.5).round().byte().numpy()
    for kind, array in (("images-idx3", pixels), ("labels-idx1", labels[:500].byte().numpy())):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"train-{kind}-ubyte").write_bytes(head + array.tobytes())
    return str(folder)


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "nothing"))


@pytest.mark.parametrize("space", ["pixels", "latents", "digits"])
def test_the_conformance_suite_passes(space, files):
    small = {"channels": [16, 16], "unshuffle": 1 if space != "pixels" else 2}
    task = {
        "pixels": lambda: FashionMnist(small, folder=files),
        "latents": lambda: FashionMnist(small, folder=files, autoencoder="shipped"),
        "digits": lambda: Digits(small),
    }[space]()
    assert task.shape == {"pixels": (1, 28, 28), "latents": (8, 7, 7), "digits": (1, 8, 8)}[space]
    assert len(check_task(task, count=200)) > 20


def test_one_class_two_spaces(without_data):
    pixels, latents = FashionMnist(), FashionMnist(**LATENTS)
    assert isinstance(pixels.codec, Pixels) and isinstance(latents.codec, Latents)
    a, b = (task.batch(50, generator(3), "held_out") for task in (pixels, latents))
    assert torch.equal(a.context.condition, b.context.condition)
    assert a.x0.shape == (50, 1, 28, 28) and b.x0.shape == (50, 8, 7, 7)
    assert (latents.pictures(b.x0) - a.x0).square().mean() < 0.03
    # Real latents are judged as what they decode to, and the floor as pixels: it knows of no autoencoder.
    assert pixels.floor(0, generator(0)) == latents.floor(0, generator(0))


def test_data_are_asked_for_in_one_line(without_data):
    task = FashionMnist(**LATENTS)
    batch = task.batch(4, generator(0))
    assert batch.x0 is None and batch.context.condition.shape == (4,) and "data fetch" in task.data_hint


def test_the_shipped_teacher_gains_from_steps(without_data):
    """Full steps beat 4 and 4 beat 1, by Fréchet distance and by class; an untrained network is nowhere."""
    task = FashionMnist(**LATENTS)
    teacher, _ = read_denoiser(task.shipped_teacher(), "teacher", task)
    context = task.contexts(400, generator(0))

    def judged(denoiser, steps: int) -> dict[str, float]:
        with torch.no_grad():
            made = task.sampler().sample(denoiser, task.like(400), steps, context, g=generator(1)).x0
        return task.measure(made, context, generator(2))

    full, four, one = (judged(teacher, steps) for steps in (16, 4, 1))
    # So few samples add the same bias to every distance, which hides part of the gain.
    assert full["frechet"] < 0.85 * four["frechet"] and four["frechet"] < 0.6 * one["frechet"]
    assert full["class_accuracy"] > 0.8
    untrained = judged(type(teacher)(task.network(), task.path, **task.reading()), 16)
    assert untrained["frechet"] > 10 * full["frechet"] and untrained["class_accuracy"] < 0.3


def test_an_autoencoder_of_ones_own_has_no_shipped_teacher(tmp_path, without_data):
    import shutil

    from omnidistill.modalities.image.codec import SHIPPED

    shutil.copytree(SHIPPED, tmp_path / "mine")
    task = FashionMnist(name="image/fashion_mnist", autoencoder=str(tmp_path / "mine"))
    assert task.shape == (8, 7, 7) and task.shipped_teacher() is None
    with pytest.raises(UserError, match="no autoencoder in"):
        FashionMnist(autoencoder=str(tmp_path))


def test_pictures_of_ones_own(tmp_path):
    """Folders of pictures instead of the data set: other classes, judged without the accuracy of the built-in ones."""
    from PIL import Image

    images, labels = data.heldout()
    for index in range(240):
        file = tmp_path / f"class{int(labels[index]) % 3}" / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(((images[index, 0] + 1) * 127.5).round().byte().numpy()).save(file)
    task = FashionMnist(
        {"channels": [16, 16], "unshuffle": 1}, folder=str(tmp_path), autoencoder="shipped", classes=3
    )
    batch = task.batch(16, generator(0))
    assert batch.x0.shape == (16, 8, 7, 7) and set(batch.context.condition.tolist()) <= {0, 1, 2}
    assert task.shipped_teacher() is None and task.network().classes.num_embeddings == 4
    found = task.floor(100, generator(0))
    assert set(found) == {"frechet", "precision", "recall"}
    noise = task.measure(torch.randn(100, 8, 7, 7, generator=generator(1)), batch.context, generator(0))
    assert found["frechet"] < 0.5 * noise["frechet"]
    with pytest.raises(UserError, match="has 3 classes"):
        FashionMnist(folder=str(tmp_path)).batch(1, generator(0))


def test_latents_are_shown_as_pictures(tmp_path, without_data):
    task = FashionMnist(**LATENTS)
    batch = task.batch(20, generator(0), "held_out")
    (file,) = task.render(batch.x0, batch.context, tmp_path / "grid")
    from PIL import Image

    page = np.asarray(Image.open(file))
    assert file == tmp_path / "grid.png" and page.ndim == 2 and page.std() > 40
    order = torch.argsort(batch.context.condition, stable=True)
    (again,) = task.render(
        batch.x0[order], Context(batch.context.condition[order]), Path(tmp_path) / "sorted"
    )
    assert (np.asarray(Image.open(again)) == page).mean() > 0.99, "sorted by class"


def test_three_pictures_are_trained_on_and_judged(tmp_path, capsys):
    from omnidistill.cli import main

    Image = pytest.importorskip("PIL.Image")
    for index in range(3):
        (tmp_path / "own" / "cat").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "own" / "cat" / f"{index}.png")
    task = FashionMnist(
        folder=str(tmp_path / "own"), classes=1, network={"channels": [8, 16], "unshuffle": 2}
    )
    assert task.labels == ("cat",)
    x0 = torch.rand(64, 1, 28, 28, generator=generator(0)) * 2 - 1
    context = Context(condition=torch.zeros(64, dtype=torch.long))
    figures, floor = task.measure(x0, context, generator(0)), task.floor(64, generator(0))
    assert 0 < floor["frechet"] < float("inf") and 0 < figures["frechet"] < float("inf")
    keys = [
        "task=image/fashion_mnist_pixels",
        f"task.folder={tmp_path / 'own'}",
        "task.classes=1",
        "device=cpu",
    ]
    keys += ["task.network={channels: [8, 16], unshuffle: 2}", "precision=fp32", "batch=4", "updates=2"]
    keys += ["task.teacher_steps=2"]
    assert main(["train", *keys, f"out={tmp_path / 'teacher'}"]) == 0
    words = [
        "recipe=consistency-models",
        "steps=1",
        "evaluation.samples=16",
        f"teacher={tmp_path / 'teacher'}",
    ]
    assert main(["distill", *keys, *words, f"out={tmp_path / 'student'}"]) == 0
    assert (tmp_path / "student" / "metrics.json").is_file()
