"""`audio/music` as a plug-in would be used, on made-up recordings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.data import datasets
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import read_audio
from omnidistill.modalities.audio.signal import log_mel
from omnidistill.modalities.audio.task import SIGNATURE, TRACKS, Music
from omnidistill.random import generator
from omnidistill.testing import check_task

SMALL = {"channels": [16, 32], "unshuffle": 8}


@pytest.mark.parametrize("kind", ["tracks", "snippets"])
def test_conforms(kind, request):
    folder = request.getfixturevalue(kind)
    task = Music(network=SMALL, teacher_steps=8, folder=str(folder))
    assert task.classes == task.null == len(task.labels)
    ragged = task.batch(8, generator(0)).context.mask is not None
    assert ragged == (kind == "snippets")
    check_task(task, count=200)


def test_padding_changes_no_belief(snippets):
    task = Music(network=SMALL, folder=str(snippets))
    torch.manual_seed(0)
    network = task.network()
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    denoiser = NetworkDenoiser(network, task.path, **task.reading())
    batch = task.batch(6, generator(3))
    mask, x = batch.context.mask, torch.randn(6, 1, 64, 64) * batch.context.mask
    wide = replace(batch.context, mask=torch.nn.functional.pad(mask, (0, 40)))
    with torch.no_grad():
        near = denoiser(x, 0.6, batch.context).mean
        far = denoiser(torch.nn.functional.pad(x, (0, 40), value=7.0), 0.6, wide).mean
    torch.testing.assert_close(far[..., :64] * mask, near * mask, atol=1e-4, rtol=1e-4)


def test_sounds_have_the_mels_they_were_made_from(snippets, tmp_path):
    task = Music(folder=str(snippets))
    batch = task.batch(40, generator(1))
    files = task.render(batch.x0[:6], batch.context[:6], tmp_path / "few")
    assert files[0] == tmp_path / "few.png" and len(files) == 7
    lengths = batch.context.mask.sum((1, 2, 3))
    for number, file in enumerate(files[1:]):
        assert (
            file.suffix == task.file_suffix()
            and task.labels[int(batch.context.condition[number])] in file.name
        )
        wave = read_audio(file, rate=SIGNATURE.rate)[0]
        length = int(lengths[number])
        assert len(wave) == SIGNATURE.samples(length)
        mel = batch.x0[number, 0, :, :length] * task.std + task.mean
        away = log_mel(wave, SIGNATURE) - mel
        # Griffin-Lim's phases are not the true ones, and a loud wave was scaled down as a whole.
        assert (away - away.median()).abs().mean() < 0.35
    many = task.render(batch.x0, batch.context, tmp_path / "many")
    assert len(many) == 1 + 2 * task.classes, "of many samples two of each label are made heard"


def test_options_that_cannot_be_are_refused(tracks):
    for options, says in (
        ({"shortest": 100}, "shortest <= frames"),
        ({"std": 0.0}, "std > 0"),
        ({"signature": {"rate": 16000}}, "missing or unknown"),
        ({"labels": ["flute"], "folder": str(tracks)}, "no recordings of 'flute'"),
    ):
        with pytest.raises(UserError, match=says):
            Music(**options).batch(2, generator(0))


def test_without_the_tracks_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    task = build(compose("config", ["task=audio/music", "recipe=dmd2", "out=x"]).task)
    assert (
        task.labels == TRACKS and task.batch(3, generator(0)).x0 is None and task.floor(8, generator(0)) == {}
    )
    with pytest.raises(UserError, match="omnidistill data fetch asterisk_moh") as error:
        task.measure(torch.zeros(4, 1, 64, 64), task.contexts(4, generator(0)), generator(0))
    assert "\n" not in str(error.value)
    described = datasets.describe("asterisk_moh")
    assert {name.removesuffix(".g722") for name in described.files} == set(TRACKS)
    assert described.licence == "CC-BY-SA-3.0"


def test_the_signature_travels_with_the_configuration():
    task = build(compose("config", ["task=audio/music", "recipe=dmd2", "out=x"]).task)
    assert task.signature == SIGNATURE and task.shape == (1, 64, 64)


@pytest.mark.slow
def test_from_ones_own_folder_to_a_student_that_sounds(tracks, tmp_path):
    own = [
        "task=audio/music", f"task.folder={tracks}", "task.network={channels: [16, 32], unshuffle: 8}",
        "task.teacher_steps=4", "batch=16", "precision=fp32", "threads=1", "evaluation.samples=60",
    ]  # fmt: skip
    assert main(["train", *own, "updates=3", f"out={tmp_path / 'teacher'}"]) == 0
    distill = [
        "distill",
        *own,
        "recipe=audiox-turbo",
        f"teacher={tmp_path / 'teacher'}",
        "updates=2",
        "steps=1,4",
    ]
    assert main([*distill, f"out={tmp_path / 'student'}"]) == 0
    document = json.loads((tmp_path / "student" / "metrics.json").read_text())
    calls = document["training"]["calls"]
    # Guided teacher: two calls an update; the critic three updates each; features for the discriminator besides.
    assert calls["teacher"] == 2 * 2
    assert document["primary"]["name"] == "frechet" and {p["steps"] for p in document["student"]} == {1, 4}
    sample = ["sample", str(tmp_path / "student"), "steps=4", "count=3", f"out={tmp_path / 'made' / 'a.wav'}"]
    assert main(sample) == 0
    assert len(list((tmp_path / "made").glob("a-*.wav"))) == 3
    (tmp_path / "wanted.csv").write_text("name,label,seconds\nlong,bells,5\nwrong,flute,5\n")
    asked = [
        "sample",
        str(tmp_path / "student"),
        f"input={tmp_path / 'wanted.csv'}",
        f"out={tmp_path / 'pieces'}",
    ]
    main([*asked, "steps=1"])
    assert [file.name for file in (tmp_path / "pieces").iterdir()] == ["long.wav"]
    # Longer than a clip of 2 s: made in windows; whole frames of 32 ms.
    assert abs(len(read_audio(tmp_path / "pieces" / "long.wav")[0]) - 5 * 16000) < 512
