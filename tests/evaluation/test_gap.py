"""Gap closed against figures worked out by hand."""

import pytest

from omnidistill.errors import UserError
from omnidistill.evaluation.gap import gap_closed, gaps_closed


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
    assert gaps == {"1": pytest.approx(75.0), "4": pytest.approx(50.0), "64": None}


def test_a_student_without_its_baseline_is_refused() -> None:
    teacher = [{"steps": 64, "metrics": {"fid": 2.0}}]
    with pytest.raises(UserError, match=r"\[1\]"):
        gaps_closed({"name": "fid", "better": "lower"}, teacher, [{"steps": 1, "metrics": {"fid": 4.0}}])
