"""Mixtures at the SNR that they state, the fixed list, crops; the user's folders and what can be wrong there."""

from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.speech.enhancement import noise
from omnidistill.modalities.speech.enhancement.data import Folders, Mixtures
from omnidistill.modalities.speech.enhancement.data import folders as user_pairs
from omnidistill.random import generator


def decibels(clean: Tensor, noisy: Tensor) -> float:
    return float(20 * torch.log10(noise.level(clean) / noise.level(noisy - clean)))


def test_a_mixture_has_the_stated_snr(voices: list[Tensor], tracks: list[Tensor]) -> None:
    for snr in (-5.0, 0.0, 12.0):
        mixtures = Mixtures(voices, tracks, (snr, snr))
        for i in range(len(mixtures)):
            assert decibels(*mixtures[i]) == pytest.approx(snr, abs=0.01)
    levels = [decibels(*Mixtures(voices, tracks, (0.0, 10.0), seed)[0]) for seed in range(20)]
    assert 0.0 <= min(levels) < 3.0 and 7.0 < max(levels) <= 10.0


def test_the_list_is_fixed_and_crops_follow_the_generator(voices: list[Tensor], tracks: list[Tensor]) -> None:
    mixtures = Mixtures(voices, tracks)
    for a, b in zip(mixtures[2], Mixtures(voices, tracks)[2], strict=True):
        assert torch.equal(a, b)
    first, again, other = (mixtures.crops(4, 3968, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])


def test_crops_are_pairs_cut_at_one_place_and_no_louder_than_1(voices: list[Tensor]) -> None:
    quiet = Mixtures(voices, [], (80.0, 80.0))  # so little noise that clean and noisy are one recording
    clean, noisy = quiet.crops(8, 3968, generator(0))
    assert clean.shape == (8, 3968) and noisy.abs().max() <= 1.0 + 1e-6
    assert (clean - noisy).abs().max() < 1e-3 and clean.abs().amax(1).min() > 0.01


def test_a_recording_shorter_than_a_crop_lies_in_silence(voices: list[Tensor]) -> None:
    short = voices[0][:2000]
    clean, noisy = Mixtures([short], []).crops(1, 5000, generator(0))
    assert clean.shape == (1, 5000) and int((noisy != 0).sum()) <= 2000


def test_music_and_coloured_noise_are_both_drawn_and_none_is_silent(tracks: list[Tensor]) -> None:
    level_tracks = [track / noise.level(track) for track in tracks]
    drawn = [noise.draw(level_tracks, 8000, generator(i)) for i in range(40)]
    music = sum(any(_inside(wave, track) for track in level_tracks) for wave in drawn)
    assert 12 <= music <= 34
    assert all(0.5 < float(noise.level(wave)) < 1.6 for wave in drawn)


def _inside(wave: Tensor, track: Tensor) -> bool:
    """Whether the wave is a piece of the track, up to its scale."""
    a, b = wave[:64] / wave[:64].norm(), track.unfold(0, 64, 1)
    return bool(((b @ a) / b.norm(dim=1).clamp_min(1e-9) > 0.9999).any())


def test_coloured_noise_has_no_two_alike_and_ends_where_asked() -> None:
    a, b = (noise.coloured(5001, generator(i)) for i in range(2))
    assert a.shape == (5001,) and not torch.allclose(a, b)


def test_no_speech_or_a_reversed_range_is_refused(voices: list[Tensor]) -> None:
    with pytest.raises(UserError, match="no speech"):
        Mixtures([], [])
    with pytest.raises(UserError, match="range"):
        Mixtures(voices, [], (10.0, 0.0))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folders_pair_by_name_and_test_is_held_out(folders: Path) -> None:
    train, held = user_pairs("train", folders), user_pairs("held_out", folders)
    assert len(train) == len(held) == 3
    clean, noisy = held[1]
    read = [
        torch.from_numpy(soundfile.read(folders / "test" / kind / "p1.wav", dtype="float32")[0])
        for kind in ("clean", "noisy")
    ]
    assert torch.equal(clean, read[0]) and torch.equal(noisy, read[1])
    assert not torch.equal(train[1][0][:3000], clean[:3000])


def test_valid_stands_in_where_there_is_no_test(folders: Path) -> None:
    (folders / "test").rename(folders / "valid")
    assert len(user_pairs("held_out", folders)) == 3


def test_other_names_in_the_two_folders_are_refused(folders: Path) -> None:
    (folders / "train" / "noisy" / "p1.wav").rename(folders / "train" / "noisy" / "q1.wav")
    with pytest.raises(UserError, match="noisy/ lacks 'p1'"):
        user_pairs("train", folders)


def test_a_missing_folder_is_refused(folders: Path) -> None:
    with pytest.raises(UserError, match="train"):
        user_pairs("train", folders / "test")
    with pytest.raises(UserError, match="no folder"):
        Folders(folders)


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        (torch.zeros(9600), 16000, "silent"),
        (torch.ones(9000), 8000, "8000 Hz, expected 16000"),
        (torch.ones(100), 16000, "lasts"),
        (torch.ones(5000), 16000, "same length"),
        (torch.full((9600,), float("nan")), 16000, "NaN"),
    ],
)
def test_a_bad_partner_is_refused_in_one_line(folders: Path, samples: Tensor, rate: int, says: str) -> None:
    soundfile.write(folders / "train" / "noisy" / "p0.wav", samples.numpy(), rate, subtype="FLOAT")
    with pytest.raises(UserError, match=says) as error:
        Folders(folders / "train")[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"RIFF but not really"])
def test_an_empty_or_corrupt_file_is_refused(folders: Path, content: bytes) -> None:
    (folders / "train" / "clean" / "p0.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"p0\.wav"):
        Folders(folders / "train")[0]
