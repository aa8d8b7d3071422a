"""Recordings in and out: what is written comes back, what is wrong is refused in one line, no rate changes quietly."""

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.audio import files

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")
RATE = 16000


def tone(seconds: float = 0.5, hertz: float = 440.0, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate)) / rate)


def encoded(path, wave: torch.Tensor, codec: str, container: str, rate: int = RATE):
    """Writes `wave` with FFmpeg's encoder `codec`."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        kind = stream.codec_context.format.name if stream.codec_context.format else "s16"
        resampler = av.AudioResampler(format=kind, layout="mono", rate=rate)
        for start in range(0, len(wave), 640):
            block = (wave[start : start + 640].numpy() * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.rate, frame.pts = rate, start
            for ready in resampler.resample(frame):
                out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_what_is_written_comes_back(tmp_path, suffix):
    wave = tone()
    path = files.write_audio(tmp_path / "new folder" / f"a{suffix}", wave, RATE)
    read, rate = files.read_audio(path, rate=RATE)
    assert rate == RATE and read.dtype == torch.float32 and read.shape == wave.shape
    assert (read - wave).abs().max() < (0.05 if suffix == ".ogg" else 1 / 32000)


@pytest.mark.parametrize(
    ("name", "codec", "container", "tolerance"),
    [("a.g722", "g722", "g722", 0.05), ("a.m4a", "aac", "mp4", 0.05)],
)
def test_compressed_recordings_by_ffmpeg(tmp_path, name, codec, container, tolerance):
    wave = tone(1.0)
    read, rate = files.read_audio(encoded(tmp_path / name, wave, codec, container))
    assert rate == RATE and abs(len(read) - len(wave)) <= 2048
    # Codecs delay by some samples: compare the tone's strength, not its phase.
    middle = read[4000:12000]
    assert abs(float(middle.square().mean().sqrt()) - 0.5 / 2**0.5) < tolerance
    peak = torch.fft.rfft(middle).abs().argmax() * RATE / len(middle)
    assert abs(float(peak) - 440.0) < 3


def test_channels_are_kept_or_averaged(tmp_path):
    stereo = torch.stack((tone(), -0.5 * tone()))
    path = files.write_audio(tmp_path / "stereo.wav", stereo, RATE)
    both, _ = files.read_audio(path, mono=False)
    assert both.shape == stereo.shape
    torch.testing.assert_close(both, stereo, atol=1e-4, rtol=0)
    torch.testing.assert_close(files.read_audio(path)[0], stereo.mean(0), atol=1e-4, rtol=0)


def test_too_loud_a_wave_is_scaled_not_clipped(tmp_path):
    wave = 4 * tone()
    read, _ = files.read_audio(files.write_audio(tmp_path / "loud.wav", wave, RATE))
    torch.testing.assert_close(read, wave / wave.abs().max(), atol=1e-4, rtol=0)


def test_bad_files_are_refused_in_one_line(tmp_path):
    wave = tone()
    good = files.write_audio(tmp_path / "good.wav", wave, RATE)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.wav").write_bytes(b"this is no recording" * 50)
    (tmp_path / "noise.mp3").write_bytes(b"nor is this" * 50)
    (tmp_path / "header.wav").write_bytes(good.read_bytes()[:44])
    nan = wave.numpy().copy()
    nan[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, RATE, subtype="FLOAT")
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        film.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        film.mux(stream.encode(None))
    for name, says in (
        ("absent.wav", "no audio file"),
        ("empty.wav", "is empty"),
        ("noise.wav", "damaged or of another format"),
        ("noise.mp3", "damaged or of another format"),
        ("header.wav", "is cut short: 0 of 16000 bytes"),
        ("nan.wav", "1 of 8000 samples"),
        ("film.mp4", "no audio"),
    ):
        with pytest.raises(UserError, match=says) as error:
            files.read_audio(tmp_path / name)
        assert name in one_line(error)
    with pytest.raises(UserError, match="at 16000 Hz, expected 48000 Hz") as error:
        files.read_audio(good, rate=48000)
    one_line(error)
    with pytest.raises(UserError, match=r"lasts 0.5 s, at least 2 s") as error:
        files.read_audio(good, shortest=2.0)
    one_line(error)


def test_bad_waves_are_not_written(tmp_path):
    for name, wave, says in (
        ("a.xyz", tone(), "written as"),
        ("a.wav", torch.empty(0), "n >= 1"),
        ("a.wav", tone()[None, None], "n >= 1"),
        ("a.wav", tone() * float("nan"), "NaN"),
    ):
        with pytest.raises(UserError, match=says) as error:
            files.write_audio(tmp_path / name, wave, RATE)
        one_line(error)
    assert not list(tmp_path.iterdir())


def test_resampling_keeps_the_tone_and_is_band_limited():
    low = files.resample(tone(1.0), RATE, 8000)
    assert low.shape == (8000,) and low.dtype == torch.float32
    torch.testing.assert_close(low[1000:7000], tone(1.0, rate=8000)[1000:7000], atol=1e-3, rtol=0)
    # 6 kHz does not exist at 8 kHz: it must vanish, not come back as 2 kHz.
    assert files.resample(tone(1.0, hertz=6000.0), RATE, 8000)[1000:7000].abs().max() < 1e-3
    stereo = files.resample(torch.stack((tone(), tone())), RATE, 24000)
    assert stereo.shape == (2, 12000) and torch.equal(stereo[0], stereo[1])
    assert files.resample(low, 8000, 8000) is low
    with pytest.raises(UserError, match="positive"):
        files.resample(low, 0, 8000)


def test_folders_are_searched_by_suffix(tmp_path):
    for name in ("b/two.flac", "a/one.WAV", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [f.relative_to(tmp_path).as_posix() for f in files.audio_files(tmp_path)]
    assert found == ["a/one.WAV", "b/two.flac"]
    with pytest.raises(UserError, match="no audio file in"):
        files.audio_files(_empty(tmp_path))
    with pytest.raises(UserError, match="no folder"):
        files.audio_files(tmp_path / "absent")


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"
