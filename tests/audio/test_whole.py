"""Recordings are read as they were made, or refused in one line: cut short, absurd, damaged, cancelling channels."""

import random
import struct

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.audio import decode, files

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")
RATE = 16000


def voice(samples: int = 3 * RATE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    return 0.3 * np.sin(2 * np.pi * 150 * time) * np.sin(2 * np.pi * time) + 0.02 * rng.standard_normal(
        samples
    )


def encoded(path, codec: str, container: str, wave: np.ndarray, rate: int = RATE, **options: str):
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.rate, frame.pts = RATE, 0
        for ready in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


def written(folder, name: str):
    """A recording of three seconds in the format of that name."""
    path, wave = folder / name, voice()
    if name.endswith((".wav", ".flac", ".ogg", ".aiff")):
        soundfile.write(path, wave, RATE)
        return path
    codecs = {
        "a.mp3": ("libmp3lame", "mp3", RATE),
        "a.m4a": ("aac", "mp4", RATE),
        "front.m4a": ("aac", "mp4", RATE),
        "a.aac": ("aac", "adts", RATE),
        "a.opus": ("libopus", "ogg", 48000),
        "a.webm": ("libopus", "webm", 48000),
    }
    codec, container, rate = codecs[name]
    options = {"movflags": "faststart"} if name == "front.m4a" else {}
    try:
        return encoded(path, codec, container, wave, rate, **options)
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg writes no {codec}: {error}")


FORMATS = ["a.wav", "a.flac", "a.ogg", "a.aiff", "a.mp3", "a.m4a", "front.m4a", "a.aac", "a.opus", "a.webm"]


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_header_promises_is_there(tmp_path, name):
    path = written(tmp_path, name)
    wave, rate = files.read_audio(path)
    assert abs(len(wave) / rate - 3.0) < 0.15
    whole = path.read_bytes()
    for share in (0.97, 0.7, 0.3):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match=r"cut short|damaged|no audio") as error:
            files.read_audio(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)


def test_streams_of_unknown_length_and_what_follows_the_sound_are_fine(tmp_path):
    path = written(tmp_path, "a.wav")
    raw = bytearray(path.read_bytes())
    whole, _ = files.read_audio(path)
    path.write_bytes(raw + b"LIST\x04\0\0\0abcd")
    assert torch.equal(files.read_audio(path)[0], whole)
    raw[4:8] = raw[40:44] = b"\xff" * 4  # as a pipe leaves them
    path.write_bytes(raw)
    assert torch.equal(files.read_audio(path)[0], whole)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (40, struct.pack("<I", 0x7FFFFFF0), "cut short"),
        (24, struct.pack("<I", 3), "claims 3 Hz"),
        (24, struct.pack("<I", 4_000_000_000), "Hz|damaged"),
        (22, struct.pack("<H", 60_000), "channels|damaged"),
    ],
)
def test_absurd_headers_of_wav(tmp_path, place, value, says):
    path = written(tmp_path, "a.wav")
    raw = bytearray(path.read_bytes())
    raw[place : place + len(value)] = value
    path.write_bytes(raw)
    with pytest.raises(UserError, match=says):
        files.read_audio(path)


def test_a_flac_that_promises_a_memory_full_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = written(tmp_path, "a.flac")
    raw = bytearray(path.read_bytes())
    raw[21] |= 0x0F  # 36 bits of the stream's length, of which these are the highest
    path.write_bytes(raw)
    monkeypatch.setattr(decode, "_blocks", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match="longer than"):
        files.read_audio(path)


def test_a_bomb_is_stopped_on_its_way(tmp_path, monkeypatch):
    """Silence packs to nothing, and a stream need not say how long it is."""
    monkeypatch.setattr(decode, "MOST", 20_000)
    monkeypatch.setattr(decode, "BLOCK", 4096)
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(400_000), RATE)
    raw = bytearray(path.read_bytes())
    raw[21] &= 0xF0
    raw[22:26] = bytes(4)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.flac.*longer than 20000|damaged"):
        files.read_audio(path)


def test_a_wave_of_64_bits_that_ends_in_its_own_lengths(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(), RATE, format="RF64")
    assert len(files.read_audio(tmp_path / "a.wav")[0]) == 3 * RATE
    raw = (tmp_path / "a.wav").read_bytes()
    for size in (20, 28, 35, len(raw) - 100):
        (tmp_path / "a.wav").write_bytes(raw[:size])
        with pytest.raises(UserError, match=r"a\.wav"):
            files.read_audio(tmp_path / "a.wav")


def test_channels_that_cancel_are_not_mixed_to_silence():
    x = torch.from_numpy(voice()).float()
    noise = 0.001 * torch.randn(2, len(x), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(files.mixed(torch.stack((x, -x))), x)
    torch.testing.assert_close(files.mixed(torch.stack((0.7 * x, -x))).abs(), 0.85 * x.abs())
    assert float((files.mixed(torch.stack((x, -x)) + noise).abs() - x.abs()).abs().max()) < 0.01
    torch.testing.assert_close(files.mixed(torch.stack((x, -x, x, -x))), x)
    y, faint = torch.roll(x, 4000), 0.01 * x
    torch.testing.assert_close(files.mixed(torch.stack((x + y, -x, -y))), 2 / 3 * (x + y))
    many = torch.stack((x, -faint, faint, -faint, faint, -faint))
    assert torch.equal(files.mixed(many), x), "the loudest alone"
    torch.testing.assert_close(files.mixed(torch.stack((x, y))), 0.5 * (x + y))
    assert torch.equal(files.mixed(torch.stack((torch.zeros_like(x), x))), x), "one channel was not connected"
    assert not files.mixed(torch.zeros(2, 8)).any()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_as_many_bits_and_as_loud_as_they_came(tmp_path, subtype):
    wave = voice() * (3.0 if subtype == "FLOAT" else 1.0)
    soundfile.write(tmp_path / "in.wav", wave, RATE, subtype=subtype)
    read, _ = files.read_audio(tmp_path / "in.wav")
    assert files.subtype_of(read) == subtype
    out = files.write_audio(tmp_path / "out.wav", read, RATE, files.subtype_of(read))
    assert soundfile.info(out).subtype == subtype
    assert torch.equal(files.read_audio(out)[0], read)
    loud = files.write_audio(tmp_path / "loud.wav", 5 * read, RATE, "PCM_16")
    assert torch.equal(files.read_audio(loud)[0], 5 * read), "neither scaled nor clipped"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "front.m4a", "a.aac"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name):
    good, rng = written(tmp_path, name).read_bytes()[:40_000], random.Random(0)
    path = tmp_path / f"bad{name}"
    for _ in range(30):
        raw = bytearray(good[: rng.randrange(1, len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(min(len(raw), rng.choice((64, len(raw)))))] = rng.choice(
                (0, 255, rng.randrange(256))
            )
        path.write_bytes(raw)
        try:
            wave, _ = files.read_audio(path)
            assert wave.isfinite().all() and len(wave)
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
