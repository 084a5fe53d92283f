"""Keeps MLflow up to date while a run is alive, without ever making it wait.

MLflow is fed from the run folder, never from the run: see feed.py. What a dead server missed is sent afterwards by
`python -m pilotrl.sync FOLDER`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pilotrl.feed import METRICS, Feed, State, Status, absolute
from pilotrl.redact import hide_credentials, without_secrets

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at the folder."""
PAUSE = 60.0
"""Seconds before the next look once MLflow has failed."""
GOODBYE = 30.0
"""Seconds the end of a run waits for the last lines to arrive."""


class Tracker:
    """Follows a run folder from a thread of its own and keeps MLflow up to date; the run never waits for it.

    folder: the run folder. Where it was tracked before (a resumed run), the same MLflow run is continued.
    uri: MLflow's tracking uri; None or `off` for no tracking, and then nothing is imported, started or written.
    params: the resolved configuration, nested as it is; secrets in it are dropped before anything is kept or sent.
    tags: shown by MLflow beside the run.

    As a context manager it ends with FINISHED, or FAILED where an exception passes through.
    """

    def __init__(
        self,
        folder: Path,
        uri: str | None,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._failed: float | None = None
        self._thread: threading.Thread | None = None
        if uri is None or uri == "off":
            return
        wanted = {"experiment": experiment, "run_name": run_name, "params": without_secrets(params), "tags": dict(tags)}
        self._state = State(folder)
        self._state.update(uri=hide_credentials(absolute(uri)), status="RUNNING", **wanted)
        self._feed = Feed(self._state, absolute(uri))
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def finish(self, status: Status) -> bool:
        """Sends what is left, pictures and summary included, and waits `GOODBYE` seconds for that at most.

        Returns whether MLflow now has everything; where not, a warning says how to send the rest later."""
        if self._thread is None:
            return True
        self._state.update(status=status)
        self._stop.set()
        self._thread.join(GOODBYE)
        complete = self._failed is None and not self._thread.is_alive()
        if not complete:
            log.warning("MLflow has not got all of this run; `python -m pilotrl.sync %s` sends the rest", self._folder)
        return complete

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("FINISHED" if kind is None else "FAILED")

    def _follow(self) -> None:
        ending = False
        while not ending:
            ending = self._stop.wait(POLL if self._failed is None else PAUSE)
            if ending and self._failed is not None and time.monotonic() - self._failed < PAUSE:
                return  # it was down a moment ago: the end of a run does not wait for that again
            self._try()

    def _try(self) -> None:
        try:
            self._feed.send()
        except Exception as error:  # whatever happens in MLflow must not end a run
            if self._failed is None:
                log.warning("%s; the run goes on, and its metrics are kept in %s", self._feed.complaint(error), METRICS)
            self._failed = time.monotonic()
        else:
            self._failed = None
