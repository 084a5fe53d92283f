"""Maze: its rules, texts and tasks, an expert that knows only what was observed, and recorded games of the original."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.maze import Maze, resolve
from pilotrl.envs.maze.expert import MazeExpert
from pilotrl.envs.maze.tasks import ORIGINAL_GOAL, grid, scene, solvable
from pilotrl.envs.maze.walk import MOVES, Walk
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import UserError

DATA = Path(os.environ.get("PILOTRL_PARITY_DATA") or Path(__file__).parents[2] / "../shared/data") / "trajectories"
SPLITS = ("train", "dev", "test", "unseen")


def maze(**options: Any) -> Maze:
    env = load("maze", **options)
    assert isinstance(env, Maze)
    return env


def original(start: tuple[int, int]) -> Walk:
    return Walk(grid(maze(split="original")._source, None), start, ORIGINAL_GOAL)


def test_an_episode_word_for_word() -> None:
    env = maze(split="original")
    text, info = env.reset(options={"task": "maze-original-5,4-8,6"})
    told = "The goal is at position 8, 6. Your current position is at position {}. There {}."
    assert text == told.format("5, 4", "are walls above you, below you")
    assert info["par"] == 5
    talk = {
        "move up": told.format("5, 4", "are walls above you, below you"),
        "Move down": told.format("5, 4", "are walls above you, below you"),
        "move right": told.format("5, 5", "are walls above you, below you"),
        " move right\n": told.format("5, 6", "is a wall above you"),
        "move down": told.format("6, 6", "are walls to your right, to your left"),
        "move  down": told.format("6, 6", "are walls to your right, to your left"),
        "move down ": told.format("7, 6", "are walls to your right, to your left"),
        "move down  ": "Success",
    }
    said = [env.step(action) for action in talk]
    assert [reply[0] for reply in said] == list(talk.values())
    assert [reply[4]["valid"] for reply in said] == [action.strip() in MOVES for action in talk]
    assert [reply[1] for reply in said] == [0.0] * 7 + [1.0]
    assert said[-1][2:4] == (True, False)


def test_no_walls_near() -> None:
    walk = Walk(frozenset({(2, 2), (1, 2), (3, 2), (2, 1), (2, 3)}), (2, 2), (3, 2))
    assert walk.view().endswith("There are no walls near you.")


def test_the_original_gives_up_after_fifty_moves() -> None:
    env = maze(split="original")
    env.reset(options={"task": "maze-original-7,6-8,6"})
    said = [env.step("move left") for _ in range(50)]
    assert all(reply[0] == said[0][0] and not reply[3] for reply in said)
    assert env.step("move down")[:4] == ("Failure", 0.0, False, True)


# Tasks


def test_the_original_has_a_task_for_every_start() -> None:
    env = maze(split="original")
    assert len(env.tasks) == 25
    assert all(solvable(env._source, env.max_turns).turns[task] <= 13 for task in env.tasks)


def test_splits_are_big_enough_and_unseen_mazes_are_mazes_of_their_own() -> None:
    envs = {split: maze(split=split) for split in SPLITS}
    assert len(envs["train"].tasks) >= 1000
    assert all(len(envs[split].tasks) >= 200 for split in SPLITS)
    grids = {split: {scene(env._source, task)[0] for task in env.tasks} for split, env in envs.items()}
    assert not grids["unseen"] & (grids["train"] | grids["dev"] | grids["test"])
    assert grids["test"] <= grids["train"]


def test_starts_and_goals_of_a_split_are_in_no_other() -> None:
    pairs = [{task.split("-", 2)[2] for task in maze(split=split).tasks} for split in SPLITS[:3]]
    assert not pairs[0] & pairs[1] | pairs[0] & pairs[2] | pairs[1] & pairs[2]


def test_tasks_are_the_same_on_every_machine() -> None:
    """A digest of ids and mazes: it changes only where somebody means to change the tasks."""
    digest = sha256()
    for split in SPLITS:
        env = maze(split=split)
        for task in env.tasks[:200]:
            digest.update(f"{task} {sorted(scene(env._source, task)[0])}\n".encode())
    assert digest.hexdigest()[:16] == "a1c0c2bb30248df1"


def test_what_makes_it_harder_does() -> None:
    def par(**options: Any) -> float:
        env = maze(split="test", max_turns=51, **options)
        turns = solvable(env._source, env.max_turns).turns
        return sum(turns.values()) / len(turns)

    base = par()
    assert par(distance=18) > base + 1
    assert par(loops=1.0) < base - 0.3


def test_few_random_walkers_get_there() -> None:
    """The bound that the page gives."""
    env, draw, solved = maze(split="test"), random.Random(0), 0
    for task in env.tasks * 3:
        env.reset(options={"task": task})
        while not (said := env.step(draw.choice(list(MOVES))))[2] and not said[3]:
            pass
        solved += said[2]
    assert solved / (3 * len(env.tasks)) < 0.12


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split", "exam"),
        ("rows", 8),
        ("columns", 33),
        ("loops", 1.5),
        ("distance", 2),
        ("max_turns", 0),
        ("max_turns", 52),
        ("max_turns", 2),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        maze(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")


# The expert


@pytest.mark.parametrize("options", [{"split": "test"}, {"split": "unseen", "seed": 1}, {"split": "original"}])
def test_the_expert_solves_every_task_in_par(options: dict[str, Any]) -> None:
    env = maze(**options)
    for task in env.tasks:
        par, turns, over = env.reset(options={"task": task})[1]["par"], 0, False
        while not over:
            assert env.expert is not None
            _, _, over, truncated, _ = env.step(env.expert.action())
            assert over or not truncated
            turns += 1
        assert turns == par


def test_a_plan_is_written_anew_where_there_is_a_wall() -> None:
    walk = Walk(frozenset({(1, 1), (1, 2), (2, 2), (3, 2), (3, 3), (3, 1), (2, 1)}) - {(2, 2)}, (1, 2), (3, 3))
    steps = []
    while not walk.solved:
        steps.append(MazeExpert(walk).plan())
        walk.move(MazeExpert(walk).action())
    assert [plan[0] for plan in steps] == ["go left", "go down", "go down", "go right", "go right"]


def test_what_was_not_seen_does_not_show_in_the_plan() -> None:
    """Two mazes that look alike from where one has been: the same plan."""
    env, draw = maze(split="test"), random.Random(1)
    for task in env.tasks[:50]:
        free, start, goal = scene(env._source, task)
        walk = Walk(free, start, goal)
        beside: set[tuple[int, int]] = set()
        for _ in range(4):
            beside |= {(walk.position[0] + i, walk.position[1] + j) for i, j in [(0, 0), *MOVES.values()]}
            walk.move(draw.choice(list(MOVES)))
        beside |= {(walk.position[0] + i, walk.position[1] + j) for i, j in [(0, 0), *MOVES.values()]}
        if walk.solved:
            continue
        other = Walk((free & beside) | {goal}, start, goal)
        other.position, other.walls = walk.position, set(walk.walls)
        hidden = frozenset((i, j) for i in range(11) for j in range(11)) - beside
        wide = Walk(free | hidden, start, goal)
        wide.position, wide.walls = walk.position, set(walk.walls)
        assert MazeExpert(walk).plan() == MazeExpert(other).plan() == MazeExpert(wide).plan()
        assert MazeExpert(walk).thought() == MazeExpert(other).thought() == MazeExpert(wide).thought()


def test_the_judge_tells_who_follows_the_plan() -> None:
    env, judge = maze(split="dev"), RuleJudge(resolve=resolve)
    for task in env.tasks[:50]:
        text, over = env.reset(options={"task": task})[0], False
        while not over:
            assert env.expert is not None
            step, action = env.expert.plan()[0], env.expert.action()
            given = judge.grade([(step, text, other) for other in (*MOVES, step, "move")])
            assert given == [2 if other == action else 0 for other in MOVES] + [0, 0]
            text, _, over, _, _ = env.step(action)


# Recorded games

SEEN = re.compile(r"The goal is at position (\d+), (\d+)\. Your current position is at position (\d+), (\d+)\. .*")


def recorded(game: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What was said, from the first observation on, and what was done."""
    talk = next(value for value in game.values() if isinstance(value, list))
    said = [turn["text"].strip().splitlines()[-1] for turn in talk if turn["role"] == "environment"]
    done = [turn["text"].rpartition("Action:")[2].strip() for turn in talk if turn["role"] == "agent"]
    first = next(i for i, text in enumerate(said) if SEEN.fullmatch(text))
    return said[first:], done[first:]


@pytest.mark.parity
def test_parity_games(tell: Callable[[str], None]) -> None:
    """Every game that does not start on the goal: every observation the same."""
    file = DATA / "maze.jsonl.xz"
    if not file.is_file():
        reason = f"NO PARITY DATA: {file} is absent; set PILOTRL_PARITY_DATA to the folder that holds trajectories/"
        pytest.skip(reason)
    games = [recorded(json.loads(line)) for line in lzma.decompress(file.read_bytes()).decode().splitlines()]
    matched = total = solved = 0
    for said, done in games:
        row, column, x, y = map(int, SEEN.fullmatch(said[0]).groups())  # type: ignore[union-attr]
        assert (row, column) == ORIGINAL_GOAL
        if (x, y) == ORIGINAL_GOAL:
            continue
        walk = original((x, y))
        ours = [walk.view(), *(walk.move(action) for action in done)]
        total, matched, solved = total + 1, matched + (ours[: len(said)] == said), solved + walk.solved
    tell(f"maze: {matched} / {total} games identical in every observation, {solved} solved")
    tell(f"maze: {len(games) - total} of {len(games)} start on the goal and are left out")
    assert matched == total > 0
