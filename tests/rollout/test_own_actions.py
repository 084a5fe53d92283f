"""Demonstrations along the policy's own way (DAgger): it acts, and what the expert would do there is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import load
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.training.batch import collate
from pilotrl.types import Episode, Task

WAIT = "Action: wait"
TASKS = [name for name in load("toy", split="train").tasks if name.count("-") == 2][:30]


def played(agent_spec: AgentSpec, share: float, says: str = WAIT, **changes: str) -> list[Episode]:
    """Demonstrations in which the policy always says the same where it acts."""
    agent = replace(agent_spec, demonstrates=True, own_actions=share, **changes)  # type: ignore[arg-type]
    specs = [EpisodeSpec(Task("toy", name, "train", 0), group, 0, agent) for group, name in enumerate(TASKS)]
    engine = ScriptedPolicy(agent_spec.chat, lambda prompt: says)
    return run_episodes(specs, lambda: load("toy", split="train"), engine, (0, "train", 0))


def said(agent_spec: AgentSpec, episode: Episode) -> list[str]:
    """What the expert did, a turn each, as it is recorded."""
    return [agent_spec.chat.decode(call.ids) for call in episode.calls if call.role == "executor"]


def test_the_policy_acts_and_the_expert_is_recorded(agent_spec: AgentSpec) -> None:
    for episode in played(agent_spec, 1.0):
        first = episode.task.id.split("-")[0]
        assert {turn.action for turn in episode.turns} == {"wait"}
        assert said(agent_spec, episode) == [f"Action: press[{first}]"] * len(episode.turns), "it is still due"
        assert episode.outcome == "truncated"
        assert episode.tokens == len(episode.turns) * len(agent_spec.chat.reply(WAIT))


def test_the_expert_goes_on_from_wherever_the_policy_went(agent_spec: AgentSpec) -> None:
    """Half of the turns are the policy's; the expert's action is that of the state which was reached."""
    episodes = played(agent_spec, 0.5)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert 0.35 < sum(turn.action == "wait" for turn in turns) / len(turns) < 0.65
    for episode in episodes:
        colors, pressed = episode.task.id.split("-"), 0
        for turn, reply in zip(episode.turns, said(agent_spec, episode), strict=True):
            assert reply == f"Action: press[{colors[pressed]}]"
            pressed += turn.action != "wait"


@pytest.mark.parametrize("context", ["append", "current"])
def test_what_is_learned_is_the_experts_alone(agent_spec: AgentSpec, context: str) -> None:
    """The policy's own words are read, and never predicted: seen from the tensors."""
    chat, episodes = agent_spec.chat, played(agent_spec, 0.5, context=context)
    for episode in episodes:
        episode.reward = 1.0
    batch = collate(episodes, ["planner", "executor"], step=0, version=0, groups=len(episodes))
    learned: dict[int, list[int]] = {}
    for row, place, call in zip(batch.token_row, batch.token_position, batch.token_call, strict=True):
        learned.setdefault(int(call), []).append(int(batch.rows[int(row)][int(place)]))
    texts = [chat.decode(ids) for ids in learned.values()]
    assert sum(text.startswith("Action: press") for text in texts) == sum(len(e.turns) for e in episodes)
    assert not any("wait" in text for text in texts)
    assert any("Action: wait" in chat.decode(row.tolist()) for row in batch.rows)


def test_with_none_the_demonstrations_are_the_experts_and_with_its_very_actions_too(agent_spec: AgentSpec) -> None:
    """Where the policy does what the expert does, nothing but who spoke is different."""
    name = TASKS[0].split("-")
    plain = played(agent_spec, 0.0)[0]
    agent = replace(agent_spec, demonstrates=True, own_actions=1.0)
    engine = ScriptedPolicy(agent_spec.chat, lambda prompt: f"Action: press[{name[prompt.count('You pressed')]}]")
    spec = EpisodeSpec(Task("toy", TASKS[0], "train", 0), 0, 0, agent)
    (own,) = run_episodes([spec], lambda: load("toy", split="train"), engine, (0, "train", 0))
    assert own.calls == plain.calls
    assert (own.turns, own.outcome, plain.tokens) == (plain.turns, "solved", 0)
    assert own.tokens > 0


def test_a_policy_that_acts_has_to_have_the_weights_of_the_step(
    agent_spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(ScriptedPolicy, "take", lambda self, version: taken.append(version))
    played(replace(agent_spec, version=7), 0.5)
    assert taken == [7]
