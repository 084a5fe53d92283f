"""The scripted expert of TextCraft: uses the shown commands, the inventory, and common sense about names."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from pilotrl.envs.textcraft.recipes import spoken
from pilotrl.envs.textcraft.world import World

GENERIC = ("planks", "wool")
"""Ingredients for which any kind can be chosen."""
COMMAND = re.compile(r"craft (\d+) (.*) using (.*)")


class Way(NamedTuple):
    """A shown command, parsed."""

    item: str
    number: int
    needs: tuple[tuple[int, str], ...]


class TextCraftExpert:
    """The expert: gets all missing raw ingredients, then crafts up to the goal."""

    def __init__(self, world: World) -> None:
        self.world = world

    def plan(self) -> list[str]:
        """A step for each action from here to the goal."""
        gets, crafts = self._missing()
        made = [f"make {way.number} {way.item}" for way, _ in crafts]
        return [f"collect {count} {name}" for name, count in gets.items()] + made

    def loose(self) -> list[str]:
        """The same steps without names and numbers of items."""
        gets, crafts = self._missing()
        return ["prepare what the goal still needs"] * (len(gets) + len(crafts) - 1) + ["make the goal"] * bool(crafts)

    def equal(self, action: str) -> str:
        """Any ingredient to collect, and any that can be made now."""
        gets, crafts = self._missing()
        stock = Counter({spoken(item): count for item, count in self.world.inventory.items()})
        able = [(way, using) for way, using in crafts[:-1] if all(stock[name] >= count for count, name in using)]
        steps = {_get(name, count): f"collect {count} {name}" for name, count in gets.items()}
        steps |= {_craft(way, using): f"make {way.number} {way.item}" for way, using in able}
        return steps.get(action, "")

    def subgoals(self) -> list[str]:
        """Collect all that is needed; then make each ingredient of the goal, with all that it takes, and the goal."""
        gets, crafts = self._missing()
        made, part = list[str](), ""
        for way, _ in reversed(crafts):
            if not part or way.item in {name for _, name in crafts[-1][1]}:
                part = way.item
            made.insert(0, f"make {part}")
        return [f"collect what the {spoken(self.world.goal)} needs"] * len(gets) + made

    def action(self) -> str:
        """The next action. Raises RuntimeError once the goal is crafted."""
        if self.world.solved:
            raise RuntimeError("the episode has ended: there is no next action")
        gets, crafts = self._missing()
        if gets:
            return _get(*next(iter(gets.items())))
        return _craft(*crafts[0])

    def thought(self) -> str:
        """The latest item, and the first two that the goal still lacks: `have 4 oak log; goal lacks oak planks`."""
        stock = {spoken(item): count for item, count in self.world.inventory.items()}
        have = next((f"{count} {name}" for name, count in reversed(stock.items())), "nothing")
        _, crafts = self._missing()
        using = crafts[-1][1] if crafts else []
        lacks = [name for count, name in using if stock.get(name, 0) < count]
        return f"have {have}; goal lacks {', '.join(lacks[:2]) or 'nothing'}"

    def detour(self) -> str | None:
        """`inventory` whenever that has changed, although the replies have shown it."""
        return "inventory" if self.world.inventory != self.world.told else None

    def _missing(self) -> tuple[Counter[str], list[tuple[Way, list[tuple[int, str]]]]]:
        """Raw ingredients to get, and crafts in order, each with its ingredients."""
        if self.world.solved:
            return Counter(), []
        work = _Work(ways_of(tuple(self.world.commands)), self.world.inventory)
        work.make(spoken(self.world.goal), 1)
        return work.gets, work.crafts


def _get(name: str, count: int) -> str:
    return f"get {count} {name}"


def _craft(way: Way, using: list[tuple[int, str]]) -> str:
    return f"craft {way.number} {way.item} using " + ", ".join(f"{count} {name}" for count, name in using)


class _Work:
    """Builds a plan: the stock, the ingredients to get, and the crafts."""

    def __init__(self, ways: dict[str, list[Way]], inventory: dict[str, int]) -> None:
        self.ways = ways
        self.stock = Counter({spoken(item): count for item, count in inventory.items()})
        self.gets: Counter[str] = Counter()
        self.crafts: list[tuple[Way, list[tuple[int, str]]]] = []

    def make(self, name: str, count: int) -> None:
        """Add to the plan what is needed to have `count` of an item."""
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
        """The item to use for an ingredient: itself, or of its kinds one in stock, else the one with the fewest actions."""
        kinds = kinds_of(need, self.ways)
        return min(kinds, key=lambda kind: (-min(self.stock[kind], count), _cost(kind, self.ways), kind))


def kinds_of(need: str, ways: dict[str, list[Way]]) -> list[str]:
    """Items that an ingredient can be: "planks" can be oak planks, if a command crafts those."""
    return [item for item in ways if item.endswith(f" {need}")] if need in GENERIC else [need]


def _cost(item: str, ways: dict[str, list[Way]]) -> int:
    """Approximate number of actions for one item."""
    return min((_effort(way, ways) for way in ways.get(item, ())), default=1)


def _effort(way: Way, ways: dict[str, list[Way]]) -> int:
    """Approximate number of actions for a command and its ingredients, counted each time they are needed."""
    total = 1
    for count, need in way.needs:
        kinds = kinds_of(need, ways)
        total += min(_cost(kind, ways) * (-(-count // ways[kind][0].number) if kind in ways else 1) for kind in kinds)
    return total


@lru_cache(maxsize=4096)
def ways_of(commands: tuple[str, ...]) -> dict[str, list[Way]]:
    """The shown commands, by the item that they make."""
    ways: dict[str, list[Way]] = {}
    for command in commands:
        match = COMMAND.fullmatch(command)
        assert match is not None
        needs = tuple((int(n), name) for n, name in (need.split(" ", 1) for need in match[3].split(", ")))
        ways.setdefault(match[2], []).append(Way(match[2], int(match[1]), needs))
    return ways
