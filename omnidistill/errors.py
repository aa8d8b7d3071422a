"""The two ways a run ends badly: the user's input was wrong (exit status 2), or the run failed (exit status 1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The input is wrong. The message is one line: what conflicts, the value given, what is possible."""


class NotOffered(UserError):
    """A recipe needs what the task does not have: no other input would mend it, only another recipe or task."""


class RunError(RuntimeError):
    """The input was fine but the run could not go on, e.g. a loss became NaN. One line: cause and what was kept."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a name that nothing answers to, with the nearest matches first."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [k for k in known if name and name in k and k not in near][: 3 - len(near)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return UserError(f"unknown {what} '{name}'; {hint}")
