"""The readers of pictures, sound, films and structures, for `fuzz.py`: small good files, and what reads them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

XYZ = b"4\n\nC 0 0 0\nN 1.5 0 0\n8 0 1.25 -2\n13C 3 3 3\n"
TABLE = b"path,label,split\npictures/1.png,a,train\npictures/2.png,b,train\npictures/3.png,a,test\n"
PLY = b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


def _sound(kind: str) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(3000) / 20.0), 16000, format=kind)
    return file.getvalue()


def _idx() -> bytes:
    """Three pictures of 4x4."""
    return b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (3, 4, 4)) + bytes(range(48))


def _pictures(kind: str) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _film(suffix: str) -> bytes:
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("gif" if suffix == ".gif" else "mpeg4", rate=10)
            stream.width, stream.height = 32, 32
            stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
            for shade in range(0, 250, 25):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path.read_bytes()


def _structure(suffix: str) -> bytes:
    from omnidistill.modalities.coordinates.data import adk_molecule

    array = adk_molecule().atoms[:12]
    array.coord = 3.8 * np.arange(36, dtype=np.float32).reshape(12, 3) / 5.2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        if suffix == ".pdb":
            from biotite.structure.io.pdb import PDBFile

            file: Any = PDBFile()
            file.set_structure(array)
        else:
            from biotite.structure.io import pdbx

            file = pdbx.CIFFile()
            pdbx.set_structure(file, array, data_block="a")
        file.write(str(path))
        return path.read_bytes()


def register(reader: Callable[..., Callable[..., Any]]) -> None:
    """Adds these readers to those of `fuzz.py`."""
    from omnidistill.modalities.audio.files import read_audio
    from omnidistill.modalities.coordinates.data import structures
    from omnidistill.modalities.image.data import read_idx
    from omnidistill.modalities.image.own import own_images
    from omnidistill.modalities.image.pictures import read_picture
    from omnidistill.modalities.video.films import read_video

    def add(
        name: str, suffix: str, seeds: list[bytes], read: Callable[[Path], Any], form: str | None = None
    ) -> None:
        def once(data: bytes, folder: Path) -> None:
            (folder / f"a{suffix}").write_bytes(data)
            read(folder / f"a{suffix}")

        reader(name, seeds=seeds, form=form)(once)

    add("wav", ".wav", [_sound("WAV"), _sound("RF64")], read_audio)
    add("flac", ".flac", [_sound("FLAC")], read_audio)
    add("ogg", ".ogg", [_sound("OGG")], read_audio, "ogg")
    forms = {"PNG": "png", "WEBP": "riff"}
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        seed = _pictures(kind)
        add(kind.lower(), f".{kind.lower()}", [seed], lambda file: read_picture(file, 28), forms.get(kind))
    add("idx", "-ubyte", [_idx()], read_idx)
    for suffix, form in {".mp4": "boxes", ".avi": "riff", ".mkv": None, ".gif": None}.items():
        add(f"film{suffix}", suffix, [_film(suffix)], lambda file: read_video(file, 32, 16), form)
    seeds = {
        ".pdb": (_structure(".pdb"), "columns"),
        ".cif": (_structure(".cif"), "words"),
        ".xyz": (XYZ, "words"),
        ".ply": (PLY + b"1 2 3\n" * 4, "words"),
    }
    for suffix, (seed, form) in seeds.items():
        add(f"structure{suffix}", suffix, [seed], lambda file: structures(file, "heavy"), form)
    picture = _pictures("PNG")

    def table(data: bytes, folder: Path) -> None:
        """Pictures listed in a table, which may name any file."""
        (folder / "pictures").mkdir(exist_ok=True)
        for name in ("1.png", "2.png", "3.png"):
            (folder / "pictures" / name).write_bytes(picture + name.encode())
        (folder / "a.csv").write_bytes(data)
        own_images(folder / "a.csv", "train", 28)

    reader("pictures.csv", seeds=[TABLE], form="csv")(table)
