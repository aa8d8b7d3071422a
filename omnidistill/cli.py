"""`omnidistill COMMAND [POSITIONAL] key=value ...`: parses, dispatches, and turns what happened into an exit status.

0 done; 1 the run failed; 2 the input is wrong; 130 interrupted. A mistake of the user is one line without traceback.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence

from omnidistill import __version__
from omnidistill.commands import Arguments, Command, commands
from omnidistill.commands.streams import tolerant
from omnidistill.errors import RunError, SaidElsewhere, UserError, unknown

# Threads that wait by spinning for long stall each other when another process wants the cores too: two trainings side
# by side ran many times slower. GNU OpenMP reads this once, when torch is first imported; a value of the user's stays.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_OVERRIDE = re.compile(r"[~+]*[A-Za-z_][\w.@:-]*=.*|~[A-Za-z_][\w.]*", re.DOTALL)

PAGE = """omnidistill {version}: slow generative teachers in, one-to-eight-step students out

usage: omnidistill COMMAND [ARGUMENT] key=value ...

{commands}

try:
  omnidistill demo out=runs/demo
  omnidistill distill task=exact/gaussian_mixture recipe=dmd2 out=runs/first
  omnidistill sample runs/first steps=1 count=16 out=made

  omnidistill COMMAND --help   the keys of a command and an example
  --config-dir DIR             adds your own task/, recipe/ and tuning/ files (the same as configs=DIR)
  --debug                      shows the traceback of an error
  --version                    prints the version

exit status: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted (the checkpoint is kept)"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    with tolerant():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    debug = "--debug" in words
    try:
        status = _run([word for word in words if word != "--debug"])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stop:
        if debug:
            raise
        said = str(stop)
        return _say(f"interrupted{f': {said}; resume=true goes on from there' if said else ''}", 130)
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    from omnidistill.data.files import fault

    words = " ".join(str(error).split())
    if isinstance(error, UserError):
        if isinstance(error, SaidElsewhere):
            return 2
        return _say(f"error: {words}", 2)
    if place := fault(error):
        return _say(f"error: {place}; choose another out or make room", 2)
    hint = "run again with --debug for the traceback"
    if isinstance(error, RunError):
        return _say(f"error: {words} ({hint})", 1)
    return _say(f"error: {type(error).__name__}: {words} ({hint})", 1)


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):  # a full disk has been said, or is what is said here
        sys.stdout.flush()
    print(line, file=sys.stderr)
    return status


def _run(words: list[str]) -> int:
    known = commands()
    if not words or words[0] in ("--help", "-h", "help"):
        print(page(known))
        return 0
    if words[0] in ("--version", "-V"):
        print(f"omnidistill {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in known:
        what = "flag" if name.startswith("-") else "command"
        raise unknown(what, name, ["--help", "--version", "--debug"] if what == "flag" else known)
    command = known[name]
    if "--help" in rest or "-h" in rest:
        print(command_page(command))
        return 0
    return command.run(parse(command, rest)) or 0


def parse(command: Command, words: Sequence[str]) -> Arguments:
    """The words behind a command, sorted.

    Raises:
        UserError: a flag that the command does not have, or a word where it takes key=value alone.
    """
    positional: list[str] = []
    overrides: list[str] = []
    json = False
    if nul := next((word for word in words if "\0" in word), None):
        raise UserError(f"{nul!r} holds a NUL, which no name can have")
    waiting = iter(words)
    for word in waiting:
        if word == "--config-dir" or word.startswith("--config-dir="):
            folder = word.partition("=")[2] or next(waiting, "")
            if not folder:
                raise UserError("--config-dir needs a folder")
            overrides.append(f"configs={folder}")
        elif word == "--json" and "--json" in command.flags:
            json = True
        elif word.startswith("-"):
            raise unknown(
                f"flag of {command.name}", word, ["--help", "--debug", "--config-dir", *command.flags]
            )
        elif _OVERRIDE.fullmatch(word) and not (command.bare and not positional and _is_folder(word)):
            overrides.append(word)
        elif command.bare:
            positional.append(word)
        else:
            raise UserError(f"{command.name} takes key=value, got '{word}'; usage: {_usage(command)}")
    return Arguments(tuple(positional), tuple(overrides), json)


def _is_folder(word: str) -> bool:
    """Whether a word with `=` in it is the name of a folder that is there."""
    try:
        return os.path.isdir(word)
    except ValueError:
        return False


def page(known: dict[str, Command]) -> str:
    """The page of all commands."""
    width = max(map(len, known))
    listed = "\n".join(f"  {name:{width}}  {command.does}" for name, command in known.items())
    return PAGE.format(version=__version__, commands=f"commands:\n{listed}")


def command_page(command: Command) -> str:
    """The page of one command."""
    parts = [f"usage: {_usage(command)}", f"{command.does[0].upper()}{command.does[1:]}."]
    if command.more:
        parts.append(command.more)
    if command.keys:
        width = max(map(len, command.keys))
        parts.append("keys:\n" + "\n".join(f"  {key:{width}}  {what}" for key, what in command.keys.items()))
    parts.append(f"example:\n  {command.example}")
    return "\n\n".join(parts)


def _usage(command: Command) -> str:
    return f"omnidistill {command.name} {command.usage}"
