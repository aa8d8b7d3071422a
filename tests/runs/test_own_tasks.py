"""`task=MODALITY/own`: somebody's teacher and somebody's folder, in every modality, from overrides to the page."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import omnidistill
from omnidistill.configuration.compose import compose, load_config
from omnidistill.configuration.instantiation import build, trusting
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.runs import distil
from omnidistill.runs.evaluate import evaluate
from omnidistill.runs.sample import sample
from omnidistill.student import Recipe, save
from omnidistill.training.safetensors_file import write_safetensors

QUICK = [
    "updates=1",
    "batch=4",
    "steps=[1]",
    "device=cpu",
    "precision=fp32",
    "evaluation.samples=8",
    "evaluation.batch=8",
]


def teacher(task: dict, folder: Path) -> Path:
    """A teacher that has learned nothing, as `omnidistill train` would have saved it."""
    torch.manual_seed(0)
    made = build(trusting(task, ()))
    denoiser = NetworkDenoiser(made.network(), made.path, **made.reading())
    save(denoiser, Recipe(task=task, reading=denoiser.reading()), folder, "teacher")
    return folder


def pictures(folder: Path, count: int = 12, side: int = 12, labels=("a", "b")) -> Path:
    from PIL import Image

    draws = np.random.default_rng(0)
    for number in range(count):
        place = folder / labels[number % len(labels)] if labels else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def films(folder: Path) -> Path:
    import av

    for label in "ab":
        (folder / label).mkdir(parents=True)
        with av.open(str(folder / label / "0.mp4"), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 16
            for i in range(100):
                frame = np.full((16, 16, 3), (i * (7 if label == "a" else 11)) % 256, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    return folder


def tones(folder: Path) -> Path:
    import soundfile

    t = np.arange(16000 * 40) / 16000
    for label, pitch in (("a", 220), ("b", 500)):
        (folder / label).mkdir(parents=True)
        wave = 0.3 * np.sin(2 * np.pi * pitch * t) * np.sin(3 * t)
        soundfile.write(folder / label / "0.wav", wave, 16000)
    return folder


def noisy(folder: Path) -> Path:
    import soundfile

    t, draws = np.arange(8000) / 16000, np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for number in range(2):
            clean = 0.3 * np.sin(2 * np.pi * 200 * t * (1 + number)) * np.sin(6 * t)
            for kind, wave in (("clean", clean), ("noisy", clean + 0.05 * draws.standard_normal(len(t)))):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / split / kind / f"{number}.wav", wave, 16000)
    return folder


def text(folder: Path) -> Path:
    draws = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "birds"]
    folder.mkdir(parents=True)
    for number in range(12):
        sentences = [" ".join(draws.choice(words, 6)) for _ in range(8)]
        (folder / f"{number}.txt").write_text(". ".join(sentences) + ".")
    return folder


def structures(folder: Path) -> Path:
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(8):
        points = np.cumsum(draws.normal(0, 2.0, (6, 3)), 0)
        lines = [f"C {x:.3f} {y:.3f} {z:.3f}" for x, y, z in points]
        (folder / f"{number}.xyz").write_text("6\n\n" + "\n".join(lines) + "\n")
    return folder


SMALL = {"channels": [8, 8], "unshuffle": 1}
MODALITIES = "omnidistill.modalities"
CASES = {
    "image": (
        {"_target_": f"{MODALITIES}.image.task.Digits", "network": SMALL, "teacher_steps": 2},
        lambda folder: pictures(folder, 40, labels=[str(i) for i in range(10)]),
        "diff-instruct",
        {"energy", "sliced", "spectrum"},
        ".png",
    ),
    "video": (
        {
            **{"_target_": f"{MODALITIES}.video.task.Clips", "frames": 4, "size": 8, "side": 8, "interval": 0.1},
            **{"labels": ["a", "b"], "network": SMALL, "teacher_steps": 2},
        },
        films,
        "diff-instruct",
        {"frechet", "flicker"},
        ".mp4",
    ),
    "audio": (
        {
            **{"_target_": f"{MODALITIES}.audio.task.Music", "frames": 32, "shortest": 16, "labels": ["a", "b"]},
            **{"network": {"channels": [8, 8], "unshuffle": 4}, "teacher_steps": 2},
        },
        tones,
        "diff-instruct",
        {"frechet"},
        ".wav",
    ),
    "speech": (
        {
            "_target_": f"{MODALITIES}.speech.enhancement.task.Enhancement",
            **{"network": {"channels": [8, 8], "unshuffle": [8, 2]}, "frames": 16, "teacher_steps": 2},
        },
        noisy,
        "rose-cd",
        {"frechet", "si_sdr"},
        ".wav",
    ),
    "text": (
        {
            **{"_target_": f"{MODALITIES}.text.task.Text", "length": 24, "teacher_steps": 2},
            "network": {"width": 16, "kernel": 3, "dilations": [1]},
        },
        text,
        "di-m-o",
        {"bits_per_char", "bigram", "unigram"},
        ".txt",
    ),
    "coordinates": (
        {
            **{"_target_": f"{MODALITIES}.coordinates.task.Ensemble", "atoms": "heavy", "teacher_steps": 2},
            "network": {"width": 16, "depth": 1, "heads": 1, "blocks": 1},
        },
        structures,
        "diff-instruct",
        {"energy"},
        ".pdb",
    ),
}  # fmt: skip


SLOW = ("video", "audio", "speech")
RUN = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]


@pytest.mark.parametrize("modality", RUN)
def test_a_teacher_of_ones_own_and_a_folder_of_ones_own(modality, tmp_path):
    """One command: the page, metrics without anybody's features, the folder that can be sampled and judged again."""
    task, data, recipe, metrics, suffix = CASES[modality]
    folder, out = data(tmp_path / "data"), tmp_path / "out"
    if modality == "coordinates":
        task = {**task, "folder": str(folder)}  # where the teacher's own data lay
    made = teacher(task, tmp_path / "teacher")
    more = ["evaluation.samples=2"] if modality == "speech" else []
    overrides = [
        f"task={modality}/own",
        f"teacher={made}",
        f"task.folder={folder}",
        f"recipe={recipe}",
        f"out={out}",
    ]
    distil.distill(compose("config", [*overrides, *QUICK, *more]))
    assert (out / "report.html").is_file()
    document = json.loads((out / "metrics.json").read_text())
    assert metrics <= document["student"][0]["metrics"].keys()
    assert document["floor"].keys() >= metrics  # judged by the data in the folder
    assert [point["steps"] for point in document["teacher"]] == [1, 2]
    again = evaluate(out, lambda cfg: load_config(out, ["steps=[2]", "device=cpu"]))
    assert [point["steps"] for point in again["student"]] == [2]
    if modality != "speech":  # which answers inputs
        files = sample(out, 1, 2, 0, tmp_path / "made")
        assert any(file.suffix == suffix for file in files)
    student = omnidistill.load(out)
    context = student.context(2) if modality != "speech" else student.task.contexts(2, torch.Generator())
    assert len(student.sample(2, context=context)) == 2


MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.time = nn.Linear(1, width)
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t):
        return self.b(torch.tanh(self.a(x) + self.time(t.reshape(-1, 1).to(x.dtype))[:, :, None, None]))

def brightness(samples, context, rows):
    return {"brightness": float((samples.mean() - rows.mean()).abs())}
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the folder of the command, and weights of its class."""
    (tmp_path / "my_nets_of_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_nets_of_test", raising=False)
    scope: dict = {}
    exec(MODULE, scope)
    torch.manual_seed(0)
    net: nn.Module = scope["Net"](width=6)
    write_safetensors(net.state_dict(), tmp_path / "net.safetensors")
    return scope["Net"]


NAMED = [
    "task=image/own",
    "teacher=net.safetensors",
    "network=my_nets_of_test:Net",
    "task.network.width=6",
    *QUICK,
]
SHAPED = [*NAMED, "task.shape=[3,10,8]", "task.teacher_steps=2"]


def test_a_network_of_ones_own_class(own_module, tmp_path):
    pictures(tmp_path / "data", labels=())
    more = ["task.folder=data", "recipe=consistency-models", "out=out", "metrics=my_nets_of_test:brightness"]
    distil.distill(compose("config", [*SHAPED, *more]))
    document = json.loads(Path("out/metrics.json").read_text())
    assert {"energy", "sliced", "spectrum", "brightness"} <= document["student"][0]["metrics"].keys()
    assert {"energy", "brightness"} <= document["floor"].keys()
    loaded = omnidistill.load("out", network=own_module(width=6))
    assert loaded.sample(2).shape == (2, 3, 10, 8)
    assert torch.equal(loaded.sample(2), omnidistill.load("out", trust=["my_nets_of_test"]).sample(2))
    with pytest.raises(UserError, match=r"trust=\[my_nets_of_test\]"):  # the file names it, the user has not
        omnidistill.load("out")
    with pytest.raises(UserError, match="trust"):
        evaluate("out", lambda cfg: load_config("out", ["steps=[1]"]))
    typed = [
        "steps=[1]",
        "trust=[my_nets_of_test]",
        "metrics=my_nets_of_test:brightness",
        "primary=brightness",
    ]
    again = evaluate("out", lambda cfg: load_config("out", typed))
    assert again["primary"] == {"name": "brightness", "better": "lower"}
    assert again["student"][0]["interval"] is not None


def test_weights_in_a_checkpoint_of_lightning(own_module, tmp_path):
    from omnidistill.runs import setup
    from omnidistill.training.safetensors_file import read_safetensors

    state = read_safetensors(tmp_path / "net.safetensors")[0]
    held = {"state_dict": {f"net.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(held, tmp_path / "last.ckpt")
    words = [word.replace("net.safetensors", "last.ckpt") for word in SHAPED]
    cfg = compose("config", [*words, "recipe=diff-instruct", "out=out"])
    teacher = setup.teacher_of(cfg, setup.task_of(cfg), "cpu")
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, state[name])


def test_without_data_the_teachers_own_samples_are_what_students_are_held_against(own_module, tmp_path):
    distil.distill(compose("config", [*SHAPED, "recipe=diff-instruct", "out=out", "evaluation.samples=64"]))
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["floor"] == {}
    full = document["teacher"][-1]
    assert full["steps"] == 2 and full["metrics"]["energy"] < full["interval"][1]
    assert abs(full["metrics"]["energy"]) < 0.5  # its law is what it is held against: 0 but for the draws


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task=image/own", "recipe=diff-instruct"], "image/own needs your teacher"),
        (
            ["task=image/own", "recipe=diff-instruct", "teacher=net.safetensors"],
            "network=package.module:Class",
        ),
        ([*NAMED, "recipe=diff-instruct"], "needs task.shape"),
        ([*SHAPED, "recipe=consistency-models"], "task.folder=DIR names your pictures"),
        ([*NAMED, "recipe=diff-instruct", "task.shape=[3,3]"], "this one has .3, 3."),
        ([*SHAPED, "recipe=diff-instruct", "network=my_nets_of_test:Nett"], "did you mean Net"),
        ([*SHAPED, "recipe=diff-instruct", "network=my_nets_of_test.Net"], "package.module:name"),
        ([*SHAPED, "recipe=diff-instruct", "primary=fid"], "no metric 'fid'; primary= may be energy"),
        (
            ["task=image/digits", "recipe=diff-instruct", "network=my_nets_of_test:Net"],
            "for task=MODALITY/own",
        ),
    ],
)
def test_mistakes_are_one_line(overrides, said, own_module, tmp_path):
    with pytest.raises(UserError, match=said):
        distil.distill(compose("config", [*overrides, "out=out"]))


def test_a_teacher_of_another_task_is_refused(tmp_path):
    made = teacher(CASES["text"][0], tmp_path / "teacher")
    with pytest.raises(
        UserError, match="holds a teacher of Text, and image/own takes those of FashionMnist, Digits"
    ):
        compose("config", ["task=image/own", f"teacher={made}", "recipe=dmd2", "out=out"])


def test_train_takes_no_own_task():
    with pytest.raises(UserError, match="is for one that you have"):
        compose("train", ["task=image/own", "out=out"])


def test_classes_that_the_teacher_does_not_know_are_refused(tmp_path):
    """Numbers of labels mean what the teacher learned: a folder of other names is not guessed at."""
    task = {
        "_target_": f"{MODALITIES}.image.task.FashionMnist",
        "network": {"channels": [8, 8], "unshuffle": 2},
    }
    made = teacher(task, tmp_path / "teacher")
    folder = pictures(tmp_path / "data", 40, 32, labels=[f"class {i}" for i in range(10)])
    overrides = [
        "task=image/own",
        f"teacher={made}",
        f"task.folder={folder}",
        "recipe=diff-instruct",
        "out=out",
    ]
    with pytest.raises(UserError, match="unknown class"):
        build(compose("config", overrides).task).batch(2, torch.Generator())
