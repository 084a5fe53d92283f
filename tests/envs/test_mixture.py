"""Mixtures: their tasks and shares, the right environment, expert and judge for each task, and what a run reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console

from pilotrl.analysis.statistics import paired_interval
from pilotrl.analysis.terminal import by_env
from pilotrl.cli.compose import composed_job, parse
from pilotrl.envs import Env, home, load
from pilotrl.envs.mixture import Mixture, blended
from pilotrl.rollout.task_schedule import drawn, schedule
from pilotrl.runs import run as running
from pilotrl.runs.setup import scoring
from pilotrl.store.records import from_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.types import Episode, Task, Turn, UserError

SMALL = ("env=paper", "env.trains=[toy]", "env.holds_out=[maze]")


def mixture(**options: Any) -> Env:
    small: dict[str, Any] = {"trains": ["toy"], "holds_out": ["maze"], "split": "test"}
    return load("paper", **small | options)


def counts(tasks: Sequence[str]) -> Counter[str]:
    return Counter(task.partition("/")[0] for task in tasks)


# Tasks


def test_held_out_environments_have_tasks_only_where_nothing_is_learned() -> None:
    assert [set(counts(mixture(split=split).tasks)) for split in ("train", "dev")] == [{"toy"}] * 2
    assert counts(mixture(split="test").tasks) == {"toy": 136, "maze": 136}


def test_tasks_are_in_proportion_to_the_weights_everywhere_in_the_list() -> None:
    tasks = {"a": [f"a{i}" for i in range(400)], "b": [f"{i}" for i in range(90)], "c": [f"x/{i}" for i in range(1000)]}
    mixed = blended(tasks, {"a": 1, "b": 0.5, "c": 2})
    assert counts(mixed) == {"a": 180, "b": 90, "c": 360}
    assert len(set(mixed)) == len(mixed)
    assert {task.partition("/")[2] for task in mixed if home("mixture", task) == "c"} < set(tasks["c"])
    for start in range(0, 630, 70):
        assert counts(mixed[start : start + 70]) == {"a": 20, "b": 10, "c": 40}


def test_a_schedule_sees_environments_as_often_as_their_weights_say() -> None:
    tasks = mixture(split="train", trains=["toy", "iqa"], weights=[1, 3]).tasks
    assert counts(tasks)["iqa"] == pytest.approx(3 * counts(tasks)["toy"], abs=1.5)
    seen = counts([task for step in range(60) for task in schedule(tasks, 0, step, 8)])
    assert seen["iqa"] / seen.total() == pytest.approx(0.75, abs=0.06)


def test_tasks_are_the_same_every_time_and_those_of_their_environments() -> None:
    env = mixture()
    assert env.tasks == mixture().tasks
    pressed = {task.partition("/")[2] for task in env.tasks if home("mixture", task) == "toy"}
    assert pressed == set(load("toy", split="test").tasks)


@pytest.mark.parametrize("tasks", [2, 7, 40])
def test_an_evaluation_set_has_as_many_tasks_of_each_environment(tasks: int) -> None:
    panel = drawn("mixture", mixture().tasks, tasks)
    assert len(set(panel)) == tasks
    assert set(counts(panel).values()) <= {tasks // 2, (tasks + 1) // 2}


def test_the_evaluation_set_of_a_single_environment_is_drawn_at_random() -> None:
    names = load("toy", split="test").tasks
    assert drawn("toy", names, 12)[:8] == drawn("toy", names, 8)
    assert set(drawn("toy", names, 1000)) == set(names)
    assert list(drawn("toy", names, 1000)) != sorted(names)


# Play


@pytest.mark.parametrize("name", ["toy", "maze"])
def test_an_episode_is_that_of_its_own_environment(name: str) -> None:
    mixed, alone = mixture(), load(name, split="test")
    task = next(task for task in mixed.tasks if home("mixture", task) == name)
    assert mixed.reset(options={"task": task}) == alone.reset(options={"task": task.removeprefix(f"{name}/")})
    over = False
    while not over:
        assert mixed.expert is not None
        assert alone.expert is not None
        assert mixed.expert.plan() == alone.expert.plan()
        said = mixed.step(mixed.expert.action())
        assert said == alone.step(alone.expert.action())
        over = said[2]


def test_options_reach_their_environment_alone() -> None:
    env = mixture(options={"toy": {"max_turns": 9}})
    limits = set()
    for task in env.tasks[:2]:
        env.reset(options={"task": task})
        limits.add((home("mixture", task), env.max_turns))
    assert limits == {("toy", 9), ("maze", 18)}


def test_a_task_that_was_not_taken_is_refused() -> None:
    env = mixture(split="train")
    with pytest.raises(KeyError):
        env.reset(options={"task": f"maze/{load('maze', split='test').tasks[0]}"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trains": ["tyo"]}, "env.trains=tyo: there is no such environment; there are agentgym, alfworld, "),
        ({"holds_out": ["labyrinth"]}, "env.holds_out=labyrinth: there is no such environment; "),
        ({"trains": []}, "env.trains=[]: must name at least one environment"),
        ({"trains": ["maze"]}, "env.holds_out=maze: is named twice in env.trains and env.holds_out; leave one out"),
        ({"trains": ["toy", "toy"]}, "env.trains=toy: is named twice"),
        ({"trains": ["paper"]}, "env.trains=paper: is a mixture itself; name its environments"),
        (
            {"weights": [-1]},
            "env.weights=[-1]: must be numbers above 0; leave an environment out of env.trains instead",
        ),
        ({"weights": [0]}, "env.weights=[0]: must be numbers above 0"),
        ({"weights": ["a"]}, "env.weights=['a']: must be numbers above 0"),
        ({"weights": [1, 1]}, "env.weights=[1, 1]: must be a list of 1, a number for each of toy"),
        ({"weights": 1}, "env.weights=1: must be a list of 1, a number for each of toy"),
        ({"options": {"wordle": {"seed": 1}}}, "env.options.wordle: is not in env.trains or env.holds_out; "),
        ({"options": {"toy": {"sead": 1}}}, "env.options.toy.sead=1: there is no such key; there are max_turns, seed"),
        ({"options": {"maze": {"rows": 8}}}, "env.options.maze.rows=8: must be an odd number"),
        ({"split": "exam"}, "env.split=exam: must be one of train, dev, test"),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        mixture(**options)
    assert str(error.value).startswith(told)


# The judge


def test_verdicts_in_a_mixture_are_those_of_each_environment_alone() -> None:
    """Maze and BabyAI say in words of their own what an action refers to; whoever grades has to know which is which."""
    names = ("maze", "babyai", "toy")
    mixed = Mixture(split="test", trains=[*names], weights=None, holds_out=[], options=None)
    alone = [_sloppy(mixed, Task(home("mixture", task), task, "test", 0)) for task in mixed.tasks[:60]]
    together = deepcopy(alone)
    scoring(composed_job(parse([]), ["env=paper", f"env.trains=[{','.join(names)}]", "env.holds_out=[]"]).config)(
        together
    )
    for name in names:
        scoring(composed_job(parse([]), [f"env={name}"]).config)([e for e in alone if e.task.env == name])
    given = [[turn.adherence for turn in episode.turns] for episode in together]
    assert given == [[turn.adherence for turn in episode.turns] for episode in alone]
    assert {verdict for episode in given for verdict in episode} >= {0, 2}


def _sloppy(env: Env, task: Task) -> Episode:
    """The expert's plans; of its actions every second one, and else the first that there is."""
    text, info = env.reset(options={"task": task.id})
    episode, over = Episode(task, 0, 0, text, outcome="failed"), False
    while not over:
        assert env.expert is not None
        plan = ("",) * len(episode.turns) + tuple(env.expert.plan())
        action = env.expert.action() if len(episode.turns) % 2 else str(info["actions"][0])
        text, _, terminated, truncated, info = env.step(action)
        episode.turns.append(Turn(plan, "", action, text, info["valid"], True, info["score"]))
        over = terminated or truncated
    return episode


# A run


@pytest.fixture(scope="module")
def ran(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two steps and two evaluations of ToyEnv, with mazes held out."""
    folder = RunFolder(tmp_path_factory.mktemp("mixed"))
    sizes = (
        "model.max_length=256",
        "model.max_plan_tokens=12",
        "model.max_action_tokens=8",
        "train.steps=2",
        "train.tasks=2",
    )
    sizes += ("train.group_size=2", "train.micro_tokens=512", "panel.tasks=6", "panel.samples=2", "trainer.threads=1")
    lines = [*SMALL, *sizes, "tracking.uri=off", f"model.path={tiny}", "stage=adherence"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "learning_curve", lambda *given: None)  # a second a picture
        running.run(composed_job(parse([]), lines).config, folder.path)
    return folder


def test_metrics_have_the_success_of_each_environment(ran: RunFolder) -> None:
    episodes = _episodes(ran, "train")
    for line in map(json.loads, ran.metrics.read_text().splitlines()):
        solved = [episode.outcome == "solved" for step, episode in episodes if step == line["step"]]
        assert line["env/toy/success"] == fmean(solved) == line["env/success"]
        assert "env/maze/success" not in line


def _episodes(folder: RunFolder, phase: str) -> list[tuple[int, Episode]]:
    records = [json.loads(line) for line in folder.episodes.read_text().splitlines()]
    return [(record["step"], from_record(record)) for record in records if record["phase"] == phase]


def _means(episodes: Sequence[Episode], env: str) -> dict[str, float]:
    """Mean number of turns of each task of an environment: what differs from task to task even where nothing is solved."""
    own = [episode for episode in episodes if episode.task.env == env]
    return {
        task: fmean(len(episode.turns) for episode in own if episode.task.id == task)
        for task in sorted({episode.task.id for episode in own})
    }


@pytest.mark.parametrize(("block", "whose"), [("eval", "own plans"), ("eval_teacher", "teacher's plans")])
@pytest.mark.parametrize("decoding", ["sampled", "greedy"])
def test_blocks_of_environments_and_averages_are_what_the_episodes_add_up_to(
    ran: RunFolder, block: str, whose: str, decoding: str
) -> None:
    held = json.loads(ran.summary.read_text())[block]
    held = held["greedy"] if decoding == "greedy" else held
    played = {when: [e for _, e in _episodes(ran, f"{when}/{whose}, {decoding}")] for when in ("before", "after")}
    assert list(held["by_env"]) == ["maze", "toy"]
    assert list(held["averages"]) == ["ID", "OOD", "Avg"]
    means = {(when, env): _means(played[when], env) for when in played for env in held["by_env"]}
    for env, own in held["by_env"].items():
        for when in played:
            assert own[when]["turns"] == pytest.approx(fmean(means[when, env].values()))
            assert len(means[when, env]) == 3
        pairs = paired_interval([*means["before", env].values()], [*means["after", env].values()])
        assert own["paired"]["turns"]["mean"] == pytest.approx(pairs["mean"])
    for average, envs in {"ID": ["toy"], "OOD": ["maze"], "Avg": ["toy", "maze"]}.items():
        for when in played:
            again = fmean(fmean(means[when, env].values()) for env in envs)
            assert held["averages"][average][when]["turns"] == pytest.approx(again)
        before, after, difference = (held["averages"][average][of]["turns"] for of in ("before", "after", "paired"))
        assert difference["mean"] == pytest.approx(after - before)
        assert difference["low"] <= difference["mean"] <= difference["high"]


def test_the_table_shows_environments_and_averages(ran: RunFolder) -> None:
    console = Console(record=True, width=100)
    console.print(by_env(json.loads(ran.summary.read_text())))
    shown = [line.split()[0] for line in console.export_text().splitlines() if line.strip()]
    rows = ["maze", "toy", "ID", "OOD", "Avg"]
    assert shown == ["success", "before", "own", *rows, "teacher's", *rows]


def test_the_evaluation_set_depends_on_the_settings_of_every_environment(ran: RunFolder) -> None:
    panel = json.loads((ran / "panel.json").read_text())
    assert panel["protocol"]["worlds"]["maze"]["rows"] == 11
    assert {*counts(panel["tasks"])} == {"toy", "maze"}
