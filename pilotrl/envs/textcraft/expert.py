"""A scripted player. It goes by the commands that are shown, what it has, and common sense about names."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from pilotrl.envs.textcraft.recipes import spoken
from pilotrl.envs.textcraft.world import World

GENERIC = ("planks", "wool")
"""Ingredients of which a kind has to be chosen."""
COMMAND = re.compile(r"craft (\d+) (.*) using (.*)")


class Way(NamedTuple):
    """A command that is shown, read."""

    item: str
    number: int
    needs: tuple[tuple[int, str], ...]


class TextCraftExpert:
    """Gets all that is missing, then crafts what builds on it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def plan(self) -> list[str]:
        """A step for each action from here to the goal."""
        gets, crafts = self._missing()
        made = [f"make {way.number} {way.item}" for way, _ in crafts]
        return [f"collect {count} {name}" for name, count in gets.items()] + made

    def action(self) -> str:
        """The next action. RuntimeError once the goal is in hand."""
        if self.world.solved:
            raise RuntimeError("the episode has ended: there is no next action")
        gets, crafts = self._missing()
        if gets:
            name, count = next(iter(gets.items()))
            return f"get {count} {name}"
        way, using = crafts[0]
        return f"craft {way.number} {way.item} using " + ", ".join(f"{count} {name}" for count, name in using)

    def detour(self) -> str | None:
        """Count what one has whenever it has changed, though the replies told it."""
        return "inventory" if self.world.inventory != self.world.told else None

    def _missing(self) -> tuple[Counter[str], list[tuple[Way, list[tuple[int, str]]]]]:
        """What to get, and the crafts to do with it in order, each with its ingredients."""
        if self.world.solved:
            return Counter(), []
        work = _Work(ways_of(tuple(self.world.commands)), self.world.inventory)
        work.make(spoken(self.world.goal), 1)
        return work.gets, work.crafts


class _Work:
    """A plan in the making: what is at hand, what has to be got, what is crafted."""

    def __init__(self, ways: dict[str, list[Way]], inventory: dict[str, int]) -> None:
        self.ways = ways
        self.stock = Counter({spoken(item): count for item, count in inventory.items()})
        self.gets: Counter[str] = Counter()
        self.crafts: list[tuple[Way, list[tuple[int, str]]]] = []

    def make(self, name: str, count: int) -> None:
        """See to it that so many are at hand."""
        if name not in self.ways:
            self.gets[name] += max(0, count - self.stock[name])
            self.gets = +self.gets
            self.stock[name] = max(count, self.stock[name])
        while self.stock[name] < count:
            way = min(self.ways[name], key=lambda way: (_effort(way, self.ways), way))
            using = []
            for number, need in way.needs:
                kind = self._kind(need, number)
                self.make(kind, number)
                self.stock[kind] -= number  # set aside
                using.append((number, kind))
            self.crafts.append((way, using))
            self.stock[name] += way.number

    def _kind(self, need: str, count: int) -> str:
        """The item to take for an ingredient: itself, or of the kinds it has, the one at hand or the easiest."""
        kinds = kinds_of(need, self.ways)
        return min(kinds, key=lambda kind: (-min(self.stock[kind], count), _cost(kind, self.ways), kind))


def kinds_of(need: str, ways: dict[str, list[Way]]) -> list[str]:
    """What an ingredient can be: for "planks" oak planks do, where a command crafts those."""
    return [item for item in ways if item.endswith(f" {need}")] if need in GENERIC else [need]


def _cost(item: str, ways: dict[str, list[Way]]) -> int:
    """Actions for one item, roughly."""
    return min((_effort(way, ways) for way in ways.get(item, ())), default=1)


def _effort(way: Way, ways: dict[str, list[Way]]) -> int:
    """Actions for a command and what it needs, roughly: what is needed often is crafted often."""
    total = 1
    for count, need in way.needs:
        kinds = kinds_of(need, ways)
        total += min(_cost(kind, ways) * (-(-count // ways[kind][0].number) if kind in ways else 1) for kind in kinds)
    return total


@lru_cache(maxsize=4096)
def ways_of(commands: tuple[str, ...]) -> dict[str, list[Way]]:
    """The commands that are shown, by what they make."""
    ways: dict[str, list[Way]] = {}
    for command in commands:
        match = COMMAND.fullmatch(command)
        assert match is not None
        needs = tuple((int(n), name) for n, name in (need.split(" ", 1) for need in match[3].split(", ")))
        ways.setdefault(match[2], []).append(Way(match[2], int(match[1]), needs))
    return ways
