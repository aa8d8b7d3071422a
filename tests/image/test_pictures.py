"""Pictures as people have them: depths, orientation, palettes, transparency; and damaged ones, in one line each."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.image.pictures import read_picture

Image = pytest.importorskip("PIL.Image")
RAMP = np.linspace(0, 1, 32)[None] * np.ones((32, 1))


def save(file: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(file, **options)
    return file


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, body: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("top", [65535, 4095, 300, 250, 1])
def test_values_are_scaled_by_the_depth_and_not_by_the_brightest(tmp_path, suffix, top):
    read = read_picture(save(tmp_path / f"a{suffix}", (RAMP * top).round().astype(np.uint16)), 32)
    np.testing.assert_allclose(read, (RAMP * top).round() / 65535 * 255, atol=0.51)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_greys_are_scaled_by_their_depth_too(tmp_path, bits):
    values = np.arange(32) % 2**bits
    row = np.packbits(((values[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()
    (tmp_path / "a.png").write_bytes(png(32, 32, bits, 0, (b"\0" + row) * 32))
    np.testing.assert_allclose(
        read_picture(tmp_path / "a.png", 32)[0], values * 255 / (2**bits - 1), atol=0.51
    )


def test_sixteen_bit_colours_keep_their_scale(tmp_path):
    pixel = struct.pack(">HHH", 300, 300, 300)
    (tmp_path / "a.png").write_bytes(png(32, 32, 16, 2, (b"\0" + pixel * 32) * 32))
    assert set(read_picture(tmp_path / "a.png", 28).flatten().tolist()) == {1}


def test_other_depths_of_tiff(tmp_path):
    deep = save(tmp_path / "32.tif", (RAMP * (2**31 - 1)).astype(np.int32))
    np.testing.assert_allclose(read_picture(deep, 32), RAMP * 255, atol=0.51)
    white = save(tmp_path / "w.tif", (RAMP * 65535).round().astype(np.uint16), tiffinfo={262: 0})
    np.testing.assert_allclose(read_picture(white, 32), 255 - RAMP * 255, atol=0.51)
    np.testing.assert_allclose(
        read_picture(save(tmp_path / "f.tif", (RAMP / 2).astype(np.float32)), 32), RAMP / 2 * 255, atol=0.51
    )
    for pixels, said in (
        ((RAMP * 3 - 1).astype(np.float32), "fractions from -1 to 2"),
        (np.full((32, 32), np.nan, np.float32), "fractions from nan to nan"),
        ((RAMP * 9 - 5).astype(np.int32), "negative values"),
    ):
        with pytest.raises(UserError, match=said):
            read_picture(save(tmp_path / "bad.tif", pixels), 28)


@pytest.mark.parametrize(("suffix", "depth"), [(".jpg", 255), (".png", 255), (".png", 65535), (".webp", 255)])
def test_a_cameras_orientation_is_applied(tmp_path, suffix, depth):
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = (RAMP * depth).round().astype(np.uint8 if depth == 255 else np.uint16)
    read = read_picture(save(tmp_path / f"a{suffix}", pixels, exif=tag), 32).astype(int)
    assert abs(read - np.rot90(RAMP * 255, -1)).max() < 8 and read[0].max() < 8 and read[-1].min() > 247


def test_palettes_transparency_and_printers_colours_are_looked_up(tmp_path):
    grey = (RAMP * 255).round().astype(np.uint8)
    for name, mode in (("a.gif", "P"), ("a.png", "P"), ("b.png", "LA"), ("c.png", "RGBA"), ("a.jpg", "CMYK")):
        read = read_picture(save(tmp_path / name, grey, mode), 32)
        assert abs(read.astype(int) - grey).max() <= 8, name
    clear = np.full((32, 32), 40, np.uint8)
    clear[:, :16] = 200
    palette = Image.fromarray(clear).convert("P")
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    assert read_picture(tmp_path / "clear.png", 32)[0, [0, 31]].tolist() == [0, 40]
    deep = chunk(b"tRNS", struct.pack(">H", 65535))
    (tmp_path / "deep.png").write_bytes(
        png(32, 32, 16, 0, (b"\0" + b"\xff\xff" * 16 + b"\x80\x00" * 16) * 32, deep)
    )
    assert read_picture(tmp_path / "deep.png", 32)[0, [0, 31]].tolist() == [0, 128]


def test_a_telephones_preview_behind_its_picture_is_not_read(tmp_path):
    first, preview = Image.new("L", (32, 32), 200), Image.new("L", (32, 32), 10)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read_picture(tmp_path / "a.jpg", 32).mean() > 190
    first.save(tmp_path / "a.gif", save_all=True, append_images=[preview])
    with pytest.raises(UserError, match=r"a\.gif holds 2 pictures"):
        read_picture(tmp_path / "a.gif", 32)


def test_bombs_are_refused_by_their_head(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, 8, 0, b"\0" * 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"bomb\.png") as error:
            read_picture(tmp_path / "bomb.png", 28)
    assert "\n" not in str(error.value)
    (tmp_path / "wide.png").write_bytes(png(9000, 9000, 8, 0, b"\0" * 100))
    with pytest.raises(UserError, match=r"wide\.png is 9000x9000 pixels, more than"):
        read_picture(tmp_path / "wide.png", 28)


def test_what_is_no_picture_is_not_handed_to_other_programs(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    os.mkfifo(tmp_path / "b.png")
    for name, said in (("a.png", "no picture that is read"), ("b.png", "a fifo, not a file")):
        with pytest.raises(UserError, match=said):
            read_picture(tmp_path / name, 28)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
def test_mutations_of_good_pictures_are_read_or_refused_in_one_line(tmp_path, suffix):
    r = np.random.default_rng(0)
    good = save(tmp_path / f"good{suffix}", r.integers(0, 256, (40, 40, 3), dtype=np.uint8)).read_bytes()
    file, refused = tmp_path / f"bad{suffix}", 0
    for number in range(120):
        raw = bytearray(good)
        if number % 3 == 0:
            raw = raw[: r.integers(len(raw))]
        for _ in range(r.integers(0 if number % 3 == 0 else 1, 6)):
            if raw:  # heads are short: half of the blows fall there
                raw[r.integers(min(len(raw), 64 if r.random() < 0.5 else len(raw)))] = r.integers(256)
        file.write_bytes(raw)
        try:
            assert read_picture(file, 28).shape == (28, 28)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and file.name in str(error)
    assert refused > 30
