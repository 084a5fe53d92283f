"""Draw docs/architecture.svg from the imports of the package.

python docs/make_architecture.py            write the picture
python docs/make_architecture.py --check    exit 1 where the committed picture is not what the imports say

A box is a room: a file or folder at the top of `pilotrl/`; the commands share one. It stands one floor above the highest room
that it imports, anywhere in its files, inside functions too. An arrow is left out where a longer way leads to the same room.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import chain, pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "pilotrl", ROOT / "docs" / "architecture.svg"
COMMANDS = "commands"
"""The one box of everything that is started with `python -m`."""

WIDTH, MARGIN, GAP, LANE = 900, 10, 12, 24
BOX, FLOOR = 46, 92
"""Height of a box; distance between two floors. All in pixels."""

PURPOSE = {
    COMMANDS: "what a user types",
    "runs": "one run, one chain of stages",
    "cli": "checked configuration",
    "training": "batch, algorithms, optimizer",
    "rollout": "plan, act, observe",
    "engine": "who generates tokens",
    "models": "policy, attention",
    "rewards": "reward terms, judges",
    "teacher": "who writes plans for others",
    "tracking": "MLflow",
    "envs": "environments",
    "endpoint": "OpenAI-compatible HTTP",
    "analysis": "statistics, intervals",
    "prompts": "words, chat format",
    "store": "run folder, redaction",
    "config": "types of the configuration",
    "types": "records",
}
"""What stands below the name; the rooms' own `__init__.py` say more."""

Graph = Mapping[str, set[str]]
"""Room to the rooms that it imports."""


def commands() -> set[str]:
    """Names of the entries that are commands: a module guarded by `if __name__ == "__main__"`, or a folder with `__main__.py`."""
    modules = {path.stem for path in PACKAGE.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__main__.py")} | {"__main__"}


def imported(path: Path) -> Iterator[str]:
    """Rooms that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.split(".")[0]
            if package == "pilotrl" and room and (PACKAGE / room).is_dir() | (PACKAGE / f"{room}.py").is_file():
                yield room


def graph() -> dict[str, set[str]]:
    """Who imports whom, commands as one; without `pilotrl/__init__.py`, which imports nothing."""
    together = commands()
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        mine = COMMANDS if own in together else own
        others = {COMMANDS if room in together else room for room in imported(path)}
        found.setdefault(mine, set()).update(others - {mine})
    return found


def below(rooms: Graph, room: str) -> set[str]:
    """Everything that a room reaches."""
    return set(chain(rooms[room], *(below(rooms, other) for other in rooms[room])))


def floors(rooms: Graph) -> list[list[str]]:
    """Rooms from the ground up. A cycle of imports ends in RecursionError."""

    def height(room: str) -> int:
        return 1 + max((height(other) for other in rooms[room]), default=-1)

    levels: dict[int, list[str]] = {}
    for room in sorted(rooms):
        levels.setdefault(height(room), []).append(room)
    return [levels[level] for level in sorted(levels)]


def arrows(rooms: Graph) -> list[tuple[str, str]]:
    """The imports that no longer way implies."""
    return [
        (room, other)
        for room in sorted(rooms)
        for other in sorted(rooms[room])
        if not any(other in below(rooms, between) for between in rooms[room] - {other})
    ]


def routes(rooms: Graph) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """Floors from the top down, and the way of every arrow: on floors that it only crosses a place "one>other" is kept free."""
    rows = [list(floor) for floor in reversed(floors(rooms))]
    row = {room: number for number, floor in enumerate(rows) for room in floor}
    ways: dict[tuple[str, str], list[str]] = {}
    for one, other in arrows(rooms):
        between = [f"{one}>{other}>{number}" for number in range(row[one] + 1, row[other])]
        for number, name in enumerate(between, row[one] + 1):
            rows[number].append(name)
        ways[one, other] = [one, *between, other]
    return rows, ways


def places(rows: list[list[str]], ways: Iterable[list[str]]) -> dict[str, tuple[float, float, float]]:
    """Left, top and width of every box and every place that is kept free, in an order with few crossings."""
    links = [pair for way in ways for pair in pairwise(way)]
    order = {name: spot / len(row) for row in rows for spot, name in enumerate(row)}
    for turn in range(40):  # down and up again: each where the mean of its neighbours is
        for row in rows if turn % 2 == 0 else rows[::-1]:
            mean = {}
            for name in row:
                near = [order[a if b == name else b] for a, b in links if name in (a, b)]
                mean[name] = sum(near) / len(near) if near else 0.5
            row.sort(key=lambda name: (mean[name], name))
            order |= {name: (spot + 0.5) / len(row) for spot, name in enumerate(row)}
    found: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        boxes = [name for name in row if ">" not in name]
        free = WIDTH - 2 * MARGIN - LANE * (len(row) - len(boxes))
        width = min(190.0, free / len(boxes) - GAP)
        space = (free - width * len(boxes)) / len(row)
        left = MARGIN + space / 2
        for name in row:
            wide = LANE if ">" in name else width
            found[name] = (left, 20.0 + number * FLOOR, wide)
            left += wide + space
    return found


def curve(spots: list[tuple[float, float, float]]) -> str:
    """A line from the bottom of the first box, straight through the free places, to the top of the last one."""
    x, y, width = spots[0]
    words, x, y = [f"M{x + width / 2:.0f} {y + BOX:.0f}"], x + width / 2, y + BOX
    for number, (left, top, wide) in enumerate(spots[1:], 2):
        spot, middle = left + wide / 2, (y + top) / 2
        last = number == len(spots)
        words.append(f"C{x:.0f} {middle:.0f} {spot:.0f} {middle:.0f} {spot:.0f} {top - last:.0f}")
        if not last:
            words.append(f"V{top + BOX:.0f}")
        x, y = spot, top + BOX
    return "".join(words)


def box(room: str, spot: tuple[float, float, float]) -> list[str]:
    """A room's box with its name and, where there is one, its purpose in a few words."""
    x, y, width = spot
    name = room if room == COMMANDS or (PACKAGE / f"{room}.py").is_file() else f"{room}/"
    middle = f'x="{x + width / 2:.0f}" text-anchor="middle"'
    return [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="6" fill="#eef2fb" stroke="#3f51b5"/>',
        f'<text {middle} y="{y + 20:.0f}" font-size="15" font-weight="bold" fill="#1a237e">{escape(name)}</text>',
        f'<text {middle} y="{y + 37:.0f}" font-size="12" fill="#4a5468">{escape(PURPOSE.get(room, ""))}</text>',
    ]


def picture() -> str:
    """The SVG, the same on every machine."""
    rows, ways = routes(graph())
    spots, height = places(rows, ways.values()), 20 + FLOOR * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>The rooms of pilotrl/ and their imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#8a94a6"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for _, way in sorted(ways.items()):
        path = curve([spots[name] for name in way])
        lines.append(f'<path d="{path}" fill="none" stroke="#8a94a6" stroke-width="1.2" marker-end="url(#tip)"/>')
    for room, spot in sorted(spots.items()):
        lines += [] if ">" in room else box(room, spot)
    return "\n".join([*lines, "</svg>", ""])


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if PICTURE.read_text() == picture():
            return 0
        print(
            "docs/architecture.svg is not what the imports say: run python docs/make_architecture.py", file=sys.stderr
        )
        return 1
    PICTURE.write_text(picture())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
