"""The rule judge: against labels, against the real environments, and rule by rule."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotrl import envs
from pilotrl.envs import maze, textcraft, wordle
from pilotrl.envs.webshop import resolve
from pilotrl.rewards.judge.rule import RuleJudge, read_action, read_step, verdict

LABELS = [json.loads(line) for line in Path(__file__).with_name("labels.jsonl").read_text("utf-8").splitlines()]
JUDGES = {
    "webshop": RuleJudge(resolve=resolve),
    "maze": RuleJudge(resolve=maze.resolve),
    "textcraft": RuleJudge(resolve=textcraft.resolve),
    "wordle": RuleJudge(resolve=wordle.resolve),
    "toy": RuleJudge(resolve=None),
}
Matrix = list[list[int]]


def judge_of(env: str) -> RuleJudge:
    return JUDGES.get(env, JUDGES["toy"])


def confusion(rows: list[dict[str, object]]) -> Matrix:
    """[label][verdict], counts."""
    matrix = [[0] * 3 for _ in range(3)]
    for row in rows:
        item = (str(row["step"]), str(row["observation"]), str(row["action"]))
        (given,) = judge_of(str(row["env"])).grade([item])
        assert given is not None
        matrix[int(str(row["label"]))][given] += 1
    return matrix


def agreement(matrix: Matrix) -> tuple[float, float]:
    """Share of equal verdicts, and Cohen's kappa (1960)."""
    total = sum(map(sum, matrix))
    observed = sum(matrix[i][i] for i in range(3)) / total
    chance = sum(sum(matrix[i]) * sum(row[i] for row in matrix) for i in range(3)) / total**2
    return observed, (observed - chance) / (1 - chance)


@pytest.mark.parametrize(
    ("name", "rows", "floor", "kappa_floor"),
    [
        ("tuned on (even lines)", LABELS[::2], 0.85, 0.75),
        ("not tuned on (odd lines)", LABELS[1::2], 0.79, 0.67),
        ("all", LABELS, 0.82, 0.71),
    ],
)
def test_agreement_with_labels(name: str, rows: list[dict[str, object]], floor: float, kappa_floor: float) -> None:
    matrix = confusion(rows)
    share, kappa = agreement(matrix)
    print(f"\n{name}: {len(rows)} triples, agreement {share:.3f}, kappa {kappa:.3f}; label x verdict {matrix}")
    assert share >= floor
    assert kappa >= kappa_floor


def test_labels_are_well_formed_and_varied() -> None:
    assert len(LABELS) >= 160
    assert {row["label"] for row in LABELS} == {0, 1, 2}
    assert len({row["env"] for row in LABELS}) == 8
    assert len({(row["step"], row["observation"], row["action"]) for row in LABELS}) == len(LABELS)


def played(env: envs.Env, tasks: int, choose: Callable[[str, str, envs.Info], str]) -> list[tuple[str, str, str]]:
    """(step of the expert's own fresh plan, observation, action) of episodes; `choose` acts."""
    items = []
    for task in env.tasks[:tasks]:
        text, info = env.reset(options={"task": task})
        over = False
        while not over:
            expert = env.expert
            assert expert is not None
            step, action = expert.plan()[0], choose(expert.action(), text, info)
            items.append((step, text, action))
            text, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
    return items


WORLDS = [("webshop", {"fidelity": "small"}), ("webshop", {"fidelity": "original"}), ("toy", {})]


@pytest.mark.parametrize(("name", "options"), [*WORLDS, ("maze", {}), ("textcraft", {}), ("wordle", {})])
def test_an_expert_that_follows_its_plan_gets_full_marks(name: str, options: dict[str, str]) -> None:
    items = played(envs.load(name, split="dev", **options), 100, lambda expert, text, info: expert)
    low = [item for item, given in zip(items, judge_of(name).grade(items), strict=True) if given != 2]
    assert len(low) <= 0.01 * len(items), low[:5]


@pytest.mark.parametrize(("name", "options"), WORLDS, ids=["webshop small", "webshop original", "toy"])
def test_a_random_agent_gets_low_verdicts(name: str, options: dict[str, str]) -> None:
    draw = random.Random(0)

    def act(expert: str, text: str, info: envs.Info) -> str:
        action: str = draw.choice(info["actions"])
        return action.replace("words", draw.choice(text.split()))

    items = played(envs.load(name, split="dev", **options), 100, act)
    grades = [given or 0 for given in judge_of(name).grade(items)]
    assert sum(grades) / 2 / len(grades) < 0.25


@pytest.mark.parametrize("fidelity", ["small", "original"])
def test_a_near_duplicate_of_the_product_named_is_followed_in_part(fidelity: str) -> None:
    env = envs.load("webshop", split="dev", fidelity=fidelity, confusable=35, max_turns=10)
    near = 0
    for step, text, action in played(env, 60, lambda expert, text, info: expert):
        wanted = resolve(text, action)
        if not wanted.startswith("open "):
            continue
        for handle in _handles(text, fidelity):
            other = resolve(text, f"click[{handle}]")
            given = verdict(step, other)
            assert (given == 2) == (other == wanted), (step, other)
            if len(set(other.split()) ^ set(wanted.split())) == 2:  # one word is another: brand or price
                near += 1
                assert given == 1, (step, other)
    assert near > 5


def _handles(text: str, fidelity: str) -> list[str]:
    parts = text.split(" [SEP] ")
    if fidelity == "small":
        return [part.split()[0] for part in parts if "$" in part]
    return [parts[i - 2].lower() for i, part in enumerate(parts) if part.startswith("$")]


SHIRT = "open acme soft cotton shirt for $23"


@pytest.mark.parametrize(
    ("step", "said", "given"),
    [
        (SHIRT, "open acme soft cotton shirt $23", 2),
        (SHIRT, "open acme soft cotton shirt $23.00", 2),
        (SHIRT, "open acme soft cotton shirt $24", 1),
        (SHIRT, "open nova soft cotton shirt $23", 1),
        (SHIRT, "open nova steel kettle $40", 0),
        (SHIRT, "search acme soft cotton shirt", 1),
        (SHIRT, "", 0),
        ("open the best match under $30", "open nova steel kettle $30", 2),
        ("open the best match under $30", "open nova steel kettle $31", 1),
        ("open the best match under $30", "read the features", 0),
        ("open the best match under $30", "choose color red", 0),
        ("open the best match under $30", "go back", 0),
        ("choose color red", "choose color red", 2),
        ("choose color red", "choose color blue", 0),
        ("choose a color", "choose color blue", 2),
        ("choose a color", "choose size 10", 0),
        ("choose size 10", "choose size 1", 0),
        ("go back to the results", "go back", 2),
        ("go back to the results", "back to search", 1),
        ("look at the next page", "next page", 2),
        ("look at the next page", "open nova steel kettle $30", 0),
        ("buy it", "buy now", 2),
        ("buy it", "choose size 10", 0),
        ("find soft shirts", "search soft shirt", 2),
        ("find soft shirts", "search shirt kettle lamp mug tent soap soft sofa rug", 1),
    ],
)
def test_rules(step: str, said: str, given: int) -> None:
    assert verdict(step, said) == given


@pytest.mark.parametrize(
    "step", ["", "continue", "do something useful", "make progress towards the goal", "act", "..."]
)
@pytest.mark.parametrize("said", ["search soft shirt", "open acme shirt $23", "buy now", "go to fridge 1", "s h i r e"])
def test_a_vacuous_step_is_never_followed_in_full(step: str, said: str) -> None:
    assert verdict(step, said) == 1
    assert verdict(step, "") == 0


@pytest.mark.parametrize(
    "step", ["", "buy it", SHIRT, "do something useful", "find", "press the button", "guess a word"]
)
@pytest.mark.parametrize(
    "action", ["", " ", "[]", "search[]", "press[]", "xyzzy plugh", "]", "\ud83d\ude00", "click[b9]"]
)
def test_what_is_not_an_action_gets_nothing_and_breaks_nothing(step: str, action: str) -> None:
    assert RuleJudge(resolve=resolve).grade([(step, "webshop [SEP] search", action)]) == [0]
    if action != "click[b9]":
        assert RuleJudge(resolve=None).grade([(step, "", action)]) == [0]


def test_the_goal_in_the_observation_changes_no_verdict() -> None:
    page = "{}back to search [SEP] page 1 of 1 [SEP] acme soft shirt $23 [SEP] nova wool shirt $19"
    goals = ["", "instruction: [SEP] nova wool shirt [SEP] ", "instruction: [SEP] acme soft shirt [SEP] "]
    for action in ("click[acme]", "click[nova]"):
        items = [("open nova wool shirt for $19", page.format(goal), action) for goal in goals]
        assert len(set(RuleJudge(resolve=resolve).grade(items))) == 1


def test_a_judge_of_a_batch_is_that_of_its_items() -> None:
    items = [(row["step"], row["observation"], row["action"]) for row in LABELS if row["env"] == "webshop"]
    judge = judge_of("webshop")
    assert judge.grade(items) == [judge.grade([item])[0] for item in items]
    assert judge.grade([]) == []


def test_it_is_fast() -> None:
    """At least 20,000 verdicts a second on what training shows it: pages and steps that come again and again."""
    items = played(envs.load("webshop", split="dev"), 40, lambda expert, text, info: expert) * 8
    for cached in (verdict, read_step, read_action):
        cached.cache_clear()
    rates = []
    for _ in range(3):
        start = time.process_time()
        judge_of("webshop").grade(items)
        rates.append(len(items) / (time.process_time() - start))
    assert max(rates) > 20_000, rates
