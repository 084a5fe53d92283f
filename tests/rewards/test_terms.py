"""Reward terms: their values by hand, what is missing and what is merely not due, the length penalty."""

from __future__ import annotations

import pytest

from pilotrl.rewards.terms import TERMS, overlong, score, unscored_verdicts
from pilotrl.types import Call, Episode, Outcome, PlanScores, Role, RunFailed, Task, Turn, UserError, WrittenPlan

WEIGHTS = {"format": 1.0, "adherence": 1.0, "outcome": 1.0}


def turn(adherence: int | None = None, well_formed: bool = True, valid: bool = True, steps: int = 9) -> Turn:
    return Turn(("step",) * steps, "Action: a", "a", "seen", valid, well_formed, 0.0, adherence)


def call(role: Role, sampled: int) -> Call:
    return Call(role, [1] * 500, [2] * sampled, [0.0] * sampled, "end", ())


def planned(turn: int, scores: PlanScores | None, selected: bool = True) -> Call:
    """A planner's call whose plan the judge gave these scores."""
    made = call("planner", 5)
    made.turn, made.selected, made.written = turn, selected, WrittenPlan(("a",), ("a",), scores)
    return made


def episode(
    turns: list[Turn], outcome: Outcome = "solved", par: int | None = None, calls: list[Call] | None = None
) -> Episode:
    task = Task("toy", "toy-train-0", "train", 0)
    return Episode(task, 0, 0, "text", par=par, turns=turns, calls=calls or [], outcome=outcome)


def scored(played: Episode, *terms: str, weights: dict[str, float] = WEIGHTS) -> Episode:
    score(played, terms or tuple(WEIGHTS), weights, 0.0, 1.0, {"executor": 100})
    return played


def test_reward_is_the_weighted_mean_of_terms_worked_by_hand() -> None:
    played = scored(
        episode([turn(2), turn(1), turn(0), turn(2, well_formed=False)], par=3),
        weights={"format": 1.0, "adherence": 2.0, "outcome": 1.0},
    )
    assert played.terms == {
        "format": 0.75,
        "adherence": 0.625,
        "outcome": 0.5,
        "plan_quality": None,
        "correctness": None,
        "score": 0.0,
    }
    assert played.reward == pytest.approx((0.75 + 2 * 0.625 + 0.5) / 4)


@pytest.mark.parametrize(
    ("outcome", "turns", "par", "value"),
    [
        ("solved", 3, 3, 1.0),
        ("solved", 4, 3, 0.5),
        ("solved", 40, None, 1.0),
        ("failed", 3, 3, 0.0),
        ("truncated", 3, 3, 0.0),
        ("broken", 3, 3, None),
    ],
)
def test_outcome(outcome: Outcome, turns: int, par: int | None, value: float | None) -> None:
    assert TERMS["outcome"](episode([turn()] * turns, outcome, par)) == value


def test_format_is_about_structure_and_not_about_being_understood() -> None:
    assert TERMS["format"](episode([turn(valid=False), turn(well_formed=False)])) == 0.5


def test_every_term_and_reward_lies_between_0_and_1() -> None:
    for verdict in (0, 1, 2, None):
        for outcome in ("solved", "failed", "truncated"):
            played = scored(episode([turn(verdict), turn(2, well_formed=False)], outcome, par=1))  # type: ignore[arg-type]
            assert all(value is None or 0 <= value <= 1 for value in played.terms.values())
            assert played.reward is not None
            assert 0 <= played.reward <= 1


def test_only_the_terms_of_the_stage_count_and_all_are_there_to_be_logged() -> None:
    played = scored(episode([turn(0)]), "outcome")
    assert played.reward == 1.0
    assert set(played.terms) == set(TERMS)


def test_a_term_of_weight_zero_does_not_count_even_where_it_is_missing() -> None:
    assert scored(episode([turn(None)]), weights=WEIGHTS | {"adherence": 0.0}).reward == 1.0


def test_a_missing_verdict_is_left_out_of_the_mean_and_counted() -> None:
    played = scored(episode([turn(2), turn(None), turn(0)]))
    assert played.terms["adherence"] == 0.5
    assert unscored_verdicts(played) == 1


def test_without_any_verdict_that_was_due_the_episode_is_unscored() -> None:
    played = scored(episode([turn(None), turn(None)]))
    assert played.reward is None
    assert unscored_verdicts(played) == 2


def test_a_paradigm_without_plans_has_no_adherence_due() -> None:
    played = scored(episode([turn(None, steps=0)] * 2, "failed"))
    assert played.terms["adherence"] is None
    assert played.reward == 0.5
    assert unscored_verdicts(played) == 0


def test_turns_past_the_end_of_a_plan_are_not_due() -> None:
    played = scored(episode([turn(2, steps=1), turn(None, steps=1)]))
    assert unscored_verdicts(played) == 0
    assert played.reward == 1.0


def test_broken_is_unscored_and_never_zero() -> None:
    assert scored(episode([turn(2)], "broken")).reward is None
    assert scored(episode([turn(2)], "broken"), "format").reward is None
    assert scored(episode([], "broken")).reward is None


def test_an_episode_without_turns_has_failed_and_is_scored() -> None:
    played = scored(episode([], "truncated"))
    assert played.terms == {
        "format": None,
        "adherence": None,
        "outcome": 0.0,
        "plan_quality": None,
        "correctness": None,
        "score": 0.0,
    }
    assert played.reward == 0.0


def test_no_term_that_applies_leaves_no_reward() -> None:
    assert scored(episode([turn(None, steps=0)]), "adherence").reward is None


def test_unknown_terms_and_weights_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"stage.terms=speed: .* format, adherence, outcome"):
        scored(episode([turn(2)]), "speed")
    with pytest.raises(UserError, match=r"reward.weights.*outcome"):
        scored(episode([turn(2)]), "outcome", weights={"format": 1.0})


@pytest.mark.parametrize(("length", "share"), [(0, 0), (0.6, 0), (0.8, 0.5), (1, 1), (5, 1)])
def test_overlong_punishment_is_linear_in_the_buffer(length: float, share: float) -> None:
    assert overlong(length, buffer=0.4) == pytest.approx(share)
    assert overlong(length, buffer=0) == 0


LONG = {"executor": 50, "planner": 1000}


@pytest.mark.parametrize(("trains", "length"), [(["executor"], 0.8), (["executor", "planner"], 1080 / 1100), ([], 0)])
def test_length_counts_sampled_tokens_of_trained_roles_alone(trains: list[Role], length: float) -> None:
    played = episode([turn(2)], calls=[call("executor", 50), call("planner", 1000), call("executor", 30)])
    score(played, ("outcome",), WEIGHTS, 0.4, 0.6, {role: LONG[role] for role in trains})
    assert played.reward == pytest.approx(1 - 0.6 * max(0, (length - 0.6) / 0.4))


@pytest.mark.parametrize("turns", [1, 6, 20])
def test_an_episode_is_not_too_long_for_its_turns(turns: int) -> None:
    """A world that takes twenty turns has three times the words of one that takes six: its answers are no longer for that."""
    played = episode([turn(2)] * turns, calls=[call("executor", 40) for _ in range(turns)])
    score(played, ("outcome",), WEIGHTS, 0.4, 1.0, {"executor": 50})
    assert played.reward == pytest.approx(1 - 0.5)


def test_an_unscored_episode_gets_no_penalty_in_place_of_a_reward() -> None:
    played = episode([turn(None)], calls=[call("executor", 1000)])
    score(played, tuple(WEIGHTS), WEIGHTS, 0.4, 1.0, {"executor": 100})
    assert played.reward is None


PLANS = (*WEIGHTS, "plan_quality")
EVEN = WEIGHTS | {"plan_quality": 1.0}


def test_plan_quality_is_the_mean_over_the_plans_that_were_followed() -> None:
    calls = [
        planned(1, PlanScores(5, 5, 5)),
        planned(1, PlanScores(1, 1, 1), selected=False),
        planned(2, PlanScores(1, 2, 3)),
    ]
    played = scored(episode([turn(2)] * 2, par=2, calls=calls), *PLANS, weights=EVEN)
    assert played.terms["plan_quality"] == pytest.approx((1 + 0.25) / 2)
    assert played.terms["correctness"] == pytest.approx((1 + 0) / 2)
    assert played.reward == pytest.approx((1 + 1 + 1 + 0.625) / 4)


def test_a_plan_without_scores_is_missing_and_one_that_nobody_wrote_is_not_due() -> None:
    some = [planned(1, None), planned(2, PlanScores(3, 3, 3))]
    assert scored(episode([turn(2)] * 2, calls=some), *PLANS, weights=EVEN).terms["plan_quality"] == 0.5
    none = episode([turn(2)] * 2, calls=[planned(1, None)])
    assert scored(none, *PLANS, weights=EVEN).reward is None
    assert unscored_verdicts(none) == 1
    assert scored(episode([turn(2)] * 2), *PLANS, weights=EVEN).reward == 1.0


@pytest.mark.parametrize(
    ("terms", "process_reward"), [(PLANS, [0.5, 1.0]), (["outcome"], [None, None]), (["adherence"], [None, 1.0])]
)
def test_a_call_earns_what_the_terms_of_the_stage_say(terms: list[str], process_reward: list[float | None]) -> None:
    acted = call("executor", 3)
    acted.turn = 1
    played = scored(episode([turn(2)], calls=[planned(1, PlanScores(3, 3, 3)), acted]), *terms, weights=EVEN)
    assert [one.process_reward for one in played.calls] == process_reward


def test_a_call_earns_nothing_by_a_term_without_weight() -> None:
    acted = call("executor", 3)
    acted.turn = 1
    calls = [planned(1, PlanScores(3, 3, 3)), acted]
    played = scored(episode([turn(2)], calls=calls), *PLANS, weights=EVEN | {"adherence": 0.0})
    assert [one.process_reward for one in played.calls] == [0.5, None]


def test_the_length_of_an_episode_is_that_of_what_entered_it() -> None:
    long = [planned(1, PlanScores(5, 5, 5)), planned(1, PlanScores(5, 5, 5), selected=False)]
    for calls, penalty in ((long[:1], 0.5), (long, 0.5)):
        played = episode([turn(2)], calls=calls)
        score(played, ["outcome"], EVEN, 1.0, 1.0, {"planner": 10})
        assert played.reward == 1.0 - penalty


def test_the_score_of_the_environment_is_a_term() -> None:
    """WebShop's partial score can be trained on: stage.terms=[format,score]."""
    played = episode([turn(2)], "failed")
    played.score = 0.75
    assert scored(played, "format", "score", weights={"format": 1.0, "score": 3.0}).reward == (1 + 3 * 0.75) / 4
    played.outcome = "broken"
    assert scored(played, "score", weights={"score": 1.0}).terms["score"] is None


def test_a_term_of_ones_own_counts_beside_ours_and_none_does_not_apply() -> None:
    def mine(value: float | None) -> Episode:
        played = episode([turn(2)])
        score(played, ("format", "mine"), {"format": 1.0, "mine": 1.0}, 0.0, 1.0, {}, {"mine": lambda episode: value})
        return played

    assert (mine(0.5).reward, mine(0.5).terms["mine"]) == (0.75, 0.5)
    assert mine(None).reward == 1.0


@pytest.mark.parametrize(
    ("value", "error"), [(1.01, UserError), (-0.1, UserError), (float("nan"), RunFailed), (float("inf"), RunFailed)]
)
def test_a_term_outside_of_its_range_stops_the_run_in_a_line(value: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"reward\.terms\.mine: gave .* must be from 0 to 1, or None"):
        score(episode([turn()]), ("mine",), {"mine": 1.0}, 0.0, 1.0, {}, {"mine": lambda episode: value})
