"""Structures as archives hold them: insertions, broken chains, alternates, isotopes, models of different atoms."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates import data
from omnidistill.modalities.coordinates.elements import symbol
from omnidistill.modalities.coordinates.files import read_dcd, read_structures
from tests.coordinates.conftest import hinge, write_pdb
from tests.coordinates.test_files import dcd

HELIX = hinge(1, 24, 0)[0].numpy()


def atom(
    serial: int,
    point,
    number: int,
    name: str = " CA ",
    residue: str = "ALA",
    chain: str = "A",
    code: str = " ",
    alternate: str = " ",
    occupancy: str = "  1.00",
    element: str = " C",
    kind: str = "ATOM  ",
) -> str:
    x, y, z = point
    place = f"{kind}{serial:>5} {name:4}{alternate}{residue:>3} {chain}{number:>4}{code}   {x:8.3f}{y:8.3f}{z:8.3f}"
    return f"{place}{occupancy} 10.00          {element}  \n"


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(lines) + "END\n")
    return path


def bonds(path: Path) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in data.structures(path, "ca").molecule.bonds.tolist()]


def test_insertions_are_residues_of_the_chain(tmp_path):
    ids = [(i + 1, " ") for i in range(10)] + [(10, "A"), (10, "B")] + [(i + 1, " ") for i in range(10, 18)]
    lines = [atom(i + 1, HELIX[i], n, code=c) for i, (n, c) in enumerate(ids)]
    assert bonds(written(tmp_path / "a.pdb", lines)) == [(i, i + 1) for i in range(19)]
    # A numbering scheme that skips numbers breaks no chain.
    lines = [atom(i + 1, HELIX[i], i + 1 + 5 * (i > 8)) for i in range(20)]
    assert bonds(written(tmp_path / "b.pdb", lines)) == [(i, i + 1) for i in range(19)]


def test_chains_are_broken_where_something_is_unresolved_or_ends(tmp_path):
    kept = [i for i in range(24) if i not in (7, 8, 9)]
    lines = [atom(k + 1, HELIX[i], i + 1) for k, i in enumerate(kept)]
    expected = [(k, k + 1) for k in range(20) if k != 6]
    assert bonds(written(tmp_path / "gap.pdb", lines)) == expected
    # Unresolved residues that the file's numbers leave out.
    lines = [atom(k + 1, HELIX[i], k + 1) for k, i in enumerate(kept)]
    assert bonds(written(tmp_path / "renumbered.pdb", lines)) == expected
    # TER alone parts two chains, even where their ends touch; they get letters.
    lines = [atom(i + 1, HELIX[i], i + 1, chain=" ") for i in range(20)]
    lines.insert(10, "TER\n")
    assert bonds(written(tmp_path / "ter.pdb", lines)) == [(i, i + 1) for i in range(19) if i != 9]
    found = data.structures(tmp_path / "ter.pdb", "ca").molecule
    assert "".join(found.atoms.chain_id) == "A" * 10 + "B" * 10


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_of_alternates_the_most_frequent_is_taken(tmp_path, suffix):
    lines = [atom(i + 1, HELIX[i], i + 1) for i in range(3)]
    lines += [
        atom(4, HELIX[3] + 9.0, 4, alternate="A", occupancy="  0.30"),
        atom(5, HELIX[3], 4, alternate="B", occupancy="  0.70"),
        atom(6, HELIX[4] + 9.0, 5, alternate="A", occupancy="  0.40", residue="SER"),
        atom(7, HELIX[4], 5, alternate="B", occupancy="  0.60", residue="THR"),
        atom(8, HELIX[5], 6, alternate="A", occupancy="  0.50"),
        atom(9, HELIX[5] + 9.0, 6, alternate="B", occupancy="  0.50"),
    ]
    path = written(tmp_path / "a.pdb", lines)
    if suffix == ".cif":
        path = as_mmcif(path)
    array, coordinates = read_structures(path)
    np.testing.assert_allclose(coordinates[0], HELIX[:6], atol=6e-4)
    assert list(array.res_name) == ["ALA"] * 4 + ["THR", "ALA"]


def as_mmcif(path: Path) -> Path:
    from biotite.structure.io import pdbx
    from biotite.structure.io.pdb import PDBFile

    file, array = (
        pdbx.CIFFile(),
        PDBFile.read(str(path)).get_structure(model=1, altloc="all", extra_fields=["occupancy"]),
    )
    pdbx.set_structure(file, array, data_block="a")
    file.block["atom_site"]["label_alt_id"] = np.char.replace(array.altloc_id.astype(str), " ", ".")
    file.write(str(path.with_suffix(".cif")))
    return path.with_suffix(".cif")


def test_hydrogen_by_whatever_name_is_no_heavy_atom(tmp_path):
    rows = [
        (" N  ", " N"),
        (" CA ", " C"),
        (" C  ", " C"),
        (" O  ", " O"),
        (" D  ", " D"),
        (" DA ", "  "),
        (" HA ", " H"),
    ]
    lines = [atom(i + 1, HELIX[i], 1, name=name, element=element) for i, (name, element) in enumerate(rows)]
    lines.append(atom(8, HELIX[8], 1, name=" T  ", element=" T"))
    found = data.structures(written(tmp_path / "a.pdb", lines), "heavy")
    assert list(found.molecule.atoms.atom_name) == ["N", "CA", "C", "O"]
    assert [symbol(e) for e in ("6", "c", "13C", "C13", "D", "T", "1", "cl", "118", "Ca2+")] == [
        *("C", "C", "C", "C", "H", "H", "H", "CL", "OG", "CA")
    ]
    (tmp_path / "a.xyz").write_text("6\n\n6 0 0 0\n7 1.5 0 0\n8 0 1.25 -2\n16 3 3 3\n1 1 1 1\nD 2 2 2\n")
    assert list(data.structures(tmp_path / "a.xyz", "heavy").molecule.atoms.element) == ["C", "N", "O", "S"]


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_models_may_differ_in_atoms_that_nobody_asked_for(tmp_path, suffix):
    text, serial = "", 0
    for model in range(3):
        text += f"MODEL     {model + 1:>4}\n"
        for i in range(8):
            serial += 1
            if (i + model) % 3 == 0:  # as many in each model, but at other residues
                text += atom(serial, HELIX[i] + 1.0, i + 1, name=" HA ", element=" H")
            text += atom(serial, HELIX[i] + 0.01 * model, i + 1)
        text += "ENDMDL\n"
    path = tmp_path / "a.pdb"
    path.write_text(text + "END\n")
    if suffix == ".cif":
        from biotite.structure.io import pdbx

        sites, file = [], pdbx.CIFFile()
        for model in range(1, 4):
            array = read_model(text, model)
            part = pdbx.CIFFile()
            pdbx.set_structure(part, array, data_block="a")
            sites.append({k: v.as_array(str) for k, v in part.block["atom_site"].items()})
            sites[-1]["pdbx_PDB_model_num"] = np.full(array.array_length(), str(model))
        whole = {key: np.concatenate([site[key] for site in sites]) for key in sites[0]}
        file["a"] = pdbx.CIFBlock({"atom_site": pdbx.CIFCategory(whole)})
        path = tmp_path / "a.cif"
        file.write(str(path))
    found = data.structures(path, "ca")
    for model in range(3):
        np.testing.assert_allclose(found.frames[model], HELIX[:8] + 0.01 * model, atol=6e-4)
    assert len(found.molecule.bonds) == 7


def read_model(text: str, number: int):
    import io

    from biotite.structure.io.pdb import PDBFile

    lines = text.split("MODEL ")[number].splitlines()[1:]
    return PDBFile.read(io.StringIO("\n".join(lines[:-1]) + "\n")).get_structure(model=1)


def test_models_that_differ_in_what_is_asked_for_are_named(tmp_path):
    text = ""
    for model in range(2):
        text += f"MODEL     {model + 1:>4}\n"
        text += "".join(atom(i + 1, HELIX[i], i + 1) for i in range(8 - model)) + "ENDMDL\n"
    (tmp_path / "a.pdb").write_text(text + "END\n")
    with pytest.raises(UserError, match=r"a\.pdb: model 2 has other atoms than the first \(ALA A8 CA\)"):
        data.structures(tmp_path / "a.pdb", "ca")


def test_a_blank_occupancy_is_a_whole_one(tmp_path):
    lines = [atom(i + 1, HELIX[i], i + 1, occupancy="      ") for i in range(6)]
    assert data.structures(written(tmp_path / "a.pdb", lines), "ca").frames.shape == (1, 6, 3)


def test_a_bad_structure_stops_or_is_skipped_and_what_systems_leave_is_not_seen(tmp_path, capsys):
    for number in range(3):
        write_pdb(tmp_path / f"run{number}.PDB", hinge(4, 12, number))
    for name in (".DS_Store", "._run0.pdb", "Thumbs.db"):
        (tmp_path / name).write_text("no structure")
    (tmp_path / "notes.txt").write_text("a note")
    assert [e.name for e in data.own(tmp_path).train] == ["run0.PDB", "run1.PDB"]
    assert "1 files are no structures and left aside: notes.txt" in capsys.readouterr().err
    (tmp_path / "run9.pdb").write_text("ATOM  no structure\n")
    with pytest.raises(UserError, match=r"run9\.pdb.*on_bad=skip") as error:
        data.own(tmp_path)
    assert "\n" not in str(error.value)
    assert [e.name for e in data.own(tmp_path, on_bad="skip").held_out] == ["run2.PDB"]
    assert "1 of 4 structures skipped" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.pdb")
    with pytest.raises(UserError, match=r"pipe\.pdb is a fifo"):
        data.own(tmp_path)
    with pytest.raises(UserError, match="a fifo"):
        read_structures(tmp_path / "pipe.pdb")


def good_files(where: Path) -> dict[str, bytes]:
    from biotite.structure import from_template
    from biotite.structure.io import pdbx

    from tests.coordinates.conftest import atoms

    frames = hinge(2, 9, 0)
    file = pdbx.CIFFile()
    pdbx.set_structure(file, from_template(atoms(9), frames.numpy()), data_block="a")
    file.write(str(where / "good.cif"))
    xyz = "".join(f"C {x:.3f} {y:.3f} {z:.3f}\n" for x, y, z in frames[0].tolist())
    ply = "ply\nformat binary_little_endian 1.0\nelement vertex 9\n"
    ply += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    return {
        ".pdb": write_pdb(where / "good.pdb", frames).read_bytes(),
        ".cif": (where / "good.cif").read_bytes(),
        ".xyz": f"9\n\n{xyz}".encode(),
        ".ply": ply.encode() + frames[0].numpy().astype("<f4").tobytes(),
        ".dcd": dcd(frames.numpy()),
    }


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".xyz", ".ply", ".dcd"])
def test_mutations_of_good_structures_are_read_or_refused_in_one_line(tmp_path, suffix):
    good, r = good_files(tmp_path)[suffix], np.random.default_rng(2)
    file, refused = tmp_path / f"bad{suffix}", 0
    for number in range(80):
        raw = bytearray(good)
        if number % 4 == 0:
            raw = raw[: r.integers(len(raw))]
        for _ in range(r.integers(1, 8)):
            if raw:
                raw[r.integers(min(len(raw), 120 if r.random() < 0.5 else len(raw)))] = r.integers(256)
        file.write_bytes(raw)
        try:
            if suffix == ".dcd":
                assert np.isfinite(read_dcd(file)).all()
            else:
                ensemble = data.structures(file, "heavy")
                assert (
                    torch.isfinite(ensemble.frames).all()
                    and len(ensemble.molecule) == ensemble.frames.shape[1]
                )
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and file.name in str(error)
    assert refused > 10
