"""Signals end a command with one line and 128 + their number, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotrl import PACKAGE
from pilotrl.cli.signals import ENDING, Ended, obey
from pilotrl.store.run_folder import RUN, RunFolder


def hit(number: signal.Signals) -> int:
    os.kill(os.getpid(), number)
    time.sleep(60)
    return 0


@pytest.fixture(autouse=True)
def _default() -> None:
    """What a shell, or nohup, may have switched off is on, also in processes that are started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_command_with_a_line(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    assert obey(lambda: hit(number), "start anew") == 128 + number
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert capsys.readouterr().err == f"pilotrl: {said}; start anew\n"
    assert [signal.getsignal(each) for each in ENDING] == before


def test_the_folder_of_a_run_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        monkeypatch.setenv(RUN, "/runs/one")
        try:
            return hit(signal.SIGTERM)
        finally:
            monkeypatch.delenv(RUN)

    assert obey(run, "start anew") == 143
    assert capsys.readouterr().err == "pilotrl: ended by SIGTERM; resume=/runs/one goes on from its last checkpoint\n"


def test_what_a_signals_exception_becomes_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal that is gone fails whoever writes to it while the stack unwinds."""

    def lost() -> int:
        try:
            return hit(signal.SIGHUP)
        finally:
            raise OSError(5, "Input/output error")

    def excused() -> int:
        try:
            return hit(signal.SIGTERM)
        except Ended:
            return 2

    assert [obey(lost, "x"), obey(excused, "x")] == [129, 143]
    assert "ended by SIGHUP" in capsys.readouterr().err


def test_what_has_ended_well_all_the_same_has_ended_well() -> None:
    def done() -> int:
        try:
            return hit(signal.SIGTERM)
        except Ended:
            return 0

    assert obey(done, "x") == 0


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        obey(lambda: 1 // 0, "x")
    with pytest.raises(SystemExit, match="2"):
        obey(lambda: sys.exit(2), "x")


def test_what_is_switched_off_stays_off() -> None:
    """As nohup does it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert obey(lambda: os.kill(os.getpid(), signal.SIGHUP) or 7, "x") == 7
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_runs_commands_too() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(obey(lambda: 3, "x")))
    thread.start()
    thread.join()
    assert codes == [3]


SLOW = """
import os, signal, subprocess, sys, time
from pilotrl.cli.signals import at_once, obey

signal.signal(signal.SIGINT, signal.default_int_handler)

def slow():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(60)

def short():
    print("begun", flush=True)
    time.sleep(60)

def forked():
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

def threaded():
    from threading import Thread
    Thread(target=time.sleep, args=[60]).start()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

sys.exit(at_once(obey(globals()[sys.argv[1]], "x")))
"""


@pytest.fixture
def started() -> Callable[[str], subprocess.Popen[str]]:
    def start(what: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        command = [sys.executable, "-c", SLOW, what]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path("/")
        )

    return start


def test_a_second_signal_ends_at_once(started: Callable[[str], subprocess.Popen[str]]) -> None:
    with started("slow") as process:
        assert process.stdout
        for said in ("begun\n", "ending\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(50) == -signal.SIGINT


def test_two_signals_together_are_one(started: Callable[[str], subprocess.Popen[str]]) -> None:
    """As `timeout` sends them, to the process and to its group."""
    with started("short") as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(50) == 129
        assert process.communicate() == ("", "pilotrl: ended by SIGHUP; x\n")


def test_a_fork_does_not_run_what_its_parent_was_doing(started: Callable[[str], subprocess.Popen[str]]) -> None:
    with started("forked") as process:
        assert (process.wait(50), process.communicate()) == (143, ("", ""))


def test_threads_are_not_waited_for(started: Callable[[str], subprocess.Popen[str]]) -> None:
    """They wait for a server, maybe for a minute."""
    with started("threaded") as process:
        assert process.wait(50) == 143


@pytest.mark.parametrize("rank", [True, False])
def test_another_rank_ends_without_the_end_of_its_interpreter(tmp_path: Path, rank: bool) -> None:
    """Which may fail while threads of the process group are still there; Lightning then kills the first rank as well."""
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}"}
    command = [sys.executable, "-m", "pilotrl", "no=1"]
    with RunFolder(tmp_path).lock():
        more = {RUN: str(tmp_path)} if rank else {}
        done = subprocess.run(command, env=environment | more, capture_output=True, check=False)
    assert b"pilotrl: " in done.stderr
    assert done.returncode == (2 if rank else -signal.SIGABRT)
