"""The Lightning data source: play, grade, score, collate, yield. One batch is one step, and the same on every rank.

It has a length, because Lightning prefetches from a source without one: batch k + 1 would be played before update k, silently
off-policy. The training step asserts the version of the weights all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import stdev
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pilotrl.engine import Engine
from pilotrl.envs import Env, home
from pilotrl.rewards.judge import Judge, RemoteJudge
from pilotrl.rewards.judge.grading import begin, grade
from pilotrl.rewards.terms import Term, score
from pilotrl.rollout import stopwatch
from pilotrl.rollout.agent import AgentSpec, Asked, EpisodeSpec, RunEpisodes
from pilotrl.rollout.curriculum import Pools
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.rollout.task_schedule import schedule, spare
from pilotrl.training import ranks
from pilotrl.training.ahead import Ahead
from pilotrl.training.algorithms.credit.group import FLOOR
from pilotrl.training.batch import Batch, collate
from pilotrl.types import Episode, Role, Task, UserError

if TYPE_CHECKING:
    from pilotrl.endpoint import Endpoint


@dataclass(frozen=True)
class Scoring:
    """How episodes become rewards."""

    judges: Mapping[str, Judge]
    """Who grades, by the name of the environment."""
    terms: Sequence[str]
    weights: Mapping[str, float]
    overlong_buffer: float
    overlong_penalty: float
    trains: Mapping[Role, int]
    """The roles that learn, and how many tokens a reply of each may have."""
    unselected: bool
    """Candidate plans that were not selected are graded, and learned from, too."""

    own: Mapping[str, Term] = field(default_factory=dict)
    """Reward terms beside ours, by name."""

    def __call__(self, episodes: Sequence[Episode]) -> None:
        """Grade every turn against the current step, and plans, then fill in terms and rewards."""
        for env, judge in self.judges.items():
            grade(judge, [episode for episode in episodes if episode.task.env == env], self.unselected)
        for episode in episodes:
            score(episode, self.terms, self.weights, self.overlong_buffer, self.overlong_penalty, self.trains, self.own)

    def begin(self, episode: Episode) -> None:
        """An episode is over, others are not: a judge that takes its time may start on it."""
        if judge := self.judges.get(episode.task.env):
            begin(judge, episode, self.unselected)

    def endpoints(self) -> set[Endpoint]:
        """Whom the judges ask."""
        return {
            endpoint
            for judge in self.judges.values()
            if isinstance(judge, RemoteJudge)
            for endpoint in judge.endpoints()
        }


def check_starts(episodes: Sequence[Episode]) -> None:
    """Raises UserError where episodes of a group did not begin alike: one may be better only because its task was easier."""
    starts: dict[int, str] = {}
    for episode in episodes:
        if episode.outcome != "broken" and starts.setdefault(episode.group, episode.observation) != episode.observation:
            raise UserError(f"env={episode.task.env}: task {episode.task.id} starts in several ways; reset by the task")


def alike(episodes: Sequence[Episode]) -> list[int]:
    """Numbers of the groups whose rewards do not differ, and of those with fewer than two."""
    known: dict[int, list[float]] = {}
    for episode in episodes:
        known.setdefault(episode.group, []).extend([] if episode.reward is None else [episode.reward])
    return [group for group, rewards in known.items() if len(rewards) < 2 or stdev(rewards) <= FLOOR]


class Rollouts(IterableDataset[Batch]):
    """Batches of played and scored episodes, one a step, from the step that the weights have come to."""

    def __init__(
        self,
        *,
        env: str,
        split: str,
        make_env: Callable[[], Env],
        engine: Engine,
        agent_specs: Sequence[AgentSpec],
        scoring: Scoring,
        trains: Sequence[str],
        steps: int,
        tasks: int,
        group_size: int,
        seed: int,
        shuffle_rewards: bool,
        version: Callable[[], int],
        on_episode: Callable[[int, int, int], None],
        observation_weight: float = 0.0,
        finished: Callable[[], bool] = lambda: False,
        first: int | None = None,
        resample: int = 0,
        lag: int = 0,
        max_turns: Callable[[int], int | None] = lambda step: None,
        pools: Pools | None = None,
        ahead: Ahead | None = None,
        run_episodes: RunEpisodes = run_episodes,
    ) -> None:
        self.env, self.split, self.make_env, self.engine = env, split, make_env, engine
        self.agent_specs, self.scoring, self.trains = agent_specs, scoring, trains
        self.steps, self.tasks, self.group_size, self.seed = steps, tasks, group_size, seed
        self.shuffle_rewards, self.version, self.on_episode = shuffle_rewards, version, on_episode
        self.observation_weight, self.finished, self.run_episodes = observation_weight, finished, run_episodes
        self.resample, self.lag, self.max_turns, self.pools, self.ahead = resample, lag, max_turns, pools, ahead
        self.names, self.draw = make_env().tasks[:first], pools.draw if pools else schedule

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.version(), self.steps):
            if self.finished():
                return
            batch = self.batch(step)
            if self.ahead and step + 1 < self.steps:
                self.begin(step + 1)
            yield batch

    def batch(self, step: int) -> Batch:
        """Play one step's groups and turn them into tensors."""
        version = max(0, self.version() - self.lag)
        names = dict(enumerate(self.draw(self.names, self.seed, step, self.tasks)))
        episodes = self.play(names, step, version)
        discarded = self.replace_alike(episodes, names, step, version) if self.resample else []
        if self.pools:
            self.pools.note([*discarded, *episodes])
        weight, unselected = self.observation_weight, self.scoring.unselected
        batch = stopwatch.phase("train")(collate)(episodes, self.trains, step, version, self.tasks, weight, unselected)
        batch.discarded, batch.ranks = discarded, ranks.count()
        if self.shuffle_rewards:
            shuffle_rewards(batch, self.seed)
        return batch

    def begin(self, step: int) -> None:
        """Have a step played meanwhile by the present weights, which with a lag are those that play it."""
        assert self.ahead
        version = self.version()
        names = dict(enumerate(self.draw(self.names, self.seed, step, self.tasks)))
        stopwatch.phase("sync")(self.engine.take)(version)
        self.ahead.begin(self.asked(names, step, version))

    def replace_alike(self, episodes: list[Episode], names: dict[int, str], step: int, version: int) -> list[Episode]:
        """In place of groups whose rewards do not differ play groups on other tasks, up to `resample` times: n + tasks in place
        of number n. Returns the episodes that were taken out."""
        discarded: list[Episode] = []
        for _ in range(self.resample):
            numbers = alike(episodes)
            others = spare(self.names, self.seed, step, [*names.values()], len(numbers))
            names |= (fresh := {n + self.tasks: name for n, name in zip(numbers, others, strict=True)})
            discarded += [episode for episode in episodes if episode.group in numbers]
            episodes[:] = [episode for episode in episodes if episode.group not in numbers]
            episodes += self.play(fresh, step, version) if fresh else []
        episodes.sort(key=lambda episode: (episode.group % self.tasks, episode.sample))
        return discarded

    def counts(self, batch: Batch) -> dict[str, float]:
        """To log of a step: what was replaced, and what could not be; the pools; for how long it was played meanwhile."""
        discarded, missing = {episode.group for episode in batch.discarded}, alike(batch.episodes)
        replaced = {"train/groups_discarded": len(discarded), "train/groups_missing": len(missing)}
        ahead = {"seconds/ahead": self.ahead.seconds} if self.ahead else {}
        return (replaced if self.resample else {}) | (self.pools.sizes() if self.pools else {}) | ahead

    def play(self, names: Mapping[int, str], step: int, version: int) -> list[Episode]:
        """Groups by number, each on the task of a name: played and scored by the ranks, each a share, and known to all."""
        episodes = (self.ahead and self.ahead.wait()) or self.run_episodes(*self.asked(names, step, version))
        stopwatch.phase("judge")(self.scoring)(episodes)
        check_starts(episodes := ranks.everyones(episodes))
        return episodes

    def asked(self, names: Mapping[int, str], step: int, version: int) -> Asked:
        """What `run_episodes` is given for this rank's share of the groups."""
        specs, done = ranks.share(self.specs(names, step, version)), count(1)

        def on_done(episode: Episode) -> None:
            self.scoring.begin(episode)
            self.on_episode(step, next(done), len(specs))

        return specs, self.make_env, self.engine, (self.seed, self.split, step), on_done

    def specs(self, names: Mapping[int, str], step: int, version: int) -> list[EpisodeSpec]:
        """Of all groups, in order."""
        tasks = {group: Task(home(self.env, name), name, self.split, self.seed) for group, name in names.items()}
        agents = [replace(agent, version=version, max_turns=self.max_turns(step)) for agent in self.agent_specs]
        return [
            EpisodeSpec(task, group, sample, agents[(group if agents[0].demonstrates else sample) % len(agents)])
            for group, task in tasks.items()
            for sample in range(self.group_size)
        ]


def shuffle_rewards(batch: Batch, seed: int) -> None:
    """Control: each group keeps its rewards, and who gets which is drawn at random. What an episode, a call or a turn earned
    goes to one of the same group that earned something of the kind too."""
    call_group = batch.group[batch.call_episode]
    batch.rewards = shuffled(batch.rewards, batch.group, seed, batch.step)
    batch.step_rewards = shuffled(batch.step_rewards, call_group, seed, batch.step)
    rows = [shuffled(row, call_group, seed, batch.step) for row in batch.process_rewards]
    batch.process_rewards = torch.stack(rows)


def shuffled(values: Tensor, group: Tensor, seed: int, step: int) -> Tensor:
    """[N] the same values, dealt out at random among the entries of a group that have one."""
    dealt = values.clone()
    for number in sorted(set(group.tolist())):
        valid = ((group == number) & ~values.isnan()).nonzero()[:, 0]
        order = np.random.default_rng((seed, step, 1, number)).permutation(len(valid))
        dealt[valid] = values[valid[torch.from_numpy(order)]]
    return dealt
