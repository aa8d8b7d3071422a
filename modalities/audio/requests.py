"""Music asked for in a table: csv files with the columns `name`, `label` and `seconds`, one piece a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnidistill.data.folder import scan
from omnidistill.data.lines import folded, read
from omnidistill.errors import UserError, unknown

COLUMNS = ("name", "label", "seconds")


def read_requests(source: Path, labels: Sequence[str]) -> Iterator[tuple[str, tuple[int, float] | UserError]]:
    """Of each row its name, and its label's number with the seconds asked for, or what is wrong with the row.

    Args:
        source: a csv file, or a folder of them.

    Raises:
        UserError: there is no table, it cannot be read, or its header lacks a column.
    """
    for table in scan(source, (".csv",), what="tables").files:
        try:
            rows = csv.DictReader(io.StringIO(folded(read(table)), newline=""))
            lacking = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{table} lacks the columns {', '.join(lacking)}; its header is name,label,seconds"
                )
            for row in rows:
                yield row["name"] or f"row {rows.line_num}", _asked(row, labels)
        except csv.Error as error:
            raise UserError(f"cannot read the table {table}: {error}") from error


def _asked(row: dict[str, str], labels: Sequence[str]) -> tuple[int, float] | UserError:
    label, seconds = row["label"] or "", row["seconds"] or ""
    if label not in labels:
        return unknown("label", label, labels)
    try:
        return list(labels).index(label), float(seconds)
    except ValueError:
        return UserError(f"seconds is a number, got '{seconds}'")
