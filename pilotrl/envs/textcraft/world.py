"""The TextCraft simulator: inventory, actions and replies of one episode, word for word as in the original."""

from __future__ import annotations

import re

from pilotrl.envs.textcraft.recipes import Book, Recipe, book, spoken

CRAFT = re.compile(r"craft (.*) using (.*)")
GET = re.compile(r"get ([0-9]{1,9}) (.*)")
COUNTED = re.compile(r"([0-9]{1,9}) (.*)")


class Refused(Exception):
    """An action that cannot be done; its message is the reply."""


class World:
    """The simulator of one episode: shown commands, goal and inventory. Crafts follow the recipe book."""

    def __init__(self, commands: list[str], goal: str) -> None:
        """`goal` is an item's name with spaces."""
        self.commands, self.goal = commands, goal.replace(" ", "_")
        self.inventory: dict[str, int] = {}
        self.told: dict[str, int] = {}
        """The inventory at the last `inventory` action."""
        self.solved = False

    def opening(self) -> str:
        return "Crafting commands:\n{}\n\nGoal: craft {}.".format("\n".join(self.commands), spoken(self.goal))

    def do(self, action: str) -> tuple[str, bool]:
        """The reply, and whether the action was possible."""
        try:
            if match := CRAFT.match(action):
                return self._craft(*match.groups()), True
            if match := GET.match(action):
                return self._get(int(match[1]), match[2]), True
            if action.startswith("inventory"):
                self.told = dict(self.inventory)
                return self._listed(), True
            raise Refused(f"Could not execute {action}")
        except Refused as refusal:
            return str(refusal), False

    def _listed(self) -> str:
        things = "".join(f"[{spoken(item)}] ({count}) " for item, count in self.inventory.items())
        return f"Inventory: {things or 'You are not carrying anything.'}"

    def _get(self, count: int, name: str) -> str:
        item = name.replace(" ", "_")
        if book().craftable(item) or item in book().tags or item not in book().items:
            raise Refused(f"Could not find {name}")
        self.inventory[item] = self.inventory.get(item, 0) + count
        return f"Got {count} {name}"

    def _craft(self, target: str, using: str) -> str:
        counted = COUNTED.match(target)
        item = (counted[2] if counted else target).replace(" ", "_")
        given = [_ingredient(text.strip()) for text in using.split(",")]
        made = "None" if item in book().tags else f"minecraft:{item}"
        if any(name in book().tags or self.inventory.get(name, -1) < count for name, count in given):
            raise Refused(f"Could not find enough items to craft {made}")
        recipe = matching(book(), item, given)
        if recipe is None:
            raise Refused(f"Could not find a valid recipe for {made}")
        for name, count in given:
            self.inventory[name] -= count
            if not self.inventory[name]:
                del self.inventory[name]
        self.inventory[item] = self.inventory.get(item, 0) + recipe.number
        self.solved |= item == self.goal
        return f"Crafted {recipe.number} minecraft:{item}"


def matching(book: Book, item: str, given: list[tuple[str, int]]) -> Recipe | None:
    """The first recipe for an item with exactly these ingredients."""
    if item in book.tags:
        return None
    return next((recipe for recipe in book.recipes.get(item, ()) if _meets(book, recipe, given)), None)


def _meets(book: Book, recipe: Recipe, given: list[tuple[str, int]]) -> bool:
    left = list(given)
    for need in recipe.needs:
        fits = [pair for pair in left if (book.group_of.get(pair[0]) if need.tag else pair[0]) == need.name]
        if not fits or fits[0][1] != need.number:
            return False
        left.remove(fits[0])
    return not left


def _ingredient(text: str) -> tuple[str, int]:
    counted = COUNTED.match(text)
    if counted is None:
        raise Refused(f"Wrong item format: {text}")
    return counted[2].replace(" ", "_"), int(counted[1])
