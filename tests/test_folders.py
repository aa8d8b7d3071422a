"""The folder of a run: made, gone on with, made again; never somebody else's."""

from pathlib import Path

import pytest

from omnidistill.data.files import fault
from omnidistill.errors import UserError
from omnidistill.runs.folders import prepare


def test_a_folder_is_made_with_those_above(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a/b").is_dir()
    assert list(prepare(tmp_path / "a/b").iterdir()) == [], (
        "an empty one is taken, and the trial of writing leaves nothing"
    )


def test_a_run_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match="not empty"):
        prepare(tmp_path)
    assert prepare(tmp_path, resume=True) == tmp_path
    assert (tmp_path / "config.yaml").exists()


def test_made_again_is_only_what_a_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.png").write_text("")
    assert list(prepare(tmp_path, again=True).iterdir()) == []
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        prepare(tmp_path, again=True)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "samples").mkdir()
    with pytest.raises(UserError, match="not empty"):  # a folder called samples is not a run yet
        prepare(tmp_path, again=True)


def test_faults_of_the_place_are_told_from_others() -> None:
    assert (
        fault(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
        is not None
    )
    assert (
        fault(ValueError("28")) is None and fault(FileNotFoundError(2, "no")) is None and fault(None) is None
    )


def test_a_refused_command_leaves_the_folder_free(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "command.txt").write_text("omnidistill distill")
    assert prepare(tmp_path) == tmp_path
    (tmp_path / "logs" / "metrics.csv").write_text("a run's")
    with pytest.raises(UserError, match="is not empty"):
        prepare(tmp_path)
