"""The wording of the expert's steps: what is followed, recorded, judged and demonstrated, and what a rule makes of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

import pytest

from pilotrl import envs
from pilotrl.audit.adversarial import planted
from pilotrl.cli.compose import composed_job, parse
from pilotrl.envs import Env, FlexibleExpert
from pilotrl.envs.toy import ToyEnv
from pilotrl.rewards.judge.grading import due, grade
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rollout.rules import Player, by_chance, by_rule, played
from pilotrl.runs.setup import EvalSetup
from pilotrl.store.records import from_record, to_record
from pilotrl.teacher import ExpertTeacher, meant, reference
from pilotrl.types import Episode, Task, UserError

WORLDS = ("alfworld", "babyai", "iqa", "maze", "textcraft", "tools", "toy", "webshop", "wordle")
EXACT, LOOSE = ExpertTeacher("exact"), ExpertTeacher("loose")


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> tuple[str, Env]:
    return request.param, envs.load(request.param, split="dev")


class Terse:
    """An expert of before there were two wordings."""

    def plan(self) -> list[str]:
        return ["push the red button"]

    def action(self) -> str:
        return "press[red]"

    def detour(self) -> None:
        return None


def judged(name: str, env: Env, writer: ExpertTeacher, player: Player, count: int) -> list[Episode]:
    """Episodes on the first tasks, graded by the rules."""
    package = sys.modules[type(env).__module__.removesuffix(".env")]
    episodes = [played(env, Task(name, task, "dev", 0), writer, player) for task in env.tasks[:count]]
    grade(RuleJudge(resolve=getattr(package, "resolve", None)), episodes, unselected=False)
    return episodes


def solved(episodes: list[Episode]) -> float:
    return sum(episode.outcome == "solved" for episode in episodes) / len(episodes)


def test_the_experts_action_has_full_marks_under_loose_steps(world: tuple[str, Env]) -> None:
    def act(*_: Any) -> str:
        assert world[1].expert is not None
        return world[1].expert.action()

    for episode in judged(*world, LOOSE, act, 10):
        assert episode.outcome == "solved"
        assert {turn.adherence for turn in episode.turns} == {2}


def test_any_action_earns_the_same_under_either_wording_unless_it_serves_as_well(world: tuple[str, Env]) -> None:
    exact, loose = (judged(*world, writer, by_chance, 10) for writer in (EXACT, LOOSE))
    for one, other in zip(exact, loose, strict=True):
        for t, (strictly, loosely) in enumerate(zip(one.turns, other.turns, strict=True)):
            own = strictly.adherence if loosely.meant == strictly.plan[t] else 2 * loosely.valid
            assert loosely.adherence == own


def test_an_action_that_serves_as_well_has_full_marks_under_a_loose_step(world: tuple[str, Env]) -> None:
    """Wherever an expert knows of such, it is not the expert's, and it does not lead astray."""
    name, env = world
    others = [0]

    def act(_env: str, _step: str, _seen: str, actions: Sequence[str], draw: Random) -> str:
        expert = env.expert
        assert expert is not None
        known = [action for action in actions if isinstance(expert, FlexibleExpert) and expert.equal(action)]
        chosen = draw.choice([action for action in known if action != expert.action()] or [expert.action()])
        others[0] += chosen != expert.action()
        return chosen

    episodes = judged(name, env, LOOSE, act, 20)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert all(turn.valid and turn.adherence == 2 for turn in turns)
    assert (others[0] > 0) == (name != "toy")
    assert solved(episodes) > 0.3 + solved(judged(name, env, LOOSE, by_chance, 20))


def test_a_rule_translates_exact_steps_and_not_loose_ones(world: tuple[str, Env]) -> None:
    count = 16 if world[0] == "babyai" else 40
    shares = [solved(judged(*world, *how, count)) for how in ((EXACT, by_rule), (LOOSE, by_rule), (LOOSE, by_chance))]
    assert shares[0] >= 0.8
    assert shares[1] <= shares[2] + 0.2


def test_what_a_loose_step_means_is_recorded_and_graded(training: Callable[..., Any]) -> None:
    source = training(agent_spec={"teacher": LOOSE, "teacher_plans": True}).source
    turns = [(e, t, turn) for e in source.batch(0).episodes for t, turn in enumerate(e.turns)]
    for episode, t, turn in turns:
        assert turn.plan[t] == "push the next button in order"
        assert turn.meant.startswith("push the ")
        assert turn.meant.split()[2] in episode.task.id
        assert due(episode)[t][1].step == turn.meant
        assert from_record(to_record(episode, "train", 1)).turns == episode.turns


def test_of_one_plan_every_later_step_has_its_meaning() -> None:
    env = envs.load("toy")
    episode = played(env, Task("toy", env.tasks[0], "train", 0), LOOSE, lambda *_: env.expert.action(), "once")  # type: ignore[union-attr]
    assert [turn.meant.split()[2] for turn in episode.turns] == env.tasks[0].split("-")


@pytest.mark.parametrize(
    "changes", [{"teacher": EXACT, "teacher_plans": True}, {"teacher": LOOSE, "teacher_plans": False}]
)
def test_exact_plans_and_own_ones_mean_what_they_say(training: Callable[..., Any], changes: dict[str, Any]) -> None:
    source = training(agent_spec=changes).source
    assert {turn.meant for episode in source.batch(0).episodes for turn in episode.turns} == {""}


def test_a_reference_is_worded_as_the_teacher_words_it(toy: ToyEnv) -> None:
    toy.reset(options={"task": "red-blue" if "red-blue" in toy.tasks else toy.tasks[0]})
    assert {*reference(LOOSE, toy)} == {"push the next button in order"}
    assert reference(EXACT, toy) == meant(LOOSE, toy) != ()
    assert meant(EXACT, toy) == ()


def test_a_planted_plan_is_graded_as_it_stands() -> None:
    env = envs.load("toy")
    episode = played(env, Task("toy", env.tasks[0], "train", 0), LOOSE, by_chance)
    assert [item.step for _, item in due(planted(episode, ["wait"] * len(episode.turns)))] == ["wait"] * len(
        episode.turns
    )


def test_another_wording_and_an_expert_without_it_are_refused(toy: ToyEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^wording=vague: must be one of exact, loose, or null$"):
        ExpertTeacher("vague")
    toy.reset()
    monkeypatch.setattr(ToyEnv, "expert", Terse())
    episode = Episode(Task("toy", toy.tasks[0], "train", 0), 0, 0, "")
    assert EXACT.plan(toy, episode, ())
    with pytest.raises(UserError, match=r"^teacher.wording=loose: Terse has no method loose\(\); write one, or set"):
        LOOSE.plan(toy, episode, ())


def test_by_default_steps_are_loose_where_the_expert_writes_such_and_references_exact(
    toy: ToyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, task = ExpertTeacher(None), Task("toy", toy.tasks[0], "train", 0)
    toy.reset(options={"task": toy.tasks[0]})
    assert default.plan(toy, Episode(task, 0, 0, ""), ()) == LOOSE.steps(toy) != EXACT.steps(toy)
    assert reference(default, toy) == meant(default, toy) == EXACT.steps(toy)
    monkeypatch.setattr(ToyEnv, "expert", Terse())
    assert default.steps(toy) == EXACT.steps(toy)


@pytest.mark.parametrize(("typed", "demonstrated"), [([], "exact"), (["loose"], "loose"), (["exact"], "exact")])
def test_demonstrations_are_exact_but_for_their_loose_share_unless_a_wording_is_typed(
    typed: list[str], demonstrated: str
) -> None:
    """Otherwise a warm start would teach to write loose plans, as own ones, where the teacher's are loose by default."""
    arguments = parse(["stage=warmstart", "env=toy", *[f"teacher.wording={wording}" for wording in typed]])
    config = composed_job(arguments, arguments.overrides).config
    writer = ExpertTeacher(config.teacher["wording"])
    setup = EvalSetup(config, *cast(Any, (None, None, None)), writer)
    assert {spec.teacher for spec in setup.agent_specs()} == {ExpertTeacher(demonstrated)}
    assert setup.agent_spec(teacher_plans=True).teacher == writer
