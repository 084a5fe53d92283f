"""What steps side by side save: `python -m tests.rollout.speed [SECONDS ...]`, which a step takes; by default 0, 0.005 and 0.2.

64 episodes of eight turns in a world that is not `concurrent`, and in one that is, in one run; the model is a script that
replies at once. Steps all take as long, or as long on average (exponentially distributed), where an episode waits at each turn
for the slowest of 64. Beside them the sum of the reset and the steps of the slowest episode. Where a step takes no time, seconds
are the processor's, not the clock's, so that a busy machine measures the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from pilotrl.engine.openai import Transcript
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import Info
from pilotrl.envs.toy import ToyEnv
from pilotrl.rollout.agent import EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.types import Task
from tests.conftest import adaplan

EPISODES, TURNS = 64, 8
Naps = dict[str, list[float]]
"""How long the reset and the steps of a task take."""


class Waits(ToyEnv):
    def __init__(self, naps: Naps, concurrent: bool) -> None:
        super().__init__(split="train", max_turns=TURNS, seed=0)
        self.naps, self.concurrent = naps, concurrent

    def reset(self, **given: Any) -> tuple[str, Info]:
        self.task, begun = given["options"]["task"], super().reset(**given)
        self.nap()
        return begun

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        answer = super().step(action)
        self.nap()
        return answer

    def nap(self) -> None:
        if seconds := self.naps[self.task][self.turn]:
            time.sleep(seconds)


def seconds(naps: Naps, concurrent: bool) -> float:
    chat = Transcript()
    spec = adaplan(chat)  # type: ignore[arg-type]
    specs = [EpisodeSpec(Task("toy", name, "train", 0), i, 0, spec) for i, name in enumerate(naps)]
    policy = ScriptedPolicy(chat, lambda prompt: "Action: wait")  # type: ignore[arg-type]
    clock = time.perf_counter if any(map(any, naps.values())) else time.process_time
    begin = clock()
    episodes = run_episodes(specs, lambda: Waits(naps, concurrent), policy, ("speed",))
    took = clock() - begin
    assert [len(episode.turns) for episode in episodes] == [TURNS] * EPISODES
    return took


def main(means: list[float]) -> None:
    names = ToyEnv(split="train", max_turns=TURNS, seed=0).tasks[:EPISODES]
    print(f"{'a step, s':>24} {'one by one, s':>14} {'side by side, s':>16} {'slowest alone, s':>17}")
    for mean in means:
        draws: dict[str, Callable[[Random], float]] = {
            "": lambda draw, mean=mean: mean,  # type: ignore[misc]
            "on average": lambda draw, mean=mean: draw.expovariate(1 / mean),  # type: ignore[misc]
        }
        for kind, nap in draws.items() if mean else [("", draws[""])]:
            naps = {name: [nap(draw) for _ in range(TURNS + 1)] for name in names for draw in [Random(name)]}
            one, many = (
                min(seconds(naps, concurrent) for _ in range(1 if mean else 20)) for concurrent in (False, True)
            )
            print(f"{mean:10} {kind:13} {one:14.3f} {many:16.3f} {max(map(sum, naps.values())):17.3f}", flush=True)


if __name__ == "__main__":
    main([*map(float, sys.argv[1:])] or [0.0, 0.005, 0.2])
