"""Records of episodes.jsonl: they hold everything about an episode except its token ids."""

from __future__ import annotations

import json
from dataclasses import replace

from pilotrl.store.records import from_record, to_record
from pilotrl.types import Call, Episode, PlanScores, Task, Turn, WrittenPlan


def episode() -> Episode:
    """An episode no field of which has its default value."""
    turn = Turn(
        ("push \u2028 red", ""),
        "Action: press[red]",
        "press[red]",
        "“Näh”\n",
        True,
        False,
        1 / 3,
        adherence=1,
        reward=0.25,
    )
    return Episode(
        task=Task("toy", "red-blue", "train", 3),
        group=2,
        sample=1,
        observation="Press red.",
        par=2,
        turns=[turn, replace(turn, adherence=None, plan=())],
        calls=[Call("executor", [5], [6], [-0.1], "end", ())],
        tokens=17,
        outcome="truncated",
        ended_by="context",
        score=0.1 + 0.2,
        terms={"format": 0.5, "adherence": None},
        reward=-0.0125,
    )


def test_an_episode_comes_back_from_its_line_without_its_calls() -> None:
    line = json.dumps(to_record(episode(), "train", 5), ensure_ascii=False, allow_nan=False)
    again = from_record(json.loads(line))
    assert replace(again, calls=[]) == replace(episode(), calls=[])
    assert "\n" not in line


def test_an_older_record_does_not_say_what_ended_it() -> None:
    record = to_record(episode(), "train", 5)
    del record["ended_by"]
    again = from_record(record)
    assert (again.outcome, again.ended_by) == ("truncated", None)


def test_a_graded_plan_comes_back_too() -> None:
    """Evaluations are reused from run to run through their records, and scored again."""
    written = [WrittenPlan(("press red",), ("press",), PlanScores(1, 3, 5)), WrittenPlan(None, (), None), None]
    calls = [Call("planner", [5], [6], [-0.1], "end", (), written=one, selected=bool(one)) for one in written]
    record = to_record(replace(episode(), calls=calls), "train", 5)
    again = from_record(json.loads(json.dumps(record)))
    assert [call.written for call in again.calls] == written
    assert json.dumps(to_record(again, "train", 5)) == json.dumps({**record, "calls": to_record(again, "", 0)["calls"]})
    assert to_record(again, "train", 5) == record


def test_a_record_has_its_phase_and_step() -> None:
    record = to_record(replace(episode(), reward=None), "before/own plans, greedy", 0)
    assert (record["phase"], record["step"], record["reward"]) == ("before/own plans, greedy", 0, None)


def test_a_record_has_the_token_counts_and_advantage_of_each_call() -> None:
    played = replace(
        episode(), calls=[Call("planner", [5, 5], [6, 7, 8], [-0.1] * 3, "length", (), turn=2, advantage=-0.5)]
    )
    (call,) = to_record(played, "train", 5)["calls"]
    assert call == {"role": "planner", "turn": 2, "prompt": 2, "sampled": 3, "stop": "length", "advantage": -0.5}


def test_a_turn_of_before_its_reward_was_kept_is_read() -> None:
    record = to_record(episode(), "train", 5)
    assert record["turns"][0].pop("reward") == 0.25
    del record["turns"][1]["reward"]
    assert [turn.reward for turn in from_record(record).turns] == [0.0, 0.0]
