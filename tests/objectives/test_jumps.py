"""Pairs of times: on the grid, in order, in the span."""

import pytest
import torch

from omnidistill import paths
from omnidistill.errors import UserError
from omnidistill.objectives.jumps import Gap, Nodes, Within, half_way
from omnidistill.paths import grid
from omnidistill.random import generator
from omnidistill.times import LogitNormal, Uniform

PATHS = {
    "rectified_flow": paths.rectified_flow, "vp_cosine": paths.vp_cosine, "edm": paths.edm, "ouve": paths.ouve,
    "masked": lambda: paths.MaskedPath(4), "residual_shift": paths.residual_shift,
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("skip", [1, 3])
def test_nodes_are_uniform_on_the_grid(name, skip):
    """Every node but 0 equally often, each with the node `skip` below it, or 0."""
    path, size = PATHS[name](), 8
    times = grid(path, size)
    t, r = Nodes(size, skip=skip)(16_000, path, generator(0))
    index = (t[:, None] - times).abs().argmin(1)
    assert torch.equal(times[index], t)
    assert torch.equal(r, times[(index + skip).clamp_max(size)])
    counts = torch.bincount(index, minlength=size + 1).double() / 16_000
    assert counts[size] == 0 and (counts[:size] - 1 / size).abs().max() < 0.012


def test_a_round_halves_the_grid():
    for round_, size in enumerate((8, 4, 2, 1, 1)):
        t, r = Nodes(8)(64, paths.rectified_flow(), generator(1), round_=round_)
        torch.testing.assert_close(t - r, torch.full((64,), 1 / size, dtype=torch.float64))


def test_the_grid_is_refined_to_its_final_size():
    sizes = [Nodes(10, final=1280).size(p / 80, 0) for p in range(80)]
    assert sizes == [10 << (p // 10) for p in range(80)]
    uneven = [Nodes(10, final=25).size(p / 9, 0) for p in range(9)]
    assert uneven == [10] * 3 + [20] * 3 + [25] * 3
    assert Nodes(12, final=12).size(0.99, 0) == 12


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("shift", [1.0, 5.0, 0.5])
def test_half_way_is_on_the_grid_of_twice_as_many_steps_bit_for_bit(name, shift):
    path = PATHS[name]()
    for n in (1, 2, 3, 4, 8, 16, 50):
        coarse, fine = grid(path, n, shift), grid(path, 2 * n, shift)
        assert torch.equal(half_way(coarse[:-1], coarse[1:], path, n, shift), fine[1::2])


def test_half_way_without_a_grid_is_the_middle_and_knows_the_floor():
    path = paths.edm()
    t = torch.tensor([0.5, 0.8], dtype=torch.float64)
    s = torch.tensor([0.0, 0.4], dtype=torch.float64)
    expected = torch.tensor([0.5 * (0.5 + path.floor), 0.6], dtype=torch.float64)
    torch.testing.assert_close(half_way(t, s, path), expected)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_a_mentor_is_asked_only_at_times_that_it_learned(name, shift):
    """Progressive distillation, round by round: t and the middle of each jump are nodes that the last round trained on,
    and the student of the last round is sampled at nodes that it trained on."""
    path, jumps = PATHS[name](), Nodes(16, shift=shift)
    learned = set(grid(path, 32, shift)[:-1].tolist())
    for round_ in range(5):
        t, s = jumps(400, path, generator(round_), 0.0, round_)
        asked = set(t.tolist()) | set(jumps.middle(t, s, path, 0.0, round_).tolist())
        assert asked <= learned
        learned = set(t.tolist())
    assert learned == {path.span[1]}


def test_a_jump_of_several_steps_is_broken_at_its_middle():
    path, jumps = paths.edm(), Nodes(8, skip=3, shift=2.0)
    t, s = jumps(200, path, generator(0))
    fine, coarse = grid(path, 16, 2.0), grid(path, 8, 2.0)
    i, j = (torch.searchsorted(-coarse, -u) for u in (t, s))
    assert torch.equal(jumps.middle(t, s, path), fine[i + j])


@pytest.mark.parametrize("name", ["rectified_flow", "edm", "masked"])
@pytest.mark.parametrize("times", [Uniform(), LogitNormal()])
def test_a_weight_of_one_over_the_gap_leaves_a_batch(name, times):
    """Effective sample size (sum w)^2 / sum w^2 of 1 / (t - r): one sample must not outweigh the others."""
    t, r = Gap(times)(200_000, PATHS[name](), generator(2))
    w = 1.0 / (t - r)
    assert float(w.max()) <= 1.0 / Gap().smallest + 1e-6
    assert float(w.sum() ** 2 / (w**2).sum()) / len(w) > 0.25


def test_gaps_that_cannot_be_drawn_are_one_line():
    with pytest.raises(UserError, match="0 < smallest < largest"):
        Gap(largest=0.2, smallest=0.3)
    with pytest.raises(UserError, match="lower smallest"):
        Gap(Uniform(0.0, 0.005))(4, paths.MaskedPath(4), generator(0))


@pytest.mark.parametrize("name", PATHS)
def test_gaps_are_ordered_and_inside_the_span(name):
    path = PATHS[name]()
    t, r = Gap(LogitNormal(), largest=0.9)(50_000, path, generator(1))
    low, high = path.span
    assert bool((r < t).all()) and bool((t >= low).all()) and bool((t <= high).all())
    assert bool(((r == 0) | (r >= low)).all()), "nobody is asked below the path's span"


def test_the_density_of_gaps_falls_linearly():
    largest = 0.4
    t, r = Gap(Uniform(0.5, 1.0), largest)(200_000, paths.MaskedPath(4), generator(0))
    smallest = Gap().smallest
    assert float((t - r).min()) >= smallest
    x = (t - r - smallest) / (largest - smallest)
    for q in (0.1, 0.3, 0.6):
        assert float((x < q).double().mean()) == pytest.approx(1 - (1 - q) ** 2, abs=5e-3)


@pytest.mark.parametrize("options, message", [
    ({"nodes": 0}, "nodes=0"),
    ({"nodes": 4, "skip": 5}, "skip=5"),
    ({"nodes": 8, "final": 4}, "from nodes to final"),
])  # fmt: skip
def test_wrong_grids_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        Nodes(**options)


def test_a_shifted_grid_is_that_of_the_shifted_sampler_and_stays_in_the_span():
    """Four steps shifted by 5: t = 3/4, 1/2, 1/4 become 15/16, 5/6, 5/8 (Esser et al. 2024, eq. 23)."""
    g = torch.Generator().manual_seed(0)
    t, r = Nodes(4, shift=5.0)(4000, paths.rectified_flow(), g)
    wanted = torch.tensor([0.0, 5 / 8, 5 / 6, 15 / 16, 1.0], dtype=torch.float64)
    torch.testing.assert_close(torch.unique(t), wanted[1:])
    torch.testing.assert_close(torch.unique(r), wanted[:-1])
    torch.testing.assert_close(r, wanted[torch.searchsorted(wanted, t - 1e-9) - 1])
    cosine = paths.vp_cosine()
    assert float(Nodes(64, shift=5.0)(1000, cosine, g)[0].max()) <= cosine.span[1]
    with pytest.raises(UserError, match="at least 1, got shift"):
        Nodes(4, shift=0.5)


@pytest.mark.parametrize("name", ["rectified_flow", "edm", "ouve"])
def test_a_jump_within_a_segment_begins_at_its_edge_and_stays_inside(name):
    path = PATHS[name]()
    times = grid(path, 4)
    t, r = Within(4)(8000, path, generator(5))
    index = (t[:, None] - times).abs().argmin(1)
    assert torch.equal(times[index], t) and index.unique().tolist() == [0, 1, 2, 3]
    edge = times[index + 1].clamp_min(path.span[0])
    share = (r - edge) / (t - edge)
    assert float(share.min()) >= 0.0 and float(share.max()) < 1.0 and abs(float(share.mean()) - 0.5) < 0.02
