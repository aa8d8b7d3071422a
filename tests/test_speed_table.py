"""The table of update times: a row a case, a column a machine, and an update that is timed."""

import json

import pytest


@pytest.fixture
def script(monkeypatch, request):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    import speed

    return speed


def test_a_machine_is_a_column(script, monkeypatch, tmp_path):
    case = {"task": "audio/music", "recipe": "dmd2", "batch": 64, "precision": "bf16", "ms_an_update": 151.6}
    other = {**case, "recipe": "lcm", "ms_an_update": 7.2}
    for name, cases in (("cpu", [case]), ("gpu", [case, other])):
        document = {"cases": cases, "environment": {"device": name, "threads": 2}}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    lines = script.section()
    assert "| task | recipe | batch | precision | cpu, 2 threads | gpu, 2 threads |" in lines
    assert "| audio/music | dmd2 | 64 | bf16 | 152 | 152 |" in lines
    assert "| audio/music | lcm | 64 | bf16 | - | 7 |" in lines


def test_memory_is_said_where_each_case_had_a_process_of_its_own(script, monkeypatch, tmp_path):
    case = {"task": "audio/music", "recipe": "scm", "batch": 64, "precision": "bf16", "ms_an_update": 151.6}
    case["peak_memory_mb"] = 967.8
    for name, more in (("former", {}), ("new", {"alone": True})):
        document = {"cases": [case], "environment": {"device": name, "threads": 2}, **more}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    assert "| audio/music | scm | 64 | bf16 | 152 | 152 (968) |" in script.section()


def test_a_derivative_is_taken_both_ways_and_its_calls_tell(script, monkeypatch):
    """By a difference each update asks the student twice more."""
    calls, record = [], script.training_record
    monkeypatch.setattr(
        script, "training_record", lambda module: calls.append(module.calls) or record(module)
    )
    for recipe in script.DERIVATIVES:
        found = script.measure("image/digits", recipe, 8, 2, "cpu")
        assert found["recipe"] == recipe and found["ms_an_update"] > 0 and found["peak_memory_mb"] > 0
    forwards, difference = calls[1], calls[3]
    assert (forwards["student"], difference["student"]) == (2, 6)
    assert all(set(script.DERIVATIVES) <= set(recipes) for _, _, recipes in script.CASES[:2])


def test_a_process_of_its_own_answers_as_this_one(script, monkeypatch):
    found = script.alone("exact/gaussian_mixture", "dmd2", 8, 1, "cpu", 1)
    assert found["recipe"] == "dmd2" and found["peak_memory_mb"] > 0


def test_an_update_is_timed_after_a_run_that_is_not(script, monkeypatch):
    trained = []
    train = script.train_student
    monkeypatch.setattr(script, "train_student", lambda *a, **k: trained.append(1) or train(*a, **k))
    found = script.measure("image/digits", "dmd2", 8, 2, "cpu")
    assert len(trained) == 2
    assert found["ms_an_update"] > 0 and found["samples_per_second"] > 0 and found["precision"] == "fp32"
