"""Main effects: what one key does on average over the others, where configurations are a full factorial of several keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

from pilotrl.analysis.contrasts import Contrast, corrected, effect
from pilotrl.report.comparisons import comparable_on, values, verdict
from pilotrl.report.configurations import Configuration, Panel, differing, plain, short_names
from pilotrl.report.runs import Cell


@dataclass(frozen=True)
class Factor:
    """A key that was varied, with everything that it sets (an option stands for several keys)."""

    key: str
    name: str
    """The key as it is written in a label."""
    groups: dict[str, list[Configuration]]
    """The configurations of each of its values, in the order of the report."""


@dataclass(frozen=True)
class Effect:
    """A main effect on one number of an evaluation set: the mean over the values of all other keys of first minus second."""

    cell: Cell
    factor: Factor
    first: str
    second: str
    """Values of the factor."""
    contrast: Contrast

    @property
    def pair(self) -> str:
        return f"{self.factor.name}: {self.first} − {self.second}"

    @property
    def called(self) -> tuple[str, str]:
        """Both sides, as a sentence calls them."""
        return f"{self.factor.name}={self.first}", f"{self.factor.name}={self.second}"

    @property
    def verdict(self) -> str:
        return verdict(self.contrast, self.first, self.second)


def main_effects(panel: Panel, baseline: Configuration | None = None) -> Iterator[Effect]:
    """On everything that all configurations measured: every two values of a key, or each minus the baseline's. Those on one
    number, of all keys, are a family for Holm's correction.

    Nothing where the configurations are no full factorial of two keys or more."""
    design, _ = factorial(panel.configurations)
    asked = [(factor, *pair) for factor in design for pair in _pairs(factor, baseline)]
    for cell in panel.cells if asked else ():
        if comparable_on(cell, panel.configurations):
            sides = [[[values(cell, one) for one in factor.groups[value]] for value in pair] for factor, *pair in asked]
            for (factor, first, second), contrast in zip(
                asked, corrected([effect(*both) for both in sides]), strict=True
            ):
                yield Effect(cell, factor, first, second, contrast)


def factorial(configurations: Sequence[Configuration]) -> tuple[list[Factor], str | None]:
    """The crossed keys; or none, and why not, where several keys were varied but not all of their combinations are there."""
    keys = [configuration.runs[0].keys for configuration in configurations]
    chosen = _chosen(keys)
    if len(chosen) < 2:
        return [], None
    names = short_names(chosen)
    levels = {key: list(dict.fromkeys(_value(of, key) for of in keys)) for key in chosen}
    combinations_there, wanted = len({_point(of, chosen) for of in keys}), prod(map(len, levels.values()))
    if combinations_there < wanted:
        return [], (
            f"no main effects: {combinations_there} of the {wanted} combinations of {_and([*names.values()])} are there, "
            "and a mean over unequal combinations would mix one key's effect with another's"
        )
    if stray := [key for key in differing(keys) if not any(_follows(keys, key, one) for one in chosen)]:
        return [], (
            f"no main effects: {stray[0]} varies with no single one of {_and([*names.values()])}, "
            "so that its effect cannot be told from theirs"
        )
    groups = {
        key: {
            value: [one for one, of in zip(configurations, keys, strict=True) if _value(of, key) == value]
            for value in levels[key]
        }
        for key in chosen
    }
    return [Factor(key, names[key], groups[key]) for key in chosen], None


def _chosen(keys: Sequence[Mapping[str, Any]]) -> list[str]:
    """As few of the differing keys as tell all configurations apart, an option (`stage.name`) before the keys that it sets,
    and none that follows from another of them."""
    chosen: list[str] = []
    for key in sorted(differing(keys), key=lambda key: not key.endswith(".name")):
        if len({_point(of, [*chosen, key]) for of in keys}) > len({_point(of, chosen) for of in keys}):
            chosen = [one for one in chosen if not _follows(keys, one, key)] + [key]
    return chosen


def _follows(keys: Sequence[Mapping[str, Any]], one: str, other: str) -> bool:
    """Whether a key's value is known once another's is."""
    return len({_point(of, [one, other]) for of in keys}) == len({_value(of, other) for of in keys})


def _point(keys: Mapping[str, Any], chosen: Sequence[str]) -> str:
    return json.dumps([_value(keys, key) for key in chosen])


def _value(keys: Mapping[str, Any], key: str) -> str:
    return plain(keys.get(key, "absent"))


def _pairs(factor: Factor, baseline: Configuration | None) -> Iterator[tuple[str, str]]:
    values = list(factor.groups)
    if baseline is None:
        yield from combinations(values, 2)
        return
    against = next(value for value, members in factor.groups.items() if any(one is baseline for one in members))
    yield from ((value, against) for value in values if value != against)


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
