"""Nothing in omnidistill/ asks which modality it serves: no class of a modality, no name of one, no name of a task.

What is looked at is code: identifiers and literals, not docstrings and comments. Where a modality's word has another
meaning (a media type of the report page, a path that is named after its paper), `ALLOWED` says which.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, GUESTS = ROOT / "omnidistill", ROOT / "modalities"

WORDS = frozenset(
    [
        *(
            "image",
            "images",
            "pixel",
            "pixels",
            "video",
            "videos",
            "mel",
            "mels",
            "music",
            "song",
            "sound",
            "sounds",
        ),
        *(
            "speech",
            "speaker",
            "voice",
            "audio",
            "spectrogram",
            "spectrograms",
            "stft",
            "wav",
            "waveform",
            "waveforms",
        ),
        *(
            "phoneme",
            "phonemes",
            "vocoder",
            "enhancement",
            "tts",
            "protein",
            "proteins",
            "residue",
            "residues",
        ),
        *("atom", "atoms", "molecule", "molecules", "coordinates"),
    ]
)
"""Words that name a modality or its things, and nothing else that a core would speak of."""

NAMES = frozenset(p.name for p in GUESTS.iterdir() if (p / "__init__.py").is_file())
"""The modalities' own names. Some are common words (text), so as literals they count alone or before a slash."""

ALLOWED: dict[str, dict[str, str]] = {
    "commands/runs.py": {"image": "an example of a task's name on a help page"},
    "evaluation/report/samples.py": {
        "image": "media type and element of HTML",
        "audio": "media type and element of HTML",
        "video": "media type and element of HTML",
        "wav": "media type by suffix",
    },
    "evaluation/report/thumbnails.py": {
        "image": "PIL.Image, and the media type of a thumbnail",
        "audio": "media type",
        "pixels": "the width of a thumbnail, in words",
        "sound": "what is heard of a media type that is heard",
    },
    "exact/": {
        "image": "matplotlib.image, which writes pictures",
        "tts": "grad_tts is the name of a path, after its paper",
        "coordinates": "of points, in the message of a closed-form task",
    },
    "exporting/": {"images": "where pipelines of diffusers put their samples"},
    "interop/": {
        "video": "in the names of diffusers' classes",
        "audio": "in the name of one of them",
        "image": "in the options of its schedulers and pipelines",
    },
    "networks/": {"pixel": "torch's pixel_shuffle, which is space to depth"},
    "configuration/overrides.py": {"text": "the group of a regular expression"},
    "paths/": {"tts": "grad_tts is the name of a path, after its paper"},
    "testing/plugin.py": {"task.name": "a task must have the name that it is chosen by"},
    "testing/tasks.py": {
        "task.name": "a task must have one",
        "image": "matplotlib.image, which reads the pictures that a task renders",
    },
}
"""By file or folder: the word and what it means there."""


def asked(tree: ast.AST, classes: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """The lines and words of a module that speak of a modality."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from ((line, word) for word in words(node.value) & WORDS)
            start = node.value.partition("/")[0]
            if start in NAMES - WORDS:
                yield line, start
        for name in identifiers(node):
            yield from ((line, word) for word in words(name) & WORDS)
            if name.startswith("omnidistill.modalities"):
                yield line, name
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            for name in (name for part in ast.walk(node.args[-1]) for name in identifiers(part)):
                if name in classes or (name.endswith("Task") and name != "Task"):
                    yield line, name
        if named := name_of_task(node):
            yield line, named


def words(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)}


def identifiers(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "arg", "name", "asname", "module"):
        if isinstance(value := getattr(node, field, None), str):
            yield value


def name_of_task(node: ast.AST) -> str | None:
    """The code of a decision that hangs on the name of a task or of a modality."""
    parts: list[ast.AST] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Match):
        parts = [node.subject]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = (
            [node.func.value] if node.func.attr in ("startswith", "endswith", "partition", "split") else []
        )
    elif isinstance(node, ast.Subscript):
        parts = [node.slice]
    for part in parts:
        code = ast.unparse(part)
        if re.fullmatch(r"(\w+\.)*_?task\.name(\.\w+\(.*\))?(\[.*\])?", code) or code.endswith(".modality"):
            return code
    return None


def guests() -> frozenset[str]:
    """The classes of all modalities."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in GUESTS.rglob("*.py"))
    return frozenset(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def allowed(file: str) -> dict[str, str]:
    return {
        word: why for place, found in ALLOWED.items() if file.startswith(place) for word, why in found.items()
    }


def test_the_core_does_not_know_its_guests() -> None:
    classes, faults, used = guests(), [], set()
    assert len(classes) > 5 and "ImageTask" in classes
    for path in sorted(CORE.rglob("*.py")):
        file = path.relative_to(CORE).as_posix()
        for line, word in asked(ast.parse(path.read_text(encoding="utf-8")), classes):
            if word in allowed(file):
                used |= {(place, word) for place in ALLOWED if file.startswith(place)}
            else:
                faults.append(f"{file}:{line}: {word}")
    assert not faults, "the core bends for no modality; mend the contract of Task instead:\n" + "\n".join(
        faults
    )
    stale = {(place, word) for place, found in ALLOWED.items() for word in found} - used
    assert not stale, f"no longer needed in ALLOWED: {stale}"


@pytest.mark.parametrize(
    "code",
    [
        'if task.name.startswith("speech"): pass',
        'if task.name.startswith(("text", "x")): pass',
        'if task.name == "text/brown": pass',
        'x = {"text/brown": 1}.get(task.name)',
        "if task.name in special: pass",
        "if self.task.name.split('/')[0] == kind: pass",
        "sampler = SAMPLERS[task.name]",
        'if cfg.about.modality == "x": pass',
        "match task.name:\n    case 'a': pass",
        "if isinstance(task, ImageTask): pass",
        "if isinstance(task, (SomeTask, int)): pass",
        "from omnidistill.modalities.image import task",
        "def mel_loss(x0): return x0",
        "def loss(x0, *, phonemes=None): return x0",
        "if context.audio is not None: pass",
        "rate = audio_rate * 2",
        "class VideoSampler: pass",
        'print(f"{n} pixels")',
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert list(asked(ast.parse(code), frozenset({"ImageTask"})))


@pytest.mark.parametrize(
    "code",
    [
        '"""Of images, mels and residues, as prose may speak."""',
        'text = path.read_text(); text.startswith("a")',
        'raise UserError(f"{task.name} has no data")',
        "if isinstance(teacher, NetworkDenoiser): pass",
        "if isinstance(task, Task): pass",
        "if metric.name == name: pass",
        "clip_grad_norm_(p, clip)",
    ],
)
def test_what_a_core_may_say(code: str) -> None:
    assert not list(asked(ast.parse(code), frozenset({"ImageTask"})))
