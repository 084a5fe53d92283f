"""The tools environment: `reset`, `step` and the arguments."""

from __future__ import annotations

from typing import Any

from pilotrl.envs import Info
from pilotrl.envs.office import tasks
from pilotrl.envs.office.expert import ToolsExpert
from pilotrl.envs.office.scene import sentence
from pilotrl.envs.office.toolset import CALCULATOR, TOOLS, NoCall, calls, schema, signature, written
from pilotrl.envs.office.world import World
from pilotrl.types import UserError

LEVELS: dict[str, dict[str, Any]] = {
    "easy": {"failures": 0.2, "distractors": 4, "max_turns": 8},
    "medium": {"failures": 0.3, "distractors": 6, "max_turns": 14},
    "hard": {"failures": 0.4, "distractors": 8, "max_turns": 22},
}
"""Values that `level` sets for keys left null."""


class Tools:
    """Look things up in tables, files, notes and a calendar, compute, and hand in the result: by calls of tools.

    Actions: a call in a line, `add[12, 30]`, or as JSON, `{"name": "add", "arguments": {"a": 12, "b": 30}}`, or a JSON list of
    calls, which are carried out in order. `tools` has the JSON schemas of those that the task offers.
    Observation: at reset the task and the tools; then the reply to each call, a line each.
    Reward: 1 when the result is handed in, else 0. Score: the same.
    End: terminated by an answer, or by the file, note or event that is asked for, right or wrong; truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other tasks; unseen: sets of tools that no task of the others takes); `seed` of tasks;
    `level` (easy, medium, hard: 2 to 3, 4 to 6, 7 to 10 calls), which decides those left None of `failures` (share of places and
    tools that fail at first), `distractors` (tools of no use), `max_turns`; `form` (line, json) in which the expert, the list of
    actions and the first observation write calls. Either is understood.
    Raises UserError for invalid values.
    """

    chance = 0.07
    system = "Work with the tools that you are given. A tool may be busy: call it again."

    def __init__(
        self,
        *,
        split: str,
        seed: int,
        form: str,
        level: str,
        failures: float | None,
        distractors: int | None,
        max_turns: int | None,
    ) -> None:
        for key, value, known in (("split", split, tasks.SPLITS), ("level", level, LEVELS), ("form", form, FORMS)):
            if value not in known:
                raise UserError(f"env.{key}={value}: must be one of {', '.join(known)}")
        given = {"failures": failures, "distractors": distractors, "max_turns": max_turns}
        values: dict[str, Any] = {key: LEVELS[level][key] if value is None else value for key, value in given.items()}
        for key, low, high in (("failures", 0, 1), ("distractors", 0, len(TOOLS)), ("max_turns", 1, 1000)):
            if not low <= values[key] <= high:
                raise UserError(f"env.{key}={values[key]}: must be from {low} to {high}")
        self.max_turns: int = values["max_turns"]
        self.form = form
        self._source = tasks.Source(split, seed, level, float(values["failures"]), values["distractors"])
        self._turns = tasks.solvable(self._source, self.max_turns)
        self.tasks = list(self._turns)
        if not self.tasks:
            raise UserError(
                f"env.max_turns={self.max_turns}: no task of split {split} can be solved in so few; raise it"
            )
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Starts `options["task"]`, or the task that `seed` picks. KeyError for a task that is not of this split."""
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        par = self._turns[task]
        self._world = World(tasks.scene(self._source, task))
        self._taken, self._over = 0, False
        listed = "; ".join(signature(name, self.form) for name in self._world.scene.tools)
        return f"Task: {sentence(self._world.scene.goal)}.\nTools: {listed}", self._info(True) | {"par": par}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """One turn; RuntimeError once the episode has ended, or before the first reset."""
        if self._over:
            raise RuntimeError("the episode has ended: reset first")
        self._taken += 1
        world, results = self._world, list[str]()
        try:
            asked = calls(action.strip(), world.scene.tools, self.form)
        except NoCall as error:
            return self._turn(str(error), self._info(False))
        for call in asked:
            if not world.over:
                results.append(world.do(call))
        return self._turn("\n".join(results), self._info(True) | {"results": results})

    def _turn(self, text: str, info: Info) -> tuple[str, float, bool, bool, Info]:
        over = self._world.over
        truncated = not over and self._taken >= self.max_turns
        self._over = over or truncated
        return text, float(info["solved"]), over, truncated, info

    def _info(self, valid: bool) -> Info:
        solved = self._world.solved
        actions = [written(call, self.form) for call in self._world.actions()]
        return {"score": float(solved), "solved": solved, "valid": valid, "actions": actions}

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools of the running task, in OpenAI's function format; all before the first reset."""
        return [schema(name) for name in (self._world.scene.tools if hasattr(self, "_world") else TOOLS)]

    @property
    def expert(self) -> ToolsExpert | None:
        """The scripted expert for the running episode; None before the first reset."""
        return ToolsExpert(self._world, self.form) if hasattr(self, "_world") else None


FORMS = ("line", "json")
WORDS = {
    "look_up": "search {1} {0}",
    "read_file": "look file {0}",
    "read_note": "look note {0}",
    "find_event": "search {0} calendar",
    "answer": "answer {0}",
    "write_file": "put {1} file {0}",
    "save_note": "put {1} note {0}",
    "book_event": "put {0} calendar {1} {2}",
}
"""Tool -> what it did, in words of the judge."""


def resolve(observation: str, action: str, reply: str = "") -> str:
    """What the first call of an action did, in words; "" for no call, and for a place that there is not."""
    try:
        call = calls(action.strip(), list(TOOLS), "line")[0]
    except NoCall:
        return ""
    if reply.startswith("Error: ") and not ("busy" in reply or "it is now" in reply):
        return ""
    if call.tool in CALCULATOR:
        return f"use {call.tool} {call.arguments[0]} {call.arguments[1]}"
    return WORDS.get(call.tool, f"look {call.tool.replace('_', ' ')}").format(*call.arguments)
