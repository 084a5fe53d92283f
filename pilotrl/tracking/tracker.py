"""Keeps MLflow up to date while a run is alive, without ever making it wait.

MLflow is fed from the run folder, never from the run: see feed.py. What a dead server missed is sent afterwards by
`python -m pilotrl.sync FOLDER`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from pilotrl.tracking.mlflow_client import absolute, sync_command
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import METRICS, STATE_FILE, RunInfo, Status, SyncState
from pilotrl.types import UserError

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at the folder."""
PAUSE = 10.0
"""Seconds before the next look once MLflow has failed; and how long a run that fails waits for the last lines."""
HURRY = 3.0
"""How long a run that is killed does: who sends SIGTERM mostly sends SIGKILL ten seconds later."""
GOODBYE = 120.0
"""How long a run that is finished does, at most. One that MLflow answers needs a few seconds of them."""


class Tracker:
    """Follows a run folder from a thread of its own and keeps MLflow up to date; the run never waits for it.

    folder: the run folder. Where it was tracked before (a resumed run), the same MLflow run is continued.
    uri: MLflow's tracking uri; None or `off` for no tracking, and then nothing is imported, started or written.
    card: what the run is called there, and how much of it is shown.

    As a context manager it ends with FINISHED, or where an exception passes through with FAILED, or KILLED by a signal.
    """

    def __init__(self, folder: Path, uri: str | None, run_info: RunInfo) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._failed = False
        self._thread: threading.Thread | None = None
        if uri is None or uri == "off":
            return
        self._ledger = SyncState(folder)
        self._uri = absolute(uri)
        self._ledger.begin(self._uri, run_info)
        self._feed = MlflowSync(self._ledger, self._uri)
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, status: Status) -> bool:
        """Sends what is left, pictures and summary included, and waits for that, `GOODBYE` seconds at most.

        Returns whether MLflow now has everything; where not, a warning says how to send the rest later."""
        if self._thread is None:
            return True
        if not self._folder.is_dir():  # somebody has removed it, and there is nothing to send
            self._stop.set()
            return False
        try:
            self._ledger.end(status, time.time())
        except (
            OSError,
            UserError,
        ) as error:  # a full disk, mostly, and then that is what the run itself complains about
            why = error.strerror if isinstance(error, OSError) else error
            log.warning("%s: how the run ended cannot be noted (%s)", self._folder / STATE_FILE, why)
        self._stop.set()
        self._thread.join({"FINISHED": GOODBYE, "KILLED": HURRY}.get(status, PAUSE))
        complete = not self._failed and not self._thread.is_alive()
        if not complete:
            log.warning(
                "MLflow has not got all of this run; `%s` sends the rest", sync_command(self._folder, self._uri)
            )
        return complete

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def _follow(self) -> None:
        over = False
        while not over:
            ending, gone = self._stop.wait(PAUSE if self._failed else POLL), self._failed
            self._try()
            over = ending and (gone or not self._failed)  # what fails only now may be back already, and empty

    def _try(self) -> None:
        try:
            self._feed.send()
        except Exception as error:  # whatever happens in MLflow must not end a run
            if not self._failed and self._folder.is_dir():
                log.warning("%s; the run goes on, and its metrics are kept in %s", self._feed.complaint(error), METRICS)
            self._failed = True
        else:
            self._failed = False
