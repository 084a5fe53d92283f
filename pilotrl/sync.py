"""Sends MLflow what it lacks of a run: `python -m pilotrl.sync RUN_FOLDER... [--uri URI]`. Twice changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pilotrl.feed import STATE, Feed, State, absolute
from pilotrl.redact import has_credentials
from pilotrl.types import UserError


def sync(folder: Path, uri: str | None = None) -> int:
    """Makes MLflow equal to a run folder and returns how many bytes of its metrics were new there.

    uri: instead of the one the run was started with. Raises UserError if the folder holds no tracked run or MLflow
    fails."""
    state = State(folder)
    try:
        known = state.read()
    except (OSError, ValueError):
        raise UserError(
            f"folder={folder}: no readable {STATE}; name a run folder whose tracking.uri was not off"
        ) from None
    if uri is None and has_credentials(known["uri"]):
        raise UserError(f"uri={known['uri']}: credentials are not kept in a run folder; give them with --uri")
    feed = Feed(state, absolute(uri or known["uri"]))
    try:
        feed.send()
    except Exception as error:  # of any kind: to the user, all of them are MLflow's
        raise UserError(f"{feed.complaint(error)}; run this again once it works, or name another with --uri") from error
    return int(state.read()["bytes"] - known["bytes"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 and one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pilotrl.sync", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--uri", help="MLflow's tracking uri, where it is not the one of the run")
    given = parser.parse_args(arguments)
    try:
        for folder in given.folders:
            print(f"{folder}: {sync(folder, given.uri)} bytes of metrics were new to MLflow")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
