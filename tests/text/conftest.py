"""A made-up language as documents on disk, so that no test needs the corpus or the network."""

import random

import pytest

WORDS = [
    "the", "old", "man", "saw", "a", "small", "boat", "on", "river", "and",
    "went", "home", "with", "his", "dog", "before", "night", "fell", "over", "hills",
]  # fmt: skip


@pytest.fixture(scope="session")
def documents():
    """Twenty documents of forty sentences: every word decides between the two that may follow it."""
    rng = random.Random(0)

    def sentence():
        at, words = rng.randrange(len(WORDS)), []
        for _ in range(rng.randint(3, 9)):
            words.append(WORDS[at])
            at = (2 * at + rng.choice((1, 4))) % len(WORDS)
        return " ".join(words).capitalize() + rng.choice(".?")

    return [[sentence() for _ in range(40)] for _ in range(20)]


@pytest.fixture(scope="session")
def text_folder(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number, document in enumerate(documents):
        (folder / f"{number:02d}.txt").write_text("\n".join(document))
    return folder


@pytest.fixture(scope="session")
def small(text_folder):
    """Options of a task on that text which a test can train."""
    return {
        "text": str(text_folder),
        "length": 40,
        "alphabet": " abcdefghijklmnopqrstuvwxyz.?",
        "network": {"width": 32, "kernel": 5, "dilations": [1, 2, 1]},
        "teacher_steps": 40,
        "name": "text/small",
    }
