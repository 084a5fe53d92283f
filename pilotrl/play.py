"""Play an environment by hand in the terminal: `python -m pilotrl.play env=alfworld [task=NAME] [seed=N] [env.KEY=VALUE]`.

Type an action. `?` lists the actions, `plan` shows the expert's plan, `hint` its next action, `quit` leaves.

    python -m pilotrl.play env=alfworld env.split=dev rule=64 teacher.wording=loose

Nobody types: 64 tasks are played under the expert's plans by a rule, which turns steps into actions by string replacement; and,
to compare, by the listed actions at random, by the first of them, and by one action at every turn: of the eight that are listed
most often at the start the one with the most adherence. Printed is how many each solves, and its adherence by the judge of rules.

    python -m pilotrl.play env=alfworld cheat=64

Players that say nothing, claim success, or try what a reward hacker would play 64 tasks. Printed is what each earns on average.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from pilotrl import envs, teacher
from pilotrl.analysis.statistics import MEASURES, per_task
from pilotrl.analysis.terminal import guarded
from pilotrl.cli.compose import composed_job, key_of, parse
from pilotrl.cli.exit_codes import ended
from pilotrl.cli.signals import at_once
from pilotrl.cli.validate import check
from pilotrl.config import trust
from pilotrl.config.schema import Config
from pilotrl.envs import Env, Info, begun
from pilotrl.rewards.judge.grading import grade
from pilotrl.rewards.judge.rule import RuleJudge
from pilotrl.rollout import cheats
from pilotrl.rollout.rules import RULES, Player, always, by_chance, by_order, by_rule, played
from pilotrl.rollout.task_schedule import drawn
from pilotrl.store.text import printable
from pilotrl.teacher import ExpertTeacher
from pilotrl.types import Task, UserError

CONSTANTS = 8
"""Actions that are tried as the one action of every turn."""
HELP = "Type an action, or: ? (what can be done), plan, hint, quit"


def play(env: Env, console: Console, options: dict[str, Any], seed: int) -> Info:
    """One episode played by a person; returns the last info, also if the person quits."""
    text, info = env.reset(seed=seed, options=options)
    console = guarded(console)
    console.print(f"[dim]{HELP}[/]\n\n{escape(text)}")
    over, turn = False, 0
    while not over:
        try:
            typed = console.input(f"\n[bold cyan]{turn + 1}>[/] ").strip()
        except EOFError:
            break
        if typed == "quit":
            break
        if typed in ("?", "plan", "hint"):
            console.print(escape(_help(env, info, typed)), style="yellow")
            continue
        text, _, terminated, truncated, info = env.step(typed)
        over, turn = terminated or truncated, turn + 1
        console.print(escape(text), style=None if info["valid"] else "red")
    ending = "solved" if info["solved"] else "not solved"
    console.print(f"\n[bold]{ending}[/], score {info['score']:.2f}, {turn} turns")
    return info


def _help(env: Env, info: Info, topic: str) -> str:
    """The reply to `?`, `plan` or `hint`, one line an item."""
    if topic == "?":
        tools = [json.dumps(tool["function"], ensure_ascii=False) for tool in getattr(env, "tools", ())]
        return "\n".join(info.get("actions", tools or ["this environment does not list its actions"]))
    if env.expert is None:
        return "this environment ships no expert"
    if topic == "hint":
        return env.expert.action()
    return "\n".join(f"{i}. {step}" for i, step in enumerate(env.expert.plan(), 1))


def follow(env: Env, config: Config, count: str, console: Console) -> None:
    """Prints what players without a model solve of so many tasks, and their adherence. Raises UserError for invalid arguments."""
    name, kind = envs.name_of(config.env), envs.class_of(config.env)
    number = _number("rule", count)
    try:
        writer = teacher.build(cast(dict[str, Any], OmegaConf.to_container(config.teacher, resolve=True)))
    except UserError as error:
        raise UserError(f"teacher.{error}") from error
    if kind not in RULES or not isinstance(writer, ExpertTeacher):
        raise UserError(f"rule={count}: is for teacher=expert and one of env={', '.join(sorted(RULES))}")
    tasks = [Task(kind, task, config.env["split"], 0) for task in drawn(name, env.tasks, number)]
    judge = RuleJudge(resolve=trust.beside("env._target_", str(config.env["_target_"]), "resolve"))

    def measured(player: Player) -> tuple[float, float]:
        episodes = [played(env, task, writer, player) for task in tasks]
        grade(judge, episodes, unselected=False)
        adherence, success = (fmean(per_task(episodes, MEASURES[key]).values()) for key in ("adherence", "success"))
        return adherence, success

    def show(called: str, adherence: float, success: float) -> None:
        solved = f"{success * len(tasks):.0f} of {len(tasks)} solved, {100 * success:.1f} %"
        console.print(
            f"{printable(called):<20} {solved}; adherence {100 * adherence:.1f} %", markup=False, soft_wrap=True
        )

    for called, player in {"rule": by_rule, "any listed action": by_chance, "first listed action": by_order}.items():
        show(called, *measured(player))
    listed = Counter(str(action) for task in tasks for action in begun(env, task.id)[1]["actions"])
    constants = {action: measured(always(action)) for action, _ in listed.most_common(CONSTANTS)}
    best = max(constants, key=constants.__getitem__)
    show(f"always {best}", *constants[best])


def cheat(env: Env, config: Config, count: str, console: Console) -> None:
    """Prints what players earn in so many tasks that do nothing for their success, and which of them earn more than chance."""
    name = envs.name_of(config.env)
    earns = cheats.earnings(env, name, drawn(name, env.tasks, _number("cheat", count)))
    for said, got in earns.items():
        console.print(f"{fmean(got.values()):.2f}  {printable(said)}", markup=False, soft_wrap=True)
    for line in cheats.given_away(env, name, earns):
        console.print(printable(line), markup=False, soft_wrap=True)


def _number(key: str, count: str) -> int:
    if not (count.isdecimal() and 0 < int(count) < 10**6):
        raise UserError(f"{key}={count}: must be a number of tasks above 0")
    return int(count)


def command(argv: Sequence[str], console: Console) -> None:
    """Parses the command line and starts the game. Raises UserError for invalid arguments."""
    arguments = parse(argv)
    own = ("task", "rule", "cheat")
    lines = [line for line in arguments.overrides if key_of(line) not in own]
    tasks, rules, cheating = (
        [line.partition("=")[2] for line in arguments.overrides if key_of(line) == key] for key in own
    )
    config = composed_job(arguments, lines).config
    check(config)
    settings = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, config.env), resolve=True))
    with envs.opened(settings) as env:
        if rules:
            follow(env, config, rules[-1], console)
        if cheating:
            cheat(env, config, cheating[-1], console)
        if rules or cheating:
            return
        if tasks and tasks[-1] not in env.tasks:
            raise UserError(f"task={tasks[-1]}: is not of this split; its first is {env.tasks[0]}")
        play(env, console, {"task": tasks[-1]} if tasks else {}, config.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2, with a one-line message, for invalid arguments."""
    return ended(lambda words: command(words, Console(highlight=False)), argv, __doc__)


if __name__ == "__main__":
    sys.exit(at_once(main()))
