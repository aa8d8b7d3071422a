"""Films as people have them: unsteady rates, turned and mirrored pictures, cut and damaged files."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.video.films import evenly, read_video, turned

av = pytest.importorskip("av")


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write_at(path: Path, seconds: list[float], pictures: np.ndarray, rate: int = 30) -> Path:
    """A film whose frames are shown at these times."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "yuv420p"
        stream.bit_rate, stream.codec_context.time_base = 4_000_000, Fraction(1, 600)
        for when, picture in zip(seconds, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(when * 600), Fraction(1, 600)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def clock(seconds: list[float]) -> np.ndarray:
    """uint8 [n 32 40 3]: grey pictures as bright as the time is late."""
    return np.stack([np.full((32, 40, 3), round(20 + 60 * when), np.uint8) for when in seconds])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_lie_evenly_in_time_whatever_the_files_rate_does(tmp_path, suffix):
    # A second at 30 frames, a second at 10, half a second at 30.
    seconds = [i / 30 for i in range(30)] + [1 + i / 10 for i in range(10)] + [2 + i / 30 for i in range(15)]
    frames, rate = read_video(write_at(tmp_path / f"a{suffix}", seconds, clock(seconds)), 32, 16)
    assert rate == pytest.approx(30.0, rel=0.02)
    shown = (frames.float().mean((1, 2, 3)).numpy() - 20) / 60
    at = np.arange(len(shown)) / rate
    assert len(shown) == pytest.approx(2.5 * rate, abs=2)
    # What is on the screen is never older than the slowest frame lasts, and never from the future.
    assert (at - shown).max() < 0.1 + 0.05 and (at - shown).min() > -0.05
    fast = shown[:30]
    assert np.abs(fast - np.arange(30) / 30).max() < 0.06


def test_an_even_grid_of_times():
    assert evenly([0.0, 0.1, 0.2, 0.3], 10.0) == ([0, 1, 2, 3], 10.0)
    # Time stamps of milliseconds, and a head that states another rate.
    stamps = [round(1000 * k / 29.97) / 1000 for k in range(300)]
    assert evenly(stamps, 29.97)[0] == list(range(300))
    rows, rate = evenly([k / 25 for k in range(50)], 1000.0)
    assert rows == list(range(50)) and rate == pytest.approx(25.0)
    # A gap is filled by what stays on the screen; a start later than zero counts from the first frame.
    rows, rate = evenly([5.0, 5.1, 5.2, 5.6, 5.7], 7.0)
    assert rate == pytest.approx(10.0) and rows == [0, 1, 2, 2, 2, 2, 3, 4]
    assert evenly([None, None], 12.0) == ([0, 1], 12.0)
    # Times in another order than the frames, which decoders hand on as they are shown.
    assert evenly([0.0, 0.3, 0.1, 0.2], 10.0) == ([0, 1, 2, 3], 10.0)
    for times, said in (
        ([1.0, 1.0], "all 2 frames are shown at one time"),
        ([0.0, 0.001, 0.002, 9e9], "shows 4 frames in"),
    ):
        with pytest.raises(UserError, match=said):
            evenly(times, 10.0)


TURNS = {  # a, b, c, d of ISO/IEC 14496-12 and what a player shows
    "upright": ((1, 0, 0, 1), lambda x: x),
    "clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "half": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "counterclockwise": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", TURNS)
def test_films_are_turned_and_mirrored_as_players_show_them(tmp_path, name):
    (a, b, c, d), player = TURNS[name]
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :32], picture[32:, :32], picture[:32, 64:] = (220, 0, 0), (0, 220, 0), (0, 0, 220)
    plain = write_at(tmp_path / "plain.mp4", [i / 30 for i in range(10)], np.stack([picture] * 10))
    raw = bytearray(plain.read_bytes())
    at = raw.find(b"tkhd")
    at += 8 + (32 if raw[at + 4] == 1 else 20) + 16
    numbers = [round(65536 * v) for v in (a, b, 0, c, d, 0, 0, 0)]
    struct.pack_into(">9i", raw, at, *numbers[:2], 0, *numbers[3:5], 0, 0, 0, 0x40000000)
    (tmp_path / "turned.mp4").write_bytes(raw)
    upright, read = (
        read_video(tmp_path / f"{n}.mp4", 64, 32)[0].permute(0, 2, 3, 1).numpy() for n in ("plain", "turned")
    )
    expected = player(upright[0])
    assert read[0].shape == expected.shape and abs(read[0].astype(int) - expected).max() <= 2


def test_an_angle_between_quarter_turns_is_refused():
    half = struct.pack("=9i", *(round(65536 * v) for v in (0.7, 0.7, 0, -0.7, 0.7, 0, 0, 0, 1)))
    with pytest.raises(UserError, match="no quarter turn"):
        turned(np.zeros((4, 4, 3), np.uint8), half, "a film")


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    with av.open(str(tmp_path / "wide.mkv"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for picture in clock([0.1 * i for i in range(5)]):
            square = np.full((48, 48, 3), picture[0, 0, 0], np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(square, format="rgb24")))
        file.mux(stream.encode())
    assert read_video(tmp_path / "wide.mkv", 48, 16)[0].shape[2:] == (48, 96)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_films_cut_short_are_refused(tmp_path, films, suffix, share):
    whole = films.write(tmp_path / f"whole{suffix}", films.frames(60, 0)).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"cannot read the video .*cut\{suffix}") as error:
        read_video(tmp_path / f"cut{suffix}", 32, 16)
    one_line(error)


def test_what_is_no_film_opens_nothing_else(tmp_path, films):
    films.write(tmp_path / "good.mp4", films.frames(12, 0))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "play.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"
    )
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("list.mp4", "play.mp4", "pipe.mp4"):
        with pytest.raises(UserError, match=f"cannot read the video .*{name}|a fifo") as error:
            read_video(tmp_path / name, 32, 16)
        one_line(error)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".gif", ".mkv"])
def test_mutations_of_good_films_are_read_or_refused_in_one_line(tmp_path, films, suffix):
    r = np.random.default_rng(1)
    good = films.write(tmp_path / f"good{suffix}", films.frames(20, 0)).read_bytes()
    file, refused = tmp_path / f"bad{suffix}", 0
    for number in range(40):
        raw = bytearray(good)
        if number % 4 == 0:
            raw = raw[: r.integers(len(raw))]
        for _ in range(r.integers(1, 8)):
            if raw:
                raw[r.integers(min(len(raw), 300 if r.random() < 0.5 else len(raw)))] = r.integers(256)
        file.write_bytes(raw)
        try:
            frames, rate = read_video(file, 32, 16)
            assert frames.ndim == 4 and 0 < rate < float("inf")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and file.name in str(error)
    assert refused > 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_films_with_damaged_frames_are_refused(tmp_path, films, suffix):
    r = np.random.default_rng(3)
    good = films.write(tmp_path / f"good{suffix}", films.frames(60, 0)).read_bytes()
    refused = 0
    for _ in range(10):
        raw = bytearray(good)
        for place in len(raw) // 2 + r.integers(len(raw) // 2, size=40):
            raw[place] = r.integers(256)
        (tmp_path / f"bad{suffix}").write_bytes(raw)
        try:
            read_video(tmp_path / f"bad{suffix}", 32, 16)
        except UserError as error:
            refused += "\n" not in str(error) and "cannot read the video" in str(error)
    assert refused >= 8  # what a decoder cannot tell from a film is one
