"""Episodes as MLflow shows them: a trace each, with spans for every turn, plan, action, answer of the environment and verdict.

A trace is built from a line of episodes.jsonl, and everything in it, ids too, follows from that line and the run: sent
twice it is the same trace. Nobody measures how long a call takes where episodes are played side by side, so the clock
inside a trace counts tokens: one that was sampled is a millisecond, and whatever is not the model's takes one as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pilotrl.envs.tools import parsed
from pilotrl.store.text import encodable

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Span, TraceInfo
    from opentelemetry.trace import SpanContext

Record = Mapping[str, Any]
"""A line of episodes.jsonl."""

VERDICTS = ("ignores the step", "follows it in part", "follows it in full")
"""What the judge's 0, 1 and 2 mean."""
TICK = 1_000_000
"""Nanoseconds of a millisecond."""
PREVIEW = 500
"""Characters of the first observation in the list of traces."""


def is_shown(record: Record, tasks: int, every: int) -> bool:
    """Whether an episode is in the sample: the first of each of the first `tasks` tasks of an evaluation and, in the
    first and every `every`-th step of training (0: in none), the whole first group, whose members are credited against each
    other."""
    if record["phase"] == "train":
        kept = every > 0 and (record["step"] == 1 or record["step"] % every == 0)
        return tasks > 0 and kept and record["group"] == 0
    return bool(record["group"] < tasks and record["sample"] == 0)


class Traces:
    """Traces of one run that wait to be sent.

    uri: where MLflow is. judge: who gave the verdicts. tags: of every trace, beside its own."""

    def __init__(
        self, uri: str, experiment: str, run_id: str, judge: str, tags: Mapping[str, str] | None = None
    ) -> None:
        self.uri, self.experiment, self.run_id, self.judge = uri, experiment, run_id, judge
        self.tags = dict(tags or {})
        self._waiting: list[tuple[TraceInfo, list[Span]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: Record, when: float) -> None:
        """The trace of an episode that was played `when` seconds after 1970."""
        record = json.loads(encodable(json.dumps(record, ensure_ascii=False)))
        start = int(1000 * when) - record["group"]  # MLflow shows the latest first: tasks in their order
        self._waiting.append(_Episode(self, record, start).trace())

    def send(self) -> list[str]:
        """Both requests replace what has the same ids. Returns the ids of the traces."""
        from mlflow.tracing.client import TracingClient

        client, waiting = TracingClient(self.uri), self._waiting
        for info, _ in waiting:
            client.start_trace(info)
        client.log_spans(self.experiment, [span for _, spans in waiting for span in spans])
        self._waiting = []
        return [info.trace_id for info, _ in waiting]


@dataclass
class _Episode:
    """One trace while it is built, along its own clock."""

    run: Traces
    record: Record
    start: int
    """Milliseconds since 1970."""
    spans: list[Span] = field(default_factory=list)
    verdicts: list[Feedback] = field(default_factory=list)
    now: int = 0
    """Milliseconds since the start."""

    def __post_init__(self) -> None:
        record = self.record
        what = (self.run.run_id, record["phase"], record["step"], record["group"], record["sample"])
        self.id = _digest(16, *what)
        self.trace_id = f"tr-{self.id}"
        when, _, protocol = str(record["phase"]).partition("/")
        self.when, self.protocol = (when, protocol) if protocol else (f"step {record['step']}", "training")
        self.author = "the policy" if record["tokens"] else "the expert"  # whose demonstrations cost none
        self.writes_plans = any(call["role"] == "planner" for call in record["calls"])

    def trace(self) -> tuple[TraceInfo, list[Span]]:
        from mlflow.entities import TraceInfo, TraceLocation, TraceState

        record, calls = self.record, self.record["calls"]
        for number in range(1, len(record["turns"]) + 1):
            self._turn(number)
        ending = {name: _short(record.get(name)) for name in ("outcome", "ended_by", "score", "reward")}
        self._span("episode", "AGENT", 0, self._task(), ending, broken=record["outcome"] == "broken")
        usage = _usage(sum(call["prompt"] for call in calls), sum(call["sampled"] for call in calls))
        info = TraceInfo(
            trace_id=self.trace_id,
            trace_location=TraceLocation.from_experiment_id(self.run.experiment),
            request_time=self.start,
            state=TraceState.ERROR if record["outcome"] == "broken" else TraceState.OK,
            request_preview=record["observation"][:PREVIEW],
            response_preview=f"{record['outcome']}, {len(record['turns'])} turns; {self.when}, {self.protocol}",
            execution_duration=self.now,
            trace_metadata={
                "mlflow.sourceRun": self.run.run_id,
                "mlflow.trace.session": self.session,
                "mlflow.trace.tokenUsage": json.dumps(usage),
            },
            tags=self._tags(),
            assessments=[*self._scores(), *self.verdicts],
        )
        return info, self.spans

    @property
    def session(self) -> str:
        """What MLflow opens side by side: in training the members of a group; of an evaluation, whatever was played on
        the same task before training, or after it."""
        return f"{self.run.run_id[:12]}-{self.when.replace(' ', '-')}-group-{self.record['group']}"

    def _task(self) -> dict[str, Any]:
        task = self.record["task"]
        return {"task": task["id"], "split": task["split"], "observation": self.record["observation"]}

    def _tags(self) -> dict[str, str]:
        record = self.record
        return self.run.tags | {
            "mlflow.traceName": f"{record['task']['env']} {record['task']['id']}",
            "when": self.when,
            "protocol": self.protocol,
            "sample": str(record["sample"]),
            "outcome": record["outcome"],
        }

    def _turn(self, number: int) -> None:
        """A turn and, inside it, what happened in it."""
        turns, begun, parent = self.record["turns"], self.now, f"turn {number}"
        turn, before = turns[number - 1], turns[number - 2] if number > 1 else None
        seen = before["observation"] if before else self.record["observation"]
        old, plan = tuple(before["plan"]) if before else (), tuple(turn["plan"])
        due = turn.get("step") or number
        step = "".join(plan[due - 1 : due])
        planner, executor = self._call("planner", number), self._call("executor", number)
        if planner or (plan != old and not self.writes_plans):
            shown = {"observation": seen, "plan so far": _listed(old)} if old else {"observation": seen}
            self._model("plan", parent, planner, shown, {"plan": _listed(plan)}, other="the teacher")
        asked = {"step": step} if step else {"observation": seen}
        said = {"reply": turn["reply"], "action": turn["action"]}
        self._model("action", parent, executor, asked, said, other="the expert")
        for place, (name, arguments, result) in enumerate(_tool_calls(turn), 1):
            self._span(
                f"call {place}: {name}", "TOOL", self.now, {"arguments": arguments}, {"result": result}, parent=parent
            )
        answer = {"observation": turn["observation"], "understood": turn["valid"], "score": _short(turn["score"])}
        self._span("environment", "TOOL", self.now, {"action": turn["action"]}, answer, parent=parent)
        if step:
            self._verdict(number, parent, step, turn)
        shape = {"well formed": turn["well_formed"]} | ({"unread": turn["unread"]} if turn.get("unread") else {})
        outputs = {"action": turn["action"], "observation": turn["observation"]}
        self._span(parent, "CHAIN", begun, {"observation": seen}, outputs, shape, parent="episode")

    def _call(self, role: str, turn: int) -> Record | None:
        calls = (call for call in self.record["calls"] if call["role"] == role and call["turn"] == turn)
        return next(calls, None)

    def _model(
        self, name: str, parent: str, call: Record | None, inputs: Record, outputs: Record, *, other: str
    ) -> None:
        """A span of the model's, as long as it has tokens; or of `other`, whose writing cost none."""
        begun, facts = self.now, dict[str, Any]({"written by": other if call is None else self.author})
        if call is not None:
            self.now += max(1, call["sampled"]) - 1
            facts |= {"mlflow.chat.tokenUsage": _usage(call["prompt"], call["sampled"]), "stopped by": call["stop"]}
            facts |= {} if call["advantage"] is None else {"advantage": _short(call["advantage"])}
        self._span(name, "LLM" if call else "TASK", begun, inputs, outputs, facts, parent=parent)

    def _verdict(self, number: int, parent: str, step: str, turn: Record) -> None:
        from mlflow.entities import AssessmentSource

        given = turn["adherence"]
        said = {"verdict": given, "meaning": "none: the judge failed" if given is None else VERDICTS[given]}
        inputs = {"step": step, "action": turn["action"]}
        span = self._span("verdict", "EVALUATOR", self.now, inputs, said, {"judge": self.run.judge}, parent=parent)
        if given is not None:
            source = AssessmentSource("CODE", self.run.judge)
            reason = f"Turn {number}: {turn['action']} {VERDICTS[given]}: {step}"
            self.verdicts.append(self._feedback(f"verdict {number}", "verdict", given, source, reason, span))

    def _scores(self) -> Iterator[Feedback]:
        """What the environment and the reward terms say of the whole episode."""
        from mlflow.entities import AssessmentSource

        record = self.record
        if record["outcome"] == "broken":
            return
        world, reward = AssessmentSource("CODE", record["task"]["env"]), AssessmentSource("CODE", "reward")
        yield self._feedback("success", "success", record["outcome"] == "solved", world, f"Ended {record['outcome']}.")
        for name, value in {"total": record["reward"], **record["terms"]}.items():
            if value is not None:
                yield self._feedback(f"reward/{name}", f"reward/{name}", _short(value), reward, None)

    def _feedback(
        self, key: str, name: str, value: Any, source: Any, reason: str | None, span: str | None = None
    ) -> Feedback:
        from mlflow.entities import Feedback

        times = {"create_time_ms": self.start, "last_update_time_ms": self.start}
        made = Feedback(name, value, source=source, trace_id=self.trace_id, span_id=span, rationale=reason, **times)
        made.assessment_id = f"a-{_digest(16, self.id, key)}"
        return made

    def _span(
        self,
        name: str,
        kind: str,
        begun: int,
        inputs: Record,
        outputs: Record,
        facts: Record | None = None,
        *,
        parent: str | None = None,
        broken: bool = False,
    ) -> str:
        """A span from `begun` to now, and a tick more where it has none inside; returns its id."""
        from mlflow.entities import Span
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Status, StatusCode

        leaf = kind not in ("AGENT", "CHAIN")
        self.now += leaf
        start = self.start * TICK
        context = self._context(f"{parent}/{name}" if leaf else name)
        values = {"mlflow.traceRequestId": self.trace_id, "mlflow.spanType": kind, **(facts or {})}
        values |= {"mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs}
        made = ReadableSpan(
            name,
            context,
            self._context(parent) if parent else None,
            Resource.get_empty(),  # else it is tagged with the process that sent it
            attributes={key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
            status=Status(StatusCode.ERROR if broken else StatusCode.OK),
            start_time=start + begun * TICK,
            end_time=start + self.now * TICK,
        )
        self.spans.append(Span(made))
        return self.spans[-1].span_id  # type: ignore[no-any-return]

    def _context(self, key: str) -> SpanContext:
        from opentelemetry.trace import SpanContext

        return SpanContext(int(self.id, 16), int(_digest(8, self.id, key), 16), is_remote=False)


def _tool_calls(turn: Record) -> list[tuple[str, Any, str]]:
    """Name, arguments and result of each call of a tool in a turn, as they were made."""
    if not turn.get("results"):
        return []
    held = parsed(turn["action"])
    asked = held if isinstance(held, list) else [held]
    return [(call["name"], call["arguments"], result) for call, result in zip(asked, turn["results"], strict=False)]


def _listed(plan: tuple[str, ...]) -> str:
    """Steps under each other, with their numbers: what MLflow shows of texts is Markdown."""
    return "\n".join(f"{number}. {step}" for number, step in enumerate(plan, 1))


def _short(value: Any) -> Any:
    """A number without digits that nobody reads."""
    return round(value, 4) if isinstance(value, float) else value


def _usage(read: int, sampled: int) -> dict[str, int]:
    return {"input_tokens": read, "output_tokens": sampled, "total_tokens": read + sampled}


def _digest(size: int, *key: Any) -> str:
    return blake2b(repr(key).encode(), digest_size=size).hexdigest()
