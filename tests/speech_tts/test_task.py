"""`speech/tts` as a plug-in would be used, on a made-up speaker."""

from __future__ import annotations

import json

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import read_audio
from omnidistill.modalities.speech.tts import data
from omnidistill.modalities.speech.tts.task import TEACHER, TextToSpeech
from omnidistill.random import generator
from omnidistill.testing import check_path, check_task

SMALL = {"channels": [16, 32], "unshuffle": [8, 4]}


@pytest.fixture
def task(corpus, front_end_file) -> TextToSpeech:
    return TextToSpeech(
        corpus=str(corpus.folder), front_end=str(front_end_file), network=SMALL, crop=32, teacher_steps=8
    )


def stirred(task: TextToSpeech) -> NetworkDenoiser:
    """A network whose layers of zeros hold something."""
    torch.manual_seed(0)
    network = task.network()
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return NetworkDenoiser(network, task.path, **task.reading()).eval()


def test_conforms(task):
    check_task(task, count=64)


@pytest.mark.parametrize("path", ["flow", "comospeech"])
def test_the_other_paths_conform(path, corpus, front_end_file):
    options = {"corpus": str(corpus.folder), "front_end": str(front_end_file), "network": SMALL, "crop": 32}
    other = TextToSpeech(path=path, **options)
    batch = other.batch(3, generator(0))
    check_path(other.path, batch.x0, batch.context)
    assert other.shipped_teacher() is None, "the shipped one was trained on grad_tts"
    denoiser = stirred(other)
    with torch.no_grad():
        belief = denoiser(other.path.prior(batch.x0, batch.context, g=generator(1)), 1.0, batch.context)
    assert belief.mean.isfinite().all()


def test_comospeech_is_the_papers_process(task):
    """x_t = x0 + sigma (z + mu) with the Karras grid of 50 nodes from 80 to 0.002."""
    from omnidistill.modalities.speech.tts.paths import comospeech
    from omnidistill.paths import floored

    path = comospeech()
    sigma = path.coefficients(floored(path, 50)).sigma
    steps = torch.arange(50, dtype=torch.float64) / 49
    karras = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma[:-1], karras, rtol=1e-9, atol=0)
    x0, mu = torch.zeros(1, 1, 80, 400), torch.full((1, 1, 80, 400), 3.0)
    x = path.corrupt(x0, 0.5, Context(anchor=mu), g=generator(0))
    level = float(path.coefficients(0.5).sigma)
    assert float(x.mean()) == pytest.approx(3 * level, rel=0.02)
    assert float(x.std()) == pytest.approx(level, rel=0.02)


def test_splits_share_no_recording(task):
    train, held = ({u.text for u in part} for part in (task.corpus.train, task.corpus.held_out))
    assert train and held and not train & held
    assert len(task.corpus.train) + len(task.corpus.held_out) == 48


def test_held_out_batches_are_whole_sentences_without_repetition(task):
    count = len(task.corpus.held_out)
    batch = task.batch(count, generator(3), "held_out")
    lengths = sorted(batch.context.mask.sum((1, 2, 3)).tolist())
    assert lengths == sorted(u.mel.shape[1] for u in task.corpus.held_out)
    assert torch.equal(batch.context.reference, batch.x0)
    assert not (batch.x0 * ~batch.context.mask).any()
    assert len(task.batch(3 * count + 1, generator(0), "held_out").x0) == 3 * count + 1


def test_crops_are_cut_from_the_training_recordings_with_their_means(task):
    batch = task.batch(64, generator(0))
    assert batch.x0.shape == (64, 1, 80, 32) and batch.context.mask is None
    stream = task.corpus.mel.unfold(1, 32, 1)  # Float[m starts 32]
    for x, mu in zip(batch.x0[:4, 0], batch.context.anchor[:4, 0], strict=True):
        start = int((stream - x.unsqueeze(1)).abs().amax((0, 2)).argmin())
        assert torch.equal(task.corpus.mel[:, start : start + 32], x)
        assert torch.equal(task.corpus.mu[:, start : start + 32], mu)


def test_the_mean_follows_the_recording(task):
    """mu explains most of a held-out mel, which no mean of another sentence does."""
    errors, others = [], []
    for one, other in zip(task.corpus.held_out, task.corpus.held_out[1:], strict=False):
        n = min(one.mel.shape[1], other.mel.shape[1])
        errors.append(float((one.mel - one.mu)[:, :n].square().mean()))
        others.append(float((one.mel[:, :n] - other.mu[:, :n]).square().mean()))
    assert sum(errors) < 0.5 * sum(others)


def test_padding_changes_no_belief_no_sample_and_no_metric(task):
    denoiser, batch = stirred(task), task.batch(4, generator(3), "held_out")
    n, mask = batch.x0.shape[-1], batch.context.mask

    def wider(value, fill=0.0):
        return torch.nn.functional.pad(value, (0, 13), value=fill)

    wide = Context(
        anchor=wider(batch.context.anchor), mask=wider(mask), reference=wider(batch.context.reference, 9.0)
    )
    x = torch.randn(batch.x0.shape, generator=generator(1)) * mask
    with torch.no_grad():
        near = denoiser(x, 0.6, batch.context).mean
        far = denoiser(wider(x, 7.0), 0.6, wide).mean
        torch.testing.assert_close(far[..., :n] * mask, near * mask, atol=1e-4, rtol=1e-4)
        made, more = (
            task.sampler().sample(denoiser, task.like(4, context=c), 2, c, g=generator(2)).x0
            for c in (batch.context, wide)
        )
    torch.testing.assert_close(more[..., :n] * mask, made * mask, atol=1e-3, rtol=1e-3)
    a, b = (task.measure(x0, c, generator(0)) for x0, c in ((made, batch.context), (wider(made, 5.0), wide)))
    assert a == pytest.approx(b)


def test_metrics_tell_the_recording_from_its_mean(task):
    batch = task.batch(len(task.corpus.held_out), generator(0), "held_out")
    real = task.measure(batch.x0, batch.context, generator(1))
    mean = task.measure(batch.context.anchor, batch.context, generator(1))
    assert real["mcd"] == 0.0 < mean["mcd"]
    assert real["frechet"] < 0.1 * mean["frechet"]
    assert mean["texture"] < 0.7 < real["texture"]
    floor = task.floor(64, generator(2))
    assert real["frechet"] < floor["frechet"] < mean["frechet"]
    assert "mcd" not in floor, "other sentences cannot be compared frame by frame"


def test_without_the_data_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    with pytest.raises(UserError, match="omnidistill data fetch asterisk_en"):
        TextToSpeech().batch(1, generator(0))


def test_wrong_options_are_one_line(tmp_path):
    for options, says in (
        ({"path": "linear"}, "unknown path"),
        ({"recogniser": "ear"}, "unknown recogniser"),
        ({"crop": 4}, "crop is at least 8"),
        ({"slowness": 0.0}, "slowness above 0"),
    ):
        with pytest.raises(UserError, match=says):
            TextToSpeech(**options)
    with pytest.raises(UserError, match="mel signature"):
        _ = TextToSpeech(front_end=str(tmp_path / "none.safetensors")).shape


def test_a_corpus_at_another_rate_is_refused(tmp_path, front_end_file):
    from omnidistill.modalities.audio.files import write_audio

    write_audio(tmp_path / "wavs" / "a.wav", 0.1 * torch.ones(22050), 22050)
    (tmp_path / "metadata.csv").write_text("a|one\n")
    with pytest.raises(UserError, match="at 22050 Hz, expected 16000 Hz"):
        TextToSpeech(corpus=str(tmp_path), front_end=str(front_end_file)).batch(1, generator(0))


def test_a_missing_recogniser_is_named(task, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    batch = task.batch(2, generator(0), "held_out")
    task._recogniser = "pocketsphinx"
    with pytest.raises(UserError, match="pip install pocketsphinx"):
        task.measure(batch.x0, batch.context, generator(0))


@pytest.mark.parametrize("absent, meant", [((), "whisper"), (("faster_whisper",), None), (("jiwer",), None)])
def test_whisper_listens_where_it_is_installed(absent, meant, monkeypatch):
    from omnidistill.modalities.speech.tts import recognition

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else object())
    assert recognition.chosen("auto") == meant
    assert recognition.chosen("pocketsphinx") == "pocketsphinx" and recognition.chosen(None) is None


def test_sampling_starts_at_the_temperature(corpus, front_end_file):
    cool = TextToSpeech(corpus=str(corpus.folder), front_end=str(front_end_file), temperature=0.25)
    batch = cool.batch(8, generator(0))
    start = cool.path.prior(batch.x0, batch.context, g=generator(1)) - batch.context.anchor
    assert float(start.std()) == pytest.approx(0.25, rel=0.05)


def test_words_are_counted_as_wrong(task, monkeypatch):
    """Each reference finds its own sentence; a recogniser that mishears one word in each is counted so."""
    pytest.importorskip("jiwer")
    from omnidistill.modalities.speech.tts import recognition

    batch = task.batch(4, generator(0), "held_out")
    texts = [
        task.corpus.text(mel[0, :, : int(m.sum())])
        for mel, m in zip(batch.x0, batch.context.mask, strict=True)
    ]
    said = iter(["wrong " + " ".join(text.split()[1:]) for text in texts])
    monkeypatch.setitem(recognition.RECOGNISERS, "whisper", lambda: lambda wave: next(said))
    task._recogniser = "whisper"
    found = task.measure(batch.x0, batch.context, generator(0))["word_error_rate"]
    assert found == pytest.approx(4 / sum(len(text.split()) for text in texts))
    said = iter(
        [a.text for a in task.corpus.held_out]
    )  # the floor is of the held-out recordings, all understood
    assert task.floor(4, generator(0))["word_error_rate"] == 0.0


def test_sentences_become_sounds_of_their_length(task, tmp_path):
    (tmp_path / "lines.txt").write_text("mate\n[beep]\nask me at tea\n")
    items = dict(task.inputs(tmp_path / "lines.txt"))
    assert isinstance(items["lines_002"], UserError)
    short, long = items["lines_001"], items["lines_003"]
    assert long.anchor.shape[-1] > 2 * short.anchor.shape[-1]
    x0 = task.like(1, context=long).zero_() + long.anchor
    file = task.write(x0, long, tmp_path / "out" / "three")
    wave, rate = read_audio(file)
    assert rate == 16000 and file.name == "three.wav"
    assert len(wave) == task.signature.samples(long.anchor.shape[-1])
    assert float(wave.abs().mean()) > 1e-3


def test_pictures_and_sounds_leave_padding_out(task, tmp_path):
    batch = task.batch(5, generator(0), "held_out")
    files = task.render(batch.x0, batch.context, tmp_path / "student_4")
    assert [f.name for f in files] == ["student_4.png", "student_4.wav", "student_4_1.wav", "student_4_2.wav"]
    frames = batch.context.mask.sum((1, 2, 3)).tolist()
    for file, n in zip(files[1:], frames, strict=False):
        assert len(read_audio(file)[0]) == task.signature.samples(n)
    with pytest.raises(UserError, match="cannot draw mels"):
        task.render(batch.x0 / 0.0, batch.context, tmp_path / "bad")


def test_train_distil_and_speak(corpus, front_end_file, tmp_path, capsys):
    """The commands end to end, at a size that learns nothing."""
    own = [
        "task=speech/tts",
        f"task.corpus={corpus.folder}",
        f"task.front_end={front_end_file}",
        "task.network={channels: [16, 32], unshuffle: [8, 4]}",
        "task.crop=32",
        "task.teacher_steps=4",
        "batch=4",
        "updates=2",
        "precision=fp32",
    ]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main(["train", *own, f"out={teacher}"]) == 0
    small = ["steps=1,2", "evaluation.samples=16", f"teacher={teacher}", f"out={student}"]
    assert main(["distill", *own, "recipe=comospeech", *small]) == 0
    metrics = json.loads((student / "metrics.json").read_text())
    assert [p["steps"] for p in metrics["teacher"]] == [1, 2, 4]
    assert {"frechet", "mcd", "texture", "audio_seconds"} <= metrics["student"][0]["metrics"].keys()
    assert (student / "samples" / "student_1.wav").is_file() and (student / "samples" / "real.png").is_file()
    (tmp_path / "lines.txt").write_text("mate\nask me at tea\n")
    spoken = tmp_path / "spoken"
    assert main(["sample", str(student), f"input={tmp_path / 'lines.txt'}", f"out={spoken}"]) == 0
    assert sorted(f.name for f in spoken.rglob("*.wav")) == ["lines_001.wav", "lines_002.wav"]
    capsys.readouterr()


@pytest.mark.parametrize("recipe", ["comospeech", "prodiff"])
def test_recipes_say_what_they_need(recipe):
    cfg = compose("config", ["task=speech/tts", f"recipe={recipe}", "out=x"])
    consistency = build(cfg.families.consistency)
    assert cfg.recipe.departures and cfg.recipe.name == recipe
    if recipe == "comospeech":
        assert consistency.jumps.nodes == 50 and not consistency.second_order
        assert float(cfg.objective.consistency) == 2.0  # the paper's squared error has no 1/2
        assert consistency.roles["target"].average == 0.95
    else:
        assert consistency.divergence == "l1" and consistency.target == "jump"
        assert consistency.jumps.nodes >> (consistency.rounds - 1) == cfg.student.steps == 2


def test_the_shipped_teacher_says_new_sentences(monkeypatch, tmp_path):
    """Without any data: its mels stay near the text's mean and have texture that its own one-step answer lacks; an
    untrained network makes noise of it."""
    from omnidistill.modalities.speech.tts.metrics import texture
    from omnidistill.student import read_denoiser

    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    task = TextToSpeech()
    record = json.loads((TEACHER / "teacher.json").read_text())
    assert record["made_by"]["command"].startswith("omnidistill train task=speech/tts")
    assert sum(f.stat().st_size for f in TEACHER.iterdir()) < 8e6
    teacher, _ = read_denoiser(TEACHER, "teacher", task, "cpu")
    torch.manual_seed(0)
    untrained = NetworkDenoiser(task.network(), task.path, **task.reading()).eval()
    mus = [task.front_end.spoken(text) for text in ("Nobody recorded this.", "Please call again at seven.")]
    means, mask = data.pad(mus)
    context = Context(anchor=means, mask=mask)

    def made(denoiser, steps):
        x0 = task.sampler().sample(denoiser, means, steps, context, g=generator(0)).x0
        return [x[0, :, : mu.shape[1]] for x, mu in zip(x0, mus, strict=True)]

    def away(mels):
        return sum(float((mel - mu).square().mean()) for mel, mu in zip(mels, mus, strict=True)) / len(mus)

    many = made(teacher, 16)
    assert texture(many, made(teacher, 1)) > 1.1
    assert away(many) < 0.25 < 1.0 < away(made(untrained, 16))
