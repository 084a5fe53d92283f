"""Makes the object that a node of the configuration stands for: `_target_` is a class, the other keys are its keywords.

`_name_` is no keyword, but the name of the node's file. A class with `PARTS` is made of the classes that these keys name, by
its `of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotrl.config import trust

NAME = "_name_"


def make(settings: Mapping[str, Any], **more: Any) -> Any:
    """An object of the class, with the settings and `more` as keywords.

    Raises UserError for a class that is not trusted, and whatever the class raises."""
    cls: Any = trust.find("_target_", str(settings["_target_"]))
    parts = {key: trust.find(key, str(settings.get(key))) for key in getattr(cls, "PARTS", ())}
    keywords = {key: value for key, value in settings.items() if key not in ("_target_", NAME, *parts)}
    return (cls.of(**parts) if parts else cls)(**keywords, **more)
