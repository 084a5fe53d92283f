"""What an executor is shown of the plan (agent.shows), word for word, in both layouts; and what an expert thinks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import NO_THOUGHT
from pilotrl.envs.toy import ToyEnv
from pilotrl.prompts import load as load_prompts
from pilotrl.prompts.parsing import parse_action
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.training.batch import rows_of
from pilotrl.types import Call, Episode, Task

SHOWS = ("step", "plan", "none")
PLANS = ("1. push red\n2. push blue\n3. push gold", "2. push plum\n3. rest", "3. end")
SCRIPT = (PLANS[0], "Action: press[red]", PLANS[1], "Action: press[blue]", PLANS[2], "Action: press[gold]")
PROMPTS = {
    ("append", "step"): "P|plan 1 A|1. push red\n2. push blue\n3. push gold P|act 1. push red A|Action: press[red] "
    "P|You pressed red. 1 of 3 done.\nplan 2 A|2. push plum\n3. rest P|act 2. push plum A|",
    ("append", "plan"): "P|plan 1 A|1. push red\n2. push blue\n3. push gold "
    "P|plan:\n1. push red\n2. push blue\n3. push gold\nact 1 A|Action: press[red] "
    "P|You pressed red. 1 of 3 done.\nplan 2 A|2. push plum\n3. rest P|plan:\n2. push plum\n3. rest\nact 2 A|",
    ("append", "none"): "P|plan 1 A|1. push red\n2. push blue\n3. push gold P|act 1 A|Action: press[red] "
    "P|You pressed red. 1 of 3 done.\nplan 2 A|2. push plum\n3. rest P|act 2 A|",
    ("current", "step"): "A|Action: press[red] P|You pressed red. 1 of 3 done.\nact 2. push plum A|",
    ("current", "plan"): "A|Action: press[red] "
    "P|You pressed red. 1 of 3 done.\nplan:\n1. push red\n2. push plum\n3. rest\nact 2 A|",
    ("current", "none"): "A|Action: press[red] P|You pressed red. 1 of 3 done.\nact 2 A|",
}
"""The prompt for the second action, after the first observation."""


def words(agent_spec: AgentSpec, call: Call) -> str:
    """A prompt with P for the user's turns and A for the assistant's, without the first observation."""
    text = agent_spec.chat.decode(call.prompt)
    for mark, short in {"<|end|>": " ", "<|user|>": "P|", "<|assistant|>": "A|"}.items():
        text = text.replace(mark, short)
    return text.replace("P|Press red, then blue, then gold. ", "").replace("Press red, then blue, then gold.\n", "")


def played(agent_spec: AgentSpec, script: tuple[str, ...] = SCRIPT, **changes: Any) -> Episode:
    said: Iterator[str] = iter(script)
    agent = replace(agent_spec, **changes)
    agent = replace(agent, prompts=load_prompts("short", agent.plans, agent.shows))
    spec = EpisodeSpec(Task("toy", "red-blue-gold", "train", 0), 0, 0, agent)
    return run_episodes([spec], RedBlueGold, ScriptedPolicy(agent.chat, lambda _: next(said)), (0, "train", 0))[0]


class RedBlueGold(ToyEnv):
    def __init__(self) -> None:
        super().__init__(split="train", max_turns=4, seed=0)
        self.tasks = ["red-blue-gold"]


@pytest.mark.parametrize(("layout", "shows"), list(PROMPTS))
def test_an_executor_sees_of_the_plan_what_shows_says(agent_spec: AgentSpec, layout: str, shows: str) -> None:
    calls = played(agent_spec, context=layout, shows=shows).calls
    assert words(agent_spec, calls[3]) == PROMPTS[layout, shows]


@pytest.mark.parametrize("shows", SHOWS)
def test_the_planner_sees_its_plan_whatever_the_executor_is_shown(agent_spec: AgentSpec, shows: str) -> None:
    said = words(agent_spec, played(agent_spec, context="current", shows=shows).calls[2])
    assert said.endswith("1 of 3 done.\nplan:\n1. push red\n2. push blue\n3. push gold\nplan 2 A|")


@pytest.mark.parametrize("shows", ["step", "plan"])
@pytest.mark.parametrize("layout", ["append", "current"])
def test_one_that_thinks_sees_the_same(agent_spec: AgentSpec, layout: str, shows: str) -> None:
    script = tuple(text.replace("Action", "Thought: so be it\nAction") for text in SCRIPT)
    call = played(agent_spec, script, context=layout, shows=shows, thinks=True).calls[3]
    seen = {"step": "2. push plum", "plan": "2. push plum\n3. rest"}[shows]
    whole = "1. push red\n" if (layout, shows) == ("current", "plan") else ""
    assert words(agent_spec, call).endswith(f"plan:\n{whole}{seen}\nthink A|")


@pytest.mark.parametrize("shows", SHOWS)
def test_without_a_step_for_a_turn_only_the_action_is_asked_for(agent_spec: AgentSpec, shows: str) -> None:
    script = ("1. push red", "Action: press[red]", "Action: press[blue]", "Action: press[gold]")
    last = played(agent_spec, script, plans="once", shows=shows).calls[-1]
    assert words(agent_spec, last).endswith("act 3 A|" if shows == "none" else "\nact A|")


@pytest.mark.parametrize("thinks", [False, True])
def test_where_nobody_plans_requests_have_no_number(agent_spec: AgentSpec, thinks: bool) -> None:
    thought = "Thought: so be it\n" if thinks else ""
    script = tuple(thought + text for text in SCRIPT[1::2])
    calls = played(agent_spec, script, plans="never", shows="none", thinks=thinks).calls
    assert [words(agent_spec, call).rsplit("\n", 1)[-1] for call in calls[1:]] == [
        "think A|" if thinks else "act A|"
    ] * 2


@pytest.mark.parametrize("shows", SHOWS)
def test_calls_stay_one_row_and_know_their_plan(agent_spec: AgentSpec, shows: str) -> None:
    """In the layout `append` each prompt continues the one before, so that the trie runs every token once."""
    episode = played(agent_spec, shows=shows)
    assert [len(row) for row in rows_of(episode.calls)] == [6]
    assert [call.role for call in episode.calls] == ["planner", "executor"] * 3
    assert [call.plan for call in episode.calls] == [call.plan for call in played(agent_spec).calls]
    assert episode.turns == played(agent_spec).turns


def test_a_demonstrated_thought_is_the_experts_own(agent_spec: AgentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, Any] = {"plans": "never", "shows": "none", "thinks": True, "demonstrates": True}
    replies = [turn.reply for turn in played(agent_spec, (), **shown).turns]
    assert replies[1] == "Thought: 1 of 3 done; blue, gold left\nAction: press[blue]"
    monkeypatch.setattr("pilotrl.envs.toy.ToyExpert.thought", lambda self: "over\n two lines ")
    assert played(agent_spec, (), **shown).turns[0].reply == "Thought: over two lines\nAction: press[red]"


def test_an_expert_without_thoughts_demonstrates_a_dash(agent_spec: AgentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply with an empty thought could not be read."""
    shown: dict[str, Any] = {"plans": "never", "shows": "none", "thinks": True, "demonstrates": True}
    monkeypatch.setattr("pilotrl.envs.toy.ToyExpert.thought", lambda self: " ")
    empty = played(agent_spec, (), **shown)
    monkeypatch.delattr("pilotrl.envs.toy.ToyExpert.thought")
    episode = played(agent_spec, (), **shown)
    assert [turn.reply for turn in empty.turns] == [turn.reply for turn in episode.turns]
    assert episode.turns[0].reply == f"Thought: {NO_THOUGHT}\nAction: press[red]"
    assert parse_action(episode.turns[0].reply, thinks=True) == "press[red]"
