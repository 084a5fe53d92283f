"""Measures the tasks of every environment, and writes what it found into the pages: python docs/make_world_tables.py [NAME ...]

Between `<!-- measured -->` and `<!-- /measured -->` of docs/NAME.md, for each fidelity and split, over at most 200 tasks: the
expert's turns (par), how often its first plan has to be rewritten, and what two players solve that read nothing. Between
`<!-- earned -->` and `<!-- /earned -->`: what players earn in the default size that do nothing for their success.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

from pilotrl.envs import Env, Info, load
from pilotrl.rollout.cheats import PLAYERS, earnings

MOST = 200
"""Tasks of a split that are played."""
SPLITS = ("train", "dev", "test", "unseen")
SIZES: dict[str, Sequence[dict[str, Any]]] = {
    "webshop": [{"fidelity": "small"}, {"fidelity": "original"}],
    "alfworld": [{"fidelity": "small"}, {"fidelity": "medium"}, {"fidelity": "original"}],
    "textcraft": [{"fidelity": "small"}, {"fidelity": "medium"}, {"fidelity": "original"}],
    "iqa": [{"fidelity": "small"}, {"fidelity": "medium"}, {"fidelity": "original"}],
    "babyai": [{"fidelity": "small"}, {"fidelity": "original"}],
    "maze": [{}, {"rows": 13, "columns": 13, "distance": 20, "max_turns": 36}],
    "wordle": [{}],
    "tools": [{"level": "easy"}, {"level": "medium"}, {"level": "hard"}],
}
HEAD = [
    *("size", "split", "tasks", "par: mean, longest", "par of 8 to 20", "first plan rewritten in", "times"),
    *("random player solves", "constant player solves"),
]
Player = Callable[[str, Info], str]


class Played(NamedTuple):
    """The expert's episode of one task."""

    par: int
    rewritten: int
    """How often the plan had another number of steps than was left of the one before."""


def experts(env: Env, task: str) -> Played:
    env.reset(options={"task": task})
    par, rewritten, left, over = 0, 0, None, False
    while not over and (expert := env.expert) is not None:
        steps = len(expert.plan())
        rewritten += left is not None and steps != left
        left, par = steps - 1, par + 1
        _, _, terminated, truncated, _ = env.step(expert.action())
        over = terminated or truncated
    return Played(par, rewritten)


def solves(env: Env, task: str, player: Player) -> bool:
    text, info = env.reset(options={"task": task})
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(player(text, info))
        over = terminated or truncated
    return bool(info["solved"])


def at_random(draw: Random) -> Player:
    """One of the actions that are listed; words to search for are drawn from the instruction."""
    return lambda text, info: draw.choice(info["actions"]).replace("[words]", f"[{draw.choice(text.split())}]")


def always(action: str) -> Player:
    return lambda text, info: action


def constant(trained: Env, tasks: Iterable[str]) -> dict[str, str]:
    """The action that, given in every turn, solves most tasks of train, for each kind of task (the first word of its name)."""
    solved: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task in tasks:
        _, info = trained.reset(options={"task": task})
        for action in info["actions"][:50]:
            solved[_kind(task)][action] += solves(trained, task, always(action))
    return {kind: counts.most_common(1)[0][0] for kind, counts in solved.items()}


def _kind(task: str) -> str:
    return task.split("-")[0]


def rows(name: str, size: dict[str, Any]) -> Iterable[list[str]]:
    """The rows of one size: what is constant is chosen on train."""
    usual: dict[str, str] = {}
    for split in SPLITS:
        env, draw = load(name, split=split, **size), Random(0)
        tasks = list(env.tasks)[:MOST]
        if split == "train":
            usual = constant(env, tasks[:100])
        expert = [experts(env, task) for task in tasks]
        pars = [one.par for one in expert]
        fallback = next(iter(usual.values()))
        yield [
            ", ".join(f"{key} {value}" for key, value in size.items()).replace("fidelity ", "").replace("level ", "")
            or "default",
            split,
            f"{len(env.tasks):,}",
            f"{fmean(pars):.1f}, {max(pars)}",
            _share(8 <= par <= 20 for par in pars),
            _share(one.rewritten > 0 for one in expert),
            f"{fmean(one.rewritten for one in expert):.1f}",
            _share(solves(env, task, at_random(draw)) for task in tasks),
            _share(solves(env, task, always(usual.get(_kind(task), fallback))) for task in tasks),
        ]


def _share(found: Iterable[bool]) -> str:
    return f"{100 * fmean(map(float, found)):.0f} %"


def earned(name: str) -> Iterable[list[str]]:
    """A line for each player that does nothing for its success: what it earns on average in at most 200 test tasks."""
    env = load(name, split="test")
    earns = {said: fmean(got.values()) for said, got in earnings(env, name, list(env.tasks)[:MOST]).items()}
    constants = {said: mean for said, mean in earns.items() if said not in PLAYERS}
    best = max(constants, key=constants.__getitem__)
    for said in [*PLAYERS, best]:
        yield [f"{said}, the best of {len(constants)} such" if said == best else said, f"{earns[said]:.2f}"]


def replaced(page: Path, mark: str, lines: Sequence[Sequence[str]]) -> None:
    """Puts a table, whose head is its first line, between two marks of a page."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    table = "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:]))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
    print(page.stem, table, sep="\n", flush=True)


def main(names: Sequence[str]) -> None:
    for name in names or list(SIZES):
        page = Path(__file__).parent / f"{name}.md"
        replaced(page, "earned", [["player", "earns on average"], *earned(name)])
        replaced(page, "measured", [HEAD, *(row for size in SIZES[name] for row in rows(name, size))])


if __name__ == "__main__":
    main(sys.argv[1:])
