"""Structure files and trajectories: what is written is read; what is damaged is refused in one line."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates.files import read_dcd, read_structures
from tests.coordinates.conftest import atoms, hinge, write_pdb

ORDERS = ("<", ">")


def dcd(frames: np.ndarray, order: str = "<", cell: bool = False, fixed: int = 0) -> bytes:
    """A DCD file by the letter of the format."""

    def record(data: bytes) -> bytes:
        size = struct.pack(f"{order}i", len(data))
        return size + data + size

    flags = [0] * 20
    flags[0], flags[8], flags[10], flags[19] = 500, fixed, int(cell), 24
    head = record(b"CORD" + struct.pack(f"{order}20i", *flags)) + record(
        struct.pack(f"{order}i", 1) + b" " * 80
    )
    body = b"".join(
        (record(bytes(48)) if cell else b"")
        + b"".join(record(frame[:, axis].astype(f"{order}f4").tobytes()) for axis in range(3))
        for frame in frames
    )
    return head + record(struct.pack(f"{order}i", frames.shape[1])) + body


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cell", [False, True])
def test_a_trajectory_by_the_letter_of_the_format_is_read(tmp_path: Path, order: str, cell: bool):
    frames = hinge(5, 9, 0).numpy()
    (tmp_path / "a.dcd").write_bytes(dcd(frames, order, cell))
    read = read_dcd(tmp_path / "a.dcd")
    assert read.dtype == np.float32 and read.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(read, frames)


def test_a_trajectory_written_by_another_library_is_read(tmp_path: Path):
    trajectory = pytest.importorskip("biotite.structure.io.dcd").DCDFile()
    frames = hinge(4, 11, 1).numpy()
    trajectory.set_coord(frames)
    trajectory.write(str(tmp_path / "a.dcd"))
    np.testing.assert_array_equal(read_dcd(tmp_path / "a.dcd"), frames)


def damaged(raw: bytes) -> bytes:
    return raw[:-44] + struct.pack("<i", 12) + raw[-40:]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"GROMACS..", "no DCD trajectory"),
        (dcd(hinge(3, 9, 0).numpy())[:60], "cut short"),
        (dcd(hinge(3, 9, 0).numpy())[:-7], "cut short"),
        (dcd(hinge(3, 9, 0).numpy(), fixed=4), "fixed atoms"),
        (damaged(dcd(hinge(3, 9, 0).numpy())), "damaged"),
        (dcd(np.full((3, 9, 3), np.nan)), "3 of 3 structures"),
    ],
)
def test_a_damaged_trajectory_is_refused_in_one_line(tmp_path: Path, raw: bytes, said: str):
    (tmp_path / "a.dcd").write_bytes(raw)
    with pytest.raises(UserError, match=said) as error:
        read_dcd(tmp_path / "a.dcd")
    assert "\n" not in str(error.value) and "a.dcd" in str(error.value)


def test_models_of_a_pdb_file_are_read(tmp_path: Path):
    frames = hinge(3, 12, 2)
    found = read_structures(write_pdb(tmp_path / "a.pdb", frames))
    assert list(found.atoms.atom_name) == ["CA"] * 12
    np.testing.assert_allclose(found.coordinates, frames.numpy(), atol=6e-4)  # three decimals


def test_models_of_an_mmcif_file_are_read(tmp_path: Path):
    from biotite.structure import from_template
    from biotite.structure.io import pdbx

    frames, file = hinge(3, 12, 2), pdbx.CIFFile()
    pdbx.set_structure(file, from_template(atoms(12), frames.numpy()), data_block="a")
    file.write(str(tmp_path / "a.cif"))
    np.testing.assert_allclose(read_structures(tmp_path / "a.cif").coordinates, frames.numpy(), atol=1e-4)


def test_frames_of_an_xyz_file_are_read(tmp_path: Path):
    rows = "C 0 0 0\nN 1.5 0 0\nO 0 1.25 -2 0.1\n"
    (tmp_path / "a.xyz").write_text(f"3\nfirst\n{rows}3\n\n{rows.replace('1.5', '1.75')}\n")
    found = read_structures(tmp_path / "a.xyz")
    assert list(found.atoms.element) == ["C", "N", "O"]
    assert found.coordinates.tolist() == [
        [[0, 0, 0], [1.5, 0, 0], [0, 1.25, -2]],
        [[0, 0, 0], [1.75, 0, 0], [0, 1.25, -2]],
    ]


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_vertices_of_a_ply_file_are_read_in_their_order(tmp_path: Path, kind: str):
    points = np.array([[0, 1, 2], [3, 4, 5.5], [0, 1, 2], [-1, 0.25, 9], [2, 2, 1]], np.float32)  # two alike
    head = f"ply\nformat {kind} 1.0\nelement vertex 5\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "element face 1\n"
    head += "property list uchar int vertex_indices\nend_header\n"
    if kind == "ascii":
        body = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in points).encode() + b"3 0 1 3\n"
    else:
        order = "<" if "little" in kind else ">"
        body = points.astype(f"{order}f4").tobytes() + b"\3" + np.array([0, 1, 3], f"{order}i4").tobytes()
    (tmp_path / "a.ply").write_bytes(head.encode() + body)
    found = read_structures(tmp_path / "a.ply")
    assert np.array_equal(found.coordinates, points[None])
    assert len(found.atoms) == 5 and len(set(found.atoms.res_id)) == 1, "nothing is taken for a chain"


PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.ply", PLY + "0 0 0\n1 1 1\n", "cut short|damaged"),
        ("a.ply", PLY + "0 0 0\n1 1 1\n0 nan 0\n", "NaN"),
        ("a.ply", PLY.replace("vertex 3", "vertex 0"), "no atoms|damaged"),
        ("a.ply", "solid\n", "damaged"),
        ("a.pdb", "", "empty"),
        ("a.pdb", "REMARK nothing\n", "a.pdb"),
        ("a.cif", "no mmcif\n", "damaged"),
        ("a.xyz", "3\n\nC 0 0 0\n", "cut short"),
        ("a.xyz", "1\n\nC 0 0 nan\n", "NaN"),
        ("a.xyz", "1\n\nC 0 0 0\n1\n\nN 0 0 0\n", "different atoms"),
        ("a.xyz", "one\n", "damaged"),
        ("a.txt", "x", "suffix must be one of"),
    ],
)
def test_a_bad_structure_file_is_refused_in_one_line(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_structures(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path):
    for read in (read_dcd, read_structures):
        with pytest.raises(UserError, match="No such file"):
            read(tmp_path / ("a.dcd" if read is read_dcd else "a.pdb"))


def test_fixture_is_a_helix_of_good_bonds():
    x = hinge(50, 24, 0).double()
    bonds = (x[:, 1:] - x[:, :-1]).norm(dim=-1)
    assert float((bonds - 3.8).abs().max()) < 0.3 and float(torch.pdist(x.flatten(1)).max()) > 5.0
