"""A line of episodes.jsonl says everything about an episode but its token ids."""

from __future__ import annotations

import json
from dataclasses import replace

from pilotrl.store.records import from_record, to_record
from pilotrl.types import Call, Episode, PlanScores, Task, Turn, WrittenPlan


def episode() -> Episode:
    """No field has the value that it starts with."""
    turn = Turn(("push \u2028 red", ""), "Action: press[red]", "press[red]", "“Näh”\n", True, False, 1 / 3, adherence=1)
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
        score=0.1 + 0.2,
        terms={"format": 0.5, "adherence": None},
        reward=-0.0125,
    )


def test_an_episode_comes_back_from_its_line_without_its_calls() -> None:
    line = json.dumps(to_record(episode(), "train", 5), ensure_ascii=False, allow_nan=False)
    again = from_record(json.loads(line))
    assert replace(again, calls=[]) == replace(episode(), calls=[])
    assert "\n" not in line


def test_a_graded_plan_comes_back_too() -> None:
    """Panels are handed over from run to run through their lines, and scored anew."""
    written = [WrittenPlan(("press red",), ("press",), PlanScores(1, 3, 5)), WrittenPlan(None, (), None), None]
    calls = [Call("planner", [5], [6], [-0.1], "end", (), written=one, selected=bool(one)) for one in written]
    record = to_record(replace(episode(), calls=calls), "train", 5)
    again = from_record(json.loads(json.dumps(record)))
    assert [call.written for call in again.calls] == written
    assert json.dumps(to_record(again, "train", 5)) == json.dumps({**record, "calls": to_record(again, "", 0)["calls"]})
    assert to_record(again, "train", 5) == record


def test_a_line_says_when_and_why_it_was_played() -> None:
    record = to_record(replace(episode(), reward=None), "before/own plans, greedy", 0)
    assert (record["phase"], record["step"], record["reward"]) == ("before/own plans, greedy", 0, None)


def test_a_line_says_what_each_call_read_and_sampled_and_what_it_was_worth() -> None:
    played = replace(
        episode(), calls=[Call("planner", [5, 5], [6, 7, 8], [-0.1] * 3, "length", (), turn=2, advantage=-0.5)]
    )
    (call,) = to_record(played, "train", 5)["calls"]
    assert call == {"role": "planner", "turn": 2, "prompt": 2, "sampled": 3, "stop": "length", "advantage": -0.5}
