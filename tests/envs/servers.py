"""Servers that tests play: a process on a port of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], port: int, within: float, **more: Any) -> Iterator[str]:
    """The address of a server, once it answers, `within` seconds; it is killed in the end. more: of `subprocess.Popen`."""
    with subprocess.Popen([*command], stderr=subprocess.DEVNULL, **more) as process:
        try:
            end = time.monotonic() + within
            while True:
                assert process.poll() is None
                assert time.monotonic() < end
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
