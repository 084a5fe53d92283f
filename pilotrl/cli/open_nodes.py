"""Checks nodes of the configuration that name a class under `_target_`: it is trusted (`config/trust.py`), can be imported,
has the methods, takes the keywords. All of that before anything is built, and the first before anything is imported.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass, make_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pilotrl.cli.renamed import CLASSES
from pilotrl.cli.suggestions import nearest, show
from pilotrl.config import trust
from pilotrl.config.instantiate import NAME
from pilotrl.types import UserError

OPEN = ("env", "teacher", "judge", "algorithm", "engine")
"""Nodes that always are such; `model.endpoint`, `model.prompts` and those under `reward.terms` may be."""
METHODS = {
    "env": ("reset", "step"),
    "teacher": ("plan",),
    "judge": ("grade", "grade_plans"),
    "algorithm": ("advantages", "loss"),
    "engine": ("submit", "step", "release", "take", "rest", "close"),
    "model.prompts": ("texts",),
    "model.endpoint": ("decoded", "endpoints"),
    "reward.terms": ("__call__",),
}
"""What the class of a node has to have; below the members of a judge, of each of them."""
CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "reward.terms": {"__call__": ("episode",)},
    "env": {"reset": ("seed=", "options="), "step": ("action",)},
}
"""How some are called, where another way would show only in the middle of a run."""
CALLED = {
    "model.endpoint": "endpoint of a model",
    "reward.terms": "reward term",
    "model.prompts": "set of prompts",
    "env": "environment",
}
GIVEN = {"judge": ("resolve",), "engine": ("model", "end")}
"""Keywords that whoever builds the object adds."""
GIVEN_TO_COPIES = ("folder", "rank")
"""And to an engine with a copy of the weights."""
UNLIMITED = ("clip_high", "dual_clip")
"""Keywords for which infinity means no limit."""
NAMED = ("algorithm", "engine")
"""Nodes with a key `name`, what summaries call them, which the class does not get."""


def check_target(node: str, settings: DictConfig) -> None:
    """The keys of an open node are keywords of its class, and their values have the types that it declares.

    Raises UserError for a class that cannot be imported or lacks a method, for a key that it does not know, for a value of
    another type, and for a keyword without a value.
    """
    if not OmegaConf.is_dict(settings) or "_target_" not in settings:
        raise UserError(f"{node}={show(settings)}: must be a class and its keywords, as in _target_: my_module.MyClass")
    target = str(settings.get("_target_"))
    cls: Any = locate(f"{node}._target_", target)
    if parts := {part: located(node, part, settings) for part in getattr(cls, "PARTS", ())}:
        try:
            cls = cls.of(**parts)
        except UserError as error:
            raise UserError(f"{node}.{error}") from error
    kind = node.partition(".members.")[0] if node in METHODS or ".members." in node else node.rpartition(".")[0]
    for method in METHODS.get(kind, ()):
        if not any(method in vars(base) and not getattr(base, "_is_protocol", False) for base in cls.__mro__):
            what = CALLED.get(kind, kind)
            raise UserError(f"{node}._target_={target}: has no method {method}, which every {what} needs")
    check_calls(node, target, cls, CALLS.get(kind, {}))
    hints = keywords(cls)
    schema = OmegaConf.structured(make_dataclass(cls.__name__, hints.items()))
    own = [
        key for key in map(str, settings) if key not in ("_target_", NAME, *parts, *(["name"] if node in NAMED else []))
    ]
    for key in own:
        check_value(node, key, settings[key], target, hints, schema)
    added = (*GIVEN.get(node.split(".")[0], ()), *(GIVEN_TO_COPIES if getattr(cls, "copies", False) else ()))
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())
    for key in added:
        if key not in hints and not open_ended:
            raise UserError(
                f"{node}._target_={target}: takes no keyword {key}, which every {node.split('.')[0]} is given"
            )
    given = (*own, *added)
    for key, parameter in inspect.signature(cls).parameters.items() if hints else ():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and parameter.default is parameter.empty and key not in given:
            raise UserError(f"{node}.{key}: has no value, and {target} needs one; set it in the file of {node}")


def check_calls(node: str, target: str, cls: type, calls: Mapping[str, tuple[str, ...]]) -> None:
    """Its methods take what they are given, `=` behind those that are given by name."""
    for method, given in calls.items():
        with contextlib.suppress(ValueError):  # of what is written in C nothing is known
            signature = inspect.signature(getattr(cls, method))
            try:
                place = [word for word in given if not word.endswith("=")]
                signature.bind(None, *place, **{word[:-1]: None for word in given if word.endswith("=")})
            except TypeError as error:
                takes = f"takes {signature}, and is called with {', '.join(given)}"
                raise UserError(f"{node}._target_={target}: {method} {takes}; change its arguments") from error


def check_value(node: str, key: str, value: Any, target: str, hints: Mapping[str, Any], schema: Any) -> None:
    """One key of an open node."""
    if key not in hints:
        raise UserError(
            f"{node}.{key}={show(value)}: {target} has no such key"
            + (f"; the nearest is {node}.{nearest(key, hints)}" if hints else ", and knows none")
        )
    for name in value if OmegaConf.is_dict(value) else ():
        if OmegaConf.is_dict(value[name]) and "_target_" in value[name]:
            check_target(f"{node}.{key}.{name}", value[name])
    if value is None and type(None) not in (typing.get_args(hints[key]) or (hints[key],)) and hints[key] is not Any:
        raise UserError(f"{node}.{key}=null: {target} needs a value; set one")
    if isinstance(value, float) and not math.isfinite(value) and key not in UNLIMITED:
        raise UserError(f"{node}.{key}={value}: must be a finite number")
    try:
        schema[key] = value
    except OmegaConfBaseException as error:
        raise UserError(f"{node}.{key}={show(value)}: {str(error).splitlines()[0]}") from error


def located(node: str, part: str, settings: DictConfig) -> type:
    """The class that a key names, of which and others the object is made."""
    name = str(settings.get(part))
    if "." not in name:
        raise UserError(f"{node}.{part}={name}: is no class; choose one of ours by its file, {node}/{part}={name}")
    return locate(f"{node}.{part}", name)


def locate(key: str, target: str) -> type:
    """The class of a dotted path. Raises UserError, which names `key`, where there is none."""
    module = target.rpartition(".")[0]
    old = next((old for old in CLASSES if target.startswith(old)), None)
    if old is not None:
        raise UserError(f"{key}={target}: is called {CLASSES[old] + target.removeprefix(old)} now")
    if not module:
        raise UserError(f"{key}={target}: is no path of a class; give MODULE.CLASS, and -cd the folder it lies in")
    try:
        return trust.find(key, target)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        needs = error.name if isinstance(error, ModuleNotFoundError) else None
        theirs = needs is not None and not module.startswith(needs)
        remedy = f"install {needs}" if theirs else "give MODULE.CLASS, and -cd the folder it lies in"
        raise UserError(f"{key}={target}: cannot be imported ({error}); {remedy}") from error


def keywords(cls: type) -> dict[str, Any]:
    """Keywords of a constructor and their types; Any for what a configuration cannot express, which its caller adds."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError):  # annotations of others may name what only a type checker imports
        # Of a dataclass each field is read where it was written, which may be another module.
        hints = typing.get_type_hints(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    return {name: expressible(hints.get(name, Any)) for name in inspect.signature(cls).parameters}


def expressible(hint: Any) -> Any:
    plain = (bool, int, float, str, type(None))
    return hint if all(part in plain for part in (typing.get_args(hint) or (hint,))) else Any
