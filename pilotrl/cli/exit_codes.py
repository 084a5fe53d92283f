"""Exit codes and last lines of a command: 0; 2 after one line about what the user got wrong; 1 after one about what failed; or
what a signal ends it with."""

from __future__ import annotations

import errno
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import NoReturn

from pilotrl.cli.signals import AGAIN, obey
from pilotrl.store.text import printable
from pilotrl.types import RunFailed, UserError, WorldError

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What the system says of a path that cannot be used as it is."""


def refusal(error: Exception) -> str | None:
    """The line about what a user can mend: an input, a world that does not answer, a path. None: the mistake is ours."""
    if isinstance(error, UserError | RunFailed):
        return str(error)
    if isinstance(error, WorldError):
        return str(error).partition("\n")[0]
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return f"{error.filename}: {error.strerror}; choose another path, or get access to this one"
    return None


def refused(error: Exception) -> int:
    """Says the line about what a user can mend, and returns the exit code: 2, or 1 for a run that failed. Raises every other
    error again."""
    if (why := refusal(error)) is None:
        raise error
    print(f"pilotrl: {printable(' '.join(why.splitlines()))}", file=sys.stderr)
    return 1 if isinstance(error, RunFailed) else 2


def in_one_line(parser: ArgumentParser) -> ArgumentParser:
    """The parser, which from now on raises UserError where it would print its usage and end the process."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def ended(
    command: Callable[[Sequence[str]], object], argv: Sequence[str] | None, about: str | None, then: str = AGAIN
) -> int:
    """Runs it on the words given, or on those of the command line; `--help` prints what it is about instead.

    Exit code: 0, 2 after one line about what the user got wrong, or that of a signal, after a line with `then`.
    """
    words = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & {*words}:
        print(about)
        return 0

    def run() -> int:
        try:
            command(words)
        except Exception as error:
            return refused(error)
        return 0

    return obey(run, then)
