"""Curricula: what training plays as it goes on, beside the schedule of tasks.

    most = max_turns([5, 10], steps=40, step=20)     # a growing horizon (ScalingInter of AgentGym-RL, arXiv 2509.08755)
    pools = Pools(easy=0.1, hard=0.2)                # pools of tasks by pass rate
    names = pools.draw(tasks, seed=0, step=20, count=8)
    pools.note(episodes)

Both are functions of seed and step, and of what the episodes before that step came to, which a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import fmean

from pilotrl.types import Episode


def max_turns(turns: Sequence[int], steps: int, step: int) -> int | None:
    """Most turns of an episode at a step: training has a part for each number, and a last one without, all equally long."""
    part = step * (len(turns) + 1) // steps
    return turns[part] if part < len(turns) else None


@dataclass
class Pools:
    """Tasks are easy where all episodes of their last group solved them, hard where none did, and normal otherwise."""

    easy: float
    """Share of a step's tasks that are easy, ..."""
    hard: float
    """... and that are hard, as long as there are as many; the others are normal, those first that were never played."""
    rates: dict[str, float] = field(default_factory=dict)
    """By task, the share of its last group that solved it."""

    def draw(self, tasks: Sequence[str], seed: int, step: int, count: int) -> list[str]:
        """The tasks of a step, in a random order within a pool that (seed, step) decides."""
        from numpy.random import default_rng

        order = [tasks[int(index)] for index in default_rng((seed, step, 3)).permutation(len(tasks))]
        easy, hard = ([task for task in order if self.rates.get(task) == rate] for rate in (1.0, 0.0))
        normal = [task for task in order if self.rates.get(task) not in (0.0, 1.0)]
        chosen = easy[: round(self.easy * count)] + hard[: round(self.hard * count)]
        chosen += sorted(normal, key=self.rates.__contains__)[: max(0, count - len(chosen))]
        rest = [task for task in order if task not in set(chosen)] if count > len(chosen) else []
        return [*islice(cycle(chosen + rest), count)]

    def note(self, episodes: Sequence[Episode]) -> None:
        """What a step's episodes came to; broken ones do not count."""
        solved: dict[str, list[float]] = {}
        for episode in episodes:
            if episode.outcome != "broken":
                solved.setdefault(episode.task.id, []).append(float(episode.outcome == "solved"))
        self.rates |= {task: fmean(each) for task, each in solved.items()}

    def sizes(self) -> dict[str, float]:
        """To log: how many tasks that were played are in each pool."""
        easy, hard = (sum(rate == of for rate in self.rates.values()) for of in (1.0, 0.0))
        return {"pools/easy": easy, "pools/normal": len(self.rates) - easy - hard, "pools/hard": hard}
