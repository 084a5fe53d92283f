"""The rule judge of plans: against labels, against the environments' experts, and against adversarial plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotrl import envs
from pilotrl.rewards.judge import PlanItem
from pilotrl.rewards.judge.plan_rules import correctness, grade_plan
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.types import PlanScores

LABELS = [json.loads(line) for line in Path(__file__).with_name("plans.jsonl").read_text("utf-8").splitlines()]


def item(
    steps: list[str], reference: list[str], first: str = "", latest: str = "", actions: tuple[str, ...] = ()
) -> PlanItem:
    return PlanItem(first, latest or first, actions, tuple(steps), tuple(reference))


def labelled(row: dict[str, object]) -> PlanItem:
    first, latest, actions, steps, reference = (
        row[key] for key in ("first", "latest", "actions", "steps", "reference")
    )
    return item(steps, reference, str(first), str(latest), tuple(actions))  # type: ignore[arg-type]


def test_labels_are_well_formed_and_varied() -> None:
    assert len(LABELS) >= 40
    assert len({row["env"] for row in LABELS}) >= 7
    assert all(PlanScores(*row["label"]) and set(row["label"]) <= {1, 2, 3, 4, 5} for row in LABELS)
    assert len({row["label"][0] for row in LABELS}) == 5


@pytest.mark.parametrize(("place", "equal", "near"), [(0, 0.62, 0.9), (1, 0.65, 0.9), (2, 0.85, 0.9)])
def test_agreement_with_labels(place: int, equal: float, near: float) -> None:
    given = [scores for scores in RuleJudge(resolve=None).grade_plans([labelled(row) for row in LABELS]) if scores]
    off = [abs(scores[place] - row["label"][place]) for scores, row in zip(given, LABELS, strict=True)]
    same, close = off.count(0) / len(off), (off.count(0) + off.count(1)) / len(off)
    print(f"\n{PlanScores._fields[place]}: {len(off)} plans, equal {same:.3f}, within a point {close:.3f}")
    for far, scores, row in zip(off, given, LABELS, strict=True):
        if far > 1:
            print(" ", row["env"], row["steps"], "label", row["label"], "given", tuple(scores))
    assert same >= equal
    assert close >= near


@pytest.mark.parametrize(
    "name", ["toy", "webshop", "textcraft", "wordle", "maze", "babyai", "alfworld", "iqa", "tools"]
)
def test_an_expert_gets_full_marks_at_every_turn(name: str) -> None:
    env, low = envs.load(name, split="dev"), []
    for task in env.tasks[:5]:
        first, _ = env.reset(options={"task": task})
        latest, actions, over = first, list[str](), False
        while not over:
            assert env.expert is not None
            plan, action = env.expert.plan(), env.expert.action()
            given = grade_plan(item(plan, plan, first, latest, tuple(actions)))
            low += [(plan, given)] if given != (5, 5, 5) else []
            latest, _, terminated, truncated, _ = env.step(action)
            actions, over = [*actions, action], terminated or truncated
    assert not low, low[:3]


TASK = "Press red, then gray, then teal."
EXPERT = ["push the red button", "push the gray button", "push the teal button"]


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([], (1, 1, 1)),
        (["do something useful"], (1, 1, 5)),
        (["continue", "make progress", "act"], (1, 1, 5)),
        ([TASK], (4, 5, 1)),
        (["push the red button and push the gray button and push the teal button"], (3, 1, 5)),
        (["push red gray teal", "push red gray teal", "push red gray teal"], (3, 5, 5)),  # a word for every step
        (["press[red]", "press[gray]", "press[teal]"], (5, 5, 1)),
        (["2. push the red button", *EXPERT[1:]], (5, 5, 4)),
        (
            [EXPERT[0]] + ["push the very same button once again as has been said above already for so very long"] * 2,
            (4, 5, 2),
        ),
        (EXPERT + ["push the plum button"] * 9, (3, 4, 4)),
        (["push the plum button", *EXPERT[1:]], (3, 4, 5)),
    ],
)
def test_what_would_please_without_being_a_plan(steps: list[str], most: tuple[int, int, int]) -> None:
    given = grade_plan(item(steps, EXPERT, TASK))
    assert all(score <= limit for score, limit in zip(given, most, strict=True)), given


def test_the_next_step_weighs_as_much_as_all_that_follow() -> None:
    wrong = "push the plum button"
    assert correctness((wrong, *EXPERT[1:]), tuple(EXPERT)) == 3
    assert correctness((*EXPERT[:2], wrong), tuple(EXPERT)) > 3
    assert correctness((EXPERT[0],), tuple(EXPERT)) == 3


def test_order_counts_and_so_does_what_is_not_needed() -> None:
    assert correctness((EXPERT[1], EXPERT[0], EXPERT[2]), tuple(EXPERT)) <= 3
    assert correctness((*EXPERT, "push the plum button"), tuple(EXPERT)) in (4, 5)
    assert correctness((*EXPERT, *["push the plum button"] * 4), tuple(EXPERT)) < 5


def test_nothing_is_known_of_correctness_where_there_is_no_expert() -> None:
    assert grade_plan(item(EXPERT, [], TASK)) == (3, 5, 5)
    assert grade_plan(item([], [], TASK)) == (1, 1, 1)


def test_what_nobody_has_seen_cannot_be_done() -> None:
    page = "back to search [SEP] nimbus wool skirt $16 [SEP] zephyr wool skirt $19"
    assert grade_plan(item(["open zephyr for $19"], ["open nimbus for $16"], "i need a skirt", page)).executability == 5
    assert grade_plan(item(["open acme for $99"], ["open nimbus for $16"], "i need a skirt", page)).executability == 1
