"""Episodes played by several processes: forks of this one, each with a share of the tickets and one thread.

A small model makes the threads of one process wait for each other most of the time; processes do not. What is sampled does not
depend on who plays it, but for the rounding of sums, which depends on what is computed side by side.
"""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from pilotrl.engine import Engine, ForkableEngine
from pilotrl.envs import Env
from pilotrl.rollout.agent import EpisodeSpec, Key
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.types import Episode

FEWEST = 8
"""Tickets that are worth a process."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG, of Linux: whoever kills a run with -9 kills these too, and the lock on its folder is free."""


def run_episodes_in_processes(
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: Callable[[Episode], None],
    workers: int,
) -> list[Episode]:
    """As `rollout.play`, by up to so many processes; with one, that very function. What a process raises is raised here."""
    workers = min(workers, len(specs) // FEWEST)
    if workers < 2:
        return run_episodes(specs, make_env, engine, key, on_done)
    groups = {group: i % workers for i, group in enumerate(dict.fromkeys(spec.group for spec in specs))}
    shares = [[spec for spec in specs if groups[spec.group] == i] for i in range(workers)]  # who begins alike together
    begun = [_begin(share, make_env, engine, key) for share in shares]
    done: dict[tuple[int, int], Episode] = {}
    try:
        for episode in _heard(dict(begun)):
            done[episode.group, episode.sample] = episode
            on_done(episode)
    finally:
        for _, process in begun:
            process.kill()
            process.join()
    return [done[spec.group, spec.sample] for spec in specs]


def _begin(
    specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key
) -> tuple[Connection, BaseProcess]:
    context = get_context("fork")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(tell, os.getpid(), specs, make_env, engine, key), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # other threads draw and send; no fork takes a lock of theirs
        process.start()
    tell.close()
    return hear, process


def _heard(pipes: dict[Connection, BaseProcess]) -> Iterator[Episode]:
    """Episodes as they end, until every process is done."""
    while pipes:
        for pipe in wait(list(pipes)):
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError:
                process = pipes.pop(pipe)
                process.join()
                if process.exitcode:
                    raise RuntimeError(f"a process that played episodes ended with {process.exitcode}") from None
                continue
            if isinstance(said, BaseException):
                raise said
            yield said


def _work(
    tell: Connection, parent: int, specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key
) -> None:
    """A process's life. It leaves signals to the one that began it, and ends with it."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    if isinstance(engine, ForkableEngine):
        engine.settle()
    try:
        run_episodes(specs, make_env, engine, key, tell.send)
    except Exception as error:
        error.add_note(traceback.format_exc())
        tell.send(error)
