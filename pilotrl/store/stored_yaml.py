"""Reads YAML that somebody else may have written: the files in `.hydra/` of a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

SIZE, DEPTH = 2**18, 64
"""Bytes and levels of such a file, at most."""
OWN_KEY = re.compile(r"\$\{[\w.]+\}")
"""An interpolation that takes a value from the same configuration; all others run a resolver, such as `${oc.env:HOME}`."""


def load(path: Path, resolvers: bool = False) -> Any:
    """The file as OmegaConf. resolvers: what would run one when it is read may stand in it.

    Raises OSError, YAMLError, and ValueError for a file that is too large or nested too deep, that repeats a node by reference
    (thousandfold, where somebody means harm), or that names a resolver."""
    with open(path, "rb") as file:
        text = file.read(SIZE + 1)
    if len(text) > SIZE:
        raise ValueError(f"it has more than {SIZE} bytes")
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it repeats a node by reference, *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
    held = OmegaConf.create(text.decode())
    if not resolvers:
        for key, value in interpolated(OmegaConf.to_container(held)):
            raise ValueError(f"{key} is {value}, and what a folder says may only refer to its own keys")
    return held


def interpolated(held: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values, as they are written, of what would run a resolver; at any depth, lists too."""
    for here, value in leaves(held, key):
        if "${" in OWN_KEY.sub("", value if isinstance(value, str) else ""):
            yield here, str(value)


def leaves(held: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of plain settings, at any depth, lists too: `members.0.url`."""
    inside = list(held.items()) if isinstance(held, dict) else list(enumerate(held)) if isinstance(held, list) else None
    if inside is None:
        yield key, held
    for name, value in inside or ():
        yield from leaves(value, f"{key}.{name}" if key else str(name))
