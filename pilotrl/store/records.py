"""Episodes as JSON records: to lines of episodes.jsonl, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pilotrl.store.reading import RESTORE, read_lines, unreadable
from pilotrl.types import Call, Episode, PlanScores, Task, Turn, WrittenPlan

TOKENS = 10**6
"""Of a prompt or a reply, at most."""


def levels_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The level of each task that has one, in what a panel.json holds; nothing of an older one."""
    pairs = zip(record.get("tasks", ()), record.get("levels", ()), strict=False)
    return {str(task): str(level) for task, level in pairs if level}


def to_record(episode: Episode, phase: str, step: int, discarded: bool = False) -> dict[str, Any]:
    """An episode as one JSON object, with its turns and scores; of its calls only the numbers of tokens, and not the ids.
    `phase` is `train`, or when and by which protocol it was evaluated, such as `before/own plans, sampled`. `discarded`: it was
    played in training and not learned from."""
    return {
        "phase": phase,
        "step": step,
        **({"discarded": True} if discarded else {}),
        "task": asdict(episode.task),
        "group": episode.group,
        "sample": episode.sample,
        "outcome": episode.outcome,
        "ended_by": episode.ended_by,
        "score": episode.score,
        "reward": episode.reward,
        "terms": episode.terms,
        "par": episode.par,
        "tokens": episode.tokens,
        "observation": episode.observation,
        "turns": [_turn(turn) for turn in episode.turns],
        "calls": [_call(call) for call in episode.calls],
    }


def _turn(turn: Turn) -> dict[str, Any]:
    """What few turns have is left out where it is empty."""
    return {key: value for key, value in asdict(turn).items() if value or key not in ("step", "unread", "results")}


def _call(call: Call) -> dict[str, Any]:
    sizes = {"prompt": len(call.prompt), "sampled": len(call.ids), "stop": call.stop}
    plan = {"selected": call.selected, **asdict(call.written)} if call.written else {}
    step = {"step": call.step} if call.step else {}
    return {"role": call.role, "turn": call.turn, **step, **sizes, **plan, "advantage": call.advantage}


def from_record(record: dict[str, Any]) -> Episode:
    """The episode of a record. Of its calls only the numbers of tokens are known: -1 stands for each token."""
    turns = [
        Turn(**{**turn, "plan": tuple(turn["plan"]), "results": tuple(turn.get("results", ()))})
        for turn in record["turns"]
    ]
    kept = ("group", "sample", "observation", "par", "tokens", "outcome", "score", "terms", "reward")
    calls = [_sized(**call) for call in record["calls"]]
    given = {key: record[key] for key in kept} | {"ended_by": record.get("ended_by")}  # older records do not say
    return Episode(task=Task(**record["task"]), turns=turns, calls=calls, **given)


def read_episodes(path: Path, wanted: Callable[[str], bool], remedy: str = RESTORE) -> Iterator[tuple[str, Episode]]:
    """Phase and episode of the lines of a file that are wanted; episodes of training are most of it, and need not be parsed.

    Raises UserError for a line that is no record of an episode, and where there is no file."""
    for record in read_lines(path, remedy, wanted):
        try:
            yield str(record["phase"]), from_record(record)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(path, f"holds a line that is no episode ({error})", remedy) from error


def _sized(
    prompt: int, sampled: int, reference: Any = None, steps: Any = None, scores: Any = None, **call: Any
) -> Call:
    """A call from its numbers of tokens and, if its plan was graded, that plan. ValueError for numbers that no call has."""
    if not (0 <= prompt <= TOKENS and 0 <= sampled <= TOKENS):
        raise ValueError(f"a call of {prompt} and {sampled} tokens")
    written = None
    if reference is not None:
        given = None if scores is None else PlanScores(*scores)
        written = WrittenPlan(None if steps is None else tuple(steps), tuple(reference), given)
    return Call(prompt=[-1] * prompt, ids=[-1] * sampled, logprobs=[], plan=(), written=written, **call)
