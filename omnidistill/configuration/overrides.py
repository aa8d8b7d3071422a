"""`key=value` on a command line, brought into Hydra's grammar where a person would not think of it.

`steps=1,2,4` is a list and no sweep, a path is a path whatever characters it has, and the options of a component need
no `+`: whether they exist is known to the component alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from omnidistill.configuration.settings import OPEN
from omnidistill.data.files import expanded
from omnidistill.errors import UserError

LISTS = ("steps", "trust", "optim.betas")
PATHS = ("out", "teacher", "pairs", "configs")
GROUPS = ("task", "recipe")
NAMED = ("student.inference.", "student.network.", "teachers.", "route.")
"""Sections whose keys are names that the user chooses."""

_FORM = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[A-Za-z_][\w./@:-]*)(?:=(?P<text>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Override:
    """One override: `+` or `++` as `adds`, `~` as `removes`, and the text behind `=`."""

    key: str
    text: str
    adds: bool = False
    removes: bool = False

    def hydra(self) -> list[str]:
        """In Hydra's grammar. What is replaced is taken away first, as Hydra would merge."""
        if self.removes:
            return [f"~{self.key}" + (f"={self.text}" if self.text else "")]
        key = f"{'++' if self.may_add() else ''}{self.key}"
        return [*([f"{key}=null"] if self.replaces() else []), f"{key}={self.text}"]

    def replaces(self) -> bool:
        """Whether the value names its component (`_target_`): it then is that component, with the options that are
        written and no others; merged, it would be given those of the component that stood there."""
        return "_target_" in self.text and isinstance(value := self.value(), dict) and "_target_" in value

    def may_add(self) -> bool:
        """Whether the key may be a new one."""
        within = self.key.partition(".")[0] in OPEN or f"{self.key}.".startswith(NAMED)
        return self.adds or (within and self.key not in GROUPS)

    def value(self) -> Any:
        """The parsed value."""
        return _parsed(self).value()


def read(items: Iterable[str]) -> list[Override]:
    """The overrides of a command line.

    Raises:
        UserError: not of the form key=value, a value that cannot be parsed, or several values where one is meant.
    """
    return [_read(item) for item in items]


def last(given: Sequence[Override], key: str) -> str | None:
    """The text of the last override of a key, without quotes; None where there is none."""
    texts = [item.text for item in given if item.key == key and not item.removes]
    if not texts:
        return None
    text = texts[-1]
    return str(_parsed(Override(key, text)).value()) if text[:1] in ("'", '"') else text


def quoted(text: str) -> str:
    """A text as a quoted value of Hydra's grammar, in which backslashes count before a quote alone."""
    body = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = len(body) - len(body.rstrip("\\"))
    return f"'{body}{chr(92) * trailing}'"


def _read(item: str) -> Override:
    if "\0" in item:
        raise UserError(f"{item!r} holds a NUL, which no name can have")
    form = _FORM.fullmatch(item)
    if form is None or (form["text"] is None and form["prefix"] != "~"):
        raise UserError(f"'{item}' is not of the form key=value")
    key, text, prefix = form["key"], (form["text"] or "").strip(), form["prefix"] or ""
    if (key in PATHS or key.startswith("teachers.")) and text and text != "null" and text[0] not in "'\"":
        text = quoted(str(expanded(text)))
    if key in LISTS and text and text[0] not in "[$" and text != "null":
        text = f"[{text}]"
    override = Override(key, text, adds=prefix.startswith("+"), removes=prefix == "~")
    if not override.removes:
        parsed = _parsed(override)
        if parsed.is_sweep_override():
            raise UserError(
                f"{key} takes one value here, got {text}; a list is written in brackets: {key}=[{text}]"
            )
    return override


def _parsed(override: Override) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"{override.key}={override.text}")
    except HydraException as error:
        raise UserError(
            f"cannot read {override.key}={override.text}; put the value in quotes: {override.key}=\"'...'\""
        ) from error
