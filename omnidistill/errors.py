"""The two ways a run ends badly: the user's input was wrong (exit status 2), or the run failed (exit status 1)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would end a line, drive a terminal, or cannot be written at all; a name from a file may hold it."""


def one_line(message: object) -> str:
    """The message with line ends and control characters spelt out."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(message))


class UserError(ValueError):
    """The input is wrong. The message is one line: what conflicts, the value given, what is possible."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class SaidElsewhere(UserError):
    """Another process of the same run has refused the input and said why; this one ends without a word."""


class NotOffered(UserError):
    """A recipe needs what the task does not have: no other input would mend it, only another recipe or task."""


class RunError(RuntimeError):
    """The input was fine but the run could not go on, e.g. a loss became NaN. One line: cause and what was kept."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that nothing answers to, with the nearest matches first."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [k for k in known if name and name in k and k not in near][: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return UserError(f"unknown {what} '{name}'; {hint}")
