"""From episodes to tensors: what is trained is what was sampled, to the token, however the batch is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotrl.models.micro_batch import MicroBatch
from pilotrl.models.policy import Policy
from pilotrl.training import batch as batches
from pilotrl.training.algorithms import grpo
from pilotrl.training.batch import Batch, collate, rows_of
from pilotrl.types import Call, Ending, Episode, Outcome, Role, Task, Turn

ROLES: tuple[Role, ...] = ("planner", "executor")


def call(role: Role, prompt: list[int], ids: list[int], **changes: Any) -> Call:
    values: dict[str, Any] = {"logprobs": [-float(token) for token in ids], "stop": "end", "plan": (), "turn": 1}
    return Call(role, prompt, ids, **values | changes)


def episode(calls: Sequence[Call], *, group: int = 0, sample: int = 0, reward: float | None = 0.5) -> Episode:
    made = Episode(Task("toy", f"t{group}", "train", 0), group, sample, "look", outcome="failed", reward=reward)
    made.calls = list(calls)
    made.turns = [turn(t) for t in range(1, max([call.turn for call in calls], default=0) + 1)]
    return made


def turn(number: int) -> Turn:
    """The first leads back to where the episode began; an action is worth the number of its turn."""
    return Turn((), "", "act", "look" if number == 1 else f"seen {number}", True, True, 0.0, reward=float(number))


def batch_of(episodes: Sequence[Episode], trains: Sequence[str] = ROLES, groups: int = 8) -> Batch:
    return collate(episodes, trains, step=0, version=0, groups=groups)


def conversation(draw: Random, turns: int, *, branches: bool = False) -> list[Call]:
    """Planner and executor in turns, each prompt continuing the one before, or starting over where `branches`."""
    tokens = [draw.randrange(5, 300) for _ in range(draw.randrange(3, 30))]
    calls: list[Call] = []
    for turn in range(1, turns + 1):
        for role in ROLES:
            ids = [draw.randrange(0, 300) for _ in range(draw.randrange(1, 9))]  # control tokens too
            logprobs = [draw.uniform(-7, -5) for _ in ids]
            calls.append(call(role, list(tokens), ids, logprobs=logprobs, turn=turn))
            tokens += [*ids, *(draw.randrange(0, 300) for _ in range(draw.randrange(1, 12)))]
            if branches and draw.random() < 0.4:
                del tokens[draw.randrange(1, len(tokens)) :]
    return calls


def ragged(count: int, seed: int = 0, *, branches: bool = True) -> list[Episode]:
    draw = Random(seed)
    return [
        episode(
            conversation(draw, draw.randrange(1, 5), branches=branches),
            group=i // 4,
            sample=i % 4,
            reward=draw.random() if draw.random() < 0.9 else None,
        )
        for i in range(count)
    ]


def test_ten_tokens_by_hand() -> None:
    planned = call("planner", [10, 11, 12], [13, 14])
    acted = call("executor", [10, 11, 12, 13, 14, 15, 16, 17], [18, 19], turn=2)
    both = batch_of([episode([planned, acted])])
    assert [row.tolist() for row in both.rows] == [[10, 11, 12, 13, 14, 15, 16, 17, 18, 19]]
    assert both.token_position.tolist() == [3, 4, 8, 9]
    assert both.token_row.tolist() == [0, 0, 0, 0]
    assert both.token_call.tolist() == [0, 0, 1, 1]
    assert both.logprobs.tolist() == [-13, -14, -18, -19]
    assert both.call_position.tolist() == [2, 7]
    assert both.call_turn.tolist() == [1, 2]
    executor = batch_of([episode([planned, acted])], ["executor"])
    assert executor.rows[0].tolist() == both.rows[0].tolist()
    assert executor.token_position.tolist() == [8, 9]
    assert (executor.token_call.tolist(), executor.call_position.tolist()) == ([0, 0], [7])
    planner = batch_of([episode([planned, acted])], ["planner"])
    assert planner.rows[0].tolist() == [10, 11, 12, 13, 14]  # nothing is learned behind it
    assert planner.token_position.tolist() == [3, 4]


@pytest.mark.parametrize("trains", [["executor"], ["planner"], ["planner", "executor"]])
def test_trained_tokens_are_those_that_calls_of_trained_roles_sampled(trains: list[str]) -> None:
    episodes = ragged(12)
    batch = batch_of(episodes, trains)
    due = [(e, c) for e, one in enumerate(episodes) if one.reward is not None for c in one.calls if c.role in trains]
    assert len(batch.call_position) == len(due)
    for number, (e, one) in enumerate(due):
        mine = batch.token_call == number
        row = batch.rows[int(batch.call_row[number])].tolist()
        where = batch.token_position[mine].tolist()
        assert set(batch.token_row[mine].tolist()) == {int(batch.call_row[number])}
        assert [row[at] for at in where] == one.ids
        assert row[: where[0]] == one.prompt
        assert int(batch.call_position[number]) == where[0] - 1 == len(one.prompt) - 1
        assert batch.logprobs[mine].tolist() == pytest.approx(one.logprobs)
        assert int(batch.call_episode[number]) == e == batch.row_episode[int(batch.call_row[number])]
    assert all(batch.call_episode.diff() >= 0)
    for number, row in enumerate(batch.rows):  # a row ends with its last trained token
        assert int(batch.token_position[batch.token_row == number].max()) == len(row) - 1


def test_a_token_that_closes_a_reply_which_was_cut_is_not_trained() -> None:
    end = 1
    cut = call("executor", [10, 11], [12, 13], stop="length")
    after = call("executor", [10, 11, 12, 13, end, 20], [21, end])
    batch = batch_of([episode([cut, after])])
    assert batch.rows[0].tolist() == [10, 11, 12, 13, end, 20, 21, end]
    assert batch.token_position.tolist() == [2, 3, 6, 7]


def test_rows_continue_only_over_an_exact_prefix_under_the_same_adapter() -> None:
    first = call("executor", [5, 6], [7, 8])
    goes_on = call("executor", [5, 6, 7, 8, 9], [10])
    for other in (
        call("executor", [5, 6, 7, 9, 9], [10]),  # another reply
        call("executor", [5, 7, 7, 8, 9], [10]),  # another prompt
        call("executor", [5, 6, 7], [8]),  # shorter
        replace(goes_on, adapter="planner"),
    ):
        assert rows_of([first, other]) == [[first], [other]]
    assert rows_of([first, goes_on]) == [[first, goes_on]]
    assert rows_of([first, goes_on, first]) == [[first, goes_on], [first]]
    assert rows_of([]) == []


def test_a_turn_reward_is_what_a_call_earned_in_the_row_of_its_role() -> None:
    acted = episode(conversation(Random(1), 2))
    for one, process_reward in zip(acted.calls, (0.25, 1.0, None, 0.5), strict=True):
        one.process_reward = process_reward
    nan = float("nan")
    expected = torch.tensor([[0.25, nan, nan, nan], [nan, 1.0, nan, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(batch_of([acted]).process_rewards, expected, equal_nan=True)


def planned(draw: Random, turns: int) -> list[Call]:
    """A conversation in which every plan was selected out of three candidates."""
    calls: list[Call] = []
    for one in conversation(draw, turns):
        calls.append(one)
        if one.role == "planner":
            others = [[draw.randrange(5, 300) for _ in range(draw.randrange(1, 9))] for _ in range(2)]
            calls += [replace(one, ids=ids, logprobs=[-6.0] * len(ids), selected=False) for ids in others]
    return calls


def test_candidates_that_were_not_selected_are_left_out_or_rows_of_their_own() -> None:
    calls = planned(Random(4), 3)
    followed = [one for one in calls if one.selected]
    plain, alone = batch_of([episode(calls)]), batch_of([episode(followed)])
    assert [row.tolist() for row in plain.rows] == [row.tolist() for row in alone.rows]
    assert torch.equal(plain.token_position, alone.token_position)
    assert plain.followed.all()
    both = collate([episode(calls)], ROLES, step=0, version=0, groups=8, unselected=True)
    assert [row.tolist() for row in both.rows[1:]] == [one.prompt + one.ids for one in calls if not one.selected]
    assert both.rows[0].tolist() == plain.rows[0].tolist()
    assert both.followed.tolist() == [one.selected for one in calls]
    assert len(both.token_call) == sum(len(one.ids) for one in calls)
    assert sum(len(micro_batch.token_call) for micro_batch in both.micro_batches([0], 40)) == len(both.token_call)


def test_an_episode_without_a_reward_leaves_nothing_to_learn() -> None:
    kept = [episode(conversation(Random(1), 2), sample=0), episode(conversation(Random(3), 2), sample=2)]
    broken = episode(conversation(Random(2), 2), sample=1, reward=None)
    batch = batch_of([kept[0], broken, kept[1]])
    assert set(batch.row_episode) == set(batch.call_episode.tolist()) == {0, 2}
    assert batch.rewards.isnan().tolist() == [False, True, False]
    alone = batch_of(kept)
    assert [row.tolist() for row in batch.rows] == [row.tolist() for row in alone.rows]
    assert batch.tokens([0, 2]) == batch.tokens([0, 1, 2]) == alone.tokens([0, 1]) > 0
    assert (batch.tokens([1]), batch.tokens([])) == (0, 0)


def test_empty_replies_and_batches_are_legal() -> None:
    said = call("executor", [5, 6], [7])
    silent = call("executor", [5, 6, 7, 8], [])
    batch = batch_of([episode([said, silent]), episode([silent]), episode([])])
    assert [row.tolist() for row in batch.rows] == [[5, 6, 7]]
    for nothing in ([], [episode([])], [episode([silent])]):
        empty = batch_of(nothing)
        assert list(empty.micro_batches(range(len(nothing)), 64)) == []
        assert empty.tokens(range(len(nothing))) == 0


def test_outcomes_become_flags() -> None:
    ends: list[tuple[Outcome, Ending]] = [("solved", "environment"), ("failed", "environment")]
    ends += [("truncated", "turn_limit"), ("truncated", "context")]
    batch = batch_of([replace(episode([]), outcome=how, ended_by=by, sample=i) for i, (how, by) in enumerate(ends)])
    assert batch.success.tolist() == [True, False, False, False]
    assert batch.terminated.tolist() == [True, True, True, False]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_parts_hold_each_group_once_and_whole_and_are_alike_in_size(count: int) -> None:
    episodes = [episode([], group=g, sample=s) for g in range(10) for s in range(4)]
    batch = batch_of(episodes, groups=10)
    parts = batch.minibatches(count, seed=3)
    assert len(parts) == min(count, 10)
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert max(map(len, parts)) - min(map(len, parts)) <= 4
    assert all(len(part) == 4 * len({episodes[i].group for i in part}) for part in parts)
    assert parts == batch.minibatches(count, seed=3)
    assert count == 1 or parts != batch.minibatches(count, seed=4)


def siblings(count: int, seed: int = 0) -> list[Episode]:
    """Groups of four that begin alike, two and two alike for longer, the fourth as the third but for its reward."""
    made = []
    for group in range(count):
        draw, calls = Random(f"{seed} {group}"), list[list[Call]]()
        start = conversation(draw, 3)
        for cut in (2, 4, 4):
            prompt = start[cut].prompt + start[cut].ids
            more = [draw.randrange(0, 300) for _ in range(draw.randrange(4, 20))]
            last = call("executor", prompt + more[:-3], more[-3:], logprobs=[-6.0] * 3, turn=9)
            calls.append([*start[: cut + 1], last])
        made += [episode(own, group=group, sample=i, reward=draw.random()) for i, own in enumerate([*calls, calls[-1]])]
    return made


@pytest.mark.parametrize("budget", [1, 50, 200, 10_000])
@pytest.mark.parametrize("alike", [False, True])
def test_micro_batches_hold_each_row_once_within_their_budget(budget: int, alike: bool) -> None:
    episodes = siblings(3) if alike else ragged(12)
    batch = batch_of(episodes)
    micro_batches = list(batch.micro_batches(range(12), budget))
    assert sum(len(micro_batch.fresh) for micro_batch in micro_batches) == len(batch.rows)
    assert all(
        len(micro_batch.ids) <= budget or len(micro_batch.ids) == micro_batch.lengths[0]
        for micro_batch in micro_batches
    )
    assert torch.cat([micro_batch.call for micro_batch in micro_batches]).sort()[0].tolist() == list(
        range(len(batch.call_row))
    )
    assert (
        torch.cat([micro_batch.token_call for micro_batch in micro_batches]).sort()[0].tolist()
        == batch.token_call.sort()[0].tolist()
    )
    some = list(batch.micro_batches([2, 5], budget))
    assert sum(len(micro_batch.fresh) for micro_batch in some) == sum(e in (2, 5) for e in batch.row_episode)


@pytest.mark.parametrize("budget", [1, 50, 200, 10_000])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("made", [siblings(3), ragged(12)], ids=["alike", "ragged"])
def test_ranks_get_as_many_micro_batches_each_and_none_larger_than_need_be(
    budget: int, count: int, made: list[Episode]
) -> None:
    batch = batch_of(made)
    alone = batch.micro_batches(range(12), budget)
    batch.ranks = count
    several = batch.micro_batches(range(12), budget)
    assert sum(len(micro.fresh) for micro in several) == len(batch.rows)
    assert -(-len(several) // count) == -(-len(alone) // count)  # no rank runs one more
    sizes = [sorted(len(micro.ids) for micro in cut) for cut in (alone, several)]
    assert sizes[1][-1] <= sizes[0][-1]
    if budget == 10_000:
        assert len(alone) == 1
        assert len(several) == count
        assert sizes[1][-1] - sizes[1][0] <= max(len(row) for row in batch.rows)  # alike to a row


def test_pieces_for_ranks_are_alike_in_what_they_run() -> None:
    """Nine rows of 100 tokens share 99, 108 in all; then come four of 40. Copies of what is shared take room, but no time."""
    rows = [100] * 9 + [40] * 4, [99] * 8 + [0] * 4
    assert batches.cut(*rows, 1000, batches.even(*rows, 1000, 2)) == [0, 10, 13]
    assert batches.cut(*rows, 210, batches.even(*rows, 210, 2)) == [0, 9, 13]  # where there is no such room


def test_rows_are_a_trie_whose_paths_spell_them() -> None:
    batch = batch_of(siblings(3))
    [micro_batch] = batch.micro_batches(range(12), 10**6)
    beginnings = {tuple(row[:end]) for row in map(Tensor.tolist, batch.rows) for end in range(1, len(row) + 1)}
    assert len(micro_batch.ids) == len(beginnings) < sum(map(len, batch.rows)) / 2  # each node once
    rows = micro_batch.ids[micro_batch.path].split(micro_batch.lengths)
    assert sorted(row.tolist() for row in rows) == sorted(row.tolist() for row in batch.rows)
    for path, fresh in zip(micro_batch.path.split(micro_batch.lengths), micro_batch.fresh, strict=True):
        assert micro_batch.position[path].tolist() == list(range(len(path)))
        assert path[len(path) - fresh :].diff().tolist() == [1] * (fresh - 1)
    for state, sampled, number in zip(
        micro_batch.token_state, micro_batch.sampled, micro_batch.token_call, strict=True
    ):
        one = batch.trained[int(number)]
        assert one
        assert int(sampled) in one.ids
        assert int(micro_batch.position[state]) + 1 in range(len(one.prompt), len(one.prompt) + len(one.ids))


# With a model


def loss_of(policy: Policy, batch: Batch, micro_batches: Iterable[MicroBatch], advantages: Tensor) -> Tensor:
    """GRPO's loss with an advantage for each call, and its gradient in the model."""
    total = torch.zeros(())
    for micro_batch in micro_batches:
        logprobs = policy(micro_batch, temperature=1.3).logprobs
        part, _ = grpo.loss(
            logprobs, micro_batch.logprobs, advantages[micro_batch.token_call], len(batch.logprobs), 0.2, 0.2, 3.0
        )
        part.backward()
        total += part.detach()
    return total


def learned(policy: Policy) -> Tensor:
    """The gradient, flat, which is then forgotten."""
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    policy.zero_grad()
    return gradient


def credit(batch: Batch) -> Tensor:
    """Something that differs from call to call, and belongs to it wherever it stands."""
    return torch.tensor([(sum(batch.rows[int(r)].tolist()) % 17 - 8) / 8 for r in batch.call_row])


@pytest.mark.parametrize("alike", [False, True])
def test_loss_and_gradient_do_not_depend_on_how_a_batch_is_cut_and_ordered(model: Any, alike: bool) -> None:
    """One row each shares nothing with another; a trie of all of them all that can be."""
    policy, episodes = Policy(model, critic=False), siblings(3) if alike else ragged(12)
    batch = batch_of(episodes)
    loss = loss_of(policy, batch, batch.micro_batches(range(12), 1), credit(batch))
    gradient = learned(policy)
    other = batch_of(episodes[::-1])
    ways: dict[str, tuple[Batch, Callable[[], Iterable[MicroBatch]]]] = {
        "all at once": (batch, lambda: batch.micro_batches(range(12), 10**6)),
        "a few rows": (batch, lambda: batch.micro_batches(range(12), 150)),
        "in two halves": (
            batch,
            lambda: [m for half in (range(6), range(6, 12)) for m in batch.micro_batches(half, 300)],
        ),
        "other order": (other, lambda: other.micro_batches(range(12), 300)),
        "rows as they come": (batch, lambda: [batch.micro_batch(range(len(batch.rows)))]),
    }
    for way, (held, micro_batches) in ways.items():
        again = loss_of(policy, held, micro_batches(), credit(held))
        assert abs(float(again - loss)) <= 1e-6 * abs(float(loss)), way
        assert (learned(policy) - gradient).norm() <= 1e-6 * gradient.norm(), way


def test_a_token_sees_its_own_row_and_no_other(model: Any) -> None:
    """Bit for bit: another ending of a sibling moves nothing outside of itself."""
    policy, start = Policy(model, critic=False), [10, 11, 12, 13, 14]
    ends = [[20, 21, 22], [30, 31, 32, 33]]
    for changed in (0, 1):
        seen = []
        for tail in (ends[changed], [40, 41, 42, 43][: len(ends[changed])]):
            rows = [start + (tail if number == changed else end) for number, end in enumerate(ends)]
            batch = batch_of([episode([call("executor", row[:6], row[6:])], sample=i) for i, row in enumerate(rows)])
            scored = policy(batch.micro_batch([0, 1]), temperature=1.0).logprobs
            seen.append(scored[(batch.token_row != changed)])
        assert torch.equal(*seen)


def test_with_the_world_every_token_but_the_first_is_trained_once() -> None:
    episodes, plain = ragged(6), batch_of(ragged(6))
    batch = collate(episodes, ROLES, step=0, version=0, groups=8, observation_weight=0.25)
    trained = sorted(zip(batch.token_row.tolist(), batch.token_position.tolist(), strict=True))
    assert trained == [(r, place) for r, row in enumerate(batch.rows) for place in range(1, len(row))]
    sampled = batch.call_weight[batch.token_call] == 1
    assert torch.equal(batch.token_position[sampled], plain.token_position)
    assert set(batch.call_weight[batch.call_turn == 0].tolist()) == {0.25}
    assert plain.call_turn.min() > 0


@pytest.mark.parametrize("unselected", [False, True])
@pytest.mark.parametrize("trains", [["executor"], ["planner"]])
def test_no_gradient_reaches_a_position_that_predicts_nothing_trained(
    model: Any, trains: list[str], unselected: bool
) -> None:
    """Logits at tokens of the other role and of observations get exactly zero, whatever the advantage."""
    episodes = [*ragged(6), episode(planned(Random(5), 3), group=2)]
    batch = collate(episodes, trains, step=0, version=0, groups=8, unselected=unselected)
    policy, aside = Policy(model, critic=False), 6 if unselected and trains == ["planner"] else 0
    assert len(batch.call_row) == aside + sum(
        one.role in trains and one.selected for e in episodes if e.reward is not None for one in e.calls
    )
    micro_batch = batch.micro_batch(range(len(batch.rows)))
    micro_batch = replace(
        micro_batch, logprobs=policy(micro_batch, temperature=1.3).logprobs.detach()
    )  # ratio 1: nothing is clipped
    states: list[Tensor] = []
    model.get_decoder().register_forward_hook(lambda module, args, out: keep(states, out.last_hidden_state))
    loss_of(policy, batch, [micro_batch], torch.full((len(batch.call_row),), 2.0))
    reached = torch.zeros(micro_batch.ids.shape, dtype=torch.bool)
    reached[micro_batch.token_state] = True
    assert states[0].grad is not None
    gradient = states[0].grad[0]
    assert (gradient[~reached] == 0).all()
    assert (gradient[reached].abs().sum(-1) > 0).all()
    assert 0 < reached.sum() < reached.numel() / 2


def keep(states: list[Tensor], state: Tensor) -> None:
    state.retain_grad()
    states.append(state)


def test_a_value_is_read_at_the_last_token_of_a_prompt(model: Any) -> None:
    policy = Policy(model, critic=True)
    assert policy.value is not None
    torch.nn.init.normal_(policy.value.weight)
    episodes = ragged(6, branches=False)
    batch = batch_of(episodes, ["executor"])
    values = policy(batch.micro_batch(range(len(batch.rows))), temperature=1.0).values
    calls = [c for one in episodes if one.reward is not None for c in one.calls if c.role == "executor"]
    for value, one in zip(values, calls, strict=True):  # ... so it knows the prompt and nothing of the reply
        hidden = model.get_decoder()(input_ids=torch.tensor([one.prompt]), use_cache=False).last_hidden_state
        torch.testing.assert_close(value, policy.value(hidden[0, -1])[0], atol=1e-4, rtol=1e-4)


def test_an_algorithm_is_told_what_each_call_saw_followed_and_brought() -> None:
    """Equal observations and equal plans have equal numbers, also across episodes; the reward is of the call's own turn."""

    def calls(plan: tuple[str, ...]) -> list[Call]:
        return [call(role, [1], [2], turn=t, plan=plan) for t in (1, 2, 3) for role in ROLES]

    batch = batch_of([episode(calls(("a",))), episode(calls(("b",)), sample=1)])
    told = batch.played(torch.empty(0))
    assert told.role.tolist() == [0, 1] * 6
    assert told.turn.tolist() == [1, 1, 2, 2, 3, 3] * 2
    assert told.observation.tolist() == [0, 0, 0, 0, 1, 1] * 2  # "look", "look", "seen 2"
    assert told.plan.tolist() == [0] * 6 + [1] * 6
    assert told.step_rewards.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0] * 2


def test_the_words_of_the_environment_have_no_role_and_no_reward() -> None:
    batch = collate(ragged(2), ROLES, step=0, version=0, groups=8, observation_weight=0.25)
    told = batch.played(torch.empty(0))
    assert (told.role[told.turn == 0] == -1).all()
    assert (told.role[told.turn > 0] >= 0).all()
    assert (told.step_rewards[told.turn == 0] == 0).all()
