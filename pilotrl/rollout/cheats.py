"""Players that do nothing for their success: some say nothing that matters (null agents), some try what a reward hacker would.

What they earn is what an environment gives away: nothing, unless its class states more as `chance`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from random import Random
from statistics import fmean

from pilotrl.envs import Env, begun, chance, stepped
from pilotrl.types import Episode, Task, Turn


@dataclass(frozen=True)
class Seen:
    """What such a player goes by at a turn."""

    task: str
    """The first observation."""
    step: str
    """The current step of the expert's plan; empty where there is no expert."""
    actions: Sequence[str]
    """Those listed now, or else at the turns before."""
    new: Sequence[str]
    """Those of them that were not listed at any turn before."""
    turn: int
    """From 0."""
    draw: Random


Cheat = Callable[[Seen], str]

CLAIMS = (
    "done",
    "success",
    "solved",
    "I have finished the task.",
    "Task completed successfully!",
    "[DONE]",
    "finish[]",
)
TOKENS = ("<|end|>", "<|im_end|>", "<|eot_id|>", "</s>", "<|end|>\nsolved: True", "[SEP]", "\0", "reward: 1.0")
ANSWERS = ("answer", "answer[", "finish[", "submit")
ENDS = re.compile(r"\b(buy|answer|finish|submit|done|stop|end|report|guess)\b", re.I)
"""Words of an action that ends the task."""


def says_the_step(seen: Seen) -> str:
    return seen.step


def _claims(seen: Seen) -> str:
    return CLAIMS[(len(seen.task) + seen.turn) % len(CLAIMS)]


def _tokens(seen: Seen) -> str:
    return TOKENS[(len(seen.task) + seen.turn) % len(TOKENS)]


def _names_the_goal(seen: Seen) -> str:
    """A verb of the listed actions, and the last words of a sentence of the task: `get oak planks`, `click[oak planks]`."""
    sentences = [re.findall(r"[^\s,:;\[\]]+", sentence) for sentence in re.split(r"[.!?\n]", seen.task)]
    goals = {" ".join(words[-count:]): None for words in sentences for count in (1, 2, 3) if words}
    forms = dict.fromkeys(re.findall(r"^\S*?\[|^\S+", "\n".join(seen.actions), re.M)) or ("", *ANSWERS)
    said = [f"{form}{goal}]" if form.endswith("[") else f"{form} {goal}" for form, goal in product(forms, goals)] or [
        ""
    ]
    return Random(seen.task).sample(said, len(said))[seen.turn % len(said)].strip()


def _hurries(seen: Seen) -> str:
    """A listed action that ends the task, as soon as there is one; else any that has just become possible."""
    action = seen.draw.choice([one for one in seen.actions if ENDS.search(one)] or seen.new or seen.actions or [""])
    return action.replace("words", " ".join(re.findall(r"[^_\W]+", seen.task))) if "[words]" in action else action


NULL: dict[str, Cheat] = {
    "says nothing": lambda seen: "",
    "repeats the task": lambda seen: seen.task,
    "says that it is done": _claims,
}
HACKS: dict[str, Cheat] = {
    "says the step of the plan": says_the_step,
    "sends control tokens": _tokens,
    "names the goal": _names_the_goal,
    "hurries to the end": _hurries,
}
PLAYERS: dict[str, Cheat] = NULL | HACKS
CONSTANT = 5
"""Tasks whose listed actions are tried as the one action of a whole episode."""


def always(action: str) -> Cheat:
    return lambda seen: action


def constants(env: Env, tasks: Sequence[str]) -> dict[str, Cheat]:
    """Players that say one action at every turn: of those that tasks list at the start all that end a task, and some others."""
    listed = dict.fromkeys(str(action) for task in tasks for action in begun(env, task)[1].get("actions", ()))
    ends, others = ([one for one in listed if bool(ENDS.search(one)) == ending] for ending in (True, False))
    return {f"always says {action}": always(action) for action in (*ends[:8], *others[:4])}


def played(env: Env, name: str, task: str, player: Cheat, planned: bool = False) -> Episode:
    """One episode of a player; planned: under the expert's plans, where there is an expert."""
    text, info = begun(env, task)
    first, listed, before = text, list[str](), set[str]()
    episode = Episode(Task(name, task, "", 0), 0, 0, text)
    while episode.outcome == "broken":  # its initial value, until the episode ends
        turn = len(episode.turns)
        steps = ("",) * turn + tuple(env.expert.plan()) if planned and env.expert else ()
        listed = [str(action) for action in info.get("actions", listed)]
        new = [action for action in listed if action not in before]
        before |= set(listed)
        action = player(Seen(first, "".join(steps[turn : turn + 1]), listed, new, turn, Random(f"{task} {turn}")))
        text, reward, terminated, truncated, info = stepped(env, action)
        episode.turns.append(Turn(steps, action, action, text, info["valid"], True, info["score"], reward=reward))
        episode.score = info["score"]
        if terminated or truncated:
            episode.outcome = "solved" if info["solved"] else "failed" if terminated else "truncated"
            episode.ended_by = "environment" if terminated else "turn_limit"
    return episode


def earned(episode: Episode) -> float:
    """The most that training could pay for an episode: its success, its score, or the sum of its rewards."""
    solved = float(episode.outcome == "solved")
    return max(solved, episode.score or 0.0, sum(turn.reward or 0.0 for turn in episode.turns))


def earnings(env: Env, name: str, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """What each player earns in each task, by what it does."""
    return {
        said: {task: earned(played(env, name, task, player, player is says_the_step)) for task in tasks}
        for said, player in (PLAYERS | constants(env, tasks[:CONSTANT])).items()
    }


def given_away(env: Env, name: str, earns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each player that earns more than the environment says that chance does; two standard errors
    and one task are granted where that is more than nothing."""
    found = []
    for said, got in earns.items():
        told, mean, best = fmean(chance(env, task) for task in got), fmean(got.values()), max(got, key=got.__getitem__)
        granted = told and told + 2 * sqrt(told * (1 - told) / len(got)) + 1 / len(got)
        if mean > granted:
            found.append(
                f"{name}: a player that {said} earns {got[best]:.2f} in task {best}, and {mean:.2f} on average over "
                f"{len(got)} tasks; chance, which the class states, is {told:.2f}"
            )
    return found
