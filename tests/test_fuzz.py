"""A few seconds of what `benchmarks/fuzz.py` does for minutes, from fixed seeds, and what it found."""

import importlib.util
import json
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
fuzz.register_all()
mutations = sys.modules["fuzz_mutations"]


@pytest.mark.parametrize("name", list(fuzz.READERS))
def test_damaged_files_are_read_or_refused_in_one_line(name, tmp_path):
    _, seeds, form = fuzz.READERS[name]
    assert {fuzz.trial(name, seed, tmp_path) for seed in seeds} == {"read"}

    @settings(
        max_examples=30,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**32), st.sampled_from(seeds))
    def never_faults(number, seed):
        data = fuzz.damaged(seed, random.Random(number), form)
        assert fuzz.trial(name, data, tmp_path) in ("read", "refused")

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
    fuzz.READERS["crash"] = fuzz.Reader(lambda data, folder: [][1], [b""])
    try:
        assert fuzz.trial("crash", b"", inside).startswith("IndexError")
    finally:
        del fuzz.READERS["crash"]


@pytest.mark.parametrize("name", [name for name in fuzz.READERS if fuzz.READERS[name].form])
def test_what_is_taken_apart_and_put_together_is_read_as_before(name, tmp_path):
    """Else the damage would be the tool's own."""
    _, seeds, form = fuzz.READERS[name]
    apart, together = mutations.FORMS[form]
    for seed in seeds:
        again = together(apart(seed))
        assert fuzz.trial(name, again, tmp_path) == "read"
        assert apart(again) == apart(seed)


@pytest.mark.parametrize("form", ["json", "yaml", "safetensors", "png"])
def test_most_of_what_is_changed_comes_past_the_parser(form):
    """More than twice as many as of bytes that are damaged anywhere."""
    name = next(name for name in fuzz.READERS if fuzz.READERS[name].form == form)
    passed = sum(mutations.well_formed(fuzz.file_of(name, 1, number), form) for number in range(200))
    seed = fuzz.READERS[name].seeds[0]
    flipped = sum(
        mutations.well_formed(mutations.mutated(seed, random.Random(number)), form) for number in range(200)
    )
    assert passed > max(60, 2 * flipped)


readers = sys.modules["fuzz_readers"]
NO_TASK = readers.CONFIG.replace("omnidistill.exact.GaussianMixtureTask", "torch.nn.Identity").encode()
BAD_INPUT = readers._bytes({**readers.METRICS, "input": {"metrics": {}, "interval": ["", ""]}})
ENDLESS, HALF = json.dumps(10**400).encode(), b'"\\ud800"'


def without(key: str) -> bytes:
    return readers.CONFIG.replace(key, "").encode()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("config.yaml", without("objective: {matching: 1.0}\n"), "refused"),
        ("config.yaml", b"task: 5", "refused"),
        ("config.yaml", b"a: 1", "refused"),
        ("config.yaml", without("transition: renoise"), "read"),  # what it lacks is at its default
        ("config.yaml", NO_TASK, "refused"),
        ("config.yaml", readers.CONFIG.replace("seed: 0}", "seed: 0, 'a\\nb': 1}").encode(), "refused"),
        ("student.json", readers._bytes({**readers.STUDENT, "times": 1.0}), "read"),  # a list of one
        ("student.json", readers._bytes({**readers.STUDENT, "block": "x"}), "refused"),
        ("student.json", readers._bytes({**readers.STUDENT, "task": {"_target_": "torch.nn.Identity"}}), "refused"),
        ("sweep.json", readers._bytes({"schema": 1, "cells": [{**readers.CELL, "task": "\ud800"}]}), "refused"),
        ("metrics.json", readers._bytes(readers.METRICS).replace(b': 1.0', b': ' + ENDLESS), "refused"),
        ("metrics.json", readers._bytes(readers.METRICS).replace(b'"t"', HALF), "refused"),
        ("metrics.json", BAD_INPUT, "refused"),
        ("data.yaml", readers._description().replace(b"**/*.txt", b"**.txt"), "refused"),
        ("data.yaml", readers._description().replace(b"**/*.txt", b"."), "refused"),
        ("pictures.csv", b"path,label\n" + b"x" * 5000 + b",a\n", "refused"),
        ("report", readers._bytes(readers.METRICS).replace(b'"seconds": 1.0', b'"seconds": {}'), "refused"),
        ("report", readers._bytes(readers.METRICS).replace(b'"calls": {}', b'"calls": "a"'), "refused"),
        ("report", readers._bytes({**readers.METRICS, "student": [{**readers.POINT, "steps": 2}]}), "refused"),
        ("tokenizer.json", readers._bytes(readers.TOKENIZER).replace(b'"[UNK]": 2', b'"d": 2'), "refused"),
    ],
)  # fmt: skip
def test_what_was_found(name, data, says, tmp_path):
    assert fuzz.trial(name, data, tmp_path) == says
