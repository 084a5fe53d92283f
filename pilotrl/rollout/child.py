"""A process of a run that another one of it has started: a rollout worker, or a rank. Its parent alone answers signals."""

from __future__ import annotations

import ctypes
import os
import signal

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG, of Linux: kill -9 of a run ends its other processes too, which frees the lock on its folder."""


def follow(parent: int) -> None:
    """From now on this process ignores signals, and ends when its parent does. parent: its id, of a process that may be gone."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
