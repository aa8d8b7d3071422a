"""The documented loop without ours: it distils, it is short, and it loads neither Lightning nor Hydra."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "docs" / "own_loop.py"
CODE = """
import json, runpy, sys
own = runpy.run_path(sys.argv[1])
results = {updates: own["quality"](*own["distil"](updates)) for updates in (0, 500)}
heavy = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "tensorboard", "diffusers", "transformers", "rich")
print(json.dumps({"results": results, "loaded": [name for name in heavy if name in sys.modules]}))
"""


def test_the_documented_loop_distils_with_plain_torch():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-1500:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] == []
    untrained, student = found["results"]["0"], found["results"]["500"]

    def good(metrics):
        return metrics["modes_recalled"] == 1.0 and metrics["stray"] < 0.15 and metrics["energy"] < 0.12

    assert good(student), student
    assert not good(untrained) and untrained["energy"] > 6 * student["energy"], untrained


def test_the_loop_is_about_twenty_lines():
    tree = ast.parse(EXAMPLE.read_text())
    (loop,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "distil"]
    lines = [line for line in ast.get_source_segment(EXAMPLE.read_text(), loop).splitlines() if line.strip()]
    assert len(lines) <= 25
