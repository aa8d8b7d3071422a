"""Reading recordings, the split that never tears a moment apart, and the drawing of clips."""

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.video import data


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def recording(films):
    def make(name: str, count: int, label: int = 0, rate: float = 10.0, seed: int = 0) -> data.Recording:
        pictures = torch.from_numpy(films.frames(count, seed)).permute(0, 3, 1, 2)
        return data.Recording(name, label, pictures, rate)

    return make


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".gif"])
def test_a_written_film_is_read_back(tmp_path, suffix, films):
    pictures = films.frames(12, 3)
    read, rate = data.read_video(films.write(tmp_path / f"film{suffix}", pictures), side=32, size=16)
    assert read.shape == (12, 3, 32, 40) and read.dtype == torch.uint8 and rate == pytest.approx(10.0)
    error = np.abs(read.permute(0, 2, 3, 1).numpy().astype(float) - pictures)
    assert error.mean() < (
        20 if suffix == ".gif" else 10
    )  # of 255; a gif has 256 colours, and rgb8 fixed ones
    shifted = np.abs(read.permute(0, 2, 3, 1).numpy()[3:].astype(float) - pictures[:-3])
    assert shifted.mean() > 1.4 * error.mean()


def test_frames_are_scaled_down_and_never_up(tmp_path, films):
    path = films.write(tmp_path / "film.mp4", films.frames(3, 0, height=64, width=80))
    assert data.read_video(path, side=32, size=16)[0].shape[2:] == (32, 40)
    assert data.read_video(path, side=500, size=16)[0].shape[2:] == (64, 80)


def test_bad_files_are_refused_in_one_line(tmp_path, films):
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    whole = films.write(tmp_path / "whole.mp4", films.frames(30, 0)).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    for path in (text, empty, cut, tmp_path / "missing.mp4"):
        with pytest.raises(UserError, match="cannot read the video") as error:
            data.read_video(path, 32, 16)
        assert str(path) in one_line(error)


def test_a_file_of_sound_has_no_video_stream(tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        tone = (np.sin(np.arange(4096) / 9) * 0.3).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(UserError, match="no video stream, only audio") as error:
        data.read_video(path, 32, 16)
    one_line(error)


def test_small_and_short_recordings_are_refused(tmp_path, films, recording):
    path = films.write(tmp_path / "film.mp4", films.frames(10, 0))
    with pytest.raises(UserError, match="too small: 40x32 pixels") as error:
        data.read_video(path, side=64, size=64)
    one_line(error)
    with pytest.raises(UserError, match="too short") as error:
        data.split([recording("r", 30)], frames=8, size=16, interval=0.1)
    one_line(error)


def test_one_recording_is_split_in_time_with_a_gap(recording):
    r = recording("r", 100)
    train, held_out = data.split([r], frames=4, size=16, interval=0.2)
    (a,), (b,) = train.spans, held_out.spans
    assert a.stride == b.stride == 2
    last_trained_on = int(a.starts.max()) + 3 * a.stride
    assert (int(a.starts.min()), int(b.starts.max()) + 3 * b.stride) == (0, 99)
    assert int(b.starts.min()) == 80 and last_trained_on == 59  # the last fifth, and 20 frames are 2 s


def test_many_recordings_are_held_out_whole(recording):
    group = [recording(f"r{i}", 20, seed=i) for i in range(7)]
    train, held_out = data.split(group[::-1], frames=4, size=16, interval=0.1)
    found = [
        [next(r.name for r in group if r.frames is s.frames) for s in c.spans] for c in (train, held_out)
    ]
    assert found == [["r0", "r1", "r2", "r3", "r5", "r6"], ["r4"]]
    assert all(len(span.starts) == 17 for span in (*train.spans, *held_out.spans))


def test_no_clip_crosses_a_cut(recording):
    r = recording("r", 100)
    inverted = 255 - r.frames[30:]
    shots = data.Recording("r", 0, torch.cat((r.frames[:30], inverted)), 10.0)
    train, _ = data.split([shots], frames=4, size=16, interval=0.1)
    starts = set(train.spans[0].starts.tolist())
    assert starts == set(range(57)) - {27, 28, 29}


def test_clips_are_pieces_of_their_recording_and_labels_are_even(recording):
    a, b = recording("a", 100, 0, seed=1), recording("b", 300, 1, seed=2)
    train, _ = data.split([a, b], frames=4, size=16, interval=0.1)
    clips, labels = train.draw(400, torch.Generator().manual_seed(0))
    assert clips.shape == (400, 3, 4, 16, 16) and clips.abs().max() <= 1
    assert 160 < int(labels.sum()) < 240  # though the second recording is three times as long
    for clip, label in zip(clips[:4], labels[:4].tolist(), strict=True):
        whole = (a, b)[label].frames.float() / 127.5 - 1
        places = whole.unfold(2, 16, 1).unfold(3, 16, 1)  # [n 3 y x 16 16]
        first = (places - clip[:, 0, None, None]).abs().amax((1, 4, 5))
        y, x = divmod(int(first.amin(0).argmin()), first.shape[2])
        windows = whole[:, :, y : y + 16, x : x + 16].unfold(0, 4, 1).movedim(-1, 2)  # [start 3 4 16 16]
        distance = (windows - clip).abs().flatten(1).amax(1)
        assert float(distance.min()) < 1e-5
        start = int(distance.argmin())
        assert start + 3 < 0.8 * len(whole) - 20  # among the frames trained on


def test_draws_depend_on_the_generator_alone(recording):
    clips = data.split([recording("r", 100)], 4, 16, 0.1)[0]
    a, b, c = (clips.draw(8, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_own_folders(folder, tmp_path, films):
    files = data.own_files(folder)
    recordings = data.own(files, files.labels, 32, 16)
    assert files.labels == ("left", "right") and [r.label for r in recordings] == [0, 1]
    for place, message in ((tmp_path / "none", "no folder"), (tmp_path, "holds no video")):
        with pytest.raises(UserError, match=message) as error:
            data.own_files(place)
        one_line(error)
    films.write(tmp_path / "loose.mp4", films.frames(3, 0))
    films.write(tmp_path / "sub" / "other.mp4", films.frames(3, 0))
    with pytest.raises(UserError, match="a subfolder is a label") as error:
        data.own_files(tmp_path)
    one_line(error)
    (tmp_path / "sub" / "other.mp4").unlink()
    assert data.own_files(tmp_path).labels == ("",)
