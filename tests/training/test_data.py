"""The data source: one batch a step, played by the weights of that step, of tasks that (seed, step) decide."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pilotrl.envs.toy import ToyEnv
from pilotrl.rewards.judge import Item, PlanItem
from pilotrl.rollout.task_schedule import schedule, spare
from pilotrl.training import ranks
from pilotrl.training.batch import Batch
from pilotrl.training.data import Rollouts, alike
from pilotrl.types import Call, Episode, PlanScores, Task, Turn, UserError, WorldError, WrittenPlan
from tests.conftest import Graded

TASKS = [f"t{i}" for i in range(10)]


def test_a_schedule_is_a_function_of_seed_and_step() -> None:
    assert schedule(TASKS, 0, 7, 4) == schedule(TASKS, 0, 7, 4)
    assert schedule(TASKS, 0, 7, 4) != schedule(TASKS, 1, 7, 4)
    assert schedule(TASKS, 0, 7, 4) != schedule(TASKS, 0, 8, 4)


@pytest.mark.parametrize("count", [1, 4, 10, 25])
def test_every_task_is_played_once_before_any_is_played_again(count: int) -> None:
    played = [task for step in range(20) for task in schedule(TASKS, 0, step, count)]
    epochs = [played[i : i + 10] for i in range(0, len(played) - 9, 10)]
    assert all(sorted(epoch) == TASKS for epoch in epochs)
    assert epochs[0] != epochs[1]


def steps_of(source: Rollouts, events: list[str]) -> None:
    """Write down when a batch is played."""
    played = source.batch

    def batch(step: int) -> Batch:
        events.append(f"play {step}")
        return played(step)

    source.batch = batch  # type: ignore[method-assign]


def test_a_batch_is_played_after_the_update_before_it(training: Callable[..., Any]) -> None:
    run, events = training(steps=3, tasks=1, group_size=2), []
    steps_of(run.source, events)
    updated = run.module.training_step

    def training_step(batch: Batch, batch_idx: int) -> None:
        assert {call.version for episode in batch.episodes for call in episode.calls} == {batch.version} == {batch.step}
        updated(batch, batch_idx)
        events.append(f"update {batch.step}")

    run.module.training_step = training_step
    run.fit()
    assert events == [f"{what} {step}" for step in range(3) for what in ("play", "update")]


def test_a_source_without_a_length_would_be_off_policy_and_is_caught(training: Callable[..., Any]) -> None:
    run = training(steps=3, tasks=1, group_size=2)

    class Endless(DataLoader):  # type: ignore[type-arg]
        """Hides the length, so that Lightning fetches ahead."""

        def __len__(self) -> int:
            raise TypeError("no length")

    with pytest.raises(RuntimeError, match="weights of version 0, these are version 1"):
        run.fit(source=Endless(run.source, batch_size=None))


def test_a_source_goes_on_from_the_step_that_the_weights_have_come_to(training: Callable[..., Any]) -> None:
    run, events = training(steps=4, tasks=1, group_size=2), []
    steps_of(run.source, events)
    run.module.version += 2
    assert [batch.version for batch in run.source] == [2, 2]
    assert (events, len(run.source)) == (["play 2", "play 3"], 4)


def test_a_batch_is_the_same_whenever_it_is_played(training: Callable[..., Any]) -> None:
    one, other = training(), training()
    one.source.batch(0)
    assert one.source.batch(1).episodes == other.source.batch(1).episodes
    assert one.source.batch(1).episodes != other.source.batch(2).episodes
    assert one.source.batch(1).episodes != training(seed=1).source.batch(1).episodes


def test_a_task_that_comes_again_is_sampled_anew(training: Callable[..., Any]) -> None:
    source = training(tasks=1, group_size=2).source
    source.names = source.names[:1]
    said = [[call.ids for e in source.batch(step).episodes for call in e.calls] for step in (0, 1)]
    source.split = "dev"
    said.append([call.ids for e in source.batch(0).episodes for call in e.calls])
    assert said[0] != said[1] != said[2] != said[0]


@pytest.mark.parametrize("demonstrates", [False, True])
def test_paradigms_take_turns_within_a_group_and_in_demonstrations_between_groups(
    training: Callable[..., Any], demonstrates: bool
) -> None:
    source = training(tasks=2, group_size=4, agent_spec={"demonstrates": demonstrates}).source
    source.agent_specs = [source.agent_specs[0], replace(source.agent_specs[0], plans="never")]
    plans = [spec.agent.plans == "never" for spec in source.specs({0: "a", 1: "b"}, 0, 0)]
    assert plans == ([False] * 4 + [True] * 4 if demonstrates else [False, True] * 4)


def test_ranks_play_slices_of_what_one_would_have_played(
    training: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five ranks have work with four groups of three, too."""
    whole, played = training().source.batch(0), list[list[Episode]]()
    monkeypatch.setattr(ranks, "everyones", lambda held: [episode for share in [*played, held] for episode in share])
    monkeypatch.setattr(ranks, "count", lambda: 5)
    for rank in range(5):
        monkeypatch.setattr(ranks, "number", lambda rank=rank: rank)
        batch = training().source.batch(0)
        played.append(batch.episodes[sum(map(len, played)) :])
    assert [len(share) for share in played] == [2, 2, 3, 2, 3]
    for episode, same in zip(batch.episodes, whole.episodes, strict=True):
        assert (episode.group, episode.sample, episode.task) == (same.group, same.sample, same.task)
        assert [call.ids for call in episode.calls] == [call.ids for call in same.calls]
    assert all(torch.equal(row, same) for row, same in zip(batch.rows, whole.rows, strict=True))


def flat_unless(source: Rollouts, lively: Callable[[str], bool]) -> None:
    """Score episodes so that rewards differ within groups on some tasks only."""

    def score(episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            episode.reward = 0.5 + 0.1 * episode.sample * lively(episode.task.id)

    source.scoring = Graded(score)  # type: ignore[assignment]


def test_groups_without_spread_are_replaced_up_to_a_bound(training: Callable[..., Any]) -> None:
    source = training(tasks=4, group_size=2).source
    first = list(dict.fromkeys(episode.task.id for episode in source.batch(0).episodes))
    tried = spare(source.names, 0, 0, first, 3)
    lively = {first[1], tried[2]}  # the others of the first round are flat, and what replaces the first of them twice
    flat_unless(source, lambda name: name in lively or name not in (*first, *tried))
    source.resample = 2
    batch = source.batch(0)
    assert [episode.group for episode in batch.episodes] == [8, 8, 1, 1, 10, 10, 7, 7]
    assert [episode.group for episode in batch.discarded] == [0, 0, 2, 2, 3, 3, 4, 4, 6, 6]
    played = {episode.group: episode.task.id for episode in [*batch.episodes, *batch.discarded]}
    assert [played[number] for number in (4, 6, 7)] == tried
    assert len(set(played.values())) == 9  # no task comes again while there are others
    assert alike(batch.episodes) == []
    assert sorted(map(len, batch.minibatches(4, 0))) == [2, 2, 2, 2]
    assert (batch.groups, set(batch.group.tolist())) == (4, {1, 7, 8, 10})
    flat_unless(source, lambda name: name == first[1])
    batch = source.batch(0)
    assert [episode.group for episode in batch.episodes[::2]] == [8, 1, 10, 11]  # the bound is reached: they stay
    assert alike(batch.episodes) == [8, 10, 11]


def test_a_group_with_fewer_than_two_rewards_is_replaced_too(training: Callable[..., Any]) -> None:
    source = training(tasks=2, group_size=2, resample=1).source

    def score(episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            episode.reward = None if episode.group == 1 and episode.sample else episode.sample / 2

    source.scoring = Graded(score)  # type: ignore[assignment]
    batch = source.batch(0)
    assert [(e.group, e.reward) for e in batch.episodes] == [(0, 0.0), (0, 0.5), (3, 0.0), (3, 0.5)]
    assert [e.group for e in batch.discarded] == [1, 1]


def test_replaced_groups_do_not_depend_on_ranks(training: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five ranks, side by side, some of which have nothing to play in a further round."""

    sources = [training(tasks=4, group_size=2, resample=2).source for _ in range(6)]
    for source in sources:
        flat_unless(source, lambda name: sum(map(ord, name)) % 3 == 0)
    alone, here, meet, held = sources[5].batch(0), threading.local(), threading.Barrier(5), dict[int, Any]()

    def everyones(mine: Any) -> list[Any]:
        held[here.number] = mine
        meet.wait(300)
        every = [*chain(*(held[number] for number in range(5)))]
        meet.wait(300)
        return every

    def rank(number: int) -> Batch:
        here.number = number
        played: Batch = sources[number].batch(0)
        return played

    monkeypatch.setattr(ranks, "count", lambda: 5)
    monkeypatch.setattr(ranks, "number", lambda: here.number)
    monkeypatch.setattr(ranks, "everyones", everyones)
    with ThreadPoolExecutor(5) as pool:
        for other in pool.map(rank, range(5)):
            for name in ("episodes", "discarded"):
                there, same = getattr(other, name), getattr(alone, name)
                assert [(e.group, e.sample, e.task) for e in there] == [(e.group, e.sample, e.task) for e in same]
                assert [c.ids for e in there for c in e.calls] == [c.ids for e in same for c in e.calls]
    assert 0 < len({episode.group for episode in alone.discarded}) < 8


def test_a_group_whose_episodes_do_not_start_alike_is_none(training: Callable[..., Any]) -> None:
    source, made = training(tasks=1).source, 0

    class Moody(ToyEnv):
        def reset(self, **given: Any) -> tuple[str, dict[str, Any]]:
            nonlocal made
            made += 1
            text, info = super().reset(**given)
            return f"{text} It is {made} o'clock.", info

    source.make_env = lambda: Moody(split="train", max_turns=4, seed=0)
    with pytest.raises(UserError, match="starts in several ways"):
        source.batch(0)


def test_shuffled_rewards_are_the_same_rewards_given_to_others(training: Callable[..., Any]) -> None:
    def batch(**changes: Any) -> Batch:
        source = training(tasks=8, **changes).source
        score = source.scoring

        def scoring(episodes: Sequence[Episode]) -> None:
            score(episodes)
            for i, episode in enumerate(episodes):
                episode.reward = None if i == 5 else i / 100
                for t, call in enumerate(episode.calls):
                    call.process_reward = (i + t) % 3 / 2
                for t, turn in enumerate(episode.turns):
                    turn.reward = 10 * i + t

        source.scoring = Graded(scoring)  # type: ignore[assignment]
        played: Batch = source.batch(0)
        return played

    plain, control, again = batch(), batch(shuffle_rewards=True), batch(shuffle_rewards=True)
    call_group = plain.group[plain.call_episode]
    for name in ("rewards", "process_rewards", "step_rewards"):
        true, dealt = getattr(plain, name), getattr(control, name)
        groups = plain.group if name == "rewards" else call_group
        for number in groups.unique():
            theirs, mine = true[..., groups == number], dealt[..., groups == number]
            assert torch.equal(mine.nan_to_num(-1).sort()[0], theirs.nan_to_num(-1).sort()[0]), (
                "a group keeps its rewards"
            )
        assert torch.equal(dealt.nan_to_num(-1), getattr(again, name).nan_to_num(-1))
        assert torch.equal(dealt.isnan(), true.isnan())
        assert (dealt != true)[~true.isnan()].float().mean() > 0.3
        assert torch.equal(dealt.nan_to_num(-1).sort()[0], true.nan_to_num(-1).sort()[0])
    assert plain.rewards.isnan().tolist() == [i == 5 for i in range(24)]
    assert [episode.reward for episode in control.episodes] == [episode.reward for episode in plain.episodes]


# Scoring


class Clerk:
    """A judge who writes down what it is shown, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.seen = failures, list[Item]()

    def grade(self, items: Sequence[Item]) -> list[int | None]:
        if self.failures:
            self.failures -= 1
            raise WorldError("no answer")
        self.seen += items
        return [2] * len(items)


@pytest.fixture
def episode() -> Episode:
    """Three turns; the second one has no step in force."""
    plans = (("a1", "a2"), ("b1",), ("c1", "", "c3", "c4"))
    turns = [Turn(plan, "", f"act {t}", f"saw {t}", True, True, 0.0) for t, plan in enumerate(plans, 1)]
    return Episode(Task("toy", "t", "train", 0), 0, 0, "saw 0", turns=turns, outcome="failed")


def test_an_action_is_graded_against_its_step_and_what_was_seen_before_it(
    training: Callable[..., Any], episode: Episode
) -> None:
    clerk = Clerk()
    replace(training().source.scoring, judges={"toy": clerk})([episode])
    assert [item[:4] for item in clerk.seen] == [("a1", "saw 0", "act 1", "saw 1"), ("c3", "saw 2", "act 3", "saw 3")]
    assert [turn.adherence for turn in episode.turns] == [2, None, 2]
    assert episode.terms["adherence"] == 1.0
    assert episode.reward is not None


def test_no_judge_is_asked_about_what_the_environment_rejected(training: Callable[..., Any], episode: Episode) -> None:
    clerk = Clerk()
    episode.turns[2].valid = False
    replace(training().source.scoring, judges={"toy": clerk})([episode])
    assert [item.step for item in clerk.seen] == ["a1"]
    assert [turn.adherence for turn in episode.turns] == [2, None, 0]
    assert episode.terms["adherence"] == 0.5


def test_a_judge_that_fails_is_asked_again_and_then_leaves_no_verdict(
    training: Callable[..., Any], episode: Episode
) -> None:
    scoring = training().source.scoring
    replace(scoring, judges={"toy": Clerk(failures=2)})([episode])
    assert episode.reward is not None
    replace(scoring, judges={"toy": Clerk(failures=99)})([episode])
    assert (episode.reward, episode.terms["adherence"]) == (None, None)
    assert [turn.adherence for turn in episode.turns] == [None] * 3


class Planner(Clerk):
    """A judge of plans who writes down what it is shown."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.tired, self.shown = failures, list[PlanItem]()

    def grade_plans(self, items: Sequence[PlanItem]) -> list[PlanScores | None]:
        self.tired -= 1
        if self.tired >= 0:
            raise WorldError("no answer")
        self.shown += items
        return [PlanScores(5, 4, 3)] * len(items)


def planned(episode: Episode) -> list[Call]:
    """Plans of the first two turns, the second one unreadable; each was preferred to another."""
    episode.calls = [
        Call("planner", [1], [2], [0.0], "end", (), turn=turn, selected=selected, written=WrittenPlan(steps, ("r",)))
        for turn, steps in ((1, ("a1", "a2")), (2, None))
        for selected in (True, False)
    ]
    return episode.calls


def test_a_plan_is_graded_against_what_its_writer_had_seen(training: Callable[..., Any], episode: Episode) -> None:
    judge, scoring, calls = Planner(), training().source.scoring, planned(episode)
    replace(scoring, judges={"toy": judge}, terms=["plan_quality"])([episode])
    assert judge.shown == [PlanItem("saw 0", "saw 0", (), ("a1", "a2"), ("r",))]
    assert [call.written.scores for call in calls if call.written] == [(5, 4, 3), None, (1, 1, 1), None]
    assert episode.terms["plan_quality"] == 0.75 / 2
    assert [call.process_reward for call in calls] == [0.75, None, 0.0, None]
    replace(scoring, judges={"toy": judge}, terms=["plan_quality"], unselected=True)([episode])
    assert [call.process_reward for call in calls] == [0.75, 0.75, 0.0, 0.0]
    assert episode.terms["plan_quality"] == 0.75 / 2  # of those that were followed


def test_a_judge_of_plans_that_fails_leaves_no_reward(training: Callable[..., Any], episode: Episode) -> None:
    scoring, calls = training().source.scoring, planned(episode)[:1]
    episode.calls = calls
    replace(scoring, judges={"toy": Planner(failures=2)}, terms=["plan_quality"])([episode])
    assert episode.reward == 0.75
    replace(scoring, judges={"toy": Planner(failures=99)}, terms=["plan_quality"])([episode])
    assert (episode.reward, episode.terms["plan_quality"]) == (None, None)
