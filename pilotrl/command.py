"""How a command ends: with what it did, with what it is for, or with one line about what the user got wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pilotrl.types import UserError


def ended(command: Callable[[Sequence[str]], object], argv: Sequence[str] | None, about: str | None) -> int:
    """Runs it on the words given, or on those of the command line; `--help` prints what it is about instead.

    Exit code: 0, or 2 after one line about what the user got wrong.
    """
    words = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & {*words}:
        print(about)
        return 0
    try:
        command(words)
    except UserError as error:
        print(f"pilotrl: {error}", file=sys.stderr)
        return 2
    return 0
