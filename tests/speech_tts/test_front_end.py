"""The front end: it learns where the letters are, and padding changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts import data, front_end
from omnidistill.modalities.speech.tts.front_end import FrontEnd
from omnidistill.modalities.speech.tts.task import FRONT_END
from omnidistill.modalities.speech.tts.text import encode

from .conftest import SIGNATURE, Corpus


def boundary_error(model: FrontEnd, corpus: Corpus) -> float:
    """Mean distance, in frames, of the boundaries found from the true ones."""
    utterances = data.load(data.listed(corpus.folder), SIGNATURE)
    errors = []
    for utterance, true in zip(utterances, corpus.durations, strict=True):
        symbols = torch.tensor([encode(utterance.text)])
        mel = ((utterance.mel - model.mean) / model.std).unsqueeze(0)
        found = model.align(model(symbols).means, symbols, mel, torch.tensor([mel.shape[2]]))[0]
        errors.append((found.cumsum(0) - torch.tensor(true).cumsum(0)).abs()[:-1].float())
    return float(torch.cat(errors).mean())


def test_it_finds_the_letters(corpus, front_end_file):
    """Nobody told it where letters begin; an untrained one is frames away."""
    trained = front_end.load(front_end_file)
    torch.manual_seed(0)
    untrained = FrontEnd(width=48, depth=2, mean=float(trained.mean), std=float(trained.std)).eval()
    # A frame's window reaches two frames to either side, so boundaries are not sharper than that.
    assert boundary_error(trained, corpus) < 2.5
    assert boundary_error(untrained, corpus) > 8.0


def test_predicted_durations_are_those_of_the_speaker(corpus, front_end_file):
    """4 to 9 frames a letter, 6.5 in the mean; slowness stretches them; each sentence has the right number."""
    trained = front_end.load(front_end_file)
    lengths = [trained.spoken(text).shape[1] / len(encode(text)) for text in corpus.texts]
    assert sum(lengths) / len(lengths) == pytest.approx(6.4, abs=0.5)
    slow, fast = trained.spoken("tea", 2.0), trained.spoken("tea", 0.5)
    assert slow.shape[1] > 1.7 * trained.spoken("tea").shape[1] > 2.7 * fast.shape[1]
    assert (slow.diff(dim=1).abs().sum(0) > 0).sum() == len(encode("tea")) - 1


def test_it_reads_as_it_was_trained(front_end_file):
    """Saved with phonemes, loaded with phonemes; without, in letters."""
    letters, phonemes = front_end.load(front_end_file), front_end.load(FRONT_END)
    assert letters.encode("though") == encode("though") and len(letters.encode("though")) == 8
    assert phonemes.encode("though") == encode("though", {"though": ("DH", "OW")})
    # Words that sound alike are one to it.
    assert torch.equal(phonemes.spoken("two"), phonemes.spoken("too"))
    assert letters.encode("two") != letters.encode("too")


def test_padding_changes_nothing(front_end_file):
    model = front_end.load(front_end_file)
    short, long = torch.tensor(encode("tea")), torch.tensor(encode("same kite a most"))
    together = model(pad_sequence([short, long], batch_first=True))
    for row, alone in enumerate((short, long)):
        read = model(alone.unsqueeze(0))
        torch.testing.assert_close(together.means[row, :, : len(alone)], read.means[0])
        torch.testing.assert_close(together.log_durations[row, : len(alone)], read.log_durations[0])
    assert not together.means[0, :, len(short) :].any()


def test_losses_do_not_see_padding(front_end_file):
    model, g = front_end.load(front_end_file), torch.Generator().manual_seed(0)
    symbols, frames = torch.tensor([encode("tea")]), torch.tensor([30])
    mel = torch.randn(1, 80, 30, generator=g)
    wide = torch.cat((mel, torch.full((1, 80, 9), 5.0)), dim=2)
    wide_symbols = torch.nn.functional.pad(symbols, (0, 4))
    a, b = model.losses(symbols, mel, frames), model.losses(wide_symbols, wide, frames)
    torch.testing.assert_close(a.prior, b.prior)
    torch.testing.assert_close(a.duration, b.duration)


def test_the_duration_error_does_not_bend_the_means():
    torch.manual_seed(0)
    model = FrontEnd(width=16, depth=1)
    losses = model.losses(torch.tensor([encode("tea")]), torch.randn(1, 80, 30), torch.tensor([30]))
    losses.duration.backward()
    assert model.embedding.weight.grad is None or not model.embedding.weight.grad.any()
    assert model.log_durations.weight.grad.any()


def test_the_shipped_front_end():
    """Small, and of the stated signature; `five` is longer than `a`."""
    assert FRONT_END.stat().st_size < 3e6
    record = json.loads(FRONT_END.with_suffix(".json").read_text())
    assert record["signature"] == SIGNATURE.as_dict()
    assert record["command"].startswith("python benchmarks/tts_front_end.py")
    model = front_end.load(FRONT_END)
    seconds = model.spoken("Please enter the extension, followed by the pound key.").shape[1] * 0.016
    assert 2.0 < seconds < 5.0
    assert model.spoken("conference").shape[1] > model.spoken("a").shape[1]


def test_a_damaged_front_end_is_one_line(tmp_path, front_end_file):
    with pytest.raises(UserError, match=r"tts_front_end.py makes one"):
        front_end.load(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(front_end_file.read_bytes()[:1000])
    broken.with_suffix(".json").write_text(front_end_file.with_suffix(".json").read_text())
    with pytest.raises(UserError, match="cannot read the front end"):
        front_end.load(broken)
