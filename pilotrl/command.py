"""How a command ends: with what it did, or with one line about what the user got wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pilotrl.types import UserError


def ended(command: Callable[[], None]) -> int:
    """Runs it. Exit code: 0, or 2 after one line about what the user got wrong."""
    try:
        command()
    except UserError as error:
        print(f"pilotrl: {error}", file=sys.stderr)
        return 2
    return 0
