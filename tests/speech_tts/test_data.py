"""Corpora in the forms of the field, and a split that divides no sentence."""

from __future__ import annotations

import json

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.audio.signal import MelSignature
from omnidistill.modalities.speech.tts import data
from omnidistill.modalities.speech.tts.sentences import sentences

from .conftest import RATE, SIGNATURE


def test_the_three_forms_say_the_same(corpus, tmp_path):
    expected = [(item.text, item.file) for item in data.listed(corpus.folder)]
    assert [text for text, _ in expected] == corpus.texts
    filelist, speakers, manifest = (tmp_path / name for name in ("list.txt", "speakers.csv", "items.jsonl"))
    filelist.write_text("\n".join(f"{file}|{text}" for text, file in expected))
    speakers.write_text("\n".join(f"{file}|7|{text}" for text, file in expected))
    manifest.write_text("\n".join(json.dumps({"audio": str(file), "text": text}) for text, file in expected))
    for file in (filelist, speakers, manifest):
        assert [(item.text, item.file) for item in data.listed(file)] == expected


def test_ljspeech_takes_the_normalised_text(tmp_path):
    write_audio(tmp_path / "wavs" / "a.wav", torch.zeros(RATE), RATE)
    (tmp_path / "metadata.csv").write_text("a|Dr. No|Doctor No\n")
    (item,) = data.listed(tmp_path)
    assert (item.name, item.text) == ("a", "Doctor No")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a\n", "line 1: expected id|text"),
        ("a|one\nb|two\n", "line 2 names"),
        ("a|[beep]\n", "holds no sentence"),
        ("", "holds no sentence"),
    ],
)
def test_bad_metadata(rows, says, tmp_path):
    write_audio(tmp_path / "wavs" / "a.wav", torch.zeros(RATE), RATE)
    (tmp_path / "metadata.csv").write_text(rows)
    with pytest.raises(UserError, match=says):
        data.listed(tmp_path)


def test_no_corpus(tmp_path):
    with pytest.raises(UserError, match="there is no corpus"):
        data.listed(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither metadata.csv"):
        data.listed(tmp_path)
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"line 1 .*bad\.jsonl"):
        data.listed(tmp_path / "bad.jsonl")


def recorded(tmp_path, wave: torch.Tensor, text: str = "one", rate: int = RATE) -> list[data.Spoken]:
    return [data.Spoken("a", text, write_audio(tmp_path / "a.wav", wave, rate))]


def test_bad_recordings_are_one_line(tmp_path):
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="at 22050 Hz, expected 16000 Hz"):
        data.load(recorded(tmp_path, noise, rate=22050), SIGNATURE)
    with pytest.raises(UserError, match="lasts"):
        data.load(recorded(tmp_path, noise[:800]), SIGNATURE)
    with pytest.raises(UserError, match="too few for n_fft"):
        data.load(recorded(tmp_path, noise[:2000]), MelSignature(rate=RATE, n_fft=4096, win=1024))
    with pytest.raises(UserError, match="is it another recording's"):
        data.load(
            recorded(tmp_path, noise[:8000], "a sentence of more letters than frames, surely"), SIGNATURE
        )
    items = recorded(tmp_path, noise)
    items[0].file.write_bytes(items[0].file.read_bytes()[:30])
    with pytest.raises(UserError, match="cannot read the audio file"):
        data.load(items, SIGNATURE)


def made_up(texts: list[str], frames: int = 100) -> list[data.Utterance]:
    return [data.Utterance(str(i), text, torch.zeros(80, frames)) for i, text in enumerate(texts)]


TEXTS = [
    "The conference is locked now, please try later",
    "the conference is LOCKED now; please try again",
    "press one to hear the next message",
    "press 1 to hear the next message, or press two",
    *(
        f"{word} {word}ing"
        for word in ("walk", "talk", "jump", "sing", "read", "look", "call", "wait", "turn", "open")
    ),
    "walk, walking!",
    "an altogether different sentence of many words",
]


def test_near_identical_sentences_stay_on_one_side():
    """For every share, so that each group is at the border once."""
    both = set()
    for share in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        held = dict(zip(TEXTS, data.held_out(made_up(TEXTS), 0.016, share), strict=True))
        assert held[TEXTS[0]] == held[TEXTS[1]]
        assert held[TEXTS[2]] == held[TEXTS[3]]
        assert held["walk walking"] == held["walk, walking!"]
        both |= set(held.items())
        assert sum(held.values()) <= share * len(TEXTS)
    assert len(both) > 1.5 * len(TEXTS), "at some share most of them change sides"


def test_the_split_does_not_depend_on_order():
    first = dict(zip(TEXTS, data.held_out(made_up(TEXTS), 0.016, 0.4), strict=True))
    turned = TEXTS[::-1]
    assert first == dict(zip(turned, data.held_out(made_up(turned), 0.016, 0.4), strict=True))


def test_long_prompts_are_for_training():
    utterances = made_up(TEXTS[4:14]) + made_up(["something rather long"], 300)
    assert not data.held_out(utterances, 0.016, 0.9)[-1]
    with pytest.raises(UserError, match="do not split"):
        data.held_out(made_up(["one", "one"]), 0.016)


def test_padding_and_its_mask():
    batch, mask = data.pad([torch.ones(80, 5), 2 * torch.ones(80, 3)])
    assert batch.shape == (2, 1, 80, 5) and mask.shape == (2, 1, 1, 5)
    assert mask.sum().item() == 8 and float(batch.sum()) == 80 * (5 + 6)


def test_sentences_to_say(tmp_path):
    plain, rows = tmp_path / "lines.txt", tmp_path / "rows.jsonl"
    plain.write_text("One.\n\nTwo!\n")
    rows.write_text('{"text": "One.", "id": "../first"}\n{"text": "Two!"}\n')
    assert list(sentences(plain)) == [("lines_001", "One."), ("lines_002", "Two!")]
    assert list(sentences(rows)) == [("first", "One."), ("rows_002", "Two!")], "names stay in their folder"
    rows.write_text('{"say": "One."}\n{"text": null}\n{"text": "Two (and\u2028three)."}\n')
    wrong, null, fine = sentences(rows)
    assert "line 1" in str(wrong[1]) and "null" in str(null[1])
    assert fine == ("rows_003", "Two , and\u2028three, .")
    plain.write_text("\n")
    for file, says in ((plain, "holds no sentence"), (tmp_path / "none.txt", "is no file")):
        with pytest.raises(UserError, match=says):
            list(sentences(file))
