"""The page of docs/evidence.md from the records of `evidence`: no figure is typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(records: Mapping[str, Any]) -> str:
    return str(sorted(records))
