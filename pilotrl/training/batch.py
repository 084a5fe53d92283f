"""Scored episodes to tensors: the only bridge between the text half and the tensor half.

The calls of an episode form a token trie, laid out as linear rows: a call continues the last row of its adapter where that row's
tokens, sampled ids included, are an exact prefix of its prompt; otherwise it begins a row of its own. What another adapter said
in between is context there. A candidate plan that was not selected is a row that nothing continues, if it is learned from at all.
A token is trained because a call sampled it, never because of what it looks like.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

from pilotrl.models.micro_batch import MicroBatch, packed
from pilotrl.models.prefix import common
from pilotrl.training.algorithms import Played
from pilotrl.types import Call, Episode, Role

ROLES = get_args(Role)
"""Their places here are the numbers of roles in a batch."""

COPY = 8
"""What is shared is run once, but each row copies its keys and values: the memory of less than an eighth of a token."""


@dataclass
class Batch:
    """The episodes of one step. E episodes in order of play, C trained calls in order of episode and time, N trained tokens."""

    step: int
    version: int
    """Of the weights that played it."""
    rows: list[Tensor]
    """Token ids; rows without a trained token are left out, and a row ends with its last trained token."""
    row_episode: list[int]
    row_adapter: list[str | None]
    token_row: Tensor
    token_position: Tensor
    token_call: Tensor
    logprobs: Tensor
    call_row: Tensor
    call_position: Tensor
    call_episode: Tensor
    call_turn: Tensor
    """[C] from 1; 0 for the environment's words, which are one call a row."""
    call_role: Tensor
    call_observation: Tensor
    call_plan: Tensor
    call_weight: Tensor
    """[C] of a call's tokens in the loss: 1 for what a trained role said."""
    followed: Tensor
    """[C] bool: the episode went on with it; False for a candidate plan that was not selected."""
    process_rewards: Tensor
    """[2, C] float64 in [0, 1]: what each call earned by itself, a planner's and an executor's; NaN without a verdict."""
    step_rewards: Tensor
    """[C] float64: the environment's own reward of the turn's action."""
    rewards: Tensor
    """[E] float64, NaN where broken or unscored."""
    group: Tensor
    success: Tensor
    terminated: Tensor
    episodes: list[Episode]
    trained: list[Call | None]
    """The C trained calls themselves; None for the environment's words."""
    groups: int
    """Of the step, numbered from 0; a group that took the place of another has its number plus a multiple of this."""
    recomputed: Tensor | None = None
    """[N] as `logprobs`, again by the learner, with the weights that played; where the step's calls are kept or corrected."""

    discarded: list[Episode] = field(default_factory=list, init=False)
    """Episodes of groups that others took the place of: played, and not learned from."""
    ranks: int = field(default=1, init=False)
    """That share micro-batches: several get as many each, where there are rows enough, and of like sizes."""

    def minibatches(self, count: int, seed: int) -> list[list[int]]:
        """The episodes of each of `count` minibatches (fewer, where a step has fewer groups).

        Groups are dealt at random, and whole, since episodes of a group begin alike, and their advantages add up to nothing."""
        place = torch.randperm(self.groups, generator=torch.Generator().manual_seed(seed)).tolist()
        count = min(count, self.groups)
        dealt = [place[episode.group % self.groups] % count for episode in self.episodes]
        return [[i for i, minibatch in enumerate(dealt) if minibatch == number] for number in range(count)]

    def micro_batches(self, episodes: Sequence[int], tokens: int, among: Tensor | None = None) -> list[MicroBatch]:
        """The rows of some episodes (`among` [rows] bool: only those), adapter by adapter, those that begin alike side by
        side, in pieces of at most `tokens` tokens that have to be run (at least one row); eight that are shared count as one."""
        wanted, adapters = set(episodes), self.row_adapter
        rows = [i for i, e in enumerate(self.row_episode) if e in wanted and (among is None or among[i])]
        texts = {i: self.rows[i].tolist() for i in rows}
        rows.sort(key=lambda i: (adapters[i] or "", texts[i]))
        alike = [common(texts[a], texts[b]) if adapters[a] == adapters[b] else None for a, b in pairwise(rows)]
        lengths = [len(texts[row]) for row in rows]
        ends = cut(lengths, alike, tokens, even(lengths, alike, tokens, self.ranks) if self.ranks > 1 else math.inf)
        return [self.micro_batch(rows[start:end]) for start, end in pairwise(ends)]

    def micro_batch(self, rows: Sequence[int]) -> MicroBatch:
        """A forward pass over some rows."""
        trie = packed([self.rows[number].tolist() for number in rows])
        place, lengths = trie["path"], torch.tensor(trie["lengths"])
        start = torch.full((len(self.rows),), -1)
        start[torch.tensor(rows)] = lengths.cumsum(0) - lengths
        mine, call = start[self.token_row] >= 0, (start[self.call_row] >= 0).nonzero()[:, 0]
        spot = start[self.token_row[mine]] + self.token_position[mine]
        return MicroBatch(
            **trie,
            sampled=trie["ids"][place[spot]],
            token_state=place[spot - 1],
            token_call=self.token_call[mine],
            logprobs=self.logprobs[mine],
            recomputed=torch.empty(0) if self.recomputed is None else self.recomputed[mine],
            call=call,
            call_state=place[start[self.call_row[call]] + self.call_position[call]],
            adapter=self.row_adapter[rows[0]],
        )

    def tokens(self, episodes: Sequence[int], among: Tensor | None = None) -> int:
        """Trained tokens of some episodes; `among` [rows] bool: in those rows only."""
        counted = self.calls(episodes)[self.token_call]
        return int((counted if among is None else counted & among[self.token_row]).sum())

    def rows_with(self, calls: Tensor) -> Tensor:
        """[rows] bool, those in which any of the calls [C] bool stands."""
        return torch.zeros(len(self.rows), dtype=torch.bool).index_fill(0, self.call_row[calls], True)

    def credit(self, advantages: Tensor) -> None:
        """Note the advantages [C] on the calls, for whoever reads the episodes."""
        for call, advantage in zip(self.trained, advantages.tolist(), strict=True):
            if call:
                call.advantage = advantage

    def played(self, values: Tensor) -> Played:
        """What an algorithm is told of the step; values [C] are the value head's."""
        same = ("rewards", "group", "success", "terminated", "followed", "process_rewards", "step_rewards")
        of_calls = {name: getattr(self, f"call_{name}") for name in ("episode", "turn", "role", "observation", "plan")}
        return Played(values=values, **{name: getattr(self, name) for name in same}, **of_calls)

    def calls(self, episodes: Sequence[int]) -> Tensor:
        """[C] bool, the calls of some episodes."""
        return torch.isin(self.call_episode, torch.tensor(episodes, dtype=torch.long))


def collate(
    episodes: Sequence[Episode],
    trains: Sequence[str],
    step: int,
    version: int,
    groups: int,
    observation_weight: float = 0.0,
    unselected: bool = False,
) -> Batch:
    """Tensors of scored episodes, for the roles whose tokens are trained; nothing of an episode without a reward is.

    With an `observation_weight`, all tokens that no call sampled are learned too, as in pretraining; `unselected`
    candidate plans are only if asked for."""
    builder = _BatchBuilder(observation_weight)
    for index, episode in enumerate(episodes):
        if episode.reward is not None:
            builder.add(index, [call for call in episode.calls if call.selected or unselected], trains)
    said = [(call, episodes[index]) for call, index in zip(builder.trained, builder.call_episode, strict=True)]
    return Batch(
        step=step,
        version=version,
        rows=[torch.tensor(row) for row in builder.rows],
        row_episode=builder.row_episode,
        row_adapter=builder.row_adapter,
        **{name: torch.tensor(getattr(builder, name), dtype=torch.long) for name in INDICES},
        call_role=torch.tensor([ROLES.index(call.role) if call else -1 for call, _ in said], dtype=torch.long),
        call_observation=_numbered([call and _observation(call, episode) for call, episode in said]),
        call_plan=_numbered(
            [call and (call.step, call.plan[max(call.step - 1, 0) : call.step or None]) for call, _ in said]
        ),
        logprobs=torch.tensor(builder.logprobs, dtype=torch.float32),
        call_weight=torch.tensor(builder.call_weight, dtype=torch.float64),
        followed=torch.tensor([call is None or call.selected for call in builder.trained], dtype=torch.bool),
        process_rewards=_process_rewards(builder.trained),
        step_rewards=torch.tensor([_step_reward(call, episode) for call, episode in said], dtype=torch.float64),
        rewards=torch.tensor([math.nan if e.reward is None else e.reward for e in episodes], dtype=torch.float64),
        group=torch.tensor([episode.group for episode in episodes], dtype=torch.long),
        success=torch.tensor([episode.outcome == "solved" for episode in episodes], dtype=torch.bool),
        terminated=torch.tensor([episode.ended_by != "context" for episode in episodes], dtype=torch.bool),
        episodes=list(episodes),
        trained=builder.trained,
        groups=groups,
    )


def cut(lengths: Sequence[int], alike: Sequence[int | None], tokens: int, run: float) -> list[int]:
    """Where pieces begin, and the last ends. alike: tokens that rows share with the next (None: another adapter's), run once."""
    starts, size, fresh = list[int](), 0.0, 0
    for row, (length, same) in enumerate(zip(lengths, [None, *alike], strict=False)):
        size, fresh = size + length - (same or 0) * (1 - 1 / COPY), fresh + length - (same or 0)
        if same is None or size > tokens or fresh > run:
            starts, size, fresh = [*starts, row], length, length
    return [*starts, len(lengths)]


def even(lengths: Sequence[int], alike: Sequence[int | None], tokens: int, ranks: int) -> int:
    """The fewest tokens that a piece runs for which no rank has more pieces than without a bound on them: what takes time."""
    most = math.ceil((len(cut(lengths, alike, tokens, math.inf)) - 1) / ranks) * ranks
    return bisect_left(range(sum(lengths)), True, key=lambda run: len(cut(lengths, alike, tokens, run)) - 1 <= most)


def rows_of(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls of one adapter grouped: each one's prompt begins with all tokens of the one before, sampled ids included."""
    rows: list[list[Call]] = []
    last: dict[str | None, list[Call]] = {}
    for call in calls:
        row = last.get(call.adapter)
        if row and call.selected and call.prompt[: len(whole := row[-1].prompt + row[-1].ids)] == whole:
            row.append(call)
        else:
            rows.append([call])
            last |= {call.adapter: rows[-1]} if call.selected else {}
    return rows


def _process_rewards(calls: Sequence[Call | None]) -> Tensor:
    """[roles, C] float64, NaN where a call is not of the role, or nobody graded it."""
    own = [(call.role, call.process_reward) if call else (None, None) for call in calls]
    rows = [[math.nan if who != role or reward is None else reward for who, reward in own] for role in ROLES]
    return torch.tensor(rows, dtype=torch.float64)


def _step_reward(call: Call | None, episode: Episode) -> float:
    return episode.turns[call.turn - 1].reward if call and call.turn <= len(episode.turns) else 0.0


def _observation(call: Call, episode: Episode) -> str:
    """The last text of the environment that a call saw."""
    return episode.turns[call.turn - 2].observation if call.turn > 1 else episode.observation


def _numbered(things: Sequence[Hashable]) -> Tensor:
    """A number for each thing, equal for equal things."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(thing, len(numbers)) for thing in things], dtype=torch.long)


INDICES = ("token_row", "token_position", "token_call", "call_row", "call_position", "call_episode", "call_turn")
"""Columns of whole numbers."""


@dataclass
class _BatchBuilder:
    """The columns of a batch while they grow."""

    observation_weight: float
    rows: list[list[int]] = field(default_factory=list)
    row_episode: list[int] = field(default_factory=list)
    row_adapter: list[str | None] = field(default_factory=list)
    token_row: list[int] = field(default_factory=list)
    token_position: list[int] = field(default_factory=list)
    token_call: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    call_row: list[int] = field(default_factory=list)
    call_position: list[int] = field(default_factory=list)
    call_episode: list[int] = field(default_factory=list)
    call_turn: list[int] = field(default_factory=list)
    call_weight: list[float] = field(default_factory=list)
    trained: list[Call | None] = field(default_factory=list)

    def add(self, episode: int, calls: Sequence[Call], trains: Sequence[str]) -> None:
        """The rows of an episode, each up to its last call of a trained role; those calls, in order of time."""
        place: dict[int, int] = {}
        for row in rows_of(calls):
            trained = [call for call in row if call.role in trains and call.ids]
            if not trained:
                continue
            place |= {id(call): len(self.rows) for call in trained}
            self.rows.append(trained[-1].prompt + trained[-1].ids)
            self.row_episode.append(episode)
            self.row_adapter.append(row[0].adapter)
            if self.observation_weight:
                sampled = {spot for call in row for spot in _places(call)}
                told = [spot for spot in range(1, len(self.rows[-1])) if spot not in sampled]
                self._call(len(self.rows) - 1, None, told, [0.0] * len(told))
        for call in (call for call in calls if id(call) in place):
            self._call(place[id(call)], call, _places(call), call.logprobs)

    def _call(self, row: int, call: Call | None, places: Sequence[int], logprobs: Sequence[float]) -> None:
        """A call in a row, or the environment's words there, with the places of its tokens."""
        self.token_row += [row] * len(places)
        self.token_position += places
        self.token_call += [len(self.call_row)] * len(places)
        self.logprobs += logprobs
        self.call_row.append(row)
        self.call_position.append(places[0] - 1)
        self.call_episode.append(self.row_episode[row])
        self.call_turn.append(call.turn if call else 0)
        self.call_weight.append(1.0 if call else self.observation_weight)
        self.trained.append(call)


def _places(call: Call) -> range:
    """Where the sampled tokens of a call stand in its row."""
    return range(len(call.prompt), len(call.prompt) + len(call.ids))
