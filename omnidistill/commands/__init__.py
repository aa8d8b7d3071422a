"""The commands, one small file a family. At import they need the standard library alone, so that help is quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omnidistill.errors import UserError, unknown


@dataclass(frozen=True, slots=True)
class Arguments:
    """A command line, sorted: what stands for itself, `key=value`, and flags."""

    positional: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    json: bool = False

    def one(self, what: str, example: str) -> str:
        """The only positional argument."""
        if len(self.positional) != 1:
            got = ", ".join(self.positional) or "none"
            raise UserError(f"give one {what}, for example `{example}`; got {got}")
        return self.positional[0]

    def pick(self, known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """The values of plain keys, all of which must be known, and the overrides of keys with a dot."""
        plain: dict[str, str] = {}
        dotted: list[str] = []
        for item in self.overrides:
            key, _, value = item.partition("=")
            if "." in key:
                dotted.append(item)
            elif key in known:
                plain[key] = value
            else:
                raise unknown("key", key, known)
        return plain, dotted


@dataclass(frozen=True, slots=True)
class Command:
    """A command: how it is called, what it does, and the function that does it.

    Attributes:
        usage: what stands behind the name.
        does: one line, for the page of all commands.
        keys: the keys worth knowing, with their meaning.
        example: one command line that works.
        flags: flags beside --help and --debug.
        bare: takes positional arguments.
        run: does it; returns an exit status where 0 would not say what happened.
    """

    name: str
    usage: str
    does: str
    run: Callable[[Arguments], int | None]
    example: str
    keys: dict[str, str] = field(default_factory=dict)
    more: str = ""
    flags: tuple[str, ...] = ()
    bare: bool = False


def commands() -> dict[str, Command]:
    """All commands by name, in the order in which a newcomer needs them."""
    from omnidistill.commands import check, claims, data, export, lists, results, runs, sweep

    listed = (
        *runs.COMMANDS,
        *sweep.COMMANDS,
        *results.COMMANDS,
        *export.COMMANDS,
        *lists.COMMANDS,
        *claims.COMMANDS,
        *data.COMMANDS,
        *check.COMMANDS,
    )
    return {command.name: command for command in listed}
