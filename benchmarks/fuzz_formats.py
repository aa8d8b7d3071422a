"""The readers of pictures, films and structures, for `fuzz.py`: small good files, and what reads them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

XYZ = b"4\n\nC 0 0 0\nN 1.5 0 0\n8 0 1.25 -2\n13C 3 3 3\n"
PLY = b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


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
    from omnidistill.modalities.coordinates.data import structures
    from omnidistill.modalities.image.pictures import read_picture
    from omnidistill.modalities.video.films import read_video

    def add(name: str, suffix: str, seed: bytes, read: Callable[[Path], Any]) -> None:
        def once(data: bytes, folder: Path) -> None:
            (folder / f"a{suffix}").write_bytes(data)
            read(folder / f"a{suffix}")

        reader(name, seeds=[seed])(once)

    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        add(kind.lower(), f".{kind.lower()}", _pictures(kind), lambda file: read_picture(file, 28))
    for suffix in (".mp4", ".avi", ".mkv", ".gif"):
        add(f"film{suffix}", suffix, _film(suffix), lambda file: read_video(file, 32, 16))
    seeds = {
        ".pdb": _structure(".pdb"),
        ".cif": _structure(".cif"),
        ".xyz": XYZ,
        ".ply": PLY + b"1 2 3\n" * 4,
    }
    for suffix, seed in seeds.items():
        add(f"structure{suffix}", suffix, seed, lambda file: structures(file, "heavy"))
