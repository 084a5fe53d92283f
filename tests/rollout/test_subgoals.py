"""Steps that last (agent.steps=subgoal): how a planner says that one is done, what is asked, recorded, judged and credited."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from pilotrl import envs, prompts
from pilotrl.cli.compose import composed_job, parse
from pilotrl.engine.openai import Transcript
from pilotrl.engine.scripted import ScriptedPolicy
from pilotrl.envs.toy import ToyEnv
from pilotrl.prompts.chat import Chat
from pilotrl.prompts.parsing import number, parse_lasting, parse_plan
from pilotrl.prompts.replies import FORMS
from pilotrl.rewards.judge.grading import due, grade, plans_due
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rewards.terms import unscored_verdicts
from pilotrl.rollout.agent import AgentSpec, EpisodeSpec, lasting
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.runs.evaluation_set import panel_of
from pilotrl.runs.setup import EvalSetup
from pilotrl.store.records import from_record, to_record
from pilotrl.teacher import EXACT, LOOSE, Teacher
from pilotrl.teacher.openai import prompt, read_lasting
from pilotrl.training.algorithms.credit.plan_segment import begins
from pilotrl.training.batch import collate, rows_of
from pilotrl.types import Episode, Plan, Task, UserError
from tests.conftest import scoring

WRITERS = ("alfworld", "babyai", "iqa", "maze", "textcraft", "toy", "webshop")
"""Environments of ours whose experts write steps that last."""
FIRST, LASTS, DONE = "1. push red and blue\n2. push gold", "1. push red, blue\n2. push gold", "2. push the gold one"
ACTS = tuple(f"Action: press[{color}]" for color in ("red", "blue", "gold"))
SCRIPT = (FIRST, ACTS[0], LASTS, ACTS[1], DONE, ACTS[2])


class RedBlueGold(ToyEnv):
    def __init__(self) -> None:
        super().__init__(split="train", max_turns=4, seed=0)
        self.tasks = ["red-blue-gold"]


def played(agent_spec: AgentSpec, script: tuple[str, ...] = SCRIPT, **changes: Any) -> Episode:
    said: Iterator[str] = iter(script)
    agent = replace(agent_spec, lasts=True, **changes)
    texts = prompts.load("short", agent.plans, agent.shows, steps="subgoal")
    agent = replace(agent, prompts=prompts.worded(texts, agent.plans, agent.thinks, "line"))
    spec = EpisodeSpec(Task("toy", "red-blue-gold", "train", 0), 0, 0, agent)
    return run_episodes([spec], RedBlueGold, ScriptedPolicy(agent.chat, lambda _: next(said)), (0, "train", 0))[0]


def asked(agent_spec: AgentSpec, episode: Episode) -> list[str]:
    """The last line of each prompt."""
    texts = [agent_spec.chat.decode(call.prompt) for call in episode.calls]
    return [re.split(r"[\n>]", text.removesuffix("<|end|><|assistant|>"))[-1] for text in texts]


@pytest.mark.parametrize(
    ("text", "done", "steps"),
    [
        ("2. b\n3. c", True, ("b", "c")),
        ("3. c", True, ("", "c")),
        ("3. c", False, None),  # no step 2 that could be done
        ("1. a\n2. b", True, None),  # what is done stays so
        ("4. d", True, None),  # one after another
        ("2. b\n4. d", True, None),
        ("so 3. c", True, None),
        ("", True, None),
    ],
)
def test_the_first_number_says_whether_the_step_is_done(text: str, done: bool, steps: Plan | None) -> None:
    assert parse_lasting(text, 2, done) == steps
    if steps:
        assert number(steps, 2) == text


def test_a_step_lasts_until_a_plan_leaves_it_out(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec)
    assert [(turn.step, turn.plan) for turn in episode.turns] == [
        (1, ("push red and blue", "push gold")),
        (1, ("push red, blue", "push gold")),
        (2, ("push red, blue", "push the gold one")),
    ]
    assert all(turn.well_formed for turn in episode.turns)
    assert [call.step for call in episode.calls] == [1, 1, 1, 1, 1, 2]
    assert episode.outcome == "solved"
    assert [turn.remaining(t)[0] for t, turn in enumerate(episode.turns, 1)] == [
        "push red and blue",
        "push red, blue",
        "push the gold one",
    ]


def test_requests_have_the_number_of_the_step_and_not_of_the_turn(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec)
    assert asked(agent_spec, episode) == [
        "subgoals 1",
        "act 1. push red and blue",
        "subgoals 1",
        "act 1. push red, blue",
        "subgoals 1",
        "act 2. push the gold one",
    ]
    whole = played(agent_spec, context="current", shows="plan")
    text = agent_spec.chat.decode(whole.calls[-1].prompt)
    assert "plan:\n1. push red, blue\n2. push the gold one\nact 2" in text
    left = agent_spec.chat.decode(played(agent_spec, shows="plan").calls[-1].prompt)
    assert "plan:\n2. push the gold one\nact 2" in left
    assert [len(row) for row in rows_of(episode.calls)] == [6]


@pytest.mark.parametrize("bad", ["3. push gold", "0. push red\n1. push blue", "push gold", "2. push gold\n1. push red"])
def test_other_numbers_are_no_plan_and_change_nothing(agent_spec: AgentSpec, bad: str) -> None:
    turns = played(agent_spec, (FIRST, ACTS[0], bad, ACTS[1], DONE, ACTS[2])).turns
    assert [turn.well_formed for turn in turns] == [True, False, True]
    assert (turns[1].step, turns[1].plan) == (1, turns[0].plan)
    assert turns[2].step == 2


def test_nothing_is_done_before_the_first_plan(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec, ("2. push gold", ACTS[0], FIRST, ACTS[1], DONE, ACTS[2]))
    assert [(turn.step, bool(turn.plan), turn.well_formed) for turn in episode.turns] == [
        (1, False, False),
        (1, True, True),
        (2, True, True),
    ]
    assert asked(agent_spec, episode)[1] == "act"


def test_what_was_kept_lasts_and_so_does_what_nobody_was_asked_about(agent_spec: AgentSpec) -> None:
    turns = played(agent_spec, (FIRST, ACTS[0], "keep", ACTS[1], DONE, ACTS[2]), plans="asked").turns
    assert [(turn.step, turn.well_formed) for turn in turns] == [(1, True), (1, True), (2, True)]
    turns = played(agent_spec, (FIRST, ACTS[0], ACTS[1], DONE, ACTS[2]), plans="every 2").turns
    assert [(turn.step, len(turn.plan)) for turn in turns] == [(1, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("plans", "lasts"), [("always", True), ("asked", True), ("every 3", True), ("once", False), ("never", False)]
)
def test_steps_last_where_plans_are_written_again(plans: str, lasts: bool) -> None:
    assert lasting("subgoal", plans) is lasts
    assert not lasting("action", plans)


# What experts write


def demonstrated(name: str, chat: Transcript, agent_spec: AgentSpec, count: int, **changes: Any) -> list[Episode]:
    """The expert's episodes on the first tasks of dev, graded by the rules."""
    steps = "subgoal" if changes.get("lasts") else "action"
    texts = prompts.worded(prompts.load("short", changes.get("plans", "always"), steps=steps), "always", False, "line")
    agent = replace(agent_spec, chat=chat, prompts=texts, demonstrates=True, max_length=4096, **changes)
    env = envs.load(name, split="dev")
    specs = [EpisodeSpec(Task(name, task, "dev", 0), i, 0, agent) for i, task in enumerate(env.tasks[:count])]
    episodes = run_episodes(specs, lambda: envs.load(name, split="dev"), ScriptedPolicy(chat, lambda text: text), (0,))
    package = sys.modules[type(env).__module__.removesuffix(".env")]
    grade(RuleJudge(resolve=getattr(package, "resolve", None)), episodes, unselected=False)
    return episodes


@pytest.mark.parametrize("name", WRITERS)
def test_an_expert_acts_the_same_under_either_plan_and_is_judged_to_follow_it(name: str, agent_spec: AgentSpec) -> None:
    chat = Transcript()
    one, many = (demonstrated(name, chat, agent_spec, 12, lasts=lasts) for lasts in (False, True))
    assert [[turn.action for turn in e.turns] for e in one] == [[turn.action for turn in e.turns] for e in many]
    assert {e.outcome for e in many} == {"solved"}
    assert {turn.adherence for e in many for turn in e.turns} == {2}
    assert {turn.step for e in one for turn in e.turns} == {0}
    assert sum(e.turns[-1].step for e in many) < sum(len(e.turns) for e in many)  # some step lasts
    for episode in many:
        numbers = [turn.step for turn in episode.turns]
        assert numbers[0] == 1
        assert all(after - before in (0, 1) for before, after in pairwise(numbers))
        current = 1
        for call in (call for call in episode.calls if call.role == "planner"):
            text = chat.decode(call.ids)
            assert parse_lasting(text, current, call.turn > 1) is not None, text
            current = episode.turns[call.turn - 1].step
        for t, turn in enumerate(episode.turns, 1):
            assert turn.meant
            assert turn.action not in "\n".join(turn.plan)
            assert 0 < len(turn.remaining(t)[0].split()) <= 15


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_world_rejects_follows_no_step(name: str, agent_spec: AgentSpec) -> None:
    for episode in demonstrated(name, Transcript(), agent_spec, 4, lasts=True):
        for turn in episode.turns:
            turn.valid = False
        grade(RuleJudge(resolve=None), [episode], unselected=False)
        assert {turn.adherence for turn in episode.turns} == {0}


def test_detours_are_demonstrated_too_and_a_loose_share_changes_nothing(agent_spec: AgentSpec) -> None:
    straight = demonstrated("alfworld", Transcript(), agent_spec, 6, lasts=True)
    loose = demonstrated("alfworld", Transcript(), agent_spec, 6, lasts=True, loose=1.0)
    assert [turn.plan for e in straight for turn in e.turns] == [turn.plan for e in loose for turn in e.turns]
    assert [call.role for e in straight for call in e.calls] == [call.role for e in loose for call in e.calls]
    around = demonstrated("alfworld", Transcript(), agent_spec, 6, lasts=True, detours=0.5)
    assert sum(len(e.turns) for e in around) > sum(len(e.turns) for e in straight)


def test_a_kept_plan_is_demonstrated_as_such(agent_spec: AgentSpec) -> None:
    chat = Transcript()
    episodes = demonstrated("alfworld", chat, agent_spec, 4, lasts=True, plans="asked")
    said = [chat.decode(c.ids) for e in episodes for c in e.calls if c.role == "planner"]
    lasted = sum(a.step == b.step for e in episodes for a, b in pairwise(e.turns))
    assert 0 < said.count("keep") <= lasted


class Stubborn:
    """The expert of a toy that wants something else after the first press."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels

    def subgoals(self) -> list[str]:
        return self.labels

    def plan(self) -> list[str]:
        return [f"exact {label}" for label in self.labels]


@pytest.mark.parametrize(
    ("labels", "written"),
    [
        (["a", "a", "b"], ("a", "b")),  # lasts
        (["b"], ("", "b")),  # done, as planned
        (["x", "b"], ("x", "b")),  # something else is wanted first: a was not done
        (["b", "a", "b"], ("b", "a", "b")),  # more is left than was planned: the same
        ([], ()),
    ],
)
def test_when_an_expert_says_that_a_step_is_done(
    labels: list[str], written: Plan, toy: ToyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.reset()
    monkeypatch.setattr(ToyEnv, "expert", Stubborn(labels))
    episode = Episode(Task("toy", toy.tasks[0], "train", 0), 0, 0, "")
    for writer in (EXACT, LOOSE):
        assert writer.subgoals(toy, episode, ("z", "a", "b"), 2) == written


def test_an_expert_without_such_steps_and_a_teacher_too_are_refused(toy: ToyEnv, agent_spec: AgentSpec) -> None:
    class Own:
        def plan(self, env: Any, episode: Episode, plan: Plan) -> Plan:
            return ("push",)

    own: Teacher = Own()
    with pytest.raises(
        UserError, match=r"^agent.steps=subgoal: Own has no method subgoals\(\); set agent.steps=action$"
    ):
        played(agent_spec, teacher_plans=True, teacher=own)
    wordle = envs.load("wordle")
    wordle.reset()
    with pytest.raises(UserError, match=r"^agent.steps=subgoal: WordleExpert has no method subgoals\(\); write one"):
        EXACT.subgoals(wordle, Episode(Task("wordle", "", "train", 0), 0, 0, ""), (), 1)


# Judged, recorded, credited


def test_the_better_of_the_steps_words_and_the_experts_next_step_counts(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec, teacher_plans=True, script=(*ACTS[:1], "Action: press[gold]", *ACTS[1:]))
    first, second = (item for _, item in due(episode)[:2])
    assert (first.step, first.meant, first.lasts) == ("push all buttons but the last", "push the red button", True)
    assert (second.step, second.meant) == ("push all buttons but the last", "push the blue button")
    assert RuleJudge(resolve=None).grade([first, second]) == [2, 0]
    own = first._replace(step="push red", meant="push the blue button")
    assert RuleJudge(resolve=None).grade([own, own._replace(step="push gold", meant="")]) == [2, 0]


def test_own_steps_mean_what_they_say_unless_the_expert_says_the_same(agent_spec: AgentSpec) -> None:
    theirs = "1. push all buttons but the last\n2. push gold"
    turns = played(agent_spec, (theirs, ACTS[0], theirs, ACTS[1], DONE, ACTS[2])).turns
    assert [turn.meant for turn in turns] == ["push the red button", "push the blue button", ""]


def test_own_plans_are_graded_beside_the_experts_steps_that_last(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec, graded=True)
    items = [item for _, item in plans_due(episode, False)]
    assert [item.steps for item in items] == [tuple(parse_plan(s, 1) or ()) for s in (FIRST, LASTS)] + [
        ("push the gold one",)
    ]
    assert items[0].reference == ("push all buttons but the last", "push the gold button")
    assert items[2].reference == ("push the gold button",)
    assert all(item.lasts for item in items)
    grade(RuleJudge(resolve=None), [episode], unselected=False)
    assert unscored_verdicts(episode) == 0


def test_a_record_holds_the_step_and_one_of_before_has_none(agent_spec: AgentSpec) -> None:
    episode = played(agent_spec, graded=True)
    record = to_record(episode, "train", 1)
    back = from_record(record)
    assert back.turns == episode.turns
    assert [call.step for call in back.calls] == [call.step for call in episode.calls]
    plain = to_record(replace(episode, turns=[replace(t, step=0) for t in episode.turns], calls=[]), "train", 1)
    assert not any("step" in turn for turn in plain["turns"])
    assert [len(turn.remaining(t)) for t, turn in enumerate(from_record(plain).turns, 1)] == [2, 1, 0]


def test_a_segment_is_the_calls_under_one_step(agent_spec: AgentSpec) -> None:
    """A later step that is worded anew ends none, and one that is done does, although the plan's words stay the same."""
    kept = ("1. push red and blue\n2. push it", ACTS[0], FIRST, ACTS[1], "2. push gold", ACTS[2])
    episode = played(agent_spec, kept)
    assert {turn.plan for turn in episode.turns[1:]} == {("push red and blue", "push gold")}
    episode.reward = 1.0
    batch = collate([episode], ["planner", "executor"], 1, 0, 1)
    assert len({*batch.call_plan[1:5].tolist()}) == 1
    assert batch.call_plan[5] != batch.call_plan[4]
    assert begins(batch.played(torch.zeros(6))).tolist() == [True, False, False, False, True, False]


# Words


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", ["short", "full"])
def test_prompts_for_steps_that_last_take_the_place_of_the_others(named: str, form: str) -> None:
    plain = prompts.load(named, "asked", "plan", form)
    both = prompts.load(named, "asked", "plan", form, "subgoal")
    assert not {*plain} & {*prompts.BY_STEPS}
    assert {name: text for name, text in both.items() if name not in prompts.BY_STEPS} == plain
    ours, theirs = (prompts.worded(texts, "asked", False, form) for texts in (plain, both))
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if ours[name] != theirs[name]}
    assert {"plan", "replan"} <= changed <= {"plan", "replan", "act", "act_turn", "system"}
    assert (named == "full") is ({"act", "act_turn", "system"} <= changed)
    for text in theirs.values():
        text.format(next=1, step="Look", plan="1. Look")


def test_a_set_of_ones_own_needs_words_for_them_only_if_it_is_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = prompts.load("short", "asked", "plan")
    monkeypatch.setattr("pilotrl.prompts.make", lambda _: type("Own", (), {"texts": lambda self: texts})())
    assert prompts.load({"_target_": "own.Own"})
    with pytest.raises(
        UserError, match=r"^agent.steps=subgoal: the prompts own.Own have no plan_subgoal; add it, or set"
    ):
        prompts.load({"_target_": "own.Own"}, steps="subgoal")


def setup_of(chat: Chat, *words: str) -> EvalSetup:
    config = composed_job(parse([]), ["env=toy", "panel.tasks=1", "stage=warmstart", *words]).config
    return EvalSetup(config, chat, ScriptedPolicy(chat, lambda text: text), scoring(), EXACT)


def test_a_warm_start_demonstrates_them_where_plans_are_written_again(chat: Chat) -> None:
    specs = setup_of(chat, "agent.steps=subgoal").agent_specs()
    assert [(spec.plans, spec.lasts) for spec in specs] == [
        ("always", True),
        ("once", False),
        ("never", False),
        ("never", False),
    ]
    assert [spec.prompts["plan"] for spec in specs] == ["subgoals {next}"] + ["plan {next}"] * 3
    assert not any(spec.lasts for spec in setup_of(chat).agent_specs())


def test_an_evaluation_set_of_one_step_an_action_is_what_it_was(chat: Chat) -> None:
    """Its hash is over what is said of the agent; `steps` is said where steps last."""
    one, many = (panel_of(setup_of(chat, *words)).protocol for words in ((), ("agent.steps=subgoal",)))
    assert many["agent"] == one["agent"] | {"steps": "subgoal"}
    assert "steps" not in one["agent"]
    assert {*many["prompts"]} - {*one["prompts"]} == {"plan_subgoal"}


def test_a_teacher_behind_an_api_is_told_the_step_in_force() -> None:
    episode = Episode(Task("toy", "red-blue", "train", 0), 0, 0, "Press red, then blue.")
    said = prompt(episode, ("push red", "push blue"), 1)
    assert "Begin with step 1 if it is not done yet" in said
    assert "one step for every action" not in said
    assert "one step for every action" in prompt(episode, ("push red",))
    assert read_lasting("<think>hm</think> Well:\n2. push blue", 1, True) == ("", "push blue")
    with pytest.raises(ValueError, match=r"no lines numbered from 1 on$"):
        read_lasting("2. push blue", 1, False)
