"""Sends to MLflow what it lacks of finished runs: `python -m pilotrl.sync FOLDER... [--uri URI]`.

The folder of a sweep stands for its jobs too. Running it again changes nothing."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from pilotrl.cli.exit_codes import in_one_line, refused
from pilotrl.cli.signals import AGAIN, at_once, obey
from pilotrl.store.redact import has_credentials
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.mlflow_client import absolute, is_default, sync_command
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import METRICS, STATE_FILE, SyncState
from pilotrl.types import UserError

SILENCE = 120.0
"""Seconds after which an MLflow that has taken nothing is given up. What it takes is noted in the run folder at each part."""


def sync(folder: Path, uri: str | None = None) -> int:
    """Makes MLflow equal to the folder of a run that has ended; returns how many bytes of its metrics were new there.

    uri: MLflow's tracking URI, instead of the run's own. Raises UserError if the folder holds no tracked run, if the run is
    still going (it sends to MLflow itself), or if MLflow fails."""
    sync_state, run = SyncState(folder), RunFolder(folder)
    if not (folder / STATE_FILE).exists():
        raise UserError(
            f"folder={folder}: has no {STATE_FILE}; name a run folder that was not started with tracking=off"
        )
    known = sync_state.read()
    if run.finished:
        run.check_whole()
    if uri is None and has_credentials(known["uri"]):
        raise UserError(f"uri={known['uri']}: credentials are not kept in a run folder; give them with --uri")
    if uri is None and not is_default(known["uri"], folder):
        why = "an address counts only where it is typed"
        raise UserError(f"uri={known['uri']}: {why}; {sync_command(folder, known['uri'])} sends there what is missing")
    run.check_inside()
    feed = MlflowSync(sync_state, absolute(uri or known["uri"]), near=uri is None)
    with run.lock():
        if known["status"] == "RUNNING":  # but no process holds the lock: the run was killed
            sync_state.end("KILLED", max(sync_state.times().values(), default=time.time()))
        try:
            _send(feed, folder / STATE_FILE)
        except UserError:
            raise
        except Exception as error:  # of any kind: here they all come from MLflow
            raise UserError(
                f"{feed.complaint(error)}; run this again once it works, or name another with --uri"
            ) from None
    there = sync_state.read()
    return int(there[METRICS]["bytes"] - (known[METRICS]["bytes"] if there["run_id"] == known["run_id"] else 0))


def _send(feed: MlflowSync, state: Path) -> None:
    """Sends all, in a thread that is left behind where MLflow takes nothing for long: TimeoutError. Raises what MLflow raises."""
    done = Future[None]()

    def send() -> None:
        try:
            feed.send()
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=send, name="sync", daemon=True).start()
    noted = -1
    while not done.done():
        if noted == (noted := state.stat().st_mtime_ns):
            raise TimeoutError(f"it has taken nothing for {SILENCE:.0f} seconds")
        with suppress(TimeoutError):
            done.exception(SILENCE)
    done.result()


def jobs(sweep: Path) -> list[Path]:
    """Folders of a sweep's jobs; empty for the folder of a run, and for one that cannot be read, which `sync` reports."""
    try:
        return sorted(path.parent for path in sweep.glob(f"*/**/{STATE_FILE}"))
    except OSError:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; or 2, with one line on stderr for each folder that could not be sent, after all others were."""
    parser = in_one_line(argparse.ArgumentParser(prog="python -m pilotrl.sync", description=__doc__))
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--uri", help="MLflow's tracking uri, where it is not the one of the run")
    try:
        given = parser.parse_args(arguments)
        if given.uri is not None and not given.uri.strip():
            raise UserError("--uri: is empty; give MLflow's tracking uri, or leave it out for that of the run")
    except UserError as error:
        return refused(error)
    return obey(lambda: send_all(given.folders, given.uri), AGAIN)


def send_all(places: Sequence[Path], uri: str | None) -> int:
    """Sends each folder, and says so; returns the exit code."""
    code = 0
    for folder in (each for place in places for each in (place, *jobs(place))):
        try:
            new = sync(folder, uri)
            told = f"{new} bytes of metrics were new to MLflow"
            if new < 0:
                told = (
                    f"metrics.jsonl has {-new} bytes less than MLflow was sent: lines were lost, or cut off by a resume"
                )
            print(f"{folder}: {told}")
        except Exception as error:
            code = refused(error)
    return code


if __name__ == "__main__":
    sys.exit(at_once(main()))
