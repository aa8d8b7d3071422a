"""Pieces of any length asked for in a table: a bad row stops no other."""

from __future__ import annotations

import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.audio.requests import read_requests
from omnidistill.modalities.audio.task import TRACKS, Music


def test_rows_become_labels_and_lengths(tmp_path):
    table = tmp_path / "pieces.csv"
    table.write_text(
        f"name,label,seconds\na,{TRACKS[3]},5.5\nb,flute,3\nc,{TRACKS[0]},soon\nd,{TRACKS[0]},0.2\ne,{TRACKS[0]},nan\n"
    )
    found = dict(Music().inputs(tmp_path))
    assert found["a"].condition.tolist() == [3] and found["a"].mask.shape == (1, 1, 1, 172)
    for name, says in (
        ("b", "unknown label 'flute'"),
        ("c", "number, got 'soon'"),
        ("d", "got 0.2"),
        ("e", "got nan"),
    ):
        assert (
            isinstance(found[name], UserError) and says in str(found[name]) and "\n" not in str(found[name])
        )
    table.write_text("name,label\na,b\n")
    with pytest.raises(UserError, match="lacks the columns seconds"):
        list(read_requests(table, TRACKS))
    table.write_bytes(b"name,label,seconds\n\xff\xfe,,\n")
    with pytest.raises(UserError, match="is not utf-8 text"):
        list(read_requests(table, TRACKS))
