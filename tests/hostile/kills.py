"""Kills commands at chosen moments. Run as a script it is a server: it loads the libraries once, and each command that it is
asked for runs in a fork, as `python -m` would run it.

A kill is `{"signal": 15}` and its moment: `"after": 1.5`, in seconds; or `"at": "module:function"`, the `"call"`-th call of that
function whose arguments match `"match"` (or, `"when": "after"`, its return), where the command signals itself.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PATIENCE = 300.0
"""Seconds after which a command counts as hung."""
LOADED = (
    "pilotrl.__main__",
    "pilotrl.runs.progressive",
    "pilotrl.evaluate",
    "pilotrl.plans",
    "pilotrl.report.__main__",
)
Kill = Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: negative for a signal, as subprocess has it; left: processes that outlived it."""

    code: int
    said: str
    left: list[str]
    seconds: float


class Server:
    """A process that runs commands in forks of itself, one at a time."""

    def __init__(self, place: Path, repository: Path) -> None:
        self.place = place
        environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=place,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, words: Sequence[str], kill: Kill | None = None, log: Path | None = None) -> Ended:
        """Run `python -m COMMAND WORDS` to its end, however it comes. log: gets the name of each file that is replaced."""
        assert self.process.stdin
        assert self.process.stdout
        order = {"command": command, "words": [*words], "kill": kill, "log": log and str(log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def watch(kill: Kill) -> None:
    """From now on the moment of a kill is looked out for."""
    module, _, name = kill["at"].partition(":")
    owner = import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    inner, left = getattr(owner, last), kill.get("call", 1)

    def watched(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= bool(re.search(kill.get("match", ""), " ".join(map(str, given))))
        now = left == 0
        left -= now
        if now and kill.get("when") != "after":
            os.kill(os.getpid(), kill["signal"])
        result = inner(*given, **named)
        if now and kill.get("when") == "after":
            os.kill(os.getpid(), kill["signal"])
        return result

    setattr(owner, last, watched)


def note_replaced(log: str) -> None:
    inner = os.replace

    def noted(source: Any, target: Any, **given: Any) -> None:
        inner(source, target, **given)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{target}\n")

    os.replace = noted  # type: ignore[assignment]


def of_session(session: int) -> list[str]:
    """Live processes of a session: what they are called."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if stat[0] not in "ZX" and int(stat[3]) == session:
                    found.append(f"{entry.name} " + (entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def become(order: Mapping[str, Any], out: Path) -> None:
    """In a fork: be the command. Returns as the command does, with SystemExit mostly."""
    os.setsid()
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        os.dup2(os.open(out if number else os.devnull, flags | os.O_APPEND * bool(number)), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off, as nohup does ...
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ... this one
    kill = order["kill"]
    if order["log"]:
        note_replaced(order["log"])
    if kill and "at" in kill:
        watch(kill)
    sys.argv = ["pilotrl", *order["words"]]
    warnings.filterwarnings("ignore", ".* found in sys.modules after import of package", RuntimeWarning)
    runpy.run_module(order["command"], run_name="__main__", alter_sys=True)


def attend(pid: int, kill: Kill | None) -> tuple[int, float]:
    """Wait for the end of a fork, and send the signal when it is time. Returns its exit code, and seconds."""
    begun = time.monotonic()
    due = kill["after"] if kill and "after" in kill else None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        spent = time.monotonic() - begun
        if ended:
            return os.waitstatus_to_exitcode(status), spent
        if kill and due is not None and spent > due:
            os.kill(pid, kill["signal"])
            due = None
        if spent > PATIENCE:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)


def serve() -> None:
    """Orders come as lines on stdin, and ends go as lines to stdout."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    for name in LOADED:
        import_module(name)
    for number, line in enumerate(sys.stdin):
        order, out = json.loads(line), Path(f"said-{number}.txt").absolute()
        out.touch()
        if not (pid := os.fork()):
            become(order, out)
            return
        code, seconds = attend(pid, order["kill"])
        patience = time.monotonic() + 10
        while (left := of_session(pid)) and time.monotonic() < patience:
            time.sleep(0.02)
        for process in left:
            os.kill(int(process.split()[0]), signal.SIGKILL)
        print(json.dumps({"code": code, "said": out.read_text(), "left": left, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    serve()
