"""The table of recipes on pictures: the best at four steps first, what is counted, what is left out and why."""

import pytest


@pytest.fixture
def script(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    import recipes_on_images

    return recipes_on_images


def points(values):
    return [
        {"steps": k, "metrics": {"frechet": v}, "interval": [v - 0.1, v + 0.1]}
        for k, v in zip((1, 2, 4, 8), values, strict=True)
    ]


def record(name, values, gap, falls=()):
    return {
        "recipe": name,
        "steps": 4,
        "metric": {"name": "frechet", "better": "lower"},
        "teacher": points((9.0, 7.0, 5.0, 4.0)),
        "student": points(values),
        "gap": {"1": 50.0, "2": None, "4": gap, "8": None},
        "gap_interval": {"1": None, "2": None, "4": [gap - 5, gap + 5], "8": None},
        "falls": [list(pair) for pair in falls],
        "seconds": 12.3,
        "calls": {"student": 600, "teacher": 300, "fake_score": 0},
        "student_updates": 300,
    }


def test_rows_are_sorted_and_counted(script):
    records = [
        record("b", (4.0, 3.5, 3.0, 3.2), 92.0, [(4, 8)]),
        record("a", (4.0, 3.0, 2.0, 1.9), 130.0) | {"teacher": points((9.5, 7.0, 5.0, 4.0))},
        {"recipe": "c", "reason": "c needs masked"},
        {"recipe": "d", "failed": "NaN at update 3"},
    ]
    lines = script.table(records, ["e"])
    text = "\n".join(lines)
    rows = [line for line in lines if line.startswith(("| a", "| b"))]
    assert [row.split(" | ")[0] for row in rows] == ["| a", "| b"]
    assert [row.split(" | ")[2] for row in rows] == ["B", "A"]  # each is judged by its own teacher
    for line, letter, first in zip(lines, "AB", (9.0, 9.5), strict=False):
        curve = " / ".join(f"{value:.2f} ±0.1" for value in (first, 7, 5, 4))
        assert line == f"- teacher {letter} at 1, 2, 4, 8: {curve}"
    assert "| 130 (125 to 135) | yes | student 2, teacher 1 | 12 |" in rows[0]
    assert "no: 4 to 8" in rows[1] and "fake_score" not in text
    assert "At least 90 % of the gap at 4 steps: 2 of 2: a, b." in text
    assert "At least 100 % of the gap at 4 steps: 1 of 2: a." in text
    assert "within the interval of the difference: 1 of 2." in text
    assert "- c: c needs masked" in text and "- d: failed, NaN at update 3" in text and "run yet: e" in text
    assert script.table(records[2:]) == []


def test_every_recipe_has_one_budget_and_a_reason_if_it_cannot_be_run(script):
    assert script.lacks("sdtt").startswith("sdtt needs masked")
    for name, part in (("r0", "reward"), ("flow-grpo", "policy_gradient"), ("sail", "paired")):
        assert script.lacks(name).startswith(f"nothing but rewards ('{part}')")
    assert script.lacks("dmd2") is None
    led, others = script.given("arc"), script.given("dmd2")
    assert [set(script.BUDGET) <= set(words) for words in (led, others)] == [True, True]
    assert ("optim.lr=1.0e-4" in led, "optim.lr=1.0e-3" in others) == (True, True)
