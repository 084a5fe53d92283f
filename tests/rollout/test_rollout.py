"""Episodes and the rollout scheduler: Algorithm 1 holds for any replies, failures, and order of finishing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotrl.engine import Engine
from pilotrl.engine.local import LocalEngine
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs import Expert, Info, load
from pilotrl.envs.toy import ToyEnv
from pilotrl.prompts import load as load_prompts
from pilotrl.prompts.chat import Chat
from pilotrl.prompts.parsing import number, parse_plan
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec, due, likelihood, seed_of
from pilotrl.rollout.scheduler import ATTEMPTS, run_episodes
from pilotrl.store.records import from_record, to_record
from pilotrl.store.run_folder import Lines
from pilotrl.types import Episode, Reply, Request, Task, UserError, WorldError

KEY = (0, "train", 0)
UNAMBIGUOUS = (1, "train", 0)
"""Where no draw falls so close to the edge between two tokens that rounding decides, as one in some ten thousand does."""


def make_env() -> ToyEnv:
    env = load("toy", split="train")
    assert isinstance(env, ToyEnv)
    return env


def specs(agent_spec: AgentSpec, tasks: int = 1, samples: int = 1) -> list[EpisodeSpec]:
    """Tasks of three colors, so that there are three turns to look at."""
    names = [name for name in make_env().tasks if name.count("-") == 2][:tasks]
    return [
        EpisodeSpec(Task("toy", name, "train", 0), g, s, agent_spec)
        for g, name in enumerate(names)
        for s in range(samples)
    ]


def asked(prompt: str) -> tuple[list[str], str, int]:
    """The colors that the instruction names, and the role and turn of a prompt (0: there is no current plan step)."""
    colors = re.findall(r"Press (\w+), then (\w+), then (\w+)\.", prompt)[0]
    found = re.search(r"\b(plan|act)(?: (\d+)(?:\. .*)?)?<\|end\|><\|assistant\|>$", prompt)
    assert found, prompt
    return list(colors), found[1], int(found[2] or 0)


def able(prompt: str) -> str:
    """Plans and presses what the instruction names."""
    colors, role, turn = asked(prompt)
    steps = [f"push the {color} button" for color in colors]
    return (
        number(steps[turn - 1 :], turn) if role == "plan" else f"Action: press[{colors[prompt.count('You pressed')]}]"
    )


def planning(plans: dict[int, str]) -> Callable[[str], str]:
    """Presses the right button; its plans are given, turn by turn."""

    def script(prompt: str) -> str:
        _, role, turn = asked(prompt)
        return plans[turn] if role == "plan" else able(prompt)

    return script


def one(agent_spec: AgentSpec, script: Callable[[str], str], env: Callable[[], ToyEnv] = make_env) -> Episode:
    return run_episodes(specs(agent_spec), env, ScriptedPolicy(agent_spec.chat, script), KEY)[0]


@dataclass
class Watched:
    """An engine that records its requests, and how many there were when it was told to take the weights, or to rest."""

    engine: Engine
    requests: list[Request] = field(default_factory=list)
    released: list[tuple[int, int]] = field(default_factory=list)
    told: list[tuple[str, int]] = field(default_factory=list)

    @property
    def slots(self) -> int:
        return self.engine.slots

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self.engine.submit(request)

    def step(self) -> list[Reply]:
        return self.engine.step()

    def release(self, session: tuple[int, int]) -> None:
        self.released.append(session)
        self.engine.release(session)

    def take(self, version: int) -> None:
        self.told.append((f"take {version}", len(self.requests)))

    def rest(self) -> None:
        self.told.append(("rest", len(self.requests)))

    def close(self) -> None:
        """Nothing is held."""


class Slow(ScriptedPolicy):
    """Finishes the newest request first, one a step."""

    def step(self) -> list[Reply]:
        return [self._reply(self.waiting.pop())]


class Tired(ToyEnv):
    """Fails at its `fails_at`-th step since it was made."""

    fails_at, steps, made = 2, 0, 0

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.steps += 1
        if self.steps == self.fails_at:
            raise WorldError("the server is gone")
        return super().step(action)


def test_an_episode_goes_as_algorithm_1_says(agent_spec: AgentSpec) -> None:
    episode = one(agent_spec, able)
    assert [(call.role, call.turn) for call in episode.calls] == [
        (r, t) for t in (1, 2, 3) for r in ("planner", "executor")
    ]
    colors = episode.task.id.split("-")
    plan = tuple(f"push the {color} button" for color in colors)
    assert [turn.plan for turn in episode.turns] == [plan] * 3
    assert [call.plan for call in episode.calls] == [(), *[plan] * 5]
    assert [turn.action for turn in episode.turns] == [f"press[{color}]" for color in colors]
    assert [turn.observation for turn in episode.turns] == [
        f"You pressed {color}. {i} of 3 done." for i, color in enumerate(colors, 1)
    ]
    assert [turn.score for turn in episode.turns] == [1 / 3, 2 / 3, 1.0]
    assert [turn.reward for turn in episode.turns] == [1 / 3] * 3
    assert (episode.outcome, episode.score, episode.par) == ("solved", 1.0, 3)
    assert episode.tokens == sum(len(call.ids) for call in episode.calls)
    assert all(turn.well_formed and turn.valid for turn in episode.turns)


def test_a_plan_is_asked_for_after_the_observation_and_before_the_action(agent_spec: AgentSpec) -> None:
    prompts: list[str] = []

    def script(prompt: str) -> str:
        prompts.append(prompt)
        return able(prompt)

    one(agent_spec, script)
    assert "1 of 3 done" not in prompts[1]
    assert prompts[2].index("1. push") < prompts[2].index("1 of 3 done")
    assert prompts[2].endswith("plan 2<|end|><|assistant|>")
    assert re.search(r"act 2\. push the \w+ button<\|end\|><\|assistant\|>$", prompts[3])


def test_steps_of_past_turns_never_change(agent_spec: AgentSpec) -> None:
    episode = one(
        agent_spec, planning({1: "1. a\n2. b\n3. c\n4. d", 2: "2. B\n3. C", 3: "3. the last\n4. and more\n5. yet"})
    )
    assert [turn.plan for turn in episode.turns] == [
        ("a", "b", "c", "d"),
        ("a", "B", "C"),
        ("a", "B", "the last", "and more", "yet"),
    ]


def test_a_malformed_plan_leaves_the_current_plan_as_it_was(agent_spec: AgentSpec) -> None:
    episode = one(agent_spec, planning({1: "1. a\n2. b\n3. c", 2: "I would rather not", 3: "3. C"}))
    assert [turn.plan for turn in episode.turns] == [("a", "b", "c"), ("a", "b", "c"), ("a", "b", "C")]
    assert [turn.well_formed for turn in episode.turns] == [True, False, True]


@pytest.mark.parametrize("layout", ["append", "current"])
@pytest.mark.parametrize("first", ["", "1. only this"])
def test_step_i_is_for_action_i_even_where_a_turn_had_no_step(agent_spec: AgentSpec, layout: str, first: str) -> None:
    episode = one(replace(agent_spec, context=layout), planning({1: first, 2: "nothing", 3: "3. the third"}))
    assert [len(turn.plan) > i for i, turn in enumerate(episode.turns)] == [bool(first), False, True]
    assert episode.turns[2].plan[2] == "the third"
    asks = [
        agent_spec.chat.decode(call.prompt).rsplit("\n", 1)[-1] for call in episode.calls if call.role == "executor"
    ]
    named = re.compile(r"act 3\. the third<")
    assert [bool(named.search(ask)) for ask in asks] == [False, False, True]


def test_a_malformed_action_costs_a_turn(agent_spec: AgentSpec) -> None:
    def script(prompt: str) -> str:
        _, role, turn = asked(prompt)
        return " press[red] please " if (role, turn) == ("act", 2) else able(prompt)

    episode = one(agent_spec, script)
    assert [(turn.action, turn.well_formed, turn.valid) for turn in episode.turns[1:2]] == [
        ("press[red] please", False, False)
    ]
    assert episode.turns[1].observation == "Nothing happens."


@pytest.mark.parametrize(("action", "outcome", "turns"), [("press[x]", "truncated", 4), ("wrong", "failed", 1)])
def test_a_limit_truncates_and_the_environment_fails_an_episode(
    agent_spec: AgentSpec, action: str, outcome: str, turns: int
) -> None:
    def script(prompt: str) -> str:
        colors, role, _ = asked(prompt)
        wrong = next(color for color in ("red", "blue") if color != colors[0])
        return able(prompt) if role == "plan" else f"Action: {action if action != 'wrong' else f'press[{wrong}]'}"

    episode = one(agent_spec, script)
    assert (episode.outcome, len(episode.turns), episode.score) == (outcome, turns, 0.0)
    assert episode.ended_by == {"truncated": "turn_limit", "failed": "environment"}[outcome]


def test_a_full_context_truncates_before_the_environment_is_stepped(agent_spec: AgentSpec) -> None:
    whole = one(agent_spec, able)
    stepped: list[str] = []

    class Counted(ToyEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
            stepped.append(action)
            return super().step(action)

    def counted() -> ToyEnv:
        return Counted(split="train", max_turns=4, seed=0)

    for number_of_calls, call in enumerate(whole.calls):
        stepped.clear()
        room = len(call.prompt) + agent_spec.max_tokens[call.role]
        short = one(replace(agent_spec, max_length=room - 1, max_tokens={"planner": 48, "executor": 48}), able, counted)
        assert (short.outcome, short.ended_by) == ("truncated", "context")
        assert len(short.calls) <= number_of_calls
        assert len(stepped) == len(short.turns) == sum(call.role == "executor" for call in short.calls)
    enough = len(whole.calls[-1].prompt) + 48
    limits: Any = {"planner": 48, "executor": 48}
    fits = one(replace(agent_spec, max_length=enough, max_tokens=limits), able)
    assert (fits.outcome, fits.ended_by) == ("solved", "environment")


@pytest.mark.parametrize("reply", ["", " ", "\n", "<|end|>", "Action:", "1."])
@pytest.mark.parametrize("layout", ["append", "current"])
def test_any_reply_is_legal(agent_spec: AgentSpec, reply: str, layout: str) -> None:
    episode = one(replace(agent_spec, context=layout), lambda prompt: reply)
    assert (episode.outcome, len(episode.turns)) == ("truncated", 4)
    assert not any(turn.well_formed or turn.plan for turn in episode.turns)


def test_a_reply_without_any_token_is_legal(agent_spec: AgentSpec) -> None:
    class Mute(ScriptedPolicy):
        def _reply(self, request: Request) -> Reply:
            return Reply(request.session, [], [], "length")

    episode = run_episodes(specs(agent_spec), make_env, Mute(agent_spec.chat, able), KEY)[0]
    assert (episode.outcome, episode.tokens) == ("truncated", 0)


def test_paradigms_differ_in_who_plans_and_when(agent_spec: AgentSpec) -> None:
    def roles(**changes: Any) -> str:
        def script(prompt: str) -> str:
            colors = re.findall(r"Press (\w+), then (\w+), then (\w+)\.", prompt)[0]
            done = prompt.count("You pressed")
            if re.search(r"plan \d+<\|end\|><\|assistant\|>$", prompt):
                return "1. a\n2. b\n3. c"
            thought = "Thought: so be it\n" if prompt.endswith("think<|end|><|assistant|>") else ""
            return f"{thought}Action: press[{colors[done]}]"

        episode = one(replace(agent_spec, **changes), script)
        assert episode.outcome == "solved"
        return "".join(call.role[0] for call in episode.calls)

    assert roles() == "pepepe"
    assert roles(plans="once") == "peee"
    assert roles(plans="never") == "eee"
    assert roles(plans="never", thinks=True) == "eee"


def test_a_teacher_writes_plans_that_are_no_calls(agent_spec: AgentSpec) -> None:
    episode = one(replace(agent_spec, teacher_plans=True), able)
    colors = episode.task.id.split("-")
    assert [call.role for call in episode.calls] == ["executor"] * 3
    assert [turn.plan for turn in episode.turns] == [tuple(f"push the {color} button" for color in colors)] * 3
    assert f"2. push the {colors[1]} button" in agent_spec.chat.decode(episode.calls[1].prompt)
    assert episode.calls[1].plan == episode.turns[1].plan


def test_a_missing_expert_is_a_user_error(agent_spec: AgentSpec) -> None:
    class Alone(ToyEnv):
        @property
        def expert(self) -> None:  # type: ignore[override]
            return None

    with pytest.raises(UserError, match=r"stage\.planner"):
        one(replace(agent_spec, teacher_plans=True), able, lambda: Alone(split="train", max_turns=4, seed=0))


def demonstrate(agent_spec: AgentSpec, **changes: Any) -> list[Episode]:
    """Many demonstrations; the engine must get no request."""

    def never(prompt: str) -> str:
        raise AssertionError(prompt)

    expert = replace(agent_spec, teacher_plans=True, demonstrates=True, **changes)
    return run_episodes(specs(expert, 40), make_env, ScriptedPolicy(agent_spec.chat, never), KEY)


def test_demonstrations_are_calls_of_both_roles(agent_spec: AgentSpec) -> None:
    for episode in demonstrate(agent_spec):
        assert episode.outcome == "solved"
        assert [call.role for call in episode.calls] == ["planner", "executor"] * 3
        assert all(call.ids[-1] == agent_spec.chat.end and call.stop == "end" for call in episode.calls)
        assert all(call.logprobs == [0.0] * len(call.ids) for call in episode.calls)
        texts = [agent_spec.chat.decode(call.ids) for call in episode.calls]
        assert texts[1] == f"Action: press[{episode.task.id.split('-')[0]}]"
        assert texts[2].startswith("2. push the ")
        assert episode.tokens == 0


@pytest.mark.parametrize("plans", ["always", "once", "never"])
def test_detours_are_demonstrated_like_the_rest(
    agent_spec: AgentSpec, plans: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotrl.envs.toy.ToyExpert.detour", lambda self: "look around")
    changes: dict[str, Any] = {"detours": 0.3, "plans": plans, "thinks": plans == "never"}
    episodes = demonstrate(agent_spec, **changes)
    assert episodes == demonstrate(agent_spec, **changes)
    said = [agent_spec.chat.decode(c.ids) for episode in episodes for c in episode.calls if c.role == "executor"]
    assert said == [turn.reply for episode in episodes for turn in episode.turns]
    assert 0.15 < sum(text.endswith("Action: look around") for text in said) / len(said) < 0.45
    monkeypatch.setattr("pilotrl.envs.toy.ToyExpert.detour", lambda self: None)
    assert all(episode.outcome == "solved" for episode in demonstrate(agent_spec, **changes))


def test_a_share_of_demonstrations_follows_plans_that_nobody_learns_to_write(agent_spec: AgentSpec) -> None:
    """Loosely worded ones, the same tasks in every epoch; their plans are context, their actions are learned."""
    episodes = demonstrate(agent_spec, loose=0.5)
    assert episodes == demonstrate(agent_spec, loose=0.5)
    loose = [e for e in episodes if e.turns[0].plan[0] == "push the next button in order"]
    assert 0.2 < len(loose) / len(episodes) < 0.8
    for episode in episodes:
        roles = [call.role for call in episode.calls]
        assert roles.count("executor") == len(episode.turns)
        assert roles.count("planner") == (0 if episode in loose else len(episode.turns))
        read = agent_spec.chat.decode(episode.calls[-1].prompt)
        assert ("push the next button in order" in read) == (episode in loose)
    assert all(turn.meant for e in loose for turn in e.turns)


class Terse:
    """An expert with what every expert has to have."""

    def __init__(self, expert: Expert) -> None:
        self.plan, self.action, self.detour = expert.plan, expert.action, expert.detour


class Brief(Terse):
    """One with loose steps too, but no thoughts."""

    def loose(self) -> list[str]:
        return ["the next one"] * len(self.plan())


@pytest.mark.parametrize(("expert", "step"), [(Terse, "push the"), (Brief, "the next one")])
def test_a_warm_start_takes_experts_as_they_are(
    agent_spec: AgentSpec, monkeypatch: pytest.MonkeyPatch, expert: type[Terse], step: str
) -> None:
    """As those of one's own: loose plans are demonstrated by those that have them."""
    told: Any = ToyEnv.expert.fget
    monkeypatch.setattr(ToyEnv, "expert", property(lambda env: expert(told(env))))
    for episode in demonstrate(agent_spec, loose=1.0):
        assert episode.outcome == "solved"
        assert all(turn.plan[0].startswith(step) for turn in episode.turns)


def test_a_demonstration_ends_where_the_context_does(agent_spec: AgentSpec) -> None:
    whole = demonstrate(agent_spec)[0]
    for room in range(len(whole.calls[0].prompt), len(whole.calls[-1].prompt), 7):
        short = demonstrate(agent_spec, max_length=room)[0]
        assert short.outcome == "truncated"
        assert all(len(call.prompt) + len(call.ids) <= room for call in short.calls)


def test_an_episode_whose_environment_fails_is_run_again(agent_spec: AgentSpec) -> None:
    worlds: list[Tired] = []

    def made() -> Tired:
        worlds.append(Tired(split="train", max_turns=4, seed=0))
        worlds[-1].fails_at = 2 if len(worlds) < ATTEMPTS else 99
        return worlds[-1]

    engine = Watched(ScriptedPolicy(agent_spec.chat, able))
    episode = run_episodes(specs(agent_spec), made, engine, KEY)[0]
    assert (episode.outcome, len(episode.turns), len(episode.calls)) == ("solved", 3, 6)
    assert len(worlds) == ATTEMPTS
    seeds = [request.seed for request in engine.requests]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == seed_of(*KEY, 0, 0, 0, 1, "planner", 0)
    assert seeds[-1] == seed_of(*KEY, 0, 0, ATTEMPTS - 1, 3, "executor", 0)


@pytest.mark.parametrize("when", ["made", "reset", "step"])
def test_an_environment_that_fails_every_time_breaks_its_episode_and_no_other(agent_spec: AgentSpec, when: str) -> None:
    made = 0

    class Cursed(ToyEnv):
        """Fails on the second task."""

        def reset(self, **given: Any) -> tuple[str, Info]:
            self.cursed = given["options"]["task"] == unlucky
            if self.cursed and when == "reset":
                raise WorldError("no such room")
            return super().reset(**given)

        def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
            if self.cursed and when == "step":
                raise WorldError("the server is gone")
            return super().step(action)

    def make() -> ToyEnv:
        nonlocal made
        made += 1
        if when == "made" and made in (2, 3, 4):
            raise WorldError("no room for another")
        return Cursed(split="train", max_turns=4, seed=0)

    due = specs(agent_spec, 3)
    unlucky = due[1].task.id
    done: list[Episode] = []
    engine = Watched(ScriptedPolicy(agent_spec.chat, able))
    episodes = run_episodes(due, make, engine, KEY, done.append)
    assert [episode.outcome for episode in episodes] == ["solved", "broken", "solved"]
    assert (episodes[1].calls, episodes[1].turns, episodes[1].reward) == ([], [], None)
    assert len(done) == 3
    assert set(engine.released) == {(0, 0), (1, 0), (2, 0)}
    assert made == 3 + ATTEMPTS - 1


def test_a_further_attempt_gets_a_new_environment(agent_spec: AgentSpec) -> None:
    worlds: list[Tired] = []

    def made() -> Tired:
        worlds.append(Tired(split="train", max_turns=4, seed=0))
        worlds[-1].fails_at = 5 if len(worlds) == 1 else 99  # in the second episode of the first world
        return worlds[-1]

    episodes = run_episodes(specs(agent_spec, 3), made, ScriptedPolicy(agent_spec.chat, able, slots=1), KEY)
    assert [episode.outcome for episode in episodes] == ["solved"] * 3
    assert [world.steps for world in worlds] == [5, 6]  # the third episode went on in the second world


def test_episodes_come_in_the_order_of_specs_whichever_finishes_first(agent_spec: AgentSpec) -> None:
    due = specs(agent_spec, 5, 2)
    plain = run_episodes(due, make_env, ScriptedPolicy(agent_spec.chat, able), KEY)
    finished: list[tuple[int, int]] = []
    late = run_episodes(
        due, make_env, Slow(agent_spec.chat, able, slots=3), KEY, lambda e: finished.append((e.group, e.sample))
    )
    assert [(e.group, e.sample) for e in late] == [(t.group, t.sample) for t in due]
    assert finished != [(t.group, t.sample) for t in due]
    assert sorted(finished) == [(t.group, t.sample) for t in due]
    assert late == plain


def test_a_batch_begins_by_taking_the_weights_and_ends_in_rest(agent_spec: AgentSpec) -> None:
    engine = Watched(ScriptedPolicy(agent_spec.chat, able))
    run_episodes(specs(replace(agent_spec, version=7), 3, 2), make_env, engine, KEY)
    assert engine.told == [("take 7", 0), ("rest", len(engine.requests))]
    engine.told.clear()
    run_episodes(specs(replace(agent_spec, demonstrates=True)), make_env, engine, KEY)
    assert engine.told == [("rest", len(engine.requests))], "who demonstrates asks no engine: none has to be started"


def test_nothing_is_generated_for_a_finished_episode(agent_spec: AgentSpec) -> None:
    engine = Watched(ScriptedPolicy(agent_spec.chat, able, slots=2))
    episodes = run_episodes(specs(agent_spec, 3, 2), make_env, engine, KEY)
    assert len(engine.requests) == sum(len(episode.calls) for episode in episodes)
    assert sorted(engine.released) == [(g, s) for g in range(3) for s in range(2)]


def test_a_request_carries_the_decoding_of_its_agent(agent_spec: AgentSpec) -> None:
    engine = Watched(ScriptedPolicy(agent_spec.chat, able))
    run_episodes(specs(replace(agent_spec, temperature=0.6, top_p=0.9)), make_env, engine, KEY)
    assert {(r.temperature, r.top_p) for r in engine.requests} == {(0.6, 0.9)}
    assert [r.max_tokens for r in engine.requests] == [48, 24] * 3


def test_the_seed_of_a_call_follows_from_its_key_on_every_machine() -> None:
    assert seed_of(0, "train", 0, 0, 0, 0, 1, "planner", 0) == 7327820038623582092
    keys = list(product((0, 1), (0, 11), (0, 1), (0, 1), (0, 1), (1, 11), ("planner", "executor")))
    assert len({seed_of(*key) for key in keys}) == len(keys)


def sampled(model: Any, chat: Chat, due: Sequence[EpisodeSpec], slots: int) -> dict[tuple[int, int], Episode]:
    engine = LocalEngine(model=model, end=chat.end, slots=slots)
    episodes = run_episodes(due, make_env, engine, UNAMBIGUOUS)
    assert (engine.running, sorted(engine.free), engine.slot_of) == ([], list(range(slots)), {})
    assert not any(engine.known)
    return {(episode.group, episode.sample): episode for episode in episodes}


@pytest.mark.parametrize("layout", ["append", "current"])
def test_samples_depend_on_the_call_and_not_on_what_is_batched_with_it(
    model: Any, agent_spec: AgentSpec, layout: str
) -> None:
    due = specs(replace(agent_spec, context=layout), 2, 3)
    together, alone = sampled(model, agent_spec.chat, due, 8), sampled(model, agent_spec.chat, due, 1)
    fewer = sampled(model, agent_spec.chat, [due[4], due[1]], 8)
    assert len({tuple(e.calls[0].ids) for e in together.values()}) > 3
    for key, episode in [*alone.items(), *fewer.items()]:
        assert [call.ids for call in episode.calls] == [call.ids for call in together[key].calls]
        for one, other in zip(episode.calls, together[key].calls, strict=True):
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_the_candidate_plan_with_the_highest_log_probability_is_followed(agent_spec: AgentSpec) -> None:
    engine = Watched(Drawn(agent_spec.chat))
    episode = run_episodes(specs(replace(agent_spec, candidates=3)), make_env, engine, KEY)[0]
    for turn in range(1, len(episode.turns) + 1):
        planned = [call for call in episode.calls if call.turn == turn and call.role == "planner"]
        assert [call.selected for call in planned] == [True, False, False]
        assert likelihood(planned[0]) == max(map(likelihood, planned))
        assert len({tuple(call.prompt) for call in planned}) == 1
        after = next(call for call in episode.calls if call.turn == turn and call.role == "executor")
        kept = planned[0].prompt + planned[0].ids
        assert after.prompt[: len(kept)] == kept  # and no other one entered the context
        assert episode.turns[turn - 1].plan[turn - 1] == parse_plan(agent_spec.chat.decode(planned[0].ids), turn)[0]  # type: ignore[index]
    assert [rank(episode, turn) for turn in (1, 2, 3)] != [0, 0, 0]  # it is not always the first that was asked for
    assert episode.tokens == sum(len(call.ids) for call in episode.calls)
    assert [request.seed for request in engine.requests[:4]] == [
        *(seed_of(*KEY, 0, 0, 0, 1, "planner", candidate) for candidate in range(3)),
        seed_of(*KEY, 0, 0, 0, 1, "executor", 0),
    ]


def rank(episode: Episode, turn: int) -> int:
    """Which candidate was followed: `Drawn` writes its number into the plan."""
    return int(episode.turns[turn - 1].plan[turn - 1].split()[-1])


class Drawn(ScriptedPolicy):
    """A planner whose candidate plans differ in text, and by their seeds in log-probability."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat, able)
        self.asked = 0

    def _reply(self, request: Request) -> Reply:
        text = self.chat.decode(request.prompt)
        _, role, turn = asked(text)
        if role == "act":
            self.asked = 0
            return super()._reply(request)
        ids = self.chat.reply(f"{turn}. plan number {self.asked}")
        self.asked += 1
        return Reply(request.session, ids, [-(request.seed % 97) / 97] * len(ids), "end")


def test_candidates_reuse_the_cache_of_their_prompt(model: Any, agent_spec: AgentSpec) -> None:
    engine, fresh = LocalEngine(model=model, end=agent_spec.chat.end, slots=4), []
    submit = engine.submit

    def watched(request: Request) -> None:
        submit(request)
        fresh.append(len(engine.running[-1].fresh))

    engine.submit = watched  # type: ignore[method-assign]
    run_episodes(specs(replace(agent_spec, candidates=3)), make_env, engine, KEY)
    assert fresh[1:3] == [1, 1]  # all but the prompt's last token is there


def test_one_candidate_is_the_same_call_as_the_first_of_several(model: Any, agent_spec: AgentSpec) -> None:
    one, three = (
        run_episodes(
            specs(replace(agent_spec, candidates=k)),
            make_env,
            LocalEngine(model=model, end=agent_spec.chat.end, slots=4),
            KEY,
        )[0]
        for k in (1, 3)
    )
    assert one.calls[0].ids in [call.ids for call in three.calls[:3]]
    assert all(call.selected for call in one.calls)


@pytest.mark.parametrize(
    ("plans", "planned"),
    [("always", [1, 2, 3, 4, 5]), ("once", [1]), ("never", []), ("every 1", [1, 2, 3, 4, 5]), ("every 2", [1, 3, 5])],
)
def test_when_a_plan_is_due(plans: str, planned: list[int]) -> None:
    assert [turn for turn in range(1, 6) if due(plans, turn)] == planned


def test_a_plan_is_written_every_k_turns(agent_spec: AgentSpec) -> None:
    episode = one(replace(agent_spec, plans="every 2"), able)
    assert "".join(call.role[0] for call in episode.calls) == "peepe"
    assert episode.outcome == "solved"


def test_a_planner_may_keep_the_current_plan(agent_spec: AgentSpec) -> None:
    prompts = load_prompts("short", "asked")
    replies = {1: "1. a\n2. b\n3. c", 2: "keep", 3: "3. C"}
    script = planning(replies)
    wish = replace(agent_spec, plans="asked", prompts=prompts, graded=True)
    episode = one(wish, lambda prompt: script(prompt.replace("replan", "plan")))
    assert [turn.plan for turn in episode.turns] == [("a", "b", "c"), ("a", "b", "c"), ("a", "b", "C")]
    assert all(turn.well_formed for turn in episode.turns)
    planned = [call for call in episode.calls if call.role == "planner"]
    assert [call.written.steps for call in planned if call.written] == [("a", "b", "c"), ("b", "c"), ("C",)]
    assert agent_spec.chat.decode(planned[1].prompt).endswith("replan 2<|end|><|assistant|>")
    for plans, replies in (("asked", {1: "keep", 2: "2. b", 3: "3. c"}), ("always", {1: "1. a", 2: "keep", 3: "3. c"})):
        script = planning(replies)
        episode = one(
            replace(wish, plans=plans), lambda prompt, script=script: script(prompt.replace("replan", "plan"))
        )  # type: ignore[misc]
        assert [turn.well_formed for turn in episode.turns].count(False) == 1


def test_an_expert_keeps_a_plan_that_is_still_its_own(agent_spec: AgentSpec) -> None:
    for episode in demonstrate(agent_spec, plans="asked", prompts=load_prompts("short", "asked")):
        said = [agent_spec.chat.decode(call.ids) for call in episode.calls if call.role == "planner"]
        assert said[1:] == ["keep"] * (len(said) - 1)
        assert episode.outcome == "solved"


def test_a_graded_plan_is_recorded_with_the_experts_plan_for_the_same_state(agent_spec: AgentSpec) -> None:
    episode = one(replace(agent_spec, graded=True), planning({1: "1. a", 2: "no plan", 3: "3. c"}))
    colors = episode.task.id.split("-")
    written = [call.written for call in episode.calls if call.role == "planner"]
    assert [one.steps for one in written if one] == [("a",), None, ("c",)]
    assert [one.reference for one in written if one] == [
        tuple(f"push the {color} button" for color in colors[turn:]) for turn in range(3)
    ]
    assert all(call.written is None for call in episode.calls if call.role == "executor")
    assert all(call.written is None for call in one(agent_spec, able).calls)


def test_the_expert_is_asked_for_its_plan_only_where_plans_are_graded(
    agent_spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    monkeypatch.setattr("pilotrl.envs.toy.ToyExpert.plan", lambda self: asked_for.append(1) or ["push"])  # type: ignore[func-returns-value]
    one(agent_spec, able)
    assert asked_for == []
    one(replace(agent_spec, graded=True, candidates=3), able)
    assert len(asked_for) == 3  # once a plan that is followed, whatever the number of candidates


def test_a_lone_surrogate_in_an_observation_ends_no_run(agent_spec: AgentSpec, tmp_path: Path) -> None:
    """It is a question mark in the context and in the file of episodes."""

    class Garbled(ToyEnv):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
            text, info = super().reset(seed=seed, options=options)
            return f"{text} \ud800", info

        def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
            text, *rest = super().step(action)
            return f"{text} \udfff", *rest

    def bare(prompt: str) -> str:
        return able(prompt.replace(" ?", ""))

    episode = one(agent_spec, bare, lambda: Garbled(split="train", max_turns=4, seed=0))
    assert (episode.outcome, len(episode.turns)) == ("solved", 3)
    with Lines(tmp_path / "episodes.jsonl") as lines:
        lines.write(to_record(episode, "train", 1))
    kept = from_record(json.loads((tmp_path / "episodes.jsonl").read_text(encoding="utf-8")))
    assert [text[-2:] for text in (kept.observation, *(turn.observation for turn in kept.turns))] == [" ?"] * 4
