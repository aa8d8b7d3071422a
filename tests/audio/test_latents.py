"""A Stable Audio from the command line: prompts as labels, recordings or a cache of them, and what students write."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("torchsde")
pytest.importorskip("transformers")
pytest.importorskip("soundfile")

import soundfile

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import setup
from tests.interop import pipelines

LABELS = "task.labels=[a dog,rain]"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The pipeline, and a second of sound in each of ten stereo recordings."""
    home, draws = tmp_path_factory.mktemp("latents"), np.random.default_rng(0)
    pipelines.stable_audio(home / "pipeline")
    for number in range(10):
        place = home / "sounds" / ("rain" if number % 2 else "a dog")
        place.mkdir(parents=True, exist_ok=True)
        wave = draws.normal(0.0, 0.1, (1600, 2))
        soundfile.write(place / f"{number}.wav", wave, 1600, "FLOAT")
    return home


def task_of(home, *words):
    cfg = compose(
        "config", ["task=audio/own", f"teacher={home / 'pipeline'}", "recipe=dmd2", "out=out", *words]
    )
    task = setup.task_of(cfg)
    return task, setup.teacher_of(cfg, task, "cpu")


def test_the_teacher_believes_what_the_pipelines_scheduler_does(home):
    """Its network, its preconditioning and its prompts: the first answer of `StableAudioPipeline` with no guidance."""
    from diffusers import StableAudioPipeline
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    task, teacher = task_of(home, LABELS)
    assert task.shape == (4, 16) and task.null == 2 and task.primary.name == "energy"
    theirs = StableAudioPipeline.from_pretrained(home / "pipeline")
    scheduler = theirs.scheduler
    scheduler.set_timesteps(5)
    x = scheduler.init_noise_sigma * torch.randn(1, 4, 16, generator=generator("x"))
    place = scheduler.timesteps[0]
    turned = get_1d_rotary_pos_embed(4, 17, use_real=True, repeat_interleave_real=False)
    with torch.no_grad():
        words = theirs.encode_prompt("rain", "cpu", False)
        ends = theirs.encode_duration(0.0, 0.16, "cpu", False, 1)
        answer = theirs.transformer(
            scheduler.scale_model_input(x, place), place[None], torch.cat((words, *ends), 1), torch.cat(ends, 2),
            rotary_embedding=turned, return_dict=False,
        )[0]  # fmt: skip
        wanted = scheduler.convert_model_output(answer, x)
        t = teacher.path.time_from_noise_level(scheduler.sigmas[0].double())
        found = teacher(x, t, Context(torch.tensor([1]))).mean
        other = teacher(x, t, Context(torch.tensor([2]))).mean
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert float((found - other).abs().max()) > 1e-4


def test_clips_are_the_autoencoders_latents(home):
    task, _ = task_of(home, LABELS, f"task.folder={home / 'sounds'}")
    drawn = task.batch(6, generator(0))
    clips, _ = task._recordings
    rows = clips["train"].drawn(drawn.context.condition, _after_labels())
    wanted = []
    for label, recording, start in zip(
        drawn.context.condition, clips["train"].recordings(rows), clips["train"]._rows[rows, 2], strict=True
    ):
        file = sorted((home / "sounds" / task.labels[label]).glob("*.wav"))[int(recording) % 5]
        wave = torch.from_numpy(soundfile.read(file, dtype="float32")[0].T)[None]
        wanted.append(task.codec.model.encode(wave[..., 16 * int(start) :][..., :256]).latent_dist.mode())
    assert torch.allclose(drawn.x0, torch.cat(wanted), atol=1e-5)


def _after_labels():
    g = generator(0)
    torch.rand(6, generator=g, dtype=torch.float64)
    return g


def test_two_updates_on_recordings_and_on_a_cache(home, tmp_path):
    quick = ["updates=2", "batch=2", "steps=[1]", "device=cpu", "precision=fp32", "task.teacher_steps=2"]
    judged = [
        "evaluation.samples=4",
        "evaluation.batch=4",
        "teacher_check=false",
        "recipe=consistency-models",
    ]
    own = ["task=audio/own", f"teacher={home / 'pipeline'}"]
    sounds = f"task.folder={home / 'sounds'}"
    assert main(["distill", *own, LABELS, sounds, *quick, *judged, f"out={tmp_path / 'run'}"]) == 0
    assert (
        main(["sample", str(tmp_path / "run"), "condition=rain", "count=1", f"out={tmp_path / 'made'}"]) == 0
    )
    wave, rate = soundfile.read(tmp_path / "made-00.wav")
    assert wave.shape == (256, 2) and rate == 1600
    rows = tmp_path / "rows"
    encoded = [f"encoder={home / 'pipeline'}", "rows=12", "device=cpu", f"out={rows}"]
    assert main(["cache", *own, LABELS, sounds, *encoded]) == 0
    told = omnidistill.Cache(rows).held_out(2).context.condition
    assert told["encoder_hidden_states"].shape == (2, 8, 10) and told["global_hidden_states"].shape == (
        2,
        1,
        20,
    )
    task, _ = task_of(home, f"task.folder={rows}")
    emptied = task.null(told)
    assert not emptied["encoder_hidden_states"].any()
    assert torch.allclose(emptied["global_hidden_states"], told["global_hidden_states"], atol=1e-5)
    assert (
        main(["distill", *own, f"task.folder={rows}", *quick, *judged, "guidance=2", f"out={tmp_path / 'b'}"])
        == 0
    )
    with pytest.raises(UserError, match="nothing here makes the teacher's samples"):
        task_of(home, sounds, "task.autoencoder=null")
