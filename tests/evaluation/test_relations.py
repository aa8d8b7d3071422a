"""Relations of claims on figures that are given: what holds, what does not, and what an interval changes."""

import pytest

from omnidistill.configuration.claim_file import Relation, Spot
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.relations import judge, words


def document(better="lower", student=(), teacher=(), falls=(), gaps=None):
    """Points as (steps, value, half of the interval or None)."""

    def points(given):
        return [
            {
                "steps": steps,
                "metrics": {"energy": value, "recall": 1.0 - value},
                "interval": None if half is None else [value - half, value + half],
            }
            for steps, value, half in given
        ]

    return {
        "primary": {"name": "energy", "better": better},
        "student": points(student),
        "teacher": points(teacher),
        "falls": [list(pair) for pair in falls],
        "gap_closed": gaps or {},
        "gap_interval": {
            key: [value - 1, value + 1] for key, value in (gaps or {}).items() if value is not None
        },
    }


def spot(model, steps=None):
    return Spot("a", model, steps)


def holds(found, kind, **more):
    relation = Relation(kind, "a", **{"of": spot("student", 1), **more})
    return judge(relation, {"a": found})["holds"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_better_is_better_beyond_both_intervals_whichever_way_is_better(sign) -> None:
    better = "lower" if sign > 0 else "higher"
    for value, half, strictly, no_worse in (
        (0.2, 0.05, True, True),
        (0.2, 0.15, False, True),  # overlaps
        (0.5, 0.05, False, False),
        (0.35, 0.1, False, True),  # worse within the interval
    ):
        found = document(better, [(1, sign * value, half)], [(4, sign * 0.3, 0.02)])
        assert holds(found, "better", than=spot("teacher", 4)) is strictly
        assert holds(found, "no_worse", than=spot("teacher")) is no_worse


def test_a_ratio_asks_for_more() -> None:
    found = document("lower", [(1, 0.1, None)], [(4, 0.25, None)])
    assert holds(found, "better", than=spot("teacher", 4), ratio=2.0)
    assert not holds(found, "better", than=spot("teacher", 4), ratio=3.0)
    found = document("higher", [(1, 0.25, None)], [(4, 0.1, None)])
    assert holds(found, "better", than=spot("teacher", 4), ratio=2.0)
    assert not holds(found, "better", than=spot("teacher", 4), ratio=3.0)


def test_any_metric_below_and_above() -> None:
    found = document("lower", [(1, 0.1, 9.0)], [(4, 0.3, 9.0)])
    assert holds(found, "above", metric="recall", value=0.9)
    assert not holds(found, "above", metric="recall", value=0.95)
    assert holds(found, "below", metric="energy", than=spot("teacher", 4), ratio=2.9)
    assert not holds(found, "below", metric="energy", than=spot("teacher", 4), ratio=3.1)
    found["student"][0]["nfe"] = 3.5
    assert holds(found, "below", metric="nfe", value=4) and not holds(found, "below", metric="nfe", value=3)
    with pytest.raises(UserError, match=r"a\.student@1 has no metric 'recal'; it has energy, recall"):
        holds(found, "above", metric="recal", value=0.9)


def test_monotone_is_what_the_run_says_of_its_falls() -> None:
    points = [(1, 0.3, 0.1), (2, 0.1, 0.1), (4, 0.4, 0.1)]
    for kind, falling, level in (("monotone", False, True), ("not_monotone", True, False)):
        assert holds(document(student=points, falls=[(2, 4)]), kind, of=None, steps=(1, 2, 4)) is falling
        assert holds(document(student=points), kind, of=None, steps=(1, 2, 4)) is level
    bare = [(steps, value, None) for steps, value, _ in points]
    with pytest.raises(RunError, match="no interval"):
        holds(document(student=bare), "monotone", of=None, steps=(1, 2, 4))


def test_gap_closed() -> None:
    found = document(student=[(1, 0.1, None)], gaps={"1": 96.0, "8": None})
    assert holds(found, "gap", value=95.0) and not holds(found, "gap", value=97.0)
    with pytest.raises(RunError, match="no gap to close at 8 steps"):
        holds(found, "gap", of=spot("student", 8), value=95.0)


def test_words_tell_relations_apart() -> None:
    first, second = spot("student", 1), spot("teacher")
    said = [
        words(Relation("better", "a", first, second)),
        words(Relation("better", "a", first, second, ratio=2.0)),
        words(Relation("no_worse", "a", first, second)),
        words(Relation("above", "a", first, metric="recall", value=1.0)),
        words(Relation("below", "a", first, metric="recall", value=1.0)),
        words(Relation("gap", "a", first, value=95.0)),
        words(Relation("monotone", "a", steps=(1, 2))),
        words(Relation("not_monotone", "a", steps=(1, 2))),
    ]
    assert len(set(said)) == len(said)
    assert said[1] == "a.student@1 better than a.teacher@full by 2"
