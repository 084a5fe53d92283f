"""Rollout workers: episodes run in several forked processes, each with a share of the groups and one thread.

With a small model the threads of one process mostly wait for each other; processes do not. What is sampled does not depend on
the number of workers, except for floating-point rounding, which depends on what is batched together.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from pilotrl.engine import Engine, ForkableEngine
from pilotrl.envs import Env
from pilotrl.rollout import stopwatch
from pilotrl.rollout.agent import EpisodeSpec, Key
from pilotrl.rollout.child import follow
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.rollout.stopwatch import Phase
from pilotrl.types import Episode

FEWEST = 8
"""Episodes a worker, at least: for fewer, starting a process does not pay."""


def run_episodes_in_processes(
    specs: Sequence[EpisodeSpec],
    make_env: Callable[[], Env],
    engine: Engine,
    key: Key,
    on_done: Callable[[Episode], None],
    workers: int,
) -> list[Episode]:
    """Like `run_episodes`, in at most `workers` processes; with one, in this process. Errors of workers are raised here."""
    workers = min(workers, len(specs) // FEWEST)
    if workers < 2:
        return run_episodes(specs, make_env, engine, key, on_done)
    groups = {group: i % workers for i, group in enumerate(dict.fromkeys(spec.group for spec in specs))}
    shares = [[spec for spec in specs if groups[spec.group] == i] for i in range(workers)]  # groups share prefixes
    stopwatch.phase("sync")(engine.take)(specs[0].agent.version)  # forks share what is made of the weights here
    with stopwatch.phase("wait", watched=False):
        started = [_start(share, make_env, engine, key) for share in shares]
        done: dict[tuple[int, int], Episode] = {}
        laps: list[dict[Phase, float]] = []
        try:
            for message in _receive(dict(started)):
                if isinstance(message, Episode):
                    done[message.group, message.sample] = message
                    on_done(message)
                else:
                    laps.append(message)
        finally:
            for _, process in started:
                process.kill()
                process.join()
    stopwatch.divide(laps)
    return [done[spec.group, spec.sample] for spec in specs]


def _start(
    specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key
) -> tuple[Connection, BaseProcess]:
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, os.getpid(), specs, make_env, engine, key), daemon=True)
    with (
        warnings.catch_warnings()
    ):  # about other threads: they draw the display or talk to MLflow; workers need no lock of theirs
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    return receiver, process


def _receive(pipes: dict[Connection, BaseProcess]) -> Iterator[Episode | dict[Phase, float]]:
    """Episodes as they end, and of each process, when it is done, the seconds of its phases."""
    while pipes:
        for pipe in wait(list(pipes)):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                process = pipes.pop(pipe)
                process.join()
                if process.exitcode:
                    raise RuntimeError(f"a rollout worker ended with exit code {process.exitcode}") from None
                continue
            if isinstance(message, BaseException):
                raise message
            yield message


def _work(
    sender: Connection, parent: int, specs: Sequence[EpisodeSpec], make_env: Callable[[], Env], engine: Engine, key: Key
) -> None:
    """What a worker runs."""
    deadline, _ = stopwatch.stopwatch.deadline, stopwatch.lap()
    follow(parent)
    torch.set_num_threads(1)
    if isinstance(engine, ForkableEngine):
        engine.settle()
    try:
        with stopwatch.limited(deadline):
            run_episodes(specs, make_env, engine, key, sender.send)
        sender.send(stopwatch.lap()[1])
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send(error)
