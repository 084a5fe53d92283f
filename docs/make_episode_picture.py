"""Draw docs/episode.svg from an episode that a run played: how its plan was rewritten, turn by turn.

python docs/make_episode_picture.py RUN_FOLDER [LINE]

LINE counts the lines of episodes.jsonl from 1. Without it the picture shows a solved episode with the policy's own plans
in which every action was understood: of those whose plan was rewritten most often the shortest, and of these the last.

The committed picture is line 107 of
python -m pilotrl stage=adherence env=alfworld train.steps=2 panel.tasks=48 panel.samples=2 trainer.threads=1
"""

from __future__ import annotations

import json
import sys
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

PICTURE = Path(__file__).with_name("episode.svg")
WIDTH, LINE, PAD = 900, 19, 10
PLAN, SIDE = 70, 400
"""Where the columns begin: the plan; action and observation. Pixels, as above."""
FOLD = 2
"""Frozen steps are written out up to so many."""
INK, FROZEN, NEW, NOW = "#1f2933", "#8a94a6", "#ffe9a8", "#3f51b5"


def fresh(plan: list[str], before: list[str] | None, turn: int) -> set[int]:
    """Indices (from 0) of the steps that the planner wrote anew before this turn; none in the first plan."""
    if before is None:
        return set()
    old, new = before[turn - 1 :], plan[turn - 1 :]
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return {turn - 1 + spot for kind, _, _, start, end in blocks if kind != "equal" for spot in range(start, end)}


def rewritten(episode: dict[str, Any]) -> list[set[int]]:
    """Of every turn the steps that are new in it."""
    plans = [turn["plan"] for turn in episode["turns"]]
    return [
        fresh(plan, before, turn) for turn, (plan, before) in enumerate(zip(plans, [None, *plans], strict=False), 1)
    ]


def choose(lines: list[str]) -> int:
    """Index of the episode to draw. Raises SystemExit where no plan of a solved one was rewritten."""
    found = []
    for number, line in enumerate(lines):
        episode = json.loads(line)
        own, valid = "own plans" in episode["phase"], all(turn["valid"] for turn in episode["turns"])
        if own and valid and episode["outcome"] == "solved" and (count := sum(map(bool, rewritten(episode)))):
            found.append((count, -len(episode["turns"]), number))
    if not found:
        raise SystemExit("no plan of a solved episode with own plans was rewritten: give LINE, or another run")
    return max(found)[2]


def text(x: int, y: int, words: str, *, colour: str = INK, weight: str = "normal", family: str = "") -> str:
    """One line of text; `family` where it is not the picture's."""
    font = f' font-family="{family}"' if family else ""
    bold = f' font-weight="{weight}"' if weight != "normal" else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{bold}{font}>{escape(words)}</text>'


def rows(turn: dict[str, Any], number: int, new: set[int], top: int) -> tuple[list[str], int]:
    """What is drawn of a turn that begins at pixel `top`, and where it ends."""
    drawn, y, folded = [], top + PAD + LINE - 5, number - 1 if number > FOLD + 1 else 0
    if folded:
        drawn.append(text(PLAN, y, f"1. to {folded}. as above", colour=FROZEN))
        y += LINE
    for index, step in enumerate(turn["plan"][folded:], folded):
        past, now = index < number - 1, index == number - 1
        if index in new:
            drawn.append(
                f'<rect x="{PLAN - 6}" y="{y - LINE + 5}" width="{SIDE - PLAN - 10}" height="{LINE}" fill="{NEW}"/>'
            )
        if now:
            drawn.append(f'<rect x="{PLAN - 10}" y="{y - LINE + 5}" width="4" height="{LINE}" fill="{NOW}"/>')
        for piece in wrap(f"{index + 1}. {step}", 44) or [f"{index + 1}."]:
            drawn.append(text(PLAN, y, piece, colour=FROZEN if past else INK, weight="bold" if now else "normal"))
            y += LINE
    side = top + PAD + LINE - 5
    drawn.append(text(SIDE, side, turn["action"], colour=NOW, weight="bold", family="monospace"))
    seen = wrap(turn["observation"].replace(" [SEP] ", " | ").replace("\n", " | "), 72)
    for piece in [*seen[:3], *(["..."] if len(seen) > 3 else [])]:
        side += LINE
        drawn.append(text(SIDE, side, piece))
    return [text(16, top + PAD + LINE - 5, f"{number}", weight="bold"), *drawn], max(y, side + LINE) + PAD - LINE + 5


def head(episode: dict[str, Any], turns: int) -> tuple[list[str], int]:
    """The instruction, the legend and the names of the columns."""
    drawn, y = [], 26
    told = episode["observation"].replace(" [SEP] ", " | ").replace("\n", " | ")
    for piece in wrap(f"{episode['task']['env']}: {told}", 118)[:5]:
        drawn.append(text(16, y, piece, weight="bold"))
        y += LINE
    drawn += [
        text(16, y + 6, f"{episode['outcome']} in {turns} turns, score {episode['score']:.2f}", colour=FROZEN),
        text(PLAN + 160, y + 6, "grey: frozen (already acted on)", colour=FROZEN),
        f'<rect x="{PLAN + 378}" y="{y - 9}" width="4" height="{LINE}" fill="{NOW}"/>',
        text(PLAN + 388, y + 6, "the step for this turn's action", weight="bold"),
        f'<rect x="{PLAN + 614}" y="{y - 9}" width="206" height="{LINE}" fill="{NEW}"/>',
        text(PLAN + 620, y + 6, "rewritten after the observation"),
    ]
    y += 40
    columns = ((16, "Turn"), (PLAN, "Current plan"), (SIDE, "Action, and what the environment answers"))
    return [*drawn, *(text(x, y, words, weight="bold") for x, words in columns)], y + PAD


def picture(episode: dict[str, Any]) -> str:
    """The SVG of an episode as episodes.jsonl has it."""
    drawn, y = head(episode, len(episode["turns"]))
    for number, (turn, new) in enumerate(zip(episode["turns"], rewritten(episode), strict=True), 1):
        drawn.append(f'<line x1="10" y1="{y}" x2="{WIDTH - 10}" y2="{y}" stroke="#d5dbe6"/>')
        more, y = rows(turn, number, new, y)
        drawn += more
    frame = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14">',
        "<title>A plan that is rewritten over an episode</title>",
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>',
    ]
    return "\n".join([*frame, *drawn, "</svg>", ""])


def main(folder: str, *line: str) -> None:
    lines = (Path(folder) / "episodes.jsonl").read_text().splitlines()
    number = int(line[0]) - 1 if line else choose(lines)
    PICTURE.write_text(picture(json.loads(lines[number])))
    print(f"{PICTURE}: line {number + 1} of {folder}/episodes.jsonl")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
