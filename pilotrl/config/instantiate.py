"""Makes the object that a node of the configuration stands for: `_target_` is a class, the other keys are its keywords."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def make(settings: Mapping[str, Any], **more: Any) -> Any:
    """An object of the class, with the settings and `more` as keywords. Whatever the class raises is raised."""
    module, _, name = str(settings["_target_"]).rpartition(".")
    keywords = {key: value for key, value in settings.items() if key != "_target_"}
    return getattr(import_module(module), name)(**keywords, **more)
