"""Makes the object that a node of the configuration stands for: `_target_` is a class, the other keys are its keywords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotrl.config import trust


def make(settings: Mapping[str, Any], **more: Any) -> Any:
    """An object of the class, with the settings and `more` as keywords.

    Raises UserError for a class that is not trusted, and whatever the class raises."""
    keywords = {key: value for key, value in settings.items() if key != "_target_"}
    return trust.find("_target_", str(settings["_target_"]))(**keywords, **more)
