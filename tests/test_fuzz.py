"""A few seconds of what `benchmarks/fuzz.py` does for minutes, from fixed seeds, and what it found."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "fuzz.py"
spec = importlib.util.spec_from_file_location("fuzz_benchmark", FILE)
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz_benchmark"] = fuzz
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("name", list(fuzz.READERS))
def test_damaged_files_are_read_or_refused_in_one_line(name, tmp_path):
    _, seeds = fuzz.READERS[name]
    said = [fuzz.trial(name, seed, tmp_path) for seed in seeds]
    assert set(said) <= {"read", "refused"}

    @settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**32), st.sampled_from(seeds))
    def never_faults(number, seed):
        assert fuzz.trial(name, fuzz.mutated(seed, random.Random(number)), tmp_path) in ("read", "refused")

    never_faults()


def test_the_watch_sees_what_it_looks_for(tmp_path):
    """Else nothing could fail above."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    for act, wrong in (
        (lambda: (inside / "x").write_text("x"), False),
        (lambda: outside.write_text("x"), True),
        (lambda: outside.unlink(), True),
        (lambda: __import__("os").system("true"), True),
        (lambda: __import__("subprocess").run(["true"]), True),
    ):
        with fuzz.watched(inside) as faults:
            act()
        assert bool(faults) is wrong
    fuzz.READERS["crash"] = (lambda data, folder: [][1], [b""])
    try:
        assert fuzz.trial("crash", b"", inside).startswith("IndexError")
    finally:
        del fuzz.READERS["crash"]


@pytest.mark.parametrize("text", [fuzz.CONFIG.replace("objective: {matching: 1.0}\n", ""), "task: 5", "a: 1"])
def test_a_configuration_without_its_keys_is_refused(text, tmp_path):
    assert fuzz.trial("config.yaml", text.encode(), tmp_path) == "refused"
