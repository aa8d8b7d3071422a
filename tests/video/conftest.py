"""Made-up recordings: a bright square that moves over a textured ground, written with PyAV."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnidistill.modalities.video.task import Clips

RATE = 10


def frames(count: int, seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    """uint8 [n h w 3]: a 10x10 square on its way to and fro over a smooth ground of random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 160, (4, 5, 3))
    ground = np.kron(coarse, np.ones((height // 4, width // 5, 1))).astype(np.uint8)
    colour, phase = rng.integers(170, 255, 3), rng.uniform(0, 6)
    made = np.repeat(ground[None], count, 0)
    for i in range(count):
        x = round((width - 10) * (0.5 + 0.5 * np.sin(0.35 * i + phase)))
        y = round((height - 10) * (0.5 + 0.5 * np.sin(0.2 * i + 2 * phase)))
        made[i, y : y + 10, x : x + 10] = colour
    return made


def write(path: Path, pictures: np.ndarray, rate: int = RATE) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    codec, pixels = ("gif", "rgb8") if path.suffix == ".gif" else ("libx264", "yuv420p")
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options={} if codec == "gif" else {"crf": "10"})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            file.mux(stream.encode(frame.reformat(format=pixels)))
        file.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def films() -> SimpleNamespace:
    """How recordings are made up and written, for tests that want others."""
    return SimpleNamespace(frames=frames, write=write)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of one recording of 10 s each."""
    root = tmp_path_factory.mktemp("recordings")
    write(root / "left" / "a.mp4", frames(100, 1))
    write(root / "right" / "b.avi", frames(100, 2))
    return root


SMALL = {"frames": 4, "size": 16, "side": 32, "interval": 0.1, "network": {"channels": (16, 16)}}


@pytest.fixture(scope="session")
def task(folder: Path) -> Clips:
    torch.manual_seed(0)
    return Clips(folder=str(folder), **SMALL)
