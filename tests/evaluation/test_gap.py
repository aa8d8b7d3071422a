"""Gap closed against figures worked out by hand."""

import pytest
import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.caveats import caveats
from omnidistill.evaluation.gap import falls, gap_closed, gaps_closed


@pytest.mark.parametrize(
    ("better", "teacher", "student", "full", "expected"),
    [
        ("lower", 11.0, 3.0, 1.0, 80.0),
        ("lower", 11.0, 11.0, 1.0, 0.0),
        ("lower", 11.0, 1.0, 1.0, 100.0),
        ("lower", 11.0, 0.0, 1.0, 110.0),  # beyond the full teacher
        ("lower", 11.0, 16.0, 1.0, -50.0),  # worse than no distillation
        ("higher", 0.2, 0.8, 0.9, 600.0 / 7.0),
        ("higher", 0.2, 0.1, 0.9, -100.0 / 7.0),
        ("lower", 2.0, -1.0, -2.0, 75.0),  # log-likelihoods change their sign
        ("higher", -3.0, -1.5, -1.0, 75.0),
    ],
)
def test_formula(better: str, teacher: float, student: float, full: float, expected: float) -> None:
    assert gap_closed(better, teacher, student, full) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("better", "teacher", "full"),
    [
        ("lower", 1.0, 1.0),
        ("lower", 1.0, 1.2),  # fewer steps are better: no gap
        ("higher", 0.9, 0.8),
        ("lower", 1.005, 1.0),  # half a percent is noise
        ("higher", 0.895, 0.9),
        ("lower", 0.0, 0.0),
        ("lower", float("nan"), 1.0),
    ],
)
def test_no_gap_to_close(better: str, teacher: float, full: float) -> None:
    assert gap_closed(better, teacher, 0.5, full) is None


def test_unknown_direction() -> None:
    with pytest.raises(UserError, match="'smaller'"):
        gap_closed("smaller", 1.0, 1.0, 0.0)


def test_each_step_count_has_its_own_baseline_and_full_has_none() -> None:
    def point(steps: int, value: float) -> dict[str, object]:
        return {"steps": steps, "metrics": {"fid": value, "other": 0.0}}

    teacher = [point(1, 10.0), point(4, 4.0), point(64, 2.0)]
    student = [point(1, 4.0), point(4, 3.0), point(64, 1.0)]
    gaps = gaps_closed({"name": "fid", "better": "lower"}, teacher, student)
    assert {steps: gap for steps, (gap, _) in gaps.items()} == {
        "1": pytest.approx(75.0),
        "4": pytest.approx(50.0),
        "64": None,
    }


def test_a_student_without_its_baseline_is_refused() -> None:
    teacher = [{"steps": 64, "metrics": {"fid": 2.0}}]
    with pytest.raises(UserError, match=r"\[1\]"):
        gaps_closed({"name": "fid", "better": "lower"}, teacher, [{"steps": 1, "metrics": {"fid": 4.0}}])


LOWER = {"name": "fid", "better": "lower"}


def noise(key: int, std: float) -> Tensor:
    drawn = torch.randn(200, generator=torch.Generator().manual_seed(key), dtype=torch.float64)
    return std * (drawn - drawn.mean()) / drawn.std()


def measured(steps: int, value: float, std: float = 0.1, common: float = 0.0) -> dict[str, object]:
    """A point whose resamples have a part of their own and one in common with all others."""
    return {
        "steps": steps,
        "metrics": {"fid": value},
        "resampled": value + noise(steps + int(1000 * value), std) + noise(0, common),
    }


def test_a_gap_has_an_interval_from_the_resamples_that_all_three_share() -> None:
    teacher, full = measured(1, 11.0), measured(64, 1.0)
    student = measured(1, 3.0)
    ((gap, ends),) = gaps_closed(LOWER, [teacher, full], [student]).values()
    assert gap == pytest.approx(80.0)
    # d gap = 100 (dS / 10, 0.2 dT / 10, 0.8 dF / 10): independent parts of 0.1 each.
    assert ends[1] - ends[0] == pytest.approx(2 * 1.96 * (1 + 0.04 + 0.64) ** 0.5, rel=0.2)
    noisy = [measured(1, 11.0, common=5.0), measured(64, 1.0, common=5.0)]
    (again,) = gaps_closed(LOWER, noisy, [measured(1, 3.0, common=5.0)]).values()
    assert again[1] == pytest.approx(ends, abs=1e-6), "what they share does not blur it"


def test_a_range_that_is_small_beside_its_interval_is_no_gap() -> None:
    """Range 0.3 with an interval of +-0.28: without it a student at 2.0 would read -300 %."""
    teacher, full, student = measured(1, 1.3), measured(64, 1.0), measured(1, 2.0)
    assert gap_closed("lower", 1.3, 2.0, 1.0) == pytest.approx(-700 / 3)
    assert gaps_closed(LOWER, [teacher, full], [student]) == {"1": (None, None)}
    clear = measured(1, 1.3, std=0.01), measured(64, 1.0, std=0.01)
    assert gaps_closed(LOWER, clear, [student])["1"][0] == pytest.approx(-700 / 3)


def test_quality_that_falls_with_more_steps_is_found_beyond_the_interval_alone() -> None:
    points = [measured(1, 3.0), measured(2, 2.0), measured(4, 2.1), measured(8, 2.9)]
    assert falls(LOWER, points) == [[2, 8]], "0.1 is within it, 0.9 is not"
    assert falls({"name": "fid", "better": "higher"}, points) == [[1, 2], [1, 4]]
    assert falls(LOWER, [{"steps": k, "metrics": {"fid": float(k)}} for k in (1, 2)]) == []


def test_a_fall_is_the_same_of_a_distance_and_of_its_square() -> None:
    """Near 0 a root is steep: what differs by less than its scatter differs there by more than the root's."""

    def root(squared: torch.Tensor) -> torch.Tensor:
        return squared.sign() * squared.abs().sqrt()

    shared, own = noise(0, 3e-4) + 1e-4, [noise(seed, 0.7e-4) for seed in (1, 2)]
    for second, falling in (
        (1.0e-4, []),
        (6.0e-4, [[8, 16]]),
    ):  # 1.3 and 6 standard deviations of the difference
        squares = [(-0.3e-4, shared + own[0] - 0.3e-4), (second, shared + own[1] + second)]
        for scale in (torch.Tensor.clone, root):
            points = [
                {"steps": k, "metrics": {"fid": float(scale(torch.tensor(v)))}, "resampled": scale(drawn)}
                for k, (v, drawn) in zip((8, 16), squares, strict=True)
            ]
            assert falls(LOWER, points) == falling


def test_students_whose_quality_never_falls_are_seldom_called_falling() -> None:
    """Eight step counts of one quality, three hundred students: were each comparison alone at 2.5 % and each against
    the best of all before, four in ten of them would be."""
    called = 0
    for seed in range(300):
        values = noise(seed, 1.0)[:8].double()
        points = [
            {"steps": k, "metrics": {"fid": float(v)}, "resampled": noise(1000 + 8 * seed + k, 1.0) + v}
            for k, v in enumerate(values)
        ]
        called += bool(falls(LOWER, points))
    assert 0 < called <= 45


def test_an_untrained_teacher_and_a_student_that_harms_are_said() -> None:
    flat = [measured(1, 5.0), measured(64, 4.95)]
    (said,) = caveats(LOWER, flat, [], {"fid": 1.0}, None)
    assert "64 steps is no better than at 1" in said
    (said,) = caveats(LOWER, [measured(1, 5.0), measured(64, 4.0)], [], {"fid": 1.0}, None)
    assert "covers only 25 % of the way" in said
    good = [measured(1, 5.0), measured(64, 1.2)]
    assert caveats(LOWER, good, [measured(1, 2.0)], {"fid": 1.0}, measured(0, 3.0)) == []
    (said,) = caveats(LOWER, good, [measured(1, 2.0), measured(2, 3.5)], {"fid": 1.0}, measured(0, 3.0))
    assert said.startswith("The student at 2 steps makes the inputs worse")
