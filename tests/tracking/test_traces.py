"""An episode's trace says what its line in episodes.jsonl says, and is the same trace whenever it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder
from pilotrl.tracking.mlflow_sync import MlflowSync
from pilotrl.tracking.sync_state import RunInfo, SyncState
from pilotrl.tracking.traces import Traces, is_shown
from pilotrl.types import Call, Episode, Outcome, Task, Turn

FIRST, LATER = ("press red", "press blue"), ("press red", "press green", "press blue")


def turn(plan: tuple[str, ...], action: str, verdict: int | None) -> Turn:
    return Turn(plan, f"Action: {action}", action, f"after {action}", True, True, 0.5, adherence=verdict)


def call(role: Any, number: int, prompt: int, sampled: int, advantage: float | None = None) -> Call:
    return Call(role, [1] * prompt, [2] * sampled, [0.0] * sampled, "end", (), turn=number, advantage=advantage)


def episode(calls: Sequence[Call], *plans: tuple[str, ...], outcome: Outcome = "failed") -> Episode:
    """One turn under each plan: the first is followed in part, nobody knows about the others."""
    turns = [turn(plan, f"push {number}", None if number > 1 else 1) for number, plan in enumerate(plans, 1)]
    scored: dict[str, Any] = {"terms": {"format": 1.0, "adherence": 0.5, "style": None}, "reward": 0.75}
    return Episode(
        Task("toy", "red-blue", "test", 0),
        2,
        0,
        "Press red, then blue.",
        None,
        turns,
        list(calls),
        outcome=outcome,
        **scored,
    )


def by_policy() -> Episode:
    """Plans at the first two turns, and then is content."""
    calls = [call("planner", 1, 10, 7), call("executor", 1, 20, 3, -0.5), call("planner", 2, 25, 9)]
    calls += [call("executor", 2, 40, 4, 0.25), call("executor", 3, 50, 5)]
    return replace(episode(calls, FIRST, LATER, LATER), tokens=28)


def by_teacher() -> Episode:
    calls = [call("executor", number, 20, 3) for number in (1, 2, 3)]
    return replace(episode(calls, FIRST, LATER, LATER), tokens=9)


def traced(played: Episode, phase: str = "after/own plans, sampled", run: str = "run") -> tuple[Any, list[Any]]:
    traces = Traces("sqlite://", "1", run, "RuleJudge")
    traces.add(to_record(played, phase, 5), 1.7e9)
    return traces._waiting[0]


def children(spans: Sequence[Any], parent: Any) -> list[Any]:
    found = [span for span in spans if span.parent_id == parent.span_id]
    return sorted(found, key=lambda span: span.start_time_ns)


def root(spans: Sequence[Any]) -> Any:
    (only,) = [span for span in spans if span.parent_id is None]
    return only


def test_calls_of_tools_are_spans_with_their_arguments_and_results() -> None:
    asked = '[{"name": "price", "arguments": {"item": "apple"}}, {"name": "price", "arguments": {"item": "egg"}}]'
    first = replace(turn(FIRST, asked, None), results=("3", "1"))
    second = replace(turn(FIRST, "", None), unread="there is no <tool_call>", observation="Not understood")
    _, spans = traced(replace(by_policy(), turns=[first, second], calls=[]))
    one, other = children(spans, root(spans))
    tools = [span for span in children(spans, one) if span.name.startswith("call ")]
    assert [(span.name, span.inputs, span.outputs) for span in tools] == [
        ("call 1: price", {"arguments": {"item": "apple"}}, {"result": "3"}),
        ("call 2: price", {"arguments": {"item": "egg"}}, {"result": "1"}),
    ]
    assert not [span for span in children(spans, other) if span.name.startswith("call ")]
    assert (one.attributes.get("unread"), other.attributes["unread"]) == (None, "there is no <tool_call>")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"phase": "before/own plans, greedy", "group": 1}, True),
        ({"phase": "before/own plans, greedy", "group": 2}, False),
        ({"phase": "after/own plans, sampled", "sample": 1}, False),
        ({"phase": "train", "step": 6, "sample": 7}, True),
        ({"phase": "train", "step": 6, "group": 1}, False),
        ({"phase": "train", "step": 5}, False),
        ({"phase": "train", "step": 1}, True),
    ],
)
def test_the_sample(changes: dict[str, Any], shown: bool) -> None:
    record = {"step": 0, "group": 0, "sample": 0} | changes
    assert is_shown(record, tasks=2, every=3) is shown
    assert not is_shown(record, tasks=0, every=3)
    assert is_shown(record, tasks=2, every=0) is (shown and record["phase"] != "train")


def test_a_span_for_every_plan_action_answer_and_verdict() -> None:
    _, spans = traced(by_policy())
    turns = children(spans, root(spans))
    assert [span.name for span in turns] == ["turn 1", "turn 2", "turn 3"]
    inside = [children(spans, one) for one in turns]
    whole = ["plan", "action", "environment", "verdict"]
    assert [[span.name for span in one] for one in inside] == [whole, whole, whole[1:]]
    assert inside[1][0].outputs == {"plan": "1. press red\n2. press green\n3. press blue"}
    assert inside[1][1].inputs == {"step": "press green"}
    assert inside[1][1].outputs == {"reply": "Action: push 2", "action": "push 2"}
    assert inside[1][2].outputs["observation"] == "after push 2"
    assert [one[-1].outputs["verdict"] for one in inside] == [1, None, None]
    assert inside[1][0].inputs["observation"] == "after push 1"  # what it saw, and not what came of it


def test_spans_lie_inside_their_parents_and_behind_each_other() -> None:
    info, spans = traced(by_policy())
    for parent in spans:
        inside = children(spans, parent)
        for span in inside:
            assert parent.start_time_ns <= span.start_time_ns < span.end_time_ns <= parent.end_time_ns
        for one, other in pairwise(inside):
            assert one.end_time_ns <= other.start_time_ns
    assert root(spans).start_time_ns == info.request_time * 10**6
    assert root(spans).end_time_ns - root(spans).start_time_ns == info.execution_duration * 10**6


def test_tokens_and_advantages_stand_where_they_belong() -> None:
    info, spans = traced(by_policy())
    models = [span for span in spans if span.span_type == "LLM"]
    usage = [span.get_attribute("mlflow.chat.tokenUsage") for span in models]
    assert [(one["input_tokens"], one["output_tokens"]) for one in usage] == [
        (10, 7),
        (20, 3),
        (25, 9),
        (40, 4),
        (50, 5),
    ]
    assert [span.get_attribute("advantage") for span in models] == [None, -0.5, None, 0.25, None]
    assert [(span.end_time_ns - span.start_time_ns) // 10**6 for span in models] == [
        7,
        3,
        9,
        4,
        5,
    ]  # the clock is tokens
    assert info.token_usage == {"input_tokens": 145, "output_tokens": 28, "total_tokens": 173}


def test_who_wrote_it() -> None:
    _, spans = traced(by_teacher())
    plans = [span for span in spans if span.name == "plan"]
    assert [span.get_attribute("written by") for span in plans] == ["the teacher"] * 2  # the third is the second
    assert all(span.get_attribute("mlflow.chat.tokenUsage") is None for span in plans)
    assert {span.get_attribute("written by") for span in spans if span.name == "action"} == {"the policy"}
    _, spans = traced(replace(by_policy(), tokens=0))  # demonstrations are no tokens that a model sampled
    assert {span.get_attribute("written by") for span in spans if span.span_type == "LLM"} == {"the expert"}


def test_an_agent_without_plans() -> None:
    _, spans = traced(episode([call("executor", 1, 20, 3)], ()))
    names = [span.name for span in children(spans, children(spans, root(spans))[0])]
    assert names == ["action", "environment"]


def test_verdicts_and_scores_are_assessments() -> None:
    info, spans = traced(by_policy())
    given = {one.name: (one.value, one.source.source_id) for one in info.assessments}
    assert given == {
        "success": (False, "toy"),
        "reward/total": (0.75, "reward"),
        "reward/format": (1.0, "reward"),
        "reward/adherence": (0.5, "reward"),
        "verdict": (1, "RuleJudge"),
    }
    (verdict,) = [one for one in info.assessments if one.name == "verdict"]
    (span,) = [one for one in spans if one.span_id == verdict.span_id]
    assert (span.name, span.inputs) == ("verdict", {"step": "press red", "action": "push 1"})
    assert verdict.rationale == "Turn 1: push 1 follows it in part: press red"


def test_a_broken_episode_is_an_error_without_a_score() -> None:
    info, spans = traced(replace(episode([], outcome="broken"), terms={}, reward=None))
    assert (info.state.value, info.assessments, len(spans)) == ("ERROR", [], 1)
    assert root(spans).status.status_code.value == "ERROR"


def test_ids_follow_from_the_run_and_what_was_played() -> None:
    def ids(*given: Any, **more: Any) -> list[str]:
        info, spans = traced(*given, **more)
        return [info.trace_id, *(span.span_id for span in spans), *(one.assessment_id for one in info.assessments)]

    usual = ids(by_policy())
    assert ids(by_policy()) == usual
    assert len(set(usual)) == len(usual)
    for other in (
        ids(by_policy(), run="other"),
        ids(by_policy(), "before/own plans, sampled"),
        ids(replace(by_policy(), sample=1)),
        ids(replace(by_policy(), group=3)),
    ):
        assert not set(usual) & set(other)


def test_a_session_is_a_group_before_after_or_in_one_step_of_one_run() -> None:
    def session(phase: str, played: Episode, run: str = "run") -> str:
        traces = Traces("sqlite://", "1", run, "RuleJudge")
        traces.add(to_record(played, phase, 5), 1.7e9)
        metadata = traces._waiting[0][0].trace_metadata
        assert "mlflow.trace.user" not in metadata
        return str(metadata["mlflow.trace.session"])

    member = by_policy()
    assert session("train", member) == session("train", replace(member, sample=3))
    assert session("after/own plans, sampled", member) == session("after/teacher's plans, greedy", member)
    others = [("train", member), ("train", replace(member, group=1)), ("before/own plans, sampled", member)]
    others += [("after/own plans, sampled", member)]
    told = [session(phase, played) for phase, played in others] + [session("train", member, "other")]
    assert len(set(told)) == len(told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run that is over, with two tasks in each of two panels and a group in each of two steps."""
    run = tmp_path / "run"
    run.mkdir()
    played = [("before/own plans, sampled", 0), ("train", 1), ("train", 2), ("after/own plans, sampled", 2)]
    with RunFolder(run).lines("episodes.jsonl") as lines:
        for phase, step in played:
            for group in (0, 1):
                for sample in (0, 1):
                    lines.write(to_record(replace(by_policy(), group=group, sample=sample), phase, step))
    (run / "metrics.jsonl").write_text('{"step": 1, "time": 1.7e9}\n{"step": 2, "time": 1.8e9}\n')
    return run


def run_info(**changes: Any) -> RunInfo:
    return replace(RunInfo("pilotrl", "run", {}, {}, traces=2, traces_every=2, judge="RuleJudge"), **changes)


@pytest.fixture
def sent(tmp_path: Path, folder: Path) -> Callable[[], list[Any]]:
    """Sends the folder, and returns the traces that MLflow has of it."""
    uri, sync_state = f"sqlite:///{tmp_path}/mlflow.db", SyncState(folder)
    sync_state.begin(uri, run_info())
    sync_state.end("FINISHED", 1.9e9)

    def send() -> list[Any]:
        MlflowSync(sync_state, uri).send()
        run, client = sync_state.read()["run_id"], MlflowClient(uri)
        experiment = client.get_run(run).info.experiment_id
        return [*client.search_traces(locations=[experiment], run_id=run, max_results=100)]

    return send


def test_mlflow_has_the_sample_once_however_often_it_is_sent(sent: Callable[[], list[Any]], folder: Path) -> None:
    once = sent()
    assert (
        sorted(trace.info.tags["when"] for trace in once)
        == ["after"] * 2 + ["before"] * 2 + ["step 1"] * 2 + ["step 2"] * 2
    )
    assert all(len(trace.data.spans) == 15 and len(trace.info.assessments) == 5 for trace in once)
    SyncState(folder).update(**{"episodes.jsonl": {"bytes": 7, "tail": "of another file"}})  # as though it was cut back
    again = sent()
    assert [trace.to_dict() for trace in again] == [trace.to_dict() for trace in once]


def test_members_of_a_group_are_found_by_their_session(sent: Callable[[], list[Any]], tmp_path: Path) -> None:
    member = next(trace for trace in sent() if trace.info.tags["when"] == "step 2")
    session = member.info.trace_metadata["mlflow.trace.session"]
    found = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_traces(
        locations=[member.info.experiment_id], filter_string=f"metadata.`mlflow.trace.session` = '{session}'"
    )
    assert sorted(trace.info.tags["sample"] for trace in found) == ["0", "1"]


def test_a_steps_episodes_wait_until_it_is_over(sent: Callable[[], list[Any]], folder: Path) -> None:
    whole = (folder / "metrics.jsonl").read_text()
    SyncState(folder).update(status="RUNNING")
    (folder / "metrics.jsonl").write_text(whole.splitlines(keepends=True)[0])
    assert {trace.info.tags["when"] for trace in sent()} == {"before", "step 1"}
    (folder / "metrics.jsonl").write_text(whole)
    played = {
        (trace.info.tags["when"], trace.info.request_time)
        for trace in sent()
        if trace.info.tags["when"] in ("step 2", "after")
    }
    over = 1_800_000_000_000
    assert played == {
        ("step 2", over),
        ("after", over),
        ("after", over - 1),
    }  # tasks in order, MLflow shows the latest first


def test_a_lone_surrogate_in_a_file_of_others_reaches_mlflow_as_text() -> None:
    played = by_policy()
    played.observation = played.turns[0].observation = "seen \ud800"
    played.turns[0].action = "push \udfff"
    info, spans = traced(played)
    assert info.request_preview == "seen ?"
    for span in spans:
        assert "\\ud" not in json.dumps([span.inputs, span.outputs])
    assert next(one.rationale for one in info.assessments if one.name == "verdict").startswith("Turn 1: push ? ")
