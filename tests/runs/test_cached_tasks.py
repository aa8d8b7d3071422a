"""`omnidistill cache`, then `task.folder=CACHE`, in every modality's own task."""

import json

import pytest
import torch

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Batch
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import setup
from tests.runs.test_own_tasks import CASES, QUICK, RUN, teacher

ROWS = 24


def made(modality, tmp_path, *words):
    """Data and a teacher of a modality, the words of its task, and the cache that a command makes of the data."""
    task, data, recipe, _, _ = CASES[modality]
    folder = data(tmp_path / "data")
    task = {**task, "folder": str(folder)} if modality == "coordinates" else task
    task = {**task, "frames": 64} if modality == "speech" else task  # as long as figures of speech want
    own = [f"task={modality}/own", f"teacher={teacher(task, tmp_path / 'teacher')}"]
    out = tmp_path / "rows"
    assert (
        main(["cache", *own, f"task.folder={folder}", f"rows={ROWS}", "device=cpu", f"out={out}", *words])
        == 0
    )
    more = [f"task.molecule={folder}"] if modality == "coordinates" else []
    return [*own, *more, f"recipe={recipe}", "out=out"], folder, out


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.x0, b.x0), (a.context.condition, b.context.condition), (a.context.anchor, b.context.anchor)]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "modality", [case for case in RUN if case != "image"]
)  # see tests/runs/test_cache.py
def test_rows_are_the_tasks_own_samples(modality, tmp_path):
    words, folder, out = made(modality, tmp_path)
    files = build(compose("config", [*words, f"task.folder={folder}"]).task)
    cfg = compose("config", [*words, f"task.folder={out}"])
    task, found = setup.task_of(cfg), omnidistill.Cache(out)
    for split, count in (("train", ROWS), ("held_out", ROWS // 8)):
        wanted = files.alike(count, generator(0, "cache", split, 0), split)
        assert same(found.rows(torch.arange(count), split), wanted)
    drawn, there = task.batch(5, generator(1)), found.batch(5, generator(1))
    length = drawn.x0.shape[-1]  # text is cut to the longest of a batch
    assert torch.equal(drawn.x0, there.x0[..., :length])
    g = torch.Generator().manual_seed(0)
    context = task.contexts(3, g)
    real = found.rows(torch.zeros(3, dtype=torch.long), "held_out")
    samples = real.x0[..., : context.mask.shape[-1]] if modality == "text" else real.x0
    figures = task.measure(samples, context, g)
    assert task.primary.name in figures and task.floor(3, g).keys() == figures.keys()
    if modality != "text":
        worse = task.measure(samples + 3.0 * torch.randn(samples.shape, generator=g), context, g)
        assert worse[task.primary.name] > figures[task.primary.name]


def test_a_run_on_cached_tokens_is_judged_and_sampled(tmp_path):
    words, _, out = made("text", tmp_path)
    run = tmp_path / "run"
    assert main(["distill", *words[:-1], f"task.folder={out}", *QUICK, f"out={run}"]) == 0
    document = json.loads((run / "metrics.json").read_text())
    assert document["primary"]["name"] == "bigram" and document["floor"].keys() == {"bigram", "unigram"}
    assert omnidistill.load(run).sample(2).shape[0] == 2


def test_conditions_of_a_function_reach_the_teacher(tmp_path, monkeypatch):
    """With what it says is none of them, for guidance; without, there is none."""
    (tmp_path / "my_states.py").write_text(
        "import torch\nfrom omnidistill import Batch\n\n\n"
        "def encode(x0, context):\n"
        "    return Batch(x0, context.with_condition({'states': x0[:, :3] + 1.0}))\n\n\n"
        "def guided(x0, context):\n    return encode(x0, context)\n\n\n"
        "guided.null = {'states': torch.zeros(1, 3)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("encode", "guided"):
        words, _, out = made("text", tmp_path / name, f"encoder=my_states:{name}")
        task = setup.task_of(compose("config", [*words, f"task.folder={out}"]))
        drawn = task.batch(4, generator(0))
        states = drawn.context.condition["states"]
        assert torch.equal(states, drawn.x0[:, :3] + 1.0) and task.conditional
        held = task.contexts(4, generator(1))
        assert torch.equal(held.condition["states"], held.reference[:, :3] + 1.0)
        if name == "encode":
            assert task.null is None
        else:
            assert not task.null(drawn.context.condition)["states"].any()


def test_what_a_cache_does_not_say_is_asked_for(tmp_path):
    words, _, out = made("coordinates", tmp_path)
    with pytest.raises(UserError, match=r"task\.molecule=DIR names structures of it"):
        setup.task_of(compose("config", [*words[:2], *words[3:], f"task.folder={out}"]))


def test_samples_that_nothing_here_decodes(tmp_path):
    """Latents of four channels without an autoencoder: numbers, in a picture and as safetensors."""
    from safetensors.torch import load_file

    diffusers = pytest.importorskip("diffusers")
    from tests.interop import tiny

    tiny.saved(tmp_path / "teacher", "UNet2DModel", diffusers.DDIMScheduler(clip_sample=False))
    words = [
        "task=image/own",
        f"teacher={tmp_path / 'teacher'}",
        "recipe=diff-instruct",
        "task.teacher_steps=2",
    ]
    assert main(["distill", *words, *QUICK, f"out={tmp_path / 'run'}"]) == 0
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["primary"]["name"] == "energy" and document["floor"] == {}
    assert main(["sample", str(tmp_path / "run"), "count=3", "seed=1", f"out={tmp_path / 'made'}"]) == 0
    wanted = omnidistill.load(tmp_path / "run").sample(3, seed=1)
    assert torch.allclose(load_file(tmp_path / "made.safetensors")["x0"], wanted, atol=1e-6)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"nothing here makes the teacher's samples, .4, 8, 8."):
        setup.task_of(compose("config", [*words, f"task.folder={tmp_path / 'photos'}", "out=out"]))
