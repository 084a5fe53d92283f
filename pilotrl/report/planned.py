"""Which comparisons a reader asks for: `baseline=` and `contrast=`, and the configurations that their words pick."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pilotrl.report.comparisons import Sides
from pilotrl.report.configurations import Configuration, Panel, plain
from pilotrl.types import UserError

KNOWN = 12
"""Configurations that a message about an unknown one lists."""


def contrasts(panels: Sequence[Panel], asked: Sequence[str]) -> tuple[list[list[Sides]], list[str]]:
    """The planned comparisons of each evaluation set; and a note on each set that lacks the configurations of one of them.

    asked: two groups with a colon between, such as `A,D,E:B,C`; members are marks, or words `key=value`, each of which picks all
    configurations that have that value. Raises UserError for anything else, where a configuration is on both sides, and where
    no evaluation set has the configurations.
    """
    found: list[list[Sides]] = [[] for _ in panels]
    notes = []
    for one in asked:
        first, there, second = one.partition(":")
        if not (there and first.strip() and second.strip()) or ":" in second:
            raise UserError(f"contrast={one}: is not two groups with a colon between, such as contrast=A,D,E:B,C")
        for panel, its in zip(panels, found, strict=True):
            sides = _group(panel, first), _group(panel, second)
            if any(a is b for a in sides[0] for b in sides[1]):
                raise UserError(f"contrast={one}: a configuration is in both groups; name each once")
            if all(sides):
                its.append(sides)
            else:
                notes.append(f"evaluation set {panel.name}: it has no configurations for contrast={one}")
        if not any(_group(panel, first) and _group(panel, second) for panel in panels):
            raise UserError(f"contrast={one}: there are no such configurations; there are {_known(panels)}")
    return found, notes


def _group(panel: Panel, words: str) -> list[Configuration]:
    """The configurations that any of the words picks; none where one of them picks nothing."""
    picked = [
        [one for one in panel.configurations if word == one.mark or _is(one.runs[0].keys, word)]
        for word in _words(words)
    ]
    return [one for one in panel.configurations if any(one in found for found in picked)] if all(picked) else []


def baselines(panels: Sequence[Panel], label: str) -> tuple[list[Configuration | None], list[str]]:
    """The configuration of each evaluation set that `label` picks, or None where it has no such; and a note on each of those.

    label: a mark (`A`), or words `key=value` with commas between them, as in a configuration's label. Keys may be written
    as there, or whole. Raises UserError where nothing is picked anywhere, or several of one evaluation set.
    """
    words = _words(label.partition(": ")[2] or label)
    picked = [_picked(panel, label, words) for panel in panels]
    if not any(picked):
        raise UserError(f"baseline={label}: there is no such configuration; there are {_known(panels)}")
    notes = [
        f"evaluation set {panel.name}: no configuration is {label}, so every two are compared"
        for panel, found in zip(panels, picked, strict=True)
        if not found
    ]
    return [found[0] if found else None for found in picked], notes


def _known(panels: Sequence[Panel]) -> str:
    known = [one.name for panel in panels for one in panel.configurations]
    listed = "; ".join(known[:KNOWN]) + (f"; and {len(known) - KNOWN} more" if len(known) > KNOWN else "")
    return listed or "none at all"


def _picked(panel: Panel, label: str, words: Sequence[str]) -> list[Configuration]:
    found = [one for one in panel.configurations if label in (one.mark, one.name, one.label)]
    found = found or [
        one for one in panel.configurations if words and all(_is(one.runs[0].keys, word) for word in words)
    ]
    if len(found) > 1:
        listed = "; ".join(one.name for one in found)
        raise UserError(
            f"baseline={label}: picks {len(found)} configurations ({listed}); name one by its letter, or by more keys"
        )
    return found


def _words(label: str) -> list[str]:
    """`a=1, b=[2,3]` -> `a=1` and `b=[2,3]`."""
    return [word.strip() for word in re.split(r",(?![^\[]*\])", label)]


def _is(keys: Mapping[str, Any], word: str) -> bool:
    """Whether a key that is called so, whole or by its end, has the value."""
    key, there, value = word.partition("=")
    if not there:
        return False
    whole = [name for name in (key, f"{key}.name") if name in keys]
    named = whole or [name for name in keys if f".{name.removesuffix('.name')}".endswith(f".{key}")]
    return any(plain(keys[name]) == value for name in named) if named else value == "absent"
