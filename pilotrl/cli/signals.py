"""What ends a command from outside: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed. Each ends it the same way."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from pilotrl.store.run_folder import RUN

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER = 0.1
"""Seconds in which several signals are one: `timeout` sends two, to the process and to its group."""
AGAIN = "give the same line again"
"""What to do after most commands that were ended."""


class Ended(BaseException):
    """Raised by a signal in the main thread, wherever that is. It is no Exception, so that nothing retries or reports it."""


def obey(command: Callable[[], int], then: str) -> int:
    """Runs a command, which returns its exit code. Where a signal ends it: one line, and 128 + the signal's number.

    A second signal ends the process at once. A signal that was switched off stays so, as nohup wants it. Handlers are put back.
    An error that is not a signal's is raised as it is.
    then: how to go on, where no run was under way; otherwise it is `resume=` with its folder.
    """
    caught: list[tuple[signal.Signals, str | None]] = []
    ending, owner = False, os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if os.getpid() != owner:  # a fork that has not got handlers of its own yet
            os._exit(128 + number)
        if ending:
            signal.signal(number, signal.SIG_DFL)
            os.kill(owner, number)
        if ending or caught:
            return
        caught.append((signal.Signals(number), os.environ.get(RUN)))
        time.sleep(TOGETHER)
        signal.raise_signal(number)  # what came meanwhile is handled now, and does nothing
        ending = True
        for each in ENDING:  # from now on the system's, which does not wait for Python
            if signal.getsignal(each) is end:
                signal.signal(each, signal.SIG_DFL)
        raise Ended

    with _handled_by(end):
        try:
            code = command()
            if not (caught and code):  # it may have come to its end all the same
                return code
        except BaseException as error:  # whatever a signal's exception has become on its way up
            if isinstance(error, KeyboardInterrupt) and not caught:
                caught.append((signal.SIGINT, os.environ.get(RUN)))
            if not caught:
                raise
        finally:
            ending = True
        number, run = caught[0]
        with contextlib.suppress(OSError):  # the terminal is gone
            print(f"pilotrl: {_what(number)}; {_then(run) if run else then}", file=sys.stderr, flush=True)
        return 128 + number


@contextlib.contextmanager
def _handled_by(end: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals that end a command are handled so inside, and as before afterwards. Other threads than the first get none."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.getsignal(each) for each in ENDING}
    before = {each: handler for each, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for each in before:
            signal.signal(each, end)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _what(number: signal.Signals) -> str:
    return "interrupted" if number == signal.SIGINT else f"ended by {number.name}"


def _then(run: str) -> str:
    return f"resume={run} goes on from its last checkpoint"


def at_once(code: int, always: bool = False) -> int:
    """Ends the process with the exit code of a signal, or always, not waiting for threads that wait for a server or for other
    ranks; returns any other."""
    if always or code - 128 in ENDING:
        with contextlib.suppress(OSError):
            logging.shutdown()
            sys.stdout.flush()
        os._exit(code)
    return code
