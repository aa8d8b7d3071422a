"""The command line in this process, and a place for its runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from omnidistill import cli


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*words: str) -> Done:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command: Callable[..., Done]) -> Callable[..., str]:
    """The one line on stderr of a command that must end with exit status 2 and print nothing else."""

    def run(*words: str) -> str:
        done = command(*words)
        assert done.status == 2, done
        assert done.out == ""
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        return done.err.strip()

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
