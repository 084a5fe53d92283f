"""An environment: two rooms, a locked door between them, and a key that may lie in a box."""

from __future__ import annotations

from random import Random
from typing import Any

from pilotrl.envs import Info, replay
from pilotrl.types import UserError

PLACES = ("shelf", "box", "rug")
PRIZES = ("coin", "book", "lamp", "ring", "vase", "cup", "shell", "bell")
SPLITS = {"train": (0, 300), "dev": (300, 360), "test": (360, 480)}


class KeyDoor:
    """Find the key, open the door, and take what the instruction names from the room behind it. A task is a number.

    Actions: `look PLACE` (shelf, box, rug), `open door`, `take THING`.
    Observation: what is there, or `Nothing happens.`
    Reward and score: 1 when the thing is taken, else 0.
    End: terminated when it is (solved) or another thing is (failed); truncated after `max_turns`.
    Arguments: `split` (train, dev, test: other numbers), `max_turns`.
    """

    chance = 0.17

    def __init__(self, *, split: str, max_turns: int) -> None:
        if split not in SPLITS:
            raise UserError(f"env.split={split}: must be one of {', '.join(SPLITS)}")
        self.arguments = {"split": split, "max_turns": max_turns}
        self.tasks, self.max_turns = [str(number) for number in range(*SPLITS[split])], max_turns
        self.task: str | None = None
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        task = (options or {}).get("task", self.tasks[(seed or 0) % len(self.tasks)])
        if task not in self.tasks:
            raise KeyError(task)
        draw = Random(int(task))
        self.key, things = draw.choice(PLACES), draw.sample(PRIZES, 3)
        self.wanted, self.things = draw.choice(things), sorted(things)
        self.task, self.over, self.actions = task, False, list[str]()
        self.has_key, self.inside, self.seen, self.taken = False, False, set[str](), ""
        # The number keeps instructions of different splits apart.
        return f"House {task}. Take the {self.wanted}. The door is locked.", self._info(True) | {"par": 5}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.over:
            raise RuntimeError("the episode has ended: reset first")
        self.actions.append(action)
        text = self._answer(action)
        taken = text.startswith("You take")
        truncated = not taken and len(self.actions) >= self.max_turns
        self.over = taken or truncated
        return text, float(self._solved), taken, truncated, self._info(text != "Nothing happens.")

    def _answer(self, action: str) -> str:
        verb, _, thing = action.partition(" ")
        if verb == "look" and thing in PLACES and not self.inside:
            self.seen.add(thing)
            self.has_key |= thing == self.key
            return f"The key! You take it from the {thing}. " if thing == self.key else f"Nothing on the {thing}."
        if action == "open door" and self.has_key and not self.inside:
            self.inside = True
            return "The door opens. You see " + ", ".join(self.things) + "."
        if verb == "take" and self.inside and thing in self.things:
            self.taken = thing
            return f"You take the {thing}."
        return "Nothing happens."

    @property
    def _solved(self) -> bool:
        return self.taken == self.wanted

    def _info(self, valid: bool) -> Info:
        actions = [f"take {thing}" for thing in self.things] if self.inside else [f"look {place}" for place in PLACES]
        score = float(self._solved)
        return {"score": score, "solved": self._solved, "valid": valid, "actions": [*actions, "open door"]}

    @property
    def expert(self) -> Finder | None:
        return Finder(self) if self.task is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """What it was made with and what was done, so that a copy can go on where this one stands."""
        return {"arguments": self.arguments, "task": self.task, "actions": self.actions if self.task else []}

    __setstate__ = replay


class Finder:
    """Looks at one place after the other; knows where the key is no sooner than it has seen it."""

    def __init__(self, env: KeyDoor) -> None:
        self.env = env

    def _left(self) -> list[str]:
        return [place for place in PLACES if place not in self.env.seen]

    def plan(self) -> list[str]:
        """A step for every action that may be needed, from the next one on."""
        env = self.env
        looks = [] if env.has_key else [f"search the {place} for a key" for place in self._left()]
        doors = [] if env.inside else ["unlock the way"]
        return [*looks, *doors, f"pick up the {env.wanted}"]

    def action(self) -> str:
        env = self.env
        if env.inside:
            return f"take {env.wanted}"
        return "open door" if env.has_key else f"look {self._left()[0]}"

    def thought(self) -> str:
        """What is known of the key, and what the door has shown."""
        env = self.env
        if env.inside:
            return f"inside: {', '.join(env.things)}; wanted: {env.wanted}"
        return "have the key" if env.has_key else f"no key yet; searched: {', '.join(sorted(env.seen)) or 'nothing'}"

    def detour(self) -> str | None:
        """A place that was not looked at yet, though the key is found."""
        return f"look {left[-1]}" if self.env.has_key and not self.env.inside and (left := self._left()) else None
