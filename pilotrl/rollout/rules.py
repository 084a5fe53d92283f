"""Players without a model, which show what following the teacher's plans takes.

`by_rule` turns the step in force into an action by string replacement: a few lines for each of our environments, which see
that step, the last observation and the listed actions, and remember nothing. Where it solves tasks, following is translation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from pilotrl.envs import Env, begun, stepped
from pilotrl.rollout.agent import due, seed_of
from pilotrl.teacher import ExpertTeacher, meant, taken
from pilotrl.types import Episode, Plan, Task, Turn

Player = Callable[[str, str, str, Sequence[str], Random], str]
"""(environment, step in force, last observation, listed actions, random draws) -> action."""
Rule = Callable[[str, str, Sequence[str]], Sequence[str]]
"""(step, observation, actions) -> the actions that the step can mean."""

VERBS: dict[str, dict[str, Sequence[str]]] = {
    "alfworld": {
        "check|walk to": ["go to"],
        "look inside": ["open"],
        "get rid|place": ["put|move"],
        "get": ["take"],
        "switch": ["use"],
        "wash": ["clean"],
        "warm": ["heat"],
        "chill": ["cool"],
        "survey": ["look"],
    },
    "babyai": {
        "look to the": ["turn"],
        "walk on ahead": ["move forward"],
        "get": ["pickup", "toggle|turn|move"],
        "reach|find": ["go to", "toggle|turn|move"],
        "open": ["toggle", "go to|turn|move"],
        "pass through": ["go through"],
        "put": ["drop", "turn|move"],
        "bring": ["drop|go to|turn|move"],
    },
    "iqa": {
        "look to the": ["turn"],
        "walk on": ["move"],
        "look inside": ["open"],
        "look where": ["turn|move"],
        "say|report": ["answer"],
    },
    "maze": {"go (?=up|down|left|right)": ["move"]},
    "toy": {"push": ["press"]},
}
"""Verb of a step -> verbs of its action, those first that count where they are listed; of environments that list all actions."""
STOP = {"the", "a", "it", "to", "on", "in", "is", "that", "ahead", "button"}
"""Words of a step that no action has."""


def _listed(verbs: dict[str, Sequence[str]], step: str, actions: Sequence[str]) -> Sequence[str]:
    """Of the listed actions with a verb of the step those that name what it names: in that order, else in any, else all."""
    said, kinds = next(
        ((found[0], kinds) for verb, kinds in verbs.items() if (found := re.match(verb, step))), ("", ())
    )
    alike = next(filter(None, ([one for one in actions if re.match(kind, one)] for kind in kinds)), list[str]())
    named = [word for word in re.findall(r"\w+", step[len(said) :].lower()) if word not in STOP]
    words = {action: re.findall(r"[^\W_]+", action.lower()) for action in alike}
    exact = [action for action in alike if " ".join(named) in " ".join(words[action])]
    return exact or [action for action in alike if set(named) <= set(words[action])] or alike


def _webshop(step: str, seen: str, actions: Sequence[str]) -> Sequence[str]:
    named, price = re.search(r"\[(.*)\]", step), re.search(r"\$\d+", step)
    said = named[1] if named else ""
    if re.match("find|search|look for", step):
        return [f"search[{said or ''.join(re.findall(r'instruction: .SEP. (.*?) .SEP.', seen)) or step}]"]
    if step.startswith("open"):
        results = [re.fullmatch(r"(\S+) .* (\$\d+)(?: seen)?", part) for part in seen.split(" [SEP] ")]
        products = [result.groups() for result in results if result]
        return [
            f"click[{p}]" for p, cost in products if p.startswith(said) and not (said and price and price[0] != cost)
        ]
    shown = seen.partition("features: ")[0] if step.startswith("order") else ""
    values = re.findall(r"(?:: | , )([^:\[]*?)(?= , | \[SEP\])", shown)
    buttons = {"back": "< prev", "next": "next >", "more": "next >", "buy": "buy now", "order": "buy now"}
    clicks = [said] if said else [*values, *(buttons[word] for word in step.split() if word in buttons)]
    return [f"click[{click}]" for click in clicks]


def _textcraft(step: str, seen: str, actions: Sequence[str]) -> Sequence[str]:
    verb, _, named = step.partition(" ")
    if verb in ("collect", "prepare"):
        return [f"get {named}"] if verb == "collect" else [action for action in actions if action != "inventory"]
    crafts = [action for action in actions if action.startswith("craft")]
    found = [action for action in crafts if action.startswith(f"craft {named} using")] or crafts
    for kind in re.findall(r"craft \d+ ([a-z ]+ (?:planks|wool)) using", "\n".join(crafts)):
        found = [re.sub(rf"(\d+ ){kind.split()[-1]}\b", rf"\g<1>{kind}", action) for action in found]
    return found


def _wordle(step: str, seen: str, actions: Sequence[str]) -> Sequence[str]:
    return [" ".join(step.removeprefix("guess "))] if step.startswith("guess ") else actions


OFFICE = {
    r"look up (.+) in the calendar": r"find_event[\1]",
    r"look up (.+) in (.+)": r"look_up[\2, \1]",
    r"read (file|note) (.+)": r"read_\1[\2]",
    r"use (\w+) on (.+) and (.+)": r"\1[\2, \3]",
    r"answer (.+)": r"answer[\1]",
    r"put (.+) into file (.+)": r"write_file[\2, \1]",
    r"put (.+) into note (.+)": r"save_note[\2, \1]",
    r"put (.+) into the calendar on (.+) at (.+)": r"book_event[\1, \2, \3]",
    r"find out .*": "look_up|read|find",
    r"work out .*": "add|multiply|difference|larger|smaller",
    r"give .*": "answer|write|save|book",
}
"""Step -> action, or of a loose step the tools that it can mean."""


def _tools(step: str, seen: str, actions: Sequence[str]) -> Sequence[str]:
    said = step.removesuffix(" again")
    found, action = next(((m, a) for s, a in OFFICE.items() if (m := re.fullmatch(s, said))), (None, ""))
    if found and "[" in action:
        return [found.expand(action)]
    return [one for one in actions if action and re.match(action, one)]


RULES: dict[str, Rule] = {
    "webshop": _webshop,
    "textcraft": _textcraft,
    "wordle": _wordle,
    "tools": _tools,
    **{name: lambda step, seen, actions, verbs=verbs: _listed(verbs, step, actions) for name, verbs in VERBS.items()},  # type: ignore[misc]
}
"""Of each of our environments, by name."""


def by_rule(env: str, step: str, seen: str, actions: Sequence[str], draw: Random) -> str:
    """One of the actions that the step can mean by its words alone; any listed one where there is none."""
    return draw.choice(RULES[env](step, seen, actions) or actions)


def by_chance(env: str, step: str, seen: str, actions: Sequence[str], draw: Random) -> str:
    """Any listed action."""
    return draw.choice(actions)


def by_order(env: str, step: str, seen: str, actions: Sequence[str], draw: Random) -> str:
    """The first listed action."""
    return actions[0]


def always(action: str) -> Player:
    """One action, whatever is asked for."""
    return lambda env, step, seen, actions, draw: action


def played(env: Env, task: Task, writer: ExpertTeacher, player: Player, plans: str = "always") -> Episode:
    """One episode of such a player under the expert's plans, written at the turns that `plans` says, as of `agent.plans`."""
    text, info = begun(env, task.id)
    episode = Episode(task, 0, 0, text, par=info.get("par"))
    steps: Plan = ()
    meaning: Plan = ()
    while episode.outcome == "broken":  # its initial value, until the episode ends
        turn = len(episode.turns) + 1
        if due(plans, turn):
            before = ("",) * (turn - 1)
            steps, meaning = before + writer.plan(env, episode, steps), before + meant(writer, env)
        step, draw = "".join(steps[turn - 1 : turn]), Random(seed_of(task.id, turn, "rule"))
        action = player(task.env, step, text, info["actions"], draw)
        means = taken(env, "".join(meaning[turn - 1 : turn]), action)
        text, reward, terminated, truncated, info = stepped(env, action)
        one = Turn(steps, action, action, text, info["valid"], True, info["score"], reward=reward)
        one.meant = means
        episode.turns.append(one)
        episode.score = info["score"]
        if terminated or truncated:
            episode.outcome = "solved" if info["solved"] else "failed" if terminated else "truncated"
            episode.ended_by = "environment" if terminated else "turn_limit"
    return episode
