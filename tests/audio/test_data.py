"""Labels, the split in time, and clips: no frame of a held-out clip is ever near one of a training clip."""

from __future__ import annotations

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.audio import data
from omnidistill.modalities.audio.files import resample, write_audio
from omnidistill.modalities.audio.task import SIGNATURE

SECONDS = SIGNATURE.seconds


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def counting(frames: int, label: int, mels: int = 4) -> data.Recording:
    """A recording whose every value is its frame's number, so that a clip tells where it was cut."""
    return data.Recording(torch.arange(frames, dtype=torch.float32).expand(mels, frames).clone(), label)


@pytest.mark.parametrize("seconds", [27, 40, 73, 300])
def test_held_out_clips_keep_a_clips_distance_from_training_clips(seconds):
    clip = 64
    train, held_out = data.split([counting(round(seconds / SECONDS), 0)], clip, SECONDS)
    seen = {
        name: clips[torch.arange(len(clips))][0][:, 0, 0] for name, clips in (("t", train), ("h", held_out))
    }
    for clips in seen.values():
        assert (clips.diff(dim=1) == 1).all(), "a clip is a run of frames"
        assert clips.max() < seconds / SECONDS
    used = torch.zeros(round(seconds / SECONDS), dtype=torch.bool)
    used[seen["t"].long().unique()] = True
    for frame in seen["h"].long().unique().tolist():
        assert not used[max(0, frame - clip) : frame + clip + 1].any()
    share = len(seen["h"].unique()) / (len(seen["h"].unique()) + len(seen["t"].unique()))
    assert 0.05 < share < 0.35


def test_of_many_recordings_whole_ones_are_held_out():
    recordings = [data.Recording(torch.full((4, 70), float(number)), number % 2) for number in range(20)]
    train, held_out = data.split(recordings, 64, SECONDS)
    own = [clips[torch.arange(len(clips))][0].unique().tolist() for clips in (train, held_out)]
    assert not set(own[0]) & set(own[1]) and len(own[0]) == 16 and len(own[1]) == 4
    assert held_out[torch.arange(len(held_out))][2].unique().tolist() == [0, 1]


def test_too_little_music_is_refused():
    with pytest.raises(UserError, match="5 recordings, or one of 26 s") as error:
        data.split([counting(900, 0), counting(700, 1)], 64, SECONDS)
    assert "label 1" in one_line(error)


def test_short_recordings_are_padded_and_masked():
    recordings = [counting(length, 0) for length in (40, 64, 70, 50, 66)]
    train, held_out = data.split(recordings, 64, SECONDS)
    assert train.ragged and not held_out.ragged
    clips, mask, _ = train[torch.arange(len(train))]
    lengths = mask.sum((1, 2, 3))
    assert sorted(lengths.unique().tolist()) == [40, 50, 64]
    assert (clips[~mask.expand(clips.shape)] == 0).all()
    assert len(train) == 1 + 1 + 7 + 1, "one for each recording not longer than a clip, else one a start"


def test_labels_are_drawn_as_asked_and_clips_uniformly():
    recordings = [counting(2000, 0), counting(1000, 1), counting(1000, 2)]
    train, _ = data.split(recordings, 64, SECONDS)
    labels = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(0))
    rows = train.drawn(labels, torch.Generator().manual_seed(1))
    clips, _, found = train[rows]
    assert torch.equal(found, labels)
    assert torch.equal(rows, train.drawn(labels, torch.Generator().manual_seed(1)))
    starts = clips[labels == 0, 0, 0, 0]
    everywhere = train[torch.arange(len(train))]
    possible = everywhere[0][everywhere[2] == 0, 0, 0, 0]
    assert abs(float(starts.mean() - possible.mean())) < 0.1 * float(possible.max())
    spread = train[train.spread(10, 3)][2]
    assert spread.bincount().tolist() == [10, 10, 10]
    with pytest.raises(UserError, match="no clip has the label 7"):
        train.drawn(torch.tensor([7]), torch.Generator())


def test_a_label_is_a_file_or_a_subfolder(tracks, snippets, tmp_path):
    assert data.labelled_files(tracks)[0] == ["bass", "bells", "hiss"]
    names, files = data.labelled_files(snippets)
    assert names == ["bass", "hiss"] and [len(of) for of in files] == [10, 10]
    assert data.labelled_files(tracks, ["hiss", "bass"])[1][0][0].name == "hiss.wav"
    with pytest.raises(UserError, match="no recordings of 'flute'; it has bass, bells, hiss") as error:
        data.labelled_files(tracks, ["bass", "flute"])
    one_line(error)
    wave = torch.zeros(10)
    write_audio(tmp_path / "side.wav", wave, 16000)
    write_audio(tmp_path / "sub" / "below.wav", wave, 16000)
    with pytest.raises(UserError, match="either a file or a subfolder") as error:
        data.labelled_files(tmp_path)
    one_line(error)


def test_recordings_are_checked_and_resampled_only_on_request(tracks, tmp_path):
    files = data.labelled_files(tracks)[1]
    recordings = data.read_recordings(files, SIGNATURE, 1.0)
    assert [r.label for r in recordings] == [0, 1, 2]
    assert recordings[0].mel.shape == (64, SIGNATURE.frames(40 * 16000))

    from omnidistill.modalities.audio.files import read_audio

    wave = read_audio(files[0][0])[0]
    other = [[write_audio(tmp_path / "fast.wav", resample(wave, 16000, 44100), 44100)]]
    with pytest.raises(UserError, match="at 44100 Hz, expected 16000 Hz") as error:
        data.read_recordings(other, SIGNATURE, 1.0)
    one_line(error)
    again = data.read_recordings(other, SIGNATURE, 1.0, resampled=True)[0].mel
    assert (again - recordings[0].mel)[:50].abs().mean() < 0.1
    with pytest.raises(UserError, match=r"lasts 40 s, at least 60 s"):
        data.read_recordings(files, SIGNATURE, 60.0)
