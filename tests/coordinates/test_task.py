"""The task as plug-ins are used: conformance, batches, poses, alignment, files, and bad input."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.coordinates import data, metrics
from omnidistill.modalities.coordinates.poses import Centred, small_rotations
from omnidistill.modalities.coordinates.task import Ensemble
from omnidistill.testing import check_task

SMALL = {"width": 32, "depth": 1, "heads": 2, "blocks": 1}


def small(folder: Path | None, **options) -> Ensemble:
    return Ensemble(None if folder is None else str(folder), network=SMALL, **options)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set is on this machine."""
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    data.adk.cache_clear()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_task_conforms(folder: Path):
    assert check_task(small(folder), count=64)


def test_the_task_of_molecules_of_two_lengths_conforms(ragged: Path):
    assert check_task(small(ragged, held_out=0.5), count=64)


def test_the_split_has_no_frame_twice(folder: Path):
    frames = {name: small(folder)._frames[name][0] for name in ("train", "held_out")}
    assert len(frames["train"]) == 80 and len(frames["held_out"]) == 20
    assert float(metrics.rmsd_matrix(frames["train"], frames["held_out"])[0].min()) > 1e-3


def test_frames_are_centred_superposed_and_in_units_of_scale(folder: Path):
    task = small(folder, scale=5.0, rotations="none")
    frames = task._frames["train"][0]
    raw = torch.cat([e.frames for e in data.own(folder).train])
    assert float(metrics.rmsd_matrix(5.0 * frames, raw)[0].diagonal().max()) < 1e-4
    assert float(frames.mean(1).abs().max()) < 1e-5
    apart = (frames - frames[0]).square().sum(-1).mean(-1).sqrt()
    torch.testing.assert_close(
        apart.double(), metrics.rmsd_matrix(frames, frames[:1])[0][:, 0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("rotations", "low", "high"), [("none", 0, 1e-6), ("small", 0.02, 0.4), ("all", 0.8, 9)]
)
def test_rotations_turn_frames_as_far_as_they_say(folder: Path, rotations: str, low: float, high: float):
    task = small(folder, rotations=rotations)
    frames = task._frames["train"][0].double()
    x = task.batch(64, generator()).x0
    assert x is not None
    distance, _ = metrics.rmsd_matrix(x, frames)
    nearest, which = distance.min(1)
    assert float(nearest.max()) < 1e-3  # turned, but still the same shapes
    apart = (x.double() - frames[which]).square().sum(-1).mean(-1).sqrt().mean()
    assert low <= float(apart) <= high


def test_small_rotations_are_rotations_of_that_size():
    turns = small_rotations(4000, generator(), angle=0.1)
    assert torch.allclose(turns @ turns.mT, torch.eye(3).double().expand_as(turns), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(4000).double())
    angle = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).arccos()
    assert float(angle.square().mean().sqrt()) == pytest.approx(0.1 * 3**0.5, rel=0.05)


def test_align_turns_targets_or_leaves_them(folder: Path):
    turned, left = small(folder, rotations="all"), small(folder, rotations="all", align=False)
    x, to = (turned.batch(8, generator(seed)).x0 for seed in (0, 1))
    assert x is not None and to is not None
    aligned = turned.path.align(turned.path.certain(x), turned.path.certain(to)).parameters
    expected = metrics.rmsd_matrix(x, to)[0].diagonal()
    found = (aligned - to).double().square().sum(-1).mean(-1).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(left.path.align(left.path.certain(x), left.path.certain(to)).parameters, x)
    # Noise is centred either way.
    assert isinstance(left.path.symmetry, Centred)
    noised = left.path.corrupt(x, 1.0, g=generator())
    assert float(noised.mean(1).abs().max()) < 1e-4


def test_lengths_come_as_masks_of_the_held_out_molecules(ragged: Path):
    task = small(ragged, held_out=0.5)
    assert task.shape == (24, 3)
    batch = task.batch(40, generator())
    assert batch.x0 is not None and batch.context.mask is not None
    assert set(batch.context.mask.sum((1, 2)).tolist()) == {17, 24}
    assert not (batch.x0 * ~batch.context.mask).any()
    mixed = task.measure(batch.x0, batch.context, generator())
    long = batch.context.mask.sum((1, 2)) == 24
    parts = [(task.measure(batch.x0[rows], batch.context[rows], generator()), rows) for rows in (long, ~long)]
    for key, value in mixed.items():
        weighted = sum(found[key] * float(rows.double().mean()) for found, rows in parts)
        assert value == pytest.approx(weighted)


@pytest.mark.parametrize(("suffix", "atol"), [(".pdb", 6e-4), (".cif", 1e-4)])
def test_samples_are_written_as_models_that_read_back(folder: Path, tmp_path: Path, suffix: str, atol: float):
    task = small(folder)
    batch = task.batch(5, generator(), "held_out")
    assert batch.x0 is not None
    files = task.render(batch.x0, batch.context, tmp_path / "x")
    assert [file.name for file in files] == ["x.png", "x.pdb", "x.cif"]
    assert task.file_suffixes() == tuple(file.suffix for file in files) and task.file_suffix() == ".pdb"
    array, coordinates = data.read_structures(tmp_path / f"x{suffix}")
    assert list(array.res_name) == ["ALA"] * 24 and list(array.res_id) == list(range(1, 25))
    distance = metrics.rmsd_matrix(torch.from_numpy(coordinates), batch.x0.double() * task.scale)[0]
    assert float(distance.diagonal().max()) < 2 * atol


def test_samples_of_two_lengths_are_written_apart(ragged: Path, tmp_path: Path):
    task = small(ragged, held_out=0.5)
    batch = task.batch(12, generator())
    assert batch.x0 is not None
    files = task.render(batch.x0, batch.context, tmp_path / "x")
    counts = {f.name: data.read_structures(f)[1].shape[:2] for f in files if f.suffix == ".pdb"}
    assert sorted(n for _, n in counts.values()) == [17, 24] and sum(m for m, _ in counts.values()) == 12


def test_without_data_there_are_samples_but_no_judgement(absent: None, tmp_path: Path):
    task = small(None)
    batch = task.batch(3, generator())
    assert batch.x0 is None and task.shape == (214, 3) and task.floor(8, generator()) == {}
    x = torch.randn(3, 214, 3, generator=generator())
    assert (tmp_path / "x.pdb") in task.render(x, Context(), tmp_path / "x")
    with pytest.raises(UserError, match="omnidistill data fetch adk"):
        task.measure(x, Context(), generator())
    with pytest.raises(UserError, match="omnidistill data fetch adk"):
        small(None, atoms="heavy")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rotations": "some"}, "unknown choice of rotations 'some'"),
        ({"atoms": "cb"}, "unknown choice of atoms 'cb'"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min < sigma_max"),
        ({"scale": 0.0}, "positive number of Angstrom"),
        ({"held_out": 1.5}, "between 0 and 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(folder: Path, options: dict, said: str):
    with pytest.raises(UserError, match=said):
        small(folder, **options)


def test_bad_samples_are_refused_in_one_line(folder: Path, tmp_path: Path):
    task = small(folder)
    calls: list[Callable[[torch.Tensor], object]] = [
        lambda x: task.measure(x, Context(), generator()),
        lambda x: task.render(x, Context(), tmp_path / "x"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"\(2, 24, 3\), got \(2, 9, 3\)"):
            call(torch.zeros(2, 9, 3))
        with pytest.raises(UserError, match="NaN or infinite"):
            call(torch.full((2, 24, 3), torch.nan))


def test_a_folder_of_point_clouds_is_an_ensemble(tmp_path: Path):
    """Twelve clouds of the same 20 points, bent more and more: no bonds, held out by file, written and read again."""
    import trimesh

    angle = torch.linspace(0.0, 2.0, 20)
    for number in range(12):
        bent = angle * (1.0 + 0.1 * number)
        points = torch.stack((10 * bent.cos(), 10 * bent.sin(), angle), 1)
        trimesh.PointCloud(points.numpy()).export(tmp_path / f"cloud{number:02}.ply")
    task = Ensemble(folder=str(tmp_path), network={"width": 16, "depth": 1, "heads": 2}, teacher_steps=4)
    assert task.shape == (20, 3)
    train, held_out = (task.batch(64, generator(), split) for split in ("train", "held_out"))
    assert train.x0 is not None and held_out.x0 is not None
    assert len(train.x0.flatten(1).mul(10).round().unique(dim=0)) > 5
    real = task.measure(held_out.x0, held_out.context, generator())
    spoilt = task.measure(held_out.x0 + 0.3 * torch.randn(held_out.x0.shape), held_out.context, generator())
    assert real["rmsd"] < 0.1 < spoilt["rmsd"] and real["bonds"] == spoilt["bonds"] == 1.0
    files = task.render(held_out.x0[:3], held_out.context, tmp_path / "made")
    assert data.read_structures(files[-1])[1].shape == (3, 20, 3)
